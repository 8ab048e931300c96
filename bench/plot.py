"""Draw the picture of a result of step.py or compare.py.

Usage: python bench/plot.py bench/results/compare.json
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import blended_transform_factory

OURS, OTHERS, LIMIT, INK = "#0b7285", "#c3cad1", "#d9480f", "#212529"
SHOWN = "AdamW"
PANELS = ("large", "resnet18", "small")
PEERS = {
    "numba": "numba, loop by hand",
    "torch fused": "PyTorch, fused",
    "DeepSpeed": "DeepSpeed",
    "optax": "optax, jit",
    "torch foreach": "PyTorch, foreach",
    "torch default": "PyTorch, default",
    "thinc": "thinc",
    "NumPy in place": "NumPy, in place",
    "NumPy": "NumPy",
    "pure Python": "pure Python",
}
ONE_PASS = ("numba", "torch fused", "DeepSpeed", "optax")
"""Peers that step a tensor in one pass: the axis ends after the slowest of them, and longer bars are cut."""

PACKAGES = {
    "numpy": "NumPy",
    "torch": "PyTorch",
    "deepspeed": "DeepSpeed",
    "optax": "optax",
    "jax": "JAX",
    "numba": "numba",
    "thinc": "thinc",
}
ROOFLINE_TITLES = {
    "large": "large array, float32",
    "large-offset": "large array, 16 bytes off",
    "large-float64": "large array, float64",
    "large-float16": "large array, float16",
    "large-bfloat16": "large array, bfloat16",
    "resnet18": "ResNet-18-like network",
    "small": "200 small tensors",
    "cache": "in cache, float32",
    "cache-float64": "in cache, float64",
}
CLIPPED = 110  # where the interval of a noisy run ends in the picture

Row = Mapping[str, Any]


def draw(result: dict[str, Any], stem: Path) -> list[Path]:
    """Write the picture of a result beside `stem`: of compare.py every peer, of step.py every share of the roofline."""
    figure = speed_picture(result) if "targets" in result else roofline_picture(result)
    if figure is None:
        return []
    path = stem.with_suffix(".png")
    figure.savefig(path, dpi=160, facecolor="white")
    return [path]


def speed_picture(result: dict[str, Any]) -> Figure | None:
    """Return the README's picture: one AdamW step against every peer, in multiples of schuss's time."""
    rows = {row["workload"]: row for row in _of_most_threads(result["results"]) if row["label"] == SHOWN}
    panels = [rows[name] for name in PANELS if name in rows]
    if not panels:
        return None
    names = [name for name in PEERS if any(name in row["peers"] for row in panels)]
    figure = _figure(3.3 * len(panels) + 1.5, 0.24 * len(names) + 1.35)
    for axes, row in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        _bars(axes, row, names)
    _label(figure, f"Time of one {SHOWN} step, in multiples of schuss's (shorter is better)", result)
    return figure


def roofline_picture(result: dict[str, Any]) -> Figure | None:
    """Return every optimizer's share of the roofline."""
    rows = [row for row in _of_most_threads(result["results"]) if row["workload"] in ROOFLINE_TITLES]
    rows = [row for row in rows if row["roofline"]]
    names = [name for name in ROOFLINE_TITLES if any(row["workload"] == name for row in rows)]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    if not rows:
        return None
    figure = _figure(2.5 * len(names) + 1.8, 0.27 * len(labels) + 1.5)
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        here = {row["label"]: row for row in rows if row["workload"] == name}
        for place, label in enumerate(labels):
            if label not in here:
                continue
            roofline = here[label]["roofline"]
            share = 100 * roofline["share"]
            axes.barh(place, share, height=0.68, color=OURS)
            ends = [min(100 * roofline[end], CLIPPED) for end in ("low", "high")]
            axes.plot(ends, [place, place], color=INK, linewidth=1)
            axes.text(CLIPPED + 20, place, f"{share:.0f}", va="center", ha="right", color=INK, fontsize=8.5)
        axes.axvline(100, color=LIMIT, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.set_title(ROOFLINE_TITLES[name], loc="left", fontsize=9.5)
        axes.set_xlim(0, CLIPPED + 21)
        axes.set_xticks([0, 25, 50, 75, 100])
        _rows(axes, labels)
        axes.tick_params(axis="x", labelbottom=True)
    _label(figure, "Speed in per cent of the roofline", result)
    return figure


def _of_most_threads(rows: Sequence[Row]) -> Iterable[Row]:
    most = max((row["threads_allowed"] for row in rows), default=1)
    return (row for row in rows if row["threads_allowed"] == most)


def _bars(axes: Axes, row: Row, names: Sequence[str]) -> None:
    """Draw one panel. Where bars are cut at the end of its axis, the figure says how far they go."""
    ratios = {name: row["peers"][name]["ratio"] for name in names if name in row["peers"]}
    fast = [ratio for name, ratio in ratios.items() if name in ONE_PASS] or list(ratios.values())
    end = 1.35 * max(1.5, *fast)
    axes.barh(0, 1, height=0.66, color=OURS)
    axes.text(1 + 0.015 * end, 0, _duration(row["seconds"]), va="center", color=OURS, weight="bold")
    for place, name in enumerate(names, 1):
        if name not in ratios:
            axes.text(0.015 * end, place, "\N{EN DASH}", va="center", color=INK)
            continue
        ratio = ratios[name]
        value = f"{_number(ratio)} \N{MULTIPLICATION SIGN}"
        axes.barh(place, min(ratio, end), height=0.66, color=OTHERS)
        if ratio > 0.85 * end:
            shown = f"{value}  ▸▸" if ratio > end else value
            axes.text(min(ratio, end) - 0.015 * end, place, shown, va="center", ha="right", color=INK)
        else:
            axes.text(ratio + 0.015 * end, place, value, va="center", color=INK)
    if row["roofline"]:
        share = row["roofline"]["share"]
        axes.axvline(share, color=LIMIT, linewidth=1.4, linestyle=(0, (4, 2)))
        foot = blended_transform_factory(axes.transData, axes.transAxes)
        axes.text(share, -0.015, "roofline", color=LIMIT, fontsize=8, ha="center", va="top", transform=foot)
    axes.set_title(row["title"], loc="left", fontsize=10)
    axes.set_xlim(0, end)
    _rows(axes, ["schuss", *(PEERS[name] for name in names)])


def _figure(width: float, height: float) -> Figure:
    mpl.rcParams["font.size"] = 9.5
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1))


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color("#adb5bd")
    axes.tick_params(length=0, labelbottom=False)


def _label(figure: Figure, title: str, result: dict[str, Any]) -> None:
    machine, versions = result["machine"], result["versions"]
    used = [f"{shown} {versions[package]}" for package, shown in PACKAGES.items() if versions.get(package)]
    footnote = (
        f"float32 where nothing else is said; {machine['cpu']}, {machine['cores']} cores; {', '.join(used)}; "
        f"medians of {result['settings']['pairs']} pairs"
    )
    figure.suptitle(title, x=0.012, ha="left", weight="bold")
    lines = textwrap.fill(footnote, int(20 * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.012, ha="left", fontsize=7.5, color="#868e96")


def _duration(seconds: float) -> str:
    unit, size = next((pair for pair in (("s", 1.0), ("ms", 1e-3)) if seconds >= pair[1]), ("µs", 1e-6))
    return f"{seconds / size:.3g} {unit}"


def _number(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 5 else f"{ratio:.1f}" if ratio < 20 else f"{float(f'{ratio:.2g}'):,.0f}"


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for picture in draw(json.loads(source.read_text()), source.with_suffix("")):
        print(picture)
