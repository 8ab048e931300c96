"""ClipUpdate."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from schuss.hyperparameters import Positive
from schuss.optimizer import Group
from schuss.passes.rescale_update import RescaleUpdate
from schuss.wrapper import Wrapper


class ClipUpdate(Wrapper):
    r"""ClipUpdate: bounds the root mean square of every tensor's update, whatever the gradient was.

    .. math::

        \Delta \leftarrow \Delta \cdot \min\Big(1, \frac{\eta\, c}{\mathrm{RMS}(\Delta)}\Big)

    with the change Δ that a step makes of a tensor and the step size η of its group (1 where the rule has none).

    Shazeer & Stern (2018), *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, section 6,
    https://arxiv.org/abs/1804.04235

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        Makes the steps; its own state is left alone.
    limit : float or schedule
        c, in (0, inf): the largest root mean square of an update, in units of the step size.

    Notes
    -----
    State: none. Memory: a copy of the weights, and two passes over them after each step.

    For optimizers whose update grows with a sudden gradient before their averages have followed; `ClipNorm` bounds the
    gradient instead. Adafactor and StableAdamW bound the update before decay, within their rules; here it is all that the
    step did.

    Examples
    --------
    >>> w = np.zeros(2)
    >>> opt = schuss.ClipUpdate(schuss.SGD(w, lr=0.5), limit=1.0)
    >>> opt.step(np.array([3.0, -3.0]))
    >>> w
    array([-0.5,  0.5])
    """

    limit: Positive = 1.0  #: largest root mean square in units of the step size

    moves: ClassVar[bool] = True

    def _prepare(self) -> None:
        leaves = self._base._leaves
        self._before = [leaf.copy(order="K") for leaf in leaves]
        common: Any = {key: getattr(self._base, key) for key in ("dtype", "threads", "flush_subnormals")}
        self._rescale = RescaleUpdate([Group(leaf) for leaf in leaves], **common)

    def _taken_over(self) -> None:
        self._prepare()  # the parameters may be other arrays, or more

    def _advance(self, grads: Any, **inputs: Any) -> bool:
        base, rescale = self._base, self._rescale
        rates = [group.get("lr", 1.0) for group in base._values_at(self.t)]
        limit = self.arguments["limit"].at("ClipUpdate", self.limit, self.t)
        for before, leaf in zip(self._before, base._leaves, strict=True):
            np.copyto(before, leaf)
        if not self._optimizer._advance(grads, **inputs):
            return False
        for i, group in enumerate(base._group_of):
            if (most := limit * rates[group]) > 0 and rescale.groups[i]["limit"] != most:
                rescale.groups[i]["limit"] = most
        rescale.step([before if rates[g] > 0 else None for before, g in zip(self._before, base._group_of, strict=True)])
        return True
