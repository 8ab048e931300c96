"""QHAdam."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, UnitInterval
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class QHAdam(Optimizer, rule="qhadam"):
    r"""QHAdam: Adam, with the last gradient and its square weighed apart from their means.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \frac{(1 - \nu_1) g + \nu_1 m / (1 - \beta_1^t)}
            {\sqrt{(1 - \nu_2) g^2 + \nu_2 v / (1 - \beta_2^t)} + \epsilon}

    At ν₁ = ν₂ = 1 it is `AdamW`; ν₁ = β₁ is close to Adam with Nesterov's momentum.

    Ma & Yarats (2019), *Quasi-hyperbolic momentum and Adam for deep learning*, https://arxiv.org/abs/1810.06801

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    nu1, nu2 : float or schedule
        ν₁ and ν₂, the weights of the mean against the gradient and of the mean square against the square, in [0, 1].
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    In place of Adam where a longer mean would help against noise but makes the step late. A `nu2` below 1 bounds the step of
    an element whose gradient is suddenly large, by about ``lr * sqrt(1 / (1 - nu2))``.

    `beta1`, `nu1` and `nu2` are what the authors recommend; the defaults of their code and of pytorch_optimizer are
    ``beta1=0.9, nu1=1, nu2=1``, which is Adam, and ensmallen's ``beta1=0.9``. Their code keeps the means already corrected for
    bias in the state. The coupled weight decay that it has by default is `l2`.

    Examples
    --------
    >>> w = np.array([1.0, -1.0])
    >>> opt = schuss.QHAdam(w, lr=0.1)
    >>> opt.step(np.array([3.0, 0.5]))
    >>> w.round(6)
    array([ 0.9, -1.1])
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.995  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    nu1: UnitInterval = 0.7  #: weight of the mean in the step
    nu2: UnitInterval = 1.0  #: weight of the mean square in the root
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, nu1, nu2, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        root = np.sqrt((1 - nu2) * (g * g) + (nu2 / bias2) * v)
        p[...] = (1 - lr * weight_decay) * p - ((lr * (1 - nu1)) * g + (lr * nu1 / bias1) * m) / (root + eps)
