"""Choose an optimizer and its learning rate by cross-validation: a scikit-learn estimator around the digits network.

    python examples/estimator.py
    python examples/estimator.py --optimizers SGD Adam LAMB --folds 5 --output /tmp/estimator.png

`NetworkClassifier` is an estimator as any other: it clones, pickles, stands in a `Pipeline` behind a scaler, and
`GridSearchCV` and `cross_val_score` fit it. First scikit-learn's own checks of estimators run on it. Then the grid of
optimizers and learning rates is searched on three quarters of the digits. The table shows the best rate of each optimizer
with three accuracies: the one it was chosen by, which flatters the choice; that on folds drawn anew; and that on the last
quarter, which nothing was chosen by. The picture shows the whole grid.

It fails if a check does, or if less than 93 % of the last quarter is read by the optimizer that the search prefers.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from digits import (
    GREY,
    INK,
    PALE,
    PALETTE,
    STYLE,
    Arrays,
    Digits,
    forward,
    further_inputs,
    initial_parameters,
    loss_and_gradients,
)
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import schuss
from schuss.schedules import cosine

# ----------------------------------------------------------------------------------------------- estimator


class NetworkClassifier(ClassifierMixin, BaseEstimator):
    """The digits network, with one hidden layer of rectifiers, for any classes and features.

    Parameters
    ----------
    optimizer : str or class of schuss
        What trains the network.
    lr : float, schedule or None
        Its learning rate; None is the class's default.
    schedule : callable or None
        Makes the learning rate of `fit` from `lr` and the number of steps, such as `schuss.schedules.cosine`; None keeps it
        as it is. `partial_fit`, which does not know how many steps will follow, always keeps it.
    options : dict or None
        Further arguments of the optimizer, such as ``{"clip": schuss.ClipNorm(1.0)}``.
    hidden_size : int
        Units of the hidden layer.
    epochs : int
        How often `fit` goes over the data.
    batch_size : int
        Rows per step; all, where there are fewer.
    random_state : int, RandomState or None
        Decides the first weights and the order of the rows.

    Attributes
    ----------
    classes_ : array
        The labels, sorted.
    params_ : dict of arrays
        The weights that predict: for optimizers that average, the average.
    optimizer_ : Optimizer
        With the weights in training and its state, which `partial_fit` continues from.
    losses_ : list of float
        The loss of every step.
    n_features_in_, feature_names_in_
        As for every estimator.
    """

    def __init__(
        self,
        optimizer: str | type[schuss.Optimizer] = "Adam",
        lr: float | Callable[[int], float] | None = None,
        schedule: Callable[..., Callable[[int], float]] | None = None,
        options: dict[str, Any] | None = None,
        hidden_size: int = 64,
        epochs: int = 100,
        batch_size: int = 32,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        # As scikit-learn's clone and set_params need it, arguments are kept as they are and checked in fit.
        self.optimizer = optimizer
        self.lr = lr
        self.schedule = schedule
        self.options = options
        self.hidden_size = hidden_size
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train a new network."""
        rows, labels = self._validated(X, y, reset=True)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        self._start(rows, steps=self.epochs * (len(rows) // min(self.batch_size, len(rows))))
        self._train(Digits(rows, targets), self.epochs)
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Go over the data once, with the network and the optimizer's state of the calls before; the first names `classes`."""
        first = not hasattr(self, "classes_")
        rows, labels = self._validated(X, y, reset=first)
        if first:
            if classes is None:
                raise ValueError(
                    "NetworkClassifier: the first call of partial_fit needs classes, all labels that may come"
                )
            self.classes_ = np.unique(classes)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError("NetworkClassifier: classes must be those of the first call of partial_fit")
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(f"NetworkClassifier: y has the labels {unknown.tolist()}, which are not among classes")
        if first:
            self._start(rows, steps=None)
        self._train(Digits(rows, np.searchsorted(self.classes_, labels)), 1)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the probability of each of `classes_`, row by row."""
        check_is_fitted(self, "params_")
        rows = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        _, log_probabilities = forward(self.params_, rows)
        probabilities: NDArray[Any] = np.exp(log_probabilities)
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class of each row."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        return self.classes_[likeliest]

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle keeps: the optimizer as bytes, because its arrays must be writeable.

        joblib can load the estimator's arrays as read-only maps of the file, which is all that predicting needs.
        """
        state = dict(super().__getstate__())
        if "optimizer_" in state:
            state["optimizer_"] = pickle.dumps(state["optimizer_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what pickle kept."""
        if "optimizer_" in state:
            state = state | {"optimizer_": pickle.loads(state["optimizer_"])}
        super().__setstate__(state)

    def _validated(self, X: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return rows and labels as arrays, after checking them and the arguments of the constructor."""
        for name in ("hidden_size", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"NetworkClassifier: {name} must be at least 1, got {getattr(self, name)!r}")
        rows, labels = validate_data(self, X, y, dtype=(np.float64, np.float32), reset=reset)
        check_classification_targets(labels)
        return rows, labels

    def _optimizer_class(self) -> type[schuss.Optimizer]:
        """Return the class that `optimizer` is or names."""
        if isinstance(self.optimizer, type) and issubclass(self.optimizer, schuss.Optimizer):
            return self.optimizer
        classes = schuss.optimizers()
        if self.optimizer not in classes:
            raise ValueError(f"NetworkClassifier: optimizer {self.optimizer!r} is none of {', '.join(classes)}")
        return classes[self.optimizer]

    def _start(self, rows: NDArray[Any], steps: int | None) -> None:
        """Draw the first weights and make the optimizer."""
        cls = self._optimizer_class()
        self._rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        inputs, outputs = rows.shape[1], len(self.classes_)
        params: Arrays = initial_parameters(self._rng, inputs, self.hidden_size, outputs, rows.dtype)
        lr = cls.hyperparameters["lr"].default if self.lr is None else self.lr
        if self.schedule is not None and steps is not None:
            lr = self.schedule(lr, steps=steps)
        self.losses_: list[float] = []
        self.optimizer_ = cls(params, **{"lr": lr, "nonfinite": "raise", **(self.options or {})})

    def _train(self, data: Digits, epochs: int) -> None:
        """Go over the data, and keep the weights to predict with."""
        optimizer, params = self.optimizer_, self.optimizer_.params
        with np.errstate(over="ignore", invalid="ignore"):  # what matters of it is raised as an error
            for _ in range(epochs):
                for batch in data.batches(self._rng, min(self.batch_size, len(data.labels))):
                    loss, grads = loss_and_gradients(params, batch)
                    optimizer.step(grads, **further_inputs(type(optimizer), params, batch, loss))
                    self.losses_.append(loss)
        optimizer.eval()
        self.params_ = {name: array.copy() for name, array in params.items()}
        optimizer.train()
        if not all(np.isfinite(array).all() for array in self.params_.values()):
            raise FloatingPointError("NetworkClassifier: the weights are no longer finite; choose a smaller lr")


# -------------------------------------------------------------------------------------------------- search

OPTIMIZERS = ["SGD", "Momentum", "Adagrad", "RMSprop", "Adam", "NAdamW", "Lion", "LAMB", "Prodigy", "ScheduleFreeAdamW"]
RATES = [float(f"{digit}e{power}") for power in range(-4, 1) for digit in (1, 3)][1:]
EPOCHS = 8
READS = 0.93  # share of unseen digits that the preferred optimizer must read


def model(random_state: int) -> Any:
    """Scale the pixels to [-1, 1] and train, along half a cosine."""
    network = NetworkClassifier(schedule=cosine, epochs=EPOCHS, random_state=random_state)
    return make_pipeline(MinMaxScaler((-1, 1)), network)


@contextmanager
def divergence_expected() -> Iterator[None]:
    """Let fits fail in silence: the grid holds rates far too large, and what diverges is shown as such."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitFailedWarning)
        warnings.filterwarnings("ignore", "One or more of the test scores are non-finite", UserWarning)
        yield


@dataclass(frozen=True)
class Row:
    """What the search found for one optimizer."""

    optimizer: str
    accuracies: NDArray[np.float64]  # by learning rate; NaN where it diverged
    lr: float
    found: tuple[float, float]  # mean and deviation over the folds of the search
    again: tuple[float, float]  # the same over other folds
    test: float


def search(names: list[str], training: Any, test: Any, folds: int, seed: int) -> list[Row]:
    """Search the grid; see what the best rate of each optimizer is worth where it was not chosen. The best comes first."""
    same, other = (StratifiedKFold(folds, shuffle=True, random_state=seed + i) for i in range(2))
    optimizer, lr = (f"networkclassifier__{name}" for name in ("optimizer", "lr"))
    with divergence_expected():
        grid = GridSearchCV(model(seed), {optimizer: names, lr: RATES}, cv=same, n_jobs=2, refit=False, verbose=1)
        results = grid.fit(*training).cv_results_
    rows = []
    for name in tqdm(names, unit="optimizer", desc="other folds"):
        cells = np.flatnonzero(results[f"param_{optimizer}"] == name)
        means, deviations = results["mean_test_score"][cells], results["std_test_score"][cells]
        best = int(np.nanargmax(means))
        chosen = model(seed).set_params(**results["params"][cells[best]])
        with threadpool_limits(1, user_api="blas"):  # these matrices are too small for two
            again = cross_val_score(chosen, *training, cv=other)
            accuracy = chosen.fit(*training).score(*test)
        found, anew = (means[best], deviations[best]), (again.mean(), again.std())
        rows.append(Row(name, means, RATES[best], found, anew, accuracy))
    return sorted(rows, key=lambda row: -row.found[0])


def table(rows: list[Row]) -> str:
    """One line per optimizer, the best of the search first."""
    lines = [f"{'optimizer':<19}{'lr':>8}{'in the search':>20}{'on other folds':>20}{'unseen':>10}"]
    lines += [
        f"{row.optimizer:<19}{row.lr:>8g}{row.found[0]:>11.4f} ± {row.found[1]:.4f}"
        f"{row.again[0]:>11.4f} ± {row.again[1]:.4f}{row.test:>10.4f}"
        for row in rows
    ]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- picture


def plot(rows: list[Row], folds: int, output: Path) -> None:
    """Draw the grid: optimizers by learning rates, coloured by the share of digits read wrongly."""
    accuracies = np.array([row.accuracies for row in rows])
    errors = np.ma.masked_invalid(1 - accuracies)
    colours = LinearSegmentedColormap.from_list("errors", [PALETTE[0], "#9dbcec", "#f4f6fa"])
    colours.set_bad(PALE)
    cell_width, cell_height = 0.78, 0.42
    height, width = cell_height * len(rows) + 1.85, cell_width * len(RATES) + 2.1
    left, right, bottom, top = 1.9 / width, 1 - 0.2 / width, 0.62 / height, 1 - 1.23 / height

    with plt.rc_context(STYLE | {"axes.grid": False, "axes.spines.bottom": False}):
        figure, axis = plt.subplots(figsize=(width, height))
        figure.subplots_adjust(left, bottom, right, top)
        norm = LogNorm(max(errors.min(), 1e-3), 0.5, clip=True)
        axis.pcolormesh(errors, cmap=colours, norm=norm, edgecolors="white", linewidth=2)
        for i, row in enumerate(rows):
            for j, accuracy in enumerate(row.accuracies):
                best = RATES[j] == row.lr
                dark = np.isfinite(accuracy) and norm(1 - accuracy) < 0.3
                axis.text(
                    j + 0.5, i + 0.5, f"{accuracy:.1%}" if np.isfinite(accuracy) else "diverges", ha="center", va="center",
                    size=9.5 if np.isfinite(accuracy) else 8, weight="bold" if best else "normal",
                    color="white" if dark else INK if np.isfinite(accuracy) else GREY,
                )  # fmt: skip
                if best:
                    axis.add_patch(
                        Rectangle((j + 0.04, i + 0.06), 0.92, 0.88, fill=False, edgecolor=INK, linewidth=1.6)
                    )
        axis.set_xticks(np.arange(len(RATES)) + 0.5, [f"{lr:g}" for lr in RATES], size=10)
        axis.set_yticks(np.arange(len(rows)) + 0.5, [row.optimizer for row in rows], size=11, color=INK)
        axis.set(xlabel="learning rate", xlim=(0, len(RATES)), ylim=(len(rows), 0))
        title = "Which optimizer, which learning rate?"
        figure.text(0.15 / width, 1 - 0.45 / height, title, size=17, weight="bold")
        what = (
            f"Share of handwritten digits read correctly: mean of {folds} folds, found by scikit-learn's GridSearchCV"
        )
        how = f"{EPOCHS} epochs; the rate falls to zero along half a cosine; framed: the best of its row"
        figure.text(0.15 / width, 1 - 0.76 / height, what, size=10.5, color=GREY)
        figure.text(0.15 / width, 1 - 0.99 / height, how, size=10.5, color=GREY)
        figure.savefig(output, dpi=150)
        plt.close(figure)


# ---------------------------------------------------------------------------------------------------- main


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = list(schuss.optimizers())
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folds", type=int, default=3, help="of the cross-validation (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the folds, first weights and batches (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("estimator.png"), help="picture (default: estimator.png)")
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=names,
        default=OPTIMIZERS,
        metavar="NAME",
        help=f"default: {' '.join(OPTIMIZERS)}",
    )
    args = parser.parse_args()
    if args.folds < 2:
        parser.error(f"--folds must be at least 2, got {args.folds}")
    return args


def main() -> None:
    """Check the estimator, search the grid; print the table and draw the picture."""
    args = arguments()
    checks = check_estimator(NetworkClassifier(epochs=40), on_fail=None, on_skip=None)
    counts = Counter(check["status"] for check in checks)
    print("Checks of estimators by scikit-learn:", ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
    faults = [f"{check['check_name']}: {check['exception']}" for check in checks if check["status"] == "failed"]
    for check in checks:
        if check["status"] == "skipped":
            print(f"  skipped: {check['check_name']}: {check['exception']}")

    pixels, labels = load_digits(return_X_y=True)
    pixels, unseen, labels, unseen_labels = train_test_split(
        pixels.astype(np.float32), labels, test_size=0.25, stratify=labels, random_state=0
    )
    rows = search(args.optimizers, (pixels, labels), (unseen, unseen_labels), args.folds, args.seed)

    print(table(rows))
    plot(rows, args.folds, args.output)
    print(f"The grid is in {args.output}")
    if rows[0].test < READS:
        faults.append(f"{rows[0].optimizer} reads {rows[0].test:.1%} of the unseen digits, not {READS:.0%}")
    sys.exit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
