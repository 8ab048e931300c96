"""Who makes the steps: schuss, its NumPy reference, pure Python, and torch where it has the same optimizer."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from formula import divisions_and_roots, element_slots, input_names, numpy_formula, plain_formula
from numpy.typing import NDArray
from plain import written
from protocol import Steps
from workloads import FLOAT32, Shape, Workload

import schuss
from schuss.matrix import MatrixOptimizer
from schuss.memory import compute_dtype, is_steppable
from schuss.reference import widened
from schuss.trees import leaves

PLAIN_ELEMENTS = 20_000
"""Pure Python steps at most so many elements; its time is scaled to the workload's."""

TIMED_RATE = 1e-6
"""The step size in all timed steps. Gradients here do not follow from the parameters: thousands of ordinary steps would
take these far away, and an estimate of the distance (Prodigy's) to infinity."""

TORCH_NAMES: Mapping[str, tuple[str, Mapping[str, Any]]] = {"AMSGrad": ("Adam", {"amsgrad": True})}
"""Where torch has an optimizer under another name, or as an option of one."""

_POOL = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
_POOL += np.copysign(np.float32(0.5), _POOL)


@dataclass(frozen=True, slots=True)
class Variant:
    """An optimizer and the options it is built with."""

    cls: type[schuss.Optimizer]
    options: Mapping[str, Any]

    def __str__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.cls.__name__}({said})" if said else self.cls.__name__

    def timed(self) -> Variant:
        """Return the variant with the step size of timed steps."""
        return Variant(self.cls, {**self.options, "lr": TIMED_RATE}) if "lr" in self.cls.hyperparameters else self

    @property
    def inputs(self) -> int:
        """Return how many inputs a step takes besides gradients."""
        return len(input_names(self.build([np.zeros(1, np.float32)])))

    def build(self, params: Sequence[NDArray[Any]], threads: int | None = None, **further: Any) -> schuss.Optimizer:
        """Return the optimizer over `params`; its state has 16 bits if they have."""
        dtype = params[0].dtype
        narrow = {"state_dtype": dtype} if dtype.itemsize == 2 else {}
        return self.cls(params, **self.options, **narrow, threads=threads, **further)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one step must move, and what it must compute that takes long.

    Attributes
    ----------
    read
        Arrays of the parameters' size that are only read: gradients, other inputs, slots that never change.
    written
        Arrays of that size that are read and written: the parameters and the other slots.
    total
        All bytes of a step, those of the smaller slots included.
    divisions, roots
        Per element.
    """

    read: int
    written: int
    total: int
    divisions: int
    roots: int


class Data:
    """Fresh arrays of a workload: parameters, and two sets of gradients that blocks take in turn.

    One set for ever would drive a centered variance to zero. The values are normal ones (a million of them, repeated:
    the time of a step does not depend on them), moved away from zero by a half: so their squares, times 1 - beta2, are
    no subnormal numbers even in float16.
    """

    def __init__(self, workload: Workload, inputs: int = 0) -> None:
        fill = partial(_normal, workload.dtype)
        self.params = workload.arrays(partial(fill, 0))
        self.given = [[workload.arrays(partial(fill, 1 + i + 2 * k)) for k in range(1 + inputs)] for i in range(2)]


def variants() -> list[Variant]:
    """Return every registered optimizer, once as it comes and once for each option that changes its slots.

    Those over matrices are left out: their formulas are no ones of single tensors, and `bench/matrices.py` has them.
    """
    found = []
    for cls in schuss.optimizers().values():
        if issubclass(cls, MatrixOptimizer):
            continue
        usual = Variant(cls, {})
        found.append(usual)
        for name, hyperparameter in cls.hyperparameters.items():
            other = _switched(hyperparameter.default)
            if other is None:
                continue
            variant = Variant(cls, {name: other})
            try:
                changes = _slots(variant) != _slots(usual)
            except ValueError:  # out of range, or senseless without another option
                continue
            if changes:
                found.append(variant)
    return found


def traffic(variant: Variant, workload: Workload) -> Traffic:
    """Return the traffic of a step, from the state that the optimizer really holds and the formula of its class."""
    optimizer = variant.build([np.zeros(shape, workload.dtype) for shape in workload.shapes])
    kept = written(optimizer.reference)
    of_elements = set(element_slots(optimizer))
    others = (tree for name, tree in optimizer.state.items() if name not in of_elements)
    other_bytes = sum(array.nbytes for tree in others for _, array in leaves(tree))
    read = 1 + len(input_names(optimizer)) + len(of_elements - kept)
    changed = 1 + len(of_elements & kept)
    # Values per tensor are next to nothing; values per row can be as many as the elements (where tensors are vectors).
    total = workload.nbytes * (read + 2 * changed) + 2 * other_bytes
    return Traffic(read, changed + round(other_bytes / workload.nbytes), total, *divisions_and_roots(variant.build))


def compiled(
    variant: Variant, workload: Workload, threads: int, wrap: Callable[[Any], Any] | None = None, **options: Any
) -> Steps:
    """Return schuss, with further options of every optimizer, and what `wrap` puts around it."""
    data = Data(workload, variant.inputs)
    inner = variant.build(data.params, threads, **options)
    optimizer = inner if wrap is None else wrap(inner)

    def prepare(block: int) -> Callable[[], object]:
        grads, *inputs = data.given[block % 2]
        further = dict(zip(input_names(inner), inputs, strict=True)) | dict.fromkeys(inner.given, 1.0)
        return partial(optimizer.step, grads, **further)

    return Steps(
        prepare, lambda: itertools.chain(data.params, (array for _, array in leaves(optimizer.state))), threads
    )


def numpy_reference(variant: Variant, workload: Workload) -> Steps:
    """Return the NumPy formula that stands in the optimizer's class."""
    data = Data(workload, variant.inputs)
    formula = numpy_formula(variant.build(data.params))
    return Steps(lambda block: partial(formula.step, *data.given[block % 2]), formula.values)


