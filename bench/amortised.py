"""Whether Shampoo and SOAP cost what their schedules say: steps with and without roots, over whole periods.

Usage: python bench/amortised.py [--shapes 1024x1024 ...] [--frequencies 1 10 100] [--steps N] [--quick] [--output FILE.json]

One float32 matrix is stepped. With a step that computes no root of `plain` seconds, and `root` more for one that does, an
average step at a frequency f is to take plain + root / f. Measured is the mean of all steps of whole periods; plain and
root are medians, of all steps but those that are due, and of these. At frequency 1, where every step is due, plain is that
of the next frequency. Beside it: what the same factorisations take alone, and a step of AdamW.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import aligned, header, write

import schuss
from schuss.linalg import inverse_root, refreshed_basis

Row = dict[str, Any]
OPTIMIZERS: dict[str, type[schuss.Optimizer]] = {"Shampoo": schuss.Shampoo, "SOAP": schuss.SOAP}


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def factorisations(opt: schuss.Optimizer, shape: tuple[int, int]) -> float:
    """Return how long the roots or bases of both sides take by themselves."""
    assert isinstance(opt, schuss.Shampoo | schuss.SOAP)
    (block,) = opt.blocks_of(shape).blocks
    factors = block.matrices(opt.state["factors"])
    if isinstance(opt, schuss.Shampoo):
        return seconds(lambda: [inverse_root(factor, 4) for factor in factors])
    bases = block.matrices(opt.state["bases"])
    return seconds(lambda: [refreshed_basis(factor, q) for factor, q in zip(factors, bases, strict=True)])


def measured(name: str, shape: tuple[int, int], frequency: int, steps: int, grads: Sequence[Any]) -> Row:
    """Return the steps of one optimizer over whole periods, after a first one."""
    further = {"block_size": None, "merge_dims": False} if name == "Shampoo" else {}
    opt = OPTIMIZERS[name](np.zeros(shape, np.float32), frequency=frequency, **further)
    late = name == "SOAP"  # its first step makes the bases alone
    for t in range(frequency + late):
        opt.step(grads[t % len(grads)])
    periods = max(1, steps // frequency)
    times = [seconds(lambda t=t: opt.step(grads[t % len(grads)])) for t in range(periods * frequency)]
    due = times[frequency - 1 :: frequency]
    others = [each for t, each in enumerate(times) if (t + 1) % frequency]
    return {
        "optimizer": name,
        "shape": list(shape),
        "frequency": frequency,
        "steps": len(times),
        "mean": statistics.mean(times),
        "due": statistics.median(due),
        "plain": statistics.median(others) if others else None,
        "factorisations": statistics.median(factorisations(opt, shape) for _ in range(3)),
    }


def with_schedule(rows: Sequence[Row], adamw: float) -> Iterator[Row]:
    """Yield rows of one optimizer with what the schedule says."""
    plain = next(row["plain"] for row in rows if row["plain"] is not None)
    for row in rows:
        own = plain if row["plain"] is None else row["plain"]
        root = row["due"] - own
        expected = own + root / row["frequency"]
        yield row | {"plain": own, "root": root, "expected": expected, "ratio": row["mean"] / expected, "adamw": adamw}


def run(shape: tuple[int, int], frequencies: Sequence[int], steps: int) -> Iterator[Row]:
    """Yield all rows of a shape."""
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]
    adamw = schuss.AdamW(np.zeros(shape, np.float32))
    alone = statistics.median(seconds(lambda t=t: adamw.step(grads[t % 4])) for t in range(max(20, steps)))
    for name in OPTIMIZERS:
        yield from with_schedule([measured(name, shape, each, steps, grads) for each in frequencies], alone)


def table(result: Row) -> Iterator[str]:
    """Yield the lines of a report."""
    yield "Milliseconds of a step: mean, what the schedule says, without and with roots; of the factorisations alone; of AdamW"
    heads = ["", "frequency", "mean", "plain + root / f", "ratio", "plain", "root", "alone", "AdamW", "mean / AdamW"]
    lines = [heads]
    for row in result["results"]:
        names = ("mean", "expected", "ratio", "plain", "root", "factorisations", "adamw")
        cells = [f"{row[key] * (1 if key == 'ratio' else 1e3):.3g}" for key in names]
        label = f"{row['optimizer']} {'x'.join(map(str, row['shape']))}"
        lines.append([label, str(row["frequency"]), *cells, f"{row['mean'] / row['adamw']:.3g}"])
    yield from aligned(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1024x1024", "4096x1024"])
    parser.add_argument("--frequencies", nargs="+", type=int, default=[1, 10, 100])
    parser.add_argument("--steps", type=int, default=20, help="at least so many, but one whole period")
    parser.add_argument("--quick", action="store_true", help="a small matrix, to see that it runs")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    shapes = ["64x48"] if options.quick else options.shapes
    result: Row = header("bench/amortised.py", arguments, options.quick) | {"results": []}
    for shape in shapes:
        rows, columns = (int(n) for n in shape.split("x"))
        result["results"] += run((rows, columns), options.frequencies, options.steps)
    print("\n".join(table(result)))
    if options.output:
        write(result, options.output, picture=False)


if __name__ == "__main__":
    main()
