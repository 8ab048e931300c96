"""RAdam."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class RAdam(Optimizer, rule="radam"):
    r"""RAdam: Adam that steps by momentum alone while its second moment is an average of too few gradients.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        p &\leftarrow p - \eta \frac{m}{1 - \beta_1^t} \cdot \begin{cases}
              r \sqrt{1 - \beta_2^t} / (\sqrt{v} + \epsilon) & \rho_t > 5 \\ 1 & \text{else} \end{cases} \\
        r &= \sqrt{\frac{(\rho_t - 4) (\rho_t - 2) \rho_\infty}{(\rho_\infty - 4) (\rho_\infty - 2) \rho_t}}

    ρ is the length of a plain average as variable as v, and r makes the step's variance what it is after many steps.

    Liu et al. (2020), *On the Variance of the Adaptive Learning Rate and Beyond*, https://arxiv.org/abs/1908.03265

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1). With ``beta2=0.999`` the sixth step is the first rectified one; with
        ``beta2 <= 2 / 3`` none is.
    eps : float or schedule
        Added outside the root, in [0, inf).

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    In place of Adam with a warm-up that would need tuning. Its first steps are not scaled: they are as long as the mean
    gradient times `lr`, so that gradients far above 1 should be clipped.

    Torch's form and defaults: `eps` is beside the root of the uncorrected v, so that it counts ``1 / sqrt(1 - beta2**t)``
    times as much as in `Adam`. Optax adds it after the correction. The paper rectifies from a length of 4 on; torch,
    optax and the authors' code from 5. Torch's flag `decoupled_weight_decay` is not here.

    Examples
    --------
    >>> w = np.array([2.0])
    >>> opt = schuss.RAdam(w, lr=0.1)
    >>> for _ in range(5):
    ...     opt.step(np.array([2.0]))
    >>> w.round(6)
    array([1.])
    >>> opt.step(np.array([2.0]))  # the first rectified step
    >>> w.round(6)
    array([0.997418])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * (1 - bias2) / bias2
        scale = 1.0
        if length > 5:
            rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            scale = math.sqrt(rectified * bias2)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        p[...] = p - (lr / bias1 * scale) * (m / (np.sqrt(v) + eps) if length > 5 else m)
