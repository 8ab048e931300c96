"""Optimizers that orthogonalise: their parts, options and limits, beside what test_bits.py and the witnesses say of all."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from support import snapshot

import schuss
from schuss import AdaMuon, Muon, NorMuon, Scion, linalg

Array = NDArray[Any]

ORTHOGONAL = [Muon, NorMuon, AdaMuon]
ALL = [*ORTHOGONAL, Scion]

each_orthogonal = pytest.mark.parametrize("cls", ORTHOGONAL, ids=lambda cls: cls.__name__)
each_class = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


def numbers(rng: np.random.Generator, *shapes: tuple[int, ...], dtype: Any = np.float64) -> list[Array]:
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def stepped(opt: Any, grads: list[Any]) -> Any:
    for grad in grads:
        opt.step(grad)
    return opt.params


def close(a: Array, b: Array, tolerance: float = 1e-12) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max() <= tolerance * np.abs(b).max())


# ---- what a step is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1)])
def test_the_update_is_the_nearest_orthogonal_matrix(
    shape: tuple[int, int], dtype: Any, tolerance: float, rng: np.random.Generator
) -> None:
    """Of singular values that are not small, by the iteration that converges; with the factor of the shape."""
    (u, _, vt), spread = np.linalg.svd(rng.standard_normal(shape), full_matrices=False), np.linspace(1, 2, min(shape))
    grad = ((u * spread) @ vt).astype(dtype)
    w = np.zeros(shape, dtype)
    Muon(w, lr=1.0, coefficients="exact").step(grad)
    assert close(w, (-0.2 * np.sqrt(max(shape)) * (u @ vt)).astype(dtype), tolerance)


@each_class
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_nothing_comes_of_nothing(cls: Any, dtype: Any, rng: np.random.Generator) -> None:
    """Zero gradients move no weight, be it a matrix, a stack, a vector or a number."""
    params = numbers(rng, (5, 7), (2, 3, 4), (6,), (), dtype=dtype)
    before = [p.copy() for p in params]
    further = {"constrained": False} if cls is Scion else {"weight_decay": 0.0}
    opt = cls(params, lr=1.0, **further)
    for _ in range(3):
        opt.step([np.zeros_like(p) for p in params])
    assert all(p.tobytes() == b.tobytes() for p, b in zip(params, before, strict=True))
    assert all(not np.any(a) for slot in opt._slots for a in slot if a is not None)


@each_orthogonal
def test_what_is_no_matrix_is_adamw_s(cls: Any, rng: np.random.Generator) -> None:
    """Vectors, numbers, complex and empty arrays, and matrices in `exclude`, bit for bit."""
    shapes = [(7,), (), (0, 3), (4, 5)]
    start = dict(zip("abcd", numbers(rng, *shapes), strict=True)) | {"e": numbers(rng, (3, 2))[0] * (1 + 2j)}
    grads = [
        dict(zip("abcd", numbers(rng, *shapes), strict=True)) | {"e": numbers(rng, (3, 2))[0] * 1j} for _ in range(4)
    ]
    arguments = {"adamw_beta1": 0.8, "adamw_beta2": 0.95, "adamw_eps": 1e-3, "weight_decay": 0.2}
    ours = cls(copy.deepcopy(start), lr=0.2, adamw_lr_ratio=0.5, exclude=["d"], **arguments)
    plain = {key.removeprefix("adamw_"): value for key, value in arguments.items()}
    theirs = schuss.AdamW(copy.deepcopy(start), lr=0.1, **plain)
    a, b = stepped(ours, grads), stepped(theirs, grads)
    assert all(a[key].tobytes() == b[key].tobytes() for key in start)


@each_orthogonal
@pytest.mark.parametrize("scale", ["match_rms_adamw", "original", "spectral_unclamped", None])
@pytest.mark.parametrize("blocks", [3, [2, 3, 1]], ids=str)
def test_blocks_are_as_matrices_of_their_own(cls: Any, scale: Any, blocks: Any, rng: np.random.Generator) -> None:
    rows = [2, 2, 2] if blocks == 3 else blocks
    (w,), grads = numbers(rng, (6, 4)), [numbers(rng, (6, 4))[0] for _ in range(4)]
    edges = np.cumsum(rows)[:-1]
    apart = stepped(cls(list(map(np.copy, np.split(w, edges))), scale=scale), [np.split(g, edges) for g in grads])
    fused = stepped(cls({"qkv": w}, scale=scale, split={"q*": blocks}), [{"qkv": g} for g in grads])["qkv"]
    assert close(fused, np.concatenate(apart))


@each_orthogonal
@pytest.mark.parametrize("order", ["C", "F"])
def test_kernels_are_flattened_and_stacks_are_not(cls: Any, order: Any, rng: np.random.Generator) -> None:
    shape = (2, 3, 5, 4)
    (w,), grads = numbers(rng, shape), [numbers(rng, shape)[0] for _ in range(4)]
    flat = stepped(cls(w.reshape(2, -1).copy()), [g.reshape(2, -1) for g in grads]).reshape(shape)
    singles = [[a[i, j].copy() for i in range(2) for j in range(3)] for a in (w, *grads)]
    stack = np.array(stepped(cls(singles[0]), singles[1:])).reshape(shape)
    params = {"conv": np.array(w, order=order), "layers": np.array(w, order=order)}
    if order == "F" and cls is not Muon:  # their rows must lie side by side
        with pytest.raises(
            BufferError, match=r"params\['conv'\] is in Fortran order, but its rows must lie side by side"
        ):
            cls(params, flatten=["conv"])
        return
    found = stepped(cls(params, flatten=["conv"]), [{"conv": g, "layers": g} for g in grads])
    assert close(found["conv"], flat)
    assert close(found["layers"], stack)
    assert close(stepped(cls(w.copy()), grads), flat)
    assert close(stepped(cls(w.copy(), flatten=False), grads), stack)


@each_orthogonal
@pytest.mark.parametrize("form", ["plain", "gram"])
def test_the_forms_agree(cls: Any, form: Any, rng: np.random.Generator) -> None:
    (w,), grads = numbers(rng, (5, 30)), [numbers(rng, (5, 30))[0] for _ in range(4)]
    auto = stepped(cls(w.copy()), grads)
    assert close(stepped(cls(w.copy(), form=form), grads), auto, 1e-11)


@each_class
def test_coefficients_are_passed_on(cls: Any, rng: np.random.Generator) -> None:
    w, grads = np.zeros((5, 8)), [numbers(rng, (5, 8))[0] for _ in range(2)]
    triples = [(3.4445, -4.7750, 2.0315)] * 3
    by_name = stepped(cls(w.copy(), coefficients="jordan", steps=3), grads)
    assert np.array_equal(by_name, stepped(cls(w.copy(), coefficients=triples), grads))
    assert not close(by_name, stepped(cls(w.copy(), coefficients="jordan"), grads), 1e-3)


@each_class
def test_what_is_not_finite_stays_in_its_matrix(cls: Any, rng: np.random.Generator) -> None:
    w, v, grad, other = numbers(rng, (6, 4), (3, 4), (6, 4), (3, 4))
    grad[1, 2] = np.nan
    blocks = {} if cls is Scion else {"split": {"w": 2}}
    found = stepped(cls({"w": w, "v": v}, **blocks), [{"w": grad, "v": other}])
    assert np.isnan(found["w"][:3]).all()
    assert np.isnan(found["w"][3:]).all() == (cls is Scion)
    assert np.isfinite(found["v"]).all()


def test_rows_have_the_same_length_in_time(rng: np.random.Generator) -> None:
    """NorMuon: rows that Muon moves by different lengths; the norm of the update is kept."""
    grads = [rng.standard_normal((8, 3)) * np.arange(1, 9)[:, None] for _ in range(60)]
    lengths = {}
    for cls in (Muon, NorMuon):
        w = np.zeros((8, 3))
        opt = cls(w, lr=1.0, weight_decay=0.0, scale=None, momentum=0.0, coefficients="exact")
        moves = []
        for grad in grads:
            before = w.copy()
            opt.step(grad)
            moves.append(np.linalg.norm(w - before, axis=1))
        lengths[cls] = np.sqrt(np.mean(np.square(moves[30:]), axis=0))
        assert np.isclose(np.linalg.norm(moves[-1]), np.sqrt(3), rtol=1e-3)
    assert lengths[Muon].max() > 3 * lengths[Muon].min()
    assert lengths[NorMuon].max() < 1.5 * lengths[NorMuon].min()


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4)])
def test_updates_of_ada_muon_have_the_size_of_adam_s(shape: tuple[int, int], rng: np.random.Generator) -> None:
    w = np.zeros(shape)
    opt = AdaMuon(w, lr=1.0, weight_decay=0.0)
    for _ in range(5):
        before = w.copy()
        opt.step(rng.standard_normal(shape))
        assert np.isclose(np.sqrt(np.mean((w - before) ** 2)), 0.2, rtol=1e-6)


@pytest.mark.parametrize(("norm", "length"), [("spectral", lambda w: np.linalg.norm(w, 2) / np.sqrt(4 / 6))])
def test_scion_stays_in_the_ball(norm: str, length: Any, rng: np.random.Generator) -> None:
    """Constrained, weights of the norm that they started within keep it, whatever the gradients."""
    w = np.zeros((4, 6))
    opt = Scion({"w": w}, lr=0.3, scale=5.0, norms={"w": norm}, coefficients="exact")
    for _ in range(40):
        opt.step({"w": rng.standard_normal((4, 6)) + 2})
        assert length(w) <= 5.0 * (1 + 1e-6)
    assert length(w) > 4.0
    opt = Scion({"w": w}, lr=0.3, scale=5.0, norms={"w": norm}, constrained=False)
    stepped(opt, [{"w": rng.standard_normal((4, 6)) + 2}] * 10)
    assert length(w) > 5.0


def test_scion_s_norms_by_name(rng: np.random.Generator) -> None:
    """Each tensor has the direction that `linalg.lmo` gives under its norm."""
    params = dict(
        zip(
            ["head", "embed", "conv", "bias", "odd"],
            numbers(rng, (3, 4), (9, 4), (4, 3, 2, 2), (4,), (3, 4)),
            strict=True,
        )
    )
    grads = {key: rng.standard_normal(p.shape) for key, p in params.items()}
    before = copy.deepcopy(params)
    norms = {"head": "sign", "embed": {"norm": "row", "transposed": True}}
    opt = Scion(params, lr=0.5, momentum=0.0, constrained=False, norms=norms, exclude=["odd"])
    opt.step(grads)
    expected = {
        "head": linalg.lmo(grads["head"], "sign"),
        "embed": linalg.lmo(grads["embed"], "row", transposed=True),
        "conv": linalg.lmo(grads["conv"], coefficients="quintic"),
        "bias": linalg.lmo(grads["bias"]),
        "odd": grads["odd"] / np.sqrt(np.mean(grads["odd"] ** 2)),
    }
    for key, direction in expected.items():
        assert close(params[key], before[key] - 0.5 * direction, 1e-8), key


def test_muon_with_qk_clip(rng: np.random.Generator) -> None:
    """MuonClip: after every step no head's largest logit is above the threshold, on the batch that it was measured on."""
    x = rng.standard_normal((16, 6))
    layer = {"query": 3 * rng.standard_normal((8, 6)), "key": 3 * rng.standard_normal((8, 6))}

    def logits() -> Array:
        q, k = ((x @ layer[name].T).reshape(16, 2, 4).swapaxes(0, 1) for name in ("query", "key"))
        return (q @ k.mT).max(axis=(1, 2))

    opt = Muon(layer, lr=0.5, weight_decay=0.0)
    for _ in range(5):
        opt.step({name: rng.standard_normal((8, 6)) for name in layer})
        assert logits().max() > 20
        schuss.qk_clip(layer["query"], layer["key"], logits(), threshold=20.0)
        assert logits().max() <= 20 * (1 + 1e-12)


