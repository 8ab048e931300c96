"""Levenberg-Marquardt: its steps solve what they say, it converges where SciPy's does, and holds bounds, losses and trees."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from more_garbow_hillstrom import BY_NAME, PROBLEMS, Problem
from numpy.typing import NDArray

import schuss
from schuss.second_order import levenberg_marquardt as module

every_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=str)
LOSSES = ["linear", "soft_l1", "huber", "cauchy"]

#: What the evaluations may exceed SciPy's by, in sum.
ALLOWED = 1.3


def run(problem: Problem, **options: Any) -> tuple[schuss.LevenbergMarquardt, NDArray[np.float64]]:
    """Step until there is no further step."""
    x = problem.x0
    optimizer = schuss.LevenbergMarquardt(x, **options)
    while not optimizer.stopped and optimizer.t < 1000:
        optimizer.step(lambda: problem.residuals_and_jacobian(x))
    return optimizer, x


# ---- against SciPy on the problems of Moré, Garbow and Hillstrom ------------------------------------------------------------


@every_problem
@pytest.mark.parametrize("scale", ["none", "jacobian"])
def test_it_converges_on_every_problem(problem: Problem, scale: str) -> None:
    optimizer, x = run(problem, scale=scale)
    assert optimizer.last is not None
    assert optimizer.converged, optimizer.stopped
    assert problem.solved_by(problem.fun(x))
    assert 2 * optimizer.last.loss == pytest.approx(problem.fun(x), rel=1e-12)
    assert optimizer.last.gradient_norm == pytest.approx(np.abs(problem.gradient(x)).max() / 2, rel=1e-6, abs=1e-12)


@pytest.mark.peers
@pytest.mark.parametrize(("scale", "peers"), [("none", ["lm", "trf"]), ("jacobian", ["lm"])])
def test_evaluations_against_scipy(scale: str, peers: list[str]) -> None:
    """Converges wherever SciPy does, with at most 1.3 times its evaluations in sum; at the tolerances of both."""
    optimize = pytest.importorskip("scipy.optimize")
    ours = {problem.name: run(problem, scale=scale) for problem in PROBLEMS}
    for method in peers:
        theirs = {
            problem.name: optimize.least_squares(problem.residuals, problem.x0, problem.jacobian, method=method)
            for problem in PROBLEMS
        }
        for name, found in theirs.items():
            problem = BY_NAME[name]
            assert problem.solved_by(problem.fun(ours[name][1])) or not problem.solved_by(2 * found.cost), name
        count = sum(optimizer.evaluations for optimizer, _ in ours.values())
        assert count <= ALLOWED * sum(found.nfev for found in theirs.values()), method


@pytest.mark.peers
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bounds", [None, (0.0, 2.5), (np.array([-np.inf, 1.2]), np.array([3.5, 4.0]))], ids=str)
def test_robust_fits_against_scipy(loss: str, bounds: Any) -> None:
    """Where the fit ends is where SciPy's ends: an exponential with outliers, free and within bounds."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(11)
    t = np.linspace(0, 2, 40)
    y = 3 * np.exp(-1.5 * t) + 0.05 * rng.standard_normal(40)
    y[::7] += 2

    def residuals(p: NDArray[Any]) -> NDArray[Any]:
        return p[0] * np.exp(-p[1] * t) - y

    def jacobian(p: NDArray[Any]) -> NDArray[Any]:
        e = np.exp(-p[1] * t)
        return np.stack([e, -p[0] * t * e], axis=1)

    p = np.array([1.0, 2.0])
    options = {"loss": loss, "f_scale": 0.1, "gtol": 1e-12, "xtol": 1e-12, "ftol": 1e-12}
    wanted = optimize.least_squares(residuals, p, jacobian, bounds=bounds or (-np.inf, np.inf), **options)
    found = schuss.minimize(
        lambda p: (residuals(p), jacobian(p)),
        p,
        "levenberg_marquardt",
        bounds=None if bounds is None else optimize.Bounds(*bounds),
        tol=1e-10,
        loss=loss,
        loss_scale=0.1,
        ftol=1e-12,
    )
    assert found.success
    np.testing.assert_allclose(found.x, wanted.x, rtol=1e-5)
    assert found.fun == pytest.approx(wanted.cost, rel=1e-9)
    np.testing.assert_allclose(found.jac, wanted.grad, atol=1e-4)


