"""Adamax: torch and optax; keras, which has another place for eps, without it."""

from __future__ import annotations

from typing import Any

from witnesses import BETAS, COMMON, TorchOptim, Witness, from_keras, from_optax, in_pairs


def optax_adamax(optax: Any, *, lr: float, beta1: float, beta2: float, eps: float) -> Any:
    return optax.adamax(lr, b1=beta1, b2=beta2, eps=eps)


def keras_adamax(keras: Any, *, lr: float, beta1: float, beta2: float, eps: float) -> Any:
    return keras.optimizers.Adamax(lr, beta_1=beta1, beta_2=beta2, epsilon=eps)


TORCH = TorchOptim(
    "Adamax",
    in_pairs(eps=1e-3, **BETAS, **COMMON),
    {"m": "exp_avg", "u": "exp_inf"},
    fused=False,
    scheduled={"betas": lambda s: (0.5 + 0.01 * s, 0.9 + 0.003 * s), "eps": lambda s: 10.0 ** -(s / 5 + 1)},
)

WITNESSES = [
    Witness(
        "optax.adamax",
        from_optax(optax_adamax),
        [
            {"lr": 2e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
            {"lr": 0.05, "beta1": 0.6, "beta2": 0.8, "eps": 1e-2},
        ],
        {"m": lambda state: state[0].mu, "u": lambda state: state[0].nu},
    ),
    Witness(
        "keras.optimizers.Adamax",
        from_keras(keras_adamax),
        [{"lr": 0.05, "beta1": 0.6, "beta2": 0.8, "eps": 0.0}],
        {"m": lambda opt: opt._m, "u": lambda opt: opt._u},
        zeros=False,
    ),
]
