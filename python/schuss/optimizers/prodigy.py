"""Prodigy."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, Growth, NonNegative, Positive, Switch
from schuss.math import dot, one_minus_power, total
from schuss.optimizer import Optimizer


class Prodigy(Optimizer, rule="prodigy"):
    r"""Prodigy: Adam that finds its step size by itself.

    .. math::

        \gamma &= d\,\eta \qquad (\times \sqrt{1 - \beta_2^t} / (1 - \beta_1^t) \text{ with bias correction}) \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) d\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) d^2 g^2 \\
        r &\leftarrow \sqrt{\beta_2}\, r + \tfrac{d}{d_0} \gamma \langle g, p_0 - p \rangle, \qquad
        s \leftarrow \sqrt{\beta_2}\, s + \tfrac{d}{d_0} \gamma g \\
        \hat d &= c\, r / \|s\|_1, \qquad d_{max} \leftarrow \max(d_{max}, \hat d), \qquad
        d' = \min(d_{max}, d \cdot \text{growth}) \\
        p &\leftarrow (1 - \lambda \gamma) p - \gamma \frac{m}{\sqrt{v} + d' \epsilon}

    The sums run over all tensors: d is one estimate, of the distance from the start to the solution.

    Mishchenko & Defazio (2023), *Prodigy: An Expeditiously Adaptive Parameter-Free Learner*,
    https://arxiv.org/abs/2306.06101

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Multiplies the estimate; leave it at 1, or give a schedule with peak 1. In [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, times d; in [0, inf).
    weight_decay : float or schedule
        λ, decoupled, in [0, inf). The only hyper-parameter that groups may differ in.
    d0 : float
        First estimate, in (0, inf).
    d_coef : float or schedule
        c, multiplies the estimate, in (0, inf).
    growth_rate : float or schedule
        Bound of d's growth in a step, in [1, inf]. Until its first growth d is not bounded.
    bias_correction : bool
        Adam's, in the step size.
    safeguard_warmup : bool
        Leave `lr` out of s, for schedules with a warm-up.

    Notes
    -----
    State: `m`, `v`, `s` and `p0`, one value each per element (16 bytes per float32 parameter), and three numbers.

    For fine-tuning and other runs where searching a step size costs more than memory.

    This is the authors' form and defaults, but for ``lr=0``, where the authors' code leaves the averages alone. Optax always
    corrects the bias and has no bound of the growth.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.Prodigy(w)
    >>> for _ in range(100):
    ...     opt.step(w.copy())  # the gradient of sum(w**2) / 2
    >>> bool(np.abs(w).max() < 1.0), float(opt.state["d"]) > 0.1
    (True, True)
    """

    lr: NonNegative = 1.0  #: multiplies the estimate
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root, times d
    weight_decay: NonNegative = 0.0  #: decoupled decay
    d0: Positive = 1e-6  #: first estimate of the distance
    d_coef: Positive = 1.0  #: multiplies the estimate
    growth_rate: Growth = math.inf  #: bound of the estimate's growth in a step
    bias_correction: Switch = False  #: Adam's, in the step size
    safeguard_warmup: Switch = False  #: leave lr out of the denominator

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return {"p0": parameter, "d": values["d0"], "d_max": values["d0"]}.get(slot, 0.0)

    @staticmethod
    def reference(
        p, g, m, v, s, p0, d, d_max, d_numerator, *, t, lr, beta1, beta2, eps, weight_decay, d0, d_coef, growth_rate,
        bias_correction, safeguard_warmup,
    ):  # fmt: skip
        """Step one tensor in NumPy; what it yields is summed over all tensors."""
        beta3 = math.sqrt(beta2)
        correction = math.sqrt(one_minus_power(beta2, t)) / one_minus_power(beta1, t) if bias_correction else 1.0
        old = float(d)
        rate = old * lr * correction
        s[...] = beta3 * s + (old / d0 * (old if safeguard_warmup else rate)) * g
        gx, s_norm = yield dot(g, p0 - p), total(np.abs(s))
        d_numerator[...] = beta3 * d_numerator + old / d0 * rate * gx
        if s_norm > 0:
            d_hat = d_coef * d_numerator / s_norm
            if d == d0 and d_hat > d:
                d[...] = d_hat
            if d_hat > d_max:
                d_max[...] = d_hat
            d[...] = d * growth_rate if d * growth_rate < d_max else d_max
        m[...] = beta1 * m + ((1 - beta1) * old) * g
        v[...] = beta2 * v + ((1 - beta2) * old * old) * (g * g)
        p[...] = (1 - weight_decay * rate) * p - rate * (m / (np.sqrt(v) + float(d) * eps))
