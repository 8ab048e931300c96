"""AdamC."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, UnitInterval
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class AdamC(Optimizer, rule="adam_c"):
    r"""AdamC: AdamW, with a decay that falls with the square of a scheduled step size.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow \left(1 - \frac{\eta^2}{\eta_{max}} \lambda\right) p
            - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    In a layer that a normalisation follows, AdamW lets the gradient's norm settle at :math:`\sqrt{2 \lambda / \eta}` times the
    weight's, so that gradients grow while a schedule falls. Here that ratio stays the same.

    Defazio (2025), *Why Gradients Rapidly Increase Near the End of Training*, https://arxiv.org/abs/2506.02285

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf). While it stays the same, and `max_lr` is not above it, the rule is AdamW's.
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size at the peak of `lr`, in [0, inf).
    max_lr : float or schedule
        The peak of the schedule of `lr`, in [0, inf). Where `lr` was larger, its largest value so far takes this one's place:
        at 0 it always does.
    correction : float or schedule
        At 1 the decay is corrected, at 0 it is AdamW's, between them a weighted mean; in [0, 1].

    Notes
    -----
    State: `m` and `v`, one value each per element, and `lr_max`, one float64 per tensor, the largest `lr` so far (8 bytes per
    float32 parameter).

    In place of AdamW on long runs with a schedule that falls, for networks with normalisation layers. The paper corrects the
    layers that a normalisation follows: put the others, such as the output layer, into a `Group` with ``correction=0``. Under a
    warm-up pass `max_lr`; without it the decay is AdamW's until the peak.

    Timm's corrected decay and pytorch_optimizer take the `lr` of the constructor for the peak, which nothing bounds when a
    schedule goes higher. Pytorch_optimizer corrects only groups with ``normalized=True``, adds 1e-15 inside the root and
    `eps` before the correction of `v`, and has ``weight_decay=0``; here it is AdamW's.

    Examples
    --------
    >>> w = np.ones(3)
    >>> opt = schuss.AdamC(w, lr=0.1, weight_decay=0.1, max_lr=0.2)
    >>> opt.step(np.zeros(3))
    >>> w
    array([0.995, 0.995, 0.995])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 1e-2  #: decay of the weights per unit of step size at the peak
    max_lr: NonNegative = 0.0  #: the peak of lr, at least
    correction: UnitInterval = 1.0  #: how much of the correction acts

    @staticmethod
    def reference(p, g, m, v, lr_max, *, t, lr, beta1, beta2, eps, weight_decay, max_lr, correction):
        """Step one tensor in NumPy."""
        if lr > lr_max:
            lr_max[...] = lr
        peak = max_lr if max_lr > lr_max else float(lr_max)
        part = lr / peak if peak > 0 else 1.0
        decay = lr * (1 - correction + correction * part) * weight_decay
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        p[...] = (1 - decay) * p - (lr / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
