"""SGDP."""

from typing import Any

from witnesses import Witness, from_torch


def _build(po: Any, params: Any, **arguments: Any) -> Any:
    return po.SGDP(params, **arguments)


DEFAULT = {
    "lr": 0.05, "momentum": 0.0, "dampening": 0.0, "eps": 1e-8, "weight_decay": 0.1, "delta": 0.1, "wd_ratio": 0.1,
    "nesterov": False,
}  # fmt: skip
#: With random gradients and this delta every decision comes about in some of the steps (see `test_across_rows.py`).
LOOSE = DEFAULT | {"delta": 1.5, "wd_ratio": 0.3, "eps": 1e-3}
MOMENTUM = {"momentum": 0.9}

WITNESSES = [
    Witness(
        "pytorch_optimizer.SGDP",
        from_torch("pytorch_optimizer", _build),
        [DEFAULT, LOOSE, LOOSE | {"dampening": 0.3}],
    ),
    Witness(
        "pytorch_optimizer.SGDP",
        from_torch("pytorch_optimizer", _build),
        [DEFAULT | MOMENTUM, LOOSE | MOMENTUM, LOOSE | MOMENTUM | {"dampening": 0.3, "nesterov": True}],
        {"buffer": "momentum"},
    ),
]
