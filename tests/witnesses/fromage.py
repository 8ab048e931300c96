"""Fromage: pytorch_optimizer has the authors' form, and optax where it has no least norm."""

from witnesses import Witness, from_optax, from_torch

CASES = [{"lr": 0.01}, {"lr": 0.3}]

WITNESSES = [
    Witness("optax.fromage", from_optax(lambda optax, lr: optax.fromage(lr, min_norm=0.0)), CASES),
    Witness(
        "pytorch_optimizer.Fromage",
        from_torch("pytorch_optimizer", lambda po, params, lr: po.Fromage(params, lr=lr)),
        CASES,
    ),
]
