"""OptimisticAdam."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class OptimisticAdam(Optimizer, rule="optimistic_adam"):
    r"""Optimistic Adam: Adam that steps as if its direction would change once more as it just did.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        u_t &= \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}, \qquad u_0 = 0 \\
        p &\leftarrow p - \eta \left( u_t + o \, (u_t - u_{t-1}) \right)

    Where two players descend on opposite losses, plain steps circle around the equilibrium; the second term damps that.

    Daskalakis, Ilyas, Syrgkanis & Zeng (2018), *Training GANs with Optimism*, https://arxiv.org/abs/1711.00141

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
    optimism : float or schedule
        o, in [0, inf). The paper's rule is 1; 0 is Adam.

    Notes
    -----
    State: `m`, `v` and `u`, one value each per element (12 bytes per float32 parameter).

    For generative adversarial networks and other games between two optimizers, with a small `beta1`: on the game of the example
    it converges with 0 and not with the default, since momentum undoes the optimism. The first step is ``1 + optimism`` times
    as long as Adam's.

    This is the paper's form. Optax's optimistic_adam_v2 takes the first direction for the one before it, so that its first step
    is Adam's; its `alpha` and `beta` are a factor of `lr`, and `optimism` times that factor; it adds Nesterov's momentum unless
    told otherwise. The authors' code has Adam with `eps` beside the uncorrected root, and corrects both directions
    with the t of the step.

    Examples
    --------
    >>> x, y = np.ones(1), np.ones(1)  # x descends on x * y, y ascends
    >>> one, other = (schuss.OptimisticAdam(w, lr=0.1, beta1=0.0) for w in (x, y))
    >>> for _ in range(500):
    ...     gx, gy = y.copy(), -x
    ...     one.step(gx)
    ...     other.step(gy)
    >>> bool(np.hypot(x, y)[0] < 0.01)
    True
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    optimism: NonNegative = 1.0  #: weight of the direction's last change

    @staticmethod
    def reference(p, g, m, v, u, *, t, lr, beta1, beta2, eps, optimism):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        direction = (1 / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
        p[...] = p - ((lr * (1 + optimism)) * direction - (lr * optimism) * u)
        u[...] = direction
