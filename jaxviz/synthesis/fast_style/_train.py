"""Training of a net that shows images in given styles in one pass, by the loss that `stylize` minimizes."""

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz._options import check_array, check_batch, check_count, check_least_zero, check_positive
from jaxviz._types import Images, Key, Net
from jaxviz.data._sharding import over_devices, whole_shares
from jaxviz.data._source import open_source
from jaxviz.image._checks import check_not_negative
from jaxviz.program._digest import digest_of, digest_of_program, with_gradient
from jaxviz.program._edit import read_layers
from jaxviz.scores._likeness import Layers, grams_of, proportions_of
from jaxviz.synthesis._colors import Image
from jaxviz.synthesis._minimize import DivergedError
from jaxviz.synthesis._octaves import resized
from jaxviz.synthesis._painting import scaled
from jaxviz.synthesis.fast_style._checkpoints import Keeper, StyleTraining, _alone_in_its_store, entropy_of
from jaxviz.synthesis.fast_style._net import count_styles, init_style_net
from jaxviz.synthesis.fast_style._photographs import crops_of, digest_of_source
from jaxviz.synthesis.fast_style._steps import OPTIMIZERS, Job, Method, Precision, _cast, _falling, _joined, take_steps

CONTENT_LAYERS = ("relu3_3",)
# About what the weights of Johnson et al.'s program come to on Van Gogh's "Starry Night", as is the default
# `style_weight`; of relu4_3 theirs leave nothing. With equal ones, strokes and tiles appear only where a photograph has
# little in it.
STYLE_LAYERS = {"relu1_2": 10.0, "relu2_2": 9.0, "relu3_3": 2.0, "relu4_3": 0.05}
LOOK = 8  # steps between two looks from the host; four times as many on accelerators, which wait meanwhile


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
    width: int = 32,
    blocks: int = 5,
    size: int = 256,
    batch_size: int = 4,
    steps: int = 40_000,
    content_weight: float = 1.0,
    style_weight: float = 20.0,
    content_layers: Layers = CONTENT_LAYERS,
    style_layers: Layers = STYLE_LAYERS,
    style_size: float = 1.0,
    smoothness: float = 8.0,
    optimizer: Method = "adam",
    learning_rate: float = 1e-3,
    cooldown: float = 0.0,
    precision: Precision = "float32",
    store: str | PathLike[str] | None = None,
    every: int = 500,
    callback: Callable[[StyleTraining], Any] | None = None,
) -> StyleTraining:
    """Train a net that shows any image in one of several styles in one pass.

    The loss of an image is the one that `stylize` minimizes with the same layers and weights, so the two can be
    compared. Each step takes a batch of random crops, mirrored or not, and the styles in turn; which, depends on the
    key and the step's number alone. A training that was stopped, even killed, continues from its last checkpoint in
    `store` and takes the steps that an undisturbed one takes, bit for bit. Several local devices share each batch.

    Args:
        net: the network that compares; the default layers are VGG-16's.
        params: its parameters.
        key: of the net's first parameters, the order of images, and the crops.
        source: photographs: a folder, a list, an array, or whatever else `features` takes. Up to 1 GB of them, some
            3,500 of the default size, stay in memory.
        styles: an image of any size for each style.
        start: parameters of a net of as many styles to begin with; None: random ones.
        add_to: parameters of a trained net, to which the styles are added: nothing but the new styles' own scales and
            offsets is trained.
        width: channels of the net's first layer, if it starts at random; see `style_net`.
        blocks: its residual blocks, likewise.
        size: of the crops, in pixels; photographs are read with a shorter side a quarter longer.
        batch_size: crops a step; rounded up to a multiple of the number of local devices.
        steps: how many, those before a resumption counted; a finished training can be given more of them.
        content_weight: of the relative error of features.
        style_weight: of the relative error of Gram matrices.
        content_layers: whose features; with weights, if it is a mapping.
        style_layers: whose Gram matrices; likewise.
        style_size: longer side of the styles, as a multiple of `size`: strokes grow with it.
        smoothness: weight of the total variation.
        optimizer: "adam", the paper's, or "muon": Muon for the 3x3 kernels and NAdam for the rest. With a good rate for
            each, 6e-3 and 1e-2, its loss after 600 steps of a small net was 9% lower, with layers of equal weight.
        learning_rate: of the optimizer.
        cooldown: the last part of the steps, in [0, 1], over which the learning rate falls to zero.
        precision: "bfloat16" computes the net and the network that compares in bfloat16, and the norms, the losses and
            the parameters in float32: meant for accelerators. An H100 took 8.5 ms a step of the default size in place
            of 11.5, and after 400 steps the loss was 0.2% higher; CPUs are slower.
        store: folder for checkpoints; None: the training cannot be resumed.
        every: steps from one checkpoint to the next.
        callback: called as `callback(training)` every few steps and at the end; if it returns true, the training is
            kept in `store` and ends. The memory of its parameters is used again after it returns: copy what you keep.

    Raises:
        ImageError: for a source without images, or of which none can be read.
        ValueError: for layers that are unknown or no maps, images of another shape, or a store of another training, or
            that another run is writing to.
        DivergedError: if the loss or its gradient stops being finite; its `found` has the last good parameters.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> photos, blue = jnp.full((2, 16, 16, 3), 0.5), jnp.ones((8, 8, 3)) * jnp.array([0.0, 0.0, 1.0])
        >>> options = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], "width": 2, "blocks": 1}
        >>> options |= {"size": 16, "steps": 40, "learning_rate": 0.03}
        >>> made = jaxviz.train_style_net(net, jnp.eye(3), jax.random.key(0), photos, [blue], **options)
        >>> print(made.losses.shape, bool(made.losses[-1].sum() < made.losses[0].sum()))
        (40, 3) True

    Johnson, Alahi & Fei-Fei 2016, Perceptual Losses for Real-Time Style Transfer and Super-Resolution; Dumoulin, Shlens
    & Kudlur 2017, A Learned Representation for Artistic Style.
    """
    _check(
        styles, precision, optimizer, cooldown=cooldown, size=size, steps=steps, every=every, batch_size=batch_size,
        width=width,
    )  # fmt: skip
    check_count("blocks", blocks, least=0)
    check_least_zero("smoothness", smoothness)
    check_positive("style_size", style_size)
    check_least_zero("learning_rate", learning_rate)
    opened, batch_size = open_source(source), whole_shares(batch_size)
    params, styles = jax.tree.map(functools.partial(_cast, "float32"), (params, list(styles)))
    sample = jnp.zeros((1, size, size, 3), jnp.float32)
    content_of = _weights("content_layers", content_layers, content_weight)
    style_of = _weights("style_layers", style_layers, style_weight)
    longest = style_size * size
    grams = [grams_of(net, tuple(style_of), params, _fit(style, longest), None) for style in styles]
    job = Job(add_to, params, jax.tree.map(lambda *x: jnp.concatenate(x), *grams), content_of, style_of, smoothness)
    trained = _start(key, start, add_to, width, blocks, len(styles))
    state = (trained, OPTIMIZERS[optimizer].init(trained))
    told = {
        "styles": [digest_of(style) for style in styles], "add_to": add_to and digest_of(add_to),
        "start": start and digest_of(start), "network": digest_of(params), "source": digest_of_source(opened),
        "key": entropy_of(key), "width": width, "blocks": blocks, "size": size, "batch_size": batch_size,
        "content": content_of, "style": style_of, "style_size": style_size, "smoothness": smoothness,
        "learning_rate": learning_rate, "precision": precision, "cooldown": cooldown,
    }  # fmt: skip
    told |= {"steps": steps} if cooldown else {}
    told |= {"optimizer": optimizer} if optimizer != "adam" else {}
    if store is not None:
        compared = with_gradient(read_layers(net, tuple(dict.fromkeys([*content_of, *style_of]))))
        told |= {"program": digest_of_program(compared, params, sample)}
    keeper = Keeper(store, told)
    state, losses = keeper.restored(state)
    state, job = over_devices(np.zeros(batch_size), (state, job))[1]
    found = StyleTraining(_joined(job.fixed, state[0]), losses, len(losses) >= steps)
    crops = crops_of(opened, key, len(losses), steps, size, batch_size)
    look = LOOK if jax.default_backend() == "cpu" else 4 * LOOK

    def chunk(done: int) -> tuple[Any, ...]:
        """Return what the steps after the first `done` need, on the devices."""
        count = max(0, min(look - done % look, every - done % every, steps - done))
        taken = list(itertools.islice(crops, count)) or [np.zeros((batch_size, size, size, 3), np.uint8)]
        images = np.stack(taken + taken[-1:] * (look - len(taken)), axis=1)
        numbers = np.arange(done, done + look)
        chosen = (np.arange(batch_size)[:, None] + numbers * batch_size) % len(styles)
        rates = np.array([learning_rate * _falling(i / steps, cooldown) for i in numbers], np.float32)
        return *jax.device_put(over_devices((images, chosen), ())[0]), rates, count

    reader = ThreadPoolExecutor(1)  # reads while the devices compute; what goes wrong is raised when its turn has come
    ahead = reader.submit(chunk, len(losses))
    while not found.finished:
        *given, count = ahead.result()
        ahead = reader.submit(chunk, len(losses) + count)
        state, parts = take_steps(net, precision, optimizer, state, job, *given, count)
        losses = np.concatenate([losses, np.asarray(parts)[:count]])
        found = StyleTraining(_joined(job.fixed, state[0]), losses, len(losses) >= steps)
        _check_finite(found)
        stopped = callback is not None and callback(found)
        if stopped or found.finished or len(losses) % every == 0:
            keeper.keep(state, losses)
        if stopped:
            break
    return found


