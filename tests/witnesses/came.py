"""CAME: the authors' package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from witnesses import Witness, from_torch


def authors(
    came_pytorch: Any, params: Any, *, beta1: float, beta2: float, beta3: float, eps1: float, eps2: float,
    threshold: float, **further: Any,
) -> Any:  # fmt: skip
    return came_pytorch.CAME(params, betas=(beta1, beta2, beta3), eps=(eps1, eps2), clip_threshold=threshold, **further)


def means(name: str, axis: int) -> Callable[[Any], Any]:
    """Return means of the state, with the axis that they were taken over; None for vectors."""

    def of(optimizer: Any) -> list[Any]:
        found = [optimizer.state[tensor].get(name) for tensor in optimizer.param_groups[0]["params"]]
        return [None if each is None else np.expand_dims(each.numpy(), axis) for each in found]

    return of


def squares(optimizer: Any) -> list[Any]:
    return [optimizer.state[tensor].get("exp_avg_sq") for tensor in optimizer.param_groups[0]["params"]]


CASE: dict[str, Any] = {
    "lr": 0.05, "beta1": 0.8, "beta2": 0.95, "beta3": 0.98, "eps1": 1e-30, "eps2": 1e-16, "threshold": 1.0,
    "weight_decay": 0.0,
}  # fmt: skip

WITNESSES = [
    Witness(
        "came_pytorch.CAME",
        from_torch("came_pytorch", authors),
        [CASE, CASE | {"eps1": 0.3, "eps2": 0.2, "threshold": 0.6, "weight_decay": 0.1}],
        {
            "m": "exp_avg",
            "v": squares,
            "row": means("exp_avg_sq_row", -1),
            "column": means("exp_avg_sq_col", -2),
            "row_distance": means("exp_avg_res_row", -1),
            "column_distance": means("exp_avg_res_col", -2),
        },
    )
]
