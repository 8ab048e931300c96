"""Curvature from the caller: what `update_hessian` makes of it, and Hutchinson's estimate."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from support import CLASSES, bits, snapshot

import schuss
from schuss import trees
from schuss.curvature import WithHessian
from schuss.reference import rounded, widened

FED: list[Any] = [cls for cls in CLASSES if issubclass(cls, WithHessian)]
DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.complex128, np.complex64]

each_fed = pytest.mark.parametrize("cls", FED, ids=lambda cls: cls.__name__)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)


def test_there_are_some() -> None:
    assert {cls.__name__ for cls in FED} == {"SophiaG", "SophiaH"}


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        return np.asarray(values + 1j * rng.standard_normal(shape), dtype)
    return np.asarray(values, dtype)


def pairs(array: NDArray[Any]) -> NDArray[Any]:
    """Return complex numbers as pairs of reals."""
    return array.view(array.real.dtype) if array.dtype.kind == "c" else array


def expected(cls: Any, h: NDArray[Any], x: NDArray[Any], beta2: float, sign: float = 1.0) -> NDArray[Any]:
    """Return the average after an estimate, in the type that a step computes in, by NumPy."""
    compute = np.float64 if h.dtype in (np.float64, np.complex128) else np.float32
    old, new = widened(pairs(h), compute), compute(sign) * widened(pairs(x), compute)
    new = new * new if cls.squares else new
    return rounded(old + compute(1 - beta2) * (new - old), pairs(h).dtype).view(h.dtype)


# ---- the average of the curvature ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F", "strided"])
@each_dtype
@each_fed
def test_an_estimate_enters(cls: Any, dtype: Any, order: str, rng: np.random.Generator) -> None:
    """In every dtype and layout of parameters, state and estimates, bit for bit; the next step reads it."""
    w = numbers(rng, (6, 40), dtype)
    w = np.asfortranarray(w) if order == "F" else w
    narrow = np.dtype(dtype).name if np.dtype(dtype).itemsize == 2 else None
    for state_dtype in (None, narrow):
        opt = cls({"w": w.copy(order="K")}, beta2=0.75, state_dtype=state_dtype)
        for _ in range(3):
            x = numbers(rng, (6, 80), dtype)[:, ::2] if order == "strided" else numbers(rng, (6, 40), dtype)
            before, weights = opt.state["h"]["w"].copy(), opt.params["w"].copy()
            opt.update_hessian({"w": x})
            h = opt.state["h"]["w"]
            wanted = expected(cls, np.ascontiguousarray(before), np.ascontiguousarray(x), 0.75)
            assert np.array_equal(bits(h), bits(wanted))
            assert np.array_equal(bits(opt.params["w"]), bits(weights)), "an estimate moves no weights"
            assert opt.check({"w": numbers(rng, (6, 40), dtype)})
            opt.step({"w": numbers(rng, (6, 40), dtype)})
            assert np.array_equal(bits(opt.state["h"]["w"]), bits(h)), "a step changes no curvature"


def test_bits_of_bfloat16(rng: np.random.Generator) -> None:
    """Where uint16 is declared to be bfloat16, estimates and state are."""
    x = numbers(rng, (50,), ml_dtypes.bfloat16)
    declared = schuss.SophiaG(np.zeros(50, np.uint16), dtype="bfloat16", state_dtype="bfloat16", beta2=0.5)
    plain = schuss.SophiaG(np.zeros(50, ml_dtypes.bfloat16), state_dtype="bfloat16", beta2=0.5)
    declared.update_hessian(x.view(np.uint16))
    plain.update_hessian(x)
    assert np.array_equal(declared.state["h"], plain.state["h"].view(np.uint16))
    assert declared.state["h"].any()


@each_fed
def test_groups_have_their_own_decay(cls: Any, rng: np.random.Generator) -> None:
    """Of groups, of overrides, and of a schedule, at the present step."""
    x = [{"a": rng.standard_normal(5), "b": rng.standard_normal(4)}, rng.standard_normal((2, 3))]
    groups = [
        schuss.Group({"a": np.ones(5), "b": np.ones(4)}),
        schuss.Group(np.ones((2, 3)), beta2=lambda step: 0.5 if step == 0 else 0.25),
    ]
    opt = cls(groups, beta2=0.75, overrides={"b": {"beta2": 0.125}})
    opt.update_hessian(x)
    opt.step(x)
    opt.update_hessian(x)
    opt.beta2 = 0.5
    opt.update_hessian(x)
    flat = [leaf for _, leaf in trees.leaves(opt.state["h"])]
    decays = [(0.75, 0.75, 0.5), (0.125, 0.125, 0.5), (0.5, 0.25, 0.5)]
    for h, each, betas in zip(flat, [x[0]["a"], x[0]["b"], x[1]], decays, strict=True):
        wanted = np.zeros(each.shape)
        for beta2 in betas:
            wanted = expected(cls, wanted, each, beta2)
        assert np.array_equal(h, wanted)


def test_maximize_turns_the_curvature_round(rng: np.random.Generator) -> None:
    """What is a maximum of f is a minimum of -f."""
    up, down = (schuss.SophiaH(np.ones(4), lr=0.1, maximize=maximize) for maximize in (True, False))
    for _ in range(5):
        grads, h = rng.standard_normal(4), rng.standard_normal(4)
        up.update_hessian(h)
        down.update_hessian(-h)
        up.step(grads)
        down.step(-grads)
    assert np.array_equal(up.params, down.params)


@each_fed
def test_a_tensor_without_an_estimate_keeps_its_own(cls: Any) -> None:
    opt = cls([np.ones(3), np.ones(2)], beta2=0.5)
    opt.update_hessian([None, np.ones(2)])
    assert [h.tolist() for h in opt.state["h"]] == [[0, 0, 0], [0.5, 0.5]]


@each_fed
def test_a_refused_estimate_changes_nothing(cls: Any) -> None:
    opt = cls({"a": np.ones(3), "b": np.ones((2, 2), np.float32)}, nonfinite="raise")
    good = {"a": np.ones(3), "b": np.ones((2, 2), np.float32)}
    opt.update_hessian(good)
    before, name = snapshot(opt), cls.__name__
    cases: list[tuple[Any, type[Exception], str]] = [
        ({"a": np.ones(3), "b": np.ones(3)}, ValueError, r"grads\['b'\] has shape \(3,\), but its parameter has shape"),
        ({"a": np.ones(3), "b": np.ones((2, 2), int)}, TypeError, r"grads\['b'\] has dtype int64"),
        ({"a": np.ones(3)}, ValueError, r"grads has "),
        ({"a": np.ones(3), "b": np.ones((2, 2), complex)}, TypeError, r"both must be real or both complex"),
        ({"a": np.ones(3), "b": opt.state["h"]["b"]}, ValueError, r"shares memory"),
        ({"a": np.ones(3), "b": np.full((2, 2), np.nan)}, FloatingPointError, r"grads\['b'\] holds nan at index"),
    ]
    for bad, error, sentence in cases:
        with pytest.raises(error, match=rf"^{name}\.update_hessian: .*{sentence}"):
            opt.update_hessian(bad)
        assert snapshot(opt) == before, sentence
    opt.eval()
    with pytest.raises(RuntimeError, match=rf"^{name}: the parameters are those of eval"):
        opt.update_hessian(good)
    opt.train()
    assert snapshot(opt) == before


@each_fed
def test_estimates_that_are_not_finite(cls: Any) -> None:
    """Skipped or taken, as the policy says."""
    for policy, wanted in (("skip", [0.0, 0.0]), ("propagate", [0.5, np.inf])):
        opt = cls(np.ones(2), beta2=0.5, nonfinite=policy)
        opt.update_hessian(np.array([1.0, np.inf]))
        assert opt.state["h"].tolist() == wanted


@each_fed
def test_a_run_goes_on(cls: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    """Saved, loaded, copied, pickled, over other arrays: the curvature that comes then enters the right average."""
    start, grads, h = rng.standard_normal((3, 4, 5))

    def go(opt: Any) -> Any:
        for _ in range(3):
            opt.update_hessian(h)
            opt.step(grads)
        return opt

    opt = go(cls(start.copy(), lr=0.1))
    opt.save(tmp_path / "run.npz", params=True)
    loaded = cls(np.zeros(start.shape), lr=0.1)
    loaded.load(tmp_path / "run.npz")
    moved = copy.deepcopy(opt)
    moved.rebind(moved.params.copy())
    wanted = snapshot(go(copy.deepcopy(opt)))
    assert wanted != snapshot(opt)
    for twin in (loaded, pickle.loads(pickle.dumps(opt)), moved):
        assert snapshot(go(twin)) == wanted
    opt.reset()
    assert not opt.state["h"].any()
    opt.update_hessian(h)
    assert np.array_equal(opt.state["h"], expected(cls, np.zeros(h.shape), h, opt.beta2))


@each_fed
def test_the_number_of_threads_is_no_matter(cls: Any, rng: np.random.Generator) -> None:
    h = rng.standard_normal(100_000)
    one, four = (cls(np.ones(100_000), threads=threads) for threads in (1, 4))
    for opt in (one, four):
        opt.update_hessian(h)
        opt.step(h)
    assert snapshot(one) == snapshot(four)


@each_fed
def test_one_thread_at_a_time(cls: Any) -> None:
    """While one is in a step, another one's estimates are refused, and the other way round."""
    opt = cls(np.ones(3))
    inside, leave = threading.Event(), threading.Event()

    def schedule(step: int) -> float:
        inside.set()
        leave.wait(10)
        return 0.5

    for key in ("lr", "beta2"):
        slow = cls(np.ones(3))
        leave.set()
        setattr(slow, key, schedule)
        inside.clear()
        leave.clear()
        thread = threading.Thread(target=lambda opt=slow: opt.update_hessian(np.ones(3)))
        thread.start()
        assert inside.wait(10)
        for call in (slow.step, slow.update_hessian):
            with pytest.raises(RuntimeError, match=f"^{cls.__name__}: another thread is inside"):
                call(np.ones(3))
        leave.set()
        thread.join()
        slow.step(np.ones(3))
    opt.step(np.ones(3))


