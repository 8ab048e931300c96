"""A process that is killed while it saves: the file is the old one or the new one, and what it leaves behind goes away."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tries

import schuss
from schuss import checkpoint, trees

#: Libraries that were imported by other tests warn of forks: their threads are missing in the child, which has no use for them.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")

SUFFIXES = [".npz", ".safetensors"]
TRACEME, SYSCALL, KILL_AT_EXIT = 0, 24, (0x4200, 0x100000)  # of ptrace

each_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def child(work: Callable[[], None]) -> int:
    """Fork a process that does some work and nothing else, not even what pytest does at exit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which these children do not use
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


class Traced:
    """A child that stops before and after each of its system calls."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self.ptrace.restype = ctypes.c_long

        def traced() -> None:
            if self.ptrace(TRACEME, 0, None, None) == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
                work()

        self.pid = child(traced)
        self.runs = os.WIFSTOPPED(os.waitpid(self.pid, 0)[1])
        if not self.runs:
            pytest.skip("the system allows no tracing of processes")
        self.ptrace(KILL_AT_EXIT[0], self.pid, None, KILL_AT_EXIT[1])

    def go_on(self, stops: int) -> None:
        """Go on for some stops, or to the end."""
        while self.runs and stops > 0:
            self.ptrace(SYSCALL, self.pid, None, None)
            status = os.waitpid(self.pid, 0)[1]
            self.runs, stops = os.WIFSTOPPED(status), stops - 1
            assert self.runs or status == 0, "the child failed"

    def kill(self) -> None:
        if self.runs:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def adam() -> Any:
    return schuss.Adam({"w": np.ones((2, 3), np.float32), "b": [np.ones(3)]})


def wrapped() -> Any:
    return schuss.EMA(schuss.Lookahead(schuss.SGD([np.ones(3)], momentum=0.5)))


def quasi_newton() -> Any:
    return schuss.LBFGS([np.ones(3)])


def step(target: Any) -> None:
    grads = trees.map_leaves(lambda leaf: leaf * 2, target.params)
    square = sum(float((leaf**2).sum()) for _, leaf in trees.leaves(target.params))
    target.step((lambda: (square, grads)) if isinstance(target, schuss.ClosureOptimizer) else grads)


def content(path: Path) -> Any:
    arrays, metadata = checkpoint.read(path)
    return {name: array.tobytes() for name, array in arrays.items()}, metadata


@pytest.mark.parametrize("build", [adam, wrapped, quasi_newton])
@each_suffix
def test_killed_at_every_system_call(build: Callable[[], Any], suffix: str, tmp_path: Path) -> None:
    """Before and after each of them."""
    path, after = tmp_path / f"run{suffix}", tmp_path / "after"
    after.mkdir()
    target = build()
    step(target)
    target.save(path, params=True)
    old, old_content = path.read_bytes(), content(path)
    step(target)
    target.save(after / path.name, params=True)
    new_content = content(after / path.name)
    outcomes = []
    for stops in itertools.count(1, tries(29, 1)):
        process = Traced(lambda: target.save(path, params=True))
        process.go_on(stops)
        process.kill()
        found = path.read_bytes()
        outcomes.append(found != old)
        assert content(path) == (new_content if outcomes[-1] else old_content)
        left = [entry.name for entry in tmp_path.iterdir() if entry.name not in (path.name, after.name)]
        assert len(left) <= 1, "what was left before is gone"
        assert all(name.startswith(".schuss-") and name.endswith(".tmp") for name in left)
        if not process.runs:
            break
        if outcomes[-1]:
            path.write_bytes(old)
    assert left == []
    assert (outcomes[0], outcomes[-1]) == (False, True)
    assert len(outcomes) > tries(5, 100)


@each_suffix
def test_killed_at_random(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / f"run{suffix}"
    size = 20_000

    def save(t: int) -> None:
        checkpoint.write(path, {"m": np.full(size, float(t)), "v": np.full(size, -float(t))}, {"t": t})

    def save_again_and_again(told: int) -> None:
        for t in range(1, 1000):
            save(t)
            os.write(told, b"x")

    save(0)
    seen = set()
    for _ in range(tries(10, 3000)):
        begun, told = os.pipe()
        pid = child(functools.partial(save_again_and_again, told))
        os.close(told)
        for _ in range(rng.integers(1, 6)):  # saves that are done; the time alone may be too short for any
            assert os.read(begun, 1) == b"x"
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        os.close(begun)
        arrays, metadata = checkpoint.read(path)
        t = metadata["t"]
        assert [
            name for name in arrays if not np.array_equal(arrays[name], np.full(size, t if name == "m" else -t))
        ] == []
        assert len([*tmp_path.iterdir()]) <= 2
        seen.add(t)
    assert len(seen) > 1
    save(1)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


# ---- what is left behind


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    """A second writer does not take the first one's file away."""
    with checkpoint._workspace(tmp_path) as folder:
        (folder / "new.npz").write_bytes(b"x")
        checkpoint.write(tmp_path / "other.npz", {}, {})
        assert (folder / "new.npz").read_bytes() == b"x"
    assert [entry.name for entry in tmp_path.iterdir()] == ["other.npz"]


