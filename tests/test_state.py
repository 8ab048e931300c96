"""State that is saved, copied and loaded: a run goes on to the same bits, and what does not fit changes nothing."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support import CLASSES, VARIANTS, Variant, bits, by_rows, everything, inputs_for, snapshot

import schuss
from schuss import checkpoint, trees

Optimizer = schuss.Optimizer
Batch = tuple[Any, dict[str, Any]]
BF16 = np.dtype(ml_dtypes.bfloat16)
SUFFIXES = ["npz", "safetensors"]

each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)
each_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def make(variant: Variant, rng: np.random.Generator, size: int = 40, **options: Any) -> Optimizer:
    """Return an optimizer over several dtypes and orders, in the middle of a schedule once it has stepped."""
    order = "C" if by_rows(variant.cls) else "F"
    params = {
        "w": np.array(rng.standard_normal((20, 6)), np.float32, order=order),
        "b": [rng.standard_normal(7).astype(BF16), np.array(rng.standard_normal())],
        "embedding": rng.standard_normal(size).astype(np.float32),
    }
    return variant.make(params, **{"lr": schuss.schedules.cosine(0.1, steps=9, warmup=2)} | options)


def batches(optimizer: Optimizer, number: int, rng: np.random.Generator) -> list[Batch]:
    """Return gradients and inputs of some steps; now and then a gradient is missing."""
    found = []
    for k in range(number):
        grads = trees.map_leaves(lambda leaf: np.asarray(rng.standard_normal(leaf.shape), leaf.dtype), optimizer.params)
        if k % 3 == 1 and "b" in grads:
            grads["b"][0] = None
        found.append((grads, inputs_for(optimizer, grads, rng)))
    return found


def run(optimizer: Optimizer, steps: list[Batch]) -> None:
    for grads, further in steps:
        optimizer.step(grads, **further)


def over_copies(variant: Variant, optimizer: Optimizer, **options: Any) -> Optimizer:
    """Return a fresh optimizer over copies of another one's parameters."""
    params = trees.map_leaves(lambda leaf: leaf.copy(order="K"), optimizer.params)
    return variant.make(params, **{"lr": optimizer.lr} | options)


def same(*optimizers: Optimizer) -> bool:
    """Tell whether parameters, state, counts and hyper-parameters are the same."""
    complete = [(snapshot(each), [dict(group) for group in each.groups]) for each in optimizers]
    return all(each == complete[0] for each in complete)


@contextlib.contextmanager
def refuses(error: type[Exception], sentence: str, optimizer: Optimizer) -> Iterator[None]:
    """Expect exactly this error of the block, and the optimizer as it was."""
    before = snapshot(optimizer), [dict(group) for group in optimizer.groups], optimizer.lr
    with pytest.raises(error) as caught:
        yield
    assert (type(caught.value), str(caught.value)) == (error, sentence)
    assert (snapshot(optimizer), [dict(group) for group in optimizer.groups], optimizer.lr) == before


# ---- going on