# ---- the steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 4), (4, 4), (3, 5), (60, 7)])
@pytest.mark.parametrize("deficient", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.5, 2.0])
def test_a_damped_step_is_the_constrained_minimum(
    shape: tuple[int, int], deficient: bool, share: float, rng: np.random.Generator
) -> None:
    """It satisfies the equations of the step, and its length is the radius to a tenth, or the whole step's."""
    J, r = rng.standard_normal(shape), rng.standard_normal(shape[0])
    units = rng.uniform(0.1, 10, shape[1])
    if deficient:
        J[:, -1] = J[:, 0]
    x = np.zeros(shape[1])
    point = module._Point(x, 0.5 * float(r @ r), r, J, J.T @ r)
    model = module._Model(point, units, np.full_like(x, -np.inf), np.full_like(x, np.inf))
    whole = np.linalg.lstsq(J / units, -r, rcond=1e-12)[0]
    radius = share * float(np.linalg.norm(whole))
    y, damping = model.step(radius, 0.0)
    scaled = J / units
    np.testing.assert_allclose(
        scaled.T @ (scaled @ y) + damping * y, -scaled.T @ r, atol=1e-9 * np.linalg.norm(scaled.T @ r)
    )
    if share > 1:
        assert damping == 0
        np.testing.assert_allclose(y, whole, rtol=1e-8, atol=1e-10)
    else:
        assert damping > 0
        assert abs(np.linalg.norm(y) / radius - 1) <= 0.1 + 1e-12
    after = r + scaled @ y
    assert model.decrease(y) == pytest.approx(0.5 * (r @ r - after @ after), rel=1e-9)


def test_gauss_newton_is_the_whole_step() -> None:
    problem = BY_NAME["extended rosenbrock"]
    x = problem.x0
    optimizer = schuss.LevenbergMarquardt(x, damped=False)
    for _ in range(3):
        r, J = problem.residuals_and_jacobian(x)
        wanted = x + np.linalg.lstsq(J, -r)[0]
        optimizer.step(lambda: problem.residuals_and_jacobian(x))
        np.testing.assert_allclose(x, wanted, rtol=1e-12)
    assert problem.fun(x) < 1e-20


def test_a_linear_problem_takes_one_step(rng: np.random.Generator) -> None:
    J, r = rng.standard_normal((20, 5)), rng.standard_normal(20)
    x = np.ones(5)
    optimizer = schuss.LevenbergMarquardt(x)
    optimizer.step(lambda: (J @ x - r, J))
    assert optimizer.stopped == "the gradient is within gtol"
    assert optimizer.converged
    assert optimizer.evaluations == 2
    np.testing.assert_allclose(x, np.linalg.lstsq(J, r)[0], rtol=1e-10)
    before = x.copy()
    optimizer.step(lambda: (J @ x - r, J))  # known: neither moved nor evaluated again
    assert optimizer.evaluations == 2
    np.testing.assert_array_equal(x, before)


@every_problem
def test_every_step_descends(problem: Problem) -> None:
    x = problem.x0
    optimizer = schuss.LevenbergMarquardt(x)
    losses = [problem.fun(x) / 2]
    while not optimizer.stopped:
        losses.append(optimizer.step(lambda: problem.residuals_and_jacobian(x)))
        assert losses[-1] == pytest.approx(problem.fun(x) / 2, rel=1e-12)
    assert losses == sorted(losses, reverse=True)


def test_units_do_not_matter_to_scaled_steps() -> None:
    """In other units of the parameters the points are the same (to rounding), if D follows the Jacobian."""
    problem, units = BY_NAME["wood"], np.array([1e-3, 1e4, 7.0, 1e2])
    x, z = problem.x0, problem.x0 / units
    a = schuss.LevenbergMarquardt(x, scale="jacobian")
    b = schuss.LevenbergMarquardt(z, scale="jacobian")
    for _ in range(10):
        a.step(lambda: problem.residuals_and_jacobian(x))
        b.step(lambda: (problem.residuals(z * units), problem.jacobian(z * units) * units))
        np.testing.assert_allclose(z * units, x, rtol=1e-6)


