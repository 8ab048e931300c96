"""Dense linear algebra of matrix optimizers: NumPy's BLAS and LAPACK in float32 and float64, with buffers used again.

Everything takes matrices, or batches of them in the last two axes, and computes in their own dtype. Equality with other
implementations is a tolerance, because a BLAS adds in an order of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from schuss.hyperparameters import Domain, as_float

__all__ = [
    "COEFFICIENTS",
    "eigenbasis",
    "inverse_root",
    "lmo",
    "orthogonalize",
    "refreshed_basis",
    "solve_triangular",
]

Array: TypeAlias = NDArray[Any]
#: The coefficients of one odd polynomial, a x + b x^3 + c x^5.
Triple: TypeAlias = tuple[float, float, float]
Form: TypeAlias = Literal["auto", "plain", "gram"]
Norm: TypeAlias = Literal["auto", "spectral", "spectral_conv", "sign", "column", "row", "bias_rms"]

T = TypeVar("T", bound=np.floating[Any])

#: The polynomials of each step, by the name of the schedule; further steps repeat the last.
COEFFICIENTS: Mapping[str, tuple[Triple, ...]] = MappingProxyType(
    {
        # Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/
        "jordan": ((3.4445, -4.7750, 2.0315),) * 5,
        # Cesista, You & Jordan (2025), https://leloykun.github.io/ponder/muon-opt-coeffs/
        "quintic": (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        # Amsel et al. (2025), https://arxiv.org/abs/2505.16932: singular values from 1e-3, safety 1e-2, cushion 0.02
        "polar_express": (
            (8.237312490495555, -23.157747414558198, 16.680568411445915),
            (4.082441999064835, -2.893047735332586, 0.5252849256975648),
            (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
            (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
            (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
            (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
            (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
            (1.875, -1.25, 0.375),
        ),
        # The same with safety 2e-2, for 5 steps
        "polar_express_5": (
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ),
        "exact": ((2.0, -1.5, 0.5),) * 12,
    }
)
#: What the norm is multiplied by, so that rounding leaves no singular value above 1: as the authors' code has it.
_SAFETY = {"polar_express": 1.01, "polar_express_5": 1.02}

_EPS = Domain(0.0, lower_open=True)
_SHIFT = Domain(0.0)
_STEPS = Domain(1.0, whole=True)
_REAL = Domain(lower_open=True)

#: Columns that a square buffer has beside its own. NumPy computes one triangle of ``x @ x.T`` and copies it into the other:
#: with rows of 2048 floats side by side, all of a column in one set of the cache, this took half of the time.
_PAD = 16
#: Elements in a group of small matrices that are worked on together: 256 kB of float32.
_GROUP = 1 << 16


def orthogonalize(
    x: NDArray[T],
    *,
    coefficients: str | Sequence[Sequence[float]] = "quintic",
    steps: int | None = None,
    form: Form = "auto",
    eps: float = 1e-7,
    out: NDArray[T] | None = None,
) -> NDArray[T]:
    r"""Return the nearly orthogonal matrix that Newton-Schulz iterations make of a matrix, near its polar factor.

    With :math:`x = U \Sigma V^\top` it is :math:`U p(\Sigma) V^\top`, where p, a chain of odd polynomials, takes every
    singular value that is not too small near 1:

    .. math::
        X_0 = \frac{x}{\max(s \lVert x \rVert_F, \epsilon)}, \qquad
        X_{k + 1} = a_k X_k + b_k (X_k X_k^\top) X_k + c_k (X_k X_k^\top)^2 X_k

    Jordan et al. (2024), *Muon*, https://kellerjordan.github.io/posts/muon/; Amsel et al. (2025), *The Polar Express*,
    https://arxiv.org/abs/2505.16932

    Parameters
    ----------
    x : array, shape (..., m, n), float32 or float64
        Matrices, with any strides. Rows and columns may be any number: the products are those on the shorter side.
    coefficients : str or sequence of triples
        A schedule of `COEFFICIENTS` or (a, b, c) of each step. Where singular values of 1e-2 to 1 times the norm go, and what
        those of 1e-3 still reach: "jordan", 5 steps, [0.68, 1.14], 0.47; "quintic", 5 steps, [0.97, 1.04], 0.47;
        "polar_express_5", 5 steps, s = 1.02, [0.85, 1.15], 0.84; "polar_express", 8 steps, s = 1.01, and "exact", 12 steps, 1
        but for rounding. s is 1 elsewhere.
    steps : int, optional
        In {1, 2, ...}; the schedule's own number if not given. Beyond that its last triple is repeated.
    form : {"auto", "plain", "gram"}
        "gram" iterates on :math:`X X^\top` and multiplies x after two steps and at the end, which is less work for matrices
        that are far from square; "auto" chooses by shape.
    eps : float
        The least norm that is divided by, in (0, inf): a matrix of zeros stays one.
    out : array, optional
        Written instead of a new array: of x's shape and dtype; may be x.

    Returns
    -------
    array
        NaN throughout a matrix that holds NaN or infinity.

    Examples
    --------
    >>> x = np.array([[3.0, 0.0, 4.0], [0.0, 0.5, 0.0]])
    >>> schuss.linalg.orthogonalize(x, coefficients="exact").round(6)
    array([[0.6, 0. , 0.8],
           [0. , 1. , 0. ]])
    >>> schuss.linalg.orthogonalize(x).round(2)
    array([[0.6 , 0.  , 0.8 ],
           [0.  , 1.02, 0.  ]])
    """
    who = "linalg.orthogonalize"
    _check_matrices(who, "x", x)
    safety, triples = polynomials(who, coefficients, steps)
    if form not in ("auto", "plain", "gram"):
        raise ValueError(f"{who}: form must be 'auto', 'plain' or 'gram', got {form!r}")
    eps = float(_EPS.check(f"{who}: eps", eps))
    result = _result(who, x, out)
    if x.size == 0:
        return result
    m, n = x.shape[-2:]
    gram = form == "gram" or (form == "auto" and max(m, n) >= _GRAM_FROM * min(m, n) and len(triples) > 1)
    # Columns that lie side by side are rows of the transposed matrix.
    turned = result.ndim == 2 and not result.flags.c_contiguous and result.flags.f_contiguous
    source, target = (x.T, result.T) if turned else (x, result)
    if np.may_share_memory(source, target) and (source.ctypes.data, source.strides) != (
        target.ctypes.data,
        target.strides,
    ):
        source = source.copy()  # or one matrix would be written before another is read
    with np.errstate(all="ignore"):
        iteration = _Iteration(target.shape, target.dtype, triples, gram)
        for each, into in zip(_groups(source), _groups(target), strict=True):
            iteration.run(each, into, safety, eps)
    return result


#: The Gram form is taken where the longer side is this many times the shorter one. With the quintic schedule, float32 and 2
#: threads it took 0.95 of the plain form's time at 512 x 1024, 0.8 to 0.96 at 1024 x 2048, 0.75 at 1024 x 3072, and 1.05 to
#: 1.2 at 1.5 times and below.
_GRAM_FROM = 2.0


def polynomials(who: str, coefficients: object, steps: object = None) -> tuple[float, tuple[Triple, ...]]:
    """Return a schedule's safety factor and the triple of each step, or raise a sentence that starts with `who`."""
    safety = 1.0
    if isinstance(coefficients, str):
        if coefficients not in COEFFICIENTS:
            names = ", ".join(map(repr, COEFFICIENTS))
            raise ValueError(f"{who}: coefficients must be one of {names} or triples (a, b, c), got {coefficients!r}")
        triples = COEFFICIENTS[coefficients]
        safety = _SAFETY.get(coefficients, 1.0)
    else:
        triples = tuple(_triples(who, coefficients))
    count = len(triples) if steps is None else int(_STEPS.check(f"{who}: steps", steps, "a whole number"))
    return safety, triples[:count] + triples[-1:] * (count - len(triples))


