"""NovoGrad: optax and pytorch_optimizer."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_optax, from_torch


def optax_novograd(optax: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> Any:
    return optax.novograd(lr, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay)


def po_novograd(po: Any, tensors: Any, *, beta1: float, beta2: float, **further: Any) -> Any:
    return po.NovoGrad(tensors, betas=(beta1, beta2), **further)


ARGUMENTS = [{"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": decay} for decay in (0.0, 0.1)]

WITNESSES = [
    Witness(
        "optax.novograd",
        from_optax(optax_novograd),
        ARGUMENTS,
        {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
        zeros=False,  # where optax divides 0 by 0
    ),
    Witness(
        "pytorch_optimizer.NovoGrad",
        from_torch("pytorch_optimizer", po_novograd),
        ARGUMENTS,
        {"m": "moments", "v": "grads_ema"},
    ),
]
