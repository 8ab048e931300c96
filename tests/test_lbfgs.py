"""L-BFGS: its direction, its searches, its bounds, and others' iterates, evaluations and minima."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from more_garbow_hillstrom import PROBLEMS, Problem
from numpy.typing import NDArray

import schuss
from schuss.second_order._box import Model, minimizer
from schuss.second_order._line_search import LONGEST, Trial, armijo, cubic, quadratic, secant, strong_wolfe

Array = NDArray[Any]
Function = Callable[[Array], tuple[float, Array]]


def minimized(opt: schuss.LBFGS, function: Function, steps: int = 5000) -> float:
    """Step until the optimizer stops, and return the loss."""
    while not opt.stopped and opt.t < steps:
        loss = opt.step(lambda: function(opt.params))
    return loss


def quadratic_of(rng: np.random.Generator, n: int, condition: float) -> tuple[Array, Array, Function]:
    """Return a symmetric positive definite matrix, a vector, and the function ``x A x / 2 - b x``."""
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    matrix, vector = q @ np.diag(np.geomspace(1.0, condition, n)) @ q.T, rng.standard_normal(n)
    return matrix, vector, lambda x: (float(0.5 * x @ matrix @ x - vector @ x), matrix @ x - vector)


def logistic(rng: np.random.Generator, n: int) -> Function:
    """Return a regularised logistic loss."""
    data = rng.standard_normal((5 * n, n))
    labels = np.sign(data @ rng.standard_normal(n) + 0.5 * rng.standard_normal(5 * n))

    def function(x: Array) -> tuple[float, Array]:
        margin = labels * (data @ x)
        loss = np.logaddexp(0, -margin).mean() + 0.05 * x @ x
        return float(loss), -data.T @ (labels / (1 + np.exp(margin))) / len(labels) + 0.1 * x

    return function


# ---- the direction ----------------------------------------------------------------------------------------------------------


def dense_inverse(s: Array, y: Array) -> Array:
    """Return the inverse Hessian of pairs by the update of Broyden, Fletcher, Goldfarb and Shanno."""
    n = s.shape[1]
    inverse = np.eye(n) * (s[-1] @ y[-1]) / (y[-1] @ y[-1])
    for a, b in zip(s, y, strict=True):
        left = np.eye(n) - np.outer(a, b) / (a @ b)
        inverse = left @ inverse @ left.T + np.outer(a, a) / (a @ b)
    return inverse


def test_the_direction_is_that_of_the_dense_formula(rng: np.random.Generator) -> None:
    function = logistic(rng, 12)
    w = rng.standard_normal(12)
    opt = schuss.LBFGS(w, history=4, gtol=0.0, ftol=0.0)
    for _ in range(9):
        opt.step(lambda: function(w))
    rows = opt._rows()
    assert len(rows) == 4
    s, y = opt.state["s"][rows], opt.state["y"][rows]
    gradient = function(w)[1]
    aim = opt._target(w.copy(), gradient)
    assert aim is not None
    np.testing.assert_allclose(aim[0], -dense_inverse(s, y) @ gradient, rtol=1e-9, atol=1e-12)


def test_the_pairs_are_the_last_changes(rng: np.random.Generator) -> None:
    matrix, _, function = quadratic_of(rng, 6, 10.0)
    w = rng.standard_normal(6)
    opt = schuss.LBFGS(w, history=3, gtol=0.0, ftol=0.0)
    trail = [w.copy()]
    for _ in range(5):
        opt.step(lambda: function(w))
        trail.append(w.copy())
    rows, changes = opt._rows(), np.diff(trail, axis=0)[-3:]
    np.testing.assert_allclose(opt.state["s"][rows], changes, rtol=0, atol=1e-14)
    np.testing.assert_allclose(opt.state["y"][rows], changes @ matrix, rtol=1e-9, atol=1e-13)


def test_the_model_is_the_inverse_of_the_direction_s(rng: np.random.Generator) -> None:
    """The compact form within bounds and the two loops outside are one matrix."""
    matrix, _, _ = quadratic_of(rng, 9, 50.0)
    s = rng.standard_normal((5, 9))
    y = s @ matrix
    model = Model(s, y)
    hessian = model.theta * np.eye(9) - model.w.T @ np.linalg.solve(model.k, model.w)
    np.testing.assert_allclose(hessian @ dense_inverse(s, y), np.eye(9), atol=1e-9)
    x, gradient, wide = rng.standard_normal(9), rng.standard_normal(9), np.full(9, 1e9)
    np.testing.assert_allclose(
        minimizer(x, gradient, -wide, wide, model), x - dense_inverse(s, y) @ gradient, rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("pairs", [0, 1, 4])
def test_the_cauchy_point_is_the_model_s_first_minimum(pairs: int, rng: np.random.Generator) -> None:
    """Compared with a fine walk along the path that bounds bend."""
    from schuss.second_order._box import _cauchy_point

    for _ in range(20):
        n = 7
        matrix, _, _ = quadratic_of(rng, n, 30.0)
        s = rng.standard_normal((pairs, n))
        model = Model(s, s @ matrix)
        solved = np.linalg.solve(model.k, model.w) if pairs else np.zeros((0, n))
        hessian = model.theta * np.eye(n) - model.w.T @ solved
        x, gradient = rng.uniform(-0.5, 0.5, n), 10 * rng.standard_normal(n)
        lower, upper = x - rng.uniform(0, 1, n) * (rng.random(n) < 0.8), x + rng.uniform(0, 1, n)
        found, free, c = _cauchy_point(x, gradient, lower, upper, model)

        def value(times: Array, x=x, gradient=gradient, lower=lower, upper=upper, hessian=hessian) -> Array:
            way = np.clip(x - times[:, None] * gradient, lower, upper) - x
            return way @ gradient + 0.5 * np.sum(way @ hessian * way, axis=1)

        times = np.linspace(0.0, 1.0, 20_001)
        walk = value(times)
        first = times[int(np.argmax(np.append(np.diff(walk) >= 0, True)))]
        expected = np.clip(x - first * gradient, lower, upper)
        np.testing.assert_allclose(found, expected, atol=3e-4 * np.abs(gradient).max())
        np.testing.assert_allclose(c, model.w @ (found - x), atol=1e-9 * max(1.0, np.abs(c).max(initial=0.0)))
        assert ((lower < found) & (found < upper) >= free).all()


def test_the_first_step_is_no_longer_than_one(rng: np.random.Generator) -> None:
    for scale in (1e-3, 1e3):
        w = np.zeros(5)
        gradient = scale * rng.standard_normal(5)
        trail: list[Array] = []

        def closure(w=w, gradient=gradient, trail=trail) -> tuple[float, Array]:
            trail.append(w.copy())
            return float(gradient @ w), gradient

        schuss.LBFGS(w, gtol=0.0, max_search=1, lr=0.5).step(closure)
        length = np.linalg.norm(gradient)
        np.testing.assert_allclose(trail[1], -0.5 * gradient * min(1.0, 1.0 / length), rtol=1e-12)


def test_a_pair_without_curvature_is_left_out() -> None:
    """On a straight line there is none; the next direction is the gradient's again."""
    w = np.zeros(2)
    opt = schuss.LBFGS(w, line_search=None, lr=0.1)
    for _ in range(3):
        opt.step(lambda: (float(w.sum()), np.ones(2)))
    assert opt._rows() == []
    np.testing.assert_allclose(w, -0.15 * np.ones(2))


