"""Aggregation of several gradients: to the bit as its formulas, near independent implementations, and robust."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import CLASSES, bits, inputs_for

import schuss
from schuss import aggregation, trees

Array = NDArray[Any]

ISAS = schuss.instruction_sets()
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.complex64, np.complex128]
RULES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (aggregation.mean, {}),
    (aggregation.mean, {"weights": [3, 0, 1.5, 2, 0.1]}),
    (aggregation.median, {}),
    (aggregation.trimmed_mean, {"f": 0}),
    (aggregation.trimmed_mean, {"f": 2}),
    (aggregation.geometric_median, {}),
    (aggregation.geometric_median, {"weights": [3, 0, 1.5, 2, 0.1], "iterations": 3, "smoothing": 2.0}),
    (aggregation.krum, {"f": 1}),
    (aggregation.krum, {"f": 0, "m": 3}),
    (aggregation.sign_vote, {}),
    (aggregation.sign_vote, {"weights": [3, 0, 1.5, 2, 0.1]}),
]
EACH = pytest.mark.parametrize(
    ("rule", "arguments"), RULES, ids=[f"{rule.__name__}-{'-'.join(arguments)}" for rule, arguments in RULES]
)
#: Arguments that go with any number of gradients, from the least.
ANY_COUNT: list[tuple[Callable[..., Any], int, Callable[[int], dict[str, Any]]]] = [
    (aggregation.mean, 1, lambda k: {}),
    (aggregation.median, 1, lambda k: {}),
    (aggregation.trimmed_mean, 1, lambda k: {"f": (k - 1) // 3}),
    (aggregation.geometric_median, 1, lambda k: {"iterations": 5}),
    (aggregation.krum, 3, lambda k: {"f": (k - 3) // 2, "m": (k + 1) // 2}),
    (aggregation.sign_vote, 1, lambda k: {}),
]


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return normal numbers with some zeros of both signs and ties among them."""
    values = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else 0)
    values = np.where(rng.random(shape) < 0.2, np.round(values), values)
    return np.asarray(values * rng.choice([-1, 1], shape)).astype(dtype)


def gradients_of(rng: np.random.Generator, k: int, dtype: Any, size: int = 40_003) -> list[Any]:
    """Return k gradients of one nesting, with chunks of all sorts."""
    return [
        {
            "w": numbers(rng, (3, 5), dtype),
            "b": [numbers(rng, (), dtype), numbers(rng, (0, 2), dtype), None],
            "large": (numbers(rng, (size,), dtype),),
        }
        for _ in range(k)
    ]


def assert_same(ours: Any, theirs: Any) -> None:
    pairs = list(zip(trees.leaves(ours), trees.leaves(theirs), strict=True))
    assert trees.structure(ours) == trees.structure(theirs)
    for (path, a), (_, b) in pairs:
        if a is None or b is None:
            assert a is b, path
            continue
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        assert np.array_equal(bits(a), bits(b)), path


# ---- to the bit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@EACH
def test_equals_its_formula(
    rule: Callable[..., Any], arguments: dict[str, Any], dtype: Any, rng: np.random.Generator
) -> None:
    """On every instruction set and for any number of threads."""
    gradients = gradients_of(rng, 5, dtype)
    expected = aggregation.reference(rule, gradients, **arguments)
    for isa in ISAS:
        schuss.use_isa(isa)
        for threads in (1, 2, 3):
            assert_same(rule(gradients, **arguments, threads=threads), expected)


@pytest.mark.parametrize("k", [*range(1, 18), 31, 33, 64, 100, 256])
def test_any_number_of_gradients(k: int, rng: np.random.Generator) -> None:
    gradients = [[numbers(rng, (517,), np.float32), numbers(rng, (65,), np.float64)] for _ in range(k)]
    for rule, least, arguments in ANY_COUNT:
        if k >= least and not (rule is aggregation.krum and k > 100):  # NumPy's pairs take long
            expected = aggregation.reference(rule, gradients, **arguments(k))
            for isa in ISAS:
                schuss.use_isa(isa)
                assert_same(rule(gradients, **arguments(k)), expected)


