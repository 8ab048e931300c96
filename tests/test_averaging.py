"""EMA, SWA and Lookahead against other libraries and by hand, and the loan of averages to the parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from wrapping import batches, memory, parameters, run

import schuss
from schuss import trees
from schuss.reference import rounded, widened

BF16 = np.dtype(ml_dtypes.bfloat16)


def trajectory(wrapper: Any, steps: int, seed: int = 3) -> tuple[list[Any], list[Any]]:
    """Return copies of the weights, and of the averages, after every step."""
    weights, averages = [], []
    for grads, further in batches(wrapper, steps, seed):
        wrapper.step(grads, **further)
        weights.append(copy.deepcopy(wrapper.params))
        averages.append(copy.deepcopy(wrapper.average))
    return weights, averages


def deviation(ours: Any, theirs: Any) -> float:
    """Return the greatest relative deviation of two trees, which may order the keys of a dict differently."""
    mine, others = dict(trees.leaves(ours)), dict(trees.leaves(theirs))
    assert mine.keys() == others.keys()
    return max(float(np.max(np.abs(mine[k] - b) / (1e-300 + np.abs(b)))) for k, b in others.items())


def doubles() -> Any:
    return trees.map_leaves(lambda leaf: leaf.astype(np.float64), parameters(1))


def averaged_by_torch(weights: list[Any], chosen: list[int], **how: Any) -> list[Any]:
    """Return what torch's AveragedModel has after each of the chosen weights."""
    torch = pytest.importorskip("torch")
    swa_utils = pytest.importorskip("torch.optim.swa_utils")
    shapes = [torch.nn.Parameter(torch.zeros(leaf.shape, dtype=torch.float64)) for _, leaf in trees.leaves(weights[0])]
    model = torch.nn.ParameterList(shapes)
    averaged = swa_utils.AveragedModel(model, **{k: make(swa_utils) for k, make in how.items()})
    found = []
    for k in chosen:
        with torch.no_grad():
            for tensor, (_, leaf) in zip(model, trees.leaves(weights[k]), strict=True):
                tensor.copy_(torch.from_numpy(np.array(leaf)))
        averaged.update_parameters(model)
        values = iter([tensor.detach().numpy().copy() for tensor in averaged.module])
        found.append(trees.rebuild(weights[0], values))
    return found


@pytest.mark.peers
@pytest.mark.parametrize("every", [1, 3])
def test_ema_is_torch_s(every: int) -> None:
    wrapper = schuss.EMA(schuss.AdamW(doubles(), lr=0.1), decay=0.9, every=every)
    weights, averages = trajectory(wrapper, 12)
    chosen = list(range(every - 1, 12, every))
    theirs = averaged_by_torch(weights, chosen, multi_avg_fn=lambda utils: utils.get_ema_multi_avg_fn(0.9))
    assert max(deviation(averages[k], e) for k, e in zip(chosen, theirs, strict=True)) < 1e-12
    assert wrapper.updates == len(chosen)


@pytest.mark.peers
@pytest.mark.parametrize(("start", "every"), [(0, 1), (4, 1), (5, 2)])
def test_swa_is_torch_s(start: int, every: int) -> None:
    wrapper = schuss.SWA(schuss.AdamW(doubles(), lr=0.1), start=start, every=every)
    weights, averages = trajectory(wrapper, 12)
    chosen = list(range(max(start, 1) - 1, 12, every))
    theirs = averaged_by_torch(weights, chosen)
    assert max(deviation(averages[k], e) for k, e in zip(chosen, theirs, strict=True)) < 1e-12
    means = trees.rebuild(weights[0], iter([np.mean(each, axis=0) for each in zip(*(
        [leaf for _, leaf in trees.leaves(weights[k])] for k in chosen), strict=True)]))  # fmt: skip
    assert deviation(averages[-1], means) < 1e-12


@pytest.mark.peers
def test_ema_is_optax_s_without_its_start() -> None:
    """optax.ema starts from zero; from the first weights on, both move alike."""
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    wrapper = schuss.EMA(schuss.AdamW(doubles(), lr=0.1), decay=0.9)
    weights, averages = trajectory(wrapper, 10)
    theirs = optax.ema(0.9, debias=False)
    state = theirs.init(weights[0])._replace(ema=jax.tree.map(jax.numpy.asarray, averages[0]))
    for w, e in zip(weights[1:], averages[1:], strict=True):
        found, state = theirs.update(jax.tree.map(jax.numpy.asarray, w), state)
        assert deviation(e, trees.map_leaves(np.asarray, found)) < 1e-12


