"""Adagrad: torch, with eps outside the root; optax, with eps inside."""

from __future__ import annotations

from typing import Any

from witnesses import COMMON, TorchOptim, Witness, from_optax, in_pairs


def optax_adagrad(optax: Any, *, lr: float, eps: float, initial_accumulator: float, eps_inside: bool) -> Any:
    assert eps_inside
    return optax.adagrad(lr, initial_accumulator_value=initial_accumulator, eps=eps)


TORCH = TorchOptim(
    "Adagrad",
    in_pairs(lr_decay=0.1, initial_accumulator_value=0.1, eps=1e-3, **COMMON),
    {"n": "sum"},
    words={"initial_accumulator_value": "initial_accumulator"},
    scheduled={"lr_decay": lambda s: 0.01 * s, "eps": lambda s: 10.0 ** -(s + 1)},
)

WITNESSES = [
    Witness(
        "optax.adagrad",
        from_optax(optax_adagrad),
        [
            {"lr": 0.1, "eps": 1e-7, "initial_accumulator": 0.1, "eps_inside": True},
            {"lr": 0.1, "eps": 0.01, "initial_accumulator": 0.0, "eps_inside": True},
        ],
        {"n": lambda state: state[0].sum_of_squares},
    )
]
