"""Schedules: against other packages, against their formulas, by their promises, and inside optimizers."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from witnesses import installed

import schuss
from schuss import schedules
from schuss.hyperparameters import Domain
from schuss.schedules import Plateau
from schuss.schedules._base import Choice, Count, Items, Schedule, _ranges
from schuss.schedules._combine import Combined, Inside

STEPS = 200
TOLERANCE = 1e-12
ROOT = Path(__file__).resolve().parents[1]
ALL: dict[str, type[Schedule]] = {name: getattr(schedules, name) for name in schedules.__all__}
PURE = {name: cls for name, cls in ALL.items() if cls is not Plateau}

each_schedule = pytest.mark.parametrize("cls", ALL.values(), ids=ALL.keys())


def values_of(schedule: Callable[[int], float], steps: int = STEPS) -> NDArray[np.float64]:
    return np.array([schedule(step) for step in range(steps)])


def assert_close(ours: NDArray[np.float64], theirs: Any) -> None:
    """Both agree to 1e-12 of the value, or of the largest where numbers cancel."""
    theirs = np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.ptp(theirs) > 0, "a comparison of constants shows little"
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE * np.abs(theirs).max())


# ---- other packages -------------------------------------------------------------------------------------------------------


def of_torch(build: Callable[[Any, Any], Any], lr: float = 0.7, key: str = "lr") -> Callable[[], Any]:
    """Return the rates, or momenta, that a scheduler of torch gives an optimizer."""

    def values() -> list[float]:
        with installed("torch") as torch:
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
            scheduler = build(torch.optim.lr_scheduler, optimizer)
            found = []
            for _ in range(STEPS):
                found.append(float(optimizer.param_groups[0][key]))
                optimizer.step()
                scheduler.step()
            return found

    return values


def of_jax(package: str, build: Callable[[Any], Any]) -> Callable[[], Any]:
    """Return the values of a schedule written in jax, all steps at once: one by one its conditions are compiled anew."""

    def values() -> Any:
        with installed(package) as module, pytest.MonkeyPatch.context() as monkeypatch:
            if package == "keras":
                # Over jax its cosine and logarithm turn doubles into singles, whatever floatx is; over tensorflow not.
                narrowed = importlib.import_module("keras.src.backend.common.dtypes").BIT64_TO_BIT32_DTYPE
                monkeypatch.setitem(narrowed, "float64", "float64")
            schedule = build(module)
            jax = importlib.import_module("jax")
            found = jax.jit(jax.vmap(schedule))(np.arange(STEPS))
            assert found.dtype == np.float64
            return found

    return values


def of_optax(build: Callable[[Any], Any]) -> Callable[[], Any]:
    return of_jax("optax", build)


def of_keras(build: Callable[[Any], Any]) -> Callable[[], Any]:
    return of_jax("keras", lambda keras: build(keras.optimizers.schedules))


def of_pytorch_optimizer(build: Callable[[Any, Any], Any], lr: float = 0.7) -> Callable[[], Any]:
    def values() -> list[float]:
        package = pytest.importorskip("pytorch_optimizer")
        return of_torch(lambda _, optimizer: build(package.lr_scheduler, optimizer), lr)()

    return values


def rex_of_pytorch_optimizer(package: Any, optimizer: Any) -> Any:
    """Return its scheduler after the step that its first rate takes."""
    scheduler = package.rex.REXScheduler(optimizer, total_steps=150, max_lr=0.7, min_lr=0.01)
    assert optimizer.param_groups[0]["lr"] == 0.01  # the first rate is set by the first call of step
    scheduler.step_t = 0
    scheduler.step()
    return scheduler


s = schedules
torch_cycle = {
    "base_lr": 0.1,
    "max_lr": 0.6,
    "step_size_up": 13,
    "step_size_down": 7,
    "base_momentum": 0.7,
    "max_momentum": 0.95,
}
onecycle = {"peak": 0.7, "steps": STEPS - 1, "div_factor": 20.0, "final_div_factor": 1e3}
torch_onecycle = {
    "max_lr": 0.7,
    "total_steps": STEPS,
    "pct_start": 0.3,
    "div_factor": 20.0,
    "final_div_factor": 1e3,
    "base_momentum": 0.8,
}
torch_start = (0.3 * STEPS - 1) / (STEPS - 1)
three = s.one_cycle(**onecycle, pct_start=torch_start, pct_final=2 * torch_start)

PEERS: list[tuple[str, Schedule, Callable[[], Any]]] = [
    ("torch StepLR", s.step(0.7, 30, 0.5), of_torch(lambda t, o: t.StepLR(o, 30, 0.5))),
    ("torch MultiStepLR", s.multistep(0.7, [30, 80], 0.5), of_torch(lambda t, o: t.MultiStepLR(o, [30, 80], 0.5))),
    ("torch ConstantLR", s.piecewise([50], [0.7 / 3, 0.7]), of_torch(lambda t, o: t.ConstantLR(o, 1 / 3, 50))),
    ("torch LinearLR", s.linear(0.7 / 4, 0.7, 50), of_torch(lambda t, o: t.LinearLR(o, 0.25, 1.0, 50))),
    ("torch ExponentialLR", s.exponential(0.7, 0.98), of_torch(lambda t, o: t.ExponentialLR(o, 0.98))),
    ("torch PolynomialLR", s.polynomial(0.7, 0.0, 150, 2.5), of_torch(lambda t, o: t.PolynomialLR(o, 150, 2.5))),
    (
        "torch CosineAnnealingLR",
        s.cosine(0.7, STEPS, floor=0.1),
        of_torch(lambda t, o: t.CosineAnnealingLR(o, STEPS, 0.1)),
    ),
    (
        "torch CosineAnnealingWarmRestarts",
        s.cosine_restarts(0.7, 10, t_mul=2, floor=0.1),
        of_torch(lambda t, o: t.CosineAnnealingWarmRestarts(o, 10, 2, 0.1)),
    ),
    (
        "torch CosineAnnealingWarmRestarts of one length",
        s.cosine_restarts(0.7, 30),
        of_torch(lambda t, o: t.CosineAnnealingWarmRestarts(o, 30)),
    ),
    *(
        (
            f"torch CyclicLR {mode} {key}",
            made.momentum(0.7, 0.95) if key == "momentum" else made,
            of_torch(lambda t, o, mode=mode: t.CyclicLR(o, mode=mode, gamma=0.99, **torch_cycle), key=key),
        )
        for mode in ("triangular", "triangular2", "exp_range")
        for made in [s.cyclic(0.1, 0.6, 13, 7, mode, 0.99)]
        for key in ("lr", "momentum")
    ),
    *(
        (
            f"torch OneCycleLR {anneal} {2 + final} {key}",
            made.momentum(0.8, 0.95) if key == "momentum" else made,
            of_torch(
                lambda t, o, anneal=anneal, final=final: t.OneCycleLR(
                    o, anneal_strategy=anneal[:3] if anneal == "cosine" else anneal, three_phase=final, **torch_onecycle
                ),
                key=key,
            ),
        )
        for anneal in ("cosine", "linear")
        for final in (False, True)
        for made in [dataclasses.replace(three, anneal=anneal, pct_final=2 * torch_start if final else None)]
        for key in ("lr", "momentum")
    ),
    (
        "torch SequentialLR",
        s.join([s.piecewise([20], [0.07, 0.7]), s.exponential(0.7, 0.9)], [20]),
        of_torch(lambda t, o: t.SequentialLR(o, [t.ConstantLR(o, 0.1, 20), t.ExponentialLR(o, 0.9)], [20])),
    ),
    (
        "torch ChainedScheduler",
        s.chain(s.piecewise([20], [0.1, 1.0]), s.exponential(0.7, 0.9)),
        of_torch(lambda t, o: t.ChainedScheduler([t.ConstantLR(o, 0.1, 20), t.ExponentialLR(o, 0.9)])),
    ),
    (
        "torch LambdaLR",
        s.scale(s.inverse_time(1.0, 0.3, every=10), 0.7),
        of_torch(lambda t, o: t.LambdaLR(o, lambda n: 1 / (1 + 0.3 * n / 10))),
    ),
    (
        "optax piecewise_constant_schedule",
        s.piecewise([30, 80], [0.7, 0.35, 0.07]),
        of_optax(lambda o: o.piecewise_constant_schedule(0.7, {30: 0.5, 80: 0.2})),
    ),
    *(
        (
            f"optax piecewise_interpolate_schedule {anneal}",
            s.interpolate([0, 30, 80], [0.7, 0.35, 1.05], anneal),
            of_optax(lambda o, anneal=anneal: o.piecewise_interpolate_schedule(anneal, 0.7, {30: 0.5, 80: 3.0})),
        )
        for anneal in ("linear", "cosine")
    ),
    ("optax linear_schedule", s.linear(0.1, 0.7, 150), of_optax(lambda o: o.linear_schedule(0.1, 0.7, 150))),
    (
        "optax polynomial_schedule",
        s.polynomial(0.7, 0.1, 150, 3),
        of_optax(lambda o: o.polynomial_schedule(0.7, 0.1, 3, 150)),
    ),
    (
        "optax exponential_decay",
        s.clamp(s.exponential(0.7, 0.5, 20), lower=0.01),
        of_optax(lambda o: o.exponential_decay(0.7, 20, 0.5, end_value=0.01)),
    ),
    (
        "optax exponential_decay in stairs",
        s.exponential(0.7, 0.5, 20, staircase=True),
        of_optax(lambda o: o.exponential_decay(0.7, 20, 0.5, staircase=True)),
    ),
    (
        "optax cosine_decay_schedule",
        s.cosine(0.7, 150, floor=0.07),
        of_optax(lambda o: o.cosine_decay_schedule(0.7, 150, 0.1)),
    ),
    (
        "optax warmup_cosine_decay_schedule",
        s.cosine(0.7, 150, warmup=30, floor=0.1, start=0.2),
        of_optax(lambda o: o.warmup_cosine_decay_schedule(0.2, 0.7, 30, 150, 0.1)),
    ),
    (
        "optax warmup_constant_schedule",
        s.warmup(0.7, 30, start=0.0),
        of_optax(lambda o: o.warmup_constant_schedule(0.0, 0.7, 30)),
    ),
    (
        "optax warmup_exponential_decay_schedule",
        s.join([s.warmup(0.7, 30, start=0.1), s.exponential(0.7, 0.5, 20)], [30]),
        of_optax(lambda o: o.warmup_exponential_decay_schedule(0.1, 0.7, 30, 20, 0.5)),
    ),
    (
        "optax cosine_onecycle_schedule",
        s.one_cycle(0.7, 150, div_factor=20, final_div_factor=1e3),
        of_optax(lambda o: o.cosine_onecycle_schedule(150, 0.7, 0.3, 20, 1e3)),
    ),
    (
        "optax linear_onecycle_schedule",
        s.one_cycle(0.7, 180, 0.3, 0.85, "linear", 20, 1e3),
        of_optax(lambda o: o.linear_onecycle_schedule(180, 0.7, 0.3, 0.85, 20, 1e3)),
    ),
    (
        "optax join_schedules",
        s.join([s.linear(0.1, 0.7, 20), s.constant(0.3), s.cosine(0.7, 50)], [25, 60]),
        of_optax(
            lambda o: o.join_schedules(
                [o.linear_schedule(0.1, 0.7, 20), o.constant_schedule(0.3), o.cosine_decay_schedule(0.7, 50)], [25, 60]
            )
        ),
    ),
    (
        "optax sgdr_schedule",
        s.join([s.cosine(0.7, 40, 10, 0.1, 0.0), s.cosine(0.35, 60, 5, 0.0, 0.1)], [40]),
        of_optax(
            lambda o: o.sgdr_schedule(
                [
                    {"init_value": 0.0, "peak_value": 0.7, "decay_steps": 40, "warmup_steps": 10, "end_value": 0.1},
                    {"init_value": 0.1, "peak_value": 0.35, "decay_steps": 60, "warmup_steps": 5, "end_value": 0.0},
                ]
            )
        ),
    ),
    (
        "keras PiecewiseConstantDecay",
        s.piecewise([30 + 1, 80 + 1], [0.7, 0.3, 0.1]),  # the old value at the boundary
        of_keras(lambda k: k.PiecewiseConstantDecay([30, 80], [0.7, 0.3, 0.1])),
    ),
    *(
        (
            f"keras ExponentialDecay, staircase={stairs}",
            s.exponential(0.7, 0.5, 20, stairs),
            of_keras(lambda k, stairs=stairs: k.ExponentialDecay(0.7, 20, 0.5, stairs)),
        )
        for stairs in (False, True)
    ),
    *(
        (
            f"keras InverseTimeDecay, staircase={stairs}",
            s.inverse_time(0.7, 0.5, 20, stairs),
            of_keras(lambda k, stairs=stairs: k.InverseTimeDecay(0.7, 20, 0.5, stairs)),
        )
        for stairs in (False, True)
    ),
    *(
        (
            f"keras PolynomialDecay, cycle={cycle}",
            s.polynomial(0.7, 0.1, 60, 2.0, cycle),
            of_keras(lambda k, cycle=cycle: k.PolynomialDecay(0.7, 60, 0.1, 2.0, cycle)),
        )
        for cycle in (False, True)
    ),
    ("keras CosineDecay", s.cosine(0.7, 150, floor=0.07), of_keras(lambda k: k.CosineDecay(0.7, 150, 0.1))),
    (
        "keras CosineDecay with warm-up",
        s.cosine(0.7, 30 + 120, 30, 0.07, 0.2),  # its decay_steps are those after the warm-up
        of_keras(lambda k: k.CosineDecay(0.2, 120, 0.1, warmup_target=0.7, warmup_steps=30)),
    ),
    *(
        (
            f"keras CosineDecayRestarts {t_mul} {m_mul}",
            # With 20 steps keras is late by one at 140, where its logarithm of 8 over that of 2 is less than 3.
            s.cosine_restarts(0.7, 40, t_mul, m_mul, 0.07),
            of_keras(lambda k, t_mul=t_mul, m_mul=m_mul: k.CosineDecayRestarts(0.7, 40, t_mul, m_mul, 0.1)),
        )
        for t_mul in (1.0, 1.5, 2.0)
        for m_mul in (1.0, 0.8)
    ),
    *(
        (
            f"pytorch_optimizer get_wsd_schedule {shape}",
            s.wsd(0.7, 180, 60, 30, shape=shape, start=0.0),
            of_pytorch_optimizer(lambda p, o, shape=shape: p.get_wsd_schedule(o, 30, 90, 60, cooldown_type=shape)),
        )
        for shape in ("1-sqrt", "linear", "1-square", "cosine")
    ),
    ("pytorch_optimizer REXScheduler", s.rex(0.7, 150, 0.01), of_pytorch_optimizer(rex_of_pytorch_optimizer)),
]


@pytest.mark.peers
@pytest.mark.parametrize(("ours", "theirs"), [case[1:] for case in PEERS], ids=[case[0] for case in PEERS])
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch's own SequentialLR
def test_schedules_of_other_packages(ours: Schedule, theirs: Callable[[], Any]) -> None:
    assert_close(values_of(ours), theirs())


# ---- formulas -------------------------------------------------------------------------------------------------------------

n = np.arange(STEPS, dtype=np.float64)


def cool(shape: Callable[[Any], Any], floor: float = 0.1) -> NDArray[np.float64]:
    """Return the trapezoid of 180 steps with 30 of warm-up and 60 of cool-down."""
    x = np.clip((n - 120) / 60, 0, 1)
    return np.where(n < 30, 0.7 * (n + 1) / 30, floor + (0.7 - floor) * shape(x))


FORMULAS: list[tuple[Schedule, Any]] = [
    (
        s.cosine(0.7, 150, 30, 0.1),
        np.where(n < 30, 0.7 * (n + 1) / 30, 0.1 + 0.6 * np.cos(np.pi / 2 * np.clip((n - 30) / 120, 0, 1)) ** 2),
    ),
    (s.warmup(0.7, 30), 0.7 * np.minimum((n + 1) / 30, 1)),
    # DeepSpeed's WarmupLR
    (s.warmup(0.7, 30, start=0.1, shape="log"), 0.1 + 0.6 * np.minimum(np.log(n + 1) / np.log(30), 1)),
    (s.warmup(0.7, 30, shape="log"), 0.7 * np.minimum(np.log(n + 1) / np.log(30), 1)),
    (s.geometric(1e-5, 10.0, STEPS - 1), np.geomspace(1e-5, 10.0, STEPS)),
    (s.geometric(10.0, 1e-5, STEPS // 2 - 1), np.append(np.geomspace(10.0, 1e-5, STEPS // 2), np.full(STEPS // 2, 1e-5))),
    (s.linear(1e-5, 10.0, STEPS - 1), np.linspace(1e-5, 10.0, STEPS)),
    (s.interpolate([10.5, 50, 120.25], [0.3, 0.7, 0.1]), np.interp(n, [10.5, 50, 120.25], [0.3, 0.7, 0.1])),
    (s.tanh(0.7, 150, 0.1), 0.1 + 0.3 * (1 - np.tanh(-6 + 9 * np.minimum(n / 150, 1)))),
    (s.tanh(0.7, 150, 0.1, -4, 2), 0.1 + 0.3 * (1 - np.tanh(-4 + 6 * np.minimum(n / 150, 1)))),
    # Vaswani et al., equation 3, with d_model = 64
    (s.inverse_sqrt((64 * 30) ** -0.5, 30), 64**-0.5 * np.minimum((n + 1) ** -0.5, (n + 1) * 30**-1.5)),
    # get_inverse_sqrt_schedule of Hugging Face's transformers
    (s.inverse_sqrt(0.7, 30, start=0.0), 0.7 * np.where(n < 30, n / 30, 1 / np.sqrt(np.maximum(n, 1) / 30))),
    (s.inverse_sqrt(0.7, 30, start=0.2), np.where(n < 30, 0.2 + 0.5 * n / 30, 0.7 / np.sqrt(np.maximum(n, 1) / 30))),
    (s.wsd(0.7, 180, 60, 30, 0.1), cool(lambda x: 1 - np.sqrt(x))),
    (s.wsd(0.7, 180, 60, 30, 0.1, "linear"), cool(lambda x: 1 - x)),
    (s.wsd(0.7, 180, 60, 30, 0.1, "1-square"), cool(lambda x: 1 - x**2)),
    (s.wsd(0.7, 180, 60, 30, 0.1, "cosine"), cool(lambda x: np.cos(np.pi * x / 2) ** 2)),
    (s.wsd(0.7, 180, 60, 30, 0.1, "power", 1.5), cool(lambda x: (1 - x) ** 1.5)),
    (s.wsd(0.7, 180, 60, 30, 0.1, "exponential"), cool(lambda x: (0.7 * (0.1 / 0.7) ** x - 0.1) / 0.6)),
    # "PowerCool": min(peak, c (S - s)^1.2)
    (s.wsd(0.7, 180, 60, shape="power", power=1.2), np.minimum(0.7, 0.7 / 60**1.2 * np.maximum(180 - n, 0) ** 1.2)),
    (s.rex(0.7, 150), 0.7 * (1 - np.minimum(n / 150, 1)) / (1 - np.minimum(n / 150, 1) / 2)),
    # the learning rate over one plus batch over warm-up batch
    (s.inverse_time(0.7, every=25), 0.7 / (1 + n / 25)),
    (s.batch_size(0.7, s.linear(32, 256, 100), 256), 0.7 * (32 + 224 * np.minimum(n / 100, 1)) / 256),
    (s.batch_size(0.7, lambda step: 16 + step, 64, "sqrt"), 0.7 * np.sqrt((16 + n) / 64)),
    (s.batch_size(0.7, lambda step: 16 + step, 64, "noise"), 0.7 / (1 + 64 / (16 + n))),
    (s.function(lambda step: 1 / (1 + step)), 1 / (1 + n)),
    (s.clamp(s.linear(0, 1, 100), 0.2, 0.7), np.clip(n / 100, 0.2, 0.7)),
    (s.clamp(s.linear(0, 1, 100), upper=0.7), np.minimum(n / 100, 0.7)),
    (s.scale(s.linear(0, 1, 100), -2), -2 * np.minimum(n / 100, 1)),
    (s.join([lambda step: step, s.constant(7), lambda step: 10.0 + step], [5, 8]), [*range(5), 7, 7, 7, *np.arange(10, 202)]),
    (s.chain(s.linear(0, 1, 100), lambda step: step, s.constant(3)), 3 * n * np.minimum(n / 100, 1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "expected"), FORMULAS, ids=[f"{i}-{type(f[0]).__name__}" for i, f in enumerate(FORMULAS)]
)
def test_formulas(ours: Schedule, expected: Any) -> None:
    assert_close(values_of(ours), expected)


def test_every_schedule_is_compared() -> None:
    compared = {type(case[1]) for case in PEERS} | {type(case[0]) for case in FORMULAS}
    compared |= {type(part) for case in PEERS if isinstance(case[1], s.join) for part in case[1].schedules}  # constant
    assert compared == set(PURE.values())


def test_the_end_is_exact() -> None:
    """What stays at a value stays at that value, bit for bit."""
    for end in (s.linear(0.3, 0.1, 7), s.cosine(0.3, 7, floor=0.1), s.polynomial(0.3, 0.1, 7, 0.7), s.rex(0.3, 7, 0.1),
                s.geometric(0.3, 0.1, 7), s.wsd(0.3, 7, 3, floor=0.1), s.wsd(0.3, 7, 3, floor=0.1, shape="exponential"),
                s.interpolate([0, 7], [0.3, 0.1], "cosine")):  # fmt: skip
        assert {end(step) for step in (7, 8, 1000, 10**9)} == {0.1}
        assert end(0) == pytest.approx(0.3)


# ---- what holds for all, derived from __all__ and the ranges in the annotations --------------------------------------------

PARTS: list[Callable[[int], float]] = [
    s.constant(0.5),
    s.cosine(0.5, 20, 3, 0.1),
    s.cyclic(0.1, 1.0, 5),
    s.scale(s.linear(1.0, 0.1, 9), 0.5),
]


def drawn(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of an argument, within what its range allows."""
    if isinstance(kind, Choice):
        return st.sampled_from(kind.words)
    if isinstance(kind, Count):
        return st.integers(kind.least, 12) | st.integers(kind.least, 10**6)
    if isinstance(kind, Items):
        items = st.lists(drawn(kind.of), min_size=2, max_size=3, unique=kind.rising)
        return items.map(lambda each: tuple(sorted(each))) if kind.rising else items.map(tuple)
    if isinstance(kind, Inside):
        return st.sampled_from(PARTS)
    assert isinstance(kind, Domain), kind
    if kind.switch:
        return st.booleans()
    least, most = max(kind.lower, -1e6), min(kind.upper, 1e6)
    floats = st.floats(least, most, allow_subnormal=False)
    return floats.filter(lambda x: x in kind and (x == 0 or abs(x) > 1e-12))


