"""GaLore: against a script from the paper and pytorch_optimizer, its memory, and what it refuses."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from support import bits

import schuss

Array = NDArray[Any]

STEPS = 20
RANK = 3
#: Tall, wide, square, with places of a kernel, and what is not projected: a vector, a matrix that is small, a number.
SHAPES = [(12, 7), (5, 11), (8, 8), (6, 2, 3), (9,), (3, 20), ()]
PROJECTED = [True, True, True, True, False, False, False]
#: The largest magnitude of the difference, relative to the largest weight. Both sides take singular vectors from LAPACK, whose
#: errors are the roundings over the gaps between singular values; those of `problem` are far apart.
TOLERANCE = 1e-8


def problem(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return a gradient whose singular values, as a matrix, are 1, 1/2, 1/4, ..."""
    if len(shape) < 2:
        return np.asarray(rng.standard_normal(shape))
    rows, columns = shape[0], int(np.prod(shape[1:]))
    k = min(rows, columns)
    u, v = (np.linalg.qr(rng.standard_normal((n, k)))[0] for n in (rows, columns))
    return ((u * 0.5 ** np.arange(k)) @ v.T).reshape(shape)


class Script:
    """Zhao et al. (2024), Algorithm 2, with torch's Adam, for one tensor: step by step, without regard to cost."""

    def __init__(self, w: Array, rank: int, gap: int) -> None:
        self.w, self.rank, self.gap = w.copy(), rank, gap
        self.m: Any = 0.0
        self.v: Any = 0.0
        self.basis: Any = None
        self.t = 0

    def step(
        self, g: Array, lr: float, beta1: float, beta2: float, eps: float, wd: float, l2: float, scale: float
    ) -> None:
        shape = self.w.shape
        g = g + l2 * self.w
        projected = len(shape) > 1 and min(shape[0], int(np.prod(shape[1:]))) > self.rank
        if projected:
            matrix = g.reshape(shape[0], -1)
            tall = matrix.shape[0] >= matrix.shape[1]
            if self.t % self.gap == 0:
                values, vectors = np.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T)
                new = vectors[:, np.argsort(values)[::-1][: self.rank]]
                if self.basis is not None:
                    new = new * np.where((new * self.basis).sum(axis=0) < 0, -1, 1)
                self.basis = new
            g = matrix @ self.basis if tall else self.basis.T @ matrix
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g * g
        u = lr * self.m / (1 - beta1**self.t) / (np.sqrt(self.v / (1 - beta2**self.t)) + eps)
        if projected:
            u = scale * (u @ self.basis.T if tall else self.basis @ u).reshape(shape)
        self.w = (1 - lr * wd) * self.w - u


@pytest.mark.parametrize("gap", [1, 5, 50])
@pytest.mark.parametrize(("wd", "l2"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.05)])
def test_the_paper(gap: int, wd: float, l2: float, rng: np.random.Generator) -> None:
    """Whose singular vectors are eigenvectors of the Gram matrices here."""
    start = [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]
    arguments = {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}
    opt = schuss.GaLore(
        schuss.AdamW([w.copy() for w in start], weight_decay=wd, l2=l2, **arguments),
        rank=RANK,
        gap=gap,
        scale=lambda step: 0.5 / (1 + step),
    )
    scripts = [Script(w, RANK, gap) for w in start]
    for step in range(STEPS):
        grads = [problem(rng, shape) for shape in SHAPES]
        opt.step(grads)
        for each, grad in zip(scripts, grads, strict=True):
            each.step(grad, wd=wd, l2=l2, scale=0.5 / (1 + step), **arguments)
        for ours, theirs in zip(opt.params, scripts, strict=True):
            assert np.abs(ours - theirs.w).max() <= TOLERANCE * np.abs(theirs.w).max()
    assert [p.size > 0 for p in opt.state["projector"]] == PROJECTED


