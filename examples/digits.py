"""Train a network on real handwritten digits with every optimizer of schuss.

    python examples/digits.py
    python examples/digits.py --optimizers Adam LAMB --epochs 40

The network and its gradients are plain NumPy. To use an optimizer takes two lines, both of them in `train`:

    optimizer = cls(params, lr=...)  # params are our own arrays
    optimizer.step(grads)            # changes them in place

At the end come a table, in which each compiled step is timed beside the NumPy formula that it equals bit for
bit, and a picture of the loss curves.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import schuss
from schuss.reference import Reference
from schuss.schedules import cosine

matplotlib.use("Agg")  # draws to files, and so needs no display

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Arrays = dict[str, Floats]

BATCH = 32
HIDDEN = 128

# ---------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Digits:
    """Images of 8 x 8 pixels, one a row and scaled to [-1, 1], and the digit that each one shows."""

    images: Floats
    labels: Integers

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches."""
        return len(self.labels) // BATCH

    def batches(self, rng: np.random.Generator, size: int = BATCH) -> Iterator[Digits]:
        """One epoch of mini-batches in random order; the few digits left over have better luck next time."""
        order = rng.permutation(len(self.labels))
        for start in range(0, len(order) - size + 1, size):
            yield self[order[start : start + size]]

    def split(self, held_out: float) -> tuple[Digits, Digits]:
        """Set a share of every digit aside, always the same one, so that runs with other seeds compare."""
        rows = np.arange(len(self.labels))
        kept, aside = train_test_split(rows, test_size=held_out, stratify=self.labels, random_state=0)
        return self[kept], self[aside]

    def __getitem__(self, rows: Integers) -> Digits:
        return Digits(self.images[rows], self.labels[rows])


def handwritten_digits() -> Digits:
    """1797 digits from the UCI repository, which scikit-learn carries inside its package."""
    pixels, labels = load_digits(return_X_y=True)
    return Digits((pixels / 8 - 1).astype(np.float32), labels)


# ------------------------------------------------------------------------------------------------- network


def initial_parameters(
    rng: np.random.Generator, inputs: int = 64, hidden: int = HIDDEN, outputs: int = 10, dtype: Any = np.float32
) -> Arrays:
    """Weights of variance 1 / inputs, so that signals neither swell nor fade on their way; biases of zero."""

    def weights(rows: int, columns: int) -> Floats:
        return rng.standard_normal((rows, columns), dtype) / np.asarray(math.sqrt(rows), dtype)

    return {
        "hidden.weight": weights(inputs, hidden),
        "hidden.bias": np.zeros(hidden, dtype),
        "output.weight": weights(hidden, outputs),
        "output.bias": np.zeros(outputs, dtype),
    }


def forward(params: Arrays, images: Floats) -> tuple[Floats, Floats]:
    """Return the hidden activations and the logarithms of the ten probabilities."""
    hidden = np.maximum(images @ params["hidden.weight"] + params["hidden.bias"], 0)
    scores = hidden @ params["output.weight"] + params["output.bias"]
    scores -= scores.max(axis=1, keepdims=True)  # the probabilities stay, and exp cannot overflow
    return hidden, scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def cross_entropy(log_probabilities: Floats, labels: Integers) -> float:
    """Mean surprise at the true labels."""
    return -float(log_probabilities[np.arange(len(labels)), labels].mean())


def loss_and_gradients(params: Arrays, batch: Digits) -> tuple[float, Arrays]:
    """Forward to the loss, then by the chain rule back to every parameter."""
    hidden, log_probabilities = forward(params, batch.images)

    d_scores = np.exp(log_probabilities)
    d_scores[np.arange(len(batch.labels)), batch.labels] -= 1
    d_scores /= len(batch.labels)
    d_hidden = (d_scores @ params["output.weight"].T) * (hidden > 0)

    return cross_entropy(log_probabilities, batch.labels), {
        "hidden.weight": batch.images.T @ d_hidden,
        "hidden.bias": d_hidden.sum(axis=0),
        "output.weight": hidden.T @ d_scores,
        "output.bias": d_scores.sum(axis=0),
    }


