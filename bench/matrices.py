"""How fast the optimizers over matrices are: against their peers, and against the limits of the machine.

Usage: python bench/matrices.py [--sections NAME ...] [--workloads NAME ...] [--optimizers NAME ...] [--threads N ...]
                                [--pairs N] [--quick] [--output FILE.json]

One float32 matrix of several sizes is stepped, with as many threads allowed as there are cores, and with one. What is
measured is a matter of the section; shown are medians of paired ratios in one run, and their intervals (protocol.py).

factored (Adafactor, SM3, CAME):

- torch default, torch foreach: torch.optim.Adafactor; of CAME the authors' package, of SM3 pytorch_optimizer's, where they
  are installed.
- roofline: how many times as long as its sweeps' bytes schuss takes. Such a step reads some arrays several times, because a
  sweep needs what the one before has added up: `SWEEPS` says which arrays each sweep reads and writes. The roofline is
  these sweeps one after the other over the same arrays, each a compiled loop (roofline.cpp) that moves the bytes and
  computes nothing, in the fastest way found for it. Sums, rows and columns are free.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import contenders
import machine
import protocol
import step
from contenders import TIMED_RATE, Variant
from report import aligned, allowed, description, entry, interval, write
from roofline import Arrays, Mover, Roofline
from step import Match, Row, Setting
from tqdm import tqdm
from workloads import Workload

import schuss

SHAPES = ((1024, 1024), (4096, 1024), (4096, 4096))
ASKED = ("1024x1024", "4096x1024")
"""The workloads that targets are set for."""

Measure = Callable[[Match, Mover], Row | None]
"""Returns the entry of one comparison of the optimizer that a match is about; None where there is nothing to compare."""


@dataclass(frozen=True)
class Target:
    """What a section must show: bounds of the ratio of a measure, for some optimizers."""

    measure: str
    optimizers: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Section:
    """Optimizers of one family, what is measured of them, and what that must show."""

    variants: tuple[Variant, ...]
    measures: Mapping[str, Measure]
    targets: tuple[Target, ...] = ()


# ---- factored -------------------------------------------------------------------------------------------------------


SWEEPS: Mapping[str, Sequence[tuple[int, int]]] = {
    # squares of g; directions from g, and p; g, p
    "Adafactor": ((1, 0), (2, 0), (1, 1)),
    "Adafactor(momentum=0.9)": ((1, 0), (2, 0), (1, 2)),
    # largest squares of g; g, p
    "SM3(momentum=0.0)": ((1, 0), (1, 1)),
    "SM3": ((1, 0), (1, 2)),
    # squares of g; directions from g; distances from g, m; g, m, p
    "CAME": ((1, 0), (1, 0), (2, 0), (1, 2)),
}
"""Of each variant the sweeps of a step: how many arrays of the matrix's size one only reads, and reads and writes."""


@dataclass
class InTurn:
    """A contender that runs loops of the roofline one after the other, as the sweeps of a step are."""

    parts: Sequence[Roofline]
    lingers: ClassVar[bool] = False

    @property
    def threads(self) -> int:
        return max(part.threads for part in self.parts)

    def block(self, calls: int) -> float:
        for part in self.parts if calls > 1 else ():
            part.block(1)
        return sum(part.block(1) for _ in range(calls) for part in self.parts) / calls


def of_sweeps(match: Match, mover: Mover) -> Row | None:
    """Return how many times as long as the bytes of its sweeps a step takes."""
    workload, counts = match.setting.workload, match.setting.thread_counts
    sweeps = SWEEPS[str(match.variant)]
    # Memory that all share: what one sweep has read may be in cache for the next.
    arrays = Arrays(workload.nbytes, max(read + written for read, written in sweeps), "float32")
    alone = [mover.roofline(workload.nbytes, *sweep, workload.calls, thread_counts=counts) for sweep in sweeps]
    limit = InTurn([Roofline(part.entry, arrays, part.way) for part in alone])
    ratio = protocol.compare(limit, match.ours, match.setting.pairs, workload.calls)
    match.seconds.append(ratio.other)
    found = entry(ratio, limit)
    found["seconds"], found["schuss_seconds"] = ratio.one, ratio.other
    return {**found, "ways": [str(part.way) for part in limit.parts], "bytes": workload.nbytes * _arrays(sweeps)}


