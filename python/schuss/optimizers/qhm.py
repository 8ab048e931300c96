"""QHM."""

from __future__ import annotations

from schuss.hyperparameters import Fraction, NonNegative, UnitInterval
from schuss.optimizer import Optimizer


class QHM(Optimizer, rule="qhm"):
    r"""Quasi-hyperbolic momentum: a weighted mean of a gradient step and a step along the averaged gradient.

    .. math::

        m &\leftarrow \beta m + (1 - \beta) g \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \left( (1 - \nu) g + \nu m \right)

    At ν = 0 it is gradient descent, at ν = 1 `Momentum`, at ν = β Nesterov's momentum with an averaged buffer.

    Ma & Yarats (2019), *Quasi-hyperbolic momentum and Adam for deep learning*, https://arxiv.org/abs/1810.06801

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta : float or schedule
        Decay of the mean, in [0, 1).
    nu : float or schedule
        ν, the weight of the mean against the gradient, in [0, 1].
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m`, one value per element (4 bytes per float32 parameter).

    In place of `SGD` with momentum: the long memory reduces the noise, and the gradient beside it keeps the step up to date.
    Coming from ``SGD(momentum=0.9)``, divide its `lr` by ``1 - 0.9``, since the buffer here is a mean and no sum.

    `beta` and `nu` are what the authors recommend; their code has no defaults, calls β `momentum`, and lets ν leave [0, 1].
    `lr` is torch's default for SGD divided by ``1 - 0.9``. Pytorch_optimizer has ``momentum=0, nu=1``, which is gradient
    descent. Their coupled weight decay is `l2`.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.QHM(w, lr=1.0, beta=0.5, nu=0.5)
    >>> opt.step(np.array([1.0]))
    >>> w
    array([0.25])
    """

    lr: NonNegative = 1e-2  #: step size
    beta: Fraction = 0.999  #: decay of the mean
    nu: UnitInterval = 0.7  #: weight of the mean in the step
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, *, t, lr, beta, nu, weight_decay):
        """Step one tensor in NumPy."""
        m[...] = beta * m + (1 - beta) * g
        p[...] = (1 - lr * weight_decay) * p - ((lr * (1 - nu)) * g + (lr * nu) * m)
