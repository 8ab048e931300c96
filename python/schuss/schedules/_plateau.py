"""The schedule that follows a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from schuss.hyperparameters import Domain, as_float
from schuss.schedules._base import Count, NonNegative, OpenFraction, Schedule, SomeSteps, Steps

_STATE: dict[str, Any] = {
    "current": Domain(0.0),
    "best": Domain(lower_open=True),
    "bad": Count(0),
    "cooling": Count(0),
    "reports": Count(0),
    "total": Domain(lower_open=True),
}


@dataclass(repr=False, eq=False)
class Plateau(Schedule):
    r"""A value that falls by a factor when a reported metric stops improving.

    Each report is an improvement, which becomes the best, or is counted as bad:

    .. math:: \text{improved} \iff \text{metric} < \text{best} - \text{rtol} \cdot |\text{best}| - \text{atol}

    (for mode "max", with signs reversed). After more than `patience` bad reports in a row the value becomes
    ``max(factor * value, floor)``, and during the next `cooldown` reports none is counted as bad. These are the rules of
    torch's ReduceLROnPlateau, and the defaults are its. A metric that is not finite is no improvement.

    It is a schedule whose value does not depend on the step: pass it as a hyper-parameter and call `report` when there is a
    metric. ``chain(warmup(1.0, 100), Plateau(1e-3))`` warms it up.

    Parameters
    ----------
    value : float
        The first value, in [0, inf).
    mode : {"min", "max"}
        Whether the metric shall fall or rise.
    factor : float
        In (0, 1).
    patience : int
        In {0, 1, ...}.
    rtol, atol : float
        Threshold of an improvement, relative to the best's magnitude and absolute; in [0, inf). Torch's
        ``threshold_mode="abs"`` and keras' `min_delta` are ``rtol=0, atol=...``.
    cooldown : int
        In {0, 1, ...}.
    floor : float
        The least value, in [0, inf).
    eps : float
        A fall by no more than this is left out; in [0, inf). Keras and optax have 0.
    accumulation : int
        Count one report for the mean of so many, in {1, 2, ...}, as optax: for metrics of single batches.
    counting : {"torch", "keras"}
        "keras": the `patience`-th bad report lowers the value, not the one after it (optax's does so, too), and the last
        report of a cool-down counts as bad already.

    Attributes
    ----------
    current : float
        The present value.
    best : float or None
        The best metric; None before the first.

    Notes
    -----
    Torch and optax multiply the best by ``1 - rtol``, which differs for negative metrics: there it lets a metric that got
    worse by less than the threshold pass for an improvement. In keras a first metric that is NaN stays the best for ever, and
    in torch an infinite one of the right sign.

    Examples
    --------
    >>> rate = schuss.schedules.Plateau(0.1, factor=0.5, patience=1)
    >>> opt = schuss.SGD(np.zeros(3), lr=rate)
    >>> [rate.report(loss) for loss in (2.0, 1.0, 1.0, 1.5)]
    [False, False, False, True]
    >>> opt.step(np.ones(3))
    >>> opt.last.lr
    0.05
    """

    value: NonNegative
    mode: Literal["min", "max"] = "min"
    factor: OpenFraction = 0.1
    patience: Steps = 10
    rtol: NonNegative = 1e-4
    atol: NonNegative = 0.0
    cooldown: Steps = 0
    floor: NonNegative = 0.0
    eps: NonNegative = 1e-8
    accumulation: SomeSteps = 1
    counting: Literal["torch", "keras"] = "torch"

    current: float = field(init=False)
    best: float | None = field(init=False)
    _bad: int = field(init=False)
    _cooling: int = field(init=False)
    _reports: int = field(init=False)
    _total: float | None = field(init=False)

    def __post_init__(self) -> None:
        """Check the arguments and begin."""
        super().__post_init__()
        self.reset()

    def reset(self) -> None:
        """Begin anew: forget all reports, with the first value."""
        self._take({"current": self.value, "best": None, "bad": 0, "cooling": 0, "reports": 0, "total": 0.0})

    def _at(self, step: int) -> float:
        return self.current

    def report(self, metric: float) -> bool:
        """Take a metric into account.

        Parameters
        ----------
        metric : float
            A real number, or an array of no dimensions that holds one. NaN and infinities are no improvement; in a mean of
            several they make it none.

        Returns
        -------
        bool
            Whether the value was lowered.
        """
        number = as_float(metric[()] if isinstance(metric, np.ndarray) and metric.ndim == 0 else metric)
        if number is None:
            raise TypeError(f"Plateau: the metric must be a real number, got {metric!r}")
        # None is a mean that is not finite: a checkpoint in JSON can hold it.
        total = None if self._total is None else self._total + number
        self._total = total if total is not None and math.isfinite(total) else None
        self._reports += 1
        if self._reports < self.accumulation:
            return False
        mean = None if self._total is None else self._total / self._reports
        self._reports, self._total = 0, 0.0
        return self._judge(mean)

    def _judge(self, metric: float | None) -> bool:
        """Count a report; lower the value where there were too many bad ones."""
        if metric is not None and self._improves(metric):
            self.best, self._bad = metric, 0
        else:
            self._bad += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad = 0
        early = self.counting == "keras"
        if self._bad <= max(self.patience - early, 0):
            return False
        return self._lower(max(self.cooldown - early, 0))

    def _improves(self, metric: float) -> bool:
        """Tell whether a finite metric is better than the best by more than the threshold."""
        if self.best is None:
            return True
        margin = self.rtol * abs(self.best) + self.atol
        return metric < self.best - margin if self.mode == "min" else metric > self.best + margin

    def _lower(self, cooldown: int) -> bool:
        """Lower the value and begin the cool-down."""
        self._bad, self._cooling = 0, cooldown
        lower = max(self.factor * self.current, self.floor)
        if not self.current - lower > self.eps:
            return False
        self.current = lower
        return True

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, float | None]:
        """Return the state: numbers, or None where there is none yet."""
        return {
            "current": self.current,
            "best": self.best,
            "bad": self._bad,
            "cooling": self._cooling,
            "reports": self._reports,
            "total": self._total,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; the settings stay as they are.

        Parameters
        ----------
        state : dict
            From `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If it does not fit; nothing was changed.
        """
        from schuss.state import Checks

        state = Checks("Plateau", state).state
        if set(state) != set(_STATE):
            raise ValueError(
                f"Plateau: the state must have the entries {', '.join(_STATE)}, got {sorted(map(str, state))!r:.200}"
            )
        checked: dict[str, Any] = {}
        for key, domain in _STATE.items():
            value = state[key]
            absent = value is None and key in ("best", "total")
            checked[key] = None if absent else domain.check(f"Plateau: {key} of the state", value)
        if checked["reports"] >= self.accumulation:
            raise ValueError(
                f"Plateau: reports of the state must be less than accumulation, got {checked['reports']} of "
                f"{self.accumulation}"
            )
        self._take(checked)

    def _take(self, state: Mapping[str, Any]) -> None:
        """Make a checked state the present one."""
        self.current, self.best = state["current"], state["best"]
        self._bad, self._cooling = state["bad"], state["cooling"]
        self._reports, self._total = state["reports"], state["total"]

    def __repr__(self) -> str:
        """Show the settings, and how it stands."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"Plateau({settings}; current={self.current:g}, best={self.best}, bad={self._bad})"
