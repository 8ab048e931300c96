"""What the wrappers that average weights have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import DTypeLike

from schuss import memory
from schuss.passes.average import Average
from schuss.wrapper import Wrapper


class Averaging(Wrapper):
    """Keeps an average of the weights beside the parameters, and lends it to them.

    A subclass says when the average is updated and with which weight. Where the step of an optimizer is all that moves the
    weights, they enter the average in the step's own pass over memory; else in another one after it. The bits are the same.

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        Makes the steps.
    dtype : dtype, optional
        Of the average: float64, float32, float16 or bfloat16. The optimizer's compute type by default: a bfloat16 average
        would not move by a thousandth.
    """

    dtype: DTypeLike | None = None

    def _due(self, t: int) -> bool:
        """Tell whether the weights after step t enter the average."""
        raise NotImplementedError

    def _weight(self, updates: int) -> float:
        """Return the weight of the present weights, after so many updates; 1 copies them."""
        raise NotImplementedError

    def _prepare(self) -> None:
        self._arrays["average"] = self._make_arrays(self.dtype)
        self._passes["average"] = self._make_pass(Average, self.average)
        base, pairs = self._base, zip(self._arrays["average"], self._base._leaves, strict=True)
        alike = all(memory.compute_dtype(average) == memory.compute_dtype(leaf) for average, leaf in pairs)
        if self._optimizer is base and not base._projections and alike:
            base._take_averages(self._arrays["average"])

    def _begin(self) -> None:
        super()._begin()
        self._update(1.0)
        self._passes["average"]._counts[...] = 0

    def _advance(self, grads: Any, **inputs: Any) -> bool:
        due = self._due(self.t + 1)
        if due and self._base._averages is self._arrays["average"]:  # and not those of another wrapper
            return self._advance_fused(grads, **inputs)
        if not self._optimizer._advance(grads, **inputs):
            return False
        if due:
            self._update(self._weight(self.updates))
        return True

    def _advance_fused(self, grads: Any, **inputs: Any) -> bool:
        """Step with the average in the same pass; what had no gradient enters the average after it."""
        base, counts = self._base, self._passes["average"]._counts
        before = base._counts.copy()
        base._average_share = weight = self._weight(self.updates)
        try:
            done = self._optimizer._advance(grads, **inputs)
        finally:
            base._average_share = 0.0
        if not done:
            return False
        stepped = (base._counts != before)[:-1]
        if stepped.all():
            counts += 1
            return True
        self._update(weight, [None if had else leaf for had, leaf in zip(stepped, base._leaves, strict=True)])
        counts[:-1][stepped] += 1
        return True

    def _update(self, weight: float, leaves: Iterable[Any] | None = None) -> None:
        """Move the average e towards the parameters p: ``e + weight * (p - e)``, or p itself where the weight is 1."""
        average = self._passes["average"]
        if average.weight != weight:
            average.weight = weight
        average.step(self._base._tree if leaves is None else self._base._like_params(leaves))

    @property
    def average(self) -> Any:
        """The live averages, in the parameters' nesting; the weights as they were at first until there is a step."""
        return self._base._like_params(self._arrays["average"])

    @property
    def updates(self) -> int:
        """How often the average was updated."""
        return int(self._passes["average"].t)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the averages into the parameters for the time of a `with` block, then bring back the weights, bit for bit.

        Within the block the optimizer cannot step, nor its state be saved or changed. An exception in the block brings the
        weights back as well.
        """
        base, lent = self._base, False
        try:
            with self._guard:
                self._require_training()
                base._require_writeable()
                lend = self._make_pass(Average, weight=1.0)
                lent = True
                base._keep_weights()
                lend.step(self.average)
            yield
        finally:
            if lent:
                base.train()
