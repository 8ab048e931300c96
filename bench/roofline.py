"""The roofline: how fast this machine can make a step, found by the compiled loop of roofline.cpp.

The loop moves the bytes of the step. In cache it also makes the step's divisions and square roots, whose throughput is
the limit there, and no other arithmetic.

The search goes over instruction sets, numbers of threads, the cut of the work, prefetching, and ordinary or streaming
stores. Streaming stores are let in because the limit is the machine's, not a style's: they change no byte that must
move (the line they write has just been read) and are taken only where they win, which in cache they never do.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from protocol import fastest

if TYPE_CHECKING:
    from contenders import Traffic
    from workloads import Workload

LINE, PAGE, HUGE_PAGE = 64, 4096, 1 << 21
CHUNKS = (0, 1 << 14, 1 << 16, 1 << 18)  # bytes per array; 0 is one contiguous part per thread
SEARCH_ROUNDS = (3, 5, 9)


class Loop(NamedTuple):
    """What the loop does for each element: its arrays, and divisions and roots of a dtype (float32 or float64)."""

    read: int
    written: int
    divisions: int
    roots: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the loop."""

    isa: str
    threads: int
    chunk: int
    streaming: bool
    prefetch: bool

    def __str__(self) -> str:
        cut = f"chunks of {self.chunk >> 10} KiB" if self.chunk else "contiguous parts"
        stores = "streaming" if self.streaming else "ordinary"
        ahead = ", prefetched" if self.prefetch else ""
        threads = f"{self.threads} threads" if self.threads > 1 else "1 thread"
        return f"{self.isa}, {threads}, {cut}, {stores} stores{ahead}"


class Mover:
    """The loop, compiled as it is asked for, and the best way found for each traffic.

    Parameters
    ----------
    isas
        Names as `schuss.instruction_sets()` gives them, baseline first.
    thread_counts
        Numbers of threads to try.
    """

    def __init__(self, isas: Sequence[str], thread_counts: Sequence[int]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="schuss-bench-")
        self._isas, self._thread_counts = isas, thread_counts
        self._entries: dict[Loop, dict[str, Any]] = {}
        self._best: dict[tuple[Loop, int, tuple[int, ...]], Way] = {}

    def step(self, traffic: Traffic, workload: Workload, thread_counts: Sequence[int] | None = None) -> Roofline:
        """Return the roofline of a step: in cache with its divisions and roots, from memory of its bytes alone."""
        arithmetic = (traffic.divisions, traffic.roots, workload.dtype.name) if workload.in_cache else ()
        return self.roofline(
            workload.nbytes, traffic.read, traffic.written, workload.calls, *arithmetic, thread_counts=thread_counts
        )

    def roofline(
        self,
        nbytes: int,
        read: int,
        written: int,
        most_calls: int,
        divisions: int = 0,
        roots: int = 0,
        dtype: str = "float32",
        *,
        thread_counts: Sequence[int] | None = None,
    ) -> Roofline:
        """Return the fastest roofline for arrays of `nbytes` bytes, `read` only read and `written` read and written.

        Divisions and roots are per element of `dtype`; `thread_counts` replaces those of the mover.
        """
        loop, counts = Loop(read, written, divisions, roots, dtype), tuple(thread_counts or self._thread_counts)
        if loop not in self._entries:
            with ThreadPoolExecutor() as pool:
                compiled = pool.map(lambda isa: self._compile(isa, loop), self._isas)
                self._entries[loop] = dict(zip(self._isas, compiled, strict=True))
        entries, arrays = self._entries[loop], Arrays(nbytes, read + written, dtype)
        if (loop, nbytes, counts) not in self._best:
            ways = itertools.product(self._isas, counts, CHUNKS, (False, True), (False, True))
            candidates = [Roofline(entries[way[0]], arrays, Way(*way)) for way in ways]
            self._best[loop, nbytes, counts] = fastest(candidates, most_calls, SEARCH_ROUNDS).way
        way = self._best[loop, nbytes, counts]
        return Roofline(entries[way.isa], arrays, way)

    def _compile(self, isa: str, loop: Loop) -> Any:
        library = Path(self._folder.name) / f"roofline-{isa}-{'-'.join(map(str, loop))}.so"
        source = Path(__file__).with_suffix(".cpp")
        defined = {
            "READ": loop.read,
            "WRITTEN": loop.written,
            "DIVISIONS": loop.divisions,
            "ROOTS": loop.roots,
            "REAL": {"float32": "float", "float64": "double"}[loop.dtype],
        }
        flags = ["-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC", "-pthread"]
        flags += [f"-D{name}={value}" for name, value in defined.items()]
        if isa.startswith("x86_64"):
            flags.append("-march=" + isa.replace("x86_64", "x86-64").replace("_v", "-v"))
        subprocess.run([*compiler(), *flags, str(source), "-o", str(library)], check=True)
        entry = ctypes.CDLL(str(library)).roofline
        entry.restype = ctypes.c_double
        size, flag, count = ctypes.c_size_t, ctypes.c_bool, ctypes.c_uint
        entry.argtypes = [ctypes.c_void_p, size, size, flag, flag, count, count]
        return entry


class Arrays:
    """The roofline's arrays: on cache lines, staggered within the page, in huge pages where the system gives them.

    They hold numbers from 1 to 2, of a dtype, which divisions and roots find neither special nor short.
    """

    def __init__(self, nbytes: int, count: int, dtype: str) -> None:
        self.nbytes = -(-nbytes // LINE) * LINE
        # A stride that is no multiple of a page: arrays at one page offset fight for the same sets of the caches.
        stride = -(-self.nbytes // PAGE) * PAGE + PAGE // count // LINE * LINE
        # NumPy asks the system for huge pages for large blocks. Every page is written once, or reads would all find the
        # one page of zeros that stands for untouched ones.
        numbers = np.random.default_rng(0).uniform(1, 2, HUGE_PAGE // 8).astype(dtype)
        self._room: NDArray[np.uint8] = np.resize(numbers.view(np.uint8), stride * count + HUGE_PAGE)
        start = -(-self._room.ctypes.data // HUGE_PAGE) * HUGE_PAGE
        self.addresses = (ctypes.c_void_p * count)(*(start + stride * k for k in range(count)))


@dataclass
class Roofline:
    """A contender that runs the loop in one way."""

    entry: Any = field(repr=False)
    arrays: Arrays = field(repr=False)
    way: Way

    lingers: ClassVar[bool] = False  # its threads end with the block

    @property
    def threads(self) -> int:
        return self.way.threads

    def block(self, calls: int) -> float:
        arrays, way = self.arrays, self.way
        seconds: float = self.entry(
            arrays.addresses, arrays.nbytes, way.chunk, way.streaming, way.prefetch, way.threads, calls
        )
        return seconds


def compiler() -> list[str]:
    """Return the command of the system's C++ compiler."""
    return shlex.split(os.environ.get("CXX", "c++"))
