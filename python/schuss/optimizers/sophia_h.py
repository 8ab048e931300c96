"""Sophia-H."""

from __future__ import annotations

import numpy as np

from schuss.curvature import WithHessian
from schuss.hyperparameters import Fraction, NonNegative, Positive
from schuss.math import one_minus_power


class SophiaH(WithHessian, rule="sophia_h"):
    r"""Sophia-H: a mean of gradients divided by the Hessian's diagonal, element by element, and cut.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        p &\leftarrow (1 - \eta \lambda) p
            - \eta \operatorname{clip}\Bigl(\frac{m / (1 - \beta_1^t)}{\max(\gamma h, \epsilon)}, -c, c\Bigr)

    and, when the caller has estimates and passes them to `update_hessian`, every ten steps or so,

    .. math::

        h \leftarrow h + (1 - \beta_2) (\hat h - h)

    with :math:`\hat h` an estimate of the Hessian's diagonal, such as Hutchinson's :math:`z \odot H z` with random signs z:
    ``opt.update_hessian(schuss.hutchinson(hvp, opt.params, seed=0, step=opt.t))``.

    Liu, Li, Hall, Liang & Ma (2024), *Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training*,
    https://arxiv.org/abs/2305.14342

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1 : float or schedule
        Decay of the mean of gradients, in [0, 1).
    beta2 : float or schedule
        Decay of the curvature, per update of it, in [0, 1).
    gamma : float or schedule
        γ, how much curvature divides: the larger, the fewer elements are cut. In (0, inf).
    eps : float or schedule
        The least that is divided by, in (0, inf).
    limit : float or schedule
        c, where the quotient is cut, in (0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m` and `h`, one value each per element (8 bytes per float32 parameter).

    Until the first `update_hessian`, and where the curvature is negative, a step is cut wherever the mean exceeds
    ``limit * eps``: it follows the signs. Choose γ such that a tenth to a half of the elements are not cut.

    In the form of optax.contrib.sophia, which updates the curvature after the step. pytorch_optimizer does so before it,
    has no correction for the start and no γ, and draws normal numbers instead of signs.

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> opt = schuss.SophiaH(w, lr=0.5, beta2=0.0, gamma=1.0, weight_decay=0.0)
    >>> opt.update_hessian(np.array([1.0, 100.0]))
    >>> opt.step(np.array([3.0, 20.0]))
    >>> w
    array([0.5, 0.9])
    """

    lr: NonNegative = 1e-4  #: step size
    beta1: Fraction = 0.965  #: decay of the mean
    beta2: Fraction = 0.99  #: decay of the curvature
    gamma: Positive = 0.01  #: how much curvature divides
    eps: Positive = 1e-8  #: the least that is divided by
    limit: Positive = 1.0  #: where the quotient is cut
    weight_decay: NonNegative = 1e-4  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, h, *, t, lr, beta1, beta2, gamma, eps, limit, weight_decay):
        """Step one tensor in NumPy."""
        m[...] = beta1 * m + (1 - beta1) * g
        size = np.maximum(gamma * h, eps)
        p[...] = (1 - lr * weight_decay) * p - lr * np.clip((1 / one_minus_power(beta1, t)) * m / size, -limit, limit)
