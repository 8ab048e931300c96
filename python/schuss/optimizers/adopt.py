"""ADOPT."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.optimizer import Optimizer


class ADOPT(Optimizer, rule="adopt"):
    r"""ADOPT: Adam that normalises each gradient by the moments before it, then averages.

    .. math::

        t = 1:\quad v &\leftarrow g^2 \\
        t > 1:\quad m &\leftarrow \beta_1 m
        + (1 - \beta_1) \operatorname{clip}\left(\frac{g}{\max(\sqrt v, \epsilon)}, -c, c\right),
        \qquad c = (t - 1)^{1/4} \\
        p &\leftarrow (1 - \eta \lambda) p - \eta m \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2

    It converges with any `beta2`. The first step only sets v.

    Taniguchi et al. (2024), *ADOPT: Modified Adam Can Converge with Any β2 with the Optimal Rate*,
    https://arxiv.org/abs/2411.02853

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Least divisor, in [0, inf).
    weight_decay : float or schedule
        λ, decoupled, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    Where Adam diverges, or its result depends on the choice of `beta2`.

    The authors' clipped form and defaults; their decay is coupled unless asked otherwise, which is `l2` here. Optax has no
    decay, and `nesterov`. Pytorch_optimizer clips at ``t**(1/4)``, one step ahead, and its decoupled decay acts in the first
    step; timm clips with the exponent 0.333.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.ADOPT(w, lr=0.1)
    >>> opt.step(np.array([2.0]))
    >>> opt.step(np.array([1.0]))  # half of the first gradient
    >>> w.round(6)
    array([0.995])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.9999  #: decay of the square
    eps: NonNegative = 1e-6  #: least divisor
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, weight_decay):
        """Step one tensor in NumPy."""
        first = t == 1
        limit = math.sqrt(math.sqrt(t - 1))
        q = np.clip(g / np.maximum(np.sqrt(v), 1.0 if first else eps), -limit, limit)
        m[...] = beta1 * m + (1 - beta1) * q
        v[...] = (0.0 if first else beta2) * v + (1.0 if first else 1 - beta2) * (g * g)
        p[...] = (1.0 if first else 1 - lr * weight_decay) * p - lr * m
