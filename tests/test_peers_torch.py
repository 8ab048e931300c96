"""Golden trajectories from torch: every option that torch's optimizers have and ours have too, in float64.

What is compared with what is in `witnesses/`: the `TORCH` of each rule.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import witnesses
from numpy.typing import NDArray
from support import CLASSES
from witnesses import STEPS, Arrays, TorchOptim, installed

import schuss

pytestmark = pytest.mark.peers

SHAPES = [(), (7, 5), (2, 3, 4), (257,)]

BY_RULE = {cls.rule: cls for cls in CLASSES}
#: Rules and classes of torch.
PEERS = [
    (rule, peer) for rule, module in witnesses.found().items() if hasattr(module, "TORCH") for peer in module.TORCH.all
]
CASES = [(rule, peer, options) for rule, peer in PEERS for options in peer.options]

#: Options of torch that no case may pass, and why.
BESIDE_THE_RULE = {
    "params": "the tensors",
    "foreach": "chooses an implementation: see TorchOptim.ways",
    "fused": "chooses an implementation: see TorchOptim.ways",
    "capturable": "for CUDA graphs",
    "differentiable": "for gradients through the step",
}


@pytest.fixture(scope="module")
def torch() -> Iterator[ModuleType]:
    with installed("torch") as module:
        yield module


def label(case: Any) -> str:
    if isinstance(case, TorchOptim):
        return case.theirs
    if isinstance(case, dict):
        return ",".join(f"{key}={value}" for key, value in case.items()) or "defaults"
    return str(case)


class Pair:
    """One of our optimizers and one of torch's, over the same numbers."""

    def __init__(
        self,
        torch: ModuleType,
        rule: str,
        peer: TorchOptim,
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
        self.ours = BY_RULE[rule]([schuss.Group([a.copy() for a in first]), *ours], **words)
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
        """Fail where any array parts from torch's; every slot of ours must have one of torch's, or None."""
        for k, (ours, theirs) in enumerate(zip(self.ours.params, self.tensors, strict=True)):
            for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                self.compare_arrays(("params", k, i), a, b.detach().numpy())
        for name, slot in self.ours.state.items():
            theirs_name = self.peer.slots[name]
            if theirs_name is None:
                continue
            for k, arrays in enumerate(slot):
                for i, (a, tensor) in enumerate(zip(arrays, self.tensors[k], strict=True)):
                    state = self.theirs.state.get(tensor, {})
                    if a is None:  # the tensor has no such slot
                        assert state.get(theirs_name) is None
                        continue
                    if state.get(theirs_name) is None:  # torch makes state with a tensor's first gradient
                        assert self.ours.counts[k][i] == 0
                        continue
                    self.compare_arrays((name, k, i), a, np.asarray(state[theirs_name]))

    def compare_arrays(self, which: tuple[str, int, int], ours: NDArray[Any], theirs: NDArray[Any]) -> None:
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        self.largest[which] = max(np.abs(theirs).max(), self.largest.get(which, 0.0))
        apart = np.abs(ours - theirs).max()
        assert apart <= self.peer.tolerance * self.largest[which], f"{which}: {apart / self.largest[which]:.2g}"


def numbers(rng: np.random.Generator, shapes: Sequence[tuple[int, ...]], scale: float = 1.0) -> Any:
    return [np.asarray(scale * rng.standard_normal(shape)) for shape in shapes]


every_peer = pytest.mark.parametrize(("rule", "peer"), PEERS, ids=label)


@pytest.mark.parametrize(
    ("rule", "peer", "options", "way"), [(*case, way) for case in CASES for way in case[1].ways(case[2])], ids=label
)
def test_every_option(
    torch: ModuleType, rule: str, peer: TorchOptim, options: dict[str, Any], way: str, rng: np.random.Generator
) -> None:
    pair = Pair(torch, rule, peer, [(numbers(rng, SHAPES), options)], **peer.ways(options)[way])
    for _ in range(STEPS):
        pair.step([numbers(rng, SHAPES)])
        pair.compare()


@pytest.mark.parametrize("theirs", sorted({peer.theirs for _, peer, _ in CASES}))
def test_no_option_of_torch_is_forgotten(torch: ModuleType, theirs: str) -> None:
    """A new option of torch fails here until a case passes it or a reason says why not."""
    peers = [(peer, options) for _, peer, options in CASES if peer.theirs == theirs]
    passed = {key for _, options in peers for key in options}
    parameters = set(inspect.signature(getattr(torch.optim, theirs)).parameters)
    excused = set(BESIDE_THE_RULE).union(*(peer.not_here for peer, _ in peers))
    assert parameters - excused == passed
    assert excused - set(BESIDE_THE_RULE) <= parameters, "a reason that is stale"
    assert ("fused" in parameters) == any(peer.fused for peer, _ in peers)


@every_peer
def test_missing_gradients(torch: ModuleType, rule: str, peer: TorchOptim, rng: np.random.Generator) -> None:
    """A None leaves tensor, state and step count alone, the first step's rules included."""
    pair = Pair(torch, rule, peer, [(numbers(rng, SHAPES), peer.options[-1])])
    for step in range(STEPS):
        grads = numbers(rng, SHAPES)
        for i in range(len(grads)):
            if step < i or (step + i) % 3 == 0:
                grads[i] = None
        pair.step([grads])
        pair.compare()


@every_peer
def test_groups(torch: ModuleType, rule: str, peer: TorchOptim, rng: np.random.Generator) -> None:
    """Groups with hyper-parameters of their own."""
    common = peer.options[-1]
    others = [{"lr": 0.1}, {"lr": 0.0, "weight_decay": 0.3}]
    if "betas" in common:
        others[0]["betas"] = (0.8, 0.95)  # type: ignore[assignment]
    pair = Pair(torch, rule, peer, [(numbers(rng, SHAPES), options) for options in (common, *others)])
    for _ in range(STEPS):
        pair.step([numbers(rng, SHAPES) for _ in range(3)])
        pair.compare()


@every_peer
def test_scheduled_lr(torch: ModuleType, rule: str, peer: TorchOptim, rng: np.random.Generator) -> None:
    """A schedule is LambdaLR: both see the number of steps already done."""

    def factor(step: int) -> float:
        return 0.0 if step == 0 else 1.5 + math.sin(step)

    options = peer.options[-1] | {"lr": 0.02}
    pair = Pair(torch, rule, peer, [(numbers(rng, SHAPES), options)])
    setattr(pair.ours, "lr", lambda step: 0.02 * factor(step))  # noqa: B010  (typed in subclasses)
    scheduler = torch.optim.lr_scheduler.LambdaLR(pair.theirs, factor)
    for _ in range(STEPS):
        pair.step([numbers(rng, SHAPES)])
        assert pair.ours.last is not None
        assert math.isclose(pair.ours.last.lr, pair.theirs.param_groups[0]["lr"], rel_tol=1e-15)
        scheduler.step()
        pair.compare()


@pytest.mark.parametrize(("rule", "peer"), [(rule, peer) for rule, peer in PEERS if peer.scheduled], ids=label)
def test_other_schedules(torch: ModuleType, rule: str, peer: TorchOptim, rng: np.random.Generator) -> None:
    """Any hyper-parameter may be a schedule: torch's is set by hand before each step."""
    start = {key: schedule(0) for key, schedule in peer.scheduled.items()}
    pair = Pair(torch, rule, peer, [(numbers(rng, SHAPES), {"lr": 0.01} | start)])
    for key in peer.in_our_words(start):

        def ours(step: int, key: str = key) -> float:
            values = {option: schedule(step) for option, schedule in peer.scheduled.items()}
            return float(peer.in_our_words(values)[key])

        setattr(pair.ours, key, ours)
    for step in range(STEPS):
        pair.theirs.param_groups[0].update({key: schedule(step) for key, schedule in peer.scheduled.items()})
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
@pytest.mark.parametrize(("rule", "peer"), [(rule, peer) for rule, peer in PEERS if not peer.not_complex], ids=label)
def test_complex(torch: ModuleType, rule: str, peer: TorchOptim, options: int, rng: np.random.Generator) -> None:
    """Complex numbers are pairs of reals, torch's view_as_real, for the state and its start as well."""

    def complex_numbers() -> Any:
        return [np.asarray(a + 1j * b) for a, b in zip(numbers(rng, SHAPES), numbers(rng, SHAPES), strict=True)]

    # Not fused: torch has no fused step for complex tensors.
    pair = Pair(torch, rule, peer, [(complex_numbers(), peer.options[options])])
    for _ in range(STEPS):
        pair.step([complex_numbers()])
        pair.compare()


@every_peer
def test_clip_norm(torch: ModuleType, rule: str, peer: TorchOptim, rng: np.random.Generator) -> None:
    """`ClipNorm` is clip_grad_norm_ but for the 1e-6 that torch adds to the norm: norms near 1e8 make it 1e-14 of them."""
    limit = 1e8
    pair = Pair(torch, rule, peer, [(numbers(rng, SHAPES), peer.options[-1])])
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
