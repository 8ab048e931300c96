"""Shampoo: Distributed Shampoo, which pip installs from its repository only, and a script from the papers."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from witnesses import Witness, from_script, from_torch


def _root(factor: NDArray[Any], exponent: float, eps: float) -> NDArray[Any]:
    values, vectors = np.linalg.eigh(factor)
    return np.asarray(vectors @ np.diag((values - min(values[0], 0) + eps) ** -exponent) @ vectors.T)


def _paper(
    s: SimpleNamespace, t: int, p: NDArray[Any], g: NDArray[Any], *, lr: float, beta1: float, beta3: float, beta2: float,
    eps: float, weight_decay: float, frequency: int, start_step: int, graft: str, graft_beta2: float, graft_eps: float,
    bias_correction: bool, block_size: int, merge_dims: bool, exponents: Any = None, precondition_1d: bool = True,
    max_dim: int | None = None, max_failures: int = 3, graft_bias_correction: bool = True,
) -> NDArray[Any]:  # fmt: skip
    """Step as Algorithm 2 of Shi et al., one block after the other."""
    shape = [n for n in p.shape if n > 1] or [1]
    if merge_dims:
        assert np.prod(shape) <= block_size or len(shape) == 1, "the script merges all axes or none"
        shape = [int(np.prod(shape))]
    if t == 1:
        s.m, s.v, s.blocks = np.zeros_like(p), np.zeros_like(p), {}
    b3 = beta1 if beta3 < 0 else beta3
    mean = b3 * s.m + (1 - b3) * g
    s.m = beta1 * s.m + (1 - beta1) * g
    if bias_correction:
        mean = mean / (1 - b3 * beta1 ** (t - 1))
    s.v = s.v + g**2 if graft == "adagrad" else graft_beta2 * s.v + (1 - graft_beta2) * g**2
    bias = 1 - graft_beta2**t if graft == "adam" else 1
    direction = mean if graft in ("none", "sgd") else mean / (np.sqrt(s.v / bias) + graft_eps)
    step = np.zeros(shape)
    cuts = [[slice(i, i + block_size) for i in range(0, n, block_size)] for n in shape]
    first = max(start_step, frequency)
    for where in itertools.product(*cuts):
        block, u, d = (each.reshape(shape)[where] for each in (g, mean, direction))
        factors, roots = s.blocks.setdefault(str(where), ([0.0] * block.ndim, [np.eye(n) for n in block.shape]))
        for axis in range(block.ndim):
            rows = np.moveaxis(block, axis, 0).reshape(block.shape[axis], -1)
            factors[axis] = beta2 * factors[axis] + (1 if beta2 == 1 else 1 - beta2) * rows @ rows.T
            if t == first or (t > first and t % frequency == 0):
                bias2 = 1 - beta2**t if bias_correction and beta2 < 1 else 1
                exponent = (exponents or {}).get(block.ndim, 1 / (2 * block.ndim))
                roots[axis] = _root(factors[axis] / bias2, exponent, eps)
        letters = "abcdefgh"[: block.ndim]
        sides = [letters[i] + letters[i].upper() for i in range(block.ndim)]
        if p.ndim == 0:
            roots = [np.eye(1)]
        preconditioned = np.einsum(f"{letters},{','.join(sides)}->{letters.upper()}", u, *roots)
        if graft != "none":
            preconditioned *= np.linalg.norm(d) / (np.linalg.norm(preconditioned) + 1e-16)
            if t < first:
                preconditioned = d
        step[where] = preconditioned
    s.factors, s.roots = (np.concatenate([np.ravel(x) for each in s.blocks.values() for x in each[k]]) for k in (0, 1))
    return np.asarray((1 - lr * weight_decay) * p - lr * step.reshape(p.shape))


def _build(
    ds: Any, tensors: Any, *, lr: float, beta1: float, beta3: float, beta2: float, eps: float, weight_decay: float,
    frequency: int, start_step: int, graft: str, graft_beta2: float, graft_eps: float, bias_correction: bool, block_size: int,
    merge_dims: bool, exponents: Any = None, **further: Any,
) -> Any:  # fmt: skip
    dtype = tensors[0].dtype
    grafts = {
        "none": lambda: None,
        "sgd": lambda: ds.SGDPreconditionerConfig(),
        "adagrad": lambda: ds.AdaGradPreconditionerConfig(epsilon=graft_eps),
        "rmsprop": lambda: ds.RMSpropPreconditionerConfig(beta2=graft_beta2, epsilon=graft_eps),
        "adam": lambda: ds.AdamPreconditionerConfig(beta2=graft_beta2, epsilon=graft_eps),
    }
    return ds.DistributedShampoo(
        tensors,
        lr=lr,
        betas=(beta1, beta2),
        beta3=beta3,
        epsilon=eps,
        weight_decay=weight_decay,
        max_preconditioner_dim=block_size,
        precondition_frequency=frequency,
        start_preconditioning_step=max(start_step, frequency),
        use_bias_correction=bias_correction,
        grafting_config=grafts[graft](),
        distributed_config=ds.SingleDeviceDistributedConfig(
            target_parameter_dimensionality=1 if merge_dims else float("inf")
        ),
        preconditioner_config=ds.RootInvShampooPreconditionerConfig(
            factor_matrix_dtype=dtype, inv_factor_matrix_dtype=dtype, inverse_exponent_override=exponents or {}
        ),
    )


#: Step sizes are numbers of float32, which Distributed Shampoo keeps them in. With neither bias correction nor a square it
#: multiplies the mean of a number, which has no factor, in place.
ARGUMENTS: dict[str, Any] = {
    "lr": 0.0625, "beta1": 0.8, "beta3": -1.0, "beta2": 0.9, "eps": 1e-2, "weight_decay": 0.0, "frequency": 1, "start_step": 0,
    "graft": "adam", "graft_beta2": 0.95, "graft_eps": 1e-3, "bias_correction": True, "block_size": 300,
    "merge_dims": False, "max_dim": None, "precondition_1d": True,
}  # fmt: skip
CASES = [
    ARGUMENTS,
    ARGUMENTS | {"merge_dims": True, "frequency": 3, "max_failures": 5, "bias_correction": False},
    ARGUMENTS | {"graft": "rmsprop", "graft_bias_correction": False, "block_size": 4, "frequency": 2, "start_step": 5},
    ARGUMENTS | {"graft": "adagrad", "graft_beta2": 1.0, "beta2": 1.0, "beta3": 0.64, "weight_decay": 0.125},
    ARGUMENTS | {"graft": "sgd", "graft_beta2": 0.0, "exponents": {2: 0.5, 3: 0.25}},
    ARGUMENTS | {"graft": "none", "graft_beta2": 0.0, "block_size": 3},
]
SLOTS = {name: name for name in ("m", "v", "factors", "roots")}
REASON = "roots of factors of condition 1e4 enlarge rounding errors"

WITNESSES = [
    Witness("script", from_script(_paper), CASES, SLOTS, tolerance=1e-8, reason=REASON),
    Witness(
        "distributed_shampoo.DistributedShampoo",
        from_torch("distributed_shampoo", _build),
        CASES,
        tolerance=1e-8,
        reason=REASON,
        indexed=False,
    ),
]
