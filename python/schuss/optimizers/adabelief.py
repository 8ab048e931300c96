"""AdaBelief."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class AdaBelief(Optimizer, rule="adabelief"):
    r"""AdaBelief: Adam scaled by how far gradients are from their running mean, instead of from zero.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        s &\leftarrow \beta_2 s + (1 - \beta_2) (g - m)^2 + \epsilon \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}

    Steps are long where the gradient is what its mean predicts, and short where it is not.

    Zhuang et al. (2020), *AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients*,
    https://arxiv.org/abs/2010.07468

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the squared deviation from it, in [0, 1).
    eps : float or schedule
        Added to `s` in every step, where it accumulates, and outside the root; in [0, inf).
    weight_decay : float or schedule
        λ, decoupled, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m` and `s`, one value each per element (8 bytes per float32 parameter).

    Where Adam converges fast and SGD generalises better, as on image classification. The authors advise ``eps=1e-8`` where
    SGD is better than Adam, 1e-16 where Adam is better.

    The paper's form with the authors' defaults but one: their code also rectifies as RAdam (``rectify=True``). Optax has no
    decay, a constant of its own for what is added to `s` (`eps_root`, 1e-16), and `nesterov`.

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> opt = schuss.AdaBelief(w, lr=0.1)
    >>> opt.step(np.array([2.0, -0.5]))  # the mean, 0.1 g, is 0.9 g away: 1 / 0.9 of Adam's step
    >>> w.round(4)
    array([0.8889, 1.1111])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the squared deviation
    eps: NonNegative = 1e-16  #: added to the squared deviation, and outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, s, *, t, lr, beta1, beta2, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        surprise = g - m
        s[...] = beta2 * s + (1 - beta2) * (surprise * surprise) + eps
        p[...] = (1 - lr * weight_decay) * p - (lr / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(s) + eps))
