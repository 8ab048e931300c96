"""CautiousAdamW: no package installed here has the scale of the authors' later code, so a script of their rule.

pytorch_optimizer multiplies the mask by n / (sum + 1) and has none for AdamW; timm's AdamW with caution=True is the same rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import Witness, from_script


def script(
    s: Any, t: int, p: Any, g: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
) -> Any:
    """Step AdamW along its mean gradient, with the mask of Liang et al. over the tensor."""
    if t == 1:
        s.m, s.v = np.zeros_like(p), np.zeros_like(p)
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * g**2
    mask = (s.m * g > 0).astype(float)
    mask = mask / max(mask.mean(), 1e-3)
    m_hat, v_hat = s.m / (1 - beta1**t), s.v / (1 - beta2**t)
    return p - lr * weight_decay * p - lr * m_hat * mask / (np.sqrt(v_hat) + eps)


WITNESSES = [
    Witness(
        "script",
        from_script(script),
        [
            {"lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01},
            {"lr": 0.1, "beta1": 0.95, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.3},
            {"lr": 0.1, "beta1": 0.0, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.0},
        ],
        {"m": "m", "v": "v"},
    )
]
