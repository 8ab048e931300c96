"""Optimizers that see whole matrices: compiled sweeps with dense linear algebra between them, which is NumPy's."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schuss import memory, trees
from schuss._core import Undo
from schuss.math import row_total
from schuss.optimizer import Optimizer

__all__ = ["Matrix", "MatrixOptimizer", "Sweep", "fold", "look"]

_CHUNK, _TILE_ROWS = 16384, 16  # chunk_size and tile_rows in core/kernel.hpp


@dataclass
class Matrix:
    """One tensor within a step: what the work between two sweeps reads, and what it leaves.

    Attributes
    ----------
    index : int
        Which of the parameters it is.
    parameter : array
        The weights before the step, not to be changed.
    t : int
        The tensor's own count of steps, with this one.
    values : dict
        The hyper-parameters of its group at this step.
    state : dict
        Its slots of the state before the step, by name; not to be changed.
    new : dict
        What slots of `shaped` are to be after the step; written when the step is done.
    work : dict
        The arrays that sweeps write and read, by name: of the parameter's shape and memory order, in the compute type.
    rows, columns : dict
        The numbers per row and per column that later sweeps read, by name: arrays of shapes (matrices, rows) and
        (matrices, columns) in the compute type.
    numbers : list of float
        Those that later sweeps read, in the rule's order.
    kept : dict
        What `between` leaves for `after`, by any name.
    row_sums, column_sums : array
        What the last sweep added up, in float64: of shapes (terms, matrices, rows) and (terms, matrices, columns).
    """

    index: int
    parameter: NDArray[Any]
    t: int
    values: Mapping[str, float]
    state: Mapping[str, NDArray[Any]]
    new: dict[str, Any] = field(default_factory=dict)
    work: dict[str, NDArray[Any]] = field(default_factory=dict)
    rows: dict[str, NDArray[Any]] = field(default_factory=dict)
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    numbers: list[float] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    row_sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 0)))
    column_sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 0)))


@dataclass(frozen=True)
class Sweep:
    """What a reference yields where the rule stops between two sweeps: arrays to be worked on, or to be added up."""

    arrays: tuple[NDArray[Any], ...]
    first: int = 0
    over: Literal["rows", "columns", "columns_largest"] | None = None


def look(*arrays: NDArray[Any], first: int = 0) -> Sweep:
    """Return what a reference yields for `look` in its rule: arrays that go to `work`, from the one of a number on."""
    return Sweep(arrays, first)


def fold(*terms: NDArray[np.float64], over: Literal["rows", "columns", "columns_largest"]) -> Sweep:
    """Return what a reference yields for `fold` in its rule: terms to be added up over every row, and every column."""
    return Sweep(terms, over=over)


class MatrixOptimizer(Optimizer):
    """Base class of the optimizers that see whole matrices; the others of their parameters they step element by element.

    A subclass has a rule in ``cpp/rules/matrix/``, and the work between its sweeps as `between`. The reference is a generator
    that yields a `look` or `fold` where the rule does, and gets the `Matrix` back that `between` has worked on; at its start
    it may yield None for the one that `before` has prepared.
    """

    exact = False
    exclude: Sequence[str] = ()
    _stops = True

    # ---- what a subclass says ----------------------------------------------------------------------------------------

    def before(self, matrix: Matrix) -> None:
        """Prepare what the first sweep over one tensor reads: its numbers of rows and columns, from the state."""

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Work on one tensor after a sweep.

        Parameters
        ----------
        sweep : int
            How many sweeps are done, from 1.
        matrix : Matrix
            The tensor.
        """
        raise NotImplementedError

    def after(self, matrix: Matrix) -> None:
        """Go on when the step is done and `new` is in the state: `state` may be changed in place, but for its shapes.

        What can fail, such as a factorisation, belongs in `between`, where nothing has been changed yet.
        """

    def is_matrix(self, parameter: NDArray[Any]) -> bool:
        """Tell whether an array that is not in `exclude` is stepped as a matrix."""
        return parameter.ndim >= 2 and parameter.size > 0 and parameter.dtype.kind != "c"

    def rows_and_columns(self, parameter: NDArray[Any]) -> tuple[int, int]:
        """Return the shape of each of the matrices that lie in an array one after the other, for sums and numbers of rows."""
        return parameter.shape[-2], parameter.shape[-1]

    # ---- the kind ----------------------------------------------------------------------------------------------------

    def _checked_option(self, key: str, value: Any) -> Any:
        if key == "exclude":
            # Patterns are checked where the names are known.
            return tuple(value) if isinstance(value, list) else value
        return super()._checked_option(key, value)

    def _look_at_leaves(self) -> None:
        excluded = trees.by_name(f"{type(self).__name__}: exclude", self.exclude, self._names())
        kernel = self._kernel()
        self._is_matrix = [
            memory.is_steppable(leaf) and excluded[i] is None and self.is_matrix(leaf)
            for i, leaf in enumerate(self._leaves)
        ]
        # Only sums and numbers of rows and columns need to know where these lie.
        self._by_rows = bool(kernel["rows"] or kernel["columns"])
        self._step_of: list[Matrix] = []

    def _keeps(self, slot: str, tensor: int) -> bool:
        kernel = self._kernel()
        return slot in (kernel["matrix"] if self._is_matrix[tensor] else kernel["plain"])

    def _tell_plan(self) -> None:
        for i, leaf in enumerate(self._leaves):
            if self._is_matrix[i] and self._by_rows and memory.is_fortran(leaf):
                raise BufferError(
                    f"{type(self).__name__}: params{self._paths[i]} is in Fortran order, but its rows must lie side by side; "
                    "pass a C-contiguous array"
                )
            self._plan.set_matrix(i, self._is_matrix[i], *self._shape_in_plan(i))

    def _shape_in_plan(self, tensor: int) -> tuple[int, int]:
        """Return rows and columns as sweeps see them; all in one row where nothing is said of rows."""
        leaf = self._leaves[tensor]
        if self._is_matrix[tensor] and self._by_rows:
            return self.rows_and_columns(leaf)
        return 1, max(1, leaf.size * (2 if leaf.dtype.kind == "c" else 1))

    def _new_matrix(
        self, tensor: int, parameter: NDArray[Any], t: int, values: Mapping[str, float], state: Mapping[str, Any]
    ) -> Matrix | None:
        """Return a tensor of the step to come with room for the work; None where there is none to do."""
        kernel = self._kernel()
        if not kernel["passes"][self._is_matrix[tensor]] or parameter.size == 0:
            return None
        matrix = Matrix(tensor, parameter, t, values, state)
        compute = memory.compute_dtype(self._leaves[tensor])
        order: Literal["F", "C"] = "F" if memory.is_fortran(parameter) else "C"
        matrix.work = {name: np.empty(parameter.shape, compute, order=order) for name in kernel["work"]}
        if self._is_matrix[tensor]:
            rows, columns = self._shape_in_plan(tensor)
            count = parameter.size // (rows * columns)
            matrix.rows = {name: np.zeros((count, rows), compute) for name in kernel["rows"]}
            matrix.columns = {name: np.zeros((count, columns), compute) for name in kernel["columns"]}
            self.before(matrix)
        return matrix

    def _between(self, values: Sequence[Mapping[str, float]], sweep: int) -> Any:
        """Do the work after a sweep of the step under way, on all its tensors."""
        if sweep == 0:
            found = [
                self._new_matrix(
                    i, leaf, int(self._counts[i]) + 1, values[self._group_of[i]], dict(self._named_slots(i))
                )
                for i, (leaf, active) in enumerate(zip(self._leaves, self._plan.active(), strict=True))
                if active
            ]
            self._step_of = [matrix for matrix in found if matrix is not None]
            for matrix in self._step_of:
                for slot, array in enumerate([*matrix.work.values(), *matrix.rows.values(), *matrix.columns.values()]):
                    self._plan.set_work(matrix.index, slot, array)
            return None
        if sweep < 0:
            return self._results()
        for matrix in self._step_of:
            if sweep <= self._kernel()["passes"][self._is_matrix[matrix.index]]:
                self._sum_up(matrix, *self._plan.folded(matrix.index))
                with np.errstate(all="ignore"):  # what is not finite goes on as it does within a sweep
                    self.between(sweep, matrix)
                self._plan.set_numbers(matrix.index, matrix.numbers)
        return None

    def _results(self) -> tuple[list[tuple[NDArray[Any], NDArray[Any]]], Undo | None, Callable[[], None] | None]:
        """Return what is kept of the step when it is done, and what is to be done then."""
        copies = []
        for matrix in self._step_of:
            for name, values in matrix.new.items():
                slot = matrix.state[name]
                new = np.empty(slot.shape, slot.dtype)
                with np.errstate(all="ignore"):
                    new[...] = values
                copies.append((slot, new))
        if not any(matrix.kept for matrix in self._step_of):
            return copies, None, None
        return copies, Undo([*self._leaves, *self._state_arrays()]), self._finish

    def _sum_up(self, matrix: Matrix, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
        """Give a tensor what a sweep added up."""
        shape = self._shape_in_plan(matrix.index)
        matrix.row_sums = rows.reshape(len(rows), -1, shape[0])
        matrix.column_sums = columns.reshape(len(columns), -1, shape[1])

    def _finish(self) -> None:
        """Go on when the step is done; an error takes it back."""
        with np.errstate(all="ignore"):
            for matrix in self._step_of:
                self.after(matrix)

    def _step_among(self, grads: Any, arrays: Any, numbers: Any, grad_scale: float) -> int:
        try:
            return super()._step_among(grads, arrays, numbers, grad_scale)
        finally:  # the room for the work is the step's, also where it has failed
            self._step_of = []

    def _keep_results(self, matrix: Matrix) -> None:
        """Keep what a step of the reference has led to."""
        with np.errstate(all="ignore"):
            for name, values in matrix.new.items():
                matrix.state[name][...] = values
            self.after(matrix)

    def _run_reference(
        self, running: Generator[Sweep | None, Matrix | None, None], tensor: int, matrix: Matrix | None
    ) -> None:
        """Run the reference of one tensor, with the same work between its sweeps."""
        sweep = 0
        result: Matrix | None = None
        names = self._kernel()["work"]
        while True:
            try:
                asked = running.send(result)
            except StopIteration:
                return
            if matrix is None:  # there is nothing to work on
                return
            if asked is None:
                result = self._seen(matrix)
                continue
            sweep += 1
            if asked.over is None:
                for name, array in zip(names[asked.first :], asked.arrays, strict=False):
                    work = matrix.work[name]
                    (work.T if memory.is_fortran(work) else work)[...] = array
            else:
                shape = self._shape_in_plan(tensor)
                self._sum_up(matrix, *_folded(asked, *shape))
            self.between(sweep, matrix)
            result = self._seen(matrix)

    def _seen(self, matrix: Matrix) -> Matrix:
        """Return a tensor as a reference sees it: arrays in C order of memory, numbers of rows and columns as arrays."""
        work = {name: each.T if memory.is_fortran(each) else each for name, each in matrix.work.items()}
        rows, columns = self._shape_in_plan(matrix.index)

        def spread(numbers: NDArray[Any]) -> NDArray[Any]:
            return np.broadcast_to(numbers, (len(numbers), rows, columns)).reshape(matrix.parameter.shape)

        return replace(
            matrix,
            work=work,
            rows={name: spread(each[:, :, None]) for name, each in matrix.rows.items()},
            columns={name: spread(each[:, None, :]) for name, each in matrix.columns.items()},
        )


def _folded(asked: Sweep, rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what terms add up to over every row and every column, in the order of the compiled sweeps."""
    terms = [np.asarray(term, np.float64).reshape(-1, rows, columns) for term in asked.arrays]
    largest = asked.over == "columns_largest"
    over_rows = [
        term.max(axis=2, initial=0.0).reshape(-1) if largest else row_total(term, (math.prod(term.shape[:2]),))
        for term in terms
    ]
    if asked.over == "rows":
        return np.array(over_rows), np.zeros((len(terms), 0))
    height = max(4 * _CHUNK // min(columns, _CHUNK), _TILE_ROWS)
    over_columns = []
    for term in terms:
        if largest:
            over_columns.append(term.max(axis=1, initial=0.0).reshape(-1))
            continue
        tiles = [_sum_of_rows(term[:, at : at + height]) for at in range(0, rows, height)]
        total = np.zeros_like(tiles[0])
        for tile in tiles:
            total = total + tile
        over_columns.append(total.reshape(-1))
    return np.array(over_rows), np.array(over_columns)


def _sum_of_rows(term: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums over rows, one row after the other; NumPy's reduction of a single column adds in pairs."""
    return np.add.reduce(term, axis=1) if term.shape[2] > 1 else np.add.accumulate(term, axis=1)[:, -1]
