"""Adamax."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class Adamax(Optimizer, rule="adamax"):
    r"""Adamax: Adam with a decaying maximum of the gradient's magnitude in place of the root of its mean square.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        u &\leftarrow \max(\beta_2 u, |g| + \epsilon) \\
        p &\leftarrow p - \frac{\eta}{1 - \beta_1^t} \cdot \frac{m}{u}

    The maximum needs no bias correction.

    Kingma & Ba (2015), *Adam: A Method for Stochastic Optimization*, https://arxiv.org/abs/1412.6980

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the maximum, in [0, 1).
    eps : float or schedule
        Added to the magnitude inside the maximum, in [0, inf). With 0, elements that never had a gradient become NaN.

    Notes
    -----
    State: `m` and `u`, one value each per element (8 bytes per float32 parameter).

    For gradients that are mostly zero with rare large entries, as of embeddings: a large gradient shortens the steps after
    it until the maximum has decayed, and none is much longer than `lr`.

    Torch's form and defaults, and optax's form. The paper has no `eps`. Keras leaves `eps` out of the maximum and divides by
    ``u + eps``, with ``lr=0.001, eps=1e-7``.

    Examples
    --------
    >>> w = np.zeros(3)
    >>> opt = schuss.Adamax(w, lr=0.5)
    >>> opt.step(np.array([1.0, -100.0, 0.0]))
    >>> w.round(6)
    array([-0.5,  0.5,  0. ])
    """

    lr: NonNegative = 2e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the maximum
    eps: NonNegative = 1e-8  #: added inside the maximum

    @staticmethod
    def reference(p, g, m, u, *, t, lr, beta1, beta2, eps):
        """Step one tensor in NumPy."""
        m[...] = beta1 * m + (1 - beta1) * g
        u[...] = np.maximum(beta2 * u, np.abs(g) + eps)
        p[...] = p - (lr / one_minus_power(beta1, t)) * (m / u)
