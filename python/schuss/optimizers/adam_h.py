"""AdamH."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import dot, one_minus_power
from schuss.optimizer import Optimizer


class AdamH(Optimizer, rule="adam_h"):
    r"""AdamH: Adam on the sphere of its tensor's norm, a "hyperball" step.

    .. math::

        u &= \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}
             \qquad\text{with Adam's } m \text{ and } v \\
        q &= p - \eta \frac{\|p\|}{\|u\|} u \\
        p &\leftarrow \frac{\|p\|}{\|q\|} q \qquad\text{(norms over the tensor; a ratio with a zero norm is 1)}

    From the speed runs of https://github.com/KellerJordan/modded-nanogpt; no paper is known.

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Length of a step relative to the tensor's norm (about the angle in radians), in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, in [0, inf).

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    For weight matrices followed by a normalisation, where only the direction counts: it needs no weight decay. A tensor
    that is zero has no sphere and takes plain Adam steps. Not for biases.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.AdamH(w, lr=0.1)
    >>> opt.step(np.array([1.0, 0.0]))
    >>> round(float(np.linalg.norm(w)), 12)
    5.0
    """

    lr: NonNegative = 1e-2  #: step length relative to the norm
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (g * g)
        u = (1 / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
        pp, uu = dot(p, p), dot(u, u)
        ratio = math.sqrt(pp) / math.sqrt(uu) if pp > 0 and uu > 0 else 1.0
        q = p - (lr * ratio) * u
        qq = dot(q, q)
        p[...] = (math.sqrt(pp) / math.sqrt(qq) if pp > 0 and qq > 0 else 1.0) * q
