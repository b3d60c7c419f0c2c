"""`jaxviz tour`: every method on one photograph."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxviz.cli._options import Seed


@dataclass(frozen=True, kw_only=True)
class Tour(Seed):
    """Show every method on one photograph: a web page, made in minutes.

    A rerun skips the sections that are done; Ctrl-C leaves a valid page with those.
    """

    image: Annotated[Path | None, tyro.conf.Positional] = None
    """The photograph; by default scikit-image's cat."""
    out: Path = Path("tour")
    """Folder for the page and its pictures."""
    size: Literal["small", "full"] = "small"
    """About 5 minutes on two cores (small), or several times that for better pictures (full)."""
    only: tuple[str, ...] = ()
    """Sections to make, by id; by default all."""
    images: Path | None = None
    """Folder of photographs to look through for neighbors and patches.
    By default crops of those that come with scikit-image and scikit-learn."""

    def run(self) -> None:
        """Make the page, or bring it up to date."""
        from rich.console import Console

        from jaxviz._files import plain
        from jaxviz.cli._runs import stop
        from jaxviz.report import _tour

        console, start = Console(), time.perf_counter()
        with console.status("Starting") as status:

            def report(line: str) -> None:
                if line.endswith("…"):
                    status.update(plain(line))  # a path may have brackets
                else:
                    console.print(plain(line))

            image, full = _photograph(self.image), self.size == "full"
            options = {"only": self.only, "seed": self.seed, "report": report, "album": self.images}
            try:
                page = _tour.run_tour(image, self.out, full=full, **options)
            except KeyboardInterrupt:
                page = None
        if page is None:
            stop(f"Stopped. {self.out / 'index.html'} has what was done; the same command continues from there.")
        console.print(plain(f"{page} after {time.perf_counter() - start:.0f} s: open it in a browser."))


def _photograph(image: Path | None) -> object:
    if image is not None:
        return image
    from skimage import data

    return data.chelsea()
