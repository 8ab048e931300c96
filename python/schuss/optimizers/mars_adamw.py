"""MARSAdamW."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import dot, one_minus_power
from schuss.optimizer import Optimizer


class MARSAdamW(Optimizer, rule="mars_adamw"):
    r"""MARS-AdamW: AdamW over gradients that are corrected by their last change, to lower their variance.

    .. math::

        c &= g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1}), \qquad g_0 = 0 \\
        c &\leftarrow c / \max(1, \|c\|) \qquad\text{(norm over the tensor)} \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) c, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) c^2 \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Yuan, Liu, Wu, Zhou & Gu (2024), *MARS: Unleashing the Power of Variance Reduction for Training Large Models*,
    https://arxiv.org/abs/2411.10438

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    gamma : float or schedule
        γ, weight of the correction, in [0, inf). At 0 this is AdamW with every tensor's gradient clipped to norm 1.
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m`, `v` and `g_last`, one value each per element (12 bytes per float32 parameter).

    For pretraining of language models, on their matrices; the authors step vectors (biases, normalisation weights) with
    `AdamW` (``lr=3e-3, beta1=0.9, beta2=0.95, weight_decay=0.1``), and so may you, with a second optimizer.

    The authors' approximate form and defaults: g of the last step is that of its own batch. Their exact form, with the last
    parameters' gradient on the new batch, is not here, nor is `amsgrad`. As in their code the first step compares with 0 and
    takes a gradient larger by ``gamma * beta1 / (1 - beta1)``; timm's takes it as it is. pytorch_optimizer has `eps` beside the
    uncorrected root, and 1e-15 under it.

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> opt = schuss.MARSAdamW(w, lr=0.1)
    >>> opt.step(np.array([3.0, 4.0]))
    >>> opt.state["m"].round(6)
    array([0.03, 0.04])
    """

    lr: NonNegative = 3e-3  #: step size
    beta1: Fraction = 0.95  #: decay of the mean
    beta2: Fraction = 0.99  #: decay of the square
    gamma: NonNegative = 0.025  #: weight of the correction
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, v, g_last, *, t, lr, beta1, beta2, gamma, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        c = g + (gamma * (beta1 / (1 - beta1))) * (g - g_last)
        cc = dot(c, c)
        c = (1 / math.sqrt(cc) if cc > 1 else 1.0) * c
        m[...] = beta1 * m + (1 - beta1) * c
        v[...] = beta2 * v + (1 - beta2) * (c * c)
        g_last[...] = g
        p[...] = (1 - lr * weight_decay) * p - (lr / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
