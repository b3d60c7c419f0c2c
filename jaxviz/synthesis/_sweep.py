"""One synthesis for each of several values of an option."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxviz._options import check_function
from jaxviz._types import Images
from jaxviz.synthesis._minimize import Synthesis


def sweep(method: Callable[..., Synthesis], option: str, values: Sequence[Any], *args: Any, **options: Any) -> Images:
    """Run a synthesis for each of several values of one option, and return the images, a row of a figure.

    Weights are data: all runs share one compiled program.

    Args:
        method: `stylize`, `texture`, `invert`, ...
        option: the name of one of its options, such as "style_weights" or "style_size".
        values: what it is to be, in turn.
        args: what the method takes by position.
        options: its other options.

    Returns:
        `(k, h, w, 3)`, an image for each value.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> gray, blue = jnp.full((8, 8, 3), 0.5), jnp.ones((6, 6, 3)) * jnp.array([0.0, 0.0, 1.0])
        >>> layers = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], "steps": 30}
        >>> args = (net, jnp.eye(3), jax.random.key(0), gray, blue)
        >>> row = jaxviz.sweep(jaxviz.stylize, "style_weights", [0.0, 100.0], *args, **layers)
        >>> print(row[:, 0, 0].round(1))
        [[0.5 0.5 0.5]
         [0.  0.  1. ]]
    """
    check_function("method", method, "a synthesis, such as stylize")
    if not len(values):
        raise ValueError(f"values: expected one or more for {option}, got none")
    return jnp.concatenate([method(*args, **{option: value}, **options).images for value in values])
