"""NAdam: torch; keras, whose momentum grows at a rate of 1. Optax's nadam has a constant momentum."""

from __future__ import annotations

from typing import Any

from witnesses import BETAS, COMMON, MOMENTS, TorchOptim, Witness, from_keras, from_torch, in_pairs


def keras_nadam(keras: Any, *, lr: float, beta1: float, beta2: float, eps: float, momentum_decay: float) -> Any:
    assert momentum_decay == 1
    return keras.optimizers.Nadam(lr, beta_1=beta1, beta_2=beta2, epsilon=eps)


def torch_nadam(torch: Any, tensors: Any, *, beta1: float, beta2: float, **arguments: Any) -> Any:
    return torch.optim.NAdam(tensors, betas=(beta1, beta2), **arguments)


#: `installed` makes float64 torch's default dtype: the product of the momenta has that dtype.
TORCH = TorchOptim(
    "NAdam",
    in_pairs(eps=1e-3, momentum_decay=0.1, **BETAS, **COMMON),
    MOMENTS | {"mu_product": "mu_product"},
    fused=False,
    scheduled={
        "betas": lambda s: (0.5 + 0.01 * s, 0.9 + 0.003 * s),
        "eps": lambda s: 10.0 ** -(s / 5 + 1),
        "momentum_decay": lambda s: 0.01 * s,
    },
    not_here={"decoupled_weight_decay": "no class of ours has both a growing momentum and a decoupled decay"},
)

WITNESSES = [
    Witness(
        "torch.optim.NAdam",
        from_torch("torch", torch_nadam),
        [
            {"lr": 2e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "momentum_decay": 4e-3},
            {"lr": 0.05, "beta1": 0.6, "beta2": 0.9, "eps": 1e-2, "momentum_decay": 0.1},
        ],
        MOMENTS | {"mu_product": "mu_product"},
    ),
    Witness(
        "keras.optimizers.Nadam",
        from_keras(keras_nadam),
        [{"lr": 0.05, "beta1": 0.6, "beta2": 0.9, "eps": 1e-2, "momentum_decay": 1.0}],
        {
            "m": lambda opt: opt._momentums,
            "v": lambda opt: opt._velocities,
        },
    ),
]
