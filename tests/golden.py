"""The bits that every optimizer makes, on any machine: hashes of parameters and state after a few steps, in golden.json.

    python tests/golden.py

writes them anew, which a change of a rule's arithmetic makes necessary, and a new optimizer worthwhile.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import support
from numpy.typing import NDArray
from support import Variant, everything

GOLDEN = Path(__file__).with_name("golden.json")
STORAGE = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SHAPES = [(), (17,), (3, 43), (20000,)]
STEPS = 5
#: Where dense linear algebra is between the sweeps, its library decides the last bits.
VARIANTS = [variant for variant in [*support.VARIANTS, *support.PASS_VARIANTS] if variant.cls.exact]


def pseudo_random(count: int, seed: int) -> NDArray[np.float32]:
    """Return numbers in [-1, 1) made in integer arithmetic (splitmix64), the same on any machine."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> np.uint64(31))) >> np.uint64(40)
    return ((z.astype(np.int64) - 2**23) / 2**23).astype(np.float32)  # 24 bits: exact


@cache
def pseudo_random_tree(seed: int, dtype: Any) -> list[NDArray[Any]]:
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    return [
        np.asarray(pseudo_random(size, 1000 * seed + i).astype(dtype).reshape(shape))
        for i, (size, shape) in enumerate(zip(sizes, SHAPES, strict=True))
    ]


def digest(variant: Variant, storage: str) -> str:
    """Return a hash of all parameters and state after a few steps."""
    dtype = STORAGE[storage]
    narrow = np.dtype(dtype).itemsize == 2
    opt = variant.make([p.copy() for p in pseudo_random_tree(0, dtype)], state_dtype=dtype if narrow else None)
    names = opt._kernel()["inputs"]
    for step in range(STEPS):
        grads, others = pseudo_random_tree(2 * step + 1, dtype), pseudo_random_tree(2 * step + 2, dtype)
        if hasattr(opt, "update_hessian"):
            opt.update_hessian(others)
        opt.step(grads, **dict.fromkeys(names, others), **dict.fromkeys(opt.given, 2.5))
    total = hashlib.sha256()
    for array in everything(opt):
        total.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return total.hexdigest()[:32]


def digests(variant: Variant) -> dict[str, str]:
    """Return the hash of every storage."""
    return {storage: digest(variant, storage) for storage in STORAGE}


@cache
def committed() -> dict[str, dict[str, str]]:
    """Return what golden.json holds: the digests of every variant by name."""
    hashes: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    return hashes


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({str(variant): digests(variant) for variant in VARIANTS}, indent=1) + "\n")
    print(f"{GOLDEN}: {len(VARIANTS)} variants")
