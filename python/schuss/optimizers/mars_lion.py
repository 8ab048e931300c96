"""MARSLion."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import dot
from schuss.optimizer import Optimizer


class MARSLion(Optimizer, rule="mars_lion"):
    r"""MARS-Lion: steps along the sign of a mean of gradients that are corrected by their last change.

    .. math::

        c &= g_t + \gamma \frac{\beta}{1 - \beta} (g_t - g_{t-1}), \qquad g_0 = 0 \\
        c &\leftarrow c / \max(1, \|c\|) \qquad\text{(norm over the tensor)} \\
        m &\leftarrow \beta m + (1 - \beta) c \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \operatorname{sign}(m)

    Yuan, Liu, Wu, Zhou & Gu (2024), *MARS: Unleashing the Power of Variance Reduction for Training Large Models*,
    https://arxiv.org/abs/2411.10438

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Length of every element's step, in [0, inf).
    beta : float or schedule
        Decay of the mean, in [0, 1).
    gamma : float or schedule
        γ, weight of the correction, in [0, inf). At 0 this is the sign of a mean of clipped gradients.
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m` and `g_last`, one value each per element (8 bytes per float32 parameter).

    For the matrices of large models where memory is too short for `MARSAdamW`; step vectors with another optimizer. As with
    `Lion`, every element moves by `lr`: take a rate a few times smaller than AdamW's and a larger weight decay.

    The authors' approximate form and defaults (see `MARSAdamW`); the rate is the one that their class has for all its forms.
    Unlike in `Lion` the sign is that of the mean that is kept.

    Examples
    --------
    >>> w = np.ones(3)
    >>> opt = schuss.MARSLion(w, lr=0.1)
    >>> opt.step(np.array([5.0, 0.0, -0.01]))
    >>> w
    array([0.9, 1. , 1.1])
    """

    lr: NonNegative = 3e-3  #: step size
    beta: Fraction = 0.95  #: decay of the mean
    gamma: NonNegative = 0.025  #: weight of the correction
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, g_last, *, t, lr, beta, gamma, weight_decay):
        """Step one tensor in NumPy."""
        c = g + (gamma * (beta / (1 - beta))) * (g - g_last)
        cc = dot(c, c)
        m[...] = beta * m + (1 - beta) * ((1 / math.sqrt(cc) if cc > 1 else 1.0) * c)
        g_last[...] = g
        p[...] = (1 - lr * weight_decay) * p - lr * np.sign(m)
