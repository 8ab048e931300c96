"""Lay one photograph over another: a nonlinear least-squares fit by first- and second-order methods.

    python examples/second_order.py
    python examples/second_order.py --seeds 5 --output /tmp/second_order.png

Image registration, as it is done in microscopy, remote sensing and medicine: a photograph (of a temple, which comes with
scikit-learn) was taken twice, from slightly different places in different light. Eight numbers describe what is between the
two, a matrix, a shift, a gain and an offset, and are fitted such that the difference of all pixels is least (Lucas & Kanade,
1981). The second photograph is made from the first, with noise, so that the truth is known; every seed draws another one.

The table shows how many evaluations of the difference and its derivatives, and how much time, each method takes until
pixels are where they belong to within a tenth of a pixel, medians over the seeds; and how far off they are at the end.
Products with the curvature, which Newton-CG asks for, are in its time and not among its evaluations.
Methods start at the same point and see the same pixels. Step sizes of the first-order methods were chosen on another seed.

It fails unless every method ends within a tenth of a pixel, every second-order method needs fewer evaluations than every
first-order method for every seed, and Levenberg-Marquardt, which knows that it is a sum of squares, no more than any other.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from digits import GREY, INK, PALE, PALETTE, STYLE
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_limits

import schuss
from schuss.schedules import cosine

Params = dict[str, NDArray[np.float64]]

# ----------------------------------------------------------------------------------------------- registration

STEPS = 150  # of the first-order methods
CLOSE = 0.1  # pixels


class Registration:
    """Two photographs, and how they differ if one is moved."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        photograph = load_sample_image("china.jpg").mean(axis=2) / 255
        rows, columns = photograph.shape
        self.pixels = columns / 2  # in a unit of the coordinates, which start in the middle
        smooth = gaussian_filter(photograph, 4.0)  # so that the difference is smooth over the distances in question
        y, x = (np.arange(n) / self.pixels - n / columns for n in (rows, columns))
        self._brightness = RectBivariateSpline(y, x, smooth)
        grid = np.meshgrid(y[40:-40:10], x[60:-60:10], indexing="ij")
        self.points = np.stack([each.ravel() for each in grid], axis=1)
        angle, zoom = np.radians(rng.uniform(-4, 4)), 1 + rng.uniform(-0.04, 0.04)
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.truth: Params = {
            "matrix": turn + 0.01 * rng.standard_normal((2, 2)),
            "shift": rng.uniform(-8, 8, 2) / self.pixels,
            "light": np.array([rng.uniform(0.6, 0.9), rng.uniform(0.0, 0.2)]),  # gain and offset
        }
        self._other = np.zeros(len(self.points))
        self._other = self.residuals(self.truth) * np.sqrt(len(self.points)) + 0.005 * rng.standard_normal(
            len(self.points)
        )

    def start(self) -> Params:
        """Nothing was moved, and the light was the same."""
        return {"matrix": np.eye(2), "shift": np.zeros(2), "light": np.array([1.0, 0.0])}

    def residuals(self, p: Params) -> NDArray[np.float64]:
        """Return the difference at every point, over the root of their number."""
        moved = self.points @ p["matrix"].T + p["shift"]
        brightness = self._brightness.ev(*moved.T)
        return (p["light"][0] * brightness + p["light"][1] - self._other) / np.sqrt(len(self.points))

    def jacobian(self, p: Params) -> NDArray[np.float64]:
        """Return its derivatives, a column for each of the eight numbers."""
        moved = self.points @ p["matrix"].T + p["shift"]
        slopes = [p["light"][0] * self._brightness.ev(*moved.T, dx=1 - i, dy=i) for i in range(2)]
        columns = [slope * along for slope in slopes for along in self.points.T]
        columns += [*slopes, self._brightness.ev(*moved.T), np.ones(len(self.points))]
        return np.stack(columns, axis=1) / np.sqrt(len(self.points))

    def difference(self, p: Params) -> tuple[float, Params]:
        """Return half the mean square and its gradient."""
        r = self.residuals(p)
        g = self.jacobian(p).T @ r
        return 0.5 * float(r @ r), {"matrix": g[:4].reshape(2, 2), "shift": g[4:6], "light": g[6:]}

    def off(self, p: Params) -> float:
        """Return how far pixels are from where they belong: the root mean square, in pixels."""
        apart = self.points @ (p["matrix"] - self.truth["matrix"]).T + p["shift"] - self.truth["shift"]
        return self.pixels * float(np.sqrt((apart**2).sum(axis=1).mean()))

    def curvature(self, p: Params, v: Params) -> Params:
        """Return the Gauss-Newton approximation of the Hessian times a vector."""
        J = self.jacobian(p)
        g = J.T @ (J @ np.concatenate([v["matrix"].ravel(), v["shift"], v["light"]]))
        return {"matrix": g[:4].reshape(2, 2), "shift": g[4:6], "light": g[6:]}


# ----------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """An optimizer with its arguments."""

    label: str
    name: str
    order: int
    options: dict[str, Any]


#: Further methods go here: `matrix` is 2 x 2, so that those for matrices have something to do.
#: Step sizes of the first order: of 1, 2 and 5 times powers of ten that which is close first on seed 99.
METHODS = [
    Method("momentum 0.9", "momentum", 1, {"lr": cosine(1.0, STEPS), "beta": 0.9}),
    Method("Adam", "adam", 1, {"lr": cosine(0.02, STEPS)}),
    Method("L-BFGS", "lbfgs", 2, {"ftol": 0.0}),
    Method("Newton-CG", "newton_cg", 2, {}),
    Method("Levenberg-Marquardt", "levenberg_marquardt", 2, {}),
]


