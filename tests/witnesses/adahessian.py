"""AdaHessian: pytorch_optimizer, a script, and torch's AdamW where the diagonal is the gradient."""

from __future__ import annotations

from typing import Any

from witnesses import BETAS, COMMON, MOMENTS, Arrays, TorchOptim, Witness, alone, from_script, from_torch


def po_adahessian(
    po: Any, tensors: Any, *, beta1: float, beta2: float, half_power: bool = False, **further: Any
) -> Any:
    return po.AdaHessian(tensors, betas=(beta1, beta2), hessian_power=0.5 if half_power else 1.0, **further)


def step(optimizer: Any, *, hessian: Arrays) -> None:
    import torch

    optimizer.step(hessian=[torch.from_numpy(each) for each in hessian])


def script(s: Any, t: int, p: Any, g: Any, h: Any, *, lr: float, beta1: float, beta2: float, eps: float,
           weight_decay: float, half_power: bool = False) -> Any:  # fmt: skip
    """Yao et al. (2021), Algorithm 1 with k = 1 or 1/2: the diagonal h where Adam has g in the second moment."""
    if t == 1:
        s.m = s.v = 0.0
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * h * h
    root = (s.v / (1 - beta2**t)) ** ((0.5 if half_power else 1) / 2)
    return p * (1 - lr * weight_decay) - lr * s.m / (1 - beta1**t) / (root + eps)


ARGUMENTS = [{"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": decay} for decay in (0.0, 0.1)]
ARGUMENTS.append(ARGUMENTS[1] | {"half_power": True})

# With the gradient for the Hessian's diagonal the rule is AdamW's, but for the default of lr.
TORCH = TorchOptim(
    "AdamW",
    [{"lr": 0.1, "weight_decay": 0.0} | options for options in alone(eps=1e-3, **BETAS, **COMMON)],
    MOMENTS,
    words={"weight_decay": "weight_decay"},
    inputs=("hessian",),
)

WITNESSES = [
    Witness(
        "pytorch_optimizer.AdaHessian",
        from_torch("pytorch_optimizer", po_adahessian, step),
        ARGUMENTS,
        {"m": "exp_avg", "v": "exp_hessian_diag_sq"},
    ),
    Witness("script", from_script(script), ARGUMENTS, {"m": "m", "v": "v"}),
]
