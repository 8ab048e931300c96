"""SAM and ASAM."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from schuss._core import Let
from schuss._guard import uninterrupted
from schuss.hyperparameters import NonNegative
from schuss.passes import sam
from schuss.wrapper import Wrapper


class SAM(Wrapper):
    r"""Sharpness-aware minimisation: steps with the gradients of the worst weights nearby, which leads to flat minima.

    .. math::

        e &= \rho \frac{T^2 g(p)}{\|T g(p)\|} \\
        p &\leftarrow \text{the optimizer's step from } p \text{ with } g(p + e)

    with T = 1, or ``adaptive`` (ASAM) :math:`T = |p| + \eta` per element. The norm runs over all tensors.

    Foret, Kleiner, Mobahi & Neyshabur (2021), *Sharpness-Aware Minimization for Efficiently Improving Generalization*,
    https://arxiv.org/abs/2010.01412; ASAM: Kwon, Kim, Park & Choi (2021), *ASAM: Adaptive Sharpness-Aware Minimization for
    Scale-Invariant Learning of Deep Neural Networks*, https://arxiv.org/abs/2102.11600

    A step needs the gradients at two places, so it takes a function of no arguments that computes them at the present
    parameters and is called twice. Or the caller computes both::

        with sam.perturbed(grads_at(w)):
            grads = grads_at(w)
        sam.step(grads)

    where ``sam.perturb(grads)`` and ``sam.restore()`` do what the block does at its two ends. In between the parameters are
    :math:`p + e`, and nothing of the optimizer can be stepped or saved.

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        Makes the steps.
    rho : float or schedule
        ρ, how far away the worst weights are looked for, in [0, inf). For ASAM ten times as much: the authors advise 0.5 to 2.
    adaptive : bool
        ASAM: measure the distance relative to the weights' magnitudes, so that it does not depend on their scale.
    eta : float or schedule
        η, added to the magnitudes, in [0, inf); of no effect unless `adaptive`. With 0, weights that are 0 are not perturbed.

    Notes
    -----
    State: `before`, one value per element (4 bytes per float32 parameter, 2 where all parameters are of one 16-bit type):
    the weights while they are perturbed. They come back bit for bit, also after an exception in the function or in the block.
    It is scratch: no checkpoint holds it.

    A step costs two gradients. The weight decay, penalties and clip of the optimizer act on the second ones alone. Tensors
    that have no gradient at first are not perturbed. With ``nonfinite="raise"`` or ``"skip"`` first gradients that are not
    finite are raised or skipped before anything is perturbed.

    Wrappers around it pass a function on, or take gradients where they add them up: accumulate those found in `perturbed`.
    For a step without a search, call ``sam.optimizer.step(grads)``.

    The authors' form of the norm, without an eps, and 0 where all gradients are 0. ASAM with the authors' η, of which
    pytorch_optimizer has none, for all tensors; their code leaves out those not named "weight".

    Examples
    --------
    >>> w = np.array([3.0, 4.0])
    >>> sam = schuss.SAM(schuss.SGD(w, lr=0.1), rho=0.5)
    >>> sam.step(lambda: w.copy())  # the gradient of sum(w**2) / 2, which is longer by 0.5 there
    >>> w
    array([2.67, 3.56])
    """

    rho: NonNegative = 0.05  #: distance of the worst weights
    adaptive: bool = False
    eta: NonNegative = 0.01  #: added to the weights' magnitudes

    single: ClassVar[bool] = True

    def _prepare(self) -> None:
        self._moved: list[bool] | None = None  # which tensors are perturbed; None: the weights are those of the run
        self._found = False  # gradients were to be computed at perturbed weights
        self._make_ascent()

    def _make_ascent(self) -> None:
        """Make the pass over the present parameters. It is none of `_passes`, since what it keeps is not to be saved."""
        base = self.base
        # Where all are of one 16-bit type, the copy may be.
        dtypes = [leaf.dtype for leaf in base._leaves]
        narrow = dtypes[0].itemsize == 2 and all(dtype == dtypes[0] for dtype in dtypes)
        self._leaves = base._leaves
        self._ascent = self._make_pass(
            sam.SAM,
            adaptive=self.adaptive,
            maximize=base.maximize,
            nonfinite=base._policy,
            state_dtype=("float16" if dtypes[0] == np.float16 else "bfloat16") if narrow else None,
            flush_subnormals=False,  # the copy is to be exact
        )

    # ---- the step ----------------------------------------------------------------------------------------------------

    def step(self, grads: Any, **inputs: Any) -> None:
        """Update the parameters in place with the gradients of perturbed weights.

        Parameters
        ----------
        grads : callable, or array, or nesting of arrays
            A function of no arguments that returns the gradients at the present parameters; called at the weights of the
            run and at the perturbed ones. Or the gradients that were found between `perturb` and `restore`.
        **inputs
            As for the wrapped optimizer's step.

        Raises
        ------
        TypeError, ValueError, BufferError, FloatingPointError, RuntimeError
            As the wrapped optimizer's step, and whatever the function raises; nothing was changed at any level.
        """
        super().step(grads, **inputs)

    def _advance(self, grads: Any, **inputs: Any) -> bool:
        if callable(grads):
            return self._advance_by(grads, inputs)
        if not self._found:
            raise RuntimeError(
                f"{type(self).__name__}: these gradients are not of perturbed weights; call perturb(grads) and restore() "
                "first, or pass step a function that computes them"
            )
        done = self._optimizer._advance(grads, **inputs)
        self._found = False
        return done

    def _advance_by(self, closure: Callable[[], Any], inputs: dict[str, Any]) -> bool:
        """Step with what a function finds at the perturbed weights."""
        with Let():
            grads = closure()
        if grads is None:
            raise TypeError(
                f"{type(self).__name__}: the function must return gradients, got None; end it with a return"
            )
        try:
            # Else there is nothing to climb by, and the optimizer says what becomes of such gradients.
            if self._climb(grads):
                with Let():
                    grads = closure()
        finally:
            self._put_back()
        done = self._optimizer._advance(grads, **inputs)
        self._found = False
        return done

    @uninterrupted
    def perturb(self, grads: Any) -> None:
        """Move the parameters to the worst weights nearby, until `restore`.

        Parameters
        ----------
        grads : array, or nesting of arrays as in `params`
            The gradients at the present parameters; None in place of an array leaves that tensor where it is.

        Raises
        ------
        TypeError, ValueError, BufferError, FloatingPointError
            If gradients or parameters cannot be used; nothing was changed.
        RuntimeError
            If the weights are perturbed already, or are those of `eval`.

        Examples
        --------
        >>> w = np.array([3.0, 4.0])
        >>> sam = schuss.SAM(schuss.SGD(w), rho=0.5)
        >>> sam.perturb(w.copy())
        >>> w
        array([3.3, 4.4])
        >>> sam.restore()
        >>> w
        array([3., 4.])
        """
        self._require_training()
        try:
            self._climb(grads)
        except BaseException:
            self._put_back()
            raise

    @uninterrupted
    def restore(self) -> None:
        """Put back the parameters that `perturb` has moved, bit for bit; changes that were made since are lost.

        Raises
        ------
        RuntimeError
            If the weights are not perturbed.
        """
        if self._moved is None:
            raise RuntimeError(f"{type(self).__name__}: the weights are not perturbed; call perturb(grads) first")
        self._put_back()
        self._found = True

    @contextlib.contextmanager
    def perturbed(self, grads: Any) -> Iterator[None]:
        """Perturb the parameters for a block, and restore them at its end, however it is left.

        Parameters
        ----------
        grads : array, or nesting of arrays as in `params`
            As for `perturb`.

        Examples
        --------
        >>> w = np.array([3.0, 4.0])
        >>> sam = schuss.SAM(schuss.SGD(w, lr=1.0), rho=0.5)
        >>> with sam.perturbed(w.copy()):
        ...     grads = w.copy()
        >>> sam.step(grads)
        >>> w.round(12)
        array([-0.3, -0.4])
        """
        found = self._found
        self.perturb(grads)
        try:
            yield
        except BaseException:
            self.restore()
            self._found = found
            raise
        self.restore()

    def _climb(self, grads: Any) -> bool:
        """Perturb the parameters; tell whether any was."""
        if self._leaves is not self.base._leaves:
            self._make_ascent()
        ascent = self._ascent
        for key, argument in self.arguments.items():
            value = argument.at(type(self).__name__, self._arguments[key], self.t)
            if getattr(ascent, key) != value:
                setattr(ascent, key, value)
        before = ascent._counts[:-1].copy()
        try:
            return bool(ascent._advance(grads))
        finally:  # an interrupt may come when all is done
            self._moved = [bool(moved) for moved in ascent._counts[:-1] != before]

    def _put_back(self) -> None:
        """Restore what was perturbed."""
        if self._moved is None:
            return
        if any(self._moved):
            self._ascent._require_writeable()
        (before,) = self._ascent._slots
        for leaf, kept, moved in zip(self._leaves, before, self._moved, strict=True):
            if moved and leaf.dtype == kept.dtype:
                leaf[...] = kept
            elif moved:
                self._ascent._write(leaf, kept)
        self._moved = None

    # ---- what cannot be had of perturbed weights ---------------------------------------------------------------------

    def _require_training(self) -> None:
        self._require_unperturbed()
        super()._require_training()

    def _require_own(self) -> None:
        super()._require_own()
        self._require_unperturbed()

    def _require_unperturbed(self) -> None:
        """Refuse what is about the weights of the run while they are perturbed."""
        if self._moved is not None:
            raise RuntimeError(f"{type(self).__name__}: the weights are perturbed; call restore() first")

    def _taken_over(self) -> None:
        self._found = False

    @property
    def state(self) -> dict[str, Any]:
        """The live state: the slots of all that is wrapped, and `before`."""
        own: dict[str, Any] = self._ascent.state
        return super().state | own

    @property
    def nbytes(self) -> int:
        """Bytes of state, of all levels."""
        return super().nbytes + int(self._ascent.nbytes)
