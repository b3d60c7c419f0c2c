"""The caricature of a picture: more of what a layer sees in it, where it sees it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxviz._options import check_batch, check_least_zero
from jaxviz._types import AnyImages, Net
from jaxviz.program._image_channels import known_channels
from jaxviz.program._once import once
from jaxviz.program._outputs import Reading
from jaxviz.program._returned import Layer
from jaxviz.scores._algebra import Read, static
from jaxviz.scores._direction import LEAST
from jaxviz.scores._likeness import features_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Caricature(Read):
    """The dot product of a layer with what it was for other images, times a power of their cosine."""

    net: Net = static()
    layer: str = static(default="")
    target: Any = None
    power: Any = 1.0

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The one layer."""
        return (self.layer,)

    def lengths(self) -> set[int]:
        """Return how many images the targets are for; a single one fits any number."""
        return {len(self.target)} - {1}

    def taken(self, reading: Reading, images: Any) -> Array:
        return reading.by_image(self.layer)

    def pick(self, value: Array) -> Float[Array, " n"]:
        if value.shape[1:] != self.target.shape[1:] or len(self.target) not in (1, len(value)):
            raise ValueError(
                f"a score that compares {self.layer!r} with other images: expected their shape, {self.target.shape}, "
                f"got {value.shape}; make as many images, of the same size, as with ascend(size=(h, w))"
            )
        axes = tuple(range(1, value.ndim))
        target = self.target.astype(value.dtype)
        # Divided by the target's largest value first, and so within the range of low precision.
        unit = jnp.max(jnp.abs(target), axes, keepdims=True)
        unit = jnp.where(unit > 0, unit, 1)
        value, target = value / unit, target / unit
        dot, square, size = (jnp.sum(x, axes) for x in (value * target, jnp.square(target), jnp.square(value)))
        square, size = jnp.where(square > 0, square, 1), jnp.where(size > 0, size, 1)
        cosine = dot / jnp.sqrt(square * size)
        return dot / square * jnp.maximum(cosine, LEAST) ** jnp.asarray(self.power, value.dtype)


def caricature(net: Net, params: Any, images: AnyImages, layer: str, *, power: ArrayLike = 1.0) -> Caricature:
    """Score images by how far a layer's features point where those of given images do: a picture, exaggerated.

    Over all positions and channels, it is `f(x).f(images) / |f(images)|²`, times `max(cosine, 0.1) ** power`. So it is
    1 for the images themselves, and has no maximum: `ascend` makes more of everything that the layer sees in a picture,
    where it sees it, and leaves out what the layer does not see. `match_features` reproduces the picture instead.

    Features are compared position by position, so transformations should move images by little:
    `jitter_scale_rotate(jitter=4, scale=0.02, degrees=1)`.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        images: `(n, h, w, c)` in [0, 1]: one for all images that are scored, or one for each. They must have the size
            of those.
        layer: whose features to exaggerate, a name that `layers` lists. Any layer with an axis of images will do.
        power: of the cosine, at least 0; 0: the dot product alone, larger: fewer features that the picture lacks.

    Returns:
        A score, `(n,)`.

    Raises:
        ValueError: for a layer that does not exist, a power below 0, and if `images` is not a batch of images in
            [0, 1]; when called, for another number or size of images.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images)
        >>> picture = jnp.zeros((1, 8, 8, 3)).at[:, :4, :, 0].set(0.3).at[:, 4:, :, 2].set(0.3)
        >>> score = jaxviz.caricature(net, None, picture, "relu_0")
        >>> print(score(None, jnp.concatenate([picture, 3 * picture, picture[:, ::-1]])))
        [1. 3. 0.]
        >>> how = {"size": 8, "steps": 64, "basis": jaxviz.pixels, "transform": None}
        >>> found = jaxviz.ascend(score, None, jax.random.key(0), **how)  # full red above full blue
        >>> print(bool(found.images[0, :4, :, 0].min() > 0.9), bool(found.images[0, 4:, :, 0].max() < 0.6))
        True True

    Olah et al. 2018, The Building Blocks of Interpretability.
    """
    check_batch("images", images)
    check_least_zero("power", power)
    if jnp.ndim(power):
        raise ValueError(f"power: expected one number, got shape {jnp.shape(power)}")
    with known_channels(net, params, images):
        return Caricature(net, layer, features_of(once(net), (layer,), params, images)[layer], power)
