"""The words a reference is written in, besides NumPy's own: each equals the compiled word of that name bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from decimal import Context, Decimal

__all__ = [
    "cbrt",
    "dot",
    "log",
    "newest_share",
    "normals",
    "one_minus_power",
    "power",
    "products",
    "radial_part",
    "random_signs",
    "random_words",
    "row_dot",
    "row_total",
    "total",
]

_CHUNK = 16384  # elements whose sum is kept by itself: chunk_size in core/kernel.hpp
_LANES = 16  # partial sums side by side: lanes in core/kernel.hpp


def one_minus_power(beta: float, t: float) -> float:
    """Return the double nearest to ``1 - beta**t``.

    Parameters
    ----------
    beta : float
        A decay in [0, 1).
    t : float
        A step count, at least 0.

    Examples
    --------
    >>> one_minus_power(0.5, 2)
    0.75
    """
    return _nearest_power(float(beta), float(t), from_one=True) if beta > 0 else 1.0


def power(x: float, y: float) -> float:
    """Return the double nearest to ``x**y``, infinite where that overflows.

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
    if 0 < x < math.inf and math.isfinite(y):
        return _nearest_power(float(x), float(y), from_one=False)
    try:
        return math.pow(x, y)
    except ValueError:  # of zero to a negative power
        return math.inf


def log(x: float) -> float:
    """Return the double nearest to the natural logarithm of a number in [0, inf], minus infinity for 0.

    Examples
    --------
    >>> log(1.0), log(0.0)
    (0.0, -inf)
    """
    return float(_decimal().ln(_as_decimal(x)))


@lru_cache(64)  # the tensors of a step ask for the same power
def _nearest_power(x: float, y: float, *, from_one: bool) -> float:
    """Return the double nearest to ``x**y``, or to ``1 - x**y``, for finite numbers with x > 0."""
    if y == int(y) and abs(y) <= 64:  # as whole numbers: only these powers can lie half-way between two doubles
        numerator, denominator = x.as_integer_ratio() if y >= 0 else x.as_integer_ratio()[::-1]
        above: int = numerator ** abs(int(y))
        below: int = denominator ** abs(int(y))
        try:
            return (below - above if from_one else above) / below  # rounds once
        except OverflowError:
            return math.inf
    exact = _decimal()
    found = exact.exp(exact.multiply(_as_decimal(y), exact.ln(_as_decimal(x))))
    return float(exact.subtract(1, found) if from_one else found)


def _decimal() -> Context:
    """Return decimal arithmetic, which has logarithms and powers to any number of digits, and raises nothing here."""
    from decimal import Context  # where a reference runs, and not at import

    return Context(prec=60, Emin=-999999, Emax=999999, traps=[])


def _as_decimal(x: float) -> Decimal:
    """Return exactly the same number."""
    from decimal import Decimal

    return Decimal(float(x))


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


def _threefry(key: Any, counter: Any) -> Any:
    """Return two words of 32 bits for two, under a key of two: Threefry-2x32 with 20 rounds.

    Salmon, Moraes, Dror & Shaw (2011), *Parallel random numbers: as easy as 1, 2, 3*.
    """
    rotation = (13, 15, 26, 6), (17, 29, 16, 24)
    with np.errstate(over="ignore"):
        keys = [*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)]
        x, y = counter[0] + keys[0], counter[1] + keys[1]
        for group in range(5):
            for bits in rotation[group % 2]:
                x = x + y
                y = (y << np.uint32(bits) | y >> np.uint32(32 - bits)) ^ x
            x = x + keys[(group + 1) % 3]
            y = y + (keys[(group + 2) % 3] + np.uint32(group + 1))
    return x, y


def _words(x: Any) -> Any:
    """Return the low and the high 32 bits of whole numbers."""
    x = np.asarray(x, np.uint64)
    return x.astype(np.uint32), (x >> np.uint64(32)).astype(np.uint32)


