"""The NumPy twin of an optimizer: the formulas that the compiled rules equal bit for bit, run on copies."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import operator
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schuss import memory, trees
from schuss.math import dot, normals

if TYPE_CHECKING:
    from schuss.optimizer import Optimizer

__all__ = ["CheckReport", "Reference", "check", "rounded", "widened"]


def widened(array: NDArray[Any], compute: Any = np.float32) -> NDArray[Any]:
    """Return an array's numbers in a compute type; uint16 holds the bits of bfloat16, and complex ones come as pairs."""
    if array.dtype == memory.BFLOAT16_BITS or memory.is_bfloat16(array.dtype):
        bits = array.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return np.asarray(bits.view(np.float32).astype(compute))
    return array.astype(compute)


def rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return numbers in a storage dtype, rounded once, to nearest even; NaN stays NaN."""
    if not (dtype == memory.BFLOAT16_BITS or memory.is_bfloat16(dtype)):
        return values.astype(dtype)
    single = _rounded_to_odd(values) if values.dtype == np.float64 else np.asarray(values, np.float32, order="C")
    bits = single.view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(single), quiet, nearest).astype(np.uint16).view(dtype)


def _rounded_to_odd(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return float32 numbers whose rounding to fewer bits is the rounding of the float64 numbers."""
    nearest = np.asarray(values, np.float32, order="C")  # ascontiguousarray would give 0-d arrays a dimension
    outside = np.abs(nearest.astype(np.float64)) > np.abs(values)
    toward_zero = np.where(outside, np.nextafter(nearest, np.float32(0)), nearest)
    odd = (np.asarray(toward_zero, order="C").view(np.uint32) | np.uint32(1)).view(np.float32)
    return np.where((nearest == values) | np.isnan(values), nearest, odd)


