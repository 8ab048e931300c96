"""DoG's witnesses."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_optax


def optax(optax: Any, *, lr: float, initial_distance: float, eps: float) -> Any:
    return optax.contrib.dog(lr, init_step=("heuristic", initial_distance), eps=eps)


CASES: list[dict[str, Any]] = [
    {"lr": 1.0, "initial_distance": 1e-6, "eps": 1e-8},
    {"lr": 0.5, "initial_distance": 1e-2, "eps": 10.0},
    {"lr": 1.0, "initial_distance": 1e-4, "eps": 0.0},
]
SLOTS = {"r": lambda state: state[1].max_dist, "n": lambda state: state[1].sum_sq_norm_grads}

WITNESSES = [
    Witness("optax.contrib.dog", from_optax(optax), CASES, SLOTS, convex=True),
    Witness("optax.contrib.dog", from_optax(optax), CASES, SLOTS),
]
