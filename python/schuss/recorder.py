"""What happens to every tensor during training: norms, ratios, signs, and the first number that is not finite."""

from __future__ import annotations

import contextlib
import csv
import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schuss import memory, trees
from schuss.hyperparameters import Domain
from schuss.insight import norm, numbers, quotient
from schuss.optimizer import Optimizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NonFinite", "Recorder"]

#: What is recorded of a tensor at a step, and the title of its panel.
_QUANTITIES = {
    "lr": "learning rate",
    "gradient_norm": "gradient norm",
    "parameter_norm": "parameter norm",
    "update_norm": "update norm",
    "update_ratio": "update / parameter",
    "effective_lr": "effective learning rate (update / gradient)",
    "agreement": "share of signs that agree with the running gradient",
    "clipped": "clipped share",
    "dead": "share of gradients that are zero",
}
#: The panels of a picture, and those with a logarithmic scale.
_PANELS = ("gradient_norm", "parameter_norm", "update_ratio", "effective_lr", "agreement", "dead")
_LOGARITHMIC = frozenset({"gradient_norm", "parameter_norm", "update_ratio", "effective_lr"})
_MOST_LINES = 10  # tensors that colours tell apart; more are drawn as rows
_MOST_NAMES = 100  # rows that are named; of more, some are


@dataclass(frozen=True)
class NonFinite:
    """The first number that was not finite.

    Attributes
    ----------
    step : int
        Steps done before the one in which it was found.
    what : str
        "gradient", or "parameter" where the step made it of finite gradients.
    tensor : str
        The tensor's name.
    index : tuple of int
        Of the element.
    value : str
        What it is in the type that the step computes in: "nan", "inf", "-inf", or a complex number with one of them.
    """

    step: int
    what: str
    tensor: str
    index: tuple[int, ...]
    value: str


@dataclass(frozen=True)
class _Record:
    step: int
    skipped: bool
    values: NDArray[np.float64]  # a row per tensor, a column per quantity