def _triples(who: str, coefficients: object) -> Iterator[Triple]:
    given = list(coefficients) if isinstance(coefficients, Sequence | np.ndarray) else []
    for triple in given:
        numbers = [as_float(each) for each in triple] if isinstance(triple, Sequence | np.ndarray) else []
        if len(numbers) != 3 or any(each is None or each not in _REAL for each in numbers):
            raise ValueError(f"{who}: coefficients must be triples (a, b, c) of finite numbers, got {triple!r}")
        a, b, c = (float(each) for each in numbers if each is not None)
        yield a, b, c
    if not given:
        raise ValueError(f"{who}: coefficients must be a name or at least one triple (a, b, c), got {coefficients!r}")


class _Iteration:
    """The polynomials of all steps, applied to groups of matrices of one shape in the same buffers."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], triples: Sequence[Triple], gram: bool) -> None:
        *_, m, n = shape
        batch = _group_size(shape) if len(shape) > 2 else 1
        self.triples, self.gram, self.wide = triples, gram, m <= n
        self.matrix = np.empty((batch, m, n), dtype)
        self.other = np.empty(0, dtype)
        short = min(m, n)
        self.square = [np.zeros((batch, short, short + _PAD), dtype)[..., :short] for _ in range(4 if gram else 2)]

    def run(self, x: Array, out: Array, safety: float, eps: float) -> None:
        """Orthogonalise matrices (batch, m, n) into others, which may be the same."""
        batch = len(x)
        own = self.matrix[:batch]
        if out.flags.c_contiguous and out.flags.aligned:
            last = out
        else:
            if self.other.size == 0:
                self.other = np.empty_like(self.matrix)
            last = self.other[:batch]
        products = (len(self.triples) + 5) // 4 if self.gram else len(self.triples)
        first, second = (own, last) if products % 2 else (last, own)
        np.copyto(first, x)
        divisors = np.maximum(safety * _norms(first), eps)
        within = (divisors > np.finfo(first.dtype).tiny) & (divisors < np.finfo(first.dtype).max)
        first /= divisors.astype(first.dtype) if within.all() else divisors
        squares = [each[:batch] for each in self.square]
        (self._gram if self.gram else self._plain)(first, second, squares)
        if last is not out:
            np.copyto(out, last)

    def _plain(self, x: Array, other: Array, squares: list[Array]) -> None:
        r, p = squares
        for triple in self.triples:
            _polynomial(self._products(x, r), triple, p)
            x, other = self._applied(p, x, other), x

    def _gram(self, x: Array, other: Array, free: list[Array]) -> None:
        """Do all steps on the shorter side: a step is a polynomial P of R = X X^T; X becomes P X and R becomes P R P.

        Now and then X itself is computed, and R from it: first after two steps, because rounding errors relative to the
        largest eigenvalue of R are large ones of the small eigenvalues, which the steps enlarge; then every four, because the
        errors of R and X part (12 exact steps in float32 from condition 1e4 were 6e-4 off without, 1e-5 with it).
        """
        r, p, total, new = free
        last = len(self.triples) - 1
        for i, triple in enumerate(self.triples):
            fresh = i == 0 or i % 4 == 2
            if fresh and i > 0:
                x, other = self._applied(total, x, other), x
            if fresh:
                self._products(x, r)
            _polynomial(r, triple, p)
            if fresh:
                np.copyto(total, p)
            else:
                np.matmul(p, total, out=new)
                total, new = new, total
            if i % 4 != 1 and i < last:
                np.matmul(p, p.mT, out=new)
                np.matmul(r, new, out=p)
                r, p = p, r
        self._applied(total, x, other)

    def _products(self, x: Array, out: Array) -> Array:
        """Return all products of two rows, or of two columns, where these are fewer. NumPy takes the BLAS's syrk."""
        return np.matmul(x, x.mT, out=out) if self.wide else np.matmul(x.mT, x, out=out)

    def _applied(self, p: Array, x: Array, out: Array) -> Array:
        return np.matmul(p, x, out=out) if self.wide else np.matmul(x, p, out=out)


