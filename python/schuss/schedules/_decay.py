"""Schedules that stay, fall in stairs, or fall smoothly."""

# ruff: noqa: N801  (classes used as functions)
from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Annotated

from schuss.hyperparameters import Domain
from schuss.schedules._base import (
    Count,
    Items,
    NonNegative,
    Positive,
    Real,
    Schedule,
    Shrink,
    SomeSteps,
    Switch,
    between,
    between_ratios,
    check_below,
)


@dataclass(frozen=True, repr=False)
class constant(Schedule):
    r"""One value at every step.

    .. math:: \eta(s) = \text{value}

    Parameters
    ----------
    value : float
        Finite.

    Examples
    --------
    >>> schuss.schedules.constant(0.1)(7)
    0.1
    """

    value: Real

    def _at(self, step: int) -> float:
        return self.value


@dataclass(frozen=True, repr=False)
class piecewise(Schedule):
    r"""One value between each two boundaries.

    .. math:: \eta(s) = \text{values}_i, \qquad i = |\{b \in \text{boundaries} : b \le s\}|

    At a boundary the new value holds, as in torch and optax; keras keeps the old one for that step, so its boundary b is
    b + 1 here. `interpolate` goes from value to value in lines.

    Parameters
    ----------
    boundaries : sequence of int
        Steps in {0, 1, 2, ...}, rising.
    values : sequence of float
        One more than boundaries; finite.

    Examples
    --------
    >>> rate = schuss.schedules.piecewise([2, 4], [1.0, 0.5, 0.1])
    >>> [rate(s) for s in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    """

    boundaries: Annotated[tuple[int, ...], Items(Count(0), rising=True)]
    values: Annotated[tuple[float, ...], Items(Domain(lower_open=True))]

    def __post_init__(self) -> None:
        """Check that there is a value for every piece."""
        super().__post_init__()
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"piecewise: values must be one more than boundaries, got {len(self.values)} and {len(self.boundaries)}"
            )

    def _at(self, step: int) -> float:
        return self.values[bisect_right(self.boundaries, step)]

    def _extent(self) -> int:
        return 2 * self.boundaries[-1] + 1


