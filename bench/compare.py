"""How schuss compares with everyone else who makes the step: the figures and the picture of the README.

Usage: python bench/compare.py [--workloads NAME ...] [--optimizers NAME ...] [--threads N ...] [--pairs N] [--quick]
                               [--output FILE.json]

AdamW, SGD with momentum, Adagrad and Lion step float32 arrays of several sizes, with as many threads allowed as there
are cores and with one. Beside schuss run, where their packages are installed (`pip install '.[peers]'`; torch and
DeepSpeed by hand) and where three steps of both agree:

- torch fused, foreach and default; DeepSpeed's CPUAdam, CPUAdagrad and CPULion, which compile themselves at first use.
- optax: the update and its application under one jax.jit, parameters and state donated.
- numba: the loop that a user writes by hand, parallel where a tensor is large enough.
- thinc's Adam; NumPy in place (no temporary arrays, parts that stay in cache); the formula in NumPy; pure Python. The
  latter two and torch default only make AdamW's steps here.
- the roofline, and for AdamW what clipping costs, and torch's clip with its fused step against schuss's (see step.py).

Each pair of contenders takes turns in blocks of 50 calls (of ten where a step is a matter of milliseconds, of one for
the largest array; protocol.py), in the environment as it is, each with the number of threads, of those allowed, that
is faster for it. With one thread allowed only those run that are not far behind anyway and can be held to one thread.
Shown are medians of paired ratios and their intervals, and what the project set itself as targets. step.py measures
every other optimizer, dtype and workload.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import contenders
import machine
import protocol
import step
from contenders import Variant
from peers import IN_TORCH, PEERS, RULES, VARIANTS, Peer
from report import aligned, allowed, description, interval, write
from roofline import Mover
from step import Match, Row, Setting
from tqdm import tqdm
from workloads import Workload, workloads

import schuss

NAMES = ("large", "resnet18", "small", "cache")
LONG_STEP, LONG_CALLS = 4_000_000, 10
"""From so many elements on, so many calls in a block."""

FOREMOST = "AdamW"
"""The optimizer that also clips, and that meets `ELSEWHERE_FOR_ALL`."""

ELSEWHERE_FOR_ALL = ("torch default", "NumPy", "pure Python")
"""Peers that step.py measures for every optimizer."""


class Target(NamedTuple):
    """What the comparison must show: time(against) / time(schuss).

    Attributes
    ----------
    against
        A peer, "best peer", or an entry of the row ("roofline", "clip": schuss with its clip, "torch_clip").
    at_least, at_most
        Bounds of the ratio.
    threads
        For "one" thread allowed, for the "most", or for "each".
    optimizers
        Classes it is set for.
    """

    workload: str
    against: str
    at_least: float | None = None
    at_most: float | None = None
    threads: str = "each"
    optimizers: Sequence[str] = RULES


TARGETS = (
    Target("large", "roofline", 0.95),
    Target("large", "torch fused", 1.0, optimizers=IN_TORCH),
    Target("large", "DeepSpeed", 1.0, optimizers=IN_TORCH),
    Target("resnet18", "roofline", 0.95),
    Target("resnet18", "torch fused", 1.1),
    Target("resnet18", "best peer", 1.0),
    Target("small", "torch fused", 8.0, threads="most"),
    Target("small", "torch fused", 4.0, threads="one"),
    Target("small", "best peer", 3.0),
    Target("tiny-1000", "torch fused", 25.0),
    Target("cache", "torch fused", 1.8, threads="one"),
    Target("large", "torch_clip", 1.25),
    Target("large", "clip", at_most=1.25),
    Target("cache", "clip", at_most=1.5),
)
ELSEWHERE = "bench/step.py shows the others: float64, 16 bits, every other optimizer, its clip, and torch default"


def measured(variant: Variant, peers: Mapping[str, Peer], setting: Setting, mover: Mover) -> Row:
    """Measure one optimizer in one setting, against everyone."""
    workload, traffic = setting.workload, contenders.traffic(variant, setting.workload)
    match = Match(variant, setting)
    found = {
        "peers": {name: against(match, name, peer) for name, peer in peers.items() if counts(peer, setting)},
        "roofline": step.of_roofline(match, traffic, mover) if workload.roofline else None,
    }
    if workload.clip and variant.cls.__name__ == FOREMOST:
        found |= step.of_clipping(match, traffic)
    return match.row(traffic, found)


def against(match: Match, name: str, peer: Peer) -> Row:
    """Return the entry of a peer, which is built only now: not all of them fit into memory at once."""
    variant, workload = match.variant.timed(), match.setting.workload
    candidates = [peer.build(variant, workload, threads) for threads in counts(peer, match.setting)]
    theirs = protocol.fastest(candidates, workload.calls)
    found = match.against(theirs)
    if theirs.scale != 1:
        match.remarks.append(f"{name} steps {theirs.scale * workload.elements:.0f} elements; its time is scaled")
    if peer.remark and max(found["calls"]) > 1:
        match.remarks.append(peer.remark)
    match.examine(name, theirs)
    return found


def counts(peer: Peer, setting: Setting) -> Sequence[int]:
    """Return the numbers of threads to choose from, none where the peer does not run."""
    return peer.thread_counts(setting.thread_counts)


def ready(variant: Variant) -> tuple[dict[str, Peer], list[str]]:
    """Return the peers that can be compared, and remarks on those that cannot."""
    rule = variant.cls.__name__
    elsewhere = () if rule == FOREMOST else ELSEWHERE_FOR_ALL
    having = {name: peer for name, peer in PEERS.items() if rule in peer.rules and name not in elsewhere}
    objections = {name: peer.objection(variant) for name, peer in having.items()}
    remarks = [f"{name} is left out: {objection}" for name, objection in objections.items() if objection]
    return {name: peer for name, peer in having.items() if not objections[name]}, remarks


def best(row: Row) -> str | None:
    """Return the name of the fastest peer."""
    peers = row["peers"]
    return min(peers, key=lambda name: float(peers[name]["ratio"]), default=None)


def judged(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield what the targets want and what was measured, as far as it was."""
    for target, row in itertools.product(TARGETS, rows):
        threads = {"each": True, "one": row["threads_allowed"] == 1, "most": row["threads_allowed"] > 1}
        wanted = target.workload == row["workload"] and row["optimizer"] in target.optimizers
        if not wanted or not threads[target.threads]:
            continue
        name = best(row) if target.against == "best peer" else target.against
        found = name and (row.get(name) or row["peers"].get(name))
        if not found:
            continue
        ratio = found["share" if name == "roofline" else "ratio"]
        met = ratio >= target.at_least if target.at_least else ratio <= target.at_most
        yield {
            **{key: row[key] for key in ("workload", "title", "label", "threads_allowed")},
            "against": target.against,
            "peer": name if name in row["peers"] else None,
            "at_least": target.at_least,
            "at_most": target.at_most,
            "ratio": ratio,
            "low": found["low"],
            "high": found["high"],
            "met": met,
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    options = _parse(arguments)
    packages = dict.fromkeys(itertools.chain.from_iterable(peer.packages for peer in PEERS.values()))
    described = description("bench/compare.py", arguments, options, *packages)
    mover = Mover(schuss.instruction_sets(), options.threads)
    peers, left_out, rows = {}, {}, []
    jobs = list(itertools.product(options.workloads, options.threads, options.variants))
    for workload, threads, variant in (progress := tqdm(jobs, unit="row", disable=None)):
        label = str(variant)
        progress.set_description(f"{workload.name} {label}, {threads} threads")
        if label not in peers:
            peers[label], left_out[label] = ready(variant)
        rows.append(measured(variant, peers[label], Setting(workload, threads, options.pairs), mover))
    step.raise_rooflines(rows)
    result = {
        **described,
        "left_out": left_out,
        "results": rows,
        "targets": list(judged(rows)),
        "targets_elsewhere": ELSEWHERE,
    }
    print("\n".join(table(result)))
    if options.output:
        write(result, options.output)


def table(result: Row) -> Iterator[str]:
    """Yield the lines of a report."""
    shown, settings = result["machine"], result["settings"]
    yield f"{shown['cpu']}, {shown['cores']} cores, caches {shown['caches']}"
    yield ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    yield f"One step; of others, how many times as long they take: medians of {settings['pairs']} pairs"
    concerned: dict[str, list[str]] = defaultdict(list)
    for label, remarks in result["left_out"].items():
        for remark in remarks:
            concerned[remark].append(label)
    yield from (f"  {remark} ({', '.join(labels)})" for remark, labels in concerned.items())
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in result["results"]:
        groups[row["title"], row["threads_allowed"]].append(row)
    for (title, threads), rows in groups.items():
        yield ""
        yield f"{title}: {rows[0]['elements']:,} elements, {allowed(threads)}"
        lines = [[head, *map(cell, rows)] for head, cell in LINES.items()]
        yield from aligned([line for line in lines if any(cell != "-" for cell in line[1:])])
        yield from dict.fromkeys(f"  {remark}" for row in rows for remark in row["remarks"])
    if targets := result["targets"]:
        yield ""
        yield "Targets" + (": of a quick run no figure means anything" if result["quick"] else "")
        heads = ["", "", "threads", "against", "wanted", "measured", "met"]
        yield from aligned([heads, *map(_target_cells, targets)])
    yield ""
    yield result["targets_elsewhere"]


def _peer_cell(name: str, row: Row) -> str:
    peer = row["peers"].get(name)
    return interval(peer["ratio"], peer["low"], peer["high"]) if peer else "-"


LINES: dict[str, Callable[[Row], str]] = {
    **{head: step.COLUMNS[head] for head in ("", "schuss", "threads", "GB/s", "of roofline, %")},
    **{name: partial(_peer_cell, name) for name in PEERS},
    "best peer": lambda row: best(row) or "-",
    **{head: step.COLUMNS[head] for head in ("clip (bound)", "non-finite check", "torch clip")},
}
"""What the table shows of rows, line by line; a line without figures is left out."""


def _target_cells(target: Row) -> list[str]:
    named = f" ({target['peer']})" if target["peer"] and target["peer"] != target["against"] else ""
    wanted = f"at least {target['at_least']:g}" if target["at_least"] else f"at most {target['at_most']:g}"
    return [
        target["title"],
        target["label"],
        str(target["threads_allowed"]),
        target["against"].replace("_", " ") + named,
        wanted,
        interval(target["ratio"], target["low"], target["high"]),
        "yes" if target["met"] else "NO",
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = ", ".join(_workloads(quick=False))
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help=f"of {names}")
    parser.add_argument("--optimizers", nargs="+", metavar="NAME", help=f"of {', '.join(RULES)}")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="threads allowed (the cores and 1)")
    parser.add_argument("--pairs", type=int, help="pairs of blocks per comparison (31)")
    parser.add_argument("--quick", action="store_true", help="small sizes, few pairs: only shows that it works")
    parser.add_argument("--output", type=Path, help="JSON file (bench/results/compare.json; none with --quick)")
    options = parser.parse_args(arguments)
    options.pairs = options.pairs or (step.QUICK_PAIRS if options.quick else 31)
    if options.output is None and not options.quick:
        options.output = step.RESULTS / "compare.json"
    options.threads = sorted(set(options.threads or (1, machine.cores())), reverse=True)
    if options.threads[-1] < 1:
        parser.error("--threads must be at least 1")
    every = _workloads(options.quick)
    options.workloads = [each for name, each in every.items() if name in (options.workloads or every)]
    wanted = options.optimizers or RULES
    options.variants = [variant for variant in VARIANTS if variant.cls.__name__ in wanted]
    if not options.workloads or not options.variants:
        parser.error(f"nothing is chosen by these names; workloads: {', '.join(every)}")
    return options


def _workloads(quick: bool) -> dict[str, Workload]:
    """Return the workloads of the comparison, of the tiny ones the one with most tensors."""
    every = workloads(quick)
    tiny = max((name for name in every if name.startswith("tiny-")), key=lambda name: every[name].elements)
    calls = {name: LONG_CALLS if every[name].elements >= LONG_STEP else 50 for name in NAMES}
    return {
        name: dataclasses.replace(every[name], calls=min(every[name].calls, calls.get(name, 50)))
        for name in (*NAMES, tiny)
    }


if __name__ == "__main__":
    main()
