"""What cannot be used is refused in one sentence, word for word, and nothing is changed by it."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from support import CLASSES, everything, inputs_for, snapshot

import schuss
from schuss.hyperparameters import Domain

Optimizer = schuss.Optimizer
Refusal = tuple[type[Exception], str]

each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
SPANNING = [cls for cls in CLASSES if cls.kind == "global"]
TAKING_INPUTS = [cls for cls in CLASSES if cls(np.zeros(1))._kernel()["inputs"]]


def whole(optimizer: Optimizer) -> object:
    """Return all that a refusal must leave alone."""
    return snapshot(optimizer), [dict(group) for group in optimizer.groups], optimizer.last


@contextlib.contextmanager
def refuses(refusal: Refusal, *optimizers: Optimizer) -> Iterator[None]:
    """Expect exactly this error of the block, and the optimizers as they were."""
    error, sentence = refusal
    before = [whole(each) for each in optimizers]
    with pytest.raises(error) as caught:
        yield
    assert (type(caught.value), str(caught.value)) == (error, sentence)
    assert [whole(each) for each in optimizers] == before


def step(optimizer: Optimizer, grads: Any) -> None:
    """Step, with inputs where the rule asks for them."""
    optimizer.step(grads, **good_inputs(optimizer))


def good_inputs(optimizer: Optimizer) -> dict[str, Any]:
    return inputs_for(optimizer, optimizer.params, np.random.default_rng(1))


def used(cls: type[Optimizer], **options: Any) -> Optimizer:
    """Return an optimizer of several tensors that has done a step."""
    optimizer = cls({"w": np.full((3, 1), 0.5, np.float32), "b": [np.array(2.0), np.arange(1.0, 4.0)]}, **options)
    step(optimizer, good_gradients())
    return optimizer


def good_gradients() -> dict[str, Any]:
    return {"w": np.full((3, 1), 0.25, np.float32), "b": [np.array(1.0), np.array([1.0, -2.0, 0.5])]}


def with_leaf(grad: Any) -> dict[str, Any]:
    """Return good gradients but for the last, which belongs to a parameter of shape (3,)."""
    return good_gradients() | {"b": [np.array(1.0), grad]}


# ---- arrays that are neither parameters nor gradients

SUPPORTED = "pass float64, float32, float16, bfloat16, complex128 or complex64"
DTYPES = {
    "bool": "bool",
    "uint8": "uint8",
    "int32": "int32",
    "int64": "int64",
    "object": "object",
    "<U1": "<U1",
    "|S3": "|S3",
    "|V2": "|V2",  # as wide as bfloat16, and as NumPy describes it
    "datetime64[s]": "datetime64[s]",
    "float4,float4": "[('f0', '<f4'), ('f1', '<f4')]",
    "longdouble": str(np.dtype(np.longdouble)),
    "clongdouble": str(np.dtype(np.clongdouble)),
    "float8": "float8_e4m3fn",
}


class Foreign:
    """An array of another library, which NumPy could convert."""

    shape, dtype, ndim = (3,), np.dtype(np.float64), 1

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.ones(3, dtype)


def of_dtype(name: str) -> np.ndarray:
    special = {"float8": ml_dtypes.float8_e4m3fn, "float4,float4": "f4,f4"}
    return np.zeros(3, special.get(name, name))


UNUSABLE: dict[str, tuple[Callable[[], Any], Refusal]] = {
    name: (
        lambda name=name: of_dtype(name),
        (TypeError, f"has dtype {shown}, which cannot be stepped; {SUPPORTED}"),
    )
    for name, shown in DTYPES.items()
} | {
    "uint16": (
        lambda: np.zeros(3, np.uint16),
        (
            TypeError,
            'has dtype uint16, which cannot be stepped; say dtype="bfloat16" if these are the bits of bfloat16',
        ),
    ),
    ">f8": (
        lambda: np.ones(3, ">f8"),
        (TypeError, "has dtype >f8, which is not in this machine's byte order; pass it as .astype(float64)"),
    ),
    ">c8": (
        lambda: np.ones(3, ">c8"),
        (TypeError, "has dtype >c8, which is not in this machine's byte order; pass it as .astype(complex64)"),
    ),
    "masked": (
        lambda: np.ma.masked_array(np.ones(3), [False, True, False]),
        (TypeError, "is a masked array, and its mask would be ignored; pass its .data"),
    ),
    "foreign": (Foreign, (TypeError, "is a Foreign, not a NumPy array; pass numpy.asarray of it")),
    "float": (lambda: 1.0, (TypeError, "is a float, not a NumPy array; pass numpy.asarray of it")),
    "str": (lambda: "w", (TypeError, "is a str, not a NumPy array; pass numpy.asarray of it")),
    "NumPy scalar": (
        lambda: np.float64(1),
        (TypeError, "is a numpy.float64, not a NumPy array; pass numpy.asarray of it"),
    ),
    "generator": (
        lambda: (x for x in [np.ones(3)]),
        (TypeError, "is a generator, not a NumPy array; pass numpy.asarray of it"),
    ),
}


def at(optimizer: type[Optimizer], place: str, refusal: Refusal) -> Refusal:
    """Return the refusal with who and which in front."""
    return refusal[0], f"{optimizer.__name__}: {place} {refusal[1]}"


@each_class
@pytest.mark.parametrize("fault", UNUSABLE)
def test_unusable_parameters_and_gradients(cls: type[Optimizer], fault: str) -> None:
    make, refusal = UNUSABLE[fault]
    good = [np.ones((2, 2), np.float32), np.array(2.0)]
    with refuses(at(cls, "params['b'][1]", refusal)):
        cls({"w": good[0], "b": [good[1], make()]})
    assert [array.tobytes() for array in good] == [np.ones((2, 2), np.float32).tobytes(), np.array(2.0).tobytes()]

    optimizer = used(cls)
    with refuses(at(cls, "grads['b'][1]", refusal), optimizer):
        step(optimizer, with_leaf(make()))
    step(optimizer, good_gradients())
    assert optimizer.t == 2


# ---- parameters that cannot be updated in place


def read_only() -> np.ndarray:
    array = np.ones(3)
    array.flags.writeable = False
    return array


def strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> Refusal:
    what = f"is a strided view (shape {shape}, strides {strides})"
    return BufferError, f"{what} and cannot be updated in place; pass a contiguous array"


FROZEN = BufferError, "is read-only and cannot be updated in place; pass a writeable array"
IMMOVABLE: dict[str, tuple[Callable[[], Any], Refusal]] = {
    "every second": (lambda: np.ones(6)[::2], strided((3,), (16,))),
    "columns": (lambda: np.ones((4, 10))[:, ::2], strided((4, 5), (80, 16))),
    "reversed": (lambda: np.ones(3)[::-1], strided((3,), (-8,))),
    "broadcast": (lambda: np.broadcast_to(1.0, (3,)), strided((3,), (0,))),
    "one element for all": (lambda: as_strided(np.ones(1), (3,), (0,)), strided((3,), (0,))),
    "read-only": (read_only, FROZEN),
    "of bytes": (lambda: np.frombuffer(bytes(24)), FROZEN),
    "misaligned": (
        lambda: np.zeros(25, np.uint8)[1:].view(np.float64),
        (BufferError, "is not aligned to its item size; pass an aligned array (a copy is)"),
    ),
}


@each_class
@pytest.mark.parametrize("fault", IMMOVABLE)
def test_parameters_that_cannot_be_updated_in_place(cls: type[Optimizer], fault: str) -> None:
    make, refusal = IMMOVABLE[fault]
    with refuses(at(cls, "params[1]", refusal)):
        cls([np.ones(2), make()])
    with refuses(at(cls, "params", refusal)):
        cls(make())


@each_class
def test_overlapping_parameters(cls: type[Optimizer]) -> None:
    flat = np.ones(10)
    for shared in (flat, flat[4:], flat[4:6], flat[4:6].view(np.float32), flat.reshape(2, 5)):
        with refuses(
            (ValueError, f"{cls.__name__}: params['a'] and params['c'] share memory; pass arrays that do not overlap")
        ):
            cls({"a": flat[:5], "b": np.ones(3), "c": shared})
    neighbours = cls([flat[5:], flat[:5], flat[5:5]])
    step(neighbours, [np.ones(5), np.ones(5), np.ones(0)])


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls(np.ones(1))._kernel()["scope"] == "row"])
def test_rows_must_lie_side_by_side(cls: type[Optimizer]) -> None:
    why = "is in Fortran order, but its rows must lie side by side; pass a C-contiguous array"
    with refuses(at(cls, "params[0]", (BufferError, why))):
        cls([np.ones((3, 2), order="F")])
    cls(np.ones((3, 1), order="F"))


@each_class
def test_no_parameters(cls: type[Optimizer]) -> None:
    name = cls.__name__
    for nothing in ([], (), {}, [[], {}]):
        with refuses((ValueError, f"{name}: params holds no array; pass at least one")):
            cls(nothing)
    with refuses((ValueError, f"{name}: params[1] holds no array; pass at least one")):
        cls([schuss.Group([np.ones(2)]), schuss.Group([])])
    with refuses((TypeError, f"{name}: params[1] is a NoneType, not a NumPy array; pass numpy.asarray of it")):
        cls([np.ones(2), None])


# ---- gradients that do not fit


@each_class
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2,), (4,), (3, 1), (1, 3), (3, 0), (3, 3)])
def test_gradients_are_never_broadcast(cls: type[Optimizer], shape: tuple[int, ...]) -> None:
    optimizer = used(cls)
    why = f"has shape {shape}, but its parameter has shape (3,)"
    with refuses(at(cls, "grads['b'][1]", (ValueError, why)), optimizer):
        step(optimizer, with_leaf(np.ones(shape)))


def test_the_shape_of_a_column_and_of_a_scalar() -> None:
    optimizer = schuss.Adam({"head.bias": np.zeros((3, 1)), "scale": np.array(1.0)})
    sentence = "Adam: grads['head.bias'] has shape (3,), but its parameter has shape (3, 1)"
    with refuses((ValueError, sentence), optimizer):
        optimizer.step({"head.bias": np.zeros(3), "scale": np.array(1.0)})
    with refuses((ValueError, "Adam: grads['scale'] has shape (1,), but its parameter has shape ()"), optimizer):
        optimizer.step({"head.bias": np.zeros((3, 1)), "scale": np.ones(1)})
    sentence = "Adam: grads['scale'] is a float, not a NumPy array; pass numpy.asarray of it"
    with refuses((TypeError, sentence), optimizer):
        optimizer.step({"head.bias": np.zeros((3, 1)), "scale": 1.0})


def test_complex_against_real() -> None:
    real, pairs = schuss.SGD([np.ones(3)]), schuss.SGD([np.ones(3, np.complex64)])
    sentence = "SGD: grads[0] has dtype {}, but its parameter has dtype {}; both must be real or both complex"
    with refuses((TypeError, sentence.format("complex128", "float64")), real):
        real.step([np.ones(3, np.complex128)])
    with refuses((TypeError, sentence.format("float32", "complex64")), pairs):
        pairs.step([np.ones(3, np.float32)])


ONE, THREE, COLUMN = np.array(1.0), np.ones(3), np.ones((3, 1))
NESTINGS: dict[str, tuple[Any, Refusal]] = {
    "array for a dict": (
        THREE,
        (TypeError, "grads is a numpy.ndarray, but params has a dict there; pass the same nesting as params"),
    ),
    "list for a dict": (
        [COLUMN, [ONE, THREE]],
        (TypeError, "grads is a list, but params has a dict there; pass the same nesting as params"),
    ),
    "dict for a list": (
        {"w": COLUMN, "b": {0: ONE, 1: THREE}},
        (TypeError, "grads['b'] is a dict, but params has a list or tuple there; pass the same nesting as params"),
    ),
    "array for a list": (
        {"w": COLUMN, "b": THREE},
        (
            TypeError,
            "grads['b'] is a numpy.ndarray, but params has a list or tuple there; pass the same nesting as params",
        ),
    ),
    "list for an array": (
        {"w": [COLUMN], "b": [ONE, THREE]},
        (TypeError, "grads['w'] is a list, not a NumPy array; pass numpy.asarray of it"),
    ),
    "dict for an array": (
        {"w": COLUMN, "b": [ONE, {"b": THREE}]},
        (TypeError, "grads['b'][1] is a dict, not a NumPy array; pass numpy.asarray of it"),
    ),
    "generator for a list": (
        {"w": COLUMN, "b": (x for x in (ONE, THREE))},
        (
            TypeError,
            "grads['b'] is a generator, but params has a list or tuple there; pass the same nesting as params",
        ),
    ),
    "too few": (
        {"w": COLUMN, "b": [ONE]},
        (ValueError, "grads['b'] has 1 entry, but params has 2 there; pass None to skip a tensor"),
    ),
    "none": (
        {"w": COLUMN, "b": []},
        (ValueError, "grads['b'] has 0 entries, but params has 2 there; pass None to skip a tensor"),
    ),
    "too many": (
        {"w": COLUMN, "b": [ONE, THREE, THREE]},
        (ValueError, "grads['b'] has 3 entries, but params has 2 there; pass None to skip a tensor"),
    ),
    "missing key": ({"w": COLUMN}, (ValueError, "grads has no entry 'b'; pass None to skip a tensor")),
    "misspelt key": (
        {"W": COLUMN, "b": [ONE, THREE]},
        (ValueError, "grads has no entry 'w'; pass None to skip a tensor"),
    ),
    "unknown key": (
        {"w": COLUMN, "b": [ONE, THREE], "head.bias": THREE},
        (ValueError, "grads['head.bias'] names no parameter; leave it out"),
    ),
}


@each_class
@pytest.mark.parametrize("fault", NESTINGS)
def test_gradients_of_another_nesting(cls: type[Optimizer], fault: str) -> None:
    grads, refusal = NESTINGS[fault]
    optimizer = used(cls)
    error, sentence = refusal
    with refuses((error, f"{cls.__name__}: {sentence}"), optimizer):
        step(optimizer, grads)


@each_class
def test_gradients_over_parameters_or_state(cls: type[Optimizer]) -> None:
    """Whatever a step writes is no gradient of the same step, not even in part or as another tensor's."""
    refusal = at(
        cls, "grads[1]", (ValueError, "shares memory with a parameter or its state; pass a copy of the gradient")
    )
    memory = np.ones(10)
    optimizer = cls([memory[:4], np.array(1.0), np.ones((2, 2))])
    written = [array for array in everything(optimizer) if array.dtype == np.float64 and array.size]
    assert len(written) >= 3
    for array in written:
        grads = [np.ones(4), array.reshape(-1)[-1:].reshape(()), np.ones((2, 2))]
        assert np.shares_memory(grads[1], array)
        with refuses(refusal, optimizer):
            step(optimizer, grads)
    overlapping = cls([np.ones(2), memory[:4]])
    for view in (memory[:4], memory[3:7], memory[3::-1], as_strided(memory[2:], (4,), (0,))):
        with refuses(refusal, overlapping):
            step(overlapping, [np.ones(2), view])
    step(overlapping, [np.ones(2), memory[4:8]])


