"""L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schuss.arguments import Count
from schuss.hyperparameters import NonNegative, OpenFraction, Positive
from schuss.second_order._base import Bound, Closure, ClosureInfo, ClosureOptimizer, Vector, dot, largest
from schuss.second_order._box import Model, minimizer
from schuss.second_order._line_search import LONGEST, Trial, armijo, strong_wolfe


class LBFGS(ClosureOptimizer):
    r"""L-BFGS: a quasi-Newton step from the last changes of parameters and gradient, with a line search and bounds.

    .. math::

        s_i &= p_{i+1} - p_i, \qquad y_i = g_{i+1} - g_i \\
        p &\leftarrow p - a H g, \qquad H \text{ of the last pairs } (s_i, y_i), \qquad
        H_0 = \frac{s^T y}{y^T y} I

    Nocedal (1980), *Updating quasi-Newton matrices with limited storage*, https://doi.org/10.1090/S0025-5718-1980-0572855-7;
    Liu & Nocedal (1989), *On the limited memory BFGS method for large scale optimization*,
    https://doi.org/10.1007/BF01589116. Within bounds the direction leads to a low point of the model of the same pairs in the
    box, which the search does not leave: Byrd, Lu, Nocedal & Zhu (1995), *A limited memory algorithm for bound constrained
    optimization*, https://doi.org/10.1137/0916069

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays
        Updated in place, see `ClosureOptimizer`.
    lr : float or schedule
        The first step tried along a direction, in (0, inf). Along a gradient, where there is no pair, it is multiplied with
        ``min(1, 1 / |g|)``; with the sum of magnitudes in place of the length if there is no line search.
    history : int
        Pairs that are kept, in {1, 2, ...}; cannot be loaded into another number.
    c1 : float or schedule
        Share of the promised decrease that a step must bring, in (0, 1).
    c2 : float or schedule
        Share of the slope that may remain after a step, in (0, 1); for "strong_wolfe".
    max_search : int
        Evaluations of one line search, in {1, 2, ...}.
    gtol : float or schedule
        It has converged where no element of the projected gradient is larger, in [0, inf).
    ftol : float or schedule
        It has converged where a step lowers the loss by no larger share of it (of 1 if it is smaller), in [0, inf).
    deterministic : bool
        The closure gives the same loss for the same parameters, always; see `ClosureOptimizer`.
    line_search : {"strong_wolfe", "armijo"}, optional
        The search of Moré & Thuente (1994); backtracking; or every step of length `lr`.
    bounds : (lower, upper), optional
        Each a number, None for no bound, or a tree of numbers and arrays in the parameters' nesting, which broadcast. They are
        rounded to the parameters' dtypes. Parameters that are outside go to the bounds first.

    Notes
    -----
    State: `s` and `y`, ``history`` values per element each, and `point` and `gradient`, one each: ``8 * history + 8`` bytes
    per element of float32, twice that of float64.

    A pair is left out where the loss does not curve upwards along it: where :math:`s^T y \le \epsilon |g^T s|`, as L-BFGS-B
    has it, with the spacing :math:`\epsilon` of the numbers. If a search fails, the pairs are dropped and it searches along
    the gradient once; if that fails too, `stopped` says so.

    torch.optim.LBFGS keeps a pair if :math:`s^T y > 10^{-10}`, does up to 20 iterations per call, and has a history of 100;
    without line search the iterates are the same. optax.lbfgs starts with ``min(1, 1 / |g|)`` as here, stores every pair,
    and has another line search.

    Examples
    --------
    >>> w = np.array([-1.2, 1.0])
    >>> opt = schuss.LBFGS(w)
    >>> def rosenbrock():
    ...     a, b = 1 - w[0], w[1] - w[0] ** 2
    ...     return a * a + 100 * b * b, np.array([-2 * a - 400 * w[0] * b, 200 * b])
    >>> while not opt.stopped:
    ...     loss = opt.step(rosenbrock)
    >>> w.round(4), opt.converged
    (array([1., 1.]), True)

    With bounds:

    >>> w[...] = -1.2, 1.0
    >>> opt = schuss.LBFGS(w, bounds=(None, np.array([0.5, np.inf])))
    >>> while not opt.stopped:
    ...     loss = opt.step(rosenbrock)
    >>> w.round(4), round(loss, 4)
    (array([0.5 , 0.25]), 0.25)
    """

    fixed = frozenset({"history"})

    lr: Positive = 1.0  #: the first step tried along a direction
    history: Count = 10  #: pairs that are kept
    c1: OpenFraction = 1e-4  #: share of the promised decrease that a step must bring
    c2: OpenFraction = 0.9  #: share of the slope that may remain after a step
    max_search: Count = 20  #: evaluations of one line search
    gtol: NonNegative = 1e-5  #: largest element of the projected gradient at which it has converged
    ftol: NonNegative = 2.2e-9  #: relative decrease of the loss at which it has converged
    line_search: Literal["strong_wolfe", "armijo"] | None = "strong_wolfe"
    bounds: tuple[Bound, Bound] | None = None

    # ---- what is kept --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make the pairs: changes of the parameters and of the gradient."""
        rows = self._arguments["history"]
        self._arrays |= {"s": self._zeros(rows), "y": self._zeros(rows)}
        self._curvatures = [0.0] * rows  # of each row, s.y: what a load makes again
        self._lower, self._upper = (None, None) if self.bounds is None else self._box_of(self.bounds)

    def _begin(self) -> None:
        """Forget the pairs."""
        self._numbers["pairs"] = 0
        self._next = 0  # the row of the next pair

    def _rows(self) -> list[int]:
        """Return the rows that hold pairs, the oldest first."""
        pairs = self._numbers["pairs"]
        return [(self._next - pairs + i) % len(self._arrays["s"]) for i in range(pairs)]

    def _kept(self) -> Mapping[str, NDArray[Any]]:
        """Return the pairs there are, the oldest first."""
        rows = self._rows()
        return self._arrays | {name: self._arrays[name][rows] for name in ("s", "y")}

    def _objection_to(
        self, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> str | None:
        """Say whether there are more pairs than fit, or such as no step leaves."""
        pairs = len(arrays["s"])
        if not pairs == len(arrays["y"]) == numbers["pairs"] <= arguments["history"]:
            return f"it has {pairs} and {len(arrays['y'])} rows for {numbers['pairs']!r:.40} pairs"
        with np.errstate(all="ignore"):  # infinities in a file are no matter for a warning
            curvatures = list(map(dot, arrays["s"], arrays["y"]))
        if not all(0.0 < curvature < np.inf for curvature in curvatures):
            return "the loss does not curve upwards along one of its pairs"
        return super()._objection_to({key: arrays[key] for key in ("point", "gradient")}, numbers, arguments)

    def _take_over(self, arrays: Mapping[str, NDArray[Any]], numbers: dict[str, Any]) -> None:
        """Take the pairs into the first rows."""
        pairs = numbers["pairs"]
        super()._take_over({key: arrays[key] for key in ("point", "gradient")}, numbers)
        for name in ("s", "y"):
            self._arrays[name][:pairs] = arrays[name]
        self._curvatures = [*map(dot, arrays["s"], arrays["y"]), *self._curvatures[pairs:]]
        self._next = pairs % self.history

    # ---- the step ------------------------------------------------------------------------------------------------------

    def _advance(self, closure: Closure, values: Mapping[str, float], **inputs: Any) -> ClosureInfo:
        """Search along the direction of the pairs, or along the gradient where that fails."""
        evaluations = self.evaluations
        x = self._into_box(self._gather())
        loss, gradient = self._present(closure, x)
        norm = largest(self._projected_gradient(x, gradient))
        found, message = None, ""
        if norm <= values["gtol"]:
            message = self._stop("the gradient is within gtol", converged=True)
        else:
            found = self._search(closure, x, loss, gradient, values)
            if found is None and self._numbers["pairs"] > 0:
                self._numbers["pairs"] = 0
                found = self._search(closure, x, loss, gradient, values)
            if found is None:
                message = self._stop("no lower loss was found along the gradient", converged=False)
        if found is None:
            self._keep(x, loss, gradient)
            return ClosureInfo(self.t, loss, norm, 0.0, self.evaluations - evaluations, message)
        self._keep(found.x, found.loss, found.gradient)
        self._remember(found.x - x, found.gradient - gradient, gradient)
        norm = largest(self._projected_gradient(found.x, found.gradient))
        decrease = (loss - found.loss) / max(abs(loss), abs(found.loss), 1.0)
        if norm <= values["gtol"]:
            message = self._stop("the gradient is within gtol", converged=True)
        elif 0.0 <= decrease <= values["ftol"]:
            message = self._stop("the decrease of the loss is within ftol", converged=True)
        else:
            self._stop("", converged=False)
        return ClosureInfo(self.t, found.loss, norm, found.step, self.evaluations - evaluations, message)

    def _remember(self, s: Vector, y: Vector, gradient: Vector) -> None:
        """Keep a pair in place of the oldest, if the loss curves upwards along it."""
        if (curvature := dot(s, y)) <= self._eps * abs(dot(gradient, s)):
            return
        row, rows = self._next, len(self._arrays["s"])
        self._writes += [(self._arrays["s"][row], s), (self._arrays["y"][row], y)]
        self._curvatures = [curvature if i == row else each for i, each in enumerate(self._curvatures)]
        self._next = (row + 1) % rows
        self._numbers["pairs"] = min(self._numbers["pairs"] + 1, rows)

    def _target(self, x: Vector, gradient: Vector) -> tuple[Vector, Vector] | None:
        """Return the direction to the model's minimum, or within bounds to a low point of it, and that point.

        None where rounding has spoilt the model.
        """
        rows = self._rows()
        if self._lower is None or self._upper is None:
            s, y = ([self._arrays[name][i] for i in rows] for name in ("s", "y"))
            direction = _two_loops(-gradient, s, y, [self._curvatures[i] for i in rows])
            return direction, x + direction
        x64, gradient64, lower, upper = (each.astype(np.float64) for each in (x, gradient, self._lower, self._upper))
        try:
            found = minimizer(x64, gradient64, lower, upper, Model(self._arrays["s"][rows], self._arrays["y"][rows]))
        except np.linalg.LinAlgError:
            return None
        target = self._into_box(found.astype(self._dtype))
        return target - x, target

    def _search(
        self, closure: Closure, x: Vector, loss: float, gradient: Vector, values: Mapping[str, float]
    ) -> Trial | None:
        """Return where the line search ends, None where it finds no lower loss."""
        aim = self._target(x, gradient)
        if aim is None or not (slope := dot(gradient, aim[0])) < 0.0:
            return None
        direction, target = aim
        step, longest = values["lr"], self._room(x, direction)
        if self._numbers["pairs"] == 0:
            # Without a search to correct it, the shorter one: the sum of magnitudes is never below the length.
            size = math.sqrt(dot(direction, direction)) if self.line_search else float(np.abs(direction).sum())
            step *= min(1.0, 1.0 / size)

        def at(step: float) -> Trial:
            # The whole way ends at the target itself: on its bounds, not a rounding beside them.
            point = target.copy() if step == 1.0 else self._into_box(x + self._dtype.type(step) * direction)
            loss, gradient = self._evaluate(closure, point)
            return Trial(step, loss, dot(gradient, direction), point, gradient)

        start, eps = Trial(0.0, loss, slope, x, gradient), self._eps
        if self.line_search is None:
            found = at(step)
            if not math.isfinite(found.loss):
                raise FloatingPointError(
                    f"{type(self).__name__}: the loss is not finite after a step of length {step:g}, and there is no line "
                    "search to shorten it; choose one, or a smaller lr; nothing was changed"
                )
            return found
        most = int(values["max_search"])
        if self.line_search == "armijo":
            return armijo(at, start, min(step, longest), c1=values["c1"], most=most, eps=eps)
        return strong_wolfe(at, start, step, c1=values["c1"], c2=values["c2"], most=most, eps=eps, longest=longest)

    def _room(self, x: Vector, direction: Vector) -> float:
        """Return the longest step within the bounds, which 1 always is."""
        if self._lower is None or self._upper is None:
            return LONGEST
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            steps = np.where(direction > 0, self._upper - x, self._lower - x) / direction
        return max(1.0, float(np.min(steps[direction != 0], initial=LONGEST)))


def _two_loops(q: Vector, s: Sequence[Vector], y: Sequence[Vector], curvatures: Sequence[float]) -> Vector:
    """Multiply a vector with the approximate inverse Hessian of pairs, the oldest first, in place, and return it.

    The curvatures are the pairs' s.y.
    """
    shares = []
    for a, b, curvature in zip(s[::-1], y[::-1], curvatures[::-1], strict=True):
        shares.append(dot(a, q) / curvature)
        q -= q.dtype.type(shares[-1]) * b
    if curvatures:
        q *= q.dtype.type(curvatures[-1] / dot(y[-1], y[-1]))
    for a, b, curvature, share in zip(s, y, curvatures, shares[::-1], strict=True):
        q += q.dtype.type(share - dot(b, q) / curvature) * a
    return q
