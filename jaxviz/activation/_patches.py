"""The image patches in a data set to which each channel of a layer responds most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxviz._options import check_watch
from jaxviz._progress import Progress
from jaxviz._types import Images, Net
from jaxviz.activation._crops import Crops, crops_of, crops_of_layers, table_of, table_of_layers
from jaxviz.data._batches import batches, check_readable, read_as, sized
from jaxviz.data._multihost import agreed, rounds, share
from jaxviz.data._sharding import over_devices, whole_shares
from jaxviz.data._source import Source, open_source
from jaxviz.fast._swap import accelerate
from jaxviz.image._checks import check_whole
from jaxviz.program._compiled import compiled
from jaxviz.program._digest import digest_of, digest_of_program
from jaxviz.program._edit import dtype_of
from jaxviz.program._image_channels import Size
from jaxviz.program._once import once
from jaxviz.program._outputs import arranged_shapes, read_arranged
from jaxviz.program._receptive_field import unit_edges
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.show._bar import Watcher, followed
from jaxviz.show._shown import shown

_Best = tuple[Float[Array, "c k"], Int[Array, "c k"], Int[Array, "c k"]]
"""Values, ranks of the images in the order of their names, and units, counted through the map."""
_Kept = tuple[Any, Any, Any]
"""The same in a state, with the images' numbers in reading order, which new images do not change, instead of ranks."""
_NONE = np.iinfo(np.int32).max
"""The rank of no image."""


class _Patches(NamedTuple):
    values: Float[np.ndarray, "c k"]
    ids: list[list[str]]
    indices: Int[np.ndarray, "c k"]
    positions: Int[np.ndarray, "c k 2"]
    boxes: Int[np.ndarray, "c k 4"]


@shown("images", crops_of, table=table_of)
class Patches(_Patches):
    """The patches to which each channel of a layer responds most, strongest first; at most one per image.

    A notebook shows those of some channels, read again from the source; `plot` draws them.

    Attributes:
        values: `(c, k)`, the layer's values there.
        ids: for each channel the names of k images.
        indices: `(c, k)`, the images' indices in the source; -1 if it has fewer than k.
        positions: `(c, k, 2)`, row and column in the layer's map; 0 for a layer without positions.
        boxes: `(c, k, 4)`, top, left, bottom and right of the unit's spatial receptive field (see `receptive_field`),
            in pixels of the network's input; exact at the image's borders, too.
        crops: `crops(id, box)` returns that part of an image, `(h, w, c)` in [0, 1]; None of patches that were copied,
            saved or changed.
    """

    crops: Callable[[str, Any], np.ndarray] | None = None

    def __getstate__(self) -> None:  # type: ignore[override]
        """Leave the source, which may be anything, out of what is pickled or copied."""
        return None


class _TopPatches(NamedTuple):
    layers: dict[str, Patches]
    skipped: dict[str, str]
    seen: int
    state: dict[str, Any]
    """`best` for each layer, `seen`, `skipped`, `labels`, and `ids` in reading order, those not read at the end."""


@shown("images", crops_of_layers, table=table_of_layers)
class TopPatches(Progress, _TopPatches):
    """The patches to which the channels of some layers respond most, so far or at the end of the pass.

    Attributes:
        layers: the patches of each layer, by its name.
        skipped: for each image that could not be read, why.
        seen: how many images of the source were read, including those that were skipped.
        state: pass it as `resume` to continue a stopped run, or to extend a finished one by new images.
        labels: the labels in the source of the images with a patch, by their names; without those that have none.
    """

    @property
    def labels(self) -> dict[str, Any]:
        """The labels of the images with a patch, by their names."""
        return self.state["labels"]


