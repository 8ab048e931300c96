"""The reference of an optimizer's class as a user would run it: called on arrays, or as pure Python on lists."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from plain import NotPlainError, derive

import schuss
from schuss.math import normals
from schuss.reference import Reference

Split = Callable[[NDArray[Any]], list[Any]]
"""Makes of a tensor the operands of one call, or of one call per row."""


class Formula:
    """Steps the parameters and the state of an optimizer with a function of its reference's signature.

    The function gets what the reference names: parameter, gradient, inputs and slots by position, step and
    hyper-parameters by keyword. With the reference itself this is `schuss.reference.Reference` without its dtypes,
    groups and stages: NumPy has no overhead to bear but its own.

    Parameters
    ----------
    optimizer
        Over a list of arrays; it is not stepped itself.
    function
        The reference, or what `plain.derive` made of it.
    split, split_singles
        Prepare the operands, and the slots that have a value per call.
    """

    def __init__(
        self,
        optimizer: schuss.Optimizer,
        function: Callable[..., Any],
        split: Split = lambda array: [array],
        split_singles: Split = lambda array: [array],
    ) -> None:
        parameters = inspect.signature(optimizer.reference).parameters.values()
        names = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.name != "t"]
        self._keywords = {name: 1.0 if name in optimizer.given else getattr(optimizer, name) for name in names}
        self._function, self._together = function, inspect.isgeneratorfunction(function)
        self._t, self._split, self._split_singles = optimizer.t, split, split_singles
        self.params = self.operands(optimizer.params)
        slots = [self._slot(optimizer, name) for name in slot_names(optimizer)]
        self._slots = list(zip(*slots, strict=True)) if slots else [()] * len(self.params)
        self._streams = [optimizer._stream(i) for i in range(len(optimizer.params))] if draws(optimizer) else None

    def operands(self, arrays: Sequence[NDArray[Any]]) -> list[Any]:
        """Return arrays, one per tensor, as the function takes them."""
        return list(itertools.chain.from_iterable(map(self._split, arrays)))

    def step(self, grads: Sequence[Any], *inputs: Sequence[Any]) -> None:
        """Make one step; gradients and inputs come from `operands`."""
        self._t += 1
        function, keywords, t = self._function, self._keywords, self._t
        each = zip(self.params, grads, *inputs, *self._drawn(), self._slots, strict=True)
        if self._together:
            _sum_together([function(*given, *slots, t=t, **keywords) for *given, slots in each])
        else:
            for *given, slots in each:
                function(*given, *slots, t=t, **keywords)

    def _drawn(self) -> list[list[NDArray[Any]]]:
        """Return the random numbers of a step, for a rule that draws some."""
        if self._streams is None:
            return []
        seed, each = int(self._keywords["seed"]), zip(self.params, self._streams, strict=True)
        return [[normals(seed, self._t, stream, p.size).astype(p.dtype).reshape(p.shape) for p, stream in each]]

    def values(self) -> Iterator[Any]:
        """Yield parameters and slots."""
        yield from self.params
        for slots in self._slots:
            yield from (slot for slot in slots if slot is not None)

    def _slot(self, optimizer: schuss.Optimizer, name: str | None) -> list[Any]:
        if name is None:
            return [None] * len(self.params)
        tree = optimizer.state[name]
        if isinstance(tree, np.ndarray):  # of the optimizer; each tensor has a copy of it, which all evolve alike
            tree = [tree.copy() for _ in optimizer.params]
        split = self._split if name in element_slots(optimizer) else self._split_singles
        return list(itertools.chain.from_iterable(map(split, tree)))


def slot_names(optimizer: schuss.Optimizer) -> list[str | None]:
    """Return the slots in the reference's order, None for one that the options leave out."""
    kernel = optimizer._kernel()
    return [*kernel["state"], *kernel["scalars"]]


def element_slots(optimizer: schuss.Optimizer) -> list[str]:
    """Return the slots that have a value per element."""
    return [name for name in optimizer._kernel()["state"] if name is not None]


def input_names(optimizer: schuss.Optimizer) -> list[str]:
    """Return what a step needs besides gradients."""
    return list(optimizer._kernel()["inputs"])


def draws(optimizer: schuss.Optimizer) -> bool:
    """Tell whether the rule draws random numbers."""
    return bool(optimizer._kernel()["draws"])


def numpy_formula(optimizer: schuss.Optimizer) -> Formula:
    """Return the reference on the optimizer's own arrays."""
    return Formula(optimizer, optimizer.reference)


def plain_formula(optimizer: schuss.Optimizer) -> Formula:
    """Return the reference as pure Python on lists, one list per tensor, or per row where the rule has sums of rows.

    Raises
    ------
    plain.NotPlainError
        The reference is not made of element-wise operations and sums alone.
    """
    if draws(optimizer):
        raise NotPlainError("it draws random numbers")
    by_row = optimizer._kernel()["scope"] == "row"
    return Formula(optimizer, plain_function(optimizer), _rows if by_row else _whole, _singles)


