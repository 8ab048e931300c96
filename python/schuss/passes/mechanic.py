"""Mechanic's scaling of the updates."""

from __future__ import annotations

import math

from schuss.hyperparameters import NonNegative, Positive
from schuss.math import dot
from schuss.optimizer import Optimizer


class Mechanic(Optimizer, rule="mechanic"):
    r"""Mechanic's second half: replaces the last update of another optimizer by the sum of all, times a learnt scale.

    With p the weights that the optimizer has stepped to, :math:`x = x_0 + S \Delta` those before and :math:`S = \sum_i s_i`:

    .. math::

        h &= -\Bigl\langle g + \lambda S \frac{\|g\|}{\|x\| + \epsilon} x,\ \Delta \Bigr\rangle, \qquad
        \Delta \leftarrow \Delta + (p - x) \\
        r_i &\leftarrow \beta_i r_i + s_i \min(\max(h, -m_i), m_i), \qquad
        m_i \leftarrow \max(\beta_i m_i, |h| + \epsilon), \qquad v_i \leftarrow \beta_i^2 v_i + h^2 \\
        s_i &\leftarrow \frac{m_i\, s_{init} / 6 + \max(r_i, 0)}{\sqrt{v_i} + \epsilon}, \qquad
        p \leftarrow x_0 + S \Delta

    with :math:`\beta_i = 1 - 10^{-i}`, i = 1 ... 6. The products and norms run over all tensors.

    Cutkosky, Defazio & Mehta (2023), *Mechanic: A Learning Rate Tuner*, https://arxiv.org/abs/2306.00144

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays
        Updated in place.
    s_init : float or schedule
        The first scale, in (0, inf).
    s_decay : float or schedule
        λ, the pull of the weights towards zero in what the scale learns from, in [0, inf).
    eps : float or schedule
        Against divisions by zero, in (0, inf).

    Notes
    -----
    State: `reference` (:math:`x_0`) and `delta`, one value each per element (8 bytes per float32 parameter), and 24 numbers.

    The second half of `schuss.Mechanic`, which runs the optimizer before. The weights before the step are not kept: they are
    computed from the state, with the same operations that they came from.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> scaling = schuss.passes.mechanic.Mechanic(w, s_init=0.5)
    >>> w -= 1.0  # an optimizer's step
    >>> scaling.step(np.array([2.0]))
    >>> w, scaling.state["delta"]
    (array([0.5]), array([-1.]))
    """

    s_init: Positive = 1e-8  #: first scale
    s_decay: NonNegative = 1e-2  #: pull towards zero in what the scale learns from
    eps: Positive = 1e-8  #: against divisions by zero

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return parameter if slot == "reference" else 0.0

    @staticmethod
    def reference(
        p, g, reference, delta, s1, s2, s3, s4, s5, s6, m1, m2, m3, m4, m5, m6, v1, v2, v3, v4, v5, v6,
        r1, r2, r3, r4, r5, r6, *, t, s_init, s_decay, eps,
    ):  # fmt: skip
        """Step one tensor in NumPy; what it yields is summed over all tensors."""
        scale = float(s1) + float(s2) + float(s3) + float(s4) + float(s5) + float(s6)
        x = reference + scale * delta
        gd, xd, gg, xx = yield dot(g, delta), dot(x, delta), dot(g, g), dot(x, x)
        decay = s_decay * scale * math.sqrt(gg) / (math.sqrt(xx) + eps)
        h = -(gd + decay * xd)
        size = -h if h < 0 else h
        learners = zip((s1, s2, s3, s4, s5, s6), (m1, m2, m3, m4, m5, m6), (v1, v2, v3, v4, v5, v6),
                       (r1, r2, r3, r4, r5, r6), (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999), strict=True)  # fmt: skip
        for s, m, v, r, beta in learners:
            least = float(-m) if h < -m else h
            clipped = float(m) if least > m else least
            m[...] = beta * m if beta * m > size + eps else size + eps
            v[...] = beta * beta * v + h * h
            r[...] = beta * r + clipped * s
            wealth = s_init / 6 * m + (r if r > 0 else 0.0)
            s[...] = wealth / (math.sqrt(v) + eps)
        delta[...] = delta + (p - x)
        p[...] = reference + (float(s1) + float(s2) + float(s3) + float(s4) + float(s5) + float(s6)) * delta
