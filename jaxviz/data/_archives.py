"""Zip files of images and tar files of samples, read in place: nothing is extracted.

What a file says is not believed: the names of its members are labels, never paths; a member's size is bounded before it
is read, and reading ends there whatever it unpacks to; links, devices and compressions that cannot be bounded are not
opened.
"""

import os
import posixpath
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from jaxviz.data._base import Source, checked
from jaxviz.data._elements import LABEL_FILES, label_of_files, mark_of_file, one_image_of, told
from jaxviz.data._folder import SUFFIXES
from jaxviz.image._checks import ImageError

_LARGEST = 2**28  # bytes of an image file: more than Pillow's limit of pixels takes up without any compression
_LARGEST_LABEL = 2**20
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MANY = 1_000_000  # shards

_Place = tuple[int, int]
"""Where a member's bytes are in a tar file: offset and size."""


def is_archive(source: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Tell the path of a zip or tar file, or of several that braces stand for, by its suffix."""
    if not isinstance(source, str | os.PathLike):
        return False
    name = os.fspath(source)
    return isinstance(name, str) and name.lower().endswith((".zip", ".tar", *_PACKED)) and not os.path.isdir(name)


def open_archives(paths: Sequence[Any]) -> Source:
    """Return the images of one archive, or of several, whose names then begin with their archive's."""
    files = [Path(shard) for path in paths for shard in _shards(os.fspath(path))]
    opened = [_open(path) for path in files]
    if len(opened) == 1:
        return opened[0]
    ids = [f"{path.name}/{name}" for path, source in zip(files, opened, strict=True) for name in source.ids]
    places = [(source, i) for source in opened for i in range(len(source.ids))]
    left_out = {
        f"{path.name}/{name}": why
        for path, source in zip(files, opened, strict=True)
        for name, why in source.left_out.items()
    }

    def by(read: Callable[[Source, int], Any]) -> Callable[[int], Any]:
        return lambda i: read(*places[i])

    labeled = by(lambda source, i: source.labeled(i) if source.labeled else (source.read(i), None))
    read, mark = by(lambda source, i: source.read(i)), by(lambda source, i: source.mark(i))
    name = f"{files[0]} and {len(files) - 1} others"
    return checked(Source(ids, read, mark, labeled, name, left_out))


def _shards(path: str) -> list[str]:
    """Return the paths that one with braces, such as "train-{0000..0146}.tar", stands for."""
    found = _NUMBERS.search(path)
    if not found or os.path.exists(path):
        return [path]
    first, last = (int(number) for number in found.groups())
    if not first <= last < first + _MANY:
        raise ImageError(f"{path}: expected numbers in braces from a smaller to a larger one, got {found[0]}")
    width = len(found[1]) if found[1].startswith("0") else 0
    numbered = [f"{path[: found.start()]}{i:0{width}}{path[found.end() :]}" for i in range(first, last + 1)]
    return [shard for name in numbered for shard in _shards(name)]


def _open(path: Path) -> Source:
    if not path.is_file():
        raise ImageError(f"{path}: expected a zip or tar file, but there is none at this path; check the name")
    if path.name.lower().endswith(_PACKED):
        raise ImageError(
            f"{path}: expected a tar file that is not compressed, to read images at their places: unpack it"
        )
    return _zip(path) if path.suffix.lower() == ".zip" else _tar(path)


def _hidden(name: str) -> bool:
    """Tell what operating systems leave in archives, beside files whose names begin with a dot."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/") if part not in (".", ".."))


# Zip files


def _zip(path: Path) -> Source:
    try:
        archive = zipfile.ZipFile(path)  # open as long as the source: its directory is read once, and threads share it
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ImageError(
            f"{path}: expected a zip file, got one that cannot be read ({error}); copy it again"
        ) from error
    members = [member for member in archive.infolist() if not member.is_dir() and not _hidden(member.filename)]
    members = [member for member in members if posixpath.splitext(member.filename)[1].lower() in SUFFIXES]
    if not members:
        raise ImageError(f"{path}: expected a zip file with images ({', '.join(SUFFIXES)}), found none")

    def read(i: int) -> bytes:
        member = members[i]
        name = f"{path}: {member.filename}"
        _check_member(name, member)
        try:
            with archive.open(member) as file:
                # Not read(): asked for a size, it unpacks no more than that, and still compares the checksum.
                data = file.read(member.file_size)
        except Exception as error:  # whatever damaged files make zlib and zipfile raise
            raise ImageError(f"{name}: expected an undamaged file, got {type(error).__name__}: {error}") from error
        if len(data) != member.file_size:
            raise ImageError(f"{name}: expected {member.file_size} bytes, got {len(data)}: the zip file is damaged")
        return data

    mark = lambda i: f"{members[i].CRC:08x} {members[i].file_size}"
    return checked(Source([member.filename for member in members], read, mark, name=str(path)))


def _check_member(name: str, member: zipfile.ZipInfo) -> None:
    if member.flag_bits & 1:
        raise ImageError(f"{name}: expected a file without a password, got an encrypted one; unpack the zip file")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImageError(f"{name}: expected a file that is stored or deflated, got another compression; zip it again")
    _check_size(name, member.file_size, _LARGEST)


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise ImageError(
            f"{name}: expected at most {most // 2**20} MiB, got a file said to have {size} bytes; leave it out"
        )


# Tar files


def _tar(path: Path) -> Source:
    """Return the samples of a tar file as WebDataset has them: files with one name up to its first dot belong together.

    The image is the file with an image's suffix; `.cls`, `.json` and `.txt` hold its label.
    """
    mark = mark_of_file(path)
    samples, left_out = _samples(path)
    image_of: dict[str, str | ImageError] = {key: one_image_of(files) for key, files in samples.items()}
    ids = [key for key in samples if image_of[key] != ""]
    for key, files in samples.items():
        if image_of[key] == "" and {"cls", "json"} & {*files}:
            left_out[key] = f"{path}: {key}: expected an image beside {', '.join(files)}, found none"
    if not ids:
        raise ImageError(f"{path}: expected a tar file with images ({', '.join(SUFFIXES)}), found none")
    places = [samples[key] for key in ids]  # places alone: of members, a million take a gigabyte
    chosen = [image_of[key] for key in ids]
    reader = _Reader(path, mark)

    def read(i: int) -> bytes:
        image = chosen[i]
        if isinstance(image, ImageError):
            raise ImageError(f"{path}: {ids[i]}: {image}")
        return reader(f"{ids[i]}.{image}", places[i][image], _LARGEST)

    def labeled(i: int) -> tuple[bytes, Any]:
        found = [name for name in LABEL_FILES if name in places[i]]
        data = {name: reader(f"{ids[i]}.{name}", places[i][name], _LARGEST_LABEL) for name in found}
        return read(i), told(label_of_files(data, f"{path}: {ids[i]}"))

    marked = lambda i: f"{mark} {sorted(places[i].values())}"
    return checked(Source(ids, read, marked, labeled, str(path), left_out))


def _samples(path: Path) -> tuple[dict[str, dict[str, _Place]], dict[str, str]]:
    """Return for each sample's key the places of its files, by their suffixes; and what is left out, and why."""
    samples: dict[str, dict[str, _Place]] = {}
    left_out = {}
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # which would otherwise keep all of them
                name = member.name.removeprefix("./")
                folder, base = posixpath.split(name)
                key, dot, suffix = base.partition(".")
                if _hidden(name) or not dot or member.isdir():
                    continue
                if not member.isreg() or member.issparse():  # a link, a device, or not in one piece
                    if posixpath.splitext(name)[1].lower() in SUFFIXES:
                        left_out[name] = f"{path}: {name}: expected a file, got a link, a device or a sparse file"
                    continue
                files = samples.setdefault(posixpath.join(folder, key), {})
                if files.setdefault(suffix.lower(), (member.offset_data, member.size))[0] != member.offset_data:
                    raise ImageError(f"{path}: expected a different name for each file, got {member.name} twice")
            end = archive.offset
        _check_end(path, end)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: expected a tar file, got one that is damaged or cut short ({error})") from error
    return samples, left_out


def _check_end(path: Path, end: int) -> None:
    """Raise ImageError if a tar file goes on after what `tarfile` took, without a word, for its end."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(end)
        if end > size or file.read(512).strip(b"\0"):
            raise ImageError(f"{path}: expected a tar file, got one that is damaged at byte {min(end, size)}")


class _Reader:
    """Reads parts of a file, from any thread, as long as it is the file that was listed."""

    def __init__(self, path: Path, mark: str):
        self.path, self.mark = path, mark

    def __call__(self, name: str, place: _Place, most: int) -> bytes:
        offset, size = place
        _check_size(f"{self.path}: {name}", size, most)
        try:
            with self.path.open("rb") as file:
                if mark_of_file(file.fileno()) != self.mark:
                    raise ImageError(f"{self.path}: expected the file that was listed, but it has changed since")
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise ImageError(f"{self.path}: expected a readable file, got {error.strerror}") from error
        if len(data) != size:
            raise ImageError(f"{self.path}: {name}: expected {size} bytes, got {len(data)}: the file is cut short")
        return data
