"""Shampoo: how tensors are cut, when roots are computed, what a failed one does, and what the state holds."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import snapshot

import schuss
from schuss.kronecker import cut, merged
from schuss.optimizers import shampoo

PLAIN: dict[str, Any] = {"lr": 0.1, "frequency": 1, "merge_dims": False}


def grads(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


@pytest.mark.parametrize(
    ("shape", "largest", "forwards", "backwards"),
    [
        ((1, 2, 5, 1), 10, (10,), (10,)),
        ((1, 2, 5, 1), 1, (2, 5), (2, 5)),
        ((32, 3, 64, 64), 8192, (6144, 64), (96, 4096)),
        ((64, 32, 3, 3), 1024, (64, 288), (64, 288)),
        ((20000, 3), 10000, (20000, 3), (20000, 3)),
        ((1, 1), 5, (1,), (1,)),
        ((), 5, (1,), (1,)),
    ],
)
def test_axes_are_merged(
    shape: tuple[int, ...], largest: int, forwards: tuple[int, ...], backwards: tuple[int, ...]
) -> None:
    assert merged(shape, largest) == forwards
    assert merged(shape, largest, backwards=True) == backwards


@pytest.mark.parametrize("shape", [(7,), (7, 5), (2, 3, 4), (9, 30)])
@pytest.mark.parametrize("size", [2, 3, 100])
def test_blocks_cover_a_tensor_once(shape: tuple[int, ...], size: int) -> None:
    blocks = cut(shape, size, 20)
    seen = np.zeros(shape, int)
    memory = np.zeros(blocks.size, int)
    for block in blocks.blocks:
        seen[block.where] += 1
        assert seen[block.where].shape == block.shape
        assert all(n <= size or shape[axis] > 20 for axis, n in enumerate(block.shape))
        for matrix, axis in zip(block.matrices(memory), block.axes, strict=True):
            assert matrix.shape == (block.shape[axis],) * 2
            matrix += 1
    assert (seen == 1).all()
    assert (memory == 1).all()


def test_a_block_is_stepped_as_if_it_were_alone(rng: np.random.Generator) -> None:
    whole = schuss.Shampoo(np.zeros((8, 5)), block_size=3, **PLAIN)
    cuts = [[slice(i, i + 3) for i in range(0, n, 3)] for n in (8, 5)]
    places = list(itertools.product(*cuts))
    alone = schuss.Shampoo([np.zeros((8, 5))[where] + 0.0 for where in places], precondition_1d=True, **PLAIN)
    for _ in range(5):
        g = grads(rng, 8, 5)
        whole.step(g)
        alone.step([g[where].copy() for where in places])
    for where, part in zip(places, alone.params, strict=True):
        np.testing.assert_allclose(whole.params[where], part, rtol=1e-9)


@pytest.mark.parametrize("graft", ["adam", "rmsprop", "adagrad", "sgd"])
def test_the_step_is_as_long_as_the_grafted_one(graft: str, rng: np.random.Generator) -> None:
    grafted = schuss.Shampoo(np.zeros((6, 8)), graft=graft, start_step=3, **PLAIN)
    diagonal = schuss.Shampoo(np.zeros((6, 8)), graft=graft, start_step=100, **PLAIN)
    for t in range(1, 6):
        g = grads(rng, 6, 8)
        before = grafted.params.copy(), diagonal.params.copy()
        grafted.step(g)
        diagonal.step(g)
        u, d = grafted.params - before[0], diagonal.params - before[1]
        assert np.linalg.norm(u) == pytest.approx(np.linalg.norm(d), rel=1e-12)
        assert np.allclose(u, d, rtol=1e-9) == (t < 3)


def test_without_blocks_no_axes_are_joined() -> None:
    """All of them would be, into a vector with a factor of its length squared."""
    opt = schuss.Shampoo(np.zeros((6, 8)), block_size=None, merge_dims=True)
    assert opt.state["factors"].size == 6**2 + 8**2
    assert schuss.Shampoo(np.zeros((6, 8)), merge_dims=True).state["factors"].size == 48**2


def test_before_the_first_root_it_is_adam(rng: np.random.Generator) -> None:
    ours = schuss.Shampoo(np.ones((6, 8)), lr=0.1, weight_decay=0.1, frequency=10)
    adam = schuss.AdamW(np.ones((6, 8)), lr=0.1, weight_decay=0.1)
    excluded = schuss.Shampoo({"w": np.ones((6, 8))}, lr=0.1, weight_decay=0.1, frequency=1, exclude=["w"])
    for _ in range(9):
        g = grads(rng, 6, 8)
        for opt in (ours, adam):
            opt.step(g)
        excluded.step({"w": g})
    np.testing.assert_allclose(ours.params, adam.params, rtol=1e-12)
    np.testing.assert_allclose(excluded.params["w"], adam.params, rtol=1e-12)


def test_roots_are_computed_on_schedule(rng: np.random.Generator) -> None:
    opt = schuss.Shampoo(np.zeros((4, 4)), frequency=3, start_step=4, merge_dims=False)
    changed = []
    for t in range(1, 11):
        before = opt.state["roots"].copy()
        opt.step(grads(rng, 4, 4))
        if not np.array_equal(before, opt.state["roots"]):
            changed.append(t)
    assert changed == [4, 6, 9]


def test_a_failed_root_keeps_the_old_one(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = schuss.Shampoo(np.zeros((4, 3)), max_failures=2, **PLAIN)
    opt.step(grads(rng, 4, 3))
    roots, compute = opt.state["roots"].copy(), shampoo.inverse_root

    def fails(a: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
        if len(a) == 4:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return compute(a, *args, **options)

    monkeypatch.setattr(shampoo, "inverse_root", fails)
    for count in (1, 2):
        opt.step(grads(rng, 4, 3))
        assert np.array_equal(opt.state["roots"][:16], roots[:16])
        assert not np.array_equal(opt.state["roots"][16:], roots[16:])
        assert opt.state["failures"] == [count]
    before = snapshot(opt)
    with pytest.raises(RuntimeError, match=r"^Shampoo: the factors of block 0 of params could not .* 3 times in a row"):
        opt.step(grads(rng, 4, 3))
    assert snapshot(opt) == before
    monkeypatch.setattr(shampoo, "inverse_root", compute)
    opt.step(grads(rng, 4, 3))
    assert opt.state["failures"] == [0]
    assert np.isfinite(opt.params).all()


def test_a_factor_without_full_rank_needs_eps(rng: np.random.Generator) -> None:
    """A root that is not finite is a failed one; with eps it is finite."""
    gradient = np.zeros((3, 3))
    gradient[0] = rng.standard_normal(3)
    without = schuss.Shampoo(np.zeros((3, 3)), eps=0.0, max_failures=0, **PLAIN)
    with pytest.raises(RuntimeError, match=r"1 times in a row \(.*not finite"):
        without.step(gradient)
    opt = schuss.Shampoo(np.zeros((3, 3)), **PLAIN)
    opt.step(gradient)
    assert np.isfinite(opt.params).all()


def test_what_is_not_finite_goes_on(rng: np.random.Generator) -> None:
    opt = schuss.Shampoo(np.zeros((6, 4)), block_size=3, max_failures=0, **PLAIN)
    for t in range(5):
        g = grads(rng, 6, 4)
        g[0, 0] = np.nan if t == 1 else 1.0
        opt.step(g)
    assert np.isnan(opt.params[:3, :3]).all()
    assert np.isfinite(opt.params[3:]).all()
    assert np.isfinite(opt.params[:, 3:]).all()
    assert np.isfinite(opt.state["roots"]).all()


@pytest.mark.parametrize(
    ("options", "values"),
    [({}, 4), ({"graft": "sgd"}, 3), ({"graft": "none"}, 3), ({"graft": "adagrad"}, 4)],
)
def test_bytes_of_state(options: dict[str, Any], values: int) -> None:
    """As the Notes say: `m`, `v` and two times r^2 + c^2, and one number per block."""
    opt = schuss.Shampoo(np.zeros((1024, 1024), np.float32), **options)
    assert opt.nbytes == 4 * ((values + 2) * 1024**2 + 1) == 4 * ((values - 2) * 1024**2 + 4 * 1024**2 + 1)
    thin = schuss.Shampoo(np.zeros((3, 2000), np.float32), **options)
    assert thin.nbytes == 4 * ((values - 2) * 6000 + 2 * (9 + 1024**2 + 9 + 976**2) + 2)
    assert schuss.Shampoo(np.zeros((3, 9000), np.float32), **options).nbytes == 4 * ((values - 2) * 27000 + 2 * 9 + 1)
    assert schuss.Shampoo(np.zeros(3000, np.float32), **options).nbytes == 4 * (values - 2) * 3000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_checkpoint_goes_on(dtype: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    def make() -> schuss.Shampoo:
        start = {"w": np.zeros((7, 5), dtype), "b": np.zeros(5, dtype)}
        return schuss.Shampoo(start, lr=0.1, frequency=2, block_size=4, merge_dims=False)

    ours, theirs = make(), make()
    for t in range(9):
        if t == 5:
            ours.save(tmp_path / "state.npz", params=True)
            theirs.load(tmp_path / "state.npz")
        g = {"w": grads(rng, 7, 5).astype(dtype), "b": grads(rng, 5).astype(dtype)}
        ours.step(g)
        if t >= 5:
            theirs.step(g)
    assert snapshot(ours) == snapshot(theirs)


def test_memory_order_does_not_matter(rng: np.random.Generator) -> None:
    rows = schuss.Shampoo(np.zeros((2, 3, 4)), lr=0.1, frequency=1)
    columns = schuss.Shampoo(np.zeros((2, 3, 4), order="F"), lr=0.1, frequency=1)
    for _ in range(4):
        g = grads(rng, 2, 3, 4)
        rows.step(g)
        columns.step(g)
    np.testing.assert_allclose(columns.params, rows.params, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graft": "Adam"}, "Shampoo: graft must be one of 'none', 'sgd', 'adagrad', 'rmsprop', 'adam', got 'Adam'"),
        ({"graft": "sgd", "graft_beta2": 0.5}, "Shampoo: graft_beta2 must be 0.0 with graft='sgd', got 0.5"),
        ({"block_size": 0}, "Shampoo: block_size must be in {1, 2, ...}, got 0"),
        ({"frequency": 0}, "Shampoo: frequency must be in {1, 2, ...}, got 0"),
        ({"beta3": -0.5}, "Shampoo: beta3 must be in [0, 1), or -1 for that of beta1, got -0.5"),
        ({"exponents": {2: 0.0}}, "Shampoo: exponents[2] must be in (0, inf), got 0"),
        (
            {"exponents": {0: 1.0}},
            "Shampoo: exponents must be a dict by numbers of axes, such as {2: 0.5}, got {0: 1.0}",
        ),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^Shampoo: ") as caught:
        schuss.Shampoo(np.zeros((2, 2)), **options)
    assert str(caught.value) == message


def test_a_kronecker_problem_is_solved_sooner_than_by_adam(rng: np.random.Generator) -> None:
    """A quadratic whose curvature is a Kronecker product is what it is made for."""
    left, right = (np.linalg.qr(grads(rng, 10, 10))[0] for _ in range(2))
    scales = np.logspace(0, -2, 10)
    a, b = (left * scales) @ left.T, (right * scales) @ right.T
    target = grads(rng, 10, 10)
    losses = {}
    for cls, options in ((schuss.Shampoo, {"frequency": 5, "beta2": 0.95, "merge_dims": False}), (schuss.Adam, {})):
        opt = cls(np.zeros((10, 10)), lr=schuss.schedules.cosine(0.1, 200), **options)
        for _ in range(200):
            opt.step(a @ (opt.params - target) @ b)
        away = opt.params - target
        losses[cls] = np.sum(away * (a @ away @ b))
    assert losses[schuss.Shampoo] < 0.5 * losses[schuss.Adam]
