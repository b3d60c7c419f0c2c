"""Safe file names for any text, text that is safe to show, atomic writes, and locks that keep runs apart."""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxviz._extras import extra

if TYPE_CHECKING:
    import rich.text


_SPECIAL = frozenset('<>:"/\\|?*')  # reserved on one operating system or another
_HASHED = re.compile(r"-[0-9a-f]{12}")
_LONGEST = 130  # bytes: file systems allow 255, and suffixes are added later


def file_name(text: str) -> str:
    """Return a file name for any text, whoever wrote it: not a path, not hidden, valid UTF-8 and not too long.

    A text that is already a valid file name is returned as is. Any other text gets a hash appended, as does one that
    looks as if it had a hash already, so two different texts never get the same name.

    >>> file_name("starry night"), file_name("../../x")
    ('starry night', '_.-..-x-9cdf6a50100a')
    """
    letters = [letter if letter.isprintable() and letter not in _SPECIAL else "-" for letter in text]
    if not letters or letters[0] in (".", "-"):  # would be hidden, or mistaken for an option
        letters[:1] = "_"
    name = "".join(letters)
    if name == text and len(name.encode()) <= _LONGEST and not _HASHED.fullmatch(name[-13:]):
        return name
    mark = "-" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
    return name.encode()[: _LONGEST - len(mark)].decode(errors="ignore") + mark


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with whatever a terminal would act on, or cannot show, escaped as in Python strings.

    >>> print(printable("red\x1b[31m\udcff"))
    red\x1b[31m\udcff
    """
    escaped = lambda letter: letter.encode("unicode_escape").decode()
    return "".join(letter if letter.isprintable() or letter in keep else escaped(letter) for letter in text)


def plain(text: str) -> "rich.text.Text":
    """Return a line that Rich shows verbatim: brackets are not markup, and :names: are not emoji."""
    with extra("cli"):
        from rich.text import Text

    return Text(printable(text))


@contextlib.contextmanager
def alone_in(folder: Path, *, what: str = "folder") -> Iterator[None]:
    """Keep other runs from writing to a folder (errors call it `what`), where the system and file system allow that.

    Raises:
        ValueError: another run is writing to it.
    """
    import jax

    if jax.process_index() > 0:  # only the first process writes, and it holds the lock
        yield
        return
    if os.name == "nt":  # a folder cannot be opened there
        yield
        return
    fresh = not folder.exists()
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        if not _locked(descriptor):
            os.close(descriptor)
            raise ValueError(f"{folder}: another run is writing to this {what}; wait for it, or use another folder")
        if _is_at(descriptor, folder):
            break
        os.close(descriptor)  # the run that had it has deleted it
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder is not empty
            if fresh:
                folder.rmdir()
        os.close(descriptor)


@contextlib.contextmanager
def alone_at(at: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other runs from writing files whose names begin with `at`, where the system allows; elsewhere do nothing.

    The lock is a file beside them, .NAME.lock, removed in the end. One left behind by a killed run locks nothing.

    Raises:
        ValueError: another run is writing them, and `wait` is False.
    """
    at.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # an open file cannot be removed there
        yield
        return
    lock, flags = at.with_name(f".{at.name}.lock"), os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        descriptor = os.open(lock, flags, 0o666)
        if not _locked(descriptor, wait=wait):
            os.close(descriptor)
            raise ValueError(f"{at}: another run is writing this; wait for it, or use another --out")
        if _is_at(descriptor, lock):
            break
        os.close(descriptor)  # the run that had it has removed it
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _locked(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed (a kill closes it too); return False if another run holds the lock."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def write_atomically(path: Path, data: bytes | Callable[[Any], None]) -> None:
    """Write a file atomically: whole or not at all, even if someone is reading it or the write is interrupted.

    For large files, pass a function instead of bytes: it is called with the open file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    # Beside the target, since a rename is atomic only within one file system. Not a NamedTemporaryFile: only their
    # owner can read those. Not named after the target, whose name may already be as long as the system allows.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            data(file) if callable(data) else file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # raised while making the data, for example by a damaged image
            raise
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the folder may not exist
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> OSError:
    said = f"{path}: expected a writable file, got {error.strerror}; choose another folder or name"
    return OSError(error.errno, said)  # OSError picks its subclass by the number
