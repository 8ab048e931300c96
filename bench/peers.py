"""Who else makes the steps: other libraries, and what a careful user of NumPy or numba writes by hand.

A peer is optional: where a package of it is missing, the peer is left out with a remark.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import contenders
import machine
import numpy as np
from contenders import Data, Variant
from numpy.typing import NDArray
from protocol import Steps
from workloads import Workload

import schuss
from schuss.math import one_minus_power

Build = Callable[[Variant, Workload, int], Steps]

VARIANTS = (
    Variant(schuss.AdamW, {}),
    Variant(schuss.SGD, {"momentum": 0.9}),
    Variant(schuss.Adagrad, {}),
    Variant(schuss.Lion, {}),
)
"""The optimizers of the comparison: those that the compiled peers have."""

RULES = tuple(variant.cls.__name__ for variant in VARIANTS)
IN_TORCH = ("AdamW", "SGD", "Adagrad")

TOLERANCE = 1e-3
"""How far a peer may part from schuss in three steps, of the distance moved."""

NUMPY_CHUNK = 1 << 16
"""Elements per call of NumPy where it works in place: what one call leaves in cache the next finds there."""

NUMBA_SERIAL = 1 << 15
"""Elements of a tensor below which numba's threads cost more than they bring."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One contender.

    Attributes
    ----------
    build
        Makes it for a variant, a workload and a number of threads.
    packages
        What must be installed.
    rules
        Names of the classes of schuss whose rule it has.
    threads
        "any" number. The others are measured only where all cores are allowed: "most" are far behind on any number,
        "one" have one thread, and "stock" have their own number, which cannot be changed in a running process.
    remark
        What a reader must know about its figures.
    """

    build: Build
    packages: Sequence[str] = ()
    rules: Collection[str] = RULES
    threads: str = "one"
    remark: str | None = None

    def thread_counts(self, allowed: Sequence[int]) -> Sequence[int]:
        """Return the numbers of threads to try, of those allowed: none where it is not measured."""
        most = max(allowed) == machine.cores()
        beside_most = {"most": allowed, "stock": allowed[-1:], "one": allowed[:1]}
        return allowed if self.threads == "any" else beside_most[self.threads] if most else []

    def objection(self, variant: Variant) -> str | None:
        """Return why this peer cannot be compared with schuss, None if it can: three steps of both must agree."""
        if missing := [package for package in self.packages if importlib.util.find_spec(package) is None]:
            return f"{' and '.join(missing)} not installed"
        coarse = Variant(variant.cls, {**variant.options, "lr": 0.01})  # parameters of float32 show it in every digit
        sample = Workload("parity", "parity", ((8, 8), (5, NUMBA_SERIAL)), calls=1)
        ours = contenders.compiled(coarse, sample, threads=1)
        try:
            theirs = self.build(coarse, sample, 1 if self.threads == "one" else machine.cores())
        except (ImportError, RuntimeError) as error:  # DeepSpeed compiles its kernels at first use
            return f"it does not start ({error})"
        for steps in (ours, theirs):
            for block in range(3):
                steps.prepare(block)()
        for start, a, b in zip(Data(sample).params, ours.values(), theirs.values(), strict=False):
            if np.size(a) != np.size(b):  # pure Python steps as many of the tensors as it can bear
                break
            parted, moved = (np.abs(np.ravel(a) - np.ravel(other)).max() for other in (b, start))
            if not parted <= TOLERANCE * moved:
                return f"its steps differ by {parted / moved:.1g} of the distance moved"
        return None


# ---- torch and DeepSpeed --------------------------------------------------------------------------------------------


def torch_optimizer(
    variant: Variant, workload: Workload, threads: int, fused: bool = False, **implementation: bool
) -> Steps:
    """Return torch's optimizer, in one of its implementations."""
    return contenders.torch_optimizer(variant, workload, fused, threads, **implementation)


