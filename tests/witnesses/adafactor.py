"""Adafactor: torch's; optax's, whose step size is not relative, with its momentum; Keras's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from witnesses import TorchOptim, Witness, alone, from_keras, from_optax

EPS = {"eps": (2.0**-23, 1e-3)}  # torch's own default is the precision of float64 here

TORCH = TorchOptim(
    "Adafactor",
    [
        EPS | options
        for options in alone(lr=0.4, beta2_decay=-0.5, eps=(0.9, 2.0), d=1.2, weight_decay=0.1, maximize=True)
    ],
    {"row": "row_var", "column": "col_var", "v": "variance", "m": None},
    words={"weight_decay": "weight_decay", "eps": ("eps1", "eps2"), "d": "threshold"},
    fused=False,
    not_complex="torch refuses complex parameters",
    scheduled={
        "weight_decay": lambda step: 0.1 / (1 + step),
        "d": lambda step: 1 + 0.1 * step,
        "eps": lambda step: (0.1 * step + 1e-3, 0.2 * step),
        "beta2_decay": lambda step: -0.5 - 0.01 * step,
    },
)


def optax_adafactor(
    optax: Any, *, lr: float, beta2_decay: float, eps1: float, threshold: float, weight_decay: float, momentum: float,
    relative_step: bool, scale_parameter: bool, min_dim_size_to_factor: int,
) -> Any:  # fmt: skip
    """Return what optax.adafactor is made of, in its order; that itself computes the decay in float32."""
    assert not relative_step, "optax has no such step size"
    parts = [
        optax.scale_by_factored_rms(
            decay_rate=-beta2_decay,
            min_dim_size_to_factor=min_dim_size_to_factor,
            epsilon=eps1,
            decay_rate_fn=lambda step, rate: 1 - (step + 1.0) ** -rate,
        ),
        optax.clip_by_block_rms(threshold),
        optax.scale_by_learning_rate(lr, flip_sign=False),
        *([optax.scale_by_param_block_rms()] if scale_parameter else []),
        *([optax.ema(momentum, debias=False)] if momentum else []),
        optax.add_decayed_weights(lr * weight_decay),
        optax.scale(-1),
    ]
    return optax.chain(*parts)


def keras_adafactor(keras: Any, *, lr: float, beta2_decay: float, eps1: float, eps2: float, threshold: float) -> Any:
    return keras.optimizers.Adafactor(
        lr, beta_2_decay=beta2_decay, epsilon_1=eps1, epsilon_2=eps2, clip_threshold=threshold
    )


def of_keras(name: str, axis: int) -> Callable[[Any], Any]:
    """Return one of keras's lists of means, with the axis that they were taken over."""

    class WithAxis:
        def __init__(self, variable: Any) -> None:
            self.value = np.asarray(variable.value)
            if self.value.ndim:  # a vector has a number in the place of means
                self.value = np.expand_dims(self.value, axis)

    return lambda optimizer: [WithAxis(each) for each in getattr(optimizer, name)]


OPTAX: dict[str, Any] = {
    "lr": 0.05, "beta2_decay": -0.7, "eps1": 1e-30, "threshold": 1.2, "weight_decay": 0.1, "momentum": 0.9,
    "relative_step": False, "scale_parameter": True, "min_dim_size_to_factor": 1,
}  # fmt: skip
#: Numbers that float32 holds: keras rounds to it.
KERAS: dict[str, Any] = {"lr": 0.375, "beta2_decay": -0.75, "eps1": 2.0**-100, "eps2": 2.0**-10, "threshold": 1.0}

WITNESSES = [
    Witness(
        "optax.adafactor",
        from_optax(optax_adafactor),
        [
            OPTAX,
            OPTAX | {"momentum": 0.0},
            OPTAX | {"scale_parameter": False},
            OPTAX | {"threshold": 1.0, "min_dim_size_to_factor": 4},
        ],
        {
            "m": lambda state: next(each.ema for each in state if hasattr(each, "ema")),
        },
    ),
    Witness(
        "keras.optimizers.Adafactor",
        from_keras(keras_adafactor),
        [KERAS, KERAS | {"beta2_decay": -0.5, "eps2": 2.0, "threshold": 0.75}],
        {"row": of_keras("_r", -1), "column": of_keras("_c", -2)},
        tolerance=2e-7,
        reason="keras takes means in float32",
    ),
]