def test_a_search_that_fails_falls_back_on_the_gradient() -> None:
    """Pairs that point nowhere are dropped within the step."""
    w = np.array([1.0, 1.0])
    opt = schuss.LBFGS(w, max_search=5)
    opt.step(lambda: (float(w @ w), 2 * w))
    opt._arrays["s"][:], opt._arrays["y"][:], opt._curvatures[:] = [[1.0, 0.0]], [[1e-30, 0.0]], [1e-30] * 10
    before = float(w @ w)
    assert opt.step(lambda: (float(w @ w), 2 * w)) < before
    assert opt.stopped in ("", "the gradient is within gtol")


def test_where_nothing_is_lower() -> None:
    """A gradient of the wrong sign: it stays, and says so."""
    w = np.array([1.0, 2.0])
    opt = schuss.LBFGS(w)
    assert opt.step(lambda: (float(w @ w), -2 * w)) == 5.0
    assert opt.stopped == opt.last.message == "no lower loss was found along the gradient"
    assert not opt.converged
    assert np.array_equal(w, [1.0, 2.0])
    assert opt.last.step_length == 0.0


def test_stopping_by_each_tolerance() -> None:
    def far(x: Array) -> tuple[float, Array]:
        return float(np.sum(x**4)), 4 * x**3

    w = np.ones(3)
    assert minimized(opt := schuss.LBFGS(w, gtol=1e-4, ftol=0.0), far) < 1e-4
    assert opt.last.gradient_norm == np.abs(4 * w**3).max() <= 1e-4
    assert opt.stopped == "the gradient is within gtol"
    w = np.ones(3)
    minimized(opt := schuss.LBFGS(w, gtol=0.0, ftol=1e-3), far)
    assert opt.stopped == "the decrease of the loss is within ftol"
    assert opt.converged


