"""The sections on what units respond to, and on which image a network would like to see, for one of the user's own."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxviz
from jaxviz._extras import extra
from jaxviz.image._checks import sides_of
from jaxviz.report._art import paint
from jaxviz.report._map import lay_out
from jaxviz.report._method import Pictures, Tour, enlarged, small_pictures
from jaxviz.report._own import LeftOut
from jaxviz.report._own_pixels import SHOWN, large, photograph

# Filters


def call_filters(params, channels):
    tiles = jaxviz.filters(params, channels=channels)
    return tiles


def filters(tour: Tour) -> Pictures:
    channels = tour.own.network.channels
    if channels not in (1, 3):
        raise LeftOut(f"kernels on {channels} channels are no pictures")
    tiles = call_filters(tour.own.params, channels)
    times = max(1, 36 // max(tiles.shape[1:3]))
    caption = f"{len(tiles)} filters of {tiles.shape[1]}x{tiles.shape[2]} pixels"
    yield "filters-first", caption, jaxviz.montage(enlarged(tiles[:256], times), columns=16)


# A folder of photographs


def _album(tour: Tour):
    side = min(sides_of(tour.own.size))
    if tour.album is None and tour.own.network.channels != 3:
        raise LeftOut("it looks through many images of the network's kind: give a folder of them as --images")
    return tour.photographs(96 if side <= 96 else 128)


def call_neighbors(net, params, album, layer, size):
    found = jaxviz.features(net, params, album, layer=layer, size=size)
    near = jaxviz.neighbors(found.values, found.values, k=min(9, len(found.ids)))
    return found, near.indices


def neighbors(tour: Tour) -> Pictures:
    own, album = tour.own, _album(tour)
    layer = own.rows or (own.layers[-1].name if own.layers else None)
    if layer is None:
        raise LeftOut("the network has no layer of one vector for each image, nor maps whose mean is one")
    found, near = call_neighbors(own.net, own.params, album, layer, own.size)
    queries = [0]
    while len(queries) < min(5, len(near)):  # whatever is least like those before
        nearest = jaxviz.neighbors(found.values[queries], found.values, k=1)
        queries.append(int(nearest.distances.argmax()))
    near, small = near[queries], small_pictures(album, found.ids, 64)
    caption = f"Of {len(small)} images {len(near)}, and after each those with the nearest features at {layer}"
    yield "neighbors-features", caption, jaxviz.montage(small[near.ravel()], columns=near.shape[1])
    points = jaxviz.tsne(found.values, tour.key, perplexity=min(30.0, (len(small) - 1) / 3))
    thumbnails = dict(zip(found.ids, jnp.clip(jaxviz.resize(small, (48, 48)), 0, 1), strict=True))
    layout = lay_out(points, found.values, found.ids, thumbnails.__getitem__, side=48)
    caption = "All of them, where t-SNE of the features puts them; in the grid, moved to squares of their own"
    yield "neighbors-embedding", caption, layout.picture, layout.map


def call_top_patches(net, params, album, layer, size):
    patches = jaxviz.top_patches(net, params, album, layer=layer, size=size).layers[layer]
    return patches


def top_patches(tour: Tour) -> Pictures:
    own, album = tour.own, _album(tour)
    if not own.layers:
        raise LeftOut("the network has no layer of maps or tokens")
    rows = {name: i for i, name in enumerate(album.ids)}
    read = lambda name: jaxviz.load_image(album.read(rows[name]), size=own.size)
    for i, layer in list(enumerate(own.layers))[-2:]:
        patches = call_top_patches(own.net, own.params, album, layer.name, own.size)
        alive = np.flatnonzero(patches.values[:, 0] > 0)
        channels = np.random.default_rng(0).permutation(alive)[:6]
        crops = []
        for channel in channels:
            for name, (top, left, bottom, right) in zip(patches.ids[channel], patches.boxes[channel], strict=True):
                crop = read(name)[top:bottom, left:right] if name else jnp.ones((8, 8, 3))
                crops.append(enlarged(crop[None], max(1, 80 // max(crop.shape)))[0])
        numbers = ", ".join(map(str, channels))
        if crops:
            caption = f"{layer.name}: channels {numbers}, and the patches that each responds to most"
            yield f"patches-{i}", caption, jaxviz.montage(crops, columns=len(crops) // len(channels))


# Gradient ascent


def call_ascend(net, params, key, layer, channels, size, steps, progress):
    score = jaxviz.channel(net, layer, channels)
    found = jaxviz.ascend(score, params, key, size=size, steps=steps, callback=progress)
    return found.images


def _sides(tour: Tour, most: int) -> tuple[int, ...]:
    """Return height, width and channels of what is made: the network's own, or less where it takes less."""
    height, width = sides_of(tour.own.size)
    scale = min(1.0, most / max(height, width)) if tour.own.any_size else 1.0
    return round(scale * height), round(scale * width), tour.own.network.channels


