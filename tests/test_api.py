"""What a user sees: trees, groups, live arrays, hyper-parameters, options, and what a step leaves alone."""

from __future__ import annotations

import gc
import importlib
import inspect
import itertools
import math
import mmap
import pydoc
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from support import CLASSES, VARIANTS, Variant, bits, draws, everything, inputs_for, snapshot

import schuss
from schuss import trees
from schuss.optimizer import _OPTIONS as OPTIONS
from schuss.reference import Reference, compare

Optimizer = schuss.Optimizer
BF16 = np.dtype(ml_dtypes.bfloat16)

each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)
#: To whom the names of tensors mean nothing, and of these the ones that step each tensor by itself.
NAMELESS = [cls for cls in CLASSES if not draws(cls)]
INDEPENDENT = [cls for cls in NAMELESS if cls.kind != "global"]
each_nameless_class = pytest.mark.parametrize("cls", NAMELESS, ids=lambda cls: cls.__name__)
each_independent_class = pytest.mark.parametrize("cls", INDEPENDENT, ids=lambda cls: cls.__name__)


def step(optimizer: Optimizer, grads: Any, seed: int = 1) -> None:
    """Step, with inputs where the rule asks for them."""
    optimizer.step(grads, **inputs_for(optimizer, grads, np.random.default_rng(seed)))


def numbers(rng: np.random.Generator, tree: Any, dtype: Any = np.float64) -> Any:
    """Return random arrays in place of the shapes in a tree."""
    if isinstance(tree, dict):
        return {key: numbers(rng, child, dtype) for key, child in tree.items()}
    if isinstance(tree, list):
        return [numbers(rng, child, dtype) for child in tree]
    return np.asarray(rng.standard_normal(tree)).astype(dtype)


def copies(tree: Any) -> Any:
    return trees.map_leaves(np.copy, tree)


def same(*optimizers: Optimizer) -> bool:
    """Tell whether parameters, state and counts are the same bits."""
    memory = [[bits(array).tobytes() for array in everything(optimizer)] for optimizer in optimizers]
    return all(each == memory[0] for each in memory)


def addresses(*arrays: np.ndarray) -> list[int]:
    return [array.__array_interface__["data"][0] for array in arrays if array is not None]


# ---- trees


class Layer(NamedTuple):
    weight: Any
    bias: Any


NESTINGS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Any]] = {
    "list": lambda a, b, c: [a, b, c],
    "tuple": lambda a, b, c: (a, b, c),
    "dict": lambda a, b, c: {"a": a, "b": b, "c": c},
    "odd keys": lambda a, b, c: {1: a, "é 'b'": b, ("c", 3): c},
    "named tuple": lambda a, b, c: [Layer(a, b), Layer(c, [])],
    "nested": lambda a, b, c: {"x": [a, (b,)], "y": {}, "z": {"c": [[c]], "d": ()}},
}


@each_nameless_class
@pytest.mark.parametrize("nesting", NESTINGS)
def test_a_nesting_is_its_leaves(cls: type[Optimizer], nesting: str, rng: np.random.Generator) -> None:
    leaves = numbers(rng, [(3, 2), (), (5,)])
    arrange = NESTINGS[nesting]
    optimizer, flat = cls(arrange(*copies(leaves))), cls(copies(leaves))
    for seed in range(3):
        grads = numbers(rng, [(3, 2), (), (5,)])
        step(optimizer, arrange(*grads), seed)
        step(flat, grads, seed)
    assert same(optimizer, flat)
    arrived = [leaf for _, leaf in trees.leaves(optimizer.params)]
    expected = arrange(*arrived)
    assert repr(optimizer.params) == repr(expected)
    assert repr(optimizer.counts) == repr(arrange(*[3, 3, 3]))
    for slot in optimizer.state.values():
        assert isinstance(slot, np.ndarray) or trees.structure(slot) == trees.structure(expected)


@each_nameless_class
def test_one_array(cls: type[Optimizer], rng: np.random.Generator) -> None:
    array = rng.standard_normal(7)
    optimizer, listed = cls(array), cls([array.copy()])
    for _ in range(2):
        grads = rng.standard_normal(7)
        step(optimizer, grads)
        step(listed, [grads])
    assert optimizer.params is array
    assert optimizer.counts == 2
    assert same(optimizer, listed)


@each_class
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, BF16])
def test_zero_dimensions_take_numpy_scalars(cls: type[Optimizer], dtype: Any) -> None:
    """Arithmetic on 0-d arrays gives NumPy scalars."""
    by_scalar, by_array = cls({"scale": np.array(0.5, dtype)}), cls({"scale": np.array(0.5, dtype)})
    for _ in range(3):
        grad = by_scalar.params["scale"] * by_scalar.params["scale"].dtype.type(2)
        assert not isinstance(grad, np.ndarray)
        step(by_array, {"scale": np.array(grad)})
        step(by_scalar, {"scale": grad})
    assert same(by_scalar, by_array)


@each_class
def test_the_callers_containers_are_not_ours(cls: type[Optimizer]) -> None:
    """What is stepped, shown and saved stays the arrays that were given, whatever becomes of the list they came in."""
    bias = np.ones(2)
    params: dict[str, Any] = {"w": [np.ones(3)], "b": bias}
    optimizer = cls(params)
    params["b"] = np.zeros(5)
    params["w"].append(np.zeros(4))
    step(optimizer, {"w": [np.ones(3)], "b": np.ones(2)})
    assert optimizer.params["b"] is bias
    assert len(optimizer.params["w"]) == 1
    assert optimizer.counts == {"w": [1], "b": 1}
    assert optimizer.check(
        {"w": [np.ones(3)], "b": np.ones(2)}, **inputs_for(optimizer, optimizer.params, np.random.default_rng(0))
    )


