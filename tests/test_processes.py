"""Threads, forks, signals, the environment, and the interpreter's beginning and end."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import pytest
from support import CLASSES, VARIANTS, inputs_for, snapshot

import schuss

Optimizer = schuss.Optimizer
SETTINGS = ("SCHUSS_ISA", "SCHUSS_NUM_THREADS", "OMP_NUM_THREADS")
LARGE = 300_000  # elements, which take long enough for a step to release the GIL and to use threads


def python(
    code: str, *arguments: object, flags: tuple[str, ...] = (), timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, which may import what the tests do, and give it some time."""
    clean = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    clean["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), clean.get("PYTHONPATH", "")])
    command = [sys.executable, *flags, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def output(code: str, *arguments: object, flags: tuple[str, ...] = (), **environment: str) -> str:
    """Run a script that must succeed and be silent on the error stream, and return what it prints."""
    done = python(code, *arguments, flags=flags, **environment)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


# ---- threads

BUSY = "SGD: another thread is inside this optimizer; give each thread its own, or use a lock"


class Door:
    """A key of a dict whose reading, which is part of a step, waits until it is let through."""

    def __init__(self) -> None:
        self.guarded = False
        self.reached, self.open = threading.Event(), threading.Event()

    def __hash__(self) -> int:
        if self.guarded:
            self.guarded = False
            self.reached.set()
            assert self.open.wait(30)
        return 7


def assign(optimizer: Any) -> None:
    optimizer.lr = 0.5


def assign_in_view(optimizer: Any) -> None:
    optimizer.groups[0]["lr"] = 0.5


INTRUSIONS: dict[str, Callable[[Any], Any]] = {
    "step": lambda optimizer: optimizer.step([{}]),
    "assignment": assign,
    "assignment in a view": assign_in_view,
    "state_dict": lambda optimizer: optimizer.state_dict(),
    "load_state_dict": lambda optimizer: optimizer.load_state_dict({}),
    "save": lambda optimizer: optimizer.save("never.npz"),
    "reset": lambda optimizer: optimizer.reset(),
    "rebind": lambda optimizer: optimizer.rebind(optimizer.params),
    "add": lambda optimizer: optimizer.add(schuss.Group(np.ones(2))),
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "check": lambda optimizer: optimizer.check([{}]),
}


def test_one_thread_at_a_time() -> None:
    """While a thread is inside a step, no other may step, read or change the optimizer as a whole."""
    door = Door()
    optimizer = schuss.SGD([schuss.Group({door: np.ones(3)})], lr=1.0, momentum=0.5)
    grads = [{door: np.ones(3)}]
    door.guarded = True
    thread = threading.Thread(target=optimizer.step, args=(grads,))
    thread.start()
    try:
        assert door.reached.wait(30)
        for intrusion in INTRUSIONS.values():
            with pytest.raises(RuntimeError) as caught:
                intrusion(optimizer)
            assert str(caught.value) == BUSY
    finally:
        door.open.set()
        thread.join(30)
    assert (optimizer.t, optimizer.lr, len(optimizer.groups)) == (1, 1.0, 1)
    (values,) = optimizer._leaves
    assert (values == 0).all()
    optimizer.step(grads)
    assert optimizer.t == 2


def test_a_step_from_inside_a_step() -> None:
    class Recursive:
        """A key whose reading steps the optimizer again."""

        armed = False

        def __hash__(self) -> int:
            if self.armed:
                self.armed = False
                optimizer.step(grads)
            return 7

    key = Recursive()
    grads = {key: np.ones(3)}
    optimizer = schuss.SGD({key: np.ones(3)}, lr=1.0)
    key.armed = True
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError) as caught:
        optimizer.step(grads)
    assert str(caught.value) == BUSY
    assert snapshot(optimizer) == before
    optimizer.step(grads)
    assert optimizer.t == 1


def test_racing_threads_never_mix() -> None:
    """Steps that are let in are whole; the others are refused."""
    grads = np.full(LARGE, 0.5, np.float32)
    optimizer, twin = (schuss.Adam(np.ones(LARGE, np.float32), threads=2) for _ in range(2))
    refused: list[str] = []

    def race() -> None:
        for _ in range(20):
            try:
                optimizer.step(grads)
            except RuntimeError as error:
                refused.append(str(error))
                time.sleep(0.0002)

    threads = [threading.Thread(target=race) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(refused) <= {BUSY.replace("SGD", "Adam")}
    assert optimizer.t == 60 - len(refused)
    for _ in range(optimizer.t):
        twin.step(grads)
    assert snapshot(optimizer) == snapshot(twin)


def test_two_optimizers_in_two_threads(rng: np.random.Generator) -> None:
    """There is no state that optimizers share."""
    grads = rng.standard_normal(LARGE).astype(np.float32)
    start = rng.standard_normal(LARGE).astype(np.float32)
    chosen = [schuss.AdamW, schuss.LAMB, schuss.Prodigy]

    def run(optimizer: Optimizer) -> None:
        for _ in range(5):
            optimizer.step(grads)

    alone = [cls(start.copy(), threads=2, clip=schuss.ClipNorm(1.0)) for cls in chosen]
    together = copy.deepcopy(alone)
    for optimizer in alone:
        run(optimizer)
    threads = [threading.Thread(target=run, args=(optimizer,)) for optimizer in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [snapshot(optimizer) for optimizer in together] == [snapshot(optimizer) for optimizer in alone]


# ---- forks

STEPPING = f"""
import hashlib, sys
import numpy as np
import schuss

def make(threads=2):
    return schuss.LAMB(np.linspace(-1, 1, {LARGE}, dtype=np.float32), threads=threads)

def digest(optimizer, steps):
    grads = np.linspace(1, -2, {LARGE}, dtype=np.float32)
    for _ in range(steps):
        optimizer.step(grads)
    return hashlib.sha256(optimizer.params.tobytes()).hexdigest()

held = make()
digest(held, 2)  # with a pool of threads, which a fork leaves behind
"""


def test_a_forked_child_steps() -> None:
    """The child has the parent's optimizer, steps it without the parent's threads, and gets the same bits."""
    code = """
    import os, signal
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # a child that hangs is ended
        os._exit(0 if digest(held, 2) == digest(make(), 4) and schuss.get_num_threads() == 1 else 3)
    mine = digest(held, 2)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), mine == digest(make(1), 4))
    """
    # Python 3.12 warns of forks beside threads: that they work is what this is about.
    assert output(STEPPING + textwrap.dedent(code), flags=("-W", "ignore::DeprecationWarning")) == "0 True\n"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    main = """
    def work(optimizer):
        return digest(make(), 2), digest(optimizer, 2)

    if __name__ == "__main__":
        import multiprocessing
        with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
            found = pool.map_async(work, [held, held]).get(timeout=50)
        print(set(found) == {(digest(make(), 2), digest(make(), 4))})
    """
    script = tmp_path / "work.py"
    script.write_text(STEPPING + textwrap.dedent(main))
    done = subprocess.run([sys.executable, script, method], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


# ---- signals


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_an_interrupt_leaves_a_whole_step_done() -> None:
    """The signal's handler runs when the step is over, and raises then."""
    grads = np.full(20 * LARGE, 0.5, np.float32)
    optimizer, twin = (schuss.Adam(np.ones(20 * LARGE, np.float32), threads=2) for _ in range(2))
    where, returned = [], []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        where.append(frame.f_code.co_qualname if frame else "")
        raise KeyboardInterrupt

    def until_interrupted() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        while True:
            returned.append(optimizer.t)
            optimizer.step(grads)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                until_interrupted()
            assert optimizer.t - returned[-1] in (0, 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert "Optimizer.step" in where
    assert optimizer.counts == optimizer.t
    for _ in range(optimizer.t):
        twin.step(grads)
    assert snapshot(optimizer) == snapshot(twin)


# ---- the beginning and the end of a process

STRICT = ("-X", "dev", "-W", "error")


def test_the_import_is_silent_and_small() -> None:
    code = """
    import sys
    import schuss
    heavy = {"ml_dtypes", "safetensors", "matplotlib", "scipy", "torch", "hypothesis", "multiprocessing"}
    print(sorted(heavy & set(sys.modules)))
    print([name for name in sys.modules if name.startswith("schuss.optimizers.")])
    schuss.AdamW
    print([name for name in sys.modules if name.startswith("schuss.optimizers.")])
    print("schuss.reference" in sys.modules, len(schuss.optimizers()) == int(sys.argv[1]))
    """
    said = output(code, len(CLASSES), flags=STRICT)
    assert said == "[]\n[]\n['schuss.optimizers.adamw']\nFalse True\n"


@pytest.mark.parametrize("flags", [STRICT, ()], ids=["dev", "plain"])
def test_the_end_is_silent(flags: tuple[str, ...]) -> None:
    """With optimizers alive in globals and in cycles, and a pool of threads."""
    code = """
    cycle = [make()]
    cycle.append(cycle)
    kept = [schuss.Adam({"w": np.ones(3)}, lr=lambda step: 0.1), held.state, held.groups, held.state_dict()]
    kept[0].step({"w": np.ones(3)})
    """
    assert output(STEPPING + textwrap.dedent(code), flags=flags) == ""


def test_the_end_comes_during_a_step() -> None:
    """A daemon thread may be inside a step when the interpreter goes down."""
    code = """
    import threading, time

    def forever():
        while True:
            digest(held, 1)

    threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.1)
    """
    for _ in range(3):
        assert output(STEPPING + textwrap.dedent(code), flags=STRICT) == ""


def test_floating_point_modes_are_left_alone() -> None:
    """Neither the import nor a step that flushes subnormals changes what NumPy finds."""
    code = """
    optimizer = schuss.Adam(np.full(300_000, 1e-40, np.float32), flush_subnormals=True, threads=2)
    optimizer.step(np.full(300_000, 1e-40, np.float32))
    print([float(np.finfo(dtype).smallest_subnormal) > 0 for dtype in (np.float16, np.float32, np.float64)])
    print(5e-324 / 1 > 0, float(np.array([1e-310]).sum()) > 0, 0.1 + 0.2 == 0.30000000000000004)
    """
    assert output(STEPPING + textwrap.dedent(code), flags=STRICT) == "[True, True, True]\nTrue True True\n"


def test_optimised_python_keeps_the_checks() -> None:
    code = """
    import numpy as np
    import schuss

    optimizer = schuss.Adam({"w": np.ones(3)}, clip=schuss.ClipNorm(1.0))
    frozen, state = np.ones(3), optimizer.state_dict()
    frozen.flags.writeable = False
    faults = [
        lambda: schuss.Adam(np.arange(3)),
        lambda: schuss.Adam(frozen),
        lambda: schuss.Adam([np.ones(3)] * 2),
        lambda: schuss.Adam(np.ones(6)[::2]),
        lambda: schuss.Adam(np.ones(3), lr=-1),
        lambda: schuss.Adam(np.ones(3), betas=(0.9, 0.99)),
        lambda: schuss.Adam(np.ones(3), lr=lambda step: float("nan")),
        lambda: schuss.SGD(np.ones(3), nesterov=True),
        lambda: setattr(optimizer, "beta1", 1.0),
        lambda: optimizer.step({"w": np.ones(4)}),
        lambda: optimizer.step({"w": optimizer.params["w"]}),
        lambda: optimizer.step({"w": np.full(3, np.nan)}),
        lambda: optimizer.load_state_dict({**state, "t": -1}),
        lambda: schuss.set_num_threads(0),
        lambda: schuss.use_isa("none"),
    ]
    for fault in faults:
        try:
            print("accepted", fault())
        except Exception as error:
            print(type(error).__name__, error)
    print(optimizer.t, optimizer.params, bool(optimizer.check({"w": np.ones(3)})))
    """
    said = output(code)
    assert "accepted" not in said
    assert said.count("\n") == 16
    for flag in ("-O", "-OO"):
        assert output(code, flags=(flag,)) == said


def test_every_optimizer_goes_on_in_a_new_process(tmp_path: Path) -> None:
    """From a checkpoint, on another number of threads and another instruction set, to the same bits."""
    shapes = [(30, 20), (7,), (), (20_000,)]

    def numbers(rng: np.random.Generator) -> list[np.ndarray]:
        return [np.asarray(rng.standard_normal(shape), np.float32) for shape in shapes]

    def run(optimizer: Optimizer, rng: np.random.Generator) -> None:
        for _ in range(3):
            grads = numbers(rng)
            optimizer.step(grads, **inputs_for(optimizer, grads, rng))

    expected = {}
    for variant in VARIANTS:
        optimizer = variant.make(numbers(np.random.default_rng(1)), threads=1)
        run(optimizer, np.random.default_rng(2))
        optimizer.save(tmp_path / f"{variant}.npz", params=True)
        run(optimizer, np.random.default_rng(3))
        expected[str(variant)] = hashlib.sha256(b"".join(snapshot(optimizer))).hexdigest()
    code = """
    import hashlib, sys
    import numpy as np
    from support import VARIANTS, inputs_for, snapshot

    for variant in VARIANTS:
        optimizer = variant.make([np.zeros(shape, np.float32) for shape in [(30, 20), (7,), (), (20_000,)]])
        optimizer.load(f"{sys.argv[1]}/{variant}.npz")
        rng = np.random.default_rng(3)
        for _ in range(3):
            grads = [np.asarray(rng.standard_normal(p.shape), np.float32) for p in optimizer.params]
            optimizer.step(grads, **inputs_for(optimizer, grads, rng))
        print(variant, hashlib.sha256(b"".join(snapshot(optimizer))).hexdigest())
    """
    isa = schuss.instruction_sets()[0]
    said = output(code, tmp_path, SCHUSS_NUM_THREADS="3", SCHUSS_ISA=isa)
    assert dict(line.split() for line in said.splitlines()) == expected


# ---- the environment


def configured(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Do what the import does under these variables."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    schuss._runtime.configure()


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"SCHUSS_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": " 5 , 2"}, 5),
        ({"SCHUSS_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"SCHUSS_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
        ({"SCHUSS_NUM_THREADS": "4096"}, 4096),
    ],
)
def test_threads_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], threads: int
) -> None:
    configured(monkeypatch, **environment)
    assert schuss.get_num_threads() == threads


@pytest.mark.parametrize("value", ["", "0", "-1", "two", "1.5"])
def test_what_openmp_ignores(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    configured(monkeypatch)
    available = schuss.get_num_threads()
    assert 1 <= available <= len(os.sched_getaffinity(0))
    configured(monkeypatch, OMP_NUM_THREADS=value)
    assert schuss.get_num_threads() == available


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " ", "5000"])
def test_bad_numbers_of_threads(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(ValueError, match="SCHUSS_NUM_THREADS") as caught:
        configured(monkeypatch, SCHUSS_NUM_THREADS=value)
    shown = value if value.isdecimal() else repr(value)
    assert str(caught.value) == f"schuss: SCHUSS_NUM_THREADS must be from 1 to 4096, got {shown}"


def test_instruction_sets_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in schuss.instruction_sets():
        configured(monkeypatch, SCHUSS_ISA=isa)
        assert schuss._core.isa() == isa
    with pytest.raises(ValueError, match="sse9") as caught:
        configured(monkeypatch, SCHUSS_ISA="sse9")
    choices = ", ".join(schuss.instruction_sets())
    assert str(caught.value) == f"schuss: this machine does not run the instruction set 'sse9'; choose one of {choices}"


def test_the_environment_is_read_at_import() -> None:
    code = "import schuss; print(schuss.get_num_threads(), schuss._core.isa())"
    isas = schuss.instruction_sets()
    assert output(code, SCHUSS_NUM_THREADS="3", SCHUSS_ISA=isas[0]) == f"3 {isas[0]}\n"
    assert output(code, OMP_NUM_THREADS="1") == f"1 {isas[-1]}\n"
    for name, value in (("SCHUSS_NUM_THREADS", "0"), ("SCHUSS_ISA", "none")):
        failed = python(code, **{name: value})
        assert failed.returncode == 1
        assert failed.stderr.splitlines()[-1].startswith("ValueError: schuss: ")