# ---- parameters changed behind the optimizer's back


def retyped(array: np.ndarray, dtype: Any) -> None:
    array.dtype = np.dtype(dtype)


def reshaped(array: np.ndarray) -> None:
    array.shape = (2, 3)


TAMPERED: dict[str, Callable[[np.ndarray], None]] = {
    "smaller": lambda array: array.resize(3, refcheck=False),
    "larger": lambda array: array.resize(100_000, refcheck=False),
    "whole numbers": lambda array: retyped(array, np.int64),
    "half as wide": lambda array: retyped(array, np.float32),
    "reshaped": reshaped,
}
MOVED = BufferError, "was moved, resized or retyped since the optimizer was made; call rebind(params)"


@each_class
@pytest.mark.parametrize("tampering", TAMPERED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of assigning shapes and dtypes
def test_parameters_changed_between_steps(cls: type[Optimizer], tampering: str) -> None:
    optimizer = cls([np.ones(5), np.ones(6)])
    grads = [np.ones(5), np.ones(6)]
    inputs = good_inputs(optimizer)
    optimizer.step(grads, **inputs)
    TAMPERED[tampering](optimizer.params[1])
    tampered = optimizer.params[1]
    for wanted in (grads, [np.ones(5), None], [np.ones(5), np.ones(tampered.shape)]):
        with refuses(at(cls, "params[1]", MOVED), optimizer):
            optimizer.step(wanted, **inputs)
    with refuses(at(cls, "params[1]", MOVED), optimizer):
        optimizer.reset()
    # The state is of the old shape: the memory behind it must not be stepped.
    got = f"was float64 (6,), got {tampered.dtype} {tampered.shape}; pass the same kind of array"
    with refuses(at(cls, "params[1]", (ValueError, got)), optimizer):
        optimizer.rebind(optimizer.params)
    optimizer.rebind([np.ones(5), np.ones(6)])
    optimizer.step(grads, **inputs)
    assert optimizer.t == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_groups_changed_between_steps() -> None:
    optimizer = schuss.Adam([schuss.Group(np.ones(6))])
    reshaped(optimizer.params[0])
    with refuses(at(schuss.Adam, "params[0]", MOVED), optimizer):
        optimizer.add(schuss.Group(np.ones(3)))


@each_class
def test_parameters_frozen_between_steps(cls: type[Optimizer]) -> None:
    optimizer = used(cls)
    optimizer.params["b"][1].flags.writeable = False
    frozen = BufferError, "has become read-only; make it writeable again"
    for grads in (good_gradients(), with_leaf(None)):
        with refuses(at(cls, "params['b'][1]", frozen), optimizer):
            step(optimizer, grads)
    optimizer.params["b"][1].flags.writeable = True
    step(optimizer, good_gradients())
    assert optimizer.t == 2


def test_freed_memory_is_not_touched() -> None:
    """The memory of a parameter that was resized belongs to others: a step must not write there."""
    array = np.ones(50_000)
    optimizer = schuss.SGD(array, lr=1.0)
    array.resize(1, refcheck=False)
    others = [np.ones(50_000) for _ in range(8)]
    with refuses(at(schuss.SGD, "params", MOVED), optimizer):
        optimizer.step(np.ones(50_000))
    assert all((other == 1).all() for other in others)


@each_class
def test_rebinding_to_other_arrays(cls: type[Optimizer]) -> None:
    name = cls.__name__
    optimizer = used(cls)
    w, b = np.ones((3, 1), np.float32), np.array(1.0)
    nesting = ValueError, "params must have the nesting they had; make a new optimizer for another one"
    other = "params['b'][1] was float64 (3,), got {}; pass the same kind of array"
    faults: list[tuple[Any, Refusal]] = [
        ([w, [b, np.ones(3)]], nesting),
        ({"w": w, "b": [b]}, nesting),
        ({"w": w, "b": [b, np.ones(4)]}, (ValueError, other.format("float64 (4,)"))),
        ({"w": w, "b": [b, np.ones(3, np.float32)]}, (ValueError, other.format("float32 (3,)"))),
        ({"w": w, "b": [b, 1.0]}, (ValueError, other.format("float"))),
    ]
    for fault in ("read-only", "every second"):
        make, (error, sentence) = IMMOVABLE[fault]
        faults.append(({"w": w, "b": [b, make()]}, (error, f"params['b'][1] {sentence}")))
    for params, (error, sentence) in faults:
        with refuses((error, f"{name}: {sentence}"), optimizer):
            optimizer.rebind(params)
        step(optimizer, good_gradients())
    matrix = cls(np.ones((2, 3)))
    with refuses(
        (ValueError, f"{name}: params has another memory order than before; pass it in the same order"), matrix
    ):
        matrix.rebind(np.ones((2, 3), order="F"))


# ---- hyper-parameters


def outside(domain: Domain) -> list[float]:
    """Return numbers that a range does not hold."""
    candidates = [math.nan, -math.inf, domain.lower - 1, domain.lower, domain.upper, domain.upper + 1, math.inf]
    return [
        value
        for value in dict.fromkeys(candidates)
        if not domain.lower < value < domain.upper
        and ((value != domain.lower or domain.lower_open) and (value != domain.upper or domain.upper_open))
    ]


SCALARS = [(cls, name) for cls in CLASSES for name, each in cls.hyperparameters.items() if not each.domain.switch]
SWITCHES = [(cls, name) for cls in CLASSES for name, each in cls.hyperparameters.items() if each.domain.switch]
NO_NUMBERS = [True, np.True_, "0.1", 1j, None, [0.1], np.array([0.1, 0.2]), np.array(0.1), {}]
each_scalar = pytest.mark.parametrize(("cls", "name"), SCALARS, ids=lambda value: getattr(value, "__name__", value))


def shared_by_all(cls: type[Optimizer], name: str) -> bool:
    """Tell whether groups may not differ in a hyper-parameter."""
    return cls.kind == "global" and name not in cls.per_group


def everywhere_refused(cls: type[Optimizer], name: str, value: Any, refusal: Refusal) -> None:
    """Expect a refusal of a value by construction, by groups, by assignment and by a group's view."""
    optimizer = cls([schuss.Group(np.ones(3)), schuss.Group(np.ones(2))])
    step(optimizer, [np.ones(3), np.ones(2)])
    with refuses(refusal):
        cls(np.ones(3), **{name: value})
    with refuses(refusal, optimizer):
        setattr(optimizer, name, value)
    if not shared_by_all(cls, name):
        with refuses(refusal):
            cls([schuss.Group(np.ones(3), **{name: value})])
        with refuses(refusal, optimizer):
            optimizer.add(schuss.Group(np.ones(3), **{name: value}))
        with refuses(refusal, optimizer):
            optimizer.groups[1][name] = value
    step(optimizer, [np.ones(3), np.ones(2)])
    assert getattr(optimizer, name) == cls.hyperparameters[name].default


@each_scalar
def test_numbers_out_of_range(cls: type[Optimizer], name: str) -> None:
    domain = cls.hyperparameters[name].domain
    for value in outside(domain):
        sentence = f"{cls.__name__}: {name} must be in {domain}, got {value:g}"
        everywhere_refused(cls, name, value, (ValueError, sentence))
        everywhere_refused(cls, name, np.float64(value), (ValueError, sentence))


@each_scalar
def test_what_is_no_number(cls: type[Optimizer], name: str) -> None:
    for value in NO_NUMBERS:
        sentence = f"{cls.__name__}: {name} must be a real number or a schedule, got {value!r}"
        everywhere_refused(cls, name, value, (TypeError, sentence))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda p: schuss.Adam(p, beta1=1.2), "Adam: beta1 must be in [0, 1), got 1.2"),
        (lambda p: schuss.Adam(p, lr=-1), "Adam: lr must be in [0, inf), got -1"),
        (lambda p: schuss.Adam(p, lr=10**400), "Adam: lr must be in [0, inf), got inf"),
        (lambda p: schuss.Adam(p, lr=-(10**400)), "Adam: lr must be in [0, inf), got -inf"),
        (lambda p: schuss.Adam(p, l2=math.inf), "Adam: l2 must be in [0, inf), got inf"),
        (lambda p: schuss.Adam(p, eps=math.nan), "Adam: eps must be in [0, inf), got nan"),
        (lambda p: schuss.SGD(p, dampening=1.5), "SGD: dampening must be in [0, 1], got 1.5"),
        (lambda p: schuss.Prodigy(p, d0=0), "Prodigy: d0 must be in (0, inf), got 0"),
        (lambda p: schuss.Prodigy(p, growth_rate=0.5), "Prodigy: growth_rate must be in [1, inf], got 0.5"),
    ],
)
def test_how_ranges_are_written(call: Callable[[np.ndarray], Any], sentence: str) -> None:
    with refuses((ValueError, sentence)):
        call(np.ones(3))