def test_the_jacobian_is_asked_for_at_accepted_points_alone() -> None:
    problem = BY_NAME["trigonometric"]
    asked: list[NDArray[Any]] = []

    def function(x: NDArray[Any]) -> Any:
        def jacobian() -> NDArray[Any]:
            asked.append(x.copy())
            return problem.jacobian(x)

        return problem.residuals(x), jacobian

    found = schuss.minimize(function, problem.x0, "levenberg_marquardt")
    eager = schuss.minimize(problem.residuals_and_jacobian, problem.x0, "levenberg_marquardt")
    np.testing.assert_array_equal(found.x, eager.x)
    assert found.nfev == eager.nfev == eager.njev
    assert len(asked) == found.njev == found.nit + 1 < found.nfev


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_robust_losses(loss: str) -> None:
    """Values by their definitions; slopes and curvatures by complex steps and differences of these."""
    z = np.array([0.0, 0.01, 0.5, 0.99, 1.01, 4.0, 1e4])
    value, slope, curvature = module._robust(loss, z)
    formula = {
        "soft_l1": lambda z: 2 * (np.sqrt(1 + z) - 1),
        "cauchy": lambda z: np.log(1 + z),
        "huber": lambda z: np.where(z.real <= 1, z, 2 * np.sqrt(z) - 1),
    }[loss]
    np.testing.assert_allclose(value, formula(z), atol=1e-15)
    np.testing.assert_allclose(slope, formula(z + 1e-30j).imag / 1e-30, rtol=1e-13)
    h = 1e-6 * (1 + z)
    wanted = (module._robust(loss, z + h)[1] - module._robust(loss, np.maximum(z - h, 0))[1]) / (h + np.minimum(z, h))
    np.testing.assert_allclose(curvature, wanted, rtol=1e-4, atol=1e-9)


# ---- parameters -----------------------------------------------------------------------------------------------------------


def test_trees_are_vectors() -> None:
    """A tree, an array of Fortran's order and a matrix of all columns give the same bits as one vector."""
    problem = BY_NAME["watson"]
    tree = {"a": np.zeros(2), "b": [np.zeros((3, 2), order="F"), np.zeros(())]}

    def flat() -> NDArray[Any]:
        return np.concatenate([tree["a"], tree["b"][0].ravel(), tree["b"][1].reshape(1)])

    def parts(J: NDArray[Any]) -> Any:
        return {"a": J[:, :2], "b": [J[:, 2:8].reshape(-1, 3, 2), J[:, 8]]}

    x = problem.x0
    wanted = schuss.LevenbergMarquardt(x)
    for _ in range(4):
        wanted.step(lambda: problem.residuals_and_jacobian(x))
    for shaped in (parts, lambda J: J):
        for leaf in (tree["a"], *tree["b"]):
            leaf[...] = 0
        optimizer = schuss.LevenbergMarquardt(tree)
        for _ in range(4):
            optimizer.step(lambda shaped=shaped: (problem.residuals(flat()), shaped(problem.jacobian(flat()))))
        np.testing.assert_allclose(flat(), x, rtol=1e-9)


def test_residuals_of_several_dimensions(rng: np.random.Generator) -> None:
    J, r = rng.standard_normal((4, 5, 3)), rng.standard_normal((4, 5))
    x = np.zeros(3)
    schuss.LevenbergMarquardt(x).step(lambda: (J @ x - r, J))
    np.testing.assert_allclose(x, np.linalg.lstsq(J.reshape(20, 3), r.ravel())[0], rtol=1e-10)


def test_float32() -> None:
    problem = BY_NAME["wood"]
    x = problem.x0.astype(np.float32)
    optimizer = schuss.LevenbergMarquardt(x)
    while not optimizer.stopped and optimizer.t < 300:
        optimizer.step(lambda: problem.residuals_and_jacobian(x.astype(np.float64)))
    np.testing.assert_allclose(x, 1, atol=1e-5)


def test_a_scalar_starts_at_zero() -> None:
    x = np.zeros(1)
    optimizer = schuss.LevenbergMarquardt(x)
    optimizer.step(lambda: (x - 7, np.ones((1, 1))))
    assert x[0] == 7


# ---- bounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_bounds_of_linear_problems(seed: int) -> None:
    """The conditions of Karush, Kuhn and Tucker hold where it ends, for ill-conditioned problems as well."""
    rng = np.random.default_rng(seed)
    m, n = (12, 6) if seed % 2 else (5, 6)
    J = rng.standard_normal((m, n)) * np.logspace(0, seed % 5, n)
    r = rng.standard_normal(m) * 3
    lower, upper = -rng.exponential(size=n), rng.exponential(size=n)
    lower[0], upper[1] = -np.inf, np.inf
    tried = []
    x = rng.standard_normal(n) * 5
    optimizer = schuss.LevenbergMarquardt(
        x, bounds=(lower, upper), gtol=1e-9 * float(np.abs(J.T @ r).max()), ftol=0, xtol=0
    )

    def closure() -> Any:
        tried.append(x.copy())
        return J @ x - r, J

    while not optimizer.stopped and optimizer.t < 200:
        optimizer.step(closure)
    assert optimizer.converged, optimizer.stopped
    assert np.all((tried >= lower) & (tried <= upper))
    gradient = J.T @ (J @ x - r)
    slack = 1e-8 * np.abs(J.T @ r).max()
    assert np.all(gradient[x > lower] <= slack)
    assert np.all(gradient[x < upper] >= -slack)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["wood", "extended rosenbrock", "beale", "brown and dennis", "chebyquad", "penalty 1"])
