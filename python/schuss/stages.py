"""What may surround the rule of any optimizer in the same pass: noise in the gradient, decay of the weights, skipped steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from schuss import trees
from schuss.hyperparameters import Domain, Schedule, argument

if TYPE_CHECKING:
    from schuss.trees import Tree

__all__ = ["Decay", "GradientNoise", "Skip"]

_NON_NEGATIVE = Domain(0.0)
_KINDS = ("decoupled", "independent", "corrected")


@dataclass(frozen=True)
class GradientNoise:
    r"""Normal noise in the gradient, annealed over the steps: for any optimizer what `NoisySGD` is for SGD.

    .. math:: g \leftarrow g + \mathcal{N}\big(0, \eta / (s + 1)^\gamma\big)

    with s steps done. It is added after clipping. The noise of an element is a function of the seed, its tensor's step
    count and name, and its place there: the same for every number of threads and instruction set, and on resuming a run.

    Neelakantan et al. (2015), *Adding Gradient Noise Improves Learning for Very Deep Networks*,
    https://arxiv.org/abs/1511.06807

    Parameters
    ----------
    eta : float or schedule
        The variance at the first step, in [0, inf).
    gamma : float
        How fast the variance falls with the step, in [0, inf).
    seed : int
        Chooses the noise, in {0, 1, 2, ...}.

    Examples
    --------
    >>> w = np.zeros(2)
    >>> opt = schuss.Adam(w, lr=0.1, noise=schuss.GradientNoise(eta=1.0, seed=7))
    >>> opt.step(np.zeros(2))
    >>> w.round(3)
    array([-0.1, -0.1])
    """

    eta: float | Schedule = 0.01
    gamma: float = 0.55
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        argument(self, "eta", _NON_NEGATIVE)
        argument(self, "gamma", _NON_NEGATIVE, schedule=False)
        argument(self, "seed", Domain(0.0, 2.0**53, upper_open=False, whole=True), schedule=False)

    def spread(self, step: int) -> float:
        """Return the standard deviation after `step` steps."""
        eta = argument(self, "eta", _NON_NEGATIVE, step)
        try:
            return math.sqrt(eta / math.pow(step + 1, self.gamma))
        except OverflowError:  # of the power alone, beside which any variance vanishes
            return 0.0


@dataclass(frozen=True)
class Decay:
    r"""Weights decay beside the step of the rule, in the same pass, for any optimizer.

    .. math:: p \leftarrow \operatorname{step}(p) - \rho \, (p - p_{ref})

    with the weights p before the step, and

    .. math:: \rho = \begin{cases} \eta \, \text{rate} & \text{decoupled} \\ \text{rate} & \text{independent} \\
              \eta^2 / \eta_{max} \, \text{rate} & \text{corrected} \end{cases}

    for the step size :math:`\eta`. Cautious decay acts only on elements that the rule's step moves the same way.

    Loshchilov & Hutter (2019), *Decoupled Weight Decay Regularization*, https://arxiv.org/abs/1711.05101; corrected: Defazio
    (2025), https://arxiv.org/abs/2506.02285; cautious: Chen et al. (2025), https://arxiv.org/abs/2510.12402; toward a
    reference: Li, Grandvalet & Davoine (2018), https://arxiv.org/abs/1802.01483

    Parameters
    ----------
    rate : float or schedule
        In [0, inf).
    kind : {"decoupled", "independent", "corrected"}
        How it follows the step size.
    cautious : bool
        Leave elements alone that the step moves away from the reference.
    toward : tree of arrays, optional
        The reference, of the parameters' nesting and shapes; copied. Zero by default. Pass it again to resume a run.
    exclude : str or sequence of str
        Patterns (as for files: ``*`` and ``?``) of names, such as ``"*.bias"``, of parameters that do not decay.
    max_lr : float, optional
        For "corrected" the largest step size of the schedule, in (0, inf).

    Examples
    --------
    >>> params = {"w": np.ones(2), "bias": np.ones(1)}
    >>> opt = schuss.RMSprop(params, lr=0.1, decay=schuss.Decay(0.5, exclude="*bias"))
    >>> opt.step({"w": np.zeros(2), "bias": np.zeros(1)})
    >>> params
    {'w': array([0.95, 0.95]), 'bias': array([1.])}
    """

    rate: float | Schedule
    kind: Literal["decoupled", "independent", "corrected"] = "decoupled"
    cautious: bool = False
    toward: Tree | None = None
    exclude: str | Sequence[str] = ()
    max_lr: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        argument(self, "rate", _NON_NEGATIVE)
        if self.kind not in _KINDS:
            raise ValueError(f"Decay: kind must be one of {', '.join(_KINDS)}, got {self.kind!r}")
        if not isinstance(self.cautious, bool):
            raise TypeError(f"Decay: cautious must be True or False, got {self.cautious!r}")
        if not isinstance(self.exclude, str | Sequence) or not all(isinstance(each, str) for each in self.exclude):
            raise TypeError(f"Decay: exclude must be patterns of names such as '*.bias', got {self.exclude!r}")
        if (self.max_lr is not None) != (self.kind == "corrected"):
            raise TypeError('Decay: kind="corrected" needs max_lr=, the largest step size, and no other kind takes it')
        if self.max_lr is not None:
            argument(self, "max_lr", Domain(0.0, lower_open=True), schedule=False)
        if self.toward is not None:  # here, because optimizers read it again when they are rebound, reset or copied
            object.__setattr__(self, "toward", trees.map_leaves(copy.copy, self.toward))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The names that do not decay."""
        return (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)

    def at(self, step: int, lr: float) -> float:
        """Return what the weights lose of their distance from the reference."""
        rate = argument(self, "rate", _NON_NEGATIVE, step)
        if self.kind == "independent":
            return rate
        return rate * lr if self.max_lr is None else rate * (lr * lr / self.max_lr)


@dataclass(frozen=True)
class Skip:
    """Skip steps whose gradients are not finite, but not too many in a row.

    Parameters
    ----------
    budget : int
        Steps that may be skipped one after the other, in {0, 1, 2, ...}; the next one raises FloatingPointError.

    Examples
    --------
    >>> w = np.zeros(1)
    >>> opt = schuss.SGD(w, nonfinite=schuss.Skip(budget=1))
    >>> opt.step(np.array([np.inf])); opt.skipped
    1
    >>> opt.step(np.array([np.nan]))
    Traceback (most recent call last):
    FloatingPointError: SGD: grads holds nan at index (0,), and 1 step before it was skipped; nothing was changed
    """

    budget: int

    def __post_init__(self) -> None:
        """Check the budget."""
        argument(self, "budget", Domain(0.0, 2.0**53, whole=True), schedule=False)
