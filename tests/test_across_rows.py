"""Rules that step a row by what all rows of its tensor come to: each outcome, in every layout, on any number of threads."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import witnesses
from numpy.typing import NDArray
from support import VARIANTS, Variant, inputs_for
from test_witnesses import numbers

import schuss
from schuss.reference import Reference, compare, rounded, widened

PROJECTED = [variant for variant in VARIANTS if "wd_ratio" in variant.cls.hyperparameters]
BF16 = np.dtype(ml_dtypes.bfloat16)
#: Few and many rows in a chunk, rows that end with it, rows of several chunks, tensors of one thread and of all.
SHAPES = [
    (2, 3, 4), (1, 50), (50, 1), (20_000, 3), (900, 37), (17, 2_000), (5, 16_384), (3, 40_000), (2, 16_385), (70, 1_000),
    (40_000,), (7,), (), (0, 3), (3, 0),
]  # fmt: skip
OUTCOMES = ("rows", "tensor", "neither")


def gradient(p: NDArray[Any], outcome: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a gradient that is orthogonal to the weights in every row, as a whole and in no row, or in neither way."""
    g = rng.standard_normal(p.shape)
    if p.ndim < 2 or p.size == 0 or outcome == "neither":
        return g + (p if p.ndim > 1 else 0)
    weights = widened(p, np.float64).reshape((len(p), -1) if outcome == "rows" else (1, -1))
    g = g.reshape(weights.shape)
    squares = (weights * weights).sum(axis=1, keepdims=True)
    g = g - weights * (g * weights).sum(axis=1, keepdims=True) / squares
    if outcome == "tensor" and len(p) > 1:  # along the first rows, against the last, so much that nothing is left of it
        half = len(p) // 2
        lengths = (widened(p, np.float64).reshape(len(p), -1) ** 2).sum(axis=1)
        signs = np.repeat([1 / lengths[:half].sum(), -1 / lengths[half:].sum()], [half, len(p) - half])
        along = (widened(p, np.float64).reshape(len(p), -1) * signs[:, None]).reshape(weights.shape)
        g = g + along * np.sqrt(p.size / (along * along).sum())
    return g.reshape(p.shape)


@pytest.mark.parametrize("storage", [np.float32, np.float64, np.float16, BF16], ids=lambda each: np.dtype(each).name)
@pytest.mark.parametrize("variant", PROJECTED, ids=str)
def test_every_outcome_on_any_number_of_threads(variant: Variant, storage: Any, rng: np.random.Generator) -> None:
    start = [rounded(np.asarray(rng.standard_normal(shape)), np.dtype(storage)) for shape in SHAPES]
    options: dict[str, Any] = {"weight_decay": 0.1, "delta": 0.2}
    twin = Reference(variant.make([p.copy() for p in start], **options))
    opts = [variant.make([p.copy() for p in start], threads=threads, **options) for threads in (1, 2, 3, 8)]
    for outcome in OUTCOMES:
        grads = [gradient(p, outcome, rng) for p in twin.params]
        grads = [rounded(g, p.dtype) for g, p in zip(grads, start, strict=True)]
        for i, each in enumerate((*opts, twin)):
            each.step([g if i % 2 else np.asarray(g, order="F") for g in grads])
        for opt in opts:
            report = compare(opt, twin)
            assert report, f"{outcome}, {opt.threads} threads: {report}"


@pytest.mark.parametrize("isa", schuss.instruction_sets())
@pytest.mark.parametrize("variant", PROJECTED, ids=str)
def test_what_is_left_of_the_step(variant: Variant, isa: str, rng: np.random.Generator) -> None:
    """Nothing along the weights, in each row or as a whole, and the ratio of the decay; all of it where not projected."""
    schuss.use_isa(isa)
    for shape in SHAPES:
        if len(shape) < 2 or min(shape) < 2:
            continue
        for outcome in OUTCOMES:
            p = rng.standard_normal(shape)
            old, g = p.copy(), gradient(p, outcome, rng)
            opt = variant.make(p, lr=0.5, weight_decay=0.4, wd_ratio=0.25, eps=1e-15)
            opt.step(g)
            decay = 0.4 * 0.5 / (1 - getattr(opt, "momentum", 0.0))
            moved = p - (1 - decay * (1 if outcome == "neither" else 0.25)) * old
            along = (moved * old).reshape(len(p), -1).sum(axis=1) / (old * old).reshape(len(p), -1).sum(axis=1)
            assert np.all(np.abs(along) < 1e-11) == (outcome == "rows"), (shape, outcome)
            whole = (moved * old).sum() / (old * old).sum()
            assert (abs(whole) < 1e-11) == (outcome != "neither"), (shape, outcome)


@pytest.mark.parametrize("variant", PROJECTED, ids=str)
def test_nothing_is_projected_by_a_nan(variant: Variant, rng: np.random.Generator) -> None:
    """A row without a cosine is not orthogonal, so that no row of its tensor is projected."""
    p = rng.standard_normal((6, 50))
    g = gradient(p, "rows", rng)
    g[3, 7] = np.nan
    opt, plain = (variant.make(p.copy(), lr=0.1, weight_decay=0.4, **more) for more in ({}, {"delta": 0.0}))
    opt.step(g)
    plain.step(g)
    assert compare(opt, Reference(plain))
    assert np.isfinite(np.delete(opt.params, 7, axis=1)).all()


@pytest.mark.parametrize("variant", PROJECTED, ids=str)
def test_a_vector_is_not_projected(variant: Variant, rng: np.random.Generator) -> None:
    """But a matrix of one row is, as is a matrix of complex numbers with its pairs."""
    for dtype in (np.float64, np.complex128):
        p = rng.standard_normal(40).astype(dtype)
        g = (gradient(p[None].view(np.float64), "rows", rng)).view(dtype)[0]
        options = {"lr": 0.1, "weight_decay": 0.4}
        vector, matrix = variant.make(p.copy(), **options), variant.make(p[None].copy(), **options)
        plain = variant.make(p.copy(), delta=0.0, **options)
        for opt in (vector, matrix, plain):
            assert opt.check(g if opt is not matrix else g[None])
            opt.step(g if opt is not matrix else g[None])
        assert compare(vector, Reference(plain))
        assert not np.allclose(vector.params, matrix.params[0])


@pytest.mark.parametrize("rule", sorted({variant.cls.rule for variant in PROJECTED}))
def test_every_outcome_meets_a_witness(rule: str, rng: np.random.Generator) -> None:
    """The loose cases of the witnesses project their tensors in every way, if not always."""
    module = witnesses.found()[rule]
    cls = next(variant.cls for variant in PROJECTED if variant.cls.rule == rule)
    opt = cls(numbers(rng)[2:4], **module.LOOSE)
    seen = set()
    for _ in range(witnesses.STEPS):
        grads = numbers(rng)[2:4]
        for p, g in zip(opt.params, grads, strict=True):
            for name, shape in (("rows", (len(p), -1)), ("tensor", (1, -1))):
                a, b = p.reshape(shape), g.reshape(shape)
                cosines = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
                if np.all(np.abs(cosines) < opt.delta / np.sqrt(a.shape[1])):
                    seen.add(name)
                    break
            else:
                seen.add("neither")
        opt.step(grads, **inputs_for(opt, grads, rng))
    assert seen == set(OUTCOMES)
