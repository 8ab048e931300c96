"""The 18 problems of Moré, Garbow and Hillstrom for unconstrained minimisation, as sums of squares in NumPy.

J. J. Moré, B. S. Garbow, K. E. Hillstrom (1981), *Testing unconstrained optimization software*, ACM Transactions on
Mathematical Software 7, 17-41, section 3; the choice and its order are those of Algorithm 566, ibid. 136-140.

Every problem minimises f(x) = r(x).r(x). Indices in the formulas count from 1, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float64; complex128 where a test takes a complex step


@dataclass(frozen=True)
class Problem:
    """A sum of squares: its residuals r (m), their Jacobian J (m x n), the standard start, and the known local minima."""

    name: str
    residuals_at: Callable[[Array], Array]
    jacobian_at: Callable[[Array], Array]
    start: Array
    minima: tuple[float, ...]  #: values of f, the global one first; to six digits
    solution: Array | None = None  #: a point where f is `minima[0]`, where the paper gives one

    def __str__(self) -> str:
        return self.name.replace(" ", "_")

    @property
    def x0(self) -> Array:
        """Return a copy of the standard start."""
        return self.start.copy()

    def residuals(self, x: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # line searches may try points far away
            return self.residuals_at(x)

    def jacobian(self, x: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            return self.jacobian_at(x)

    def residuals_and_jacobian(self, x: Array) -> tuple[Array, Array]:
        return self.residuals(x), self.jacobian(x)

    def fun(self, x: Array) -> float:
        r = self.residuals(x)
        with np.errstate(over="ignore", invalid="ignore"):
            return float(r @ r)

    def gradient(self, x: Array) -> Array:
        return self.fun_and_grad(x)[1]

    def fun_and_grad(self, x: Array) -> tuple[float, Array]:
        r, J = self.residuals_and_jacobian(x)
        with np.errstate(over="ignore", invalid="ignore"):
            return float(r @ r), 2 * (J.T @ r)

    def solved_by(self, f: float, rtol: float = 1e-4, atol: float = 1e-8) -> bool:
        """Tell whether f is one of the known minima, or lower."""
        return any(f <= minimum * (1 + rtol) + atol * max(1.0, minimum) for minimum in self.minima)


# ---- 1 helical valley -----------------------------------------------------------------------------------------------------


def helical_valley_residuals(x: Array) -> Array:
    theta = helical_angle(x)
    return np.array([10 * (x[2] - 10 * theta), 10 * (np.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]])


def helical_angle(x: Array) -> Any:
    """Return atan2(x2, x1) in turns, cut at x1 = 0; in words that complex numbers know."""
    if x[0] == 0:
        return 0.25 * np.sign(x[1].real)
    return np.arctan(x[1] / x[0]) / (2 * np.pi) + (0.5 if x[0].real < 0 else 0.0)


def helical_valley_jacobian(x: Array) -> Array:
    square = x[0] ** 2 + x[1] ** 2
    length, turn = np.sqrt(square), 2 * np.pi * square
    return np.array(
        [
            [100 * x[1] / turn, -100 * x[0] / turn, 10.0],
            [10 * x[0] / length, 10 * x[1] / length, 0.0],
            [0.0, 0.0, 1.0],
        ]
    )


# ---- 2 Biggs EXP6 ---------------------------------------------------------------------------------------------------------

BIGGS_T = 0.1 * np.arange(1, 14)
BIGGS_Y = np.exp(-BIGGS_T) - 5 * np.exp(-10 * BIGGS_T) + 3 * np.exp(-4 * BIGGS_T)


def biggs_exp6_residuals(x: Array) -> Array:
    t = BIGGS_T
    return x[2] * np.exp(-t * x[0]) - x[3] * np.exp(-t * x[1]) + x[5] * np.exp(-t * x[4]) - BIGGS_Y


def biggs_exp6_jacobian(x: Array) -> Array:
    t = BIGGS_T
    e0, e1, e4 = np.exp(-t * x[0]), np.exp(-t * x[1]), np.exp(-t * x[4])
    return np.stack([-t * x[2] * e0, t * x[3] * e1, e0, -e1, -t * x[5] * e4, e4], axis=1)


# ---- 3 Gaussian -----------------------------------------------------------------------------------------------------------

GAUSSIAN_HALF = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521]
GAUSSIAN_Y = np.array([*GAUSSIAN_HALF, 0.3989, *GAUSSIAN_HALF[::-1]])
GAUSSIAN_T = (8 - np.arange(1, 16)) / 2


def gaussian_residuals(x: Array) -> Array:
    return x[0] * np.exp(-x[1] * (GAUSSIAN_T - x[2]) ** 2 / 2) - GAUSSIAN_Y


def gaussian_jacobian(x: Array) -> Array:
    d = GAUSSIAN_T - x[2]
    e = np.exp(-x[1] * d**2 / 2)
    return np.stack([e, -x[0] * e * d**2 / 2, x[0] * e * x[1] * d], axis=1)


# ---- 4 Powell badly scaled ------------------------------------------------------------------------------------------------


def powell_badly_scaled_residuals(x: Array) -> Array:
    return np.array([1e4 * x[0] * x[1] - 1, np.exp(-x[0]) + np.exp(-x[1]) - 1.0001])


def powell_badly_scaled_jacobian(x: Array) -> Array:
    return np.array([[1e4 * x[1], 1e4 * x[0]], [-np.exp(-x[0]), -np.exp(-x[1])]])


# ---- 5 Box three-dimensional ----------------------------------------------------------------------------------------------

BOX_T = 0.1 * np.arange(1, 11)


def box_residuals(x: Array) -> Array:
    t = BOX_T
    return np.exp(-t * x[0]) - np.exp(-t * x[1]) - x[2] * (np.exp(-t) - np.exp(-10 * t))


def box_jacobian(x: Array) -> Array:
    t = BOX_T
    return np.stack([-t * np.exp(-t * x[0]), t * np.exp(-t * x[1]), np.exp(-10 * t) - np.exp(-t)], axis=1)


# ---- 6 variably dimensioned -----------------------------------------------------------------------------------------------


def variably_dimensioned_residuals(x: Array) -> Array:
    total = np.arange(1, x.size + 1) @ (x - 1)
    return np.array([*(x - 1), total, total**2])


def variably_dimensioned_jacobian(x: Array) -> Array:
    j = np.arange(1.0, x.size + 1)
    return np.vstack([np.eye(x.size), j, 2 * (j @ (x - 1)) * j])


# ---- 7 Watson -------------------------------------------------------------------------------------------------------------

WATSON_T = np.arange(1, 30) / 29


def watson_residuals(x: Array) -> Array:
    powers, slopes = watson_powers(x.size)
    return np.array([*(slopes @ x - (powers @ x) ** 2 - 1), x[0], x[1] - x[0] ** 2 - 1])


def watson_powers(n: int) -> tuple[Array, Array]:
    """Return t^(j-1) and its derivative (j-1) t^(j-2), for j = 1 ... n."""
    powers = WATSON_T[:, None] ** np.arange(n)
    slopes = np.zeros_like(powers)
    slopes[:, 1:] = np.arange(1, n) * powers[:, :-1]
    return powers, slopes


def watson_jacobian(x: Array) -> Array:
    powers, slopes = watson_powers(x.size)
    last = np.zeros((2, x.size))
    last[0, 0] = 1
    last[1, :2] = -2 * x[0], 1
    return np.vstack([slopes - 2 * (powers @ x)[:, None] * powers, last])


# ---- 8 penalty I, 9 penalty II --------------------------------------------------------------------------------------------

ROOT_A = np.sqrt(1e-5)


def penalty_1_residuals(x: Array) -> Array:
    return np.array([*(ROOT_A * (x - 1)), x @ x - 0.25])


def penalty_1_jacobian(x: Array) -> Array:
    return np.vstack([ROOT_A * np.eye(x.size), 2 * x])


def penalty_2_residuals(x: Array) -> Array:
    n = x.size
    i = np.arange(2, n + 1)
    y = np.exp(i / 10) + np.exp((i - 1) / 10)
    e = np.exp(x / 10)
    return np.array(
        [
            x[0] - 0.2,
            *(ROOT_A * (e[1:] + e[:-1] - y)),
            *(ROOT_A * (e[1:] - np.exp(-0.1))),
            np.arange(n, 0, -1) @ x**2 - 1,
        ]
    )


def penalty_2_jacobian(x: Array) -> Array:
    n = x.size
    slopes = np.diag(ROOT_A * np.exp(x / 10) / 10)
    return np.vstack([np.eye(n)[:1], slopes[1:] + slopes[:-1], slopes[1:], 2 * np.arange(n, 0, -1) * x])


# ---- 10 Brown badly scaled ------------------------------------------------------------------------------------------------


def brown_badly_scaled_residuals(x: Array) -> Array:
    return np.array([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def brown_badly_scaled_jacobian(x: Array) -> Array:
    return np.array([[1.0, 0.0], [0.0, 1.0], [x[1], x[0]]])


# ---- 11 Brown and Dennis --------------------------------------------------------------------------------------------------

BROWN_DENNIS_T = np.arange(1, 21) / 5


def brown_and_dennis_residuals(x: Array) -> Array:
    t = BROWN_DENNIS_T
    return (x[0] + t * x[1] - np.exp(t)) ** 2 + (x[2] + x[3] * np.sin(t) - np.cos(t)) ** 2


def brown_and_dennis_jacobian(x: Array) -> Array:
    t = BROWN_DENNIS_T
    a, b = 2 * (x[0] + t * x[1] - np.exp(t)), 2 * (x[2] + x[3] * np.sin(t) - np.cos(t))
    return np.stack([a, a * t, b, b * np.sin(t)], axis=1)


# ---- 12 Gulf research and development -------------------------------------------------------------------------------------

GULF_T = np.arange(1, 100) / 100
GULF_Y = 25 + (-50 * np.log(GULF_T)) ** (2 / 3)


def gulf_residuals(x: Array) -> Array:
    distance = np.sqrt((GULF_Y - x[1]) ** 2)  # |y - x2|, analytic
    return np.exp(-(distance ** x[2]) / x[0]) - GULF_T


def gulf_jacobian(x: Array) -> Array:
    difference = GULF_Y - x[1]
    distance = np.maximum(np.abs(difference), np.finfo(float).tiny)
    power = distance ** x[2] / x[0]
    slope = -power * np.exp(-power)  # dr / d log(power)
    return np.stack([-slope / x[0], -slope * x[2] * np.sign(difference) / distance, slope * np.log(distance)], axis=1)


# ---- 13 trigonometric -----------------------------------------------------------------------------------------------------


def trigonometric_residuals(x: Array) -> Array:
    i = np.arange(1, x.size + 1)
    return x.size - np.sum(np.cos(x)) + i * (1 - np.cos(x)) - np.sin(x)


def trigonometric_jacobian(x: Array) -> Array:
    i = np.arange(1, x.size + 1)
    return np.tile(np.sin(x), (x.size, 1)) + np.diag(i * np.sin(x) - np.cos(x))


# ---- 14 extended Rosenbrock, 15 extended Powell singular ------------------------------------------------------------------


def extended_rosenbrock_residuals(x: Array) -> Array:
    odd, even = x[0::2], x[1::2]
    return np.stack([10 * (even - odd**2), 1 - odd], axis=1).ravel()


def extended_rosenbrock_jacobian(x: Array) -> Array:
    J = np.zeros((x.size, x.size))
    i = np.arange(0, x.size, 2)
    J[i, i], J[i, i + 1], J[i + 1, i] = -20 * x[i], 10, -1
    return J


def extended_powell_residuals(x: Array) -> Array:
    a, b, c, d = x[0::4], x[1::4], x[2::4], x[3::4]
    blocks = [a + 10 * b, np.sqrt(5) * (c - d), (b - 2 * c) ** 2, np.sqrt(10) * (a - d) ** 2]
    return np.stack(blocks, axis=1).ravel()


def extended_powell_jacobian(x: Array) -> Array:
    J = np.zeros((x.size, x.size))
    i = np.arange(0, x.size, 4)
    inner, outer = 2 * (x[i + 1] - 2 * x[i + 2]), 2 * np.sqrt(10) * (x[i] - x[i + 3])
    J[i, i], J[i, i + 1] = 1, 10
    J[i + 1, i + 2], J[i + 1, i + 3] = np.sqrt(5), -np.sqrt(5)
    J[i + 2, i + 1], J[i + 2, i + 2] = inner, -2 * inner
    J[i + 3, i], J[i + 3, i + 3] = outer, -outer
    return J


# ---- 16 Beale -------------------------------------------------------------------------------------------------------------

BEALE_I = np.arange(1, 4)
BEALE_Y = np.array([1.5, 2.25, 2.625])


def beale_residuals(x: Array) -> Array:
    return BEALE_Y - x[0] * (1 - x[1] ** BEALE_I)


def beale_jacobian(x: Array) -> Array:
    return np.stack([x[1] ** BEALE_I - 1, x[0] * BEALE_I * x[1] ** (BEALE_I - 1)], axis=1)


# ---- 17 Wood --------------------------------------------------------------------------------------------------------------


def wood_residuals(x: Array) -> Array:
    a, b, c, d = x
    root90, root10 = np.sqrt(90), np.sqrt(10)
    return np.array([10 * (b - a**2), 1 - a, root90 * (d - c**2), 1 - c, root10 * (b + d - 2), (b - d) / root10])


def wood_jacobian(x: Array) -> Array:
    a, _, c, _ = x
    root90, root10 = np.sqrt(90), np.sqrt(10)
    return np.array(
        [
            [-20 * a, 10.0, 0.0, 0.0],
            [-1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, -2 * root90 * c, root90],
            [0.0, 0.0, -1.0, 0.0],
            [0.0, root10, 0.0, root10],
            [0.0, 1 / root10, 0.0, -1 / root10],
        ]
    )


# ---- 18 Chebyquad ---------------------------------------------------------------------------------------------------------


def chebyquad_residuals(x: Array) -> Array:
    i = np.arange(1, x.size + 1)
    integrals = np.where(i % 2 == 0, -1.0 / np.where(i == 1, np.inf, i**2 - 1.0), 0.0)  # of T_i over [0, 1]
    return np.mean(chebyshev(x)[0], axis=1) - integrals


def chebyshev(x: Array) -> tuple[Array, Array]:
    """Return T_i(2 x_j - 1) and its derivative in x_j, i along the rows."""
    u = 2 * x - 1
    values, slopes = [np.ones_like(x), u], [np.zeros_like(x), np.full_like(x, 2)]
    for _ in range(1, x.size):
        values.append(2 * u * values[-1] - values[-2])
        slopes.append(4 * values[-2] + 2 * u * slopes[-1] - slopes[-2])
    return np.stack(values[1:]), np.stack(slopes[1:])


def chebyquad_jacobian(x: Array) -> Array:
    return chebyshev(x)[1] / x.size


# ---- the problems ---------------------------------------------------------------------------------------------------------


def point(*values: float) -> Array:
    return np.array(values, np.float64)


# Problems of variable size have a size for which section 3 of the paper gives the minimum to six digits, where it is not 0.
PROBLEMS = [
    Problem(
        "helical valley", helical_valley_residuals, helical_valley_jacobian, point(-1, 0, 0), (0.0,), point(1, 0, 0)
    ),
    Problem(
        "biggs exp6",
        biggs_exp6_residuals,
        biggs_exp6_jacobian,
        point(1, 2, 1, 1, 1, 1),
        (0.0, 5.65565e-3),
        point(1, 10, 1, 5, 4, 3),
    ),
    Problem("gaussian", gaussian_residuals, gaussian_jacobian, point(0.4, 1, 0), (1.12793e-8,)),
    Problem(
        "powell badly scaled",
        powell_badly_scaled_residuals,
        powell_badly_scaled_jacobian,
        point(0, 1),
        (0.0,),
        point(1.0981593296998e-5, 9.1061467398665),
    ),
    Problem("box 3-d", box_residuals, box_jacobian, point(0, 10, 20), (0.0,), point(1, 10, 1)),
    Problem(
        "variably dimensioned",
        variably_dimensioned_residuals,
        variably_dimensioned_jacobian,
        1 - np.arange(1, 11) / 10,
        (0.0,),
        np.ones(10),
    ),
    Problem("watson", watson_residuals, watson_jacobian, np.zeros(9), (1.39976e-6,)),
    Problem("penalty 1", penalty_1_residuals, penalty_1_jacobian, np.arange(1.0, 11), (7.08765e-5,)),
    Problem("penalty 2", penalty_2_residuals, penalty_2_jacobian, np.full(10, 0.5), (2.93660e-4,)),
    Problem(
        "brown badly scaled",
        brown_badly_scaled_residuals,
        brown_badly_scaled_jacobian,
        point(1, 1),
        (0.0,),
        point(1e6, 2e-6),
    ),
    Problem(
        "brown and dennis", brown_and_dennis_residuals, brown_and_dennis_jacobian, point(25, 5, -5, -1), (85822.2,)
    ),
    Problem("gulf", gulf_residuals, gulf_jacobian, point(5, 2.5, 0.15), (0.0,), point(50, 25, 1.5)),
    Problem(
        "trigonometric",
        trigonometric_residuals,
        trigonometric_jacobian,
        np.full(10, 0.1),
        (0.0, 2.79506e-5),
        np.zeros(10),
    ),
    Problem(
        "extended rosenbrock",
        extended_rosenbrock_residuals,
        extended_rosenbrock_jacobian,
        np.tile(point(-1.2, 1), 5),
        (0.0,),
        np.ones(10),
    ),
    Problem(
        "extended powell",
        extended_powell_residuals,
        extended_powell_jacobian,
        np.tile(point(3, -1, 0, 1), 3),
        (0.0,),
        np.zeros(12),
    ),
    Problem("beale", beale_residuals, beale_jacobian, point(1, 1), (0.0,), point(3, 0.5)),
    Problem("wood", wood_residuals, wood_jacobian, point(-3, -1, -3, -1), (0.0,), np.ones(4)),
    Problem("chebyquad", chebyquad_residuals, chebyquad_jacobian, np.arange(1, 9) / 9, (3.51687e-3,)),
]

BY_NAME = {problem.name: problem for problem in PROBLEMS}