@each_class
def test_a_matrix_is_fitted(cls: Any, rng: np.random.Generator) -> None:
    """Least squares over weights and a bias, in float32."""
    x = rng.standard_normal((200, 12)).astype(np.float32)
    wanted = rng.standard_normal((5, 12)).astype(np.float32)
    y = x @ wanted.T + 1
    params = {"w": np.zeros((5, 12), np.float32), "b": np.zeros(5, np.float32)}
    arguments = {"scale": 1.0, "constrained": False} if cls is Scion else {"weight_decay": 0.0}
    opt = cls(params, lr=schuss.schedules.cosine(0.3, steps=300), **arguments)
    for _ in range(300):
        error = (x @ params["w"].T + params["b"] - y) / len(x)
        opt.step({"w": error.T @ x, "b": error.sum(axis=0)})
    assert np.mean((x @ params["w"].T + params["b"] - y) ** 2) < 1e-3 * np.mean(y**2)


# ---- state ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "of_matrix", "of_vector"),
    [(Muon, 4.0, 8), (NorMuon, 4 + 4 / 50, 8), (AdaMuon, 8.0, 8), (Scion, 4.0, 4)],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_state_s_size_is_what_the_notes_say(cls: Any, of_matrix: float, of_vector: float, dtype: Any) -> None:
    """Bytes per float32 parameter; twice that for float64."""
    times = np.dtype(dtype).itemsize / 4
    assert cls(np.zeros((40, 50), dtype)).nbytes / 2000 == of_matrix * times
    assert cls(np.zeros(2000, dtype)).nbytes / 2000 == of_vector * times
    assert f"{cls.__doc__.split('Notes')[1]}".count("bytes") >= 1


