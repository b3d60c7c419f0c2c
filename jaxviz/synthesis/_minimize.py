"""The one loop under every synthesized image."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxviz._types import Key

CHUNK = 8  # steps between two looks from the host: enough to hide dispatch, few enough to stop soon


class Minimized(NamedTuple):
    """The variables after the last step, and the loss before each step, `(steps,)`."""

    variables: Any
    losses: Float[Array, " steps"]


def minimize(
    loss: Callable[..., Any],
    variables: Any,
    key: Key,
    *,
    data: tuple[Any, ...] = (),
    steps: int,
    optimizer: optax.GradientTransformationExtraArgs | optax.GradientTransformation,
    callback: Callable[[int, Any, Any], None] | None = None,
) -> Minimized:
    """Minimise `loss(variables, key, *data)` with an optax optimizer, in compiled chunks of steps.

    Step `i` gets `jax.random.fold_in(key, i)`, so the result does not depend on the chunks. What changes between
    calls belongs in `data`, which is traced; calls with the same `loss` and `optimizer` objects and the same shapes
    compile nothing new. Of the optimizer only its `update` counts: a step size that `init` puts into the state is data.

    Args:
        loss: returns a scalar.
        variables: a pytree of arrays to start from; not modified.
        key: randomness of the loss.
        data: further arguments of the loss: parameters, scores, targets.
        steps: how many.
        optimizer: any optax transformation; projections such as clipping to [0, 1] are part of it.
        callback: called between chunks as `callback(step, variables, losses)` with the steps done, the variables and
            the losses of the chunk. The variables' memory is used again after it returns: copy what you keep.

    Raises:
        FloatingPointError: at the chunk where the loss stops being finite, with the step.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz, optax
        >>> loss = lambda x, key, target: jnp.sum((x - target) ** 2)
        >>> key, sgd = jax.random.key(0), optax.sgd(0.1)
        >>> x, losses = jaxviz.minimize(loss, jnp.zeros(2), key, data=(3.0,), steps=50, optimizer=sgd)
        >>> print(jnp.allclose(x, 3.0, atol=1e-3), losses[0])
        True 18.0
    """
    if steps < 1:
        raise ValueError(f"expected 1 step or more, got {steps}")
    state = jax.tree.map(jnp.array, (variables, optimizer.init(variables)))  # copies: the loop reuses their memory
    losses = []
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((state, key, data)))
    take = _chunk if traced else _chunk_in_place  # vmap cannot reuse memory, and warns
    for start in range(0, steps, CHUNK):
        count = min(CHUNK, steps - start)
        state, chunk = take(loss, optimizer.update, state, key, data, start, count)
        losses.append(chunk[:count])
        if not isinstance(chunk, Tracer):
            _check_finite(losses[-1], start)
        if callback is not None:
            callback(start + count, state[0], losses[-1])
    return Minimized(state[0], jnp.concatenate(losses))


def _take_steps(
    loss: Callable, update: Callable, state: Any, key: Key, data: tuple[Any, ...], start: Any, count: Any
) -> tuple[Any, Array]:
    """Take `count` steps; the count is traced, so that a shorter last chunk compiles nothing."""

    def step(i: Any, carry: Any) -> Any:
        variables, memory, losses = carry
        value, grads = jax.value_and_grad(loss)(variables, jax.random.fold_in(key, start + i), *data)
        updates, memory = update(grads, memory, variables)
        return optax.apply_updates(variables, updates), memory, losses.at[i].set(value)

    shape = jax.eval_shape(loss, state[0], key, *data)
    *state, losses = jax.lax.fori_loop(0, count, step, (*state, jnp.zeros(CHUNK, shape.dtype)))
    return tuple(state), losses


_chunk = jax.jit(_take_steps, static_argnums=(0, 1))
_chunk_in_place = jax.jit(_take_steps, static_argnums=(0, 1), donate_argnums=2)


def _check_finite(losses: Array, start: int) -> None:
    values = np.asarray(losses)  # on the host: there is nothing to compile
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        first = bad[0]
        raise FloatingPointError(
            f"the loss is {values[first]} at step {start + first}; a smaller learning rate may help"
        )
