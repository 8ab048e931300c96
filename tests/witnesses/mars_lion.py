"""MARSLion's witnesses."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_torch


def po(pytorch_optimizer: Any, params: Any, *, beta: float, **further: Any) -> Any:
    """Build the authors' rule, for vectors as well; it has no second decay."""
    return pytorch_optimizer.MARS(
        params, mars_type="lion", betas=(beta, 0.5), optimize_1d=True, foreach=False, **further
    )


CASES: list[dict[str, Any]] = [
    {"lr": 3e-3, "beta": 0.95, "gamma": 0.025, "weight_decay": 0.0},
    {"lr": 0.1, "beta": 0.8, "gamma": 0.3, "weight_decay": 0.1},
    {"lr": 0.1, "beta": 0.0, "gamma": 1.0, "weight_decay": 0.0},
]

WITNESSES = [
    Witness(
        "pytorch_optimizer.MARS",
        from_torch("pytorch_optimizer", po),
        CASES,
        {"m": "exp_avg", "g_last": "last_grad"},
    )
]
