"""Constraints: sets that parameters are kept in, by going to the nearest point of the set after every step.

A row is all that shares the first index of an array of two and more dimensions; a vector, or a number, is one row. Complex
numbers count as pairs of reals. A row or tensor that holds a NaN or an infinity has no nearest point and stays as it is (a
box bounds element by element, infinities too).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from schuss import memory, trees
from schuss._runtime import checked_threads
from schuss.hyperparameters import Domain

__all__ = [
    "Box",
    "Constraint",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "MaxNorm",
    "NonNegative",
    "Projection",
    "Simplex",
    "UnitNorm",
]

#: What a constraint is about: each row of an array, or the whole.
Per: TypeAlias = Literal["row", "tensor"]

_Part = TypeVar("_Part")

_POSITIVE = Domain(0.0, lower_open=True)
#: Elements that are projected at a time where NumPy does it: the temporaries stay in cache and small beside the array.
_BLOCK = 1 << 16
#: What two float64 sums of the same numbers, scaled or not, may differ by, relative to them: a sum runs in lanes of 1,024
#: elements and chunks of 16,384 of them (`schuss.math.total`), so this holds up to 2^24 elements, and in practice beyond.
_SUMS = 2.0**-42


class Projection(Protocol):
    """A constraint bound to arrays that have been checked; see `Constraint.bind`."""

    def apply(self, active: Sequence[bool] | None = None) -> None:
        """Take arrays to the nearest points of the set, in place: all, or those that are `active`, in order."""


class Constraint:
    """Base class of the constraints.

    Pass one as ``bounds=`` to an optimizer, which then keeps its parameters in the set; or use `project` yourself.
    """

    per: Per | Literal["element"] = "element"

    @property
    def box(self) -> tuple[float, float] | None:
        """The bounds of every element where these are all there is: what a step applies without a pass of its own."""
        return None

    def project(
        self, params: trees.Tree, *, threads: int | None = None, dtype: Literal["bfloat16"] | None = None
    ) -> None:
        """Take arrays to the nearest point of the set, in place.

        Parameters
        ----------
        params : array, or nesting of lists, tuples and dicts of arrays
            Floating or complex, contiguous, writeable. C-contiguous where the constraint is about rows.
        threads : int, optional
            As for an optimizer; the results are the same bits for any number.
        dtype : "bfloat16", optional
            Declares that uint16 arrays hold the bits of bfloat16 numbers.

        Raises
        ------
        TypeError, ValueError, BufferError
            If an array cannot be projected; nothing was changed.

        Examples
        --------
        >>> w = np.array([0.5, 1.25])
        >>> schuss.constraints.Simplex().project(w)
        >>> w
        array([0.125, 0.875])
        """
        self.bind(dict(trees.leaves(params)), threads=threads, dtype=dtype).apply()

    def bind(
        self,
        arrays: Mapping[str, NDArray[Any]],
        *,
        who: str = "",
        threads: int | None = None,
        dtype: Literal["bfloat16"] | None = None,
    ) -> Projection:
        """Check arrays once, and return what projects them as often as one likes.

        All that can be refused is refused here, but for arrays that have changed since: so an optimizer that binds its
        parameters when it is made projects them after a step without a check that could fail in between.

        Parameters
        ----------
        arrays : dict
            Arrays that do not overlap, by their place in the parameters as messages show it, such as ``"['bias']"``. To be
            bound again if they are moved, resized or retyped.
        who : str
            What messages begin with; the constraint's name by default.
        threads : int, optional
            As in `project`.
        dtype : {"bfloat16"}, optional
            As in `project`.

        Examples
        --------
        >>> w = np.array([[3.0, 4.0], [0.3, 0.4]])
        >>> projection = schuss.constraints.MaxNorm(2.5).bind({"": w})
        >>> for _ in range(2):
        ...     w *= 2
        ...     projection.apply()
        >>> w.round(12)
        array([[1.5, 2. ],
               [1.2, 1.6]])
        """
        who = who or type(self).__name__
        if threads is not None:
            threads = checked_threads(f"{who}: threads", threads)
        if dtype not in (None, "bfloat16"):
            raise ValueError(f'{who}: dtype must be "bfloat16" or None, got {dtype!r}')
        for path, array in arrays.items():
            self._check(f"{who}: params{path}", array, dtype)
        _refuse_overlaps(who, arrays)
        return self._bound([np.asarray(array) for array in arrays.values()], threads=threads, dtype=dtype)

    def _check(self, which: str, array: Any, dtype: str | None) -> None:
        """Refuse an array that cannot be projected in place."""
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{which} is a {type(array).__name__}, not a NumPy array; pass numpy.asarray of it")
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{which} is a masked array, and its mask would be ignored; pass its .data")
        bits = array.dtype == memory.BFLOAT16_BITS and dtype != "bfloat16"
        if bits or not memory.is_steppable(array):
            hint = '; pass dtype="bfloat16" if it holds the bits of such numbers' if bits else ""
            raise TypeError(f"{which} has dtype {array.dtype}, which cannot be projected{hint}")
        if not array.flags.c_contiguous and not array.flags.f_contiguous:
            raise BufferError(
                f"{which} is a strided view (shape {array.shape}, strides {array.strides}) and cannot be projected in place; "
                "pass a contiguous array"
            )
        if not array.flags.writeable:
            raise BufferError(f"{which} is read-only and cannot be projected in place; pass a writeable array")
        if not array.flags.aligned:
            raise BufferError(f"{which} is not aligned to its item size; pass an aligned array (a copy is)")
        if self.per == "row" and array.ndim > 1 and memory.is_fortran(array):
            raise BufferError(
                f"{which} is in Fortran order, but its rows must lie side by side; pass a C-contiguous array"
            )

    def _bound(self, arrays: Sequence[NDArray[Any]], **options: Any) -> Projection:
        """Return the projection of arrays that have been checked; the options are threads and dtype."""
        raise NotImplementedError


def _refuse_overlaps(who: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse contiguous arrays that share memory."""
    places = sorted((memory.address(array), array.nbytes, path) for path, array in arrays.items() if array.nbytes)
    for (start, size, first), (following, _, second) in itertools.pairwise(places):
        if start + size > following:
            raise ValueError(f"{who}: params{first} and params{second} share memory; pass arrays that do not overlap")


