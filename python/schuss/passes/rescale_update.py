"""Clipping of updates by their root mean square."""

from __future__ import annotations

import math

from schuss.hyperparameters import Positive
from schuss.math import dot
from schuss.optimizer import Optimizer


class RescaleUpdate(Optimizer, rule="rescale_update"):
    r"""Shortens the update that a tensor has had to a given root mean square.

    With p the weights after a step and g those before, in the place of gradients:

    .. math::

        d = p - g, \qquad p \leftarrow g + d \min\Bigl(1, \frac{c}{\sqrt{\mathrm{mean}(d^2)}}\Bigr)

    Shazeer & Stern (2018), *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, section 6,
    https://arxiv.org/abs/1804.04235

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays
        Updated in place.
    limit : float or schedule
        c, the largest root mean square of a tensor's update, in (0, inf).

    Notes
    -----
    State: none. A tensor whose update is short enough keeps its bits.

    Examples
    --------
    >>> before, after = np.zeros(2), np.array([3.0, -3.0])
    >>> schuss.passes.rescale_update.RescaleUpdate(after, limit=0.5).step(before)
    >>> after
    array([ 0.5, -0.5])
    """

    limit: Positive = 1.0  #: largest root mean square

    @staticmethod
    def reference(p, g, *, t, limit):
        """Step one tensor in NumPy."""
        d = p - g
        rms = math.sqrt(dot(d, d) / p.size) if p.size else 0.0
        if rms > limit:
            p[...] = g + (limit / rms) * d
