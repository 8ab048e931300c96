"""Levenberg-Marquardt and Gauss-Newton, for sums of squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schuss import trees
from schuss._core import Let
from schuss.arguments import Count
from schuss.hyperparameters import NonNegative, Positive
from schuss.second_order._base import Bound, ClosureInfo, ClosureOptimizer, largest

#: A vector or a matrix: it computes in float64, whatever the parameters are.
Matrix: TypeAlias = NDArray[np.float64]

#: Moré (1978): a trial is accepted where it brings this share of what the model promised.
_ACCEPTED = 1e-4
#: ibid., section 4: below and above these shares the region shrinks and grows.
_POOR, _GOOD = 0.25, 0.75
#: ibid., section 5: how far from the radius a damped step's length may be, relative to it.
_WITHIN = 0.1


class LevenbergMarquardt(ClosureOptimizer):
    r"""Levenberg-Marquardt for least squares: Gauss-Newton steps within a region where the model can be trusted.

    .. math::

        f(p) &= \tfrac12 \sum_i r_i(p)^2 \\
        s &= \arg\min_s \tfrac12 \|J s + r\|^2 \quad\text{such that } \|D s\| \le \Delta,
             \quad\text{that is } (J^T J + \lambda D^2) s = -J^T r \\
        \rho &= \frac{f(p) - f(p + s)}{\tfrac12 \|r\|^2 - \tfrac12 \|J s + r\|^2}, \quad
        p \leftarrow p + s \text{ if } \rho > 10^{-4}

    The radius Δ shrinks where :math:`\rho \le 1/4` and becomes :math:`2\|D s\|` where :math:`\rho \ge 3/4`.

    Moré (1978), *The Levenberg-Marquardt algorithm: implementation and theory*, https://doi.org/10.1007/BFb0067700; after
    Levenberg (1944) and Marquardt (1963). Robust losses: Triggs, McLauchlan, Hartley & Fitzgibbon (2000), *Bundle Adjustment -
    A Modern Synthesis*, section 4.3, https://doi.org/10.1007/3-540-44480-7_21

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays
        Updated in place. Float64 or float32.
    factor : float or schedule
        The first radius relative to :math:`\|D p\|`, in (0, inf); itself the radius where p is 0.
    gtol : float or schedule
        In [0, inf). Converged where no element of the gradient :math:`J^T r` is larger; of the projected one within bounds.
    ftol : float or schedule
        In [0, inf). Converged where a step changes f by no more than this share, as the model said.
    xtol : float or schedule
        In [0, inf). Converged where a step is no longer than this share of the parameters.
    max_search : int
        In {1, 2, ...}. The most evaluations in a step.
    loss : {"linear", "soft_l1", "huber", "cauchy"}
        :math:`f = \tfrac12 c^2 \sum \rho(z)` of :math:`z = (r_i / c)^2`, where ρ is z; :math:`2\sqrt{1 + z} - 2`; z up to 1 and
        :math:`2\sqrt z - 1` beyond; :math:`\log(1 + z)`. All but the first are robust: outliers count less.
    loss_scale : float or schedule
        c, in (0, inf): residuals well below it count as in "linear".
    scale : {"none", "jacobian"}
        D: 1, or the largest norm so far of each column of J (Moré), by which steps do not depend on the parameters' units.
    damped : bool
        False for Gauss-Newton: the whole step, without a region, wherever it leads.
    bounds : (lower, upper), optional
        Each a number, None for no bound, or a tree of numbers and arrays in the parameters' nesting. Parameters that are
        outside go to the bounds first.
    deterministic : bool
        The closure gives the same residuals for the same parameters, always. False: every step evaluates first.

    Notes
    -----
    ``step`` takes a function of no arguments that evaluates at the present parameters and returns the residuals and their
    Jacobian: a matrix of one row per residual and one column per parameter, in the tree's order; or a tree of arrays, each
    of the residuals' shape followed by its parameter's; or a function that returns either, which is called only where a
    trial was accepted. It computes in float64, whatever the parameters are.

    A step costs one QR factorisation of :math:`[J D^{-1}\; r]` without Q and the singular values of its triangle, by LAPACK;
    further trials of the same step cost neither. J is dense: with m residuals and n parameters, 8 m n bytes and about
    2 m n² operations per step. For many parameters take L-BFGS.

    Within bounds, elements that are at one and would leave are fixed; of the rest those that the step takes out stop at
    the bound, and the step of the others is solved again. The region shrinks until what remains decreases the model. So
    every step stays within and decreases f; as Δ falls it becomes the projected gradient step (Bertsekas, 1982, *Projected
    Newton Methods for Optimization Problems with Simple Constraints*, https://doi.org/10.1137/0320018).

    With residuals that are large at the minimum, or parameters in different units, compare both values of `scale`: on the 18
    problems of Moré, Garbow and Hillstrom "none" takes two thirds of the evaluations of "jacobian".

    Differs from MINPACK's lmder, which it is after: singular values in place of a pivoted QR (the step of least length where J
    has not full rank), a tolerance of the gradient itself and not of its cosine, bounds, and robust losses.

    State: four values per parameter, and the last residuals with their Jacobian, which no checkpoint holds: they are evaluated
    again.

    Examples
    --------
    >>> t = np.linspace(0, 1, 9)
    >>> y = 3 * np.exp(-2 * t)
    >>> p = np.array([1.0, 0.0])
    >>> def closure():
    ...     e = np.exp(p[1] * t)
    ...     return p[0] * e - y, np.stack([e, p[0] * t * e], axis=1)
    >>> opt = schuss.LevenbergMarquardt(p)
    >>> while not opt.stopped:
    ...     loss = opt.step(closure)
    >>> p.round(6), opt.converged
    (array([ 3., -2.]), True)
    """

    factor: Positive = 100.0  #: first radius relative to the parameters
    gtol: NonNegative = 1e-8  #: largest element of the gradient
    ftol: NonNegative = 1e-8  #: relative change of the sum of squares
    xtol: NonNegative = 1e-8  #: relative length of a step
    max_search: Count = 50  #: evaluations in a step
    loss: Literal["linear", "soft_l1", "huber", "cauchy"] = "linear"
    loss_scale: Positive = 1.0  #: residual from which on a robust loss grows more slowly
    scale: Literal["none", "jacobian"] = "none"
    damped: bool = True
    bounds: tuple[Bound, Bound] | None = None

    returns = ("residuals", "jacobian")

    def _prepare(self) -> None:
        if self.scale == "jacobian":
            self._arrays["norms"] = self._zeros()
        if self.bounds is not None:
            self._lower, self._upper = self._box_of(self.bounds)

    def _begin(self) -> None:
        self._numbers |= {"radius": 0.0, "damping": 0.0}
        self._known: _Point | None = None

    # ---- evaluations -------------------------------------------------------------------------------------------------

    def _tried(self, closure: Callable[[], Any], x: NDArray[Any], values: Mapping[str, float]) -> _Trial:
        """Return the residuals at a point; an infinite loss where they are not finite."""
        self._place(x)
        name = type(self).__name__
        self._numbers["evaluations"] += 1
        with Let():
            found = closure()
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise TypeError(f"{name}: the closure must return ({', '.join(self.returns)}), got {type(found).__name__}")
        residuals = np.asarray(found[0])
        if residuals.dtype.kind not in "fiu":
            raise TypeError(f"{name}: the closure's residuals must be real numbers, got dtype {residuals.dtype}")
        r = residuals.astype(np.float64).ravel()
        if not r.size:
            raise ValueError(f"{name}: the closure returned no residuals; return at least one")
        with np.errstate(over="ignore", invalid="ignore"):
            loss = self._half_sum(r, values)
        return _Trial(x.copy(), r, loss if math.isfinite(loss) else math.inf, found[1], residuals.shape)

    def _half_sum(self, r: Matrix, values: Mapping[str, float]) -> float:
        """Return f: half the sum of squares, or of what a robust loss makes of them."""
        if self.loss == "linear":
            return 0.5 * float(r @ r)
        c = values["loss_scale"]
        return 0.5 * c * c * float(np.sum(_robust(self.loss, (r / c) ** 2)[0]))

    def _linearised(self, trial: _Trial, values: Mapping[str, float]) -> _Point | None:
        """Return the linear model at a point whose residuals were just evaluated; None where it is not finite."""
        if not math.isfinite(trial.loss):
            return None
        r, J = trial.r, self._jacobian(trial)
        if not np.isfinite(J).all():
            return None
        if self.loss != "linear":
            z = (r / values["loss_scale"]) ** 2
            _, slope, curvature = _robust(self.loss, z)
            # Bounded from below: a model that is not convex has no minimum.
            weight = np.sqrt(np.maximum(slope + 2 * curvature * z, np.finfo(np.float64).eps))
            r, J = r * slope / weight, J * weight[:, None]
        return _Point(trial.x, trial.loss, r, J, J.T @ r)

    def _jacobian(self, trial: _Trial) -> Matrix:
        """Return the Jacobian of a trial, its columns in the order of the vector."""
        name = type(self).__name__
        jacobian = trial.jacobian() if callable(trial.jacobian) else trial.jacobian
        m, result = trial.r.size, np.empty((trial.r.size, self._size))
        if isinstance(jacobian, np.ndarray) and jacobian.shape == (m, self._size):
            blocks: list[Any] = [jacobian[:, a:b] for a, b in zip(self._ends, self._ends[1:], strict=False)]
        elif trees.structure(jacobian) == trees.structure(self.params):
            found: Any = trees.matching_leaves(jacobian, self.params)
            blocks = list(found)
        else:
            got = f"of shape {jacobian.shape}" if isinstance(jacobian, np.ndarray) else type(jacobian).__name__
            raise TypeError(
                f"{name}: the closure's Jacobian must be a matrix of shape {(m, self._size)} or a tree like params, got {got}"
            )
        for path, leaf, view, block in zip(self._paths, self._leaves, self._split(result), blocks, strict=True):
            which = f"{name}: the closure's Jacobian{path}"
            if not isinstance(block, np.ndarray) or block.dtype.kind not in "fiu":
                raise TypeError(
                    f"{which} must be an array of real numbers, got {getattr(block, 'dtype', type(block).__name__)}"
                )
            if block.shape not in ((m, leaf.size), (*trial.shape, *leaf.shape)):
                raise ValueError(f"{which} must have shape {(*trial.shape, *leaf.shape)}, got {block.shape}")
            view[...] = block.reshape(m, *leaf.shape)
        return result

    # ---- the step ----------------------------------------------------------------------------------------------------

    def _advance(self, closure: Any, values: Mapping[str, float], **inputs: Any) -> ClosureInfo:
        evaluated, start = self._numbers["evaluations"], self._gather()
        x = self._into_box(start)
        at = self._known
        if at is None or not self.deterministic or not np.array_equal(x, at.x):
            at = self._linearised(self._tried(closure, x, values), values)
            if at is None:
                raise FloatingPointError(
                    f"{type(self).__name__}: residuals or Jacobian are not finite at the present parameters; "
                    "nothing was changed"
                )
        message, converged, moved = self._tolerated(at, values), True, False
        if not message:
            end, message, converged = self._search(closure, at, values)
            at, moved = end, end is not at
            if not converged and (tolerated := self._tolerated(at, values)):
                message, converged = tolerated, True
        self._known = at
        self._keep(at.x, at.loss, at.gradient.astype(self._dtype))
        return ClosureInfo(
            step=self.t,
            loss=at.loss,
            gradient_norm=self._projected(at),
            step_length=float(moved),
            evaluations=self._numbers["evaluations"] - evaluated,
            message=self._stop(message, converged=bool(message) and converged),
        )

    def _projected(self, at: _Point) -> float:
        """Return the largest element of the projected gradient."""
        return largest(self._projected_gradient(at.x, at.gradient))

    def _tolerated(self, at: _Point, values: Mapping[str, float]) -> str:
        """Say so where the gradient is within its tolerance."""
        return "the gradient is within gtol" if self._projected(at) <= values["gtol"] else ""

    def _search(self, closure: Any, at: _Point, values: Mapping[str, float]) -> tuple[_Point, str, bool]:
        """Return the next point (the present one where none is better), why to stop, and if that is a tolerance."""
        units = np.ones(self._size)
        if self.scale == "jacobian":
            norms = np.maximum(self._arrays["norms"], np.linalg.norm(at.J, axis=0)).astype(self._dtype)
            self._writes.append((self._arrays["norms"], norms))
            units = np.where(norms > 0, norms, 1.0).astype(np.float64)
        here = at.x.astype(np.float64)
        lower = np.full(self._size, -np.inf) if self._lower is None else self._lower.astype(np.float64)
        upper = np.full(self._size, np.inf) if self._upper is None else self._upper.astype(np.float64)
        model = _Model(at, units, (lower - here) * units, (upper - here) * units)
        region = self._numbers
        if self.damped and not region["radius"]:
            region["radius"] = values["factor"] * (float(np.linalg.norm(units * here)) or 1.0)
        for _ in range(self.max_search):
            radius = region["radius"] if self.damped else math.inf
            y, region["damping"] = model.step(radius, region["damping"])
            promised, length = model.decrease(y), float(np.linalg.norm(y))
            if promised <= 0:
                if length == 0 or radius <= self._eps * float(np.linalg.norm(units * here)):
                    return at, "no step decreases the model", False
                region["radius"] = _POOR * min(radius, length)
                continue
            x = np.clip(here + y / units, lower, upper)
            # What stops at a bound is there, and not next to it by rounding.
            x = np.where(y == model.lower, lower, np.where(y == model.upper, upper, x)).astype(self._dtype)
            trial = self._tried(closure, x, values)
            change = at.loss - trial.loss
            share = change / promised
            following = self._linearised(trial, values) if share > _ACCEPTED or not self.damped else None
            if not self.damped:
                if following is None:
                    return at, "residuals or Jacobian are not finite after a whole step; use damped=True", False
            else:
                self._resize(share, change, float(at.gradient @ (y / units)), length, following is None)
            size = float(np.linalg.norm(units * (here if following is None else x)))
            little = values["ftol"] * at.loss
            if abs(change) <= little and (share > _POOR or (promised <= little and share <= 2)):
                return following or at, "the change of the sum is within ftol", True
            if min(length, region["radius"] if self.damped else length) <= values["xtol"] * size:
                return following or at, "the step is within xtol", True
            if following is not None:
                return following, "", False
        return at, f"none of {self.max_search} trials decreased the sum", False

    def _resize(self, share: float, change: float, slope: float, length: float, rejected: bool) -> None:
        """Bring the radius to what a trial's share of the promised decrease calls for (Moré, section 4)."""
        region = self._numbers
        if region["radius"] > length and not self.t and not rejected:
            region["radius"] = length  # the first radius was a guess
        if share <= _POOR or rejected:
            # Where the parabola through loss, slope and the trial's loss is lowest, between a tenth and a half.
            shrink = 0.5 if change >= 0 else 0.5 * slope / (slope + change) if math.isfinite(change) else 0.1
            shrink = max(shrink, 0.1)
            region["radius"] = shrink * min(region["radius"], length / 0.1)
            region["damping"] /= shrink
        elif share >= _GOOD or not region["damping"]:
            region["radius"] = 2 * length
            region["damping"] *= 0.5


