"""DAdaptAdam."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, Growth, NonNegative, Positive, Switch
from schuss.math import dot, one_minus_power, total
from schuss.optimizer import Optimizer


class DAdaptAdam(Optimizer, rule="dadapt_adam"):
    r"""Adam with D-Adaptation: the step size is an estimate of the distance to the solution, which only grows.

    .. math::

        \gamma &= d\,\eta \qquad (\times \sqrt{1 - \beta_2^t} / (1 - \beta_1^t) \text{ with bias correction}), \qquad
        \beta_3 = \sqrt{\beta_2} \\
        r &\leftarrow \beta_3 r + (1 - \beta_3) \gamma \Big\langle g, \frac{s}{\sqrt{v} + \epsilon} \Big\rangle, \qquad
        s \leftarrow \beta_3 s + (1 - \beta_3) \gamma g \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) \gamma g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \hat d &= \frac{r}{(1 - \beta_3) \|s\|_1}, \qquad d \leftarrow \max(d, \min(\hat d, d \cdot \text{growth})) \\
        p &\leftarrow (1 - \lambda \gamma) p - \frac{m}{\sqrt{v} + \epsilon}

    The sums run over all tensors, the first with v before the step.

    Defazio & Mishchenko (2023), *Learning-Rate-Free Learning by D-Adaptation*, https://arxiv.org/abs/2301.07733

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Multiplies the estimate; leave it at 1, or give a schedule with peak 1. In [0, inf). It is inside m: a change acts on
        new gradients only.
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, in (0, inf).
    weight_decay : float or schedule
        λ, decoupled, in [0, inf). The only hyper-parameter that groups may differ in.
    d0 : float
        First estimate, in (0, inf).
    growth_rate : float or schedule
        Bound of d's growth in a step, in [1, inf]. Values like 1.02 make a warm-up of it.
    bias_correction : bool
        Adam's, in the step size.

    Notes
    -----
    State: `m`, `v` and `s`, one value each per element (12 bytes per float32 parameter), and two numbers: `d` and
    `d_numerator` (r).

    For runs where no step size is known, with a schedule of `lr` that falls to 0. `Prodigy` is its successor: faster where the
    distance is underestimated, for 4 bytes more.

    The authors' form and defaults, but for the decay, which is decoupled here (``decouple=True`` there; their coupled one is
    `l2`), and for their `layer_scale`, which is not here. While all gradients are zero, and where `lr` is 0, their code makes
    no step; here the averages decay, and p goes on along m. Optax always corrects the bias and has no bound of the growth.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.DAdaptAdam(w)
    >>> for _ in range(100):
    ...     opt.step(w.copy())  # the gradient of sum(w**2) / 2
    >>> bool(np.abs(w).max() < 1.0), float(opt.state["d"]) > 0.01
    (True, True)
    """

    lr: NonNegative = 1.0  #: multiplies the estimate
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: Positive = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decoupled decay
    d0: Positive = 1e-6  #: first estimate of the distance
    growth_rate: Growth = math.inf  #: bound of the estimate's growth in a step
    bias_correction: Switch = False  #: Adam's, in the step size

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return values["d0"] if slot == "d" else 0.0

    @staticmethod
    def reference(
        p, g, m, v, s, d, d_numerator, *, t, lr, beta1, beta2, eps, weight_decay, growth_rate, bias_correction
    ):  # fmt: skip
        """Step one tensor in NumPy; what it yields is summed over all tensors."""
        beta3 = math.sqrt(beta2)
        correction = math.sqrt(one_minus_power(beta2, t)) / one_minus_power(beta1, t) if bias_correction else 1.0
        rate = float(d) * lr * correction
        along = dot(g, s / (np.sqrt(v) + eps))
        s[...] = beta3 * s + ((1 - beta3) * rate) * g
        gs, s_norm = yield along, total(np.abs(s))
        d_numerator[...] = beta3 * d_numerator + (1 - beta3) * rate * gs
        scale = (1 - beta3) * s_norm
        if scale > 0:
            d_hat = d_numerator / scale
            if d_hat > d:
                d[...] = d_hat if d_hat < d * growth_rate else d * growth_rate
        m[...] = beta1 * m + ((1 - beta1) * rate) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        p[...] = (1 - weight_decay * rate) * p - m / (np.sqrt(v) + eps)
