"""Texture synthesis and style transfer: images whose features have given Gram matrices, and given features.

Each term of the loss is a relative error (see `relative_error`), so that it is about 1 where nothing agrees, whatever
the network, the layer and the size; a layer's weight of 1 means the same everywhere.
"""

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

from jaxviz._accelerate import accelerate
from jaxviz._image import LUMINANCE, check_not_negative, sides_of
from jaxviz._interpret import layers, read_layers
from jaxviz._programs import HoldsFunctions, compiled
from jaxviz._types import Images, Key, Net, at_least_float32
from jaxviz.synthesis._dream import octave_sizes, resized
from jaxviz.synthesis._losses import gram, relative_error, total_variation
from jaxviz.synthesis._minimize import DivergedError, Synthesis, Watch, in_stages, lbfgs, synthesize, within_bounds
from jaxviz.synthesis._options import (
    check_function,
    check_image,
    check_least_zero,
    check_optimizer,
    check_positive,
    check_run,
)

Image = Float[Array, "_ _ 3"]
Mask = Float[Array, "_ _"]
Batch = Float[Array, "1 _ _ 3"]
Layers = Sequence[str] | Mapping[str, float]
"""Names, of equal weight, or a weight for each name."""
Optimizer = Literal["lbfgs", "adam"] | optax.GradientTransformation

CONTENT_LAYERS = ("relu4_2",)
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
class _Loss(HoldsFunctions):
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
def _values(net: Net, names: tuple[str, ...], params: Any, images: Images) -> dict[str, Array]:
    return accelerate(read_layers(net, names))(params, images)


@compiled(static_argnums=(0, 1))
def grams_of(net: Net, names: tuple[str, ...], params: Any, images: Images, mask: Mask | None) -> dict[str, Array]:
    values = accelerate(read_layers(net, names))(params, images)
    return {name: gram(value, None if mask is None else _fit(mask, value.shape)) for name, value in values.items()}


def _fit(mask: Mask, shape: tuple[int, ...]) -> Float[Array, "1 h w"]:
    return jnp.clip(jax.image.resize(mask, shape[1:3], "linear", antialias=True), 0, 1)[None]


def _optimizer(optimizer: Optimizer, learning_rate: float | None) -> optax.GradientTransformation:
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


def texture(
    net: Net,
    params: Any,
    key: Key,
    image: Image,
    *,
    layers: Layers = STYLE_LAYERS,
    size: int | tuple[int, int] | None = None,
    octaves: int = 1,
    steps: int = 300,
    smoothness: ArrayLike = 0.1,
    optimizer: Optimizer = "lbfgs",
    learning_rate: float | None = None,
    tolerance: float | None = None,
    every: int = 8,
    resume: Sequence[Any] | None = None,
    callback: Watch | None = None,
) -> Synthesis:
    """Make an image of the same texture as a sample, of any size, from noise.

    It has the same Gram matrices of features as the sample: how strongly each two channels respond at the same place,
    on average over places.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        key: of the noise. The same key gives the same bits.
        image: the sample, `(h, w, 3)` in [0, 1].
        layers: whose Gram matrices; with weights, if it is a mapping. The default is VGG's: each pool's first layer
            behind it; fewer of them, from the lowest, keep only finer structure.
        size: of the result in pixels, one side or (h, w); None: the sample's.
        octaves: sizes to work at, each twice the one before; more than one for structure larger than the network sees.
        steps: at each of them, at most.
        smoothness: weight of the total variation, against noise that stays in the finest detail; 0 is the paper's.
        optimizer: "lbfgs", "adam", or any optax transformation; the image stays in [0, 1] at each step.
        learning_rate: of "adam"; None: 0.02.
        tolerance: stop when the loss has not fallen by more than this fraction of itself over 32 steps; None: never.
        every: steps from one callback to the next.
        resume: `state` of a run with the same arguments that was stopped: it goes on from there.
        callback: called as `callback(synthesis)` with the image so far; if it returns true, the run ends. The
            memory of its `state` is used again after it returns: copy what you keep.

    Raises:
        ValueError: for layers that are empty, unknown or no image maps, an image of another shape, options that are
            out of range, and a learning rate beside another optimizer than "adam".
        DivergedError: if the loss stops being finite; its `found` has the last good image.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> params, red = jnp.eye(3), jnp.ones((8, 8, 3)) * jnp.array([1.0, 0.0, 0.0])
        >>> found = jaxviz.texture(net, params, jax.random.key(0), red, layers=["relu_0"], size=(4, 12), steps=30)
        >>> print(found.images.shape, jnp.abs(found.images - red[:4, :1]).max() < 0.01)
        (1, 4, 12, 3) True

    Gatys, Ecker & Bethge 2015, Texture Synthesis Using Convolutional Neural Networks.
    """
    check_run(steps=steps, every=every, tolerance=tolerance, callback=callback)
    check_least_zero("smoothness", smoothness)
    sample = _as_batch("image", image)
    whole = sample.shape[1:3] if size is None else sides_of(size)
    weights = weights_of(net, params, sample, "layers", layers)
    sizes = octave_sizes(whole, octaves, 2.0)
    shrunk = octave_sizes(sample.shape[1:3], octaves, 2.0)

    def terms(i: int) -> Terms:
        grams = grams_of(net, tuple(weights), params, resized(sample, shrunk[i]), None)
        return Terms({}, [grams], None, {}, [weights], smoothness)

    def start(i: int) -> Images:
        return jnp.clip(_noise_like(sample, key, sizes[i]), 0, 1)

    return _in_octaves(
        net, params, key, sizes, terms, start, tuple(weights), optimizer=optimizer, learning_rate=learning_rate,
        steps=steps, tolerance=tolerance, every=every, resume=resume, callback=callback,
    )  # fmt: skip