def _check(styles: Sequence[Any], precision: str, optimizer: str, *, cooldown: float, **counts: int) -> None:
    for name, count in counts.items():
        check_count(name, count)
    if not 0 <= cooldown <= 1:
        raise ValueError(f"cooldown: expected a part in [0, 1], got {cooldown}")
    for name, value, known in (("precision", precision, Precision), ("optimizer", optimizer, Method)):
        if value not in get_args(known):
            raise ValueError(f"{name}: expected {' or '.join(map(repr, get_args(known)))}, got {value!r}")
    if not isinstance(styles, Sequence) or not len(styles):
        got = "none" if isinstance(styles, Sequence) else f"{type(styles).__name__}: list(styles) is one"
        raise ValueError(f"styles: expected a list of images (h, w, 3), one for each style, got {got}")
    for style in styles:
        check_array("styles", style)
        check_batch("styles", style[None])


def _weights(what: str, names: Layers, weight: float) -> dict[str, Any]:
    """Return the weight of each layer: its share of the whole."""
    check_not_negative(f"the weight of {what}", weight)
    return {name: weight * share for name, share in proportions_of(what, names).items()}


def _fit(style: Image, longest: float) -> Images:
    images = jnp.asarray(style)[None]
    return resized(images, scaled(images, longest))


def _start(key: Key, start: Any, add_to: Any, width: int, blocks: int, styles: int) -> Any:
    """Return what is trained: a net, or the scales and offsets of new styles, each the mean of those there are."""
    if start is not None:
        if add_to is not None:
            raise ValueError("start, add_to: expected one of them; styles that are added start from those there are")
        if count_styles(start) != styles:
            raise ValueError(f"start: expected a net of {styles} styles, got one of {count_styles(start)}")
        return jax.tree.map(jnp.array, start)  # a copy, whose memory the training may use again
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
