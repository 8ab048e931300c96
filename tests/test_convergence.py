"""At a tuned rate every optimizer comes down a quadratic bowl: what is equal to its formula also has to be an optimizer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support import CLASSES

import schuss

MINIMUM, CURVATURE = np.array([[0.6, -0.8], [0.8, 0.6]]), np.array([[1.0, 10.0], [3.0, 0.3]])
START = np.array([[0.8, 0.8], [-0.6, 0.6]])  # as far from zero as the minimum: there are rules that keep the norm
STEPS = 600  # a momentum of 0.99 swings for long


def loss_at(p: np.ndarray) -> float:
    return float(np.sum(CURVATURE * (p - MINIMUM) ** 2)) / 2


def final_loss(cls: type[schuss.Optimizer], lr: float | None, constant: bool) -> float:
    p = START.copy()
    arguments: dict[str, Any] = {"weight_decay": 0.0} if "weight_decay" in cls.hyperparameters else {}
    if lr is not None:
        arguments["lr"] = lr if constant else schuss.schedules.cosine(lr, STEPS)
    optimizer = cls(p, **arguments)
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            inputs = {"hessian": CURVATURE, "loss": loss_at(p)}
            if not math.isfinite(inputs["loss"]):
                return math.inf
            optimizer.step(CURVATURE * (p - MINIMUM), **{name: inputs[name] for name in cls.inputs})
        optimizer.eval()
        loss = loss_at(p)
    return loss if math.isfinite(loss) else math.inf


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_reaches_the_minimum_of_a_bowl(cls: type[schuss.Optimizer]) -> None:
    outwards = sorted(range(-6, 5), key=lambda n: abs(n + 2))  # from the rate that suits most
    rates = [10.0 ** (n / 2) for n in outwards] if "lr" in cls.hyperparameters else [None]
    trials = (final_loss(cls, lr, constant) for lr in rates for constant in (False, True))
    assert any(loss < 1e-2 * loss_at(START) for loss in trials)
