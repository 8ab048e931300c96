"""An explanation says what the next step does, part by part, and changes nothing."""

from __future__ import annotations

import copy
import json
import math
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support import VARIANTS, Variant, bits, inputs_for, snapshot

import schuss
from schuss import trees

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def wide(array: Any) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def leaves(tree: Any) -> list[Any]:
    return [leaf for _, leaf in trees.leaves(tree)]


def everything_on(variant: Variant, rng: np.random.Generator) -> schuss.Optimizer:
    """Return an optimizer with all its options, over several dtypes, after two steps."""
    params = {
        "w": rng.standard_normal((9, 4)).astype(np.float32),
        "b": [rng.standard_normal(5), rng.standard_normal(3).astype(ml_dtypes.bfloat16)],
    }
    options: dict[str, Any] = {"l2": 0.3, "l1": 0.2, "bounds": (-1.0, 0.8), "maximize": True}
    if "weight_decay" in variant.cls.hyperparameters:
        options["weight_decay"] = 0.4
    options |= {"noise": schuss.GradientNoise(0.1), "decay": schuss.Decay(0.2, exclude="b*")}
    opt = variant.make(params, clip=[schuss.ClipValue(1.5), schuss.ClipNorm(2.0)], **options)
    for _ in range(2):
        grads = gradients(opt, rng)
        opt.step(grads, **inputs_for(opt, grads, rng))
    return opt


def gradients(opt: schuss.Optimizer, rng: np.random.Generator) -> Any:
    return trees.map_leaves(lambda p: np.asarray(rng.standard_normal(p.shape)).astype(p.dtype), opt.params)


@each_variant
def test_parts_add_up_to_the_step(variant: Variant, rng: np.random.Generator) -> None:
    """The update is that of the step bit for bit, as is the state; the parts' sum to a rounding each; nothing changes."""
    opt = everything_on(variant, rng)
    grads = gradients(opt, rng)
    inputs = inputs_for(opt, grads, rng)
    before, last, shown = snapshot(opt), opt.last, repr(opt)
    start = [wide(p) for p in leaves(opt.params)]
    found = opt.explain(grads, **inputs)
    assert (snapshot(opt), opt.last, repr(opt)) == (before, last, shown)
    opt.step(grads, **inputs)
    decays = [*(["weight_decay"] if "weight_decay" in opt.hyperparameters else []), "decay"]
    names = ["rule", "noise", "l2", "l1", *decays, "bounds"]
    assert list(found.parts) == names
    for i, (old, new) in enumerate(zip(start, leaves(opt.params), strict=True)):
        update = leaves(found.update)[i]
        assert update.tobytes() == (wide(new) - old).tobytes()
        parts = [leaves(found.parts[name])[i] for name in names]
        room = len(names) * 2.0**-53 * np.add.reduce(np.abs(parts))
        assert (np.abs(np.add.reduce(parts) - update) <= room).all()
    for name, slot in opt.state.items():
        for ours, theirs in zip(leaves(slot), leaves(found.state[name]), strict=True):
            assert ours is theirs is None or ours.tobytes() == theirs.tobytes(), name
    assert opt.last is not None
    assert found.factor == -opt.last.clip
    assert found.lr == (opt.last.lr,)
    assert found.step == 2


@each_variant
def test_without_options_all_is_the_rule(variant: Variant, rng: np.random.Generator) -> None:
    params, g = rng.standard_normal(6), rng.standard_normal(6)
    off = {"weight_decay": 0.0} if "weight_decay" in variant.cls.hyperparameters else {}
    opt = variant.make(params, **off)
    found = opt.explain(g, **inputs_for(opt, g, rng))
    assert list(found.parts) == ["rule"]
    assert found.parts["rule"].tobytes() == found.update.tobytes()
    assert found.factor == 1.0


def test_parts_by_hand(rng: np.random.Generator) -> None:
    """Of AdamW, each from its formula."""
    p, g = rng.standard_normal(50), rng.standard_normal(50)
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.5, "l2": 0.3, "l1": 0.2, "bounds": (-0.5, 0.5)}
    opt = schuss.AdamW(p, eps=0.1, clip=schuss.ClipNorm(1.0), **options)
    found = opt.explain(g)
    scale = 1 / np.linalg.norm(g)

    def first(gradient: np.ndarray) -> np.ndarray:
        return -0.1 * gradient / (np.abs(gradient) + 0.1)

    with_l2 = scale * g + 0.3 * p
    with_both = with_l2 + 0.2 * np.sign(p)
    new = p * (1 - 0.1 * 0.5) + first(with_both)
    expected = {
        "rule": first(scale * g),
        "l2": first(with_l2) - first(scale * g),
        "l1": first(with_both) - first(with_l2),
        "weight_decay": -0.1 * 0.5 * p,
        "bounds": np.clip(new, -0.5, 0.5) - new,
    }
    assert list(found.parts) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found.parts[name], values, rtol=1e-11, atol=1e-14, err_msg=name)
    summary = found.tensors["params"]
    update = np.clip(new, -0.5, 0.5) - p
    np.testing.assert_allclose(summary["update_norm"], np.linalg.norm(update), rtol=1e-12)
    np.testing.assert_allclose(summary["update_ratio"], np.linalg.norm(update) / np.linalg.norm(p), rtol=1e-12)
    np.testing.assert_allclose(summary["effective_lr"], np.linalg.norm(update) / np.linalg.norm(g), rtol=1e-12)
    np.testing.assert_allclose(summary["gradient_norm"], np.linalg.norm(g), rtol=1e-12)
    for name, values in expected.items():
        np.testing.assert_allclose(summary["parts"][name]["norm"], np.linalg.norm(values), rtol=1e-10)
        np.testing.assert_allclose(summary["parts"][name]["share"], values @ update / (update @ update), atol=1e-12)
    assert sum(part["share"] for part in summary["parts"].values()) == pytest.approx(1, abs=1e-14)


