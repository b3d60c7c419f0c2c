"""Synthesized images: the result so far of a run, of several stages in a row, or of one of several runs."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxviz._progress import Progress
from jaxviz._types import Images
from jaxviz.show._shown import shown
from jaxviz.synthesis._minimize import Minimized, joined, other_run


class _Synthesis(NamedTuple):
    images: Images
    losses: Float[Array, " steps"]
    state: list[Array]
    finished: bool


@shown("images", lambda found: found.images)
class Synthesis(Progress, _Synthesis):
    """Synthesized images, or the images so far.

    Attributes:
        images: `(n, h, w, c)` in [0, 1].
        losses: `(steps,)`, before each step.
        state: everything that the next step depends on; pass it as `resume` to continue the run.
        finished: False while the run is in progress, or if its callback ended it.
    """


Watch = Callable[[Synthesis], Any]
"""Called between chunks of steps with the images so far; if it returns true, the run ends."""


@dataclasses.dataclass
class Part:
    """The callback of one of several runs that are followed as one; if it returns true, all of them end."""

    callback: Watch | None
    what: str
    number: int
    count: int
    ended: bool = False

    def __call__(self, found: Synthesis) -> bool:
        what, total = f"{self.what}: {found.what}", self.count * found.total
        self.ended = bool(
            self.callback and self.callback(found.told(what, self.number * found.total + found.done, total))
        )
        return self.ended

    def options(self) -> dict[str, Any]:
        """Return the options for the run: none if there is no callback."""
        return {} if self.callback is None else {"callback": self}


class Look(NamedTuple):
    """The state of a run; its images are computed only when needed."""

    show: Callable[[], Images]
    losses: Float[Array, " steps"]
    state: list[Array]
    finished: bool
    done: int
    total: int
    stage: str = ""

    def synthesis(self, method: str) -> Synthesis:
        """Return the images, with the name of the method that makes them."""
        found = Synthesis(self.show(), self.losses, self.state, self.finished)
        return found.told(f"{method}, {self.stage}" if self.stage else method, self.done, self.total)


def looks(show: Callable[[Any], Images], run: Iterator[Minimized]) -> Iterator[Look]:
    """Yield a run of variables as images, converted by `show`."""
    for found in run:
        yield Look(functools.partial(show, found.variables), *found[1:], found.done, found.total)


Stage = Callable[[int, Images | None, Sequence[Any] | None], Iterator[Look]]
"""`stage(i, images, resume)`; `images` are those of the previous stage, None for the first or a resumed one."""


def in_stages(stage: Stage, count: int, resume: Sequence[Any] | None) -> Iterator[Look]:
    """Yield stages in sequence as one run, each starting from the images of the previous one."""
    first, earlier, state = (0, np.zeros(0), None) if resume is None else _of_stage(resume, count)
    images = None
    for i in range(first, count):
        before, look = joined([earlier] if len(earlier) else []), None
        for look in stage(i, images, state):
            losses = joined([before, look.losses])
            state = [jnp.asarray(i), before, *look.state]
            done, total = len(before) + look.done, len(before) + (count - i) * look.total
            where = f"octave {i + 1} of {count}" if count > 1 else ""
            look = Look(look.show, losses, state, look.finished and i == count - 1, done, total, where)
            yield look
        assert look is not None
        images, earlier, state = look.show(), look.losses, None


def _of_stage(resume: Sequence[Any], count: int) -> tuple[int, np.ndarray, Sequence[Any]]:
    """Return the stage at which a run was stopped, the losses of earlier stages, and the state of that stage."""
    if len(resume) < 2 or jnp.ndim(resume[0]) or jnp.ndim(resume[1]) != 1:
        raise other_run()
    stage = np.asarray(resume[0])
    if stage.dtype.kind not in "iu" or not 0 <= stage < count:
        raise other_run()
    return int(stage), np.asarray(resume[1]), resume[2:]
