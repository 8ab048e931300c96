"""Fail unless the compiler vectorized every ``#pragma omp simd`` loop of the kernels, on every instruction set.

Usage: vectorization.py BUILD_DIRECTORY (one with compile_commands.json, compiled as `.ci/recording` does)

GCC: what must be vectorized comes from the compiler's dump of the pragmas it instantiated, one for each template instance;
what was vectorized comes from its optimization record, which (other than -fopt-info) says of each loop the function and
the chain of inlined calls it stands in. A loop with no report at all fails as well: it may not be vector code.

Clang (flags CLANG_RECORD) keeps of a loop only where it stands after inlining. It marks the loops that it was asked to
vectorize, and says of each of them whether it did; every one it speaks of must be, with at least as many elements at once as
doubles fit into a register, and of every source it must speak of some.
"""

from __future__ import annotations

import gzip
import json
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

# Bytes that the widest vector of a loop must have at least, by -march.
WIDTH = {"x86-64": 16, "x86-64-v3": 32, "x86-64-v4": 64}

RECORD = (Path(__file__).parent / "recording").read_text(encoding="utf-8").split('"$@" ')[1].strip()

CLANG_RECORD = "-fsave-optimization-record"

Loop = tuple[str, int]  # a simd loop as written: file and line of its pragma
Record = dict[str, Any]


@dataclass
class Report:
    """What one translation unit says: instances asked for, and the vector bytes or complaints of those looked at."""

    name: str
    march: str
    asked: dict[Loop, set[str]] = field(default_factory=lambda: defaultdict(set))
    bytes_of: dict[tuple[Loop, str], int] = field(default_factory=dict)
    missed: dict[tuple[Loop, str], str] = field(default_factory=dict)

    def faults(self) -> Iterator[str]:
        """Yield one sentence for each loop that is missed, narrow, or not reported."""
        for (loop, owner), why in self.missed.items():
            yield f"{self.name}: {place(loop)} is missed in {owner}: {why}"
        for (loop, owner), width in self.bytes_of.items():
            if width < WIDTH.get(self.march, 16):
                yield f"{self.name}: {place(loop)} has only {width}-byte vectors in {owner}"
        for loop, instances in self.asked.items():
            seen = {owner for at, owner in self.bytes_of.keys() | self.missed.keys() if at == loop}
            if len(seen) < len(instances):
                names = ", ".join(sorted(instances - seen))
                yield f"{self.name}: {place(loop)} has {len(instances)} instances, {len(seen)} reported; not: {names}"


def place(loop: Loop) -> str:
    """Return the pragma's place as ``file:line``."""
    return f"{Path(loop[0]).name}:{loop[1]}"


@cache
def last_line(loop: Loop) -> int:
    """Return the line on which the statement after a pragma ends."""
    lines = Path(loop[0]).read_text(encoding="utf-8").splitlines()
    first, depth = loop[1], 0
    while lines[first - 1].endswith("\\"):
        first += 1
    for number, line in enumerate(lines[first:], first + 1):
        for char in line.split("//")[0]:
            depth += (char in "([{") - (char in ")]}")
            if depth == 0 and char in ";}":
                return number
    raise SystemExit(f"{place(loop)}: found no end of the loop")


def asked(dump: str, report: Report, directory: Path) -> None:
    """Read the instances of simd loops out of an -fdump-tree-omplower-lineno dump."""
    function = ""
    for line in dump.splitlines():
        if head := re.match(r";; Function .*? \((\S+), funcdef_no", line):
            function = head[1]
        elif pragma := re.match(r"\s*\[(.+?):(\d+):\d+\] #pragma omp simd\b", line):
            report.asked[str((directory / pragma[1]).resolve()), int(pragma[2])].add(function)


def owner_of(record: Record, loops: dict[Loop, set[str]], directory: Path) -> tuple[Loop, str] | None:
    """Return the simd loop that a report is about and the function it was written in, or None."""
    chain = record.get("inlining_chain", [])
    places = [record["location"]] + [link["site"] for link in chain[1:]]
    for depth, (at, link) in enumerate(zip(places, chain, strict=True)):
        for loop in loops:
            if loop[0] == str((directory / at["file"]).resolve()) and loop[1] < at["line"] <= last_line(loop):
                outermost = depth == len(chain) - 1
                # A clone (constprop, isra) is the same instance; an inlined instance has no symbol but its spelling.
                return loop, record["function"].partition(".")[0] if outermost else link["fndecl"]
    return None


def text(record: Record) -> str:
    """Return a record's message as one line, with what it says of expressions."""
    parts = (part if isinstance(part, str) else part.get("expr", part.get("stmt", "")) for part in record["message"])
    return "".join(parts).strip()


def reasons(record: Record) -> Iterator[str]:
    """Yield what the vectorizer complains of below a record, each on one line."""
    for child in record.get("children", []):
        if child["kind"] == "failure" and (complaint := " ".join(text(child).split())):
            yield complaint
        yield from reasons(child)


