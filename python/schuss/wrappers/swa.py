"""SWA."""

from __future__ import annotations

from typing import Annotated

from schuss.averaging import Averaging
from schuss.hyperparameters import Domain
from schuss.wrapper import Count


class SWA(Averaging):
    r"""SWA: the mean of the weights at the end of training, for evaluation.

    .. math::

        e \leftarrow e + \frac{p - e}{n + 1} \qquad\text{after } n \text{ updates}

    Izmailov, Podoprikhin, Garipov, Vetrov & Wilson (2018), *Averaging weights leads to wider optima and better
    generalization*, https://arxiv.org/abs/1803.05407

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        Makes the steps, at the end with a constant or a cyclic step size; the average does not act on them.
    start : int
        The step after which the weights enter the mean for the first time, in {0, 1, 2, ...}; at 0 and 1 the first.
    every : int
        Steps of the optimizer per update from there on, in {1, 2, ...}. Skipped steps and micro-batches do not count.
    dtype : dtype, optional
        Of the average: float64, float32, float16 or bfloat16. The optimizer's compute type by default.

    Notes
    -----
    State: `average`, one value per element; and the number of updates. Until the first update the average is what the
    weights were at construction.

    All counted weights have the same share, as in torch's `AveragedModel`. Statistics of batch normalisation belong to the
    weights they were taken with: take them anew within `swapped`.

    Examples
    --------
    >>> w = np.zeros(1)
    >>> opt = schuss.SWA(schuss.SGD(w, lr=1.0), start=2, every=2)
    >>> for _ in range(6):
    ...     opt.step(-np.ones(1))
    >>> opt.average, opt.updates
    (array([4.]), 3)
    """

    start: Annotated[int, Domain(0.0, 2.0**53, upper_open=False, whole=True)] = 0  #: step of the first update
    every: Count = 1  #: steps per update

    def _due(self) -> bool:
        return self.t >= self.start and (self.t - self.start) % self.every == 0

    def _weight(self, updates: int) -> float:
        return 1 / (updates + 1)
