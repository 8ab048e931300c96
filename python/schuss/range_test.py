"""The learning-rate range test: the loss while the rate grows from one step to the next."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schuss.hyperparameters import Domain, as_float
from schuss.optimizer import Optimizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RangeTest", "lr_find"]

#: The first tenth of the steps shows noise more than rates: no suggestion is taken from it.
_SKIPPED = 10


@dataclass(frozen=True)
class RangeTest:
    """The outcome of a range test; prints its suggestion.

    Attributes
    ----------
    optimizer : str
        The class.
    lrs : array
        The rates, of the first group.
    losses : array
        The loss after the step with each rate; the last may be the one that is not finite.
    smoothed : array
        Its running average.
    diverged : bool
        True if the test ended before the last rate, since the loss had grown too much or was not finite.
    """

    optimizer: str
    lrs: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    diverged: bool

    def _fall(self) -> tuple[int, int] | None:
        """Return where the smoothed loss starts to count and where it is lowest from there on; None if it never fell."""
        first = len(self.lrs) // _SKIPPED
        counted = np.where(np.isfinite(self.smoothed), self.smoothed, math.inf)[first:]
        lowest = int(np.argmin(counted)) if len(counted) else 0
        return (first, first + lowest) if lowest > 0 else None

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest over the logarithm of the rate, before its minimum.

        None if it never fell. Noise moves it more than it moves `suggestion`.
        """
        if (fall := self._fall()) is None:
            return None
        first, lowest = fall
        return float(self.lrs[first + 1 + int(np.argmin(np.diff(self.smoothed[first : lowest + 1])))])

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate at which the smoothed loss is lowest; None if it never fell."""
        return None if (fall := self._fall()) is None else float(self.lrs[fall[1]]) / 10

    def plot(self) -> Figure:
        """Return a picture of the loss over the rate, with the suggestions marked. Needs matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        ax = figure.subplots()
        ax.plot(self.lrs, self.losses, color="0.75", linewidth=1, label="loss")
        ax.plot(self.lrs, self.smoothed, color="C0", label="smoothed")
        for name, rate, color in (("suggestion", self.suggestion, "C1"), ("steepest", self.steepest, "C2")):
            if rate is not None:
                height = float(np.interp(math.log(rate), np.log(self.lrs), self.smoothed))
                ax.plot(rate, height, "o", color=color, label=f"{name}: {rate:.2g}")
        if (fall := self._fall()) is not None:  # a loss that explodes would flatten the rest
            low, high = np.nanmin(self.losses), np.max(self.smoothed[: fall[1] + 1])
            ax.set_ylim(float(low - 0.1 * (high - low)), float(high + 0.5 * (high - low)))
        ax.set(xscale="log", xlabel="learning rate", ylabel="loss", title=f"{self.optimizer}: range test")
        ax.grid(alpha=0.3)
        ax.legend()
        return figure

    def __str__(self) -> str:
        """Say what came out."""
        end = "diverged" if self.diverged else "did not diverge"
        over = f"{len(self.lrs)} rates"
        if len(self.lrs):
            over += f" from {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}"
        if self.suggestion is None:
            return f"{self.optimizer}: no suggestion, the loss never fell; {over}, {end}"
        return (
            f"{self.optimizer}: lr {self.suggestion:.3g}, a tenth of that of the lowest loss (steepest at "
            f"{self.steepest:.3g}); {over}, {end}"
        )

    def __repr__(self) -> str:
        """Name it with its suggestion."""
        suggestion = self.suggestion
        return f"RangeTest({self.optimizer}, suggestion={'None' if suggestion is None else f'{suggestion:.3g}'})"


