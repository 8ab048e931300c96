"""PSGD-Kron: what is not derived from the registry. The trajectories are compared with kron_torch's in witnesses/."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schuss
from schuss.math import normals, random_words


def made(params: Any, **arguments: Any) -> schuss.PSGDKron:
    return schuss.PSGDKron(params, **{"lr": 0.05} | arguments)


def shapes(opt: schuss.PSGDKron) -> list[tuple[int, ...]]:
    return [q.shape for q in opt.factors]


# ---- which factors there are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((), {}, [(1,)]),
        ((5,), {}, [(5,)]),
        ((5,), {"min_ndim_triangular": 1}, [(5, 5)]),
        ((5, 3), {}, [(5, 5), (3, 3)]),
        ((5, 1), {}, [(5, 5), (1,)]),
        ((5, 3), {"max_size_triangular": 4}, [(5,), (3, 3)]),
        ((5, 3), {"max_size_triangular": 0}, [(5,), (3,)]),
        ((5, 3), {"min_ndim_triangular": 3}, [(5,), (3,)]),
        ((5, 3), {"memory_save_mode": "one_diag"}, [(5,), (3, 3)]),
        ((4, 4), {"memory_save_mode": "one_diag"}, [(4, 4), (4,)]),
        ((4, 4), {"memory_save_mode": "smart_one_diag"}, [(4, 4), (4, 4)]),
        ((3, 5), {"memory_save_mode": "smart_one_diag"}, [(3, 3), (5,)]),
        ((5, 3), {"memory_save_mode": "all_diag"}, [(5,), (3,)]),
        ((2, 3, 4), {}, [(6, 6), (4, 4)]),
        ((2, 3, 4), {"merge_dims": False}, [(2, 2), (3, 3), (4, 4)]),
        ((8, 2, 3, 3), {"max_size_triangular": 20}, [(48,), (3, 3)]),
        ((2, 3, 4), {"min_ndim_triangular": 3}, [(6,), (4,)]),
        ((2, 3, 4), {"min_ndim_triangular": 3, "merge_dims": False}, [(2, 2), (3, 3), (4, 4)]),
    ],
)
def test_shapes_of_the_factors(
    shape: tuple[int, ...], options: dict[str, Any], expected: list[tuple[int, ...]]
) -> None:
    opt = made(np.ones(shape), precond_init_scale=8.0, **options)
    assert shapes(opt) == expected
    each = 8.0 ** (1 / len(expected))
    for q in opt.factors:
        assert q == pytest.approx(each * (np.eye(len(q)) if q.ndim == 2 else np.ones(len(q))))


def test_the_factors_are_the_state() -> None:
    opt = made({"w": np.ones((3, 2)), "skipped": np.ones(4)}, exclude=["skipped"])
    first, second = opt.factors["w"]
    first[0, 1], second[1, 1] = 5.0, 7.0
    assert opt.state["q"]["w"].tolist() == [1, 5, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 7]
    assert opt.factors["skipped"] == []
    assert opt.state["q"]["skipped"] is None
    assert opt.state["since"]["skipped"] is None


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"memory_save_mode": "two_diag"}, ValueError, "memory_save_mode must be one of None, 'smart_one_diag', "),
        ({"memory_save_mode": ["one_diag"]}, ValueError, r"memory_save_mode must be one of .*, got \['one_diag'\]"),
        ({"merge_dims": 1}, TypeError, "merge_dims must be True or False, got 1"),
        ({"max_size_triangular": 2.5}, ValueError, r"max_size_triangular must be in \{0, 1, 2, ...\}, got 2.5"),
        ({"max_size_triangular": np.inf}, ValueError, r"max_size_triangular must be in \{0, 1, 2, ...\}, got inf"),
        ({"min_ndim_triangular": -1}, ValueError, r"min_ndim_triangular must be in \{0, 1, 2, ...\}, got -1"),
        ({"min_ndim_triangular": "2"}, TypeError, "min_ndim_triangular must be a real number, got '2'"),
        ({"exclude": ["head*"]}, ValueError, r"exclude: 'head\*' fits no parameter"),
    ],
)
def test_options_are_checked(options: dict[str, Any], kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=f"^PSGDKron: {sentence}"):
        made({"w": np.ones((2, 2))}, **options)


@pytest.mark.parametrize(
    ("shape", "options", "factors"),
    [((64, 32), {}, 64**2 + 32**2), ((64, 32), {"memory_save_mode": "one_diag"}, 64 + 32**2), ((64,), {}, 64)],
)
def test_bytes_of_state(shape: tuple[int, ...], options: dict[str, Any], factors: int) -> None:
    """As the Notes say: 4 bytes each for the mean and the factors, and one number for the count."""
    opt = made(np.ones(shape, np.float32), **options)
    assert opt.nbytes == 4 * int(np.prod(shape)) + 4 * factors + 4


def test_bytes_of_a_square() -> None:
    n = 256
    assert made(np.ones((n, n), np.float32)).nbytes / n**2 == pytest.approx(12, rel=1e-4)


# ---- one step, in words -----------------------------------------------------------------------------------------------


def test_two_steps_of_a_matrix_as_the_formula_says(rng: np.random.Generator) -> None:
    """With explicit inverses and the spectral norm's bound written out; probes are those of the named stream."""
    w, opt_w = np.ones((4, 3)), np.ones((4, 3))
    opt = made({"w": opt_w}, lr=0.1, beta1=0.8, weight_decay=0.2, precond_lr=0.25, balance_probability=0.0, seed=11)
    stream = opt._stream_named("['w']")
    q1, q2, m = np.eye(4), np.eye(3), np.zeros((4, 3))
    for t in (1, 2):
        g = rng.standard_normal((4, 3))
        m = 0.8 * m + 0.2 * g
        mean = m / (1 - 0.8**t)
        v = normals(11, t, stream, 12).reshape(4, 3)
        noisy = mean + 2**-11.5 * np.abs(mean).mean() * v
        a, b = q1 @ noisy @ q2.T, np.linalg.inv(q1).T @ v @ np.linalg.inv(q2)

        def moved(q: Any, of_a: Any, of_b: Any) -> Any:
            both = of_a + of_b
            column = both[:, np.argmax((both**2).sum(0))]
            image = column @ both
            bound = np.linalg.norm(both @ image) / np.linalg.norm(image)
            assert bound <= np.linalg.norm(both, 2) * (1 + 1e-12)
            return q - 0.25 * np.triu(of_a - of_b) @ q / bound

        q1, q2 = moved(q1, a @ a.T, b @ b.T), moved(q2, a.T @ a, b.T @ b)
        u = q1.T @ q1 @ mean @ q2.T @ q2
        u = u * min(1, 1.1 / np.sqrt((u**2).mean()))
        w = w - 0.1 * (u + 0.2 * w)
        opt.step({"w": g})
        assert opt_w == pytest.approx(w, rel=1e-13)
        first, second = opt.factors["w"]
        assert first == pytest.approx(q1, rel=1e-13, abs=1e-14)
        assert second == pytest.approx(q2, rel=1e-13, abs=1e-14)


