"""MADGRAD."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import cbrt
from schuss.optimizer import Optimizer


class MADGRAD(Optimizer, rule="madgrad"):
    r"""MADGRAD: dual averaging scaled by the cube root of the summed squares, with momentum as an average of iterates.

    .. math::

        w &= (\eta + \epsilon) \sqrt{t} \\
        n &\leftarrow n + w g^2, \qquad s \leftarrow s + w g \\
        z &= p_0 - \frac{s}{\sqrt[3]{n} + \epsilon} \\
        p &\leftarrow \mu p + (1 - \mu) z

    Every step starts anew from :math:`p_0`, the parameters before the first one; late gradients weigh more than early ones.

    Defazio & Jelassi (2021), *Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged Gradient Method for
    Stochastic Optimization*, https://arxiv.org/abs/2101.11075

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf). Not comparable with that of SGD or Adam.
    momentum : float or schedule
        μ, in [0, 1). At 0 no start is kept: the step before gives it back.
    eps : float or schedule
        Added to the cube root and to `lr`, in [0, inf). At 0, elements that have had no gradient stay.

    Notes
    -----
    State: `n` and `s`, with momentum also `p0`, one value each per element (12 bytes per float32 parameter, 8 without
    momentum). Keep `state_dtype` as wide as the parameters: they are computed from `p0`.

    In place of SGD or Adam for problems that dual averaging suits, such as sparse features. It needs less `l2` than they do,
    often none; search its `lr` anew.

    The authors' form and defaults. With ``lr=0`` nothing is added to n and s (as in pytorch_optimizer); optax and the authors
    add `eps` there too. pytorch_optimizer has ``lr=1e-3``. The authors' decoupled decay is not here.

    Examples
    --------
    >>> w = np.array([1.0, 2.0])
    >>> opt = schuss.MADGRAD(w, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * w)  # the gradient of sum(w**2)
    >>> bool(np.abs(w).max() < 0.01)
    True
    """

    lr: NonNegative = 1e-2  #: step size
    momentum: Fraction = 0.9  #: how much of the iterate stays
    eps: NonNegative = 1e-6  #: added to the cube root and to the step size

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return parameter if slot == "p0" else 0.0

    @staticmethod
    def reference(p, g, n, s, p0, *, t, lr, momentum, eps):
        """Step one tensor in NumPy."""
        weight = (lr + eps) * math.sqrt(t) if lr > 0 else 0.0
        root = cbrt(n) + eps
        before = np.where(root == 0, 0.0, s / root)
        n[...] = n + weight * (g * g)
        s[...] = s + weight * g
        root = cbrt(n) + eps
        after = np.where(root == 0, 0.0, s / root)
        p[...] = p - (after - before) if p0 is None else p + (1 - momentum) * (p0 - after - p)
