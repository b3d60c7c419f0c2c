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
from jaxviz.data._source import Source, open_source
from jaxviz.report._map import lay_out

Pictures = Iterator[tuple[Any, ...]]
"""File name without suffix, caption, and the picture, (h, w, 3) in [0, 1]; of a map of images also what is in it."""


class Tour(NamedTuple):
    """What a tour is given: a photograph, a key, and how much time it may take."""

    photo: jax.Array  # (h, w, 3) in [0, 1]
    key: jax.Array
    full: bool
    report: Callable[[str], None] = lambda line: None
    album: Any = None  # a source of images; None: crops of scikit-image's and scikit-learn's photographs

    def crop(self) -> jax.Array:
        """Return what ImageNet classifiers are tested on: the shorter side resized to 256, the middle 224 pixels."""
        return jaxviz.load_image(self.photo, size=256)[None, 16:240, 16:240]

    def progress(self, steps: int) -> Callable[[Any], None]:
        """Return a callback that reports how far an optimization is."""
        return lambda now: self.report(f"step {len(now.losses)} of {steps}, loss {now.losses[-1]:.4g} …")

    def images(self, side: int) -> jax.Array:
        """Return the photograph as a batch of one, its shorter side resized to `side`."""
        height, width = self.photo.shape[:2]
        scale = side / min(height, width)
        size = (round(height * scale), round(width * scale))
        return jnp.clip(jaxviz.resize(self.photo, size), 0, 1)[None]

    def photographs(self, side: int) -> Source:
        """Return the images to look through; by default crops of this size."""
        return open_source(_crops(side) if self.album is None else self.album)