@pytest.mark.parametrize(("cls", "name"), SWITCHES, ids=lambda value: getattr(value, "__name__", value))
def test_switches(cls: type[Optimizer], name: str) -> None:
    for value in (1, 0, 0.0, "yes", None, lambda step: True):
        with refuses((TypeError, f"{cls.__name__}: {name} must be True or False, got {value!r}")):
            cls(np.ones(3), **{name: value})
    for value in (True, False):
        with refuses(
            (TypeError, f"{cls.__name__}: {name} is one for all groups; pass it to {cls.__name__}, not to a Group")
        ):
            cls([schuss.Group(np.ones(3), **{name: value})])
        optimizer = used(cls)
        with refuses(
            (ValueError, f"{cls.__name__}: {name} is chosen at construction; make a new optimizer"), optimizer
        ):
            setattr(optimizer, name, value)


@pytest.mark.parametrize("cls", [schuss.SGD, schuss.RMSprop])
def test_momentum_cannot_be_turned_on_later(cls: type[Optimizer]) -> None:
    optimizer = cls([schuss.Group(np.ones(3))])
    step(optimizer, [np.ones(3)])
    sentence = (
        f"{cls.__name__}: momentum was off when the optimizer was made, which therefore keeps no state for it; "
        "make a new optimizer"
    )
    for value in (0.5, lambda step: 0.5):
        with refuses((ValueError, sentence), optimizer):
            optimizer.momentum = value
        with refuses((ValueError, sentence), optimizer):
            optimizer.groups[0]["momentum"] = value
    with refuses(
        (
            ValueError,
            f"{cls.__name__}: the group turns on an option that was off when the optimizer was made; make a new optimizer",
        ),
        optimizer,
    ):
        optimizer.add(schuss.Group(np.ones(2), momentum=0.5))


