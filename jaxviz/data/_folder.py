"""Folders: finding the images in one and its subfolders, and checking one that results will be written to."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxviz.image._checks import ImageError

SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".avif", ".heic", ".heif",
)  # fmt: skip
"""Suffixes of image files; whether the installed Pillow can read a file shows only when it is read."""


class Found(NamedTuple):
    """The names of image files, relative to the folder and sorted, and for each one left out, why."""

    names: list[str]
    left_out: dict[str, str]


def find_images(folder: Path) -> Found:
    """Return the image files of a folder and its subfolders, by suffix; hidden files and folders are skipped.

    Links are followed. A folder reached twice counts once: at its own path if that is within `folder`, otherwise under
    the link whose name sorts first. Folders that cannot be read are left out and listed.
    """
    names: list[str] = []
    left_out: dict[str, str] = {}
    known: set[tuple[int, int]] = set()
    links = [""]
    while links:
        # One known link at a time: folders below it are visited before other links to them.
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
                left_out[at or "."] = f"{folder / at}: expected a readable folder, got {error.strerror}"
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
    """Return whether a link leads to a folder; one that is circular or broken is judged by its name."""
    try:
        return link.is_dir()
    except OSError:
        return False


def _no_file(entry: os.DirEntry[str]) -> str:
    """Return why an entry with an image's suffix cannot be read, or ""; reading a pipe would block forever."""
    try:
        is_file = entry.is_file()
        os.stat(entry.path)
    except OSError as error:
        return f"expected an image file, got a broken link ({error.strerror})"
    return "" if is_file else "expected an image file, got a pipe, a socket or a device"


class OutError(ImageError):
    """A folder that cannot take results, whatever the images."""


def check_writable(out: Path, option: str = "--out") -> None:
    """Raise ImageError if a folder cannot be created or written to, before hours are spent on its contents."""
    there = next((folder for folder in (out, *out.parents) if os.path.lexists(folder)), Path())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "is not writable" if there.is_dir() else "is a file"
        raise ImageError(f"{option} {out}: expected a folder for the results, but {there} {why}")


def check_apart(folder: Path, out: Path, *, recursive: bool) -> None:
    """Raise OutError if images written to `out` would be found in `folder` on the next run."""
    inside = out.resolve().is_relative_to(folder.resolve()) if recursive else out.resolve() == folder.resolve()
    if folder.is_dir() and inside:
        raise OutError(
            f"--out {out}: expected a folder outside of {folder}, where results would be taken for input images"
        )
