"""Compare steps of this build with those of another one, in alternating blocks of two processes.

Usage: python bench/against.py PYTHON [--workloads large small tiny-1] [--optimizers AdamW] [--quick]

PYTHON is the interpreter of an environment with the other build of schuss and NumPy, for example of the commit before a change.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import machine
import protocol
from report import aligned, allowed, description, entry, interval, write
from tqdm import tqdm
from workloads import workloads

RESULTS = Path(__file__).parent / "results"

WORKER = """
import sys, time
import numpy as np
import schuss
name, threads, dtype, shapes = sys.argv[1], int(sys.argv[2]), sys.argv[3], eval(sys.argv[4])
rng = np.random.default_rng(0)
params, grads = ([rng.standard_normal(shape).astype(dtype) for shape in shapes] for _ in range(2))
opt = schuss.optimizers()[name](params, lr=1e-6, threads=threads)
print(schuss.__file__, flush=True)
for line in sys.stdin:
    calls = int(line)
    opt.step(grads)
    begin = time.perf_counter()
    for _ in range(calls):
        opt.step(grads)
    print((time.perf_counter() - begin) / calls, flush=True)
"""


class Worker:
    """A contender in a process of its own."""

    def __init__(self, python: str, name: str, threads: int, dtype: str, shapes: Any) -> None:
        command = [python, "-c", WORKER, name, str(threads), dtype, repr(shapes)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.threads, self.lingers = threads, threads > 1
        self.build = self._answer()

    def block(self, calls: int) -> float:
        """Make steps and return the seconds of one."""
        assert self.process.stdin
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]} has ended")  # type: ignore[index]
        return line.strip()

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate()


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report."""
    yield f"Time of the other build as a multiple of this one's: medians of {result['settings']['pairs']} pairs"
    yield from aligned(
        [
            ["", "workload", "threads", "this", "other / this"],
            *(
                [
                    row["optimizer"],
                    row["title"],
                    allowed(row["threads_allowed"]),
                    f"{1e6 * row['schuss_seconds']:.4g} us",
                    interval(row["ratio"], row["low"], row["high"]),
                ]
                for row in result["results"]
            ),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("python", help="interpreter with the other build")
    known = ["large", "resnet18", "small", "cache", "tiny-1", "tiny-1000"]
    parser.add_argument("--workloads", nargs="+", default=known, metavar="NAME")
    parser.add_argument("--optimizers", nargs="+", default=["AdamW", "SGD", "LAMB"], metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, machine.cores()}), metavar="N")
    parser.add_argument("--pairs", type=int, help="pairs of blocks per comparison (21)")
    parser.add_argument("--quick", action="store_true", help="small sizes, few pairs: only shows that it works")
    parser.add_argument("--output", type=Path, help="JSON file (bench/results/against.json; none with --quick)")
    options = parser.parse_args(arguments)
    options.pairs = options.pairs or (3 if options.quick else 21)
    described = description("bench/against.py", ["PYTHON", *(arguments or sys.argv[1:])[1:]], options)
    every = workloads(options.quick)
    rows = []
    jobs = list(itertools.product((every[name] for name in options.workloads), options.threads, options.optimizers))
    for workload, threads, name in tqdm(jobs, unit="row", disable=None):
        if not workload.roofline and threads > 1:
            continue  # too little for two
        made = (name, threads, workload.dtype.name, workload.shapes)
        ours, theirs = Worker(sys.executable, *made), Worker(options.python, *made)
        if ours.build == theirs.build:
            parser.error("both interpreters import the same build")
        calls = 2 if workload.calls == 1 else 1000 if not workload.roofline else workload.calls
        ratio = protocol.compare(ours, theirs, options.pairs, calls)
        rows.append(
            {"workload": workload.name, "title": workload.title, "optimizer": name, "threads_allowed": threads}
            | entry(ratio, theirs)
        )
        for each in (ours, theirs):
            each.end()
    result = {**described, "results": rows}
    print("\n".join(table(result)))
    output = options.output or (None if options.quick else RESULTS / "against.json")
    if output:
        write(result, output, picture=False)


if __name__ == "__main__":
    main()
