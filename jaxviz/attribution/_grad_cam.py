"""Grad-CAM: which positions of a layer's maps support a score."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._types import AnyImages, Images, Score
from jaxviz.attribution._batching import of_each_score, run, values_of
from jaxviz.attribution._guided import guided_backprop
from jaxviz.fast._swap import accelerate
from jaxviz.program._attention_chain import is_read
from jaxviz.program._axes import arranging, tokens_of
from jaxviz.program._differentiable import reaches
from jaxviz.program._edit import capture, replace
from jaxviz.program._names import find, values_by_name
from jaxviz.program._once import once
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.program._trace import Program, Value, trace
from jaxviz.scores._algebra import nets_of
from jaxviz.scores._calls import fixed


def grad_cam(
    score: Score, params: Any, images: AnyImages, *, layer: str, tokens: Tokens = None, batch_size: int | None = None
) -> Float[Array, "n *k h w"]:
    """Sum a layer's maps, each weighted by its mean gradient, and keep what supports the score.

    `relu(sum_c a_c A_c)`, with `A_c` the layer's channel and `a_c` the mean over positions of the score's gradient with
    respect to it, enlarged linearly to the images' size.

    Args:
        score: any function `score(params, images) -> (n,)` or `(n, k)` that passes through the layer.
        params: the network's parameters.
        images: `(n, h, w, c)` in [0, 1].
        layer: a name that `layers` lists, with maps: usually the last one. Which axes are images, rows and columns is
            read from the traced program, so their order does not matter. Tokens `(n, tokens, c)` are arranged in rows
            and columns in the same way, without class and register tokens: usually the input of the last block's
            attention, since after it only the class token counts.
        tokens: `(rows, columns)` of a layer of tokens, if the program does not show them, as after a loop of many
            iterations; `(rows, columns, in front)` if it has more tokens than these.
        batch_size: for a score `(n, k)`, backward passes run at once, over all images; by default 4 on CPU, else 16.

    Returns:
        `(n, h, w)`, or `(n, k, h, w)` for a score `(n, k)`, at least 0.

    Raises:
        ValueError: for a layer that is unknown, has neither maps nor tokens in a known grid (heads and windows are
            not), or is not on the path from the images to the score; for a grid that does not fit it; if the score
            only depends on the layer's class token, as after the last attention; and as for `gradient`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     return jax.nn.relu(images @ params["w1"]).mean((1, 2)) @ params["w2"]
        >>> params = {"w1": jnp.eye(3), "w2": jnp.array([[1.0, -1.0], [0.0, 0.0], [0.0, 2.0]])}
        >>> images = jnp.array([[[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]])
        >>> print(jaxviz.grad_cam(jaxviz.logit(net, 1), params, images, layer="relu_0"))
        [[[0. 1.]]]

    Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization.
    """
    tokens = checked_tokens(tokens)
    return run(_cam, score, params, images, layer=layer, tokens=tokens, batch_size=batch_size)


def guided_grad_cam(
    score: Score, params: Any, images: AnyImages, *, layer: str, tokens: Tokens = None, batch_size: int | None = None
) -> Float[Array, "n *k h w c"]:
    """Multiply guided backprop, which is sharp, by Grad-CAM, which tells classes apart.

    Args:
        score, params, images, layer, tokens, batch_size: as for `grad_cam`.

    Returns:
        `(n, h, w, c)`, or `(n, k, h, w, c)` for a score `(n, k)`, signed.

    Raises:
        ValueError: as for `grad_cam` and `guided_backprop`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     return jax.nn.relu(images @ params["w1"]).mean((1, 2)) @ params["w2"]
        >>> params = {"w1": jnp.eye(3), "w2": jnp.array([[1.0, -1.0], [0.0, 0.0], [0.0, 2.0]])}
        >>> images = jnp.array([[[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]])
        >>> print(jaxviz.guided_grad_cam(jaxviz.logit(net, 1), params, images, layer="relu_0"))
        [[[[0. 0. 0.]
           [0. 0. 1.]]]]

    Selvaraju et al. 2017, Grad-CAM.
    """
    score = once(score)
    maps = grad_cam(score, params, images, layer=layer, tokens=tokens, batch_size=batch_size)
    return guided_backprop(score, params, images, batch_size=batch_size) * maps[..., None]


def _cam(score: Score, params: Any, images: Images, *, layer: str, tokens: Tokens, batch_size: int) -> Array:
    if nets_of(score) > 1:
        raise ValueError("grad_cam: expected a sum of scores of one network, got scores of several")
    score = fixed(score, params, images)
    program = trace(score, params, images, turns=True)
    value = find(program, [layer])[layer]
    shape, arranged = value.aval, arranging(value, layer, "map", "grad_cam", tokens)

    def from_layer(delta: Array) -> tuple[Array, Array]:
        moved = accelerate(capture(replace(score, {layer: lambda value: value + delta}), layer), exact=True)
        values, taken = moved(params, images)
        return values_of(lambda *_: values, params, images), taken[layer]

    values, pull, maps = jax.vjp(from_layer, jnp.zeros(shape.shape, shape.dtype), has_aux=True)
    if not reaches(pull, values):
        raise ValueError(
            f"grad_cam: the score has no gradient with respect to {layer!r}: the layer lies behind it or beside its "
            "path, or only steps such as argmax lead from one to the other; choose a layer that the score depends on"
        )

    _check_patches(program, value, layer, tokens)

    def backward(cotangent: Array) -> Array:
        gradients = arranged(pull(cotangent)[0])
        small = jax.nn.relu(jnp.einsum("nhwc,nc->nhw", arranged(maps), gradients.mean((1, 2))))
        return jax.image.resize(small, images.shape[:3], "linear")

    return of_each_score(backward, values, batch_size)


def last_layer(score: Score, params: Any, images: Any) -> str | None:
    """Return the last layer that Grad-CAM can weigh: of maps, or of tokens that the score is made from.

    Gates and pools of one place do not count, having nothing to show. Runs nothing; images may be only a shape.
    """
    program = trace(score, params, images, turns=True)
    best, _ = values_by_name(program)
    for name, value in reversed(best.items()):
        try:
            arranged = arranging(value, name, "map", "grad_cam", None)
            _check_patches(program, value, name, None)
        except ValueError:
            continue
        _, rows, columns, _ = jax.eval_shape(arranged, value.aval).shape
        if rows * columns > 1:
            return name
    return None


def _check_patches(program: Program, value: Value, layer: str, tokens: Tokens) -> None:
    """Raise ValueError if the score depends on none of a layer's tokens that have a position in the image."""
    grid = tokens_of(value, tokens, "grad_cam")
    if grid is not None and not is_read(program, value, grid.tokens, grid.numbers.ravel()):
        raise ValueError(
            f"grad_cam: of the tokens of {layer!r}, the score depends on none of the image's patches, only on others "
            "such as the class token, so its map would be zero everywhere; choose a layer before the last attention"
        )
