"""The tour's sections, in the lecture's order: for each method the call, and the pictures made of what it returns.

A method is a `call`, whose source the page shows, and a function that makes pictures of its result. Adding one is
adding an entry to `METHODS`.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxviz

Pictures = Iterator[tuple[str, str, Any]]
"""File name without suffix, caption, and the picture, (h, w, 3) in [0, 1]."""


class Tour(NamedTuple):
    """What a tour is given: a photograph, a key, and how much time it may take."""

    photo: jax.Array  # (h, w, 3) in [0, 1]
    key: jax.Array
    full: bool
    report: Callable[[str], None] = lambda line: None

    def crop(self) -> jax.Array:
        """Return what ImageNet classifiers are tested on: the shorter side resized to 256, the middle 224 pixels."""
        return jaxviz.load_image(self.photo, size=256)[None, 16:240, 16:240]

    def progress(self, steps: int) -> Callable[[int, Any, Any], None]:
        """Return a callback that reports how far an optimization is."""
        return lambda step, images, losses: self.report(f"step {step} of {steps}, loss {losses[-1]:.4g} …")

    def images(self, side: int) -> jax.Array:
        """Return the photograph as a batch of one, its shorter side resized to `side`."""
        height, width = self.photo.shape[:2]
        scale = side / min(height, width)
        size = (round(height * scale), round(width * scale))
        return jnp.clip(jaxviz.resize(self.photo, size), 0, 1)[None]


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


# Filters


def call_filters():
    _, params = jaxviz.load("vgg16_features")
    tiles = jaxviz.filters(params)
    return tiles


def filters(tour: Tour) -> Pictures:
    tiles = _enlarged(call_filters(), 12)
    yield "filters-vgg16", "VGG-16, conv1_1: 64 filters of 3x3 pixels", jaxviz.montage(tiles, columns=16)
    _, params = jaxviz.load("efficientnet_lite0")
    tiles = _enlarged(jaxviz.filters(params), 12)
    yield (
        "filters-efficientnet",
        "EfficientNet-Lite0, stem: 32 filters of 3x3 pixels",
        jaxviz.montage(tiles, columns=16),
    )


# Saliency


def call_saliency(images):
    net, params = jaxviz.load("efficientnet_lite0")
    score = jaxviz.logit(net)  # of the class that the network ranks first
    maps = jaxviz.saliency(score, params, images)
    return maps


def saliency(tour: Tour) -> Pictures:
    images = tour.crop()
    shown = jaxviz.normalize(call_saliency(images))[0]
    yield "saliency-photo", f"The photograph as the network gets it; it says {_best_class(images)}", images[0]
    yield "saliency-map", "The map for that class", jnp.repeat(shown[..., None], 3, axis=-1)
    yield "saliency-overlay", "The same, averaged over 7x7 pixels, on the photograph", _overlaid(images[0], shown)


# Guided backprop


def call_guided_backprop(images):
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.energy(net, "relu5_3")
    maps = jaxviz.guided_backprop(score, params, images)
    return maps


def guided_backprop(tour: Tour) -> Pictures:
    images = tour.images(224)
    shown = jaxviz.normalize(call_guided_backprop(images), signed=True)[0]
    yield "guided-layer", "Everything that VGG-16's relu5_3 responds to", shown
    net, params = jaxviz.load("efficientnet_lite0")
    maps = jaxviz.guided_backprop(jaxviz.logit(net), params, tour.crop())
    caption = f"EfficientNet-Lite0, for the class {_best_class(tour.crop())}"
    yield "guided-class", caption, jaxviz.normalize(maps, signed=True)[0]
    yield "guided-neurons", _NEURONS, _neurons(images, jaxviz.guided_backprop)


# Deconvnet


def call_deconvnet(images):
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.energy(net, "relu4_3")
    maps = jaxviz.deconvnet(score, params, images)
    return maps


def deconvnet(tour: Tour) -> Pictures:
    images = tour.images(224)
    shown = jaxviz.normalize(call_deconvnet(images), signed=True)[0]
    yield "deconvnet-layer", "What VGG-16's relu4_3 responds to", shown
    yield "deconvnet-neurons", _NEURONS, _neurons(images, jaxviz.deconvnet)


_NEURONS = "The strongest unit of relu3_3, relu4_3 and relu5_3: the pixels it sees, and what of them it responds to"


def _neurons(images: jax.Array, method: Callable) -> jax.Array:
    """Show the patch and the map of the strongest unit of three layers, side by side."""
    net, params = jaxviz.load("vgg16_features")
    names = ("relu3_3", "relu4_3", "relu5_3")
    _, values = jax.jit(jaxviz.capture(net, names))(params, images)
    cells = []
    for name in names:
        row, column, channel = np.unravel_index(np.argmax(values[name][0]), values[name].shape[1:])
        score = jaxviz.neuron(net, name, int(channel), (int(row), int(column)))
        field = jaxviz.receptive_field(net, params, images, name)
        rows, columns = (
            slice(max(start + unit * stride, 0), start + unit * stride + size)
            for start, unit, stride, size in zip(field.offset, (row, column), field.stride, field.size, strict=True)
        )
        shown = jaxviz.normalize(method(score, params, images)[:, rows, columns], signed=True)
        cells += [jaxviz.resize(x, (196, 196)) for x in (images[0, rows, columns], shown[0])]
    return jaxviz.montage([jnp.clip(cell, 0, 1) for cell in cells], columns=6)


# Gradient ascent


def call_ascend(key, channels, size, steps, progress):
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.channel(net, "relu5_1", channels)
    images, _ = jaxviz.ascend(score, params, key, size=size, steps=steps, callback=progress)
    return images


CHANNELS = (89, 508, 413, 57, 38, 17)  # birds, dogs, eyes, noses, screens, scales


def ascend(tour: Tour) -> Pictures:
    size, steps = (144, 384) if tour.full else (128, 96)
    images = call_ascend(tour.key, jnp.array(CHANNELS), size, steps, tour.progress(steps))
    caption = f"Channels {', '.join(map(str, CHANNELS))} of VGG-16's relu5_1, {steps} steps from noise"
    yield "ascend", caption, jaxviz.montage(images, columns=3)


# DeepDream


def call_dream(key, images, layer, progress):
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.energy(net, layer)
    dreams, _ = jaxviz.dream(score, params, key, images, step_size=2 / 255, callback=progress)
    return dreams


def dream(tour: Tour) -> Pictures:
    images = tour.images(384 if tour.full else 224)
    for layer, what in (("relu5_1", "A high layer adds eyes, snouts and fur"), ("relu3_1", "a low one, strokes")):
        yield f"dream-{layer}", f"{what} ({layer})", call_dream(tour.key, images, layer, tour.progress(40))[0]


def _best_class(images: jax.Array) -> str:
    net, params = jaxviz.load("efficientnet_lite0")
    chances = jax.nn.softmax(jax.jit(net)(params, images))[0]
    best = int(jnp.argmax(chances))
    return f"“{jaxviz.class_names()[best].split(',')[0]}” ({chances[best]:.0%} sure)"


def _enlarged(tiles: jax.Array, times: int) -> jax.Array:
    return jnp.repeat(jnp.repeat(tiles, times, axis=1), times, axis=2)


def _overlaid(image: jax.Array, map: jax.Array) -> jax.Array:
    """Lay a map of single bright pixels, which would not be seen, over an image as averages of 7x7 pixels."""
    kernel = jnp.ones((7, 1)) / 7
    rows = jax.scipy.signal.convolve2d(map, kernel, mode="same")
    return jaxviz.overlay(image, jax.scipy.signal.convolve2d(rows, kernel.T, mode="same"))


METHODS = (
    Method(
        id="filters",
        title="First-layer filters",
        question=UNITS,
        paper="Krizhevsky, Sutskever & Hinton 2012",
        text="The kernels of the first layer work on pixels, so they can be shown as pictures. Oriented edges and "
        "opponent colours come out of training on nearly any photographs.",
        call=call_filters,
        pictures=filters,
    ),
    Method(
        id="saliency",
        title="Saliency",
        question=PIXELS,
        paper="Simonyan, Vedaldi & Zisserman 2013",
        text="The gradient of a class score with respect to the pixels: bright where a small change would change the "
        "score most. For each pixel the largest absolute value over the three colours is shown.",
        call=call_saliency,
        pictures=saliency,
    ),
    Method(
        id="guided-backprop",
        title="Guided backprop",
        question=PIXELS,
        paper="Springenberg, Dosovitskiy, Brox & Riedmiller 2014",
        text="The gradient again, but on the way back every ReLU lets only positive gradients of active units pass. "
        "What suppresses a unit is left out, and what excites it stands out sharply: eyes, whiskers, single hairs.",
        call=call_guided_backprop,
        pictures=guided_backprop,
    ),
    Method(
        id="deconvnet",
        title="Deconvnet",
        question=PIXELS,
        paper="Zeiler & Fergus 2013",
        text="The older sibling of guided backprop: positive gradients pass every ReLU, whether its unit was active or "
        "not. The pictures are less sharp, since more that the unit did not see comes along.",
        call=call_deconvnet,
        pictures=deconvnet,
    ),
    Method(
        id="ascend",
        title="Channels by gradient ascent",
        question=IMAGES,
        paper="Olah, Mordvintsev & Schubert 2017",
        text="Images that a channel responds to most, found by climbing the gradient from noise. They are optimized in "
        "a Fourier basis and shifted, scaled and turned at each step, so that only robust patterns survive.",
        call=call_ascend,
        pictures=ascend,
    ),
    Method(
        id="dream",
        title="DeepDream",
        question=IMAGES,
        paper="Mordvintsev, Olah & Tyka 2015",
        text="The photograph is changed so that a layer responds more to whatever it already saw there, from coarse to "
        "fine. High layers have seen many animals.",
        call=call_dream,
        pictures=dream,
    ),
)