def by_state_dict(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
    resumed = over_copies(variant, optimizer)
    resumed.load_state_dict(optimizer.state_dict())
    return resumed


def by_pickled_state_dict(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
    resumed = over_copies(variant, optimizer)
    resumed.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    return resumed


def by_file(suffix: str) -> Callable[[Variant, Optimizer, Path], Optimizer]:
    def resume(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
        optimizer.save(folder / f"run.{suffix}")
        resumed = over_copies(variant, optimizer)
        resumed.load(folder / f"run.{suffix}")
        return resumed

    return resume


def by_file_with_parameters(suffix: str) -> Callable[[Variant, Optimizer, Path], Optimizer]:
    def resume(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
        optimizer.save(folder / f"run.{suffix}", params=True)
        zeros = trees.map_leaves(np.zeros_like, optimizer.params)
        resumed = variant.make(zeros, lr=optimizer.lr)
        before = [id(leaf) for _, leaf in trees.leaves(resumed.params)]
        resumed.load(folder / f"run.{suffix}")
        assert [id(leaf) for _, leaf in trees.leaves(resumed.params)] == before
        return resumed

    return resume


def by_pickle(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
    resumed: Optimizer = pickle.loads(pickle.dumps(optimizer))
    return resumed


def by_deepcopy(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
    return copy.deepcopy(optimizer)


def in_another_way_of_running(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
    resumed = over_copies(variant, optimizer, threads=3)
    resumed.load_state_dict(optimizer.state_dict())
    schuss.use_isa(schuss.instruction_sets()[0])
    return resumed


def into_a_used_optimizer(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
    resumed = over_copies(variant, optimizer)
    run(resumed, batches(resumed, 2, np.random.default_rng(7)))
    for mine, theirs in zip(resumed._leaves, optimizer._leaves, strict=True):
        mine[...] = theirs
    resumed.load_state_dict(optimizer.state_dict())
    return resumed


def into_itself(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


def over_other_arrays(variant: Variant, optimizer: Optimizer, folder: Path) -> Optimizer:
    resumed = by_deepcopy(variant, optimizer, folder)
    resumed.rebind(trees.map_leaves(lambda leaf: leaf.copy(order="K"), optimizer.params))
    return resumed


WAYS = {
    "state dict": by_state_dict,
    "pickled state dict": by_pickled_state_dict,
    **{suffix: by_file(suffix) for suffix in SUFFIXES},
    **{f"{suffix} with parameters": by_file_with_parameters(suffix) for suffix in SUFFIXES},
    "pickle": by_pickle,
    "deepcopy": by_deepcopy,
    "other threads and instruction set": in_another_way_of_running,
    "used optimizer": into_a_used_optimizer,
    "itself": into_itself,
    "rebind": over_other_arrays,
}


@pytest.mark.parametrize("way", WAYS)
@each_variant
def test_a_run_goes_on(variant: Variant, way: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Three steps, saved and resumed, and three more are six uninterrupted ones."""
    uninterrupted = make(variant, rng, size=40_000 if WAYS[way] is in_another_way_of_running else 40)
    interrupted = over_copies(variant, uninterrupted)
    steps = batches(uninterrupted, 6, rng)
    run(uninterrupted, steps)
    run(interrupted, steps[:3])
    resumed = WAYS[way](variant, interrupted, tmp_path)
    assert same(resumed, interrupted)
    assert (resumed.t, resumed.counts) == (interrupted.t, interrupted.counts)
    run(resumed, steps[3:])
    assert same(resumed, uninterrupted)


@each_variant
@pytest.mark.parametrize("state_dtype", ["float64", "float16", "bfloat16"])
@each_suffix
def test_narrow_and_wide_state_in_files(variant: Variant, state_dtype: str, suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for dtype in (np.float32, np.uint16):
        declared = {"dtype": "bfloat16"} if dtype == np.uint16 else {}
        params = [rng.integers(0x3F00, 0x4000, 30).astype(dtype), np.ones((), dtype)]
        optimizer = variant.make(params, state_dtype=state_dtype, **declared)
        grads = [np.full(30, 0x3F81, dtype), np.ones((), dtype)]
        steps = [(grads, inputs_for(optimizer, grads, rng)) for _ in range(4)]
        run(optimizer, steps[:2])
        optimizer.save(tmp_path / f"run.{suffix}", params=True)
        resumed = variant.make([np.zeros_like(p) for p in params], state_dtype=state_dtype, **declared)
        resumed.load(tmp_path / f"run.{suffix}")
        for each in (optimizer, resumed):
            run(each, steps[2:])
        assert same(resumed, optimizer)


@each_class
@each_suffix
def test_groups_go_on(cls: type[Optimizer], suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Hyper-parameters come back group by group; those that were schedules stay what they are here."""

    def build() -> Optimizer:
        rng = np.random.default_rng(2)
        first = schuss.Group({"w": rng.standard_normal((4, 3))}, l2=lambda step: 0.125 / (step + 1))
        return cls([first, schuss.Group([rng.standard_normal(5)])], l1=0.0625)

    uninterrupted, resumed = build(), build()
    uninterrupted.lr = 0.25
    uninterrupted.groups[1]["l2"] = 0.5
    steps = batches(uninterrupted, 4, rng)
    run(uninterrupted, steps[:2])
    uninterrupted.save(tmp_path / f"run.{suffix}", params=True)
    resumed.load(tmp_path / f"run.{suffix}")
    assert resumed.lr == 0.25
    assert [group["lr"] for group in resumed.groups] == [0.25, 0.25]
    assert callable(resumed.groups[0]["l2"])
    assert resumed.groups[1]["l2"] == 0.5
    for each in (uninterrupted, resumed, copy.deepcopy(resumed)):
        run(each, steps[2:])
    assert [bits(a).tobytes() for a in everything(resumed)] == [bits(a).tobytes() for a in everything(uninterrupted)]


def test_what_becomes_of_schedules() -> None:
    schedule = schuss.schedules.cosine(0.5, steps=10)
    scheduled, fixed = schuss.Adam(np.ones(3), lr=schedule), schuss.Adam(np.ones(3), lr=0.25)
    assert scheduled.state_dict()["groups"][0]["lr"] is None
    fixed.load_state_dict(scheduled.state_dict())
    assert fixed.lr == 0.25, "a schedule is not saved: what is here stays"
    other = schuss.Adam(np.ones(3), lr=schuss.schedules.cosine(1.0, steps=3))
    other.load_state_dict(scheduled.state_dict())
    assert other.lr == schuss.schedules.cosine(1.0, steps=3)
    scheduled.load_state_dict(fixed.state_dict())
    assert scheduled.lr == 0.25, "a number is"
    twin = pickle.loads(pickle.dumps(schuss.Adam(np.ones(3), lr=schedule)))
    assert twin.lr == schedule


def test_a_schedule_that_ends_before_the_state() -> None:
    saved = schuss.Adam(np.ones(3), lr=schuss.schedules.cosine(0.5, steps=10))
    for _ in range(3):
        saved.step(np.ones(3))
    optimizer = schuss.Adam(np.ones(3), lr=lambda step: 0.1 if step < 3 else math.nan)
    sentence = "Adam: the schedule of lr must stay in [0, inf), got nan at step 3"
    with refuses(ValueError, sentence, optimizer):
        optimizer.load_state_dict(saved.state_dict())


# ---- copies


@each_variant
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_are_independent_and_complete(variant: Variant, duplicate: Callable[[Any], Any]) -> None:
    rng = np.random.default_rng(4)
    optimizer = make(
        variant, rng, clip=schuss.ClipNorm(0.5), l2=0.125, maximize=True, bounds=(-1, 1), nonfinite="skip", threads=2
    )
    run(optimizer, batches(optimizer, 2, rng))
    twin = duplicate(optimizer)
    assert type(twin) is type(optimizer)
    assert repr(twin) == repr(optimizer)
    options = ["maximize", "clip", "bounds", "nonfinite", "state_dtype", "dtype", "threads", "flush_subnormals"]
    assert [getattr(twin, key) for key in options] == [getattr(optimizer, key) for key in options]
    assert not any(
        np.shares_memory(a, b) for a, b in zip(everything(twin), everything(optimizer), strict=True) if a.size
    )
    before = snapshot(optimizer)
    steps = batches(optimizer, 2, rng)
    run(twin, steps)
    assert snapshot(optimizer) == before
    run(optimizer, steps)
    assert same(twin, optimizer)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_model_and_its_optimizer_stay_together(duplicate: Callable[[Any], Any]) -> None:
    params = {"w": np.ones((2, 3), order="F"), "b": [np.ones(2)]}
    model, optimizer = duplicate((params, schuss.SGD(params, lr=1.0)))
    optimizer.step({"w": np.ones((2, 3)), "b": [np.ones(2)]})
    assert (model["w"] == 0).all()
    assert (model["b"][0] == 0).all()
    assert model["w"].flags.f_contiguous
    assert (params["w"] == 1).all()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_of_groups_with_flags_of_their_own(duplicate: Callable[[Any], Any]) -> None:
    """A group may turn on what the optimizer's own values leave off."""
    optimizer = schuss.SGD(
        [schuss.Group(np.ones(3), momentum=0.5), schuss.Group(np.ones(2), momentum=0.25)], nesterov=True
    )
    optimizer.step([np.ones(3), np.ones(2)])
    twin = duplicate(optimizer)
    optimizer.momentum = 0.75
    twin.momentum = 0.75
    for each in (optimizer, twin, duplicate(twin)):
        each.step([np.ones(3), np.ones(2)])
        assert same(each, optimizer)


def test_a_shallow_copy_is_no_second_owner() -> None:
    """Two optimizers over the same arrays would step them twice."""
    optimizer = schuss.Adam(np.ones(3))
    shallow = copy.copy(optimizer)
    optimizer.step(np.ones(3))
    assert shallow.t == 0
    assert shallow.params is optimizer.params


# ---- what is in a state dict


@each_variant
def test_a_state_dict_is_a_copy(variant: Variant, rng: np.random.Generator) -> None:
    optimizer = make(variant, rng)
    run(optimizer, batches(optimizer, 2, rng))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    run(optimizer, batches(optimizer, 1, rng))
    assert repr(saved) == repr(kept), "a later step does not act on it"
    resumed = over_copies(variant, optimizer)
    resumed.load_state_dict(saved)
    before = snapshot(resumed)
    for arrays in saved["slots"].values():
        for array in arrays:
            if array is not None:
                array[...] = 7
    for array in saved["scalars"].values():
        array[...] = 7
    saved["counts"][0] = 99
    saved["groups"][0]["lr"] = 99.0
    assert snapshot(resumed) == before, "nor does a later change of it act on the optimizer"
    assert optimizer.state_dict()["groups"][0]["lr"] is None


def test_what_is_in_a_state_dict() -> None:
    optimizer = schuss.NovoGrad({"w": np.ones((2, 3), np.float32), "b": [np.ones(2)]}, lr=0.5)
    optimizer.step({"w": np.ones((2, 3)), "b": [None]})
    state = optimizer.state_dict()
    assert list(state) == [
        "format",
        "schuss",
        "optimizer",
        "t",
        "counts",
        "names",
        "groups",
        "slots",
        "scalars",
        "control",
    ]
    assert (state["format"], state["schuss"], state["optimizer"]) == (2, schuss.__version__, "NovoGrad")
    assert (state["t"], state["counts"], state["names"]) == (1, [1, 0], ["['w']", "['b'][0]"])
    assert state["groups"] == [
        {"lr": 0.5, "beta1": 0.95, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.0, "l2": 0.0, "l1": 0.0}
    ]
    assert [(a.dtype, a.shape) for a in state["slots"]["m"]] == [(np.float32, (2, 3)), (np.float64, (2,))]
    assert state["scalars"]["v"].tolist() == [6.0, 0.0]


@each_variant
def test_tensors_are_found_by_name(variant: Variant, rng: np.random.Generator) -> None:
    """A dict in another order, with other lengths of rows, is the same parameters."""
    optimizer = make(variant, rng)
    steps = batches(optimizer, 5, rng)
    run(optimizer, steps[:3])
    reordered = {
        key: trees.map_leaves(lambda leaf: leaf.copy(order="K"), optimizer.params[key])
        for key in ("embedding", "b", "w")
    }
    resumed = variant.make(reordered, lr=optimizer.lr)
    resumed.load_state_dict(optimizer.state_dict())
    if variant.cls.kind == "global":  # its sums run over the tensors in their order
        run(optimizer, steps[3:])
        return
    for each in (optimizer, resumed):
        run(each, steps[3:])
    for name in ("w", "b", "embedding"):
        assert repr(resumed.counts[name]) == repr(optimizer.counts[name])
        for slot, tree in optimizer.state.items():
            for (_, mine), (_, theirs) in zip(
                trees.leaves(resumed.state[slot][name]), trees.leaves(tree[name]), strict=True
            ):
                assert mine is theirs is None or bits(mine).tobytes() == bits(theirs).tobytes()
        for (_, mine), (_, theirs) in zip(
            trees.leaves(resumed.params[name]), trees.leaves(optimizer.params[name]), strict=True
        ):
            assert bits(mine).tobytes() == bits(theirs).tobytes()


CASTS = [
    ("float32", "float16"),
    ("float32", "bfloat16"),
    ("float64", "bfloat16"),
    ("bfloat16", "float32"),
    ("float16", "float64"),
]


@pytest.mark.parametrize(("saved", "wanted"), CASTS)
def test_casting_is_asked_for(saved: str, wanted: str, rng: np.random.Generator) -> None:
    def adam(state_dtype: str) -> schuss.Adam:
        return schuss.Adam({"w": np.ones(50, np.float32)}, state_dtype=state_dtype)

    optimizer, resumed = adam(saved), adam(wanted)
    optimizer.step({"w": rng.standard_normal(50)})
    state = optimizer.state_dict()
    sentence = (
        f"Adam: slot m of params['w'] has dtype {saved} in the state, but {wanted} here; pass cast=True to convert"
    )
    with refuses(schuss.StateError, sentence, resumed):
        resumed.load_state_dict(state)
    resumed.load_state_dict(state, cast=True)
    for name, slot in optimizer.state.items():
        expected = slot["w"].astype(np.float64).astype(BF16 if wanted == "bfloat16" else wanted)
        assert resumed.state[name]["w"].tobytes() == expected.tobytes()


def test_casting_between_the_two_kinds_of_bfloat16(rng: np.random.Generator) -> None:
    typed = schuss.Adam(np.ones(9, np.float32), state_dtype="bfloat16")
    typed.step(rng.standard_normal(9))
    declared = schuss.Adam(np.full(9, 0x3F80, np.uint16), state_dtype="bfloat16", dtype="bfloat16")
    sentence = "Adam: slot m of params has dtype bfloat16 in the state, but uint16 here; pass cast=True to convert"
    with refuses(schuss.StateError, sentence, declared):
        declared.load_state_dict(typed.state_dict())
    declared.load_state_dict(typed.state_dict(), cast=True)
    assert declared.state["v"].tobytes() == typed.state["v"].tobytes()
    typed.load_state_dict(declared.state_dict(), cast=True)
    assert declared.state["v"].tobytes() == typed.state["v"].tobytes()


def test_values_that_are_not_finite_are_loaded_as_saved(tmp_path: Path) -> None:
    optimizer = schuss.Prodigy(np.ones(3), growth_rate=math.inf)
    optimizer.state["m"][...] = [np.nan, np.inf, -np.inf]
    optimizer.state["d_numerator"][...] = np.nan
    resumed = schuss.Prodigy(np.ones(3), growth_rate=2.0)
    optimizer.save(tmp_path / "run.npz")
    resumed.load(tmp_path / "run.npz")
    assert same(resumed, optimizer)
    assert resumed.growth_rate == math.inf


# ---- state that does not fit


def adam() -> schuss.Adam:
    """Return an optimizer that has done two steps."""
    optimizer = schuss.Adam({"w": np.ones((2, 3), np.float32), "b": [np.ones(3)]})
    for _ in range(2):
        optimizer.step({"w": np.ones((2, 3)), "b": [np.ones(3)]})
    return optimizer


State = dict[str, Any]


def with_slot(state: State, index: int, array: Any) -> State:
    arrays = list(state["slots"]["v"])
    arrays[index] = array
    return state | {"slots": state["slots"] | {"v": arrays}}


def with_group(state: State, **values: Any) -> State:
    return state | {"groups": [state["groups"][0] | values]}


def without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


FROM = "pass a dict from state_dict()"
OPTIONS = "make the optimizer with the options it was saved with"
COUNTS = "the state's step counts are not valid; there must be one whole number per tensor"
MISFITS: dict[str, tuple[Callable[[State], Any], str]] = {
    "no slots": (lambda s: without(s, "slots"), f"the state has no slots; {FROM}"),
    "nothing": (
        lambda s: {},
        f"the state has no control, counts, format, groups, names, optimizer, scalars, schuss, slots, t; {FROM}",
    ),
    "foreign": (
        lambda s: {**s, "param_groups": [], "state": {}},
        f"the state has unknown entries param_groups, state; {FROM}",
    ),
    "newer": (
        lambda s: {**s, "format": 3, "more": 1},
        "the state has format 3, but this version reads format 2 and older; update schuss",
    ),
    "no number": (
        lambda s: {**s, "format": "1"},
        f"the state has format '1', which there is none of; {FROM}",
    ),
    "of SGD": (lambda s: {**s, "optimizer": "SGD"}, "the state is of SGD; load it into an optimizer of that class"),
    "fewer tensors": (
        lambda s: {**s, "names": ["['w']"], "counts": [2], "slots": {k: v[:1] for k, v in s["slots"].items()}},
        "the state has no params['b'][0]; load it over the parameters it was saved from",
    ),
    "more tensors": (
        lambda s: {**s, "names": [*s["names"], "['c']", "['d']"]},
        "the state has params['c'], params['d'] besides; load it over the parameters it was saved from",
    ),
    "other tensors": (
        lambda s: {**s, "names": ["['w']", "['b']['x']"]},
        "the state has no params['b'][0] and has params['b']['x'] besides; load it over the parameters it was saved from",
    ),
    "one name twice": (
        lambda s: {**s, "names": ["['w']", "['w']"]},
        "the state has no params['b'][0]; load it over the parameters it was saved from",
    ),
    "names of no kind": (lambda s: {**s, "names": [1, 2]}, f"the state's names are not valid; {FROM}"),
    "more groups": (
        lambda s: {**s, "groups": s["groups"] * 2},
        "the state has 2 groups, but the optimizer has 1",
    ),
    "groups of no kind": (lambda s: {**s, "groups": [5]}, f"the state's groups are not valid; {FROM}"),
    "a hyper-parameter less": (
        lambda s: {**s, "groups": [without(s["groups"][0], "eps", "lr")]},
        "group 0 of the state differs in the hyper-parameters it names (eps, lr)",
    ),
    "a hyper-parameter more": (
        lambda s: with_group(s, momentum=0.9),
        "group 0 of the state differs in the hyper-parameters it names (momentum)",
    ),
    "lr is NaN": (
        lambda s: with_group(s, lr=math.nan),
        "group 0 of the state is not valid: Adam: lr must be in [0, inf), got nan",
    ),
    "beta1 is 7": (
        lambda s: with_group(s, beta1=7.0),
        "group 0 of the state is not valid: Adam: beta1 must be in [0, 1), got 7",
    ),
    "lr is text": (
        lambda s: with_group(s, lr="0.1"),
        "group 0 of the state is not valid: Adam: lr must be a real number or a schedule, got '0.1'",
    ),
    "counts are negative": (lambda s: {**s, "counts": [2, -1]}, COUNTS),
    "counts are floats": (lambda s: {**s, "counts": [2.0, 2]}, COUNTS),
    "counts are truth values": (lambda s: {**s, "counts": [True, 2]}, COUNTS),
    "counts are too large": (lambda s: {**s, "counts": [2**63, 2]}, COUNTS),
    "counts are few": (lambda s: {**s, "counts": [2]}, COUNTS),
    "counts are none": (lambda s: {**s, "counts": None}, COUNTS),
    "t is negative": (lambda s: {**s, "t": -1}, COUNTS),
    "t is a float": (lambda s: {**s, "t": 2.0}, COUNTS),
    "a slot less": (
        lambda s: {**s, "slots": without(s["slots"], "v")},
        f"the state has no v in its slots; {OPTIONS}",
    ),
    "a slot more": (
        lambda s: {**s, "slots": {**s["slots"], "v_max": s["slots"]["v"]}},
        f"the state has unknown v_max in its slots; {OPTIONS}",
    ),
    "another slot": (
        lambda s: {**s, "slots": {"m": s["slots"]["m"], 7: s["slots"]["v"]}},
        f"the state has no v and unknown 7 in its slots; {OPTIONS}",
    ),
    "slots of no kind": (lambda s: {**s, "slots": [1]}, "the state's slots must be a dict, got list"),
    "a slot of no kind": (
        lambda s: {**s, "slots": {**s["slots"], "v": 5}},
        "slot v of the state must be a list of arrays, got int",
    ),
    "an array less": (
        lambda s: {**s, "slots": {**s["slots"], "v": s["slots"]["v"][:1]}},
        "slot v of the state has 1 arrays, but there are 2 tensors",
    ),
    "a scalar more": (
        lambda s: {**s, "scalars": {"d": np.zeros(1)}},
        f"the state has unknown d in its scalars; {OPTIONS}",
    ),
    "a shape": (
        lambda s: with_slot(s, 1, np.zeros(2)),
        "slot v of params['b'][0] has shape (2,) in the state, but (3,) here",
    ),
    "a shape that would broadcast": (
        lambda s: with_slot(s, 0, np.zeros((1, 3), np.float32)),
        "slot v of params['w'] has shape (1, 3) in the state, but (2, 3) here",
    ),
    "no array": (
        lambda s: with_slot(s, 1, None),
        "slot v of params['b'][0] has none in the state, but an array here; make the optimizer as it was saved",
    ),
    **{
        f"dtype {dtype}": (
            lambda s, dtype=dtype: with_slot(s, 1, np.zeros(3, dtype)),
            f"slot v of params['b'][0] has dtype {dtype} in the state, but float64 here; pass cast=True to convert",
        )
        for dtype in ("float32", "int64", "bool", "object", "complex128", ">f8")
    },
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_state_that_does_not_fit(misfit: str) -> None:
    spoil, sentence = MISFITS[misfit]
    optimizer = adam()
    state = optimizer.state_dict()
    for array in state["slots"]["m"]:
        array[...] = 5  # would be seen, were a part of it taken over
    with refuses(schuss.StateError, f"Adam: {sentence}", optimizer):
        optimizer.load_state_dict(spoil(state))
    optimizer.load_state_dict(state)
    assert (optimizer.state["m"]["w"] == 5).all()


@pytest.mark.parametrize("state", [None, 5, [], "run.npz"])
def test_what_is_no_state(state: Any) -> None:
    optimizer = adam()
    sentence = f"Adam: state must be a dict from state_dict(), got {type(state).__name__}"
    with refuses(TypeError, sentence, optimizer):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("dtype", ["int64", "bool", "object", "complex128", "<U3", "V8", "uint32", "uint8", "f4,f4"])
def test_what_cannot_be_cast(dtype: str) -> None:
    optimizer = adam()
    array = np.zeros(3, dtype)
    sentence = (
        f"Adam: slot v of params['b'][0] has dtype {array.dtype} in the state, which cannot be converted to float64"
    )
    with refuses(schuss.StateError, sentence, optimizer):
        optimizer.load_state_dict(with_slot(optimizer.state_dict(), 1, array), cast=True)


@each_class
def test_any_broken_entry(cls: type[Optimizer]) -> None:
    """Whatever stands in place of an entry, also two levels down, is a StateError or fits; nothing else."""
    optimizer = cls({"w": np.ones((2, 3)), "b": np.ones(2)})
    grads = {"w": np.ones((2, 3)), "b": np.ones(2)}
    optimizer.step(grads, **inputs_for(optimizer, grads, np.random.default_rng(0)))
    good = optimizer.state_dict()
    rubbish = [
        None,
        5,
        -1,
        math.nan,
        "x",
        b"",
        True,
        [],
        {},
        (),
        [None],
        [[1]],
        {"a": 5},
        {1: 2},
        np.zeros(0),
        object(),
    ]
    spoilt = [good | {key: value} for key in without(good, "schuss") for value in rubbish]
    for key in ("slots", "scalars"):
        spoilt += [good | {key: good[key] | {name: value}} for name in good[key] for value in rubbish]
        spoilt += [good | {key: good[key] | {name: [value, value]}} for name in good[key] for value in rubbish]
    spoilt += [good | {"groups": [good["groups"][0] | {"lr": value}]} for value in rubbish]
    for state in spoilt:
        before = snapshot(optimizer)
        try:
            optimizer.load_state_dict(state)
            optimizer.load_state_dict(good)
        except schuss.StateError as error:
            said = str(error)
            assert said.startswith(f"{cls.__name__}: ")
            assert "\n" not in said
            assert snapshot(optimizer) == before


PAIRS = [(a, b) for a in VARIANTS for b in VARIANTS if a.cls is b.cls and a != b]


@pytest.mark.parametrize(("saved", "other"), PAIRS, ids=str)
def test_state_of_other_options(saved: Variant, other: Variant, rng: np.random.Generator) -> None:
    """Between two combinations of the construction flags, state goes on exactly or is refused."""
    optimizer = saved.make({"w": rng.standard_normal((4, 3))})
    steps = batches(optimizer, 4, rng)
    run(optimizer, steps[:2])
    resumed = other.make(copy.deepcopy(optimizer.params))
    before = snapshot(resumed)
    try:
        resumed.load_state_dict(optimizer.state_dict())
    except schuss.StateError:
        assert snapshot(resumed) == before
        return
    for each in (optimizer, resumed):
        run(each, steps[2:])
    assert same(resumed, optimizer)


def test_the_sentence_for_other_options() -> None:
    plain, nesterov = (schuss.SGD(np.ones(3), momentum=0.9, nesterov=on) for on in (False, True))
    sentence = (
        "SGD: the state was saved with nesterov=False, but the optimizer was made with nesterov=True; "
        "make it with the options it was saved with"
    )
    with refuses(schuss.StateError, sentence, nesterov):
        nesterov.load_state_dict(plain.state_dict())
    state = nesterov.state_dict()
    state["groups"][0]["dampening"] = 0.5
    sentence = (
        "SGD: the groups of the state are not valid: SGD: nesterov=True goes without dampening; leave dampening at 0"
    )
    with refuses(schuss.StateError, sentence, nesterov):
        nesterov.load_state_dict(state)
    sentence = "SGD: the state has unknown buffer in its slots; make the optimizer with the options it was saved with"
    without_momentum = schuss.SGD(np.ones(3))
    state = plain.state_dict()
    state["groups"][0]["momentum"] = 0.0
    with refuses(schuss.StateError, sentence, without_momentum):
        without_momentum.load_state_dict(state)


# ---- files


@each_suffix
def test_damaged_and_foreign_files(suffix: str, tmp_path: Path) -> None:
    optimizer, path = adam(), tmp_path / f"run.{suffix}"
    optimizer.save(path)
    whole = path.read_bytes()
    before = snapshot(optimizer)
    foreign = tmp_path / f"foreign.{suffix}"
    np.savez(tmp_path / "foreign.npz", m=np.ones(3))
    for content in (whole[:-1], whole[: len(whole) // 2], b"", b"text", whole[:200] + b"\1" + whole[201:]):
        path.write_bytes(content)
        with pytest.raises(schuss.CheckpointError) as caught:
            optimizer.load(path)
        assert str(caught.value).startswith(f"{path}: is damaged or not a checkpoint of schuss (")
    if suffix == "npz":
        with pytest.raises(schuss.CheckpointError):
            optimizer.load(foreign)
    with pytest.raises(FileNotFoundError):
        optimizer.load(tmp_path / f"missing.{suffix}")
    with pytest.raises(schuss.CheckpointError, match=r"has the suffix '\.pt'; use \.safetensors or \.npz"):
        optimizer.save(tmp_path / "run.pt")
    assert snapshot(optimizer) == before


@each_suffix
def test_checkpoints_of_something_else(suffix: str, tmp_path: Path) -> None:
    optimizer, path = adam(), tmp_path / f"run.{suffix}"
    checkpoint.write(path, {"m": np.ones(3)}, {"epoch": 5})
    sentence = f"Adam: {path} holds no optimizer state ('params' is missing)"
    with refuses(schuss.StateError, sentence, optimizer):
        optimizer.load(path)
    schuss.SGD(np.ones(3)).save(path)
    with refuses(schuss.StateError, "Adam: the state is of SGD; load it into an optimizer of that class", optimizer):
        optimizer.load(path)
    smaller = schuss.Adam({"w": np.ones((2, 2), np.float32), "b": [np.ones(3)]})
    smaller.save(path)
    sentence = "Adam: slot m of params['w'] has shape (2, 2) in the state, but (2, 3) here"
    with refuses(schuss.StateError, sentence, optimizer):
        optimizer.load(path)
    smaller.save(path, params=True)
    sentence = (
        f"Adam: params['w'] is float32 (2, 2) in {path}, but float32 (2, 3) here; "
        "load it over the parameters it was saved from"
    )
    with refuses(schuss.StateError, sentence, optimizer):
        optimizer.load(path)


@each_suffix
def test_parameters_in_files_change_all_or_nothing(suffix: str, tmp_path: Path) -> None:
    saved, path = adam(), tmp_path / f"run.{suffix}"
    saved.save(path, params=True)
    optimizer = schuss.Adam({"w": np.full((2, 3), 5, np.float32), "b": [np.full(3, 5.0)]})
    optimizer.params["b"][0].flags.writeable = False
    with refuses(BufferError, "Adam: params['b'][0] has become read-only; make it writeable again", optimizer):
        optimizer.load(path)
    optimizer.params["b"][0].flags.writeable = True
    optimizer.load(path)
    assert same(optimizer, saved)
    wide = schuss.Adam({"w": np.full((2, 3), 5, np.float32), "b": [np.full(3, 5, np.float32)]}, state_dtype="float64")
    sentence = (
        f"Adam: params['b'][0] is float64 (3,) in {path}, but float32 (3,) here; "
        "load it over the parameters it was saved from"
    )
    with refuses(schuss.StateError, sentence, wide):
        wide.load(path)


@each_suffix
def test_a_refused_save_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    optimizer, path = adam(), tmp_path / f"run.{suffix}"
    optimizer.save(path)
    before = path.read_bytes()
    optimizer.step({"w": np.ones((2, 3)), "b": [np.ones(3)]})
    folder = tmp_path / "none"
    with pytest.raises(OSError, match="none"):
        optimizer.save(folder / path.name)
    assert path.read_bytes() == before
    optimizer.save(path)
    assert path.read_bytes() != before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


def test_errors_are_value_errors() -> None:
    assert issubclass(schuss.StateError, ValueError)
    assert issubclass(schuss.CheckpointError, ValueError)
    assert not issubclass(schuss.CheckpointError, schuss.StateError)


def test_groups_that_were_added_have_the_numbers_of_the_constructor() -> None:
    """Also beside overrides, whose groups come last: a checkpoint goes into an optimizer made with all groups."""

    def params() -> dict[str, Any]:
        return {"w": np.ones(1), "bias": np.ones(1)}

    common: dict[str, Any] = {"lr": 1.0, "overrides": {"*bias": {"lr": 0.25}}}
    first, second = schuss.Group(params()), schuss.Group(params(), lr=0.5)
    grown = schuss.SGD([first], **common)
    grown.step([{"w": np.ones(1), "bias": np.ones(1)}])
    grown.add(second)
    made = schuss.SGD([schuss.Group(copy.deepcopy(each.params), lr=0.75) for each in (first, second)], **common)
    made.load_state_dict(grown.state_dict())
    assert [group["lr"] for group in grown.groups] == [1.0, 0.5, 0.25, 0.25]
    grads = [params(), params()]
    for opt in (grown, made):
        opt.step(grads)
    assert same(grown, made)
    assert [[float(p[0]) for p in each.values()] for each in grown.params] == [[-1.0, 0.5], [0.5, 0.75]]


class Failing:
    """A schedule that fails when told to."""

    def __init__(self) -> None:
        self.fails = False

    def __call__(self, step: int) -> float:
        if self.fails:
            raise KeyError("no value")
        return 1.0


@pytest.mark.parametrize("option", ["clip", "noise", "decay"])
def test_schedules_of_options_that_fail_change_nothing(option: str) -> None:
    """Whatever asks for their values: assignment, loading, reset, rebinding."""
    schedule = Failing()
    options: dict[str, Any] = {
        "clip": schuss.ClipValue(schedule),
        "noise": schuss.GradientNoise(schedule),
        "decay": schuss.Decay(schedule),
    }
    bounds = schuss.constraints.L2Ball(0.5)
    opt, other = (schuss.Adam(np.ones(3), lr=0.1, bounds=bounds, **{option: options[option]}) for _ in range(2))
    opt.step(np.ones(3))
    saved, before, elsewhere = other.state_dict(), snapshot(opt), np.ones(3)
    groups = [dict(group) for group in opt.groups]
    schedule.fails = True
    for attempt in (
        lambda: setattr(opt, "lr", 0.5),
        lambda: opt.groups[0].__setitem__("lr", 0.5),
        lambda: opt.load_state_dict(saved),
        opt.reset,
        lambda: opt.rebind(elsewhere),
    ):
        with pytest.raises(KeyError):
            attempt()
        assert snapshot(opt) == before
        assert opt.lr == 0.1
        assert [dict(group) for group in opt.groups] == groups
    schedule.fails = False
    twin = copy.deepcopy(opt)
    for each in (opt, twin):
        each.step(-np.ones(3))
    assert same(opt, twin)
    assert np.linalg.norm(opt.params) < 0.5000001
    np.testing.assert_array_equal(elsewhere, np.ones(3))


def test_an_average_that_cannot_be_attached_changes_nothing() -> None:
    schedule = Failing()
    opt = schuss.SGD(np.ones(2), lr=1.0, clip=schuss.ClipValue(schedule))
    schedule.fails = True
    with pytest.raises(KeyError):
        schuss.EMA(opt)
    schedule.fails = False
    opt.step(np.full(2, 3.0))
    np.testing.assert_array_equal(opt.params, np.zeros(2))
    assert opt._averages is None


@pytest.mark.parametrize("anew", ["reset", "rebind", "add", "average"])
def test_last_is_of_the_last_step(anew: str) -> None:
    """Also where the plan was made anew after a hyper-parameter had changed."""
    opt: Any = schuss.SGD([schuss.Group([np.ones(2)])], lr=1.0)
    opt.step([[np.ones(2)]])
    opt.lr = 0.5
    grads = [[np.ones(2)]]
    if anew == "reset":
        opt.reset()
    elif anew == "rebind":
        opt.rebind([[np.ones(2)]])
    elif anew == "add":
        opt.add(schuss.Group([np.ones(1)]))
        grads.append([np.ones(1)])
    else:
        opt = schuss.EMA(opt)
    opt.step(grads)
    assert (opt.last.step, opt.last.lr, len(opt.last.hyperparameters)) == (opt.t - 1, 0.5, 1 + (anew == "add"))


@pytest.mark.parametrize("option", ["clip", "noise", "decay"])
def test_a_deep_copy_has_schedules_of_its_own_in_options(option: str) -> None:
    plateau = schuss.schedules.Plateau(1.0)
    options: dict[str, Any] = {
        "clip": schuss.ClipNorm(plateau),
        "noise": schuss.GradientNoise(plateau),
        "decay": schuss.Decay(plateau),
    }
    opt = schuss.SGD(np.ones(2), lr=plateau, **{option: options[option]})
    twin = copy.deepcopy(opt)
    name = {"clip": "max_norm", "noise": "eta", "decay": "rate"}[option]
    assert getattr(getattr(opt, option), name) is plateau
    copied = getattr(getattr(twin, option), name)
    assert copied is not plateau
    assert copied is twin.lr  # what was one schedule still is