def checked(who: str, bounds: Any) -> Constraint | dict[str, Constraint]:
    """Return what an optimizer was given as bounds: a constraint (a pair is a box), or constraints by pattern."""
    if isinstance(bounds, Mapping):
        return {pattern: _checked_one(f"{who}: bounds[{pattern!r}]", each) for pattern, each in bounds.items()}
    return _checked_one(f"{who}: bounds", bounds)


def _checked_one(which: str, bounds: Any) -> Constraint:
    """Return a constraint, or the box of a pair."""
    if isinstance(bounds, Constraint):
        return bounds
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"{which} must be a pair (lower, upper) or a constraint, got {bounds!r}")
    real = Domain(upper_open=False)
    lower, upper = (float(real.check(f"{which}[{i}]", bound)) for i, bound in enumerate(bounds))
    if not lower <= upper:
        raise ValueError(f"{which} must be a pair with lower <= upper, got ({lower:g}, {upper:g})")
    return Box(lower, upper)


# ---- boxes ----------------------------------------------------------------------------------------------------------------


class _Boxed(Constraint):
    """A constraint of every element by itself."""

    def _bound(self, arrays: Sequence[NDArray[Any]], **options: Any) -> Projection:
        assert self.box is not None
        return _Clipped(arrays, *self.box)


@dataclass(frozen=True)
class Box(_Boxed):
    r"""Every element from `lower` to `upper`.

    .. math:: p \leftarrow \min(\max(p, \text{lower}), \text{upper})

    The bounds are rounded to the array's dtype. ``bounds=(lower, upper)`` is short for it.

    Parameters
    ----------
    lower : float
        In [-inf, inf).
    upper : float
        In (-inf, inf], and not less than `lower`.

    Examples
    --------
    >>> w = np.array([-2.0, 0.5, 7.0])
    >>> schuss.constraints.Box(-1, 1).project(w)
    >>> w
    array([-1. ,  0.5,  1. ])
    """

    lower: float
    upper: float

    def __post_init__(self) -> None:
        """Check the bounds."""
        _set(self, "lower", Domain())
        _set(self, "upper", Domain(lower_open=True, upper_open=False))
        if self.lower > self.upper:
            raise ValueError(f"Box: lower must not exceed upper, got {self.lower:g} and {self.upper:g}")

    @property
    def box(self) -> tuple[float, float]:
        """The bounds of every element."""
        return self.lower, self.upper


