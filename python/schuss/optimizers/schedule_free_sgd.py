"""Schedule-free SGD."""

from __future__ import annotations

from schuss.hyperparameters import NonNegative, OpenFraction
from schuss.math import newest_share
from schuss.optimizer import Optimizer


class ScheduleFreeSGD(Optimizer, rule="schedule_free_sgd"):
    r"""Schedule-free SGD: no decay of the step size, an average of the iterates in its place.

    .. math::

        \gamma &= \eta \min(1, t / t_{warm}), \qquad w = t^r \max_{s \le t} \gamma_s^{k}, \qquad
        c = w / \textstyle\sum_{s \le t} w_s \\
        y &\leftarrow (1 - c)\, y + c\, z - \gamma (1 - \beta (1 - c))\, g \\
        z &\leftarrow z - \gamma g

    The parameters hold y, where the gradients are to be taken. The weights to be evaluated are
    :math:`x = y + (1 - 1/\beta)(z - y)`: `eval` puts them into the parameters, `train` brings y back bit for bit.

    Defazio et al. (2024), *The Road Less Scheduled*, https://arxiv.org/abs/2405.15682

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf). Meant to be constant; larger than SGD's.
    momentum : float or schedule
        β, how much of y is the average, in (0, 1).
    warmup_steps : float or schedule
        Steps over which the step size rises, in [0, inf).
    r : float or schedule
        Power of the step in the weight of an iterate, in [0, inf).
    weight_lr_power : float or schedule
        k, power of the largest step size so far in the weight of an iterate, in [0, inf).

    Notes
    -----
    State: `z`, one value per element (4 bytes per float32 parameter), and `lr_max` and `weight_sum`, two float64 per tensor.

    Where the number of steps is not known in advance, and where a schedule would have to be tuned. Statistics of batch
    normalisation have to be computed anew at the weights of `eval`.

    The authors' code is the same; its weight decay is our `l2`. Optax wraps any optimizer and weighs by the largest rate
    likewise; keras weighs all iterates alike and lets weight decay act on y alone.

    Examples
    --------
    >>> w = np.array([1.0, 2.0])
    >>> opt = schuss.ScheduleFreeSGD(w, lr=0.5)
    >>> for _ in range(3):
    ...     opt.step(w.copy())
    >>> opt.eval()  # to look at the weights, or to save them
    >>> w.round(4)
    array([0.2729, 0.5458])
    >>> opt.train()  # to go on
    """

    lr: NonNegative = 1.0  #: step size
    momentum: OpenFraction = 0.9  #: share of the average in the weights
    warmup_steps: NonNegative = 0.0  #: steps over which the step size rises
    r: NonNegative = 0.0  #: power of the step in an iterate's weight
    weight_lr_power: NonNegative = 2.0  #: power of the largest step size in an iterate's weight

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return parameter if slot == "z" else 0.0

    def evaluation(self, parameter, state, values):
        """Return the average of the iterates."""
        return parameter + (1 - 1 / values["momentum"]) * (state["z"] - parameter)

    @staticmethod
    def reference(p, g, z, lr_max, weight_sum, *, t, lr, momentum, warmup_steps, r, weight_lr_power):
        """Step one tensor in NumPy."""
        rate = lr * (t / warmup_steps) if t < warmup_steps else lr
        c, largest, weights = newest_share(t, rate, r, weight_lr_power, float(lr_max), float(weight_sum))
        lr_max[...] = largest
        weight_sum[...] = weights
        p[...] = p + c * (z - p) - rate * (1 - momentum * (1 - c)) * g
        z[...] = z - rate * g
