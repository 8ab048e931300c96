"""Curvature that the caller computes: optimizers that are fed with it now and then, and Hutchinson's estimate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from schuss import memory, trees
from schuss._guard import guarded
from schuss.hyperparameters import Domain
from schuss.math import random_signs
from schuss.optimizer import Optimizer

__all__ = ["WithHessian", "hutchinson"]

_SEED = Domain(0.0, 2.0**53, upper_open=False, whole=True)
_SAMPLES = Domain(1.0, 2.0**53, upper_open=False, whole=True)


class WithHessian(Optimizer):
    """Base class of optimizers that keep an average of the Hessian's diagonal, which the caller feeds now and then.

    A subclass has a slot `h`, which its rule only reads, and a hyper-parameter `beta2`, the decay of the average.
    """

    #: Do the squares of what is passed enter the average?
    squares: ClassVar[bool] = False

    @guarded
    def update_hessian(self, grads: Any) -> None:
        """Let an estimate of the Hessian's diagonal enter its average `h`, in place.

        Parameters
        ----------
        grads : array, or nesting of arrays as in `params`
            Sampled gradients, whose squares enter, or estimates of the diagonal, as the class says. Of the parameters' shapes
            and any floating dtype and memory layout; read only. None in place of an array leaves that tensor's average as
            it is. Estimates are of the loss itself, not of a scaled one; options such as `l2` and `clip` are for gradients and
            do not act on them.

        Raises
        ------
        TypeError, ValueError, BufferError
            If they cannot be used; nothing was changed.
        FloatingPointError
            If one is not finite and the policy is "raise"; nothing was changed. With "skip" they are left out.
        RuntimeError
            If another thread is inside this optimizer, or the parameters are those of `eval`.

        Examples
        --------
        >>> opt = schuss.SophiaH(np.ones(2), beta2=0.75)
        >>> opt.update_hessian(np.array([4.0, 8.0]))
        >>> opt.state["h"]
        array([1., 2.])
        """
        self._require_training()
        values = self._values_at(self.t)
        average = self._feed or self._make_average()
        for group, now in zip(average.groups, values, strict=True):
            if group["weight"] != 1 - now["beta2"]:
                group["weight"] = 1 - now["beta2"]
        average.step(grads)

    def _make_plan(self) -> None:
        self._feed: Any = None  # that of the arrays before
        super()._make_plan()

    def _make_average(self) -> Any:
        """Make the pass over the present averages, in the parameters' groups."""
        from schuss.passes.average import Average

        # Errors are the method's.
        named = type(f"{type(self).__name__}.update_hessian", (Average,), {"__module__": __name__})
        common = {key: getattr(self, key) for key in ("maximize", "dtype", "threads", "flush_subnormals")}
        average: Any = named([np.zeros(0)], squares=self.squares, nonfinite=self._policy, **common)
        groups = [dict(average._groups[0]) for _ in self._groups]
        average._take(self.state["h"], groups, average._flags, list(self._group_of))
        self._feed = average
        return average


