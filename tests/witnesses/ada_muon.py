"""AdaMuon: pytorch_optimizer, which has neither Nesterov's look ahead nor signs, and a script from the paper."""

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


def po_ada_muon(
    package: Any,
    tensors: Any,
    *,
    momentum: float,
    beta2: float,
    nesterov: bool,
    scale: str,
    coefficients: str,
    **arguments: Any,
) -> Any:
    assert not nesterov
    others = adamw_group(arguments)
    chosen = {"ns_coeffs": theirs(coefficients), "use_adjusted_lr": scale == "match_rms_adamw"}
    chosen["betas"] = (momentum, beta2)
    return keep(package.AdaMuon(groups(tensors, chosen | arguments, others), foreach=False), tensors)


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
    sign: bool,
    scale: str | None,
    split: dict[str, Sequence[int]],
    flatten: bool,
    coefficients: Sequence[tuple[float, float, float]],
    **of_adamw: float,
) -> Array:
    if g.ndim < 2:
        return adamw(s, t, p, g, lr=lr, weight_decay=weight_decay, **of_adamw)
    u = ahead(s, g, momentum, nesterov)
    u = np.sign(u) if sign else u
    stack = u[None] if g.ndim == 2 else u.reshape(1, len(u), -1) if flatten else u
    edges = np.cumsum(split["2"] if g.shape == (7, 5) else [stack.shape[1]])[:-1]
    o = [newton_schulz(y, coefficients) for x in stack for y in np.split(x, edges)]
    s.v = beta2 * getattr(s, "v", 0.0) + (1 - beta2) * np.concatenate(o).reshape(p.shape) ** 2
    roots = np.sqrt(s.v / (1 - beta2**t)).reshape(stack.shape) + eps
    made = []
    for y, root in zip(o, [y for x in roots for y in np.split(x, edges)], strict=True):
        w = y / root
        made.append(factor(scale, *w.shape) * np.sqrt(min(w.shape)) * w / (np.linalg.norm(w) + eps))
    return p - lr * (np.concatenate(made).reshape(p.shape) + weight_decay * p)


IN_BLOCKS = ARGUMENTS | {
    "nesterov": True,
    "beta2": 0.7,
    "eps": 0.05,
    "coefficients": (JORDAN, (2.0, -1.5, 0.5)),
    "split": {"2": (2, 4, 1)},
    "flatten": False,
    "sign": False,
}

WITNESSES = [
    Witness(
        "pytorch_optimizer.AdaMuon",
        from_torch("pytorch_optimizer", po_ada_muon, step_in_float64),
        [
            ARGUMENTS | {"beta2": 0.9, "eps": 1e-3, "nesterov": False, "coefficients": "quintic", "scale": scale}
            for scale in ("original", "match_rms_adamw")
        ],
        {"m": po_slot("m", "m", "exp_avg"), "v": po_slot("v", "v", "exp_avg_sq")},
    ),
    Witness(
        "script",
        from_script(script),
        [IN_BLOCKS | {"scale": scale} for scale in (None, "spectral_unclamped", "original", "match_rms_adamw")]
        + [
            IN_BLOCKS | {"scale": "original", "flatten": True, "nesterov": False},
            IN_BLOCKS | {"scale": "original", "sign": True},
        ],
        {"m": "m", "v": "v"},
    ),
]