@each_class
def test_everything_goes_through_pickle_and_files(cls: Any, rng: np.random.Generator, tmp_path: Any) -> None:
    params = {"w": rng.standard_normal((6, 4)), "k": rng.standard_normal((2, 3, 4)), "b": rng.standard_normal(4)}
    options: dict[str, Any] = {"norms": {"w": "sign"}} if cls is Scion else {"split": {"w": 2}, "flatten": False}
    grads = [{key: rng.standard_normal(p.shape) for key, p in params.items()} for _ in range(5)]
    opt = cls(params, **options)
    stepped(opt, grads[:3])
    twins = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    opt.save(tmp_path / "state.npz")
    loaded = cls(copy.deepcopy(params), **options)
    loaded.load(tmp_path / "state.npz")
    last = stepped(opt, grads[3:])
    for twin in (*twins, loaded):
        assert all(np.array_equal(a, last[key]) for key, a in stepped(twin, grads[3:]).items())


@each_orthogonal
def test_groups_are_added(cls: Any, rng: np.random.Generator) -> None:
    """A tensor that came later is as one of an optimizer that had it from the start."""
    start, grads = numbers(rng, (6, 4), (3, 4)), [numbers(rng, (6, 4), (3, 4)) for _ in range(2)]
    late = cls([schuss.Group({"w": start[0].copy()})], split={"w": 2})
    late.step([{"w": grads[0][0]}])
    late.add(schuss.Group({"v": start[1].copy()}, lr=0.01))
    late.step([{"w": grads[1][0]}, {"v": grads[1][1]}])
    alone = cls({"w": start[0].copy()}, split={"w": 2})
    stepped(alone, [{"w": g[0]} for g in grads])
    assert np.array_equal(late.params[0]["w"], alone.params["w"])
    assert np.array_equal(late.params[1]["v"], stepped(cls(start[1].copy(), lr=0.01), [grads[1][1]]))


