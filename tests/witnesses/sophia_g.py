"""Sophia-G: a script from the paper and the authors' code, which is in no package."""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import Witness, from_script


def script(s: Any, t: int, p: Any, g: Any, samples: Any, *, lr: float, beta1: float, beta2: float, rho: float,
           batch: float, eps: float, weight_decay: float) -> Any:  # fmt: skip
    """Algorithm 3 as the authors run it: what comes of sampled labels enters after the step, with its square."""
    if t == 1:
        s.m = s.h = np.zeros_like(p)
    s.m = beta1 * s.m + (1 - beta1) * g
    ratio = np.minimum(np.abs(s.m) / (rho * batch * s.h + eps), 1)
    p = p * (1 - lr * weight_decay) - lr * np.sign(s.m) * ratio
    if samples is not None:
        s.h = beta2 * s.h + (1 - beta2) * samples**2
    return p


ARGUMENTS = [
    {"lr": 0.05, "beta1": 0.8, "beta2": 0.7, "rho": 0.1, "batch": 16.0, "eps": eps, "weight_decay": decay}
    for eps, decay in ((1e-15, 0.0), (1e-15, 0.2), (1e-2, 0.2))
]

WITNESSES = [Witness("script", from_script(script), ARGUMENTS, {"m": "m", "h": "h"})]
