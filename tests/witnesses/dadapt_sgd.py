"""DAdaptSGD's witnesses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from witnesses import Witness, from_torch


def authors(dadaptation: Any, params: Any, **arguments: Any) -> Any:
    return dadaptation.DAdaptSGD(params, **arguments)


def number(name: str) -> Any:
    return lambda optimizer: np.float64(optimizer.param_groups[0][name])


CASES: list[dict[str, Any]] = [
    {"lr": 1.0, "momentum": 0.0, "d0": 1e-6, "growth_rate": math.inf},
    {"lr": 1.0, "momentum": 0.9, "d0": 1e-6, "growth_rate": math.inf},
    {"lr": 0.5, "momentum": 0.5, "d0": 1e-2, "growth_rate": 1.5},
    {"lr": 2.0, "momentum": 0.0, "d0": 1e-3, "growth_rate": 1.02},
]
SLOTS = {"s": "s", "d": number("d"), "d_numerator": number("numerator_weighted"), "g0_norm": number("g0_norm")}

WITNESSES = [
    Witness("dadaptation.DAdaptSGD", from_torch("dadaptation", authors), CASES, SLOTS, convex=True),
    Witness("dadaptation.DAdaptSGD", from_torch("dadaptation", authors), CASES, SLOTS),
]
