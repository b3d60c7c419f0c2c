"""`jaxviz tour`: every method on one photograph, as a web page."""

import functools
import hashlib
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

import jaxviz
from jaxviz._files import alone_in
from jaxviz._types import Key
from jaxviz.data._folder import check_apart, check_writable
from jaxviz.data._source import open_source
from jaxviz.image._checks import sides_of
from jaxviz.models._fetch import included
from jaxviz.models._load import imported_digest
from jaxviz.report._method import Method, Tour
from jaxviz.report._methods import METHODS
from jaxviz.report._own import LeftOut, Own
from jaxviz.report._own_methods import OWN_METHODS
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
    own: Own | None = None,
    key: Key | None = None,
) -> Path:
    """Make the page, or bring it up to date; return `index.html`'s path.

    A section whose pictures are there, of the same photograph, size and seed, by the same code and nets, is not made
    again. The page is written after each section, so it is valid whenever the tour stops.

    Args:
        image: what `load_image` takes.
        folder: where the page and its pictures go; made if need be.
        full: better pictures, for several times the 5 minutes that it takes on two cores otherwise.
        only: ids of the sections to make; empty: all.
        seed: of all randomness, if there is no key.
        report: called with a line of text whenever there is news.
        album: a folder of photographs to look through for neighbors and patches; None: crops of scikit-image's and
            scikit-learn's.
        own: the network to show; None: the two that come with jaxviz. What cannot be made of it is left out, and the
            page says why.
        key: of all randomness.

    Raises:
        ImageError: if there is no image in `image`.
        ValueError: for an unknown section, and an album of fewer than four images.
        WeightsUnavailableError: if weights can be had from none of their sources.
    """
    methods = METHODS if own is None else OWN_METHODS
    unknown = set(only) - {method.id for method in methods}
    if unknown:
        raise ValueError(f"no section {', '.join(sorted(unknown))}; there are {', '.join(m.id for m in methods)}")
    check_writable(folder)
    key = jax.random.key(seed) if key is None else key
    seed = functools.reduce(lambda whole, word: whole << 32 | word, jax.random.key_data(key).tolist(), 0)
    tour = Tour(jaxviz.load_image(image), key, full, report, album, own)
    photos = _digest_of(album, folder) if album is not None else ""
    weights = [imported_digest(name) for name in ("vgg16_features", "efficientnet_lite0")]
    settings = {"size": "full" if full else "small", "jax": jax.__version__, "jaxviz": version("jaxviz-cnn")}
    others = f"{album} {photos} {weights if own is None else (own.name, own.digest, own.size)}"
    marks = {method.id: f"{_fingerprint(method, tour, seed, settings)} {others}" for method in methods}
    with alone_in(folder):
        return _made(tour, folder, methods, marks, only, seed, settings)


def _made(
    tour: Tour,
    folder: Path,
    methods: Sequence[Method],
    marks: dict[str, str],
    only: Sequence[str],
    seed: int,
    settings: dict[str, str],
) -> Path:
    """Make what is not there yet; return the page's path."""
    done = {m.id: section for m in methods if (section := load_section(folder, m.id, marks[m.id]))}
    make = _make if tour.own is None else _make_or_leave_out
    page = _write(folder, methods, done, tour)
    for method in methods:
        if method.id in done:
            tour.report(f"{method.title}: done before")
        elif not only or method.id in only:
            tour.report(f"{method.title} …")
            made = done[method.id] = make(method, tour, folder, seed, settings)
            save_section(folder, made, marks[method.id])
            page = _write(folder, methods, done, tour)
            tour.report(f"{method.title}: {f'left out: {made.left_out}' if made.left_out else f'{made.seconds:.1f} s'}")
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
        code=method.code() if tour.own is None else f"{tour.own.code_of(method.call)}\n{method.code()}",
        figures=tuple(figures),
        seconds=time.perf_counter() - start,
        seed=seed,
        paper=method.paper,
        settings=settings,
        left_out="",
    )


_LONGEST = 400  # letters of an error on the page: some list all layers


def _make_or_leave_out(method: Method, tour: Tour, folder: Path, seed: int, settings: dict[str, str]) -> Section:
    """Make a section, with what was warned of; or say in a line why there is none of this network."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        try:
            section = _make(method, tour, folder, seed, settings)
        except (LeftOut, ValueError, RuntimeError, FloatingPointError, NotImplementedError) as error:
            return _left_out(method, settings, _line(str(error)))
    told = dict.fromkeys(_line(str(each.message)) for each in said if issubclass(each.category, UserWarning))
    if not section.figures:
        return _left_out(method, settings, "there is nothing to show: no unit responds")
    return section._replace(text=" ".join([section.text, *(f"jaxviz warned: {line}" for line in told)]))


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"


def _left_out(method: Method, settings: dict[str, str], why: str) -> Section:
    return Section(
        id=method.id,
        title=method.title,
        question=method.question,
        text="",
        code="",
        figures=(),
        seconds=0.0,
        seed=None,
        paper=method.paper,
        settings=settings,
        left_out=why,
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


def _write(folder: Path, methods: Sequence[Method], done: dict[str, Section], tour: Tour) -> Path:
    height, width = tour.photo.shape[:2]
    device = jax.devices()[0]
    facts = {
        "Photograph": f"{width} x {height} pixels",
        **({"Networks": "vgg16_features and efficientnet_lite0, trained on ImageNet"} if tour.own is None else {}),
        **({} if tour.own is None else _facts_of(tour.own)),
        "Device": f"{device.device_kind} ({os.cpu_count()} cores, {platform.machine()})",
        "Versions": f"jaxviz {version('jaxviz-cnn')}, jax {jax.__version__}, Python {platform.python_version()}",
    }
    sections = [done[method.id] for method in methods if method.id in done]
    pending = [method.title for method in methods if method.id not in done]
    title = "What a vision network has learned" if tour.own is None else f"What {tour.own.name} has learned"
    return write_page(folder, sections, title=title, facts=facts, pending=pending)


def _facts_of(own: Own) -> dict[str, str]:
    height, width = sides_of(own.size)
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(own.params))
    layers = "; ".join(f"{layer.name} ({layer.kind}, {' x '.join(map(str, layer.shape[1:]))})" for layer in own.layers)
    return {
        "Network": f"{numbers:,} parameters",
        "Its images": f"{width} x {height} pixels, channels: {own.network.channels}",
        "Outputs": f"{own.class_count} classes" if own.class_count else "no classes: it returns no array (n, classes)",
        "Layers shown": layers or "none: it has no maps and no tokens",
    }