WARMUPS: dict[str, Callable[[int], float]] = {
    # TensorFlow's ExponentialMovingAverage with num_updates; timm's ModelEmaV3.get_decay of step n + 1.
    "ratio": lambda n: (1 + n) / (10 + n),
    "power": lambda n: 1 - (1 + n / 3.0) ** -(2 / 3),
}


@pytest.mark.parametrize("warmup", WARMUPS)
def test_warm_ups(warmup: Any) -> None:
    wrapper = schuss.EMA(schuss.SGD(doubles(), lr=0.1), decay=0.6, warmup=warmup, gamma=3.0)
    weights, averages = trajectory(wrapper, 20)
    expected = weights[0]
    reached = False
    for n in range(1, 20):
        decay = min(0.6, WARMUPS[warmup](n))
        reached = reached or decay == 0.6
        leaves = zip(trees.leaves(expected), trees.leaves(weights[n]), strict=True)
        values = iter([decay * e + (1 - decay) * w for (_, e), (_, w) in leaves])
        expected = trees.rebuild(weights[0], values)
        assert deviation(averages[n], expected) < 1e-12
    assert reached


@pytest.mark.parametrize("cls", [schuss.EMA, schuss.SWA])
def test_the_formula_of_an_update(cls: Any) -> None:
    """``e + w (p - e)`` on the stored weights, in the average's compute type, to the bit; at first a copy."""
    params = {
        "f": np.float32([0.1, -0.0, 3e38]),
        "h": np.float16([0.1, 7.0]),
        "b": np.array([0.1, 7.0], BF16),
        "z": np.array([0.5 + 1j, -0.0 - 2j]),
    }
    grads = {
        key: np.full(leaf.shape, 0.25 + 0.5j if key == "z" else 0.25).astype(leaf.dtype) for key, leaf in params.items()
    }
    wrapper = cls(schuss.SGD(params, lr=1.0))
    kept = {key: widened(leaf, np.float32) if leaf.dtype.itemsize == 2 else leaf.copy() for key, leaf in params.items()}
    assert {key: leaf.tobytes() for key, leaf in wrapper.average.items()} == {k: v.tobytes() for k, v in kept.items()}
    assert [leaf.dtype for leaf in wrapper.average.values()] == [np.float32, np.float32, np.float32, np.complex128]
    for n in range(3):
        wrapper.step(grads)
        weight = 1 / (n + 1) if cls is schuss.SWA else (1 - 0.999 if n else 1.0)
        for key, leaf in params.items():
            p = widened(leaf, np.float32) if leaf.dtype.itemsize == 2 else leaf
            kept[key] = p.copy() if n == 0 else kept[key] + weight * (p - kept[key])
            assert wrapper.average[key].tobytes() == kept[key].tobytes(), (n, key)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_dtype_of_an_average(dtype: Any) -> None:
    wrapper = schuss.EMA(schuss.SGD(parameters(1), lr=0.125), decay=0.5, dtype=dtype)
    run(wrapper, batches(wrapper, 4, 3))
    found = {str(leaf.dtype) for _, leaf in trees.leaves(wrapper.average)}
    assert found == {dtype}
    plain = schuss.EMA(schuss.SGD(parameters(1), lr=0.125), decay=0.5)
    run(plain, batches(plain, 4, 3))
    tolerance = {"float64": 1e-6, "float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    for (_, a), (_, b) in zip(trees.leaves(wrapper.average), trees.leaves(plain.average), strict=True):
        assert np.allclose(a.astype(float), b.astype(float), rtol=tolerance, atol=tolerance)
    with pytest.raises(TypeError, match=r"^EMA: dtype must be float64, float32, float16 or bfloat16, got int32$"):
        schuss.EMA(schuss.SGD(np.ones(3)), dtype="int32")


def test_bits_of_bfloat16() -> None:
    """Arrays that are declared to hold them are averaged as numbers."""
    values = np.array([1.0, -2.5, 0.375], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    wrapper = schuss.SWA(schuss.SGD(bits, lr=1.0, dtype="bfloat16"))
    step = (np.full(3, 0.5, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    wrapper.step(step)
    wrapper.step(step)
    assert wrapper.average.tolist() == (values - 0.75).tolist()
    with wrapper.swapped():
        assert widened(bits).tolist() == widened(rounded(values - np.float32(0.75), bits.dtype)).tolist()
    assert widened(bits).tolist() == (values - 1).tolist()


# ---- the loan


class Interruption(BaseException):
    pass


def spoil(wrapper: Any, error: type[BaseException]) -> None:
    before = wrapper.params["w"].copy()
    with wrapper.swapped():
        assert (wrapper.params["w"] != before).any()
        wrapper.params["w"][...] = 7
        raise error


@pytest.mark.parametrize("name", ["EMA", "SWA"])
def test_swapped(name: str) -> None:
    wrapper = getattr(schuss, name)(schuss.AdamW(parameters(1), lr=0.1))
    run(wrapper, batches(wrapper, 3, 3))
    before, average = memory(wrapper), copy.deepcopy(wrapper.average)
    with wrapper.swapped():
        for (_, leaf), (_, mean) in zip(trees.leaves(wrapper.params), trees.leaves(average), strict=True):
            assert leaf.tobytes() == mean.astype(leaf.dtype).tobytes()
        grads = copy.deepcopy(wrapper.params)
        refused: list[Callable[[], Any]] = [
            lambda: wrapper.step(grads),
            lambda: wrapper.optimizer.step(grads),
            wrapper.state_dict,
            lambda: wrapper.load_state_dict({}),
            lambda: wrapper.save("never.npz"),
            wrapper.reset,
            lambda: copy.deepcopy(wrapper),
            lambda: wrapper.swapped().__enter__(),
        ]
        for each in refused:
            with pytest.raises(RuntimeError):
                each()
    assert memory(wrapper) == before
    for error in (ValueError, KeyboardInterrupt, Interruption):
        with pytest.raises(error):
            spoil(wrapper, error)
        assert memory(wrapper) == before
    with wrapper.swapped():
        wrapper.train()  # the end of the loan, before that of the block
        assert memory(wrapper) == before
    assert memory(wrapper) == before
    wrapper.params["w"].flags.writeable = False
    with pytest.raises(BufferError, match="has become read-only"), wrapper.swapped():
        pass
    assert memory(wrapper) == before


def test_swapped_from_the_outside() -> None:
    """Whatever is around an average lends it as well, and steps go on as if it had not."""
    lent, plain = (schuss.Lookahead(schuss.EMA(schuss.SGD(np.ones(3), lr=0.1), decay=0.5), k=2) for _ in range(2))
    for _ in range(5):
        with lent.swapped():
            assert lent.params.tolist() == lent.average.tolist()
        for each in (lent, plain):
            each.step(np.ones(3))
    assert memory(lent) == memory(plain)


def test_an_average_only_reads() -> None:
    """The wrapped optimizer steps to the same bits as without."""
    plain, wrapped = schuss.AdamW(parameters(1)), schuss.SWA(schuss.EMA(schuss.AdamW(parameters(1))), start=2)
    for each in (plain, wrapped):
        run(each, batches(wrapped, 6, 3))
    assert memory(plain) == memory(wrapped.base)


# ---- Lookahead


@pytest.mark.peers
@pytest.mark.parametrize(("k", "alpha"), [(1, 0.5), (3, 0.25), (5, 1.0)])
def test_lookahead_is_optax_s(k: int, alpha: float) -> None:
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    wrapper = schuss.Lookahead(schuss.Adam(doubles(), lr=0.1), k=k, alpha=alpha)
    params = optax.LookaheadParams.init_synced(jax.tree.map(jax.numpy.array, doubles()))
    theirs = optax.lookahead(optax.adam(0.1), sync_period=k, slow_step_size=alpha)
    state = theirs.init(params)
    worst = 0.0
    for grads, _ in batches(wrapper, 13, 3):
        grads["b"][0] = np.ones(7) if grads["b"][0] is None else grads["b"][0]
        wrapper.step(grads)
        updates, state = theirs.update(jax.tree.map(jax.numpy.asarray, grads), state, params)
        params = optax.apply_updates(params, updates)
        worst = max(worst, deviation(wrapper.params, trees.map_leaves(np.asarray, params.fast)))
        worst = max(worst, deviation(wrapper.state["slow"], trees.map_leaves(np.asarray, params.slow)))
    assert worst < 1e-11


@pytest.mark.peers
def test_lookahead_is_pytorch_optimizer_s() -> None:
    torch, package = pytest.importorskip("torch"), pytest.importorskip("pytorch_optimizer")
    wrapper = schuss.Lookahead(schuss.SGD(doubles(), lr=0.1, momentum=0.9), k=3, alpha=0.25)
    tensors = [torch.nn.Parameter(torch.from_numpy(leaf.copy())) for _, leaf in trees.leaves(wrapper.params)]
    theirs = package.Lookahead(torch.optim.SGD(tensors, lr=0.1, momentum=0.9), k=3, alpha=0.25)
    for grads, _ in batches(wrapper, 10, 3):
        grads["b"][0] = np.ones(7) if grads["b"][0] is None else grads["b"][0]
        wrapper.step(grads)
        for tensor, (_, grad) in zip(tensors, trees.leaves(grads), strict=True):
            tensor.grad = torch.from_numpy(np.array(grad))
        theirs.step()
        found = trees.rebuild(wrapper.params, iter([tensor.detach().numpy() for tensor in tensors]))
        assert deviation(wrapper.params, found) < 1e-12


def test_lookahead_by_hand() -> None:
    w = np.array([1.0])
    wrapper = schuss.Lookahead(schuss.SGD(w, lr=1.0), k=2, alpha=0.25)
    seen = []
    for _ in range(5):
        wrapper.step(np.ones(1))
        seen.append((w[0], float(wrapper.state["slow"][0])))
    assert seen == [(0.0, 1.0), (0.5, 0.5), (-0.5, 0.5), (0.0, 0.0), (-1.0, 0.0)]
    wrapper.alpha = 1.0
    wrapper.step(np.ones(1))
    assert (w[0], float(wrapper.state["slow"][0])) == (-2.0, -2.0)
    wrapper.k = 1
    wrapper.alpha = 0.0
    wrapper.step(np.ones(1))
    assert w[0] == -2.0
    assert not math.isnan(w[0])


def test_two_averages_beside_one_another() -> None:
    """Of one optimizer, not nested: the one that is not stepped through stays as it was."""
    w = np.zeros(3)
    opt = schuss.SGD(w, lr=1.0)
    first, second = schuss.EMA(opt, decay=0.5), schuss.EMA(opt, decay=0.25)
    for _ in range(2):
        first.step(-np.ones(3))
    np.testing.assert_array_equal(first.average, np.full(3, 1.5))
    np.testing.assert_array_equal(second.average, np.zeros(3))
    second.step(-np.ones(3))
    np.testing.assert_array_equal(second.average, np.full(3, 3.0))
    np.testing.assert_array_equal(first.average, np.full(3, 1.5))


def test_gradients_do_not_overlap_an_average() -> None:
    """A step writes averages in its own pass: what a shifted view of one holds would depend on the order of blocks."""
    w = np.arange(2000.0)
    ema = schuss.EMA(schuss.SGD(w, lr=1.0), decay=0.5)
    with pytest.raises(ValueError, match=r"^SGD: grads shares memory with a parameter or its state"):
        ema.step(ema.average[::-1])
    np.testing.assert_array_equal(w, np.arange(2000.0))
    ema.step(ema.average[::-1].copy())
    np.testing.assert_array_equal(w, 2 * np.arange(2000.0) - 1999)


def test_two_averages_of_one_optimizer() -> None:
    """Each is moved by its own steps alone, though the step's pass holds one."""
    opt = schuss.SGD(np.ones(2), lr=1.0)
    first = schuss.EMA(opt, decay=0.5)
    second = schuss.EMA(opt, decay=0.25)
    for wrapper, weights in ((first, 0.0), (second, -1.0), (first, -2.0)):
        wrapper.step(np.ones(2))
        np.testing.assert_array_equal(opt.params, np.full(2, weights))
    np.testing.assert_array_equal(second.average, np.full(2, -1.0))
    np.testing.assert_array_equal(first.average, np.full(2, -1.0))
    assert (first.updates, second.updates) == (2, 1)
