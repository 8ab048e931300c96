"""Race every optimizer of schuss over two crooked valleys, a badly conditioned bowl, noisy data and handwritten digits.

    python examples/race.py
    python examples/race.py --optimizers Adam LAMB --problems rosenbrock digits --output /tmp/race

Every optimizer races at the learning rate that suits it. Tried are 0.001, 0.01, ..., 10, and further ones while the last is
the best, falling to zero along half a cosine as well as constant, which some rules are made for; then halves and quarters of
a decade around the best. Of rates that do about equally well the one nearest to the default is taken. Weight decay is off,
but on the digits: it would move the minimum.

It prints a table of rates and results ("cos": the rate falls; "@96": from step 96 on the loss is as low as it must be) and
writes race.json, the same numbers; race.png, the standings; race-rosenbrock.png, race-beale.png and race-quadratic.png, the
paths over the contours; race-losses.png, the losses over the steps. It fails if an optimizer ends above the stated loss of a
convex problem (0.002 of the bowl, 0.02 above the minimum of logistic regression), or reads less than 93 % of the digits that
it has not seen. AdamH keeps the distance from zero, and so cannot reach the minima of Rosenbrock and Beale.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from digits import (
    GREY,
    INK,
    PALETTE,
    STYLE,
    Arrays,
    Digits,
    evaluate,
    handwritten_digits,
    hessian_diagonal,
    initial_parameters,
    loss_and_gradients,
)
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import schuss
from schuss.curvature import WithHessian
from schuss.schedules import cosine
from schuss.trees import map_leaves

Vector = NDArray[np.float64]
Parameters = Any  # what a problem is solved in: a vector, or a dict of arrays

# ------------------------------------------------------------------------------------------------ problems


class Problem:
    """What is to be minimised, from where, and in how many steps."""

    name: ClassVar[str]
    title: ClassVar[str]
    steps: int
    goal: ClassVar[float | None] = None  # the stated loss that every optimizer must reach
    decays: ClassVar[bool] = False  # weight decay would move the minimum, which is known
    cheap: ClassVar[bool] = True  # the loss that counts can be drawn at every step; else the one that the rule saw
    judged: ClassVar[int] = 20  # the worst loss of so many last steps counts: who crosses the minimum is not there

    def start(self) -> Parameters:
        """Return fresh parameters."""
        raise NotImplementedError

    def loss_and_gradients(self, params: Parameters, step: int) -> tuple[float, Parameters]:
        """Return what the optimizer is shown at a step."""
        raise NotImplementedError

    def curvature(self, params: Parameters, step: int) -> Parameters:
        """Return the diagonal of the Hessian at a step, for the rules that ask for it."""
        raise NotImplementedError

    def loss(self, params: Parameters) -> float:
        """Return the loss that counts, in excess of the smallest possible one where that is known."""
        raise NotImplementedError

    def exam(self) -> Problem:
        """Return the problem that the tuned rate is tried on: this one, where nothing could be learnt by heart."""
        return self

    def result(self, loss: float, params: Parameters) -> float:
        """Return the number that counts in the end."""
        return loss

    def passed(self, result: float) -> bool:
        """Tell whether the result is as good as was stated."""
        return self.goal is None or result <= self.goal

    def demand(self) -> str:
        """Return the goal for the eye."""
        return f"at most {self.goal:g}"

    def shown(self, result: float) -> str:
        """Return the result for the eye."""
        return f"{result:.1e}" if math.isfinite(result) else "diverged"


class Plane(Problem):
    """A function of two numbers, so that the way to its minimum can be seen; who goes far off the map is lost."""

    steps = 400
    origin: ClassVar[tuple[float, float]]
    minimum: ClassVar[tuple[float, float]]
    window: ClassVar[tuple[float, float, float, float]]  # left, right, bottom, top

    def value(self, x: Any, y: Any) -> Any:
        """Return the function; also of arrays, for the contours."""
        raise NotImplementedError

    def slope(self, x: float, y: float) -> tuple[float, float]:
        """Return the gradient."""
        raise NotImplementedError

    def bend(self, x: float, y: float) -> tuple[float, float]:
        """Return the two second derivatives."""
        raise NotImplementedError

    def start(self) -> Vector:
        return np.array(self.origin)

    def loss_and_gradients(self, params: Vector, step: int) -> tuple[float, Vector]:
        x, y = params.tolist()
        left, right, bottom, top = self.window
        off = abs(2 * x - left - right) > 2 * (right - left) or abs(2 * y - bottom - top) > 2 * (top - bottom)
        return math.inf if off else self.value(x, y), np.array(self.slope(x, y))

    def curvature(self, params: Vector, step: int) -> Vector:
        return np.array(self.bend(*params.tolist()))

    def loss(self, params: Vector) -> float:
        return float(self.value(*params.tolist()))


class Rosenbrock(Plane):
    """A valley along a parabola, a hundred times as steep as it is long."""

    name, title = "rosenbrock", "Rosenbrock's valley"
    origin, minimum, window = (-1.2, 1.0), (1.0, 1.0), (-2.1, 2.1, -1.0, 2.2)

    def value(self, x: Any, y: Any) -> Any:
        return (1 - x) * (1 - x) + 100 * (y - x * x) * (y - x * x)

    def slope(self, x: float, y: float) -> tuple[float, float]:
        return -2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)

    def bend(self, x: float, y: float) -> tuple[float, float]:
        return 2 - 400 * (y - 3 * x * x), 200.0


class Beale(Plane):
    """A flat basin between steep walls."""

    name, title = "beale", "Beale's basin"
    origin, minimum, window = (1.0, 1.5), (3.0, 0.5), (-1.3, 4.5, -2.2, 2.2)

    def value(self, x: Any, y: Any) -> Any:
        a, b, c = 1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y
        return a * a + b * b + c * c

    def slope(self, x: float, y: float) -> tuple[float, float]:
        a, b, c = 1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y
        return (
            2 * (a * (y - 1) + b * (y * y - 1) + c * (y * y * y - 1)),
            2 * x * (a + 2 * b * y + 3 * c * y * y),
        )

    def bend(self, x: float, y: float) -> tuple[float, float]:
        b, c = 2.25 - x + x * y * y, 2.625 - x + x * y * y * y
        return (
            2 * ((y - 1) * (y - 1) + (y * y - 1) * (y * y - 1) + (y * y * y - 1) * (y * y * y - 1)),
            2 * x * x * (1 + 4 * y * y + 9 * y * y * y * y) + 4 * x * (b + 3 * c * y),
        )


class Quadratic(Plane):
    """An oblique bowl, one hundred times as steep across as along.

    The start is as far from zero as the minimum, for the sake of AdamH, which keeps that distance.
    """

    name, title = "quadratic", "Ill-conditioned bowl"
    steps, goal = 800, 2e-3  # the loss at the start is 0.24
    origin, minimum, window = (-0.6, 0.8), (0.8, 0.6), (-1.3, 1.9, -0.45, 1.98)

    # (u, v) are coordinates along and across; their directions are (0.8, -0.6) and (0.6, 0.8)

    def value(self, x: Any, y: Any) -> Any:
        u, v = 0.8 * (x - 0.8) - 0.6 * (y - 0.6), 0.6 * (x - 0.8) + 0.8 * (y - 0.6)
        return 0.5 * (0.01 * u * u + v * v)

    def slope(self, x: float, y: float) -> tuple[float, float]:
        u, v = 0.8 * (x - 0.8) - 0.6 * (y - 0.6), 0.6 * (x - 0.8) + 0.8 * (y - 0.6)
        return 0.008 * u + 0.6 * v, -0.006 * u + 0.8 * v

    def bend(self, x: float, y: float) -> tuple[float, float]:
        return 0.3664, 0.6436


class Logistic(Problem):
    """Logistic regression in mini-batches, where one label in ten is wrong and one row in twenty lies far out."""

    name, title = "logistic", "Logistic regression"
    steps, goal = 400, 2e-2  # the loss at the start is 0.57
    rows, columns, batch = 512, 10, 64

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        features = rng.standard_normal((self.rows, self.columns))
        truth = rng.standard_normal(self.columns + 1)
        self.x = np.column_stack([features, np.ones(self.rows)])
        self.y = np.where(rng.random(self.rows) < 1 / (1 + np.exp(-self.x @ truth)), 1.0, -1.0)
        self.y[rng.random(self.rows) < 0.1] *= -1
        self.x[rng.random(self.rows) < 0.05, :-1] *= 5
        self.batches = rng.integers(self.rows, size=(self.steps, self.batch))
        self.lowest = 0.0
        best = self._newton(np.zeros(self.columns + 1))
        self.lowest = self.loss(best)
        direction = rng.standard_normal(self.columns + 1)
        self.origin = direction * (np.linalg.norm(best) / np.linalg.norm(direction))  # as far from zero, for AdamH

    def _newton(self, w: Vector) -> Vector:
        for _ in range(30):
            share = 1 / (1 + np.exp(self.y * (self.x @ w)))
            hessian = (self.x * (share * (1 - share))[:, None]).T @ self.x
            w = w + np.linalg.solve(hessian, self.x.T @ (self.y * share))
        return w

    def start(self) -> Vector:
        return self.origin.copy()

    def loss_and_gradients(self, params: Vector, step: int) -> tuple[float, Vector]:
        x, y = self.x[self.batches[step]], self.y[self.batches[step]]
        margins = y * (x @ params)
        loss = float(np.logaddexp(0, -margins).mean())
        return loss, x.T @ (-y / (1 + np.exp(margins))) / self.batch

    def curvature(self, params: Vector, step: int) -> Vector:
        x = self.x[self.batches[step]]
        share = 1 / (1 + np.exp(x @ params))
        return (share * (1 - share)) @ (x * x) / self.batch

    def loss(self, params: Vector) -> float:
        return float(np.logaddexp(0, -self.y * (self.x @ params)).mean()) - self.lowest


class Reading(Problem):
    """The network of digits.py. Its rate is tuned on a part of the training digits, then tried on digits never seen."""

    name, title = "digits", "Handwritten digits"
    goal, decays, cheap = 0.93, True, False
    epochs, batch = 24, 192  # not smaller: Rprop compares the signs of gradients and cannot stand much noise

    def __init__(self, training: Digits, unseen: Digits) -> None:
        rng = np.random.default_rng(0)
        self.origin = initial_parameters(rng)
        self.batches = [batch for _ in range(self.epochs) for batch in training.batches(rng, self.batch)]
        self.steps = len(self.batches)
        self.training, self.unseen = training, unseen

    def start(self) -> Arrays:
        return {name: array.copy() for name, array in self.origin.items()}

    def loss_and_gradients(self, params: Arrays, step: int) -> tuple[float, Arrays]:
        return loss_and_gradients(params, self.batches[step])

    def curvature(self, params: Arrays, step: int) -> Arrays:
        return hessian_diagonal(params, self.batches[step])

    def loss(self, params: Arrays) -> float:
        return evaluate(params, self.unseen)[0]

    def exam(self) -> Problem:
        return examination()

    def result(self, loss: float, params: Arrays) -> float:
        return evaluate(params, self.unseen)[1] if math.isfinite(loss) else 0.0

    def passed(self, result: float) -> bool:
        return result >= self.goal

    def demand(self) -> str:
        return f"at least {self.goal:.0%}"

    def shown(self, result: float) -> str:
        return f"{result:.1%}"


@functools.cache
def examination() -> Reading:
    """All training digits, and those held out for the end."""
    return Reading(*handwritten_digits().split(held_out=0.25))


@functools.cache
def problem(name: str) -> Problem:
    """Return the problem of a name, made once in every process."""
    if name == Reading.name:
        return Reading(*examination().training.split(held_out=0.2))
    return PROBLEMS[name]()


PROBLEMS: dict[str, Any] = {cls.name: cls for cls in (Rosenbrock, Beale, Quadratic, Logistic, Reading)}

# ------------------------------------------------------------------------------------------------- running

FLOOR = 1e-10  # losses below it are as good as zero

#: What rules take beside the gradients, from the problem, its parameters, the step and the loss there.
INPUTS: dict[str, Callable[[Problem, Parameters, int, float], Any]] = {
    "hessian": lambda problem, params, step, loss: problem.curvature(params, step),
    "loss": lambda problem, params, step, loss: loss,
}


@dataclass
class Run:
    """One optimizer with one rate on one problem, step by step."""

    lr: float | None  # None: the rule has no rate
    falls: bool  # the rate falls along a cosine; else it is constant
    losses: list[float]  # at the start and after every step
    path: list[list[float]]  # in the plane, likewise
    loss: float  # in the end
    result: float  # what the table shows of it

    @property
    def rate(self) -> str:
        """The rate in short."""
        return "" if self.lr is None else f"{self.lr:.2g}{' cos' if self.falls else ''}"


@contextmanager
def judging(optimizer: schuss.Optimizer) -> Iterator[None]:
    """Hold the weights to be judged, where a rule averages them."""
    optimizer.eval()
    yield
    optimizer.train()


def descend(optimizer: schuss.Optimizer, problem: Problem, params: Parameters) -> Iterator[float]:
    """Take the steps, and yield the loss that the optimizer saw at each, until it is no number or the optimizer gives up."""
    for step in range(problem.steps):
        loss, grads = problem.loss_and_gradients(params, step)
        if not math.isfinite(loss):
            return
        if isinstance(optimizer, WithHessian) and step % 10 == 0:
            diagonal = problem.curvature(params, step)
            if (
                optimizer.squares
            ):  # it takes gradients of the mean over `batch` terms, whose squares estimate the diagonal
                scale = getattr(optimizer, "batch", 1.0)
                diagonal = map_leaves(lambda h, scale=scale: np.sqrt(np.maximum(h, 0) / scale), diagonal)
            optimizer.update_hessian(diagonal)
        try:
            optimizer.step(grads, **{name: INPUTS[name](problem, params, step, loss) for name in optimizer.inputs})
        except RuntimeError:  # its factorisations have failed too often: the rate is too high
            return
        yield loss


def run(cls: type[schuss.Optimizer], problem: Problem, lr: float | None, falls: bool, watch: bool = False) -> Run:
    """Minimise from the start to the end, and judge the last steps; note every step if it is to be drawn."""
    params = problem.start()
    arguments: dict[str, Any] = {}
    if "weight_decay" in cls.hyperparameters and not problem.decays:
        arguments["weight_decay"] = 0.0
    if lr is not None:
        arguments["lr"] = cosine(lr, steps=problem.steps) if falls else lr
    optimizer = cls(params, **arguments)

    losses, path, late = [problem.loss(params)], [], []
    if isinstance(problem, Plane):
        path.append(params.tolist())
    with np.errstate(all="ignore"):  # a rate far too large may well diverge
        for step, seen in enumerate(descend(optimizer, problem, params), 1):
            counts, loss = step > problem.steps - problem.judged, seen
            if counts or (watch and problem.cheap):
                with judging(optimizer):
                    loss = problem.loss(params)
                    if isinstance(problem, Plane):
                        path.append(params.tolist())
            if counts:
                late.append(loss if math.isfinite(loss) else math.inf)
            losses.append(loss if problem.cheap else seen)
        end = max(late) if len(late) == problem.judged else math.inf
        with judging(optimizer):
            return Run(lr, falls, losses, path, end, problem.result(end, params))


def tune(cls: type[schuss.Optimizer], problem: Problem) -> tuple[float | None, bool]:
    """Return the rate with about the least loss in the end, and whether it falls; of several that nearest to the default."""
    if "lr" not in cls.hyperparameters:
        return None, False
    default = 4 * math.log10(float(cls.hyperparameters["lr"].default))
    tried: dict[tuple[int, bool], float] = {}  # by quarters of a decade, and whether the rate falls

    def best(*quarters: int, falls: bool) -> tuple[int, bool]:
        for quarter in quarters:
            if (quarter, falls) not in tried:
                tried[quarter, falls] = run(cls, problem, 10 ** (quarter / 4), falls).loss
        enough = 1.2 * max(FLOOR, min(tried.values()))
        return min((rate for rate, loss in tried.items() if loss <= enough), key=lambda rate: abs(rate[0] - default))

    for falls in (True, False):
        middle, found = best(-12, -8, -4, 0, 4, falls=falls)
        while found == falls and -20 < middle < 12 and not {(middle - 4, falls), (middle + 4, falls)} <= tried.keys():
            middle, found = best(middle - 4, middle + 4, falls=falls)
    for quarters in (2, 1):
        middle, found = best(middle - quarters, middle + quarters, falls=found)
    return 10 ** (middle / 4), found


@dataclass
class Racer:
    """An optimizer and its best run on every problem."""

    name: str
    kind: str
    runs: dict[str, Run]

    def misses(self) -> list[str]:
        """Say in words which goals it did not reach."""
        return [
            f"{self.name} on {name}: {problem(name).shown(run.result)}, must be {problem(name).demand()}"
            for name, run in self.runs.items()
            if not problem(name).passed(run.result)
        ]


def race(name: str, chosen: Sequence[str]) -> Racer:
    """Tune and run one optimizer. BLAS may round differently on another number of threads, and so has one."""
    cls, runs = schuss.optimizers()[name], {}
    with threadpool_limits(1, user_api="blas"):
        for each in chosen:
            runs[each] = run(cls, problem(each).exam(), *tune(cls, problem(each)), watch=True)
    return Racer(name, cls.kind, runs)


# ------------------------------------------------------------------------------------------------- results


def arrival(name: str, run: Run) -> int | None:
    """Return the number of steps after which the loss stays at or below a stated one."""
    goal = problem(name).goal
    if goal is None or name == Reading.name or not run.losses[-1] <= goal:
        return None
    return max((step for step, loss in enumerate(run.losses, 1) if not loss <= goal), default=0)


def table(racers: list[Racer], chosen: Sequence[str]) -> str:
    """One line per optimizer: the rate and the result on every problem, and the steps to the stated loss."""
    width = max(len(racer.name) for racer in racers) + 2
    lines = [" " * width + "".join(f"{name:<27}" for name in chosen)]
    for racer in racers:
        line = f"{racer.name:<{width}}"
        for name, run in racer.runs.items():
            steps = arrival(name, run)
            after = "" if steps is None else f"@{steps}"
            line += f"{run.rate:<12}{problem(name).shown(run.result):>8} {after:<6}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def record(racers: list[Racer], output: Path) -> None:
    """Write the numbers of the table, in full."""
    rows = [
        {
            "optimizer": racer.name, "problem": name, "lr": run.lr, "schedule": "cosine" if run.falls else "constant",
            "result": run.result, "goal": problem(name).goal, "passed": problem(name).passed(run.result),
            "steps": problem(name).steps, "steps_to_goal": arrival(name, run),
        }
        for racer in racers
        for name, run in racer.runs.items()
    ]  # fmt: skip
    output.write_text(json.dumps(rows, indent=1) + "\n")


# ------------------------------------------------------------------------------------------------ pictures

Drawing = Callable[[Axes, Racer], None]

#: Of the problems (after Okabe and Ito, for every kind of eye), and of a path over its map.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b")
MAP = LinearSegmentedColormap.from_list("map", ["#173a5e", "#2f6690", "#6ba3c8", "#b5d3e7", "#e9f2f8", "#f8fbfd"])
PATH, START, MINIMUM = "#d4400a", "#1d2330", "#ffd23f"


@functools.cache
def kinds() -> dict[str, str]:
    """Return the colour of every kind of rule."""
    found = sorted({cls.kind for cls in schuss.optimizers().values()})
    return dict(zip(found, PALETTE, strict=False))


def write(figure: Figure, inches: float, text: str, size: float, **font: Any) -> None:
    """Write a line so many inches below the top of a figure."""
    width, height = figure.get_size_inches()
    figure.text(0.5 / width, 1 - inches / height, text, size=size, va="baseline", **font)


def panels(
    racers: Sequence[Racer], draw: Drawing, size: tuple[float, float], title: str, text: str, head: float = 1.2
) -> Figure:
    """Draw a panel for every optimizer, under a title; the size is that of one panel, in inches."""
    columns = min(len(racers), max(4, round(math.sqrt(1.5 * len(racers) * size[1] / size[0]))))
    rows = math.ceil(len(racers) / columns)
    gap, above, left, foot = 0.2, 0.4, 0.5, 0.4
    width = max(left + columns * (size[0] + gap), 9.0)
    height = head + rows * (size[1] + above) + foot
    figure = plt.figure(figsize=(width, height))
    for place, racer in enumerate(racers):
        row, column = divmod(place, columns)
        x, y = left + column * (size[0] + gap), height - head - (row + 1) * (size[1] + above) + above
        axis = figure.add_axes((x / width, y / height, size[0] / width, size[1] / height))
        axis.set_title(racer.name, loc="left", size=min(12, 160 / len(racer.name)), weight="bold", pad=5)
        axis.tick_params(labelleft=column == 0, labelbottom=place + columns >= len(racers), labelsize=9)
        draw(axis, racer)
    write(figure, 0.5, title, 19, weight="bold")
    write(figure, 0.8, text, 11, color=GREY)
    return figure


def ground(plane: Plane) -> NDArray[np.uint8]:
    """Return the map of a problem, in bands of the value: three to a decade."""
    left, right, bottom, top = plane.window
    x, y = np.meshgrid(np.linspace(left, right, 400), np.linspace(bottom, top, 300))
    bands = np.floor(3 * np.log10(plane.value(x, y) / plane.value(*plane.origin) + 3e-5))
    low, high = np.percentile(bands, (0, 97))
    coloured: NDArray[np.uint8] = MAP((bands - low) / (high - low), bytes=True)
    return coloured


def draw_way(axis: Axes, plane: Plane, run: Run, under: NDArray[np.uint8]) -> None:
    """Draw one way over the map of its problem."""
    left, right, bottom, top = plane.window
    way = np.array(run.path)
    axis.imshow(under, extent=plane.window, origin="lower", aspect="auto", interpolation="antialiased")
    for colour, wide in (("white", 2.6), (PATH, 1.3)):
        axis.plot(*way.T, color=colour, linewidth=wide, solid_joinstyle="round")
    axis.plot(*way[-1], "o", color=PATH, markeredgecolor="white", markersize=7)
    axis.plot(*way[0], "o", color="white", markeredgecolor=INK, markersize=5.5)
    axis.plot(*plane.minimum, "*", color=MINIMUM, markeredgecolor=INK, markeredgewidth=0.7, markersize=9)
    axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    axis.spines["bottom"].set_visible(False)
    axis.set_title(plane.shown(run.result), loc="right", size=9.5, pad=5)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axis.text(0.97, 0.04, run.rate, size=8.5, ha="right", transform=axis.transAxes, bbox=box)


def paths(racers: Sequence[Racer], plane: Plane) -> Figure:
    """Draw the ways of all optimizers over the contours of a problem, the best first."""
    under = ground(plane)

    def draw(axis: Axes, racer: Racer) -> None:
        draw_way(axis, plane, racer.runs[plane.name], under)

    ranked = sorted(racers, key=lambda racer: racer.runs[plane.name].result)
    text = f"{plane.steps} steps from the white dot to the red one; the star is the minimum; loss in the end, and rate"
    return panels(ranked, draw, (2.3, 1.75), plane.title, text)


def curves(racers: Sequence[Racer], chosen: Sequence[str]) -> Figure:
    """Draw the losses over the steps, all problems of an optimizer in one panel."""
    colours = dict(zip(PROBLEMS, COLOURS, strict=True))

    def draw(axis: Axes, racer: Racer) -> None:
        for name, run in racer.runs.items():
            losses = np.array(run.losses) / run.losses[0]
            wide = 21 if name == Reading.name else 9
            padded = np.pad(losses, wide // 2, mode="reflect")
            windows = np.lib.stride_tricks.sliding_window_view(padded, wide)
            smooth = windows.mean(axis=1) if name == Reading.name else windows.max(axis=1)
            share = np.arange(len(losses)) / problem(name).exam().steps
            axis.semilogy(share, np.maximum(smooth, 1e-9), color=colours[name], linewidth=1.6)
        axis.set(xlim=(0, 1), ylim=(1e-8, 20), yticks=[1e-8, 1e-6, 1e-4, 1e-2, 1], xticks=[])
        axis.minorticks_off()
        if axis.xaxis.get_tick_params()["labelbottom"]:
            for x, side, label in ((0, "left", "start"), (1, "right", "end")):
                axis.text(x, -0.04, label, ha=side, va="top", size=9, color=GREY, transform=axis.transAxes)

    text = (
        "Excess loss, as a share of that at the start, at the tuned rate: the worst of nine steps, of digits the mean"
    )
    figure = panels(racers, draw, (2.3, 1.6), "Losses on the way", text, head=1.5)
    handles = [Line2D([], [], color=colours[name], linewidth=3, label=problem(name).title) for name in chosen]
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.5 / width, 1 - 0.92 / height), borderaxespad=0, borderpad=0,
        ncols=len(handles), handlelength=1.2, columnspacing=1.4, fontsize=10,
    )  # fmt: skip
    return figure


def standings(racers: Sequence[Racer], chosen: Sequence[str]) -> Figure:
    """Draw the results of all optimizers on every problem, the best all-rounder first."""

    def better(name: str, racer: Racer) -> int:
        """Count those who are better, where what lies below FLOOR is equal."""
        sign = -1 if name == Reading.name else 1
        results = [max(sign * each.runs[name].result, FLOOR if sign > 0 else -1) for each in (racer, *racers)]
        return sum(result < results[0] for result in results)

    ranked = sorted(racers, key=lambda racer: sum(better(name, racer) for name in chosen))
    width, height = max(1.9 + 2.5 * len(chosen), 8.0), 2.3 + 0.27 * len(ranked)
    figure, axes = plt.subplots(1, len(chosen), figsize=(width, height), squeeze=False, sharey=True)
    figure.subplots_adjust(1.75 / width, 0.5 / height, 1 - 0.3 / width, 1 - 1.75 / height, wspace=0.16)
    for axis, name in zip(axes.flat, chosen, strict=True):
        reading, goal = name == Reading.name, problem(name).goal
        ends = (0.9, 1.0) if reading else (FLOOR, 10.0)
        if not reading:
            axis.set_xscale("log")
        if goal is not None:
            axis.axvspan(*((ends[0], goal) if reading else (goal, ends[1])), color="#f9e3dc", linewidth=0)
        for row, racer in enumerate(ranked):
            run, colour = racer.runs[name], kinds()[racer.kind]
            axis.plot(
                np.clip(run.result, *ends), row, "o", markersize=7, clip_on=False, markeredgewidth=1.6,
                color=colour if run.falls else "white", markeredgecolor=colour,
            )  # fmt: skip
        axis.set(ylim=(len(ranked) - 0.4, -0.6), xlim=ends, yticks=range(len(ranked)))
        axis.set_yticklabels([racer.name for racer in ranked], color=INK, size=10.5)
        axis.set_title(problem(name).title, loc="left", size=11, weight="bold", pad=20)
        what = "unseen ones read" if reading else "loss in the end"
        limit = "" if goal is None else f", {problem(name).demand()}"
        axis.annotate(
            what + limit, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", size=9, color=GREY
        )
        axis.tick_params(axis="x", labelsize=9)
        if reading:
            axis.set_xticks([0.9, 0.95, 1.0], ["90 %", "95 %", "100 %"])
        else:
            axis.set_xticks([1e-10, 1e-7, 1e-4, 1e-1], ["≤ $10^{-10}$", *(f"$10^{{{n}}}$" for n in (-7, -4, -1))])
            axis.minorticks_off()
    write(figure, 0.5, "The race", 19, weight="bold")
    text = "Every optimizer at its tuned rate, the best all-rounders first; what lies in the shade is a miss"
    write(figure, 0.8, text, 11, color=GREY)

    def dot(colour: str, label: str, face: str | None = None) -> Line2D:
        style: dict[str, Any] = {"marker": "o", "linewidth": 0, "markersize": 7, "markeredgecolor": colour}
        return Line2D([], [], color=face or colour, label=label, **style)

    drawn = [kind for kind in kinds() if any(racer.kind == kind for racer in racers)]
    handles = [dot(kinds()[kind], f"{kind} rule") for kind in drawn]
    handles += [dot(GREY, "rate falls along a cosine"), dot(GREY, "rate is constant", "white")]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.5 / width, 1 - 0.92 / height), borderaxespad=0, borderpad=0,
        ncols=len(handles), handletextpad=0.2, columnspacing=1.4, fontsize=10,
    )  # fmt: skip
    return figure


def picture(stem: str, racers: Sequence[Racer], chosen: Sequence[str], output: Path) -> str:
    """Draw one of the pictures, and return its name."""
    with plt.rc_context(STYLE):
        if stem == "race":
            figure = standings(racers, chosen)
        elif stem == "race-losses":
            figure = curves(racers, chosen)
        else:
            figure = paths(racers, PROBLEMS[stem.removeprefix("race-")]())
        figure.savefig(output / f"{stem}.png", dpi=110)
        plt.close(figure)
    return f"{stem}.png"


# ---------------------------------------------------------------------------------------------------- main


def main() -> None:
    """Race, print, draw, and say who did not arrive."""
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    planes = [name for name in args.problems if issubclass(PROBLEMS[name], Plane)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = pool.map(functools.partial(race, chosen=args.problems), args.optimizers)
        racers = list(tqdm(runs, total=len(args.optimizers), unit="optimizer"))
        print(table(racers, args.problems))
        record(racers, args.output / "race.json")
        draw = functools.partial(picture, racers=racers, chosen=args.problems, output=args.output)
        drawn = pool.map(draw, ["race", "race-losses", *(f"race-{name}" for name in planes)])
        print("Written to", args.output.resolve(), "are race.json,", ", ".join(drawn))
    if misses := [miss for racer in racers for miss in racer.misses()]:
        sys.exit("Missed:\n" + "\n".join(misses))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names, problems = list(schuss.optimizers()), list(PROBLEMS)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names, metavar="NAME", help="default: all")
    parser.add_argument("--problems", nargs="+", choices=problems, default=problems, help="default: all")
    parser.add_argument("--output", type=Path, default=Path(), help="directory for what is written (default: this one)")
    args = parser.parse_args()
    args.problems = [name for name in problems if name in args.problems]
    return args


if __name__ == "__main__":
    main()
