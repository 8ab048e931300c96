"""EMA."""

from __future__ import annotations

from typing import Annotated, Literal

from schuss.averaging import Averaging
from schuss.hyperparameters import Domain
from schuss.wrapper import Count


class EMA(Averaging):
    r"""EMA: an exponential moving average of the weights, for evaluation.

    .. math::

        e \leftarrow e + (1 - d_n)(p - e) \qquad d_0 = 0,\quad d_n = \min(d, w_n)

    after n updates, with the decay d and, for a warm-up,

    .. math::

        w_n = \frac{1 + n}{10 + n} \quad\text{("ratio")}\qquad w_n = 1 - \Big(1 + \frac n\gamma\Big)^{-2/3}
        \quad\text{("power")}

    Polyak & Juditsky (1992), *Acceleration of stochastic approximation by averaging*, https://doi.org/10.1137/0330046; in
    deep learning Tarvainen & Valpola (2017), *Mean teachers are better role models*, https://arxiv.org/abs/1703.01780

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        Makes the steps; the average does not act on them.
    decay : float
        d, in [0, 1]. It averages over about ``1 / (1 - d)`` updates.
    every : int
        Steps of the optimizer per update, in {1, 2, ...}. Skipped steps and micro-batches do not count.
    gamma : float
        γ of the warm-up "power", in (0, inf): how many updates it stretches over.
    warmup : {None, "ratio", "power"}
        How the decay rises: at once, or so that the first weights are soon forgotten.
    dtype : dtype, optional
        Of the average: float64, float32, float16 or bfloat16. The optimizer's compute type by default: a bfloat16 average
        would not move by a thousandth.

    Notes
    -----
    State: `average`, one value per element; and the number of updates. The first update copies the weights; until then
    the average is what they were at construction.

    The plain form is torch's (`AveragedModel` with `get_ema_multi_avg_fn`), without bias correction. "ratio" is that of
    TensorFlow's `ExponentialMovingAverage`, "power" that of timm's `ModelEmaV3`. Keras copies the average over the weights
    if asked to (`ema_overwrite_frequency`); here the optimizer never sees it.

    Examples
    --------
    >>> w = np.zeros(1)
    >>> opt = schuss.EMA(schuss.SGD(w, lr=1.0), decay=0.75)
    >>> for _ in range(3):
    ...     opt.step(-np.ones(1))
    >>> with opt.swapped():
    ...     print(w)
    [1.6875]
    >>> w
    array([3.])
    """

    decay: Annotated[float, Domain(0.0, 1.0, upper_open=False)] = 0.999  #: how much of the average stays
    every: Count = 1  #: steps per update
    gamma: Annotated[float, Domain(0.0, lower_open=True)] = 1.0  #: updates that the warm-up "power" stretches over
    warmup: Literal["ratio", "power"] | None = None

    def _due(self) -> bool:
        return self.t % self.every == 0

    def _weight(self, updates: int) -> float:
        if updates == 0:
            return 1.0
        warm: dict[str | None, float] = {
            None: 1.0,
            "ratio": (1 + updates) / (10 + updates),
            "power": 1 - (1 + updates / self.gamma) ** (-2 / 3),
        }
        return 1 - min(float(self.decay), warm[self.warmup])
