"""What every schedule has: checked arguments, a repr that makes it again, a picture."""

from __future__ import annotations

import functools
import itertools
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from types import UnionType
from typing import Annotated, Any, Literal, Protocol, TypeAlias, Union, get_args, get_origin, get_type_hints

from schuss.hyperparameters import Domain, as_float, shown


class Range(Protocol):
    """What an argument may be."""

    def check(self, who: str, value: Any) -> Any:
        """Return the value as it is kept, or raise with `who` ("cosine: peak") at the start of the sentence."""


@dataclass(frozen=True)
class Count:
    """The whole numbers from `least`."""

    least: int = 0

    def check(self, who: str, value: object) -> int:
        """Return the number as a Python int."""
        number = as_float(value)
        if number is None:
            raise TypeError(f"{who} must be a whole number, got {shown(value)}")
        # Infinity and NaN have no remainder of 0 either.
        if number < self.least or number % 1 != 0:
            raise ValueError(f"{who} must be in {{{self.least}, {self.least + 1}, ...}}, got {value}")
        return int(value)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, who: str, value: object) -> str:
        """Return the word."""
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"{who} must be one of {', '.join(map(repr, self.words))}, got {shown(value)}")
        return value


@dataclass(frozen=True)
class Items:
    """A sequence of at least one item; of rising ones, where `rising` says so."""

    of: Range
    rising: bool = False

    def check(self, who: str, value: object) -> tuple[Any, ...]:
        """Return the items as a tuple."""
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError(f"{who} must be a sequence, got {shown(value)}")
        items = tuple(self.of.check(f"{who}[{i}]", item) for i, item in enumerate(value))
        if not items:
            raise ValueError(f"{who} must have at least one item")
        if self.rising and any(a >= b for a, b in itertools.pairwise(items)):
            raise ValueError(f"{who} must rise from item to item, got {items}")
        return items


#: Any finite number.
Real: TypeAlias = Annotated[float, Domain(lower_open=True)]
#: In [0, inf).
NonNegative: TypeAlias = Annotated[float, Domain(0.0)]
#: In (0, inf).
Positive: TypeAlias = Annotated[float, Domain(0.0, lower_open=True)]
#: In (0, 1].
Shrink: TypeAlias = Annotated[float, Domain(0.0, 1.0, lower_open=True, upper_open=False)]
#: In (0, 1).
OpenFraction: TypeAlias = Annotated[float, Domain(0.0, 1.0, lower_open=True)]
#: True or False.
Switch: TypeAlias = Annotated[bool, Domain(switch=True)]
#: Steps, from 0 and from 1.
Steps: TypeAlias = Annotated[int, Count(0)]
SomeSteps: TypeAlias = Annotated[int, Count(1)]

_FROM_0, _FROM_1 = Count(0), Count(1)

#: Pictures show no more points than this.
_POINTS = 5000


@functools.cache
def _ranges(cls: type) -> dict[str, Range]:
    """Return what the arguments of a schedule may be, from its annotations."""
    found: dict[str, Range] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        for each in get_args(hint) if get_origin(hint) is UnionType or get_origin(hint) is Union else (hint,):
            if get_origin(each) is Literal:
                found[name] = Choice(get_args(each))
            for mark in getattr(each, "__metadata__", ()):
                found[name] = mark
    return found


class Schedule(ABC):
    """Base of the schedules: dataclasses whose `_at` is their formula."""

    def __post_init__(self) -> None:
        """Check the arguments against the ranges in their annotations."""
        ranges = _ranges(type(self))
        for field in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            if not field.init or field.name not in ranges:
                continue
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                checked = ranges[field.name].check(f"{type(self).__name__}: {field.name}", value)
                object.__setattr__(self, field.name, checked)

    def __call__(self, step: int) -> float:
        """Return the value after `step` steps."""
        if type(step) is not int or step < 0:
            step = _FROM_0.check(f"{type(self).__name__}: step", step)
        return self._at(step)

    @abstractmethod
    def _at(self, step: int) -> float:
        """Return the value after `step` steps: the formula."""

    def _arguments(self) -> dict[str, object]:
        """Return the arguments by name, without those that were not given and have no value."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.init}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if value is not None}

    def __repr__(self) -> str:
        """Show what makes the schedule again."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._arguments().items())})"

    def _extent(self) -> int:
        """Return how many steps a picture shows."""
        return int(getattr(self, "steps", 1000))

    def plot(self, steps: int | None = None, ax: Any = None) -> Any:
        """Draw the values at every step; needs matplotlib.

        Parameters
        ----------
        steps : int, optional
            How many to draw, in {1, 2, ...}: those of the schedule, where it has an end, else 1000.
        ax : matplotlib axes, optional
            To draw into; those of a new figure by default.

        Returns
        -------
        matplotlib axes
            With the schedule in the legend.
        """
        last = self._extent() if steps is None else _FROM_1.check(f"{type(self).__name__}: steps", steps)
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(layout="constrained")
        stride = -(-last // _POINTS)
        shown = [*range(0, last, stride), last]
        label = textwrap.fill(repr(self), 60, break_long_words=False, break_on_hyphens=False)
        ax.plot(shown, [self(each) for each in shown], drawstyle="steps-post", label=label)
        ax.set_xlabel("steps done")
        ax.set_ylabel("value")
        # Above the axes: a schedule's description is too long to lie on its curve.
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False, fontsize="small")
        return ax


def check_below(who: str, first: tuple[str, float], second: tuple[str, float]) -> None:
    """Raise if the first of two named arguments is not below the second."""
    if not first[1] < second[1]:
        raise ValueError(f"{who}: {first[0]} must be below {second[0]}, got {first[1]!r} and {second[1]!r}")


def between(start: float, end: float, share: float) -> float:
    """Return the number that lies the given share of the way from start to end; exact at both ends."""
    return start * (1.0 - share) + end * share


def between_ratios(start: float, end: float, share: float) -> float:
    """Return the same on a logarithmic axis."""
    return math.pow(start, 1.0 - share) * math.pow(end, share)


def rise(peak: float, step: int, steps: int, start: float | None) -> float:
    """Return the value of a linear warm-up that reaches `peak` after its steps."""
    return peak * (step + 1) / steps if start is None else between(start, peak, step / steps)
