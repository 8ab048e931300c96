"""Golden trajectories where torch has no implementation: from optax, and from textbook scripts in plain NumPy.

Every optimizer needs an independent implementation to be compared with, since a formula that is wrong on both of its pages
passes all other tests: an entry in `PEERS` of test_peers_torch.py, in `FROM_OPTAX` or in `TEXTBOOKS`, or a reason in
`WITHOUT_PEER`.

The scripts below are written from the papers, step by step and without regard to speed or rounding; they share nothing with
the references in the package. All in float64 over 30 steps; the tolerance is that of the comparison with torch,
max|a - b| / max|b| <= 1e-12 per array, for the reason given there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import test_peers_torch
from numpy.typing import NDArray
from support import CLASSES

STEPS = 30
TOLERANCE = 1e-12
SHAPES = [(), (1,), (7, 5), (2, 3, 4), (257,)]
BY_NAME = {cls.__name__: cls for cls in CLASSES}

Arrays = list[NDArray[Any]]


# ---- optax ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def optax() -> Iterator[ModuleType]:
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield optax
    jax.config.update("jax_enable_x64", before)


@dataclass(frozen=True)
class FromOptax:
    """An optimizer of optax that does what one of ours does."""

    #: Makes it, given optax and our arguments.
    make: Callable[..., Any]
    #: Our arguments; all that are passed are named, since the defaults differ.
    arguments: list[dict[str, Any]]
    #: Our slots, and where they are in optax's state.
    slots: dict[str, Callable[[Any], Any]]


ADAM = {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}
MOMENTS: dict[str, Callable[[Any], Any]] = {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu}


def adam(optax: ModuleType, *, lr: float, beta1: float, beta2: float, eps: float) -> Any:
    return optax.adam(lr, b1=beta1, b2=beta2, eps=eps)


def adamw(optax: ModuleType, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> Any:
    return optax.adamw(lr, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay)


def adagrad(optax: ModuleType, *, lr: float, eps: float, initial_accumulator: float, eps_inside: bool) -> Any:
    assert eps_inside
    return optax.adagrad(lr, initial_accumulator_value=initial_accumulator, eps=eps)


def rmsprop(
    optax: ModuleType, *, lr: float, alpha: float, eps: float, centered: bool, momentum: float, eps_inside: bool
) -> Any:
    # The rate inside the buffer and outside are the same while it does not change.
    return optax.rmsprop(lr, decay=alpha, eps=eps, centered=centered, momentum=momentum or None, eps_in_sqrt=eps_inside)


def momentum(optax: ModuleType, *, lr: float, beta: float) -> Any:
    return optax.chain(optax.ema(beta, debias=False), optax.scale(-lr))


def sgd(optax: ModuleType, *, lr: float, momentum: float, nesterov: bool) -> Any:
    return optax.sgd(lr, momentum=momentum or None, nesterov=nesterov)


def lamb(optax: ModuleType, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> Any:
    return optax.lamb(lr, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay)


def novograd(optax: ModuleType, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> Any:
    return optax.novograd(lr, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay)


def prodigy(
    optax: ModuleType, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, d0: float, d_coef: float,
    safeguard_warmup: bool, bias_correction: bool,
) -> Any:  # fmt: skip
    assert bias_correction, "optax always corrects"
    return optax.contrib.prodigy(
        lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, estim_lr0=d0, estim_lr_coef=d_coef,
        safeguard_warmup=safeguard_warmup,
    )  # fmt: skip


def lion(optax: ModuleType, *, lr: float, beta1: float, beta2: float, weight_decay: float) -> Any:
    return optax.lion(lr, b1=beta1, b2=beta2, weight_decay=weight_decay)


PRODIGY = ADAM | {"lr": 1.0, "eps": 1e-8, "weight_decay": 0.0, "d0": 1e-6, "d_coef": 1.0}
PRODIGY |= {"safeguard_warmup": False, "bias_correction": True}
# The estimate rests on p0 - p, whose leading digits cancel where d is small: with weight decay, which both sides round in
# different places, d0 = 1e-6 leaves ten digits of it. So weight decay comes with a larger d0.
RMSPROP = {"lr": 0.01, "alpha": 0.9, "eps": 1e-3}

FROM_OPTAX: dict[str, list[FromOptax]] = {
    "SGD": [
        FromOptax(
            sgd,
            [{"lr": 0.1, "momentum": 0.0, "nesterov": False}]
            + [{"lr": 0.1, "momentum": 0.9, "nesterov": nesterov} for nesterov in (False, True)],
            {"buffer": lambda state: state[0].trace},
        )
    ],
    "Momentum": [FromOptax(momentum, [{"lr": 0.1, "beta": 0.9}], {"v": lambda state: state[0].ema})],
    "Adagrad": [
        FromOptax(
            adagrad,
            [
                {"lr": 0.1, "eps": eps, "initial_accumulator": start, "eps_inside": True}
                for eps, start in ((1e-7, 0.1), (0.01, 0.0))
            ],
            {"n": lambda state: state[0].sum_of_squares},
        )
    ],
    "RMSprop": [
        FromOptax(
            rmsprop,
            [
                RMSPROP | {"centered": centered, "momentum": 0.0, "eps_inside": inside}
                for centered, inside in itertools.product((False, True), repeat=2)
            ],
            {"v": lambda state: state[0].nu, "m": lambda state: state[0].mu},
        ),
        FromOptax(
            rmsprop,
            [
                RMSPROP | {"centered": centered, "momentum": 0.8, "eps_inside": inside}
                for centered, inside in itertools.product((False, True), repeat=2)
            ],
            # Optax's buffer holds lr (and the sign) times ours.
            {
                "v": lambda state: state[0].nu,
                "m": lambda state: state[0].mu,
                "buffer": lambda state: [trace / -RMSPROP["lr"] for trace in state[2].trace],
            },
        ),
    ],
    "Adam": [FromOptax(adam, [ADAM], MOMENTS)],
    "AdamW": [FromOptax(adamw, [ADAM | {"weight_decay": 0.1}], MOMENTS)],
    "LAMB": [FromOptax(lamb, [ADAM | {"weight_decay": decay} for decay in (0.0, 0.1)], MOMENTS)],
    "Lion": [
        FromOptax(
            lion,
            [{"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "weight_decay": decay} for decay in (0.0, 0.1)],
            {"m": lambda state: state[0].mu},
        )
    ],
    "NovoGrad": [
        FromOptax(
            novograd,
            [ADAM | {"weight_decay": decay} for decay in (0.0, 0.1)],
            {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
        )
    ],
    "Prodigy": [
        FromOptax(
            prodigy,
            [
                PRODIGY,
                PRODIGY | {"eps": 1e-2, "d0": 1e-3},
                PRODIGY | {"weight_decay": 0.1, "d_coef": 2.0, "d0": 1e-2},
                PRODIGY | {"safeguard_warmup": True, "lr": 0.5, "d0": 1e-4},
            ],
            {
                "m": lambda state: state.exp_avg,
                "v": lambda state: state.exp_avg_sq,
                "s": lambda state: state.grad_sum,
                "p0": lambda state: state.params0,
                "d": lambda state: state.estim_lr,
                "d_max": lambda state: state.estim_lr,  # the same while the growth has no bound
                "d_numerator": lambda state: state.numerator_weighted,
            },
        )
    ],
}


def numbers(rng: np.random.Generator, shapes: Iterable[tuple[int, ...]] = SHAPES) -> Arrays:
    return [np.asarray(rng.standard_normal(shape)) for shape in shapes]


class Yardstick:
    """Compares arrays with the largest magnitude that each has had: an array of one element may pass through zero."""

    def __init__(self) -> None:
        self.largest: dict[tuple[str, int], float] = {}

    def compare(self, name: str, ours: Any, theirs: Any) -> None:
        """Compare arrays, or lists of them."""
        listed = isinstance(theirs, list | tuple)
        pairs = zip(ours, theirs, strict=True) if listed else [(ours, theirs)]
        for i, (a, b) in enumerate(pairs):
            a, b = np.asarray(a), np.asarray(b)
            assert a.dtype == b.dtype == np.float64
            assert a.shape == b.shape
            self.largest[name, i] = max(np.abs(b).max(), self.largest.get((name, i), 0.0))
            assert np.abs(a - b).max() <= TOLERANCE * self.largest[name, i], (name, i)


def some_zero(step: int, grads: Arrays) -> Arrays:
    """Return the gradients of a step, the second zero in the first three: norms and moments of nothing."""
    return [grad * 0 if i == 1 and step < 3 else grad for i, grad in enumerate(grads)]


OPTAX_CASES = [
    (name, peer, arguments) for name, peers in FROM_OPTAX.items() for peer in peers for arguments in peer.arguments
]


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "peer", "arguments"),
    OPTAX_CASES,
    ids=[f"{name}-{','.join(f'{k}={v}' for k, v in arguments.items())}" for name, _, arguments in OPTAX_CASES],
)
def test_optax(
    optax: ModuleType, name: str, peer: FromOptax, arguments: dict[str, Any], rng: np.random.Generator
) -> None:
    start = numbers(rng)
    if name != "NovoGrad":  # where optax divides 0 by 0
        start[2] *= 0
    opt = BY_NAME[name]([p.copy() for p in start], **arguments)
    transformation = peer.make(optax, **arguments)
    params = [optax.tree.cast(p, np.float64) for p in start]
    state = transformation.init(params)
    yardstick = Yardstick()
    for step in range(STEPS):
        grads = numbers(rng) if name == "NovoGrad" else some_zero(step, numbers(rng))
        opt.step(grads)
        updates, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        yardstick.compare("params", opt.params, params)
        for slot, values in opt.state.items():
            yardstick.compare(slot, values, peer.slots[slot](state))


@pytest.mark.peers
def test_scheduled_optax(optax: ModuleType, rng: np.random.Generator) -> None:
    """Both frameworks give a schedule the number of steps already done."""

    def rate(step: Any) -> Any:
        return 0.1 / (step + 1)

    arguments: dict[str, Any] = ADAM | {"lr": rate, "weight_decay": 0.1}
    start = numbers(rng)
    opt = BY_NAME["LAMB"]([p.copy() for p in start], **arguments)
    transformation = lamb(optax, **arguments)
    params = [optax.tree.cast(p, np.float64) for p in start]
    state = transformation.init(params)
    yardstick = Yardstick()
    for _ in range(STEPS):
        grads = numbers(rng)
        opt.step(grads)
        updates, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        yardstick.compare("params", opt.params, params)


# ---- textbooks ------------------------------------------------------------------------------------------------------------


def adam_textbook(s: Any, t: int, p: Any, g: Any, h: Any, *, lr: float, beta1: float, beta2: float, eps: float,
                  bias_correction: bool) -> Any:  # fmt: skip
    """Kingma & Ba (2015), Algorithm 1, and what is left of it without the corrections."""
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * g**2
    if not bias_correction:
        return p - lr * s.m / (np.sqrt(s.v) + eps)
    m_hat, v_hat = s.m / (1 - beta1**t), s.v / (1 - beta2**t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps)


def adahessian_textbook(s: Any, t: int, p: Any, g: Any, h: Any, *, lr: float, beta1: float, beta2: float, eps: float,
                        weight_decay: float) -> Any:  # fmt: skip
    """Yao et al. (2021), Algorithm 1 with k = 1: the diagonal h where Adam has g in the second moment."""
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * h * h
    root = (s.v / (1 - beta2**t)) ** 0.5
    return p * (1 - lr * weight_decay) - lr * s.m / (1 - beta1**t) / (root + eps)


def adam_mini_textbook(s: Any, t: int, p: Any, g: Any, h: Any, *, lr: float, beta1: float, beta2: float, eps: float,
                       weight_decay: float) -> Any:  # fmt: skip
    """Zhang et al. (2024), Algorithm 1, with one block per row; a vector is one row."""
    p = p * (1 - lr * weight_decay)
    s.m = beta1 * s.m + (1 - beta1) * g
    within_rows = tuple(range(int(g.ndim > 1), g.ndim))
    s.v = beta2 * s.v + (1 - beta2) * np.mean(g**2, axis=within_rows)
    v_hat = np.expand_dims(s.v / (1 - beta2**t), within_rows)
    return p - lr * (s.m / (1 - beta1**t)) / (np.sqrt(v_hat) + eps)


def adam_h_textbook(
    s: Any, t: int, p: Any, g: Any, h: Any, *, lr: float, beta1: float, beta2: float, eps: float
) -> Any:
    """The hyperball step: a move of lr times the norm along Adam's direction, then back on the sphere."""
    s.m = beta1 * s.m + (1 - beta1) * g
    s.v = beta2 * s.v + (1 - beta2) * g**2
    u = (s.m / (1 - beta1**t)) / (np.sqrt(s.v / (1 - beta2**t)) + eps)

    def norm(x: Any) -> float:
        return float(np.sqrt((x**2).sum()))

    radius = norm(p)
    if radius == 0:  # no sphere
        return p - lr * u
    if norm(u) == 0:
        return p
    moved = p - lr * u * radius / norm(u)
    return moved / norm(moved) * radius


