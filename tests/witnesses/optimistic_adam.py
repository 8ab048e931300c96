"""OptimisticAdam's witnesses."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_optax


def optax(optax: Any, *, lr: float, beta1: float, beta2: float, eps: float, optimism: float) -> Any:
    """Compose it of the two parts of optimistic_adam_v2, the second with the paper's start, a direction of 0."""
    import jax.numpy as jnp

    optimistic = optax.scale_by_optimistic_gradient(alpha=1.0, beta=optimism)

    def init(params: Any) -> Any:
        return optimistic.init(params)._replace(is_initial_step=jnp.array(False))

    return optax.chain(
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=eps),
        optax.GradientTransformation(init, optimistic.update),
        optax.scale_by_learning_rate(lr),
    )


def from_the_second(optax: Any, *, lr: float, beta1: float, beta2: float, eps: float, optimism: float) -> Any:
    """Take optimistic_adam_v2 itself, with the first step, which is Adam's there, made as long as the paper's."""

    def rate(count: Any) -> Any:
        import jax.numpy as jnp

        return jnp.where(count == 0, lr * (1 + optimism), lr)

    return optax.optimistic_adam_v2(rate, alpha=1.0, beta=optimism, b1=beta1, b2=beta2, eps=eps, nesterov=False)


CASES: list[dict[str, Any]] = [
    {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "optimism": 1.0},
    {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "optimism": 0.3},
    {"lr": 0.1, "beta1": 0.0, "beta2": 0.99, "eps": 1e-8, "optimism": 0.0},
]

WITNESSES = [
    Witness(
        "optax.scale_by_optimistic_gradient",
        from_optax(optax),
        CASES,
        {
            "m": lambda state: state[0].mu,
            "v": lambda state: state[0].nu,
            "u": lambda state: state[1].previous_gradient,
        },
    ),
    Witness("optax.optimistic_adam_v2", from_optax(from_the_second), CASES),
]
