"""The sections on which pixels matter, for a network of the user's own."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxviz
from jaxviz.attribution._grad_cam import last_layer
from jaxviz.image._checks import sides_of
from jaxviz.report._method import Pictures, Tour, enlarged
from jaxviz.report._own import LeftOut

SHOWN = 224  # pixels that a small image is shown with, at least


def large(picture: Any) -> jax.Array:
    """Enlarge what is small by a whole number, so that each pixel stays one."""
    times = max(1, round(SHOWN / min(picture.shape[:2])))
    return enlarged(picture[None], times)[0]


def drawn(map: Any, image: Any = None, *, fine: bool = False) -> jax.Array:
    """Draw a map as `jaxviz.draw` does, at the size it is shown with: there, its pixels are blurred."""
    return jaxviz.draw(large(map), over=None if image is None else large(image), fine=fine)


def photograph(tour: Tour) -> tuple[str, jax.Array]:
    """Return the caption of the photograph as the network gets it, and its picture."""
    images = tour.own_images()
    says = f"; it says {tour.own.says(images)}" if tour.own.class_count else ""
    return f"The photograph as the network gets it{says}", large(images[0])


# Occlusion


def call_occlusion(net, params, images, window, stride):
    score = jaxviz.probability(net)  # of the class that the network ranks first
    maps = jaxviz.occlusion(score, params, images, window=window, stride=stride)
    return maps


def occlusion(tour: Tour) -> Pictures:
    if not tour.own.class_count:
        raise LeftOut("the network has no classes whose probability could drop")
    images, side = tour.own_images(), min(sides_of(tour.own.size))
    window = max(2, side // 4)
    map = call_occlusion(tour.own.net, tour.own.params, images, window, max(1, side // (28 if tour.full else 14)))[0]
    yield ("occlusion-photo", *photograph(tour))
    yield (
        "occlusion-map",
        f"Bright where hiding {window}x{window} pixels makes that less probable",
        drawn(map, images[0]),
    )


# Gradients


def call_saliency(score, params, images):
    maps = jaxviz.saliency(score, params, images)
    return maps


def saliency(tour: Tour) -> Pictures:
    images = tour.own_images()
    map = call_saliency(tour.own.score(), tour.own.params, images)[0]
    yield ("saliency-photo", *photograph(tour))
    yield "saliency-map", f"The map for {tour.own.what()}", drawn(map, fine=True)
    yield "saliency-overlay", "The same, blurred, on the photograph", drawn(map, images[0], fine=True)


def call_smoothgrad(score, params, key, images, samples):
    maps = jaxviz.smoothgrad(score, params, key, images, samples=samples)
    return maps


def smoothgrad(tour: Tour) -> Pictures:
    images, samples = tour.own_images(), 64 if tour.full else 24
    map = call_smoothgrad(tour.own.score(), tour.own.params, tour.key, images, samples)[0]
    yield "smoothgrad-map", f"The mean gradient of {samples} noisy copies, for {tour.own.what()}", drawn(map, fine=True)
    yield "smoothgrad-overlay", "The same, blurred, on the photograph", drawn(map, images[0], fine=True)


# ReLUs


def call_guided_backprop(score, params, images):
    maps = jaxviz.guided_backprop(score, params, images)
    return maps


def call_deconvnet(score, params, images):
    maps = jaxviz.deconvnet(score, params, images)
    return maps


def guided_backprop(tour: Tour) -> Pictures:
    return _through_relus(tour, "guided", call_guided_backprop)


def deconvnet(tour: Tour) -> Pictures:
    return _through_relus(tour, "deconvnet", call_deconvnet)


def _through_relus(tour: Tour, name: str, call: Any) -> Pictures:
    images = tour.own_images()
    map = call(tour.own.score(), tour.own.params, images)[0]
    yield f"{name}-score", f"For {tour.own.what()}", drawn(map, fine=True)
    for i, layer in enumerate(tour.own.layers[1:]):
        map = call(jaxviz.energy(tour.own.net, layer.name), tour.own.params, images)[0]
        yield f"{name}-layer-{i}", f"Everything that {layer.name} responds to", drawn(map, fine=True)


# Grad-CAM


def call_grad_cam(score, params, images, layer):
    maps = jaxviz.grad_cam(score, params, images, layer=layer)
    return maps


def grad_cam(tour: Tour) -> Pictures:
    own, images = tour.own, tour.own_images()
    if not own.layers:
        raise LeftOut("the network has no layer of maps or tokens")
    if not own.class_count:
        raise LeftOut("the network has no classes to tell apart")
    layer = last_layer(own.score(), own.params, images)
    if layer is None:
        raise LeftOut("the network has no layer of maps or tokens that the classes are made from")
    for rank, (index, chance) in zip(("first", "second"), own.ranked(images)[:2], strict=False):
        map = call_grad_cam(own.score(index), own.params, images, layer)[0]
        caption = f"At {layer}, for the class ranked {rank}, {own.class_name(index)} ({chance:.0%})"
        if not bool(jnp.any(map > 0)):
            caption += ": nothing there supports it"
        yield f"grad-cam-{rank}", caption, drawn(map, images[0])
