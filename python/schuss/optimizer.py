"""The base class of every optimizer: hyper-parameters, state, the step, checkpoints."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, dataclass_transform

import numpy as np
from numpy.typing import DTypeLike, NDArray

from schuss import _core, memory, trees
from schuss._core import Undo, Values, publish
from schuss._guard import guarded
from schuss._runtime import checked_threads, held
from schuss.clipping import Clip, Clipper, as_clips
from schuss.hyperparameters import Domain, Hyperparameter, NonNegative, Schedule, as_float
from schuss.stages import Decay, GradientNoise, Skip

if TYPE_CHECKING:
    from schuss.constraints import Constraint, Projection
    from schuss.insight import Explanation
else:
    Constraint = Any  # imported where one is given: annotations are read when a class is made

_POLICIES = ("propagate", "raise", "skip")
_NOT_IN_TRAINING = "the parameters are those of eval() or a swapped() block; call train() or leave the block first"

#: Names that other libraries give to hyper-parameters, and patterns of the names that these have here.
_RENAMED = {
    "betas": ("momentum", "beta*", "adamw_beta*"),
    "learning_rate": ("lr",),
    "stepsize": ("lr",),
    "epsilon": ("eps*", "*_eps"),
}

#: Arguments of other libraries that are none here, and what there is instead.
_FOREIGN = {
    "weight_decay": "use decay=schuss.Decay(...), l2= for a regularised loss, or an optimizer that has it such as AdamW",
    "amsgrad": "use AMSGrad",
    "clipnorm": 'pass clip=schuss.ClipNorm(..., per="tensor")',
    "clipvalue": "pass clip=schuss.ClipValue(...)",
    "global_clipnorm": "pass clip=schuss.ClipNorm(...)",
    "schedule": "pass it as the hyper-parameter, lr=schuss.schedules.cosine(...)",
    "scheduler": "pass it as the hyper-parameter, lr=schuss.schedules.cosine(...)",
    "use_ema": "wrap it, schuss.EMA(optimizer)",
}


def _hint(key: str, known: Collection[str]) -> str:
    """Say what to write instead of an argument that is none of those known."""
    if key in _RENAMED:
        *others, last = [f"{name}=" for name in known if any(fnmatchcase(name, each) for each in _RENAMED[key])] or [""]
        if last:
            return f"pass {', '.join(others)} and {last}" if others else f"pass {last}"
    elif close := _did_you_mean(key, known):
        return close
    return f"it takes {', '.join(known)}" if known else "it takes none"


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    import difflib  # for a message only

    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


#: Called before a step with gradients and their scale; what it returns is called after the step, unless it is None.
Observer: TypeAlias = Callable[[Any, float], Callable[[], None] | None]


class StateError(ValueError):
    """A state dict that does not fit the optimizer; nothing was changed."""


class Group:
    """Parameters with hyper-parameters of their own.

    Parameters
    ----------
    params : tree of arrays
        As for an optimizer.
    **hyperparameters
        Values or schedules that replace those of the optimizer for these parameters.

    Examples
    --------
    >>> weights, biases = np.ones((3, 2)), np.ones(2)
    >>> opt = schuss.AdamW([schuss.Group(weights, weight_decay=0.1), schuss.Group(biases, weight_decay=0.0)], lr=1e-3)
    >>> opt.step([np.ones((3, 2)), np.ones(2)])
    """

    def __init__(self, params: trees.Tree, **hyperparameters: float | Schedule) -> None:
        self.params = params
        self.hyperparameters = hyperparameters

    def __repr__(self) -> str:
        """Show what the group overrides."""
        return f"Group({', '.join(['...', *(f'{k}={v!r}' for k, v in self.hyperparameters.items())])})"


@dataclass(frozen=True)
class StepInfo:
    """What the last step did.

    Attributes
    ----------
    step : int
        Steps done before it.
    hyperparameters : tuple of dict
        The values it used, schedules evaluated, for each group.
    norm : float or None
        The global norm of the gradients before clipping, where a clip or a `nonfinite` policy read them.
    clip : float
        What the global norm was multiplied with by clipping.
    clipped : float
        The share of what has a norm of its own under the clip (all, tensors or rows) that was scaled down.
    skipped : bool
        True if a non-finite gradient made `nonfinite="skip"` leave everything as it was.
    """

    step: int
    hyperparameters: tuple[dict[str, float], ...]
    norm: float | None
    clip: float
    clipped: float
    skipped: bool

    @property
    def lr(self) -> float:
        """The step size of the first group."""
        return self.hyperparameters[0]["lr"]


def _option(*, default: Any, kw_only: bool = True, init: bool = True) -> Any:
    """Declare an option of every optimizer for type checkers."""
    return default


@dataclass_transform(kw_only_default=True, field_specifiers=(_option,))
class _Typed:
    """Tells type checkers that the annotated attributes of subclasses are the arguments of their constructors."""


class Optimizer(_Typed):
    """Base class of the optimizers.

    A subclass names its compiled rule, annotates its hyper-parameters and writes the rule once more in NumPy as
    `reference`; everything else is here. Every optimizer takes, besides the hyper-parameters of its own:

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place. Float64, float32, float16, bfloat16, complex128 or complex64; C- or F-contiguous, writeable, not
        overlapping one another. Complex numbers are stepped as pairs of reals.
    l2, l1 : float or schedule
        Weights of the penalties ``l2/2 * sum(p**2)`` and ``l1 * sum(abs(p))`` on the loss: ``l2 * p + l1 * sign(p)`` is
        added to the gradient. In [0, inf).
    maximize : bool
        Ascend instead of descending.
    proximal : bool
        Let `l1` act after the step, as the soft threshold ``lr * l1`` (which makes zeros), and not on the gradient.
    centralize : bool
        Take the mean of every row (entry along the first axis) away from the gradients of arrays with more than one
        dimension, before they are clipped; not for complex numbers. Yong et al. (2020), *Gradient Centralization*,
        https://arxiv.org/abs/2004.01461
    clip : Clip or sequence of them, optional
        Bounds of the gradients: `ClipNorm`, `ClipValue`, `ClipAdaptive`, `AutoClip`, `AdaGC`; applied in their order.
    noise : GradientNoise, optional
        Normal noise, added to the clipped gradients.
    decay : Decay, optional
        Decay of the weights beside the rule.
    bounds : (float, float), constraint, or dict of these, optional
        A box ``[lower, upper]``, or another set of `schuss.constraints`, that parameters are projected on after every step.
        A dict has patterns of names as its keys, as `overrides` has.
    nonfinite : {"propagate", "raise", "skip"} or Skip, optional
        What a NaN or infinity in any gradient does: step with it, raise FloatingPointError, or leave everything as it is
        and say so in `last` and `skipped` (`Skip` bounds how often in a row). "raise" where `clip` is given, else
        "propagate".
    overrides : dict, optional
        Hyper-parameters of parameters by name: patterns (as for files, ``*`` and ``?``) of names such as ``"head.bias"``,
        with dicts of values or schedules, ``{"*.bias": {"weight_decay": 0}}``. The first pattern that fits counts.
    state_dtype : dtype, optional
        Of the state arrays; "bfloat16" and "float16" halve them. The dtype that the step computes in by default: float64
        for float64 and complex128 parameters, else float32.
    dtype : "bfloat16", optional
        Declares that uint16 arrays hold the bits of bfloat16 numbers.
    threads : int, optional
        The number of threads; the results are the same bits for any. See `set_num_threads`.
    flush_subnormals : bool
        Treat subnormal numbers as zero during the step: faster where many occur, and not equal to the reference then.
    """

    rule: ClassVar[str]
    kind: ClassVar[str]
    exact: ClassVar[bool] = True
    #: What `step` takes besides the gradients, by keyword.
    inputs: ClassVar[tuple[str, ...]] = ()
    #: The numbers among them, which are one for all tensors.
    given: ClassVar[tuple[str, ...]] = ()
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {}
    #: Options of the class beside those of every optimizer, and their defaults.
    options: ClassVar[dict[str, Any]] = {}
    #: Slots whose arrays have shapes of their own, see `shape_of`; the others have their parameter's shape, or are numbers.
    shaped: ClassVar[tuple[str, ...]] = ()
    #: What steps in the place of parameters, by the tensor's number: arrays of other shapes, which a wrapper reads.
    _stand_ins: Mapping[int, NDArray[Any]] = MappingProxyType({})
    #: Hyper-parameters that groups may override although the sums of the rule run over all tensors.
    per_group: ClassVar[frozenset[str]] = frozenset({"weight_decay", "l2", "l1"})

    if TYPE_CHECKING:
        params: Any = _option(default=None, kw_only=False)
    l2: NonNegative = _option(default=0.0)  #: weight of l2/2 * sum(p**2) in the loss
    l1: NonNegative = _option(default=0.0)  #: weight of l1 * sum(abs(p)) in the loss
    maximize: bool = _option(default=False)
    proximal: bool = _option(default=False)
    centralize: bool = _option(default=False)
    clip: Clip | Sequence[Clip] | None = _option(default=None)
    noise: GradientNoise | None = _option(default=None)
    decay: Decay | None = _option(default=None)
    bounds: tuple[float, float] | Constraint | Mapping[str, tuple[float, float] | Constraint] | None = _option(
        default=None
    )
    nonfinite: Literal["propagate", "raise", "skip"] | Skip | None = _option(default=None)
    overrides: Mapping[str, Mapping[str, float | Schedule]] | None = _option(default=None)
    state_dtype: DTypeLike | None = _option(default=None)
    dtype: Literal["bfloat16"] | None = _option(default=None)
    threads: int | None = _option(default=None)
    flush_subnormals: bool = _option(default=False)

    # ---- declaration -----------------------------------------------------------------------------------------------

    def __init_subclass__(cls, rule: str | None = None, **kwargs: Any) -> None:
        """Tie the class to its rule and turn its annotations into checked attributes."""
        super().__init_subclass__(**kwargs)
        if rule is not None:
            cls.rule = rule
            kernel = next(iter(cls._compiled()["kernels"].values()))
            cls.kind, cls.given = kernel["kind"], tuple(kernel["given"])
            cls.inputs = (*kernel["inputs"], *cls.given)
        found, chosen = {}, {}
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            domain = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Domain)), None)
            if (
                domain is None
                and name in vars(cls)
                and name in inspect.get_annotations(cls)
                and typing.get_origin(hint) is not ClassVar
            ):
                chosen[name] = cls.__dict__[name]
            if domain is not None and name not in cls.hyperparameters:
                default = cls.__dict__.get(name, getattr(Optimizer, name, None))
                assert default is not None, f"{cls.__name__}.{name} needs a default"
                found[name] = Hyperparameter(cls, name, default, domain)
                setattr(cls, name, found[name])
        cls.options = chosen | {name: value for name, value in cls.options.items() if name not in chosen}
        # The rule's own first, then what every optimizer takes.
        common = Optimizer.__annotations__
        declared = cls.hyperparameters | found
        cls.hyperparameters = dict(sorted(declared.items(), key=lambda item: item[0] in common))
        arguments = [inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        options = cls.options | {name: getattr(Optimizer, name, None) for name in _OPTIONS}
        for name, default in ({n: h.default for n, h in cls.hyperparameters.items()} | options).items():
            arguments.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        cls.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]

    @classmethod
    def _compiled(cls) -> dict[str, Any]:
        """Return what the compiled rule declares."""
        rules = _rules()
        if cls.rule not in rules:
            raise TypeError(
                f"{cls.__name__}: no rule {cls.rule!r} is compiled; write cpp/rules/<kind>/{cls.rule}.hpp, or install the "
                "package again if it is there"
            )
        return typing.cast(dict[str, Any], rules[cls.rule])

    def _kernel(self) -> dict[str, Any]:
        """Return what the rule declares under this optimizer's construction flags."""
        return typing.cast(dict[str, Any], self._compiled()["kernels"][self._flags])

    @staticmethod
    def reference(p: NDArray[Any], g: NDArray[Any], *args: Any, **kwargs: Any) -> Any:
        """Step one tensor in NumPy: the formula that the compiled rule equals bit for bit."""
        raise NotImplementedError

    def initial(self, slot: str, parameter: NDArray[Any] | None, values: Mapping[str, float]) -> float | NDArray[Any]:
        """Return what a slot holds before the first step (zero, unless a class says otherwise).

        Parameters
        ----------
        slot : str
            The slot's name.
        parameter : array, or None for a slot of the optimizer as a whole
            Not to be changed.
        values : dict
            The hyper-parameters of the parameter's group at step 0.
        """
        return 0.0

    def evaluation(
        self, parameter: NDArray[Any], state: Mapping[str, Any], values: Mapping[str, float]
    ) -> NDArray[Any]:
        """Return what a parameter is in `eval` (itself, unless a class says otherwise).

        Parameters
        ----------
        parameter : array
            In the type that the step computes in, as the reference takes it; not to be changed.
        state : dict
            The tensor's slots by name, as the reference takes them; not to be changed.
        values : dict
            The hyper-parameters of the parameter's group, at the present step.
        """
        return parameter

    # ---- construction ----------------------------------------------------------------------------------------------

    def __init__(self, params: trees.Tree | Sequence[Group], *unnamed: Any, **arguments: Any) -> None:
        name = type(self).__name__
        if not hasattr(self, "rule"):
            raise TypeError(f"{name}: it is what optimizers have in common; choose one of schuss.optimizers()")
        if unnamed:
            raise TypeError(
                f"{name}: all arguments but params have names, got {unnamed[0]!r:.40} without one; "
                f"write {name}(params, {next(iter(self.hyperparameters))}=...)"
            )
        options = {key: arguments.pop(key, getattr(type(self), key)) for key in self._all_options()}
        for key in arguments:
            self._require_known(key)
        self._defaults: dict[str, Any] = {
            key: each.check(name, arguments.get(key, each.default)) for key, each in self.hyperparameters.items()
        }
        self._set_options(**options)
        self._guard = _core.Guard(name)
        self._flags = 0
        self._groups: list[dict[str, Any]] = []
        self._last: tuple[int, StepInfo | None] | None = None
        self._bind(params)

    def _require_known(self, key: str) -> None:
        """Refuse an argument that is none, with a hint."""
        name = type(self).__name__
        known = [*self.hyperparameters, *self._all_options()]
        if key in known:
            return
        raise TypeError(f"{name}: {key} is not an argument of {name}; {_FOREIGN.get(key) or _hint(key, known)}")

    @classmethod
    def _all_options(cls) -> tuple[str, ...]:
        """Return the names of what is chosen at construction and is no hyper-parameter."""
        return (*cls.options, *_OPTIONS)

    def _checked_option(self, key: str, value: Any) -> Any:
        """Return an option of the class as it is kept, or refuse it."""
        return value

    def _set_options(self, **options: Any) -> None:
        """Check and keep the options that no rule knows."""
        name = type(self).__name__
        options |= {key: self._checked_option(key, options[key]) for key in self.options}
        for key in ("maximize", "proximal", "centralize", "flush_subnormals"):
            if not isinstance(options[key], bool):
                raise TypeError(f"{name}: {key} must be True or False, got {options[key]!r}")
        as_clips(name, options["clip"])
        for key, kind in {"noise": GradientNoise, "decay": Decay}.items():
            if not (options[key] is None or isinstance(options[key], kind)):
                raise TypeError(f"{name}: {key} must be a {kind.__name__} or None, got {options[key]!r}")
        if not (isinstance(options["nonfinite"], Skip) or options["nonfinite"] in (None, *_POLICIES)):
            raise ValueError(
                f"{name}: nonfinite must be one of {', '.join(_POLICIES)}, or a Skip, got {options['nonfinite']!r}"
            )
        if not isinstance(options["overrides"] or {}, Mapping) or not all(
            isinstance(each, Mapping) for each in (options["overrides"] or {}).values()
        ):
            raise TypeError(f"{name}: overrides must be a dict of dicts, such as {{'*.bias': {{'l2': 0}}}}, or None")
        lr = "lr" in self.hyperparameters
        if options["proximal"] and not lr:
            raise ValueError(f"{name}: proximal needs a step size, and {name} has no lr; use l1 without it")
        if options["decay"] is not None and not lr and options["decay"].kind != "independent":
            raise ValueError(f'{name}: it has no lr for the decay to follow; pass Decay(..., kind="independent")')
        if options["dtype"] not in (None, "bfloat16"):
            raise ValueError(f'{name}: dtype must be "bfloat16" or None, got {options["dtype"]!r}')
        if options["threads"] is not None:
            options["threads"] = checked_threads(f"{name}: threads", options["threads"])
        if options["bounds"] is not None:
            from schuss.constraints import checked

            checked(name, options["bounds"])
        self._state_dtype = memory.checked_dtype(f"{name}: state_dtype", options["state_dtype"], options["dtype"])
        vars(self).update(options)

    if not TYPE_CHECKING:  # a type checker that sees this method takes any attribute

        def __setattr__(self, key: str, value: object) -> None:
            """Set a hyper-parameter; refuse what would pass unnoticed."""
            if not key.startswith("_") and not hasattr(getattr(type(self), key, None), "__set__"):
                name = type(self).__name__
                if key in self._all_options():
                    raise AttributeError(f"{name}: {key} is chosen at construction; make a new optimizer")
                hint = _did_you_mean(key, self.hyperparameters) or f"set {', '.join(self.hyperparameters)}"
                raise AttributeError(f"{name}: {key} is not an attribute that can be set; {hint}")
            super().__setattr__(key, value)

    def _bind(self, params: Any) -> None:
        """Take parameters for the first time: groups, flags, state."""
        params = [params] if isinstance(params, Group) else params
        groups = self._as_groups(params)
        values = [self._group_values(group.hyperparameters) for group in groups]
        self._grouped = isinstance(params, list | tuple) and bool(groups) and params[0] is groups[0]
        tree = [group.params for group in groups] if self._grouped else params
        group_of = [k for k, group in enumerate(groups) for _ in trees.leaves(group.params)]
        names = [name for group in groups for name in trees.names(group.params)]
        trees.by_name(f"{type(self).__name__}: overrides", self.overrides or {}, names)
        self._override(values, group_of, names)
        self._take(tree, values, self._flags_of(values), group_of)

    def _override(self, values: list[dict[str, Any]], group_of: list[int], names: Sequence[str]) -> None:
        """Give parameters with overrides groups of their own, after the others."""
        found: dict[tuple[int, str], int] = {}
        for i, name in enumerate(names):
            own = next((key for key in self.overrides or {} if fnmatchcase(name, key)), None)
            if own is None:
                continue
            if (group_of[i], own) not in found:
                found[group_of[i], own] = len(values)
                changed = self.overrides[own]  # type: ignore[index]
                values.append(self._group_values(changed, values[group_of[i]]))
            group_of[i] = found[group_of[i], own]

    def _names(self) -> list[str]:
        """Return the parameters' names, each within its group."""
        return [name for part in (self._tree if self._grouped else [self._tree]) for name in trees.names(part)]

    def _take(self, tree: Any, values: list[dict[str, Any]], flags: int, group_of: list[int]) -> None:
        """Make state and plan for parameters, of groups of these hyper-parameters."""
        self._kept: list[NDArray[Any]] | None = None  # in eval(): the weights in training
        self._observers: tuple[Observer, ...] = ()
        self._averages: list[NDArray[Any]] | None = None
        self._average_share = 0.0
        self._skips = np.zeros(2, np.int64)  # in all, and in a row
        # Lists and dicts of our own: the caller may put other arrays into his, which would not be the ones we step.
        self._tree = trees.map_leaves(lambda leaf: leaf, tree)
        self._flags, self._groups = flags, values
        self._group_of = group_of
        self._set_leaves()
        self._clipper = self._new_clipper()
        self._counts = np.zeros(len(self._leaves) + 1, np.int64)
        self._allocate_state()
        self._make_plan()

    def _as_groups(self, params: Any) -> list[Group]:
        """Return the groups that were passed, or the one that all parameters form."""
        name = type(self).__name__
        listed = isinstance(params, list | tuple)
        groups = [each for each in params if isinstance(each, Group)] if listed else []
        if groups and len(groups) != len(params):
            raise TypeError(f"{name}: params mixes groups and arrays; put every array into a Group")
        if not groups:
            groups = [Group(params)]
        for k, group in enumerate(groups):
            where = f"params[{k}]" if len(groups) > 1 else "params"
            trees.check_depth(f"{name}: {where}", group.params)
            if next(trees.leaves(group.params), None) is None:
                raise ValueError(f"{name}: {where} holds no array; pass at least one")
        return groups

    def _new_clipper(self) -> Clipper:
        """Return the clips, which have learnt nothing."""
        return Clipper(as_clips(type(self).__name__, self.clip), len(self._leaves), self.centralize)

    def _group_values(self, own: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a group's checked hyper-parameters: its own, and the others from the optimizer or another group."""
        name = type(self).__name__
        for key in own:
            if key in self._all_options():
                raise TypeError(f"{name}: {key} belongs to the optimizer as a whole; pass it to {name}, not to a Group")
            self._require_known(key)
            self._require_own(key)
        values = {**(self._defaults if others is None else others), **own}
        return {key: each.check(name, values[key]) for key, each in self.hyperparameters.items()}

    def _require_own(self, key: str) -> None:
        """Refuse a hyper-parameter that groups cannot differ in."""
        name = type(self).__name__
        if self.hyperparameters[key].domain.switch or (self.kind == "global" and key not in self.per_group):
            raise TypeError(f"{name}: {key} is one for all groups; pass it to {name}, not to a Group")

    def _flags_of(self, groups: Sequence[Mapping[str, Any]]) -> int:
        """Return the construction flags: which hyper-parameters are on in any group."""
        for values in groups:
            if reason := self.objection(values):
                raise ValueError(f"{type(self).__name__}: {reason}")
        return sum(
            1 << bit
            for bit, flag in enumerate(self._compiled()["flags"])
            if any(bool(values[flag]) for values in groups)
        )

    @classmethod
    def objection(cls, values: Mapping[str, Any]) -> str | None:
        """Say why hyper-parameters that are each in range make no sense together; None where they do."""
        return None

    def _set_leaves(self) -> None:
        """Flatten the parameters' tree."""
        self._paths = [path for path, _ in trees.leaves(self._tree)]
        self._leaves: list[Any] = [leaf for _, leaf in trees.leaves(self._tree)]
        self._look_at_leaves()
        # As they are now: shape and dtype of an array can be assigned to.
        self._kinds: list[Any] = [memory.kind(leaf) if isinstance(leaf, np.ndarray) else None for leaf in self._leaves]

    def _look_at_leaves(self) -> None:
        """Find out what the optimizer's kind has to know of the parameters before state is made."""

    def _require_unchanged(self) -> None:
        """Refuse parameters that their state does not fit any more."""
        for path, leaf, kind in zip(self._paths, self._leaves, self._kinds, strict=True):
            if memory.kind(leaf) != kind:
                raise BufferError(
                    f"{type(self).__name__}: params{path} was moved, resized or retyped since the optimizer was made; "
                    "call rebind(params)"
                )

    def _stand_in(self, shapes: Mapping[int, tuple[int, ...]]) -> None:
        """Step arrays of other shapes in the place of some parameters from now on, with fresh state in these shapes."""
        self._stand_ins = {
            i: np.zeros(shape, memory.compute_dtype(self._leaves[i])) for i, shape in sorted(shapes.items())
        }
        self._take(self._tree, self._groups, self._flags, self._group_of)

    @property
    def _stepped(self) -> list[Any]:
        """What the rule steps: the parameters, and what stands in for some."""
        return [self._stand_ins.get(i, leaf) for i, leaf in enumerate(self._leaves)]

    def _allocate_state(self) -> None:
        """Make the slots of the rule and fill them with what they hold before the first step."""
        kernel = self._kernel()
        self._element_slots: list[str | None] = kernel["state"]
        self._scalar_slots: list[str] = kernel["scalars"]
        # The plan has the sentence for what cannot be stepped.
        arrays = [leaf if memory.is_steppable(leaf) else np.zeros(0) for leaf in self._stepped]
        present = [slot for slot in self._element_slots if slot is not None]

        def keeps(slot: int, tensor: int) -> bool:
            return self._keeps(present[slot], tensor)

        allocated = dict(zip(present, memory.allocate(arrays, len(present), self._state_dtype, keeps), strict=True))
        self._slots: list[list[Any]] = [
            [None] * len(arrays) if slot is None else allocated[slot] for slot in self._element_slots
        ]
        for slot in self.shaped:
            shapes = [self.shape_of(slot, i) for i in range(len(arrays))]
            self._slots.append(
                [
                    None if shape is None else np.zeros(shape, memory.compute_dtype(array))
                    for shape, array in zip(shapes, arrays, strict=True)
                ]
            )
        self._element_slots = [*self._element_slots, *self.shaped]
        scope = kernel["scope"]
        units = [len(a) if scope == "row" and a.ndim > 1 else 1 for a in arrays]
        self._first_unit = [0] * len(arrays) if scope == "all" else list(np.cumsum([0, *units[:-1]]))
        self._units = units
        self._scalars = np.zeros((1 if scope == "all" else sum(units), len(self._scalar_slots)))
        self._fill(arrays)

    def _fill(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Write what slots hold before the first step, where that is not zero."""
        values = self._values_at(0)
        for i, array in enumerate(arrays):
            for name, slot in self._named_slots(i):
                start = self.initial(name, self._readable(array), values[self._group_of[i]])
                if isinstance(start, np.ndarray) or start != 0:
                    self._write(slot, start)
        for j, name in enumerate(self._scalar_slots):
            per_tensor = [None] if self._kernel()["scope"] == "all" else arrays
            for i, each in enumerate(per_tensor):
                first = self._first_unit[i]
                group = 0 if each is None else self._group_of[i]
                self._scalars[first : first + self._units[i], j] = self.initial(name, each, values[group])

    def _keeps(self, slot: str, tensor: int) -> bool:
        """Tell whether a tensor has a slot at all."""
        return True

    def shape_of(self, slot: str, tensor: int) -> tuple[int, ...] | None:
        """Return the shape of a slot of `shaped`; None where the tensor has none.

        Parameters
        ----------
        slot : str
            The slot's name.
        tensor : int
            Which of the parameters.
        """
        raise NotImplementedError

    def _named_slots(self, tensor: int) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the names and arrays of a tensor's slots, but for those that are single numbers."""
        for name, slot in zip(self._element_slots, self._slots, strict=True):
            if name is not None and slot[tensor] is not None:
                yield name, slot[tensor]

    def _readable(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array as numbers, where it may hold the bits of bfloat16."""
        from schuss.reference import widened

        return widened(array) if array.dtype == memory.BFLOAT16_BITS else array

    def _write(self, array: NDArray[Any], values: float | NDArray[Any]) -> None:
        """Write numbers into an array, which may hold the bits of bfloat16."""
        from schuss.reference import rounded

        if array.dtype == memory.BFLOAT16_BITS:
            array[...] = rounded(np.broadcast_to(np.asarray(values, np.float32), array.shape), array.dtype)
        elif array.dtype.kind == "c" and not np.iscomplexobj(values):
            array.real[...] = array.imag[...] = values  # a pair of reals: the same start for both
        else:
            array[...] = values

    def _make_plan(self) -> None:
        """Compile parameters, state and options into the plan that steps them."""
        self._plan = _core.Plan(
            type(self).__name__,
            self._guard,
            self._compiled()["index"],
            self._flags,
            trees.structure(self._tree),
            self._paths,
            self._stepped,
            self._group_of,
            len(self._groups),
            [self._stream(i) for i in range(len(self._leaves))],
            self._slots[: len(self._slots) - len(self.shaped)],
            self._scalars,
            self._counts,
            self.dtype == "bfloat16",
        )
        self._plan.set_options(
            -1.0 if self.maximize else 1.0,
            self._clipper.by_rows,
            _POLICIES.index(self._policy),
            self.flush_subnormals,
            self.threads or 0,
        )
        self._plan.count_skips(self._skips, int(self.nonfinite.budget) if isinstance(self.nonfinite, Skip) else -1)
        for slot in self._slots[len(self._slots) - len(self.shaped) :]:
            self._plan.protect([array for array in slot if array is not None])
        self._tell_plan()
        boxes = self._boxes()
        for i, (path, leaf) in enumerate(zip(self._paths, self._stepped, strict=True)):
            if self._clipper.by_rows and memory.is_fortran(leaf):
                raise BufferError(
                    f"{type(self).__name__}: params{path} is in Fortran order, but its rows must lie side by side for clip "
                    "or centralize; pass a C-contiguous array"
                )
            if self.centralize and leaf.dtype.kind == "c":
                raise TypeError(
                    f"{type(self).__name__}: params{path} is complex, and centralize would take one mean of real and imaginary "
                    "parts; center the gradients before the step"
                )
            if (box := boxes[i]) is not None:
                self._plan.set_box(i, *box)
            if self.noise is not None:
                self._plan.set_noise(i, self._stream_named(f"noise of {path}"))
        if self.decay is not None:
            self._set_decay(self.decay)
        self._projections = self._bound_constraints(self._leaves)
        if self._averages is not None:
            self._plan.set_averages(self._averages)
        self._look_around()
        self._push(self.t, self._values_at(self.t))
        self._last = None  # its number is of the plan before, and the new one counts from 0

    def _tell_plan(self) -> None:
        """Tell a new plan what the optimizer's kind knows of the tensors."""

    #: Does the rule stop between two sweeps?
    _stops: ClassVar[bool] = False

    def _between(self, values: Sequence[Mapping[str, float]], sweep: int) -> Any:
        """Do the work between two sweeps: called within a step with the groups' values and the number of sweeps done.

        For -1, before the last of them, it returns what the plan's `step` says.
        """

    @guarded
    def _take_averages(self, averages: list[NDArray[Any]]) -> None:
        """Let steps move running averages of the parameters, by `_average_share` towards what they are then."""
        with held, Undo([], [self]):
            self._averages = averages
            self._make_plan()

    def _factors(self, norm: float, scale: float) -> NDArray[np.float64]:
        """Return what the gradients of the step under way are multiplied with."""
        self._clipper.step, self._clipper.scale = self.t, scale
        return self._clipper.factors(self._plan, norm)

    def _set_decay(self, decay: Decay) -> None:
        """Tell the plan which tensors decay, and where to."""
        name = type(self).__name__
        anchors: list[NDArray[Any] | None] = [None] * len(self._leaves)
        if decay.toward is not None:
            if trees.structure(decay.toward) != trees.structure(self._tree):
                raise ValueError(f"{name}: toward of decay must have the parameters' nesting")
            anchors = [
                self._anchor(i, array) for i, array in enumerate(trees.matching_leaves(decay.toward, self._tree))
            ]
        excluded = trees.by_name(f"{name}: exclude of decay", decay.patterns, self._names())
        self._decays = [(pattern is None, anchor) for pattern, anchor in zip(excluded, anchors, strict=True)]
        for i, (decays, anchor) in enumerate(self._decays):
            self._plan.set_decay(i, decays, anchor)

    def _boxes(self) -> list[tuple[float, float] | None]:
        """Return the bounds of every tensor's elements, where these are all there is."""
        return [None if each is None else each.box for each in self._constraints()]

    def _constraints(self) -> list[Constraint | None]:
        """Return the constraint of every tensor."""
        if self.bounds is None:
            return [None] * len(self._leaves)
        from schuss.constraints import checked

        name = type(self).__name__
        bounds = checked(name, self.bounds)
        patterns = bounds if isinstance(bounds, dict) else {"*": bounds}
        chosen = trees.by_name(f"{name}: bounds", patterns, self._names())
        return [None if key is None else patterns[key] for key in chosen]

    def _bound_constraints(self, leaves: Sequence[NDArray[Any]]) -> list[tuple[list[int], Projection]]:
        """Bind every constraint that the step does not apply itself to its tensors; return it with their numbers."""
        found, constraints = [], self._constraints()
        for constraint in dict.fromkeys(each for each in constraints if each is not None and each.box is None):
            tensors = [i for i, each in enumerate(constraints) if each == constraint]
            arrays = {self._paths[i]: leaves[i] for i in tensors}
            options: Any = {"who": type(self).__name__, "threads": self.threads, "dtype": self.dtype}
            found.append((tensors, constraint.bind(arrays, **options)))
        return found

    def _anchor(self, tensor: int, array: Any) -> NDArray[Any]:
        """Return a copy of an array as the plan takes it: of its parameter's shape, order and compute type."""
        leaf, compute = self._leaves[tensor], memory.compute_dtype(self._leaves[tensor])
        if (
            not isinstance(array, np.ndarray)
            or array.shape != leaf.shape
            or (array.dtype.kind == "c") != (leaf.dtype.kind == "c")
        ):
            raise ValueError(
                f"{type(self).__name__}: toward{self._paths[tensor]} of decay must be an array like its parameter, "
                f"{leaf.dtype} {leaf.shape}"
            )
        if leaf.dtype.kind == "c":
            return np.array(array, leaf.dtype, order="F" if memory.is_fortran(leaf) else "C")
        from schuss.reference import widened

        return np.array(widened(array, compute), compute, order="F" if memory.is_fortran(leaf) else "C")

    def _stream(self, tensor: int) -> int:
        """Return which random numbers a tensor gets: a matter of its name, as its place in a checkpoint is."""
        return self._stream_named(self._paths[tensor]) if self._kernel()["draws"] else 0

    @staticmethod
    def _stream_named(name: str) -> int:
        """Return a number for a name."""
        from hashlib import blake2b

        return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")

    @property
    def _policy(self) -> str:
        if isinstance(self.nonfinite, Skip):
            return "skip"
        return self.nonfinite or ("raise" if self._clipper.clips else "propagate")

    # ---- hyper-parameters --------------------------------------------------------------------------------------------

    def _values_at(self, step: int) -> list[dict[str, float]]:
        """Return every group's hyper-parameters at a step, schedules evaluated and checked."""
        name = type(self).__name__
        return [
            {key: each.at(name, group[key], step) for key, each in self.hyperparameters.items()}
            for group in self._groups
        ]

    def _push(self, step: int, values: Sequence[Mapping[str, float]]) -> None:
        """Hand the plan what a step takes besides gradients: hyper-parameters in the rule's order, and the stages."""
        self._plan.set_values(*self._numbers_of(values, *self._stages_at(step, values)))

    def _stages_at(
        self, step: int, values: Sequence[Mapping[str, float]]
    ) -> tuple[float, float, list[tuple[float, float, float, float]]]:
        """Return the stages' numbers at a step, schedules evaluated: the elements' limit, the noise, and what groups have."""
        limit = self._clipper.limit(step)
        spread = 0.0 if self.noise is None else self.noise.spread(step)
        return limit, spread, [self._around(group, step) for group in values]

    def _handed_over(
        self,
        values: Sequence[Mapping[str, float]],
        limit: float,
        spread: float,
        around: Sequence[tuple[float, float, float, float]],
    ) -> Values:
        """Return numbers of a step as `publish` hands them to the plan."""
        return Values(self._plan, *self._numbers_of(values, limit, spread, around))

    def _numbers_of(
        self,
        values: Sequence[Mapping[str, float]],
        limit: float,
        spread: float,
        around: Sequence[tuple[float, float, float, float]],
    ) -> tuple[list[list[float]], float, bool, float, int, bool, float]:
        """Return numbers of a step as the plan takes them."""
        names = self._kernel()["hyper"]
        return (
            [[*(group[key] for key in names), *more] for group, more in zip(values, around, strict=True)],
            limit,
            self.centralize,
            spread,
            0 if self.noise is None else int(self.noise.seed),
            self.decay is not None and self.decay.cautious,
            self._average_share,
        )

    def _around(self, values: Mapping[str, float], step: int) -> tuple[float, float, float, float]:
        """Return l2 and l1 of the gradient, the rate of decay and the proximal threshold, at the values of a group."""
        decay = 0.0 if self.decay is None else self.decay.at(step, values.get("lr", 0.0))
        l1, shrink = (0.0, values["lr"] * values["l1"]) if self.proximal else (values["l1"], 0.0)
        return values["l2"], l1, decay, shrink

    @guarded
    def _assign(self, key: str, value: object, groups: Iterable[int]) -> None:
        """Check a hyper-parameter and give it to groups."""
        checked = self.hyperparameters[key].check(type(self).__name__, value)
        chosen = list(groups)
        changed = [group | {key: checked} if k in chosen else group for k, group in enumerate(self._groups)]
        if self.hyperparameters[key].domain.switch:
            raise ValueError(f"{type(self).__name__}: {key} is chosen at construction; make a new optimizer")
        if self._flags | self._flags_of(changed) != self._flags:
            raise ValueError(
                f"{type(self).__name__}: {key} was off when the optimizer was made, which therefore keeps no state for it; "
                "make a new optimizer"
            )
        with held, Undo([], [self]):
            self._keep_last()
            self._groups = changed
            values = self._values_at(self.t)
            stages = self._stages_at(self.t, values)
            if len(chosen) == len(self._groups):
                self._defaults = self._defaults | {key: checked}
            self._look_around()
            self._plan.set_values(*self._numbers_of(values, *stages))

    @property
    def groups(self) -> tuple[GroupView, ...]:
        """The groups' hyper-parameters: mappings in which single values may be set."""
        return tuple(GroupView(self, k) for k in range(len(self._groups)))

    # ---- the step ----------------------------------------------------------------------------------------------------

    def step(self, grads: Any, *, grad_scale: float = 1.0, **inputs: Any) -> None:
        """Update the parameters in place.

        Parameters
        ----------
        grads : array, or nesting of arrays as in `params`
            Of the parameters' shapes and any floating dtype and memory layout; read only. None in place of an array
            leaves that tensor, its state and its own step count as they are; None in place of a list or dict, all in it.
            None alone is refused, since it is what a function without a return returns.
        grad_scale : float
            What the gradients are multiplied with before all else, in (0, inf): 1 / scale for a loss that was scaled.
        **inputs
            What the class names in `inputs`: further trees of arrays, or numbers such as the loss.

        Raises
        ------
        TypeError, ValueError, BufferError
            If gradients, parameters or schedules cannot be used; nothing was changed.
        FloatingPointError
            If a gradient is not finite and the policy is "raise", or more were in a row than `Skip` allows; nothing was
            changed.
        RuntimeError
            If another thread is inside this optimizer, or the parameters are those of `eval`.
        """
        if grads is None:
            raise TypeError(
                f"{type(self).__name__}: grads is None; pass None in the place of each tensor to be skipped"
            )
        if grad_scale != 1.0:
            grad_scale = _GRAD_SCALE.check(f"{type(self).__name__}: grad_scale", grad_scale)
        arrays, numbers = self._ordered(inputs) if inputs or self.inputs else ((), ())
        if self._alone:  # the plan goes through the guard itself, which takes less time
            status = self._plan.step(grads, arrays, numbers, grad_scale)
            if status:
                self._settle(status, grads, inputs)
            return
        with self._guard:
            self._require_training()
            status = self._step_among(grads, arrays, numbers, grad_scale)
            if status:
                self._settle(status, grads, inputs)

    def _step_among(self, grads: Any, arrays: Any, numbers: Any, grad_scale: float) -> int:
        """Step with what depends on the step, and with projections and observers after it."""
        values = self._values_at(self.t)
        self._push(self.t, values)
        told = [each(grads, grad_scale) for each in self._observers]
        before = self._counts.copy() if self._projections else self._counts
        clipper = self._clipper
        factors = self._factors if clipper.clips else None
        work = functools.partial(self._between, values) if self._stops else None
        status: int
        # Where nothing is to be done after the step nothing is made, not even an iterator: there might be no memory for it.
        if clipper.clips or self._projections:
            clipper.learnt = None
            with held:
                status = self._plan.step_within(grads, arrays, numbers, grad_scale, factors, work)
                clipper.learn()
                if self._projections:
                    for tensors, projection in self._projections:
                        projection.apply([bool(self._counts[i] != before[i]) for i in tensors])
        else:
            status = self._plan.step_within(grads, arrays, numbers, grad_scale, factors, work)
        if told:
            for each in told:
                if each is not None:
                    each()
        return status

    @guarded
    def _observe(self, observers: Iterable[Observer]) -> None:
        """Choose who is told of steps."""
        with held, Undo([], [self]):
            self._observers = tuple(observers)
            self._look_around()

    def _look_around(self) -> None:
        """See whether a step is the rule's alone, with nothing that depends on the step or comes after it."""
        self._alone = not (
            _core.free_threaded  # another thread might change the plan between our reading and our calling it
            or any(callable(value) for group in self._groups for value in group.values())
            or self._clipper.clips
            or self._projections
            or self._observers
            or self._policy == "skip"
            or self.noise is not None
            or self.decay is not None
            or self._averages is not None
            or self._stops
        )

    def _advance(self, grads: Any, **inputs: Any) -> bool:
        """Step, and tell whether the count of steps has grown: not where a policy skipped it, or no tensor had a gradient."""
        before = self.t
        self.step(grads, **inputs)
        return self.t != before

    def _settle(self, status: int, grads: Any, inputs: Mapping[str, Any]) -> None:
        """Raise for gradients that are not finite, unless the step was skipped."""
        if status == 1:
            return
        found, before = self._nonfinite(grads, inputs), int(self._skips[1])
        if self._policy == "raise":
            raise FloatingPointError(f"{found}; nothing was changed")
        were = "1 step before it was" if before == 1 else f"{before} steps before it were"
        raise FloatingPointError(f"{found}, and {were} skipped; nothing was changed")

    @property
    def skipped(self) -> int:
        """The number of steps that `nonfinite="skip"` has left out."""
        return int(self._skips[0])

    def _ordered(self, inputs: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[float, ...]]:
        """Return the inputs in the rule's order: arrays, then numbers."""
        wanted = self.inputs
        name = type(self).__name__
        for key in inputs:
            if key not in wanted:
                takes = f"it takes {', '.join(wanted)}" if wanted else "it takes the gradients alone"
                raise TypeError(f"{name}: {key} is not an input of its step; {takes}")
        for key in wanted:
            if key not in inputs:
                raise TypeError(f"{name}: step needs {key}; pass step(grads, {key}=...)")
        arrays = tuple(inputs[key] for key in wanted if key not in self.given)
        return arrays, tuple(self._number(key, inputs[key]) for key in self.given)

    def _number(self, key: str, value: Any) -> float:
        """Return an input that is a number; arrays of no dimensions hold one."""
        number = as_float(value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value)
        if number is None:
            raise TypeError(f"{type(self).__name__}: {key} must be a real number, got {type(value).__name__}")
        return number

    def _nonfinite(self, grads: Any, inputs: Mapping[str, Any]) -> str:
        """Name the first number that is not finite."""
        name, tensor = type(self).__name__, self._plan.outcome()["nonfinite_tensor"]
        if tensor < 0:
            key = next(key for key in self.given if not np.isfinite(inputs[key]))
            return f"{name}: {key} is {inputs[key]}"
        gradient = list(trees.matching_leaves(grads, self._tree))[tensor]
        values, parameter = self._readable(np.asarray(gradient)), self._leaves[tensor]
        with np.errstate(over="ignore"):  # finite is what the type that the step computes in can hold
            read = values.astype(memory.state_dtype(parameter, None))
        bad = np.argwhere(~np.isfinite(read))[0]
        where = f" at index {tuple(int(i) for i in bad)}" if len(bad) else ""
        return f"{name}: grads{self._paths[tensor]} holds {values[tuple(bad)]}{where}"

    # ---- the weights to be evaluated -----------------------------------------------------------------------------------

    @guarded
    def eval(self) -> None:
        """Put the weights to be evaluated into the parameters, until `train` brings back those in training.

        They are the same but for optimizers that average, such as the schedule-free ones. In between the optimizer cannot
        step, nor its state be saved or changed; calling `eval` again changes nothing.

        Examples
        --------
        >>> w = np.ones(2)
        >>> opt = schuss.SGD(w)
        >>> opt.eval()
        >>> w
        array([1., 1.])
        >>> opt.train()
        """
        from schuss.reference import evaluated

        if self._kept is not None:
            return
        self._require_writeable()
        averages = type(self).evaluation is not Optimizer.evaluation
        weights = evaluated(self) if averages else []
        self._keep_weights(
            [(leaf, memory.in_the_place_of(leaf, each)) for leaf, each in zip(self._leaves, weights, strict=False)],
            averages,
        )

    def _keep_weights(self, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]] = (), copied: bool = True) -> None:
        """Keep the weights in training until `train`, refuse steps until then, and write others in their place."""
        with held, Undo([], [self]):
            self._kept = [leaf.copy(order="K") for leaf in self._leaves] if copied else []
            publish(pairs, [Values(self._plan, _NOT_IN_TRAINING)])

    @guarded
    def train(self) -> None:
        """Bring back the weights in training, bit for bit, after `eval`; in training already, do nothing."""
        if self._kept is None:
            return
        self._require_writeable()
        with held, Undo([], [self]):
            pairs = list(zip(self._leaves, self._kept, strict=False))
            self._kept = None
            publish(pairs, [Values(self._plan, "")])

    def _require_training(self) -> None:
        """Refuse what changes or keeps the state while the parameters are those of `eval`."""
        if self._kept is not None:
            raise RuntimeError(f"{type(self).__name__}: {_NOT_IN_TRAINING}")

    def _require_writeable(self) -> None:
        """Refuse parameters that have changed since the plan was made."""
        self._require_unchanged()
        for path, leaf in zip(self._paths, self._leaves, strict=True):
            if not leaf.flags.writeable:
                raise BufferError(f"{type(self).__name__}: params{path} has become read-only; make it writeable again")

    @property
    def t(self) -> int:
        """The number of steps done."""
        return int(self._counts[-1])

    @property
    def counts(self) -> Any:
        """The number of steps of each tensor, in the parameters' tree."""
        return self._like_params([int(count) for count in self._counts[:-1]])

    @property
    def last(self) -> StepInfo | None:
        """What the last step did; None before the first."""
        outcome = self._plan.outcome()
        number, step = outcome["number"], outcome["step"]
        if number == 0:
            return None
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        return StepInfo(
            step,
            tuple(self._values_at(step)),
            outcome["norm"] if outcome["measured"] else None,
            *((1.0, 0.0) if outcome["skipped"] else self._clipper.report),
            outcome["skipped"],
        )

    def _keep_last(self) -> None:
        """Keep what the last step used, before hyper-parameters change."""
        self._last = self._plan.outcome()["number"], self.last

    # ---- parameters and state ----------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # for type checkers it is the constructor's first argument

        @property
        def params(self) -> Any:
            """The caller's arrays, in the caller's nesting."""
            return self._tree

    def _like_params(self, values: Iterable[Any]) -> Any:
        """Arrange one value per tensor in the parameters' nesting."""
        return trees.rebuild(self._tree, iter(values))

    @property
    def state(self) -> dict[str, Any]:
        """The live state: slot name -> arrays in the parameters' nesting (one array for a slot of the optimizer)."""
        slots = {
            name: self._like_params(memory.views(arrays))
            for name, arrays in zip(self._element_slots, self._slots, strict=True)
            if name is not None
        }
        return slots | {name: self._scalar_state(self._scalars, j) for j, name in enumerate(self._scalar_slots)}

    def _scalar_state(self, scalars: NDArray[np.float64], j: int) -> Any:
        """Return the values of a slot that has one value per row, tensor or optimizer."""
        scope = self._kernel()["scope"]
        if scope == "all":
            return scalars[0, j : j + 1].reshape(())
        return self._like_params(self._scalar_view(scalars, i, j) for i in range(len(self._leaves)))

    def _scalar_view(self, scalars: NDArray[np.float64], tensor: int, j: int) -> NDArray[np.float64]:
        """Return a tensor's values of a scalar slot: one number, or one per row of an array with several dimensions."""
        first = self._first_unit[tensor]
        if self._kernel()["scope"] == "row" and self._leaves[tensor].ndim > 1:
            return scalars[first : first + self._units[tensor], j]
        return scalars[first, j : j + 1].reshape(())

    @property
    def nbytes(self) -> int:
        """Bytes of state."""
        return (
            sum(slot.nbytes for i in range(len(self._leaves)) for _, slot in self._named_slots(i))
            + self._scalars.nbytes
        )

    @guarded
    def reset(self) -> None:
        """Forget everything learnt: state and step counts are as new, parameters and hyper-parameters stay."""
        self._require_training()
        self._require_unchanged()
        with held, Undo(self._state_arrays(), [self]):
            for i in range(len(self._leaves)):
                for _, slot in self._named_slots(i):
                    slot[...] = 0
            self._scalars[...] = 0
            self._counts[...] = 0
            self._skips[...] = 0
            self._clipper = self._new_clipper()
            self._fill(self._stepped)
            self._make_plan()

    def _state_arrays(self) -> list[NDArray[Any]]:
        """Return the arrays that are state."""
        slots = [array for slot in self._slots for array in slot if array is not None]
        return [*slots, self._scalars, self._counts, self._skips]

    @guarded
    def rebind(self, params: trees.Tree) -> None:
        """Step other arrays of the same nesting, shapes and dtypes from now on, with the same state.

        Parameters
        ----------
        params : tree of arrays
            For an optimizer with groups, the list of the groups' trees.
        """
        name = type(self).__name__
        self._require_training()
        trees.check_depth(f"{name}: params", params)
        if trees.structure(params) != trees.structure(self._tree):
            raise ValueError(f"{name}: params must have the nesting they had; make a new optimizer for another one")
        leaves = list(trees.matching_leaves(params, self._tree))
        for path, new, (shape, dtype, fortran) in zip(self._paths, leaves, self._kinds, strict=True):
            if not isinstance(new, np.ndarray) or (new.shape, new.dtype) != (shape, dtype):
                got = f"{new.dtype} {new.shape}" if isinstance(new, np.ndarray) else type(new).__name__
                raise ValueError(f"{name}: params{path} was {dtype} {shape}, got {got}; pass the same kind of array")
            if memory.is_fortran(new) != fortran:
                raise ValueError(
                    f"{name}: params{path} has another memory order than before; pass it in the same order"
                )
        with held, Undo([], [self]):
            self._tree, self._leaves = self._like_params(leaves), leaves
            self._make_plan()

    @guarded
    def add(self, group: Group) -> None:
        """Add a group of parameters, with fresh state; the others keep theirs.

        Parameters
        ----------
        group : Group
            From now on the last entry of the list of gradients. The optimizer must have been made from groups.
        """
        name = type(self).__name__
        self._require_training()
        if not self._grouped:
            raise ValueError(f"{name}: it was made without groups; make it from a list of Group to add further ones")
        if not isinstance(group, Group):
            raise TypeError(f"{name}: add takes a Group, got {type(group).__name__}")
        self._require_unchanged()
        with held, Undo([], [self]):
            old_slots, old_scalars, old_counts = self._slots, self._scalars, self._counts
            (added,) = self._as_groups([group])
            # As the constructor numbers them: those made by overrides come after all others.
            new = len(self._tree)
            groups = [*self._groups[:new], self._group_values(added.hyperparameters), *self._groups[new:]]
            own = [new for _ in trees.leaves(added.params)]
            self._override(groups, own, trees.names(added.params))
            if self._flags | self._flags_of(groups) != self._flags:
                raise ValueError(
                    f"{name}: the group turns on an option that was off when the optimizer was made; make a new optimizer"
                )
            self._tree = [*self._tree, trees.map_leaves(lambda leaf: leaf, added.params)]
            self._groups = groups
            old_count = len(self._leaves)
            self._group_of = [k + (k >= new) for k in self._group_of] + own
            self._set_leaves()
            learnt, self._clipper = self._clipper, self._new_clipper()
            self._clipper.take(learnt.states)
            self._counts = np.zeros(len(self._leaves) + 1, np.int64)
            self._counts[:old_count], self._counts[-1] = old_counts[:-1], old_counts[-1]
            self._allocate_state()
            for slot, old in zip(self._slots, old_slots, strict=True):
                for i in range(old_count):
                    if old[i] is not None:
                        slot[i][...] = old[i]
            self._scalars[: len(old_scalars)] = old_scalars
            self._make_plan()

    @guarded
    def check(self, grads: Any, **inputs: Any) -> Any:
        """Step copies with the kernel and with the reference, and compare; the optimizer itself is left alone.

        Parameters
        ----------
        grads : array, or nesting of arrays as in `params`
            As for `step`.
        **inputs : arrays or numbers
            As for `step`.

        Returns
        -------
        CheckReport
            True where both agree bit for bit; prints where they part.
        """
        from schuss.reference import check

        return check(self, grads, inputs)

    @guarded
    def explain(self, grads: Any, **inputs: Any) -> Explanation:
        """Return the parts of the next step, made on copies; the optimizer itself is left alone.

        Parameters
        ----------
        grads : array, or nesting of arrays as in `params`
            As for `step`.
        **inputs : arrays or numbers
            As for `step`.

        Returns
        -------
        Explanation
            What the rule and each option that is on add to every parameter; prints as a table.

        Examples
        --------
        >>> opt = schuss.SGD(np.array([1.0]), lr=0.5, l2=0.2)
        >>> print(opt.explain(np.array([2.0])))
        SGD: step 0, lr 0.5, gradients times 1
        tensor        rule           l2  update  update/weight  effective lr
        params  1 (90.9 %)  0.1 (9.1 %)     1.1            1.1          0.55
        """
        from schuss.insight import explain

        return explain(self, grads, inputs)

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    @guarded
    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all state: arrays by slot and tensor, step counts, hyper-parameters (None for a schedule)."""
        from schuss.state import state_dict

        return state_dict(self)

    @guarded
    def load_state_dict(self, state: Mapping[str, Any], *, cast: bool = False) -> None:
        """Take over a state dict of an optimizer of the same class over parameters of the same names and shapes.

        Parameters
        ----------
        state : dict
            From `state_dict`. Copied: later changes of it do not act. Hyper-parameters that were schedules stay as they
            are here.
        cast : bool
            Convert state arrays of other dtypes instead of refusing them.

        Raises
        ------
        StateError
            If it does not fit; nothing was changed.
        """
        from schuss.state import load_state_dict

        load_state_dict(self, state, cast=cast)

    @guarded
    def save(self, path: str | os.PathLike[str], *, params: bool = False) -> None:
        """Write a checkpoint, atomically: to a temporary file, flushed to disk, then renamed.

        Parameters
        ----------
        path : path
            Ends in ``.npz``, or in ``.safetensors`` (needs the extra of that name).
        params : bool
            Write the parameters as well.
        """
        from schuss.state import save

        save(self, path, params=params)

    @guarded
    def load(self, path: str | os.PathLike[str], *, cast: bool = False) -> None:
        """Read a checkpoint of `save`; parameters too, in place, if the file holds them.

        Raises
        ------
        CheckpointError
            If the file is damaged; nothing was changed.
        StateError
            If it does not fit this optimizer; nothing was changed.
        """
        from schuss.state import load

        load(self, path, cast=cast)

    @guarded
    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and copy keep: parameters, hyper-parameters, options, state."""
        return self._pickled()

    def _pickled(self) -> dict[str, Any]:
        from schuss.state import state_dict

        return {
            "params": self._tree,
            "grouped": self._grouped,
            "groups": self._groups,
            "defaults": self._defaults,
            "options": {key: getattr(self, key) for key in self._all_options()},
            "flags": self._flags,
            "group_of": self._group_of,
            "stand_ins": {i: array.shape for i, array in self._stand_ins.items()},
            "state": state_dict(self),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the optimizer over the parameters that came along."""
        self._defaults, self._grouped, self._last = dict(state["defaults"]), state["grouped"], None
        self._set_options(**state["options"])
        self._guard = _core.Guard(type(self).__name__)
        self._take(state["params"], [dict(group) for group in state["groups"]], state["flags"], list(state["group_of"]))
        if state["stand_ins"]:
            self._stand_in(state["stand_ins"])
        self.load_state_dict(state["state"])

    @guarded
    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        """Copy the optimizer with its parameters and state."""
        return self._copied(memo)

    def _copied(self, memo: dict[int, Any]) -> Optimizer:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        state = self._pickled()
        # With the memo: what refers to the same arrays, such as the model, refers to the copies.
        state["params"] = trees.map_leaves(lambda leaf: copy.deepcopy(leaf, memo), state["params"])
        for key in ("groups", "defaults", "options"):  # schedules of a clip have a state as well
            state[key] = copy.deepcopy(state[key], memo)
        twin.__setstate__(state)
        return twin

    def __repr__(self) -> str:
        """Show the hyper-parameters."""
        shown = ", ".join(f"{key}={self._defaults[key]!r}" for key in self.hyperparameters)
        return f"{type(self).__name__}({shown}; {len(self._leaves)} tensors, t={self.t})"


class GroupView(Mapping[str, Any]):
    """The hyper-parameters of one group; single values may be set."""

    def __init__(self, optimizer: Optimizer, index: int) -> None:
        self._optimizer, self._index = optimizer, index

    def __getitem__(self, key: str) -> Any:
        return self._optimizer._groups[self._index][key]

    def __setitem__(self, key: str, value: object) -> None:
        self._optimizer._require_known(key)
        if key not in self._optimizer.hyperparameters:
            raise TypeError(f"{type(self._optimizer).__name__}: {key} belongs to the optimizer as a whole")
        self._optimizer._require_own(key)
        self._optimizer._assign(key, value, [self._index])

    def __iter__(self) -> Iterator[str]:
        return iter(self._optimizer.hyperparameters)

    def __len__(self) -> int:
        return len(self._optimizer.hyperparameters)

    def __repr__(self) -> str:
        return repr(dict(self))


#: What every optimizer takes and no rule knows, and which is no hyper-parameter.
_OPTIONS = (
    *("maximize", "proximal", "centralize", "clip", "noise", "decay", "bounds", "nonfinite", "overrides"),
    *("state_dtype", "dtype", "threads", "flush_subnormals"),
)

#: What gradients may be multiplied with.
_GRAD_SCALE = Domain(0.0, lower_open=True)


@functools.cache
def _rules() -> dict[str, Any]:
    """Return what the compiled rules declare."""
    return _core.rules()
