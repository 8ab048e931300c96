"""Minimisation of a function from a start to a tolerance, with any optimizer as the method; SciPy's results and contract."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

import schuss
from schuss import trees
from schuss.constraints import Box, Constraint, Projection
from schuss.hyperparameters import Domain, as_float
from schuss.optimizer import Optimizer, _did_you_mean
from schuss.second_order._base import ClosureOptimizer
from schuss.wrapper import Wrapper

__all__ = ["minimize", "scipy_method"]

#: What a method may be: a name, a class, or what makes an optimizer or a wrapper from parameters and options.
Method: TypeAlias = str | Callable[..., Any]

_STEPS = Domain(1.0, 2.0**53, upper_open=False, whole=True)
_TOLERANCE = Domain(0.0)

#: Of the gradient, for methods that have none of their own: that of SciPy's quasi-Newton methods.
_GRADIENT_TOLERANCE = 1e-5
#: How much less than the least value before still counts as the same value, relative to it: rounding of a sum.
_ROUNDING = 1e-12

_MESSAGES = {
    0: "The gradient is within the tolerance.",
    1: "The number of steps has reached max_steps.",
    3: "The function or its gradient is not finite.",
    99: "`callback` raised `StopIteration`.",  # SciPy's number and words
}


class _Result(dict[str, Any]):
    """A dict whose entries are attributes as well: what stands in for SciPy's class where SciPy is not installed."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __dir__(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{key:>{width}}: {value!r}" for key, value in self.items())


@functools.cache
def _result_class() -> type[dict[str, Any]]:
    """Return SciPy's class of results, or ours where SciPy is not installed."""
    try:
        return importlib.import_module("scipy.optimize").OptimizeResult  # type: ignore[no-any-return]
    except ImportError:
        return _Result