def test_it_whitens(rng: np.random.Generator) -> None:
    """Gradients with correlated rows and columns: preconditioned they are nearly white, which they were not."""
    rows = np.linalg.cholesky(0.9 ** np.abs(np.subtract.outer(np.arange(6), np.arange(6))))
    columns = np.diag([10.0, 1.0, 0.1, 0.3])
    opt = made(np.zeros((6, 4)), beta1=0.0, lr=0.0, balance_probability=0.05)
    for _ in range(1500):
        opt.step(rows @ rng.standard_normal((6, 4)) @ columns)
    q1, q2 = opt.factors
    samples = [(rows @ rng.standard_normal((6, 4)) @ columns) for _ in range(4000)]
    raw = np.cov(np.array(samples).reshape(4000, -1), rowvar=False)
    white = np.cov(np.array([q1.T @ q1 @ s @ q2.T @ q2 for s in samples]).reshape(4000, -1), rowvar=False)
    assert np.linalg.cond(raw) > 1e5
    assert np.linalg.cond(white) < 60
    assert np.allclose(np.tril(q1, -1), 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_descends_where_sgd_cannot(dtype: Any, rng: np.random.Generator) -> None:
    """A quadratic in both sides of a matrix, of condition 1e4, beside SGD at three quarters of its largest stable rate."""
    curvature = np.outer(np.logspace(0, -2, 8), np.logspace(0, -2, 6))
    target = rng.standard_normal((8, 6))
    left = []
    for make in (lambda w: made(w, lr=schuss.schedules.cosine(0.05, 600)), lambda w: schuss.SGD(w, lr=1.5)):
        w = np.zeros((8, 6), dtype)
        opt = make(w)
        for _ in range(600):
            opt.step((curvature * (w - target)).astype(dtype))
        left.append(np.abs(w - target).mean() / np.abs(target).mean())
    assert left[0] < 0.02
    assert left[1] > 0.1


def test_the_update_is_clipped() -> None:
    w = np.zeros((5, 4))
    made(w, lr=1.0, precond_lr=0.0, precond_init_scale=100.0).step(np.ones((5, 4)))
    assert np.sqrt((w**2).mean()) == pytest.approx(1.1, rel=1e-12)
    w = np.zeros((5, 4))
    made(w, lr=1.0, precond_lr=0.0).step(np.full((5, 4), 0.5))
    assert (w == -0.5).all()


def test_only_matrices_decay() -> None:
    w, b = np.ones((2, 2)), np.ones(2)
    opt = made([w, b], lr=0.1, weight_decay=0.5)
    opt.step([np.zeros((2, 2)), np.zeros(2)])
    assert (w == 1 - 0.1 * 0.5).all()
    assert (b == 1).all()


# ---- when factors are fitted ------------------------------------------------------------------------------------------


def fits(opt: schuss.PSGDKron, steps: int) -> list[int]:
    """Return the steps, from 1, that fitted factors."""
    found = []
    for t in range(1, steps + 1):
        before = opt.state["q"].copy()
        opt.step(np.ones(opt.params.shape))
        changed = bool((opt.state["q"] != before).any())
        assert changed == (opt.state["since"] == 0)
        found += [t] if changed else []
    return found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_probability": 1.0}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ({"max_probability": 0.5, "probability_decay": 0.0}, [2, 4, 6, 8, 10, 12]),
        ({"max_probability": 0.3, "probability_decay": 0.0}, [4, 8, 12]),
        ({"max_probability": 0.0, "min_probability": 0.0}, []),
        ({"max_probability": 0.0, "min_probability": 0.5}, []),
        ({"probability_decay": 100.0, "flat_steps": 3, "min_probability": 0.25}, [1, 2, 3, 4, 8, 12]),
        ({"probability_decay": np.log(2.0), "flat_steps": 0, "min_probability": 0.0}, [1]),
        ({"probability_decay": 0.0, "max_probability": lambda n: 1.0 if n < 4 else 0.25}, [1, 2, 3, 4, 8, 12]),
    ],
)
def test_steps_that_fit(arguments: dict[str, Any], expected: list[int]) -> None:
    assert fits(made(np.ones((3, 2)), **arguments), 12) == expected


