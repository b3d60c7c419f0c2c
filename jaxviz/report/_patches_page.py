"""A page of the patches that channels respond to most, beside what in them excites the unit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxviz
from jaxviz._files import write_atomically
from jaxviz._types import Net
from jaxviz.activation._patches import Patches, TopPatches
from jaxviz.attribution import guided_backprop
from jaxviz.data._batches import read_as, sized
from jaxviz.data._elements import channels_last
from jaxviz.data._source import Source, open_source
from jaxviz.image._arrays import montage, resize
from jaxviz.image._channels import as_rgb
from jaxviz.image._draw import draw
from jaxviz.image._files import read_pixels
from jaxviz.program._compiled import compiled
from jaxviz.program._edit import dtype_of
from jaxviz.program._once import once
from jaxviz.program._outputs import arranged_shapes
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.report._embedding_page import checked_path
from jaxviz.report._page import Figure, Section, as_photograph, rendered

_SHOWN = 16
"""Channels of a layer, if nobody says which."""
_SIDE = 96
"""Of a patch, in pixels, as near as whole factors allow for small ones."""


def patches_page(
    net: Net,
    params: Any,
    found: TopPatches,
    source: Any,
    path: str | os.PathLike[str],
    *,
    channels: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    beside: Callable[..., Any] | None = guided_backprop,
    size: int | tuple[int, ...] | None = None,
    tokens: Tokens = None,
    title: str = "Patches that channels respond to most",
) -> Path:
    """Write a web page of the patches that channels respond to most, beside what in each of them excites the unit.

    It is one file, which needs no network: for each layer of `found` and each channel a block of patches, and a block
    of the same places in the unit's map by guided backprop, or whatever `beside` is. The unit's value is computed
    again, and has to be what `found` says.

    Args:
        net: the network that `found` was made with.
        params: its parameters.
        found: what `top_patches` returned.
        source: the images that it looked through.
        path: where to write the page; ends in .html.
        channels: which to show, of all layers, or of each by its name; negative numbers count from the end. None: up to
            16 of each layer that respond to any image, evenly spaced.
        beside: a function `(score, params, images) -> maps` of one unit's score, such as `guided_backprop`,
            `deconvnet`, or for networks without ReLUs `gradient`; None: patches only.
        size, tokens: as `top_patches` was given them.
        title: the heading.

    Returns:
        The path.

    Raises:
        ValueError: for a path that does not end in .html; a channel that does not exist; an image that is not in the
            source; a size, images or a network other than those of `found`; and what `beside` raises. Nothing is
            written then.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz, tempfile
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> params, images = jnp.eye(3), jax.random.uniform(jax.random.key(0), (12, 16, 16, 3))
        >>> found = jaxviz.top_patches(net, params, images, layer="relu_0")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = jaxviz.patches_page(net, params, found, images, f"{folder}/patches.html", channels=[0, 2])
        ...     print(page.read_text().count("<figure"))
        2

    Zeiler & Fergus 2013, Visualizing and Understanding Convolutional Networks (figure 2).
    """
    path = checked_path(path)
    chosen = {layer: _chosen(layer, of, channels) for layer, of in found.layers.items()}
    net = once(net)
    opened, size = sized(open_source(source), size)
    image, shapes = arranged_shapes(net, params, dict.fromkeys(chosen, "units"), size, "patches_page", tokens)
    made_at = tuple(found.state["made_with"]["size"])
    if tuple(image.shape[1:3]) != made_at:
        raise ValueError(f"size: expected that of `found`, {made_at}, got images of {tuple(image.shape[1:3])}")
    reader = _Reader(opened, read_as(size, image.shape), dtype_of(params))
    sections, pictures = [], {}
    for layer, numbers in chosen.items():
        units = _Units(net, params, layer, len(shapes[layer]) > 2, checked_tokens(tokens), beside)
        figures = []
        for number in numbers:
            name = f"{layer}/{number}"
            picture, caption = _shown(units, found.layers[layer], number, reader)
            pictures[name] = as_photograph(picture)
            figures.append(Figure(name, caption))
        sections.append(_section(len(sections), layer, figures, beside))
    facts = {"Images": f"{found.seen - len(found.skipped):,} looked through, {made_at[1]} x {made_at[0]} pixels"}
    write_atomically(path, rendered(sections, pictures, title=title, facts=facts))
    return path


def _chosen(layer: str, of: Patches, channels: Any) -> list[int]:
    """Return the numbers of the channels to show."""
    count = len(of.values)
    if channels is None:
        alive = np.flatnonzero(of.values[:, 0] > 0)
        return alive[np.unique(np.linspace(0, len(alive) - 1, _SHOWN).astype(int))].tolist() if len(alive) else []
    if isinstance(channels, Mapping):
        channels = channels.get(layer, ())
    numbers = [int(number) for number in channels]
    if wrong := [number for number in numbers if not -count <= number < count]:
        raise ValueError(f"channels: expected 0 to {count - 1} of {layer}, or -{count} to -1 from the end, got {wrong}")
    return [number % count for number in numbers]


class _Reader:
    """Images of a source by their names, as the network takes them."""

    def __init__(self, opened: Source, how: dict[str, Any], dtype: Any):
        self._opened, self._how, self._dtype = opened, how, dtype
        self._rows = {name: i for i, name in enumerate(opened.ids)}

    def __call__(self, names: Sequence[str]) -> jax.Array:
        if missing := [name for name in names if name not in self._rows]:
            raise ValueError(f"source: expected the images of `found`, got a source without {missing[0]!r}")
        size, channels = self._how["size"], self._how["channels"]
        images = [channels_last(self._opened.read(self._rows[name]), channels) for name in names]
        return jnp.asarray(np.stack([read_pixels(image, size, channels) for image in images]), self._dtype)


class _Units(NamedTuple):
    """How a layer's units are scored, and what is shown beside their patches."""

    net: Net
    params: Any
    layer: str
    have_places: bool
    tokens: Tokens
    beside: Callable[..., Any] | None

    def score(self, number: int, places: np.ndarray) -> Any:
        where = (places[:, 0], places[:, 1]) if self.have_places else None
        return jaxviz.neuron(self.net, self.layer, np.full(len(places), number), where, tokens=self.tokens)