def stylize(
    net: Net,
    params: Any,
    key: Key,
    content: Image,
    styles: Image | Sequence[Image],
    *,
    content_weight: ArrayLike = 1.0,
    style_weights: ArrayLike | Sequence[ArrayLike] = 20.0,
    content_layers: Layers = CONTENT_LAYERS,
    style_layers: Layers = STYLE_LAYERS,
    style_size: float = 1.0,
    colors: Literal["style", "luminance", "match"] = "style",
    masks: Sequence[Mask] | None = None,
    style_masks: Sequence[Mask] | None = None,
    start: Literal["content", "noise", "style"] | Image = "content",
    octaves: int = 1,
    steps: int = 300,
    smoothness: ArrayLike = 0.0,
    optimizer: Optimizer = "lbfgs",
    learning_rate: float | None = None,
    tolerance: float | None = None,
    every: int = 8,
    resume: Sequence[Any] | None = None,
    callback: Watch | None = None,
) -> Synthesis:
    """Show what one image shows in the manner of another: its features, with the other's Gram matrices.

    Args:
        net: any JAX function `net(params, images)`; the default layers are VGG's.
        params: its parameters.
        key: of the noise, if it starts there.
        content: what to show, `(h, w, 3)` in [0, 1]; the result has its size.
        styles: the manner: an image of any size, or several.
        content_weight: of the relative error of features.
        style_weights: of the relative error of Gram matrices; one for each of several styles, or one that they share.
        content_layers: whose features; with weights, if it is a mapping.
        style_layers: whose Gram matrices; likewise.
        style_size: longer side of the styles, as a multiple of the content's: strokes grow with it.
        colors: "style": taken from the style; "luminance": the content's, only its brightness is painted; "match": the
            style is first given the content's mean colour and covariance.
        masks: for each style a mask of the content's size, in [0, 1]: where in the result it belongs.
        style_masks: for each style a mask of its own size: which part of it counts.
        start: "content", "noise", "style" or an image of the content's size.
        octaves: sizes to work at, each twice the one before. Above 512 px take 2 or 3: strokes of the full width need
            what the network sees at a smaller size.
        steps: at each of them, at most.
        smoothness: weight of the total variation.
        optimizer: "lbfgs", "adam", or any optax transformation; the image stays in [0, 1] at each step.
        learning_rate: of "adam"; None: 0.02.
        tolerance: stop when the loss has not fallen by more than this fraction of itself over 32 steps; None: never.
        every: steps from one callback to the next.
        resume: `state` of a run with the same arguments that was stopped: it goes on from there.
        callback: called as `callback(synthesis)` with the image so far; if it returns true, the run ends. The
            memory of its `state` is used again after it returns: copy what you keep.

    Raises:
        ValueError: for layers that are empty, unknown or no image maps, images or masks of another shape, weights that
            are negative or not one for each style, masks that match nothing, options that are out of range, and a
            learning rate beside another optimizer than "adam".
        DivergedError: if the loss stops being finite; its `found` has the last good image.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> photo, blue = jnp.full((8, 8, 3), 0.5), jnp.ones((6, 6, 3)) * jnp.array([0.0, 0.0, 1.0])
        >>> layers = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], "steps": 30}
        >>> found = jaxviz.stylize(net, jnp.eye(3), jax.random.key(0), photo, blue, **layers)
        >>> print(found.images[0, 0, 0].round(1))
        [0. 0. 1.]

    Gatys, Ecker & Bethge 2016, Image Style Transfer Using Convolutional Neural Networks; Gatys et al. 2017, Controlling
    Perceptual Factors in Neural Style Transfer (colours, masks, coarse to fine).
    """
    check_run(steps=steps, every=every, tolerance=tolerance, callback=callback)
    check_least_zero("smoothness", smoothness)
    check_positive("style_size", style_size)
    shown = _as_batch("content", content)
    manners = [_as_batch("styles", style) for style in (styles if isinstance(styles, Sequence) else [styles])]
    if not manners:
        raise ValueError("styles: expected an image or several, got none")
    content_of = weights_of(net, params, shown, "content_layers", content_layers, content_weight)
    shares = _shares(style_weights, len(manners))
    style_of = [weights_of(net, params, shown, "style_layers", style_layers, share) for share in shares]
    regions = _masks("masks", masks, [shown] * len(manners))
    parts = _masks("style_masks", style_masks, manners)
    painted, manners = _colored(colors, shown, manners)
    sizes = octave_sizes(shown.shape[1:3], octaves, 2.0)
    longest = [style_size * max(size) for size in sizes]
    names = tuple(dict.fromkeys([*content_of, *style_of[0]]))
    first = _start(start, key, painted, manners)

    def terms(i: int) -> Terms:
        targets = _values(net, tuple(content_of), params, resized(painted, sizes[i])) if content_of else {}
        shrunk = [resized(manner, scaled(manner, longest[i])) for manner in manners]
        pairs = zip(shrunk, parts or [None] * len(shrunk), strict=True)
        grams = [grams_of(net, tuple(style_of[0]), params, x, part) for x, part in pairs]
        shapes = jax.eval_shape(functools.partial(_values, net, tuple(style_of[0])), params, resized(painted, sizes[i]))
        where = None
        if regions is not None:
            where = [{name: _fit(mask, shapes[name].shape) for name in style_of[0]} for mask in regions]
        return Terms(targets, grams, where, content_of, style_of, smoothness)

    return _in_octaves(
        net, params, key, sizes, terms, lambda i: resized(first, sizes[i]), names, optimizer=optimizer,
        learning_rate=learning_rate, steps=steps, tolerance=tolerance, every=every, resume=resume, callback=callback,
        finish=functools.partial(_with_chroma, shown) if colors == "luminance" else None,
    )  # fmt: skip


