"""Newton's method with conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from schuss._core import Let
from schuss.arguments import Count
from schuss.hyperparameters import NonNegative, OpenFraction, Positive
from schuss.second_order._base import Closure, ClosureInfo, ClosureOptimizer, Vector, dot, largest
from schuss.second_order._line_search import Trial, armijo, strong_wolfe

#: Multiplies a tree of the parameters' nesting with the Hessian at the present parameters.
HessianVectorProduct: TypeAlias = Callable[[Any], Any]


class NewtonCG(ClosureOptimizer):
    r"""Newton-CG: a Newton step found by conjugate gradients, from products with the Hessian.

    .. math::

        H d \approx -g \text{ until } \|H d + g\| \le \eta \|g\|, \qquad
        \eta = \min\left(\eta_{\max}, \sqrt{\|g\|}\right), \qquad p \leftarrow p + a d

    The conjugate gradients end where the Hessian curves downwards, with what they have found before, or the gradient's
    direction at once; the line search chooses :math:`a`. Dembo & Steihaug (1983), *Truncated-Newton algorithms for large-scale
    unconstrained optimization*, https://doi.org/10.1007/BF02592055; Nocedal & Wright (2006), *Numerical Optimization*,
    Algorithm 7.1.

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays
        Updated in place, see `ClosureOptimizer`.
    lr : float or schedule
        The first step tried along a direction, in (0, inf).
    eta : float or schedule
        The largest share of the gradient that the linear solve may leave, in (0, 1).
    max_cg : int
        Products with the Hessian in one step, in {1, 2, ...}; never more than 20 times the number of elements.
    c1 : float or schedule
        Share of the promised decrease that a step must bring, in (0, 1).
    c2 : float or schedule
        Share of the slope that may remain after a step, in (0, 1); for "strong_wolfe".
    max_search : int
        Evaluations of one line search, in {1, 2, ...}.
    gtol : float or schedule
        It has converged where no element of the gradient is larger, in [0, inf).
    xtol : float or schedule
        It has converged where a step moves the elements by no more than this on average, in [0, inf).
    deterministic : bool
        The closure gives the same loss for the same parameters, always; see `ClosureOptimizer`.
    line_search : {"strong_wolfe", "armijo"}
        The search of Moré & Thuente (1994), or backtracking.

    Notes
    -----
    State: `point` and `gradient`, one value per element each: 8 bytes per element of float32, twice that of float64.

    Without `hvp` a product with the Hessian is the difference of two gradients,
    :math:`H v \approx (g(p + h v) - g(p)) / h` with :math:`h = 2 \sqrt{\epsilon} (1 + \|p\|) / \|v\|`: one evaluation each,
    counted as such, and about half the digits. In float32 that is little; pass `hvp`.

    SciPy's Newton-CG has the same forcing sequence with :math:`\eta_{\max} = 1/2`, of magnitudes in place of lengths, and
    stops by `xtol` alone.

    Examples
    --------
    >>> w = np.array([-1.2, 1.0])
    >>> opt = schuss.NewtonCG(w)
    >>> def rosenbrock():
    ...     a, b = 1 - w[0], w[1] - w[0] ** 2
    ...     return a * a + 100 * b * b, np.array([-2 * a - 400 * w[0] * b, 200 * b])
    >>> def product(v):
    ...     H = np.array([[1200 * w[0] ** 2 - 400 * w[1] + 2, -400 * w[0]], [-400 * w[0], 200.0]])
    ...     return H @ v
    >>> while not opt.stopped:
    ...     loss = opt.step(rosenbrock, hvp=product)
    >>> w.round(3), opt.converged
    (array([1., 1.]), True)
    """

    inputs = ("hvp",)

    lr: Positive = 1.0  #: the first step tried along a direction
    eta: OpenFraction = 0.5  #: largest share of the gradient that the linear solve may leave
    max_cg: Count = 200  #: products with the Hessian in one step
    c1: OpenFraction = 1e-4  #: share of the promised decrease that a step must bring
    c2: OpenFraction = 0.9  #: share of the slope that may remain after a step
    max_search: Count = 20  #: evaluations of one line search
    gtol: NonNegative = 1e-5  #: largest element of the gradient at which it has converged
    xtol: NonNegative = 1e-8  #: mean movement of the elements at which it has converged
    line_search: Literal["strong_wolfe", "armijo"] = "strong_wolfe"

    def _begin(self) -> None:
        """Count no products."""
        self._numbers["products"] = 0

    @property
    def products(self) -> int:
        """How often the Hessian was multiplied with a vector, in all."""
        return int(self._numbers["products"])

    def step(self, closure: Closure, hvp: HessianVectorProduct | None = None) -> float:
        """Do one iteration: update the parameters in place.

        Parameters
        ----------
        closure : function without arguments
            As for `ClosureOptimizer.step`: returns ``(loss, grads)`` at the present parameters.
        hvp : function, optional
            Multiplies a tree of arrays in the nesting of `params` (all of one dtype) with the Hessian
            at the present parameters, and returns such a tree. Differences of gradients by default, see the notes.

        Returns
        -------
        float
            The loss at the parameters that the step leaves.

        Raises
        ------
        TypeError, ValueError, BufferError
            If parameters or what the functions return cannot be used; nothing was changed.
        FloatingPointError
            If loss, gradients or a product with the Hessian are not finite at the parameters that the step starts from;
            nothing was changed.
        RuntimeError
            If another thread is inside this optimizer.
        """
        if hvp is not None and not callable(hvp):
            raise TypeError(
                f"{type(self).__name__}: hvp must be a function that multiplies with the Hessian, got {type(hvp).__name__}"
            )
        return self._guarded(closure, hvp=hvp)

    def _advance(self, closure: Closure, values: Mapping[str, float], **inputs: Any) -> ClosureInfo:
        """Solve for the direction, and search along it; along the gradient where that fails."""
        evaluations, x = self.evaluations, self._gather()
        loss, gradient = self._present(closure, x)
        norm, message = largest(gradient), ""
        found: Trial | None = None
        if norm <= values["gtol"]:
            message = self._stop("the gradient is within gtol", converged=True)
        else:

            def product(v: Vector) -> Vector | None:
                self._numbers["products"] += 1
                return self._product(closure, inputs["hvp"], x, gradient, v)

            direction = self._direction(gradient, product, values)
            self._place(x)  # differences of gradients have moved it
            found = self._search(closure, x, loss, gradient, direction, values["lr"], values)
            if found is None:
                first = values["lr"] * min(1.0, 1.0 / math.sqrt(dot(gradient, gradient)))
                found = self._search(closure, x, loss, gradient, -gradient, first, values)
            if found is None:
                message = self._stop("no lower loss was found along the gradient", converged=False)
        if found is None:
            self._keep(x, loss, gradient)
            return ClosureInfo(self.t, loss, norm, 0.0, self.evaluations - evaluations, message)
        self._keep(found.x, found.loss, found.gradient)
        norm = largest(found.gradient)
        if norm <= values["gtol"]:
            message = self._stop("the gradient is within gtol", converged=True)
        elif float(np.mean(np.abs(found.x - x))) <= values["xtol"]:
            message = self._stop("the movement of the parameters is within xtol", converged=True)
        else:
            self._stop("", converged=False)
        return ClosureInfo(self.t, found.loss, norm, found.step, self.evaluations - evaluations, message)

    def _product(
        self, closure: Closure, hvp: HessianVectorProduct | None, x: Vector, gradient: Vector, v: Vector
    ) -> Vector | None:
        """Return the Hessian's product with a vector, by the caller's function or by differences of gradients.

        None where the loss is not finite beside the point.
        """
        if hvp is not None:
            with Let():
                found = hvp(self._tree_of(v.copy()))
            return self._vector(found, "the product of hvp")
        length = math.sqrt(dot(v, v))
        h = 2.0 * math.sqrt(self._eps) * (1.0 + math.sqrt(dot(x, x))) / length
        beside = x + self._dtype.type(h) * v
        loss, other = self._evaluate(closure, beside)
        if not math.isfinite(loss):
            return None
        return (other - gradient) / self._dtype.type(h)

    def _direction(
        self, gradient: Vector, product: Callable[[Vector], Vector | None], values: Mapping[str, float]
    ) -> Vector:
        """Return an approximate solution of ``H d = -g``, or what was found before the Hessian curves downwards."""
        direction = np.zeros_like(gradient)
        residual, along = gradient.copy(), -gradient
        square = dot(residual, residual)
        length = math.sqrt(square)
        enough = min(values["eta"], math.sqrt(length)) * length
        for _ in range(min(int(values["max_cg"]), 20 * self._size)):
            if (image := product(along)) is None:
                break
            curvature, size = dot(along, image), dot(along, along)
            if abs(curvature) <= 3.0 * self._eps * size:
                break
            if curvature < 0.0:
                # With nothing found so far, the gradient: as long as the curvature's size says.
                return direction if direction.any() else -gradient * self._dtype.type(square / -curvature)
            share = square / curvature
            direction += self._dtype.type(share) * along
            residual += self._dtype.type(share) * image
            before, square = square, dot(residual, residual)
            if math.sqrt(square) <= enough:
                break
            along = self._dtype.type(square / before) * along - residual
        return direction if direction.any() else -gradient

    def _search(
        self,
        closure: Closure,
        x: Vector,
        loss: float,
        gradient: Vector,
        direction: Vector,
        first: float,
        values: Mapping[str, float],
    ) -> Trial | None:
        """Return where the line search ends, None where it finds no lower loss."""
        slope = dot(gradient, direction)
        if not slope < 0.0:
            return None

        def at(step: float) -> Trial:
            point = x + self._dtype.type(step) * direction
            loss, gradient = self._evaluate(closure, point)
            return Trial(step, loss, dot(gradient, direction), point, gradient)

        start = Trial(0.0, loss, slope, x, gradient)
        options: Any = {"c1": values["c1"], "most": int(values["max_search"]), "eps": self._eps}
        if self.line_search == "armijo":
            return armijo(at, start, first, **options)
        return strong_wolfe(at, start, first, c2=values["c2"], **options)
