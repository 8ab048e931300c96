"""Whatever is refused, or cut off in the middle, has changed nothing: a population of bad calls, interrupts, and no memory."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import json
import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from support import CLASSES, bits, by_rows, inputs_for, tries
from test_errors import IMMOVABLE, TAMPERED, UNUSABLE, refuses
from wrapping import PAIRS, SINGLES, levels
from wrapping import make as wrapped

import schuss
from schuss import _core, trees

#: What a refusal may be; an error of a schedule or a closure passes through.
REFUSALS = (TypeError, ValueError, BufferError, FloatingPointError, RuntimeError, KeyError)

# ---- all memory of an optimizer ------------------------------------------------------------------------------------------

#: What holds nothing from one call to the next, or is made again from what does.
SCRATCH = {
    "_incoming": "gradients of a closure, while they are checked",
    "_inbox": "the pass that checks them",
    "_writes": "what the step under way will write",
    "_step_of": "the matrices of the step under way",
    "_ascent": "where SAM keeps the weights while they are perturbed",
    "_stand_ins": "what GaLore's optimizer steps in the place of the weights",
    "_appliers": "the passes that add what it has made of these",
    "_rescale": "the pass of ClipUpdate",
    "_before": "the weights before the step of ClipUpdate",
    "_average_share": "the weight of the average in the step under way",
    "learnt": "what the clips of the step under way will have learnt",
    "_last": "kept for `last`",
    "_known": "the linear model that Levenberg-Marquardt makes again",
}


def memory(thing: Any, show: Callable[[np.ndarray], bytes] = np.ndarray.tobytes) -> dict[str, Any]:
    """Return all that an optimizer or wrapper holds, by where it is: arrays, counts, hyper-parameters, schedules' states."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, np.ndarray):
            found[path] = (str(value.dtype), value.shape, value.strides, show(value))
        elif isinstance(value, np.generic):
            found[path] = (str(value.dtype), value.tobytes())
        elif isinstance(value, dict):
            found[path] = list(map(repr, value))
            for key, each in value.items():
                walk(each, f"{path}[{key!r}]")
        elif isinstance(value, list | tuple):
            found[path] = len(value)
            for i, each in enumerate(value):
                walk(each, f"{path}[{i}]")
        elif isinstance(value, _core.Plan):
            outcome = value.outcome()
            found[path] = repr([outcome[key] for key in ("number", "step", "measured", "norm", "skipped")])
        elif isinstance(value, _core.Guard):
            with value:  # which raises where somebody is still inside
                found[path] = "left"
        elif type(value).__module__.startswith(("schuss.", "test_")) and hasattr(value, "__dict__"):
            for key, each in vars(value).items():
                if key not in SCRATCH:
                    walk(each, f"{path}.{key}")
        else:
            found[path] = repr(value)

    walk(thing, "")
    return found


def lost(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return where two memories differ."""
    return [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]


def numbers(array: np.ndarray) -> bytes:
    """Return an array's bits, with one pattern for every NaN."""
    return bits(array).tobytes() if array.dtype.kind in "fcV" else array.tobytes()


def arrays_in(*values: Any) -> list[np.ndarray]:
    """Return the arrays anywhere in nestings."""
    found: list[np.ndarray] = []
    for value in values:
        if isinstance(value, np.ndarray):
            found.append(value)
        elif isinstance(value, dict):
            found += arrays_in(*value.values())
        elif isinstance(value, list | tuple):
            found += arrays_in(*value)
    return found


# ---- trees ---------------------------------------------------------------------------------------------------------------

LEAF_SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
NESTED = st.recursive(
    LEAF_SHAPES.map(lambda shape: ("leaf", shape)),
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda children: st.sampled_from(["list", "tuple", "dict"]).map(lambda kind: (kind, children))
    ),
    max_leaves=6,
)


def grown(description: tuple[str, Any], make: Callable[[tuple[int, ...]], Any]) -> Any:
    """Return the described tree with `make(shape)` as leaves."""
    kind, content = description
    if kind == "leaf":
        return make(content)
    children = [grown(child, make) for child in content]
    return {"list": children, "tuple": tuple(children), "dict": {f"k{i}": c for i, c in enumerate(children)}}[kind]


