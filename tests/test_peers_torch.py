"""Golden trajectories from torch: every option that torch's optimizers have and ours have too, in float64.

The tolerance of all of them is max|a - b| / max|b| <= 1e-12 per array, parameters and state, after each of 30 steps, with
the largest |b| that the array has had so far (an array of one element may pass through zero). Both sides round every
operation to 1.1e-16, in different arrangements (torch divides by a root where we multiply by its inverse): 30 steps of some
ten operations differ by at most 300 such roundings, 3e-14; the rest of 1e-12 is for cancellation.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import CLASSES

import schuss

pytestmark = pytest.mark.peers

STEPS = 30
TOLERANCE = 1e-12
SHAPES = [(), (7, 5), (2, 3, 4), (257,)]

BY_NAME = {cls.__name__: cls for cls in CLASSES}

Arrays = list[NDArray[Any]]


@pytest.fixture(scope="module")
def torch() -> Iterator[ModuleType]:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on small tensors its threads only wait for one another, 20 ms a step on a busy machine
    yield torch
    torch.set_num_threads(threads)


def combinations(sizes: Sequence[int], **options: Any) -> list[dict[str, Any]]:
    """Return all choices of so many options, then all of them at once."""
    chosen = [dict(items) for size in sizes for items in itertools.combinations(options.items(), size)]
    return [*chosen, options]


def alone(**options: Any) -> list[dict[str, Any]]:
    """Return no option, each alone, and all."""
    return combinations((0, 1), **options)


def in_pairs(**options: Any) -> list[dict[str, Any]]:
    """Return no option, each alone, every two, and all."""
    return combinations((0, 1, 2), **options)


@dataclass(frozen=True)
class Peer:
    """A class of torch that does what one of ours does."""

    theirs: str
    #: Combinations of options in torch's words; the last has the most on, and stands for all in the other tests.
    options: list[dict[str, Any]]
    #: Our slots, and what torch calls them.
    slots: dict[str, str]
    weight_decay: str = "l2"
    fused: bool = True
    #: Inputs of our step that are to be the gradient.
    inputs: tuple[str, ...] = ()
    #: Slots of torch that are to exist and be zero before the first step.
    zeroed: tuple[str, ...] = ()

    def in_our_words(self, options: dict[str, Any]) -> dict[str, Any]:
        unsaid = {"amsgrad", "decoupled_weight_decay"}
        if self.zeroed:  # averaged momentum: torch's dampening is the momentum itself
            unsaid.add("dampening")
        words = {key: value for key, value in options.items() if key not in unsaid}
        if "betas" in words:
            words["beta1"], words["beta2"] = words.pop("betas")
        if "weight_decay" in words:
            words[self.weight_decay] = words.pop("weight_decay")
        if "initial_accumulator_value" in words:
            words["initial_accumulator"] = words.pop("initial_accumulator_value")
        if self.zeroed and "momentum" in words:
            words["beta"] = words.pop("momentum")
        return words

    def ways(self, options: dict[str, Any]) -> dict[str, dict[str, bool]]:
        """Return torch's implementations: where two options meet in torch, its plain one stands for all."""
        ways = {"plain": {"foreach": False}}
        if len(options) < 3 or options is self.options[-1]:
            ways["foreach"] = {"foreach": True}
            if self.fused:
                ways["fused"] = {"fused": True}
        return ways


COMMON = {"lr": 0.05, "weight_decay": 0.1, "maximize": True}
BETAS = {"betas": (0.5, 0.9)}
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}
SGD_FORMS = [
    {"momentum": 0.0},
    {"momentum": 0.5, "dampening": 1.0},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
]

