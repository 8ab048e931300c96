"""Adam-mini: a script. Pytorch_optimizer takes a module, and chooses the blocks by the names of its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import Witness, from_script


def script(s: Any, t: int, p: Any, g: Any, *, lr: float, beta1: float, beta2: float, eps: float,
           weight_decay: float) -> Any:  # fmt: skip
    """Zhang et al. (2024), Algorithm 1, with one block per row; a vector is one row."""
    if t == 1:
        s.m = s.v = 0.0
    p = p * (1 - lr * weight_decay)
    s.m = beta1 * s.m + (1 - beta1) * g
    within_rows = tuple(range(int(g.ndim > 1), g.ndim))
    s.v = beta2 * s.v + (1 - beta2) * np.mean(g**2, axis=within_rows)
    v_hat = np.expand_dims(s.v / (1 - beta2**t), within_rows)
    return p - lr * (s.m / (1 - beta1**t)) / (np.sqrt(v_hat) + eps)


WITNESSES = [
    Witness(
        "script",
        from_script(script),
        [{"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": decay} for decay in (0.0, 0.1)],
        {"m": "m", "v": "v"},
    )
]