def minimize(
    fun_and_grad: Callable[[Any], tuple[Any, ...]],
    x0: Any,
    method: Method = "lbfgs",
    bounds: Any = None,
    callback: Callable[..., Any] | None = None,
    tol: float | None = None,
    max_steps: int = 10_000,
    *,
    hessp: Callable[[Any, Any], Any] | None = None,
    **options: Any,
) -> Any:
    r"""Minimise a function from a start, with any optimizer of the package, until the gradient is small.

    .. math:: \text{stop at } x \text{ where } \max |x - P(x - \nabla f(x))| \le \text{tol}

    with P the projection on the bounds; without bounds this is :math:`\max |\nabla f(x)|`.

    Parameters
    ----------
    fun_and_grad : callable
        ``fun_and_grad(x) -> (f, g)``: a real number and the gradient in the nesting of x, which it must not change. With
        ``"levenberg_marquardt"`` the residuals and their Jacobian. An optimizer whose step takes further inputs gets them
        from a dict that is returned as a third.
    x0 : array of numbers, or nesting of lists, tuples and dicts of arrays
        The start; it is copied, and moved to the nearest point within the bounds. Numbers that are not floating become
        float64.
    method : str, class, or callable
        An optimizer by its name (``"adam"``, ``"AdamW"``, ``"newton_cg"``, ``"L-BFGS"``: letters count, their case and what is
        between them does not) or class, or a function ``method(x, **options)`` that makes an optimizer or a wrapper.
    bounds : optional
        As for `scipy.optimize.minimize`: an object with ``lb`` and ``ub`` (`scipy.optimize.Bounds`), or a sequence of one
        pair ``(lower, upper)`` for each number in x, in the tree's order, with None where there is no bound; or one pair for
        all; or a constraint of `schuss.constraints` for a method that takes it.
    callback : callable, optional
        Called after every step, as ``callback(intermediate_result=result)`` if that is the name of its only argument, else as
        ``callback(x)``; with copies. It ends the run by raising StopIteration.
    tol : float, optional
        In [0, inf); 1e-5 unless the method has a ``gtol`` of its own, which this is then.
    max_steps : int
        In {1, 2, ...}.
    hessp : callable, optional
        ``hessp(x, v)``: the product of the Hessian at x and v, for ``"newton_cg"``; both in the nesting of x. Differences of
        gradients by default.
    **options
        The method's arguments, such as ``lr``: values or schedules, as its class takes them.

    Returns
    -------
    OptimizeResult
        SciPy's class where SciPy is installed, else a dict with attributes, of the same entries: ``x``, ``fun``, ``jac`` (the
        gradient), ``nit`` (steps), ``nfev`` and ``njev``, with `hessp` ``nhev``, ``success``, ``status``, ``message``. Status 0
        is success; 1: no more steps; 2: the method found no further step to do; 3: not finite; 99: ended by the callback.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used; and whatever the function raises.

    Notes
    -----
    A method that does not descend in every step, such as momentum or Adam, returns the best point that it has seen, and
    counts as converged only at such a point. Where the function is noisy, as over batches, the best value is the luckiest:
    step the optimizer yourself. The schedule-free methods and ASGD are evaluated once more at the end of their steps,
    at their averages.

    L-BFGS, Newton-CG and Levenberg-Marquardt end by their other tolerances as well, such as ``ftol``; that, too, is success.

    Methods that step with gradients call the function once before the first step and once after every step, so that
    ``nfev = nit + 1``. They need a step size to suit the function, and in most cases one that falls.

    Examples
    --------
    >>> def rosenbrock(x):
    ...     a, b = 1 - x[0], x[1] - x[0] ** 2
    ...     return a**2 + 100 * b**2, np.array([-2 * a - 400 * x[0] * b, 200 * b])
    >>> found = schuss.minimize(rosenbrock, [-1.2, 1.0])
    >>> found.x.round(4), found.success
    (array([1., 1.]), True)
    >>> schuss.minimize(rosenbrock, [-1.2, 1.0], method="adam", bounds=(-2.0, 0.5), lr=0.02).x.round(6)
    array([0.5 , 0.25])
    """
    make = _made_by(method)
    if not callable(fun_and_grad):
        raise TypeError(f"minimize: fun_and_grad must be a function of x, got {type(fun_and_grad).__name__}")
    if not (callback is None or callable(callback)):
        raise TypeError(f"minimize: callback must be a function or None, got {type(callback).__name__}")
    if options.get("maximize"):
        raise ValueError("minimize: maximize is for ascent; negate the function and its gradient")
    tolerance = None if tol is None else float(_TOLERANCE.check("minimize: tol", tol))
    count = int(_STEPS.check("minimize: max_steps", max_steps))
    x = _start(x0)
    kept_in = _set_of(bounds, x)
    if kept_in is not None:
        kept_in.project(x)
    run = _Run(fun_and_grad, x, kept_in, callback, count)
    if inspect.isclass(make) and issubclass(make, ClosureOptimizer):
        return _by_closure(run, make, tolerance, hessp, options)
    if hessp is not None:
        raise TypeError(f"minimize: hessp is for newton_cg, and {_name(method)} does not use it; leave it out")
    return _by_gradients(run, make, tolerance, options)


def scipy_method(method: Method = "lbfgs", **options: Any) -> Callable[..., Any]:
    """Return an optimizer of the package as a method of `scipy.optimize.minimize`.

    Parameters
    ----------
    method : str, class, or callable
        As for `minimize`.
    **options
        The method's arguments; those in SciPy's ``options=`` come before them.

    Returns
    -------
    callable
        For ``scipy.optimize.minimize(fun, x0, method=...)``, with ``args``, ``jac``, ``bounds``, ``callback`` and ``tol`` as
        SciPy has them. Without ``jac`` gradients are forward differences, within bounds, at the cost of one call of the
        function per parameter. ``hessp``, or ``hess``, goes to ``"newton_cg"``. ``options=`` takes ``max_steps`` (or SciPy's
        name for it, ``maxiter``), ``disp``, and the method's arguments. Constraints are refused.

    Examples
    --------
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> found = minimize(rosen, [1.3, 0.7, 0.8], jac=rosen_der, method=schuss.scipy_method("lbfgs"))
    >>> found.x.round(5), found.success
    (array([1., 1., 1.]), True)
    """
    _made_by(method, "scipy_method")

    def minimizer(
        fun: Callable[..., Any],
        x0: Any,
        args: Any = (),
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., Any] | None = None,
        **further: Any,
    ) -> Any:
        if constraints not in (None, ()) and constraints != []:
            raise ValueError(
                "scipy_method: constraints are not supported; use bounds, or a method of SciPy such as trust-constr"
            )
        chosen = options | further
        if "maxiter" in chosen:
            chosen["max_steps"] = chosen.pop("maxiter")
        display = chosen.pop("disp", False)
        args = args if isinstance(args, tuple) else (args,)
        x = _start(x0)
        function = _Function(fun, jac, args, _set_of(bounds, x, "scipy_method"))
        product = None
        if hessp is not None:
            product = lambda x, v: np.asarray(hessp(x, v, *args))  # noqa: E731
        elif callable(hess):
            product = lambda x, v: np.asarray(hess(x, *args) @ v)  # noqa: E731
        found = minimize(function, x, method, bounds, callback, hessp=product, **chosen)
        found["nfev"], found["njev"] = function.nfev, function.njev
        if display:
            print(f"{found['message']} f = {found['fun']:g} after {found['nit']} steps, {found['nfev']} evaluations")
        return found

    return minimizer


