"""State dicts and checkpoints of wrappers: their own state and that of what they wrap, checked together."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from schuss import checkpoint, state
from schuss._core import Undo, publish
from schuss._runtime import held
from schuss.optimizer import Optimizer, StateError

if TYPE_CHECKING:
    from schuss.second_order._base import ClosureOptimizer
    from schuss.wrapper import Wrapper

FORMAT = 1

#: In a file's record, what stands in the place of an array.
_ARRAY = "__array__"


def own_state(wrapper: Wrapper) -> dict[str, Any]:
    """Return a copy of what a wrapper itself keeps."""
    return {
        "arguments": {key: None if callable(value) else value for key, value in wrapper._arguments.items()},
        "numbers": copy.deepcopy(wrapper._numbers),
        "arrays": {name: [array.copy(order="A") for array in arrays] for name, arrays in wrapper._arrays.items()},
        "passes": {name: each.state_dict() for name, each in wrapper._passes.items()},
    }


def state_dict(wrapper: Wrapper) -> dict[str, Any]:
    """Return a copy of the state of a wrapper and of what it wraps."""
    wrapper._require_training()
    return {
        "wrapper": type(wrapper).__name__,
        "format": FORMAT,
        "own": own_state(wrapper),
        "optimizer": wrapper.optimizer.state_dict(),
    }


def checked(wrapper: Wrapper, saved: Mapping[str, Any], *, cast: bool = False) -> state.Change:
    """Check a state dict against a wrapper and all it wraps, and return the change that takes it over."""
    checks = state.Checks(type(wrapper).__name__, saved, cast)
    saved = checks.state
    if "wrapper" not in saved and isinstance(saved.get("optimizer"), str):
        raise checks.fail(
            f"the state is of {state.class_in(saved['optimizer'])} alone; load it into the optimizer, or before wrapping it"
        )
    checks.check_format()
    saved = checks.state
    checks.require_entries(("wrapper", "format", "own", "optimizer"))
    if not isinstance(saved["wrapper"], str) or saved["wrapper"] != checks.name:
        raise checks.fail(f"the state is of {state.class_in(saved['wrapper'])}; load it into a wrapper of that class")
    inner, wrapped = saved["optimizer"], wrapper.optimizer
    checks.require_mapping("optimizer", inner)
    if isinstance(wrapped, Optimizer):
        if "wrapper" in inner:
            raise checks.fail(
                f"the state has {state.class_in(inner['wrapper'])} inside, but here it wraps {type(wrapped).__name__}; "
                "nest the wrappers as they were"
            )
        change = state.checked(wrapped, inner, cast=cast)
    else:
        change = checked(wrapped, inner, cast=cast)
    change += checked_own(wrapper, saved["own"], names_of(inner), cast=cast)
    return change


def names_of(saved: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the tensors, which the innermost state has."""
    while "wrapper" in saved:
        saved = saved["optimizer"]
    names: Sequence[str] = saved["names"]
    return names


def checked_own(wrapper: Wrapper, own: Mapping[str, Any], names: Sequence[str], *, cast: bool = False) -> state.Change:
    """Check what a wrapper itself keeps, and return the change that takes it over."""
    checks = state.Checks(type(wrapper).__name__, {"own": own}, cast)
    own = checks.state["own"]
    checks.require_keys("own part", ("arguments", "numbers", "arrays", "passes"), own)
    for part, expected in {
        "arguments": wrapper.arguments,
        "numbers": wrapper._numbers,
        "arrays": wrapper._arrays,
        "passes": wrapper._passes,
    }.items():
        checks.require_keys(part, expected, own[part])
    arguments = {}
    for key, value in own["arguments"].items():
        try:
            here = wrapper._arguments[key]
            arguments[key] = here if value is None else wrapper.arguments[key].check(checks.name, value)
        except (TypeError, ValueError) as error:
            raise checks.fail(f"the state's arguments are not valid: {error}") from None
    if reason := wrapper._objection_to(own["numbers"]):
        raise checks.fail(f"the state's numbers are not valid: {reason}")
    paths = wrapper.base._paths
    order = state.positions(names, paths)
    writes = [
        write
        for name, targets in wrapper._arrays.items()
        for write in checks.arrays_of_slot(name, own["arrays"][name], targets, order, paths)
    ]
    for name in wrapper._passes:
        checks.require_mapping(f"pass {name}", own["passes"][name])
    passes = [state.checked(each, own["passes"][name], cast=cast) for name, each in wrapper._passes.items()]
    numbers = copy.deepcopy(dict(own["numbers"]))

    def act() -> None:
        wrapper._arguments = arguments
        wrapper._numbers = numbers
        wrapper._taken_over()

    change = state.Change([wrapper], [act])
    for target, source in writes:
        change.write(target, source)
    for each in passes:
        change += each
    return change


