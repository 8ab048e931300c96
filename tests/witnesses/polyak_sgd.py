"""PolyakSGD: optax's variant "sps+"."""

from __future__ import annotations

from typing import Any

from witnesses import Witness, from_optax


def with_loss(optax: Any, transformation: Any) -> Any:
    """Return a transformation of optax that takes its `value` under our name."""

    def update(grads: Any, state: Any, params: Any = None, *, loss: float) -> Any:
        return transformation.update(grads, state, params, value=loss)

    return optax.GradientTransformationExtraArgs(transformation.init, update)


def polyak(optax: Any, *, lr: float, scaling: float, f_min: float, eps: float) -> Any:
    """Build the step that ours scales: optax multiplies the gradient by its `scaling`, and then takes the norm."""
    square = scaling**2
    return with_loss(optax, optax.polyak_sgd(lr * square, 1 / scaling, f_min, eps / square, variant="sps+"))


CASES: list[dict[str, Any]] = [
    {"lr": 1.0, "scaling": 1.0, "f_min": 0.0, "eps": 0.0},
    {"lr": 0.003, "scaling": 2.0, "f_min": -0.5, "eps": 0.0},  # the bound of the step is met, and is not
    {"lr": 1.0, "scaling": 0.5, "f_min": -100.0, "eps": 50.0},
]

WITNESSES = [Witness("optax.polyak_sgd", from_optax(polyak), CASES)]