def test_bounds_against_scipy(name: str) -> None:
    """Within a box that leaves the free minimum out it ends at a value no worse than SciPy's."""
    optimize = pytest.importorskip("scipy.optimize")
    problem = BY_NAME[name]
    free = optimize.least_squares(problem.residuals, problem.x0, problem.jacobian).x
    lower, upper = free - 2 * np.abs(free) - 1, free + 2 * np.abs(free) + 1
    upper[::2] = free[::2] - 0.1 * np.maximum(np.abs(free[::2]), 0.1)
    start = np.clip(problem.x0, lower + 1e-3, upper - 1e-3)
    options = {"bounds": (lower, upper), "gtol": 1e-10, "xtol": 1e-14, "ftol": 1e-14, "max_nfev": 2000}
    wanted = optimize.least_squares(problem.residuals, start, problem.jacobian, method="dogbox", **options)
    found = schuss.minimize(
        problem.residuals_and_jacobian, start, "levenberg_marquardt", optimize.Bounds(lower, upper), tol=1e-8
    )
    assert found.success
    assert found.fun <= wanted.cost * (1 + 1e-6)


def test_equal_bounds_hold_an_element() -> None:
    problem = BY_NAME["wood"]
    start = problem.x0
    bounds = [(None, None), (-1, -1), (None, None), (None, None)]
    found = schuss.minimize(problem.residuals_and_jacobian, start, "levenberg_marquardt", bounds, ftol=0.0)
    assert found.success
    assert found.x[1] == -1
    others = np.delete(found.jac, 1)
    assert np.abs(others).max() < 1e-4


# ---- what a user can get wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (1.0, TypeError, r"the closure must return \(residuals, jacobian\), got float"),
        ((np.ones(3) + 1j, np.ones((3, 2))), TypeError, "residuals must be real numbers, got dtype complex128"),
        ((np.ones(0), np.ones((0, 2))), ValueError, "returned no residuals"),
        ((np.ones(3), np.ones((2, 3))), ValueError, r"Jacobian must have shape \(3, 2\), got \(2, 3\)"),
        (
            (np.ones(3), [np.ones((3, 2))]),
            TypeError,
            r"must be a matrix of shape \(3, 2\) or a tree like params, got list",
        ),
        ((np.ones(3), np.ones((3, 2), object)), TypeError, "must be an array of real numbers, got object"),
        ((np.ones(3), 1.0), TypeError, "must be an array of real numbers, got float"),
        (
            (np.full(3, np.nan), np.ones((3, 2))),
            FloatingPointError,
            "not finite at the present parameters; nothing was",
        ),
        (
            (np.ones(3), np.full((3, 2), np.inf)),
            FloatingPointError,
            "not finite at the present parameters; nothing was",
        ),
    ],
)
def test_closures_that_are_refused(found: Any, error: type[Exception], message: str) -> None:
    x = np.array([1.0, 2.0])
    optimizer = schuss.LevenbergMarquardt(x)
    with pytest.raises(error, match=message):
        optimizer.step(lambda: found)
    np.testing.assert_array_equal(x, [1, 2])
    assert (optimizer.t, optimizer.evaluations, optimizer.last) == (0, 0, None)
    optimizer.step(lambda: (x.copy(), np.eye(2)))  # as if nothing had been
    np.testing.assert_array_equal(x, [0, 0])


