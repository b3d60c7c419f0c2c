"""The image files named on a command line, and what is wrong with any of them; one bad file does not stop the rest."""

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
    """Return the images that the arguments name; those in a folder are found by suffix and sorted by name.

    Each comes with its error, or None; if all have errors, the first is raised.
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
        raise ImageError("expected the name of an image or a folder, got nothing")
    of_different_names(path for path, bad in found.items() if bad is None)
    first = next(iter(found.values()))
    if first is not None and all(found.values()):
        raise first
    return found


def _there(path: Path) -> Path:
    try:
        path.lstat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or error
        got = "a path that does not exist" if isinstance(error, FileNotFoundError) else why
        raise ImageError(f"{path}: expected an image file or a folder of them, got {got}") from error
    return path


def of_different_names(paths: Iterable[Path]) -> list[Path]:
    """Return the paths without duplicates; raise ImageError if the results of two would have the same name."""
    by_stem: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise ImageError(
                f"{other} and {path} have the same name, and so would their results: rename one, or process them in "
                "two runs, each with its own --out"
            )
    return list(by_stem.values())


_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name)}


def _nothing_of(failed: int, total: int) -> str:
    return f"{failed} of {total} files failed, see above"


def each_of(
    work: Sequence[tuple[Path, Callable[[Path], None]]], *, said: Callable[[int, int], str] = _nothing_of
) -> None:
    """Process each file in turn, continuing after failures.

    Two failures in a row for the same reason mean that an option is wrong, not a file, and end the loop. So does a full
    disk. If any failed, the final error is `said(failed, total)`.
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
    """Return a function that raises the error of a file already known to be bad."""

    def fail(path: Path) -> None:
        raise error

    return fail


def _in_folder(folder: Path, out: Path) -> list[Path]:
    check_apart(folder, out, recursive=False)
    try:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise ImageError(f"{folder}: expected a readable folder, got {error.strerror}") from error
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
    """Process each image and print the returned message."""

    def tell(path: Path) -> None:
        print(make(path), flush=True)

    each_of([(path, tell if bad is None else failing(bad)) for path, bad in paths.items()], said=said)


def digest(path: Path) -> str:
    """Return a hash of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
