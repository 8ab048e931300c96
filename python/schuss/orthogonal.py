"""What the optimizers that orthogonalise updates share: their options, and the work on the parts of a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schuss import linalg, trees
from schuss.hyperparameters import Domain
from schuss.matrix import Matrix, MatrixOptimizer

__all__ = ["NewtonSchulzOptimizer", "OrthogonalOptimizer", "inverse", "norms_of"]

Scale: TypeAlias = Literal["match_rms_adamw", "original", "spectral_unclamped"]

#: What an orthogonal matrix of so many rows and columns is multiplied with.
SCALES: Mapping[str | None, Callable[[int, int], float]] = {
    # Liu et al. (2025), section 2.2, https://arxiv.org/abs/2502.16982: 0.2 is the root mean square of Adam's updates.
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    # Jordan (2024), https://github.com/KellerJordan/Muon
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    # Bernstein (2025), https://jeremybernste.in/writing/deriving-muon
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
    None: lambda rows, columns: 1.0,
}

_BLOCKS = Domain(1.0, whole=True)


class Parts(NamedTuple):
    """The matrices in a tensor: how many rows and columns each has, and the rows of the blocks that it is split into."""

    rows: int
    columns: int
    blocks: tuple[int, ...]
    #: The axes of what has one number per row.
    axes: tuple[int, ...]


class NewtonSchulzOptimizer(MatrixOptimizer):
    """Base class of the optimizers that iterate polynomials of matrices, see `schuss.linalg.orthogonalize`."""

    coefficients: str | Sequence[Sequence[float]] = "quintic"
    steps: int | None = None

    def _checked_option(self, key: str, value: Any) -> Any:
        name = type(self).__name__
        if key == "coefficients" and not isinstance(value, str):
            return linalg.polynomials(name, value)[1]
        if key == "coefficients":
            linalg.polynomials(name, value)
        if key == "steps" and value is not None:
            return len(linalg.polynomials(name, "jordan", value)[1])
        return super()._checked_option(key, value)


class OrthogonalOptimizer(NewtonSchulzOptimizer):
    """Base class of the optimizers that orthogonalise an update, held in the work array ``u``, in one or several parts."""

    form: linalg.Form = "auto"
    scale: Scale | None = "match_rms_adamw"
    flatten: bool | Sequence[str] = True
    split: Mapping[str, int | Sequence[int]] | None = None

    def _checked_option(self, key: str, value: Any) -> Any:
        name = type(self).__name__
        if key == "form" and value not in ("auto", "plain", "gram"):
            raise ValueError(f"{name}: form must be 'auto', 'plain' or 'gram', got {value!r}")
        if key == "scale" and not (value is None or (isinstance(value, str) and value in SCALES)):
            raise ValueError(f"{name}: scale must be one of {', '.join(map(repr, SCALES))}, got {value!r}")
        if key == "flatten" and isinstance(value, list):
            return tuple(value)
        if key == "split" and value is not None:
            if not isinstance(value, Mapping):
                raise TypeError(
                    f"{name}: split must be a dict of numbers of row blocks by name, such as {{'*.qkv': 3}}, got {value!r}"
                )
            return {pattern: self._checked_blocks(pattern, blocks) for pattern, blocks in value.items()}
        return super()._checked_option(key, value)

    def _checked_blocks(self, pattern: object, blocks: Any) -> int | tuple[int, ...]:
        """Return a number of blocks, or the rows of each."""
        who = f"{type(self).__name__}: split of {pattern!r}"
        if isinstance(blocks, Sequence) and not isinstance(blocks, str) and blocks:
            return tuple(int(_BLOCKS.check(who, rows, "a whole number of rows")) for rows in blocks)
        return int(_BLOCKS.check(who, blocks, "a whole number, or a list of the rows of each block"))

    def _look_at_leaves(self) -> None:
        super()._look_at_leaves()
        name, names = type(self).__name__, self._names()
        flat = [self.flatten] * len(names)
        if not isinstance(self.flatten, bool):
            flat = [key is not None for key in trees.by_name(f"{name}: flatten", self.flatten, names)]
        chosen = trees.by_name(f"{name}: split", self.split or {}, names)
        self._parts: list[Parts | None] = []
        for i, (leaf, key) in enumerate(zip(self._leaves, chosen, strict=True)):
            blocks = None if key is None or self.split is None else self.split[key]
            if not self._is_matrix[i]:
                if blocks is not None:
                    raise ValueError(
                        f"{name}: split: params{self._paths[i]} is not stepped as a matrix; leave it out of {key!r}"
                    )
                self._parts.append(None)
                continue
            axes = leaf.shape[:1] if flat[i] else leaf.shape[:-1]
            rows, columns = axes[-1], leaf.size // math.prod(axes)
            parts = Parts(rows, columns, self._rows_of_blocks(i, rows, blocks), axes)
            self._parts.append(parts)

    def _rows_of_blocks(self, tensor: int, rows: int, blocks: int | Sequence[int] | None) -> tuple[int, ...]:
        if blocks is None:
            return (rows,)
        found = tuple(blocks) if isinstance(blocks, Sequence) else (rows // blocks,) * blocks
        if sum(found) != rows:
            wanted = (
                f"blocks of {', '.join(map(str, found))} rows" if isinstance(blocks, Sequence) else f"{blocks} blocks"
            )
            raise ValueError(
                f"{type(self).__name__}: split: params{self._paths[tensor]} has {rows} rows, which are not {wanted}; "
                "pass a number that divides them, or the rows of each block"
            )
        return found

    def _shape_in_plan(self, tensor: int) -> tuple[int, int]:
        parts = self._parts[tensor]
        if parts is None or not self._by_rows:
            return super()._shape_in_plan(tensor)
        return parts.rows, parts.columns

    def parts(self, matrix: Matrix) -> Parts:
        """Return what matrices a tensor within a step holds."""
        parts = self._parts[matrix.index]
        assert parts is not None, "no matrix"
        return parts

    def blocks(self, matrix: Matrix) -> Iterator[tuple[slice, float]]:
        """Yield the rows of each block, and the factor of its shape.

        Parameters
        ----------
        matrix : Matrix
            A tensor within a step.
        """
        parts = self.parts(matrix)
        last = 0
        for rows in parts.blocks:
            last += rows
            yield slice(last - rows, last), SCALES[self.scale](rows, parts.columns)

    def orthogonalize(self, matrix: Matrix, factors: Sequence[float] | None = None) -> None:
        """Orthogonalise every block of every matrix of the work array.

        Parameters
        ----------
        matrix : Matrix
            A tensor within a step.
        factors : sequence of float, optional
            What the blocks are multiplied with then.
        """
        u = matrix.work["u"]
        x = self._as_matrices(matrix, u)
        for i, (rows, _) in enumerate(self.blocks(matrix)):
            part = x[..., rows, :]
            linalg.orthogonalize(part, coefficients=self.coefficients, steps=self.steps, form=self.form, out=part)
            if factors is not None:
                part *= factors[i]
        if not np.may_share_memory(x, u):  # kernels in Fortran order: their flattened matrix is a copy
            u[...] = x.reshape(u.shape)

    def _as_matrices(self, matrix: Matrix, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array of the tensor's shape with matrices in its last two axes; a view, if there is one."""
        parts = self.parts(matrix)
        return array.reshape(parts.rows, parts.columns) if len(parts.axes) == 1 else array


def norms_of(squares: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
    """Return the norms of the blocks with these rows, one per matrix, from the sums of squares of rows."""
    norms: NDArray[np.float64] = np.sqrt(squares[:, rows].sum(axis=1, keepdims=True))
    return norms


def inverse(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one over numbers, and 0 over 0, so that nothing stays nothing."""
    return np.divide(1, x, out=np.zeros_like(x), where=x != 0)
