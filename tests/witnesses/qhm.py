"""QHM: the authors' package does not run on today's torch."""

from typing import Any

from witnesses import Witness, from_torch


def _build(po: Any, params: Any, *, beta: float, **arguments: float) -> Any:
    return po.QHM(params, momentum=beta, weight_decouple=True, **arguments)


WITNESSES = [
    Witness(
        "pytorch_optimizer.QHM",
        from_torch("pytorch_optimizer", _build),
        [
            {"lr": 0.05, "beta": 0.999, "nu": 0.7, "weight_decay": 0.0},
            {"lr": 0.1, "beta": 0.5, "nu": 0.3, "weight_decay": 0.1},
            {"lr": 0.1, "beta": 0.0, "nu": 1.0, "weight_decay": 0.1},
            {"lr": 0.1, "beta": 0.9, "nu": 0.0, "weight_decay": 0.1},
        ],
        {"m": "momentum_buffer"},
    )
]
