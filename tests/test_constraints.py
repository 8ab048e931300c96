"""Constraints: results are in the set, and no other point of it is nearer; what is inside keeps its bits; once is enough."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import bits
from test_docs import ROOT, blocks

import schuss
from schuss import constraints
from schuss.constraints import Constraint
from schuss.reference import widened

BF16 = np.dtype(ml_dtypes.bfloat16)
REAL = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16), BF16]
COMPLEX = [np.dtype(np.complex128), np.dtype(np.complex64)]
SHAPES = [(), (1,), (7,), (3, 5), (4, 1), (2, 3, 4), (700,), (40_003,), (3, 20_000)]
FIELDS = {"lower": -0.75, "upper": 0.5, "radius": 0.8, "total": 1.5}


def instances() -> list[Constraint]:
    """Return every constraint of the module, per row and per tensor where it has the choice."""
    found = []
    for name in constraints.__all__:
        cls = getattr(constraints, name)
        if dataclasses.is_dataclass(cls):
            names = [field.name for field in dataclasses.fields(cls)]
            arguments = {name: FIELDS[name] for name in names if name != "per"}
            found += [cls(**arguments, per=per) for per in ("row", "tensor")] if "per" in names else [cls(**arguments)]
    return found


ALL = instances()
every_constraint = pytest.mark.parametrize("constraint", ALL, ids=str)


def rows_of(constraint: Constraint, array: NDArray[Any]) -> NDArray[np.float64]:
    """Return an array's numbers in float64, complex ones as pairs, a row or the whole in each row of a matrix."""
    reals = np.stack([array.real, array.imag], axis=-1) if array.dtype.kind == "c" else array
    rows = array.shape[0] if constraint.per == "row" and array.ndim > 1 else 1
    return widened(reals, np.float64).reshape(rows, reals.size // max(rows, 1))


#: How far a matrix's rows are outside of the set: of a box in absolute terms, else relative to the norm or sum.
EXCESS: dict[str, Callable[[Any, NDArray[np.float64]], NDArray[np.float64]]] = {
    "Box": lambda c, x: np.maximum(c.lower - x, x - c.upper).max(axis=1, initial=0.0),
    "NonNegative": lambda c, x: (-x).max(axis=1, initial=0.0),
    "LInfBall": lambda c, x: np.abs(x).max(axis=1, initial=0.0) - c.radius,
    "L1Ball": lambda c, x: np.abs(x).sum(axis=1) / c.radius - 1,
    "L2Ball": lambda c, x: np.linalg.norm(x, axis=1) / c.radius - 1,
    "MaxNorm": lambda c, x: np.linalg.norm(x, axis=1) / c.radius - 1,
    "UnitNorm": lambda c, x: np.abs(np.linalg.norm(x, axis=1) - 1),
    "Simplex": lambda c, x: np.where((x < 0).any(axis=1), np.inf, np.abs(x.sum(axis=1) / c.total - 1)),
}


def rounding(constraint: Constraint, dtype: np.dtype[Any], size: int) -> float:
    """Return how far rounding to a dtype, a unit relative to the number, may put a result outside."""
    info: Any = ml_dtypes.finfo(dtype)
    return (
        1.01 * float(info.eps) / 2
        + 2 * np.finfo(np.float32).eps * (dtype != np.float64)
        + 2.0**-42
        + size * float(info.smallest_subnormal)
    )


def excess(constraint: Constraint, array: NDArray[Any]) -> float:
    return float(EXCESS[type(constraint).__name__](constraint, rows_of(constraint, array)).max(initial=0.0))


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, scale: float = 3.0) -> NDArray[Any]:
    values = scale * rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * scale * rng.standard_normal(shape)
    return np.asarray(values).astype(dtype)


def dtypes_for(constraint: Constraint) -> list[np.dtype[Any]]:
    return REAL if isinstance(constraint, constraints.Simplex) else REAL + COMPLEX