def _polynomial(r: Array, triple: Triple, out: Array) -> Array:
    """Return a I + b R + c R^2 of a symmetric R."""
    a, b, c = triple
    if abs(b) <= 64 * abs(c):  # beyond that the square would cancel too many digits
        # c (R + b / 2c)^2 + a - b^2 / 4c, where the square is a product with the transpose, half of the work.
        diagonal = _diagonal(r)
        before = diagonal.copy()
        diagonal += b / (2 * c)
        np.matmul(r, r.mT, out=out)
        diagonal[...] = before
        out *= c
        a -= b * b / (4 * c)
    else:
        np.multiply(r, b, out=out)
        if c != 0:
            out += c * np.matmul(r, r.mT)
    diagonal = _diagonal(out)
    diagonal += a
    return out


def inverse_root(a: NDArray[T], order: float, *, eps: float = 1e-12, exponent: float | None = None) -> NDArray[T]:
    r"""Return the inverse root of symmetric positive semidefinite matrices, by their eigenvalues.

    .. math:: A^{-1/r} = Q \operatorname{diag} \big( (\lambda_i - \min(\lambda_{\min}, 0) + \epsilon)^{-1/r} \big) Q^\top

    for :math:`A = Q \operatorname{diag}(\lambda) Q^\top`, where rounding may have made eigenvalues negative. Shi et al. (2023),
    *A distributed data-parallel PyTorch implementation of the distributed Shampoo optimizer*, section 3.2,
    https://arxiv.org/abs/2309.06497

    Parameters
    ----------
    a : array, shape (..., n, n), float32 or float64
        The lower triangle is read. If LAPACK does not find the eigenvalues in float32, they are computed in float64.
    order : float
        r, in (0, inf).
    eps : float
        What is added to every eigenvalue, in [0, inf).
    exponent : float, optional
        Taken instead of 1 / r, in (0, inf).

    Returns
    -------
    array
        Exactly symmetric.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a is not finite, the eigenvalues are not found, or the root is not finite; an older root stays usable.

    Examples
    --------
    >>> schuss.linalg.inverse_root(np.array([[2.5, 1.5], [1.5, 2.5]]), 2).round(6)
    array([[ 0.75, -0.25],
           [-0.25,  0.75]])
    """
    who = "linalg.inverse_root"
    _check_matrices(who, "a", a, square=True)
    order = float(_EPS.check(f"{who}: order", order))
    power = 1 / order if exponent is None else float(_EPS.check(f"{who}: exponent", exponent))
    eps = float(_SHIFT.check(f"{who}: eps", eps))
    values, vectors = _eigh(who, a)
    shift = eps - np.minimum(values.min(axis=-1, keepdims=True, initial=0), 0)
    with np.errstate(all="ignore"):
        half = vectors * (((values + shift) ** (-power / 2)).astype(values.dtype))[..., None, :]
        root = np.matmul(half, half.mT)
    if not np.isfinite(root).all():
        raise np.linalg.LinAlgError(f"{who}: the root is not finite; raise eps")
    found: NDArray[T] = root.astype(a.dtype, copy=False)
    return found