def replaced(tree: Any, index: int, value: Any) -> Any:
    """Return the tree with another leaf."""
    leaves = [leaf for _, leaf in trees.leaves(tree)]
    leaves[index] = value
    return trees.rebuild(tree, iter(leaves))


def leaf_of(tree: Any, index: int) -> Any:
    return [leaf for _, leaf in trees.leaves(tree)][index]


# ---- subjects: optimizers of every kind, in pairs ------------------------------------------------------------------------


@dataclass
class Dial:
    """A schedule that does what it is told."""

    good: float
    now: Any = None

    def __call__(self, step: int) -> Any:
        if isinstance(self.now, Exception):
            raise self.now
        return self.good if self.now is None else self.now[0]

    def __repr__(self) -> str:
        return "Dial"


class ScheduleError(ValueError):
    """An error of a schedule."""


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norm clip": {"clip": schuss.ClipNorm(1.0)},
    "clips that learn": {"clip": [schuss.ClipValue(0.5), schuss.AutoClip(50, window=4), schuss.AdaGC(warmup=2)]},
    "clip by rows": {"clip": schuss.ClipAdaptive(0.1), "nonfinite": "propagate"},
    "raise": {"nonfinite": "raise"},
    "skip": {"nonfinite": "skip"},
    "skip once": {"nonfinite": schuss.Skip(budget=1), "clip": schuss.AutoClip(50, window=4)},
    "skip never": {"nonfinite": schuss.Skip(budget=0)},
    "noise": {"noise": schuss.GradientNoise(0.1)},
    "decay": {"decay": schuss.Decay(0.1, kind="independent"), "l1": 0.1},
    "box": {"bounds": (-1.0, 1.0), "l2": 0.1, "maximize": True},
    "ball": {"bounds": schuss.constraints.L2Ball(1.0)},
    "narrow state": {"state_dtype": "bfloat16", "flush_subnormals": True},
    "threads": {"threads": 2},
}

SHAPES = {"C": lambda array: array, "F": np.asfortranarray}


@dataclass
class Subject:
    """An optimizer, and its twin, which sees no bad call."""

    make: Callable[[], tuple[Any, Dial]]
    opt: Any = None
    dial: Dial = field(default_factory=lambda: Dial(0.0))
    twin: Any = None
    twin_dial: Dial = field(default_factory=lambda: Dial(0.0))

    def __post_init__(self) -> None:
        self.opt, self.dial = self.make()
        self.twin, self.twin_dial = self.make()

    @property
    def base(self) -> Any:
        return list(levels(self.opt))[-1]


@st.composite
def subjects(draw: st.DrawFn) -> Subject:
    """Return any optimizer over any tree, alone or in wrappers."""
    description = draw(NESTED)
    seed = draw(st.integers(0, 99))
    wraps = draw(st.integers(0, 3)) == 0
    dtypes: list[Any] = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
    if wraps:
        chain = draw(st.sampled_from(SINGLES + PAIRS))
        options: dict[str, Any] = {}
    else:
        cls = draw(st.sampled_from(CLASSES))
        options = OPTIONS[draw(st.sampled_from(sorted(OPTIONS)))]
        grouped = draw(st.booleans()) and draw(st.booleans())
        name = draw(st.sampled_from([name for name in ("lr", "l2") if name in cls.hyperparameters]))
        fortran = draw(st.booleans()) and not by_rows(cls) and "clip" not in options and cls.kind != "matrix"

    def params() -> Any:
        rng = np.random.default_rng(seed)

        def leaf(shape: tuple[int, ...]) -> np.ndarray:
            array = np.asarray(rng.standard_normal(shape)).astype(dtypes[rng.integers(len(dtypes))])
            return np.asfortranarray(array) if not wraps and fortran else array

        return grown(description, leaf)

    def make() -> tuple[Any, Dial]:
        tree = params()
        if wraps:
            dial = Dial(0.125)
            rated = "lr" in getattr(schuss, chain[-1]).hyperparameters
            made = wrapped(chain, tree, **({"lr": dial} if rated else {"l2": dial}))
            return made, dial
        dial = Dial(options.get(name, cls.hyperparameters[name].default))
        where = [schuss.Group(tree), schuss.Group([np.ones(2, np.float32)])] if grouped else tree
        return cls(where, **options | {name: dial}), dial

    try:
        subject = Subject(make)
    except (ValueError, TypeError) as error:  # options that do not go together
        assert str(error).startswith(cls.__name__ if not wraps else chain)
        assume(False)
    assume(subject.opt is not None)
    return subject