def inside(constraint: Any, rng: np.random.Generator, count: int, size: int) -> NDArray[np.float64]:
    """Return points of the set, made from its definition, as the rows of a matrix; some at its edge."""
    share = rng.choice([0.2, 0.9, 1.0], (count, 1))
    match type(constraint).__name__:
        case "Simplex":
            return constraint.total * rng.dirichlet(np.full(size, rng.choice([0.1, 1.0])), count)
        case "L1Ball":
            return share * constraint.radius * rng.dirichlet(np.ones(size), count) * rng.choice([-1, 1], (count, size))
        case "L2Ball" | "MaxNorm" | "UnitNorm":
            away = rng.standard_normal((count, size))
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            return away if isinstance(constraint, constraints.UnitNorm) else share * constraint.radius * away
        case _:
            lower, upper = constraint.box
            return rng.uniform(lower, min(upper, 3.0), (count, size))


def test_every_constraint_is_here() -> None:
    """The module shows what it defines, and the definitions of these tests know it."""
    defined = {
        name
        for name, value in vars(constraints).items()
        if inspect.isclass(value) and dataclasses.is_dataclass(value) and value.__module__ == constraints.__name__
    }
    assert defined == {type(each).__name__ for each in ALL} == set(EXCESS)
    assert set(constraints.__all__) == defined | {"Constraint", "Projection"}


# ---- the nearest point of the set ----------------------------------------------------------------------------------------


@every_constraint
def test_results_are_in_the_set_and_stay(constraint: Constraint, rng: np.random.Generator) -> None:
    """In every dtype and shape, from far and near; projecting again changes no bit."""
    for dtype in dtypes_for(constraint):
        for shape in SHAPES:
            for scale in (0.01, 1.0, 300.0):
                w = numbers(rng, shape, dtype, scale)
                constraint.project(w)
                if constraint.box is None:
                    assert excess(constraint, w) <= rounding(constraint, dtype, w.size), (dtype, shape, scale)
                else:  # to the bit, within the bounds rounded to the dtype
                    low, high = np.asarray(constraint.box).astype(np.zeros(0, dtype).real.dtype).astype(float)
                    x = rows_of(constraint, w)
                    assert (low <= x).all()
                    assert (x <= high).all()
                before = w.tobytes()
                constraint.project(w)
                assert w.tobytes() == before, (dtype, shape, scale)


@every_constraint
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_point_of_the_set_is_nearer(constraint: Any, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = data.draw(st.integers(1, 12))
    start = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=size, max_size=size)))
    w = start.copy()
    constraint.project(w)
    points = inside(constraint, rng, 200, size)
    assert (EXCESS[type(constraint).__name__](constraint, points) < 1e-12).all(), "the test's own points"
    if isinstance(constraint, constraints.UnitNorm) and not start.any():
        return  # zeros have no direction
    assert (np.linalg.norm(w - start) <= np.linalg.norm(points - start, axis=1) + 1e-12).all()
    if not isinstance(constraint, constraints.UnitNorm):  # of a convex set: the angle at the nearest point is not acute
        assert ((points - w) @ (start - w)).max() <= 1e-11 * (1 + np.linalg.norm(start))


def solved(constraint: Any, loss: Callable[[NDArray[np.float64]], float], n: int) -> NDArray[np.float64]:
    """Return where a loss is least in the set, as a general solver finds it."""
    options: dict[str, Any] = {"method": "SLSQP", "options": {"ftol": 1e-15, "maxiter": 1000}}
    match type(constraint).__name__:
        case "L1Ball":  # as a difference of what is not negative
            limit = {"type": "ineq", "fun": lambda z: constraint.radius - z.sum()}
            more: dict[str, Any] = {"constraints": limit, "bounds": [(0, None)] * 2 * n}
            z = scipy.optimize.minimize(lambda z: loss(z[:n] - z[n:]), np.full(2 * n, 0.01), **more, **options).x
            return np.asarray(z[:n] - z[n:])
        case "L2Ball" | "MaxNorm":
            more = {"constraints": {"type": "ineq", "fun": lambda x: constraint.radius**2 - x @ x}}
        case "UnitNorm":
            more = {"constraints": {"type": "eq", "fun": lambda x: x @ x - 1}}
        case "Simplex":
            more = {
                "constraints": {"type": "eq", "fun": lambda x: x.sum() - constraint.total},
                "bounds": [(0, None)] * n,
            }
        case _:
            more = {"bounds": [constraint.box] * n}
    start = np.linspace(0.1, 0.2, n)
    starts = [start, -start] if isinstance(constraint, constraints.UnitNorm) else [start]
    found = [scipy.optimize.minimize(loss, start, **more, **options) for start in starts]
    return np.asarray(min(found, key=lambda each: each.fun).x)