@pytest.mark.peers
@pytest.mark.parametrize("gap", [4, 50])
def test_pytorch_optimizer(gap: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its decomposition in double precision, on the old vectors' sides, and at our steps: it counts them from one."""
    torch, po = pytest.importorskip("torch"), pytest.importorskip("pytorch_optimizer")
    galore = importlib.import_module("pytorch_optimizer.optimizer.utils.galore")
    found = galore.GaLoreProjector.get_orthogonal_matrix
    project = galore.GaLoreProjector.project

    def on_the_old_side(self: Any, *args: Any, **kwargs: Any) -> Any:
        new, old = found(self, *args, **kwargs), self.ortho_matrix
        along = int(new.shape[0] > new.shape[1]) - 1  # over the long side
        return new if old is None else new * torch.where((new * old).sum(along, keepdim=True) < 0, -1.0, 1.0)

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(galore.GaLoreProjector, "get_orthogonal_matrix", on_the_old_side)
    monkeypatch.setattr(
        galore.GaLoreProjector, "project", lambda self, grad, steps, **rest: project(self, grad, steps - 1, **rest)
    )
    shapes = [(12, 7), (5, 11), (9,)]
    start = [rng.standard_normal(shape) for shape in shapes]
    tensors = [torch.from_numpy(w.copy()).requires_grad_() for w in start]
    groups = [
        {"params": tensors[:2], "rank": RANK, "update_proj_gap": gap, "scale": 0.5, "projection_type": "std"},
        {"params": tensors[2:]},
    ]
    theirs = po.GaLore(groups, lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.0, foreach=False)
    # Its eps is inside of the correction for the start.
    eps = lambda step: 1e-3 / np.sqrt(1 - 0.95 ** (step + 1))  # noqa: E731
    opt = schuss.GaLore(schuss.Adam(start, lr=0.05, beta1=0.8, beta2=0.95, eps=eps), rank=RANK, gap=gap, scale=0.5)
    for _ in range(STEPS):
        grads = [problem(rng, shape) for shape in shapes]
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad.copy())
        theirs.step()
        opt.step(grads)
        for ours, tensor in zip(opt.params, tensors, strict=True):
            wanted = tensor.detach().numpy()
            assert np.abs(ours - wanted).max() <= TOLERANCE * np.abs(wanted).max()


# ---- memory -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(1024, 256), (256, 1024), (512, 512)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory(rows: int, columns: int, dtype: Any) -> None:
    """Two moments in low rank and the projector, to the byte; the full-sized state is gone."""
    rank, item = 32, np.dtype(dtype).itemsize
    w = np.ones((rows, columns), dtype)
    plain = schuss.Adam(w.copy())
    opt = schuss.GaLore(schuss.Adam(w), rank=rank)
    opt.step(np.random.default_rng(0).standard_normal((rows, columns)).astype(dtype))
    short, long = sorted((rows, columns))
    assert plain.nbytes == 2 * item * w.size
    assert opt.nbytes == 2 * item * rank * long + item * rank * short
    moments = 2 * item * w.size * rank / short
    assert opt.nbytes == moments + item * rank * short, (
        "8 bytes * rank / min(rows, columns) per element, and the projector"
    )
    held = [slot for arrays in opt.base._slots for slot in arrays] + opt._arrays["projector"]
    assert sum(array.nbytes for array in held) == opt.nbytes
    assert sum(array.nbytes for array in opt.state_dict()["optimizer"]["slots"]["m"]) == item * rank * long


# ---- what it does to gradients ----------------------------------------------------------------------------------------------


def test_what_is_not_projected_is_stepped_as_ever(rng: np.random.Generator) -> None:
    """Bit for bit."""
    params = {"v": rng.standard_normal(9), "m": rng.standard_normal((4, 30)), "c": rng.standard_normal((8, 8)) + 1j}
    plain = schuss.AdamW(copy.deepcopy(params), lr=0.1, l2=0.01)
    opt = schuss.GaLore(schuss.AdamW(params, lr=0.1, l2=0.01), rank=4)
    for _ in range(5):
        grads = {key: np.asarray(rng.standard_normal(w.shape), w.dtype) for key, w in params.items()}
        plain.step(grads)
        opt.step(grads)
    for key, w in params.items():
        assert np.array_equal(bits(w), bits(plain.params[key])), key


def test_gradients_of_low_rank_pass_whole(rng: np.random.Generator) -> None:
    """What is linear in the gradient is not changed by a projection that loses nothing."""
    start = rng.standard_normal((20, 12))
    basis = rng.standard_normal((3, 12))
    plain = schuss.SGD(start.copy(), lr=0.1, momentum=0.9)
    opt = schuss.GaLore(schuss.SGD(start.copy(), lr=0.1, momentum=0.9), rank=3, scale=1.0)
    for _ in range(10):
        grad = rng.standard_normal((20, 3)) @ basis
        plain.step(grad)
        opt.step(grad)
    assert np.abs(opt.params - plain.params).max() < 1e-12


