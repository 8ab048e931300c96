"""SGD: torch; optax, which has no dampening."""

from __future__ import annotations

from typing import Any

from witnesses import COMMON, TorchOptim, Witness, alone, from_optax


def optax_sgd(optax: Any, *, lr: float, momentum: float, nesterov: bool) -> Any:
    return optax.sgd(lr, momentum=momentum or None, nesterov=nesterov)


FORMS = [
    {"momentum": 0.0},
    {"momentum": 0.5, "dampening": 1.0},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
]

TORCH = TorchOptim(
    "SGD",
    [form | common for form in FORMS for common in alone(**COMMON)],
    {"buffer": "momentum_buffer"},
    scheduled={
        "momentum": lambda s: 0.5 + 0.01 * s,
        "dampening": lambda s: 0.02 * s,
        "weight_decay": lambda s: 0.1 / (s + 1),
    },
)

WITNESSES = [
    Witness(
        "optax.sgd",
        from_optax(optax_sgd),
        [
            {"lr": 0.1, "momentum": 0.0, "nesterov": False},
            {"lr": 0.1, "momentum": 0.9, "nesterov": False},
            {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        ],
        {"buffer": lambda state: state[0].trace},
    )
]
