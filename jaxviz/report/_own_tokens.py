"""The sections on attention, and on features as colors, for a network of the user's own."""

import jax.numpy as jnp

import jaxviz
from jaxviz.report._method import Pictures, Tour, enlarged
from jaxviz.report._own import LeftOut
from jaxviz.report._own_pixels import drawn, photograph

# Attention


def call_attention(net, score, params, images):
    rollout = jaxviz.attention_rollout(net, params, images)
    relevance = jaxviz.attention_relevance(score, params, images)
    return rollout, relevance


def attention(tour: Tour) -> Pictures:
    """Draw both maps; of a network without attention, or with some within windows, the functions say why not."""
    own, images = tour.own, tour.own_images()
    ranked = own.ranked(images)[:2] if own.class_count else []
    score = own.score(ranked[0][0]) if ranked else own.score()
    rollout, relevance = call_attention(own.net, score, own.params, images)
    yield ("attention-photo", *photograph(tour))
    caption = "Rollout: how much of each patch reaches the output, whatever the class"
    yield "attention-rollout", caption, drawn(rollout[0], images[0])
    if not ranked:
        yield "attention-relevance", f"Relevance for {own.what()}", drawn(relevance[0], images[0])
    for rank, (index, chance) in zip(("first", "second"), ranked, strict=False):
        if rank == "second":
            relevance = jaxviz.attention_relevance(own.score(index), own.params, images)
        caption = f"Relevance for the class ranked {rank}, {own.class_name(index)} ({chance:.0%})"
        if not bool(jnp.any(relevance > 0)):
            caption += ": nothing there supports it"
        yield f"attention-relevance-{rank}", caption, drawn(relevance[0], images[0])


# Features as colors


def call_colors(net, params, images, layer, size):
    maps = jaxviz.features(net, params, images, layer=layer, size=size, pool=None).values
    colors = jaxviz.pca_colors(maps)
    return colors


def colors(tour: Tour) -> Pictures:
    own, images = tour.own, tour.own_images()
    shown = [layer for layer in own.layers if layer.channels >= 3]
    if not shown:
        raise LeftOut("the network has no layer of maps or tokens with three channels or more")
    caption, view = photograph(tour)
    yield "colors-photo", caption, view
    for i, layer in enumerate(shown):
        picture = call_colors(own.net, own.params, images, layer.name, own.size)[0]
        rows, columns = picture.shape[:2]
        unit = "patches" if layer.layout == "tokens" else "units"
        caption = f"{layer.name}: {rows}x{columns} {unit}, those with similar features in similar colors"
        times = max(1, view.shape[0] // rows)  # as large as the photograph
        yield f"colors-{i}", caption, enlarged(jnp.asarray(picture, jnp.float32)[None], times)[0]
