"""RMSprop."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, Switch
from schuss.optimizer import Optimizer


class RMSprop(Optimizer, rule="rmsprop"):
    r"""RMSprop: steps scaled by the root of a running mean of the squared gradient.

    .. math::

        v &\leftarrow \alpha v + (1 - \alpha) g^2 \\
        m &\leftarrow \alpha m + (1 - \alpha) g \qquad\text{(centered)} \\
        u &= \frac{g}{\sqrt{w} + \epsilon} \qquad w = v \text{ or, centered, } \max(v - m^2, 0) \\
        b &\leftarrow \mu b + u \qquad\text{(with momentum)} \\
        p &\leftarrow p - \eta u \quad\text{or}\quad p - \eta b

    or, with `eps_inside`, :math:`u = g / \sqrt{w + \epsilon}`.

    Tieleman & Hinton (2012), *Neural Networks for Machine Learning*, lecture 6.5,
    https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf; centered: Graves (2013), *Generating
    Sequences With Recurrent Neural Networks*, https://arxiv.org/abs/1308.0850

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    alpha : float or schedule
        Decay of the means, in [0, 1).
    eps : float or schedule
        In [0, inf).
    momentum : float or schedule
        μ, in [0, 1). At 0 no buffer is kept.
    centered : bool
        Scale by an estimate of the gradient's variance instead of its square.
    eps_inside : bool
        Add `eps` under the root.

    Notes
    -----
    State: `v`, with `centered` also `m`, with momentum also `buffer` (4, 8 or 12 bytes per float32 parameter).

    For recurrent networks and reinforcement learning, where it is the customary choice.

    Torch's form and defaults, but for the variance, which rounding can make negative: here it is at least 0, in torch the
    root is NaN then. Keras and optax add `eps` inside the root and keep `lr` inside the momentum buffer, with ``alpha=0.9``.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.RMSprop(w, lr=0.1, alpha=0.75)
    >>> opt.step(np.array([3.0]))
    >>> w.round(6)
    array([0.8])
    """

    lr: NonNegative = 1e-2  #: step size
    alpha: Fraction = 0.99  #: decay of the means
    eps: NonNegative = 1e-8  #: added to the root, or inside
    momentum: Fraction = 0.0  #: how much of the buffer stays
    centered: Switch = False  #: scale by the variance
    eps_inside: Switch = False  #: add eps under the root

    @staticmethod
    def reference(p, g, v, m, buffer, *, t, lr, alpha, eps, momentum, centered, eps_inside):
        """Step one tensor in NumPy."""
        v[...] = alpha * v + (1 - alpha) * (g * g)
        w = v
        if centered:
            m[...] = alpha * m + (1 - alpha) * g
            w = np.maximum(v - m * m, 0.0)
        u = g / (np.sqrt(w + eps) if eps_inside else np.sqrt(w) + eps)
        if buffer is not None:
            buffer[...] = momentum * buffer + u
        p[...] = p - lr * (u if buffer is None else buffer)
