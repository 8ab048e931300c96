"""Optimizers that keep squares of a matrix as means of its rows and columns, and what their work has in common."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.hyperparameters import Domain
from schuss.math import row_total, total
from schuss.matrix import Matrix, MatrixOptimizer

__all__ = ["FactoredOptimizer"]

_SIZES = Domain(1.0, 2.0**53, upper_open=False, whole=True)


class FactoredOptimizer(MatrixOptimizer):
    """Base class of the optimizers whose slots `row...` and `column...` are means over columns and over rows.

    The last two axes are those of the matrices; those before number them. There is no product of matrices between the
    sweeps: all is equal to the reference bit for bit.
    """

    exact = True
    min_dim_size_to_factor: int = 1

    def _checked_option(self, key: str, value: Any) -> Any:
        if key == "min_dim_size_to_factor":
            return int(_SIZES.check(f"{type(self).__name__}: {key}", value, "a whole number"))
        return super()._checked_option(key, value)

    def is_matrix(self, parameter: NDArray[Any]) -> bool:
        """Tell whether an array that is not in `exclude` is factored."""
        return super().is_matrix(parameter) and min(parameter.shape[-2:]) >= self.min_dim_size_to_factor

    def shape_of(self, slot: str, tensor: int) -> tuple[int, ...] | None:
        """Return the shape of a slot of means: that of the parameter, with 1 in place of the axis they run over."""
        if not self._is_matrix[tensor]:
            return None
        shape = self._leaves[tensor].shape
        return (*shape[:-1], 1) if slot.startswith("row") else (*shape[:-2], 1, shape[-1])

    def rms(self, matrix: Matrix, term: int) -> float:
        """Return the root mean square of what a sweep added up the squares of."""
        squares = matrix.row_sums[term]
        return math.sqrt(total(squares) / max(1, squares.size * self._shape_in_plan(matrix.index)[1]))

    def average(self, matrix: Matrix, suffix: str, share: float, added: float = 0.0, least: float = 0.0) -> None:
        """Move the means of a square by a share towards those that a sweep added up; leave one over their roots.

        Parameters
        ----------
        matrix : Matrix
            The tensor.
        suffix : str
            What follows "row" and "column" in the names of the slots, and of the numbers of rows and columns that become
            ``1 / sqrt(row / mean(row))`` and ``1 / sqrt(column)``.
        share : float
            Of the new means, in [0, 1].
        added : float
            What is added to every square.
        least : float
            Bound of the mean of `row`.
        """
        row, column = f"row{suffix}", f"column{suffix}"
        sums = {row: matrix.row_sums[0], column: matrix.column_sums[0]}
        count, rows = sums[row].shape
        for name, over in ((row, sums[column].shape[1]), (column, rows)):
            old = matrix.state[name]
            now = (sums[name] / over + added).astype(old.dtype).reshape(old.shape)
            matrix.new[name] = (1 - share) * old + share * now
        means = np.maximum(row_total(matrix.new[row], (count,)) / rows, least).astype(matrix.new[row].dtype)
        matrix.rows[row][...] = 1 / np.sqrt(matrix.new[row].reshape(count, rows) / means[:, None])
        matrix.columns[column][...] = 1 / np.sqrt(matrix.new[column].reshape(count, -1))
