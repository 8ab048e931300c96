"""Adafactor."""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

import numpy as np

from schuss.factored import FactoredOptimizer
from schuss.hyperparameters import Domain, Fraction, NonNegative, Positive, Schedule, Switch
from schuss.math import power, products
from schuss.matrix import Matrix, fold

#: In (-inf, 0].
NonPositive: TypeAlias = Annotated[float | Schedule, Domain(upper=0.0, lower_open=True, upper_open=False)]


class Adafactor(FactoredOptimizer, rule="adafactor"):
    r"""Adafactor: steps scaled by squares of which only the means of rows and columns are kept.

    .. math::

        \rho &= \min(\eta, 1/\sqrt{t}), \qquad \alpha = \max(\epsilon_2, \operatorname{RMS}(p))\, \rho, \qquad
            b = 1 - t^\tau \\
        r &\leftarrow b\, r + (1 - b) \operatorname{mean}_\text{columns}(g^2), \qquad
            c \leftarrow b\, c + (1 - b) \operatorname{mean}_\text{rows}(g^2) \\
        u &= g \Big/ \max\Bigl(\sqrt{r c / \max(\operatorname{mean}(r), \epsilon_1)},\ \epsilon_1\Bigr) \\
        u &\leftarrow \alpha u / \max(1, \operatorname{RMS}(u) / d) \\
        m &\leftarrow \mu m + (1 - \mu) u \qquad\text{(with momentum; else } m = u \text{)} \\
        p &\leftarrow (1 - \eta \lambda) p - m

    The last two axes of an array are its rows and columns, those before number matrices; root mean squares are those of the
    whole array. What is not factored has :math:`v \leftarrow b v + (1 - b) g^2` in place of
    :math:`r c / \operatorname{mean}(r)`.

    Shazeer & Stern (2018), *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*,
    https://arxiv.org/abs/1804.04235

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
        Arrays that are factored must be C-contiguous.
    lr : float or schedule
        η, the largest step size, relative to the weights; in [0, inf).
    beta2_decay : float or schedule
        τ, how fast the decay of the squares goes to 1, in (-inf, 0].
    eps1 : float or schedule
        Bound of the mean of squares, and of the root that is divided by; in (0, inf).
    eps2 : float or schedule
        Bound of the weights' root mean square, in [0, inf).
    threshold : float or schedule
        d, the root mean square above which a step is shortened, in (0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).
    momentum : float or schedule
        μ, in [0, 1). At 0 no mean of steps is kept.
    relative_step : bool
        Bound the step size by ``1 / sqrt(t)``; else it is `lr`.
    scale_parameter : bool
        Step relative to the weights; else ``α = ρ``.
    min_dim_size_to_factor : int
        Arrays with fewer rows or columns are not factored; in {1, 2, ...}.
    exclude : sequence of str
        Patterns of the names of arrays that are not factored.

    Notes
    -----
    State: of an array that is factored `row` and `column`, one value per row and per column (``4 / columns + 4 / rows`` bytes
    per float32 parameter), of the others `v`, one value per element (4 bytes); with momentum also `m` (4 bytes). Vectors and
    complex arrays are not factored.

    For models whose memory is short: the state of a matrix of 1024 x 1024 is a thousandth of Adam's.

    Torch's form and defaults; in torch `eps1` is the precision of the parameter's dtype, 2**-23 for float32 as here, and
    2**-52 for float64. The paper, Keras and optax add ``eps1=1e-30`` to the squares, which is this form with
    ``eps1=1e-30`` but where squares are as small. Optax is ``relative_step=False``, factors the two largest axes where both
    have 128 elements (``min_dim_size_to_factor=128``), and its decay is not multiplied with the step size. Keras also keeps
    a full array of squares. The warm-up of transformers, ``min(1e-6 * t, 1 / sqrt(t))``, is
    ``lr=lambda step: 1e-6 * (step + 1)``.

    Examples
    --------
    >>> w = np.ones((2, 3))
    >>> opt = schuss.Adafactor(w, lr=0.1)
    >>> opt.step(np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 4.0]]))
    >>> w.round(4)
    array([[0.8757, 0.8757, 0.9326],
           [0.9121, 0.9121, 0.9047]])
    >>> opt.state["row"].ravel(), opt.state["column"].ravel()
    (array([1., 8.]), array([2.5, 2.5, 8.5]))
    """

    lr: NonNegative = 1e-2  #: largest step size, relative to the weights
    beta2_decay: NonPositive = -0.8  #: how fast the decay of the squares goes to 1
    eps1: Positive = 2.0**-23  #: bound of the mean of squares and of their root
    eps2: NonNegative = 1e-3  #: bound of the weights' root mean square
    threshold: Positive = 1.0  #: root mean square above which a step is shortened
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size
    momentum: Fraction = 0.0  #: decay of the mean of steps
    relative_step: Switch = True  #: bound the step size by 1 / sqrt(t)
    scale_parameter: Switch = True  #: step relative to the weights

    shaped = ("row", "column")

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Move the means and prepare the direction, then find the length of the step."""
        values = matrix.values
        if sweep == 1 and self._is_matrix[matrix.index]:
            self.average(matrix, "", power(matrix.t, values["beta2_decay"]), least=values["eps1"])
            return
        rate = min(values["lr"], 1 / math.sqrt(matrix.t)) if values["relative_step"] else values["lr"]
        size = max(values["eps2"], self.rms(matrix, 1)) if values["scale_parameter"] else 1.0
        matrix.numbers = [rate * size / max(1.0, self.rms(matrix, 0) / values["threshold"])]

    @staticmethod
    def reference(p, g, v, m, *, t, lr, beta2_decay, eps1, weight_decay, momentum, matrix):
        """Step one tensor in NumPy."""
        if matrix:
            seen = yield fold(products(g, g), over="columns")
            u = g * np.minimum(seen.rows["row"] * seen.columns["column"], 1 / eps1)
        else:
            share = power(t, beta2_decay)
            v[...] = (1 - share) * v + share * (g * g)
            u = g / np.maximum(np.sqrt(v), eps1)
        (step,) = (yield fold(products(u, u), products(p, p), over="rows")).numbers
        u = step * u
        if m is not None:
            m[...] = momentum * m + (1 - momentum) * u
        p[...] = (1 - lr * weight_decay) * p - (u if m is None else m)
