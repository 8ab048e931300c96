"""LaProp."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class LaProp(Optimizer, rule="laprop"):
    r"""LaProp: momentum over gradients that are already normalised.

    .. math::

        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) \frac{\eta g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \\
        \bar\eta &\leftarrow \beta_1 \bar\eta + (1 - \beta_1) \eta \\
        p &\leftarrow (1 - \eta \lambda) \left( p - \frac{\eta}{\bar\eta} m \right)

    While the rate stays the same, :math:`\eta / \bar\eta = 1 / (1 - \beta_1^t)` is Adam's bias correction. Where Adam divides
    the mean of gradients by one root, each gradient here is divided by the root of its own time.

    Ziyin, Wang & Ueda (2020), *LaProp: Separating Momentum and Adaptivity in Adam*, https://arxiv.org/abs/2002.04839

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the momentum and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf). Acts after the step.

    Notes
    -----
    State: `m` and `v`, one value each per element, and `lr_mean`, one float64 per tensor (8 bytes per float32 parameter).

    In place of Adam where a small `beta2` is wanted or training is unstable: a step is a mean of normalised gradients, so that
    the two decays can be chosen apart, where Adam may diverge with a `beta2` much below `beta1`.

    The authors' defaults. Their code lets the weights decay by ``weight_decay`` itself; here, in timm and in pytorch_optimizer
    it is ``lr * weight_decay``. At ``lr=0`` all three subtract the whole of `m`; here nothing moves. Pytorch_optimizer adds
    `eps` before the correction of `v`, and 1e-15 inside the root. `amsgrad` and `centered` are left out.

    Examples
    --------
    >>> w = np.array([1.0, -1.0])
    >>> opt = schuss.LaProp(w, lr=0.1)
    >>> opt.step(np.array([3.0, 0.5]))
    >>> w.round(6), round(float(opt.state["lr_mean"]), 6)
    (array([ 0.9, -1.1]), 0.01)
    """

    lr: NonNegative = 4e-4  #: step size
    beta1: Fraction = 0.9  #: decay of the momentum
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-15  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, v, lr_mean, *, t, lr, beta1, beta2, eps, weight_decay):
        """Step one tensor in NumPy."""
        lr_mean[...] = beta1 * float(lr_mean) + (1 - beta1) * lr
        bias2 = one_minus_power(beta2, t)
        step = lr / float(lr_mean) if lr_mean > 0 else 0.0
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        m[...] = beta1 * m + ((1 - beta1) * lr) * (g / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
        p[...] = (1 - lr * weight_decay) * (p - step * m)
