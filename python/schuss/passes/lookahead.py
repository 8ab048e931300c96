"""The synchronisation of Lookahead."""

from __future__ import annotations

from schuss.hyperparameters import UnitInterval
from schuss.optimizer import Optimizer


class Lookahead(Optimizer, rule="lookahead"):
    r"""Move slow weights towards the parameters, and the parameters back to them.

    .. math::

        s &\leftarrow s + \alpha (p - s) \\
        p &\leftarrow s

    Zhang, Lucas, Hinton & Ba (2019), *Lookahead optimizer: k steps forward, 1 step back*,
    https://arxiv.org/abs/1907.08610

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer see `Optimizer`.
    alpha : float or schedule
        How far the slow weights go, in [0, 1].

    Notes
    -----
    State: `slow`, one value per element, which starts as the parameter.

    The gradient is not used; a zero that is broadcast to the parameter's shape will do.

    Examples
    --------
    >>> w = np.array([1.0, 2.0])
    >>> synchronise = schuss.passes.lookahead.Lookahead(w, alpha=0.5)
    >>> w += 1.0
    >>> synchronise.step(np.zeros(2))
    >>> w
    array([1.5, 2.5])
    """

    alpha: UnitInterval = 0.5  #: how far the slow weights go

    def initial(self, slot, parameter, values):
        """Return the parameter."""
        return parameter

    @staticmethod
    def reference(p, g, slow, *, t, alpha):
        """Step one tensor in NumPy."""
        slow[...] = slow + alpha * (p - slow)
        p[...] = slow