class _Trial(NamedTuple):
    """Residuals at a point, and the Jacobian as the closure returned it."""

    x: NDArray[Any]
    r: Matrix
    loss: float
    jacobian: Any
    shape: tuple[int, ...]


class _Point(NamedTuple):
    """The linear model at a point: residuals and Jacobian, weighted where the loss is robust."""

    x: NDArray[Any]
    loss: float
    r: Matrix
    J: Matrix
    gradient: Matrix


class _Model:
    """The quadratic model of the sum around a point, in steps y = D s, within bounds of y."""

    def __init__(self, at: _Point, units: Matrix, lower: Matrix, upper: Matrix) -> None:
        stacked = np.column_stack([at.J / units, at.r])
        if len(stacked) > stacked.shape[1]:
            stacked = np.asarray(
                np.linalg.qr(stacked, mode="r")
            )  # its last column is that of Q^T r, and Q is not needed
        self._A, self._r = stacked[:, :-1], stacked[:, -1]
        self.lower, self.upper = lower, upper
        self._free = ~((lower >= 0) & (at.gradient > 0) | (upper <= 0) & (at.gradient < 0))
        self._factors: dict[bytes, tuple[Matrix, Matrix, Matrix]] = {}

    def step(self, radius: float, damping: float) -> tuple[Matrix, float]:
        """Return a step that decreases the model, within bounds and radius, and its damping."""
        y, free = np.zeros(self._A.shape[1]), self._free.copy()
        candidates: list[Matrix] = []
        while free.any():
            key = free.tobytes()
            if key not in self._factors:
                self._factors[key] = np.linalg.svd(self._A[:, free], full_matrices=False)
            U, s, Vt = self._factors[key]
            left = math.sqrt(max(radius**2 - float(y @ y), (0.1 * radius) ** 2)) if candidates else radius
            z, damping = _damped(s, U.T @ (self._r + self._A @ y), left, damping)
            y[free] = Vt.T @ z
            stopped = np.clip(y, self.lower, self.upper)
            candidates.append(stopped)
            outside = free & (stopped != y)
            if not outside.any():
                break
            free &= ~outside
            y = np.where(free, 0.0, stopped)
        # The first, a projection of the step without bounds, where solving again for the rest has led astray.
        ends = [candidates[0], candidates[-1]] if candidates else [y]
        return max(ends, key=self.decrease), damping

    def decrease(self, y: Matrix) -> float:
        """Return by how much the model is lower after a step."""
        change = self._A @ y
        return -float(self._r @ change + 0.5 * change @ change)


