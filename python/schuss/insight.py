"""What a step would do and why, and how noisy gradients are."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from schuss import trees
from schuss.hyperparameters import Domain
from schuss.math import dot
from schuss.reference import widened

if TYPE_CHECKING:
    from schuss.optimizer import Optimizer

__all__ = ["Explanation", "GradientNoiseScale", "gradient_noise_scale"]

#: What an optimizer adds to its rule, with the value that takes it away, in the order in which `explain` adds it.
_ADDITIONS: dict[str, Any] = {
    "noise": None,
    "l2": 0.0,
    "l1": 0.0,
    "weight_decay": 0.0,
    "decay": None,
    "bounds": None,
}


def numbers(array: Any, compute: DTypeLike = np.float64) -> NDArray[np.float64]:
    """Return an array's numbers in float64, as a step reads them in a compute type; complex ones are pairs."""
    given = np.asarray(array)
    if given.dtype.kind == "c":
        given = np.stack([given.real, given.imag], axis=-1)
    with np.errstate(all="ignore"):
        return widened(given, compute).astype(np.float64)


def norm(x: NDArray[np.float64]) -> float:
    """Return the Euclidean norm of float64 numbers, the same bits for any number of threads."""
    with np.errstate(all="ignore"):
        squares = dot(x, x)
        if math.isnan(squares) or 2.0**-900 < squares < math.inf:
            return math.sqrt(squares)
        # The squares are out of range: a power of two brings the largest number to about one.
        largest = float(np.max(np.abs(x), initial=0.0))
        if not 0 < largest < math.inf:
            return largest
        shift = math.frexp(largest)[1]
        scaled = np.ldexp(x, -shift)
        return math.ldexp(math.sqrt(dot(scaled, scaled)), shift)


def quotient(a: float, b: float) -> float:
    """Return ``a / b``, NaN where `b` is zero."""
    return a / b if b else math.nan


