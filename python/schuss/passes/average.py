"""A weighted mean."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Switch, UnitInterval
from schuss.optimizer import Optimizer


class Average(Optimizer, rule="average"):
    r"""Move a running mean towards what is passed in the gradient's place.

    .. math::

        p \leftarrow p + w (g - p) \qquad\text{or}\qquad p \leftarrow g \text{ where } w = 1

    or, with `squares`, of :math:`g^2` in place of g.

    Polyak & Juditsky (1992), *Acceleration of stochastic approximation by averaging*, https://doi.org/10.1137/0330046

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        The means; for these and the options of every optimizer see `Optimizer`.
    weight : float or schedule
        w, of what is new, in [0, 1]. At 1 it is copied.
    squares : bool
        Average the squares of what is passed.

    Notes
    -----
    State: none.

    A constant weight makes an exponential moving average, the weight 1/n the mean of n.

    Examples
    --------
    >>> mean = np.zeros(2)
    >>> average = schuss.passes.average.Average(mean, weight=lambda step: 1 / (step + 1))
    >>> average.step(np.array([1.0, 2.0]))
    >>> average.step(np.array([2.0, 6.0]))
    >>> mean
    array([1.5, 4. ])
    """

    weight: UnitInterval = 0.001  #: of what is new
    squares: Switch = False  #: average the squares

    @staticmethod
    def reference(p, g, *, t, weight, squares):
        """Step one tensor in NumPy."""
        x = g * g if squares else g
        p[...] = np.where(weight == 1, x, p + weight * (x - p))
