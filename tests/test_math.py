"""The words: of `schuss.math` against exact arithmetic, and the compiled ones against NumPy, seen through rules and stages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray
from support import CLASSES, bits, inputs_for

import schuss
from schuss.math import cbrt, dot, log, newest_share, one_minus_power, power, radial_part, row_dot, row_total, total
from schuss.reference import _added

Array = NDArray[Any]

ISAS = schuss.instruction_sets()
FLOATS = [np.float32, np.float64]

#: Where lanes (16), blocks (128) and chunks (16,384) begin and end.
SIZES = [
    0,
    1,
    2,
    15,
    16,
    17,
    31,
    32,
    33,
    127,
    128,
    129,
    16383,
    16384,
    16385,
    16399,
    16400,
    16401,
    32767,
    32768,
    32769,
    50001,
]

BETAS = [0.0, 1e-300, 0.1, 0.5, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999, 0.999999, 1 - 2.0**-53]
ROOTS = {0.9: [345, 350, 355], 0.99: [3615, 3700, 3724], 0.999: [732, 1213, 1270], 0.9999: [628, 643, 1445]}
COUNTS = [*range(1, 40), 99, 100, 1000, 9999, 10**5, 10**6, 10**7, 123_456_789, 10**9, 2**31, 2**53, 2**62 - 1]


# ---- 1 - beta^t -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", BETAS)
def test_one_minus_power(beta: float) -> None:
    """The double nearest to the exact number, without cancellation, at any count."""
    with mpmath.workprec(300):
        for t in COUNTS:
            assert one_minus_power(beta, t) == float(1 - mpmath.mpf(beta) ** t), t


def test_one_minus_power_at_its_ends() -> None:
    assert one_minus_power(0.0, 1) == 1.0
    assert one_minus_power(0.9, 10**9) == 1.0
    assert one_minus_power(1 - 2.0**-53, 1) == 2.0**-53
    assert all(0 < one_minus_power(beta, t) <= 1 for beta in BETAS for t in COUNTS)


def test_power_and_log() -> None:
    """Without Python's errors at the ends."""
    assert power(2.0, 10.0) == 1024.0
    assert power(0.0, -1.0) == power(1e300, 2.0) == power(math.inf, 0.5) == math.inf
    assert power(0.0, 0.0) == power(math.inf, 0.0) == 1.0
    assert math.isnan(power(math.nan, 2.0))
    assert log(0.0) == -math.inf
    assert log(math.inf) == math.inf
    assert log(math.e) == 1.0


def test_power_and_log_are_the_nearest_doubles(rng: np.random.Generator) -> None:
    """Of all magnitudes, near 1, subnormal, and half-way between two doubles."""
    bases = [
        *np.exp2(rng.uniform(-1074, 1024, 100)),
        *(1 + rng.standard_normal(100) * np.exp2(rng.uniform(-52, -3, 100))),
    ]
    exponents = rng.choice([0.5, 0.55, 0.75, -0.25, -0.8, 2, 3, 1 / 3, 1.0, -2], 200)
    pairs = [*zip(bases, exponents, strict=True), *((t, 3.0) for t in range(10**5, 10**6, 4099)), (0.875, 18.0)]
    with mpmath.workprec(400):
        for x, y in pairs:
            exact = mpmath.mpf(x) ** mpmath.mpf(y)
            if 2**-1022 < exact < mpmath.mpf(2) ** 1024:  # mpmath rounds subnormals twice
                assert power(x, y) == float(exact), (x, y)
            assert log(x) == float(mpmath.log(x)), x
    assert power(2.0, -1074.4) == power(2.0, -1074.0) == 5e-324
    assert power(0.5, 1e300) == power(2.0, -1e300) == 0.0


