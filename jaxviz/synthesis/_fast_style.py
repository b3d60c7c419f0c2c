"""Training of a net that shows images in given styles in one pass, by the loss that `stylize` minimises."""

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, UInt8

from jaxviz._accelerate import accelerate, hoist
from jaxviz._devices import over_devices, whole_shares
from jaxviz._digest import digest_of, digest_of_program, with_gradient
from jaxviz._files import alone_in
from jaxviz._image import ImageError, as_bytes, read_pixels
from jaxviz._interpret import read_layers
from jaxviz._types import Images, Key, Net
from jaxviz.activation._store import claim, traced_by
from jaxviz.data._batches import batches
from jaxviz.data._source import Source, open_source
from jaxviz.models._style_net import apply, count_styles, init_style_net
from jaxviz.synthesis._dream import resized
from jaxviz.synthesis._minimize import DivergedError, by_its_own_rules
from jaxviz.synthesis._options import check_array, check_batch, check_count, check_least_zero, check_positive
from jaxviz.synthesis._style import Image, Layers, Terms, compare, grams_of, scaled, weights_of

Precision = Literal["float32", "bfloat16"]
Method = Literal["adam", "muon"]

CONTENT_LAYERS = ("relu3_3",)
# About what the weights of Johnson et al.'s program come to on Van Gogh's "Starry Night", as is the default
# `style_weight`; of relu4_3 theirs leave nothing. With equal ones, strokes and tiles appear only where a photograph has
# little in it.
STYLE_LAYERS = {"relu1_2": 10.0, "relu2_2": 9.0, "relu3_3": 2.0, "relu4_3": 0.05}
LOOK = 8  # steps between two looks from the host; four times as many on accelerators, which wait meanwhile
KEPT = 2**30  # bytes of photographs that stay in memory, of 320 px 3,500


class StyleTraining(NamedTuple):
    """Where the training of a net is, or how it ended."""

    params: Any
    """Of the net, for `style_net`."""
    losses: Float[np.ndarray, "steps 3"]
    """Content, style and smoothness, each with its weight, of the batch before each step; the loss is their sum."""
    finished: bool
    """False if it is still going on, or was ended by its callback."""


class _Job(NamedTuple):
    """What all steps of a training share: data of one compiled program."""

    fixed: Any  # the net that styles are added to, or None
    params: Any  # of the network that compares
    grams: dict[str, Array]  # of all styles that are trained, (styles, c, c)
    content_weights: dict[str, ArrayLike]
    style_weights: dict[str, ArrayLike]
    smoothness: ArrayLike


def _alone_in_its_store(train: Any) -> Any:
    """Keep two trainings from writing to one store, where each would undo what the other does."""

    @functools.wraps(train)
    def alone(*args: Any, store: str | PathLike[str] | None = None, **options: Any) -> StyleTraining:
        with contextlib.nullcontext() if store is None else alone_in(Path(store)):
            return train(*args, store=store, **options)

    return alone


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

    The loss of an image is the one that `stylize` minimises with the same layers and weights, so the two can be
    compared. Each step takes a batch of random crops, mirrored or not, and the styles in turn; which, depends on the
    key and the step's number alone. A training that was stopped, even killed, goes on from its last checkpoint in
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
        store: folder for checkpoints; None: the training cannot be gone on with.
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
    content_of = weights_of(net, params, sample, "content_layers", content_layers, content_weight)
    style_of = weights_of(net, params, sample, "style_layers", style_layers, style_weight)
    longest = style_size * size
    grams = [grams_of(net, tuple(style_of), params, _fit(style, longest), None) for style in styles]
    job = _Job(add_to, params, jax.tree.map(lambda *x: jnp.concatenate(x), *grams), content_of, style_of, smoothness)
    trained = _start(key, start, add_to, width, blocks, len(styles))
    state = (trained, _OPTIMIZERS[optimizer].init(trained))
    told = {
        "styles": [digest_of(style) for style in styles], "add_to": add_to and digest_of(add_to),
        "start": start and digest_of(start),
        "network": digest_of(params), "source": _digest(opened), "key": _entropy(key), "width": width, "blocks": blocks,
        "size": size, "batch_size": batch_size, "content": content_of, "style": style_of, "style_size": style_size,
        "smoothness": smoothness, "learning_rate": learning_rate, "precision": precision, "cooldown": cooldown,
    }  # fmt: skip
    told |= {"steps": steps} if cooldown else {}
    told |= {"optimizer": optimizer} if optimizer != "adam" else {}
    if store is not None:
        compared = with_gradient(read_layers(net, tuple(dict.fromkeys([*content_of, *style_of]))))
        told |= {"program": digest_of_program(compared, params, sample)}
    keeper = _Keeper(store, told)
    state, losses = keeper.restored(state)
    state, job = over_devices(np.zeros(batch_size), (state, job))[1]
    found = StyleTraining(_joined(job.fixed, state[0]), losses, len(losses) >= steps)
    crops = _crops(opened, key, len(losses), steps, size, batch_size)
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
        state, parts = _take_steps(net, precision, optimizer, state, job, *given, count)
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
    mean = lambda rows: jnp.repeat(rows.mean(0, keepdims=True), styles, 0)  # noqa: E731
    return {
        name: {what: mean(layer[what]) for what in ("scale", "offset")}
        for name, layer in add_to.items()
        if "scale" in layer
    }


