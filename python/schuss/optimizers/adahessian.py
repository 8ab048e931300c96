"""AdaHessian."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, Switch
from schuss.math import one_minus_power
from schuss.optimizer import Optimizer


class AdaHessian(Optimizer, rule="adahessian"):
    r"""AdaHessian: Adam with the Hessian's diagonal in place of the gradient in the second moment.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) h^2 \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with h an estimate of the diagonal, for example Hutchinson's :math:`z \odot H z` with random signs z, which the caller
    passes: ``opt.step(grads, hessian=schuss.hutchinson(hvp, opt.params, seed=0, step=opt.t))``. With `half_power` the root
    is taken once more.

    Yao et al. (2021), *ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning*,
    https://arxiv.org/abs/2006.00719

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
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).
    half_power : bool
        Hessian power 1/2: divide by :math:`(v / (1 - \beta_2^t))^{1/4}`, which reacts less to the curvature. The paper's
        power 1 without.

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    Where Hessian-vector products are cheap and the problem is badly conditioned. The paper averages the magnitude of h over
    the spatial axes of convolutions, which ``schuss.hutchinson(..., spatial=True)`` does. Other packages let the Hessian power
    be any number in [0, 1].

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> curvature = np.array([1.0, 100.0])
    >>> opt = schuss.AdaHessian(w, lr=0.5)
    >>> opt.step(curvature * w, hessian=curvature)
    >>> w
    array([0.5, 0.5])
    """

    lr: NonNegative = 0.1  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the squared diagonal
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size
    half_power: Switch = False  #: Hessian power 1/2

    @staticmethod
    def reference(p, g, hessian, m, v, *, t, lr, beta1, beta2, eps, weight_decay, half_power):
        """Step one tensor in NumPy."""
        bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * (hessian * hessian)
        root = 1 / math.sqrt(bias2)
        size = math.sqrt(root) * np.sqrt(np.sqrt(v)) if half_power else root * np.sqrt(v)
        p[...] = (1 - lr * weight_decay) * p - (lr / bias1) * (m / (size + eps))
