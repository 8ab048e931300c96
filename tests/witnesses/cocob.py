"""COCOB's witnesses."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_optax


def optax(optax: Any, *, lr: float, alpha: float, eps: float) -> Any:
    return optax.contrib.cocob(lr, alpha=alpha, eps=eps)


CASES: list[dict[str, Any]] = [
    {"lr": 1.0, "alpha": 100.0, "eps": 1e-8},
    {"lr": 0.3, "alpha": 3.0, "eps": 0.5},
    {"lr": 1.0, "alpha": 0.0, "eps": 1e-3},
]
SLOTS = {
    "n": lambda state: state[2].subgradients,
    "largest": lambda state: state[2].scale,
    "reward": lambda state: state[2].reward,
    "s": lambda state: [-each for each in state[2].cumulative_gradients],
    "p0": lambda state: state[2].init_particles,
}

WITNESSES = [
    Witness("optax.contrib.cocob", from_optax(optax), CASES, SLOTS),
    Witness("optax.contrib.cocob", from_optax(optax), CASES, SLOTS, convex=True),
]
