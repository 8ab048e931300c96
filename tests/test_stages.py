"""What surrounds a rule: clips, centred gradients, noise, decay, proximal l1, bounds. Kernel and reference to the bit."""

from __future__ import annotations

import copy
import math
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import everything, snapshot

import schuss
from schuss.clipping import Clip
from schuss.reference import Reference, compare

ONE_OF_EACH_KIND = [schuss.AdamW, schuss.SGD, schuss.LAMB, schuss.AdamMini, schuss.Prodigy, schuss.NoisySGD]
CLIPS: dict[str, Any] = {
    "none": None,
    "norm": schuss.ClipNorm(0.5),
    "1-norm": schuss.ClipNorm(3.0, p=1),
    "3-norm": schuss.ClipNorm(0.5, p=3),
    "largest": schuss.ClipNorm(0.5, p=math.inf),
    "tensor norm": schuss.ClipNorm(0.5, per="tensor"),
    "tensor 1-norm": schuss.ClipNorm(2.0, p=1, per="tensor"),
    "value": schuss.ClipValue(0.3),
    "adaptive": schuss.ClipAdaptive(0.1),
    "percentile": schuss.AutoClip(40, window=2),
    "averages": schuss.AdaGC(relative=0.9, warmup=2),
    "several": [
        schuss.ClipValue(0.7),
        schuss.ClipAdaptive(0.5),
        schuss.ClipNorm(1.0),
        schuss.ClipNorm(0.5, per="tensor"),
    ],
    "scheduled": schuss.ClipNorm(lambda step: 0.1 * (step + 1)),
}
SHAPES = [(4, 5), (7,), (), (3, 2, 600), (0,), (2, 20_000), (30_000,), (0, 3)]


