"""Schedules: hyper-parameters as pure functions of the number of steps already done, which starts at 0.

Any callable is a schedule; those here print readably and pickle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["cosine"]


@dataclass(frozen=True)
class cosine:  # noqa: N801  (used as a function)
    r"""Linear warm-up to `peak`, then half a cosine down to `floor`, where it stays.

    .. math:: \eta(s) = \begin{cases} \text{peak}\,\frac{s + 1}{W} & s < W \\
              \text{floor} + (\text{peak} - \text{floor})\,\frac{1 + \cos(\pi x)}{2} & s \ge W \end{cases}
              \qquad x = \min\!\Big(\frac{s - W}{S - W}, 1\Big)

    with s steps done, W = `warmup` and S = `steps`. Loshchilov & Hutter (2017), https://arxiv.org/abs/1608.03983

    Parameters
    ----------
    peak : float
        The largest value, not negative.
    steps : int
        Steps until the floor is reached, those of the warm-up among them; at least 1.
    warmup : int
        Steps of the warm-up, less than `steps`; the first step of it already moves (value ``peak / warmup``).
    floor : float
        The last value, not negative.

    Examples
    --------
    >>> rate = schuss.schedules.cosine(1.0, steps=4)
    >>> [round(rate(s), 3) for s in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    peak: float
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check the shape."""
        if not (0 <= self.peak < math.inf and 0 <= self.floor < math.inf):
            raise ValueError(f"cosine: peak and floor must be in [0, inf), got {self.peak!r} and {self.floor!r}")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"cosine: warmup must be from 0 to steps - 1, got {self.warmup!r} of {self.steps!r} steps")

    def __call__(self, step: int) -> float:
        """Return the value after `step` steps."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        x = min((step - self.warmup) / (self.steps - self.warmup), 1.0)
        return self.floor + (self.peak - self.floor) * (1 + math.cos(math.pi * x)) / 2
