"""Adadelta."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.optimizer import Optimizer


class Adadelta(Optimizer, rule="adadelta"):
    r"""Adadelta: gradients scaled by the root mean square of past steps over that of past gradients.

    .. math::

        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        d &= \frac{\sqrt{u + \epsilon}}{\sqrt{v + \epsilon}} g \\
        u &\leftarrow \rho u + (1 - \rho) d^2 \\
        p &\leftarrow p - \eta d

    The quotient gives d the unit of the parameter, so that a step size is not needed.

    Zeiler (2012), *ADADELTA: An Adaptive Learning Rate Method*, https://arxiv.org/abs/1212.5701

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Multiplies the step; 1 is the paper's method. In [0, inf).
    rho : float or schedule
        Decay of both means of squares, in [0, 1).
    eps : float or schedule
        Added inside both roots, in [0, inf). The first steps are about ``sqrt(eps / (1 - rho))`` long; with 0 nothing moves.

    Notes
    -----
    State: `v` and `u`, one value each per element (8 bytes per float32 parameter).

    Where no step size is to be searched and there is time: steps start at the size of the root of `eps` and grow slowly.
    A larger `eps` shortens that.

    Torch's form and defaults, but for one root per element, of the quotient, where torch takes two. Keras has ``lr=0.001,
    rho=0.95, eps=1e-7``, which is a thousandth of the paper's step; optax has no default for `lr`, and without one its
    update points uphill.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.Adadelta(w, rho=0.5, eps=1e-2)
    >>> opt.step(np.array([1.0]))
    >>> w.round(6)
    array([0.859972])
    """

    lr: NonNegative = 1.0  #: multiplies the step
    rho: Fraction = 0.9  #: decay of the means of squares
    eps: NonNegative = 1e-6  #: added inside the roots

    @staticmethod
    def reference(p, g, v, u, *, t, lr, rho, eps):
        """Step one tensor in NumPy."""
        v[...] = rho * v + (1 - rho) * (g * g)
        d = np.sqrt((u + eps) / (v + eps)) * g
        u[...] = rho * u + (1 - rho) * (d * d)
        p[...] = p - lr * d