class Recorder:
    """Keeps what happens to each tensor at every k-th step of an optimizer.

    It records by itself from its construction until `close`, or to the end of a ``with`` block. A step that is recorded
    costs a copy of the parameters and some passes over them in NumPy; the others run the same code as without a recorder.
    All sums are in double precision and the same bits for any number of threads. Complex numbers are pairs of reals.

    Of each tensor are recorded, as NaN where they are not defined (a zero denominator, no gradient, no such slot):

    =================== ================================================================================================
    ``lr``              the step size of its group
    ``gradient_norm``   of the gradient as the step reads it, times a `grad_scale`, before a clip
    ``parameter_norm``  before the step
    ``update_norm``     of what the step added to the parameter
    ``update_ratio``    ``update_norm / parameter_norm``
    ``effective_lr``    ``update_norm / gradient_norm``
    ``agreement``       share of the elements in which gradient and momentum, before the step, have one sign, among those
                        in which neither is zero
    ``clipped``         share of the elements that `ClipValue` cut; or if it is larger, of all the norms that other clips
                        measured (of all, tensors or rows), the share that they scaled down: ``last.clipped``
    ``dead``            share of the elements in which the gradient is exactly zero
    =================== ================================================================================================

    The momentum is the first slot that follows the sign of the gradients and fades when they vanish, which a trial on one
    element finds out; not every rule has one.

    Parameters
    ----------
    optimizer : Optimizer or wrapper
        Of a wrapper, the innermost optimizer is recorded: its gradients and its updates, not what wrappers do around it.
        A pickled or copied optimizer has no recorder.
    every : int
        The steps whose number, counted from 0, is a multiple of it are recorded. In {1, 2, ...}.
    keep : int, optional
        How many records are kept, the newest. Each takes 72 bytes per tensor. All by default.

    Attributes
    ----------
    nonfinite : NonFinite or None
        The first number that was not finite in a recorded step, or in one that was refused for it; in the gradients
        first, then in the parameters after the step.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.Momentum(w, lr=0.1)
    >>> with schuss.Recorder(opt, every=2) as recorder:
    ...     for _ in range(5):
    ...         opt.step(w.copy())
    >>> recorder
    Recorder(Momentum, every=2; 3 records of 1 tensor, steps 0 to 4; closed)
    >>> record = recorder.to_dict()
    >>> record["steps"], [round(x, 3) for x in record["tensors"]["params"]["effective_lr"]]
    ([0, 2, 4], [0.01, 0.028, 0.043])
    """

    def __init__(self, optimizer: Any, every: int = 1, keep: int | None = None) -> None:
        base = getattr(optimizer, "base", optimizer)
        if not isinstance(base, Optimizer):
            raise TypeError(f"Recorder: optimizer must be an Optimizer or a wrapper, got {type(optimizer).__name__}")
        positive = Domain(1.0, 2.0**53, upper_open=False, whole=True)
        self.every = int(positive.check("Recorder: every", every))
        self.keep = None if keep is None else int(positive.check("Recorder: keep", keep, "a real number or None"))
        self.nonfinite: NonFinite | None = None
        self._records: deque[_Record] = deque(maxlen=self.keep)
        self._name = type(base).__name__
        self._tensors = [f"params{path}" for path in base._paths]
        followed = _slot_that_follows(type(base), base._flags)
        self._slot = None if followed is None else base._element_slots.index(followed)
        self._base: Optimizer | None = base
        base._observe([*base._observers, self._observe])

    # ---- recording -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Record no more; what was recorded stays."""
        if (base := self._base) is not None:
            base._observe(each for each in base._observers if each != self._observe)
            self._base = None

    def __enter__(self) -> Recorder:
        """Return the recorder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _observe(self, grads: Any, scale: float) -> Callable[[], None] | None:
        """Keep what the step will overwrite, and return what is to be called after it."""
        base = self._base
        if base is None or base.t % self.every:
            return None
        before = [leaf.copy(order="K") for leaf in base._leaves]
        slot = [] if self._slot is None else base._slots[self._slot]
        signs = [np.sign(numbers(array)).astype(np.int8) for array in slot]
        return functools.partial(self._record, base, base.t, grads, scale, before, signs)

    def _record(
        self, base: Optimizer, step: int, grads: Any, scale: float, before: list[NDArray[Any]], signs: list[Any]
    ) -> None:
        """Measure a step that was made, skipped or refused."""
        gradients = list(trees.matching_leaves(grads, base._tree))
        read = [
            None if each is None else _as_read(each, leaf, scale) for each, leaf in zip(gradients, before, strict=True)
        ]
        self._tensors = [f"params{path}" for path in base._paths]
        self._find_nonfinite(step, "gradient", read)
        last = base.last
        if last is None or last.step != step:  # refused for a number that is not finite, or without any gradient
            return
        after = [_as_read(leaf, leaf, 1.0) for leaf in base._leaves]
        self._find_nonfinite(step, "parameter", after)
        values = np.full((len(before), len(_QUANTITIES)), math.nan)
        for i, row in enumerate(values):
            g = None if read[i] is None else numbers(read[i])
            p, new = numbers(before[i]), numbers(after[i])
            with np.errstate(all="ignore"):
                u = new - p
            direction = -1 if base.maximize else 1
            agreement = math.nan
            if g is not None and signs and signs[i].shape == g.shape:  # else the slot is in other coordinates
                agreement = _agreement(direction * g, signs[i])
            clipped = max(last.clipped, _beyond(base._clipper.limit(step), g)) if g is not None else math.nan
            row[:] = _measured(g, p, u, last.hyperparameters[base._group_of[i]]["lr"], agreement, clipped)
        self._records.append(_Record(step, last.skipped, values))

    def _find_nonfinite(self, step: int, what: str, arrays: list[Any]) -> None:
        """Keep the first number that is not finite."""
        if self.nonfinite is not None:
            return
        for name, array in zip(self._tensors, arrays, strict=True):
            if array is not None and not np.isfinite(array).all():
                index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                self.nonfinite = NonFinite(step, what, name, index, str(array[index]))
                return

    # ---- reading ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._records)

    def _table(self, quantity: str) -> NDArray[np.float64]:
        """Return a quantity by record and tensor; NaN before a tensor was added."""
        column = list(_QUANTITIES).index(quantity)
        table = np.full((len(self._records), len(self._tensors)), math.nan)
        for row, record in zip(table, self._records, strict=True):
            row[: len(record.values)] = record.values[:, column]
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return the records as lists of numbers: those of each tensor under its name, side by side with "steps"."""
        tables = {quantity: self._table(quantity) for quantity in _QUANTITIES}
        return {
            "optimizer": self._name,
            "every": self.every,
            "steps": [record.step for record in self._records],
            "skipped": [record.skipped for record in self._records],
            "nonfinite": None if self.nonfinite is None else asdict(self.nonfinite),
            "tensors": {
                name: {quantity: table[:, i].tolist() for quantity, table in tables.items()}
                for i, name in enumerate(self._tensors)
            },
        }

    def _rows(self) -> Iterator[tuple[_Record, str, dict[str, float]]]:
        """Yield the numbers of every record and tensor."""
        for record in self._records:
            for name, row in zip(self._tensors, record.values.tolist(), strict=False):
                yield record, name, dict(zip(_QUANTITIES, row, strict=True))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a table with a line for every record and tensor.

        Parameters
        ----------
        path : path
            Replaced if it exists. Numbers are written in full, and read back as the same bits.
        """
        with open(path, "w", newline="", encoding="utf-8") as file:  # noqa: PTH123  (a path, or what stands for one)
            writer = csv.writer(file)
            writer.writerow(["step", "skipped", "tensor", *_QUANTITIES])
            for record, name, row in self._rows():
                writer.writerow([record.step, int(record.skipped), name, *row.values()])

    def to_tensorboard(self, writer: Any, since: int = 0) -> None:
        """Write the records for TensorBoard, as scalars ``quantity/tensor``; what is not defined is left out.

        Parameters
        ----------
        writer : path, or object with a method add_scalar(tag, value, step)
            A directory needs torch.utils.tensorboard or tensorboardX; theirs are such objects, too.
        since : int
            The first step that is written, for a run that writes now and then.
        """
        if not hasattr(writer, "add_scalar"):
            with contextlib.closing(_summary_writer()(os.fspath(writer))) as opened:
                self.to_tensorboard(opened, since)
            return
        for record, name, row in self._rows():
            for quantity, value in row.items():
                if record.step >= since and not math.isnan(value):
                    writer.add_scalar(f"{quantity}/{_short(name)}", value, record.step)

    def plot(self) -> Figure:
        """Return a picture: a panel for each of the important quantities, with a line or, if many, a row per tensor.

        Needs matplotlib. Norms and ratios have logarithmic scales, on which zeros do not show.
        """
        from matplotlib.figure import Figure

        if not self._records:
            raise ValueError("Recorder: nothing was recorded yet; step first")
        panels = [name for name in _PANELS if not np.isnan(self._table(name)).all()]
        as_lines = len(self._tensors) <= _MOST_LINES
        rows = -(-len(panels) // 2)
        height = 2.6 if as_lines else 0.8 + 0.14 * min(len(self._tensors), _MOST_NAMES)
        figure = Figure(figsize=(12, height * rows + 1), layout="constrained")
        axes = list(figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=not as_lines).flat)
        for ax, name in zip(axes, panels, strict=False):
            (self._draw_lines if as_lines else self._draw_rows)(ax, name)
            ax.set_title(_QUANTITIES[name], fontsize=10)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        for ax in axes[max(len(panels) - 2, 0) : len(panels)]:
            ax.set_xlabel("step")
            ax.tick_params(labelbottom=True)
        if as_lines:
            lines = axes[0].get_lines()
            figure.legend(
                lines, [_short(name) for name in self._tensors], loc="outside lower center", ncols=5, fontsize=8
            )
        figure.suptitle(f"{self._name}: {_counted(len(self), 'record')} of {_counted(len(self._tensors), 'tensor')}")
        return figure

    def _draw_lines(self, ax: Axes, quantity: str) -> None:
        """Draw a line for each tensor."""
        steps, table = [record.step for record in self._records], self._table(quantity)
        for column in table.T:
            ax.plot(steps, column, marker="." if len(steps) < 20 else None, linewidth=1)
        if quantity in _LOGARITHMIC:
            ax.set_yscale("log", nonpositive="mask")
        else:
            ax.set_ylim(-0.02, 1.02)
        ax.grid(alpha=0.3)

    def _draw_rows(self, ax: Axes, quantity: str) -> None:
        """Draw a row for each tensor, with a colour for each record."""
        from matplotlib.colors import LogNorm, Normalize

        steps, table = np.array([record.step for record in self._records], float), self._table(quantity).T
        scale: Normalize = Normalize(0, 1)
        if quantity in _LOGARITHMIC:
            table = np.where(table > 0, table, math.nan)
            shown = table[np.isfinite(table)]
            scale = LogNorm(shown.min(), shown.max() * (1 + 1e-9)) if shown.size else Normalize(0, 1)
        width = float(np.min(np.diff(steps), initial=math.inf)) if len(steps) > 1 else float(self.every)
        # From one record to the next; a step that was made again after it was skipped takes no room.
        edges = np.append(steps, steps[-1] + (width if 0 < width < math.inf else self.every))
        image = ax.pcolormesh(edges, np.arange(len(table) + 1), np.ma.masked_invalid(table), norm=scale)
        ax.set_facecolor("0.85")
        figure = ax.get_figure()
        assert figure is not None
        figure.colorbar(image, ax=ax, pad=0.01)
        named = range(0, len(table), -(-len(table) // _MOST_NAMES))
        ax.set_yticks([i + 0.5 for i in named], [_short(self._tensors[i]) for i in named], fontsize=7)
        if not ax.yaxis_inverted():
            ax.invert_yaxis()

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and copy keep: the records, without the optimizer."""
        return vars(self) | {"_base": None}

    def __repr__(self) -> str:
        """Say what was recorded."""
        records = f"{_counted(len(self), 'record')} of {_counted(len(self._tensors), 'tensor')}"
        steps = f", steps {self._records[0].step} to {self._records[-1].step}" if self._records else ""
        bad = f"; not finite: {self.nonfinite.what} of {self.nonfinite.tensor}" if self.nonfinite else ""
        closed = "; closed" if self._base is None else ""
        return f"Recorder({self._name}, every={self.every}; {records}{steps}{bad}{closed})"