@dataclass(frozen=True)
class NonNegative(_Boxed):
    r"""No element below 0.

    .. math:: p \leftarrow \max(p, 0)

    Examples
    --------
    >>> w = np.array([-2.0, 0.5])
    >>> schuss.constraints.NonNegative().project(w)
    >>> w
    array([0. , 0.5])
    """

    @property
    def box(self) -> tuple[float, float]:
        """The bounds of every element."""
        return 0.0, math.inf


@dataclass(frozen=True)
class LInfBall(_Boxed):
    r"""No element larger than `radius` in size.

    .. math:: p \leftarrow \min(\max(p, -r), r)

    Of complex numbers neither part is.

    Parameters
    ----------
    radius : float
        In (0, inf).

    Examples
    --------
    >>> w = np.array([-2.0, 0.5])
    >>> schuss.constraints.LInfBall(1).project(w)
    >>> w
    array([-1. ,  0.5])
    """

    radius: float

    def __post_init__(self) -> None:
        """Check the radius."""
        _set(self, "radius", _POSITIVE)

    @property
    def box(self) -> tuple[float, float]:
        """The bounds of every element."""
        return -self.radius, self.radius


class _Clipped:
    """Arrays and the box of their elements."""

    def __init__(self, arrays: Sequence[NDArray[Any]], lower: float, upper: float) -> None:
        from schuss.reference import rounded

        self._parts = []
        for reals in map(_reals, arrays):
            with np.errstate(over="ignore"):  # a bound that the dtype cannot hold is none
                bounds = rounded(np.array([lower, upper]).astype(memory.compute_dtype(reals)), reals.dtype)
            self._parts.append((reals, bounds))

    def apply(self, active: Sequence[bool] | None = None) -> None:
        from schuss.reference import widened

        for reals, bounds in _chosen(self._parts, active):
            lower, upper = widened(bounds, np.float64)
            for block in _blocks(reals.reshape(-1, 1)):
                numbers = widened(block, np.float64)
                # Only what is outside is written: what is inside keeps its bits, and a NaN is neither.
                block[numbers < lower] = bounds[0]
                block[numbers > upper] = bounds[1]


# ---- norms, by a compiled pass --------------------------------------------------------------------------------------------


class _Normed(Constraint):
    """A constraint of the Euclidean norm."""

    def _norms(self) -> tuple[float, float]:
        """Return the least and the largest norm."""
        raise NotImplementedError

    def _bound(self, arrays: Sequence[NDArray[Any]], **options: Any) -> Projection:
        return _Scaled(arrays, *self._norms(), rows=self.per == "row", **options)


@dataclass(frozen=True)
class L2Ball(_Normed):
    r"""A Euclidean norm of at most `radius`.

    .. math:: p \leftarrow p \min(1, r / \|p\|_2)

    Boyd & Vandenberghe (2004), *Convex Optimization*, section 8.1.1, https://web.stanford.edu/~boyd/cvxbook/

    Parameters
    ----------
    radius : float
        In (0, inf).
    per : {"tensor", "row"}
        Whose norm; for rows see `MaxNorm`.

    Notes
    -----
    A norm beyond the radius by no more than rounding (relative to it: 2⁻⁴² and the dtype's unit of rounding, 2⁻⁸ for
    bfloat16) counts as inside, so that projecting again changes nothing.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> schuss.constraints.L2Ball(2.5).project(w)
    >>> w
    array([1.5, 2. ])
    """

    radius: float
    per: Per = "tensor"

    def __post_init__(self) -> None:
        """Check the radius."""
        _set(self, "radius", _POSITIVE)
        _check_per(self)

    def _norms(self) -> tuple[float, float]:
        return 0.0, self.radius


