"""Lion: optax and lion_pytorch."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_optax, from_torch


def optax_lion(optax: Any, *, lr: float, beta1: float, beta2: float, weight_decay: float) -> Any:
    return optax.lion(lr, b1=beta1, b2=beta2, weight_decay=weight_decay)


def lion_pytorch(package: Any, tensors: Any, *, beta1: float, beta2: float, **further: Any) -> Any:
    return package.Lion(tensors, betas=(beta1, beta2), **further)


ARGUMENTS = [{"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "weight_decay": decay} for decay in (0.0, 0.1)]

WITNESSES = [
    Witness("optax.lion", from_optax(optax_lion), ARGUMENTS, {"m": lambda state: state[0].mu}),
    Witness("lion_pytorch.Lion", from_torch("lion_pytorch", lion_pytorch), ARGUMENTS, {"m": "exp_avg"}),
]
