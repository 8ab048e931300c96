"""NAdamW."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class NAdamW(Optimizer, rule="nadamw"):
    r"""NAdamW: AdamW with Nesterov's momentum.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        n &= \beta_1 m + (1 - \beta_1) g \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \frac{n / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The gradient enters the mean twice: what steps is the mean as the next step would find it, had that the same gradient.

    Dozat (2016), *Incorporating Nesterov Momentum into Adam*, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ, with
    the decay of Loshchilov & Hutter (2019), *Decoupled Weight Decay Regularization*, https://arxiv.org/abs/1711.05101, in
    the form of the baselines of Dahl et al. (2023), *Benchmarking Neural Network Training Algorithms*,
    https://arxiv.org/abs/2306.07179

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

    Wherever AdamW is used, at the same cost and with its hyper-parameters: the AlgoPerf benchmark has it beside AdamW as a
    baseline to beat.

    The form and defaults of timm, which follows the benchmark's code. Both terms of n are corrected by ``1 - beta1**t``, so
    that the first step is ``1 + beta1`` times Adam's; optax's nadamw divides the term of m by ``1 - beta1**(t + 1)``, with
    ``weight_decay=1e-4``. Torch's NAdam with its flag `decoupled_weight_decay` is another method, with a growing momentum:
    see `NAdam`.

    Examples
    --------
    >>> w = np.ones(2)
    >>> opt = schuss.NAdamW(w, lr=0.1, weight_decay=0.1)
    >>> opt.step(np.array([0.0, 4.0]))
    >>> w.round(6)
    array([0.99, 0.8 ])
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
        n = beta1 * m + (1 - beta1) * g
        p[...] = (1 - lr * weight_decay) * p - (lr / bias1) * (n / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