def hutchinson(
    hvp: Callable[[Any], Any], params: trees.Tree, *, seed: int, step: int, samples: int = 1, spatial: bool = False
) -> Any:
    r"""Estimate the Hessian's diagonal from its products with random signs.

    .. math:: \hat h = \frac1n \sum_{i=1}^n z_i \odot H z_i, \qquad z_i \in \{-1, 1\}^d

    The expected value is the diagonal, the variance of an element :math:`\frac1n \sum_{j \ne i} H_{ij}^2`: a diagonal Hessian
    is found exactly. Bekas, Kokiopoulou & Saad (2007), *An estimator for the diagonal of a matrix*,
    https://doi.org/10.1016/j.apnum.2007.01.003, after Hutchinson (1990).

    Parameters
    ----------
    hvp : callable
        Takes a nesting of arrays as `params`, z, and returns H z in the same nesting. A product may be None where there is no
        curvature to be had.
    params : array, or nesting of lists, tuples and dicts of arrays
        Of float64, float32, float16, bfloat16, complex128 or complex64; what z is like. Not read but for shapes and dtypes.
    seed : int
        Of the random signs, in {0, 1, 2, ...}.
    step : int
        In {0, 1, 2, ...}: the signs are a function of seed, step and each tensor's name, and of nothing else.
    samples : int
        n, the number of products, in {1, 2, ...}.
    spatial : bool
        Take the mean of the magnitudes over all axes but the first two, of arrays with more than two: over the places of a
        convolution's kernel, as AdaHessian does.

    Returns
    -------
    tree of arrays
        The estimates in the nesting of `params`, in float64 for float64 and complex128 parameters, else float32. A complex
        number holds the diagonal of its real and of its imaginary part.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or a product does not fit its parameter.

    Examples
    --------
    >>> H = np.diag([1.0, 10.0])
    >>> schuss.hutchinson(lambda z: H @ z, np.zeros(2), seed=0, step=0)
    array([ 1., 10.])
    """
    if not callable(hvp):
        raise TypeError(
            f"hutchinson: hvp must be a function that multiplies with the Hessian, got {type(hvp).__name__}; pass lambda z: ..."
        )
    seed, step = int(_SEED.check("hutchinson: seed", seed)), int(_SEED.check("hutchinson: step", step))
    samples = int(_SAMPLES.check("hutchinson: samples", samples))
    listed = list(trees.leaves(params))
    for path, leaf in listed:
        if not memory.is_steppable(leaf) or leaf.dtype == memory.BFLOAT16_BITS:
            kind = leaf.dtype if isinstance(leaf, np.ndarray) else type(leaf).__name__
            raise TypeError(
                f"hutchinson: params{path} must be an array of float64, float32, float16, bfloat16, complex128 or complex64, "
                f"got {kind}"
            )
    signs = [_Signs(path, leaf, seed, step, samples) for path, leaf in listed]
    sums: list[NDArray[Any] | None] = [None] * len(signs)
    for k in range(samples):
        probes = [each.sample(k) for each in signs]
        products = _fitting(hvp(trees.rebuild(params, iter(probes))), params, listed)
        for i, (probe, product) in enumerate(zip(probes, products, strict=True)):
            if product is not None:
                part = signs[i].times(probe, product)
                total = sums[i]
                sums[i] = part if total is None else total + part
    means = (None if each is None else _finished(each, samples, spatial) for each in sums)
    return trees.rebuild(params, means)


class _Signs:
    """The random signs of one tensor."""

    def __init__(self, path: str, leaf: NDArray[Any], seed: int, step: int, samples: int) -> None:
        self._leaf, self._key = leaf, (seed, step, Optimizer._stream_named(path))
        self._parts = 2 if leaf.dtype.kind == "c" else 1
        self._numbers = random_signs(*self._key, samples * self._parts * leaf.size).reshape(samples, -1)
        self.result = memory.state_dtype(leaf, None)

    def sample(self, k: int) -> NDArray[Any]:
        """Return signs in the parameter's shape and dtype."""
        leaf, numbers = self._leaf, self._numbers[k]
        if self._parts == 1:
            return np.asarray(numbers.reshape(leaf.shape).astype(leaf.dtype))
        real, imag = numbers.reshape(2, *leaf.shape)
        return np.asarray((real + 1j * imag).astype(leaf.dtype))

    def times(self, probe: NDArray[Any], product: NDArray[Any]) -> NDArray[Any]:
        """Return the product with the signs, part by part of complex numbers."""
        wide = product.astype(self.result)
        if self._parts == 1:
            return np.asarray(probe.astype(self.result) * wide)
        return np.asarray(probe.real * wide.real + 1j * (probe.imag * wide.imag)).astype(self.result)


def _fitting(products: Any, params: Any, listed: list[tuple[str, Any]]) -> list[NDArray[Any] | None]:
    """Return the products of the Hessian as a list, if each fits its parameter."""
    if trees.structure(products) != trees.structure(params):
        raise ValueError("hutchinson: hvp must return the nesting of params; return one product for every array")
    found: list[NDArray[Any] | None] = []
    for (path, leaf), (_, product) in zip(listed, trees.leaves(products), strict=True):
        array = None if product is None else np.asarray(product)
        if array is not None and array.shape != leaf.shape:
            raise ValueError(
                f"hutchinson: hvp returned shape {array.shape} for params{path}, which has shape {leaf.shape}; "
                "return H z in the shapes of z"
            )
        if array is not None and (array.dtype.kind == "c") != (leaf.dtype.kind == "c"):
            raise TypeError(
                f"hutchinson: hvp returned {array.dtype} for params{path}, which is {leaf.dtype}; both must be real or both "
                "complex"
            )
        found.append(array)
    return found


def _finished(total: NDArray[Any], samples: int, spatial: bool) -> NDArray[Any]:
    """Return the mean over samples, and over the places of a kernel if that is asked for."""
    mean = total / total.real.dtype.type(samples)
    if not spatial or mean.ndim < 3:
        return np.asarray(mean)
    axes = tuple(range(2, mean.ndim))
    size = np.abs(mean.real) + 1j * np.abs(mean.imag) if mean.dtype.kind == "c" else np.abs(mean)
    return np.broadcast_to(size.mean(axis=axes, keepdims=True), mean.shape).astype(mean.dtype)
