"""The NumPy twin of an optimizer: the formulas that the compiled rules equal bit for bit, run on copies."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schuss import memory, trees
from schuss.math import dot

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
    single = _rounded_to_odd(values) if values.dtype == np.float64 else np.ascontiguousarray(values, np.float32)
    bits = single.view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(single), quiet, nearest).astype(np.uint16).view(dtype)


def _rounded_to_odd(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return float32 numbers whose rounding to fewer bits is the rounding of the float64 numbers."""
    nearest = np.ascontiguousarray(values, np.float32)
    outside = np.abs(nearest.astype(np.float64)) > np.abs(values)
    toward_zero = np.where(outside, np.nextafter(nearest, np.float32(0)), nearest)
    odd = (np.ascontiguousarray(toward_zero).view(np.uint32) | np.uint32(1)).view(np.float32)
    return np.where((nearest == values) | np.isnan(values), nearest, odd)


def _as_reals(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view in C order of the array's memory, complex numbers as pairs of reals."""
    view = array.T if memory.is_fortran(array) else array
    if view.dtype.kind != "c":
        return view
    return view.reshape((*(view.shape or (1,)), 1)).view(np.float64 if view.dtype == np.complex128 else np.float32)


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
            [None if a is None else a.copy(order="K") for a in slot] for slot in optimizer._slots
        ]
        self._scalars = optimizer._scalars.copy()
        self._counts = optimizer._counts.copy()
        self._flags = {
            flag: bool(optimizer._flags >> bit & 1) for bit, flag in enumerate(optimizer._compiled()["flags"])
        }

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
        } | {name: self._scalars[:, j] for j, name in enumerate(self._optimizer._scalar_slots)}

    def step(self, grads: Any, **inputs: Any) -> None:
        """Update the copies; arguments as in the optimizer's step."""
        gradients = [None if g is None else np.asarray(g) for g in trees.matching_leaves(grads, self._optimizer._tree)]
        further = [
            list(trees.matching_leaves(tree, self._optimizer._tree)) for tree in self._optimizer._ordered(inputs)
        ]
        active = [i for i, gradient in enumerate(gradients) if gradient is not None]
        if not active:
            return
        with np.errstate(all="ignore"):
            self._step(gradients, further, active)
        for i in [*active, -1]:
            self._counts[i] += 1

    def _step(self, gradients: Sequence[Any], further: Sequence[Sequence[Any]], active: Sequence[int]) -> None:
        """Run the reference on every active tensor."""
        optimizer = self._optimizer
        values = optimizer._values_at(int(self._counts[-1]))
        scale = (-1.0 if optimizer.maximize else 1.0) * self._clip_coefficient(gradients, active)
        calls = [self._prepare(i, gradients[i], [tree[i] for tree in further], scale, values) for i in active]
        if inspect.isgeneratorfunction(optimizer.reference):
            self._step_together(calls)
        else:
            for call in calls:
                optimizer.reference(*call.arrays, *call.scalars, **call.keywords)
        for call in calls:
            self._finish(call)

    def _clip_coefficient(self, gradients: Sequence[Any], active: Sequence[int]) -> float:
        """Return what `clip` multiplies the gradients with."""
        if self._optimizer.clip is None:
            return 1.0
        limit, squares = float(self._optimizer.clip.max_norm), 0.0
        for i in active:
            g = _as_reals(self._in_memory_order(i, gradients[i]))
            numbers = widened(g, memory.compute_dtype(self._leaves[i]))
            squares += dot(numbers, numbers)
        norm = float(np.sqrt(squares))
        return 1.0 if norm <= limit else limit / norm

    def _in_memory_order(self, i: int, gradient: NDArray[Any]) -> NDArray[Any]:
        """Return a gradient contiguous in its parameter's memory order."""
        order = "F" if memory.is_fortran(self._leaves[i]) else "C"
        return np.asarray(gradient, order=order)  # type: ignore[call-overload,no-any-return]

    def _prepare(
        self, i: int, gradient: NDArray[Any], inputs: Sequence[Any], scale: float, values: Sequence[Mapping[str, float]]
    ) -> _Call:
        """Bring a tensor's operands into the compute type and add what no rule knows."""
        optimizer = self._optimizer
        compute = memory.compute_dtype(self._leaves[i])
        hyper = values[optimizer._group_of[i]]

        def number(array: NDArray[Any]) -> NDArray[Any]:
            reals = _as_reals(array)
            return reals if reals.dtype == compute else widened(reals, compute)

        p = number(self._leaves[i])
        g = number(self._in_memory_order(i, gradient))
        if scale != 1:
            g = scale * g
        if hyper["l2"] and hyper["l1"]:
            g = g + hyper["l2"] * p + hyper["l1"] * np.sign(p)
        elif hyper["l2"]:
            g = g + hyper["l2"] * p
        elif hyper["l1"]:
            g = g + hyper["l1"] * np.sign(p)
        slots = [None if slot[i] is None else number(slot[i]) for slot in self._slots]
        scope = optimizer._kernel()["scope"]
        scalars = [optimizer._scalar_view(self._scalars, i, j) for j in range(self._scalars.shape[1])]
        if scope == "all":
            scalars = [scalar.copy() for scalar in scalars]
        t = int(self._counts[-1 if scope == "all" else i]) + 1
        keywords: dict[str, Any] = {key: hyper[key] for key in optimizer._kernel()["hyper"]} | {
            flag: on for flag, on in self._flags.items() if flag not in optimizer._kernel()["hyper"]
        }
        further = [number(self._in_memory_order(i, each)) for each in inputs]
        return _Call(i, [p, g, *further, *slots], slots, scalars, {"t": t, **keywords})

    def _step_together(self, calls: Sequence[_Call]) -> None:
        """Run generators side by side: what each yields are its parts of sums over all tensors."""
        running: list[Iterator[Any]] = [
            self._optimizer.reference(*call.arrays, *call.scalars, **call.keywords) for call in calls
        ]
        sums: Any = None
        while True:
            parts = []
            for generator in running:
                try:
                    parts.append(generator.send(sums))  # type: ignore[attr-defined]
                except StopIteration:
                    continue
            if not parts:
                break
            rows = [part if isinstance(part, tuple) else (part,) for part in parts]
            totals = tuple(sum(column, 0.0) for column in zip(*rows, strict=True))
            sums = totals if isinstance(parts[0], tuple) else totals[0]
        for j, scalar in enumerate(calls[0].scalars):
            self._scalars[0, j] = scalar[()]

    def _finish(self, call: _Call) -> None:
        """Project on the bounds and round back into storage."""
        p = call.arrays[0]
        if self._optimizer.bounds is not None:
            p[...] = np.minimum(np.maximum(p, self._optimizer.bounds[0]), self._optimizer.bounds[1])
        stored = [(self._leaves[call.tensor], p)]
        stored += [
            (slot[call.tensor], new) for slot, new in zip(self._slots, call.slots, strict=True) if new is not None
        ]
        for array, new in stored:
            target = _as_reals(array)
            if target.dtype != new.dtype:
                target[...] = rounded(new, target.dtype)


@dataclass
class _Call:
    """One tensor's arguments of the reference."""

    tensor: int
    arrays: list[Any]
    slots: list[Any]
    scalars: list[Any]
    keywords: dict[str, Any]


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
