"""SGD."""

from __future__ import annotations

from schuss.hyperparameters import Fraction, NonNegative, Switch, UnitInterval
from schuss.optimizer import Optimizer


class SGD(Optimizer, rule="sgd"):
    r"""Stochastic gradient descent, with momentum and Nesterov's variant of it.

    .. math::

        b &\leftarrow \mu b + (1 - \tau) g \qquad (b \leftarrow g \text{ at } t = 1) \\
        p &\leftarrow p - \eta\, b \qquad\text{or, with Nesterov's momentum,}\qquad p \leftarrow p - \eta (g + \mu b)

    Polyak (1964), *Some methods of speeding up the convergence of iteration methods*; Sutskever, Martens, Dahl & Hinton
    (2013), *On the importance of initialization and momentum in deep learning*,
    https://proceedings.mlr.press/v28/sutskever13.html

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    momentum : float or schedule
        μ, in [0, 1). At 0 no buffer is kept.
    dampening : float or schedule
        τ, in [0, 1]. The first gradient enters the buffer undamped.
    nesterov : bool
        Look ahead along the buffer; needs momentum and no dampening.

    Notes
    -----
    State: `buffer`, one value per element (4 bytes per float32 parameter), with momentum; none without.

    The baseline, and with momentum 0.9 and a good schedule still hard to beat on convolutional networks.

    This is torch's form: the step size is outside the buffer, so that a change of `lr` acts at once. Keras keeps it inside
    (``b = momentum * b - lr * g``), which differs where `lr` changes, and its weight decay is decoupled. Optax's ``sgd`` is
    torch's form without dampening and decay. For a decoupled decay see `SGDW`; for an averaged buffer see `Momentum`.

    Examples
    --------
    >>> w = np.array([1.0, 2.0])
    >>> opt = schuss.SGD(w, lr=0.1, momentum=0.9)
    >>> opt.step(w.copy())
    >>> w
    array([0.9, 1.8])
    """

    lr: NonNegative = 1e-3  #: step size
    momentum: Fraction = 0.0  #: how much of the buffer stays
    dampening: UnitInterval = 0.0  #: how much of the gradient is kept out of the buffer
    nesterov: Switch = False  #: look ahead along the buffer

    @classmethod
    def objection(cls, values):
        """Say why hyper-parameters make no sense together."""
        if values["nesterov"] and not values["momentum"]:
            return "nesterov=True needs momentum; pass momentum in (0, 1)"
        if values["nesterov"] and values["dampening"]:
            return "nesterov=True goes without dampening; leave dampening at 0"
        return None

    @staticmethod
    def reference(p, g, buffer, *, t, lr, momentum, dampening, nesterov):
        """Step one tensor in NumPy."""
        if buffer is None:
            p[...] = p - lr * g
            return
        buffer[...] = momentum * buffer + (1.0 if t == 1 else 1 - dampening) * g
        p[...] = p - lr * (g + momentum * buffer if nesterov else buffer)
