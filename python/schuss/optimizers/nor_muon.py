"""NorMuon."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, Switch
from schuss.math import products
from schuss.matrix import Matrix, fold, look
from schuss.optimizers.adamw import AdamW
from schuss.orthogonal import OrthogonalOptimizer, inverse, norms_of


class NorMuon(OrthogonalOptimizer, rule="nor_muon"):
    r"""NorMuon: Muon, with rows that are divided by the running root mean square of their updates.

    .. math::

        m &\leftarrow \mu m + (1 - \mu) g \\
        u &= \operatorname{orthogonalize}(\mu m + (1 - \mu) g) \qquad\text{(of } m \text{ without Nesterov's look ahead)} \\
        v_i &\leftarrow \beta_2 v_i + (1 - \beta_2) \operatorname{mean}_j u_{ij}^2, \qquad
        w_{ij} = \frac{u_{ij}}{\sqrt{v_i} + \epsilon} \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \, s(r, c) \frac{\|u\|_F}{\|w\|_F} w

    Li et al. (2025), *NorMuon: making Muon more efficient and scalable*, https://arxiv.org/abs/2510.05491

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
        β₂, the decay of the rows' mean squares, in [0, 1).
    eps : float or schedule
        Added to their roots, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf), of all parameters.
    adamw_lr_ratio : float or schedule
        Step size of what is no matrix, as a multiple of `lr`, in [0, inf).
    adamw_beta1, adamw_beta2 : float or schedule
        Decays of its mean and square, in [0, 1).
    adamw_eps : float or schedule
        Added outside its root, in [0, inf).
    form, scale, flatten, split, coefficients, steps, exclude : as for `Muon`
        Blocks of `split` have norms of their own, too.

    Notes
    -----
    State: `m`, one value per element, and `v_row`, one per row (4 + 4 / c bytes per float32 parameter of a matrix of c
    columns); for what AdamW steps `m` and `v` (8 bytes).

    Muon's updates have singular values alike and rows that may differ much in length; here they are alike in time as well.

    Not exact: the products are those of NumPy's BLAS, as in `Muon`, whose defaults these are, too. The authors' code has
    ``scale="spectral_unclamped"`` or "match_rms_adamw", `nesterov` off, and "polar_express_5"; the paper gives every update
    the root mean square 0.2, which "match_rms_adamw" comes to where singular values are 1.

    Examples
    --------
    >>> w = np.zeros((2, 2))
    >>> opt = schuss.NorMuon(w, lr=1.0, scale=None, coefficients="exact")
    >>> opt.step(np.array([[3.0, 0.0], [0.0, 0.5]]))
    >>> w.round(6)
    array([[-1.,  0.],
           [ 0., -1.]])
    >>> opt.state["v_row"].round(6)
    array([0.025, 0.025])
    """

    lr: NonNegative = 1e-3  #: step size
    momentum: Fraction = 0.95  #: decay of the mean
    nesterov: Switch = True  #: look one gradient ahead
    beta2: Fraction = 0.95  #: decay of the rows' mean squares
    eps: NonNegative = 1e-8  #: added to their roots
    weight_decay: NonNegative = 0.1  #: decay of the weights per unit of step size
    adamw_lr_ratio: NonNegative = 1.0  #: step size of what is no matrix, as a multiple of lr
    adamw_beta1: Fraction = 0.9  #: decay of its mean
    adamw_beta2: Fraction = 0.999  #: decay of its square
    adamw_eps: NonNegative = 1e-8  #: added outside its root

    shaped = ("v_row",)

    def shape_of(self, slot: str, tensor: int) -> tuple[int, ...] | None:
        """Return the axes of what has one number per row."""
        parts = self._parts[tensor]
        return None if parts is None else parts.axes

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Orthogonalise; then find the factor of every row."""
        if sweep == 1:
            self.orthogonalize(matrix)
            return
        squares, beta2, old = matrix.row_sums[0], matrix.values["beta2"], matrix.state["v_row"]
        means = (squares / self.parts(matrix).columns).reshape(old.shape)
        matrix.new["v_row"] = new = (beta2 * old.astype(np.float64) + (1 - beta2) * means).astype(old.dtype)
        roots = np.sqrt(new.astype(np.float64)).reshape(squares.shape) + matrix.values["eps"]
        row = inverse(roots)
        for rows, factor in self.blocks(matrix):
            norm, changed = norms_of(squares, rows), norms_of(squares * row * row, rows)
            matrix.rows["r"][:, rows] = factor * (norm * inverse(changed)) * row[:, rows]

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
        r = (yield fold(products(u, u), over="rows")).rows["r"]
        m[...] = mean
        p[...] = (1 - lr * weight_decay) * p - lr * (r * u)
