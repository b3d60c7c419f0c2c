"""Random crops of a source's photographs, the same for the same key."""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxviz._types import Key
from jaxviz.data._batches import batches
from jaxviz.data._source import Source
from jaxviz.image._arrays import as_bytes
from jaxviz.image._checks import ImageError
from jaxviz.image._files import read_pixels
from jaxviz.synthesis.fast_style._checkpoints import entropy_of

KEPT = 2**30  # bytes of photographs that stay in memory, of 320 px 3,500


def digest_of_source(source: Source) -> str:
    """Tell sources apart by the names of their images; those without, by their content."""
    told = [name if name != str(i) else name + source.mark(i) for i, name in enumerate(source.ids)]
    return hashlib.sha256("\n".join(told).encode(errors="surrogateescape")).hexdigest()


def crops_of(source: Source, key: Key, first: int, steps: int, size: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the batches of steps `first` to `steps`, each a function of the key and the step's number alone; uint8."""
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
    """Yield photographs `(side, side, 3)`, or why one cannot be read; those that there is memory for are read once."""
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
    """Return the photographs of a batch, with others in the places of those that cannot be read.

    They are of the batch, or if it has none, the next that can be read `after` one: a resumed training knows
    nothing of the steps before.
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
        raise ImageError(f"source: expected photographs, got {count} of which none can be read, as {photos[0]}")
    others = itertools.cycle(good)
    return [photo if isinstance(photo, np.ndarray) else next(others) for photo in photos]