# ---- line searches ----------------------------------------------------------------------------------------------------------

#: Functions of one number with their derivatives, of Moré & Thuente (1994), section 5, and others; all fall at 0.
LINES: dict[str, Callable[[float], tuple[float, float]]] = {
    "(5.1)": lambda a: (-a / (a * a + 2), (a * a - 2) / (a * a + 2) ** 2),
    "(5.2)": lambda a: ((a + 0.004) ** 5 - 2 * (a + 0.004) ** 4, 5 * (a + 0.004) ** 4 - 8 * (a + 0.004) ** 3),
    "quadratic": lambda a: ((a - 1) ** 2, 2 * (a - 1)),
    "exponential": lambda a: (math.exp(min(a, 600)) - 3 * a, math.exp(min(a, 600)) - 3),
    "pole": lambda a: (-math.log1p(-a) - 5 * a, 1 / (1 - a) - 5) if a < 1 else (math.inf, math.nan),
    "wall": lambda a: (-a, -1.0) if a < 0.7 else (math.inf, math.nan),
    "wave": lambda a: (0.5 * math.sin(3 * a) - 2 * a + 0.1 * a * a, 1.5 * math.cos(3 * a) - 2 + 0.2 * a),
    "tiny": lambda a: (1e-30 * (a - 1) ** 2, 2e-30 * (a - 1)),
    "huge": lambda a: (1e30 * (a - 1) ** 2, 2e30 * (a - 1)),
}


def trial_of(line: Callable[[float], tuple[float, float]], step: float) -> Trial:
    return Trial(step, *line(step), np.array([step]), np.zeros(1))


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("c2", [0.1, 0.9])
@pytest.mark.parametrize("name", LINES)
def test_the_conditions_hold(name: str, c2: float, first: float) -> None:
    """Sufficient decrease and, where there is no wall, curvature; whatever the first step."""
    line, calls = LINES[name], []

    def evaluate(step: float) -> Trial:
        calls.append(step)
        return trial_of(line, step)

    start = trial_of(line, 0.0)
    found = strong_wolfe(evaluate, start, first, c1=1e-4, c2=c2, most=40, eps=2.0**-52, narrow=1e-12)
    assert found is not None
    assert found.loss <= start.loss + 1e-4 * found.step * start.slope
    if name != "wall":
        assert len(calls) <= 20
        assert abs(found.slope) <= c2 * abs(start.slope)
    back = armijo(evaluate, start, first, c1=1e-4, most=60, eps=2.0**-52)
    assert back is not None
    assert back.loss <= start.loss + 1e-4 * back.step * start.slope
    assert back.step <= first


def test_the_first_step_is_taken_if_it_does() -> None:
    calls: list[float] = []

    def evaluate(step: float) -> Trial:
        calls.append(step)
        return trial_of(LINES["quadratic"], step)

    found = strong_wolfe(evaluate, trial_of(LINES["quadratic"], 0.0), 0.9, c1=1e-4, c2=0.9, most=20, eps=2.0**-52)
    assert found is not None
    assert calls == [found.step] == [0.9]


