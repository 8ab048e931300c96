"""PSGD-Kron."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.hyperparameters import Domain, Fraction, NonNegative, Positive, UnitInterval, Whole
from schuss.math import one_minus_power, random_words
from schuss.matrix import Matrix, MatrixOptimizer, look
from schuss.optimizers.adamw import AdamW

_MODES = (None, "smart_one_diag", "one_diag", "all_diag")
_SIZE = Domain(0.0, whole=True)
#: Of the root mean square of a step before `lr`, and what is added to it: those of the authors' kron_torch.
_LARGEST_RMS, _RMS_FLOOR = 1.1, 1e-12
#: The probe's share in what the factors are fitted to: 3e-4 in every dtype, as in kron_torch.
_DAMPING = math.sqrt(np.finfo(np.float32).eps)


class PSGDKron(MatrixOptimizer, rule="psgd_kron"):
    r"""PSGD-Kron: preconditioned SGD with one factor per dimension, each fitted by steps on its Lie group.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        u &= (Q_1^\top Q_1) \, \hat m \, (Q_2^\top Q_2), \qquad
        u \leftarrow u \min\bigl(1, \tfrac{1.1}{\mathrm{RMS}(u) + 10^{-12}}\bigr) \\
        p &\leftarrow (1 - \eta \lambda) p - \eta u \qquad (\lambda = 0 \text{ for vectors and numbers})

    Before that, at the steps that `min_probability` and its neighbours choose, with V of normal numbers, the factors move
    towards those under which V and the gradient, each transformed, have equal covariances:

    .. math::

        G &= \hat m + \sqrt{2^{-23}} \, \mathrm{mean}|\hat m| \, V, \qquad
        A = Q_1 G Q_2^\top, \qquad B = Q_1^{-\top} V Q_2^{-1} \\
        Q_1 &\leftarrow Q_1 - \mu \, \frac{\mathrm{triu}(A A^\top - B B^\top)}{\lVert A A^\top + B B^\top \rVert} Q_1,
        \qquad
        Q_2 \leftarrow Q_2 - \mu \, \frac{\mathrm{triu}(A^\top A - B^\top B)}{\lVert A^\top A + B^\top B \rVert} Q_2

    with a lower bound of the spectral norm, which takes two products with a vector. A factor is upper triangular, or a
    diagonal, of which only the diagonals of all these count, and the largest magnitude as the norm. In the same way for one
    dimension, or for more than two. By chance, `balance_probability`, all factors of a tensor are first scaled to one
    largest magnitude, the geometric mean of what they have.

    What is in `exclude`, complex or empty is stepped by `AdamW`, with `adamw_lr_ratio`, `beta1`, `adamw_beta2`, `adamw_eps` and
    `weight_decay`.

    Li (2018), *Preconditioned Stochastic Gradient Descent*, https://arxiv.org/abs/1512.04202; Pooladzandi & Li (2024),
    *Curvature-Informed SGD via General Purpose Lie-Group Preconditioners*, https://arxiv.org/abs/2402.04553; in the form
    of https://github.com/evanatyourservice/kron_torch

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf). About a third of AdamW's.
    beta1 : float or schedule
        Decay of the mean, in [0, 1).
    weight_decay : float or schedule
        λ, the decay per unit of step size of arrays with two and more dimensions, in [0, inf).
    precond_lr : float or schedule
        μ, the step size of the factors, in [0, inf).
    precond_init_scale : float or schedule
        What the product of the factors starts as, times the identity, in (0, inf).
    max_probability, min_probability : float or schedule
        The share of steps at which factors are fitted, at the start and at last, in [0, 1]. With P the share at the tensor's
        step, counted by `since`, it is the first step that is not less than 1 / P steps after the last: no matter of chance.
    probability_decay : float or schedule
        How fast the share falls, in [0, inf): it is ``max_probability * exp(-probability_decay * (t - 1 - flat_steps))``,
        within the two above. 0 leaves it at `max_probability`, which may be a schedule.
    flat_steps : float or schedule
        The number of steps before it falls, in {0, 1, 2, ...}.
    balance_probability : float or schedule
        The chance of a step, if it fits factors, to balance them first, in [0, 1].
    seed : int
        Chooses V and the steps of the balance, in {0, 1, 2, ...}. Both are functions of it, the step and the tensor's name:
        a run that is resumed goes on bit for bit.
    adamw_lr_ratio : float or schedule
        Step size of AdamW, as a multiple of `lr`, in [0, inf).
    adamw_beta2 : float or schedule
        Decay of its square, in [0, 1).
    adamw_eps : float or schedule
        Added outside its root, in [0, inf).
    max_size_triangular : int
        The largest dimension that has a triangular factor and not a diagonal, in {0, 1, 2, ...}.
    min_ndim_triangular : int
        The least number of dimensions of arrays with triangular factors, in {0, 1, 2, ...}.
    memory_save_mode : {None, "smart_one_diag", "one_diag", "all_diag"}
        Which factors are diagonals besides: that of the largest dimension (the last of equal ones) if it is larger than the
        others, or in any case, or all.
    merge_dims : bool
        Take arrays of more than two dimensions for matrices whose columns are the last dimension; else they have a factor
        for every dimension.
    exclude : sequence of str
        Patterns of names (as for files, ``*`` and ``?``) of arrays that AdamW steps.

    Notes
    -----
    State: `m`, one value per element, and `q`, the factors one after the other in one array (see `factors`): n² values of a
    triangular one, n of a diagonal. ``4 + 4 (r² + c²) / (r c)`` bytes per float32 parameter of a matrix of r rows and c
    columns: 12 for a square one. `since`, a number per tensor, counts steps. What AdamW steps has `m` and `v`. `q` and
    `since` are in the dtype that the step computes in, whatever `state_dtype` says.

    For networks of all kinds, where a second-order method has to be cheap: a step takes two products with every factor, one
    that fits five more and a triangular system. By default every step fits at first, and every 34th at last.

    `exact` is False because NumPy's BLAS, which has the products, adds in an order of its own. Triangular systems are
    SciPy's where it is installed, else solved by NumPy, which takes longer. Where a factor has become singular, it and what
    it is multiplied with become NaN.

    Against kron_torch: V enters the fit alone; there it stays in the mean that is preconditioned, so that rows without a
    gradient walk at random. A tensor whose mean is zero throughout keeps its factors; there they grow by `precond_lr` at
    every fit, until they overflow. Every tensor counts steps of its own; there all share a count. `merge_dims` is what its
    choice of two ways to merge comes to.

    Examples
    --------
    >>> w = np.zeros(3)
    >>> opt = schuss.PSGDKron(w, lr=0.1)
    >>> for _ in range(50):
    ...     opt.step(np.array([1.0, 10.0, 0.1]))
    >>> w.round(2), opt.factors[0].round(1)
    (array([-4.59, -4.62, -0.6 ]), array([1. , 0.2, 1.3]))
    """

    lr: NonNegative = 3e-4  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    weight_decay: NonNegative = 0.0  #: decay of the weights of matrices per unit of step size
    precond_lr: NonNegative = 0.1  #: step size of the factors
    precond_init_scale: Positive = 1.0  #: what the factors' product starts as
    max_probability: UnitInterval = 1.0  #: share of steps that fit factors, at the start
    min_probability: UnitInterval = 0.03  #: the same at last
    probability_decay: NonNegative = 0.001  #: how fast it falls
    flat_steps: Whole = 500  #: steps before it falls
    balance_probability: UnitInterval = 0.01  #: chance of balancing the factors first
    seed: Whole = 0  #: chooses the random numbers
    adamw_lr_ratio: NonNegative = 1.0  #: step size of what is no matrix, as a multiple of lr
    adamw_beta2: Fraction = 0.999  #: decay of its square
    adamw_eps: NonNegative = 1e-8  #: added outside its root

    max_size_triangular: int = 8192
    min_ndim_triangular: int = 2
    memory_save_mode: str | None = None
    merge_dims: bool = True

    shaped = ("q", "since")

    # ---- which factors a tensor has ----------------------------------------------------------------------------------

    def is_matrix(self, parameter: NDArray[Any]) -> bool:
        """Tell whether an array has factors: if it is real and not empty."""
        return parameter.size > 0 and parameter.dtype.kind != "c"

    def shape_of(self, slot: str, tensor: int) -> tuple[int, ...] | None:
        """Return the shape of the factors in one array, and of the count of steps."""
        if not self._is_matrix[tensor]:
            return None
        shapes = [(1,)] if slot == "since" else self._factor_shapes(self._leaves[tensor])
        return (sum(math.prod(shape) for shape in shapes),)

    def initial(self, slot: str, parameter: NDArray[Any] | None, values: Mapping[str, float]) -> float | NDArray[Any]:
        """Return multiples of the identity for the factors."""
        if slot != "q" or parameter is None:
            return 0.0
        shapes = self._factor_shapes(parameter)
        scale = values["precond_init_scale"] ** (1 / len(shapes))
        parts = [np.eye(*shape).reshape(-1) if len(shape) == 2 else np.ones(shape) for shape in shapes]
        packed: NDArray[Any] = np.concatenate(parts) * scale
        return packed

    @property
    def factors(self) -> Any:
        """The live factors: for every tensor a list of one array per dimension, in the parameters' nesting."""
        slot = self._slots[self._element_slots.index("q")]
        return self._like_params(
            [] if packed is None else self._unpacked(packed, leaf)
            for packed, leaf in zip(slot, self._leaves, strict=True)
        )

    def _checked_option(self, key: str, value: Any) -> Any:
        who = f"{type(self).__name__}: {key}"
        if key in ("max_size_triangular", "min_ndim_triangular"):
            return int(_SIZE.check(who, value))
        if key == "memory_save_mode" and not (value is None or (isinstance(value, str) and value in _MODES)):
            raise ValueError(f"{who} must be one of {', '.join(map(repr, _MODES))}, got {value!r}")
        if key == "merge_dims" and not isinstance(value, bool):
            raise TypeError(f"{who} must be True or False, got {value!r}")
        return super()._checked_option(key, value)

    def _dimensions(self, parameter: NDArray[Any]) -> tuple[int, ...]:
        """Return the shape that the factors see."""
        shape = parameter.shape
        if self.merge_dims and len(shape) > 2:
            return math.prod(shape[:-1]), shape[-1]
        return shape or (1,)

    def _factor_shapes(self, parameter: NDArray[Any]) -> list[tuple[int, ...]]:
        """Return the shape of every dimension's factor."""
        shape = self._dimensions(parameter)
        largest = max(range(len(shape)), key=lambda k: (shape[k], k))
        alone = len(shape) > 1 and shape.count(shape[largest]) == 1
        saves = self.memory_save_mode == "one_diag" or (self.memory_save_mode == "smart_one_diag" and alone)
        return [
            (n,)
            if n == 1
            or n > self.max_size_triangular
            or len(shape) < self.min_ndim_triangular
            or self.memory_save_mode == "all_diag"
            or (saves and k == largest)
            else (n, n)
            for k, n in enumerate(shape)
        ]

    def _unpacked(self, packed: NDArray[Any], parameter: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the factors, as views."""
        shapes = self._factor_shapes(parameter)
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        return [part.reshape(shape) for part, shape in zip(np.split(packed, ends[:-1]), shapes, strict=True)]

    # ---- the work between the sweeps ---------------------------------------------------------------------------------

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Fit the factors where it is time to, and precondition the mean."""
        parameter, u = matrix.parameter, matrix.work["u"]
        mean = u.reshape(self._dimensions(parameter))
        factors = self._unpacked(matrix.state["q"], parameter)
        since = float(matrix.state["since"][0]) + 1
        if self._is_time(since, matrix):
            since = 0.0
            size = float(np.abs(mean).mean())
            if size != 0:
                if len(factors) > 1 and self._balances(matrix):
                    factors = _balanced(factors)
                probe = matrix.work["probe"].reshape(mean.shape)
                factors = _fitted(factors, mean + _DAMPING * size * probe, probe, matrix.values["precond_lr"])
                matrix.new["q"] = np.concatenate([q.reshape(-1) for q in factors])
        matrix.new["since"] = since
        for axis, q in enumerate(factors):
            mean = _along(mean, axis, lambda x, q=q: _times(q.T, _times(q, x)))
        u[...] = mean.reshape(u.shape)
        rms = math.sqrt(float(np.vecdot(mean, mean).sum(dtype=np.float64)) / mean.size)
        matrix.numbers = [float(np.minimum(1.0, _LARGEST_RMS / (rms + _RMS_FLOOR))), float(parameter.ndim > 1)]

    @staticmethod
    def _is_time(since: float, matrix: Matrix) -> bool:
        """Tell whether factors are fitted, so many steps after they were."""
        values = matrix.values
        past = matrix.t - 1 - values["flat_steps"]
        share = values["max_probability"] * math.exp(min(0.0, -values["probability_decay"] * past))
        share = min(max(share, values["min_probability"]), values["max_probability"])
        return share > 0 and since >= 1 / share

    def _balances(self, matrix: Matrix) -> bool:
        """Tell whether it is a step of balance, which all tensors of one count of steps share."""
        values = matrix.values
        word = random_words(self._stream_named(f"balance {int(values['seed'])} {matrix.t}"), 1)[0]
        return float(word) < values["balance_probability"] * 2**32

    @staticmethod
    def reference(
        p, g, noise, m, v, *, t, lr, beta1, weight_decay, seed, adamw_lr_ratio, adamw_beta2, adamw_eps, matrix
    ):
        """Step one tensor in NumPy."""
        if not matrix:
            rest = {"lr": lr * adamw_lr_ratio, "beta1": beta1, "beta2": adamw_beta2, "eps": adamw_eps}
            AdamW.reference(p, g, m, v, t=t, weight_decay=weight_decay, **rest)
            return
        mean = beta1 * m + (1 - beta1) * g
        seen = yield look((1 / one_minus_power(beta1, t)) * mean, noise)
        scale, decays = seen.numbers
        m[...] = mean
        p[...] = (1 - lr * weight_decay * decays) * p - (lr * scale) * seen.work["u"]


def _along(x: NDArray[Any], axis: int, function: Any) -> NDArray[Any]:
    """Apply a function of (before, n, after) arrays along an axis."""
    shape = x.shape
    result: NDArray[Any] = function(x.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])))
    return result.reshape(shape)


