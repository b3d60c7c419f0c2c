"""The one loop under every synthesized image."""

import contextlib
import dataclasses
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
from jaxviz._types import Images, Key
from jaxviz.fast._swap import hoist
from jaxviz.program._compiled import Compiled

CHUNK = 8  # steps between two looks from the host: enough to hide dispatch, few enough to stop soon
PATIENCE = 32  # steps over which a loss must fall
HISTORY = 20  # of L-BFGS: 100 made the loss 0.8% lower after 100 steps (128 px); at 1024 px they are 2 GB more

Callback = Callable[["Minimized"], Any]
"""Called between chunks of steps with where the run is; what it returns, if true, ends the run."""


class _Minimized(NamedTuple):
    """Where a run is, or how it ended."""

    variables: Any
    """After the last step."""
    losses: Float[Array, " steps"]
    """Before each step."""
    state: list[Array]
    """All that the next step depends on; given as `resume`, the run continues."""
    finished: bool
    """False if it is still going on, or was ended by its callback."""


class Minimized(Progress, _Minimized):
    """Where a run is, or how it ended."""


class DivergedError(FloatingPointError):
    """A loss, or what was made of its gradient, was not finite; `found` is the run before that step."""

    def __init__(self, message: str, found: Any) -> None:
        super().__init__(message)
        self.found = found


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
) -> Minimized:
    """Minimise `loss(variables, key, *data)` with an optax optimizer, in compiled chunks of steps.

    Step `i` gets `jax.random.fold_in(key, i)`, so the result does not depend on the chunks, nor on being stopped and
    resumed. What changes between calls belongs in `data`, which is traced; calls with the same `loss` and `optimizer`
    objects and the same shapes compile nothing new. Of the optimizer only its `update` counts: a step size that `init`
    puts into the state is data. One that takes extra arguments is given `value`, `grad` and `value_fn`.

    Args:
        loss: returns a scalar, or a number for each of several images, the first axis of all variables: their sum is
            minimized, with no word between devices that share the images.
        variables: a pytree of arrays to start from; not modified.
        key: randomness of the loss.
        data: further arguments of the loss: parameters, scores, targets.
        steps: how many, those before a resumption counted.
        optimizer: any optax transformation; projections such as clipping to [0, 1] are part of it.
        tolerance: stop when the least loss has not fallen by more than this fraction of itself over 32 steps; None:
            take all steps, as under `jit` and `vmap`.
        every: steps from one callback to the next.
        resume: the `state` of an earlier run with the same arguments, to go on from where it was.
        callback: called as `callback(minimized)` with the variables so far, and at the end; if it returns true, the run
            ends (see `Progress`). The memory of the variables and the state is used again after it returns: copy what
            you keep.

    Raises:
        DivergedError: at the chunk where the loss stops being finite, with the step; its `found` is the run before; of
            several images with a number each, the others may be some steps further.
        ValueError: if there are no steps or half ones, for what is no optimizer, or if `resume` is of another run.

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
    """Yield where a run of `minimize` is, every so many steps and at its end.

    The memory of what was yielded is used again for the next. Where a step would not be finite, the run before it is
    yielded, and DivergedError raised if one asks for more.
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
    """Return what a run comes to, as `show` shows it: at its end, or where its callback ends it.

    What there was before a run diverged is in the error, shown alike. Nothing is shown that nobody looks at.
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
    history = _joined(losses)
    found = Minimized(state[0], history, [*jax.tree.leaves(state), history], finished)
    return found.told("minimize", len(history), steps)


def _joined(losses: list[Any]) -> Array:
    """Return losses as one array, put together on the host where it can be: each length would be a new program."""
    losses = [part for part in losses if part.size] or losses[:1]  # none at all have the type of none of the others
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
    """Return the error for a state that is not of this run."""
    return ValueError("resume: this state is of a run of another kind or size; start over without it")


def _like(values: Array, fresh: Array) -> Array:
    """Return values on the devices where a fresh start has them, if those are several."""
    shared = not isinstance(fresh, Tracer) and len(fresh.sharding.device_set) > 1
    return jax.device_put(values, fresh.sharding) if shared else values


def _has_stalled(losses: np.ndarray, tolerance: float) -> bool:
    losses = losses[: len(losses) // CHUNK * CHUNK]  # or else it would depend on where the run was looked at
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

    So a shorter last chunk compiles nothing, and the variables are always the last good ones.
    """
    # By a function of its own: JAX keeps what it traced, weights included, for as long as what it was given to trace.
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
        going = finite if finite.ndim == 0 else jnp.asarray(True)  # several images do not wait for each other
        return *kept, losses.at[i].set(value), good.at[i].set(finite), i + 1, going

    empty = jnp.zeros((CHUNK, *shape.shape), shape.dtype)
    start_of = (*state, empty, jnp.full(empty.shape, True), jnp.asarray(0), jnp.asarray(True))
    turn = hoist(step, start_of)
    *state, losses, good, _, _ = jax.lax.while_loop(lambda carry: (carry[4] < count) & carry[5], turn, start_of)
    each = good.reshape(CHUNK, -1).all(1)
    taken = jnp.minimum(count, jnp.argmin(jnp.append(each, False)))
    return tuple(state), losses.reshape(CHUNK, -1).sum(1), taken