class _Function:
    """A function of SciPy's form, with its gradient, or Jacobian, by the caller's or by differences."""

    def __init__(self, fun: Callable[..., Any], jac: Any, args: tuple[Any, ...], box: Constraint | None) -> None:
        self._fun, self._args, self._box = fun, args, box
        self._jac, self._both = (jac if callable(jac) else None), jac is True
        self.nfev = self.njev = 0

    def __call__(self, x: NDArray[Any]) -> tuple[Any, Any]:
        self.nfev += 1
        self.njev += 1
        if self._both:
            value, slope = self._fun(x, *self._args)
        else:
            value = self._fun(x, *self._args)
            slope = self._differences(x, value) if self._jac is None else self._jac(x, *self._args)
        return value, np.asarray(slope)

    def _differences(self, x: NDArray[Any], value: Any) -> NDArray[Any]:
        """Return forward differences, backward ones where forward leads out of the box."""
        step = math.sqrt(np.finfo(x.dtype).eps) * np.maximum(1.0, np.abs(x))
        if isinstance(self._box, Box | _Boxes):
            upper = self._box.upper if isinstance(self._box, Box) else self._box.upper[0]
            step = np.where(x + step > upper, -step, step)
        columns = []
        for i in range(x.size):
            moved = x.copy()
            moved[i] += step[i]
            columns.append((np.asarray(self._fun(moved, *self._args)) - value) / (moved[i] - x[i]))
            self.nfev += 1
        return np.stack(columns, axis=-1)


# ---- arguments ------------------------------------------------------------------------------------------------------------


def _name(method: Method) -> str:
    """Return what messages call a method."""
    return method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)


def _made_by(method: Method, who: str = "minimize") -> Callable[..., Any]:
    """Return what makes the optimizer: its class, or the caller's function."""
    if not isinstance(method, str):
        if inspect.isclass(method) and not issubclass(method, Optimizer | ClosureOptimizer):
            raise TypeError(f"{who}: method must be a class of an optimizer, got {method.__name__}")
        if not callable(method):
            raise TypeError(f"{who}: method must be a name, a class or a function, got {type(method).__name__}")
        return method
    inside = vars(schuss)  # the stub shows only what is public; the registry would import every class
    modules, key = inside["_modules"](), "".join(filter(str.isalnum, method)).lower()
    made: Callable[..., Any] | None = inside["_class_of"](key, modules[key]) if key in modules else None
    if made is None:
        known = [module for module in modules if not modules[module].startswith("schuss.wrappers.")]
        hint = _did_you_mean(key, known) or f"choose one of {', '.join(sorted(known))}"
        raise ValueError(f"{who}: method must name an optimizer, got {method!r}; {hint}")
    if not issubclass(made, Optimizer | ClosureOptimizer):  # type: ignore[arg-type]
        raise ValueError(
            f"{who}: {made.__name__} is a wrapper; pass a function of x that puts it around an optimizer of x"
        )
    return made


def _start(x0: Any) -> Any:
    """Return a copy of the start, of floating arrays."""
    if isinstance(x0, list | tuple) and all(as_float(each) is not None for each in x0):
        x0 = np.array(x0, np.float64)
    return trees.map_leaves(_floating, x0)


def _floating(leaf: Any) -> NDArray[Any]:
    """Return a copy of an array in its memory order, numbers that are not floating as float64."""
    array = np.array(leaf, order="K")
    return array if array.dtype.kind not in "biu" else array.astype(np.float64)


