"""ScheduleFreeSGD: the authors; optax, without a warm-up and without r."""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import Witness, from_optax, from_torch


def of_the_group(name: str) -> Any:
    """Return a number that the authors keep per group, where ours is one per tensor."""

    def numbers(optimizer: Any) -> list[Any]:
        (group,) = optimizer.param_groups
        return [np.float64(group[name]) for _ in group["params"]]

    return numbers


def authors(schedulefree: Any, params: Any, *, l2: float, **further: Any) -> Any:
    optimizer = schedulefree.SGDScheduleFree(params, weight_decay=l2, **further)
    optimizer.train()
    return optimizer


def optax_sgd(
    optax: Any, *, lr: float, momentum: float, warmup_steps: float, r: float, weight_lr_power: float, l2: float
) -> Any:
    # Its weights see the warm-up of one step before.
    assert (warmup_steps, r) == (0, 0)
    return optax.contrib.schedule_free_sgd(lr, b1=momentum, weight_decay=l2, weight_lr_power=weight_lr_power)


PLAIN: dict[str, Any] = {"lr": 0.5, "momentum": 0.9, "warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0, "l2": 0.0}
DECAY = PLAIN | {"lr": 0.1, "momentum": 0.6, "weight_lr_power": 0.5, "l2": 0.1}
WARM_UP = DECAY | {"warmup_steps": 7, "r": 0.7}

WITNESSES = [
    Witness(
        "schedulefree.SGDScheduleFree",
        from_torch("schedulefree", authors),
        [PLAIN, DECAY, WARM_UP],
        {"z": "z", "lr_max": of_the_group("lr_max"), "weight_sum": of_the_group("weight_sum")},
    ),
    Witness(
        "optax.contrib.schedule_free_sgd",
        from_optax(optax_sgd),
        [PLAIN, DECAY],
        {"z": lambda state: state.z},
    ),
]
