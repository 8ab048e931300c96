"""MoMo: optax, whose step under a weight decay is turned into that of the paper and of the authors' code."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_optax
from witnesses.polyak_sgd import with_loss


def momo(optax: Any, *, lr: float, beta: float, f_min: float, weight_decay: float, adapt_lower_bound: bool) -> Any:
    grown = 1 + lr * weight_decay

    def proximal(updates: Any, params: Any) -> Any:
        """Return (p - tau d) / grown - p for p / grown - tau d - p."""
        return optax.tree.add_scale(optax.tree.scale(1 / grown, updates), -((1 - 1 / grown) ** 2), params)

    optimizer = optax.contrib.momo(lr, beta, f_min, weight_decay, adapt_lower_bound)
    if weight_decay:
        optimizer = optax.chain(optimizer, optax.stateless(proximal))
    return with_loss(optax, optimizer)


def slots(of: Any) -> dict[str, Any]:
    """Return where our slots are, given where optax's state is."""
    return {
        "d": lambda state: of(state).exp_avg,
        "f_bar": lambda state: of(state).barf,
        "gamma": lambda state: of(state).gamma,
        "lower_bound": lambda state: of(state).lb,
    }


PLAIN: list[dict[str, Any]] = [
    {"lr": 1.0, "beta": 0.9, "f_min": 0.0, "weight_decay": 0.0, "adapt_lower_bound": False},
    {"lr": 1.0, "beta": 0.5, "f_min": -10.0, "weight_decay": 0.0, "adapt_lower_bound": False},
    {"lr": 0.1, "beta": 0.9, "f_min": -10.0, "weight_decay": 0.0, "adapt_lower_bound": True},
]
DECAY = [case | {"weight_decay": 0.3} for case in PLAIN]

WITNESSES = [
    Witness("optax.contrib.momo", from_optax(momo), cases, slots(of), convex=convex)
    for cases, of in ((PLAIN, lambda state: state), (DECAY, lambda state: state[0]))
    for convex in (False, True)
]
