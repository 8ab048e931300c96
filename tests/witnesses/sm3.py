"""SM3: optax's, and pytorch_optimizer's, which adds squares up where its beta is 0."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from witnesses import Witness, from_optax, from_torch


def optax_sm3(optax: Any, *, lr: float, momentum: float, beta2: float, eps: float) -> Any:
    """Return optax's rule, over vectors of one element in place of numbers, which it cannot step."""
    tree = importlib.import_module("jax").tree
    jnp = importlib.import_module("jax.numpy")
    inner = optax.chain(optax.scale_by_sm3(momentum, beta2, eps), optax.scale_by_learning_rate(lr))

    def init(params: Any) -> Any:
        return inner.init(tree.map(jnp.atleast_1d, params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        found, state = inner.update(tree.map(jnp.atleast_1d, updates), state)
        return tree.map(lambda each, like: each.reshape(like.shape), found, updates), state

    return optax.GradientTransformation(init, update)


def accumulators(state: Any) -> list[Any]:
    return [np.concatenate(each) if len(each) > 1 else None for each in state[0].mu]


def squares(state: Any) -> list[Any]:
    first, *others = [np.asarray(each[0]) if len(each) == 1 else None for each in state[0].mu]
    return [first.reshape(()), *others]  # type: ignore[union-attr]


def means(state: Any) -> list[Any]:
    first, *others = state[0].nu
    return [np.asarray(first).reshape(()), *others]


def po_sm3(pytorch_optimizer: Any, params: Any, **arguments: Any) -> Any:
    return pytorch_optimizer.SM3(params, **arguments)


CASES: list[dict[str, Any]] = [
    {"lr": 0.1, "momentum": 0.8, "beta2": beta2, "eps": eps} for beta2, eps in ((1.0, 1e-3), (0.9, 0.0))
]

WITNESSES = [
    Witness(
        "optax.scale_by_sm3", from_optax(optax_sm3), CASES, {"accumulators": accumulators, "v": squares, "m": means}
    ),
    Witness(
        "pytorch_optimizer.SM3",
        from_torch("pytorch_optimizer", po_sm3),
        [{"lr": 0.1, "momentum": momentum, "eps": 1e-3} for momentum in (0.0, 0.9)],
        {"m": "momentum_buffer"},
    ),
]