def double(step: int) -> float:
    """Stand for a user's function."""
    return 2.0 * step


@st.composite
def made(draw: st.DrawFn, cls: type[Schedule]) -> Schedule:
    """Return a schedule of a class, with arguments from the ranges in its annotations."""
    if cls is s.function:
        return s.function(double)
    ranges = _ranges(cls)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.init:
            values = drawn(ranges[field.name])
            arguments[field.name] = draw(st.none() | values if field.default is None else values)
    try:
        return cls(*arguments.pop("schedules")) if cls is s.chain else cls(**arguments)
    except ValueError as error:
        if not str(error).startswith((f"{cls.__name__}: ", "interpolate: boundaries")):
            raise
        reject()


relaxed = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


def bounds(schedule: Schedule) -> tuple[float, float]:
    """Return what the values lie between, by the arguments that are values."""
    names = {"value", "values", "peak", "floor", "start", "end", "base"}
    found = [0.0]
    for name, value in schedule._arguments().items():
        if name in names:
            found += value if isinstance(value, tuple) else [value]
    if isinstance(schedule, s.one_cycle):
        found.append(schedule.peak / schedule.div_factor / schedule.final_div_factor)
    return min(found), max(found)


@each_schedule
@relaxed
@given(data=st.data())
def test_values_are_finite_and_in_range(cls: type[Schedule], data: st.DataObject) -> None:
    schedule = data.draw(made(cls))
    for step in (0, 1, data.draw(st.integers(0, 50)), data.draw(st.integers(0, 2**62)), 10**9, 2**53 + 1, 2**62):
        value = schedule(step)
        assert type(value) is float
        assert math.isfinite(value)
        assert schedule(np.int64(step)) == value
        if not isinstance(schedule, Combined | s.function):
            lower, upper = bounds(schedule)
            slack = 1e-14 * max(abs(lower), abs(upper))
            assert lower - slack <= value <= upper + slack


