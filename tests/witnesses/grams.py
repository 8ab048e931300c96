"""Grams."""

from typing import Any

from witnesses import Witness, from_torch


def _build(po: Any, params: Any, *, beta1: float, beta2: float, **arguments: float) -> Any:
    return po.Grams(params, betas=(beta1, beta2), **arguments)


WITNESSES = [
    Witness(
        "pytorch_optimizer.Grams",
        from_torch("pytorch_optimizer", _build),
        [
            {"lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.0},
            {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1},
        ],
        {"m": "exp_avg", "v": "exp_avg_sq"},
    )
]
