"""How two contenders are compared: alternating blocks of calls, medians of paired ratios, an interval of the median."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

BLOCK_SECONDS = 0.5
"""A block is not filled up beyond this: contenders that take more than a fiftieth of it make fewer calls than 50."""

SEARCH_SECONDS = 0.05
"""The same for blocks that only choose the fastest candidate."""

FAR, FAR_PAIRS = 100, 7
"""Beyond this ratio (pure Python's) so many pairs will do: no noise hides it."""

SETTLE_SECONDS = 0.02
"""Pause after a block of several threads. Idle OpenMP workers spin for a while (GNU: 300 000 pauses, 5-15 ms) before
they sleep; without the pause the block after theirs would share a core with them. The pause is a busy one: a core that
sleeps wakes up at a lower clock."""


class Contender(Protocol):
    """Something that makes steps and can say how long one takes."""

    @property
    def threads(self) -> int:
        """Return the threads it runs on."""
        ...

    @property
    def lingers(self) -> bool:
        """Return whether its workers stay busy for a while after a block."""
        ...

    def block(self, calls: int) -> float:
        """Make `calls` steps in a row and return the seconds per step."""
        ...


C = TypeVar("C", bound=Contender)


@dataclass(slots=True)
class Steps:
    """A contender that is a Python call.

    Attributes
    ----------
    prepare
        Called with the number of the block, untimed; returns the call to be timed.
    values
        Returns the arrays the steps have written, to be looked at when all is done.
    threads
        Threads the call runs on.
    scale
        Steps of the workload that one call stands for, as a fraction (a part of the elements is timed: less than one).
    """

    prepare: Callable[[int], Callable[[], object]]
    values: Callable[[], Iterable[NDArray[Any]]]
    threads: int = 1
    scale: float = 1.0
    _blocks: int = 0

    @property
    def lingers(self) -> bool:
        return self.threads > 1

    def block(self, calls: int) -> float:
        call = self.prepare(self._blocks)
        self._blocks += 1
        if calls > 1:
            call()  # wakes the workers and fills the caches: a block shows the pace, not the start
        clock, repeat = time.perf_counter, range(calls)
        begin = clock()
        for _ in repeat:
            call()
        seconds = clock() - begin
        return seconds / calls / self.scale


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired ratios and its interval.

    Attributes
    ----------
    median, low, high
        The median of time(other) / time(one), and the ends of its confidence interval.
    coverage
        Confidence of the interval, from the order statistics of `pairs` pairs.
    pairs
        Pairs of blocks.
    one, other
        Median seconds per step of the two.
    calls
        Calls per block of the two.
    """

    median: float
    low: float
    high: float
    coverage: float
    pairs: int
    one: float
    other: float
    calls: tuple[int, int]


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return a distribution-free interval of the median: (low, high, its exact confidence).

    The k-th smallest and the k-th largest of n values hold the median with the probability that a fair coin thrown n
    times shows k to n - k heads. The largest k that keeps `confidence` is taken; where n is too small for any, k = 1.
    """
    ordered, n = sorted(values), len(values)

    def outside(k: int) -> float:
        return math.ldexp(sum(math.comb(n, j) for j in range(k)), 1 - n)

    k = max((k for k in range(1, (n + 1) // 2 + 1) if 1 - outside(k) >= confidence), default=1)
    return ordered[k - 1], ordered[n - k], max(0.0, 1 - outside(k))


def pace(contender: Contender, most_calls: int) -> float:
    """Return about how many seconds a step takes; the contender has been warmed up then."""
    return min(contender.block(1) for _ in range(3 if most_calls > 1 else 1))


def calls_per_block(seconds: float, most_calls: int, limit: float = BLOCK_SECONDS) -> int:
    """Return how many calls of so many seconds fill a block."""
    return max(1, min(most_calls, int(limit / seconds)))


def fastest(candidates: Sequence[C], most_calls: int, rounds: Sequence[int] = (5,)) -> C:
    """Return the candidate with the least median time, in alternating blocks.

    `rounds` are the blocks each candidate gets in turn; after each but the last, the faster quarter goes on.
    """
    left = list(candidates)
    for count in rounds:
        if len(left) == 1:
            break
        calls = [calls_per_block(pace(each, most_calls), most_calls, SEARCH_SECONDS) for each in left]
        seconds: list[list[float]] = [[] for _ in left]
        with _quiet():
            for _ in range(count):
                for times, candidate, n in zip(seconds, left, calls, strict=True):
                    times.append(_settled_block(candidate, n))
        order = sorted(range(len(left)), key=lambda i: statistics.median(seconds[i]))
        left = [left[i] for i in order[: max(1, math.ceil(len(left) / 4))]]
    return left[0]


def compare(one: Contender, other: Contender, pairs: int, most_calls: int) -> Ratio:
    """Compare two contenders in `pairs` alternating pairs of blocks (see `FAR`)."""
    paces = pace(one, most_calls), pace(other, most_calls)
    calls = calls_per_block(paces[0], most_calls), calls_per_block(paces[1], most_calls)
    if paces[1] > FAR * paces[0]:
        pairs = min(pairs, FAR_PAIRS)
    ones: list[float] = []
    others: list[float] = []
    with _quiet():
        for _ in range(pairs):
            ones.append(_settled_block(one, calls[0]))
            others.append(_settled_block(other, calls[1]))
    ratios = [b / a for a, b in zip(ones, others, strict=True)]
    low, high, coverage = median_interval(ratios)
    return Ratio(
        median=statistics.median(ratios),
        low=low,
        high=high,
        coverage=coverage,
        pairs=pairs,
        one=statistics.median(ones),
        other=statistics.median(others),
        calls=calls,
    )


def _settled_block(contender: Contender, calls: int) -> float:
    seconds = contender.block(calls)
    if contender.lingers:
        end = time.perf_counter() + SETTLE_SECONDS
        while time.perf_counter() < end:
            pass
    return seconds


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the garbage collector out of the blocks, as `timeit` does."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
