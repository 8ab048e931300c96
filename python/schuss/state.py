"""State dicts and checkpoints of optimizers: what is in them, and what is checked before anything is touched."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schuss import _core, checkpoint, memory
from schuss._core import Undo, publish
from schuss._runtime import held
from schuss.hyperparameters import as_float
from schuss.optimizer import StateError

if TYPE_CHECKING:
    from schuss.clipping import Clip, Clipper
    from schuss.optimizer import Optimizer
    from schuss.second_order._base import ClosureOptimizer

_DEPTH_LIMIT = 64  # of a state dict; those of the deepest wrappers have a dozen levels
_INT_BITS = 4096  # of integers in it; Python prints no more than 4300 digits
_MESSAGE = 400  # characters of a sentence about a state, which may quote anything


def with_control(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Bring a state from format 1, whose number stayed while hyper-parameters and control were added.

    Control came later, at first with clips that had no names and with fewer schedules. Hyper-parameters that are missing
    have their defaults, with which their class does what it did before.
    """
    if isinstance(groups := state.get("groups"), list) and all(isinstance(group, dict) for group in groups):
        defaults = {key: each.default for key, each in optimizer.hyperparameters.items()}
        state = state | {"groups": [defaults | group for group in groups]}
    nothing = {"skips": [0, 0], "clips": {}, "schedules": []}
    control = state.get("control", nothing)
    if isinstance(control, dict) and control.keys() == nothing.keys():
        clips, schedules = control["clips"], control["schedules"]
        if isinstance(clips, list):
            clips = dict(zip(clips_that_learn(optimizer._clipper), [each for each in clips if each], strict=False))
        if isinstance(schedules, list):
            schedules = schedules + [{}] * (len(optimizer._groups) + 1 - len(schedules))
        control = control | {"clips": clips, "schedules": schedules}
    return state | {"control": control}


#: What brings a state to the next format, that of format 1 first. A change of what is in a state appends a function here,
#: and files of the format before to tests/data.
MIGRATIONS: tuple[Callable[[Any, dict[str, Any]], dict[str, Any]], ...] = (with_control,)
FORMAT = 1 + len(MIGRATIONS)


def state_dict(optimizer: Optimizer) -> dict[str, Any]:
    """Return a copy of an optimizer's state."""
    optimizer._require_training()
    return {
        "format": FORMAT,
        "schuss": _core.__version__,
        "optimizer": type(optimizer).__name__,
        "t": optimizer.t,
        "counts": [int(count) for count in optimizer._counts[:-1]],
        "names": list(optimizer._paths),
        "groups": [{k: None if callable(v) else v for k, v in group.items()} for group in optimizer._groups],
        "slots": {
            name: [None if array is None else array.copy(order="A") for array in arrays]
            for name, arrays in zip(optimizer._element_slots, optimizer._slots, strict=True)
            if name is not None
        },
        "scalars": {name: optimizer._scalars[:, j].copy() for j, name in enumerate(optimizer._scalar_slots)},
        "control": {
            "skips": optimizer._skips.tolist(),
            "clips": {
                name: {key: each.tolist() for key, each in state.items()}
                for name, (_, state) in clips_that_learn(optimizer._clipper).items()
            },
            "schedules": [learnt(each) for each in (*optimizer._groups, schedules_around(optimizer))],
        },
    }


def clips_that_learn(clipper: Clipper) -> dict[str, tuple[Clip, dict[str, NDArray[np.float64]]]]:
    """Return the clips that have a state, and it, by their classes' names, numbered where there are several of one."""
    found: dict[str, tuple[Clip, dict[str, NDArray[np.float64]]]] = {}
    for clip, state in zip(clipper.clips, clipper.states, strict=True):
        name = type(clip).__name__
        if state:
            found[name if name not in found else f"{name} {len(found) + 1}"] = clip, state
    return found