@each_schedule
@relaxed
@given(data=st.data())
def test_repr_pickle_and_equality(cls: type[Schedule], data: st.DataObject) -> None:
    schedule = data.draw(made(cls))
    steps = [0, 1, 5, 1000, 10**9]
    values = [schedule(step) for step in steps]
    if cls is Plateau:
        assert repr(schedule).startswith("Plateau(value=")
        assert [pickle.loads(pickle.dumps(schedule))(step) for step in steps] == values
        return
    for twin in (eval(repr(schedule), {**ALL, "double": double}), pickle.loads(pickle.dumps(schedule))):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert [twin(step) for step in steps] == values
    assert schedule != s.constant(-1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.value = 1.0  # type: ignore[attr-defined]


@each_schedule
@settings(relaxed, max_examples=3)
@given(data=st.data())
def test_plots(cls: type[Schedule], data: st.DataObject) -> None:
    """The picture shows the values, and says of what they are; steps and axes are the caller's where given."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    schedule = data.draw(made(cls))
    for steps, mine in ((None, False), (7, True), (10**7, True)):
        given_axes = pyplot.figure().add_subplot() if mine else None
        axes = schedule.plot(steps, ax=given_axes)
        assert given_axes is None or axes is given_axes
        (line,) = axes.get_lines()
        shown, values = line.get_data()
        assert list(values) == [schedule(int(step)) for step in shown]
        assert (shown[0], len(shown) > 1, len(shown) < 5010) == (0, True, True)
        assert steps is None or shown[-1] == steps
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps done", "value")
        (label,) = axes.get_legend().get_texts()
        assert label.get_text().split() == repr(schedule).split()
        pyplot.close("all")


@each_schedule
def test_every_schedule_is_documented(cls: type[Schedule]) -> None:
    """Formula, every argument, an example; a row and an example on the page."""
    text = cls.__doc__ or ""
    assert ".. math::" in text
    assert ">>> " in text
    for name in (field.name for field in dataclasses.fields(cls) if field.init):  # type: ignore[arg-type]
        assert any(
            name in line.split(" : ")[0].replace("*", "").split(", ") for line in map(str.strip, text.splitlines())
        )
    page = ROOT / "docs/schedules.md"
    if page.exists():  # beside the sources
        rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
        assert any(line.startswith(f"| `{cls.__name__}(") for line in rows), f"{cls.__name__} is not on the page"


FALLING: list[tuple[type[Schedule], Callable[[Any], int]]] = [
    (s.step, lambda _: 0),
    (s.multistep, lambda _: 0),
    (s.exponential, lambda _: 0),
    (s.inverse_time, lambda _: 0),
    (s.rex, lambda _: 0),
    (s.tanh, lambda _: 0),
    (s.linear, lambda _: 0),
    (s.geometric, lambda _: 0),
    (s.polynomial, lambda _: 0),
    (s.cosine, lambda made: made.warmup),
    (s.inverse_sqrt, lambda made: made.warmup),
    (s.wsd, lambda made: made.warmup),
]


@pytest.mark.parametrize(("cls", "begin"), FALLING, ids=lambda value: getattr(value, "__name__", ""))
@relaxed
@given(data=st.data())
def test_falling_schedules_fall(cls: type[Schedule], begin: Callable[[Any], int], data: st.DataObject) -> None:
    """Toward the floor, or whatever the end is, after the warm-up; and they rise before."""
    schedule: Any = data.draw(made(cls))
    if getattr(schedule, "cycle", False):
        reject()
    steps = sorted([*range(12), *data.draw(st.lists(st.integers(0, 10**6), min_size=5)), 10**9])
    values = [schedule(begin(schedule) + step) for step in steps]
    first, last = (
        getattr(schedule, "peak", getattr(schedule, "start", 1.0)),
        getattr(schedule, "floor", getattr(schedule, "end", 0.0)),
    )
    sign = 1 if first >= last else -1
    slack = 1e-14 * max(map(abs, values))
    assert all(sign * a >= sign * b - slack for a, b in pairwise(values))
    if begin(schedule) and (schedule.start or 0.0) <= schedule.peak:
        rising = [schedule(step) for step in range(min(begin(schedule), 50))]
        assert all(a <= b + 1e-14 * schedule.peak for a, b in pairwise(rising))


@relaxed
@given(st.integers(1, 50), st.floats(1.0, 3.0), st.integers(0, 10**9))
def test_restarts_find_their_cycle(steps: int, t_mul: float, step: int) -> None:
    """The cycle found by a logarithm is the one found by counting, also next to boundaries."""
    schedule = s.cosine_restarts(1.0, steps, t_mul, 0.5)
    begin, length, cycle = 0.0, float(steps), 0
    while begin + length <= step and cycle < 60:
        begin, length, cycle = begin + length, length * t_mul, cycle + 1
    if begin + length <= step:
        return  # cycles that hardly grow: too many to count
    x = (step - begin) / length
    expected = 0.5**cycle * (1 + math.cos(math.pi * x)) / 2
    near_boundary = min(x, 1 - x) < 1e-9 and t_mul != int(t_mul)
    choices = [expected] if not near_boundary else [expected, 0.5**cycle, 0.0, 0.5 ** (cycle + 1)]
    assert any(math.isclose(schedule(step), each, rel_tol=1e-7, abs_tol=1e-7 * 0.5**cycle) for each in choices)


@pytest.mark.parametrize("t_mul", [1.0, 2.0, 3.0, 10.0])
def test_restarts_begin_at_their_steps(t_mul: float) -> None:
    """Exactly, where boundaries are whole."""
    schedule = s.cosine_restarts(1.0, 7, t_mul)
    begin, length = 0, 7
    for _ in range(100):
        assert schedule(begin) == 1.0
        assert begin == 0 or schedule(begin - 1) < 0.06
        begin, length = begin + length, int(length * t_mul)
        if begin > 10**9:
            break


# ---- refusals --------------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: s.constant(math.nan), ValueError, "constant: value must be in (-inf, inf), got nan"),
    (lambda: s.constant("a"), TypeError, "constant: value must be a real number, got 'a'"),
    (lambda: s.cosine(-1.0, 9), ValueError, "cosine: peak must be in [0, inf), got -1"),
    (lambda: s.cosine(1.0, 0), ValueError, "cosine: steps must be in {1, 2, ...}, got 0"),
    (lambda: s.cosine(1.0, 2.5), ValueError, "cosine: steps must be in {1, 2, ...}, got 2.5"),
    (lambda: s.cosine(1.0, math.inf), ValueError, "cosine: steps must be in {1, 2, ...}, got inf"),
    (lambda: s.cosine(1.0, True), TypeError, "cosine: steps must be a whole number, got True"),
    (lambda: s.cosine(1.0, 9, 9), ValueError, "cosine: warmup must be from 0 to steps - 1, got 9 of 9 steps"),
    (lambda: s.cosine(1.0, 9)(-1), ValueError, "cosine: step must be in {0, 1, ...}, got -1"),
    (lambda: s.cosine(1.0, 9)(0.5), ValueError, "cosine: step must be in {0, 1, ...}, got 0.5"),
    (lambda: s.cosine(1.0, 9)("1"), TypeError, "cosine: step must be a whole number, got '1'"),
    (lambda: s.cosine(1.0, 9).plot(0), ValueError, "cosine: steps must be in {1, 2, ...}, got 0"),
    (lambda: s.exponential(1.0, 1.5), ValueError, "exponential: factor must be in (0, 1], got 1.5"),
    (lambda: s.exponential(1.0, 0.5, staircase=1), TypeError, "exponential: staircase must be True or False, got 1"),
    (lambda: s.piecewise([3, 3], [1, 2, 3]), ValueError, "piecewise: boundaries must rise from item to item, got (3, 3)"),
    (lambda: s.piecewise([3], [1, 2, 3]), ValueError, "piecewise: values must be one more than boundaries, got 3 and 1"),
    (lambda: s.piecewise(3, [1, 2]), TypeError, "piecewise: boundaries must be a sequence, got 3"),
    (lambda: s.piecewise([3], [1, None]), TypeError, "piecewise: values[1] must be a real number, got None"),
    (lambda: s.multistep(1.0, []), ValueError, "multistep: milestones must have at least one item"),
    (lambda: s.interpolate([0, 1], [1]), ValueError, "interpolate: values must be as many as boundaries, got 1 and 2"),
    (lambda: s.tanh(1.0, 9, lower=3), ValueError, "tanh: lower must be below upper, got 3.0 and 3.0"),
    (lambda: s.warmup(1.0, 1, shape="log"), ValueError, "warmup: steps must be in {2, 3, ...} for the shape 'log', got 1"),
    (
        lambda: s.one_cycle(1.0, 9).momentum(0.95, 0.85),
        ValueError,
        "one_cycle: momentum's low must be at most high, got 0.95 and 0.85",
    ),
    (
        lambda: s.cyclic(0.1, 1.0, 9).momentum(0.9, 0.8),
        ValueError,
        "cyclic: momentum's low must be at most high, got 0.9 and 0.8",
    ),
    (lambda: s.warmup(1.0, 9, shape="x"), ValueError, "warmup: shape must be one of 'linear', 'log', got 'x'"),
    (
        lambda: s.wsd(1.0, 9, 5, 5),
        ValueError,
        "wsd: warmup and cooldown must be no more than steps together, got 5 and 5 of 9",
    ),
    (lambda: s.wsd(1.0, 9, 5, power=2), ValueError, "wsd: power belongs to the shape 'power', got 2.0 with '1-sqrt'"),
    (
        lambda: s.wsd(1.0, 9, 5, shape="exponential"),
        ValueError,
        "wsd: peak and floor must be in (0, inf) for the shape 'exponential', got 1 and 0",
    ),
    (
        lambda: s.one_cycle(1.0, 9, 0.5, 0.4),
        ValueError,
        "one_cycle: pct_start must be below pct_final, got 0.5 and 0.4",
    ),
    (lambda: s.cyclic(0, 1, 5, mode="saw"), ValueError,
     "cyclic: mode must be one of 'triangular', 'triangular2', 'exp_range', got 'saw'"),
    (lambda: s.cosine_restarts(1.0, 9, 0.5), ValueError, "cosine_restarts: t_mul must be in [1, inf), got 0.5"),
    (lambda: s.join([s.constant(1)], [1]), ValueError, "join: schedules must be one more than boundaries, got 1 and 1"),
    (lambda: s.chain(s.constant(1), 2.0), TypeError,
     "chain: schedules[1] must be a schedule, got 2.0; write constant(2.0) for a value that stays"),
    (lambda: s.scale(0.5, 2.0), TypeError,
     "scale: schedule must be a schedule, got 0.5; write constant(0.5) for a value that stays"),
    (lambda: s.clamp(s.constant(1), 2, 1), ValueError, "clamp: lower must be below upper, got 2.0 and 1.0"),
    (lambda: s.function(3), TypeError, "function: call must be callable, got 3"),
    (lambda: s.batch_size(1.0, lambda step: 0, 8)(4), ValueError,
     "batch_size: the schedule of batch must stay in (0, inf), got 0 at step 4"),
    (lambda: Plateau(1.0, factor=1.0), ValueError, "Plateau: factor must be in (0, 1), got 1"),
    (lambda: Plateau(1.0, patience=-1), ValueError, "Plateau: patience must be in {0, 1, ...}, got -1"),
    (lambda: Plateau(1.0).report("x"), TypeError, "Plateau: the metric must be a real number, got 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "sentence"), REFUSED, ids=[case[2][:40] for case in REFUSED])
def test_refusals(call: Callable[[], Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == sentence


def test_numbers_of_numpy_and_whole_floats_are_numbers() -> None:
    assert repr(s.cosine(np.float32(0.5), np.int32(9), 1e0)) == "cosine(peak=0.5, steps=9, warmup=1, floor=0.0)"
    assert s.piecewise(np.array([2, 4]), np.array([1.0, 2.0, 3.0])) == s.piecewise((2, 4), (1, 2, 3))


# ---- inside optimizers ------------------------------------------------------------------------------------------------------


def hundredth(step: int) -> float:
    """Stand for a user's function, which needs no class."""
    return step / 100


MIXED: list[tuple[type[schuss.Optimizer], dict[str, Any]]] = [
    (schuss.SGD, {"lr": s.one_cycle(0.3, 10)}),
    (schuss.SGDW, {"lr": s.one_cycle(0.3, 10), "momentum": s.one_cycle(0.3, 10).momentum(0.8, 0.95)}),
    (
        schuss.Adam,
        {"lr": s.cyclic(0.01, 0.1, 3), "beta1": s.cyclic(0.01, 0.1, 3).momentum(0.7, 0.9), "l2": hundredth},
    ),
    (schuss.AdamW, {"lr": s.cosine(0.1, 10, 3), "weight_decay": s.linear(0.0, 0.3, 8), "beta2": s.step(0.99, 4, 0.9)}),
    (schuss.Lion, {"lr": s.wsd(0.1, 10, 4, 2), "beta1": s.interpolate([0, 5], [0.5, 0.95]), "beta2": s.constant(0.98)}),
    (schuss.RMSprop, {"lr": s.chain(s.warmup(1.0, 4), s.exponential(0.1, 0.9)), "alpha": s.piecewise([4], [0.9, 0.99])}),
]  # fmt: skip


def steps_of(optimizer: schuss.Optimizer, first: int, last: int) -> Iterator[dict[str, float]]:
    """Yield the hyper-parameters of each step."""
    for step in range(first, last):
        optimizer.step([np.random.default_rng(step).standard_normal(5)])
        assert optimizer.last is not None
        yield optimizer.last.hyperparameters[0]


@pytest.mark.parametrize(("cls", "given_schedules"), MIXED, ids=lambda value: getattr(value, "__name__", ""))
def test_any_hyperparameter_takes_a_schedule(cls: type[schuss.Optimizer], given_schedules: dict[str, Any]) -> None:
    """The same bits as with values set by hand before every step."""
    scheduled, manual = (
        cls([np.ones(5)], **given_schedules),
        cls([np.ones(5)], **{k: f(0) for k, f in given_schedules.items()}),
    )
    for step, used in enumerate(steps_of(scheduled, 0, 12)):
        assert {key: used[key] for key in given_schedules} == {key: f(step) for key, f in given_schedules.items()}
        for key, schedule in given_schedules.items():
            setattr(manual, key, schedule(step))
        manual.step([np.random.default_rng(step).standard_normal(5)])
        np.testing.assert_array_equal(scheduled.params[0], manual.params[0])


@pytest.mark.parametrize(("cls", "given_schedules"), MIXED, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("way", ["state_dict", "file", "pickle"])
def test_resuming_gives_the_same_numbers(
    cls: type[schuss.Optimizer], given_schedules: dict[str, Any], way: str, tmp_path: Path
) -> None:
    whole = cls([np.ones(5)], **given_schedules)
    expected = list(steps_of(whole, 0, 12))
    first = cls([np.ones(5)], **given_schedules)
    found = list(steps_of(first, 0, 5))
    if way == "pickle":
        second = pickle.loads(pickle.dumps(first))
    else:
        second = cls([first.params[0].copy()], **given_schedules)
        if way == "file":
            first.save(tmp_path / "run.npz")
            second.load(tmp_path / "run.npz")
        else:
            second.load_state_dict(first.state_dict())
    found += steps_of(second, 5, 12)
    assert found == expected
    np.testing.assert_array_equal(second.params[0], whole.params[0])


def test_manual_changes_at_any_time() -> None:
    optimizer = schuss.Adam([np.ones(5)], lr=s.cosine(0.1, 10), beta1=0.5)
    used = [each["lr"] for each in steps_of(optimizer, 0, 3)]
    optimizer.lr = 0.025
    used += [each["lr"] for each in steps_of(optimizer, 3, 5)]
    optimizer.lr = s.exponential(0.1, 0.5)
    optimizer.beta1 = s.linear(0.5, 0.9, 10)
    last = list(steps_of(optimizer, 5, 7))
    used += [each["lr"] for each in last]
    cosine = s.cosine(0.1, 10)
    assert used == [cosine(0), cosine(1), cosine(2), 0.025, 0.025, 0.1 * 0.5**5, 0.1 * 0.5**6]
    assert [each["beta1"] for each in last] == [s.linear(0.5, 0.9, 10)(5), s.linear(0.5, 0.9, 10)(6)]


def test_a_schedule_out_of_range_changes_nothing() -> None:
    weights = np.ones(3)
    optimizer = schuss.Adam(weights, beta1=s.linear(0.5, 1.5, 2))
    optimizer.step(np.ones(3))
    before = weights.copy()
    with pytest.raises(ValueError, match=r"the schedule of beta1 must stay in \[0, 1\), got 1 at step 1"):
        optimizer.step(np.ones(3))
    np.testing.assert_array_equal(weights, before)
    assert optimizer.t == 1


# ---- Plateau ----------------------------------------------------------------------------------------------------------------


def metrics(seed: int, wild: bool) -> list[float]:
    """Return 200 metrics that fall, stay and rise; some are not finite, if wild."""
    rng = np.random.default_rng(seed)
    found = np.abs(2.0 * 0.99 ** np.arange(STEPS) + 0.2 * rng.standard_normal(STEPS)) + 1e-3
    if wild:
        found[rng.random(STEPS) < 0.05] = np.nan
        found[rng.random(STEPS) < 0.05] = np.inf
    return [float(each) for each in found]


SETTINGS: list[dict[str, Any]] = [
    {},
    {"patience": 0, "factor": 0.9},
    {"patience": 1, "factor": 0.9, "cooldown": 1},
    {"patience": 3, "factor": 0.5, "cooldown": 4},
    {"patience": 2, "factor": 0.5, "rtol": 0.05},
    {"patience": 2, "factor": 0.5, "rtol": 0.0, "atol": 0.1, "floor": 0.01},
    {"patience": 5, "factor": 0.7, "mode": "max", "cooldown": 2},
    {"patience": 2, "factor": 0.7, "mode": "max", "rtol": 0.0, "atol": 0.02},
    {"patience": 0, "factor": 0.1, "floor": 1e-3},
]


def followed(plateau: Plateau, reports: Sequence[float]) -> list[float]:
    found = []
    for metric in reports:
        before = plateau.current
        assert plateau.report(metric) == (plateau.current < before)
        found.append(plateau(len(found)))
    return found


@pytest.mark.peers
@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("wild", [False, True])
def test_plateau_of_torch(options: dict[str, Any], wild: bool) -> None:
    words = {"threshold" if k in ("rtol", "atol") else "min_lr" if k == "floor" else k: v for k, v in options.items()}
    words["threshold_mode"] = "abs" if "atol" in options else "rel"
    wild = wild and options.get("mode") != "max"  # an infinity of the right sign is torch's best for ever
    with installed("torch") as torch:
        for seed in range(3):
            optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.7)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **words)
            theirs = []
            for metric in metrics(seed, wild):
                scheduler.step(metric)
                theirs.append(optimizer.param_groups[0]["lr"])
            ours = followed(Plateau(0.7, **options), metrics(seed, wild))
            assert theirs[-1] < 0.7
            np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE)


