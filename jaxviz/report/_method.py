"""What a section of the tour is: a `call`, whose source the page shows, and a function that draws its result."""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import jaxviz
from jaxviz._extras import extra
from jaxviz.data._source import Source, open_source
from jaxviz.show._bar import Pace

Pictures = Iterator[tuple[Any, ...]]
"""File name without suffix, caption, and the picture, (h, w, 3) in [0, 1]; of a map of images also what is in it."""


class Tour(NamedTuple):
    """What a tour is given: a photograph, a key, and how much time it may take."""

    photo: jax.Array  # (h, w, 3) in [0, 1]
    key: jax.Array
    full: bool
    report: Callable[[str], None] = lambda line: None
    album: Any = None  # a source of images; None: crops of scikit-image's and scikit-learn's photographs
    own: Any = None  # the user's network, `Own`; None: the two that come with jaxviz

    def crop(self) -> jax.Array:
        """Return what ImageNet classifiers are tested on: the shorter side resized to 256, the middle 224 pixels."""
        return jaxviz.load_image(self.photo, size=256)[None, 16:240, 16:240]

    def own_images(self) -> jax.Array:
        """Return the photograph as a batch of one, as the user's network takes it."""
        return jaxviz.load_image(self.photo, size=self.own.size, channels=self.own.network.channels)[None]

    def progress(self, steps: int) -> Callable[[Any], None]:
        """Return a callback that reports how far an optimization is."""
        pace = Pace()
        return lambda now: self.report(f"{now.what}: {pace.stand(now).told()} …")

    def images(self, side: int) -> jax.Array:
        """Return the photograph as a batch of one, its shorter side resized to `side`."""
        height, width = self.photo.shape[:2]
        scale = side / min(height, width)
        size = (round(height * scale), round(width * scale))
        return jnp.clip(jaxviz.resize(self.photo, size), 0, 1)[None]

    def photographs(self, side: int) -> Source:
        """Return the images to look through; by default crops of this size."""
        return open_source(crops_of(side) if self.album is None else self.album)


_FLAT = 16  # the standard deviation of brightness, of 255, up to which a crop is a sky or a shadow


def crops_of(side: int) -> list[np.ndarray]:
    """Cut pictures that come with scikit-image, scikit-learn and matplotlib into squares, each beside the next.

    A square is a third or more of a picture, so that it shows a thing and not a color; what is nearly flat is left out.
    """
    with extra("photos"):
        from skimage import data
    with extra("embed"):
        from sklearn.datasets import load_sample_images
    with extra("plot"):
        from matplotlib import get_data_path

    pictures = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.immunohistochemistry()]
    pictures += [data.hubble_deep_field(), data.retina(), data.stereo_motorcycle()[0], *load_sample_images().images]
    pictures += [data.brick(), data.gravel(), data.grass(), data.coins(), data.camera(), data.moon()]
    pictures.append(np.asarray(Image.open(Path(get_data_path()) / "sample_data" / "grace_hopper.jpg")))
    crops = []
    for picture in pictures:
        window = min(picture.shape[:2]) // 3
        for top in range(0, picture.shape[0] - window + 1, window):
            for left in range(0, picture.shape[1] - window + 1, window):
                crop = Image.fromarray(picture[top : top + window, left : left + window]).convert("RGB")
                crops.append(np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC)))
    return [crop for crop in crops if crop.mean(-1).std() > _FLAT]


def small_pictures(source: Source, names: list[str], side: int) -> jax.Array:
    rows = {name: i for i, name in enumerate(source.ids)}
    return jnp.stack([jaxviz.load_image(source.read(rows[name]), size=side) for name in names])


class Method(NamedTuple):
    """A section of the tour."""

    id: str
    title: str
    question: str
    paper: str
    text: str
    call: Callable[..., Any]
    pictures: Callable[[Tour], Pictures]

    def code(self) -> str:
        """Return the source of the call, without the frame of a function: it is what a user would write."""
        lines = inspect.getsource(self.call).splitlines()[1:]
        return textwrap.dedent("\n".join(line for line in lines if not line.strip().startswith("return")))


UNITS, PIXELS, IMAGES = "What do the units respond to?", "Which pixels matter?", "Which image would …?"


def best_class(images: jax.Array) -> str:
    net, params = jaxviz.load("efficientnet_lite0")
    chances = jax.nn.softmax(jax.jit(net)(params, images))[0]
    best = int(jnp.argmax(chances))
    return f"“{jaxviz.class_names()[best].split(',')[0]}” ({chances[best]:.0%} sure)"


def enlarged(tiles: jax.Array, times: int) -> jax.Array:
    return jnp.repeat(jnp.repeat(tiles, times, axis=1), times, axis=2)
