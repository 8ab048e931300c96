"""Clipping of gradients before the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ClipNorm"]


@dataclass(frozen=True)
class ClipNorm:
    """Scale all gradients together so that their global Euclidean norm is at most `max_norm`.

    The norm runs over the gradients of all tensors of the step, summed in float64 in a fixed order; the gradients
    themselves are left as they are: the coefficient ``max_norm / norm`` (1 where the norm is small enough) enters the
    step. With a clip, a non-finite gradient raises FloatingPointError unless the optimizer was given another
    ``nonfinite=``.

    Parameters
    ----------
    max_norm : float
        In (0, inf).

    Examples
    --------
    >>> w = np.zeros(2)
    >>> opt = schuss.SGD(w, lr=1.0, clip=schuss.ClipNorm(1.0))
    >>> opt.step(np.array([3.0, 4.0]))
    >>> opt.last.norm, w
    (5.0, array([-0.6, -0.8]))
    """

    max_norm: float

    def __post_init__(self) -> None:
        """Check the norm."""
        if isinstance(self.max_norm, bool) or not isinstance(self.max_norm, float | int):
            raise TypeError(f"ClipNorm: max_norm must be a real number, got {self.max_norm!r}")
        if not 0 < self.max_norm < math.inf:
            raise ValueError(f"ClipNorm: max_norm must be in (0, inf), got {self.max_norm:g}")
