"""Robust aggregation: one gradient of several, before the step of any optimizer.

Every function takes a list of k gradients, all of one nesting, with arrays of the same shapes and dtypes, and returns
a gradient of that nesting. Arrays may have any strides; a complex number counts as two real ones. Where all gradients
have None, the result has None. With `out`, a nesting of the same kind with contiguous arrays, nothing is allocated;
those arrays may be the arrays of one of the gradients. The results are the same bits for every number of threads and
every instruction set, and those of the NumPy formulas of `reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schuss import _core, memory, trees
from schuss._runtime import number_of_threads
from schuss.hyperparameters import Domain
from schuss.math import dot
from schuss.reference import _added, _as_reals, rounded, widened

__all__ = ["geometric_median", "krum", "mean", "median", "reference", "sign_vote", "trimmed_mean"]

_WEIGHT = Domain(0.0)
_POSITIVE = Domain(0.0, lower_open=True)


def mean(
    gradients: Sequence[Any], *, weights: Sequence[float] | None = None, out: Any = None, threads: int | None = None
) -> Any:
    r"""Return the weighted mean, element by element: federated averaging, with the clients' numbers of samples as weights.

    .. math:: \bar g = \sum_i w_i g_i \Big/ \sum_i w_i

    McMahan et al. (2017), *Communication-efficient learning of deep networks from decentralized data*,
    https://arxiv.org/abs/1602.05629

    Added in float64 and rounded once. One NaN or infinity among the values of an element is seen in its mean; a
    gradient of weight 0 is left out whatever it holds. A single outlier can move the mean anywhere.

    Parameters
    ----------
    gradients : list of k trees
        At least one.
    weights : k numbers, optional
        Each in [0, inf), not all 0; equal if not given.
    out : tree, optional
        Written instead of new arrays.
    threads : int, optional
        At least 1; `schuss.get_num_threads` if not given.

    Returns
    -------
    tree
        The mean.

    Examples
    --------
    >>> schuss.aggregation.mean([np.array([1.0, 2.0]), np.array([4.0, 8.0])], weights=[2, 1])
    array([2., 4.])
    """
    call = _Call("mean", gradients, out, threads)
    each = call.weights(weights)
    call.stack.combine(each, _added(each), call.threads)
    return call.result


def median(gradients: Sequence[Any], *, out: Any = None, threads: int | None = None) -> Any:
    r"""Return the median of each element; of an even number of gradients, the mean of the two in the middle.

    Yin et al. (2018), *Byzantine-robust distributed learning: towards optimal statistical rates*,
    https://arxiv.org/abs/1803.01498

    Stays among the values of the honest gradients while fewer than half are not. A NaN counts as plus infinity, so
    that one of them, unlike in `numpy.median`, does not decide; the result is not finite where one of the values in
    the middle is not. A zero is +0.

    Parameters
    ----------
    gradients : list of k trees
        At least one.
    out : tree, optional
        Written instead of new arrays.
    threads : int, optional
        At least 1; `schuss.get_num_threads` if not given.

    Returns
    -------
    tree
        The median.

    Examples
    --------
    >>> honest, wrong = np.array([1.0, 2.0]), np.array([np.nan, -1e9])
    >>> schuss.aggregation.median([honest, wrong, honest + 0.5])
    array([1.5, 2. ])
    """
    call = _Call("median", gradients, out, threads)
    call.stack.sorted_mean((call.k - 1) // 2, call.k // 2 + 1, call.threads)
    return call.result


def trimmed_mean(gradients: Sequence[Any], f: int, *, out: Any = None, threads: int | None = None) -> Any:
    r"""Return the mean of each element without the f smallest and the f largest values.

    .. math:: \frac1{k - 2f} \sum_{i = f + 1}^{k - f} g_{(i)}

    with :math:`g_{(1)} \le \dots \le g_{(k)}` the values of an element in ascending order. Yin et al. (2018),
    *Byzantine-robust distributed learning: towards optimal statistical rates*, https://arxiv.org/abs/1803.01498

    Added in float64, from the smallest, and rounded once. A NaN counts as plus infinity: up to f of NaN and infinity
    together are trimmed. A zero is +0.

    Parameters
    ----------
    gradients : list of k trees
        At least ``2 f + 1``.
    f : int
        How many values are left out at each end, in {0, 1, ...} with ``2 f < k``.
    out : tree, optional
        Written instead of new arrays.
    threads : int, optional
        At least 1; `schuss.get_num_threads` if not given.

    Returns
    -------
    tree
        The trimmed mean.

    Examples
    --------
    >>> schuss.aggregation.trimmed_mean([np.array([x]) for x in (1.0, 2.0, 6.0, 1e9, -1e9)], f=1)
    array([3.])
    """
    call = _Call("trimmed_mean", gradients, out, threads)
    _whole("aggregation.trimmed_mean: f", f, 0, (call.k - 1) // 2, f"2 f < k = {call.k}")
    call.stack.sorted_mean(f, call.k - f, call.threads)
    return call.result


def geometric_median(
    gradients: Sequence[Any],
    *,
    weights: Sequence[float] | None = None,
    iterations: int = 100,
    tolerance: float = 1e-4,
    smoothing: float = 1e-6,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    r"""Return the point with the least sum of distances to the gradients, each taken as one vector of all its tensors.

    .. math:: z = \arg\min_v \sum_i w_i \lVert v - g_i \rVert_2

    by the smoothed algorithm of Weiszfeld, from :math:`v = 0`:

    .. math:: \beta_i = \frac{w_i}{\max(\nu, \lVert v - g_i \rVert_2)}, \qquad
              v \leftarrow \sum_i \beta_i g_i \Big/ \sum_i \beta_i

    Pillutla, Kakade & Harchaoui (2022), *Robust aggregation for federated learning*, https://arxiv.org/abs/1912.13445

    Computed in float64 and rounded once, at the end. Stays near the honest gradients while these have more than half
    of the weight. A gradient with a NaN or an infinity, or one whose distance overflows, is infinitely far and has no
    weight; if all are, the result is NaN.

    Parameters
    ----------
    gradients : list of k trees
        At least one.
    weights : k numbers, optional
        Each in [0, inf), not all 0; equal if not given.
    iterations : int
        The most there are, each one pass over the gradients; in {1, 2, ...}.
    tolerance : float
        The iteration ends when no distance has changed by more than this part of itself; in [0, inf). (The sum of distances
        would not do: an outlier may be so far away that the others are lost in it.)
    smoothing : float
        The least distance that is divided by, nu; in (0, inf).
    out : tree, optional
        Written instead of new arrays.
    threads : int, optional
        At least 1; `schuss.get_num_threads` if not given.

    Returns
    -------
    tree
        The geometric median.

    Examples
    --------
    >>> square = [np.array(each) for each in ([1.0, 1.0], [3.0, 1.0], [1.0, 3.0], [3.0, 3.0])]
    >>> schuss.aggregation.geometric_median([*square, np.array([2.0, 2e6])]).round(2)
    array([2.  , 2.62])
    """
    call = _Call("geometric_median", gradients, out, threads)
    each = call.weights(weights)
    _whole("aggregation.geometric_median: iterations", iterations, 1)
    tolerance = float(_WEIGHT.check("aggregation.geometric_median: tolerance", tolerance))
    smoothing = float(_POSITIVE.check("aggregation.geometric_median: smoothing", smoothing))
    beta = _weiszfeld(
        lambda beta, total: call.stack.residuals(beta, total, call.threads), each, iterations, tolerance, smoothing
    )
    call.stack.combine(beta, _added(beta), call.threads)
    return call.result


def krum(gradients: Sequence[Any], f: int, *, m: int = 1, out: Any = None, threads: int | None = None) -> Any:
    r"""Return the gradient with the nearest neighbours (Krum), or the mean of the m best (multi-Krum).

    .. math:: s(i) = \sum_{i \to j} \lVert g_i - g_j \rVert_2^2

    over the :math:`k - f - 2` gradients nearest to :math:`g_i`, each taken as one vector of all its tensors. The
    gradients with the lowest scores are taken, of equal ones the first. Blanchard et al. (2017), *Machine learning
    with adversaries: Byzantine tolerant gradient descent*, https://arxiv.org/abs/1703.02757

    Distances and mean are computed in float64. A gradient with a NaN or an infinity, or one whose distances overflow,
    is infinitely far from all others, and is taken only where no other is left.

    Parameters
    ----------
    gradients : list of k trees
        At least ``2 f + 3``.
    f : int
        How many outliers are to be endured, in {0, 1, ...} with ``2 f + 2 < k``.
    m : int
        How many gradients the result is the mean of, in {1, ..., k}; of more than ``k - f`` some may be outliers.
    out : tree, optional
        Written instead of new arrays.
    threads : int, optional
        At least 1; `schuss.get_num_threads` if not given.

    Returns
    -------
    tree
        The gradient, or the mean.

    Examples
    --------
    >>> gradients = [np.array([x]) for x in (1.0, 1.25, 1.5, 2.5, 1e9)]
    >>> schuss.aggregation.krum(gradients, f=1)
    array([1.25])
    >>> schuss.aggregation.krum(gradients, f=1, m=3)
    array([1.25])
    """
    call = _Call("krum", gradients, out, threads)
    if call.k < 3:
        raise ValueError(f"aggregation.krum: gradients must be at least 3, got {call.k}; take the mean or the median")
    _whole("aggregation.krum: f", f, 0, (call.k - 3) // 2, f"2 f + 2 < k = {call.k}")
    _whole("aggregation.krum: m", m, 1, call.k)
    chosen = _nearest(call.stack.distances(call.threads), call.k, f, m)
    call.stack.combine(chosen, float(m), call.threads)
    return call.result


def sign_vote(
    gradients: Sequence[Any], *, weights: Sequence[float] | None = None, out: Any = None, threads: int | None = None
) -> Any:
    r"""Return the sign that the weighted majority has, element by element: 1, -1, or 0 where the votes are equal.

    .. math:: \operatorname{sign} \Big( \sum_i w_i \operatorname{sign}(g_i) \Big)

    Bernstein et al. (2018), *signSGD with majority vote is communication efficient and fault tolerant*,
    https://arxiv.org/abs/1810.05291

    Zeros and NaN do not vote; an infinity votes with its sign. Votes are counted in float64.

    Parameters
    ----------
    gradients : list of k trees
        At least one.
    weights : k numbers, optional
        Each in [0, inf), not all 0; equal if not given.
    out : tree, optional
        Written instead of new arrays.
    threads : int, optional
        At least 1; `schuss.get_num_threads` if not given.

    Returns
    -------
    tree
        The signs, in the gradients' dtypes.

    Examples
    --------
    >>> schuss.aggregation.sign_vote([np.array([1.0, -9.0]), np.array([2.0, 0.1]), np.array([-7.0, np.nan])])
    array([1., 0.])
    """
    call = _Call("sign_vote", gradients, out, threads)
    call.stack.vote(call.weights(weights), call.threads)
    return call.result


# ---- the same in NumPy ----------------------------------------------------------------------------------------------

Vectors = list[list[NDArray[np.float64]]]  # of each gradient, the numbers of each tensor


def reference(rule: Callable[..., Any], gradients: Sequence[Any], **arguments: Any) -> Any:
    """Return what a function of this module returns, computed by its formula in NumPy.

    Parameters
    ----------
    rule : function
        `mean`, `median`, `trimmed_mean`, `geometric_median`, `krum` or `sign_vote`.
    gradients : list of k trees
        As for the rule.
    **arguments
        The rule's own, by name; neither `out` nor `threads`.

    Examples
    --------
    >>> schuss.aggregation.reference(schuss.aggregation.median, [np.array([1.0]), np.array([5.0]), np.array([4.0])])
    array([4.])
    """
    name = getattr(rule, "__name__", "")
    if name not in _FORMULAS or globals()[name] is not rule:
        raise TypeError(
            f"aggregation.reference: rule must be a function of schuss.aggregation such as median, got {rule!r}"
        )
    call = _Call("reference", gradients, None, None)
    orders = [_order(array) for array in call.leaves]
    vectors = [
        [
            widened(_as_reals(np.asarray(a, order=order)), np.float64).reshape(-1)
            for a, order in zip(layer, orders, strict=True)
        ]
        for layer in call.layers
    ]
    with np.errstate(all="ignore"):
        found = _FORMULAS[name](vectors, **arguments)
        for array, values in zip(call.leaves, found, strict=True):
            reals = _as_reals(array)
            reals[...] = rounded(values, reals.dtype).reshape(reals.shape)
    return call.result


def _weights(vectors: Vectors, given: Sequence[float] | None) -> list[float]:
    return [1.0] * len(vectors) if given is None else [float(weight) for weight in given]


def _mean(vectors: Vectors, weights: Sequence[float] | None = None) -> list[NDArray[np.float64]]:
    each = _weights(vectors, weights)
    return _combined(vectors, each, _added(each))


def _combined(vectors: Vectors, weights: Sequence[float], total: float) -> list[NDArray[np.float64]]:
    """Return the weighted sums divided by `total`, without gradients of weight 0."""
    sums = [np.zeros_like(tensor) for tensor in vectors[0]]
    for vector, weight in zip(vectors, weights, strict=True):
        for sum_, g in zip(sums, vector, strict=True):
            if weight != 0:
                sum_ += weight * g
    return [sum_ / np.float64(total) for sum_ in sums]


def _sorted_mean(vectors: Vectors, begin: int, end: int) -> list[NDArray[np.float64]]:
    """Return the mean of places [begin, end) of the ascending order, a NaN as plus infinity."""
    means = []
    for tensors in zip(*vectors, strict=True):
        stack = np.stack(tensors)
        ordered = np.sort(np.where(np.isnan(stack), np.inf, stack), axis=0)
        sum_ = np.zeros_like(tensors[0])
        for row in ordered[begin:end]:
            sum_ += row
        means.append(sum_ / (end - begin))
    return means


def _median(vectors: Vectors) -> list[NDArray[np.float64]]:
    k = len(vectors)
    return _sorted_mean(vectors, (k - 1) // 2, k // 2 + 1)


def _trimmed_mean(vectors: Vectors, f: int) -> list[NDArray[np.float64]]:
    return _sorted_mean(vectors, f, len(vectors) - f)


def _squared_distance(a: list[NDArray[np.float64]], b: list[NDArray[np.float64]]) -> float:
    return _added(dot(x - y, x - y) for x, y in zip(a, b, strict=True))


def _geometric_median(
    vectors: Vectors,
    weights: Sequence[float] | None = None,
    iterations: int = 100,
    tolerance: float = 1e-4,
    smoothing: float = 1e-6,
) -> list[NDArray[np.float64]]:
    def residuals(beta: Sequence[float], total: float) -> list[float]:
        point = _combined(vectors, beta, total)
        return [_squared_distance(vector, point) for vector in vectors]

    each = _weights(vectors, weights)
    beta = _weiszfeld(residuals, each, iterations, tolerance, smoothing)
    return _combined(vectors, beta, _added(beta))


def _krum(vectors: Vectors, f: int, m: int = 1) -> list[NDArray[np.float64]]:
    distances = [_squared_distance(vectors[i], vectors[j]) for i in range(len(vectors)) for j in range(i)]
    return _combined(vectors, _nearest(distances, len(vectors), f, m), float(m))


def _sign_vote(vectors: Vectors, weights: Sequence[float] | None = None) -> list[NDArray[np.float64]]:
    each = _weights(vectors, weights)
    votes = [[np.nan_to_num(np.sign(g)) for g in vector] for vector in vectors]
    return [np.sign(sum_) for sum_ in _combined(votes, each, 1.0)]


_FORMULAS: dict[str, Callable[..., list[NDArray[np.float64]]]] = {
    "mean": _mean,
    "median": _median,
    "trimmed_mean": _trimmed_mean,
    "geometric_median": _geometric_median,
    "krum": _krum,
    "sign_vote": _sign_vote,
}


# ---- what compiled rules and formulas share -------------------------------------------------------------------------


def _weiszfeld(
    residuals: Callable[[Sequence[float], float], Sequence[float]],
    weights: Sequence[float],
    iterations: int,
    tolerance: float,
    smoothing: float,
) -> list[float]:
    """Return the weights of the gradients in their geometric median, not divided by their sum.

    `residuals(beta, total)` are the squared distances from the point ``sum(beta * g) / total``.
    """
    beta, total, before = [0.0] * len(weights), 1.0, [0.0] * len(weights)
    for _ in range(iterations):
        squares = residuals(beta, total)
        distances = [max(smoothing, math.sqrt(square)) if square < math.inf else math.inf for square in squares]
        beta = [weight / distance for weight, distance in zip(weights, distances, strict=True)]
        total = _added(beta)
        if all(new == old or abs(new - old) <= tolerance * old for new, old in zip(distances, before, strict=True)):
            break
        before = distances
    return beta


def _nearest(distances: Sequence[float], k: int, f: int, m: int) -> list[float]:
    """Return 1 for the m gradients that Krum chooses and 0 for the others, given the lower triangle of squared distances."""
    table = np.zeros((k, k))
    table[np.tril_indices(k, -1)] = distances
    table = np.where(np.isnan(table), np.inf, table)
    table += table.T
    np.fill_diagonal(table, -1.0)  # sorts first: not a neighbour of itself
    scores = np.cumsum(np.sort(table, axis=1)[:, 1 : k - f - 1], axis=1)[:, -1]
    chosen = np.zeros(k)
    chosen[np.argsort(scores, kind="stable")[:m]] = 1.0
    return [float(each) for each in chosen]


def _whole(who: str, value: object, lower: int, upper: int | None = None, because: str = "") -> None:
    """Refuse what is not a whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{who} must be a whole number, got {value!r}")
    if value < lower or (upper is not None and value > upper):
        last = "..." if upper is None else f"..., {upper}"
        raise ValueError(f"{who} must be in {{{lower}, {last}}}{because and f' ({because})'}, got {value}")


