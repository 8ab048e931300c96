"""Newton-CG: its directions, negative curvature, products by differences, and SciPy's iterations and minima."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from more_garbow_hillstrom import BY_NAME, PROBLEMS, Problem
from numpy.typing import NDArray

import schuss

Array = NDArray[Any]
Function = Callable[[Array], tuple[float, Array]]
Products = Callable[[Array], Callable[[Array], Array]]


def logistic(n: int, seed: int = 0) -> tuple[Function, Products]:
    """Return a regularised logistic loss, and its Hessian's products at a point."""
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((4 * n, n)) * np.geomspace(1, 5, n)
    labels = np.sign(data @ rng.standard_normal(n) + rng.standard_normal(4 * n))

    def function(x: Array) -> tuple[float, Array]:
        margin = labels * (data @ x)
        share = 1 / (1 + np.exp(margin))
        return float(np.logaddexp(0, -margin).mean() + 0.005 * x @ x), -data.T @ (labels * share) / (4 * n) + 0.01 * x

    def products(x: Array) -> Callable[[Array], Array]:
        share = 1 / (1 + np.exp(labels * (data @ x)))
        weights = share * (1 - share) / (4 * n)
        return lambda v: data.T @ (weights * (data @ v)) + 0.01 * v

    return function, products


def rosenbrock(n: int) -> tuple[Function, Products]:
    """Return the chained function of Rosenbrock, and its Hessian's products."""

    def function(x: Array) -> tuple[float, Array]:
        a, b = 1 - x[:-1], x[1:] - x[:-1] ** 2
        gradient = np.zeros_like(x)
        gradient[:-1] = -2 * a - 400 * x[:-1] * b
        gradient[1:] += 200 * b
        return float(a @ a + 100 * b @ b), gradient

    def products(x: Array) -> Callable[[Array], Array]:
        main = np.zeros_like(x)
        main[:-1] = 2 - 400 * (x[1:] - 3 * x[:-1] ** 2)
        main[1:] += 200
        beside = -400 * x[:-1]

        def product(v: Array) -> Array:
            found = main * v
            found[:-1] += beside * v[1:]
            found[1:] += beside * v[:-1]
            return found

        return product

    return function, products


def minimized(opt: schuss.NewtonCG, function: Function, products: Products | None, steps: int = 1000) -> float:
    """Step until the optimizer stops, and return the loss."""
    while not opt.stopped and opt.t < steps:
        hvp = None if products is None else lambda v: products(opt.params)(v)
        loss = opt.step(lambda: function(opt.params), hvp=hvp)
    return loss


def test_one_step_solves_a_quadratic(rng: np.random.Generator) -> None:
    """As exactly as it is asked to: in as many products as there are distinct eigenvalues."""
    q, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    matrix = q @ np.diag(np.repeat([1.0, 5.0, 40.0], 4)) @ q.T
    b = rng.standard_normal(12)
    w = rng.standard_normal(12)
    opt = schuss.NewtonCG(w, eta=1e-12, gtol=1e-9)
    opt.step(lambda: (float(0.5 * w @ matrix @ w - b @ w), matrix @ w - b), hvp=lambda v: matrix @ v)
    np.testing.assert_allclose(w, np.linalg.solve(matrix, b), rtol=0, atol=1e-10)
    assert opt.products == 3
    assert opt.last.step_length == 1.0
    assert opt.evaluations == 2
    assert opt.converged


@pytest.mark.parametrize("eta", [0.9, 0.1, 1e-3])
def test_the_forcing_sequence(eta: float, rng: np.random.Generator) -> None:
    """The linear solve leaves no more than it may, and one product fewer would have left more."""
    function, products = logistic(30)
    x = rng.standard_normal(30)
    gradient = function(x)[1]
    length = np.linalg.norm(gradient)
    calls: list[Array] = []

    def product(v: Array) -> Array:
        calls.append(v)
        return products(x)(v)

    def left(most: int) -> float:
        opt = schuss.NewtonCG(x.copy(), eta=eta, max_cg=most)
        direction = opt._direction(gradient.copy(), product, opt._values())
        return float(np.linalg.norm(products(x)(direction) + gradient))

    allowed = min(eta, np.sqrt(length)) * length
    assert left(1000) <= allowed * (1 + 1e-9)
    assert len(calls) == 1 or left(len(calls) - 1) > allowed


