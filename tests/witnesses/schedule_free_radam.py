"""ScheduleFreeRAdam: the authors."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_torch
from witnesses.schedule_free_sgd import of_the_group


def authors(schedulefree: Any, params: Any, *, beta1: float, beta2: float, **further: Any) -> Any:
    optimizer = schedulefree.RAdamScheduleFree(params, betas=(beta1, beta2), **further)
    optimizer.train()
    return optimizer


PLAIN: dict[str, Any] = {
    "lr": 0.05, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0, "r": 0.0, "weight_lr_power": 2.0,
    "silent_sgd_phase": True,
}  # fmt: skip
OTHER = PLAIN | {
    "lr": 0.1,
    "beta1": 0.6,
    "beta2": 0.9,
    "eps": 1e-3,
    "weight_decay": 0.1,
    "r": 0.7,
    "weight_lr_power": 0.5,
}
LOUD = {"silent_sgd_phase": False}

WITNESSES = [
    Witness(
        "schedulefree.RAdamScheduleFree",
        from_torch("schedulefree", authors),
        [PLAIN, OTHER, PLAIN | LOUD, OTHER | LOUD, OTHER | LOUD | {"beta2": 0.5}],  # the last is never rectified
        {
            "z": "z",
            "v": "exp_avg_sq",
            "lr_max": of_the_group("lr_max"),
            "weight_sum": of_the_group("weight_sum"),
        },
    )
]