def ascend(tour: Tour) -> Pictures:
    own, steps = tour.own, 160 if tour.full else 48
    size = _sides(tour, 144 if tour.full else 128)
    if own.class_count and not own.gives_chances:
        ranked = [index for index, _ in own.ranked(tour.own_images())[:6]]
        score, progress = jaxviz.logit(own.net, jnp.array(ranked)), tour.progress(steps)
        images = jaxviz.ascend(score, own.params, tour.key, size=size, steps=steps, callback=progress).images
        names = ", ".join(own.class_name(index) for index in ranked)
        yield "ascend-classes", f"The classes ranked first: {names}; {steps} steps from noise", _row(images)
    for i, layer in list(enumerate(own.layers))[1:]:
        channels = np.sort(np.random.default_rng(0).permutation(layer.channels)[:6])
        given = (own.net, own.params, tour.key, layer.name, jnp.asarray(channels))
        images = call_ascend(*given, size, steps, tour.progress(steps))
        caption = f"Channels {', '.join(map(str, channels))} of {layer.name}, {steps} steps from noise"
        yield f"ascend-layer-{i}", caption, _row(images)


def _row(images) -> jax.Array:
    times = max(1, round(SHOWN / 2 / min(images.shape[1:3])))
    return jaxviz.montage(enlarged(images, times), columns=3)


# DeepDream


def call_dream(net, params, key, images, layer, octaves, progress):
    score = jaxviz.energy(net, layer)
    found = jaxviz.dream(score, params, key, images, octaves=octaves, step_size=2 / 255, callback=progress)
    return found.images


def dream(tour: Tour) -> Pictures:
    own = tour.own
    _check_colors(tour)
    if not own.layers:
        raise LeftOut("the network has no layer of maps or tokens")
    images, octaves = (tour.images(384 if tour.full else 224), 4) if own.any_size else (tour.own_images(), 1)
    for i, layer in list(enumerate(own.layers))[:0:-1]:
        given = (own.net, own.params, tour.key, images, layer.name)
        image = call_dream(*given, octaves, tour.progress(10 * octaves))[0]
        yield f"dream-{i}", f"{layer.name} sees more of what it sees in the photograph", large(image)


def _check_colors(tour: Tour) -> None:
    if tour.own.network.channels != 3:
        raise LeftOut("it is for photographs in color, and this network's images have other channels than RGB")


# Feature inversion


def call_invert(net, params, key, images, layer, steps, progress):
    found = jaxviz.invert(net, params, key, images, layer=layer, steps=steps, callback=progress)
    return found.images


def invert(tour: Tour) -> Pictures:
    own, steps = tour.own, 100 if tour.full else 60
    if not own.layers:
        raise LeftOut("the network has no layer of maps or tokens")
    height, width, channels = _sides(tour, 160 if tour.full else 112)
    images = jaxviz.load_image(tour.photo, size=(height, width), channels=channels)[None]
    if height == width:
        images = jaxviz.load_image(tour.photo, size=height, channels=channels)[None]
    yield ("invert-photo", "The photograph", large(images[0]))
    for i, layer in enumerate(own.layers):
        found = call_invert(own.net, own.params, tour.key, images, layer.name, steps, tour.progress(steps))
        yield f"invert-{i}", f"Made from noise and the features of {layer.name}", large(found[0])


# Gram matrices


def call_texture(net, params, key, sample, layers, steps, progress):
    found = jaxviz.texture(net, params, key, sample, layers=layers, steps=steps, callback=progress)
    return found.images


def _manner(tour: Tour, picture: np.ndarray) -> tuple[jax.Array, list[str]]:
    """Return a picture at a size that the network takes, and the layers that see it."""
    _check_colors(tour)
    layers = [layer.name for layer in tour.own.maps()]
    if not layers:
        raise LeftOut("the network has no layer of maps, whose channels say of a texture what is in it")
    height, width, _ = _sides(tour, 160 if tour.full else 128)
    return jaxviz.load_image(picture, size=(height, width)), layers


def texture(tour: Tour) -> Pictures:
    with extra("photos"):
        from skimage import data

    (sample, layers), steps = _manner(tour, data.immunohistochemistry()), 100 if tour.full else 80
    yield "texture-sample", "A sample: stained tissue under the microscope", large(sample)
    image = call_texture(tour.own.net, tour.own.params, tour.key, sample, layers, steps, tour.progress(steps))[0]
    yield "texture", f"Made from noise, by the averages of {', '.join(layers)} ({steps} steps)", large(image)


def call_stylize(net, params, key, photo, painting, content, layers, steps, progress):
    how = {"content_layers": [content], "style_layers": layers, "steps": steps}
    found = jaxviz.stylize(net, params, key, photo, painting, **how, callback=progress)
    return found.images


def stylize(tour: Tour) -> Pictures:
    (painting, layers), steps = _manner(tour, paint("evening")), 80 if tour.full else 60
    content = layers[len(layers) // 2]
    photo = tour.images(224 if tour.full else 144)[0] if tour.own.any_size else tour.own_images()[0]
    own, progress = tour.own, tour.progress(steps)
    image = call_stylize(own.net, own.params, tour.key, photo, painting, content, layers, steps, progress)[0]
    yield ("style-photo", *photograph(tour))
    yield "style-painting", "The style: a picture that is painted by a program, in broad strokes", large(painting)
    yield "style", f"With the features of {content} and the averages of that picture ({steps} steps)", large(image)