@pytest.mark.peers
@pytest.mark.parametrize("options", [each for each in SETTINGS if "rtol" not in each or "atol" in each], ids=str)
def test_plateau_of_keras(options: dict[str, Any]) -> None:
    """Its cool-down and its patience count otherwise."""
    words = {
        {"atol": "min_delta", "floor": "min_lr"}.get(key, key): each for key, each in options.items() if key != "rtol"
    }
    words = {"mode": "min", "min_delta": 0.0, **words}
    with installed("keras") as keras:
        for seed in range(3):
            callback = keras.callbacks.ReduceLROnPlateau(monitor="loss", **words)
            optimizer = SimpleNamespace(learning_rate=0.7)
            callback._model = SimpleNamespace(optimizer=optimizer)
            callback.on_train_begin()
            theirs = []
            for epoch, metric in enumerate(metrics(seed, wild=False)):
                callback.on_epoch_end(epoch, {"loss": metric})
                theirs.append(optimizer.learning_rate)
            arguments = {"rtol": 0.0, "eps": 0.0, "counting": "keras", **options}
            if "patience" not in options:
                arguments["patience"] = 10
            ours = followed(Plateau(0.7, **arguments), metrics(seed, wild=False))
            assert theirs[-1] < 0.7
            np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE)


@pytest.mark.peers
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    "options", [each for each in SETTINGS if each.get("mode") != "max" and each.get("patience") != 0], ids=str
)
def test_plateau_of_optax(options: dict[str, Any], accumulation: int) -> None:
    """It counts to patience, as keras, but its cool-down is torch's; and it averages."""
    words = {"min_scale" if key == "floor" else key: each for key, each in options.items()}
    with installed("optax") as optax:
        transform = optax.contrib.reduce_on_plateau(accumulation_size=accumulation, **words)
        state = transform.init(np.zeros(1))
        jit = importlib.import_module("jax").jit
        update = jit(lambda state, value: transform.update(np.zeros(1), state, value=value)[1])
        theirs = []
        for metric in metrics(0, wild=False):
            state = update(state, metric)
            theirs.append(float(state.scale))
        arguments = {"patience": 10, **options, "eps": 0.0, "accumulation": accumulation}
        arguments["patience"] -= 1
        ours = followed(Plateau(1.0, **arguments), metrics(0, wild=False))
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE)
        assert accumulation > 1 or theirs[-1] < 1.0


