"""Schedules of several legs, and those that come again."""

# ruff: noqa: N801  (classes used as functions)
from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias, TypeVar

from schuss.hyperparameters import Domain
from schuss.schedules._base import (
    Items,
    NonNegative,
    OpenFraction,
    Positive,
    Real,
    Schedule,
    Shrink,
    SomeSteps,
    between,
    check_below,
)

Growth: TypeAlias = Annotated[float, Domain(1.0)]
Made = TypeVar("Made", bound=Schedule)


@dataclass(frozen=True, repr=False)
class interpolate(Schedule):
    r"""From value to value, in lines or half cosines; constant before the first and after the last.

    .. math:: \eta(s) = v_i + (v_{i+1} - v_i) \, \phi\!\left(\frac{s - b_i}{b_{i+1} - b_i}\right)
              \quad \text{for } b_i \le s < b_{i+1}, \qquad \phi(x) = x \text{ or } \frac{1 - \cos(\pi x)}{2}

    Parameters
    ----------
    boundaries : sequence of float
        Steps at which the values are reached, in [0, inf), rising; they need not be whole.
    values : sequence of float
        As many; finite.
    anneal : {"linear", "cosine"}

    Examples
    --------
    >>> rate = schuss.schedules.interpolate([0, 2, 4], [0.0, 1.0, 0.5])
    >>> [rate(s) for s in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    """

    boundaries: Annotated[tuple[float, ...], Items(Domain(0.0), rising=True)]
    values: Annotated[tuple[float, ...], Items(Domain(lower_open=True))]
    anneal: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        """Check that every boundary has its value."""
        super().__post_init__()
        if len(self.values) != len(self.boundaries):
            raise ValueError(
                f"interpolate: values must be as many as boundaries, got {len(self.values)} and {len(self.boundaries)}"
            )

    def _at(self, step: int) -> float:
        leg = bisect_right(self.boundaries, step)
        if leg == 0 or leg == len(self.boundaries):
            return self.values[max(leg - 1, 0)]
        begin, end = self.boundaries[leg - 1], self.boundaries[leg]
        x = (step - begin) / (end - begin)
        share = x if self.anneal == "linear" else 0.5 * (1.0 - math.cos(math.pi * x))
        return between(self.values[leg - 1], self.values[leg], share)

    def _extent(self) -> int:
        return math.ceil(self.boundaries[-1]) + 1