def like(value: object, example: object) -> bool:
    """Tell whether a saved number, or list of numbers, may stand for the present one: counts are not negative."""
    if isinstance(example, list):
        return isinstance(value, list) and all(type(each) is float for each in value)
    if type(value) is not type(example):
        return False
    return not isinstance(value, int | float) or (0 <= value < 2**62 if isinstance(value, int) else value == value)


def save(saved: Mapping[str, Any], base: Optimizer, path: str | os.PathLike[str], *, params: bool) -> None:
    """Write a state dict that has arrays at any place, and the parameters of an optimizer if they are wanted."""
    arrays: dict[str, NDArray[Any]] = {}
    header = _packed(saved, "", arrays)
    if params:
        arrays |= state.copies_of(base._leaves)
    checkpoint.write(path, arrays, header | {"params": params})


def read(
    target: Wrapper | ClosureOptimizer, kind: str, path: str | os.PathLike[str]
) -> tuple[dict[str, Any], list[NDArray[Any]] | None, dict[str, NDArray[Any]]]:
    """Return the state in a checkpoint, the parameters (None where it holds none), and other arrays; none is checked yet."""
    arrays, header = checkpoint.read(path)
    name = type(target).__name__
    try:
        with_params = header.pop("params")
        saved = {key: _unpacked(value, arrays) for key, value in header.items()}
        stored = [arrays.pop(f"param.{i}") for i in range(len(names_of(saved)))] if with_params else None
    except (KeyError, TypeError, IndexError) as error:
        raise StateError(f"{name}: {os.fspath(path)} holds no state of {kind} ({str(error)[:40]} is missing)") from None
    return saved, stored, arrays


def load(wrapper: Wrapper, path: str | os.PathLike[str], *, cast: bool) -> None:
    """Read a checkpoint of all levels."""
    base = wrapper.base
    saved, stored, others = read(wrapper, "a wrapper", path)
    change = checked(wrapper, saved, cast=cast)
    state.require_empty(type(wrapper).__name__, others, path)
    values = state.checked_params(base, stored, names_of(saved), path)
    for leaf, source in zip(base._leaves, values, strict=False):
        change.write(leaf, source)
    change.make()


def _packed(value: Any, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """Move arrays out of a nesting of dicts and lists, named by their place in it."""
    if isinstance(value, dict):
        return {key: _packed(each, f"{path}.{key}" if path else key, arrays) for key, each in value.items()}
    if isinstance(value, list):
        return [_packed(each, f"{path}.{i}", arrays) for i, each in enumerate(value)]
    if hasattr(value, "__array__"):
        arrays[path] = value
        return {_ARRAY: path}
    return value


def _unpacked(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Bring arrays back to their places."""
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return arrays.pop(value[_ARRAY])
        return {key: _unpacked(each, arrays) for key, each in value.items()}
    if isinstance(value, list):
        return [_unpacked(each, arrays) for each in value]
    return value


class Snapshot:
    """A copy of all that steps of an optimizer or a wrapper change: parameters, and state at every level."""

    def __init__(self, target: Optimizer | Wrapper) -> None:
        self._wrappers = []
        arrays: list[NDArray[Any]] = []
        while not isinstance(target, Optimizer):
            self._wrappers.append((target, copy.deepcopy(target._numbers)))
            arrays += [array for each in target._arrays.values() for array in each]
            arrays += [array for each in target._passes.values() for array in each._state_arrays()]
            target = target.optimizer
        arrays += [*target._leaves, *target._state_arrays()]
        self._optimizer = target
        # What clips have learnt is replaced at a step, never written to.
        self._learnt = target._clipper.states
        self._copies = [(array, array.copy(order="K")) for array in arrays]

    @property
    def nbytes(self) -> int:
        """Bytes of the copy."""
        return sum(kept.nbytes for _, kept in self._copies)

    def restore(self) -> None:
        """Bring back what was copied."""
        clipper = self._optimizer._clipper
        with held, Undo([], [clipper, *(wrapper for wrapper, _ in self._wrappers)]):
            for wrapper, numbers in self._wrappers:
                wrapper._numbers = numbers
                wrapper._taken_over()
            clipper.states = self._learnt
            publish(self._copies, [])
