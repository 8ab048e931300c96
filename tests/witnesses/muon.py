"""Muon: torch, optax and keras for its steps, pytorch_optimizer for schedules of coefficients, a script for blocks and stacks.

torch and pytorch_optimizer orthogonalise in bfloat16: their own functions are run here with what converts to it left out.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from witnesses import Witness, from_keras, from_optax, from_script, from_torch

Array = NDArray[Any]

JORDAN = (3.4445, -4.7750, 2.0315)
ADAMW = {"adamw_lr_ratio": 0.6, "adamw_beta1": 0.8, "adamw_beta2": 0.95, "adamw_eps": 1e-3}
ARGUMENTS = ADAMW | {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.2}
PLAIN = {"coefficients": "jordan", "nesterov": False}


# ---- torch ----------------------------------------------------------------------------------------------------------------


class Both:
    """torch.optim.Muon for matrices, kernels flattened, and torch.optim.AdamW for the rest."""

    def __init__(
        self,
        torch: Any,
        tensors: Sequence[Any],
        *,
        weight_decay: float,
        adamw_lr_ratio: float,
        adamw_beta1: float,
        adamw_beta2: float,
        adamw_eps: float,
        scale: str,
        coefficients: str,
        **further: Any,
    ) -> None:
        assert coefficients == "jordan"
        self.tensors = tensors
        self.seen = [t if t.ndim < 2 else t.detach().reshape(len(t), -1).requires_grad_() for t in tensors]
        matrices = [t for t in self.seen if t.ndim == 2]
        self.muon = torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn=scale, **further)
        self.adamw = torch.optim.AdamW(
            [t for t in self.seen if t.ndim < 2],
            lr=further["lr"] * adamw_lr_ratio,
            betas=(adamw_beta1, adamw_beta2),
            eps=adamw_eps,
            weight_decay=weight_decay,
        )

    def step(self) -> None:
        for tensor, seen in zip(self.tensors, self.seen, strict=True):
            seen.grad = tensor.grad.reshape(seen.shape)
        torch = importlib.import_module("torch")
        with mock.patch.object(torch.Tensor, "bfloat16", lambda tensor: tensor.clone()):
            self.muon.step()
        self.adamw.step()

    def slot(self, ours: str) -> list[Any]:
        """Return a slot of ours; None where a tensor has none."""
        return slots_of(
            ours,
            [self.muon.state[seen] if seen.ndim == 2 else self.adamw.state[seen] for seen in self.seen],
            [tensor.shape for tensor in self.tensors],
            {"m": ("momentum_buffer", "exp_avg"), "v": ("exp_avg_sq",)},
        )


def slots_of(ours: str, states: Sequence[Any], shapes: Sequence[Any], names: dict[str, tuple[str, ...]]) -> list[Any]:
    """Return what states of torch hold under the first of some names that they have, in the tensors' shapes."""
    found = [next((state[name] for name in names[ours] if name in state), None) for state in states]
    return [
        None if each is None else np.asarray(each).reshape(shape) for each, shape in zip(found, shapes, strict=True)
    ]


# ---- optax and keras ------------------------------------------------------------------------------------------------------


def optax_muon(
    optax: Any,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    adamw_lr_ratio: float,
    adamw_beta1: float,
    adamw_beta2: float,
    adamw_eps: float,
    scale: str,
    coefficients: str,
) -> Any:
    """Rows are outputs; all other axes are inputs."""
    assert coefficients == "jordan"
    dimensions = optax.contrib.MuonDimensionNumbers

    def axes(params: Any) -> Any:
        return [dimensions(tuple(range(1, p.ndim)), 0) if getattr(p, "ndim", 0) > 1 else None for p in params]

    return optax.contrib.muon(
        lr,
        beta=momentum,
        nesterov=nesterov,
        eps=adamw_eps,
        weight_decay=weight_decay,
        adam_b1=adamw_beta1,
        adam_b2=adamw_beta2,
        adam_weight_decay=weight_decay,
        adam_learning_rate=lr * adamw_lr_ratio,
        muon_weight_dimension_numbers=axes,
        consistent_rms=0.2 if scale == "match_rms_adamw" else None,
    )


def optax_slot(state: Any, muon: str, adam: str) -> list[Any]:
    inner = state.inner_states
    parts = getattr(inner["muon"].inner_state[0], muon, None), getattr(inner["adam"].inner_state[0], adam)
    arrays = [[each if hasattr(each, "shape") else None for each in part] for part in parts if part is not None]
    return [next((each for each in both if each is not None), None) for both in zip(*arrays, strict=True)]


