"""Every optimizer of deep learning as one compiled pass over your NumPy arrays.

Each optimizer is a class of this package, imported on first use: `schuss.optimizers()` has them all.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from schuss import _core, clipping, math, schedules
from schuss._runtime import configure, get_num_threads, instruction_sets, set_num_threads, show_runtime, use_isa
from schuss.clipping import AdaGC, AutoClip, ClipAdaptive, ClipNorm, ClipValue
from schuss.optimizer import Group, Optimizer, StateError, StepInfo
from schuss.optimizers import __path__ as _folder  # imported here, or it would replace the function of its name
from schuss.stages import Decay, GradientNoise, Skip

if TYPE_CHECKING:
    from schuss import aggregation
    from schuss.checkpoint import CheckpointError
    from schuss.masks import DropoutMask, dropout

__version__: str = _core.__version__

__all__ = [
    "AdaGC",
    "AutoClip",
    "CheckpointError",
    "ClipAdaptive",
    "ClipNorm",
    "ClipValue",
    "Decay",
    "DropoutMask",
    "GradientNoise",
    "Group",
    "Optimizer",
    "Skip",
    "StateError",
    "StepInfo",
    "aggregation",
    "catalogue",
    "clipping",
    "constraints",
    "dropout",
    "get_num_threads",
    "instruction_sets",
    "math",
    "optimizers",
    "reference",
    "schedules",
    "set_num_threads",
    "show_runtime",
    "use_isa",
]


def _modules() -> dict[str, str]:
    """Return the optimizers' modules by their names without underscores, which are the classes' in lower case."""
    return {module.name.replace("_", ""): module.name for module in pkgutil.iter_modules(_folder)}


def _class_of(key: str) -> type[Optimizer]:
    """Import an optimizer's class, given its name in lower case."""
    module = importlib.import_module(f"schuss.optimizers.{_modules()[key]}")
    return next(value for name, value in vars(module).items() if name.lower() == key and isinstance(value, type))


def optimizers() -> dict[str, type[Optimizer]]:
    """Return every optimizer of the package by name.

    Examples
    --------
    >>> "Adam" in schuss.optimizers()
    True
    """
    classes = [_class_of(key) for key in _modules()]
    return {cls.__name__: cls for cls in sorted(classes, key=lambda cls: cls.__name__.lower())}


def __getattr__(name: str) -> Any:
    if name in ("aggregation", "catalogue", "constraints", "optimizer", "reference"):
        return importlib.import_module(f"schuss.{name}")
    if name == "CheckpointError":  # files need modules that an import of schuss need not wait for
        return importlib.import_module("schuss.checkpoint").CheckpointError
    if name in ("DropoutMask", "dropout"):
        globals()[name] = value = getattr(importlib.import_module("schuss.masks"), name)
        return value
    if not name.startswith("_") and name.lower() in _modules():
        cls = _class_of(name.lower())
        if cls.__name__ == name:
            globals()[name] = cls
            return cls
    raise AttributeError(f"module 'schuss' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *optimizers()])


configure()
