"""
The compiled part of schuss: rules, instruction sets, threads, and plans.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "Guard",
    "Held",
    "Let",
    "Plan",
    "Stack",
    "Undo",
    "Values",
    "free_threaded",
    "instruction_sets",
    "isa",
    "num_threads",
    "publish",
    "rules",
    "set_num_threads",
    "use_isa",
]

class Guard:
    """
    A context manager that lets one thread in and refuses others.
    """
    def __enter__(self) -> None: ...
    def __exit__(self, kind: typing.Any, error: typing.Any, traceback: typing.Any) -> None: ...
    @typing.overload
    def __init__(self, owner: str) -> None: ...
    @typing.overload
    def __init__(self, owner: str, wrapped: Guard) -> None: ...

class Plan:
    """
    Arrays validated once and stepped in place.
    """
    def __init__(
        self,
        owner: str,
        guard: Guard,
        rule: typing.SupportsInt | typing.SupportsIndex,
        flags: typing.SupportsInt | typing.SupportsIndex,
        tree: typing.Any,
        paths: collections.abc.Sequence[str],
        parameters: collections.abc.Sequence[typing.Any],
        group_of: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        groups: typing.SupportsInt | typing.SupportsIndex,
        streams: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        state: collections.abc.Sequence[collections.abc.Sequence[typing.Any]],
        scalars: numpy.typing.NDArray[numpy.float64],
        counts: numpy.typing.NDArray[numpy.int64],
        uint16_is_bfloat16: bool,
    ) -> None: ...
    def active(self) -> list[bool]:
        """
        Within a step: which tensors have a gradient.
        """
    def count_skips(
        self, skips: numpy.typing.NDArray[numpy.int64], most: typing.SupportsInt | typing.SupportsIndex
    ) -> None:
        """
        Count skipped steps, in all and in a row, and refuse more in a row than that; -1 for any number.
        """
    def folded(
        self, tensor: typing.SupportsInt | typing.SupportsIndex
    ) -> tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.float64]]:
        """
        Within a step: what rows and columns added up to.
        """
    def norms(
        self,
        norm: typing.SupportsInt | typing.SupportsIndex,
        power: typing.SupportsFloat | typing.SupportsIndex,
        scale: typing.SupportsFloat | typing.SupportsIndex,
        weights: bool,
    ) -> numpy.typing.NDArray[numpy.float64]:
        """
        Within a step: the sums of a norm of every unit, of gradients or weights.
        """
    def outcome(self) -> dict[str, typing.Any]:
        """
        What the last step did.
        """
    def protect(self, arrays: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        Refuse gradients over these arrays.
        """
    def rows(self) -> list[int]:
        """
        Within a step: units of every tensor.
        """
    def set_averages(self, averages: collections.abc.Sequence[typing.Any]) -> None:
        """
        Set the arrays that average the tensors.
        """
    def set_box(
        self,
        tensor: typing.SupportsInt | typing.SupportsIndex,
        lower: typing.SupportsFloat | typing.SupportsIndex,
        upper: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None:
        """
        Bound a tensor.
        """
    def set_decay(self, tensor: typing.SupportsInt | typing.SupportsIndex, decays: bool, anchor: typing.Any) -> None:
        """
        Say whether a tensor decays, and where to.
        """
    def set_matrix(
        self,
        tensor: typing.SupportsInt | typing.SupportsIndex,
        matrix: bool,
        rows: typing.SupportsInt | typing.SupportsIndex,
        columns: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Say of which matrices a tensor is made, and whether it is stepped as such.
        """
    def set_noise(
        self, tensor: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex
    ) -> None:
        """
        Choose a gradient's noise.
        """
    def set_numbers(
        self,
        tensor: typing.SupportsInt | typing.SupportsIndex,
        numbers: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    ) -> None:
        """
        Within a step: tell a tensor's rule what the work has led to.
        """
    def set_options(
        self,
        sign: typing.SupportsFloat | typing.SupportsIndex,
        by_rows: bool,
        nonfinite: typing.SupportsInt | typing.SupportsIndex,
        flush_subnormals: bool,
        threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Set how steps run.
        """
    def set_values(
        self,
        hyper: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]],
        limit: typing.SupportsFloat | typing.SupportsIndex,
        centred: bool,
        spread: typing.SupportsFloat | typing.SupportsIndex,
        noise_seed: typing.SupportsInt | typing.SupportsIndex,
        cautious: bool,
        average: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None:
        """
        Set what a step takes, as `Values` says.
        """
    def set_work(
        self,
        tensor: typing.SupportsInt | typing.SupportsIndex,
        slot: typing.SupportsInt | typing.SupportsIndex,
        array: numpy.ndarray,
    ) -> None:
        """
        Within a step: give a tensor an array for the work between sweeps.
        """
    def squares(self) -> tuple[numpy.typing.NDArray[numpy.float64], float]:
        """
        Within a step: sums of squares of every unit's gradient, and their scale.
        """
    def step(
        self,
        gradients: typing.Any,
        inputs: tuple[typing.Any, ...],
        given: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
        scale: typing.SupportsFloat | typing.SupportsIndex,
    ) -> int:
        """
        Step once; 0 done, 1 skipped, 2 refused for a non-finite gradient.
        """
    def step_within(
        self,
        gradients: typing.Any,
        inputs: tuple[typing.Any, ...],
        given: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
        scale: typing.SupportsFloat | typing.SupportsIndex,
        factors: typing.Any,
        work: typing.Any,
    ) -> int:
        """
        The same for who is inside the guard already. `work(-1)`, before the last sweep, returns what is written when the step is done, pairs of arrays, and an `Undo` and a function that is called then, or None and None.
        """

class Values:
    """
    What a step of a plan takes, every group's hyper-parameters and what surrounds the rule, or else why steps are refused, for `publish` to set.
    """
    @typing.overload
    def __init__(
        self,
        plan: typing.Any,
        hyper: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]],
        limit: typing.SupportsFloat | typing.SupportsIndex,
        centred: bool,
        spread: typing.SupportsFloat | typing.SupportsIndex,
        noise_seed: typing.SupportsInt | typing.SupportsIndex,
        cautious: bool,
        average: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None: ...
    @typing.overload
    def __init__(self, plan: typing.Any, suspended: str) -> None: ...