def test_nesterov() -> None:
    without = (ValueError, "SGD: nesterov=True needs momentum; pass momentum in (0, 1)")
    damped = (ValueError, "SGD: nesterov=True goes without dampening; leave dampening at 0")
    with refuses(without):
        schuss.SGD(np.ones(3), nesterov=True)
    with refuses(damped):
        schuss.SGD(np.ones(3), nesterov=True, momentum=0.9, dampening=0.1)
    with refuses(damped):
        schuss.SGD([schuss.Group(np.ones(3), dampening=0.1)], nesterov=True, momentum=0.9)
    optimizer = schuss.SGD([schuss.Group(np.ones(3))], nesterov=True, momentum=0.9)
    optimizer.step([np.ones(3)])
    with refuses(without, optimizer):
        optimizer.momentum = 0.0
    with refuses(damped, optimizer):
        optimizer.dampening = 0.1
    with refuses(damped, optimizer):
        optimizer.groups[0]["dampening"] = 0.1
    with refuses(damped, optimizer):
        optimizer.add(schuss.Group(np.ones(3), dampening=0.1))


ADAM_TAKES = (
    "it takes lr, beta1, beta2, eps, bias_correction, l2, l1, maximize, proximal, centralize, clip, noise, decay, bounds, "
    "nonfinite, overrides, state_dtype, dtype, "
    "threads, flush_subnormals"
)
UNKNOWN = [
    ("Adam", "learning_rate", "pass lr="),
    ("Adam", "betas", "pass beta1= and beta2="),
    ("Adan", "betas", "pass beta1=, beta2= and beta3="),
    ("SGD", "betas", "pass momentum="),
    ("Muon", "betas", "pass momentum=, adamw_beta1= and adamw_beta2="),
    (
        "Adam",
        "weight_decay",
        "use decay=schuss.Decay(...), l2= for a regularised loss, or an optimizer that has it such as AdamW",
    ),
    ("Adam", "amsgrad", "use AMSGrad"),
    ("Adam", "clipnorm", 'pass clip=schuss.ClipNorm(..., per="tensor")'),
    ("Adam", "clipvalue", "pass clip=schuss.ClipValue(...)"),
    ("Adam", "global_clipnorm", "pass clip=schuss.ClipNorm(...)"),
    ("Adam", "scheduler", "pass it as the hyper-parameter, lr=schuss.schedules.cosine(...)"),
    ("Adam", "epsilon", "pass eps="),
    ("Adam", "lrr", "did you mean lr?"),
    ("Adam", "beta", "did you mean beta2?"),
    ("Adam", "Maximize", "did you mean maximize?"),
    ("AdamW", "weight_decy", "did you mean weight_decay?"),
    ("SGD", "nestrov", "did you mean nesterov?"),
    ("Adam", "params_", ADAM_TAKES),
    ("Adam", "xyz", ADAM_TAKES),
]


