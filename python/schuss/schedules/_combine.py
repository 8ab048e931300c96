"""Schedules made from schedules."""

# ruff: noqa: N801  (classes used as functions)
from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from schuss.schedules._base import Count, Items, Real, Schedule, check_below

#: A function of the number of steps already done.
Inner: TypeAlias = Callable[[int], float]


@dataclass(frozen=True)
class Inside:
    """Schedules; plain functions are kept as `function`, for its repr."""

    def check(self, who: str, value: object) -> Inner:
        """Return the schedule."""
        if not callable(value):
            raise TypeError(
                f"{who} must be a schedule, got {value!r}; write constant({value!r}) for a value that stays"
            )
        return value if isinstance(value, Schedule) or hasattr(value, "state_dict") else function(value)


@dataclass(frozen=True, repr=False)
class function(Schedule):
    r"""A function of the step by its name, with the picture that the other schedules have.

    .. math:: \eta(s) = \text{call}(s)

    Any callable is a schedule without it.

    Parameters
    ----------
    call : callable
        Takes the number of steps done, returns the value.

    Examples
    --------
    >>> def halves(step):
    ...     return 0.5**step
    >>> rate = schuss.schedules.function(halves)
    >>> rate, rate(3)
    (function(halves), 0.125)
    """

    call: Callable[[int], float]

    def __post_init__(self) -> None:
        """Check that it can be called."""
        if not callable(self.call):
            raise TypeError(f"function: call must be callable, got {self.call!r}")

    def _at(self, step: int) -> float:
        return self.call(step)

    def __repr__(self) -> str:
        """Show the function's name."""
        return f"function({getattr(self.call, '__name__', None) or repr(self.call)})"


class Combined(Schedule):
    """Base of schedules that have others inside, and carry the state of those that have one."""

    def _inner(self) -> tuple[Inner, ...]:
        """Return the schedules inside."""
        raise NotImplementedError

    def _stateful(self) -> dict[str, Any]:
        """Return the schedules inside that have a state, by position."""
        return {str(i): each for i, each in enumerate(self._inner()) if hasattr(each, "state_dict")}

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the schedules inside by position; of those that have none, nothing."""
        states = {key: each.state_dict() for key, each in self._stateful().items()}
        return {key: state for key, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the states of the schedules inside.

        Parameters
        ----------
        state : dict
            From `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If it does not fit; nothing was changed.
        """
        from schuss.state import Checks

        state = Checks(type(self).__name__, state, foreign=True).state
        holders = {key: each for key, each in self._stateful().items() if each.state_dict()}
        if set(state) != set(holders):
            raise ValueError(
                f"{type(self).__name__}: the state must be of the schedules {sorted(holders)}, "
                f"got {sorted(map(str, state))!r:.200}"
            )
        for key, each in holders.items():
            copy.deepcopy(each).load_state_dict(state[key])  # raises where it does not fit, before any is changed
        for key, each in holders.items():
            each.load_state_dict(state[key])

    def _extent(self) -> int:
        return max((each._extent() for each in self._inner() if isinstance(each, Schedule)), default=1000)


@dataclass(frozen=True, repr=False)
class join(Combined):
    r"""Schedules one after the other, each counting its steps from 0.

    .. math:: \eta(s) = \eta_i(s - b_i) \quad \text{for } b_i \le s < b_{i+1}, \qquad b_0 = 0

    Parameters
    ----------
    schedules : sequence of schedules
        At least one.
    boundaries : sequence of int
        One less: the steps at which the second and those after it begin, in {1, 2, ...}, rising.

    Examples
    --------
    >>> s = schuss.schedules
    >>> rate = s.join([s.warmup(1.0, 2), s.exponential(1.0, 0.5)], [2])
    >>> [rate(step) for step in range(6)]
    [0.5, 1.0, 1.0, 0.5, 0.25, 0.125]
    """

    schedules: Annotated[tuple[Inner, ...], Items(Inside())]
    boundaries: Annotated[tuple[int, ...], Items(Count(1), rising=True)]

    def __post_init__(self) -> None:
        """Check that every schedule has its place."""
        super().__post_init__()
        if len(self.schedules) != len(self.boundaries) + 1:
            raise ValueError(
                f"join: schedules must be one more than boundaries, got {len(self.schedules)} and {len(self.boundaries)}"
            )

    def _inner(self) -> tuple[Inner, ...]:
        return self.schedules

    def _at(self, step: int) -> float:
        i = bisect_right(self.boundaries, step)
        return self.schedules[i](step - self.boundaries[i - 1] if i else step)

    def _extent(self) -> int:
        last = self.schedules[-1]
        return self.boundaries[-1] + (last._extent() if isinstance(last, Schedule) else 1000)


@dataclass(frozen=True, repr=False, init=False)
class chain(Combined):
    r"""The product of schedules.

    .. math:: \eta(s) = \prod_i \eta_i(s)

    Parameters
    ----------
    *schedules : schedules
        At least one.

    Examples
    --------
    >>> s = schuss.schedules
    >>> rate = s.chain(s.warmup(1.0, 4), s.step(0.8, every=3, factor=0.5))
    >>> [round(rate(step), 3) for step in range(6)]
    [0.2, 0.4, 0.6, 0.4, 0.4, 0.4]
    """

    schedules: Annotated[tuple[Inner, ...], Items(Inside())]

    def __init__(self, *schedules: Inner) -> None:
        object.__setattr__(self, "schedules", schedules)
        self.__post_init__()

    def _inner(self) -> tuple[Inner, ...]:
        return self.schedules

    def _at(self, step: int) -> float:
        return math.prod(each(step) for each in self.schedules)

    def __repr__(self) -> str:
        """Show the factors."""
        return f"chain({', '.join(map(repr, self.schedules))})"


@dataclass(frozen=True, repr=False)
class scale(Combined):
    r"""A schedule times a number.

    .. math:: \eta(s) = \text{factor} \cdot \text{schedule}(s)

    Parameters
    ----------
    schedule : schedule
        What is multiplied.
    factor : float
        Finite.

    Examples
    --------
    >>> rate = schuss.schedules.scale(schuss.schedules.linear(1.0, 0.0, steps=4), 0.5)
    >>> [rate(s) for s in range(6)]
    [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]
    """

    schedule: Annotated[Inner, Inside()]
    factor: Real

    def _inner(self) -> tuple[Inner, ...]:
        return (self.schedule,)

    def _at(self, step: int) -> float:
        return self.factor * self.schedule(step)


@dataclass(frozen=True, repr=False)
class clamp(Combined):
    r"""A schedule that stays within bounds.

    .. math:: \eta(s) = \min(\max(\text{schedule}(s), \text{lower}), \text{upper})

    Parameters
    ----------
    schedule : schedule
        What is kept within bounds.
    lower, upper : float, optional
        Finite, `lower` below `upper`; no bound where not given.

    Examples
    --------
    >>> rate = schuss.schedules.clamp(schuss.schedules.exponential(1.0, 0.5), lower=0.2)
    >>> [rate(s) for s in range(5)]
    [1.0, 0.5, 0.25, 0.2, 0.2]
    """

    schedule: Annotated[Inner, Inside()]
    lower: Real | None = None
    upper: Real | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        super().__post_init__()
        if self.lower is not None and self.upper is not None:
            check_below("clamp", ("lower", self.lower), ("upper", self.upper))

    def _inner(self) -> tuple[Inner, ...]:
        return (self.schedule,)

    def _at(self, step: int) -> float:
        value = self.schedule(step)
        if self.lower is not None and value < self.lower:
            return self.lower
        if self.upper is not None and value > self.upper:
            return self.upper
        return value
