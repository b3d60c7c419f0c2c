"""What the verbs of the command line share: how they are built from functions, and the files they are given."""

import contextlib
import errno
import hashlib
import inspect
import os
import re
import signal
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxviz._files import printable
from jaxviz.data._folder import SUFFIXES, OutError, check_apart
from jaxviz.image._checks import ImageError
from jaxviz.program._digest import digest_of, digest_of_program, with_gradient

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading an .npz raises if there is none, or one that was cut short or is of something else."""


def command(name: str, call: Callable[..., None], parameters: Iterable[inspect.Parameter], doc: str) -> Callable:
    """Return `call` with the signature and the documentation that tyro is to read."""

    def verb(*args: Any, **options: Any) -> None:
        call(*args, **options)

    verb = inspect.unwrap(verb)  # tyro reads that, not the checks of types which tests wrap around it
    verb.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in verb.__signature__.parameters.values()}  # type: ignore[attr-defined]
    verb.__name__ = name
    verb.__doc__ = doc
    return verb


def documentation(method: Callable[..., Any], options: Iterable[str], said: dict[str, str]) -> str:
    """Return the method's first line, and what is said of the options."""
    lines = [f"    {option}: {said[option]}" for option in options]
    return "\n".join([(inspect.getdoc(method) or "").splitlines()[0], "", "Args:", *lines])


def arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Return what a docstring says of each argument, in one line: the help is folded to the terminal's width."""
    section = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: said[0].upper() + re.sub(r"\s+", " ", said[1:]) for name, said in found}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of_network(net: Any, params: Any, size: int = 224) -> str:
    """Return a hash of a network's parameters, and of what it and its gradient compute.

    Its name says less: `jaxviz weights import` puts other weights under it.
    """
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return f"{digest_of(params)} {digest_of_program(with_gradient(net), params, image)}"


def files(sources: Sequence[Path], out: Path) -> dict[Path, ImageError | None]:
    """Return the images that the arguments name, a folder's by their suffixes, in order of name.

    With each comes what is wrong with it, or nothing; if all are wrong, that of the first is raised.
    """
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
                "two runs, each with an --out of its own"
            )
    return list(by_stem.values())


_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name)}


def _nothing_of(failed: int, total: int) -> str:
    return f"nothing could be made of {failed} of {total} files, see above"


def each_of(
    work: Sequence[tuple[Path, Callable[[Path], None]]], *, said: Callable[[int, int], str] = _nothing_of
) -> None:
    """Do something with each file; one with which it fails does not keep the others from their turn.

    But one after the other for the same reason, which says nothing about a file, ends it: an option is wrong. So does
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


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end the run after the steps it is at, and a second one end it at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(2, b"\nStopping; Ctrl-C again ends at once, with what was saved last.\n")

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # otherwise whoever started this has it ignored, or handled otherwise
        signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
