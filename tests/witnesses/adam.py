"""Adam: torch, optax; without the bias correction a script, since neither goes without it."""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import BETAS, COMMON, MOMENTS, TorchOptim, Witness, from_optax, from_script, in_pairs


def optax_adam(optax: Any, *, lr: float, beta1: float, beta2: float, eps: float) -> Any:
    return optax.adam(lr, b1=beta1, b2=beta2, eps=eps)


def script(s: Any, t: int, p: Any, g: Any, *, lr: float, beta1: float, beta2: float, eps: float,
           bias_correction: bool) -> Any:  # fmt: skip
    """Kingma & Ba (2015), Algorithm 1, and what is left of it without the corrections."""
    if t == 1:
        s.m = s.v = 0.0
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * g**2
    if not bias_correction:
        return p - lr * s.m / (np.sqrt(s.v) + eps)
    m_hat, v_hat = s.m / (1 - beta1**t), s.v / (1 - beta2**t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps)


ARGUMENTS = {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}

TORCH = TorchOptim(
    "Adam",
    in_pairs(eps=1e-3, **BETAS, **COMMON),
    MOMENTS,
    scheduled={"eps": lambda s: 10.0 ** -(s + 1), "weight_decay": lambda s: 0.1 / (s + 1)},
)

WITNESSES = [
    Witness(
        "optax.adam",
        from_optax(optax_adam),
        [ARGUMENTS],
        {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
    ),
    Witness(
        "script",
        from_script(script),
        [ARGUMENTS | {"bias_correction": correction} for correction in (False, True)],
        {"m": "m", "v": "v"},
    ),
]
