"""Yogi: optax and pytorch_optimizer also start the mean from `initial_accumulator`, TensorFlow Addons and we from 0."""

from typing import Any

from witnesses import Witness, from_optax, from_torch


def yogi(optax: Any, lr: float, beta1: float, beta2: float, eps: float, initial_accumulator: float) -> Any:
    """Return optax's Yogi with a mean that starts from 0."""
    rule = optax.scale_by_yogi(beta1, beta2, eps, initial_accumulator_value=initial_accumulator)

    def init(params: Any) -> Any:
        return rule.init(params)._replace(mu=optax.tree.zeros_like(params))

    return optax.chain(optax.GradientTransformation(init, rule.update), optax.scale_by_learning_rate(lr))


WITNESSES = [
    Witness(
        "optax.yogi",
        from_optax(yogi),
        [
            {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-3, "initial_accumulator": 1e-6},
            {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "eps": 1e-8, "initial_accumulator": 0.5},
        ],
        {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
    ),
    Witness(
        "pytorch_optimizer.Yogi",
        from_torch(
            "pytorch_optimizer",
            lambda po, params, lr, beta1, beta2, eps, initial_accumulator: po.Yogi(
                params, lr=lr, betas=(beta1, beta2), eps=eps, initial_accumulator=initial_accumulator
            ),
        ),
        [{"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-4, "initial_accumulator": 0.0}],
        {"m": "exp_avg", "v": "exp_avg_sq"},
    ),
]
