"""Linear algebra of matrix optimizers, beside the singular value decomposition, SciPy, and other implementations."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import SLOW

from schuss import linalg

Array = NDArray[Any]

NAMES = list(linalg.COEFFICIENTS)
FORMS: list[linalg.Form] = ["plain", "gram", "auto"]
DTYPES = [np.float32, np.float64]
SAFETY = {"polar_express": 1.01, "polar_express_5": 1.02}

every_name = pytest.mark.parametrize("name", NAMES)
every_form = pytest.mark.parametrize("form", FORMS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)


def tolerance(dtype: Any, single: float, double: float) -> float:
    return single if np.dtype(dtype) == np.float32 else double


def newton_schulz(x: Array, triples: Any, safety: float = 1.0, eps: float = 1e-7) -> Array:
    """The formula of the docstring, in float64."""
    wide: Array = x.astype(np.float64)
    wide = wide / np.maximum(safety * np.sqrt((wide * wide).sum(axis=(-2, -1), keepdims=True)), eps)
    for a, b, c in triples:
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * (gram @ gram)) @ wide
    return wide


def with_condition(rng: np.random.Generator, m: int, n: int, condition: float) -> tuple[Array, Array, Array, Array]:
    """Return a matrix with its singular vectors and values, which are spread evenly in the logarithm."""
    k = min(m, n)
    u, _ = np.linalg.qr(rng.standard_normal((m, k)))
    v, _ = np.linalg.qr(rng.standard_normal((n, k)))
    values = np.geomspace(1, 1 / condition, k)
    return (u * values) @ v.T, u, values, v


# ---- orthogonalize --------------------------------------------------------------------------------------------------------


@every_dtype
@every_form
@every_name
@pytest.mark.parametrize("shape", [(40, 40), (30, 70), (70, 30), (3, 2, 9, 5), (300, 20, 30)])
def test_equals_its_formula(name: str, form: linalg.Form, dtype: Any, shape: Any, rng: np.random.Generator) -> None:
    """In both forms, for every number of steps."""
    x = rng.standard_normal(shape).astype(dtype)
    table = linalg.COEFFICIENTS[name]
    for steps in (1, 2, 3, 6, 7, 10, None):
        triples = [table[min(i, len(table) - 1)] for i in range(steps or len(table))]
        expected = newton_schulz(x, triples, SAFETY.get(name, 1.0))
        found = linalg.orthogonalize(x, coefficients=name, steps=steps, form=form)
        assert found.dtype == dtype
        # Ten steps of Jordan's polynomials, which do not converge, enlarge every rounding error.
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype, 2e-4, 1e-12), err_msg=f"{steps}")


#: Where singular values of [1e-2, 1] times the norm go, and the least that those of 1e-3 do: as the docstring has it.
LANDS = {
    "jordan": (0.68, 1.14, 0.47),
    "quintic": (0.97, 1.04, 0.47),
    "polar_express_5": (0.85, 1.15, 0.84),
    "polar_express": (1.0, 1.0, 1.0),
    "exact": (1.0, 1.0, 1.0),
}


@every_name
def test_where_singular_values_land(name: str) -> None:
    """The polynomials alone, on a fine grid."""
    least, most, least_of_smaller = LANDS[name]

    def ends(lower: float) -> tuple[float, float]:
        x = np.geomspace(lower, 1, 100_001) / SAFETY.get(name, 1.0)
        for a, b, c in linalg.COEFFICIENTS[name]:
            x = a * x + b * x**3 + c * x**5
        return float(x.min()), float(x.max())

    close = 2e-5
    assert least - close <= ends(1e-2)[0] <= least + 0.01
    assert most - 0.01 <= ends(1e-2)[1] <= most + close
    assert least_of_smaller - close <= ends(1e-3)[0] <= least_of_smaller + 0.01


#: The least and greatest singular values of what comes out, by the condition number of a 256 x 512 matrix whose singular values
#: are spread evenly in the logarithm.
INTERVALS = {
    "jordan": {1e1: (0.681, 1.135), 1e2: (0.681, 1.203), 1e3: (0.111, 1.203), 1e4: (0.0127, 1.203)},
    "quintic": {1e1: (0.977, 1.032), 1e2: (0.815, 1.146), 1e3: (0.112, 1.146), 1e4: (0.0130, 1.146)},
    "polar_express_5": {1e1: (0.859, 1.142), 1e2: (0.858, 1.142), 1e3: (0.221, 1.142), 1e4: (0.0256, 1.142)},
    "polar_express": {1e1: (1, 1), 1e2: (1, 1), 1e3: (0.937, 1), 1e4: (0.169, 1)},
    "exact": {1e1: (1, 1), 1e2: (1, 1), 1e3: (0.767, 1.002), 1e4: (0.107, 1.002)},
}


@every_dtype
@pytest.mark.parametrize("form", ["plain", "gram"])
@pytest.mark.parametrize("condition", [1e1, 1e2, 1e3, 1e4] if SLOW else [1e1, 1e4])
@every_name
def test_singular_values(name: str, condition: float, form: linalg.Form, dtype: Any, rng: np.random.Generator) -> None:
    """Measured: in float32 as well they go where the polynomials take them, and the singular vectors stay."""
    x, u, values, v = with_condition(rng, 256, 512, condition)
    found = linalg.orthogonalize(x.astype(dtype), coefficients=name, form=form)
    close = tolerance(dtype, 1e-5, 1e-6)
    least, most = INTERVALS[name][condition]
    landed = np.linalg.svd(found.astype(np.float64), compute_uv=False)
    assert least - close <= landed.min() <= least + 0.01
    assert most - 0.01 <= landed.max() <= most + close
    wanted = values / math.hypot(*values) / SAFETY.get(name, 1.0)
    for a, b, c in linalg.COEFFICIENTS[name]:
        wanted = a * wanted + b * wanted**3 + c * wanted**5
    np.testing.assert_allclose(found, (u * wanted) @ v.T, rtol=0, atol=tolerance(dtype, 5e-5, 1e-12))


@every_dtype
@every_form
def test_converges_to_the_polar_factor(form: linalg.Form, dtype: Any, rng: np.random.Generator) -> None:
    for m, n in ((50, 50), (50, 130), (130, 50)):
        x, u, _, v = with_condition(rng, m, n, 100.0)
        found = linalg.orthogonalize(x.astype(dtype), coefficients="exact", form=form)
        np.testing.assert_allclose(found, u @ v.T, rtol=0, atol=tolerance(dtype, 3e-6, 2e-13))


@pytest.mark.parametrize(("name", "safety"), [("polar_express", 1.01), ("polar_express_5", 1.02)])
def test_polar_express_is_optimal(name: str, safety: float) -> None:
    """Amsel et al., section 3: each polynomial deviates from a constant by as much at four points, with alternating signs.

    Those are the ends of the interval, of which the lower is 0.02 times the upper at least, and the extrema between. The
    interval is followed from [1e-3, 1]; all polynomials but the last then take the upper end to be `safety` times as large.
    """
    lower, upper = 1e-3, 1.0
    table = linalg.COEFFICIENTS[name]
    for i, (a, b, c) in enumerate(table):
        if (a, b, c) == (1.875, -1.25, 0.375):
            assert lower > 0.999  # the limit for intervals around 1
            break
        scale = safety if i < len(table) - 1 or name == "polar_express" else 1.0
        p = np.polynomial.Polynomial([0, a * scale, 0, b * scale**3, 0, c * scale**5])
        left = max(lower, 0.02 * upper)
        extrema = np.sort(np.real(p.deriv().roots()))
        inner = extrema[(extrema > left) & (extrema < upper)]
        assert len(inner) == 2
        values = p(np.array([left, *inner, upper]))
        assert values[0] == pytest.approx(values[2], rel=1e-9)
        assert values[1] == pytest.approx(values[3], rel=1e-9)
        assert p(lower) + p(upper) == pytest.approx(2, rel=1e-9)
        lower = a * lower + b * lower**3 + c * lower**5
        upper = 2 - lower


def test_coefficients_of_ones_own(rng: np.random.Generator) -> None:
    """Also cubic ones, and such that the square would cancel all digits."""
    x = rng.standard_normal((6, 9))
    cubic = (1.5, -0.5, 0.0)
    for form in FORMS:
        found = linalg.orthogonalize(x, coefficients=[cubic], steps=40, form=form)
        u, _, vt = np.linalg.svd(x, full_matrices=False)
        np.testing.assert_allclose(found, u @ vt, rtol=0, atol=1e-12)
        for triples in ([(1.5, -0.5, 1e-9)] * 3, [(2.0, -3.0, 0.04), (1.0, 0.5, -2.0)], np.array([[3.0, -3.2, 1.2]])):
            found = linalg.orthogonalize(x, coefficients=triples, form=form)  # type: ignore[arg-type]
            np.testing.assert_allclose(found, newton_schulz(x, triples), rtol=0, atol=1e-13)


@st.composite
def laid_out(draw: st.DrawFn) -> Array:
    """Matrices of any shape and strides."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = (*draw(st.lists(st.integers(0, 4), max_size=2)), draw(st.integers(0, 9)), draw(st.integers(0, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal(shape).astype(dtype)
    kind = draw(st.sampled_from(["C", "F", "transposed", "reversed", "spread", "broadcast", "misaligned"]))
    if kind == "F":
        x = np.asfortranarray(x)
    elif kind == "transposed":
        x = np.ascontiguousarray(x.mT).mT
    elif kind == "reversed":
        x = x[..., ::-1, ::-1]
    elif kind == "spread":
        wide = np.zeros((*shape[:-1], 3 * shape[-1]), dtype)
        wide[..., ::3] = x
        x = wide[..., ::3]
    elif kind == "broadcast":
        x = np.broadcast_to(x[..., :1, :], shape)
    elif kind == "misaligned":
        moved = np.ndarray(shape, dtype, np.zeros(x.nbytes + 1, np.uint8), 1)
        moved[...] = x
        x = moved
    return x


