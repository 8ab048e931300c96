"""AdamP."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, Switch, UnitInterval
from schuss.math import one_minus_power, radial_part
from schuss.optimizer import Optimizer


class AdamP(Optimizer, rule="adam_p"):
    r"""AdamP: Adam whose step keeps the norm of weights that have no scale.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        u &= \frac{m}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \\
        u &\leftarrow u - \hat p\, (\hat p \cdot u), \quad \lambda \leftarrow \rho \lambda \qquad\text{where projected},
        \quad \hat p = \frac{p}{\|p\| + \epsilon} \\
        p &\leftarrow (1 - \eta \lambda) p - \frac{\eta}{1 - \beta_1^t} u

    A tensor is projected row by row if in every row :math:`|\cos(g, p)| < \delta / \sqrt{n}`, n being the row's elements;
    else as one vector, if that holds of the whole tensor; else not at all. A row is all that shares the first index, an
    output channel of a convolution or a dense layer stored as (out, in). A vector is never projected.

    Heo et al. (2021), *AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights*,
    https://arxiv.org/abs/2006.08217

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
        Arrays of two and more dimensions must be C-contiguous.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root and to the norm of the weights; the least norm in a cosine. In [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).
    delta : float or schedule
        δ, in [0, inf): the gradient of weights without a scale is orthogonal to them, one of others hardly ever.
    wd_ratio : float or schedule
        ρ, the part of the decay that projected weights get, in [0, 1].
    nesterov : bool
        Take :math:`\beta_1 m + (1 - \beta_1) g` in place of m in u.

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    For networks whose weights are followed by a normalisation: there momentum makes the weights grow, and the effective step
    shrink, faster than the gradient does. Elsewhere it is AdamW.

    As in the authors' code, cosines are those of the weights before the decay, with the gradient of this step, not the mean.
    pytorch_optimizer scales `eps` by :math:`\sqrt{1 - \beta_2^t}` in u.

    Examples
    --------
    >>> w = np.array([[3.0, 4.0]])
    >>> opt = schuss.AdamP(w, lr=0.1)
    >>> opt.step(np.array([[8.0, -6.0]]))
    >>> w.round(4)
    array([[2.888, 4.084]])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added to roots and norms
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size
    delta: NonNegative = 0.1  #: how far from orthogonal a projected gradient may be
    wd_ratio: UnitInterval = 0.1  #: part of the decay that projected weights get
    nesterov: Switch = False  #: look ahead along the mean

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, weight_decay, delta, wd_ratio, nesterov):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        ahead = (beta1, 1 - beta1) if nesterov else (1.0, 0.0)
        u = (ahead[0] * m + ahead[1] * g) / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps)
        part, projected = radial_part(p, g, u, eps, delta)
        ratio = wd_ratio if projected else 1.0
        p[...] = (1 - lr * weight_decay * ratio) * p - (lr / bias1) * (u - part * p)
