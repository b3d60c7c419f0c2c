"""Folders: the images that are found in one and in the folders in it, and what is asked of one for results."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxviz.image._checks import ImageError

SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".avif", ".heic", ".heif",
)  # fmt: skip
"""What the names of image files end in; whether Pillow here can read them all shows when they are read."""


class Found(NamedTuple):
    """The names of image files, relative to the folder and in order, and why others are not among them."""

    names: list[str]
    left_out: dict[str, str]


def find_images(folder: Path) -> Found:
    """Return the image files of a folder, by their suffixes, with those of the folders in it but for hidden ones.

    Links are followed. A folder that is met twice is taken once: where it stands, if that is within `folder`, and else
    under the link whose name sorts first. What cannot be looked into is left out, and listed.
    """
    names: list[str] = []
    left_out: dict[str, str] = {}
    known: set[tuple[int, int]] = set()
    links = [""]
    while links:
        # Of the links that are known by now, one at a time: what stands behind it comes before what else links there.
        to_visit, later = [links.pop(0)], []
        while to_visit:
            at = to_visit.pop()
            try:
                found = os.stat(folder / at)
                if (found.st_dev, found.st_ino) in known:
                    continue
                known.add((found.st_dev, found.st_ino))
                entries = list(_visible(folder / at))
            except OSError as error:
                left_out[at or "."] = f"{folder / at}: expected a folder that can be read, got {error.strerror}"
                continue
            for entry in entries:
                name = f"{at}/{entry.name}" if at else entry.name
                if entry.is_dir(follow_symlinks=False):
                    to_visit.append(name)
                elif _is_folder(entry):
                    later.append(name)
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    if why := _no_file(entry):
                        left_out[name] = f"{folder / name}: {why}"
                    else:
                        names.append(name)
        links = sorted([*links, *later])
    return Found(sorted(names), left_out)


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _is_folder(link: os.DirEntry[str]) -> bool:
    """Tell a link to a folder; one that leads in a circle or nowhere is taken for what its name says."""
    try:
        return link.is_dir()
    except OSError:
        return False


def _no_file(entry: os.DirEntry[str]) -> str:
    """Return why what has an image's name cannot be read; a pipe would be waited for without end."""
    try:
        is_file = entry.is_file()
        os.stat(entry.path)
    except OSError as error:
        return f"expected an image file, got a link that leads nowhere ({error.strerror})"
    return "" if is_file else "expected an image file, got a pipe, a socket or a device"


class OutError(ImageError):
    """A folder for results that will not do, whatever the images."""


def check_writable(out: Path, option: str = "--out") -> None:
    """Raise ImageError if a folder cannot be made or written to, before hours go into what it is for."""
    there = next((folder for folder in (out, *out.parents) if os.path.lexists(folder)), Path())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "may not be written to" if there.is_dir() else "is a file"
        raise ImageError(f"{option} {out}: expected a folder for the results, but {there} {why}")


def check_apart(folder: Path, out: Path, *, recursive: bool) -> None:
    """Raise ImageError if images that are put into `out` would be found in `folder` the next time."""
    inside = out.resolve().is_relative_to(folder.resolve()) if recursive else out.resolve() == folder.resolve()
    if folder.is_dir() and inside:
        raise OutError(
            f"--out {out}: expected a folder outside of {folder}, the images', where results would be taken for images"
        )
