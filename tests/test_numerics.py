"""What numbers do at the ends of their range, in narrow types, as zeros and signs, and under another floating-point mode."""

from __future__ import annotations

import inspect
import platform
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from interpreters import STRICT, output
from numpy.typing import NDArray
from support import SLOW, VARIANTS, Variant, bits, draws, everything, inputs_for, snapshot

import schuss
from schuss import trees
from schuss.reference import Reference, compare, rounded, widened

Optimizer = schuss.Optimizer
Array = NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)
each_narrow = pytest.mark.parametrize("dtype", [F16, BF16], ids=str)


def step(optimizer: Optimizer, grads: Any, seed: int = 1) -> None:
    """Step, with inputs where the rule asks for them."""
    optimizer.step(grads, **inputs_for(optimizer, grads, np.random.default_rng(seed)))


def numbers(rng: np.random.Generator, shapes: list[tuple[int, ...]], dtype: Any = F64) -> list[Array]:
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]


# ---- the ends of the range


def extremes(dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return all pairs of zeros, the smallest and largest numbers, infinities and NaNs, of both signs."""
    info = ml_dtypes.finfo(dtype)
    positive = [0.0, info.smallest_subnormal, info.smallest_normal, 1.0, info.max, np.inf, np.nan]
    signed = np.array([*positive, *np.negative(np.array(positive, F64))], F64)
    a, b = np.meshgrid(signed, signed)
    return a.ravel().astype(dtype), b.ravel().astype(dtype)


@each_variant
@pytest.mark.parametrize("dtype", [F16, F32, *([F64, BF16] if SLOW else [])], ids=str)
def test_extreme_numbers_are_stepped_as_numpy_does(variant: Variant, dtype: np.dtype[Any]) -> None:
    """Infinities and NaNs come as IEEE has them, silently; subnormals are kept."""
    grads, params = extremes(dtype)
    optimizer = variant.make([params], lr=0.5)
    twin = Reference(optimizer)
    for number in range(2):
        inputs = inputs_for(optimizer, [grads], np.random.default_rng(number))
        with warnings.catch_warnings():  # NumPy's, which tell of what is tested here
            warnings.simplefilter("ignore")
            twin.step([grads], **inputs)
        optimizer.step([grads], **inputs)
    found = compare(optimizer, twin)
    assert found, str(found)


def test_squares_that_overflow_stop_an_element() -> None:
    """A gradient above 1.8e19 has no square in float32: v is infinite from then on, and the update 0, as in torch."""
    p = np.array([1.0, 1.0], F32)
    optimizer = schuss.Adam(p, lr=0.1)
    optimizer.step(np.array([1e20, 1e19], F32))
    assert optimizer.state["v"].tolist() == [np.inf, pytest.approx(1e35)]
    assert p[0] == 1
    assert p[1] == pytest.approx(0.9)


def test_a_decay_beyond_one_is_not_clamped() -> None:
    p = np.ones(3)
    schuss.AdamW(p, lr=100.0, weight_decay=0.1).step(np.zeros(3))
    assert (p == -9).all()


# ---- narrow types are storage


def wider(value: Any) -> Any:
    return widened(value, F32) if isinstance(value, np.ndarray) else value


@each_variant
@each_narrow
def test_a_narrow_step_is_the_float32_step_rounded(
    variant: Variant, dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    """The state is float32 and goes its own way; parameters are rounded to nearest even once a step."""
    shapes = [(9, 7), (5,), ()]
    narrow = variant.make(numbers(rng, shapes, dtype))
    wide = variant.make([widened(p, F32) for p in narrow.params])
    for _ in range(3):
        for p, q in zip(wide.params, narrow.params, strict=True):
            p[...] = widened(q, F32)
        grads = numbers(rng, shapes, dtype)
        inputs = inputs_for(narrow, grads, rng)
        narrow.step(grads, **inputs)
        exactly = trees.map_leaves(
            lambda each: widened(each, F32) if isinstance(each, np.ndarray) else each, {"g": grads} | inputs
        )
        wide.step(exactly.pop("g"), **exactly)
        for p, q in zip(wide.params, narrow.params, strict=True):
            assert np.array_equal(bits(rounded(p, dtype)), bits(q))
        assert snapshot(wide)[3:] == snapshot(narrow)[3:]


def test_eps_acts_in_float32() -> None:
    """1e-8 is zero in float16: 0 / (0 + eps) would be NaN there."""
    for dtype in (F16, BF16):
        p = np.ones(3, dtype)
        optimizer = schuss.Adam(p, eps=1e-8)
        for _ in range(3):
            optimizer.step(np.zeros(3, dtype))
        assert (p == 1).all()


def test_squares_of_float16_do_not_overflow() -> None:
    """300 has no square in float16."""
    optimizer = schuss.Adam(np.ones(3, F16))
    optimizer.step(np.full(3, 300.0, F16))
    assert optimizer.state["v"].tolist() == pytest.approx([90.0] * 3)


def test_slow_decays_move_in_bfloat16() -> None:
    """0.999 and 1 - 0.999 lose nothing to bfloat16, in which 0.999 is 1."""
    grads = np.full(4, 0.5, BF16)
    narrow, wide = schuss.Adam(np.zeros(4, BF16), lr=1e-2), schuss.Adam(np.zeros(4, F32), lr=1e-2)
    for _ in range(5):
        narrow.step(grads)
        wide.step(grads.astype(F32))
    assert narrow.state["v"].tobytes() == wide.state["v"].tobytes()
    assert np.allclose(narrow.params.astype(F64), wide.params, rtol=2**-7)


def test_updates_below_half_a_unit_are_lost() -> None:
    """As is said in the guarantees: a narrow parameter is rounded at every step, and keeps no remainder."""
    p, q = np.ones(1, BF16), np.ones(1, F32)
    for each in (p, q):
        optimizer = schuss.SGD(each, lr=1e-3)
        for _ in range(1000):
            optimizer.step(np.ones(1, F32))
    assert p[0] == 1
    assert q[0] == pytest.approx(0, abs=1e-5)


def test_a_parameter_that_leaves_its_range_is_infinite() -> None:
    p = np.array([65504.0, 1.0], F16)
    optimizer = schuss.SGD(p, lr=1.0, nonfinite="raise")
    optimizer.step(np.array([-1000.0, 0.0], F16))
    assert p.tolist() == [np.inf, 1.0]


# ---- zeros and signs


SIGNED = [schuss.SignSGD, schuss.Signum, schuss.Lion, schuss.CautiousLion, schuss.Tiger, schuss.Rprop]


@pytest.mark.parametrize("cls", SIGNED)
@pytest.mark.parametrize("dtype", [F16, F32, F64, BF16], ids=str)
def test_a_zero_has_no_sign_and_a_nan_keeps_being_one(cls: type[Optimizer], dtype: np.dtype[Any]) -> None:
    assert "sign(" in inspect.getsource(cls.reference)
    p = np.ones(5, dtype)
    cls(p, lr=0.5, **({"weight_decay": 0.0} if "weight_decay" in cls.hyperparameters else {})).step(
        np.array([0.0, -0.0, np.nan, 3.0, -1e-3], dtype)
    )
    found = p.astype(F64)
    assert found[:2].tolist() == [1.0, 1.0]
    assert np.isnan(found[2])
    assert found[3] < 1 < found[4]
    assert found[3] + found[4] == 2


@each_variant
def test_parameters_of_norm_zero_give_no_nan(variant: Variant, rng: np.random.Generator) -> None:
    """A ratio of norms is one where a norm is zero, or what the paper says; and something moves."""
    shapes = [(4, 3), (5,), (), (2, 3, 2)]
    for kind in (F16, BF16, F32, F64):
        optimizer = variant.make([np.zeros(shape, kind) for shape in shapes])
        for number in range(7):  # some do not move in their first steps
            step(optimizer, numbers(rng, shapes, kind), number)
            for array in everything(optimizer):
                assert np.isfinite(array.astype(F64)).all()
        assert any(p.astype(F64).any() for p in optimizer.params)


def test_an_adaptive_clip_of_weights_of_norm_zero() -> None:
    """The least norm that a weight counts with is the clip's own."""
    for zero in (np.zeros((4, 3)), np.ones((4, 3))):
        optimizer = schuss.SGD([zero], lr=1.0, clip=schuss.ClipAdaptive(0.1))
        for grad in (np.ones((4, 3)), np.zeros((4, 3))):
            optimizer.step([grad])
            assert np.isfinite(optimizer.params[0]).all()


# ---- matrices that are hard

MATRIX = [variant for variant in VARIANTS if variant.cls.kind == "matrix"]
each_matrix_variant = pytest.mark.parametrize("variant", MATRIX, ids=str)
HARD = {
    "row": (1, 9),
    "column": (9, 1),
    "one": (1, 1),
    "flat": (2, 60),
    "tall": (60, 2),
    "stack": (3, 4, 2),
    "empty": (0, 4),
}


def solving(variant: Variant, params: Any) -> Optimizer:
    """Return an optimizer that does its linear algebra in every step."""
    often = {"frequency": 1} if "frequency" in variant.cls.hyperparameters else {}
    return variant.make(params, **often)


@each_matrix_variant
@pytest.mark.parametrize("shape", HARD)
def test_matrices_of_any_shape_and_rank(variant: Variant, shape: str, rng: np.random.Generator) -> None:
    """One row, one column, no rank, one rank: finite in, finite out."""
    size = HARD[shape]
    first, last = np.ones(size), rng.standard_normal(size)
    for grads in (np.zeros(size), first, last, 1e-30 * last, 1e15 * last):
        optimizer = solving(variant, [rng.standard_normal(size), np.zeros(size)])
        for number in range(3):
            step(optimizer, [grads, grads], number)
            for p in optimizer.params:
                assert np.isfinite(p).all()


@each_matrix_variant
def test_a_nan_in_one_matrix_leaves_the_others_alone(variant: Variant, rng: np.random.Generator) -> None:
    shapes = [(6, 4), (5, 7)]
    start, grads = numbers(rng, shapes), numbers(rng, shapes)
    optimizer, twin = (solving(variant, [p.copy() for p in start]) for _ in range(2))
    bad = [grads[0], grads[1].copy()]
    bad[1][2, 3] = np.nan
    for number in range(3):
        step(optimizer, bad, number)
        step(twin, grads, number)
    assert optimizer.params[0].tobytes() == twin.params[0].tobytes()
    assert np.isnan(optimizer.params[1]).any()


#: What may not converge. (A triangular solve fails where a factor is singular, which PSGD-Kron shows: test_psgd.py.)
DECOMPOSITIONS = ("svd", "eigh", "eig", "qr", "inv", "cholesky", "norm")


@each_matrix_variant
def test_linear_algebra_that_fails_changes_nothing(
    variant: Variant, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Either the step does without, as its documentation says, or it raises and nothing was changed."""
    shapes = [(6, 4), (5, 7)]
    optimizer = solving(variant, numbers(rng, shapes))
    step(optimizer, numbers(rng, shapes))
    before = snapshot(optimizer)

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise np.linalg.LinAlgError("did not converge")

    with monkeypatch.context() as patch:
        for name in DECOMPOSITIONS:
            patch.setattr(np.linalg, name, failing)
        try:
            step(optimizer, numbers(rng, shapes))
        except (np.linalg.LinAlgError, RuntimeError):
            assert snapshot(optimizer) == before
            assert optimizer.t == 1
        else:
            assert optimizer.counts == [2, 2]
            assert all(np.isfinite(array).all() for array in optimizer.params)
    step(optimizer, numbers(rng, shapes))
    assert all(np.isfinite(array).all() for array in optimizer.params)


def test_a_projector_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    wrapper = schuss.GaLore(schuss.AdamW([rng.standard_normal((6, 8))]), rank=2, gap=1)
    grads = numbers(rng, [(6, 8)])
    wrapper.step(grads)
    before = [array.tobytes() for array in [*everything(wrapper.base), *wrapper._arrays["projector"]]]

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise np.linalg.LinAlgError("did not converge")

    with monkeypatch.context() as patch:
        patch.setattr(np.linalg, "svd", failing)
        with pytest.raises(np.linalg.LinAlgError):
            wrapper.step(grads)
    assert [array.tobytes() for array in [*everything(wrapper.base), *wrapper._arrays["projector"]]] == before
    wrapper.step(grads)


# ---- random parts

RANDOM: dict[str, Callable[[list[Array]], Any]] = {
    **{str(variant): variant.make for variant in VARIANTS if draws(variant.cls)},
    "PSGDKron": lambda params: schuss.PSGDKron(params, seed=5),
    "noise": lambda params: schuss.Adam(params, noise=schuss.GradientNoise(0.1)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_a_matter_of_seed_and_step(name: str, rng: np.random.Generator) -> None:
    """The same bits on any number of threads, and after a resumption on another; other numbers in the next step."""
    shapes = [(40, 30), (70_000,), ()]
    start, grads = numbers(rng, shapes, F32), numbers(rng, shapes, F32)

    def run(optimizer: Any, steps: int, threads: int) -> Any:
        schuss.set_num_threads(threads)
        for number in range(optimizer.t, optimizer.t + steps):
            optimizer.step(grads, **inputs_for(optimizer, grads, np.random.default_rng(number)))
        return optimizer

    found = [snapshot(run(RANDOM[name]([p.copy() for p in start]), 4, threads)) for threads in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    np.random.default_rng(0).random(3)  # a generator elsewhere is no matter
    half = run(RANDOM[name]([p.copy() for p in start]), 2, 1)
    resumed = RANDOM[name]([p.copy() for p in half.params])
    resumed.load_state_dict(half.state_dict())
    assert snapshot(run(resumed, 2, 3)) == found[0]


# ---- the floating-point mode

MODES = """
import ctypes
import ctypes.util
import sys

import numpy as np
import schuss

libm = ctypes.CDLL(ctypes.util.find_library("m"))
PRESENT = 28  # where MXCSR lies in an fenv_t

def environment():
    room = ctypes.create_string_buffer(64)
    assert libm.fegetenv(room) == 0
    return room

def mode():
    return int.from_bytes(environment().raw[PRESENT:PRESENT + 4], "little") & ~0x3F  # without what has happened

def set_mode(value):
    room = environment()
    ctypes.memmove(ctypes.addressof(room) + PRESENT, value.to_bytes(4, "little"), 4)
    assert libm.fesetenv(room) == 0

DEFAULT, UP, DOWN, CUT, FLUSH = 0x1F80, 0x5F80, 0x3F80, 0x7F80, 0x9FC0
TRAPS = 0x1F80 & ~0x680  # of what is invalid, divides by zero or overflows

rng = np.random.default_rng(4)
start, grads = (rng.standard_normal(100_000).astype(np.float32) for _ in range(2))
grads[::7] = 1e-41
start[::5] = 1e-39

def stepped(cls, mode_of_step, threads, steps=2, **options):
    optimizer = cls(start.copy(), threads=threads, **options)
    for _ in range(steps):
        set_mode(mode_of_step)
        try:
            optimizer.step(grads)
        finally:
            left = mode()
            set_mode(DEFAULT)
        assert left == mode_of_step, (hex(left), hex(mode_of_step))
    return [array.tobytes() for array in (optimizer.params, *optimizer.state.values())]
"""

on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads and sets MXCSR")


@on_x86_64
def test_the_mode_of_the_caller_is_no_matter() -> None:
    """Nor that of the thread that started the workers: steps are rounded to nearest even, and the caller's mode comes back."""
    code = """
    first = stepped(schuss.SGD, UP, 3)  # which starts the workers, and gives them its mode
    for cls in (schuss.SGD, schuss.Adam, schuss.LAMB, schuss.Prodigy, schuss.AdamP):
        expected = stepped(cls, DEFAULT, 1)
        for other in (UP, DOWN, CUT, FLUSH, DEFAULT):
            for threads in (1, 2, 3):
                if stepped(cls, other, threads) != expected:
                    print(cls.__name__, hex(other), threads)
    print(first == stepped(schuss.SGD, DEFAULT, 1))
    """
    assert output(MODES + inspect.cleandoc(code)) == "True\n"


@on_x86_64
def test_flushing_is_for_the_step_alone() -> None:
    code = """
    kept, flushed = (stepped(schuss.SGD, DEFAULT, threads=3, flush_subnormals=flush, lr=1.0) for flush in (False, True))
    again = stepped(schuss.SGD, UP, threads=1, flush_subnormals=True, lr=1.0)
    print(mode() == DEFAULT, kept != flushed, again == flushed)
    """
    assert output(MODES + inspect.cleandoc(code)) == "True True True\n"


@on_x86_64
def test_trapped_exceptions_do_not_end_the_process() -> None:
    """A caller that has asked for SIGFPE gets infinities and NaNs of a step as everybody does."""
    code = """
    grads[:3] = np.inf, np.nan, 3e38
    for threads in (1, 3):
        found = np.frombuffer(stepped(schuss.Adam, TRAPS, threads)[0], np.float32)
        print(int(np.isnan(found).sum()))
    """
    assert output(MODES + inspect.cleandoc(code)) == "2\n2\n"


@on_x86_64
def test_the_import_leaves_the_mode_alone() -> None:
    """No part was compiled with -ffast-math, whose start-up code turns subnormals off in the whole process."""
    before, after = MODES.split("import schuss\n")
    code = before + after + "print(hex(mode()))\nimport schuss, schuss.reference, schuss.linalg\nprint(hex(mode()))\n"
    assert output(code, flags=STRICT) == "0x1f80\n0x1f80\n"