def test_an_error_in_the_middle_of_a_step_leaves_everything() -> None:
    problem = BY_NAME["trigonometric"]
    x, z = problem.x0, problem.x0
    optimizer, twin = schuss.LevenbergMarquardt(x), schuss.LevenbergMarquardt(z)
    for _ in range(2):
        optimizer.step(lambda: problem.residuals_and_jacobian(x))
        twin.step(lambda: problem.residuals_and_jacobian(z))
    before = x.copy()

    def failing() -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        optimizer.step(failing)
    np.testing.assert_array_equal(x, before)
    for _ in range(3):
        optimizer.step(lambda: problem.residuals_and_jacobian(x))
        twin.step(lambda: problem.residuals_and_jacobian(z))
    np.testing.assert_array_equal(x, z)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": "l2"}, ValueError, "loss must be one of linear, soft_l1, huber, cauchy, got 'l2'"),
        ({"scale": "auto"}, ValueError, "scale must be one of none, jacobian, got 'auto'"),
        ({"damped": 1}, TypeError, "damped must be True or False, got 1"),
        ({"factor": 0}, ValueError, r"factor must be in \(0, inf\), got 0"),
        ({"max_search": 0}, ValueError, r"max_search must be in \{1, 2, ...\}, got 0"),
        ({"bounds": 1}, TypeError, r"bounds must be a pair \(lower, upper\), got 1"),
        ({"bounds": (1, 0)}, ValueError, "lower <= upper"),
        ({"bounds": (np.zeros(3), 1)}, ValueError, "bounds"),
        ({"bounds": ([0, 0], 1)}, ValueError, "the nesting of params"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"LevenbergMarquardt: .*{message}"):
        schuss.LevenbergMarquardt(np.zeros(2), **arguments)


def test_searches_that_find_nothing_say_so() -> None:
    """The gradient's sign is wrong: no trial descends."""
    x = np.array([1.0])
    optimizer = schuss.LevenbergMarquardt(x, max_search=5, xtol=0)
    optimizer.step(lambda: (x + 1, -np.ones((1, 1))))
    assert optimizer.stopped == "none of 5 trials decreased the sum"
    assert not optimizer.converged
    np.testing.assert_array_equal(x, [1.0])


def test_whole_steps_that_lead_nowhere_say_so() -> None:
    x = np.array([1.0])
    optimizer = schuss.LevenbergMarquardt(x, damped=False)
    optimizer.step(lambda: (np.array([x[0] if x[0] > 0.5 else math.inf]), np.ones((1, 1))))
    assert "not finite after a whole step; use damped=True" in optimizer.stopped
    np.testing.assert_array_equal(x, [1.0])


def test_a_region_avoids_what_is_not_finite() -> None:
    """log(x) - log(0.01) from 1: the whole step leads to negative numbers."""
    x = np.array([1.0])
    optimizer = schuss.LevenbergMarquardt(x)

    def closure() -> Any:
        with np.errstate(invalid="ignore"):
            return np.log(x) - np.log(0.01), (1 / x)[:, None]

    while not optimizer.stopped:
        optimizer.step(closure)
    assert x[0] == pytest.approx(0.01, rel=1e-6)


# ---- checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["copy", "pickle", "npz", "dict"])
@pytest.mark.parametrize("scale", ["none", "jacobian"])
def test_resumed_runs_have_the_same_bits(way: str, scale: str, tmp_path: Path) -> None:
    problem = BY_NAME["wood"]
    x = problem.x0
    optimizer = schuss.LevenbergMarquardt(x, scale=scale)
    for _ in range(7):
        optimizer.step(lambda: problem.residuals_and_jacobian(x))
    if way in ("copy", "pickle"):
        twin = copy.deepcopy(optimizer) if way == "copy" else pickle.loads(pickle.dumps(optimizer))
        z = twin.params
    else:
        z = x.copy()
        twin = schuss.LevenbergMarquardt(z, scale=scale)
        if way == "dict":
            twin.load_state_dict(optimizer.state_dict())
        else:
            optimizer.save(tmp_path / "state.npz", params=True)
            twin.load(tmp_path / "state.npz")
    assert not np.shares_memory(x, z)
    for _ in range(5):
        optimizer.step(lambda: problem.residuals_and_jacobian(x))
        twin.step(lambda: problem.residuals_and_jacobian(z))
    np.testing.assert_array_equal(x, z)
    assert twin.t == optimizer.t == 12


def test_a_reset_optimizer_is_new() -> None:
    problem = BY_NAME["beale"]
    x = problem.x0
    optimizer = schuss.LevenbergMarquardt(x, scale="jacobian")
    runs = []
    for _ in range(2):
        x[...] = problem.x0
        optimizer.reset()
        while not optimizer.stopped:
            optimizer.step(lambda: problem.residuals_and_jacobian(x))
        runs.append((optimizer.t, optimizer.evaluations, x.tobytes()))
    assert runs[0] == runs[1]


def test_losses_that_change_are_evaluated_again() -> None:
    x, goal = np.zeros(1), [1.0]
    optimizer = schuss.LevenbergMarquardt(x, deterministic=False)
    for goal[0] in (1.0, 2.0):
        optimizer.step(lambda: (x - goal[0], np.ones((1, 1))))
        assert x[0] == goal[0]
    assert optimizer.evaluations == 4
