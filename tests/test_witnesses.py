"""Golden trajectories: every optimizer against its independent implementations, in float64 over 30 steps (`witnesses/`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import witnesses
from support import CLASSES, inputs_for
from witnesses import STEPS, Arrays, Witness, installed

import schuss

SHAPES = [(), (1,), (7, 5), (2, 3, 4), (257,)]
BY_RULE = {cls.rule: cls for cls in CLASSES}
FOUND = witnesses.found()

CASES = [
    (rule, witness, arguments)
    for rule, module in FOUND.items()
    for witness in getattr(module, "WITNESSES", [])
    for arguments in witness.cases
]


def label(value: object) -> str:
    if isinstance(value, Witness):
        return value.source
    if isinstance(value, dict):
        return ",".join(f"{key}={getattr(each, '__name__', each)}" for key, each in value.items())
    return str(value)


def numbers(rng: np.random.Generator, shapes: Iterable[tuple[int, ...]] = SHAPES) -> Arrays:
    return [np.asarray(rng.standard_normal(shape)) for shape in shapes]


class Yardstick:
    """Compares arrays with the largest magnitude that each has had: an array of one element may pass through zero."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.largest: dict[tuple[str, int], float] = {}

    def compare(self, name: str, ours: Any, theirs: Any) -> None:
        """Compare arrays, or sequences of them."""
        listed = isinstance(theirs, list | tuple)
        pairs = zip(ours, theirs, strict=True) if listed else [(ours, theirs)]
        for i, (a, b) in enumerate(pairs):
            if a is None:  # the tensor has no such slot
                continue
            a, b = np.asarray(a), np.asarray(b)
            assert a.dtype == np.float64
            assert b.dtype == np.float64, "the witness must compute in float64"
            assert a.shape == b.shape, (name, i)
            self.largest[name, i] = max(np.abs(b).max(), self.largest.get((name, i), 0.0))
            apart = np.abs(a - b).max()
            assert apart <= self.tolerance * self.largest[name, i], f"{name}[{i}]: {apart / self.largest[name, i]:.2g}"


@pytest.mark.parametrize(
    ("rule", "witness", "arguments"),
    [pytest.param(*case, marks=[pytest.mark.peers] * case[1].indexed) for case in CASES],
    ids=label,
)
def test_witness(rule: str, witness: Witness, arguments: dict[str, Any], rng: np.random.Generator) -> None:
    with installed(witness.package):
        compare(rule, witness, arguments, rng)


def compare(rule: str, witness: Witness, arguments: dict[str, Any], rng: np.random.Generator) -> None:
    start = numbers(rng)
    if witness.zeros:
        start[2] *= 0
    ours = BY_RULE[rule]([p.copy() for p in start], **arguments)
    theirs = witness.make([p.copy() for p in start], **arguments)
    minimum = numbers(rng)
    yardstick = Yardstick(witness.tolerance)
    for step in range(STEPS):
        grads = numbers(rng)
        if witness.convex:
            grads = [np.asarray(p - x + 0.1 * e) for p, x, e in zip(theirs.params, minimum, grads, strict=True)]
        elif witness.zeros and step < 3:
            grads[1] *= 0  # norms and moments of nothing
        inputs = inputs_for(ours, grads, rng)
        ours.step(grads, **inputs)
        if hasattr(ours, "update_hessian"):  # curvature from the caller, after every third step
            inputs["samples"] = numbers(rng) if step % 3 == 0 else None
            if step % 3 == 0:
                ours.update_hessian(inputs["samples"])
        theirs.step(grads, **inputs)
        yardstick.compare("params", ours.params, list(theirs.params))
        for slot, values in ours.state.items():
            if (where := witness.slots.get(slot)) is not None:
                yardstick.compare(slot, values, theirs.slot(where))
    assert all(np.isfinite(p).all() for p in ours.params)


# ---- completeness ---------------------------------------------------------------------------------------------------------

#: Hyper-parameters of every optimizer that not every witness has, and what tests them.
BESIDE_WITNESSES = {
    "l1": "a stage in front of all rules: compared with the reference in test_bits.py",
    "l2": "a stage in front of all rules: torch's weight_decay, for all classes that torch has with one",
    "seed": "chooses the random numbers, which test_math.py compares with another implementation of the generator",
}

#: Slots that not every witness shows, and what tests them.
SLOTS_BESIDE_WITNESSES = {
    "p0": "the start: what is measured from it is compared",
    "failures": "counts factorisations that failed, and none do",
}


def exercised(rule: str) -> list[dict[str, Any]]:
    """Return the arguments of all cases of a rule, in our words."""
    module = FOUND[rule]
    found = [arguments for name, _, arguments in CASES if name == rule]
    torch = getattr(module, "TORCH", None)
    for peer in torch.all if torch else ():
        found += [peer.in_our_words(options) for options in peer.options]
    return found


def test_every_witness_has_an_optimizer() -> None:
    assert set(FOUND) == set(BY_RULE), "one file of witnesses/ per rule"


@pytest.mark.parametrize("rule", FOUND)
def test_every_hyperparameter_meets_a_witness(rule: str) -> None:
    """A value other than the default of every hyper-parameter is part of some comparison."""
    if reason := getattr(FOUND[rule], "NONE", ""):
        assert not exercised(rule), "a witness, or a reason why there is none, not both"
        assert len(reason) > 40
        return
    described: dict[str, Any] = BY_RULE[rule].hyperparameters
    passed = [item for arguments in exercised(rule) for item in arguments.items()]
    changed = {key for key, value in passed if key in described and value != described[key].default}
    assert set(described) - set(BESIDE_WITNESSES) <= changed


@pytest.mark.parametrize("rule", FOUND)
def test_every_slot_meets_a_witness(rule: str) -> None:
    """Every part of the state is part of some comparison, under its name."""
    module = FOUND[rule]
    if getattr(module, "NONE", ""):
        return
    kernels = BY_RULE[rule]._compiled()["kernels"].values()
    slots = {slot for kernel in kernels for slot in (*kernel["state"], *kernel["scalars"]) if slot is not None}
    slots |= set(BY_RULE[rule].shaped)
    torch = getattr(module, "TORCH", None)
    peers = [*getattr(module, "WITNESSES", []), *(torch.all if torch else ())]
    compared = {slot for peer in peers for slot, where in peer.slots.items() if where is not None}
    assert compared <= slots
    assert slots - set(SLOTS_BESIDE_WITNESSES) <= compared


def test_a_wrong_witness_is_found(rng: np.random.Generator) -> None:
    """The comparison itself can fail."""
    wrong = Witness(
        "script", witnesses.from_script(lambda s, t, p, g, *, lr: p - lr * g * (1 + 1e-11 * (t == 7))), [{"lr": 0.1}]
    )
    with pytest.raises(AssertionError, match=r"params\[\d\]: \d\S*e-1[0-2]"):
        compare("sgd", wrong, wrong.cases[0], rng)


def test_the_schedule_counts_alike(rng: np.random.Generator) -> None:
    """A script sees the number of steps already done, as ours does."""
    opt = schuss.SGD(np.zeros(3), lr=lambda step: 1.0 + step)
    witness = witnesses.from_script(lambda s, t, p, g, *, lr: p - lr * g)([np.zeros(3)], lr=lambda step: 1.0 + step)
    for _ in range(3):
        grads = rng.standard_normal(3)
        opt.step(grads)
        witness.step([grads])
        assert np.array_equal(opt.params, witness.params[0])
