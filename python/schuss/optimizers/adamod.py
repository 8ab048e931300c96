"""AdaMod."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class AdaMod(Optimizer, rule="adamod"):
    r"""AdaMod: Adam whose step sizes are at most their own running mean.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        a &= \frac{\eta}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \\
        s &\leftarrow \beta_3 s + (1 - \beta_3) a \\
        p &\leftarrow (1 - \eta \lambda) p - \min(a, s) \frac{m}{1 - \beta_1^t}

    The mean starts from zero, so that the first steps are short: a warm-up of about :math:`1 / (1 - \beta_3)` steps.

    Ding, Ren, Luo & Sun (2019), *An Adaptive and Momental Bound Method for Stochastic Learning*,
    https://arxiv.org/abs/1910.12249

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    beta3 : float or schedule
        Decay of the mean of step sizes, in [0, 1); 0 is Adam.
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, decoupled, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m`, `v` and `s`, one value each per element (12 bytes per float32 parameter).

    Where Adam's first steps are too long and a warm-up would have to be tuned. An element whose gradient is zero for long has
    the step size ``lr / eps``, and so has its mean: there the bound says nothing.

    The paper's form. The authors' code and pytorch_optimizer put the correction of `m` into the step sizes that are averaged,
    and have Keras's form of `eps`; pytorch_optimizer's defaults are ``beta2=0.99, beta3=0.9999``.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.AdaMod(w, lr=0.1, beta3=0.75)
    >>> opt.step(np.array([5.0]))  # a quarter of Adam's 0.1
    >>> w.round(4)
    array([0.975])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    beta3: Fraction = 0.999  #: decay of the mean of step sizes
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, v, s, *, t, lr, beta1, beta2, beta3, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        size = lr / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps)
        s[...] = beta3 * s + (1 - beta3) * size
        p[...] = (1 - lr * weight_decay) * p - np.minimum(size, s) * ((1 / bias1) * m)
