"""Threads: one inside an optimizer at a time, any number of optimizers at once; with the GIL and without it."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interpreters import LARGE, output
from support import VARIANTS, Variant, inputs_for, snapshot, tries

import schuss

Optimizer = schuss.Optimizer
BUSY = ": another thread is inside this optimizer; give each thread its own, or use a lock"


class Door:
    """Waits until it is let through: one caller, and only while it is guarded."""

    def __init__(self) -> None:
        self.guarded = False
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        if self.guarded:
            self.guarded = False
            self.reached.set()
            assert self.open.wait(60)


class Key:
    """A key of a dict whose reading, which is part of a step, goes through a door."""

    def __init__(self, door: Door) -> None:
        self.door = door

    def __hash__(self) -> int:
        self.door()
        return 7


class Schedule:
    """A schedule with a state; each thing that is asked of it goes through a door."""

    def __init__(self, door: Door, asked: str = "") -> None:
        self.door, self.asked = door, asked

    def _answer(self, question: str) -> None:
        if question == self.asked:
            self.door()

    def __call__(self, step: int) -> float:
        self._answer("value")
        return 0.5 + step

    def state_dict(self) -> dict[str, float]:
        self._answer("state_dict")
        return {"seen": 1.0}

    def load_state_dict(self, state: Any) -> None:
        self._answer("load_state_dict")

    def __deepcopy__(self, memo: Any) -> Schedule:
        self._answer("deepcopy")
        return self

    def __reduce__(self) -> Any:
        return Schedule, (None,)


def assign(optimizer: Any) -> None:
    optimizer.l2 = 0.5


def assign_in_view(optimizer: Any) -> None:
    optimizer.groups[0]["l2"] = 0.5


def grads_for(optimizer: Any) -> Any:
    return schuss.trees.map_leaves(np.ones_like, optimizer.params)


INTRUSIONS: dict[str, Callable[[Any], Any]] = {
    "step": lambda optimizer: optimizer.step(grads_for(optimizer)),
    "assignment": assign,
    "assignment in a view": assign_in_view,
    "state_dict": lambda optimizer: optimizer.state_dict(),
    "load_state_dict": lambda optimizer: optimizer.load_state_dict({}),
    "save": lambda optimizer: optimizer.save("never.npz"),
    "load": lambda optimizer: optimizer.load("never.npz"),
    "reset": lambda optimizer: optimizer.reset(),
    "rebind": lambda optimizer: optimizer.rebind(optimizer.params),
    "add": lambda optimizer: optimizer.add(schuss.Group(np.ones(2))),
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "check": lambda optimizer: optimizer.check(grads_for(optimizer)),
    "explain": lambda optimizer: optimizer.explain(grads_for(optimizer)),
    "eval": lambda optimizer: optimizer.eval(),
    "train": lambda optimizer: optimizer.train(),
    "Recorder": schuss.Recorder,
    "wrapping": schuss.EMA,
}
#: What a thread does inside an optimizer while others are to stay outside, and what is asked of the schedule then.
OCCUPATIONS: dict[str, tuple[Callable[[Any], Callable[[], Any]], str]] = {
    "a step that reads gradients": (lambda each: partial(each.step, grads_for(each)), "gradients"),
    "a step that asks a schedule": (lambda each: partial(each.step, grads_for(each)), "value"),
    "state_dict": (lambda each: each.state_dict, "state_dict"),
    "load_state_dict": (lambda each: partial(each.load_state_dict, each.state_dict()), "load_state_dict"),
    "deepcopy": (lambda each: partial(copy.deepcopy, each), "deepcopy"),
    "assignment": (lambda each: partial(assign, each), "value"),
    "reset": (lambda each: each.reset, "value"),
    "check": (lambda each: partial(each.check, grads_for(each)), "state_dict"),
}
#: What may be around the optimizer.
LEVELS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda optimizer: optimizer,
    "wrapped": lambda optimizer: schuss.EMA(optimizer, decay=0.5),
    "wrapped twice": lambda optimizer: schuss.Lookahead(schuss.EMA(optimizer, decay=0.5), k=2),
}


def levels_of(optimizer: Any) -> Iterator[Any]:
    yield optimizer
    while isinstance(optimizer, schuss.Wrapper):
        optimizer = optimizer.optimizer
        yield optimizer


@contextlib.contextmanager
def occupied(door: Door, occupation: Callable[[], Any]) -> Iterator[None]:
    """Have another thread wait in the middle of something, which then must succeed."""
    door.guarded = True
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(occupation)
        try:
            assert door.reached.wait(60)
            yield
        finally:
            door.open.set()
            done.result(60)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("occupation", OCCUPATIONS)
def test_one_thread_at_a_time(occupation: str, level: str) -> None:
    """While a thread is inside, no other may step, read or change the optimizer as a whole, at any level."""
    prepare, asked = OCCUPATIONS[occupation]

    def make(door: Door) -> Any:
        params = {Key(door) if asked == "gradients" else "w": np.ones(3)}
        return LEVELS[level](schuss.SGD([schuss.Group(params)], lr=Schedule(door, asked), momentum=0.5))

    door = Door()
    optimizer, twin = make(door), make(Door())
    for each in (optimizer, twin):
        each.step(grads_for(each))
    with occupied(door, prepare(optimizer)):
        for each in levels_of(optimizer):
            for name, intrude in INTRUSIONS.items():
                with pytest.raises(RuntimeError) as caught:
                    print(name, "of", each, "has led to", intrude(each))
                assert str(caught.value).endswith(BUSY)
                if name in ("step", "state_dict", "reset") and each is optimizer:
                    assert str(caught.value) == type(each).__name__ + BUSY
    prepare(twin)()
    for each in (optimizer, twin):
        assert each.l2 == (0.5 if occupation == "assignment" else 0.0)
        assert len(each.groups) == 1
        each.step(grads_for(each))
    assert snapshot(getattr(optimizer, "base", optimizer)) == snapshot(getattr(twin, "base", twin))


CLOSURES: dict[str, Callable[[Any], Any]] = {
    name: found
    for name, found in INTRUSIONS.items()
    if name in ("state_dict", "load_state_dict", "save", "load", "reset", "rebind", "deepcopy", "pickle")
}


@pytest.mark.parametrize("cls", schuss.closure_optimizers().values(), ids=lambda cls: cls.__name__)
def test_one_thread_at_a_time_beside_a_closure(cls: Any) -> None:
    door = Door()

    def closure() -> Any:
        door()
        found = w.copy()
        return (found, np.eye(3)) if cls is schuss.LevenbergMarquardt else (float(found @ found) / 2, found)

    w = np.array([1.0, 2.0, 3.0])
    optimizer = cls(w)
    with occupied(door, lambda: optimizer.step(closure)):
        for intrude in [*CLOSURES.values(), lambda each: each.step(closure)]:
            with pytest.raises(RuntimeError) as caught:
                intrude(optimizer)
            assert str(caught.value) == cls.__name__ + BUSY
    assert optimizer.t == 1
    optimizer.step(closure)


def test_one_thread_at_a_time_beside_a_function_of_sam() -> None:
    door = Door()

    def function() -> Any:
        door()
        return w.copy()

    w = np.array([3.0, 4.0])
    optimizer = schuss.SAM(schuss.SGD(w, lr=0.1))
    with occupied(door, lambda: optimizer.step(function)):
        for each in (optimizer, optimizer.base):
            for intrude in (lambda each: each.step(w.copy()), INTRUSIONS["state_dict"], assign):
                with pytest.raises(RuntimeError, match="another thread is inside this optimizer"):
                    intrude(each)
    assert optimizer.t == 1


def test_a_handler_of_a_signal_during_a_closure_stays_outside() -> None:
    """Signals do not wait for a closure; a handler that raises there takes the step back, and leaves nothing locked."""
    refused: list[str] = []
    w = np.array([3.0, 4.0])
    optimizer = schuss.SAM(schuss.SGD(w, lr=0.1))

    def look(number: int, frame: Any) -> None:
        with pytest.raises(RuntimeError) as caught:
            optimizer.state_dict()
        refused.append(str(caught.value))

    def interrupt(number: int, frame: Any) -> None:
        raise InterruptedError

    def function() -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return w.copy()

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(InterruptedError):
            optimizer.step(function)
        assert (optimizer.t, w.tolist()) == (0, [3.0, 4.0])
        signal.signal(signal.SIGUSR1, look)
        optimizer.step(function)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert refused == 2 * ["SAM" + BUSY]
    assert optimizer.t == 1
    optimizer.state_dict()


def test_curvature_is_not_fed_during_a_step() -> None:
    door = Door()
    optimizer = schuss.SophiaH({Key(door): np.ones(3)})
    grads = grads_for(optimizer)
    with (
        occupied(door, lambda: optimizer.step(grads)),
        pytest.raises(RuntimeError, match="another thread is inside"),
    ):
        optimizer.update_hessian(grads)
    assert (optimizer.state["h"][next(iter(optimizer.params))] == 0).all()


def test_a_step_from_inside_a_step() -> None:
    """Whether code runs while gradients are read, or while a schedule is asked."""

    class Recursive:
        armed = False

        def __hash__(self) -> int:
            return self(0) and 7

        def __call__(self, step: int) -> int:
            if self.armed:
                self.armed = False
                optimizer.step(grads)
            return 1

    code = Recursive()
    for key, lr in ((code, 1.0), ("w", code)):
        grads = {key: np.ones(3)}
        optimizer = schuss.SGD({key: np.ones(3)}, lr=lr)
        before = snapshot(optimizer)
        code.armed = True
        with pytest.raises(RuntimeError) as caught:
            optimizer.step(grads)
        assert str(caught.value) == "SGD" + BUSY
        assert snapshot(optimizer) == before
        optimizer.step(grads)
        assert optimizer.t == 1


@pytest.mark.parametrize(
    ("steal", "fits"),
    [(lambda grads: grads.__setitem__(0, None), True), (lambda grads: grads.clear(), False)],
    ids=["replaced", "cleared"],
)
def test_gradients_taken_out_of_their_tree_while_it_is_read(steal: Callable[[list[Any]], None], fits: bool) -> None:
    """A key's own code may do so: what was read already is still read, and what is missing then is an error."""

    class Thief:
        armed = False

        def __hash__(self) -> int:
            if self.armed:
                steal(grads)
                np.full(5, np.nan)  # where the gradient's memory may have been
            return 7

    thief = Thief()
    grads: list[Any] = [np.full(5, 0.5), {thief: np.ones(2)}, np.ones(4)]
    optimizer = schuss.SGD([np.zeros(5), {thief: np.zeros(2)}, np.zeros(4)], lr=1.0)
    before = snapshot(optimizer)
    thief.armed = True
    with contextlib.nullcontext() if fits else pytest.raises(IndexError):
        optimizer.step(grads)
    thief.armed = False
    if fits:
        assert (optimizer.params[0] == -0.5).all()
    else:
        assert snapshot(optimizer) == before