def sweep(method: Callable[..., Synthesis], option: str, values: Sequence[Any], *args: Any, **options: Any) -> Images:
    """Run a synthesis for each of several values of one option, and return the images, a row of a figure.

    Weights are data: all runs share one compiled program.

    Args:
        method: `stylize`, `texture`, `invert`, ...
        option: the name of one of its options, such as "style_weights" or "style_size".
        values: what it is to be, in turn.
        args: what the method takes by position.
        options: its other options.

    Returns:
        `(k, h, w, 3)`, an image for each value.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> grey, blue = jnp.full((8, 8, 3), 0.5), jnp.ones((6, 6, 3)) * jnp.array([0.0, 0.0, 1.0])
        >>> layers = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], "steps": 30}
        >>> args = (net, jnp.eye(3), jax.random.key(0), grey, blue)
        >>> row = jaxviz.sweep(jaxviz.stylize, "style_weights", [0.0, 100.0], *args, **layers)
        >>> print(row[:, 0, 0].round(1))
        [[0.5 0.5 0.5]
         [0.  0.  1. ]]
    """
    check_function("method", method, "a synthesis, such as stylize")
    if not len(values):
        raise ValueError(f"values: expected one or more for {option}, got none")
    return jnp.concatenate([method(*args, **{option: value}, **options).images for value in values])


