"""AMSGrad."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class AMSGrad(Optimizer, rule="amsgrad"):
    r"""AMSGrad: Adam whose second moment never falls.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \hat v &\leftarrow \max(\hat v, v) \\
        p &\leftarrow p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{\hat v / (1 - \beta_2^t)} + \epsilon}

    Reddi, Kale & Kumar (2018), *On the Convergence of Adam and Beyond*, https://arxiv.org/abs/1904.09237

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

    Notes
    -----
    State: `m`, `v` and `v_max`, one value each per element (12 bytes per float32 parameter).

    For problems where rare, large gradients carry the information and Adam forgets them.

    As torch and keras, the maximum is taken over `v` itself and corrected afterwards; optax takes it over the corrected
    `v`, which differs in the first steps. The paper has no bias correction.

    Examples
    --------
    >>> w = np.ones(3)
    >>> opt = schuss.AMSGrad(w, lr=0.1)
    >>> for _ in range(50):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 0.3)
    True
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root

    @staticmethod
    def reference(p, g, m, v, v_max, *, t, lr, beta1, beta2, eps):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        v_max[...] = np.maximum(v_max, v)
        p[...] = p - (lr / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(v_max) + eps))