class _Boxes(Constraint):
    """A box for each array: every element has bounds of its own."""

    def __init__(self, tree: Any, lower: Sequence[NDArray[Any]], upper: Sequence[NDArray[Any]]) -> None:
        self.tree, self.lower, self.upper = tree, list(lower), list(upper)
        self._parts = dict(zip((path for path, _ in trees.leaves(tree)), zip(lower, upper, strict=True), strict=True))

    def bind(self, arrays: Mapping[str, NDArray[Any]], **options: Any) -> Projection:
        """Return the projection of arrays by their paths, which were checked as parameters."""
        return _Clipped([(array, *self._parts[path]) for path, array in arrays.items()])


class _Clipped:
    """Arrays and the bounds of their elements."""

    def __init__(self, parts: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]) -> None:
        self._parts = parts

    def apply(self, active: Sequence[bool] | None = None) -> None:
        """Write bounds over what is outside of them; a NaN is neither below nor above."""
        for i, (array, lower, upper) in enumerate(self._parts):
            if active is None or active[i]:
                np.copyto(array, lower, where=array < lower)
                np.copyto(array, upper, where=array > upper)


def _set_of(bounds: Any, x: Any, who: str = "minimize") -> Constraint | None:
    """Return what was given as bounds as the set that x is kept in."""
    if bounds is None or isinstance(bounds, Constraint):
        return bounds
    leaves = dict(trees.leaves(x))
    ends = np.cumsum([0, *(leaf.size for leaf in leaves.values())]).tolist()
    lower, upper = (np.asarray(side, np.float64).ravel() for side in _sides(bounds, who))
    for side in (lower, upper):
        if side.size not in (1, ends[-1]):
            raise ValueError(
                f"{who}: bounds must be one pair for all or one for each of the {ends[-1]} elements of x0, got {side.size}"
            )
    lower, upper = np.broadcast_to(lower, ends[-1]), np.broadcast_to(upper, ends[-1])
    if not np.all(lower <= upper):
        worst = int(np.argmin(lower <= upper))
        raise ValueError(
            f"{who}: bounds must have lower <= upper, got {lower[worst]:g} and {upper[worst]:g} at {worst}"
        )
    if lower.size and np.all(lower == lower[0]) and np.all(upper == upper[0]):
        return Box(float(lower[0]), float(upper[0]))
    for path, leaf in leaves.items():
        if leaf.dtype.kind != "f":
            raise TypeError(f"{who}: x0{path} has dtype {leaf.dtype}; bounds for each element are for real arrays")
    split = [
        [
            side[a:b].reshape(leaf.shape).astype(leaf.dtype)
            for leaf, a, b in zip(leaves.values(), ends, ends[1:], strict=False)
        ]
        for side in (lower, upper)
    ]
    return _Boxes(x, *split)


def _sides(bounds: Any, who: str) -> tuple[Any, Any]:
    """Return lower and upper bounds, of SciPy's object, of one pair, or of a sequence of pairs."""
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        return bounds.lb, bounds.ub
    try:
        pairs = list(bounds)
        if len(pairs) == 2 and all(each is None or as_float(each) is not None for each in pairs):
            pairs = [pairs]
        lower, upper = zip(*(_pair(each) for each in pairs), strict=True)
    except (TypeError, ValueError):
        raise TypeError(
            f"{who}: bounds must be pairs (lower, upper), of numbers or None, or have lb and ub, got {bounds!r:.60}"
        ) from None
    return lower, upper


def _pair(pair: Any) -> tuple[float, float]:
    """Return a pair with infinities in place of None."""
    lower, upper = pair
    return -math.inf if lower is None else float(lower), math.inf if upper is None else float(upper)


# ---- runs -----------------------------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """A point with its value and gradient, in copies."""

    x: Any
    fun: float
    jac: Any


