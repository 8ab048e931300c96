"""RAdam: torch; optax, which has another place for eps, without it."""

from __future__ import annotations

from typing import Any

from witnesses import BETAS, COMMON, MOMENTS, TorchOptim, Witness, from_optax, in_pairs


def optax_radam(optax: Any, *, lr: float, beta1: float, beta2: float, eps: float) -> Any:
    return optax.radam(lr, b1=beta1, b2=beta2, eps=eps)


TORCH = TorchOptim(
    "RAdam",
    in_pairs(eps=1e-3, **BETAS, **COMMON),
    MOMENTS,
    fused=False,
    scheduled={"betas": lambda s: (0.5 + 0.01 * s, 0.9 + 0.003 * s), "eps": lambda s: 10.0 ** -(s / 5 + 1)},
    not_here={"decoupled_weight_decay": "no class of ours has both the rectification and a decoupled decay"},
)

WITNESSES = [
    Witness(
        "optax.radam",
        from_optax(optax_radam),
        [
            {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 0.0},
            {"lr": 0.05, "beta1": 0.6, "beta2": 0.9, "eps": 0.0},
            {"lr": 0.05, "beta1": 0.6, "beta2": 0.6, "eps": 0.0},  # never rectified
        ],
        {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
        zeros=False,
    )
]