def test_arguments_without_a_name() -> None:
    with refuses(
        (TypeError, "SGD: all arguments but params have names, got 0.1 without one; write SGD(params, lr=...)")
    ):
        schuss.SGD(np.ones(3), 0.1)  # type: ignore[misc]
    sentence = "EMA: all arguments but the optimizer have names, got 0.9 without one; write EMA(optimizer, decay=...)"
    with refuses((TypeError, sentence)):
        schuss.EMA(schuss.SGD(np.ones(3)), 0.9)  # type: ignore[misc]


def test_the_base_class_is_no_optimizer() -> None:
    with refuses((TypeError, "Optimizer: it is what optimizers have in common; choose one of schuss.optimizers()")):
        schuss.Optimizer(np.ones(3))


def test_a_class_is_no_schedule() -> None:
    optimizer = schuss.SGD(np.ones(3))
    sentence = "SGD: lr must be a real number or a schedule, got the class cosine; call it, cosine(...)"
    with refuses((TypeError, sentence)):
        schuss.SGD(np.ones(3), lr=schuss.schedules.cosine)
    with refuses((TypeError, sentence), optimizer):
        optimizer.lr = schuss.schedules.cosine
    with refuses(
        (
            TypeError,
            "ClipNorm: max_norm must be a real number or a schedule, got the class linear; call it, linear(...)",
        )
    ):
        schuss.ClipNorm(schuss.schedules.linear)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "key", "hint"), UNKNOWN, ids=[f"{name}-{key}" for name, key, _ in UNKNOWN])
def test_unknown_arguments(name: str, key: str, hint: str) -> None:
    cls = schuss.optimizers()[name]
    refusal = (TypeError, f"{name}: {key} is not an argument of {name}; {hint}")
    optimizer = cls([schuss.Group(np.ones(3))])
    with refuses(refusal):
        cls(np.ones(3), **{key: 0.1})
    with refuses(refusal):
        cls([schuss.Group(np.ones(3), **{key: 0.1})])
    with refuses(refusal, optimizer):
        optimizer.add(schuss.Group(np.ones(3), **{key: 0.1}))
    with refuses(refusal, optimizer):
        optimizer.groups[0][key] = 0.1


ANY_CLASS = {**schuss.optimizers(), **schuss.closure_optimizers()}


@pytest.mark.parametrize("name", ANY_CLASS)
def test_hints_name_what_the_class_takes(name: str) -> None:
    """An optimizer without beta1 and beta2 does not advise them where betas is what other libraries say."""
    cls = ANY_CLASS[name]
    taken = [str(each) for each in inspect.signature(cls).parameters][1:]
    for key in ("betas", "learning_rate", "stepsize", "epsilon"):
        with pytest.raises(TypeError) as caught:
            cls(np.ones(3), **{key: 0.1})
        what, hint = str(caught.value).split("; ")
        assert what == f"{name}: {key} is not an argument of {name}"
        if hint.startswith("pass "):
            advised = hint.removeprefix("pass ").replace(" and ", ", ").split(", ")
            assert {f"{each}=" for each in taken} >= set(advised), hint
        else:
            assert hint == f"it takes {', '.join(taken)}"


@each_class
def test_every_class_has_hints(cls: type[Optimizer]) -> None:
    name = cls.__name__
    with refuses((TypeError, f"{name}: lrr is not an argument of {name}; did you mean lr?")):
        cls(np.ones(3), lrr=0.1)


def test_misspelt_attributes_do_not_pass_unnoticed() -> None:
    optimizer = schuss.Adam(np.ones(3))
    with refuses((AttributeError, "Adam: lrr is not an attribute that can be set; did you mean lr?"), optimizer):
        optimizer.lrr = 0.1
    with pytest.raises(AttributeError):
        optimizer.t = 5
    with pytest.raises(AttributeError):
        optimizer.params = np.zeros(3)


# ---- schedules


class ScheduleError(Exception):
    """An error that is none of ours."""


def failing(step: int) -> NoReturn:
    raise ScheduleError(step)