def keras_muon(
    keras: Any,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    adamw_lr_ratio: float,
    adamw_beta1: float,
    adamw_beta2: float,
    adamw_eps: float,
    scale: str | None,
    coefficients: str,
    exclude: Sequence[str],
) -> Any:
    """Matrices are arrays with two axes; weights decay with `lr`, whatever the ratio."""
    assert coefficients == "jordan"
    assert adamw_eps == 0, "it is added before the bias is corrected"
    assert list(exclude) == ["3"]
    return keras.optimizers.Muon(
        lr,
        adam_lr_ratio=adamw_lr_ratio,
        adam_beta_1=adamw_beta1,
        adam_beta_2=adamw_beta2,
        epsilon=adamw_eps,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay * adamw_lr_ratio,
        momentum=momentum,
        nesterov=nesterov,
        rms_rate=None if scale is None else 0.2,
    )


# ---- pytorch_optimizer ----------------------------------------------------------------------------------------------------

MODULES = "muon.base", "muon.muon", "muon.normuon", "muon.adamuon", "scion"


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Let pytorch_optimizer orthogonalise in float64."""
    name, with_gram = "zero_power_via_newton_schulz_5", "zero_power_via_gram_newton_schulz"
    float64 = importlib.import_module("torch").float64
    with contextlib.ExitStack() as patches:
        for each in MODULES:
            module = importlib.import_module(f"pytorch_optimizer.optimizer.{each}")
            for function in {name, with_gram} & set(vars(module)):
                wider = functools.partial(getattr(module, function), dtype=float64)
                patches.enter_context(mock.patch.object(module, function, wider))
        yield


def step_in_float64(optimizer: Any) -> None:
    with in_float64():
        optimizer.step()


def groups(tensors: Sequence[Any], of_matrices: dict[str, Any], of_others: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of pytorch_optimizer's Muons."""
    return [
        {"params": [t for t in tensors if t.ndim >= 2], "use_muon": True} | of_matrices,
        {"params": [t for t in tensors if t.ndim < 2], "use_muon": False} | of_others,
    ]


