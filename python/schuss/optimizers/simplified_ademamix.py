"""Simplified AdEMAMix."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class SimplifiedAdEMAMix(Optimizer, rule="simplified_ademamix"):
    r"""Simplified AdEMAMix: AdamW along a sum of past gradients and the present one, by one buffer.

    .. math::

        m &\leftarrow \beta_1 m + g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \frac{m + \alpha g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Morwani, Vyas, Zhang & Kakade (2025), *Connections between Schedule-Free Optimizers, AdEMAMix, and Accelerated SGD
    Variants*, https://arxiv.org/abs/2502.02431

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the sum and of the square, in [0, 1).
    alpha : float or schedule
        α, the weight of the present gradient, in [0, inf).
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    For what `AdEMAMix` is for, with two thirds of its state and no warm-ups of its own. The buffer is a sum: start from AdamW's
    step size divided by ``1 / (1 - beta1) + alpha``.

    The authors' and optax's form, with the authors' defaults; the authors' optional correction of `m` is left out, and their
    warm-up of `beta1` is a schedule here. Pytorch_optimizer averages the buffer and divides by the square root of
    ``1 - beta2**t`` where the others multiply.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.SimplifiedAdEMAMix(w, lr=0.01, alpha=9.0)
    >>> opt.step(np.array([2.0]))
    >>> w.round(6)
    array([0.9])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.99  #: decay of the sum
    beta2: Fraction = 0.95  #: decay of the square
    alpha: NonNegative = 0.0  #: weight of the present gradient
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, alpha, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias2 = one_minus_power(beta2, t)
        m[...] = beta1 * m + g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        u = (m + alpha * g) / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps)
        p[...] = (1 - lr * weight_decay) * p - lr * u