@dataclass(frozen=True, repr=False)
class step(Schedule):
    r"""Times a factor after every so many steps.

    .. math:: \eta(s) = \text{value} \cdot \text{factor}^{\lfloor s / \text{every} \rfloor}

    Parameters
    ----------
    value : float
        The first value, in [0, inf).
    every : int
        Steps of a stair, in {1, 2, ...}.
    factor : float
        In (0, 1].

    Examples
    --------
    >>> rate = schuss.schedules.step(1.0, every=2, factor=0.5)
    >>> [rate(s) for s in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    value: NonNegative
    every: SomeSteps
    factor: Shrink = 0.1

    def _at(self, step: int) -> float:
        return self.value * math.pow(self.factor, step // self.every)


@dataclass(frozen=True, repr=False)
class multistep(Schedule):
    r"""Times a factor at every milestone.

    .. math:: \eta(s) = \text{value} \cdot \text{factor}^{|\{m \in \text{milestones} : m \le s\}|}

    Parameters
    ----------
    value : float
        The first value, in [0, inf).
    milestones : sequence of int
        Steps in {0, 1, 2, ...}, rising.
    factor : float
        In (0, 1].

    Examples
    --------
    >>> rate = schuss.schedules.multistep(1.0, [2, 5], factor=0.5)
    >>> [rate(s) for s in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
    """

    value: NonNegative
    milestones: Annotated[tuple[int, ...], Items(Count(0), rising=True)]
    factor: Shrink = 0.1

    def _at(self, step: int) -> float:
        return self.value * math.pow(self.factor, bisect_right(self.milestones, step))

    def _extent(self) -> int:
        return 2 * self.milestones[-1] + 1


@dataclass(frozen=True, repr=False)
class exponential(Schedule):
    r"""Times a factor within every so many steps, smoothly or in stairs.

    .. math:: \eta(s) = \text{value} \cdot \text{factor}^{s / \text{every}}

    `geometric` goes from one value to another in a given number of steps, upward as well.

    Parameters
    ----------
    value : float
        The first value, in [0, inf).
    factor : float
        In (0, 1].
    every : int
        Steps in which the value falls by the factor, in {1, 2, ...}.
    staircase : bool
        Round ``s / every`` down.

    Examples
    --------
    >>> rate = schuss.schedules.exponential(1.0, 0.25, every=2)
    >>> [rate(s) for s in range(5)]
    [1.0, 0.5, 0.25, 0.125, 0.0625]
    """

    value: NonNegative
    factor: Shrink
    every: SomeSteps = 1
    staircase: Switch = False

    def _at(self, step: int) -> float:
        return self.value * math.pow(self.factor, step // self.every if self.staircase else step / self.every)


@dataclass(frozen=True, repr=False)
class inverse_time(Schedule):
    r"""Divided by a number that grows with the steps.

    .. math:: \eta(s) = \frac{\text{value}}{1 + \text{rate} \cdot s / \text{every}}

    With rate 1 it is ``value / (1 + s / every)``: half after `every` batches, a third after twice as many.

    Parameters
    ----------
    value : float
        The first value, in [0, inf).
    rate : float
        In [0, inf).
    every : int
        In {1, 2, ...}.
    staircase : bool
        Round ``s / every`` down.

    Examples
    --------
    >>> rate = schuss.schedules.inverse_time(1.0, 1.0, every=2)
    >>> [round(rate(s), 3) for s in range(5)]
    [1.0, 0.667, 0.5, 0.4, 0.333]
    """

    value: NonNegative
    rate: NonNegative = 1.0
    every: SomeSteps = 1
    staircase: Switch = False

    def _at(self, step: int) -> float:
        return self.value / (1.0 + self.rate * (step // self.every if self.staircase else step / self.every))


@dataclass(frozen=True, repr=False)
class linear(Schedule):
    r"""A line from one value to another, where it stays.

    .. math:: \eta(s) = \text{start} + (\text{end} - \text{start}) \cdot \min(s / \text{steps}, 1)

    A line upward from a tiny value is the learning-rate range test of Smith (2017), https://arxiv.org/abs/1506.01186;
    `geometric` is the other usual form of it.

    Parameters
    ----------
    start, end : float
        Finite.
    steps : int
        Steps until the end, in {1, 2, ...}.

    Examples
    --------
    >>> rate = schuss.schedules.linear(1.0, 0.0, steps=4)
    >>> [rate(s) for s in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    start: Real
    end: Real
    steps: SomeSteps

    def _at(self, step: int) -> float:
        return between(self.start, self.end, min(step / self.steps, 1.0))


@dataclass(frozen=True, repr=False)
class geometric(Schedule):
    r"""The same ratio at every step from one value to another, where it stays.

    .. math:: \eta(s) = \text{start}^{1 - x} \, \text{end}^{x}, \qquad x = \min(s / \text{steps}, 1)

    Upward it is the learning-rate range test on a logarithmic axis.

    Parameters
    ----------
    start, end : float
        In (0, inf).
    steps : int
        Steps until the end, in {1, 2, ...}.

    Examples
    --------
    >>> rate = schuss.schedules.geometric(1e-4, 1.0, steps=4)
    >>> [round(rate(s), 6) for s in range(6)]
    [0.0001, 0.001, 0.01, 0.1, 1.0, 1.0]
    """

    start: Positive
    end: Positive
    steps: SomeSteps

    def _at(self, step: int) -> float:
        return between_ratios(self.start, self.end, min(step / self.steps, 1.0))


@dataclass(frozen=True, repr=False)
class polynomial(Schedule):
    r"""A power of the steps that are left, from one value to another.

    .. math:: \eta(s) = \text{end} + (\text{start} - \text{end}) \left(1 - \frac{\min(s, S)}{S}\right)^{\text{power}}

    with S = `steps`, or with `cycle` the least multiple of it that is not less than s (and at least one): the value jumps
    up after every S steps, and less high each time, as in keras.

    Parameters
    ----------
    start, end : float
        Finite.
    steps : int
        Steps until the end, in {1, 2, ...}.
    power : float
        In (0, inf).
    cycle : bool
        Start again after the end.

    Examples
    --------
    >>> rate = schuss.schedules.polynomial(1.0, 0.0, steps=4, power=2)
    >>> [rate(s) for s in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    start: Real
    end: Real
    steps: SomeSteps
    power: Positive = 1.0
    cycle: Switch = False

    def _at(self, step: int) -> float:
        steps = self.steps * max(-(-step // self.steps), 1) if self.cycle else self.steps
        return between(self.end, self.start, math.pow(1.0 - min(step / steps, 1.0), self.power))

    def _extent(self) -> int:
        return 4 * self.steps if self.cycle else self.steps


@dataclass(frozen=True, repr=False)
class rex(Schedule):
    r"""REX: near the peak for longer than a line, then steeply down to the floor.

    .. math:: \eta(s) = \text{floor} + (\text{peak} - \text{floor}) \frac{1 - x}{1 - x / 2},
              \qquad x = \min(s / \text{steps}, 1)

    Chen, Wolfe & Kyrillidis (2021), *REX: Revisiting budgeted training with an improved schedule*,
    https://arxiv.org/abs/2107.04197

    Parameters
    ----------
    peak : float
        The first value, in [0, inf).
    steps : int
        Steps until the floor, in {1, 2, ...}.
    floor : float
        The last value, in [0, inf).

    Examples
    --------
    >>> rate = schuss.schedules.rex(1.0, steps=4)
    >>> [round(rate(s), 3) for s in range(6)]
    [1.0, 0.857, 0.667, 0.4, 0.0, 0.0]
    """

    peak: NonNegative
    steps: SomeSteps
    floor: NonNegative = 0.0

    def _at(self, step: int) -> float:
        x = min(step / self.steps, 1.0)
        return between(self.floor, self.peak, (1.0 - x) / (1.0 - 0.5 * x))


@dataclass(frozen=True, repr=False)
class tanh(Schedule):
    r"""Hyperbolic-tangent decay: a plateau, a fall, a plateau.

    .. math:: \eta(s) = \text{floor} + \frac{\text{peak} - \text{floor}}{2} \left(1 - \tanh(L + (U - L) x)\right),
              \qquad x = \min(s / \text{steps}, 1)

    with L = `lower` and U = `upper`, which say what part of the curve is taken: the first value is just below the peak, and
    the last just above the floor. Hsueh, Li & Wu (2019), *Stochastic gradient descent with hyperbolic-tangent decay on
    classification*, https://arxiv.org/abs/1806.01593

    Parameters
    ----------
    peak : float
        In [0, inf).
    steps : int
        Steps until the last value, in {1, 2, ...}.
    floor : float
        In [0, inf).
    lower, upper : float
        Finite, `lower` below `upper`.

    Examples
    --------
    >>> rate = schuss.schedules.tanh(1.0, steps=4)
    >>> [round(rate(s), 3) for s in range(6)]
    [1.0, 0.999, 0.953, 0.182, 0.002, 0.002]
    """

    peak: NonNegative
    steps: SomeSteps
    floor: NonNegative = 0.0
    lower: Real = -6.0
    upper: Real = 3.0

    def __post_init__(self) -> None:
        """Check the part of the curve."""
        super().__post_init__()
        check_below("tanh", ("lower", self.lower), ("upper", self.upper))

    def _at(self, step: int) -> float:
        at = between(self.lower, self.upper, min(step / self.steps, 1.0))
        return between(self.floor, self.peak, 0.5 * (1.0 - math.tanh(at)))