@dataclass(frozen=True)
class MaxNorm(L2Ball):
    r"""A Euclidean norm of at most `radius` for each row: the weights into one unit, of a matrix stored as (out, in).

    .. math:: p_i \leftarrow p_i \min(1, r / \|p_i\|_2) \qquad\text{for each row } i

    Srebro, Rennie & Jaakkola (2004), *Maximum-Margin Matrix Factorization*,
    https://papers.nips.cc/paper/2655-maximum-margin-matrix-factorization; with dropout: Srivastava et al. (2014),
    https://jmlr.org/papers/v15/srivastava14a.html

    Parameters
    ----------
    radius : float
        In (0, inf); 3 to 4 is usual with dropout.
    per : {"row", "tensor"}
        Whose norm.

    Notes
    -----
    `L2Ball` per row. Keras' MaxNorm bounds the columns by default, since its matrices are stored as (in, out).

    Examples
    --------
    >>> w = np.array([[3.0, 4.0], [0.3, 0.4]])
    >>> schuss.constraints.MaxNorm(2.5).project(w)
    >>> w
    array([[1.5, 2. ],
           [0.3, 0.4]])
    """

    per: Per = "row"


@dataclass(frozen=True)
class UnitNorm(_Normed):
    r"""A Euclidean norm of 1: the point on the sphere in the same direction.

    .. math:: p \leftarrow p / \|p\|_2

    Zeros have no direction and stay zero, as does what is shorter than 2⁻¹²⁰.

    Parameters
    ----------
    per : {"row", "tensor"}
        Whose norm.

    Notes
    -----
    The set is not convex: from within the sphere, too, points go to it. A norm that is 1 within rounding (see `L2Ball`)
    counts as 1, so that projecting again changes nothing.

    Examples
    --------
    >>> w = np.array([[3.0, 4.0], [0.0, 0.0]])
    >>> schuss.constraints.UnitNorm().project(w)
    >>> w.round(12)
    array([[0.6, 0.8],
           [0. , 0. ]])
    """

    per: Per = "row"

    def __post_init__(self) -> None:
        """Check whose norm."""
        _check_per(self)

    def _norms(self) -> tuple[float, float]:
        return 1.0, 1.0


class _Scaled:
    """Arrays and the bounds of their norms."""

    def __init__(
        self, arrays: Sequence[NDArray[Any]], lower: float, upper: float, *, rows: bool, **options: Any
    ) -> None:
        from schuss.optimizer import Group
        from schuss.passes.norm_bounds import NormBounds

        def slack(array: NDArray[Any]) -> float:
            """Return what rounding may make of a norm: of factor and products, of the stored numbers, of the sums."""
            compute, (unit, tiny) = np.finfo(memory.compute_dtype(array)), _rounding(array.dtype)
            size = _row_size(array, "row" if rows else "tensor")
            return 2 * float(compute.eps) + unit + _SUMS + math.sqrt(size) * tiny / upper

        # The pass does not use a gradient, but it is an optimizer: this one takes no memory.
        self._nothing = [np.broadcast_to(np.zeros((), array.dtype), array.shape) for array in arrays]
        self._pass = arrays and NormBounds(
            [Group(array, slack=slack(array)) for array in arrays],
            lower=lower,
            upper=upper,
            rows=rows,
            **options,
        )

    def apply(self, active: Sequence[bool] | None = None) -> None:
        if self._pass:
            on = [True] * len(self._nothing) if active is None else active
            self._pass.step([each if wanted else None for each, wanted in zip(self._nothing, on, strict=True)])


# ---- the simplex and the L1 ball, by sorting in NumPy ------------------------------------------------------------------------