def plain_function(optimizer: schuss.Optimizer) -> Callable[..., Any]:
    """Return the pure Python function of an optimizer's reference."""
    parameters = inspect.signature(optimizer.reference).parameters.values()
    positional = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
    slots = slot_names(optimizer)
    absent = [name for name, slot in zip(reversed(positional), reversed(slots), strict=False) if slot is None]
    flags = {name: getattr(optimizer, name) for name in optimizer.hyperparameters}
    switches = {name: value for name, value in flags.items() if isinstance(value, bool)}
    singles = set(optimizer._kernel()["scalars"])
    return derive(optimizer.reference, {**dict.fromkeys(absent), **switches}, singles)


def divisions_and_roots(build: Callable[[Sequence[NDArray[Any]]], schuss.Optimizer]) -> tuple[int, int]:
    """Return how many divisions and how many square roots the reference takes per element.

    They are counted, not read: in the tenth step of a small matrix (a rule's first steps may be special).
    """
    params, *given = np.random.default_rng(2).uniform(1, 2, (4, 7, 5))
    optimizer = build([params])
    formula = Formula(optimizer, optimizer.reference, lambda array: [array.view(_Watched)])
    operands = [formula.operands([array]) for array in given[: 1 + len(input_names(optimizer))]]
    for _ in range(10):
        _Watched.tally.clear()
        formula.step(*operands)
    divisions, inverses, roots = (_Watched.tally[each, params.size] for each in (np.divide, np.reciprocal, np.sqrt))
    return divisions + inverses, roots


class _Watched(np.ndarray[Any, np.dtype[Any]]):
    """An array that keeps a tally of the ufuncs it goes through, each with the size of what comes out."""

    tally: ClassVar[Counter[tuple[np.ufunc, int]]] = Counter()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if "out" in options:
            options["out"] = tuple(map(_bare, options["out"]))
        result = getattr(ufunc, method)(*map(_bare, inputs), **options)
        if method == "__call__":
            self.tally[ufunc, np.size(result)] += 1
        return _watched(result)

    def __array_function__(self, *call: Any) -> Any:
        return _watched(super().__array_function__(*call))


def _bare(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, _Watched) else value


def _watched(value: Any) -> Any:
    return value.view(_Watched) if isinstance(value, np.ndarray) else value


def disagreements(build: Callable[[Sequence[NDArray[Any]]], schuss.Optimizer], steps: int = 3) -> dict[str, str]:
    """Return which formulas must not be timed and why, by the names "NumPy" and "pure Python".

    In float64 the formula of NumPy must equal `schuss.reference.Reference` in every bit, and pure Python (which adds
    its sums in another order) to ten digits.
    """
    rng = np.random.default_rng(1)
    shapes = [(5, 4), (3,)]

    def trees(count: int) -> list[list[NDArray[Any]]]:
        return [[rng.standard_normal(shape) for shape in shapes] for _ in range(count)]

    (params,) = trees(1)
    twin = Reference(build(copy.deepcopy(params)))
    names = input_names(build(copy.deepcopy(params)))
    given = [trees(1 + len(names)) for _ in range(steps)]
    for grads, *inputs in given:
        further = dict(zip(names, inputs, strict=True)) | dict.fromkeys(twin._optimizer.given, 1.0)
        twin.step(grads, **further)
    found = {}
    for name, make, tolerance in (("NumPy", numpy_formula, 0.0), ("pure Python", plain_formula, 1e-10)):
        try:
            formula = make(build(copy.deepcopy(params)))
        except NotPlainError as error:
            found[name] = str(error)
            continue
        for operands in given:
            formula.step(*map(formula.operands, operands))
        ours, theirs = (np.concatenate([np.ravel(x) for x in params]) for params in (formula.params, twin.params))
        if not np.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
            found[name] = "it does not agree with schuss.reference.Reference"
    return found


def _whole(array: NDArray[Any]) -> list[Any]:
    return [array.reshape(-1).tolist()]


def _rows(array: NDArray[Any]) -> list[Any]:
    rows: list[Any] = array.reshape(len(array) if array.ndim > 1 else 1, -1).tolist()
    return rows


def _singles(array: NDArray[Any]) -> list[Any]:
    lists: list[Any] = array.reshape(-1, 1).tolist()
    return lists


def _sum_together(running: Sequence[Any]) -> None:
    """Run generators side by side: what each yields is its part of sums over all tensors."""
    sums: Any = None
    while True:
        parts = []
        for generator in running:
            try:
                parts.append(generator.send(sums))
            except StopIteration:
                continue
        if not parts:
            return
        sums = tuple(map(sum, zip(*parts, strict=True))) if isinstance(parts[0], tuple) else sum(parts)