def test_plateau_by_hand() -> None:
    """Three bad reports in a row with a patience of two; two that do not count; NaN and infinities are bad."""
    plateau = Plateau(1.0, factor=0.5, patience=2, cooldown=2, rtol=0.0)
    reports = [3.0, 2.0, 2.0, math.nan, -math.inf, 9.0, 9.0, 2.0, 2.0, 1.0, 1.0, math.inf, 1.0]
    assert followed(plateau, reports) == [1.0] * 4 + [0.5] * 8 + [0.25]
    assert plateau.best == 1.0
    plateau.reset()
    assert (plateau.current, plateau.best) == (1.0, None)
    assert followed(plateau, reports)[-1] == 0.25


def test_plateau_leaves_out_small_changes() -> None:
    """As torch: from 1e-8 downward nothing moves."""
    assert followed(Plateau(1e-6, patience=0), [1.0] * 9)[-1] == pytest.approx(1e-8)
    assert followed(Plateau(1e-6, patience=0, eps=0.0), [1.0] * 9)[-1] == pytest.approx(1e-14)


def test_plateau_of_negative_metrics() -> None:
    """A log likelihood that gets worse by less than the threshold is no improvement."""
    plateau = Plateau(1.0, factor=0.5, patience=1, rtol=0.1)
    assert followed(plateau, [-100.0, -95.0, -105.0]) == [1.0, 1.0, 0.5]
    plateau = Plateau(1.0, factor=0.5, patience=1, rtol=0.1)
    assert followed(plateau, [-100.0, -95.0, -115.0]) == [1.0, 1.0, 1.0]


