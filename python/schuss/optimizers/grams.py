"""Grams."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class Grams(Optimizer, rule="grams"):
    r"""Grams: steps as long as AdamW's, along the sign of the gradient.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \, \operatorname{sign}(g)
            \frac{|m| / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Adam's momentum says how far to go, the last gradient where to.

    Cao, Li & Song (2024), *Grams: Gradient Descent with Adaptive Momentum Scaling*, https://arxiv.org/abs/2412.17107

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    In place of AdamW where batches are large enough for the sign of one gradient to be right: no step goes against the
    gradient of its batch. On small batches the sign is noise, which the momentum no longer averages.

    The paper's form, as in pytorch_optimizer, and the authors' defaults. Their code adds `eps` to ``sqrt(v)`` before the bias
    correction, so that it counts ``1 / sqrt(1 - beta2**t)`` times as much.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.Grams(w, lr=0.1)
    >>> opt.step(np.array([1.0]))
    >>> opt.step(np.array([-0.5]))  # the mean is positive, but the step goes up
    >>> w.round(4)
    array([0.9266])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-6  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        u = np.sign(g) * np.abs(m) / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps)
        p[...] = (1 - lr * weight_decay) * p - (lr / bias1) * u
