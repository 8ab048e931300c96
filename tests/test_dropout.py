"""Dropout: to the bit as its formula, linear, at random with the right rate, and repeatable."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import bits

import schuss
from schuss.math import random_words

Array = NDArray[Any]

ISAS = schuss.instruction_sets()
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.complex64, np.complex128]
RATES = [0.0, 2.0**-33, 0.1, 0.5, 0.9, 1 - 2.0**-32, 1 - 2.0**-53]


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    values = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else 0)
    return np.asarray(values).astype(dtype)


def assert_same(a: Array, b: Array) -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert np.array_equal(bits(a), bits(b))


# ---- to the bit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in cast:RuntimeWarning")
def test_equals_its_formula(rate: float, dtype: Any, rng: np.random.Generator) -> None:
    """On every instruction set, for any number of threads, at the ends of blocks and chunks, forward and backward."""
    for shape in ((), (0,), (1,), (2,), (3, 7), (257,), (511,), (513,), (16385,), (7, 9001)):
        x = numbers(rng, shape, dtype)
        if x.size > 100:
            x[..., ::50], x[..., 1::50], x[..., 2::50] = np.nan, np.inf, -np.inf
        mask = schuss.DropoutMask(int(rng.integers(2**64, dtype=np.uint64)), rate, shape)
        expected = mask.reference(x)
        for isa in ISAS:
            schuss.use_isa(isa)
            for threads in (1, 2, 3):
                assert_same(mask.apply(x, threads=threads), expected)
                assert_same(mask.backward(x, threads=threads), expected)


def test_the_formula() -> None:
    """Words of a key decide, in the order of the elements; what stays is scaled, what goes is 0."""
    x = np.arange(1.0, 1000.0)
    mask = schuss.DropoutMask(key=2**64 - 5, rate=0.3, shape=x.shape)
    kept = random_words(2**64 - 5, x.size) / 2.0**32 >= 0.3
    assert np.array_equal(mask.kept, kept)
    assert np.array_equal(mask.apply(x), np.where(kept, x * (1 / 0.7), 0.0))


def test_random_words() -> None:
    """A prefix of one another, by counters, as Threefry's known answer has it."""
    words = random_words(0, 1001)
    assert words[:2].tolist() == [0x6B200159, 0x99BA4EFE]
    assert words.dtype == np.uint32
    assert np.array_equal(words[:7], random_words(0, 7))
    assert random_words(0, 0).shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_what_is_dropped_is_zero(dtype: Any) -> None:
    for value in (np.nan, np.inf, -np.inf, -1.0):
        x = np.full(1000, value, dtype)
        y, mask = schuss.dropout(x, 0.5, 3)
        assert np.array_equal(y[~mask.kept], np.zeros((~mask.kept).sum(), dtype))
        assert not np.signbit(y[~mask.kept].real.astype(np.float64)).any()
        assert (y[mask.kept] != 0).all()


def test_rate_zero_is_the_identity(rng: np.random.Generator) -> None:
    x = rng.standard_normal(1001)
    y, mask = schuss.dropout(x, 0.0, rng)
    assert y is not x
    assert np.array_equal(x, y)
    assert mask.kept.all()


# ---- at random ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_rate_and_mean(rate: float) -> None:
    """With bounds that chance exceeds once in a million."""
    n = 10**6
    y, mask = schuss.dropout(np.ones(n), rate, np.random.default_rng(11))
    dropped = 1 - np.mean(mask.kept)
    assert np.mean(y == 0) == pytest.approx(dropped, abs=1e-12)
    assert abs(dropped - rate) < 5 * math.sqrt(rate * (1 - rate) / n)
    assert abs(np.mean(y) - 1) < 5 * math.sqrt(rate / (1 - rate) / n)


