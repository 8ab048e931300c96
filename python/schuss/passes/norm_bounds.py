"""Bounds of norms."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import NonNegative, Positive, Switch
from schuss.math import row_dot
from schuss.optimizer import Optimizer

_HUGE, _DOWN, _MOST = 2.0**1000, 2.0**-600, 2.0**120


class NormBounds(Optimizer, rule="norm_bounds"):
    r"""Bounds of norms: every tensor, or every row, goes to the nearest point whose Euclidean norm is within bounds.

    .. math::

        p \leftarrow \begin{cases}
            \frac{b}{\|p\|}\, p & \|p\| > b\,(1 + s) \\
            \frac{a}{\|p\|}\, p & 2^{-120} a < \|p\| < a\,(1 - s) \\
            p & \text{otherwise}
        \end{cases}

    Boyd & Vandenberghe (2004), *Convex Optimization*, section 8.1.1, https://web.stanford.edu/~boyd/cvxbook/

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
        With `rows`, arrays of two and more dimensions must be C-contiguous.
    lower : float or schedule
        a, the least norm, in [0, inf).
    upper : float or schedule
        b, the largest norm, in (0, inf), and not less than `lower`.
    slack : float or schedule
        s, how far beyond the bounds a norm may be, relative to them, before it is changed; in [0, inf). What rounding makes
        of a projected norm, so that a second projection finds nothing to do.
    rows : bool
        Bound the norm of each row (all that shares the first index; a vector is one row) instead of the tensor's.

    Notes
    -----
    State: none. The gradient is not used.

    What `schuss.constraints` is made of. Complex numbers count with their modulus. Zeros have no direction and stay zero, as
    does all that would have to grow by 2¹²⁰ and more. What holds a NaN or an infinity stays as it is. The squares of finite
    numbers do not overflow.

    Examples
    --------
    >>> w = np.array([[3.0, 4.0], [0.3, 0.4]])
    >>> schuss.passes.norm_bounds.NormBounds(w, upper=1.0, rows=True).step(np.zeros((2, 2)))
    >>> w.round(12)
    array([[0.6, 0.8],
           [0.3, 0.4]])
    """

    lower: NonNegative = 0.0  #: least norm
    upper: Positive = 1.0  #: largest norm
    slack: NonNegative = 0.0  #: how far beyond the bounds a norm may be, relative to them
    rows: Switch = False  #: bound the norm of each row

    @classmethod
    def objection(cls, values):
        """Say why hyper-parameters make no sense together."""
        lower, upper = values["lower"], values["upper"]
        if not callable(lower) and not callable(upper) and lower > upper:
            return f"lower must not exceed upper, got {lower:g} and {upper:g}"
        return None

    @staticmethod
    def reference(p, g, *, t, lower, upper, slack, rows):
        """Step one tensor in NumPy."""
        shape = p.shape[:1] if rows and p.ndim > 1 else ()
        pp, scaled = row_dot(p, p, shape), row_dot(_DOWN * p, _DOWN * p, shape)
        fits = pp < _HUGE
        unit, norm = np.where(fits, 1.0, _DOWN), np.sqrt(np.where(fits, pp, scaled))
        least, most = lower * unit, upper * unit
        shrink, grow = most / norm, least / norm
        above = (norm > most * (1 + slack)) & (norm < _HUGE)
        below = (norm < least * (1 - slack)) & (grow < _MOST)
        c = np.where(above, shrink, np.where(below, grow, 1.0)).astype(p.dtype)
        p[...] = c.reshape(shape + (1,) * (p.ndim - len(shape))) * p
