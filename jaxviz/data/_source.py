"""Images from anywhere, by number and by name: folders, lists, arrays, Grain and TensorFlow Datasets."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, Shaped

from jaxviz._image import ImageError, as_bytes, read_pixels, sides_of
from jaxviz._verbs import SUFFIXES

_TFDS = re.compile(r"tfds:(?P<name>[^\[]+)\[(?P<split>.+)\]")


class Source(NamedTuple):
    """Images in an order, each with a name of its own."""

    ids: Sequence[str]
    read: Callable[[int], Any]
    """Return what `load_image` takes."""
    mark: Callable[[int], str] = lambda i: ""
    """Return what changes with the image, without decoding it; nothing where that cannot be told."""


class Loaded(NamedTuple):
    """A batch, as long as all others: what is not live is no image."""

    indices: Int[np.ndarray, " b"]
    images: Shaped[np.ndarray, "b h w 3"]
    live: Bool[np.ndarray, " b"]
    skipped: dict[str, str]
    """Of images that could not be read: why."""


def open_source(source: Any) -> Source:
    """Return the images that `source` names.

    Args:
        source: a folder, whose image files are taken with those of the folders in it, in the order of their names; a
            list of what `load_image` takes; `"tfds:NAME[SPLIT]"`, as `tfds.data_source` names it; an array
            `(n, h, w, 3)`; or anything with a length whose `[i]` is an image, or a dictionary with one called "image",
            such as Grain's sources. Images without a name of their own are called by their number.

    Raises:
        ImageError: a folder that is not there or holds no images, an empty source, two images of one name, anything
            else.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str) and source.startswith("tfds:"):
        return _tfds(source)
    if isinstance(source, str | os.PathLike):
        return _folder(Path(source))
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__") or isinstance(source, bytes | dict):
        raise ImageError(
            "source: expected a folder, 'tfds:NAME[SPLIT]', or a list, an array or another object with a length and "
            f"images at its numbers, got {type(source).__name__}"
        )
    if isinstance(source, np.ndarray | jax.Array) and source.ndim == 3 and source.shape[-1] == 3:
        raise ImageError(f"source: expected images (n, h, w, 3), got one of shape {source.shape}: give image[None]")
    names = [str(x) if isinstance(x, str | os.PathLike) else str(i) for i, x in enumerate(_paths(source))]
    in_memory = isinstance(source, list | tuple | np.ndarray | jax.Array)
    mark = (lambda i: _mark(source[i])) if in_memory else (lambda i: "")
    return _checked(Source(names, lambda i: _image_of(source[i]), mark))


def _paths(source: Any) -> Sequence[Any]:
    """Return a list, or an array of names, as it is; what reads on being asked is not read for its names."""
    if isinstance(source, np.ndarray) and source.dtype.kind == "U":
        return source.tolist()
    return source if isinstance(source, list | tuple) else range(len(source))


def _folder(folder: Path) -> Source:
    if folder.is_file():
        return Source([folder.name], lambda i: folder, lambda i: _mark(folder))
    if not folder.is_dir():
        raise ImageError(f"{folder}: expected a folder of images, got a path where there is none")
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        raise ImageError(f"{folder}: expected a folder with images ({', '.join(SUFFIXES)}), found none")
    return Source(names, lambda i: folder / names[i], lambda i: _mark(folder / names[i]))


def _mark(image: Any) -> str:
    """Return a file's size and time of change, or a hash of pixels or of an encoded file."""
    if isinstance(image, str | os.PathLike):
        try:
            found = os.stat(image)
        except OSError:
            return "none"
        return f"{found.st_size} {found.st_mtime_ns}"
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if isinstance(image, np.ndarray | jax.Array):
        pixels = np.ascontiguousarray(np.asarray(image))
        return hashlib.sha256(f"{pixels.dtype} {pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    return ""


def _tfds(name: str) -> Source:
    import tensorflow_datasets as tfds

    parts = _TFDS.fullmatch(name)
    if not parts:
        raise ImageError(f"source: expected 'tfds:NAME[SPLIT]', as in 'tfds:mnist[test]', got {name!r}")
    try:
        data: Any = tfds.data_source(parts["name"], split=parts["split"])
    except Exception as error:  # whatever its download, its files or its version say
        raise ImageError(f"{name}: {error}") from error
    # With the name: of two sets in one store, each has rows of its own.
    return Source([f"{parts['name']}/{parts['split']}/{i}" for i in range(len(data))], lambda i: _image_of(data[i]))


def _image_of(element: Any) -> Any:
    if isinstance(element, dict):
        if "image" not in element:
            raise ImageError(f"expected an image called 'image', got {', '.join(map(str, element))}")
        return element["image"]
    return element


def _checked(source: Source) -> Source:
    if not len(source.ids):
        raise ImageError("source: expected at least one image, got none")
    if len(set(source.ids)) < len(source.ids):
        twice = next(name for i, name in enumerate(source.ids) if name in source.ids[:i])
        raise ImageError(f"source: expected images of different names, got {twice} twice")
    return source


def batches(
    source: Source,
    indices: Sequence[int],
    *,
    size: int | tuple[int, int],
    batch_size: int,
    threads: int = 0,
    dtype: Any = np.float32,
) -> Iterator[Loaded]:
    """Read images in batches of one shape, ahead of their use, in `threads` by Grain; 0: one for each core.

    More of them only wait for each other: on 2 cores, 16 took 4.5 ms of processor time an image, 2 take 2.9.
    One that cannot be read leaves its place in its batch empty; the batches do not depend on what can be read. Images
    of float32 are in [0, 1], of uint8 in 0 to 255.
    """
    import grain

    def load(index: Any) -> tuple[int, Any]:
        try:
            pixels = read_pixels(source.read(int(index)), size)
            return int(index), pixels if dtype == np.float32 else as_bytes(pixels)
        except ImageError as error:
            return int(index), str(error)

    threads = threads or os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 2 * batch_size))
    loaded = iter(grain.MapDataset.source(list(indices)).map(load).to_iter_dataset(options))
    shape = sides_of(size)
    for first in range(0, len(indices), batch_size):
        batch = [next(loaded) for _ in indices[first : first + batch_size]]
        images = np.zeros((batch_size, *shape, 3), dtype)
        live = np.zeros(batch_size, bool)
        skipped = {}
        for i, (index, image) in enumerate(batch):
            if isinstance(image, str):
                skipped[source.ids[index]] = image
            else:
                images[i], live[i] = image, True
        numbers = np.array([index for index, _ in batch] + [0] * (batch_size - len(batch)))
        yield Loaded(numbers, images, live, skipped)