def deepspeed(variant: Variant, workload: Workload, threads: int) -> Steps:
    """Return DeepSpeed's optimizer for the CPU; its kernels run on the OpenMP threads of torch."""
    name = {"AdamW": "Adam"}.get(variant.cls.__name__, variant.cls.__name__)
    module, values = importlib.import_module(f"deepspeed.ops.{name.lower()}"), _hyperparameters(variant)
    options: dict[str, Any] = {key: values[key] for key in ("lr", "eps", "weight_decay") if key in values}
    if "beta1" in values:
        options["betas"] = (values["beta1"], values["beta2"])
    if name == "Adam":
        options["adamw_mode"] = True
    return contenders.torch_steps(partial(getattr(module, f"DeepSpeedCPU{name}"), **options), workload, threads)


# ---- optax ----------------------------------------------------------------------------------------------------------

OPTAX: Mapping[str, Callable[..., Any]] = {
    "AdamW": lambda optax, *, lr, beta1, beta2, **others: optax.adamw(lr, beta1, beta2, **others),
    "SGD": lambda optax, *, lr, momentum, **others: optax.sgd(lr, momentum),
    "Adagrad": lambda optax, *, lr, eps, **others: optax.adagrad(lr, initial_accumulator_value=0.0, eps=eps),
    "Lion": lambda optax, *, lr, beta1, beta2, **others: optax.lion(lr, beta1, beta2, **others),
}


def optax_jit(variant: Variant, workload: Workload, threads: int) -> Steps:
    """Return optax's update and its application as one jitted function that is given its parameters and state."""
    jax, optax = map(importlib.import_module, ("jax", "optax"))
    data = Data(workload)
    params, *grads = ([jax.numpy.array(array) for array in each] for each in (data.params, *(g for (g,) in data.given)))
    del data
    transformation = OPTAX[variant.cls.__name__](optax, **_hyperparameters(variant))

    @partial(jax.jit, donate_argnums=(0, 1))
    def updated(params: Any, state: Any, grads: Any) -> Any:
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    held = [params, transformation.init(params)]

    def step(grads: Any) -> None:
        held[:] = jax.block_until_ready(updated(*held, grads))

    return Steps(lambda block: partial(step, grads[block % 2]), lambda: map(np.asarray, jax.tree.leaves(held)), threads)


# ---- thinc ----------------------------------------------------------------------------------------------------------


def thinc_adam(variant: Variant, workload: Workload, threads: int) -> Steps:
    """Return thinc's Adam on the operations of NumpyOps, without the averages it keeps by default."""
    data, values = Data(workload), _hyperparameters(variant)
    values = {"learn_rate": values.pop("lr"), "L2": values.pop("weight_decay"), **values}
    optimizer = importlib.import_module("thinc.api").Adam(**values, grad_clip=0.0, use_averages=False)
    keys = [(i, "W") for i in range(len(data.params))]
    grads = [grad.copy() for grad in data.given[0][0]]

    def step() -> None:
        for key, param, grad in zip(keys, data.params, grads, strict=True):
            optimizer(key, param, grad)

    def prepare(block: int) -> Callable[[], object]:
        for grad, values in zip(grads, data.given[block % 2][0], strict=True):
            grad[...] = values
        return step

    return Steps(
        prepare, lambda: itertools.chain(data.params, optimizer.mom1.values(), optimizer.mom2.values()), threads
    )


# ---- by hand: NumPy and numba ---------------------------------------------------------------------------------------
#
# One call per tensor (NumPy: per part of it that stays in cache), in place over one-dimensional arrays. All that does not
# depend on the element is computed once per step.


def numpy_in_place(variant: Variant, workload: Workload, threads: int) -> Steps:
    """Return the rule as a careful user of NumPy writes it: no temporary arrays, and parts that stay in cache."""
    kernel, scratch = IN_NUMPY[variant.cls.__name__], np.empty(NUMPY_CHUNK, np.float32)

    def call(arrays: Sequence[NDArray[Any]], scalars: Sequence[np.float32]) -> None:
        kernel(*arrays, *scalars, scratch[: arrays[0].size])

    return _written_by_hand(call, NUMPY_CHUNK, variant, workload, threads)


