"""Style transfer (Gatys, Ecker & Bethge 2016): an image with the features of one and the Gram matrices of others.

Each term of the goal is a relative error (see `match_features`), about 1 if nothing agrees, regardless of network,
layer and size; so a layer's weight of 1 means the same everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxviz._options import check_least_zero, check_positive, check_run
from jaxviz._types import Key, Net
from jaxviz.image._checks import check_not_negative
from jaxviz.program._once import once
from jaxviz.scores._algebra import Summable
from jaxviz.scores._likeness import Layers, proportions_of
from jaxviz.scores._masks import mask_of
from jaxviz.show._bar import Watcher, followed
from jaxviz.synthesis._colors import Batch, Pictures, colored, with_chroma
from jaxviz.synthesis._match_in_tiles import InTiles, feature_match, gram_match, tiles_of
from jaxviz.synthesis._octaves import octave_sizes, resized
from jaxviz.synthesis._painting import STYLE_LAYERS, STYLE_WEIGHT, Optimizer, as_batch, paint, scaled, shares_of
from jaxviz.synthesis._stages import Synthesis, Watch

Mask = Float[Array, "*_ _ _"]
CONTENT_LAYERS = ("relu4_2",)


@followed
def stylize(
    net: Net,
    params: Any,
    key: Key,
    content: Pictures,
    styles: Pictures | Sequence[Pictures],
    *,
    content_weight: ArrayLike = 1.0,
    style_weights: ArrayLike | Sequence[ArrayLike] | None = None,
    content_layers: Layers = CONTENT_LAYERS,
    style_layers: Layers = STYLE_LAYERS,
    style_size: float = 1.0,
    colors: Literal["style", "luminance", "match"] = "style",
    masks: Sequence[Mask] | None = None,
    style_masks: Sequence[Mask] | None = None,
    start: Literal["content", "noise", "style"] | Pictures = "content",
    octaves: int = 1,
    steps: int = 300,
    smoothness: ArrayLike = 0.0,
    tile: int | None = None,
    optimizer: Optimizer | None = None,
    learning_rate: float | None = None,
    tolerance: float | None = None,
    every: int = 8,
    resume: Sequence[Any] | None = None,
    callback: Watch | None = None,
    progress: Watcher = False,
) -> Synthesis:
    """Render the content of one image in the style of others: its features, with their Gram matrices.

    Args:
        net: any JAX function `net(params, images)`; the default layers are VGG's.
        params: its parameters.
        key: the random key, used if it starts from noise.
        content: the content image, `(h, w, c)` in [0, 1]; the result has its size. Or several, `(n, h, w, c)`, each
            rendered separately.
        styles: the style image, of any size `(h, w, c)`, or a list of several; each may also be `(n, h, w, c)`, one for
            each content.
        content_weight: the weight of the relative error of features.
        style_weights: the weight of the relative error of Gram matrices; one for each style, or one divided among them.
            None: 150 with the default layers, most of whose weight is of fine structure, and 20 with others.
        content_layers: the layers whose features are matched; with weights, if it is a mapping.
        style_layers: the layers whose Gram matrices are matched; likewise. The default, for VGG, has weights that were
            found on Starry Night; the same as a list of names weighs them equally.
        style_size: the longer side of the styles, as a multiple of the content's: strokes grow with it.
        colors: "style": those of the style; "luminance": those of the content, only brightness is changed; "match": the
            style is first given the content's mean color and covariance.
        masks: for each style a mask of the content's size, in [0, 1]: where in the result to apply it; like the styles,
            `(h, w)` or one for each content.
        style_masks: for each style a mask of its own size: which part of it counts.
        start: "content", "noise", "style" or an image of the content's size.
        octaves: the number of sizes to work at, each twice the one before. Use 2 or 3 above 512 px, where full-width
            strokes are larger than the network's receptive field.
        steps: the maximum number of steps at each size.
        smoothness: the weight of the total variation.
        tile: the largest side, in pixels, of the tiles in which losses and gradients of larger images are computed:
            see below. None: the whole image at once.
        optimizer: any optax transformation; None: `lbfgs(longest=0.25)`. "lbfgs" and "adam" are short for that and for
            Adam. The image stays in [0, 1] at each step.
        learning_rate: the learning rate of "adam"; None: 0.02.
        tolerance: stop when the loss has not fallen by more than this fraction of itself in 32 steps; None: never.
        every: the number of steps between callbacks.
        resume: the `state` of a stopped run with the same arguments, to resume it.
        callback: called as `callback(synthesis)` with the image so far; if it returns true, the run ends. The
            memory of its `state` is reused when it returns: copy what you want to keep.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        The images after the last step, `(n, h, w, c)` in [0, 1], and the losses before each step, of all sizes in
        order. With L-BFGS, the last step may have raised the loss: see `lbfgs`.

    In tiles, which overlap by what a position sees, losses and gradients are those of the whole image up to rounding.
    At 3000 x 2000 pixels with the default layers, a gradient takes 0.5 GB in tiles of 512 and 2.1 GB in tiles of 1024,
    instead of 12.5 GB. `optimizer="adam"` keeps two copies of the image besides; L-BFGS keeps 40, here 2.9 GB.

    Raises:
        ValueError: if there are no layers, or unknown ones, or ones without maps; for images or masks of another shape,
            weights that are negative or not one for each style, masks of zeros only, options that are out of range, and
            a learning rate with any optimizer but "adam".
        DivergedError: if the loss stops being finite; its `found` has the last good image.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> photo, blue = jnp.full((8, 8, 3), 0.5), jnp.full((6, 6, 3), jnp.array([0.0, 0.0, 1.0]))
        >>> layers = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], "steps": 30}
        >>> found = jaxviz.stylize(net, jnp.eye(3), jax.random.key(0), photo, blue, **layers)
        >>> print(found.images[0, 0, 0].round(1))
        [0. 0. 1.]

    Gatys, Ecker & Bethge 2016, Image Style Transfer Using Convolutional Neural Networks; Gatys et al. 2017, Controlling
    Perceptual Factors in Neural Style Transfer (colors, masks, coarse to fine).
    """
    check_run(steps=steps, every=every, tolerance=tolerance, callback=callback)
    check_least_zero("smoothness", smoothness)
    check_positive("style_size", style_size)
    shown = as_batch("content", content)
    manners = [as_batch("styles", style) for style in (styles if isinstance(styles, Sequence) else [styles])]
    if not manners:
        raise ValueError("styles: expected an image or several, got none")
    check_not_negative("the weight of content_layers", content_weight)
    content_of = proportions_of("content_layers", content_layers)
    if style_weights is None:
        style_weights = STYLE_WEIGHT if style_layers is STYLE_LAYERS else 20.0
    style_of, shares = proportions_of("style_layers", style_layers), shares_of(style_weights, len(manners))
    regions = _masks("masks", masks, [shown] * len(manners))
    parts = _masks("style_masks", style_masks, manners)
    for what, several in (("styles", manners), ("masks", regions)):
        _check_counts(what, several, len(shown))
    for manner in manners:
        if manner.shape[-1] != shown.shape[-1]:
            raise ValueError(f"styles: expected {shown.shape[-1]} channels, as the content has, got {manner.shape[-1]}")
    painted, manners = colored(colors, shown, manners)
    sizes = octave_sizes(shown.shape[1:3], octaves, 2.0)
    first = _start(start, key, painted, manners)
    net = once(net)

    def goal(i: int) -> Summable:
        longest, photo = style_size * max(sizes[i]), resized(painted, sizes[i])
        tiles = tiles_of(net, params, tuple(dict.fromkeys([*style_of, *content_of])), photo, tile)
        wanted = content_weight * feature_match(net, params, photo, content_of, tiles)
        for share, style, part, region in zip(shares, manners, parts, regions, strict=True):
            manner = resized(style, scaled(style, longest))
            wanted += share * gram_match(net, params, manner, style_of, tile, mask=part, where=region)
        return wanted if tiles is None else InTiles(wanted, tiles)

    return paint(
        "stylize", params, key, sizes, goal, lambda i: resized(first, sizes[i]), smoothness=smoothness,
        optimizer=optimizer, learning_rate=learning_rate, steps=steps, tolerance=tolerance, every=every, resume=resume,
        callback=callback,
        **({"finish": functools.partial(with_chroma, shown)} if colors == "luminance" else {}),
    )  # fmt: skip


def _masks(name: str, masks: Sequence[Mask] | None, images: Sequence[Batch]) -> list[Any]:
    """Return a mask or None for each style."""
    if masks is None:
        return [None] * len(images)
    if len(masks) != len(images):
        raise ValueError(f"{name}: expected one for each of {len(images)} styles, got {len(masks)}")
    return [mask_of(name, mask, image.shape[1:3]) for mask, image in zip(masks, images, strict=True)]


def _check_counts(name: str, several: Sequence[Any], count: int) -> None:
    for one in several:
        if one is not None and len(one) not in (1, count):
            raise ValueError(f"{name}: expected one, or one for each of {count} contents, got {len(one)}")


def _start(start: Any, key: Key, content: Batch, styles: Sequence[Batch]) -> Batch:
    if isinstance(start, str):
        if start not in ("content", "noise", "style"):
            raise ValueError(f"start: expected 'content', 'noise', 'style' or an image, got {start!r}")
        if start == "content":
            return content
        if start == "style":
            return jnp.broadcast_to(resized(styles[0], content.shape[1:3]), content.shape)
        noise = jax.random.normal(key, content.shape, content.dtype)
        return jnp.clip(content.mean((1, 2), keepdims=True) + 0.2 * noise, 0, 1)
    image = as_batch("start", start)
    if image.shape[1:] != content.shape[1:] or len(image) not in (1, len(content)):
        raise ValueError(f"start: expected the content's size, {content.shape[1:]}, got {image.shape[1:]}")
    return jnp.broadcast_to(image, content.shape)
