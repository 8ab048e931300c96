"""SM3."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.hyperparameters import Fraction, NonNegative, UnitInterval
from schuss.matrix import Matrix, MatrixOptimizer, fold


class SM3(MatrixOptimizer, rule="sm3"):
    r"""SM3: Adagrad with one accumulator per entry of every axis instead of one per element.

    .. math::

        \nu &= \beta_2 \min_d a_d + (1 - \beta_2)\, g^2 \qquad (\min_d a_d + g^2 \text{ for } \beta_2 = 1) \\
        a_d &\leftarrow \max \nu \qquad\text{over all axes but } d \text{, for each axis } d \\
        u &= g / \sqrt{\nu + \epsilon} \qquad (0 \text{ where } \nu = 0) \\
        m &\leftarrow \mu m + (1 - \mu) u \qquad\text{(with momentum; else } m = u \text{)} \\
        p &\leftarrow p - \eta m

    :math:`\nu` bounds the sum of squares that Adagrad keeps from above.

    Anil, Gupta, Koren & Singer (2019), *Memory-Efficient Adaptive Optimization*, SM3-II, https://arxiv.org/abs/1901.11150

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
        Arrays of two and more dimensions must be C-contiguous, unless they are excluded.
    lr : float or schedule
        Step size, in [0, inf).
    momentum : float or schedule
        μ, in [0, 1). At 0 no mean of steps is kept.
    beta2 : float or schedule
        Decay of the accumulators, in [0, 1]; at 1 squares are added up.
    eps : float or schedule
        Added inside the root, in [0, inf).
    exclude : sequence of str
        Patterns of the names of arrays that have an accumulator per element.

    Notes
    -----
    State: of an array of two and more dimensions `accumulators`, one value per entry of every axis, those of the first axis
    first (``4 * sum(shape) / size`` bytes per float32 parameter), of the others and of complex arrays `v`, one value per
    element (4 bytes); with momentum also `m` (4 bytes).

    For embeddings and attention with gradients whose large entries share rows and columns, where Adagrad's memory is too
    much. A step needs room for one number per row, all axes but the last one being rows, while it lasts.

    Optax's form and defaults, but for NaN: optax steps by 0 where an accumulator is NaN. Pytorch_optimizer is
    ``lr=0.1, momentum=0, beta2=1, eps=1e-30``; what it calls beta also keeps the largest accumulator so far.

    Examples
    --------
    >>> w = np.zeros((2, 2))
    >>> opt = schuss.SM3(w, lr=1.0, momentum=0.0, eps=0.0)
    >>> for _ in range(2):
    ...     opt.step(np.array([[4.0, 3.0], [1.0, 0.0]]))
    >>> opt.state["accumulators"]
    array([32.,  2., 32., 18.])
    >>> w.round(4)
    array([[-1.7071, -1.7071],
           [-1.7071,  0.    ]])
    """

    lr: NonNegative = 1e-3  #: step size
    momentum: Fraction = 0.9  #: decay of the mean of steps
    beta2: UnitInterval = 1.0  #: decay of the accumulators
    eps: NonNegative = 1e-8  #: added inside the root

    exact = True
    shaped = ("accumulators",)

    def shape_of(self, slot: str, tensor: int) -> tuple[int, ...] | None:
        """Return the shape of the accumulators of all axes."""
        return (sum(self._leaves[tensor].shape),) if self._is_matrix[tensor] else None

    def rows_and_columns(self, parameter: NDArray[Any]) -> tuple[int, int]:
        """Return all axes but the last one as rows."""
        columns = parameter.shape[-1]
        return parameter.size // columns, columns

    def before(self, matrix: Matrix) -> None:
        """Give every row the least of its accumulators."""
        shape = matrix.parameter.shape
        *first, last = np.split(matrix.state["accumulators"], list(itertools.accumulate(shape))[:-1])
        least = matrix.rows["row"].reshape(shape[:-1])
        least[...] = np.inf
        for axis, accumulators in enumerate(first):
            np.minimum(least, accumulators.reshape([-1] + [1] * (least.ndim - axis - 1)), out=least)
        matrix.columns["column"][...] = last

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Take the largest of every axis."""
        rows = matrix.row_sums[0].reshape(matrix.parameter.shape[:-1])
        axes = range(rows.ndim)
        largest = [rows.max(axis=tuple(other for other in axes if other != axis)) for axis in axes]
        matrix.new["accumulators"] = np.concatenate([*largest, matrix.column_sums[0, 0]])

    @staticmethod
    def reference(p, g, v, m, *, t, lr, momentum, beta2, eps, matrix):
        """Step one tensor in NumPy."""
        share = 1 - beta2 if beta2 < 1 else 1.0
        if matrix:
            seen = yield
            nu = beta2 * np.minimum(seen.rows["row"], seen.columns["column"]) + share * (g * g)
            yield fold(nu, over="columns_largest")
        else:
            nu = v[...] = beta2 * v + share * (g * g)
        u = np.where(nu == 0, 0, g / np.sqrt(nu + eps))
        if m is not None:
            m[...] = momentum * m + (1 - momentum) * u
        p[...] = p - lr * (u if m is None else m)