def numbers_of(value: Any) -> NDArray[np.float64]:
    """Return a list or vector of numbers as an array; anything else as an empty one."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.ndim == 1:
        return value.astype(np.float64)
    valid = isinstance(value, list) and all(type(each) in (int, float) for each in value)
    return np.array([as_float(each) for each in value] if valid else [], np.float64)


def schedules_around(optimizer: Optimizer) -> dict[str, Any]:
    """Return the schedules of clips, noise and decay by name."""
    named: dict[str, Any] = {f"clip {i}": clip for i, clip in enumerate(optimizer._clipper.clips)}
    named |= {"noise": optimizer.noise, "decay": optimizer.decay}
    fields = {
        f"{name} {key}": value for name, each in named.items() if each is not None for key, value in vars(each).items()
    }
    return {key: value for key, value in fields.items() if callable(value)}


def learnt(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the schedules of a group have learnt, of those that are more than functions of the step."""
    found = {key: each.state_dict() for key, each in group.items() if is_stateful(each)}
    return {key: state for key, state in found.items() if state}


def is_stateful(schedule: Any) -> bool:
    """Tell whether a schedule is more than a function of the step."""
    return callable(schedule) and hasattr(schedule, "state_dict")


def load_state_dict(optimizer: Optimizer, state: Mapping[str, Any], *, cast: bool = False) -> None:
    """Check a state dict against an optimizer, then take it over."""
    checked(optimizer, state, cast=cast).make()


@dataclass
class Change:
    """What a load has checked and is about to change: objects, and then arrays and the values of plans."""

    objects: list[Any]
    acts: list[Callable[[], None]]
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def write(self, target: NDArray[Any], source: Any) -> None:
        """Let an array be written."""
        self.pairs.append((target, memory.in_the_place_of(target, source)))

    def __iadd__(self, other: Change) -> Change:
        """Let another change be a part of this one."""
        self.objects += other.objects
        self.acts += other.acts
        self.pairs += other.pairs
        self.values += other.values
        return self

    def make(self) -> None:
        """Change all, or nothing."""
        with held, Undo([], self.objects):
            for act in self.acts:
                act()
            publish(self.pairs, self.values)


def checked(optimizer: Optimizer, state: Mapping[str, Any], *, cast: bool = False) -> Change:
    """Check a state dict against an optimizer, and return the change that takes it over."""
    optimizer._require_training()
    return _Loader(optimizer, state, cast).checked()


