"""What a notebook shows of patches: the pieces of the images themselves, read again from the source."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxviz.data._elements import channels_last
from jaxviz.data._source import Source
from jaxviz.image._checks import ImageError
from jaxviz.image._files import read_pixels
from jaxviz.show._shown import Table

_CHANNELS = 4  # of a layer that are shown
_LAYERS = 4
_PATCHES = 9


class Crops:
    """Reads pieces of a source's images, at the size at which the network saw them."""

    def __init__(self, source: Source, rows: Mapping[str, int], size: Any, channels: int):
        self.rows, self._source, self._size, self._channels = rows, source, size, channels

    def __call__(self, name: str, box: Any) -> np.ndarray:
        """Return a piece of an image, `(h, w, c)`; a white one if there is none, or it is gone."""
        top, left, bottom, right = (int(side) for side in box)
        if name in self.rows and bottom > top and right > left:
            try:
                image = channels_last(self._source.read(self.rows[name]), self._channels)
                return read_pixels(image, self._size, self._channels)[top:bottom, left:right]
            except ImageError:
                pass
        return np.ones((1, 1, self._channels))


def responding(found: Any, most: int = _CHANNELS) -> list[int]:
    """Return the first of the channels that respond to anything."""
    return np.flatnonzero(found.values[:, 0] > 0)[:most].tolist() if found.values.size else []


def crops_of(found: Any, most: int = _CHANNELS) -> dict[str, list[np.ndarray]]:
    """Return the patches of some channels, by the channel; nothing if their source is not known."""
    if found.crops is None:
        return {}
    pairs = lambda channel: list(zip(found.ids[channel], found.boxes[channel], strict=True))[:_PATCHES]
    return {f"channel {c}": [found.crops(name, box) for name, box in pairs(c)] for c in responding(found, most)}


def crops_of_layers(found: Any) -> dict[str, list[np.ndarray]]:
    """Return the patches of some channels of some layers."""
    some = list(found.layers.items())[:_LAYERS]
    most = max(1, _CHANNELS // max(len(some), 1))
    return {f"{name}, {row}": crops for name, layer in some for row, crops in crops_of(layer, most).items()}


def table_of(found: Any) -> Table:
    """Return the strongest patch of each channel that is shown."""
    rows = [(c, f"{found.values[c, 0]:.4g}", found.ids[c][0]) for c in responding(found)]
    return ("channel", "largest value", "image"), rows


def table_of_layers(found: Any) -> Table:
    """Return how many channels each layer has, and how many of them respond."""
    counts = lambda layer: (len(layer.values), len(responding(layer, len(layer.values))))
    return ("layer", "channels", "responding"), [(name, *counts(layer)) for name, layer in found.layers.items()]