def eigenbasis(a: NDArray[T]) -> NDArray[T]:
    """Return the eigenvectors of symmetric matrices as columns, in descending order of the eigenvalues.

    Parameters
    ----------
    a : array, shape (..., n, n), float32 or float64
        The lower triangle is read. If LAPACK does not find the eigenvectors in float32, they are computed in float64.

    Returns
    -------
    array
        Orthogonal matrices. Signs, and the basis where eigenvalues are equal, are LAPACK's.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a is not finite or the eigenvectors are not found.

    Examples
    --------
    >>> abs(schuss.linalg.eigenbasis(np.diag([1.0, 3.0, 2.0])))
    array([[0., 0., 1.],
           [1., 0., 0.],
           [0., 1., 0.]])
    """
    who = "linalg.eigenbasis"
    _check_matrices(who, "a", a, square=True)
    _, vectors = _eigh(who, a)
    return np.ascontiguousarray(vectors[..., ::-1], a.dtype)


def refreshed_basis(a: NDArray[T], q: NDArray[T]) -> tuple[NDArray[T], NDArray[np.intp]]:
    r"""Return a basis nearer to the eigenvectors of symmetric matrices, by one step of orthogonal iteration.

    .. math:: \pi = \operatorname{argsort} \operatorname{diag}(Q^\top A Q) \text{, descending}, \qquad
              Q' R = A Q_{:, \pi}

    Vyas et al. (2025), *SOAP: improving and stabilizing Shampoo using Adam*, Algorithm 4, https://arxiv.org/abs/2409.11321

    Parameters
    ----------
    a : array, shape (..., n, n), float32 or float64
        Symmetric matrices.
    q : array, shape (..., n, n), of a's dtype
        The basis so far, as columns, such as `eigenbasis` of an earlier a.

    Returns
    -------
    basis : array
        Orthogonal matrices.
    order : array of int, shape (..., n)
        The permutation: column j of the new basis follows from column ``order[j]`` of the old one, so that what is kept along
        an axis of the old basis has to be taken in this order.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a or q is not finite.

    Examples
    --------
    >>> basis, order = schuss.linalg.refreshed_basis(np.diag([1.0, 3.0]), np.eye(2))
    >>> abs(basis), order
    (array([[0., 1.],
           [1., 0.]]), array([1, 0]))
    """
    who = "linalg.refreshed_basis"
    _check_matrices(who, "a", a, square=True)
    _check_matrices(who, "q", q, square=True)
    if q.shape != a.shape or q.dtype != a.dtype:
        raise ValueError(
            f"{who}: q has shape {q.shape} and dtype {q.dtype}, but a has {a.shape} and {a.dtype}; pass arrays alike"
        )
    with np.errstate(all="ignore"):
        image = np.matmul(a, q)
        along = np.einsum("...ij,...ij->...j", q, image)
    if not np.isfinite(image).all():
        raise np.linalg.LinAlgError(f"{who}: a or q is not finite; keep the basis")
    order = np.argsort(-along, axis=-1, kind="stable")
    basis, _ = np.linalg.qr(np.take_along_axis(image, order[..., None, :], axis=-1))
    return basis, order


