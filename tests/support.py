"""What the tests derive from the registry: every optimizer and pass, in every combination of its construction flags."""

from __future__ import annotations

import importlib
import os
import pkgutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import schuss
import schuss.passes
from schuss import trees

SLOW = bool(os.environ.get("SCHUSS_SLOW"))
"""Whether tests run at full length, as `.ci/run slow` asks for."""

only_slow = pytest.mark.skipif(not SLOW, reason="takes minutes or gigabytes; SCHUSS_SLOW=1 runs it")
"""Marks what has no short form."""


def tries(short: int, full: int) -> int:
    """Return how often something is tried: in an ordinary run, and at full length."""
    return full if SLOW else short


def passes() -> list[type[schuss.Optimizer]]:
    """Return the classes of the compiled passes that are no optimizers."""
    modules = [
        importlib.import_module(f"schuss.passes.{module.name}")
        for module in pkgutil.iter_modules(schuss.passes.__path__)
    ]
    return [cls for module in modules for cls in vars(module).values() if is_own_class(cls, module.__name__)]


def is_own_class(value: Any, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module


CLASSES = list(schuss.optimizers().values())
PASSES = passes()


def one_of_each_shape(classes: list[type[schuss.Optimizer]]) -> list[type[schuss.Optimizer]]:
    """Return the first class of those whose kernels run alike: one scope, number of operands, kind of sums."""
    found: dict[Any, type[schuss.Optimizer]] = {}
    for cls in classes:
        for kernel in cls._compiled()["kernels"].values():
            operands = (len(kernel["inputs"]), len([name for name in kernel["state"] if name]), bool(kernel["draws"]))
            found.setdefault((cls.kind, kernel["scope"], *operands, bool(kernel["rows"]), bool(kernel["columns"])), cls)
    return list(dict.fromkeys(found.values()))


@dataclass(frozen=True)
class Variant:
    """An optimizer class with the arguments that turn one combination of its flags on."""

    cls: type[schuss.Optimizer]
    arguments: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return "-".join([self.cls.__name__, *(name for name, _ in self.arguments)])

    def make(self, params: Any, **further: Any) -> schuss.Optimizer:
        return self.cls(params, **dict(self.arguments) | further)


def draws(cls: type[schuss.Optimizer]) -> bool:
    """Tell whether a rule draws random numbers, which depend on a tensor's name and on an element's place in it."""
    return any(kernel["draws"] for kernel in cls._compiled()["kernels"].values())


def variants_of(cls: type[schuss.Optimizer]) -> list[Variant]:
    compiled = cls._compiled()
    found = []
    for flags in compiled["kernels"]:
        names = [name for bit, name in enumerate(compiled["flags"]) if flags >> bit & 1]
        values = {name: True if cls.hyperparameters[name].domain.switch else 0.9 for name in names}
        found.append(Variant(cls, tuple(values.items())))
    return found


VARIANTS = [variant for cls in CLASSES for variant in variants_of(cls)]
PASS_VARIANTS = [variant for cls in PASSES for variant in variants_of(cls)]


def by_rows(cls: type[schuss.Optimizer]) -> bool:
    """Tell whether an optimizer has units that are rows, which must lie side by side in memory."""
    kernels = cls._compiled()["kernels"].values()
    return any(kernel["scope"] == "row" or kernel["rows"] or kernel["columns"] for kernel in kernels)


def inputs_for(optimizer: schuss.Optimizer, grads: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Return further inputs of a step: as the gradients, with other numbers."""

    def like(grad: Any) -> Any:
        if grad is None:
            return None
        grad = np.asarray(grad)
        fresh = rng.standard_normal(grad.shape)
        if grad.dtype == np.uint16:
            return schuss.reference.rounded(fresh.astype(np.float32), grad.dtype)
        return fresh.astype(grad.dtype)

    arrays = {name: trees.map_leaves(like, grads) for name in optimizer._kernel()["inputs"]}
    return arrays | {name: 1 + float(rng.exponential()) for name in optimizer.given}


def bits(array: np.ndarray) -> np.ndarray:
    """Return an array's bits, with one pattern for every NaN."""
    values = np.ascontiguousarray(array)
    if values.dtype.kind == "c":
        values = values.view(np.float64 if values.dtype == np.complex128 else np.float32)
    unsigned = values.view({1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[values.dtype.itemsize])
    with np.errstate(invalid="ignore"):
        nan = np.isnan(schuss.reference.widened(values, np.float64)) if values.dtype.kind in "fV" else False
    return np.where(nan, 1, unsigned)


def everything(optimizer: schuss.Optimizer) -> list[np.ndarray]:
    """Return all memory that a step may change."""
    slots = [a for slot in optimizer._slots for a in slot if a is not None]
    return [*optimizer._leaves, *slots, optimizer._scalars, optimizer._counts]


def snapshot(optimizer: schuss.Optimizer) -> list[bytes]:
    return [array.tobytes() for array in everything(optimizer)]
