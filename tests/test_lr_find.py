"""The range test: its numbers, its suggestion where the best rate is known, and that it leaves everything as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import CLASSES, inputs_for, snapshot

import schuss
from schuss import trees
from schuss.range_test import RangeTest

LossAndGrad = Callable[[], tuple[Any, ...]]


def quadratic(curvatures: np.ndarray) -> tuple[np.ndarray, LossAndGrad]:
    """Return parameters and half the sum of curvatures times their squares."""
    w = np.ones(len(curvatures))
    return w, lambda: (float(0.5 * w @ (curvatures * w)), curvatures * w)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("spread", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("largest", [0.01, 1.0, 37.0, 1e4])
def test_suggestion_for_a_quadratic(largest: float, spread: float, smoothing: float) -> None:
    """Plain descent diverges beyond 2 / L and is best at about 1 / L."""
    w, loss_and_grad = quadratic(np.geomspace(largest / spread, largest, 30))
    found = schuss.lr_find(schuss.SGD(w), loss_and_grad, highest=1e3, smoothing=smoothing)
    assert found.steepest is not None
    assert found.suggestion is not None
    assert 0.02 / largest <= found.suggestion <= 2 / largest
    assert 0.02 / largest <= found.steepest <= 2 / largest
    assert (w == 1).all()


def test_numbers_by_hand() -> None:
    """Rates, losses, averages, the end and the suggestions, in plain Python."""
    w, loss_and_grad = quadratic(np.array([3.0, 5.0]))
    found = schuss.lr_find(
        schuss.SGD(w), loss_and_grad, lowest=1e-3, highest=10, steps=41, smoothing=0.8, divergence=3.0
    )
    x, rates, losses, averages, average = [1.0, 1.0], [], [], [], 0.0
    least = 4.0
    for i in range(41):
        rate = 1e-3 * 1e4 ** (i / 40)
        x = [x[0] - rate * 3 * x[0], x[1] - rate * 5 * x[1]]
        losses.append(1.5 * x[0] ** 2 + 2.5 * x[1] ** 2)
        average = 0.8 * average + 0.2 * losses[-1]
        averages.append(average / (1 - 0.8 ** (i + 1)))
        rates.append(rate)
        least = min(least, averages[-1])
        if averages[-1] > 3 * least:
            break
    assert 20 < len(rates) < 41
    assert found.diverged
    np.testing.assert_allclose(found.lrs, rates, rtol=1e-13)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-9)
    np.testing.assert_allclose(found.smoothed, averages, rtol=1e-9)
    first = len(rates) // 10
    lowest = min(range(first, len(rates)), key=lambda i: averages[i])
    steepest = min(range(first + 1, lowest + 1), key=lambda i: averages[i] - averages[i - 1])
    assert found.steepest == pytest.approx(rates[steepest])
    assert found.suggestion == pytest.approx(rates[lowest] / 10)
    assert str(found).startswith(f"SGD: lr {found.suggestion:.3g}, a tenth of that of the lowest loss (steepest at ")
    assert repr(found) == f"RangeTest(SGD, suggestion={found.suggestion:.3g})"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_everything_is_put_back(cls: type[schuss.Optimizer], rng: np.random.Generator) -> None:
    """Parameters and state to the bit, hyper-parameters and what the last step did; the run then goes on as without."""
    params = {"w": rng.standard_normal((6, 5)).astype(np.float32), "b": rng.standard_normal(3)}
    params["b"][1] = -0.0
    schedule = schuss.schedules.cosine(0.01, steps=20)
    opt = cls(params, lr=schedule, nonfinite="propagate")

    def step(optimizer: schuss.Optimizer) -> None:
        grads = copy.deepcopy(optimizer.params)
        optimizer.step(grads, **inputs_for(optimizer, grads, np.random.default_rng(optimizer.t)))

    for _ in range(3):
        step(opt)
    twin, before, shown, last = copy.deepcopy(opt), snapshot(opt), repr(opt), opt.last
    seen: list[bool] = []

    def loss_and_grad() -> tuple[float, Any, dict[str, Any]]:
        grads = copy.deepcopy(params)
        seen.append(params["w"].tobytes() == before[0])
        loss = 0.5 * sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values())
        return loss, grads, inputs_for(opt, grads, np.random.default_rng(len(seen)))

    with np.errstate(all="ignore"):
        found = schuss.lr_find(opt, loss_and_grad, steps=30, highest=0.9)
    assert seen[0]
    assert seen.count(False) > 0, "the steps are seen in place"
    assert len(found.lrs) == len(seen) - 1
    assert (snapshot(opt), repr(opt), opt.last) == (before, shown, last)
    for each in (opt, twin):
        step(each)
    assert snapshot(opt) == snapshot(twin)


@pytest.mark.parametrize("when", [0, 1, 7])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_errors_put_everything_back(when: int, error: type[BaseException]) -> None:
    w, loss_and_grad = quadratic(np.geomspace(0.1, 1, 5))
    opt = schuss.Adam(w, nonfinite="raise")
    opt.step(np.ones(5))
    before, calls = snapshot(opt), []

    def failing() -> tuple[Any, ...]:
        calls.append(0)
        if len(calls) > when:
            raise error("no")
        return loss_and_grad()

    with pytest.raises(error):
        schuss.lr_find(opt, failing)
    assert snapshot(opt) == before
    assert len(calls) == when + 1

    with pytest.raises(ValueError, match="shape"):
        schuss.lr_find(opt, lambda: (1.0, np.ones(6)))
    assert snapshot(opt) == before


def test_groups_keep_their_ratios() -> None:
    a, b = np.ones(1), np.ones(1)
    opt = schuss.SGD([schuss.Group(a, lr=0.5), schuss.Group(b, lr=lambda t: 0.05 + t)], lr=0.3)
    seen = []

    def loss_and_grad() -> tuple[float, Any]:
        seen.append((float(a[0]), float(b[0])))
        return 1.0, [np.ones(1), np.ones(1)]

    found = schuss.lr_find(opt, loss_and_grad, lowest=1e-3, highest=1.0, steps=4)
    moved = -np.diff(np.array(seen), axis=0)
    np.testing.assert_allclose(moved[:, 0], [1e-3, 1e-2, 1e-1, 1.0], rtol=1e-11)
    np.testing.assert_allclose(moved[:, 1], [1e-4, 1e-3, 1e-2, 1e-1], rtol=1e-10)
    np.testing.assert_allclose(found.lrs, [1e-3, 1e-2, 1e-1, 1.0])
    assert opt.groups[0]["lr"] == 0.5
    assert callable(opt.groups[1]["lr"])
    stopped = schuss.SGD([schuss.Group(a, lr=0.0), schuss.Group(b)], lr=0.3)
    with pytest.raises(ValueError, match="the first group's lr is 0, and others' are not"):
        schuss.lr_find(stopped, loss_and_grad)


def test_a_rate_that_starts_at_zero() -> None:
    """As in a warm-up: all groups alike."""
    w, loss_and_grad = quadratic(np.ones(3))
    assert schuss.lr_find(schuss.SGD(w, lr=lambda t: 0.1 * t), loss_and_grad).suggestion is not None


def test_a_function_that_makes_the_optimizer() -> None:
    w, loss_and_grad = quadratic(np.array([4.0]))
    made = []

    def make() -> schuss.Optimizer:
        made.append(schuss.SGD(w))
        return made[-1]

    found, direct = schuss.lr_find(make, loss_and_grad), schuss.lr_find(schuss.SGD(w), loss_and_grad)
    assert (found.losses == direct.losses).all()
    assert (len(made), made[0].t, w[0]) == (1, 0, 1.0)


class Nesting:
    """Stands for a wrapper: has an average of its own beside the optimizer, and steps with twice the gradients."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.average = optimizer.params.copy()

    @property
    def base(self) -> schuss.Optimizer:
        return getattr(self.optimizer, "base", self.optimizer)

    @property
    def params(self) -> Any:
        return self.optimizer.params

    def step(self, grads: Any) -> None:
        self.optimizer.step(2 * grads)
        self.average += 0.5 * (self.params - self.average)