def tree(rng: np.random.Generator, dtype: Any, scale: float = 1.0) -> list[np.ndarray]:
    return [np.asarray(scale * rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]


def agree(cls: type[schuss.Optimizer], dtype: Any, rng: np.random.Generator, steps: int = 3, **options: Any) -> None:
    start = tree(rng, dtype)
    grads = [[g if rng.random() < 0.9 else None for g in tree(rng, dtype)] for _ in range(steps)]
    twin = Reference(cls([p.copy() for p in start], **options))
    for each in grads:
        twin.step(each, grad_scale=0.3)
    for isa in schuss.instruction_sets():
        schuss.use_isa(isa)
        for threads in (1, 2, 3):
            opt = cls([p.copy() for p in start], threads=threads, **options)
            for each in grads:
                opt.step(each, grad_scale=0.3)
            report = compare(opt, twin)
            assert report, f"{isa}, {threads} threads: {report}"


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("cls", ONE_OF_EACH_KIND)
def test_clips_equal_their_reference(cls: type[schuss.Optimizer], clip: Any, rng: np.random.Generator) -> None:
    for dtype in (np.float32, np.float64):
        for centralize in (False, True):
            agree(cls, dtype, rng, clip=clip, centralize=centralize)


STAGES: dict[str, dict[str, Any]] = {
    "noise": {"noise": schuss.GradientNoise(0.1, seed=3)},
    "noise and penalties": {
        "noise": schuss.GradientNoise(lambda step: 0.1 * step),
        "l1": 0.1,
        "l2": 0.2,
        "maximize": True,
    },
    "proximal": {"l1": 0.3, "proximal": True, "l2": 0.1},
    "decoupled": {"decay": schuss.Decay(0.5)},
    "independent, cautious": {"decay": schuss.Decay(0.05, kind="independent", cautious=True)},
    "corrected, bounded": {
        "decay": schuss.Decay(lambda step: 0.5 / (step + 1), kind="corrected", max_lr=2.0),
        "bounds": (-1, 1),
    },
    "excluded": {"decay": schuss.Decay(0.5, exclude=["1", "3"])},
    "overrides": {"l2": 0.1, "overrides": {"3": {"l2": 0.5, "l1": 0.1}, "[01]": {"l2": 0.0}}},
}


@pytest.mark.parametrize("options", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("cls", ONE_OF_EACH_KIND)
def test_stages_equal_their_reference(
    cls: type[schuss.Optimizer], options: dict[str, Any], rng: np.random.Generator
) -> None:
    for dtype in (np.float32, np.float64):
        agree(cls, dtype, rng, **options)


def test_decay_toward_a_reference(rng: np.random.Generator) -> None:
    for dtype in (np.float32, np.float64, np.float16, np.complex64):
        toward = tree(rng, dtype)
        for cautious in (False, True):
            agree(schuss.Momentum, dtype, rng, decay=schuss.Decay(0.5, toward=toward, cautious=cautious))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_combination(data: st.DataObject) -> None:
    """Options of all kinds at once, over narrow and complex dtypes."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    options: dict[str, Any] = {"clip": data.draw(st.sampled_from(list(CLIPS.values()))), "nonfinite": "propagate"}
    for stage in data.draw(st.lists(st.sampled_from(list(STAGES.values())), max_size=3)):
        options |= stage
    cls = data.draw(st.sampled_from(ONE_OF_EACH_KIND))
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64, np.complex64, np.complex128]))
    options |= {
        "centralize": np.dtype(dtype).kind != "c" and data.draw(st.booleans()),
        "maximize": data.draw(st.booleans()),
    }
    agree(cls, dtype, rng, **options)


# ---- what clips do -------------------------------------------------------------------------------------------------------


def clipped(clip: Any, grads: Any, params: Any = None, **options: Any) -> Any:
    """Return what plain descent of step size 1 was given."""
    params = schuss.trees.map_leaves(np.zeros_like, grads) if params is None else params
    before = schuss.trees.map_leaves(np.copy, params)
    opt = schuss.SGD(params, lr=1.0, clip=clip, **options)
    opt.step(grads)
    return schuss.trees.rebuild(
        params,
        iter([b - p for (_, b), (_, p) in zip(schuss.trees.leaves(before), schuss.trees.leaves(params), strict=True)]),
    ), opt


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 10, math.inf])
def test_norms(p: float, rng: np.random.Generator) -> None:
    grads = [rng.standard_normal((3, 4)), rng.standard_normal(1000)]
    norm = np.linalg.norm(np.concatenate([g.ravel() for g in grads]), p)
    found, opt = clipped(schuss.ClipNorm(0.5, p=p), grads)
    for f, g in zip(found, grads, strict=True):
        np.testing.assert_allclose(f, g * 0.5 / norm, rtol=1e-12)
    np.testing.assert_allclose(opt.last.clip, 0.5 / norm, rtol=1e-12)
    assert opt.last.clipped == 1
    found, opt = clipped(schuss.ClipNorm(2 * norm, p=p), grads)
    for f, g in zip(found, grads, strict=True):
        np.testing.assert_array_equal(f, g)
    assert (opt.last.clip, opt.last.clipped) == (1, 0)


def test_one_norm_for_each_tensor(rng: np.random.Generator) -> None:
    grads = [np.array([3.0, 4.0]), np.array([0.3, 0.4])]
    found, opt = clipped(schuss.ClipNorm(1.0, per="tensor"), grads)
    np.testing.assert_allclose(found[0], [0.6, 0.8], rtol=1e-15)
    np.testing.assert_array_equal(found[1], grads[1])
    assert opt.last.clipped == 0.5
    assert opt.last.norm == math.sqrt(25.25)
    assert opt.last.clip == pytest.approx(math.sqrt(1.25 / 25.25))


def test_huge_gradients_have_norms() -> None:
    for p in (1, 2, 3, math.inf):
        for per in ("all", "tensor"):
            found, _ = clipped(schuss.ClipNorm(1.0, p=p, per=per), [np.array([1e300, -1e300]), np.zeros(1)])
            expected = {1: 0.5, 2: 0.5**0.5, 3: 0.5 ** (1 / 3), math.inf: 1.0}[p]
            np.testing.assert_allclose(found[0], [expected, -expected], rtol=1e-14)


def test_limits_of_values_and_infinity() -> None:
    grads = np.array([3.0, -0.25, -np.inf, np.nan])
    with pytest.raises(FloatingPointError, match=r"SGD: grads holds -inf at index \(2,\)"):
        clipped(schuss.ClipValue(0.5), grads)
    found, _ = clipped(schuss.ClipValue(0.5), grads, nonfinite="propagate")
    np.testing.assert_array_equal(found, [0.5, -0.25, -0.5, np.nan])


def test_of_several_clips_each_sees_what_the_one_before_left() -> None:
    clips = [schuss.ClipValue(2.0), schuss.ClipNorm(1.0)]
    found, opt = clipped(clips, np.array([10.0, 0.0, -1.5]))
    np.testing.assert_allclose(found, np.array([2.0, 0.0, -1.5]) / 2.5, rtol=1e-15)
    assert opt.last.norm == pytest.approx(math.sqrt(102.25))
    assert opt.last.clip == pytest.approx(1 / math.sqrt(102.25))


def test_rows_are_clipped_by_their_weights(rng: np.random.Generator) -> None:
    """The rule written out with NumPy's norms."""
    params = {"w": rng.standard_normal((5, 7, 3)), "b": rng.standard_normal(4), "zero": np.zeros((2, 3))}
    grads = {key: rng.standard_normal(p.shape) for key, p in params.items()}
    expected = {}
    for key, g in grads.items():
        axes = tuple(range(1, g.ndim)) or None
        p_norm = np.sqrt(np.sum(params[key] ** 2, axis=axes, keepdims=True))
        g_norm = np.sqrt(np.sum(g**2, axis=axes, keepdims=True))
        limit = 0.1 * np.maximum(p_norm, 1e-3)
        expected[key] = np.where(g_norm > limit, g * limit / g_norm, g)
    found, opt = clipped(schuss.ClipAdaptive(0.1), grads, params)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-15)
    assert opt.last.clipped == 1


def test_percentile_of_the_norms(rng: np.random.Generator) -> None:
    opt = schuss.SGD(np.zeros(3), lr=1.0, clip=schuss.AutoClip(30, window=6))
    norms: list[float] = []
    for _ in range(20):
        before, g = opt.params.copy(), rng.standard_normal(3) * rng.exponential()
        opt.step(g)
        norms.append(float(np.linalg.norm(g)))
        limit = np.percentile(norms[-6:], 30)
        np.testing.assert_allclose(before - opt.params, g * min(1, limit / norms[-1]), rtol=1e-9, atol=1e-12)


def test_average_of_the_norms(rng: np.random.Generator) -> None:
    """The paper's algorithm, tensor by tensor."""
    opt = schuss.SGD(
        [np.zeros(3), np.zeros(4)], lr=1.0, clip=schuss.AdaGC(relative=1.1, absolute=0.8, beta=0.9, warmup=4)
    )
    average = np.full(2, np.inf)
    for t in range(1, 15):
        before = [p.copy() for p in opt.params]
        grads: list[Any] = [rng.standard_normal(3) * rng.exponential(), rng.standard_normal(4)]
        if t == 6:
            grads[1] = None
        opt.step(grads)
        total = math.sqrt(sum(np.sum(g**2) for g in grads if g is not None))
        for i, g in enumerate(grads):
            if g is None:
                continue
            norm = float(np.linalg.norm(g))
            factor = min(1, 0.8 / total) if t < 4 else min(1, 1.1 * average[i] / norm)
            np.testing.assert_allclose(before[i] - opt.params[i], factor * g, rtol=1e-9, atol=1e-12)
            average[i] = min(average[i], factor * norm) if t < 4 else 0.9 * average[i] + 0.1 * factor * norm


def test_rows_lose_their_means(rng: np.random.Generator) -> None:
    grads = {"w": rng.standard_normal((3, 4, 5)), "b": rng.standard_normal(6)}
    found, _ = clipped(None, grads, centralize=True)
    np.testing.assert_allclose(found["w"], grads["w"] - grads["w"].mean(axis=(1, 2), keepdims=True), atol=1e-14)
    np.testing.assert_array_equal(found["b"], grads["b"])


def test_rows_of_fortran_arrays_are_refused() -> None:
    for options in ({"centralize": True}, {"clip": schuss.ClipAdaptive()}):
        with pytest.raises(BufferError, match="Fortran order, but its rows must lie side by side"):
            schuss.SGD(np.zeros((3, 4), order="F"), **options)


def test_a_scale_of_the_gradients() -> None:
    for options in ({}, {"clip": schuss.ClipNorm(1.0)}, {"clip": schuss.ClipValue(3.5)}, {"centralize": True}):
        opts = [schuss.SGD(np.zeros((1, 2)), lr=1.0, **options) for _ in range(2)]
        opts[0].step(np.array([[6.0, 8.0]]), grad_scale=0.5)
        opts[1].step(np.array([[3.0, 4.0]]))
        np.testing.assert_array_equal(opts[0].params, opts[1].params)
        if opts[0].last.norm is not None:
            assert opts[0].last.norm == 5


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_out_of_range(scale: float) -> None:
    opt = schuss.SGD(np.zeros(2))
    with pytest.raises(ValueError, match=r"SGD: grad_scale must be in \(0, inf\)"):
        opt.step(np.ones(2), grad_scale=scale)
    assert opt.t == 0


# ---- noise, decay, thresholds ----------------------------------------------------------------------------------------------


def test_noise_has_its_variance_and_does_not_repeat() -> None:
    opt = schuss.SGD(
        [np.zeros(100_000), np.zeros(100_000)], lr=1.0, noise=schuss.GradientNoise(0.25, gamma=1.0, seed=5)
    )
    drawn = []
    for step in range(3):
        before = [p.copy() for p in opt.params]
        opt.step([np.zeros(100_000)] * 2)
        for b, p in zip(before, opt.params, strict=True):
            drawn.append(b - p)
            # The standard deviation of an estimate from n normal numbers is 1/sqrt(2n) of it: five of those.
            assert np.std(drawn[-1]) == pytest.approx(0.5 / math.sqrt(step + 1), rel=5 / math.sqrt(200_000))
    correlation = np.corrcoef(drawn) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 5 / math.sqrt(100_000)


def test_the_noise_of_a_resumed_run_goes_on() -> None:
    grads = np.ones(50)
    unbroken = schuss.Adam(np.zeros(50), noise=schuss.GradientNoise(1.0, seed=2))
    first = schuss.Adam(np.zeros(50), noise=schuss.GradientNoise(1.0, seed=2))
    for _ in range(3):
        unbroken.step(grads)
        first.step(grads)
    second = schuss.Adam(first.params.copy(), noise=schuss.GradientNoise(1.0, seed=2))
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        unbroken.step(grads)
        second.step(grads)
    np.testing.assert_array_equal(second.params, unbroken.params)


def test_decay_beside_adam_is_adamw(rng: np.random.Generator) -> None:
    """In exact arithmetic: one subtracts before the step, the other with it."""
    start = rng.standard_normal(100)
    ours, theirs = (start.copy() for _ in range(2))
    a = schuss.Adam(ours, lr=0.01, decay=schuss.Decay(0.1))
    b = schuss.AdamW(theirs, lr=0.01, weight_decay=0.1)
    for _ in range(30):
        grad = rng.standard_normal(100)
        a.step(grad)
        b.step(grad)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_cautious_decay_acts_where_the_step_goes_the_same_way() -> None:
    p = np.array([1.0, 1.0, -1.0, -1.0])
    schuss.SGD(p, lr=0.1, decay=schuss.Decay(0.5, kind="independent", cautious=True)).step(
        np.array([1.0, -1.0, 1.0, -1.0])
    )
    np.testing.assert_allclose(p, [0.9 - 0.5, 1.1, -1.1, -0.9 + 0.5])


def test_decay_toward_where_it_is_told() -> None:
    p, toward = np.array([1.0, 3.0]), np.array([2.0, 2.0])
    opt = schuss.SGD(p, lr=1.0, decay=schuss.Decay(0.5, toward=toward))
    toward[...] = 100  # it was copied
    for _ in range(40):
        opt.step(np.zeros(2))
    np.testing.assert_allclose(p, [2.0, 2.0])


@pytest.mark.peers
def test_proximal_l1_solves_the_lasso(rng: np.random.Generator) -> None:
    """Against scikit-learn's coordinate descent: the same zeros, the same weights."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x = rng.standard_normal((80, 20))
    y = x[:, :4] @ np.array([1.0, -2.0, 3.0, -4.0]) + 0.1 * rng.standard_normal(80)
    w = np.zeros(20)
    opt = schuss.SGD(w, lr=80 / np.linalg.norm(x, 2) ** 2, l1=0.1, proximal=True)
    for _ in range(2000):
        opt.step(x.T @ (x @ w - y) / 80)
    lasso = linear_model.Lasso(alpha=0.1, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y)
    np.testing.assert_allclose(w, lasso.coef_, atol=1e-7)
    assert ((w == 0) == (lasso.coef_ == 0)).all()
    assert (w == 0).sum() > 8


# ---- skipped steps ---------------------------------------------------------------------------------------------------------


def test_a_budget_of_skipped_steps() -> None:
    opt = schuss.Adam({"a": np.zeros(3), "b": np.zeros(2)}, nonfinite=schuss.Skip(2), clip=schuss.AutoClip(50))
    good = {"a": np.ones(3), "b": np.ones(2)}
    bad = {"a": np.ones(3), "b": np.array([1.0, np.inf])}
    for _ in range(3):  # the count starts again after a good step
        opt.step(bad)
        opt.step(bad)
        opt.step(good)
    assert (opt.skipped, opt.t) == (6, 3)
    opt.step(bad)
    opt.step(bad)
    before = snapshot(opt)
    with pytest.raises(
        FloatingPointError, match=r"^Adam: grads\['b'\] holds inf at index \(1,\), and 2 steps before it were"
    ):
        opt.step(bad)
    assert snapshot(opt) == before
    assert opt.skipped == 8


def test_norms_are_for_steps_only() -> None:
    opt = schuss.SGD(np.zeros(2), clip=schuss.ClipNorm(1.0))
    opt.step(np.ones(2))
    with pytest.raises(RuntimeError, match="within a step only"):
        opt._plan.squares()


def test_a_clip_that_fails_changes_nothing() -> None:
    def fails(step: int) -> float:
        if step > 0:
            raise ZeroDivisionError
        return 1.0

    opt = schuss.Adam(np.zeros(2), clip=[schuss.AutoClip(50), schuss.ClipNorm(fails)])
    opt.step(np.ones(2))
    before, states = snapshot(opt), [dict(state) for state in opt._clipper.states]
    with pytest.raises(ZeroDivisionError):
        opt.step(np.ones(2))
    assert snapshot(opt) == before
    for ours, theirs in zip(opt._clipper.states, states, strict=True):
        assert all((ours[key] == theirs[key]).all() for key in theirs)
    opt.rebind(np.zeros(2)) if False else None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: schuss.ClipNorm(0.0), r"ClipNorm: max_norm must be in \(0, inf\), got 0"),
        (lambda: schuss.ClipNorm("1"), "ClipNorm: max_norm must be a real number or a schedule, got '1'"),
        (lambda: schuss.ClipNorm(1.0, p=0.5), r"ClipNorm: p must be in \[1, inf\], got 0.5"),
        (lambda: schuss.ClipNorm(1.0, per="row"), 'ClipNorm: per must be "all" or "tensor", got \'row\''),
        (lambda: schuss.ClipValue(-1.0), r"ClipValue: limit must be in \(0, inf\), got -1"),
        (lambda: schuss.AutoClip(0), r"AutoClip: percentile must be in \(0, 100\], got 0"),
        (lambda: schuss.AutoClip(10, window=0), "AutoClip: window must be in"),
        (lambda: schuss.AdaGC(beta=1.0), r"AdaGC: beta must be in \[0, 1\), got 1"),
        (lambda: schuss.GradientNoise(eta=-1.0), r"GradientNoise: eta must be in \[0, inf\), got -1"),
        (lambda: schuss.GradientNoise(seed=0.5), "GradientNoise: seed must be in"),
        (
            lambda: schuss.Decay(0.1, kind="l2"),
            "Decay: kind must be one of decoupled, independent, corrected, got 'l2'",
        ),
        (lambda: schuss.Decay(0.1, kind="corrected"), 'Decay: kind="corrected" needs max_lr='),
        (lambda: schuss.SGD(np.zeros(1), clip=1.0), "SGD: clip must be a clip such as ClipNorm"),
        (lambda: schuss.SGD(np.zeros(1), noise=0.1), "SGD: noise must be a GradientNoise or None, got 0.1"),
        (lambda: schuss.SGD(np.zeros(1), decay=0.1), "SGD: decay must be a Decay or None, got 0.1"),
        (
            lambda: schuss.SGD(np.zeros(1), nonfinite="ignore"),
            "SGD: nonfinite must be one of propagate, raise, skip, or a Skip",
        ),
        (
            lambda: schuss.SGD(np.zeros(1), clip=[schuss.ClipNorm(1), schuss.ClipValue(1)]),
            "ClipValue must be the first of",
        ),
        (
            lambda: schuss.SGD([np.zeros(1)], decay=schuss.Decay(1, toward=np.zeros(1))),
            "toward of decay must have the parameters'",
        ),
        (
            lambda: schuss.SGD(np.zeros(1), decay=schuss.Decay(1, toward=np.zeros(2))),
            "toward of decay must be an array like",
        ),
        (
            lambda: schuss.SGD({"bias": np.zeros(1)}, overrides={"*.bais": {"lr": 1}}),
            "overrides: '\\*.bais' fits no parameter; their names are bias",
        ),
        (lambda: schuss.SGD(np.zeros(1), overrides={"*": 1}), "overrides must be a dict of dicts"),
        (
            lambda: schuss.SGD(np.zeros(1), overrides={"w": {"lr": 1}}),
            "^SGD: overrides: 'w' fits no parameter; a bare array has no name, put it into a dict$",
        ),
        (lambda: schuss.Decay(0.1, exclude=3), "^Decay: exclude must be patterns of names such as '\\*.bias', got 3$"),  # type: ignore[arg-type]
        (lambda: schuss.Decay(0.1, exclude=["*.bias", 3]), "^Decay: exclude must be patterns of names"),  # type: ignore[list-item]
    ],
)
def test_sentences(make: Any, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        make()


def test_overrides_by_name(rng: np.random.Generator) -> None:
    """As groups with the same hyper-parameters."""
    start = {
        "head": {"w": rng.standard_normal((3, 2)), "bias": rng.standard_normal(2)},
        "tail": [rng.standard_normal(4)],
    }
    grads = schuss.trees.map_leaves(lambda p: rng.standard_normal(p.shape), start)
    ours = schuss.trees.map_leaves(np.copy, start)
    opt = schuss.AdamW(
        ours, overrides={"*.bias": {"weight_decay": 0.0}, "tail.*": {"lr": lambda s: 0.1 / (s + 1), "l2": 0.1}}
    )
    theirs = schuss.trees.map_leaves(np.copy, start)
    groups = schuss.AdamW(
        [
            schuss.Group(theirs["head"]["w"]),
            schuss.Group(theirs["head"]["bias"], weight_decay=0.0),
            schuss.Group(theirs["tail"], lr=lambda s: 0.1 / (s + 1), l2=0.1),
        ]
    )
    for _ in range(3):
        opt.step(grads)
        groups.step([grads["head"]["w"], grads["head"]["bias"], grads["tail"]])
    for (_, a), (_, b) in zip(schuss.trees.leaves(ours), schuss.trees.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [group["weight_decay"] for group in opt.groups] == [0.01, 0.0, 0.01]


def test_every_clip_is_tested() -> None:
    kinds = {type(c) for each in CLIPS.values() for c in (each if isinstance(each, list) else [each]) if c is not None}
    assert kinds == set(Clip.__subclasses__())


def test_copies_and_pickles_carry_what_clips_have_learnt(rng: np.random.Generator) -> None:
    for clip in (schuss.AutoClip(30, window=3), schuss.AdaGC(warmup=2)):
        opt = schuss.Adam([np.zeros(3), np.zeros(2)], clip=clip, nonfinite="skip")
        for _ in range(4):
            opt.step([rng.standard_normal(3), rng.standard_normal(2)])
        opt.step([np.full(3, np.nan), np.zeros(2)])
        others = [
            copy.deepcopy(opt),
            pickle.loads(pickle.dumps(opt)),
            schuss.Adam(copy.deepcopy(opt.params), clip=clip),
        ]
        others[2].load_state_dict(opt.state_dict())
        grads = [5 * rng.standard_normal(3), rng.standard_normal(2)]
        opt.step(grads)
        for other in others:
            assert other.skipped == 1
            other.step(grads)
            for a, b in zip(everything(opt), everything(other), strict=True):
                np.testing.assert_array_equal(a, b)


# ---- clips of the update ---------------------------------------------------------------------------------------------------


def test_updates_have_a_bounded_root_mean_square(rng: np.random.Generator) -> None:
    """Of every tensor, in units of its step size; those below keep their bits."""
    start = {
        "a": rng.standard_normal((3, 4)),
        "b": rng.standard_normal(5).astype(np.float32),
        "c": rng.standard_normal(2),
    }
    overrides = {"b": {"lr": lambda step: 0.2 / (step + 1)}, "c": {"lr": 0.0}}
    plain, clipped = (schuss.trees.map_leaves(np.copy, start) for _ in range(2))
    reference = schuss.SGD(plain, lr=0.1, overrides=overrides)
    opt = schuss.ClipUpdate(schuss.SGD(clipped, lr=0.1, overrides=overrides), limit=0.7)
    for step in range(6):
        grads = schuss.trees.map_leaves(
            lambda p: (rng.exponential() * rng.standard_normal(p.shape)).astype(p.dtype), start
        )
        before = schuss.trees.map_leaves(np.copy, clipped)
        for key in plain:
            plain[key][...] = clipped[key]
        reference.step(grads)
        opt.step(grads)
        for key, rate in {"a": 0.1, "b": 0.2 / (step + 1), "c": 0.0}.items():
            update = plain[key] - before[key]
            rms = math.sqrt(np.mean(np.float64(update) ** 2))
            if rms <= 0.7 * rate:
                np.testing.assert_array_equal(clipped[key], plain[key])
            else:
                expected = before[key] + update * np.float64(0.7 * rate / rms)
                np.testing.assert_allclose(clipped[key], expected, rtol=1e-5 if key == "b" else 1e-12)


def test_wrappers_that_undo_one_another_are_refused() -> None:
    mechanic = schuss.EMA(schuss.Mechanic(schuss.SGD(np.zeros(2), lr=1.0)))
    for outer in (schuss.Lookahead, schuss.ClipUpdate):
        sentence = (
            f"^{outer.__name__}: Mechanic undoes what moves the weights between its steps; wrap an optimizer alone$"
        )
        with pytest.raises(ValueError, match=sentence):
            outer(mechanic)
    with pytest.raises(ValueError, match=r"^SAM: there is one inside already; wrap what that one wraps$"):
        schuss.SAM(schuss.EMA(schuss.SAM(schuss.SGD(np.zeros(2)))))


# ---- what a clip may do within a step ----------------------------------------------------------------------------------------


def test_gradients_live_until_the_end_of_the_step() -> None:
    """A schedule that a clip calls may take them out of their list: they are read once more after it."""
    size = 200_000
    w = np.zeros(size)
    grads: list[np.ndarray] = [np.ones(size)]
    freed = weakref.ref(grads[0])
    taken: list[np.ndarray] = []

    def limit(step: int) -> float:
        grads.clear()
        taken.append(np.full(size, 777.0))
        return 1e9

    opt = schuss.SGD([w], lr=1.0, clip=schuss.ClipNorm(limit))
    opt.step(grads)
    np.testing.assert_array_equal(w, -np.ones(size))
    assert freed() is None


def test_the_reference_of_decay_is_found_by_name() -> None:
    """A dict of the same keys in another order is the same nesting."""
    params = {"a": np.full(2, 1.0), "b": np.full(2, 2.0)}
    toward = {"b": np.full(2, 2.0), "a": np.full(2, 1.0)}
    opt = schuss.SGD(params, lr=1.0, decay=schuss.Decay(0.5, toward=toward))
    opt.step({"a": np.zeros(2), "b": np.zeros(2)})
    np.testing.assert_array_equal(params["a"], [1.0, 1.0])
    np.testing.assert_array_equal(params["b"], [2.0, 2.0])


def test_the_reference_of_decay_may_be_the_parameters_themselves() -> None:
    """What the weights are when the decay is made stays the reference, whatever makes the plan anew."""
    for again in (lambda opt: opt, copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt)), rebound, averaged):
        w = np.ones(2)
        opt = schuss.SGD(w, lr=1.0, decay=schuss.Decay(0.5, toward=w))
        opt.step(np.ones(2))
        opt = again(opt)
        opt.step(np.zeros(2))
        np.testing.assert_array_equal(opt.params, [0.5, 0.5])


def rebound(opt: schuss.Optimizer) -> schuss.Optimizer:
    opt.rebind(opt.params.copy())
    return opt


def averaged(opt: schuss.Optimizer) -> Any:
    return schuss.EMA(opt)


@pytest.mark.filterwarnings("error")
def test_rows_of_which_there_are_none() -> None:
    """A share of no rows is 0, without a warning."""
    for clip in (schuss.ClipAdaptive(), [schuss.ClipNorm(1.0, per="tensor"), schuss.ClipAdaptive()]):
        opt = schuss.SGD(np.ones((0, 3)), clip=clip)
        opt.step(np.ones((0, 3)))
        assert opt.last is not None
        assert (opt.last.norm, opt.last.clip, opt.last.clipped, opt.t) == (0.0, 1.0, 0.0, 1)


def test_noise_that_falls_faster_than_numbers_do() -> None:
    opt = schuss.SGD(np.zeros(2), lr=1.0, noise=schuss.GradientNoise(eta=1.0, gamma=2000.0))
    opt.step(np.zeros(2))
    first = opt.params.copy()
    assert first.all()
    opt.step(np.zeros(2))
    np.testing.assert_array_equal(opt.params, first)


def test_what_is_said_of_a_clip_comes_before_what_it_learns() -> None:
    """Factors that do not fit the gradients refuse the step, and nothing has been learnt from it."""

    class Counting(schuss.AutoClip):
        def factors(self, norms: Any, state: Any) -> Any:
            super().factors(norms, state)
            return np.ones(3)

        def unit(self) -> Any:
            return "tensor"

    opt = schuss.SGD([np.ones(2), np.ones(2)], clip=Counting())
    with pytest.raises(ValueError, match="broadcast"):
        opt.step([np.ones(2), np.ones(2)])
    assert opt._clipper.states[0]["written"] == 0
    assert opt.t == 0


@pytest.mark.filterwarnings("error")
def test_norms_that_overflow_give_no_warning() -> None:
    w = np.ones((2, 2))
    opt = schuss.SGD(w, lr=1.0, centralize=True, clip=schuss.ClipNorm(1.0))
    opt.step(np.array([[1.5e308, 1.0], [1.5e308, 1.5e308]]))
    assert opt.last is not None
    assert opt.last.norm == math.inf


def test_rows_of_complex_numbers_have_no_one_mean() -> None:
    with pytest.raises(
        TypeError, match=r"^SGD: params\['w'\] is complex, and centralize would take one mean of real and"
    ):
        schuss.SGD({"w": np.zeros((2, 3), complex)}, centralize=True)


def test_stateful_schedules_around_the_rule_are_saved() -> None:
    def make() -> Any:
        plateaus = [schuss.schedules.Plateau(1.0, patience=0) for _ in range(3)]
        clip = [schuss.ClipNorm(10.0), schuss.ClipNorm(plateaus[0])]
        noise, decay = schuss.GradientNoise(plateaus[1]), schuss.Decay(plateaus[2])
        return schuss.SGD(np.ones(2), clip=clip, noise=noise, decay=decay), plateaus

    opt, plateaus = make()
    for i, plateau in enumerate(plateaus):
        for _ in range(i + 2):
            plateau.report(1.0)
    other, fresh = make()
    other.load_state_dict(opt.state_dict())
    assert [each(0) for each in fresh] == [each(0) for each in plateaus]
    assert len({each(0) for each in fresh}) == 3


def test_parameters_added_behind_a_wrapper() -> None:
    base = schuss.SGD([schuss.Group(np.zeros(2))], lr=1.0)
    opt = schuss.Rollback(schuss.EMA(base))
    base.add(schuss.Group(np.zeros(3)))
    with pytest.raises(
        RuntimeError, match=r"^EMA: the optimizer has got further parameters since it was wrapped; make a"
    ):
        opt.step([np.ones(2), np.ones(3)])
    assert base.t == 0
    assert not base.params[0].any()


def test_states_of_optimizers_with_other_clips() -> None:
    """What a clip has learnt goes to one of its class; one that was not there begins, and one that is not is let go."""
    learning, other = (
        (lambda: schuss.SGD(np.zeros(2), clip=[schuss.AutoClip(50), schuss.AutoClip(10)])),
        schuss.ClipNorm(1.0),
    )
    opt = learning()
    for norm in (1.0, 2.0):
        opt.step(np.array([norm, 0.0]))
    state = opt.state_dict()
    schuss.SGD(np.zeros(2), clip=other).load_state_dict(state)
    schuss.SGD(np.zeros(2)).load_state_dict(state)
    fresh = learning()
    fresh.load_state_dict(schuss.SGD(np.zeros(2)).state_dict())
    assert all(each["written"][0] == 0 for each in fresh._clipper.states)
    fresh.load_state_dict(state)
    assert [each["norms"][:2].tolist() for each in fresh._clipper.states] == [[1.0, 2.0], [1.0, 1.5]]
    state["control"]["clips"]["AutoClip"]["norms"] = [math.nan] * 1000
    with pytest.raises(schuss.StateError, match=r"^SGD: the state's norms of AutoClip must be 1000 numbers; make the"):
        fresh.load_state_dict(state)
