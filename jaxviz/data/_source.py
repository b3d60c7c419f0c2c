"""Images from anywhere, by number and by name: folders, lists, arrays, data sets of any framework."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxviz._extras import extra
from jaxviz.data._archives import is_archive, open_archives
from jaxviz.data._array_files import is_array_file, read_array_file
from jaxviz.data._base import Source as Source
from jaxviz.data._base import checked
from jaxviz.data._elements import (
    as_array,
    columns_of,
    has_image,
    image_key,
    is_tensor,
    mark_of,
    mark_of_file,
    parts_of,
    pixels_of,
    told,
)
from jaxviz.data._folder import SUFFIXES, find_images
from jaxviz.data._streams import is_stream, open_stream
from jaxviz.image._checks import ImageError

_TFDS = re.compile(r"tfds:(?P<name>[^\[]+)\[(?P<split>.+)\]")


def open_source(source: Any) -> Source:
    """Open a source of images, of any kind that this library takes.

    Args:
        source: a folder, whose image files are taken in the order of their names, with those of its subfolders; a zip
            file of images; a tar file of samples as WebDataset has them, such as 07.jpg with 07.cls or 07.json, or
            several, as a list or as "train-{0000..0146}.tar"; a `.npy` or `.npz` file of images (and labels); a list of
            what `load_image` takes; `"tfds:NAME[SPLIT]"`, as `tfds.data_source` names it; an array `(n, h, w, c)`, with
            or without an array of labels, `(images, labels)`; a dictionary of such columns; or anything with a length
            and integer indexing, such as the data sets of Grain, PyTorch and Hugging Face. An element is an image, an
            image and its label, or a dictionary with an "image" or "img" (and a "label"); channels may come first.
            Hugging Face's columns are found by their types. PyTorch's `DataLoader` stands for its data set, in the data
            set's order. What can only be gone through, such as tf.data, WebDataset and iterable data sets, is gone
            through once when it is opened, to count its images and to note a hash of each, and again to read them.
            Images without names of their own are named by their index: "0", "1". A `Source` is returned unchanged.

    Returns:
        The images' names, and functions that read an image, or an image and its label. No image is decoded yet.

    Raises:
        ImageError: for a path that does not exist or has no images, a damaged file, an empty source, two images with
            the same name, an iterator, which can be gone through only once, and anything that is none of the above.

    Example:
        >>> import jaxviz, numpy as np
        >>> source = jaxviz.open_source((np.zeros((2, 8, 8, 3), np.float32), np.array(["cat", "dog"])))
        >>> print(source.ids, source.read(1).shape, source.labeled(1)[1])
        ['0', '1'] (8, 8, 3) dog
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str) and source.startswith("tfds:"):
        return _tfds(source)
    if is_archive(source):
        return open_archives([source])
    if isinstance(source, list | tuple) and source and all(is_archive(path) for path in source):
        return open_archives(source)
    if is_array_file(source):
        return _array_file(Path(source))
    if isinstance(source, str | os.PathLike):
        return _folder(Path(source))
    if hasattr(source, "dataset") and hasattr(source, "batch_size") and not hasattr(source, "__getitem__"):
        return open_source(_dataset_of(source))
    if is_tensor(source):
        source = as_array(source) if source.ndim == 4 else _one_by_one(source)
    if isinstance(source, Mapping) and _has_images(source):
        source = _rows_of(source)
    if is_stream(source):
        return open_stream(source)
    _check_numbered(source)
    if _are_images_and_labels(source):
        return _elements(list(zip(*source, strict=True)), in_memory=True)
    return _elements(source, in_memory=isinstance(source, list | tuple | np.ndarray | jax.Array))


def _elements(source: Any, *, in_memory: bool, name: str = "source", prefix: str = "") -> Source:
    """Return the images of what has a length and elements at its numbers."""
    columns = columns_of(source)

    def parts(i: int) -> tuple[Any, Any]:
        try:
            return parts_of(source[i], columns)
        except ImageError:
            raise
        except Exception as error:  # whatever a data set raises for one that it cannot read
            raise ImageError(f"expected an image, got {type(error).__name__}: {error}") from error

    def mark(i: int) -> str:
        if not in_memory:
            return ""
        try:
            image, label = parts_of(source[i])
        except ImageError:
            return "none"
        return mark_of(image) + (f" {told(label)}" if label is not None else "")

    def labeled(i: int) -> tuple[Any, Any]:
        image, label = parts(i)
        return pixels_of(image), told(label)

    names = _names(source) if in_memory else [f"{prefix}{i}" for i in range(len(source))]
    return checked(Source(names, lambda i: labeled(i)[0], mark, labeled, name, in_memory=in_memory))


def _names(source: Any) -> list[str]:
    """Return the names of the paths in a list, and the numbers of what has none."""
    if isinstance(source, np.ndarray) and source.dtype.kind == "U":
        return source.tolist()
    if not isinstance(source, list | tuple):
        return [str(i) for i in range(len(source))]
    images = [x[0] if isinstance(x, tuple | list) and x else x for x in source]
    return [str(x) if isinstance(x, str | os.PathLike) else str(i) for i, x in enumerate(images)]


