"""Clipping of gradients before the step: by value, by norms of all, of tensors or of rows, with limits given or learnt.

A clip decides from norms, which the compiled sweeps take, what every tensor or row of the gradients is multiplied with;
the gradients themselves are left as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from schuss.hyperparameters import Domain, Schedule, argument

__all__ = ["AdaGC", "AutoClip", "Clip", "ClipAdaptive", "ClipNorm", "ClipValue"]

Floats = NDArray[np.float64]

_POSITIVE = Domain(0.0, lower_open=True)
_WHOLE = Domain(0.0, 2.0**53, whole=True)

#: What a sum runs over, as the compiled sweeps number it.
_ABSOLUTE, _SQUARES, _POWERS, _LARGEST = 1, 2, 3, 4


class Source(Protocol):
    """Takes norms: the compiled plan within a step, or its reference."""

    def squares(self) -> tuple[Floats, float]:
        """Return the sums of squares of the gradients' units as they came, times a scale twice, and that scale."""
        ...

    def norms(self, norm: int, power: float, scale: float, weights: bool) -> Floats:
        """Return the sums of another norm, of the gradients or the weights."""
        ...

    def rows(self) -> list[int]:
        """Return how many units every tensor has."""
        ...

    def active(self) -> list[bool]:
        """Return which tensors have a gradient."""
        ...


class Norms:
    """The norms of one step's gradients, which are multiplied with what earlier clips decided.

    Its units are the tensors, or where a clip wants them the rows: the entries along the first axis of tensors with more
    than one dimension.
    """

    def __init__(self, source: Source, norm: float, step: int, scale: float, prepared: bool) -> None:
        self._source, self._norm, self._scale, self._prepared = source, norm, scale, prepared
        self.step = step
        self.factors: float | Floats = 1.0

    def units(self, p: float = 2.0) -> Floats:
        """Return the p-norm of every unit."""
        return self._raw(p) * self.factors

    def _raw(self, p: float) -> Floats:
        """Return the norms of the units without factors."""
        take, scale = self._source.norms, 1.0 if self._prepared else self._scale
        if p == 2 and not self._prepared:
            squares, of = self._source.squares()
            return np.sqrt(squares) / of
        if p == 2:
            squares = take(_SQUARES, 2.0, 1.0, False)
            if np.isfinite(squares).all():
                return np.sqrt(squares)
            return np.sqrt(take(_SQUARES, 2.0, 2.0**-600, False)) * 2.0**600
        if p == 1:
            return take(_ABSOLUTE, 1.0, 1.0, False) * scale
        largest = take(_LARGEST, 1.0, 1.0, False)
        top = float(largest.max(initial=0.0))
        if p == math.inf or not 0 < top < math.inf:
            return largest * scale
        return take(_POWERS, p, 1 / top, False) ** (1 / p) * top * scale

    def weights(self) -> Floats:
        """Return the Euclidean norm of every unit of the parameters."""
        squares = self._source.norms(_SQUARES, 2.0, 1.0, True)
        if np.isfinite(squares).all():
            return np.sqrt(squares)
        return np.sqrt(self._source.norms(_SQUARES, 2.0, 2.0**-600, True)) * 2.0**600

    def tensors(self, p: float = 2.0) -> Floats:
        """Return the p-norm of every tensor."""
        units, counts = self.units(p), self._source.rows()
        if len(units) == len(counts) and set(counts) <= {1}:
            return units
        return np.array([_norm(part, p) for part in np.split(units, np.cumsum(counts)[:-1])])

    def active(self) -> NDArray[np.bool_]:
        """Return which tensors have a gradient."""
        return np.array(self._source.active())

    def total(self, p: float = 2.0) -> float:
        """Return the p-norm of all."""
        if p == 2 and not self._prepared and isinstance(self.factors, float) and self.factors == 1:
            return self._norm
        return _norm(self.units(p), p)

    def multiply(self, factors: float | Floats, unit: str) -> None:
        """Take the factors of a clip to those before, one for all or one for every tensor or row."""
        if isinstance(factors, np.ndarray) and unit == "tensor":
            counts = self._source.rows()
            factors = factors if set(counts) <= {1} else np.repeat(factors, counts)
        self.factors = self.factors * factors


