"""NorMuon: pytorch_optimizer, and a script in the form of the authors' code, for eps, blocks and stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from witnesses import Witness, from_script, from_torch
from witnesses.muon import (
    ARGUMENTS,
    JORDAN,
    Array,
    adamw,
    adamw_group,
    ahead,
    factor,
    groups,
    keep,
    newton_schulz,
    po_slot,
    step_in_float64,
    theirs,
)


def po_nor_muon(package: Any, tensors: Any, *, scale: str, coefficients: str, **arguments: Any) -> Any:
    others = adamw_group(arguments)
    chosen = {"ns_coeffs": theirs(coefficients), "use_adjusted_lr": scale == "match_rms_adamw"}
    return keep(package.NorMuon(groups(tensors, chosen | arguments, others), foreach=False), tensors)


def po_rows(optimizer: Any) -> list[Any]:
    states = [optimizer.state[tensor] for tensor in optimizer.tensors_in_order]
    name = "second_momentum_buffer"
    return [np.asarray(state[name])[:, 0] if name in state else None for state in states]


def script(
    s: Any,
    t: int,
    p: Array,
    g: Array,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    beta2: float,
    eps: float,
    weight_decay: float,
    scale: str | None,
    split: dict[str, Sequence[int]],
    flatten: bool,
    coefficients: Sequence[tuple[float, float, float]],
    **of_adamw: float,
) -> Array:
    s.v_row = getattr(s, "v_row", None)
    if g.ndim < 2:
        return adamw(s, t, p, g, lr=lr, weight_decay=weight_decay, **of_adamw)
    u = ahead(s, g, momentum, nesterov)
    stack = u[None] if g.ndim == 2 else u.reshape(1, len(u), -1) if flatten else u
    blocks = split["2"] if g.shape == (7, 5) else [stack.shape[1]]
    if s.v_row is None:
        s.v_row = np.zeros(u.shape[:1] if flatten else u.shape[:-1])
    variances = s.v_row.reshape(stack.shape[:2])
    made, kept = [], []
    for x, variance in zip(stack, variances, strict=True):
        edges = np.cumsum(blocks)[:-1]
        for y, v in zip(np.split(x, edges), np.split(variance, edges), strict=True):
            o = newton_schulz(y, coefficients)
            v = v + (1 - beta2) * ((o**2).mean(axis=1) - v)
            normed = o / (np.sqrt(v) + eps)[:, None]
            normed = normed * np.linalg.norm(o) / max(np.linalg.norm(normed), 1e-8)
            kept.append(v)
            made.append(factor(scale, *o.shape) * normed)
    s.v, s.v_row = None, np.concatenate(kept).reshape(s.v_row.shape)
    return p - lr * (np.concatenate(made).reshape(p.shape) + weight_decay * p)


IN_BLOCKS = ARGUMENTS | {
    "nesterov": True,
    "beta2": 0.7,
    "eps": 0.05,
    "coefficients": (JORDAN, (2.0, -1.5, 0.5)),
    "split": {"2": (2, 4, 1)},
    "flatten": False,
}
PAPERS = ARGUMENTS | {"beta2": 0.9, "eps": 1e-8, "coefficients": "quintic"}

WITNESSES = [
    Witness(
        "pytorch_optimizer.NorMuon",
        from_torch("pytorch_optimizer", po_nor_muon, step_in_float64),
        [
            PAPERS | {"nesterov": nesterov, "scale": scale}
            for nesterov, scale in ((False, "original"), (True, "match_rms_adamw"))
        ],
        {"m": po_slot("m", "momentum_buffer", "exp_avg"), "v": po_slot("v", "exp_avg_sq"), "v_row": po_rows},
        tolerance=1e-8,
        reason="it adds its eps to the norm that is divided by",
    ),
    Witness(
        "script",
        from_script(script),
        [IN_BLOCKS | {"scale": scale} for scale in (None, "spectral_unclamped", "original", "match_rms_adamw")]
        + [IN_BLOCKS | {"scale": "original", "flatten": True, "nesterov": False}],
        {"m": "m", "v": "v", "v_row": "v_row"},
    ),
]
