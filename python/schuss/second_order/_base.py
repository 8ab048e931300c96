"""The base class of optimizers that evaluate a function themselves: parameters as one vector, evaluations, state."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schuss import _core, memory, nested, trees
from schuss._core import Let, Undo, publish
from schuss._guard import guarded
from schuss._runtime import held
from schuss.arguments import Declared
from schuss.hyperparameters import Domain, as_float
from schuss.optimizer import Group, _option
from schuss.passes.average import Average
from schuss.state import Checks, checked_params, of_wrapper, positions, require_empty

FORMAT = 1

#: Evaluates at the present parameters, and returns the loss and the gradients in the parameters' tree.
Closure: TypeAlias = Callable[[], tuple[Any, Any]]
Vector: TypeAlias = NDArray[np.floating[Any]]
#: One side of a box: a number for all elements, or a tree of numbers and arrays as the parameters'; None for no bound.
Bound: TypeAlias = Any


@dataclass(frozen=True)
class ClosureInfo:
    """What the last step of an optimizer with a closure did.

    Attributes
    ----------
    step : int
        Steps done before it.
    loss : float
        At the parameters that it left.
    gradient_norm : float
        The largest absolute element of the gradient there; where bounds hold, of the projected gradient.
    step_length : float
        How many times its direction it went.
    evaluations : int
        How often it called the closure.
    message : str
        Why there is no further step to do; empty where there is one.
    """

    step: int
    loss: float
    gradient_norm: float
    step_length: float
    evaluations: int
    message: str


def dot(a: Vector, b: Vector) -> float:
    """Return the sum of ``a * b``, multiplied and added in float64."""
    if a.dtype == b.dtype == np.float64:
        return float(np.dot(a, b))
    return float(np.einsum("i,i->", a, b, dtype=np.float64))


def largest(a: Vector) -> float:
    """Return the largest absolute element, 0 where there is none."""
    return float(np.max(np.abs(a), initial=0.0))


class ClosureOptimizer(Declared):
    """Base class of the optimizers that evaluate a function themselves, as often as a step needs.

    A subclass annotates its arguments (numbers by their domain; anything else is an option, chosen at construction), makes
    what it keeps in `_prepare`, and writes `_advance`. The parameters are one vector of float64 if any of them is float64,
    else of float32; sums of products are accumulated in float64.

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays
        Updated in place. Float64 or float32; C- or F-contiguous, writeable, not overlapping one another.
    deterministic : bool
        The closure gives the same loss for the same parameters, always: what a step has found at them is not evaluated
        again by the next. False for a loss that changes between steps, as over batches: every step evaluates first.
    """

    _first = ("params", "params")
    #: What the closure returns.
    returns: ClassVar[tuple[str, str]] = ("loss", "grads")
    #: Arguments that are chosen at construction.
    fixed: ClassVar[frozenset[str]] = frozenset()
    #: What a step takes besides the closure, by keyword.
    inputs: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:
        params: Any = _option(default=None, kw_only=False)
    deterministic: bool = _option(default=True)

    if TYPE_CHECKING:  # and no arguments
        _arrays: dict[str, NDArray[Any]] = _option(default=None, init=False)
        _numbers: dict[str, Any] = _option(default=None, init=False)
        _last: ClosureInfo | None = _option(default=None, init=False)
        _lower: Vector | None = _option(default=None, init=False)
        _upper: Vector | None = _option(default=None, init=False)
    else:
        _lower = _upper = None

    # ---- for subclasses ----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make what is kept: arrays of ``n`` or ``(m, n)`` elements in `_arrays`, numbers, in `_numbers`; both by name.

        The base keeps ``point`` and ``gradient``, and ``loss`` (infinite while nothing is known), ``t``, ``evaluations``,
        ``converged``, and ``stopped``.
        """

    def _begin(self) -> None:
        """Bring what `_prepare` made to what it is before the first step: all arrays are zero, the base's numbers set."""

    def _advance(self, closure: Any, values: Mapping[str, float], **inputs: Any) -> ClosureInfo:
        """Do a step, with the arguments' values at it, and return what it did.

        After an error parameters and numbers are brought back, but not arrays: what is kept in these goes to `_writes`, pairs
        of an array and of what it is to be, which are written in the end.
        """
        raise NotImplementedError

    def _kept(self) -> Mapping[str, NDArray[Any]]:
        """Return the arrays that a checkpoint holds, by name."""
        return self._arrays

    def _take_over(self, arrays: Mapping[str, NDArray[Any]], numbers: dict[str, Any]) -> None:
        """Take arrays and numbers of a checkpoint, to which `_objection_to` had no objection."""
        self._numbers = numbers
        for name, array in arrays.items():
            self._arrays[name][...] = array

    def _objection_to(
        self, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> str | None:
        """Say why arrays, numbers and arguments of a checkpoint cannot be taken; None where they can."""
        for key, value in self._numbers.items():
            if not nested.like(numbers[key], value):
                return f"{key} is {numbers[key]!r:.40}"
        for key, array in arrays.items():
            if array.shape != self._arrays[key].shape:
                return f"{key} has {len(array)} rows, but {len(self._arrays[key])} here"
        return None

    # ---- construction ------------------------------------------------------------------------------------------------

    def __init__(self, params: trees.Tree, *unnamed: Any, **given: Any) -> None:
        name = type(self).__name__
        if type(self)._advance is ClosureOptimizer._advance:
            raise TypeError(f"{name}: it is what optimizers have in common; choose one of schuss.closure_optimizers()")
        self._require_named(unnamed)
        arguments, options = self._checked(given)
        self._set(params, arguments, options)

    def _set(self, params: trees.Tree, arguments: dict[str, Any], options: dict[str, Any]) -> None:
        """Take parameters, with nothing kept yet."""
        name = type(self).__name__
        if isinstance(params, Group) or (
            isinstance(params, list | tuple) and any(isinstance(each, Group) for each in params)
        ):
            raise TypeError(f"{name}: it steps all parameters as one and takes no Group; pass the arrays")
        self._arguments = arguments
        vars(self).update(copy.deepcopy(options))  # later changes of the caller's bounds do not act
        self._guard = _core.Guard(name)
        self._outbox = _copier(name)(params, weight=1.0)  # checks the parameters as for any optimizer
        self._paths, leaves = self._outbox._paths, self._leaves
        for path, leaf in zip(self._paths, leaves, strict=True):
            if leaf.dtype not in (np.float32, np.float64):
                raise TypeError(
                    f"{name}: params{path} has dtype {leaf.dtype}, but what it keeps are differences of real numbers; "
                    "pass float64 or float32"
                )
        self._dtype = np.dtype(np.float64 if any(leaf.dtype == np.float64 for leaf in leaves) else np.float32)
        self._eps = 2.0**-52 if self._dtype == np.float64 else 2.0**-23
        self._rounds = any(leaf.dtype != self._dtype for leaf in leaves)
        self._ends = np.cumsum([0, *(leaf.size for leaf in leaves)]).tolist()
        self._size = self._ends[-1]
        self._incoming = np.zeros(self._size, self._dtype)
        self._inbox = _copier(name)(self._tree_of(self._incoming), weight=1.0, nonfinite="raise")
        self._last = None
        self._writes: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._arrays = {key: self._zeros() for key in ("point", "gradient")}
        self._numbers = {}
        self._prepare()
        self._start()

    def _start(self) -> None:
        """Forget everything."""
        for array in self._arrays.values():
            array[...] = 0
        self._numbers |= {"t": 0, "evaluations": 0, "loss": math.inf, "converged": False, "stopped": ""}
        self._last = None
        self._begin()

    def _zeros(self, *rows: int) -> NDArray[Any]:
        """Return zeros, one per element of the parameters, in as many rows as are asked for."""
        return np.zeros((*rows, self._size), self._dtype)

    def _values(self) -> dict[str, float]:
        """Return the arguments' values at this step, schedules evaluated and checked."""
        name = type(self).__name__
        return {key: each.at(name, self._arguments[key], self.t) for key, each in self.arguments.items()}

    if not TYPE_CHECKING:

        def __setattr__(self, key: str, value: object) -> None:
            """Set an argument; refuse what would pass unnoticed."""
            if not key.startswith("_") and not hasattr(getattr(type(self), key, None), "__set__"):
                name = type(self).__name__
                if key in self.options:
                    raise AttributeError(f"{name}: {key} is chosen at construction; make a new {name}")
                raise AttributeError(
                    f"{name}: {key} is not an attribute that can be set; set {', '.join(self.arguments)}"
                )
            if key in self.fixed and self.arguments[key].check(type(self).__name__, value) != getattr(self, key):
                name = type(self).__name__
                raise AttributeError(f"{name}: {key} is chosen at construction; make a new {name}")
            super().__setattr__(key, value)

    # ---- parameters as a vector ----------------------------------------------------------------------------------------

    @property
    def _leaves(self) -> list[Any]:
        return self._outbox._leaves

    def _split(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """Return views of the last axis, one for each parameter and in its shape, with elements in its memory's order."""
        lead, axes, views = array.shape[:-1], tuple(range(array.ndim - 1)), []
        for leaf, start, end in zip(self._leaves, self._ends, self._ends[1:], strict=False):
            part = array[..., start:end]
            if memory.is_fortran(leaf):
                back = reversed(range(len(lead), len(lead) + leaf.ndim))
                views.append(part.reshape(lead + leaf.shape[::-1]).transpose(*axes, *back))
            else:
                views.append(part.reshape(lead + leaf.shape))
        return views

    def _tree_of(self, vector: NDArray[Any]) -> Any:
        """Return views of a vector in the parameters' tree."""
        return self._outbox._like_params(self._split(vector))

    def _gather(self) -> Vector:
        """Return the present parameters as a new vector."""
        x = np.empty(self._size, self._dtype)
        for view, leaf in zip(self._split(x), self._leaves, strict=True):
            view[...] = leaf
        return x

    def _place(self, x: Vector) -> None:
        """Write a vector into the parameters, and round it to what they can hold."""
        self._outbox.step(self._tree_of(x))
        if self._rounds:
            x[...] = self._gather()

    def _vector(self, tree: Any, called: str = "grads") -> Vector:
        """Return a tree of arrays as a new vector, checked as gradients are; None stands for zeros."""
        self._incoming[...] = 0
        try:
            self._inbox.step(tree)
        except (TypeError, ValueError, FloatingPointError) as error:
            raise type(error)(str(error).replace(": grads", f": {called}", 1)) from None
        return self._incoming.copy()

    # ---- bounds --------------------------------------------------------------------------------------------------------

    def _box_of(self, bounds: tuple[Bound, Bound]) -> tuple[Vector, Vector]:
        """Return bounds as vectors, rounded to what the parameters can hold; infinite where there is none, or too far."""
        name = type(self).__name__
        if not isinstance(bounds, tuple | list) or len(bounds) != 2:
            raise TypeError(f"{name}: bounds must be a pair (lower, upper), got {bounds!r:.40}")
        with np.errstate(over="ignore"):
            lower, upper = (
                self._side(f"{name}: bounds[{i}]", open_ if side is None else side)
                for i, (side, open_) in enumerate(zip(bounds, (-math.inf, math.inf), strict=True))
            )
        if not (lower <= upper).all():
            raise ValueError(f"{name}: bounds must have lower <= upper for every element; swap or widen them")
        return lower, upper

    def _side(self, which: str, side: Bound) -> Vector:
        """Return one side of the box as a vector."""
        if not isinstance(side, dict | list | tuple | np.ndarray):
            each = side
            side = trees.map_leaves(lambda _: each, self.params)
        if trees.structure(side) != trees.structure(self.params):
            raise ValueError(f"{which} must be a number, or have the nesting of params")
        vector = self._zeros()
        paired = zip(self._split(vector), self._leaves, trees.matching_leaves(side, self.params), strict=True)
        for path, (view, leaf, bound) in zip(self._paths, paired, strict=True):
            if not isinstance(bound, np.ndarray):
                view[...] = leaf.dtype.type(_BOUND.check(f"{which}{path}", bound))
                continue
            if bound.dtype.kind not in "fiu" or np.isnan(bound).any():
                raise ValueError(f"{which}{path} must hold real numbers, none of them NaN")
            try:
                view[...] = np.broadcast_to(bound.astype(leaf.dtype), leaf.shape)
            except ValueError:
                raise ValueError(
                    f"{which}{path} has shape {bound.shape}, but its parameter has shape {leaf.shape}"
                ) from None
        return vector

    def _into_box(self, x: Vector) -> Vector:
        """Return the nearest point of the box."""
        return x if self._lower is None or self._upper is None else np.clip(x, self._lower, self._upper)

    def _projected_gradient(self, x: Vector, gradient: Vector) -> Vector:
        """Return how far a step along the gradient would move the point within the box."""
        return gradient if self._lower is None else x - self._into_box(x - gradient)

    # ---- evaluations ---------------------------------------------------------------------------------------------------

    def _call(self, closure: Closure) -> tuple[float, Any]:
        """Call the closure at the present parameters, and return the loss and the tree of gradients."""
        name = type(self).__name__
        self._numbers["evaluations"] += 1
        with Let():
            found: Any = closure()
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise TypeError(f"{name}: the closure must return ({', '.join(self.returns)}), got {type(found).__name__}")
        loss, grads = found
        number = as_float(loss[()] if isinstance(loss, np.ndarray) and loss.ndim == 0 else loss)
        if number is None:
            raise TypeError(f"{name}: the closure's loss must be a real number, got {type(loss).__name__}")
        if grads is None:
            raise TypeError(f"{name}: the closure's gradients are None; return them in the nesting of params")
        return number, grads

    def _evaluate(self, closure: Closure, x: Vector) -> tuple[float, Vector]:
        """Return loss and gradient at a point; an infinite loss and no usable gradient where any of it is not finite.

        The point is rounded to what the parameters can hold.
        """
        self._place(x)
        loss, grads = self._call(closure)
        if math.isfinite(loss):
            with contextlib.suppress(FloatingPointError):
                return loss, self._vector(grads)
        return math.inf, np.zeros_like(x)

    def _present(self, closure: Closure, x: Vector) -> tuple[float, Vector]:
        """Return loss and gradient at a point to start from: those that are known, or new ones, which must be finite."""
        known = self._numbers["loss"]
        if self.deterministic and math.isfinite(known) and np.array_equal(x, self._arrays["point"]):
            self._place(x)
            return known, self._arrays["gradient"].copy()
        self._place(x)
        loss, grads = self._call(closure)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"{type(self).__name__}: the loss is {loss} at the present parameters; nothing was changed"
            )
        return loss, self._vector(grads)

    def _keep(self, x: Vector, loss: float, gradient: Vector) -> None:
        """Put a point into the parameters, and keep what is known there."""
        self._place(x)
        self._writes += [(self._arrays["point"], x), (self._arrays["gradient"], gradient)]
        self._numbers["loss"] = loss

    # ---- the step ------------------------------------------------------------------------------------------------------

    def step(self, closure: Closure) -> float:
        """Do one iteration: update the parameters in place.

        Parameters
        ----------
        closure : function without arguments
            Evaluates at the present parameters, which it must not change, and returns ``(loss, grads)``: a real number, and
            arrays in the nesting of `params` and of their shapes. None in place of an array stands for zeros.

        Returns
        -------
        float
            The loss at the parameters that the step leaves.

        Raises
        ------
        TypeError, ValueError, BufferError
            If parameters or what the closure returns cannot be used; nothing was changed.
        FloatingPointError
            If loss or gradients are not finite at the parameters that the step starts from; nothing was changed.
        RuntimeError
            If another thread is inside this optimizer.
        """
        return self._guarded(closure)

    def _guarded(self, closure: Any, **inputs: Any) -> float:
        """Do a step alone, or leave everything as it was."""
        name = type(self).__name__
        if not callable(closure):
            raise TypeError(
                f"{name}: step takes a function that evaluates at the present parameters, got {type(closure).__name__}"
            )
        with held, self._guard:
            self._outbox._require_writeable()
            values = self._values()
            with Undo(self._leaves, [self]):
                self._numbers = dict(self._numbers)
                self._writes = []
                info = self._advance(closure, values, **inputs)
                self._numbers["t"] += 1
                self._last = info
                publish(self._writes, [])
            self._writes = []
        return info.loss

    def _stop(self, message: str, *, converged: bool) -> str:
        """Note why there is no further step to do (empty where there is one), and return it."""
        self._numbers |= {"stopped": message, "converged": converged}
        return message

    @property
    def t(self) -> int:
        """The number of steps done."""
        return int(self._numbers["t"])

    @property
    def evaluations(self) -> int:
        """How often the closure was called, in all."""
        return int(self._numbers["evaluations"])

    @property
    def converged(self) -> bool:
        """Whether the last step met one of the tolerances."""
        return bool(self._numbers["converged"])

    @property
    def stopped(self) -> str:
        """Why there is no further step to do, a tolerance or a search that failed; empty where there is one."""
        return str(self._numbers["stopped"])

    @property
    def last(self) -> ClosureInfo | None:
        """What the last step did; None before the first, and after a state was loaded."""
        return self._last

    # ---- parameters and state ------------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # for type checkers it is the constructor's first argument

        @property
        def params(self) -> Any:
            """The caller's arrays, in the caller's nesting."""
            return self._outbox.params

    @property
    def state(self) -> dict[str, Any]:
        """The live state: slot name -> arrays in the parameters' nesting, with rows in front where a slot has them."""
        return {name: self._tree_of(array) for name, array in self._arrays.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of state."""
        return sum(array.nbytes for array in self._arrays.values())

    @guarded
    def reset(self) -> None:
        """Forget everything learnt: state and counts are as new, parameters and arguments stay."""
        with held, Undo(self._memory(), [self]):
            self._numbers = dict(self._numbers)
            self._start()

    def _memory(self) -> list[NDArray[Any]]:
        """Return the arrays that are state."""
        return list(self._arrays.values())

    @guarded
    def rebind(self, params: trees.Tree) -> None:
        """Step other arrays of the same nesting, shapes and dtypes from now on, with the same state.

        Parameters
        ----------
        params : tree of arrays
            As for the constructor.
        """
        self._outbox.rebind(params)

    # ---- checkpoints ---------------------------------------------------------------------------------------------------

    @guarded
    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all state: arrays by slot and tensor, numbers, and arguments (None for a schedule)."""
        return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "schuss": _core.__version__,
            "optimizer": type(self).__name__,
            "names": list(self._paths),
            "arguments": {key: None if callable(value) else value for key, value in self._arguments.items()},
            "numbers": copy.deepcopy(self._numbers),
            "slots": {name: [view.copy() for view in self._split(array)] for name, array in self._kept().items()},
        }

    @guarded
    def load_state_dict(self, state: Mapping[str, Any], *, cast: bool = False) -> None:
        """Take over a state dict of an optimizer of the same class over parameters of the same names and shapes.

        Parameters
        ----------
        state : dict
            From `state_dict`. Copied: later changes of it do not act. Arguments that were schedules stay as they are here.
        cast : bool
            Convert state arrays of other dtypes instead of refusing them.

        Raises
        ------
        StateError
            If it does not fit; nothing was changed.
        """
        self._make(self._accepted(state, cast=cast))

    def _make(self, take_over: Callable[[], None]) -> None:
        """Take over what was checked, all or nothing."""
        with held, Undo([*self._leaves, *self._memory()], [self]):
            take_over()

    def _accepted(self, state: Mapping[str, Any], *, cast: bool) -> Callable[[], None]:
        """Check a state dict, and return what takes it over, which cannot fail any more."""
        checks = Checks(type(self).__name__, state, cast)
        if isinstance(outer := checks.state.get("wrapper"), str):
            raise checks.fail(f"the state {of_wrapper(outer)}")
        checks.check_class()
        checks.check_format()
        state = checks.state
        checks.require_entries(("format", "schuss", "optimizer", "names", "arguments", "numbers", "slots"))
        names = state["names"]
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not known or sorted(names) != sorted(self._paths):
            raise checks.fail("the state has other params; load it over the parameters it was saved from")
        order = positions(names, self._paths)
        for part, expected in {
            "arguments": self.arguments,
            "numbers": self._numbers,
            "slots": self._kept(),
        }.items():
            checks.require_keys(part, expected, state[part])
        arguments = {}
        for key, value in state["arguments"].items():
            try:
                here = self._arguments[key]
                arguments[key] = here if value is None else self.arguments[key].check(checks.name, value)
            except (TypeError, ValueError) as error:
                raise checks.fail(f"the state's arguments are not valid: {error}") from None
        for key in sorted(self.fixed):
            if arguments[key] != self._arguments[key]:
                raise checks.fail(
                    f"the state was saved with {key}={arguments[key]!r}, but the optimizer was made with "
                    f"{key}={self._arguments[key]!r}; make it with the options it was saved with"
                )
        arrays = {key: self._joined(checks, key, state["slots"][key], order) for key in self._kept()}
        if reason := self._objection_to(arrays, state["numbers"], arguments):
            raise checks.fail(f"the state is not valid: {reason}")
        numbers = copy.deepcopy(dict(state["numbers"]))

        def take_over() -> None:
            self._arguments = arguments
            self._take_over(arrays, numbers)
            self._last = None

        return take_over

    def _joined(self, checks: Checks, name: str, sources: Any, order: Sequence[int]) -> NDArray[Any]:
        """Return a slot's arrays of all tensors as one; the number of rows is that of the state."""
        lead: tuple[int, ...] = ()
        if self._kept()[name].ndim > 1:
            given = [each for each in sources if isinstance(each, np.ndarray)] if isinstance(sources, list) else []
            lead = given[0].shape[:1] if given else (0,)
            if lead and lead[0] * self._size > sum(each.size for each in given):
                raise checks.fail(
                    f"slot {name} of the state has not {lead[0]} rows for each of the params; "
                    "load it over the parameters it was saved from"
                )
        joined = self._zeros(*lead)
        for target, source in checks.arrays_of_slot(name, sources, self._split(joined), order, self._paths):
            target[...] = source
        return joined

    @guarded
    def save(self, path: str | os.PathLike[str], *, params: bool = False) -> None:
        """Write a checkpoint, atomically: to a temporary file, flushed to disk, then renamed.

        Parameters
        ----------
        path : path
            Ends in ``.npz``, or in ``.safetensors`` (needs the extra of that name).
        params : bool
            Write the parameters as well.
        """
        nested.save(self._state(), self._outbox, path, params=params)

    @guarded
    def load(self, path: str | os.PathLike[str], *, cast: bool = False) -> None:
        """Read a checkpoint of `save`; parameters too, in place, if the file holds them.

        Raises
        ------
        CheckpointError
            If the file is damaged; nothing was changed.
        StateError
            If it does not fit this optimizer; nothing was changed.
        """
        state, stored, others = nested.read(self, "an optimizer", path)
        take_over = self._accepted(state, cast=cast)
        require_empty(type(self).__name__, others, path)
        values = checked_params(self, stored, state["names"], path)

        def with_params() -> None:
            take_over()
            for leaf, source in zip(self._leaves, values, strict=False):
                leaf[...] = source

        self._make(with_params)

    @guarded
    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and copy keep: parameters, arguments, options, state."""
        return {
            "params": self.params,
            "arguments": dict(self._arguments),
            "options": {key: getattr(self, key) for key in self.options},
            "state": self._state(),
            "last": self._last,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the optimizer over the parameters that came along."""
        self._set(state["params"], dict(state["arguments"]), dict(state["options"]))
        self._accepted(state["state"], cast=False)()
        self._last = state["last"]

    def __repr__(self) -> str:
        """Show the arguments and the options."""
        values = self._arguments | {key: getattr(self, key) for key in self.options}
        shown = ", ".join(f"{key}={value!r}" for key, value in values.items())
        return f"{type(self).__name__}({shown}; {len(self._leaves)} tensors, t={self.t})"


#: What a bound may be.
_BOUND = Domain(upper_open=False)


@functools.cache
def _copier(name: str) -> type[Average]:
    """Return the pass that copies a tree into arrays, and checks both; its messages begin with a name."""
    return type(name, (Average,), {})
