"""The tour's sections on which images a network responds to most."""

import jax.numpy as jnp

import jaxviz
from jaxviz._extras import extra
from jaxviz.report._art import PAINTINGS, paint
from jaxviz.report._method import Pictures, Tour

# Gradient ascent


def call_ascend(key, channels, size, steps, progress):
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.channel(net, "relu5_1", channels)
    found = jaxviz.ascend(score, params, key, size=size, steps=steps, callback=progress)
    return found.images


CHANNELS = (89, 508, 413, 57, 38, 17)  # birds, dogs, eyes, noses, screens, scales


def ascend(tour: Tour) -> Pictures:
    size, steps = (144, 160) if tour.full else (128, 48)
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
        ("relu5_3", "only the gist"),
    ):
        found = call_invert(tour.key, images, layer, steps, tour.progress(steps))
        yield f"invert-{layer}", f"Made from noise and the features of {layer}: {what}", found[0]


# Texture synthesis


def call_texture(key, sample, size, steps, progress):
    net, params = jaxviz.load("vgg16_features")
    found = jaxviz.texture(net, params, key, sample, size=size, steps=steps, callback=progress)
    return found.images


def texture(tour: Tour) -> Pictures:
    with extra("photos"):
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
    side, steps = (288, 100) if tour.full else (160, 60)
    photo = tour.images(side)[0]
    for name in PAINTINGS:
        painting = jaxviz.load_image(paint(name), size=side)
        yield f"style-{name}-painting", "The style: a picture that is painted by a program, in broad strokes", painting
        found = call_stylize(tour.key, photo, painting, steps, tour.progress(steps))
        yield f"style-{name}", f"The photograph in that style ({steps} steps)", found[0]


# Fast style


def call_fast_style(photo):
    net = jaxviz.load_style_net()
    images = [jaxviz.restyle(net, photo, style=name) for name in net.names]
    return net.names, images


def fast_style(tour: Tour) -> Pictures:
    photo = tour.images(512 if tour.full else 288)[0]
    for name, image in zip(*call_fast_style(photo), strict=True):
        yield f"fast-style-{name}", f"The photograph after one pass of a net that has learned “{name}”", image
