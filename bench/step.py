"""How fast a step is: every optimizer of schuss against its peers and against the limits of the machine.

Usage: python bench/step.py [--workloads NAME ...] [--optimizers NAME ...] [--threads N ...] [--pairs N] [--compiled] [--quick]
                            [--output FILE.json]

Every registered optimizer, as it comes and with each option that changes its state, steps arrays of several sizes and
dtypes, once with one thread allowed and once with as many as there are cores. Beside schuss run:

- torch fused, torch default: where torch is installed and has the same rule (three steps of both must agree). Not with
  16-bit arrays, where torch rounds in other places.
- NumPy: the formula in the optimizer's class. Not with 16-bit arrays: the formula is one of float32 and float64.
- pure Python: the same formula as loops over lists of floats, derived from its source (plain.py); not with 16-bit arrays
  either. Where there are too many elements it steps some of them, and its time is scaled. It is so far behind that a
  few pairs of blocks do. NumPy and pure Python know one thread and run beside the most threads only.
- the roofline: a compiled loop (roofline.cpp) that moves the bytes of the step and, where the arrays stay in cache,
  makes as many divisions and square roots as the formula (counted while it runs), and computes nothing else; the fastest
  over instruction sets, threads, cuts, prefetching and kinds of stores. If a contender with as many arrays (in cache:
  and as many divisions and roots) is faster still, the roofline is raised by what it was ahead. Rules that must read
  arrays twice (for a sum) have the same roofline as those that read them once.

Some workloads also show:

- clip: how many times as long a step takes that clips the gradients' global norm, and in parentheses the bound that one
  more read of the gradients gives; the same for a step that looks for non-finite gradients; and how many times as long
  as schuss with its clip torch takes for `clip_grad_norm_` and the fused step.
- of float32: what part of the float32 step's time a step takes whose parameters, gradients and state have 16 bits.

Each pair of contenders takes turns in blocks of calls (protocol.py), in the environment as it is, each with the number
of threads, of those allowed, that is faster for it. Shown are medians of paired ratios and their intervals. The result
goes to a JSON file with the machine and the versions, and the picture beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import contenders
import machine
import numpy as np
import protocol
from contenders import Traffic, Variant
from formula import disagreements
from protocol import Contender, Steps
from report import aligned, allowed, description, entry, interval, write
from roofline import Mover
from tqdm import tqdm
from workloads import FLOAT32, Workload, workloads

import schuss

RESULTS = Path(__file__).parent / "results"
TORCH = {"torch fused": True, "torch default": False}
FORMULAS = {"NumPy": contenders.numpy_reference, "pure Python": contenders.pure_python}
PEERS = (*TORCH, *FORMULAS)
QUICK_PAIRS = 3

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A workload, how many threads contenders may use on it, and how many pairs of blocks compare them."""

    workload: Workload
    threads: int
    pairs: int

    @property
    def thread_counts(self) -> list[int]:
        """Return the numbers of threads to choose from."""
        return sorted({1, min(2, self.threads), self.threads})

    def faster(self, build: Callable[[int], Steps]) -> Steps:
        """Return the contender with the better number of threads."""
        return protocol.fastest([build(threads) for threads in self.thread_counts], self.workload.calls)


