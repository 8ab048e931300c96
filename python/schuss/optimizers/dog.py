"""DoG."""

from __future__ import annotations

import math

from schuss.hyperparameters import NonNegative, Positive
from schuss.math import dot
from schuss.optimizer import Optimizer


class DoG(Optimizer, rule="dog"):
    r"""DoG, distance over gradients: SGD with a step as long as the way so far over the root of the summed squares.

    .. math::

        r &\leftarrow \max(r, \|p - p_0\|), \qquad r = r_\epsilon (1 + \|p_0\|) \text{ at first} \\
        n &\leftarrow n + \|g\|^2 \\
        p &\leftarrow p - \eta \frac{r}{\sqrt{n + \epsilon}} g

    The norms run over all tensors.

    Ivgi, Hinder & Carmon (2023), *DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule*,
    https://arxiv.org/abs/2302.12022

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Multiplies the step; leave it at 1. In [0, inf).
    initial_distance : float or schedule
        :math:`r_\epsilon`, the first distance relative to one plus the norm of the start, in (0, inf). 1e-4 with batch
        normalisation. Read at the first step only.
    eps : float or schedule
        Added under the root, in [0, inf).

    Notes
    -----
    State: `p0`, one value per element (4 bytes per float32 parameter), and two numbers: `r` and `n`. Keep `state_dtype` as wide
    as the parameters: what `p0` loses by rounding counts as distance.

    For fine-tuning with SGD without a search of its step size. The authors advise to evaluate an average of the
    iterates instead of the last one. The sums are those of the tensors that have a gradient in the step.

    The authors' and optax's form, with the step size per optimizer, not per group or layer (their LDoG); their `reps_rel`,
    without a default, is `initial_distance`. A given first step size (`init_eta`) is not here.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.DoG(w)
    >>> for _ in range(200):
    ...     opt.step(w.copy())  # the gradient of sum(w**2) / 2
    >>> bool(np.abs(w).max() < 0.1)
    True
    """

    lr: NonNegative = 1.0  #: multiplies the step
    initial_distance: Positive = 1e-6  #: first distance, relative to 1 + the norm of the start
    eps: NonNegative = 1e-8  #: added under the root

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return parameter if slot == "p0" else 0.0

    @staticmethod
    def reference(p, g, p0, r, n, *, t, lr, initial_distance, eps):
        """Step one tensor in NumPy; what it yields is summed over all tensors."""
        moved = p - p0
        gg, distance2, start2 = yield dot(g, g), dot(moved, moved), dot(p0, p0)
        if r == 0:
            r[...] = initial_distance * (1 + math.sqrt(start2))
        distance = math.sqrt(distance2)
        if distance > r:
            r[...] = distance
        n[...] = n + gg
        root = math.sqrt(n + eps)
        p[...] = p - (0.0 if root == 0 else lr * float(r) / root) * g
