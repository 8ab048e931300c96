"""Momentum: torch, whose dampening is the momentum then; a mean without correction in optax."""

from __future__ import annotations

from typing import Any

from witnesses import TorchOptim, Witness, from_optax


def optax_ema(optax: Any, *, lr: float, beta: float) -> Any:
    return optax.chain(optax.ema(beta, debias=False), optax.scale(-lr))


TORCH = TorchOptim(
    "SGD",
    [{"lr": 0.1, "momentum": beta, "dampening": beta, "weight_decay": 0.1} for beta in (0.5, 0.99, 0.9)],
    {"v": "momentum_buffer"},
    words={"momentum": "beta", "dampening": None},
    zeroed=("momentum_buffer",),
)

WITNESSES = [
    Witness("optax.ema", from_optax(optax_ema), [{"lr": 0.1, "beta": 0.9}], {"v": lambda state: state[0].ema}),
]