def _as_read(array: Any, parameter: NDArray[Any], scale: float) -> NDArray[Any]:
    """Return a gradient, times its scale, or a parameter, in the type that the step of a parameter computes in."""
    given = np.asarray(array)
    compute = memory.state_dtype(parameter, None)
    with np.errstate(all="ignore"):
        read = given.astype(compute) if given.dtype.kind == "c" else numbers(given, compute).astype(compute)
        return np.asarray(read if scale == 1 else compute.type(scale) * read)


def _agreement(gradient: NDArray[np.float64], signs: NDArray[np.int8]) -> float:
    """Return the share of elements whose sign is the momentum's, where neither is zero."""
    product = np.sign(gradient) * signs
    return quotient(float(np.count_nonzero(product > 0)), float(np.count_nonzero(product)))


def _beyond(limit: float, gradient: NDArray[np.float64]) -> float:
    """Return the share of elements that are larger than a limit."""
    return float(np.count_nonzero(np.abs(gradient) > limit)) / max(gradient.size, 1)


def _measured(g: Any, p: Any, u: Any, lr: float, agreement: float, clipped: float) -> list[float]:
    """Return a tensor's numbers in the order of the quantities."""
    slope, weight, size = math.nan if g is None else norm(g), norm(p), norm(u)
    dead = math.nan if g is None else quotient(float(np.count_nonzero(g == 0)), float(g.size))
    ratio, effective = quotient(size, weight), math.nan if g is None else quotient(size, slope)
    return [lr, slope, weight, size, ratio, effective, agreement, clipped, dead]


