"""The weights to be evaluated: `eval` and `train` of every optimizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import CLASSES, bits, everything, inputs_for, snapshot

import schuss
from schuss.optimizer import Optimizer

AVERAGING = [cls for cls in CLASSES if cls.evaluation is not Optimizer.evaluation]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
averaging = pytest.mark.parametrize("cls", AVERAGING, ids=lambda cls: cls.__name__)


def stepped(cls: type[Optimizer], rng: np.random.Generator, *, steps: int = 5, **options: Any) -> Optimizer:
    params = {"a": rng.standard_normal((5, 3)).astype(np.float32), "b": [rng.standard_normal(40)]}
    opt = cls(params, **options)
    for _ in range(steps):
        step(opt, rng)
    return opt


def step(opt: Optimizer, rng: np.random.Generator) -> None:
    grads = {"a": rng.standard_normal((5, 3)).astype(np.float32), "b": [rng.standard_normal(40)]}
    opt.step(grads, **inputs_for(opt, grads, rng))


@every_class
def test_train_restores_every_bit(cls: type[Optimizer], rng: np.random.Generator) -> None:
    opt = stepped(cls, rng)
    before = snapshot(opt)
    opt.eval()
    opt.eval()  # a second time changes nothing
    for leaf in opt._leaves:
        leaf *= 1 if cls not in AVERAGING else 2  # what is done to the weights meanwhile is forgotten
    opt.train()
    opt.train()
    assert snapshot(opt) == before
    step(opt, rng)


@every_class
def test_in_eval_nothing_goes_on(cls: type[Optimizer], rng: np.random.Generator, tmp_path: Path) -> None:
    """A step, and all that would keep or change the state beside the weights it belongs to."""
    opt = stepped(cls, rng)
    state = opt.state_dict()
    opt.eval()
    before = snapshot(opt)
    refused = {
        "step": lambda: step(opt, rng),
        "state_dict": opt.state_dict,
        "load_state_dict": lambda: opt.load_state_dict(state),
        "save": lambda: opt.save(tmp_path / "x.npz"),
        "reset": opt.reset,
        "rebind": lambda: opt.rebind(opt.params),
        "copy": lambda: copy.deepcopy(opt),
    }
    for call in refused.values():
        with pytest.raises(
            RuntimeError, match=rf"^{cls.__name__}: .*eval\(\).*; call train\(\) or leave the block first$"
        ):
            call()
    assert snapshot(opt) == before
    assert not list(tmp_path.iterdir())


@every_class
def test_views_before_the_first_step(cls: type[Optimizer], rng: np.random.Generator) -> None:
    opt = stepped(cls, rng, steps=0)
    before = [leaf.copy() for leaf in opt._leaves]
    opt.eval()
    for leaf, start in zip(opt._leaves, before, strict=True):
        assert np.array_equal(leaf, start)
    opt.train()


@averaging
def test_eval_gives_other_weights(cls: type[Optimizer], rng: np.random.Generator) -> None:
    early = {"t0": 0.0} if "t0" in cls.hyperparameters else {}  # by default averaging begins late
    opt = stepped(cls, rng, steps=8, **early)  # of which one rule does not move in the first four
    training = [leaf.copy() for leaf in opt._leaves]
    addresses = [leaf.__array_interface__["data"][0] for leaf in opt._leaves]
    opt.eval()
    assert all((leaf != y).any() and np.isfinite(leaf).all() for leaf, y in zip(opt._leaves, training, strict=True))
    assert [leaf.__array_interface__["data"][0] for leaf in opt._leaves] == addresses


@averaging
@pytest.mark.parametrize("dtype", [np.float16, np.complex128, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_views_of_any_storage(cls: type[Optimizer], dtype: Any, order: Any, rng: np.random.Generator) -> None:
    """The average of an array is that of its numbers, one by one."""
    p = np.array(rng.standard_normal((6, 7)), dtype, order=order)
    opt = cls(p)
    plain = cls(np.array(p, order="C").ravel())
    for _ in range(4):
        grads = rng.standard_normal((6, 7)).astype(dtype)
        opt.step(grads)
        plain.step(grads.ravel())
    opt.eval()
    plain.eval()
    assert np.array_equal(bits(p.ravel()), bits(plain.params))


@averaging
def test_read_only_weights_are_refused(cls: type[Optimizer], rng: np.random.Generator) -> None:
    opt = stepped(cls, rng)
    before = [a.copy() for a in everything(opt)]
    opt._leaves[1].flags.writeable = False
    with pytest.raises(BufferError, match="read-only"):
        opt.eval()
    opt._leaves[1].flags.writeable = True
    opt.eval()
    opt._leaves[0].flags.writeable = False
    with pytest.raises(BufferError, match="read-only"):
        opt.train()
    opt._leaves[0].flags.writeable = True
    opt.train()
    assert all(np.array_equal(a, b) for a, b in zip(everything(opt), before, strict=True))


def test_a_checkpoint_goes_on_as_if_never_left(rng: np.random.Generator, tmp_path: Path) -> None:
    """Noise, averages and all: every optimizer resumed is every optimizer that ran through."""
    for cls in CLASSES:
        opt = stepped(cls, np.random.default_rng(1))
        opt.save(tmp_path / f"{cls.__name__}.npz", params=True)
        again = stepped(cls, rng, steps=0)
        again.load(tmp_path / f"{cls.__name__}.npz")
        for each in (opt, again):
            step(each, np.random.default_rng(2))
        assert snapshot(opt) == snapshot(again), cls.__name__


def test_the_loss_is_checked(rng: np.random.Generator) -> None:
    """A loss is one real number; where gradients must be finite, so must it."""
    w = np.ones(3)
    opt = schuss.PolyakSGD(w)
    for loss in (1, np.float32(1.0), np.array(1.0), 1.0):
        opt.step(np.ones(3), loss=loss)
    before = w.copy()
    with pytest.raises(TypeError, match=r"^PolyakSGD: step needs loss; pass step\(grads, loss=\.\.\.\)$"):
        opt.step(np.ones(3))
    for wrong in (None, "1", np.ones(3), np.ones(1), 1j, True):
        with pytest.raises(TypeError, match=r"^PolyakSGD: loss must be a real number, got "):
            opt.step(np.ones(3), loss=wrong)
    with pytest.raises(TypeError, match=r"^PolyakSGD: hessian is not an input of its step; it takes loss$"):
        opt.step(np.ones(3), loss=1.0, hessian=np.ones(3))
    assert np.array_equal(w, before)
    strict = schuss.PolyakSGD(w, nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"^PolyakSGD: loss is nan; nothing was changed$"):
        strict.step(np.ones(3), loss=np.nan)
    lenient = schuss.PolyakSGD(w, nonfinite="skip")
    lenient.step(np.ones(3), loss=np.inf)
    assert lenient.last is not None
    assert lenient.last.skipped
    assert np.array_equal(w, before)
