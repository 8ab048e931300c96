"""CAME."""

from __future__ import annotations

import numpy as np

from schuss.factored import FactoredOptimizer
from schuss.hyperparameters import Fraction, NonNegative, Positive
from schuss.math import products
from schuss.matrix import Matrix, fold


class CAME(FactoredOptimizer, rule="came"):
    r"""CAME: Adafactor with a momentum that steps less where directions stray from it.

    .. math::

        r &\leftarrow \beta_2 r + (1 - \beta_2) \operatorname{mean}_\text{columns}(g^2 + \epsilon_1), \qquad
            c \leftarrow \beta_2 c + (1 - \beta_2) \operatorname{mean}_\text{rows}(g^2 + \epsilon_1) \\
        u &= g \big/ \sqrt{r c / \operatorname{mean}(r)}, \qquad
            u \leftarrow u / \max(1, \operatorname{RMS}(u) / d) \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) u \\
        R &\leftarrow \beta_3 R + (1 - \beta_3) \operatorname{mean}_\text{columns}((u - m)^2 + \epsilon_2), \qquad
            C \leftarrow \beta_3 C + (1 - \beta_3) \operatorname{mean}_\text{rows}((u - m)^2 + \epsilon_2) \\
        p &\leftarrow (1 - \eta \lambda) p - \eta\, m \big/ \sqrt{R C / \operatorname{mean}(R)}

    The last two axes of an array are its rows and columns, those before number matrices; the root mean square is that of the
    whole array. What is not factored has :math:`v \leftarrow \beta_2 v + (1 - \beta_2)(g^2 + \epsilon_1)` in place of
    :math:`r c / \operatorname{mean}(r)`, and steps by :math:`m`.

    Luo, Ren, Zheng, Jiang, Jiang & You (2023), *CAME: Confidence-guided Adaptive Memory Efficient Optimization*,
    https://arxiv.org/abs/2307.02047

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
        Arrays that are factored must be C-contiguous.
    lr : float or schedule
        Step size, in [0, inf).
    beta1, beta2, beta3 : float or schedule
        Decays of the mean, of the squared gradient, and of the squared distance from the mean; in [0, 1).
    eps1, eps2 : float or schedule
        Added to the squared gradient and to the squared distance, in [0, inf).
    threshold : float or schedule
        d, the root mean square above which a direction is shortened, in (0, inf).
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf).
    min_dim_size_to_factor : int
        Arrays with fewer rows or columns are not factored; in {1, 2, ...}.
    exclude : sequence of str
        Patterns of the names of arrays that are not factored.

    Notes
    -----
    State: `m`, one value per element (4 bytes per float32 parameter); of an array that is factored `row` and `column` of the
    gradient, `row_distance` and `column_distance`, one value per row and per column each (``8 / columns + 8 / rows`` bytes),
    of the others `v`, one value per element (4 bytes). Vectors and complex arrays are not factored.

    For large models with large batches, where it keeps Adam's pace with half of its state.

    The form of the authors' code, with the step size that they train with. The averages are not corrected for their start at
    zero: the first steps of what is factored are up to ``1 / sqrt(1 - beta3)`` times as long.

    Examples
    --------
    >>> w = np.zeros((2, 2))
    >>> opt = schuss.CAME(w, lr=0.1, beta3=0.9)
    >>> opt.step(np.array([[1.0, -2.0], [4.0, 2.0]]))
    >>> w.round(4)
    array([[-0.0202,  0.0403],
           [-0.0502, -0.0251]])
    """

    lr: NonNegative = 2e-4  #: step size
    beta1: Fraction = 0.9  #: decay of the mean
    beta2: Fraction = 0.999  #: decay of the squared gradient
    beta3: Fraction = 0.9999  #: decay of the squared distance from the mean
    eps1: NonNegative = 1e-30  #: added to the squared gradient
    eps2: NonNegative = 1e-16  #: added to the squared distance
    threshold: Positive = 1.0  #: root mean square above which a direction is shortened
    weight_decay: NonNegative = 0.0  #: decay of the weights per unit of step size

    shaped = ("row", "column", "row_distance", "column_distance")

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Move the means of squares, bound the direction, then move the means of its distance."""
        values = matrix.values
        factored = self._is_matrix[matrix.index]
        if factored and sweep == 1:
            self.average(matrix, "", 1 - values["beta2"], values["eps1"])
        elif factored and sweep == 3:
            self.average(matrix, "_distance", 1 - values["beta3"], values["eps2"])
        else:
            matrix.numbers = [1 / max(1.0, self.rms(matrix, 0) / values["threshold"])]

    @staticmethod
    def reference(p, g, m, v, *, t, lr, beta1, beta2, eps1, weight_decay, matrix):
        """Step one tensor in NumPy."""
        if matrix:
            seen = yield fold(products(g, g), over="columns")
            u = g * (seen.rows["row"] * seen.columns["column"])
        else:
            v[...] = beta2 * v + (1 - beta2) * (g * g + eps1)
            u = g / np.sqrt(v)
        (scale,) = (yield fold(products(u, u), over="rows")).numbers
        u = scale * u
        mean = beta1 * m + (1 - beta1) * u
        step = mean
        if matrix:
            distance = u - mean
            seen = yield fold(products(distance, distance), over="columns")
            step = mean * (seen.rows["row_distance"] * seen.columns["column_distance"])
        m[...] = mean
        p[...] = (1 - lr * weight_decay) * p - lr * step
