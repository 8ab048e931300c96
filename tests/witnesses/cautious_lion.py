"""CautiousLion: lion-pytorch, which bounds the mean of the mask by 1e-5: no tensor of the comparison is large enough to meet
that, or the 1e-3 of the script."""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import Witness, from_script, from_torch


def lion_pytorch(package: Any, params: Any, *, beta1: float, beta2: float, **further: Any) -> Any:
    from lion_pytorch.cautious_lion import Lion

    return Lion(params, betas=(beta1, beta2), **further)


def script(s: Any, t: int, p: Any, g: Any, *, lr: float, beta1: float, beta2: float, weight_decay: float) -> Any:
    """Step Lion with the mask of Liang et al. over the tensor."""
    if t == 1:
        s.m = np.zeros_like(p)
    u = np.sign(beta1 * s.m + (1 - beta1) * g)
    mask = (u * g > 0).astype(float)
    s.m = beta2 * s.m + (1 - beta2) * g
    return p - lr * weight_decay * p - lr * u * mask / max(mask.mean(), 1e-3)


CASES: list[dict[str, Any]] = [
    {"lr": 0.05, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0},
    {"lr": 0.1, "beta1": 0.95, "beta2": 0.9, "weight_decay": 0.3},
    {"lr": 0.1, "beta1": 0.0, "beta2": 0.5, "weight_decay": 0.1},
]

WITNESSES = [
    Witness("lion_pytorch.cautious_lion", from_torch("lion_pytorch", lion_pytorch), CASES, {"m": "exp_avg"}),
    Witness("script", from_script(script), CASES, {"m": "m"}),
]
