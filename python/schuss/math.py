"""The words a reference is written in, besides NumPy's own: each equals the compiled word of that name bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cbrt", "dot", "log", "one_minus_power", "power", "row_dot", "row_total", "total"]

_CHUNK = 16384  # elements whose sum is kept by itself: chunk_size in core/kernel.hpp
_LANES = 16  # partial sums side by side: lanes in core/kernel.hpp


def one_minus_power(beta: float, t: float) -> float:
    """Return ``1 - beta**t`` without cancellation.

    Parameters
    ----------
    beta : float
        A decay in [0, 1).
    t : float
        A step count, at least 1.

    Examples
    --------
    >>> one_minus_power(0.5, 2)
    0.75
    """
    return -math.expm1(t * math.log(beta)) if beta > 0 else 1.0


def power(x: float, y: float) -> float:
    """Return ``x**y`` as the C library has it, infinite where that overflows.

    Parameters
    ----------
    x : float
        In [0, inf].
    y : float
        Any.

    Examples
    --------
    >>> power(2.0, 0.5), power(0.0, -1.0)
    (1.4142135623730951, inf)
    """
    try:
        return math.pow(x, y)
    except (OverflowError, ValueError):
        return math.inf


def log(x: float) -> float:
    """Return the natural logarithm of a number in [0, inf], minus infinity for 0.

    Examples
    --------
    >>> log(1.0), log(0.0)
    (0.0, -inf)
    """
    return math.log(x) if x != 0 else -math.inf


def cbrt(x: NDArray[Any]) -> NDArray[Any]:
    """Return the cube root, to 6 units in the last place, of float32 or float64 numbers.

    NumPy's is the C library's, which differs from one to the other and which no compiled loop can call.

    Examples
    --------
    >>> cbrt(np.array([27.0, -8.0, 0.0])).round(12)
    array([ 3., -2.,  0.])
    """
    x = np.asarray(x)
    single = x.dtype == np.float32
    T: Any = np.float32 if single else np.float64
    bits: Any = np.uint32 if single else np.uint64
    magic = bits(0x54A21CAC if single else 0x553EDBC01A36E400)
    with np.errstate(all="ignore"):
        tiny = np.abs(x) < np.finfo(T).smallest_normal
        size = np.where(tiny, np.abs(x) * T(2.0**54), np.abs(x))
        third = size.view(bits) >> bits(2)
        for shift in (2, 4, 8):
            third = third + (third >> bits(shift))
        r = np.asarray(magic - third).view(T)
        part = size * T(1 / 3)
        for _ in range(3 if single else 5):
            r = r * (T(4 / 3) - part * r * r * r)
        root = size * r * r * np.where(tiny, T(2.0**-18), T(1))
        return np.where(np.isfinite(x), np.where(x < 0, -root, root), x)


def _sums(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum each row of a matrix in lanes and chunks, in the order of the compiled sweeps."""
    result = np.zeros(len(rows))
    for first in range(0, rows.shape[1], _CHUNK):
        chunk = rows[:, first : first + _CHUNK]
        if missing := -chunk.shape[1] % _LANES:
            chunk = np.pad(chunk, ((0, 0), (0, missing)))
        lanes = np.add.reduce(chunk.reshape(len(rows), chunk.shape[1] // _LANES, _LANES), axis=1, initial=0.0)
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        result += lanes[:, 0]
    return result


def total(a: NDArray[Any]) -> float:
    """Return the sum of all elements, in float64, the same for every instruction set and number of threads.

    Elements are added in 16 lanes (element ``i`` to lane ``i % 16``) within chunks of 16,384, lanes by halves, chunks one
    after the other.

    Examples
    --------
    >>> total(np.arange(5.0))
    10.0
    """
    return float(_sums(np.asarray(a, np.float64).reshape(1, -1))[0])


def dot(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the sum of ``a * b``, multiplied and added in float64 (see `total`).

    Examples
    --------
    >>> dot(np.float32([1, 2]), np.float32([3, 4]))
    11.0
    """
    return total(np.multiply(a, b, dtype=np.float64))


def row_total(a: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the sum of each row (see `total`), in an array of a given shape with one number per row.

    Examples
    --------
    >>> row_total(np.ones((2, 3)), (2,))
    array([3., 3.])
    """
    rows = math.prod(shape)
    return _sums(np.asarray(a, np.float64).reshape(rows, a.size // max(rows, 1))).reshape(shape)


def row_dot(a: NDArray[Any], b: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the sum of ``a * b`` for each row (see `row_total`).

    Examples
    --------
    >>> row_dot(np.ones((2, 3)), np.ones((2, 3)), (2,))
    array([3., 3.])
    """
    return row_total(np.multiply(a, b, dtype=np.float64), shape)
