"""Rprop."""

from __future__ import annotations

import numpy as np

from schuss.hyperparameters import Fraction, Growth, NonNegative
from schuss.optimizer import Optimizer


class Rprop(Optimizer, rule="rprop"):
    r"""Rprop: steps along the gradient's sign, with a size per element that grows until the sign changes.

    .. math::

        s &\leftarrow \operatorname{clip}(s \eta_+, s_{min}, s_{max}) &&\text{where } g \, g_{prev} > 0 \\
        s &\leftarrow \operatorname{clip}(s \eta_-, s_{min}, s_{max}), \quad g \leftarrow 0
              &&\text{where } g \, g_{prev} < 0 \\
        s &\leftarrow \operatorname{clip}(s, s_{min}, s_{max}) &&\text{else} \\
        p &\leftarrow p - s \operatorname{sign}(g), \qquad g_{prev} \leftarrow g

    with s the step size at first. An element whose gradient changed sign rests for one step.

    Riedmiller & Braun (1993), *A direct adaptive method for faster backpropagation learning: the RPROP algorithm*,
    https://doi.org/10.1109/ICNN.1993.298623, in the variant iRprop⁻ of Igel & Hüsken (2000), *Improving the Rprop Learning
    Algorithm*

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Size of the first step, in [0, inf). Of later values of a schedule only 0 matters: it lifts the bound `step_min`.
    eta_minus : float or schedule
        What the size is multiplied with where the gradient changed sign, in [0, 1).
    eta_plus : float or schedule
        What it is multiplied with where the sign stayed, in [1, inf].
    step_min : float or schedule
        Least size, in [0, inf).
    step_max : float or schedule
        Greatest size, in [0, inf). Wins where it is below `step_min`.

    Notes
    -----
    State: `prev` and `step_size`, one value each per element (8 bytes per float32 parameter).

    For gradients of the whole data set, which it needs: noise of batches changes signs and drives the sizes to `step_min`.
    Then it is fast, and indifferent to the scale of the loss.

    Torch's form and defaults, but that nothing moves with ``lr=0``, where torch starts from `step_min`. Torch compares the
    signs by the product of the two gradients, which in float32 is 0 for gradients of 1e-23; here it cannot underflow.
    Optax's rprop applies each step one call late and bounds the size only where a sign changed or stayed.

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> opt = schuss.Rprop(w, lr=0.1)
    >>> opt.step(np.array([1.0, 1e-6]))
    >>> opt.step(np.array([1.0, -1e-6]))
    >>> w.round(6), opt.state["step_size"].round(6)
    (array([0.78, 0.9 ]), array([0.12, 0.05]))
    """

    lr: NonNegative = 1e-2  #: size of the first step
    eta_minus: Fraction = 0.5  #: shrinks the size where the sign changed
    eta_plus: Growth = 1.2  #: grows it where the sign stayed
    step_min: NonNegative = 1e-6  #: least size
    step_max: NonNegative = 50.0  #: greatest size

    @staticmethod
    def reference(p, g, prev, step_size, *, t, lr, eta_minus, eta_plus, step_min, step_max):
        """Step one tensor in NumPy."""
        turn = g * np.sign(prev)
        old = step_size + (lr if t == 1 else 0.0)
        kept = np.where(turn < 0, 0.0, g)
        scaled = np.where(turn > 0, eta_plus * old, np.where(turn < 0, eta_minus * old, old))
        step_size[...] = np.clip(scaled, step_min if lr > 0 else 0.0, step_max)
        p[...] = p - np.sign(kept) * step_size
        prev[...] = kept
