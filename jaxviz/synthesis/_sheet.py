"""A sheet of channels: for every channel of a layer, the image to which it responds most."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxviz._options import check_count, check_untraced, check_watch
from jaxviz._progress import Progress
from jaxviz._types import Images, Key, Net
from jaxviz.data._sharding import whole_shares
from jaxviz.program._compiled import compiled
from jaxviz.program._edit import dtype_of, read_layers
from jaxviz.program._image_channels import Size, accepted, split_size
from jaxviz.program._once import once
from jaxviz.scores._units import channel
from jaxviz.show._bar import Watcher, followed
from jaxviz.show._shown import shown
from jaxviz.synthesis._ascent import ascend, ascend_from
from jaxviz.synthesis._magnitudes import natural
from jaxviz.synthesis._minimize import DivergedError, other_run
from jaxviz.synthesis._parameterization import Basis, fourier
from jaxviz.synthesis._views import canvas


class _Sheet(NamedTuple):
    images: Images
    losses: Float[Array, " n"]
    state: list[Array]
    finished: bool
    channels: Int[np.ndarray, " n"]


@shown("images", lambda found: found.images)
class Sheet(Progress, _Sheet):
    """The images of the channels done so far.

    Attributes:
        images: `(n, h, w, c)` in [0, 1].
        losses: `(n,)`, minus the last score of each image.
        state: pass it as `resume` to resume the run after the last complete batch.
        finished: False if channels are left.
        channels: `(n,)`, the channel that each image is for.
    """

    @property
    def scores(self) -> Float[Array, " n"]:
        """The last score of each image, `(n,)`: its channel's mean."""
        return -self.losses


@followed
def sheet(
    net: Net,
    params: Any,
    key: Key,
    *,
    layer: str,
    channels: Sequence[int] | np.ndarray | None = None,
    size: int | tuple[int, ...] | None = None,
    steps: int = 128,
    batch_size: int = 16,
    basis: Basis | None = None,
    resume: Sequence[Any] | None = None,
    callback: Callable[[Sheet], Any] | None = None,
    progress: Watcher = False,
    **options: Any,
) -> Sheet:
    """Find the image that maximizes each channel of a layer, `batch_size` channels at a time.

    The whole layer shares one compiled program; several local devices share each batch.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        key: the random key, for the noise and the transformations. A channel starts from the same noise regardless of
            the others.
        layer: the layer whose channels are maximized, a name that `layers` lists.
        channels: which of them, in order; negative numbers count from the end; None: all.
        size: the size of each image in pixels: one side, (h, w), or (h, w, c), as for `ascend`. None: 96, or less where
            the layer's units see less: one and a half receptive fields, at least 32.
        steps: the number of steps for each image.
        batch_size: images optimized at once; rounded up to a multiple of the number of local devices.
        basis: what is optimized: see `ascend`.
        resume: the `state` of a stopped run with the same arguments, to resume it after the last complete batch.
        callback: called as `callback(sheet)` with the images of all complete batches; if it returns true, the run ends,
            without the current batch.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.
        options: the other options of `ascend`, such as `revive`, and `every`, the number of steps between callbacks, by
            default 8.

    Returns:
        The images, `(n, h, w, c)` in [0, 1], in the order of `channels`, and the last score of each.

    Raises:
        DivergedError: if a score stops being finite; its `found` has the previous batches.
        ValueError: for channels that the layer does not have, and as for `ascend`.

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
    check_count("batch_size", batch_size)
    check_watch(1, callback)
    net = once(net)
    size = canvas(channel(net, layer, 0), params, 96) if size is None else size
    split_size(size)
    shape, wanted = _wanted(net, params, layer, channels, size)
    share = whole_shares(min(batch_size, len(wanted)))
    images, losses = _begun(resume, len(wanted), shape)
    start = options.pop("start", None)
    basis = (natural if start is None else fourier) if basis is None else basis
    found = _so_far(images, losses, wanted)
    while not found.finished:
        block = wanted[len(found.images) :][:share]
        padded = np.resize(block, share)  # one program for all batches: the last one is filled up by repetition
        score = channel(net, layer, padded)
        watch = None if callback is None else functools.partial(_watch, callback, found, block)
        how = {"size": shape, "steps": steps, "basis": basis, "callback": watch} | options
        try:
            if start is None:
                made = ascend_from(lambda form, *_, each=padded: _noise(form, key, each), score, params, key, **how)
            else:
                made = ascend(score, params, key, start=start, **how)
        except DivergedError as error:
            error.found = found  # with the previous batches
            raise
        if not made.finished:
            break
        images = jnp.concatenate([found.images, np.asarray(made.images)[: len(block)]])
        scores = _evaluate(score, params, np.asarray(made.images))[: len(block)]
        losses = jnp.concatenate([found.losses, -np.asarray(scores, found.losses.dtype)])
        found = _so_far(images, losses, wanted)
        if callback is not None and callback(found):
            break
    return found


def _begun(resume: Sequence[Any] | None, most: int, shape: tuple[int, ...]) -> tuple[Images, Array]:
    """Return the images and losses of the complete batches."""
    if resume is None:
        return jnp.zeros((0, *shape)), jnp.zeros(0)
    done = len(resume[0]) if len(resume) == 2 and jnp.ndim(resume[0]) else most + 1
    if done > most or [jnp.shape(x) for x in resume] != [(done, *shape), (done,)]:
        raise other_run()
    return jnp.asarray(resume[0]), jnp.asarray(resume[1])


def _so_far(images: Images, losses: Array, wanted: np.ndarray) -> Sheet:
    done, total = len(images), len(wanted)
    return Sheet(images, losses, [images, losses], done == total, wanted[:done]).told("sheet", done, total)


def _watch(callback: Callable[[Sheet], Any], found: Sheet, block: np.ndarray, batch: Any) -> bool:
    """Let a run be ended within a batch, which is then lost; the callback at a batch's end is the sheet's own."""
    if batch.finished:
        return False
    what = f"sheet, channels {block[0]} to {block[-1]}, step {batch.done} of {batch.total}"
    return bool(callback(found._replace().told(what, found.done, found.total)))


def _wanted(
    net: Net, params: Any, layer: str, channels: Sequence[int] | np.ndarray | None, size: Size
) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the shape of each image, and the channels as numbers from 0."""
    image, values = accepted(functools.partial(jax.eval_shape, read_layers(net, layer), params), params, size)
    there = values[layer].shape[-1]
    wanted = np.arange(there) if channels is None else np.asarray(channels)
    whole = wanted.ndim == 1 and wanted.dtype.kind in "iu"
    if not whole or not len(wanted) or wanted.min() < -there or wanted.max() >= there:
        raise ValueError(f"channels: expected some of 0 to {there - 1}, the channels of {layer!r}, got {channels}")
    return image.shape[1:], wanted.astype(int) % there  # -1 is the last; bytes would overflow


def _noise(form: Any, key: Key, channels: np.ndarray) -> Any:
    each = [form.init(jax.random.fold_in(key, int(i)), 1) for i in channels]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *each)


@compiled()
def _evaluate(score: Any, params: Any, images: Any) -> Any:
    return score(params, images.astype(dtype_of(params)))
