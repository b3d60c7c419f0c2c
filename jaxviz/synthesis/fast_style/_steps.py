"""Training steps of a style net: the loss, and one compiled loop."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, UInt8

from jaxviz._types import Images, Key, Net
from jaxviz.fast._swap import accelerate, hoist
from jaxviz.program._compiled import compiled
from jaxviz.program._edit import read_layers
from jaxviz.scores._likeness import FeatureMatch, GramMatch
from jaxviz.synthesis._minimize import by_its_own_rules
from jaxviz.synthesis._penalties import total_variation
from jaxviz.synthesis.fast_style._net import BORDER, STEP, apply, count_styles

Precision = Literal["float32", "bfloat16"]
NOISE = 0.02  # standard deviation, of images in [0, 1]: a quiet sensor's


class Job(NamedTuple):
    """What all training steps share: data of one compiled program."""

    fixed: Any  # the net to which styles are added, or None
    params: Any  # of the loss network
    grams: dict[str, Array]  # of all trained styles, (styles, c, c)
    content_weights: dict[str, ArrayLike]
    style_weights: dict[str, ArrayLike]
    smoothness: ArrayLike
    steadiness: tuple[ArrayLike, Key] | None  # a weight, and the key of the changes; None: not computed at all


def _joined(fixed: Any, trained: Any) -> Any:
    """Return the whole net's parameters."""
    if fixed is None:
        return trained
    rows = {
        name: {what: jnp.concatenate([fixed[name][what], new]) for what, new in layer.items()}
        for name, layer in trained.items()
    }
    return {name: layer | rows.get(name, {}) for name, layer in fixed.items()}


ADAM = optax.scale_by_adam()


@compiled(static_argnums=(0, 1, 2), donate_argnums=3)
def take_steps(
    net: Net,
    precision: Precision,
    optimizer: optax.GradientTransformation,
    state: Any,
    job: Job,
    images: UInt8[Array, "n steps h w 3"],
    chosen: Int[Array, "n steps"],
    rates: Float[Array, " steps"],
    numbers: Int[Array, " steps"],
    count: Any,
) -> tuple[Any, Float[Array, "steps 4"]]:
    """Take the first `count` of the steps: one program for all counts, with VGG's kernels prepared just once.

    `rates` multiply the optimizer's updates: minus the learning rate for Adam's directions, 1 for complete steps.
    `numbers` count the steps from the start of the training, whatever chunk they are taken in.
    """

    def body(carry: Any) -> Any:
        state, losses, i = carry
        batch = images[:, i].astype(rates.dtype) / 255
        state, parts = _step(net, precision, optimizer, state, job, batch, chosen[:, i], rates[i], numbers[i])
        return state, losses.at[i].set(parts.astype(losses.dtype)), i + 1

    start = (state, jnp.zeros((len(rates), 4)), jnp.asarray(0))
    state, losses, _ = jax.lax.while_loop(lambda carry: carry[2] < count, hoist(body, start), start)
    return state, losses


def _step(
    net: Net,
    precision: Precision,
    optimizer: optax.GradientTransformation,
    state: Any,
    job: Job,
    images: Images,
    chosen: Int[Array, " n"],
    rate: Any,
    number: Any,
) -> tuple[Any, Float[Array, "4"]]:
    """Take a step, unless it is not finite: then the losses are NaN and the state is unchanged."""
    trained, memory = state
    wanted = lambda trained: _loss(net, precision, trained, job, images, chosen, number)
    (loss, parts), grads = jax.value_and_grad(wanted, has_aux=True)(trained)
    takes_more = isinstance(optimizer, optax.GradientTransformationExtraArgs)
    more = {"value": loss, "grad": grads, "value_fn": lambda x: wanted(x)[0]} if takes_more else {}
    with by_its_own_rules():
        updates, new_memory = optimizer.update(grads, memory, trained, **more)
        new = optax.apply_updates(trained, optax.tree.scale(rate, updates))
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    kept = jax.tree.map(lambda x, y: jnp.where(finite, x, y), (new, new_memory), (trained, memory))
    return kept, jnp.where(finite, parts, jnp.nan)


def _loss(
    net: Net, precision: str, trained: Any, job: Job, images: Images, chosen: Any, number: Any
) -> tuple[Array, Array]:
    whole = _joined(job.fixed, trained)
    there = count_styles(whole)
    mix = jnp.eye(there)[chosen + there - count_styles(trained)]
    low = functools.partial(jax.tree.map, functools.partial(_cast, precision))
    high = lambda tree: jax.tree.map(lambda x: x.astype(images.dtype), tree)
    painted = accelerate(apply)(whole, low(images), mix)[0]
    params, names = low(job.params), tuple(dict.fromkeys([*job.content_weights, *job.style_weights]))
    targets = accelerate(read_layers(net, tuple(job.content_weights)))(params, low(images))
    values = accelerate(read_layers(net, names))(params, painted)
    grams = {name: gram[chosen] for name, gram in job.grams.items()}
    content = FeatureMatch(net, job.content_weights, high(targets)).pick(high(values))
    style = GramMatch(net, job.style_weights, grams).pick(high(values))
    smooth = job.smoothness * total_variation(high(painted))
    steady = jnp.zeros_like(smooth)
    if job.steadiness is not None:
        weight, key = job.steadiness
        shift, moved = _moved(jax.random.fold_in(key, number), images)
        again = accelerate(apply)(whole, low(moved), mix)[0]
        steady = weight * _change(high(jnp.roll(painted, shift, (1, 2))), high(again))
    parts = jnp.stack([-content, -style, smooth, steady]).mean(1)
    return parts.sum(), parts


def _moved(key: Key, images: Images) -> tuple[Array, Images]:
    """Return images as the next frame of a film might show them: up to 3 pixels away, with other noise."""
    at, noise = jax.random.split(key)
    shift = jax.random.randint(at, (2,), 0, STEP)
    noisy = jnp.roll(images, shift, (1, 2)) + NOISE * jax.random.normal(noise, images.shape, images.dtype)
    return shift, jnp.clip(noisy, 0, 1)


def _change(before: Images, after: Images) -> Float[Array, " n"]:
    """Return the mean squared difference of images, apart from their edges, where other pixels come in."""
    edge = [min(BORDER, side // 4) for side in before.shape[1:3]]
    inner = jnp.square(after - before)[:, edge[0] : -edge[0] or None, edge[1] : -edge[1] or None]
    return inner.mean((1, 2, 3))


def _cast(dtype: str, x: Any) -> Any:
    x = jnp.asarray(x)
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _falling(done: float, cooldown: float) -> float:
    return min(1.0, (1 - done) / cooldown) if cooldown else 1.0
