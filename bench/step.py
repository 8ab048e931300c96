"""How fast a step is: every optimizer of schuss against its peers and against the memory of the machine.

Usage: python bench/step.py [--workloads NAME ...] [--optimizers NAME ...] [--pairs N] [--quick] [--output FILE.json]

Every registered optimizer, as it comes and with each option that changes its state, steps float32 arrays of several
sizes. Beside schuss run:

- torch fused, torch default: where torch is installed and has the same rule (three steps of both must agree).
- NumPy: the formula in the optimizer's class.
- pure Python: the same formula as loops over lists of floats, derived from its source (plain.py). Where there are too
  many elements it steps some of them, and its time is scaled.
- the memory roofline: a compiled loop that moves the bytes of the step and computes nothing (roofline.cpp), the fastest
  over instruction sets, threads, cuts, prefetching and kinds of stores. If a contender that moves as many arrays of
  that workload is faster still, the roofline is raised to its rate. Rules that must read arrays twice (for a sum) have
  the same roofline as those that read them once.

Each pair of contenders takes turns in blocks of calls (protocol.py), in the environment as it is, each with the number
of threads that is faster for it. Shown are medians of paired ratios and their intervals. The result goes to a JSON file
with the machine and the versions, and the pictures beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import contenders
import machine
import numpy as np
from contenders import Variant
from formula import disagreements
from protocol import BLOCK_SECONDS, SETTLE_SECONDS, Contender, Ratio, Steps, compare, fastest
from roofline import Mover
from tqdm import tqdm
from workloads import Workload, workloads

import schuss

RESULTS = Path(__file__).parent / "results"
PEERS = ("torch fused", "torch default", "NumPy", "pure Python")
QUICK_PAIRS = 5

Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all measurements of a run share."""

    mover: Mover
    thread_counts: Sequence[int]
    pairs: int

    def row(self, variant: Variant, workload: Workload) -> Row:
        """Measure one optimizer on one workload, against everyone."""
        traffic = contenders.traffic(variant, workload)
        left_out = disagreements(variant.build)
        remarks = [f"{name} is left out: {reason}" for name, reason in left_out.items()]
        ours = self.faster(partial(contenders.compiled, variant.timed(), workload), workload)
        seconds: list[float] = []
        peers: Row = {}
        for name, theirs in self.peers(variant, workload, left_out):
            ratio = self.ratio(ours, theirs, workload)
            seconds.append(ratio.one)
            peers[name] = _entry(ratio, theirs)
            if theirs.scale != 1:
                remarks.append(f"{name} steps {theirs.scale * workload.elements:.0f} elements; its time is scaled")
            remarks += [f"{name} ended with {what} numbers" for what in contenders.ailments(theirs.values())]
        roofline = None
        if workload.roofline:
            mover = self.mover.roofline(4 * workload.elements, traffic.read, traffic.written, workload.calls)
            ratio = self.ratio(ours, mover, workload)
            seconds.append(ratio.one)
            roofline = _entry(ratio, mover) | {"way": str(mover.way), "raised_by": None}
            roofline["share"] = roofline.pop("ratio")
        remarks += [f"schuss ended with {what} numbers" for what in contenders.ailments(ours.values())]
        return {
            "workload": workload.name,
            "title": workload.title,
            "tensors": len(workload.shapes),
            "elements": workload.elements,
            "optimizer": variant.cls.__name__,
            "options": dict(variant.options),
            "label": str(variant),
            "threads": ours.threads,
            "seconds": statistics.median(seconds),
            "bytes": traffic.total,
            "arrays": {"read": traffic.read, "written": traffic.written},
            "peers": peers,
            "roofline": roofline,
            "remarks": remarks,
        }

    def peers(self, variant: Variant, workload: Workload, left_out: Container[str]) -> Iterator[tuple[str, Steps]]:
        """Build the contenders one after the other: not all of them fit into memory at once."""
        timed = variant.timed()
        for name, fused in (("torch fused", True), ("torch default", False)):
            if contenders.torch_has(variant, fused):
                yield name, self.faster(partial(contenders.torch_optimizer, timed, workload, fused), workload)
        formulas: dict[str, Callable[[Variant, Workload], Steps]] = {
            "NumPy": contenders.numpy_reference,
            "pure Python": contenders.pure_python,
        }
        for name, formula in formulas.items():
            if name not in left_out:
                yield name, formula(timed, workload)

    def faster(self, build: Callable[[int], Steps], workload: Workload) -> Steps:
        """Return the contender with the better number of threads."""
        return fastest([build(threads) for threads in self.thread_counts], workload.calls)

    def ratio(self, one: Contender, other: Contender, workload: Workload) -> Ratio:
        """Compare two contenders."""
        return compare(one, other, self.pairs, workload.calls)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _parse(arguments)
    counts = sorted({1, min(2, machine.cores()), machine.cores()})
    described = {"machine": machine.describe(), "versions": machine.versions()}
    bench = Bench(Mover(schuss.instruction_sets(), counts), counts, options.pairs)
    jobs = [(workload, variant) for workload in options.workloads for variant in options.variants]
    rows = []
    for workload, variant in (progress := tqdm(jobs, unit="row", disable=None)):
        progress.set_description(f"{workload.name} {variant}")
        rows.append(bench.row(variant, workload))
    raise_rooflines(rows)
    result = {
        "benchmark": "bench/step.py",
        "command": "python bench/step.py " + " ".join(sys.argv[1:] if arguments is None else arguments),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        **described,
        "runtime": machine.runtime(),
        "settings": {
            "pairs": options.pairs,
            "block_seconds": BLOCK_SECONDS,
            "settle_seconds": SETTLE_SECONDS,
            "thread_counts": counts,
            "dtype": "float32",
        },
        "results": rows,
        "overhead": overhead(rows),
    }
    print("\n".join(table(result)))
    if options.output:
        _write(result, options.output)


