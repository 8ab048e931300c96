"""LARS: pytorch_optimizer has the paper's ratio, optax one that is the same without decay."""

from collections.abc import Callable
from typing import Any

from witnesses import Arrays, Stepper, Witness, from_optax, from_torch


class Matrices:
    """Pytorch_optimizer's LARS, which steps vectors as SGD does, over tensors of one row; its buffer is without `lr`."""

    make: Callable[..., Stepper] = from_torch(
        "pytorch_optimizer", lambda po, params, **arguments: po.LARS(params, **arguments)
    )

    def __init__(self, start: Arrays, **arguments: Any) -> None:
        self.shapes, self.lr = [p.shape for p in start], arguments["lr"]
        self.inner = type(self).make([p.reshape(1, -1) for p in start], **arguments)

    def shaped(self, rows: Arrays) -> Arrays:
        return [row.reshape(shape) for row, shape in zip(rows, self.shapes, strict=True)]

    @property
    def params(self) -> Arrays:
        return self.shaped(self.inner.params)

    def step(self, grads: Arrays, **inputs: Any) -> None:
        self.inner.step([g.reshape(1, -1) for g in grads], **inputs)

    def slot(self, where: str) -> Arrays:
        return [self.lr * buffer for buffer in self.shaped(self.inner.slot(where))]


def trace(state: Any) -> Arrays:
    """Return optax's buffer, of updates in place of steps."""
    return [-buffer for buffer in state[-1].trace]


PAPER = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.0, "trust_coefficient": 0.001, "nesterov": False}

WITNESSES = [
    Witness(
        "pytorch_optimizer.LARS",
        Matrices,
        [
            PAPER,
            PAPER | {"weight_decay": 0.3, "trust_coefficient": 0.02},
            PAPER | {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.3, "nesterov": True},
        ],
        {"buffer": "momentum_buffer"},
    ),
    Witness("pytorch_optimizer.LARS", Matrices, [PAPER | {"momentum": 0.0, "weight_decay": 0.1}]),
    Witness(
        "optax.lars",
        from_optax(
            lambda optax, lr, trust_coefficient, eps, momentum, nesterov: optax.lars(
                lr, trust_coefficient=trust_coefficient, eps=eps, momentum=momentum, nesterov=nesterov
            )
        ),
        [
            {"lr": 2.0, "trust_coefficient": 0.001, "eps": 0.0, "momentum": 0.9, "nesterov": False},
            {"lr": 0.1, "trust_coefficient": 0.1, "eps": 0.5, "momentum": 0.7, "nesterov": True},
        ],
        {"buffer": trace},
    ),
]