def _in_octaves(
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
    chosen = _optimizer(optimizer, learning_rate)

    def stage(i: int, before: Images | None, resume: Sequence[Any] | None, watch: Watch | None) -> Synthesis:
        begin = start(i) if before is None else resized(before, sizes[i])
        return synthesize(
            lambda images: jnp.clip(images, 0, 1),
            _Loss(net, names),
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
    shown = lambda found: found._replace(images=finish(found.images))  # noqa: E731
    try:
        return shown(in_stages(stage, len(sizes), resume=resume, callback=callback and (lambda x: callback(shown(x)))))
    except DivergedError as error:
        error.found = shown(error.found)
        raise


def _as_batch(name: str, image: Any) -> Batch:
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


def _masks(name: str, masks: Sequence[Mask] | None, images: Sequence[Batch]) -> list[Array] | None:
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


def _start(start: Any, key: Key, content: Batch, styles: Sequence[Batch]) -> Batch:
    if isinstance(start, str):
        if start not in ("content", "noise", "style"):
            raise ValueError(f"start: expected 'content', 'noise', 'style' or an image, got {start!r}")
        if start == "content":
            return content
        if start == "style":
            return resized(styles[0], content.shape[1:3])
        noise = jax.random.normal(key, content.shape, content.dtype)
        return jnp.clip(content.mean((1, 2), keepdims=True) + 0.2 * noise, 0, 1)
    image = _as_batch("start", start)
    if image.shape != content.shape:
        raise ValueError(f"start: expected the content's size, {content.shape[1:]}, got {image.shape[1:]}")
    return image


def _noise_like(sample: Batch, key: Key, size: tuple[int, int]) -> Batch:
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


# Colours


def _colored(colors: str, content: Batch, styles: list[Batch]) -> tuple[Batch, list[Batch]]:
    """Return the content and the styles as they are to be compared, for the colours that are wanted."""
    if colors == "style":
        return content, styles
    if colors == "match":
        return content, [_color_matched(style, content) for style in styles]
    if colors == "luminance":
        grey = _luminance(content)
        return _grey(grey), [_grey(_same_moments(_luminance(style), grey)) for style in styles]
    raise ValueError(f"colors: expected 'style', 'luminance' or 'match', got {colors!r}")


def _luminance(images: Batch) -> Float[Array, "1 _ _"]:
    return jnp.matmul(images, jnp.asarray(LUMINANCE, images.dtype), precision="highest")


def _grey(luminance: Float[Array, "1 _ _"]) -> Batch:
    return jnp.clip(jnp.repeat(luminance[..., None], 3, axis=-1), 0, 1)


def _same_moments(values: Array, others: Array) -> Array:
    """Return values with the mean and standard deviation of others."""
    spread = values.std()
    return (values - values.mean()) * others.std() / jnp.where(spread > 0, spread, 1) + others.mean()


def _with_chroma(content: Batch, painted: Batch) -> Batch:
    """Return the brightness of one image in the colours of another."""
    original = resized(content, painted.shape[1:3])
    return jnp.clip(original + (_luminance(painted) - _luminance(original))[..., None], 0, 1)


def _color_matched(style: Batch, content: Batch) -> Batch:
    """Return a style whose colours have the content's mean and covariance: a linear map of colours."""
    wide = style.astype(at_least_float32(style.dtype))
    (mean, root), (wanted_mean, wanted_root) = (_color_moments(x.astype(wide.dtype)) for x in (style, content))
    change = jnp.matmul(wanted_root, jnp.linalg.inv(root), precision="highest")
    row = lambda color: color.reshape(1, 1, 1, 3)  # noqa: E731
    matched = jnp.matmul(wide - row(mean), change.T, precision="highest") + row(wanted_mean)
    return jnp.clip(matched, 0, 1).astype(style.dtype)


def _color_moments(images: Batch) -> tuple[Array, Array]:
    """Return the mean colour and the square root of the covariance, a little larger so that it can be inverted."""
    pixels = images.reshape(-1, 3)
    covariance = jnp.cov(pixels, rowvar=False) + 1e-5 * jnp.eye(3, dtype=images.dtype)
    values, vectors = jnp.linalg.eigh(covariance)
    return pixels.mean(0), (vectors * jnp.sqrt(values)[None]) @ vectors.T
