"""Sizes beyond 32 bits, very many tensors, deep nestings, and counts beyond any small integer."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from support import SLOW, only_slow, snapshot, tries

import schuss
from schuss.schedules import cosine

GIB = 2**30
BF16 = np.dtype(ml_dtypes.bfloat16)


# ---- arrays whose elements, or bytes, 32 bits do not count ------------------------------------------------------------------

#: Rows of a prime length: no wrapped index falls on the same place of another row. More than 2^31 elements, 2^32 bytes.
ROWS, COLUMNS = 32769, 65537


def require_room(memory: int, disk: Path | None = None, size: int = 0) -> None:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if Path("/proc/meminfo").exists():  # what is free, and what the kernel would give back
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    if available < memory or (disk is not None and shutil.disk_usage(disk).free < size):
        pytest.skip(f"needs {memory // GIB} GiB of memory and {size // GIB} GiB of disk")


def assert_rows_are(array: np.ndarray, row: np.ndarray) -> None:
    """Look at every byte, without a copy of the array."""
    for first in range(0, len(array), 1024):
        block = array[first : first + 1024].view(np.uint16)
        wrong = np.flatnonzero((block != row.view(np.uint16)).any(axis=1))
        assert not len(wrong), f"row {first + wrong[0]} of {len(array)} differs"


@only_slow
def test_more_elements_than_32_bits_count() -> None:
    """The step, the norm and the clip, over a gradient whose rows are one row of memory: every row moves as that row alone."""
    require_room(6 * GIB)
    row = np.linspace(-1, 1, COLUMNS, dtype=np.float16)
    params = np.zeros((ROWS, COLUMNS), np.float16)
    assert params.size > 2**31
    assert params.nbytes > 2**32
    optimizer = schuss.SGD(params, lr=0.5, clip=schuss.ClipNorm(1e4))
    norm = math.sqrt(ROWS * math.fsum(np.square(row, dtype=np.float64)))
    alone = schuss.SGD(np.zeros(COLUMNS, np.float16), lr=0.5 * 1e4 / norm)
    for _ in range(2):
        optimizer.step(np.broadcast_to(row, params.shape))
        alone.step(row)
        assert optimizer.last.norm == pytest.approx(norm, rel=1e-12)
        assert optimizer.last.clip == pytest.approx(1e4 / norm, rel=1e-12)
    assert_rows_are(params, alone.params)


@only_slow
def test_state_of_more_elements_than_32_bits_count() -> None:
    """And sums over the tensor between two sweeps."""
    require_room(10 * GIB)
    row = np.linspace(0.5, 1, COLUMNS, dtype=np.float16)
    params = np.ones((ROWS, COLUMNS), np.float16)
    grads = np.broadcast_to(row, params.shape)
    optimizer = schuss.LARS(params, lr=0.25, momentum=0.5, state_dtype=np.float16)
    # Norms of the whole: both are those of a row, times the root of the number of rows, and their quotient is that of a row.
    alone = schuss.LARS(np.ones((1, COLUMNS), np.float16), lr=0.25, momentum=0.5, state_dtype=np.float16)
    for _ in range(2):
        optimizer.step(grads)
        alone.step(row[None])
    (slot,) = optimizer.state
    assert_rows_are(params, alone.params[0])
    assert_rows_are(optimizer.state[slot], alone.state[slot][0])


@only_slow
def test_more_than_2_to_the_32_elements_in_a_file(tmp_path: Path) -> None:
    """A sparse file that is larger than the memory it takes, mapped as bfloat16."""
    shape = (65537, 65537)
    require_room(4 * GIB, tmp_path, 10 * GIB)
    path = tmp_path / "weights"
    params = np.memmap(path, BF16, "w+", shape=shape)
    assert params.size > 2**32
    row = np.linspace(-1, 1, shape[1]).astype(BF16)
    alone = schuss.SGD(np.zeros(shape[1], BF16), lr=0.5)
    schuss.SGD(params, lr=0.5).step(np.broadcast_to(row, shape))
    alone.step(row)
    params.flush()
    del params
    assert_rows_are(np.memmap(path, np.uint16, "r", shape=shape), alone.params.view(np.uint16))
    path.unlink()


def test_shapes_whose_product_overflows() -> None:
    """NumPy makes no array of them, not even a fake one; those with a zero among their dimensions are stepped, as nothing."""
    for shape in ((2**62, 2**62), (2**32, 2**32), (2**62, 2**62, 0)):
        with pytest.raises(ValueError, match="array is too big"):
            as_strided(np.ones(1), shape, (0,) * len(shape))
    shapes = [(2**40, 0), (0, 2**40), (2**31, 0, 2**20), (3,)]
    for cls in (schuss.SGD, schuss.LAMB, schuss.Prodigy):
        optimizer = cls([np.zeros(shape) for shape in shapes], clip=schuss.ClipNorm(1.0))
        optimizer.step([np.broadcast_to(np.ones(()), shape) for shape in shapes])
        assert optimizer.last.norm == math.sqrt(3)
        assert optimizer.params[-1].any()


# ---- very many tensors ------------------------------------------------------------------------------------------------------


def use_of_many(count: int, directory: Path) -> float:
    """Use all that goes over tensors, ask that they are stepped as one flat array would be, and return the seconds of it."""
    rng = np.random.default_rng(count)
    values, gradients = rng.standard_normal((2, 6 * count)).astype(np.float32)
    start = time.process_time()
    params = {f"w{i}": part for i, part in enumerate(values.reshape(count, 2, 3).copy())}
    grads = {key: np.asfortranarray(part) for key, part in zip(params, gradients.reshape(count, 2, 3), strict=True)}
    clip = schuss.ClipNorm(1e9)
    overrides: Any = {"*7": {"weight_decay": 0.5}, "w*": {"weight_decay": 0.25}}
    optimizer = schuss.EMA(schuss.AdamW(params, clip=clip, overrides=overrides), decay=0.5)
    for _ in range(2):
        optimizer.step(grads)
    optimizer.save(directory / "many.npz", params=True)
    optimizer.step(grads)
    stepped = np.stack(list(params.values()))
    optimizer.load(directory / "many.npz")
    optimizer.step(grads)
    assert np.array_equal(np.stack(list(params.values())), stepped)
    groups = schuss.SGD([schuss.Group(array, lr=0.125) for array in params.values()])
    groups.step(list(grads.values()))
    groups.load_state_dict(groups.state_dict())
    schuss.LAMB(params).step(grads)
    seconds = time.process_time() - start

    flat = [schuss.AdamW(values.copy(), weight_decay=decay) for decay in (0.5, 0.25)]
    for each in flat * 3:
        each.step(gradients)
    sevens = np.arange(count)[:, None, None] % 10 == 7
    assert np.array_equal(stepped, np.where(sevens, *(each.params.reshape(count, 2, 3) for each in flat)))
    return seconds


def test_very_many_tensors_are_one_flat_array(tmp_path: Path) -> None:
    """Steps, state, files: as one array; and in a time that grows with their number, not with its square."""
    use_of_many(10, tmp_path)
    few = use_of_many(tries(500, 25_000), tmp_path)
    many = use_of_many(tries(2_000, 100_000), tmp_path)
    if SLOW:
        assert many < 8 * few


# ---- deep nestings ----------------------------------------------------------------------------------------------------------


def deep(levels: int, kind: type) -> Any:
    tree: Any = np.ones(3)
    for _ in range(levels):
        tree = {"a": tree} if kind is dict else kind((tree,))
    return tree


def circular() -> Any:
    tree: list[Any] = [np.ones(3)]
    tree += [tree, tree]
    return tree


TOO_DEEP = "is nested more than 100 levels deep, or contains itself; pass a flatter nesting"


@pytest.mark.parametrize("make", [schuss.SGD, schuss.Shampoo, schuss.LBFGS])
def test_a_nesting_too_deep_to_follow(make: Callable[[Any], Any]) -> None:
    for tree in (deep(100_000, list), deep(100_000, dict), deep(101, tuple), circular()):
        with pytest.raises(ValueError, match=re.escape(f"{make.__name__}: params {TOO_DEEP}")):
            make(tree)


def test_a_nesting_that_is_deep_enough() -> None:
    """A hundred levels work everywhere; gradients and new parameters that are deeper are refused, and nothing has changed."""
    optimizer = schuss.SGD([deep(99, list), deep(99, dict)], momentum=0.5)
    optimizer.step([deep(99, list), deep(99, dict)])
    optimizer.load_state_dict(optimizer.state_dict())
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match=r"is a list, not a NumPy array"):
        optimizer.step([deep(100_000, list), deep(99, dict)])
    with pytest.raises(ValueError, match=re.escape(f"SGD: params {TOO_DEEP}")):
        optimizer.rebind([deep(100_000, list), deep(99, dict)])
    grouped = schuss.SGD([schuss.Group(np.ones(3))])
    with pytest.raises(ValueError, match=re.escape(f"SGD: params {TOO_DEEP}")):
        grouped.add(schuss.Group(deep(101, list)))
    assert len(grouped.groups) == 1
    assert snapshot(optimizer) == before
    optimizer.step([deep(99, list), deep(99, dict)])


# ---- counts -----------------------------------------------------------------------------------------------------------------

COUNTS = [2**24 + 1, 2**31 + 1, 2**53 + 1, 2**62 - 1]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_checkpoints_keep_counts_exactly(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    """2^53 + 1 is no double: what is read is the whole number that was written, and the next step counts on from it."""

    def make() -> tuple[Any, schuss.Optimizer]:
        base = schuss.AdamW([np.ones(2) for _ in COUNTS])
        return (schuss.EMA(schuss.Lookahead(base)) if wrapped else base), base

    outer, base = make()
    base._counts[:] = [*COUNTS, max(COUNTS)]
    outer.save(tmp_path / f"checkpoint.{suffix}")
    resumed, inner = make()
    resumed.load(tmp_path / f"checkpoint.{suffix}")
    assert (inner.counts, inner.t) == (COUNTS, max(COUNTS))
    grads = [np.ones(2) for _ in COUNTS]
    for each in (outer, resumed):
        each.step(grads)
    assert inner.counts == [count + 1 for count in COUNTS]
    assert snapshot(inner) == snapshot(base)


@pytest.mark.parametrize("count", [2**62, 2**63 - 1, 2**63, 2**64, -(2**63)])
def test_counts_that_int64_would_not_keep_counting_are_refused(count: int) -> None:
    optimizer = schuss.AdamW(np.ones(2))
    optimizer.step(np.ones(2))
    before = snapshot(optimizer)
    for change in ({"t": count}, {"counts": [count]}):
        with pytest.raises(schuss.StateError, match="the state's step counts are not valid"):
            optimizer.load_state_dict(optimizer.state_dict() | change)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("count", COUNTS)
def test_schedules_see_the_count_as_it_is(count: int) -> None:
    seen = []

    def schedule(step: int) -> float:
        seen.append(step)
        return cosine(0.5, steps=2**62)(step)

    optimizer = schuss.SGD(np.ones(2), lr=schedule)
    optimizer.load_state_dict(optimizer.state_dict() | {"t": count, "counts": [count]})
    optimizer.step(np.ones(2))
    assert seen[-1] == count
    assert type(seen[-1]) is int
    assert optimizer.t == count + 1
