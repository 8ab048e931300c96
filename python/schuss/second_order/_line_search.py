"""Line searches: how far to go along a direction, from losses and slopes there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from schuss.second_order._base import Vector

#: The share of the bracket's width that two trials must leave at most, else it is halved.
_SHRINK = 0.66
#: How far beyond the last trial the next one may be, in units of the last advance, while nothing is bracketed.
_NEAR, _FAR = 1.1, 4.0
#: How far one may go at all, as L-BFGS-B has it.
LONGEST = 1e10
#: Losses that differ by less than so many units in the last place are taken for equal.
_ULPS = 100.0


class Trial(NamedTuple):
    """A step along a direction, and what is known there; the loss is infinite where it is not finite or not known."""

    step: float
    loss: float
    slope: float  #: the loss's derivative along the direction
    x: Vector
    gradient: Vector


def cubic(a: Trial, b: Trial) -> float:
    """Return the minimum of the cubic that has losses and slopes of two trials; NaN where it has none.

    The sum under the root is taken in units of its largest term, so that it does not overflow.
    """
    width = b.step - a.step
    theta = 3.0 * (a.loss - b.loss) / width + a.slope + b.slope
    unit = max(abs(theta), abs(a.slope), abs(b.slope))
    if unit == 0.0 or not math.isfinite(unit):
        return math.nan
    square = (theta / unit) ** 2 - (a.slope / unit) * (b.slope / unit)
    if square < 0.0:
        return math.nan
    root = math.copysign(unit * math.sqrt(square), width)
    bottom = 2.0 * root - a.slope + b.slope
    return a.step + width * (root - a.slope + theta) / bottom if bottom != 0.0 else math.nan


def quadratic(a: Trial, b: Trial) -> float:
    """Return the minimum of the parabola that has losses of two trials and the slope of the first."""
    width = b.step - a.step
    bottom = (a.loss - b.loss) / width + a.slope
    return a.step + 0.5 * width * a.slope / bottom if bottom != 0.0 else math.nan


def secant(a: Trial, b: Trial) -> float:
    """Return where the slope vanishes, on the line through the slopes of two trials."""
    bottom = a.slope - b.slope
    return a.step + (b.step - a.step) * a.slope / bottom if bottom != 0.0 else math.nan


def _next(best: Trial, other: Trial, new: Trial, bracketed: bool, nearest: float, farthest: float) -> float:
    """Return the next step to try, by the four cases of Moré & Thuente (1994), section 4."""
    if new.loss > best.loss:
        c, q = cubic(best, new), quadratic(best, new)
        if math.isnan(c):
            return q
        return c if abs(c - best.step) < abs(q - best.step) else 0.5 * (c + q)
    c, s = cubic(best, new), secant(best, new)
    if best.slope * new.slope < 0.0:
        return c if abs(c - new.step) >= abs(s - new.step) else s
    if abs(new.slope) < abs(best.slope):
        # The cubic counts where its minimum is beyond the new trial; else it is as far as one may go.
        if math.isnan(c) or (c - new.step) * (new.step - best.step) < 0.0:
            c = farthest if new.step > best.step else nearest
        if bracketed:
            step = c if abs(c - new.step) < abs(s - new.step) else s
            limit = new.step + _SHRINK * (other.step - new.step)
            return min(limit, step) if new.step > best.step else max(limit, step)
        step = c if abs(c - new.step) > abs(s - new.step) else s
        return min(max(step, nearest), farthest)
    if bracketed:
        return cubic(new, other)
    return farthest if new.step > best.step else nearest


def strong_wolfe(
    evaluate: Callable[[float], Trial],
    start: Trial,
    step: float,
    *,
    c1: float,
    c2: float,
    most: int,
    eps: float,
    longest: float = LONGEST,
    narrow: float = 0.1,
) -> Trial | None:
    r"""Return a trial that meets the strong Wolfe conditions, or else the best one that lowers the loss enough.

    .. math::

        f(a) \le f(0) + c_1 a f'(0), \qquad |f'(a)| \le c_2 |f'(0)|

    The search of Moré & Thuente (1994), *Line search algorithms with guaranteed sufficient decrease*,
    https://doi.org/10.1145/192115.192132: cubic, quadratic and secant steps shrink a bracket; until a trial has low loss and
    rising slope they act on :math:`f(a) - f(0) - c_1 a f'(0)`. Where rounding hides the decrease, a trial whose loss is
    that of the start does if its slope shows one: :math:`c_2 f'(0) \le f'(a) \le (2 c_1 - 1) f'(0)`, Hager & Zhang (2005),
    *A new conjugate gradient method with guaranteed descent and an efficient line search*,
    https://doi.org/10.1137/030601880.

    Parameters
    ----------
    evaluate : function
        Of a step; its loss is infinite where the step is not possible.
    start : Trial
        At step 0, with a negative slope.
    step : float
        The first to try.
    c1, c2 : float
        Of the conditions, with 0 < c1 < c2 < 1.
    most : int
        How often `evaluate` may be called.
    eps : float
        The spacing of the numbers, relative, that losses are computed in.
    longest : float
        How far one may go; reached with a sufficient decrease and a falling slope, it is taken.
    narrow : float
        A bracket of this width, relative to its end, is not worth another trial; the value of L-BFGS-B.

    Returns
    -------
    Trial or None
        None if no trial lowered the loss enough.
    """
    test = c1 * start.slope
    noise = _ULPS * eps * abs(start.loss)
    best = other = start
    bracketed, modified = False, True
    width, before = longest, 2.0 * longest
    nearest, farthest = 0.0, step + _FAR * step
    step = min(step, longest)
    lowest: Trial | None = None
    for _ in range(most):
        new = evaluate(step)
        if not math.isfinite(new.loss):
            # Nothing is known there but that it is too far.
            longest = step
            step = best.step + 0.1 * (step - best.step) if best is start else 0.5 * (best.step + step)
            if step in (best.step, longest) or (lowest is not None and longest - lowest.step <= narrow * longest):
                break
            farthest = min(farthest, longest)
            continue
        enough = new.loss <= start.loss + new.step * test
        if enough and new.loss < (start if lowest is None else lowest).loss:
            lowest = new
        if enough and abs(new.slope) <= -c2 * start.slope:
            return new
        flat = abs(new.loss - start.loss) <= noise
        if flat and c2 * start.slope <= new.slope <= (2.0 * c1 - 1.0) * start.slope:
            return new
        if new.step >= longest and enough and new.slope <= test:
            return new
        if modified and enough and new.slope >= min(c1, c2) * start.slope:
            modified = False
        if modified and new.loss <= best.loss and not enough:
            tilted = [_tilted(each, test) for each in (best, other, new)]
            step = _next(tilted[0], tilted[1], tilted[2], bracketed, nearest, farthest)
            higher, turned = tilted[2].loss > tilted[0].loss, tilted[2].slope * tilted[0].slope < 0.0
        else:
            step = _next(best, other, new, bracketed, nearest, farthest)
            higher, turned = new.loss > best.loss, new.slope * best.slope < 0.0
        if higher:
            other, bracketed = new, True
        else:
            if turned:
                other, bracketed = best, True
            best = new
        if bracketed:
            gap = abs(other.step - best.step)
            if gap >= _SHRINK * before or math.isnan(step):
                step = best.step + 0.5 * (other.step - best.step)
            before, width = width, gap
            nearest, farthest = min(best.step, other.step), max(best.step, other.step)
            if not nearest < step < farthest or farthest - nearest <= narrow * farthest:
                break
        else:
            step = min(step, longest)
            nearest, farthest = step + _NEAR * (step - best.step), step + _FAR * (step - best.step)
            if step == new.step:
                break
    return lowest or (best if best.loss < start.loss else None)


def _tilted(trial: Trial, test: float) -> Trial:
    """Return a trial of the function without the decrease that is asked for."""
    return trial._replace(loss=trial.loss - trial.step * test, slope=trial.slope - test)


def armijo(
    evaluate: Callable[[float], Trial], start: Trial, step: float, *, c1: float, most: int, eps: float
) -> Trial | None:
    r"""Return the first trial that lowers the loss enough, going back by quadratic interpolation.

    .. math::

        f(a) \le f(0) + c_1 f'(0) a

    Armijo (1966), *Minimization of functions having Lipschitz continuous first partial derivatives*,
    https://doi.org/10.2140/pjm.1966.16.1; the interpolation is held between a tenth and a half of the step, Dennis & Schnabel
    (1983), *Numerical methods for unconstrained optimization and nonlinear equations*, section 6.3.2.

    Parameters
    ----------
    evaluate : function
        Of a step; its loss is infinite where the step is not possible.
    start : Trial
        At step 0, with a negative slope.
    step : float
        The first to try.
    c1 : float
        In (0, 1).
    most : int
        How often `evaluate` may be called.
    eps : float
        The spacing of the numbers, relative, that losses are computed in.

    Returns
    -------
    Trial or None
        None if no trial lowered the loss enough.
    """
    noise = _ULPS * eps * abs(start.loss)
    for _ in range(most):
        new = evaluate(step)
        promised = c1 * step * start.slope
        if new.loss < start.loss and new.loss <= start.loss + promised:
            return new
        if max(-promised, abs(new.loss - start.loss)) <= noise:
            return new
        shorter = 0.1 * step
        if math.isfinite(new.loss):
            shorter = quadratic(start, new)
        step = min(max(shorter, 0.1 * step), 0.5 * step)
    return None