def random_words(key: int, size: int) -> NDArray[np.uint32]:
    """Return random words of 32 bits: a function of key and place, without further state.

    Words ``2 i`` and ``2 i + 1`` are what Threefry-2x32 with 20 rounds makes of the counter ``i``. Salmon et al. (2011),
    *Parallel random numbers: as easy as 1, 2, 3*, https://doi.org/10.1145/2063384.2063405

    Parameters
    ----------
    key : int
        In [0, 2**64).
    size : int
        How many.

    Examples
    --------
    >>> random_words(0, 3)
    array([1797259609, 2579123966, 1351547692], dtype=uint32)
    """
    return np.stack(_threefry(_words(key), _words(np.arange((size + 1) // 2))), axis=-1).reshape(-1)[:size]


def _key(seed: int, t: int, stream: int) -> Any:
    """Return the key of a tensor's random numbers at a step, as two words."""
    return _threefry(_threefry(_words(seed), _words(t)), _words(stream))


def random_signs(seed: int, t: int, stream: int, size: int) -> NDArray[np.int8]:
    """Return random signs, -1 and 1: a function of the arguments, without further state.

    The bits of `random_words`, the lowest of each word first, under the key that `normals` has; a 1 is the sign -1.

    Parameters
    ----------
    seed : int
        In [0, 2**53].
    t : int
        The step.
    stream : int
        Of the tensor, in [0, 2**64): a hash of its name.
    size : int
        How many.

    Examples
    --------
    >>> random_signs(0, 1, 0, 8)
    array([-1,  1,  1, -1, -1, -1, -1,  1], dtype=int8)
    """
    low, high = (int(word) for word in _key(seed, t, stream))
    words = random_words(low | high << 32, -(-size // 32)).astype("<u4")
    bits = np.unpackbits(words.view(np.uint8), count=size, bitorder="little")
    return np.int8(1) - np.int8(2) * bits.view(np.int8)


def _polynomial(coefficients: Sequence[float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a polynomial's value by Horner's rule; the constant is first."""
    sum_ = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        sum_ = sum_ * x + coefficient
    return sum_


def _log_of_fraction(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithm of numbers below the root of 2, as the compiled generator has it."""
    bits = x.view(np.uint64)
    n = (np.uint64(0x3FF6A09E667F3BCD) - bits) >> np.uint64(52)
    m = (bits + (n << np.uint64(52))).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    return s * _polynomial([2.0 / k for k in range(1, 20, 2)], s * s) - n.astype(np.float64) * 0.6931471805599453


#: Wichura (1988), Algorithm AS 241, PPND16: numerators and denominators near the median, on the flanks, in the tails.
_QUANTILE: tuple[tuple[list[float], list[float]], ...] = (
    (
        [3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
         4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3],
        [1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
         2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3],
    ),
    (
        [1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
         1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4],
        [1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
         1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9],
    ),
    (
        [6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
         2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7],
        [1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
         7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15],
    ),
)  # fmt: skip


def normals(seed: int, t: int, stream: int, size: int) -> NDArray[np.float64]:
    """Return the normal numbers that a rule draws for a tensor: a function of its arguments, without further state.

    Parameters
    ----------
    seed : int
        In [0, 2**53].
    t : int
        The step, 1 for the first.
    stream : int
        Of the tensor, in [0, 2**64): a hash of its name.
    size : int
        The tensor's elements, in memory order; real and imaginary parts count.

    Examples
    --------
    >>> normals(0, 1, 0, 1000).std().round(2)
    np.float64(0.99)
    """
    key = _key(seed, t, stream)
    low, high = _threefry(key, _words(np.arange(size)))
    mantissa = high.astype(np.uint64) << np.uint64(20) | (low >> np.uint32(12)).astype(np.uint64)
    return _quantile((np.uint64(0x3FF0000000000000) | mantissa).view(np.float64) - 1.0 + 2.0**-53)


def _quantile(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the normal numbers below which shares of the normal distribution lie."""
    q = share - 0.5
    r = np.sqrt(-_log_of_fraction(np.where(q < 0, share, 1.0 - share)))
    near, flank, tail = (
        _polynomial(above, x) / _polynomial(below, x)
        for (above, below), x in zip(_QUANTILE, (0.180625 - q * q, r - 1.6, r - 5.0), strict=True)
    )
    outside = np.where(r <= 5.0, flank, tail)
    return np.where(np.abs(q) <= 0.425, q * near, np.where(q < 0, -outside, outside))


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


def products(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the products of elements in double: the terms of `dot`.

    Examples
    --------
    >>> products(np.float32([3.0]), np.float32([0.1]))
    array([0.3])
    """
    return np.asarray(a, np.float64) * np.asarray(b, np.float64)


def row_total(a: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the sum of each row (see `total`), in an array of a given shape with one number per row.

    Examples
    --------
    >>> row_total(np.ones((2, 3)), (2,))
    array([3., 3.])
    """
    rows = math.prod(shape)
    return _sums(np.asarray(a, np.float64).reshape(rows, a.size // max(rows, 1))).reshape(shape)


def radial_part(
    p: NDArray[Any], g: NDArray[Any], u: NDArray[Any], eps: float, delta: float
) -> tuple[NDArray[Any] | float, bool]:
    """Return how many times the weights a direction holds, where they are nearly orthogonal to their gradient.

    Parameters
    ----------
    p, g, u : array
        Weights, gradient and direction, of one shape.
    eps : float
        The least length, added to those that are divided by.
    delta : float
        The weights are nearly orthogonal where ``abs(cos(p, g)) < delta / sqrt(size)``: if every row is, for each row; else
        if the whole is, for the whole.

    Returns
    -------
    part : array or float
        ``<p, u> / |p|**2``, one number per row or for all; 0 where nothing is to be projected.
    projected : bool
        Whether anything is. Never for vectors and numbers.

    Examples
    --------
    >>> p, g = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    >>> radial_part(p, g, np.array([[3.0, 4.0]]), 0.0, 0.1)
    (array([[3.]]), True)
    """
    if p.ndim > 1 and p.size > 0:
        rows = [row_dot(a, b, p.shape[:1]) for a, b in ((p, p), (g, g), (p, g), (p, u))]
        for pp, gg, pg, pu in (rows, [row_total(each, ()) for each in rows]):
            lengths = np.maximum(np.sqrt(pp), eps) * np.maximum(np.sqrt(gg), eps)
            if (np.abs(pg) / lengths < delta / math.sqrt(p.size // pp.size)).all():
                length = np.sqrt(pp) + eps
                part = (pu / length / length).astype(p.dtype)
                return part.reshape(pp.shape + (1,) * (p.ndim - pp.ndim)), True
    return 0.0, False


def newest_share(
    t: int, rate: float, r: float, exponent: float, rate_max: float, weight_sum: float
) -> tuple[float, float, float]:
    """Return the share that the newest iterate has in a schedule-free average.

    Parameters
    ----------
    t : int
        The step.
    rate : float
        Its step size.
    r, exponent : float
        An iterate weighs ``t**r * rate_max**exponent``.
    rate_max, weight_sum : float
        The largest rate and the sum of the weights so far.

    Returns
    -------
    tuple of float
        The share, and `rate_max` and `weight_sum` with this step.

    Examples
    --------
    >>> newest_share(2, 0.5, 0.0, 2.0, 0.5, 0.25)
    (0.5, 0.5, 0.5)
    """
    rate_max = rate if rate > rate_max else rate_max
    weight = power(t, r) * power(rate_max, exponent)
    weight_sum = weight_sum + weight
    return (weight / weight_sum if weight_sum > 0 else 0.0), rate_max, weight_sum


def row_dot(a: NDArray[Any], b: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the sum of ``a * b`` for each row (see `row_total`).

    Examples
    --------
    >>> row_dot(np.ones((2, 3)), np.ones((2, 3)), (2,))
    array([3., 3.])
    """
    return row_total(np.multiply(a, b, dtype=np.float64), shape)
