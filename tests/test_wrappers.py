"""Every wrapper of the registry: offers what an optimizer offers, goes on where it stopped, changes all or nothing."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import json
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wrapping import (
    ARGUMENTS,
    PAIRS,
    SINGLES,
    WRAPPERS,
    Chain,
    batches,
    levels,
    make,
    memory,
    parameters,
    possible,
    run,
    step,
    waiting,
)

import schuss
from schuss import trees
from schuss.hyperparameters import Domain
from schuss.wrapper import Count, ScheduledCount, Wrapper

CHAINS = possible(SINGLES + PAIRS)
ALONE = possible([(cls.__name__, "AdamW") for cls in WRAPPERS])
SUFFIXES = ["npz", "safetensors"]

each_class = pytest.mark.parametrize("cls", WRAPPERS, ids=lambda cls: cls.__name__)
each_chain = pytest.mark.parametrize("chain", CHAINS, ids="-".join)
each_alone = pytest.mark.parametrize("chain", ALONE, ids=lambda chain: chain[0])
each_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def test_most_combinations_are_tested() -> None:
    assert len(ALONE) == len(WRAPPERS) >= 6
    assert len(CHAINS) > 0.7 * len(SINGLES + PAIRS)


def test_the_registry() -> None:
    """It can be called again, and every wrapper is found by its name; so are the optimizers."""
    assert schuss.wrappers() == schuss.wrappers() == {cls.__name__: cls for cls in WRAPPERS}
    assert all(getattr(schuss, cls.__name__) is cls for cls in WRAPPERS)
    assert not set(schuss.wrappers()) & set(schuss.optimizers())
    assert {*schuss.wrappers(), *schuss.optimizers(), "wrappers", "Wrapper"} <= set(dir(schuss))
    with pytest.raises(AttributeError, match="module 'schuss' has no attribute 'lookahead'"):
        schuss.lookahead  # noqa: B018


# ---- going on


def by_state_dict(chain: Chain, wrapper: Any, folder: Path) -> Any:
    resumed = make(chain, copy.deepcopy(wrapper.params))
    resumed.load_state_dict(wrapper.state_dict())
    return resumed


def by_pickled_state_dict(chain: Chain, wrapper: Any, folder: Path) -> Any:
    resumed = make(chain, copy.deepcopy(wrapper.params))
    resumed.load_state_dict(pickle.loads(pickle.dumps(wrapper.state_dict())))
    return resumed


def by_file(suffix: str) -> Callable[[Chain, Any, Path], Any]:
    def resume(chain: Chain, wrapper: Any, folder: Path) -> Any:
        wrapper.save(folder / f"run.{suffix}", params=True)
        resumed = make(chain, trees.map_leaves(np.zeros_like, wrapper.params))
        resumed.load(folder / f"run.{suffix}")
        return resumed

    return resume


def by_file_without_parameters(chain: Chain, wrapper: Any, folder: Path) -> Any:
    wrapper.save(folder / "run.npz")
    resumed = make(chain, copy.deepcopy(wrapper.params))
    resumed.load(folder / "run.npz")
    return resumed


def into_a_used_one(chain: Chain, wrapper: Any, folder: Path) -> Any:
    resumed = make(chain, parameters(5))
    run(resumed, batches(resumed, 3, 9))
    for (_, mine), (_, theirs) in zip(trees.leaves(resumed.params), trees.leaves(wrapper.params), strict=True):
        mine[...] = theirs
    resumed.load_state_dict(wrapper.state_dict())
    return resumed


def over_other_arrays(chain: Chain, wrapper: Any, folder: Path) -> Any:
    params = copy.deepcopy(wrapper.params)
    wrapper.rebind(params)
    assert wrapper.params["w"] is params["w"]
    return wrapper


def over_arrays_in_another_order(chain: Chain, wrapper: Any, folder: Path) -> Any:
    params = copy.deepcopy(wrapper.params)
    resumed = make(chain, {"b": params["b"], "w": params["w"]})
    resumed.load_state_dict(wrapper.state_dict())
    return resumed


def by_deepcopy(chain: Chain, wrapper: Any, folder: Path) -> Any:
    return copy.deepcopy(wrapper)


def by_copy(chain: Chain, wrapper: Any, folder: Path) -> Any:
    twin = copy.copy(wrapper)
    assert twin.params["w"] is wrapper.params["w"]
    assert twin.base is not wrapper.base
    return twin


WAYS = {
    "state dict": by_state_dict,
    "pickled state dict": by_pickled_state_dict,
    **{suffix: by_file(suffix) for suffix in SUFFIXES},
    "npz without parameters": by_file_without_parameters,
    "used": into_a_used_one,
    "rebind": over_other_arrays,
    "another order": over_arrays_in_another_order,
    "deepcopy": by_deepcopy,
    "copy": by_copy,
}


@pytest.mark.parametrize("way", WAYS)
@each_chain
def test_a_run_goes_on(chain: Chain, way: str, tmp_path: Path) -> None:
    """Five steps, saved and resumed, and six more are eleven uninterrupted ones."""
    if way == "another order" and getattr(schuss, chain[-1]).kind == "global":
        pytest.skip("sums over all tensors are added in their order")
    uninterrupted, interrupted = make(chain, parameters(1)), make(chain, parameters(1))
    steps = batches(uninterrupted, 11, 2)
    run(uninterrupted, steps)
    run(interrupted, steps[:5])
    saved = memory(interrupted)
    resumed = WAYS[way](chain, interrupted, tmp_path)
    if way != "another order":
        assert memory(resumed) == saved
    run(resumed, steps[5:])
    if way == "another order":
        assert trees.map_leaves(lambda leaf: leaf.tobytes(), resumed.params) == trees.map_leaves(
            lambda leaf: leaf.tobytes(), {"b": uninterrupted.params["b"], "w": uninterrupted.params["w"]}
        )
        return
    assert memory(resumed) == memory(uninterrupted)


RESUME = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from schuss import trees
from wrapping import batches, make, memory, parameters, run

found = {}
for name in json.loads(sys.stdin.read()):
    resumed = make(tuple(name.split("-")), trees.map_leaves(np.zeros_like, parameters(1)))
    resumed.load(f"{sys.argv[2]}/{name}.npz")
    run(resumed, batches(resumed, 11, 2)[5:])
    found[name] = hashlib.sha256(repr(memory(resumed)).encode()).hexdigest()
print(json.dumps(found))
"""


