"""AdEMAMix: optax without warm-ups, pytorch_optimizer with both of one length, a script from the paper with any."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from witnesses import Witness, from_optax, from_script, from_torch


def ademamix(
    po: Any, params: Any, lr: float, beta1: float, beta2: float, beta3: float, t_alpha: float, t_beta3: float, **further: Any
) -> Any:  # fmt: skip
    """Return pytorch_optimizer's, which has one length for both warm-ups."""
    assert t_alpha == t_beta3
    betas = (beta1, beta2, beta3)
    return po.AdEMAMix(params, lr=lr, betas=betas, t_alpha_beta3=t_alpha or None, weight_decouple=True, **further)


def script(
    s: Any, t: int, p: NDArray[Any], g: NDArray[Any], *, lr: float, beta1: float, beta2: float, beta3: float, alpha: float,
    t_alpha: float, t_beta3: float, eps: float, weight_decay: float,
) -> NDArray[Any]:  # fmt: skip
    """Step as Algorithm 1 says, with the schedules of section 3.2."""
    if t_alpha:
        alpha = min(t * alpha / t_alpha, alpha)
    if t_beta3:
        fast, slow = np.log(beta1), np.log(beta3)
        part = min(t / t_beta3, 1)
        beta3 = min(np.exp(fast * slow / ((1 - part) * slow + part * fast)), beta3)
    s.m1 = beta1 * getattr(s, "m1", 0 * p) + (1 - beta1) * g
    s.m2 = beta3 * getattr(s, "m2", 0 * p) + (1 - beta3) * g
    s.v = beta2 * getattr(s, "v", 0 * p) + (1 - beta2) * g**2
    u = (s.m1 / (1 - beta1**t) + alpha * s.m2) / (np.sqrt(s.v / (1 - beta2**t)) + eps)
    return p - lr * (u + weight_decay * p)


DEFAULTS = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "beta3": 0.9999, "alpha": 2.0, "eps": 1e-8, "weight_decay": 0.0}
OTHERS = {"lr": 0.05, "beta1": 0.5, "beta2": 0.95, "beta3": 0.99, "alpha": 5.0, "eps": 1e-3, "weight_decay": 0.2}

WITNESSES = [
    Witness(
        "optax.contrib.ademamix",
        from_optax(
            lambda optax, lr, beta1, beta2, beta3, alpha, eps, weight_decay: optax.contrib.ademamix(
                lr, beta1, beta2, beta3, alpha, eps, weight_decay=weight_decay
            )
        ),
        [DEFAULTS, OTHERS],
        {"m1": lambda state: state[0].m1, "m2": lambda state: state[0].m2, "v": lambda state: state[0].nu},
    ),
    Witness(
        "pytorch_optimizer.AdEMAMix",
        from_torch("pytorch_optimizer", ademamix),
        [
            DEFAULTS | {"t_alpha": 0.0, "t_beta3": 0.0},
            DEFAULTS | {"t_alpha": 1000.0, "t_beta3": 1000.0},
            OTHERS | {"t_alpha": 20.0, "t_beta3": 20.0},
        ],
        {"m1": "exp_avg", "m2": "exp_avg_slow", "v": "exp_avg_sq"},
    ),
    Witness(
        "script",
        from_script(script),
        [
            OTHERS | {"t_alpha": 10.0, "t_beta3": 25.5},
            OTHERS | {"beta1": 0.99, "beta3": 0.9, "t_alpha": 0.0, "t_beta3": 20.0},
        ],
        {"m1": "m1", "m2": "m2", "v": "v"},
    ),
]
