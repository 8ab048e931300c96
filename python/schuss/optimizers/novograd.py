"""NovoGrad."""

from __future__ import annotations

import math

from schuss.hyperparameters import Fraction, NonNegative
from schuss.math import dot
from schuss.optimizer import Optimizer


class NovoGrad(Optimizer, rule="novograd"):
    r"""NovoGrad: momentum over gradients normalised by a running norm of their tensor.

    .. math::

        v &\leftarrow \beta_2 v + (1 - \beta_2) \|g\|^2 \qquad (v \leftarrow \|g\|^2 \text{ at } t = 1;
              \text{ one number per tensor}) \\
        m &\leftarrow \beta_1 m + \frac{g}{\sqrt{v} + \epsilon} + \lambda p \\
        p &\leftarrow p - \eta m

    Ginsburg et al. (2019), *Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks*,
    https://arxiv.org/abs/1905.11286

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the momentum and of the squared norm, in [0, 1).
    eps : float or schedule
        Added outside the root, in [0, inf).
    weight_decay : float or schedule
        λ, in [0, inf). Enters the momentum.

    Notes
    -----
    State: `m`, one value per element, and `v`, one float64 per tensor (4 bytes per float32 parameter).

    For speech and vision models with half of Adam's memory, robust to the choice of `lr`.

    Optax has ``beta1=0.9, beta2=0.25, eps=1e-6``.

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> opt = schuss.NovoGrad(w, lr=0.1)
    >>> opt.step(np.array([3.0, 4.0]))
    >>> w.round(4), float(opt.state["v"])
    (array([0.94, 0.92]), 25.0)
    """

    lr: NonNegative = 1e-2  #: step size
    beta1: Fraction = 0.95  #: decay of the momentum
    beta2: Fraction = 0.98  #: decay of the squared norm
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.0  #: decay, inside the momentum

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, weight_decay):
        """Step one tensor in NumPy."""
        gg = dot(g, g)
        v[...] = gg if t == 1 else beta2 * v + (1 - beta2) * gg
        scale = 1 / (math.sqrt(v) + eps) if v != 0 or eps > 0 else math.inf
        m[...] = beta1 * m + (scale * g + weight_decay * p)
        p[...] = p - lr * m