def _arrays(sweeps: Sequence[tuple[int, int]]) -> int:
    return sum(read + 2 * written for read, written in sweeps)


def of_torch(match: Match, mover: Mover, *, foreach: bool) -> Row | None:
    """Return torch's class of the same name, if it has one."""
    if not contenders.torch_has(match.variant, fused=False):
        return None
    workload = match.setting.workload
    build = partial(contenders.torch_optimizer, match.variant.timed(), workload, False, foreach=foreach)
    return match.against(match.setting.faster(build))


def of_package(match: Match, mover: Mover, *, packages: Mapping[str, str], options: Mapping[str, Any]) -> Row | None:
    """Return a package's class of the same name, for what a package is named for."""
    package = packages.get(str(match.variant))
    if package is None or not all(importlib.util.find_spec(each) for each in ("torch", package)):
        return None
    cls = getattr(importlib.import_module(package), match.variant.cls.__name__)
    make = partial(cls, lr=TIMED_RATE, **options)
    return match.against(match.setting.faster(partial(contenders.torch_steps, make, match.setting.workload)))


FACTORED = Section(
    (
        Variant(schuss.Adafactor, {}),
        Variant(schuss.Adafactor, {"momentum": 0.9}),
        Variant(schuss.SM3, {"momentum": 0.0}),
        Variant(schuss.SM3, {}),
        Variant(schuss.CAME, {}),
    ),
    {
        "roofline": of_sweeps,
        "torch default": partial(of_torch, foreach=False),
        "torch foreach": partial(of_torch, foreach=True),
        "came_pytorch": partial(of_package, packages={"CAME": "came_pytorch"}, options={}),
        "pytorch_optimizer": partial(
            of_package, packages={"SM3": "pytorch_optimizer"}, options={"momentum": 0.9, "eps": 1e-8}
        ),
    },
    (
        Target("roofline", ("Adafactor",), at_most=1.3),
        Target("torch default", ("Adafactor",), at_least=4.0),
        Target("torch foreach", ("Adafactor",), at_least=4.0),
    ),
)

SECTIONS: Mapping[str, Section] = {"factored": FACTORED}


# ---- all of them ----------------------------------------------------------------------------------------------------


def measured(name: str, variant: Variant, setting: Setting, mover: Mover) -> Row:
    """Measure one optimizer in one setting."""
    match = Match(variant, setting)
    found = {heading: measure(match, mover) for heading, measure in SECTIONS[name].measures.items()}
    match.examine("schuss", match.ours)
    return {
        "section": name,
        "workload": setting.workload.name,
        "elements": setting.workload.elements,
        "optimizer": variant.cls.__name__,
        "label": str(variant),
        "threads_allowed": setting.threads,
        "threads": match.ours.threads,
        "seconds": statistics.median(match.seconds),
        "measures": {heading: each for heading, each in found.items() if each},
        "remarks": match.remarks,
    }


