"""On this processor, or one that QEMU plays: every optimizer makes the bits of tests/golden.json and those of its reference.

python .ci/baseline.py [--chooses SET] [--refuses SET] [--every N]

What has dense linear algebra between its sweeps is compared with its reference to a tolerance. Says what ran, and stops at the
first difference.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
SIZES = (0, 1, 7, 33, 1000)


def require(condition: object, sentence: str) -> None:
    """Stop with a sentence unless something holds."""
    if not condition:
        sys.exit(f"baseline: {sentence}")


def require_refused(isa: str) -> None:
    """Ask the environment for an instruction set that this processor lacks: the import must fail with one sentence."""
    os.environ["SCHUSS_ISA"] = isa
    try:
        import schuss
    except ValueError as error:
        print(f"SCHUSS_ISA={isa}: {error}")
        require(
            str(error).startswith(f"schuss: this machine does not run the instruction set '{isa}'; choose"), str(error)
        )
    else:
        sys.exit(f"baseline: {isa} was accepted, beside {schuss.instruction_sets()}")
    del os.environ["SCHUSS_ISA"]


def compare_with_reference(variant: Any, dtype: Any) -> None:
    """Step an optimizer and its reference side by side."""
    from schuss.reference import Reference, compare

    narrow = np.dtype(dtype).itemsize == 2
    rng = np.random.default_rng(1)

    def numbers(sign: float = -1.0) -> list[Any]:
        return [np.maximum(sign * np.abs(x), x).astype(dtype) for x in map(rng.standard_normal, SIZES)]

    optimizer = variant.make(numbers(), state_dtype=dtype if narrow else None)
    reference = Reference(optimizer)
    for _ in range(3):
        grads = numbers()
        inputs: dict[str, Any] = {name: numbers(1.0) for name in optimizer._kernel()["inputs"]}
        inputs |= dict.fromkeys(optimizer.given, 1.5)
        optimizer.step(grads, **inputs)
        reference.step(grads, **inputs)
    report = compare(optimizer, reference, 0.0 if variant.cls.exact else 1e-2 if narrow else 1e-4)
    require(report, f"{variant}, {np.dtype(dtype)}: {report}")


def main() -> None:
    """Compare everything, or every n-th optimizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chooses", help="the instruction set that must have been chosen")
    parser.add_argument("--refuses", help="one that must be refused")
    parser.add_argument("--every", type=int, default=1, help="of how many variants one is compared")
    arguments = parser.parse_args()
    if arguments.refuses:
        require_refused(arguments.refuses)
    import golden
    import support

    import schuss

    start = time.perf_counter()
    schuss.show_runtime()
    chosen = schuss._core.isa()
    require(arguments.chooses in (None, chosen), f"{chosen} was chosen, not {arguments.chooses}")
    hashes = 0
    variants = [*support.VARIANTS, *support.PASS_VARIANTS][:: arguments.every]
    for variant in variants:
        for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
            compare_with_reference(variant, dtype)
        if str(variant) in golden.committed():
            for storage, expected in golden.committed()[str(variant)].items():
                require(
                    golden.digest(variant, storage) == expected, f"{variant}, {storage}: other bits than in golden.json"
                )
                hashes += 1
    require(hashes, "golden.json was not looked at")
    print(
        f"{platform.machine()}, {chosen}: {len(variants)} variants of optimizers and passes equal their references, and "
        f"{hashes} hashes those of golden.json; {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
