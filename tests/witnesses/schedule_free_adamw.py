"""ScheduleFreeAdamW: the authors; optax, without a warm-up and without r; keras, whose iterates weigh all alike."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_keras, from_optax, from_torch
from witnesses.schedule_free_sgd import of_the_group


def authors(schedulefree: Any, params: Any, *, beta1: float, beta2: float, **further: Any) -> Any:
    optimizer = schedulefree.AdamWScheduleFree(params, betas=(beta1, beta2), **further)
    optimizer.train()
    return optimizer


def optax_adamw(
    optax: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, warmup_steps: float, r: float,
    weight_lr_power: float,
) -> Any:  # fmt: skip
    # Its weights see the warm-up of one step before.
    assert (warmup_steps, r) == (0, 0)
    return optax.contrib.schedule_free_adamw(
        lr, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay, weight_lr_power=weight_lr_power
    )


def keras_adamw(
    keras: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, warmup_steps: float, r: float,
    weight_lr_power: float,
) -> Any:  # fmt: skip
    # Its decay acts on y without z.
    assert (weight_decay, r, weight_lr_power) == (0, 0, 0)
    return keras.optimizers.ScheduleFreeAdamW(lr, beta1, beta2, eps, warmup_steps)


PLAIN: dict[str, Any] = {
    "lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "warmup_steps": 0, "r": 0.0,
    "weight_lr_power": 2.0,
}  # fmt: skip
DECAY = PLAIN | {"lr": 0.1, "beta1": 0.6, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1, "weight_lr_power": 0.5}
WARM_UP = DECAY | {"warmup_steps": 7, "r": 0.7}
ALIKE = DECAY | {"weight_decay": 0.0, "weight_lr_power": 0.0}

WITNESSES = [
    Witness(
        "schedulefree.AdamWScheduleFree",
        from_torch("schedulefree", authors),
        [PLAIN, DECAY, WARM_UP],
        {
            "z": "z",
            "v": "exp_avg_sq",
            "lr_max": of_the_group("lr_max"),
            "weight_sum": of_the_group("weight_sum"),
        },
    ),
    Witness(
        "optax.contrib.schedule_free_adamw",
        from_optax(optax_adamw),
        [PLAIN, DECAY],
        {"z": lambda state: state.z, "v": lambda state: state.base_optimizer_state[0].nu},
    ),
    Witness(
        "keras.optimizers.ScheduleFreeAdamW",
        from_keras(keras_adamw),
        [ALIKE, ALIKE | {"warmup_steps": 7}],
        {"z": lambda optimizer: optimizer._momentums, "v": lambda optimizer: optimizer._velocities},
    ),
]
