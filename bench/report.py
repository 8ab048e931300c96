"""How a result is written down: the entry of a comparison, tables of text, the JSON file with its picture."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import protocol
from protocol import Contender, Ratio


def header(script: str, arguments: Sequence[str] | None, quick: bool, *packages: str) -> dict[str, Any]:
    """Return what a result was made by, when, on and with: the command, the date, the machine, the versions."""
    return {
        "benchmark": script,
        "command": " ".join(["python", script, *(sys.argv[1:] if arguments is None else arguments)]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine.describe(),
        "versions": machine.versions(*packages),
        "runtime": machine.runtime(),
    }


def description(
    script: str, arguments: Sequence[str] | None, options: argparse.Namespace, *packages: str
) -> dict[str, Any]:
    """Return how a result of timings comes about: its header, and the settings."""
    return header(script, arguments, options.quick, *packages) | {
        "settings": {
            "pairs": options.pairs,
            "far": {"ratio": protocol.FAR, "pairs": protocol.FAR_PAIRS},
            "block_seconds": protocol.BLOCK_SECONDS,
            "search_seconds": protocol.SEARCH_SECONDS,
            "settle_seconds": protocol.SETTLE_SECONDS,
            "threads": options.threads,
        },
    }


def entry(ratio: Ratio, contender: Contender) -> dict[str, Any]:
    """Return what a row of a result keeps of schuss's comparison with a contender."""
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


def allowed(threads: int) -> str:
    """Return how many threads contenders may use, in words."""
    return f"up to {threads} threads" if threads > 1 else "one thread"


def interval(median: float, low: float, high: float) -> str:
    """Return a median with the ends of its interval, three digits each."""
    return f"{median:.3g} [{low:.3g}, {high:.3g}]"


def aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines of cells in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def write(result: dict[str, Any], path: Path, picture: bool = True) -> None:
    """Write a result as JSON and draw its picture beside it, where matplotlib is installed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{path}")
    if not picture:
        return
    try:
        from plot import draw
    except ModuleNotFoundError as error:
        print(f"no picture: {error.name} is not installed; pip install '.[bench]'")
        return
    for picture in draw(result, path.with_suffix("")):
        print(picture)