def test_wrappers_are_copied_with_what_they_wrap() -> None:
    w, loss_and_grad = quadratic(np.array([1.0, 3.0]))
    wrapper = Nesting(Nesting(schuss.SGD(w, momentum=0.5)))
    wrapper.step(np.ones(2))
    before = [snapshot(wrapper.base), wrapper.average.tobytes(), wrapper.optimizer.average.tobytes()]
    found = schuss.lr_find(wrapper, loss_and_grad)
    assert [snapshot(wrapper.base), wrapper.average.tobytes(), wrapper.optimizer.average.tobytes()] == before
    plain = schuss.lr_find(wrapper.base, lambda: (loss_and_grad()[0], 4 * loss_and_grad()[1]))
    np.testing.assert_array_equal(found.losses, plain.losses)
    assert found.optimizer == "SGD"


@pytest.mark.parametrize("cls", [schuss.AdamW, schuss.Lion, schuss.Momentum, schuss.SGD])
def test_suggestion_for_a_noisy_net(cls: type[schuss.Optimizer], rng: np.random.Generator) -> None:
    """The suggestion is near the best of a grid for a small net, on the safe side, and trains better than most do."""
    rates = np.geomspace(1e-4, 10, 11)
    x = rng.standard_normal((512, 10))
    y = np.tanh(x @ rng.standard_normal((10, 3)))

    def run(rate: float | None) -> float:
        draw = np.random.default_rng(3)
        p = {"u": 0.3 * draw.standard_normal((10, 32)), "v": 0.3 * draw.standard_normal((32, 3))}

        def loss_and_grad(rows: Any = None) -> tuple[float, Any]:
            at = draw.choice(512, 32) if rows is None else rows
            h = np.tanh(x[at] @ p["u"])
            e = h @ p["v"] - y[at]
            back = (e @ p["v"].T) * (1 - h * h)
            return float(0.5 * (e * e).sum() / len(e)), {"u": x[at].T @ back / len(e), "v": h.T @ e / len(e)}

        opt = cls(p)
        if rate is None:
            return schuss.lr_find(opt, loss_and_grad).suggestion or 0.0
        opt.lr = rate
        for _ in range(300):
            opt.step(loss_and_grad()[1])
        return loss_and_grad(slice(None))[0]

    with np.errstate(all="ignore"):
        suggested, grid = run(None), [run(float(rate)) for rate in rates]
    best = rates[np.nanargmin(grid)]
    assert best / 16 < suggested < 2 * best
    assert run(suggested) < np.nanmedian(grid) / 2


