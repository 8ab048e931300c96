"""SignSGD."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import NonNegative
from schuss.optimizer import Optimizer


class SignSGD(Optimizer, rule="signsgd"):
    r"""signSGD: steps of one length along the sign of the gradient.

    .. math::

        p \leftarrow p - \eta \, \operatorname{sign}(g)

    Bernstein, Wang, Azizzadenesheli & Anandkumar (2018), *signSGD: Compressed Optimisation for Non-Convex Problems*,
    https://arxiv.org/abs/1802.04434

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Length of every element's step, in [0, inf).

    Notes
    -----
    State: none.

    For large batches, and where the size of a gradient says little (quantized or adversarial problems); noise alone decides
    the sign of a small gradient, which `Signum` averages out. Needs a schedule that falls: the steps do not shrink by
    themselves.

    Where the gradient is 0, nothing moves (``sign(0) = 0``, as in optax). For a decoupled decay, which pytorch_optimizer has
    here, use `Tiger` with ``beta=0``.

    Examples
    --------
    >>> w = np.ones(3)
    >>> opt = schuss.SignSGD(w, lr=0.1)
    >>> opt.step(np.array([5.0, 0.0, -0.01]))
    >>> w
    array([0.9, 1. , 1.1])
    """

    lr: NonNegative = 1e-3  #: step size

    @staticmethod
    def reference(p, g, *, t, lr):
        """Step one tensor in NumPy."""
        p[...] = p - lr * np.sign(g)
