"""Every kernel equals its reference bit for bit: rules x dtypes x instruction sets x threads x sizes x gradients."""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CLASSES, PASS_VARIANTS, PASSES, SLOW, VARIANTS, Variant, by_rows, inputs_for

import schuss
from schuss.reference import Reference, compare

SIZES = (0, 1, 7, 1000, 16384, 16385, 40003)
GRADIENTS = ("ordinary", "zero", "negative zero", "subnormal", "huge", "inf", "nan")
BF16 = np.dtype(ml_dtypes.bfloat16)
#: parameter, gradient, state (None: the compute type)
STORAGE = {
    "float32": (np.float32, np.float32, None),
    "float64": (np.float64, np.float64, None),
    "float16": (np.float16, np.float16, np.float16),
    "bfloat16": (BF16, BF16, BF16),
    "bfloat16 with float32 state": (BF16, BF16, None),
    "float32 with bfloat16 gradients": (np.float32, BF16, None),
}


def gradient(kind: str, size: int, dtype: Any, rng: np.random.Generator) -> np.ndarray:
    info = ml_dtypes.finfo(dtype)
    values = rng.standard_normal(size)
    if kind == "zero":
        values = np.zeros(size)
    elif kind == "negative zero":
        values = np.full(size, -0.0)
    elif kind == "subnormal":
        values = rng.integers(-9, 10, size) * float(info.smallest_subnormal)
    elif kind == "huge":
        values = values * 1e30
    elif kind in ("inf", "nan"):
        values[size // 2 :: 5] = np.inf if kind == "inf" else np.nan
        values[size // 3 :: 7] *= -1
    with np.errstate(over="ignore"):
        return values.astype(dtype)


@cache
def numbers(storage: str, kinds: tuple[str, ...]) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Parameters, and the gradients of three steps; the first are ordinary, so that the others meet state that is not 0."""
    rng = np.random.default_rng(len(storage))
    p_dtype, g_dtype, _ = STORAGE[storage]
    start = [rng.standard_normal(size).astype(p_dtype) for _ in kinds for size in SIZES]
    ordinary = [gradient("ordinary", size, g_dtype, rng) for _ in kinds for size in SIZES]
    return start, [ordinary] + [
        [gradient(kind, size, g_dtype, rng) for kind in kinds for size in SIZES] for _ in range(2)
    ]


def families(variant: Variant) -> list[tuple[str, ...]]:
    """Gradients that may share an optimizer; where sums run over all tensors, a NaN would hide all other results."""
    return [(kind,) for kind in GRADIENTS] if variant.cls.kind == "global" else [GRADIENTS]


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("variant", [*VARIANTS, *PASS_VARIANTS], ids=str)
def test_kernel_equals_reference(variant: Variant, storage: str, rng: np.random.Generator) -> None:
    s_dtype = STORAGE[storage][2]
    for kinds in families(variant):
        start, steps = numbers(storage, kinds)
        further = [inputs_for(variant.make([np.zeros(1)]), grads, rng) for grads in steps]
        twin = Reference(variant.make([p.copy() for p in start], state_dtype=s_dtype))
        for grads, more in zip(steps, further, strict=True):
            twin.step(grads, **more)
        for isa in schuss.instruction_sets():
            schuss.use_isa(isa)
            for threads in (1, 2, 3) if SLOW else (1, 3):
                opt = variant.make([p.copy() for p in start], state_dtype=s_dtype, threads=threads)
                for grads, more in zip(steps, further, strict=True):
                    opt.step(grads, **more)
                report = compare(opt, twin)
                assert report, f"{isa}, {threads} threads: {report}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "cls", [cls for cls in [*CLASSES, *PASSES] if cls.kind != "elementwise"], ids=lambda cls: cls.__name__
)
def test_units_of_one_thread_and_of_all(cls: type[schuss.Optimizer], dtype: Any, rng: np.random.Generator) -> None:
    """Units that one thread steps at once, and large ones that threads share sweep by sweep, with and without a norm."""
    shapes = [(7,), (50_000,), (3, 40_000), (5, 20_000), (900, 37), (0,), (2, 3), (40_000, 1), (32_769,)]
    shapes += [(17, 3_000), (4, 16_384)]  # the last chunk has fewer rows than the others; a row is a chunk
    if not cls.exact:  # cubes of these would be products of matrices
        shapes = [(7,), (50_000,), (300, 40), (40, 300), (90, 37), (0,), (2, 3), (400, 1), (6, 5, 4)]
    start = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    steps = [[rng.standard_normal(shape).astype(dtype) for shape in shapes] for _ in range(3)]
    further = [inputs_for(cls([np.zeros(1)]), grads, rng) for grads in steps]
    for options in ({}, {"clip": schuss.ClipNorm(1.0)}):
        twin = Reference(cls([p.copy() for p in start], **options))
        for grads, more in zip(steps, further, strict=True):
            twin.step(grads, **more)
        for threads in (1, 2, 3, 8) if SLOW else (1, 3):
            opt = cls([p.copy() for p in start], threads=threads, **options)
            for grads, more in zip(steps, further, strict=True):
                opt.step(grads, **more)
            report = compare(opt, twin)
            assert report, f"{threads} threads: {report}"


@pytest.mark.parametrize("cls", [*CLASSES, *PASSES], ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_shape_layout_and_dtype(cls: type[schuss.Optimizer], data: st.DataObject) -> None:
    """Trees of random shapes, orders, dtypes, strides and missing gradients, with every option around the rule."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dtypes = [np.float32, np.float64, np.float16, BF16, np.complex64, np.complex128]

    def number(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        values = rng.standard_normal(shape)
        return (values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)

    def strided(array: np.ndarray) -> np.ndarray:
        """The same numbers in another layout."""
        how = data.draw(st.sampled_from(["same", "fortran", "reversed", "every second", "odd address"]))
        if how == "fortran":
            return np.array(array, order="F")
        if how == "reversed":
            return np.ascontiguousarray(array[..., ::-1])[..., ::-1] if array.ndim else array
        if how == "every second" and array.ndim:
            wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
            wide[..., ::2] = array
            return wide[..., ::2]
        if how == "odd address":
            raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
            moved = np.ndarray(array.shape, array.dtype, raw)
            moved[...] = array
            return moved
        return array

    params, grads = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
        if data.draw(st.booleans()):
            shape = (*shape, data.draw(st.sampled_from([63, 129, 1000])))
        dtype = data.draw(st.sampled_from(dtypes))
        order = data.draw(st.sampled_from("CF")) if not by_rows(cls) else "C"
        params.append(np.array(number(shape, dtype), order=order))
        same_kind = [d for d in dtypes if (np.dtype(d).kind == "c") == (np.dtype(dtype).kind == "c")]
        g_dtype = data.draw(st.sampled_from(same_kind))
        grads.append(None if data.draw(st.booleans()) and len(params) > 1 else strided(number(shape, g_dtype)))
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "l2": st.just(0.1),
                "l1": st.just(0.01),
                "maximize": st.just(True),
                "clip": st.just(schuss.ClipNorm(0.5)),
                "bounds": st.just((-0.5, 0.75)),
                "state_dtype": st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
                "threads": st.just(2),
            },
        )
    )
    if any(np.dtype(p.dtype).kind == "c" for p in params):
        options.pop("state_dtype", None)
    opt = cls(params, **options)
    before = [None if g is None else g.copy() for g in grads]
    further = inputs_for(opt, grads, rng)
    addresses = [p.__array_interface__["data"][0] for p in params]
    twin = Reference(opt)
    for _ in range(2):
        opt.step(grads, **further)
        twin.step(grads, **further)
    assert compare(opt, twin), str(compare(opt, twin))
    assert [p.__array_interface__["data"][0] for p in opt.params] == addresses
    for grad, copy in zip(grads, before, strict=True):
        assert grad is None or np.array_equal(grad, copy), "a step must not write gradients"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_tail_and_offset(dtype: Any, rng: np.random.Generator) -> None:
    """Sizes around every vector width, at every offset within a cache line: nothing beside the parameter is touched."""
    for isa in schuss.instruction_sets():
        schuss.use_isa(isa)
        for offset in range(16):
            params, guards = [], []
            for size in range(258 if offset == 0 else 68):
                room = np.full(size + offset + 16, 7.0, dtype)
                view = room[offset : offset + size]
                view[...] = rng.standard_normal(size)
                params.append(view)
                guards.append(room)
            grads = [rng.standard_normal(p.size).astype(dtype) for p in params]
            opt = schuss.AdamW(params)
            twin = Reference(opt)
            opt.step(grads)
            twin.step(grads)
            assert compare(opt, twin)
            for room, view in zip(guards, params, strict=True):
                assert (room[:offset] == 7).all()
                assert (room[offset + view.size :] == 7).all()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_scheduled_and_grouped(cls: type[schuss.Optimizer], rng: np.random.Generator) -> None:
    """Schedules and groups reach kernel and reference alike, and tensors keep their own step counts."""
    override = {} if cls.kind == "global" else {"lr": schuss.schedules.cosine(0.1, steps=8, warmup=2)}
    if "weight_decay" in cls.hyperparameters:
        override["weight_decay"] = 0.25
    a, b = rng.standard_normal((5, 3)), rng.standard_normal(40).astype(np.float32)
    opt = cls([schuss.Group({"a": a}), schuss.Group([b], **override)], l2=lambda step: 0.1 * step)
    twin = Reference(opt)
    for step in range(6):
        grads = [{"a": rng.standard_normal((5, 3))}, [None if step in (0, 3) else rng.standard_normal(40)]]
        further = inputs_for(opt, grads, rng)
        opt.step(grads, **further)
        twin.step(grads, **further)
    assert opt.counts == [{"a": 6}, [4]]
    assert opt.t == 6
    assert compare(opt, twin), str(compare(opt, twin))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_rule_that_parts_is_found(cls: type[schuss.Optimizer], rng: np.random.Generator) -> None:
    """The comparison itself can fail: a reference with another step size is told apart, and `check` says where."""
    opt = cls(rng.standard_normal(100))
    grads = rng.standard_normal(100)
    further = inputs_for(opt, grads, rng)
    assert opt.check(grads, **further)
    twin = Reference(opt)
    twin._leaves[0][17] += 1e-13
    report = compare(opt, twin)
    assert not report
    assert "params: 1 of 100 elements, first at (17,)" in str(report)
