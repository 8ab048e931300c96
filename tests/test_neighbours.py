"""Other libraries with threads of their own in one process, and what limits threads from outside."""

from __future__ import annotations

import importlib.util
import os
import textwrap
from pathlib import Path

import pytest
from interpreters import output
from support import only_slow

import schuss

#: Work of other libraries on their own threads, which must come out the same before and after ours.
WORK = """
import sys

def torch():
    import torch
    torch.set_num_threads(2)
    x = torch.linspace(-1, 1, 500 * 500).reshape(500, 500)
    layer = torch.nn.Parameter(x.clone())
    optimizer = torch.optim.AdamW([layer], lr=0.1)
    ((layer @ x) ** 2).sum().backward()
    optimizer.step()
    return layer.detach().numpy().tobytes()

def sklearn():
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor
    x = np.random.default_rng(0).standard_normal((2000, 5))
    model = HistGradientBoostingRegressor(max_iter=5, early_stopping=False).fit(x, x[:, 0])
    return model.predict(x).tobytes()

def numba():
    import numba
    import numpy as np

    @numba.njit(parallel=True)
    def squares(x):
        found = np.empty_like(x)
        for i in numba.prange(len(x)):
            found[i] = x[i] * x[i]
        return found

    return squares(np.linspace(0, 1, 100_000)).tobytes()

def lightgbm():
    import lightgbm
    import numpy as np
    x = np.random.default_rng(0).standard_normal((2000, 5))
    options = {"num_threads": 2, "verbose": -1, "deterministic": True, "objective": "regression"}
    return lightgbm.train(options, lightgbm.Dataset(x, x[:, 0]), 5).predict(x).tobytes()

def faiss():
    import faiss
    import numpy as np
    x = np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)
    index = faiss.IndexFlatL2(16)
    index.add(x)
    return index.search(x, 3)[1].tobytes()

def ours():
    import numpy as np
    import schuss
    found = b""
    for name in ("AdamW", "LAMB", "Muon"):
        optimizer = getattr(schuss, name)(np.linspace(-1, 1, 160_000, dtype=np.float32).reshape(400, 400), threads=2)
        for _ in range(3):
            optimizer.step(np.linspace(1, -2, 160_000, dtype=np.float32).reshape(400, 400))
        found += optimizer.params.tobytes()
    return found
"""


def digests(names: list[str]) -> dict[str, set[str]]:
    """Have libraries work one after the other in one process, twice, and return the different results of each."""
    code = """
    import hashlib
    for name in 2 * sys.argv[1:]:
        print(name, hashlib.sha256(globals()[name]()).hexdigest(), flush=True)
    """
    found: dict[str, set[str]] = {name: set() for name in names}
    for line in output(WORK + textwrap.dedent(code), *names, limit=300).splitlines():
        name, digest = line.split()
        found[name].add(digest)
    return found


def beside(neighbours: list[str]) -> None:
    before, after = digests(["ours", *neighbours]), digests([*neighbours[::-1], "ours"])
    assert before == after
    assert before["ours"] == digests(["ours"])["ours"]
    assert all(len(found) == 1 for found in before.values())


@pytest.mark.peers
def test_torch_scikit_learn_and_numba_in_one_process_in_both_orders() -> None:
    """Same bits on all sides, no abort, and nothing said."""
    for name in ("torch", "sklearn", "numba"):
        pytest.importorskip(name)
    beside(["torch", "sklearn", "numba"])


@only_slow
@pytest.mark.parametrize("name", ["torch", "sklearn", "numba", "lightgbm", "faiss"])
def test_each_neighbour_in_both_orders(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}")
    beside([name])


# ---- what limits threads

#: Says how many threads the process has got by a step.
STEP = """
import hashlib, os, sys
import numpy as np
import schuss

def step(**options):
    before = len(os.listdir("/proc/self/task"))
    optimizer = schuss.LAMB(np.linspace(-1, 1, 300_000, dtype=np.float32), **options)
    optimizer.step(np.linspace(1, -2, 300_000, dtype=np.float32))
    made = len(os.listdir("/proc/self/task")) - before
    print(made, hashlib.sha256(optimizer.params.tobytes()).hexdigest())
"""