def evaluate(params: Arrays, digits: Digits) -> tuple[float, float]:
    """Return the loss and the share of digits read correctly."""
    _, log_probabilities = forward(params, digits.images)
    correct = log_probabilities.argmax(axis=1) == digits.labels
    return cross_entropy(log_probabilities, digits.labels), float(correct.mean())


def hessian_diagonal(params: Arrays, batch: Digits) -> Arrays:
    """Second derivative of the loss by every parameter, exactly: in each alone the scores are (piecewise) linear."""
    hidden, log_probabilities = forward(params, batch.images)
    probabilities, weights = np.exp(log_probabilities), params["output.weight"]

    dd_scores = probabilities * (1 - probabilities) / len(batch.labels)
    variance = probabilities @ (weights**2).T - (probabilities @ weights.T) ** 2
    dd_hidden = variance * (hidden > 0) / len(batch.labels)

    return {
        "hidden.weight": (batch.images**2).T @ dd_hidden,
        "hidden.bias": dd_hidden.sum(axis=0),
        "output.weight": (hidden**2).T @ dd_scores,
        "output.bias": dd_scores.sum(axis=0),
    }


# ------------------------------------------------------------------------------------------------ training

READS = 0.96  # share of validation digits from which on a learning rate is good enough


def further_inputs(cls: type[schuss.Optimizer], params: Arrays, batch: Digits, loss: float) -> dict[str, Any]:
    """Compute what a rule takes beside the gradients: for nearly all, nothing."""
    inputs: dict[str, Any] = {}
    if "hessian" in cls.inputs:
        inputs["hessian"] = hessian_diagonal(params, batch)
    if "loss" in cls.inputs:
        inputs["loss"] = loss
    return inputs


def train(
    cls: type[schuss.Optimizer], lr: float, falls: bool, digits: Digits, epochs: int, seed: int
) -> tuple[Arrays, list[float]]:
    """Return the trained parameters and the loss of every step.

    The seed alone decides the first weights and the batches: every optimizer starts from the same place and sees
    the same digits in the same order. The learning rate falls from `lr` to zero along half a cosine, or stays.
    """
    rng = np.random.default_rng(seed)
    params = initial_parameters(rng)
    optimizer = cls(params, lr=cosine(lr, steps=epochs * digits.steps_per_epoch) if falls else lr)
    losses = []
    for _ in range(epochs):
        for batch in digits.batches(rng):
            loss, grads = loss_and_gradients(params, batch)
            try:
                optimizer.step(grads, **further_inputs(cls, params, batch, loss))
            except RuntimeError:  # its factorisations have failed too often: the rate is too high
                return params, [*losses, math.inf]
            losses.append(loss)
    optimizer.eval()  # the average, for those that keep one
    return params, losses


def learning_rate(cls: type[schuss.Optimizer], digits: Digits, epochs: int, seed: int) -> tuple[float, bool]:
    """Return the rate nearest to the class's default with which the network learns to read, and whether it falls.

    A rule whose weights are a function of the present rate must keep it; all others do better with one that falls.

    It is judged by a fifth of the training digits, on which the trials do not train. Many defaults are meant for far
    longer training: a thousand steps of SGD with 0.001 hardly leave the start.
    """
    training, validation = digits.split(held_out=0.2)
    default = float(cls.hyperparameters["lr"].default)
    accuracies: dict[tuple[float, bool], float] = {}
    for falls, factor in itertools.product((True, False), (1, 3, 0.3, 10, 0.1, 30, 0.03, 100, 0.01, 300, 1000)):
        trial = default * factor, falls
        with np.errstate(all="ignore"):  # a rate far too large may well diverge
            params, _ = train(cls, *trial, training, epochs, seed)
            _, accuracies[trial] = evaluate(params, validation)
        if accuracies[trial] >= READS:
            break
    return max(accuracies, key=accuracies.__getitem__)


# -------------------------------------------------------------------------------------------------- timing

BLOCK, BLOCKS = 16, 15  # steps timed together, so that the clock costs nothing; blocks to take the median of


