"""What the tests of wrappers derive from the registry: every wrapper, around optimizers and around one another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from support import inputs_for

import schuss
from schuss import trees

WRAPPERS = list(schuss.wrappers().values())

#: Arguments that make something happen within a few steps.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Accumulate": {"steps": lambda step: 2 if step < 3 else 3},
    "ClipUpdate": {"limit": 0.5},
    "EMA": {"decay": 0.75},
    "GaLore": {"rank": 2, "gap": 3},
    "Lookahead": {"k": 2},
    "LossScale": {"interval": 2, "initial": 8.0},
    "Rollback": {"depth": 2},
    "SWA": {"start": 2},
}

#: Optimizers of every shape: elementwise, with a slot per tensor, per row and over all, with inputs, and with weights apart.
OPTIMIZERS = ["AdamW", "SGD", "NovoGrad", "AdamMini", "Prodigy", "ScheduleFreeAdamW", "AdaHessian", "PolyakSGD"]

Chain = tuple[str, ...]  # names from the outermost wrapper to the optimizer

SINGLES: list[Chain] = [(cls.__name__, name) for cls in WRAPPERS for name in OPTIMIZERS]
PAIRS: list[Chain] = [(outer.__name__, inner.__name__, "AdamW") for outer in WRAPPERS for inner in WRAPPERS]


def parameters(seed: int) -> Any:
    """Return parameters of several dtypes."""
    rng = np.random.default_rng(seed)
    return {
        "w": rng.standard_normal((5, 3)).astype(np.float32),
        "b": [rng.standard_normal(7), rng.standard_normal(4).astype(np.float16), np.array(rng.standard_normal())],
    }


def make(chain: Chain, params: Any, **options: Any) -> Any:
    """Return wrappers around an optimizer, or None where one of them refuses the other with a sentence."""
    *wrappers, name = chain
    fixed = {"PolyakSGD": {}, "Prodigy": {}}
    rate = fixed.get(name, {"lr": lambda step: 0.125 / (step + 1)})
    made: Any = getattr(schuss, name)(params, **{"nonfinite": "skip"} | rate | options)
    for wrapper in reversed(wrappers):
        try:
            made = getattr(schuss, wrapper)(made, **ARGUMENTS.get(wrapper, {}))
        except (TypeError, ValueError) as refusal:
            if not str(refusal).startswith(f"{wrapper}: "):
                raise
            return None
    return made


def possible(chains: list[Chain]) -> list[Chain]:
    """Return those that no wrapper refuses."""
    return [chain for chain in chains if make(chain, parameters(0)) is not None]


def levels(wrapper: Any) -> Iterator[Any]:
    """Yield every wrapper, from the outermost, and the optimizer."""
    while isinstance(wrapper, schuss.Wrapper):
        yield wrapper
        wrapper = wrapper.optimizer
    yield wrapper


def batches(wrapper: Any, number: int, seed: int) -> list[tuple[Any, dict[str, Any]]]:
    """Return gradients and inputs of some steps; now and then a gradient is missing."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(number):
        grads = trees.map_leaves(lambda leaf: np.asarray(rng.standard_normal(leaf.shape), leaf.dtype), wrapper.params)
        if k % 3 == 1:
            grads["b"][0] = None
        found.append((grads, inputs_for(list(levels(wrapper))[-1], grads, rng)))
    return found


def step(wrapper: Any, grads: Any, further: dict[str, Any]) -> None:
    """Step; where a level asks for gradients at perturbed weights, these are they."""
    with wrapper.perturbed(grads) if hasattr(wrapper, "perturbed") else contextlib.nullcontext():
        pass
    wrapper.step(grads, **further)


def run(wrapper: Any, steps: list[tuple[Any, dict[str, Any]]]) -> None:
    for grads, further in steps:
        step(wrapper, grads, further)


def waiting(wrapper: Any) -> int:
    """Return how many micro-batches wait for a step, at any level."""
    return sum(level.accumulated for level in levels(wrapper) if type(level).__name__ == "Accumulate")


def memory(wrapper: Any) -> list[Any]:
    """Return a copy of all that a step, a load or an assignment may change, at every level."""
    found: list[Any] = []
    for level in levels(wrapper):
        if isinstance(level, schuss.Wrapper):
            arrays = [array for each in level._arrays.values() for array in each]
            found += [repr(level._numbers), {k: v for k, v in level._arguments.items() if not callable(v)}]
            optimizers = list(level._passes.values())
        else:
            arrays, optimizers = list(level._leaves), [level]
            found += [{k: v for k, v in group.items() if not callable(v)} for group in level.groups]
        for each in optimizers:
            arrays += [array for slot in each._slots for array in slot if array is not None]
            arrays += [each._scalars, each._counts]
        found += [array.tobytes() for array in arrays]
    return found