def pure_python(variant: Variant, workload: Workload) -> Steps:
    """Return the loops that say what the reference says, over lists of floats.

    Where pure Python cannot bear all elements it steps a part of them, and its time is scaled.
    """
    part = dataclasses.replace(workload, shapes=_bearable(workload.shapes), offset=None)
    data = Data(part, variant.inputs)
    formula = plain_formula(variant.build(data.params))
    given = [[formula.operands(arrays) for arrays in block] for block in data.given]
    return Steps(
        lambda block: partial(formula.step, *given[block % 2]),
        lambda: map(np.asarray, formula.values()),
        scale=part.elements / workload.elements,
    )


def torch_optimizer(
    variant: Variant,
    workload: Workload,
    fused: bool,
    threads: int,
    max_norm: float | None = None,
    **implementation: bool,
) -> Steps:
    """Return torch's optimizer of the same rule (see `torch_has`)."""
    name, options = _torch_settings(variant)
    options |= {"fused": True} if fused else implementation
    return torch_steps(
        partial(getattr(importlib.import_module("torch").optim, name), **options), workload, threads, max_norm
    )


def torch_steps(
    make: Callable[[list[Any]], Any], workload: Workload, threads: int, max_norm: float | None = None
) -> Steps:
    """Return an optimizer of torch's kind, made by `make` from its parameters, over tensors of its own.

    With `max_norm`, `clip_grad_norm_` as it comes precedes each step. It scales the gradients in place: those of later
    steps are multiplied with nearly 1.

    torch allocates on cache lines; its tensors stay there in a workload that places the caller's arrays elsewhere.
    """
    torch = importlib.import_module("torch")
    data = Data(workload)
    params, *grads = ([torch.tensor(array) for array in each] for each in (data.params, *(g for (g,) in data.given)))
    del data
    optimizer = make(params)

    def prepare(block: int) -> Any:
        torch.set_num_threads(threads)
        for param, grad in zip(params, grads[block % 2], strict=True):
            param.grad = grad
        return optimizer.step if max_norm is None else clipped_step

    def clipped_step() -> None:
        torch.nn.utils.clip_grad_norm_(params, max_norm)
        optimizer.step()

    def values() -> Iterator[NDArray[Any]]:
        state = (value for slots in optimizer.state.values() for value in slots.values())
        return (tensor.numpy() for tensor in itertools.chain(params, state) if torch.is_tensor(tensor))

    return Steps(prepare, values, threads)


