"""FTRL."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import NonNegative
from schuss.optimizer import Optimizer


class FTRL(Optimizer, rule="ftrl"):
    r"""FTRL-Proximal: the weights that minimise all losses so far, linearised, with penalties that make them sparse.

    .. math::

        \sigma &= (\sqrt{n + g^2} - \sqrt{n}) / \eta \\
        n &\leftarrow n + g^2 \\
        z &\leftarrow z + g - \sigma p \\
        p &\leftarrow \begin{cases} 0 & |z| \le \lambda_1 \\
            (\lambda_1 \operatorname{sign}(z) - z) \,/\, \left((\beta + \sqrt{n}) / \eta + \lambda_2\right) & \text{else}
            \end{cases}

    Without penalties it is gradient descent with Adagrad's step size; with them most weights are exactly 0.

    McMahan et al. (2013), *Ad Click Prediction: a View from the Trenches*, https://doi.org/10.1145/2487575.2488200

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, α in the paper, in [0, inf). At 0 a step changes nothing, `n` and `z` included.
    beta : float or schedule
        β, which holds back the first steps, in [0, inf).
    lambda1 : float or schedule
        λ₁, the weight of ``lambda1 * sum(abs(p))`` among the summed losses, in [0, inf). Makes weights exactly 0.
    lambda2 : float or schedule
        λ₂, the weight of ``lambda2 / 2 * sum(p**2)`` among the summed losses, in [0, inf).
    initial_accumulator : float
        What n starts from, in [0, inf).

    Notes
    -----
    State: `z` and `n`, one value each per element (8 bytes per float32 parameter).

    For linear models of sparse features, learned example by example, that must be small when served. The weights follow from
    `z`, which starts at 0: start from zero weights, since others are drawn to 0 by the first steps. They follow from the
    present rate as well: keep `lr` constant, since a schedule that falls to 0 takes the weights along. Unlike `l1` and `l2`,
    which act at every step, the penalties here stand once beside the sum of all losses.

    The paper's form, as in pytorch_optimizer, which has ``beta=0``. Keras has ``beta=0, initial_accumulator=0.1``, counts its
    ``l2_regularization_strength`` twice (pass half of `lambda2`), and has two parameters more: a power other than 1/2, and
    a shrinkage, which is half of `l2` but leaves `n` alone. Where `n`, `beta` and `lambda2` are all 0, keras divides 0 by 0
    and the paper's weight is 0, as here.

    Examples
    --------
    >>> w = np.zeros(2)
    >>> opt = schuss.FTRL(w, lr=0.1, lambda1=1.0)
    >>> opt.step(np.array([0.5, 3.0]))
    >>> w.round(6)
    array([ 0.  , -0.05])
    """

    lr: NonNegative = 1e-3  #: step size
    beta: NonNegative = 1.0  #: holds back the first steps
    lambda1: NonNegative = 0.0  #: weight of the absolute values
    lambda2: NonNegative = 0.0  #: weight of the squares
    initial_accumulator: NonNegative = 0.0  #: what the sum of squares starts from

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return values["initial_accumulator"] if slot == "n" else 0.0

    @staticmethod
    def reference(p, g, z, n, *, t, lr, beta, lambda1, lambda2):
        """Step one tensor in NumPy."""
        if lr == 0:
            return
        before = np.sqrt(n)
        n[...] = n + g * g
        after = np.sqrt(n)
        z[...] = z + (g - (1 / lr) * (after - before) * p)
        weight = (lambda1 * np.sign(z) - z) / ((1 / lr) * after + (beta / lr + lambda2))
        p[...] = np.where(np.abs(z) <= lambda1, 0.0, weight)
