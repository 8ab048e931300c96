"""Schedule-free RAdam."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, OpenFraction, Switch
from schuss.math import newest_share, one_minus_power
from schuss.optimizer import Optimizer


class ScheduleFreeRAdam(Optimizer, rule="schedule_free_radam"):
    r"""Schedule-free RAdam: neither a decay nor a warm-up of the step size.

    .. math::

        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad \rho = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        \gamma &= \eta \sqrt{\frac{(\rho - 4)(\rho - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho}}
        \quad\text{where } \rho > 4, \text{ else } 0 \text{ (or } \eta \text{, not silent)} \\
        w &= t^r \max_{s \le t} \gamma_s^{k}, \qquad c = w / \textstyle\sum_{s \le t} w_s \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
        u = \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda y
        \quad (u = g + \lambda y \text{ where } \rho \le 4) \\
        y &\leftarrow (1 - c)\, y + c\, z - \gamma (1 - \beta_1 (1 - c))\, u \\
        z &\leftarrow z - \gamma u

    The parameters hold y, where the gradients are to be taken. The weights to be evaluated are
    :math:`x = y + (1 - 1/\beta_1)(z - y)`: `eval` puts them into the parameters, `train` brings y back bit for bit.

    Defazio et al. (2024), *The Road Less Scheduled*, https://arxiv.org/abs/2405.15682; Liu et al. (2020), *On the Variance
    of the Adaptive Learning Rate and Beyond*, https://arxiv.org/abs/1908.03265

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf). Meant to be constant.
    beta1 : float or schedule
        How much of y is the average, in (0, 1).
    beta2 : float or schedule
        Decay of the square, in [0, 1). At 0.6 and below ρ never exceeds 4, and a silent optimizer never steps.
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, in [0, inf). Decays y, in the step of z.
    r : float or schedule
        Power of the step in the weight of an iterate, in [0, inf).
    weight_lr_power : float or schedule
        k, power of the largest step size so far in the weight of an iterate, in [0, inf).
    silent_sgd_phase : bool
        Make no step while ρ is 4 or less (the first 4 steps at `beta2` 0.999), in place of steps of SGD.

    Notes
    -----
    State: `z` and `v`, one value each per element (8 bytes per float32 parameter), and `lr_max` and `weight_sum`, two float64
    per tensor.

    In the place of `ScheduleFreeAdamW`, where its warm-up would have to be tuned. Statistics of batch normalisation have to
    be computed anew at the weights of `eval`.

    The authors' code is the same. Torch's RAdam rectifies where ρ > 5.

    Examples
    --------
    >>> w = np.array([1.0, 2.0])
    >>> opt = schuss.ScheduleFreeRAdam(w, lr=0.5)
    >>> for _ in range(10):
    ...     opt.step(w.copy())
    >>> opt.eval()  # to look at the weights, or to save them
    >>> w.round(4)
    array([0.9319, 1.9312])
    >>> opt.train()  # to go on
    """

    lr: NonNegative = 2.5e-3  #: step size
    beta1: OpenFraction = 0.9  #: share of the average in the weights
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size
    r: NonNegative = 0.0  #: power of the step in an iterate's weight
    weight_lr_power: NonNegative = 2.0  #: power of the largest step size in an iterate's weight
    silent_sgd_phase: Switch = True  #: no steps before the rectification

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return parameter if slot == "z" else 0.0

    def evaluation(self, parameter, state, values):
        """Return the average of the iterates."""
        return parameter + (1 - 1 / values["beta1"]) * (state["z"] - parameter)

    @staticmethod
    def reference(
        p, g, z, v, lr_max, weight_sum, *, t, lr, beta1, beta2, eps, weight_decay, r, weight_lr_power, silent_sgd_phase,
    ):  # fmt: skip
        """Step one tensor in NumPy."""
        bias2 = one_minus_power(beta2, t)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * (1 - bias2) / bias2
        rect = 0.0 if silent_sgd_phase else 1.0
        if length > 4:
            rect = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
        rate = lr * rect
        c, largest, weights = newest_share(t, rate, r, weight_lr_power, float(lr_max), float(weight_sum))
        lr_max[...] = largest
        weight_sum[...] = weights
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        u = (g / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps) if length > 4 else g) + weight_decay * p
        p[...] = p + c * (z - p) - rate * (1 - beta1 * (1 - c)) * u
        z[...] = z - rate * u
