"""COCOB."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import NonNegative, Positive
from schuss.optimizer import Optimizer


class COCOB(Optimizer, rule="cocob"):
    r"""COCOB: every element bets on its gradients, with what it has won so far as the stake, and needs no step size.

    .. math::

        h &= \eta g, \qquad L \leftarrow \max(L, |h|), \qquad n \leftarrow n + |h|, \qquad s \leftarrow s + h \\
        R &\leftarrow \max(R - h \, (p - p_0), 0) \\
        p &\leftarrow p_0 - \frac{s}{L \max(n + L, \alpha L)} (L + R)

    :math:`L` is the largest gradient so far, which starts at :math:`\epsilon`, and :math:`R` the reward, from which the stake
    grows.

    Orabona & Tommasi (2017), *Training Deep Networks without Learning Rates Through Coin Betting*, Algorithm 2,
    https://arxiv.org/abs/1705.07795

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Weight of the gradients, in [0, inf). The rule does not see their scale: a constant acts on nothing but `eps`, a
        schedule gives some steps more weight than others.
    alpha : float or schedule
        Bound of the first bets, in [0, inf): the first step of an element is ``1 / alpha`` or shorter.
    eps : float
        What L starts from, in (0, inf).

    Notes
    -----
    State: `s`, `n`, `largest` (L), `reward` (R) and `p0`, one value each per element (20 bytes per float32 parameter). Keep
    `state_dtype` as wide as the parameters: they are computed from `p0`.

    For a first run without any search of a step size, where memory is no matter. What other code does to the parameters
    between steps is undone by the next.

    As optax's: `lr` multiplies the gradients, not the step. The paper has neither `lr` nor `eps`.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = schuss.COCOB(w)
    >>> opt.step(np.array([3.0, -0.5]))
    >>> w
    array([ 0.99, -1.99])
    """

    lr: NonNegative = 1.0  #: weight of the gradients
    alpha: NonNegative = 100.0  #: bound of the first bets
    eps: Positive = 1e-8  #: what the largest gradient starts from

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return {"p0": parameter, "largest": values["eps"]}.get(slot, 0.0)

    @staticmethod
    def reference(p, g, s, n, largest, reward, p0, *, t, lr, alpha):
        """Step one tensor in NumPy."""
        h = lr * g
        largest[...] = np.maximum(largest, np.abs(h))
        n[...] = n + np.abs(h)
        reward[...] = np.maximum(reward - h * (p - p0), 0.0)
        s[...] = s + h
        scale = largest * np.maximum(n + largest, alpha * largest)
        p[...] = p0 - np.where(scale == 0, 0.0, s / scale * (largest + reward))
