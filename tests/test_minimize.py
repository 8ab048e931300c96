"""minimize: every optimizer as a method is the optimizer stepped by hand; results, bounds and callbacks are SciPy's."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import schuss
from schuss import constraints, minimization, schedules, trees
from schuss.optimizer import Optimizer

CLASSES = list(schuss.optimizers().values())
CLOSURES = list(schuss.closure_optimizers().values())
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)

A = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.5]])
B = np.array([1.0, -2.0, 0.5])
SOLUTION = np.linalg.solve(A, B)
START = np.array([2.0, 1.5, -1.0])


def quadratic(x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    return float(x @ A @ x / 2 - B @ x), A @ x - B


def linear_residuals(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return residuals whose half sum of squares is the quadratic up to a constant."""
    root = np.linalg.cholesky(A).T
    return root @ (x - SOLUTION), root


def function_for(cls: type[Any]) -> Any:
    if cls is schuss.LevenbergMarquardt:
        return linear_residuals
    if getattr(cls, "inputs", ()) == ("hessian",):
        return lambda x: (*quadratic(x), {"hessian": np.diag(A).copy()})
    return quadratic


# ---- every optimizer is a method --------------------------------------------------------------------------------------------


@every_class
def test_it_is_the_optimizer_stepped_by_hand(cls: type[Optimizer]) -> None:
    function, steps = function_for(cls), 25
    found = schuss.minimize(function, START, cls.__name__, tol=0, max_steps=steps)
    x = START.copy()
    optimizer = cls(x)
    value, slope, *further = function(x)
    points = [(value, x.copy(), slope.copy())]
    for _ in range(steps):
        inputs = dict(further[0]) if further else {}
        if "loss" in cls.inputs:
            inputs["loss"] = value
        optimizer.step(slope, **inputs)
        value, slope, *further = function(x)
        points.append((value, x.copy(), slope.copy()))
    averages = cls.evaluation is not Optimizer.evaluation
    if averages:
        optimizer.eval()
        points.append((function(x)[0], x.copy(), function(x)[1]))
    value, x, slope = min(points, key=lambda point: point[0])
    assert (found.fun, found.nit, found.nfev, found.njev) == (value, steps, steps + 1 + averages, steps + 1 + averages)
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.jac, slope)
    if cls is not schuss.AdamH:  # which keeps the length of its parameters
        assert found.fun < quadratic(START)[0]
    assert (found.status, found.success) == (1, False)


@pytest.mark.parametrize("cls", CLOSURES, ids=lambda cls: cls.__name__)
def test_every_optimizer_with_a_closure_converges(cls: type[Any]) -> None:
    options: dict[str, Any] = {"hessp": lambda x, v: A @ v} if cls.inputs else {}
    options |= {"ftol": 0.0} if "ftol" in cls.arguments else {}
    found = schuss.minimize(function_for(cls), START, cls, tol=1e-7, **options)
    np.testing.assert_allclose(found.x, SOLUTION, atol=1e-6)
    assert (found.status, found.success) == (0, True)
    assert np.abs(found.jac).max() <= 1e-6
    assert 1 <= found.nit <= found.nfev


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sgd", {"lr": 0.3}),
        ("momentum", {"lr": 0.1}),
        ("adam", {"lr": schedules.exponential(0.3, 0.5, 200)}),
        ("adagrad", {"lr": 1.0}),
    ],
)
def test_methods_of_first_order_converge(method: str, options: dict[str, Any]) -> None:
    found = schuss.minimize(quadratic, START, method, tol=1e-6, **options)
    assert found.success, found.message
    np.testing.assert_allclose(found.x, SOLUTION, atol=1e-5)
    assert np.abs(found.jac).max() <= 1e-6
    np.testing.assert_array_equal(found.jac, quadratic(found.x)[1])


@pytest.mark.parametrize("name", ["adamw", "AdamW", "ADAM_W", "adam-w"])
def test_names_are_letters(name: str) -> None:
    found = schuss.minimize(quadratic, START, name, max_steps=3, lr=0.1)
    wanted = schuss.minimize(quadratic, START, schuss.AdamW, max_steps=3, lr=0.1)
    np.testing.assert_array_equal(found.x, wanted.x)


