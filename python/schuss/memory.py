"""Where optimizer state lies in memory, and which dtypes arrays may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LINE, _PAGE = 64, 4096

#: Bits of bfloat16 in an array of another dtype than ml_dtypes', where the caller declared it.
BFLOAT16_BITS = np.dtype(np.uint16)


def address(array: NDArray[Any]) -> int:
    """Return where an array starts."""
    return int(array.__array_interface__["data"][0])


def is_fortran(array: NDArray[Any]) -> bool:
    """Tell whether the memory order is Fortran's and not C's."""
    return bool(array.flags.f_contiguous and not array.flags.c_contiguous)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype is ml_dtypes' bfloat16."""
    return dtype.name == "bfloat16"


def bfloat16_dtype(who: str) -> np.dtype[Any]:
    """Return ml_dtypes' bfloat16, or raise a sentence that starts with `who`."""
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{who} needs the package ml_dtypes; pip install 'schuss[bfloat16]', or keep the bits in uint16 arrays and "
            'say dtype="bfloat16"'
        ) from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def checked_dtype(who: str, wanted: DTypeLike | None, declared: str | None) -> np.dtype[Any] | None:
    """Return the dtype that was asked for, None for the compute type; an error's sentence starts with `who`."""
    if wanted is None:
        return None
    if wanted == "bfloat16":
        return BFLOAT16_BITS if declared == "bfloat16" else bfloat16_dtype(who)
    try:
        dtype = np.dtype(wanted)
    except TypeError:
        raise TypeError(f"{who} must be a dtype or None, got {wanted!r}") from None
    if not (dtype in (np.float64, np.float32, np.float16) or is_bfloat16(dtype)):
        raise TypeError(f"{who} must be float64, float32, float16 or bfloat16, got {dtype}")
    return dtype


def is_steppable(leaf: object) -> bool:
    """Tell whether an object is an array of numbers that a step can read."""
    if not isinstance(leaf, np.ndarray):
        return False
    native = (np.float64, np.float32, np.float16, np.complex128, np.complex64, BFLOAT16_BITS)
    return leaf.dtype in native or is_bfloat16(leaf.dtype)


def views(arrays: Sequence[Any]) -> list[Any]:
    """Return views to hand out: what is assigned to their shape, dtype or flags leaves those of the arrays alone."""
    return [None if array is None else array.view() for array in arrays]


def kind(array: NDArray[Any]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Return what an array's state must agree with: shape, dtype, and whether the memory order is Fortran's."""
    return array.shape, array.dtype, is_fortran(array)


def compute_dtype(parameter: NDArray[Any]) -> np.dtype[Any]:
    """Return the dtype that a parameter's step computes in: float64 for float64 and complex128, else float32."""
    return np.dtype(np.float64 if parameter.dtype in (np.float64, np.complex128) else np.float32)


def state_dtype(parameter: NDArray[Any], chosen: np.dtype[Any] | None) -> np.dtype[Any]:
    """Return the dtype of a parameter's state: the compute type unless chosen, complex beside a complex parameter."""
    real = chosen or compute_dtype(parameter)
    if parameter.dtype.kind != "c":
        return real
    return np.dtype(np.complex128 if real == np.float64 else np.complex64)


def allocate(
    parameters: Sequence[NDArray[Any]],
    slots: int,
    chosen: np.dtype[Any] | None,
    keeps: Callable[[int, int], bool] = lambda slot, parameter: True,
) -> list[list[Any]]:
    """Return zeroed state arrays, `slots` lists of one array per parameter (None where it keeps none), in one piece of memory.

    Each starts at its parameter's own offset within a cache line, so that stores which are aligned in one are aligned in
    all, and the slots of a large tensor at different offsets within a page (all at one offset costs 25 %).
    """
    stagger = _PAGE // (slots + 2) // _LINE * _LINE
    offsets: list[list[int | None]] = [[] for _ in range(slots)]
    end = 0  # relative to a page's start
    for i, parameter in enumerate(parameters):
        dtype = state_dtype(parameter, chosen)
        # A 16-bit parameter may start where its wider state must not.
        start = address(parameter) // dtype.itemsize * dtype.itemsize if parameter.size else 0
        for slot in range(slots):
            if not keeps(slot, i):
                offsets[slot].append(None)
                continue
            size = parameter.size * dtype.itemsize
            if size >= _PAGE:
                end += (start + (slot + 1) * stagger - end) % _PAGE
            else:
                end += (start - end) % _LINE
            offsets[slot].append(end)
            end += size
    arena = np.zeros(end + _PAGE, np.uint8)
    to_page = -address(arena) % _PAGE
    return [
        [
            None
            if offset is None
            else np.ndarray(
                parameter.shape,
                state_dtype(parameter, chosen),
                arena,
                to_page + offset,
                order="F" if is_fortran(parameter) else "C",
            )
            for parameter, offset in zip(parameters, offsets[slot], strict=True)
        ]
        for slot in range(slots)
    ]


def in_the_place_of(target: NDArray[Any], values: Any) -> NDArray[Any]:
    """Return values as an array whose bytes can take the place of another's."""
    source: NDArray[Any] = np.asarray(values)
    alike = source.dtype == target.dtype and source.shape == target.shape
    if alike and (source.flags.f_contiguous if is_fortran(target) else source.flags.c_contiguous):
        return source
    found: NDArray[Any] = np.empty_like(target, subok=False)
    found[...] = source
    return found