def test_independence() -> None:
    """Of other calls, neighbours, places a block or a chunk apart, and of the keys' order."""
    n, rng = 10**5, np.random.default_rng(12)
    masks = [schuss.dropout(np.zeros(n, np.float32), 0.5, rng)[1] for _ in range(4)]
    masks += [schuss.DropoutMask(key, 0.5, (n,)) for key in (0, 1, 2, 2**32, 2**63)]
    signs = [np.where(mask.kept, 1.0, -1.0) for mask in masks]
    signs += [signs[0][shift:] for shift in (1, 2, 3, 256, 512, 16384)]
    for a, b in itertools.combinations(signs, 2):
        size = min(len(a), len(b))
        assert abs(np.mean(a[:size] * b[:size])) < 5 / math.sqrt(size)


def test_rng() -> None:
    """A Generator goes on, a seed starts anew, None is fresh every time."""
    x = np.ones(1000)
    rng = np.random.default_rng(5)
    first, second = schuss.dropout(x, 0.5, rng)[1], schuss.dropout(x, 0.5, rng)[1]
    again = np.random.default_rng(5)
    assert [first, second] == [schuss.dropout(x, 0.5, again)[1] for _ in range(2)]
    assert first != second
    assert schuss.dropout(x, 0.5, 5)[1] == schuss.dropout(x, 0.5, 5)[1] == first
    assert schuss.dropout(x, 0.5)[1] != schuss.dropout(x, 0.5)[1]


# ---- backward -------------------------------------------------------------------------------------------------------------


def test_backward_is_the_gradient(rng: np.random.Generator) -> None:
    """Of a loss of the output, by central differences under the same random state."""
    x, target = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))

    def forward(x: Array) -> tuple[float, Array, schuss.DropoutMask]:
        y, mask = schuss.dropout(x, 0.4, 99)
        return float(0.5 * ((np.tanh(y) - target) ** 2).sum()), y, mask

    _, y, mask = forward(x)
    slope = (np.tanh(y) - target) * (1 - np.tanh(y) ** 2)
    numeric = np.empty_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-6
        numeric[i] = (forward(x + step)[0] - forward(x - step)[0]) / 2e-6
    np.testing.assert_allclose(mask.backward(slope), numeric, atol=1e-8)


def test_the_mask_travels(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 5))
    y, mask = schuss.dropout(x, 0.5, rng)
    other = pickle.loads(pickle.dumps(mask))
    assert other == mask
    assert np.array_equal(other.apply(x), y)
    assert np.array_equal(other.apply(x.astype(np.float32)) != 0, mask.kept), "the same in every dtype"


# ---- memory and layouts ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 40), max_size=3).map(tuple),
    st.sampled_from(DTYPES),
    st.sampled_from(["C", "F", "reversed", "spread", "misaligned"]),
    st.sampled_from(RATES[:5]),
    st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_layouts(shape: tuple[int, ...], dtype: Any, kind: str, rate: float, seed: int) -> None:
    """The mask belongs to the places of an array, whatever its strides."""
    values = x = numbers(np.random.default_rng(seed), shape, dtype)
    if kind == "F":
        x = np.array(values, order="F")
    elif kind == "reversed" and shape:
        x = np.ascontiguousarray(values[::-1])[::-1]
    elif kind == "spread" and shape:
        wide = np.zeros((*shape[:-1], 2 * shape[-1]), dtype)
        wide[..., ::2] = values
        x = wide[..., ::2]
    elif kind == "misaligned":
        x = np.ndarray(shape, dtype, np.zeros(values.nbytes + 1, np.uint8), 1)
        x[...] = values
    y, mask = schuss.dropout(x, rate, seed)
    assert_same(y, mask.reference(values))
    assert y.flags.c_contiguous
    assert_same(x, values)


def test_in_place(rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 40)).astype(np.float32)
    expected, mask = schuss.dropout(x, 0.5, 1)
    out = np.empty_like(x)
    assert schuss.dropout(x, 0.5, 1, out=out)[0] is out
    assert np.array_equal(out, expected)
    assert schuss.dropout(x, 0.5, 1, out=x)[0] is x
    assert np.array_equal(x, expected)
    grad = rng.standard_normal((30, 40)).astype(np.float32)
    wanted = mask.backward(grad)
    assert mask.backward(grad, out=grad) is grad
    assert np.array_equal(grad, wanted)


