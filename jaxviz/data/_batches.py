"""The images of a source at one size, in batches of one shape, read ahead of their use."""

import itertools
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, Shaped

from jaxviz._extras import extra
from jaxviz._files import printable
from jaxviz.data._elements import CHANNELS, channels_last, check_not_normalized
from jaxviz.data._source import Source
from jaxviz.image._arrays import as_bytes
from jaxviz.image._checks import ImageError, sides_of
from jaxviz.image._files import read_pixels

_LOG = logging.getLogger(__name__)
_DEFAULT = 224
_MANY = 0.1  # of the images of a source, skipped
_AT_ONCE = 16  # images that a thread reads before the next one's turn
_LOOKED_AT = 16  # elements of a data set, for the size of its images


class Loaded(NamedTuple):
    """A batch, as long as all others: what is not live is no image."""

    indices: Int[np.ndarray, " b"]
    images: Shaped[np.ndarray, "b h w c"]
    live: Bool[np.ndarray, " b"]
    skipped: dict[str, str]
    """Of images that could not be read: why."""
    labels: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it
    """Of images that have one."""


def sized(source: Source, size: int | tuple[int, ...] | None) -> tuple[Source, int | tuple[int, ...]]:
    """Return the size to read images at, and the source; by default arrays have their own and all else has 224.

    Their own has the number of channels too, `(h, w, c)`, where they can be nothing but that.

    That arrays are of one size is seen in memory, and of a data set taken from some; an image that is of another one
    after all is not scaled to it but skipped.
    """
    if size is not None:
        return source, size
    count = len(source.ids)
    some = range(count) if source.in_memory else np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int).tolist()
    if source.in_order:  # to its end, a stream would be gone through once more
        some = range(min(count, _LOOKED_AT))
    sizes = {_own_size(source, i) for i in some} - {()}
    if len(sizes) != 1 or None in sizes:
        return source, _DEFAULT
    (own,) = sizes

    def check(image: Any) -> Any:
        got = _shape_of(image)
        if got != own:
            raise ImageError(f"expected an image of size {own}, as others of {source.name} are, got {got}: say a size")
        return image

    labeled = source.labeled

    def checked(i: int) -> tuple[Any, Any]:
        image, label = labeled(i) if labeled else (source.read(i), None)
        return check(image), label

    return source._replace(read=lambda i: check(source.read(i)), labeled=checked), own  # type: ignore[return-value]


def _own_size(source: Source, i: int) -> tuple[int, ...] | None:
    """Return the height and width of an array, None of an image that is none, () of what cannot be read."""
    try:
        image = source.read(i)
    except ImageError:
        return ()
    return _shape_of(image) or None


def _shape_of(image: Any) -> tuple[int, ...]:
    """Return the height and width of an array, with its channels unless these are gray, RGB or RGBA; () of all else."""
    shape = image.shape if isinstance(image, np.ndarray | jax.Array) and image.ndim in (2, 3) else ()
    return tuple(shape[:2] if shape[2:] in ((), *((c,) for c in CHANNELS)) else shape)


def read_as(size: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the options of `batches` for images of a shape `(n, h, w, c)` that a size has led to."""
    return {"size": size if np.ndim(size) == 0 else shape[1:3], "channels": shape[3]}


def batches(
    source: Source,
    indices: Sequence[int],
    *,
    size: int | tuple[int, int],
    channels: int = 3,
    batch_size: int,
    threads: int = 0,
    dtype: Any = np.float32,
) -> Iterator[Loaded]:
    """Read images in batches of one shape, ahead of their use, in `threads` by Grain; 0: one for each core.

    More of them only wait for each other: on 2 cores, 16 took 4.5 ms of processor time an image, 2 take 2.9.
    One that cannot be read leaves its place in its batch empty; the batches do not depend on what can be read. Images
    of float32 are in [0, 1], of uint8 in 0 to 255.
    """
    with extra("data"):
        import grain

    def load(index: Any) -> tuple[int, Any, Any]:
        try:
            image, label = source.labeled(int(index)) if source.labeled else (source.read(int(index)), None)
            check_not_normalized(image)
            pixels = read_pixels(channels_last(image, channels), size, channels)
            return int(index), pixels if dtype == np.float32 else as_bytes(pixels), label
        except ImageError as error:
            return int(index), str(error), None

    threads = 1 if source.in_order else threads or os.cpu_count() or 1
    # Several at once: for each result, Grain looks through all that it reads ahead; small images took less than that.
    some = max(1, min(_AT_ONCE, batch_size // (2 * threads), len(indices) // (4 * threads)))
    parts = [indices[first : first + some] for first in range(0, len(indices), some)]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 2 * batch_size // some))
    read = grain.MapDataset.source(parts).map(lambda part: [load(index) for index in part]).to_iter_dataset(options)
    loaded = itertools.chain.from_iterable(read)
    shape = sides_of(size)
    for first in range(0, len(indices), batch_size):
        batch = [next(loaded) for _ in indices[first : first + batch_size]]
        images = np.zeros((batch_size, *shape, channels), dtype)
        live = np.zeros(batch_size, bool)
        skipped, labels = {}, {}
        for i, (index, image, label) in enumerate(batch):
            if isinstance(image, str):
                skipped[source.ids[index]] = image
                _LOG.info("skipped %s: %s", printable(source.ids[index]), printable(image))
                continue
            images[i], live[i] = image, True
            if label is not None:
                labels[source.ids[index]] = label
        numbers = np.array([index for index, *_ in batch] + [0] * (batch_size - len(batch)))
        yield Loaded(numbers, images, live, skipped, labels)


def check_readable(source: Source, readable: int, skipped: Mapping[str, str]) -> None:
    """Raise ImageError if all images of a source were tried and none could be read, and warn if many could not."""
    count = len(source.ids)
    why = "; ".join(f"{name}: {why}" for name, why in [*skipped.items(), *source.left_out.items()][:3])
    if readable == 0 and len(skipped) == count:
        raise ImageError(f"{source.name}: expected images, got {count}, none of which can be read: {why}")
    if len(skipped) + len(source.left_out) > _MANY * count:
        left_out = f", and {len(source.left_out)} files or folders could not be looked into" if source.left_out else ""
        warnings.warn(
            f"{source.name}: {len(skipped)} of {count} images could not be read{left_out}; `skipped` lists them, with "
            f"the reasons: {why}",
            stacklevel=3,
        )