@each_scalar
def test_schedules_that_leave_their_range(cls: type[Optimizer], name: str) -> None:
    """Two good steps, then a bad value: nothing is changed, however often one tries."""
    now: dict[str, Any] = {}
    default = cls.hyperparameters[name].default
    optimizer = cls(np.ones(3), **{name: lambda step: default if step < 2 else now["value"]})
    for _ in range(2):
        step(optimizer, np.ones(3))
    domain, who = cls.hyperparameters[name].domain, f"{cls.__name__}: the schedule of {name} must"
    faults: list[tuple[Any, Refusal]] = [
        (value, (ValueError, f"{who} stay in {domain}, got {value:g} at step 2")) for value in outside(domain)
    ]
    faults += [
        (value, (TypeError, f"{who} give a real number, got {value!r} at step 2"))
        for value in (None, "0.1", True, 1j, np.ones(2), np.array(0.1), failing)
    ]
    for value, refusal in faults:
        now["value"] = value
        for _ in range(2):
            with refuses(refusal, optimizer):
                step(optimizer, np.ones(3))
    now["value"] = default
    step(optimizer, np.ones(3))
    assert optimizer.t == 3


@each_class
def test_errors_of_schedules_pass_through(cls: type[Optimizer]) -> None:
    with refuses((ScheduleError, "0")):
        cls(np.ones(3), lr=failing)
    optimizer = used(cls)
    with refuses((ScheduleError, "1"), optimizer):
        optimizer.lr = failing
    optimizer.lr = lambda step: 0.1 if step < 2 else failing(step)
    step(optimizer, good_gradients())
    with refuses((ScheduleError, "2"), optimizer):
        step(optimizer, good_gradients())
    optimizer.lr = 0.1
    step(optimizer, good_gradients())


def test_a_schedule_that_steps_its_own_optimizer() -> None:
    def recursive(step: int) -> float:
        if step == 1:
            optimizer.step(np.ones(3))
        return 0.1

    optimizer = schuss.SGD(np.ones(3), lr=recursive)
    optimizer.step(np.ones(3))
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError):  # RecursionError is one
        optimizer.step(np.ones(3))
    assert snapshot(optimizer) == before


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ((-1.0, 10), (ValueError, "cosine: peak must be in [0, inf), got -1")),
        ((math.nan, 10), (ValueError, "cosine: peak must be in [0, inf), got nan")),
        ((1.0, 10, 0, math.inf), (ValueError, "cosine: floor must be in [0, inf), got inf")),
        ((1.0, 10, 10), (ValueError, "cosine: warmup must be from 0 to steps - 1, got 10 of 10 steps")),
        ((1.0, 0), (ValueError, "cosine: steps must be in {1, 2, ...}, got 0")),
        ((1.0, 10, -1), (ValueError, "cosine: warmup must be in {0, 1, ...}, got -1")),
    ],
)
def test_cosine(arguments: tuple[Any, ...], refusal: Refusal) -> None:
    with refuses(refusal):
        schuss.schedules.cosine(*arguments)


# ---- options

OPTIONS: list[tuple[str, Any, Refusal]] = [
    *((key, value, (TypeError, f"{key} must be True or False, got {value!r}"))
      for key in ("maximize", "flush_subnormals") for value in (1, None, "yes")),
    *(("clip", value, (TypeError, f"clip must be a clip such as ClipNorm, a sequence of them, or None, got {value!r}"))
      for value in (1.0, True, "norm")),
    *(("bounds", value, (TypeError, f"bounds must be a pair (lower, upper) or a constraint, got {value!r}"))
      for value in (1.0, (0.0,), (0.0, 1.0, 2.0), "ab")),
    ("bounds", (1.0, 0.0), (ValueError, "bounds must be a pair with lower <= upper, got (1, 0)")),
    ("bounds", (math.nan, 0.0), (ValueError, "bounds[0] must be in [-inf, inf], got nan")),
    ("bounds", (0.0, math.nan), (ValueError, "bounds[1] must be in [-inf, inf], got nan")),
    ("bounds", (0.0, "1"), (TypeError, "bounds[1] must be a real number, got '1'")),
    ("bounds", (None, 1.0), (TypeError, "bounds[0] must be a real number, got None")),
    *(("nonfinite", value, (ValueError, f"nonfinite must be one of propagate, raise, skip, or a Skip, got {value!r}"))
      for value in ("ignore", "Raise", True, 1)),
    *(("dtype", value, (ValueError, f'dtype must be "bfloat16" or None, got {value!r}'))
      for value in ("float16", np.float32, "bf16")),
    *(("state_dtype", value, (TypeError, f"state_dtype must be float64, float32, float16 or bfloat16, got {shown}"))
      for value, shown in [(int, "int64"), ("uint16", "uint16"), (">f4", ">f4"), ("complex64", "complex64"),
                           (object, "object"), (np.longdouble, str(np.dtype(np.longdouble)))]),
    *(("state_dtype", value, (TypeError, f"state_dtype must be a dtype or None, got {value!r}"))
      for value in ("float99", 7)),
    *(("threads", value, (TypeError, f"threads must be an integer, got {value!r}"))
      for value in (True, 1.0, "2", math.nan)),
    *(("threads", value, (ValueError, f"threads must be from 1 to 4096, got {value}")) for value in (0, -1, 4097, 10**6)),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "refusal"), OPTIONS, ids=[f"{key}={value}" for key, value, _ in OPTIONS])
def test_options(key: str, value: Any, refusal: Refusal) -> None:
    error, sentence = refusal
    with refuses((error, f"Adam: {sentence}")):
        schuss.Adam(np.ones(3), **{key: value})
    with refuses((TypeError, f"Adam: {key} belongs to the optimizer as a whole; pass it to Adam, not to a Group")):
        schuss.Adam([schuss.Group(np.ones(3), **{key: value})])


@pytest.mark.parametrize("key", sorted({key for key, _, _ in OPTIONS}))
def test_options_are_chosen_at_construction(key: str) -> None:
    """An option that is assigned later must not be taken for one that acts."""
    optimizer = used(schuss.Adam)
    with refuses((AttributeError, f"Adam: {key} is chosen at construction; make a new optimizer"), optimizer):
        setattr(optimizer, key, None)
    with refuses((TypeError, f"Adam: {key} belongs to the optimizer as a whole"), optimizer):
        optimizer.groups[0][key] = None


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        *((v, (ValueError, f"ClipNorm: max_norm must be in (0, inf), got {v:g}")) for v in (0, -1, math.inf, math.nan)),
        *(
            (v, (TypeError, f"ClipNorm: max_norm must be a real number or a schedule, got {v!r}"))
            for v in (True, "1", None, 1j)
        ),
    ],
)
def test_clip_norm(value: Any, refusal: Refusal) -> None:
    with refuses(refusal):
        schuss.ClipNorm(value)