@each_class
def test_a_step_that_fails_changes_nothing(cls: Any, rng: np.random.Generator) -> None:
    """Memory that runs out between the sweeps, on the second of two matrices."""
    params = numbers(rng, (6, 4), (3, 5), (7,))
    opt = cls(params)
    opt.step(numbers(rng, (6, 4), (3, 5), (7,)))
    before, grads = snapshot(opt), numbers(rng, (6, 4), (3, 5), (7,))
    name = "lmo" if cls is Scion else "orthogonalize"
    real, calls = getattr(linalg, name), []

    def failing(x: Array, *arguments: Any, **further: Any) -> Array:
        calls.append(x.shape)
        if len(calls) == 2:
            raise MemoryError
        return np.asarray(real(x, *arguments, **further))

    with mock.patch.object(linalg, name, failing), pytest.raises(MemoryError):
        opt.step(grads)
    assert snapshot(opt) == before
    opt.step(grads)
    assert opt.t == 2


def test_sums_are_those_of_the_last_sweep(rng: np.random.Generator) -> None:
    """A sweep that adds nothing up leaves none of the step before, nor of one that failed."""
    seen: list[tuple[int, int, int]] = []
    between = AdaMuon.between

    def watched(self: AdaMuon, sweep: int, matrix: Any) -> None:
        seen.append((sweep, matrix.row_sums.size, matrix.column_sums.size))
        if len(seen) == 4:
            raise MemoryError
        between(self, sweep, matrix)

    opt, grads = AdaMuon(np.ones((6, 4))), numbers(rng, (6, 4), (6, 4))
    with mock.patch.object(AdaMuon, "between", watched):
        opt.step(grads[0])
        with pytest.raises(MemoryError):
            opt.step(grads[1])
        opt.step(grads[1])
    assert seen == [(1, 0, 0), (2, 6, 0)] * 3


