"""DAdaptSGD."""

from __future__ import annotations

import math

from schuss.hyperparameters import Fraction, Growth, NonNegative, Positive
from schuss.math import dot
from schuss.optimizer import Optimizer


class DAdaptSGD(Optimizer, rule="dadapt_sgd"):
    r"""SGD with D-Adaptation: the step size is an estimate of the distance to the solution, which only grows.

    .. math::

        \gamma &= d\,\eta / \|g_0\| \\
        r &\leftarrow r + \gamma \langle g, s \rangle, \qquad s \leftarrow s + \gamma g, \qquad \hat d = 2 r / \|s\| \\
        d &\leftarrow \max(d, \min(\hat d, d \cdot \text{growth})) \\
        p &\leftarrow \mu p + (1 - \mu) (p_0 - s)

    The sums run over all tensors; :math:`g_0` is the first gradient that is not zero.

    Defazio & Mishchenko (2023), *Learning-Rate-Free Learning by D-Adaptation*, https://arxiv.org/abs/2301.07733

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Multiplies the estimate; leave it at 1, or give a schedule with peak 1. In [0, inf).
    momentum : float or schedule
        μ, in [0, 1). At 0 no start is kept, and the last line is ``p - gamma * g``.
    d0 : float
        First estimate, in (0, inf).
    growth_rate : float or schedule
        Bound of d's growth in a step, in [1, inf].

    Notes
    -----
    State: `s`, with momentum also `p0`, one value each per element (4 or 8 bytes per float32 parameter), and three numbers:
    `d`, `d_numerator` (r) and `g0_norm`. With momentum, keep `state_dtype` as wide as the parameters: they are computed from
    `p0`.

    For image models and other work for SGD where no step size is known. The first gradient should be a typical one: its norm
    scales all steps.

    The authors' form and defaults. Their code keeps z as well, leaves the decay out of the norm of the first gradient (`l2` is
    in it here), and cannot take ``lr=0``.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.DAdaptSGD(w)
    >>> for _ in range(100):
    ...     opt.step(w.copy())  # the gradient of sum(w**2) / 2
    >>> bool(np.abs(w).max() < 1.0), float(opt.state["d"]) > 0.1
    (True, True)
    """

    lr: NonNegative = 1.0  #: multiplies the estimate
    momentum: Fraction = 0.0  #: how much of the iterate stays
    d0: Positive = 1e-6  #: first estimate of the distance
    growth_rate: Growth = math.inf  #: bound of the estimate's growth in a step

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return {"p0": parameter, "d": values["d0"]}.get(slot, 0.0)

    @staticmethod
    def reference(p, g, s, p0, d, d_numerator, g0_norm, *, t, lr, momentum, growth_rate):
        """Step one tensor in NumPy; what it yields is summed over all tensors."""
        gg, gs, ss = yield dot(g, g), dot(g, s), dot(s, s)
        if g0_norm == 0:
            g0_norm[...] = math.sqrt(gg)
        rate = 0.0 if g0_norm == 0 else float(d) * lr / float(g0_norm)
        d_numerator[...] = d_numerator + rate * gs
        square = ss + rate * (2 * gs + rate * gg)
        if square > 0:
            d_hat = 2 * float(d_numerator) / math.sqrt(square)
            if d_hat > d:
                d[...] = d_hat if d_hat < d * growth_rate else d * growth_rate
        s[...] = s + rate * g
        p[...] = p - rate * g if p0 is None else p + (1 - momentum) * (p0 - s - p)