@dataclass
class Call:
    """A call of `step`, to be spoilt."""

    grads: Any
    inputs: dict[str, Any]
    faults: list[str] = field(default_factory=list)
    #: Brings back what was done to the parameters or schedules.
    repairs: list[Callable[[], None]] = field(default_factory=list)


def good_call(subject: Subject, seed: int) -> Call:
    rng = np.random.default_rng(seed)

    def like(leaf: np.ndarray) -> np.ndarray:
        return np.asarray(rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    grads = trees.map_leaves(like, subject.opt.params)
    return Call(grads, inputs_for(subject.base, grads, rng))


def do(opt: Any, call: Call) -> None:
    """Step; where a level asks for gradients at perturbed weights, these are they."""
    if hasattr(opt, "perturbed") and not opt._found:
        good = trees.map_leaves(np.ones_like, opt.params)
        with opt.perturbed(good):
            pass
    opt.step(call.grads, **call.inputs)


# ---- faults --------------------------------------------------------------------------------------------------------------

Fault = Callable[[Call, Subject, int, np.random.Generator], None]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__.replace("_", " ")] = function
    return function


def spoilt(make: Callable[[Any, Subject, np.random.Generator], Any]) -> Fault:
    """Return the fault of one gradient."""

    def spoil(call: Call, subject: Subject, index: int, rng: np.random.Generator) -> None:
        call.grads = replaced(call.grads, index, make(leaf_of(call.grads, index), subject, rng))

    return spoil


def some(values: list[Any], rng: np.random.Generator) -> Any:
    return values[rng.integers(len(values))]


def other_shape(leaf: Any, subject: Subject, rng: np.random.Generator) -> Any:
    shapes = [(*np.shape(leaf), 1), (1, *np.shape(leaf)), tuple(n + 1 for n in np.shape(leaf)), (), (1,), (0,), (2, 2)]
    return np.ones(some(shapes, rng), np.float32)


def written(leaf: Any, subject: Subject, rng: np.random.Generator) -> Any:
    """Return a view of what a step writes, in any place of the tree: parameters and state."""
    held = [array for array in [*subject.base._leaves, *subject.base._state_arrays()] if array.size]
    for level in levels(subject.opt):
        held += [array for each in getattr(level, "_arrays", {}).values() for array in each if array.size]
    array = some(held, rng).reshape(-1, order="A")
    views = [array, array[::-1], array[:1], array[-1:].reshape(()), array.reshape(1, -1)]
    fitting = [view for view in views if view.shape == np.shape(leaf)]
    if array.size >= np.size(leaf) > 0:
        fitting.append(array[array.size - np.size(leaf) :].reshape(np.shape(leaf)))
    return some(fitting, rng) if fitting else array


def not_finite(leaf: Any, subject: Subject, rng: np.random.Generator) -> Any:
    leaf = np.array(leaf)
    if leaf.size and leaf.dtype.kind in "fcV":
        leaf.reshape(-1)[rng.integers(leaf.size)] = some([math.nan, math.inf, -math.inf], rng)
    return leaf


def function_of_gradients() -> np.ndarray:
    return np.ones(3)