def looked_at(records: list[Record], report: Report, directory: Path) -> None:
    """Read what the vectorizer did with each loop out of an optimization record."""
    nest: Record = {}
    for record in records:
        message = text(record)
        if message == "=== analyze_loop_nest ===":
            nest = record
        width = re.match(r"loop vectorized using (\d+) byte vectors", message)
        missed = record["kind"] == "failure" and message == "couldn't vectorize loop"
        if not (width or missed) or not (key := owner_of(record, report.asked, directory)):
            continue
        if width:  # the epilogue follows its loop, with narrower vectors
            report.bytes_of[key] = max(report.bytes_of.get(key, 0), int(width[1]))
        else:
            report.missed[key] = "; ".join(dict.fromkeys(reasons(nest))) or "no reason given"


def looked_at_by_clang(remarks: str, report: Report, directory: Path) -> None:
    """Read what Clang did with each loop that it was asked to vectorize out of its remarks."""
    for remark in remarks.split("\n--- "):
        if not re.search(r"^Pass: +(loop-vectorize|transform-warning)$", remark, re.MULTILINE):
            continue
        place = re.search(r"^DebugLoc: +\{ File: '?(.+?)'?, *Line: (\d+)", remark, re.MULTILINE)
        function = re.search(r"^Function: +'?([^'\n]+)", remark, re.MULTILINE)
        width = re.search(r"VectorizationFactor: +'(\d+)'", remark)
        forced = re.search(r"Force: +'?true", remark) or "transform-warning" in remark
        if not place or not function or not (width or forced):
            continue
        # Relative to the folder that the build directory and the source have in common.
        above = next(folder for folder in (directory, *directory.parents) if (folder / place[1]).exists())
        loop = str((above / place[1]).resolve()), int(place[2])
        if width and not is_pragma(loop):
            continue  # a loop that it vectorized of itself
        report.asked[loop].add(function[1])
        key = loop, function[1]
        if width:
            # Of several copies in one function the narrowest counts.
            report.bytes_of[key] = min(report.bytes_of.get(key, 1024), int(width[1]) * 8)
        else:
            report.missed[key] = "asked for, and not done (-Rpass-analysis=loop-vectorize says why)"


@cache
def is_pragma(loop: Loop) -> bool:
    """Return whether a line, or the one above, is a pragma for a simd loop."""
    lines = Path(loop[0]).read_text(encoding="utf-8").splitlines()[max(0, loop[1] - 2) : loop[1]]
    return any("#pragma omp simd" in line for line in lines)


def check(entry: dict[str, str]) -> Report:
    """Return what the compiler has left beside the object of one source."""
    command, directory = shlex.split(entry["command"]), Path(entry["directory"])
    march = [flag.removeprefix("-march=") for flag in command if flag.startswith("-march=")][-1]
    binary = directory / command[command.index("-o") + 1]
    report = Report(name="/".join(binary.parts[-2:]), march=march)
    remarks = binary.with_suffix(".opt.yaml")
    if remarks.exists():
        looked_at_by_clang(remarks.read_text(encoding="utf-8"), report, directory)
        return report
    dump, record = left_beside(binary, ".omplower"), left_beside(binary, ".opt-record.json.gz")
    asked(dump.read_text(encoding="utf-8"), report, directory)
    with gzip.open(record, "rt", encoding="utf-8") as stream:
        looked_at(json.load(stream)[2], report, directory)
    return report


def left_beside(binary: Path, ending: str) -> Path:
    """Return the file of an ending that the compiler has written for an object."""
    found = list(binary.parent.glob(f"{binary.stem}.*{ending}"))
    if len(found) != 1:
        raise SystemExit(f"{binary}: {len(found)} files *{ending} beside it, not one; compile with {RECORD}")
    return found[0]


def main(build: str) -> int:
    """Check a build directory and return the exit code."""
    entries = json.loads(Path(build, "compile_commands.json").read_text(encoding="utf-8"))
    with ProcessPoolExecutor() as pool:
        reports = list(pool.map(check, [entry for entry in entries if "-march=" in entry["command"]]))
    faults = [fault for report in reports for fault in report.faults()]
    for march in sorted({report.march for report in reports}):
        mine = [report for report in reports if report.march == march]
        done, loops = sum(len(report.bytes_of) for report in mine), {loop for report in mine for loop in report.asked}
        print(f"{march}: {len(mine)} objects, {done} instances of {len(loops)} loops vectorized")
    readable = subprocess.run(["c++filt"], input="\n".join(faults), text=True, capture_output=True, check=True).stdout
    print(re.sub(r"schuss::|[({]anonymous(?: namespace)?[)}]::", "", readable))
    if not any(report.asked for report in reports):
        print(f"{build}: no source for one instruction set has a simd loop, so nothing was checked")
        return 1
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
