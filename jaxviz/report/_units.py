"""The tour's sections on what units respond to."""

import jax.numpy as jnp
import numpy as np

import jaxviz
from jaxviz.report._map import lay_out
from jaxviz.report._method import Pictures, Tour, enlarged, small_pictures

# Filters


def call_filters():
    _, params = jaxviz.load("vgg16_features")
    tiles = jaxviz.filters(params)
    return tiles


def filters(tour: Tour) -> Pictures:
    tiles = enlarged(call_filters(), 12)
    yield "filters-vgg16", "VGG-16, conv1_1: 64 filters of 3x3 pixels", jaxviz.montage(tiles, columns=16)
    _, params = jaxviz.load("efficientnet_lite0")
    tiles = enlarged(jaxviz.filters(params), 12)
    yield (
        "filters-efficientnet",
        "EfficientNet-Lite0, stem: 32 filters of 3x3 pixels",
        jaxviz.montage(tiles, columns=16),
    )


# Neighbors


def call_neighbors(album, side):
    net, params = jaxviz.load("efficientnet_lite0")
    found = jaxviz.features(net, params, album, layer="pool", size=side)
    near = jaxviz.neighbors(found.values, found.values, k=min(9, len(found.ids)))
    return found, near.indices


def neighbors(tour: Tour) -> Pictures:
    album, side = tour.photographs(96), 96 if tour.album is None else 224
    found, near = call_neighbors(album, side)
    queries = [0]
    while len(queries) < min(5, len(near)):  # the image least similar to those chosen before
        nearest = jaxviz.neighbors(found.values[queries], found.values, k=1)
        queries.append(int(nearest.distances.argmax()))
    near = near[queries]
    small = small_pictures(album, found.ids, 64)
    others = near.shape[1] - 1
    yield (
        "neighbors-features",
        f"Among {len(small)} images: {len(near)} of them, and after each the {others} with the nearest features",
        jaxviz.montage(small[near.ravel()], columns=near.shape[1]),
    )
    pixels = jaxviz.neighbors(small, small[near[:, 0]], k=near.shape[1], metric="l2").indices
    yield (
        "neighbors-pixels",
        f"The {others} that are nearest in pixels",
        jaxviz.montage(small[pixels.ravel()], columns=near.shape[1]),
    )
    points = jaxviz.tsne(found.values, tour.key, perplexity=min(30.0, (len(small) - 1) / 3))
    thumbnails = dict(zip(found.ids, jnp.clip(jaxviz.resize(small, (48, 48)), 0, 1), strict=True))
    layout = lay_out(points, found.values, found.ids, thumbnails.__getitem__, side=48)
    caption = "All of them, where t-SNE of the features puts them; in the grid, each moved to its own square"
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
        shared = alive & (weakest > 0.5 * patches.values[:, 0]) & (weakest > 0)  # active in more than one image
        spread = np.flatnonzero(shared if shared.any() else alive)
        chosen = np.random.default_rng(0).permutation(spread)[:6]
        rows = {name: i for i, name in enumerate(album.ids)}
        crops = []
        for channel in chosen:
            for name, (top, left, bottom, right) in zip(patches.ids[channel], patches.boxes[channel], strict=True):
                image = jaxviz.load_image(album.read(rows[name]), size=side) if name else jnp.ones((side, side, 3))
                crop = image[top:bottom, left:right]
                crops.append(enlarged(crop[None], max(1, 80 // max(crop.shape)))[0])
        caption = f"{layer}: channels {', '.join(map(str, chosen))}, and the nine patches that activate each most"
        yield f"patches-{layer}", caption, jaxviz.montage(crops, columns=9)
