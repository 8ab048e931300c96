"""The problems that the second-order tests are run on are those of the paper: derivatives, minima and starts."""

from __future__ import annotations

import numpy as np
import pytest
from more_garbow_hillstrom import PROBLEMS, Problem

every_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=str)

# f at the standard start, worked out by hand where it takes a few terms.
AT_START = {
    "helical valley": 2500.0,
    "powell badly scaled": 1.0 + (1 + np.exp(-1) - 1.0001) ** 2,
    "brown badly scaled": 999999.0**2 + (1 - 2e-6) ** 2 + 1.0,
    "extended rosenbrock": 5 * 24.2,
    "extended powell": 3 * 215.0,
    "beale": 14.203125,
    "wood": 19192.0,
}


def test_there_are_eighteen() -> None:
    assert len({problem.name for problem in PROBLEMS}) == len(PROBLEMS) == 18


@every_problem
def test_the_jacobian_is_that_of_a_complex_step(problem: Problem) -> None:
    """Im r(x + ih) / h has no cancellation (Squire and Trapp, 1998), so the difference is rounding alone."""
    rng = np.random.default_rng(5)
    for x in (problem.x0, *(problem.x0 + 0.1 * rng.standard_normal(problem.x0.size) for _ in range(3))):
        step = 1e-30
        columns = [problem.residuals(x + step * 1j * unit).imag / step for unit in np.eye(x.size)]
        wanted = np.stack(columns, axis=1)
        np.testing.assert_allclose(problem.jacobian(x), wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())


@every_problem
def test_the_gradient_is_that_of_differences(problem: Problem) -> None:
    x = problem.x0 + 0.01
    h = 1e-6 * np.maximum(1, np.abs(x))
    wanted = [
        (problem.fun(x + d) - problem.fun(x - d)) / (2 * d.max())
        for d in (h[i] * np.eye(x.size)[i] for i in range(x.size))
    ]
    f, gradient = problem.fun_and_grad(x)
    assert f == problem.fun(x)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6 * np.abs(gradient).max() + 1e-9 * abs(f))
    np.testing.assert_array_equal(gradient, problem.gradient(x))


@every_problem
def test_the_solution(problem: Problem) -> None:
    if problem.solution is None:
        assert problem.minima[0] > 0
        return
    assert problem.fun(problem.solution) <= 1e-25
    assert problem.minima[0] == 0
    assert problem.solved_by(problem.fun(problem.solution))


@pytest.mark.parametrize("name", AT_START)
def test_values_at_the_start(name: str) -> None:
    problem = next(problem for problem in PROBLEMS if problem.name == name)
    assert problem.fun(problem.x0) == pytest.approx(AT_START[name], rel=1e-13)
    assert not problem.solved_by(problem.fun(problem.x0))


@every_problem
def test_the_minimum_is_the_one_that_is_known(problem: Problem) -> None:
    """Found by SciPy's trust-region method to the six digits that the paper prints."""
    optimize = pytest.importorskip("scipy.optimize")
    found = optimize.least_squares(problem.residuals, problem.x0, problem.jacobian, method="trf", gtol=1e-12)
    value = 2 * found.cost
    assert min(abs(value - minimum) / max(minimum, 1e-6) for minimum in problem.minima) < 5e-6