def test_the_default_schedule() -> None:
    """Every step for 500, then ever fewer, at last every 34th: what kron_torch's float32 arithmetic gives as well."""
    got = fits(made(np.ones(1)), 5000)
    assert got[:500] == list(range(1, 501))
    counter, expected = 0, []
    for n in range(5000):
        share = max(np.float32(0.03), min(np.float32(1), np.exp(np.float32(-0.001) * np.float32(n - 500))))
        counter += 1
        if counter >= np.float32(1) / share:
            counter = 0
            expected.append(n + 1)
    assert got == expected
    assert set(np.diff(got[-20:])) == {34}


def test_steps_of_balance() -> None:
    """A function of seed and step, at about the share that was asked for; all tensors are balanced together."""
    opt = made([np.ones((3, 2)), np.ones((2, 4))], precond_lr=0.0, balance_probability=0.1, seed=5)
    chosen = 0
    for t in range(1, 301):
        for pair in opt.factors:
            pair[0] *= 4.0
        before = [[np.abs(q).max() for q in pair] for pair in opt.factors]
        opt.step([np.ones((3, 2)), np.ones((2, 4))])
        after = [[np.abs(q).max() for q in pair] for pair in opt.factors]
        balances = random_words(opt._stream_named(f"balance 5 {t}"), 1)[0] < 0.1 * 2**32
        for (a1, a2), (b1, b2) in zip(after, before, strict=True):
            assert a1 * a2 == pytest.approx(b1 * b2, rel=1e-12)
            assert (a1 == pytest.approx(a2, rel=1e-12)) == balances
            if not balances:
                assert (a1, a2) == (b1, b2)
        for pair in opt.factors:
            pair[0] /= pair[0].max()
            pair[1] /= pair[1].max()
        chosen += balances
    assert 15 <= chosen <= 45