@given(laid_out(), st.sampled_from(FORMS), st.sampled_from(["quintic", "polar_express"]), st.integers(1, 8))
@settings(max_examples=150, deadline=None)
def test_shapes_and_layouts(x: Array, form: linalg.Form, name: str, steps: int) -> None:
    """Any strides are read, none are changed, and `out` may have any as well, those of x among them."""
    before = x.copy()
    table = linalg.COEFFICIENTS[name]
    triples = [table[i] if i < len(table) else table[-1] for i in range(steps)]
    expected = newton_schulz(x, triples, SAFETY.get(name, 1.0))
    close = tolerance(x.dtype, 2e-4, 1e-11)

    def orthogonalized(x: Array, out: Array | None = None) -> Array:
        return linalg.orthogonalize(x, coefficients=name, steps=steps, form=form, out=out)

    found = orthogonalized(x)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    np.testing.assert_allclose(found, expected, rtol=0, atol=close)
    assert np.array_equal(x, before)
    spread = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[..., ::2]
    for out in (np.empty(x.shape, x.dtype), np.empty_like(np.asfortranarray(x)), spread):
        assert orthogonalized(x, out) is out
        np.testing.assert_allclose(out, expected, rtol=0, atol=close)
    if x.flags.writeable:
        assert orthogonalized(x, x) is x
        np.testing.assert_allclose(x, expected, rtol=0, atol=close)


