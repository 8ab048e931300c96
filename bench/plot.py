"""Draw the pictures of a result of step.py.

Usage: python bench/plot.py bench/results/step.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import blended_transform_factory

OURS, OTHERS, LIMIT, INK = "#0b7285", "#c3cad1", "#d9480f", "#212529"
SHOWN = "AdamW"
PANELS = ("large", "small")
PEERS = {
    "torch fused": "PyTorch, fused",
    "torch default": "PyTorch, default",
    "NumPy": "NumPy",
    "pure Python": "pure Python",
}
ROOFLINE_TITLES = {
    "large": "one large array",
    "large-offset": "the same, 16 bytes off a cache line",
    "resnet18": "ResNet-18-like network",
}
CLIPPED = 110  # where the interval of a noisy run ends in the picture

Row = dict[str, Any]


def draw(result: dict[str, Any], stem: Path) -> list[Path]:
    """Write the pictures that the result has the figures for beside `stem`; return their paths."""
    written = []
    for suffix, figure in (("", speed_picture(result)), ("-roofline", roofline_picture(result))):
        if figure is not None:
            path = stem.with_name(f"{stem.name}{suffix}.png")
            figure.savefig(path, dpi=160, facecolor="white")
            written.append(path)
    return written


def speed_picture(result: dict[str, Any]) -> Figure | None:
    """Return the README's picture: one AdamW step against every peer, in multiples of schuss's time."""
    rows = {row["workload"]: row for row in result["results"] if row["optimizer"] == SHOWN and not row["options"]}
    panels = [rows[name] for name in PANELS if name in rows]
    if not panels:
        return None
    figure = _figure(4.9 * len(panels) + 0.6, 3.1)
    for axes, row in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _bars(axes, row)
    _label(figure, f"Time of one {SHOWN} step, compared with schuss (shorter is better)", result)
    return figure


def roofline_picture(result: dict[str, Any]) -> Figure | None:
    """Return every optimizer's share of the memory roofline."""
    rows = [row for row in result["results"] if row["workload"] in ROOFLINE_TITLES and row["roofline"]]
    names = list(dict.fromkeys(row["workload"] for row in rows))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    if not rows:
        return None
    figure = _figure(3.1 * len(names) + 1.6, 0.27 * len(labels) + 1.5)
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
            axes.text(CLIPPED + 16, place, f"{share:.0f}", va="center", ha="right", color=INK, fontsize=8.5)
        axes.axvline(100, color=LIMIT, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.set_title(ROOFLINE_TITLES[name], loc="left", fontsize=9.5)
        axes.set_xlim(0, CLIPPED + 17)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        _bare(axes)
        axes.tick_params(axis="x", labelbottom=True)
    _label(figure, "Speed in per cent of the memory roofline", result)
    return figure


def _bars(axes: Axes, row: Row) -> None:
    """Draw one panel. Its axis ends a little after the slowest library; a longer bar says how far it goes."""
    peers = {shown: row["peers"][name]["ratio"] for name, shown in PEERS.items() if name in row["peers"]}
    bars = {"schuss": 1.0, **peers}
    end = 1.3 * max((ratio for name, ratio in bars.items() if name != PEERS["pure Python"]), default=1.0)
    for place, (name, ratio) in enumerate(bars.items()):
        ours = name == "schuss"
        axes.barh(place, min(ratio, end), height=0.66, color=OURS if ours else OTHERS)
        value = _duration(row["seconds"]) if ours else f"{_number(ratio)} \N{MULTIPLICATION SIGN}"
        if ratio > end:
            axes.text(0.985 * end, place, f"{value}  ▸▸", va="center", ha="right", color=INK, weight="bold")
        else:
            weight = "bold" if ours else "normal"
            axes.text(ratio + 0.012 * end, place, value, va="center", color=OURS if ours else INK, weight=weight)
    if row["roofline"]:
        share = row["roofline"]["share"]
        axes.axvline(share, color=LIMIT, linewidth=1.4, linestyle=(0, (4, 2)))
        foot = blended_transform_factory(axes.transData, axes.transAxes)
        axes.text(share, -0.02, "memory roofline", color=LIMIT, fontsize=8, ha="left", va="top", transform=foot)
    axes.set_title(row["title"], loc="left", fontsize=10)
    axes.set_xlim(0, end)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    _bare(axes)


def _figure(width: float, height: float) -> Figure:
    mpl.rcParams["font.size"] = 9.5
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1))


def _label(figure: Figure, title: str, result: dict[str, Any]) -> None:
    machine, versions = result["machine"], result["versions"]
    against = f", PyTorch {versions['torch']}" if versions["torch"] else ""
    footnote = (
        f"float32, {machine['cpu']}, {machine['cores']} cores, NumPy {versions['numpy']}{against}; "
        f"medians of {result['settings']['pairs']} pairs"
    )
    figure.suptitle(title, x=0.012, ha="left", weight="bold")
    figure.supxlabel(footnote, x=0.012, ha="left", fontsize=7.5, color="#868e96")


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color("#adb5bd")
    axes.tick_params(length=0, labelbottom=False)


def _duration(seconds: float) -> str:
    unit, size = next((pair for pair in (("s", 1.0), ("ms", 1e-3)) if seconds >= pair[1]), ("µs", 1e-6))
    return f"{seconds / size:.3g} {unit}"


def _number(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 20 else f"{float(f'{ratio:.2g}'):,.0f}"


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for picture in draw(json.loads(source.read_text()), source.with_suffix("")):
        print(picture)