#: Our class -> torch's. No options at all compare the defaults.
PEERS: dict[str, Peer] = {
    "SGD": Peer(
        "SGD",
        [form | common for form in SGD_FORMS for common in alone(**COMMON)],
        {"buffer": "momentum_buffer"},
    ),
    "Momentum": Peer(
        "SGD",
        [{"lr": 0.1, "momentum": beta, "dampening": beta, "weight_decay": 0.1} for beta in (0.5, 0.99, 0.9)],
        {"v": "momentum_buffer"},
        zeroed=("momentum_buffer",),
    ),
    "Adagrad": Peer("Adagrad", in_pairs(lr_decay=0.1, initial_accumulator_value=0.1, eps=1e-3, **COMMON), {"n": "sum"}),
    "RMSprop": Peer(
        "RMSprop",
        in_pairs(alpha=0.5, eps=1e-3, centered=True, momentum=0.9, **COMMON),
        {"v": "square_avg", "m": "grad_avg", "buffer": "momentum_buffer"},
        fused=False,
    ),
    "Adam": Peer("Adam", in_pairs(eps=1e-3, **BETAS, **COMMON), MOMENTS),
    "AMSGrad": Peer(
        "Adam",
        [{"amsgrad": True} | options for options in in_pairs(eps=1e-3, **BETAS, **COMMON)],
        MOMENTS | {"v_max": "max_exp_avg_sq"},
    ),
    "AdamW": Peer("AdamW", in_pairs(eps=1e-3, **BETAS, **COMMON), MOMENTS, "weight_decay"),
    # With the gradient for the Hessian's diagonal the rule is AdamW's, but for the default of lr.
    "AdaHessian": Peer(
        "AdamW",
        [{"lr": 0.1, "weight_decay": 0.0} | options for options in alone(eps=1e-3, **BETAS, **COMMON)],
        MOMENTS,
        "weight_decay",
        inputs=("hessian",),
    ),
}
CASES = [(name, peer, options) for name, peer in PEERS.items() for options in peer.options]
DECOUPLED = Peer("Adam", [{"decoupled_weight_decay": True} | COMMON], MOMENTS, "weight_decay")
CASES += [("AdamW", DECOUPLED, options) for options in DECOUPLED.options]

#: Options of torch that no case may pass, and why.
BESIDE_THE_RULE = {
    "params": "the tensors",
    "foreach": "chooses an implementation: see Peer.ways",
    "fused": "chooses an implementation: see Peer.ways",
    "capturable": "for CUDA graphs",
    "differentiable": "for gradients through the step",
}
NOT_HERE = {("AdamW", "amsgrad"): "no class of ours has both a maximum and a decoupled decay"}


def label(case: Any) -> str:
    if isinstance(case, Peer):
        return case.theirs
    if isinstance(case, dict):
        return ",".join(f"{key}={value}" for key, value in case.items()) or "defaults"
    return str(case)


class Pair:
    """One of our optimizers and one of torch's, over the same numbers."""

    def __init__(
        self,
        torch: ModuleType,
        name: str,
        peer: Peer,
        groups: list[tuple[Arrays, dict[str, Any]]],
        **implementation: bool,
    ) -> None:
        self.torch, self.peer = torch, peer
        self.largest: dict[tuple[str, int, int], float] = {}
        ours = [
            schuss.Group([a.copy() for a in arrays], **peer.in_our_words(options)) for arrays, options in groups[1:]
        ]
        first, common = groups[0]
        words = peer.in_our_words(common)
        self.ours = BY_NAME[name]([schuss.Group([a.copy() for a in first]), *ours], **words)
        self.tensors = [[torch.from_numpy(a.copy()).requires_grad_() for a in arrays] for arrays, _ in groups]
        members = [
            {"params": tensors} | options
            for tensors, (_, options) in zip(self.tensors, [(first, {}), *groups[1:]], strict=True)
        ]
        self.theirs = getattr(torch.optim, peer.theirs)(members, **common, **implementation)
        for slot in peer.zeroed:
            for tensor in itertools.chain(*self.tensors):
                self.theirs.state[tensor][slot] = torch.zeros_like(tensor)

    def set_gradients(self, grads: list[list[NDArray[Any] | None]]) -> None:
        for tensor, grad in zip(itertools.chain(*self.tensors), itertools.chain(*grads), strict=True):
            tensor.grad = None if grad is None else self.torch.from_numpy(grad.copy())

    def step(self, grads: list[list[NDArray[Any] | None]]) -> None:
        self.set_gradients(grads)
        self.theirs.step()
        self.ours.step(grads, **dict.fromkeys(self.peer.inputs, grads))

    def compare(self) -> None:
        """Fail where any array parts from torch's; every slot of ours must have one of torch's."""
        for k, (ours, theirs) in enumerate(zip(self.ours.params, self.tensors, strict=True)):
            for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                self.compare_arrays(("params", k, i), a, b.detach().numpy())
        for name, slot in self.ours.state.items():
            theirs_name = self.peer.slots[name]
            for k, arrays in enumerate(slot):
                for i, (a, tensor) in enumerate(zip(arrays, self.tensors[k], strict=True)):
                    state = self.theirs.state.get(tensor, {})
                    if state.get(theirs_name) is None:  # torch makes state with a tensor's first gradient
                        assert self.ours.counts[k][i] == 0
                        continue
                    self.compare_arrays((name, k, i), a, state[theirs_name].detach().numpy())

    def compare_arrays(self, which: tuple[str, int, int], ours: NDArray[Any], theirs: NDArray[Any]) -> None:
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        self.largest[which] = max(np.abs(theirs).max(), self.largest.get(which, 0.0))
        assert np.abs(ours - theirs).max() <= TOLERANCE * self.largest[which], which