@dataclass
class Match:
    """An optimizer of schuss in one setting, and what its comparisons there have shown."""

    variant: Variant
    setting: Setting
    ours: Steps = field(init=False)
    seconds: list[float] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ours = self.compiled()

    def compiled(self, workload: Workload | None = None, **options: Any) -> Steps:
        """Return schuss with further options, or on another workload."""
        build = partial(contenders.compiled, self.variant.timed(), workload or self.setting.workload, **options)
        return self.setting.faster(build)

    def torch(self, fused: bool, max_norm: float | None = None) -> Steps | None:
        """Return torch, if it has the optimizer."""
        workload = self.setting.workload
        if not contenders.torch_has(self.variant, fused, workload.dtype):
            return None
        build = partial(contenders.torch_optimizer, self.variant.timed(), workload, fused, max_norm=max_norm)
        return self.setting.faster(build)

    def against(self, theirs: Contender) -> Row:
        """Return the entry of a comparison of the optimizer with a contender."""
        ratio = self.compare(self.ours, theirs)
        self.seconds.append(ratio.one)
        return entry(ratio, theirs)

    def compare(self, one: Contender, other: Contender) -> protocol.Ratio:
        """Compare two contenders."""
        return protocol.compare(one, other, self.setting.pairs, self.setting.workload.calls)

    def examine(self, name: str, steps: Steps) -> None:
        """Remark on what steps left behind that would have changed their speed."""
        self.remarks += [f"{name} ended with {what} numbers" for what in contenders.ailments(steps.values())]

    def row(self, traffic: Traffic, found: Row) -> Row:
        """Return the row of a result: what was measured and, when all comparisons are done, what they found."""
        workload = self.setting.workload
        if not self.seconds:  # nobody to be compared with
            self.against(self.ours)
        self.examine("schuss", self.ours)
        return {
            "workload": workload.name,
            "title": workload.title,
            "dtype": workload.dtype.name,
            "in_cache": workload.in_cache,
            "tensors": len(workload.shapes),
            "elements": workload.elements,
            "optimizer": self.variant.cls.__name__,
            "options": dict(self.variant.options),
            "label": str(self.variant),
            "threads_allowed": self.setting.threads,
            "threads": self.ours.threads,
            "seconds": statistics.median(self.seconds),
            "bytes": traffic.total,
            "arrays": {"read": traffic.read, "written": traffic.written},
            "divisions": traffic.divisions,
            "roots": traffic.roots,
            **found,
            "remarks": self.remarks,
        }


def measured(variant: Variant, setting: Setting, mover: Mover, formulas: bool) -> Row:
    """Measure one optimizer in one setting, against everyone; `formulas` lets NumPy and pure Python in."""
    workload, match = setting.workload, Match(variant, setting)
    traffic = contenders.traffic(variant, workload)
    found = {
        "peers": of_peers(match, formulas and not workload.narrow),
        "roofline": of_roofline(match, traffic, mover) if workload.roofline else None,
    }
    if workload.clip:
        found |= of_clipping(match, traffic)
    if workload.narrow:
        found["of_float32"] = of_float32(match)
    return match.row(traffic, found)


def of_peers(match: Match, formulas: bool) -> Row:
    """Return the peers' entries. They are built one after the other: not all of them fit into memory at once."""
    workload = match.setting.workload
    found = {}

    def add(name: str, theirs: Steps) -> None:
        found[name] = match.against(theirs)
        if theirs.scale != 1:
            match.remarks.append(f"{name} steps {theirs.scale * workload.elements:.0f} elements; its time is scaled")
        match.examine(name, theirs)

    for name, fused in TORCH.items():
        if theirs := match.torch(fused):
            add(name, theirs)
    left_out = disagreements(match.variant.build) if formulas else {}
    match.remarks += [f"{name} is left out: {reason}" for name, reason in left_out.items()]
    for name, formula in FORMULAS.items() if formulas else ():
        if name not in left_out:
            add(name, formula(match.variant.timed(), workload))
    return found


def of_roofline(match: Match, traffic: Traffic, mover: Mover) -> Row:
    """Return the roofline's entry; its ratio is the share of it that schuss reaches."""
    limit = mover.step(traffic, match.setting.workload, match.setting.thread_counts)
    found = match.against(limit)
    return {"share": found.pop("ratio"), **found, "way": str(limit.way), "raised_by": None}


def of_clipping(match: Match, traffic: Traffic) -> Row:
    """Return what clipping and looking for non-finite gradients cost, and torch's clip against schuss's."""
    workload = match.setting.workload
    # Clips always (the gradients' root mean square is 1.4), and never so much that numbers become subnormal.
    max_norm = 0.5 * math.sqrt(workload.elements)
    clipped, checked = match.compiled(clip=schuss.ClipNorm(max_norm)), match.compiled(nonfinite="skip")
    found = {
        "clip": match.against(clipped) | {"bound": 1 + workload.nbytes / traffic.total},
        "nonfinite": match.against(checked),
    }
    if theirs := match.torch(fused=True, max_norm=max_norm):
        found["torch_clip"] = entry(match.compare(clipped, theirs), theirs)
        match.examine("torch with its clip", theirs)
    match.examine("schuss with its clip", clipped)
    return found