def _times(q: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Multiply the middle axis by a factor."""
    product: NDArray[Any]
    if q.ndim == 1:
        product = q[:, None] * x
    elif x.shape[2] == 1:
        product = (x[:, :, 0] @ q.T)[:, :, None]
    else:
        product = q @ x
    return product


def _over(x: NDArray[Any], q: NDArray[Any]) -> NDArray[Any]:
    """Multiply the middle axis by the inverse of a factor, from the right."""
    if q.ndim == 1:
        quotient: NDArray[Any] = x / q[:, None]
        return quotient
    from schuss.linalg import solve_triangular  # most optimizers go without it

    rows = x.swapaxes(1, 2)
    try:
        solved = solve_triangular(q, rows.reshape(-1, len(q)), right=True)
    except np.linalg.LinAlgError:
        return np.full_like(x, np.nan)
    return solved.reshape(rows.shape).swapaxes(1, 2)


def _second_moments(x: NDArray[Any], diagonal: bool) -> NDArray[Any]:
    """Return the sums of products of the middle axis with itself over the others."""
    if diagonal:
        squares: NDArray[Any] = np.einsum("anb,anb->n", x, x)
        return squares
    flat = x[0] if len(x) == 1 else x.swapaxes(0, 1).reshape(x.shape[1], -1)
    product: NDArray[Any] = flat @ flat.T
    return product


def _balanced(factors: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Scale factors to one largest magnitude; their product stays."""
    sizes = np.array([np.abs(q).max() for q in factors])
    mean = np.exp(np.log(sizes).mean())
    return [q * (mean / size) for q, size in zip(factors, sizes, strict=True)]


def _fitted(factors: list[NDArray[Any]], g: NDArray[Any], probe: NDArray[Any], rate: float) -> list[NDArray[Any]]:
    """Return factors after one step towards equal covariances of transformed gradient and probe."""
    a, b = g, probe
    for axis, q in enumerate(factors):
        a = _along(a, axis, lambda x, q=q: _times(q, x))
        b = _along(b, axis, lambda x, q=q: _over(x, q))
    found = []
    for axis, q in enumerate(factors):
        shape = math.prod(g.shape[:axis]), g.shape[axis], math.prod(g.shape[axis + 1 :])
        of_a, of_b = (_second_moments(x.reshape(shape), q.ndim == 1) for x in (a, b))
        change, size = of_a - of_b, of_a + of_b
        least = float(np.finfo(q.dtype).tiny)
        largest = np.abs(size).max()
        if q.ndim == 1:
            found.append(q - rate * change * q / np.maximum(largest, least))
        else:
            norm = np.maximum(_least_norm(size, largest) if largest > 0 else largest, least)
            found.append(q - np.triu(rate * change / norm) @ q)
    return found


def _least_norm(x: NDArray[Any], largest: Any) -> Any:
    """Return a lower bound of the spectral norm of a symmetric matrix: that of its longest row's image."""
    x = x / largest
    row = x[np.argmax(np.vecdot(x, x))] @ x
    return np.linalg.norm(x @ (row / np.linalg.norm(row))) * largest