def numbers(rng: np.random.Generator, shapes: Sequence[tuple[int, ...]], scale: float = 1.0) -> Any:
    return [np.asarray(scale * rng.standard_normal(shape)) for shape in shapes]


@pytest.mark.parametrize(
    ("name", "peer", "options", "way"), [(*case, way) for case in CASES for way in case[1].ways(case[2])], ids=label
)
def test_every_option(
    torch: ModuleType, name: str, peer: Peer, options: dict[str, Any], way: str, rng: np.random.Generator
) -> None:
    pair = Pair(torch, name, peer, [(numbers(rng, SHAPES), options)], **peer.ways(options)[way])
    for _ in range(STEPS):
        pair.step([numbers(rng, SHAPES)])
        pair.compare()


@pytest.mark.parametrize("theirs", sorted({peer.theirs for _, peer, _ in CASES}))
def test_no_option_of_torch_is_forgotten(torch: ModuleType, theirs: str) -> None:
    """A new option of torch fails here until a case passes it or a reason says why not."""
    peers = [(peer, options) for _, peer, options in CASES if peer.theirs == theirs]
    passed = {key for _, options in peers for key in options}
    parameters = set(inspect.signature(getattr(torch.optim, theirs)).parameters)
    excused = set(BESIDE_THE_RULE) | {option for cls, option in NOT_HERE if cls == theirs}
    assert parameters - excused == passed
    assert ("fused" in parameters) == any(peer.fused for peer, _ in peers)


@pytest.mark.parametrize("name", PEERS)
def test_missing_gradients(torch: ModuleType, name: str, rng: np.random.Generator) -> None:
    """A None leaves tensor, state and step count alone, the first step's rules included."""
    peer = PEERS[name]
    pair = Pair(torch, name, peer, [(numbers(rng, SHAPES), peer.options[-1])])
    for step in range(STEPS):
        grads = numbers(rng, SHAPES)
        for i in range(len(grads)):
            if step < i or (step + i) % 3 == 0:
                grads[i] = None
        pair.step([grads])
        pair.compare()


@pytest.mark.parametrize("name", PEERS)
def test_groups(torch: ModuleType, name: str, rng: np.random.Generator) -> None:
    """Groups with hyper-parameters of their own."""
    peer = PEERS[name]
    common = peer.options[-1]
    others = [{"lr": 0.1}, {"lr": 0.0, "weight_decay": 0.3}]
    if "betas" in common:
        others[0]["betas"] = (0.8, 0.95)  # type: ignore[assignment]
    pair = Pair(torch, name, peer, [(numbers(rng, SHAPES), options) for options in (common, *others)])
    for _ in range(STEPS):
        pair.step([numbers(rng, SHAPES) for _ in range(3)])
        pair.compare()


@pytest.mark.parametrize("name", PEERS)
def test_scheduled_lr(torch: ModuleType, name: str, rng: np.random.Generator) -> None:
    """A schedule is LambdaLR: both see the number of steps already done."""
    peer = PEERS[name]

    def factor(step: int) -> float:
        return 0.0 if step == 0 else 1.5 + math.sin(step)

    options = peer.options[-1] | {"lr": 0.02}
    pair = Pair(torch, name, peer, [(numbers(rng, SHAPES), options)])
    setattr(pair.ours, "lr", lambda step: 0.02 * factor(step))  # noqa: B010  (typed in subclasses)
    scheduler = torch.optim.lr_scheduler.LambdaLR(pair.theirs, factor)
    for _ in range(STEPS):
        pair.step([numbers(rng, SHAPES)])
        assert pair.ours.last is not None
        assert math.isclose(pair.ours.last.lr, pair.theirs.param_groups[0]["lr"], rel_tol=1e-15)
        scheduler.step()
        pair.compare()


