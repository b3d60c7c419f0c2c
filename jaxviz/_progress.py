"""The progress of a run, passed to callbacks in the same way by all functions that take one."""

from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T", bound="Progress")


class Progress:
    """The base of all results of runs: every `callback` finds these attributes on the result so far.

    A `callback` is called as `callback(found)`, with the result so far, of the type that the function returns. If it
    returns true, the run ends and returns what it has found. Under `jit` and `vmap`, callbacks are not called, and
    results lack these attributes.

    Attributes:
        what: the function and its stage: "dream, octave 2 of 3".
        done: steps taken, or images processed.
        total: the maximum number, in the same unit.
    """

    what: str = ""
    done: int = 0
    total: int = 0

    def told(self: T, what: str, done: int, total: int) -> T:
        """Set the progress of a new result, for the functions that make one.

        Args:
            what: the function and its stage.
            done: steps taken, or images processed.
            total: the maximum number, in the same unit.

        Returns:
            The same result.
        """
        self.what, self.done, self.total = what, int(done), int(total)
        return self

    if not TYPE_CHECKING:  # type checkers use that of the named tuple, which knows the fields

        def _replace(self, **changes):
            return super()._replace(**changes).told(self.what, self.done, self.total)
