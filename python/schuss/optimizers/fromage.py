"""Fromage."""

from __future__ import annotations

import math

from schuss.hyperparameters import NonNegative
from schuss.math import dot
from schuss.optimizer import Optimizer


class Fromage(Optimizer, rule="fromage"):
    r"""Fromage: gradient descent by a fixed fraction of each tensor's norm, which does not grow by it.

    .. math::

        p \leftarrow \frac{1}{\sqrt{1 + \eta^2}} \left( p - \eta \frac{\|p\|}{\|g\|} g \right)
        \qquad\text{(norms over the tensor; ratio 1 if either is 0)}

    Bernstein, Vahdat, Yue & Liu (2020), *On the distance between two neural networks and the stability of learning*,
    https://arxiv.org/abs/2002.03432

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Length of a step over the tensor's norm, in [0, inf).

    Notes
    -----
    State: none.

    Where no time is for tuning and no memory for state. It has no momentum, and no step is shorter than `lr` says, so let `lr`
    fall towards the end.

    The paper's form and the authors' default; their `p_bound` is left out. Optax takes a norm below 1e-6 for 1e-6 (`min_norm`)
    instead of a ratio of 1.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.Fromage(w, lr=0.1)
    >>> opt.step(np.array([0.8, -0.6]))  # at right angles: the norm stays 5
    >>> w.round(4)
    array([2.5871, 4.2787])
    """

    lr: NonNegative = 1e-2  #: length of a step over the tensor's norm

    @staticmethod
    def reference(p, g, *, t, lr):
        """Step one tensor in NumPy."""
        pp, gg = dot(p, p), dot(g, g)
        ratio = math.sqrt(pp) / math.sqrt(gg) if pp > 0 and gg > 0 else 1.0
        back = 1 / math.sqrt(1 + lr * lr)
        p[...] = back * p - (lr * back * ratio) * g
