"""States and files made to do harm: one error, nothing changed, and no more work or memory than they are worth."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import itertools
import json
import math
import re
import sys
import tracemalloc
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CLASSES, inputs_for, tries
from wrapping import ARGUMENTS, WRAPPERS

import schuss
from schuss import checkpoint, trees


def params() -> dict[str, Any]:
    return {"w": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.ones(2)}


def doubled(target: Any) -> Any:
    return trees.map_leaves(lambda leaf: leaf * 2, target.params)


def step(target: Any) -> None:
    grads = doubled(target)
    if not hasattr(target, "evaluations"):
        base = target
        while isinstance(base, schuss.Wrapper):
            base = base.optimizer
        target.step(grads, **inputs_for(base, grads, np.random.default_rng(0)))
    elif "residuals" in target.returns:
        target.step(lambda: (np.concatenate([p.ravel() for p in target.params.values()]), jacobian(target.params)))
    elif isinstance(target, schuss.NewtonCG):
        target.step(lambda: (square_of(target.params), grads), hvp=lambda v: trees.map_leaves(lambda leaf: leaf * 2, v))
    else:
        target.step(lambda: (square_of(target.params), grads))


def square_of(tree: dict[str, Any]) -> float:
    return sum(float((leaf**2).sum()) for leaf in tree.values())


def jacobian(tree: dict[str, Any]) -> dict[str, Any]:
    size, start, found = sum(leaf.size for leaf in tree.values()), 0, {}
    for name, leaf in tree.items():
        found[name] = np.eye(size)[:, start : start + leaf.size].reshape(size, *leaf.shape)
        start += leaf.size
    return found


def state_and_params(target: Any) -> str:
    """Return all that a load may change, exactly."""
    groups = [{**group} for group in getattr(target, "groups", [])]
    return json.dumps([target.state_dict(), getattr(target, "params", None), groups], default=exactly)


def exactly(value: Any) -> str:
    return value.tobytes().hex() if isinstance(value, np.ndarray) else repr(value)


def builders() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield how to make everything with a state."""

    def around(wrapper: Any) -> Any:
        inside = schuss.AdamW(params(), lr=0.125, nonfinite="skip")
        return wrapper(inside, **ARGUMENTS.get(wrapper.__name__, {}))

    options: dict[str, Any] = {"clip": [schuss.AutoClip(window=3), schuss.AdaGC()]}
    plateau = schuss.schedules.Plateau
    yield from ((cls.__name__, lambda cls=cls: cls(params())) for cls in CLASSES)  # type: ignore[misc]
    yield from ((cls.__name__, lambda cls=cls: around(cls)) for cls in WRAPPERS)  # type: ignore[misc]
    yield from ((name, lambda cls=cls: cls(params())) for name, cls in schuss.closure_optimizers().items())  # type: ignore[misc]
    yield "Lookahead(EMA)", lambda: schuss.Lookahead(schuss.EMA(schuss.AdamW(params(), lr=0.125)))
    yield "Adam with all that learns", lambda: schuss.Adam(params(), lr=plateau(0.5), **options)
    yield "Plateau", lambda: plateau(0.5)
    yield "chain", lambda: schuss.schedules.chain(plateau(0.5), plateau(0.25))
    yield "GradientNoiseScale", lambda: schuss.GradientNoiseScale(8)


HOLDERS = dict(builders())


@functools.cache
def holder_of(name: str) -> Any:
    """Return what has a state, after some steps."""
    made = HOLDERS[name]()
    for _ in range(3 if hasattr(made, "step") else 0):
        with made.perturbed(doubled(made)) if hasattr(made, "perturbed") else contextlib.nullcontext():
            pass
        step(made)
    return made


# ---- what a state may be made of


class Raises:
    """Answers no question."""

    def _raise(self, *_: Any) -> Any:
        raise KeyError("a trap")

    __eq__ = __ne__ = __lt__ = __len__ = __bool__ = __iter__ = __repr__ = __str__ = __float__ = __int__ = _raise
    __getitem__ = __contains__ = __index__ = __array__ = __call__ = __deepcopy__ = __reduce_ex__ = __format__ = _raise
    __hash__ = object.__hash__


