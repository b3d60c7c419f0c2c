"""Fooling images: a small perturbation that changes the network's answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxviz._options import check_batch, check_least_zero, check_run, check_untraced
from jaxviz._progress import Progress
from jaxviz._types import AnyImages, Images, Net
from jaxviz.program._compiled import compiled
from jaxviz.program._edit import dtype_of
from jaxviz.program._image_channels import known_channels
from jaxviz.program._once import once
from jaxviz.program._returned import Output, array_of
from jaxviz.scores._calls import check_score
from jaxviz.scores._classes import Class, class_numbers, logit
from jaxviz.show._bar import Watcher, followed
from jaxviz.show._shown import shown
from jaxviz.synthesis._ascent import ascend
from jaxviz.synthesis._parameterization import pixels
from jaxviz.synthesis._stages import Synthesis
from jaxviz.synthesis._steps import normalized_steps


class _Fooled(NamedTuple):
    images: Images
    losses: Float[Array, " steps"]
    state: list[Array]
    finished: bool
    succeeded: Bool[Array, " n"]


@shown("images", lambda found: found.images)
class Fooled(Progress, _Fooled):
    """Images perturbed until a network classifies them as another class.

    Attributes:
        images: `(n, h, w, c)` in [0, 1].
        losses: `(steps,)`, minus the sum of the target's logits, before each step.
        state: what the optimizer needs for the next step.
        finished: whether all steps were taken.
        succeeded: `(n,)`, whether the target now ranks first, for each image.
    """


@followed
def fool(
    net: Net,
    params: Any,
    images: AnyImages,
    *,
    target: Class,
    output: Any = None,
    steps: int = 100,
    step_size: float = 0.225,
    revive: bool = True,
    every: int = 1,
    callback: Callable[[Fooled], Any] | None = None,
    progress: Watcher = False,
) -> Fooled:
    """Perturb images until the network classifies each as `target`.

    It takes steps of a fixed length along the gradient of that class's logit, until the class ranks first in every
    image. This is checked after each step, so `fool` cannot be jitted. `found.images - images` is the perturbation.

    Args:
        net: a classifier that returns logits, `(n, classes)`.
        params: its parameters.
        images: `(n, h, w, c)` in [0, 1].
        target: the class to aim for, or one for each image; by number, -1 is the last, or by name as for `logit`.
        output: which part the network returns has the logits, as for `logit`.
        steps: the maximum number of steps.
        step_size: the length of a step over all pixels and colors, in units of brightness.
        revive: whether blocked ReLUs pass a gradient, as in `ascend`.
        every: the number of steps between callbacks.
        callback: called as `callback(fooled)` with the images so far, and at the end; if it returns true, the run ends.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        The images; `succeeded` says for each whether the target ranks first, `finished` whether all `steps` were taken.

    Raises:
        ValueError: for a class that does not exist, if `images` is not a batch of images in [0, 1], for options out of
            range, and for traced arguments.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> images = jnp.full((1, 8, 8, 3), jnp.array([0.5, 0.4, 0.3]))  # red
        >>> found = jaxviz.fool(net, jnp.eye(3), images, target=1)
        >>> print(net(jnp.eye(3), found.images).argmax(-1), found.succeeded, jnp.abs(found.images - images).max() < 0.2)
        [1] [ True] True

    Szegedy et al. 2013, Intriguing Properties of Neural Networks; Nguyen, Yosinski & Clune 2014, Deep Neural Networks
    are Easily Fooled.
    """
    instead = "it checks after each step whether they are fooled, so call it outside of jit, vmap and grad"
    check_untraced("fool", params, images, target, instead=instead)
    check_batch("images", images)
    check_run(steps=steps, every=every, callback=callback)
    check_least_zero("step_size", step_size)
    target = class_numbers(net, target)
    if np.shape(target) not in ((), (len(images),)) or np.asarray(target).dtype.kind not in "iu":
        raise ValueError(f"target: expected the number of a class, or one for each of {len(images)}, got {target!r}")
    target = np.broadcast_to(np.asarray(target, int), len(images))  # of bytes, `%` would overflow
    net = once(net)
    score, part = logit(net, target, output=output), Output.of(output)
    with known_channels(score, params, images):
        check_score(score, params, images)
    logits = functools.partial(_logits, net, part)
    target = target % jax.eval_shape(logits, params, images).shape[-1]  # -1 is the last
    fooled = lambda images: _classes(net, part, params, images) == target
    if jnp.all(succeeded := fooled(images)):
        return Fooled(jnp.asarray(images), jnp.zeros(0), [], False, succeeded).told("fool", 0, steps)

    def look(found: Synthesis) -> bool:
        succeeded = fooled(found.images)
        ended = bool(jnp.all(succeeded))
        due = ended or found.finished or found.done % every == 0
        return bool(callback is not None and due and callback(_made(found, succeeded))) or ended

    found = ascend(
        score,
        params,
        jax.random.key(0),  # nothing here is random
        size=images.shape[1:],
        basis=pixels,
        start=images,
        transform=None,
        revive=revive,
        optimizer=normalized_steps(step_size),
        steps=steps,
        every=1,
        callback=look,
    )
    return _made(found, fooled(found.images))


def _made(found: Synthesis, succeeded: Array) -> Fooled:
    return Fooled(*found, succeeded).told("fool", found.done, found.total)


@compiled(static_argnums=(0, 1))
def _classes(net: Net, output: Output, params: Any, images: Images) -> Int[Array, " n"]:
    return jnp.argmax(_logits(net, output, params, images), -1)


def _logits(net: Net, output: Output, params: Any, images: Images) -> Float[Array, "n k"]:
    return array_of(net(params, images.astype(dtype_of(params))), output)