TEXTBOOK_ADAM = {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}

#: Class -> script, combinations of arguments.
TEXTBOOKS: dict[str, tuple[Callable[..., Any], list[dict[str, Any]]]] = {
    "Adam": (adam_textbook, [TEXTBOOK_ADAM | {"bias_correction": on} for on in (False, True)]),
    "AdaHessian": (adahessian_textbook, [TEXTBOOK_ADAM | {"weight_decay": decay} for decay in (0.0, 0.1)]),
    "AdamMini": (adam_mini_textbook, [TEXTBOOK_ADAM | {"weight_decay": decay} for decay in (0.0, 0.1)]),
    "AdamH": (adam_h_textbook, [TEXTBOOK_ADAM, {"lr": 0.5, "beta1": 0.0, "beta2": 0.5, "eps": 1e-8}]),
}
TEXTBOOK_CASES = [(name, arguments) for name, (_, several) in TEXTBOOKS.items() for arguments in several]


@pytest.mark.parametrize(
    ("name", "arguments"),
    TEXTBOOK_CASES,
    ids=[f"{name}-{','.join(f'{k}={v}' for k, v in arguments.items())}" for name, arguments in TEXTBOOK_CASES],
)
def test_textbook(name: str, arguments: dict[str, Any], rng: np.random.Generator) -> None:
    script = TEXTBOOKS[name][0]
    params = numbers(rng)
    if name == "AdamH":
        params[2] *= 0
    opt = BY_NAME[name]([p.copy() for p in params], **arguments)
    inputs = opt._kernel()["inputs"]
    # A script's slots start at zero, in the shapes that ours have.
    names = list(opt.state)
    states = [SimpleNamespace(**{s: np.zeros_like(opt.state[s][i]) for s in names}) for i in range(len(params))]
    yardstick = Yardstick()
    for t in range(1, STEPS + 1):
        grads, others = some_zero(t, numbers(rng)), numbers(rng)
        opt.step(grads, **dict.fromkeys(inputs, others))
        params = [script(s, t, p, g, h, **arguments) for s, p, g, h in zip(states, params, grads, others, strict=True)]
        yardstick.compare("params", opt.params, params)
        for slot in names:
            yardstick.compare(slot, opt.state[slot], [getattr(s, slot) for s in states])


