"""AMSBound."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, Positive
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class AMSBound(Optimizer, rule="amsbound"):
    r"""AMSBound: AMSGrad whose step sizes are clipped to bounds that close in on one, that of SGD.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2,
        \qquad \hat v \leftarrow \max(\hat v, v) \\
        a &= \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \cdot \frac{1}{\sqrt{\hat v} + \epsilon},
        \qquad f = f_\infty \frac{\eta}{\eta_0} \\
        p &\leftarrow p - \operatorname{clip}\left(a,\; f \left(1 - \frac{1}{\gamma t + 1}\right),\;
        f \left(1 + \frac{1}{\gamma t}\right)\right) m

    The bounds are in proportion to a scheduled step size: η₀ is the first one that is not 0.

    Luo, Xiong, Liu & Sun (2019), *Adaptive Gradient Methods with Dynamic Bound of Learning Rate*,
    https://arxiv.org/abs/1902.09843

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        η, the step size of the adaptive start, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    final_lr : float or schedule
        :math:`f_\infty`, the step size that the bounds close in on, in [0, inf).
    gamma : float or schedule
        γ, how fast they close, in (0, inf): after ``1 / gamma`` steps they are half and twice `final_lr`.
    eps : float or schedule
        Added outside the root, before any bias correction, in [0, inf).

    Notes
    -----
    State: `m`, `v` and `v_max`, one value each per element, and `base_lr`, one float64 per tensor (12 bytes per float32
    parameter).

    For the problems of `AdaBound` where rare, large gradients carry the information.

    This is the form of the authors' code, with its defaults: it corrects the bias and leaves out the paper's factor
    :math:`1 / \sqrt t`. The authors' `base_lr` is the `lr` at construction, and they divide by it if it is 0. Pytorch_optimizer
    adds 1e-15 inside the root. A coupled decay is `l2`.

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> opt = schuss.AMSBound(w, final_lr=0.5, gamma=1e9, beta1=0.0)  # bounds that are closed at once
    >>> opt.step(np.array([1.0, -0.1]))
    >>> w.round(6)
    array([0.5 , 1.05])
    """

    lr: NonNegative = 1e-3  #: step size of the adaptive start
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    final_lr: NonNegative = 0.1  #: step size that the bounds close in on
    gamma: Positive = 1e-3  #: how fast they close
    eps: NonNegative = 1e-8  #: added outside the root

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return values["lr"] if slot == "base_lr" else 0.0

    @staticmethod
    def reference(p, g, m, v, v_max, base_lr, *, t, lr, beta1, beta2, final_lr, gamma, eps):
        """Step one tensor in NumPy."""
        if base_lr == 0:
            base_lr[...] = lr
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        middle = final_lr * (lr / float(base_lr)) if base_lr > 0 else 0.0
        lower, upper = middle * (1 - 1 / (gamma * t + 1)), middle * (1 + 1 / (gamma * t))
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        v_max[...] = np.maximum(v_max, v)
        p[...] = p - np.clip((lr * math.sqrt(bias2) / bias1) / (np.sqrt(v_max) + eps), lower, upper) * m
