"""A bar that shows how far a run is, in terminals and notebooks: a callback like any other."""

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from jax.core import Tracer

from jaxviz._options import check_function
from jaxviz.show._brief import concrete
from jaxviz.show._screens import screen

P = ParamSpec("P")
T = TypeVar("T")

Watcher = bool | Callable[[Any], Any]
"""What `progress` may be: True for a bar, or a function that is called like a `callback`."""


_BATCHES = 50  # whose mean loss is told where each step has a batch of its own


class Stand(NamedTuple):
    """How far a run is."""

    what: str
    done: int
    total: int
    loss: float | None
    spent: float
    """Seconds since the first look, before which programs were compiled."""
    left: float | None
    """Seconds that the rest will take at this pace, None as long as that is not known."""
    ended: bool

    def told(self) -> str:
        """Return what stands beside the bar."""
        loss = "" if self.loss is None else f"loss {self.loss:.4g}"
        unknown = "" if self.ended else "-:--:-- left"
        time_left = unknown if self.left is None else f"{_clock(self.left)} left"
        when = f"{_clock(self.spent)} in all" if self.ended else time_left
        return "  ".join(part for part in (f"{self.done}/{self.total}", loss, when) if part)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class Pace:
    """Tells how far a run is from one look to the next."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def stand(self, found: Any, title: str = "") -> Stand:
        """Return how far a run is, with a title before its name."""
        now, done, total = time.monotonic(), int(found.done), int(found.total)
        if self._first is None or done < self._first[1]:  # the first look, or that of the next run
            self._first = now, done
        spent, steps = now - self._first[0], done - self._first[1]
        ended = done >= total or bool(getattr(found, "finished", False))
        left = spent / steps * max(total - done, 0) if steps > 0 and not ended else None
        what = ": ".join(part for part in (title, found.what) if part)
        return Stand(what, done, total, _loss(found), spent, left, ended)


class ProgressBar:
    """A callback that shows how far a run is: a bar with step, loss and time left.

    `progress=True` makes one. It writes to the standard error stream where that is a terminal, into the output of a
    notebook's cell (Jupyter, Colab, marimo) together with the growing picture, and nowhere else unless asked. Of
    several processes only the first shows one. As a context manager, the bar is closed however the run ends.

    Args:
        title: what stands before the name of the function.
        always: whether to write lines, at most one in ten seconds, where there is neither a terminal nor a notebook,
            such as into the log of a job.
        picture: whether a notebook shows the images so far below the bar.

    Example:
        >>> import jax, jaxviz
        >>> score = lambda params, images: images.mean((1, 2, 3))
        >>> with jaxviz.ProgressBar(title="white") as bar:  # as with progress=True, here nothing is shown
        ...     found = jaxviz.ascend(score, None, jax.random.key(0), size=8, steps=16, callback=bar)
    """

    def __init__(self, *, title: str = "", always: bool = False, picture: bool = True):
        self._title, self._always, self._picture = title, always, picture
        self._screen: Any = None
        self._pace = Pace()

    def __call__(self, found: Any) -> None:
        """Show the result so far; it is not kept.

        Args:
            found: the result so far, as callbacks are given it.
        """
        if isinstance(getattr(found, "losses", None), Tracer):
            return  # a program is being traced, not run
        if self._screen is None:
            self._screen = screen(always=self._always)
        self._screen.show(self._pace.stand(found, self._title), found if self._picture else None)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        if self._screen is not None:
            self._screen.close()
        self._screen, self._pace = None, Pace()


def _loss(found: Any) -> float | None:
    losses = concrete(getattr(found, "losses", None))
    if losses is None or not losses.size or losses.dtype.kind != "f":
        return None
    return float(losses[-1] if losses.ndim == 1 else losses[-_BATCHES:].sum(-1).mean())


@contextmanager
def watching(progress: Watcher, callback: Callable[[Any], Any] | None) -> Iterator[Callable[[Any], Any] | None]:
    """Give what is called with each result so far: the callback, what `progress` asks for, or both."""
    if not isinstance(progress, bool):
        check_function("progress", progress, "True, False, or a function that takes the result so far")
    if progress is False or not (callback is None or callable(callback)):  # which the function itself refuses
        yield callback
        return
    if progress is not True and not isinstance(progress, ProgressBar):
        yield functools.partial(_both, progress, callback)
        return
    with ProgressBar() if progress is True else progress as bar:
        yield functools.partial(_both, bar, callback)


def _both(progress: Callable[[Any], Any], callback: Callable[[Any], Any] | None, found: Any) -> bool:
    """Call both, and return whether one of them ends the run."""
    ends = bool(progress(found))
    return bool(callback is not None and callback(found)) or ends


def followed(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function's option `progress` be seen to here: it is called with a callback that shows it."""

    @functools.wraps(function)
    def run(*args: Any, progress: Watcher = False, callback: Any = None, **options: Any) -> Any:
        with watching(progress, callback) as watch:
            return function(*args, callback=watch, **options)  # type: ignore[arg-type]

    @functools.wraps(function)
    def generate(*args: Any, progress: Watcher = False, callback: Any = None, **options: Any) -> Any:
        with watching(progress, callback) as watch:
            yield from function(*args, callback=watch, **options)  # type: ignore[arg-type,misc]

    return generate if inspect.isgeneratorfunction(function) else run  # type: ignore[return-value]