class Lies(dict):  # type: ignore[type-arg]
    """A dict that says something else of itself."""

    def _raise(self, *_: Any) -> Any:
        raise KeyError("a trap")

    items = keys = values = get = __getitem__ = __iter__ = __len__ = __contains__ = __eq__ = _raise


class Forever(list):  # type: ignore[type-arg]
    """A list without an end."""

    def __iter__(self) -> Iterator[Any]:
        return itertools.count()

    def __len__(self) -> int:
        return 2


class Text(str):
    def __eq__(self, other: object) -> bool:
        raise KeyError("a trap")

    __hash__ = str.__hash__


class Number(int):
    def __le__(self, other: object) -> bool:
        raise KeyError("a trap")

    __lt__ = __ge__ = __gt__ = __le__


class Array(np.ndarray):
    def __getattribute__(self, name: str) -> Any:
        raise KeyError("a trap")


class Loop(UserDict):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        raise KeyError("a trap")


def nested(depth: int) -> Any:
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


def circular() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


RUBBISH: list[Callable[[], Any]] = [
    *(Raises, Lies, Forever, Loop, circular, object, lambda: Text("x"), lambda: Number(3), lambda: {Raises(): 1}),
    *(lambda: Lies({"a": 1}), lambda: {Text("w"): 1}, lambda: np.zeros(2).view(Array), lambda: [Raises(), Raises()]),
    *(lambda depth=depth: nested(depth) for depth in (3, 70, 3000, 100_000)),
    *(
        lambda value=value: copy.deepcopy(value) if isinstance(value, list | dict) else value
        for value in (
            *(None, True, 0, 1, -1, 3, 2**31, 2**53, 2**62, 2**63, 10**400, -(10**5000), 10**5000),
            *(0.0, 0.5, -0.5, 1e308, math.nan, math.inf, -math.inf, "", "x", "lr", "a\nb", "x" * 10_000, b"x", 1j),
            *([], {}, (), set(), [None], [[1], 2], ["", "x" * 10_000], {"a": 1}, {1: 2}, {None: None}, range(3)),
            *(np.float64(0.5), np.float32(math.nan), np.int64(3), np.bool_(True), np.str_("x"), np.datetime64("now")),
            *(np.zeros(0), np.zeros(2), np.zeros((2, 3)), np.zeros((2, 3), np.float32), np.zeros((2, 3), ">f8")),
            *(
                np.zeros((2, 3), object),
                np.ma.zeros((2, 3)),
                np.zeros((10**15, 0)),
                np.zeros((2, 3), "M8[s]"),
                np.zeros(()),
            ),
            *(np.broadcast_to(np.zeros(()), (10**6, 10**6)), np.full((2, 3), np.nan), np.zeros(2, "f8,f8"), len, int),
        )
        for value in [value]
    ),
]


def places(state: Any) -> list[tuple[Any, Any]]:
    """Return all that can be replaced in a state: dicts and lists with a key."""
    found, pending = [], [state]
    while pending:
        parent = pending.pop()
        keys = [*parent] if type(parent) is dict else range(len(parent)) if type(parent) is list else []
        found += [(parent, key) for key in keys]
        pending += [parent[key] for key in keys if len(found) < 2000]
    return found


@pytest.mark.parametrize("name", HOLDERS)
@settings(max_examples=tries(4, 2000), deadline=None)
@given(data=st.data())
def test_hostile_states(name: str, data: st.DataObject) -> None:
    """Whatever stands wherever in a state, it is taken, or there is one sentence and nothing has changed."""
    holder = holder_of(name)
    good, lr = holder.state_dict(), vars(holder).get("_defaults", {}).get("lr")
    state: Any = holder.state_dict()
    for _ in range(data.draw(st.integers(1, 3))):
        known = places(state)
        if not known:
            break
        parent, key = known[data.draw(st.integers(0, len(known) - 1))]
        way = data.draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "subclass"]))
        rubbish = RUBBISH[data.draw(st.integers(0, len(RUBBISH) - 1))]()
        if way == "replace":
            parent[key] = rubbish
        elif way == "remove":
            del parent[key]
        elif way == "add":
            parent[key], rest = rubbish, parent[key]
            if type(parent) is dict:
                parent["more"] = rest
            else:
                parent.append(rest)
        elif type(parent[key]) is dict:
            kind: Any = data.draw(st.sampled_from([OrderedDict, MappingProxyType, UserDict, Lies]))
            parent[key] = kind(parent[key])
    before = state_and_params(holder)
    try:
        with np.errstate(all="ignore"):
            holder.load_state_dict(state)
    except (TypeError, ValueError) as raised:
        error: Exception | None = raised
    else:
        error = None
    if error is not None:
        assert state_and_params(holder) == before
        documented = () if hasattr(holder, "params") else (ValueError,)
        assert isinstance(error, (TypeError, schuss.StateError, *documented))
        assert re.fullmatch(r"\w+: .{10,600}", str(error))
        return
    if callable(lr):
        holder.lr = lr
    holder.load_state_dict(good)
    assert state_and_params(holder) == before