# ---- refusals -------------------------------------------------------------------------------------------------------------

WORDS = "'match_rms_adamw', 'original', 'spectral_unclamped', None"
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"scale": "rms"}, ValueError, f"Muon: scale must be one of {WORDS}, got 'rms'"),
    ({"scale": 2.0}, ValueError, f"Muon: scale must be one of {WORDS}, got 2.0"),
    ({"form": "wide"}, ValueError, "Muon: form must be 'auto', 'plain' or 'gram', got 'wide'"),
    ({"coefficients": "cubic"}, ValueError, "Muon: coefficients must be one of 'jordan', 'quintic', "),
    (
        {"coefficients": [(1, 2)]},
        ValueError,
        "Muon: coefficients must be triples (a, b, c) of finite numbers, got (1, 2)",
    ),
    ({"steps": 0}, ValueError, "Muon: steps must be in {1, 2, ...}, got 0"),
    ({"steps": 2.5}, ValueError, "Muon: steps must be in {1, 2, ...}, got 2.5"),
    (
        {"split": 3},
        TypeError,
        "Muon: split must be a dict of numbers of row blocks by name, such as {'*.qkv': 3}, got 3",
    ),
    ({"split": {"w": 0}}, ValueError, "Muon: split of 'w' must be in {1, 2, ...}, got 0"),
    (
        {"split": {"w": "3"}},
        TypeError,
        "Muon: split of 'w' must be a whole number, or a list of the rows of each block, got '3'",
    ),
    (
        {"split": {"w": 4}},
        ValueError,
        "Muon: split: params['w'] has 6 rows, which are not 4 blocks; pass a number that divides them, or the rows of each "
        "block",
    ),
    (
        {"split": {"w": [4, 4]}},
        ValueError,
        "Muon: split: params['w'] has 6 rows, which are not blocks of 4, 4 rows; pass a number that divides them, or the "
        "rows of each block",
    ),
    ({"split": {"b": 2}}, ValueError, "Muon: split: params['b'] is not stepped as a matrix; leave it out of 'b'"),
    ({"split": {"x": 2}}, ValueError, "Muon: split: 'x' fits no parameter; their names are w, b"),
    ({"flatten": ["x"]}, ValueError, "Muon: flatten: 'x' fits no parameter; their names are w, b"),
    ({"flatten": "w"}, TypeError, "Muon: flatten must have patterns of names such as '*.bias', got 'w'"),
    ({"exclude": ["x"]}, ValueError, "Muon: exclude: 'x' fits no parameter; their names are w, b"),
]