def _check_numbered(source: Any) -> None:
    numbered = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if isinstance(source, bytes | Mapping) or not (numbered or hasattr(source, "__iter__")):
        of = f" with {', '.join(map(str, source))}: give one of them" if isinstance(source, Mapping) else ""
        raise ImageError(
            "source: expected a folder, 'tfds:NAME[SPLIT]', or a list, an array or another object with a length and "
            f"images at its numbers, got {type(source).__name__}{of}"
        )
    if not numbered:
        raise ImageError(
            f"source: expected images that can be asked for by number, got {type(source).__module__}."
            f"{type(source).__name__}, which gives them one after another, and only once; if they fit in memory, "
            "give a list of them, as in list(source)"
        )
    if isinstance(source, np.ndarray | jax.Array) and source.ndim == 3 and source.shape[-1] in (1, 3):
        raise ImageError(f"source: expected images (n, h, w, c), got one of shape {source.shape}: give image[None]")


def _one_by_one(tensor: Any) -> np.ndarray:
    """Return a stack of gray images; what may be one image with its channels first is refused."""
    if tensor.ndim != 3 or tensor.shape[0] in (1, 3, 4):
        raise ImageError(
            f"source: expected images (n, channels, h, w), got a tensor of shape {tuple(tensor.shape)}: one image is "
            "image[None], and gray ones are images[:, None]"
        )
    return as_array(tensor)


def _are_images_and_labels(source: Any) -> bool:
    """Tell `(images, labels)`, two arrays of one length, from a tuple of two images."""
    if not isinstance(source, tuple) or len(source) != 2:
        return False
    images, labels = source
    array = isinstance(images, np.ndarray | jax.Array) or is_tensor(images)
    return array and images.ndim == 4 and np.ndim(labels) == 1 and len(images) == len(labels)


def _has_images(columns: Mapping[str, Any]) -> bool:
    """Tell columns of a data set from one of its rows, or from several data sets."""
    images = columns[image_key(columns)] if has_image(columns) else None
    return isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4


def _rows_of(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of columns, as Hugging Face gives a slice of a data set, and TFDS a whole one."""
    images = columns[image_key(columns)]
    whole = {name: column for name, column in columns.items() if hasattr(column, "__len__")}
    whole = {name: column for name, column in whole.items() if len(column) == len(images)}
    return [{name: column[i] for name, column in whole.items()} for i in range(len(images))]


def _dataset_of(loader: Any) -> Any:
    """Return the data set of a `DataLoader` of PyTorch that gives all of it, in whatever order, as it is."""
    sampler, batches = (getattr(loader, name, None) for name in ("sampler", "batch_sampler"))
    names = {type(sampler).__name__, type(batches).__name__}
    collate = getattr(getattr(loader, "collate_fn", None), "__name__", "")
    chosen = getattr(sampler, "replacement", False) or (loader.batch_size is None and batches is not None)
    if is_stream(loader.dataset):
        known, all_of_it = names <= {"_InfiniteConstantSampler", "BatchSampler", "NoneType"}, True
    else:
        known = names <= {"SequentialSampler", "RandomSampler", "BatchSampler", "NoneType"}
        all_of_it = hasattr(sampler, "__len__") and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
    if not (known and all_of_it and not chosen and collate in ("default_collate", "default_convert")):
        raise ImageError(
            "source: a DataLoader is taken for its data set, but this one has a sampler or a collate_fn of its own, "
            "which may choose or change the images: give loader.dataset, or a list of the images that are meant"
        )
    return loader.dataset


def _array_file(path: Path) -> Source:
    images, labels = read_array_file(path)
    source = images if labels is None else list(zip(images, labels, strict=True))
    mark = mark_of_file(path)  # of all images: to hash each of them would read the whole file
    return _elements(source, in_memory=True, name=str(path))._replace(mark=lambda i: mark)


def _folder(folder: Path) -> Source:
    if folder.is_file():
        return Source([folder.name], lambda i: _readable(folder), lambda i: mark_of(folder), name=str(folder))
    if not folder.is_dir():
        raise ImageError(f"{folder}: expected a folder of images, got a path where there is none")
    names, left_out = find_images(folder)
    if not names:
        reasons = "".join(f"; {why}" for why in list(left_out.values())[:3])
        raise ImageError(f"{folder}: expected a folder with images ({', '.join(SUFFIXES)}), found none{reasons}")
    read, mark = lambda i: _readable(folder / names[i]), lambda i: mark_of(folder / names[i])
    return Source(names, read, mark, name=str(folder), left_out=left_out)


def _readable(path: Path) -> Path:
    """Return a path; raise ImageError for a format that only an extension of Pillow, or a newer one, can decode."""
    suffix = path.suffix.lower()
    if suffix in (".heic", ".heif"):
        try:
            import pillow_heif  # type: ignore[import-not-found]
        except ImportError:
            raise ImageError(
                f"{path}: HEIC and HEIF are read where the package pillow-heif is installed; install it, or save the "
                "image again as PNG"
            ) from None
        pillow_heif.register_heif_opener()
    if suffix == ".avif":
        from PIL import features

        if not features.check("avif"):
            raise ImageError(f"{path}: AVIF is read by Pillow from version 11.3 on; install that, or save it as PNG")
    return path


def _tfds(name: str) -> Source:
    with extra("data"):
        import tensorflow_datasets as tfds

    parts = _TFDS.fullmatch(name)
    if not parts:
        raise ImageError(f"source: expected 'tfds:NAME[SPLIT]', as in 'tfds:mnist[test]', got {name!r}")
    try:
        data: Any = tfds.data_source(parts["name"], split=parts["split"])
    except Exception as error:  # whatever its download, its files or its version say
        raise ImageError(f"{name}: {error}") from error
    # With the name: of two sets in one store, each has its own rows.
    return _elements(data, in_memory=False, name=name, prefix=f"{parts['name']}/{parts['split']}/")
