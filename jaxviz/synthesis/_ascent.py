"""Gradient ascent: the image to which a unit, a channel or a class responds most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxviz._options import check_count, check_function, check_least_zero, check_number, check_optimizer, check_run
from jaxviz._types import Key, Score
from jaxviz.data._sharding import over_devices
from jaxviz.image._checks import check_finite, check_range
from jaxviz.program._edit import dtype_of
from jaxviz.program._image_channels import Size, accepted, split_size
from jaxviz.program._once import once
from jaxviz.scores._algebra import lengths_of
from jaxviz.scores._calls import as_data, check_score
from jaxviz.show._bar import Watcher, followed
from jaxviz.synthesis._adam import adam
from jaxviz.synthesis._magnitudes import natural
from jaxviz.synthesis._minimize import follow
from jaxviz.synthesis._parameterization import Basis, Parameterization, fourier, parameterized
from jaxviz.synthesis._penalties import Penalty, Weighted
from jaxviz.synthesis._render import render
from jaxviz.synthesis._stages import Synthesis, Watch
from jaxviz.synthesis._transforms import Transform
from jaxviz.synthesis._views import WHOLE, canvas, is_of_parts, seen, views_of


@followed
def ascend(
    score: Score,
    params: Any,
    key: Key,
    *,
    size: int | tuple[int, ...] | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    basis: Basis | None = None,
    start: ArrayLike | tuple[float, ...] | None = None,
    penalties: Sequence[tuple[ArrayLike, Penalty]] = (),
    transform: Transform | Literal["auto"] | None = "auto",
    views: int | None = None,
    revive: bool = True,
    optimizer: optax.GradientTransformation | None = None,
    tolerance: float | None = None,
    every: int = 8,
    resume: Sequence[Any] | None = None,
    callback: Watch | None = None,
    progress: Watcher = False,
) -> Synthesis:
    """Find the images that maximize a score.

    By default images have the magnitudes of photographs at each frequency (see `natural`), so that what comes out is
    shaped like what networks are trained on; their phases are optimized by Adam, and two random parts of each image are
    shown to the network at every step. That is for scores of which a part of an image says something: of channels,
    classes and directions, without a position or mask. Others, your own functions and runs that start from an image are
    optimized by Adam in a Fourier basis, shifted, scaled and rotated, as in Olah et al. 2017. `recipe(name)` returns
    the options of papers. If the number of images is a multiple of the number of local devices, each device optimizes
    its share.

    Args:
        score: what to maximize: one of this library's scores, a sum of them, or your own function `(params, images) ->
            (n,)`. A score with numbers for several images, such as `channel(net, "relu5_1", jnp.arange(9))`, gives that
            many images, optimized side by side.
        params: the network's parameters.
        key: the random key, for the start and the transformations. The same key gives the same bits.
        size: the size of the images in pixels: one side, (h, w), or (h, w, c) with the number of channels. By default
            images are RGB, or have the channels that the network takes if it does not take RGB. Colors are
            decorrelated in RGB only. None: that of a `start` image, or 224; where units of layers see less, one and a
            half receptive fields, at least 32.
        steps: the number of steps; None: 128 for the basis `natural`, 512 for others.
        learning_rate: the learning rate of Adam; None: 1 for `natural`, 0.05 for others.
        basis: what is optimized: `natural`, `fourier`, `pixels`, `maco`, or your own function `(height, width) ->
            Parameterization`; for images other than RGB it must also take `channels=c`. None: `natural` or `fourier`,
            see above.
        start: where to start: a brightness, a color `(c,)`, an image or one image for each, in [0, 1]; None: the
            basis's noise.
        penalties: pairs of a weight and a function `images -> (n,)` to keep small, such as `l2` and `total_variation`.
        transform: `(key, images) -> images`, applied before the score; what it returns may be of another size. None:
            no transformation. "auto": for `natural` and the scores above, random parts of 0.7 to 0.9 of the sides,
            enlarged to the image's size, `crops(least=0.7, most=0.9, noise=0.05, spread=0.2)`; with classes in the
            score 0.75 to 1, shifted, scaled and rotated a little, `compose(crops(least=0.75, most=1.0, noise=0.05,
            spread=0.2), jitter_scale_rotate(jitter=8.0, scale=0.15, degrees=10.0))`; otherwise
            `jitter_scale_rotate()`.
        views: how many times each image is transformed at each step; the score is the mean over them. None: twice for
            `natural` if there is a transformation, otherwise once.
        revive: whether a ReLU that blocks the gradient of an entire image passes the gradient that would activate its
            units instead; otherwise an image for which a unit is inactive everywhere would never change. False: the
            plain gradient.
        optimizer: any optax transformation, used instead of Adam, with its own learning rate; with `pixels` it may end
            with `decay`, `blurring`, `small_norms` and `small_contributions`.
        tolerance: stop when the loss has not fallen by more than this fraction of itself in 32 steps; None: never.
        every: the number of steps between callbacks.
        resume: the `state` of a stopped run with the same arguments, to resume it.
        callback: called as `callback(synthesis)` with the images so far; if it returns true, the run ends. The memory
            of its `state` is reused when it returns: copy what you want to keep.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        The images, and the losses: minus the sum of the scores, plus the penalties.

    Raises:
        DivergedError: if the score stops being finite; its `found` has the last good images.
        ValueError: for a start that is not an image of this size; for a network that takes several numbers of channels
            but not 3, if the size does not say which; for options of the wrong kind or out of range; and for a
            learning rate together with an optimizer, which would ignore it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda params, images: images[..., 0].mean((1, 2)) - images[..., 1].mean((1, 2))
        >>> found = jaxviz.ascend(score, None, jax.random.key(0), size=16, steps=64)
        >>> red, green = found.images[..., 0], found.images[..., 1]
        >>> print(found.images.shape, bool(red.mean() > green.mean()), bool(found.losses[-1] < found.losses[0]))
        (1, 16, 16, 3) True True

    Your own loss is a sum: a channel, the style of a picture, and a penalty.

        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> picture = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3))
        >>> darkness = lambda params, images: 0.5 - images.mean((1, 2, 3))
        >>> goal = jaxviz.channel(net, "relu_0", 0) + 20 * jaxviz.match_grams(net, jnp.eye(3), picture, ["relu_0"])
        >>> found = jaxviz.ascend(goal + 0.1 * jaxviz.score(darkness), jnp.eye(3), jax.random.key(0), size=16, steps=64)
        >>> print(found.images.shape, bool(found.losses[-1] < found.losses[0]))
        (1, 16, 16, 3) True

    Olah, Mordvintsev & Schubert 2017, Feature Visualization; Simonyan et al. 2013, Deep Inside Convolutional Networks;
    Yosinski et al. 2015, Understanding Neural Networks Through Deep Visualization.
    """
    noise = lambda form, key, shape: _start(form, start, key, shape)
    options = {"views": views, "revive": revive, "steps": steps, "tolerance": tolerance, "every": every}
    options |= {"resume": resume, "callback": callback, "penalties": penalties, "transform": transform}
    options |= {"learning_rate": learning_rate, "optimizer": optimizer}
    score = once(score)
    size = _size_for(score, params, start) if size is None else size
    basis = (natural if start is None and is_of_parts(score) else fourier) if basis is None else basis
    return ascend_from(noise, score, params, key, _sized_as(size, start), basis=basis, **options)


def ascend_from(
    noise: Callable[[Parameterization, Key, tuple[int, ...]], Any],
    score: Score,
    params: Any,
    key: Key,
    size: Size,
    *,
    basis: Basis,
    steps: int | None = None,
    learning_rate: float | None = None,
    penalties: Sequence[tuple[ArrayLike, Penalty]] = (),
    transform: Transform | Literal["auto"] | None = "auto",
    views: int | None = None,
    revive: bool = True,
    optimizer: optax.GradientTransformation | None = None,
    tolerance: float | None = None,
    every: int = 8,
    resume: Sequence[Any] | None = None,
    callback: Watch | None = None,
) -> Synthesis:
    """Do what `ascend` does from the variables `noise(form, key, shape)` of its basis."""
    steps = (128 if basis is natural else 512) if steps is None else steps
    check_run(steps=steps, every=every, tolerance=tolerance, callback=callback)
    _check(transform, optimizer, learning_rate, penalties)
    score = once(score)
    views = (2 if basis is natural and transform is not None else 1) if views is None else views
    check_count("views", views, unit="view")
    if transform == "auto":
        transform = views_of(score) if basis is natural else WHOLE
    check = lambda images: check_score(score, params, seen(transform, key, images))
    shape = accepted(check, params, size, count=_batch(score))[0].shape
    form = parameterized(basis, *shape[1:])
    start_key, step_key = jax.random.split(key)
    first = noise(form, start_key, shape)
    if learning_rate is None:
        learning_rate = 1.0 if basis is natural else 0.05
    weighted = tuple(Weighted(weight, penalty) for weight, penalty in penalties)
    first, (step_key, score, params, weighted) = over_devices(first, (step_key, as_data(score), params, weighted))
    run = render(
        score,
        params,
        first,
        step_key,
        form=form,
        penalties=weighted,
        transform=transform,
        views=views,
        revive=revive,
        dtype=dtype_of(params),
        optimizer=adam(learning_rate) if optimizer is None else optimizer,
        steps=steps,
        tolerance=tolerance,
        every=every,
        resume=resume,
    )
    return follow(run, callback, lambda look: look.synthesis("ascend"))


def _check(transform: Any, optimizer: Any, learning_rate: Any, penalties: Any) -> None:
    if transform is not None and not isinstance(transform, str):
        check_function("transform", transform, 'a function of a key and images, "auto", or None')
    elif transform not in (None, "auto"):
        raise ValueError(f'transform: expected a function of a key and images, "auto", or None, got {transform!r}')
    if optimizer is not None:
        check_optimizer(optimizer)
    if learning_rate is not None:
        check_least_zero("learning_rate", learning_rate)
    if optimizer is not None and learning_rate is not None:
        raise ValueError("learning_rate: expected none beside an optimizer, which has its own: it would be ignored")
    for pair in penalties:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or callable(pair[0]) or not callable(pair[1]):
            raise ValueError(f"penalties: expected pairs of a weight and a function of images, got {pair!r}")
        check_number("the weight of a penalty", pair[0], "", np.isfinite)


def _size_for(score: Score, params: Any, start: Any) -> Size:
    shape = np.shape(0 if start is None or isinstance(start, str) else start)
    return tuple(shape[-3:-1]) if len(shape) in (3, 4) else canvas(score, params, 224)


def _sized_as(size: Size, start: Any) -> Size:
    """Return a size with the number of channels of the start, if that is an image or a color."""
    sides, channels = split_size(size)
    image: Any = 0 if start is None or isinstance(start, str) else start
    shape = np.shape(image)
    told = len(shape) == 1 or shape[-3:-1] == sides
    return (*sides, shape[-1]) if channels is None and told and shape[-1] > 1 else size


def _start(form: Parameterization, start: Any, key: Key, shape: tuple[int, ...]) -> Any:
    if start is None:
        return form.init(key, shape[0])
    if isinstance(start, str):
        raise ValueError(f"start: expected a brightness, a color or an image, got {start!r}; load_image reads a file")
    check_finite("start", start)
    check_range("start", start)
    try:
        images = jnp.broadcast_to(jnp.asarray(start, jnp.result_type(float)), shape)
    except ValueError:
        raise ValueError(
            f"start: expected a brightness, a color ({shape[-1]},), an image {shape[1:]} or {shape[0]} of them, got "
            f"shape {jnp.shape(start)}; resize it, or give its size as `size`"
        ) from None
    return form.variables(images)


def _batch(score: Any) -> int:
    """Return the number of images that a score holds values for: the length of its vectors, 1 if it has none."""
    lengths = lengths_of(score)
    if len(lengths) > 1:
        raise ValueError(f"the numbers of this score are for {sorted(lengths)} images: expected one length")
    return lengths.pop() if lengths else 1
