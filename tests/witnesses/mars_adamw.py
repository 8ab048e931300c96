"""MARSAdamW's witnesses: a package for the correction and the averages, AdamW of another one for the step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from witnesses import Witness, from_optax, from_torch


def po(pytorch_optimizer: Any, params: Any, *, beta1: float, beta2: float, **further: Any) -> Any:
    """Build it for vectors as well."""

    class MARS(pytorch_optimizer.MARS):  # type: ignore[misc]
        """With the paper's denominator: the package's has eps beside the uncorrected root, and 1e-15 under it."""

        def apply_ams_bound(self, ams_bound: bool, exp_avg_sq: Any, max_exp_avg_sq: Any, eps: float) -> Any:
            assert not ams_bound
            return exp_avg_sq.sqrt().add_(eps * math.sqrt(1 - beta2 ** self.param_groups[0]["step"]))

    return MARS(params, betas=(beta1, beta2), optimize_1d=True, foreach=False, **further)


def adamw(optax: Any, *, lr: float, beta1: float, beta2: float, gamma: float, eps: float, weight_decay: float) -> Any:
    """Put the paper's correction in front of AdamW."""

    def correction(grads: Any, last: Any, params: Any = None) -> Any:
        changed = [g + gamma * beta1 / (1 - beta1) * (g - old) for g, old in zip(grads, last, strict=True)]
        return [c / max(1.0, float(np.linalg.norm(c))) for c in changed], grads

    return optax.chain(
        optax.GradientTransformation(optax.tree.zeros_like, correction),
        optax.adamw(lr, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay),
    )


CASES: list[dict[str, Any]] = [
    {"lr": 3e-3, "beta1": 0.95, "beta2": 0.99, "gamma": 0.025, "eps": 1e-8, "weight_decay": 0.0},
    {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "gamma": 0.3, "eps": 1e-3, "weight_decay": 0.1},
    {"lr": 0.1, "beta1": 0.0, "beta2": 0.5, "gamma": 1.0, "eps": 1e-8, "weight_decay": 0.0},
]

WITNESSES = [
    Witness(
        "pytorch_optimizer.MARS",
        from_torch("pytorch_optimizer", po),
        CASES,
        {"m": "exp_avg", "v": "exp_avg_sq", "g_last": "last_grad"},
    ),
    Witness(
        "optax.adamw",
        from_optax(adamw),
        CASES,
        {"m": lambda state: state[1][0].mu, "v": lambda state: state[1][0].nu, "g_last": lambda state: state[0]},
    ),
]