NO_STATES: dict[str, Callable[[], Any]] = {
    **{repr(each): lambda each=each: each for each in (None, 5, "x", [], ())},  # type: ignore[misc]
    **{each.__name__: each for each in (Raises, Forever)},
    "Array": lambda: np.zeros(2).view(Array),
    "function": lambda: len,
}


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("kind", NO_STATES)
def test_what_is_no_state(name: str, kind: str) -> None:
    before = state_and_params(holder_of(name))
    with pytest.raises(TypeError, match=r"^\w+: state must be a dict from state_dict\(\), got \w+$"):
        holder_of(name).load_state_dict(NO_STATES[kind]())
    assert state_and_params(holder_of(name)) == before


@pytest.mark.parametrize("kind", [OrderedDict, MappingProxyType, UserDict, Lies])
def test_a_state_may_be_any_mapping(kind: Any) -> None:
    """A dict of another class is read as what it is, not as what it says."""
    optimizer, other = schuss.Adam(params()), schuss.Adam(params())
    step(optimizer)
    other.load_state_dict(kind(optimizer.state_dict()))
    assert repr(other.state_dict()) == repr(optimizer.state_dict())


# ---- files whose digest is right


def edited(
    target: Any, path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], None], with_params: bool = False
) -> None:
    """Save, and write what `edit` makes of the arrays and the metadata."""
    target.save(path, params=with_params)
    arrays, metadata = checkpoint.read(path)
    edit(arrays, metadata)
    checkpoint.write(path, arrays, metadata)


def refused(target: Any, path: Path, sentence: str, *, extra: int = 4_000_000) -> None:
    """Loading is refused with a sentence, and takes no memory beyond the file's size."""
    before = state_and_params(target)
    tracemalloc.start()
    try:
        with pytest.raises((schuss.StateError, schuss.CheckpointError), match=sentence) as caught:
            target.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 600 + len(str(path))
    assert state_and_params(target) == before
    assert peak < 26 * path.stat().st_size + extra


def test_slots_times_tensors(tmp_path: Path) -> None:
    """A file of 100 kB cannot ask for 10^8 places of arrays."""

    def edit(arrays: Any, metadata: Any) -> None:
        metadata["names"] = [str(i) for i in range(5000)]
        metadata["slots"] = [str(i) for i in range(5000)]

    target = schuss.Adam(params())
    edited(target, tmp_path / "run.npz", edit)
    refused(target, tmp_path / "run.npz", "has no params")
    edited(
        target, tmp_path / "run.npz", lambda arrays, metadata: metadata.update(slots=[str(i) for i in range(50_000)])
    )
    refused(target, tmp_path / "run.npz", "the state has no m, v and unknown ")


@pytest.mark.parametrize("name", ["Lookahead", "LBFGS"])
def test_lists_are_no_arrays(name: str, tmp_path: Path) -> None:
    """NumPy would make 10^4 strings of 10^5 characters of them, 4 GB."""

    def edit(arrays: Any, metadata: Any) -> None:
        part = (metadata["optimizer"] if name == "Lookahead" else metadata)["slots"]
        for key in part:
            for place in part[key]:
                arrays.pop(place["__array__"], None)
            part[key] = [[""] * 10_000 + ["x" * 100_000] for _ in part[key]]

    target = holder_of(name)
    edited(target, tmp_path / "run.npz", edit)
    refused(target, tmp_path / "run.npz", "must be an array in the state, got list")