class Checks:
    """What a load checks of a state dict, for optimizers and wrappers."""

    def __init__(self, name: str, state: Mapping[str, Any], cast: bool = False, *, foreign: bool = False) -> None:
        self.name, self.cast = name, cast
        if not issubclass(type(state), Mapping):  # which does not ask the state itself
            raise TypeError(f"{name}: state must be a dict from state_dict(), got {type(state).__name__}")
        self.state: dict[str, Any] = self.plain(state, "state", 0, foreign=foreign)

    def fail(self, sentence: str) -> StateError:
        """Return the error, which names the class."""
        sentence = " ".join(sentence.splitlines())
        if len(sentence) > _MESSAGE:
            sentence = f"{sentence[: _MESSAGE - 100]} ... {sentence[-90:]}"
        return StateError(f"{self.name}: {sentence}")

    def plain(self, value: Any, where: str, depth: int, *, foreign: bool = False) -> Any:
        """Return a copy whose dicts, lists and values are Python's own, and arrays NumPy's: nothing else is asked anything.

        States of schedules may be foreign: what a caller's own schedule keeps.
        """
        kind = type(value)
        if kind in (str, float, bool, type(None)) or (kind is int and value.bit_length() <= _INT_BITS):
            return value
        if issubclass(kind, np.generic):
            return value
        if issubclass(kind, np.ndarray) and not issubclass(kind, np.ma.MaskedArray):
            return np.ndarray.view(value, np.ndarray)  # not by the method of a subclass
        if depth > _DEPTH_LIMIT:
            raise self.fail(f"the {where} is nested deeper than {_DEPTH_LIMIT} levels; pass a dict from state_dict()")
        if issubclass(kind, list | tuple):
            items = list.__iter__(value) if issubclass(kind, list) else tuple.__iter__(value)
            return [self.plain(each, f"{where}[{i}]", depth + 1, foreign=foreign) for i, each in enumerate(items)]
        if issubclass(kind, Mapping):
            copied = {}
            for key, each in dict.items(value) if issubclass(kind, dict) else self.items(value, where):
                if type(key) not in (str, int, float, bool, type(None)):
                    raise self.fail(f"the {where} has a {type(key).__name__} as a key; pass a dict from state_dict()")
                inside = f"{where}[{key!r:.40}]"
                copied[key] = self.plain(each, inside, depth + 1, foreign=foreign or key == "schedules")
            return copied
        if foreign:
            return value
        raise self.fail(f"the {where} is of type {kind.__name__}; pass a dict from state_dict()")

    def items(self, value: Mapping[Any, Any], where: str) -> list[tuple[Any, Any]]:
        """Return the items of what only behaves like a dict."""
        try:
            return list(dict(value).items())
        except Exception as error:
            raise self.fail(f"the {where} cannot be read ({error!r:.100}); pass a dict from state_dict()") from error

    def check_class(self) -> None:
        """Refuse the state of another class, whose entries would be strange."""
        other = self.state.get("optimizer", self.name)
        if not isinstance(other, str) or other != self.name:
            raise self.fail(f"the state is of {class_in(other)}; load it into an optimizer of that class")

    def check_format(
        self, target: Any = None, migrations: Sequence[Callable[[Any, dict[str, Any]], dict[str, Any]]] = ()
    ) -> None:
        """Bring the state to the present format, or refuse one that is newer."""
        newest = 1 + len(migrations)
        number = self.state.get("format", newest)  # that there is none, is for the check of keys to say
        if type(number) is not int or number < 1:
            raise self.fail(
                f"the state has format {number!r:.40}, which there is none of; pass a dict from state_dict()"
            )
        if number > newest:
            older = " and older" if migrations else ""
            raise self.fail(
                f"the state has format {number!r:.40}, but this version reads format {newest}{older}; update schuss"
            )
        for migrate in migrations[number - 1 :]:
            self.state = migrate(target, self.state)
        if number != newest:
            self.state["format"] = newest

    def require_entries(self, entries: Collection[str]) -> None:
        """Refuse a state of other entries."""
        what, got = "pass a dict from state_dict()", set(self.state)
        if missing := sorted(set(entries) - got):
            raise self.fail(f"the state has no {', '.join(missing)}; {what}")
        if unknown := sorted(map(str, got - set(entries))):
            raise self.fail(f"the state has unknown entries {', '.join(unknown)}; {what}")

    def require_mapping(self, what: str, got: Any) -> None:
        """Refuse a part of the state that is no dict."""
        if not issubclass(type(got), Mapping):
            raise self.fail(f"the state's {what} must be a dict, got {type(got).__name__}")

    def require_keys(self, what: str, expected: Any, got: Any) -> None:
        """Refuse a part of the state with other keys."""
        self.require_mapping(what, got)
        missing, unknown = sorted(set(expected) - set(got)), sorted(map(str, set(got) - set(expected)))
        if missing or unknown:
            parts = [f"no {', '.join(missing)}"] if missing else []
            parts += [f"unknown {', '.join(unknown)}"] if unknown else []
            raise self.fail(
                f"the state has {' and '.join(parts)} in its {what}; make the optimizer with the options it was saved with"
            )

    def arrays_of_slot(
        self, name: str, sources: Any, targets: Sequence[NDArray[Any]], order: Sequence[int], paths: Sequence[str]
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Return targets with what is to be written into them; `order` says where each tensor is in the state."""
        if not isinstance(sources, list | tuple):
            raise self.fail(f"slot {name} of the state must be a list of arrays, got {type(sources).__name__}")
        if len(sources) != len(order):
            raise self.fail(f"slot {name} of the state has {len(sources)} arrays, but there are {len(order)} tensors")
        writes = []
        for i, target in enumerate(targets):
            what = f"slot {name} of params{paths[i]}"
            if (sources[order[i]] is None) != (target is None):
                here, there = ("no array", "one") if target is None else ("an array", "none")
                raise self.fail(f"{what} has {there} in the state, but {here} here; make the optimizer as it was saved")
            if target is None:
                continue
            source = self.array(what, sources[order[i]])
            if source.shape != target.shape:
                raise self.fail(f"{what} has shape {source.shape} in the state, but {target.shape} here")
            writes.append((target, self.converted(what, source, target.dtype)))
        return writes

    def array(self, what: str, value: Any) -> NDArray[Any]:
        """Return what must be an array; from lists, NumPy would make arrays larger than they are."""
        if not isinstance(value, np.ndarray | np.generic):
            raise self.fail(f"{what} must be an array in the state, got {type(value).__name__}")
        return np.asarray(value)

    def converted(self, what: str, source: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array in the dtype that it has here."""
        from schuss.reference import rounded, widened

        if source.dtype == dtype:
            return source
        if not self.cast:
            raise self.fail(
                f"{what} has dtype {source.dtype} in the state, but {dtype} here; pass cast=True to convert"
            )
        if not memory.is_steppable(source) or dtype.kind == "c" or source.dtype.kind == "c":
            raise self.fail(f"{what} has dtype {source.dtype} in the state, which cannot be converted to {dtype}")
        return rounded(np.ascontiguousarray(widened(source, np.float64)), dtype)


class _Loader(Checks):
    """One load: everything is checked and converted before the first byte is written."""

    def __init__(self, optimizer: Optimizer, state: Mapping[str, Any], cast: bool) -> None:
        super().__init__(type(optimizer).__name__, state, cast)
        self.optimizer = optimizer

    def checked(self) -> Change:
        optimizer = self.optimizer
        self.check_header()
        order = self.order_of_tensors()
        groups = self.groups()
        counts = self.counts(order)
        writes = [*self.element_slots(order), *self.scalar_slots(order)]
        skips, clips, schedules = self.control(order, groups)
        present = [
            group | {key: each for key, (each, _) in own.items()} for group, own in zip(groups, schedules, strict=False)
        ]
        before, optimizer._groups = optimizer._groups, present
        try:
            values = optimizer._values_at(int(counts[-1]))
            stages = optimizer._stages_at(int(counts[-1]), values)
        finally:
            optimizer._groups = before
        learning = [
            (group[key], learnt)
            for group, own in zip([*groups, schedules_around(optimizer)], schedules, strict=True)
            for key, (_, learnt) in own.items()
        ]
        same = {key: value for key, value in groups[0].items() if all(g[key] == value for g in groups)}

        def act() -> None:
            optimizer._keep_last()
            optimizer._groups = groups
            optimizer._clipper.states = clips
            for schedule, learnt in learning:
                schedule.load_state_dict(learnt)
            optimizer._defaults = optimizer._defaults | same

        own = [schedule for schedule, _ in learning if hasattr(schedule, "__dict__")]  # others may have slots
        change = Change([optimizer, optimizer._clipper, *own], [act])
        change.values.append(optimizer._handed_over(values, *stages))
        for target, source in [*writes, (optimizer._counts, counts), (optimizer._skips, np.array(skips, np.int64))]:
            change.write(target, source)
        return change

    def check_header(self) -> None:
        state = self.state
        keys = {"format", "schuss", "optimizer", "t", "counts", "names", "groups", "slots", "scalars", "control"}
        if isinstance(outer := state.get("wrapper"), str):
            raise self.fail(f"the state {of_wrapper(outer)}")
        self.check_class()
        self.check_format(self.optimizer, MIGRATIONS)
        state = self.state
        self.require_entries(keys)
        for key, kind in {"names": str, "groups": Mapping}.items():
            if not isinstance(state[key], list) or not all(isinstance(each, kind) for each in state[key]):
                raise self.fail(f"the state's {key} are not valid; pass a dict from state_dict()")

    def order_of_tensors(self) -> list[int]:
        """Return where in the state each of our tensors is."""
        theirs, ours = list(self.state["names"]), self.optimizer._paths
        if sorted(theirs) != sorted(ours):
            missing, unknown = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
            parts = [f"has no params{', params'.join(missing)}"] if missing else []
            parts += [f"has params{', params'.join(unknown)} besides"] if unknown else []
            raise self.fail(f"the state {' and '.join(parts)}; load it over the parameters it was saved from")
        return positions(theirs, ours)

    def slots_of_file(self) -> tuple[list[str], list[str]]:
        """Return the names of the slots in a file, which are ours: a hostile file could name many, for many tensors."""
        found = []
        for key, expected in (("slots", self.optimizer._element_slots), ("scalars", self.optimizer._scalar_slots)):
            names = self.state[key]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise self.fail(f"the state's {key} are not valid; pass a dict from state_dict()")
            self.require_keys(key, [name for name in expected if name], dict.fromkeys(names))
            found.append(names)
        return found[0], found[1]

    def groups(self) -> list[dict[str, Any]]:
        groups = self.state["groups"]
        optimizer = self.optimizer
        if len(groups) != len(optimizer._groups):
            raise self.fail(f"the state has {len(groups)} groups, but the optimizer has {len(optimizer._groups)}")
        loaded = []
        for k, (theirs, ours) in enumerate(zip(groups, optimizer._groups, strict=True)):
            if set(theirs) != set(ours):
                odd = ", ".join(sorted(map(str, set(theirs) ^ set(ours))))
                raise self.fail(f"group {k} of the state differs in the hyper-parameters it names ({odd})")
            values = {}
            for key, value in theirs.items():
                try:
                    values[key] = ours[key] if value is None else optimizer.hyperparameters[key].check(self.name, value)
                except (TypeError, ValueError) as error:
                    raise self.fail(f"group {k} of the state is not valid: {error}") from None
            loaded.append(values)
            for key in optimizer._compiled()["flags"]:
                if optimizer.hyperparameters[key].domain.switch and values[key] != ours[key]:
                    raise self.fail(
                        f"the state was saved with {key}={values[key]}, but the optimizer was made with {key}={ours[key]}; "
                        "make it with the options it was saved with"
                    )
        try:
            flags = optimizer._flags_of(loaded)
        except ValueError as error:
            raise self.fail(f"the groups of the state are not valid: {error}") from None
        if flags | optimizer._flags != optimizer._flags:
            raise self.fail("the state was saved with options that this optimizer was made without; make it with them")
        return loaded

    def counts(self, order: list[int]) -> NDArray[np.int64]:
        counts, t = self.state["counts"], self.state["t"]
        valid = (
            isinstance(counts, list | tuple)
            and len(counts) == len(order)
            and all(type(c) is int and 0 <= c < 2**62 for c in [*counts, t])
        )
        if not valid:
            raise self.fail("the state's step counts are not valid; there must be one whole number per tensor")
        return np.array([*(counts[i] for i in order), t], np.int64)

    def control(
        self, order: list[int], groups: list[dict[str, Any]]
    ) -> tuple[list[int], list[dict[str, NDArray[np.float64]]], list[dict[str, tuple[Any, Any]]]]:
        """Return skipped steps, what clips have learnt, and copies of stateful schedules with what they are to learn.

        The last of these are those around the rule; the others are the groups'.
        """
        optimizer, control = self.optimizer, self.state["control"]
        self.require_keys("control", ("skips", "clips", "schedules"), control)
        skips = control["skips"]
        if not (
            isinstance(skips, list | tuple)
            and len(skips) == 2
            and all(type(n) is int and 0 <= n < 2**62 for n in skips)
        ):
            raise self.fail("the state's counts of skipped steps are not valid; there must be two whole numbers")
        clipper, learnt = optimizer._new_clipper(), control["clips"]
        if not isinstance(learnt, Mapping) or not all(isinstance(each, Mapping) for each in learnt.values()):
            raise self.fail("the state's clips are not valid; pass a dict from state_dict()")
        for name, (clip, ours) in clips_that_learn(clipper).items():
            if name not in learnt:  # it begins here
                continue
            self.require_keys(name, ours, learnt[name])
            for key, array in ours.items():
                source = numbers_of(learnt[name][key])
                if source.shape != array.shape or np.isnan(source).any():
                    raise self.fail(
                        f"the state's {key} of {name} must be {len(array)} numbers; make the optimizer with the clips it was "
                        "saved with"
                    )
                array[...] = source[order] if key in clip.by_tensor else source
            if not clip.may_know(ours):
                raise self.fail(f"the state of {name} is none that steps lead to; restore it from a copy")
        groups = [*groups, schedules_around(optimizer)]
        if not isinstance(control["schedules"], list | tuple) or len(control["schedules"]) != len(groups):
            raise self.fail("the state's schedules are not valid; pass a dict from state_dict()")
        schedules = []
        for group, known in zip(groups, control["schedules"], strict=True):
            if not isinstance(known, Mapping):
                raise self.fail("the state's schedules are not valid; pass a dict from state_dict()")
            # What is no such schedule here stays as it is.
            copies = {key: copy.deepcopy(group[key]) for key in known if is_stateful(group.get(key))}
            for key, each in copies.items():
                try:
                    each.load_state_dict(known[key])
                except (TypeError, ValueError) as error:
                    raise self.fail(f"the state of the schedule of {key} does not fit: {error}") from None
            schedules.append({key: (each, known[key]) for key, each in copies.items()})
        return list(skips), clipper.states, schedules

    def element_slots(self, order: list[int]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        optimizer = self.optimizer
        expected = {name: slot for name, slot in zip(optimizer._element_slots, optimizer._slots, strict=True) if name}
        self.require_keys("slots", expected, self.state["slots"])
        writes = []
        for name, targets in expected.items():
            sources = self.state["slots"][name]
            writes += self.arrays_of_slot(name, sources, targets, order, optimizer._paths)
        return writes

    def scalar_slots(self, order: list[int]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        optimizer = self.optimizer
        self.require_keys("scalars", optimizer._scalar_slots, self.state["scalars"])
        rows = np.arange(len(optimizer._scalars))
        if optimizer._kernel()["scope"] != "all" and order != sorted(order):
            lengths = [0] * len(order)
            for mine, their in enumerate(order):
                lengths[their] = optimizer._units[mine]
            starts = np.cumsum([0, *lengths])
            rows = np.concatenate([np.arange(starts[their], starts[their + 1]) for their in order])
        scalars = optimizer._scalars.copy()
        for j, name in enumerate(optimizer._scalar_slots):
            source = self.array(f"slot {name}", self.state["scalars"][name])
            if source.shape != rows.shape:
                raise self.fail(f"slot {name} has shape {source.shape} in the state, but {rows.shape} here")
            scalars[:, j] = self.converted(f"slot {name}", source, np.dtype(np.float64))[rows]
        return [(optimizer._scalars, scalars)]


def positions(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """Return where in the state each of our tensors is."""
    where = {name: i for i, name in enumerate(theirs)}
    return [where[name] for name in ours]


def save(optimizer: Optimizer, path: str | os.PathLike[str], *, params: bool) -> None:
    """Write a checkpoint."""
    arrays: dict[str, NDArray[Any]] = {}
    state = state_dict(optimizer)
    if params:
        arrays |= copies_of(optimizer._leaves)
    for name, slot in state["slots"].items():
        arrays |= {f"slot.{name}.{i}": array for i, array in enumerate(slot) if array is not None}
    arrays |= {f"scalar.{name}": values for name, values in state["scalars"].items()}
    header = {key: value for key, value in state.items() if key not in ("slots", "scalars")}
    header |= {"slots": list(state["slots"]), "scalars": list(state["scalars"]), "params": params}
    checkpoint.write(path, arrays, header)


def copies_of(leaves: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the parameters of a file. They may change while it is written, but must not in the file."""
    return {f"param.{i}": leaf.copy(order="A") for i, leaf in enumerate(leaves)}


def class_in(value: object) -> str:
    """Return a class's name as a state has it; what is no name, as Python writes it."""
    return f"{value:.40}" if isinstance(value, str) and value.isidentifier() else f"{value!r:.40}"


def of_wrapper(outer: str) -> str:
    """Say what is wrong with a wrapper's state where an optimizer's is wanted."""
    return f"is of {class_in(outer)} around an optimizer; load it into the same wrappers"


def load(optimizer: Optimizer, path: str | os.PathLike[str], *, cast: bool) -> None:
    """Read a checkpoint."""
    arrays, header = checkpoint.read(path)
    name = type(optimizer).__name__
    if isinstance(outer := header.get("wrapper"), str):
        raise StateError(f"{name}: {os.fspath(path)} {of_wrapper(outer)}")
    try:
        with_params = header.pop("params")
        loader = _Loader(optimizer, header, cast)
        loader.check_header()
        loader.order_of_tensors()
        names, (slots, scalars) = header["names"], loader.slots_of_file()
        state = loader.state | {
            "slots": {slot: [arrays.pop(f"slot.{slot}.{i}", None) for i in range(len(names))] for slot in slots},
            "scalars": {slot: arrays.pop(f"scalar.{slot}") for slot in scalars},
        }
        stored = [arrays.pop(f"param.{i}") for i in range(len(names))] if with_params else None
    except KeyError as error:
        raise StateError(f"{name}: {os.fspath(path)} holds no optimizer state ({error} is missing)") from None
    require_empty(name, arrays, path)
    values = checked_params(optimizer, stored, names, path)
    change = checked(optimizer, state, cast=cast)
    for leaf, source in zip(optimizer._leaves, values, strict=False):
        change.write(leaf, source)
    change.make()


def require_empty(name: str, arrays: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Refuse arrays of a file that are nothing of the state."""
    if arrays:
        raise StateError(
            f"{name}: {os.fspath(path)} has an unknown array {min(arrays)!r:.40}; load it with the version that saved it"
        )


def checked_params(
    optimizer: Optimizer | ClosureOptimizer,
    stored: Sequence[NDArray[Any]] | None,
    names: Sequence[str],
    path: str | os.PathLike[str],
) -> list[NDArray[Any]]:
    """Return what a checkpoint's parameters are for each of the optimizer's, none where it holds none."""
    if stored is None:
        return []
    name, values = type(optimizer).__name__, []
    order = positions(names, optimizer._paths)
    for where, leaf, i in zip(optimizer._paths, optimizer._leaves, order, strict=True):
        source = stored[i]
        if source.shape != leaf.shape or source.dtype != leaf.dtype:
            raise StateError(
                f"{name}: params{where} is {source.dtype} {source.shape} in {os.fspath(path)}, but "
                f"{leaf.dtype} {leaf.shape} here; load it over the parameters it was saved from"
            )
        if not leaf.flags.writeable:
            raise BufferError(f"{name}: params{where} has become read-only; make it writeable again")
        values.append(source)
    return values
