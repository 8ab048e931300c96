"""StableAdamW: pytorch_optimizer, which has no threshold; a script of the paper's Algorithm 2 has one."""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import MOMENTS, Witness, from_script, from_torch


def po(pytorch_optimizer: Any, params: Any, *, beta1: float, beta2: float, threshold: float, **further: Any) -> Any:
    assert threshold == 1, "the package has no other"
    return pytorch_optimizer.StableAdamW(params, betas=(beta1, beta2), **further)


def script(
    s: Any, t: int, p: Any, g: Any, *,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, threshold: float,
) -> Any:  # fmt: skip
    """Step with averages of corrected bias, and the step size of the tensor."""
    if t == 1:
        s.m, s.v = np.zeros_like(p), np.zeros_like(p)
    beta1 = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
    beta2 = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * g**2
    rms = np.sqrt(np.mean(g**2 / np.maximum(s.v, eps**2)))
    rate = lr / max(1.0, rms / threshold)
    return p - rate * weight_decay * p - rate * s.m / (np.sqrt(s.v) + eps)


CASES: list[dict[str, Any]] = [
    {"lr": 0.05, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.2, "threshold": 1.0},
    {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 1e-2, "weight_decay": 0.0, "threshold": 1.0},
]

WITNESSES = [
    Witness("pytorch_optimizer.StableAdamW", from_torch("pytorch_optimizer", po), CASES, MOMENTS),
    Witness(
        "script",
        from_script(script),
        [CASES[0] | {"threshold": 0.5}, CASES[1] | {"threshold": 1.3}, CASES[1] | {"threshold": 0.01}],
        {"m": "m", "v": "v"},
    ),
]
