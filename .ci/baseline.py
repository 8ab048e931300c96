"""On a processor without AVX the package is imported, chooses the baseline, and equals the reference bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

import schuss
from schuss.reference import Reference, compare

SIZES = (0, 1, 7, 33, 1000)


def step(cls: type[schuss.Optimizer], dtype: type[np.floating[Any]]) -> None:
    """Step an optimizer and its reference side by side and stop where they part."""
    rng = np.random.default_rng(1)
    optimizer = cls([rng.standard_normal(size).astype(dtype) for size in SIZES])
    reference = Reference(optimizer)
    for _ in range(3):
        grads = [rng.standard_normal(size).astype(dtype) for size in SIZES]
        inputs: dict[str, Any] = {name: [np.abs(grad) for grad in grads] for name in optimizer._kernel()["inputs"]}
        inputs |= dict.fromkeys(optimizer.given, 1.5)
        optimizer.step(grads, **inputs)
        reference.step(grads, **inputs)
    report = compare(optimizer, reference, 0.0 if cls.exact else 1e-4)
    assert report, f"{cls.__name__}, {dtype.__name__}: {report}"


assert schuss.instruction_sets() == ["x86_64"], schuss.instruction_sets()
for each in schuss.optimizers().values():
    step(each, np.float32)
    step(each, np.float64)
print(f"{len(schuss.optimizers())} optimizers equal their references on {schuss.instruction_sets()[0]}")
