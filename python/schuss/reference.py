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
from schuss.math import normals, row_total

if TYPE_CHECKING:
    from schuss.matrix import Matrix, MatrixOptimizer
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
        self._leaves: list[NDArray[Any]] = [leaf.copy(order="K") for leaf in optimizer._stepped]
        self._slots: list[list[Any]] = [
            [None if array is None else array.copy(order="K") for array in slot] for slot in optimizer._slots
        ]
        self._scalars = optimizer._scalars.copy()
        self._counts = optimizer._counts.copy()
        kernel = optimizer._kernel()
        self._together = kernel["scope"] == "all"
        # Its base class is imported with the first such optimizer only.
        self._matrices: MatrixOptimizer | None = optimizer if kernel["kind"] == "matrix" else None  # type: ignore[assignment]
        self._shaped = optimizer._compiled()["shaped"]
        self._clipper = copy.deepcopy(optimizer._clipper)
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

    def step(self, grads: Any, *, grad_scale: float = 1.0, **inputs: Any) -> None:
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
            self._step([(tensor, [tensor.numbers(array) for array in arrays]) for tensor, arrays in active], grad_scale)
        for tensor, _ in active:
            self._counts[tensor.index] += 1
        self._counts[-1] += 1

    def _step(self, active: Sequence[tuple[_Tensor, list[NDArray[Any]]]], grad_scale: float) -> None:
        """Run the reference on every active tensor."""
        optimizer, step = self._optimizer, int(self._counts[-1])
        values = optimizer._values_at(step)
        spread = 0.0 if optimizer.noise is None else optimizer.noise.spread(step)
        gradients = _Gradients(self, [(tensor, arrays[0]) for tensor, arrays in active], grad_scale, step)
        factors = gradients.factors()
        calls: list[tuple[list[Any], dict[str, Any]]] = []
        matrices: list[Matrix] = []
        for tensor, (_, *further) in active:
            hyper = values[tensor.group]
            clock = int(self._counts[-1 if self._together else tensor.index])
            # The kernels count in double: beyond 2^53 steps that is every other whole number.
            t = int(float(clock + 1))
            keywords: dict[str, Any] = {"t": t} | {key: hyper[key] for key in self._hyper} | self._given | self._flags
            g, scale = gradients.scaled(tensor, factors)
            if spread:
                stream = optimizer._stream_named(f"noise of {optimizer._paths[tensor.index]}")
                drawn = normals(int(optimizer.noise.seed), t, stream, tensor.p.size)  # type: ignore[union-attr]
                g, scale = scale * g + spread * drawn.astype(tensor.compute).reshape(g.shape), 1.0
            tensor.l2, tensor.l1, tensor.decay, tensor.shrink = optimizer._around(hyper, step)
            g = _regularised(g, tensor.p, scale, tensor.l2, tensor.l1)
            for _ in self._draws:
                drawn = normals(int(hyper["seed"]), t, optimizer._stream(tensor.index), tensor.p.size)
                further.append(drawn.astype(tensor.compute).reshape(tensor.p.shape))
            scalars = [each.copy() for each in tensor.scalars] if self._together else tensor.scalars
            tensor.before = tensor.p.copy()
            calls.append(([tensor.p, g, *further, *tensor.slots, *scalars], keywords))
            if self._matrices is not None:
                keywords |= {"matrix": self._matrices._is_matrix[tensor.index]} if self._shaped else {}
        if self._together:
            self._step_together([optimizer.reference(*arrays, **keywords) for arrays, keywords in calls])
            count = self._scalars.shape[1]
            self._scalars[0] = [scalar[()] for scalar in calls[0][0][len(calls[0][0]) - count :]]
        elif self._matrices is not None:
            for (tensor, _), (arrays, keywords) in zip(active, calls, strict=True):
                matrix = self._step_matrix(self._matrices, tensor, arrays, keywords, values[tensor.group])
                matrices += [] if matrix is None else [matrix]
        else:
            for arrays, keywords in calls:
                optimizer.reference(*arrays, **keywords)
        boxes = optimizer._boxes()
        for tensor, _ in active:
            tensor.finish(optimizer, boxes[tensor.index])
        stepped = {tensor.index for tensor, _ in active}
        for tensors, projection in optimizer._bound_constraints(self._leaves):
            projection.apply([i in stepped for i in tensors])
        for matrix in matrices:
            self._matrices._keep_results(matrix)  # type: ignore[union-attr]
        for tensor, _ in active:
            tensor.read()

    def _step_matrix(
        self,
        optimizer: MatrixOptimizer,
        tensor: _Tensor,
        arrays: Sequence[Any],
        keywords: Mapping[str, Any],
        values: Mapping[str, float],
    ) -> Matrix | None:
        """Run a generator with the work between its sweeps, and return what that leads to."""
        i = tensor.index
        state = {
            name: slot[i]
            for name, slot in zip(optimizer._element_slots, self._slots, strict=True)
            if name is not None and slot[i] is not None
        }
        matrix = optimizer._new_matrix(i, self._leaves[i], keywords["t"], values, state)
        optimizer._run_reference(optimizer.reference(*arrays, **keywords), i, matrix)
        return matrix

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
        self.rows = leaf.shape[0] if leaf.ndim > 1 else None
        self.before = self.p
        self.l2 = self.l1 = self.decay = self.shrink = 0.0
        slots = twin._slots[: len(twin._slots) - len(twin._optimizer.shaped)]
        self.slots = [None if slot[index] is None else self._numbers_of(slot[index]) for slot in slots]
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

    def finish(self, optimizer: Optimizer, box: tuple[float, float] | None) -> None:
        """Let the weights decay and shrink, bound them, and round back into storage."""
        p, decay = self.p, optimizer.decay
        if self.decay and decay is not None and optimizer._decays[self.index][0]:
            anchor = optimizer._decays[self.index][1]
            away = self.before - _as_reals(anchor) if anchor is not None else self.before
            part = self.decay * away
            p[...] = p - (np.where((self.before - p) * away > 0, part, 0).astype(p.dtype) if decay.cautious else part)
        if self.shrink:
            p[...] = np.sign(p) * np.maximum(np.abs(p) - self.shrink, 0)
        if box is not None:
            p[...] = np.minimum(np.maximum(p, box[0]), box[1])
        for storage, numbers in self.stored:
            storage[...] = rounded(numbers, storage.dtype)

    def read(self) -> None:
        """Go on from what is stored."""
        for storage, numbers in self.stored:
            numbers[...] = widened(storage, self.compute)


