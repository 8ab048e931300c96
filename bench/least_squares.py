"""Evaluations that least-squares fits take on the problems of Moré, Garbow and Hillstrom, here and in SciPy.

    python bench/least_squares.py
    python bench/least_squares.py --tolerance 1e-12

Every method starts at the standard start with the analytic Jacobian and all its tolerances at the same value. A dash is a
problem on which it does not end at a known minimum. Evaluations do not depend on the machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from scipy.optimize import least_squares

import schuss

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from more_garbow_hillstrom import PROBLEMS, Problem

#: A method: from a problem and a tolerance to the evaluations and the sum of squares.
Fit = Callable[[Problem, float], tuple[int, float]]


def ours(scale: str) -> Fit:
    def fit(problem: Problem, tolerance: float) -> tuple[int, float]:
        tolerances = {"gtol": tolerance, "ftol": tolerance, "xtol": tolerance}
        found = schuss.minimize(
            problem.residuals_and_jacobian, problem.x0, "levenberg_marquardt", scale=scale, **tolerances
        )
        return found.nfev, 2 * found.fun

    return fit


def scipy(method: str) -> Fit:
    def fit(problem: Problem, tolerance: float) -> tuple[int, float]:
        tolerances = {"gtol": tolerance, "ftol": tolerance, "xtol": tolerance}
        found = least_squares(problem.residuals, problem.x0, problem.jacobian, method=method, **tolerances)
        return found.nfev, 2 * found.cost

    return fit


FITS = {
    "schuss": ours("none"),
    "scale=jacobian": ours("jacobian"),
    "SciPy trf": scipy("trf"),
    "SciPy lm": scipy("lm"),
    "SciPy dogbox": scipy("dogbox"),
}


def table(tolerance: float) -> str:
    """Return a line per problem, and the sums."""
    lines = [f"{'problem':22s} {'n':>3s} {'m':>3s}" + "".join(f"{name:>16s}" for name in FITS)]
    sums = dict.fromkeys(FITS, 0)
    for problem in PROBLEMS:
        cells = []
        for name, fit in FITS.items():
            count, value = fit(problem, tolerance)
            sums[name] += count
            cells.append(f"{count}{'' if problem.solved_by(value) else ' -'}")
        size = f"{problem.x0.size:3d} {problem.residuals(problem.x0).size:3d}"
        lines.append(f"{problem.name:22s} {size}" + "".join(f"{cell:>16s}" for cell in cells))
    lines.append(f"{'sum':30s}" + "".join(f"{count:16d}" for count in sums.values()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tolerance", type=float, default=1e-8, help="of gradient, function and step (default: 1e-8)")
    print(table(parser.parse_args().tolerance))


if __name__ == "__main__":
    main()
