"""The one loop under every synthesized image."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxviz._options import check_optimizer, check_run
from jaxviz._progress import Progress
from jaxviz._types import Key
from jaxviz.fast._swap import hoist
from jaxviz.program._compiled import Compiled
from jaxviz.show._bar import Watcher, followed
from jaxviz.show._shown import shown

CHUNK = 8  # steps between two looks from the host: enough to hide dispatch, few enough to stop soon
PATIENCE = 32  # steps over which a loss must fall

Callback = Callable[["Minimized"], Any]
"""Called between chunks of steps with the result so far; if it returns true, the run ends."""


class _Minimized(NamedTuple):
    variables: Any
    losses: Float[Array, " steps"]
    state: list[Array]
    finished: bool


@shown("lines", lambda found: found.losses)
class Minimized(Progress, _Minimized):
    """The result of a run, or the result so far.

    Attributes:
        variables: after the last step.
        losses: `(steps,)`, before each step.
        state: everything that the next step depends on; pass it as `resume` to continue the run.
        finished: False while the run is in progress, or if its callback ended it.
    """


class DivergedError(FloatingPointError):
    """A loss, or an update made from its gradient, was not finite; `found` is the result before that step."""

    def __init__(self, message: str, found: Any) -> None:
        super().__init__(message)
        self.found = found


@followed
def minimize(
    loss: Callable[..., Any],
    variables: Any,
    key: Key,
    *,
    data: tuple[Any, ...] = (),
    steps: int,
    optimizer: optax.GradientTransformationExtraArgs | optax.GradientTransformation,
    tolerance: float | None = None,
    every: int = CHUNK,
    resume: Sequence[Any] | None = None,
    callback: Callback | None = None,
    progress: Watcher = False,
) -> Minimized:
    """Minimize `loss(variables, key, *data)` with an optax optimizer, in compiled chunks of steps.

    Step `i` uses `jax.random.fold_in(key, i)`, so the result depends neither on the chunks nor on being stopped and
    resumed. What changes between calls belongs in `data`, which is traced; calls with the same `loss` and `optimizer`
    objects and the same shapes do not recompile. Only the optimizer's `update` is compiled in: a step size that `init`
    puts into the state is data. An optimizer that takes extra arguments is given `value`, `grad` and `value_fn`.

    Args:
        loss: returns a scalar, or a number for each of several images, the first axis of all variables: their sum is
            minimized, without communication between devices that share the images.
        variables: a pytree of arrays to start from; not modified.
        key: the random key for the loss.
        data: further arguments of the loss: parameters, scores, targets.
        steps: the total number of steps, including those before a resume.
        optimizer: any optax transformation; projections such as clipping to [0, 1] are part of it.
        tolerance: stop when the smallest loss has not fallen by more than this fraction of itself in 32 steps; None:
            take all steps, as under `jit` and `vmap`.
        every: the number of steps between callbacks.
        resume: the `state` of a stopped run with the same arguments, to resume it.
        callback: called as `callback(minimized)` with the variables so far, and at the end; if it returns true, the run
            ends (see `Progress`). The memory of the variables and the state is reused when it returns: copy what you
            want to keep.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        The variables after the last step, the loss before each step, and the state to resume from.

    Raises:
        DivergedError: if the loss stops being finite, with the step; its `found` is the result before that step. Images
            with a loss of their own may be a few steps further.
        ValueError: if `steps` is not a whole number of at least 1, `optimizer` is not an optax transformation, or
            `resume` is the state of another run.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz, optax
        >>> loss = lambda x, key, target: jnp.sum((x - target) ** 2)
        >>> key, sgd = jax.random.key(0), optax.sgd(0.1)
        >>> found = jaxviz.minimize(loss, jnp.zeros(2), key, data=(3.0,), steps=50, optimizer=sgd)
        >>> print(jnp.allclose(found.variables, 3.0, atol=1e-3), found.losses[0])
        True 18.0
        >>> half = jaxviz.minimize(loss, jnp.zeros(2), key, data=(3.0,), steps=25, optimizer=sgd)
        >>> rest = jaxviz.minimize(loss, jnp.zeros(2), key, data=(3.0,), steps=50, optimizer=sgd, resume=half.state)
        >>> print(jnp.array_equal(rest.variables, found.variables), rest.losses.shape)
        True (50,)
    """
    check_run(steps=steps, every=every, tolerance=tolerance, callback=callback)
    run = iterate(
        loss, variables, key, data=data, steps=steps, optimizer=optimizer, tolerance=tolerance, every=every,
        resume=resume,
    )  # fmt: skip
    return follow(run, callback, lambda minimized: minimized)


def iterate(
    loss: Callable[..., Any],
    variables: Any,
    key: Key,
    *,
    data: tuple[Any, ...] = (),
    steps: int,
    optimizer: optax.GradientTransformationExtraArgs | optax.GradientTransformation,
    tolerance: float | None = None,
    every: int = CHUNK,
    resume: Sequence[Any] | None = None,
) -> Iterator[Minimized]:
    """Yield the result so far of a run of `minimize`, every `every` steps and at its end.

    The memory of a yielded result is reused for the next one. If a step would not be finite, the result before it is
    yielded, and then DivergedError is raised.
    """
    check_optimizer(optimizer)
    with by_its_own_rules():
        memory = optimizer.init(variables)
    state = jax.tree.map(jnp.array, (variables, memory))  # copies: the loop reuses their memory
    losses: list[Any] = []
    if resume is not None:
        state, earlier = _resumed(state, resume)
        losses.append(earlier)
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((state, key, data)))
    take = _chunk if traced else _chunk_in_place  # vmap cannot reuse memory, and warns
    takes_more = isinstance(optimizer, optax.GradientTransformationExtraArgs)
    done = sum(map(len, losses))
    stalled = done > 0 and not traced and tolerance is not None and _has_stalled(np.asarray(losses[0]), tolerance)
    if done >= steps or stalled:
        yield _where(state, losses, steps, finished=True)
        return
    bad, finished = None, False
    while bad is None and not finished:
        count = min(CHUNK - done % CHUNK, steps - done, every - done % every)
        state, chunk, taken = take(loss, optimizer.update, takes_more, state, key, data, done, count)
        good = count if traced else int(taken)
        losses.append(chunk[:count] if traced else np.asarray(chunk)[:good])
        bad = None if good == count else float(chunk[good])
        done += good
        stalled = not traced and tolerance is not None and _has_stalled(np.concatenate(losses), tolerance)
        finished = bad is None and (done == steps or stalled)
        if done % every == 0 or finished or bad is not None:
            yield _where(state, losses, steps, finished=finished)
    if bad is not None:
        raise DivergedError(_diverged(bad, done), _where(state, losses, steps, finished=False))


def follow(run: Iterator[Any], callback: Callable[[Any], Any] | None, show: Callable[[Any], Any]) -> Any:
    """Return the result of a run, converted by `show`: at its end, or where its callback ends it.

    If a run diverges, the error has the result before that, converted as well. Results that nobody sees are not.
    """
    last = shown = None
    try:
        for last in run:
            shown = None if callback is None else show(last)
            if callback is not None and callback(shown):
                break
    except DivergedError as error:
        error.found = show(last) if shown is None else shown
        raise
    return show(last) if shown is None else shown


def _where(state: Any, losses: list[Any], steps: int, *, finished: bool) -> Minimized:
    history = joined(losses)
    found = Minimized(state[0], history, [*jax.tree.leaves(state), history], finished)
    return found.told("minimize", len(history), steps)


def joined(losses: list[Any]) -> Array:
    """Return losses as one array, concatenated on the host if possible: each length would be a new program."""
    losses = [part for part in losses if part.size] or losses[:1]  # empty ones keep their dtype
    if any(isinstance(part, Tracer) for part in losses):
        return jnp.concatenate(losses)
    return jnp.asarray(np.concatenate(losses) if losses else np.zeros(0, np.float32))


def _resumed(state: Any, resume: Sequence[Any]) -> tuple[Any, Any]:
    leaves = list(resume[:-1])
    expected = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    got = [(jnp.shape(x), jnp.asarray(x).dtype) for x in leaves]
    if not len(resume) or got != expected or jnp.ndim(resume[-1]) != 1:
        raise other_run()
    put = [_like(jnp.array(x), fresh) for x, fresh in zip(leaves, jax.tree.leaves(state), strict=True)]
    earlier = resume[-1]
    earlier = earlier if isinstance(earlier, Tracer) else np.asarray(earlier)
    return jax.tree.unflatten(jax.tree.structure(state), put), earlier


def other_run() -> ValueError:
    """Return the error for the state of another run."""
    return ValueError("resume: this state belongs to a run of another kind or size; start over without it")


def _like(values: Array, fresh: Array) -> Array:
    """Return values placed on devices as in a fresh start, if there are several."""
    shared = not isinstance(fresh, Tracer) and len(fresh.sharding.device_set) > 1
    return jax.device_put(values, fresh.sharding) if shared else values


def _has_stalled(losses: np.ndarray, tolerance: float) -> bool:
    losses = losses[: len(losses) // CHUNK * CHUNK]  # otherwise it would depend on when callbacks are called
    if len(losses) <= PATIENCE:
        return False
    before, now = losses[:-PATIENCE].min(), losses.min()
    return bool(before - now <= tolerance * abs(before))


def _take_steps(
    loss: Callable,
    update: Callable,
    takes_more: bool,
    state: Any,
    key: Key,
    data: tuple[Any, ...],
    start: Any,
    count: Any,
) -> tuple[Any, Array, Array]:
    """Take `count` steps, or those before the first that would not be finite; the count is traced.

    So a shorter last chunk does not recompile, and the variables are always the last good ones.
    """
    # A new function, since JAX keeps what it traced, weights included, for as long as the function it traced lives.
    shape = jax.eval_shape(lambda *args: loss(*args), state[0], key, *data)
    several = shape.shape if shape.size > 1 else ()

    def step(carry: Any) -> Any:
        variables, memory, losses, good, i, _ = carry
        at = jax.random.fold_in(key, start + i)
        value, pull = jax.vjp(lambda x: loss(x, at, *data), variables)
        (grads,) = pull(jnp.ones_like(value))
        value_fn = lambda x: jnp.sum(loss(x, at, *data))
        more = {"value": jnp.sum(value), "grad": grads, "value_fn": value_fn} if takes_more else {}
        with by_its_own_rules():
            updates, new_memory = update(grads, memory, variables, **more)
            new = optax.apply_updates(variables, updates)
        finite = _all_finite((value, new), several)
        kept = jax.tree.map(functools.partial(_new_if, finite), (new, new_memory), (variables, memory))
        going = finite if finite.ndim == 0 else jnp.asarray(True)  # images do not wait for each other
        return *kept, losses.at[i].set(value), good.at[i].set(finite), i + 1, going

    empty = jnp.zeros((CHUNK, *shape.shape), shape.dtype)
    start_of = (*state, empty, jnp.full(empty.shape, True), jnp.asarray(0), jnp.asarray(True))
    body = hoist(step, start_of)
    *state, losses, good, _, _ = jax.lax.while_loop(lambda carry: (carry[4] < count) & carry[5], body, start_of)
    each = good.reshape(CHUNK, -1).all(1)
    taken = jnp.minimum(count, jnp.argmin(jnp.append(each, False)))
    return tuple(state), losses.reshape(CHUNK, -1).sum(1), taken


@contextlib.contextmanager
def by_its_own_rules() -> Iterator[None]:
    """Let optax promote ranks and dtypes, as with its step count, even if the user's program may not."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _all_finite(tree: Any, shape: tuple[int, ...]) -> Array:
    """Return whether all numbers are finite: per image, if `shape` is the number of images.

    Devices that share the images then need not communicate at every step.
    """
    leaves = [jnp.isfinite(leaf) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, [leaf.all(tuple(range(len(shape), leaf.ndim))) for leaf in leaves])


def _new_if(finite: Array, new: Array, old: Array) -> Array:
    """Return new values for the images for which they are finite; values not per image, such as a count, are new."""
    if finite.ndim == 0:
        return jnp.where(finite, new, old)
    if new.shape[:1] != finite.shape:
        return new
    return jnp.where(finite.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


_chunk = Compiled(_take_steps, static_argnums=(0, 1, 2))
_chunk_in_place = Compiled(_take_steps, static_argnums=(0, 1, 2), donate_argnums=3)


def _diverged(value: float, step: int) -> str:
    what = "the gradient is not finite" if np.isfinite(value) else f"the loss is {value}"
    return f"{what} at step {step}; a smaller learning rate may help"