def judged(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield what the targets want and what was measured, as far as it was."""
    for row in rows:
        for target in SECTIONS[row["section"]].targets:
            found = row["measures"].get(target.measure)
            if not found or row["label"] not in target.optimizers or row["workload"] not in ASKED:
                continue
            ratio = found["ratio"]
            met = ratio >= target.at_least if target.at_least else ratio <= (target.at_most or 0)
            yield {
                **{key: row[key] for key in ("workload", "label", "threads_allowed")},
                **{key: found[key] for key in ("ratio", "low", "high")},
                "measure": target.measure,
                "at_least": target.at_least,
                "at_most": target.at_most,
                "met": met,
            }


def table(result: Row) -> Iterator[str]:
    """Yield the lines of a report."""
    shown = result["machine"]
    yield f"{shown['cpu']}, {shown['cores']} cores, caches {shown['caches']}"
    yield ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    yield "One step. Of others, how many times as long they take; of the roofline, how many times as long schuss takes:"
    yield f"medians of {result['settings']['pairs']} pairs"
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in result["results"]:
        groups[row["section"], row["workload"], row["threads_allowed"]].append(row)
    for (section, workload, threads), rows in groups.items():
        yield ""
        yield f"{section}, {workload}, {allowed(threads)}"
        heads = [head for head in SECTIONS[section].measures if any(head in row["measures"] for row in rows)]
        yield from aligned([["", "ms", "threads", *heads], *(_cells(row, heads) for row in rows)])
        yield from dict.fromkeys(f"  {row['label']}: {remark}" for row in rows for remark in row["remarks"])
    if result["targets"]:
        yield ""
        yield "Targets" + (": of a quick run no figure means anything" if result["quick"] else "")
        yield from aligned([_target_cells(each) for each in result["targets"]])


def _cells(row: Row, heads: Sequence[str]) -> list[str]:
    found = [row["measures"].get(head) for head in heads]
    ratios = [interval(each["ratio"], each["low"], each["high"]) if each else "-" for each in found]
    return [row["label"], f"{1e3 * row['seconds']:.3g}", str(row["threads"]), *ratios]


def _target_cells(target: Row) -> list[str]:
    wanted = f"at least {target['at_least']:g}" if target["at_least"] else f"at most {target['at_most']:g}"
    measured = interval(target["ratio"], target["low"], target["high"])
    setting = target["label"], target["workload"], allowed(target["threads_allowed"])
    return [*setting, target["measure"], wanted, measured, "yes" if target["met"] else "NO"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _parse(arguments)
    described = description("bench/matrices.py", arguments, options, "came_pytorch", "pytorch_optimizer")
    mover = Mover(schuss.instruction_sets(), options.threads)
    jobs = [
        (name, workload, threads, variant)
        for name, workload, threads in itertools.product(options.sections, options.workloads, options.threads)
        for variant in SECTIONS[name].variants
        if options.optimizers is None or {str(variant), variant.cls.__name__} & set(options.optimizers)
    ]
    rows = []
    for name, workload, threads, variant in (progress := tqdm(jobs, unit="row", disable=None)):
        progress.set_description(f"{workload.name} {variant} {allowed(threads)}")
        rows.append(measured(name, variant, Setting(workload, threads, options.pairs), mover))
    result = {**described, "results": rows, "targets": list(judged(rows))}
    print("\n".join(table(result)))
    if options.output:
        write(result, options.output, picture=False)


def _workloads(quick: bool) -> dict[str, Workload]:
    shapes = ((256, 128),) if quick else SHAPES
    names = {f"{rows}x{columns}": (rows, columns) for rows, columns in shapes}
    return {name: Workload(name, name, (shape,), calls=5 if quick else 10) for name, shape in names.items()}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sections", nargs="+", metavar="NAME", choices=SECTIONS, help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help=f"of {', '.join(_workloads(quick=False))}")
    parser.add_argument("--optimizers", nargs="+", metavar="NAME", help="classes, or with their options as shown")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="threads allowed (the cores and 1)")
    parser.add_argument("--pairs", type=int, help="pairs of blocks per comparison (31)")
    parser.add_argument("--quick", action="store_true", help="small sizes, few pairs: only shows that it works")
    parser.add_argument("--output", type=Path, help="JSON file (bench/results/matrices.json; none with --quick)")
    options = parser.parse_args(arguments)
    options.pairs = options.pairs or (step.QUICK_PAIRS if options.quick else 31)
    if options.output is None and not options.quick:
        options.output = step.RESULTS / "matrices.json"
    options.sections = options.sections or list(SECTIONS)
    options.threads = sorted(set(options.threads or (1, machine.cores())), reverse=True)
    if options.threads[-1] < 1:
        parser.error("--threads must be at least 1")
    every = _workloads(options.quick)
    options.workloads = [each for name, each in every.items() if name in (options.workloads or every)]
    if not options.workloads:
        parser.error(f"nothing is chosen by these names; workloads: {', '.join(every)}")
    return options


if __name__ == "__main__":
    main()
