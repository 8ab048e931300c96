"""SAM and ASAM: against other packages and the papers, to the bit in what is put back, and around whatever they wrap."""

from __future__ import annotations

import copy
import functools
import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from support import bits, snapshot
from witnesses import installed

import schuss
from schuss.passes import sam as ascent
from schuss.reference import Reference

SHAPES = [(), (7, 5), (2, 3, 4), (257,)]
STEPS = 20
#: See witnesses: a few hundred roundings, in different arrangements.
TOLERANCE = 1e-12


def numbers(rng: np.random.Generator) -> list[NDArray[Any]]:
    return [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]


def gradients(params: Any, targets: Any, tanh: Callable[[Any], Any] = np.tanh) -> list[Any]:
    """Return the gradients of ``sum(log cosh(p - a)) + 0.05 * (sum of all p)**2``."""
    pull = 0.1 * sum(p.sum() for p in params)
    return [tanh(p - a) + pull for p, a in zip(params, targets, strict=True)]


def apart(ours: Any, theirs: Any) -> float:
    """Return the largest difference, over the largest number of all: one of them may pass through zero."""
    pairs = [(a, np.asarray(b)) for a, b in zip(ours, theirs, strict=True)]
    return float(max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs))


# ---- the steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("base", ["SGD", "AdamW"])
def test_pytorch_optimizer(base: str, adaptive: bool, rng: np.random.Generator) -> None:
    start, targets = numbers(rng), numbers(rng)
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1} if base == "AdamW" else {"lr": 0.05, "momentum": 0.9}
    with installed("pytorch_optimizer") as package:
        torch = importlib.import_module("torch")
        tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in start]
        theirs = package.SAM(
            tensors, getattr(torch.optim, base), rho=0.3, adaptive=adaptive, perturb_eps=0.0, **options
        )

        def present() -> list[NDArray[Any]]:
            return [tensor.detach().numpy() for tensor in tensors]

        def set_gradients() -> None:
            for tensor, grad in zip(tensors, gradients(present(), targets), strict=True):
                tensor.grad = torch.from_numpy(np.array(grad))

        params = [p.copy() for p in start]
        # Their ASAM has no eta.
        ours = schuss.SAM(getattr(schuss, base)(params, **options), rho=0.3, adaptive=adaptive, eta=0.0)
        for _ in range(STEPS):
            set_gradients()
            theirs.first_step()
            set_gradients()
            theirs.second_step()
            ours.step(lambda: gradients(params, targets))
            # They round the norm to float32, 6e-8.
            assert apart(params, present()) < 1e-7


@pytest.mark.peers
def test_optax(rng: np.random.Generator) -> None:
    start, targets = numbers(rng), numbers(rng)
    with installed("optax") as optax:
        jnp = importlib.import_module("jax.numpy")
        ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
        theirs = optax.contrib.sam(optax.adamw(0.05, weight_decay=0.1), ascent, opaque_mode=True)
        weights = [jnp.asarray(p) for p in start]
        state = theirs.init(weights)
        params = [p.copy() for p in start]
        ours = schuss.SAM(schuss.AdamW(params, lr=0.05, weight_decay=0.1), rho=0.3)

        def gradient_of(at: Any, _: int) -> list[Any]:
            return gradients(at, targets, jnp.tanh)

        for _ in range(STEPS):
            updates, state = theirs.update(gradient_of(weights, 0), state, weights, grad_fn=gradient_of)
            weights = optax.apply_updates(weights, updates)
            ours.step(lambda: gradients(params, targets))
            assert apart(params, weights) < TOLERANCE


