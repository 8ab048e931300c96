"""Schedule-free AdamW."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, OpenFraction
from schuss.math import newest_share, one_minus_power
from schuss.optimizer import Optimizer


class ScheduleFreeAdamW(Optimizer, rule="schedule_free_adamw"):
    r"""Schedule-free AdamW: no decay of the step size, and an average of the iterates in place of momentum.

    .. math::

        \gamma &= \eta \min(1, t / t_{warm}), \qquad w = t^r \max_{s \le t} \gamma_s^{k}, \qquad
        c = w / \textstyle\sum_{s \le t} w_s \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
        u = \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda y \\
        y &\leftarrow (1 - c)\, y + c\, z - \gamma (1 - \beta_1 (1 - c))\, u \\
        z &\leftarrow z - \gamma u

    The parameters hold y, where the gradients are to be taken. The weights to be evaluated are
    :math:`x = y + (1 - 1/\beta_1)(z - y)`: `eval` puts them into the parameters, `train` brings y back bit for bit.

    Defazio et al. (2024), *The Road Less Scheduled*, https://arxiv.org/abs/2405.15682

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf). Meant to be constant; 1 to 10 times AdamW's.
    beta1 : float or schedule
        How much of y is the average, in (0, 1).
    beta2 : float or schedule
        Decay of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, in [0, inf). Decays y, in the step of z.
    warmup_steps : float or schedule
        Steps over which the step size rises, in [0, inf).
    r : float or schedule
        Power of the step in the weight of an iterate, in [0, inf).
    weight_lr_power : float or schedule
        k, power of the largest step size so far in the weight of an iterate, in [0, inf).

    Notes
    -----
    State: `z` and `v`, one value each per element (8 bytes per float32 parameter), and `lr_max` and `weight_sum`, two float64
    per tensor.

    In the place of AdamW with a schedule, where the number of steps is not known in advance or weights are wanted at any
    time. Statistics of batch normalisation have to be computed anew at the weights of `eval`.

    The authors' code is the same. Optax has no `r`, and steps z with the warm-up of one step before; keras weighs all
    iterates alike (``weight_lr_power=0``), and its decay acts on y without z.

    Examples
    --------
    >>> w = np.array([1.0, 2.0])
    >>> opt = schuss.ScheduleFreeAdamW(w, lr=0.5)
    >>> for _ in range(3):
    ...     opt.step(w.copy())
    >>> opt.eval()  # to look at the weights, or to save them
    >>> w.round(4)
    array([0.2083, 1.0866])
    >>> opt.train()  # to go on
    """

    lr: NonNegative = 2.5e-3  #: step size
    beta1: OpenFraction = 0.9  #: share of the average in the weights
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size
    warmup_steps: NonNegative = 0.0  #: steps over which the step size rises
    r: NonNegative = 0.0  #: power of the step in an iterate's weight
    weight_lr_power: NonNegative = 2.0  #: power of the largest step size in an iterate's weight

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return parameter if slot == "z" else 0.0

    def evaluation(self, parameter, state, values):
        """Return the average of the iterates."""
        return parameter + (1 - 1 / values["beta1"]) * (state["z"] - parameter)

    @staticmethod
    def reference(
        p, g, z, v, lr_max, weight_sum, *, t, lr, beta1, beta2, eps, weight_decay, warmup_steps, r, weight_lr_power,
    ):  # fmt: skip
        """Step one tensor in NumPy."""
        rate = lr * (t / warmup_steps) if t < warmup_steps else lr
        c, largest, weights = newest_share(t, rate, r, weight_lr_power, float(lr_max), float(weight_sum))
        lr_max[...] = largest
        weight_sum[...] = weights
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        u = g / ((1 / math.sqrt(one_minus_power(beta2, t))) * np.sqrt(v) + eps) + weight_decay * p
        p[...] = p + c * (z - p) - rate * (1 - beta1 * (1 - c)) * u
        z[...] = z - rate * u
