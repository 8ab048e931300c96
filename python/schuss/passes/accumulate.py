"""A running sum of gradients."""

from __future__ import annotations

import numpy as np

from schuss.optimizer import Optimizer


class Accumulate(Optimizer, rule="accumulate"):
    r"""Add gradients up, in arrays that the first gradient overwrites.

    .. math::

        p \leftarrow \begin{cases} g & t = 1 \\ p + g & t > 1 \end{cases}

    Ott, Edunov, Grangier & Auli (2018), *Scaling neural machine translation*, https://arxiv.org/abs/1806.00187

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        The sums; for these and the options of every optimizer see `Optimizer`.

    Notes
    -----
    State: none.

    t is the tensor's own count of gradients; setting it back to zero starts a new sum, without a pass that clears the old.

    Examples
    --------
    >>> total = np.full(2, 7.0)
    >>> add = schuss.passes.accumulate.Accumulate(total)
    >>> add.step(np.array([1.0, 2.0]))
    >>> add.step(np.array([0.5, 0.5]))
    >>> total
    array([1.5, 2.5])
    """

    @staticmethod
    def reference(p, g, *, t):
        """Step one tensor in NumPy."""
        p[...] = np.where(t == 1, g, p + g)