def test_plateau_averages() -> None:
    plateau = Plateau(1.0, factor=0.5, patience=0, accumulation=3, rtol=0.0)
    assert followed(plateau, [1.0, 2.0, 3.0, 9.0, 0.0]) == [1.0] * 5
    assert plateau.best == 2.0
    plateau.report(-6.0)
    assert plateau.best == 1.0
    assert followed(plateau, [0.0, math.nan, 0.0]) == [1.0, 1.0, 0.5]
    assert plateau.best == 1.0
    assert followed(plateau, [1.7e308, 1.7e308, -3e308]) == [0.5, 0.5, 0.25]


@relaxed
@given(data=st.data())
def test_plateau_resumes(data: st.DataObject) -> None:
    """Through JSON, at any report."""
    plateau = data.draw(made(Plateau))
    assert isinstance(plateau, Plateau)
    numbers = st.floats(0.0, 10.0) | st.sampled_from([math.nan, math.inf, -math.inf])
    first, second = data.draw(st.lists(numbers)), data.draw(st.lists(numbers))
    followed(plateau, first)
    state = json.loads(json.dumps(plateau.state_dict(), allow_nan=False))
    twin = Plateau(**plateau._arguments())  # type: ignore[arg-type]
    twin.load_state_dict(state)
    assert twin.state_dict() == plateau.state_dict()
    assert followed(twin, second) == followed(plateau, second)
    assert repr(twin) == repr(plateau)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"best": "x"}, TypeError, "Plateau: best of the state must be a real number, got 'x'"),
        ({"best": math.inf}, ValueError, "Plateau: best of the state must be in (-inf, inf), got inf"),
        ({"current": -1}, ValueError, "Plateau: current of the state must be in [0, inf), got -1"),
        ({"current": None}, TypeError, "Plateau: current of the state must be a real number, got None"),
        ({"bad": 0.5}, ValueError, "Plateau: bad of the state must be in {0, 1, ...}, got 0.5"),
        ({"reports": 7}, ValueError, "Plateau: reports of the state must be less than accumulation, got 7 of 1"),
        (
            {"further": 1},
            ValueError,
            "Plateau: the state must have the entries current, best, bad, cooling, reports, total, "
            "got ['bad', 'best', 'cooling', 'current', 'further', 'reports', 'total']",
        ),
    ],
)
def test_plateau_refuses_a_state(change: dict[str, Any], error: type[Exception], sentence: str) -> None:
    plateau = Plateau(1.0, patience=3)
    followed(plateau, [1.0, 2.0])
    before = plateau.state_dict()
    with pytest.raises(error) as caught:
        plateau.load_state_dict(before | change)
    assert str(caught.value) == sentence
    assert plateau.state_dict() == before