def test_compiled_power(rng: np.random.Generator) -> None:
    """The word in C++ gives the bits of the one in Python: the rate of ASGD shows it, ``lr / (1 + lambd * lr * t)**alpha``."""
    cases = [
        (lambd, alpha)
        for lambd in [1e-9, 1e-3, 0.75, 1.0, 221520.0, 1e200]
        for alpha in [0.0, 1e-9, 0.75, 1.0, 3.0, 1e3]
    ]
    cases += zip(np.exp2(rng.uniform(-50, 500, 300)), np.exp2(rng.uniform(-10, 10, 300)), strict=True)
    for lambd, alpha in cases:
        opt = schuss.ASGD(np.zeros(1), lr=1.0, lambd=lambd, alpha=alpha)
        opt.step(np.zeros(1))
        expected = power(1.0 + lambd, alpha)
        assert opt.state["eta"] == (1.0 / expected if expected else math.inf), (lambd, alpha)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cbrt(dtype: Any) -> None:
    """Within 6 units in the last place of the exact root, at all magnitudes; exact at zeros, infinities and NaN."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(5)
    exponents = np.arange(info.minexp - info.nmant, info.maxexp)
    x = np.ldexp(rng.uniform(1, 2, (40, exponents.size)), exponents).astype(dtype).ravel()
    x = np.concatenate([x, -x, [info.max, info.smallest_normal, info.smallest_subnormal]]).astype(dtype)
    exact = np.cbrt(x.astype(np.longdouble))
    assert (np.abs(cbrt(x) - exact) <= 6 * np.spacing(np.abs(exact).astype(dtype))).all()
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    same(cbrt(special), special, zeros=False)


@pytest.mark.parametrize("beta", [beta for beta in BETAS if beta < 1])
def test_compiled_one_minus_power(beta: float) -> None:
    """The word in C++ gives the bits of the one in Python: a step of Adam shows it, alone in a division, at any count."""
    params = [np.zeros(1) for _ in COUNTS]
    opt = schuss.Adam(params, lr=1.0, beta1=beta, beta2=0.0, eps=0.0)
    state = opt.state_dict()
    state["counts"] = [t - 1 for t in COUNTS]
    opt.load_state_dict(state)
    opt.step([np.ones(1) for _ in COUNTS])
    for p, t in zip(params, COUNTS, strict=True):
        # m = 1 - beta, v = 1 and 1 - beta2**t = 1: p = 0 - (1 / (1 - beta**t)) * (1 - beta)
        assert p[0] == 0.0 - (1.0 / one_minus_power(beta, t)) * (1 - beta), t


@pytest.mark.parametrize(
    "cls", [cls for cls in CLASSES if "beta2" in cls.hyperparameters], ids=lambda cls: cls.__name__
)
def test_long_runs_keep_the_bits(cls: type[schuss.Optimizer], rng: np.random.Generator) -> None:
    """Corrections after hundreds of steps reach kernel and reference alike, to the last bit of their roots.

    At some of these counts glibc's pow(1 - beta2**t, 0.5) is not the root that sqrt gives.
    """
    for beta2, counts in ROOTS.items():
        params = [rng.standard_normal((1, 99)) for _ in counts]
        opt = cls(params, beta2=beta2)
        state = opt.state_dict()
        state["counts"], state["t"] = counts, counts[0]
        opt.load_state_dict(state)
        report = opt.check(params, **inputs_for(opt, params, rng))
        assert report, str(report)[:300]


# ---- sums -----------------------------------------------------------------------------------------------------------------


def contract(numbers: list[float]) -> float:
    """Return a sum as the arithmetic contract has it, in plain Python: lanes, halves, chunks."""
    result = 0.0
    for first in range(0, len(numbers), 16384):
        lanes = [0.0] * 16
        for i, number in enumerate(numbers[first : first + 16384]):
            lanes[i % 16] += number
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [lanes[i] + lanes[i + half] for i in range(half)]
        result += lanes[0]
    return result


def bound(terms: Array, roundings_before: int = 0) -> float:
    """Return how far a sum may be from the exact one.

    A number passes at most 1,024 additions in its lane, 4 by halves and one per chunk; each adds a relative rounding of
    2^-53 to it.
    """
    additions = min(1024, -(-terms.size // 16)) + 4 + -(-terms.size // 16384) + roundings_before
    return additions * 2.0**-53 * math.fsum(abs(terms.ravel())) * 1.01


def wild(rng: np.random.Generator, size: int, dtype: Any = np.float64) -> Array:
    """Return numbers of many magnitudes and both signs, whose sums cancel."""
    values: Array = (rng.standard_normal(size) * np.exp2(rng.integers(-30, 31, size))).astype(dtype)
    return values


@pytest.mark.parametrize("size", SIZES)
def test_total_and_dot(size: int, rng: np.random.Generator) -> None:
    x, y = wild(rng, size), wild(rng, size)
    assert total(x) == contract(x.tolist())
    assert abs(total(x) - math.fsum(x)) <= bound(x)
    assert abs(dot(x, y) - math.fsum(x * y)) <= bound(x * y, 1)
    assert dot(x, y) == total(x * y)


@pytest.mark.parametrize("size", [16, 17, 50001])
def test_dot_of_float32_has_exact_products(size: int, rng: np.random.Generator) -> None:
    x, y = wild(rng, size, np.float32), wild(rng, size, np.float32)
    products = x.astype(np.float64) * y.astype(np.float64)
    assert dot(x, y) == contract(products.tolist())
    assert abs(dot(x, y) - math.fsum(products)) <= bound(products)
    assert dot(np.full(3, np.float32(3e38)), np.full(3, np.float32(3e38))) < math.inf


@pytest.mark.parametrize("shape", [(3, 1), (4, 15), (4, 16), (5, 17), (2, 3, 100), (2, 16385)])
def test_rows(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """A row's sum is that of the row alone."""
    x, y = (wild(rng, math.prod(shape)).reshape(shape) for _ in range(2))
    assert row_total(x, shape[:1]).tolist() == [total(row) for row in x]
    assert row_dot(x, y, shape[:1]).tolist() == [dot(a, b) for a, b in zip(x, y, strict=True)]
    assert row_total(x, ()).shape == ()
    assert row_total(x, ()) == total(x)
    exact = [math.fsum(row.ravel()) for row in x]
    assert all(abs(a - b) <= bound(row) for a, b, row in zip(row_total(x, shape[:1]), exact, x, strict=True))


