"""Adam."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, Switch
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class Adam(Optimizer, rule="adam"):
    r"""Adam: steps scaled by running estimates of the gradient's mean and square.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Kingma & Ba (2015), *Adam: A Method for Stochastic Optimization*, https://arxiv.org/abs/1412.6980

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
    bias_correction : bool
        Divide by ``1 - beta**t``; without it the first steps are about ``sqrt(1 - beta2) / (1 - beta1)`` as long.

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    The default choice where nothing else is known; `AdamW` where weights are to decay.

    This is torch's form. Keras writes ``lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)``, in which `eps`
    counts ``1 / sqrt(1 - beta2**t)`` times as much, with ``eps=1e-7``; optax has torch's form and `eps_root` besides.

    Examples
    --------
    >>> w = np.ones(3)
    >>> opt = schuss.Adam(w, lr=0.1)
    >>> for _ in range(50):
    ...     opt.step(2 * w)  # the gradient of sum(w**2)
    >>> bool(np.abs(w).max() < 0.2)
    True
    """

    lr: NonNegative = 1e-3  #: step size (0 is allowed: warm-ups start there)
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    bias_correction: Switch = True  #: divide the averages by 1 - beta^t

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, bias_correction):
        """Step one tensor in NumPy."""
        bias1 = one_minus_power(beta1, t) if bias_correction else 1.0
        bias2 = one_minus_power(beta2, t) if bias_correction else 1.0
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        p[...] = p - (lr / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
