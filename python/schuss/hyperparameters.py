"""Hyper-parameters: annotated in the classes, checked against their range at every assignment, or schedules."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from schuss.optimizer import Optimizer

#: A function of the number of steps already done (0 before the first step).
Schedule: TypeAlias = Callable[[int], float]


@dataclass(frozen=True)
class Domain:
    """The real numbers from `lower` to `upper`, the whole ones among them, or the truth values."""

    lower: float = -math.inf
    upper: float = math.inf
    lower_open: bool = False
    upper_open: bool = True
    switch: bool = False
    whole: bool = False

    def __str__(self) -> str:
        """Return the interval in mathematical notation."""
        if self.switch:
            return "True or False"
        if self.whole:
            first = int(self.lower)
            return f"{{{', '.join(str(n) for n in range(first, max(first + 2, 3)))}, ...}}"
        return f"{'(' if self.lower_open else '['}{self.lower:g}, {self.upper:g}{')' if self.upper_open else ']'}"

    def __contains__(self, value: float) -> bool:
        """Tell whether a number is in range; NaN never is."""
        above = value > self.lower if self.lower_open else value >= self.lower
        within = above and (value < self.upper if self.upper_open else value <= self.upper)
        return within and not (self.whole and value != int(value))

    def check(self, who: str, value: object, wanted: str = "a real number") -> float | bool:
        """Return the number as a Python float, or raise with `who` ("Adam: lr") at the start of the sentence."""
        if self.switch:
            if isinstance(value, bool | np.bool_):
                return bool(value)
            raise TypeError(f"{who} must be True or False, got {shown(value)}")
        number = as_float(value)
        if number is None:
            raise TypeError(f"{who} must be {wanted}, got {shown(value)}")
        if number not in self:
            raise ValueError(f"{who} must be in {self}, got {number:g}")
        return number


def shown(value: object) -> str:
    """Return what a value looks like, on one line and not at length."""
    text = " ".join(repr(value).splitlines())
    return text if len(text) <= 200 else f"{text[:197]}..."


def as_float(value: object) -> float | None:
    """Return a real number as a Python float, infinite where it is too large for one; None for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, float | int | np.floating | np.integer):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


#: In [0, inf).
NonNegative: TypeAlias = Annotated[float | Schedule, Domain(0.0)]
#: In (0, inf).
Positive: TypeAlias = Annotated[float | Schedule, Domain(0.0, lower_open=True)]
#: In [0, 1).
Fraction: TypeAlias = Annotated[float | Schedule, Domain(0.0, 1.0)]
#: In [0, 1].
UnitInterval: TypeAlias = Annotated[float | Schedule, Domain(0.0, 1.0, upper_open=False)]
#: In (0, 1).
OpenFraction: TypeAlias = Annotated[float | Schedule, Domain(0.0, 1.0, lower_open=True)]
#: Any finite number.
Real: TypeAlias = Annotated[float | Schedule, Domain(lower_open=True)]
#: In {0, 1, 2, ...}, up to 2**53: what a double can hold.
Whole: TypeAlias = Annotated[float | Schedule, Domain(0.0, 2.0**53, upper_open=False, whole=True)]
#: In [1, inf], infinity included.
Growth: TypeAlias = Annotated[float | Schedule, Domain(1.0, upper_open=False)]
#: True or False, chosen at construction.
Switch: TypeAlias = Annotated[bool, Domain(switch=True)]


def checked(owner: str, name: str, value: object, domain: Domain) -> float | bool | Schedule:
    """Return a number of a domain, or a schedule; raise a sentence that starts with the owner's name."""
    if isinstance(value, type) and not domain.switch:
        raise TypeError(
            f"{owner}: {name} must be a real number or a schedule, got the class {value.__name__}; "
            f"call it, {value.__name__}(...)"
        )
    if callable(value) and not domain.switch:
        return value
    return domain.check(f"{owner}: {name}", value, "a real number or a schedule")


def value_at(owner: str, name: str, value: float | bool | Schedule, domain: Domain, step: int) -> float:
    """Return a number, or what a schedule gives at a step, checked."""
    if not callable(value):
        return float(value)
    now: object = value(step)
    number = as_float(now)
    if number is None:
        raise TypeError(f"{owner}: the schedule of {name} must give a real number, got {now!r} at step {step}")
    if number not in domain:
        raise ValueError(f"{owner}: the schedule of {name} must stay in {domain}, got {number:g} at step {step}")
    return number


def argument(owner: object, name: str, domain: Domain, step: int | None = None, *, schedule: bool = True) -> float:
    """Check an argument that an object keeps, or return its value at a step."""
    who, value = type(owner).__name__, getattr(owner, name)
    if step is not None:
        return value_at(who, name, value, domain, step)
    if schedule:
        checked(who, name, value, domain)
    else:
        domain.check(f"{who}: {name}", value)
    return math.nan


@functools.cache
def _source(owner: type) -> str:
    """Return the text of a class, which is slow to be found."""
    return inspect.getsource(owner)


class Hyperparameter:
    """A hyper-parameter as an attribute: reading gives the optimizer's value, assignment checks and sets all groups."""

    def __init__(self, owner: type, name: str, default: float | bool, domain: Domain) -> None:
        self.owner, self.name, self.default, self.domain = owner, name, default, domain

    @property
    def doc(self) -> str:
        """What it means: the `#:` comment beside its annotation."""
        for owner in self.owner.__mro__[:-1]:
            if found := re.search(rf"^\s*{self.name}\s*:.*#:\s*(.+)$", _source(owner), re.MULTILINE):
                return found.group(1).strip()
        return ""

    def check(self, optimizer: str, value: object) -> float | bool | Schedule:
        """Return a valid value, or raise a sentence that starts with the optimizer's name."""
        return checked(optimizer, self.name, value, self.domain)

    def at(self, optimizer: str, value: float | bool | Schedule, step: int) -> float:
        """Return the value at a step, of a schedule as well."""
        return value_at(optimizer, self.name, value, self.domain, step)

    def __get__(self, instance: Optimizer | None, owner: type | None = None) -> Any:
        """Return the value that the optimizer was given, or on the class this description."""
        return self if instance is None else instance._defaults[self.name]

    def __set__(self, instance: Optimizer, value: object) -> None:
        """Check the value and give it to every group."""
        instance._assign(self.name, value, range(len(instance._groups)))