def _crops(side: int) -> list[np.ndarray]:
    """Cut photographs that come with scikit-image and scikit-learn into squares, each beside the next."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.immunohistochemistry()]
    photographs += [data.hubble_deep_field()[:512, :512], *load_sample_images().images]
    return [
        photograph[top : top + side, left : left + side]
        for photograph in photographs
        for top in range(0, photograph.shape[0] - side + 1, side)
        for left in range(0, photograph.shape[1] - side + 1, side)
    ]


def _thumbnails(source: Source, names: list[str], side: int) -> jax.Array:
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


# Neighbours


def call_neighbors(album, side):
    net, params = jaxviz.load("efficientnet_lite0")
    found = jaxviz.features(net, params, album, layer="pool", size=side)
    near = jaxviz.neighbors(found.values, found.values, k=min(9, len(found.ids)))
    return found, near.indices


def neighbors(tour: Tour) -> Pictures:
    album, side = tour.photographs(96), 96 if tour.album is None else 224
    found, near = call_neighbors(album, side)
    queries = [0]
    while len(queries) < min(5, len(near)):  # whatever is least like those before
        nearest = jaxviz.neighbors(found.values[queries], found.values, k=1)
        queries.append(int(nearest.distances.argmax()))
    near = near[queries]
    small = _thumbnails(album, found.ids, 64)
    others = near.shape[1] - 1
    yield (
        "neighbors-features",
        f"Among {len(small)} images: {len(near)} of them, and after each the {others} with the nearest features",
        jaxviz.montage(small[near.ravel()], columns=near.shape[1]),
    )
    pixels = jaxviz.neighbors(small, small[near[:, 0]], k=near.shape[1], metric="l2").indices
    yield (
        "neighbors-pixels",
        f"The {others} that are nearest pixel by pixel",
        jaxviz.montage(small[pixels.ravel()], columns=near.shape[1]),
    )
    points = jaxviz.tsne(found.values, tour.key, perplexity=min(30.0, (len(small) - 1) / 3))
    thumbnails = dict(zip(found.ids, jnp.clip(jaxviz.resize(small, (48, 48)), 0, 1), strict=True))
    layout = lay_out(points, found.values, found.ids, thumbnails.__getitem__, side=48)
    caption = "All of them, where t-SNE of the features puts them; in the grid, moved to squares of their own"
    yield "neighbors-embedding", caption, layout.picture, layout.map


# Patches


def call_top_patches(album, side, layer):
    net, params = jaxviz.load("vgg16_features")
    patches = jaxviz.top_patches(net, params, album, layer=layer, size=side).layers[layer]
    return patches


def top_patches(tour: Tour) -> Pictures:
    album, side = tour.photographs(128), 128 if tour.album is None else 224
    for layer in ("relu3_3", "relu4_3") if tour.full else ("relu3_3",):
        patches = call_top_patches(album, side, layer)
        weakest = np.where(patches.indices < 0, np.inf, patches.values).min(axis=1)
        alive = patches.values[:, 0] > 0
        shared = alive & (weakest > 0.5 * patches.values[:, 0]) & (weakest > 0)  # more than one image has it
        spread = np.flatnonzero(shared if shared.any() else alive)
        chosen = np.random.default_rng(0).permutation(spread)[:6]
        rows = {name: i for i, name in enumerate(album.ids)}
        crops = []
        for channel in chosen:
            for name, (top, left, bottom, right) in zip(patches.ids[channel], patches.boxes[channel], strict=True):
                image = jaxviz.load_image(album.read(rows[name]), size=side) if name else jnp.ones((side, side, 3))
                crop = image[top:bottom, left:right]
                crops.append(_enlarged(crop[None], max(1, 80 // max(crop.shape)))[0])
        caption = f"{layer}: channels {', '.join(map(str, chosen))}, and the nine patches that each responds to most"
        yield f"patches-{layer}", caption, jaxviz.montage(crops, columns=9)


# Occlusion


def call_occlusion(images, stride):
    net, params = jaxviz.load("efficientnet_lite0")
    score = jaxviz.probability(net)  # of the class that the network ranks first
    maps = jaxviz.occlusion(score, params, images, window=64, stride=stride)
    return maps


def occlusion(tour: Tour) -> Pictures:
    images = tour.crop()
    yield "occlusion-photo", f"The photograph as the network gets it; it says {_best_class(images)}", images[0]
    hidden = images.at[:, 80:144, 80:144].set(0.5)
    yield "occlusion-hidden", f"One of the copies: with this part hidden, {_best_class(hidden)}", hidden[0]
    shown = jaxviz.draw(call_occlusion(images, 8 if tour.full else 16)[0], over=images[0])
    yield "occlusion-map", "Bright where hiding makes the class less probable", shown


# Saliency


def call_saliency(images):
    net, params = jaxviz.load("efficientnet_lite0")
    score = jaxviz.logit(net)  # of the class that the network ranks first
    maps = jaxviz.saliency(score, params, images)
    return maps


def saliency(tour: Tour) -> Pictures:
    images = tour.crop()
    map = call_saliency(images)[0]
    yield "saliency-photo", f"The photograph as the network gets it; it says {_best_class(images)}", images[0]
    yield "saliency-map", "The map for that class", jaxviz.draw(map, fine=True)
    yield "saliency-overlay", "The same, blurred, on the photograph", jaxviz.draw(map, over=images[0], fine=True)


# Guided backprop


def call_guided_backprop(images):
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.energy(net, "relu5_3")
    maps = jaxviz.guided_backprop(score, params, images)
    return maps


def guided_backprop(tour: Tour) -> Pictures:
    images = tour.images(224)
    shown = jaxviz.draw(call_guided_backprop(images)[0], fine=True)
    yield "guided-layer", "Everything that VGG-16's relu5_3 responds to", shown
    net, params = jaxviz.load("efficientnet_lite0")
    maps = jaxviz.guided_backprop(jaxviz.logit(net), params, tour.crop())
    caption = f"EfficientNet-Lite0, for the class {_best_class(tour.crop())}"
    yield "guided-class", caption, jaxviz.draw(maps[0], fine=True)
    yield "guided-neurons", _NEURONS, _neurons(images, jaxviz.guided_backprop)


# Deconvnet


def call_deconvnet(images):
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.energy(net, "relu4_3")
    maps = jaxviz.deconvnet(score, params, images)
    return maps


def deconvnet(tour: Tour) -> Pictures:
    images = tour.images(224)
    shown = jaxviz.draw(call_deconvnet(images)[0], fine=True)
    yield "deconvnet-layer", "What VGG-16's relu4_3 responds to", shown
    yield "deconvnet-neurons", _NEURONS, _neurons(images, jaxviz.deconvnet)


LAYERS = ("relu3_3", "relu4_3", "relu5_3")
_NEURONS = (
    f"The four strongest channels of {', '.join(LAYERS)}, a row each: what the unit sees, and what it responds to"
)


def _neurons(images: jax.Array, method: Callable) -> jax.Array:
    """Show the patch and the map of the strongest unit of some channels of three layers, side by side."""
    net, params = jaxviz.load("vgg16_features")
    _, values = jax.jit(jaxviz.capture(net, LAYERS))(params, images)
    cells = []
    for name in LAYERS:
        peaks = values[name][0].max((0, 1))
        channels = jnp.argsort(peaks, descending=True)[:4]
        places = values[name][0].reshape(-1, len(peaks))[:, channels].argmax(0)
        rows, columns = jnp.divmod(places, values[name].shape[2])
        copies = jnp.repeat(images, len(channels), axis=0)
        maps = method(jaxviz.neuron(net, name, channels, (rows, columns)), params, copies)
        field = jaxviz.receptive_field(net, params, images, name)
        for row, column, map in zip(rows.tolist(), columns.tolist(), maps, strict=True):
            window = field.window((row, column), (images.shape[1], images.shape[2]))
            shown = (images[0][window], jaxviz.draw(map[window], fine=True))
            cells += [jnp.clip(jaxviz.resize(x, (128, 128)), 0, 1) for x in shown]
    return jaxviz.montage(cells, columns=8)


# Grad-CAM


def call_grad_cam(images, target):
    net, params = jaxviz.load("efficientnet_lite0")
    score = jaxviz.logit(net, target)
    maps = jaxviz.grad_cam(score, params, images, layer="head")
    return maps


def grad_cam(tour: Tour) -> Pictures:
    images = tour.crop()
    net, params = jaxviz.load("efficientnet_lite0")
    first, second = jnp.argsort(jax.jit(net)(params, images)[0], descending=True)[:2].tolist()
    for rank, target in (("first", first), ("second", second)):
        caption = f"For the class ranked {rank}, “{jaxviz.class_names()[target].split(',')[0]}”"
        yield f"grad-cam-{rank}", caption, jaxviz.draw(call_grad_cam(images, target)[0], over=images[0])
    maps = jaxviz.guided_grad_cam(jaxviz.logit(net, first), params, images, layer="head")
    yield "grad-cam-guided", "Guided Grad-CAM: times guided backprop", jaxviz.draw(maps[0], fine=True)


# Gradient ascent


def call_ascend(key, channels, size, steps, progress):
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.channel(net, "relu5_1", channels)
    found = jaxviz.ascend(score, params, key, size=size, steps=steps, callback=progress)
    return found.images


CHANNELS = (89, 508, 413, 57, 38, 17)  # birds, dogs, eyes, noses, screens, scales


def ascend(tour: Tour) -> Pictures:
    size, steps = (144, 384) if tour.full else (128, 72)
    images = call_ascend(tour.key, jnp.array(CHANNELS), size, steps, tour.progress(steps))
    caption = f"Channels {', '.join(map(str, CHANNELS))} of VGG-16's relu5_1, {steps} steps from noise"
    yield "ascend", caption, jaxviz.montage(images, columns=3)


# DeepDream


def call_dream(key, images, layer, progress):
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.energy(net, layer)
    found = jaxviz.dream(score, params, key, images, step_size=2 / 255, callback=progress)
    return found.images


def dream(tour: Tour) -> Pictures:
    images = tour.images(384 if tour.full else 224)
    for layer, what in (("relu5_1", "A high layer adds eyes, snouts and fur"), ("relu3_1", "a low one, strokes")):
        yield f"dream-{layer}", f"{what} ({layer})", call_dream(tour.key, images, layer, tour.progress(40))[0]


# Feature inversion


def call_invert(key, images, layer, steps, progress):
    net, params = jaxviz.load("vgg16_features")
    found = jaxviz.invert(net, params, key, images, layer=layer, steps=steps, callback=progress)
    return found.images


def invert(tour: Tour) -> Pictures:
    size, steps = (160, 100) if tour.full else (112, 60)
    images = jaxviz.load_image(tour.photo, size=size)[None]
    yield "invert-photo", "The photograph", images[0]
    for layer, what in (
        ("relu3_3", "nearly all is kept"),
        ("relu4_3", "a little less"),
        ("relu5_3", "things, roughly"),
    ):
        found = call_invert(tour.key, images, layer, steps, tour.progress(steps))
        yield f"invert-{layer}", f"Made from noise and the features of {layer}: {what}", found[0]


# Texture synthesis


def call_texture(key, sample, size, steps, progress):
    net, params = jaxviz.load("vgg16_features")
    found = jaxviz.texture(net, params, key, sample, size=size, steps=steps, callback=progress)
    return found.images


def texture(tour: Tour) -> Pictures:
    from skimage import data

    side, steps = (160, 100) if tour.full else (128, 80)
    samples = {"brick": data.brick(), "tissue": data.immunohistochemistry()}
    for name, source in list(samples.items())[: 2 if tour.full else 1]:
        sample = jaxviz.load_image(source, size=side)
        yield f"texture-{name}-sample", f"A sample: {name}", sample
        size = (side, side * 3 // 2)
        found = call_texture(tour.key, sample, size, steps, tour.progress(steps))
        yield f"texture-{name}", f"The same texture, made from noise ({steps} steps)", found[0]


# Neural style


def call_stylize(key, photo, painting, steps, progress):
    net, params = jaxviz.load("vgg16_features")
    found = jaxviz.stylize(net, params, key, photo, painting, steps=steps, callback=progress)
    return found.images


def stylize(tour: Tour) -> Pictures:
    from skimage import data

    side, steps = (224, 80) if tour.full else (144, 60)
    photo, manner = tour.images(side)[0], jaxviz.load_image(data.immunohistochemistry(), size=side)
    yield "style-manner", "What is to be its manner: stained tissue under the microscope", manner
    found = call_stylize(tour.key, photo, manner, steps, tour.progress(steps))
    yield "style", f"The photograph in that manner ({steps} steps)", found[0]


# Fast style


def call_fast_style(photo):
    params, styles = jaxviz.load_style_net()
    images = [jaxviz.restyle(params, photo, style=i) for i in range(len(styles))]
    return styles, images


def fast_style(tour: Tour) -> Pictures:
    photo = tour.images(512 if tour.full else 288)[0]
    for name, image in zip(*call_fast_style(photo), strict=True):
        yield f"fast-style-{name}", f"The photograph in one pass of a net that has learned “{name}”", image


def _best_class(images: jax.Array) -> str:
    net, params = jaxviz.load("efficientnet_lite0")
    chances = jax.nn.softmax(jax.jit(net)(params, images))[0]
    best = int(jnp.argmax(chances))
    return f"“{jaxviz.class_names()[best].split(',')[0]}” ({chances[best]:.0%} sure)"


def _enlarged(tiles: jax.Array, times: int) -> jax.Array:
    return jnp.repeat(jnp.repeat(tiles, times, axis=1), times, axis=2)


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
        id="neighbors",
        title="Nearest neighbours and t-SNE",
        question=UNITS,
        paper="Krizhevsky, Sutskever & Hinton 2012; van der Maaten & Hinton 2008",
        text="The last layer in front of the classifier turns an image into 1280 numbers. Images whose numbers are "
        "alike show the same kind of thing, whatever their pixels are like; pixel by pixel, it is the colours and the "
        "light that count.",
        call=call_neighbors,
        pictures=neighbors,
    ),
    Method(
        id="patches",
        title="Maximally activating patches",
        question=UNITS,
        paper="Zeiler & Fergus 2013",
        text="Run many images through the network, and keep for each channel those that it responds to most, cut to "
        "just what the unit sees. A row is a channel: what its patches have in common is what it is there for.",
        call=call_top_patches,
        pictures=top_patches,
    ),
    Method(
        id="occlusion",
        title="Occlusion",
        question=PIXELS,
        paper="Zeiler & Fergus 2013",
        text="Hide a part of the photograph, ask again, and go on to the next part: where the network becomes less "
        "sure, something that it needs was hidden. No gradients, nothing to take on trust, and the most work.",
        call=call_occlusion,
        pictures=occlusion,
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
        id="grad-cam",
        title="Grad-CAM",
        question=PIXELS,
        paper="Selvaraju et al. 2017",
        text="The last maps of the network, which still know where things are, each weighted by how much the class "
        "score rises with it. Coarse, since those maps are 7x7, but it tells classes apart.",
        call=call_grad_cam,
        pictures=grad_cam,
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
    Method(
        id="invert",
        title="Feature inversion",
        question=IMAGES,
        paper="Mahendran & Vedaldi 2014",
        text="An image is made from nothing but the features that the photograph has at one layer. What comes back is "
        "what the layer has kept: nearly every hair low in the network; higher up things, but no longer exactly where "
        "they were and in which colours.",
        call=call_invert,
        pictures=invert,
    ),
    Method(
        id="texture",
        title="Texture synthesis",
        question=IMAGES,
        paper="Gatys, Ecker & Bethge 2015",
        text="How strongly each two channels of a layer respond together, on average over the image, says what a "
        "texture is like, and not where anything is. An image is made from noise until it has the sample's averages.",
        call=call_texture,
        pictures=texture,
    ),
    Method(
        id="style",
        title="Neural style",
        question=IMAGES,
        paper="Gatys, Ecker & Bethge 2016",
        text="Feature inversion and texture synthesis at once: the photograph's features at one layer, and another "
        "image's averages at five.",
        call=call_stylize,
        pictures=stylize,
    ),
    Method(
        id="fast-style",
        title="Fast style",
        question=IMAGES,
        paper="Johnson, Alahi & Fei-Fei 2016; Dumoulin, Shlens & Kudlur 2017",
        text="A second network learns, on many photographs, to make in one pass what neural style makes in hundreds of "
        "steps. This one has learned five styles, which share all of its kernels and differ in scale and offset.",
        call=call_fast_style,
        pictures=fast_style,
    ),
)