def test_an_option_of_one_group_or_of_a_schedule(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal(4), rng.standard_normal(4)
    opt = schuss.AdamW(
        [schuss.Group(a, weight_decay=lambda t: 0.5 * (t == 1)), schuss.Group(b, lr=0.2)], lr=0.1, weight_decay=0.0
    )
    now = opt.explain([a.copy(), b.copy()])
    assert (list(now.parts), now.lr) == (["rule", "weight_decay"], (0.1, 0.2))
    assert not now.parts["weight_decay"][0].any()
    opt.step([a.copy(), b.copy()])
    later = opt.explain([a.copy(), None])
    np.testing.assert_allclose(later.parts["weight_decay"][0], -0.1 * 0.5 * a, rtol=1e-12)
    assert not later.parts["weight_decay"][1].any()
    assert not later.update[1].any()
    assert math.isnan(later.tensors["params[1]"]["effective_lr"])


def test_complex_parameters(rng: np.random.Generator) -> None:
    z, g = (rng.standard_normal(5) + 1j * rng.standard_normal(5) for _ in range(2))
    found = schuss.SGD(z, lr=0.5, l2=0.1).explain(g)
    np.testing.assert_allclose(found.parts["rule"], -0.5 * g, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(found.parts["l2"], -0.05 * z, rtol=1e-14, atol=1e-15)
    assert found.tensors["params"]["effective_lr"] == pytest.approx(
        np.linalg.norm(0.5 * g + 0.05 * z) / np.linalg.norm(g)
    )


def test_bits_of_bfloat16() -> None:
    p = np.ones(3, ml_dtypes.bfloat16)
    found = schuss.SGD(p.view(np.uint16), lr=0.5, dtype="bfloat16").explain(p.view(np.uint16))
    assert found.update.tolist() == [-0.5] * 3
    assert found.tensors["params"]["effective_lr"] == pytest.approx(0.5)


@pytest.mark.parametrize("policy", ["propagate", "skip", "raise"])
def test_gradients_that_are_not_finite(policy: Any) -> None:
    opt = schuss.SGD(np.ones(2), lr=0.5, l2=0.1, nonfinite=policy)
    before, g = snapshot(opt), np.array([1.0, math.nan])
    if policy == "raise":
        with pytest.raises(FloatingPointError, match=r"SGD: grads holds nan at index \(1,\); nothing was changed"):
            opt.explain(g)
    else:
        found = opt.explain(g)
        assert found.skipped == (policy == "skip")
        assert ("it would be skipped" in str(found)) == (policy == "skip")
        np.testing.assert_array_equal(found.update, [0, 0] if policy == "skip" else [-0.55, math.nan])
    assert snapshot(opt) == before
    assert opt.last is None


def test_what_cannot_be_explained_changes_nothing() -> None:
    opt = schuss.Adam(np.ones(3))
    opt.step(np.ones(3))
    before = snapshot(opt)
    with pytest.raises(ValueError, match="shape"):
        opt.explain(np.ones(4))
    with pytest.raises(TypeError, match="loss is not an input of its step"):
        opt.explain(np.ones(3), loss=1.0)
    opt.eval()
    with pytest.raises(RuntimeError, match="call train"):
        opt.explain(np.ones(3))
    opt.train()
    assert snapshot(opt) == before
    (nothing,) = schuss.Adam([np.ones(3)]).explain([None]).tensors.values()
    assert nothing["update_norm"] == 0.0


def test_a_recorder_does_not_see_it() -> None:
    opt = schuss.Adam(np.ones(3))
    with schuss.Recorder(opt) as recorder:
        opt.explain(np.ones(3))
    assert len(recorder) == 0


def test_table_and_dict(rng: np.random.Generator) -> None:
    """The table has a line for each tensor, all as long; JSON takes the dict, which is a copy."""
    params = {f"layer{k}": rng.standard_normal((2, 2)) for k in range(9)}
    grads = copy.deepcopy(params)
    grads["layer3"] = None
    found = schuss.AdamW(params, lr=0.1, l1=0.1, maximize=True).explain(grads)
    lines = str(found).splitlines()
    assert lines[0] == "AdamW: step 0, lr 0.1, gradients times -1"
    assert re.split(r"  +", lines[1].strip()) == [
        "tensor", "rule", "l1", "weight_decay", "update", "update/weight", "effective lr"
    ]  # fmt: skip
    assert len(lines) == 2 + 9
    assert len({len(line) for line in lines[1:]}) == 1
    assert repr(found) == "Explanation(AdamW, step 0: rule + l1 + weight_decay; 9 tensors)"
    plain = found.to_dict()
    assert json.loads(json.dumps(plain))["tensors"].keys() == found.tensors.keys()
    plain["tensors"]["params['layer0']"]["parts"].clear()
    assert found.tensors["params['layer0']"]["parts"]


def test_bits_do_not_depend_on_threads(rng: np.random.Generator) -> None:
    p, g = rng.standard_normal((300, 200)), rng.standard_normal((300, 200))
    one, three = (schuss.AdamW(p.copy(), l2=0.1, threads=threads).explain(g) for threads in (1, 3))
    assert (bits(one.update) == bits(three.update)).all()
    assert one.to_dict() == three.to_dict()
