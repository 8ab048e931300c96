"""What runs: instruction set, threads, versions."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from schuss import _core

#: A block that signals wait for. (One for all: to make another asks for memory where pybind11 cannot raise.)
held = _core.Held()


def instruction_sets() -> list[str]:
    """Return the instruction sets that this build holds and this machine runs, the baseline first.

    Examples
    --------
    >>> len(schuss.instruction_sets()) >= 1
    True
    """
    return _core.instruction_sets()


def use_isa(name: str) -> None:
    """Choose the instruction set of all following steps; the results are the same bits.

    Parameters
    ----------
    name : str
        One of `instruction_sets`.

    Raises
    ------
    ValueError
        If this machine does not run it.

    Examples
    --------
    >>> schuss.use_isa(schuss.instruction_sets()[-1])
    """
    _core.use_isa(name)


def set_num_threads(threads: int) -> None:
    """Set the number of threads of every optimizer that was not given `threads=`.

    Parameters
    ----------
    threads : int
        At least 1. The results do not depend on it.

    Examples
    --------
    >>> schuss.set_num_threads(schuss.get_num_threads())
    """
    _core.set_num_threads(checked_threads("schuss: threads", threads))


def get_num_threads() -> int:
    """Return the number of threads of optimizers that were not given `threads=`.

    Examples
    --------
    >>> schuss.get_num_threads() >= 1
    True
    """
    return _core.num_threads()


def runtime() -> dict[str, Any]:
    """Return the versions, the instruction sets, the one in use, and the threads."""
    import platform

    return {
        "schuss": _core.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "instruction_sets": _core.instruction_sets(),
        "instruction_set": _core.isa(),
        "threads": _core.num_threads(),
        "cores": _available_cores(),
    }


def show_runtime() -> None:
    """Print the versions, the instruction set and the threads in use.

    Examples
    --------
    >>> schuss.show_runtime()  # doctest: +ELLIPSIS
    schuss ...
    """
    now = runtime()
    sets = ", ".join(f"[{name}]" if name == now["instruction_set"] else name for name in now["instruction_sets"])
    print(f"schuss {now['schuss']}, NumPy {now['numpy']}, Python {now['python']}")
    print(f"instruction sets: {sets}  (the one in brackets runs)")
    print(f"threads: {now['threads']} of {now['cores']} available")


def checked_threads(who: str, threads: object) -> int:
    """Return a number of threads, or raise with `who` at the start of the sentence."""
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer):
        raise TypeError(f"{who} must be an integer, got {threads!r}")
    if not 1 <= threads <= 4096:
        raise ValueError(f"{who} must be from 1 to 4096, got {threads}")
    return int(threads)


def number_of_threads(who: str, threads: object) -> int:
    """Return the number of threads of one call, 0 for the package's, or raise with `who` at the start of the sentence."""
    return 0 if threads is None else checked_threads(f"{who}: threads", threads)


def _available_cores() -> int:
    """Return the cores this process may use: its affinity, and the quotas of its control group and those around it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for file in _quota_files():
        try:
            words = _text(file).split()
            quota = float(words[0])
            period = float(words[1] if len(words) > 1 else _text(file.replace("quota", "period")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:
            cores = min(cores, math.ceil(quota / period))
    return max(cores, 1)


def _quota_files() -> list[str]:
    """Return where the quotas of version 2 and of version 1 are, from the mount's root down to the process's own group."""
    try:
        groups = [line.split(":", 2) for line in _text("/proc/self/cgroup").splitlines()]
    except OSError:
        groups = []
    found = []
    for root, file, controller in (("", "cpu.max", ""), ("/cpu", "cpu.cfs_quota_us", "cpu")):
        # In a container the path may be that of the host, and the root the container's group.
        path = next((each[2] for each in groups if len(each) == 3 and controller in each[1].split(",")), "/")
        parts = [part for part in path.split("/") if part]
        found += ["/".join([f"/sys/fs/cgroup{root}", *parts[:depth], file]) for depth in range(len(parts) + 1)]
    return found


def _text(file: str) -> str:
    with open(file) as lines:  # noqa: PTH123  (pathlib takes longer to import than all of schuss)
        return lines.read()


def configure() -> None:
    """Set threads and instruction set from the environment, once, at import; tell threadpoolctl of the threads."""
    threads = _available_cores()
    if ours := os.environ.get("SCHUSS_NUM_THREADS"):
        if not ours.isdecimal():
            raise ValueError(f"schuss: SCHUSS_NUM_THREADS must be from 1 to 4096, got {ours!r}")
        threads = checked_threads("schuss: SCHUSS_NUM_THREADS", int(ours))
    elif (theirs := os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()).isdecimal() and int(theirs) > 0:
        threads = min(int(theirs), 4096)  # anything else OpenMP itself ignores, too
    _core.set_num_threads(threads)
    if name := os.environ.get("SCHUSS_ISA"):
        _core.use_isa(name)
    _tell_threadpoolctl()


def _tell_threadpoolctl() -> None:
    """Put the package's threads among those that threadpoolctl shows and limits, where it is installed."""
    try:
        from threadpoolctl import LibController, register
    except ImportError:  # or too old to be told
        return

    class Controller(LibController):  # type: ignore[misc]  # threadpoolctl has no types
        """Finds the compiled part by its name and symbols."""

        user_api = internal_api = "schuss"
        filename_prefixes = ("_core.",)
        check_symbols = ("schuss_num_threads", "schuss_limit_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.schuss_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.schuss_limit_threads(num_threads)

        def get_version(self) -> str:
            return str(_core.__version__)

        def set_additional_attributes(self) -> None:
            pass

    register(Controller)
