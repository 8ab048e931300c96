"""SGD with the Polyak step size."""

from __future__ import annotations

from schuss.hyperparameters import NonNegative, Real
from schuss.math import dot
from schuss.optimizer import Optimizer


class PolyakSGD(Optimizer, rule="polyak_sgd"):
    r"""SGD whose step size is the loss that is left, divided by the squared norm of the gradient.

    .. math::

        \gamma = \min\Bigl(\frac{\max(f - f_{min}, 0)}{\|g\|^2 + \epsilon},\ \eta\Bigr), \qquad
        p \leftarrow p - c\, \gamma\, g

    The norm runs over all tensors; f is the loss that belongs to the gradients: ``step(grads, loss=f)``.

    Loizou, Vaswani, Laradji & Lacoste-Julien (2021), *Stochastic Polyak Step-size for SGD: An Adaptive Learning Rate for
    Fast Convergence*, https://arxiv.org/abs/2002.10542 (SPS_max)

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        The largest step size, in [0, inf).
    scaling : float or schedule
        Multiplies the step; the 1/c of the paper. In [0, inf).
    f_min : float or schedule
        The least value that the loss can have, in (-inf, inf).
    eps : float or schedule
        Added to the squared norm, in [0, inf).

    Notes
    -----
    State: none.

    For models that can fit every batch (loss near `f_min`), where it needs no step size; with noise that cannot be fitted
    `lr` has to bound it. With ``maximize=True`` pass minus the objective as loss.

    Optax's ``polyak_sgd`` in its variant "sps+"; its default "sps" ascends where the loss is below `f_min`. It makes no step
    where the squared norm is below 2.2e-16, and its ``scaling`` multiplies the gradient before the norm is taken, so that a
    larger one shortens the steps that `lr` does not bound.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.PolyakSGD(w)
    >>> opt.step(w.copy(), loss=0.5 * w @ w)
    >>> w
    array([1.5, 2. ])
    """

    lr: NonNegative = 1.0  #: largest step size
    scaling: NonNegative = 1.0  #: multiplies the step
    f_min: Real = 0.0  #: least value of the loss
    eps: NonNegative = 0.0  #: added to the squared norm

    @staticmethod
    def reference(p, g, *, t, lr, scaling, f_min, eps, loss):
        """Step one tensor in NumPy; what it yields is summed over all tensors."""
        gg = yield dot(g, g)
        gap, under = 0.0 if loss < f_min else loss - f_min, gg + eps
        step = gap / under if under > 0 else 0.0
        p[...] = p - scaling * (lr if step > lr else step) * g