def test_asam_is_the_paper_s(rng: np.random.Generator) -> None:
    """Kwon et al. (2021), equation 8 with T = |w| + eta I (section 3), and gradient descent."""
    rho, eta, lr = 0.5, 0.01, 0.1
    start, targets = numbers(rng), numbers(rng)
    theirs, ours = [p.copy() for p in start], [p.copy() for p in start]
    sam = schuss.SAM(schuss.SGD(ours, lr=lr), rho=rho, adaptive=True)
    for _ in range(STEPS):
        g = np.concatenate([each.ravel() for each in gradients(theirs, targets)])
        w = np.concatenate([each.ravel() for each in theirs])
        operator = np.diag(np.abs(w) + eta)
        far = w + rho * operator @ operator @ g / np.linalg.norm(operator @ g)
        cuts = np.cumsum([p.size for p in theirs])[:-1]
        there = [part.reshape(shape) for part, shape in zip(np.split(far, cuts), SHAPES, strict=True)]
        theirs = [p - lr * each for p, each in zip(theirs, gradients(there, targets), strict=True)]
        sam.step(lambda: gradients(ours, targets))
        assert apart(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_step_is_the_optimizer_s_with_the_gradients_found_there(
    dtype: Any, threads: int, rng: np.random.Generator
) -> None:
    """Bit for bit, with clip and schedule inside, for any number of threads."""
    shapes = [(50_000,), (3, 7)]
    start = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    targets = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    options: dict[str, Any] = {
        "lr": schuss.schedules.cosine(0.1, steps=8, warmup=2),
        "weight_decay": 0.1,
        "clip": schuss.ClipNorm(1.0),
    }
    params, plain = [p.copy() for p in start], [p.copy() for p in start]
    sam = schuss.SAM(schuss.AdamW(params, threads=threads, **options), rho=0.1, adaptive=True)
    alone = schuss.AdamW(plain, threads=1, **options)
    for _ in range(5):
        twin = Reference(ascent.SAM([p.copy() for p in plain], rho=0.1, adaptive=True))
        twin.step(gradients(plain, targets))
        alone.step(gradients(twin.params, targets))
        sam.step(lambda: gradients(params, targets))
        for ours, theirs in zip(params, plain, strict=True):
            assert np.array_equal(bits(ours), bits(theirs))
    assert sam.t == 5
    assert sam.last.norm == alone.last.norm


def test_ascent_of_what_is_maximised(rng: np.random.Generator) -> None:
    """The worst weights nearby are where the objective is least; both signs turn, and the steps are the same."""
    start, targets = numbers(rng), numbers(rng)
    down, up = [p.copy() for p in start], [p.copy() for p in start]
    a = schuss.SAM(schuss.SGD(down, lr=0.1), rho=0.2)
    b = schuss.SAM(schuss.SGD(up, lr=0.1, maximize=True), rho=0.2)
    for _ in range(3):
        a.step(lambda: gradients(down, targets))
        b.step(lambda: [-g for g in gradients(up, targets)])
    for x, y in zip(down, up, strict=True):
        assert np.array_equal(x, y)


def test_rho_is_a_schedule_of_the_steps_done() -> None:
    w, seen = np.ones(2), []

    def closure() -> NDArray[Any]:
        seen.append(w.copy())
        return np.array([1.0, 0.0])

    sam = schuss.SAM(schuss.SGD(w, lr=0.0), rho=lambda step: 0.5 * step)
    for _ in range(3):
        sam.step(closure)
    assert [float(at[0]) for at in seen] == [1.0, 1.0, 1.0, 1.5, 1.0, 2.0]
    sam.rho = 0.25
    sam.step(closure)
    assert seen[-1][0] == 1.25
    with pytest.raises(ValueError, match=r"^SAM: rho must be in \[0, inf\), got -1$"):
        sam.rho = -1.0


# ---- what is put back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "declared"),
    [
        (np.float32, None),
        (np.float64, None),
        (np.float16, None),
        (ml_dtypes.bfloat16, None),
        (np.uint16, "bfloat16"),
        (np.complex64, None),
        (np.complex128, None),
    ],
)
def test_weights_come_back_bit_for_bit(dtype: Any, declared: Any, rng: np.random.Generator) -> None:
    narrow, pairs = np.dtype(dtype).itemsize == 2, np.dtype(dtype).kind == "c"
    values = rng.standard_normal(40_003)
    values[:4] = 0.0, -0.0, 1e-7, -6e4 if narrow else -3e38
    w = values.astype(ml_dtypes.bfloat16).view(np.uint16) if declared else values.astype(dtype)
    grads = np.full(w.shape, 3 + 4j, dtype) if pairs else np.ones(w.shape, np.float32)
    before = w.copy()
    sam = schuss.SAM(schuss.SGD({"w": w, "still": w[:0].copy()}, dtype=declared), rho=1e3)
    sam.perturb({"w": grads, "still": None})
    assert (bits(w) != bits(before)).mean() > 0.9
    sam.restore()
    assert w.tobytes() == before.tobytes()