def test_no_search_goes_beyond_the_longest_step() -> None:
    """Taken where the loss still falls there."""
    calls: list[float] = []

    def evaluate(step: float) -> Trial:
        calls.append(step)
        return Trial(step, -step, -1.0, np.array([step]), np.zeros(1))

    start = Trial(0.0, 0.0, -1.0, np.zeros(1), np.zeros(1))
    found = strong_wolfe(evaluate, start, 1.0, c1=1e-4, c2=0.9, most=20, eps=2.0**-52, longest=7.0)
    assert found is not None
    assert found.step == 7.0 == max(calls)
    found = strong_wolfe(evaluate, start, 1.0, c1=1e-4, c2=0.9, most=40, eps=2.0**-52)
    assert found is not None
    assert found.step == LONGEST


def test_rounding_does_not_hide_a_minimum() -> None:
    """The loss is a constant in all its digits; the slopes tell the way."""
    start = Trial(0.0, 1.0, -1e-20, np.zeros(1), np.zeros(1))
    found = strong_wolfe(
        lambda a: Trial(a, 1.0 + 2.0**-52, -1e-20 + 1.05e-20 * a, np.array([a]), np.zeros(1)),
        start,
        1.0,
        c1=1e-4,
        c2=0.9,
        most=20,
        eps=2.0**-52,
    )
    assert found is not None
    assert found.step == 1.0


def test_the_searches_give_up() -> None:
    """On a loss that rises although its slope is said to fall."""
    start = Trial(0.0, 0.0, -1.0, np.zeros(1), np.zeros(1))
    calls: list[float] = []

    def evaluate(step: float) -> Trial:
        calls.append(step)
        return Trial(step, step, 1.0, np.array([step]), np.zeros(1))

    assert strong_wolfe(evaluate, start, 1.0, c1=1e-4, c2=0.9, most=20, eps=2.0**-52) is None
    assert armijo(evaluate, start, 1.0, c1=1e-4, most=20, eps=2.0**-52) is None
    assert len(calls) <= 40


def test_interpolation(rng: np.random.Generator) -> None:
    """Of the polynomials themselves it finds the minima."""
    for _ in range(50):
        low, other = rng.standard_normal(2)
        a, b = low - rng.uniform(0.1, 2), low + rng.uniform(0.1, 2)

        def parabola(x: float, low: float = low) -> tuple[float, float]:
            return 3 * (x - low) ** 2, 6 * (x - low)

        def third(x: float, low: float = low, other: float = low - 1 - abs(other)) -> tuple[float, float]:
            return x**3 / 3 - (low + other) * x * x / 2 + low * other * x, (x - low) * (x - other)

        first, second = trial_of(parabola, a), trial_of(parabola, b)
        for each in (cubic, quadratic, secant):
            assert each(first, second) == pytest.approx(low)
            assert each(second, first) == pytest.approx(low)
        assert cubic(trial_of(third, a), trial_of(third, b)) == pytest.approx(low)
        assert cubic(trial_of(third, b), trial_of(third, a)) == pytest.approx(low)


@pytest.mark.parametrize("search", ["strong_wolfe", "armijo"])
def test_losses_never_rise(search: Any, rng: np.random.Generator) -> None:
    for problem in PROBLEMS:
        x = problem.x0
        opt = schuss.LBFGS(x, line_search=search)
        losses = [problem.fun(x)]
        while not opt.stopped and opt.t < 300:
            losses.append(opt.step(lambda problem=problem, x=x: problem.fun_and_grad(x)))
            assert opt.last.evaluations <= 2 * opt.max_search + 1
        assert (np.diff(losses) <= 1e-13 * np.abs(losses[:-1])).all(), problem.name


