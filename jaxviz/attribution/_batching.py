"""Shared by methods that evaluate a score on many copies of an image: compiled loops that keep few in memory."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int

from jaxviz._options import check_count
from jaxviz._types import AnyArray, AnyImages, Images, Score, at_least_float32
from jaxviz.data._sharding import spread_of
from jaxviz.fast._swap import hoist
from jaxviz.image._arrays import blur
from jaxviz.image._checks import check_finite, check_images, check_range, check_whole
from jaxviz.program._compiled import Compiled
from jaxviz.program._differentiable import check_reaches
from jaxviz.program._image_channels import known_channels
from jaxviz.program._once import once
from jaxviz.scores._algebra import some_per_image
from jaxviz.scores._calls import check_score, is_pytree, one_by_one

Fill = ArrayLike | tuple[float, ...] | Literal["blur"]
"""What replaces pixels: a brightness, a color `(c,)`, an image, one image for each, or the blurred image."""


def run(
    method: Callable[..., Any],
    score: Score,
    params: Any,
    images: Any,
    *arrays: Any,
    batch_size: int | None,
    **options: Any,
) -> Any:
    """Return `method(score, params, images, *arrays, **options)`, compiled if the score is data; `options` are static.

    A plain function runs uncompiled, since it may depend on state that changes between calls. One of the options is
    `batch_size`; None chooses what is fast on this platform.
    """
    check_images(images)
    check_range("images", images)
    # VGG-16's gradient at 224 px on 2 cores took 0.18 s per image one at a time, 0.20 with four and 0.24 to 0.34 with
    # sixteen, which exceed the cache. EfficientNet-Lite0's is fastest with four.
    if batch_size is None:
        batch_size = 4 if jax.default_backend() == "cpu" else 16
    check_positive(batch_size=batch_size)
    options |= {"batch_size": batch_size}
    score = once(score)
    with known_channels(score, params, images):
        if not is_pytree(score):
            return method(score, params, images, *arrays, **options)
        check_score(score, params, images, differentiable=False)  # methods that need a gradient check for it themselves
        return _compiled(method, tuple(sorted(options)))(score, params, images, *arrays, **options)


@functools.cache
def _compiled(method: Callable[..., Any], static: tuple[str, ...]) -> Callable[..., Any]:
    return Compiled(method, static_argnames=static)


def run_by_image(
    method: Callable[..., Any], score: Score, params: Any, images: Any, *arrays: Any, **options: Any
) -> Any:
    """Return what `run` does of a method that has an option `spread`, for `by_image`."""
    return run(method, score, params, images, *arrays, spread=spread_of(images), **options)


def by_image(
    fn: Callable[..., Any], score: Score, images: Images, *arrays: Any, spread: jax.NamedSharding | None
) -> Any:
    """Return `fn(score, images, *arrays)`, computed one image at a time if the score can be split.

    The memory for copies then does not grow with the number of images. Devices that share the images, `spread`, each go
    through their own: in a loop over all of them every device would compute every image.
    """
    scores = one_by_one(score, len(images))
    if scores is None or len(images) == 1:
        return fn(score, images, *arrays)

    def one(slices: Any) -> Any:
        return jax.tree.map(lambda x: x[0], fn(*jax.tree.map(lambda x: x[None], slices)))

    def each(*values: Any) -> Any:
        return loop_over(one, values)

    if spread is not None:
        # What `fn` closes over, such as parameters, is on every device. Not checked: loops start from constants.
        spec = jax.P(spread.spec[0])
        each = jax.shard_map(each, mesh=spread.mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return each(scores, images, *arrays)


def sum_over(
    count: int,
    batch_size: int,
    part: Callable[[Int[Array, " b"], Bool[Array, " b"]], Any],
    images: Images,
    finish: Callable[[Any], Any] = lambda total: total,
) -> Any:
    """Return `finish` of the sum of `part(indices, live)` over batches of `range(count)`; others than live must add 0.

    Each index stands for a copy of all images; batches have one size, so that they share a program. The sum, and so the
    argument of `finish`, is in float32 at least: in bfloat16 a sum of ones stays at 256.
    """
    batches = -(-count // max(1, batch_size // len(images)))
    size = -(-count // batches)

    def at(batch: Any) -> Any:
        indices = batch * size + jnp.arange(size)
        return part(jnp.minimum(indices, count - 1), indices < count)

    at = hoist(at, 0)
    shapes = jax.eval_shape(at, 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, at_least_float32(x.dtype)), shapes)
    total = jax.lax.fori_loop(
        0, batches, lambda i, total: jax.tree.map(lambda x, y: x + y.astype(x.dtype), total, at(i)), zeros
    )
    return jax.tree.map(lambda x: x.astype(jax.tree.leaves(shapes)[0].dtype), finish(total))


def loop_over(fn: Callable[[Any], Any], values: Any, **options: Any) -> Any:
    """Return `jax.lax.map(fn, values, **options)`, with convolution kernels prepared outside of the loop."""
    return jax.lax.map(hoist(fn, jax.tree.map(lambda x: x[0], values)), values, **options)


def values_of(score: Score, params: Any, images: Images) -> Array:
    """Return the score of each image, `(n,)` or `(n, k)`."""
    return some_per_image(score(params, images), images)


def differentiate(
    score: Score, params: Any, images: Images, *, batch_size: int, finish: Callable[[Array], Array] = lambda g: g
) -> Array:
    """Return `finish` of the gradient of each image's score; for several scores, from one forward pass.

    For k scores per image, `(n, k, ...)`, with at most `batch_size` backward passes at once.
    """
    values, pull = jax.vjp(lambda x: values_of(score, params, x), images)
    check_reaches(pull, values, score, params, images)
    return of_each_score(lambda cotangent: finish(pull(cotangent)[0]), values, batch_size)


def of_each_score(backward: Callable[[Array], Array], values: Array, batch_size: int) -> Array:
    """Return `backward` of the cotangent that selects each image's score; for k scores, stacked along axis 1."""
    if values.ndim == 1:
        return backward(jnp.ones_like(values))
    number, count = values.shape
    at_once = min(count, max(1, batch_size // number))
    pick = lambda column: backward(jnp.zeros_like(values).at[:, column].set(1))
    return jnp.moveaxis(loop_over(pick, jnp.arange(count), batch_size=at_once), 0, 1)


def filled(name: str, fill: Any, images: AnyImages) -> Images:
    """Return the replacement for each image's pixels that `fill`, the argument called `name`, specifies."""
    check_images(images)
    if isinstance(fill, str):
        if fill != "blur":
            raise ValueError(f"{name}: expected 'blur', a number, a color or an image, got {fill!r}")
        return blur(images, 5.0, size=11)  # RISE's
    check_finite(name, fill)
    check_range(name, fill, resized=np.ndim(fill) >= 3)
    values = jnp.asarray(fill, images.dtype)
    try:
        return jnp.broadcast_to(values, images.shape)
    except ValueError:
        raise ValueError(
            f"{name}: expected 'blur', a number, a color ({images.shape[-1]},) or an image "
            f"{images.shape[1:]}, got shape {values.shape}"
        ) from None


def check_positive(**numbers: int) -> None:
    """Raise ValueError unless every number is a whole number of at least 1."""
    for name, number in numbers.items():
        check_whole(name, number, least=1)
        check_count(name, number)  # 2.0 is whole, but counts nothing


def beside(x: AnyArray, maps: Array) -> Array:
    """Return `x`, one per image, with an extra axis if `maps` has several per image."""
    return jnp.asarray(x[:, None] if maps.ndim > x.ndim else x)