def test_vectors_are_not_balanced() -> None:
    """They have one factor."""
    a, b = (made(np.ones(4), balance_probability=chance) for chance in (0.0, 1.0))
    for opt in (a, b):
        opt.step(np.arange(4.0))
    assert (a.state["q"] == b.state["q"]).all()


# ---- random numbers, resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_run_resumed_goes_on_bit_for_bit(suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    start = {"w": rng.standard_normal((6, 5)), "b": rng.standard_normal(5), "k": rng.standard_normal((3, 2, 2))}
    grads = [{name: rng.standard_normal(p.shape) for name, p in start.items()} for _ in range(40)]
    arguments: dict[str, Any] = {
        "seed": 3,
        "balance_probability": 0.2,
        "max_probability": 0.4,
        "probability_decay": 0.0,
    }
    whole = made({name: p.copy() for name, p in start.items()}, **arguments)
    part = made({name: p.copy() for name, p in start.items()}, **arguments)
    for g in grads[:17]:
        whole.step(g)
        part.step(g)
    part.save(tmp_path / f"run{suffix}", params=True)
    resumed = made({name: np.zeros_like(p) for name, p in start.items()}, **arguments | {"seed": 99})
    resumed.load(tmp_path / f"run{suffix}")
    assert resumed.seed == 3
    for g in grads[17:]:
        whole.step(g)
        resumed.step(g)
    for name in start:
        assert whole.params[name].tobytes() == resumed.params[name].tobytes()
        assert whole.state["q"][name].tobytes() == resumed.state["q"][name].tobytes()
        assert whole.state["since"][name] == resumed.state["since"][name]


def test_the_seed_chooses(rng: np.random.Generator) -> None:
    g = rng.standard_normal((4, 3))
    found = []
    for seed in (0, 0, 1, 2**40):
        opt = made(np.zeros((4, 3)), seed=seed)
        opt.step(g)
        found.append(opt.state["q"].tobytes())
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_the_memory_order_is_no_matter_but_for_the_probe(rng: np.random.Generator) -> None:
    """Factors stand for rows and columns in Fortran order, too."""
    g = rng.standard_normal((4, 3))
    c, f = np.zeros((4, 3)), np.zeros((4, 3), order="F")
    for w in (c, f):
        opt = made(w, precond_lr=0.0)
        opt.factors[0][...] = np.triu(np.arange(1.0, 17.0).reshape(4, 4))
        opt.step(g)
    assert f == pytest.approx(c, rel=1e-14)