def test_many_pairs(rng: np.random.Generator) -> None:
    """The distances of more pairs than there is room for at a time."""
    points = rng.standard_normal((500, 3))
    squares = np.sort(((points[:, None] - points) ** 2).sum(axis=2), axis=1)  # the first is a point's own
    best = np.argsort(squares[:, 1:399].sum(axis=1))[:9]
    for threads in (1, 3):
        ours = aggregation.krum(list(points), 100, m=9, threads=threads)
        np.testing.assert_allclose(ours, points[best].mean(axis=0), rtol=1e-12)


@EACH
def test_not_finite(rule: Callable[..., Any], arguments: dict[str, Any], rng: np.random.Generator) -> None:
    """NaN and infinities, in one gradient, two, and all of them."""
    for count in (1, 2, 5):
        gradients = [[rng.standard_normal(300).astype(np.float32), rng.standard_normal(70)] for _ in range(5)]
        for gradient in gradients[:count]:
            for array in gradient:
                array[rng.random(array.shape) < 0.2] = np.nan
                array[rng.random(array.shape) < 0.2] = np.inf
                array[rng.random(array.shape) < 0.2] = -np.inf
        expected = aggregation.reference(rule, gradients, **arguments)
        for isa in ISAS:
            schuss.use_isa(isa)
            assert_same(rule(gradients, **arguments), expected)


def test_what_is_not_finite_does() -> None:
    """As the docstrings say."""
    nan, inf = np.nan, np.inf
    values = [
        np.array(row) for row in zip([nan, 1.0, 2.0], [inf, 1.0, -inf], [nan, nan, 2.0], [nan, 1.0, 1.0], strict=True)
    ]
    assert np.array_equal(aggregation.mean(values), [nan, nan, nan, nan], equal_nan=True)
    assert np.array_equal(aggregation.median(values), [2.0, 1.0, inf, 1.0])
    assert np.array_equal(aggregation.trimmed_mean(values, 1), [2.0, 1.0, inf, 1.0])
    assert np.array_equal(aggregation.sign_vote(values), [1.0, 1.0, 1.0, 1.0])
    finite = [np.array([1.0, 2.0]), np.array([1.0, 2.5]), np.array([1.5, 2.0])]
    for wrong in (nan, inf, -inf):
        with_one = [*finite, np.array([wrong, 0.0])]
        assert_same(aggregation.geometric_median(with_one), aggregation.geometric_median(finite))
        assert np.array_equal(aggregation.krum([*finite, *finite, with_one[-1]], 1, m=6), np.mean(finite, axis=0))
        assert np.array_equal(aggregation.mean(with_one, weights=[1, 1, 1, 0]), np.mean(finite, axis=0))
    assert np.isnan(aggregation.geometric_median([np.array([nan])] * 3)).all()


# ---- independent implementations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5, 8, 33])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_numpy_has_it(k: int, dtype: Any, rng: np.random.Generator) -> None:
    gradients = [rng.standard_normal((40, 50)).astype(dtype) for _ in range(k)]
    assert np.array_equal(aggregation.median(gradients), np.median(gradients, axis=0))
    assert np.array_equal(aggregation.sign_vote(gradients), np.sign(np.sign(gradients).sum(axis=0)))
    one_rounding = np.mean(gradients, axis=0, dtype=np.float64).astype(dtype)
    assert np.array_equal(aggregation.mean(gradients), one_rounding)
    weights = rng.random(k)
    expected = np.average(np.asarray(gradients, np.float64), axis=0, weights=weights).astype(dtype)
    np.testing.assert_allclose(
        aggregation.mean(gradients, weights=weights), expected, rtol=1e-6 if dtype == np.float32 else 1e-12
    )


