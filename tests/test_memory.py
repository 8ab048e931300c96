"""Memory: nothing beside an array is touched, nothing is kept, nothing is changed where there is none."""

from __future__ import annotations

import copy
import ctypes
import gc
import itertools
import mmap
import multiprocessing
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from support import CLASSES, SLOW, VARIANTS, inputs_for, snapshot, tries

import schuss
from schuss import memory

PAGE = mmap.PAGESIZE
MOST = 257  # elements: all remainders of every vector, and more than one iteration of the longest


def in_a_process(work: Callable[..., None], *arguments: Any, timeout: float = 1200) -> None:
    """Do what may end the process in one of its own."""
    child = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    child.start()
    child.join(timeout)
    if child.exitcode is None:
        child.kill()
    assert child.exitcode == 0


# ---- guard pages


class Guarded:
    """Arrays that lie between two pages each, of which an access ends the process.

    Parameters
    ----------
    arrays : sequence of (shape, dtype)
        What they are to be.
    offset : int
        How many elements there are to the page after it, or from the page before it where `low`.
    """

    def __init__(self, arrays: Sequence[tuple[tuple[int, ...], np.dtype[Any]]], offset: int, *, low: bool) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        room = [-(-(int(np.prod(shape)) + 16) * dtype.itemsize // PAGE) * PAGE for shape, dtype in arrays]
        self._memory = mmap.mmap(-1, sum(room) + PAGE * (len(room) + 1))
        whole = np.frombuffer(self._memory, np.uint8)
        whole[:] = 0xA5
        self.arrays, self._gaps = [], []
        begin = 0
        for (shape, dtype), bytes_ in zip(arrays, room, strict=True):
            used, end = int(np.prod(shape)) * dtype.itemsize, begin + PAGE + bytes_
            start = begin + PAGE + offset * dtype.itemsize if low else end - offset * dtype.itemsize - used
            self.arrays.append(np.ndarray(shape, dtype, self._memory, start))
            self._gaps += [whole[begin + PAGE : start], whole[start + used : end]]
            for page in (begin, end):
                address = ctypes.c_void_p(whole.ctypes.data + page)
                if libc.mprotect(address, ctypes.c_size_t(PAGE), 0) != 0:
                    raise OSError(ctypes.get_errno(), "mprotect")
            begin = end

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter(self.arrays)

    def intact(self) -> bool:
        """Tell whether what lies between the arrays and their pages is as it was."""
        return all((gap == 0xA5).all() for gap in self._gaps)


def step_between_guards(variant: Any, dtype: np.dtype[Any], offset: int, *, low: bool) -> None:
    guards: list[Guarded] = []
    rng = np.random.default_rng(offset)

    def guarded(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]) -> list[NDArray[Any]]:
        guards.append(Guarded(list(zip(shapes, dtypes, strict=True)), offset, low=low))
        for array in guards[-1]:
            array[...] = 0
        return guards[-1].arrays

    def allocate(
        parameters: Sequence[NDArray[Any]],
        slots: int,
        chosen: np.dtype[Any] | None,
        keeps: Callable[[int, int], bool] = lambda slot, parameter: True,
    ) -> list[list[Any]]:
        """As the one of the package, between guards."""
        shapes = [parameter.shape for parameter in parameters]
        dtypes = [memory.state_dtype(parameter, chosen) for parameter in parameters]
        all_slots = [guarded(shapes, dtypes) for _ in range(slots)]
        return [
            [array if keeps(slot, i) else None for i, array in enumerate(arrays)]
            for slot, arrays in enumerate(all_slots)
        ]

    shapes: list[tuple[int, ...]] = [(n,) for n in range(MOST + 1)] + [(n, 3) for n in range(23)]
    package, memory.allocate = memory.allocate, allocate
    try:
        params = guarded(shapes, [dtype] * len(shapes))
        for param in params:
            param[...] = rng.standard_normal(param.shape)
        optimizer = variant.make(params, threads=1)
        for _ in range(2):
            grads = guarded(shapes, [dtype] * len(shapes))
            for grad in grads:
                grad[...] = rng.standard_normal(grad.shape)
            optimizer.step(grads, **inputs_for(optimizer, grads, rng))
    finally:
        memory.allocate = package
    assert all(each.intact() for each in guards), f"{variant}: memory beside an array was written"


def step_all_between_guards(isa: str) -> None:
    schuss.use_isa(isa)
    of_class = {variant.cls: variant for variant in VARIANTS}  # of each class one
    chosen = VARIANTS if SLOW else [of_class[cls] for cls in CLASSES[::6]]
    dtypes = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
    for number, variant in enumerate(chosen):
        if SLOW:
            cases = [(dtype, offset, low) for dtype in dtypes for offset in range(16) for low in (False, True)]
        else:
            cases = [(dtypes[number % 4], number % 16 if low else 0, low) for low in (False, True)]
        for dtype, offset, low in cases:
            step_between_guards(variant, dtype, offset, low=low)


@pytest.mark.parametrize("isa", schuss.instruction_sets())
def test_nothing_is_touched_beside_an_array(isa: str) -> None:
    """Parameters, gradients and state of 0 to 257 elements at any offset, with a page on each side that cannot be accessed."""
    in_a_process(step_all_between_guards, isa)


# ---- leaks


class Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def in_use() -> tuple[int, int]:
    """Return Python's blocks and the heap's bytes that are in use."""
    gc.collect()
    function = ctypes.CDLL(None).mallinfo2  # of glibc 2.33
    function.restype = Mallinfo2
    info = function()
    return sys.getallocatedblocks(), info.uordblks + info.hblkhd


def require_no_growth(name: str, work: Callable[[], None], times: int) -> None:
    """Do some work until caches are full, then four times half as often as asked for: what is kept grows every time."""
    for _ in range(200):
        work()
    seen = [in_use()]
    for _ in range(4):
        for _ in range(times // 2):
            work()
        seen.append(in_use())
    blocks, heap = (
        min(now - before for before, now in itertools.pairwise(series)) for series in zip(*seen, strict=True)
    )
    # One block, or eight bytes, in ten times are too many; a few are the measurement's own.
    assert blocks < 50 + times // 20, f"{name}: {blocks} blocks more after {times // 2} times"
    assert heap < 256 + times // 5 * 2, f"{name}: {heap} bytes more after {times // 2} times"


def raises(error: type[Exception], call: Callable[[], Any]) -> None:
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def tree(rng: np.random.Generator, dtype: Any = np.float32) -> Any:
    return {"w": rng.standard_normal((7, 5)).astype(dtype), "b": [rng.standard_normal(n).astype(dtype) for n in (3, 0)]}


def makers() -> dict[str, Callable[[Any], Any]]:
    return {
        "elementwise": schuss.AdamW,
        "by rows": schuss.AdamMini,
        "layerwise, clipped": lambda p: schuss.LAMB(p, clip=schuss.ClipNorm(0.1)),
        "global": schuss.Prodigy,
        "matrix": schuss.Muon,
        "factored": schuss.Adafactor,
        "stages": lambda p: schuss.Adam(p, l2=0.1, l1=0.01, bounds=(-1.0, 1.0), nonfinite="skip"),
        "wrappers": lambda p: schuss.Lookahead(schuss.EMA(schuss.SGD(p, lr=0.1, momentum=0.9))),
        "schedule": lambda p: schuss.Adam(p, lr=schuss.schedules.cosine(1e-3, steps=1000)),
    }


def step_without_growth(times: int) -> None:
    rng = np.random.default_rng(1)
    grads = tree(rng)
    for name, make in makers().items():
        optimizer = make(tree(rng))
        require_no_growth(name, lambda optimizer=optimizer: optimizer.step(grads), times)

    narrow = schuss.AdamW(tree(rng, ml_dtypes.bfloat16), state_dtype="bfloat16")
    strided = {"w": rng.standard_normal((5, 7)).T, "b": [rng.standard_normal(6)[::-2], np.zeros(0)]}
    require_no_growth("bfloat16 and strides", lambda: narrow.step(strided), times)
    number = schuss.SGD(np.array(1.0), lr=0.1)
    require_no_growth("a NumPy scalar", lambda: number.step(np.float64(0.5)), times)
    kept = schuss.Adam(tree(rng))
    require_no_growth("state_dict", lambda: kept.load_state_dict(kept.state_dict()), times // 10)

    refusing = schuss.Adam(tree(rng), clip=schuss.ClipNorm(1.0), nonfinite="raise")
    wrong = {"w": np.ones((7, 4), np.float32), "b": grads["b"]}
    nan = {"w": np.full((7, 5), np.nan, np.float32), "b": grads["b"]}
    aliased = {"w": refusing.params["w"], "b": grads["b"]}
    cases: list[tuple[type[Exception], Any]] = [
        (ValueError, wrong),
        (FloatingPointError, nan),
        (ValueError, aliased),
        (ValueError, {"w": grads["w"]}),
        (TypeError, {"w": [1.0], "b": grads["b"]}),
    ]
    for error, bad in cases:
        call = lambda bad=bad: refusing.step(bad)  # noqa: E731
        require_no_growth(f"{error.__name__} in a step", lambda error=error, call=call: raises(error, call), times)

    def failing(step: int) -> float:
        return 1 / (1 - step)

    scheduled = schuss.Adam(tree(rng), lr=failing)
    scheduled.step(grads)
    require_no_growth("a schedule that raises", lambda: raises(ZeroDivisionError, lambda: scheduled.step(grads)), times)


def make_without_growth(times: int) -> None:
    rng = np.random.default_rng(1)
    params, grads = tree(rng), tree(rng)
    for name, make in makers().items():
        require_no_growth(name, lambda make=make: make(params).step(grads), times)
    frozen = np.ones(3)
    frozen.flags.writeable = False
    refused: list[tuple[type[Exception], Callable[[], Any]]] = [
        (BufferError, lambda: schuss.Adam([params["w"], frozen])),
        (ValueError, lambda: schuss.Adam([params["w"], params["w"]])),
        (TypeError, lambda: schuss.Adam([params["w"], np.arange(3)])),
        (ValueError, lambda: schuss.Adam(params, lr=-1.0)),
    ]
    for error, make in refused:
        require_no_growth(f"{error.__name__} when made", lambda error=error, make=make: raises(error, make), times)


def test_steps_keep_nothing() -> None:
    in_a_process(step_without_growth, tries(300, 100_000), timeout=3600)


def test_optimizers_keep_nothing() -> None:
    in_a_process(make_without_growth, tries(200, 10_000), timeout=3600)


@pytest.mark.parametrize("name", makers())
def test_an_optimizer_lets_go_of_its_arrays(name: str, rng: np.random.Generator) -> None:
    params, grads = tree(rng), tree(rng)
    optimizer = makers()[name](params)
    optimizer.step(grads)
    held = [weakref.ref(each) for each in (optimizer, params["w"], grads["w"], *params["b"])]
    del optimizer, params, grads
    gc.collect()
    assert [each() for each in held] == [None] * len(held)


# ---- no memory


def step_without_memory(names: Sequence[str]) -> None:
    """Let every allocation of Python's own fail in turn; those of the compiled part fail in fuzz/plan.cpp."""
    import _testcapi

    rng = np.random.default_rng(1)
    start, grads = tree(rng), tree(rng)
    for name in names:
        optimizer, twin = (makers()[name](copy.deepcopy(start)) for _ in range(2))
        for _ in range(50):  # until the interpreter has specialised the code, which asks for memory at any line
            optimizer.step(grads)
            twin.step(grads)
        failed = in_a_row = n = 0
        while in_a_row < 40:  # some failures are hidden by what asked for memory; later ones are not reached
            before = snapshot(optimizer)
            done = True
            _testcapi.set_nomemory(n, n + 1)
            try:
                optimizer.step(grads)
            except Exception:
                done = False
            finally:
                _testcapi.remove_mem_hooks()
            if done:
                twin.step(grads)
                assert snapshot(optimizer) == snapshot(twin), f"{name}: other bits after allocation {n} failed"
            else:
                assert snapshot(optimizer) == before, f"{name}: changed, and allocation {n} failed"
            failed, in_a_row, n = failed + (not done), in_a_row + 1 if done else 0, n + 1
        assert failed > 0


def test_a_step_without_memory_changes_nothing() -> None:
    pytest.importorskip("_testcapi")
    in_a_process(
        step_without_memory,
        ["elementwise", "by rows", "layerwise, clipped", "global", "stages", "schedule"],
        timeout=300,
    )


@pytest.mark.parametrize("shape", [(2**40, 2**40), (2**40, 2**40, 0), (2**61,)], ids=str)
def test_no_array_has_a_size_that_overflows(shape: tuple[int, ...]) -> None:
    """NumPy refuses it: there is nothing left for a step to check."""
    with pytest.raises(ValueError, match="array is too big"):
        as_strided(np.zeros(1), shape, (0,) * len(shape))


# ---- flushed subnormals


@pytest.mark.parametrize("isa", schuss.instruction_sets())
def test_float16_is_the_same_where_subnormals_are_flushed(isa: str) -> None:
    """The subnormals of float16 are none of float32, in which steps are computed."""
    schuss.use_isa(isa)
    bits = np.arange(1, 0x7C00, dtype=np.uint16)
    params = bits.view(np.float16).copy()
    schuss.SGD(params, lr=1.0, flush_subnormals=True).step(np.zeros_like(params))
    np.testing.assert_array_equal(params.view(np.uint16), bits)
