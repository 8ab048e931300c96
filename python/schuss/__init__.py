"""Every optimizer of deep learning as one compiled pass over your NumPy arrays.

Each optimizer and each wrapper is a class of this package, imported on first use: `schuss.optimizers()`,
`schuss.closure_optimizers()` and `schuss.wrappers()` have them all.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from schuss import _core, clipping, math
from schuss._runtime import configure, get_num_threads, instruction_sets, set_num_threads, show_runtime, use_isa
from schuss.clipping import AdaGC, AutoClip, ClipAdaptive, ClipNorm, ClipValue
from schuss.optimizer import Group, Optimizer, StateError, StepInfo
from schuss.optimizers import __path__ as _optimizers_folder  # here, or it would replace the function of its name
from schuss.second_order import __path__ as _second_order_folder
from schuss.stages import Decay, GradientNoise, Skip
from schuss.wrappers import __path__ as _wrappers_folder

if TYPE_CHECKING:
    from schuss import aggregation, linalg, schedules
    from schuss.attention import qk_clip
    from schuss.checkpoint import CheckpointError
    from schuss.curvature import hutchinson
    from schuss.insight import GradientNoiseScale, gradient_noise_scale
    from schuss.masks import DropoutMask, dropout
    from schuss.minimization import minimize, scipy_method
    from schuss.range_test import lr_find
    from schuss.recorder import Recorder
    from schuss.second_order._base import ClosureOptimizer
    from schuss.wrapper import Wrapper

__version__: str = _core.__version__

__all__ = [
    "AdaGC",
    "AutoClip",
    "CheckpointError",
    "ClipAdaptive",
    "ClipNorm",
    "ClipValue",
    "ClosureOptimizer",
    "Decay",
    "DropoutMask",
    "GradientNoise",
    "GradientNoiseScale",
    "Group",
    "Optimizer",
    "Recorder",
    "Skip",
    "StateError",
    "StepInfo",
    "Wrapper",
    "aggregation",
    "catalogue",
    "clipping",
    "closure_optimizers",
    "constraints",
    "dropout",
    "get_num_threads",
    "gradient_noise_scale",
    "hutchinson",
    "instruction_sets",
    "linalg",
    "lr_find",
    "math",
    "minimize",
    "optimizers",
    "qk_clip",
    "reference",
    "schedules",
    "scipy_method",
    "set_num_threads",
    "show_runtime",
    "use_isa",
    "wrappers",
]

#: What is imported on first use, since few programs need it, and its module.
_LAZY = {
    "CheckpointError": "checkpoint",
    "ClosureOptimizer": "second_order._base",
    "DropoutMask": "masks",
    "GradientNoiseScale": "insight",
    "Recorder": "recorder",
    "Wrapper": "wrapper",
    "dropout": "masks",
    "gradient_noise_scale": "insight",
    "hutchinson": "curvature",
    "lr_find": "range_test",
    "qk_clip": "attention",
    "minimize": "minimization",
    "scipy_method": "minimization",
}


def _modules() -> dict[str, str]:
    """Return the modules of classes by these classes' names in lower case, which have no underscores."""
    folders = {"optimizers": _optimizers_folder, "wrappers": _wrappers_folder, "second_order": _second_order_folder}
    return {
        module.name.replace("_", ""): f"schuss.{package}.{module.name}"
        for package, folder in folders.items()
        for module in pkgutil.iter_modules(folder)
        if not module.name.startswith("_")
    }


def _class_of(key: str, module: str) -> Any:
    """Import a class, given its name in lower case."""
    found = vars(importlib.import_module(module))
    return next(value for name, value in found.items() if name.lower() == key and isinstance(value, type))


def _classes(package: str) -> dict[str, Any]:
    """Return the classes of a folder by name, in alphabetical order."""
    classes = [_class_of(key, module) for key, module in _modules().items() if module.startswith(f"schuss.{package}.")]
    return {cls.__name__: cls for cls in sorted(classes, key=lambda cls: cls.__name__.lower())}


def optimizers() -> dict[str, type[Optimizer]]:
    """Return every optimizer of the package by name.

    Examples
    --------
    >>> "Adam" in schuss.optimizers()
    True
    """
    return _classes("optimizers")


def closure_optimizers() -> dict[str, type[ClosureOptimizer]]:
    """Return every optimizer of the package that evaluates a function itself, by name.

    Examples
    --------
    >>> "LBFGS" in schuss.closure_optimizers()
    True
    """
    return _classes("second_order")


def wrappers() -> dict[str, type[Wrapper]]:
    """Return every wrapper of the package by name.

    Examples
    --------
    >>> "Lookahead" in schuss.wrappers()
    True
    """
    return _classes("wrappers")


def __getattr__(name: str) -> Any:
    if name in ("aggregation", "catalogue", "constraints", "linalg", "optimizer", "reference", "schedules", "wrapper"):
        return importlib.import_module(f"schuss.{name}")
    if name in _LAZY:
        globals()[name] = value = getattr(importlib.import_module(f"schuss.{_LAZY[name]}"), name)
        return value
    if not name.startswith("_") and (module := _modules().get(name.lower())):
        cls = _class_of(name.lower(), module)
        if cls.__name__ == name:
            globals()[name] = cls
            return cls
    raise AttributeError(f"module 'schuss' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *optimizers(), *wrappers(), *closure_optimizers()])


configure()
