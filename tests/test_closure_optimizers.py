"""What optimizers that evaluate a function themselves have in common, for every one of them in the registry."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import bits

import schuss
from schuss import trees
from schuss.arguments import Argument
from schuss.second_order._base import ClosureOptimizer

CLASSES = list(schuss.closure_optimizers().values())
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


# ---- a problem in the form that each of them takes ------------------------------------------------------------------------


def tree(dtype: Any = np.float64, seed: int = 0) -> dict[str, Any]:
    """Return parameters of several shapes and memory orders."""
    rng = np.random.default_rng(seed)
    return {
        "weights": np.asfortranarray(rng.standard_normal((2, 3)).astype(dtype)),
        "rest": [rng.standard_normal(4).astype(dtype), np.asarray(rng.standard_normal(), dtype)],
    }


def flat(params: Any) -> np.ndarray:
    """Return all elements in the tree's order, rows first."""
    return np.concatenate([np.ravel(leaf).astype(np.float64) for _, leaf in trees.leaves(params)])


def minimum(params: Any) -> np.ndarray:
    return np.linspace(-1.0, 1.0, flat(params).size)


class Problem:
    """Half a sum of squares whose residuals are coupled and bent; 0 at `minimum` alone."""

    def __init__(self, cls: type[ClosureOptimizer], params: Any) -> None:
        self.cls, self.params, self.calls = cls, params, 0
        n = flat(params).size
        self.mixing = np.eye(n) + 0.3 * np.random.default_rng(1).standard_normal((n, n)) / np.sqrt(n)

    def __call__(self) -> tuple[Any, Any]:
        self.calls += 1
        off = self.mixing @ (flat(self.params) - minimum(self.params))
        residuals = off + 0.1 * off**3
        jacobian = (1 + 0.3 * off**2)[:, None] * self.mixing
        if self.cls.returns == ("loss", "grads"):
            return 0.5 * residuals @ residuals, self.like(jacobian.T @ residuals)
        return residuals, jacobian

    def like(self, vector: np.ndarray) -> Any:
        """Return a vector in the parameters' tree, in C order."""
        parts, start = [], 0
        for _, leaf in trees.leaves(self.params):
            parts.append(vector[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
            start += leaf.size
        return trees.rebuild(self.params, iter(parts))

    def distance(self) -> float:
        return float(np.abs(flat(self.params) - minimum(self.params)).max())


def made(cls: type[ClosureOptimizer], dtype: Any = np.float64, **arguments: Any) -> tuple[Any, Problem]:
    params = tree(dtype)
    return cls(params, **arguments), Problem(cls, params)


def everything(opt: Any) -> list[Any]:
    """Return all that a step may change, as bits."""
    state = opt.state_dict()
    slots = [bits(array).tobytes() for arrays in state["slots"].values() for array in arrays]
    return [[bits(leaf).tobytes() for _, leaf in trees.leaves(opt.params)], slots, state["numbers"], opt.last]


# ---- the registry -----------------------------------------------------------------------------------------------------------


def test_the_registry() -> None:
    found = schuss.closure_optimizers()
    assert found == schuss.closure_optimizers()
    assert CLASSES
    assert all(getattr(schuss, name) is cls for name, cls in found.items())
    assert {*found, "ClosureOptimizer", "closure_optimizers"} <= set(dir(schuss))
    assert not {*found} & {*schuss.optimizers(), *schuss.wrappers()}


@every_class
def test_one_name(cls: type[ClosureOptimizer]) -> None:
    assert issubclass(cls, schuss.ClosureOptimizer)
    assert cls.__module__.rpartition(".")[2].replace("_", "") == cls.__name__.lower()


def test_the_base_is_no_optimizer() -> None:
    with pytest.raises(TypeError, match=r"choose one of schuss\.closure_optimizers\(\)"):
        schuss.ClosureOptimizer(np.zeros(2))


@every_class
def test_the_documentation(cls: type[ClosureOptimizer]) -> None:
    """Sections, source, formula, and every argument with its range."""
    assert cls.__doc__
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(cls.__doc__), flags=re.MULTILINE)
    found = dict(zip(["Summary", *parts[1::2]], [parts[0], *parts[2::2]], strict=True))
    assert list(found) == ["Summary", "Parameters", "Notes", "Examples"]
    assert found["Summary"].splitlines()[0].endswith(".")
    assert ".. math::" in found["Summary"]
    assert re.search(r"\(\d{4}\)", found["Summary"])
    assert "State: " in found["Notes"]
    described: dict[str, str] = {}
    for names, text in re.findall(r"^(\w[\w, ]*) : .*\n((?:    .*\n?)+)", found["Parameters"], re.MULTILINE):
        described |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    assert {*described} == {"params", *cls.arguments, *cls.options}
    for name, each in cls.arguments.items():
        assert each.doc, f"{name} needs a #: comment"
        assert re.search(rf"(in|In) {re.escape(str(each.domain))}", described[name]), f"{name}: in {each.domain}"


# ---- the step ---------------------------------------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize(("dtype", "within"), [(np.float64, 1e-5), (np.float32, 3e-3)])
def test_it_finds_the_minimum(cls: type[ClosureOptimizer], dtype: Any, within: float) -> None:
    opt, problem = made(cls, dtype)
    first = problem()
    problem.calls = 0
    before = flat(opt.params)
    for _ in range(100):
        loss = opt.step(problem)
        assert loss == opt.last.loss
        if opt.stopped:
            break
    assert problem.distance() <= within
    assert opt.stopped
    assert opt.last.message == opt.stopped
    if dtype is np.float64:
        assert opt.converged
    assert opt.evaluations == problem.calls
    assert not np.array_equal(before, flat(opt.params))
    assert np.isfinite(np.sum(first[0]))
    assert all(leaf.dtype == dtype for _, leaf in trees.leaves(opt.params))


@every_class
def test_dtypes_may_differ(cls: type[ClosureOptimizer]) -> None:
    """The vector is of float64 then, rounded to what each parameter holds."""
    params = tree()
    params["rest"][0] = params["rest"][0].astype(np.float32)
    opt, problem = cls(params), Problem(cls, params)
    for _ in range(100):
        opt.step(problem)
        point = opt.state["point"]
        assert point["rest"][0].dtype == np.float64
        assert np.array_equal(point["rest"][0], params["rest"][0])
        if opt.stopped:
            break
    assert problem.distance() < 1e-4


@every_class
def test_a_tree_is_one_vector(cls: type[ClosureOptimizer]) -> None:
    """Cut into pieces, the parameters take the same steps: the same bits where the order of sums is the same."""
    whole = flat(tree())
    pieces = {"a": whole[:4].copy(), "b": (whole[4:5].reshape(()).copy(), whole[5:].copy().reshape(2, 3))}
    first, second = cls(whole), cls(pieces)
    one, other = Problem(cls, whole), Problem(cls, pieces)
    for _ in range(10):
        assert first.step(one) == second.step(other)
        assert np.array_equal(bits(whole), bits(flat(pieces)))
        assert first.last == second.last


@every_class
def test_what_the_last_step_did(cls: type[ClosureOptimizer]) -> None:
    opt, problem = made(cls)
    assert opt.last is None
    assert (opt.t, opt.evaluations, opt.converged, opt.stopped) == (0, 0, False, "")
    spent = 0
    for step in range(3):
        opt.step(problem)
        spent += opt.last.evaluations
        assert (opt.last.step, opt.t, opt.evaluations) == (step, step + 1, spent)
        assert opt.last.gradient_norm > 0
        assert opt.last.step_length > 0
    with pytest.raises(FrozenInstanceError):
        opt.last.loss = 0.0


@every_class
def test_what_is_known_is_not_evaluated_again(cls: type[ClosureOptimizer]) -> None:
    """But it is after the parameters were changed, or where the loss may change."""
    opt, problem = made(cls)
    opt.step(problem)
    spent = [opt.last.evaluations]
    for _ in range(3):
        opt.step(problem)
        spent.append(opt.last.evaluations)
    other, again = made(cls, deterministic=False)
    trail = []
    for _ in range(4):
        other.step(again)
        trail.append(other.last.evaluations)
    assert trail == [spent[0], *(each + 1 for each in spent[1:])]
    assert np.array_equal(flat(opt.params), flat(other.params))
    opt.params["rest"][0][0] += 0.5
    here = opt.evaluations
    loss = opt.step(problem)
    assert opt.evaluations - here >= 2
    assert loss < np.inf


@every_class
def test_it_stays_at_the_minimum(cls: type[ClosureOptimizer]) -> None:
    params = minimum(np.zeros(5))
    opt = cls(params)
    before = params.copy()
    opt.step(Problem(cls, params))
    assert opt.converged
    assert opt.last.step_length == 0
    assert opt.evaluations == 1
    assert np.array_equal(params, before)


@every_class
def test_reset(cls: type[ClosureOptimizer]) -> None:
    """After it, the same steps from the same parameters."""
    opt, problem = made(cls)
    start = copy.deepcopy(opt.params)
    fresh = everything(opt)
    trail = [opt.step(problem) for _ in range(4)]
    for (_, leaf), (_, old) in zip(trees.leaves(opt.params), trees.leaves(start), strict=True):
        leaf[...] = old
    opt.reset()
    assert everything(opt) == fresh
    assert [opt.step(problem) for _ in range(4)] == trail


@every_class
def test_rebind(cls: type[ClosureOptimizer]) -> None:
    opt, problem = made(cls)
    opt.step(problem)
    twin = copy.deepcopy(opt)
    expected = twin.step(Problem(cls, twin.params))
    other = copy.deepcopy(opt.params)
    opt.rebind(other)
    kept = flat(problem.params)
    assert opt.step(Problem(cls, other)) == expected
    assert np.array_equal(flat(problem.params), kept)
    with pytest.raises(ValueError, match=rf"^{cls.__name__}: params must have the nesting"):
        opt.rebind(other["rest"])


@every_class
def test_schedules(cls: type[ClosureOptimizer]) -> None:
    """An argument that may be a schedule is asked at every step, and checked."""
    name = next(key for key, each in cls.arguments.items() if each.scheduled)
    value = cls.arguments[name].default
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return value if step < 2 else float("nan")

    opt, problem = made(cls, **{name: schedule})
    twin, same = made(cls)
    for _ in range(2):
        assert opt.step(problem) == twin.step(same)
    before = everything(opt)
    with pytest.raises(ValueError, match=rf"^{cls.__name__}: the schedule of {name} must stay in"):
        opt.step(problem)
    assert everything(opt) == before
    assert asked == [0, 1, 2]
    assert opt.state_dict()["arguments"][name] is None


@every_class
def test_bytes_of_state(cls: type[ClosureOptimizer]) -> None:
    for dtype in (np.float64, np.float32):
        opt = cls(np.zeros(1000, dtype))
        assert opt.nbytes == sum(array.nbytes for array in opt._arrays.values())
        assert opt.nbytes % (1000 * np.dtype(dtype).itemsize) == 0


# ---- what is refused --------------------------------------------------------------------------------------------------------

base = np.zeros((4, 4))
REFUSED = [
    ("holds no array; pass at least one", []),
    ("is a str, not a NumPy array", "weights"),
    ("has dtype float16, but", np.zeros(3, np.float16)),
    ("has dtype complex128, but", np.zeros(3, complex)),
    ("has dtype int64, which cannot be stepped", np.zeros(3, np.int64)),
    ("is a strided view", base[::2, ::2]),
    ("share memory", [base[:2], base[1:3]]),
    ("is a masked array", np.ma.zeros(3)),
    ("takes no Group", schuss.Group(np.zeros(3))),
    ("takes no Group", [schuss.Group(np.zeros(3))]),
]


@every_class
@pytest.mark.parametrize(("sentence", "params"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_refused_parameters(cls: type[ClosureOptimizer], sentence: str, params: Any) -> None:
    with pytest.raises((TypeError, ValueError, BufferError), match=rf"^{cls.__name__}: .*{sentence}"):
        cls(params)


@every_class
def test_read_only_parameters(cls: type[ClosureOptimizer]) -> None:
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    with pytest.raises(BufferError, match=rf"^{cls.__name__}: params is read-only"):
        cls(frozen)
    opt, problem = made(cls)
    opt.step(problem)
    before = everything(opt)
    opt.params["weights"].flags.writeable = False
    calls = problem.calls
    with pytest.raises(BufferError, match=rf"^{cls.__name__}: params\['weights'\] has become read-only"):
        opt.step(problem)
    assert problem.calls == calls
    assert everything(opt) == before


@every_class
def test_resized_parameters(cls: type[ClosureOptimizer]) -> None:
    params = np.zeros(6)
    opt = cls(params)
    params.shape = (2, 3)
    with pytest.raises(BufferError, match=r"call rebind\(params\)"):
        opt.step(Problem(cls, params))


@every_class
def test_arguments_are_checked(cls: type[ClosureOptimizer]) -> None:
    name, params = cls.__name__, np.zeros(2)
    for key, each in cls.arguments.items():
        assert isinstance(each, Argument)
        assert each.check(name, each.default) == each.default
        with pytest.raises(ValueError, match=rf"^{name}: {key} must be in {re.escape(str(each.domain))}, got -1"):
            cls(params, **{key: -1})
        with pytest.raises(TypeError, match=rf"^{name}: {key} must be a real number"):
            cls(params, **{key: "1"})
        opt = cls(params)
        with pytest.raises(ValueError, match=rf"^{name}: {key} must be in"):
            setattr(opt, key, float("nan"))
        assert getattr(opt, key) == each.default
        other = 2 * each.default if 2 * each.default in each.domain else each.default / 2
        if key in cls.fixed:
            with pytest.raises(AttributeError, match=rf"^{name}: {key} is chosen at construction"):
                setattr(opt, key, other)
            with pytest.raises(schuss.StateError, match=f"was saved with {key}={other}, but"):
                opt.load_state_dict(cls(params, **{key: other}).state_dict())
        else:
            setattr(opt, key, other)
            assert getattr(opt, key) == other
    with pytest.raises(TypeError, match=rf"^{name}: all arguments but params have names"):
        cls(params, 0.1)
    with pytest.raises(TypeError, match=rf"^{name}: gtoll is not an argument of {name}; did you mean gtol\?"):
        cls(params, gtoll=1)
    with pytest.raises(AttributeError, match=rf"^{name}: deterministic is chosen at construction"):
        cls(params).deterministic = False  # type: ignore[misc]
    with pytest.raises(AttributeError, match=rf"^{name}: whatever is not an attribute that can be set"):
        cls(params).whatever = 1
    with pytest.raises(TypeError, match=rf"^{name}: deterministic must be True or False"):
        cls(params, deterministic=1)


class BrokenError(Exception):
    """What a closure of these tests raises."""


def failing(problem: Problem, at: int, fail: Callable[[], Any]) -> Callable[[], Any]:
    """Return a closure that fails at one of its calls."""
    first = problem.calls

    def closure() -> Any:
        found = problem()
        return fail() if problem.calls - first == at else found

    return closure


def raises() -> Any:
    raise BrokenError


@every_class
@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize("kind", [BrokenError, KeyboardInterrupt])
def test_a_closure_that_raises(cls: type[ClosureOptimizer], warm: int, kind: type[BaseException]) -> None:
    """At its first call and later, before anything was learnt and after."""

    def fail() -> Any:
        raise kind

    opt, problem = made(cls, deterministic=False)
    for _ in range(warm):
        opt.step(problem)
    before, twin = everything(opt), copy.deepcopy(opt)
    for at in (1, 2):
        with pytest.raises(kind):
            opt.step(failing(problem, at, fail))
        assert everything(opt) == before
    assert opt.step(problem) == twin.step(Problem(cls, twin.params))


@every_class
def test_what_is_not_finite_at_the_start(cls: type[ClosureOptimizer]) -> None:
    opt, problem = made(cls, deterministic=False)
    opt.step(problem)
    before = everything(opt)
    first, second = problem()
    tampered = [(trees.map_leaves(lambda a: a * np.nan, first), second)]
    tampered += [(first, trees.map_leaves(lambda a: np.full_like(a, np.inf), second))]
    for found in tampered:
        with pytest.raises(FloatingPointError, match=rf"^{cls.__name__}: .*nothing was changed$"):
            opt.step(lambda found=found: found)
        assert everything(opt) == before


@every_class
def test_what_is_not_finite_on_the_way(cls: type[ClosureOptimizer]) -> None:
    """A trial that is not finite is one that was too long."""
    opt, problem = made(cls, deterministic=False)
    start = opt.step(problem)
    before = flat(opt.params)
    first, second = problem()
    loss = opt.step(failing(problem, 2, lambda: (trees.map_leaves(lambda a: a * np.nan, first), second)))
    assert loss < start
    assert not np.array_equal(flat(opt.params), before)
    assert opt.last.evaluations > 2


@every_class
def test_what_a_closure_may_not_return(cls: type[ClosureOptimizer]) -> None:
    opt, problem = made(cls)
    before = everything(opt)
    first, second = problem()
    name = cls.__name__
    wrong = [
        (None, rf"the closure must return \({', '.join(cls.returns)}\)"),
        (first, rf"the closure must return \({', '.join(cls.returns)}\)"),
        ((first, second, 1), rf"the closure must return \({', '.join(cls.returns)}\)"),
        (("much", second), "the closure's"),
        ((first * 1j, second), "the closure's"),
    ]
    if cls.returns == ("loss", "grads"):
        wrong += [
            ((np.ones(2), second), "the closure's loss must be a real number"),
            ((first, None), "the closure's gradients are None"),
            ((first, second["rest"]), "grads is a list, but params has a dict"),
            ((first, {"weights": second["weights"]}), "grads has no entry 'rest'"),
            ((first, second | {"more": np.ones(2)}), r"grads\['more'\] names no parameter"),
            ((first, second | {"weights": np.ones((3, 2))}), r"grads\['weights'\] has shape \(3, 2\)"),
            ((first, second | {"weights": np.ones((2, 3), complex)}), "both must be real or both complex"),
            ((first, second | {"weights": [1.0]}), r"grads\['weights'\] is a list, not a NumPy array"),
        ]
    for found, sentence in wrong:
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: .*{sentence}"):
            opt.step(lambda found=found: found)
        assert everything(opt) == before
    with pytest.raises(TypeError, match=rf"^{name}: step takes a function"):
        opt.step(second)


@every_class
def test_gradients_may_be_anything_that_a_step_takes(cls: type[ClosureOptimizer]) -> None:
    """None for zeros, views, other dtypes, and the parameters themselves."""
    if cls.returns != ("loss", "grads"):
        pytest.skip("it takes no gradients")
    params = {"a": np.array([1.0, 2.0]), "b": np.ones(3)}
    opt = cls(params)
    for _ in range(5):
        opt.step(lambda: (0.5 * float(params["a"] @ params["a"]), {"a": params["a"], "b": None}))
    assert np.abs(params["a"]).max() < 1e-4
    assert np.array_equal(params["b"], np.ones(3))
    other = {"a": np.array([1.0, 2.0]), "b": np.ones(3)}
    opt = cls(other)
    opt.step(lambda: (np.float32(2.5), {"a": other["a"].astype(np.float16), "b": np.zeros((3, 2))[:, 0]}))
    assert not np.array_equal(other["a"], [1.0, 2.0])


@every_class
def test_one_at_a_time(cls: type[ClosureOptimizer]) -> None:
    """Neither the closure nor another thread comes in between."""
    opt, problem = made(cls)
    before = everything(opt)
    inner: list[Callable[[], Any]] = [
        lambda: opt.step(problem),
        lambda: opt.load_state_dict({}),
        opt.state_dict,
        opt.reset,
        lambda: opt.rebind(opt.params),
        lambda: setattr(opt, "gtol", 1e-3),
    ]
    for action in inner:
        with pytest.raises(RuntimeError, match=rf"^{cls.__name__}: another thread is inside"):
            opt.step(failing(problem, 1, action))
        assert everything(opt) == before
    inside, leave, refused = threading.Event(), threading.Event(), []

    def waits() -> Any:
        inside.set()
        assert leave.wait(30)
        return problem()

    thread = threading.Thread(target=lambda: opt.step(waits))
    thread.start()
    assert inside.wait(30)
    try:
        opt.step(problem)
    except RuntimeError as error:
        refused.append(error)
    finally:
        leave.set()
        thread.join(30)
    assert refused
    assert opt.t == 1


# ---- checkpoints ------------------------------------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_it_resumes_bit_for_bit(
    cls: type[ClosureOptimizer], suffix: str, dtype: Any, steps: int, tmp_path: Path
) -> None:
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    opt, problem = made(cls, dtype)
    for _ in range(steps):
        opt.step(problem)
    path = tmp_path / f"state.{suffix}"
    opt.save(path, params=True)
    # Other values, other entries first, another memory order.
    other = {"rest": tree(dtype, 7)["rest"], "weights": np.ascontiguousarray(tree(dtype, 7)["weights"])}
    resumed = cls(other)
    resumed.load(path)
    assert (resumed.t, resumed.evaluations, resumed.stopped) == (opt.t, opt.evaluations, opt.stopped)
    assert np.array_equal(other["weights"], opt.params["weights"])
    twins = [pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)]
    same = cls(tree(dtype, 9))
    same.load(path)
    for _ in range(4):
        loss = opt.step(problem)
        for each in (*twins, same):
            assert each.step(Problem(cls, each.params)) == loss
            assert uncounted(everything(each)) == uncounted(everything(opt))
            # What is known of the present parameters may be too large for a checkpoint: it is evaluated again, once.
            assert each.evaluations - opt.evaluations in (0, 1)
        # Sums over another order of the elements round in another way.
        assert resumed.step(Reordered(cls, other)) == pytest.approx(loss, rel=1e-3, abs=1e-6)


def uncounted(found: list[Any]) -> list[Any]:
    """Return what a step may change but for the numbers of evaluations."""
    *memory, numbers, last = found
    kept = {name: number for name, number in numbers.items() if name != "evaluations"}
    return [*memory, kept, last and replace(last, evaluations=0)]


class Reordered(Problem):
    """The problem over a dict whose entries are in another order."""

    def __call__(self) -> tuple[Any, Any]:
        ordered = Problem(self.cls, {key: self.params[key] for key in ("weights", "rest")})
        first, second = ordered()
        if self.cls.returns == ("loss", "grads"):
            return first, second
        size = self.params["weights"].size
        return first, np.concatenate([second[:, size:], second[:, :size]], axis=1)


@every_class
def test_a_copy_is_on_its_own(cls: type[ClosureOptimizer]) -> None:
    opt, problem = made(cls)
    opt.step(problem)
    holder = copy.deepcopy({"opt": opt, "params": opt.params})
    assert holder["params"]["weights"] is holder["opt"].params["weights"]
    before = everything(opt)
    holder["opt"].step(Problem(cls, holder["params"]))
    assert everything(opt) == before
    assert holder["opt"].last.step == 1


@every_class
def test_a_state_that_does_not_fit(cls: type[ClosureOptimizer]) -> None:
    opt, problem = made(cls)
    for _ in range(3):
        opt.step(problem)
    good = opt.state_dict()
    target, _ = made(cls)
    target.step(Problem(cls, target.params))
    before = everything(target)
    key = next(key for key, each in cls.arguments.items() if not each.scheduled)

    def without(entry: str) -> dict[str, Any]:
        return {name: value for name, value in good.items() if name != entry}

    def with_slot(name: str, index: int, array: Any) -> dict[str, Any]:
        slots = {slot: list(arrays) for slot, arrays in good["slots"].items()}
        slots[name][index] = array
        return good | {"slots": slots}

    wrong: list[tuple[Any, str]] = [
        *((without(entry), f"has no {entry}") for entry in good if entry != "optimizer"),
        (good | {"more": 1}, "has unknown entries more"),
        (good | {"optimizer": "Adam"}, "the state is of Adam"),
        (good | {"optimizer": None}, "the state is of None"),
        (schuss.EMA(schuss.SGD(np.ones(3))).state_dict(), "the state is of EMA around an optimizer"),
        (good | {"format": 99}, "has format 99, but this version reads format 1; update schuss"),
        (good | {"format": 0}, "has format 0, which there is none of"),
        (good | {"names": ["x", *good["names"][1:]]}, "has other params"),
        (good | {"names": good["names"][1:]}, "has other params"),
        (good | {"arguments": {}}, "has no .* in its arguments"),
        (good | {"arguments": good["arguments"] | {key: -1}}, f"{key} must be in"),
        (good | {"numbers": good["numbers"] | {"t": -1}}, "t is -1"),
        (good | {"numbers": good["numbers"] | {"t": 1.5}}, "t is 1.5"),
        (good | {"numbers": good["numbers"] | {"loss": float("nan")}}, "loss is nan"),
        (good | {"numbers": good["numbers"] | {"converged": 1}}, "converged is 1"),
        (good | {"slots": good["slots"] | {"m": []}}, "has unknown m"),
        (with_slot("point", 0, np.zeros(7)), "has shape"),
        (with_slot("gradient", 1, np.zeros(4, np.float32)), "pass cast=True"),
        (with_slot("gradient", 1, np.zeros(4, complex)), "complex"),
    ]
    for state, sentence in wrong:
        with pytest.raises(schuss.StateError, match=rf"^{cls.__name__}: .*{sentence}"):
            target.load_state_dict(state)
        assert everything(target) == before
    with pytest.raises(TypeError, match="must be a dict from state_dict"):
        target.load_state_dict([])  # type: ignore[arg-type]
    target.load_state_dict(good)
    assert everything(target)[1:3] == everything(opt)[1:3]


@every_class
def test_a_state_of_another_dtype(cls: type[ClosureOptimizer]) -> None:
    opt, problem = made(cls)
    opt.step(problem)
    narrow, _ = made(cls, np.float32)
    with pytest.raises(schuss.StateError, match="pass cast=True"):
        narrow.load_state_dict(opt.state_dict())
    narrow.load_state_dict(opt.state_dict(), cast=True)
    assert narrow.t == 1
    for name, arrays in narrow.state_dict()["slots"].items():
        for array, wide in zip(arrays, opt.state_dict()["slots"][name], strict=True):
            assert array.dtype == np.float32
            assert np.array_equal(array, wide.astype(np.float32))


@every_class
def test_a_file_that_does_not_fit(cls: type[ClosureOptimizer], tmp_path: Path) -> None:
    opt, problem = made(cls)
    opt.step(problem)
    before = everything(opt)
    schuss.SGD(np.zeros(3), lr=0.1).save(tmp_path / "other.npz")
    with pytest.raises(schuss.StateError, match=rf"^{cls.__name__}: the state is of SGD"):
        opt.load(tmp_path / "other.npz")
    cls(np.zeros(3)).save(tmp_path / "small.npz", params=True)
    with pytest.raises(schuss.StateError, match=rf"^{cls.__name__}: the state has other params"):
        opt.load(tmp_path / "small.npz")
    opt.save(tmp_path / "good.npz", params=True)
    data = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(schuss.CheckpointError):
        opt.load(tmp_path / "bad.npz")
    with pytest.raises(schuss.StateError, match=rf"^SGD: the state is of {cls.__name__}; load it into"):
        schuss.SGD(np.zeros(3), lr=0.1).load(tmp_path / "small.npz")
    assert everything(opt) == before


@every_class
def test_repr(cls: type[ClosureOptimizer]) -> None:
    text = repr(cls([np.zeros(3), np.zeros(2)]))
    assert text.startswith(f"{cls.__name__}({next(iter(cls.arguments))}=")
    assert text.endswith("; 2 tensors, t=0)")
