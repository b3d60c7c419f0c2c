"""How alike two images are to a network: in the features of its layers, or in their Gram matrices.

Features say what is where: those of an image are its content. Gram matrices say which features come together, wherever
that is: they are its texture, and its style.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._options import check_batch
from jaxviz._types import Images, Net
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
"""Names, of equal weight, or a weight for each name."""


def relative_error(values: Float[Array, "n ..."], target: Float[Array, "#n ..."]) -> Float[Array, " n"]:
    """Return each image's `|values - target|² / |target|²`: 0 if equal, about 1 with nothing in common.

    Divided so, losses of any layer of any network have one scale, and their weights one meaning.

    Example:
        >>> print(relative_error(jnp.array([[3.0, 4.0], [3.0, 3.0]]), jnp.array([[3.0, 4.0]])))
        [0.   0.04]
    """
    axes = tuple(range(1, values.ndim))
    size = jnp.sum(jnp.square(target), axes)
    return jnp.sum(jnp.square(values - target), axes) / jnp.where(size > 0, size, 1)


def gram(features: Float[Array, "n h w c"], *, mask: Float[Array, "#n h w"] | None = None) -> Float[Array, "n c c"]:
    """Return the Gram matrix of each image's features: for two channels the mean of their product over positions.

    A mean, so that images of all sizes compare.

    Args:
        features: a layer's maps, `(n, h, w, c)`.
        mask: weights of the positions, `(n, h, w)` or `(1, h, w)`, at least 0: then it is the weighted mean, the Gram
            matrix of a region. None: all count alike.

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
    n, height, width, channels = features.shape
    rows = features.reshape(n, height * width, channels)
    if mask is None:
        return jnp.einsum("npi,npj->nij", rows, rows) / (height * width)
    weights = jnp.broadcast_to(mask, (n, height, width)).reshape(n, height * width, 1)
    total = jnp.sum(weights, 1, keepdims=True)
    return jnp.einsum("npi,npj->nij", rows * weights, rows) / jnp.where(total > 0, total, 1)


class _Match(Read):
    """Minus the weighted sum of relative errors to what other images have at each of several layers, by their names."""

    net: Net
    weights: Any
    targets: Any

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.targets)

    def lengths(self) -> set[int]:
        """Return for how many images there are targets; one is for any number of them."""
        return {len(target) for target in self.targets.values()} - {1}

    def measured(self, values: dict[str, Array]) -> Array:
        return jnp.stack([jnp.sum(as_numbers(value)).astype(float) for value in values.values()])

    def found(self, name: str, value: Array) -> Array:
        """Return what of a layer is compared with the target."""
        raise NotImplementedError

    def pick(self, values: dict[str, Array]) -> Float[Array, " n"]:
        errors = []
        for name, target in self.targets.items():
            found = self.found(name, values[name]).astype(target.dtype)
            if found.shape[1:] != target.shape[1:] or len(target) not in (1, len(found)):
                raise ValueError(
                    f"a score that compares {name!r} with that of other images: expected shape {target.shape}, as "
                    f"theirs has, got {found.shape}; make images of their number and size, as by ascend(size=(h, w))"
                )
            error = relative_error(found, target)
            errors.append(jnp.asarray(self.weights[name], error.dtype) * error)
        return -sum(errors[1:], errors[0])


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GramMatch(_Match):
    """Minus the relative error of Gram matrices, in the region that a mask shows, if there is one."""

    net: Net = static()
    weights: Any = None
    targets: Any = None
    where: Any = None
    tokens: Tokens = static(default=None)

    def taken(self, reading: Reading, images: Any) -> dict[str, Array]:
        return {name: reading.as_map(name, "match_grams", self.tokens) for name in self.layers}

    def found(self, name: str, value: Array) -> Array:
        return gram(value, mask=fitted(self.where, value))


