"""Scion: pytorch_optimizer, with one norm for all tensors, and a script in the form of the authors' code."""

from __future__ import annotations

from typing import Any

import numpy as np

from witnesses import Witness, from_script, from_torch
from witnesses.muon import Array, newton_schulz, step_in_float64


def po_scion(
    package: Any, tensors: Any, *, momentum: float, constrained: bool, coefficients: str, **further: Any
) -> Any:
    assert coefficients == "jordan"
    return package.SCION(tensors, momentum=1 - momentum, constraint=constrained, foreach=False, **further)


def direction(m: Array, norm: str) -> Array:
    """Return what the authors' norms give, for the tensor with two axes; the others have their own."""
    if m.ndim < 2:
        return m / (np.sqrt((m**2).mean()) + 1e-8)
    out, inputs = m.shape[:2]
    spectral = newton_schulz(m.reshape(out, -1)).reshape(m.shape) * np.sqrt(out / inputs) / np.prod(m.shape[2:])
    if m.ndim > 2:
        return np.asarray(spectral)
    columns = np.sqrt((m**2).sum(axis=0, keepdims=True) / out)
    rows = np.sqrt((m.T**2).sum(axis=1, keepdims=True))
    found: dict[str, Array] = {
        "spectral": spectral,
        "sign": np.sign(m) / inputs,
        "column": m / (columns + 1e-8),
        "row": (m.T / (rows * np.sqrt(out) + 1e-8)).T,
        "bias_rms": m / (np.sqrt((m**2).mean()) + 1e-8),
    }
    return found[norm]


def script(
    s: Any,
    t: int,
    p: Array,
    g: Array,
    *,
    lr: float,
    momentum: float,
    scale: float,
    constrained: bool,
    norms: dict[str, Any],
    coefficients: str,
) -> Array:
    s.m = momentum * getattr(s, "m", 0.0) + (1 - momentum) * g
    norm = norms["2"] if isinstance(norms["2"], str) else norms["2"]["norm"]
    return (1 - lr * constrained) * p - lr * scale * direction(s.m, norm)


ARGUMENTS = {"lr": 0.05, "momentum": 0.8, "scale": 3.0, "coefficients": "jordan"}

WITNESSES = [
    Witness(
        "pytorch_optimizer.SCION",
        from_torch("pytorch_optimizer", po_scion, step_in_float64),
        [ARGUMENTS | {"constrained": constrained} for constrained in (False, True)],
        {"m": "d"},
    ),
    Witness(
        "script",
        from_script(script),
        [
            ARGUMENTS | {"constrained": norm != "sign", "norms": {"2": norm}}
            for norm in ("spectral", "sign", "column", "bias_rms", {"norm": "row", "transposed": True})
        ],
        {"m": "m"},
    ),
]
