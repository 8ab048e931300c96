"""PSGDKron: kron_torch, with our random numbers and in float64 throughout; torch's AdamW for what is excluded.

Four things of kron_torch are changed for the comparison: `randn_like` and the generator of the balance give our numbers;
triangular systems are solved in float64, where it goes through float32; what it fits factors to is a copy, because it adds
the probe in place, and so to the gradient that is preconditioned afterwards (see the Notes of the class). Numbers are given to
it as vectors of one element, because it cannot step arrays without dimensions.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from schuss.math import normals, random_words
from witnesses import Arrays, Witness


def number(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


#: What is not passed: these are kron_torch's own defaults as well.
DEFAULTS = {
    "lr": 3e-4,
    "beta1": 0.9,
    "weight_decay": 0.0,
    "precond_lr": 0.1,
    "precond_init_scale": 1.0,
    "max_probability": 1.0,
    "min_probability": 0.03,
    "probability_decay": 0.001,
    "flat_steps": 500,
    "balance_probability": 0.01,
    "seed": 0,
    "adamw_lr_ratio": 1.0,
    "adamw_beta2": 0.999,
    "adamw_eps": 1e-8,
    "max_size_triangular": 8192,
    "min_ndim_triangular": 2,
    "memory_save_mode": None,
    "merge_dims": True,
    "exclude": (),
}


class KronTorch:
    """kron_torch.Kron beside torch.optim.AdamW, as tensors are excluded or not."""

    def __init__(self, start: Arrays, **given: Any) -> None:
        arguments = DEFAULTS | given
        schedule = [
            arguments.pop(key) for key in ("max_probability", "min_probability", "probability_decay", "flat_steps")
        ]
        self.seed, self.chance, self.t = arguments.pop("seed"), arguments.pop("balance_probability"), 0
        beta1, ratio, beta2, eps, exclude = (
            arguments.pop(key) for key in ("beta1", "adamw_lr_ratio", "adamw_beta2", "adamw_eps", "exclude")
        )
        self.torch = importlib.import_module("torch")
        self.kron = importlib.import_module("kron_torch.kron")
        self.shapes = [p.shape for p in start]
        self.tensors = [self.torch.from_numpy(np.atleast_1d(p)).requires_grad_() for p in start]
        self.plain = [str(i) in exclude for i in range(len(start))]
        chosen = [tensor for tensor, plain in zip(self.tensors, self.plain, strict=True) if not plain]
        share = self.kron.precond_update_prob_schedule(*schedule)
        share._compiled = False
        self.optimizer = self.kron.Kron(
            chosen, b1=beta1, preconditioner_update_probability=share, precond_dtype=self.torch.float64, **arguments
        )
        others = [tensor for tensor, plain in zip(self.tensors, self.plain, strict=True) if plain]
        decay = arguments["weight_decay"]
        self.adamw = others and self.torch.optim.AdamW(
            others, arguments["lr"] * ratio, betas=(beta1, beta2), eps=eps, weight_decay=decay
        )

    @property
    def params(self) -> Arrays:
        return [tensor.detach().numpy().reshape(s) for tensor, s in zip(self.tensors, self.shapes, strict=True)]

    def step(self, grads: Arrays) -> None:
        self.t += 1
        for tensor, grad in zip(self.tensors, grads, strict=True):
            tensor.grad = self.torch.from_numpy(np.array(grad, ndmin=1))
        with self.our_numbers(), contextlib.redirect_stdout(io.StringIO()):
            self.optimizer.step()
        if self.adamw:
            self.adamw.step()

    @contextlib.contextmanager
    def our_numbers(self) -> Iterator[None]:
        torch, fit = self.torch, self.kron._update_precond
        drawn = (
            normals(self.seed, self.t, number(f"[{i}]"), tensor.numel())
            for i, (tensor, plain) in enumerate(zip(self.tensors, self.plain, strict=True))
            if not plain
        )
        word = random_words(number(f"balance {self.seed} {self.t}"), 1)[0]
        self.optimizer.rng = SimpleNamespace(random=lambda: 0.0 if word / 2**32 < self.chance else 1.0)
        changed = {
            "_update_precond": lambda q, exprs, g, *rest: fit(q, exprs, g.clone(), *rest),
            "_solve_triangular_right": lambda x, a: torch.linalg.solve_triangular(
                a, x.reshape(-1, x.size(-1)), upper=True, left=False
            ).reshape_as(x),
        }
        with (
            mock.patch.multiple(self.kron, **changed),
            mock.patch.object(torch, "randn_like", lambda g: torch.from_numpy(next(drawn)).reshape(g.shape)),
            torch.compiler.set_stance("force_eager"),
        ):
            yield

    def slot(self, where: str) -> Any:
        found = [getattr(self, where)(tensor, plain) for tensor, plain in zip(self.tensors, self.plain, strict=True)]
        if where in ("factors", "since"):
            return found
        return [None if x is None else x.reshape(s) for x, s in zip(found, self.shapes, strict=True)]

    def mean(self, tensor: Any, plain: bool) -> Any:
        if plain:
            return self.adamw.state[tensor]["exp_avg"].numpy()
        return self.optimizer.state[tensor]["momentum_buffer"].numpy()

    def square(self, tensor: Any, plain: bool) -> Any:
        return self.adamw.state[tensor]["exp_avg_sq"].numpy() if plain else None

    def factors(self, tensor: Any, plain: bool) -> Any:
        if plain:
            return None
        return np.concatenate([q.numpy().reshape(-1) for q in self.optimizer.state[tensor]["Q"]])

    def since(self, tensor: Any, plain: bool) -> Any:
        return None if plain else np.array([float(self.optimizer._update_counter)])


RARE = {"max_probability": 0.8, "min_probability": 0.2, "probability_decay": 0.1, "flat_steps": 8}
ADAMW = {"exclude": ("1", "3"), "adamw_lr_ratio": 0.6, "adamw_beta2": 0.9, "adamw_eps": 1e-6}

WITNESSES = [
    Witness(
        "kron_torch.Kron",
        KronTorch,
        [
            {"lr": 0.1, "beta1": 0.5, "weight_decay": 0.1, "seed": 2**40 + 3},
            {"lr": 0.05, "precond_lr": 0.3, "precond_init_scale": 0.1, "balance_probability": 0.3},
            {"lr": 0.05, "balance_probability": 1.0, "merge_dims": False} | RARE,
            {"lr": 0.05, "weight_decay": 0.1, "seed": 7} | RARE | ADAMW,
            {"lr": 0.05, "max_size_triangular": 5},
            {"lr": 0.05, "max_size_triangular": 257, "min_ndim_triangular": 1, "balance_probability": 0.5},
            {"lr": 0.05, "min_ndim_triangular": 3, "merge_dims": False},
            {"lr": 0.05, "memory_save_mode": "smart_one_diag"},
            {"lr": 0.05, "memory_save_mode": "one_diag", "merge_dims": False},
            {"lr": 0.05, "memory_save_mode": "all_diag", "balance_probability": 0.5},
        ],
        {"m": "mean", "v": "square", "q": "factors", "since": "since"},
        zeros=False,
    )
]