@every_constraint
def test_a_general_solver_finds_the_same_point(constraint: Constraint, rng: np.random.Generator) -> None:
    for size in (1, 2, 5, 8):
        for scale in (0.2, 1.0, 3.0):
            start = scale * rng.standard_normal(size)
            w = start.copy()
            constraint.project(w)

            def distance(x: NDArray[np.float64], start: NDArray[np.float64] = start) -> float:
                return float(((x - start) ** 2).sum())

            np.testing.assert_allclose(w, solved(constraint, distance, size), atol=2e-6, err_msg=f"{size} {scale}")


@every_constraint
def test_rows_are_projected_by_themselves(constraint: Constraint, rng: np.random.Generator) -> None:
    """A matrix per row is its rows one by one; per tensor it is the vector of all its elements."""
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        w = numbers(rng, (5, 3, 4), dtype)
        parts = [row.copy() for row in w] if constraint.per == "row" else [w.reshape(-1).copy()]
        constraint.project(w)
        for part in parts:
            vector = part.reshape(-1)
            constraint.project(vector)
        assert w.tobytes() == b"".join(part.tobytes() for part in parts)


@every_constraint
def test_inside_nothing_moves(constraint: Constraint, rng: np.random.Generator) -> None:
    """Points of the set keep their bits, those at its edge too, rounded to any dtype."""
    for dtype in dtypes_for(constraint):
        for size in (1, 6, 1000):
            points = inside(constraint, rng, 30, size if dtype.kind != "c" else 2 * size)
            if dtype.kind == "c":
                points = points[:, ::2] + 1j * points[:, 1::2]
            for point in points:
                w = point.astype(dtype)
                if constraint.box is not None:
                    w[: w.size // 3] = -0.0
                before = w.tobytes()
                constraint.project(w)
                assert w.tobytes() == before, (dtype, size)


# ---- arrays --------------------------------------------------------------------------------------------------------------


@every_constraint
def test_threads_and_instruction_sets_give_the_same_bits(constraint: Constraint, rng: np.random.Generator) -> None:
    shapes = [(50_000,), (3, 40_000), (900, 37), (7,), ()]
    for dtype in (np.float32, np.float64, BF16):
        start = [numbers(rng, shape, dtype) for shape in shapes]
        results = []
        for isa in schuss.instruction_sets():
            schuss.use_isa(isa)
            for threads in (1, 2, 3):
                params = [w.copy() for w in start]
                constraint.project(params, threads=threads)
                results.append(b"".join(w.tobytes() for w in params))
        assert len(set(results)) == 1


@every_constraint
def test_fortran_order(constraint: Constraint, rng: np.random.Generator) -> None:
    """Elements are where they are, in any order; rows must lie side by side."""
    for dtype in dtypes_for(constraint):
        ours = numbers(rng, (4, 5), dtype)
        fortran = np.array(ours, order="F")
        if constraint.per == "row":
            before = fortran.copy()
            with pytest.raises(BufferError, match=r"params is in Fortran order, but its rows must lie side by side; "):
                constraint.project(fortran)
            assert np.array_equal(fortran, before)
        else:
            constraint.project(ours)
            constraint.project(fortran)
            # Sums run in memory order, and round accordingly.
            tolerance = 2 * float(ml_dtypes.finfo(dtype).eps)
            np.testing.assert_allclose(
                rows_of(constraint, ours), rows_of(constraint, fortran), rtol=tolerance, atol=1e-12
            )
            assert constraint.box is None or np.array_equal(ours, fortran)


@every_constraint
def test_empty_arrays(constraint: Constraint) -> None:
    empty = [np.zeros(0), np.zeros((0, 3)), np.zeros((3, 0), np.float32), np.zeros((2, 0, 3))]
    if not isinstance(constraint, constraints.Simplex):
        constraint.project(empty)
        constraint.project([])
        constraint.bind(dict(schuss.trees.leaves([*empty, np.ones(2)]))).apply([True] * 4 + [False])
        return
    constraint.project([])
    for array in empty:
        if constraint.per == "row" and array.shape == (0, 3):
            constraint.project(array)  # no row, nothing to say of any
        else:
            with pytest.raises(
                ValueError, match=r"Simplex: params has shape \(.*\), but without elements there is no sum of 1.5; "
            ):
                constraint.project(array)


@every_constraint
def test_active_arrays_alone_are_projected(constraint: Constraint, rng: np.random.Generator) -> None:
    start = [np.asarray(numbers(rng, shape, np.float32) - np.float32(2)) for shape in ((3, 4), (), (50,))]
    ours, alone = [w.copy() for w in start], start[2].copy()
    constraint.project(alone)
    projection = constraint.bind({f"[{i}]": w for i, w in enumerate(ours)})
    projection.apply([False, False, False])
    assert all(np.array_equal(a, b) for a, b in zip(ours, start, strict=True))
    projection.apply([False, False, True])
    assert all(np.array_equal(a, b) for a, b in zip(ours, [*start[:2], alone], strict=True))
    assert not np.array_equal(alone, start[2])


@every_constraint
def test_bits_of_bfloat16(constraint: Constraint, rng: np.random.Generator) -> None:
    """Arrays of uint16 that are declared give the bits of ml_dtypes' arrays; undeclared they are refused."""
    w = numbers(rng, (6, 50), BF16)
    raw = w.view(np.uint16).copy()
    with pytest.raises(TypeError, match=r'has dtype uint16, .*; pass dtype="bfloat16" if it holds the bits'):
        constraint.project(raw)
    constraint.project(w)
    constraint.project(raw, dtype="bfloat16")
    assert w.tobytes() == raw.tobytes()


def test_complex_norms_are_of_moduli(rng: np.random.Generator) -> None:
    for dtype in COMPLEX:
        w = numbers(rng, (4, 9), dtype)
        expected = w / np.linalg.norm(w, axis=1, keepdims=True)
        constraints.UnitNorm().project(w)
        np.testing.assert_allclose(w, expected, rtol=1e-6)
    z = np.array([2 + 0.5j, -3j])
    constraints.LInfBall(1.0).project(z)
    assert z.tolist() == [1 + 0.5j, -1j]
    with pytest.raises(TypeError, match="Simplex: params has dtype complex128, but a simplex holds real numbers"):
        constraints.Simplex().project(z)


# ---- numbers at the ends of their range ----------------------------------------------------------------------------------


@every_constraint
def test_rows_with_nan_or_infinity_stay(constraint: Constraint, rng: np.random.Generator) -> None:
    """Where there is no nearest point nothing moves; the other rows are projected. A box bounds infinities."""
    for dtype in REAL:
        for odd in (np.nan, np.inf, -np.inf):
            w = numbers(rng, (3, 6), dtype)
            w[1, 2] = odd
            before, clean = w.copy(), w[[0, 2]].copy()
            constraint.project(w)
            if constraint.box is not None:
                low, high = np.asarray(constraint.box).astype(dtype)
                with np.errstate(invalid="ignore"):
                    expected = np.where(before < low, low, np.where(before > high, high, before))
                assert np.array_equal(bits(w), bits(expected))
            elif constraint.per == "row":
                constraint.project(clean)
                assert np.array_equal(bits(w), bits(np.stack([clean[0], before[1], clean[1]])))
            else:
                assert np.array_equal(bits(w), bits(before))


@every_constraint
def test_large_and_small_numbers(constraint: Any, rng: np.random.Generator) -> None:
    """Squares beyond float64 and numbers near its end: the nearest point is that of the direction alone."""
    for scale in (1e155, 1e200, 1e290, 5e307):
        w = scale * rng.uniform(0.5, 2.0, 50) * rng.choice([-1, 1], 50)
        direction = w / scale
        constraint.project(w)
        assert np.isfinite(w).all()
        limit = 1e-11
        if constraint.box is None:
            assert excess(constraint, w) <= limit
        if isinstance(constraint, constraints.L2Ball | constraints.UnitNorm):
            length = getattr(constraint, "radius", 1.0)
            np.testing.assert_allclose(w, length * direction / np.linalg.norm(direction), rtol=1e-12)
        if isinstance(constraint, constraints.Simplex):
            assert np.argmax(w) == np.argmax(direction)
        before = w.tobytes()
        constraint.project(w)
        assert w.tobytes() == before
    for scale in (1e-160, 1e-300, 5e-324):
        w = np.full(3, scale)
        constraint.project(w)
        if isinstance(constraint, constraints.Simplex):
            np.testing.assert_allclose(w, constraint.total / 3, rtol=1e-15)
        else:  # inside; too short to have a direction
            assert (w == scale).all()


def test_unit_norm_of_short_rows() -> None:
    """Down to a factor of 2^120 rows grow, in float32 and float64; shorter ones and zeros stay."""
    for dtype in (np.float32, np.float64):
        w = np.array([[3, 4], [0, 0], [-0.0, 0.0]], dtype)
        w[0] *= dtype(2.0**-118)
        constraints.UnitNorm().project(w)
        np.testing.assert_allclose(w[0], [0.6, 0.8], rtol=1e-6)
        assert w[1:].tobytes() == np.array([[0, 0], [-0.0, 0.0]], dtype).tobytes()
        short = np.full(2, 2.0**-122, dtype)
        constraints.UnitNorm().project(short)
        assert (short == dtype(2.0**-122)).all()


def test_results_that_are_subnormal_stay() -> None:
    """Where float16 rounds by a good part of the number, the norm may be off by as much, and nothing moves again."""
    target = 2.0**-24 * np.array([1.51] * 1000 + [20.51])
    w = (target * 2.0**20).astype(np.float16)
    constraint = constraints.L2Ball(float(np.linalg.norm(target)))
    constraint.project(w)
    assert (w == (2.0**-24 * np.array([2] * 1000 + [21])).astype(np.float16)).all()
    before = w.tobytes()
    constraint.project(w)
    assert w.tobytes() == before


@pytest.mark.parametrize("constraint", [constraints.Simplex(), constraints.L1Ball(1.0)], ids=str)
def test_sums_do_not_depend_on_the_numbers_size(constraint: Any) -> None:
    """Numbers far larger than the sum, ties and long rows: to a thousandth of the slack of 2^-42, and three steps do it."""
    rng = np.random.default_rng(5)
    for n in (2, 10, 1000, 200_000):
        near = rng.dirichlet(np.ones(n)) + rng.standard_normal(n) * 1e-6 / n
        tails = np.abs(rng.standard_normal(n)) * 1e-7 / n
        tails[0] = 1.1
        rows = [near, tails]
        rows += [scale + rng.integers(0, 6, n) for scale in (1e3, 1e15, 1e16, 1e17)]
        rows += [np.full(n, scale) for scale in (1.0, 1e16, 1e300)]
        for row in rows:
            w = row.copy()
            constraint.project(w)
            left_alone = isinstance(constraint, constraints.L1Ball) and np.abs(row).sum() <= 1
            assert np.array_equal(w, row) if left_alone else abs(np.abs(w).sum() - 1) <= 2e-15


# ---- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: constraints.L2Ball(0.0), ValueError, r"L2Ball: radius must be in \(0, inf\), got 0"),
        (lambda: constraints.MaxNorm(-1.0), ValueError, r"MaxNorm: radius must be in \(0, inf\), got -1"),
        (lambda: constraints.L1Ball(np.inf), ValueError, r"L1Ball: radius must be in \(0, inf\), got inf"),
        (lambda: constraints.LInfBall(np.nan), ValueError, r"LInfBall: radius must be in \(0, inf\), got nan"),
        (lambda: constraints.Simplex(True), TypeError, r"Simplex: total must be a real number, got True"),
        (lambda: constraints.L1Ball("1"), TypeError, r"L1Ball: radius must be a real number, got '1'"),
        (lambda: constraints.Box(2, 1), ValueError, r"Box: lower must not exceed upper, got 2 and 1"),
        (lambda: constraints.Box(np.inf, np.inf), ValueError, r"Box: lower must be in \[-inf, inf\), got inf"),
        (lambda: constraints.Box(0, np.nan), ValueError, r"Box: upper must be in \(-inf, inf\], got nan"),
        (lambda: constraints.UnitNorm("rows"), ValueError, r'UnitNorm: per must be "row" or "tensor", got \'rows\''),
    ],
)
def test_arguments(make: Callable[[], Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=f"^{sentence}$"):
        make()


@every_constraint
def test_arrays_that_cannot_be_projected(constraint: Constraint) -> None:
    frozen = np.ones(3)
    frozen.flags.writeable = False
    odd = np.ndarray((3,), np.float64, np.zeros(25, np.uint8)[1:])
    shared = np.full(10, 2.0)
    refused: list[tuple[Any, type[Exception], str]] = [
        ([1.0, 2.0], TypeError, r"params\[0\] is a float, not a NumPy array; pass numpy.asarray of it"),
        (np.arange(3), TypeError, r"params has dtype int64, which cannot be projected"),
        (np.ones(3, ">f8"), TypeError, r"params has dtype >f8, which cannot be projected"),
        (np.ma.ones(3), TypeError, r"params is a masked array, and its mask would be ignored; pass its .data"),
        (np.ones((4, 4))[:, ::2], BufferError, r"params is a strided view \(shape \(4, 2\), strides \(32, 16\)\) .*"),
        (frozen, BufferError, r"params is read-only and cannot be projected in place; pass a writeable array"),
        (odd, BufferError, r"params is not aligned to its item size; pass an aligned array \(a copy is\)"),
        ({"a": shared[:6], "b": shared[5:]}, ValueError, r"params\['a'\] and params\['b'\] share memory; .*"),
    ]
    name = type(constraint).__name__
    for params, error, sentence in refused:
        fine = np.full(3, 2.0)
        with pytest.raises(error, match=f"^{name}: {sentence}$"):
            constraint.project(params)
        paths = {"['fine']": fine, **{f"['odd']{path}": leaf for path, leaf in schuss.trees.leaves(params)}}
        with pytest.raises(error, match=r"^Adam: params"):
            constraint.bind(paths, who="Adam")
        assert (fine == 2).all()
    assert (shared == 2).all()
    with pytest.raises(ValueError, match=f"{name}: threads must be"):
        constraint.project(np.ones(3), threads=0)
    with pytest.raises(ValueError, match=f"{name}: dtype must be \"bfloat16\" or None, got 'half'"):
        constraint.project(np.ones(3), dtype="half")  # type: ignore[arg-type]


def test_constraints_are_values() -> None:
    """Equal, hashable, readable, and without a way to be changed."""
    assert constraints.L2Ball(1) == constraints.L2Ball(1.0)
    assert len({constraints.Box(0, 1), constraints.Box(0.0, 1.0)}) == 1
    assert repr(constraints.MaxNorm(np.float32(2))) == "MaxNorm(radius=2.0, per='row')"
    with pytest.raises(dataclasses.FrozenInstanceError):
        constraints.L2Ball(1.0).radius = 2.0  # type: ignore[misc]
    for constraint in ALL:
        assert eval(repr(constraint), vars(constraints)) == constraint


def test_boxes_say_so() -> None:
    assert constraints.Box(-1, 2).box == (-1.0, 2.0)
    assert constraints.NonNegative().box == (0.0, np.inf)
    assert constraints.LInfBall(3).box == (-3.0, 3.0)
    assert {type(each).__name__ for each in ALL if each.box} == {"Box", "NonNegative", "LInfBall"}


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, BF16, np.complex64], ids=lambda t: np.dtype(t).name
)
def test_a_box_is_what_the_step_applies(dtype: Any, rng: np.random.Generator) -> None:
    """The stage in the compiled step and the projection give the same bits."""
    for lower, upper in ((-0.75, 0.5), (0.1, 0.3), (0.0, np.inf)):
        ours = numbers(rng, (3, 400), dtype)
        stepped = ours.copy()
        constraints.Box(lower, upper).project(ours)
        schuss.SGD(stepped, lr=0.0, bounds=(lower, upper)).step(np.zeros_like(stepped))
        assert ours.tobytes() == stepped.tobytes()


