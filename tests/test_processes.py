"""Signals, the environment, and the interpreter's beginning and end."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import textwrap
import weakref
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import pytest
from interpreters import LARGE, SETTINGS, STEPPING, STRICT, output, python
from support import CLASSES, VARIANTS, inputs_for, snapshot, tries

import schuss

Optimizer = schuss.Optimizer

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


def test_the_stacks_of_a_step_can_be_dumped_at_any_time() -> None:
    """Faulthandler writes the stack from a signal while steps run, and nothing changes.

    (Its own thread, which walks the stacks of others while these run, may crash the interpreter without us.)
    """
    code = """
    import faulthandler, signal, tempfile
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.register(signal.SIGALRM, file, all_threads=False)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(30):
            found = digest(make(), 3)
        signal.setitimer(signal.ITIMER_REAL, 0)
        file.seek(0)
        print("in step" in file.read(), found == digest(make(1), 3))
    """
    assert output(STEPPING + textwrap.dedent(code), flags=STRICT) == "True True\n"


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("handled", [False, True], ids=["default", "handler"])
def test_a_signal_that_ends_the_process_during_a_step(handled: bool) -> None:
    """By itself at once; by a handler that raises SystemExit after the step, which is whole then."""
    code = """
    import os, signal, threading, time

    optimizer = schuss.SGD(np.zeros(3_000_000, np.float32), lr=1.0, threads=2)
    if sys.argv[1] == "True":
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
    threading.Thread(target=lambda: (time.sleep(0.05), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
    try:
        while True:
            optimizer.step(np.ones(3_000_000, np.float32))
    finally:
        print((optimizer.params == -optimizer.t).all())
    """
    for _ in range(tries(1, 50)):
        done = python(STEPPING + textwrap.dedent(code), handled, flags=STRICT)
        expected = ("True\n", "", 7) if handled else ("", "", -signal.SIGTERM)
        assert (done.stdout, done.stderr, done.returncode) == expected


# ---- the beginning and the end of a process


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


@pytest.mark.parametrize("maker", ["make", "clipped", "muon", "wrapped"])
def test_the_end_comes_during_a_step(maker: str) -> None:
    """A daemon thread may be inside a step when the interpreter goes down."""
    code = """
    import threading, time

    def clipped():
        return schuss.Adam(np.ones(300_000, np.float32), threads=2, clip=schuss.ClipNorm(1.0))

    def muon():
        return schuss.Muon(np.ones(300_000, np.float32).reshape(1000, 300), threads=2)

    def wrapped():
        return schuss.Lookahead(schuss.EMA(clipped()), k=2)

    optimizer = globals()[sys.argv[1]]()
    grads = np.ones_like(optimizer.params)

    def forever():
        while True:
            optimizer.step(grads)

    threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.1)
    """
    for _ in range(tries(1, 200)):
        assert output(STEPPING + textwrap.dedent(code), maker, flags=STRICT) == ""


def test_steps_at_the_very_end() -> None:
    """In functions registered for the exit, in finalizers, and in the deletion of objects that live to the end."""
    code = """
    import atexit, weakref

    def late(who, optimizer):
        optimizer.step(np.ones_like(optimizer.params))
        print(who, optimizer.t, flush=True)

    class Model:
        def __init__(self, size):
            self.optimizer = schuss.Adam(np.ones(size, np.float32), threads=2)
        def __del__(self, late=late):
            late("deletion", self.optimizer)

    atexit.register(late, "exit", make())
    owner = Model(10)
    weakref.finalize(owner, late, "finalizer", schuss.SGD(np.ones(300_000, np.float32), threads=2))
    large = Model(300_000)
    cycle = [Model(20)]
    cycle.append(cycle)
    """
    said = output(STEPPING + textwrap.dedent(code), flags=STRICT)
    assert sorted(said.splitlines()) == ["deletion 1"] * 3 + ["exit 1", "finalizer 1"]


def test_optimizers_in_cycles_are_collected() -> None:
    """And callbacks of weak references may step another one while the garbage is taken out."""
    other = schuss.SGD(np.zeros(3), lr=1.0)
    gone = []

    def callback(reference: weakref.ref[Any]) -> None:
        gone.append(reference)
        other.step(np.ones(3))

    references = []
    for make in (
        lambda: schuss.Adam(np.ones(3), lr=lambda step: 0.1, clip=schuss.ClipNorm(1.0)),
        lambda: schuss.EMA(schuss.Muon(np.ones((3, 2)))),
        lambda: schuss.LBFGS(np.ones(3)),
    ):
        optimizer: Any = make()
        vars(optimizer)["_cycle"] = [optimizer]
        if isinstance(optimizer, Optimizer):
            vars(optimizer)["_recorder"] = schuss.Recorder(optimizer)
        references.append(weakref.ref(optimizer, callback))
    del optimizer
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert (len(gone), other.t) == (3, 3)


def test_sub_interpreters_never_crash() -> None:
    """They import the package or refuse to, as NumPy does; the main one goes on either way."""
    code = """
    import warnings
    try:
        import _interpreters as interpreters  # Python 3.13
    except ImportError:
        import _xxsubinterpreters as interpreters
    run = "import schuss, numpy; o = schuss.SGD(numpy.zeros(3), lr=1.0); o.step(numpy.ones(3)); assert o.params[0] == -1"
    found = []
    for _ in range(3):
        number = interpreters.create()
        try:
            interpreters.run_string(number, f"import warnings; warnings.simplefilter('ignore')\\n{run}")
        except Exception as error:
            found.append(error)
        interpreters.destroy(number)
    assert all("ImportError" in str(error) for error in found), found
    print(digest(held, 2) == digest(make(), 4))
    """
    done = python(STEPPING + textwrap.dedent(code))
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


#: Reads and sets the floating-point modes of a thread: the control bits of MXCSR, or the rounding on another machine.
MODES = """
import ctypes, ctypes.util, platform
libm = ctypes.CDLL(ctypes.util.find_library("m"))
UPWARD = 0x800 if platform.machine() == "x86_64" else 0x400000

def modes():
    environment = (ctypes.c_uint32 * 64)()
    libm.fegetenv(environment)
    return environment[7] & 0xFFC0 if platform.machine() == "x86_64" else libm.fegetround()
"""


def test_floating_point_modes_are_left_alone() -> None:
    """Neither the import nor a step that flushes subnormals changes those of any thread, or what NumPy finds."""
    code = """
    before = modes()
    import numpy as np
    import schuss
    after_import = modes()

    def step(flush, threads):
        params = np.full(300_000, 1e-40, np.float32)
        schuss.SGD(params, lr=1.0, flush_subnormals=flush, threads=threads).step(np.full(300_000, 3e-41, np.float32))
        return set(params.tolist())

    kept = step(False, 1)
    for threads in (1, 2, 3):
        print(step(True, threads), step(False, threads) == kept, len(kept), 0.0 in kept)
    print(modes() == after_import == before)
    print([float(np.finfo(dtype).smallest_subnormal) > 0 for dtype in (np.float16, np.float32, np.float64)])
    print(5e-324 / 1 > 0, float(np.array([1e-310]).sum()) > 0, 0.1 + 0.2 == 0.30000000000000004)
    """
    said = output(MODES + textwrap.dedent(code), flags=STRICT)
    assert said == 3 * "{0.0} True 1 False\n" + "True\n[True, True, True]\nTrue True True\n"


def test_floating_point_modes_of_the_caller_do_not_matter() -> None:
    """Nor do those that were set when the pool's threads were made: the bits are those of the default modes."""
    code = """
    import numpy as np
    import schuss

    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal((2, 300_000)).astype(np.float32)
    chosen = ["Adam", "LAMB", "Prodigy"]

    def run(threads):
        found = []
        for name in chosen:
            optimizer = getattr(schuss, name)(start.copy(), lr=0.1, threads=threads)
            optimizer.step(grads)
            optimizer.step(grads)
            found.append(optimizer.params.tobytes())
        return found

    run(1)  # imports, under the default modes
    libm.fesetround(UPWARD)
    inside = [run(threads) for threads in (3, 2, 1)]  # the pool is made here
    still = libm.fegetround() == UPWARD
    libm.fesetround(0)
    expected = run(1)
    print(still, [found == expected for found in inside], [run(threads) == expected for threads in (2, 3)])
    """
    said = output(MODES + textwrap.dedent(code))
    assert said == "True [True, True, True] [True, True]\n"


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
