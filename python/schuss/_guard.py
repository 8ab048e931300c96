"""One thread at a time inside an optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from schuss._runtime import held

_Method = TypeVar("_Method", bound=Callable[..., Any])


def guarded(method: _Method) -> _Method:
    """Let one thread at a time into a method, and refuse others."""

    @functools.wraps(method)
    def alone(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._guard:
            return method(self, *args, **kwargs)

    return cast(_Method, alone)


def uninterrupted(method: _Method) -> _Method:
    """Let one thread at a time into a method, and let signals wait for its end."""

    @functools.wraps(method)
    def whole(self: Any, *args: Any, **kwargs: Any) -> Any:
        with held, self._guard:
            return method(self, *args, **kwargs)

    return cast(_Method, whole)