def test_nan_gradients_are_undone() -> None:
    w = np.ones(3, np.float32)
    sam = schuss.SAM(schuss.SGD(w))
    sam.perturb(np.array([np.nan, 1.0, 1.0]))
    assert np.isnan(w).all()
    sam.restore()
    assert w.tolist() == [1.0, 1.0, 1.0]


def test_tensors_without_gradients_are_left_alone(rng: np.random.Generator) -> None:
    """Also where they had gradients before, and were changed by the caller since."""
    a, b = rng.standard_normal(5), rng.standard_normal(5)
    sam = schuss.SAM(schuss.SGD([a, b]))
    sam.step(lambda: [np.ones(5), np.ones(5)])
    b[...] = 7
    with sam.perturbed([np.ones(5), None]):
        assert (b == 7).all()
        b[2] = 8
    assert b.tolist() == [7, 7, 8, 7, 7]


class SomeError(Exception):
    pass


@pytest.mark.parametrize("failing", [1, 2])
def test_an_exception_in_the_closure_leaves_all_as_it_was(failing: int, rng: np.random.Generator) -> None:
    w = rng.standard_normal(5)
    sam = schuss.SAM(schuss.AdamW(w))
    before, calls = snapshot(sam.base), 0

    def closure() -> NDArray[Any]:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise SomeError
        return np.ones(5)

    with pytest.raises(SomeError):
        sam.step(closure)
    assert calls == failing
    assert snapshot(sam.base) == before
    sam.step(lambda: np.ones(5))


def test_a_function_that_returns_nothing_is_refused() -> None:
    w = np.array([3.0, 4.0])
    opt = schuss.SGD(w, lr=0.1)
    before = snapshot(opt)
    with pytest.raises(TypeError, match=r"^SAM: the function must return gradients, got None; end it with a return$"):
        schuss.SAM(opt, rho=0.5).step(lambda: None)
    assert snapshot(opt) == before


def test_a_refused_step_leaves_all_as_it_was(rng: np.random.Generator) -> None:
    w = rng.standard_normal(5)
    sam = schuss.SAM(schuss.AdamW(w, nonfinite="raise"))
    before = snapshot(sam.base)
    for answers in ([np.ones(4)], [np.ones(5), np.ones(4)], [np.full(5, np.nan)], [np.ones(5), np.full(5, np.inf)]):
        with pytest.raises((ValueError, FloatingPointError)):
            sam.step(functools.partial(next, iter(answers)))
        assert snapshot(sam.base) == before
    sam.perturb(np.ones(5))
    sam.restore()
    with pytest.raises(ValueError, match=r"^AdamW: grads has shape \(4,\)"):
        sam.step(np.ones(4))
    assert snapshot(sam.base) == before
    sam.step(np.ones(5))  # the gradients that were found may be given once more


def test_a_skipped_step_is_said() -> None:
    w = np.ones(3)
    sam = schuss.SAM(schuss.SGD(w, nonfinite="skip"))
    calls = []

    def closure() -> NDArray[Any]:
        calls.append(w.copy())
        return np.array([1.0, np.inf, 0.0])

    sam.step(closure)
    assert len(calls) == 1, "there is nothing to find at weights that are not numbers"
    assert sam.last.skipped
    assert (w == 1).all()
    assert sam.t == 0


