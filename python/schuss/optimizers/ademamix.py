"""AdEMAMix."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import log, one_minus_power, power
from schuss.optimizer import Optimizer


class AdEMAMix(Optimizer, rule="ademamix"):
    r"""AdEMAMix: AdamW with a second, much slower mean of the gradient.

    .. math::

        m_1 &\leftarrow \beta_1 m_1 + (1 - \beta_1) g, \qquad m_2 \leftarrow \beta_3(t)\, m_2 + (1 - \beta_3(t)) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow (1 - \eta \lambda) p
        - \eta \frac{m_1 / (1 - \beta_1^t) + \alpha(t)\, m_2}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \\
        \alpha(t) &= \alpha \min(t / T_\alpha, 1), \qquad
        \beta_3(t) = \min\left(\beta_3, 2^{-1 / h}\right) \quad\text{with}\quad
        h = \left(1 - \tfrac{t}{T_{\beta_3}}\right) h(\beta_1) + \tfrac{t}{T_{\beta_3}} h(\beta_3) \quad (t < T_{\beta_3})

    where :math:`h(\beta) = \log(1/2) / \log \beta` is a mean's half-life in steps. The slow mean starts at 0 and is not
    corrected.

    Pagliardini, Ablin & Grangier (2024), *The AdEMAMix Optimizer: Better, Faster, Older*, https://arxiv.org/abs/2409.03137

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2, beta3 : float or schedule
        Decays of the fast mean, of the square and of the slow mean, in [0, 1).
    alpha : float or schedule
        α, the weight of the slow mean, in [0, inf).
    t_alpha, t_beta3 : float or schedule
        Steps over which `alpha` grows from 0, and the slow mean's half-life from that of `beta1`; in [0, inf). At 0 they are
        what they are from the start.
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m1`, `m2` and `v`, one value each per element (12 bytes per float32 parameter).

    For long training of language models, in place of AdamW; both warm-ups as long as the training, or early steps may diverge.
    For short runs take ``beta3=0.999``.

    The authors' defaults; optax and pytorch_optimizer have ``alpha=5``. The warm-up of the slow mean is the paper's formula;
    the authors' code adds 1e-8 to the decays in it, which makes the half-life of 0.9999 longer by 1e-4 of itself. Optax has no
    warm-ups but takes schedules of `alpha` and `b3`, as all optimizers do here.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.AdEMAMix(w, lr=0.1, alpha=5.0, t_alpha=1000, t_beta3=1000)
    >>> opt.step(np.array([2.0]))
    >>> w.round(6)
    array([0.899975])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the fast mean
    beta2: Fraction = 0.999  #: decay of the square
    beta3: Fraction = 0.9999  #: decay of the slow mean
    alpha: NonNegative = 2.0  #: weight of the slow mean
    t_alpha: NonNegative = 0.0  #: steps over which alpha grows
    t_beta3: NonNegative = 0.0  #: steps over which beta3 grows
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m1, m2, v, *, t, lr, beta1, beta2, beta3, alpha, t_alpha, t_beta3, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        mixed = t / t_alpha * alpha if t < t_alpha else alpha
        slow = beta3
        if t < t_beta3:
            part = t / t_beta3
            half_life = (1 - part) * (log(0.5) / log(beta1)) + part * (log(0.5) / log(beta3))
            slow = min(power(0.5, 1 / half_life) if half_life > 0 else 0.0, beta3)
        m1[...] = beta1 * m1 + (1 - beta1) * g
        m2[...] = slow * m2 + (1 - slow) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        u = ((lr / bias1) * m1 + (lr * mixed) * m2) / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps)
        p[...] = (1 - lr * weight_decay) * p - u