class ProdigyTextbook:
    """Mishchenko & Defazio (2023), Algorithm 4 as the authors' code has it: moments scaled by d, sums over all tensors."""

    def __init__(self, params: Arrays, **hyper: Any) -> None:
        self.h = SimpleNamespace(**hyper)
        self.params, self.p0 = params, params
        self.d = self.d_max = self.h.d0
        self.d_numerator = 0.0
        self.m, self.v, self.s = ([np.zeros_like(p) for p in params] for _ in range(3))
        self.t = 0

    def step(self, grads: Arrays) -> None:
        h, d, self.t = self.h, self.d, self.t + 1
        lr = h.lr(self.t - 1) if callable(h.lr) else h.lr
        correction = math.sqrt(1 - h.beta2**self.t) / (1 - h.beta1**self.t) if h.bias_correction else 1
        rate = d * lr * correction
        beta3 = math.sqrt(h.beta2)
        inner = sum(float((g * (x0 - p)).sum()) for g, x0, p in zip(grads, self.p0, self.params, strict=True))
        self.d_numerator = beta3 * self.d_numerator + d / h.d0 * rate * inner
        self.m = [h.beta1 * m + (1 - h.beta1) * d * g for m, g in zip(self.m, grads, strict=True)]
        self.v = [h.beta2 * v + (1 - h.beta2) * d**2 * g**2 for v, g in zip(self.v, grads, strict=True)]
        weight = d / h.d0 * (d if h.safeguard_warmup else rate)
        self.s = [beta3 * s + weight * g for s, g in zip(self.s, grads, strict=True)]
        denominator = sum(float(np.abs(s).sum()) for s in self.s)
        if denominator > 0:
            d_hat = h.d_coef * self.d_numerator / denominator
            if self.d == h.d0:
                self.d = max(self.d, d_hat)
            self.d_max = max(self.d_max, d_hat)
            self.d = min(self.d_max, self.d * h.growth_rate)
        self.params = [
            p * (1 - h.weight_decay * rate) - rate * m / (np.sqrt(v) + self.d * h.eps)
            for p, m, v in zip(self.params, self.m, self.v, strict=True)
        ]