@dataclass(frozen=True)
class Timing:
    """Microseconds per step, and whether both ways led to the same bits."""

    compiled: float
    reference: float
    same_bits: bool

    @property
    def ratio(self) -> float:
        """How many compiled steps fit into one of the reference."""
        return self.reference / self.compiled


def time_steps(cls: type[schuss.Optimizer], lr: float, digits: Digits, seed: int) -> Timing:
    """Step with the compiled rule and with its NumPy reference, block by block in turn, on real gradients.

    Both are timed from call to return, so with all that they do beside the formula: for the compiled step that is
    chiefly to check the gradients, for the reference to look up its scalars.
    """
    rng = np.random.default_rng(seed)
    params = initial_parameters(rng)
    block = []
    for batch in itertools.islice(digits.batches(rng), BLOCK):
        loss, grads = loss_and_gradients(params, batch)
        block.append((grads, further_inputs(cls, params, batch, loss)))
    optimizer = cls(params, lr=lr)
    twin = Reference(optimizer)  # works on its own copies

    def microseconds(step: Callable[..., object]) -> float:
        start = time.perf_counter()
        for grads, further in block:
            step(grads, **further)
        return (time.perf_counter() - start) / len(block) * 1e6

    times = [(microseconds(optimizer.step), microseconds(twin.step)) for _ in range(BLOCKS)]
    compiled, reference = np.median(times, axis=0)
    same_bits = all(params[name].tobytes() == twin.params[name].tobytes() for name in params)
    return Timing(compiled, reference, same_bits)


# ------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Result:
    """What the table and the picture show of one optimizer."""

    name: str
    kind: str
    lr: float
    accuracy: float
    losses: list[float]
    timing: Timing

    def smoothed(self) -> NDArray[np.float64]:
        """Geometric means over half an epoch: on a logarithmic axis they run through the middle of the raw line."""
        logs = np.log(np.maximum(self.losses, 1e-7))  # a loss can round to zero
        window = np.ones(21)
        counts = np.convolve(np.ones(len(logs)), window, mode="same")  # fewer at both ends
        return np.exp(np.convolve(logs, window, mode="same") / counts)


def table(results: list[Result]) -> str:
    """One line per optimizer."""
    lines = [f"{'optimizer':<14}{'lr':>8}{'accuracy':>11}{'compiled':>13}{'reference':>14}{'ratio':>9}   bits"]
    lines += [
        f"{r.name:<14}{r.lr:>8g}{r.accuracy:>11.4f}{r.timing.compiled:>10.2f} us{r.timing.reference:>11.2f} us"
        f"{r.timing.ratio:>8.1f}x   {'equal' if r.timing.same_bits else 'differ'}"
        for r in results
    ]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- picture

PALETTE = ("#2563c9", "#d4620a", "#0f8a6b", "#8a3fb8")
INK, GREY, PALE = "#1d2330", "#727a8c", "#dcdfe6"
STYLE: dict[Any, Any] = {
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "axes.edgecolor": PALE,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#eef0f4", "axes.axisbelow": True,
    "axes.labelcolor": GREY, "text.color": INK, "xtick.color": GREY, "ytick.color": GREY,
    "xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False, "legend.labelcolor": GREY,
}  # fmt: skip


