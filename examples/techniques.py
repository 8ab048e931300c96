"""Train the digits network with and without what is put around an optimizer: decay, warm-up, clips, penalties, averages.

    python examples/techniques.py
    python examples/techniques.py --techniques dropout SAM --seeds 20

Every technique has a setting of its own, one where that is seen which it is made against: what keeps a network from learning
by heart gets 200 digits to learn from, of which a fifth have wrong labels; clipping gets a deep network with gradients that
explode; averaging a learning rate that stays high. The network is trained with and without the technique, and nothing else
differs: the first weights, the digits and the batches are the same. Every seed draws new ones.

The table shows the share of held-out digits that is read correctly, mean and deviation over the seeds, and the mean of the
differences with its standard error. A technique helps or harms where the difference is more than three times that error.
L1 makes more than half of the weights zero, and is asked for no more than to do no harm.
Augmentation, for one, helps to read digits that are shifted and turned, and not those of the data set, which are neither. It
fails if a technique does not do what its row claims.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from digits import GREY, PALE, PALETTE, STYLE, Arrays, Digits, Floats, cross_entropy, handwritten_digits
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from scipy import ndimage
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import schuss
from schuss.schedules import cosine

# ------------------------------------------------------------------------------------------------- network


@dataclass(frozen=True)
class Network:
    """Layers of equal width, with rectifiers or tanh between them."""

    hidden: tuple[int, ...] = (128,)
    activation: Literal["relu", "tanh"] = "relu"
    gain: float = 1.0  # of the first weights: from 1 on, the gradients of tanh networks grow from layer to layer
    dropout: float = 0.0  # share of hidden units that are dropped in training

    def initial_parameters(self, rng: np.random.Generator) -> Arrays:
        """Weights of variance gain**2 / inputs, biases of zero."""
        params: Arrays = {}
        for i, (inputs, outputs) in enumerate(itertools.pairwise((64, *self.hidden, 10))):
            weights = rng.standard_normal((inputs, outputs), np.float32)
            params[f"{i}.weight"] = weights * np.float32(self.gain / math.sqrt(inputs))
            params[f"{i}.bias"] = np.zeros(outputs, np.float32)
        return params

    def forward(self, params: Arrays, images: Floats, rng: np.random.Generator | None = None) -> tuple[Any, Floats]:
        """Return what the backward pass needs and the logarithms of the ten probabilities; `rng` is for training."""
        signal, tape = images, []
        for i in range(len(self.hidden)):
            inputs, mask = signal, None
            signal = signal @ params[f"{i}.weight"] + params[f"{i}.bias"]
            signal = np.tanh(signal) if self.activation == "tanh" else np.maximum(signal, 0)
            activated = signal
            if rng is not None and self.dropout:
                signal, mask = schuss.dropout(signal, self.dropout, rng)
            tape.append((inputs, activated, mask))
        scores = signal @ params[f"{len(self.hidden)}.weight"] + params[f"{len(self.hidden)}.bias"]
        scores -= scores.max(axis=1, keepdims=True)
        return (tape, signal), scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def gradients(self, params: Arrays, batch: Digits, rng: np.random.Generator) -> Arrays:
        """Forward to the loss, then by the chain rule back to every parameter."""
        (tape, signal), log_probabilities = self.forward(params, batch.images, rng)
        delta = np.exp(log_probabilities)
        delta[np.arange(len(batch.labels)), batch.labels] -= 1
        delta /= len(batch.labels)
        grads: Arrays = {}
        for i in range(len(tape), -1, -1):
            grads[f"{i}.weight"], grads[f"{i}.bias"] = signal.T @ delta, delta.sum(axis=0)
            if i:
                signal, activated, mask = tape[i - 1]
                delta = delta @ params[f"{i}.weight"].T
                delta = mask.backward(delta) if mask is not None else delta
                delta = delta * (1 - activated**2 if self.activation == "tanh" else activated > 0)
        return {name: grads[name] for name in params}

    def evaluate(self, params: Arrays, digits: Digits) -> tuple[float, float]:
        """Return the loss and the share of digits read correctly."""
        _, log_probabilities = self.forward(params, digits.images)
        correct = log_probabilities.argmax(axis=1) == digits.labels
        return cross_entropy(log_probabilities, digits.labels), float(correct.mean())


# ------------------------------------------------------------------------------------------------ training

Gradients = Callable[[Digits], Arrays]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    optimizer: Callable[[Arrays, int], Any]  # from the parameters and the number of steps
    network: Network = field(default_factory=Network)
    examples: int = 150
    mislabelled: float = 0.0  # share of these with a wrong label
    skewed: bool = False  # whether the held-out digits are shifted and turned
    epochs: int = 60
    batch: int = 25
    augment: Callable[[Floats, np.random.Generator], Floats] | None = None
    gradients: Callable[[Gradients, Digits, np.random.Generator], Arrays] | None = None  # from those of one batch


@dataclass(frozen=True)
class Run:
    """What became of one network."""

    epochs: list[float]
    losses: list[float]  # on the digits that it learns from
    accuracies: list[float]  # on half of all digits, which it never learns from
    zeros: float  # share of the weights


CURVE = 30  # points of a curve


def shifted_and_turned(images: Floats, rng: np.random.Generator) -> Floats:
    """Shift every digit by up to 0.7 pixels each way, and turn it by an angle of 12 degrees' deviation."""
    result = np.empty_like(images)
    middle = np.full(2, 3.5)
    for image, out in zip(images, result, strict=True):
        angle = np.deg2rad(rng.normal(0, 12))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = middle - turn @ (middle + rng.uniform(-0.7, 0.7, 2))
        ndimage.affine_transform(image.reshape(8, 8), turn, offset, output=out.reshape(8, 8), order=1, cval=-1)
    return result


