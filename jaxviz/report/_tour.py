"""`jaxviz tour`: every method on one photograph, as a web page."""

import functools
import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

import jaxviz
from jaxviz._files import alone_in
from jaxviz.data._folder import check_apart, check_writable
from jaxviz.data._source import open_source
from jaxviz.models._fetch import included
from jaxviz.models._load import imported_digest
from jaxviz.report._method import Method, Tour
from jaxviz.report._methods import METHODS
from jaxviz.report._page import Figure, Section, load_section, save_section, write_page
from jaxviz.synthesis.fast_style._files import STYLE_NET


def run_tour(
    image: object,
    folder: Path,
    *,
    full: bool,
    only: Sequence[str] = (),
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
    album: Path | None = None,
) -> Path:
    """Make the page, or bring it up to date; return `index.html`'s path.

    A section whose pictures are there, of the same photograph, size and seed, by the same code and nets, is not made
    again. The page is written after each section, so it is valid whenever the tour stops.

    Args:
        image: what `load_image` takes.
        folder: where the page and its pictures go; made if need be.
        full: better pictures, for several times the 5 minutes that it takes on two cores otherwise.
        only: ids of the sections to make; empty: all.
        seed: of all randomness.
        report: called with a line of text whenever there is news.
        album: a folder of photographs to look through for neighbors and patches; None: crops of scikit-image's and
            scikit-learn's.

    Raises:
        ImageError: if there is no image in `image`.
        ValueError: for an unknown section, and an album of fewer than four images.
        WeightsUnavailableError: if weights can be had from none of their sources.
    """
    unknown = set(only) - {method.id for method in METHODS}
    if unknown:
        raise ValueError(f"no section {', '.join(sorted(unknown))}; there are {', '.join(m.id for m in METHODS)}")
    check_writable(folder)
    tour = Tour(jaxviz.load_image(image), jax.random.key(seed), full, report, album)
    photos = _digest_of(album, folder) if album is not None else ""
    weights = [imported_digest(name) for name in ("vgg16_features", "efficientnet_lite0")]
    settings = {"size": "full" if full else "small", "jax": jax.__version__, "jaxviz": version("jaxviz-cnn")}
    others = f"{album} {photos} {weights}"
    marks = {method.id: f"{_fingerprint(method, tour, seed, settings)} {others}" for method in METHODS}
    with alone_in(folder):
        return _made(tour, folder, marks, only, seed, settings, report)


def _made(
    tour: Tour,
    folder: Path,
    marks: dict[str, str],
    only: Sequence[str],
    seed: int,
    settings: dict[str, str],
    report: Callable[[str], None],
) -> Path:
    """Make what is not there yet; return the page's path."""
    done = {m.id: section for m in METHODS if (section := load_section(folder, m.id, marks[m.id]))}
    page = _write(folder, done, tour)
    for method in METHODS:
        if method.id in done:
            report(f"{method.title}: done before")
        elif not only or method.id in only:
            report(f"{method.title} …")
            done[method.id] = _make(method, tour, folder, seed, settings)
            save_section(folder, done[method.id], marks[method.id])
            page = _write(folder, done, tour)
            report(f"{method.title}: {done[method.id].seconds:.1f} s")
    return page


def _digest_of(album: Path, folder: Path) -> str:
    """Return a digest of an album's images, by name, size and time of change."""
    check_apart(album, folder, recursive=True)
    opened = open_source(album)
    if len(opened.ids) < 4:
        raise ValueError(
            f"{album}: expected a folder of 4 images or more to look for neighbors in, got {len(opened.ids)}"
        )
    lines = "\0".join(f"{name} {opened.mark(i)}" for i, name in enumerate(opened.ids))
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def _make(method: Method, tour: Tour, folder: Path, seed: int, settings: dict[str, str]) -> Section:
    start = time.perf_counter()
    figures = []
    for name, caption, picture, *map in method.pictures(tour):
        jaxviz.save_image(folder / f"{name}.png", np.asarray(picture))
        figures.append(Figure(f"{name}.png", caption, *map))
    return Section(
        id=method.id,
        title=method.title,
        question=method.question,
        text=method.text,
        code=method.code(),
        figures=tuple(figures),
        seconds=time.perf_counter() - start,
        seed=seed,
        paper=method.paper,
        settings=settings,
    )


def _fingerprint(method: Method, tour: Tour, seed: int, settings: dict[str, str]) -> str:
    """Return what a section depends on, in a form that can be compared."""
    photo = hashlib.sha256(np.asarray(tour.photo).tobytes() + str(tour.photo.shape).encode()).hexdigest()
    return f"{method.id} {seed} {sorted(settings.items())} {photo} {_own_digest()} {version('flax')}"


@functools.cache
def _own_digest() -> str:
    """Return a digest of all of this package's code and of what it comes with: any of it may change any picture."""
    files = [*sorted(Path(jaxviz.__file__).parent.rglob("*.py")), included("manifest.toml"), included(STYLE_NET)]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _write(folder: Path, done: dict[str, Section], tour: Tour) -> Path:
    height, width = tour.photo.shape[:2]
    device = jax.devices()[0]
    facts = {
        "Photograph": f"{width} x {height} pixels",
        "Networks": "vgg16_features and efficientnet_lite0, trained on ImageNet",
        "Device": f"{device.device_kind} ({os.cpu_count()} cores, {platform.machine()})",
        "Versions": f"jaxviz {version('jaxviz-cnn')}, jax {jax.__version__}, Python {platform.python_version()}",
    }
    sections = [done[method.id] for method in METHODS if method.id in done]
    pending = [method.title for method in METHODS if method.id not in done]
    return write_page(folder, sections, title="What a vision network has learned", facts=facts, pending=pending)