@pytest.mark.peers
@pytest.mark.parametrize("k", [1, 2, 5, 8, 33])
def test_trimmed_mean_as_scipy_has_it(k: int, rng: np.random.Generator) -> None:
    stats = pytest.importorskip("scipy.stats")
    gradients = [rng.standard_normal((40, 50)) for _ in range(k)]
    for f in range((k + 1) // 2):
        expected = stats.trim_mean(np.stack(gradients), (f + 0.5) / k, axis=0)
        np.testing.assert_allclose(aggregation.trimmed_mean(gradients, f), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dimension", [1, 2, 50])
def test_geometric_median_is_where_the_unit_vectors_cancel(dimension: int, rng: np.random.Generator) -> None:
    """The condition that characterises it, and no point beside it is better."""
    for k in (3, 4, 7, 30):
        gradients = rng.standard_normal((k, dimension))
        weights = rng.uniform(0.5, 1.5, k)
        z = aggregation.geometric_median(
            list(gradients), weights=weights, iterations=20_000, tolerance=1e-12, smoothing=1e-12
        )
        length = np.linalg.norm(gradients - z, axis=1)
        at = length < 1e-7
        pull = ((weights / np.maximum(length, 1e-300))[~at, None] * (gradients - z)[~at]).sum(axis=0)
        assert np.linalg.norm(pull) <= weights[at].sum() + 1e-6

        def sum_of_distances(v: Array, gradients: Array = gradients, weights: Array = weights) -> float:
            return float((weights * np.linalg.norm(gradients - v, axis=1)).sum())

        for _ in range(20):
            assert sum_of_distances(z) <= sum_of_distances(z + 1e-3 * rng.standard_normal(dimension)) + 1e-9


def weiszfeld(points: Array, weights: Array, nu: float, rounds: int) -> Array:
    """Pillutla et al., Algorithm 2, from 0."""
    v = np.zeros(points.shape[1])
    for _ in range(rounds):
        beta = weights / np.maximum(nu, np.linalg.norm(v - points, axis=1))
        v = beta @ points / beta.sum()
    return v


def test_geometric_median_by_rounds(rng: np.random.Generator) -> None:
    """After any number of rounds, over all tensors together."""
    for rounds in (1, 2, 3, 10, 60):
        gradients = [{"a": rng.standard_normal((4, 6)), "b": rng.standard_normal(9)} for _ in range(6)]
        points = np.stack([np.concatenate([g["a"].ravel(), g["b"]]) for g in gradients])
        weights = rng.uniform(0.5, 2.0, 6)
        ours = aggregation.geometric_median(
            gradients, weights=list(weights), iterations=rounds, tolerance=0.0, smoothing=0.5
        )
        expected = weiszfeld(points, weights, 0.5, rounds)
        np.testing.assert_allclose(np.concatenate([ours["a"].ravel(), ours["b"]]), expected, rtol=1e-11, atol=1e-13)


def krum_by_hand(points: list[Array], f: int, m: int) -> Array:
    """Blanchard et al., section 4: scores over the k - f - 2 nearest, then the mean of the m best."""
    k, scores = len(points), []
    for i in range(k):
        squares = sorted(float(((points[i] - points[j]) ** 2).sum()) for j in range(k) if j != i)
        scores.append(math.fsum(squares[: k - f - 2]))
    best = sorted(range(k), key=lambda i: scores[i])[:m]
    return np.mean([points[i] for i in best], axis=0)


def test_krum_by_hand(rng: np.random.Generator) -> None:
    for k in (3, 5, 8, 13):
        gradients = [[rng.standard_normal((4, 6)), rng.standard_normal(9)] for _ in range(k)]
        points = [np.concatenate([a.ravel() for a in g]) for g in gradients]
        for f in range((k - 1) // 2):
            for m in (1, 2, k - f, k):
                ours = np.concatenate([a.ravel() for a in aggregation.krum(gradients, f, m=m)])
                np.testing.assert_allclose(ours, krum_by_hand(points, f, m), rtol=1e-12, atol=1e-13)


# ---- robust ---------------------------------------------------------------------------------------------------------------

ATTACKS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "huge": lambda honest, rng: np.full_like(honest, 1e30),
    "reversed": lambda honest, rng: -10 * honest,
    "zero": lambda honest, rng: np.zeros_like(honest),
    "noise": lambda honest, rng: 100 * rng.standard_normal(honest.shape),
    "nan": lambda honest, rng: np.full_like(honest, np.nan),
    "infinite": lambda honest, rng: np.full_like(honest, -np.inf),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_outliers(attack: str, rng: np.random.Generator) -> None:
    """With 4 of 11 wrong the robust ones stay as near to the true gradient as one honest gradient, and the mean does not."""
    k, f, size = 11, 4, 1000
    truth = 1 + rng.random(size)
    gradients = [truth + 0.1 * rng.standard_normal(size) for _ in range(k)]
    apart = max(float(np.linalg.norm(g - truth)) for g in gradients)
    for i in range(f):
        gradients[2 * i] = ATTACKS[attack](truth, rng)

    def distance(v: Array) -> float:
        return float(np.linalg.norm(v - truth))

    assert distance(aggregation.median(gradients)) < apart
    assert distance(aggregation.trimmed_mean(gradients, f)) < apart
    assert distance(aggregation.geometric_median(gradients)) < apart
    assert distance(aggregation.krum(gradients, f)) <= apart
    assert distance(aggregation.krum(gradients, f, m=k - f)) < apart
    assert np.array_equal(aggregation.sign_vote(gradients), np.ones(size))
    assert not distance(aggregation.mean(gradients)) < 2 * apart


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_into_any_optimizer(cls: type[schuss.Optimizer], rng: np.random.Generator) -> None:
    """What comes out goes into a step, the same whether it was written into a buffer or not."""
    params = [{"w": np.ones((3, 4), np.float32), "b": np.ones(3)} for _ in range(2)]
    first, second = (cls(p) for p in params)
    out = {"w": np.empty((3, 4), np.float32), "b": np.empty(3)}
    for _ in range(10):  # some rules wait a few steps before they move
        workers = [{"w": rng.standard_normal((3, 4)).astype(np.float32), "b": rng.standard_normal(3)} for _ in range(5)]
        grads = aggregation.median(workers)
        further = inputs_for(first, grads, rng)
        first.step(grads, **further)
        assert aggregation.median(workers, out=out) is out
        second.step(out, **further)
    assert_same(params[0], params[1])
    assert not np.array_equal(params[0]["b"], np.ones(3))


# ---- memory and layouts ---------------------------------------------------------------------------------------------------


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[list[Array], Any]:
    """Arrays of one shape and dtype, each with strides of its own."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    arrays = []
    for _ in range(draw(st.integers(1, 6))):
        values = numbers(rng, shape, dtype)
        kind = draw(st.sampled_from(["C", "F", "reversed", "spread", "misaligned", "broadcast"]))
        if kind == "F":
            values = np.array(values, order="F")
        elif kind == "reversed" and shape:
            values = np.ascontiguousarray(values[::-1])[::-1]
        elif kind == "spread" and shape:
            wide = np.zeros((*shape[:-1], 3 * shape[-1]), dtype)
            wide[..., ::3] = values
            values = wide[..., ::3]
        elif kind == "misaligned":
            room = np.zeros(values.nbytes + 1, np.uint8)
            moved = np.ndarray(shape, dtype, room, 1)
            moved[...] = values
            values = moved
        elif kind == "broadcast" and shape and shape[0]:
            values = np.broadcast_to(values[:1], shape)
        arrays.append(values)
    return arrays, draw(st.sampled_from("CF"))


@given(laid_out())
@settings(max_examples=150, deadline=None)
def test_layouts(case: tuple[list[Array], Any]) -> None:
    """Any strides are read; what comes out is that of contiguous copies, into arrays of either order."""
    arrays, order = case
    copies = [np.array(a, order=order, copy=True) for a in arrays]
    for rule, least, arguments in ANY_COUNT:
        if len(arrays) >= least:
            expected = aggregation.reference(rule, copies, **arguments(len(arrays)))
            out = np.empty(arrays[0].shape, arrays[0].dtype, order=order)
            assert_same(rule(arrays, **arguments(len(arrays)), out=out), expected)


@EACH
def test_out_may_be_a_gradient(rule: Callable[..., Any], arguments: dict[str, Any], rng: np.random.Generator) -> None:
    gradients = gradients_of(rng, 5, np.float32)
    expected = rule(gradients, **arguments)
    assert rule(gradients, **arguments, out=gradients[3]) is gradients[3]
    assert_same(gradients[3], expected)


def test_order_of_keys_and_named_tuples() -> None:
    one = {"a": np.zeros(2), "b": np.ones(3)}
    other = {"b": np.full(3, 3.0), "a": np.full(2, 4.0)}
    found = aggregation.mean([one, other], out={"b": np.empty(3), "a": np.empty(2)})
    assert found["a"].tolist() == [2.0, 2.0]
    assert found["b"].tolist() == [2.0, 2.0, 2.0]
    assert aggregation.mean([np.float64(1), np.float64(2)]) == 1.5, "NumPy scalars, as arithmetic makes them"
    assert aggregation.median([{}, {}]) == {}


def test_threads_of_python() -> None:
    """Calls from several threads at a time, which release the GIL, do not disturb one another."""
    rng = np.random.default_rng(5)
    gradients = [rng.standard_normal(200_000) for _ in range(4)]
    expected, found = aggregation.median(gradients), [np.empty(0)] * 4

    def work(i: int) -> None:
        found[i] = aggregation.median(gradients, threads=2)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(each, expected) for each in found)


# ---- refusals -------------------------------------------------------------------------------------------------------------

SHARED = np.zeros(8)
TWO = [np.zeros(3), np.zeros(3)]
FIVE = [np.zeros(3)] * 5
REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: aggregation.mean(np.zeros((2, 3))),  # type: ignore[arg-type]
        TypeError,
        "aggregation.mean: gradients must be a list of gradients, got ndarray; pass one tree for each",
    ),
    (lambda: aggregation.mean([]), ValueError, "aggregation.mean: gradients must be at least one, got none"),
    (
        lambda: aggregation.median([{"a": np.zeros(3)}, {"b": np.zeros(3)}]),
        ValueError,
        "aggregation.median: gradients[1] has another nesting than gradients[0]; pass trees of one nesting",
    ),
    (
        lambda: aggregation.median([{"a": np.zeros(3)}, {"a": None}]),
        ValueError,
        "aggregation.median: gradients[1]['a'] is None, but gradients[0]['a'] is not; pass None in all or none",
    ),
    (
        lambda: aggregation.median([{"a": np.zeros(3)}, {"a": np.zeros(4)}]),
        ValueError,
        "aggregation.median: gradients[1]['a'] has shape (4,), but gradients[0]['a'] has (3,); pass arrays of one "
        "shape and dtype",
    ),
    (
        lambda: aggregation.median([np.zeros(3), np.zeros(3, np.float32)]),
        ValueError,
        "aggregation.median: gradients[1] has dtype float32, but gradients[0] has float64; pass arrays of one shape "
        "and dtype",
    ),
    (
        lambda: aggregation.median([np.zeros(3, np.uint16)]),
        TypeError,
        "aggregation.median: gradients[0] has dtype uint16; pass the bits of bfloat16 as .view(ml_dtypes.bfloat16)",
    ),
    (
        lambda: aggregation.median([[1.0]]),
        TypeError,
        "aggregation.median: gradients[0][0] is a float, not a NumPy array; pass numpy.asarray of it",
    ),
    (
        lambda: aggregation.median(TWO, out=np.zeros(6)[::2]),
        BufferError,
        "aggregation.median: out is a strided view (shape (3,), strides (16,)) and cannot be updated in place; pass a "
        "contiguous array",
    ),
    (
        lambda: aggregation.median(TWO, out=np.zeros(3, np.float32)),
        ValueError,
        "aggregation.median: out has dtype float32, but gradients[0] has float64; pass arrays of one shape and dtype",
    ),
    (
        lambda: aggregation.median([SHARED[:4], SHARED[4:]], out=SHARED[2:6]),
        ValueError,
        "aggregation.median: out shares memory with gradients[0]; pass an array that does not overlap, or is that very one",
    ),
    (
        lambda: aggregation.median([[a, a] for a in TWO], out=[SHARED[:3], SHARED[2:5]]),
        ValueError,
        "aggregation.median: out[0] and out[1] share memory; pass arrays that do not overlap",
    ),
    (
        lambda: aggregation.mean(TWO, weights=[1]),
        ValueError,
        "aggregation.mean: weights must be 2 numbers, one for each gradient, got [1]",
    ),
    (
        lambda: aggregation.mean(TWO, weights=[1, -1]),
        ValueError,
        "aggregation.mean: weights[1] must be in [0, inf), got -1",
    ),
    (
        lambda: aggregation.sign_vote(TWO, weights=[0, 0]),
        ValueError,
        "aggregation.sign_vote: weights must have a sum in (0, inf), got 0",
    ),
    (
        lambda: aggregation.trimmed_mean(FIVE, 3),
        ValueError,
        "aggregation.trimmed_mean: f must be in {0, ..., 2} (2 f < k = 5), got 3",
    ),
    (
        lambda: aggregation.trimmed_mean(FIVE, 1.0),  # type: ignore[arg-type]
        TypeError,
        "aggregation.trimmed_mean: f must be a whole number, got 1.0",
    ),
    (
        lambda: aggregation.krum(TWO, 0),
        ValueError,
        "aggregation.krum: gradients must be at least 3, got 2; take the mean or the median",
    ),
    (
        lambda: aggregation.krum(FIVE, 2),
        ValueError,
        "aggregation.krum: f must be in {0, ..., 1} (2 f + 2 < k = 5), got 2",
    ),
    (lambda: aggregation.krum(FIVE, 1, m=6), ValueError, "aggregation.krum: m must be in {1, ..., 5}, got 6"),
    (
        lambda: aggregation.geometric_median(TWO, iterations=0),
        ValueError,
        "aggregation.geometric_median: iterations must be in {1, ...}, got 0",
    ),
    (
        lambda: aggregation.geometric_median(TWO, smoothing=0.0),
        ValueError,
        "aggregation.geometric_median: smoothing must be in (0, inf), got 0",
    ),
    (
        lambda: aggregation.geometric_median(TWO, tolerance=math.nan),
        ValueError,
        "aggregation.geometric_median: tolerance must be in [0, inf), got nan",
    ),
    (
        lambda: aggregation.median(TWO, threads=0),
        ValueError,
        "aggregation.median: threads must be from 1 to 4096, got 0",
    ),
]


@pytest.mark.parametrize(("call", "error", "sentence"), REFUSALS, ids=[each[2] for each in REFUSALS])
def test_refusals(call: Callable[[], Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert (type(caught.value), str(caught.value)) == (error, sentence)
    assert not SHARED.any()


def test_only_its_own_functions_have_a_reference() -> None:
    for rule in ("median", np.median, aggregation.reference):
        with pytest.raises(
            TypeError, match=r"^aggregation\.reference: rule must be a function of schuss\.aggregation such as"
        ):
            aggregation.reference(rule, [np.ones(2)])  # type: ignore[arg-type]