def test_negative_curvature_at_once_gives_the_gradient() -> None:
    w = np.array([0.1, 0.3])
    opt = schuss.NewtonCG(w)
    matrix = np.diag([-2.0, -3.0])
    gradient = matrix @ w
    direction = opt._direction(gradient.copy(), lambda v: matrix @ v, opt._values())
    curvature = -(gradient @ matrix @ gradient)
    np.testing.assert_allclose(direction, -gradient * (gradient @ gradient) / curvature)


def test_negative_curvature_later_gives_what_was_found(rng: np.random.Generator) -> None:
    """The direction before it: a descent direction in the part that curves upwards."""
    matrix = np.diag([10.0, 5.0, -1e-3])
    gradient = np.array([1.0, 2.0, 0.05])
    opt = schuss.NewtonCG(np.zeros(3), eta=1e-9)
    calls: list[Array] = []

    def product(v: Array) -> Array:
        calls.append(v.copy())
        return matrix @ v

    direction = opt._direction(gradient.copy(), product, opt._values())
    assert calls[-1] @ matrix @ calls[-1] <= 0
    assert all(v @ matrix @ v > 0 for v in calls[:-1])
    assert len(calls) > 1
    assert gradient @ direction < 0
    # It lies in the span of the directions before.
    span = np.stack(calls[:-1], axis=1)
    np.testing.assert_allclose(span @ np.linalg.lstsq(span, direction, rcond=None)[0], direction, atol=1e-12)


def test_it_leaves_a_saddle() -> None:
    """x^4 - x^2 + y^2 near its saddle, where Newton's own step would go back to it."""
    w = np.array([1e-3, 1.0])
    opt = schuss.NewtonCG(w, gtol=1e-8)

    def function(x: Array) -> tuple[float, Array]:
        return float(x[0] ** 4 - x[0] ** 2 + x[1] ** 2), np.array([4 * x[0] ** 3 - 2 * x[0], 2 * x[1]])

    minimized(opt, function, lambda x: lambda v: np.array([12 * x[0] ** 2 - 2, 2.0]) * v)
    np.testing.assert_allclose(np.abs(w), [np.sqrt(0.5), 0.0], atol=1e-8)
    assert opt.converged


@pytest.mark.parametrize("search", ["strong_wolfe", "armijo"])
def test_products_by_differences(search: Any) -> None:
    """The same minimum; every product is an evaluation."""
    function, products = logistic(15)
    w, x = np.zeros(15), np.zeros(15)
    with_products = schuss.NewtonCG(w, line_search=search, gtol=1e-8)
    without = schuss.NewtonCG(x, line_search=search, gtol=1e-8)
    minimized(with_products, function, products)
    minimized(without, function, None)
    np.testing.assert_allclose(w, x, atol=1e-7)
    assert without.t <= with_products.t + 2
    assert without.evaluations > without.products >= with_products.products - 10
    assert with_products.evaluations < without.evaluations


def test_differences_are_those_of_the_gradient(rng: np.random.Generator) -> None:
    function, products = rosenbrock(6)
    w = rng.standard_normal(6)
    opt = schuss.NewtonCG(w)
    v, x = rng.standard_normal(6), w.copy()
    found = opt._product(lambda: function(w), None, x, function(x)[1], v)
    np.testing.assert_allclose(found, products(x)(v), rtol=1e-4, atol=1e-4)


def test_superlinear_convergence() -> None:
    """Near the minimum of a convex loss the gradient falls to its power 3/2, as the forcing sequence says."""
    function, products = logistic(20)
    w = np.zeros(20)
    opt, norms = schuss.NewtonCG(w, gtol=1e-13, xtol=0.0), []
    while not opt.stopped and opt.t < 30:
        opt.step(lambda: function(w), hvp=lambda v: products(w)(v))
        norms.append(opt.last.gradient_norm)
    fast = [(a, b) for a, b in itertools.pairwise(norms) if 1e-8 < a < 1e-2]
    assert len(fast) >= 2
    assert all(b < 10 * a**1.5 for a, b in fast)