def test_the_end_is_found_where_gradients_are_not_finite() -> None:
    for policy in ("propagate", "skip", "raise"):
        w = np.ones(2)
        opt = schuss.SGD(w, nonfinite=policy)  # type: ignore[arg-type]
        calls: list[int] = []

        def loss_and_grad(w: np.ndarray = w, calls: list[int] = calls) -> tuple[float, Any]:
            calls.append(0)
            return 2.0 - 0.1 * len(calls), np.full(2, math.inf if len(calls) == 5 else 0.0)

        found = schuss.lr_find(opt, loss_and_grad, steps=9, smoothing=0.0)
        assert (found.diverged, len(found.lrs)) == (policy == "raise", 4 if policy == "raise" else 9)
        assert (w == 1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(bad: float) -> None:
    losses = iter([3.0, 2.0, 1.0, bad])
    found = schuss.lr_find(schuss.SGD(np.ones(1)), lambda: (next(losses), np.zeros(1)), steps=50)
    assert found.diverged
    np.testing.assert_array_equal(found.losses, [2.0, 1.0, bad])
    assert found.suggestion is not None
    assert found.suggestion < 1e-5
    losses = iter([bad, bad])
    at_once = schuss.lr_find(schuss.SGD(np.ones(1)), lambda: (next(losses), np.zeros(1)), steps=50)
    assert (at_once.diverged, len(at_once.lrs), at_once.suggestion) == (True, 1, None)


def test_losses_below_zero() -> None:
    """A log-likelihood that falls to -50: its growth by three times that ends the run."""
    losses = iter([*np.linspace(0, -50, 20), -40.0, 0.0, 90.0, 101.0, 200.0])
    found = schuss.lr_find(schuss.SGD(np.ones(1)), lambda: (float(next(losses)), np.zeros(1)), steps=50, smoothing=0.0)
    assert found.losses[-1] == 101.0
    assert found.diverged


def test_a_loss_that_never_falls() -> None:
    values = iter(np.linspace(1, 2, 200))
    found = schuss.lr_find(schuss.SGD(np.ones(1)), lambda: (float(next(values)), np.zeros(1)))
    assert (found.suggestion, found.steepest) == (None, None)
    assert str(found) == "SGD: no suggestion, the loss never fell; 100 rates from 1e-07 to 10, did not diverge"
    assert repr(found) == "RangeTest(SGD, suggestion=None)"


def test_inputs_reach_the_step() -> None:
    w, loss_and_grad = quadratic(np.array([2.0]))
    opt = schuss.PolyakSGD(w)
    found = schuss.lr_find(opt, lambda: (*loss_and_grad(), {"loss": np.array(loss_and_grad()[0])}), highest=0.5)
    assert found.losses[-1] < found.losses[0]
    with pytest.raises(TypeError, match="PolyakSGD: step needs loss"):
        schuss.lr_find(opt, loss_and_grad)
    assert w[0] == 1


def test_a_recorder_does_not_see_it() -> None:
    w, loss_and_grad = quadratic(np.array([2.0]))
    opt = schuss.SGD(w)
    with schuss.Recorder(opt) as recorder:
        schuss.lr_find(opt, loss_and_grad)
    assert len(recorder) == 0


MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lowest": 0}, ValueError, r"^lr_find: lowest must be in \(0, inf\), got 0$"),
    ({"highest": math.inf}, ValueError, r"^lr_find: highest must be in \(0, inf\), got inf$"),
    ({"lowest": 1, "highest": 1}, ValueError, "^lr_find: lowest must be less than highest, got 1 and 1$"),
    ({"steps": 1}, ValueError, r"^lr_find: steps must be in \{2, 3, ...\}, got 1$"),
    ({"steps": 2.5}, ValueError, "^lr_find: steps must be in "),
    ({"smoothing": 1.0}, ValueError, r"^lr_find: smoothing must be in \[0, 1\), got 1$"),
    ({"divergence": 1.0}, ValueError, r"^lr_find: divergence must be in \(1, inf\], got 1$"),
    ({"loss_and_grad": lambda: 1.0}, TypeError, r"^lr_find: loss_and_grad must return \(loss, grads\) or "),
    ({"loss_and_grad": lambda: (np.ones(2), np.ones(2))}, TypeError, r"got ndarray of shape \(2,\); return its mean$"),
    ({"loss_and_grad": lambda: ("1", np.ones(2))}, TypeError, "must return a real number as loss, got str$"),
    (
        {"loss_and_grad": 3},
        TypeError,
        r"^lr_find: loss_and_grad must be a function that returns \(loss, grads\), got int$",
    ),
    ({"optimizer": [1]}, TypeError, "^lr_find: optimizer must be an Optimizer, a wrapper, or make one, got list$"),
    ({"optimizer": lambda: None}, TypeError, "got NoneType$"),
]