@each_class
def test_the_arrays_live_as_long_as_the_optimizer(cls: type[Optimizer]) -> None:
    class Tracked(np.ndarray):
        """A subclass is stepped like any array, and can be weakly referred to."""

    array = np.ones(3).view(Tracked)
    alive = weakref.ref(array)
    optimizer = cls([array])
    del array
    gc.collect()
    step(optimizer, [np.ones(3)])
    assert isinstance(alive(), Tracked)
    del optimizer
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls.kind == "elementwise" and not draws(cls)])
def test_many_small_arrays_are_one_large(cls: type[Optimizer], rng: np.random.Generator) -> None:
    flat = rng.standard_normal(3000).astype(np.float32)
    pieces = np.split(flat.copy(), np.sort(rng.integers(0, 3000, 500)))
    one, many = cls(flat), cls(pieces)
    for _ in range(2):
        grads, more = (rng.standard_normal(3000).astype(np.float32) for _ in range(2))
        cuts = np.cumsum([piece.size for piece in pieces])[:-1]
        names = one._kernel()["inputs"]
        one.step(grads, **dict.fromkeys(names, more))
        many.step(np.split(grads, cuts), **dict.fromkeys(names, np.split(more, cuts)))
    assert np.concatenate(pieces).tobytes() == flat.tobytes()


# ---- None in place of a gradient


@each_class
def test_none_leaves_a_tensor_alone(cls: type[Optimizer], rng: np.random.Generator) -> None:
    shapes = {"a": (3, 2), "b": [(4,), ()]}
    optimizer = cls(numbers(rng, shapes))
    step(optimizer, numbers(rng, shapes))
    of_b = [array for slot in optimizer._slots for array in slot[1:] if array is not None]
    before = [array.tobytes() for array in [*optimizer.params["b"], *of_b]]
    for skipped in ([None, None], None):
        step(optimizer, {"a": numbers(rng, (3, 2)), "b": skipped})
    assert [array.tobytes() for array in [*optimizer.params["b"], *of_b]] == before
    assert optimizer.counts == {"a": 3, "b": [1, 1]}
    assert optimizer.t == 3


@each_class
def test_all_none_is_nothing(cls: type[Optimizer], rng: np.random.Generator) -> None:
    optimizer = cls({"a": rng.standard_normal(3), "b": [rng.standard_normal(2)]}, clip=schuss.ClipNorm(1.0))
    step(optimizer, {"a": np.ones(3), "b": [np.ones(2)]})
    before = snapshot(optimizer), optimizer.last
    for nothing in ({"a": None, "b": None}, {"a": None, "b": [None]}):
        step(optimizer, nothing)
    # None alone is what a function returns that forgot to.
    with pytest.raises(TypeError, match=r"grads is None; pass None in the place of each tensor to be skipped$"):
        optimizer.step(None)
    assert (snapshot(optimizer), optimizer.last) == before


@each_independent_class
def test_every_tensor_has_its_own_clock(cls: type[Optimizer], rng: np.random.Generator) -> None:
    """A tensor that was skipped is where it would be had it been stepped alone."""
    a, b = rng.standard_normal(5), rng.standard_normal(5)
    together, alone = cls([a, b]), cls([b.copy()])
    for number in range(5):
        grads: list[Any] = [rng.standard_normal(5), None if number % 2 else rng.standard_normal(5)]
        more = {name: rng.standard_normal(5) for name in together._kernel()["inputs"]}
        together.step(grads, **{name: [each, each] for name, each in more.items()})
        alone.step(grads[1:], **{name: [each] for name, each in more.items()})
    assert together.counts == [5, 3]
    assert (together.t, alone.t) == (5, 3)
    assert together.params[1].tobytes() == alone.params[0].tobytes()


# ---- groups


