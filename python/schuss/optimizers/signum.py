"""Signum."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.optimizer import Optimizer


class Signum(Optimizer, rule="signum"):
    r"""Signum: steps of one length along the sign of the averaged gradient.

    .. math::

        m &\leftarrow \beta m + (1 - \beta) g \\
        p &\leftarrow p - \eta \, \operatorname{sign}(m)

    Bernstein, Wang, Azizzadenesheli & Anandkumar (2018), *signSGD: Compressed Optimisation for Non-Convex Problems*,
    https://arxiv.org/abs/1802.04434

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Length of every element's step, in [0, inf).
    beta : float or schedule
        Decay of the mean, in [0, 1).

    Notes
    -----
    State: `m`, one value per element (4 bytes per float32 parameter): half of Adam's.

    For networks that Adam trains well, under tight memory. Every element moves by `lr`, so take a rate several times smaller
    than Adam's; `Lion` weighs the last gradient apart from the mean, `Tiger` adds a decay.

    The paper's form, and that of optax and pytorch_optimizer (``SignSGD(momentum=0.9)`` there). Where the mean is 0, nothing
    moves (``sign(0) = 0``). MXNet has ``lr=0.01`` and a decoupled decay `wd_lh` besides.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.Signum(w, lr=0.25)
    >>> opt.step(np.array([1.0]))
    >>> opt.step(np.array([-0.5]))  # outvoted
    >>> w
    array([0.5])
    """

    lr: NonNegative = 1e-3  #: step size
    beta: Fraction = 0.9  #: decay of the mean

    @staticmethod
    def reference(p, g, m, *, t, lr, beta):
        """Step one tensor in NumPy."""
        m[...] = beta * m + (1 - beta) * g
        p[...] = p - lr * np.sign(m)