@followed
def top_patches(
    net: Net,
    params: Any,
    source: Any,
    *,
    layer: str | Sequence[str],
    k: int = 9,
    tokens: Tokens = None,
    size: int | tuple[int, ...] | None = None,
    batch_size: int = 32,
    resume: dict[str, Any] | None = None,
    every: int = 1,
    callback: Callable[[TopPatches], Any] | None = None,
    progress: Watcher = False,
) -> TopPatches:
    """Find the k images, and the position in each, to which every channel of a layer responds most.

    It takes one pass over the source, for all channels of all layers. Only the best patches so far are kept, so memory
    does not grow with the source. Up to rounding, the result depends neither on the order of the source nor on
    `batch_size`: of equal values, the image whose name sorts first wins. Several local devices share each batch. Under
    `jax.distributed` all processes make the same call, with a source that all can read; each one reads and computes
    every n-th batch, and all return what one process would.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        source: a folder; a list of files; an array of images; or anything else that `features` takes.
        layer: a name that `layers` lists, or several: maps, tokens `(n, tokens, c)`, or vectors, whose units see the
            whole image.
        k: the number of patches for each channel.
        tokens: the grid of tokens, `(rows, columns)`, if the network's program does not show it, or `(rows, columns, in
            front)` if the layer has more tokens than these: see `grad_cam`.
        size: an int scales an image's shorter side to it and crops the center; (h, w) or (h, w, c) scales to exactly
            that size. By default, arrays that all have one size keep it, and anything else is scaled to 224. Channels
            are as for `features`.
        batch_size: images per batch; rounded up to a multiple of the number of local devices.
        resume: the `state` of a run with the same network (parameters and traced program), layers, k and size: only
            images that it has not seen are read. A stopped run resumes after its last complete batch; a finished run is
            extended by new images. Images that could not be read are tried again once they have changed.
        every: the number of batches between callbacks.
        callback: called as `callback(patches)` with the patches so far, and at the end; if it returns true, the run
            ends. Its `done` and `total` count images.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        `layers`, the patches for each layer's name; `skipped`, the images that could not be read, with the reason;
        `seen`, the number of images read; and `state`, to resume from.

    Raises:
        ImageError: if the source has no images, or none of them can be read.
        ValueError: for a layer that is unknown, or that is neither a vector nor, as the network's program shows, a map
            or tokens in a grid (heads and windows are not); a k below 1; and the state of another run or of images that
            have changed (files by size or modification time, arrays by content).

    If more than a tenth of the images cannot be read, there is a warning, too.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> images = jnp.zeros((4, 8, 8, 3)).at[2, 5, 6].set(jnp.array([1.0, 0.5, 0.0]))
        >>> found = jaxviz.top_patches(net, jnp.eye(3), images, layer="relu_0", k=1, size=8).layers["relu_0"]
        >>> print(found.indices.ravel(), found.positions[0].ravel(), found.boxes[0].ravel(), found.values.ravel())
        [2 2 0] [5 6] [5 6 6 7] [1.  0.5 0. ]

    Zeiler & Fergus 2013, Visualizing and Understanding Convolutional Networks.
    """
    if k < 1 or batch_size < 1:
        raise ValueError(f"expected a k and a batch_size of 1 or more, got {k} and {batch_size}")
    check_whole("k", k, least=1)
    check_whole("batch_size", batch_size, least=1)
    check_watch(every, callback)
    net = once(net)
    opened, size = sized(open_source(source), size)
    names = (layer,) if isinstance(layer, str) else tuple(layer)
    batch_size, tokens = whole_shares(batch_size), checked_tokens(tokens)
    places = _Places(net, params, names, size, tokens)
    read_at = read_as(size, places.image.shape)
    reader = read_arranged(net, dict.fromkeys(names, "units"), "top_patches", tokens)
    made_by = {"params": digest_of(params), "program": digest_of_program(reader, params, places.image)}
    state = _begin(places, k, made_by) if resume is None else _resumed(resume, _begin(places, k, made_by), opened)
    reading = _Reading(opened, state["ids"])
    best, labels = {name: reading.ranked(each) for name, each in state["best"].items()}, {**state["labels"]}
    wanted = range(state["seen"], len(opened.ids))
    # Before anything is read, so that an image that changes meanwhile is recognized as changed next time.
    marks = state["marks"] + [reading.source.mark(i) for i in wanted]

    def computed() -> Iterator[_Responses]:
        placed = params
        for batch in batches(reading.source, share(wanted, batch_size), **read_at, batch_size=batch_size):
            ranks = np.where(batch.live, reading.ranks[batch.indices], _NONE)
            (images, ranks), placed = over_devices((batch.images, ranks), placed)
            yield _Responses(_strongest(net, names, tokens, placed, images), ranks, batch.skipped, batch.labels)

    def found() -> TopPatches:
        kept = {name: reading.numbered(each) for name, each in best.items()}
        whole = state | {"best": kept, "ids": reading.source.ids, "marks": marks[: state["seen"]]}
        return _found(whole | {"labels": _labels_of(whole, labels)}, places, Crops(opened, reading.rows, **read_at))

    for number, some in enumerate(rounds(computed(), -(-len(wanted) // batch_size)), 1):
        for new in some:
            best = {name: _merge(best[name], new.strongest[name], new.ranks) for name in names}
            seen = min(state["seen"] + batch_size, len(opened.ids))
            state = state | {"seen": seen, "skipped": state["skipped"] | new.skipped}
            labels |= new.labels
        due = number % every == 0 or state["seen"] == len(opened.ids)
        if agreed(callback is not None and due and callback(found())):
            break
    result = found()
    check_readable(opened, result.seen - len(result.skipped), result.skipped)
    return result._replace(skipped={**result.skipped, **opened.left_out})


class _Responses(NamedTuple):
    """A batch's largest values and their units for each layer, the images' ranks, and what could not be read."""

    strongest: dict[str, tuple[Any, Any]]
    ranks: Any
    skipped: dict[str, str]
    labels: dict[str, Any]


class _Reading:
    """A source in reading order, images read before first, and the ranks of its sorted names."""

    def __init__(self, opened: Source, read: list[str]):
        self.rows = {name: i for i, name in enumerate(opened.ids)}
        before = {*read}
        ids = read + [name for name in opened.ids if name not in before]
        at = [self.rows[name] for name in ids]
        labeled = opened.labeled
        of = labeled and (lambda i: labeled(at[i]))
        self.source = Source(
            ids, lambda i: opened.read(at[i]), lambda i: opened.mark(at[i]), of, in_order=opened.in_order
        )
        self.order = np.argsort(np.array(ids, dtype=str), kind="stable")
        self.ranks = np.append(np.argsort(self.order), _NONE).astype(np.int32)  # the last is for number -1: no image

    def ranked(self, best: _Kept) -> _Best:
        """Return the patches of a state with the images' ranks instead of their numbers."""
        values, numbers, units = best
        return jnp.asarray(values), jnp.asarray(self.ranks[np.asarray(numbers)]), jnp.asarray(units)

    def numbered(self, best: _Best) -> _Kept:
        """Return patches with the images' numbers, -1 for no image."""
        values, ranks, units = (np.asarray(x) for x in best)
        return values, np.where(ranks == _NONE, -1, self.order[np.minimum(ranks, len(self.order) - 1)]), units


class _Places:
    """The positions of some layers' units, and their receptive fields."""

    def __init__(self, net: Net, params: Any, names: Sequence[str], size: Size, tokens: Tokens):
        self.image, shapes = arranged_shapes(net, params, dict.fromkeys(names, "units"), size, "top_patches", tokens)
        self.size = self.image.shape[1:3]
        self.shapes = {name: shape[1:] for name, shape in shapes.items()}
        self.edges = {name: unit_edges(net, params, self.image, name, tokens=tokens) for name in names}

    def of(self, name: str, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of units of a layer's channels, `(c, k, 2)`, and their boxes, `(c, k, 4)`."""
        *sides, channels = self.shapes[name]
        positions = np.stack(np.divmod(units, sides[1] if sides else 1), axis=-1)
        places = tuple(positions[..., axis] for axis in range(len(sides)))
        at = (*places, np.broadcast_to(np.arange(channels)[:, None], units.shape))
        return positions, np.stack([edge[at] for edge in self.edges[name]], axis=-1)


def _begin(places: _Places, k: int, made_by: dict[str, str]) -> dict[str, Any]:
    """Return the state before the first batch: k patches of no image, which rank behind any image."""
    best = {}
    for name, (*_, channels) in places.shapes.items():
        none = np.zeros((channels, k), np.int32)
        best[name] = (np.full((channels, k), -np.inf, np.float32), none - 1, none)
    shapes = {name: list(shape) for name, shape in places.shapes.items()}
    made_with = {**made_by, "size": list(places.size), "shapes": shapes}
    return {"best": best, "seen": 0, "skipped": {}, "labels": {}, "ids": [], "marks": [], "made_with": made_with}


def _labels_of(state: dict[str, Any], labels: dict[str, Any]) -> dict[str, Any]:
    """Return the labels of the images that have a patch."""
    numbers = {number for _, numbers, _ in state["best"].values() for number in np.unique(numbers).tolist()}
    names = [state["ids"][number] for number in sorted(numbers - {-1})]
    return {name: labels[name] for name in names if name in labels}


class OtherRunError(ValueError):
    """The state passed as `resume` belongs to another run."""


def _resumed(state: dict[str, Any], fresh: dict[str, Any], opened: Source) -> dict[str, Any]:
    """Return a state to resume from, without the images that could not be read and have changed since."""
    state = {"labels": {}} | state  # which earlier versions did not keep
    if set(state) != set(fresh) or jax.tree.map(np.shape, state["best"]) != jax.tree.map(np.shape, fresh["best"]):
        raise OtherRunError("resume: this state belongs to a run with other layers or another k; start over without it")
    state = {name: state[name] for name in fresh}  # in one order, so that a resumed run writes the same bytes
    differ = {name for name, value in fresh["made_with"].items() if state["made_with"].get(name) != value}
    if differ == {"program"}:
        raise OtherRunError(
            "resume: this state belongs to a network that has these parameters but computes something else (or was "
            "traced by another version of jax, or saved by an earlier one of jaxviz); start over without it"
        )
    if differ:
        raise OtherRunError(
            "resume: this state belongs to a run with other parameters or another size; start over without it"
        )
    seen, skipped = list(state["ids"][: state["seen"]]), state["skipped"]
    rows = {name: i for i, name in enumerate(opened.ids)}
    marks = [opened.mark(rows[name]) if name in rows else None for name in seen]
    other = {name for name, before, now in zip(seen, state["marks"], marks, strict=True) if before != now}
    if other - {*skipped}:
        raise OtherRunError(
            f"resume: this state belongs to a run over other images: {min(other - {*skipped})} is gone or has changed; "
            "start over without it"
        )
    kept = [i for i, name in enumerate(seen) if name not in other]
    numbers = np.full(len(seen) + 1, -1)  # the last one for none, -1
    numbers[kept] = np.arange(len(kept))
    best = {name: (values, numbers[np.asarray(of)], units) for name, (values, of, units) in state["best"].items()}
    ids, marks = ([of[i] for i in kept] for of in (seen, state["marks"]))
    skipped = {name: why for name, why in skipped.items() if name not in other}
    return state | {"best": best, "seen": len(kept), "skipped": skipped, "ids": ids, "marks": marks}


@compiled(static_argnums=(0, 1, 2))
def _strongest(
    net: Net, names: tuple[str, ...], tokens: Tokens, params: Any, images: Images
) -> dict[str, tuple[Array, Array]]:
    """Return the largest value of each channel in each image, `(n, c)`, and the first unit that has it."""
    reader = read_arranged(net, dict.fromkeys(names, "units"), "top_patches", tokens)
    values = accelerate(reader)(params, images.astype(dtype_of(params)))
    found = {}
    for name, value in values.items():
        units = value.reshape(len(value), -1, value.shape[-1]).astype(jnp.float32)
        largest = units.max(axis=1)
        # Not argmax, which XLA on CPU does not vectorize.
        numbers = jnp.arange(units.shape[1], dtype=jnp.int32)[:, None]
        found[name] = largest, jnp.where(units == largest[:, None], numbers, units.shape[1] - 1).min(axis=1)
    return found


@jax.jit
def _merge(best: _Best, new: tuple[Float[Array, "b c"], Int[Array, "b c"]], ranks: Int[Array, " b"]) -> _Best:
    """Keep the strongest, and among equals those whose names sort first, regardless of reading order."""
    values, units = (x.T for x in new)
    ranks = jnp.broadcast_to(ranks, values.shape)
    values = jnp.where(ranks == _NONE, -jnp.inf, values)
    both = [jnp.concatenate(pair, axis=1) for pair in zip(best, (values, ranks, units), strict=True)]
    values, ranks, units = jax.lax.sort((-both[0], *both[1:]), dimension=1, num_keys=2)
    k = best[0].shape[1]
    return -values[:, :k], ranks[:, :k], units[:, :k]


def _found(state: dict[str, Any], places: _Places, crops: Crops) -> TopPatches:
    patches = {}
    for layer, (values, numbers, units) in state["best"].items():
        names = [[state["ids"][i] if i >= 0 else "" for i in row] for row in numbers.tolist()]
        indices = np.array([[crops.rows.get(name, -1) for name in row] for row in names])
        patches[layer] = Patches(values, names, indices, *places.of(layer, units))
        patches[layer].crops = crops
    found = TopPatches(patches, state["skipped"], state["seen"], state)
    return found.told("top_patches", state["seen"], len(state["ids"]))
