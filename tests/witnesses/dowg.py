"""DoWG's witnesses."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_optax


def optax(optax: Any, *, lr: float, initial_distance: float, eps: float) -> Any:
    return optax.contrib.dowg(lr, init_estim_sq_dist=initial_distance * initial_distance, eps=eps)


def with_one_eps(optax: Any, *, lr: float, initial_distance: float, eps: float) -> Any:
    """Let eps be the square of the first distance as well, as the authors do."""
    return optax.contrib.dowg(lr, eps=eps)


CASES: list[dict[str, Any]] = [
    {"lr": 1.0, "initial_distance": 1e-2, "eps": 1e-4},
    {"lr": 0.5, "initial_distance": 0.3, "eps": 1.0},
    {"lr": 1.0, "initial_distance": 1e-3, "eps": 0.0},
]
SLOTS = {"r2": lambda state: state[1].estim_sq_dist, "v": lambda state: state[1].weighted_sq_norm_grads}

WITNESSES = [
    Witness("optax.contrib.dowg", from_optax(optax), CASES, SLOTS, convex=True),
    Witness("optax.contrib.dowg", from_optax(optax), CASES, SLOTS),
    Witness("optax.contrib.dowg", from_optax(with_one_eps), CASES[:1], SLOTS, convex=True),
]
