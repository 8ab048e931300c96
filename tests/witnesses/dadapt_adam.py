"""DAdaptAdam's witnesses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from witnesses import Witness, from_optax, from_torch


def authors(
    dadaptation: Any, params: Any, *, beta1: float, beta2: float, bias_correction: bool, **arguments: Any
) -> Any:
    return dadaptation.DAdaptAdam(
        params, betas=(beta1, beta2), use_bias_correction=bias_correction, decouple=True, **arguments
    )


def number(name: str) -> Any:
    return lambda optimizer: np.float64(optimizer.param_groups[0][name])


def optax(
    optax: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, d0: float, **_: Any
) -> Any:
    """Build it for cases with bias correction and without a bound of the growth."""
    return optax.contrib.dadapt_adamw(lr, betas=(beta1, beta2), eps=eps, estim_lr0=d0, weight_decay=weight_decay)


DEFAULTS: dict[str, Any] = {
    "lr": 1.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "d0": 1e-6, "growth_rate": math.inf,
    "bias_correction": False,
}  # fmt: skip
CORRECTED: list[dict[str, Any]] = [
    DEFAULTS | {"bias_correction": True},
    DEFAULTS
    | {"bias_correction": True, "lr": 0.5, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1, "d0": 1e-2},
]
FURTHER: list[dict[str, Any]] = [
    DEFAULTS,
    DEFAULTS
    | {"lr": 0.5, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1, "d0": 1e-2, "growth_rate": 1.05},
    DEFAULTS | {"beta2": 0.9, "d0": 1e-3, "growth_rate": 1.5},
]
SLOTS = {
    "m": "exp_avg",
    "v": "exp_avg_sq",
    "s": "s",
    "d": number("d"),
    "d_numerator": number("numerator_weighted"),
}

WITNESSES = [
    Witness("dadaptation.DAdaptAdam", from_torch("dadaptation", authors), CORRECTED + FURTHER, SLOTS, convex=True),
    Witness("dadaptation.DAdaptAdam", from_torch("dadaptation", authors), CORRECTED + FURTHER, SLOTS),
    Witness(
        "optax.contrib.dadapt_adamw",
        from_optax(optax),
        CORRECTED,
        {
            "m": lambda state: state.exp_avg,
            "v": lambda state: state.exp_avg_sq,
            "s": lambda state: state.grad_sum,
            "d": lambda state: state.estim_lr,
            "d_numerator": lambda state: state.numerator_weighted,
        },
        convex=True,
    ),
]
