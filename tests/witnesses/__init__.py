"""Independent implementations of the optimizers: one file per rule, under the rule's name.

A formula that is wrong on both pages of an optimizer passes every other test. So each needs a witness: a file of this folder
that holds one or more of

    WITNESSES   a list of `Witness`: another package's optimizer, or a script written from the paper
    TORCH       a `TorchOptim`: an optimizer of torch.optim, compared in every option that it has
    NONE        a sentence that says why there is no independent implementation

`test_witnesses.py` compares the first, `test_peers_torch.py` the second; both ask that every hyper-parameter was varied.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

Arrays = list[NDArray[Any]]

STEPS = 30
#: max|a - b| / max|b| per array, with the largest |b| that the array has had so far (an array of one element may pass
#: through zero). Both sides round every operation to 1.1e-16, in different arrangements (torch divides by a root where we
#: multiply by its inverse): 30 steps of some ten operations differ by at most 300 such roundings, 3e-14; the rest of 1e-12
#: is for cancellation. A witness that needs more says why.
TOLERANCE = 1e-12


class Stepper(Protocol):
    """An independent optimizer over parameters of its own."""

    @property
    def params(self) -> Any:
        """The parameters, as a sequence of arrays."""

    def step(self, grads: Arrays, **inputs: Any) -> None:
        """Update the parameters."""

    def slot(self, where: Any) -> Any:
        """Return a part of the state that one of our slots is to equal: an array per tensor, or one for all."""


@dataclass(frozen=True)
class Witness:
    """An independent implementation, and the arguments that ours is compared with it under."""

    #: What it is, beginning with the package: "optax.contrib.adopt", "pytorch_optimizer.Lamb", "script".
    source: str
    #: `make(start, **arguments)` returns it over copies of `start`, given our arguments.
    make: Callable[..., Stepper]
    #: Our arguments. All that are passed are named, since the defaults differ.
    cases: list[dict[str, Any]]
    #: Our slots, and where they are in its state. A slot that ours has not under a case's arguments is passed over.
    slots: dict[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    #: Why the tolerance is another one.
    reason: str = ""
    #: Take the gradients of a noisy convex problem at its parameters, in place of random numbers.
    convex: bool = False
    #: Some gradients of the second tensor are zero, unless the other implementation divides 0 by 0 there.
    zeros: bool = True
    #: Can it be installed from the package index? Else it is compared where its files are on the path.
    indexed: bool = True

    def __post_init__(self) -> None:
        assert self.tolerance == TOLERANCE or self.reason, f"{self.source}: say why the tolerance is another one"

    @property
    def package(self) -> str:
        """What must be installed."""
        return self.source.split(".")[0]


# ---- packages -------------------------------------------------------------------------------------------------------------


@contextmanager
def installed(package: str) -> Iterator[Any]:
    """Import a package, or skip the test where there is none; meanwhile jax, torch and keras have scalars in float64, too.

    Torch also has one thread: on small tensors its threads only wait for one another, 20 ms a step on a busy machine.
    """
    module = None if package == "script" else pytest.importorskip(package)
    with ExitStack() as before:
        if jax := sys.modules.get("jax"):
            before.callback(jax.config.update, "jax_enable_x64", jax.config.jax_enable_x64)
            jax.config.update("jax_enable_x64", True)
        if torch := sys.modules.get("torch"):
            before.callback(torch.set_default_dtype, torch.get_default_dtype())
            before.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_default_dtype(torch.float64)
            torch.set_num_threads(1)
        if keras := sys.modules.get("keras"):
            before.callback(keras.config.set_floatx, keras.config.floatx())
            keras.config.set_floatx("float64")
        yield module


#: For 30 steps of a few hundred numbers XLA compiles longer than it computes: without its slowest parts, a third as long.
XLA = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of arrays compiled by jax as a whole; one operation at a time, each is compiled for each shape.

    A function that takes its arguments for numbers of Python or arrays of NumPy is called as it is.
    """
    jax = importlib.import_module("jax")
    chosen = jax.jit(function, compiler_options=XLA)

    def call(*arguments: Any) -> Any:
        nonlocal chosen
        try:
            return chosen(*arguments)
        except jax.errors.JAXTypeError:
            chosen = function
            return function(*arguments)

    return call


# ---- optax ----------------------------------------------------------------------------------------------------------------


class _Optax:
    def __init__(self, build: Callable[..., Any], start: Arrays, arguments: dict[str, Any]) -> None:
        optax = importlib.import_module("optax")
        transformation = build(optax, **arguments)

        def update(grads: Arrays, state: Any, params: Any, inputs: dict[str, Any]) -> Any:
            updates, state = transformation.update(grads, state, params, **inputs)
            return optax.apply_updates(params, updates), state

        self.params = [importlib.import_module("jax.numpy").asarray(p) for p in start]
        self.state = compiled(transformation.init)(self.params)
        self.update = compiled(update)

    def step(self, grads: Arrays, **inputs: Any) -> None:
        self.params, self.state = self.update(grads, self.state, self.params, inputs)

    def slot(self, where: Callable[[Any], Any]) -> Any:
        return where(self.state)


