"""Schedules: hyper-parameters as pure functions of the number of steps already done, which starts at 0.

Any callable is a schedule, of any hyper-parameter. Those here check their arguments, compare and pickle by value, print as
what makes them again, and draw themselves: `schedule.plot(steps=None, ax=None)`. `Plateau` alone has a state.
"""

from __future__ import annotations

from schuss.schedules._combine import chain, clamp, function, join, scale
from schuss.schedules._cycles import cosine_restarts, cyclic, interpolate, one_cycle
from schuss.schedules._decay import (
    constant,
    exponential,
    geometric,
    inverse_time,
    linear,
    multistep,
    piecewise,
    polynomial,
    rex,
    step,
    tanh,
)
from schuss.schedules._plateau import Plateau
from schuss.schedules._warmup import batch_size, cosine, inverse_sqrt, warmup, wsd

__all__ = [
    "Plateau",
    "batch_size",
    "chain",
    "clamp",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential",
    "function",
    "geometric",
    "interpolate",
    "inverse_sqrt",
    "inverse_time",
    "join",
    "linear",
    "multistep",
    "one_cycle",
    "piecewise",
    "polynomial",
    "rex",
    "scale",
    "step",
    "tanh",
    "warmup",
    "wsd",
]