@each_independent_class
def test_groups_are_optimizers_of_their_own(cls: type[Optimizer], rng: np.random.Generator) -> None:
    shapes = [{"w": (3, 2)}, [(4,)], ()]
    start = numbers(rng, shapes)
    options: list[dict[str, Any]] = [{"lr": 0.5}, {"l2": 0.25, "lr": lambda step: 0.1 / (step + 1)}, {}]
    groups = [schuss.Group(params, **option) for params, option in zip(copies(start), options, strict=True)]
    together = cls(groups[:2], lr=0.125)
    apart = [cls(params, **{"lr": 0.125} | option) for params, option in zip(copies(start), options, strict=True)]
    for number in range(4):
        if number == 2:
            addresses_before = addresses(*together._leaves)
            together.add(groups[2])
            assert addresses(*together._leaves)[:2] == addresses_before
        grads = numbers(rng, shapes)[: 2 + number // 2]
        for each, grad in zip(apart, grads, strict=False):
            step(each, grad)
        separate = [inputs_for(each, grad, np.random.default_rng(1)) for each, grad in zip(apart, grads, strict=False)]
        together.step(grads, **{name: [more[name] for more in separate] for name in separate[0]})
    for each, params in zip(apart, together.params, strict=True):
        assert repr(copies(each.params)) == repr(copies(params))
    assert together.counts == [{"w": 4}, [4], 2]
    assert together.t == 4


@each_class
def test_adding_a_group_keeps_the_others(cls: type[Optimizer], rng: np.random.Generator) -> None:
    optimizer = cls([schuss.Group(rng.standard_normal((3, 2))), schuss.Group({"a": rng.standard_normal(4)})])
    for _ in range(3):
        step(optimizer, [rng.standard_normal((3, 2)), {"a": rng.standard_normal(4)}])
    before = [array.tobytes() for array in optimizer._leaves]
    state = {name: repr(slot if isinstance(slot, np.ndarray) else slot[:2]) for name, slot in optimizer.state.items()}
    added = rng.standard_normal((2, 2))
    optimizer.add(schuss.Group(added, l2=0.5))
    assert [array.tobytes() for array in optimizer._leaves[:2]] == before
    now = {name: repr(slot if isinstance(slot, np.ndarray) else slot[:2]) for name, slot in optimizer.state.items()}
    assert now == state
    assert optimizer.params[2] is added
    assert optimizer.counts == [3, {"a": 3}, 0]
    assert [group["l2"] for group in optimizer.groups] == [0.0, 0.0, 0.5]
    grads = [rng.standard_normal((3, 2)), {"a": rng.standard_normal(4)}, rng.standard_normal((2, 2))]
    assert optimizer.check(grads, **inputs_for(optimizer, grads, rng))


def test_one_group_needs_no_list() -> None:
    optimizer = schuss.Adam(schuss.Group(np.ones(3), lr=0.5))
    optimizer.step([np.ones(3)])
    assert [group["lr"] for group in optimizer.groups] == [0.5]
    optimizer.add(schuss.Group(np.ones(2)))
    optimizer.step([np.ones(3), np.ones(2)])
    assert optimizer.counts == [2, 1]


def test_views_of_groups() -> None:
    optimizer = schuss.AdamW([schuss.Group(np.ones(3), weight_decay=0.5), schuss.Group(np.ones(2), lr=0.25)], lr=0.125)
    first, second = optimizer.groups
    assert (first["lr"], second["lr"]) == (0.125, 0.25)
    assert (first["weight_decay"], second["weight_decay"]) == (0.5, 0.01)
    assert list(first) == list(schuss.AdamW.hyperparameters)
    assert dict(first) == {**{name: each.default for name, each in schuss.AdamW.hyperparameters.items()},
                           "lr": 0.125, "weight_decay": 0.5}  # fmt: skip
    assert len(first) == len(dict(first))
    assert repr(first) == repr(dict(first))
    first["lr"] = 0.0
    before = optimizer.params[0].tobytes()
    optimizer.step([np.ones(3), np.ones(2)])
    assert optimizer.params[0].tobytes() == before
    assert optimizer.lr == 0.125
    assert [group["lr"] for group in optimizer.last.hyperparameters] == [0.0, 0.25]
    optimizer.lr = 0.0625
    assert [group["lr"] for group in optimizer.groups] == [0.0625, 0.0625]
    assert optimizer.lr == 0.0625


def test_groups_show_what_they_override() -> None:
    assert repr(schuss.Group([np.ones(3)], lr=0.1, l2=0.5)) == "Group(..., lr=0.1, l2=0.5)"
    assert repr(schuss.Group([np.ones(3)])) == "Group(...)"


# ---- live arrays


@each_variant
def test_arrays_stay_where_they_are(variant: Variant, rng: np.random.Generator) -> None:
    shapes = {"w": (40, 30), "b": [(17,), ()]}
    params = numbers(rng, shapes, np.float32)
    optimizer = variant.make(params)
    ids = [id(leaf) for _, leaf in trees.leaves(optimizer.params)]
    assert ids == [id(leaf) for _, leaf in trees.leaves(params)]
    held = optimizer.state
    before = addresses(*everything(optimizer))
    for _ in range(3):
        step(optimizer, numbers(rng, shapes, np.float32))
    assert [id(leaf) for _, leaf in trees.leaves(optimizer.params)] == ids
    assert addresses(*everything(optimizer)) == before
    for name, slot in optimizer.state.items():
        for (_, old), (_, new) in zip(trees.leaves(held[name]), trees.leaves(slot), strict=True):
            assert addresses(old) == addresses(new)
            assert old is new is None or bits(old).tobytes() == bits(new).tobytes()


def test_writing_to_the_state_acts() -> None:
    optimizer, twin = schuss.Momentum([np.ones(3)], lr=0.5), schuss.Momentum([np.ones(3)], lr=0.5)
    optimizer.step([np.ones(3)])
    optimizer.state["v"][0][...] = 0
    optimizer.params[0][...] = 1
    for each in (optimizer, twin):
        each.step([np.full(3, 2.0)])
    assert optimizer.params[0].tobytes() == twin.params[0].tobytes()
    prodigy = schuss.Prodigy(np.ones(3))
    prodigy.state["d"][...] = 0.5
    assert prodigy._scalars[0, 0] == 0.5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of assigning shapes and dtypes
def test_the_state_keeps_its_shape_and_dtype() -> None:
    """Whatever is done to an array that was handed out: the state that is saved is of the parameters' shapes."""
    optimizer = schuss.EMA(schuss.Adam([np.ones(6)]), decay=0.5)
    optimizer.step([np.ones(6)])
    before = optimizer.state_dict()
    for name in ("m", "v", "average"):
        optimizer.state[name][0].dtype = np.dtype(np.int64)
        optimizer.state[name][0].shape = (2, 3)
        optimizer.state[name][0].flags.writeable = False
        with pytest.raises(ValueError, match="does not own its data"):
            optimizer.state[name][0].resize(100, refcheck=False)
    after = optimizer.state_dict()
    for old, new in zip(before["optimizer"]["slots"]["m"], after["optimizer"]["slots"]["m"], strict=True):
        assert (old.dtype, old.shape, old.tobytes()) == (new.dtype, new.shape, new.tobytes())
    assert [array.shape for array in after["own"]["arrays"]["average"]] == [(6,)]
    optimizer.load_state_dict(after)


class Named(np.ndarray):
    """An array of a class of its own."""


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # NumPy's, of its matrices
def test_subclasses_are_stepped_where_they_are() -> None:
    """What a subclass adds is left alone, and the state beside it is of plain arrays."""
    named, matrix = np.ones(3).view(Named), np.ones((2, 2)).view(np.matrix)
    optimizer = schuss.Momentum([named, matrix], lr=0.5)
    optimizer.step([np.ones(3), np.ones((2, 2)).view(Named)])
    assert optimizer.params[0] is named
    assert optimizer.params[1] is matrix
    assert (np.asarray(named) == 0.95).all()
    assert (np.asarray(matrix) == 0.95).all()
    assert {type(array) for array in optimizer.state["v"]} == {np.ndarray}


def test_a_map_cannot_be_closed_under_an_optimizer() -> None:
    with mmap.mmap(-1, 4096) as memory:
        optimizer = schuss.SGD(np.frombuffer(memory, np.float64), lr=1.0)
        with pytest.raises(BufferError):
            memory.close()
        optimizer.step(np.ones(512))
        assert (np.frombuffer(memory, np.float64) == -1).all()
        del optimizer


@each_variant
def test_bytes_of_state(variant: Variant) -> None:
    optimizer = variant.make([np.ones((8, 4), np.float32), np.ones(3, np.float32)])
    arrays = [leaf for slot in optimizer.state.values() for _, leaf in trees.leaves(slot) if leaf is not None]
    assert optimizer.nbytes == sum(array.nbytes for array in arrays)
    # Only what has one value per element.
    wide = [leaf for name in filter(None, optimizer._kernel()["state"]) for leaf in optimizer.state[name]]
    half = variant.make([np.ones((8, 4), np.float32), np.ones(3, np.float32)], state_dtype="float16")
    assert optimizer.nbytes - half.nbytes == sum(2 * leaf.size for leaf in wide if leaf is not None)


@each_variant
def test_rebinding_takes_the_state_along(variant: Variant, rng: np.random.Generator) -> None:
    shapes = {"w": (3, 2), "b": [(4,)], "c": (4,)}
    optimizer, twin = (variant.make(numbers(np.random.default_rng(3), shapes)) for _ in range(2))
    old = optimizer.params
    for _ in range(2):
        grads = numbers(rng, shapes)
        for each in (optimizer, twin):
            step(each, grads)
    moved = {key: copies(optimizer.params[key]) for key in ("c", "b", "w")}  # dicts know their keys, not their order
    optimizer.rebind(moved)
    before = [leaf.tobytes() for _, leaf in trees.leaves(old)]
    grads = numbers(rng, shapes)
    for each in (optimizer, twin):
        step(each, grads)
    assert same(optimizer, twin)
    assert optimizer.params["w"] is moved["w"]
    assert optimizer.params["c"] is moved["c"]
    assert [leaf.tobytes() for _, leaf in trees.leaves(old)] == before


@each_variant
def test_resetting_forgets(variant: Variant, rng: np.random.Generator) -> None:
    optimizer = variant.make([rng.standard_normal((3, 2)), rng.standard_normal(4)], l2=0.125)
    optimizer.lr = 0.25
    held = addresses(*everything(optimizer))
    for _ in range(3):
        step(optimizer, [rng.standard_normal((3, 2)), rng.standard_normal(4)])
    optimizer.reset()
    assert optimizer.last is None
    fresh = variant.make(copies(optimizer.params), l2=0.125, lr=0.25)
    assert addresses(*everything(optimizer)) == held
    assert same(optimizer, fresh)
    step(optimizer, [np.ones((3, 2)), np.ones(4)])
    step(fresh, [np.ones((3, 2)), np.ones(4)])
    assert same(optimizer, fresh)


def test_what_an_optimizer_says_of_itself() -> None:
    optimizer = schuss.Adam([np.ones(3), np.ones(2)], lr=0.1)
    rest = "beta1=0.9, beta2=0.999, eps=1e-08, bias_correction=True, l2=0.0, l1=0.0"
    assert repr(optimizer) == f"Adam(lr=0.1, {rest}; 2 tensors, t=0)"
    optimizer.step([np.ones(3), np.ones(2)])
    assert repr(optimizer) == f"Adam(lr=0.1, {rest}; 2 tensors, t=1)"
    optimizer.lr = schuss.schedules.cosine(0.1, steps=5)
    shown = "cosine(peak=0.1, steps=5, warmup=0, floor=0.0)"
    assert repr(optimizer) == f"Adam(lr={shown}, {rest}; 2 tensors, t=1)"


@each_class
def test_the_last_step(cls: type[Optimizer], rng: np.random.Generator) -> None:
    optimizer = cls(rng.standard_normal(5), lr=lambda step: 0.5 / (step + 1))
    assert optimizer.last is None
    for number in range(3):
        step(optimizer, rng.standard_normal(5))
        assert (optimizer.last.step, optimizer.last.lr) == (number, 0.5 / (number + 1))
        assert (optimizer.last.norm, optimizer.last.clip, optimizer.last.skipped) == (None, 1.0, False)
        (used,) = optimizer.last.hyperparameters
        assert list(used) == list(cls.hyperparameters)
    last = optimizer.last
    optimizer.lr = 0.0
    assert optimizer.last == last, "what the last step did does not change afterwards"
    step(optimizer, rng.standard_normal(5))
    assert (optimizer.last.step, optimizer.last.lr) == (3, 0.0)


def test_the_last_step_of_a_checkpoint_is_not_ours() -> None:
    saved, optimizer = schuss.Adam(np.ones(3), lr=0.5), schuss.Adam(np.ones(3))
    for _ in range(3):
        saved.step(np.ones(3))
    optimizer.load_state_dict(saved.state_dict())
    assert optimizer.last is None


# ---- hyper-parameters

SCALARS = [
    (variant, name)
    for variant in VARIANTS
    for name, each in variant.cls.hyperparameters.items()
    if not each.domain.switch and (name not in variant.cls._compiled()["flags"] or name in dict(variant.arguments))
]


@pytest.mark.parametrize(("variant", "name"), SCALARS, ids=str)
def test_assignment_is_a_schedule_that_changes(variant: Variant, name: str, rng: np.random.Generator) -> None:
    """A value set between two steps, for all groups or in a view, and a schedule give the same bits."""
    description = variant.cls.hyperparameters[name]
    old = dict(variant.arguments).get(name, description.default)
    new = next(value for value in (0.5, 2.0, 0.25, -0.5) if value in description.domain and value != old)
    start = rng.standard_normal((3, 2))
    assigned, viewed = (variant.make([schuss.Group(start.copy())]) for _ in range(2))
    if variant.cls.objection({**assigned.groups[0], name: new}):
        return
    scheduled = variant.make([start.copy()], **{name: lambda step: old if step < 2 else new})
    shared = variant.cls.kind == "global" and name not in variant.cls.per_group
    for number in range(4):
        if number == 2:
            setattr(assigned, name, new)
            if shared:
                setattr(viewed, name, new)
            else:
                viewed.groups[0][name] = np.float64(new)
        grads = [rng.standard_normal((3, 2))]
        for each in (assigned, viewed, scheduled):
            step(each, grads, number)
            assert each.last.hyperparameters[0][name] == (old if number < 2 else new)
    assert same(assigned, viewed, scheduled)
    assert getattr(assigned, name) == viewed.groups[0][name] == new
    assert type(viewed.groups[0][name]) is float
    assert callable(getattr(scheduled, name))


@each_class
def test_schedules_see_the_steps_done(cls: type[Optimizer]) -> None:
    seen: list[int] = []

    def schedule(step: int) -> float:
        assert type(step) is int
        seen.append(step)
        return 0.5

    optimizer = cls([np.ones(3), np.ones(2)], lr=schedule)
    seen.clear()
    step(optimizer, [np.ones(3), None])
    step(optimizer, [None, np.ones(2)])
    step(optimizer, [None, None])
    step(optimizer, [np.ones(3), np.ones(2)])
    assert seen == [0, 1, 2, 2]


@each_class
def test_hyperparameters_are_described(cls: type[Optimizer]) -> None:
    for name, each in cls.hyperparameters.items():
        assert getattr(cls, name) is each
        assert each.name == name
        assert each.doc, f"{cls.__name__}.{name} has no comment #:"
        assert each.default in each.domain if not each.domain.switch else isinstance(each.default, bool)
    optimizer = cls(np.ones(3))
    for name, each in cls.hyperparameters.items():
        assert getattr(optimizer, name) == each.default
        assert type(getattr(optimizer, name)) is (bool if each.domain.switch else float)


@each_class
def test_signature(cls: type[Optimizer]) -> None:
    signature = inspect.signature(cls)
    names = list(signature.parameters)
    own = len(names) - len(cls.options) - len(OPTIONS) - 3
    assert own >= 1
    assert names[0] == "params"
    assert names[own + 1 :] == ["l2", "l1", *cls.options, *OPTIONS]
    assert names[1 : own + 3] == list(cls.hyperparameters)
    parameters = [signature.parameters[name] for name in names[1:]]
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    defaults = {parameter.name: parameter.default for parameter in parameters}
    assert {name: defaults[name] for name in cls.hyperparameters} == {
        name: each.default for name, each in cls.hyperparameters.items()
    }
    optimizer, explicit = cls(params=np.ones(3)), cls(np.ones(3), **defaults)
    assert {key: getattr(optimizer, key) for key in OPTIONS} == {key: defaults[key] for key in OPTIONS}
    for each in (optimizer, explicit):
        step(each, np.ones(3))
    assert same(optimizer, explicit)


@each_class
def test_help(cls: type[Optimizer]) -> None:
    text = pydoc.plain(pydoc.render_doc(cls))
    assert f" {cls.__name__}(params, *, lr" in text
    for line in inspect.getdoc(cls).splitlines():
        assert line in text


# ---- the package


def test_the_optimizers_by_name() -> None:
    for _ in range(2):
        found = schuss.optimizers()
        assert list(found) == sorted(found, key=str.lower)
        assert all(name == cls.__name__ and getattr(schuss, name) is cls for name, cls in found.items())
        assert all(issubclass(cls, Optimizer) for cls in found.values())
        importlib.import_module("schuss.optimizers.adam")  # which must not hide the function
    assert schuss.optimizers()["Adam"] is schuss.Adam
    folder = Path(inspect.getfile(schuss.Adam)).parent
    assert len(found) == len([file for file in folder.glob("*.py") if file.stem != "__init__"])


def test_what_the_package_shows() -> None:
    shown = dir(schuss)
    assert shown == sorted(shown)
    assert set(schuss.optimizers()) < set(shown)
    assert {"Group", "ClipNorm", "StateError", "CheckpointError", "schedules", "reference", "show_runtime"} < set(shown)
    assert all(getattr(schuss, name) is not None for name in shown)
    assert not [name for name in shown if name.startswith("_")]


@pytest.mark.parametrize("name", ["adam", "ADAM", "Adamm", "_adam", "lion_", "__path_"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(schuss, name)
    assert str(caught.value) == f"module 'schuss' has no attribute {name!r}"


def test_show_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    for isa in schuss.instruction_sets():
        schuss.use_isa(isa)
        schuss.set_num_threads(3)
        schuss.show_runtime()
        first, second, third = capsys.readouterr().out.splitlines()
        assert first.startswith(f"schuss {schuss.__version__}, NumPy {np.__version__}, Python 3.")
        assert f"[{isa}]" in second
        assert second.count("[") == 1
        assert all(name in second for name in schuss.instruction_sets())
        assert third.startswith("threads: 3 of ")


def test_threads_and_instruction_sets_change_no_bit(rng: np.random.Generator) -> None:
    start, grads = (rng.standard_normal(100_003).astype(np.float32) for _ in range(2))
    results = set()
    for isa in schuss.instruction_sets():
        schuss.use_isa(isa)
        for threads in (1, 2, 5):
            schuss.set_num_threads(threads)
            assert schuss.get_num_threads() == threads
            optimizer = schuss.LAMB(start.copy(), clip=schuss.ClipNorm(1.0))
            optimizer.step(grads)
            results.add(optimizer.params.tobytes())
    assert len(results) == 1


# ---- sizes and memory


@each_variant
def test_arrays_without_elements(variant: Variant) -> None:
    shapes = [(0,), (0, 3), (3, 0), (2, 0, 4)]
    optimizer = variant.make([np.zeros(shape) for shape in shapes], clip=schuss.ClipNorm(1.0), l2=0.5)
    for _ in range(2):
        step(optimizer, [np.zeros(shape) for shape in shapes])
    assert optimizer.counts == [2, 2, 2, 2]
    assert optimizer.last.norm == 0
    mixed = variant.make([np.zeros((0, 3)), np.ones(3)])
    step(mixed, [np.zeros((0, 3)), np.ones(3)])
    assert np.isfinite(mixed.params[1]).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_memory_maps_land_on_disk(tmp_path: Path, dtype: Any, rng: np.random.Generator) -> None:
    path = tmp_path / "weights"
    start = rng.standard_normal((50, 20)).astype(dtype)
    start.tofile(path)
    mapped = np.memmap(path, dtype, "r+", shape=(50, 20))
    optimizer, twin = schuss.AdamW(mapped), schuss.AdamW(start)
    for _ in range(3):
        grads = rng.standard_normal((50, 20))
        optimizer.step(grads)
        twin.step(grads)
    assert optimizer.params is mapped
    mapped.flush()
    assert path.read_bytes() == start.tobytes()
    frozen = np.memmap(path, dtype, "r", shape=(50, 20))
    with pytest.raises(BufferError) as caught:
        schuss.AdamW(frozen)
    assert str(caught.value) == "AdamW: params is read-only and cannot be updated in place; pass a writeable array"
    schuss.SGD(np.ones((50, 20), dtype)).step(frozen)


@each_class
@pytest.mark.parametrize("dtype", [np.float16, BF16, np.float32])
@pytest.mark.parametrize("state_dtype", [None, "float64", "bfloat16"])
def test_views_into_a_flat_buffer(cls: type[Optimizer], dtype: Any, state_dtype: Any, rng: np.random.Generator) -> None:
    """Wherever a parameter starts, its state may be wider."""
    flat = rng.standard_normal(40).astype(dtype)
    optimizer = cls([flat[i:j] for i, j in itertools.pairwise([0, 1, 4, 9, 16, 23, 40])], state_dtype=state_dtype)
    twin = Reference(optimizer)
    grads = [rng.standard_normal(p.size) for p in optimizer.params]
    further = inputs_for(optimizer, grads, rng)
    for each in (optimizer, twin):
        each.step(grads, **further)
    assert compare(optimizer, twin)


@each_variant
@pytest.mark.parametrize("state_dtype", [None, "bfloat16"])
def test_bits_of_bfloat16(variant: Variant, state_dtype: Any, rng: np.random.Generator) -> None:
    """Arrays of uint16 declared as bfloat16 and those of ml_dtypes are the same."""
    start = numbers(rng, [(20, 9), (), (300,)], BF16)
    typed = variant.make(copies(start), state_dtype=state_dtype)
    declared = variant.make([p.view(np.uint16) for p in copies(start)], state_dtype=state_dtype, dtype="bfloat16")
    for _ in range(4):
        grads = numbers(rng, [(20, 9), (), (300,)], BF16)
        further = inputs_for(typed, grads, rng)
        typed.step(grads, **further)
        arrays = {name: tree for name, tree in further.items() if name not in typed.given}
        as_bits = further | {name: [np.asarray(x).view(np.uint16) for x in tree] for name, tree in arrays.items()}
        declared.step([g.view(np.uint16) for g in grads], **as_bits)
    assert [a.tobytes() for a in everything(typed)] == [a.tobytes() for a in everything(declared)]
    expected = np.uint16 if state_dtype else np.float32
    like_elements = declared._slots[: len(declared._slots) - len(variant.cls.shaped)]
    assert {a.dtype for slot in like_elements for a in slot if a is not None} <= {np.dtype(expected)}


def peak_of_memory(action: Callable[[], None]) -> tuple[int, int]:
    """Return how far an action raises the peak of the process's memory, and of Python's own, in bytes."""

    def high_water() -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far becomes what is in use now
    except OSError:
        pytest.skip("this system does not tell the peak of memory")
    before = high_water()
    tracemalloc.start()
    try:
        action()
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return high_water() - before, traced


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls.kind != "matrix"], ids=lambda cls: cls.__name__)
def test_a_step_takes_no_memory(cls: type[Optimizer]) -> None:
    size = 5_000_000
    grads = np.full((size // 10, 10), 0.5, np.float32)
    optimizer = cls(np.ones((size // 10, 10), np.float32), threads=2)
    further: dict[str, Any] = dict.fromkeys(optimizer._kernel()["inputs"], grads) | dict.fromkeys(optimizer.given, 1.0)
    optimizer.step(grads, **further)
    resident, traced = peak_of_memory(lambda: optimizer.step(grads, **further))
    assert resident < 1_000_000
    assert traced < 10_000


def test_a_step_with_every_stage_takes_no_memory() -> None:
    """Odd dtypes and layouts are read block by block."""
    size = 5_000_000
    wide = np.full((size, 2), 0.5, BF16)
    optimizer = schuss.AdamW(
        np.ones(size, np.float16), state_dtype="bfloat16", clip=schuss.ClipNorm(1.0), l2=0.1, l1=0.1, bounds=(-1, 1),
        maximize=True, flush_subnormals=True, threads=2, lr=schuss.schedules.cosine(0.1, steps=9),
    )  # fmt: skip
    optimizer.step(wide[:, 0])
    resident, traced = peak_of_memory(lambda: optimizer.step(wide[::-1, 1]))
    assert resident < 1_000_000
    assert traced < 10_000


@each_variant
def test_gradients_are_only_read(variant: Variant, rng: np.random.Generator) -> None:
    options = {"clip": schuss.ClipNorm(0.1), "l2": 0.5, "maximize": True, "bounds": (-1, 1)}
    shapes = [(20, 30), (5,)]
    for dtype in (np.float64, np.float32, BF16):
        grads = numbers(rng, shapes, dtype)
        for grad in grads:
            grad.flags.writeable = False
        before = [grad.tobytes() for grad in grads]
        optimizer = variant.make(numbers(rng, shapes, np.float32), **options)
        step(optimizer, grads)
        assert [grad.tobytes() for grad in grads] == before


@each_class
def test_one_array_may_be_many_gradients(cls: type[Optimizer], rng: np.random.Generator) -> None:
    start, grad = rng.standard_normal(5), rng.standard_normal(5)
    shared, separate = cls([start.copy(), start.copy()]), cls([start.copy(), start.copy()])
    step(shared, [grad, grad])
    step(separate, [grad, grad.copy()])
    assert same(shared, separate)


# ---- options


@each_variant
def test_penalties_and_sign(variant: Variant, rng: np.random.Generator) -> None:
    """`l2`, `l1` and `maximize` are what one would add to the gradient by hand, to the last bit."""
    start = rng.standard_normal(1000).astype(np.float32)
    start[::7] = 0
    optimizer, by_hand = variant.make(start.copy(), l2=0.3, l1=0.05, maximize=True), variant.make(start.copy())
    for number in range(3):
        grads = rng.standard_normal(1000).astype(np.float32)
        further = inputs_for(optimizer, grads, np.random.default_rng(number))
        p = by_hand.params
        optimizer.step(grads, **further)
        by_hand.step(-grads + 0.3 * p + 0.05 * np.sign(p), **further)
    assert same(optimizer, by_hand)


@each_variant
def test_bounds(variant: Variant, rng: np.random.Generator) -> None:
    start = rng.standard_normal(500)
    bounded, free = variant.make(start.copy(), bounds=(-0.25, np.inf), lr=0.5), variant.make(start.copy(), lr=0.5)
    grads = rng.standard_normal(500)
    for optimizer in (bounded, free):
        step(optimizer, grads)
    assert bits(bounded.params).tobytes() == bits(np.maximum(free.params, -0.25)).tobytes()
    assert bounded.params.min() >= -0.25
    closed = variant.make(start.copy(), bounds=(0.5, 0.5))
    step(closed, grads)
    assert (closed.params == 0.5).all()


def test_bounds_leave_nan() -> None:
    optimizer = schuss.SGD(np.zeros(3), lr=1.0, bounds=(-1.0, 1.0))
    optimizer.step(np.array([np.nan, np.inf, -np.inf]))
    assert repr(optimizer.params.tolist()) == "[nan, -1.0, 1.0]"


@each_class
@pytest.mark.parametrize("dtype", [np.float64, np.float32, BF16])
def test_clipping_is_scaling(cls: type[Optimizer], dtype: Any, rng: np.random.Generator) -> None:
    """One norm over all tensors; the coefficient is torch's but for the 1e-6 that torch adds to the norm."""
    shapes = {"w": (30, 40), "b": [(50,), ()]}
    start, grads = numbers(rng, shapes, np.float32), numbers(rng, shapes, dtype)
    read = trees.map_leaves(lambda leaf: leaf.astype(np.float32), grads)
    norm = math.sqrt(sum(float(np.square(leaf, dtype=np.float64).sum()) for _, leaf in trees.leaves(read)))
    clipped, scaled = cls(copies(start), clip=schuss.ClipNorm(0.75)), cls(copies(start))
    step(clipped, grads)
    assert clipped.last.norm == pytest.approx(norm, rel=1e-12)
    assert clipped.last.clip == 0.75 / clipped.last.norm
    assert clipped.last.clip == pytest.approx(0.75 / (norm + 1e-6), rel=1e-5)
    coefficient = np.float32(clipped.last.clip)
    further = inputs_for(scaled, grads, np.random.default_rng(1))
    scaled.step(trees.map_leaves(lambda leaf: coefficient * leaf, read), **further)
    assert same(clipped, scaled)

    loose, free = cls(copies(start), clip=schuss.ClipNorm(norm * 1.001)), cls(copies(start))
    for optimizer in (loose, free):
        step(optimizer, grads)
    assert loose.last.clip == 1.0
    assert same(loose, free)


@pytest.mark.parametrize(("dtype", "huge"), [(np.float64, 1e200), (np.float32, 1e30), (np.float16, 6e4), (BF16, 1e38)])
def test_clipping_of_squares_that_overflow(dtype: Any, huge: float) -> None:
    params = {"w": np.zeros(4, dtype), "b": np.zeros((), np.float64)}
    optimizer = schuss.SGD(params, lr=1.0, clip=schuss.ClipNorm(1.0))
    grads = {"w": np.array([huge, -huge, 0, 0], dtype), "b": np.array(0.0)}
    assert optimizer.check(grads), str(optimizer.check(grads))
    optimizer.step(grads)
    assert np.allclose(optimizer.params["w"].astype(np.float64), [-math.sqrt(0.5), math.sqrt(0.5), 0, 0], rtol=0.005)
    assert optimizer.last.norm == pytest.approx(math.sqrt(2) * huge, rel=0.005)


def test_clipping_of_nothing() -> None:
    optimizer = schuss.SGD([np.ones(3)], lr=1.0, clip=schuss.ClipNorm(1.0))
    optimizer.step([np.zeros(3)])
    assert (optimizer.last.norm, optimizer.last.clip) == (0.0, 1.0)
    assert (optimizer.params[0] == 1).all()


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls.kind == "elementwise"])
def test_a_nan_stays_where_it_is(cls: type[Optimizer], rng: np.random.Generator) -> None:
    """By default a step goes on; in an elementwise rule no other element hears of it."""
    start, grads = rng.standard_normal(100), rng.standard_normal(100)
    optimizer, twin = cls(start.copy()), cls(start.copy())
    bad = grads.copy()
    bad[17] = np.nan
    step(optimizer, bad)
    step(twin, grads)
    assert np.isnan(optimizer.params[17])
    assert np.delete(optimizer.params, 17).tobytes() == np.delete(twin.params, 17).tobytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_flushing_subnormals_is_ours_alone(threads: int) -> None:
    """The mode is set for the step and restored on every thread, the caller's and the workers'."""
    tiny, size = np.float32(1e-40), 200_000
    flushing = schuss.SGD(np.zeros(size, np.float32), lr=1.0, flush_subnormals=True, threads=threads)
    keeping = schuss.SGD(np.zeros(size, np.float32), lr=1.0, threads=threads)
    grads = np.full(size, tiny)
    for _ in range(3):
        flushing.step(grads)
        assert (flushing.params == 0).all()
        assert np.float32(0.5) * grads[:2].sum() == tiny, "NumPy's own arithmetic keeps them"
        assert np.finfo(np.float32).smallest_subnormal > 0
        keeping.params[...] = 0
        keeping.step(grads)
        assert (keeping.params == -tiny).all()


# ---- fixed points and far ends


@each_variant
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, BF16])
def test_a_step_size_of_zero_moves_nothing(variant: Variant, dtype: Any, rng: np.random.Generator) -> None:
    start = numbers(rng, [(30, 20), (), (7,)], dtype)
    optimizer = variant.make(copies(start), lr=0.0)
    for _ in range(3):
        step(optimizer, numbers(rng, [(30, 20), (), (7,)], dtype))
    assert [p.tobytes() for p in optimizer.params] == [p.tobytes() for p in start]
    assert optimizer.t == 3


@each_variant
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, BF16])
def test_zero_gradients_give_no_nan(variant: Variant, dtype: Any, rng: np.random.Generator) -> None:
    """0/0 has no place, not even where eps is too small for the storage dtype."""
    shapes = [(4, 3), (5,), ()]
    start = [*numbers(rng, shapes, dtype), *(np.zeros(shape, dtype) for shape in shapes)]
    state_dtype = None if dtype in (np.float64, np.float32) else dtype
    optimizer = variant.make(start, state_dtype=state_dtype)
    zeros = [np.zeros(p.shape, dtype) for p in start]
    for number in range(4):
        optimizer.step(
            zeros, **dict.fromkeys(optimizer._kernel()["inputs"], zeros) | dict.fromkeys(optimizer.given, 0.0)
        )
        for array in everything(optimizer):
            assert not np.isnan(array.astype(np.float64)).any(), f"step {number}"
    assert draws(variant.cls) or not any(p.astype(np.float64).any() for p in optimizer.params[3:])


