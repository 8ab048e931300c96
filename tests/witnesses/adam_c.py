"""AdamC."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from witnesses import Witness, from_script, from_torch, step_with_plain_eps, with_plain_eps


@dataclass(frozen=True)
class Ramp:
    """A step size that rises to its peak over ten steps, then falls to 0 over twenty."""

    peak: float

    def __call__(self, step: int) -> float:
        return self.peak * min(step / 10, (30 - step) / 20)


def _build(
    po: Any, params: Any, *, lr: float | Callable[[int], float], beta1: float, beta2: float, eps: float, weight_decay: float,
    max_lr: float, correction: float,
) -> Any:  # fmt: skip
    group = {"params": params, "normalized": correction == 1.0}
    optimizer = po.AdamC([group], betas=(beta1, beta2), weight_decay=weight_decay, foreach=False)
    optimizer.max_lr = max_lr
    return with_plain_eps(optimizer, lr, eps)


def _paper(
    s: SimpleNamespace, t: int, p: NDArray[Any], g: NDArray[Any], *, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, max_lr: float, correction: float,
) -> NDArray[Any]:  # fmt: skip
    """Step as Algorithm 1, with the largest rate so far for the peak, and between its two kinds of layers."""
    if t == 1:
        s.m, s.v, s.lr_max = np.zeros_like(p), np.zeros_like(p), np.zeros(())
    s.m, s.v = beta1 * s.m + (1 - beta1) * g, beta2 * s.v + (1 - beta2) * g**2
    s.lr_max = np.maximum(s.lr_max, lr)
    corrected = lr**2 / max(max_lr, float(s.lr_max)) if lr else 0.0
    u = s.m / (1 - beta1**t) / (np.sqrt(s.v / (1 - beta2**t)) + eps)
    return np.asarray(p - lr * u - (correction * corrected + (1 - correction) * lr) * weight_decay * p)


DEFAULT = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.3}
OTHER = {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.5}

WITNESSES = [
    Witness(
        "pytorch_optimizer.AdamC",
        from_torch("pytorch_optimizer", _build, step_with_plain_eps),
        [
            DEFAULT | {"lr": 0.05, "max_lr": 0.05, "correction": 1.0},
            OTHER | {"lr": 0.05, "max_lr": 0.2, "correction": 1.0},
            OTHER | {"lr": Ramp(0.1), "max_lr": 0.1, "correction": 1.0},
            OTHER | {"lr": Ramp(0.1), "max_lr": 0.1, "correction": 0.0},
        ],
        {"m": "exp_avg", "v": "exp_avg_sq"},
    ),
    Witness(
        "script",
        from_script(_paper),
        [
            DEFAULT | {"lr": Ramp(0.1), "max_lr": 0.1, "correction": 1.0},
            OTHER | {"lr": Ramp(0.1), "max_lr": 0.0, "correction": 1.0},
            OTHER | {"lr": Ramp(0.1), "max_lr": 0.05, "correction": 0.25},
        ],
        {"m": "m", "v": "v", "lr_max": "lr_max"},
    ),
]