def _slot_that_follows(cls: type[Optimizer], flags: int) -> str | None:
    """Return the first slot that follows the sign of the gradients and fades when they vanish; None if there is none."""
    compiled = cls._compiled()
    switched = [name for bit, name in enumerate(compiled["flags"]) if flags >> bit & 1]
    arguments = {name: True if cls.hyperparameters[name].domain.switch else 0.9 for name in switched}

    def found(gradients: list[float]) -> list[dict[str, float]]:
        """Return every slot's number after each gradient."""
        optimizer = cls(np.zeros(1), **arguments)
        inputs: dict[str, Any] = {name: 1.0 if name in cls.given else np.ones(1) for name in cls.inputs}
        history = []
        for gradient in gradients:
            optimizer.step(np.array([gradient]), **inputs)
            history.append({name: float(slot[0]) for name, slot in optimizer._named_slots(0)})
        return history

    up, down = found([1.0, 1.0, 0.0]), found([-1.0, -1.0, 0.0])
    for name in up[0]:
        if up[1][name] == -down[1][name] and 0 < up[2][name] < up[1][name]:
            return name
    return None


def _summary_writer() -> Any:
    """Return a class that writes for TensorBoard."""
    import importlib

    for name in ("torch.utils.tensorboard", "tensorboardX"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).SummaryWriter
    raise ModuleNotFoundError(
        "Recorder: to_tensorboard needs torch with tensorboard, or tensorboardX; pip install one, or pass a writer"
    )


def _short(name: str) -> str:
    """Return a tensor's name as a path: layer/w for params['layer']['w']."""
    return name.removeprefix("params").replace("][", "/").strip("[]").replace("'", "") or name


def _counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
