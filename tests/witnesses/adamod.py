"""AdaMod: a script from the paper; pytorch_optimizer, whose averaged step sizes hold the correction of m, without momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import Witness, from_script, from_torch, step_with_plain_eps, with_plain_eps


def script(
    s: Any,
    t: int,
    p: Any,
    g: Any,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    beta3: float,
    eps: float,
    weight_decay: float,
) -> Any:
    """Step as Algorithm 2 says, after the decoupled decay of the authors' code."""
    if t == 1:
        s.m = s.v = s.s = 0.0
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * g**2
    sizes = lr / (np.sqrt(s.v / (1 - beta2**t)) + eps)
    s.s = beta3 * s.s + (1 - beta3) * sizes
    return p - lr * weight_decay * p - np.minimum(sizes, s.s) * s.m / (1 - beta1**t)


def theirs(
    package: Any, tensors: Any, *, lr: Any, beta1: float, beta2: float, beta3: float, eps: float, **further: Any
) -> Any:
    made = package.AdaMod(tensors, betas=(beta1, beta2, beta3), **further)
    return with_plain_eps(made, lr, eps)


WITNESSES = [
    Witness(
        "script",
        from_script(script),
        [
            {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "beta3": 0.7, "eps": 1e-3, "weight_decay": decay}
            for decay in (0.0, 0.1)
        ],
        {"m": "m", "v": "v", "s": "s"},
    ),
    Witness(
        "pytorch_optimizer.AdaMod",
        from_torch("pytorch_optimizer", theirs, step_with_plain_eps),
        [
            {"lr": 0.05, "beta1": 0.0, "beta2": 0.95, "beta3": 0.7, "eps": 1e-3, "weight_decay": decay}
            for decay in (0.0, 0.1)
        ],
        {"m": "exp_avg", "v": "exp_avg_sq", "s": "exp_avg_lr"},
    ),
]
