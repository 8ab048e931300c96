"""Momentum."""

from __future__ import annotations

from schuss.hyperparameters import Fraction, NonNegative
from schuss.optimizer import Optimizer


class Momentum(Optimizer, rule="momentum"):
    r"""Averaged momentum: a step along the running mean of the gradients.

    .. math::

        v &\leftarrow \beta v + (1 - \beta) g \\
        p &\leftarrow p - \eta v

    with v = 0 at first and no bias correction, so that the first steps are short. The form of many courses; equal to
    heavy-ball momentum with ``lr * (1 - beta)`` as its rate.

    Polyak (1964), *Some methods of speeding up the convergence of iteration methods*; as a running mean: Ng (2017), *Deep
    Learning*, lectures

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta : float or schedule
        Decay of the mean, in [0, 1).

    Notes
    -----
    State: `v`, one value per element (4 bytes per float32 parameter).

    Where steps should stay as long as a gradient step when momentum changes. ``SGD(momentum=beta)`` sums instead and steps
    up to ``1 / (1 - beta)`` times as far; torch has this form as ``SGD(momentum=beta, dampening=beta)`` but for its
    undamped first step, and optax as ``ema(beta, debias=False)`` before the step size. Keras only sums.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.Momentum(w, lr=1.0, beta=0.5)
    >>> opt.step(np.array([1.0]))
    >>> w
    array([0.5])
    """

    lr: NonNegative = 1e-2  #: step size
    beta: Fraction = 0.9  #: decay of the mean

    @staticmethod
    def reference(p, g, v, *, t, lr, beta):
        """Step one tensor in NumPy."""
        v[...] = beta * v + (1 - beta) * g
        p[...] = p - lr * v
