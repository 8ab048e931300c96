"""Rollback."""

from __future__ import annotations

from typing import Any

from schuss import nested
from schuss._guard import uninterrupted
from schuss.wrapper import Count, Wrapper


class Rollback(Wrapper):
    """Rollback: takes the last step back, bit for bit.

    Before each call of `step` it copies the parameters and all state of what it wraps; `rollback` puts the copy back.

    Parameters
    ----------
    optimizer : Optimizer or Wrapper
        Makes the steps; wrappers in it are rolled back with it.
    depth : int
        How many steps can be taken back one after the other, in {1, 2, ...}.

    Notes
    -----
    State: `depth` copies of the parameters and of all state; one more during a step. They are not saved: after loading,
    copying, `reset`, `rebind` or `add` there is nothing to take back.

    Every call of `step` counts, those which a policy skips and those which only accumulate among them. Hyper-parameters are
    no part of a step and stay as they are; `last` still tells of the step that was taken back. Make it the outermost
    wrapper: what is around it is not rolled back.

    Examples
    --------
    >>> w = np.ones(1)
    >>> opt = schuss.Rollback(schuss.SGD(w, lr=0.5))
    >>> opt.step(np.ones(1))
    >>> w
    array([0.5])
    >>> opt.rollback()
    >>> w, opt.t
    (array([1.]), 0)
    """

    depth: Count = 1  #: how many steps can be taken back

    def _prepare(self) -> None:
        self._copies: list[nested.Snapshot] = []

    def _taken_over(self) -> None:
        self._copies = []  # another list, since an error brings back the one before

    def _advance(self, grads: Any, **inputs: Any) -> bool:
        before = nested.Snapshot(self._optimizer)
        done = self._optimizer._advance(grads, **inputs)
        self._copies.append(before)
        del self._copies[: -self.depth]
        return done

    @property
    def undoable(self) -> int:
        """How many steps can be taken back now."""
        return len(self._copies)

    @property
    def nbytes(self) -> int:
        """Bytes of state, of all levels and of the copies."""
        return super().nbytes + sum(each.nbytes for each in self._copies)

    @uninterrupted
    def rollback(self) -> None:
        """Bring back parameters and state of before the last step.

        Raises
        ------
        RuntimeError
            If there is no step to take back, or the parameters are those of `eval`.
        BufferError
            If the parameters cannot be written; nothing was changed.
        """
        self._require_training()
        if not self._copies:
            raise RuntimeError("Rollback: there is no step to take back; each can be taken back once")
        self._base._require_writeable()
        self._copies[-1].restore()
        self._copies.pop()