# ---- the parts of a step -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """The parts of a step that was not made; prints as a table.

    Attributes
    ----------
    optimizer : str
        The class.
    step : int
        Steps done before it.
    lr : tuple of float
        The step size of each group.
    factor : float
        What the gradients' global norm is multiplied with before anything else, by the clip; negative for `maximize`.
    skipped : bool
        True if the step would be skipped for a non-finite gradient.
    parts : dict of str to tree
        What "rule" (the rule alone, with the gradients as clipped, centred and negated for `maximize`) and then each
        option that is on adds to the parameters, in the parameters' nesting and in double precision.
    update : tree
        What the step adds to the parameters: the sum of the parts, up to one rounding in double precision for each part.
    state : dict
        The optimizer's state after the step.
    tensors : dict of str to dict
        For each tensor its "gradient_norm" (before `factor`), "parameter_norm", "update_norm", "update_ratio" (of update
        to parameter), "effective_lr" (of update to gradient), and "parts": each one's "norm" and "share" of the update,
        ``<part, update> / <update, update>``; the shares sum to one. NaN where a denominator is zero.
    """

    optimizer: str
    step: int
    lr: tuple[float, ...]
    factor: float
    skipped: bool
    parts: dict[str, Any]
    update: Any
    state: dict[str, Any]
    tensors: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return all but the arrays, in a form that JSON can hold."""
        shown = ("optimizer", "step", "factor", "skipped", "tensors")
        return copy.deepcopy({key: getattr(self, key) for key in shown}) | {"lr": list(self.lr)}

    def __str__(self) -> str:
        """Return a table: the norm of each part and its share of the update."""
        head = ["tensor", *self.parts, "update", "update/weight", "effective lr"]
        rows = [
            [
                name,
                *(f"{part['norm']:.3g} ({100 * part['share']:z.1f} %)" for part in tensor["parts"].values()),
                *(f"{tensor[key]:.3g}" for key in ("update_norm", "update_ratio", "effective_lr")),
            ]
            for name, tensor in self.tensors.items()
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in [head, *rows]
        ]
        rates = ", ".join(f"{lr:g}" for lr in self.lr)
        skipped = "; it would be skipped: a gradient is not finite" if self.skipped else ""
        lines.insert(0, f"{self.optimizer}: step {self.step}, lr {rates}, gradients times {self.factor:g}{skipped}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Name it."""
        parts = " + ".join(self.parts)
        return f"Explanation({self.optimizer}, step {self.step}: {parts}; {len(self.tensors)} tensors)"


def explain(optimizer: Optimizer, grads: Any, inputs: Mapping[str, Any]) -> Explanation:
    """Return the parts of an optimizer's next step, which is made on copies.

    The first copy steps with every option off, each further one with one option more; what a copy does beyond the one
    before is that option's part.

    Parameters
    ----------
    optimizer : Optimizer
        Left alone.
    grads, inputs
        As for its step; the inputs by name.

    Examples
    --------
    >>> opt = schuss.SGD(np.array([1.0]), lr=0.5, l2=0.2)
    >>> opt.explain(np.array([2.0])).parts
    {'rule': array([-1.]), 'l2': array([-0.1])}
    """
    present = [name for name in _ADDITIONS if _is_on(optimizer, name)]
    before = [_wide(leaf) for leaf in optimizer._leaves]
    stages, parts = [before], {}
    for k, part in enumerate(["rule", *present]):
        twin = optimizer._copied({})
        _take_away(twin, present[k:])
        twin.step(grads, **inputs)
        stages.append([_wide(leaf) for leaf in twin._leaves])
        parts[part] = list(_differences(stages[-2], stages[-1]))
    update = list(_differences(before, stages[-1]))
    gradients = list(trees.matching_leaves(grads, optimizer._tree))
    last = twin.last  # None if there was no gradient at all
    like = optimizer._like_params
    return Explanation(
        type(optimizer).__name__,
        optimizer.t,
        tuple(values["lr"] for values in optimizer._values_at(optimizer.t)),
        (-1.0 if optimizer.maximize else 1.0) * (last.clip if last is not None else 1.0),
        last is not None and last.skipped,
        {name: like(arrays) for name, arrays in parts.items()},
        like(update),
        twin.state,
        {
            f"params{path}": _summary(gradients[i], before[i], update[i], {n: a[i] for n, a in parts.items()})
            for i, path in enumerate(optimizer._paths)
        },
    )


def _is_on(optimizer: Optimizer, name: str) -> bool:
    """Tell whether an optimizer has an addition, in any group."""
    off = _ADDITIONS[name]
    if name in optimizer.hyperparameters:
        return any(group[name] != off for group in optimizer._groups)
    return bool(getattr(optimizer, name, off) != off)


def _take_away(optimizer: Optimizer, names: Sequence[str]) -> None:
    """Turn additions off."""
    options = {name for name in names if name not in optimizer.hyperparameters}
    for name in names:
        if name in options:
            vars(optimizer)[name] = _ADDITIONS[name]
        else:
            setattr(optimizer, name, _ADDITIONS[name])
    if options:
        optimizer._make_plan()


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy in double precision."""
    return array.astype(np.complex128) if array.dtype.kind == "c" else widened(array, np.float64)


def _differences(before: Iterable[NDArray[Any]], after: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    with np.errstate(all="ignore"):
        for a, b in zip(before, after, strict=True):
            yield np.asarray(b - a)


def _summary(gradient: Any, parameter: Any, update: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a table says of a tensor."""
    u = numbers(update)
    size, weight, slope = norm(u), norm(numbers(parameter)), 0.0 if gradient is None else norm(numbers(gradient))
    unit = u / size if 0 < size < math.inf else u * math.nan
    return {
        "gradient_norm": slope,
        "parameter_norm": weight,
        "update_norm": size,
        "update_ratio": quotient(size, weight),
        "effective_lr": quotient(size, slope),
        "parts": {
            name: {"norm": norm(numbers(part)), "share": quotient(dot(numbers(part), unit), size)}
            for name, part in parts.items()
        },
    }


# ---- the noise of gradients ------------------------------------------------------------------------------------------------


class GradientNoiseScale:
    r"""How noisy gradients are, in examples: about the largest batch that is still worth its work.

    .. math:: \mathcal{B}_\text{simple} = \frac{\operatorname{tr} \Sigma}{|G|^2}, \quad
              |G|^2 \approx \frac{B |g_B|^2 - b |g_b|^2}{B - b}, \quad
              \operatorname{tr} \Sigma \approx \frac{|g_b|^2 - |g_B|^2}{1/b - 1/B}

    with G the true gradient, :math:`\Sigma` the covariance of one example's, :math:`g_b` the gradient of a micro-batch of
    b examples (the square is the mean over all of a step), and :math:`g_B` their mean, of B examples. Both estimates are
    unbiased; each is averaged over the steps by itself, since their ratio is not.

    McCandlish et al. (2018), *An Empirical Model of Large-Batch Training*, appendix A, https://arxiv.org/abs/1812.06162

    Parameters
    ----------
    batch : int
        The examples of a micro-batch, over which its gradient is a mean. In {1, 2, ...}.
    decay : float
        Of the running averages, which are corrected for their start at zero. In [0, 1).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scale = schuss.GradientNoiseScale(batch=8)
    >>> for _ in range(200):  # true gradient (3, 4), an example's has the variance 50 in each of the two elements
    ...     scale.update([np.array([3.0, 4.0]) + rng.normal(0, (50 / 8) ** 0.5, 2) for _ in range(4)])
    >>> round(scale.value, 1)  # the truth is 100 / 25
    3.9
    """

    def __init__(self, batch: int, decay: float = 0.99) -> None:
        name = type(self).__name__
        self.batch = int(Domain(1.0, 2.0**53, upper_open=False, whole=True).check(f"{name}: batch", batch))
        self.decay = float(Domain(0.0, 1.0).check(f"{name}: decay", decay))
        self._signal = self._noise = self._weight = 0.0

    def update(self, micro_batches: Iterable[Any]) -> None:
        """Take the gradients of the micro-batches of one step.

        Parameters
        ----------
        micro_batches : iterable of trees of arrays
            At least two, all of one nesting; None in place of an array counts as zero. One is in use at a time.
        """
        name = type(self).__name__
        if isinstance(micro_batches, np.ndarray | Mapping) or not isinstance(micro_batches, Iterable):
            raise TypeError(
                f"{name}: micro_batches must be a list of gradients, got {type(micro_batches).__name__}; "
                "pass one tree for each"
            )
        mean: list[Any] = []
        squares, count = 0.0, 0
        for grads in micro_batches:
            leaves = [None if leaf is None else numbers(leaf) for _, leaf in trees.leaves(grads)]
            if count and len(leaves) != len(mean):
                raise ValueError(
                    f"{name}: micro-batch {count} has {len(leaves)} arrays, but the first has {len(mean)}; "
                    "pass gradients of one nesting"
                )
            for first, other in zip(mean, leaves, strict=True) if count else ():
                if first is not None and other is not None and first.shape != other.shape:
                    raise ValueError(
                        f"{name}: micro-batch {count} has an array of {other.size} numbers, but the first has {first.size} "
                        "there; pass gradients of one shape"
                    )
            count += 1
            squares += _square(leaves)
            mean = [_plus(a, b) for a, b in zip(mean, leaves, strict=True)] if count > 1 else leaves
        if count < 2:
            raise ValueError(f"{name}: micro_batches must be at least two, got {count}; one tells nothing of the noise")
        big = _square([None if leaf is None else leaf / count for leaf in mean])
        self.update_norms(squares / count, big, count)

    def update_norms(self, small: float, large: float, count: int) -> None:
        """Take the squared norms of one step, for those who have them already.

        Parameters
        ----------
        small : float
            The mean of the squared norms of the micro-batches' gradients, finite.
        large : float
            The squared norm of the mean of the gradients, finite.
        count : int
            The number of micro-batches. In {2, 3, ...}.
        """
        name = type(self).__name__
        count = int(Domain(2.0, 2.0**53, upper_open=False, whole=True).check(f"{name}: count", count))
        small, large = (Domain(0.0).check(f"{name}: {key}", x) for key, x in (("small", small), ("large", large)))
        signal = (count * large - small) / (count - 1)
        noise = (small - large) * self.batch * count / (count - 1)
        self._signal = self.decay * self._signal + (1 - self.decay) * signal
        self._noise = self.decay * self._noise + (1 - self.decay) * noise
        self._weight = self.decay * self._weight + (1 - self.decay)

    @property
    def signal(self) -> float:
        """The estimate of the true gradient's squared norm; NaN before the first step. Noise can make it negative."""
        return quotient(self._signal, self._weight)

    @property
    def noise(self) -> float:
        """The estimate of the trace of the covariance of one example's gradient; NaN before the first step."""
        return quotient(self._noise, self._weight)

    @property
    def value(self) -> float:
        """The noise scale in examples; infinite where the noise hides the gradient, NaN before the first step."""
        if self._weight and self._signal <= 0:
            return math.inf
        return quotient(self._noise, self._signal)

    def state_dict(self) -> dict[str, float]:
        """Return the running averages."""
        return {"signal": self._signal, "noise": self._noise, "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take over running averages.

        Parameters
        ----------
        state : dict
            From `state_dict`.
        """
        from schuss.state import Checks

        name = type(self).__name__
        state = Checks(name, state).state
        if set(state) != {"signal", "noise", "weight"}:
            raise ValueError(f"{name}: state must have signal, noise and weight; pass a dict from state_dict()")
        real = Domain(lower_open=True)
        found = {key: float(real.check(f"{name}: {key}", value)) for key, value in state.items()}
        self._signal, self._noise, self._weight = found["signal"], found["noise"], found["weight"]

    def __repr__(self) -> str:
        """Show the arguments and the estimate."""
        return f"{type(self).__name__}(batch={self.batch}, decay={self.decay:g}; value={self.value:.4g})"


def gradient_noise_scale(micro_batches: Iterable[Any], batch: int) -> float:
    """Return the noise scale from one step's micro-batches alone; `GradientNoiseScale` averages over steps.

    Parameters
    ----------
    micro_batches : iterable of trees of arrays
        Their gradients, at least two.
    batch : int
        The examples of each.

    Examples
    --------
    >>> round(schuss.gradient_noise_scale([np.array([1.0, 2.0]), np.array([2.0, 1.0])], batch=16), 6)
    4.0
    """
    estimate = GradientNoiseScale(batch, decay=0.0)
    estimate.update(micro_batches)
    return estimate.value


def _square(leaves: Iterable[NDArray[np.float64] | None]) -> float:
    """Return the squared norm of some arrays."""
    return float(np.add.reduce([0.0 if leaf is None else dot(leaf, leaf) for leaf in leaves]))


def _plus(a: Any, b: Any) -> Any:
    """Return a sum in which None is zero."""
    return b if a is None else a if b is None else a + b
