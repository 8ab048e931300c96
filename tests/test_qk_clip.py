"""QK-clip beside the attention logits themselves, in the head layouts there are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import schuss

Array = NDArray[Any]


def logits(x: Array, query: Array, key: Array) -> Array:
    """Return the largest logit of each query head, weights as (heads, d, inputs), key heads shared by groups."""
    q = np.einsum("hdi,ti->htd", query, x)
    k = np.repeat(np.einsum("hdi,ti->htd", key, x), len(query) // len(key), axis=0)
    return np.asarray((q @ k.mT).max(axis=(1, 2)))


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("key_heads", [6, 3, 2, 1])
def test_logits_come_down_to_the_threshold(key_heads: int, balance: float, rng: np.random.Generator) -> None:
    """Each to it where heads have keys of their own; in a group the largest does, and the others by the same factor."""
    heads, d, inputs = 6, 4, 10
    x = rng.standard_normal((20, inputs))
    query = rng.standard_normal((heads * d, inputs)) * np.repeat(rng.uniform(0.2, 3, heads), d)[:, None]
    key = rng.standard_normal((key_heads * d, inputs))
    before = logits(x, query.reshape(heads, d, inputs), key.reshape(key_heads, d, inputs))
    threshold = float(np.median(before))
    factors = schuss.qk_clip(query, key, before, threshold=threshold, balance=balance)
    after = logits(x, query.reshape(heads, d, inputs), key.reshape(key_heads, d, inputs))
    np.testing.assert_allclose(after, factors * before, rtol=1e-12)
    grouped = before.reshape(key_heads, -1)
    np.testing.assert_allclose(
        after.reshape(key_heads, -1).max(axis=1), np.minimum(grouped.max(axis=1), threshold), rtol=1e-12
    )
    expected = np.minimum(1, threshold / grouped.max(axis=1))
    np.testing.assert_allclose(factors, np.repeat(expected, heads // key_heads), rtol=1e-15)


def test_latent_attention(rng: np.random.Generator) -> None:
    """Rows that meet the shared rotary key take the whole factor, so that both terms of a logit do."""
    heads, d, rotary, inputs = 3, 5, 2, 8
    query = rng.standard_normal((heads, d + rotary, inputs))
    key_and_value = rng.standard_normal((heads, d + 4, inputs))
    key, value = key_and_value[:, :d], key_and_value[:, d:].copy()
    shared = rng.standard_normal((rotary, inputs))
    x = rng.standard_normal((12, inputs))

    def largest() -> Array:
        whole = np.concatenate([key, np.broadcast_to(shared, (heads, *shared.shape))], axis=1)
        return logits(x, query, whole)

    before, first = largest(), query.copy()
    threshold = float(np.sort(before)[1])
    factors = schuss.qk_clip(query, key, before, threshold=threshold, rotary=rotary)
    np.testing.assert_allclose(largest(), np.minimum(before, threshold), rtol=1e-12)
    assert (factors < 1).sum() == 1
    np.testing.assert_allclose(query[:, d:], first[:, d:] * factors[:, None, None], rtol=1e-15)
    np.testing.assert_allclose(query[:, :d], first[:, :d] * np.sqrt(factors)[:, None, None], rtol=1e-15)
    assert np.array_equal(key_and_value[:, d:], value)
    flat = first.reshape(heads * (d + rotary), inputs)
    schuss.qk_clip(flat, rng.standard_normal((heads * d, inputs)), before, threshold=threshold, rotary=rotary)
    np.testing.assert_array_equal(flat.reshape(query.shape), query)


@given(
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 5),
    st.sampled_from(["C", "F", "spread", "bias"]),
    st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_layouts(dtype: Any, heads: int, d: int, inputs: int, kind: str, seed: int) -> None:
    """In place in any strides, rounded once; heads within the threshold keep their bits."""
    rng = np.random.default_rng(seed)
    weights = []
    for _ in range(2):
        w = rng.standard_normal((heads * d, inputs)).astype(dtype)
        if kind == "F":
            w = np.asfortranarray(w)
        elif kind == "spread":
            w = np.repeat(np.repeat(w, 2, axis=0), 3, axis=1)[::2, ::3]
        elif kind == "bias":
            w = rng.standard_normal(heads * d).astype(dtype)
        weights.append(w)
    largest = rng.uniform(-50, 300, heads)
    before = [w.copy() for w in weights]
    factors = schuss.qk_clip(weights[0], weights[1], largest, balance=0.25)
    for w, old, power in zip(weights, before, (0.25, 0.75), strict=True):
        scales = np.repeat([dtype(float(f) ** power) for f in factors], d).astype(dtype)
        np.testing.assert_array_equal(w, old * (scales if kind == "bias" else scales[:, None]))
    np.testing.assert_allclose(factors, [min(1.0, 100 / max(s, 1e-9)) for s in largest], rtol=1e-15)


def test_one_number_for_all_heads() -> None:
    query, key = np.ones((4, 3)), np.ones((2, 3))
    assert schuss.qk_clip(query, key, 400.0, heads=4).tolist() == [0.25] * 4
    assert (query == 0.5).all()
    assert (key == 0.5).all()


def test_nothing_to_do(rng: np.random.Generator) -> None:
    query, key = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    before = query.tobytes() + key.tobytes()
    assert schuss.qk_clip(query, key, [100.0, -300.0]).tolist() == [1.0, 1.0]
    assert query.tobytes() + key.tobytes() == before


QUERY, KEY = np.ones((4, 3)), np.ones((4, 3))
READ_ONLY = np.ones((4, 3))
READ_ONLY.flags.writeable = False
HIGH = [400.0, 400.0]
REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: schuss.qk_clip(QUERY.tolist(), KEY, HIGH),  # type: ignore[arg-type]
        TypeError,
        "qk_clip: query is a list, not a NumPy array; pass numpy.asarray of it",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY.astype(int), HIGH),
        TypeError,
        "qk_clip: key must be of float16, float32 or float64, got int64",
    ),
    (
        lambda: schuss.qk_clip(QUERY, READ_ONLY, HIGH),
        ValueError,
        "qk_clip: key is read-only; pass an array that can be written",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY[None, None], HIGH),
        ValueError,
        "qk_clip: key must have shape (heads * d, inputs), (heads * d,) or (heads, d, inputs), got (1, 1, 4, 3)",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY, [400.0] * 3),
        ValueError,
        "qk_clip: query has shape (4, 3), which is not 3 heads of as many rows",
    ),
    (
        lambda: schuss.qk_clip(QUERY.reshape(2, 2, 3), KEY, [400.0] * 4),
        ValueError,
        "qk_clip: query has shape (2, 2, 3), which is not 4 heads of as many rows",
    ),
    (
        lambda: schuss.qk_clip(QUERY, np.ones((6, 3)), HIGH),
        ValueError,
        "qk_clip: key has shape (6, 3), which is not heads of 2 rows in a number that divides 2; pass the rows of the keys "
        "alone",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY.reshape(1, 4, 3), HIGH),
        ValueError,
        "qk_clip: key has shape (1, 4, 3), which is not heads of 2 rows in a number that divides 2; pass the rows of the keys "
        "alone",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY, HIGH, rotary=2),
        ValueError,
        "qk_clip: rotary must be less than 2, the rows of a query head, got 2",
    ),
    (
        lambda: schuss.qk_clip(QUERY, QUERY, HIGH),
        ValueError,
        "qk_clip: query and key share memory; pass arrays that do not overlap",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY, [400.0, math.nan]),
        ValueError,
        "qk_clip: max_logits must be finite, got nan; skip this step's clip",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY, 400.0),
        ValueError,
        "qk_clip: max_logits must be one number for each head, or one with heads=, got shape ()",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY, HIGH, heads=4),
        ValueError,
        "qk_clip: max_logits must be 4 numbers, one for each head, got shape (2,)",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY, "high"),  # type: ignore[arg-type]
        TypeError,
        "qk_clip: max_logits must be a number or one for each head, got 'high'",
    ),
    (
        lambda: schuss.qk_clip(QUERY, KEY, HIGH, threshold=0),
        ValueError,
        "qk_clip: threshold must be in (0, inf), got 0",
    ),
    (lambda: schuss.qk_clip(QUERY, KEY, HIGH, balance=1.5), ValueError, "qk_clip: balance must be in [0, 1], got 1.5"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSALS, ids=[message[:60] for *_, message in REFUSALS])
def test_refusals(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """And the weights are as they were."""
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
    assert (QUERY == 1).all()
    assert (KEY == 1).all()