class _Gradients:
    """The gradients of one step on their way to the rule: what takes norms for the clips, as the compiled plan does."""

    def __init__(
        self, twin: Reference, active: Sequence[tuple[_Tensor, NDArray[Any]]], grad_scale: float, step: int
    ) -> None:
        self.clipper, self.by_rows = twin._clipper, twin._clipper.by_rows
        self.clipper.step, self.clipper.scale = step, abs(grad_scale)
        self.grad_scale, self.sign = grad_scale, -1.0 if twin._optimizer.maximize else 1.0
        self.tensors = twin._tensors
        self.raw = {tensor.index: g for tensor, g in active}
        limit, centred = self.clipper.limit(step), twin._optimizer.centralize
        self.prepared = self.raw
        if self.clipper.prepares:
            self.prepared = {tensor.index: self._prepare(tensor, g, limit, centred) for tensor, g in active}

    def _prepare(self, tensor: _Tensor, g: NDArray[Any], limit: float, centred: bool) -> NDArray[Any]:
        """Return a gradient scaled, centred and cut."""
        x = self.grad_scale * g
        if centred and tensor.rows:
            means = self.grad_scale * row_total(g, (tensor.rows,)) / (g.size // tensor.rows)
            x = x - means.astype(g.dtype).reshape(-1, *[1] * (g.ndim - 1))
        return x if limit == math.inf else np.minimum(np.maximum(x, -limit), limit)

    def factors(self) -> NDArray[np.float64]:
        """Return the factor of all, or those of every unit."""
        if not self.clipper.clips:
            return np.ones(1)
        squares, scale = self.squares()
        parts = np.split(squares, np.cumsum(self.rows())[:-1])
        norm = math.sqrt(_added(_added(map(float, parts[i])) for i in self.raw)) / scale
        factors = self.clipper.factors(self, norm)
        self.clipper.learn()
        return factors

    def scaled(self, tensor: _Tensor, factors: NDArray[np.float64]) -> tuple[NDArray[Any], float]:
        """Return a tensor's gradient, and what it is still to be multiplied with."""
        scale = self.sign * (1.0 if self.clipper.prepares else self.grad_scale)
        g = self.prepared[tensor.index]
        if factors.size == 1:
            return g, scale * float(factors[0])
        first = sum(self.rows()[: tensor.index])
        if g.size == 0:
            return g, scale
        if not (self.by_rows and tensor.rows):
            return g, scale * float(factors[first])
        own = (scale * factors[first : first + tensor.rows]).astype(g.dtype)
        return own.reshape(-1, *[1] * (g.ndim - 1)) * g, 1.0

    def rows(self) -> list[int]:
        """Return how many units every tensor has."""
        return [1 if tensor.rows is None or not self.by_rows else tensor.rows for tensor in self.tensors]

    def active(self) -> list[bool]:
        """Return which tensors have a gradient."""
        return [tensor.index in self.raw for tensor in self.tensors]

    def squares(self) -> tuple[NDArray[np.float64], float]:
        """Return the sums of squares of the gradients as they came, times a scale twice, and that scale."""
        units, scale = self._units(self.raw, np.square), 1.0
        if not np.isfinite(units.sum()):  # finite doubles may have infinite squares: this brings them into range
            scale = 2.0**-600
            units = self._units(self.raw, lambda x: np.square(2.0**-600 * x))
        return units, scale / abs(self.grad_scale)

    def norms(self, norm: int, power: float, scale: float, weights: bool) -> NDArray[np.float64]:
        """Return the sums of another norm, of the gradients or the weights."""
        arrays = {i: self.tensors[i].p for i in self.raw} if weights else self.prepared
        powers = np.frompyfunc(lambda x: math.pow(x, power), 1, 1)
        term = (np.asarray, np.abs, np.square, lambda x: np.asarray(powers(np.abs(x)), np.float64), np.abs)[norm]
        return self._units(arrays, lambda x: term(scale * x), largest=norm == 4)

    def _units(self, arrays: Mapping[int, NDArray[Any]], term: Any, largest: bool = False) -> NDArray[np.float64]:
        """Return the sums of a function of the elements over every unit, or its largest value there."""
        units = []
        for i, rows in enumerate(self.rows()):
            if i not in arrays:
                units.append(np.zeros(rows))
                continue
            terms = term(arrays[i].astype(np.float64)).reshape(rows, arrays[i].size // max(rows, 1))
            units.append(terms.max(axis=1, initial=0.0) if largest else row_total(terms, (rows,)))
        return np.concatenate(units)


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
    stepped = optimizer._copied({})
    stepped.step(grads, **inputs)
    twin.step(grads, **inputs)
    return compare(stepped, twin)


def compare(optimizer: Optimizer, twin: Reference, tolerance: float = 0.0) -> CheckReport:
    """Compare parameters and state of an optimizer with those of a reference.

    Bits count (any NaN equals any other), unless a relative tolerance is given.
    """
    differences = []
    arrays: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {"params": (optimizer._stepped, twin._leaves)}
    for name, ours, theirs in zip(optimizer._element_slots, optimizer._slots, twin._slots, strict=True):
        if name is not None:
            arrays[f"state[{name!r}]"] = (ours, theirs)
    for what, pair in arrays.items():
        for path, a, b in zip(optimizer._paths, *pair, strict=True):
            if a is None and b is None:
                continue
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
    return [
        f"  {what}: {int(apart.sum())} of {apart.size} elements,{where} {a[index].item()!r} against {b[index].item()!r}"
    ]
