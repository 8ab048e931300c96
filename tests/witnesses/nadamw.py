"""NAdamW: a script, and torch's AdamW stepped with another mean.

No installed package has it: optax's nadamw corrects the mean by 1 - beta1^(t + 1), torch's NAdam has a growing momentum, and
pytorch_optimizer has neither. timm and the code of the AlgoPerf benchmark have it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from witnesses import Witness, from_script, from_torch


def nadamw(
    s: Any, t: int, p: Any, g: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
) -> Any:
    """Dozat's mean: Adam's, with the new gradient once more, as in the baselines of AlgoPerf."""
    if t == 1:
        s.m = s.v = 0.0
    s.m = np.asarray(beta1 * s.m + (1 - beta1) * g)
    s.v = np.asarray(beta2 * s.v + (1 - beta2) * g**2)
    ahead = (beta1 * s.m + (1 - beta1) * g) / (1 - beta1**t)
    root = np.sqrt(s.v) / math.sqrt(1 - beta2**t)
    return p * (1 - lr * weight_decay) - lr * ahead / (root + eps)


def torch_adamw(torch: Any, tensors: Any, *, beta1: float, beta2: float, **arguments: Any) -> Any:
    return torch.optim.AdamW(tensors, betas=(beta1, beta2), **arguments)


def step_with_the_next_mean(optimizer: Any) -> None:
    """Let AdamW put the gradient into a mean that has it already; the mean itself is kept beside."""
    import torch

    (group,) = optimizer.param_groups
    beta1 = group["betas"][0]
    for tensor in group["params"]:
        state = optimizer.state[tensor]
        if not state:
            state |= {"step": torch.tensor(0.0), "m": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}
        state["m"] = beta1 * state["m"] + (1 - beta1) * tensor.grad
        state["exp_avg"] = state["m"].clone()
    optimizer.step()


ARGUMENTS = [
    {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-2},
    {"lr": 0.05, "beta1": 0.6, "beta2": 0.9, "eps": 1e-2, "weight_decay": 0.1},
]

WITNESSES = [
    Witness("script", from_script(nadamw), ARGUMENTS, {"m": "m", "v": "v"}),
    Witness(
        "torch.optim.AdamW",
        from_torch("torch", torch_adamw, step_with_the_next_mean),
        ARGUMENTS,
        {"m": "m", "v": "exp_avg_sq"},
    ),
]