def _damped(s: Matrix, c: Matrix, radius: float, damping: float) -> tuple[Matrix, float]:
    """Return the least ``|diag(s) z + c|`` for z no longer than the radius, to a tenth of it, and its damping.

    Newton's method on ``1 / |z(damping)|`` between bounds (Moré, section 5; Hebden, 1973). Where s has zeros z is the shortest.
    """
    nonzero = s > np.finfo(np.float64).eps * max(s.size, 1) * s.max(initial=0.0)
    z = np.where(nonzero, -c / np.where(nonzero, s, 1.0), 0.0)
    length = float(np.linalg.norm(z))
    if length <= (1 + _WITHIN) * radius:
        return z, 0.0
    sc = s * c
    low, high = 0.0, float(np.linalg.norm(sc)) / radius
    if nonzero.all():
        low = (length - radius) * length / float(np.sum((z / s) ** 2))
    if not low < damping < high:
        damping = low or math.sqrt(low * high) or 0.001 * high
    for _ in range(10):
        if not low <= damping <= high:
            damping = max(0.001 * high, math.sqrt(low * high))
        z = -sc / (s * s + damping)
        length = float(np.linalg.norm(z))
        excess = length - radius
        if abs(excess) <= _WITHIN * radius:
            break
        slope = -float(np.sum(sc**2 / (s * s + damping) ** 3)) / length
        if excess < 0:
            high = damping
        low = max(low, damping - excess / slope)
        damping -= length / radius * excess / slope
    return z, damping


def _robust(loss: str, z: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Return what replaces the squares z, and its first two derivatives."""
    if loss == "soft_l1":
        root = np.sqrt(1 + z)
        return 2 * (root - 1), 1 / root, -0.5 / root**3
    if loss == "huber":
        root = np.sqrt(np.maximum(z, 1))
        return np.where(z <= 1, z, 2 * root - 1), 1 / root, np.where(z <= 1, 0.0, -0.5 / root**3)
    return np.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2
