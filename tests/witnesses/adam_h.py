"""AdamH: a script. No package has it, and no paper is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import Witness, from_script


def script(s: Any, t: int, p: Any, g: Any, *, lr: float, beta1: float, beta2: float, eps: float) -> Any:
    """The hyperball step: a move of lr times the norm along Adam's direction, then back on the sphere."""
    if t == 1:
        s.m = s.v = 0.0
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * g**2
    u = (s.m / (1 - beta1**t)) / (np.sqrt(s.v / (1 - beta2**t)) + eps)

    def norm(x: Any) -> float:
        return float(np.sqrt((x**2).sum()))

    radius = norm(p)
    if radius == 0:  # no sphere
        return p - lr * u
    if norm(u) == 0:
        return p
    moved = p - lr * u * radius / norm(u)
    return moved / norm(moved) * radius


WITNESSES = [
    Witness(
        "script",
        from_script(script),
        [
            {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3},
            {"lr": 0.5, "beta1": 0.0, "beta2": 0.5, "eps": 1e-8},
        ],
        {"m": "m", "v": "v"},
    )
]