GRADIENTS: dict[str, Callable[[Any, Subject, np.random.Generator], Any]] = {
    **{name: (lambda leaf, s, rng, make=make: make()) for name, (make, _) in UNUSABLE.items()},
    "another shape": other_shape,
    "memory that is written": written,
    "not finite": not_finite,
    "in a list": lambda leaf, s, rng: [leaf],
    "a list of numbers": lambda leaf, s, rng: np.asarray(leaf, np.float64).tolist(),
    "complex": lambda leaf, s, rng: np.asarray(leaf, np.complex64),
    "a function": lambda leaf, s, rng: function_of_gradients,
    "swapped bytes": lambda leaf, s, rng: np.asarray(leaf, ">f4"),
    "object": lambda leaf, s, rng: np.asarray(leaf, object),
    "masked array": lambda leaf, s, rng: np.ma.masked_array(leaf),
    "None": lambda leaf, s, rng: None,
    "another layout": lambda leaf, s, rng: np.asarray(leaf, np.float64)[..., None].repeat(2, -1)[..., 0],
    "read-only": lambda leaf, s, rng: np.broadcast_to(np.asarray(leaf), np.shape(leaf)),
}
FAULTS |= {f"gradient: {name}": spoilt(make) for name, make in GRADIENTS.items()}


def containers(tree: Any) -> Any:
    """Return another outermost container."""
    return list(tree.values()) if isinstance(tree, dict) else dict(enumerate(tree))


def pruned(tree: Any) -> Any:
    """Return the tree without the last entry of its outermost container."""
    return dict(list(tree.items())[:-1]) if isinstance(tree, dict) else tree[:-1]


def extended(tree: Any) -> Any:
    """Return the tree with one more entry in its outermost container."""
    return {**tree, "more": np.ones(1)} if isinstance(tree, dict) else type(tree)([*tree, np.ones(1)])


def renamed(tree: Any) -> Any:
    """Return the tree with another key, or another order."""
    if isinstance(tree, dict):
        return {f"{key}x": value for key, value in tree.items()}
    return type(tree)(reversed(tree))


def nesting(change: Callable[[Any], Any]) -> Fault:
    def spoil(call: Call, subject: Subject, index: int, rng: np.random.Generator) -> None:
        if isinstance(call.grads, list | tuple | dict):
            call.grads = change(call.grads)

    return spoil


FAULTS |= {
    f"nesting: {name}": nesting(change)
    for name, change in {
        "an entry less": pruned,
        "an entry more": extended,
        "another kind": containers,
        "other keys or order": renamed,
        "one tree deeper": lambda tree: [tree],
        "None for all": lambda tree: None,
    }.items()
}


@fault
def parameter_frozen(call: Call, subject: Subject, index: int, rng: np.random.Generator) -> None:
    leaf = leaf_of(subject.opt.params, index)
    if not leaf.flags.writeable:
        return
    leaf.flags.writeable = False
    call.repairs.append(lambda: setattr(leaf.flags, "writeable", True))


def tampering(change: Callable[[np.ndarray], None]) -> Fault:
    def spoil(call: Call, subject: Subject, index: int, rng: np.random.Generator) -> None:
        tree = subject.opt.params
        copies = trees.map_leaves(lambda leaf: leaf.copy(order="K"), tree)
        leaf = leaf_of(tree, index)
        if not leaf.size or any("parameter" in each for each in call.faults):
            return
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            change(leaf)
            call.repairs.append(lambda: subject.opt.rebind(copies))

    return spoil


FAULTS |= {
    f"parameter: {name}": tampering(change)
    for name, change in {
        "freed": lambda array: array.resize(0, refcheck=False),
        "larger": lambda array: array.resize(array.size + 1000, refcheck=False),
        "of integers": lambda array: setattr(array, "dtype", np.dtype(f"i{array.itemsize}")),
        "another shape": lambda array: setattr(array, "shape", (array.size, 1)),
    }.items()
}


@fault
def schedule(call: Call, subject: Subject, index: int, rng: np.random.Generator) -> None:
    bad = [(math.nan,), (math.inf,), (-1.0,), (None,), ("0.1",), (1j,), (True,), (np.ones(2),), ScheduleError("no")]
    subject.dial.now = some(bad, rng)
    call.repairs.append(lambda: setattr(subject.dial, "now", None))


@fault
def scale(call: Call, subject: Subject, index: int, rng: np.random.Generator) -> None:
    call.inputs = call.inputs | {"grad_scale": some([0.0, -1.0, math.nan, math.inf, None, "1", 1j, True], rng)}