def adamw_group(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what a group for AdamW has, taking its arguments away from ours."""
    return {
        "lr": arguments["lr"] * arguments.pop("adamw_lr_ratio"),
        "betas": (arguments.pop("adamw_beta1"), arguments.pop("adamw_beta2")),
        "eps": arguments.pop("adamw_eps"),
        "weight_decay": arguments["weight_decay"],
    }


def theirs(name: str) -> str:
    return "original" if name == "jordan" else name


def po_muon(package: Any, tensors: Any, *, scale: str, coefficients: str, form: str = "auto", **arguments: Any) -> Any:
    others = adamw_group(arguments)
    chosen = {"ns_coeffs": theirs(coefficients), "use_adjusted_lr": scale == "match_rms_adamw"}
    if form == "gram":
        chosen["ns_method"] = "gram_newton_schulz"
    return keep(package.Muon(groups(tensors, chosen | arguments, others), foreach=False), tensors)


def keep(optimizer: Any, tensors: Any) -> Any:
    """Return an optimizer that knows the order of its tensors."""
    optimizer.tensors_in_order = list(tensors)
    return optimizer


def po_slot(ours: str, *names: str) -> Callable[[Any], list[Any]]:
    """Return a function that finds a slot of ours, under some names in pytorch_optimizer."""

    def find(optimizer: Any) -> list[Any]:
        tensors = optimizer.tensors_in_order
        return slots_of(ours, [optimizer.state[t] for t in tensors], [t.shape for t in tensors], {ours: names})

    return find


# ---- scripts --------------------------------------------------------------------------------------------------------------


def newton_schulz(x: Array, triples: Sequence[tuple[float, float, float]] = (JORDAN,) * 5) -> Array:
    """Iterate on a matrix as it stands, whatever its shape."""
    x = x / max(np.linalg.norm(x), 1e-7)
    for a, b, c in triples:
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


def factor(scale: str | None, rows: int, columns: int) -> float:
    return float(
        {
            "original": np.sqrt(max(1, rows / columns)),
            "match_rms_adamw": 0.2 * np.sqrt(max(rows, columns)),
            "spectral_unclamped": np.sqrt(rows / columns),
            None: 1.0,
        }[scale]
    )


def adamw(
    s: Any,
    t: int,
    p: Array,
    g: Array,
    *,
    lr: float,
    weight_decay: float,
    adamw_lr_ratio: float,
    adamw_beta1: float,
    adamw_beta2: float,
    adamw_eps: float,
) -> Array:
    s.m = adamw_beta1 * getattr(s, "m", 0.0) + (1 - adamw_beta1) * g
    s.v = adamw_beta2 * getattr(s, "v", 0.0) + (1 - adamw_beta2) * g**2
    ratio = s.m / (1 - adamw_beta1**t) / (np.sqrt(s.v / (1 - adamw_beta2**t)) + adamw_eps)
    return p - lr * adamw_lr_ratio * (ratio + weight_decay * p)


def ahead(s: Any, g: Array, momentum: float, nesterov: bool) -> Array:
    """Keep the mean, and return what is to be orthogonalised."""
    s.m = momentum * getattr(s, "m", 0.0) + (1 - momentum) * g
    return momentum * s.m + (1 - momentum) * g if nesterov else s.m


def script(
    s: Any,
    t: int,
    p: Array,
    g: Array,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    scale: str | None,
    split: dict[str, Sequence[int]],
    flatten: bool,
    coefficients: Sequence[tuple[float, float, float]],
    **of_adamw: float,
) -> Array:
    """Rows in blocks where the tensor is the one with 7; stacks where kernels are not flattened."""
    if g.ndim < 2:
        return adamw(s, t, p, g, lr=lr, weight_decay=weight_decay, **of_adamw)
    u = ahead(s, g, momentum, nesterov)
    stack = u[None] if g.ndim == 2 else u.reshape(1, len(u), -1) if flatten else u
    blocks = split["2"] if g.shape == (7, 5) else [stack.shape[1]]
    made = []
    for x in stack:
        parts = np.split(x, np.cumsum(blocks)[:-1])
        made.append(np.concatenate([factor(scale, *y.shape) * newton_schulz(y, coefficients) for y in parts]))
    s.v = None
    return p - lr * (np.array(made).reshape(p.shape) + weight_decay * p)


IN_BLOCKS = ARGUMENTS | {
    "nesterov": True,
    "coefficients": (JORDAN, (2.0, -1.5, 0.5)),
    "split": {"2": (2, 4, 1)},
    "flatten": False,
}

WITNESSES = [
    Witness(
        "torch.optim.Muon",
        from_torch("torch", Both),
        [
            ARGUMENTS | {"coefficients": "jordan", "nesterov": nesterov, "scale": scale}
            for nesterov in (False, True)
            for scale in ("original", "match_rms_adamw")
        ],
        {"m": lambda optimizer: optimizer.slot("m"), "v": lambda optimizer: optimizer.slot("v")},
    ),
    Witness(
        "optax.contrib.muon",
        from_optax(optax_muon),
        [ARGUMENTS | PLAIN | {"scale": scale, "adamw_eps": 1e-10} for scale in ("original", "match_rms_adamw")],
        {"m": lambda state: optax_slot(state, "mu", "mu"), "v": lambda state: optax_slot(state, "", "nu")},
        tolerance=1e-9,
        reason="it adds its eps to the norm that is divided by",
    ),
    Witness(
        "keras.optimizers.Muon",
        from_keras(keras_muon),
        [
            ARGUMENTS
            | {"coefficients": "jordan", "exclude": ["3"], "adamw_eps": 0.0}
            | {"nesterov": nesterov, "scale": scale}
            for nesterov, scale in ((False, None), (True, "match_rms_adamw"))
        ],
        tolerance=1e-7,
        reason="it adds 1e-7 to the norm that is divided by",
        zeros=False,
    ),
    Witness(
        "pytorch_optimizer.Muon",
        from_torch("pytorch_optimizer", po_muon, step_in_float64),
        [ARGUMENTS | {"nesterov": True, "scale": "original", "coefficients": "quintic"}],
        {"m": po_slot("m", "momentum_buffer", "exp_avg"), "v": po_slot("v", "exp_avg_sq")},
    ),
    Witness(
        "pytorch_optimizer.Muon",
        from_torch("pytorch_optimizer", po_muon, step_in_float64),
        [ARGUMENTS | {"nesterov": True, "scale": "match_rms_adamw", "coefficients": "quintic", "form": "gram"}],
        tolerance=1e-6,
        reason="its Gram form divides by the norm in float32",
    ),
    Witness(
        "script",
        from_script(script),
        [IN_BLOCKS | {"scale": scale} for scale in (None, "spectral_unclamped", "original", "match_rms_adamw")]
        + [IN_BLOCKS | {"scale": "original", "flatten": True, "nesterov": False}],
        {"m": "m", "v": "v"},
    ),
]
