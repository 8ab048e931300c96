"""Adan: pytorch_optimizer has the authors' form; optax's weight of the differences, 1 - beta2, is the same at 0.5.

The package adan-pytorch leaves the moments at 0 in the first step, and corrects them as if it had not.
"""

from typing import Any

from witnesses import Witness, from_optax, from_torch


def adan(
    po: Any, params: Any, lr: float, beta1: float, beta2: float, beta3: float, no_prox: bool, **further: Any
) -> Any:
    """Return pytorch_optimizer's, which calls the decay without a division decoupled."""
    return po.Adan(params, lr=lr, betas=(beta1, beta2, beta3), weight_decouple=no_prox, **further)


WITNESSES = [
    Witness(
        "pytorch_optimizer.Adan",
        from_torch("pytorch_optimizer", adan),
        [
            {
                "lr": 0.1,
                "beta1": 0.98,
                "beta2": 0.92,
                "beta3": 0.99,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "no_prox": False,
            },
            {"lr": 0.1, "beta1": 0.9, "beta2": 0.8, "beta3": 0.95, "eps": 1e-3, "weight_decay": 0.3, "no_prox": False},
            {"lr": 0.1, "beta1": 0.9, "beta2": 0.8, "beta3": 0.95, "eps": 1e-3, "weight_decay": 0.3, "no_prox": True},
        ],
        {"m": "exp_avg", "d": "exp_avg_diff", "v": "exp_avg_sq"},
    ),
    Witness(
        "optax.adan",
        from_optax(
            lambda optax, lr, beta1, beta2, beta3, eps, weight_decay, no_prox: optax.adan(
                lr, beta1, beta2, beta3, eps, eps_root=0.0, weight_decay=weight_decay
            )
        ),
        [{"lr": 0.1, "beta1": 0.98, "beta2": 0.5, "beta3": 0.99, "eps": 1e-6, "weight_decay": 0.1, "no_prox": True}],
        {
            "m": lambda state: state[0].m,
            "d": lambda state: state[0].v,
            "v": lambda state: state[0].n,
            "previous": lambda state: state[0].g,
        },
    ),
]
