"""Adadelta: torch, optax, keras."""

from __future__ import annotations

from typing import Any

from witnesses import COMMON, TorchOptim, Witness, from_keras, from_optax, in_pairs


def optax_adadelta(optax: Any, *, lr: float, rho: float, eps: float) -> Any:
    return optax.adadelta(lr, rho=rho, eps=eps)


def keras_adadelta(keras: Any, *, lr: float, rho: float, eps: float) -> Any:
    return keras.optimizers.Adadelta(lr, rho=rho, epsilon=eps)


ARGUMENTS = [{"lr": 1.0, "rho": 0.9, "eps": 1e-6}, {"lr": 0.5, "rho": 0.6, "eps": 1e-2}]

TORCH = TorchOptim(
    "Adadelta",
    in_pairs(rho=0.5, eps=1e-3, **COMMON),
    {"v": "square_avg", "u": "acc_delta"},
    fused=False,
    scheduled={"rho": lambda s: 0.5 + 0.01 * s, "eps": lambda s: 10.0 ** -(s / 5 + 1)},
)

WITNESSES = [
    Witness(
        "optax.adadelta",
        from_optax(optax_adadelta),
        ARGUMENTS,
        {"v": lambda state: state[1].e_g, "u": lambda state: state[1].e_x},
    ),
    Witness(
        "keras.optimizers.Adadelta",
        from_keras(keras_adadelta),
        ARGUMENTS,
        {"v": lambda opt: opt._accumulated_grads, "u": lambda opt: opt._accumulated_delta_vars},
    ),
]