@pytest.mark.parametrize(("options", "error", "sentence"), REFUSED, ids=str)
def test_refused(options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        Muon({"w": np.zeros((6, 4)), "b": np.zeros(4)}, **options)
    assert str(raised.value).startswith(sentence)


@pytest.mark.parametrize(
    ("norms", "error", "sentence"),
    [
        ("sign", TypeError, "Scion: norms must be a dict of norms by name, such as {'head*': 'sign'}, got 'sign'"),
        ({"x": "sign"}, ValueError, "Scion: norms: 'x' fits no parameter; their names are w, b"),
        ({"w": "nuclear"}, ValueError, "Scion: norms: params['w'] cannot have {'norm': 'nuclear'}: "),
        ({"b": "sign"}, ValueError, "Scion: norms: params['b'] cannot have {'norm': 'sign'}: "),
        ({"w": {"norm": "row", "turned": True}}, ValueError, "Scion: norms: params['w'] cannot have {'norm': 'row', "),
    ],
    ids=str,
)
def test_norms_refused(norms: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        Scion({"w": np.zeros((6, 4)), "b": np.zeros(4)}, norms=norms)
    assert str(raised.value).startswith(sentence)


def test_signs_are_a_truth_value() -> None:
    with pytest.raises(TypeError, match=r"^AdaMuon: sign must be True or False, got 1$"):
        AdaMuon(np.zeros((2, 2)), sign=1)


# ---- torch as it is -------------------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(48, 48), (96, 32), (32, 96)])
def test_torch_in_bfloat16(scale: Any, shape: tuple[int, int], rng: np.random.Generator) -> None:
    """The update differs from torch's by bfloat16's rounding, 2^-9 of each of some products; ours by float32's."""
    torch = pytest.importorskip("torch")
    grads = [rng.standard_normal(shape).astype(np.float32) for _ in range(20)]
    ours, ours64 = np.zeros(shape, np.float32), np.zeros(shape)
    theirs = torch.zeros(shape, requires_grad=True)
    arguments = {"lr": 0.1, "coefficients": "jordan", "scale": scale}
    optimizers = Muon(ours, **arguments), Muon(ours64, **arguments)
    peer = torch.optim.Muon([theirs], lr=0.1, adjust_lr_fn=scale)
    for grad in grads:
        optimizers[0].step(grad)
        optimizers[1].step(grad.astype(np.float64))
        theirs.grad = torch.from_numpy(grad.copy())
        peer.step()
    size = np.linalg.norm(ours64)
    assert np.linalg.norm(ours - ours64) < 3e-6 * size
    assert 1e-4 * size < np.linalg.norm(theirs.detach().numpy() - ours64) < 0.03 * size


def test_the_room_for_the_work_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a step, whether it was done or failed."""
    opt = schuss.Muon(np.ones((30, 40)))
    seen: list[weakref.ref[Any]] = []
    orthogonalize = linalg.orthogonalize

    def watched(x: Any, **arguments: Any) -> Any:
        seen.append(weakref.ref(x if x.base is None else x.base))
        if len(seen) == 2:
            raise MemoryError
        return orthogonalize(x, **arguments)

    monkeypatch.setattr(linalg, "orthogonalize", watched)
    g = np.random.default_rng(0).standard_normal((30, 40))
    opt.step(g)
    with pytest.raises(MemoryError):
        opt.step(g)
    gc.collect()
    assert [each() is None for each in seen] == [True, True]
