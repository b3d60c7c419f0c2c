"""What gradient ascent shows the network of an image at each step, where its caller does not say."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from jaxviz._types import Key, Score
from jaxviz.program._image_channels import Size, accepted, split_size
from jaxviz.scores._algebra import Summable
from jaxviz.synthesis._transforms import Transform, crops, jitter_scale_rotate

T = TypeVar("T")

WHOLE = jitter_scale_rotate()
_LEAST, _MOST = 0.7, 0.9  # sides of parts, as fractions of the image's; found by experiments/pictures.py
_NOISE, _SPREAD = 0.05, 0.2
_SHOWN = 0.8  # side of what the network is shown, as a fraction of the image's: about a part's own


def seen(transform: Transform | None, key: Key, images: Any) -> Any:
    """Return the shape of what a score is given of images of this shape."""
    if transform is None:
        return images
    found = jax.eval_shape(transform, key, images)
    return jax.ShapeDtypeStruct(found.shape, images.dtype)


def shown(
    score: Score, params: Any, key: Key, size: Size, use: Callable[[Any], T], *, parts: bool, count: int
) -> tuple[Transform, tuple[Any, T]]:
    """Return how images of a size are shown to a score, and what `accepted` returns for what `use` is given of them.

    Random parts, at about their own scale; enlarged to the image's size if the network takes no smaller one. A score of
    which a part of the image says nothing, such as of a neuron at a position, sees all of it.
    """
    sides, _ = split_size(size)

    def tried(transform: Transform) -> tuple[Transform, tuple[Any, T]]:
        return transform, accepted(lambda images: use(seen(transform, key, images)), params, size, count=count)

    if not (parts and isinstance(score, Summable) and score.of_parts()):
        return tried(WHOLE)
    smaller, enlarged = _ways(sides)
    try:
        return tried(smaller)
    except Exception:  # a network may refuse a size in any way
        return tried(enlarged)


def _ways(sides: tuple[int, int]) -> list[Transform]:
    sizes = [(max(round(share * sides[0]), 1), max(round(share * sides[1]), 1)) for share in (_SHOWN, 1.0)]
    return [crops(least=_LEAST, most=_MOST, noise=_NOISE, spread=_SPREAD, size=size) for size in sizes]
