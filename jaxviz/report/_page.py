"""The tour's web page: sections kept as files while the tour runs, and one self-contained HTML file made of them.

A folder holds, for every section that is done, its PNG files and `<id>.json`; `index.html` is written from those at any
time. A section is read back only if it was made by the same call (the fingerprint) and its pictures are still the ones
it was saved with, so that a rerun skips what is done and a page never shows a half-written picture.
"""

import base64
import hashlib
import io
import itertools
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxviz._extras import extra
from jaxviz._files import write_atomically
from jaxviz.image._arrays import as_bytes


class Figure(NamedTuple):
    """One picture of a section."""

    file: str  # name of a PNG file in the tour's folder
    caption: str
    map: dict[str, Any] | None = None  # makes it a map of images to move about in (`_map.py`), where scripts run


class Section(NamedTuple):
    """What the page shows of one method."""

    id: str  # names the section's file and its link: letters, digits, hyphens
    title: str
    question: str  # the lecture's question it helps to answer; consecutive sections with the same one form a group
    text: str
    code: str
    figures: tuple[Figure, ...]
    seconds: float
    seed: int | None
    paper: str
    settings: dict[str, str]
    left_out: str  # why there is none of this method; the page says so in a line; else empty


def save_section(folder: Path, section: Section, fingerprint: str) -> None:
    """Keep a finished section in `folder`, where its pictures already are.

    Args:
        folder: the tour's folder.
        section: what to keep.
        fingerprint: any string that changes when the section would (its inputs, settings and versions).

    Raises:
        FileNotFoundError: a picture of the section is not in the folder.
    """
    record = {"fingerprint": fingerprint, "pictures": _digests(folder, section), "section": section._asdict()}
    write_atomically(folder / f"{section.id}.json", json.dumps(record, indent=1).encode())


def load_section(folder: Path, id: str, fingerprint: str) -> Section | None:
    """Read a section back, or None where it has to be made (again).

    That is when there is none, its file is damaged, it has another fingerprint, or one of its pictures is missing or
    has changed since.
    """
    try:
        record = json.loads((folder / f"{id}.json").read_bytes())
        figures = tuple(Figure(*figure) for figure in record["section"].pop("figures"))
        section = Section(figures=figures, **record["section"])
        if section.id != id or any(Path(figure.file).name != figure.file for figure in figures):
            return None  # whoever wrote it would have the page show files from elsewhere
        same = record["fingerprint"] == fingerprint and record["pictures"] == _digests(folder, section)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, cut short, or of another version
        return None
    return section if same else None


def write_page(
    folder: Path,
    sections: Sequence[Section],
    *,
    title: str,
    facts: Mapping[str, str],
    pending: Sequence[str] = (),
    name: str = "index.html",
) -> Path:
    """Write a page into `folder`: one file that needs nothing else, neither network nor the pictures beside it.

    Args:
        folder: where the sections' pictures are.
        sections: in the order of the page.
        title: the heading.
        facts: what holds for the whole page (image, networks, device, versions), shown below the heading.
        pending: titles of sections that are not there yet; the page says so.
        name: of the file.

    Raises:
        ValueError: a picture that is not a PNG file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_page(Path(folder), [], title="A tour", facts={}, pending=["Saliency"])
    ...     print(page.name, "Saliency" in page.read_text())
    index.html True
    """
    files = [figure.file for section in sections for figure in section.figures]
    pictures = {file: as_picture((folder / file).read_bytes(), str(folder / file)) for file in files}
    path = folder / name
    write_atomically(path, rendered(sections, pictures, title=title, facts=facts, pending=pending))
    return path


def rendered(
    sections: Sequence[Section],
    pictures: Mapping[str, Any],
    *,
    title: str,
    facts: Mapping[str, str],
    pending: Sequence[str] = (),
) -> bytes:
    """Return a page as `write_page` does, with its pictures given, by the names that the sections have for them."""
    with extra("cli"):
        from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = _duration
    template = environment.from_string(Path(__file__).with_name("template.html").read_text("utf-8"))
    left_out = [(section.title, section.left_out) for section in sections if section.left_out]
    sections = [section for section in sections if not section.left_out]
    figures = [figure for section in sections for figure in section.figures]
    maps = any(figure.map for figure in figures)
    return template.render(
        title=title,
        facts=facts,
        pending=pending,
        left_out=left_out,
        groups=[(question, list(group)) for question, group in itertools.groupby(sections, lambda each: each.question)],
        pictures=pictures,
        map_script=Path(__file__).with_name("map.js").read_text("utf-8") if maps else "",
        several=len(sections) > 1,
        total=sum(section.seconds for section in sections),
        longest=max((section.seconds for section in sections), default=0) or 1,
    ).encode(errors="backslashreplace")  # of names that are not in UTF-8


def _digests(folder: Path, section: Section) -> dict[str, str]:
    files: Iterable[str] = (figure.file for figure in section.figures)
    return {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}


def as_picture(data: bytes, name: str) -> dict[str, Any]:
    """Return what an `<img>` needs: a file as a data address, and its size so that the page does not jump."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{name}: expected a PNG file, got {len(data)} bytes that begin with {data[:8]}")
    width, height = struct.unpack(">II", data[16:24])  # the first chunk of every PNG file begins with them
    return {"source": f"data:image/png;base64,{base64.b64encode(data).decode()}", "width": width, "height": height}


def as_photograph(image: Any) -> dict[str, Any]:
    """Return a picture, floats in [0, 1], for an `<img>`: as JPEG, a fifth of the size for thousands of photographs."""
    from PIL import Image

    buffer, pixels = io.BytesIO(), as_bytes(np.asarray(image))
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=0)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"source": source, "width": pixels.shape[1], "height": pixels.shape[0]}


def _duration(seconds: float) -> str:
    """Write a time as people do.

    >>> _duration(0.04), _duration(12.34), _duration(187.0)
    ('0.0 s', '12.3 s', '3 min 7 s')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
