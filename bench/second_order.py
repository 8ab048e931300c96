"""Count evaluations of L-BFGS and of SciPy's L-BFGS-B on the 18 problems of Moré, Garbow and Hillstrom.

Usage: python bench/second_order.py [--quick]

Both have a memory of 10 and stop by the same tolerances. An evaluation is that of a loss with its gradient.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import aligned, header, write
from scipy.optimize import minimize

import schuss

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
sys.path.append(str(ROOT / "tests"))

from more_garbow_hillstrom import PROBLEMS, Problem  # noqa: E402  (beside the tests)

TOLERANCES = ((2.220446049250313e-09, 1e-5), (0.0, 1e-5), (0.0, 1e-9))
"""Relative decrease of the loss and largest element of the gradient: SciPy's defaults, the gradient alone, to the end."""

MOST_STEPS = 15_000


def solved(problem: Problem, ftol: float, gtol: float) -> dict[str, Any]:
    """Return a row: one problem, ours and theirs."""
    x = problem.x0
    opt = schuss.LBFGS(x, history=10, ftol=ftol, gtol=gtol)
    while not opt.stopped and opt.t < MOST_STEPS:
        opt.step(lambda: problem.fun_and_grad(x))
    options = {"maxcor": 10, "ftol": ftol, "gtol": gtol, "maxiter": MOST_STEPS, "maxfun": 100 * MOST_STEPS}
    peer = minimize(problem.fun_and_grad, problem.x0, jac=True, method="L-BFGS-B", options=options)
    return {
        "problem": problem.name,
        "n": int(x.size),
        "ftol": ftol,
        "gtol": gtol,
        "schuss": _outcome(problem, x, opt.evaluations, opt.t, opt.stopped),
        "scipy": _outcome(problem, peer.x, peer.nfev, peer.nit, peer.message),
    }


def _outcome(problem: Problem, x: Any, evaluations: int, iterations: int, message: str) -> dict[str, Any]:
    loss, gradient = problem.fun_and_grad(x)
    return {
        "evaluations": int(evaluations),
        "iterations": int(iterations),
        "loss": loss,
        "gradient": float(np.abs(gradient).max()),
        "solved": problem.solved_by(loss),
        "message": message,
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report."""
    yield "Evaluations (iterations), loss and largest element of the gradient; * where the loss is a known minimum"
    for (ftol, gtol), rows in itertools.groupby(result["results"], key=lambda row: (row["ftol"], row["gtol"])):
        listed = list(rows)
        yield ""
        yield f"relative decrease {ftol:.1e}, gradient {gtol:.0e}"
        lines = [["", "n", "schuss", "loss", "gradient", "SciPy", "loss", "gradient"]]
        for row in listed:
            cells = [
                cell
                for each in (row["schuss"], row["scipy"])
                for cell in (
                    f"{each['evaluations']} ({each['iterations']})",
                    f"{each['loss']:.5e}{'*' if each['solved'] else ' '}",
                    f"{each['gradient']:.0e}",
                )
            ]
            lines.append([row["problem"], str(row["n"]), *cells])
        yield from aligned(lines)
        ours, theirs = (sum(row[name]["evaluations"] for row in listed) for name in ("schuss", "scipy"))
        found = [sum(row[name]["solved"] for row in listed) for name in ("schuss", "scipy")]
        yield f"in sum {ours} and {theirs}: {ours / theirs:.3f} times; known minima {found[0]} and {found[1]} of {len(listed)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three problems: only shows that it works")
    parser.add_argument("--output", type=Path, help="JSON file (bench/results/second_order.json; none with --quick)")
    options = parser.parse_args(arguments)
    problems = PROBLEMS[:3] if options.quick else PROBLEMS
    rows = [solved(problem, *tolerances) for tolerances in TOLERANCES for problem in problems]
    result = header("bench/second_order.py", arguments, options.quick, "scipy") | {"results": rows}
    print("\n".join(table(result)))
    output = options.output or (None if options.quick else RESULTS / "second_order.json")
    if output:
        write(result, output, picture=False)


if __name__ == "__main__":
    main()
