"""NumPy's files: `.npy` read in place, `.npz` into memory. No pickles; what a header says is checked first."""

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from jaxviz.data._elements import IMAGE_KEYS, LABEL_KEYS
from jaxviz.image._checks import ImageError

_LARGE = 2**31  # bytes; from here on, an array must not be packed more tightly than images can be
_PACKED = 100


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def is_array_file(source: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Tell the path of a NumPy file by its suffix."""
    if not isinstance(source, str | os.PathLike):
        return False
    name = os.fspath(source)
    return isinstance(name, str) and name.lower().endswith((".npy", ".npz")) and not os.path.isdir(name)


def read_array_file(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images in a file, and their labels if there are any.

    Raises:
        ImageError: no such file, a damaged one, one with Python objects, or one that does not tell which of its arrays
            has the images.
    """
    if not path.is_file():
        raise ImageError(f"{path}: expected a NumPy file, but there is none at this path; check the name")
    try:
        if path.suffix.lower() == ".npz":
            return _npz(path)
        images = np.lib.format.open_memmap(path, mode="r")  # refuses Python objects, and more than the file has
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: expected a NumPy file of images, got one that cannot be read: {error}") from error
    _check_images(path, "the array", _Header(images.shape, images.dtype))
    return images, None


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        headers = {member.filename[:-4]: _header(path, archive, member) for member in members}
    image, label = _image_of(path, headers), None
    _check_images(path, image, headers[image])
    named = [key for key in LABEL_KEYS if key in headers and key != image]
    for key in named:
        if headers[key].shape[:1] == headers[image].shape[:1]:
            label = key
            break
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[image], arrays[label] if label else None


def _header(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Header:
    """Return what an array's header says; raise ImageError unless its file is as long as that takes."""
    name = f"{path}: {member.filename}"
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImageError(f"{name}: expected an array as numpy.savez writes it, got one that is packed otherwise")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ImageError(f"{name}: expected version 1.0 or 2.0 of NumPy's format, got {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ImageError(f"{name}: expected numbers or text, got Python objects, which are not opened")
        if member.file_size != file.tell() + dtype.itemsize * math.prod(shape):
            raise ImageError(f"{name}: expected {shape} of {dtype}, got {member.file_size} bytes: the file is damaged")
    if member.file_size > max(_LARGE, _PACKED * member.compress_size):
        raise ImageError(f"{name}: expected images, got {member.file_size} bytes packed into {member.compress_size}")
    return _Header(shape, dtype)


def _image_of(path: Path, headers: Mapping[str, _Header]) -> str:
    """Return the name of the one array that has the images: by its name, or as the only stack of images."""
    found = [key for key in IMAGE_KEYS if key in headers]
    found = found or [key for key, header in headers.items() if len(header.shape) >= 3]
    if len(found) != 1:
        told = ", ".join(f"{name} {header.shape}" for name, header in headers.items()) or "no array"
        raise ImageError(
            f"{path}: expected one array of images (n, h, w, c), alone or named images, got {told}: give "
            "(images, labels) of what numpy.load returns"
        )
    return found[0]


def _check_images(path: Path, name: str, header: _Header) -> None:
    shape, dtype = header
    if len(shape) not in (3, 4) or dtype.kind not in "uifb" or (len(shape) == 3 and shape[-1] in (1, 3, 4)):
        raise ImageError(
            f"{path}: expected {name} to be images (n, h, w, c), or gray ones (n, h, w), of numbers, got {shape} "
            f"of {dtype}"
        )