def test_without_a_search_what_is_not_finite_is_refused() -> None:
    w = np.array([1.0])
    opt = schuss.LBFGS(w, line_search=None, lr=10.0)
    with pytest.raises(FloatingPointError, match="choose one, or a smaller lr; nothing was changed"):
        opt.step(lambda: (float(w[0]) if w[0] > 0 else math.nan, np.ones(1)))
    assert (w[0], opt.t, opt.evaluations) == (1.0, 0, 0)


# ---- 18 problems of Moré, Garbow and Hillstrom ------------------------------------------------------------------------------

#: Relative decrease and gradient at which both stop: SciPy's defaults, the gradient alone, and as far as it goes.
TOLERANCES = [(2.220446049250313e-09, 1e-5), (0.0, 1e-5), (0.0, 1e-9)]


def scipy_on(problem: Problem, ftol: float, gtol: float) -> Any:
    optimize = pytest.importorskip("scipy.optimize")
    options = {"maxcor": 10, "ftol": ftol, "gtol": gtol, "maxiter": 15000, "maxfun": 100_000}
    return optimize.minimize(problem.fun_and_grad, problem.x0, jac=True, method="L-BFGS-B", options=options)


@pytest.mark.parametrize(("ftol", "gtol"), TOLERANCES)
def test_evaluations_on_more_garbow_hillstrom(ftol: float, gtol: float) -> None:
    """Wherever SciPy's L-BFGS-B converges we do, to no higher a loss, with at most 1.3 times its evaluations in sum."""
    ours = theirs = solved = 0
    for problem in PROBLEMS:
        x = problem.x0
        opt, peer = schuss.LBFGS(x, history=10, ftol=ftol, gtol=gtol), scipy_on(problem, ftol, gtol)
        loss = minimized(opt, problem.fun_and_grad, 15000)
        assert loss == problem.fun(x)
        assert opt.converged or not peer.success, problem.name
        if problem.solved_by(peer.fun):
            assert problem.solved_by(loss), problem.name
        assert loss <= peer.fun * 1.01 + 1e-8, problem.name
        if ftol == 0.0 and np.abs(peer.jac).max() <= gtol:
            assert np.abs(problem.gradient(x)).max() <= gtol, problem.name
        ours, theirs = ours + opt.evaluations, theirs + peer.nfev
        solved += problem.solved_by(loss)
    assert ours <= 1.3 * theirs
    assert (
        solved == {1e-5: 13, 1e-9: 18}.get(gtol if ftol == 0.0 else 1e-5, 0)
        or ftol == 0.0 == gtol - 1e-5
        or solved >= 13
    )


def test_float32_on_more_garbow_hillstrom() -> None:
    """Where the loss is well scaled: to what its digits can tell."""
    for problem in PROBLEMS:
        if problem.name in ("powell badly scaled", "brown badly scaled", "watson", "penalty 1", "penalty 2", "wood"):
            continue
        x = problem.x0.astype(np.float32)
        opt = schuss.LBFGS(x, ftol=0.0)

        def function(x: Array, problem: Problem = problem) -> tuple[float, Array]:
            return problem.fun_and_grad(x.astype(np.float64))

        assert problem.solved_by(minimized(opt, function, 2000), atol=1e-5), problem.name


# ---- bounds -----------------------------------------------------------------------------------------------------------------


def violation(x: Array, gradient: Array, lower: Array, upper: Array) -> float:
    """Return how far a point is from satisfying the conditions of Karush, Kuhn and Tucker: the projected gradient."""
    return float(np.abs(x - np.clip(x - gradient, lower, upper)).max())


def bounded_problems() -> list[tuple[str, Function, Array, Array, Array]]:
    """Return functions with starts and boxes in which some bounds are active and some are not."""
    rng, found = np.random.default_rng(6), []
    for i in range(12):
        n = int(rng.integers(5, 80))
        condition = 10.0 ** rng.uniform(0, 3.5)
        matrix, vector, _ = quadratic_of(rng, n, condition)
        vector *= 3 * condition**0.5

        def quadratic(x: Array, matrix: Array = matrix, vector: Array = vector) -> tuple[float, Array]:
            return float(0.5 * x @ matrix @ x - vector @ x), matrix @ x - vector

        lower, upper = -rng.uniform(0, 1, n), rng.uniform(0, 1, n)
        lower[rng.random(n) < 0.3] = -np.inf
        upper[rng.random(n) < 0.3] = np.inf
        found.append((f"quadratic {i}", quadratic, rng.uniform(-2, 2, n), lower, upper))
    for problem in PROBLEMS:
        start = problem.x0
        width = rng.uniform(0.1, 1, start.size) * (1 + np.abs(start))
        found.append((problem.name, problem.fun_and_grad, start, start - 0.7 * width, start + width))
    return found


