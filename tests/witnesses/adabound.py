"""AdaBound: pytorch_optimizer has the authors' form, but adds 1e-15 inside the root; scheduled step sizes by a script."""

from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from witnesses import Witness, from_script, from_torch


def without_constant(
    po: ModuleType, params: Any, lr: float, beta1: float, beta2: float, *, largest: bool, **further: Any
) -> Any:
    """Return pytorch_optimizer's, with nothing inside the root but the second moment."""

    class Plain(po.AdaBound):  # type: ignore[misc]
        @staticmethod
        def apply_ams_bound(*, eps: float, **moments: Any) -> Any:
            return po.AdaBound.apply_ams_bound(**moments, eps=eps, exp_avg_sq_eps=0.0)

    return Plain(params, lr=lr, betas=(beta1, beta2), ams_bound=largest, foreach=False, **further)


def script(
    s: Any, t: int, p: NDArray[Any], g: NDArray[Any], *, lr: float, beta1: float, beta2: float, final_lr: float,
    gamma: float, eps: float, largest: bool,
) -> NDArray[Any]:  # fmt: skip
    """Step as Algorithm 2 says, or with the largest second moment as Algorithm 3, bias-corrected as in the authors' code."""
    s.base_lr = getattr(s, "base_lr", np.float64(0)) or np.float64(lr)
    s.m = beta1 * getattr(s, "m", 0 * p) + (1 - beta1) * g
    s.v = beta2 * getattr(s, "v", 0 * p) + (1 - beta2) * g**2
    s.v_max = np.maximum(getattr(s, "v_max", 0 * p), s.v)
    adaptive = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) / (np.sqrt(s.v_max if largest else s.v) + eps)
    final = final_lr * lr / s.base_lr if s.base_lr else 0.0
    return p - np.minimum(np.maximum(adaptive, final - final / (gamma * t + 1)), final + final / (gamma * t)) * s.m


CASES = [
    {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "final_lr": 0.1, "gamma": 0.001, "eps": 1e-8},
    {"lr": 0.01, "beta1": 0.5, "beta2": 0.9, "final_lr": 0.05, "gamma": 0.5, "eps": 1e-3},
]


def witnesses(largest: bool) -> list[Witness]:
    """Return those of AdaBound, or of AMSBound, which keeps the largest second moment."""
    slots = {"m": "m", "v": "v"} | ({"v_max": "v_max"} if largest else {})
    theirs = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}
    return [
        Witness(
            "pytorch_optimizer.AdaBound",
            from_torch("pytorch_optimizer", partial(without_constant, largest=largest)),
            CASES,
            {slot: theirs[slot] for slot in slots},
        ),
        Witness(
            "script",
            from_script(partial(script, largest=largest)),
            [
                *CASES,
                CASES[1] | {"lr": lambda step: 0.1 / (1 + step)},
                CASES[1] | {"lr": lambda step: 0.01 * min(step, 10)},  # a warm-up from 0
            ],
            slots | {"base_lr": "base_lr"},
        ),
    ]


WITNESSES = witnesses(largest=False)
