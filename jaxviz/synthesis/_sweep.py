"""Running a synthesis for each of several values of an option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxviz._options import check_function, check_watch
from jaxviz._types import Images
from jaxviz.program._once import once
from jaxviz.show._bar import Watcher, followed
from jaxviz.synthesis._stages import Part, Synthesis, Watch


@followed
def sweep(
    method: Callable[..., Synthesis],
    option: str,
    values: Sequence[Any],
    *args: Any,
    callback: Watch | None = None,
    progress: Watcher = False,
    **options: Any,
) -> Images:
    """Run a synthesis for each of several values of one option, and return the images, as for a row of a figure.

    Weights are data: if only they vary, all runs share one compiled program.

    Args:
        method: `stylize`, `texture`, `invert`, ...
        option: the name of one of its options, such as "style_weights" or "style_size".
        values: the option's values, one for each run.
        args: the method's positional arguments.
        callback: called as `callback(synthesis)` with the current run; if it returns true, that run and the sweep end.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.
        options: the method's other options.

    Returns:
        Images in [0, 1], `(k, h, w, c)`, one for each value; if the callback ended the sweep, only those so far.

    Raises:
        ValueError: There are no values. The method raises its own errors.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> gray, blue = jnp.full((8, 8, 3), 0.5), jnp.full((6, 6, 3), jnp.array([0.0, 0.0, 1.0]))
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
    check_watch(1, callback)
    args = once(args)
    images = []
    for i, value in enumerate(values):
        part = Part(callback, f"{option} {i + 1} of {len(values)}", i, len(values))
        images.append(method(*args, **{option: value}, **part.options(), **options).images)
        if part.ended:
            break
    return jnp.concatenate(images)
