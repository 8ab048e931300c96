"""Arguments of constructors that annotations declare: checked at construction and at every assignment."""

from __future__ import annotations

import contextlib
import inspect
import threading
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from schuss._runtime import held
from schuss.hyperparameters import Domain, Hyperparameter, Schedule
from schuss.optimizer import _did_you_mean, _option, _Typed

#: A number in {1, 2, ...}.
Count: TypeAlias = Annotated[int, Domain(1.0, 2.0**53, upper_open=False, whole=True)]
#: A number in {1, 2, ...}, or a schedule of such numbers.
ScheduledCount: TypeAlias = Annotated[int | Schedule, Domain(1.0, 2.0**53, upper_open=False, whole=True)]


class Argument(Hyperparameter):
    """An argument as an attribute; a schedule only where the annotation says so."""

    def __init__(self, owner: type, name: str, default: float | bool, domain: Domain, scheduled: bool) -> None:
        super().__init__(owner, name, default, domain)
        self.scheduled = scheduled

    def check(self, who: str, value: object) -> Any:
        """Return a valid value, or raise a sentence that starts with the owner's name."""
        if self.scheduled:
            checked: Any = super().check(who, value)
        else:
            checked = self.domain.check(f"{who}: {self.name}", value)
        return checked if callable(checked) or not self.domain.whole else int(checked)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the value, or on the class this description."""
        return self if instance is None else instance._arguments[self.name]

    def __set__(self, instance: Any, value: object) -> None:
        """Check the value and keep it."""
        instance._check_idle()
        instance._arguments[self.name] = self.check(type(instance).__name__, value)


class Declared(_Typed):
    """What has arguments: numbers by their domain; anything else that is annotated is an option, chosen at construction.

    One thread at a time is inside: `_alone` keeps the others out.
    """

    arguments: ClassVar[dict[str, Argument]] = {}
    options: ClassVar[dict[str, Any]] = {}
    #: The one argument without a name, and what messages call it.
    _first: ClassVar[tuple[str, str]]

    if TYPE_CHECKING:  # and no arguments
        _arguments: dict[str, Any] = _option(default=None, init=False)
        _busy: threading.Lock = _option(default=None, init=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Turn annotations into checked attributes."""
        super().__init_subclass__(**kwargs)
        cls.arguments, cls.options = dict(cls.arguments), dict(cls.options)
        hints = typing.get_type_hints(cls, include_extras=True)
        for name in vars(cls).get("__annotations__", {}):
            hint = hints[name]
            if typing.get_origin(hint) is ClassVar or name.startswith("_"):
                continue
            domain = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Domain)), None)
            default = cls.__dict__[name]
            if domain is None:
                cls.options[name] = default
            else:
                accepted = typing.get_args(hint.__origin__)
                scheduled = any(typing.get_origin(each) is typing.get_origin(Schedule) for each in accepted)
                cls.arguments[name] = Argument(cls, name, default, domain, scheduled)
                setattr(cls, name, cls.arguments[name])
        signature = [inspect.Parameter(cls._first[0], inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        for name, default in ({n: a.default for n, a in cls.arguments.items()} | cls.options).items():
            signature.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        cls.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]

    def _require_named(self, unnamed: tuple[Any, ...]) -> None:
        """Refuse arguments without names besides the first."""
        if not unnamed:
            return
        name, (first, called) = type(self).__name__, self._first
        second = next(iter([*self.arguments, *self.options]), None)
        hint = f"write {name}({first}, {second}=...)" if second else "it takes no others"
        raise TypeError(f"{name}: all arguments but {called} have names, got {unnamed[0]!r:.40} without one; {hint}")

    def _checked(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the values of all arguments and options, if what was given is valid."""
        name, known = type(self).__name__, [*self.arguments, *self.options]
        for key in given:
            if key not in known:
                hint = _did_you_mean(key, known) or (f"it takes {', '.join(known)}" if known else "it takes none")
                raise TypeError(f"{name}: {key} is not an argument of {name}; {hint}")
        arguments = {key: each.check(name, given.get(key, each.default)) for key, each in self.arguments.items()}
        options = {key: self._checked_option(key, given.get(key, default)) for key, default in self.options.items()}
        return arguments, options

    def _checked_option(self, key: str, value: Any) -> Any:
        """Return an option's value, if its annotation allows it."""
        hint = typing.get_type_hints(type(self))[key]
        name = f"{type(self).__name__}: {key}"
        if hint is bool and not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
        literals = [each for each in (hint, *typing.get_args(hint)) if typing.get_origin(each) is typing.Literal]
        choices = [choice for each in literals for choice in typing.get_args(each)]
        if choices and value not in choices and not (value is None and type(None) in typing.get_args(hint)):
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
        return value

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep all others out, and signals waiting, or refuse to be the second."""
        with held:
            if not self._busy.acquire(blocking=False):
                raise self._is_busy()
            try:
                yield
            finally:
                self._busy.release()

    def _check_idle(self) -> None:
        """Refuse to touch an optimizer that is in the middle of a step."""
        if self._busy.locked():
            raise self._is_busy()

    def _is_busy(self) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__}: another thread is inside this optimizer; give each thread its own, or use a lock"
        )
