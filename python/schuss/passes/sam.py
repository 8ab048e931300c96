"""SAM's ascent."""

from __future__ import annotations

import math

import numpy as np

from schuss.hyperparameters import NonNegative, Switch
from schuss.math import dot
from schuss.optimizer import Optimizer


class SAM(Optimizer, rule="sam"):
    r"""SAM's ascent: moves weights to about the largest loss within a distance, and keeps those before.

    .. math::

        p \leftarrow p + \rho \frac{T^2 g}{\|T g\|}

    with T = 1, or ``adaptive``, :math:`T = |p| + \eta` per element. The norm runs over all tensors.

    Foret, Kleiner, Mobahi & Neyshabur (2021), *Sharpness-Aware Minimization for Efficiently Improving Generalization*,
    https://arxiv.org/abs/2010.01412; adaptive: Kwon, Kim, Park & Choi (2021), *ASAM: Adaptive Sharpness-Aware Minimization
    for Scale-Invariant Learning of Deep Neural Networks*, https://arxiv.org/abs/2102.11600

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays
        Updated in place.
    rho : float or schedule
        The distance, in [0, inf).
    eta : float or schedule
        Added to the magnitudes of the weights, in [0, inf); of no effect unless `adaptive`.
    adaptive : bool
        Measure the distance relative to the weights.

    Notes
    -----
    State: `before`, one value per element (4 bytes per float32 parameter): the weights before the last step.

    The first half of `schuss.SAM`, which puts the weights back. Gradients that are all zero move nothing.

    Examples
    --------
    >>> w = np.array([1.0, 2.0])
    >>> ascent = schuss.passes.sam.SAM(w, rho=0.5)
    >>> ascent.step(np.array([3.0, 4.0]))
    >>> w, ascent.state["before"]
    (array([1.3, 2.4]), array([1., 2.]))
    """

    rho: NonNegative = 0.05  #: the distance
    eta: NonNegative = 0.01  #: added to the magnitudes of the weights
    adaptive: Switch = False  #: distance relative to the weights

    @staticmethod
    def reference(p, g, before, *, t, rho, eta, adaptive):
        """Step one tensor in NumPy; what it yields is summed over all tensors."""
        size = np.abs(p) + eta if adaptive else 1.0
        u = size * g if adaptive else g
        uu = yield dot(u, u)
        norm = math.sqrt(uu)
        before[...] = p
        p[...] = p + (0.0 if norm == 0 else rho / norm) * (size * u if adaptive else u)
