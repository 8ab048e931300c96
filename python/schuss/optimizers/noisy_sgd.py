"""SGD with gradient noise."""

from __future__ import annotations

import math

from schuss.hyperparameters import NonNegative, Whole
from schuss.math import power
from schuss.optimizer import Optimizer


class NoisySGD(Optimizer, rule="noisy_sgd"):
    r"""Stochastic gradient descent with normal noise in the gradient, annealed over the steps.

    .. math::

        p \leftarrow p - \eta_{lr} \bigl(g + \mathcal{N}(0, \eta / t^\gamma)\bigr)

    The noise of an element is a function of the seed, the step, the name of its tensor and its place there
    (Threefry-2x32, made a normal number by its quantile): the same for every number of threads and instruction set.

    Neelakantan et al. (2015), *Adding Gradient Noise Improves Learning for Very Deep Networks*,
    https://arxiv.org/abs/1511.06807; the generator: Salmon, Moraes, Dror & Shaw (2011), *Parallel random numbers: as easy
    as 1, 2, 3*

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    eta : float or schedule
        The variance of the noise at the first step, in [0, inf).
    gamma : float or schedule
        How fast the variance falls with the step, in [0, inf).
    seed : int
        Chooses the noise, in {0, 1, 2, ...}. It is part of the state dict, and with the step count all that the generator
        needs: a run that is resumed goes on with the noise it would have had.

    Notes
    -----
    State: none.

    For deep networks that are hard to start, and as the discretised Langevin dynamics of Bayesian sampling (`gamma` = 0
    and `eta` = 2 / lr). For other optimizers' gradients the noise has to be added by the caller.

    Optax's ``noisy_sgd`` is the same rule with the random numbers of JAX. Real and imaginary parts of complex parameters
    get noise of their own.

    Examples
    --------
    >>> w = np.zeros(3)
    >>> opt = schuss.NoisySGD(w, lr=0.1, eta=1.0, seed=7)
    >>> opt.step(np.zeros(3))
    >>> w.round(3)
    array([0.139, 0.01 , 0.028])
    """

    lr: NonNegative = 1e-3  #: step size
    eta: NonNegative = 0.01  #: variance of the noise at the first step
    gamma: NonNegative = 0.55  #: how fast the variance falls
    seed: Whole = 0  #: chooses the noise

    @staticmethod
    def reference(p, g, noise, *, t, lr, eta, gamma, seed):
        """Step one tensor in NumPy."""
        p[...] = p - lr * (g + math.sqrt(eta / power(t, gamma)) * noise)