LINUX = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to count threads")


def steps(code: str, *arguments: object, **environment: str) -> list[int]:
    """Return how many threads every step of a script has made, all of which must come to the same bits."""
    found = [line.split() for line in output(STEP + code, *arguments, **environment).splitlines()]
    assert len({digest for _, digest in found}) == 1
    return [int(made) for made, _ in found]


@LINUX
@pytest.mark.peers
def test_threadpoolctl_sees_and_limits_us() -> None:
    pytest.importorskip("threadpoolctl")
    code = """
from threadpoolctl import threadpool_info, threadpool_limits

assert [each["num_threads"] for each in threadpool_info() if each["internal_api"] == "schuss"] == [3]
with threadpool_limits(2):
    step(threads=3)
with threadpool_limits(1):
    step(threads=3)
    step()
step(threads=3)
"""
    assert steps(code, SCHUSS_NUM_THREADS="3", OMP_NUM_THREADS="3") == [1, 0, 0, 1]


@LINUX
def test_one_core_is_one_thread() -> None:
    """The affinity at import, and each variable, decide on their own; the bits are the same."""
    pin = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert steps("step(threads=2)\nstep()\n", SCHUSS_NUM_THREADS="1") == [1, 0]
    assert steps("step(threads=2)\nstep()\n", OMP_NUM_THREADS="1") == [1, 0]
    before = STEP.replace("import schuss", f"{pin}import schuss")
    said = output(before + "step()\nprint(schuss.get_num_threads())\n").split()
    assert (said[0], said[2]) == ("0", "1")


@LINUX
def test_a_step_makes_do_with_the_threads_that_there_are() -> None:
    """A system that refuses more threads ends no process and changes no bit."""
    code = """
import resource

step(threads=2)
if os.getuid() == 0:
    os.setuid(65534)  # no limit holds for root
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
step(threads=8)
"""
    assert steps(code) == [1, 0]


GROUP = "/proc/self/cgroup"
ROOT = "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({GROUP: "0::/\n"}, 8),
        ({GROUP: "0::/\n", f"{ROOT}/cpu.max": "max 100000\n"}, 8),
        ({GROUP: "0::/\n", f"{ROOT}/cpu.max": "150000 100000\n"}, 2),
        ({GROUP: "0::/\n", f"{ROOT}/cpu.max": "1 100000\n"}, 1),
        ({GROUP: "0::/\n", f"{ROOT}/cpu.max": "1600000 100000\n"}, 8),
        ({GROUP: "0::/a.slice/b.scope\n", f"{ROOT}/a.slice/b.scope/cpu.max": "300000 100000\n"}, 3),
        (
            {
                GROUP: "0::/a.slice/b.scope\n",
                f"{ROOT}/a.slice/cpu.max": "100000 100000\n",
                f"{ROOT}/a.slice/b.scope/cpu.max": "max 100000\n",
            },
            1,
        ),
        # A container that sees the host's path.
        ({GROUP: "0::/docker/1234\n", f"{ROOT}/cpu.max": "200000 100000\n"}, 2),
        (
            {
                GROUP: "5:memory:/x\n3:cpu,cpuacct:/docker/1234\n0::/\n",
                f"{ROOT}/cpu/docker/1234/cpu.cfs_quota_us": "400000\n",
                f"{ROOT}/cpu/docker/1234/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                GROUP: "3:cpu:/\n",
                f"{ROOT}/cpu/cpu.cfs_quota_us": "-1\n",
                f"{ROOT}/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
        ({GROUP: "nonsense\n", f"{ROOT}/cpu.max": "more nonsense\n"}, 8),
    ],
)
def test_quotas_of_control_groups(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int) -> None:
    """Of the process's own group and of all those around it, in both versions of the file system."""

    def text(file: str) -> str:
        if file not in files:
            raise FileNotFoundError(file)
        return files[file]

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(schuss._runtime, "_text", text)
    assert schuss._runtime._available_cores() == cores