def test_plateau_in_an_optimizer() -> None:
    """Warmed up and bounded, through the attribute of the optimizer."""
    plateau = Plateau(0.4, factor=0.5, patience=0)
    optimizer = schuss.SGD([np.ones(5)], lr=s.clamp(s.chain(s.warmup(1.0, 4), plateau), lower=0.15))
    used = []
    for loss, each in zip([3.0, 2.0, 2.0, 1.0, 1.0, 1.0], steps_of(optimizer, 0, 6), strict=True):
        used.append(each["lr"])
        plateau.report(loss)
    np.testing.assert_allclose(used, [0.15, 0.2, 0.3, 0.2, 0.2, 0.15])
    assert repr(optimizer.lr) == (
        "clamp(schedule=chain(warmup(peak=1.0, steps=4, shape='linear'), Plateau(value=0.4, mode='min', factor=0.5, "
        "patience=0, rtol=0.0001, atol=0.0, cooldown=0, floor=0.0, eps=1e-08, accumulation=1, counting='torch'; "
        "current=0.05, best=1.0, bad=0)), lower=0.15)"
    )


def test_combinators_carry_the_state() -> None:
    def build() -> Any:
        inner = s.chain(s.warmup(1.0, 4), Plateau(0.4, patience=0))
        return s.scale(s.join([s.constant(1.0), inner, Plateau(0.2, patience=1)], [2, 5]), 0.5)

    first, second = build(), build()
    followed(first.schedule.schedules[1].schedules[1], [1.0, 2.0])
    followed(first.schedule.schedules[2], [3.0])
    state = json.loads(json.dumps(first.state_dict()))
    assert set(state) == {"0"}
    assert set(state["0"]) == {"1", "2"}
    second.load_state_dict(state)
    assert second.state_dict() == first.state_dict()
    assert (
        [second(step) for step in range(9)]
        == [first(step) for step in range(9)]
        != [build()(step) for step in range(9)]
    )

    fresh = build()
    before = fresh.state_dict()
    state["0"]["2"]["current"] = -1.0
    with pytest.raises(ValueError, match=r"^Plateau: current of the state must be in \[0, inf\), got -1$"):
        fresh.load_state_dict(state)
    assert fresh.state_dict() == before, "the first Plateau was changed before the second refused"
    with pytest.raises(ValueError, match=r"^scale: the state must be of the schedules \['0'\], got \['5'\]$"):
        fresh.load_state_dict({"5": {}})
    pure = s.scale(s.join([s.constant(1.0), s.constant(2.0)], [2]), 0.5)
    assert pure.state_dict() == {}
    pure.load_state_dict({})
