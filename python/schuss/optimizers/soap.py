"""SOAP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from schuss.hyperparameters import Domain, Fraction, NonNegative, Schedule, Switch, Whole
from schuss.kronecker import Blocks, Every, KroneckerOptimizer, cut, merged, multiplied, products_along
from schuss.linalg import eigenbasis, refreshed_basis
from schuss.math import one_minus_power
from schuss.matrix import Matrix, look

#: The least root mean square that an update is divided by: the authors' own.
_FLOOR = 1e-30


class SOAP(KroneckerOptimizer, rule="soap"):
    r"""SOAP: Adam in the eigenbasis of Shampoo's factors, which is refreshed every few steps.

    .. math::

        G' &= Q_L^\top G Q_R \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) G' \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) G'^2 \\
        p &\leftarrow (1 - \eta \lambda) \Big( p - \eta \frac{\sqrt{1 - \beta_2^k}}{1 - \beta_1^k} \,
            Q_L \frac{m}{\sqrt v + \epsilon} Q_R^\top \Big) \\
        L &\leftarrow \beta L + (1 - \beta) G G^\top \qquad R \leftarrow \beta R + (1 - \beta) G^\top G

    with k = t - 1, and every `frequency` steps a step of orthogonal iteration for either side, which m and v follow:

    .. math:: Q \leftarrow \operatorname{qr}(L Q_\pi) \qquad \pi = \text{descending order of } \operatorname{diag}(Q^\top L Q)

    The first step makes L, R and their eigenvectors, and changes no parameter. Tensors of more axes have a factor for each.

    Vyas et al. (2025), *SOAP: improving and stabilizing Shampoo using Adam*, Algorithm 3, https://arxiv.org/abs/2409.11321

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    factor_beta : float or schedule
        β, the decay of the factors, in [-1, 1): -1 for that of `beta2`, or not negative.
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).
    frequency : int or schedule
        How many steps apart the bases are refreshed, in {1, 2, ...}.
    bias_correction : bool
        Adam's; without it the fraction with k in it is 1.
    normalize_grads : bool
        Divide the update of each matrix by the root of its mean square.
    max_failures : int or schedule
        How often in a row a refresh may fail, in {0, 1, 2, ...}.
    max_dim : int or None
        Axes longer than that have no factor. None for any.
    merge_dims : bool
        Join neighbouring axes that have no more than `max_dim` elements together, beginning with the first.
    precondition_1d : bool
        Give vectors a factor as well. Else they are stepped in their own basis, as is all that has no factor.
    exclude : sequence of str
        Patterns of the names of parameters that are to have no factor.

    Notes
    -----
    State: `m` and `v`, one value each per element, in the bases; for a matrix of (r, c) `factors` and `bases` of r² + c² values
    each, and `failures`, 1 value. A float32 matrix of (1024, 1024) has 24 bytes per parameter. The square matrices of all
    axes of a tensor lie one after the other in one array per slot.

    A basis that cannot be refreshed stays, and that is counted in `state["failures"]`; more than `max_failures` in a row are a
    RuntimeError. Where LAPACK finds no eigenvectors in the first step, that is numpy.linalg.LinAlgError. Either leaves
    everything as it was. What is not finite in a gradient goes on into the parameters; if it is in the first one, the bases are
    NaN.

    For networks of large matrices, in place of AdamW with about its step size, where a third of the steps fewer is worth the
    products and the memory.

    This is the authors' code but for `normalize_grads`, which here leaves alone what has no factor, and arrays such as
    (1, n), which here are vectors. As there, the decay comes after the step, and `eps` is not bias-corrected. Where a factor is
    not of full rank, as in the first steps of a matrix that is not square, any basis of what it lacks is right, and results
    depend on LAPACK's choice.

    Equality with the reference is not exact between BLAS libraries and numbers of threads: products are NumPy's.

    Examples
    --------
    >>> w = np.zeros((2, 2))
    >>> opt = schuss.SOAP(w, lr=0.1, weight_decay=0.0)
    >>> for _ in range(2):
    ...     opt.step(np.diag([4.0, 1.0]))
    >>> w.round(6) + 0.0
    array([[-0.1,  0. ],
           [ 0. , -0.1]])
    """

    lr: NonNegative = 3e-3  #: step size
    beta1: Fraction = 0.95  #: decay of the mean
    beta2: Fraction = 0.95  #: decay of the square
    factor_beta: Annotated[float | Schedule, Domain(-1.0, 1.0)] = -1.0  #: decay of the factors; -1: beta2
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 1e-2  #: decay of the weights per unit of step size
    frequency: Every = 10  #: steps from one refresh of the bases to the next
    bias_correction: Switch = True  #: Adam's, in the step size
    normalize_grads: Switch = False  #: divide the update by its root mean square
    max_failures: Whole = 3  #: how often in a row a refresh may fail

    max_dim: int | None = 10000
    merge_dims: bool = False

    shaped = ("factors", "bases", "failures")

    @classmethod
    def objection(cls, values: Mapping[str, Any]) -> str | None:
        """Say what is wrong with factor_beta."""
        beta = values["factor_beta"]
        if not callable(beta) and -1 < beta < 0:
            return f"factor_beta must be in [0, 1), or -1 for that of beta2, got {beta:g}"
        return None

    def blocks_of(self, shape: tuple[int, ...]) -> Blocks:
        """Return a tensor's axes, those that are merged as one; it is one block."""
        largest = math.inf if self.max_dim is None else self.max_dim
        return cut(merged(shape, largest if self.merge_dims else 1), math.inf, largest)

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Turn the gradient into the bases, and the update back; add to the factors, and refresh the bases."""
        blocks = self.blocks_of(matrix.parameter.shape)
        (block,) = blocks.blocks
        bases = block.matrices(matrix.state["bases"])
        if sweep == 1:
            g = matrix.work["g"].reshape(blocks.shape)
            self._add(matrix, g)
            if matrix.t == 1:
                matrix.new["bases"] = first = np.empty(blocks.size, g.dtype)
                for factor, basis in zip(block.matrices(matrix.new["factors"]), block.matrices(first), strict=True):
                    basis[...] = eigenbasis(factor) if np.isfinite(factor).all() else math.nan
            else:
                turned = multiplied(g, bases, block.axes, transposed=True)
                matrix.work["g"][...] = turned.reshape(matrix.parameter.shape)
        elif matrix.t > 1:
            u = multiplied(matrix.work["u"].reshape(blocks.shape), bases, block.axes)
            if matrix.values["normalize_grads"]:
                u /= _FLOOR + math.sqrt(float(np.mean(u * u, dtype=np.float64)))
            matrix.work["u"][...] = u.reshape(matrix.parameter.shape)
            if (matrix.t - 1) % matrix.values["frequency"] == 0:
                self._refresh(matrix)

    def _add(self, matrix: Matrix, g: NDArray[Any]) -> None:
        """Add the gradient to the factors."""
        (block,) = self.blocks_of(matrix.parameter.shape).blocks
        own, others = matrix.values["factor_beta"], matrix.values["beta2"]
        beta = others if own < 0 else own
        matrix.new["factors"] = factors = beta * matrix.state["factors"]
        for axis, factor in zip(block.axes, block.matrices(factors), strict=True):
            added = products_along(g, axis)
            added *= 1 - beta
            factor += added

    def _refresh(self, matrix: Matrix) -> None:
        """Compute the bases to come, and what m and v have to be multiplied with and sorted by."""
        (block,) = self.blocks_of(matrix.parameter.shape).blocks
        matrix.new["bases"] = packed = matrix.state["bases"].copy()
        turns, orders = [], []
        failure: np.linalg.LinAlgError | None = None
        for factor, basis in zip(block.matrices(matrix.new["factors"]), block.matrices(packed), strict=True):
            try:
                found, order = refreshed_basis(factor, basis)
            except np.linalg.LinAlgError as error:
                failure, found, order = error, basis, np.arange(len(basis))
            turns.append(basis.T @ found)
            orders.append(order)
            basis[...] = found
        failures = matrix.new["failures"] = matrix.state["failures"].copy()
        if failure is None:
            failures[0] = 0
        elif np.isfinite(matrix.work["u"]).all():  # else the parameters show it
            failures[0] = self._failed(matrix.index, 0, failures[0], matrix.values["max_failures"], failure)
        matrix.kept = {"turns": turns, "orders": orders}

    def after(self, matrix: Matrix) -> None:
        """Let the moments follow bases that were refreshed."""
        if not matrix.kept:
            return
        blocks = self.blocks_of(matrix.parameter.shape)
        (block,) = blocks.blocks
        m, v = (
            self._readable(matrix.state[name]).reshape(blocks.shape).astype(matrix.work["g"].dtype, copy=False)
            for name in ("m", "v")
        )
        m = multiplied(m, matrix.kept["turns"], block.axes, transposed=True)
        for axis, order in zip(block.axes, matrix.kept["orders"], strict=True):
            v = np.take(v, order, axis=axis)
        for name, values in (("m", m), ("v", v)):
            self._write(matrix.state[name], values.reshape(matrix.parameter.shape))

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, weight_decay, bias_correction, matrix):
        """Step one tensor in NumPy."""
        steps = t - 1
        correction = 1.0
        if bias_correction and steps:
            correction = math.sqrt(one_minus_power(beta2, steps)) / one_minus_power(beta1, steps)
        turned = (yield look(g)).work["g"] if matrix else g
        mean = beta1 * m + (1 - beta1) * turned
        square = beta2 * v + (1 - beta2) * (turned * turned)
        u = mean / (np.sqrt(square) + eps)
        if matrix:
            u = (yield look(u, first=1)).work["u"]
        if steps:
            p[...] = (1 - lr * weight_decay) * (p - (lr * correction) * u)
            m[...] = mean
            v[...] = square