# ---- projected gradients -------------------------------------------------------------------------------------------------


def least_squares(constraint: Constraint, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the minimum of ``|a x - b|^2 / 2`` over a set, by gradient steps and projections."""
    x = np.full(a.shape[1], 1.0 / a.shape[1])
    opt = schuss.SGD(x, lr=1.0 / float(np.linalg.norm(a, 2) ** 2))
    projection = constraint.bind({"": x})
    for _ in range(3000):
        opt.step(a.T @ (a @ x - b))
        projection.apply()
    return x


def test_non_negative_least_squares(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((30, 8)), rng.standard_normal(30)
    x = least_squares(constraints.NonNegative(), a, b)
    expected, _ = scipy.optimize.nnls(a, b)
    assert 0 < (expected == 0).sum() < 8
    np.testing.assert_allclose(x, expected, atol=1e-10)


@pytest.mark.parametrize("constraint", [each for each in ALL if not isinstance(each, constraints.UnitNorm)], ids=str)
def test_constrained_least_squares(constraint: Any, rng: np.random.Generator) -> None:
    """Where the general solver finds the least loss, too."""
    a, b = rng.standard_normal((30, 6)), 3 * rng.standard_normal(30)
    x = least_squares(constraint, a, b)
    assert EXCESS[type(constraint).__name__](constraint, x[None])[0] < 1e-12
    np.testing.assert_allclose(x, solved(constraint, lambda x: float(((a @ x - b) ** 2).sum()), 6), atol=2e-5)


# ---- in an optimizer -------------------------------------------------------------------------------------------------------


def model(rng: np.random.Generator, dtype: Any = np.float64) -> dict[str, Any]:
    return {"layers": [{"weight": numbers(rng, (4, 6), dtype), "bias": numbers(rng, (4,), dtype)} for _ in range(2)]}


@every_constraint
@pytest.mark.parametrize("cls", [schuss.SGD, schuss.AdamW, schuss.LAMB, schuss.DoG], ids=lambda cls: cls.__name__)
def test_an_optimizer_projects_after_its_step(cls: Any, constraint: Constraint, rng: np.random.Generator) -> None:
    """The step without the constraint, then the projection, on tensors that have a gradient alone."""
    for dtype in (np.float64, np.float32, BF16):
        ours = model(rng, dtype)
        alone = schuss.trees.map_leaves(np.copy, ours)
        opt, free = cls(ours, bounds=constraint, threads=2), cls(alone, threads=1)
        for step in range(3):
            grads = schuss.trees.map_leaves(lambda w: numbers(rng, w.shape, np.float64), ours)
            if step != 1:
                grads["layers"][1]["weight"] = None
            active = {
                path: leaf
                for (path, leaf), (_, g) in zip(schuss.trees.leaves(alone), schuss.trees.leaves(grads), strict=True)
                if g is not None
            }
            assert opt.check(grads)
            opt.step(grads)
            free.step(grads)
            constraint.bind(active).apply()
            for a, b in zip(schuss.trees.leaves(ours), schuss.trees.leaves(alone), strict=True):
                assert np.array_equal(bits(a[1]), bits(b[1])), (dtype, step, a[0])


def test_bounds_by_name(rng: np.random.Generator) -> None:
    """Of several patterns the first counts; boxes by name, copies and new arrays included."""
    params = model(rng)
    start = schuss.trees.map_leaves(np.copy, params)
    bounds = {"layers.0.*": (-0.1, 0.2), "*.bias": constraints.UnitNorm()}
    opt = schuss.SGD(params, lr=0.0, bounds=bounds)
    twin = pickle.loads(pickle.dumps(opt))
    other = schuss.trees.map_leaves(np.copy, params)
    for each in (opt, twin, copy.deepcopy(opt)):
        each.step(schuss.trees.map_leaves(np.zeros_like, start))
        first, second = each.params["layers"]
        for key in ("weight", "bias"):
            assert np.array_equal(first[key], np.clip(start["layers"][0][key], -0.1, 0.2))
        assert np.array_equal(second["weight"], start["layers"][1]["weight"])
        assert np.linalg.norm(second["bias"]) == pytest.approx(1.0, rel=1e-12)
    opt.rebind(other)
    opt.step(schuss.trees.map_leaves(np.zeros_like, start))
    assert all(
        np.array_equal(a, b)
        for (_, a), (_, b) in zip(schuss.trees.leaves(other), schuss.trees.leaves(params), strict=True)
    )


@pytest.mark.parametrize(
    ("bounds", "error", "sentence"),
    [
        (
            {"layers.7.*": (0, 1)},
            ValueError,
            r"SGD: bounds: 'layers.7.\*' fits no parameter; their names are layers.0.weight, .*",
        ),
        ({"*": 1.0}, TypeError, r"SGD: bounds\['\*'\] must be a pair \(lower, upper\) or a constraint, got 1.0"),
        ({"*": (1, 0)}, ValueError, r"SGD: bounds\['\*'\] must be a pair with lower <= upper, got \(1, 0\)"),
        ({1: (0, 1)}, TypeError, r"SGD: bounds must have patterns of names such as '\*.bias', got .*"),
        (constraints.MaxNorm, TypeError, r"SGD: bounds must be a pair \(lower, upper\) or a constraint, got .*"),
        (
            constraints.MaxNorm(1.0),
            BufferError,
            r"SGD: params\['layers'\]\[0\]\['weight'\] is in Fortran order, but .*",
        ),
    ],
)
def test_bounds_that_are_refused(bounds: Any, error: type[Exception], sentence: str, rng: np.random.Generator) -> None:
    params = schuss.trees.map_leaves(np.asfortranarray, model(rng))
    with pytest.raises(error, match=f"^{sentence}$"):
        schuss.SGD(params, bounds=bounds)


@pytest.mark.parametrize("constraint", [constraints.MaxNorm(0.5), constraints.Simplex()], ids=str)
def test_a_step_that_is_refused_projects_nothing(constraint: Constraint, rng: np.random.Generator) -> None:
    for policy in ("raise", "skip"):
        params = model(rng)
        before = [leaf.tobytes() for _, leaf in schuss.trees.leaves(params)]
        grads = schuss.trees.map_leaves(lambda w: np.full(w.shape, np.nan), params)
        opt = schuss.SGD(params, bounds=constraint, nonfinite=policy)
        if policy == "raise":
            with pytest.raises(FloatingPointError):
                opt.step(grads)
        else:
            opt.step(grads)
        assert [leaf.tobytes() for _, leaf in schuss.trees.leaves(params)] == before


def test_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """Every block of docs/constraints.md runs, and prints what it says."""
    page = ROOT / "docs" / "constraints.md"
    if not page.exists():
        pytest.skip("the pages are not beside the tests")
    namespace: dict[str, Any] = {}
    said = []
    for line, block in blocks(page):
        exec(compile("\n" * line + block, str(page), "exec"), namespace)
        said += re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
    assert len(said) > 5
    assert capsys.readouterr().out.splitlines() == said
