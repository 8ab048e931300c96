"""LossScale."""

from __future__ import annotations

import math
from typing import Annotated, Any

from schuss.hyperparameters import Domain
from schuss.wrapper import Count, Wrapper


class LossScale(Wrapper):
    r"""LossScale: a factor of the loss that keeps 16-bit gradients in range, found while training.

    .. math::

        g \leftarrow \frac{g}{s} \qquad s \leftarrow \begin{cases} \max(b\,s, s_{\min}) & \text{if a gradient is not finite} \\
        a\,s & \text{after } n \text{ steps in a row without} \end{cases}

    Micikevicius et al. (2018), *Mixed precision training*, https://arxiv.org/abs/1710.03740

    Multiply the loss, or its gradient with respect to the last layer's output, with `scale`. The step divides by it before
    anything else sees the gradients, and skips those that overflowed.

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        Made with ``nonfinite="skip"``.
    initial : float
        The first scale, in (0, inf).
    growth : float
        a, in [1, inf).
    backoff : float
        b, in (0, 1].
    interval : int
        n, in {1, 2, ...}.
    minimum : float
        The least scale, in (0, inf); at most `initial`.

    Notes
    -----
    State: the scale, and the number of steps since it changed.

    Powers of two divide exactly, so with the defaults scaled gradients that neither overflow nor lose bits give the step of
    unscaled ones.

    The rule of torch.amp.GradScaler, which has no `minimum`. Keras' LossScaleOptimizer starts at 2**15, with the same
    growth, interval and backoff. Put it inside of `Accumulate`, so that the scale stays while gradients are added up.

    Examples
    --------
    >>> w = np.zeros(1, np.float16)
    >>> opt = schuss.LossScale(schuss.SGD(w, lr=1.0, nonfinite="skip"), initial=1024.0)
    >>> opt.step(np.float16(1e-6 * opt.scale) * np.ones(1, np.float16))
    >>> opt.step(np.full(1, np.inf, np.float16))
    >>> w, opt.t, opt.scale
    (array([-1.e-06], dtype=float16), 1, 512.0)
    """

    initial: Annotated[float, Domain(0.0, lower_open=True)] = 2.0**16  #: first scale
    growth: Annotated[float, Domain(1.0)] = 2.0  #: what the scale grows by
    backoff: Annotated[float, Domain(0.0, 1.0, lower_open=True, upper_open=False)] = 0.5  #: what it shrinks by
    interval: Count = 2000  #: steps without overflow before it grows
    minimum: Annotated[float, Domain(0.0, lower_open=True)] = 2.0**-24  #: least scale

    def _prepare(self) -> None:
        if self._base._policy != "skip":
            raise ValueError(
                f'LossScale: {type(self._base).__name__} must skip what is not finite; make it with nonfinite="skip"'
            )
        if self.minimum > self.initial:
            raise ValueError(
                f"LossScale: minimum must be at most initial, got {self.minimum:g} and {self.initial:g}; lower it"
            )

    def _begin(self) -> None:
        self._numbers = {"scale": self.initial, "good": 0}

    def _objection_to(self, numbers: Any) -> str | None:
        reason = super()._objection_to(numbers)
        return reason or (None if 0 < numbers["scale"] < math.inf else f"scale is {numbers['scale']!r}")

    @property
    def scale(self) -> float:
        """What the loss is to be multiplied with."""
        return float(self._numbers["scale"])

    def _advance(self, grads: Any, *, grad_scale: float = 1.0, **inputs: Any) -> bool:
        before = self._base._plan.outcome()["number"]
        done = self._optimizer._advance(grads, grad_scale=grad_scale / self.scale, **inputs)
        outcome = self._base._plan.outcome()
        if done:
            self._numbers["good"] += 1
            if self._numbers["good"] >= self.interval:
                grown = self.scale * self.growth
                self._numbers = {"scale": grown if math.isfinite(grown) else self.scale, "good": 0}
        elif outcome["number"] != before and outcome["skipped"]:
            self._numbers = {"scale": max(self.scale * self.backoff, self.minimum), "good": 0}
        return done
