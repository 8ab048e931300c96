"""SOAP: the first step, bases and what follows them, what a failed refresh does, what the state holds, the authors' code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import snapshot

import schuss
from schuss.optimizers import soap


def grads(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def bases(opt: schuss.SOAP, *sizes: int) -> list[np.ndarray]:
    """Return the bases of the axes of a tensor."""
    found, at = [], 0
    for n in sizes:
        found.append(opt.state["bases"][at : at + n * n].reshape(n, n).copy())
        at += n * n
    return found


def test_the_first_step_makes_the_bases_alone(rng: np.random.Generator) -> None:
    opt = schuss.SOAP({"w": np.ones((5, 5)), "b": np.ones(5)})
    g = grads(rng, 5, 5)
    opt.step({"w": g, "b": grads(rng, 5)})
    assert (opt.params["w"] == 1).all()
    assert (opt.params["b"] == 1).all()
    assert all((opt.state[slot][name] == 0).all() for slot in ("m", "v") for name in ("w", "b"))
    left = opt.state["factors"]["w"][:25].reshape(5, 5)
    np.testing.assert_allclose(left, 0.05 * g @ g.T, rtol=1e-12)
    q = opt.state["bases"]["w"][:25].reshape(5, 5)
    np.testing.assert_allclose(q.T @ q, np.eye(5), atol=1e-13)
    turned = q.T @ left @ q
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-13)
    assert (np.diff(np.diag(turned)) < 0).all()


def test_the_mean_is_the_same_in_every_basis(rng: np.random.Generator) -> None:
    """A refresh changes the basis, but no direction: the mean turned back is the plain running mean of the gradients."""
    opt = schuss.SOAP(np.zeros((6, 4)), frequency=1, beta1=0.8)
    mean = np.zeros((6, 4))
    last = None
    for t in range(8):
        g = grads(rng, 6, 4)
        opt.step(g)
        mean = mean if t == 0 else 0.8 * mean + 0.2 * g
        left, right = bases(opt, 6, 4)
        np.testing.assert_allclose(left @ opt.state["m"] @ right.T, mean, atol=1e-13)
        if t > 0:
            assert last is not None
            assert not np.allclose(left, last, atol=1e-3)
        last = left


def test_without_factors_it_is_adam_one_step_late(rng: np.random.Generator) -> None:
    """With the eps inside the bias correction, which 0 leaves out."""
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 0.0}
    ours = [
        schuss.SOAP({"w": np.ones((4, 6))}, weight_decay=0.0, exclude=["*"], **options),
        schuss.SOAP({"w": np.ones((4, 6))}, weight_decay=0.0, max_dim=3, **options),
    ]
    adam = schuss.Adam(np.ones((4, 6)), **options)
    for t in range(10):
        g = grads(rng, 4, 6)
        for opt in ours:
            opt.step({"w": g})
        if t > 0:
            adam.step(g)
    for opt in ours:
        np.testing.assert_allclose(opt.params["w"], adam.params, rtol=1e-12)


def test_a_failed_refresh_keeps_the_basis(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = schuss.SOAP(np.zeros((5, 3)), frequency=1, max_failures=2)
    for _ in range(3):
        opt.step(grads(rng, 5, 3))
    kept, compute = bases(opt, 5, 3), soap.refreshed_basis

    def fails(a: np.ndarray, q: np.ndarray) -> Any:
        if len(a) == 5:
            raise np.linalg.LinAlgError("no")
        return compute(a, q)

    monkeypatch.setattr(soap, "refreshed_basis", fails)
    for count in (1, 2):
        opt.step(grads(rng, 5, 3))
        left, right = bases(opt, 5, 3)
        assert np.array_equal(left, kept[0])
        assert not np.array_equal(right, kept[1])
        assert opt.state["failures"] == [count]
    before = snapshot(opt)
    with pytest.raises(
        RuntimeError, match=r"^SOAP: the factors of block 0 of params could not .* 3 times in a row \(no\)"
    ):
        opt.step(grads(rng, 5, 3))
    assert snapshot(opt) == before
    monkeypatch.setattr(soap, "refreshed_basis", compute)
    opt.step(grads(rng, 5, 3))
    assert opt.state["failures"] == [0]


def test_a_first_basis_that_fails_changes_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = schuss.SOAP(np.zeros((5, 3)))
    before = snapshot(opt)

    def fails(a: np.ndarray) -> Any:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    monkeypatch.setattr(soap, "eigenbasis", fails)
    with pytest.raises(np.linalg.LinAlgError):
        opt.step(grads(rng, 5, 3))
    assert snapshot(opt) == before
    monkeypatch.undo()
    opt.step(grads(rng, 5, 3))
    assert opt.t == 1


@pytest.mark.parametrize("when", [0, 3])
def test_what_is_not_finite_goes_on(when: int, rng: np.random.Generator) -> None:
    opt = schuss.SOAP(np.zeros((4, 4)), frequency=1, max_failures=0)
    for t in range(6):
        g = grads(rng, 4, 4)
        g[0, 0] = np.nan if t == when else 1.0
        opt.step(g)
    assert np.isnan(opt.params).all()


def test_bytes_of_state() -> None:
    """As the Notes say: `m`, `v`, two times r^2 + c^2, and one number."""
    opt = schuss.SOAP(np.zeros((1024, 1024), np.float32))
    assert opt.nbytes == 24 * 1024**2 + 4
    assert schuss.SOAP(np.zeros((3, 40_000), np.float32)).nbytes == 8 * 120_000 + 4 * (2 * 9 + 1)
    assert schuss.SOAP(np.zeros(700, np.float32)).nbytes == 8 * 700
    assert schuss.SOAP(np.zeros(700, np.float32), precondition_1d=True).nbytes == 8 * 700 + 8 * 700**2 + 4
    assert (
        schuss.SOAP(np.zeros((8, 3, 3), np.float32), merge_dims=True, max_dim=24).nbytes == 8 * 72 + 8 * (24**2 + 9) + 4
    )


@pytest.mark.parametrize("options", [{}, {"state_dtype": "bfloat16"}, {"state_dtype": "float16"}])
def test_a_checkpoint_goes_on(options: dict[str, Any], rng: np.random.Generator, tmp_path: Path) -> None:
    def make() -> schuss.SOAP:
        return schuss.SOAP({"w": np.zeros((7, 5), np.float32), "b": np.zeros(5, np.float32)}, frequency=2, **options)

    ours, theirs = make(), make()
    for t in range(9):
        if t == 4:
            ours.save(tmp_path / "state.npz", params=True)
            theirs.load(tmp_path / "state.npz")
        g = {"w": grads(rng, 7, 5).astype(np.float32), "b": grads(rng, 5).astype(np.float32)}
        ours.step(g)
        if t >= 4:
            theirs.step(g)
    assert snapshot(ours) == snapshot(theirs)
    assert np.isfinite(ours.params["w"]).all()
    assert abs(ours.params["w"]).max() > 1e-3


def test_memory_order_does_not_matter(rng: np.random.Generator) -> None:
    rows, columns = (schuss.SOAP(np.zeros((4, 4, 4), order=order), frequency=2, merge_dims=False) for order in "CF")
    for _ in range(6):
        g = grads(rng, 4, 4, 4)
        rows.step(g)
        columns.step(g)
    np.testing.assert_allclose(columns.params, rows.params, rtol=1e-8)


def test_updates_can_be_normalised(rng: np.random.Generator) -> None:
    opt = schuss.SOAP(np.zeros((5, 5)), lr=0.1, weight_decay=0.0, bias_correction=False, normalize_grads=True)
    for t in range(4):
        before = opt.params.copy()
        opt.step(grads(rng, 5, 5))
        size = np.sqrt(np.mean((opt.params - before) ** 2))
        assert size == pytest.approx(0.1 if t else 0.0, rel=1e-12)


def test_the_decay_of_factors() -> None:
    with pytest.raises(ValueError, match=r"^SOAP: factor_beta must be in \[0, 1\), or -1 for that of beta2, got -0.5$"):
        schuss.SOAP(np.zeros((2, 2)), factor_beta=-0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"precondition_frequency": 1},
        {"precondition_frequency": 3, "weight_decay": 0.1, "shampoo_beta": 0.7},
        {"precondition_frequency": 2, "correct_bias": False},
        {"precondition_frequency": 2, "merge_dims": True, "max_precond_dim": 6, "normalize_grads": True},
    ],
)
def test_the_authors_code(options: dict[str, Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """nikhilvyas/SOAP, where its `soap.py`, which no index has, is on the path: 20 steps, with factors of full rank."""
    torch = pytest.importorskip("torch")
    theirs_module = pytest.importorskip("soap")
    # It refreshes bases in float32 whatever the parameters are.
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        # Ours leaves the length of a vector's update alone.
        shapes = [(6, 6), (2, 3, 6)] if "normalize_grads" in options else [(6, 6), (3, 4, 5), (4,)]
        start = [grads(rng, *shape) for shape in shapes]
        tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in start]
        theirs = theirs_module.SOAP(tensors, lr=0.05, betas=(0.8, 0.9), eps=1e-3, **{"weight_decay": 0.0} | options)
        words = {
            "precondition_frequency": "frequency",
            "shampoo_beta": "factor_beta",
            "correct_bias": "bias_correction",
            "max_precond_dim": "max_dim",
        }
        own = {"weight_decay": 0.0} | {words.get(key, key): value for key, value in options.items()}
        ours = schuss.SOAP([p.copy() for p in start], lr=0.05, beta1=0.8, beta2=0.9, eps=1e-3, **own)
        for _ in range(20):
            gradients = [grads(rng, *shape) for shape in shapes]
            for tensor, g in zip(tensors, gradients, strict=True):
                tensor.grad = torch.from_numpy(g.copy())
            theirs.step()
            ours.step(gradients)
            for a, b in zip(ours.params, tensors, strict=True):
                other = b.detach().numpy()
                assert np.abs(a - other).max() <= 1e-8 * np.abs(other).max()
    finally:
        torch.set_default_dtype(before)
