"""MADGRAD's witnesses."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_optax, from_torch


def po(pytorch_optimizer: Any, params: Any, **arguments: Any) -> Any:
    return pytorch_optimizer.MADGRAD(params, foreach=False, **arguments)


def optax(optax: Any, *, lr: float, momentum: float, eps: float) -> Any:
    import jax.numpy as jnp

    def rate(count: Any) -> Any:
        """Undo optax's root of the step count, which is a float32."""
        return (lr + eps) * jnp.sqrt(jnp.float64(count + 1)) / jnp.sqrt(count + 1) - eps

    return optax.contrib.madgrad(rate, momentum=momentum, eps=eps)


CASES: list[dict[str, Any]] = [
    {"lr": 1e-2, "momentum": 0.9, "eps": 1e-6},
    {"lr": 0.1, "momentum": 0.5, "eps": 1e-3},
    {"lr": 0.1, "momentum": 0.0, "eps": 1e-6},
    {"lr": 0.03, "momentum": 0.0, "eps": 1e-2},
]

WITNESSES = [
    Witness(
        "pytorch_optimizer.MADGRAD",
        from_torch("pytorch_optimizer", po),
        [*CASES, {"lr": 0.0, "momentum": 0.5, "eps": 1e-2}, {"lr": 0.1, "momentum": 0.9, "eps": 0.0}],
        {"n": "grad_sum_sq", "s": "s"},
    ),
    Witness(
        "optax.contrib.madgrad",
        from_optax(optax),
        CASES,
        {"n": lambda state: state[1].grad_sum_sq, "s": lambda state: state[1].s},
    ),
]
