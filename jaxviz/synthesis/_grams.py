"""What texture and style share: the loss of features and Gram matrices, its weights and masks, octaves."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxviz._options import check_image, check_least_zero, check_optimizer
from jaxviz._types import Images, Key, Net, at_least_float32
from jaxviz.fast._swap import accelerate
from jaxviz.image._checks import check_not_negative
from jaxviz.program._compiled import HoldsFunctions, compiled
from jaxviz.program._edit import layers, read_layers
from jaxviz.scores._likeness import gram, relative_error
from jaxviz.synthesis._colors import Batch
from jaxviz.synthesis._minimize import DivergedError, Synthesis, Watch, in_stages, lbfgs, synthesize, within_bounds
from jaxviz.synthesis._octaves import resized
from jaxviz.synthesis._penalties import total_variation

Mask = Float[Array, "_ _"]
Layers = Sequence[str] | Mapping[str, float]
"""Names, of equal weight, or a weight for each name."""
Optimizer = Literal["lbfgs", "adam"] | optax.GradientTransformation
LONGEST = 0.25  # of a step of L-BFGS: on small networks, longer ones that the bounds cut off led nowhere
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


class Terms(NamedTuple):
    """What images are compared with: data of one compiled loss."""

    content: dict[str, Array]
    grams: list[dict[str, Array]]  # of each style
    masks: list[dict[str, Array]] | None  # of each style, where it belongs, at the size of each layer
    content_weights: dict[str, ArrayLike]
    style_weights: list[dict[str, ArrayLike]]
    smoothness: ArrayLike


@dataclasses.dataclass(frozen=True)
class Loss(HoldsFunctions):
    net: Net
    names: tuple[str, ...]

    def __call__(self, images: Images, key: Key, params: Any, terms: Terms) -> Array:
        values = accelerate(read_layers(self.net, self.names))(params, images)
        return jnp.sum(compare(images, values, terms))


def compare(images: Images, values: Mapping[str, Array], terms: Terms) -> Float[Array, "3 n"]:
    """Return what the loss of each image is the sum of: content, style and smoothness, with their weights."""
    content = style = jnp.zeros(len(images), images.dtype)
    for name, weight in terms.content_weights.items():
        content += weight * relative_error(values[name], terms.content[name])
    for i, (weights, grams) in enumerate(zip(terms.style_weights, terms.grams, strict=True)):
        for name, weight in weights.items():
            found = gram(values[name], None if terms.masks is None else terms.masks[i][name])
            style += weight * relative_error(found, grams[name])
    return jnp.stack([content, style, terms.smoothness * total_variation(images)])


@compiled(static_argnums=(0, 1))
def values_of_layers(net: Net, names: tuple[str, ...], params: Any, images: Images) -> dict[str, Array]:
    return accelerate(read_layers(net, names))(params, images)


@compiled(static_argnums=(0, 1))
def grams_of(net: Net, names: tuple[str, ...], params: Any, images: Images, mask: Mask | None) -> dict[str, Array]:
    values = accelerate(read_layers(net, names))(params, images)
    return {name: gram(value, None if mask is None else fit_mask(mask, value.shape)) for name, value in values.items()}


def fit_mask(mask: Mask, shape: tuple[int, ...]) -> Float[Array, "1 h w"]:
    return jnp.clip(jax.image.resize(mask, shape[1:3], "linear", antialias=True), 0, 1)[None]


def optimizer_of(optimizer: Optimizer, learning_rate: float | None) -> optax.GradientTransformation:
    """Return the optimizer of a name; a learning rate that would be ignored is refused."""
    if isinstance(optimizer, str) and optimizer not in ("lbfgs", "adam"):
        raise ValueError(f"optimizer: expected 'lbfgs', 'adam' or an optax transformation, got {optimizer!r}")
    check_optimizer(optimizer, "lbfgs", "adam")
    if learning_rate is not None:
        check_least_zero("learning_rate", learning_rate)
    if learning_rate is not None and optimizer != "adam":
        other = "L-BFGS, which has none" if optimizer == "lbfgs" else "an optimizer, which has its own"
        raise ValueError(f"learning_rate: expected none beside {other}: it would be ignored; it is of optimizer='adam'")
    if not isinstance(optimizer, str):
        return optimizer
    return lbfgs(LONGEST) if optimizer == "lbfgs" else _adam(0.02 if learning_rate is None else float(learning_rate))


_adam = functools.cache(optax.adam)  # the same object for the same rate: another would compile a new program


def in_octaves(
    net: Net,
    params: Any,
    key: Key,
    sizes: Sequence[tuple[int, int]],
    terms: Callable[[int], Terms],
    start: Callable[[int], Images],
    names: tuple[str, ...],
    *,
    optimizer: Optimizer,
    learning_rate: float | None,
    resume: Sequence[Any] | None,
    callback: Watch | None,
    finish: Callable[[Images], Images] | None = None,
    **run: Any,
) -> Synthesis:
    chosen = optimizer_of(optimizer, learning_rate)

    def stage(i: int, before: Images | None, resume: Sequence[Any] | None, watch: Watch | None) -> Synthesis:
        begin = start(i) if before is None else resized(before, sizes[i])
        return synthesize(
            lambda images: jnp.clip(images, 0, 1),
            Loss(net, names),
            begin,
            key,
            data=(params, terms(i)),
            # As in Johnson et al. 2016. Clipped at the end alone, images had 2% to 28% more loss with VGG-16.
            optimizer=within_bounds(chosen, (0.0, 1.0)),
            resume=resume,
            callback=watch,
            **run,
        )

    if finish is None:
        return in_stages(stage, len(sizes), resume=resume, callback=callback)
    shown = lambda found: found._replace(images=finish(found.images))
    try:
        return shown(in_stages(stage, len(sizes), resume=resume, callback=callback and (lambda x: callback(shown(x)))))
    except DivergedError as error:
        error.found = shown(error.found)
        raise


def as_batch(name: str, image: Any) -> Batch:
    check_image(name, image)
    return jnp.asarray(image)[None]


def weights_of(
    net: Net, params: Any, images: Batch, what: str, names: Layers, weight: ArrayLike = 1.0
) -> dict[str, ArrayLike]:
    """Return the weight of each layer: the given one shared out equally, or in the given proportions."""
    if isinstance(names, str) or not len(names):
        raise ValueError(f"{what}: expected names of layers, or a weight for each, got {names!r}")
    proportions = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, 1.0)
    shapes = jax.eval_shape(read_layers(net, tuple(proportions)), params, images)
    for name, value in shapes.items():
        if len(value.shape) != 4:
            maps = [n for n, v in layers(net, params, images).items() if len(v.shape) == 4]
            raise ValueError(
                f"{what}: {name!r} has shape {value.shape}, no image map (n, h, w, channels); these have: {maps}"
            )
    total = sum(proportions.values())
    if not total > 0 or min(proportions.values()) < 0:
        raise ValueError(f"{what}: expected weights of at least 0, not all of them 0, got {proportions}")
    check_not_negative(f"the weight of {what}", weight)
    return {name: weight * share / total for name, share in proportions.items()}


def _shares(weights: Any, count: int) -> list[ArrayLike]:
    """Return the weight of each style."""
    if np.ndim(weights) == 0:
        return [weights / count] * count
    if len(weights) != count:
        raise ValueError(f"style_weights: expected one, or one for each of {count} styles, got {len(weights)}")
    return list(weights)


def masks_of(name: str, masks: Sequence[Mask] | None, images: Sequence[Batch]) -> list[Array] | None:
    if masks is None:
        return None
    if len(masks) != len(images):
        raise ValueError(f"{name}: expected one for each of {len(images)} styles, got {len(masks)}")
    for mask, image in zip(masks, images, strict=True):
        if jnp.shape(mask) != image.shape[1:3]:
            raise ValueError(f"{name}: expected the size of its image, {image.shape[1:3]}, got shape {jnp.shape(mask)}")
        _check_mask(name, mask)
    arrays = [jnp.asarray(mask) for mask in masks]
    return [mask if jnp.issubdtype(mask.dtype, jnp.floating) else mask.astype(jnp.float32) for mask in arrays]


def _check_mask(name: str, mask: Any) -> None:
    if isinstance(mask, Tracer):
        return
    values = np.asarray(mask, np.float32)  # not a jax.Array: under an outer jit, what one computes of it is traced
    low, high = float(values.min()), float(values.max())  # NaN if there is one
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"{name}: expected finite numbers in [0, 1], got {low:g} to {high:g}; divide 0 to 255 by 255")
    if not high > 0:
        raise ValueError(f"{name}: expected finite numbers in [0, 1], some above 0, got a mask that matches nothing")


def noise_like(sample: Batch, key: Key, size: tuple[int, int]) -> Batch:
    """Return noise with the mean and the covariance of the sample's colours: that of a grey sample is grey.

    What noise there is in the finest detail stays, since no layer has much to say against it; colours that the sample
    does not have would stand out.
    """
    wide = at_least_float32(sample.dtype)
    values, vectors = jnp.linalg.eigh(jnp.cov(sample.reshape(-1, 3).T.astype(wide), bias=True))
    root = ((vectors * jnp.sqrt(jnp.maximum(values, 0))[None]) @ vectors.T).astype(sample.dtype)
    return sample.mean((1, 2), keepdims=True) + jax.random.normal(key, (1, *size, 3), sample.dtype) @ root


def scaled(images: Batch, longest: float) -> tuple[int, int]:
    height, width = images.shape[1:3]
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