def solve_triangular(t: NDArray[T], b: NDArray[T], *, right: bool = False) -> NDArray[T]:
    """Return the solution of ``t @ x = b``, or of ``x @ t = b``, for an upper triangular t.

    SciPy's where it is installed; else NumPy's solver of all matrices, which takes about n / columns of b times as long.

    Parameters
    ----------
    t : array, shape (n, n), float32 or float64
        What is below the diagonal is not read.
    b : array, shape (n, k), or (k, n) if `right`, of t's dtype
        The right-hand sides.
    right : bool
        Whether t stands at the right of x.

    Raises
    ------
    numpy.linalg.LinAlgError
        If there is a zero on the diagonal.

    Examples
    --------
    >>> t = np.array([[2.0, 1.0], [0.0, 4.0]])
    >>> schuss.linalg.solve_triangular(t, np.array([[4.0], [8.0]]))
    array([[1.],
           [2.]])
    >>> schuss.linalg.solve_triangular(t, np.array([[2.0, 9.0]]), right=True)
    array([[1., 2.]])
    """
    who = "linalg.solve_triangular"
    for name, each in (("t", t), ("b", b)):
        _check_matrices(who, name, each, square=name == "t")
    if t.ndim != 2 or b.ndim != 2 or b.shape[1 if right else 0] != len(t) or b.dtype != t.dtype:
        wanted = f"(k, {len(t)})" if right else f"({len(t)}, k)"
        raise ValueError(
            f"{who}: t and b have shapes {t.shape} and {b.shape} and dtypes {t.dtype} and {b.dtype}; pass (n, n) and "
            f"{wanted} of one dtype"
        )
    try:
        from scipy.linalg import solve_triangular as solve
    except ImportError:
        upper = np.triu(t)
        return np.linalg.solve(upper.T, b.T).T if right else np.linalg.solve(upper, b)
    found: NDArray[T] = solve(t, b.T if right else b, trans=int(right), check_finite=False)
    return found.T if right else found