def test_in_between() -> None:
    """Nothing but the gradients is to be had while the weights are not those of the run."""
    w = np.ones(3)
    sam = schuss.SAM(schuss.AdamW(w))
    sam.perturb(np.ones(3))
    sentence = r"^SAM: the weights are perturbed; call restore\(\) first$"
    attempts: list[Callable[[], Any]] = [
        lambda: sam.step(np.ones(3)),
        lambda: sam.step(lambda: np.ones(3)),
        lambda: sam.perturb(np.ones(3)),
        sam.state_dict,
        sam.eval,
        sam.reset,
        lambda: sam.save("never.npz"),
        lambda: sam.load_state_dict({}),
        lambda: pickle.dumps(sam),
        lambda: copy.deepcopy(sam),
    ]
    for attempt in attempts:
        with pytest.raises(RuntimeError, match=sentence):
            attempt()
    sam.restore()
    assert (w == 1).all()
    with pytest.raises(RuntimeError, match=r"^SAM: the weights are not perturbed; call perturb\(grads\) first$"):
        sam.restore()
    sam.step(np.ones(3))
    sentence = (
        r"^SAM: these gradients are not of perturbed weights; call perturb\(grads\) and restore\(\) first, or pass"
    )
    with pytest.raises(RuntimeError, match=sentence):
        sam.step(np.ones(3))


def test_the_block_restores_whatever_happens() -> None:
    w = np.ones(3)
    sam = schuss.SAM(schuss.SGD(w))

    def fail() -> None:
        with sam.perturbed(np.ones(3)):
            assert (w > 1).all()
            raise SomeError

    with pytest.raises(SomeError):
        fail()
    assert (w == 1).all()
    with pytest.raises(RuntimeError, match="not of perturbed weights"):
        sam.step(np.ones(3))  # the block was left before the gradients were found


def test_the_closure_may_not_step(rng: np.random.Generator) -> None:
    w = np.ones(3)
    sam = schuss.SAM(schuss.SGD(w))

    def closure() -> NDArray[Any]:
        sam.step(lambda: np.ones(3))
        return np.ones(3)

    with pytest.raises(RuntimeError):
        sam.step(closure)
    assert (w == 1).all()


# ---- around it -----------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_a_checkpoint(tmp_path: Path, rng: np.random.Generator) -> None:
    start, targets = numbers(rng), numbers(rng)

    def make(params: list[NDArray[Any]]) -> Any:
        return schuss.SAM(schuss.AdamW(params, lr=schuss.schedules.cosine(0.1, steps=9)), rho=0.1)

    def run(sam: Any, params: list[NDArray[Any]], steps: int) -> None:
        for _ in range(steps):
            sam.step(lambda: gradients(params, targets))

    whole = [p.copy() for p in start]
    unbroken = make(whole)
    run(unbroken, whole, 9)
    half = [p.copy() for p in start]
    first = make(half)
    run(first, half, 4)
    first.save(tmp_path / "half.npz", params=True)
    fresh = [np.zeros_like(p) for p in start]
    second = make(fresh)
    second.load(tmp_path / "half.npz")
    run(second, fresh, 5)
    assert snapshot(second.base) == snapshot(unbroken.base)
    for how in (copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))):
        twin = how(first)
        run(twin, twin.params, 5)
        assert snapshot(twin.base) == snapshot(unbroken.base)
    assert (second.rho, second.adaptive, second.eta) == (0.1, False, 0.01)