class _Run:
    """A function with its counts, the parameters under way, and whom to tell of them."""

    def __init__(
        self,
        function: Callable[[Any], tuple[Any, ...]],
        x: Any,
        kept_in: Constraint | None,
        callback: Callable[..., Any] | None,
        steps: int,
    ) -> None:
        self.function, self.x, self.kept_in, self.steps = function, x, kept_in, steps
        self.nfev = self.njev = 0
        self.nhev: int | None = None  # where the Hessian is not asked for
        self._callback, self._by_result = callback, callback is not None and _takes_result(callback)

    def call(self) -> tuple[Any, ...]:
        """Evaluate at the parameters, and count."""
        found = self.function(self.x)
        if not isinstance(found, tuple | list) or len(found) not in (2, 3):
            raise TypeError(f"minimize: fun_and_grad must return (f, g), got {type(found).__name__}")
        self.nfev += 1
        value, slope, *further = found
        if callable(slope):  # a Jacobian that is made where it is asked for

            def counted() -> Any:
                self.njev += 1
                return slope()

            return (value, counted, *further)
        self.njev += 1
        return (value, np.asarray(slope) if isinstance(self.x, np.ndarray) else slope, *further)

    def evaluate(self) -> tuple[float, Any, dict[str, Any]]:
        """Return value, gradient and further inputs at the parameters."""
        value, slope, *further = self.call()
        number = as_float(value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value)
        if number is None:
            raise TypeError(f"minimize: fun_and_grad must return a real number first, got {type(value).__name__}")
        return number, self._apart(slope), dict(further[0]) if further else {}

    def _apart(self, slope: Any) -> Any:
        """Return a gradient of the parameters' nesting and shapes that is none of these arrays, which a step changes."""
        try:
            slopes: list[Any] = list(trees.matching_leaves(slope, self.x))
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError("minimize: fun_and_grad must return the gradient in the nesting of x0") from None
        for i, (g, (path, leaf)) in enumerate(zip(slopes, trees.leaves(self.x), strict=True)):
            if g is not None and np.shape(g) != leaf.shape:
                raise ValueError(f"minimize: the gradient{path} must have shape {leaf.shape}, got {np.shape(g)}")
            if g is not None and np.may_share_memory(g, leaf):
                slopes[i] = g.copy()
        return trees.rebuild(self.x, iter(slopes))

    def seen(self, value: float, slope: Any) -> _Seen:
        """Return copies of the parameters and what is known there."""
        return _Seen(_copied(self.x), value, _copied(slope))

    def size_of(self, slope: Any) -> float:
        """Return the largest element of the projected gradient; NaN where any is."""
        slopes: list[Any] = list(trees.matching_leaves(slope, self.x))
        if self.kept_in is None:
            return max((float(np.max(np.abs(g), initial=0.0)) for g in slopes if g is not None), default=0.0)
        leaves = [leaf for _, leaf in trees.leaves(self.x)]
        ends = [np.array(p if g is None else p - g, p.dtype, order="K") for p, g in zip(leaves, slopes, strict=True)]
        self.kept_in.project(trees.rebuild(self.x, iter(ends)))
        return max(
            (float(np.max(np.abs(p - end), initial=0.0)) for p, end in zip(leaves, ends, strict=True)), default=0.0
        )

    def stops(self, value: float) -> bool:
        """Tell the callback of a step; return whether it ends the run."""
        if self._callback is None:
            return False
        x = _copied(self.x)
        try:
            if self._by_result:
                self._callback(intermediate_result=_result_class()(x=x, fun=value))
            else:
                self._callback(x)
        except StopIteration:
            return True
        return False

    def result(self, seen: _Seen, status: int, nit: int, message: str = "") -> Any:
        """Return SciPy's result."""
        products = {} if self.nhev is None else {"nhev": self.nhev}
        return _result_class()(
            x=seen.x,
            fun=seen.fun,
            jac=seen.jac,
            nit=nit,
            nfev=self.nfev,
            njev=self.njev,
            **products,
            success=status == 0,
            status=status,
            message=message or _MESSAGES[status],
        )


def _copied(tree: Any) -> Any:
    """Return a tree of copies; None, in a gradient, stays."""
    return trees.map_leaves(lambda leaf: None if leaf is None else np.array(leaf, order="K"), tree)


def _takes_result(callback: Callable[..., Any]) -> bool:
    """Tell whether a callback is of SciPy's newer form."""
    try:
        return set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except ValueError:  # of some functions written in C
        return False


