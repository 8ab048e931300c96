"""LaProp: the authors' file does not run on today's torch; pytorch_optimizer's is made from it."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from witnesses import Witness, from_script, from_torch, step_with_plain_eps, with_plain_eps


@dataclass(frozen=True)
class Wave:
    """A step size that rises and falls, and is 0 every seventh step where `stops`."""

    peak: float
    stops: bool = False

    def __call__(self, step: int) -> float:
        return 0.0 if self.stops and step % 7 == 0 else self.peak * (1.2 + np.sin(step)) / 2.2


def _build(
    po: Any,
    params: Any,
    *,
    lr: float | Callable[[int], float],
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Any:
    optimizer = po.LaProp(
        params, betas=(beta1, beta2), weight_decay=weight_decay, foreach=False
    )  # float32 with foreach
    return with_plain_eps(optimizer, lr, eps)


def _paper(
    s: SimpleNamespace,
    t: int,
    p: NDArray[Any],
    g: NDArray[Any],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> NDArray[Any]:
    """Step as the paper and the authors' code, but for lr=0 and the decay: with sums in place of running means."""
    if t == 1:
        s.past, s.squares = [], np.zeros_like(p)
    s.squares = s.squares * beta2 + g**2
    v = s.squares * (1 - beta2)
    s.past.append((lr, g / (np.sqrt(v / (1 - beta2**t)) + eps)))
    weights = [rate * beta1 ** (t - 1 - i) for i, (rate, _) in enumerate(s.past)]
    s.v, s.m = v, (1 - beta1) * sum(w * u for w, (_, u) in zip(weights, s.past, strict=True))
    s.lr_mean = np.asarray((1 - beta1) * sum(weights))
    if lr == 0:
        return p
    p = p - lr * sum(w / sum(weights) * u for w, (_, u) in zip(weights, s.past, strict=True))
    return np.asarray(p - lr * weight_decay * p)


DEFAULT = {"lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-15, "weight_decay": 0.0}
OTHER = {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}

WITNESSES = [
    Witness(
        "pytorch_optimizer.LaProp",
        from_torch("pytorch_optimizer", _build, step_with_plain_eps),
        [DEFAULT, OTHER, OTHER | {"lr": Wave(0.1)}],
        {"m": "exp_avg", "v": "exp_avg_sq"},
    ),
    Witness(
        "script",
        from_script(_paper),
        [DEFAULT, OTHER, OTHER | {"lr": Wave(0.1)}, OTHER | {"lr": Wave(0.1, stops=True)}],
        {"m": "m", "v": "v", "lr_mean": "lr_mean"},
    ),
]
