"""Random crops of a source's photographs, the same for the same key."""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxviz._types import Key
from jaxviz.data._batches import batches
from jaxviz.data._source import Source, open_source
from jaxviz.image._arrays import as_bytes
from jaxviz.image._checks import ImageError
from jaxviz.image._files import read_pixels
from jaxviz.synthesis.fast_style._checkpoints import entropy_of

KEPT = 2**30  # bytes of photographs kept in memory: 3,500 of 320 px


def open_photographs(source: Any) -> Source:
    """Open a source whose images can be taken in any order."""
    opened = open_source(source)
    if opened.in_order:
        raise ImageError(
            f"{opened.name}: expected images that can be taken in random order, got a stream; give a list of them, as "
            "in list(source), or the files that it reads"
        )
    return opened


def digest_of_source(source: Source) -> str:
    """Return a hash of a source: of its images' names, or of their content if they have none."""
    told = [name if name != str(i) else name + source.mark(i) for i, name in enumerate(source.ids)]
    return hashlib.sha256("\n".join(told).encode(errors="surrogateescape")).hexdigest()


def crops_of(source: Source, key: Key, first: int, steps: int, size: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the uint8 batches of steps `first` to `steps`, each of which depends only on the key and the step."""
    entropy, count = entropy_of(key), len(source.ids)
    rounds = range(-(-steps * batch_size // count))
    order = np.concatenate([np.random.default_rng([*entropy, 0, i]).permutation(count) for i in rounds])
    wanted = order[first * batch_size : steps * batch_size].tolist()
    side = size + size // 4
    photos = _photos(source, wanted, side)
    for step in range(first, steps):
        batch = list(itertools.islice(photos, batch_size))
        rng = np.random.default_rng([*entropy, 1, step])
        corners = rng.integers(0, size // 4 + 1, (batch_size, 2))
        mirrored = rng.random(batch_size) < 0.5
        whole = zip(_readable(batch, source, int(order[step * batch_size]), side), corners, mirrored, strict=True)
        crops = [(image[y : y + size, x : x + size], flip) for image, (y, x), flip in whole]
        yield np.stack([crop[:, ::-1] if flip else crop for crop, flip in crops])


def _photos(source: Source, wanted: list[int], side: int) -> Iterator[np.ndarray | ImageError]:
    """Yield photographs `(side, side, 3)`, or why one cannot be read; as many as fit in memory are read only once."""
    first = dict(zip(reversed(wanted), reversed(range(len(wanted))), strict=True))
    kept = dict.fromkeys(itertools.islice(dict.fromkeys(wanted), KEPT // (3 * side**2)))
    anew = [i not in kept or first[i] == at for at, i in enumerate(wanted)]
    read = batches(source, list(itertools.compress(wanted, anew)), size=side, batch_size=1, dtype=np.uint8)
    for i, new in zip(wanted, anew, strict=True):
        photo: Any = kept.get(i)
        if new:
            (photo,), skipped = (batch := next(read)).images, batch.skipped.items()
            photo = next((ImageError(f"{name}: {why}") for name, why in skipped), photo)
        if i in kept:
            kept[i] = photo
        yield photo


def _readable(photos: list[np.ndarray | ImageError], source: Source, after: int, side: int) -> list[np.ndarray]:
    """Return the photographs of a batch, with unreadable ones replaced by others.

    Replacements come from the same batch or, if none of it is readable, from the next readable one `after` this index,
    since resumed training knows nothing of earlier steps.
    """
    good = [photo for photo in photos if isinstance(photo, np.ndarray)]
    count = len(source.ids)
    for i in () if good else range(after + 1, after + count + 1):
        try:
            good.append(as_bytes(read_pixels(source.read(i % count), side)))
            break
        except ImageError:
            continue
    if not good:
        raise ImageError(f"source: expected photographs, got {count} that cannot be read, such as {photos[0]}")
    others = itertools.cycle(good)
    return [photo if isinstance(photo, np.ndarray) else next(others) for photo in photos]