def _norm(values: Floats, p: float) -> float:
    """Return the p-norm of norms."""
    if p == math.inf:
        return float(values.max(initial=0.0))
    if p == 1:
        return float(values.sum())
    if p == 2:
        return float(np.sqrt(np.sum(values * values)))
    top = float(values.max(initial=0.0))
    return float(np.sum((values / top) ** p) ** (1 / p) * top) if 0 < top < math.inf else top


class Clip:
    """What every clip is: factors of the gradients, decided from their norms."""

    #: What of its state has one number for each tensor.
    by_tensor: ClassVar[tuple[str, ...]] = ()

    def factors(self, norms: Norms, state: dict[str, Floats]) -> float | Floats:
        """Return what the gradients are multiplied with, and change `state` for the next step."""
        raise NotImplementedError

    def initial(self, tensors: int) -> dict[str, Floats]:
        """Return what it knows before the first step."""
        return {}

    def may_know(self, state: Mapping[str, Floats]) -> bool:
        """Tell whether steps could have led to a state of a checkpoint: norms are not negative."""
        return all(bool((each >= 0).all()) for each in state.values())

    def unit(self) -> Literal["all", "tensor", "row"]:
        """Return what has a factor of its own; rows are those of tensors with more than one dimension."""
        return "all"


@dataclass(frozen=True)
class ClipNorm(Clip):
    r"""Scale gradients so that their norm is at most `max_norm`.

    .. math:: g \leftarrow g \cdot \min\!\Big(1, \frac{\text{max\_norm}}{\lVert g \rVert_p}\Big)

    The norm runs over the gradients of all tensors of the step, or with ``per="tensor"`` over each by itself, summed in
    float64 in a fixed order; the gradients themselves are left as they are: the coefficient enters the step. With a clip,
    a non-finite gradient raises FloatingPointError unless the optimizer was given another ``nonfinite=``.

    Pascanu, Mikolov & Bengio (2013), *On the difficulty of training recurrent neural networks*,
    https://arxiv.org/abs/1211.5063

    Parameters
    ----------
    max_norm : float or schedule
        In (0, inf).
    p : float
        Which norm, in [1, inf]: 2 is the Euclidean, infinity the largest absolute value.
    per : {"all", "tensor"}
        One norm over all gradients, or one for each.

    Examples
    --------
    >>> w = np.zeros(2)
    >>> opt = schuss.SGD(w, lr=1.0, clip=schuss.ClipNorm(1.0))
    >>> opt.step(np.array([3.0, 4.0]))
    >>> opt.last.norm, w
    (5.0, array([-0.6, -0.8]))
    """

    max_norm: float | Schedule
    p: float = 2.0
    per: Literal["all", "tensor"] = "all"

    def __post_init__(self) -> None:
        """Check the arguments."""
        argument(self, "max_norm", _POSITIVE)
        argument(self, "p", Domain(1.0, upper_open=False), schedule=False)
        if self.per not in ("all", "tensor"):
            raise ValueError(f'ClipNorm: per must be "all" or "tensor", got {self.per!r}')

    def unit(self) -> Literal["all", "tensor", "row"]:
        """Return what has a factor of its own."""
        return self.per

    def factors(self, norms: Norms, state: dict[str, Floats]) -> float | Floats:
        """Return what the gradients are multiplied with."""
        limit = argument(self, "max_norm", _POSITIVE, norms.step)
        if self.per == "tensor":
            return _down_to(limit, norms.tensors(self.p))
        norm = norms.total(self.p)
        return 1.0 if norm <= limit else limit / norm