def test_a_run_goes_on_in_a_new_process(tmp_path: Path) -> None:
    expected = {}
    for chain in CHAINS:
        wrapper = make(chain, parameters(1))
        steps = batches(wrapper, 11, 2)
        run(wrapper, steps[:5])
        wrapper.save(tmp_path / f"{'-'.join(chain)}.npz", params=True)
        run(wrapper, steps[5:])
        expected["-".join(chain)] = hashlib.sha256(repr(memory(wrapper)).encode()).hexdigest()
    command = [sys.executable, "-c", RESUME, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, input=json.dumps(list(expected)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


@each_alone
def test_pickle(chain: Chain) -> None:
    """Of an optimizer whose schedules pickle."""
    (name, *_), rate = chain, schuss.schedules.cosine(0.1, steps=9)
    arguments = {key: value for key, value in ARGUMENTS.get(name, {}).items() if not callable(value)}
    wrapper = getattr(schuss, name)(schuss.AdamW(parameters(1), lr=rate, nonfinite="skip"), **arguments)
    steps = batches(wrapper, 8, 3)
    run(wrapper, steps[:3])
    params, twin = pickle.loads(pickle.dumps((wrapper.params, wrapper)))
    assert repr(twin) == repr(wrapper)
    assert memory(twin) == memory(wrapper)
    assert twin.lr == rate
    for each in (wrapper, twin):
        run(each, steps[3:])
    assert memory(twin) == memory(wrapper)
    assert twin.params["w"] is params["w"], "parameters that are pickled together stay together"
    assert twin.params["w"] is not wrapper.params["w"]


@each_chain
def test_a_deepcopy_copies_everything_once(chain: Chain) -> None:
    wrapper = make(chain, parameters(1))
    run(wrapper, batches(wrapper, 3, 3))
    before = memory(wrapper)
    model, twin = copy.deepcopy((wrapper.params, wrapper))
    assert twin.params["w"] is model["w"]
    assert twin.base._leaves[0] is model["w"]
    assert [type(level) for level in levels(twin)] == [type(level) for level in levels(wrapper)]
    run(twin, batches(twin, 4, 4))
    assert memory(wrapper) == before


@each_chain
def test_reset_is_a_new_start(chain: Chain) -> None:
    wrapper = make(chain, parameters(1))
    run(wrapper, batches(wrapper, 5, 3))
    fresh = make(chain, copy.deepcopy(wrapper.params))
    wrapper.reset()
    steps = batches(wrapper, 6, 4)
    for each in (wrapper, fresh):
        run(each, steps)
    assert memory(wrapper) == memory(fresh)


# ---- all or nothing


def broken(state: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Callable[[Any], None]]]:
    """Return ways to spoil a state dict, at every level and place."""
    found: list[tuple[tuple[Any, ...], Callable[[Any], None]]] = []

    def at(root: Any) -> Any:
        for key in path:
            root = root[key]
        return root

    if isinstance(state, dict):
        # Entries that may have any value, or whose absence is none.
        for key, value in state.items():
            if (*path, key)[-1] == "schuss":
                continue
            found.append(((*path, key, "missing"), lambda root, key=key: at(root).pop(key)))
            found.append(((*path, key, "another"), lambda root, key=key: at(root).__setitem__(key, object())))
            found += broken(value, (*path, key))
        found.append(((*path, "unknown"), lambda root: at(root).__setitem__("odd", 1)))
    elif isinstance(state, list) and state and isinstance(state[0], np.ndarray):
        found.append(((*path, "short"), lambda root: at(root).pop()))
        found.append(((*path, "shape"), lambda root: at(root).__setitem__(0, np.zeros((2, 9), np.float32))))
        found.append(((*path, "dtype"), lambda root: at(root).__setitem__(0, np.zeros(state[0].shape, np.int8))))
    return found


@each_chain
def test_state_that_does_not_fit_changes_nothing(chain: Chain) -> None:
    """Whichever entry of whichever level is spoilt, no level has taken over anything."""
    if len(chain) == 2 and chain[-1] not in ("AdamW", "AdaHessian", "Prodigy"):
        return
    saved = make(chain, parameters(2))
    run(saved, batches(saved, 4, 3))
    state = saved.state_dict()
    wrapper = make(chain, parameters(1))
    before = memory(wrapper)
    ways = broken(state)
    assert len(ways) > 20
    for place, spoil in ways:
        spoilt = copy.deepcopy(state)
        spoil(spoilt)
        with pytest.raises((schuss.StateError, TypeError)) as caught:
            wrapper.load_state_dict(spoilt)
        assert re.match(r"[A-Z]\w+: ", str(caught.value)), (place, str(caught.value))
        assert memory(wrapper) == before, place
    wrapper.load_state_dict(state)
    assert memory(wrapper) != before


def test_the_sentences_for_state_of_something_else(tmp_path: Path) -> None:
    plain, wrapped = schuss.SGD(np.ones(3)), schuss.Lookahead(schuss.SGD(np.ones(3)))
    cases: list[tuple[Any, Any, str]] = [
        (wrapped, plain, "Lookahead: the state is of SGD alone; load it into the optimizer, or before wrapping it"),
        (wrapped, schuss.EMA(plain), "Lookahead: the state is of EMA; load it into a wrapper of that class"),
        (
            wrapped,
            schuss.Lookahead(schuss.EMA(plain)),
            "Lookahead: the state has EMA inside, but here it wraps SGD; nest the wrappers as they were",
        ),
        (
            wrapped,
            schuss.Lookahead(schuss.Adam(np.ones(3))),
            "SGD: the state is of Adam; load it into an optimizer of that class",
        ),
    ]
    for target, source, sentence in cases:
        with pytest.raises(schuss.StateError) as caught:
            target.load_state_dict(source.state_dict())
        assert str(caught.value) == sentence
    with pytest.raises(TypeError, match=r"^Lookahead: state must be a dict from state_dict\(\), got list$"):
        wrapped.load_state_dict([])
    plain.save(tmp_path / "plain.npz")
    with pytest.raises(schuss.StateError, match=r"^Lookahead: "):
        wrapped.load(tmp_path / "plain.npz")
    wrapped.save(tmp_path / "wrapped.npz")
    with pytest.raises(schuss.StateError, match=r"^SGD: "):
        plain.load(tmp_path / "wrapped.npz")
    with pytest.raises(schuss.CheckpointError):
        wrapped.load(__file__)


def test_what_is_no_name_of_a_class_does_not_break_a_sentence() -> None:
    plain = schuss.SGD(np.ones(3))
    wrapped = schuss.Lookahead(schuss.EMA(schuss.SGD(np.ones(3))))
    state, alone = wrapped.state_dict(), plain.state_dict()
    cases: list[tuple[Any, Any, str]] = [
        (plain, alone | {"optimizer": "a\nb"}, r"the state is of 'a\\nb'; load"),
        (plain, state | {"wrapper": "a\nb"}, r"the state is of 'a\\nb' around"),
        (wrapped, alone | {"optimizer": "a\nb"}, r"the state is of 'a\\nb' alone"),
        (wrapped, state | {"wrapper": "a\nb"}, r"the state is of 'a\\nb'; load"),
        (
            schuss.Lookahead(plain),
            state | {"optimizer": state["optimizer"] | {"wrapper": "a\nb"}},
            r"the state has 'a\\nb' inside",
        ),
    ]
    for target, changed, sentence in cases:
        with pytest.raises(schuss.StateError, match=sentence):
            target.load_state_dict(changed)


@each_chain
def test_a_step_that_fails_changes_nothing(chain: Chain) -> None:
    """Neither at once nor where it comes in the middle of a period."""
    failing: list[tuple[str, Callable[[Any, Any, Any], Any]]] = [
        ("shape", lambda grads, further, wrapper: grads.__setitem__("w", np.zeros((2, 2)))),
        ("dtype", lambda grads, further, wrapper: grads.__setitem__("w", np.zeros((5, 3), np.int32))),
        ("nesting", lambda grads, further, wrapper: grads.pop("w")),
        ("input", lambda grads, further, wrapper: further.__setitem__("odd", grads)),
        ("read-only", lambda grads, further, wrapper: wrapper.params["w"].setflags(write=False)),
    ]
    wrapper = make(chain, parameters(1))
    for number in range(6):
        for name, spoil in failing:
            ((grads, further),) = batches(wrapper, 1, number)
            spoil(grads, further, wrapper)
            before = memory(wrapper)
            try:
                step(wrapper, grads, further)
            except (TypeError, ValueError, BufferError, KeyError):
                assert memory(wrapper) == before, name
            else:
                # A micro-batch that only waits needs no parameters, and hands on its inputs only with the last.
                assert name in ("input", "read-only")
                assert waiting(wrapper)
            finally:
                wrapper.params["w"].setflags(write=True)
        run(wrapper, batches(wrapper, 1, number))


class Ends:
    """A schedule that fails at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, step: int) -> float:
        if step >= self.step:
            raise ZeroDivisionError
        return 0.125


@each_alone
def test_a_schedule_that_fails_changes_nothing(chain: Chain) -> None:
    wrapper = make(chain, parameters(1), lr=Ends(2))
    before: list[Any] = []
    for grads, further in batches(wrapper, 9, 3):
        before = memory(wrapper)
        try:
            step(wrapper, grads, further)
        except ZeroDivisionError:
            break
    else:
        pytest.fail("the schedule did not fail")
    assert memory(wrapper) == before
    assert wrapper.t == 2


@each_alone
def test_nonfinite_gradients_that_raise_change_nothing(chain: Chain) -> None:
    if chain[0] == "LossScale":
        return
    wrapper = make(chain, parameters(1), nonfinite="raise")
    number = 0
    for grads, further in batches(wrapper, 5, 3):
        bad = copy.deepcopy(grads)
        bad["w"][1, 1] = np.nan
        before = memory(wrapper)
        try:
            step(wrapper, bad, further)
            assert chain[0] == "Accumulate"
            break
        except FloatingPointError:
            number += 1
            assert memory(wrapper) == before
        step(wrapper, grads, further)
    assert number or chain[0] == "Accumulate"


@each_chain
def test_skipped_steps_do_not_count(chain: Chain) -> None:
    """After gradients that are skipped all is as if they had not been, but for what learns from them."""
    wrapper, twin = make(chain, parameters(1)), make(chain, parameters(1))
    names = {type(level).__name__ for level in levels(wrapper)}
    if names & {"LossScale", "SAM"}:
        pytest.skip("learns from skipped steps, or finds them before the optimizer does")
    waits = "Accumulate" in names
    for number, (grads, further) in enumerate(batches(wrapper, 6, 3)):
        if number % 2 == 0 and not waiting(wrapper):
            before, t = memory(wrapper), wrapper.t
            bad = copy.deepcopy(grads)
            bad["w"][1, 1] = np.inf
            step(wrapper, bad, further)
            while waiting(wrapper):
                step(wrapper, bad, further)
            assert wrapper.t == t
            assert wrapper.last.skipped
            if not waits:
                assert memory(wrapper) == before
        for each in (wrapper, twin):
            step(each, grads, further)
    assert wrapper.t == twin.t
    for (_, a), (_, b) in zip(trees.leaves(wrapper.params), trees.leaves(twin.params), strict=True):
        assert a.tobytes() == b.tobytes()


@each_chain
def test_a_step_without_any_gradient_does_not_count(chain: Chain) -> None:
    wrapper = make(chain, parameters(1))
    run(wrapper, batches(wrapper, 4, 3))
    if any(type(level).__name__ in ("Accumulate", "SAM") for level in levels(wrapper)):
        return
    before = memory(wrapper)
    nothing = trees.map_leaves(lambda leaf: None, wrapper.params)
    wrapper.step(nothing, **dict.fromkeys(wrapper.base._kernel()["inputs"]), **dict.fromkeys(wrapper.given, 1.0))
    assert memory(wrapper) == before


# ---- what an optimizer offers


@each_chain
def test_hyper_parameters_pass_through(chain: Chain) -> None:
    wrapper = make(chain, parameters(1))
    base = wrapper.base
    wrapper.lr = 0.5
    assert (base.lr, wrapper.lr, wrapper.groups[0]["lr"]) == (0.5, 0.5, 0.5)
    wrapper.lr = rate = schuss.schedules.cosine(0.1, steps=9)
    assert base.lr is rate
    wrapper.groups[0]["l2"] = 0.25
    assert wrapper.l2 == 0.25
    assert list(levels(wrapper))[-1] is base
    assert wrapper.params is base.params
    assert wrapper.counts == base.counts
    assert wrapper.last is None
    assert wrapper.inputs == base.inputs
    run(wrapper, batches(wrapper, 6, 3))
    assert wrapper.t == base.t > 0
    assert wrapper.last.lr == base.last.lr
    assert set(base.state) <= set(wrapper.state)
    assert wrapper.nbytes >= base.nbytes
    name = type(base).__name__
    with pytest.raises(AttributeError, match=f"^{name}: lrr is not an attribute that can be set; did you mean lr[?]$"):
        wrapper.lrr = 1.0
    with pytest.raises(AttributeError, match=f"^{name}: clip is chosen at construction; make a new optimizer$"):
        wrapper.clip = None
    with pytest.raises(ValueError, match=rf"^{name}: lr must be in .0, inf., got -1$"):
        wrapper.lr = -1
    with pytest.raises(AttributeError, match=f"{name}' object has no attribute 'odd'"):
        wrapper.odd  # noqa: B018
    for attribute in ("t", "params", "state", "last", "optimizer", "base"):
        with pytest.raises(AttributeError):
            setattr(wrapper, attribute, 1)


@each_class
def test_arguments_are_checked_and_can_be_set(cls: type[Wrapper]) -> None:
    name = cls.__name__
    wrapper = make((name, "AdamW"), parameters(1))
    for key, each in cls.arguments.items():
        value = getattr(wrapper, key)
        setattr(wrapper, key, value)
        assert getattr(wrapper, key) == value
        for bad in ("1", None, True, np.ones(2)):
            with pytest.raises(TypeError, match=f"^{name}: {key} must be a "):
                setattr(wrapper, key, bad)
        lower = each.domain.lower
        for bad in (np.nan, lower - 1, *([lower] if each.domain.lower_open else [])):
            with pytest.raises(ValueError, match=rf"^{name}: {key} must be in {re.escape(str(each.domain))}, got "):
                setattr(wrapper, key, bad)
        if not each.scheduled:
            with pytest.raises(TypeError, match=f"^{name}: {key} must be a real number, got <function"):
                setattr(wrapper, key, lambda step: 1)
        assert getattr(wrapper, key) == value
    for key in cls.options:
        with pytest.raises(AttributeError, match=f"^{name}: {key} is chosen at construction; make a new {name}$"):
            setattr(wrapper, key, None)
    with pytest.raises(TypeError, match=f"^{name}: odd is not an argument of {name}; it takes "):
        cls(wrapper.base, odd=1)
    with pytest.raises(TypeError, match=f"^{name}: optimizer must be an optimizer or a wrapper of one, got ndarray; "):
        cls(np.ones(3))


def test_sets_of_whole_numbers() -> None:
    assert str(Domain(whole=True, lower=0.0)) == "{0, 1, 2, ...}"
    assert {str(each.__metadata__[0]) for each in (Count, ScheduledCount)} == {"{1, 2, ...}"}


@each_alone
def test_repr_shows_what_is_wrapped(chain: Chain) -> None:
    wrapper = make(chain, parameters(1))
    name = chain[0]
    shown = [*wrapper._arguments, *wrapper.options]
    assert re.fullmatch(
        rf"{name}\(AdamW\(lr=.*; 4 tensors, t=0\){''.join(f', {key}=.*' for key in shown)}\)", repr(wrapper)
    )
    assert list(inspect.signature(type(wrapper)).parameters) == ["optimizer", *shown]


@each_class
def test_eval_and_train_pass_through(cls: type[Wrapper]) -> None:
    for name in ("ScheduleFreeAdamW", "AdamW"):
        wrapper = make((cls.__name__, name), parameters(1))
        if wrapper is None:
            continue
        run(wrapper, batches(wrapper, 5, 3))
        plain = copy.deepcopy(wrapper.base)
        before = memory(wrapper)
        wrapper.eval()
        plain.eval()
        assert wrapper.params["w"].tobytes() == plain.params["w"].tobytes()
        sentence = (
            rf"^{name}: the parameters are those of eval\(\) or a swapped\(\) block; "
            r"call train\(\) or leave the block first$"
        )
        for refused in (
            lambda w=wrapper: w.step(w.params),
            lambda w=wrapper: w.state_dict(),
            lambda w=wrapper: w.load_state_dict({}),
            lambda w=wrapper: w.reset(),
            lambda w=wrapper: w.rebind(w.params),
            lambda w=wrapper: copy.deepcopy(w),
            lambda w=wrapper, name=name: cls(w.base, **ARGUMENTS.get(cls.__name__, {})),
        ):
            with pytest.raises(RuntimeError, match=sentence):
                refused()
        wrapper.train()
        assert memory(wrapper) == before


@each_alone
def test_groups(chain: Chain, tmp_path: Path) -> None:
    def build() -> Any:
        rng = np.random.default_rng(3)
        first = schuss.Group({"w": rng.standard_normal((4, 3)).astype(np.float32)}, lr=0.5)
        optimizer = schuss.AdamW([first, schuss.Group([rng.standard_normal(5)])], lr=0.25, nonfinite="skip")
        return getattr(schuss, chain[0])(optimizer, **ARGUMENTS.get(chain[0], {}))

    one, other = build(), build()
    rng = np.random.default_rng(4)
    steps: list[Any] = [([{"w": rng.standard_normal((4, 3))}, [rng.standard_normal(5)]], {}) for _ in range(8)]
    run(one, steps[:3])
    one.groups[1]["lr"] = 0.125
    one.save(tmp_path / "run.npz", params=True)
    other.load(tmp_path / "run.npz")
    assert [group["lr"] for group in other.groups] == [0.5, 0.125]
    for each in (one, other):
        run(each, steps[3:])
    assert memory(other) == memory(one)
    before, group = memory(one), schuss.Group([np.ones(2)])
    keeps = one._arrays or one._passes
    with pytest.raises(ValueError, match=rf"^{chain[0]}: ") if keeps else contextlib.nullcontext():
        one.add(group)
    if keeps:
        assert memory(one) == before
        return
    step(one, [*steps[0][0], [np.ones(2)]], {})
    assert len(one.groups) == 3
    assert one.groups[2]["lr"] == 0.25


@each_alone
def test_one_thread_at_a_time(chain: Chain) -> None:
    """While a thread is inside a step, no other may step, read or change any level."""
    reached, opened = threading.Event(), threading.Event()

    def slow(step: int) -> float:
        if waiting[0]:
            reached.set()
            assert opened.wait(30)
        return 0.125

    waiting = [False]
    wrapper = make(chain, parameters(1), lr=slow)
    ((grads, further),) = batches(wrapper, 1, 3)
    while getattr(wrapper, "accumulated", 1) == 0:  # up to the micro-batch with which the optimizer steps
        step(wrapper, grads, further)
    if hasattr(wrapper, "perturbed"):
        with wrapper.perturbed(grads):
            pass
    waiting[0] = True
    thread = threading.Thread(target=wrapper.step, args=(grads,))
    thread.start()
    try:
        assert reached.wait(30)
        waiting[0] = False
        intrusions: dict[str, Callable[[], Any]] = {
            "step": lambda: wrapper.step(grads),
            "assignment": lambda: setattr(wrapper, "lr", 0.5),
            "state_dict": wrapper.state_dict,
            "load_state_dict": lambda: wrapper.load_state_dict({}),
            "save": lambda: wrapper.save("never.npz"),
            "reset": wrapper.reset,
            "rebind": lambda: wrapper.rebind(wrapper.params),
            "add": lambda: wrapper.add(schuss.Group(np.ones(2))),
            "deepcopy": lambda: copy.deepcopy(wrapper),
            "eval": wrapper.eval,
            "train": wrapper.train,
            **{key: lambda key=key: setattr(wrapper, key, getattr(wrapper, key)) for key in wrapper.arguments},
        }
        for name, intrusion in intrusions.items():
            with pytest.raises(RuntimeError) as caught:
                intrusion()
            assert str(caught.value).endswith(
                "another thread is inside this optimizer; give each thread its own, or use a lock"
            ), name
    finally:
        opened.set()
        thread.join(30)
    assert wrapper.t == 1


# ---- documentation


@each_class
def test_the_docstring_is_complete(cls: type[Wrapper]) -> None:
    """Summary, parameters with the ranges that are checked, notes that name the state, an example."""
    text = inspect.cleandoc(cls.__doc__ or "")
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", text, flags=re.MULTILINE)
    assert parts[1::2] == ["Parameters", "Notes", "Examples"]
    assert text.splitlines()[0].endswith((".", ":"))
    described: dict[str, str] = {}
    for names, description in re.findall(r"^(\w[\w, ]*) : .*\n((?:    .*\n?)+)", parts[2], re.MULTILINE):
        described |= dict.fromkeys(names.split(", "), " ".join(description.split()))
    assert sorted(described) == sorted(["optimizer", *cls.arguments, *cls.options])
    for key, each in cls.arguments.items():
        assert re.search(rf"(in|In) {re.escape(str(each.domain))}", described[key]), key
        assert each.doc, f"{key} needs a #: comment"
    wrapper = make((cls.__name__, "AdamW"), parameters(1))
    slots = {name for each in wrapper._passes.values() for name in each._element_slots}
    for name in (set(wrapper._arrays) | slots) - {None}:
        assert f"`{name}`" in parts[4], name
    assert parts[4].startswith("State:")
    assert ">>> " in parts[6]


def test_a_state_of_a_wrapper_is_named_where_an_optimizer_loads_it(tmp_path: Path) -> None:
    wrapped, alone = schuss.EMA(schuss.SGD(np.ones(3))), schuss.SGD(np.ones(3))
    sentence = "is of EMA around an optimizer; load it into the same wrappers$"
    with pytest.raises(schuss.StateError, match=f"^SGD: the state {sentence}"):
        alone.load_state_dict(wrapped.state_dict())
    path = tmp_path / "ema.npz"
    wrapped.save(path)
    with pytest.raises(schuss.StateError, match=f"^SGD: .*ema.npz {sentence}"):
        alone.load(path)