SCHEDULED: dict[str, dict[str, Callable[[int], Any]]] = {
    "SGD": {
        "momentum": lambda s: 0.5 + 0.01 * s,
        "dampening": lambda s: 0.02 * s,
        "weight_decay": lambda s: 0.1 / (s + 1),
    },
    "RMSprop": {
        "alpha": lambda s: 0.9 + 0.003 * s,
        "momentum": lambda s: 0.5 + 0.01 * s,
        "eps": lambda s: 10.0 ** -(s + 1),
    },
    "Adagrad": {"lr_decay": lambda s: 0.01 * s, "eps": lambda s: 10.0 ** -(s + 1)},
    "Adam": {"eps": lambda s: 10.0 ** -(s + 1), "weight_decay": lambda s: 0.1 / (s + 1)},
    "AdamW": {"betas": lambda s: (0.5 + 0.01 * s, 0.9 + 0.003 * s), "weight_decay": lambda s: 0.1 / (s + 1)},
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_other_schedules(torch: ModuleType, name: str, rng: np.random.Generator) -> None:
    """Any hyper-parameter may be a schedule: torch's is set by hand before each step."""
    peer = PEERS[name]
    start = {key: schedule(0) for key, schedule in SCHEDULED[name].items()}
    pair = Pair(torch, name, peer, [(numbers(rng, SHAPES), {"lr": 0.01} | start)])
    for key in peer.in_our_words(start):

        def ours(step: int, key: str = key) -> float:
            values = {option: schedule(step) for option, schedule in SCHEDULED[name].items()}
            return float(peer.in_our_words(values)[key])

        setattr(pair.ours, key, ours)
    for step in range(STEPS):
        pair.theirs.param_groups[0].update({key: schedule(step) for key, schedule in SCHEDULED[name].items()})
        pair.step([numbers(rng, SHAPES)])
        pair.compare()


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_cosine(torch: ModuleType, floor: float) -> None:
    """Without warm-up `cosine` is CosineAnnealingLR up to its end; torch's recursion rounds at every step."""
    ours = schuss.schedules.cosine(0.3, steps=STEPS, floor=floor)
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=STEPS, eta_min=floor)
    for step in range(STEPS + 1):
        assert math.isclose(ours(step), theirs.param_groups[0]["lr"], rel_tol=1e-12, abs_tol=1e-15)
        theirs.step()
        scheduler.step()


@pytest.mark.parametrize("options", [0, -1], ids=["few options", "many options"])
@pytest.mark.parametrize("name", PEERS)
def test_complex(torch: ModuleType, name: str, options: int, rng: np.random.Generator) -> None:
    """Complex numbers are pairs of reals, torch's view_as_real, for the state and its start as well."""
    peer = PEERS[name]

    def complex_numbers() -> Any:
        return [np.asarray(a + 1j * b) for a, b in zip(numbers(rng, SHAPES), numbers(rng, SHAPES), strict=True)]

    # Not fused: torch has no fused step for complex tensors.
    pair = Pair(torch, name, peer, [(complex_numbers(), peer.options[options])])
    for _ in range(STEPS):
        pair.step([complex_numbers()])
        pair.compare()


@pytest.mark.parametrize("name", PEERS)
def test_clip_norm(torch: ModuleType, name: str, rng: np.random.Generator) -> None:
    """`ClipNorm` is clip_grad_norm_ but for the 1e-6 that torch adds to the norm: norms near 1e8 make it 1e-14 of them."""
    peer = PEERS[name]
    limit = 1e8
    pair = Pair(torch, name, peer, [(numbers(rng, SHAPES), peer.options[-1])])
    ours = pair.ours
    clipped = type(ours)(ours.params, clip=schuss.ClipNorm(limit), **peer.in_our_words(peer.options[-1]))
    pair.ours = clipped
    coefficients = []
    for step in range(STEPS):
        grads = numbers(rng, SHAPES, 1e6 if step % 3 == 0 else 1e8)
        pair.set_gradients([grads])
        norm = torch.nn.utils.clip_grad_norm_(list(itertools.chain(*pair.tensors)), limit)
        pair.theirs.step()
        if peer.inputs:  # what is no gradient is not clipped: it is given as torch's step saw it
            seen = [[tensor.grad.numpy().copy() for tensor in tensors] for tensors in pair.tensors]
            clipped.step([grads], **dict.fromkeys(peer.inputs, seen))
        else:
            clipped.step([grads])
        assert clipped.last is not None
        assert clipped.last.norm is not None
        assert math.isclose(clipped.last.norm, float(norm), rel_tol=1e-14)
        coefficients.append(clipped.last.clip)
        pair.compare()
    assert min(coefficients) < 1 == max(coefficients), "some steps are clipped, others not"
