"""AdamW: torch, also as an option of its Adam; optax."""

from __future__ import annotations

from typing import Any

from witnesses import BETAS, COMMON, MOMENTS, TorchOptim, Witness, from_optax, in_pairs


def optax_adamw(optax: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> Any:
    return optax.adamw(lr, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay)


TORCH = TorchOptim(
    "AdamW",
    in_pairs(eps=1e-3, **BETAS, **COMMON),
    MOMENTS,
    words={"weight_decay": "weight_decay"},
    scheduled={
        "betas": lambda s: (0.5 + 0.01 * s, 0.9 + 0.003 * s),
        "weight_decay": lambda s: 0.1 / (s + 1),
    },
    not_here={"amsgrad": "no class of ours has both a maximum and a decoupled decay"},
    also=(
        TorchOptim(
            "Adam",
            [{"decoupled_weight_decay": True} | COMMON],
            MOMENTS,
            words={"weight_decay": "weight_decay", "decoupled_weight_decay": None},
        ),
    ),
)

WITNESSES = [
    Witness(
        "optax.adamw",
        from_optax(optax_adamw),
        [{"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.1}],
        {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
    )
]
