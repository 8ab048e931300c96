"""ADOPT: optax without decay, here with a decay from the second step on; pytorch_optimizer with its clip one step earlier."""

from typing import Any

from witnesses import Witness, from_optax, from_torch


def adopt(optax: Any, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> Any:
    """Return optax's, with the authors' decoupled decay: none in the first step."""
    return optax.chain(
        optax.contrib.scale_by_adopt(beta1, beta2, eps),
        optax.add_decayed_weights(lambda count: (count > 0) * weight_decay),
        optax.scale_by_learning_rate(lr),
    )


WITNESSES = [
    Witness(
        "optax.contrib.adopt",
        from_optax(adopt),
        [
            {"lr": 0.1, "beta1": 0.9, "beta2": 0.9999, "eps": 1e-6, "weight_decay": 0.0},
            {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-1, "weight_decay": 0.3},
        ],
        {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
    ),
    Witness(
        "pytorch_optimizer.ADOPT",
        from_torch(
            "pytorch_optimizer",
            lambda po, params, lr, beta1, beta2, eps, l2: po.ADOPT(
                params,
                lr=lr,
                betas=(beta1, beta2),
                eps=eps,
                weight_decay=l2,
                clip_lambda=lambda step: (step - 1) ** 0.25,
            ),
        ),
        [
            {"lr": 0.1, "beta1": 0.9, "beta2": 0.9999, "eps": 1e-6, "l2": 0.0},
            {"lr": 0.1, "beta1": 0.7, "beta2": 0.95, "eps": 1e-3, "l2": 0.1},
        ],
        {"m": "exp_avg", "v": "exp_avg_sq"},
    ),
]