@each_fed
def test_wrappers_hand_it_on(cls: Any) -> None:
    opt = schuss.EMA(schuss.Accumulate(cls(np.ones(2), beta2=0.5), steps=2))
    opt.update_hessian(np.array([1.0, 2.0]))
    assert opt.state["h"].tolist() == ([0.5, 2.0] if cls.squares else [0.5, 1.0])


# ---- Hutchinson's estimate --------------------------------------------------------------------------------------------------


def test_signs_are_signs() -> None:
    """As many of each, independent, the same bits as the words; more of them begin alike."""
    n = 10**6
    x = schuss.math.random_signs(3, 5, 2**63, n)
    assert set(np.unique(x)) == {-1, 1}
    assert abs(x.mean(dtype=float)) < 5 / np.sqrt(n)
    for other in ((4, 5, 2**63), (3, 6, 2**63), (3, 5, 2**63 + 1)):
        assert abs(np.mean(x * schuss.math.random_signs(*other, n), dtype=float)) < 5 / np.sqrt(n)
    for lag in (1, 2, 31, 32, 33, 64):
        assert abs(np.mean(x[lag:] * x[:-lag], dtype=float)) < 5 / np.sqrt(n)
    for size in (0, 1, 31, 32, 33, 1000):
        assert np.array_equal(schuss.math.random_signs(3, 5, 2**63, size), x[:size])


