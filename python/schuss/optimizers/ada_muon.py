"""AdaMuon."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, Positive, Switch
from schuss.math import one_minus_power, products
from schuss.matrix import Matrix, fold, look
from schuss.optimizers.adamw import AdamW
from schuss.orthogonal import OrthogonalOptimizer, norms_of


class AdaMuon(OrthogonalOptimizer, rule="ada_muon"):
    r"""AdaMuon: Muon, with every element divided by the running root mean square of its updates.

    .. math::

        m &\leftarrow \mu m + (1 - \mu) g \\
        u &= \operatorname{orthogonalize}(\mu m + (1 - \mu) g) \qquad\text{(of } m \text{ without Nesterov's look ahead)} \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) u^2, \qquad w = \frac{u}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \, s(r, c) \frac{\sqrt{\min(r, c)}}{\|w\|_F + \epsilon} w

    for matrices of r rows and c columns, so that an update has the norm of an orthogonal matrix. Si et al. (2025), *AdaMuon:
    adaptive Muon optimizer*, https://arxiv.org/abs/2507.11005

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`. Arrays
        with at least two axes, in C order, are matrices, unless they are complex, empty or in `exclude`.
    lr : float or schedule
        Step size, in [0, inf).
    momentum : float or schedule
        μ, the decay of the mean, in [0, 1).
    nesterov : bool
        Orthogonalise the mean as it would be if the gradient came once more.
    beta2 : float or schedule
        β₂, the decay of the updates' squares, in [0, 1).
    eps : float or schedule
        Added to their roots and to the norm, in (0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf), of all parameters.
    adamw_lr_ratio : float or schedule
        Step size of what is no matrix, as a multiple of `lr`, in [0, inf).
    adamw_beta1, adamw_beta2 : float or schedule
        Decays of its mean and square, in [0, 1).
    adamw_eps : float or schedule
        Added outside its root, in [0, inf).
    sign : bool
        Orthogonalise the signs of what else is orthogonalised.
    form, scale, flatten, split, coefficients, steps, exclude : as for `Muon`
        Blocks of `split` have norms of their own, too.

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter), of matrices and of what AdamW steps.

    Not exact: the products are those of NumPy's BLAS, as in `Muon`, whose defaults these are, too; with the default `scale`
    updates have the root mean square 0.2. The paper's later versions have ``sign=True``, where the authors' code has the
    momentum itself; `beta2` is that code's, pytorch_optimizer has 0.95.

    Examples
    --------
    >>> w = np.zeros((2, 2))
    >>> opt = schuss.AdaMuon(w, lr=1.0, scale=None)
    >>> opt.step(np.array([[3.0, 0.0], [0.0, 0.5]]))
    >>> w.round(6)
    array([[-1.,  0.],
           [ 0., -1.]])
    """

    lr: NonNegative = 1e-3  #: step size
    momentum: Fraction = 0.95  #: decay of the mean
    nesterov: Switch = True  #: look one gradient ahead
    beta2: Fraction = 0.999  #: decay of the updates' squares
    eps: Positive = 1e-8  #: added to their roots and to the norm
    weight_decay: NonNegative = 0.1  #: decay of the weights per unit of step size
    adamw_lr_ratio: NonNegative = 1.0  #: step size of what is no matrix, as a multiple of lr
    adamw_beta1: Fraction = 0.9  #: decay of its mean
    adamw_beta2: Fraction = 0.999  #: decay of its square
    adamw_eps: NonNegative = 1e-8  #: added outside its root
    sign: bool = False

    def _checked_option(self, key: str, value: Any) -> Any:
        if key == "sign" and not isinstance(value, bool):
            raise TypeError(f"{type(self).__name__}: sign must be True or False, got {value!r}")
        return super()._checked_option(key, value)

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Orthogonalise; then find the factor that gives every block its norm."""
        if sweep == 1:
            u = matrix.work["u"]
            if self.sign:
                np.sign(u, out=u)
            self.orthogonalize(matrix)
            return
        columns, eps = self.parts(matrix).columns, matrix.values["eps"]
        for rows, factor in self.blocks(matrix):
            norm = math.sqrt(min(rows.stop - rows.start, columns))
            matrix.rows["r"][:, rows] = factor * norm / (norms_of(matrix.row_sums[0], rows) + eps)

    @staticmethod
    def reference(
        p,
        g,
        m,
        v,
        *,
        t,
        lr,
        momentum,
        beta2,
        eps,
        weight_decay,
        adamw_lr_ratio,
        adamw_beta1,
        adamw_beta2,
        adamw_eps,
        nesterov,
        matrix,
    ):
        """Step one tensor in NumPy."""
        if not matrix:
            rest = {"lr": lr * adamw_lr_ratio, "beta1": adamw_beta1, "beta2": adamw_beta2, "eps": adamw_eps}
            AdamW.reference(p, g, m, v, t=t, weight_decay=weight_decay, **rest)
            return
        mean = momentum * m + (1 - momentum) * g
        u = (yield look(momentum * mean + (1 - momentum) * g if nesterov else mean)).work["u"]
        square = beta2 * v + (1 - beta2) * (u * u)
        w = u / ((1 / math.sqrt(one_minus_power(beta2, t))) * np.sqrt(square) + eps)
        r = (yield fold(products(w, w), over="rows")).rows["r"]
        m[...] = mean
        v[...] = square
        p[...] = (1 - lr * weight_decay) * p - lr * (r * w)