@fault
def unknown_input(call: Call, subject: Subject, index: int, rng: np.random.Generator) -> None:
    call.inputs = call.inputs | {"hesian": call.grads}


@fault
def missing_input(call: Call, subject: Subject, index: int, rng: np.random.Generator) -> None:
    if call.inputs:
        gone = some(sorted(call.inputs), rng)
        call.inputs = {key: value for key, value in call.inputs.items() if key != gone}


@fault
def misfit_input(call: Call, subject: Subject, index: int, rng: np.random.Generator) -> None:
    if not call.inputs:
        return
    key = some(sorted(call.inputs), rng)
    bad = [None, "loss", math.nan, np.ones(7), [np.ones(2)], {}, math.inf]
    value = call.inputs[key]
    if not isinstance(value, float | str | type(None)):
        with contextlib.suppress(IndexError, TypeError, ValueError, StopIteration):
            make = some(list(GRADIENTS.values()), rng)
            bad = [replaced(value, index, make(leaf_of(value, index), subject, rng))]
    call.inputs = call.inputs | {key: some(bad, rng)}


TABLE: dict[str, Counter[str]] = {}


def note(fault: str, outcome: str) -> None:
    TABLE.setdefault(fault, Counter())[outcome] += 1


@pytest.fixture(scope="module", autouse=True)
def _write_table() -> Iterator[None]:
    """Write what was tried, and what became of it, to the file that an environment variable names."""
    yield
    if path := os.environ.get("SCHUSS_TABLE"):
        with Path(path).open("a") as file:
            file.writelines(json.dumps({"fault": name} | counts) + "\n" for name, counts in sorted(TABLE.items()))


PARTS, EXAMPLES = tries(1, 100), tries(250, 2_000)
IN_FULL = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # what fails says enough, and would be tried for minutes to be made smaller
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of assigning shapes and dtypes
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numbers that are not finite
@pytest.mark.parametrize("part", range(PARTS))
@IN_FULL
@given(subject=subjects(), data=st.data())
def test_a_bad_step_changes_nothing(part: int, subject: Subject, data: st.DataObject) -> None:
    """Whatever is refused leaves every byte; whatever is accepted is what the twin does with clean copies."""
    for seed in (1, 2):
        call = good_call(subject, seed)
        for each in (subject.opt, subject.twin):
            do(each, call)
    count = len(list(trees.leaves(subject.opt.params)))
    call = good_call(subject, 3)
    for name in data.draw(st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=3, unique=True)):
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        with contextlib.suppress(IndexError, StopIteration):  # the tree was changed by the fault before
            FAULTS[name](call, subject, data.draw(st.integers(0, count - 1)), rng)
            call.faults.append(name)
    label = call.faults[0] if len(call.faults) == 1 else "several at once"
    if hasattr(subject.opt, "perturbed"):  # which is a call of its own
        if call.repairs:
            return
        with subject.opt.perturbed(good_call(subject, 4).grads), subject.twin.perturbed(good_call(subject, 4).grads):
            pass
    before, given_arrays = memory(subject.opt), arrays_in(call.grads, call.inputs)
    bytes_given = [array.tobytes() for array in given_arrays]
    note(label, "tries")
    try:
        subject.opt.step(call.grads, **call.inputs)
    except REFUSALS as error:
        note(label, "refused")
        assert "\n" not in str(error)
        assert not lost(before, memory(subject.opt)), (call.faults, str(error))
        assert [array.tobytes() for array in given_arrays] == bytes_given
        for repair in call.repairs:
            repair()
    else:
        note(label, "accepted")
        assert [array.tobytes() for array in given_arrays] == bytes_given
        for repair in call.repairs:
            repair()
        clean = Call(*(trees.map_leaves(cleaned, tree) for tree in (call.grads, call.inputs)))
        subject.twin.step(clean.grads, **clean.inputs)
    call = good_call(subject, 5)
    for each in (subject.opt, subject.twin):
        do(each, call)
    assert not lost(memory(subject.opt, numbers), memory(subject.twin, numbers)), call.faults
    assert repr(subject.opt.last) == repr(subject.twin.last)


def cleaned(leaf: Any) -> Any:
    """Return an array of its own."""
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf
