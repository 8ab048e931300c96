"""The base class of wrappers: what is around an optimizer's step, and offers all that the optimizer does."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import DTypeLike, NDArray

from schuss import _core, memory, nested, trees
from schuss._core import Undo
from schuss._guard import guarded, uninterrupted
from schuss._runtime import held
from schuss.arguments import Argument as Argument
from schuss.arguments import Count as Count
from schuss.arguments import Declared
from schuss.arguments import ScheduledCount as ScheduledCount
from schuss.optimizer import Group, Optimizer, StepInfo, _option


class Wrapper(Declared):
    """Base class of what is put around an optimizer: it has the optimizer's step and offers all that it offers.

    Reading and setting hyper-parameters, `params`, `t`, `last`, `groups` and whatever else an optimizer has reaches the
    wrapped one; `state` has the slots of both, `state_dict` and files hold both, and are checked as one. Wrappers nest.
    Steps go through the outermost wrapper alone.

    A subclass annotates its arguments (numbers by their domain, as an optimizer's hyper-parameters; anything else is an
    option, chosen at construction), makes what it keeps in `_prepare` and `_begin`, and writes `_advance`.

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        What is wrapped.
    """

    _first = ("optimizer", "the optimizer")
    #: Does it change the weights after a step of what it wraps?
    moves: ClassVar[bool] = False
    #: Does its next step undo such changes?
    rewrites: ClassVar[bool] = False
    #: Does it make no sense around another one of its class?
    single: ClassVar[bool] = False

    if TYPE_CHECKING:
        optimizer: Any = _option(default=None, kw_only=False)

    # ---- for subclasses ----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make what is kept beside the wrapped state: `_arrays` (one array per tensor by name) and `_passes` (by name).

        A pass over arrays of its own has these in `_arrays` as well.
        """

    def _begin(self) -> None:
        """Bring what is kept to what it is before the first step: write `_arrays`, set `_numbers`."""
        for each in self._passes.values():
            each.reset()

    def _advance(self, grads: Any, **inputs: Any) -> bool:
        """Do the step, by that of `_optimizer`; tell whether the optimizer stepped.

        False where a policy skipped the step, where no tensor had a gradient, or where the step is yet to come. Whatever
        can fail comes first, or what it found is put back: an error leaves everything as it was.
        """
        raise NotImplementedError

    def _taken_over(self) -> None:
        """Forget what does not belong to the state that was just loaded."""

    def _objection_to(self, numbers: Mapping[str, Any]) -> str | None:
        """Say why saved `_numbers` cannot be taken; None where they can."""
        for key, value in self._numbers.items():
            if not nested.like(numbers[key], value):
                return f"{key} is {numbers[key]!r:.40}"
        return None

    def _require_training(self) -> None:
        """Refuse what changes or keeps the state while the parameters are not those in training."""
        self._optimizer._require_training()

    def _make_arrays(self, chosen: DTypeLike | None = None) -> list[NDArray[Any]]:
        """Return zeroed arrays, one per tensor, in the optimizer's compute type unless a dtype is chosen."""
        dtype = memory.checked_dtype(f"{type(self).__name__}: dtype", chosen, self._base.dtype)
        return memory.allocate(self._base._leaves, 1, dtype)[0]

    def _make_pass(self, cls: type[Optimizer], tree: Any = None, **arguments: Any) -> Any:
        """Return a pass over the parameters, or over a tree of the same nesting, that runs as the optimizer does."""
        base = self.base
        tree = base._tree if tree is None else tree
        params = [Group(part) for part in tree] if base._grouped else tree
        common = {key: getattr(base, key) for key in ("dtype", "threads", "flush_subnormals")}
        return cls(params, **(common | arguments))

    # ---- declaration and construction ----------------------------------------------------------------------------------

    def __init__(self, optimizer: Optimizer | Wrapper, *unnamed: Any, **given: Any) -> None:
        name = type(self).__name__
        self._require_named(unnamed)
        if not isinstance(optimizer, Optimizer | Wrapper):
            raise TypeError(
                f"{name}: optimizer must be an optimizer or a wrapper of one, got {type(optimizer).__name__}; "
                f"write {name}(optimizer, ...)"
            )
        arguments, options = self._checked(given)
        optimizer._require_training()
        self._set(optimizer, arguments, options)

    def _set(self, optimizer: Optimizer | Wrapper, arguments: dict[str, Any], options: dict[str, Any]) -> None:
        """Wrap an optimizer, with nothing kept yet."""
        name, levels = type(self).__name__, list(optimizer._levels()) if isinstance(optimizer, Wrapper) else []
        for each in levels:
            if self.moves and each.rewrites:
                raise ValueError(
                    f"{name}: {type(each).__name__} undoes what moves the weights between its steps; wrap an optimizer alone"
                )
            if self.single and type(each) is type(self):
                raise ValueError(f"{name}: there is one inside already; wrap what that one wraps")
        self._optimizer = optimizer
        self._base: Optimizer = optimizer.base if isinstance(optimizer, Wrapper) else optimizer
        # Of one lock with all levels: who is inside one of them keeps others out of all.
        self._guard = _core.Guard(name, optimizer._guard)
        self._arguments = arguments
        vars(self).update(options)
        self._numbers: dict[str, Any] = {}
        self._arrays: dict[str, list[NDArray[Any]]] = {}
        self._passes: dict[str, Any] = {}
        self._tensors = len(self._base._leaves)
        with held, self._guard, Undo([], [self._base]):  # which some change
            self._prepare()
            self._begin()

    def _levels(self) -> Iterator[Wrapper]:
        """Yield this wrapper and those inside."""
        yield self
        if isinstance(self._optimizer, Wrapper):
            yield from self._optimizer._levels()

    def __getattr__(self, key: str) -> Any:
        """Return what the wrapped optimizer has under a name that is none of the wrapper's own."""
        if key.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}")
        return getattr(self._optimizer, key)

    def __setattr__(self, key: str, value: object) -> None:
        """Set an argument of the wrapper, or else a hyper-parameter of the wrapped optimizer."""
        if key.startswith("_") or hasattr(getattr(type(self), key, None), "__set__"):
            super().__setattr__(key, value)
        elif key in self.options:
            name = type(self).__name__
            raise AttributeError(f"{name}: {key} is chosen at construction; make a new {name}")
        else:
            with self._guard:
                setattr(self._optimizer, key, value)

    # ---- what is wrapped -----------------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # for type checkers it is the constructor's first argument

        @property
        def optimizer(self) -> Optimizer | Wrapper:
            """What is wrapped."""
            return self._optimizer

    @property
    def base(self) -> Optimizer:
        """The innermost optimizer."""
        return self._base

    @property
    def params(self) -> Any:
        """The caller's arrays, in the caller's nesting."""
        return self._base.params

    @property
    def t(self) -> int:
        """The number of steps the optimizer has done."""
        return self._base.t

    @property
    def last(self) -> StepInfo | None:
        """What the optimizer's last step did; None before the first."""
        return self._base.last

    @property
    def state(self) -> dict[str, Any]:
        """The live state: the slots of all that is wrapped, and then those of the wrapper.

        Of two slots with one name it has the outer one; `optimizer.state` has the other.
        """
        found: dict[str, Any] = dict(self._optimizer.state)
        for each in self._passes.values():
            found |= each.state
        for name, arrays in self._arrays.items():
            found[name] = self._base._like_params(memory.views(arrays))
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of state, of all levels."""
        own = [array for arrays in self._arrays.values() for array in arrays]
        return int(self._optimizer.nbytes + sum(each.nbytes for each in [*own, *self._passes.values()]))

    # ---- the step ------------------------------------------------------------------------------------------------------

    @uninterrupted
    def step(self, grads: Any, **inputs: Any) -> None:
        """Update the parameters in place, as the wrapper's class says.

        Parameters
        ----------
        grads : array, or nesting of arrays as in `params`
            As for the wrapped optimizer's step.
        **inputs : arrays or numbers
            As for the wrapped optimizer's step.

        Raises
        ------
        TypeError, ValueError, BufferError, FloatingPointError, RuntimeError
            As the wrapped optimizer's step; nothing was changed at any level.
        """
        if grads is None:
            raise TypeError(
                f"{type(self).__name__}: grads is None; pass None in the place of each tensor to be skipped"
            )
        self._require_training()
        self._require_tensors()
        self._advance(grads, **inputs)

    def _require_tensors(self) -> None:
        """Refuse an optimizer that was given further parameters behind the back of what keeps arrays beside them."""
        for each in self._levels():
            if len(self._base._leaves) != each._tensors and (each._arrays or each._passes):
                name = type(each).__name__
                raise RuntimeError(
                    f"{name}: the optimizer has got further parameters since it was wrapped; make a new {name}"
                )

    def _require_own(self) -> None:
        """Refuse what is about the weights of the run while they are not in place."""

    # ---- as of an optimizer --------------------------------------------------------------------------------------------

    @guarded
    def eval(self) -> None:
        """Put the weights to be evaluated into the parameters, as the wrapped optimizer does, until `train`."""
        self._require_own()
        self._optimizer.eval()

    @guarded
    def train(self) -> None:
        """Bring back the weights in training, bit for bit; in training already, do nothing."""
        self._optimizer.train()

    @guarded
    def reset(self) -> None:
        """Forget everything learnt, at every level; parameters, hyper-parameters and arguments stay."""
        self._require_own()
        with held, self._undo():
            self._optimizer.reset()
            self._begin()
            self._taken_over()

    def _undo(self) -> Undo:
        """Return a block whose errors take back what it has changed at any level."""
        optimizers = [self._base, *(each for level in self._levels() for each in level._passes.values())]
        arrays = [array for level in self._levels() for each in level._arrays.values() for array in each]
        arrays += [array for each in optimizers for array in each._state_arrays()]
        return Undo(arrays, [*self._levels(), self._base._clipper, *optimizers])

    @guarded
    def rebind(self, params: trees.Tree) -> None:
        """Step other arrays of the same nesting, shapes and dtypes from now on, with the same state at every level.

        Parameters
        ----------
        params : tree of arrays
            For an optimizer with groups, the list of the groups' trees.
        """
        self._require_own()
        before = self._base._leaves
        with held, self._undo():
            over_parameters = [each for each in self._passes.values() if each._leaves[0] is before[0]]
            self._optimizer.rebind(params)
            for each in over_parameters:
                each.rebind(self._base._tree)
            self._taken_over()

    @guarded
    def add(self, group: Group) -> None:
        """Add a group of parameters, where the wrapper keeps nothing for each of them.

        Parameters
        ----------
        group : Group
            As for the wrapped optimizer.
        """
        self._require_own()
        if self._arrays or self._passes:
            name = type(self).__name__
            raise ValueError(
                f"{name}: it keeps arrays beside the parameters and takes no further group; make a new {name}"
            )
        with held, self._undo():
            self._optimizer.add(group)
            self._taken_over()

    # ---- checkpoints ---------------------------------------------------------------------------------------------------

    @guarded
    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all state: the wrapper's own under "own", that of what it wraps under "optimizer"."""
        return nested.state_dict(self)

    @guarded
    def load_state_dict(self, state: Mapping[str, Any], *, cast: bool = False) -> None:
        """Take over a state dict of the same nesting of wrappers, all levels or none.

        Parameters
        ----------
        state : dict
            From `state_dict`. Copied. Hyper-parameters and arguments that were schedules stay as they are here.
        cast : bool
            Convert state arrays of other dtypes instead of refusing them.

        Raises
        ------
        StateError
            If it does not fit; nothing was changed.
        """
        self._require_training()
        nested.checked(self, state, cast=cast).make()

    @guarded
    def save(self, path: str | os.PathLike[str], *, params: bool = False) -> None:
        """Write a checkpoint of all levels, atomically: to a temporary file, flushed to disk, then renamed.

        Parameters
        ----------
        path : path
            Ends in ``.npz``, or in ``.safetensors`` (needs the extra of that name).
        params : bool
            Write the parameters as well.
        """
        nested.save(nested.state_dict(self), self.base, path, params=params)

    @guarded
    def load(self, path: str | os.PathLike[str], *, cast: bool = False) -> None:
        """Read a checkpoint of `save`; parameters too, in place, if the file holds them.

        Raises
        ------
        CheckpointError
            If the file is damaged; nothing was changed.
        StateError
            If it does not fit; nothing was changed.
        """
        self._require_training()
        nested.load(self, path, cast=cast)

    @guarded
    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and copy keep: the wrapped optimizer, arguments, options and own state."""
        self._require_training()
        return {
            "optimizer": self._optimizer,
            "arguments": self._arguments,
            "options": {key: getattr(self, key) for key in self.options},
            "own": nested.own_state(self),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Wrap the optimizer that came along."""
        self._set(state["optimizer"], dict(state["arguments"]), state["options"])
        nested.checked_own(self, state["own"], self._base._paths).make()

    def __copy__(self) -> Wrapper:
        """Wrap a copy of the optimizer over the same parameters: two wrappers of one optimizer would disturb each other."""
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__() | {"optimizer": copy.copy(self._optimizer)})
        return twin

    def __repr__(self) -> str:
        """Show what is wrapped, the arguments and the options."""
        values = self._arguments | {key: getattr(self, key) for key in self.options}
        return (
            f"{type(self).__name__}({', '.join([repr(self._optimizer), *(f'{k}={v!r}' for k, v in values.items())])})"
        )
