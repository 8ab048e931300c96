"""RMSprop: torch, with eps outside the root; optax, with eps on either side."""

from __future__ import annotations

import itertools
from typing import Any

from witnesses import COMMON, TorchOptim, Witness, from_optax, in_pairs


def optax_rmsprop(
    optax: Any, *, lr: float, alpha: float, eps: float, centered: bool, momentum: float, eps_inside: bool
) -> Any:
    # The rate inside the buffer and outside are the same while it does not change.
    return optax.rmsprop(lr, decay=alpha, eps=eps, centered=centered, momentum=momentum or None, eps_in_sqrt=eps_inside)


ARGUMENTS = {"lr": 0.01, "alpha": 0.9, "eps": 1e-3}

TORCH = TorchOptim(
    "RMSprop",
    in_pairs(alpha=0.5, eps=1e-3, centered=True, momentum=0.9, **COMMON),
    {"v": "square_avg", "m": "grad_avg", "buffer": "momentum_buffer"},
    fused=False,
    scheduled={
        "alpha": lambda s: 0.9 + 0.003 * s,
        "momentum": lambda s: 0.5 + 0.01 * s,
        "eps": lambda s: 10.0 ** -(s + 1),
    },
)

WITNESSES = [
    Witness(
        "optax.rmsprop",
        from_optax(optax_rmsprop),
        [
            ARGUMENTS | {"centered": centered, "momentum": momentum, "eps_inside": inside}
            for momentum, centered, inside in itertools.product((0.0, 0.8), (False, True), (False, True))
        ],
        {
            "v": lambda state: state[0].nu,
            "m": lambda state: state[0].mu,
            # Optax's buffer holds lr (and the sign) times ours.
            "buffer": lambda state: [trace / -ARGUMENTS["lr"] for trace in state[2].trace],
        },
    )
]