def test_out_may_overlap(rng: np.random.Generator) -> None:
    """Matrices that are written before others, which they overlap, are read."""
    memory = rng.standard_normal((3, 300, 300))
    expected = linalg.orthogonalize(memory[:2])
    linalg.orthogonalize(memory[:2], out=memory[1:])
    np.testing.assert_allclose(memory[1:], expected, rtol=0, atol=1e-13)
    square = rng.standard_normal((8, 8))
    expected = linalg.orthogonalize(square)
    linalg.orthogonalize(square, out=square.T)
    np.testing.assert_allclose(square.T, expected, rtol=0, atol=1e-13)


@every_dtype
@every_form
def test_degenerate_matrices(form: linalg.Form, dtype: Any, rng: np.random.Generator) -> None:
    """Zero stays zero, and what is not spanned is not either."""
    assert not linalg.orthogonalize(np.zeros((4, 7), dtype), form=form).any()
    u, v = rng.standard_normal(50), rng.standard_normal(90)
    found = linalg.orthogonalize(np.outer(u, v).astype(dtype), coefficients="exact", form=form)
    expected = np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
    # Twelve steps double rounding errors outside of what the matrix spans as often.
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype, 5e-4, 1e-12))
    stack = rng.standard_normal((4, 5, 6)).astype(dtype)
    stack[1] = 0
    stack[2, 3, 4] = np.nan
    stack[3, 0, 0] = np.inf
    found = linalg.orthogonalize(stack, form=form)
    np.testing.assert_allclose(found[0], linalg.orthogonalize(stack[0], form=form), rtol=0, atol=1e-5)
    assert not found[1].any()
    assert np.isnan(found[2:]).all()


@every_dtype
def test_any_magnitude(dtype: Any, rng: np.random.Generator) -> None:
    """Squares overflow and underflow, and the norm itself."""
    x = rng.standard_normal((2, 6, 8)).astype(dtype)
    expected = linalg.orthogonalize(x)
    huge = np.finfo(dtype).max / np.abs(x).max() / tolerance(dtype, 1, 16)  # a norm is a float64
    for factor in (1e-30, 1e-18, 1e18, 1e30, huge):
        scaled = (x * dtype(factor)).astype(dtype)
        found = linalg.orthogonalize(scaled, eps=1e-300)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype, 1e-5, 1e-13), err_msg=f"{factor}")
    tiny = (x * 1e-12).astype(dtype)  # the norm is below eps, 1e-7
    expected = newton_schulz(tiny, linalg.COEFFICIENTS["quintic"])
    np.testing.assert_allclose(linalg.orthogonalize(tiny), expected, rtol=tolerance(dtype, 1e-3, 1e-9), atol=0)
    assert np.abs(expected).max() < 0.1