def test_rows_of_nothing(tmp_path: Path) -> None:
    """An array of 10^15 rows of no elements takes no place in a file, nor in memory."""

    def edit(arrays: Any, metadata: Any) -> None:
        for key in arrays:
            if key.startswith(("slots.s.", "slots.y.")):
                arrays[key] = np.zeros((10**15, 0))

    target = holder_of("LBFGS")
    edited(target, tmp_path / "run.npz", edit)
    refused(target, tmp_path / "run.npz", "slot s of the state has not 1000000000000000 rows for each of the params")


@pytest.mark.parametrize("name", ["Adam", "EMA", "LBFGS"])
def test_what_is_in_the_file_besides(name: str, tmp_path: Path) -> None:
    """Every array has its place, and one place only."""
    target = holder_of(name)
    edited(target, tmp_path / "run.npz", lambda arrays, metadata: arrays.update(more=np.zeros(3)))
    refused(target, tmp_path / "run.npz", "has an unknown array 'more'; load it with the version that saved it")


def test_a_place_is_filled_once(tmp_path: Path) -> None:
    def edit(arrays: Any, metadata: Any) -> None:
        slot = metadata["optimizer"]["slots"]["m"]
        slot[1] = slot[0]

    target = holder_of("Lookahead")
    edited(target, tmp_path / "run.npz", edit)
    refused(target, tmp_path / "run.npz", "holds no state of a wrapper")


@pytest.mark.parametrize("inner", [[], 5, "x", None])
def test_what_is_wrapped_is_a_dict(inner: Any, tmp_path: Path) -> None:
    def edit(arrays: Any, metadata: Any) -> None:
        for key in [*arrays]:
            if key.startswith("optimizer."):
                del arrays[key]
        metadata["optimizer"] = inner

    target = holder_of("Lookahead(EMA)")
    edited(target, tmp_path / "run.npz", edit)
    refused(target, tmp_path / "run.npz", "the state's optimizer must be a dict, got")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("written", [math.inf]),
        ("written", [-1.0]),
        ("written", [0.5]),
        ("norms", [-1.0] * 3),
        ("norms", [math.inf] * 3),
    ],
)
def test_what_a_clip_cannot_have_learnt(key: str, values: list[float]) -> None:
    """Loaded, it would fail in the middle of a step."""
    target = holder_of("Adam with all that learns")
    state, before = target.state_dict(), state_and_params(target)
    state["control"]["clips"]["AutoClip"][key] = values
    with pytest.raises(schuss.StateError, match="the state of AutoClip is none that steps lead to"):
        target.load_state_dict(state)
    assert state_and_params(target) == before


def test_tensors_are_found_by_name_in_one_pass() -> None:
    """Not by looking at all the others for each."""

    class Names(list):  # type: ignore[type-arg]
        def index(self, *_: Any) -> int:
            raise AssertionError("looked through")

    names = [str(i) for i in range(1000)]
    assert schuss.state.positions(Names(names[::-1]), names) == [*range(999, -1, -1)]
    for module in (schuss.state, schuss.nested, schuss.second_order._base):
        assert ".index(" not in Path(str(module.__file__)).read_text()


# ---- the fuzzer


def fuzzing() -> Any:
    """Return `fuzz/checkpoint.py`."""
    path = Path(__file__).parents[1] / "fuzz" / "checkpoint.py"
    specification = importlib.util.spec_from_file_location("fuzz_checkpoint", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # for its dataclasses
    specification.loader.exec_module(module)
    return module


def test_the_fuzzer_finds_no_fault() -> None:
    inputs = tries(1000, 100_000)
    done = fuzzing().by_chance(inputs, seed=1)
    assert done.inputs == inputs
    assert inputs > done.accepted > inputs / 50


def test_the_fuzzer_sees_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A load that has begun to write when it fails, and one that takes something else over."""
    monkeypatch.chdir(tmp_path)
    fuzz, checked = fuzzing(), schuss.state.checked

    def writes_first(optimizer: Any, state: Any, *, cast: bool = False) -> Any:
        optimizer._counts[0] += 1
        return checked(optimizer, state, cast=cast)

    monkeypatch.setattr(schuss.state, "checked", writes_first)
    with pytest.raises(fuzz.BrokenPromiseError):
        fuzz.by_chance(500, seed=1)
    assert len([*tmp_path.iterdir()]) == 1
