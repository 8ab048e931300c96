"""SGDP."""

from __future__ import annotations

from schuss.hyperparameters import Fraction, NonNegative, Switch, UnitInterval
from schuss.math import radial_part
from schuss.optimizer import Optimizer


class SGDP(Optimizer, rule="sgdp"):
    r"""SGDP: stochastic gradient descent whose step keeps the norm of weights that have no scale.

    .. math::

        b &\leftarrow \mu b + (1 - \tau) g \\
        u &= b \qquad\text{or, with Nesterov's momentum,}\qquad u = g + \mu b \\
        u &\leftarrow u - \hat p\, (\hat p \cdot u), \quad \lambda \leftarrow \rho \lambda \qquad\text{where projected},
        \quad \hat p = \frac{p}{\|p\| + \epsilon} \\
        p &\leftarrow \Bigl(1 - \frac{\eta \lambda}{1 - \mu}\Bigr) p - \eta u

    A tensor is projected row by row if in every row :math:`|\cos(g, p)| < \delta / \sqrt{n}`, n being the row's elements;
    else as one vector, if that holds of the whole tensor; else not at all. A row is all that shares the first index, an
    output channel of a convolution or a dense layer stored as (out, in). A vector is never projected.

    Heo et al. (2021), *AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights*,
    https://arxiv.org/abs/2006.08217

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
        Arrays of two and more dimensions must be C-contiguous.
    lr : float or schedule
        Step size, in [0, inf).
    momentum : float or schedule
        μ, in [0, 1). At 0 no buffer is kept.
    dampening : float or schedule
        τ, in [0, 1]. Unlike in `SGD`, the first gradient is damped as all others.
    eps : float or schedule
        Added to the norm of the weights; the least norm in a cosine. In [0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size and of what momentum makes of it, in [0, inf).
    delta : float or schedule
        δ, in [0, inf): the gradient of weights without a scale is orthogonal to them, one of others hardly ever.
    wd_ratio : float or schedule
        ρ, the part of the decay that projected weights get, in [0, 1].
    nesterov : bool
        Look ahead along the buffer; needs momentum.

    Notes
    -----
    State: `buffer`, one value per element (4 bytes per float32 parameter), with momentum; none without.

    For convolutional networks whose weights are followed by a normalisation: there momentum makes the weights grow, and the
    effective step shrink, faster than the gradient does.

    As in the authors' code, cosines are those of the weights before the decay, with the gradient of this step, not the
    buffer. The authors require `lr`; 1e-3 is that of `SGD`.

    Examples
    --------
    >>> w = np.array([[3.0, 4.0]])
    >>> opt = schuss.SGDP(w, lr=0.1, momentum=0.5)
    >>> opt.step(np.array([[4.0, -3.0]]))
    >>> opt.step(np.array([[4.3, -2.6]]))
    >>> w.round(4)
    array([[1.9571, 4.6887]])
    """

    lr: NonNegative = 1e-3  #: step size
    momentum: Fraction = 0.0  #: how much of the buffer stays
    dampening: UnitInterval = 0.0  #: how much of the gradient is kept out of the buffer
    eps: NonNegative = 1e-8  #: added to norms
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size
    delta: NonNegative = 0.1  #: how far from orthogonal a projected gradient may be
    wd_ratio: UnitInterval = 0.1  #: part of the decay that projected weights get
    nesterov: Switch = False  #: look ahead along the buffer

    @classmethod
    def objection(cls, values):
        """Say why hyper-parameters make no sense together."""
        if values["nesterov"] and not values["momentum"]:
            return "nesterov=True needs momentum; pass momentum in (0, 1)"
        return None

    @staticmethod
    def reference(p, g, buffer, *, t, lr, momentum, dampening, eps, weight_decay, delta, wd_ratio, nesterov):
        """Step one tensor in NumPy."""
        if buffer is None:
            u = (1 - dampening) * g
        else:
            buffer[...] = momentum * buffer + (1 - dampening) * g
            u = g + momentum * buffer if nesterov else buffer
        part, projected = radial_part(p, g, u, eps, delta)
        ratio = wd_ratio if projected else 1.0
        p[...] = (1 - lr * weight_decay * ratio / (1 - momentum)) * p - lr * (u - part * p)
