"""The quadratic model of L-BFGS within bounds: where it is lowest along the gradient, and from there on what is free."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schuss.second_order._base import Vector

Array = NDArray[np.float64]


class Model:
    r"""The matrix that pairs approximate the Hessian with, in its compact form.

    .. math::

        B = \theta I - W K^{-1} W^T, \qquad W = (Y, \theta S), \qquad
        K = \begin{pmatrix} -D & L^T \\ L & \theta S^T S \end{pmatrix},
        \qquad \theta = \frac{y^T y}{s^T y} \text{ of the newest pair}

    D is the diagonal of :math:`S^T Y`, and L what is below it. Byrd, Nocedal & Schnabel (1994), *Representations of
    quasi-Newton matrices and their use in limited memory methods*, https://doi.org/10.1007/BF01582063

    Parameters
    ----------
    s, y : array (pairs, n)
        Changes of the parameters and of the gradient, the oldest first.
    """

    def __init__(self, s: Vector, y: Vector) -> None:
        s, y = s.astype(np.float64), y.astype(np.float64)
        products = s @ y.T
        self.theta = float(y[-1] @ y[-1] / products[-1, -1]) if len(s) else 1.0
        below = np.tril(products, -1)
        self.w = np.concatenate([y, self.theta * s])  # W^T
        self.k = np.block([[-np.diag(np.diag(products)), below.T], [below, self.theta * (s @ s.T)]])


def minimizer(x: Array, gradient: Array, lower: Array, upper: Array, model: Model) -> Array:
    r"""Return where the model is low within bounds, by the steps of L-BFGS-B.

    The first local minimum of the model along the projected gradient says which elements are at bounds; from there the
    minimum in the others follows, brought back into the box. Byrd, Lu, Nocedal & Zhu (1995), *A limited memory algorithm for
    bound constrained optimization*, https://doi.org/10.1137/0916069; the projection of Morales & Nocedal (2011), *Remark on
    Algorithm 778*, https://doi.org/10.1145/2049662.2049669, where it descends.

    Parameters
    ----------
    x, gradient, lower, upper : array (n,)
        The point lies within the bounds.
    model : Model
        Of the Hessian.

    Returns
    -------
    array (n,)
        A point within the bounds.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the model is singular.
    """
    cauchy, free, c = _cauchy_point(x, gradient, lower, upper, model)
    if not free.any() or not len(model.w):
        return cauchy
    theta, w = model.theta, model.w[:, free]
    slope = gradient[free] + theta * (cauchy - x)[free] - np.linalg.solve(model.k, c) @ w
    inner = np.linalg.solve(model.k - w @ w.T / theta, w @ slope)
    step = -(slope + inner @ w / theta) / theta
    found = cauchy.copy()
    found[free] = np.clip(cauchy[free] + step, lower[free], upper[free])
    if gradient @ (found - x) < 0.0:
        return found
    limits = np.where(step > 0, upper[free], lower[free]) - cauchy[free]
    with np.errstate(divide="ignore", invalid="ignore"):
        room = float(np.min(np.where(step != 0, limits / step, np.inf), initial=1.0))
    found[free] = np.clip(cauchy[free] + room * step, lower[free], upper[free])
    return found


def _cauchy_point(
    x: Array, gradient: Array, lower: Array, upper: Array, model: Model
) -> tuple[Array, NDArray[np.bool_], Array]:
    """Return the model's first local minimum along the projected gradient, what is free there, and W^T times the way to it.

    The path bends where an element meets its bound. All segments are looked at at once: what Byrd et al. update from one to
    the next are running sums here.
    """
    theta, w = model.theta, model.w
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.where(gradient < 0, x - upper, x - lower) / gradient
    ends[gradient == 0] = np.inf
    moving = ends > 0
    direction = np.where(moving, -gradient, 0.0)
    order = np.flatnonzero(moving & np.isfinite(ends))
    order = order[np.argsort(ends[order], kind="stable")]
    # At the start of each segment: time, what W^T makes of direction and way, and the direction's square.
    starts = np.concatenate([[0.0], ends[order]])
    p = (w @ direction)[:, None] - np.cumsum(np.pad(w[:, order] * direction[order], ((0, 0), (1, 0))), axis=1)
    c = np.cumsum(np.pad(p[:, :-1] * np.diff(starts), ((0, 0), (1, 0))), axis=1)
    ahead = np.pad(np.cumsum(direction[order[::-1]] ** 2)[::-1], (0, 1))
    square = ahead + float(np.sum(direction[moving & np.isinf(ends)] ** 2))
    slope, bend = -square + theta * starts * square, theta * square
    if len(w):
        solved = np.linalg.solve(model.k, p)
        slope, bend = slope - np.sum(solved * c, axis=0), bend - np.sum(solved * p, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead_by = np.where(slope < 0, np.where(bend > 0, -slope / bend, np.inf), 0.0)
    lengths = np.append(np.diff(starts), np.inf)
    ahead_by[square <= 0.0] = 0.0
    last = int(np.argmax(ahead_by < lengths))
    time = starts[last] + (ahead_by[last] if np.isfinite(ahead_by[last]) else 0.0)
    free = moving & (ends > time)
    point = np.where(moving, np.where(gradient < 0, upper, lower), x)
    point[free] = x[free] + time * direction[free]
    return np.clip(point, lower, upper), free, c[:, last] + (time - starts[last]) * p[:, last]