@each_dtype
def test_a_diagonal_is_found_exactly(dtype: Any, rng: np.random.Generator) -> None:
    """For any signs, in the parameters' nesting."""
    params = {"a": numbers(rng, (3, 4), dtype), "b": [numbers(rng, (), dtype), numbers(rng, (5,), dtype)]}
    diagonal = trees.map_leaves(lambda leaf: np.asarray(numbers(rng, leaf.shape).astype(leaf.dtype)), params)

    def hvp(z: Any) -> Any:
        each = (a * b for (_, a), (_, b) in zip(trees.leaves(z), trees.leaves(diagonal), strict=True))
        return trees.rebuild(params, each)

    for samples in (1, 4):
        found = schuss.hutchinson(hvp, params, seed=1, step=2, samples=samples)
        assert trees.structure(found) == trees.structure(params)
        for (_, h), (_, d), (_, p) in zip(*(trees.leaves(each) for each in (found, diagonal, params)), strict=True):
            assert h.dtype == (d.astype(h.dtype)).dtype == schuss.memory.state_dtype(p, None)
            wide = d.astype(h.dtype)
            assert np.array_equal(h, wide.real + 1j * wide.real if h.dtype.kind == "c" else wide)


def test_it_is_unbiased_and_has_the_variance_that_is_documented(rng: np.random.Generator) -> None:
    """Of a full Hessian over two tensors, over many steps and samples."""
    n, many = 9, 4000
    H = rng.standard_normal((n, n))
    H = H + H.T
    params = [np.zeros((2, 3)), np.zeros(3)]

    def hvp(z: Any) -> Any:
        product = H @ np.concatenate([z[0].reshape(-1), z[1]])
        return [product[:6].reshape(2, 3), product[6:]]

    draws = np.array(
        [
            np.concatenate([each.reshape(-1) for each in schuss.hutchinson(hvp, params, seed=0, step=step)])
            for step in range(many)
        ]
    )
    variance = (H**2).sum(axis=1) - np.diag(H) ** 2
    assert (np.abs(draws.mean(axis=0) - np.diag(H)) < 5 * np.sqrt(variance / many)).all()
    assert np.abs(draws.var(axis=0) / variance - 1).max() < 0.15
    once = schuss.hutchinson(hvp, params, seed=0, step=0, samples=many)
    assert (np.abs(np.concatenate([once[0].reshape(-1), once[1]]) - np.diag(H)) < 5 * np.sqrt(variance / many)).all()


