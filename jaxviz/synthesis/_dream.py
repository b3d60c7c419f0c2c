"""DeepDream: amplify what a layer already sees in an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxviz._options import check_batch, check_count, check_least_zero, check_run, check_watch
from jaxviz._types import AnyImages, Images, Key, Score
from jaxviz.fast._swap import accelerate
from jaxviz.image._arrays import resize
from jaxviz.program._image_channels import known_channels
from jaxviz.program._once import once
from jaxviz.scores._algebra import Read, Sum, one_per_image
from jaxviz.scores._calls import as_data, check_score
from jaxviz.show._bar import Watcher, followed
from jaxviz.synthesis._minimize import follow, iterate
from jaxviz.synthesis._octaves import octave_sizes, resized
from jaxviz.synthesis._smoothing import smoothed
from jaxviz.synthesis._stages import Look, Part, Synthesis, Watch, in_stages, looks
from jaxviz.synthesis._tiles import Tiling, checked_tiling, in_tiles


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
    smoothing: float = 0.0,
    tile: int | None = None,
    overlap: int = 64,
    every: int = 8,
    resume: Sequence[Any] | None = None,
    callback: Watch | None = None,
    progress: Watcher = False,
) -> Synthesis:
    """Change images to raise a score, from coarse to fine, carrying the changes over to the next size.

    Each step follows the smoothed gradient divided by its mean absolute value, with the image at a random place in a
    frame of its mirror image, and clips the result to [0, 1]. Edges that the network sees at every step, the border of
    its input or opposite sides that meet as the image is rolled around, would become rows of beads and stripes in
    skies. A network that takes images of one size only sees no frame, nor does a score of one place (a mask, a
    position, a given image): the image is moved, and cut.

    Args:
        score: what to amplify; `energy(net, layer)` in DeepDream.
        params: the network's parameters.
        key: the random key, for the jitter. The same key gives the same bits.
        images: `(n, h, w, c)` in [0, 1].
        octaves: the number of sizes to dream at; the last is the images' own.
        octave_scale: the ratio between successive sizes, above 1.
        steps: the number of steps in each octave.
        step_size: the mean change of a pixel in one step, in units of brightness.
        jitter: the largest shift, in pixels.
        smoothing: how much the finest detail of the gradient is damped: frequencies above 1/16 of a cycle per pixel by
            their ratio to it, to this power. 1 makes softer and larger things; 0: the plain gradient.
        tile: the largest side, in pixels, of the tiles in which the gradient is computed: memory is then that of one
            tile and a few copies of the image. None: the whole image at once. See below.
        overlap: how far a tile sees beyond what it changes, in pixels.
        every: the number of steps between callbacks.
        resume: the `state` of a stopped run with the same arguments, to resume it.
        callback: called as `callback(synthesis)`, with images of the octave's size; if it returns true, the run ends.
            The memory of its `state` is reused when it returns: copy what you want to keep.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        The images, and the losses of all octaves in order: minus the sum of the scores, in tiles of their means.

    A score that is a mean over positions, such as `energy` and `channel`, has the same gradient in tiles as in the
    whole image if pixels further away than `overlap` have no part in it (twice the layer's receptive field, less a
    pixel, is always enough), and nearly the same otherwise: the random shifts move the tiles' borders, too. A score of
    the whole image, such as `logit`, becomes one of each tile. Of VGG-16's relu4_3, at 3000 x 2000 pixels, a gradient
    takes 0.6 GB in tiles of 512, and 7.3 GB without; at 384 x 288, with an overlap of 64, it differed by 0.006%.

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
    check_least_zero("smoothing", smoothing)
    check_count("jitter", jitter, least=0)
    tiling = checked_tiling(tile, overlap)
    score = once(score)
    with known_channels(score, params, images):
        check_score(score, params, images)
    sizes = octave_sizes(images.shape[1:3], octaves, octave_scale)
    error = _refusal(score, params, images, sizes[0])
    if error is not None:
        raise ValueError(f"the smallest of {octaves} octaves, {sizes[0]}: {error}; use fewer octaves") from error
    whole = tuple(side + 2 * jitter for side in sizes[-1])
    # A frame would stretch a mask, and move a position; a function of one's own is one of images of any size.
    placed = isinstance(score, Read | Sum) and not score.of_parts()
    frame = 0 if placed or _refusal(score, params, images, whole) else jitter
    optimizer, loss = _normalized_steps(step_size, smoothing), _ShiftedScore(frame, tiling)

    def octave(i: int, before: Images | None, resume: Sequence[Any] | None) -> Iterator[Look]:
        base = resized(images, sizes[i])
        detail = 0.0 if before is None else resize(before - resized(images, sizes[i - 1]), sizes[i])
        run = iterate(
            loss,
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


def _refusal(score: Score, params: Any, images: AnyImages, size: tuple[int, ...]) -> Exception | None:
    """Return the error of a score for images of another size, if it has one."""
    try:
        check_score(score, params, jax.ShapeDtypeStruct((len(images), *size, images.shape[-1]), images.dtype))
    except (ValueError, TypeError) as error:  # a network of one size only may fail in any way
        return error
    return None


@dataclasses.dataclass(frozen=True)
class _ShiftedScore:
    """Minus the score of images that are moved at random within a frame of their mirror images."""

    frame: int
    tiling: Tiling | None

    def __call__(self, images: Images, key: Key, score: Score, params: Any, jitter: Any) -> Array:
        down, right = jax.random.randint(key, (2,), -jitter, jitter + 1)
        seen = _framed(_framed(images, self.frame, down, 1), self.frame, right, 2)
        if self.tiling is None or self.tiling.covers(*seen.shape[1:3]):
            return -jnp.sum(one_per_image(accelerate(score)(params, seen), seen))
        return -jnp.sum(in_tiles(self.tiling, score, params, seen))


def _framed(images: Images, frame: int, shift: Array, axis: int) -> Float[Array, "n _ _ c"]:
    """Return images moved along an axis between their mirror images, with `frame` pixels more on both sides.

    A shift is at most the frame, if there is one; otherwise any, since what is mirrored twice repeats.
    """
    length = images.shape[axis]
    reach = 2 * frame or length
    line = jnp.pad(images, [(reach, reach) if i == axis else (0, 0) for i in range(4)], mode="symmetric")
    start = reach - frame - shift if frame else (length - shift) % (2 * length)
    return jax.lax.dynamic_slice_in_dim(line, start, length + 2 * frame, axis)


def _normalized_steps(step_size: float, smoothing: float) -> optax.GradientTransformation:
    """Step by the gradient, smoothed, divided by its mean absolute value, image by image, and stay in [0, 1]."""
    numbers = lambda params: (jnp.asarray(step_size, params.dtype), jnp.asarray(smoothing, params.dtype))
    return optax.GradientTransformation(numbers, _smoothed_step if smoothing else _normalized_step)


def _smoothed_step(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    return _normalized_step(smoothed(updates, state[1]), state, params)


def _normalized_step(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    size = jnp.abs(updates).mean(axis=(1, 2, 3), keepdims=True)
    step = -state[0] * updates / jnp.where(size > 0, size, 1)
    return jnp.clip(params + step, 0, 1) - params, state