def raise_rooflines(rows: Sequence[Row]) -> None:
    """Lift each roofline to the fastest contender that moved as many arrays of the same workload."""
    alike: dict[tuple[str, int, int], dict[str, float]] = defaultdict(dict)
    for row in rows:
        times = {"schuss": row["seconds"], **{name: peer["seconds"] for name, peer in row["peers"].items()}}
        alike[_traffic(row)] |= {f"{name} {row['label']}": seconds for name, seconds in times.items()}
    for row in rows:
        if not (roofline := row["roofline"]):
            continue
        name, seconds = min(alike[_traffic(row)].items(), key=lambda item: item[1])
        if (factor := seconds / roofline["seconds"]) < 1:
            for key in ("share", "low", "high", "seconds"):
                roofline[key] *= factor
            roofline["raised_by"] = name
            row["remarks"].append(f"the roofline is raised to the rate of {name}")


def overhead(rows: Sequence[Row]) -> list[Row]:
    """Fit the seconds of a step to its number of tensors of 10 elements: one tensor, and each further one."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        if row["workload"].startswith("tiny-"):
            points[row["label"], "schuss"].append((row["tensors"], row["seconds"]))
            for name, peer in row["peers"].items():
                points[row["label"], name].append((row["tensors"], peer["seconds"]))
    fits = []
    for (label, name), pairs in points.items():
        if len(pairs) < 2:
            continue
        tensors, seconds = np.array(pairs).T
        further, first = np.polyfit(tensors - 1, seconds, 1, w=1 / seconds)  # relative errors count alike
        fits.append({"label": label, "contender": name, "first_us": 1e6 * first, "further_us": 1e6 * further})
    return fits


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report."""
    shown, versions = result["machine"], result["versions"]
    yield f"{shown['cpu']}, {shown['cores']} cores, caches {shown['caches']}"
    yield ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield f"One step; of others, how many times as long they take: medians of {result['settings']['pairs']} pairs"
    for title in dict.fromkeys(row["title"] for row in result["results"]):
        rows = [row for row in result["results"] if row["title"] == title]
        yield ""
        yield f"{title}: {rows[0]['elements']:,} elements in {rows[0]['tensors']} tensors, {_blocks(rows)} a block"
        heads = ["", "schuss", "threads", "GB/s", "of roofline, %", *PEERS]
        yield from _aligned([heads, *(_cells(row) for row in rows)])
        concerned = defaultdict(list)
        for row in rows:
            for remark in row["remarks"]:
                concerned[remark].append(row["label"])
        for remark, labels in concerned.items():
            yield f"  {remark}" if len(labels) == len(rows) else f"  {', '.join(labels)}: {remark}"
    if result["overhead"]:
        yield ""
        yield "Overhead, microseconds: one tensor of 10 elements + each further one"
        names = ("schuss", *PEERS)
        fits = {(fit["label"], fit["contender"]): fit for fit in result["overhead"]}
        lines = [["", *names]]
        for label in dict.fromkeys(fit["label"] for fit in result["overhead"]):
            found = [fits.get((label, name)) for name in names]
            cells = [f"{fit['first_us']:.2f} + {fit['further_us']:.3f}" if fit else "-" for fit in found]
            lines.append([label, *cells])
        yield from _aligned(lines)