def lmo(
    m: NDArray[T],
    norm: Norm = "auto",
    *,
    normalized: bool | None = None,
    at_least_one: bool = False,
    transposed: bool = False,
    coefficients: str | Sequence[Sequence[float]] = "jordan",
    steps: int | None = None,
    out: NDArray[T] | None = None,
) -> NDArray[T]:
    r"""Return the direction of steepest descent under a norm: the negative of its linear minimisation oracle.

    .. math:: \arg\max_{\lVert u \rVert \le 1} \langle m, u \rangle

    so that a step is ``p -= lr * lmo(m)``. With rows of m as outputs, o of them, and columns as inputs, i of them:

    .. math::
        \text{spectral:} \quad & \sqrt{o / i} \; U V^\top \text{ of } m = U \Sigma V^\top, \text{ by } \texttt{orthogonalize} \\
        \text{spectral\_conv:} \quad & \sqrt{o / i} \; U V^\top / k \text{ of the flattened kernels, of k places each} \\
        \text{sign:} \quad & \operatorname{sign}(m) / i \\
        \text{column:} \quad & m_{:, j} / \operatorname{RMS}(m_{:, j}) \\
        \text{row:} \quad & m_{j, :} / (\sqrt i \, \lVert m_{j, :} \rVert_2) \\
        \text{bias\_rms:} \quad & m / \operatorname{RMS}(m)

    Pethick et al. (2025), *Training deep learning models with norm-constrained LMOs*, https://arxiv.org/abs/2502.07529

    Parameters
    ----------
    m : array, float32 or float64
        A gradient or its running mean: matrices, but kernels (o, i, ...) for "spectral_conv", and a vector or number for
        "bias_rms".
    norm : str
        One of those above, or "auto": "bias_rms" up to 1 axis, "spectral" with 2, "spectral_conv" with more.
    normalized : bool, optional
        Whether the number of inputs counts. Without it: "spectral" has :math:`\sqrt o`, "sign" and "row" have no i; with it:
        "column" is divided by i. True if not given, but False for "column".
    at_least_one : bool
        Take a factor of at least 1 in "spectral", `max` in the authors' code.
    transposed : bool
        Take rows as inputs in "column" and "row": an embedding of shape (words, features).
    coefficients : str or sequence of triples
        See `orthogonalize`.
    steps : int, optional
        See `orthogonalize`.
    out : array, optional
        Written instead of a new array: of m's shape and dtype; may be m.

    Examples
    --------
    >>> schuss.linalg.lmo(np.array([[3.0, -4.0], [0.0, 2.0]]), "row").round(3)
    array([[ 0.424, -0.566],
           [ 0.   ,  0.707]])
    >>> schuss.linalg.lmo(np.array([[3.0, -4.0]]), "sign")
    array([[ 0.5, -0.5]])
    """
    who = "linalg.lmo"
    if not isinstance(m, np.ndarray):
        raise TypeError(f"{who}: m is a {type(m).__name__}, not a NumPy array; pass numpy.asarray of it")
    _check_dtype(who, "m", m)
    if norm not in _AXES and norm != "auto":
        raise ValueError(f"{who}: norm must be one of {', '.join(map(repr, ['auto', *_AXES]))}, got {norm!r}")
    chosen = ("bias_rms", "bias_rms", "spectral", "spectral_conv")[min(m.ndim, 3)] if norm == "auto" else norm
    least, most, axes = _AXES[chosen]
    if not least <= m.ndim <= most:
        raise ValueError(f"{who}: m must have {axes} for {chosen!r}, got shape {m.shape}")
    normal = chosen != "column" if normalized is None else normalized
    polynomials(who, coefficients, steps)
    result = _result(who, m, out)
    if m.size == 0:
        return result
    with np.errstate(all="ignore"):
        if chosen in ("spectral", "spectral_conv"):
            direction = orthogonalize(m.reshape(len(m), -1), coefficients=coefficients, steps=steps)
            factor = math.sqrt(len(m) / (m.shape[1] if normal else 1)) / math.prod(m.shape[2:])
            np.multiply(direction.reshape(m.shape), max(1.0, factor) if at_least_one else factor, out=result)
        elif chosen == "sign":
            np.sign(m, out=result)
            result /= m.shape[1] if normal else 1
        else:
            x, into = (m.T, result.T) if transposed else (m, result)
            subscripts = {"column": "ij,ij->j", "row": "ij,ij->i"}.get(chosen, "i,i->")
            operand = x if x.ndim == 2 else x.reshape(-1)
            lengths = np.sqrt(np.einsum(subscripts, operand, operand, dtype=np.float64))
            if chosen == "row":
                lengths = lengths[:, None] * math.sqrt(x.shape[1] if normal else 1)
            else:
                lengths = lengths * ((x.shape[1] if normal and chosen == "column" else 1) / math.sqrt(len(operand)))
            np.divide(x, (lengths + _FLOOR).astype(x.dtype), out=into)
    return result


