"""Lion."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.optimizer import Optimizer


class Lion(Optimizer, rule="lion"):
    r"""Lion: steps of one length along the sign of an interpolated momentum.

    .. math::

        p &\leftarrow (1 - \eta \lambda) p - \eta \, \operatorname{sign}(\beta_1 m + (1 - \beta_1) g) \\
        m &\leftarrow \beta_2 m + (1 - \beta_2) g

    Chen et al. (2023), *Symbolic Discovery of Optimization Algorithms*, https://arxiv.org/abs/2302.06675

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Length of every element's step, in [0, inf).
    beta1 : float or schedule
        Weight of the momentum against the gradient in the step, in [0, 1).
    beta2 : float or schedule
        Decay of the momentum, in [0, 1).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m`, one value per element (4 bytes per float32 parameter): half of Adam's.

    For large batches and long training under tight memory. Every element moves by `lr`, so the authors take a rate 3 to 10
    times smaller than AdamW's and a weight decay larger by as much.

    The authors' defaults. Where the interpolation is 0, nothing moves (``sign(0) = 0``, as in the authors' code, optax and
    keras); DeepSpeed's compiled Lion takes the sign of that zero and steps, and has ``beta2=0.999``. Optax has
    ``weight_decay=1e-3``, keras ``lr=1e-3``.

    Examples
    --------
    >>> w = np.ones(3)
    >>> opt = schuss.Lion(w, lr=0.1)
    >>> opt.step(np.array([5.0, 0.0, -0.01]))
    >>> w
    array([0.9, 1. , 1.1])
    """

    lr: NonNegative = 1e-4  #: step size
    beta1: Fraction = 0.9  #: weight of the momentum in the step
    beta2: Fraction = 0.99  #: decay of the momentum
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, *, t, lr, beta1, beta2, weight_decay):
        """Step one tensor in NumPy."""
        p[...] = (1 - lr * weight_decay) * p - lr * np.sign(beta1 * m + (1 - beta1) * g)
        m[...] = beta2 * m + (1 - beta2) * g
