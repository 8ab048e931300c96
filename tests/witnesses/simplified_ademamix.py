"""Simplified AdEMAMix: optax has the authors' form.

Pytorch_optimizer averages the buffer, and divides by sqrt(1 - beta2^t) where the authors multiply.
"""

from witnesses import Witness, from_optax

WITNESSES = [
    Witness(
        "optax.contrib.simplified_ademamix",
        from_optax(
            lambda optax, lr, beta1, beta2, alpha, eps, weight_decay: optax.contrib.simplified_ademamix(
                lr, beta1, beta2, alpha, eps, weight_decay=weight_decay
            )
        ),
        [
            {"lr": 0.01, "beta1": 0.99, "beta2": 0.95, "alpha": 0.0, "eps": 1e-8, "weight_decay": 0.0},
            {"lr": 0.02, "beta1": 0.9, "beta2": 0.99, "alpha": 10.0, "eps": 1e-3, "weight_decay": 0.3},
        ],
        {"m": lambda state: state[0].m, "v": lambda state: state[0].n},
    ),
]