def test_bounded_problems_against_scipy() -> None:
    """Its iterates stay within; where it stops is a KKT point as low as L-BFGS-B's, at a like number of evaluations."""
    optimize = pytest.importorskip("scipy.optimize")
    ours = theirs = 0
    for name, function, start, lower, upper in bounded_problems():
        x = start.copy()
        opt = schuss.LBFGS(x, bounds=(lower, upper), gtol=1e-6, ftol=0.0)

        def closure(x: Array = x, lower: Array = lower, upper: Array = upper, function: Function = function) -> Any:
            assert (lower <= x).all()
            assert (x <= upper).all()
            return function(x)

        while not opt.stopped and opt.t < 5000:
            loss = opt.step(closure)
        options = {"maxcor": 10, "ftol": 0.0, "gtol": 1e-6, "maxiter": 5000, "maxfun": 50000}
        pairs = list(zip(lower, upper, strict=True))
        peer = optimize.minimize(function, start, jac=True, method="L-BFGS-B", bounds=pairs, options=options)
        scale = max(1.0, abs(loss))
        assert violation(x, function(x)[1], lower, upper) <= 1e-5, name
        assert opt.last.gradient_norm == violation(x, function(x)[1], lower, upper)
        assert opt.converged, name
        assert loss <= peer.fun + 1e-6 * scale, name
        ours, theirs = ours + opt.evaluations, theirs + peer.nfev
    assert ours <= 1.3 * theirs


def test_bounds_of_a_convex_quadratic_by_its_conditions(rng: np.random.Generator) -> None:
    """The solution is unique: compared with a long projected gradient descent."""
    matrix, vector, function = quadratic_of(rng, 15, 20.0)
    lower, upper = np.full(15, -0.05), np.full(15, 0.1)
    x = np.zeros(15)
    minimized(schuss.LBFGS(x, bounds=(-0.05, 0.1), gtol=1e-10, ftol=0.0), function)
    slow = np.zeros(15)
    for _ in range(5000):
        slow = np.clip(slow - (matrix @ slow - vector) / 20.0, lower, upper)
    np.testing.assert_allclose(x, slow, atol=1e-9)
    assert ((x == -0.05) == (slow == -0.05)).all()
    assert 0 < np.sum((x == -0.05) | (x == 0.1)) < 15


@pytest.mark.parametrize("search", ["strong_wolfe", "armijo", None])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bounds_of_trees(search: Any, dtype: Any) -> None:
    """Numbers, arrays, arrays that broadcast, and None."""
    w = {"a": np.asfortranarray(np.zeros((2, 3), dtype)), "b": np.full(4, 5.0, dtype)}
    lower = {"a": np.array([[-1.0], [0.25]]), "b": -np.inf}
    opt = schuss.LBFGS(w, bounds=(lower, {"a": 0.5, "b": np.array([1.0, 2.0, 3.0, 9.0])}), line_search=search)

    def closure() -> tuple[float, Any]:
        grads = {"a": w["a"] + np.array([[2.0], [-3.0]], dtype), "b": w["b"] - 2}
        assert (w["a"][1] >= 0.25).all()
        assert (w["a"] <= 0.5).all()
        return 0.5 * float(sum(np.sum(g.astype(float) ** 2) for g in grads.values())), grads

    while not opt.stopped and opt.t < 100:
        opt.step(closure)
    np.testing.assert_allclose(w["a"], [[-1.0] * 3, [0.5] * 3])
    np.testing.assert_allclose(w["b"], [1.0, 2.0, 2.0, 2.0], atol=1e-5)
    assert opt.converged