def plot(results: list[Result], steps_per_epoch: int, output: Path) -> None:
    """Draw one panel per optimizer, the most accurate first, with the others in grey behind it."""
    ranked = sorted(results, key=lambda r: (-r.accuracy, r.smoothed()[-1]))
    kinds = sorted({cls.kind for cls in schuss.optimizers().values()})  # all, so that a colour never changes
    colours = dict(zip(kinds, itertools.cycle(PALETTE), strict=False))
    drawn = [kind for kind in kinds if any(r.kind == kind for r in ranked)]

    def duration(microseconds: float) -> str:
        return f"{microseconds:.3g} µs" if microseconds < 1000 else f"{microseconds / 1000:.3g} ms"

    def panel(axis: Axes, result: Result) -> None:
        colour, timing = colours[result.kind], result.timing
        epochs = np.arange(1, len(result.losses) + 1) / steps_per_epoch
        for other in ranked:
            axis.semilogy(epochs, other.smoothed(), color=PALE, linewidth=0.8)
        axis.semilogy(epochs, result.losses, color=colour, linewidth=0.5, alpha=0.25)
        axis.semilogy(epochs, result.smoothed(), color=colour, linewidth=2.2)

        def write(x: int, points: int, text: str, **font: Any) -> None:  # so many points above the panel
            axis.annotate(
                text, (x, 1), (0, points), xycoords="axes fraction", textcoords="offset points",
                ha=("left", "right")[x], **font,
            )  # fmt: skip

        write(0, 19, result.name, size=13, weight="bold", color=colour)
        write(1, 19, f"{result.accuracy:.1%}", size=13, weight="bold")
        write(0, 5, f"lr {result.lr:g}", size=9, color=GREY)
        times = f"{duration(timing.compiled)} compiled, {duration(timing.reference)} reference"
        write(1, 5, times, size=9, color=GREY)

    about = (4, 5, 3) if len(ranked) <= 20 else (7, 8, 6)
    columns = min(len(ranked), min(about, key=lambda n: -len(ranked) % n))  # the fewest empty places
    rows = math.ceil(len(ranked) / columns)
    width = max(3.4 * columns, 11.0)
    height = rows * (0.3 * width / columns + 1.45) + 1.0
    left, right, top, bottom = 0.65 / width, 1 - 0.2 / width, 1 - 1.5 / height, 0.55 / height

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), sharex=True, sharey=True, squeeze=False)
        figure.subplots_adjust(left, bottom, right, top, wspace=0.09, hspace=0.36)
        for axis, result in zip(axes.flat, ranked, strict=False):
            panel(axis, result)
        for axis in axes.flat[len(ranked) :]:
            axis.set_axis_off()
        for axis in axes[:, 0]:
            axis.set_ylabel("training loss")
        for axis in axes.flat[len(ranked) - columns : len(ranked)]:  # the lowest of each column
            axis.set_xlabel("epoch")
            axis.tick_params(labelbottom=True)
        lowest = max(1e-6, min(np.nanquantile(r.losses, 0.02) for r in ranked))
        axes[0, 0].set(xlim=(0, len(ranked[0].losses) / steps_per_epoch), ylim=(lowest, 4))
        axes[0, 0].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
        axes[0, 0].yaxis.set_minor_locator(NullLocator())

        what = "training loss, share of unseen digits read correctly, time of one optimizer step"
        figure.text(left, 1 - 0.45 / height, "Learning to read handwritten digits", size=19, weight="bold")
        figure.text(left, 1 - 0.76 / height, f"A 64-{HIDDEN}-10 network in NumPy: {what}", size=11, color=GREY)
        figure.legend(
            handles=[Line2D([], [], color=colours[kind], linewidth=3, label=f"{kind} rule") for kind in drawn],
            loc="upper right", bbox_to_anchor=(right, 1 - 0.26 / height), ncols=len(drawn),
            handlelength=1.2, columnspacing=1.4, borderaxespad=0,
        )  # fmt: skip
        figure.savefig(output, dpi=150)
        plt.close(figure)


# ---------------------------------------------------------------------------------------------------- main


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = list(schuss.optimizers())
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training digits (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the batches (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("digits.png"), help="picture (default: digits.png)")
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names, metavar="NAME", help="default: all")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    return args


def main() -> None:
    """Train, test and time every optimizer; print the table and draw the picture."""
    args = arguments()
    training, test = handwritten_digits().split(held_out=0.25)
    results = []
    # BLAS may round differently on another number of threads; and these matrices are too small for two.
    with threadpool_limits(1, user_api="blas"), tqdm(args.optimizers, unit="optimizer") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            cls = schuss.optimizers()[name]
            lr, falls = learning_rate(cls, training, args.epochs, args.seed)
            params, losses = train(cls, lr, falls, training, args.epochs, args.seed)
            _, accuracy = evaluate(params, test)
            timing = time_steps(cls, lr, training, args.seed)
            results.append(Result(name, cls.kind, lr, accuracy, losses, timing))

    print(table(results))
    plot(results, training.steps_per_epoch, args.output)
    print(f"The loss curves are in {args.output}")


if __name__ == "__main__":
    main()
