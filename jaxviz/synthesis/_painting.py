"""Shared by texture and style: defaults, the run through octaves, weights and starts."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxviz._options import check_batch, check_image, check_least_zero, check_optimizer
from jaxviz._types import Images, Key, Score, at_least_float32
from jaxviz.image._checks import check_not_negative
from jaxviz.synthesis._adam import adam
from jaxviz.synthesis._colors import Batch
from jaxviz.synthesis._lbfgs import lbfgs
from jaxviz.synthesis._minimize import follow
from jaxviz.synthesis._octaves import resized
from jaxviz.synthesis._parameterization import pixels
from jaxviz.synthesis._penalties import Weighted, total_variation
from jaxviz.synthesis._render import render
from jaxviz.synthesis._stages import Look, Synthesis, Watch, in_stages

Optimizer = Literal["lbfgs", "adam"] | optax.GradientTransformation
LONGEST = 0.25  # longest step of L-BFGS: on small networks, longer ones, cut off by the bounds, made no progress
# Shares of relative errors. With equal ones, L-BFGS spends its evaluations on relu5_1, whose error falls slowest, and
# fine structure is left smeared; these keep about the proportions that absolute errors have between the middle layers,
# as in Gatys et al., but less of relu1_1 and more of relu5_1, which those leave unmatched. Beside content, which keeps
# the finest layers from their best, these take more.
TEXTURE_LAYERS = {"relu1_1": 0.2, "relu2_1": 10.0, "relu3_1": 14.0, "relu4_1": 1.0, "relu5_1": 0.05}
STYLE_LAYERS = {"relu1_1": 0.35, "relu2_1": 15.5, "relu3_1": 18.5, "relu4_1": 1.05, "relu5_1": 0.022}
STYLE_WEIGHT = 150.0  # with these shares; relu4_1 then weighs as much as with 22 and equal ones


def paint(
    method: str,
    params: Any,
    key: Key,
    sizes: Sequence[tuple[int, int]],
    goal: Callable[[int], Score],
    start: Callable[[int], Images],
    *,
    smoothness: ArrayLike,
    optimizer: Optimizer | None,
    learning_rate: float | None,
    resume: Sequence[Any] | None,
    callback: Watch | None,
    finish: Callable[[Images], Images] = lambda images: images,
    **run: Any,
) -> Synthesis:
    """Maximize a score over pixels at each of several sizes, starting from the images of the previous size."""
    chosen = optimizer_of(optimizer, learning_rate)

    def octave(i: int, before: Images | None, resume: Sequence[Any] | None) -> Iterator[Look]:
        begin = start(i) if before is None else resized(before, sizes[i])
        return render(
            goal(i), params, begin, key, form=pixels(*sizes[i]), penalties=(Weighted(smoothness, total_variation),),
            dtype=begin.dtype, optimizer=chosen, resume=resume, **run,
        )  # fmt: skip

    def shown(look: Look) -> Synthesis:
        found = look.synthesis(method)
        return found._replace(images=finish(found.images))

    return follow(in_stages(octave, len(sizes), resume), callback, shown)


def optimizer_of(optimizer: Optimizer | None, learning_rate: float | None) -> optax.GradientTransformation:
    """Return an optimizer by name; raise ValueError for a learning rate that would be ignored."""
    if isinstance(optimizer, str) and optimizer not in ("lbfgs", "adam"):
        raise ValueError(f"optimizer: expected 'lbfgs', 'adam' or an optax transformation, got {optimizer!r}")
    if optimizer is not None:
        check_optimizer(optimizer, "lbfgs", "adam")
    if learning_rate is not None:
        check_least_zero("learning_rate", learning_rate)
    named = optimizer is None or isinstance(optimizer, str)
    if learning_rate is not None and not (named and optimizer == "adam"):
        other = "L-BFGS, which has none" if named else "an optimizer, which has its own"
        raise ValueError(f"learning_rate: expected none beside {other}: it would be ignored; it is of optimizer='adam'")
    if not (optimizer is None or isinstance(optimizer, str)):
        return optimizer
    return adam(0.02 if learning_rate is None else learning_rate) if optimizer == "adam" else lbfgs(longest=LONGEST)


def as_batch(name: str, images: Any) -> Images:
    """Return an image, or several of one size, as a batch; raise ValueError for anything else."""
    if np.ndim(images) == 4 and hasattr(images, "shape"):
        check_batch(name, images)
        return jnp.asarray(images)
    check_image(name, images)
    return jnp.asarray(images)[None]


def shares_of(weights: Any, count: int) -> list[ArrayLike]:
    """Return the weight of each style."""
    shares = [weights / count] * count if np.ndim(weights) == 0 else list(weights)
    if len(shares) != count:
        raise ValueError(f"style_weights: expected one, or one for each of {count} styles, got {len(shares)}")
    for share in shares:
        check_not_negative("the weight of style_layers", share)
    return shares


def noise_like(sample: Batch, key: Key, size: tuple[int, int]) -> Batch:
    """Return noise with the mean, the covariance of colors and the spectrum of each sample: gray for a gray sample.

    White noise is convolved with the sample (Galerne, Gousseau & Morel 2011, Random Phase Textures). So the lowest
    layers match nearly at once, and nothing is left in the finest detail, or of colors, that the sample does not have:
    no layer has much to say against it.
    """
    wide = at_least_float32(sample.dtype)
    height, width = sample.shape[1:3]
    canvas = max(height, size[0]), max(width, size[1])
    mean = sample.astype(wide).mean((1, 2), keepdims=True)
    # Faded at the edges, which would be edges of the spectrum; then as strong as before.
    fade = jnp.outer(jnp.hanning(height + 2)[1:-1], jnp.hanning(width + 2)[1:-1]).astype(wide)[None, :, :, None] ** 0.25
    centered = sample.astype(wide) - mean
    faded = centered * fade
    faded -= faded.mean((1, 2), keepdims=True)
    before, after = (jnp.square(x).sum((1, 2, 3), keepdims=True) for x in (centered, faded))
    faded *= jnp.sqrt(before / jnp.where(after > 0, after, 1) / (height * width))
    noise = jax.random.normal(key, (len(sample), *canvas, 1), wide)
    spectra = (jnp.fft.rfft2(x, canvas, axes=(1, 2)) for x in (faded, noise))
    found = jnp.fft.irfft2(math.prod(spectra), canvas, axes=(1, 2))
    return (mean + found[:, : size[0], : size[1]]).astype(sample.dtype)


def scaled(images: Images, longest: float) -> tuple[int, int]:
    """Return the size of images scaled to a given longer side."""
    height, width = images.shape[1:3]
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
