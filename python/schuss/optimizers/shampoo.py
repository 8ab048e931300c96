"""Shampoo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from schuss.hyperparameters import Domain, Fraction, NonNegative, Schedule, Switch, UnitInterval, Whole
from schuss.kronecker import Block, Blocks, Every, KroneckerOptimizer, cut, merged, multiplied, products_along
from schuss.linalg import inverse_root
from schuss.math import one_minus_power, power
from schuss.matrix import Matrix, look

#: What the methods of grafting say of the square that they divide by.
_GRAFTS: dict[str, dict[str, float | bool]] = {
    "none": {"graft_beta2": 0.0, "graft_bias_correction": False},
    "sgd": {"graft_beta2": 0.0, "graft_bias_correction": False},
    "adagrad": {"graft_beta2": 1.0, "graft_bias_correction": False},
    "rmsprop": {"graft_bias_correction": False},
    "adam": {"graft_bias_correction": True},
}
#: Added to a length that is divided by: the authors' own.
_FLOOR = 1e-16
_EXPONENT = Domain(0.0, lower_open=True)


class Shampoo(KroneckerOptimizer, rule="shampoo"):
    r"""Shampoo: the gradient multiplied along each of its axes with the inverse root of what it has been there.

    Of each block G of a gradient, of order k (axes with a factor), with U its mean, w = 1 - :math:`\beta_2`, or 1 for
    :math:`\beta_2` = 1, and the unfoldings :math:`G_{(i)}` along its axes:

    .. math::

        L_i &\leftarrow \beta_2 L_i + w \, G_{(i)} G_{(i)}^\top \\
        A_i &\leftarrow \big( L_i / (1 - \beta_2^t) \big)^{-1 / 2 k} \qquad\text{(every `frequency` steps)} \\
        U &= \frac{\beta_3 M + (1 - \beta_3) G}{1 - \beta_3 \beta_1^{t - 1}} \qquad
        M \leftarrow \beta_1 M + (1 - \beta_1) G \\
        S &= U \times_1 A_1 \dots \times_k A_k \qquad D = \frac{U}{\sqrt{V / (1 - \beta_g^t)} + \epsilon_g} \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \frac{\lVert D \rVert_F}{\lVert S \rVert_F + 10^{-16}} S

    where V is the running mean of the squared gradient. The length of D makes Adam's step size fit: the step is *grafted*.

    Gupta, Koren & Singer (2018), *Shampoo: preconditioned stochastic tensor optimization*, https://arxiv.org/abs/1802.09568;
    Shi et al. (2023), *A distributed data-parallel PyTorch implementation of the distributed Shampoo optimizer for training
    neural networks at-scale*, https://arxiv.org/abs/2309.06497

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1 : float or schedule
        Decay of the mean M, in [0, 1).
    beta3 : float or schedule
        Weight of the mean so far in U, in [-1, 1): -1 for `beta1`, else not negative. The square of `beta1` makes
        it Nesterov's momentum.
    beta2 : float or schedule
        Decay of the factors, in [0, 1]; 1 adds all gradients up, as in the first paper.
    eps : float or schedule
        Added to the eigenvalues of the factors, in [0, inf). With 0, a factor that is not of full rank has no root.
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).
    frequency : int or schedule
        How many steps apart the roots are computed, in {1, 2, ...}.
    start_step : int or schedule
        The step of the first root, in {0, 1, 2, ...}; at least `frequency`. Before, the step is D, ungrafted U.
    graft_beta2 : float or schedule
        β of V, in [0, 1]; 1 adds up.
    graft_eps : float or schedule
        Added to the root of V, in [0, inf).
    graft_bias_correction : bool
        Divide V by 1 - β^t. `graft` decides.
    bias_correction : bool
        Divide by the denominators with t in them; with False by 1.
    max_failures : int or schedule
        How often in a row roots of a block may fail, in {0, 1, 2, ...}.
    graft : {"adam", "rmsprop", "adagrad", "sgd", "none"}
        What D is: "adam" as above, "rmsprop" without bias correction, "adagrad" with the sum of squares
        (`graft_beta2` is 1), "sgd" U itself; "none" takes S as it is (`graft_beta2` is 0 with both).
    block_size : int or None
        Longest axis of a block: longer ones are cut. None for any; no axes are joined then.
    max_dim : int or None
        Axes longer than that have no factor, and are not cut. None for any.
    merge_dims : bool
        Join neighbouring axes that have no more than `block_size` elements together, beginning with the last: a kernel of
        shape (64, 32, 3, 3) is a matrix of (64, 288), and a matrix of (7, 5) is a vector of 35.
    exponents : dict of float, optional
        Exponents other than 1 / (2 k), by k, in (0, inf): ``{2: 0.5}``.
    precondition_1d : bool
        Give vectors a factor as well. Else their step is D, as is that of all that has no factor, such as a number.
    exclude : sequence of str
        Patterns of the names of parameters that are to have no factor.

    Notes
    -----
    State: `m` and, where a square is grafted, `v`, one value each per element; for a block of (r, c) `factors` and `roots` of
    r² + c² values each, and `failures`, 1 value. A float32 matrix of (1024, 1024) has 24 bytes per parameter. All blocks of a
    tensor lie one after the other in one array per slot, each axis a square matrix.

    A root that cannot be computed, or is not finite, leaves the old one as it is, and is counted in `state["failures"]`; more
    than `max_failures` in a row are a RuntimeError, which leaves everything as it was. What is not finite in a gradient goes on
    into the parameters.

    For large matrices where a step costs little beside the gradient, from `frequency` 10 on.

    With ``max_dim=None``, ``merge_dims=True`` and ``precondition_1d=True`` this is Distributed Shampoo with roots of
    eigenvalues. Its defaults are ``lr=1e-2, beta2=1, frequency=1`` and no grafting; here they are those that its authors advise
    in place of Adam's, and a small matrix stays one, where joined axes would have a factor of its length squared. In float32
    it retries in float64 what LAPACK does not solve, as they do.

    Equality with the reference is not exact between BLAS libraries and numbers of threads: products are NumPy's.

    Examples
    --------
    >>> w = np.zeros((2, 2))
    >>> opt = schuss.Shampoo(w, lr=1.0, frequency=1, graft="none")
    >>> opt.step(np.diag([4.0, 0.25]))
    >>> w.round(6) + 0.0
    array([[-1.,  0.],
           [ 0., -1.]])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta3: Annotated[float | Schedule, Domain(-1.0, 1.0)] = -1.0  #: weight of the mean so far in the step; -1: beta1
    beta2: UnitInterval = 0.999  #: decay of the factors; 1 adds up
    eps: NonNegative = 1e-12  #: added to the eigenvalues
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size
    frequency: Every = 10  #: steps from one root to the next
    start_step: Whole = 0  #: step of the first root, if not before frequency
    graft_beta2: UnitInterval = 0.999  #: decay of the grafted method's square; 1 adds up
    graft_eps: NonNegative = 1e-8  #: added outside its root
    graft_bias_correction: Switch = True  #: divide it by 1 - graft_beta2^t
    bias_correction: Switch = True  #: divide mean and factors by what is missing in them
    max_failures: Whole = 3  #: how often in a row roots may fail

    graft: str = "adam"
    block_size: int | None = 1024
    max_dim: int | None = 8192
    merge_dims: bool = False
    exponents: Mapping[int, float] | None = None

    shaped = ("factors", "roots", "failures")

    def __init__(self, params: Any, *unnamed: Any, **arguments: Any) -> None:
        graft = arguments.get("graft", type(self).graft)
        for key, value in _GRAFTS.get(graft if isinstance(graft, str) else "", {}).items():
            given = self.hyperparameters[key].check("Shampoo", arguments.setdefault(key, value))
            if given != value:
                raise ValueError(f"Shampoo: {key} must be {value!r} with graft={graft!r}, got {given!r}")
        super().__init__(params, *unnamed, **arguments)

    @classmethod
    def objection(cls, values: Mapping[str, Any]) -> str | None:
        """Say what is wrong with beta3."""
        beta3 = values["beta3"]
        if not callable(beta3) and -1 < beta3 < 0:
            return f"beta3 must be in [0, 1), or -1 for that of beta1, got {beta3:g}"
        return None

    def _checked_option(self, key: str, value: Any) -> Any:
        if key == "graft" and (not isinstance(value, str) or value not in _GRAFTS):
            raise ValueError(f"Shampoo: graft must be one of {', '.join(map(repr, _GRAFTS))}, got {value!r}")
        if key == "exponents" and value is not None:
            if not isinstance(value, Mapping) or any(type(order) is not int or order < 1 for order in value):
                raise ValueError(
                    f"Shampoo: exponents must be a dict by numbers of axes, such as {{2: 0.5}}, got {value!r}"
                )
            return {order: _EXPONENT.check(f"Shampoo: exponents[{order}]", each) for order, each in value.items()}
        return super()._checked_option(key, value)

    def blocks_of(self, shape: tuple[int, ...]) -> Blocks:
        """Return how a tensor of a shape is cut."""
        size = math.inf if self.block_size is None else self.block_size
        axes = merged(shape, (self.block_size or 1) if self.merge_dims else 1, backwards=True)
        return cut(axes, size, math.inf if self.max_dim is None else self.max_dim)

    def initial(self, slot: str, parameter: NDArray[Any] | None, values: Mapping[str, float]) -> float | NDArray[Any]:
        """Return identities for the roots that are not computed yet."""
        if slot == "roots" and parameter is not None:
            return self.blocks_of(parameter.shape).identities()
        return super().initial(slot, parameter, values)

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Add the gradient to the factors, compute roots where it is time, and multiply the mean with them."""
        values, t = matrix.values, matrix.t
        blocks = self.blocks_of(matrix.parameter.shape)
        start = max(values["start_step"], values["frequency"])
        due = t == start or (t > start and t % values["frequency"] == 0)
        waits = t < start and self.graft != "none"
        work = {name: array.reshape(blocks.shape) for name, array in matrix.work.items()}
        beta2 = values["beta2"]
        matrix.new["factors"] = factors = beta2 * matrix.state["factors"]
        if due:
            matrix.new |= {name: matrix.state[name].copy() for name in ("roots", "failures")}
        for i, block in enumerate(blocks.blocks):
            g, u = work["g"][block.where], work["u"][block.where]
            for axis, factor in zip(block.axes, block.matrices(factors), strict=True):
                added = products_along(g, axis)
                added *= 1 if beta2 == 1 else 1 - beta2
                factor += added
            if due:
                self._take_roots(matrix, i, block)
            length = work["d"][block.where] if "d" in work else u
            if waits:
                u[...] = length
                continue
            roots = block.matrices(matrix.new["roots"] if due else matrix.state["roots"])
            s = multiplied(u, roots, block.axes)
            if self.graft != "none":
                s *= _length(length) / (_length(s) + _FLOOR)
            u[...] = s
        if not np.may_share_memory(work["u"], matrix.work["u"]):  # in Fortran order
            matrix.work["u"][...] = work["u"].reshape(matrix.parameter.shape)

    def _take_roots(self, matrix: Matrix, i: int, block: Block) -> None:
        """Compute the roots of a block, but keep those that fail."""
        values, order = matrix.values, len(block.axes)
        exponent = (self.exponents or {}).get(order, 1 / (2 * order))
        corrected = values["bias_correction"] and values["beta2"] < 1
        bias = one_minus_power(values["beta2"], matrix.t) if corrected else 1.0
        failure: np.linalg.LinAlgError | None = None
        for factor, root in zip(
            block.matrices(matrix.new["factors"]), block.matrices(matrix.new["roots"]), strict=True
        ):
            try:
                root[...] = inverse_root(factor / bias, order, eps=values["eps"], exponent=exponent)
            except np.linalg.LinAlgError as error:
                failure = error
        failures = matrix.new["failures"]
        if failure is None:
            failures[i] = 0
        elif np.isfinite(matrix.work["u"]).all():  # else the parameters show it
            failures[i] = self._failed(matrix.index, i, failures[i], values["max_failures"], failure)

    @staticmethod
    def reference(
        p, g, m, v, *, t, lr, beta1, beta3, weight_decay, graft_beta2, graft_eps, graft_bias_correction, bias_correction,
        matrix,
    ):  # fmt: skip
        """Step one tensor in NumPy."""
        now = beta1 if beta3 < 0 else beta3
        bias1 = 1 - now * power(beta1, t - 1) if bias_correction else 1
        sums = graft_beta2 == 1
        bias2 = one_minus_power(graft_beta2, t) if graft_bias_correction and not sums else 1
        u = (1 / bias1) * (now * m + (1 - now) * g)
        m[...] = beta1 * m + (1 - beta1) * g
        d = []
        if v is not None:
            v[...] = graft_beta2 * v + (1 if sums else 1 - graft_beta2) * (g * g)
            d = [u / ((1 / math.sqrt(bias2)) * np.sqrt(v) + graft_eps)]
        u = (yield look(g, u, *d)).work["u"] if matrix else d[0] if d else u
        p[...] = (1 - lr * weight_decay) * p - lr * u


def _length(x: NDArray[Any]) -> float:
    """Return the Frobenius norm, added up in float64."""
    flat = x.reshape(-1)
    return math.sqrt(np.einsum("i,i->", flat, flat, dtype=np.float64))
