"""Sophia-G."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from schuss.curvature import WithHessian
from schuss.hyperparameters import Fraction, NonNegative, Positive


class SophiaG(WithHessian, rule="sophia_g"):
    r"""Sophia-G: a mean of gradients divided by curvature, element by element, and cut at 1.

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \operatorname{clip}\Bigl(\frac{m}{\rho B h + \epsilon}, -1, 1\Bigr)

    and, when the caller has estimates and passes them to `update_hessian`, every ten steps or so,

    .. math::

        h \leftarrow h + (1 - \beta_2) (\hat g^2 - h)

    with :math:`\hat g` the gradients of the mean loss over a batch whose labels are drawn from the model's own output (the
    Gauss-Newton-Bartlett estimate): ``opt.update_hessian(sampled_grads)``.

    Liu, Li, Hall, Liang & Ma (2024), *Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training*,
    https://arxiv.org/abs/2305.14342

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf); no element moves further, but for the decay.
    beta1 : float or schedule
        Decay of the mean of gradients, in [0, 1).
    beta2 : float or schedule
        Decay of the curvature, per update of it, in [0, 1).
    rho : float or schedule
        ρ, how much curvature divides: the larger, the fewer elements are cut. In (0, inf).
    batch : float or schedule
        B, the number of terms (tokens) of the mean loss, by which the square of its gradient is too small for the curvature.
        In (0, inf).
    eps : float or schedule
        Added to the curvature, in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).

    Notes
    -----
    State: `m` and `h`, one value each per element (8 bytes per float32 parameter).

    Until the first `update_hessian` every step has the length of the step size, along the signs of the mean. Choose ρ such
    that a tenth to a half of the elements are not cut.

    In the form of the authors' code, where `batch` is the argument `bs` of the step: no correction for the start, and
    ``sign(m) * min(abs(m) / (rho * bs * h + 1e-15), 1)``, which is the same number.

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> opt = schuss.SophiaG(w, lr=0.5, beta1=0.0, beta2=0.0, rho=1.0, batch=1, weight_decay=0.0)
    >>> opt.update_hessian(np.array([1.0, 10.0]))
    >>> opt.step(np.array([3.0, 20.0]))
    >>> w
    array([0.5, 0.9])
    """

    squares: ClassVar[bool] = True

    lr: NonNegative = 1e-4  #: step size
    beta1: Fraction = 0.965  #: decay of the mean
    beta2: Fraction = 0.99  #: decay of the curvature
    rho: Positive = 0.04  #: how much curvature divides
    batch: Positive = 5120.0  #: terms of the mean loss
    eps: NonNegative = 1e-15  #: added to the curvature
    weight_decay: NonNegative = 0.1  #: decay of the weights per unit of step size

    @staticmethod
    def reference(p, g, m, h, *, t, lr, beta1, beta2, rho, batch, eps, weight_decay):
        """Step one tensor in NumPy."""
        m[...] = beta1 * m + (1 - beta1) * g
        p[...] = (1 - lr * weight_decay) * p - lr * np.clip(m / (rho * batch * h + eps), -1, 1)
