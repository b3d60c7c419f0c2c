"""The tour's sections on which pixels matter."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxviz
from jaxviz.report._method import Pictures, Tour, best_class

# Occlusion


def call_occlusion(images, stride):
    net, params = jaxviz.load("efficientnet_lite0")
    score = jaxviz.probability(net)  # of the class that the network ranks first
    maps = jaxviz.occlusion(score, params, images, window=64, stride=stride)
    return maps


def occlusion(tour: Tour) -> Pictures:
    images = tour.crop()
    yield "occlusion-photo", f"The photograph as the network sees it; it says {best_class(images)}", images[0]
    hidden = images.at[:, 80:144, 80:144].set(0.5)
    yield "occlusion-hidden", f"One of the copies: with this part hidden, {best_class(hidden)}", hidden[0]
    shown = jaxviz.draw(call_occlusion(images, 8 if tour.full else 16)[0], over=images[0])
    yield "occlusion-map", "Bright where hiding a part makes the class less probable", shown


# Saliency


def call_saliency(images):
    net, params = jaxviz.load("efficientnet_lite0")
    score = jaxviz.logit(net)  # of the class that the network ranks first
    maps = jaxviz.saliency(score, params, images)
    return maps


def saliency(tour: Tour) -> Pictures:
    images = tour.crop()
    map = call_saliency(images)[0]
    yield "saliency-photo", f"The photograph as the network sees it; it says {best_class(images)}", images[0]
    yield "saliency-map", "The map for that class", jaxviz.draw(map, fine=True)
    yield "saliency-overlay", "The same, blurred, over the photograph", jaxviz.draw(map, over=images[0], fine=True)


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
    caption = f"EfficientNet-Lite0, for the class {best_class(tour.crop())}"
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
    f"The four strongest channels of {', '.join(LAYERS)}, one row each: what the unit sees, and what it responds to"
)


def _neurons(images: jax.Array, method: Callable) -> jax.Array:
    """Show patch and map of the strongest unit in each of some channels of three layers, side by side."""
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
    yield "grad-cam-guided", "Guided Grad-CAM: multiplied by guided backprop", jaxviz.draw(maps[0], fine=True)
