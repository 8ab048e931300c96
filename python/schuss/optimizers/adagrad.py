"""Adagrad."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import NonNegative, Switch
from schuss.optimizer import Optimizer


class Adagrad(Optimizer, rule="adagrad"):
    r"""Adagrad: steps that shrink with the sum of all squared gradients so far.

    .. math::

        n &\leftarrow n + g^2 \\
        p &\leftarrow p - \frac{\eta}{1 + (t - 1)\,d} \cdot \frac{g}{\sqrt{n} + \epsilon}

    or, with `eps_inside`, :math:`g / \sqrt{n + \epsilon}`.

    Duchi, Hazan & Singer (2011), *Adaptive Subgradient Methods for Online Learning and Stochastic Optimization*,
    https://jmlr.org/papers/v12/duchi11a.html

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    lr_decay : float or schedule
        d, in [0, inf).
    eps : float or schedule
        In [0, inf).
    eps_inside : bool
        Add `eps` under the root.
    initial_accumulator : float
        What n starts from, in [0, inf).

    Notes
    -----
    State: `n`, one value per element (4 bytes per float32 parameter).

    For sparse features and convex problems; on long runs its steps vanish.

    Torch's form and defaults. Keras and optax are ``eps=1e-7, eps_inside=True, initial_accumulator=0.1`` (optax also gives
    0 where n is 0).

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.Adagrad(w, lr=0.5)
    >>> opt.step(np.array([2.0]))
    >>> w.round(6)
    array([0.5])
    """

    lr: NonNegative = 1e-2  #: step size
    lr_decay: NonNegative = 0.0  #: how fast the step size falls
    eps: NonNegative = 1e-10  #: added to the root, or inside
    eps_inside: Switch = False  #: add eps under the root
    initial_accumulator: NonNegative = 0.0  #: what the sum of squares starts from

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return values["initial_accumulator"]

    @staticmethod
    def reference(p, g, n, *, t, lr, lr_decay, eps, eps_inside):
        """Step one tensor in NumPy."""
        n[...] = n + g * g
        root = np.sqrt(n + eps) if eps_inside else np.sqrt(n) + eps
        p[...] = p - (lr / (1 + (t - 1) * lr_decay)) * (g / root)
