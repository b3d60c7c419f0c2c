"""Names of files for any text, text that is safe to show, whole files, and what one run at a time writes."""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rich.text


_SPECIAL = frozenset('<>:"/\\|?*')  # of one system or another
_HASHED = re.compile(r"-[0-9a-f]{12}")
_LONGEST = 130  # bytes: file systems take 255, and endings are put behind


def file_name(text: str) -> str:
    """Return a name of a file for any text, whoever wrote it: no path, nothing hidden, in UTF-8 and not too long.

    A text that can be a name is its own. Any other gets a hash, as do those that look as if they had one: no two texts
    have the same name.

    >>> file_name("starry night"), file_name("../../x")
    ('starry night', '_.-..-x-9cdf6a50100a')
    """
    letters = [letter if letter.isprintable() and letter not in _SPECIAL else "-" for letter in text]
    if not letters or letters[0] in (".", "-"):  # hidden, or taken for an option
        letters[:1] = "_"
    name = "".join(letters)
    if name == text and len(name.encode()) <= _LONGEST and not _HASHED.fullmatch(name[-13:]):
        return name
    mark = "-" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
    return name.encode()[: _LONGEST - len(mark)].decode(errors="ignore") + mark


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with what a terminal would act on, or cannot show, as Python writes it in strings.

    >>> print(printable("red\x1b[31m\udcff"))
    red\x1b[31m\udcff
    """
    escaped = lambda letter: letter.encode("unicode_escape").decode()
    return "".join(letter if letter.isprintable() or letter in keep else escaped(letter) for letter in text)


def plain(text: str) -> "rich.text.Text":
    """Return a line that Rich shows as it is: brackets in a name are no markup, and :names: no emoji."""
    from rich.text import Text

    return Text(printable(text))


@contextlib.contextmanager
def alone_in(folder: Path, *, what: str = "folder") -> Iterator[None]:
    """Keep other runs from writing to a folder, which errors call `what`, where the system and the file system can.

    Raises:
        ValueError: another run is writing to it.
    """
    import jax

    if jax.process_index() > 0:  # the first process writes, and has the lock
        yield
        return
    if os.name == "nt":  # where a folder cannot be opened
        yield
        return
    fresh = not folder.exists()
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        if not _locked(descriptor):
            os.close(descriptor)
            raise ValueError(f"{folder}: another run is writing to this {what}; wait for it, or give another folder")
        if _is_at(descriptor, folder):
            break
        os.close(descriptor)  # whoever had it has left nothing
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it holds something
            if fresh:
                folder.rmdir()
        os.close(descriptor)


@contextlib.contextmanager
def alone_at(at: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other runs from writing the files whose names begin with `at`, where the system can; others go on.

    A file beside them, .NAME.lock, is locked and in the end removed. One that a killed run left locks nothing.

    Raises:
        ValueError: another run is writing them, and it is not to be waited for.
    """
    at.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # where an open file cannot be removed
        yield
        return
    lock, flags = at.with_name(f".{at.name}.lock"), os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        descriptor = os.open(lock, flags, 0o666)
        if not _locked(descriptor, wait=wait):
            os.close(descriptor)
            raise ValueError(f"{at}: another run is making this; wait for it, or give another --out")
        if _is_at(descriptor, lock):
            break
        os.close(descriptor)  # whoever had it has removed it
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
    """Lock an open file until it is closed, even by a kill; return False if another run has it."""
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
    """Write a file so that it is there whole or not at all, even for a reader or an interruption in between.

    What is large is better written by a function, which is given the open file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    # Beside the target, since a rename is atomic only within a file system; not a NamedTemporaryFile, whose files
    # nobody but their owner may read.
    # Not named after it, which may be as long as names of files can be.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            data(file) if callable(data) else file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # of what makes the data, such as a damaged image
            raise
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # as it is where there is no folder
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> OSError:
    said = f"{path}: expected a file that can be written, got {error.strerror}; choose another folder or name"
    return OSError(error.errno, said)  # of the kind that the number says