def match_features(net: Net, params: Any, images: Images, layers: Layers) -> FeatureMatch:
    """Score images by how near their features are to those of given images: minus the relative error.

    That is, of layer by layer `|f(x) - f(images)|² / |f(images)|²`, the mean over layers: 0 at best, about -1 with
    nothing in common. It is what inversion maximizes, and the content of style transfer. It adds to other scores, and
    all that read the same network share one evaluation of it.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        images: `(n, h, w, c)` in [0, 1]: one for all images that are scored, or one for each. They are of one size,
            unless the layers have the same shape at any.
        layers: whose features: names, or a weight for each name, for a weighted mean. They are any layers with an axis
            of images.

    Raises:
        ValueError: for layers that there are not, weights that are below 0 or all 0, and what is no image; when called,
            for images of another number or size.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images)
        >>> images = jnp.array([1.0, 0.5]).reshape(2, 1, 1, 1) * jnp.ones((2, 4, 4, 3))
        >>> print(jaxviz.match_features(net, None, images[:1], ["relu_0"])(None, images))
        [-0.   -0.25]

    Mahendran & Vedaldi 2014, Understanding Deep Image Representations by Inverting Them; Gatys, Ecker & Bethge 2016,
    Image Style Transfer Using Convolutional Neural Networks.
    """
    check_batch("images", images)
    weights = proportions_of("layers", layers)
    with known_channels(net, params, images):
        return FeatureMatch(net, weights, _features(once(net), tuple(weights), params, images))


def match_grams(
    net: Net,
    params: Any,
    images: Images,
    layers: Layers,
    *,
    masks: Float[Array, "*_ _ _"] | None = None,
    where: Float[Array, "*_ _ _"] | None = None,
    tokens: Tokens = None,
) -> GramMatch:
    """Score images by how near their Gram matrices are to those of given images: minus the relative error.

    The Gram matrix of a layer, see `gram`, tells how strongly each two channels respond at the same place, on average
    over places: a texture, or a style. The score is 0 at best, about -1 with nothing in common. It adds to other
    scores, and all that read the same network share one evaluation of it.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        images: `(n, h, w, c)` in [0, 1], of any size: one for all images that are scored, or one for each.
        layers: whose Gram matrices: names, or a weight for each name, for a weighted mean. They are layers of maps, or
            of tokens `(n, tokens, c)`.
        masks: which part of the given images counts, in [0, 1]: `(h, w)`, or `(n, h, w)`; None: all.
        where: where in the images that are scored their texture belongs, in [0, 1]: `(h, w)` or `(n, h, w)`, resized to
            each layer; None: everywhere.
        tokens: where tokens lie, if the network's program does not show it: see `grad_cam`.

    Raises:
        ValueError: for layers that there are not or that are no maps, weights that are below 0 or all 0, what is no
            image, and masks of another size or that match nothing; when called, for images of another number.

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
def _features(net: Net, names: tuple[str, ...], params: Any, images: Images) -> dict[str, Array]:
    def features(params: Any, images: Images) -> dict[str, Array]:
        reading = read(net, params, images, names)
        return {name: reading.by_image(name) for name in names}

    values = accelerate(features)(params, images)
    for name, value in values.items():
        if value.shape[:1] != images.shape[:1]:
            raise ValueError(f"layers: expected some with an axis of {len(images)} images, {name!r} has {value.shape}")
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
    """Return the Gram matrices of some layers, of the region that a mask shows if there is one."""

    def maps(params: Any, images: Images) -> dict[str, Array]:
        reading = read(net, params, images, names)
        flat = next((name for name in names if reading.layers[name][0].ndim not in (3, 4)), None)
        if flat is not None:
            shapes = {name: value.shape for name, value in layers_of(net, params, images).items()}
            raise ValueError(
                f"layers: {flat!r} has shape {shapes[flat]}, no image map (n, h, w, channels); these have: "
                f"{[name for name, shape in shapes.items() if len(shape) == 4]}"
            )
        return {name: reading.as_map(name, "match_grams", tokens) for name in names}

    return {name: gram(value, mask=fitted(mask, value)) for name, value in accelerate(maps)(params, images).items()}


def proportions_of(what: str, names: Layers) -> dict[str, float]:
    """Return the share of each layer: all the same, or in the proportions that are given."""
    if isinstance(names, str):
        names = [names]
    if not len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what}: expected names of layers, or a weight for each, got {names!r}")
    proportions = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, 1.0)
    total = sum(proportions.values())
    if not total > 0 or min(proportions.values()) < 0:
        raise ValueError(f"{what}: expected weights of at least 0, not all of them 0, got {proportions}")
    return {name: share / total for name, share in proportions.items()}