# ---- races


def race(threads: int, work: Callable[[int], None]) -> None:
    """Let threads work at the same time, and raise what any of them did."""
    start = threading.Barrier(threads)

    def run(number: int) -> None:
        start.wait(60)
        work(number)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(run, number) for number in range(threads)]:
            done.result(300)


@pytest.mark.parametrize("size", [100, LARGE])
@pytest.mark.parametrize("lr", [0.01, lambda step: 0.01 / (1 + step)], ids=["plain", "schedule"])
def test_racing_threads_never_mix(size: int, lr: Any) -> None:
    """Steps that are let in are whole; the others are refused."""
    grads = np.full(size, 0.5, np.float32)
    optimizer, twin = (schuss.Adam(np.ones(size, np.float32), lr=lr, threads=2) for _ in range(2))
    refused: list[str] = []
    times = tries(20, 2000)

    def work(number: int) -> None:
        for _ in range(times):
            try:
                optimizer.step(grads)
            except RuntimeError as error:
                refused.append(str(error))
                time.sleep(0.0002)

    race(3, work)
    assert set(refused) <= {"Adam" + BUSY}
    assert optimizer.t == 3 * times - len(refused)
    for _ in range(optimizer.t):
        twin.step(grads)
    assert snapshot(optimizer) == snapshot(twin)