def from_optax(build: Callable[..., Any]) -> Callable[..., Stepper]:
    """Compare with `build(optax, **arguments)`, a gradient transformation; a slot is a function of its state."""
    return lambda start, **arguments: _Optax(build, start, arguments)


# ---- torch-like packages --------------------------------------------------------------------------------------------------


class _TorchLike:
    def __init__(
        self, package: str, build: Callable[..., Any], start: Arrays, arguments: dict[str, Any], call: Any
    ) -> None:
        self.torch = importlib.import_module("torch")
        self.tensors = [self.torch.from_numpy(p.copy()).requires_grad_() for p in start]
        self.optimizer = build(importlib.import_module(package), self.tensors, **arguments)
        self.call = call

    @property
    def params(self) -> Arrays:
        return [tensor.detach().numpy() for tensor in self.tensors]

    def step(self, grads: Arrays, **inputs: Any) -> None:
        for tensor, grad in zip(self.tensors, grads, strict=True):
            tensor.grad = None if grad is None else self.torch.from_numpy(np.array(grad))
        self.call(self.optimizer, **inputs)

    def slot(self, where: str | Callable[[Any], Any]) -> Any:
        if callable(where):
            return where(self.optimizer)
        return [np.asarray(self.optimizer.state[tensor][where]) for tensor in self.tensors]


def from_torch(
    package: str, build: Callable[..., Any], call: Callable[..., Any] = lambda optimizer: optimizer.step()
) -> Callable[..., Stepper]:
    """Compare with `build(package, tensors, **arguments)`, in the manner of torch.optim.

    A slot is the name of an entry of `optimizer.state[tensor]`, or a function of the optimizer; `call(optimizer, **inputs)`
    steps it.
    """
    return lambda start, **arguments: _TorchLike(package, build, start, arguments, call)


def with_plain_eps(optimizer: Any, lr: Any, eps: float) -> Any:
    """Prepare an optimizer of pytorch_optimizer for `step_with_plain_eps`: without the 1e-15 that it adds to v."""
    optimizer.param_groups[0] |= {"wanted_lr": lr, "wanted_eps": eps}
    optimizer.apply_ams_bound = functools.partial(optimizer.apply_ams_bound, exp_avg_sq_eps=0.0)
    return optimizer


def step_with_plain_eps(optimizer: Any) -> None:
    """Step at the wanted rate, and with an eps that the package's division of the whole root makes the wanted one."""
    (group,) = optimizer.param_groups
    step, lr = group.get("step", 0), group["wanted_lr"]
    group["lr"] = lr(step) if callable(lr) else lr
    group["eps"] = group["wanted_eps"] * np.sqrt(1 - group["betas"][1] ** (step + 1))
    optimizer.step()


# ---- keras ----------------------------------------------------------------------------------------------------------------

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported


class _Keras:
    def __init__(self, build: Callable[..., Any], start: Arrays, arguments: dict[str, Any]) -> None:
        keras = importlib.import_module("keras")
        self.optimizer = build(keras, **arguments)
        self.variables = [keras.Variable(p, dtype="float64") for p in start]
        self.optimizer.build(self.variables)
        self.update = compiled(self.optimizer.stateless_apply)

    @property
    def params(self) -> Arrays:
        return [np.asarray(variable.value) for variable in self.variables]

    def step(self, grads: Arrays, **inputs: Any) -> None:
        assert not inputs, "an optimizer of keras takes gradients alone"
        state = self.optimizer.variables
        after = self.update([each.value for each in state], grads, [each.value for each in self.variables])
        for variable, value in zip([*self.variables, *state], itertools.chain(*after), strict=True):
            variable.assign(value)

    def slot(self, where: Callable[[Any], Any]) -> Any:
        return [np.asarray(each.value) for each in where(self.optimizer)]


def from_keras(build: Callable[..., Any]) -> Callable[..., Stepper]:
    """Compare with `build(keras, **arguments)`; a slot is a function of the optimizer that gives its variables."""
    return lambda start, **arguments: _Keras(build, start, arguments)


# ---- scripts --------------------------------------------------------------------------------------------------------------


class _Script:
    def __init__(self, script: Callable[..., Any], start: Arrays, arguments: dict[str, Any]) -> None:
        self.script, self.arguments = script, arguments
        self.params = [p.copy() for p in start]
        self.states = [SimpleNamespace() for _ in start]
        self.t = 0

    def step(self, grads: Arrays, **inputs: Any) -> None:
        self.t += 1
        values = {key: each(self.t - 1) if callable(each) else each for key, each in self.arguments.items()}
        for i, (state, grad) in enumerate(zip(self.states, grads, strict=True)):
            further = [each[i] if isinstance(each, list) else each for each in inputs.values()]
            self.params[i] = np.asarray(self.script(state, self.t, self.params[i], grad, *further, **values))

    def slot(self, where: str) -> Any:
        return [getattr(state, where) for state in self.states]


