"""Optimizers in child processes: forked, also in the middle of a step, or given as pickles, or over shared memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from interpreters import STEPPING, output
from support import tries

#: Python 3.12 warns of forks beside threads: that they work is what this is about.
FORKS = ("-W", "ignore::DeprecationWarning")

#: Forks, and has the parent wait for what the child says of itself; a child that hangs is ended.
IN_CHILD = """
import os, signal

def in_child(work):
    child = os.fork()
    if child == 0:
        signal.alarm(50)
        try:
            os._exit(0 if work() else 3)
        except BaseException as error:
            print("the child:", repr(error), flush=True)
            os._exit(4)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
"""


def test_a_forked_child_steps() -> None:
    """The child has the parent's optimizer, steps it with threads of its own, and gets the same bits."""
    code = """
    threads = lambda: len(os.listdir("/proc/self/task"))
    expected = digest(make(1), 4)
    print(in_child(lambda: digest(held, 2) == digest(make(), 4) == expected and threads() > 1))
    print(in_child(lambda: in_child(lambda: digest(held, 2) == expected) == 0))
    print(digest(held, 2) == expected)
    """
    assert output(STEPPING + IN_CHILD + textwrap.dedent(code), flags=FORKS) == "0\n0\nTrue\n"


def test_all_kinds_of_optimizers_go_on_in_a_forked_child() -> None:
    """Also those that use NumPy's BLAS and its threads, wrappers, and those that evaluate a function."""
    code = """
    import copy
    from support import snapshot

    rng = np.random.default_rng(0)
    start, grads = ([rng.standard_normal((300, 200)).astype(np.float32)] for _ in range(2))
    names = ["AdamW", "NovoGrad", "Prodigy", "Adafactor", "Muon", "Shampoo", "SOAP", "PSGDKron"]
    makers = [lambda params, name=name: getattr(schuss, name)(params, threads=2) for name in names]
    makers += [
        lambda params: schuss.SGD(params, threads=2, clip=schuss.ClipNorm(1.0), lr=lambda step: 1 / (1 + step)),
        lambda params: schuss.Lookahead(schuss.EMA(schuss.Adam(params, threads=2)), k=2),
        lambda params: schuss.GaLore(schuss.Adam(params, threads=2), rank=4),
        lambda params: schuss.LBFGS(params),
    ]

    def run(optimizer):
        def closure():
            found = optimizer.params[0] - grads[0]
            return float(np.vdot(found, found)) / 2, [found]

        for _ in range(2):
            optimizer.step(closure if isinstance(optimizer, schuss.ClosureOptimizer) else grads)
        return [leaf.tobytes() for leaf in optimizer.params]

    optimizers = [make(copy.deepcopy(start)) for make in makers]
    for each in optimizers:
        run(each)
    def all_of_them():
        return [run(each) for each in copy.deepcopy(optimizers)]

    expected = all_of_them()
    print(len(expected), in_child(lambda: all_of_them() == expected), all_of_them() == expected)
    """
    assert output(STEPPING + IN_CHILD + textwrap.dedent(code), flags=FORKS) == "12 0 True\n"


def test_a_fork_during_a_step_of_another_thread_waits_for_it() -> None:
    """So the child has whole arrays, and steps them; without the GIL it may be refused instead."""
    code = """
    import threading

    no_gil = hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled()
    grads = np.ones(2_000_000, np.float32)
    optimizer = schuss.SGD(np.zeros(2_000_000, np.float32), lr=1.0, threads=2)
    done = threading.Event()

    def forever():
        while not done.is_set():
            optimizer.step(grads)

    def whole():
        t = optimizer.t
        before = (optimizer.params == -t).all()
        try:
            optimizer.step(grads)
        except RuntimeError as error:
            return "when the process forked" in str(error) and no_gil
        return before and optimizer.t == t + 1 and (optimizer.params == -t - 1).all()

    thread = threading.Thread(target=forever)
    thread.start()
    found = {in_child(whole) for _ in range(int(sys.argv[1]))}
    done.set()
    thread.join()
    print(found, bool((optimizer.params == -optimizer.t).all()))
    """
    said = output(STEPPING + IN_CHILD + textwrap.dedent(code), tries(10, 1000), flags=FORKS, limit=600)
    assert said == "{0} True\n"


