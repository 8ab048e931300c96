"""Measure what options and wrappers add to a step: the time with each, as a multiple of the plain step's.

Usage: python bench/around.py [--workloads large cache] [--optimizers AdamW SGD] [--quick]

The bound beside each ratio is what its further reads and writes of memory cost where memory is the limit.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import contenders
import machine
import protocol
from contenders import Variant
from report import aligned, allowed, description, entry, interval, write
from tqdm import tqdm
from workloads import Workload, workloads

import schuss

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Addition:
    """What is asked for besides the step.

    Attributes
    ----------
    passes
        Arrays of the parameters' size that it has to read or write more than the step, each once.
    options
        Of the optimizer, given the elements of the workload.
    wrap
        Puts a wrapper around it.
    """

    passes: float
    options: Callable[[int], Mapping[str, Any]] = field(default=lambda elements: {})
    wrap: Callable[[Any], Any] | None = None


def clipped(clip: Callable[[float], Any]) -> Callable[[int], Mapping[str, Any]]:
    """Return the option of a clip, made from the norm that about halves the gradients (whose root mean square is 1.4)."""
    return lambda elements: {"clip": clip(0.7 * math.sqrt(elements))}


ADDITIONS: dict[str, Addition] = {
    "maximize": Addition(0, lambda n: {"maximize": True}),
    "l2": Addition(0, lambda n: {"l2": 1e-3}),
    "l1": Addition(0, lambda n: {"l1": 1e-3}),
    "l1 and l2": Addition(0, lambda n: {"l1": 1e-3, "l2": 1e-3}),
    "l1, proximal": Addition(0, lambda n: {"l1": 1e-3, "proximal": True}),
    "decay": Addition(0, lambda n: {"decay": schuss.Decay(1e-3)}),
    "decay, cautious": Addition(0, lambda n: {"decay": schuss.Decay(1e-3, cautious=True)}),
    "bounds": Addition(0, lambda n: {"bounds": (-100, 100)}),
    "lr schedule": Addition(0, lambda n: {"lr": schuss.schedules.cosine(1e-6, steps=10**6)}),
    "non-finite check": Addition(1, lambda n: {"nonfinite": "skip"}),
    "clip, norm": Addition(1, clipped(schuss.ClipNorm)),
    "clip, tensor norms": Addition(1, clipped(partial(schuss.ClipNorm, per="tensor"))),
    "clip, AutoClip": Addition(1, lambda n: {"clip": schuss.AutoClip(50)}),
    "clip, value": Addition(2, lambda n: {"clip": schuss.ClipValue(1.0)}),
    "clip, adaptive": Addition(2, lambda n: {"clip": schuss.ClipAdaptive(0.01)}),
    "centralize": Addition(1, lambda n: {"centralize": True}),
    "noise": Addition(0, lambda n: {"noise": schuss.GradientNoise(0.01)}),
    "max norm per row": Addition(3, lambda n: {"bounds": schuss.constraints.MaxNorm(1e9)}),
    "EMA": Addition(2, wrap=lambda opt: schuss.EMA(opt)),
    "EMA of a wrapper": Addition(3, wrap=lambda opt: schuss.EMA(schuss.Lookahead(opt, k=10**9))),
    "Accumulate, 2": Addition(2, wrap=lambda opt: schuss.Accumulate(opt, steps=2)),
}
"""By their names in the table. (A step of Accumulate with 2 micro-batches takes half of an optimizer's and one addition.)"""


def measured(variant: Variant, workload: Workload, threads: int, pairs: int) -> dict[str, Any]:
    """Return a row: one optimizer on one workload, with each addition."""
    timed, traffic = variant.timed(), contenders.traffic(variant, workload)

    def fastest(own: Variant, *wrap: Any, **further: Any) -> protocol.Steps:
        built = [contenders.compiled(own, workload, n, *wrap, **further) for n in sorted({1, threads})]
        return protocol.fastest(built, workload.calls)

    plain, found = fastest(timed), {}
    for name, addition in ADDITIONS.items():
        options = dict(addition.options(workload.elements))
        rate = {"lr": options.pop("lr")} if "lr" in options else {}
        other = fastest(Variant(timed.cls, {**timed.options, **rate}), addition.wrap, **options)
        ratio = protocol.compare(plain, other, pairs, workload.calls)
        found[name] = entry(ratio, other) | {"bound": 1 + addition.passes * workload.nbytes / traffic.total}
    return {
        "workload": workload.name,
        "title": workload.title,
        "elements": workload.elements,
        "label": str(variant),
        "threads_allowed": threads,
        "bytes": traffic.total,
        "additions": found,
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report."""
    yield f"Multiples of the plain step's time, in brackets the bound: medians of {result['settings']['pairs']} pairs"
    for title, rows in itertools.groupby(result["results"], key=lambda row: (row["title"], row["threads_allowed"])):
        listed = list(rows)
        yield ""
        yield f"{title[0]}, {allowed(title[1])}"
        lines = [["", *(row["label"] for row in listed)]]
        for name in ADDITIONS:
            cells = [row["additions"][name] for row in listed]
            shown = [f"{interval(c['ratio'], c['low'], c['high'])} ({c['bound']:.2f})" for c in cells]
            lines.append([name, *shown])
        yield from aligned(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workloads", nargs="+", default=["large", "cache"], metavar="NAME")
    parser.add_argument("--optimizers", nargs="+", default=["AdamW", "SGD"], metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[machine.cores()], metavar="N")
    parser.add_argument("--pairs", type=int, help="pairs of blocks per comparison (11)")
    parser.add_argument("--quick", action="store_true", help="small sizes, few pairs: only shows that it works")
    parser.add_argument("--output", type=Path, help="JSON file (bench/results/around.json; none with --quick)")
    options = parser.parse_args(arguments)
    options.pairs = options.pairs or (3 if options.quick else 11)
    described = description("bench/around.py", arguments, options)
    every = workloads(options.quick)
    chosen = [Variant(schuss.optimizers()[name], {}) for name in options.optimizers]
    jobs = list(itertools.product((every[name] for name in options.workloads), options.threads, chosen))
    rows = [
        measured(variant, workload, threads, options.pairs)
        for workload, threads, variant in tqdm(jobs, unit="row", disable=None)
    ]
    result = {**described, "results": rows}
    print("\n".join(table(result)))
    output = options.output or (None if options.quick else RESULTS / "around.json")
    if output:
        write(result, output, picture=False)


if __name__ == "__main__":
    main()
