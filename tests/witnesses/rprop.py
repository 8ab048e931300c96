"""Rprop: torch. Optax applies each step one call late, and not at all where the sign changes in that call."""

from __future__ import annotations

from witnesses import TorchOptim, in_pairs

OPTIONS = {"lr": 0.05, "etas": (0.3, 1.5), "step_sizes": (0.02, 0.1), "maximize": True}

TORCH = TorchOptim(
    "Rprop",
    # With lr=0 ours does not move, and torch's does not either where the least size is 0: so in the tests of groups and
    # schedules, which take the last options and have such rates.
    [*in_pairs(**OPTIONS), OPTIONS | {"step_sizes": (0.0, 0.1)}],
    {"prev": "prev", "step_size": "step_size"},
    # It has no weight_decay, and ignores one in a group.
    words={"etas": ("eta_minus", "eta_plus"), "step_sizes": ("step_min", "step_max"), "weight_decay": None},
    fused=False,
    scheduled={
        "etas": lambda s: (0.3 + 0.01 * s, 1.1 + 0.02 * s),
        "step_sizes": lambda s: (1e-3 * (s + 1), 0.05 + 0.01 * s),
    },
)
