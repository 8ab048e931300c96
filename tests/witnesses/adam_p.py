"""AdamP: pytorch_optimizer scales eps with the root of the second bias correction; a script has the authors' form."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from witnesses import Witness, from_script, from_torch


def projection(
    p: NDArray[Any], g: NDArray[Any], u: NDArray[Any], *, delta: float, wd_ratio: float, eps: float
) -> tuple[NDArray[Any], float]:
    """Return the step without what is along the weights, in rows or as a whole, and the factor of the decay."""
    if p.ndim > 1:
        for shape in ((len(p), -1), (1, -1)):
            weights, gradients, steps = p.reshape(shape), g.reshape(shape), u.reshape(shape)
            lengths = [np.maximum(np.linalg.norm(a, axis=1), eps) for a in (weights, gradients)]
            cosines = np.abs(np.einsum("ij,ij->i", weights, gradients)) / lengths[0] / lengths[1]
            if cosines.max() < delta / np.sqrt(weights.shape[1]):
                unit = weights / (np.linalg.norm(weights, axis=1, keepdims=True) + eps)
                return (steps - unit * (unit * steps).sum(axis=1, keepdims=True)).reshape(p.shape), wd_ratio
    return u, 1.0


def _authors(
    s: SimpleNamespace,
    t: int,
    p: NDArray[Any],
    g: NDArray[Any],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    nesterov: bool,
    **decision: float,
) -> NDArray[Any]:
    """Step as Algorithm 2, with what the authors' code adds: the ratio of the decay, and Nesterov's momentum."""
    if t == 1:
        s.m, s.v = np.zeros_like(p), np.zeros_like(p)
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * g**2
    u = (beta1 * s.m + (1 - beta1) * g if nesterov else s.m) / (np.sqrt(s.v / (1 - beta2**t)) + eps)
    u, ratio = projection(p, g, u, eps=eps, **decision)
    return np.asarray(p * (1 - lr * weight_decay * ratio) - lr / (1 - beta1**t) * u)


def _build(po: Any, params: Any, *, beta1: float, beta2: float, **arguments: Any) -> Any:
    return po.AdamP(params, betas=(beta1, beta2), **arguments)


DEFAULT = {
    "lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1, "delta": 0.1, "wd_ratio": 0.1,
    "nesterov": False,
}  # fmt: skip
#: With random gradients and this delta every decision comes about in some of the steps (see `test_across_rows.py`).
LOOSE = DEFAULT | {"beta1": 0.5, "beta2": 0.9, "delta": 1.5, "wd_ratio": 0.3}
WITHOUT_EPS = {"eps": 1e-18}

WITNESSES = [
    Witness(
        "pytorch_optimizer.AdamP",
        from_torch("pytorch_optimizer", _build),
        [each | WITHOUT_EPS for each in (DEFAULT, LOOSE, LOOSE | {"nesterov": True})],
        {"m": "exp_avg", "v": "exp_avg_sq"},
    ),
    Witness(
        "script",
        from_script(_authors),
        [DEFAULT, LOOSE, LOOSE | {"eps": 1e-3, "nesterov": True}],
        {"m": "m", "v": "v"},
    ),
]
