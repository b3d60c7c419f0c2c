"""Scores for synthesis only: they compare images with each other, or with a guide."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._options import check_batch
from jaxviz._types import AnyImages, Images, Net
from jaxviz.fast._swap import accelerate
from jaxviz.program._compiled import compiled
from jaxviz.program._once import once
from jaxviz.program._outputs import read
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.scores._algebra import Summable
from jaxviz.scores._likeness import gram


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Diversity(Summable):
    net: Net = dataclasses.field(metadata={"static": True})
    layer: str = dataclasses.field(metadata={"static": True})
    tokens: Tokens = dataclasses.field(default=None, metadata={"static": True})

    def of_parts(self) -> bool:
        """It is of all positions alike."""
        return True

    def __call__(self, params: Any, images: Any) -> Array:
        maps = _maps(self.net, self.layer, self.tokens, "diversity", params, images)
        grams = gram(maps).reshape(len(images), -1)
        square = jnp.sum(jnp.square(grams), -1, keepdims=True)
        directions = grams / jnp.sqrt(jnp.where(square > 0, square, 1))
        likeness = jnp.matmul(directions, directions.T, precision="highest")
        others = 1 - jnp.eye(len(images), dtype=likeness.dtype)
        return -jnp.sum(likeness * others, -1) / max(len(images) - 1, 1)


def diversity(net: Net, layer: str, *, tokens: Tokens = None) -> _Diversity:
    """Score each image by how different it is from the others in its batch: minus the mean cosine of Gram matrices.

    Added to another score, it makes a batch show different facets of that score: `channel(net, "relu4_3", jnp.full(4,
    89)) + 0.5 * diversity(net, "relu2_2")`.

    Args:
        net: any JAX function `net(params, images)`.
        layer: a layer of maps `(n, h, w, c)`, or of tokens `(n, tokens, c)`.
        tokens: the grid of tokens, if the network's program does not show it: see `grad_cam`.

    Returns:
        A score, `(n,)`, from -1, all alike, to 0.

    Raises:
        ValueError: when called, for a layer that does not exist, or has neither maps nor tokens in a known grid.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images)
        >>> red, blue = jnp.eye(3)[0], jnp.eye(3)[2]
        >>> images = jnp.stack([red, red, blue])[:, None, None] * jnp.ones((3, 4, 4, 3))
        >>> print(jaxviz.diversity(net, "relu_0")(None, images))
        [-0.5 -0.5 -0. ]

    Olah, Mordvintsev & Schubert 2017, Feature Visualization.
    """
    return _Diversity(net, layer, checked_tokens(tokens))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Resemblance(Summable):
    net: Net = dataclasses.field(metadata={"static": True})
    layer: str = dataclasses.field(metadata={"static": True})
    guide: Any
    tokens: Tokens = dataclasses.field(default=None, metadata={"static": True})

    def of_parts(self) -> bool:
        """It is of all positions alike."""
        return True

    def __call__(self, params: Any, images: Any) -> Array:
        found = _maps(self.net, self.layer, self.tokens, "resemblance", params, images)
        best = jax.checkpoint(lambda row: jnp.max(jnp.einsum("nwc,qc->nwq", row, self.guide), -1))
        # One row at a time: all positions of an image times all of the guide would take gigabytes.
        return jnp.mean(jax.lax.map(best, jnp.moveaxis(found, 1, 0)), (0, 2))


def resemblance(net: Net, params: Any, images: AnyImages, *, layer: str, tokens: Tokens = None) -> _Resemblance:
    """Score images by how well each position of a layer matches its best match in some guide images.

    A match is a dot product of features. `dream(resemblance(...), ...)` is DeepDream's guided dreaming: it adds objects
    from the guide where the image already has something similar.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        images: the guide, `(n, h, w, c)` in [0, 1], of any size.
        layer: a layer of image maps, or of tokens `(n, tokens, c)`.
        tokens: the grid of tokens, if the network's program does not show it: see `grad_cam`.

    Returns:
        A score, `(n,)`: the mean over positions, in units of squared features.

    Raises:
        ValueError: for a layer that does not exist, or has neither maps nor tokens in a known grid, and if `images` is
            not a batch of images in [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images)
        >>> guide = jnp.array([[[[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]]])
        >>> score = jaxviz.resemblance(net, None, guide, layer="relu_0")
        >>> print(score(None, jnp.full((1, 4, 4, 3), jnp.array([0.5, 0.0, 0.0]))))
        [0.5]

    Mordvintsev, Olah & Tyka 2015, Inceptionism: Going Deeper into Neural Networks.
    """
    check_batch("images", images)
    tokens = checked_tokens(tokens)
    found = _guide(once(net), layer, tokens, params, images)
    return _Resemblance(net, layer, found.reshape(-1, found.shape[-1]), tokens)


@compiled(static_argnums=(0, 1, 2))
def _guide(net: Net, layer: str, tokens: Tokens, params: Any, images: Images) -> Float[Array, "_ _ _ _"]:
    return accelerate(functools.partial(_maps, net, layer, tokens, "resemblance"))(params, images)


def _maps(net: Net, layer: str, tokens: Tokens, who: str, params: Any, images: Images) -> Float[Array, "_ _ _ _"]:
    return read(net, params, images, [layer]).as_map(layer, who, tokens)