def test_states_are_of_one_step(tmp_path: Path) -> None:
    """A state that a thread takes while another steps is that before the step or after it, at every level."""
    grads = np.ones(30_000)
    optimizer = schuss.Lookahead(schuss.Momentum(np.zeros(30_000), lr=1.0, beta=0.999), k=10**12)
    found: list[tuple[float, ...]] = []
    done = threading.Event()

    def work(number: int) -> None:
        while number == 0 and (len(found) < tries(30, 1000) or len({t for t, *_ in found}) < 2):
            with contextlib.suppress(RuntimeError):
                state = optimizer.state_dict()
                (slot,) = state["optimizer"]["slots"].values()
                found.append((state["optimizer"]["t"], state["own"]["numbers"]["since"], len(np.unique(slot[0]))))
            time.sleep(0.001)  # else the other thread might meet this one inside for ever
        if number == 0:
            done.set()
        while not done.is_set():
            for _ in range(100):
                with contextlib.suppress(RuntimeError):
                    optimizer.step(grads)
            time.sleep(0.001)  # with steps alone the other thread would hardly ever find it outside

    race(2, work)
    assert {(t, since, distinct) for t, since, distinct in found} == {(t, t, 1) for t, *_ in found}


def numbers(rng: np.random.Generator) -> list[np.ndarray]:
    return [np.asarray(rng.standard_normal(shape), np.float32) for shape in [(30, 20), (7,), (), (20_000,)]]