class Stack:
    """
    Several gradients of one nesting, and the arrays made of them.
    """
    def __init__(
        self,
        owner: str,
        names: collections.abc.Sequence[str],
        target: str,
        paths: collections.abc.Sequence[str],
        arrays: collections.abc.Sequence[collections.abc.Sequence[typing.Any]],
        results: collections.abc.Sequence[typing.Any],
    ) -> None: ...
    def combine(
        self,
        weights: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
        total: typing.SupportsFloat | typing.SupportsIndex,
        threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Write the weighted sum, divided by `total`.
        """
    def distances(self, threads: typing.SupportsInt | typing.SupportsIndex) -> list[float]:
        """
        The squared distances between gradients i and j < i, row by row.
        """
    def drop(
        self,
        key: typing.SupportsInt | typing.SupportsIndex,
        threshold: typing.SupportsInt | typing.SupportsIndex,
        scale: typing.SupportsFloat | typing.SupportsIndex,
        threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Write the elements that are kept, times `scale`, and 0 for the others.
        """
    def residuals(
        self,
        weights: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
        total: typing.SupportsFloat | typing.SupportsIndex,
        threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> list[float]:
        """
        The squared distance of each gradient from the weighted sum, divided by `total`.
        """
    def sorted_mean(
        self,
        begin: typing.SupportsInt | typing.SupportsIndex,
        end: typing.SupportsInt | typing.SupportsIndex,
        threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Write the mean of these places of the ascending order.
        """
    def vote(
        self,
        weights: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
        threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Write the sign of the weighted signs.
        """

class Held:
    """
    A block that signals wait for: their handlers run at its end.
    """
    def __enter__(self) -> None: ...
    def __exit__(self, kind: typing.Any, error: typing.Any, traceback: typing.Any) -> None: ...
    def __init__(self) -> None: ...

class Let:
    """
    A block within one of `Held` in which handlers run as ever.
    """
    def __enter__(self) -> None: ...
    def __exit__(self, kind: typing.Any, error: typing.Any, traceback: typing.Any) -> None: ...
    def __init__(self) -> None: ...

class Undo:
    """
    A block whose errors put bytes of arrays and attributes of objects back.
    """
    def __enter__(self) -> None: ...
    def __exit__(self, kind: typing.Any, error: typing.Any, traceback: typing.Any) -> None: ...
    def __init__(
        self, arrays: collections.abc.Sequence[numpy.ndarray], objects: collections.abc.Sequence[typing.Any] = []
    ) -> None: ...

def instruction_sets() -> list[str]:
    """
    The instruction sets this machine runs, baseline first.
    """

def isa() -> str:
    """
    The instruction set in use.
    """

def num_threads() -> int:
    """
    The default number of threads.
    """

def publish(
    pairs: collections.abc.Sequence[tuple[numpy.ndarray, numpy.ndarray]], values: collections.abc.Sequence[Values]
) -> None:
    """
    Copy the second array of every pair into the first, and set values of plans: all, or nothing; for who is inside their guards.
    """

def rules() -> dict[str, typing.Any]:
    """
    What every compiled rule declares, by name.
    """

def set_num_threads(threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Set the default number of threads.
    """

def use_isa(name: str) -> None:
    """
    Choose an instruction set.
    """

__version__: str
free_threaded: bool = False
