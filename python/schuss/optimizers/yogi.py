"""Yogi."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class Yogi(Optimizer, rule="yogi"):
    r"""Yogi: Adam whose second moment changes by the squared gradient, not by its distance from it.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow v - (1 - \beta_2) \operatorname{sign}(v - g^2) g^2 \\
        p &\leftarrow p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Small gradients lower v by little, so that steps do not grow fast where gradients are sparse.

    Zaheer, Reddi, Sachan, Kale & Kumar (2018), *Adaptive Methods for Nonconvex Optimization*,
    https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, in [0, inf).
    initial_accumulator : float
        What v starts from, in [0, inf).

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    For sparse or heavy-tailed gradients, where Adam's second moment forgets large gradients too fast.

    The paper's moments, with Adam's bias correction as in optax and with the defaults of TensorFlow Addons. The paper corrects
    no bias; TensorFlow Addons has Keras's form of it, in which `eps` counts ``1 / sqrt(1 - beta2**t)`` times as much. Optax
    and pytorch_optimizer start `m` from 1e-6 as well as `v`; here and in TensorFlow Addons it starts from 0.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.Yogi(w, lr=0.1, initial_accumulator=4.0)
    >>> opt.step(np.array([1.0]))
    >>> opt.state["v"]  # lower by (1 - beta2) g^2, where Adam's would be lower by (1 - beta2) (v - g^2)
    array([3.999])
    """

    lr: NonNegative = 1e-2  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the square
    eps: NonNegative = 1e-3  #: added outside the root
    initial_accumulator: NonNegative = 1e-6  #: what the second moment starts from

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return values["initial_accumulator"] if slot == "v" else 0.0

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        square = g * g
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = v - (1 - beta2) * (np.sign(v - square) * square)
        p[...] = p - (lr / bias1) * (m / ((1 / math.sqrt(bias2)) * np.sqrt(v) + eps))
