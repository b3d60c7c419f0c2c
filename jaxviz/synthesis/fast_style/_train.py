"""Training of a net that renders images in given styles in one pass, with the loss that `stylize` minimizes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxviz._options import (
    check_array,
    check_batch,
    check_count,
    check_least_zero,
    check_optimizer,
    check_positive,
    check_run,
)
from jaxviz._types import Images, Key, Net
from jaxviz.data._sharding import over_devices, whole_shares
from jaxviz.image._checks import check_not_negative
from jaxviz.program._digest import digest_of, digest_of_program, with_gradient
from jaxviz.program._edit import read_layers
from jaxviz.program._once import once
from jaxviz.scores._likeness import Layers, grams_of, proportions_of
from jaxviz.show._bar import Watcher, followed
from jaxviz.synthesis._colors import Image
from jaxviz.synthesis._minimize import DivergedError, by_its_own_rules
from jaxviz.synthesis._octaves import resized
from jaxviz.synthesis._painting import scaled
from jaxviz.synthesis.fast_style._checkpoints import Keeper, StyleTraining, _alone_in_its_store, entropy_of
from jaxviz.synthesis.fast_style._net import count_blocks, count_channels, count_styles, init_style_net
from jaxviz.synthesis.fast_style._photographs import crops_of, digest_of_source, open_photographs
from jaxviz.synthesis.fast_style._steps import ADAM, Job, Precision, _cast, _falling, _joined, take_steps

CONTENT_LAYERS = ("relu3_3",)
# Like the default `style_weight`, about what the weights of Johnson et al.'s program amount to for Van Gogh's "Starry
# Night"; theirs leave almost nothing of relu4_3. With equal weights, strokes and tiles appear only in empty areas of a
# photograph.
STYLE_LAYERS = {"relu1_2": 10.0, "relu2_2": 9.0, "relu3_3": 2.0, "relu4_3": 0.05}
LOOK = 8  # steps per chunk, between which the host checks; four times as many on accelerators, which wait meanwhile


@followed
@_alone_in_its_store
def train_style_net(
    net: Net,
    params: Any,
    key: Key,
    source: Any,
    styles: Sequence[Image],
    *,
    start: Any = None,
    add_to: Any = None,
    width: int | None = None,
    blocks: int | None = None,
    size: int = 256,
    batch_size: int = 4,
    steps: int = 40_000,
    content_weight: float = 1.0,
    style_weight: float = 20.0,
    content_layers: Layers = CONTENT_LAYERS,
    style_layers: Layers = STYLE_LAYERS,
    style_size: float | Sequence[float] = 1.0,
    smoothness: float = 8.0,
    steadiness: float = 0.0,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | None = None,
    cooldown: float = 0.0,
    precision: Precision = "float32",
    store: str | PathLike[str] | None = None,
    checkpoint_every: int = 500,
    every: int = 8,
    callback: Callable[[StyleTraining], Any] | None = None,
    progress: Watcher = False,
) -> StyleTraining:
    """Train a net that renders any image in one of several styles in one pass.

    The loss of an image is what `stylize` minimizes with the same layers and weights, so the two can be compared. Each
    step uses a batch of random crops, mirrored at random, and cycles through the styles; both depend only on the key
    and the step's number. A training run that was stopped, even killed, resumes from its last checkpoint in `store` and
    takes the same steps as an uninterrupted one, bit for bit. Several local devices share each batch.

    Args:
        net: the loss network, which compares images; the default layers are VGG-16's.
        params: its parameters.
        key: the random key, for the style net's initial parameters, the order of images, and the crops.
        source: photographs: a folder, a list, an array, or anything else that `features` takes. Up to 1 GB of them,
            about 3,500 of the default size, stay in memory.
        styles: an image of any size, `(h, w, 3)` in [0, 1], for each style.
        start: parameters of a net with the same number of styles to start from; None: random ones.
        add_to: parameters of a trained net to add the styles to: only the new styles' own scales and offsets are
            trained.
        width: the number of channels of the net's first layer; None: 32, or those of `start` or `add_to`.
        blocks: the number of its residual blocks; None: 5, or those of `start` or `add_to`.
        size: the side of the crops in pixels; photographs are read with a shorter side 1.25 times as long.
        batch_size: crops per step; rounded up to a multiple of the number of local devices.
        steps: the total number of steps, including those before a resume; a finished run can be given more.
        content_weight: the weight of the relative error of features.
        style_weight: the weight of the relative error of Gram matrices.
        content_layers: the layers whose features are compared; with weights, if it is a mapping.
        style_layers: the layers whose Gram matrices are compared; likewise.
        style_size: the longer side of the styles, as a multiple of `size`: strokes grow with it. Or one for each style:
            with the same image at several sizes, named as in "scream@512", `restyle` chooses by the photograph's size.
        smoothness: the weight of the total variation.
        steadiness: the weight of the mean squared change of a pixel when the photograph moves by up to 3 pixels and has
            other noise, as from one frame of a video to the next. It costs one more pass of the style net.
        optimizer: any optax transformation, such as `muon(1e-2)`, with its own learning rate; None: Adam, as in the
            paper. A `store` is tied to what it computes; passing the same object again does not recompile.
        learning_rate: the learning rate of Adam; None: 1e-3.
        cooldown: for Adam, the last fraction of the steps, in [0, 1], over which the learning rate falls to zero.
        precision: "bfloat16" runs the style net and the loss network in bfloat16, with norms, losses and parameters in
            float32; it is meant for accelerators. At the default size, a step on an H100 took 8.5 ms instead of 11.5,
            and after 400 steps the loss was 0.2% higher; CPUs are slower with it.
        store: the folder for checkpoints; None: the run cannot be resumed.
        checkpoint_every: the number of steps between checkpoints; there is one at the end, too.
        every: the number of steps between callbacks; there is one at each checkpoint, too.
        callback: called as `callback(training)` with the net so far; if it returns true, the run is saved in `store`
            and ends. The memory of its parameters is reused when it returns: copy what you want to keep.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        The net's parameters, and the four parts of the loss before each step, `(steps, 4)`.

    Raises:
        ImageError: if the source has no images, or none of them can be read.
        ValueError: for layers that are unknown or have no maps, images of another shape, another width or number of
            blocks than those of `start` or `add_to`, a learning rate or a cooldown together with an optimizer, which
            would ignore it, or a store that belongs to another run or that another
            run is writing to.
        DivergedError: if the loss or its gradient stops being finite; its `found` has the last good parameters.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> photos, blue = jnp.full((2, 16, 16, 3), 0.5), jnp.full((8, 8, 3), jnp.array([0.0, 0.0, 1.0]))
        >>> options = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], "width": 2, "blocks": 1}
        >>> options |= {"size": 16, "steps": 40, "learning_rate": 0.03}
        >>> made = jaxviz.train_style_net(net, jnp.eye(3), jax.random.key(0), photos, [blue], **options)
        >>> print(made.losses.shape, bool(made.losses[-1].sum() < made.losses[0].sum()))
        (40, 4) True

    Johnson, Alahi & Fei-Fei 2016, Perceptual Losses for Real-Time Style Transfer and Super-Resolution; Dumoulin, Shlens
    & Kudlur 2017, A Learned Representation for Artistic Style.
    """
    _check(
        styles, precision, optimizer, learning_rate, cooldown=cooldown, size=size, batch_size=batch_size,
        checkpoint_every=checkpoint_every,
    )  # fmt: skip
    check_run(steps=steps, every=every, callback=callback)
    width, blocks = _sizes(width, blocks, start if add_to is None else add_to)
    check_least_zero("smoothness", smoothness)
    check_least_zero("steadiness", steadiness)
    sides = _sides(style_size, len(styles))
    net, opened, batch_size = once(net), open_photographs(source), whole_shares(batch_size)
    params, styles = jax.tree.map(functools.partial(_cast, "float32"), (params, list(styles)))
    content_of = _weights("content_layers", content_layers, content_weight)
    style_of = _weights("style_layers", style_layers, style_weight)
    fitted = [_fit(style, side * size) for style, side in zip(styles, sides, strict=True)]
    grams = [grams_of(net, tuple(style_of), params, image, None) for image in fitted]
    steady = (steadiness, key) if steadiness else None
    compared = jax.tree.map(lambda *x: jnp.concatenate(x), *grams)
    job = Job(add_to, params, compared, content_of, style_of, smoothness, steady)
    trained = _start(key, start, add_to, width, blocks, len(styles))
    rate = 1e-3 if learning_rate is None and optimizer is None else learning_rate
    told = {
        "styles": [digest_of(style) for style in styles], "add_to": add_to and digest_of(add_to),
        "start": start and digest_of(start), "network": digest_of(params), "source": digest_of_source(opened),
        "key": entropy_of(key), "width": width, "blocks": blocks, "size": size, "batch_size": batch_size,
        "content": content_of, "style": style_of, "style_size": sides, "smoothness": smoothness,
        "steadiness": steadiness, "learning_rate": rate, "precision": precision, "cooldown": cooldown,
    }  # fmt: skip
    told |= {"steps": steps} if cooldown else {}
    told |= {} if optimizer is None else {"optimizer": _digest_of_optimizer(optimizer, trained)}
    if store is not None:
        compared = with_gradient(read_layers(net, tuple(dict.fromkeys([*content_of, *style_of]))))
        told |= {"program": digest_of_program(compared, params, jnp.zeros((1, size, size, 3), jnp.float32))}
    plan = _Plan(steps, len(styles), batch_size, size, rate, cooldown)
    step = functools.partial(take_steps, net, precision, ADAM if optimizer is None else optimizer)
    keeper, watch = Keeper(store, told), _Watch(callback, every, checkpoint_every)
    fresh = trained, (ADAM if optimizer is None else optimizer).init(trained)
    return _trained(step, keeper, plan, watch, fresh, job, functools.partial(crops_of, opened, key))


class _Plan(NamedTuple):
    """What the batches of a training run depend on."""

    steps: int
    styles: int
    batch_size: int
    size: int
    rate: float | None  # of Adam; None: the optimizer has its own
    cooldown: float


class _Watch(NamedTuple):
    """When a training run calls back and saves a checkpoint."""

    callback: Callable[[StyleTraining], Any] | None
    every: int
    checkpoint_every: int

    def left(self, done: int) -> int:
        """Return how many steps may be taken at once."""
        kept = self.checkpoint_every - done % self.checkpoint_every
        return kept if self.callback is None else min(kept, self.every - done % self.every)

    def ends(self, found: StyleTraining) -> bool:
        """Call back, if it is due, and return whether the run is to end."""
        done = len(found.losses)
        due = found.finished or done % self.every == 0 or done % self.checkpoint_every == 0
        return self.callback is not None and due and bool(self.callback(found))


def _trained(
    step: Callable[..., Any], keeper: Keeper, plan: _Plan, watch: _Watch, fresh: Any, job: Job, crops: Any
) -> StyleTraining:
    """Take the remaining steps, saving checkpoints."""
    state, losses = keeper.restored(fresh)
    state, job = over_devices(np.zeros(plan.batch_size), (state, job))[1]
    found = _where(job, state, losses, plan)
    batches = crops(len(losses), plan.steps, plan.size, plan.batch_size)
    reader = ThreadPoolExecutor(1)  # reads while the devices compute; its errors are raised by `result`
    ahead = reader.submit(_chunk, plan, batches, watch, len(losses))
    while not found.finished:
        *given, count = ahead.result()
        ahead = reader.submit(_chunk, plan, batches, watch, len(losses) + count)
        state, parts = step(state, job, *given, count)
        losses = np.concatenate([losses, np.asarray(parts)[:count]])
        found = _where(job, state, losses, plan)
        _check_finite(found)
        stopped = watch.ends(found)
        if stopped or found.finished or len(losses) % watch.checkpoint_every == 0:
            keeper.keep(state, losses)
        if stopped:
            break
    return found


def _where(job: Job, state: Any, losses: np.ndarray, plan: _Plan) -> StyleTraining:
    found = StyleTraining(_joined(job.fixed, state[0]), losses, len(losses) >= plan.steps)
    return found.told("train_style_net", len(losses), plan.steps)


def _chunk(plan: _Plan, crops: Iterator[np.ndarray], watch: _Watch, done: int) -> tuple[Any, ...]:
    """Return the data of the steps after the first `done`, on the devices."""
    look = LOOK if jax.default_backend() == "cpu" else 4 * LOOK
    count = max(0, min(look - done % look, watch.left(done), plan.steps - done))
    nothing = np.zeros((plan.batch_size, plan.size, plan.size, 3), np.uint8)
    taken = list(itertools.islice(crops, count)) or [nothing]
    images = np.stack(taken + taken[-1:] * (look - len(taken)), axis=1)
    numbers = np.arange(done, done + look)
    chosen = (np.arange(plan.batch_size)[:, None] + numbers * plan.batch_size) % plan.styles
    rates = np.ones(look, np.float32)
    if plan.rate is not None:
        rates = np.array([-plan.rate * _falling(i / plan.steps, plan.cooldown) for i in numbers], np.float32)
    return *jax.device_put(over_devices((images, chosen), ())[0]), rates, numbers, count


def _digest_of_optimizer(optimizer: optax.GradientTransformation, trained: Any) -> str:
    """Return a digest of what an optimizer computes and of its initial state."""
    with by_its_own_rules():
        memory = optimizer.init(trained)
        step = lambda memory, trained: optimizer.update(trained, memory, trained)
        return f"{digest_of(memory)} {digest_of_program(step, memory, trained)}"


def _check(
    styles: Sequence[Any], precision: str, optimizer: Any, learning_rate: Any, *, cooldown: float, **counts: int
) -> None:
    for name, count in counts.items():
        check_count(name, count)
    if not 0 <= cooldown <= 1:
        raise ValueError(f"cooldown: expected a fraction in [0, 1], got {cooldown}")
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected {' or '.join(map(repr, get_args(Precision)))}, got {precision!r}")
    if isinstance(optimizer, str):
        raise ValueError(
            "optimizer: expected an optax transformation such as jaxviz.muon(1e-2), or None for Adam, got "
            f"{optimizer!r}"
        )
    if optimizer is not None:
        check_optimizer(optimizer)
        for name, given in (("learning_rate", learning_rate is not None), ("cooldown", cooldown > 0)):
            if given:
                raise ValueError(f"{name}: expected none beside an optimizer, which has its own: it would be ignored")
    if learning_rate is not None:
        check_least_zero("learning_rate", learning_rate)
    if not isinstance(styles, Sequence) or not len(styles):
        got = "none" if isinstance(styles, Sequence) else f"{type(styles).__name__}: list(styles) is one"
        raise ValueError(f"styles: expected a list of images (h, w, 3), one for each style, got {got}")
    for style in styles:
        check_array("styles", style)
        check_batch("styles", style[None], channels=3)


def _weights(what: str, names: Layers, weight: float) -> dict[str, Any]:
    """Return the weight of each layer: its share of the total weight."""
    check_not_negative(f"the weight of {what}", weight)
    return {name: weight * share for name, share in proportions_of(what, names).items()}


def _sides(style_size: Any, styles: int) -> list[float]:
    """Return the longer side of each style, as a multiple of the crops'."""
    sides = [style_size] * styles if np.ndim(style_size) == 0 else list(style_size)
    if len(sides) != styles:
        raise ValueError(f"style_size: expected one number, or one for each of {styles} styles, got {len(sides)}")
    for side in sides:
        check_positive("style_size", side)
    return [float(side) for side in sides]