def test_a_fork_while_another_thread_is_inside() -> None:
    """What it has left half done is refused in the child, and says why; the parent's goes on."""
    code = """
    import threading

    inside, forked = threading.Event(), threading.Event()

    def rate(step):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            forked.wait(50)
        return 1.0

    params, grads = np.zeros(3), np.ones(3)
    optimizer = schuss.EMA(schuss.SGD(params, lr=rate))
    thread = threading.Thread(target=optimizer.step, args=(grads,))
    thread.start()
    inside.wait(50)

    def refused():
        for each in (optimizer, optimizer.base):
            for use in (lambda: each.step(grads), each.state_dict, each.reset):
                try:
                    use()
                except RuntimeError as error:
                    print(error, flush=True)
                else:
                    return False
        schuss.SGD(params, lr=1.0).step(grads)
        return (params == -1).all()

    print(in_child(refused), flush=True)
    forked.set()
    thread.join()
    optimizer.step(grads)
    print(optimizer.t, params)
    """
    reason = (
        ": another thread was inside this optimizer when the process forked, so what is here may be half done; "
        "make a new one, or fork between steps\n"
    )
    said = output(STEPPING + IN_CHILD + textwrap.dedent(code), flags=FORKS)
    assert said == 3 * f"EMA{reason}" + 3 * f"SGD{reason}" + "0\n2 [-2. -2. -2.]\n"


def test_a_fork_from_inside_a_step() -> None:
    """The thread that forks is inside in both processes, and ends its step in both."""
    code = """
    found = []

    def rate(step):
        if step == 1:
            child = os.fork()
            found.append(child)
        return 1.0

    signal.alarm(50)
    optimizer = schuss.Lookahead(schuss.SGD(np.zeros(3), lr=rate), k=5)
    for _ in range(3):
        optimizer.step(np.ones(3))
    good = optimizer.t == 3 and (optimizer.params == -3).all()
    if found == [0]:
        os._exit(0 if good else 3)
    _, status = os.waitpid(found[0], 0)
    print(os.waitstatus_to_exitcode(status), good)
    """
    assert output(STEPPING + IN_CHILD + textwrap.dedent(code), flags=FORKS) == "0 True\n"


def run_as_file(code: str, folder: Path, *arguments: str) -> str:
    """Run a script that its children can import."""
    script = folder / "work.py"
    script.write_text(STEPPING + textwrap.dedent(code))
    command = [sys.executable, *FORKS, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])


@METHODS
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    """A pool's workers are given optimizers, and give them back."""
    code = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    def work(optimizer):
        return digest(make(), 2), digest(optimizer, 2)

    def stepped(optimizer):
        digest(optimizer, 1)
        return optimizer

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        expected = digest(make(), 4)
        with context.Pool(2) as pool:
            found = pool.map_async(work, [held, held]).get(timeout=90)
        print(set(found) == {(digest(make(), 2), expected)})
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            back = pool.submit(stepped, pool.submit(stepped, held).result(90)).result(90)
        print(back.t, digest(back, 0) == expected, digest(held, 2) == expected)
    """
    assert run_as_file(code, tmp_path, method) == "True\n4 True True\n"


@METHODS
def test_parameters_in_shared_memory(method: str, tmp_path: Path) -> None:
    """A child steps the parent's arrays in place; the memory cannot be closed under an optimizer."""
    code = """
    import multiprocessing
    from multiprocessing import shared_memory

    def work(name):
        memory = shared_memory.SharedMemory(name)
        params = np.frombuffer(memory.buf, np.float32)[:300_000]
        optimizer = schuss.Adam(params, threads=2)
        for _ in range(3):
            optimizer.step(np.linspace(1, -2, 300_000, dtype=np.float32))
        try:
            memory.close()
        except BufferError:
            pass
        else:
            sys.exit(3)
        del optimizer, params
        memory.close()

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        memory = shared_memory.SharedMemory(create=True, size=4 * 300_000)
        params = np.frombuffer(memory.buf, np.float32)[:300_000]
        params[...] = 1
        child = context.Process(target=work, args=(memory.name,))
        child.start()
        child.join(90)
        alone = schuss.Adam(np.ones(300_000, np.float32), threads=1)
        for _ in range(3):
            alone.step(np.linspace(1, -2, 300_000, dtype=np.float32))
        print(child.exitcode, params.tobytes() == alone.params.tobytes())
        del params
        memory.close()
        memory.unlink()
    """
    assert run_as_file(code, tmp_path, method) == "0 True\n"


def test_a_forked_child_shares_a_raw_array() -> None:
    """Anonymous shared memory, which the optimizer was made over before the fork."""
    code = """
    import multiprocessing

    shared = multiprocessing.RawArray("f", 300_000)
    optimizer = schuss.SGD(np.frombuffer(shared, np.float32), lr=1.0, threads=2)
    grads = np.ones(300_000, np.float32)
    optimizer.step(grads)

    def step():
        optimizer.step(grads)
        return True

    print(in_child(step), set(optimizer.params.tolist()), optimizer.t)
    """
    assert output(STEPPING + IN_CHILD + textwrap.dedent(code), flags=FORKS) == "0 {-2.0} 1\n"