@dataclass(frozen=True)
class Run:
    """What one method did: after every evaluation, the time and how far off the best point so far was."""

    seconds: NDArray[np.float64]
    off: NDArray[np.float64]

    @property
    def arrival(self) -> int | None:
        """The number of evaluations until it was close; None if it never was."""
        close = np.flatnonzero(self.off <= CLOSE)
        return int(close[0]) + 1 if len(close) else None


def run(task: Registration, method: Method) -> Run:
    """Fit by one method."""
    seen: list[tuple[float, float, Params]] = []

    began: list[float] = []  # with the first evaluation, when all is imported

    def kept(value: float, p: Params) -> None:
        seen.append((perf_counter() - began[0], value, {key: each.copy() for key, each in p.items()}))

    def difference(p: Params) -> tuple[float, Params]:
        began.append(perf_counter())
        found = task.difference(p)
        kept(found[0], p)
        return found

    def residuals(p: Params) -> tuple[NDArray[np.float64], Callable[[], NDArray[np.float64]]]:
        began.append(perf_counter())
        r = task.residuals(p)
        kept(0.5 * float(r @ r), p)
        return r, lambda: task.jacobian(p)

    further: dict[str, Any] = {"hessp": task.curvature} if method.name == "newton_cg" else {}
    function: Any = residuals if method.name == "levenberg_marquardt" else difference
    schuss.minimize(function, task.start(), method.name, tol=1e-7, max_steps=STEPS, **further, **method.options)
    values = np.array([value for _, value, _ in seen])
    best = [int(np.argmin(values[: i + 1])) for i in range(len(seen))]
    off = np.array([task.off(p) for _, _, p in seen])
    return Run(np.array([seconds for seconds, _, _ in seen]), off[best])


# ----------------------------------------------------------------------------------------------------- results


def table(results: dict[str, list[Run]]) -> str:
    """Return a line per method."""
    lines = [f"{'method':20s} {'evaluations':>11s} {'seconds':>8s} {'off at the end':>15s}"]
    for method in METHODS:
        runs = results[method.label]
        arrivals = [each.arrival for each in runs]
        if None in arrivals:
            reached = f"{'never':>11s} {'':8s}"
        else:
            seconds = np.median([each.seconds[(each.arrival or 1) - 1] for each in runs])
            reached = f"{np.median([each or 0 for each in arrivals]):11.0f} {seconds:8.3f}"
        lines.append(f"{method.label:20s} {reached} {np.median([each.off[-1] for each in runs]):12.4f} px")
    return "\n".join(lines)


def broken(results: dict[str, list[Run]]) -> list[str]:
    """Return the claims that do not hold."""
    found = [
        f"{label}: it ends {each.off[-1]:.3f} pixels off"
        for label, runs in results.items()
        for each in runs
        if each.off[-1] > CLOSE
    ]
    if found:
        return found
    for seed in range(len(next(iter(results.values())))):
        count = {method.label: results[method.label][seed].arrival or 0 for method in METHODS}
        first = min(count[method.label] for method in METHODS if method.order == 1)
        found += [
            f"{method.label}: it takes {count[method.label]} evaluations, a first-order method {first}"
            for method in METHODS
            if method.order == 2 and count[method.label] >= first
        ]
        least = min(value for label, value in count.items() if label != "Levenberg-Marquardt")
        if count["Levenberg-Marquardt"] > least:
            found.append(
                f"Levenberg-Marquardt: it takes {count['Levenberg-Marquardt']} evaluations, another method {least}"
            )
    return found


def plot(task: Registration, results: dict[str, list[Run]], output: Path) -> None:
    """Draw how far off pixels are against evaluations and against time, for the first seed, the others behind."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
        for axis, label in zip(axes, ("evaluations", "seconds"), strict=True):
            for method, colour in zip(METHODS, itertools.cycle((INK, *PALETTE)), strict=False):
                for i, each in reversed(list(enumerate(results[method.label]))):
                    along = np.arange(1, len(each.off) + 1) if label == "evaluations" else each.seconds
                    width, strength = (2.2, 1.0) if i == 0 else (0.8, 0.3)
                    name = method.label if i == 0 else None
                    axis.loglog(
                        along,
                        each.off,
                        color=colour,
                        linewidth=width,
                        alpha=strength,
                        label=name,
                        drawstyle="steps-post",
                    )
            axis.axhline(CLOSE, color=PALE, linewidth=1, zorder=0)
            axis.set_xlabel(label, color=GREY)
        axes[0].set_ylabel("pixels off, at the best point so far", color=GREY)
        axes[0].legend(loc="lower left")
        figure.suptitle(
            f"Eight numbers from {len(task.points)} pixels: laying one photograph over another", x=0.06, ha="left"
        )
        figure.savefig(output, dpi=120)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="pairs of photographs (default: 3)")
    parser.add_argument(
        "--output", type=Path, default=Path("second_order.png"), help="the picture (default: second_order.png)"
    )
    return parser.parse_args()


def main() -> None:
    """Fit by all methods; print the table and draw the picture."""
    args = arguments()
    tasks = [Registration(100 + seed) for seed in range(args.seeds)]
    with threadpool_limits(1):
        results = {method.label: [run(task, method) for task in tasks] for method in METHODS}
    print(table(results))
    plot(tasks[0], results, args.output)
    print(f"The curves are in {args.output}")
    sys.exit("\n".join(broken(results)) or 0)


if __name__ == "__main__":
    main()