def _entry(ratio: Ratio, contender: Contender) -> Row:
    return {
        "ratio": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "coverage": ratio.coverage,
        "pairs": ratio.pairs,
        "seconds": ratio.other,
        "schuss_seconds": ratio.one,
        "calls": list(ratio.calls),
        "threads": contender.threads,
    }


def _traffic(row: Row) -> tuple[str, int, int]:
    return row["workload"], row["arrays"]["read"], row["arrays"]["written"]


def _blocks(rows: Sequence[Row]) -> str:
    entries = [entry for row in rows for entry in (*row["peers"].values(), row["roofline"]) if entry]
    calls = max((call for entry in entries for call in entry["calls"]), default=0)
    return f"up to {calls} calls" if calls > 1 else "one call"


def _cells(row: Row) -> list[str]:
    roofline = row["roofline"]
    cells = [
        row["label"],
        f"{1e3 * row['seconds']:.4g} ms" if row["seconds"] >= 1e-3 else f"{1e6 * row['seconds']:.4g} us",
        str(row["threads"]),
        f"{row['bytes'] / row['seconds'] / 1e9:.1f}",
        _interval(100 * roofline["share"], 100 * roofline["low"], 100 * roofline["high"]) if roofline else "-",
    ]
    for name in PEERS:
        peer = row["peers"].get(name)
        cells.append(_interval(peer["ratio"], peer["low"], peer["high"]) if peer else "-")
    return cells


def _interval(median: float, low: float, high: float) -> str:
    return f"{median:.3g} [{low:.3g}, {high:.3g}]"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def _write(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{path}")
    try:
        from plot import draw
    except ModuleNotFoundError as error:
        print(f"no pictures: {error.name} is not installed; pip install '.[bench]'")
        return
    for picture in draw(result, path.with_suffix("")):
        print(picture)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = ", ".join(workloads())
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help=f"of {names}; tiny for all tiny ones")
    parser.add_argument("--optimizers", nargs="+", metavar="NAME", help="classes, with all their variants")
    parser.add_argument("--pairs", type=int, help="pairs of blocks per comparison (31)")
    parser.add_argument("--quick", action="store_true", help="small sizes, few pairs: only shows that it works")
    parser.add_argument("--output", type=Path, help="JSON file (bench/results/step.json; none with --quick)")
    options = parser.parse_args(arguments)
    options.pairs = options.pairs or (QUICK_PAIRS if options.quick else 31)
    if options.output is None and not options.quick:
        options.output = RESULTS / "step.json"
    every = workloads(options.quick)
    options.workloads = [
        each for each in every.values() if _chosen(options.workloads, each.name, "" if each.roofline else "tiny")
    ]
    options.variants = [
        each for each in contenders.variants() if _chosen(options.optimizers, str(each), each.cls.__name__)
    ]
    if not options.workloads or not options.variants:
        known = f"workloads: {', '.join(every)}; optimizers: {', '.join(schuss.optimizers())}"
        parser.error(f"nothing is chosen by these names; {known}")
    return options


def _chosen(wanted: Sequence[str] | None, *names: str) -> bool:
    return wanted is None or any(name in wanted for name in names)


if __name__ == "__main__":
    main()
