"""AdamW."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class AdamW(Optimizer, rule="adamw"):
    r"""AdamW: Adam, with weights that decay by themselves instead of through the gradient.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Loshchilov & Hutter (2019), *Decoupled Weight Decay Regularization*, https://arxiv.org/abs/1711.05101

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
        λ, the decay per unit of step size, in [0, inf). A product ``lr * weight_decay`` above 1 changes signs and is not
        refused.

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    The default choice for transformers and most networks trained for long. Biases and normalisation weights are often
    left out of the decay: put them into a `Group` with ``weight_decay=0``.

    This is torch's form with torch's defaults. Keras has ``weight_decay=0.004`` and Adam in its own form, optax 1e-4.

    Examples
    --------
    >>> w = np.ones(3)
    >>> opt = schuss.AdamW(w, lr=0.1, weight_decay=0.1)
    >>> opt.step(np.zeros(3))
    >>> w
    array([0.99, 0.99, 0.99])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 1e-2  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        p[...] = (1 - lr * weight_decay) * p - (lr / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
