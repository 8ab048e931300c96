"""DoWG."""

from __future__ import annotations

import math

from schuss.hyperparameters import NonNegative, Positive
from schuss.math import dot
from schuss.optimizer import Optimizer


class DoWG(Optimizer, rule="dowg"):
    r"""DoWG, distance over weighted gradients: DoG, with gradients that count as much as the distance at their time.

    .. math::

        r^2 &\leftarrow \max(r^2, \|p - p_0\|^2), \qquad r = r_\epsilon \text{ at first} \\
        v &\leftarrow v + r^2 \|g\|^2 \\
        p &\leftarrow p - \eta \frac{r^2}{\sqrt{v} + \epsilon} g

    The norms run over all tensors.

    Khaled, Mishchenko & Jin (2023), *DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method*,
    https://arxiv.org/abs/2305.16284

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Multiplies the step; leave it at 1. In [0, inf).
    initial_distance : float
        :math:`r_\epsilon`, an underestimate of the distance to the solution, in (0, inf).
    eps : float or schedule
        Added to the root, in [0, inf).

    Notes
    -----
    State: `p0`, one value per element (4 bytes per float32 parameter), and two numbers: `r2` and `v`. Keep `state_dtype` as
    wide as the parameters: what `p0` loses by rounding counts as distance.

    As `DoG`, with larger steps: early gradients, taken where little was known, weigh little. It works at the edge of stability;
    take `DoG` where it diverges. The sums are those of the tensors that have a gradient in the step.

    The authors' and optax's form and defaults: theirs is one `eps` of 1e-4 for the root and for the square of
    `initial_distance`, which optax can set apart. The paper has no `eps`.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.DoWG(w)
    >>> for _ in range(100):
    ...     opt.step(w.copy())  # the gradient of sum(w**2) / 2
    >>> bool(np.abs(w).max() < 0.1)
    True
    """

    lr: NonNegative = 1.0  #: multiplies the step
    initial_distance: Positive = 1e-2  #: first distance
    eps: NonNegative = 1e-4  #: added to the root

    def initial(self, slot, parameter, values):
        """Return what a slot holds before the first step."""
        return {"p0": parameter, "r2": values["initial_distance"] * values["initial_distance"]}.get(slot, 0.0)

    @staticmethod
    def reference(p, g, p0, r2, v, *, t, lr, eps):
        """Step one tensor in NumPy; what it yields is summed over all tensors."""
        moved = p - p0
        gg, distance2 = yield dot(g, g), dot(moved, moved)
        if distance2 > r2:
            r2[...] = distance2
        v[...] = v + r2 * gg
        root = math.sqrt(v) + eps
        p[...] = p - (0.0 if root == 0 else lr * float(r2) / root) * g
