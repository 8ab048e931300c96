"""SGDW: pytorch_optimizer; keras, whose SGD decays the weights by themselves and has no dampening."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_keras, from_torch


def po_sgdw(package: Any, tensors: Any, **arguments: Any) -> Any:
    return package.SGDW(tensors, weight_decouple=True, **arguments)


def keras_sgd(keras: Any, *, lr: float, momentum: float, nesterov: bool, weight_decay: float) -> Any:
    # The rate inside the buffer and outside are the same while it does not change.
    return keras.optimizers.SGD(lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


WITHOUT: dict[str, Any] = {"lr": 0.05, "momentum": 0.0, "nesterov": False, "weight_decay": 0.1}
WITH: list[dict[str, Any]] = [
    {"lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.6, "nesterov": True, "weight_decay": 0.3},
]

WITNESSES = [
    Witness("pytorch_optimizer.SGDW", from_torch("pytorch_optimizer", po_sgdw), [WITHOUT]),
    Witness(
        "pytorch_optimizer.SGDW",
        from_torch("pytorch_optimizer", po_sgdw),
        [*WITH, {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}],
        {"buffer": "momentum_buffer"},
    ),
    Witness("keras.optimizers.SGD", from_keras(keras_sgd), [WITHOUT, *WITH]),
]