def _down_to(limits: float | Floats, norms: Floats) -> Floats:
    """Return what brings norms down to limits; 1 where they are below."""
    with np.errstate(all="ignore"):
        return np.where(norms <= limits, 1.0, limits / norms)


@dataclass(frozen=True)
class ClipValue(Clip):
    r"""Bring every element of the gradients into ``[-limit, limit]``.

    .. math:: g_i \leftarrow \min(\max(g_i, -\text{limit}), \text{limit})

    Of several clips it must be the first. It changes the direction of the gradient, which `ClipNorm` does not. An infinite
    element would become a finite one: as with every clip it raises FloatingPointError, unless the optimizer was given
    ``nonfinite="propagate"``; NaN stays NaN then.

    Parameters
    ----------
    limit : float or schedule
        In (0, inf).

    Examples
    --------
    >>> w = np.zeros(3)
    >>> opt = schuss.SGD(w, lr=1.0, clip=schuss.ClipValue(0.5))
    >>> opt.step(np.array([3.0, -0.25, -4.0]))
    >>> w
    array([-0.5 ,  0.25,  0.5 ])
    """

    limit: float | Schedule

    def __post_init__(self) -> None:
        """Check the limit."""
        argument(self, "limit", _POSITIVE)

    def at(self, step: int) -> float:
        """Return the limit at a step."""
        return argument(self, "limit", _POSITIVE, step)

    def factors(self, norms: Norms, state: dict[str, Floats]) -> float | Floats:
        """Return 1: elements are cut where gradients are read."""
        return 1.0


@dataclass(frozen=True)
class ClipAdaptive(Clip):
    r"""AGC: clip every row of a gradient by the norm of its row of weights.

    .. math:: g_i \leftarrow g_i \cdot \min\!\Big(1,
              \frac{\text{ratio} \cdot \max(\lVert p_i \rVert, \epsilon)}{\lVert g_i \rVert}\Big)

    A row is an entry along the first axis (an output unit, where weights are stored as (out, in)); a vector is one row.

    Brock, De, Smith & Simonyan (2021), *High-Performance Large-Scale Image Recognition Without Normalization*,
    https://arxiv.org/abs/2102.06171

    Parameters
    ----------
    ratio : float or schedule
        The largest norm of a gradient as a share of that of its weights, in (0, inf).
    eps : float
        The least norm that weights are taken to have, in (0, inf): else weights of zero would never move.

    Examples
    --------
    >>> w = np.array([[3.0, 4.0], [0.6, 0.8]])
    >>> opt = schuss.SGD(w, lr=1.0, clip=schuss.ClipAdaptive(0.1))
    >>> opt.step(np.array([[0.3, 0.0], [0.3, 0.0]]))
    >>> w
    array([[2.7, 4. ], [0.5, 0.8]])
    """

    ratio: float | Schedule = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        """Check the arguments."""
        argument(self, "ratio", _POSITIVE)
        argument(self, "eps", _POSITIVE, schedule=False)

    def unit(self) -> Literal["all", "tensor", "row"]:
        """Return what has a factor of its own."""
        return "row"

    def factors(self, norms: Norms, state: dict[str, Floats]) -> float | Floats:
        """Return what every row is multiplied with."""
        ratio = argument(self, "ratio", _POSITIVE, norms.step)
        return _down_to(ratio * np.maximum(norms.weights(), self.eps), norms.units())


