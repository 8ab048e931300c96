"""QK-clip: query and key weights scaled down where attention logits have grown too large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss._runtime import held
from schuss.hyperparameters import Domain

_THRESHOLD = Domain(0.0, lower_open=True)
_BALANCE = Domain(0.0, 1.0, upper_open=False)
_HEADS = Domain(1.0, whole=True)
_ROTARY = Domain(0.0, whole=True)


def qk_clip(
    query: NDArray[Any],
    key: NDArray[Any],
    max_logits: float | Sequence[float] | NDArray[Any],
    *,
    threshold: float = 100.0,
    balance: float = 0.5,
    heads: int | None = None,
    rotary: int = 0,
) -> NDArray[np.float64]:
    r"""Scale the weights of queries and keys in place so that no head's attention logits are above a threshold.

    .. math::
        \gamma_h = \min(1, \tau / S_h), \qquad
        W^q_h \leftarrow \gamma_h^{\alpha} W^q_h, \qquad
        W^k_h \leftarrow \gamma_h^{1 - \alpha} W^k_h

    where :math:`S_h` is the largest logit of head h in the last batch: it becomes :math:`\tau` at most. Done after the step
    of any optimizer; MuonClip is this after Muon. Kimi Team (2025), *Kimi K2: open agentic intelligence*, Algorithm 1,
    https://arxiv.org/abs/2507.20534

    Where several query heads share a key head (grouped queries), all of a group have the factor of its largest logit, because
    the key is scaled for all of them.

    Parameters
    ----------
    query : array, shape (heads * d, inputs), (heads * d,) or (heads, d, inputs)
        Weights, or a bias, of float16, float32 or float64 with any strides. The rows of a head stand together.
    key : array, shape (key heads * d', inputs), (key heads * d',) or (key heads, d', inputs)
        The same of the keys, without the rows of a rotary key that heads share, which is never scaled. The number of key heads
        divides that of the query heads.
    max_logits : float or array, shape (heads,)
        The largest logit of each head before the softmax, finite; one number counts for all heads.
    threshold : float
        The largest logit allowed, in (0, inf).
    balance : float
        How much of the factor the queries take, in [0, 1].
    heads : int, optional
        The number of query heads; that of `max_logits` if not given.
    rotary : int
        How many of the last rows of each query head meet a rotary key that the heads share (multi-head latent attention),
        less than d. These take the whole factor, because that key takes none.

    Returns
    -------
    array, shape (heads,), float64
        The factors.

    Examples
    --------
    >>> query, key = np.ones((2, 3)), np.ones((2, 3))  # two heads of one row each
    >>> schuss.qk_clip(query, key, [50.0, 400.0])
    array([1.  , 0.25])
    >>> query
    array([[1. , 1. , 1. ],
           [0.5, 0.5, 0.5]])
    """
    who = "qk_clip"
    threshold = float(_THRESHOLD.check(f"{who}: threshold", threshold))
    balance = float(_BALANCE.check(f"{who}: balance", balance))
    factors = _factors(who, max_logits, heads, threshold)
    n = len(factors)
    _check(who, "query", query)
    _check(who, "key", key)
    d = query.shape[1] if query.ndim == 3 else len(query) // n
    if (query.ndim == 3 and len(query) != n) or (query.ndim < 3 and len(query) != n * d) or d == 0:
        raise ValueError(f"{who}: query has shape {query.shape}, which is not {n} heads of as many rows")
    rotary = int(_ROTARY.check(f"{who}: rotary", rotary, "a whole number"))
    if rotary >= d:
        raise ValueError(f"{who}: rotary must be less than {d}, the rows of a query head, got {rotary}")
    rows = d - rotary
    key_heads = len(key) if key.ndim == 3 else len(key) // rows
    if key_heads == 0 or n % key_heads or (key.shape[1] != rows if key.ndim == 3 else len(key) != key_heads * rows):
        raise ValueError(
            f"{who}: key has shape {key.shape}, which is not heads of {rows} rows in a number that divides {n}; pass the rows "
            "of the keys alone"
        )
    if np.shares_memory(query, key):
        raise ValueError(f"{who}: query and key share memory; pass arrays that do not overlap")
    # Views: one axis is split.
    queries = query if query.ndim == 3 else query.reshape(n, d, *query.shape[1:])
    keys = key if key.ndim == 3 else key.reshape(key_heads, rows, *key.shape[1:])
    group = n // key_heads
    factors = np.repeat(factors.reshape(-1, group).min(axis=1), group)
    with held:
        for h in np.flatnonzero(factors < 1):
            factor = float(factors[h])
            queries[h, : d - rotary] *= factor**balance
            queries[h, d - rotary :] *= factor
            if h % group == 0:
                keys[h // group] *= factor ** (1 - balance)
    return factors


def _factors(who: str, max_logits: Any, heads: int | None, threshold: float) -> NDArray[np.float64]:
    """Return the factor of each head."""
    count = None if heads is None else int(_HEADS.check(f"{who}: heads", heads, "a whole number"))
    try:
        logits = np.asarray(max_logits, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{who}: max_logits must be a number or one for each head, got {max_logits!r}") from None
    if logits.ndim == 0 and count is not None:
        logits = np.full(count, logits)
    if logits.ndim != 1 or logits.size == 0 or logits.size != (count or logits.size):
        wanted = (
            "one number for each head, or one with heads=" if count is None else f"{count} numbers, one for each head"
        )
        raise ValueError(f"{who}: max_logits must be {wanted}, got shape {logits.shape}")
    if not np.isfinite(logits).all():
        raise ValueError(
            f"{who}: max_logits must be finite, got {logits[~np.isfinite(logits)][0]:g}; skip this step's clip"
        )
    return threshold / np.maximum(logits, threshold)


def _check(who: str, name: str, weight: object) -> None:
    """Refuse what is no array of weights that can be written."""
    if not isinstance(weight, np.ndarray):
        raise TypeError(f"{who}: {name} is a {type(weight).__name__}, not a NumPy array; pass numpy.asarray of it")
    if weight.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"{who}: {name} must be of float16, float32 or float64, got {weight.dtype}")
    if weight.ndim not in (1, 2, 3):
        raise ValueError(
            f"{who}: {name} must have shape (heads * d, inputs), (heads * d,) or (heads, d, inputs), got {weight.shape}"
        )
    if not weight.flags.writeable:
        raise ValueError(f"{who}: {name} is read-only; pass an array that can be written")
