"""Loss scaling, against torch's GradScaler, and rollback."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from wrapping import batches, make, memory, parameters, possible, run

import schuss
from schuss import trees

# ---- LossScale


def scaler(params: Any, **arguments: Any) -> Any:
    return schuss.LossScale(schuss.SGD(params, lr=0.5, nonfinite="skip"), **arguments)


@pytest.mark.peers
@pytest.mark.parametrize("seed", range(4))
def test_the_rule_of_torch(seed: int) -> None:
    """The same scales, skipped steps and weights over overflows at random steps."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(5)
    tensor = torch.nn.Parameter(torch.from_numpy(w.copy()))
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3, growth_factor=2.0, backoff_factor=0.5)
    rule = torch.optim.SGD([tensor], lr=0.5)
    ours = scaler(w, initial=2.0**10, interval=3)
    scales = []
    for _ in range(60):
        grad = rng.standard_normal(5)
        if rng.random() < 0.15:
            grad[2] = rng.choice([np.inf, np.nan, -np.inf])
        theirs.scale(torch.ones(()))  # makes the scale
        tensor.grad = torch.from_numpy(grad * ours.scale)
        theirs.step(rule)
        theirs.update()
        ours.step(grad * ours.scale)
        scales.append(ours.scale)
        assert ours.scale == theirs.get_scale()
        assert w.tobytes() == tensor.detach().numpy().tobytes()
    assert len(set(scales)) > 5


def test_powers_of_two_divide_exactly() -> None:
    plain, scaled = (
        schuss.AdamW(parameters(1)),
        schuss.LossScale(schuss.AdamW(parameters(1), nonfinite="skip"), interval=2),
    )
    for grads, _ in batches(scaled, 9, 3):
        plain.step(grads)
        scale = np.float32(scaled.scale)
        scaled.step(trees.map_leaves(lambda g, scale=scale: None if g is None else g.astype(np.float64) * scale, grads))
    assert memory(plain) == memory(scaled.base)
    assert scaled.scale == 2.0**20


def test_the_ends_of_the_scale() -> None:
    w = np.zeros(1)
    wrapper = scaler(w, initial=8.0, minimum=3.0, interval=1, growth=4.0)
    for expected in (4.0, 3.0, 3.0):
        wrapper.step(np.array([np.nan]))
        assert wrapper.scale == expected
    wrapper.step(np.zeros(1))
    assert wrapper.scale == 12.0
    wrapper = scaler(w, initial=2.0**1022, interval=1)
    for _ in range(3):
        wrapper.step(np.zeros(1))
    assert math.isfinite(wrapper.scale), "it stays where growing would overflow"
    wrapper.reset()
    assert wrapper.scale == 2.0**1022


def test_what_it_needs() -> None:
    for policy in (None, "raise", "propagate"):
        with pytest.raises(
            ValueError, match=r'^LossScale: SGD must skip what is not finite; make it with nonfinite="skip"$'
        ):
            schuss.LossScale(schuss.SGD(np.ones(2), nonfinite=policy))
    with pytest.raises(ValueError, match=r"^LossScale: minimum must be at most initial, got 4 and 2; lower it$"):
        scaler(np.ones(2), initial=2.0, minimum=4.0)
    wrapper = scaler(np.ones(2))
    state = wrapper.state_dict()
    for bad in (0.0, -1.0, math.inf, math.nan, 4):
        state["own"]["numbers"]["scale"] = bad
        with pytest.raises(schuss.StateError, match=r"^LossScale: the state's numbers are not valid: scale is "):
            wrapper.load_state_dict(state)


# ---- Rollback

INSIDE = possible([("Rollback", name, "AdamW") for name in schuss.wrappers()] + [("Rollback", "Prodigy")])


@pytest.mark.parametrize("chain", INSIDE, ids="-".join)
def test_the_last_steps_are_taken_back(chain: tuple[str, ...]) -> None:
    wrapper = make(chain, parameters(1))
    wrapper.depth = 3
    steps = batches(wrapper, 7, 3)
    seen = []
    for each in steps:
        seen.append(memory(wrapper))
        run(wrapper, [each])
    end = memory(wrapper)
    assert wrapper.undoable == 3
    for expected in (seen[6], seen[5], seen[4]):
        wrapper.rollback()
        assert memory(wrapper) == expected
    with pytest.raises(RuntimeError, match=r"^Rollback: there is no step to take back; each can be taken back once$"):
        wrapper.rollback()
    run(wrapper, steps[4:])
    assert memory(wrapper) == end, "the same steps again end at the same bits"


def test_rollback_brings_back_what_clips_have_learnt() -> None:
    wrapper = schuss.Rollback(schuss.SGD(np.ones(5), lr=0.1, clip=schuss.AutoClip(50), nonfinite="skip"))
    plain = copy.deepcopy(wrapper)
    rng = np.random.default_rng(3)
    for _ in range(6):
        grad = rng.standard_normal(5)
        wrapper.step(100 * grad)
        wrapper.rollback()
        for each in (wrapper, plain):
            each.step(grad)
    assert memory(wrapper) == memory(plain)


def test_what_forgets_the_copies() -> None:
    def fresh() -> Any:
        wrapper = schuss.Rollback(schuss.SGD([schuss.Group(np.ones(3))], momentum=0.5))
        wrapper.step([np.ones(3)])
        assert wrapper.undoable == 1
        return wrapper

    state = fresh().state_dict()
    ways: list[Any] = [
        lambda each: each.load_state_dict(state),
        lambda each: each.reset(),
        lambda each: each.rebind(copy.deepcopy(each.params)),
        lambda each: each.add(schuss.Group(np.ones(2))),
    ]
    for way in ways:
        wrapper = fresh()
        way(wrapper)
        assert wrapper.undoable == 0
    assert copy.deepcopy(fresh()).undoable == 0
    wrapper = fresh()
    before = memory(wrapper)
    with pytest.raises(ValueError, match="shape"):
        wrapper.step([np.ones(4)])
    assert (memory(wrapper), wrapper.undoable) == (before, 1), "a step that fails leaves the copies as they were"
    base = wrapper.base
    assert (
        wrapper.nbytes
        == base.nbytes
        + sum(array.nbytes for array in [*base._leaves, *base._slots[0], base._counts])
        + base._skips.nbytes
    )
    wrapper.params[0].flags.writeable = False
    with pytest.raises(BufferError, match="has become read-only"):
        wrapper.rollback()
    assert (memory(wrapper), wrapper.undoable) == (before, 1)
    wrapper.params[0].flags.writeable = True
    wrapper.lr = 0.25
    wrapper.rollback()
    assert (wrapper.lr, wrapper.t, wrapper.params[0].tolist()) == (0.25, 0, [1.0] * 3)
    wrapper.step([np.ones(3)])
    wrapper.eval()
    with pytest.raises(RuntimeError, match="eval"):
        wrapper.rollback()