@dataclass(frozen=True)
class Simplex(Constraint):
    r"""No element below 0, and the sum `total`: with the default, probabilities.

    .. math:: p \leftarrow \max(p - \tau, 0) \qquad\text{with } \tau \text{ such that } \textstyle\sum p = \text{total}

    Held, Wolfe & Crowder (1974), *Validation of subgradient optimization*, https://doi.org/10.1007/BF01580223;
    Duchi, Shalev-Shwartz, Singer & Chandra (2008), *Efficient Projections onto the l1-Ball for Learning in High Dimensions*,
    figure 1, https://stanford.edu/~jduchi/projects/DuchiShSiCh08.pdf

    Parameters
    ----------
    total : float
        In (0, inf).
    per : {"row", "tensor"}
        Whose sum.

    Notes
    -----
    Computed in float64 by sorting, with NumPy, on one thread: for mixtures and policies, not for the large matrices of a
    network. The sum is `total` to within the rounding of the array's dtype; a sum that is already is left alone. Complex
    arrays are refused.

    Examples
    --------
    >>> w = np.array([[0.5, 1.25], [3.0, -1.0]])
    >>> schuss.constraints.Simplex().project(w)
    >>> w
    array([[0.125, 0.875],
           [1.   , 0.   ]])
    """

    total: float = 1.0
    per: Per = "row"

    def __post_init__(self) -> None:
        """Check the sum."""
        _set(self, "total", _POSITIVE)
        _check_per(self)

    def _check(self, which: str, array: Any, dtype: str | None) -> None:
        super()._check(which, array, dtype)
        if array.dtype.kind == "c":
            raise TypeError(f"{which} has dtype {array.dtype}, but a simplex holds real numbers; pass a real array")
        rows = array.shape[0] if self.per == "row" and array.ndim > 1 else 1
        if rows > 0 and array.size == 0:
            raise ValueError(
                f"{which} has shape {array.shape}, but without elements there is no sum of {self.total:g}; "
                "pass an array with elements"
            )

    def _bound(self, arrays: Sequence[NDArray[Any]], **options: Any) -> Projection:
        return _Sorted(arrays, self.total, self.per, self._outside, _onto_simplex)

    @staticmethod
    def _outside(rows: NDArray[np.float64], total: float, slack: float) -> NDArray[np.bool_]:
        """Tell which rows are not in the set."""
        outside: NDArray[np.bool_] = (rows < 0).any(axis=1) | (np.abs(rows.sum(axis=1) - total) > slack)
        return outside


@dataclass(frozen=True)
class L1Ball(Constraint):
    r"""A sum of absolute values of at most `radius`: small elements become 0.

    .. math:: p \leftarrow \mathrm{sign}(p) \max(|p| - \tau, 0)
              \qquad\text{with the least } \tau \ge 0 \text{ such that } \textstyle\sum |p| \le r

    Duchi, Shalev-Shwartz, Singer & Chandra (2008), *Efficient Projections onto the l1-Ball for Learning in High Dimensions*,
    figures 1 and 2, https://stanford.edu/~jduchi/projects/DuchiShSiCh08.pdf

    Parameters
    ----------
    radius : float
        In (0, inf).
    per : {"tensor", "row"}
        Whose sum.

    Notes
    -----
    Computed as `Simplex`; what is inside, to within the rounding of the array's dtype, is left alone. Real and imaginary
    parts count by themselves.

    Examples
    --------
    >>> w = np.array([-0.5, 1.25, 0.0])
    >>> schuss.constraints.L1Ball(1.0).project(w)
    >>> w
    array([-0.125,  0.875,  0.   ])
    """

    radius: float
    per: Per = "tensor"

    def __post_init__(self) -> None:
        """Check the radius."""
        _set(self, "radius", _POSITIVE)
        _check_per(self)

    def _bound(self, arrays: Sequence[NDArray[Any]], **options: Any) -> Projection:
        return _Sorted(arrays, self.radius, self.per, self._outside, self._thresholded)

    @staticmethod
    def _outside(rows: NDArray[np.float64], total: float, slack: float) -> NDArray[np.bool_]:
        """Tell which rows are not in the set."""
        outside: NDArray[np.bool_] = np.abs(rows).sum(axis=1) - total > slack
        return outside

    @staticmethod
    def _thresholded(rows: NDArray[np.float64], total: float) -> NDArray[np.float64]:
        """Return the nearest points of the ball of rows outside it."""
        sizes = _onto_simplex(np.abs(rows), total)
        return np.where(sizes > 0, np.copysign(sizes, rows), 0.0)


