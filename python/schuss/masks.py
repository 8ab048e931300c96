"""Dropout, whose masks are functions of a key: nothing is kept for the backward pass but the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss import _core, memory
from schuss._runtime import number_of_threads
from schuss.hyperparameters import Domain
from schuss.math import random_words
from schuss.reference import _as_reals, rounded, widened

__all__ = ["DropoutMask", "dropout"]

_RATE = Domain(0.0, 1.0)


@dataclass(frozen=True)
class DropoutMask:
    """Which elements of an array a dropout keeps, as `dropout` returns it.

    The mask is drawn anew where it is needed, from 32 random bits per element (`schuss.math.random_words` of `key`, in the
    C order of the elements, whatever lies in memory): it takes no memory, and pickles as three numbers.

    Parameters
    ----------
    key : int
        Of the random words, in [0, 2**64).
    rate : float
        The share of elements that are dropped, in [0, 1); rounded to a multiple of ``2**-32`` for the drawing.
    shape : tuple of int
        Of the array.

    Examples
    --------
    >>> mask = schuss.DropoutMask(key=13, rate=0.5, shape=(6,))
    >>> mask.kept
    array([ True, False,  True, False, False,  True])
    >>> mask.apply(np.arange(6.0))
    array([ 0.,  0.,  4.,  0.,  0., 10.])
    """

    key: int
    rate: float
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check key and rate."""
        if not isinstance(self.key, int) or not 0 <= self.key < 2**64:
            raise ValueError(f"DropoutMask: key must be a whole number in [0, 2**64), got {self.key!r}")
        _RATE.check("DropoutMask: rate", self.rate)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """True where an element is kept."""
        return (random_words(self.key, int(np.prod(self.shape))) >= self._threshold).reshape(self.shape)

    def apply(self, x: NDArray[Any], *, out: NDArray[Any] | None = None, threads: int | None = None) -> Any:
        """Return ``x / (1 - rate)`` where an element is kept and 0 where it is dropped (see `dropout`).

        Examples
        --------
        >>> schuss.DropoutMask(key=13, rate=0.5, shape=(2,)).apply(np.array([1.0, np.nan]))
        array([2., 0.])
        """
        return self._apply("DropoutMask.apply", "x", x, out, threads)

    def backward(self, grad: NDArray[Any], *, out: NDArray[Any] | None = None, threads: int | None = None) -> Any:
        """Return the gradient with respect to the input of `dropout`, given that with respect to its output.

        A dropout is linear and diagonal: this is the same operation as the forward pass.

        Parameters
        ----------
        grad : array
            Of the shape of the input.
        out : array, optional
            Written instead of a new array; may be `grad` itself.
        threads : int, optional
            At least 1; `schuss.get_num_threads` if not given.

        Examples
        --------
        >>> schuss.DropoutMask(key=13, rate=0.5, shape=(2,)).backward(np.ones(2))
        array([2., 0.])
        """
        return self._apply("DropoutMask.backward", "grad", grad, out, threads)

    def reference(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return what `apply` does, in NumPy.

        Examples
        --------
        >>> schuss.DropoutMask(key=13, rate=0.5, shape=(2,)).reference(np.ones(2))
        array([2., 0.])
        """
        numbers = np.ascontiguousarray(x).reshape(-1)
        reals = _as_reals(numbers)
        wide = widened(reals, np.float64 if reals.dtype == np.float64 else np.float32)
        kept = np.repeat(self.kept.reshape(-1), reals.size // max(numbers.size, 1))
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.where(kept, wide * wide.dtype.type(1 / (1 - self.rate)), wide.dtype.type(0))
            return rounded(scaled, reals.dtype).view(x.dtype).reshape(x.shape)

    @property
    def _threshold(self) -> int:
        """What a word must reach for its element to be kept."""
        return min(round(self.rate * 2**32), 2**32 - 1)

    def _apply(self, who: str, name: str, x: Any, out: Any, threads: int | None) -> Any:
        """Check and run."""
        if isinstance(x, np.ndarray) and x.shape != self.shape:
            raise ValueError(f"{who}: {name} has shape {x.shape}, but the mask has shape {self.shape}")
        many = number_of_threads(who, threads)
        stack, result = _stack(who, name, x, out)
        self._drop(stack, many)
        return result

    def _drop(self, stack: _core.Stack, threads: int) -> None:
        """Run over an array that was checked."""
        stack.drop(self.key, self._threshold, 1 / (1 - self.rate), threads)


def _stack(who: str, name: str, x: Any, out: Any) -> tuple[_core.Stack, Any]:
    """Return the checked arrays, and the one that will be written."""
    if isinstance(out, np.ndarray) and memory.is_fortran(out):
        raise BufferError(f"{who}: out is in Fortran order, but masks are drawn in C order; pass a C-contiguous array")
    if out is None and isinstance(x, np.ndarray):
        out = np.empty(x.shape, x.dtype)
    return _core.Stack(who, [name], "out", [""], [[x]], [out]), out


def dropout(
    x: NDArray[Any],
    rate: float,
    rng: np.random.Generator | int | None = None,
    *,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> tuple[Any, DropoutMask]:
    r"""Drop elements at random and scale the others up, so that the mean stays.

    .. math:: y_i = \begin{cases} 0 & u_i < \text{rate} \\ x_i / (1 - \text{rate}) & \text{else} \end{cases}

    with independent :math:`u_i` uniform in [0, 1). Srivastava et al. (2014), *Dropout: a simple way to prevent neural networks
    from overfitting*, https://jmlr.org/papers/v15/srivastava14a.html

    Parameters
    ----------
    x : array
        Of float64, float32, float16, bfloat16, complex128 or complex64, of any strides. A complex number is kept or dropped
        as a whole. What is dropped is 0 even where `x` is NaN or infinite.
    rate : float
        The probability of an element to be dropped, in [0, 1).
    rng : numpy.random.Generator, int or None
        A Generator, of which one number of 64 bits is drawn; or what `numpy.random.default_rng` takes: a seed, which gives the
        same mask at every call, or None for a mask that nobody can repeat.
    out : array, optional
        Written instead of a new array: of the shape and dtype of `x`, C-contiguous; may be `x` itself.
    threads : int, optional
        At least 1; `schuss.get_num_threads` if not given. The mask does not depend on it.

    Returns
    -------
    y : array
        The output.
    mask : DropoutMask
        What the backward pass needs: ``mask.backward(grad)``.

    Raises
    ------
    TypeError
        If `x` is no array of such numbers, or `rng` is none of these.
    ValueError
        If `rate` is out of range, or `out` does not fit.

    Examples
    --------
    >>> rng = np.random.default_rng(12)
    >>> y, mask = schuss.dropout(np.ones(5), 0.5, rng)
    >>> y
    array([0., 2., 2., 2., 0.])
    >>> mask.backward(np.full(5, 0.1))
    array([0. , 0.2, 0.2, 0.2, 0. ])
    """
    rate = float(_RATE.check("dropout: rate", rate))
    many = number_of_threads("dropout", threads)
    stack, y = _stack("dropout", "x", x, out)
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise TypeError(f"dropout: rng must be a numpy.random.Generator, a seed or None, got {rng!r}") from None
    mask = DropoutMask(int(generator.integers(2**64, dtype=np.uint64)), rate, x.shape)
    mask._drop(stack, many)
    return y, mask