AUTHORS = TEXTBOOK_ADAM | {"lr": 1.0, "weight_decay": 0.0, "d0": 1e-6, "d_coef": 1.0, "growth_rate": math.inf}
AUTHORS |= {"bias_correction": False, "safeguard_warmup": False, "eps": 1e-8}
PRODIGY_CASES: list[dict[str, Any]] = [
    AUTHORS,
    AUTHORS | {"d0": 1e-3, "eps": 1e-2},
    AUTHORS | {"d0": 1e-2, "growth_rate": 1.02, "weight_decay": 0.1},
    AUTHORS | {"d0": 1e-4, "growth_rate": 1.2, "bias_correction": True, "d_coef": 0.5},
    AUTHORS | {"d0": 1e-3, "safeguard_warmup": True, "lr": lambda step: (step + 1) / 10},
]


@pytest.mark.parametrize("arguments", PRODIGY_CASES)
def test_prodigy_of_the_authors(arguments: dict[str, Any], rng: np.random.Generator) -> None:
    start = numbers(rng)
    opt = BY_NAME["Prodigy"]([p.copy() for p in start], **arguments)
    twin = ProdigyTextbook(start, **arguments)
    minimum = numbers(rng)
    yardstick = Yardstick()
    estimates = set()
    for _ in range(STEPS):
        # A convex problem with noise, so that the estimate grows.
        grads = [np.asarray(p - x + 0.1 * e) for p, x, e in zip(twin.params, minimum, numbers(rng), strict=True)]
        opt.step(grads)
        twin.step(grads)
        yardstick.compare("params", opt.params, twin.params)
        for slot, values in opt.state.items():
            yardstick.compare(slot, values, getattr(twin, slot))
        estimates.add(float(opt.state["d"]))
    assert len(estimates) > 5, "the estimate moved"