def test_threads_and_instruction_sets() -> None:
    threads = schuss.get_num_threads()
    for value in (0, -1, 4097):
        with refuses((ValueError, f"schuss: threads must be from 1 to 4096, got {value}")):
            schuss.set_num_threads(value)
    with refuses((TypeError, "schuss: threads must be an integer, got 1.5")):
        schuss.set_num_threads(1.5)
    sets = ", ".join(schuss.instruction_sets())
    for name in ("sse9", "", "X86_64"):
        sentence = f"schuss: this machine does not run the instruction set '{name}'; choose one of {sets}"
        with refuses((ValueError, sentence)):
            schuss.use_isa(name)
    assert schuss.get_num_threads() == threads


# ---- groups


@each_class
def test_groups(cls: type[Optimizer]) -> None:
    name = cls.__name__
    with refuses((TypeError, f"{name}: params mixes groups and arrays; put every array into a Group")):
        cls([schuss.Group(np.ones(3)), np.ones(2)])
    sentence = f"{name}: params[0] and params[1] share memory; pass arrays that do not overlap"
    shared = np.ones(3)
    with refuses((ValueError, sentence)):
        cls([schuss.Group(shared), schuss.Group(shared)])
    with refuses((TypeError, f"{name}: params['a'] is a Group, not a NumPy array; pass numpy.asarray of it")):
        cls({"a": schuss.Group(np.ones(3))})

    optimizer = cls([schuss.Group(np.ones(3)), schuss.Group({"a": np.ones(2)})])
    step(optimizer, [np.ones(3), {"a": np.ones(2)}])
    with refuses(
        (ValueError, f"{name}: grads has 1 entry, but params has 2 there; pass None to skip a tensor"), optimizer
    ):
        step(optimizer, [np.ones(3)])
    for wrong in (np.ones(3), [np.ones(3)], None):
        with refuses((TypeError, f"{name}: add takes a Group, got {type(wrong).__name__}"), optimizer):
            optimizer.add(wrong)
    with refuses((ValueError, f"{name}: params holds no array; pass at least one"), optimizer):
        optimizer.add(schuss.Group([]))
    sentence = f"{name}: params[1]['a'] and params[2] share memory; pass arrays that do not overlap"
    with refuses((ValueError, sentence), optimizer):
        optimizer.add(schuss.Group(optimizer.params[1]["a"]))
    for fault in ("int64", "float", "masked"):
        make, refusal = UNUSABLE[fault]
        with refuses(at(cls, "params[2]", refusal), optimizer):
            optimizer.add(schuss.Group(make()))
    step(optimizer, [np.ones(3), {"a": np.ones(2)}])

    plain = used(cls)
    sentence = f"{name}: it was made without groups; make it from a list of Group to add further ones"
    with refuses((ValueError, sentence), plain):
        plain.add(schuss.Group(np.ones(3)))


@pytest.mark.parametrize("cls", SPANNING)
def test_what_is_one_for_all_groups(cls: type[Optimizer]) -> None:
    for name in cls.hyperparameters:
        if name in cls.per_group:
            continue
        refusal = (
            TypeError,
            f"{cls.__name__}: {name} is one for all groups; pass it to {cls.__name__}, not to a Group",
        )
        value = cls.hyperparameters[name].default
        optimizer = cls([schuss.Group(np.ones(3)), schuss.Group(np.ones(2))])
        step(optimizer, [np.ones(3), np.ones(2)])
        with refuses(refusal):
            cls([schuss.Group(np.ones(3), **{name: value})])
        with refuses(refusal, optimizer):
            optimizer.add(schuss.Group(np.ones(3), **{name: value}))
        with refuses(refusal, optimizer):
            optimizer.groups[0][name] = value


# ---- inputs


@each_class
def test_inputs_a_rule_does_not_take(cls: type[Optimizer]) -> None:
    optimizer = used(cls)
    wanted = ", ".join(good_inputs(optimizer))
    takes = f"it takes {wanted}" if wanted else "it takes the gradients alone"
    with refuses((TypeError, f"{cls.__name__}: hesian is not an input of its step; {takes}"), optimizer):
        optimizer.step(good_gradients(), hesian=good_gradients())


@pytest.mark.parametrize("cls", TAKING_INPUTS)
def test_inputs_that_do_not_fit(cls: type[Optimizer]) -> None:
    optimizer = used(cls)
    good = good_inputs(optimizer)
    for name in good:
        others = {key: tree for key, tree in good.items() if key != name}
        missing = f"{cls.__name__}: step needs {name}; pass step(grads, {name}=...)"
        with refuses((TypeError, missing), optimizer):
            optimizer.step(good_gradients(), **others)
        why = "is None, but its gradient is not; pass both or neither"
        with refuses(at(cls, f"{name}['b'][1]", (ValueError, why)), optimizer):
            optimizer.step(good_gradients(), **others, **{name: with_leaf(None)})
        with refuses(at(cls, f"{name}['w']", (ValueError, why)), optimizer):
            optimizer.step(good_gradients(), **others, **{name: None})
        why = "has shape (1,), but its parameter has shape (3,)"
        with refuses(at(cls, f"{name}['b'][1]", (ValueError, why)), optimizer):
            optimizer.step(good_gradients(), **others, **{name: with_leaf(np.ones(1))})
        for make, refusal in UNUSABLE.values():
            with refuses(at(cls, f"{name}['b'][1]", refusal), optimizer):
                optimizer.step(good_gradients(), **others, **{name: with_leaf(make())})
        for tree, (error, sentence) in NESTINGS.values():
            with refuses((error, f"{cls.__name__}: {sentence.replace('grads', name)}"), optimizer):
                optimizer.step(good_gradients(), **others, **{name: tree})
        why = "shares memory with a parameter or its state; pass a copy of the gradient"
        with refuses(at(cls, f"{name}['b'][1]", (ValueError, why)), optimizer):
            optimizer.step(good_gradients(), **others, **{name: with_leaf(optimizer.params["b"][1])})
    step(optimizer, with_leaf(None))
    assert optimizer.counts == {"w": 2, "b": [2, 1]}


# ---- gradients that are not finite

BF16 = np.dtype(ml_dtypes.bfloat16)


