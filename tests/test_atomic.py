"""Whatever is refused, or cut off in the middle, has changed nothing: a population of bad calls, interrupts, and no memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import shutil
import signal
import subprocess
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
from interpreters import python
from support import CLASSES, SLOW, bits, by_rows, inputs_for, tries
from test_errors import IMMOVABLE, UNUSABLE, refuses
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
    "_projections": "passes onto constraints, which a plan makes again",
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
            found[path] = (str(value.dtype), value.shape, show(value))
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
            if "_passes" in path or "_outbox" in path:  # which nobody asks what its last step did
                return
            walk({key: each for key, each in value.outcome().items() if key != "nonfinite_tensor"}, f"{path}.outcome")
        elif isinstance(value, _core.Guard):
            with value:  # which raises where somebody is still inside
                found[path] = "left"
        elif type(value).__module__.startswith(("schuss.", "test_")) and hasattr(value, "__dict__"):
            for key, each in vars(value).items():
                of_clips = path.endswith("_clipper") and key in ("step", "scale")  # of the step under way
                of_copies = path.endswith("_outbox") and key == "_counts"
                if not (key in SCRATCH or of_clips or of_copies):
                    walk(each, f"{path}.{key}")
        else:
            found[path] = getattr(value, "__qualname__", None) or repr(value)

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
        if not str(error).startswith(chain if wraps else cls.__name__):
            raise
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
    if hasattr(opt, "perturbed"):
        with opt.perturbed(trees.map_leaves(np.ones_like, opt.params)):
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
            before = leaf.shape, leaf.dtype
            change(leaf)
            if (leaf.shape, leaf.dtype) == before:
                return
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
    # Of one seed, because Hypothesis would try the first faults of a list far more often than the others.
    rng = np.random.default_rng(data.draw(st.integers(0, 2**63)))
    for name in rng.choice(sorted(FAULTS), size=rng.choice([1, 1, 2, 3]), replace=False):
        # A fault may not apply to what the one before has left.
        with contextlib.suppress(IndexError, StopIteration, TypeError, ValueError, AttributeError):
            FAULTS[name](call, subject, int(rng.integers(count)), rng)
            call.faults.append(str(name))
    if not call.faults:
        return
    label = call.faults[0] if len(call.faults) == 1 else "several at once"
    if hasattr(subject.opt, "perturbed"):  # which is a call of its own
        if call.repairs:
            return
        with subject.opt.perturbed(good_call(subject, 4).grads), subject.twin.perturbed(good_call(subject, 4).grads):
            pass
    before, given_arrays = memory(subject.opt), arrays_in(call.grads, call.inputs)
    bytes_given = [array.tobytes() for array in given_arrays]
    note(label, "tries")
    error = None
    try:
        subject.opt.step(call.grads, **call.inputs)
    except REFUSALS as refusal:
        error = str(refusal)
    note(label, "accepted" if error is None else "refused")
    assert [array.tobytes() for array in given_arrays] == bytes_given
    if error is not None:
        assert "\n" not in error
        assert not lost(before, memory(subject.opt)), (call.faults, error)
    subject.dial.now = None  # which rebinding evaluates
    for repair in call.repairs:
        repair()
    if error is None:
        clean = Call(*(trees.map_leaves(cleaned, tree) for tree in (call.grads, call.inputs)))
        subject.twin.step(clean.grads, **clean.inputs)
    faults, call = call.faults, good_call(subject, 5)
    for each in (subject.opt, subject.twin):
        do(each, call)
    apart = lost(memory(subject.opt, numbers), memory(subject.twin, numbers))
    if any(each.startswith("parameter: ") for each in faults):  # what the last steps did is forgotten by `rebind`
        begun_anew = ("_plan.outcome", "_copies", "_pass._counts")
        apart = [each for each in apart if not any(what in each for what in begun_anew)]
    else:
        assert repr(subject.opt.last) == repr(subject.twin.last)
    assert not apart, faults


def cleaned(leaf: Any) -> Any:
    """Return an array of its own."""
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


# ---- other bad calls -----------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "assignment": lambda opt, bad: setattr(opt, "l2", bad),
    "assignment in a group": lambda opt, bad: opt.groups[0].__setitem__("l2", bad),
    "group": lambda opt, bad: opt.add(schuss.Group(np.ones(3), l2=bad)),
    "group of no array": lambda opt, bad: opt.add(schuss.Group([np.ones(2), bad])),
    "group over parameters": lambda opt, bad: opt.add(schuss.Group(opt.params)),
    "rebind": lambda opt, bad: opt.rebind(bad),
    "state": lambda opt, bad: opt.load_state_dict(bad),
    "state with other counts": lambda opt, bad: opt.load_state_dict(opt.state_dict() | {"counts": bad}),
    "state of other groups": lambda opt, bad: opt.load_state_dict(opt.state_dict() | {"groups": [{"l2": bad}]}),
    "no observers": lambda opt, bad: opt._observe(bad),
}
BAD_VALUES = [math.nan, -1.0, math.inf, None, "0.1", 1j, {}, [], np.ones(2)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("part", range(PARTS))
@IN_FULL
@given(subject=subjects(), name=st.sampled_from(sorted(CALLS)), bad=st.sampled_from(BAD_VALUES))
def test_other_bad_calls_change_nothing(part: int, subject: Subject, name: str, bad: Any) -> None:
    for each in (subject.opt, subject.twin):
        do(each, good_call(subject, 1))
    before, last = memory(subject.opt), repr(subject.opt.last)
    note(f"call: {name}", "tries")
    try:
        CALLS[name](subject.opt, bad)
    except (*REFUSALS, AttributeError):
        note(f"call: {name}", "refused")
    else:
        note(f"call: {name}", "accepted")
        return
    assert not lost(before, memory(subject.opt))
    assert repr(subject.opt.last) == last
    for each in (subject.opt, subject.twin):
        do(each, good_call(subject, 2))
    assert not lost(memory(subject.opt, numbers), memory(subject.twin, numbers))


@settings(max_examples=tries(100, 5_000), deadline=None, database=None)
@given(data=st.data())
def test_one_bad_parameter_in_any_tree(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(CLASSES))
    params = grown(data.draw(NESTED), lambda shape: np.ones(shape))
    index = data.draw(st.integers(0, len(list(trees.leaves(params))) - 1))
    name = data.draw(st.sampled_from(sorted({**UNUSABLE, **IMMOVABLE})))
    make, (error, sentence) = {**UNUSABLE, **IMMOVABLE}[name]
    path = [path for path, _ in trees.leaves(params)][index]
    note(f"parameter at construction: {name}", "tries")
    with refuses((error, f"{cls.__name__}: params{path} {sentence}")):
        cls(replaced(params, index, make()))
    note(f"parameter at construction: {name}", "refused")
    assert all((leaf == 1).all() for _, leaf in trees.leaves(params))


# ---- optimizers that evaluate a function -------------------------------------------------------------------------------

CLOSURES = list(schuss.closure_optimizers().values())


class ClosureError(Exception):
    """An error of a closure."""


@dataclass
class Bowl:
    """Half a sum of squares; at the call of a number it does something else."""

    params: Any
    residuals: bool
    at: int = 0
    does: Callable[[Any], Any] | None = None
    calls: int = 0

    def __call__(self) -> Any:
        self.calls += 1
        off = [np.asarray(leaf, np.float64) - 0.5 for _, leaf in trees.leaves(self.params)]
        vector = np.concatenate([(each + 0.1 * each**3).ravel() for each in off])
        slope = np.concatenate([(1 + 0.3 * each**2).ravel() for each in off])
        found: Any = (vector, np.diag(slope))
        if not self.residuals:
            grads = [(each + 0.1 * each**3) * (1 + 0.3 * each**2) for each in off]
            grads = [grad.astype(leaf.dtype) for grad, (_, leaf) in zip(grads, trees.leaves(self.params), strict=True)]
            found = (float(vector @ vector) / 2, trees.rebuild(self.params, iter(grads)))
        return self.does(found) if self.does is not None and self.calls == self.at else found


def raises(found: Any) -> Any:
    raise ClosureError


EVALUATIONS: dict[str, Callable[[Any], Any]] = {
    "raises": raises,
    "returns None": lambda found: None,
    "returns one": lambda found: found[:1],
    "returns text": lambda found: ("loss", found[1]),
    "returns NaN": lambda found: (found[0] * math.nan, found[1]),
    "returns infinity": lambda found: (found[0] + math.inf, found[1]),
    "returns no gradients": lambda found: (found[0], None),
    "returns other gradients": lambda found: (found[0], [np.ones(7)]),
    "returns gradients of objects": lambda found: (found[0], trees.map_leaves(lambda g: g.astype(object), found[1])),
    "returns gradients that are not finite": lambda found: (found[0], trees.map_leaves(lambda g: g * np.nan, found[1])),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(IN_FULL, max_examples=tries(100, 10_000))
@given(
    cls=st.sampled_from(CLOSURES),
    name=st.sampled_from(sorted(EVALUATIONS)),
    at=st.integers(1, 6),
    dtype=st.sampled_from([np.float64, np.float32]),
    before_it=st.integers(0, 3),
)
def test_a_closure_that_fails_changes_nothing(
    cls: type[schuss.ClosureOptimizer], name: str, at: int, dtype: Any, before_it: int
) -> None:
    def made() -> Any:
        rng = np.random.default_rng(3)
        return cls({"w": rng.standard_normal((2, 3)).astype(dtype), "b": [rng.standard_normal(4).astype(dtype)]})

    opt, twin = made(), made()
    residuals = cls.returns != ("loss", "grads")
    for _ in range(before_it):
        for each in (opt, twin):
            each.step(Bowl(each.params, residuals))
    before = memory(opt)
    note(f"closure: {name}", "tries")
    try:
        opt.step(Bowl(opt.params, residuals, at, EVALUATIONS[name]))
    except (*REFUSALS, ClosureError, AttributeError):
        note(f"closure: {name}", "refused")
    else:
        note(f"closure: {name}", "accepted")
        return
    assert not lost(before, memory(opt))
    for each in (opt, twin):
        each.step(Bowl(each.params, residuals))
    assert not lost(memory(opt, numbers), memory(twin, numbers))


# ---- functions that work in place ----------------------------------------------------------------------------------------


def spoilt_tool(name: str, rng: np.random.Generator) -> tuple[Callable[[], Any], list[np.ndarray]]:
    """Return a call of a function with one bad argument, and the arrays that it could change."""
    workers = [[rng.standard_normal((2, 3)), rng.standard_normal(4)] for _ in range(5)]
    out = [np.ones((2, 3)), np.ones(4)]
    weights: Any = [1.0, 2.0, 3.0, 4.0, 5.0]
    if name == "weights":
        bad = [math.nan, math.inf, -1.0, None, "1", 1j, True]
        weights = some([weights[:4], [*weights, 1.0], [0.0] * 5, [some(bad, rng), *weights[1:]], "12345", 3, {}], rng)
    elif name == "gradients":
        makes = [make for each, (make, _) in UNUSABLE.items()]
        workers[rng.integers(5)][rng.integers(2)] = some([*makes, lambda: np.ones(9)], rng)()
    elif name == "out":
        frozen = np.ones(4)
        frozen.flags.writeable = False
        bad_out: list[Any] = [frozen, np.ones(5), np.ones(8)[::2], np.ones(4, int), 1.0]
        out[1] = some(bad_out, rng)
    rules: list[Callable[[], Any]] = [
        lambda: schuss.aggregation.mean(workers, weights=weights, out=out),
        lambda: schuss.aggregation.sign_vote(workers, weights=weights, out=out),
        lambda: schuss.aggregation.geometric_median(workers, weights=weights, out=out),
    ]
    if name != "weights":
        rules += [
            lambda: schuss.aggregation.median(workers, out=out),
            lambda: schuss.aggregation.trimmed_mean(workers, 1, out=out),
            lambda: schuss.aggregation.krum(workers, 1, out=out),
        ]
    return some(rules, rng), arrays_in(workers, out)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(IN_FULL, max_examples=tries(100, 10_000))
@given(name=st.sampled_from(["weights", "gradients", "out"]), seed=st.integers(0, 2**32 - 1))
def test_aggregation_changes_nothing_that_it_refuses(name: str, seed: int) -> None:
    call, arrays = spoilt_tool(name, np.random.default_rng(seed))
    before = [array.tobytes() for array in arrays]
    note(f"aggregation: {name}", "tries")
    with pytest.raises(REFUSALS):
        call()
    note(f"aggregation: {name}", "refused")
    assert [array.tobytes() for array in arrays] == before


# ---- interrupts ----------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """What the handler of a signal raises."""


@contextlib.contextmanager
def interrupting(at: int) -> Iterator[Counter[str]]:
    """Send this process a signal at the bytecode of a number within schuss, whose handler raises; count the bytecodes."""
    count: Counter[str] = Counter()

    def handler(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if "/schuss/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            count["bytecodes"] += 1
            if count["bytecodes"] == at:
                count["sent"] += 1
                signal.raise_signal(signal.SIGUSR1)
        return trace

    before = signal.signal(signal.SIGUSR1, handler)
    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(tracing)
        signal.signal(signal.SIGUSR1, before)


@dataclass
class Operation:
    """Something that is done to an optimizer as a whole."""

    make: Callable[[], Any]
    run: Callable[[Any], Any]  # returns what goes on, if that is not the optimizer itself


def tensors() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {"w": rng.standard_normal((4, 3)), "b": [rng.standard_normal(3).astype(np.float32)]}


def made(cls: Any, **options: Any) -> Callable[[], Any]:
    """Return what makes an optimizer that has done two steps."""

    def make() -> Any:
        opt = cls(tensors(), **options)
        for _ in range(2):
            stepped(opt)
        return opt

    return make


def around(*chain: str) -> Callable[[], Any]:
    def make() -> Any:
        opt = wrapped(chain, tensors())
        for _ in range(2):
            stepped(opt)
        return opt

    return make


def stepped(opt: Any) -> None:
    rng = np.random.default_rng(7)
    grads = trees.map_leaves(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), opt.params)
    do(opt, Call(grads, inputs_for(list(levels(opt))[-1], grads, rng)))


def closed(cls: Any) -> Callable[[], Any]:
    def make() -> Any:
        opt = cls(tensors())
        evaluated(opt)
        return opt

    return make


def evaluated(opt: Any) -> None:
    opt.step(Bowl(opt.params, type(opt).returns != ("loss", "grads")))


SKIPPING = {"nonfinite": "skip", "clip": [schuss.AutoClip(50, window=4), schuss.AdaGC(warmup=2)]}


def skipped(opt: Any) -> None:
    opt.step(trees.map_leaves(lambda leaf: np.full_like(leaf, np.nan), opt.params))


def loaded(opt: Any) -> None:
    opt.load_state_dict(SAVED[type(opt).__name__])


SAVED: dict[str, Any] = {}


def saved(make: Callable[[], Any]) -> Callable[[], Any]:
    """Let `loaded` load the state of one more step."""

    def further() -> Any:
        opt = make()
        if type(opt).__name__ not in SAVED:
            later = make()
            evaluated(later) if isinstance(later, schuss.ClosureOptimizer) else stepped(later)
            SAVED[type(opt).__name__] = later.state_dict()
        return opt

    return further


def in_groups() -> Any:
    opt = schuss.AdamW([schuss.Group(tensors())], lr=lambda step: 0.1)
    opt.step([tensors()])
    return opt


SCHEDULED = {"lr": lambda step: 0.1 / (step + 1)}
OPERATIONS: dict[str, Operation] = {
    "step of Adam": Operation(made(schuss.Adam), stepped),
    "step of Adam with clips that learn": Operation(made(schuss.Adam, **SKIPPING, **SCHEDULED), stepped),
    "step that is skipped": Operation(made(schuss.Adam, **SKIPPING), skipped),
    "step onto a ball": Operation(made(schuss.SGD, bounds=schuss.constraints.L2Ball(0.5)), stepped),
    "step onto a simplex": Operation(made(schuss.SGD, bounds=schuss.constraints.Simplex(per="tensor")), stepped),
    **{
        f"step of {cls.__name__}": Operation(made(cls), stepped)
        for cls in CLASSES
        if cls.kind == "matrix" and not cls.inputs
    },
    "step of SOAP with new bases": Operation(made(schuss.SOAP, frequency=1), stepped),
    **{
        f"step of {wrapper.__name__}": Operation(around(wrapper.__name__, "AdamW"), stepped)
        for wrapper in schuss.wrappers().values()
        if wrapper is not schuss.SAM
    },
    "step of SAM": Operation(around("SAM", "AdamW"), lambda opt: opt.step(lambda: tensors())),
    "step of EMA around Lookahead": Operation(around("EMA", "Lookahead", "AdamW"), stepped),
    **{f"step of {cls.__name__}": Operation(closed(cls), evaluated) for cls in CLOSURES},
    "assignment": Operation(made(schuss.AdamW, **SCHEDULED), lambda opt: setattr(opt, "lr", 0.5)),
    "reset": Operation(made(schuss.AdamW, **SKIPPING), lambda opt: opt.reset()),
    "reset of wrappers": Operation(around("EMA", "Lookahead", "AdamW"), lambda opt: opt.reset()),
    "rebind": Operation(made(schuss.AdamW), lambda opt: opt.rebind(tensors())),
    "rebind of wrappers": Operation(around("EMA", "Lookahead", "AdamW"), lambda opt: opt.rebind(tensors())),
    "add": Operation(in_groups, lambda opt: opt.add(schuss.Group(np.ones(3)))),
    "eval": Operation(made(schuss.ScheduleFreeSGD), lambda opt: opt.eval()),
    "load_state_dict": Operation(saved(made(schuss.Adam, **SKIPPING)), loaded),
    "load_state_dict of wrappers": Operation(saved(around("EMA", "Lookahead", "AdamW")), loaded),
    "load_state_dict of LBFGS": Operation(saved(closed(schuss.LBFGS)), loaded),
    "wrapping in EMA": Operation(made(schuss.AdamW), lambda opt: schuss.EMA(opt)),
    "wrapping in GaLore": Operation(lambda: schuss.AdamW(tensors()), lambda opt: schuss.GaLore(opt, rank=2)),
    "rollback": Operation(around("Rollback", "AdamW"), lambda opt: opt.rollback()),
}


def goes_on(opt: Any) -> None:
    """Do what must work after an error."""
    if isinstance(opt, schuss.ClosureOptimizer):
        evaluated(opt)
    else:
        opt.train()
        opt.step([tensors(), np.ones(3)][: len(opt.params)]) if isinstance(opt.params, list) else stepped(opt)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupt_leaves_all_or_nothing_done(name: str) -> None:
    """At every bytecode of an operation: what is there then is what was there before it or what it leads to."""
    operation = OPERATIONS[name]
    opt = operation.make()
    before = memory(opt)
    with interrupting(0) as count:
        result = operation.run(opt)
    after, total = memory(opt), count["bytecodes"]
    goes_on(result or opt)
    gone_on = memory(opt)
    chosen = np.unique(np.linspace(1, total, min(total, tries(25, 100_000))).astype(int))
    for at in chosen:
        opt = operation.make()
        note(f"interrupt: {name}", "tries")
        with interrupting(int(at)) as count, contextlib.suppress(Interrupted):
            operation.run(opt)
        if not count["sent"]:
            continue
        note(f"interrupt: {name}", "interrupted")
        now = memory(opt)
        if lost(before, now):
            assert not lost(after, now), at
            if result is None:
                goes_on(opt)
                assert not lost(gone_on, memory(opt)), at
        else:
            goes_on(opt)


def test_signals_wait_and_come() -> None:
    """Blocks nest; in `Let` handlers run; other threads hold nothing."""
    order: list[str] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: order.append("signal"))
    try:
        with _core.Held(), _core.Held():
            signal.raise_signal(signal.SIGUSR2)
            order.append("held")
            with _core.Let():
                order.append("let")
                signal.raise_signal(signal.SIGUSR2)
            order.append("held")
            os.kill(os.getpid(), signal.SIGUSR2)
        order.append("end")
        signal.raise_signal(signal.SIGUSR2)
        assert signal.getsignal(signal.SIGUSR2).__name__ == "<lambda>"
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert order == ["held", "let", "signal", "signal", "held", "signal", "end", "signal"]


# ---- no memory -----------------------------------------------------------------------------------------------------------

#: What an allocation that fails may become on its way through Python, NumPy and pybind11.
NO_MEMORY = (MemoryError, RuntimeError, SystemError, ValueError, TypeError, BufferError, ImportError, AttributeError)

#: Steps that make no object of pybind11's: it ends the process where there is no memory for one.
STARVED = [
    "step of Adam",
    "step of Adam with clips that learn",
    "step that is skipped",
    "step of Muon",
    "step of Adafactor",
]


def starve(names: list[str], most: int) -> None:
    """Let every allocation of operations fail, one at a time, or as many of them as `most`; print what became of each.

    Runs in a process of its own, whose allocator is that of failing_malloc.c.
    """
    library = ctypes.CDLL(None)
    arm, allocations = library.arm, library.allocations
    arm.argtypes, allocations.restype = [ctypes.c_long], ctypes.c_long

    def disarmed() -> int:
        """Return how many allocations there were; those of this call may fail as well."""
        while True:
            try:
                number = int(allocations())
                arm(0)
                return number
            except (MemoryError, ctypes.ArgumentError):  # one allocation fails, and no further one
                continue

    def attempt(operation: Operation, at: int) -> tuple[Any, bool, int]:
        opt, run, failed = operation.make(), operation.run, False
        gc.collect()
        arm(at)
        try:
            run(opt)
        except NO_MEMORY:
            failed = True
        return opt, failed, disarmed()

    for name in names:
        operation, counts = OPERATIONS[name], Counter[str]()
        opt = operation.make()
        before = memory(opt)
        total = attempt(operation, 1 << 40)[2]
        opt, failed, _ = attempt(operation, 1 << 40)
        after = memory(opt)
        for at in np.unique(np.linspace(1, total, min(total, most)).astype(int)):
            opt, failed, _ = attempt(operation, int(at))
            now = memory(opt)
            counts["tries"] += 1
            counts["refused"] += failed
            apart = lost(before, now) and lost(after, now)
            counts["lost"] += bool(apart)
            if apart:
                print("LOST", name, at, sorted(apart)[:4], file=sys.stderr)
            goes_on(opt) if "eval" not in name else opt.train()
        print(json.dumps({"fault": f"no memory: {name}"} | counts), flush=True)


@pytest.fixture(scope="module")
def failing_malloc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library whose n-th allocation fails."""
    if not sys.platform.startswith("linux") or (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        pytest.skip("needs a C compiler, and the GNU C library")
    library = tmp_path_factory.mktemp("malloc") / "failing.so"
    source = Path(__file__).with_name("failing_malloc.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.mark.parametrize("name", STARVED if SLOW else STARVED[:2])
def test_an_allocation_that_fails_leaves_all_or_nothing_done(name: str, failing_malloc: Path) -> None:
    code = "import sys\nfrom test_atomic import starve\nstarve([sys.argv[1]], int(sys.argv[2]))"
    environment = {"LD_PRELOAD": str(failing_malloc), "PYTHONMALLOC": "malloc", "OMP_NUM_THREADS": "1"}
    done = python(code, name, tries(40, 100_000), limit=tries(120, 3600), **environment)
    assert (done.stderr, done.returncode) == ("", 0)
    counts = json.loads(done.stdout)
    assert counts.pop("refused") > 0
    assert counts.pop("lost") == 0
    TABLE[counts.pop("fault")] = Counter(counts)