@dataclass(frozen=True)
class AutoClip(Clip):
    r"""Clip by a percentile of the global norms seen so far.

    .. math:: g \leftarrow g \cdot \min\!\Big(1, \frac{h}{\lVert g \rVert}\Big), \qquad
              h = \text{percentile of the norms of the last steps, this one among them}

    The norms are part of the optimizer's checkpoint.

    Seetharaman, Wichern, Pardo & Le Roux (2020), *AutoClip: Adaptive Gradient Clipping for Source Separation Networks*,
    https://arxiv.org/abs/2007.14469

    Parameters
    ----------
    percentile : float
        In (0, 100].
    window : int
        The number of norms remembered, in {1, 2, ...}; the paper remembers all.

    Examples
    --------
    >>> w = np.zeros(1)
    >>> opt = schuss.SGD(w, lr=1.0, clip=schuss.AutoClip(50))
    >>> for g in [1.0, 3.0, 8.0]:
    ...     opt.step(np.array([g]))
    ...     print(opt.last.clip)
    1.0
    0.66...
    0.375
    """

    percentile: float = 10.0
    window: int = 1000

    def __post_init__(self) -> None:
        """Check the arguments."""
        argument(self, "percentile", Domain(0.0, 100.0, lower_open=True, upper_open=False), schedule=False)
        argument(self, "window", Domain(1.0, 2.0**31, whole=True), schedule=False)

    def initial(self, tensors: int) -> dict[str, Floats]:
        """Return no norms: a ring of numbers, and how many were written."""
        return {"norms": np.zeros(int(self.window)), "written": np.zeros(1)}

    def may_know(self, state: Mapping[str, Floats]) -> bool:
        """Tell whether steps could have led to a state: only finite norms are kept, and counted."""
        written = float(state["written"][0])
        return super().may_know(state) and bool(np.isfinite(state["norms"]).all()) and written in _WHOLE

    def factors(self, norms: Norms, state: dict[str, Floats]) -> float | Floats:
        """Return what the gradients are multiplied with."""
        norm, ring, written = norms.total(), state["norms"], state["written"]
        if not math.isfinite(norm):  # says nothing about the next gradients
            return 1.0
        ring[int(written[0]) % len(ring)] = norm
        written[0] += 1
        limit = float(np.percentile(ring[: int(min(written[0], len(ring)))], self.percentile))
        return 1.0 if norm <= limit else limit / norm


@dataclass(frozen=True)
class AdaGC(Clip):
    r"""Clip every tensor's gradient by a running average of its norms.

    .. math::

        t < \text{warmup}: \quad & g \leftarrow g \cdot \min\!\Big(1, \frac{\text{absolute}}{\lVert g_{all} \rVert}\Big),
            \quad \gamma \leftarrow \min(\gamma, \lVert g \rVert) \\
        \text{then}: \quad & g \leftarrow g \cdot \min\!\Big(1, \frac{\text{relative}\;\gamma}{\lVert g \rVert}\Big),
            \quad \gamma \leftarrow \beta \gamma + (1 - \beta) \lVert g \rVert

    The averages are part of the optimizer's checkpoint.

    Wang et al. (2025), *AdaGC: Improving Training Stability for Large Language Model Pretraining*,
    https://arxiv.org/abs/2502.11034

    Parameters
    ----------
    relative : float
        The largest norm as a multiple of the average, in (0, inf).
    absolute : float
        The largest global norm during the warm-up, in (0, inf).
    beta : float
        Decay of the average, in [0, 1).
    warmup : int
        The first step that the averages clip, in {1, 2, ...}.

    Examples
    --------
    >>> w = np.zeros(1)
    >>> opt = schuss.SGD(w, lr=1.0, clip=schuss.AdaGC(warmup=2))
    >>> for g in [0.5, 4.0]:
    ...     opt.step(np.array([g]))
    >>> w
    array([-1.025])
    """

    relative: float = 1.05
    absolute: float = 1.0
    beta: float = 0.98
    warmup: int = 100
    by_tensor: ClassVar[tuple[str, ...]] = ("average",)

    def __post_init__(self) -> None:
        """Check the arguments."""
        argument(self, "relative", _POSITIVE, schedule=False)
        argument(self, "absolute", _POSITIVE, schedule=False)
        argument(self, "beta", Domain(0.0, 1.0), schedule=False)
        argument(self, "warmup", Domain(1.0, 2.0**53, whole=True), schedule=False)

    def initial(self, tensors: int) -> dict[str, Floats]:
        """Return no averages: infinity, which every norm is below."""
        return {"average": np.full(tensors, np.inf)}

    def unit(self) -> Literal["all", "tensor", "row"]:
        """Return what has a factor of its own."""
        return "tensor"

    def factors(self, norms: Norms, state: dict[str, Floats]) -> float | Floats:
        """Return what every tensor is multiplied with."""
        average, own, tiny = state["average"], norms.tensors(), 1e-8
        known = np.isfinite(average) & (norms.step + 1 >= self.warmup)
        limits = self.relative * np.maximum(average, tiny) / np.maximum(own, tiny)
        factors = np.where(known, np.minimum(limits, 1.0), min(1.0, self.absolute / max(norms.total(), tiny)))
        clipped = factors * own
        learnt = np.where(known, self.beta * average + (1 - self.beta) * clipped, np.minimum(average, clipped))
        np.copyto(average, learnt, where=norms.active() & np.isfinite(clipped))
        return factors


class Clipper:
    """The clips of one optimizer with what they have learnt."""

    def __init__(self, clips: Iterable[Clip], tensors: int, centred: bool) -> None:
        self.clips = tuple(clips)
        self.by_rows = centred or any(clip.unit() == "row" for clip in self.clips)
        self.prepares = centred or any(isinstance(clip, ClipValue) for clip in self.clips)
        self.states = [clip.initial(tensors) for clip in self.clips]
        self.step, self.scale = 0, 1.0
        self.report: tuple[float, float] = (1.0, 0.0)
        #: States and report after the step under way, once its factors are known.
        self.learnt: tuple[list[dict[str, Floats]], tuple[float, float]] | None = None

    def limit(self, step: int) -> float:
        """Return the limit of a gradient's elements."""
        first = self.clips[0] if self.clips else None
        return first.at(step) if isinstance(first, ClipValue) else math.inf

    def factors(self, source: Source, norm: float) -> Floats:
        """Return the factor of all gradients, or those of every unit, given their global norm as they came."""
        norms = Norms(source, norm, self.step, self.scale, self.prepares)
        states = [{key: array.copy() for key, array in state.items()} for state in self.states]
        with np.errstate(all="ignore"):
            for clip, state in zip(self.clips, states, strict=True):
                norms.multiply(clip.factors(norms, state), clip.unit())
            factors = norms.factors
            single = isinstance(factors, float) and not self.prepares
            report = (float(factors), float(factors != 1)) if single else self._cut(norms, norm)
        self.learnt = states, report
        return np.atleast_1d(np.asarray(factors, np.float64))

    def learn(self) -> None:
        """Keep what the factors of a step have taught, now that it is done."""
        if self.learnt is not None:
            self.states, self.report = self.learnt

    def take(self, states: list[dict[str, Floats]]) -> None:
        """Go on from what clips of fewer tensors have learnt."""
        for ours, theirs in zip(self.states, states, strict=True):
            for key, array in theirs.items():
                ours[key][: len(array)] = array

    def _cut(self, norms: Norms, before: float) -> tuple[float, float]:
        """Return by what the global norm was multiplied, and the share of units that were."""
        after = norms.total()
        ratio = after / before if before > 0 else 1.0
        cut = np.asarray(norms.factors) != 1
        return ratio, float(cut.mean()) if cut.size else 0.0


def as_clips(who: str, clip: Any) -> tuple[Clip, ...]:
    """Return the clips of an argument, checked."""
    clips = () if clip is None else tuple(clip) if isinstance(clip, list | tuple) else (clip,)
    for each in clips:
        if not isinstance(each, Clip):
            raise TypeError(f"{who}: clip must be a clip such as ClipNorm, a sequence of them, or None, got {each!r}")
    if any(isinstance(each, ClipValue) for each in clips[1:]):
        raise ValueError(
            f"{who}: ClipValue must be the first of several clips, since norms are taken of what it leaves"
        )
    return clips
