"""FTRL."""

from typing import Any

from witnesses import Witness, from_keras, from_torch


def _keras(keras: Any, *, lr: float, beta: float, lambda1: float, lambda2: float, initial_accumulator: float) -> Any:
    return keras.optimizers.Ftrl(
        learning_rate=lr,
        beta=beta,
        l1_regularization_strength=lambda1,
        l2_regularization_strength=lambda2 / 2,  # which it doubles
        initial_accumulator_value=initial_accumulator,
    )


def _po(po: Any, params: Any, *, lr: float, beta: float, lambda1: float, lambda2: float) -> Any:
    return po.FTRL(params, lr=lr, beta=beta, lambda_1=lambda1, lambda_2=lambda2)


PAPER = [
    {"lr": 0.05, "beta": 1.0, "lambda1": 0.0, "lambda2": 0.0},
    {"lr": 0.1, "beta": 0.5, "lambda1": 2.0, "lambda2": 0.0},
    {"lr": 0.1, "beta": 0.5, "lambda1": 0.0, "lambda2": 3.0},
    {"lr": 0.3, "beta": 0.1, "lambda1": 1.0, "lambda2": 0.5},
]

WITNESSES = [
    Witness(
        "keras.optimizers.Ftrl",
        from_keras(_keras),
        [
            *(case | {"initial_accumulator": 0.0} for case in PAPER),
            {"lr": 0.05, "beta": 0.0, "lambda1": 0.5, "lambda2": 0.5, "initial_accumulator": 0.1},
        ],
        {"z": lambda optimizer: optimizer._linears, "n": lambda optimizer: optimizer._accumulators},
    ),
    Witness("pytorch_optimizer.FTRL", from_torch("pytorch_optimizer", _po), PAPER, {"z": "z", "n": "n"}),
]