def from_script(script: Callable[..., Any]) -> Callable[..., Stepper]:
    """Compare with a script from the paper, step by step and without regard to speed or rounding.

    `script(s, t, p, g, *inputs, **arguments)` returns the new parameter; `s` starts empty and keeps what it likes under the
    names of our slots.
    """
    return lambda start, **arguments: _Script(script, start, arguments)


class _Class:
    def __init__(self, script: Callable[..., Any], start: Arrays, arguments: dict[str, Any]) -> None:
        self.script = script([p.copy() for p in start], **arguments)

    @property
    def params(self) -> Arrays:
        return [np.asarray(p) for p in self.script.params]

    def step(self, grads: Arrays, **inputs: Any) -> None:
        self.script.step(grads, **inputs)

    def slot(self, where: str) -> Any:
        return getattr(self.script, where)


def from_class(script: Callable[..., Any]) -> Callable[..., Stepper]:
    """Compare with a script that goes over all tensors at once, for what sums over them.

    `script(start, **arguments)` has `params`, a list of arrays, and `step(grads, **inputs)`, which evaluates schedules by
    itself; a slot is the name of an attribute, a list of arrays or one number.
    """
    return lambda start, **arguments: _Class(script, start, arguments)


# ---- torch.optim ----------------------------------------------------------------------------------------------------------


def combinations(sizes: Sequence[int], **options: Any) -> list[dict[str, Any]]:
    """Return all choices of so many options, then all of them at once."""
    chosen = [dict(items) for size in sizes for items in itertools.combinations(options.items(), size)]
    return [*chosen, options]


def alone(**options: Any) -> list[dict[str, Any]]:
    """Return no option, each alone, and all."""
    return combinations((0, 1), **options)


def in_pairs(**options: Any) -> list[dict[str, Any]]:
    """Return no option, each alone, every two, and all."""
    return combinations((0, 1, 2), **options)


COMMON = {"lr": 0.05, "weight_decay": 0.1, "maximize": True}
BETAS = {"betas": (0.5, 0.9)}
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}


@dataclass(frozen=True)
class TorchOptim:
    """A class of torch.optim that does what one of ours does, in every option."""

    theirs: str
    #: Combinations of options in torch's words; the last has the most on, and stands for all in the other tests.
    options: list[dict[str, Any]]
    #: Our slots, and what torch calls them; None where torch has no such entry.
    slots: dict[str, str | None]
    #: What torch calls otherwise than we do, and that its value says nothing to ours.
    words: dict[str, str | tuple[str, ...] | None] = field(default_factory=dict)
    fused: bool = True
    #: Why it is not compared in complex numbers.
    not_complex: str = ""
    #: Inputs of our step that are to be the gradient.
    inputs: tuple[str, ...] = ()
    #: Slots of torch that are to exist and be zero before the first step.
    zeroed: tuple[str, ...] = ()
    #: Schedules of hyper-parameters other than lr, in torch's words: all at once, from the first step on.
    scheduled: dict[str, Callable[[int], Any]] = field(default_factory=dict)
    #: Options of torch that no case passes, and why.
    not_here: dict[str, str] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    #: Why the tolerance is another one.
    reason: str = ""
    #: Further cases, of another class of torch or of other words.
    also: tuple[TorchOptim, ...] = ()

    def __post_init__(self) -> None:
        assert self.tolerance == TOLERANCE or self.reason, f"{self.theirs}: say why the tolerance is another one"

    @property
    def all(self) -> tuple[TorchOptim, ...]:
        """This and the further cases."""
        return (self, *itertools.chain(*(each.all for each in self.also)))

    def in_our_words(self, options: dict[str, Any]) -> dict[str, Any]:
        """Translate options: `words` first, then what all of torch's classes have."""
        words = {"betas": ("beta1", "beta2"), "weight_decay": "l2"} | self.words
        ours: dict[str, Any] = {}
        for key, value in options.items():
            match words.get(key, key):
                case str(name):
                    ours[name] = value
                case tuple(names):
                    ours |= dict(zip(names, value, strict=True))
        return ours

    def ways(self, options: dict[str, Any]) -> dict[str, dict[str, bool]]:
        """Return torch's implementations: where two options meet in torch, its plain one stands for all."""
        ways = {"plain": {"foreach": False}}
        if len(options) < 3 or options is self.options[-1]:
            ways["foreach"] = {"foreach": True}
            if self.fused:
                ways["fused"] = {"fused": True}
        return ways


# ---- all of them ----------------------------------------------------------------------------------------------------------


def found() -> dict[str, ModuleType]:
    """Return the modules of this folder, by the rule they are for."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}