def _as_reals(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view in C order of the array's memory, complex numbers as pairs of reals along the last axis."""
    view = array.T if memory.is_fortran(array) else array
    if view.dtype.kind != "c":
        return view
    return view.reshape(view.shape or (1,)).view(np.float64 if view.dtype == np.complex128 else np.float32)


class Reference:
    """Steps copies of an optimizer's parameters and state with the NumPy formula of its class.

    Parameters
    ----------
    optimizer : Optimizer
        Left alone; the twin starts from its parameters, state, step counts and hyper-parameters.

    Examples
    --------
    >>> opt = schuss.Adam(np.ones(3))
    >>> twin = schuss.reference.Reference(opt)
    >>> opt.step(np.ones(3)); twin.step(np.ones(3))
    >>> bool((opt.params == twin.params).all())
    True
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._leaves: list[NDArray[Any]] = [leaf.copy(order="K") for leaf in optimizer._leaves]
        self._slots: list[list[Any]] = [
            [None if array is None else array.copy(order="K") for array in slot] for slot in optimizer._slots
        ]
        self._scalars = optimizer._scalars.copy()
        self._counts = optimizer._counts.copy()
        kernel = optimizer._kernel()
        self._together = kernel["scope"] == "all"
        self._hyper, self._draws = kernel["hyper"], kernel["draws"]
        self._flags = {
            flag: bool(optimizer._flags >> bit & 1)
            for bit, flag in enumerate(optimizer._compiled()["flags"])
            if flag not in self._hyper
        }
        self._tensors = [_Tensor(self, i) for i in range(len(self._leaves))]

    @property
    def params(self) -> Any:
        """The copies of the parameters."""
        return self._optimizer._like_params(self._leaves)

    @property
    def state(self) -> dict[str, Any]:
        """The copies of the state, arranged as in the optimizer."""
        return {
            name: self._optimizer._like_params(arrays)
            for name, arrays in zip(self._optimizer._element_slots, self._slots, strict=True)
            if name is not None
        } | {
            name: self._optimizer._scalar_state(self._scalars, j)
            for j, name in enumerate(self._optimizer._scalar_slots)
        }

    def step(self, grads: Any, **inputs: Any) -> None:
        """Update the copies; arguments as in the optimizer's step."""
        tree = self._optimizer._tree
        further, given = self._optimizer._ordered(inputs)
        self._given = dict(zip(self._optimizer.given, given, strict=True))
        operands = zip(*(trees.matching_leaves(each, tree) for each in (grads, *further)), strict=True)
        active = [
            (tensor, arrays) for tensor, arrays in zip(self._tensors, operands, strict=True) if arrays[0] is not None
        ]
        if not active:
            return
        with np.errstate(all="ignore"):
            self._step([(tensor, [tensor.numbers(array) for array in arrays]) for tensor, arrays in active])
        for tensor, _ in active:
            self._counts[tensor.index] += 1
        self._counts[-1] += 1

    def _step(self, active: Sequence[tuple[_Tensor, list[NDArray[Any]]]]) -> None:
        """Run the reference on every active tensor."""
        optimizer = self._optimizer
        values = optimizer._values_at(int(self._counts[-1]))
        scale = (-1.0 if optimizer.maximize else 1.0) * self._clip_coefficient([arrays[0] for _, arrays in active])
        calls: list[tuple[list[Any], dict[str, Any]]] = []
        for tensor, (gradient, *further) in active:
            hyper = values[tensor.group]
            g = _regularised(gradient, tensor.p, scale, hyper["l2"], hyper["l1"])
            clock = int(self._counts[-1 if self._together else tensor.index])
            # The kernels count in double: beyond 2^53 steps that is every other whole number.
            keywords: dict[str, Any] = (
                {"t": int(float(clock + 1))} | {key: hyper[key] for key in self._hyper} | self._given | self._flags
            )
            for _ in self._draws:
                drawn = normals(int(hyper["seed"]), keywords["t"], optimizer._stream(tensor.index), tensor.p.size)
                further.append(drawn.astype(tensor.compute).reshape(tensor.p.shape))
            scalars = [each.copy() for each in tensor.scalars] if self._together else tensor.scalars
            calls.append(([tensor.p, g, *further, *tensor.slots, *scalars], keywords))
        if self._together:
            self._step_together([optimizer.reference(*arrays, **keywords) for arrays, keywords in calls])
            count = self._scalars.shape[1]
            self._scalars[0] = [scalar[()] for scalar in calls[0][0][len(calls[0][0]) - count :]]
        else:
            for arrays, keywords in calls:
                optimizer.reference(*arrays, **keywords)
        for tensor, _ in active:
            tensor.finish(optimizer.bounds)

    def _clip_coefficient(self, gradients: Sequence[NDArray[Any]]) -> float:
        """Return what `clip` multiplies the gradients with."""
        if self._optimizer.clip is None:
            return 1.0
        limit, scale = float(self._optimizer.clip.max_norm), 1.0
        squares = _added(dot(gradient, gradient) for gradient in gradients)
        if not math.isfinite(squares):  # finite doubles may have infinite squares: this brings them into range
            scale = 2.0**-600
            scaled = [scale * gradient.astype(np.float64) for gradient in gradients]
            squares = _added(dot(gradient, gradient) for gradient in scaled)
        norm = math.sqrt(squares)
        return 1.0 if norm <= limit * scale else limit * scale / norm

    @staticmethod
    def _step_together(running: Sequence[Generator[Any, Any, None]]) -> None:
        """Run generators side by side: what each yields are its parts of sums over all tensors."""
        sums: Any = None
        while True:
            parts = []
            for generator in running:
                with contextlib.suppress(StopIteration):
                    parts.append(generator.send(sums))
            if not parts:
                return
            rows = [part if isinstance(part, tuple) else (part,) for part in parts]
            totals = tuple(_added(column) for column in zip(*rows, strict=True))
            sums = totals if isinstance(parts[0], tuple) else totals[0]


class _Tensor:
    """One tensor's copies as the reference takes them: in the compute type, in memory order, complex numbers as pairs."""

    def __init__(self, twin: Reference, index: int) -> None:
        self.index, self.group = index, twin._optimizer._group_of[index]
        leaf = twin._leaves[index]
        self.compute = memory.compute_dtype(leaf)
        self.fortran = memory.is_fortran(leaf)
        self.stored: list[tuple[NDArray[Any], NDArray[Any]]] = []  # storage, and the numbers to be rounded into it
        self.p = self._numbers_of(leaf)
        self.slots = [None if slot[index] is None else self._numbers_of(slot[index]) for slot in twin._slots]
        self.scalars = [twin._optimizer._scalar_view(twin._scalars, index, j) for j in range(twin._scalars.shape[1])]

    def _numbers_of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array's memory itself if it has the compute type, else its numbers, to be rounded back."""
        reals = _as_reals(array)
        if reals.dtype == self.compute:
            return reals
        self.stored.append((reals, widened(reals, self.compute)))
        return self.stored[-1][1]

    def numbers(self, array: Any) -> NDArray[Any]:
        """Return a gradient's or an input's numbers."""
        given = np.asarray(array)
        if self.fortran:
            given = given.T
        if given.dtype == self.compute:
            return given
        reals = _as_reals(np.ascontiguousarray(given)) if given.dtype.kind == "c" else given
        return reals if reals.dtype == self.compute else widened(reals, self.compute)

    def finish(self, bounds: tuple[float, float] | None) -> None:
        """Project on the bounds, round back into storage, and go on from what was stored."""
        if bounds is not None:
            self.p[...] = np.minimum(np.maximum(self.p, bounds[0]), bounds[1])
        for storage, numbers in self.stored:
            storage[...] = rounded(numbers, storage.dtype)
            numbers[...] = widened(storage, self.compute)


def _added(values: Iterable[float]) -> float:
    """Return a sum that rounds after every number, as the compiled one does; `sum` has not since Python 3.12."""
    return functools.reduce(operator.add, values, 0.0)


def evaluated(optimizer: Optimizer) -> list[NDArray[Any]]:
    """Return the weights to be evaluated, in the parameters' dtypes and memory order."""
    values = optimizer._values_at(optimizer.t)
    weights = []
    for i, leaf in enumerate(optimizer._leaves):
        compute = memory.compute_dtype(leaf)
        state: dict[str, Any] = {name: widened(_as_reals(slot), compute) for name, slot in optimizer._named_slots(i)}
        for j, name in enumerate(optimizer._scalar_slots):
            state[name] = optimizer._scalar_view(optimizer._scalars, i, j)
        new = leaf.copy(order="K")
        reals = _as_reals(new)
        with np.errstate(all="ignore"):
            weight = optimizer.evaluation(widened(reals, compute), state, values[optimizer._group_of[i]])
        reals[...] = rounded(weight, reals.dtype)
        weights.append(new)
    return weights


def _regularised(g: NDArray[Any], p: NDArray[Any], scale: float, l2: float, l1: float) -> NDArray[Any]:
    """Return what the rule sees as gradient; terms that were not asked for do not enter (g + 0 * p is not always g)."""
    if scale != 1:
        g = scale * g
    if l2:
        g = g + l2 * p
    if l1:
        g = g + l1 * np.sign(p)
    return g


@dataclass(frozen=True)
class CheckReport:
    """Where kernel and reference part; true where they agree."""

    optimizer: str
    differences: tuple[str, ...]

    def __bool__(self) -> bool:
        """Tell whether they agree."""
        return not self.differences

    def __str__(self) -> str:
        """Say it in sentences."""
        if self:
            return f"{self.optimizer}: kernel and reference agree"
        return "\n".join([f"{self.optimizer}: kernel and reference part", *self.differences])


def check(optimizer: Optimizer, grads: Any, inputs: Mapping[str, Any]) -> CheckReport:
    """Compare one step of the kernel with one of the reference, on copies."""
    twin = Reference(optimizer)
    stepped = copy.deepcopy(optimizer)
    stepped.step(grads, **inputs)
    twin.step(grads, **inputs)
    return compare(stepped, twin)


def compare(optimizer: Optimizer, twin: Reference, tolerance: float = 0.0) -> CheckReport:
    """Compare parameters and state of an optimizer with those of a reference.

    Bits count (any NaN equals any other), unless a relative tolerance is given.
    """
    differences = []
    arrays: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {"params": (optimizer._leaves, twin._leaves)}
    for name, ours, theirs in zip(optimizer._element_slots, optimizer._slots, twin._slots, strict=True):
        if name is not None:
            arrays[f"state[{name!r}]"] = (ours, theirs)
    for what, pair in arrays.items():
        for path, a, b in zip(optimizer._paths, *pair, strict=True):
            differences += _differences(what + path, a, b, tolerance)
    for j, name in enumerate(optimizer._scalar_slots):
        differences += _differences(f"state[{name!r}]", optimizer._scalars[:, j], twin._scalars[:, j], tolerance)
    return CheckReport(type(optimizer).__name__, tuple(differences))


def _differences(what: str, ours: NDArray[Any], theirs: NDArray[Any], tolerance: float) -> list[str]:
    """Say how many elements differ and where the first is."""
    if ours.tobytes() == theirs.tobytes():
        return []
    a, b = (widened(_as_reals(x), np.float64) for x in (ours, theirs))
    with np.errstate(invalid="ignore"):
        same = (a == b) & (np.signbit(a) == np.signbit(b)) | (np.isnan(a) & np.isnan(b))
        apart = ~(same | (np.abs(a - b) <= tolerance * np.abs(b))) if tolerance else ~same
    if not apart.any():
        return []
    index = tuple(int(i) for i in np.argwhere(apart)[0])
    where = f" first at {index}:" if index else ":"
    return [f"  {what}: {int(apart.sum())} of {apart.size} elements,{where} {a[index]!r} against {b[index]!r}"]