def lr_find(
    optimizer: Any,
    loss_and_grad: Callable[[], tuple[Any, ...]],
    *,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    divergence: float = 4.0,
) -> RangeTest:
    r"""Test learning rates by a short run in which the rate grows, and suggest one; everything is put back afterwards.

    .. math:: \eta_i = \text{lowest} \left(\frac{\text{highest}}{\text{lowest}}\right)^{i / (n - 1)}, \quad
              a_i = \beta a_{i - 1} + (1 - \beta) f_i, \quad \bar f_i = \frac{a_i}{1 - \beta^{i + 1}}

    with n = `steps`, :math:`\beta` = `smoothing` and :math:`f_i` the loss after the step with the rate :math:`\eta_i`. The
    run ends early at a loss that is not finite, or where the smoothed loss exceeds the least so far by
    ``(divergence - 1)`` times its magnitude.

    Smith (2017), *Cyclical Learning Rates for Training Neural Networks*, https://arxiv.org/abs/1506.01186

    Parameters
    ----------
    optimizer : Optimizer, wrapper, or a function that makes one
        A copy of it, over the same parameters, makes the steps; parameters are put back bit for bit, after an error as
        well. Rates of groups keep their present ratios to that of the first group.
    loss_and_grad : callable
        Returns the loss and the gradients at the present parameters, and as a third, if the step takes further inputs, a
        dict of these. It may take the next batch at every call; it is called ``steps + 1`` times at most.
    lowest, highest : float
        The first and the last rate. In (0, inf), `lowest` less than `highest`.
    steps : int
        The number of rates. In {2, 3, ...}.
    smoothing : float
        The weight of the past in the smoothed loss. In [0, 1). More lags behind, and suggests larger rates.
    divergence : float
        In (1, inf].

    Returns
    -------
    RangeTest
        Rates, losses, the suggestion, and a picture.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = schuss.SGD(w)
    >>> found = schuss.lr_find(opt, lambda: (50 * w @ w, 100 * w))  # the best rate is 0.01, beyond 0.02 it diverges
    >>> print(found)
    SGD: lr 0.00955, a tenth of that of the lowest loss (steepest at 0.00192); 77 rates from 1e-07 to 0.138, diverged
    >>> opt.lr = found.suggestion
    """
    rate = Domain(0.0, lower_open=True)
    first, last = rate.check("lr_find: lowest", lowest), rate.check("lr_find: highest", highest)
    if not first < last:
        raise ValueError(f"lr_find: lowest must be less than highest, got {first:g} and {last:g}")
    count = int(Domain(2.0, 2.0**53, upper_open=False, whole=True).check("lr_find: steps", steps))
    keep = Domain(0.0, 1.0).check("lr_find: smoothing", smoothing)
    limit = Domain(1.0, lower_open=True, upper_open=False).check("lr_find: divergence", divergence)
    if not callable(loss_and_grad):
        raise TypeError(
            f"lr_find: loss_and_grad must be a function that returns (loss, grads), got {type(loss_and_grad).__name__}"
        )
    stepped = optimizer() if callable(optimizer) and not hasattr(optimizer, "step") else optimizer
    base = getattr(stepped, "base", stepped)
    if not isinstance(base, Optimizer):
        raise TypeError(
            f"lr_find: optimizer must be an Optimizer, a wrapper, or make one, got {type(stepped).__name__}"
        )
    ratios = _ratios(base)
    for ratio in ratios:
        for end in (first, last):
            type(base).hyperparameters["lr"].check(type(base).__name__, ratio * end)
    # Copied with everything but the parameters, whose copies are they themselves.
    twin = copy.deepcopy(stepped, {id(leaf): leaf for leaf in base._leaves})
    before = [leaf.copy(order="K") for leaf in base._leaves]
    lrs = np.geomspace(first, last, count)
    losses: list[float] = []
    smoothed: list[float] = []
    average, weight, diverged = 0.0, 0.0, False
    try:
        loss, *arguments = _evaluated(loss_and_grad)
        least = loss
        for value in lrs:
            _set_rates(getattr(twin, "base", twin), [ratio * float(value) for ratio in ratios])
            try:
                twin.step(arguments[0], **arguments[1])
            except FloatingPointError:  # a gradient that is not finite, under a policy that raises
                diverged = True
                break
            loss, *arguments = _evaluated(loss_and_grad)
            average, weight = keep * average + (1 - keep) * loss, keep * weight + (1 - keep)
            losses.append(loss)
            smoothed.append(average / weight)
            least = min(least, smoothed[-1])
            diverged = not smoothed[-1] - least <= (limit - 1) * abs(least)
            if diverged:
                break
    finally:
        for leaf, values in zip(base._leaves, before, strict=True):
            leaf[...] = values
    return RangeTest(type(base).__name__, lrs[: len(losses)], np.array(losses), np.array(smoothed), diverged)


def _ratios(base: Optimizer) -> list[float]:
    """Return every group's present rate relative to the first group's."""
    rates = [values["lr"] for values in base._values_at(base.t)]
    if all(each == rates[0] for each in rates):
        return [1.0] * len(rates)
    if rates[0] == 0:
        raise ValueError("lr_find: the first group's lr is 0, and others' are not; give it the rate it is to have")
    return [each / rates[0] for each in rates]


def _set_rates(base: Optimizer, rates: list[float]) -> None:
    """Give every group its rate."""
    if all(each == rates[0] for each in rates):  # one for all groups is all that some optimizers take
        base._assign("lr", rates[0], range(len(rates)))
    else:
        for k, each in enumerate(rates):
            base._assign("lr", each, [k])


def _evaluated(loss_and_grad: Callable[[], tuple[Any, ...]]) -> tuple[float, Any, dict[str, Any]]:
    """Return loss, gradients and inputs."""
    found = loss_and_grad()
    if not isinstance(found, tuple) or len(found) not in (2, 3):
        raise TypeError(f"lr_find: loss_and_grad must return (loss, grads) or (loss, grads, inputs), got {found!r:.80}")
    loss = as_float(found[0][()] if isinstance(found[0], np.ndarray) and found[0].ndim == 0 else found[0])
    if loss is None:
        hint = f" of shape {found[0].shape}; return its mean" if isinstance(found[0], np.ndarray) else ""
        raise TypeError(
            f"lr_find: loss_and_grad must return a real number as loss, got {type(found[0]).__name__}{hint}"
        )
    return loss, found[1], dict(found[2]) if len(found) == 3 else {}