@each_class
@pytest.mark.parametrize("threads", [1, 3])
def test_the_last_element_of_the_last_tensor(cls: type[Optimizer], threads: int) -> None:
    """The search runs over all tensors before the first is written."""
    sizes = (40_000, 3, 0, 70_001)

    def make(**options: Any) -> Optimizer:
        return cls([np.full(size, 0.5, np.float32) for size in sizes], threads=threads, **options)

    good = [np.full(size, 0.25, np.float32) for size in sizes]
    bad = [grad.copy() for grad in good]
    bad[3][-1] = np.nan

    refusing, skipping, plain = make(nonfinite="raise"), make(nonfinite="skip"), make()
    for optimizer in (refusing, skipping, plain):
        step(optimizer, good)
    with refuses(
        (FloatingPointError, f"{cls.__name__}: grads[3] holds nan at index (70000,); nothing was changed"), refusing
    ):
        step(refusing, bad)
    before = snapshot(skipping)
    step(skipping, bad)
    assert snapshot(skipping) == before
    assert skipping.last.skipped
    assert skipping.last.step == skipping.t == 1
    for optimizer in (refusing, skipping, plain):
        step(optimizer, good)
        assert not optimizer.last.skipped
        assert snapshot(optimizer) == snapshot(refusing)


@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        (np.float64, np.nan, "nan"),
        (np.float64, np.inf, "inf"),
        (np.float32, -np.inf, "-inf"),
        (np.float16, np.inf, "inf"),
        (BF16, np.nan, "nan"),
        (BF16, -np.inf, "-inf"),
        (np.complex64, complex(0, np.inf), "infj"),
        (np.complex128, complex(np.nan, 1), "(nan+1j)"),
    ],
)
def test_the_first_number_that_is_not_finite_is_named(dtype: Any, value: Any, shown: str) -> None:
    params = {"w": np.ones((2, 3), dtype), "b": np.ones(2, dtype), "c": np.ones(2, dtype)}
    optimizer = schuss.SGD(params, nonfinite="raise")
    grads = {key: np.ones_like(array) for key, array in params.items()}
    grads["b"][:] = value
    grads["w"][1, 2] = value
    with refuses(
        (FloatingPointError, f"SGD: grads['w'] holds {shown} at index (1, 2); nothing was changed"), optimizer
    ):
        optimizer.step(grads)
    grads["w"] = None
    with refuses((FloatingPointError, f"SGD: grads['b'] holds {shown} at index (0,); nothing was changed"), optimizer):
        optimizer.step(grads)


def test_numbers_that_a_narrower_parameter_cannot_hold() -> None:
    """A gradient counts as what the step computes with: float32 here."""
    optimizer = schuss.SGD({"w": np.ones(2), "b": np.ones((2, 2), np.float32)}, nonfinite="raise")
    grads = {"w": np.full(2, 1e200), "b": np.array([[1.0, 1.0], [1e200, np.nan]])}
    sentence = "SGD: grads['b'] holds 1e+200 at index (1, 0); nothing was changed"
    with refuses((FloatingPointError, sentence), optimizer):
        optimizer.step(grads)


def test_the_first_number_that_is_not_finite_in_other_layouts() -> None:
    sentence = "SGD: grads holds nan at index (1, 2); nothing was changed"
    for order, layout in [("C", "F"), ("F", "C"), ("F", "F")]:
        grad = np.ones((3, 4), order=layout)
        grad[1, 2] = grad[2, 1] = np.nan
        optimizer = schuss.SGD(np.ones((3, 4), order=order), nonfinite="raise")
        with refuses((FloatingPointError, sentence), optimizer):
            optimizer.step(grad)
    pattern = np.zeros((2, 3), np.uint16)
    pattern[1, 2] = 0x7FC0
    optimizer = schuss.SGD(np.zeros((2, 3), np.uint16), nonfinite="raise", dtype="bfloat16")
    with refuses((FloatingPointError, sentence), optimizer):
        optimizer.step(pattern)
    optimizer = schuss.SGD(np.array(1.0), nonfinite="raise")
    with refuses((FloatingPointError, "SGD: grads holds inf; nothing was changed"), optimizer):
        optimizer.step(np.float64("inf"))


@each_class
def test_a_clip_refuses_what_is_not_finite(cls: type[Optimizer]) -> None:
    bad = with_leaf(np.array([1.0, np.inf, np.nan]))
    refusing = used(cls, clip=schuss.ClipNorm(1.0))
    with refuses(
        (FloatingPointError, f"{cls.__name__}: grads['b'][1] holds inf at index (1,); nothing was changed"), refusing
    ):
        step(refusing, bad)
    skipping = used(cls, clip=schuss.ClipNorm(1.0), nonfinite="skip")
    before = snapshot(skipping)
    step(skipping, bad)
    assert snapshot(skipping) == before
    assert skipping.last.skipped
    propagating = used(cls, clip=schuss.ClipNorm(1.0), nonfinite="propagate")
    step(propagating, bad)
    assert propagating.t == 2
    assert np.isnan(propagating.params["b"][1]).any()


# ---- gradients that are missing


@each_class
def test_no_gradients_at_all(cls: type[Optimizer]) -> None:
    """A function that forgot its return returns None; a function that was not called has no gradients either."""
    optimizer = used(cls, nonfinite="skip")
    with refuses(
        (TypeError, f"{cls.__name__}: grads is None; pass None in the place of each tensor to be skipped"), optimizer
    ):
        step(optimizer, None)
    why = TypeError, "is a function, not a NumPy array; call it, and pass what it returns"
    with refuses(at(cls, "grads['b'][1]", why), optimizer):
        step(optimizer, with_leaf(good_gradients))
    step(optimizer, with_leaf(np.full(3, np.nan)))
    assert optimizer._skips.tolist() == [1, 1]
    step(optimizer, {"w": None, "b": [None, None]})  # no step, and so not one without a NaN
    assert optimizer._skips.tolist() == [1, 1]
    assert optimizer.t == 1
    step(optimizer, good_gradients())
    assert optimizer._skips.tolist() == [1, 0]


# ---- optimizers in the making


def test_a_rule_that_is_not_compiled() -> None:
    with pytest.raises(
        TypeError, match=r"^Unbuilt: no rule 'unbuilt' is compiled; write cpp/rules/<kind>/unbuilt.hpp, or"
    ):
        type("Unbuilt", (schuss.Optimizer,), {}, rule="unbuilt")


def test_where_kernel_and_reference_part_is_said_in_plain_numbers() -> None:
    def reference(p: Any, g: Any, **others: Any) -> None:
        p[...] = p - 2.0

    opt = type("Draft", (schuss.SignSGD,), {"reference": staticmethod(reference)}, rule="signsgd")(np.zeros(2), lr=1.0)
    assert str(opt.check(np.ones(2))) == (
        "Draft: kernel and reference part\n  params: 2 of 2 elements, first at (0,): -1.0 against -2.0"
    )
