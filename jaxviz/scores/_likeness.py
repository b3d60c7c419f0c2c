"""How similar two images are to a network: in the features of its layers, or in their Gram matrices.

Features say what is where: they are an image's content. Gram matrices say which features occur together, regardless of
where: they are its texture, and its style.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxviz._options import check_batch
from jaxviz._types import AnyArray, AnyImages, Images, Net
from jaxviz.fast._swap import accelerate
from jaxviz.program._compiled import compiled
from jaxviz.program._edit import layers as layers_of
from jaxviz.program._image_channels import known_channels
from jaxviz.program._once import once
from jaxviz.program._outputs import Reading, read
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.scores._algebra import Read, as_numbers, static
from jaxviz.scores._masks import fitted, mask_of

Layers = str | Sequence[str] | Mapping[str, float]
"""Names, weighted equally, or a weight for each name."""


def relative_error(values: Float[Array, "n ..."], target: Float[Array, "#n ..."]) -> Float[Array, " n"]:
    """Return each image's `|values - target|² / |target|²`: 0 if equal, about 1 with nothing in common.

    With this division, losses of any layer of any network have the same scale, and their weights the same meaning.

    Example:
        >>> print(relative_error(jnp.array([[3.0, 4.0], [3.0, 3.0]]), jnp.array([[3.0, 4.0]])))
        [0.   0.04]
    """
    axes = tuple(range(1, values.ndim))
    size = jnp.sum(jnp.square(target), axes)
    return jnp.sum(jnp.square(values - target), axes) / jnp.where(size > 0, size, 1)


def gram(
    features: Float[AnyArray, "n h w c"], *, mask: Float[AnyArray, "*_ h w"] | None = None
) -> Float[Array, "n c c"]:
    """Return the Gram matrix of each image's features: the mean over positions of the product of each two channels.

    It is a mean so that images of different sizes can be compared.

    Args:
        features: a layer's maps, `(n, h, w, c)`.
        mask: weights of the positions, `(h, w)` or one for each image, `(n, h, w)`, at least 0, for a weighted mean:
            the Gram matrix of a region. None: all count equally.

    Returns:
        The matrices, `(n, c, c)`, in units of squared features; zeros where a mask is zero everywhere.

    Raises:
        ValueError: for features that are not maps, and a mask of another size or number.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> features = jnp.array([[[[1.0, 2.0], [3.0, 0.0]]]])
        >>> print(jaxviz.gram(features)[0])
        [[5. 1.]
         [1. 2.]]
        >>> print(jaxviz.gram(features, mask=jnp.array([[[0.0, 1.0]]]))[0])
        [[9. 0.]
         [0. 0.]]

    Gatys, Ecker & Bethge 2015, Texture Synthesis Using Convolutional Neural Networks.
    """
    if jnp.ndim(features) != 4:
        hint = "; one image's are features[None]" if jnp.ndim(features) == 3 else ""
        raise ValueError(f"features: expected a layer's maps (n, h, w, c), got shape {jnp.shape(features)}{hint}")
    n, height, width, channels = features.shape
    rows = features.reshape(n, height * width, channels)
    if mask is None:
        return jnp.einsum("npi,npj->nij", rows, rows) / (height * width)
    if jnp.shape(mask) not in ((height, width), (1, height, width), (n, height, width)):
        raise ValueError(
            f"mask: expected the features' size, {(height, width)} or {(n, height, width)}, got {jnp.shape(mask)}"
        )
    weights = jnp.broadcast_to(jnp.asarray(mask, features.dtype), (n, height, width)).reshape(n, height * width, 1)
    total = jnp.sum(weights, 1, keepdims=True)
    return jnp.einsum("npi,npj->nij", rows * weights, rows) / jnp.where(total > 0, total, 1)


class Part(NamedTuple):
    """A part of a layer that is compared in parts."""

    start: tuple[Any, Any]  # its first row and column
    counts: Bool[Array, "h w"]  # which of its positions count: each in one part
    whole: tuple[int, ...]  # the shape of the whole layer


class _Match(Read):
    """Minus the weighted sum of relative errors from other images' values at several layers, by name."""

    net: Net
    weights: Any
    targets: Any

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.targets)

    def lengths(self) -> set[int]:
        """Return how many images the targets are for; a single one fits any number."""
        return {len(target) for target in self.targets.values()} - {1}

    def measured(self, values: dict[str, Array]) -> Array:
        return jnp.stack([jnp.sum(as_numbers(value)).astype(float) for value in values.values()])

    def found(self, name: str, value: Array) -> Array:
        """Return what is compared with the target: features, or their Gram matrix."""
        raise NotImplementedError

    def pick(self, values: dict[str, Array]) -> Float[Array, " n"]:
        errors = {}
        for name, target in self.targets.items():
            found = self.found(name, values[name]).astype(target.dtype)
            if found.shape[1:] != target.shape[1:] or len(target) not in (1, len(found)):
                raise ValueError(
                    f"a score that compares {name!r} with other images: expected their shape, {target.shape}, got "
                    f"{found.shape}; make as many images, of the same size, as with ascend(size=(h, w))"
                )
            errors[name] = relative_error(found, target)
        return self.of_errors(errors)

    def of_errors(self, errors: dict[str, Array]) -> Float[Array, " n"]:
        """Return the score, of the error of each layer."""
        weighted = [jnp.asarray(self.weights[name], error.dtype) * error for name, error in errors.items()]
        return -sum(weighted[1:], weighted[0])

    def summed(self, name: str, value: Array, part: Part) -> Array:
        """Return the sum, over the positions of a part that count, of which the error is a function."""
        raise NotImplementedError

    def error(self, name: str, total: Array, whole: tuple[int, ...]) -> Float[Array, " n"]:
        """Return the error, of the sum over all positions of a layer, whose shape is `whole`."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureMatch(_Match):
    """Minus the relative error of features."""

    net: Net = static()
    weights: Any = None
    targets: Any = None

    def taken(self, reading: Reading, images: Any) -> dict[str, Array]:
        return {name: reading.by_image(name) for name in self.layers}

    def found(self, name: str, value: Array) -> Array:
        return value

    def summed(self, name: str, value: Array, part: Part) -> Float[Array, " n"]:
        target = self.targets[name]
        there = jax.lax.dynamic_slice(target, (0, *part.start, 0), (len(target), *value.shape[1:]))
        squares = jnp.square(value.astype(target.dtype) - there)
        return jnp.sum(squares * part.counts[None, :, :, None].astype(squares.dtype), (1, 2, 3))

    def error(self, name: str, total: Array, whole: tuple[int, ...]) -> Float[Array, " n"]:
        size = jnp.sum(jnp.square(self.targets[name]), (1, 2, 3))
        return total / jnp.where(size > 0, size, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GramMatch(_Match):
    """Minus the relative error of Gram matrices, within the region of a mask if there is one."""

    net: Net = static()
    weights: Any = None
    targets: Any = None
    where: Any = None
    tokens: Tokens = static(default=None)

    def taken(self, reading: Reading, images: Any) -> dict[str, Array]:
        return {name: reading.as_map(name, "match_grams", self.tokens) for name in self.layers}

    def found(self, name: str, value: Array) -> Array:
        return gram(value, mask=fitted(self.where, value))

    def summed(self, name: str, value: Array, part: Part) -> Float[Array, "n c c"]:
        weights = part.counts[None].astype(value.dtype)
        mask = fitted(self.where, jax.ShapeDtypeStruct(part.whole, value.dtype))
        if mask is not None:
            weights = weights * jax.lax.dynamic_slice(mask, (0, *part.start), (len(mask), *value.shape[1:3]))
        return jnp.einsum("nhwi,nhwj->nij", value * weights[..., None], value)

    def mean(self, total: Float[Array, "n c c"], whole: tuple[int, ...]) -> Float[Array, "n c c"]:
        """Return the Gram matrix, of the sum over all positions of a layer, whose shape is `whole`."""
        mask = fitted(self.where, jax.ShapeDtypeStruct(whole, total.dtype))
        if mask is None:
            return total / (whole[1] * whole[2])
        weight = jnp.sum(mask, (1, 2))[:, None, None]
        return total / jnp.where(weight > 0, weight, 1)

    def error(self, name: str, total: Array, whole: tuple[int, ...]) -> Float[Array, " n"]:
        target = self.targets[name]
        return relative_error(self.mean(total, whole).astype(target.dtype), target)


def match_features(net: Net, params: Any, images: AnyImages, layers: Layers) -> FeatureMatch:
    """Score images by how close their features are to those of given images: minus the relative error.

    The error is the mean over layers of `|f(x) - f(images)|² / |f(images)|²`, so the score is 0 at best and about -1
    with nothing in common. It is what inversion maximizes, and the content term of style transfer. Added to other
    scores of the same network, it shares one evaluation with them.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        images: `(n, h, w, c)` in [0, 1]: one for all images that are scored, or one for each. They must have the size
            of those, unless the layers have the same shape at any size.
        layers: whose features to compare: names, or a weight for each name, for a weighted mean. Any layer with an axis
            of images will do.

    Returns:
        A score, `(n,)`, at most 0.

    Raises:
        ValueError: for layers that do not exist, weights that are negative or all 0, and if `images` is not a batch of
            images in [0, 1]; when called, for another number or size of images.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images)
        >>> images = jnp.array([1.0, 0.5]).reshape(2, 1, 1, 1) * jnp.ones((2, 4, 4, 3))
        >>> print(jaxviz.match_features(net, None, images[:1], ["relu_0"])(None, images))
        [-0.   -0.25]

    Feature accentuation shows what a unit sees in a picture: start from it, and let the unit's response grow while the
    features of an early layer stay near.

        >>> score = jaxviz.channel(net, "relu_0", 0) + 2 * jaxviz.match_features(net, None, images[:1], "relu_0")
        >>> how = {"size": 4, "steps": 32, "start": 0.5, "transform": None}
        >>> red, green, _ = jaxviz.ascend(score, None, jax.random.key(0), **how).images[0, 0, 0]
        >>> print(bool(red > green))
        True

    Mahendran & Vedaldi 2014, Understanding Deep Image Representations by Inverting Them; Gatys, Ecker & Bethge 2016,
    Image Style Transfer Using Convolutional Neural Networks; Hamblin et al. 2024, Feature Accentuation: Revealing
    "What" Features Respond to in Natural Images.
    """
    check_batch("images", images)
    weights = proportions_of("layers", layers)
    with known_channels(net, params, images):
        return FeatureMatch(net, weights, features_of(once(net), tuple(weights), params, images))


def match_grams(
    net: Net,
    params: Any,
    images: AnyImages,
    layers: Layers,
    *,
    masks: Float[AnyArray, "*_ _ _"] | None = None,
    where: Float[AnyArray, "*_ _ _"] | None = None,
    tokens: Tokens = None,
) -> GramMatch:
    """Score images by how close their Gram matrices are to those of given images: minus the relative error.

    The Gram matrix of a layer (see `gram`) says how strongly each two channels respond at the same position, averaged
    over positions: a texture, or a style. The score is 0 at best and about -1 with nothing in common. Added to other
    scores of the same network, it shares one evaluation with them.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        images: `(n, h, w, c)` in [0, 1], of any size: one for all images that are scored, or one for each.
        layers: whose Gram matrices to compare: names, or a weight for each name, for a weighted mean. They must have
            maps, or tokens `(n, tokens, c)`.
        masks: which part of the given images counts, in [0, 1]: `(h, w)`, or `(n, h, w)`; None: all.
        where: which part of the images that are scored should have the texture, in [0, 1]: `(h, w)` or `(n, h, w)`,
            resized to each layer; None: all.
        tokens: the grid of tokens, if the network's program does not show it: see `grad_cam`.

    Returns:
        A score, `(n,)`, at most 0.

    Raises:
        ValueError: for layers that do not exist or have no maps, weights that are negative or all 0, if `images` is not
            a batch of images in [0, 1], and for masks of another size or without a positive value; when called, for
            another number of images.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images)
        >>> style, photo = jax.random.uniform(jax.random.key(0), (2, 1, 8, 8, 3))
        >>> score = 20 * jaxviz.match_grams(net, None, style, ["relu_0"])
        >>> score += jaxviz.match_features(net, None, photo, ["relu_0"]) + 0.01 * jaxviz.channel(net, "relu_0", 2)
        >>> options = {"size": 8, "steps": 40, "start": photo[0], "basis": jaxviz.pixels, "transform": None}
        >>> found = jaxviz.ascend(score, None, jax.random.key(1), optimizer=jaxviz.lbfgs(), **options)
        >>> print(found.images.shape, bool(found.losses[-1] < found.losses[0]))
        (1, 8, 8, 3) True

    Gatys, Ecker & Bethge 2015, Texture Synthesis Using Convolutional Neural Networks; Gatys et al. 2017, Controlling
    Perceptual Factors in Neural Style Transfer (masks).
    """
    check_batch("images", images)
    weights = proportions_of("layers", layers)
    mask = None if masks is None else mask_of("masks", masks, images.shape[1:3])
    region = None if where is None else mask_of("where", where)
    tokens = checked_tokens(tokens)
    with known_channels(net, params, images):
        return GramMatch(
            net, weights, grams_of(once(net), tuple(weights), params, images, mask, tokens), region, tokens
        )


@compiled(static_argnums=(0, 1))
def features_of(net: Net, names: tuple[str, ...], params: Any, images: Images) -> dict[str, Array]:
    """Return the values of some layers, checked to have an axis of images."""

    def features(params: Any, images: Images) -> dict[str, Array]:
        reading = read(net, params, images, names)
        return {name: reading.by_image(name) for name in names}

    values = accelerate(features)(params, images)
    for name, value in values.items():
        if value.shape[:1] != images.shape[:1]:
            raise ValueError(f"layers: expected an axis of {len(images)} images, but {name!r} has shape {value.shape}")
    return values


@compiled(static_argnums=(0, 1, 5))
def grams_of(
    net: Net,
    names: tuple[str, ...],
    params: Any,
    images: Images,
    mask: Float[Array, "_ _ _"] | None,
    tokens: Tokens = None,
) -> dict[str, Array]:
    """Return the Gram matrices of some layers, within the region of a mask if there is one."""

    def maps(params: Any, images: Images) -> dict[str, Array]:
        reading = read(net, params, images, names)
        flat = next((name for name in names if reading.layers[name][0].ndim not in (3, 4)), None)
        if flat is not None:
            shapes = {name: value.shape for name, value in layers_of(net, params, images).items()}
            raise ValueError(
                f"layers: {flat!r} has shape {shapes[flat]}, no image map (n, h, w, channels); layers with maps: "
                f"{[name for name, shape in shapes.items() if len(shape) == 4]}"
            )
        return {name: reading.as_map(name, "match_grams", tokens) for name in names}

    return {name: gram(value, mask=fitted(mask, value)) for name, value in accelerate(maps)(params, images).items()}


def proportions_of(what: str, names: Layers) -> dict[str, float]:
    """Return the share of each layer: equal, or in the given proportions; they add up to 1."""
    if isinstance(names, str):
        names = [names]
    if not len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what}: expected names of layers, or a weight for each, got {names!r}")
    proportions = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, 1.0)
    weights = np.asarray(list(proportions.values()))
    numbers = weights.dtype.kind in "fiu" and bool(np.isfinite(weights).all() and weights.min() >= 0)
    if not numbers or not weights.any():
        raise ValueError(f"{what}: expected weights of at least 0, finite and not all of them 0, got {proportions}")
    total = sum(proportions.values())
    return {name: share / total for name, share in proportions.items()}
