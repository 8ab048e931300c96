"""The way of an optimizer over a map, and its loss on the way: pictures that are drawn once and kept.

The problems, the search for a learning rate and the drawing are those of `examples/race.py`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

#: An end at or below this loss is one at the minimum, as far as the eye can tell.
SOLVED = 1e-2


@dataclass(frozen=True)
class Trajectory:
    """A drawn run: what a caption says of it, and its pictures."""

    problem: str
    steps: int
    rate: str
    result: str
    pictures: tuple[str, str]


def key(sources: list[Path]) -> str:
    """Return what changes with the sources that a picture depends on."""
    digest = hashlib.sha256()
    for path in (*sources, EXAMPLES / "race.py", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def trajectory(name: str, sources: list[Path], folder: Path) -> Trajectory:
    """Return the trajectory of an optimizer, drawn anew where its sources have changed."""
    import schuss

    rule = schuss.optimizers()[name].rule
    record = folder / f"{rule}.json"
    now = key(sources)
    if record.exists():
        kept = json.loads(record.read_text())
        if kept.pop("key") == now and all((folder / picture).exists() for picture in kept["pictures"]):
            return Trajectory(**{**kept, "pictures": tuple(kept["pictures"])})
    drawn = _draw(name, rule, folder)
    record.write_text(json.dumps({"key": now, **vars(drawn)}))
    return drawn


@functools.cache
def _ground(plane: Any) -> Any:
    import race

    return race.ground(plane())


def _draw(name: str, rule: str, folder: Path) -> Trajectory:
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    import race
    from matplotlib import pyplot as plt
    from threadpoolctl import threadpool_limits

    import schuss

    class Row(race.Plane):  # type: ignore[misc]
        """A problem whose two parameters are a matrix of one row, so that rules over matrices and rows are at work."""

        def start(self) -> Any:
            return super().start()[None]

        def loss_and_gradients(self, params: Any, step: int) -> Any:
            loss, gradient = super().loss_and_gradients(params[0], step)
            return loss, gradient[None]

        def curvature(self, params: Any, step: int) -> Any:
            return super().curvature(params[0], step)[None]

        def loss(self, params: Any) -> float:
            return float(super().loss(params[0]))

    cls = schuss.optimizers()[name]
    for plane in (race.Beale, race.Quadratic):  # the second is one that every rule solves
        problem = type(plane.__name__, (Row, plane), {})()
        with threadpool_limits(1, user_api="blas"):
            run = race.run(cls, problem, *race.tune(cls, problem), watch=True)
        if run.result <= SOLVED:
            break
    run.path = [point[0] for point in run.path]
    pictures = (f"{rule}-way.png", f"{rule}-loss.png")
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(race.STYLE):
        figure = plt.figure(figsize=(4.4, 3.0))
        axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        race.draw_way(axis, problem, run, _ground(plane))
        axis.set_title("", loc="right")  # the loss in the end is in the caption, as is the rate
        axis.texts[0].remove()
        figure.savefig(folder / pictures[0], dpi=150)
        plt.close(figure)
        figure = plt.figure(figsize=(4.4, 3.0))
        axis = figure.add_axes((0.15, 0.15, 0.8, 0.82))
        axis.semilogy([max(loss, race.FLOOR) for loss in run.losses], color=race.PATH, linewidth=1.4)
        axis.set(xlim=(0, problem.steps), xlabel="step", ylabel="loss")
        axis.set_ylim(bottom=race.FLOOR * 0.5)
        axis.minorticks_off()
        figure.savefig(folder / pictures[1], dpi=150)
        plt.close(figure)
    return Trajectory(problem.title, problem.steps, run.rate, problem.shown(run.result), pictures)