@dataclass(frozen=True, repr=False)
class one_cycle(Schedule):
    r"""One cycle: up to a peak, down again, and on to far below the first value.

    .. math:: \frac{\text{peak}}{\text{div\_factor}} \to \text{peak} \;\Big(\to \frac{\text{peak}}{\text{div\_factor}}\Big)
              \to \frac{\text{peak}}{\text{div\_factor} \cdot \text{final\_div\_factor}}

    in half cosines or lines. The peak is at the step ``pct_start * steps`` and the end at `steps`, as in optax. Torch has
    both one step earlier: its ``total_steps=T`` is ``steps=T - 1, pct_start=(pct_start * T - 1) / (T - 1)`` here, and its
    three phases are ``pct_final=2 * pct_start``. Smith & Topin (2018), *Super-convergence: Very fast training of neural
    networks using large learning rates*, https://arxiv.org/abs/1708.07120

    Parameters
    ----------
    peak : float
        The largest value, in [0, inf).
    steps : int
        Steps until the last value, in {1, 2, ...}.
    pct_start : float
        The fraction of the steps at which the peak is reached, in (0, 1).
    pct_final : float, optional
        The fraction of the steps at which the first value is reached again, in (pct_start, 1): three phases instead of two.
        0.85 is optax's linear one.
    anneal : {"cosine", "linear"}
    div_factor : float
        The peak over the first value, in [1, inf).
    final_div_factor : float
        The first value over the last, in (0, inf).

    Examples
    --------
    >>> rate = schuss.schedules.one_cycle(1.0, steps=4, pct_start=0.5, anneal="linear", div_factor=10)
    >>> [round(rate(s), 6) for s in range(6)]
    [0.1, 0.55, 1.0, 0.500005, 1e-05, 1e-05]
    >>> momentum = rate.momentum(0.85, 0.95)
    >>> [round(momentum(s), 3) for s in range(6)]
    [0.95, 0.9, 0.85, 0.9, 0.95, 0.95]
    >>> opt = schuss.Adam(np.zeros(3), lr=rate, beta1=momentum)
    """

    peak: NonNegative
    steps: SomeSteps
    pct_start: OpenFraction = 0.3
    pct_final: OpenFraction | None = None
    anneal: Literal["cosine", "linear"] = "cosine"
    div_factor: Growth = 25.0
    final_div_factor: Positive = 1e4
    _legs: interpolate = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Check the phases and lay out the legs."""
        super().__post_init__()
        if self.pct_final is not None:
            check_below("one_cycle", ("pct_start", self.pct_start), ("pct_final", self.pct_final))
        first = self.peak / self.div_factor
        object.__setattr__(self, "_legs", self._over(first, self.peak, first / self.final_div_factor))

    def _over(self, first: float, middle: float, last: float) -> interpolate:
        """Return the phases over other values."""
        if self.pct_final is None:
            return interpolate((0.0, self.pct_start * self.steps, self.steps), (first, middle, last), self.anneal)
        turns = (0.0, self.pct_start * self.steps, self.pct_final * self.steps, self.steps)
        return interpolate(turns, (first, middle, first, last), self.anneal)

    def _at(self, step: int) -> float:
        return self._legs._at(step)

    def momentum(self, low: float = 0.85, high: float = 0.95) -> interpolate:
        """Return the schedule of momentum, or beta1, that goes with it: low where the rate is high.

        Parameters
        ----------
        low, high : float
            At the peak of the rate, and at its beginning and end; finite, `low` at most `high`.
        """
        return _in_order(self, low, high, self._over(high, low, high))


def _in_order(rate: Schedule, low: float, high: float, made: Made) -> Made:
    """Return a schedule of momentum, made of numbers that it has checked, unless they are in the wrong order."""
    if low > high:
        raise ValueError(f"{type(rate).__name__}: momentum's low must be at most high, got {low:g} and {high:g}")
    return made


@dataclass(frozen=True, repr=False)
class cyclic(Schedule):
    r"""Up and down between two values, again and again.

    .. math:: \eta(s) = \text{base} + (\text{peak} - \text{base}) \, h(s) \, a(s)

    with the triangle h, which rises from 0 to 1 in `up` steps and falls in `down`, and the amplitude a by `mode`: 1 for
    "triangular", 1/2 to the number of cycles done for "triangular2", ``gamma ** s`` for "exp_range". Smith (2017),
    *Cyclical learning rates for training neural networks*, https://arxiv.org/abs/1506.01186

    Parameters
    ----------
    base, peak : float
        Where cycles begin, and where they turn; finite.
    up : int
        Steps from base to peak, in {1, 2, ...}.
    down : int, optional
        Steps back, in {1, 2, ...}; as many as `up` where not given.
    mode : {"triangular", "triangular2", "exp_range"}
    gamma : float
        In (0, 1]; for "exp_range".

    Examples
    --------
    >>> rate = schuss.schedules.cyclic(0.1, 0.5, up=2, mode="triangular2")
    >>> [round(rate(s), 3) for s in range(9)]
    [0.1, 0.3, 0.5, 0.3, 0.1, 0.2, 0.3, 0.2, 0.1]
    >>> momentum = rate.momentum(0.8, 0.9)
    >>> [round(momentum(s), 3) for s in range(9)]
    [0.9, 0.85, 0.8, 0.85, 0.9, 0.875, 0.85, 0.875, 0.9]
    """

    base: Real
    peak: Real
    up: SomeSteps
    down: SomeSteps | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: Shrink = 1.0

    def _at(self, step: int) -> float:
        up = self.up
        down = self.down or up
        cycle, within = divmod(step, up + down)
        height = within / up if within <= up else (up + down - within) / down
        if self.mode == "triangular2":
            height = math.ldexp(height, -cycle)
        elif self.mode == "exp_range":
            height *= math.pow(self.gamma, step)
        return between(self.base, self.peak, height)

    def momentum(self, low: float = 0.8, high: float = 0.9) -> cyclic:
        """Return the schedule of momentum, or beta1, that goes with it: low where the rate is high.

        Parameters
        ----------
        low, high : float
            Opposite the peak of the rate, and opposite its base; finite, `low` at most `high`.
        """
        return _in_order(self, low, high, replace(self, base=high, peak=low))

    def _extent(self) -> int:
        return 4 * (self.up + (self.down or self.up))


@dataclass(frozen=True, repr=False)
class cosine_restarts(Schedule):
    r"""SGDR: half cosines from a peak down to a floor, one after the other, each longer and lower than the one before.

    .. math:: \eta(s) = \text{floor} + (\text{peak} - \text{floor}) \, m^i \, \frac{1 + \cos(\pi (s - s_i) / (T r^i))}{2}

    in cycle i, which begins at :math:`s_i = T (1 + r + \dots + r^{i-1})`, with T = `steps`, r = `t_mul` and m = `m_mul`.
    Loshchilov & Hutter (2017), *SGDR: Stochastic gradient descent with warm restarts*, https://arxiv.org/abs/1608.03983

    Parameters
    ----------
    peak : float
        The first value, in [0, inf).
    steps : int
        Steps of the first cycle, in {1, 2, ...}.
    t_mul : float
        The length of a cycle over that of the one before, in [1, inf). (Keras' default is 2.)
    m_mul : float
        The height of a cycle above the floor over that of the one before, in (0, 1].
    floor : float
        What each cycle goes down to, in [0, inf).

    Examples
    --------
    >>> rate = schuss.schedules.cosine_restarts(1.0, steps=2, t_mul=2, m_mul=0.5)
    >>> [round(rate(s), 3) for s in range(8)]
    [1.0, 0.5, 0.5, 0.427, 0.25, 0.073, 0.25, 0.24]
    """

    peak: NonNegative
    steps: SomeSteps
    t_mul: Growth = 1.0
    m_mul: Shrink = 1.0
    floor: NonNegative = 0.0

    def _begin(self, cycle: int) -> float:
        """Return the step at which a cycle begins; for cycles that grow."""
        return self.steps * (math.pow(self.t_mul, cycle) - 1.0) / (self.t_mul - 1.0)

    def _progress(self, step: int, cycle: int) -> float:
        """Return which fraction of a cycle is done; for cycles that grow."""
        return (step - self._begin(cycle)) / (self.steps * math.pow(self.t_mul, cycle))

    def _at(self, step: int) -> float:
        if self.t_mul == 1.0:
            cycle, within = divmod(step, self.steps)
            x = within / self.steps
        else:
            cycle = int(math.log1p(step / self.steps * (self.t_mul - 1.0)) / math.log(self.t_mul))
            x = self._progress(step, cycle)
            if not 0.0 <= x < 1.0:  # the logarithm was rounded to the other side of a boundary
                cycle += 1 if x > 0 else -1
                x = min(max(self._progress(step, cycle), 0.0), 1.0)
        height = 0.5 * (1.0 + math.cos(math.pi * x)) * math.pow(self.m_mul, cycle)
        return between(self.floor, self.peak, height)

    def _extent(self) -> int:
        return 4 * self.steps if self.t_mul == 1.0 else math.ceil(self._begin(4))
