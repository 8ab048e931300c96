"""Mechanic: against optax, around the optimizers that it may wrap, and over interruptions."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import bits, snapshot
from witnesses import compiled, installed

import schuss
from schuss.passes import mechanic as passes
from schuss.reference import Reference

SHAPES = [(), (7, 5), (2, 3, 4), (257,)]
STEPS = 30
#: See witnesses: a few hundred roundings, in different arrangements.
TOLERANCE = 1e-12


def numbers(rng: np.random.Generator) -> list[NDArray[Any]]:
    return [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]


def everything(mechanic: Any) -> list[bytes]:
    return [*snapshot(mechanic.base), *snapshot(mechanic._passes["scaling"])]


BASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "sgd": (lambda p: schuss.SGD(p, lr=1.0), lambda optax: optax.sgd(1.0)),
    "momentum": (lambda p: schuss.SGD(p, lr=0.5, momentum=0.9), lambda optax: optax.sgd(0.5, momentum=0.9)),
    "adamw": (
        lambda p: schuss.AdamW(p, lr=1.0, weight_decay=0.1),
        lambda optax: optax.adamw(1.0, weight_decay=0.1),
    ),
    "scheduled": (
        lambda p: schuss.Lion(p, lr=lambda step: 1.0 / (1 + step)),
        lambda optax: optax.lion(lambda step: 1.0 / (1 + step), weight_decay=0.0),
    ),
}


@pytest.mark.peers
@pytest.mark.parametrize("s_decay", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("base", BASES)
def test_optax(base: str, s_decay: float, rng: np.random.Generator) -> None:
    """With an eps that is nothing beside the scales: optax recovers Δ from the weights as ``(p - x_0) / (S + eps)``."""
    start, target = numbers(rng), numbers(rng)
    ours_of, theirs_of = BASES[base]
    with installed("optax") as optax:
        jnp = importlib.import_module("jax.numpy")
        theirs = optax.contrib.mechanize(theirs_of(optax), weight_decay=s_decay, eps=1e-30, s_init=0.1)
        weights = [jnp.asarray(p) for p in start]
        state = compiled(theirs.init)(weights)
        update = compiled(theirs.update)
        params = [p.copy() for p in start]
        ours = schuss.Mechanic(ours_of(params), s_init=0.1, s_decay=s_decay, eps=1e-30)
        for _ in range(STEPS):
            noise = numbers(rng)
            grads = [p - a + 0.3 * e for p, a, e in zip(params, target, noise, strict=True)]
            updates, state = update(grads, state, weights)
            weights = optax.apply_updates(weights, updates)
            ours.step(grads)
            largest = max(float(np.abs(b).max()) for b in weights)  # of all: one of them may pass through zero
            for a, b in zip(params, weights, strict=True):
                assert np.abs(a - np.asarray(b)).max() <= TOLERANCE * largest
            for name, values in (("s", state.s), ("r", state.r), ("m", state.m), ("v", state.v)):
                mine = np.array([float(ours.state[f"{name}{i}"]) for i in range(1, 7)])
                assert np.abs(mine - np.asarray(values)).max() <= TOLERANCE * np.abs(values).max()
        assert ours.scale == pytest.approx(float(np.sum(state.s)), rel=TOLERANCE)


# ---- around an optimizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_updates_are_the_optimizer_s(dtype: Any, threads: int, rng: np.random.Generator) -> None:
    """Bit for bit those that it makes by itself from the same weights, with clip and schedule, for any number of threads."""
    shapes = [(50_000,), (3, 7)]
    start = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    options: dict[str, Any] = {
        "lr": schuss.schedules.cosine(1.0, steps=8, warmup=2),
        "weight_decay": 0.1,
        "clip": schuss.ClipNorm(1.0),
    }
    params, plain = [p.copy() for p in start], [p.copy() for p in start]
    ours = schuss.Mechanic(schuss.AdamW(params, threads=threads, **options), s_init=0.01)
    alone = schuss.AdamW(plain, threads=1, **options)
    twin = Reference(passes.Mechanic(plain, s_init=0.01))
    for _ in range(6):
        grads = [p - 1 + rng.standard_normal(p.shape) for p in plain]
        grads = [np.asarray(g, dtype) for g in grads]
        alone.step(grads)
        for copied, p in zip(twin._leaves, plain, strict=True):
            copied[...] = p
        twin.step(grads)
        for p, scaled in zip(plain, twin.params, strict=True):
            p[...] = scaled
        ours.step(grads)
        for a, b in zip(params, plain, strict=True):
            assert np.array_equal(bits(a), bits(b))
    assert ours.t == 6
    assert ours.scale > 0.01


def test_both_ways_of_ascent(rng: np.random.Generator) -> None:
    down, up = np.ones(50), np.ones(50)
    a = schuss.Mechanic(schuss.SGD(down, lr=1.0), s_init=0.01)
    b = schuss.Mechanic(schuss.SGD(up, lr=1.0, maximize=True), s_init=0.01)
    for _ in range(5):
        grad = rng.standard_normal(50)
        a.step(grad)
        b.step(-grad)
    assert np.array_equal(down, up)


def test_a_new_scale_moves_tensors_without_gradients(rng: np.random.Generator) -> None:
    start = [rng.standard_normal(5), rng.standard_normal((4, 3)).astype(np.float32), np.ones((2, 2), np.complex64)]
    runs = []
    for missing in (None, 0.0):
        params = [p.copy() for p in start]
        mechanic = schuss.Mechanic(schuss.SGD({"a": params[0], "b": params[1:]}, lr=1.0), s_init=0.01)
        source = np.random.default_rng(1)
        for step in range(6):
            grads = [source.standard_normal(p.shape).astype(p.dtype) for p in params]
            if step % 2:
                below = None if missing is None else [np.zeros_like(p) for p in params[1:]]
                mechanic.step({"a": grads[0], "b": below})
            else:
                mechanic.step({"a": grads[0], "b": grads[1:]})
        runs.append([p.tobytes() for p in params])
    assert runs[0] == runs[1]


def test_gradients_that_come_scaled(rng: np.random.Generator) -> None:
    a, b = np.ones(50), np.ones(50)
    plain, scaled = (schuss.Mechanic(schuss.AdamW(w, lr=1.0), s_init=0.01) for w in (a, b))
    for _ in range(5):
        grad = rng.standard_normal(50)
        plain.step(grad)
        scaled.step(1024 * grad, grad_scale=1 / 1024)
    assert np.array_equal(a, b)


def test_a_refused_step_leaves_all_as_it_was(rng: np.random.Generator) -> None:
    w = rng.standard_normal(5)
    for policy, refused in (("raise", (ValueError, FloatingPointError)), ("skip", ())):
        mechanic = schuss.Mechanic(schuss.AdamW(w, lr=1.0, nonfinite=policy), s_init=0.01)
        mechanic.step(np.ones(5))
        before = everything(mechanic)
        if refused:
            for grads in (np.ones(4), np.full(5, np.nan)):
                with pytest.raises(refused):
                    mechanic.step(grads)
        else:
            mechanic.step(np.full(5, np.inf))
            assert mechanic.last.skipped
        assert everything(mechanic) == before


def test_the_start_is_where_the_first_step_finds_the_weights() -> None:
    w = np.zeros(3)
    mechanic = schuss.Mechanic(schuss.SGD(w, lr=1.0), s_init=0.5)
    w[...] = 7  # as loaded from elsewhere
    mechanic.step(np.ones(3))
    assert w.tolist() == [6.5, 6.5, 6.5]
    w[...] = 1
    mechanic.reset()
    assert (mechanic.t, mechanic.scale) == (0, 0.0)
    mechanic.step(np.ones(3))
    assert w.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lr", [1e-2, 1.0, 1e2])
def test_the_scale_makes_up_for_the_rate(lr: float, dtype: Any, rng: np.random.Generator) -> None:
    """From rates four orders of magnitude apart, and a first scale below the resolution of float32 weights."""
    a = rng.standard_normal((60, 20))
    a /= np.linalg.norm(a, 2)
    solution = rng.standard_normal(20)
    w = np.ones(20, dtype)
    mechanic = schuss.Mechanic(schuss.SGD(w, lr=lr))

    def loss() -> float:
        return float(np.sum((a @ (w - solution)) ** 2))

    first = loss()
    for _ in range(400):
        mechanic.step(a.T @ (a @ (w - solution)))
    assert loss() < 0.02 * first
    assert 0.01 < mechanic.scale * lr < 10  # gradient descent takes 1


# ---- state -----------------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_a_checkpoint(tmp_path: Path, rng: np.random.Generator) -> None:
    start = numbers(rng)
    steps = [numbers(rng) for _ in range(9)]

    def make(params: Any) -> Any:
        return schuss.Mechanic(schuss.AdamW(params, lr=schuss.schedules.cosine(1.0, steps=9)), s_init=0.01)

    unbroken = make([p.copy() for p in start])
    for grads in steps:
        unbroken.step(grads)
    first = make([p.copy() for p in start])
    for grads in steps[:4]:
        first.step(grads)
    first.save(tmp_path / "half.npz", params=True)
    second = make([np.zeros_like(p) for p in start])
    second.load(tmp_path / "half.npz")
    for again in (second, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        for grads in steps[4:]:
            again.step(grads)
        assert everything(again) == everything(unbroken)


def test_arguments_may_change() -> None:
    """A schedule is of the steps done; an assignment acts from the next step on."""
    w = np.zeros(1)
    mechanic = schuss.Mechanic(schuss.SGD(w, lr=1.0), s_init=lambda step: 0.5 if step == 0 else 2.0, s_decay=0.0)
    mechanic.step(np.ones(1))
    assert mechanic.scale == pytest.approx(0.5, rel=TOLERANCE)
    mechanic.s_init = 0.25
    mechanic.step(np.zeros(1))  # no product: the wealth is what it was
    assert mechanic.scale == pytest.approx(0.25, rel=TOLERANCE)
    with pytest.raises(ValueError, match=r"^Mechanic: s_init must be in \(0, inf\), got 0$"):
        mechanic.s_init = 0.0


def test_memory_is_the_start_and_the_updates() -> None:
    w = np.zeros(1000, np.float32)
    assert schuss.Mechanic(schuss.SGD(w)).nbytes == 8 * 1000 + 24 * 8


# ---- what does not go together -----------------------------------------------------------------------------------------------


def test_what_it_does_not_wrap() -> None:
    w = np.zeros(2)
    with pytest.raises(
        ValueError, match=r"^Mechanic: scaled steps do not keep to the bounds of SGD; make it without bounds$"
    ):
        schuss.Mechanic(schuss.SGD(w, bounds=(-1.0, 1.0)))
    with pytest.raises(TypeError, match=r"^Mechanic: ScheduleFreeSGD keeps weights of its own, "):
        schuss.Mechanic(schuss.ScheduleFreeSGD(w))
    with pytest.raises(
        TypeError, match=r"^Mechanic: it scales the steps of an optimizer itself, got SAM; put Mechanic inside$"
    ):
        schuss.Mechanic(schuss.SAM(schuss.SGD(w)))
    with pytest.raises(TypeError, match=r"^Mechanic: step takes gradients, got a function; .* SAM\(Mechanic\(...\)\)$"):
        schuss.Mechanic(schuss.SGD(w)).step(lambda: w)


def test_sam_around_it(rng: np.random.Generator) -> None:
    """The gradients that it scales by are those at the perturbed weights."""
    a, b = np.ones(9), np.ones(9)
    nested = schuss.SAM(schuss.Mechanic(schuss.SGD(a, lr=1.0), s_init=0.01), rho=0.1)
    flat = schuss.Mechanic(schuss.SGD(b, lr=1.0), s_init=0.01)
    for _ in range(5):
        nested.step(lambda: a**3)
        flat.step((b + 0.1 / float(np.sqrt(np.sum(b**6))) * b**3) ** 3)
    assert np.allclose(a, b, rtol=1e-13)
    nested.s_decay = 0.5
    assert nested.optimizer.s_decay == 0.5
    assert nested.scale == nested.optimizer.scale


def test_rollback_around_it(rng: np.random.Generator) -> None:
    mechanic = schuss.Mechanic(schuss.AdamW(rng.standard_normal(9), lr=1.0), s_init=0.01)
    undoable = schuss.Rollback(mechanic)
    undoable.step(rng.standard_normal(9))
    before = everything(mechanic)
    undoable.step(rng.standard_normal(9))
    undoable.rollback()
    assert everything(mechanic) == before


def test_micro_batches(rng: np.random.Generator) -> None:
    a, b = np.ones(9), np.ones(9)
    nested = schuss.Accumulate(schuss.Mechanic(schuss.SGD(a, lr=1.0), s_init=0.01), steps=2)
    flat = schuss.Mechanic(schuss.SGD(b, lr=1.0), s_init=0.01)
    for _ in range(4):
        one, two = rng.standard_normal(9), rng.standard_normal(9)
        nested.step(one)
        nested.step(two)
        flat.step((one + two) * 0.5)
    assert np.array_equal(a, b)