def torch_has(variant: Variant, fused: bool, dtype: np.dtype[Any] = FLOAT32) -> bool:
    """Return whether torch is installed and has this rule with these options for this dtype.

    Equal names are not enough: three steps of a small matrix must agree. 16-bit optimizers of torch round after every
    operation, which is another meaning.
    """
    if dtype.itemsize == 2:
        return False
    if importlib.util.find_spec("torch") is None:
        return False
    small = Workload("parity", "parity", ((8, 8),), calls=1, dtype=dtype)
    ours = compiled(variant, small, threads=1)
    try:
        theirs = torch_optimizer(variant, small, fused, threads=1)
        for steps in (ours, theirs):
            for block in range(3):
                steps.prepare(block)()
    except (AttributeError, TypeError, ValueError, RuntimeError):  # no such optimizer, option, or fused kernel
        return False
    a, b = (next(iter(steps.values())) for steps in (ours, theirs))
    start = Data(small).params[0]
    return bool(np.abs(a - b).max() <= 1e-3 * np.abs(a - start).max())


def ailments(values: Iterable[NDArray[Any]]) -> list[str]:
    """Return what values a run left behind that would have changed its speed: "subnormal", "non-finite".

    They are looked at in the type that steps compute in: a subnormal float16 number is a normal one there.
    """
    found = set()
    for array in values:
        if not is_steppable(array):
            continue
        size = np.abs(widened(array.reshape(-1)[: _POOL.size], compute_dtype(array)))
        if not np.isfinite(size).all():
            found.add("non-finite")
        if ((size > 0) & (size < np.finfo(size.dtype).tiny)).any():
            found.add("subnormal")
    return sorted(found)


@cache
def _pool(dtype: np.dtype[Any]) -> NDArray[Any]:
    return _POOL.astype(dtype)


def _normal(dtype: np.dtype[Any], shift: int, shape: Shape) -> NDArray[Any]:
    pool, size = _pool(dtype), math.prod(shape)
    start = shift * 1009  # the sets are the same numbers at other places
    if start + size <= pool.size:
        return pool[start : start + size].reshape(shape).copy()
    return np.resize(np.roll(pool, start), shape)


def _bearable(shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """Return as many of the first tensors as pure Python can bear, or rows of the first."""
    sizes = itertools.accumulate(math.prod(shape) for shape in shapes)
    few = tuple(itertools.takewhile(lambda pair: pair[1] <= PLAIN_ELEMENTS, zip(shapes, sizes, strict=True)))
    if few:
        return tuple(shape for shape, _ in few)
    _, *row = shapes[0]
    return ((max(1, PLAIN_ELEMENTS // math.prod(row)), *row),)


def _switched(default: object) -> object:
    """Return another value of an option that may switch a slot on or off; None for a plain number."""
    if isinstance(default, bool):
        return not default
    return 0.9 if default == 0 else None


def _slots(variant: Variant) -> set[str]:
    return set(variant.build([np.zeros((4, 4), np.float32)]).state)


def _torch_settings(variant: Variant) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of torch's counterpart; what torch does not take is left out if it is off."""
    name, options = TORCH_NAMES.get(variant.cls.__name__, (variant.cls.__name__, {}))
    takes = inspect.signature(getattr(importlib.import_module("torch").optim, name)).parameters
    optimizer = variant.build([np.zeros(1, np.float32)])
    values = {key: getattr(optimizer, key) for key in variant.cls.hyperparameters}
    found = {key: value for key, value in values.items() if key in takes or key in variant.options}
    if "betas" in takes:
        found["betas"] = (values["beta1"], values["beta2"])
    return name, {**found, **options}