def numba_loops(variant: Variant, workload: Workload, threads: int) -> Steps:
    """Return the rule as a compiled loop, on several threads where the tensor is large enough for them."""
    serial, parallel = _numba_compiled(variant.cls.__name__)

    def call(arrays: Sequence[NDArray[Any]], scalars: Sequence[np.float32]) -> None:
        (serial if threads == 1 or arrays[0].size < NUMBA_SERIAL else parallel)(*arrays, *scalars)

    steps = _written_by_hand(call, workload.elements, variant, workload, threads)
    prepare, numba = steps.prepare, importlib.import_module("numba")

    def prepare_threads(block: int) -> Callable[[], object]:
        numba.set_num_threads(threads)
        return prepare(block)

    steps.prepare = prepare_threads
    return steps


def _written_by_hand(
    call: Callable[[Sequence[NDArray[Any]], Sequence[np.float32]], None],
    part: int,
    variant: Variant,
    workload: Workload,
    threads: int,
) -> Steps:
    """Return steps that call a kernel with p, g and the slots of every tensor, in parts of so many elements."""
    data, values, slots = Data(workload), _hyperparameters(variant), len(variant.build([np.zeros(1)]).state)
    states = [[np.zeros_like(param) for param in data.params] for _ in range(slots)]

    def parts(grads: Sequence[NDArray[Any]]) -> list[list[NDArray[Any]]]:
        flat = ([array.reshape(-1) for array in arrays] for arrays in zip(data.params, grads, *states, strict=True))
        return [[array[i : i + part] for array in arrays] for arrays in flat for i in range(0, arrays[0].size, part)]

    operands, scalars_of, t = [parts(grads) for (grads,) in data.given], SCALARS[variant.cls.__name__], 0

    def step(operands: Sequence[Sequence[NDArray[Any]]]) -> None:
        nonlocal t
        t += 1
        scalars = [np.float32(scalar) for scalar in scalars_of(t, **values)]
        for arrays in operands:
            call(arrays, scalars)

    return Steps(
        lambda block: partial(step, operands[block % 2]), lambda: itertools.chain(data.params, *states), threads
    )


def _adamw_scalars(t, *, lr, beta1, beta2, eps, weight_decay):
    bias1, bias2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
    return beta1, 1 - beta1, beta2, 1 - beta2, 1 / math.sqrt(bias2), eps, 1 - lr * weight_decay, lr / bias1


def _sgd_scalars(t, *, lr, momentum, **others):
    return momentum, lr


def _adagrad_scalars(t, *, lr, eps, **others):
    return eps, lr


def _lion_scalars(t, *, lr, beta1, beta2, weight_decay):
    return 1 - beta1, 1 - beta2, 1 - lr * weight_decay, lr


SCALARS: Mapping[str, Callable[..., Sequence[float]]] = {
    "AdamW": _adamw_scalars,
    "SGD": _sgd_scalars,
    "Adagrad": _adagrad_scalars,
    "Lion": _lion_scalars,
}


def _adamw_in_numpy(p, g, m, v, beta1, rest1, beta2, rest2, correction, eps, decay, rate, a):
    np.multiply(g, rest1, out=a)
    m *= beta1
    m += a
    np.multiply(g, g, out=a)
    a *= rest2
    v *= beta2
    v += a
    np.sqrt(v, out=a)
    a *= correction
    a += eps
    np.divide(m, a, out=a)
    a *= rate
    p *= decay
    p -= a


def _sgd_in_numpy(p, g, b, momentum, rate, a):
    b *= momentum
    b += g
    np.multiply(b, rate, out=a)
    p -= a


