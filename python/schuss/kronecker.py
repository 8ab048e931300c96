"""What Shampoo and SOAP share: tensors cut into blocks, and a square matrix for each axis of a block, kept in one piece."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schuss.hyperparameters import Domain, Schedule
from schuss.matrix import MatrixOptimizer

__all__ = ["Block", "Blocks", "Every", "KroneckerOptimizer", "merged", "multiplied", "products_along"]

Array: TypeAlias = NDArray[Any]
#: In {1, 2, ...}, up to 2**53.
Every: TypeAlias = Annotated[float | Schedule, Domain(1.0, 2.0**53, upper_open=False, whole=True)]

#: Columns of a product that lie beside its own in memory: see `schuss.linalg`.
_PAD = 16


@dataclass(frozen=True)
class Block:
    """A part of a tensor, and where the square matrices of its axes begin in the memory that all blocks share."""

    where: tuple[slice, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    begins: tuple[int, ...]

    def matrices(self, packed: Array) -> list[Array]:
        """Return views of the matrices of its axes."""
        sizes = [self.shape[axis] for axis in self.axes]
        return [packed[at : at + n * n].reshape(n, n) for at, n in zip(self.begins, sizes, strict=True)]


@dataclass(frozen=True)
class Blocks:
    """How a tensor is cut: the shape it is cut in, the blocks, and the elements of all their matrices."""

    shape: tuple[int, ...]
    blocks: tuple[Block, ...]
    size: int

    def identities(self) -> NDArray[np.float64]:
        """Return the identity for every axis of every block."""
        packed = np.zeros(self.size)
        for block in self.blocks:
            for matrix in block.matrices(packed):
                np.fill_diagonal(matrix, 1.0)
        return packed


def merged(shape: Sequence[int], largest: float, *, backwards: bool = False) -> tuple[int, ...]:
    """Return a shape whose neighbouring axes are one where they have no more elements together than `largest`.

    Parameters
    ----------
    shape : sequence of int
        Axes of one element are left out, unless all are.
    largest : float
        The most elements of an axis that was merged.
    backwards : bool
        Begin with the last axis.

    Examples
    --------
    >>> schuss.kronecker.merged((64, 1, 3, 3), 200), schuss.kronecker.merged((64, 1, 3, 3), 200, backwards=True)
    ((192, 3), (64, 9))
    """
    axes: list[int] = []
    for n in reversed(shape) if backwards else shape:
        if axes and axes[-1] * n <= largest:
            axes[-1] *= n
        elif n != 1:
            axes.append(n)
    return tuple(reversed(axes) if backwards else axes) or (1,)


@functools.lru_cache(maxsize=1024)
def cut(shape: tuple[int, ...], size: float, largest: float) -> Blocks:
    """Return the blocks of a tensor.

    Parameters
    ----------
    shape : tuple of int
        The tensor's.
    size : float
        The most elements along an axis of a block.
    largest : float
        Axes of more elements are not cut and have no matrix.
    """
    has_matrix = [n <= largest for n in shape]
    pieces = [
        [slice(at, min(at + int(size), n)) for at in range(0, n, int(size))] if has and n > size else [slice(0, n)]
        for n, has in zip(shape, has_matrix, strict=True)
    ]
    blocks, end = [], 0
    axes = tuple(axis for axis, has in enumerate(has_matrix) if has)
    for where in itertools.product(*pieces):
        lengths = tuple(part.stop - part.start for part in where)
        squares = [lengths[axis] ** 2 for axis in axes]
        blocks.append(Block(where, lengths, axes, tuple(itertools.accumulate(squares[:-1], initial=end))[: len(axes)]))
        end += sum(squares)
    return Blocks(shape, tuple(blocks), end)


def multiplied(x: Array, matrices: Sequence[Array], axes: Sequence[int], *, transposed: bool = False) -> Array:
    r"""Return a tensor with each of some axes multiplied with a square matrix.

    .. math:: y_{\dots k \dots} = \sum_j A_{kj} x_{\dots j \dots}

    Parameters
    ----------
    x : array
        The tensor.
    matrices : sequence of array
        A of each axis.
    axes : sequence of int
        Which they are.
    transposed : bool
        Take the transpose of every matrix.

    Examples
    --------
    >>> turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    >>> schuss.kronecker.multiplied(np.array([[1.0, 2.0], [3.0, 4.0]]), [turn], [1])
    array([[-2.,  1.],
           [-4.,  3.]])
    """
    for matrix, axis in zip(matrices, axes, strict=True):
        a = matrix.T if transposed else matrix
        before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
        y = x.reshape(before, len(a)) @ a.T if after == 1 else a @ x.reshape(before, len(a), after)
        x = y.reshape(x.shape)
    return x


def products_along(x: Array, axis: int) -> Array:
    """Return the products of every two slices of a tensor across one axis: ``x @ x.T`` for the first of a matrix.

    Examples
    --------
    >>> schuss.kronecker.products_along(np.array([[1.0, 2.0], [3.0, 4.0]]), 0)
    array([[ 5., 11.],
           [11., 25.]])
    """
    n = x.shape[axis]
    rows = x.reshape(-1, n).T if axis == x.ndim - 1 else np.moveaxis(x, axis, 0).reshape(n, -1)
    return np.matmul(rows, rows.T, out=np.empty((n, n + _PAD), x.dtype)[:, :n])


class KroneckerOptimizer(MatrixOptimizer):
    """Base class of the optimizers with a square matrix, a factor, for each axis of a block.

    The factors of all blocks of a tensor lie in one array, block after block and axis after axis, each of (n, n) for n
    elements along its axis; so do what is made of them. `failures` counts for each block how often in a row that failed.
    """

    precondition_1d: bool = False

    def blocks_of(self, shape: tuple[int, ...]) -> Blocks:
        """Return how a tensor of a shape is cut."""
        raise NotImplementedError

    def is_matrix(self, parameter: Array) -> bool:
        """Tell whether an array has a factor."""
        if parameter.ndim == 0 or parameter.size == 0 or parameter.dtype.kind == "c":
            return False
        axes = sum(n > 1 for n in parameter.shape)
        return (axes > 1 or self.precondition_1d) and self.blocks_of(parameter.shape).size > 0

    def shape_of(self, slot: str, tensor: int) -> tuple[int, ...] | None:
        """Return the shape of what all blocks share."""
        if not self._is_matrix[tensor]:
            return None
        blocks = self.blocks_of(self._leaves[tensor].shape)
        return (len(blocks.blocks),) if slot == "failures" else (blocks.size,)

    def _checked_option(self, key: str, value: Any) -> Any:
        name = type(self).__name__
        if key in ("precondition_1d", "merge_dims"):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: {key} must be True or False, got {value!r}")
        elif key in ("block_size", "max_dim"):
            return None if value is None else int(_SIZE.check(f"{name}: {key}", value, "a whole number or None"))
        return super()._checked_option(key, value)

    def _failed(self, index: int, block: int, count: float, allowed: float, error: Exception) -> float:
        """Return how often in a row something has failed for a block, or raise where that is too often."""
        if count + 1 > allowed:
            raise RuntimeError(
                f"{type(self).__name__}: the factors of block {block} of params{self._paths[index]} could not be worked on "
                f"{int(count + 1)} times in a row ({error}); raise eps, or max_failures to go on with the old ones"
            ) from error
        return count + 1


#: Sizes of axes.
_SIZE = Domain(1.0, 2.0**53, upper_open=False, whole=True)