class _Sorted:
    """Arrays whose rows, or the whole of each, go to the nearest point of a set with a given sum."""

    def __init__(
        self,
        arrays: Sequence[NDArray[Any]],
        total: float,
        per: Per,
        outside: Callable[[NDArray[np.float64], float, float], NDArray[np.bool_]],
        nearest: Callable[[NDArray[np.float64], float], NDArray[np.float64]],
    ) -> None:
        self._total, self._outside, self._nearest = total, outside, nearest
        self._parts = []
        for array in arrays:
            size, (unit, tiny) = _row_size(array, per), _rounding(array.dtype)
            self._parts.append((_reals(array).reshape(-1, max(size, 1)), total * (unit + _SUMS) + size * tiny))

    def apply(self, active: Sequence[bool] | None = None) -> None:
        from schuss.reference import rounded, widened

        for reals, slack in _chosen(self._parts, active):
            for block in _blocks(reals):
                rows = widened(block, np.float64)
                with np.errstate(all="ignore"):
                    chosen = np.isfinite(rows).all(axis=1) & self._outside(rows, self._total, slack)
                    if chosen.any():
                        block[chosen] = rounded(self._nearest(rows[chosen], self._total), block.dtype)


def _onto_simplex(rows: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Return the nearest points, row by row, without negative elements and of a given sum."""
    highest = rows.max(axis=1, keepdims=True)
    # In units of the sum and from the largest element, so that large numbers neither cancel nor overflow. What is further
    # below the largest than the sum becomes 0.
    below = np.maximum((rows - highest) / total, -1.0)
    descending = -np.sort(-below, axis=1)
    excess = np.cumsum(descending, axis=1) - 1.0
    count = np.arange(1, rows.shape[1] + 1)
    positive = (descending * count > excess).sum(axis=1, keepdims=True)
    tau = np.take_along_axis(excess, positive - 1, axis=1) / positive
    above = rows - (highest + tau * total)
    # The cumulative sum has rounded once per element; Newton's steps on the sum that results take that back.
    rest = np.zeros_like(tau)
    for _ in range(3):
        left = np.maximum(above - rest, 0.0)
        number = np.maximum((left > 0).sum(axis=1, keepdims=True), 1)
        rest = rest + (left.sum(axis=1, keepdims=True) - total) / number
    nearest: NDArray[np.float64] = np.maximum(above - rest, 0.0)
    return nearest


# ---- arrays as rows of reals ----------------------------------------------------------------------------------------------


def _set(constraint: Any, name: str, domain: Domain) -> None:
    """Check a number of a frozen constraint, and keep it as a float."""
    value = domain.check(f"{type(constraint).__name__}: {name}", getattr(constraint, name))
    object.__setattr__(constraint, name, value)


def _check_per(constraint: Any) -> None:
    """Check whose norm or sum a constraint is about."""
    if constraint.per not in ("row", "tensor"):
        raise ValueError(f'{type(constraint).__name__}: per must be "row" or "tensor", got {constraint.per!r}')


def _reals(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array's memory in its own order, as a vector of reals."""
    flat: NDArray[Any] = array.reshape(-1, order="F" if memory.is_fortran(array) else "C")
    assert not flat.size or memory.address(flat) == memory.address(array)
    return flat.view(np.float64 if flat.dtype == np.complex128 else np.float32) if flat.dtype.kind == "c" else flat


def _row_size(array: NDArray[Any], per: Per) -> int:
    """Return the number of reals in a row, or in all."""
    size = array.size * (2 if array.dtype.kind == "c" else 1)
    return size // max(array.shape[0], 1) if per == "row" and array.ndim > 1 else size


def _chosen(parts: Sequence[_Part], active: Sequence[bool] | None) -> Iterable[_Part]:
    """Return the parts of the active arrays."""
    return parts if active is None else [part for part, wanted in zip(parts, active, strict=True) if wanted]


def _blocks(rows: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Cut an array into runs of rows that are projected at a time."""
    step = max(_BLOCK // max(rows.shape[1], 1), 1)
    return [rows[first : first + step] for first in range(0, len(rows), step)]


def _rounding(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the largest error of rounding to a dtype: relative to a number, and in absolute terms near 0."""
    if dtype == memory.BFLOAT16_BITS or memory.is_bfloat16(dtype):
        return 2.0**-8, 2.0**-134
    info = np.finfo(dtype)
    return float(info.eps) / 2, float(info.smallest_subnormal) / 2
