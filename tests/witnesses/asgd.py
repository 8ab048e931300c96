"""ASGD: torch. The ASGD of pytorch_optimizer is another method, and neither optax nor keras has one."""

from __future__ import annotations

from witnesses import COMMON, TorchOptim, Witness, from_torch, in_pairs

#: `installed` makes float64 torch's default dtype: `eta` and `mu` have that dtype.
TORCH = TorchOptim(
    "ASGD",
    in_pairs(lambd=0.1, alpha=0.5, t0=5.0, **COMMON),
    {"ax": "ax", "eta": "eta", "mu": "mu"},
    fused=False,
    scheduled={
        "lambd": lambda s: 0.1 + 0.01 * s,
        "alpha": lambda s: 0.5 + 0.01 * s,
        "t0": lambda s: 10.0 - 0.2 * s,
        "weight_decay": lambda s: 0.1 / (s + 1),
    },
)

WITNESSES = [
    Witness(
        "torch.optim.ASGD",
        from_torch("torch", lambda torch, tensors, **arguments: torch.optim.ASGD(tensors, **arguments)),
        [
            {"lr": 0.01, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6},
            {"lr": 0.05, "lambd": 0.1, "alpha": 0.5, "t0": 5.0},
        ],
        {"ax": "ax", "eta": "eta", "mu": "mu"},
    )
]
