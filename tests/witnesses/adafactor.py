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
    assert not relative_step, "optax has no such step size"
    return optax.adafactor(
        lr,
        min_dim_size_to_factor=min_dim_size_to_factor,
        decay_rate=-beta2_decay,
        multiply_by_parameter_scale=scale_parameter,
        clipping_threshold=threshold,
        momentum=momentum or None,
        dtype_momentum="float64",
        weight_decay_rate=lr * weight_decay,
        eps=eps1,
    )


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
KERAS: dict[str, Any] = {"lr": 0.4, "beta2_decay": -0.8, "eps1": 1e-30, "eps2": 1e-3, "threshold": 1.0}

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
            "v": lambda state: state[0].v,
            "m": lambda state: next(each.ema for each in state if hasattr(each, "ema")),
        },
    ),
    Witness(
        "keras.optimizers.Adafactor",
        from_keras(keras_adafactor),
        [KERAS, KERAS | {"beta2_decay": -0.5, "eps2": 2.0, "threshold": 0.7}],
        {"row": of_keras("_r", -1), "column": of_keras("_c", -2), "v": lambda optimizer: optimizer._v},
    ),
]
