"""The weights to be evaluated, against those of the authors' code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_witnesses import Yardstick, numbers

import schuss

STEPS = 12
#: Our class, the authors', and what the first argument of `betas` is called here.
PAIRS = [
    (schuss.ScheduleFreeSGD, "SGDScheduleFree", {"momentum": 0.7}, {"momentum": 0.7}),
    (schuss.ScheduleFreeAdamW, "AdamWScheduleFree", {"beta1": 0.7, "beta2": 0.9}, {"betas": (0.7, 0.9)}),
    (schuss.ScheduleFreeRAdam, "RAdamScheduleFree", {"beta1": 0.7, "beta2": 0.9}, {"betas": (0.7, 0.9)}),
]


@pytest.mark.peers
@pytest.mark.parametrize(("cls", "theirs", "ours", "words"), PAIRS, ids=lambda value: getattr(value, "__name__", ""))
def test_schedule_free_averages(
    cls: type[schuss.Optimizer], theirs: str, ours: dict[str, Any], words: dict[str, Any], rng: np.random.Generator
) -> None:
    """Before a step, after some, and in training again."""
    torch = pytest.importorskip("torch")
    start = numbers(rng)
    opt = cls([p.copy() for p in start], lr=0.1, **ours)
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in start]
    other = getattr(pytest.importorskip("schedulefree"), theirs)(tensors, lr=0.1, **words)
    yardstick = Yardstick(1e-12)
    other.train()
    for step in range(STEPS):
        if step % 4 == 0:
            opt.eval()
            other.eval()
            yardstick.compare("eval", opt.params, [tensor.detach().numpy() for tensor in tensors])
            opt.train()
            other.train()
        grads = numbers(rng)
        opt.step(grads)
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad.copy())
        other.step()
        yardstick.compare("train", opt.params, [tensor.detach().numpy() for tensor in tensors])