@pytest.mark.parametrize(("kernel", "hours", "stays"), [(None, 0, False), ("other", 23, True), ("other", 25, False)])
def test_what_is_abandoned_goes(kernel: str | None, hours: float, stays: bool, tmp_path: Path) -> None:
    """What another machine left is kept for a day, since its locks may not be seen here."""
    folder = tmp_path / f".schuss-{kernel or checkpoint._kernel()}-abc.tmp"
    folder.mkdir()
    (folder / "new.npz").write_bytes(b"x")
    then = time.time() - 3600 * hours
    for each in (folder / "new.npz", folder):
        os.utime(each, (then, then))
    checkpoint.write(tmp_path / "run.npz", {}, {})
    assert folder.exists() == stays


def test_only_directories_of_ours_are_tidied(tmp_path: Path) -> None:
    """Not what a link leads to, and nothing that has directories inside."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "inside").mkdir(parents=True)
    (elsewhere / "file").touch()
    prefix = f".schuss-{checkpoint._kernel()}-"
    (tmp_path / f"{prefix}link.tmp").symlink_to(elsewhere)
    (tmp_path / f"{prefix}file.tmp").touch()
    (tmp_path / f"{prefix}deep.tmp" / "inside").mkdir(parents=True)
    checkpoint.write(tmp_path / "run.npz", {}, {})
    assert (elsewhere / "file").exists()
    assert len([*tmp_path.glob(".schuss-*.tmp")]) == 3


def test_a_directory_that_goes_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process tidies in between: a new one is made."""
    lock, taken = checkpoint.fcntl.flock, []

    def flock(handle: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.glob(".schuss-*.tmp"))
            taken[0].rmdir()
        lock(handle, how)

    monkeypatch.setattr(checkpoint.fcntl, "flock", flock)
    checkpoint.write(tmp_path / "run.npz", {}, {"t": 1})
    assert len(taken) == 1
    assert checkpoint.read(tmp_path / "run.npz")[1] == {"t": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.npz"]


@each_suffix
def test_without_locks(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has none, nothing is tidied and all else is as ever."""

    def flock(handle: int, how: int) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(checkpoint.fcntl, "flock", flock)
    (tmp_path / f".schuss-{checkpoint._kernel()}-abc.tmp").mkdir()
    checkpoint.write(tmp_path / f"run{suffix}", {}, {"t": 1})
    assert checkpoint.read(tmp_path / f"run{suffix}")[1] == {"t": 1}
    assert len([*tmp_path.iterdir()]) == 2


@each_suffix
def test_parameters_that_change_while_they_are_saved(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is good: it has them as they were when the state was copied."""
    target, write = adam(), checkpoint.write

    def late(path: Any, arrays: Any, metadata: Any) -> None:
        target.params["w"] += 1
        write(path, arrays, metadata)

    monkeypatch.setattr(checkpoint, "write", late)
    expected = target.params["w"].copy()
    target.save(tmp_path / f"run{suffix}", params=True)
    other = adam()
    other.load(tmp_path / f"run{suffix}")
    assert other.t == 0
    assert np.array_equal(other.params["w"], expected)
    assert not np.array_equal(target.params["w"], expected)


@pytest.mark.parametrize("build", [adam, wrapped, quasi_newton])
def test_a_step_while_the_state_is_copied(
    build: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a callback, say: it is refused, since what is written would be half old and half new."""
    target = build()
    copies = schuss.state.copies_of

    def late(leaves: Any) -> Any:
        step(target)
        return copies(leaves)

    monkeypatch.setattr(schuss.state, "copies_of", late)
    with pytest.raises(RuntimeError, match="another thread is inside this optimizer"):
        target.save(tmp_path / "run.npz", params=True)
    assert [*tmp_path.iterdir()] == []
    with contextlib.suppress(AttributeError):
        assert target.t == 0