# ---- refusals -------------------------------------------------------------------------------------------------------------

ROOM = np.zeros(8)
MASK = schuss.DropoutMask(1, 0.5, (3,))
REFUSALS: list[tuple[Callable[[np.random.Generator], Any], type[Exception], str]] = [
    (lambda rng: schuss.dropout(np.zeros(3), 1.0, rng), ValueError, "dropout: rate must be in [0, 1), got 1"),
    (lambda rng: schuss.dropout(np.zeros(3), -0.1, rng), ValueError, "dropout: rate must be in [0, 1), got -0.1"),
    (
        lambda rng: schuss.dropout(np.zeros(3), "0.5", rng),  # type: ignore[arg-type]
        TypeError,
        "dropout: rate must be a real number, got '0.5'",
    ),
    (
        lambda rng: schuss.dropout([0.0], 0.5, rng),  # type: ignore[arg-type]
        TypeError,
        "dropout: x is a list, not a NumPy array; pass numpy.asarray of it",
    ),
    (
        lambda rng: schuss.dropout(np.zeros(3, int), 0.5, rng),
        TypeError,
        "dropout: x has dtype int64, which cannot be used; pass float64, float32, float16, bfloat16, complex128 or "
        "complex64",
    ),
    (
        lambda rng: schuss.dropout(np.zeros(3), 0.5, "seed"),  # type: ignore[arg-type]
        TypeError,
        "dropout: rng must be a numpy.random.Generator, a seed or None, got 'seed'",
    ),
    (
        lambda rng: schuss.dropout(np.zeros((2, 3)), 0.5, rng, out=np.zeros((3, 2)).T),
        BufferError,
        "dropout: out is in Fortran order, but masks are drawn in C order; pass a C-contiguous array",
    ),
    (
        lambda rng: schuss.dropout(ROOM[:4], 0.5, rng, out=ROOM[1:5]),
        ValueError,
        "dropout: out shares memory with x; pass an array that does not overlap, or is that very one",
    ),
    (
        lambda rng: schuss.dropout(ROOM[3::-1], 0.5, rng, out=ROOM[:4]),
        ValueError,
        "dropout: out shares memory with x; pass an array that does not overlap, or is that very one",
    ),
    (
        lambda rng: schuss.dropout(np.zeros(3), 0.5, rng, out=np.zeros(3, np.float32)),
        ValueError,
        "dropout: out has dtype float32, but x has float64; pass arrays of one shape and dtype",
    ),
    (
        lambda rng: schuss.dropout(np.zeros(3), 0.5, rng, threads=0),
        ValueError,
        "dropout: threads must be from 1 to 4096, got 0",
    ),
    (
        lambda rng: MASK.backward(np.zeros((1, 3))),
        ValueError,
        "DropoutMask.backward: grad has shape (1, 3), but the mask has shape (3,)",
    ),
    (
        lambda rng: schuss.DropoutMask(-1, 0.5, (3,)),
        ValueError,
        "DropoutMask: key must be a whole number in [0, 2**64), got -1",
    ),
    (
        lambda rng: schuss.DropoutMask(1, 2.0, (3,)),
        ValueError,
        "DropoutMask: rate must be in [0, 1), got 2",
    ),
]


@pytest.mark.parametrize(("call", "error", "sentence"), REFUSALS, ids=[each[2] for each in REFUSALS])
def test_refusals(call: Callable[[Any], Any], error: type[Exception], sentence: str, rng: np.random.Generator) -> None:
    """In one sentence; neither the arrays nor the generator are touched."""
    before = rng.bit_generator.state
    with pytest.raises(error) as caught:
        call(rng)
    assert (type(caught.value), str(caught.value)) == (error, sentence)
    assert rng.bit_generator.state == before
    assert not ROOM.any()