def test_a_function_makes_wrappers() -> None:
    made = []

    def method(x: Any, **options: Any) -> Any:
        made.append(schuss.Lookahead(schuss.SGD(x, **options)))
        return made[0]

    found = schuss.minimize(quadratic, START, method, lr=0.3)
    assert found.success
    assert made[0].t == found.nit
    np.testing.assert_allclose(found.x, SOLUTION, atol=1e-4)


# ---- start and result -------------------------------------------------------------------------------------------------------


def test_the_start_stays() -> None:
    start = {"w": START.copy(), "more": [np.ones((2, 2), np.float32), (np.arange(3),)]}
    before = copy.deepcopy(start)

    def function(x: Any) -> tuple[float, Any]:
        return sum(float((leaf**2).sum()) for _, leaf in trees.leaves(x)) / 2, x

    found = schuss.minimize(function, start, "sgd", lr=0.5)
    assert found.success
    assert trees.structure(found.x) == trees.structure(found.jac) == trees.structure(start)
    assert isinstance(found.x["more"][1], tuple)
    assert [leaf.dtype.name for _, leaf in trees.leaves(found.x)] == ["float64", "float32", "float64"]
    for (_, a), (_, b) in zip(trees.leaves(start), trees.leaves(before), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_numbers_are_a_vector() -> None:
    for start in ([1, 2, 3], (1.0, 2.0, 3.0), np.arange(1, 4)):
        found = schuss.minimize(quadratic, start, "sgd", lr=0.3)
        assert found.x.dtype == np.float64
        np.testing.assert_allclose(found.x, SOLUTION, atol=1e-4)


def test_results_are_copies() -> None:
    kept = np.zeros(3)

    def function(x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        kept[...] = A @ x - B
        return quadratic(x)[0], kept  # the same array every time

    found = schuss.minimize(function, START, "sgd", lr=0.1, max_steps=4)
    assert not np.shares_memory(found.jac, kept)
    np.testing.assert_array_equal(found.jac, A @ found.x - B)


def test_a_start_at_the_minimum_is_left_alone() -> None:
    found = schuss.minimize(quadratic, SOLUTION, "adam")
    assert (found.nit, found.nfev, found.status) == (0, 1, 0)
    np.testing.assert_array_equal(found.x, SOLUTION)


def test_the_best_point_is_returned() -> None:
    """Gradient descent that diverges has its best point at the start, and ends where numbers do."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = schuss.minimize(lambda x: (float(x @ x), 2 * x), [1.0], "sgd", lr=2.0)
    assert (found.status, found.success, found.fun) == (3, False, 1.0)
    np.testing.assert_array_equal(found.x, [1.0])
    assert found.nit > 100


def test_a_flat_point_above_the_best_is_no_success() -> None:
    """A jump to a plateau is not convergence, for a lower value was seen."""

    def function(x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        return (5.0, np.zeros(1)) if x[0] > 1 else (float(x[0] ** 2), 2 * x)

    found = schuss.minimize(function, [-1.0], "sgd", lr=2.0, max_steps=3)
    assert (found.status, found.fun) == (1, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["sgd", "levenberg_marquardt"])
def test_a_start_that_is_not_finite(method: str, value: float) -> None:
    def function(x: NDArray[Any]) -> tuple[Any, Any]:
        return (value, x) if method == "sgd" else (np.full(2, value), np.ones((2, 1)))

    found = schuss.minimize(function, [1.0], method)
    assert (found.status, found.success, found.nit) == (3, False, 0)
    np.testing.assert_array_equal(found.x, [1.0])


# ---- bounds ---------------------------------------------------------------------------------------------------------------

#: Forms of the same box, and where the quadratic is lowest in it, by the conditions of Karush, Kuhn and Tucker.
LOWER, UPPER = np.array([-np.inf, -0.5, 0.0]), np.array([0.25, np.inf, 3.0])


def is_lowest(x: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any], tol: float = 1e-5) -> bool:
    g = quadratic(x)[1]
    inside = bool(np.all((lower <= x) & (x <= upper)))
    return inside and bool(np.all(np.abs(np.clip(x - g, lower, upper) - x) <= tol))


class Bounds:
    """As SciPy's."""

    lb, ub = LOWER, UPPER


@pytest.mark.parametrize("bounds", [[(None, 0.25), (-0.5, None), (0, 3)], np.stack([LOWER, UPPER], axis=1), Bounds()])
@pytest.mark.parametrize("method", ["sgd", "momentum", *(cls.__name__ for cls in CLOSURES if "bounds" in cls.options)])
def test_a_box_for_each_element(method: str, bounds: Any) -> None:
    function = linear_residuals if method == "LevenbergMarquardt" else quadratic
    tried = []

    def watched(x: NDArray[Any]) -> Any:
        tried.append(x.copy())
        return function(x)

    options = {"lr": 0.2} if method in ("sgd", "momentum") else {}
    found = schuss.minimize(watched, START, method, bounds, tol=1e-7, **options)
    assert found.success, found.message
    assert is_lowest(found.x, LOWER, UPPER)
    np.testing.assert_array_equal(tried[0], np.clip(START, LOWER, UPPER))
    assert all(np.all((x >= LOWER) & (x <= UPPER)) for x in tried)


@pytest.mark.parametrize("method", ["sgd", "LevenbergMarquardt"])
def test_one_pair_for_all(method: str) -> None:
    function = linear_residuals if method == "LevenbergMarquardt" else quadratic
    for bounds in ((-0.25, 0.5), [-0.25, 0.5], [(-0.25, 0.5)] * 3):
        found = schuss.minimize(function, START, method, bounds, tol=1e-7, **({"lr": 0.2} if method == "sgd" else {}))
        assert found.success
        assert is_lowest(found.x, np.full(3, -0.25), np.full(3, 0.5))
    half = schuss.minimize(function, START, method, (None, 0.5), tol=1e-7, **({"lr": 0.2} if method == "sgd" else {}))
    assert is_lowest(half.x, np.full(3, -np.inf), np.full(3, 0.5))


@pytest.mark.parametrize("method", ["sgd", "LevenbergMarquardt"])
def test_bounds_follow_the_tree(method: str) -> None:
    """In the order of its elements, arrays of Fortran's order as one reads them."""
    matrix = np.asfortranarray(np.zeros((2, 3), np.float32))
    start = {"b": matrix, "a": [np.zeros(2)]}
    lower, goal = np.arange(8.0) - 3, np.array([-9.0, 9, -9, 9, -9, 9, -9, 9])
    upper = lower + 0.5

    def function(x: Any) -> tuple[Any, Any]:
        r = np.concatenate([x["b"].ravel(), x["a"][0]]) - goal
        if method == "LevenbergMarquardt":
            return r, np.eye(8)
        return float(r @ r) / 2, {"b": r[:6].reshape(2, 3), "a": [r[6:]]}

    options = {"lr": 0.7} if method == "sgd" else {}
    found = schuss.minimize(function, start, method, list(zip(lower, upper, strict=True)), **options)
    assert found.success
    wanted = np.clip(goal, lower, upper)
    np.testing.assert_allclose(found.x["b"], wanted[:6].reshape(2, 3))
    np.testing.assert_allclose(found.x["a"][0], wanted[6:])


def test_a_constraint() -> None:
    found = schuss.minimize(quadratic, np.full(3, 1 / 3), "sgd", constraints.Simplex(), lr=0.2, tol=1e-8)
    assert found.success
    assert found.x.sum() == pytest.approx(1, abs=1e-12)
    assert found.x.min() >= 0
    moved = found.x - found.jac
    constraints.Simplex().project(moved)
    np.testing.assert_allclose(moved, found.x, atol=1e-8)
    with pytest.raises(TypeError, match="LevenbergMarquardt takes bounds, but no Simplex"):
        schuss.minimize(linear_residuals, START, "levenberg_marquardt", constraints.Simplex())


# ---- callbacks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sgd", "levenberg_marquardt"])
def test_callbacks(method: str) -> None:
    function = quadratic if method == "sgd" else lambda x: rosenbrock_residuals(x)
    options: dict[str, Any] = {"lr": 0.1, "max_steps": 5} if method == "sgd" else {}
    start = START if method == "sgd" else [-1.2, 1.0]
    seen: list[Any] = []
    points: list[Any] = []

    def newer(intermediate_result: Any) -> None:
        seen.append(intermediate_result)

    def older(xk: Any) -> None:
        points.append(xk)

    first = schuss.minimize(function, start, method, callback=newer, **options)
    second = schuss.minimize(function, start, method, callback=older, **options)
    assert len(seen) == len(points) == first.nit == second.nit > 3
    for result, x in zip(seen, points, strict=True):
        np.testing.assert_array_equal(result.x, x)
    np.testing.assert_array_equal(points[-1], second.x)
    assert [result.fun for result in seen] == sorted((result.fun for result in seen), reverse=True)
    assert seen[-1].fun == first.fun


@pytest.mark.parametrize("method", ["sgd", "levenberg_marquardt"])
def test_a_callback_ends_the_run(method: str) -> None:
    calls = []

    def callback(x: Any) -> None:
        calls.append(x)
        if len(calls) == 2:
            raise StopIteration

    function = quadratic if method == "sgd" else rosenbrock_residuals
    found = schuss.minimize(function, START if method == "sgd" else [-1.2, 1.0], method, callback=callback)
    assert (found.status, found.success, found.nit, len(calls)) == (99, False, 2, 2)
    np.testing.assert_array_equal(found.x, calls[-1])


def rosenbrock_residuals(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.array([1 - x[0], 10 * (x[1] - x[0] ** 2)]), np.array([[-1.0, 0.0], [-20 * x[0], 10.0]])


# ---- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "adm"}, ValueError, "method must name an optimizer, got 'adm'; did you mean"),
        ({"method": "xyzzy"}, ValueError, "choose one of"),
        ({"method": "lookahead"}, ValueError, "Lookahead is a wrapper; pass a function of x"),
        ({"method": 3}, TypeError, "method must be a name, a class or a function, got int"),
        ({"method": schuss.Lookahead}, TypeError, "method must be a class of an optimizer, got Lookahead"),
        ({"method": lambda x: x}, TypeError, "method must make an optimizer or a wrapper, got ndarray"),
        ({"fun_and_grad": 1}, TypeError, "fun_and_grad must be a function of x, got int"),
        ({"fun_and_grad": lambda x: 1.0}, TypeError, r"fun_and_grad must return \(f, g\), got float"),
        ({"fun_and_grad": lambda x: (x, x)}, TypeError, "must return a real number first, got ndarray"),
        ({"fun_and_grad": lambda x: (1.0, x[:2])}, ValueError, r"the gradient must have shape \(3,\), got \(2,\)"),
        ({"fun_and_grad": lambda x: (1.0, [x]), "x0": {"w": START}}, ValueError, "the gradient in the nesting of x0"),
        ({"callback": 1}, TypeError, "callback must be a function or None, got int"),
        ({"tol": -1.0}, ValueError, r"tol must be in \[0, inf\), got -1"),
        ({"max_steps": 0}, ValueError, r"max_steps must be in \{1, 2, ...\}, got 0"),
        ({"maximize": True}, ValueError, "maximize is for ascent; negate the function"),
        ({"bounds": 3}, TypeError, r"bounds must be pairs \(lower, upper\)"),
        ({"bounds": [(0, 1)] * 2}, ValueError, "one for each of the 3 elements of x0, got 2"),
        ({"bounds": [(0, 1), (1, 0), (0, 1)]}, ValueError, "lower <= upper, got 1 and 0 at 1"),
        ({"bounds": (0, math.nan)}, ValueError, "lower <= upper, got 0 and nan at 0"),
        ({"bounds": (0, 1), "x0": START + 0j, "lr": -1.0}, ValueError, r"SGD: lr must be in \[0, inf\), got -1"),
        ({"bounds": [(0, 1), (0, 2), (0, 3)], "x0": START + 0j}, TypeError, "dtype complex128"),
        ({"method": "newton_cg", "bounds": (0, 1)}, TypeError, "NewtonCG takes no bounds; choose another method"),
        ({"hessp": lambda x, v: v}, TypeError, "hessp is for newton_cg, and sgd does not use it"),
        ({"hessp": lambda x, v: v, "method": "levenberg_marquardt"}, TypeError, "LevenbergMarquardt does not use it"),
        ({"learning_rate": 0.1}, TypeError, "SGD: learning_rate is not an argument of SGD; pass lr="),
    ],
)
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        schuss.minimize(**({"fun_and_grad": quadratic, "x0": START, "method": "sgd"} | arguments))


def test_errors_of_the_function_come_through() -> None:
    def function(x: Any) -> Any:
        raise KeyError("mine")

    for method in ("sgd", "levenberg_marquardt"):
        with pytest.raises(KeyError, match="mine"):
            schuss.minimize(function, START, method)


# ---- without and with SciPy -------------------------------------------------------------------------------------------------


def test_results_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    minimization._result_class.cache_clear()
    try:
        found = schuss.minimize(quadratic, START, "sgd", lr=0.3)
    finally:
        minimization._result_class.cache_clear()
    assert type(found) is minimization._Result
    assert set(found) == set(dir(found)) == ENTRIES
    assert found["fun"] == found.fun == quadratic(found.x)[0]
    found.more = 1
    assert found.pop("more") == 1
    assert "success: True" in repr(found)
    twin = pickle.loads(pickle.dumps(found))
    assert type(twin) is type(found)
    np.testing.assert_array_equal(twin.x, found.x)
    del found.nit
    with pytest.raises(AttributeError, match="nit"):
        _ = found.nit
    with pytest.raises(AttributeError, match="nit"):
        del found.nit


ENTRIES = {"x", "fun", "jac", "nit", "nfev", "njev", "success", "status", "message"}


def test_results_are_scipy_s() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    for method in ("sgd", "levenberg_marquardt"):
        found = schuss.minimize(linear_residuals if method != "sgd" else quadratic, START, method)
        assert type(found) is optimize.OptimizeResult
        assert set(found) == ENTRIES
        assert isinstance(found.success, bool)
        assert isinstance(found.status, int)


def rosen(x: NDArray[Any], scale: float = 1.0) -> float:
    return float(scale * (100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2))


def rosen_der(x: NDArray[Any], scale: float = 1.0) -> NDArray[Any]:
    inner = x[1] - x[0] ** 2
    return scale * np.array([-400 * x[0] * inner - 2 * (1 - x[0]), 200 * inner])


METHOD: dict[str, Any] = {"method": "rprop", "max_steps": 300}


class TestScipyMethod:
    """As scipy.optimize.minimize calls it."""

    @pytest.fixture(autouse=True)
    def _scipy(self) -> None:
        self.optimize = pytest.importorskip("scipy.optimize")

    def test_forms_of_the_gradient(self) -> None:
        method = schuss.scipy_method(**METHOD)
        wanted = schuss.minimize(lambda x: (rosen(x), rosen_der(x)), [-1.2, 1.0], **METHOD)
        both = self.optimize.minimize(lambda x: (rosen(x), rosen_der(x)), [-1.2, 1.0], jac=True, method=method)
        apart = self.optimize.minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=method)
        for found in (both, apart):
            assert type(found) is self.optimize.OptimizeResult
            np.testing.assert_array_equal(found.x, wanted.x)
            assert (found.nfev, found.njev, found.nit) == (301, 301, 300)
        lacking = self.optimize.minimize(rosen, [-1.2, 1.0], method=method)
        assert (lacking.nfev, lacking.njev) == (903, 301)
        assert lacking.fun < 0.1

    def test_differences(self) -> None:
        function = minimization._Function(rosen, None, (2.0,), None)
        x = np.array([-1.2, 1.0])
        value, slope = function(x)
        assert value == rosen(x, 2.0)
        np.testing.assert_allclose(slope, rosen_der(x, 2.0), rtol=1e-5)
        rows = minimization._Function(lambda x: rosenbrock_residuals(x)[0], None, (), None)
        np.testing.assert_allclose(rows(x)[1], rosenbrock_residuals(x)[1], rtol=1e-5)

    def test_differences_stay_within_bounds(self) -> None:
        tried = []

        def watched(x: NDArray[Any]) -> float:
            tried.append(x.copy())
            return quadratic(x)[0]

        method = schuss.scipy_method("sgd", lr=0.2)
        for bounds in (self.optimize.Bounds(LOWER, UPPER), [(None, 0.25), (-0.5, None), (0, 3)]):
            found = self.optimize.minimize(watched, START, method=method, bounds=bounds, tol=1e-6)
            assert found.success
            assert is_lowest(found.x, LOWER, UPPER)
        assert np.all((tried >= LOWER) & (tried <= UPPER))

    def test_args_tolerance_callback_options(self) -> None:
        calls: list[Any] = []
        method = schuss.scipy_method("sgd", lr=0.3)
        found = self.optimize.minimize(
            lambda x, c: c * quadratic(x)[0],
            START,
            args=(0.5,),
            jac=lambda x, c: c * quadratic(x)[1],
            method=method,
            tol=1e-3,
            callback=lambda intermediate_result: calls.append(intermediate_result.fun),
            options={"lr": 0.6},
        )
        wanted = schuss.minimize(lambda x: tuple(0.5 * y for y in quadratic(x)), START, "sgd", tol=1e-3, lr=0.6)
        np.testing.assert_array_equal(found.x, wanted.x)
        assert len(calls) == found.nit == wanted.nit > 1
        short = self.optimize.minimize(lambda x: quadratic(x)[0], START, method=method, options={"maxiter": 2})
        assert (short.nit, short.status) == (2, 1)

    def test_products_with_the_hessian(self) -> None:
        """By either form they go to Newton-CG, with the function's further arguments, and are counted."""
        method = schuss.scipy_method("newton_cg", gtol=1e-8)
        H = 2.0 * A
        options: dict[str, Any] = {"args": (2.0,), "jac": lambda x, c: c * quadratic(x)[1], "method": method}
        products = self.optimize.minimize(
            lambda x, c: c * quadratic(x)[0], START, hessp=lambda x, v, c: c * (A @ v), **options
        )
        whole = self.optimize.minimize(lambda x, c: c * quadratic(x)[0], START, hess=lambda x, c: H, **options)
        none = self.optimize.minimize(lambda x, c: c * quadratic(x)[0], START, **options)
        np.testing.assert_array_equal(products.x, whole.x)
        np.testing.assert_allclose(products.x, SOLUTION, atol=1e-7)
        np.testing.assert_allclose(none.x, SOLUTION, atol=1e-7)
        assert products.nhev == whole.nhev > 0
        assert "nhev" not in none
        assert none.nfev >= products.nfev + products.nhev

    def test_display(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.optimize.minimize(rosen, [0, 0], method=schuss.scipy_method("sgd"), options={"maxiter": 2, "disp": True})
        assert "max_steps" in capsys.readouterr().out

    def test_what_is_refused(self) -> None:
        method = schuss.scipy_method("sgd")
        constraint = {"type": "eq", "fun": lambda x: x[0]}
        for given in (constraint, [constraint], self.optimize.LinearConstraint(np.ones(2), 0, 1)):
            with pytest.raises(ValueError, match="scipy_method: constraints are not supported; use bounds"):
                self.optimize.minimize(rosen, [0, 0], method=method, constraints=given)
        with pytest.raises(ValueError, match="scipy_method: method must name an optimizer, got 'bfgs'"):
            schuss.scipy_method("bfgs")
        with pytest.raises(TypeError, match="SGD: gtol is not an argument"):
            self.optimize.minimize(rosen, [0, 0], method=method, options={"gtol": 1e-3})