def test_bounds_beside_which_nothing_is_free() -> None:
    w = np.array([1.0, 1.0])
    opt = schuss.LBFGS(w, bounds=(w.copy(), w.copy()))
    assert opt.step(lambda: (float(w @ w), 2 * w)) == 2.0
    assert opt.converged
    assert np.array_equal(w, [1.0, 1.0])


def test_bounds_are_the_optimizer_s_own() -> None:
    import copy

    lower = np.zeros(2)
    w = np.ones(2)
    opt = schuss.LBFGS(w, bounds=(lower, None))
    lower[...] = 5.0
    for each in (opt, copy.deepcopy(opt)):
        while not each.stopped:
            each.step(lambda each=each: (float(np.sum((each.params + 1) ** 2)), 2 * (each.params + 1)))
        assert np.array_equal(each.params, [0.0, 0.0])


WRONG = [
    (3.0, r"LBFGS: bounds must be a pair \(lower, upper\), got 3.0"),
    ((0, 1, 2), r"LBFGS: bounds must be a pair"),
    ((1, 0), r"LBFGS: bounds must have lower <= upper"),
    ((math.nan, 1), r"LBFGS: bounds\[0\] must be in \[-inf, inf\], got nan"),
    (("a", 1), r"LBFGS: bounds\[0\] must be a real number"),
    ((None, [np.ones(3)]), r"LBFGS: bounds\[1\] must be a number, or have the nesting of params"),
    ((np.zeros(4), None), r"LBFGS: bounds\[0\] has shape \(4,\), but its parameter has shape \(3,\)"),
    ((np.full(3, np.nan), None), r"LBFGS: bounds\[0\] must hold real numbers, none of them NaN"),
    ((np.zeros(3, complex), None), r"LBFGS: bounds\[0\] must hold real numbers"),
]