def _adagrad_in_numpy(p, g, n, eps, rate, a):
    np.multiply(g, g, out=a)
    n += a
    np.sqrt(n, out=a)
    a += eps
    np.divide(g, a, out=a)
    a *= rate
    p -= a


def _lion_in_numpy(p, g, m, rest1, rest2, decay, rate, a):
    np.subtract(g, m, out=a)
    a *= rest1
    a += m
    np.sign(a, out=a)
    a *= rate
    p *= decay
    p -= a
    np.subtract(g, m, out=a)
    a *= rest2
    m += a


IN_NUMPY: Mapping[str, Callable[..., None]] = {
    "AdamW": _adamw_in_numpy,
    "SGD": _sgd_in_numpy,
    "Adagrad": _adagrad_in_numpy,
    "Lion": _lion_in_numpy,
}


@cache
def _numba_compiled(name):
    """Return the serial and the parallel loop of a rule."""
    numba = importlib.import_module("numba")
    prange = numba.prange

    def adamw(p, g, m, v, beta1, rest1, beta2, rest2, correction, eps, decay, rate):
        for i in prange(p.size):
            m_i = beta1 * m[i] + rest1 * g[i]
            v_i = beta2 * v[i] + rest2 * (g[i] * g[i])
            m[i], v[i] = m_i, v_i
            p[i] = decay * p[i] - rate * (m_i / (correction * math.sqrt(v_i) + eps))

    def sgd(p, g, b, momentum, rate):
        for i in prange(p.size):
            b_i = momentum * b[i] + g[i]
            b[i] = b_i
            p[i] -= rate * b_i

    def adagrad(p, g, n, eps, rate):
        for i in prange(p.size):
            n_i = n[i] + g[i] * g[i]
            n[i] = n_i
            p[i] -= rate * (g[i] / (math.sqrt(n_i) + eps))

    def lion(p, g, m, rest1, rest2, decay, rate):
        for i in prange(p.size):
            new = g[i] - m[i]
            p[i] = decay * p[i] - rate * np.sign(m[i] + rest1 * new)
            m[i] += rest2 * new

    loop = {"AdamW": adamw, "SGD": sgd, "Adagrad": adagrad, "Lion": lion}[name]
    # Its default model of errors tests every divisor for zero, and such a loop is not vectorized.
    return numba.njit(error_model="numpy")(loop), numba.njit(error_model="numpy", parallel=True)(loop)


# ---- all of them ----------------------------------------------------------------------------------------------------


def _hyperparameters(variant: Variant) -> dict[str, Any]:
    """Return the values of what the rule's formula names."""
    optimizer = variant.build([np.zeros(1)])
    names = inspect.signature(variant.cls.reference).parameters.keys() & variant.cls.hyperparameters.keys()
    return {name: getattr(optimizer, name) for name in names}


PEERS: Mapping[str, Peer] = {
    "torch fused": Peer(partial(torch_optimizer, fused=True), ("torch",), IN_TORCH, "any"),
    "torch foreach": Peer(partial(torch_optimizer, foreach=True), ("torch",), IN_TORCH, "most"),
    "torch default": Peer(torch_optimizer, ("torch",), IN_TORCH, "most"),
    "DeepSpeed": Peer(deepspeed, ("torch", "deepspeed"), ("AdamW", "Adagrad", "Lion"), "any"),
    "optax": Peer(optax_jit, ("jax", "optax"), threads="stock"),
    "numba": Peer(numba_loops, ("numba",), threads="any"),
    "thinc": Peer(
        thinc_adam,
        ("thinc",),
        ("AdamW",),
        remark="thinc zeroes the gradients it is given: in a block of several calls all but the first step zeros",
    ),
    "NumPy in place": Peer(numpy_in_place),
    "NumPy": Peer(lambda variant, workload, threads: contenders.numpy_reference(variant, workload)),
    "pure Python": Peer(lambda variant, workload, threads: contenders.pure_python(variant, workload)),
}
"""By name, the fastest kinds first."""
