"""`jaxviz tour`: every method on one photograph."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxviz._extras import extra
from jaxviz.cli._options import Name, OneOutput, Seed


@dataclass(frozen=True, kw_only=True)
class Tour(OneOutput, Seed):
    """Show every method on one photograph: a web page, made in minutes.

    A rerun skips the sections that are done; Ctrl-C leaves a valid page with those.
    """

    image: Annotated[Path | None, tyro.conf.Positional] = None
    """The photograph; by default scikit-image's cat."""
    model: Name = None
    """The network to show: FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION or one that `jaxviz weights list` shows.
    That runs the file, and the function, which returns (net, params) or a jaxviz.Network.
    By default vgg16_features and efficientnet_lite0, each where it does best."""
    out: Path | None = None
    """Folder for the page and its pictures; by default tour, with --model tour-NAME."""
    size: Literal["small", "full"] = "small"
    """About 5 minutes on two cores (small), or several times that for better pictures (full)."""
    only: tuple[str, ...] = ()
    """Sections to make, by id; by default all."""
    images: Path | None = None
    """Folder of photographs to look through for neighbors and patches.
    By default crops of those that come with scikit-image and scikit-learn."""

    def run(self) -> None:
        """Make the page, or bring it up to date."""
        with extra("cli"):
            from rich.console import Console

        from jaxviz._files import file_name, plain
        from jaxviz.cli._runs import stop
        from jaxviz.report import _tour

        console, start = Console(), time.perf_counter()
        with console.status("Starting") as status:

            def report(line: str) -> None:
                if line.endswith("…"):
                    status.update(plain(line))  # a path may have brackets
                else:
                    console.print(plain(line))

            if self.model is None and self.output is not None:
                raise ValueError("--output: expected together with --model, the network that returns it")
            own = None if self.model is None else _own(self.model, self.output, self.image)
            image, full = _photograph(self.image), self.size == "full"
            options = {"only": self.only, "seed": self.seed, "report": report, "album": self.images, "own": own}
            out = self.out or Path("tour" if own is None else f"tour-{file_name(_short(own.name))}")
            try:
                page = _tour.run_tour(image, out, full=full, **options)
            except KeyboardInterrupt:
                page = None
        if page is None:
            stop(f"Stopped. {out / 'index.html'} has what was done; the same command continues from there.")
        console.print(plain(f"{page} after {time.perf_counter() - start:.0f} s: open it in a browser."))


def _photograph(image: Path | None) -> object:
    if image is not None:
        return image
    with extra("photos"):
        from skimage import data

    return data.chelsea()


def _short(model: str) -> str:
    """Return the name of a file or module without its folders and its function."""
    return Path(model.rpartition(":")[0] or model).name.removesuffix(".py")


def _own(name: str, output: str | None, image: Path | None) -> Any:
    from jaxviz.cli._models import load_model
    from jaxviz.report._own import looked_at

    model = load_model(name, output=output)
    model.shape_returned("which are its class scores")
    channels = model.network.channels
    if channels not in (1, 3):
        raise ValueError(
            f"--model {name}: expected a network of photographs, which have 3 channels, or 1, got one of {channels}: "
            "use the functions from Python"
        )
    if channels == 1 and image is None:
        raise ValueError(f"--model {name}: expected an image of the kind that it knows, as in `jaxviz tour IMAGE`")
    return looked_at(name, model.code, model.network, model.size, model.digest())
