"""GaLore."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss import memory, trees
from schuss._guard import guarded
from schuss.hyperparameters import Domain, Positive
from schuss.optimizer import Optimizer
from schuss.optimizers.sgdw import SGDW
from schuss.reference import widened
from schuss.wrapper import Count, Wrapper

_RANK = Domain(1.0, 2.0**53, upper_open=False, whole=True)

#: Options that act on weights, or on rows of gradients, which a projected step does not see.
_OF_WEIGHTS = ("bounds", "decay", "proximal", "centralize")


class GaLore(Wrapper):
    r"""GaLore: the optimizer sees the gradients of matrices in a subspace of low rank, and needs state for that alone.

    With G the gradient of an r × c matrix W, r ≥ c, and P (k × c) the first k right singular vectors of the gradient at steps
    0, T, 2T, ...:

    .. math::

        U &= \text{the optimizer's update for the gradient } G P^\top \in \mathbb{R}^{r \times k} \\
        W &\leftarrow (1 - \eta \lambda) W + \alpha U P

    with the optimizer's step size η and `weight_decay` λ. For r < c, P (r × k) has left singular vectors, the optimizer sees
    :math:`P^\top G`, and P U goes into the weights.

    Zhao, Zhang, Chen, Wang, Anandkumar & Tian (2024), *GaLore: Memory-Efficient LLM Training by Gradient Low-Rank
    Projection*, https://arxiv.org/abs/2403.03507

    Parameters
    ----------
    optimizer : Optimizer
        Makes the steps; new, since its state is made again in the shapes of what it will see. Its own update must not depend
        on the weights.
    gap : int
        T, the number of steps between singular value decompositions, in {1, 2, ...}. Each tensor counts its own.
    scale : float or schedule
        α, what the updates of projected matrices are multiplied with, in (0, inf).
    rank : int
        k, in {1, 2, ...}. Arrays of more than two dimensions count as matrices with a row per entry along the first.

    Notes
    -----
    State: the optimizer's, in the shape r × k or k × c for a matrix that is projected; and its `projector`, k × c or r × k
    (empty for what is not projected), in the optimizer's compute type. For Adam and float32 that is ``8 * k / min(r, c)`` bytes
    per element and ``4 * k * min(r, c)`` of the projector, in place of 8 bytes per element. Beside it there is scratch: the
    updates in low rank, and in a step the projected gradients and one update of full size, matrix after matrix.

    Vectors, numbers, complex arrays and matrices whose smaller side is at most k are stepped by the optimizer as ever. It
    keeps its moments when P changes, and P is not optimised. A singular vector is one of two, of opposite signs: each is
    taken on the side of the one it replaces, so that nothing depends on which of them LAPACK returns.

    The optimizer sees a zero matrix in the place of the weights, and its update is what it makes of that. So for projected
    matrices its `weight_decay`, where it has one, decays the full weights as above, whatever its rule does; `l2` and `l1`
    enter the gradient before it is projected, and therefore before a clip, which takes norms of projected gradients. `bounds`,
    `decay`, `proximal` and `centralize` are refused, and rules whose update depends on the weights (LAMB, LARS, Prodigy, the
    schedule-free ones) or needs further arrays (AdaHessian). It goes directly around an optimizer, and other wrappers around
    it.

    The authors decay the weights after the update, and step with Adam's older eps. They decompose in float32, here in the
    compute type. optax projects the other side.

    Examples
    --------
    >>> w = np.ones((64, 32), np.float32)
    >>> opt = schuss.GaLore(schuss.AdamW(w, lr=1e-2), rank=4)
    >>> opt.step(np.outer(np.arange(64.0), np.ones(32)))
    >>> opt.state["m"].shape, opt.state["projector"].shape, opt.nbytes, schuss.AdamW(w).nbytes
    ((64, 4), (4, 32), 2560, 16384)
    """

    gap: Count = 200  #: steps between decompositions
    scale: Positive = 0.25  #: what updates are multiplied with
    rank: int = 128

    def _checked_option(self, key: str, value: Any) -> Any:
        return int(_RANK.check(f"{type(self).__name__}: {key}", value))

    def _prepare(self) -> None:
        name, base = type(self).__name__, self.base
        if isinstance(self.optimizer, Wrapper):
            raise TypeError(
                f"{name}: it changes what an optimizer sees, got {type(self.optimizer).__name__}; put {name} inside"
            )
        self._full = {i: shape for i, leaf in enumerate(base._leaves) if (shape := _matrix(leaf, self.rank))}
        low = {i: (r, self.rank) if r >= c else (self.rank, c) for i, (r, c) in self._full.items()}
        if {i: array.shape for i, array in base._stand_ins.items()} != low:  # else a copy, which has them
            self._check(name, base, low)
            base._stand_in(low)
        self._make_appliers()
        self._arrays["projector"] = [
            np.zeros((self.rank, c) if r >= c else (r, self.rank), memory.compute_dtype(leaf))
            for leaf, (r, c) in ((leaf, self._full.get(i, (0, 0))) for i, leaf in enumerate(base._leaves))
        ]

    def _check(self, name: str, base: Optimizer, low: dict[int, tuple[int, int]]) -> None:
        """Refuse an optimizer that has begun, or that needs the weights."""
        owner = type(base).__name__
        if base.t > 0 or base._stand_ins:
            raise ValueError(f"{name}: {owner} has stepped already, and its state has no projection; wrap a new one")
        if given := [key for key in base.inputs if key not in base.given]:
            raise TypeError(
                f"{name}: {owner} takes {given[0]} for every element, which has no projection; wrap another optimizer"
            )
        if base.kind == "matrix":
            raise TypeError(
                f"{name}: {owner} keeps state in shapes of its own; wrap an optimizer of single elements, such as Adam"
            )
        if low and _depends_on_weights(self, base, clip=None):
            raise TypeError(
                f"{name}: the update of {owner} depends on the weights, which it will not see; wrap one whose update does not, "
                "such as Adam"
            )
        # A clip may compare gradients with weights.
        needing = [key for key in _OF_WEIGHTS if getattr(base, key) not in (None, False)]
        if low and base.clip is not None and _depends_on_weights(self, base, clip=base.clip):
            needing.append("clip")
        if needing:
            raise ValueError(
                f"{name}: {needing[0]} of {owner} needs the full matrices, which it will not see; make it without "
                f"{needing[0]}"
            )

    def _make_appliers(self) -> None:
        """Make what adds updates to the present parameters, a pass for each matrix."""
        base = self.base
        common: Any = {key: getattr(base, key) for key in ("dtype", "threads", "flush_subnormals")}
        self._leaves = base._leaves
        # "Gradients" are updates, to be added.
        self._appliers = {i: SGDW(base._leaves[i], lr=1.0, maximize=True, **common) for i in self._full}

    def _begin(self) -> None:
        for array in self._arrays["projector"]:
            array[...] = 0

    # ---- the step ------------------------------------------------------------------------------------------------------

    def _advance(self, grads: Any, **inputs: Any) -> bool:
        name, base = type(self).__name__, self._base
        if callable(grads):
            raise TypeError(
                f"{name}: step takes gradients, got a function; what calls it goes around, as in SAM({name}(...))"
            )
        base._require_writeable()
        values, scale = base._values_at(self.t), inputs.get("grad_scale", 1.0)
        factors = self._factors(values)
        low, projectors = self._seen(base, grads, values, scale)
        for stand_in in base._stand_ins.values():
            stand_in[...] = 0
        observers, base._observers = base._observers, ()
        told = [each(grads, scale) for each in observers]  # of the gradients as they are
        try:
            done = self._optimizer._advance(low, **inputs)
            if done:
                self._apply(projectors, factors)
        except FloatingPointError:
            _call(told)
            raise
        finally:
            base._observers = observers
        _call(told)
        return done

    def _seen(
        self, base: Optimizer, grads: Any, values: list[dict[str, float]], scale: float
    ) -> tuple[Any, dict[int, NDArray[Any]]]:
        """Return gradients as the optimizer is to see them, and the projectors of those that are projected."""
        try:
            listed: list[Any] = list(trees.matching_leaves(grads, base._tree))
        except (KeyError, IndexError, TypeError, ValueError):
            return grads, {}  # the optimizer says what is wrong with the nesting
        projectors: dict[int, NDArray[Any]] = {}
        for i in self._full:
            if listed[i] is not None:
                matrix = self._read(base, i, listed[i])
                matrix = self._with_penalties(base, i, matrix, values[base._group_of[i]], scale)
                projectors[i] = self._projector(i, matrix)
                listed[i] = _project(matrix, projectors[i])
        return base._like_params(listed), projectors

    @guarded
    def check(self, grads: Any, **inputs: Any) -> Any:
        """Step copies of the optimizer with the kernel and with the reference on projected gradients; see `Optimizer.check`."""
        base = self._base
        low, _ = self._seen(base, grads, base._values_at(self.t), inputs.get("grad_scale", 1.0))
        for stand_in in base._stand_ins.values():
            stand_in[...] = 0
        return base.check(low, **inputs)

    def explain(self, grads: Any, **inputs: Any) -> Any:
        """Refuse to tell the parts of an update apart, which the optimizer makes in low rank."""
        name, owner = type(self).__name__, type(self._base).__name__
        raise TypeError(
            f"{name}: {owner} does not make the weights' updates, which explain is about; explain {owner} alone"
        )

    def _factors(self, values: list[dict[str, float]]) -> list[tuple[float, float]]:
        """Return what updates are multiplied with and how much weights decay, in each group, at the present step."""
        scale = self.arguments["scale"].at(type(self).__name__, self.scale, self.t)
        return [(scale, group.get("lr", 1.0) * group.get("weight_decay", 0.0)) for group in values]

    def _read(self, base: Optimizer, i: int, gradient: Any) -> NDArray[Any]:
        """Return a gradient as a matrix in the compute type, if it fits its parameter."""
        leaf, which = base._leaves[i], f"{type(base).__name__}: grads{base._paths[i]}"
        if not isinstance(gradient, np.ndarray):
            raise TypeError(f"{which} is a {type(gradient).__name__}, not a NumPy array; pass numpy.asarray of it")
        if gradient.shape != leaf.shape:
            raise ValueError(f"{which} has shape {gradient.shape}, but its parameter has shape {leaf.shape}")
        real = memory.is_steppable(gradient) and gradient.dtype.kind != "c"
        if not real or (gradient.dtype == memory.BFLOAT16_BITS and base.dtype != "bfloat16"):
            raise TypeError(
                f"{which} has dtype {gradient.dtype}, which cannot be projected; pass float64, float32, float16 or bfloat16"
            )
        compute = memory.compute_dtype(leaf)
        matrix = gradient if gradient.dtype == compute else widened(gradient, compute)
        return matrix.reshape(self._full[i])

    def _with_penalties(
        self, base: Optimizer, i: int, matrix: NDArray[Any], values: dict[str, float], scale: float
    ) -> NDArray[Any]:
        """Return a gradient with the penalties on the full weights, so that these are in it after its scale and sign."""
        l2, l1 = values["l2"], values["l1"]
        if not (l2 or l1):
            return matrix
        weights = widened(base._leaves[i], matrix.dtype).reshape(matrix.shape)
        factor = matrix.dtype.type((-1 if base.maximize else 1) / scale)
        return np.asarray(
            matrix + factor * (matrix.dtype.type(l2) * weights + matrix.dtype.type(l1) * np.sign(weights))
        )

    def _projector(self, i: int, matrix: NDArray[Any]) -> NDArray[Any]:
        """Return the projector that a gradient is to be seen through: a new one where it is due and the gradient is finite."""
        before = self._arrays["projector"][i]
        due = int(self._base._counts[i]) % self.gap == 0 or not before.any()
        if not due or not np.isfinite(matrix).all():
            return before
        u, _, vt = np.linalg.svd(matrix, full_matrices=False)
        right = matrix.shape[0] >= matrix.shape[1]
        new = vt[: self.rank] if right else u[:, : self.rank]
        along = (new * before).sum(axis=1 if right else 0, keepdims=True)
        return np.where(along < 0, -new, new)

    def _apply(self, projectors: dict[int, NDArray[Any]], factors: list[tuple[float, float]]) -> None:
        """Add the updates to the weights, and keep the projectors they were made with."""
        base = self._base
        if self._leaves is not base._leaves:
            self._make_appliers()
        for i, projector in projectors.items():
            if projector is not self._arrays["projector"][i]:
                self._arrays["projector"][i][...] = projector
            update = _project_back(base._stand_ins[i], projector, self._full[i])
            scale, decay = factors[base._group_of[i]]
            applier = self._appliers[i]
            for key, value in (("lr", scale), ("weight_decay", decay / scale)):
                if getattr(applier, key) != value:
                    setattr(applier, key, value)
            applier.step(update.reshape(base._leaves[i].shape))


def _matrix(leaf: NDArray[Any], rank: int) -> tuple[int, int] | None:
    """Return rows and columns of what is to be projected, None for anything else."""
    if leaf.ndim < 2 or leaf.dtype.kind == "c" or leaf.size == 0:
        return None
    rows, columns = len(leaf), math.prod(leaf.shape[1:])
    return (rows, columns) if min(rows, columns) > rank else None


def _project(matrix: NDArray[Any], projector: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix in the coordinates of its projector."""
    rows, columns = matrix.shape
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is the optimizer's business
        return np.asarray(matrix @ projector.T if rows >= columns else projector.T @ matrix)


def _project_back(low: NDArray[Any], projector: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Return the matrix that has such coordinates."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(low @ projector if shape[0] >= shape[1] else projector @ low)


def _call(functions: Iterable[Any]) -> None:
    """Call what observers have left."""
    for each in functions:
        if each is not None:
            each()


def _depends_on_weights(wrapper: Wrapper, base: Optimizer, *, clip: Any) -> bool:
    """Tell whether an optimizer of this class and these arguments makes other updates or other state at other weights."""
    now = base._values_at(0)[0]
    arguments = {key: bool(now[key]) if each.domain.switch else now[key] for key, each in base.hyperparameters.items()}
    fixed = {"lr": 1.0, "weight_decay": 0.0, "l2": 0.0, "l1": 0.0}  # penalties and decay are not left to it
    arguments |= {key: value for key, value in fixed.items() if key in arguments}

    def run(choice: int) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        """Return updates, and all state after them, at zero weights, at some, or at those nearly at a right angle to it."""
        leaves = [np.zeros((3, 2)) for _ in base._leaves]
        twin = wrapper._make_pass(type(base), base._like_params(leaves), clip=clip, **arguments)
        updates: list[NDArray[Any]] = []
        for k in range(1, 9):
            gradient = np.outer([1.0, k, -2.0], [1.0, k - 3])
            weights = (
                np.zeros((3, 2)),
                np.outer([4.0, -k, 1.0], [k, 2.0]),
                64 * np.outer([1.0, 1.0, 2.0], [3 - k, 1.0]) + gradient,
            )
            for leaf in leaves:
                leaf[...] = weights[choice]
            twin.step(base._like_params(gradient for _ in leaves), **dict.fromkeys(twin.given, 1.0))
            updates += [leaf - weights[choice] for leaf in leaves]
        return updates, [*(slot for i in range(len(leaves)) for _, slot in twin._named_slots(i)), twin._scalars]

    if type(base).evaluation is not Optimizer.evaluation:
        return True
    updates, state = run(0)
    return not all(
        all(np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) for a, b in zip(updates, others, strict=True))
        and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(state, after, strict=True))
        for others, after in (run(1), run(2))
    )