def _joined(fixed: Any, trained: Any) -> Any:
    """Return the parameters of the whole net."""
    if fixed is None:
        return trained
    rows = {
        name: {what: jnp.concatenate([fixed[name][what], new]) for what, new in layer.items()}
        for name, layer in trained.items()
    }
    return {name: layer | rows.get(name, {}) for name, layer in fixed.items()}


# A step


def _muon() -> optax.GradientTransformation:
    """Return Muon for the 3x3 kernels, all of one shape at once, and NAdam for the rest."""
    matrix = optax.contrib.MuonDimensionNumbers((1, 2, 3), 4)
    inner = optax.contrib.muon(
        -1.0, consistent_rms=0.2, muon_weight_dimension_numbers=lambda stacks: jax.tree.map(
            lambda x: matrix if x.ndim == 5 and x.shape[1] == 3 else None, stacks
        ),
    )  # fmt: skip

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        found: Any
        found, state = inner.update(_stacks(updates), state, _stacks(params))
        rows = {shape: iter(stack) for shape, stack in found.items()}
        return jax.tree.map(lambda x: next(rows[str(x.shape)]), updates), state

    return optax.GradientTransformation(lambda params: inner.init(_stacks(params)), update)


def _stacks(tree: Any) -> dict[str, Array]:
    by_shape: dict[str, list[Array]] = {}
    for leaf in jax.tree.leaves(tree):
        by_shape.setdefault(str(leaf.shape), []).append(leaf)
    return {shape: jnp.stack(leaves) for shape, leaves in by_shape.items()}


