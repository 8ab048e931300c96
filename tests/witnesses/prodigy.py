"""Prodigy: the authors' package; a script of it; optax, which always corrects the bias and has no bound of the growth."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from witnesses import STEPS, Arrays, Witness, from_class, from_optax, from_torch


def optax_prodigy(
    optax: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, d0: float, d_coef: float,
    safeguard_warmup: bool, bias_correction: bool,
) -> Any:  # fmt: skip
    assert bias_correction, "optax always corrects"
    return optax.contrib.prodigy(
        lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, estim_lr0=d0, estim_lr_coef=d_coef,
        safeguard_warmup=safeguard_warmup,
    )  # fmt: skip


class Script:
    """Mishchenko & Defazio (2023), Algorithm 4 as the authors' code has it: moments scaled by d, sums over all tensors."""

    def __init__(self, params: Arrays, **hyper: Any) -> None:
        self.h = SimpleNamespace(**hyper)
        self.params, self.p0 = params, params
        self.d = self.d_max = self.h.d0
        self.d_numerator = 0.0
        self.m, self.v, self.s = ([np.zeros_like(p) for p in params] for _ in range(3))
        self.t = 0
        self.estimates: set[float] = set()

    def step(self, grads: Arrays) -> None:
        h, d, self.t = self.h, self.d, self.t + 1
        lr = h.lr(self.t - 1) if callable(h.lr) else h.lr
        correction = math.sqrt(1 - h.beta2**self.t) / (1 - h.beta1**self.t) if h.bias_correction else 1
        rate = d * lr * correction
        beta3 = math.sqrt(h.beta2)
        inner = sum(float((g * (x0 - p)).sum()) for g, x0, p in zip(grads, self.p0, self.params, strict=True))
        self.d_numerator = beta3 * self.d_numerator + d / h.d0 * rate * inner
        self.m = [h.beta1 * m + (1 - h.beta1) * d * g for m, g in zip(self.m, grads, strict=True)]
        self.v = [h.beta2 * v + (1 - h.beta2) * d**2 * g**2 for v, g in zip(self.v, grads, strict=True)]
        weight = d / h.d0 * (d if h.safeguard_warmup else rate)
        self.s = [beta3 * s + weight * g for s, g in zip(self.s, grads, strict=True)]
        denominator = sum(float(np.abs(s).sum()) for s in self.s)
        if denominator > 0:
            d_hat = h.d_coef * self.d_numerator / denominator
            if self.d == h.d0:
                self.d = max(self.d, d_hat)
            self.d_max = max(self.d_max, d_hat)
            self.d = min(self.d_max, self.d * h.growth_rate)
        self.params = [
            p * (1 - h.weight_decay * rate) - rate * m / (np.sqrt(v) + self.d * h.eps)
            for p, m, v in zip(self.params, self.m, self.v, strict=True)
        ]
        self.estimates.add(self.d)
        assert self.t < STEPS or len(self.estimates) > 5, "the estimate moved"


def authors(
    prodigyopt: Any, tensors: Any, *, lr: float | Callable[[int], float], beta1: float, beta2: float,
    bias_correction: bool, **further: Any,
) -> Any:  # fmt: skip
    optimizer = prodigyopt.Prodigy(
        tensors, lr=1.0 if callable(lr) else lr, betas=(beta1, beta2), use_bias_correction=bias_correction, **further
    )
    optimizer.rate = lr
    return optimizer


def step(optimizer: Any) -> None:
    """Step with the rate of the schedule."""
    (group,) = optimizer.param_groups
    if callable(optimizer.rate):
        group["lr"] = optimizer.rate(group["k"])
    optimizer.step()


def flat(name: str) -> Callable[[Any], Arrays]:
    """Return what the authors keep as vectors, and as a single zero for a start of zeros."""

    def arrays(optimizer: Any) -> Arrays:
        tensors = optimizer.param_groups[0]["params"]
        return [np.resize(optimizer.state[tensor][name].numpy(), tuple(tensor.shape)) for tensor in tensors]

    return arrays


def number(name: str) -> Callable[[Any], Any]:
    return lambda optimizer: np.float64(optimizer.param_groups[0][name])


def rising(step: int) -> float:
    """Give the rate of a warm-up."""
    return (step + 1) / 10


COMMON = {"lr": 1.0, "beta1": 0.8, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0, "d0": 1e-6, "d_coef": 1.0}
COMMON |= {"safeguard_warmup": False}

# The estimate rests on p0 - p, whose leading digits cancel where d is small: with weight decay, which both sides round in
# different places, d0 = 1e-6 leaves ten digits of it. So weight decay comes with a larger d0.
CORRECTED: dict[str, Any] = COMMON | {"bias_correction": True}
UNCORRECTED: dict[str, Any] = COMMON | {"bias_correction": False, "growth_rate": math.inf}
AUTHORS: list[dict[str, Any]] = [
    UNCORRECTED,
    UNCORRECTED | {"d0": 1e-3, "eps": 1e-2},
    UNCORRECTED | {"d0": 1e-2, "growth_rate": 1.02, "weight_decay": 0.1},
    UNCORRECTED | {"d0": 1e-4, "growth_rate": 1.2, "bias_correction": True, "d_coef": 0.5},
    UNCORRECTED | {"d0": 1e-3, "safeguard_warmup": True, "lr": rising},
]

WITNESSES = [
    # A convex problem with noise, so that the estimate grows.
    Witness(
        "prodigyopt.Prodigy",
        from_torch("prodigyopt", authors, step),
        AUTHORS,
        {"m": "exp_avg", "v": "exp_avg_sq", "s": flat("s"), "p0": flat("p0")}
        | {name: number(name) for name in ("d", "d_max", "d_numerator")},
        convex=True,
    ),
    Witness(
        "script",
        from_class(Script),
        AUTHORS,
        {name: name for name in ("m", "v", "s", "p0", "d", "d_max", "d_numerator")},
        convex=True,
    ),
    Witness(
        "optax.contrib.prodigy",
        from_optax(optax_prodigy),
        [
            CORRECTED,
            CORRECTED | {"eps": 1e-2, "d0": 1e-3},
            CORRECTED | {"weight_decay": 0.1, "d_coef": 2.0, "d0": 1e-2},
            CORRECTED | {"safeguard_warmup": True, "lr": 0.5, "d0": 1e-4},
        ],
        {
            "m": lambda state: state.exp_avg,
            "v": lambda state: state.exp_avg_sq,
            "s": lambda state: state.grad_sum,
            "p0": lambda state: state.params0,
            "d": lambda state: state.estim_lr,
            "d_max": lambda state: state.estim_lr,  # the same while the growth has no bound
            "d_numerator": lambda state: state.numerator_weighted,
        },
    ),
]
