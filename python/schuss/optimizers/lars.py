"""LARS."""

from __future__ import annotations

import math

from schuss.hyperparameters import Fraction, NonNegative, Switch
from schuss.math import dot
from schuss.optimizer import Optimizer


class LARS(Optimizer, rule="lars"):
    r"""LARS: SGD with momentum, with a step as long as the norms of the tensor and its gradient say.

    .. math::

        r &= c \frac{\|p\|}{\|g\| + \lambda \|p\| + \epsilon}
        \qquad\text{(norms over the tensor; 1 if } \|p\| \text{ or } \|g\| + \lambda \|p\| \text{ is 0)} \\
        u &= \eta\, r\, (g + \lambda p), \qquad b \leftarrow \mu b + u \\
        p &\leftarrow p - b \qquad\text{or, with Nesterov's momentum,}\qquad p \leftarrow p - (u + \mu b)

    You, Gitman & Ginsburg (2017), *Large Batch Training of Convolutional Networks*, https://arxiv.org/abs/1708.03888

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    momentum : float or schedule
        μ, in [0, 1). At 0 no buffer is kept.
    weight_decay : float or schedule
        λ, in [0, inf). Part of the direction and of the ratio.
    trust_coefficient : float or schedule
        c, the length of a step over the tensor's norm at ``lr=1``, in [0, inf).
    eps : float or schedule
        Added to the divisor of the ratio, in [0, inf).
    nesterov : bool
        Look ahead along the buffer; needs momentum.

    Notes
    -----
    State: `buffer`, one value per element (4 bytes per float32 parameter), with momentum; none without.

    For convolutional networks and batches of thousands, with a warm-up of `lr`. Step biases and normalisation weights with an
    `SGD` of their own, as is usual: a tensor of zeros has the ratio 1 here, and moves by the whole of `lr`.

    The paper's form, with the step size inside the buffer. Optax takes the norm of ``g + weight_decay * p`` in place of the
    sum of norms; pytorch_optimizer and timm keep `lr` outside the buffer and step vectors, or what has no decay, as SGD does.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.LARS(w, lr=1.0)
    >>> opt.step(np.array([60.0, 80.0]))  # as long as 0.001 of the tensor's norm
    >>> w.round(6)
    array([2.997, 3.996])
    """

    lr: NonNegative = 1.0  #: step size
    momentum: Fraction = 0.9  #: how much of the buffer stays
    weight_decay: NonNegative = 0.0  #: decay, inside the direction and the ratio
    trust_coefficient: NonNegative = 1e-3  #: length of a step over the tensor's norm
    eps: NonNegative = 0.0  #: added to the divisor of the ratio
    nesterov: Switch = False  #: look ahead along the buffer

    @classmethod
    def objection(cls, values):
        """Say why hyper-parameters make no sense together."""
        if values["nesterov"] and not values["momentum"]:
            return "nesterov=True needs momentum; pass momentum in (0, 1)"
        return None

    @staticmethod
    def reference(p, g, buffer, *, t, lr, momentum, weight_decay, trust_coefficient, eps, nesterov):
        """Step one tensor in NumPy."""
        norm = math.sqrt(dot(p, p))
        size = math.sqrt(dot(g, g)) + weight_decay * norm
        ratio = trust_coefficient * norm / (size + eps) if norm > 0 and size > 0 else 1.0
        u = (lr * ratio) * (g + weight_decay * p)
        if buffer is None:
            p[...] = p - u
            return
        buffer[...] = momentum * buffer + u
        p[...] = p - (u + momentum * buffer if nesterov else buffer)
