"""NoisySGD: optax without noise, since its random numbers are those of jax; with noise, a script that draws ours.

What is drawn is compared in test_math.py: with another implementation of the generator, and with the normal distribution.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Any

import numpy as np

from schuss.math import normals
from witnesses import Arrays, Witness, from_optax


def optax_sgd(optax: Any, *, lr: float, eta: float, gamma: float, seed: int) -> Any:
    assert eta == 0
    return optax.noisy_sgd(lr, eta, gamma, key=seed)


class Script:
    """Adds to each gradient normal numbers of its step and tensor, of variance eta / t^gamma, and descends."""

    def __init__(self, start: Arrays, *, lr: float, eta: float, gamma: float, seed: int) -> None:
        self.params, self.t = start, 0
        self.lr, self.eta, self.gamma, self.seed = lr, eta, gamma, seed

    def step(self, grads: Arrays) -> None:
        self.t += 1
        for i, g in enumerate(grads):
            name = f"[{i}]"  # of the i-th array of a list
            stream = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
            noise = np.asarray(normals(self.seed, self.t, stream, g.size)).reshape(g.shape)
            noise = noise * math.sqrt(self.eta) * self.t ** (-self.gamma / 2)
            self.params[i] = np.asarray(self.params[i] - self.lr * (g + noise))


WITNESSES = [
    Witness("optax.noisy_sgd", from_optax(optax_sgd), [{"lr": 0.1, "eta": 0.0, "gamma": 0.3, "seed": 1}]),
    Witness(
        "script",
        Script,  # type: ignore[arg-type]  # it has no slots
        [
            {"lr": 0.1, "eta": 0.01, "gamma": 0.55, "seed": 0},
            {"lr": 0.2, "eta": 3.0, "gamma": 0.0, "seed": 2**40 + 3},
            {"lr": 0.2, "eta": 3.0, "gamma": 2.0, "seed": 7},
        ],
    ),
]
