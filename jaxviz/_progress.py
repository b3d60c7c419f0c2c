"""How far a run is: what a callback is told, the same way by all functions that have one."""

from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T", bound="Progress")


class Progress:
    """What the results of all runs are, and so what every `callback` finds in the result so far.

    A `callback` is called as `callback(found)`, with the result so far, of the type that the function returns. If it
    returns true, the run ends, and what it has found is returned. Under `jit` and `vmap` no one looks, and what comes
    out of them has none of this.

    Attributes:
        what: the function, and where it is: "dream, octave 2 of 3".
        done: steps that were taken, or images that were seen.
        total: how many there are to be at most, in the same unit.
    """

    what: str = ""
    done: int = 0
    total: int = 0

    def told(self: T, what: str, done: int, total: int) -> T:
        """Say how far the run is, in a result that was just made."""
        self.what, self.done, self.total = what, int(done), int(total)
        return self

    if not TYPE_CHECKING:  # type checkers take the one of the named tuple beside it, which knows the fields

        def _replace(self, **changes):
            return super()._replace(**changes).told(self.what, self.done, self.total)
