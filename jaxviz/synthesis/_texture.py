"""Texture synthesis (Gatys, Ecker & Bethge 2015): an image with the Gram matrices of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxviz._options import check_least_zero, check_run
from jaxviz._types import Images, Key, Net
from jaxviz.image._checks import sides_of
from jaxviz.program._once import once
from jaxviz.scores._algebra import Summable
from jaxviz.scores._likeness import Layers, proportions_of
from jaxviz.show._bar import Watcher, followed
from jaxviz.synthesis._colors import Pictures
from jaxviz.synthesis._match_in_tiles import InTiles, gram_match, tiles_of
from jaxviz.synthesis._octaves import octave_sizes, resized
from jaxviz.synthesis._painting import TEXTURE_LAYERS, Optimizer, as_batch, noise_like, paint
from jaxviz.synthesis._stages import Synthesis, Watch


@followed
def texture(
    net: Net,
    params: Any,
    key: Key,
    image: Pictures,
    *,
    layers: Layers = TEXTURE_LAYERS,
    size: int | tuple[int, int] | None = None,
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
    """Make an image with the same texture as a sample, of any size, from noise.

    Its features have the same Gram matrices as the sample's, which say how strongly each two channels respond at the
    same position, averaged over positions.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        key: the random key, for the noise that it starts from, which has the sample's colors and spectrum (Galerne et
            al. 2011). The same key gives the same bits.
        image: the sample, `(h, w, c)` in [0, 1]; or several of one size, `(n, h, w, c)`, each synthesized separately.
        layers: the layers whose Gram matrices are matched: names, or a weight for each name. The default, for VGG, is
            the first layer of each block, with weights that were found on gravel and brick; the same as a list of names
            weighs them equally. Fewer layers, from the lowest, keep only finer structure.
        size: the size of the result in pixels, one side or (h, w); None: the sample's.
        octaves: the number of sizes to work at, each twice the one before; more than one for structure larger than the
            network's receptive field.
        steps: the maximum number of steps at each size.
        smoothness: the weight of the total variation, which suppresses noise in the finest detail.
        tile: the largest side, in pixels, of the tiles in which losses and gradients of larger images are computed,
            with the memory of one tile (see `stylize`). None: the whole image at once.
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

    Raises:
        ValueError: if there are no layers, or unknown ones, or ones without maps; for an image of another shape,
            options that are out of range, and a learning rate with any optimizer but "adam".
        DivergedError: if the loss stops being finite; its `found` has the last good image.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> params, red = jnp.eye(3), jnp.full((8, 8, 3), jnp.array([1.0, 0.0, 0.0]))
        >>> found = jaxviz.texture(net, params, jax.random.key(0), red, layers=["relu_0"], size=(4, 12), steps=30)
        >>> print(found.images.shape, jnp.abs(found.images - red[None, :4, :1]).max() < 0.01)
        (1, 4, 12, 3) True

    Gatys, Ecker & Bethge 2015, Texture Synthesis Using Convolutional Neural Networks; Galerne, Gousseau & Morel 2011,
    Random Phase Textures: Theory and Synthesis (the noise).
    """
    check_run(steps=steps, every=every, tolerance=tolerance, callback=callback)
    check_least_zero("smoothness", smoothness)
    sample = as_batch("image", image)
    whole = sample.shape[1:3] if size is None else sides_of(size)
    weights = proportions_of("layers", layers)
    net = once(net)
    sizes = octave_sizes(whole, octaves, 2.0)
    shrunk = octave_sizes(sample.shape[1:3], octaves, 2.0)

    def goal(i: int) -> Summable:
        wanted = gram_match(net, params, resized(sample, shrunk[i]), weights, tile, mask=None, where=None)
        canvas = jax.ShapeDtypeStruct((len(sample), *sizes[i], sample.shape[-1]), sample.dtype)
        tiles = tiles_of(net, params, tuple(weights), canvas, tile)
        return wanted if tiles is None else InTiles(wanted, tiles)

    def start(i: int) -> Images:
        return jnp.clip(noise_like(sample, key, sizes[i]), 0, 1)

    return paint(
        "texture", params, key, sizes, goal, start, smoothness=smoothness, optimizer=optimizer,
        learning_rate=learning_rate, steps=steps, tolerance=tolerance, every=every, resume=resume, callback=callback,
    )  # fmt: skip
