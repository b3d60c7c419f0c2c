"""The image files that a command line names, and what is wrong with any of them; one bad file stops no other."""

import errno
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jaxviz._files import printable
from jaxviz.data._folder import SUFFIXES, OutError, check_apart, check_writable
from jaxviz.image._checks import ImageError


def files(sources: Sequence[Path], out: Path) -> dict[Path, ImageError | None]:
    """Return the images that the arguments name, a folder's by their suffixes, in order of name.

    With each comes what is wrong with it, or nothing; if all are wrong, that of the first is raised.
    """
    check_writable(out)
    found: dict[Path, ImageError | None] = {}
    for source in sources:
        try:
            found |= dict.fromkeys(_in_folder(source, out)) if os.path.isdir(source) else {_there(source): None}
        except OutError:
            raise
        except ImageError as error:
            found[source] = error
    if not found:
        raise ImageError("expected the name of an image or a folder, got none")
    of_different_names(path for path, bad in found.items() if bad is None)
    first = next(iter(found.values()))
    if first is not None and all(found.values()):
        raise first
    return found


def _there(path: Path) -> Path:
    try:
        path.lstat()
    except (OSError, ValueError) as error:  # ValueError: of a NUL in the name
        why = getattr(error, "strerror", None) or error
        got = "a path where there is none" if isinstance(error, FileNotFoundError) else why
        raise ImageError(f"{path}: expected an image file or a folder of them, got {got}") from error
    return path


def of_different_names(paths: Iterable[Path]) -> list[Path]:
    """Return the paths, each once; raise ImageError for two whose results would have one name."""
    by_stem: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise ImageError(
                f"{other} and {path} have the same name, and so would their results: rename one, or take them in "
                "two runs, each with its own --out"
            )
    return list(by_stem.values())


_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name)}


def _nothing_of(failed: int, total: int) -> str:
    return f"nothing could be made of {failed} of {total} files, see above"


def each_of(
    work: Sequence[tuple[Path, Callable[[Path], None]]], *, said: Callable[[int, int], str] = _nothing_of
) -> None:
    """Do something with each file, in turn, and continue after a failure.

    Two failures in a row for the same reason say nothing about a file but that an option is wrong, and end it. So does
    a disk that is full. At the end, an error is `said` of how many failed, and of how many there were.
    """
    failed: list[str] = []
    for path, make in work:
        try:
            make(path)
        except (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError) as error:
            same = failed[-1:] == [str(error)] and not isinstance(error, ImageError)
            if len(work) == 1 or same or (isinstance(error, OSError) and error.errno in _FULL):
                raise
            failed.append(str(error))
            named = "" if str(path) in str(error) else f"{path}: "
            why = str(error) or type(error).__name__
            print(f"jaxviz: {printable(f'{named}{why}', keep=chr(10))}", file=sys.stderr, flush=True)
    if failed:
        raise ValueError(said(len(failed), len(work)))


def failing(error: Exception) -> Callable[[Path], None]:
    """Return what a file that is known to be bad comes to in its turn."""

    def fail(path: Path) -> None:
        raise error

    return fail


def _in_folder(folder: Path, out: Path) -> list[Path]:
    check_apart(folder, out, recursive=False)
    try:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise ImageError(f"{folder}: expected a folder that can be read, got {error.strerror}") from error
    found = sorted(path for path in visible if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ImageError(f"{folder}: expected a folder with images ({', '.join(SUFFIXES)}), found none")
    return found


def make_each(
    make: Callable[[Path], str],
    paths: dict[Path, ImageError | None],
    *,
    said: Callable[[int, int], str] = _nothing_of,
) -> None:
    """Make something of each image, and print what became of it."""

    def tell(path: Path) -> None:
        print(make(path), flush=True)

    each_of([(path, tell if bad is None else failing(bad)) for path, bad in paths.items()], said=said)


def digest(path: Path) -> str:
    """Return a hash of what is in a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