def digest_of(variant: Variant) -> str:
    """Return what a few steps of an optimizer lead to."""
    rng = np.random.default_rng(1)
    optimizer = variant.make(numbers(rng), threads=2, nonfinite="raise")
    for _ in range(3):
        grads = numbers(rng)
        optimizer.step(grads, **inputs_for(optimizer, grads, rng))
    return hashlib.sha256(b"".join(snapshot(optimizer))).hexdigest()


def test_optimizers_in_different_threads_do_not_see_each_other() -> None:
    """All kinds of rules, with their BLAS: the same bits as alone. There is no state that optimizers share."""
    alone = [digest_of(variant) for variant in VARIANTS]
    for _ in range(tries(1, 20)):
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(digest_of, VARIANTS)) == alone


def test_settings_and_the_registry_in_different_threads() -> None:
    """Lazy imports, the number of threads and the instruction set may change while others step: the same bits."""
    code = """
    import hashlib, sys, threading
    import numpy as np
    import schuss

    names = ["Adam", "AdamW", "LAMB", "Lion", "SGD", "NovoGrad", "Prodigy", "Muon"]
    start = threading.Barrier(4)
    found, errors = [], []

    def work(number):
        try:
            start.wait(50)
            if number == 0:
                found.append(len(schuss.optimizers()))
                for k in range(300):
                    schuss.set_num_threads(1 + k % 3)
                    schuss.use_isa(schuss.instruction_sets()[k % len(schuss.instruction_sets())])
            else:
                for name in names:
                    optimizer = getattr(schuss, name)(np.linspace(-1, 1, 40_000).reshape(200, 200))
                    for _ in range(3):
                        optimizer.step(np.linspace(1, -2, 40_000).reshape(200, 200))
                    found.append((name, hashlib.sha256(optimizer.params.tobytes()).hexdigest()))
        except BaseException as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(errors, len(set(found)) == 1 + len(names), len(found) == 1 + 3 * len(names))
    """
    for _ in range(tries(1, 50)):
        assert output(code, limit=300) == "[] True True\n"


# ---- without the GIL


@pytest.mark.skipif(not hasattr(sys, "_is_gil_enabled"), reason="needs Python 3.13")
def test_the_import_leaves_the_gil_as_it_is() -> None:
    import sysconfig

    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    said = output("import sys, schuss; schuss.AdamW; print(sys._is_gil_enabled(), schuss._core.free_threaded)")
    assert said == f"{not free} {free}\n"