@pytest.mark.parametrize(("arguments", "error", "sentence"), MISTAKES)
def test_mistakes_are_named(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    w, loss_and_grad = quadratic(np.ones(2))
    opt = schuss.SGD(w)
    before = snapshot(opt)
    with pytest.raises(error, match=sentence):
        schuss.lr_find(**{"optimizer": opt, "loss_and_grad": loss_and_grad} | arguments)
    assert snapshot(opt) == before


def test_eval_is_refused() -> None:
    w, loss_and_grad = quadratic(np.ones(2))
    opt = schuss.SGD(w)
    opt.eval()
    with pytest.raises(RuntimeError, match="call train"):
        schuss.lr_find(opt, loss_and_grad)


def test_picture() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    w, loss_and_grad = quadratic(np.geomspace(0.1, 10, 8))
    found = schuss.lr_find(schuss.SGD(w), loss_and_grad)
    figure = found.plot()
    FigureCanvasAgg(figure).draw()
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    losses, smoothed, *marks = ax.get_lines()
    np.testing.assert_array_equal(losses.get_ydata(), found.losses)
    np.testing.assert_array_equal(smoothed.get_ydata(), found.smoothed)
    assert [mark.get_xdata()[0] for mark in marks] == [found.suggestion, found.steepest]
    low, high = ax.get_ylim()
    assert low <= found.losses.min()
    assert found.smoothed[0] <= high < found.losses.max() * 10
    for empty in (RangeTest("SGD", np.ones(1), np.array([math.nan]), np.array([math.nan]), True),):
        FigureCanvasAgg(empty.plot()).draw()


def test_trees(rng: np.random.Generator) -> None:
    """Fortran order, scalars and complex numbers are put back, too."""
    params = [np.asfortranarray(rng.standard_normal((3, 4))), np.array(1.5), rng.standard_normal(3) * (1 + 2j)]
    before = [p.tobytes("A") for p in params]
    schuss.lr_find(
        schuss.AdamW(params), lambda: (float(params[1]) ** 2, trees.map_leaves(lambda p: p.copy(), params)), steps=20
    )
    assert [p.tobytes("A") for p in params] == before