# ---- completeness ----------------------------------------------------------------------------------------------------

#: Optimizers that no independent implementation was found for or could be written of, and why.
WITHOUT_PEER: dict[str, str] = {}

#: Hyper-parameters of every optimizer that not every peer has, and what tests them.
BESIDE_PEERS = {
    "l1": "a stage in front of all rules: compared with the reference in test_bits.py",
    "l2": "a stage in front of all rules: torch's weight_decay, for all classes that torch has with one",
}


def exercised(name: str) -> list[dict[str, Any]]:
    """Return the arguments of all cases of a class, in our words."""
    found = [peer.in_our_words(options) for cls, peer, options in test_peers_torch.CASES if cls == name]
    found += [arguments for cls, _, arguments in OPTAX_CASES if cls == name]
    found += [arguments for cls, arguments in TEXTBOOK_CASES if cls == name]
    return found + (PRODIGY_CASES if name == "Prodigy" else [])


@pytest.mark.parametrize("name", BY_NAME)
def test_every_optimizer_has_a_peer(name: str) -> None:
    assert bool(exercised(name)) != (name in WITHOUT_PEER), "needs a case, or a reason in WITHOUT_PEER, not both"


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in WITHOUT_PEER])
def test_every_hyperparameter_meets_a_peer(name: str) -> None:
    """A value other than the default of every hyper-parameter is part of some comparison."""
    described = BY_NAME[name].hyperparameters
    passed = {item for arguments in exercised(name) for item in arguments.items()}
    changed = {key for key, value in passed if key in described and value != described[key].default}
    assert set(described) - set(BESIDE_PEERS) <= changed


def test_no_case_is_stale() -> None:
    named = {name for name, _, _ in (*test_peers_torch.CASES, *OPTAX_CASES)} | set(TEXTBOOKS) | set(WITHOUT_PEER)
    assert named <= set(BY_NAME)
