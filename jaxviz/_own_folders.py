"""Folders from which machine code may be loaded: those that only the user and root can write to.

Whoever can write to such a folder, or to one above it, can run programs as the user. A digest stored beside the code
detects damage, not an attacker: whoever can write one can write the other.
"""

import os
import stat
from pathlib import Path

try:
    import grp
    import pwd
except ImportError:  # Windows, whose folders in a user's profile are the user's own
    grp = pwd = None

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotOwnError(PermissionError):
    """A folder that others can write to, or that cannot be created; the message names the reason."""


def own_folder(folder: Path) -> Path:
    """Return a folder that only the user can write to, with links resolved; create it with mode 0700 if it is missing.

    All folders above it are checked as well: whoever can write to one of them can swap what is in it for another
    folder, unless it is sticky, as `/tmp` is.

    Raises:
        NotOwnError: others can write to the folder; the message says how.
    """
    if pwd is None:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        real = folder.resolve(strict=True)
        reasons = [_not_own(real, os.lstat(real), sticky=False)]
        reasons += [_not_own(above, os.lstat(above), sticky=True) for above in real.parents]
        reasons += [_foreign(entry) for entry in os.scandir(real)]
    except OSError as error:
        raise NotOwnError(f"{folder}: {error.strerror or error}") from error
    if any(reasons):
        raise NotOwnError(next(filter(None, reasons)))
    return real


def read_own_file(path: Path) -> bytes | None:
    """Read a file that belongs to the user and is not a link; return None for any other, or if it is missing."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    with os.fdopen(file, "rb") as stream:  # checks what was opened, not what may be there by now
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or (pwd is not None and _not_own(path, status, sticky=False)):
            return None
        return stream.read()


def _not_own(path: Path, status: os.stat_result, *, sticky: bool) -> str:
    """Return why others may write to a file or folder, or "" if they may not."""
    user = os.geteuid()
    if status.st_uid not in (user, 0):
        return f"{path} belongs to another user"
    if sticky and status.st_mode & stat.S_ISVTX:
        return ""
    others = status.st_mode & _OTHERS
    if others & stat.S_IWOTH or (others and not _is_alone(status.st_gid, user)):
        return f"{path} is writable by others"
    return ""


def _foreign(entry: os.DirEntry) -> str:
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
        return f"{entry.path} belongs to another user, or is a link"
    return ""


def _is_alone(group: int, user: int) -> bool:
    """Return whether a group is the user's private group: many systems give each user one with no other members."""
    if grp is None or pwd is None:
        return False
    try:
        entry, name = grp.getgrgid(group), pwd.getpwuid(user).pw_name
    except KeyError:
        return False
    return entry.gr_name == name and set(entry.gr_mem) <= {name}
