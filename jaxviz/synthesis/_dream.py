"""DeepDream: amplify what a layer already sees in an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxviz._options import check_batch, check_count, check_least_zero, check_run, check_watch
from jaxviz._types import AnyImages, Images, Key, Score
from jaxviz.fast._swap import accelerate
from jaxviz.image._arrays import resize
from jaxviz.program._image_channels import known_channels
from jaxviz.program._once import once
from jaxviz.scores._algebra import one_per_image
from jaxviz.scores._calls import as_data, check_score
from jaxviz.show._bar import Watcher, followed
from jaxviz.synthesis._minimize import follow, iterate
from jaxviz.synthesis._octaves import octave_sizes, resized
from jaxviz.synthesis._stages import Look, Part, Synthesis, Watch, in_stages, looks


@followed
def dream(
    score: Score,
    params: Any,
    key: Key,
    images: AnyImages,
    *,
    octaves: int = 4,
    octave_scale: float = 1.4,
    steps: int = 10,
    step_size: float = 1.5 / 255,
    jitter: int = 32,
    every: int = 8,
    resume: Sequence[Any] | None = None,
    callback: Watch | None = None,
    progress: Watcher = False,
) -> Synthesis:
    """Change images to raise a score, from coarse to fine, carrying the changes over to the next size.

    Each step follows the gradient divided by its mean absolute value, with the image rolled at random, and clips the
    result to [0, 1].

    Args:
        score: what to amplify; `energy(net, layer)` in DeepDream.
        params: the network's parameters.
        key: the random key, for the jitter. The same key gives the same bits.
        images: `(n, h, w, c)` in [0, 1].
        octaves: the number of sizes to dream at; the last is the images' own.
        octave_scale: the ratio between successive sizes, above 1.
        steps: the number of steps in each octave.
        step_size: the mean change of a pixel in one step, in units of brightness.
        jitter: the largest roll, in pixels.
        every: the number of steps between callbacks.
        resume: the `state` of a stopped run with the same arguments, to resume it.
        callback: called as `callback(synthesis)`, with images of the octave's size; if it returns true, the run ends.
            The memory of its `state` is reused when it returns: copy what you want to keep.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        The images, and the losses of all octaves in order: minus the sum of the scores.

    Raises:
        ValueError: if the smallest octave has no pixels or is too small for the network, if `images` is not a batch of
            images in [0, 1], and for options out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda params, images: images[..., 2].mean((1, 2))
        >>> gray = jnp.full((1, 16, 16, 3), 0.5)
        >>> found = jaxviz.dream(score, None, jax.random.key(0), gray, octaves=2)
        >>> print(found.images.shape, bool(found.images[..., 2].mean() > 0.55), found.losses.shape)
        (1, 16, 16, 3) True (20,)

    Mordvintsev, Olah & Tyka 2015, Inceptionism: Going Deeper into Neural Networks.
    """
    check_batch("images", images)
    check_run(steps=steps, every=every, callback=callback)
    check_least_zero("step_size", step_size)
    check_count("jitter", jitter, least=0)
    score = once(score)
    with known_channels(score, params, images):
        check_score(score, params, images)
    sizes = octave_sizes(images.shape[1:3], octaves, octave_scale)
    smallest = jax.ShapeDtypeStruct((len(images), *sizes[0], images.shape[-1]), images.dtype)
    try:
        check_score(score, params, smallest)
    except (ValueError, TypeError) as error:  # a network of one size only may fail in any way
        raise ValueError(f"the smallest of {octaves} octaves, {sizes[0]}: {error}; use fewer octaves") from error
    optimizer = _normalized_steps(step_size)

    def octave(i: int, before: Images | None, resume: Sequence[Any] | None) -> Iterator[Look]:
        base = resized(images, sizes[i])
        detail = 0.0 if before is None else resize(before - resized(images, sizes[i - 1]), sizes[i])
        run = iterate(
            _rolled_score,
            jnp.clip(base + detail, 0, 1),
            jax.random.fold_in(key, i),
            data=(as_data(score), params, jitter),
            steps=steps,
            optimizer=optimizer,
            every=every,
            resume=resume,
        )
        return looks(lambda dreamt: jnp.clip(dreamt, 0, 1), run)

    return follow(in_stages(octave, octaves, resume), callback, lambda look: look.synthesis("dream"))


@followed
def dream_zoom(
    score: Score,
    params: Any,
    key: Key,
    images: AnyImages,
    *,
    frames: int = 100,
    zoom: float = 0.05,
    first: int = 0,
    callback: Watch | None = None,
    progress: Watcher = False,
    **options: Any,
) -> Iterator[Images]:
    """Alternate dreaming and zooming in, and yield the frames of a fall into the dream, one by one.

    Args:
        score: what to amplify, as for `dream`.
        params: the network's parameters.
        key: the random key, for the jitter; frame i uses `jax.random.fold_in(key, i)`.
        images: `(n, h, w, c)` in [0, 1]: the images to start from or, to continue, the last frame made.
        frames: the total number of frames.
        zoom: the fraction of each side that is cropped from one frame to the next.
        first: the index of the first frame to make.
        callback: called as `callback(synthesis)` with the current frame; if it returns true, the zoom ends with the
            previous frame, or with this one if it is finished.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.
        options: the other options of `dream`.

    Yields:
        Each frame, `(n, h, w, c)` in [0, 1].

    Raises:
        ValueError: if `zoom` is not in [0, 1), and as for `dream`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda params, images: images[..., 2].mean((1, 2))
        >>> gray = jnp.full((1, 16, 16, 3), 0.5)
        >>> frames = list(jaxviz.dream_zoom(score, None, jax.random.key(0), gray, frames=3, octaves=1))
        >>> print([round(float(frame[..., 2].mean()), 1) for frame in frames])
        [0.7, 0.9, 1.0]

    Mordvintsev, Olah & Tyka 2015, Inceptionism: Going Deeper into Neural Networks.
    """
    if not 0 <= zoom < 1:
        raise ValueError(f"zoom: expected a fraction of the side, at least 0 and below 1, got {zoom}")
    check_batch("images", images)
    check_count("frames", frames, least=0)
    check_count("first", first, least=0)
    check_watch(1, callback)
    score = once(score)
    for i in range(first, frames):
        seen = _closer(images, zoom) if i else images
        part = Part(callback, f"frame {i + 1} of {frames}", i, frames)
        found = dream(score, params, jax.random.fold_in(key, i), seen, **part.options(), **options)
        images = found.images
        if found.finished:  # an unfinished frame is not one to continue from
            yield images
        if part.ended:
            break


@jax.jit
def _closer(images: Images, zoom: Any) -> Images:
    scale = jnp.full(2, 1 / (1 - zoom), images.dtype)
    size = jnp.array(images.shape[1:3], images.dtype)
    moved = (size - size * scale) / 2
    shape = images.shape
    return jnp.clip(jax.image.scale_and_translate(images, shape, (1, 2), scale, moved, "cubic"), 0, 1)


def _rolled_score(images: Images, key: Key, score: Score, params: Any, jitter: Any) -> Array:
    shift = jax.random.randint(key, (2,), -jitter, jitter + 1)
    rolled = jnp.roll(images, shift, axis=(1, 2))
    return -jnp.sum(one_per_image(accelerate(score)(params, rolled), rolled))


def _normalized_steps(step_size: float) -> optax.GradientTransformation:
    """Step by the gradient divided by its mean absolute value, image by image, and stay in [0, 1]."""
    return optax.GradientTransformation(lambda params: jnp.asarray(step_size, params.dtype), _normalized_step)


def _normalized_step(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    size = jnp.abs(updates).mean(axis=(1, 2, 3), keepdims=True)
    step = -state * updates / jnp.where(size > 0, size, 1)
    return jnp.clip(params + step, 0, 1) - params, state
