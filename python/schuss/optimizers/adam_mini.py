"""Adam-mini."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power, row_dot
from schuss.optimizer import Optimizer


class AdamMini(Optimizer, rule="adam_mini"):
    r"""Adam-mini: Adam with one second moment per row instead of one per element.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v_r &\leftarrow \beta_2 v_r + (1 - \beta_2)\, \mathrm{mean}(g_r^2) \qquad\text{for each row } r \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v_r / (1 - \beta_2^t)} + \epsilon}

    A row is all that shares the first index: an output neuron of a weight matrix stored as (out, in), a token of an
    embedding. A vector is one row.

    Zhang et al. (2024), *Adam-mini: Use Fewer Learning Rates To Gain More*, https://arxiv.org/abs/2406.16793

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
        Arrays of two and more dimensions must be C-contiguous.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m`, one value per element, and `v`, one float64 per row (4 bytes per float32 parameter of a matrix).

    For transformers, with half of AdamW's memory. The paper takes whole heads for queries and keys: give those as
    views of shape (heads, ...). It takes Adam for biases: put them into an `AdamW` of their own.

    Examples
    --------
    >>> w = np.ones((2, 2))
    >>> opt = schuss.AdamMini(w, lr=0.1, weight_decay=0.0)
    >>> opt.step(np.array([[1.0, 1.0], [3.0, 4.0]]))
    >>> w.round(4), opt.state["v"].round(4)
    (array([[0.9   , 0.9   ],
           [0.9151, 0.8869]]), array([0.001 , 0.0125]))
    """

    lr: NonNegative = 1e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 1e-2  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, weight_decay):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (row_dot(g, g, v.shape) / max(g.size // max(v.size, 1), 1))
        step = (lr / bias1 / (np.sqrt(v / bias2) + eps)).astype(p.dtype)
        p[...] = (1 - lr * weight_decay) * p - step.reshape(v.shape + (1,) * (p.ndim - v.ndim)) * m
