"""Lookahead."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np

from schuss.hyperparameters import Domain
from schuss.passes.lookahead import Lookahead as Synchronisation
from schuss.wrapper import Count, Wrapper


class Lookahead(Wrapper):
    r"""Lookahead: after every k steps of the optimizer, slow weights move a part of the way, and the optimizer restarts there.

    .. math::

        s &\leftarrow s + \alpha (p - s) \\
        p &\leftarrow s \qquad\text{after every } k \text{ steps}

    Zhang, Lucas, Hinton & Ba (2019), *Lookahead optimizer: k steps forward, 1 step back*,
    https://arxiv.org/abs/1907.08610

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        Makes the steps; its own state is left alone by the synchronisation.
    k : int
        Steps between synchronisations, in {1, 2, ...}. Skipped steps do not count.
    alpha : float
        How far the slow weights go, in [0, 1].

    Notes
    -----
    State: `slow`, one value per element in the optimizer's compute type, which starts as the parameter; and the number of
    steps since the last synchronisation.

    The average over the way damps the oscillations of a large step size. Evaluate where a synchronisation has just been.

    The paper's algorithm with the inner momentum maintained. Others reset or interpolate the momentum at a
    synchronisation, which is not done here.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = schuss.Lookahead(schuss.SGD(w, lr=0.1), k=2, alpha=0.5)
    >>> for _ in range(2):
    ...     opt.step(np.ones(1))
    >>> w
    array([0.9])
    """

    k: Count = 5  #: steps between synchronisations
    alpha: Annotated[float, Domain(0.0, 1.0, upper_open=False)] = 0.5  #: how far the slow weights go

    moves: ClassVar[bool] = True

    def _prepare(self) -> None:
        self._passes["lookahead"] = self._make_pass(Synchronisation)

    def _begin(self) -> None:
        super()._begin()
        self._numbers = {"since": 0}

    def _advance(self, grads: Any, **inputs: Any) -> bool:
        if not self._optimizer._advance(grads, **inputs):
            return False
        since = self._numbers["since"] + 1
        if since >= self.k:
            self._synchronise()
            since = 0
        self._numbers["since"] = since
        return True

    def _synchronise(self) -> None:
        synchronisation = self._passes["lookahead"]
        if synchronisation.alpha != self.alpha:
            synchronisation.alpha = self.alpha
        synchronisation.step(
            self._base._like_params(np.broadcast_to(leaf.dtype.type(0), leaf.shape) for leaf in self._base._leaves)
        )