@pytest.mark.parametrize("name", ["logistic", "rosenbrock 2", "rosenbrock 20"])
def test_iterations_and_minima_of_scipy(name: str) -> None:
    """With the same accuracy of the linear solves: the same minimum, in at most 1.3 times SciPy's iterations and 2 more."""
    optimize = pytest.importorskip("scipy.optimize")
    function, products = logistic(40) if name == "logistic" else rosenbrock(int(name.split()[1]))
    start = np.zeros(40) if name == "logistic" else np.tile([-1.2, 1.0], int(name.split()[1]) // 2)
    peer = optimize.minimize(
        function,
        start,
        jac=True,
        hessp=lambda x, v: products(x)(v),
        method="Newton-CG",
        options={"xtol": 1e-8, "maxiter": 2000},
    )
    w = start.copy()
    opt = schuss.NewtonCG(w, gtol=0.0, xtol=1e-8)
    loss = minimized(opt, function, products)
    assert opt.converged
    assert peer.success
    np.testing.assert_allclose(w, peer.x, atol=1e-6)
    assert loss <= peer.fun + 1e-12
    assert opt.t <= 1.3 * peer.nit + 2
    assert opt.evaluations <= 1.3 * peer.nfev + 2


def test_more_garbow_hillstrom() -> None:
    """With the Gauss-Newton part of the Hessian, which never curves downwards: a low loss on all problems."""
    for problem in PROBLEMS:
        x = problem.x0
        opt = schuss.NewtonCG(x, gtol=1e-7, xtol=0.0)

        def product(v: Array, problem: Problem = problem, x: Array = x) -> Array:
            jacobian = problem.jacobian(x)
            return 2 * jacobian.T @ (jacobian @ v)

        start = problem.fun(x)
        while not opt.stopped and opt.t < 500:
            loss = opt.step(lambda problem=problem, x=x: problem.fun_and_grad(x), hvp=product)
        assert loss < start
        assert problem.solved_by(loss, rtol=0.2, atol=1e-3), (problem.name, loss)


def test_float32() -> None:
    problem = BY_NAME["beale"]
    x = problem.x0.astype(np.float32)
    opt = schuss.NewtonCG(x, gtol=1e-3)

    def product(v: Array) -> Array:
        assert v.dtype == np.float32
        jacobian = problem.jacobian(x.astype(np.float64))
        return 2 * jacobian.T @ (jacobian @ v)

    minimized(opt, lambda x: problem.fun_and_grad(x.astype(np.float64)), lambda x: product)
    np.testing.assert_allclose(x, [3.0, 0.5], atol=2e-3)


def test_trees() -> None:
    """The product takes and returns the parameters' nesting, in any memory order."""
    w = {"a": np.asfortranarray(np.ones((2, 3))), "b": [np.array(2.0)]}

    def product(v: Any) -> Any:
        assert v["a"].shape == (2, 3)
        return {"a": np.ascontiguousarray(4 * v["a"]), "b": [np.float64(2 * v["b"][0])]}

    opt = schuss.NewtonCG(w, eta=1e-9)
    opt.step(
        lambda: (float(2 * np.sum(w["a"] ** 2) + w["b"][0] ** 2), {"a": 4 * w["a"], "b": [2 * w["b"][0]]}), hvp=product
    )
    np.testing.assert_allclose(w["a"], 0.0, atol=1e-9)
    np.testing.assert_allclose(w["b"][0], 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("product", "kind", "sentence"),
    [
        (lambda v: np.ones(3), ValueError, "the product of hvp has shape (3,), but its parameter has shape (2,)"),
        (lambda v: [v], TypeError, "the product of hvp is a list, not a NumPy array"),
        (lambda v: v * np.nan, FloatingPointError, "the product of hvp holds nan at index (0,); nothing was changed"),
        (lambda v: v * 1j, TypeError, "the product of hvp has dtype complex128"),
    ],
)
def test_products_that_are_refused(product: Any, kind: type[Exception], sentence: str) -> None:
    w = np.array([1.0, 2.0])
    opt = schuss.NewtonCG(w)
    with pytest.raises(kind, match=f"^NewtonCG: {re.escape(sentence)}"):
        opt.step(lambda: (float(w @ w), 2 * w), hvp=product)
    assert (opt.t, opt.evaluations, opt.products) == (0, 0, 0)
    assert np.array_equal(w, [1.0, 2.0])
    with pytest.raises(TypeError, match=r"^NewtonCG: hvp must be a function"):
        opt.step(lambda: (float(w @ w), 2 * w), hvp=3)  # type: ignore[arg-type]


def test_a_product_that_raises_leaves_everything() -> None:
    w = np.array([1.0, 2.0])
    opt = schuss.NewtonCG(w)

    def product(v: Array) -> Array:
        raise KeyError("product")

    with pytest.raises(KeyError, match="product"):
        opt.step(lambda: (float(w @ w), 2 * w), hvp=product)
    assert (opt.t, opt.evaluations, opt.products, opt.last) == (0, 0, 0, None)
    assert np.array_equal(w, [1.0, 2.0])


def test_bytes_of_state_are_those_of_the_documentation() -> None:
    assert schuss.NewtonCG(np.zeros(500, np.float32)).nbytes == 8 * 500
    assert schuss.NewtonCG(np.zeros(500)).nbytes == 16 * 500
