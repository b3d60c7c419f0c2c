"""Texture synthesis (Gatys, Ecker & Bethge 2015): an image with the Gram matrices of another."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxviz._options import check_least_zero, check_run
from jaxviz._types import Images, Key, Net
from jaxviz.image._checks import sides_of
from jaxviz.program._once import once
from jaxviz.scores._likeness import GramMatch, Layers, match_grams, proportions_of
from jaxviz.synthesis._colors import Pictures
from jaxviz.synthesis._minimize import Synthesis, Watch
from jaxviz.synthesis._octaves import octave_sizes, resized
from jaxviz.synthesis._painting import STYLE_LAYERS, Optimizer, as_batch, noise_like, paint


def texture(
    net: Net,
    params: Any,
    key: Key,
    image: Pictures,
    *,
    layers: Layers = STYLE_LAYERS,
    size: int | tuple[int, int] | None = None,
    octaves: int = 1,
    steps: int = 300,
    smoothness: ArrayLike = 0.1,
    optimizer: Optimizer | None = None,
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
        image: the sample, `(h, w, c)` in [0, 1]; or several of one size, `(n, h, w, c)`, each made an image by itself.
        layers: whose Gram matrices; with weights, if it is a mapping. The default is VGG's: each pool's first layer
            behind it; fewer of them, from the lowest, keep only finer structure.
        size: of the result in pixels, one side or (h, w); None: the sample's.
        octaves: sizes to work at, each twice the one before; more than one for structure larger than the network sees.
        steps: at each of them, at most.
        smoothness: weight of the total variation, against noise that stays in the finest detail; 0 is the paper's.
        optimizer: any optax transformation; None: `lbfgs(longest=0.25)`. "lbfgs" and "adam" are short for that and for
            Adam. The image stays in [0, 1] at each step.
        learning_rate: of "adam"; None: 0.02.
        tolerance: stop when the loss has not fallen by more than this fraction of itself over 32 steps; None: never.
        every: steps from one callback to the next.
        resume: `state` of a run with the same arguments that was stopped: it resumes from there.
        callback: called as `callback(synthesis)` with the image so far; if it returns true, the run ends. The
            memory of its `state` is used again after it returns: copy what you keep.

    Raises:
        ValueError: for layers that are empty, unknown or no image maps, an image of another shape, options that are
            out of range, and a learning rate beside another optimizer than "adam".
        DivergedError: if the loss stops being finite; its `found` has the last good image.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> params, red = jnp.eye(3), jnp.full((8, 8, 3), jnp.array([1.0, 0.0, 0.0]))
        >>> found = jaxviz.texture(net, params, jax.random.key(0), red, layers=["relu_0"], size=(4, 12), steps=30)
        >>> print(found.images.shape, jnp.abs(found.images - red[None, :4, :1]).max() < 0.01)
        (1, 4, 12, 3) True

    Gatys, Ecker & Bethge 2015, Texture Synthesis Using Convolutional Neural Networks.
    """
    check_run(steps=steps, every=every, tolerance=tolerance, callback=callback)
    check_least_zero("smoothness", smoothness)
    sample = as_batch("image", image)
    whole = sample.shape[1:3] if size is None else sides_of(size)
    weights = proportions_of("layers", layers)
    net = once(net)
    sizes = octave_sizes(whole, octaves, 2.0)
    shrunk = octave_sizes(sample.shape[1:3], octaves, 2.0)

    def goal(i: int) -> GramMatch:
        return match_grams(net, params, resized(sample, shrunk[i]), weights)

    def start(i: int) -> Images:
        return jnp.clip(noise_like(sample, key, sizes[i]), 0, 1)

    return paint(
        "texture", params, key, sizes, goal, start, smoothness=smoothness, optimizer=optimizer,
        learning_rate=learning_rate, steps=steps, tolerance=tolerance, every=every, resume=resume, callback=callback,
    )  # fmt: skip
