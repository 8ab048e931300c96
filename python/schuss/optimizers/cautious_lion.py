"""CautiousLion."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import total
from schuss.optimizer import Optimizer


class CautiousLion(Optimizer, rule="cautious_lion"):
    r"""Lion that moves only the elements whose interpolated momentum agrees with the gradient.

    .. math::

        u &= \operatorname{sign}(\beta_1 m + (1 - \beta_1) g) \\
        a &= [\, u g > 0 \,] \qquad\text{(1 or 0)}, \qquad
             s = 1 / \max(\operatorname{mean}(a), 10^{-3}) \qquad\text{(mean over the tensor)} \\
        p &\leftarrow (1 - \eta \lambda) p - \eta s\, a\, u \\
        m &\leftarrow \beta_2 m + (1 - \beta_2) g

    The elements that move are moved further, by the share of those that do not. Weights decay everywhere.

    Liang, Chen, Liu & Liu (2024), *Cautious Optimizers: Improving Training with One Line of Code*,
    https://arxiv.org/abs/2411.16085

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Mean length of the elements' steps, in [0, inf).
    beta1 : float or schedule
        Weight of the momentum against the gradient in the step, in [0, 1).
    beta2 : float or schedule
        Decay of the momentum, in [0, 1).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m`, one value per element (4 bytes per float32 parameter): half of Adam's.

    In the place of `Lion`, with its hyper-parameters, where momentum overshoots. Steps have no longer one length: a tensor
    in which few elements agree moves these by up to 1000 `lr`.

    Lion's defaults and the scale of the authors' later code, as in timm (``caution=True``). The authors' Lion has
    ``beta1=0.95, beta2=0.98`` and multiplies by ``n / (sum(a) + 1)``, as does pytorch_optimizer; lion-pytorch bounds the
    mean by 1e-5.

    Examples
    --------
    >>> w = np.ones(3)
    >>> opt = schuss.CautiousLion(w, lr=0.1, beta2=0.5)
    >>> opt.step(np.array([1.0, 1.0, 1.0]))
    >>> opt.step(np.array([1.0, 1.0, -0.5]))  # against the momentum: the third stays
    >>> w.round(3)
    array([0.75, 0.75, 0.9 ])
    """

    lr: NonNegative = 1e-4  #: step size
    beta1: Fraction = 0.9  #: weight of the momentum in the step
    beta2: Fraction = 0.99  #: decay of the momentum
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, *, t, lr, beta1, beta2, weight_decay):
        """Step one tensor in NumPy."""
        u = np.sign(beta1 * m + (1 - beta1) * g)
        agrees = (u * g > 0).astype(p.dtype)
        agreeing = total(agrees)
        scale = p.size / agreeing if agreeing > 1e-3 * p.size else 1 / 1e-3
        p[...] = (1 - lr * weight_decay) * p - (lr * scale) * (agrees * u)
        m[...] = beta2 * m + (1 - beta2) * g