_OPTIMIZERS = {"adam": optax.scale_by_adam(), "muon": _muon()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _take_steps(
    net: Net,
    precision: Precision,
    optimizer: Method,
    state: Any,
    job: _Job,
    images: UInt8[Array, "n steps h w 3"],
    chosen: Int[Array, "n steps"],
    rates: Float[Array, " steps"],
    count: Any,
) -> tuple[Any, Float[Array, "steps 3"]]:
    """Take the first `count` of the steps: one program for all counts, and kernels of VGG made ready once for all."""

    def turn(carry: Any) -> Any:
        state, losses, i = carry
        batch = images[:, i].astype(rates.dtype) / 255
        state, parts = _step(net, precision, optimizer, state, job, batch, chosen[:, i], rates[i])
        return state, losses.at[i].set(parts.astype(losses.dtype)), i + 1

    start = (state, jnp.zeros((len(rates), 3)), jnp.asarray(0))
    state, losses, _ = jax.lax.while_loop(lambda carry: carry[2] < count, hoist(turn, start), start)
    return state, losses


def _step(
    net: Net,
    precision: Precision,
    optimizer: Method,
    state: Any,
    job: _Job,
    images: Images,
    chosen: Int[Array, " n"],
    rate: Any,
) -> tuple[Any, Float[Array, "3"]]:
    """Take a step, unless it would not be finite: then the losses are NaN and the state stays."""
    trained, memory = state
    (loss, parts), grads = jax.value_and_grad(_loss, argnums=2, has_aux=True)(
        net, precision, trained, job, images, chosen
    )
    with by_its_own_rules():
        updates, new_memory = _OPTIMIZERS[optimizer].update(grads, memory, trained)
        new = optax.apply_updates(trained, optax.tree.scale(-rate, updates))
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    kept = jax.tree.map(lambda x, y: jnp.where(finite, x, y), (new, new_memory), (trained, memory))
    return kept, jnp.where(finite, parts, jnp.nan)


def _loss(net: Net, precision: str, trained: Any, job: _Job, images: Images, chosen: Any) -> tuple[Array, Array]:
    whole = _joined(job.fixed, trained)
    there = count_styles(whole)
    mix = jnp.eye(there)[chosen + there - count_styles(trained)]
    low = functools.partial(jax.tree.map, functools.partial(_cast, precision))
    high = lambda tree: jax.tree.map(lambda x: x.astype(images.dtype), tree)  # noqa: E731
    painted = accelerate(apply)(whole, low(images), mix)[0]
    params, names = low(job.params), tuple(dict.fromkeys([*job.content_weights, *job.style_weights]))
    targets = accelerate(read_layers(net, tuple(job.content_weights)))(params, low(images))
    values = accelerate(read_layers(net, names))(params, painted)
    grams = {name: gram[chosen] for name, gram in job.grams.items()}
    terms = Terms(high(targets), [grams], None, job.content_weights, [job.style_weights], job.smoothness)
    parts = compare(high(painted), high(values), terms).mean(1)
    return parts.sum(), parts


def _cast(dtype: str, x: Any) -> Any:
    x = jnp.asarray(x)
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _falling(done: float, cooldown: float) -> float:
    return min(1.0, (1 - done) / cooldown) if cooldown else 1.0


def _check_finite(found: StyleTraining) -> None:
    bad = ~np.isfinite(found.losses).all(1)
    if bad.any():
        raise DivergedError(
            f"the loss or its gradient is not finite at step {bad.argmax()}; a smaller learning rate may help", found
        )


# The photographs


def _entropy(key: Key) -> list[int]:
    return [int(x) for x in np.ravel(jax.random.key_data(key))]


def _digest(source: Source) -> str:
    """Tell sources apart by the names of their images; those without, by their content."""
    told = [name if name != str(i) else name + source.mark(i) for i, name in enumerate(source.ids)]
    return hashlib.sha256("\n".join(told).encode(errors="surrogateescape")).hexdigest()


def _crops(source: Source, key: Key, first: int, steps: int, size: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the batches of steps `first` to `steps`, each a function of the key and the step's number alone; uint8."""
    entropy, count = _entropy(key), len(source.ids)
    rounds = range(-(-steps * batch_size // count))
    order = np.concatenate([np.random.default_rng([*entropy, 0, i]).permutation(count) for i in rounds])
    wanted = order[first * batch_size : steps * batch_size].tolist()
    side = size + size // 4
    photos = _photos(source, wanted, side)
    for step in range(first, steps):
        batch = list(itertools.islice(photos, batch_size))
        rng = np.random.default_rng([*entropy, 1, step])
        corners = rng.integers(0, size // 4 + 1, (batch_size, 2))
        mirrored = rng.random(batch_size) < 0.5
        whole = zip(_readable(batch, source, int(order[step * batch_size]), side), corners, mirrored, strict=True)
        crops = [(image[y : y + size, x : x + size], flip) for image, (y, x), flip in whole]
        yield np.stack([crop[:, ::-1] if flip else crop for crop, flip in crops])


def _photos(source: Source, wanted: list[int], side: int) -> Iterator[np.ndarray | ImageError]:
    """Yield photographs `(side, side, 3)`, or why one cannot be read; those that there is memory for are read once."""
    first = dict(zip(reversed(wanted), reversed(range(len(wanted))), strict=True))
    kept = dict.fromkeys(itertools.islice(dict.fromkeys(wanted), KEPT // (3 * side**2)))
    anew = [i not in kept or first[i] == at for at, i in enumerate(wanted)]
    read = batches(source, list(itertools.compress(wanted, anew)), size=side, batch_size=1, dtype=np.uint8)
    for i, new in zip(wanted, anew, strict=True):
        photo: Any = kept.get(i)
        if new:
            (photo,), skipped = (batch := next(read)).images, batch.skipped.items()
            photo = next((ImageError(f"{name}: {why}") for name, why in skipped), photo)
        if i in kept:
            kept[i] = photo
        yield photo


def _readable(photos: list[np.ndarray | ImageError], source: Source, after: int, side: int) -> list[np.ndarray]:
    """Return the photographs of a batch, with others in the places of those that cannot be read.

    They are of the batch, or if it has none, the next that can be read `after` one: a training that goes on knows
    nothing of the steps before.
    """
    good = [photo for photo in photos if isinstance(photo, np.ndarray)]
    count = len(source.ids)
    for i in () if good else range(after + 1, after + count + 1):
        try:
            good.append(as_bytes(read_pixels(source.read(i % count), side)))
            break
        except ImageError:
            continue
    if not good:
        raise ImageError(f"source: expected photographs, got {count} of which none can be read, as {photos[0]}")
    others = itertools.cycle(good)
    return [photo if isinstance(photo, np.ndarray) else next(others) for photo in photos]


# Checkpoints


class _Keeper:
    """Keeps the state of a training in a folder, by Orbax: a checkpoint is there whole or not at all."""

    def __init__(self, store: str | PathLike[str] | None, settings: dict[str, Any]):
        self.manager = None
        if store is None:
            return
        import orbax.checkpoint as ocp

        folder = Path(store).absolute()
        notes = {"jax": jax.__version__}
        changed = claim(folder / "settings.json", settings, notes=notes, of=["checkpoints"])
        if "program" in changed and (changed["program"] is None or len(changed) == 1):
            why = f"with a network that computes something else{traced_by(folder)}"
            if changed["program"] is None:
                why = "by an earlier version of jaxviz, which did not keep what the network computes"
            raise ValueError(f"{folder} holds a training {why}: give another folder, or delete this one")
        if changed:
            others = ", ".join(sorted({*changed} - {"program"}))
            raise ValueError(
                f"{folder} holds a training with another {others}: give the same options to go on with it, or another "
                "folder"
            )
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        # Not as one database: what Orbax makes of it in a folder with brackets in its path cannot be read again.
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
        self.manager = ocp.CheckpointManager(folder / "checkpoints", options=options, item_handlers=handler)
        self.args = ocp.args

    def keep(self, state: Any, losses: np.ndarray) -> None:
        if self.manager is None or self.manager.latest_step() == len(losses):
            return
        # As arrays of the host, which any number of devices can go on from.
        leaves = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        kept: dict[str, Any] = {"state": leaves, "losses": losses}
        kept |= {"digest": np.frombuffer(bytes.fromhex(digest_of(kept)), np.uint8)}
        self.manager.save(len(losses), args=self.args.PyTreeSave(kept))

    def restored(self, fresh: Any) -> tuple[Any, np.ndarray]:
        """Return the state and the losses to go on from."""
        step = None if self.manager is None else self.manager.latest_step()
        if self.manager is None or step is None:
            return fresh, np.zeros((0, 3), np.float32)
        at = self.manager.directory / str(step)
        try:
            kept: Any = self.manager.restore(step, args=self.args.PyTreeRestore())
            told = np.asarray(kept.pop("digest")).tobytes().hex()
        except Exception as error:  # whatever Orbax makes of damaged files
            kept, told = error, ""
        if isinstance(kept, Exception) or digest_of(kept) != told:
            raise ValueError(
                f"{at}: this checkpoint is damaged: delete the folder, and the training resumes from the checkpoint "
                "before or begins anew"
            ) from (kept if isinstance(kept, Exception) else None)
        leaves = [jnp.asarray(kept["state"][name]) for name in sorted(kept["state"])]
        return jax.tree.unflatten(jax.tree.structure(fresh), leaves), np.asarray(kept["losses"])
