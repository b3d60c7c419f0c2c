"""How far a layer's values, or a network's outputs, point in a direction, such as a concept or another embedding."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Shaped

from jaxviz._options import check_array, check_least_zero
from jaxviz._types import Net
from jaxviz.image._arrays import AnyArray
from jaxviz.image._checks import check_finite
from jaxviz.program._axes import Layout
from jaxviz.program._returned import Layer, layer_or_output
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.scores._algebra import OfLayer, static

LEAST = 0.1  # lower bound of the cosine that is a factor, as in lucid


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Direction(OfLayer):
    """The dot product or the cosine of a layer with a vector."""

    layout: ClassVar[Layout] = "channels"
    name: ClassVar[str] = "direction"
    net: Net = static()
    layer: Layer = static()
    vector: Any = None
    power: Any = None
    cosine: bool = dataclasses.field(default=False, metadata={"static": True})
    tokens: Tokens = static(default=None)

    def lengths(self) -> set[int]:
        """Return how many images the vectors are for; a single one fits any number."""
        return {len(self.vector)} - {1}

    def of_parts(self) -> bool:
        """It is of all positions alike."""
        return True

    def pick(self, value: Array) -> Array:
        vectors = self.vector.astype(value.dtype)
        if vectors.shape[-1] != value.shape[-1] or len(vectors) not in (1, len(value)):
            raise ValueError(
                f"vector: expected the {value.shape[-1]} channels of {self.layer!r}, for one image or for each of "
                f"{len(value)}, got shape {vectors.shape}"
            )
        several = vectors if vectors.ndim == 3 else vectors[:, None]
        places = value.reshape(len(value), -1, value.shape[-1])
        several = jnp.broadcast_to(several, (len(value), *several.shape[1:]))
        dots = jnp.einsum("npc,nkc->npk", places, several, precision="highest")
        if self.cosine or self.power is not None:
            cosines = dots / (_length(places)[:, :, None] * _length(several)[:, None])
            power = None if self.power is None else jnp.asarray(self.power, dots.dtype)
            dots = cosines if power is None else dots * jnp.maximum(cosines, LEAST) ** power
        means = dots.mean(1)
        return means if vectors.ndim == 3 else means[:, 0]


def _length(vectors: Array) -> Array:
    """Return the lengths of vectors, and 1 for zero vectors, so that their cosine and its gradient are 0."""
    square = jnp.sum(jnp.square(vectors), -1)
    return jnp.sqrt(jnp.where(square > 0, square, 1))


def direction(
    net: Net,
    layer: str | None,
    vector: Shaped[AnyArray, "*_ _"],
    *,
    output: Any = None,
    cosine: bool = False,
    power: ArrayLike | None = None,
    tokens: Tokens = None,
) -> Direction:
    """Score a direction in the space of a layer's channels: the dot product with a vector, averaged over positions.

    A direction may be a concept, such as a linear probe or the mean difference between two sets of images, a mixture of
    neurons, or a text embedding: with `cosine=True` and `layer=None`, the score is how close the output of a network
    such as CLIP's image encoder is to it.

    Args:
        net: any JAX function `net(params, images)`.
        layer: a name that `layers` lists, with channels: maps, tokens or vectors; None: what the network returns.
        vector: the direction, `(c,)`; one per image, `(n, c)`; or k per image, `(n, k, c)` or `(1, k, c)`.
        output: with `layer=None`, which part the network returns: a key, an attribute, an index, or a tuple of them.
        cosine: whether to take the cosine, from -1 to 1, instead of the dot product.
        power: multiplies the dot product by `max(cosine, 0.1) ** power`, which gives less weight to values that also
            have much of other directions; at least 0, 2 to 4 in the papers. None: the dot product.
        tokens: the grid of tokens, if the network's program does not show it: see `grad_cam`.

    Returns:
        A score, `(n,)`, or `(n, k)` for k vectors per image.

    Raises:
        ValueError: if `vector` is not a vector, or `power` is not one number of at least 0 or is given together with
            `cosine`; when called, for a layer that does not exist or has no channel axis, and for a vector of another
            length.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: {"embedding": images.mean((1, 2)) @ params}
        >>> text, images = jnp.array([3.0, 0.0, 4.0]), jnp.full((1, 4, 4, 3), jnp.array([1.0, 0.0, 0.0]))
        >>> print(jaxviz.direction(net, None, text, output="embedding", cosine=True)(jnp.eye(3), images))
        [0.6]
        >>> print(jaxviz.direction(net, "dense_0", text)(jnp.eye(3), images))
        [3.]

    Olah, Mordvintsev & Schubert 2017, Feature Visualization (directions); Carter et al. 2019, Activation Atlas (power);
    Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision (cosine).
    """
    check_array("vector", vector)
    if jnp.ndim(vector) not in (1, 2, 3) or not jnp.size(vector):
        raise ValueError(f"vector: expected (c,), (n, c) or (n, k, c), got shape {jnp.shape(vector)}")
    check_finite("vector", vector)
    if power is not None:
        check_least_zero("power", power)
        if jnp.ndim(power):
            raise ValueError(f"power: expected one number, got shape {jnp.shape(power)}")
        if cosine:
            raise ValueError("power: expected none beside cosine=True: it is a factor of the dot product")
    each = jnp.asarray(vector)[None] if jnp.ndim(vector) == 1 else jnp.asarray(vector)
    return Direction(net, layer_or_output(layer, output), each, power, cosine, checked_tokens(tokens))
