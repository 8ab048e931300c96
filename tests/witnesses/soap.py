"""SOAP: pytorch_optimizer and, where the authors' repository is on the path, their `soap.py`; both make QR in float32."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from witnesses import Witness, from_script, from_torch


def _turned(x: NDArray[Any], bases: list[Any], way: str) -> NDArray[Any]:
    """Change the basis of every axis that has one."""
    for axis, q in enumerate(bases):
        if q is not None:
            x = np.moveaxis(np.tensordot(x, q, axes=(axis, 0 if way == "in" else 1)), -1, axis)
    return x


def _packed(matrices: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Return square matrices one after the other."""
    return np.concatenate([np.zeros(0), *map(np.ravel, matrices)])


def _paper(
    s: SimpleNamespace, t: int, p: NDArray[Any], g: NDArray[Any], *, lr: float, beta1: float, beta2: float,
    factor_beta: float, eps: float, weight_decay: float, frequency: int, bias_correction: bool, normalize_grads: bool,
    max_dim: int, precondition_1d: bool = False, max_failures: int = 3,
) -> NDArray[Any]:  # fmt: skip
    """Step as Algorithm 3: the mean is kept in the parameters' space and turned in every step."""
    beta = beta2 if factor_beta < 0 else factor_beta
    few = g.ndim < 2 and not precondition_1d
    axes = [axis for axis, n in enumerate(g.shape) if n <= max_dim and not few]
    products = {}
    for axis in axes:
        rows = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
        products[axis] = rows @ rows.T
    if t == 1:
        s.mean, s.m, s.v = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
        s.factors = {axis: (1 - beta) * each for axis, each in products.items()}
        s.bases = [np.linalg.eigh(s.factors[axis])[1][:, ::-1] if axis in axes else None for axis in range(g.ndim)]
        s.all_factors, s.all_bases = _packed(s.factors.values()), _packed(s.bases[axis] for axis in axes)
        return p
    k = t - 1
    turned = _turned(g, s.bases, "in")
    s.mean = beta1 * s.mean + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * turned**2
    u = _turned(_turned(s.mean, s.bases, "in") / (np.sqrt(s.v) + eps), s.bases, "out")
    if normalize_grads and axes:
        u = u / np.sqrt(np.mean(u**2))
    step = lr * np.sqrt(1 - beta2**k) / (1 - beta1**k) if bias_correction else lr
    p = p - step * u
    p = p - lr * weight_decay * p
    for axis in axes:
        s.factors[axis] = beta * s.factors[axis] + (1 - beta) * products[axis]
        if k % frequency == 0:
            q = s.bases[axis]
            order = np.argsort(-np.diag(q.T @ s.factors[axis] @ q))
            s.v = np.take(s.v, order, axis)
            s.bases[axis] = np.linalg.qr(s.factors[axis] @ q[:, order])[0]
    s.m = _turned(s.mean, s.bases, "in")
    s.all_factors, s.all_bases = _packed(s.factors.values()), _packed(s.bases[axis] for axis in axes)
    return p


def _build(
    po: Any, tensors: Any, *, beta1: float, beta2: float, factor_beta: float, frequency: int, bias_correction: bool,
    normalize_grads: bool, max_dim: int, **further: Any,
) -> Any:  # fmt: skip
    return po.SOAP(
        tensors,
        betas=(beta1, beta2),
        shampoo_beta=None if factor_beta < 0 else factor_beta,
        precondition_frequency=frequency,
        correct_bias=bias_correction,
        normalize_gradient=normalize_grads,
        max_precondition_dim=max_dim,
        **further,
    )


#: Factors of a long axis, which are not of full rank, have no one basis.
PLAIN = {
    "lr": 0.05, "beta1": 0.8, "beta2": 0.9, "factor_beta": -1.0, "eps": 1e-3, "weight_decay": 0.0, "frequency": 100,
    "bias_correction": True, "normalize_grads": False, "max_dim": 5,
}  # fmt: skip
REFRESHED = PLAIN | {"frequency": 2, "weight_decay": 0.1}
REASON = "eigenvectors move by a rounding error over the distance of their eigenvalues"

WITNESSES = [
    Witness(
        "script",
        from_script(_paper),
        [
            PLAIN,
            REFRESHED | {"frequency": 1, "max_failures": 5},
            REFRESHED | {"factor_beta": 0.5, "bias_correction": False, "normalize_grads": True},
            REFRESHED | {"frequency": 3},
        ],
        {"m": "m", "v": "v", "factors": "all_factors", "bases": "all_bases"},
        tolerance=1e-8,
        reason=REASON,
    ),
    Witness(
        "pytorch_optimizer.SOAP",
        from_torch("pytorch_optimizer", _build),
        [PLAIN, PLAIN | {"factor_beta": 0.5, "weight_decay": 0.1}, PLAIN | {"bias_correction": False}],
        {"v": "exp_avg_sq"},
        tolerance=1e-8,
        reason=REASON,
    ),
]
