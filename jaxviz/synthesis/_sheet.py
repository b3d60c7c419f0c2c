"""A sheet of channels: the image that each channel of a layer responds to most, for all of them."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz._options import check_untraced, check_whole
from jaxviz._types import Key, Net
from jaxviz.data._sharding import whole_shares
from jaxviz.program._compiled import compiled
from jaxviz.program._edit import dtype_of, shapes_of
from jaxviz.scores._units import channel
from jaxviz.synthesis._ascent import ascend
from jaxviz.synthesis._minimize import DivergedError, Synthesis, Watch
from jaxviz.synthesis._parameterization import Basis, fourier, parameterized


def sheet(
    net: Net,
    params: Any,
    key: Key,
    *,
    layer: str,
    channels: Sequence[int] | None = None,
    size: int = 96,
    steps: int = 256,
    batch_size: int = 16,
    basis: Basis = fourier,
    resume: Sequence[Any] | None = None,
    callback: Watch | None = None,
    **options: Any,
) -> Synthesis:
    """Find for every channel of a layer the image that maximises it, `batch_size` of them side by side.

    One compiled program for the whole layer; several local devices share each batch.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        key: of the noise and the transformations. A channel starts from the same noise whatever the others are.
        layer: whose channels.
        channels: which of them, in order, negative ones counted from the end; None: all.
        size: of each image, in pixels.
        steps: for each image.
        batch_size: images that are optimized at once; rounded up to a multiple of the number of local devices.
        basis: what is optimized: see `ascend`.
        resume: `state` of a run with the same arguments that was stopped: it goes on after the last whole batch.
        callback: called as `callback(synthesis)` every few steps with the images of all batches that are done; if it
            returns true, the run ends, without the batch it is at.
        options: what else `ascend` takes.

    Returns:
        The images in the order of `channels`, and of each the last score, negative, as its loss.

    Raises:
        ValueError: for a channel that the layer does not have.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> found = jaxviz.sheet(net, jnp.eye(3), jax.random.key(0), layer="relu_0", size=8, steps=32)
        >>> print(found.images.shape, found.images.mean((1, 2)).argmax(-1))  # a red, a green and a blue one
        (3, 8, 8, 3) [0 1 2]

    Olah, Mordvintsev & Schubert 2017, Feature Visualization.
    """
    instead = "it puts batches together on the host, so call it outside of jit, vmap and grad"
    check_untraced("sheet", params, key, instead=instead)
    for name, number in (("batch_size", batch_size), ("size", size)):
        check_whole(name, number)
    if batch_size < 1 or size < 1:
        raise ValueError(f"expected a batch_size and a size of 1 or more, got {batch_size} and {size}")
    wanted = _wanted(net, params, layer, channels, size)
    count = whole_shares(min(batch_size, len(wanted)))
    images, losses = [jnp.asarray(x) for x in resume] if resume else (jnp.zeros((0, size, size, 3)), jnp.zeros(0))
    if len(images) > len(wanted) or images.shape[1:] != (size, size, 3):
        raise ValueError("resume: this state is of a run of another kind or size; start anew without it")
    form, start = parameterized(basis, size, size), options.pop("start", None)
    found = Synthesis(images, losses, [images, losses], len(images) == len(wanted))
    while not found.finished:
        block = wanted[len(found.images) :][:count]
        padded = np.resize(block, count)  # one program for all batches: the last one repeats itself
        score = channel(net, layer, padded)
        noise = form.images(_noise(form, key, padded)) if start is None else start
        watch = None if callback is None else functools.partial(_watch, callback, found)
        try:
            made = ascend(
                score,
                params,
                key,
                size=size,
                steps=steps,
                basis=basis,
                start=noise,
                callback=watch,
                **options,
            )
        except DivergedError as error:
            error.found = found  # the batches before
            raise
        if not made.finished:
            break
        images = jnp.concatenate([found.images, np.asarray(made.images)[: len(block)]])
        scores = _evaluate(score, params, np.asarray(made.images))[: len(block)]
        losses = jnp.concatenate([found.losses, -np.asarray(scores)])
        found = Synthesis(images, losses, [images, losses], len(images) == len(wanted))
        if callback is not None and callback(found):
            break
    return found


def _watch(callback: Watch, found: Synthesis, batch: Synthesis) -> bool:
    """Let a run be ended in the middle of a batch, which is then lost; the last look at it is the sheet's own."""
    return not batch.finished and bool(callback(found))


def _wanted(net: Net, params: Any, layer: str, channels: Sequence[int] | None, size: int) -> np.ndarray:
    there = shapes_of(net, params, (layer,), (size, size))[layer][-1]
    wanted = np.arange(there) if channels is None else np.asarray(channels)
    whole = wanted.ndim == 1 and wanted.dtype.kind in "iu"
    if not whole or not len(wanted) or wanted.min() < -there or wanted.max() >= there:
        raise ValueError(f"channels: expected some of 0 to {there - 1}, the channels of {layer!r}, got {channels}")
    return wanted % there  # -1 is the last


def _noise(form: Any, key: Key, channels: np.ndarray) -> Any:
    each = [form.init(jax.random.fold_in(key, int(i)), 1) for i in channels]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *each)


@compiled()
def _evaluate(score: Any, params: Any, images: Any) -> Any:
    return score(params, images.astype(dtype_of(params)))