def of_float32(match: Match) -> Row:
    """Return the time of a 16-bit step as a part of the float32 step's."""
    single = match.compiled(dataclasses.replace(match.setting.workload, dtype=FLOAT32))
    ratio = match.compare(single, match.ours)
    match.seconds.append(ratio.other)
    found = entry(ratio, match.ours)
    return {**found, "float32_seconds": found.pop("schuss_seconds")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _parse(arguments)
    most = max(options.threads)
    described = description("bench/step.py", arguments, options)
    mover = Mover(schuss.instruction_sets(), options.threads)
    rows = []
    jobs = list(itertools.product(options.workloads, options.variants, options.threads))
    for workload, variant, threads in (progress := tqdm(jobs, unit="row", disable=None)):
        progress.set_description(f"{workload.name} {variant} {allowed(threads)}")
        rows.append(
            measured(
                variant,
                Setting(workload, threads, options.pairs),
                mover,
                formulas=threads == most and not options.compiled,
            )
        )
    raise_rooflines(rows)
    result = {
        **described,
        "results": rows,
        "overhead": overhead(rows),
    }
    print("\n".join(table(result)))
    if options.output:
        write(result, options.output)


def raise_rooflines(rows: Sequence[Row]) -> None:
    """Lift each roofline to the fastest contender that had as much to do as its loop.

    How far a contender was ahead of a roofline is told by ratios within its row: both were compared with the same steps.
    """
    ahead: dict[tuple[Any, ...], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if roofline := row["roofline"]:
            ratios = {"schuss": 1.0, **{name: peer["ratio"] for name, peer in row["peers"].items()}}
            ahead[_work(row)] |= {f"{name} {row['label']}": r / roofline["share"] for name, r in ratios.items()}
    for row in rows:
        if not (roofline := row["roofline"]):
            continue
        name, factor = min(ahead[_work(row)].items(), key=lambda item: item[1])
        if factor < 1:
            for key in ("share", "low", "high", "seconds"):
                roofline[key] *= factor
            roofline["raised_by"] = name
            row["remarks"].append(f"the roofline is raised to the rate of {name}")


def overhead(rows: Sequence[Row]) -> list[Row]:
    """Fit the seconds of a step to its number of tensors of 10 elements: one tensor, and each further one."""
    points: dict[tuple[int, str, str], list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        if row["workload"].startswith("tiny-"):
            times = {"schuss": row["seconds"], **{name: peer["seconds"] for name, peer in row["peers"].items()}}
            for name, seconds in times.items():
                points[row["threads_allowed"], row["label"], name].append((row["tensors"], seconds))
    fits = []
    for (threads, label, name), pairs in points.items():
        if len(pairs) < 2:
            continue
        tensors, seconds = np.array(pairs).T
        further, first = np.polyfit(tensors - 1, seconds, 1, w=1 / seconds)  # relative errors count alike
        micros = {"first_us": 1e6 * first, "further_us": 1e6 * further}
        fits.append({"threads_allowed": threads, "label": label, "contender": name, **micros})
    return fits


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report."""
    shown, versions, settings = result["machine"], result["versions"], result["settings"]
    yield f"{shown['cpu']}, {shown['cores']} cores, caches {shown['caches']}"
    yield ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    far = settings["far"]
    fewer = f" ({far['pairs']} beyond {far['ratio']} times)" if far["pairs"] < settings["pairs"] else ""
    yield f"One step; of others, how many times as long they take: medians of {settings['pairs']} pairs{fewer}"
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in result["results"]:
        groups[row["title"], row["threads_allowed"]].append(row)
    for (title, threads), rows in groups.items():
        tensors = "one tensor" if rows[0]["tensors"] == 1 else f"{rows[0]['tensors']} tensors"
        yield ""
        yield f"{title}: {rows[0]['elements']:,} elements in {tensors}, {_blocks(rows)} a block, {allowed(threads)}"
        cells = {head: [cell(row) for row in rows] for head, cell in COLUMNS.items()}
        shown_heads = [head for head, column in cells.items() if any(cell != "-" for cell in column)]
        yield from aligned([shown_heads, *zip(*(cells[head] for head in shown_heads), strict=True)])
        concerned = defaultdict(list)
        for row in rows:
            for remark in row["remarks"]:
                concerned[remark].append(row["label"])
        for remark, labels in concerned.items():
            yield f"  {remark}" if len(labels) == len(rows) else f"  {', '.join(labels)}: {remark}"
    names = ("schuss", *PEERS)
    for threads in dict.fromkeys(fit["threads_allowed"] for fit in result["overhead"]):
        yield ""
        yield f"Overhead, microseconds: one tensor of 10 elements + each further one, {allowed(threads)}"
        fits = {(f["label"], f["contender"]): f for f in result["overhead"] if f["threads_allowed"] == threads}
        lines = [["", *names]]
        for label in dict.fromkeys(label for label, _ in fits):
            found = [fits.get((label, name)) for name in names]
            lines.append([label, *(f"{f['first_us']:.2f} + {f['further_us']:.3f}" if f else "-" for f in found)])
        yield from aligned(lines)


def _work(row: Row) -> tuple[Any, ...]:
    """Return what rows share that have one roofline."""
    arithmetic = (row["divisions"], row["roots"]) if row["in_cache"] else ()
    setting = row["workload"], row["dtype"], row["threads_allowed"]
    return *setting, row["arrays"]["read"], row["arrays"]["written"], *arithmetic


def _blocks(rows: Sequence[Row]) -> str:
    entries = [entry for row in rows for entry in (*row["peers"].values(), row["roofline"]) if entry]
    calls = max((call for entry in entries for call in entry["calls"]), default=0)
    return f"up to {calls} calls" if calls > 1 else "one call"


def _duration(row: Row) -> str:
    seconds = row["seconds"]
    return f"{1e3 * seconds:.4g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.4g} us"


def _share(row: Row) -> str:
    roofline = row["roofline"]
    return interval(*(100 * roofline[key] for key in ("share", "low", "high"))) if roofline else "-"


def _ratio(found: Row | None) -> str:
    if not found:
        return "-"
    bound = f" ({found['bound']:.2f})" if "bound" in found else ""
    return interval(found["ratio"], found["low"], found["high"]) + bound


def _peer(name: str, row: Row) -> str:
    return _ratio(row["peers"].get(name))


COLUMNS: dict[str, Callable[[Row], str]] = {
    "": lambda row: row["label"],
    "schuss": _duration,
    "threads": lambda row: str(row["threads"]),
    "GB/s": lambda row: f"{row['bytes'] / row['seconds'] / 1e9:.1f}",
    "divisions, roots": lambda row: f"{row['divisions']}, {row['roots']}" if row["in_cache"] else "-",
    "of roofline, %": _share,
    **{name: partial(_peer, name) for name in PEERS},
    "of float32": lambda row: _ratio(row.get("of_float32")),
    "clip (bound)": lambda row: _ratio(row.get("clip")),
    "non-finite check": lambda row: _ratio(row.get("nonfinite")),
    "torch clip": lambda row: _ratio(row.get("torch_clip")),
}
"""What the table shows of a row, by its heading; a column without figures is left out."""


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = ", ".join(workloads())
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help=f"of {names}; tiny for all tiny ones")
    parser.add_argument("--optimizers", nargs="+", metavar="NAME", help="classes, with all their variants")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="threads allowed (1 and the cores)")
    parser.add_argument("--pairs", type=int, help="pairs of blocks per comparison (31)")
    parser.add_argument(
        "--compiled", action="store_true", help="without NumPy and pure Python, which take most of the time"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few pairs: only shows that it works")
    parser.add_argument("--output", type=Path, help="JSON file (bench/results/step.json; none with --quick)")
    options = parser.parse_args(arguments)
    options.pairs = options.pairs or (QUICK_PAIRS if options.quick else 31)
    if options.output is None and not options.quick:
        options.output = RESULTS / "step.json"
    options.threads = sorted(set(options.threads or (1, machine.cores())))
    if options.threads[0] < 1:
        parser.error("--threads must be at least 1")
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
