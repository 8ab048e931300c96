"""Tiger."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.optimizer import Optimizer


class Tiger(Optimizer, rule="tiger"):
    r"""Tiger: steps along the sign of the averaged gradient, with decoupled weight decay.

    .. math::

        m &\leftarrow \beta m + (1 - \beta) g \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \, \operatorname{sign}(m)

    It is `Lion` with one decay for the step and the memory, or `Signum` with weights that decay.

    Su (2023), *Tiger: A Tight-fisted Optimizer*, https://github.com/bojone/tiger

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Length of every element's step, in [0, inf).
    beta : float or schedule
        Decay of the mean, in [0, 1).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m`, one value per element (4 bytes per float32 parameter): half of Adam's.

    For transformers under tight memory, as `Lion`, with one hyper-parameter less; take a rate several times smaller than
    AdamW's.

    This is pytorch_optimizer's form, with the author's defaults. The author's code also multiplies `lr` with the root mean
    square of each tensor (of each row, for embeddings), halves it for biases and normalisation weights, which do not decay,
    and shrinks tensors whose gradient has a NaN by 1%. Give such tensors a `Group` with a rate of its own.

    Examples
    --------
    >>> w = np.ones(2)
    >>> opt = schuss.Tiger(w, lr=0.1, weight_decay=0.5)
    >>> opt.step(np.array([2.0, 0.0]))
    >>> w.round(6)
    array([0.85, 0.95])
    """

    lr: NonNegative = 1e-3  #: step size
    beta: Fraction = 0.965  #: decay of the mean
    weight_decay: NonNegative = 1e-2  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, *, t, lr, beta, weight_decay):
        """Step one tensor in NumPy."""
        m[...] = beta * m + (1 - beta) * g
        p[...] = (1 - lr * weight_decay) * p - lr * np.sign(m)