# ---- what is degenerate ------------------------------------------------------------------------------------------------


def test_without_gradients_factors_stay() -> None:
    """A thousand steps of zeros, in which factors that grew by a tenth at each would overflow float32."""
    w = np.ones((3, 2), np.float32)
    opt = made(w)
    for _ in range(1000):
        opt.step(np.zeros((3, 2), np.float32))
    assert (w == 1).all()
    assert [np.array_equal(q, np.eye(len(q))) for q in opt.factors] == [True, True]


def test_what_is_not_finite_goes_on() -> None:
    w = np.ones((3, 2))
    opt = made(w)
    opt.step(np.full((3, 2), np.nan))
    assert np.isnan(w).all()
    w = np.ones((3, 2))
    opt = made(w, nonfinite="skip")
    opt.step(np.full((3, 2), np.nan))
    assert (w == 1).all()
    assert (opt.state["since"], opt.t) == (0, 0)


def test_a_singular_factor_shows() -> None:
    w = np.ones((3, 2))
    opt = made(w)
    opt.factors[0][1, 1] = 0.0
    opt.step(np.ones((3, 2)))
    assert np.isnan(w).any()


def test_complex_and_excluded_tensors_are_adamw_s(rng: np.random.Generator) -> None:
    start = {"z": rng.standard_normal((3, 2)) + 1j, "head": rng.standard_normal((3, 2)), "none": np.zeros((0, 3))}
    ours, theirs = ({name: p.copy() for name, p in start.items()} for _ in range(2))
    opt = made(
        ours, exclude=["head"], adamw_lr_ratio=0.5, beta1=0.8, adamw_beta2=0.95, adamw_eps=1e-6, weight_decay=0.1
    )
    adamw = schuss.AdamW(theirs, lr=0.025, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1)
    for _ in range(5):
        g = {name: np.asarray(rng.standard_normal(p.shape)).astype(p.dtype) for name, p in start.items()}
        opt.step(g)
        adamw.step(g)
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in start)


def test_without_scipy(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's solver of all matrices gives the same but for rounding."""
    g = [rng.standard_normal((7, 5)) for _ in range(10)]
    found = []
    imported = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return imported(name, *rest)

    for scipy in (True, False):
        with monkeypatch.context() as patch:
            if not scipy:
                for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
                    patch.delitem(sys.modules, name)
                patch.setattr(builtins, "__import__", refuse)
            opt = made(np.zeros((7, 5)))
            for each in g:
                opt.step(each)
        found.append(opt.params)
    assert found[0] == pytest.approx(found[1], rel=1e-11)


# ---- kron_torch as it comes ------------------------------------------------------------------------------------------


@pytest.mark.peers
def test_kron_torch_and_ours_learn_the_same(rng: np.random.Generator) -> None:
    """With random numbers of its own, and all that the comparison in witnesses/ changes left as it is."""
    kron, torch = pytest.importorskip("kron_torch"), pytest.importorskip("torch")
    scales = np.logspace(0, -2, 12)[:, None] * np.logspace(0, -1, 9)
    ours = made(np.zeros((12, 9), np.float32), lr=0.0, beta1=0.0)
    tensor = torch.zeros((12, 9), requires_grad=True)
    theirs = kron.Kron([tensor], lr=0.0, b1=0.0)
    with torch.compiler.set_stance("force_eager"):
        for _ in range(400):
            g = (scales * rng.standard_normal((12, 9))).astype(np.float32)
            ours.step(g)
            tensor.grad = torch.from_numpy(g)
            theirs.step()
    a, b = (np.outer(*(np.einsum("ij,ij->j", q, q) for q in map(np.asarray, factors)))
            for factors in (ours.factors, theirs.state[tensor]["Q"]))  # fmt: skip
    # Preconditioned by either, gradients have one size.
    assert np.log(a / b).std() < 0.6
    assert np.log(a * scales).std() < 0.5 < np.log(scales).std()