#: The axes that each norm is of, and how a sentence calls them.
_AXES: dict[str, tuple[float, float, str]] = {
    "spectral": (2, 2, "2 axes"),
    "spectral_conv": (3, math.inf, "at least 3 axes"),
    "sign": (2, 2, "2 axes"),
    "column": (2, 2, "2 axes"),
    "row": (2, 2, "2 axes"),
    "bias_rms": (0, 1, "at most 1 axis"),
}
#: Added to a length that is divided by: the authors' own.
_FLOOR = 1e-8


def _eigh(who: str, a: Array) -> tuple[Array, Array]:
    """Return eigenvalues in ascending order and eigenvectors, in float64 where they are not found in float32."""
    if not np.isfinite(a).all():
        raise np.linalg.LinAlgError(f"{who}: a is not finite; keep what an earlier one gave")
    try:
        values, vectors = np.linalg.eigh(a)
    except np.linalg.LinAlgError:
        if a.dtype == np.float64:
            raise
        values, vectors = np.linalg.eigh(a.astype(np.float64))
    return values, vectors


def _diagonal(square: Array) -> Array:
    """Return the diagonals as an array that can be written."""
    diagonal: Array = np.einsum("...ii->...i", square)
    return diagonal


def _norms(x: Array) -> NDArray[np.float64]:
    """Return the Frobenius norm of each of (batch, m, n), where its square overflows or underflows as well."""
    flat = x.reshape(len(x), -1)
    norms: NDArray[np.float64] = np.sqrt(np.vecdot(flat, flat), dtype=np.float64)
    for i in np.flatnonzero(~((norms > 1e-15) & (norms < np.inf))):
        largest = float(np.abs(flat[i]).max())
        if largest > 0:
            scaled = flat[i].astype(np.float64) / largest
            norms[i] = largest * math.sqrt(np.vecdot(scaled, scaled))
    return norms[:, None, None]


def _group_size(shape: tuple[int, ...]) -> int:
    """Return how many matrices of a batch are worked on together."""
    return min(math.prod(shape[:-2]), max(1, _GROUP // (shape[-2] * shape[-1])))


def _groups(x: Array) -> Iterator[Array]:
    """Yield matrices as (batch, m, n), each time no more of them than stay in the cache."""
    if x.ndim == 2:
        yield x[None]
    elif x.ndim == 3:
        size = _group_size(x.shape)
        yield from (x[i : i + size] for i in range(0, len(x), size))
    else:
        for each in x:
            yield from _groups(each)


def _check_matrices(who: str, name: str, x: object, *, square: bool = False) -> None:
    """Refuse what is no float32 or float64 array with at least two axes."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{who}: {name} is a {type(x).__name__}, not a NumPy array; pass numpy.asarray of it")
    _check_dtype(who, name, x)
    if x.ndim < 2 or (square and x.shape[-1] != x.shape[-2]):
        wanted = "(..., n, n)" if square else "(..., m, n)"
        raise ValueError(f"{who}: {name} must have shape {wanted}, got {x.shape}")


def _check_dtype(who: str, name: str, x: Array) -> None:
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"{who}: {name} must be of float32 or float64, got {x.dtype}; convert it")


def _result(who: str, x: NDArray[T], out: NDArray[T] | None) -> NDArray[T]:
    """Return the array that is written: a new one, or `out` if it is like x."""
    if out is None:
        return np.empty_like(x, subok=False)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{who}: out is a {type(out).__name__}, not a NumPy array")
    if out.shape != x.shape or out.dtype != x.dtype:
        raise ValueError(
            f"{who}: out has shape {out.shape} and dtype {out.dtype}, but {x.shape} and {x.dtype} are needed; pass an "
            "array of these"
        )
    if not out.flags.writeable:
        raise ValueError(f"{who}: out is read-only; pass an array that can be written")
    return out
