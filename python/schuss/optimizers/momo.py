"""MoMo."""

from __future__ import annotations

from schuss.hyperparameters import Fraction, NonNegative, Real, Switch
from schuss.math import dot
from schuss.optimizer import Optimizer


class MoMo(Optimizer, rule="momo"):
    r"""Momentum whose step size comes from a model of the loss: the average of its linearisations, cut at a lower bound.

    .. math::

        d &\leftarrow \beta d + (1 - \beta) g, \qquad \bar f \leftarrow \beta \bar f + (1 - \beta) f, \qquad
        \gamma \leftarrow \beta \gamma + (1 - \beta) \langle g, p \rangle \\
        \tau &= \min\Bigl(\eta,\ \frac{\max(\bar f - \gamma + \langle d, p / (1 + \eta \lambda) \rangle - f_{min},\ 0)}
            {\langle d, d / (1 + \eta \lambda) \rangle}\Bigr) \\
        p &\leftarrow \frac{p - \tau d}{1 + \eta \lambda}

    At the first step the averages are the first values. The sums run over all tensors; f is the loss that belongs to the
    gradients: ``step(grads, loss=f)``.

    Schaipp, Ohana, Eickenberg, Defazio & Gower (2024), *MoMo: Momentum Models for Adaptive Learning Rates*,
    https://arxiv.org/abs/2305.07583

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        η, the largest step size, in [0, inf).
    beta : float or schedule
        Decay of the averages, in [0, 1).
    f_min : float or schedule
        The least value that the loss can have, in (-inf, inf).
    weight_decay : float or schedule
        λ, in [0, inf). The only hyper-parameter that groups may differ in.
    adapt_lower_bound : bool
        Estimate the least value that the loss will reach, from `f_min` upwards, and take it in the place of `f_min`.

    Notes
    -----
    State: `d`, one value per element (4 bytes per float32 parameter), and three numbers: `f_bar`, `gamma` and `lower_bound`.

    In the place of SGD with momentum, where `lr` is not known: give a large one. For losses that end near `f_min`; where
    they do not, `adapt_lower_bound`, whose estimate may stop at the present loss, and the steps with it, where there is
    no noise. With ``maximize=True`` pass minus the objective as loss.

    The authors' code without its ``bias_correction``; groups of different λ have one step size here, that of the model, and
    in their code each its own. Optax divides p, but not :math:`\tau d`, by
    :math:`1 + \eta \lambda`, and makes no step where :math:`\|d\|^2` is below 2.2e-16.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.MoMo(w)
    >>> opt.step(w.copy(), loss=0.5 * w @ w)
    >>> w
    array([1.5, 2. ])
    """

    lr: NonNegative = 1.0  #: largest step size
    beta: Fraction = 0.9  #: decay of the averages
    f_min: Real = 0.0  #: least value of the loss
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of lr
    adapt_lower_bound: Switch = False  #: estimate the least value from f_min upwards

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return values["f_min"] if slot == "lower_bound" else 0.0

    @staticmethod
    def reference(
        p, g, d, f_bar, gamma, lower_bound, *, t, lr, beta, f_min, weight_decay, adapt_lower_bound, loss,
    ):  # fmt: skip
        """Step one tensor in NumPy; what it yields is summed over all tensors."""
        b = 0.0 if t == 1 else beta
        keep = 1 / (1 + lr * weight_decay)
        d[...] = b * d + (1 - b) * g
        gp, dp, dd, dp_kept, dd_kept = yield dot(g, p), dot(d, p), dot(d, d), dot(d, keep * p), dot(d, keep * d)
        f_bar[...] = f = b * float(f_bar) + (1 - b) * loss
        gamma[...] = inner = b * float(gamma) + (1 - b) * gp
        reached = f - inner + dp_kept
        least = float(lower_bound) if adapt_lower_bound else f_min
        if adapt_lower_bound and reached < least:
            least = reached / 2
        least = f_min if least < f_min else least
        step = 0.0 if reached < least else reached - least
        step = step / dd_kept if dd_kept > 0 else 0.0
        step = lr if step > lr else step
        bound = f + dp - inner - 0.5 * step * dd if adapt_lower_bound else f_min
        lower_bound[...] = f_min if bound < f_min else bound
        p[...] = keep * (p - step * d)
