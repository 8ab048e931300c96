"""LAMB: optax. Keras leaves the decay out of the ratio, pytorch_optimizer bounds the norm of the weights by 10."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from witnesses import Witness, from_optax


def optax_lamb(
    optax: Any, *, lr: float | Callable[[Any], Any], beta1: float, beta2: float, eps: float, weight_decay: float
) -> Any:
    return optax.lamb(lr, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay)


def falling(step: Any) -> Any:
    """Give a step size to both, from the number of steps already done."""
    return 0.1 / (step + 1)


ARGUMENTS = {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}

WITNESSES = [
    Witness(
        "optax.lamb",
        from_optax(optax_lamb),
        [
            ARGUMENTS | {"weight_decay": 0.0},
            ARGUMENTS | {"weight_decay": 0.1},
            ARGUMENTS | {"weight_decay": 0.1, "lr": falling},
        ],
        {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
    )
]
