"""Scion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from schuss import linalg, trees
from schuss.hyperparameters import Fraction, NonNegative, Switch
from schuss.math import products
from schuss.matrix import Matrix, fold, look
from schuss.orthogonal import NewtonSchulzOptimizer


class Scion(NewtonSchulzOptimizer, rule="scion"):
    r"""Scion: steps of fixed length under a norm that is chosen for each layer.

    .. math::

        m &\leftarrow \mu m + (1 - \mu) g \\
        p &\leftarrow (1 - \eta) p - \eta \, \rho \, \operatorname{lmo}(m) \qquad\text{(} p \text{ without } (1 - \eta)
          \text{, unconstrained)}

    where `linalg.lmo` is the direction of steepest descent under the norm. Constrained, this is a Frank-Wolfe method: weights
    that start in the norm's ball of radius ρ stay there. Pethick et al. (2025), *Training deep learning models with
    norm-constrained LMOs*, https://arxiv.org/abs/2502.07529

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`.
    lr : float or schedule
        Step size, in [0, inf).
    momentum : float or schedule
        μ, the decay of the mean, in [0, 1).
    scale : float or schedule
        ρ, the length of a step of size 1 and the radius, in [0, inf). One per layer, as
        ``overrides={"head*": {"scale": 3000.0}}``.
    constrained : bool
        Whether weights shrink by the step size.
    norms : dict, optional
        Norms by patterns of names: "spectral", "spectral_conv", "sign", "column", "row", "bias_rms", or "auto", which all
        others have; or a dict of `linalg.lmo`'s arguments, ``{"embed*": {"norm": "row", "transposed": True}}``.
    coefficients : str or sequence of triples
        The polynomials of the spectral norms, see `linalg.orthogonalize`.
    steps : int, optional
        How many of them, in {1, 2, 3, ...}; the schedule's own number if not given.
    exclude : sequence of str
        Patterns of names that have "bias_rms", whatever their shapes.

    Notes
    -----
    State: `m`, one value per element (4 bytes per float32 parameter).

    The same step size fits networks of any width. Weights are to start within the ball: orthogonal matrices times `scale`, for
    the spectral norm. The authors' `momentum` is 1 - μ, by default 1; their examples have 0.1, and as `scale` 50 in hidden
    layers and 3000 with "sign" in the last. A gradient of zeros gives no direction.

    Not exact: spectral directions are products of NumPy's BLAS, which adds in an order of its own, as in `Muon`. The authors'
    are in bfloat16 and have the polynomials "jordan". Arrays that are complex or empty have "bias_rms".

    Examples
    --------
    >>> params = {"hidden": np.zeros((2, 2)), "head": np.zeros((1, 2)), "bias": np.zeros(2)}
    >>> opt = schuss.Scion(params, lr=1.0, momentum=0.0, norms={"head": "sign"}, coefficients="exact")
    >>> opt.step({"hidden": np.diag([3.0, 0.5]), "head": np.array([[2.0, -1.0]]), "bias": np.array([1.0, 1.0])})
    >>> params["hidden"].round(6)
    array([[-1.,  0.],
           [ 0., -1.]])
    >>> params["head"], params["bias"].round(6)
    (array([[-0.5,  0.5]]), array([-1., -1.]))
    """

    lr: NonNegative = 1e-3  #: step size
    momentum: Fraction = 0.9  #: decay of the mean
    scale: NonNegative = 1.0  #: length of a step of size 1
    constrained: Switch = True  #: shrink the weights by the step size
    norms: Mapping[str, str | Mapping[str, Any]] | None = None

    def _checked_option(self, key: str, value: Any) -> Any:
        if key == "norms" and value is not None:
            if not isinstance(value, Mapping):
                raise TypeError(
                    f"{type(self).__name__}: norms must be a dict of norms by name, such as {{'head*': 'sign'}}, got {value!r}"
                )
            return {
                pattern: dict(each) if isinstance(each, Mapping) else {"norm": each} for pattern, each in value.items()
            }
        return super()._checked_option(key, value)

    def _look_at_leaves(self) -> None:
        super()._look_at_leaves()
        name = type(self).__name__
        chosen = trees.by_name(f"{name}: norms", self.norms or {}, self._names())
        excluded = trees.by_name(f"{name}: exclude", self.exclude, self._names())
        self._norms: list[Mapping[str, Any]] = []
        for i, (leaf, key) in enumerate(zip(self._leaves, chosen, strict=True)):
            norm = {"norm": "auto"} if key is None else self._checked_option("norms", self.norms)[key]
            if key is not None:
                try:
                    linalg.lmo(np.zeros(() if norm.get("norm") == "bias_rms" else (1,) * np.ndim(leaf)), **norm)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{name}: norms: params{self._paths[i]} cannot have {norm!r}: {error}") from None
            if norm.get("norm", "auto") == "bias_rms" or np.ndim(leaf) < 2 or excluded[i] is not None:
                self._is_matrix[i] = False
            self._norms.append(norm)

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Find the direction under the tensor's norm."""
        if self._is_matrix[matrix.index]:
            u = matrix.work["u"]
            norm = self._norms[matrix.index]
            linalg.lmo(u, **{"coefficients": self.coefficients, "steps": self.steps} | dict(norm), out=u)
            matrix.numbers = [1.0]
            return
        size = max(1, matrix.parameter.size * (2 if matrix.parameter.dtype.kind == "c" else 1))
        matrix.numbers = [1 / (math.sqrt(matrix.row_sums.sum() / size) + 1e-8)]

    @staticmethod
    def reference(p, g, m, *, t, lr, momentum, scale, constrained, matrix):
        """Step one tensor in NumPy."""
        keep = 1 - lr if constrained else 1.0
        mean = momentum * m + (1 - momentum) * g
        if matrix:
            step, direction = lr * scale, (yield look(mean)).work["u"]
        else:
            (factor,) = (yield fold(products(mean, mean), over="rows")).numbers
            step, direction = lr * scale * factor, mean
        m[...] = mean
        p[...] = keep * p - step * direction