def _by_gradients(run: _Run, make: Callable[..., Any], tolerance: float | None, options: dict[str, Any]) -> Any:
    """Step an optimizer with the gradients, and return the best point that it came to."""
    optimizer = make(run.x, **(options if run.kept_in is None else options | {"bounds": run.kept_in}))
    if isinstance(optimizer, ClosureOptimizer):
        return _stepped(run, optimizer, {})
    if not isinstance(optimizer, Optimizer | Wrapper):
        raise TypeError(f"minimize: method must make an optimizer or a wrapper, got {type(optimizer).__name__}")
    base = optimizer.base if isinstance(optimizer, Wrapper) else optimizer
    limit = _GRADIENT_TOLERANCE if tolerance is None else tolerance
    value, slope, inputs = run.evaluate()
    best = run.seen(value, slope)
    for nit in itertools.count():
        size = run.size_of(slope)
        if value < best.fun:
            best = run.seen(value, slope)
        if nit and run.stops(value):
            status = 99
        elif not math.isfinite(value) or not math.isfinite(size):
            status = 3
        elif size <= limit and value - best.fun <= _ROUNDING * abs(best.fun):
            best, status = run.seen(value, slope), 0
        elif nit == run.steps:
            status = 1
        else:
            if "loss" in base.inputs:
                inputs.setdefault("loss", value)
            optimizer.step(slope, **inputs)
            value, slope, inputs = run.evaluate()
            continue
        break
    if type(base).evaluation is not Optimizer.evaluation and status in (1, 99):
        optimizer.eval()
        if run.kept_in is not None:
            run.kept_in.project(run.x)
        value, slope, _ = run.evaluate()
        if value < best.fun:
            best = run.seen(value, slope)
            status = 0 if status == 1 and run.size_of(slope) <= limit else status
    return run.result(best, status, nit)


def _by_closure(
    run: _Run,
    cls: type[ClosureOptimizer],
    tolerance: float | None,
    hessp: Callable[[Any, Any], Any] | None,
    options: dict[str, Any],
) -> Any:
    """Step an optimizer that evaluates the function itself."""
    options, name = dict(options), cls.__name__
    if tolerance is not None and "gtol" in cls.arguments:
        options.setdefault("gtol", tolerance)
    if run.kept_in is not None and "bounds" not in cls.options:
        raise TypeError(f"minimize: {name} takes no bounds; choose another method, such as the default")
    if isinstance(run.kept_in, _Boxes):
        options["bounds"] = tuple(trees.rebuild(run.x, iter(side)) for side in (run.kept_in.lower, run.kept_in.upper))
    elif run.kept_in is not None:
        if run.kept_in.box is None:
            raise TypeError(
                f"minimize: {name} takes bounds, but no {type(run.kept_in).__name__}; choose another method"
            )
        options["bounds"] = run.kept_in.box
    inputs: dict[str, Any] = {}
    if hessp is not None:
        if not cls.inputs:
            raise TypeError(f"minimize: hessp is for newton_cg, and {name} does not use it; leave it out")
        product = hessp

        def counted(v: Any) -> Any:
            run.nhev = (run.nhev or 0) + 1
            return product(run.x, v)

        run.nhev = 0
        inputs[cls.inputs[0]] = counted
    return _stepped(run, cls(run.x, **options), inputs)


def _stepped(run: _Run, optimizer: ClosureOptimizer, inputs: dict[str, Any]) -> Any:
    """Step until the optimizer says why there is no further step."""
    waiting: list[tuple[Any, ...]] = [run.call()]
    value, slope = waiting[0][:2]
    if not np.all(np.isfinite(value)):
        nothing = trees.map_leaves(lambda leaf: np.full_like(leaf, np.nan), run.x)
        least = float(value) if np.ndim(value) == 0 else math.inf
        return run.result(run.seen(least, nothing if callable(slope) or np.ndim(value) else slope), 3, 0)
    nit, status, message = 0, 1, ""
    for _ in range(run.steps):
        value = optimizer.step(lambda: waiting.pop() if waiting else run.call(), **inputs)
        assert optimizer.last is not None
        if optimizer.last.step_length:
            nit += 1
            if run.stops(value):
                status = 99
                break
        if optimizer.stopped:
            status, message = 0 if optimizer.converged else 2, optimizer.stopped
            break
    return run.result(run.seen(value, optimizer.state["gradient"]), status, nit, message)
