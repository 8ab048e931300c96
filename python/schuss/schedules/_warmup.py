"""Schedules that rise first, and the scaling with the batch."""

# ruff: noqa: N801  (classes used as functions)
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from schuss.schedules._base import (
    NonNegative,
    Positive,
    Schedule,
    SomeSteps,
    Steps,
    between,
    between_ratios,
    rise,
)
from schuss.schedules._combine import Combined, Inner, Inside


@dataclass(frozen=True, repr=False)
class warmup(Schedule):
    r"""Up to a peak, where it stays.

    .. math:: \eta(s) = \begin{cases} \text{peak}\,\frac{s + 1}{W} & \text{without a start} \\
              \text{start} + (\text{peak} - \text{start})\,\frac{s}{W} & \text{with one} \\
              \text{start} + (\text{peak} - \text{start})\,\frac{\ln(s + 1)}{\ln W} & \text{shape "log"} \end{cases}

    for s < W = `steps`. Without a start the first step moves already; with ``start=0.0`` it does nothing, as in keras, optax
    and Hugging Face's transformers. The logarithmic shape is DeepSpeed's. ``chain(warmup(1.0, 100), schedule)`` puts a
    warm-up on another schedule, and ``join([warmup(peak, 100), schedule], [100])`` puts one before it.

    Parameters
    ----------
    peak : float
        In [0, inf).
    steps : int
        W, in {1, 2, ...}; at least 2 for the shape "log".
    start : float, optional
        The first value, in [0, inf). Of the shape "log" it is 0 where it is not given.
    shape : {"linear", "log"}

    Examples
    --------
    >>> rate = schuss.schedules.warmup(1.0, steps=4)
    >>> [rate(s) for s in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    >>> rate = schuss.schedules.warmup(1.0, steps=4, start=0.0)
    >>> [rate(s) for s in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    peak: NonNegative
    steps: SomeSteps
    start: NonNegative | None = None
    shape: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        """Check that the logarithm grows."""
        super().__post_init__()
        if self.shape == "log" and self.steps < 2:
            raise ValueError(f"warmup: steps must be in {{2, 3, ...}} for the shape 'log', got {self.steps}")

    def _at(self, step: int) -> float:
        if step >= self.steps:
            return self.peak
        if self.shape == "log":
            return between(self.start or 0.0, self.peak, math.log(step + 1) / math.log(self.steps))
        return rise(self.peak, step, self.steps, self.start)

    def _extent(self) -> int:
        return 2 * self.steps


@dataclass(frozen=True, repr=False)
class cosine(Schedule):
    r"""Linear warm-up to `peak`, then half a cosine down to `floor`, where it stays.

    .. math:: \eta(s) = \begin{cases} \text{peak}\,\frac{s + 1}{W} & s < W \\
              \text{floor} + (\text{peak} - \text{floor})\,\frac{1 + \cos(\pi x)}{2} & s \ge W \end{cases}
              \qquad x = \min\!\Big(\frac{s - W}{S - W}, 1\Big)

    with s steps done, W = `warmup` and S = `steps`. With a start, the warm-up is that of keras and optax,
    ``start + (peak - start) * s / W``. Loshchilov & Hutter (2017), *SGDR: Stochastic gradient descent with warm restarts*,
    https://arxiv.org/abs/1608.03983

    Parameters
    ----------
    peak : float
        The largest value, in [0, inf).
    steps : int
        Steps until the floor is reached, those of the warm-up among them, in {1, 2, ...}. (As optax's ``decay_steps``;
        keras' does not count the warm-up. Torch's CosineAnnealingLR rises again after them.)
    warmup : int
        Steps of the warm-up, in {0, ..., steps - 1}; the first step of it already moves (value ``peak / warmup``), unless
        there is a start.
    floor : float
        The last value, in [0, inf).
    start : float, optional
        The value at step 0 of the warm-up, in [0, inf).

    Examples
    --------
    >>> rate = schuss.schedules.cosine(1.0, steps=4)
    >>> [round(rate(s), 3) for s in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    peak: NonNegative
    steps: SomeSteps
    warmup: Steps = 0
    floor: NonNegative = 0.0
    start: NonNegative | None = None

    def __post_init__(self) -> None:
        """Check the phases."""
        super().__post_init__()
        if not self.warmup < self.steps:
            raise ValueError(f"cosine: warmup must be from 0 to steps - 1, got {self.warmup} of {self.steps} steps")

    def _at(self, step: int) -> float:
        if step < self.warmup:
            return rise(self.peak, step, self.warmup, self.start)
        x = min((step - self.warmup) / (self.steps - self.warmup), 1.0)
        return self.floor + (self.peak - self.floor) * (1.0 + math.cos(math.pi * x)) / 2.0


@dataclass(frozen=True, repr=False)
class inverse_sqrt(Schedule):
    r"""Linear warm-up to `peak`, then down with the square root of the steps: the schedule of the Transformer ("Noam").

    .. math:: \eta(s) = \text{peak} \cdot \min\left(\frac{t}{W}, \sqrt{\frac{W}{t}}\right), \qquad t = s + 1

    with W = `warmup`. The paper's factor d^-0.5 min(t^-0.5, t W^-1.5) has its peak at ``(d * W) ** -0.5``. With a start, t
    is s after the warm-up, and that is ``start + (peak - start) * s / W``: with ``start=0.0``, the form of Hugging Face's
    transformers. Vaswani et al. (2017), *Attention is all you need*, https://arxiv.org/abs/1706.03762

    Parameters
    ----------
    peak : float
        The largest value, in [0, inf).
    warmup : int
        Steps of the warm-up, in {1, 2, ...}.
    start : float, optional
        The value at step 0, in [0, inf).

    Examples
    --------
    >>> rate = schuss.schedules.inverse_sqrt(1.0, warmup=2)
    >>> [round(rate(s), 3) for s in range(6)]
    [0.5, 1.0, 0.816, 0.707, 0.632, 0.577]
    """

    peak: NonNegative
    warmup: SomeSteps
    start: NonNegative | None = None

    def _at(self, step: int) -> float:
        if step < self.warmup:
            return rise(self.peak, step, self.warmup, self.start)
        return self.peak * math.sqrt(self.warmup / (step + (self.start is None)))

    def _extent(self) -> int:
        return 10 * self.warmup


@dataclass(frozen=True, repr=False)
class wsd(Schedule):
    r"""Warm-up, stable, decay: linear warm-up to `peak`, constant, then a cool-down to `floor` in the last steps.

    .. math:: \eta(s) = \text{floor} + (\text{peak} - \text{floor}) \, c(x), \qquad
              x = \min\left(\frac{s - (S - C)}{C}, 1\right) \quad \text{for } s \ge S - C

    with S = `steps` and C = `cooldown`, and c the shape:

    ================= =======================================================================
    ``"1-sqrt"``      1 - √x, which Hägele et al. found best
    ``"linear"``      1 - x; the whole is a trapezoid
    ``"1-square"``    1 - x²
    ``"cosine"``      (1 + cos πx) / 2
    ``"power"``       (1 - x) ** `power`; with 1.2 the value is min(peak, c (S - s) ** 1.2)
    ``"exponential"`` the same ratio at every step: peak ** (1 - x) * floor ** x
    ================= =======================================================================

    Hägele et al. (2024), *Scaling laws and compute-optimal training beyond fixed training durations*,
    https://arxiv.org/abs/2405.18392; Hu et al. (2024), *MiniCPM*, https://arxiv.org/abs/2404.06395

    Parameters
    ----------
    peak : float
        The largest value, in [0, inf).
    steps : int
        Steps until the floor is reached, all phases together, in {1, 2, ...}.
    cooldown : int
        Steps of the cool-down, in {1, 2, ...}.
    warmup : int
        Steps of the warm-up, in {0, 1, ...}; the first one already moves, unless there is a start. With `cooldown`, no more
        than `steps`.
    floor : float
        The last value, in [0, inf); in (0, inf) for the shape "exponential".
    shape : {"1-sqrt", "linear", "1-square", "cosine", "power", "exponential"}
        Of the cool-down.
    power : float, optional
        In (0, inf); given with the shape "power" and no other.
    start : float, optional
        The value at step 0 of the warm-up, in [0, inf).

    Examples
    --------
    >>> rate = schuss.schedules.wsd(1.0, steps=8, cooldown=4, warmup=2)
    >>> [round(rate(s), 3) for s in range(9)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0]
    """

    peak: NonNegative
    steps: SomeSteps
    cooldown: SomeSteps
    warmup: Steps = 0
    floor: NonNegative = 0.0
    shape: Literal["1-sqrt", "linear", "1-square", "cosine", "power", "exponential"] = "1-sqrt"
    power: Positive | None = None
    start: NonNegative | None = None

    def __post_init__(self) -> None:
        """Check the phases and what the shape needs."""
        super().__post_init__()
        if self.warmup + self.cooldown > self.steps:
            raise ValueError(
                f"wsd: warmup and cooldown must be no more than steps together, got {self.warmup} and {self.cooldown} "
                f"of {self.steps}"
            )
        if (self.power is None) == (self.shape == "power"):
            raise ValueError(f"wsd: power belongs to the shape 'power', got {self.power} with {self.shape!r}")
        if self.shape == "exponential" and not (self.floor > 0 and self.peak > 0):
            raise ValueError(
                f"wsd: peak and floor must be in (0, inf) for the shape 'exponential', got {self.peak:g} and {self.floor:g}"
            )

    def _at(self, step: int) -> float:
        if step < self.warmup:
            return rise(self.peak, step, self.warmup, self.start)
        elapsed = step - (self.steps - self.cooldown)
        if elapsed <= 0:
            return self.peak
        x = min(elapsed / self.cooldown, 1.0)
        match self.shape:
            case "1-sqrt":
                share = 1.0 - math.sqrt(x)
            case "linear":
                share = 1.0 - x
            case "1-square":
                share = 1.0 - x * x
            case "cosine":
                share = 0.5 * (1.0 + math.cos(math.pi * x))
            case "power":
                assert self.power is not None
                share = math.pow(1.0 - x, self.power)
            case "exponential":
                return between_ratios(self.peak, self.floor, x)
        return between(self.floor, self.peak, share)


@dataclass(frozen=True, repr=False)
class batch_size(Combined):
    r"""A learning rate that follows a batch size, which may be a schedule itself: what a warm-up of the batch needs.

    .. math:: \eta(s) = \text{value} \cdot \begin{cases} B / B_0 & \text{"linear"} \\ \sqrt{B / B_0} & \text{"sqrt"} \\
              1 / (1 + B_0 / B) & \text{"noise"} \end{cases} \qquad B = \text{batch}(s)

    with the `reference` batch B₀. "linear" is the rule of SGD, Goyal et al. (2017), *Accurate, large minibatch SGD*,
    https://arxiv.org/abs/1706.02677; "sqrt" that of Adam, Malladi et al. (2022), *On the SDEs and scaling rules for adaptive
    gradient algorithms*, https://arxiv.org/abs/2205.10287; "noise" is McCandlish et al. (2018), *An empirical model of
    large-batch training*, https://arxiv.org/abs/1812.06162: linear in small batches, `value` in large ones, with the gradient
    noise scale as reference.

    Parameters
    ----------
    value : float
        In [0, inf): the rate at the reference batch; for "noise", that of an infinite batch.
    batch : schedule
        The batch size at a step, above 0.
    reference : float
        In (0, inf).
    rule : {"linear", "sqrt", "noise"}

    Examples
    --------
    >>> batch = schuss.schedules.piecewise([2, 4], [64, 128, 256])
    >>> rate = schuss.schedules.batch_size(1.0, batch, reference=256)
    >>> [rate(s) for s in range(6)]
    [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    """

    value: NonNegative
    batch: Annotated[Inner, Inside()]
    reference: Positive
    rule: Literal["linear", "sqrt", "noise"] = "linear"

    def _inner(self) -> tuple[Inner, ...]:
        return (self.batch,)

    def _at(self, step: int) -> float:
        batch = self.batch(step)
        if not 0 < batch < math.inf:
            raise ValueError(f"batch_size: the schedule of batch must stay in (0, inf), got {batch} at step {step}")
        if self.rule == "noise":
            return self.value / (1.0 + self.reference / batch)
        ratio = batch / self.reference
        return self.value * (math.sqrt(ratio) if self.rule == "sqrt" else ratio)
