"""What is stepped: the shapes of a workload and where its arrays lie."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.memory import bfloat16_dtype

LINE = 64
FLOAT32, FLOAT64, FLOAT16 = map(np.dtype, (np.float32, np.float64, np.float16))

Shape = tuple[int, ...]
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """A list of tensors.

    Attributes
    ----------
    name, title
        How it is called on the command line and in tables.
    shapes
        One shape per tensor.
    calls
        The most calls in a block.
    offset
        Bytes past a cache line at which the caller's arrays start; None leaves them where NumPy puts them.
    roofline
        Whether its roofline is a bound worth showing; for a few elements only the overhead is.
    in_cache
        Whether its arrays stay in cache: then divisions and roots are part of the roofline.
    clip
        Whether the cost of clipping is measured.
    dtype
        Of parameters and gradients; where it has 16 bits, of the state too.
    """

    name: str
    title: str
    shapes: tuple[Shape, ...]
    calls: int
    offset: int | None = None
    roofline: bool = True
    in_cache: bool = False
    clip: bool = False
    dtype: np.dtype[Any] = FLOAT32

    @property
    def elements(self) -> int:
        """Return the elements of all tensors."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def narrow(self) -> bool:
        """Return whether its numbers have 16 bits."""
        return self.dtype.itemsize == 2

    @property
    def nbytes(self) -> int:
        """Return the bytes of all parameters, which are those of all gradients."""
        return self.elements * self.dtype.itemsize

    def arrays(self, fill: Callable[[Shape], Array]) -> list[Array]:
        """Return one array per tensor with the values of `fill(shape)`."""
        return [_placed(fill(shape), self.offset) for shape in self.shapes]


def workloads(quick: bool = False) -> dict[str, Workload]:
    """Return the workloads by name; `quick` shrinks them for a run that only shows that the benchmark works."""
    large = (500, 800) if quick else (5000, 4000)
    repeats = 10 if quick else 100
    counts = (1, 50) if quick else (1, 10, 200, 1000)
    title = f"one array of {math.prod(large) / 1e6:g} million elements"
    cached = "one array of 100,000 elements"
    calls = 5 if quick else 50
    dtypes = [FLOAT64, FLOAT16]
    if importlib.util.find_spec("ml_dtypes"):
        dtypes.append(bfloat16_dtype("bench"))
    listed = [
        Workload("large", title, (large,), calls=1, offset=0, clip=True),
        Workload("large-offset", f"{title}, 16 bytes off a cache line", (large,), calls=1, offset=16),
        *(
            Workload(f"large-{dtype}", f"{title}, {dtype}", (large,), calls=1, offset=0, dtype=dtype)
            for dtype in dtypes
        ),
        Workload("resnet18", "ResNet-18-like network", resnet18(8 if quick else 64), calls, clip=True),
        Workload("small", f"{2 * repeats} small tensors", ((64, 64), (64,)) * repeats, calls, in_cache=True, clip=True),
        Workload("cache", cached, ((100_000,),), calls, offset=0, in_cache=True, clip=True),
        Workload("cache-float64", f"{cached}, float64", ((100_000,),), calls, offset=0, in_cache=True, dtype=FLOAT64),
        *(Workload(f"tiny-{n}", f"{n} x 10 elements", ((10,),) * n, calls, roofline=False) for n in counts),
    ]
    return {workload.name: workload for workload in listed}


def resnet18(width: int = 64) -> tuple[Shape, ...]:
    """Return the 53 shapes of a ResNet-18-like network (convolutions, norms, a dense layer): 11.5 M elements."""
    shapes: list[Shape] = []

    def convolution(out: int, into: int, side: int) -> None:
        shapes.extend([(out, into, side, side), (out,), (out,)])

    convolution(width, 3, 7)
    into = width
    for stage in range(4):
        out = width << stage
        for layer in range(4):
            convolution(out, into if layer == 0 else out, 3)
        into = out
    shapes.extend([(1000, into), (1000,)])
    return tuple(shapes)


def _placed(values: Array, offset: int | None) -> Array:
    if offset is None:
        return values
    room = np.empty(values.nbytes + 2 * LINE, np.uint8)
    first = -room.ctypes.data % LINE + offset
    placed = room[first : first + values.nbytes].view(values.dtype).reshape(values.shape)
    placed[...] = values
    return placed
