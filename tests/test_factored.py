"""The optimizers that keep squares per row and column: their memory, and what must hold of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import trees

SHAPES = [(7, 5), (300, 2), (1, 64), (2, 3, 4), (4, 3, 3, 3), (64, 48)]
every_class = pytest.mark.parametrize("cls", [schuss.Adafactor, schuss.CAME, schuss.SM3])


def bytes_of(optimizer: schuss.Optimizer) -> int:
    return sum(
        array.nbytes for tree in optimizer.state.values() for _, array in trees.leaves(tree) if array is not None
    )


def means(shape: tuple[int, ...]) -> int:
    """Return the rows and the columns of all matrices."""
    return int(np.prod(shape[:-1]) + np.prod(shape[:-2]) * shape[-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_state_is_as_large_as_the_notes_say(shape: tuple[int, ...], dtype: Any) -> None:
    w = np.ones(shape, dtype)
    item, every, matrices = w.itemsize, w.nbytes, means(shape)
    # Bytes per parameter of one matrix: 4 / columns + 4 / rows.
    rows, columns = shape[-2:]
    assert np.isclose(item * matrices / w.size, item / columns + item / rows)
    assert bytes_of(schuss.Adafactor(w)) == item * matrices
    assert bytes_of(schuss.Adafactor(w, momentum=0.9)) == item * matrices + every
    assert bytes_of(schuss.CAME(w)) == 2 * item * matrices + every
    assert bytes_of(schuss.SM3(w, momentum=0)) == item * sum(shape)
    assert bytes_of(schuss.SM3(w)) == item * sum(shape) + every


@pytest.mark.parametrize(
    "array", [np.ones(9), np.ones((), np.float32), np.ones((2, 3), complex)], ids=["1", "0", "complex"]
)
def test_what_is_not_factored_has_squares_of_its_own(array: Any) -> None:
    assert bytes_of(schuss.Adafactor(array)) == array.nbytes
    assert bytes_of(schuss.SM3(array, momentum=0)) == array.nbytes
    assert bytes_of(schuss.CAME(array)) == 2 * array.nbytes


@pytest.mark.parametrize("cls", [schuss.Adafactor, schuss.CAME])
def test_small_sides_and_excluded_names(cls: Any, rng: np.random.Generator) -> None:
    params = {
        name: rng.standard_normal(shape) for name, shape in {"a": (8, 4), "b": (4, 3), "c": (3, 9), "d": (4, 4)}.items()
    }
    opt = cls(params, min_dim_size_to_factor=4, exclude=["d"])
    assert {name for name, v in opt.state["v"].items() if v is not None} == {"b", "c", "d"}
    assert {name for name, row in opt.state["row"].items() if row is not None} == {"a"}


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (2.5, ValueError), ("4", TypeError), (True, TypeError)])
def test_the_least_size_is_a_whole_number(value: Any, error: type[Exception]) -> None:
    with pytest.raises(
        error, match=r"^Adafactor: min_dim_size_to_factor must be (in \{1, 2, \.\.\.\}|a whole number), got"
    ):
        schuss.Adafactor(np.ones((2, 2)), min_dim_size_to_factor=value)


@every_class
def test_rows_must_lie_side_by_side(cls: Any) -> None:
    w = np.asfortranarray(np.ones((3, 2)))
    with pytest.raises(BufferError, match="is in Fortran order, but its rows must lie side by side"):
        cls(w)
    cls({"w": w}, exclude=["w"]).step({"w": w.copy()})


def trajectory(opt: schuss.Optimizer, grads: list[Any]) -> Any:
    for grad in grads:
        opt.step(grad)
    return opt.params


@pytest.mark.parametrize("threads", [1, 2])
def test_squares_of_rank_one_lose_nothing(threads: int, rng: np.random.Generator) -> None:
    """Of a square that is an outer product the means of rows and columns are all there is."""
    start = rng.standard_normal((90, 70))
    size = np.outer(rng.uniform(1, 3, 90), rng.uniform(1, 3, 70))
    grads = [size * rng.choice([-1.0, 1.0], (90, 70)) * (1 + 0.1 * t) for t in range(10)]
    options: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.1, "threads": threads}
    factored = trajectory(schuss.Adafactor(start.copy(), **options), grads)
    whole = trajectory(schuss.Adafactor(start.copy(), min_dim_size_to_factor=91, **options), grads)
    np.testing.assert_allclose(factored, whole, rtol=1e-12)
    assert np.abs(factored - start).max() > 0.05


def test_leading_axes_number_matrices(rng: np.random.Generator) -> None:
    """Without root mean squares of the whole array, a stack is stepped as its matrices are."""
    start = rng.standard_normal((3, 2, 6, 5))
    grads = [rng.standard_normal(start.shape) for _ in range(5)]
    for make in (
        lambda p: schuss.Adafactor(p, scale_parameter=False, threshold=1e9),
        lambda p: schuss.CAME(p, lr=1e-2, threshold=1e9),
    ):
        stacked = trajectory(make(start.copy()), grads)
        for where in np.ndindex(3, 2):
            alone = trajectory(make(start[where].copy()), [grad[where] for grad in grads])
            assert np.array_equal(stacked[where], alone)


def test_the_scale_of_gradients_does_not_matter(rng: np.random.Generator) -> None:
    """But for the two bounds: in powers of two not a bit of the weights differs."""
    start = rng.standard_normal((12, 9))
    grads = [rng.standard_normal(start.shape) for _ in range(6)]
    one, other = (
        trajectory(schuss.Adafactor(start.copy(), eps1=1e-30), [scale * grad for grad in grads])
        for scale in (1.0, 2.0**10)
    )
    assert np.array_equal(one, other)


def test_step_sizes_of_other_libraries(rng: np.random.Generator) -> None:
    """The first direction has ones alone where the square is of rank one: its length is the step size."""
    grad = -np.ones((4, 3))  # away from zero, where weights would become smaller than eps2

    def lengths(**options: Any) -> list[float]:
        w = np.full((4, 3), 2.0)
        opt, found = schuss.Adafactor(w, **options), []
        for _ in range(120):
            before = w.copy()
            opt.step(grad)
            found.append(float(np.abs(w - before).max() / (np.sqrt((before**2).mean()) if opt.scale_parameter else 1)))
        return found

    t = np.arange(1, 121)
    np.testing.assert_allclose(lengths(), np.minimum(1e-2, 1 / np.sqrt(t)), rtol=1e-9)
    np.testing.assert_allclose(lengths(lr=0.1), np.minimum(0.1, 1 / np.sqrt(t)), rtol=1e-9)
    fixed = lengths(lr=0.1, relative_step=False, scale_parameter=False)
    np.testing.assert_allclose(fixed, 0.1, rtol=1e-9)
    warm = lengths(lr=lambda step: 1e-3 * (step + 1), scale_parameter=False)
    np.testing.assert_allclose(warm, np.minimum(1e-3 * t, 1 / np.sqrt(t)), rtol=1e-9)


def test_sm3_bounds_adagrad_from_above(rng: np.random.Generator) -> None:
    """The least accumulator is no less than the sum of an element's squares; of a vector it is that sum."""
    shape = (4, 3, 5)
    w, total = np.zeros(shape), np.zeros(shape)
    opt = schuss.SM3(w)
    for _ in range(20):
        grad = rng.standard_normal(shape) * rng.integers(0, 2, shape)
        opt.step(grad)
        total += grad**2
        a, b, c = np.split(opt.state["accumulators"], np.cumsum(shape)[:-1])
        least = np.minimum(np.minimum(a[:, None, None], b[:, None]), c)
        assert (least >= total).all()
    assert (least > total).any()

    grads = [rng.standard_normal(9) for _ in range(5)]
    ours = trajectory(schuss.SM3(np.zeros(9), lr=0.1, momentum=0.0, eps=1e-3), grads)
    adagrad = trajectory(schuss.Adagrad(np.zeros(9), lr=0.1, eps=1e-3, eps_inside=True), grads)
    assert np.array_equal(ours, adagrad)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_matrix(bad: float) -> None:
    """Other tensors and other rows of SM3 go on; what it has touched is NaN, not still."""
    grads = [np.ones((3, 4)), np.ones((3, 4))]
    grads[0][1, 2] = bad
    for cls in (schuss.Adafactor, schuss.CAME, schuss.SM3):
        params = [np.ones((3, 4)), np.ones((3, 4))]
        opt = cls(params)
        opt.step(grads)
        opt.step([np.ones((3, 4))] * 2)
        assert np.isnan(params[0][1, 2]), cls
        assert np.isfinite(params[1]).all(), cls
