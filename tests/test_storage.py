"""Storage: what conversions between float16, bfloat16, float32 and float64 do to numbers, seen through real steps.

Two arrangements make a step an identity, so that only the conversions are left:

* `SGD(lr=1, maximize=True)` on parameters of -0 adds the gradient: the gradient widened to the compute type (float64 beside
  float64 parameters, else float32), then rounded to the parameter's dtype. (-0 + g is g for both zeros.)
* `Momentum(beta=0)` on state of -0 puts the gradient into the state: rounded from the compute type to the state's dtype.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from support import CLASSES, SLOW, bits, by_rows, everything, inputs_for, one_of_each_shape, only_slow

import schuss
from schuss.reference import rounded, widened

BF16 = np.dtype(ml_dtypes.bfloat16)
F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
NARROW = [F16, BF16]
PATTERNS = np.arange(65536, dtype=np.uint16)

Array = NDArray[Any]

#: Rounding to 16 bits overflows where it should, and NumPy warns.
pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning"
)


@pytest.fixture(params=schuss.instruction_sets())
def isa(request: pytest.FixtureRequest) -> None:
    schuss.use_isa(request.param)


on_every_isa = pytest.mark.usefixtures("isa")


def sgd_identity(gradient: Array, dtype: np.dtype[Any]) -> Array:
    """Return a gradient as a parameter of some dtype takes it in."""
    p = np.full(gradient.shape, -0.0).astype(dtype)
    schuss.SGD(p, lr=1.0, maximize=True).step(gradient)
    return p


def state_identity(gradient: Array, compute: np.dtype[Any], dtype: np.dtype[Any]) -> Array:
    """Return a gradient as a state of some dtype takes it in."""
    opt = schuss.Momentum(np.zeros(gradient.shape, compute), lr=0.0, beta=0.0, state_dtype=dtype)
    opt.state["v"][...] = np.full(gradient.shape, -0.0).astype(dtype)
    opt.step(gradient)
    slot: Array = opt.state["v"]
    assert slot.dtype == dtype
    return slot


def same(a: Array, b: Array) -> None:
    """Fail unless the bits are the same (every NaN counts as one)."""
    assert a.dtype == b.dtype
    different = np.flatnonzero(bits(a) != bits(b))
    assert different.size == 0, f"{different.size} differ, first {a[different[:3]]} and {b[different[:3]]}"


def all_of(dtype: np.dtype[Any]) -> Array:
    """Return all 65,536 numbers of a 16-bit dtype."""
    return PATTERNS.view(dtype)


# ---- widening -------------------------------------------------------------------------------------------------------------


@on_every_isa
@pytest.mark.parametrize("compute", [F32, F64], ids=str)
@pytest.mark.parametrize("narrow", NARROW, ids=str)
class TestEveryPatternIsWidened:
    """All 65,536 patterns, as NumPy and ml_dtypes convert them."""

    def test_of_a_gradient(self, narrow: np.dtype[Any], compute: np.dtype[Any]) -> None:
        same(sgd_identity(all_of(narrow), compute), all_of(narrow).astype(compute))

    def test_of_a_strided_gradient(self, narrow: np.dtype[Any], compute: np.dtype[Any]) -> None:
        """Other layouts are gathered element by element, which is other code."""
        same(sgd_identity(all_of(narrow)[::-1], compute), all_of(narrow)[::-1].astype(compute))

    def test_of_state(self, narrow: np.dtype[Any], compute: np.dtype[Any]) -> None:
        p = np.full(65536, -0.0, compute)
        opt = schuss.Momentum(p, lr=2.0, beta=0.5, state_dtype=narrow)
        opt.state["v"][...] = all_of(narrow)
        opt.step(np.zeros(65536, compute))
        expected = all_of(narrow).astype(compute)  # halves and doubles are exact: subnormals of both are normal here
        same(p, -0.0 - 2 * (0.5 * expected + 0.0))


@pytest.mark.parametrize("compute", [F32, F64], ids=str)
@pytest.mark.parametrize("narrow", NARROW, ids=str)
def test_the_reference_widens(narrow: np.dtype[Any], compute: np.dtype[Any]) -> None:
    same(widened(all_of(narrow), compute), all_of(narrow).astype(compute))


@on_every_isa
@pytest.mark.parametrize("narrow", NARROW, ids=str)
def test_a_parameter_returns_as_it_came(narrow: np.dtype[Any]) -> None:
    """Widened, stepped by nothing and rounded back, every pattern is what it was; a NaN is a NaN."""
    p = all_of(narrow).copy()
    schuss.SGD(p, lr=0.0).step(np.zeros(65536, np.float32))
    same(p, all_of(narrow))


@on_every_isa
def test_declared_bfloat16() -> None:
    """uint16 arrays declared as bfloat16 hold the same bits as arrays of ml_dtypes."""
    rng = np.random.default_rng(1)
    start, grad = (rng.standard_normal(1000).astype(BF16) for _ in range(2))
    declared = start.view(np.uint16).copy()
    opt = schuss.Adam(declared, dtype="bfloat16", state_dtype="bfloat16")
    twin = schuss.Adam(start, state_dtype="bfloat16")
    for _ in range(3):
        opt.step(grad.view(np.uint16))
        twin.step(grad)
    for a, b in zip(everything(opt), everything(twin), strict=True):
        assert a.tobytes() == b.tobytes()


# ---- rounding -------------------------------------------------------------------------------------------------------------


@functools.cache
def float32_sample() -> Array:
    """Return float32 numbers that a rounding may get wrong, and five million others.

    Every exponent and sign, with mantissas at and beside 0, all ones, every single bit and every tie of a mantissa
    shortened by 1 to 23 bits: subnormals, overflow thresholds, infinities and NaNs are among them.
    """
    steps = {0}
    for bit in range(24):
        steps |= {1 << bit, (1 << 23) - (1 << bit), 3 << bit, 5 << bit}
    mantissas = sorted({(step + beside) % (1 << 23) for step in steps for beside in (-1, 0, 1)})
    exponents = np.arange(256, dtype=np.uint32) << np.uint32(23)
    edges = (exponents[:, None] | np.array(mantissas, np.uint32)).ravel()
    patterns = np.random.default_rng(5).integers(0, 1 << 32, 5_000_000, np.uint32)
    return np.concatenate([edges, edges | np.uint32(1 << 31), patterns]).view(np.float32)


@functools.cache
def expected(narrow: np.dtype[Any]) -> Array:
    """Return the sample as NumPy and ml_dtypes round it."""
    return float32_sample().astype(narrow)


@functools.cache
def float64_sample() -> Array:
    """Return float64 numbers around every tie that rounding to 16 bits knows, and where rounding twice goes wrong.

    A double just above a tie of the short type is rounded up; a conversion by way of float32 first rounds it to the tie
    itself, and then to even.
    """
    rng = np.random.default_rng(6)
    values = []
    for dtype in NARROW:
        numbers = all_of(dtype)[:0x8000].astype(np.float64)
        numbers = numbers[np.isfinite(numbers)]
        ties = np.concatenate([(numbers[:-1] + numbers[1:]) / 2, [numbers[-1] + (numbers[-1] - numbers[-2]) / 2]])
        for of_tie in (0.0, 2.0**-52, 2.0**-40, 2.0**-30, 2.0**-24, 2.0**-20):
            values += [ties * (1 + of_tie), ties * (1 - of_tie)]
        values.append(numbers)
    tiny = np.array([0.0, 5e-324, 1e-310, 2.0**-149, 2.0**-150, 2.0**-134, 2.0**-25, 2.0**-26])
    huge = np.array([1e308, np.inf, 3.4028235e38, 3.4028236e38, 3.5e38, 65504.0, 65519.99, 65520.0, np.nan])
    values += [tiny, huge, np.exp2(rng.uniform(-150, 130, 50_000)) * rng.uniform(1, 2, 50_000)]
    positive = np.concatenate(values)
    return np.concatenate([positive, -positive])


def rounded_exactly(x: float, bits_of_mantissa: int, least_exponent: int, greatest_exponent: int) -> float:
    """Round a double to nearest even in rational arithmetic, to a format without double rounding."""
    if not math.isfinite(x) or x == 0:
        return x
    exponent = max(math.frexp(x)[1] - 1, least_exponent)
    unit = Fraction(2) ** (exponent - bits_of_mantissa)
    nearest = round(Fraction(abs(x)) / unit) * unit  # Python rounds a Fraction's half to even
    size = math.inf if nearest >= Fraction(2) ** (greatest_exponent + 1) else float(nearest)
    return math.copysign(size, x)


def some_doubles() -> Array:
    """Return a part of the sample, since rational arithmetic is slow: every 53rd number, and all beside ties near 1."""
    sample = float64_sample()
    return np.unique(np.concatenate([sample[::53], sample[(abs(sample) >= 1) & (abs(sample) < 1.1)]]))


@functools.cache
def rounded_doubles(narrow: np.dtype[Any]) -> Array:
    shape = (10, -14, 15) if narrow == F16 else (7, -126, 127)
    return np.array([rounded_exactly(float(x), *shape) for x in some_doubles()])


@on_every_isa
@pytest.mark.parametrize("narrow", NARROW, ids=str)
class TestRounding:
    """To nearest even, once, from either compute type."""

    def test_float32_to_parameter(self, narrow: np.dtype[Any]) -> None:
        same(sgd_identity(float32_sample(), narrow), expected(narrow))

    def test_float32_to_state(self, narrow: np.dtype[Any]) -> None:
        same(state_identity(float32_sample()[:2_000_000], F32, narrow), expected(narrow)[:2_000_000])

    def test_float64_to_state(self, narrow: np.dtype[Any]) -> None:
        """NumPy rounds double to float16 once; for bfloat16, where ml_dtypes rounds twice, see the rational oracle."""
        got = state_identity(float64_sample(), F64, narrow)
        same(got, rounded(float64_sample(), narrow))
        if narrow == F16:
            same(got, float64_sample().astype(np.float16))

    def test_float64_to_state_in_rational_arithmetic(self, narrow: np.dtype[Any]) -> None:
        same(state_identity(some_doubles(), F64, narrow).astype(np.float64), rounded_doubles(narrow))


@only_slow
@on_every_isa
@pytest.mark.parametrize("narrow", NARROW, ids=str)
def test_every_float32_is_rounded(narrow: np.dtype[Any]) -> None:
    """All 2^32 of them; the sample above is what the short run has."""
    block = 1 << 24
    for first in range(0, 1 << 32, block):
        numbers = np.arange(first, first + block, dtype=np.uint32).view(np.float32)
        found, wanted = sgd_identity(numbers, narrow), numbers.astype(narrow)
        differ = np.flatnonzero(found.view(np.uint16) != wanted.view(np.uint16))  # NaNs of other bits among them
        same(found[differ], wanted[differ])


@pytest.mark.parametrize("narrow", NARROW, ids=str)
def test_the_reference_rounds(narrow: np.dtype[Any]) -> None:
    same(rounded(float32_sample(), narrow), expected(narrow))
    same(rounded(some_doubles(), narrow).astype(np.float64), rounded_doubles(narrow))
    # Rounding twice, by way of float32, is wrong on this sample: the test can fail.
    twice = rounded(float64_sample().astype(np.float32), narrow)
    assert (bits(rounded(float64_sample(), narrow)) != bits(twice)).sum() > 1000


@on_every_isa
@pytest.mark.parametrize("storage", [F16, BF16, F32, F64], ids=str)
@pytest.mark.parametrize("parameter", [F16, BF16, F32, F64], ids=str)
def test_every_pair_of_dtypes(parameter: np.dtype[Any], storage: np.dtype[Any]) -> None:
    """A gradient reaches a parameter through the compute type; a double gradient of a float32 step is rounded to float32."""
    gradient = float64_sample()
    if storage != F64:
        gradient = gradient.astype(np.float32).astype(storage)
    through = gradient.astype(F64 if parameter == F64 else F32)
    same(sgd_identity(gradient, parameter), through.astype(parameter))


# ---- layouts --------------------------------------------------------------------------------------------------------------


def odd_address(a: Array) -> Array:
    """Return a copy whose elements straddle every alignment."""
    moved: Array = np.ndarray(a.shape, a.dtype, np.zeros(a.nbytes + 1, np.uint8).data, 1)
    moved[...] = a
    return moved


def every_second(a: Array) -> Array:
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def part_of_larger(a: Array) -> Array:
    """Return a copy inside a larger array: rows with gaps between them."""
    larger = np.zeros([n + 3 for n in a.shape], a.dtype)
    inside = larger[tuple(slice(1, 1 + n) for n in a.shape)]
    inside[...] = a
    return inside


def permuted(a: Array) -> Array:
    """Return a copy whose memory order is no order of C or Fortran."""
    axes = (1, 2, 0)
    back: Array = np.ascontiguousarray(a.transpose(axes)).transpose(np.argsort(axes))
    return back


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "fortran": np.asfortranarray,
    "reversed": lambda a: np.ascontiguousarray(a[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
    "every second": every_second,
    "part of larger": part_of_larger,
    "permuted": permuted,
    "odd address": odd_address,
    "odd address in fortran": lambda a: odd_address(a.T).T,
    "read-only": lambda a: np.frombuffer(a.tobytes(), np.uint8).view(a.dtype).reshape(a.shape),
}


@on_every_isa
@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_gradients(layout: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """A gradient's (and an input's) strides, order and alignment do not change a bit, and it is not written to."""
    shape = (7, 33, 19)
    for order in ("C", "F"):
        for cls in CLASSES if SLOW else one_of_each_shape(CLASSES):
            if order == "F" and by_rows(cls):
                continue  # its rows must lie side by side
            start = rng.standard_normal(shape).astype(np.float32)
            plain, odd = (cls(np.array(start, order=order), threads=2) for _ in range(2))
            for _ in range(2):
                grad = rng.standard_normal(shape).astype(dtype)
                further = inputs_for(plain, grad, rng)
                moved = LAYOUTS[layout](grad)
                plain.step(grad, **further)
                odd.step(moved, **{k: each if k in odd.given else LAYOUTS[layout](each) for k, each in further.items()})
                assert np.array_equal(moved, grad)
            for a, b in zip(everything(plain), everything(odd), strict=True):
                assert np.array_equal(a, b), cls


@on_every_isa
@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)
def test_broadcast_gradients(dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """Strides of zero: one row, or one number, for all."""
    for grad in (rng.standard_normal(300).astype(dtype), np.array(0.7).astype(dtype)):
        spread = np.broadcast_to(grad, (50, 300))
        a, b = schuss.Adam(np.ones((50, 300))), schuss.Adam(np.ones((50, 300)))
        a.step(spread)
        b.step(np.ascontiguousarray(spread))
        assert all(np.array_equal(x, y) for x, y in zip(everything(a), everything(b), strict=True))
