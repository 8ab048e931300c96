"""Accumulate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from schuss import memory, trees
from schuss._guard import uninterrupted
from schuss.math import dot
from schuss.passes.accumulate import Accumulate as Sum
from schuss.reference import widened
from schuss.wrapper import ScheduledCount, Wrapper


class Measurement(NamedTuple):
    """Squared norms of the gradients of one step, over all tensors.

    Attributes
    ----------
    small : tuple of float
        Of each micro-batch's gradient.
    large : float
        Of their mean.
    """

    small: tuple[float, ...]
    large: float


class Accumulate(Wrapper):
    r"""Accumulate: one step for the gradients of several micro-batches.

    .. math::

        G \leftarrow \sum_{i=1}^{k} g_i \qquad\text{and a step with } G / k \text{ ("mean") or } G \text{ ("sum")}

    Ott, Edunov, Grangier & Auli (2018), *Scaling neural machine translation*, https://arxiv.org/abs/1806.00187

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        Makes the steps: once for every `steps` calls of `step`. Its schedules, and all that counts steps in it or around
        it, count these.
    steps : int or schedule
        k, the number of micro-batches of a step, in {1, 2, ...}. A schedule is a function of the number of the optimizer's
        steps, not of the micro-batches.
    reduction : {"mean", "sum"}
        What the loss of a step is of the losses of its micro-batches.
    dtype : dtype, optional
        Of the sums: float64, float32, float16 or bfloat16. The optimizer's compute type by default.
    measure : bool
        Keep the squared norm of every micro-batch's gradient, for `measured`; costs a pass over each gradient in NumPy.

    Notes
    -----
    State: `sum`, one value per element, and another for each input of the optimizer that is an array; the number of
    micro-batches in it. The first micro-batch overwrites the last sum; the mean is taken by the step, as it reads the sum.
    With one micro-batch per step its gradient goes straight to the optimizer.

    A gradient that is None counts as zero; a tensor without any gradient in all micro-batches gets None. Other inputs of
    the step are summed or averaged as the gradients are; whatever is neither array nor number is that of the last
    micro-batch. What is not finite enters the sum, and is the business of the optimizer's policy: where it skips the step,
    the micro-batches are gone.

    The same as optax.MultiSteps, which keeps a running mean instead. Keras counts schedules by micro-batches.

    Examples
    --------
    >>> w = np.zeros(1)
    >>> opt = schuss.Accumulate(schuss.SGD(w, lr=1.0), steps=2)
    >>> opt.step(np.array([1.0]))
    >>> w, opt.accumulated
    (array([0.]), 1)
    >>> opt.step(np.array([3.0]))
    >>> w, opt.accumulated
    (array([-2.]), 0)
    """

    steps: ScheduledCount = 1  #: micro-batches of a step
    reduction: Literal["mean", "sum"] = "mean"
    dtype: DTypeLike | None = None
    measure: bool = False

    def _prepare(self) -> None:
        self._measured: Measurement | None = None
        further = [key for key in self._base.inputs if key not in self._base.given]
        for name in ("sum", *(f"sum of {key}" for key in further)):
            self._arrays[name] = self._make_arrays(self.dtype)
            self._passes[name] = self._make_pass(Sum, self._tree_of(name))

    def _tree_of(self, name: str) -> Any:
        return self._base._like_params(self._arrays[name])

    def _begin(self) -> None:
        self._measured = None
        self._clear()

    def _taken_over(self) -> None:
        self._measured = None

    def _clear(self) -> None:
        """Forget the sums: the next gradient overwrites them."""
        for each in self._passes.values():
            each._counts[...] = 0
        self._numbers = {"accumulated": 0, "squares": [], "given": [0.0 for _ in self._base.given]}

    @property
    def accumulated(self) -> int:
        """How many micro-batches wait for the step."""
        return int(self._numbers["accumulated"])

    @property
    def measured(self) -> Measurement | None:
        """The squared norms of the gradients of the last step, after ``measure=True``; None before it."""
        return self._measured

    def _objection_to(self, numbers: Any) -> str | None:
        reason = super()._objection_to(numbers)
        given = numbers["given"]
        if reason is None and len(given) != len(self._base.given):
            return f"given has {len(given)} numbers"
        return reason

    # ---- the step ------------------------------------------------------------------------------------------------------

    def _advance(self, grads: Any, *, grad_scale: float = 1.0, **inputs: Any) -> bool:
        wanted = int(self.arguments["steps"].at("Accumulate", self.steps, self.t))
        if wanted == 1 and not self.accumulated:
            squares = [self._square(grads, grad_scale)] if self.measure else []
            done = self._optimizer._advance(grads, grad_scale=grad_scale, **inputs)
            self._measured = Measurement(tuple(squares), squares[0]) if squares else None
            return done
        last = self.accumulated + 1 >= wanted
        # One pass changes all or nothing by itself.
        with self._all_or_nothing() if last or len(self._passes) > 1 else contextlib.nullcontext():
            self._add(grads, grad_scale, inputs)
            return last and self._finish(inputs)

    @uninterrupted
    def flush(self, **inputs: Any) -> None:
        """Step with the micro-batches that are there, however few; do nothing if there are none.

        Parameters
        ----------
        **inputs
            What the wrapped step takes that is neither array nor number, such as a closure.
        """
        self._require_training()
        if self.accumulated:
            self._finish(inputs)

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Put the sums back after an error."""
        arrays = [array for each in self._arrays.values() for array in each]
        arrays += [each._counts for each in self._passes.values()]
        kept = [array.copy(order="K") for array in arrays]
        numbers = self._numbers
        try:
            yield
        except BaseException:
            for array, values in zip(arrays, kept, strict=True):
                array[...] = values
            self._numbers = numbers
            raise

    def _add(self, grads: Any, grad_scale: float, inputs: dict[str, Any]) -> None:
        """Add a micro-batch to the sums."""
        base, numbers = self._base, self._numbers
        # A wrapper in between may take inputs that the optimizer does not know.
        known = inputs if self._optimizer is base else {k: v for k, v in inputs.items() if k in base.inputs}
        arrays, given = base._ordered(known)
        squares = [self._square(grads, grad_scale)] if self.measure else []
        add, *further = self._passes.values()
        add._advance(grads, grad_scale=grad_scale)
        for each, tree in zip(further, arrays, strict=True):
            each._advance(tree)
        self._numbers = {
            "accumulated": numbers["accumulated"] + 1,
            "squares": numbers["squares"] + squares,
            "given": [a + b for a, b in zip(numbers["given"], given, strict=True)],
        }

    def _finish(self, inputs: dict[str, Any]) -> bool:
        """Step with the sums, then forget them."""
        base = self._base
        scale = 1.0 / self.accumulated if self.reduction == "mean" else 1.0
        grads, *further = (self._sums(name) for name in self._passes)
        inputs = {key: value for key, value in inputs.items() if key not in base.inputs}
        names = [key for key in base.inputs if key not in base.given]
        for key, tree in zip(names, further, strict=True):
            inputs[key] = trees.map_leaves(
                lambda array: None if array is None else array * array.dtype.type(scale), tree
            )
        inputs |= {key: scale * value for key, value in zip(base.given, self._numbers["given"], strict=True)}
        squares = self._numbers["squares"]
        large = self._square(grads, 1 / self.accumulated) if squares else 0.0
        done = self._optimizer._advance(grads, grad_scale=scale, **inputs)
        self._measured = Measurement(tuple(squares), large) if squares else None
        self._clear()
        return done

    def _sums(self, name: str) -> Any:
        """Return the sums as a tree, with None for tensors that got no gradient."""
        counts = self._passes[name]._counts[:-1]
        return self._base._like_params(
            array if count else None for array, count in zip(self._arrays[name], counts, strict=True)
        )

    def _square(self, grads: Any, scale: float) -> float:
        """Return the squared norm of gradients, times a scale."""
        found = trees.matching_leaves(grads, self._base._tree)
        return (
            scale * scale * sum(_square(g, p) for g, p in zip(found, self._base._leaves, strict=True) if g is not None)
        )


def _square(gradient: Any, parameter: NDArray[Any]) -> float:
    """Return the sum of squares of an array's numbers."""
    values = np.ascontiguousarray(gradient)
    if values.dtype.kind == "c":
        return _square(values.real, values.real) + _square(values.imag, values.imag)
    return float(dot(*2 * (widened(values, memory.compute_dtype(parameter)),)))