def _fit(style: Image, longest: float) -> Images:
    images = jnp.asarray(style)[None]
    return resized(images, scaled(images, longest))


def _sizes(width: int | None, blocks: int | None, old: Any) -> tuple[int, int]:
    """Return the width and the number of blocks of a net; those of an old one that is trained further are its own."""
    for name, given, least in (("width", width, 1), ("blocks", blocks, 0)):
        if given is not None:
            check_count(name, given, least=least)
    if old is not None:
        for name, given, own in (("width", width, count_channels(old)), ("blocks", blocks, count_blocks(old))):
            if given not in (None, own):
                raise ValueError(f"{name}: expected None or {own}, as start or add_to has, got {given}")
    return 32 if width is None else width, 5 if blocks is None else blocks


def _start(key: Key, start: Any, add_to: Any, width: int, blocks: int, styles: int) -> Any:
    """Return what is trained: a net, or scales and offsets of new styles, initially the mean of the existing ones."""
    if start is not None:
        if add_to is not None:
            raise ValueError("start, add_to: expected at most one of them; added styles start from the existing ones")
        if count_styles(start) != styles:
            raise ValueError(f"start: expected a net with {styles} styles, got one with {count_styles(start)}")
        return jax.tree.map(jnp.array, start)  # a copy, whose memory may be reused
    if add_to is None:
        return init_style_net(key, width=width, blocks=blocks, styles=styles)
    mean = lambda rows: jnp.repeat(rows.mean(0, keepdims=True), styles, 0)
    return {
        name: {what: mean(layer[what]) for what in ("scale", "offset")}
        for name, layer in add_to.items()
        if "scale" in layer
    }


def _check_finite(found: StyleTraining) -> None:
    bad = ~np.isfinite(found.losses).all(1)
    if bad.any():
        raise DivergedError(
            f"the loss or its gradient is not finite at step {bad.argmax()}; a smaller learning rate may help", found
        )
