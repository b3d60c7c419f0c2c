"""What gradient ascent shows the network of an image at each step, where its caller does not say."""

from typing import Any

import jax

from jaxviz._types import Key, Score
from jaxviz.scores._algebra import Summable
from jaxviz.synthesis._transforms import Transform, compose, crops, jitter_scale_rotate

WHOLE = jitter_scale_rotate()
# Enlarged, and turned a little: whole objects, of the size that a network looks for, then fit into the image, and what
# is drawn survives looks at it that are not the ones it was made for. What is changed is a little coarser than pixels.
# Found by experiments/pictures.py.
PARTS = compose(
    crops(least=0.75, most=1.0, noise=0.05, spread=0.2), jitter_scale_rotate(jitter=8.0, scale=0.15, degrees=10.0)
)


def is_of_parts(score: Score) -> bool:
    """Tell whether parts of an image say something about a score; of a function of one's own nothing is known."""
    return isinstance(score, Summable) and score.of_parts()


def seen(transform: Transform | None, key: Key, images: Any) -> Any:
    """Return the shape of what a score is given of images of this shape."""
    if transform is None:
        return images
    found = jax.eval_shape(transform, key, images)
    return jax.ShapeDtypeStruct(found.shape, images.dtype)