def train(recipe: Recipe, seed: int) -> Run:
    """Train a network on digits of the seed's choice; look at it from time to time."""
    rng, data_rng, dropout_rng, augment_rng = np.random.default_rng(seed).spawn(4)  # what one takes, no other misses
    digits, held_out = handwritten_digits().split(held_out=0.5)
    digits = digits[data_rng.choice(len(digits.labels), recipe.examples, replace=False)]
    wrong = data_rng.choice(recipe.examples, round(recipe.mislabelled * recipe.examples), replace=False)
    digits.labels[wrong] = (digits.labels[wrong] + data_rng.integers(1, 10, len(wrong))) % 10
    if recipe.skewed:
        held_out = Digits(shifted_and_turned(held_out.images, data_rng), held_out.labels)
    params = recipe.network.initial_parameters(rng)
    optimizer = recipe.optimizer(params, recipe.epochs * (recipe.examples // recipe.batch))
    seen: list[tuple[int, float, float]] = []

    def of_batch(batch: Digits) -> Arrays:
        return recipe.network.gradients(params, batch, dropout_rng)

    def look(epoch: int) -> None:
        with optimizer.swapped() if isinstance(optimizer, schuss.EMA) else nullcontext():
            loss, _ = recipe.network.evaluate(params, digits)
            _, accuracy = recipe.network.evaluate(params, held_out)
            seen.append((epoch, loss, accuracy))

    for epoch in range(recipe.epochs):
        if epoch % math.ceil(recipe.epochs / CURVE) == 0:
            look(epoch)
        images = recipe.augment(digits.images, augment_rng) if recipe.augment else digits.images
        for batch in Digits(images, digits.labels).batches(rng, recipe.batch):
            if isinstance(optimizer, schuss.SAM):
                optimizer.step(partial(of_batch, batch))
            else:
                optimizer.step(recipe.gradients(of_batch, batch, data_rng) if recipe.gradients else of_batch(batch))
    look(recipe.epochs)
    weights = np.concatenate([array.ravel() for name, array in params.items() if name.endswith("weight")])
    epochs, losses, accuracies = (list(column) for column in zip(*seen, strict=True))
    return Run(epochs, losses, accuracies, float((weights == 0).mean()))


# ---------------------------------------------------------------------------------------------- techniques


def adamw(params: Arrays, steps: int, **options: Any) -> schuss.Optimizer:
    """AdamW with a rate that falls."""
    return schuss.AdamW(params, **{"lr": cosine(0.01, steps=steps), **options})


def momentum(params: Arrays, steps: int, lr: float = 0.1, **options: Any) -> schuss.Optimizer:
    """Momentum with a rate that falls."""
    return schuss.Momentum(params, lr=cosine(lr, steps=steps), **options)


def rmsprop(params: Arrays, steps: int, warmup: float = 0.0) -> schuss.Optimizer:
    """RMSprop, whose first steps are the largest: its average of squares starts at zero."""
    return schuss.RMSprop(params, lr=cosine(0.02, steps=steps, warmup=round(warmup * steps)))


def constant(params: Arrays, steps: int) -> schuss.Optimizer:
    """Momentum with a rate that stays."""
    return schuss.Momentum(params, lr=0.3)


def averaged(params: Arrays, steps: int) -> schuss.EMA:
    """The same, and an average over about 50 steps."""
    return schuss.EMA(constant(params, steps), decay=0.98, warmup="ratio")


def sharpness_aware(params: Arrays, steps: int) -> schuss.SAM:
    """Momentum with the gradients of the worst weights nearby; takes twice the gradients."""
    return schuss.SAM(momentum(params, steps), rho=0.5)


WORKERS, LIARS = 8, 3


def of_workers(
    aggregate: Callable[[list[Arrays]], Arrays], gradients: Gradients, batch: Digits, rng: np.random.Generator
) -> Arrays:
    """Aggregate the gradients of eight workers with a share of the batch each; three take every digit for the next one."""
    shares = []
    for worker, rows in enumerate(np.split(np.arange(len(batch.labels)), WORKERS)):
        share = batch[rows]
        shares.append(gradients(replace(share, labels=(share.labels + 1) % 10) if worker < LIARS else share))
    return aggregate(shares)


@dataclass(frozen=True)
class Technique:
    """What is compared, and what of it is claimed."""

    name: str
    setting: str
    without: Recipe
    given: Recipe
    claim: Literal["helps", "does no harm", "does not help"]
    sparse: bool = False  # whether it is claimed to make half of the weights zero

    def __post_init__(self) -> None:
        """Check the names of the command line."""
        assert " " not in self.name


FEW = Recipe(adamw, examples=200, mislabelled=0.2)
SLOW = replace(FEW, optimizer=momentum)
CLEAN = Recipe(adamw, examples=150)
TURNED = replace(CLEAN, skewed=True)
NOISY = Recipe(constant, examples=600, epochs=15, batch=10, mislabelled=0.2)
TANH = Recipe(rmsprop, Network((64,) * 4, "tanh"), examples=600, epochs=15)
DEEP = Recipe(partial(momentum, lr=1.0), Network((64,) * 12, "tanh", gain=1.5), examples=600, epochs=15)
SHARED = Recipe(momentum, examples=800, epochs=15, batch=80, gradients=partial(of_workers, schuss.aggregation.mean))

TECHNIQUES = {
    technique.name: technique
    for technique in (
        Technique(
            "clipping", "12 layers of tanh, large first weights; ClipNorm(1)",
            DEEP, replace(DEEP, optimizer=partial(momentum, lr=1.0, clip=schuss.ClipNorm(1.0))), "helps",
        ),
        Technique(
            "warm-up", "4 layers of tanh, RMSprop; over a fifth of the steps",
            TANH, replace(TANH, optimizer=partial(rmsprop, warmup=0.2)), "helps",
        ),
        Technique(
            "decay", "wrong labels, AdamW; weight_decay=3",
            FEW, replace(FEW, optimizer=partial(adamw, weight_decay=3.0)), "helps",
        ),
        Technique(
            "L2", "wrong labels, AdamW; l2=0.03",
            FEW, replace(FEW, optimizer=partial(adamw, l2=0.03)), "helps",
        ),
        Technique(
            "L1", "wrong labels, Momentum; l1=0.006, proximal",
            SLOW, replace(SLOW, optimizer=partial(momentum, l1=0.006, proximal=True)), "does no harm", sparse=True,
        ),
        Technique(
            "dropout", "wrong labels, AdamW; half of the hidden units",
            FEW, replace(FEW, network=Network(dropout=0.5)), "helps",
        ),
        Technique(
            "SAM", "wrong labels, Momentum; rho=0.5, twice the gradients",
            SLOW, replace(SLOW, optimizer=sharpness_aware), "helps",
        ),
        Technique(
            "EMA", "wrong labels, batches of 10, the rate stays; decay=0.98",
            NOISY, replace(NOISY, optimizer=averaged), "helps",
        ),
        Technique(
            "aggregation", "3 of 8 workers mislabel; geometric median, not mean",
            SHARED, replace(SHARED, gradients=partial(of_workers, schuss.aggregation.geometric_median)), "helps",
        ),
        Technique(
            "augment", "150 digits; the held-out are shifted and turned, too",
            TURNED, replace(TURNED, augment=shifted_and_turned), "helps",
        ),
        Technique(
            "augment-plain", "150 digits; the held-out are as they are",
            CLEAN, replace(CLEAN, augment=shifted_and_turned), "does not help",
        ),
        Technique(
            "decay-clean", "150 digits with true labels, AdamW; weight_decay=1",
            CLEAN, replace(CLEAN, optimizer=partial(adamw, weight_decay=1.0)), "does no harm",
        ),
    )
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Result:
    """The runs of a technique, a pair for every seed."""

    technique: Technique
    without: list[Run]
    given: list[Run]

    def accuracies(self, runs: list[Run]) -> NDArray[np.float64]:
        """Return the last of every run."""
        return np.array([run.accuracies[-1] for run in runs])

    @property
    def difference(self) -> tuple[float, float]:
        """Mean of the differences, pair by pair, and its standard error."""
        differences = self.accuracies(self.given) - self.accuracies(self.without)
        return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))

    @property
    def verdict(self) -> str:
        """What the technique does here."""
        mean, error = self.difference
        return "no clear effect" if abs(mean) <= 3 * error else "helps" if mean > 0 else "harms"

    @property
    def zeros(self) -> float:
        """Share of the weights that the technique makes zero."""
        return float(np.mean([run.zeros for run in self.given]))

    @property
    def holds(self) -> bool:
        """Whether it does what is claimed."""
        refuted = {"helps": ("harms", "no clear effect"), "does no harm": ("harms",), "does not help": ("helps",)}
        return self.verdict not in refuted[self.technique.claim] and (self.zeros >= 0.5 or not self.technique.sparse)


def run(name: str, given: bool, seed: int) -> Run:
    """Train one network, with a technique or without it."""
    technique = TECHNIQUES[name]
    schuss.set_num_threads(1)  # each run has a core of its own
    with threadpool_limits(1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):  # some runs diverge
        return train(technique.given if given else technique.without, seed)


def table(results: list[Result]) -> str:
    """One line per technique."""
    lines = [f"{'technique':<22}{'without':>15}{'with':>18}{'difference':>19}   {'':<17}setting"]
    for result in results:
        (mean, error), technique = result.difference, result.technique
        spread = [
            f"{accuracies.mean():.3f} ± {accuracies.std(ddof=1):.3f}"
            for accuracies in map(result.accuracies, (result.without, result.given))
        ]
        sparse = f"; {result.zeros:.0%} of the weights are 0" if technique.sparse else ""
        lines.append(
            f"{technique.name:<22}{spread[0]:>15}{spread[1]:>18}{f'{mean:+.3f} ± {error:.3f}':>19}   "
            f"{result.verdict:<17}{technique.setting}{sparse}"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- picture


def plot(results: list[Result], output: Path) -> None:
    """Draw a panel per technique: accuracy over the epochs, of every seed and on the average."""
    columns = min(len(results), 4)
    rows = math.ceil(len(results) / columns)
    width, height = max(3.7 * columns, 7.4), 2.75 * rows + 1.05
    left, right, top, bottom = 0.62 / width, 1 - 0.2 / width, 1 - 1.6 / height, 0.55 / height

    def panel(axis: Axes, result: Result) -> None:
        colours = {"harms": PALETTE[1], "helps": PALETTE[0], "no clear effect": PALETTE[3]}
        colour = colours[result.verdict]
        means = []
        for runs, shade, faint in ((result.without, GREY, PALE), (result.given, colour, colour)):
            curves = np.array([run.accuracies for run in runs])
            for curve in curves:
                axis.plot(runs[0].epochs, curve, color=faint, linewidth=0.5, alpha=0.9 if shade == GREY else 0.3)
            axis.plot(runs[0].epochs, curves.mean(axis=0), color=shade, linewidth=2.2)
            means.append(curves[:, -1].mean())

        def write(x: int, points: int, text: str, **font: Any) -> None:  # so many points above the panel
            axis.annotate(
                text, (x, 1), (0, points), xycoords="axes fraction", textcoords="offset points",
                ha=("left", "right")[x], **font,
            )  # fmt: skip

        write(0, 22, result.technique.name, size=12, weight="bold", color=colour)
        write(1, 22, f"{means[0]:.1%} → {means[1]:.1%}", size=12, weight="bold")
        write(0, 7, result.technique.setting, size=7.5, color=GREY)
        lowest = 0.6 if min(means) > 0.7 else 0.5 if min(means) > 0.52 else 0.0
        axis.set(xlim=(0, result.without[0].epochs[-1]), ylim=(lowest, 1))
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.locator_params(nbins=5)
        axis.tick_params(labelsize=8)

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
        figure.subplots_adjust(left, bottom, right, top, wspace=0.2, hspace=0.55)
        for axis, result in zip(axes.flat, results, strict=False):
            panel(axis, result)
        for axis in axes.flat[len(results) :]:
            axis.set_axis_off()
        for axis in axes.flat[max(len(results) - columns, 0) : len(results)]:
            axis.set_xlabel("epoch", size=9)
        seeds = len(results[0].given)
        figure.text(left, 1 - 0.45 / height, "With and without", size=19, weight="bold")
        what = "Share of held-out handwritten digits read correctly, by epoch."
        how = f"Thick: mean of {seeds} seeds. Grey: without; blue: helps; violet: no clear effect; orange: harms."
        figure.text(left, 1 - 0.76 / height, f"{what} {how}" if columns > 2 else what, size=10.5, color=GREY)
        figure.savefig(output, dpi=150)
        plt.close(figure)


# ---------------------------------------------------------------------------------------------------- main


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = list(TECHNIQUES)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=8, help="runs of each kind (default: 8)")
    parser.add_argument("--output", type=Path, default=Path("techniques.png"), help="picture (default: techniques.png)")
    parser.add_argument("--techniques", nargs="+", choices=names, default=names, metavar="NAME", help="default: all")
    args = parser.parse_args()
    if args.seeds < 3:
        parser.error(f"--seeds must be at least 3, got {args.seeds}")
    return args


def main() -> None:
    """Train all networks; print the table and draw the picture."""
    args = arguments()
    seeds = range(100, 100 + args.seeds)  # the settings were chosen with smaller ones
    jobs = list(itertools.product(args.techniques, (False, True), seeds))
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = list(tqdm(pool.map(run, *zip(*jobs, strict=True)), total=len(jobs), unit="network"))
    results = [
        Result(
            TECHNIQUES[name], runs[2 * i * args.seeds :][: args.seeds], runs[(2 * i + 1) * args.seeds :][: args.seeds]
        )
        for i, name in enumerate(args.techniques)
    ]
    print(table(results))
    plot(results, args.output)
    print(f"The curves are in {args.output}")
    broken = [
        f"{each.technique.name}: it is claimed that it {each.technique.claim}"
        f"{' and makes half of the weights zero' if each.technique.sparse else ''}; it does not hold"
        for each in results
        if not each.holds
    ]
    sys.exit("\n".join(broken) if broken else 0)


if __name__ == "__main__":
    main()
