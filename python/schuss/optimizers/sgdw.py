"""SGDW."""

from __future__ import annotations

from schuss.hyperparameters import Fraction, NonNegative, Switch, UnitInterval
from schuss.optimizer import Optimizer


class SGDW(Optimizer, rule="sgdw"):
    r"""SGDW: SGD with momentum, with weights that decay by themselves instead of through the gradient.

    .. math::

        b &\leftarrow \mu b + (1 - \tau) g \qquad (b \leftarrow g \text{ at } t = 1) \\
        p &\leftarrow (1 - \eta \lambda) p - \eta\, b \qquad\text{or, with Nesterov's momentum,}\qquad
              p \leftarrow (1 - \eta \lambda) p - \eta (g + \mu b)

    Loshchilov & Hutter (2019), *Decoupled Weight Decay Regularization*, https://arxiv.org/abs/1711.05101

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    momentum : float or schedule
        μ, in [0, 1). At 0 no buffer is kept.
    dampening : float or schedule
        τ, in [0, 1]. The first gradient enters the buffer undamped.
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).
    nesterov : bool
        Look ahead along the buffer; needs momentum and no dampening.

    Notes
    -----
    State: `buffer`, one value per element (4 bytes per float32 parameter), with momentum; none without.

    In place of ``SGD(l2=...)`` where momentum is tuned or scheduled too: the decay does not pass through the buffer, so that
    its strength does not depend on `momentum` and `dampening`. Without momentum the two are the same but for rounding.

    The form and defaults of timm: that of torch's SGD, with torch's AdamW's decay. In the paper the rate is inside the
    buffer and the decay is multiplied with the schedule alone, not with the rate: its λ is ``lr * weight_decay`` here.
    Keras's SGD with `weight_decay` keeps the rate inside the buffer, which differs where `lr` changes. The default of `lr`
    is 1e-4 in pytorch_optimizer.

    Examples
    --------
    >>> w = np.ones(2)
    >>> opt = schuss.SGDW(w, lr=0.1, momentum=0.9, weight_decay=0.1)
    >>> opt.step(np.array([0.0, 1.0]))
    >>> w
    array([0.99, 0.89])
    """

    lr: NonNegative = 1e-3  #: step size
    momentum: Fraction = 0.0  #: how much of the buffer stays
    dampening: UnitInterval = 0.0  #: how much of the gradient is kept out of the buffer
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size
    nesterov: Switch = False  #: look ahead along the buffer

    @classmethod
    def objection(cls, values):
        """Say why hyper-parameters make no sense together."""
        if values["nesterov"] and not values["momentum"]:
            return "nesterov=True needs momentum; pass momentum in (0, 1)"
        if values["nesterov"] and values["dampening"]:
            return "nesterov=True goes without dampening; leave dampening at 0"
        return None

    @staticmethod
    def reference(p, g, buffer, *, t, lr, momentum, dampening, weight_decay, nesterov):
        """Step one tensor in NumPy."""
        keep = 1 - lr * weight_decay
        if buffer is None:
            p[...] = keep * p - lr * g
            return
        buffer[...] = momentum * buffer + (1.0 if t == 1 else 1 - dampening) * g
        p[...] = keep * p - lr * (g + momentum * buffer if nesterov else buffer)
