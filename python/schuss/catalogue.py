"""The catalogue as a table: what every optimizer is, whose it is, what it costs."""

from __future__ import annotations

import inspect
import math
import re
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from schuss.optimizer import Optimizer

__all__ = ["Entry", "Source", "describe", "markdown", "measure", "rows"]


@dataclass(frozen=True)
class Source:
    """Where a formula comes from."""

    authors: str
    year: int | None
    title: str
    link: str

    def __str__(self) -> str:
        """Return authors and year, or the link where there is no paper."""
        return f"{self.authors} ({self.year})" if self.year else self.link


@dataclass(frozen=True)
class Entry:
    """What the catalogue says of an optimizer.

    Attributes
    ----------
    name : str
        Of the class.
    summary : str
        The first sentence of its documentation.
    kind : str
        The shape of its rule: "elementwise", "layerwise" (sums over each tensor or row), "global" (over all tensors),
        "matrix" (linear algebra between sweeps).
    source : Source
        The paper that it follows; the first, where it names several.
    state_bytes : float
        Bytes of state per parameter, with the default options: float32 parameters, a matrix of 1000 by 1000.
    inputs : tuple of str
        What `step` takes besides the gradients.
    """

    name: str
    summary: str
    kind: str
    source: Source
    state_bytes: float
    inputs: tuple[str, ...]


def describe(cls: type[Optimizer]) -> Entry:
    """Return what the catalogue says of an optimizer, from its documentation and its state.

    Examples
    --------
    >>> entry = schuss.catalogue.describe(schuss.AdamW)
    >>> entry.state_bytes, str(entry.source)
    (8.0, 'Loshchilov & Hutter (2019)')
    """
    text = inspect.cleandoc(cls.__doc__ or "").split("\nParameters\n")[0]
    first = " ".join(text.split("\n\n")[0].split())
    p = np.zeros((1000, 1000), np.float32)
    return Entry(cls.__name__, first, cls.kind, _source(text), round(cls(p).nbytes / p.size, 2), cls.inputs)


def _source(text: str) -> Source:
    """Find "Authors (year), *title*, link" behind the formula."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if not paragraph.startswith("..")]
    for paragraph in paragraphs[1:]:
        found = re.search(r"(?:^|[.:;] )([^.:;*]*?(?:et al\.)?[^.:;*]*?) \((\d{4})\), \*(.+?)\*", paragraph)
        if found:
            link = re.search(r"https?://\S+[^\s.,;)]", re.split(r"; [A-Z]", paragraph[found.end() :])[0])
            return Source(found.group(1), int(found.group(2)), found.group(3), link.group() if link else "")
    link = re.search(r"https?://\S+[^\s.,;)]", " ".join(paragraphs))
    return Source("", None, "", link.group() if link else "")


def measure(cls: type[Optimizer], elements: int, *, seconds: float = 0.1, threads: int | None = None) -> float:
    """Return how many steps a second an optimizer makes on this machine.

    Parameters
    ----------
    cls : type
        The optimizer's class; its default options.
    elements : int
        Of the one float32 parameter: a matrix of about square shape.
    seconds : float
        How long to measure, about; at least three steps.
    threads : int, optional
        As for an optimizer.

    Examples
    --------
    >>> schuss.catalogue.measure(schuss.Adam, 1000, seconds=0.001) > 0
    True
    """
    rows = max(1, math.isqrt(elements))
    rng = np.random.default_rng(0)
    p, g = (0.1 * rng.standard_normal((rows, max(1, elements // rows)), np.float32) for _ in range(2))
    optimizer = cls(p, threads=threads)
    inputs: dict[str, Any] = {name: 1.0 if name in cls.given else np.abs(g) for name in cls.inputs}

    def block(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.step(g, **inputs)
        return (time.perf_counter() - start) / steps

    once = block(2)
    steps = max(1, round(seconds / 5 / max(once, 1e-7)))
    return 1 / statistics.median(block(steps) for _ in range(5 if 5 * once < 4 * seconds else 3))


def rows(elements: int = 0, *, seconds: float = 0.1) -> list[dict[str, Any]]:
    """Return the catalogue as dictionaries, with the steps per second if a number of elements is given.

    Examples
    --------
    >>> [row["state_bytes"] for row in schuss.catalogue.rows() if row["name"] in ("SGD", "Adam")]
    [8.0, 0.0]
    """
    import schuss

    found = []
    for cls in schuss.optimizers().values():
        row = asdict(describe(cls))
        if elements:
            row["steps_per_second"] = measure(cls, elements, seconds=seconds)
        found.append(row)
    return found


def markdown() -> str:
    """Return the catalogue as a page: `docs/catalogue.md` of the source tree."""
    import schuss

    lines = [
        "# The catalogue",
        "",
        "Written by `python -m schuss --markdown`. State: bytes per float32 parameter, with the default options, for a matrix",
        "of 1000 by 1000. `python -m schuss` measures the steps per second on your machine.",
        "",
        "| optimizer | what it is | kind | state | source |",
        "| --- | --- | --- | --- | --- |",
    ]
    for cls in schuss.optimizers().values():
        entry = describe(cls)
        source = f"[{entry.source}]({entry.source.link})" if entry.source.link else str(entry.source)
        page = f"[`{entry.name}`](../python/schuss/optimizers/{cls.rule}.py)"
        lines.append(f"| {page} | {entry.summary} | {entry.kind} | {entry.state_bytes:g} | {source} |")
    return "\n".join(lines) + "\n"
