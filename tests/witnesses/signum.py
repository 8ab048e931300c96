"""Signum."""

from witnesses import Witness, from_optax, from_torch

CASES = [{"lr": 0.05, "beta": 0.9}, {"lr": 0.01, "beta": 0.3}]

WITNESSES = [
    Witness(
        "optax.signum",
        from_optax(lambda optax, *, lr, beta: optax.signum(lr, beta=beta)),
        CASES,
        {"m": lambda state: state[0].ema},
    ),
    Witness(
        "pytorch_optimizer.SignSGD",
        from_torch("pytorch_optimizer", lambda po, params, *, lr, beta: po.SignSGD(params, lr=lr, momentum=beta)),
        CASES,
        {"m": "momentum_buffer"},
    ),
]
