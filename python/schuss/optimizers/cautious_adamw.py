"""CautiousAdamW."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power, total
from schuss.optimizer import Optimizer


class CautiousAdamW(Optimizer, rule="cautious_adamw"):
    r"""AdamW that moves only the elements whose mean gradient agrees with the present one.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        a &= [\, m g > 0 \,] \qquad\text{(1 or 0)}, \qquad
             s = 1 / \max(\operatorname{mean}(a), 10^{-3}) \qquad\text{(mean over the tensor)} \\
        p &\leftarrow (1 - \eta \lambda) p - \eta s \, \frac{a\, m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The elements that move are moved further, by the share of those that do not. Weights decay everywhere.

    Liang, Chen, Liu & Liu (2024), *Cautious Optimizers: Improving Training with One Line of Code*,
    https://arxiv.org/abs/2411.16085

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

    In the place of `AdamW`, with its hyper-parameters, where momentum overshoots. Small tensors are masked coarsely: of a
    bias with two elements one may get the step of both.

    AdamW's form and defaults, as in timm (``caution=True``), and the scale of timm and of the authors' later code; their
    first code and pytorch_optimizer multiply by ``n / (sum(a) + 1)`` instead. The authors have keras' form of Adam with
    ``eps=1e-6, weight_decay=0``. All of them look at the sign of the product ``m * g``, which is lost where it underflows;
    here the signs are compared.

    Examples
    --------
    >>> w = np.ones(3)
    >>> opt = schuss.CautiousAdamW(w, lr=0.1, weight_decay=0.0)
    >>> opt.step(np.array([1.0, 1.0, 1.0]))
    >>> opt.step(np.array([1.0, 1.0, -0.5]))  # against the mean: the third stays
    >>> w.round(3)
    array([0.75, 0.75, 0.9 ])
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
        agrees = (m * np.sign(g) > 0).astype(p.dtype)
        agreeing = total(agrees)
        scale = p.size / agreeing if agreeing > 1e-3 * p.size else 1 / 1e-3
        step = lr / bias1 * scale
        p[...] = (1 - lr * weight_decay) * p - step * (agrees * m / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