def test_the_signs_are_functions_of_seed_step_and_name() -> None:
    def signs(params: Any, seed: int, step: int) -> Any:
        found: list[Any] = []
        schuss.hutchinson(lambda z: (found.append(z), z)[1], params, seed=seed, step=step)
        return found[0]

    n = 64
    first = signs({"a": np.zeros(n), "b": np.zeros(n)}, 0, 0)
    turned = signs({"b": np.zeros(n), "c": np.zeros(2), "a": np.zeros(n)}, 0, 0)
    for key in ("a", "b"):
        assert np.array_equal(first[key], turned[key])
        assert set(first[key]) == {-1.0, 1.0}
    assert not np.array_equal(first["a"], first["b"])
    for other in (signs({"a": np.zeros(n)}, 1, 0), signs({"a": np.zeros(n)}, 0, 1)):
        assert not np.array_equal(first["a"], other["a"])
    calls: list[Any] = []
    schuss.hutchinson(lambda z: (calls.append(z), z)[1], np.zeros(n), seed=0, step=0, samples=3)
    assert len({each.tobytes() for each in calls}) == 3


def test_spatial_averages(rng: np.random.Generator) -> None:
    """As timm and the authors do for kernels: the mean magnitude over the places, at each of them."""
    H = rng.standard_normal((4, 3, 2, 5))
    for shape in ((4, 3, 2, 5), (4, 3)):
        each = H if len(shape) == 4 else H[..., 0, 0]
        found = schuss.hutchinson(lambda z, each=each: each * z, np.zeros(shape), seed=0, step=0, spatial=True)
        wanted = np.abs(each)
        if len(shape) == 4:
            wanted = np.broadcast_to(wanted.reshape(4, 3, 10).mean(axis=2)[..., None, None], shape)
            assert np.allclose(found, wanted, rtol=1e-15)
        else:
            assert np.array_equal(found, each)


def test_the_sentences() -> None:
    w = {"w": np.ones(3)}
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (3, w, {}, "hvp must be a function that multiplies with the Hessian, got int"),
        (lambda z: z, {"w": np.ones(3, int)}, {}, r"params\['w'\] must be an array of float64.*got int64"),
        (lambda z: z, w, {"seed": -1}, r"seed must be in \{0, 1, 2, ...\}, got -1"),
        (lambda z: z, w, {"samples": 0}, r"samples must be in \{1, 2, ...\}, got 0"),
        (lambda z: z["w"], w, {}, "hvp must return the nesting of params"),
        (lambda z: {"w": np.ones(2)}, w, {}, r"hvp returned shape \(2,\) for params\['w'\], which has shape \(3,\)"),
        (lambda z: {"w": 1j * z["w"]}, w, {}, r"hvp returned complex128 for params\['w'\]"),
    ]
    for hvp, params, further, sentence in cases:
        with pytest.raises((TypeError, ValueError), match=f"^hutchinson: {sentence}"):
            schuss.hutchinson(hvp, params, **{"seed": 0, "step": 0} | further)


def test_no_curvature_where_there_is_none() -> None:
    found = schuss.hutchinson(lambda z: [None, 2 * z[1]], [np.ones(2), np.ones(2)], seed=0, step=0, samples=2)
    assert found[0] is None
    assert found[1].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("name", ["SophiaH", "AdaHessian"])
def test_ill_conditioned_quadratic(name: str, rng: np.random.Generator) -> None:
    """With the estimated diagonal, elements of curvatures from 1 to 1e6 arrive together."""
    curvature = np.logspace(0, 6, 30)
    mixing = 1e-5 * rng.standard_normal((30, 30))
    H = np.sqrt(curvature)[:, None] * (np.eye(30) + mixing + mixing.T) * np.sqrt(curvature)
    w = 1 / np.sqrt(curvature)
    start = w @ H @ w
    if name == "SophiaH":
        opt: Any = schuss.SophiaH(w, lr=0.1, beta1=0.5, beta2=0.5, gamma=1.0, weight_decay=0.0)
        for step in range(200):
            if step % 10 == 0:
                opt.update_hessian(schuss.hutchinson(lambda z: H @ z, w, seed=0, step=step, samples=10))
            opt.step(H @ w)
    else:
        opt = schuss.AdaHessian(w, lr=schuss.schedules.cosine(0.2, steps=200))
        for step in range(200):
            opt.step(H @ w, hessian=schuss.hutchinson(lambda z: H @ z, w, seed=0, step=step))
    assert w @ H @ w < 1e-6 * start