class _Call:
    """The arguments of a call, checked: the compiled stack of all arrays, and the tree of those that will be written."""

    def __init__(self, rule: str, gradients: Any, out: Any, threads: int | None) -> None:
        self.who = f"aggregation.{rule}"
        if not isinstance(gradients, list | tuple):
            raise TypeError(
                f"{self.who}: gradients must be a list of gradients, got {type(gradients).__name__}; pass one tree for each"
            )
        if not gradients:
            raise ValueError(f"{self.who}: gradients must be at least one, got none")
        self.k = len(gradients)
        self.threads = number_of_threads(self.who, threads)
        first = list(trees.leaves(gradients[0]))
        like = trees.structure(gradients[0])
        self.names = [f"gradients[{i}]" for i in range(self.k)]
        self.layers = [[np.asarray(a) if isinstance(a, np.generic) else a for _, a in first if a is not None]]
        for name, gradient in zip(self.names[1:], gradients[1:], strict=True):
            each = self._leaves(name, gradient, like, first)
            self.layers.append([np.asarray(a) if isinstance(a, np.generic) else a for a in each])
        self.leaves = [_empty_like(a) for a in self.layers[0]] if out is None else self._leaves("out", out, like, first)
        paths = [path for path, leaf in first if leaf is not None]
        self.stack = _core.Stack(self.who, self.names, "out", paths, self.layers, self.leaves)
        written = iter(self.leaves)
        every = (None if leaf is None else next(written) for _, leaf in first)
        self.result = trees.rebuild(gradients[0], every) if out is None else out

    def _leaves(self, name: str, tree: Any, like: trees.Structure, first: list[tuple[str, Any]]) -> list[Any]:
        """Return the leaves of a tree that are not None, in the order of those of the first gradient."""
        if trees.structure(tree) != like:
            raise ValueError(f"{self.who}: {name} has another nesting than gradients[0]; pass trees of one nesting")
        found = list(trees.matching_leaves(tree, like))
        for (path, leaf), each in zip(first, found, strict=True):
            if (leaf is None) != (each is None):
                none, other = (name, "gradients[0]") if each is None else ("gradients[0]", name)
                raise ValueError(
                    f"{self.who}: {none}{path} is None, but {other}{path} is not; pass None in all or none"
                )
        return [each for each in found if each is not None]

    def weights(self, given: Sequence[float] | None) -> list[float]:
        """Return one weight for each gradient."""
        if given is None:
            return [1.0] * self.k
        if not isinstance(given, list | tuple | np.ndarray) or len(given) != self.k:
            raise ValueError(f"{self.who}: weights must be {self.k} numbers, one for each gradient, got {given!r}")
        each = [float(_WEIGHT.check(f"{self.who}: weights[{i}]", weight)) for i, weight in enumerate(given)]
        if not 0 < (total := _added(each)) < math.inf:
            raise ValueError(f"{self.who}: weights must have a sum in (0, inf), got {total:g}")
        return each


def _order(array: NDArray[Any]) -> Literal["C", "F"]:
    """Return the order in which an array's elements are numbered."""
    return "F" if memory.is_fortran(array) else "C"


def _empty_like(array: Any) -> Any:
    """Return a new array of the same shape, dtype and, where it is contiguous, memory order."""
    if not isinstance(array, np.ndarray):
        return array  # to be refused
    return np.empty(array.shape, array.dtype, order=_order(array))
