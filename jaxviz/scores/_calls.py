"""Call scores safely: check what they return, pass them to compiled programs, fix their class, and split batches."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxviz._types import Score
from jaxviz.program._compiled import compiled
from jaxviz.program._differentiable import check_reaches
from jaxviz.scores._algebra import Function, Read, Sum, as_numbers
from jaxviz.scores._classes import Logit


def is_pytree(score: Any) -> bool:
    """Tell a score that is data, such as `logit(net, 3)`, from a plain function."""
    return not jax.tree_util.all_leaves([score])


def as_data(score: Score) -> Any:
    """Return a score in a form that jit accepts as an argument: itself if it is a pytree, else its function as static.

    A plain function is wrapped, and so compiled, again each time: it may depend on state that changes between calls.
    """
    return score if is_pytree(score) else Function(functools.partial(score))


def check_score(score: Score, params: Any, images: Any, *, differentiable: bool = True) -> None:
    """Raise ValueError for numbers of a score that tracing would hide, such as a class that does not exist.

    Unless `differentiable` is False, also raise it for a score without a gradient with respect to the images. The
    network is traced once for all numbers, which takes 0.1 to 0.2 s, as long as the map of a small image.
    """
    if isinstance(score, Sum):
        for part in score.scores:
            check_score(part, params, images, differentiable=differentiable)
    elif isinstance(score, Read):
        # Without its numbers, so that all classes share one trace.
        without_numbers = jax.tree.map(lambda _: 0, score)
        _check_pick(score, _read.eval_shape(differentiable, without_numbers, params, images))
    else:
        jax.eval_shape(checked(score) if differentiable else functools.partial(score), params, images)


def _check_pick(score: Read, values: Any) -> None:
    """Evaluate a score's pick abstractly on values of these shapes, about 1 ms; for a static number only once."""
    leaves, treedef = jax.tree.flatten(values)
    if all(type(x) is int or isinstance(x, np.integer) for x in jax.tree.leaves(score)):
        without_net = dataclasses.replace(score, net=_no_net)  # type: ignore[type-var]  # a net would be kept
        _picked(without_net, tuple((x.shape, x.dtype) for x in leaves), treedef)
    else:
        jax.eval_shape(score.pick, values)


def _no_net(params: Any, images: Any) -> None:
    """Take the place of a network that is never called."""


@functools.lru_cache(maxsize=256)
def _picked(score: Read, shapes: tuple[Any, ...], treedef: Any) -> None:
    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    jax.eval_shape(score.pick, jax.tree.unflatten(treedef, leaves))


@compiled(static_argnums=0)
def _read(differentiable: bool, score: Read, params: Any, images: Any) -> Any:
    if not differentiable:
        return score.read(params, images)
    return checked(score.read, score.measured)(params, images)


def checked(read: Callable[..., Any], part: Callable[[Any], Array] = lambda values: values) -> Callable[..., Any]:
    """Return a function that raises ValueError, when traced, if no gradient of its values reaches the images."""

    def checked(params: Any, images: Any) -> Any:
        found = lambda params, images: as_numbers(part(read(params, images)))
        values, pull = jax.vjp(functools.partial(found, params), images)
        check_reaches(pull, values, found, params, images)
        return read(params, images)

    return checked


def fixed(score: Score, params: Any, images: Any) -> Score:
    """Return a score with the class, and the pixels, that rank first in `images` held fixed for changed copies."""
    if isinstance(score, Logit) and (score.target is None or score.predicted):
        return score.held(score.read(params, images))
    if isinstance(score, Sum):
        return dataclasses.replace(score, scores=tuple(fixed(part, params, images) for part in score.scores))
    return score


def one_by_one(score: Score, count: int) -> Any:
    """Return a built-in score with its numbers repeated for each of `count` images; None for any other score.

    Each slice of the result, with the axis kept, is the score of that image alone. Which values of a user's function
    belong to which image is unknown, so it must always be given all images.
    """
    if not _knows_each_image(score):
        return None
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)[1:])), score)


def _knows_each_image(score: Score) -> bool:
    if isinstance(score, Sum):
        return all(_knows_each_image(part) for part in score.scores)
    return isinstance(score, Read)