@pytest.mark.parametrize(("bounds", "sentence"), WRONG)
def test_bounds_that_are_refused(bounds: Any, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{sentence}"):
        schuss.LBFGS(np.zeros(3), bounds=bounds)


# ---- state ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [None, (-0.4, 2.0)])
@pytest.mark.parametrize("steps", [2, 3, 8])
def test_a_ring_of_pairs_resumes_bit_for_bit(steps: int, bounds: Any, rng: np.random.Generator) -> None:
    """Also once the oldest pairs have been overwritten."""
    function = logistic(rng, 10)
    w = rng.standard_normal(10)
    opt = schuss.LBFGS(w, history=3, bounds=bounds, gtol=0.0, ftol=0.0)
    for _ in range(steps):
        opt.step(lambda: function(w))
    x = w.copy()
    twin = schuss.LBFGS(x, history=3, bounds=bounds)
    twin.load_state_dict(opt.state_dict())
    assert twin.gtol == 0.0
    for _ in range(6):
        assert opt.step(lambda: function(w)) == twin.step(lambda: function(x))
        assert np.array_equal(w, x)
    assert len(opt.state_dict()["slots"]["s"][0]) == 3


def test_pairs_that_do_not_fit() -> None:
    w = np.ones(2)
    opt = schuss.LBFGS(w)
    opt.step(lambda: (float(w @ w) ** 2, 4 * float(w @ w) * w))
    state = opt.state_dict()
    for slots, numbers, sentence in [
        ({"s": [np.ones((2, 2))]}, {}, "2 and 1 rows for 1 pairs"),
        ({"s": [np.ones((2, 2))], "y": [np.ones((2, 2))]}, {}, "2 and 2 rows for 1 pairs"),
        ({"s": [np.ones((11, 2))], "y": [np.ones((11, 2))]}, {"pairs": 11}, "11 and 11 rows for 11 pairs"),
        ({"s": [np.ones((1, 3))]}, {}, "has shape"),
        ({"s": [-state["slots"]["s"][0]]}, {}, "does not curve upwards"),
        ({"s": [state["slots"]["s"][0] * np.nan]}, {}, "does not curve upwards"),
        ({"s": [state["slots"]["s"][0] * np.inf]}, {}, "does not curve upwards"),
    ]:
        wrong = state | {"slots": state["slots"] | slots, "numbers": state["numbers"] | numbers}
        with pytest.raises(schuss.StateError, match=f"^LBFGS: .*{sentence}"):
            opt.load_state_dict(wrong)


def test_bytes_of_state_are_those_of_the_documentation() -> None:
    for history in (3, 10):
        for dtype, factor in ((np.float32, 1), (np.float64, 2)):
            assert schuss.LBFGS(np.zeros(500, dtype), history=history).nbytes == 500 * factor * (8 * history + 8)


# ---- peers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("lr", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["quadratic", "logistic"])
def test_the_iterates_are_torch_s(kind: str, lr: float, rng: np.random.Generator) -> None:
    """With steps of fixed length, one iteration per call; 20 steps, to a relative 1e-8.

    The loss is a large one: torch keeps a pair where s.y > 1e-10, whatever the loss, and near the minimum of a small one it
    keeps none.
    """
    torch = pytest.importorskip("torch")
    small = quadratic_of(rng, 20, 10.0)[2] if kind == "quadratic" else logistic(rng, 20)

    def function(x: Array) -> tuple[float, Array]:
        loss, gradient = small(x)
        return 1e8 * loss, 1e8 * gradient

    w = rng.standard_normal(20)
    theirs = torch.tensor(w.copy(), requires_grad=True)
    peer = torch.optim.LBFGS(
        [theirs], lr=lr, max_iter=1, history_size=10, tolerance_grad=0.0, tolerance_change=0.0, line_search_fn=None
    )

    def closure() -> Any:
        loss, gradient = function(theirs.detach().numpy())
        theirs.grad = torch.tensor(gradient)
        return torch.tensor(loss, dtype=torch.float64)

    opt = schuss.LBFGS(w, lr=lr, line_search=None, gtol=0.0, ftol=0.0)
    for _ in range(20):
        opt.step(lambda: function(w))
        peer.step(closure)
        np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.peers
def test_the_minimum_is_torch_s(rng: np.random.Generator) -> None:
    """With a strong-Wolfe search on both sides."""
    torch = pytest.importorskip("torch")
    function = logistic(rng, 30)
    w = rng.standard_normal(30)
    theirs = torch.tensor(w.copy(), requires_grad=True)
    peer = torch.optim.LBFGS(
        [theirs],
        max_iter=200,
        history_size=10,
        tolerance_grad=1e-9,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Any:
        loss, gradient = function(theirs.detach().numpy())
        theirs.grad = torch.tensor(gradient)
        return torch.tensor(loss, dtype=torch.float64)

    peer.step(closure)
    minimized(schuss.LBFGS(w, gtol=1e-9, ftol=0.0), function)
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=0, atol=1e-8)


@pytest.mark.peers
def test_the_iterates_are_optax_s(rng: np.random.Generator) -> None:
    """Its preconditioner alone, with steps of one fixed length from the second on; the first is scaled as ours by 2-norm."""
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        function = quadratic_of(rng, 12, 8.0)[2]
        w = rng.standard_normal(12)
        x = jax.numpy.asarray(w)
        peer = optax.scale_by_lbfgs(memory_size=10, scale_init_precond=True)
        state = peer.init(x)
        opt = schuss.LBFGS(w, line_search=None, gtol=0.0, ftol=0.0, lr=0.7)
        for step in range(20):
            gradient = jax.numpy.asarray(function(np.asarray(x))[1])
            direction, state = peer.update(gradient, state, x)
            first = 0.0
            if step == 0:  # theirs scales by the length, ours without a search by the sum of magnitudes
                size = np.linalg.norm(gradient)
                first = min(1.0, 1.0 / np.abs(gradient).sum()) / min(1.0, 1.0 / size)
            x = x - 0.7 * (first or 1.0) * direction
            opt.step(lambda: function(w))
            np.testing.assert_allclose(w, np.asarray(x), rtol=1e-8, atol=1e-10)
