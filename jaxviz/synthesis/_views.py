"""What gradient ascent shows the network of an image at each step, where its caller does not say."""

import functools
from typing import Any

import jax

from jaxviz._types import Key, Score
from jaxviz.program._image_channels import accepted
from jaxviz.program._receptive_field import receptive_field
from jaxviz.scores._algebra import Summable, terms_of
from jaxviz.scores._classes import Logit
from jaxviz.synthesis._transforms import Transform, compose, crops, jitter_scale_rotate

WHOLE = jitter_scale_rotate()
# Enlarged: whole objects, of the size that a network looks for, then fit into the image; and what is changed is a
# little coarser than pixels. Found by experiments/pictures.py.
PARTS = crops(least=0.7, most=0.9, noise=0.05, spread=0.2)
# A class is seen in other ways, too: a third more of its score is then left in looks that it was not made for. Channels
# of a layer, which may care which way lines run, lose by that.
TURNED = compose(
    crops(least=0.75, most=1.0, noise=0.05, spread=0.2), jitter_scale_rotate(jitter=8.0, scale=0.15, degrees=10.0)
)


def views_of(score: Score) -> Transform:
    """Return what a score is shown by default, where parts of an image say something about it."""
    if not is_of_parts(score):
        return WHOLE
    return TURNED if any(isinstance(term, Logit) for term, _ in terms_of(score)) else PARTS


def is_of_parts(score: Score) -> bool:
    """Tell whether parts of an image say something about a score; of a function of one's own nothing is known."""
    return isinstance(score, Summable) and score.of_parts()


def canvas(score: Score, params: Any, most: int) -> int:
    """Return the side of the image that a score's units fill: one and a half receptive fields, in steps of 16 pixels.

    At least 32 and at most `most`, which is also for scores of more than layers at all positions alike, and where a
    receptive field cannot be told.
    """
    return max(_side(term, params, most) for term, _ in terms_of(score))


def _side(score: Score, params: Any, most: int) -> int:
    net, layer = getattr(score, "net", None), getattr(score, "layer", None)
    if net is None or not isinstance(layer, str) or not is_of_parts(score):
        return most
    use = functools.partial(receptive_field, net, params, layer=layer, tokens=getattr(score, "tokens", None))
    try:
        _, field = accepted(use, params, most)
    except ValueError:  # what is wrong with the layer or the images is said where the score is checked
        return most
    return min(most, max(32, -(-3 * max(field.size) // 32) * 16))


def seen(transform: Transform | None, key: Key, images: Any) -> Any:
    """Return the shape of what a score is given of images of this shape."""
    if transform is None:
        return images
    found = jax.eval_shape(transform, key, images)
    return jax.ShapeDtypeStruct(found.shape, images.dtype)