def _shown(units: _Units, of: Patches, number: int, read: _Reader) -> tuple[jax.Array, str]:
    """Return a channel's picture: a block of patches, and beside it one of maps; and what it is."""
    live = np.flatnonzero(of.indices[number] >= 0)
    names, boxes, values = [of.ids[number][i] for i in live], of.boxes[number][live], of.values[number][live]
    images = read(names)
    score = units.score(number, of.positions[number][live])
    _check_values(units.layer, number, values, np.asarray(_values(score, units.params, images)))
    columns = int(np.ceil(np.sqrt(len(live))))
    cut = lambda arrays: [x[box[0] : box[2], box[1] : box[3]] for x, box in zip(arrays, boxes.tolist(), strict=True)]
    blocks = [montage([_at_size(as_rgb(patch)) for patch in cut(images)], columns=columns)]
    if units.beside is not None:
        maps = jnp.asarray(units.beside(score, units.params, images))
        if maps.shape[:3] != images.shape[:3]:
            raise ValueError(f"beside: expected maps (n, h, w) or (n, h, w, c) of {images.shape}, got {maps.shape}")
        blocks.append(montage([_at_size(draw(map, fine=True)) for map in cut(maps)], columns=columns))
    texts = [name if len(name) <= 40 else f"…{name[-39:]}" for name in names]
    caption = f"Channel {number}: {values[0]:.4g} to {values[-1]:.4g}, in {', '.join(texts)}"
    return montage(blocks, columns=2, gap=10), caption


@compiled()
def _values(score: Any, params: Any, images: Any) -> Any:
    return score(params, images)


def _check_values(layer: str, number: int, expected: np.ndarray, got: np.ndarray) -> None:
    """Raise ValueError unless units have the values that they had when the patches were found, but for rounding."""
    if not np.allclose(expected, got, rtol=0.02, atol=0.02 * np.abs(expected).max()):
        raise ValueError(
            f"found: expected the values of channel {number} of {layer} that it has, {expected.round(4).tolist()}, got "
            f"{got.round(4).tolist()}: it is of other images, of another size (give `size` as to top_patches), or of "
            "another network"
        )


def _at_size(patch: jax.Array) -> jax.Array:
    """Return a patch enlarged so that its pixels show, or reduced."""
    longest = max(patch.shape[:2])
    if longest > 1.25 * _SIDE:
        sides = [max(1, round(side * _SIDE / longest)) for side in patch.shape[:2]]
        return jnp.clip(resize(patch, (sides[0], sides[1])), 0, 1)
    times = max(1, _SIDE // longest)
    return jnp.repeat(jnp.repeat(patch, times, axis=0), times, axis=1)


def _section(number: int, layer: str, figures: list[Figure], beside: Callable[..., Any] | None) -> Section:
    name = getattr(beside, "__name__", None) or getattr(getattr(beside, "func", None), "__name__", "a map of yours")
    text = "Each block has the patches that a channel responds to most, the strongest first, at most one of an image."
    if beside is not None:
        text += f" Beside it are the same places by {name}: what in a patch excites the unit."
    return Section(
        id=f"layer-{number}",
        title=f"{layer}: {len(figures)} channels" if figures else f"{layer}: no channel responds",
        question="What do the units respond to?",
        text=text,
        code="",
        figures=tuple(figures),
        seconds=0.0,
        seed=None,
        paper="Zeiler & Fergus 2013",
        settings={"jax": jax.__version__, "jaxviz": jaxviz.__version__},
        left_out="",
    )
