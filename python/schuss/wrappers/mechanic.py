"""Mechanic."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from schuss import trees
from schuss.hyperparameters import NonNegative, Positive
from schuss.optimizer import Optimizer
from schuss.passes import mechanic
from schuss.wrapper import Wrapper


class Mechanic(Wrapper):
    r"""Mechanic: learns the scale of an optimizer's steps, so that the peak of its learning rate need not be searched.

    The weights are their start plus a scale times the sum :math:`\Delta` of the optimizer's updates. With :math:`\Delta` and
    the scale :math:`S = \sum_i s_i` before the step, and u the update that the optimizer makes of p:

    .. math::

        h &= -\Bigl\langle g + \lambda S \frac{\|g\|}{\|p\| + \epsilon} p,\ \Delta \Bigr\rangle, \qquad
        \Delta \leftarrow \Delta + u \\
        r_i &\leftarrow \beta_i r_i + s_i \min(\max(h, -m_i), m_i), \qquad
        m_i \leftarrow \max(\beta_i m_i, |h| + \epsilon), \qquad v_i \leftarrow \beta_i^2 v_i + h^2 \\
        s_i &\leftarrow \frac{m_i\, s_{init} / 6 + \max(r_i, 0)}{\sqrt{v_i} + \epsilon}, \qquad
        p \leftarrow p_0 + S \Delta

    with :math:`\beta_i = 1 - 10^{-i}`, i = 1 ... 6. The products and norms run over all tensors.

    Cutkosky, Defazio & Mehta (2023), *Mechanic: A Learning Rate Tuner*, https://arxiv.org/abs/2306.00144

    Parameters
    ----------
    optimizer : Optimizer
        Give it ``lr=1.0``, or a schedule with peak 1: its shape stays, and the scale multiplies it. Far smaller ones lose
        digits, since the updates are read from the weights.
    s_init : float or schedule
        The first scale, below any that could be right, in (0, inf).
    s_decay : float or schedule
        λ, a pull towards zero in what the scale learns from, in [0, inf). Not the optimizer's weight decay, which is scaled
        as the rest of its steps.
    eps : float or schedule
        Against divisions by zero, in (0, inf).

    Notes
    -----
    State: `reference` (:math:`p_0`) and `delta`, one value each per element (8 bytes per float32 parameter), and 24 numbers.
    The weights before a step are not kept beside them: ``reference + S * delta`` gives their bits again.

    Goes directly around an optimizer; other wrappers go around Mechanic. The start is where the first step finds the weights.
    As later weights are written from the state, what changes them between two steps is undone, unless `reset` makes them the
    new start. So bounds, and optimizers that keep weights of their own (the schedule-free ones), are refused; optimizers that
    measure their distance from the start (DoG, Prodigy) tune themselves already. g is what `step` was given, before the
    optimizer's clip.

    The form of the authors' code in optax, on which the paper's experiments ran, with its bound of h that is not in the
    paper; but for :math:`\Delta`, which optax recovers as :math:`(p - p_0) / (S + \epsilon)`. The authors' package for PyTorch
    neither bounds h nor keeps negative rewards, and has p after the optimizer's step in h.

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> opt = schuss.Mechanic(schuss.SGD(w, lr=1.0))
    >>> for _ in range(200):
    ...     opt.step(w.copy())  # the gradient of sum(w**2) / 2
    >>> bool(np.abs(w).max() < 1e-3), round(opt.scale, 3)
    (True, 0.017)
    """

    s_init: Positive = 1e-8  #: first scale
    s_decay: NonNegative = 1e-2  #: pull towards zero in what the scale learns from
    eps: Positive = 1e-8  #: against divisions by zero

    rewrites: ClassVar[bool] = True

    def _prepare(self) -> None:
        name, base = type(self).__name__, self.base
        if isinstance(self.optimizer, Wrapper):
            raise TypeError(
                f"{name}: it scales the steps of an optimizer itself, got {type(self.optimizer).__name__}; put {name} inside"
            )
        if base.bounds is not None:
            raise ValueError(
                f"{name}: scaled steps do not keep to the bounds of {type(base).__name__}; make it without bounds"
            )
        if type(base).evaluation is not Optimizer.evaluation:
            raise TypeError(
                f"{name}: {type(base).__name__} keeps weights of its own, which its scaled steps would part from; "
                "wrap an optimizer that does not"
            )
        self._passes["scaling"] = self._make_pass(mechanic.Mechanic, maximize=base.maximize, **self._present())

    def _present(self) -> dict[str, float]:
        """Return the arguments' values at the present step."""
        name = type(self).__name__
        return {key: each.at(name, self._arguments[key], self.t) for key, each in self.arguments.items()}

    @property
    def scale(self) -> float:
        """What the sum of the optimizer's updates is multiplied with: the present S."""
        state = self._passes["scaling"].state
        return float(sum(float(state[f"s{i}"]) for i in range(1, 7)))

    def _advance(self, grads: Any, **inputs: Any) -> bool:
        if callable(grads):
            raise TypeError(
                f"{type(self).__name__}: step takes gradients, got a function; what calls it goes around, as in "
                "SAM(Mechanic(...))"
            )
        scaling = self._passes["scaling"]
        for key, value in self._present().items():
            if getattr(scaling, key) != value:
                setattr(scaling, key, value)
        if scaling.t == 0:
            scaling.reset()  # the start is here: weights may have been loaded since the optimizer was wrapped
        if not self._optimizer._advance(grads, **inputs):
            return False
        given = {key: inputs[key] for key in ("grad_scale",) if key in inputs}
        scaling._advance(self._completed(grads), **given)
        return True

    def _completed(self, grads: Any) -> Any:
        """Return gradients with zeros where there are none: a new scale moves all tensors."""
        base = self._base
        listed = list(trees.matching_leaves(grads, base._tree))
        if all(grad is not None for grad in listed):
            return grads
        return base._like_params(
            np.broadcast_to(leaf.dtype.type(0), leaf.shape) if grad is None else grad
            for grad, leaf in zip(listed, base._leaves, strict=True)
        )