def test_products_are_symmetric_ones(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the work: all products of a matrix with itself are with its own transpose, which NumPy gives to syrk."""
    products: list[tuple[Array, Array, Array]] = []
    matmul = np.matmul

    def spy(a: Array, b: Array, out: Array) -> Array:
        products.append((a, b, out))
        return matmul(a, b, out=out)

    monkeypatch.setattr(np, "matmul", spy)
    for shape in ((30, 40), (40, 30)):
        products.clear()
        linalg.orthogonalize(rng.standard_normal(shape), form="plain")
        own = [
            (a.ctypes.data == b.ctypes.data and a.shape == b.shape[::-1] + a.shape[:0]) or same_transposed(a, b)
            for a, b, _ in products
        ]
        assert own == [True, True, False] * 5
        assert all(out.strides[-1] == out.itemsize for _, _, out in products)


def same_transposed(a: Array, b: Array) -> bool:
    """Tell whether b is a's transpose in the same memory."""
    return a.ctypes.data == b.ctypes.data and (b.mT.shape, b.mT.strides) == (a.shape, a.strides)


@pytest.mark.peers
@every_name
def test_as_optax_has_it(name: str, rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    muon = pytest.importorskip("optax.contrib._muon")
    jax.config.update("jax_enable_x64", True)
    table = jax.numpy.asarray(linalg.COEFFICIENTS[name])
    for shape in ((20, 20), (20, 50), (50, 20)):
        x = rng.standard_normal(shape)
        theirs = muon.orthogonalize_via_newton_schulz(jax.numpy.asarray(x), table, eps=0.0)
        ours = linalg.orthogonalize(x, coefficients=linalg.COEFFICIENTS[name])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.peers
@every_name
def test_as_pytorch_optimizer_has_it(name: str, rng: np.random.Generator) -> None:
    """Its Gram form too, and the tables but for the last triple of Polar Express, which has the limit to six digits."""
    torch = pytest.importorskip("torch")
    matrix = pytest.importorskip("pytorch_optimizer.optimizer.utils.matrix")
    table = linalg.COEFFICIENTS[name]
    theirs = {"polar_express_5": "polar_express_safer", "jordan": "original"}.get(name, name)
    if theirs in matrix.NS_COEFFICIENTS:
        last = -1 if name.startswith("polar") else None  # a last triple is without safety
        number = len(matrix.NS_COEFFICIENTS[theirs])
        np.testing.assert_allclose(
            table[:last][:number], matrix.NS_COEFFICIENTS[theirs][: len(table)][:last], rtol=1e-11
        )
    for shape in ((20, 20), (20, 50), (50, 20)):
        x = rng.standard_normal(shape)
        arguments = {"num_steps": len(table), "weights": list(table), "dtype": torch.float64}
        plain = matrix.zero_power_via_newton_schulz_5(
            torch.from_numpy(x), safety_factor=SAFETY.get(name, 1.0), **arguments
        )
        ours = linalg.orthogonalize(x, coefficients=name)
        np.testing.assert_allclose(ours, plain.numpy(), rtol=0, atol=1e-12)


@pytest.mark.peers
def test_nearer_than_torch(rng: np.random.Generator) -> None:
    """The function of torch.optim.Muon computes in bfloat16: the same numbers to two digits."""
    torch = pytest.importorskip("torch")
    muon = pytest.importorskip("torch.optim._muon")
    x, *_ = with_condition(rng, 64, 96, 30.0)
    (triple, *_) = linalg.COEFFICIENTS["jordan"]
    theirs = muon._zeropower_via_newtonschulz(torch.from_numpy(x), triple, 5, 1e-7).float().numpy()
    ours = linalg.orthogonalize(x.astype(np.float32), coefficients="jordan")
    exact = newton_schulz(x, [triple] * 5)
    assert np.abs(ours - exact).max() < 5e-6
    assert 1e-3 < np.abs(theirs - exact).max() < 3e-2


# ---- roots and bases ------------------------------------------------------------------------------------------------------


def definite(rng: np.random.Generator, *shape: int, condition: float = 100.0) -> Array:
    """Return symmetric positive definite matrices of a condition number, the largest eigenvalue 3."""
    q, _ = np.linalg.qr(rng.standard_normal(shape))
    return (q * np.geomspace(3, 3 / condition, shape[-1])) @ q.mT


@every_dtype
@pytest.mark.parametrize("order", [1, 2, 3, 4, 2.5])
def test_inverse_root_is_one(order: float, dtype: Any, rng: np.random.Generator) -> None:
    """Its power times the matrix is the identity; batches are their matrices."""
    a = definite(rng, 3, 2, 12, 12).astype(dtype)
    root = linalg.inverse_root(a, order, eps=0.0)
    assert (root.shape, root.dtype) == (a.shape, dtype)
    assert np.array_equal(root, root.mT)
    np.testing.assert_array_equal(linalg.inverse_root(a[1, 1], order, eps=0.0), root[1, 1])
    values, vectors = np.linalg.eigh(root.astype(np.float64))
    product = (vectors * values[..., None, :] ** order) @ vectors.mT @ a
    np.testing.assert_allclose(
        product, np.broadcast_to(np.eye(12), a.shape), rtol=0, atol=tolerance(dtype, 2e-4, 1e-12)
    )
    np.testing.assert_array_equal(linalg.inverse_root(a, 7, eps=0.0, exponent=1 / order), root)


@pytest.mark.peers
def test_inverse_root_as_scipy_has_it(rng: np.random.Generator) -> None:
    scipy_linalg = pytest.importorskip("scipy.linalg")
    a = definite(rng, 20, 20)
    for order in (1, 2, 4, 8):
        expected = scipy_linalg.fractional_matrix_power(a, -1 / order)
        np.testing.assert_allclose(linalg.inverse_root(a, order, eps=0.0), expected, rtol=0, atol=1e-11)


@pytest.mark.peers
def test_inverse_root_as_pytorch_optimizer_has_it(rng: np.random.Generator) -> None:
    """Shampoo's, by singular values, which are the eigenvalues."""
    torch = pytest.importorskip("torch")
    matrix = pytest.importorskip("pytorch_optimizer.optimizer.utils.matrix")
    a = definite(rng, 20, 20)
    for order in (2, 4):
        expected = matrix.compute_power_svd(torch.from_numpy(a), order).numpy()
        np.testing.assert_allclose(linalg.inverse_root(a, order, eps=0.0), expected, rtol=0, atol=1e-12)


@every_dtype
def test_inverse_root_of_singular_matrices(dtype: Any, rng: np.random.Generator) -> None:
    """Eigenvalues are shifted until the least is eps, those that rounding made negative as well."""
    g = rng.standard_normal((9, 4))
    a = (g @ g.T).astype(dtype)
    root = linalg.inverse_root(a, 4, eps=1e-3)
    values, vectors = np.linalg.eigh(a.astype(np.float64))
    shifted = np.maximum(values, 0) + 1e-3
    expected = (vectors * shifted**-0.25) @ vectors.T
    np.testing.assert_allclose(root, expected, rtol=0, atol=tolerance(dtype, 5e-3, 1e-11))
    negative = np.diag(np.array([2.0, -1.0])).astype(dtype)
    np.testing.assert_allclose(linalg.inverse_root(negative, 1, eps=0.5), np.diag([1 / 3.5, 2.0]), rtol=1e-6)
    zero = linalg.inverse_root(np.zeros((3, 3), dtype), 2, eps=1e-4)
    np.testing.assert_allclose(zero, 100 * np.eye(3), rtol=1e-6)
    assert linalg.inverse_root(np.zeros((0, 0), dtype), 2).shape == (0, 0)
    assert linalg.inverse_root(np.zeros((0, 3, 3), dtype), 2).shape == (0, 3, 3)
    np.testing.assert_allclose(linalg.inverse_root(np.full((1, 1), 16.0, dtype), 4), [[0.5]], rtol=1e-6)


@pytest.mark.parametrize("function", [lambda a: linalg.inverse_root(a, 4), linalg.eigenbasis])
def test_in_float64_where_float32_fails(
    function: Callable[[Array], Array], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What LAPACK refuses in float32 is tried once more; what it refuses in float64 is an error."""
    eigh = np.linalg.eigh
    asked: list[np.dtype[Any]] = []

    def fails_in(*dtypes: Any) -> Callable[[Array], Any]:
        def failing(a: Array) -> Any:
            asked.append(a.dtype)
            if a.dtype in dtypes:
                raise np.linalg.LinAlgError("Eigenvalues did not converge")
            return eigh(a)

        return failing

    a = definite(rng, 6, 6).astype(np.float32)
    expected = function(a)
    monkeypatch.setattr(np.linalg, "eigh", fails_in(np.float32))
    found = function(a)
    assert asked == [np.float32, np.float64]
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=0, atol=2e-5)
    monkeypatch.setattr(np.linalg, "eigh", fails_in(np.float32, np.float64))
    for each in (a, a.astype(np.float64)):
        with pytest.raises(np.linalg.LinAlgError, match="did not converge"):
            function(each)


@every_dtype
def test_eigenbasis(dtype: Any, rng: np.random.Generator) -> None:
    a = definite(rng, 2, 10, 10).astype(dtype)
    q = linalg.eigenbasis(a)
    assert (q.shape, q.dtype, q.flags.c_contiguous) == (a.shape, dtype, True)
    close = tolerance(dtype, 5e-6, 1e-13)
    np.testing.assert_allclose(q.mT @ q, np.broadcast_to(np.eye(10), a.shape), rtol=0, atol=close)
    np.testing.assert_allclose(q.mT @ a @ q, np.geomspace(3, 0.03, 10) * np.eye(10) * np.ones((2, 1, 1)), atol=close)
    assert linalg.eigenbasis(np.zeros((0, 0), dtype)).shape == (0, 0)


@every_dtype
def test_refreshed_basis(dtype: Any, rng: np.random.Generator) -> None:
    """It stays the eigenvectors where it is, orders what came in another order, and converges to them from elsewhere."""
    a = definite(rng, 2, 8, 8).astype(dtype)
    close = tolerance(dtype, 5e-6, 1e-13)
    exact = linalg.eigenbasis(a)
    shuffled = exact[..., [3, 1, 0, 2, 4, 7, 6, 5]]
    basis, order = linalg.refreshed_basis(a, shuffled)
    assert (basis.dtype, order.shape) == (dtype, (2, 8))
    assert (order == [2, 1, 3, 0, 4, 7, 6, 5]).all()
    np.testing.assert_allclose(np.abs(basis), np.abs(exact), rtol=0, atol=close)
    q = np.broadcast_to(np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(dtype), a.shape)
    for _ in range(200):
        q, order = linalg.refreshed_basis(a, q)
    assert (order == np.arange(8)).all()
    np.testing.assert_allclose(np.abs(q), np.abs(exact), rtol=0, atol=20 * close)
    single, first = linalg.refreshed_basis(a[0], shuffled[0])
    np.testing.assert_array_equal(first, [2, 1, 3, 0, 4, 7, 6, 5])
    np.testing.assert_allclose(single, basis[0], rtol=0, atol=close)
    assert linalg.refreshed_basis(a[:0], a[:0])[1].shape == (0, 8)


@pytest.mark.peers
def test_bases_as_pytorch_optimizer_has_them(rng: np.random.Generator) -> None:
    """SOAP's two functions, in float32, where its own QR is."""
    torch = pytest.importorskip("torch")
    soap = pytest.importorskip("pytorch_optimizer.optimizer.soap").SOAP
    a, later = (definite(rng, 12, 12).astype(np.float32) for _ in range(2))
    (theirs,) = soap.get_orthogonal_matrix([torch.from_numpy(a)])
    q = linalg.eigenbasis(a)
    np.testing.assert_allclose(np.abs(q), np.abs(theirs.numpy()), rtol=0, atol=2e-5)
    optimizer = soap([torch.zeros(12, requires_grad=True)])
    squares = torch.arange(12.0)
    state = {"GG": [torch.from_numpy(later)], "Q": [torch.from_numpy(q)], "exp_avg_sq": squares}
    (theirs,) = optimizer.get_orthogonal_matrix_qr(state)
    basis, order = linalg.refreshed_basis(later, q)
    np.testing.assert_array_equal(order, state["exp_avg_sq"].numpy())
    np.testing.assert_allclose(basis, theirs.numpy(), rtol=0, atol=1e-5)


# ---- triangular systems ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scipy", [True, False])
@every_dtype
def test_solve_triangular(scipy: bool, dtype: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SciPy and without."""
    if scipy:
        pytest.importorskip("scipy.linalg")
    else:
        without_scipy(monkeypatch)
    for n, k in ((1, 1), (7, 3), (30, 50), (5, 0)):
        t = (np.triu(rng.standard_normal((n, n)), 1) / n + np.diag(rng.uniform(1, 2, n))).astype(dtype)
        filled = t + np.tril(np.full((n, n), np.nan, dtype), -1)
        b = rng.standard_normal((n, k)).astype(dtype)
        close = tolerance(dtype, 1e-5, 1e-13)
        for matrix in (filled, np.asfortranarray(filled)):
            x = linalg.solve_triangular(matrix, b)
            assert (x.shape, x.dtype) == (b.shape, dtype)
            np.testing.assert_allclose(t @ x, b, rtol=0, atol=close)
            x = linalg.solve_triangular(matrix, b.T, right=True)
            assert (x.shape, x.dtype) == (b.T.shape, dtype)
            np.testing.assert_allclose(x @ t, b.T, rtol=0, atol=close)
    singular = np.triu(np.ones((3, 3), dtype))
    singular[1, 1] = 0
    with pytest.raises(np.linalg.LinAlgError):
        linalg.solve_triangular(singular, np.ones((3, 2), dtype))


def without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "scipy":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)


# ---- oracles --------------------------------------------------------------------------------------------------------------


def by_hand(norm: str, m: Array, normalized: bool, at_least_one: bool = False) -> Array:
    """The code of Pethick et al. (github.com/LIONS-EPFL/scion), formula by formula, in float64."""
    m = m.astype(np.float64)
    jordan = [(3.4445, -4.7750, 2.0315)] * 5
    if norm == "spectral":
        scale = math.sqrt(m.shape[0] / m.shape[1]) if normalized else math.sqrt(m.shape[0])
        return newton_schulz(m, jordan) * (max(1.0, scale) if at_least_one else scale)
    if norm == "spectral_conv":
        outputs, inputs, k = m.shape[:3]
        orthogonal = newton_schulz(m.reshape(outputs, -1), jordan).reshape(m.shape)
        return orthogonal * (outputs / inputs) ** 0.5 / k ** (m.ndim - 2)
    if norm == "sign":
        return np.sign(m) / (m.shape[1] if normalized else 1)
    if norm == "column":
        rms = np.sqrt((m**2).sum(axis=0, keepdims=True)) / math.sqrt(m.shape[0])
        return m / (rms * (m.shape[1] if normalized else 1) + 1e-8)
    if norm == "row":
        length = np.sqrt((m**2).sum(axis=1, keepdims=True))
        return m / (length * (math.sqrt(m.shape[1]) if normalized else 1) + 1e-8)
    return m / (np.sqrt(np.mean(m**2)) + 1e-8)


SHAPES: dict[str, list[tuple[int, ...]]] = {
    "spectral": [(6, 6), (5, 9), (9, 5)],
    "spectral_conv": [(6, 4, 3), (6, 4, 3, 3), (3, 8, 2, 2)],
    "sign": [(5, 9)],
    "column": [(5, 9), (9, 5)],
    "row": [(5, 9), (9, 5)],
    "bias_rms": [(), (1,), (7,)],
}
DEFAULTS = {"column": False}


@every_dtype
@pytest.mark.parametrize("norm", SHAPES)
def test_oracles(norm: linalg.Norm, dtype: Any, rng: np.random.Generator) -> None:
    close = tolerance(dtype, 1e-5, 1e-13)
    for shape in SHAPES[norm]:
        m = np.asarray(rng.standard_normal(shape)).astype(dtype)
        found = linalg.lmo(m, norm)
        assert (found.shape, found.dtype) == (m.shape, dtype)
        np.testing.assert_allclose(found, by_hand(norm, m, DEFAULTS.get(norm, True)), rtol=1e-5, atol=close)
        out = np.empty_like(m)
        assert linalg.lmo(m, norm, out=out) is out
        assert np.array_equal(out, found)
        if norm in ("spectral", "sign", "column", "row"):
            for normalized in (False, True):
                expected = by_hand(norm, m, normalized)
                np.testing.assert_allclose(linalg.lmo(m, norm, normalized=normalized), expected, rtol=1e-5, atol=close)
        if norm in ("column", "row"):
            turned = linalg.lmo(m, norm, transposed=True)
            np.testing.assert_allclose(turned, linalg.lmo(np.ascontiguousarray(m.T), norm).T, rtol=close)
        if norm == "spectral":
            found = linalg.lmo(m, norm, at_least_one=True)
            np.testing.assert_allclose(found, by_hand(norm, m, True, True), rtol=1e-5, atol=close)
        assert not linalg.lmo(np.zeros_like(m), norm).any()
        assert linalg.lmo(m, norm, out=m) is m


@pytest.mark.parametrize("norm", ["spectral", "sign", "column", "row", "bias_rms"])
def test_oracles_maximise(norm: linalg.Norm, rng: np.random.Generator) -> None:
    """No other point of the ball has a greater inner product: the norms of the paper's Table 2 and 3."""
    m = rng.standard_normal(8 if norm == "bias_rms" else (8, 5))
    inputs = m.shape[-1]
    norms: dict[str, Callable[[Array], float]] = {
        "spectral": lambda u: float(np.linalg.norm(u, 2)) * math.sqrt(inputs / 8),
        "sign": lambda u: inputs * float(np.abs(u).max()),
        "column": lambda u: float(np.sqrt((u**2).mean(axis=0)).max()),
        "row": lambda u: math.sqrt(inputs) * float(np.linalg.norm(u, axis=1).max()),
        "bias_rms": lambda u: float(np.sqrt((u**2).mean())),
    }
    best = linalg.lmo(m, norm, coefficients="exact")
    assert norms[norm](best) == pytest.approx(1, rel=1e-7)
    for _ in range(200):
        other = best + 0.3 * rng.standard_normal(m.shape)
        assert np.vdot(m, other / norms[norm](other)) < np.vdot(m, best)


def test_the_oracle_by_shape(rng: np.random.Generator) -> None:
    for shape, norm in (((), "bias_rms"), ((4,), "bias_rms"), ((4, 3), "spectral"), ((4, 3, 2), "spectral_conv")):
        m = np.asarray(rng.standard_normal(shape))
        np.testing.assert_array_equal(linalg.lmo(m), linalg.lmo(m, norm))  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        linalg.lmo(m, coefficients="polar_express", steps=7),
        linalg.lmo(m, "spectral_conv", coefficients="polar_express", steps=7),
    )


# ---- refusals -------------------------------------------------------------------------------------------------------------

X = np.ones((2, 3))
SQUARE = np.eye(2)
READ_ONLY = np.ones((2, 3))
READ_ONLY.flags.writeable = False
NAMED = "'jordan', 'quintic', 'polar_express', 'polar_express_5', 'exact'"
REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: linalg.orthogonalize([[1.0]]),  # type: ignore[arg-type]
        TypeError,
        "linalg.orthogonalize: x is a list, not a NumPy array; pass numpy.asarray of it",
    ),
    (
        lambda: linalg.orthogonalize(X.astype(np.float16)),
        TypeError,
        "linalg.orthogonalize: x must be of float32 or float64, got float16; convert it",
    ),
    (
        lambda: linalg.orthogonalize(np.ones(3)),
        ValueError,
        "linalg.orthogonalize: x must have shape (..., m, n), got (3,)",
    ),
    (
        lambda: linalg.orthogonalize(X, coefficients="cubic"),
        ValueError,
        f"linalg.orthogonalize: coefficients must be one of {NAMED} or triples (a, b, c), got 'cubic'",
    ),
    (
        lambda: linalg.orthogonalize(X, coefficients=[]),
        ValueError,
        "linalg.orthogonalize: coefficients must be a name or at least one triple (a, b, c), got []",
    ),
    (
        lambda: linalg.orthogonalize(X, coefficients=(1.5, -0.5, 0.0)),  # type: ignore[arg-type]
        ValueError,
        "linalg.orthogonalize: coefficients must be triples (a, b, c) of finite numbers, got 1.5",
    ),
    (
        lambda: linalg.orthogonalize(X, coefficients=[(1.5, -0.5, math.nan)]),
        ValueError,
        "linalg.orthogonalize: coefficients must be triples (a, b, c) of finite numbers, got (1.5, -0.5, nan)",
    ),
    (
        lambda: linalg.orthogonalize(X, steps=0),
        ValueError,
        "linalg.orthogonalize: steps must be in {1, 2, ...}, got 0",
    ),
    (
        lambda: linalg.orthogonalize(X, form="wide"),  # type: ignore[arg-type]
        ValueError,
        "linalg.orthogonalize: form must be 'auto', 'plain' or 'gram', got 'wide'",
    ),
    (
        lambda: linalg.orthogonalize(X, eps=0.0),
        ValueError,
        "linalg.orthogonalize: eps must be in (0, inf), got 0",
    ),
    (
        lambda: linalg.orthogonalize(X, out=np.ones((3, 2))),
        ValueError,
        "linalg.orthogonalize: out has shape (3, 2) and dtype float64, but (2, 3) and float64 are needed; pass an array of "
        "these",
    ),
    (
        lambda: linalg.orthogonalize(X, out=READ_ONLY),
        ValueError,
        "linalg.orthogonalize: out is read-only; pass an array that can be written",
    ),
    (
        lambda: linalg.inverse_root(X, 2),
        ValueError,
        "linalg.inverse_root: a must have shape (..., n, n), got (2, 3)",
    ),
    (
        lambda: linalg.inverse_root(SQUARE, 0),
        ValueError,
        "linalg.inverse_root: order must be in (0, inf), got 0",
    ),
    (
        lambda: linalg.inverse_root(SQUARE, 2, eps=-1.0),
        ValueError,
        "linalg.inverse_root: eps must be in [0, inf), got -1",
    ),
    (
        lambda: linalg.inverse_root(np.diag([1.0, np.nan]), 2),
        np.linalg.LinAlgError,
        "linalg.inverse_root: a is not finite; keep what an earlier one gave",
    ),
    (
        lambda: linalg.inverse_root(np.zeros((2, 2)), 2, eps=0.0),
        np.linalg.LinAlgError,
        "linalg.inverse_root: the root is not finite; raise eps",
    ),
    (
        lambda: linalg.eigenbasis(np.diag([1.0, np.inf])),
        np.linalg.LinAlgError,
        "linalg.eigenbasis: a is not finite; keep what an earlier one gave",
    ),
    (
        lambda: linalg.refreshed_basis(SQUARE, np.eye(3)),
        ValueError,
        "linalg.refreshed_basis: q has shape (3, 3) and dtype float64, but a has (2, 2) and float64; pass arrays alike",
    ),
    (
        lambda: linalg.refreshed_basis(SQUARE, np.diag([1.0, np.nan])),
        np.linalg.LinAlgError,
        "linalg.refreshed_basis: a or q is not finite; keep the basis",
    ),
    (
        lambda: linalg.solve_triangular(SQUARE, np.ones((3, 2))),
        ValueError,
        "linalg.solve_triangular: t and b have shapes (2, 2) and (3, 2) and dtypes float64 and float64; pass (n, n) and (2, k) "
        "of one dtype",
    ),
    (
        lambda: linalg.lmo(X, "nuclear"),  # type: ignore[arg-type]
        ValueError,
        "linalg.lmo: norm must be one of 'auto', 'spectral', 'spectral_conv', 'sign', 'column', 'row', 'bias_rms', got "
        "'nuclear'",
    ),
    (
        lambda: linalg.lmo(np.ones(3), "row"),
        ValueError,
        "linalg.lmo: m must have 2 axes for 'row', got shape (3,)",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSALS, ids=[message[:60] for *_, message in REFUSALS])
def test_refusals(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
    assert (X == 1).all()
