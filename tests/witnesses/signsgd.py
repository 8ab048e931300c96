"""SignSGD."""

from witnesses import Witness, from_optax, from_torch

WITNESSES = [
    Witness("optax.sign_sgd", from_optax(lambda optax, *, lr: optax.sign_sgd(lr)), [{"lr": 0.05}]),
    Witness(
        "pytorch_optimizer.SignSGD",
        from_torch("pytorch_optimizer", lambda po, params, *, lr: po.SignSGD(params, lr=lr, momentum=0.0)),
        [{"lr": 0.05}],
    ),
]
