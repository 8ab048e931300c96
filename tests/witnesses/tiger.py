"""Tiger: the author's own code is for TensorFlow 1, and scales the rate by the size of a tensor besides."""

from witnesses import Witness, from_torch

WITNESSES = [
    Witness(
        "pytorch_optimizer.Tiger",
        from_torch("pytorch_optimizer", lambda po, params, **arguments: po.Tiger(params, **arguments)),
        [{"lr": 0.05, "beta": 0.965, "weight_decay": 0.01}, {"lr": 0.01, "beta": 0.3, "weight_decay": 0.5}],
        {"m": "exp_avg"},
    )
]
