"""Adan."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, Switch
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class Adan(Optimizer, rule="adan"):
    r"""Adan: Adam with Nesterov's momentum, by a running mean of the gradient's differences.

    .. math::

        \Delta &= g - g_{t-1} \qquad (0 \text{ at } t = 1) \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad d \leftarrow \beta_2 d + (1 - \beta_2) \Delta \\
        v &\leftarrow \beta_3 v + (1 - \beta_3) (g + \beta_2 \Delta)^2 \\
        u &= \frac{m / (1 - \beta_1^t) + \beta_2 d / (1 - \beta_2^t)}{\sqrt{v / (1 - \beta_3^t)} + \epsilon} \\
        p &\leftarrow \frac{p - \eta u}{1 + \eta \lambda}
        \qquad\text{or, with no\_prox,}\qquad p \leftarrow (1 - \eta \lambda) p - \eta u

    Xie, Zhou, Li, Lin & Yan (2022), *Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models*,
    https://arxiv.org/abs/2208.06677

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2, beta3 : float or schedule
        Decays of the mean, of the mean difference and of the square, in [0, 1); the paper's are 1 minus these.
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).
    no_prox : bool
        Decay as `AdamW` does, instead of by the proximal division.

    Notes
    -----
    State: `m`, `d`, `v` and the `previous` gradient, one value each per element (16 bytes per float32 parameter).

    For vision and language models with large batches: it stands step sizes 5 to 10 times those of AdamW, for twice its state.

    The authors' code and defaults; their `max_grad_norm` is ``clip=schuss.ClipNorm(...)``. Optax weighs the differences with
    ``1 - beta2`` in place of `beta2`, adds `eps_root` (1e-8) inside the root, and decays as with `no_prox`. The package
    adan-pytorch skips the moments of the first step.

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> opt = schuss.Adan(w, lr=0.1)
    >>> opt.step(np.array([2.0, -0.5]))
    >>> w.round(6)
    array([0.9, 1.1])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.98  #: decay of the mean
    beta2: Fraction = 0.92  #: decay of the mean difference
    beta3: Fraction = 0.99  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size
    no_prox: Switch = False  #: decay as AdamW does

    @staticmethod
    def reference(p, g, m, d, v, previous, *, t, lr, beta1, beta2, beta3, eps, weight_decay, no_prox):
        """Step one tensor in NumPy."""
        bias1, bias2, bias3 = one_minus_power(beta1, t), one_minus_power(beta2, t), one_minus_power(beta3, t)
        keep = 1 - lr * weight_decay if no_prox else 1 / (1 + lr * weight_decay)
        rate = lr if no_prox else lr * keep
        change = g - previous
        look = g + (0.0 if t == 1 else beta2) * change
        m[...] = beta1 * m + (1 - beta1) * g
        d[...] = beta2 * d + (0.0 if t == 1 else 1 - beta2) * change
        v[...] = beta3 * v + (1 - beta3) * (look * look)
        u = ((rate / bias1) * m + (rate * beta2 / bias2) * d) / ((1 / math.sqrt(bias3)) * np.sqrt(v) + eps)
        p[...] = keep * p - u
        previous[...] = g
