"""Accumulation of micro-batches: against one large batch, and against optax.MultiSteps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from support import inputs_for
from wrapping import batches, memory, parameters, run

import schuss
from schuss import trees


def doubles() -> Any:
    return trees.map_leaves(lambda leaf: leaf.astype(np.float64), parameters(1))


def micro_batches(like: Any, number: int, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [trees.map_leaves(lambda leaf: rng.standard_normal(leaf.shape), like) for _ in range(number)]


def added(grads: list[Any]) -> Any:
    """Return the sum of trees of gradients, in order."""
    leaves = zip(*([leaf for _, leaf in trees.leaves(each)] for each in grads), strict=True)
    return trees.rebuild(grads[0], iter([sum(each[1:], each[0]) for each in leaves]))


@pytest.mark.parametrize("cls", [schuss.AdamW, schuss.SGD, schuss.Prodigy, schuss.LAMB], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", [{}, {"clip": schuss.ClipNorm(0.5)}], ids=["plain", "clip"])
def test_micro_batches_are_one_large_batch(cls: Any, reduction: Any, options: Any) -> None:
    """To the bit: the sum is exact to add up by hand, and the mean enters as a scale of the gradients."""
    wrapper = schuss.Accumulate(cls(doubles(), **options), steps=3, reduction=reduction)
    plain = cls(doubles(), **options)
    for number in range(4):
        grads = micro_batches(plain.params, 3, number)
        for each in grads:
            wrapper.step(each)
        plain.step(added(grads), grad_scale=1 / 3 if reduction == "mean" else 1.0)
    assert memory(wrapper.base) == memory(plain)
    assert wrapper.t == 4


@pytest.mark.peers
def test_accumulate_is_optax_s() -> None:
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)

    def wanted(step: Any) -> Any:  # of the steps done
        return 2 + 2 * (step >= 2)

    wrapper = schuss.Accumulate(schuss.Adam(doubles(), lr=lambda step: 0.1 / (step + 1)), steps=wanted)
    theirs = optax.MultiSteps(
        optax.adam(lambda step: 0.1 / (step.astype(float) + 1)), every_k_schedule=wanted, accumulator_dtype=float
    )
    params = jax.tree.map(jax.numpy.array, doubles())
    state = theirs.init(params)
    worst = 0.0
    for grads in micro_batches(wrapper.params, 13, 3):
        wrapper.step(grads)
        updates, state = theirs.update(jax.tree.map(jax.numpy.asarray, grads), state, params)
        params = optax.apply_updates(params, updates)
        assert (wrapper.t, wrapper.accumulated) == (int(state.gradient_step), int(state.mini_step))
        found = dict(trees.leaves(wrapper.params))  # jax orders the keys of a dict
        worst = max(worst, *(float(np.max(np.abs(found[k] - np.asarray(b)))) for k, b in trees.leaves(params)))
    assert wrapper.t == 4
    assert worst < 1e-12


def test_schedules_count_steps_of_the_optimizer() -> None:
    wrapper = schuss.Accumulate(schuss.SGD(np.zeros(1), lr=lambda step: 2.0**-step), steps=lambda step: step + 1)
    seen = []
    for _ in range(6):
        wrapper.step(np.ones(1))
        seen.append((wrapper.t, wrapper.accumulated, float(wrapper.params[0])))
    assert seen == [(1, 0, -1.0), (1, 1, -1.0), (2, 0, -1.5), (2, 1, -1.5), (2, 2, -1.5), (3, 0, -1.75)]
    assert wrapper.last.lr == 0.25
    for bad, sentence in {0: "must stay in", 1.5: "must stay in", "two": "must give a real number"}.items():
        wrapper.steps = lambda step, bad=bad: bad
        before = memory(wrapper)
        with pytest.raises((ValueError, TypeError), match=f"^Accumulate: the schedule of steps {sentence}"):
            wrapper.step(np.ones(1))
        assert memory(wrapper) == before


def test_missing_gradients_count_as_zero() -> None:
    a, b, c = np.zeros(1), np.zeros(2), np.zeros(1)
    wrapper = schuss.Accumulate(schuss.SGD([a, b, c], lr=1.0, momentum=0.5), steps=2)
    for grads in ([np.ones(1), None, None], [np.ones(1), np.ones(2), None]):
        wrapper.step(grads)
    assert (a.tolist(), b.tolist(), c.tolist()) == ([-1.0], [-0.5, -0.5], [0.0])
    assert wrapper.counts == [1, 1, 0]
    wrapper.step([None, None, None])
    wrapper.step(trees.map_leaves(lambda leaf: None, wrapper.params))
    assert (wrapper.t, wrapper.accumulated) == (1, 0), "nothing came, so nothing was stepped"
    wrapper.step([None, np.ones(2), None])
    wrapper.step(trees.map_leaves(lambda leaf: None, wrapper.params))
    assert (wrapper.t, b.tolist()) == (2, [-1.25, -1.25])


def test_flush() -> None:
    wrapper = schuss.Accumulate(schuss.SGD(np.zeros(2), lr=1.0), steps=4)
    wrapper.flush()
    assert (wrapper.t, wrapper.last) == (0, None)
    wrapper.step(np.array([1.0, 2.0]))
    wrapper.step(np.array([3.0, 2.0]))
    wrapper.flush()
    assert (wrapper.t, wrapper.accumulated, wrapper.params.tolist()) == (1, 0, [-2.0, -2.0])
    wrapper.step(np.ones(2))
    before = memory(wrapper)
    wrapper.params.flags.writeable = False
    with pytest.raises(BufferError):
        wrapper.flush()
    wrapper.params.flags.writeable = True
    assert memory(wrapper) == before
    wrapper.eval()
    with pytest.raises(RuntimeError):
        wrapper.flush()


def test_a_failed_step_can_be_repeated() -> None:
    """The micro-batch with which the optimizer would have stepped is not in the sum, and may come again."""
    wrapper, plain = (schuss.Accumulate(schuss.Adam(np.zeros(3), nonfinite="raise"), steps=3) for _ in range(2))
    grads = micro_batches(np.zeros(3), 3, 1)
    for each in (wrapper, plain):
        run(each, [(grad, {}) for grad in grads[:2]])
    before = memory(wrapper)
    with pytest.raises(FloatingPointError, match=r"^Adam: grads holds nan at index \(1,\)"):
        wrapper.step(np.array([0.0, np.nan, 0.0]))
    assert (memory(wrapper), wrapper.accumulated) == (before, 2)
    for each in (wrapper, plain):
        each.step(grads[2])
    assert memory(wrapper) == memory(plain)


def test_a_skipped_sum_is_gone() -> None:
    wrapper = schuss.Accumulate(schuss.SGD(np.zeros(1), lr=1.0, nonfinite="skip"), steps=2)
    for grad in (np.inf, 1.0):
        wrapper.step(np.array([grad]))
    assert (wrapper.t, wrapper.accumulated, wrapper.last.skipped) == (0, 0, True)
    for _ in range(2):
        wrapper.step(np.ones(1))
    assert wrapper.params.tolist() == [-1.0]


@pytest.mark.parametrize("name", ["AdaHessian", "PolyakSGD", "MoMo"])
def test_other_inputs_are_averaged_too(name: str) -> None:
    cls, rng = getattr(schuss, name), np.random.default_rng(3)
    wrapper, plain = schuss.Accumulate(cls(np.ones(5)), steps=2), cls(np.ones(5))
    for _ in range(3):
        grads = [rng.standard_normal(5) for _ in range(2)]
        further = [inputs_for(plain, grad, rng) for grad in grads]
        for grad, more in zip(grads, further, strict=True):
            wrapper.step(grad, **more)
        means = {key: (further[0][key] + further[1][key]) * 0.5 for key in further[0]}
        plain.step(grads[0] + grads[1], grad_scale=0.5, **means)
    assert memory(wrapper.base) == memory(plain)
    before = memory(wrapper)
    missing = next(iter(further[0]))
    with pytest.raises(TypeError, match=f"^{name}: step needs {missing}; "):
        wrapper.step(np.ones(5))
    with pytest.raises(TypeError, match=f"^{name}: odd is not an input of its step; "):
        wrapper.step(np.ones(5), odd=1, **further[0])
    assert memory(wrapper) == before


@pytest.mark.parametrize("layout", ["float16", "float64", "strided", "fortran"])
def test_gradients_of_any_dtype_and_layout(layout: str) -> None:
    rng = np.random.default_rng(3)
    wrapper, plain = (schuss.Accumulate(schuss.SGD(np.ones((4, 6), np.float32), lr=0.5), steps=2) for _ in range(2))
    for _ in range(4):
        grad = rng.standard_normal((4, 6)).astype(np.float16)
        other = {
            "float16": grad,
            "float64": grad.astype(np.float64),
            "strided": np.repeat(grad, 2, axis=1)[:, ::2],
            "fortran": np.asfortranarray(grad),
        }[layout]
        kept = other.copy()
        wrapper.step(other)
        plain.step(grad.astype(np.float32))
        assert (other == kept).all()
    assert memory(wrapper) == memory(plain)


def test_the_dtype_of_the_sums() -> None:
    params = {"h": np.ones(3, np.float16), "d": np.ones(2), "z": np.ones(2, np.complex64)}
    found = {
        chosen: [
            str(leaf.dtype)
            for leaf in schuss.Accumulate(schuss.SGD(params), steps=2, dtype=chosen).state["sum"].values()
        ]
        for chosen in (None, "float64", "float16")
    }
    assert found == {
        None: ["float32", "float64", "complex64"],
        "float64": ["float64", "float64", "complex128"],
        "float16": ["float16", "float16", "complex64"],
    }
    with pytest.raises(TypeError, match=r"^Accumulate: dtype must be "):
        schuss.Accumulate(schuss.SGD(params), dtype="int8")
    with pytest.raises(ValueError, match=r"^Accumulate: reduction must be one of mean, sum, got 'max'$"):
        schuss.Accumulate(schuss.SGD(params), reduction="max")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^Accumulate: measure must be True or False, got 1$"):
        schuss.Accumulate(schuss.SGD(params), measure=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 3])
def test_measured(steps: int) -> None:
    wrapper = schuss.Accumulate(schuss.SGD(doubles(), lr=0.0), steps=steps, measure=True)
    assert wrapper.measured is None
    grads = micro_batches(wrapper.params, steps, 3)
    for grad in grads[:-1]:
        wrapper.step(grad)
    assert wrapper.measured is None
    restored = schuss.Accumulate(schuss.SGD(doubles(), lr=0.0), steps=steps, measure=True)
    restored.load_state_dict(wrapper.state_dict())

    def square(tree: Any) -> float:
        return sum(float(np.sum(leaf * leaf)) for _, leaf in trees.leaves(tree))

    for each in (wrapper, restored):
        each.step(grads[-1], grad_scale=1.0)
        small, large = each.measured
        assert small == pytest.approx([square(grad) for grad in grads], rel=1e-12)
        mean = trees.map_leaves(lambda leaf: leaf / steps, added(grads))
        assert large == pytest.approx(square(mean), rel=1e-12)
    assert schuss.Accumulate(schuss.SGD(doubles())).measured is None


def test_other_wrappers_count_optimizer_steps() -> None:
    """Neither an average nor a loss scale around it takes a micro-batch for a step."""
    ema = schuss.EMA(schuss.Accumulate(schuss.SGD(np.zeros(1), lr=1.0), steps=2), decay=0.5)
    scaled = schuss.LossScale(
        schuss.Accumulate(schuss.SGD(np.zeros(1), lr=1.0, nonfinite="skip"), steps=2), initial=4.0, interval=2
    )
    for _ in range(3):
        ema.step(np.ones(1))
        scaled.step(np.full(1, scaled.scale))
    assert (ema.updates, ema.average.tolist()) == (1, [-1.0])
    assert (scaled.scale, scaled.t, scaled.params.tolist()) == (4.0, 1, [-1.0])
    scaled.step(np.full(1, scaled.scale))
    assert (scaled.scale, scaled.params.tolist()) == (8.0, [-2.0])


def test_sums_are_overwritten_not_cleared() -> None:
    """What is left of the last sum is of no account, whatever it is."""
    wrapper, plain = (schuss.Accumulate(schuss.SGD(np.zeros(4), lr=1.0), steps=2) for _ in range(2))
    for grads, _ in batches(schuss.SGD({"w": np.zeros(4), "b": [np.zeros(4)]}), 6, 3):
        if not wrapper.accumulated:
            wrapper.state["sum"][...] = np.nan
        for each in (wrapper, plain):
            each.step(copy.copy(grads["w"]))
    assert wrapper.params.tobytes() == plain.params.tobytes()