def test_the_signs_of_singular_vectors_are_no_matter(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the two LAPACK returns, all bits are the same, also where the projector changes."""
    start, svd = rng.standard_normal((9, 7)), np.linalg.svd
    grads = [rng.standard_normal((9, 7)) for _ in range(9)]

    def turned(matrix: Array, full_matrices: bool) -> Any:
        u, s, vt = svd(matrix, full_matrices=full_matrices)
        signs = rng.choice([-1.0, 1.0], len(s))
        return u * signs, s, vt * signs[:, None]

    found = []
    for each in (svd, turned):
        monkeypatch.setattr(np.linalg, "svd", each)
        for shape in ((9, 7), (7, 9)):
            opt = schuss.GaLore(schuss.Adam(start.reshape(shape).copy(), lr=0.1), rank=3, gap=2)
            for grad in grads:
                opt.step(grad.reshape(shape))
            found.append(opt.params.tobytes())
    assert found[:2] == found[2:]


def test_the_projector_changes_when_it_is_due(rng: np.random.Generator) -> None:
    """After `gap` steps of its own tensor, and not where it has no gradient; the moments stay."""
    opt = schuss.GaLore(schuss.SGD([np.zeros((6, 5)), np.zeros((5, 6))], momentum=0.9), rank=2, gap=3)
    seen = []
    for step in range(7):
        grads: list[Any] = [rng.standard_normal((6, 5)), rng.standard_normal((5, 6)) if step % 2 == 0 else None]
        opt.step(grads)
        seen.append([p.tobytes() for p in opt.state["projector"]])
    changes = [[k for k in range(1, 7) if seen[k][i] != seen[k - 1][i]] for i in range(2)]
    assert changes == [[3, 6], [6]]
    p = opt.state["projector"]
    assert np.allclose(p[0] @ p[0].T, np.eye(2))
    assert np.allclose(p[1].T @ p[1], np.eye(2))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.uint16])
def test_other_dtypes_and_layouts(dtype: Any, order: Any, rng: np.random.Generator) -> None:
    """Computed in float32 and rounded once, wherever the numbers lie: compared with float64, over three steps."""
    real = ml_dtypes.bfloat16 if dtype == np.uint16 else dtype
    start = rng.standard_normal((10, 4, 2)).astype(real)
    wide = start.astype(np.float64)
    narrow = np.array(start.view(dtype) if dtype == np.uint16 else start, order=order)
    declared: Any = {"dtype": "bfloat16"} if dtype == np.uint16 else {}
    opt = schuss.GaLore(schuss.AdamW(narrow, lr=0.1, **declared), rank=3)
    exact = schuss.GaLore(schuss.AdamW(wide, lr=0.1), rank=3)
    for _ in range(3):
        grad = problem(rng, (10, 4, 2)).astype(real)
        given = grad.view(dtype) if dtype == np.uint16 else grad
        opt.step(np.repeat(given, 2, axis=0)[::2])
        exact.step(grad.astype(np.float64))
    ours = opt.params.view(real).astype(np.float64) if dtype == np.uint16 else opt.params.astype(np.float64)
    assert opt.params is narrow
    assert np.abs(ours - wide).max() < 3 * float(ml_dtypes.finfo(real).eps) * np.abs(wide).max() + 1e-4
    assert np.abs(ours - start.astype(np.float64)).max() > 0.01


def test_maximize_and_scale(rng: np.random.Generator) -> None:
    """Of -f, or of a gradient that was scaled, penalties included: the same weights."""
    start = rng.standard_normal((8, 6))
    down, up, scaled = (
        schuss.GaLore(schuss.Adam(start.copy(), l2=0.1, l1=0.01, maximize=maximize), rank=2, gap=2)
        for maximize in (False, True, False)
    )
    for _ in range(5):
        grad = rng.standard_normal((8, 6))
        down.step(grad)
        up.step(-grad)
        scaled.step(8 * grad, grad_scale=1 / 8)
    assert np.abs(up.params - down.params).max() < 1e-12
    assert np.abs(scaled.params - down.params).max() < 1e-12


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradients_that_are_not_finite(bad: float, rng: np.random.Generator) -> None:
    """They get to the optimizer's policy, at the first step and where the projector is due; they make no projector."""
    for policy in ("skip", "raise", "propagate"):
        opt = schuss.GaLore(schuss.Adam({"w": np.ones((6, 5))}, nonfinite=policy), rank=2, gap=1)
        for _ in range(2):
            grad = rng.standard_normal((6, 5))
            grad[2, 3] = bad
            before = opt.params["w"].copy(), opt.state["projector"]["w"].copy(), opt.t
            if policy == "raise":
                with pytest.raises(FloatingPointError, match=r"^Adam: grads\['w'\] holds "):
                    opt.step({"w": grad})
            else:
                opt.step({"w": grad})
            assert np.array_equal(opt.state["projector"]["w"], before[1])
            if policy == "propagate":
                assert np.isnan(opt.params["w"]).any()
                break
            assert np.array_equal(opt.params["w"], before[0])
            assert opt.t == before[2]
            opt.step({"w": rng.standard_normal((6, 5))})
            assert not np.array_equal(opt.params["w"], before[0])


def test_it_trains(rng: np.random.Generator) -> None:
    """A factorisation of rank 4 with two 60 x 40 layers: a loss a hundredth of the first, with a quarter of the state."""
    target = rng.standard_normal((60, 4)) @ rng.standard_normal((4, 40)) / 4
    layers = {"a": 0.3 * rng.standard_normal((60, 40)), "b": np.eye(40)}

    def error() -> Array:
        return np.asarray(layers["a"] @ layers["b"] - target)

    first = (error() ** 2).sum()
    opt = schuss.GaLore(schuss.Adam(layers, lr=schuss.schedules.cosine(0.1, steps=400)), rank=8, gap=20)
    for _ in range(400):
        e = error()
        opt.step({"a": e @ layers["b"].T, "b": layers["a"].T @ e})
    assert (error() ** 2).sum() < 0.01 * first
    assert opt.nbytes < 0.35 * schuss.Adam(layers).nbytes


# ---- what is around it ------------------------------------------------------------------------------------------------------


def test_the_sentences() -> None:
    w = np.ones((6, 5))

    def make(cls: Any = schuss.Adam, rank: Any = 2, **further: Any) -> Any:
        return schuss.GaLore(cls(w.copy(), **further), rank=rank)

    begun = schuss.Adam(w.copy())
    begun.step(w)
    depends = "depends on the weights, which it will not see; wrap one whose update does not, such as Adam$"
    needs = "needs the full matrices, which it will not see; make it without"
    cases: list[tuple[Any, str]] = [
        (lambda: schuss.GaLore(schuss.EMA(schuss.Adam(w.copy()))), "it changes what an optimizer sees, got EMA; put GaLore"),
        (lambda: schuss.GaLore(begun, rank=2), "Adam has stepped already, and its state has no projection; wrap a new one"),
        (lambda: schuss.GaLore(make().base, rank=3), "Adam has stepped already"),
        (lambda: make(schuss.AdaHessian), "AdaHessian takes hessian for every element, which has no projection"),
        *((lambda cls=cls: make(cls), f"the update of {cls.__name__} {depends}") for cls in (
            schuss.LAMB, schuss.LARS, schuss.Prodigy, schuss.DoG, schuss.AdamP, schuss.SGDP, schuss.ScheduleFreeAdamW,
            schuss.Fromage, schuss.MoMo, schuss.MADGRAD,
        )),
        (lambda: make(bounds=(-1, 1)), f"bounds of Adam {needs} bounds"),
        (lambda: make(decay=schuss.Decay(0.1)), f"decay of Adam {needs} decay"),
        (lambda: make(l1=0.1, proximal=True), f"proximal of Adam {needs} proximal"),
        (lambda: make(centralize=True), f"centralize of Adam {needs} centralize"),
        (lambda: make(clip=schuss.ClipAdaptive(0.01)), f"clip of Adam {needs} clip"),
        (lambda: make(rank=0), r"rank must be in \{1, 2, ...\}, got 0"),
        (lambda: make(rank=1.5), r"rank must be in \{1, 2, ...\}, got 1.5"),
        (lambda: make(rank="4"), "rank must be a real number, got '4'"),
        (lambda: make().step(lambda: w), r"step takes gradients, got a function; what calls it goes around, as in SAM\(GaLore"),
        (lambda: make().explain(w), "Adam does not make the weights' updates"),
    ]  # fmt: skip
    for call, sentence in cases:
        with pytest.raises((TypeError, ValueError), match=f"^GaLore: {sentence}"):
            call()
    opt = schuss.GaLore(schuss.Adam({"w": w}), rank=2)
    grads: list[tuple[Any, str]] = [
        ({"w": np.ones((6, 2))}, r"grads\['w'\] has shape \(6, 2\), but its parameter has shape \(6, 5\)"),
        ({"w": np.ones((6, 5), int)}, r"grads\['w'\] has dtype int64, which cannot be projected"),
        ({"w": np.ones((6, 5), np.uint16)}, r"grads\['w'\] has dtype uint16, which cannot be projected"),
        ({"w": 1j * w}, r"grads\['w'\] has dtype complex128, which cannot be projected"),
        ({"w": w.tolist()}, r"grads\['w'\] is a list, not a NumPy array"),
        ({"v": w}, "grads "),
        ([w], "grads "),
    ]
    for bad, sentence in grads:
        with pytest.raises((TypeError, ValueError, KeyError), match=f"^Adam: {sentence}"):
            opt.step(bad)
    assert np.array_equal(w, np.ones((6, 5)))
    assert opt.t == 0


def test_optimizers_that_do_not_look_at_the_weights_are_taken() -> None:
    names = ["Adam", "AdamW", "SGD", "Lion", "RMSprop", "AdaBelief", "NovoGrad", "AdamMini", "AMSGrad", "SophiaG"]
    for name in names:
        opt = schuss.GaLore(getattr(schuss, name)(np.ones((6, 5))), rank=2)
        opt.step(np.outer(np.arange(6.0), np.ones(5)))
        assert opt.t == 1
        assert opt.check(np.ones((6, 5)))


def test_the_optimizer_of_another_one_can_be_wrapped_again(rng: np.random.Generator) -> None:
    """With a projector of its own, from the next gradient on."""
    first = schuss.GaLore(schuss.Adam(np.ones((6, 5))), rank=2)
    first.step(rng.standard_normal((6, 5)))
    second = schuss.GaLore(first.optimizer, rank=2)
    before = second.params.copy()
    second.step(rng.standard_normal((6, 5)))
    assert not np.array_equal(second.params, before)


def test_a_recorder_sees_full_gradients(rng: np.random.Generator) -> None:
    opt = schuss.GaLore(schuss.Adam({"w": np.ones((6, 5)), "b": np.ones(4)}, lr=0.1), rank=2)
    with schuss.Recorder(opt) as recorder:
        for _ in range(3):
            grads = {"w": rng.standard_normal((6, 5)), "b": rng.standard_normal(4)}
            before = opt.params["w"].copy()
            opt.step(grads)
            table = recorder.to_dict()
            last = {key: values[-1] for key, values in table["tensors"]["params['w']"].items()}
            assert np.isclose(last["gradient_norm"], np.linalg.norm(grads["w"]))
            assert np.isclose(last["update_norm"], np.linalg.norm(opt.params["w"] - before))


def test_the_decay_follows_schedules_and_groups(rng: np.random.Generator) -> None:
    """Of projected weights, by the optimizer's step size and decay at the present step, in each group."""
    groups = [schuss.Group(np.ones((6, 5)), weight_decay=0.5), schuss.Group(np.ones((6, 5)), weight_decay=0.0)]
    opt = schuss.GaLore(schuss.AdamW(groups, lr=lambda step: 0.1 / (1 + step)), rank=2, scale=0.5)
    free = schuss.GaLore(schuss.Adam(np.ones((6, 5)), lr=lambda step: 0.1 / (1 + step)), rank=2, scale=0.5)
    weights = np.ones((6, 5))
    for step in range(4):
        grad = rng.standard_normal((6, 5))
        before = free.params.copy()
        opt.step([grad, grad])
        free.step(grad)
        weights = (1 - 0.1 / (1 + step) * 0.5) * weights + (free.params - before)
    assert np.abs(opt.params[0] - weights).max() < 1e-14
    assert np.abs(opt.params[1] - free.params).max() < 1e-14
