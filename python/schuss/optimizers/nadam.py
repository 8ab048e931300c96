"""NAdam."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power, power
from schuss.optimizer import Optimizer


class NAdam(Optimizer, rule="nadam"):
    r"""NAdam: Adam with Nesterov's momentum, which grows from step to step.

    .. math::

        \mu_t &= \beta_1 (1 - \tfrac{1}{2} \cdot 0.96^{t \psi}), \qquad P \leftarrow P \mu_t \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta \left( \frac{1 - \mu_t}{1 - P} g + \frac{\mu_{t+1}}{1 - P \mu_{t+1}} m \right) \Big/
              \left( \sqrt{v / (1 - \beta_2^t)} + \epsilon \right)

    with P = 1 at first.

    Dozat (2016), *Incorporating Nesterov Momentum into Adam*, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1). The momentum μ grows from ``beta1 / 2`` to `beta1`.
    eps : float or schedule
        Added outside the root, in [0, inf).
    momentum_decay : float or schedule
        ψ, how fast the momentum grows, in [0, inf).

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter), and `mu_product`, P, one float64 per
    tensor.

    Where Adam works and its momentum reacts too late. With a decoupled decay: `NAdamW`, whose momentum is constant.

    Torch's form and defaults. Torch keeps P in float32 unless its default dtype is float64, so that its steps differ by some
    1e-7 of their length; its flag `decoupled_weight_decay` is not here. Keras is ``momentum_decay=1, lr=0.001, eps=1e-7``.
    Optax has no growing momentum: its mean of gradients is that of `NAdamW` with ``1 - beta1**(t + 1)`` under m. The paper
    multiplies v by `beta2` besides, which no framework does.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.NAdam(w, lr=0.1)
    >>> opt.step(np.array([2.0]))
    >>> w.round(6), float(opt.state["mu_product"].round(6))
    (array([0.894355]), 0.450073)
    """

    lr: NonNegative = 2e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    momentum_decay: NonNegative = 4e-3  #: how fast the momentum grows

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return 1.0 if slot == "mu_product" else 0.0

    @staticmethod
    def reference(p, g, m, v, mu_product, *, t, lr, beta1, beta2, eps, momentum_decay):
        """Step one tensor in NumPy."""
        mu = beta1 * (1 - 0.5 * power(0.96, t * momentum_decay))
        mu_next = beta1 * (1 - 0.5 * power(0.96, (t + 1) * momentum_decay))
        product = float(mu_product) * mu
        mu_product[...] = product
        now, ahead = lr * (1 - mu) / (1 - product), lr * mu_next / (1 - product * mu_next)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        p[...] = p - (now * g + ahead * m) / ((1 / math.sqrt(one_minus_power(beta2, t))) * np.sqrt(v) + eps)
