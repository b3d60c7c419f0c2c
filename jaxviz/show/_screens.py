"""Where a bar is shown: a terminal, a notebook's cell, lines in a log, or nowhere."""

import sys
import time
from typing import Any

import jax

from jaxviz._extras import extra
from jaxviz._files import printable
from jaxviz.show import _pictures as pictures
from jaxviz.show._brief import concrete

_PAUSE = 0.5  # seconds between two pictures in a notebook
_LINES = 10  # seconds between two lines in a log
_SIDE = 448  # pixels of the longer side of the growing picture
_TILES = 16


class Screen:
    """Shows nothing."""

    def show(self, stand: Any, found: Any) -> None:
        """Show how far a run is, with its result so far."""

    def close(self) -> None:
        """Leave what was shown last."""


def screen(*, always: bool) -> Screen:
    """Return where bars can be shown in this process."""
    if jax.process_index() > 0:
        return Screen()
    if "marimo" in sys.modules and sys.modules["marimo"].running_in_notebook():
        return Marimo()
    if _in_jupyter():
        return Jupyter()
    if sys.stderr is not None and sys.stderr.isatty():
        return Terminal()
    return Lines() if always else Screen()


def _in_jupyter() -> bool:
    """Tell whether a kernel of Jupyter or Colab runs this, and not IPython in a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


class Terminal(Screen):
    """A bar of Rich's on the standard error stream; what is printed meanwhile appears above it."""

    def __init__(self) -> None:
        with extra("cli"):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

        told = TextColumn("{task.fields[told]}", markup=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), told)
        # Drawn when there is news, without a thread that would go on if a run breaks off.
        self._bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, expand=True)
        self._task: Any = None

    def show(self, stand: Any, found: Any) -> None:
        state = {"description": printable(stand.what), "completed": stand.done, "total": stand.total}
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(told=stand.told(), **state)
        self._bar.update(self._task, told=stand.told(), refresh=True, **state)
        if stand.ended:
            self.close()

    def close(self) -> None:
        if self._task is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)  # or the next run would draw this one's bar again
            self._task = None


class Lines(Screen):
    """Lines on the standard error stream, not too many of them."""

    def __init__(self) -> None:
        self._due = 0.0

    def show(self, stand: Any, found: Any) -> None:
        if stand.ended or time.monotonic() >= self._due:
            print(f"{printable(stand.what)}: {stand.told()}", file=sys.stderr, flush=True)
            self._due = time.monotonic() + _LINES


class Jupyter(Screen):
    """A bar in a cell's output, which is replaced as the run goes on."""

    def __init__(self) -> None:
        self._due, self._last, self._picture = 0.0, None, ""
        self._handle: Any = None

    def show(self, stand: Any, found: Any) -> None:
        if not stand.ended and time.monotonic() < self._due:
            self._last = stand
            return
        self._picture = picture_of(found)
        self._put(html_of(stand, self._picture))
        self._due, self._last = time.monotonic() + _PAUSE, None

    def close(self) -> None:
        if self._last is not None:  # where the run broke off, with the last picture
            self._put(html_of(self._last, self._picture))
            self._last = None

    def _put(self, page: str) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        if self._handle is None:
            self._handle = display(HTML(page), display_id=True)
        else:
            self._handle.update(HTML(page))


class Marimo(Jupyter):
    """The same in a cell of marimo's."""

    def _put(self, page: str) -> None:
        marimo = sys.modules["marimo"]
        marimo.output.replace(marimo.Html(page))


def html_of(stand: Any, picture: str) -> str:
    """Return a bar as HTML, with a picture below it."""
    share = 100 * stand.done / max(stand.total, 1)
    bar = f'<progress style="width: 24em; max-width: 100%" value="{share:.2f}" max="100"></progress>'
    return f"<div>{pictures.text(stand.what)}{bar}{pictures.text(stand.told())}{picture}</div>"


def picture_of(found: Any) -> str:
    """Return the images so far as HTML, the last of very many; empty if there are none."""
    images = getattr(found, "images", None)
    values = concrete(images) if images is not None else None
    if values is None or values.ndim != 4 or not values.size:
        return ""
    return pictures.img(pictures.png_of(pictures.tiled(list(values[-_TILES:])), longest=_SIDE))