def test_sums_do_not_depend_on_the_layout_of_memory(rng: np.random.Generator) -> None:
    """The order is that of the indices, wherever the numbers lie."""
    x, y = wild(rng, 40000).reshape(8, 50, 100), wild(rng, 40000).reshape(8, 50, 100)
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=-1)[..., ::2], np.ascontiguousarray(x[::-1])[::-1]):
        assert total(other) == total(x)
        assert dot(other, y) == dot(x, y)
        assert np.array_equal(row_total(other, (8,)), row_total(x, (8,)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0),
        ([math.inf, 1.0], math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan], math.nan),
        ([1e308, 1e308], math.inf),
    ],
)
def test_sums_that_are_not_finite(values: list[float], expected: float) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        assert total(np.array(values)) == pytest.approx(expected, abs=0, nan_ok=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", FLOATS)
class TestCompiledSums:
    """A rule's sums are `dot` and `total` bit for bit, on every instruction set and for every number of threads."""

    def test_per_tensor(self, dtype: Any, isa: str, rng: np.random.Generator) -> None:
        """NovoGrad's v is the squared norm of the first gradient."""
        schuss.use_isa(isa)
        grads = [wild(rng, size, dtype) for size in SIZES]
        for threads in (1, 2, 3):
            opt = schuss.NovoGrad([np.zeros(size, dtype) for size in SIZES], threads=threads)
            opt.step(grads)
            for v, grad in zip(opt.state["v"], grads, strict=True):
                assert v == contract((grad.astype(np.float64) ** 2).tolist())

    def test_per_row(self, dtype: Any, isa: str, rng: np.random.Generator) -> None:
        """Adam-mini's v without decay is each row's mean square; rows longer than a chunk are cut as tensors are."""
        schuss.use_isa(isa)
        shapes = [(5, size) for size in SIZES if size] + [(2000, 3), (3, 2, 9000)]
        grads = [wild(rng, math.prod(shape), dtype).reshape(shape) for shape in shapes]
        for threads in (1, 3):
            opt = schuss.AdamMini([np.zeros(shape, dtype) for shape in shapes], beta2=0.0, threads=threads)
            opt.step(grads)
            for v, grad in zip(opt.state["v"], grads, strict=True):
                assert np.array_equal(v, row_dot(grad, grad, grad.shape[:1]) / (grad.size // len(grad)))

    def test_over_all_tensors(self, dtype: Any, isa: str, rng: np.random.Generator) -> None:
        """The norm of a clip, and Prodigy's sums, add those of the tensors in the caller's order."""
        schuss.use_isa(isa)
        grads = [wild(rng, size, dtype) for size in SIZES]
        squares = _added(dot(grad, grad) for grad in grads)
        for threads in (1, 2, 3):
            opt = schuss.SGD([np.zeros(size, dtype) for size in SIZES], clip=schuss.ClipNorm(1.0), threads=threads)
            opt.step(grads)
            assert opt.last is not None
            assert opt.last.norm == math.sqrt(squares)

    def test_mixed_precision(self, dtype: Any, isa: str, rng: np.random.Generator) -> None:
        """Tensors that compute in another type stand in the same order."""
        schuss.use_isa(isa)
        mixed = [dtype, np.float64, np.float16, np.float32]
        grads = [rng.standard_normal(20000).astype(each) for each in mixed]
        opt = schuss.SGD([np.zeros(20000, each) for each in mixed], clip=schuss.ClipNorm(1.0))
        opt.step(grads)
        assert opt.last is not None
        squares = _added(contract((grad.astype(np.float64) ** 2).tolist()) for grad in grads)
        assert opt.last.norm == math.sqrt(squares)


@pytest.mark.parametrize("scale", [1e-200, 1e155, 1e200, 1e300])
def test_norms_that_overflow_are_measured_again(scale: float) -> None:
    """Finite doubles whose squares are not have a finite norm, and are clipped by it.

    Squares that underflow are not repeated: 1e-200 counts as nothing, which no clip minds.
    """
    p = np.zeros(3)
    opt = schuss.SGD(p, lr=1.0, clip=schuss.ClipNorm(1.0))
    opt.step(scale * np.array([2.0, -3.0, 6.0]))
    assert opt.last is not None
    if scale < 1:
        assert opt.last.norm == 0
        assert opt.last.clip == 1
    else:
        assert opt.last.norm == pytest.approx(7 * scale, rel=1e-15)
        assert p == pytest.approx([-2 / 7, 3 / 7, -6 / 7], rel=1e-15)


# ---- compiled words -------------------------------------------------------------------------------------------------------


def special(dtype: Any) -> Array:
    """Return numbers that a word may get wrong: zeros, subnormals, the largest, infinities, NaNs of both signs."""
    info = np.finfo(dtype)
    positive = [0.0, info.smallest_subnormal, info.smallest_normal, 0.5, 1.0, 1.5, info.max, np.inf, np.nan]
    return np.array([*positive, *np.negative(positive)], dtype)


def pairs(dtype: Any) -> tuple[Array, Array]:
    a, b = np.meshgrid(special(dtype), special(dtype))
    return a.ravel(), b.ravel()


def same(a: Array, b: Array, *, zeros: bool = True) -> None:
    """Fail unless bits are equal; any NaN equals any other, and where not promised, any zero."""
    assert a.dtype == b.dtype
    if not zeros:
        a, b = a + 0, b + 0  # -0 + 0 is +0
    assert np.array_equal(bits(a), bits(b)), (a, b)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
class TestCompiledWords:
    """Each word equals NumPy's function of that name, also where a vector's tail is done one by one (odd sizes)."""

    def test_sign(self, dtype: Any, isa: str) -> None:
        """`l1=1` adds sign(p) to the gradient, and the first step of SGD keeps that in its buffer."""
        schuss.use_isa(isa)
        for p in (special(dtype), special(dtype)[:-1]):
            opt = schuss.SGD(p.copy(), lr=0.0, momentum=0.5, l1=1.0)
            opt.step(np.zeros_like(p))
            same(opt.state["buffer"], np.sign(p))

    def test_clip(self, dtype: Any, isa: str) -> None:
        """`bounds` projects what the step leaves: here what was there."""
        schuss.use_isa(isa)
        edges = [float(x) for x in special(dtype) if not np.isnan(x)]
        for lower in edges:
            for upper in edges:
                if lower > upper or lower == np.inf or upper == -np.inf:  # which are no bounds
                    continue
                p = special(dtype)
                schuss.SGD(p, lr=0.0, bounds=(lower, upper)).step(np.zeros_like(p))
                same(p, np.clip(special(dtype), dtype(lower), dtype(upper)), zeros=False)

    def test_maximum(self, dtype: Any, isa: str) -> None:
        """AMSGrad keeps the larger of v_max and v; with beta2 = 1/2 and no gradient v is half of what it was."""
        schuss.use_isa(isa)
        a, b = pairs(dtype)
        opt = schuss.AMSGrad(np.zeros_like(a), lr=0.0, beta2=0.5)
        opt.state["v_max"][...], opt.state["v"][...] = a, b
        opt.step(np.zeros_like(a))
        same(opt.state["v_max"], np.maximum(a, dtype(0.5) * b), zeros=False)

    def test_sqrt_and_division(self, dtype: Any, isa: str) -> None:
        """RMSprop's buffer is g / sqrt(v), with v and g of any kind."""
        schuss.use_isa(isa)
        g, v = pairs(dtype)
        opt = schuss.RMSprop(np.zeros_like(g), lr=0.0, alpha=0.5, eps=0.0, momentum=0.5)
        opt.state["v"][...] = v
        opt.step(g)
        with np.errstate(all="ignore"):
            expected = dtype(0.5) * 0 + g / np.sqrt(dtype(0.5) * v + dtype(0.5) * (g * g))
        same(opt.state["buffer"], expected)

    def test_maximum_with_zero(self, dtype: Any, isa: str) -> None:
        """Centered RMSprop takes a variance that rounding made negative for zero: the step is g / eps then, not NaN."""
        schuss.use_isa(isa)
        p = np.zeros(33, dtype)
        opt = schuss.RMSprop(p, lr=1.0, alpha=0.5, eps=0.5, centered=True)
        opt.state["m"][...] = 4.0  # larger than its square's mean: v - m**2 < 0
        opt.step(np.ones(33, dtype))
        assert (p == -2).all()

    def test_abs(self, dtype: Any, isa: str, rng: np.random.Generator) -> None:
        """Prodigy divides by the sum of |s|: with s of both signs the estimate is that of their absolute values."""
        schuss.use_isa(isa)
        p, g = rng.standard_normal(1001).astype(dtype), rng.standard_normal(1001).astype(dtype)
        opt = schuss.Prodigy(p, beta2=0.25, d0=1.0)
        opt.state["p0"][...] += 1
        p0, before = opt.state["p0"].copy(), p.copy()
        opt.step(g)
        numerator = dot(g, p0 - before)
        s = dtype(1.0) * g  # d / d0 * rate, all 1, on s = 0
        assert opt.state["d_numerator"] == numerator
        assert opt.state["d_max"] == max(1.0, numerator / total(np.abs(s)))


# ---- words of several rules -----------------------------------------------------------------------------------------------


def test_newest_share() -> None:
    """Equal rates make a mean; a power of the step favours late iterates; no rate yet, no weight."""

    def shares(steps: Iterable[int], rates: Iterable[float], r: float, exponent: float) -> list[float]:
        found, largest, weights = [], 0.0, 0.0
        for t, rate in zip(steps, rates, strict=True):
            share, largest, weights = newest_share(t, rate, r, exponent, largest, weights)
            found.append(share)
        return found

    assert shares((1, 2, 3, 4), (0.0, 0.5, 0.5, 0.5), 0.0, 2.0) == [0.0, 1.0, 0.5, 1 / 3]
    assert shares((1, 2), (0.5, 0.1), 0.0, 2.0) == [1.0, 0.5], "the largest rate so far counts"
    assert shares((1, 2, 3), (2.0, 2.0, 2.0), 1.0, 0.0) == [1.0, 2 / 3, 3 / 6]


def test_radial_part() -> None:
    """By rows where all of them are orthogonal to their gradients; else as a whole; else, and for vectors, not at all."""
    p = np.array([[1.0, 0.0], [0.0, 2.0]])
    u = np.array([[3.0, 1.0], [1.0, 6.0]])
    part, projected = radial_part(p, np.array([[0.0, 1.0], [1.0, 0.0]]), u, 0.0, 0.1)
    assert projected
    assert np.array_equal(part, [[3.0], [3.0]])
    assert np.array_equal((u - part * p).diagonal(), [0.0, 0.0])
    part, projected = radial_part(p, np.array([[2.0, 0.0], [0.0, -1.0]]), u, 0.0, 0.1)
    assert projected
    assert part == pytest.approx(15 / 5, rel=1e-15)
    assert radial_part(p, p, u, 0.0, 0.1) == (0.0, False)
    assert radial_part(p[0], np.array([0.0, 1.0]), u[0], 0.0, 0.1) == (0.0, False)
    assert radial_part(p[:0], p[:0], u[:0], 0.0, 0.1) == (0.0, False)


# ---- random numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "counter", "drawn"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry(key: tuple[int, int], counter: tuple[int, int], drawn: tuple[int, int]) -> None:
    """The known answers that its authors publish (Random123, kat_vectors)."""
    words = schuss.math._threefry([np.uint32(k) for k in key], [np.uint32(c) for c in counter])
    assert tuple(map(int, words)) == drawn


def test_normals_are_quantiles() -> None:
    """The quantile of the drawn share, to 4 parts in 10^15, tails included."""
    share = np.concatenate(
        [np.ldexp(1.0, -np.arange(2, 54)), np.linspace(0.01, 0.99, 99), 1 - np.ldexp(1.0, -np.arange(2, 54))]
    )
    drawn = schuss.math._quantile(share)
    with mpmath.workdps(40):
        exact = [mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(float(s)) - 1) for s in share]
        errors = [abs(mpmath.mpf(float(d)) - e) / max(abs(e), 1e-3) for d, e in zip(drawn, exact, strict=True)]
    assert max(errors) < 4e-15


def test_normals_are_normal() -> None:
    """Moments and the distribution function of a million, with bounds that chance exceeds once in a million."""
    n = 10**6
    x = schuss.math.normals(3, 5, 2, n)
    for k, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(x**k) - moment) < 5 * math.sqrt(variance / n)
    below = np.array([0.5 * math.erfc(-each / math.sqrt(2)) for each in np.sort(x)[:: n // 1000]])
    assert np.abs(below - np.linspace(0, 1, 1000, endpoint=False)).max() < 2.7 / math.sqrt(n) + 1e-3


def test_normals_are_independent() -> None:
    """Of other seeds, steps, tensors and elements; and a function of nothing else."""
    draws = [schuss.math.normals(*each, 10**5) for each in itertools.product((0, 1, 2**53), (1, 2), (0, 1))]
    draws += [draws[0][1:], draws[0][2:], draws[0][1024:]]
    for a, b in itertools.combinations(draws, 2):
        size = min(len(a), len(b))
        assert abs(np.mean(a[:size] * b[:size])) < 5 / math.sqrt(size)
    assert np.array_equal(draws[0][:10], schuss.math.normals(0, 1, 0, 10))
