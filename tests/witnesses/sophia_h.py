"""Sophia-H: optax, and pytorch_optimizer where it has no correction to leave out."""

from __future__ import annotations

from typing import Any

from witnesses import Arrays, Witness, from_optax, from_torch

#: Steps between estimates of the curvature, as in `test_witnesses.compare`.
INTERVAL = 3


def optax_sophia(
    optax: Any, *, lr: float, beta1: float, beta2: float, gamma: float, eps: float, limit: float, weight_decay: float
) -> Any:
    import jax

    def given(updates: Any, state: Any, params: Any = None, samples: Any = None) -> Any:
        return jax.tree.map(jax.numpy.zeros_like, params) if samples is None else samples, state

    fed = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), given)
    return optax.contrib.sophia(
        lr, beta1, beta2, eps, weight_decay, gamma=gamma, clip_threshold=limit, update_interval=INTERVAL,
        hessian_diagonal_fn=fed,
    )  # fmt: skip


def po_sophia(
    po: Any, tensors: Any, *, lr: float, beta1: float, beta2: float, gamma: float, eps: float, limit: float,
    weight_decay: float,
) -> Any:  # fmt: skip
    assert beta1 == 0, "it does not correct the mean for its start"
    assert gamma == 1, "it has none"
    return po.SophiaH(tensors, lr, (beta1, beta2), weight_decay, p=limit, eps=eps, update_period=10**9)


def po_step(optimizer: Any, *, samples: Arrays | None) -> None:
    """Step with the estimates that came after the step before: it takes them ahead of its own."""
    import torch

    waiting = getattr(optimizer, "waiting", None)
    if not optimizer.state:  # at its first step it would estimate by itself
        waiting = [torch.zeros_like(each) for each in optimizer.param_groups[0]["params"]]
    optimizer.step(hessian=waiting)
    optimizer.waiting = None if samples is None else [torch.from_numpy(each) for each in samples]


ARGUMENTS = [
    {"lr": 0.05, "beta1": 0.8, "beta2": 0.7, "gamma": 0.5, "eps": 1e-3, "limit": limit, "weight_decay": decay}
    for limit, decay in ((1.0, 0.0), (0.3, 0.2))
]
PLAIN = [{"lr": 0.05, "beta1": 0.0, "beta2": 0.7, "gamma": 1.0, "eps": 1e-3, "limit": 0.5, "weight_decay": 0.1}]

WITNESSES = [
    Witness(
        "optax.contrib.sophia",
        from_optax(optax_sophia),
        ARGUMENTS,
        {"m": lambda state: state[0].mu, "h": lambda state: state[0].nu},
    ),
    Witness("pytorch_optimizer.SophiaH", from_torch("pytorch_optimizer", po_sophia, po_step), PLAIN, {"m": "momentum"}),
]
