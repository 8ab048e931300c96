"""LAMB."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import dot, one_minus_power
from schuss.optimizer import Optimizer


class LAMB(Optimizer, rule="lamb"):
    r"""LAMB: Adam's direction, with a step as long as the tensor's norm says.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        u &= \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda p \\
        p &\leftarrow p - \eta \frac{\|p\|}{\|u\|} u \qquad\text{(norms over the tensor; ratio 1 if either is 0)}

    You et al. (2020), *Large Batch Optimization for Deep Learning: Training BERT in 76 minutes*,
    https://arxiv.org/abs/1904.00962

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
        λ, in [0, inf). Part of the direction whose norm is taken.

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    For very large batches, where one step size does not fit all layers.

    This is the paper's and optax's form (whose default `weight_decay` is 0). Keras leaves the decay out of the ratio; timm
    clips the global gradient norm at 1 first (``clip=schuss.ClipNorm(1.0)`` here).

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.LAMB(w, lr=0.1, weight_decay=0.0)
    >>> opt.step(np.array([1.0, 1.0]))
    >>> w.round(4)
    array([2.6464, 3.6464])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-6  #: added outside the root
    weight_decay: NonNegative = 0.01  #: decay, inside the direction

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        u = (1 / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps)) + weight_decay * p
        pp, uu = dot(p, p), dot(u, u)
        ratio = math.sqrt(pp) / math.sqrt(uu) if pp > 0 and uu > 0 else 1.0
        p[...] = p - (lr * ratio) * u