@each_variant
@pytest.mark.parametrize("power", [24, 31, 53, 62])
def test_steps_beyond_any_small_integer(variant: Variant, power: int, rng: np.random.Generator) -> None:
    """Counts are whole numbers of 64 bits: no rule stops at 2^24 steps, nor turns negative at 2^31."""
    optimizer = variant.make([np.zeros(50), np.zeros(50, np.float32), rng.standard_normal(50)])
    values = dict(optimizer.groups[0])
    for name, each in variant.cls.hyperparameters.items():
        sensible = not each.domain.switch and name not in variant.cls._compiled()["flags"] and values[name] == 0
        if sensible and 0.7 in each.domain and not variant.cls.objection(values | {name: 0.7}):
            setattr(optimizer, name, 0.7)
    optimizer._counts[...] = 2**power - 1
    twin = Reference(optimizer)
    for _ in range(3):
        grads = numbers(rng, [50, 50, 50])
        further = inputs_for(optimizer, grads, rng) | dict.fromkeys(optimizer.given, 100.0)
        optimizer.step(grads, **further)
        twin.step(grads, **further)
    assert compare(optimizer, twin), str(compare(optimizer, twin))
    assert optimizer.counts == [2**power + 2] * 3
    assert optimizer.t == 2**power + 2
    assert all(p.any() for p in optimizer.params[:2]), "steps that small still move a zero"
