"""StableAdamW."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import Fraction, NonNegative, Positive
from schuss.math import one_minus_power, total
from schuss.optimizer import Optimizer


class StableAdamW(Optimizer, rule="stable_adamw"):
    r"""AdamW with Adafactor's clipping: a tensor whose squares lag behind its gradient makes a shorter step.

    .. math::

        \hat\beta_i &= \beta_i \frac{1 - \beta_i^{t-1}}{1 - \beta_i^t} \\
        m &\leftarrow \hat\beta_1 m + (1 - \hat\beta_1) g, \qquad v \leftarrow \hat\beta_2 v + (1 - \hat\beta_2) g^2 \\
        \gamma &= \eta \Big/ \max\Bigl(1, \tfrac{1}{d}
            \sqrt{\operatorname{mean}\bigl(g^2 / \max(v, \epsilon^2)\bigr)}\Bigr)
            \qquad\text{(mean over the tensor)} \\
        p &\leftarrow (1 - \gamma \lambda) p - \gamma \frac{m}{\sqrt{v} + \epsilon}

    The averages weigh the gradients as AdamW's do after the correction of their bias: `m` and `v` are corrected already.

    Wortsman, Dettmers, Zettlemoyer, Morcos, Farhadi & Schmidt (2023), *Stable and low-precision training for large-scale
    vision-language models*, https://arxiv.org/abs/2304.13013

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2 : float or schedule
        Decays of the mean and of the square, in [0, 1).
    eps : float or schedule
        Added outside the root, and bound of the root in the mean; in [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).
    threshold : float or schedule
        d, the root mean square above which a step is shortened, in (0, inf).

    Notes
    -----
    State: `m` and `v`, one value each per element (8 bytes per float32 parameter).

    Where the loss has spikes and the data are large and uneven, in the place of clipping the gradients' norm: the step is
    short in the tensors that surprise, and only there.

    The paper's algorithm with the defaults of the authors' code, whose weights decay by the step size that is not shortened.
    pytorch_optimizer and optimi follow the paper, have ``lr=1e-3, weight_decay=0.01``, and no `threshold`.

    Examples
    --------
    >>> w = np.zeros(2)
    >>> opt = schuss.StableAdamW(w, lr=0.1, beta1=0.0, weight_decay=0.0)
    >>> for _ in range(100):
    ...     opt.step(np.array([0.01, -0.01]))
    >>> before = w.copy()
    >>> opt.step(np.array([1.0, -1.0]))  # AdamW would step by 0.8
    >>> (w - before).round(3)
    array([-0.1,  0.1])
    """

    lr: NonNegative = 2e-3  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.99  #: decay of the square
    eps: NonNegative = 1e-8  #: added outside the root
    weight_decay: NonNegative = 0.2  #: decay of the weights per unit of step size
    threshold: Positive = 1.0  #: root mean square above which a step is shortened

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps, weight_decay, threshold):
        """Step one tensor in NumPy."""
        b1 = beta1 * one_minus_power(beta1, t - 1) / one_minus_power(beta1, t)
        b2 = beta2 * one_minus_power(beta2, t - 1) / one_minus_power(beta2, t)
        m[...] = b1 * m + (1 - b1) * g
        v[...] = b2 * v + (1 - b2) * (g * g)
        ratios = total(np.where(v > 0, g * g / np.maximum(v, eps * eps), 0))
        rms = math.sqrt(ratios / p.size) if p.size > 0 else 0.0
        excess = rms / threshold
        rate = lr / excess if excess > 1 else lr
        p[...] = (1 - rate * weight_decay) * p - rate * (m / (np.sqrt(v) + eps))
