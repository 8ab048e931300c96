"""ASGD."""

from __future__ import annotations

from schuss.hyperparameters import NonNegative
from schuss.math import power
from schuss.optimizer import Optimizer


class ASGD(Optimizer, rule="asgd"):
    r"""Averaged stochastic gradient descent: falling rates and decay, and beside the parameters their average.

    .. math::

        p &\leftarrow (1 - \lambda \eta_t) p - \eta_t g \\
        a &\leftarrow a + \mu_t (p - a) \\
        \eta_{t+1} &= \frac{\eta}{(1 + \lambda \eta t)^\alpha}, \qquad \mu_{t+1} = \frac{1}{\max(1, t - t_0)}

    with :math:`\eta_1 = \eta` and :math:`\mu_1 = 1`. The average, of the parameters after step :math:`t_0`, is the result: the
    slot `ax`, which `eval` puts into the parameters and `train` takes out again.

    Polyak & Juditsky (1992), *Acceleration of Stochastic Approximation by Averaging*, https://doi.org/10.1137/0330046, with
    the rates of Xu (2011), *Towards Optimal One Pass Large Scale Learning with Averaged Stochastic Gradient Descent*,
    https://arxiv.org/abs/1107.2490

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        η, the step size at first, in [0, inf).
    lambd : float or schedule
        λ, the decay of the weights per unit of step size, which also makes the rate fall, in [0, inf).
    alpha : float or schedule
        Power by which the rate falls, in [0, inf).
    t0 : float or schedule
        The step after which the average begins, in [0, inf). Before it the average is a copy of the parameters.

    Notes
    -----
    State: `ax`, one value per element (4 bytes per float32 parameter), and `eta` and `mu`, one float64 each per tensor.

    For convex problems, and for the end of a long run: the average has much less of the gradients' noise than the last
    parameters. Set `t0` to where the loss has settled; by default averaging does not begin before a million steps.

    Torch's form and defaults, but that torch's average is zero before the first step and has to be fetched from the state:
    rate and weight of a step are computed in the step before it, so that a change of `lr` acts
    one step late. Torch keeps `eta` and `mu` in float32 unless its default dtype is float64. An optimizer of this name in
    pytorch_optimizer is another method.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.ASGD(w, lr=0.5, lambd=0.0, t0=0)
    >>> for gradient in (1.0, 2.0, -1.0):
    ...     opt.step(np.array([gradient]))
    >>> w, opt.state["ax"].round(6)
    (array([0.]), array([-0.25]))
    >>> opt.eval()
    >>> w.round(6)
    array([-0.25])
    """

    lr: NonNegative = 1e-2  #: step size at first
    lambd: NonNegative = 1e-4  #: decay of the weights, and of the rate
    alpha: NonNegative = 0.75  #: power by which the rate falls
    t0: NonNegative = 1e6  #: the step after which the average begins

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return parameter if slot == "ax" else 0.0

    def evaluation(self, parameter, state, values):
        """Return the average of the parameters."""
        return state["ax"]

    @staticmethod
    def reference(p, g, ax, eta, mu, *, t, lr, lambd, alpha, t0):
        """Step one tensor in NumPy."""
        rate, weight = (lr, 1.0) if t == 1 else (float(eta), float(mu))
        eta[...] = lr / power(1 + lambd * lr * t, alpha)
        mu[...] = 1 / max(1.0, t - t0)
        p[...] = (1 - lambd * rate) * p - rate * g
        ax[...] = p if weight == 1 else ax + weight * (p - ax)
