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

orthogonal (Muon, NorMuon, AdaMuon, Scion):

- products: the share of the step's time that its products of matrices take when they are made alone, one after the other,
  over arrays of the same shapes, strides and transpositions.
- torch float32: torch.optim.Muon, with what converts to bfloat16 left out: the same iteration in the same type.
- torch bfloat16: torch.optim.Muon as it comes, up to 1024x1024 and in few pairs of single steps: where the processor has no
  such products, one takes a minute.

Remarks on that size say what float32 buys: where the singular values of an update are, how far it is from the nearest
orthogonal matrix, and from the same iteration in float64, of ours and of torch's.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import contenders
import machine
import numpy as np
import protocol
import step
from contenders import TIMED_RATE, Data, Variant
from numpy.typing import NDArray
from report import aligned, allowed, description, entry, interval, write
from roofline import Arrays, Mover, Roofline
from step import Match, Row, Setting
from threadpoolctl import threadpool_limits
from tqdm import tqdm
from workloads import Workload

import schuss
from schuss import linalg

SHAPES = ((1024, 1024), (2048, 1024), (4096, 1024), (4096, 4096))
ASKED = ("1024x1024", "2048x1024", "4096x1024")
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
    #: Workloads that it is not measured on.
    without: tuple[str, ...] = ()


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
    without=("2048x1024",),
)


# ---- orthogonal -----------------------------------------------------------------------------------------------------


class Watched:
    """NumPy, for a module that is watched: it notes the operands of every product of matrices."""

    def __init__(self) -> None:
        self.products: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def matmul(self, a: NDArray[Any], b: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Multiply, and note it."""
        self.products.append((a, b, out))
        return np.matmul(a, b, out=out)


@dataclass
class Products:
    """A contender that makes the products of a step alone, over arrays like its own."""

    products: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
    threads: int
    lingers: ClassVar[bool] = True

    @classmethod
    def of(cls, call: Callable[[], object], threads: int) -> Products:
        """Return those that a call makes."""
        with mock.patch.object(linalg, "np", Watched()) as watched:
            call()
        made: dict[Any, NDArray[Any]] = {}

        def like(array: NDArray[Any], what: str) -> NDArray[Any]:
            """Return an array that lies in memory as another; operands are kept apart from results, or they would grow."""
            place = what, array.ctypes.data, array.shape, array.strides, array.dtype
            if place not in made:
                room = sum((n - 1) * by for n, by in zip(array.shape, array.strides, strict=True)) // array.itemsize + 1
                values = np.random.default_rng(0).standard_normal(room).astype(array.dtype)
                made[place] = np.lib.stride_tricks.as_strided(values, array.shape, array.strides)
            return made[place]

        products = []
        for a, b, out in watched.products:
            left = like(a, "operand")
            with_itself = a.ctypes.data == b.ctypes.data and a.mT.strides == b.strides
            result = like(np.empty((*a.shape[:-1], b.shape[-1]), a.dtype) if out is None else out, "result")
            products.append((left, left.mT if with_itself else like(b, "operand"), result))
        return cls(products, threads)

    def block(self, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            for a, b, out in self.products:
                np.matmul(a, b, out=out)
        return (time.perf_counter() - start) / calls


def of_products(match: Match, mover: Mover) -> Row | None:
    """Return the share of the step that is products."""
    return match.against(Products.of(match.ours.prepare(0), match.setting.threads))


NARROW_ELEMENTS, NARROW_PAIRS = 1024 * 1024, 3
"""What torch's products in bfloat16 are measured on, and in how many pairs."""


class InFloat32:
    """torch.optim.Muon that computes in the type of its parameters."""

    def __init__(self, torch: Any, params: Sequence[Any], **options: Any) -> None:
        self.tensor, self.optimizer = torch.Tensor, torch.optim.Muon(params, **options)
        self.state = self.optimizer.state

    def step(self) -> None:
        """Step without bfloat16."""
        with mock.patch.object(self.tensor, "bfloat16", self.tensor.clone):
            self.optimizer.step()


def of_torch_muon(match: Match, mover: Mover, *, narrow: bool) -> Row | None:
    """Return torch's Muon, in bfloat16 or in float32."""
    if match.variant.cls is not schuss.Muon or importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    workload, threads = match.setting.workload, match.setting.threads
    options = {"lr": TIMED_RATE, "adjust_lr_fn": "match_rms_adamw"}
    if not narrow:
        return match.against(contenders.torch_steps(partial(InFloat32, torch, **options), workload, threads))
    if workload.elements > NARROW_ELEMENTS:
        return None
    if threads == machine.cores():
        match.remarks += of_accuracy(workload)
    theirs = contenders.torch_steps(partial(torch.optim.Muon, **options), workload, threads)
    return entry(protocol.compare(match.ours, theirs, min(NARROW_PAIRS, match.setting.pairs), 1), theirs)


def of_accuracy(workload: Workload) -> Iterator[str]:
    """Yield what an update is worth: in float32, and torch's in bfloat16."""
    torch = importlib.import_module("torch")
    grad = Data(workload).given[0][0][0]
    u, _, vt = np.linalg.svd(grad.astype(np.float64), full_matrices=False)
    nearest = u @ vt

    def update(dtype: Any, coefficients: str) -> NDArray[Any]:
        w = np.zeros(grad.shape, dtype)
        options = {"scale": None, "coefficients": coefficients}
        schuss.Muon(w, lr=1.0, weight_decay=0.0, **options).step(grad.astype(dtype))
        return -w

    tensor = torch.zeros(grad.shape, requires_grad=True)
    tensor.grad = torch.tensor(grad)
    torch.optim.Muon([tensor], lr=1 / max(1, grad.shape[0] / grad.shape[1]) ** 0.5, weight_decay=0.0).step()
    theirs = "torch bfloat16, jordan", -tensor.detach().numpy(), "jordan"
    ours = [(f"schuss float32, {name}", update(np.float32, name), name) for name in ("jordan", "quintic")]
    for who, found, coefficients in (theirs, *ours):
        values = np.linalg.svd(found.astype(np.float64), compute_uv=False)
        wide = update(np.float64, coefficients)
        apart = [np.linalg.norm(found - other) / np.linalg.norm(other) for other in (nearest, wide)]
        yield (
            f"{who}: singular values {values.min():.3f} to {values.max():.3f}, {apart[0]:.2g} from the nearest orthogonal "
            f"matrix, {apart[1]:.2g} from the iteration in float64"
        )


ORTHOGONAL = Section(
    (
        Variant(schuss.Muon, {}),
        Variant(schuss.NorMuon, {}),
        Variant(schuss.AdaMuon, {}),
        Variant(schuss.Scion, {}),
    ),
    {
        "products": of_products,
        "torch float32": partial(of_torch_muon, narrow=False),
        "torch bfloat16": partial(of_torch_muon, narrow=True),
    },
    (
        Target("products", ("Muon",), at_least=0.9),
        Target("torch float32", ("Muon",), at_least=1.0),
    ),
    without=("4096x4096",),
)

SECTIONS: Mapping[str, Section] = {"factored": FACTORED, "orthogonal": ORTHOGONAL}


# ---- all of them ----------------------------------------------------------------------------------------------------


def measured(name: str, variant: Variant, setting: Setting, mover: Mover) -> Row:
    """Measure one optimizer in one setting."""
    with threadpool_limits(limits=setting.threads, user_api="blas"):
        return _measured(name, Match(variant, setting), setting, mover)


def _measured(name: str, match: Match, setting: Setting, mover: Mover) -> Row:
    variant = match.variant
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
        if workload.name not in SECTIONS[name].without
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