@pytest.mark.parametrize("around", ["Lookahead", "EMA", "Rollback", "LossScale"])
def test_wrappers_around_pass_the_function_on(around: str, rng: np.random.Generator) -> None:
    """The steps are those of SAM inside, which the wrapper then sees as any others."""
    targets, start = rng.standard_normal(9), rng.standard_normal(9)
    a, b = start.copy(), start.copy()
    nested = getattr(schuss, around)(schuss.SAM(schuss.AdamW(a, lr=0.1, nonfinite="skip"), rho=0.1))
    stepwise = getattr(schuss, around)(schuss.AdamW(b, lr=0.1, nonfinite="skip"))
    climber = schuss.SAM(schuss.SGD(c := b.copy()), rho=0.1)
    scale = nested.scale if around == "LossScale" else 1.0
    for _ in range(7):
        nested.step(lambda: scale * gradients([a], [targets])[0])
        c[...] = b
        with climber.perturbed(gradients([c], [targets])[0]):
            found = scale * gradients([c], [targets])[0]
        stepwise.step(found)
        assert np.array_equal(a, b)
    assert nested.t == 7


def test_an_overflow_inside_a_loss_scale() -> None:
    w = np.ones(3)
    nested = schuss.LossScale(schuss.SAM(schuss.SGD(w, nonfinite="skip")))
    nested.step(lambda: np.full(3, np.inf))
    assert nested.scale == 2.0**15
    assert (w == 1).all()


def test_micro_batches(rng: np.random.Generator) -> None:
    """Each with its own perturbation, inside an accumulation or around one."""
    targets, start = [rng.standard_normal(9) for _ in range(4)], rng.standard_normal(9)
    inside, outside, plain = start.copy(), start.copy(), start.copy()
    a = schuss.Accumulate(schuss.SAM(schuss.SGD(inside, lr=0.1), rho=0.1), steps=2)
    b = schuss.SAM(schuss.Accumulate(schuss.SGD(outside, lr=0.1), steps=2), rho=0.1)
    c = schuss.SAM(schuss.SGD(plain, lr=0.1), rho=0.1)
    for pair in (targets[:2], targets[2:]):
        found = []
        for target in pair:
            with a.perturbed(inside - target):
                grads = inside - target
            a.step(grads)
            b.step(lambda target=target: outside - target)
            with c.perturbed(plain - target):
                found.append(plain - target)
        c.step((found[0] + found[1]) * 0.5)
    assert np.array_equal(inside, plain)
    assert np.array_equal(outside, plain)
    assert a.t == b.t == 2
    with pytest.raises(TypeError, match=r"^Accumulate: grads is a function"):
        a.step(lambda: inside)


def test_other_arrays(rng: np.random.Generator) -> None:
    """After rebind and add it perturbs the arrays that the optimizer steps."""
    a, b = rng.standard_normal(5), rng.standard_normal(5)
    sam = schuss.SAM(schuss.SGD(a))
    sam.rebind(b)
    before = a.copy(), b.copy()
    sam.perturb(np.ones(5))
    assert (b > before[1]).all()
    assert np.array_equal(a, before[0])
    sam.restore()
    assert np.array_equal(b, before[1])
    c = rng.standard_normal(3)
    grouped = schuss.SAM(schuss.SGD([schuss.Group(a)]))
    grouped.add(schuss.Group(c))
    seen = []
    grouped.step(lambda: seen.append(c.copy()) or [np.zeros(5), np.ones(3)])
    assert (seen[1] > seen[0]).all()


def test_memory_is_one_copy_of_the_weights() -> None:
    """In the dtype that the step computes in, or where all weights are of one 16-bit type, in that."""
    for dtype, each in ((np.float32, 4), (np.float64, 8), (np.float16, 2), (ml_dtypes.bfloat16, 2)):
        w = np.zeros(1000, dtype)
        assert schuss.SAM(schuss.SGD(w)).nbytes == 1000 * each


def test_arguments_are_checked() -> None:
    opt = schuss.SGD(np.ones(2))
    with pytest.raises(ValueError, match=r"^SAM: rho must be in \[0, inf\), got -1$"):
        schuss.SAM(opt, rho=-1)
    with pytest.raises(TypeError, match=r"^SAM: adaptive must be True or False, got 1$"):
        schuss.SAM(opt, adaptive=1)
    with pytest.raises(ValueError, match=r"^SAM: eta must be in \[0, inf\), got -1$"):
        schuss.SAM(opt, eta=-1.0)