@contextlib.contextmanager
def by_its_own_rules() -> Iterator[None]:
    """Let optax promote ranks and types, as it does with the number of a step, where the user's program may not."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _all_finite(tree: Any, shape: tuple[int, ...]) -> Array:
    """Tell whether all numbers are finite; for each of several images, if the shape is their number.

    Devices that share the images then need not ask each other at every step.
    """
    leaves = [jnp.isfinite(leaf) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, [leaf.all(tuple(range(len(shape), leaf.ndim))) for leaf in leaves])


def _new_if(finite: Array, new: Array, old: Array) -> Array:
    """Return the new value, of those images for which it is finite; what is of no image, such as a count, is new."""
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


# Images as what is minimized


class _Synthesis(NamedTuple):
    """Images that were made, or are being made, step by step."""

    images: Images
    """`(n, h, w, c)` in [0, 1]."""
    losses: Float[Array, " steps"]
    """Before each step."""
    state: list[Array]
    """All that the next step depends on; given as `resume`, the run continues."""
    finished: bool
    """False if it is still going on, or was ended by its callback."""


class Synthesis(Progress, _Synthesis):
    """Images that were made, or are being made, step by step."""


Watch = Callable[[Synthesis], Any]
"""Called between chunks of steps with the images so far; what it returns, if true, ends the run."""


@dataclasses.dataclass
class Part:
    """One of several runs, which are followed as one; a true value of the callback ends all of them."""

    callback: Watch | None
    what: str
    number: int
    count: int
    ended: bool = False

    def __call__(self, found: Synthesis) -> bool:
        what, total = f"{self.what}: {found.what}", self.count * found.total
        self.ended = bool(
            self.callback and self.callback(found.told(what, self.number * found.total + found.done, total))
        )
        return self.ended

    def options(self) -> dict[str, Any]:
        """Return what to tell the run: nothing, if nobody looks."""
        return {} if self.callback is None else {"callback": self}


class Look(NamedTuple):
    """Where a run of images is; they are made when somebody looks."""

    show: Callable[[], Images]
    losses: Float[Array, " steps"]
    state: list[Array]
    finished: bool
    done: int
    total: int
    stage: str = ""

    def synthesis(self, method: str) -> Synthesis:
        """Return the images, with the name of the method that makes them."""
        found = Synthesis(self.show(), self.losses, self.state, self.finished)
        return found.told(f"{method}, {self.stage}" if self.stage else method, self.done, self.total)


def looks(show: Callable[[Any], Images], run: Iterator[Minimized]) -> Iterator[Look]:
    """Yield the looks at a run of variables that `show` makes images of."""
    for found in run:
        yield Look(functools.partial(show, found.variables), *found[1:], found.done, found.total)


Stage = Callable[[int, Images | None, Sequence[Any] | None], Iterator[Look]]
"""`stage(i, images, resume)`: the images of the stage before, None if there was none or it is resumed."""


def in_stages(stage: Stage, count: int, resume: Sequence[Any] | None) -> Iterator[Look]:
    """Yield the looks at stages one after the other, each from the images of the one before, as one run."""
    first, earlier, state = (0, np.zeros(0), None) if resume is None else _of_stage(resume, count)
    images = None
    for i in range(first, count):
        before, look = _joined([earlier] if len(earlier) else []), None
        for look in stage(i, images, state):
            losses = _joined([before, look.losses])
            state = [jnp.asarray(i), before, *look.state]
            done, total = len(before) + look.done, len(before) + (count - i) * look.total
            where = f"octave {i + 1} of {count}" if count > 1 else ""
            look = Look(look.show, losses, state, look.finished and i == count - 1, done, total, where)
            yield look
        assert look is not None
        images, earlier, state = look.show(), look.losses, None


def _of_stage(resume: Sequence[Any], count: int) -> tuple[int, np.ndarray, Sequence[Any]]:
    """Return at which stage a run was stopped, the losses of those before it, and the state of that one."""
    if len(resume) < 2 or jnp.ndim(resume[0]) or jnp.ndim(resume[1]) != 1:
        raise other_run()
    stage = np.asarray(resume[0])
    if stage.dtype.kind not in "iu" or not 0 <= stage < count:
        raise other_run()
    return int(stage), np.asarray(resume[1]), resume[2:]
