"""What is no option, no image, or out of range: an error that names it, says what was expected and what came."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxviz

pytestmark = pytest.mark.usefixtures("users_view")

KEY, NAN = jax.random.key(0), float("nan")
IMAGES = jax.random.uniform(KEY, (1, 8, 8, 3))
IMAGE, EYE = IMAGES[0], jnp.eye(3)
LAYERS = {"content_layers": ["relu_0"], "style_layers": ["relu_0"]}


def net(params, images):
    return jax.nn.relu(images @ params)


def classifier(params, images):
    return net(params, images).mean((1, 2))


CHANNEL = jaxviz.channel(net, "relu_0", 0)
STYLE_NET = jaxviz.init_style_net(KEY, width=2, blocks=1)


def minimize(**options):
    options = {"steps": 1, "optimizer": optax.sgd(0.1)} | options
    return jaxviz.minimize(lambda x, key: jnp.sum(x**2), jnp.ones(2), KEY, **options)


def train(styles=None, **options):
    styles = [IMAGE] if styles is None else styles
    return jaxviz.train_style_net(net, EYE, KEY, np.asarray(IMAGES), styles, **LAYERS | options)


ASCEND = functools.partial(jaxviz.ascend, CHANNEL, EYE, KEY, size=8)
METHODS = {
    "ascend": ASCEND,
    "dream": lambda images=IMAGES, **options: jaxviz.dream(CHANNEL, EYE, KEY, images, **options),
    "dream_zoom": lambda images=IMAGES, **options: next(jaxviz.dream_zoom(CHANNEL, EYE, KEY, images, **options)),
    "invert": lambda images=IMAGES, **options: jaxviz.invert(net, EYE, KEY, images, layer="relu_0", **options),
    "texture": lambda image=IMAGE, **options: jaxviz.texture(net, EYE, KEY, image, layers=["relu_0"], **options),
    "stylize": lambda content=IMAGE, styles=IMAGE, **options: jaxviz.stylize(
        net, EYE, KEY, content, styles, **LAYERS | options
    ),
    "sweep": lambda **options: jaxviz.sweep(jaxviz.texture, "smoothness", **options),
    "fool": lambda images=IMAGES, **options: jaxviz.fool(classifier, EYE, images, **{"target": 1} | options),
    "sheet": functools.partial(jaxviz.sheet, net, EYE, KEY, layer="relu_0", size=8),
    "efros_leung": lambda image=IMAGE, **options: jaxviz.efros_leung(KEY, image, **{"size": 4, "window": 3} | options),
    "restyle": lambda image=IMAGE, **options: jaxviz.restyle(STYLE_NET, image, **options),
    "train_style_net": train,
    "minimize": minimize,
    "facets": lambda images=IMAGES, **options: jaxviz.facets(net, EYE, images, layer="relu_0", **options),
    "caricature": lambda images=IMAGES, **options: jaxviz.caricature(net, EYE, images, "relu_0", **options),
    "activation_grid": lambda image=IMAGE[:2, :2], **options: jaxviz.activation_grid(
        net, EYE, KEY, image, **{"layer": "relu_0", "size": 8} | options
    ),
    "resemblance": lambda images=IMAGES: jaxviz.resemblance(net, EYE, images, layer="relu_0"),
    "total_variation": lambda images=IMAGES, **options: jaxviz.total_variation(images, **options),
    "l2": jaxviz.l2,
    "decay": jaxviz.decay,
    "blurring": jaxviz.blurring,
    "small_norms": jaxviz.small_norms,
    "small_contributions": jaxviz.small_contributions,
    "crops": jaxviz.crops,
    "compose": lambda transforms: jaxviz.compose(*transforms),
    "jitter_scale_rotate": jaxviz.jitter_scale_rotate,
    "pixels": functools.partial(jaxviz.pixels, height=8, width=8),
    "fourier": functools.partial(jaxviz.fourier, height=8, width=8),
    "maco": functools.partial(jaxviz.maco, width=8),
    "natural": functools.partial(jaxviz.natural, height=8, width=8),
}

ITERATED = ("ascend", "dream", "dream_zoom", "invert", "texture", "stylize", "fool", "sheet", "minimize")
ITERATED += ("activation_grid",)
RUN = [
    *((name, {"steps": 2.5}, "steps: expected a whole number, got 2.5") for name in ITERATED),
    *((name, {"steps": 0}, "steps: expected 1 step or more, got 0") for name in ITERATED),
    *((name, {"steps": "ten"}, "steps: expected a whole number, got 'ten'") for name in ITERATED),
    *((name, {"every": True}, "every: expected a whole number, got True") for name in ITERATED if name != "fool"),
    *(
        (name, {"callback": "print"}, "callback: expected a function that takes the result so far, got 'print'")
        for name in ITERATED
        if name not in ("fool", "sheet")
    ),
    *(
        (name, {"tolerance": tolerance}, "tolerance: expected a finite number of at least 0")
        for name in ("ascend", "invert", "texture", "stylize", "minimize")
        for tolerance in (-1.0, NAN)
    ),
]

OPTIMIZERS = [
    *(
        (name, {"optimizer": optimizer}, "optimizer: expected an optax transformation such as optax.adam.*, got ")
        for name in ("ascend", "invert", "minimize")
        for optimizer in ("adam", optax.adam, 0.1)
    ),
    *(
        (name, {"optimizer": "newton"}, "optimizer: expected 'lbfgs', 'adam' or an optax transformation, got 'newton'")
        for name in ("texture", "stylize")
    ),
    *(
        (name, {"learning_rate": 0.1, "optimizer": optax.sgd(0.1)}, "learning_rate: expected none beside an optimizer")
        for name in ("ascend", "texture", "stylize")
    ),
    *(
        (name, {"learning_rate": 0.1}, "learning_rate: expected none beside L-BFGS, which has none: it would be ignore")
        for name in ("texture", "stylize")
    ),
    *(
        (name, {"learning_rate": rate, "optimizer": "adam"}, "learning_rate: expected a finite number of at least")
        for name in ("texture", "stylize")
        for rate in (-1.0, NAN, "fast")
    ),
    *(
        ("train_style_net", {"learning_rate": rate}, "learning_rate: expected a finite number of at least")
        for rate in (-1.0, NAN, "fast")
    ),
    ("ascend", {"learning_rate": -1.0}, "learning_rate: expected a finite number of at least 0, got -1.0"),
    ("sheet", {"learning_rate": NAN}, "learning_rate: expected a finite number of at least 0, got nan"),
]

BATCHES = ("dream", "dream_zoom", "invert", "fool", "resemblance", "facets", "caricature")
SINGLE = ("texture", "efros_leung", "restyle", "activation_grid")
NO_IMAGES = [
    *((name, {"images": IMAGES.tolist()}, "images: expected a JAX or NumPy array, got a list") for name in BATCHES),
    *((name, {"images": IMAGES[:0]}, "images: expected at least one image of at least one pixel") for name in BATCHES),
    *((name, {"images": 255 * IMAGES}, r"images: expected values in \[0, 1\], got") for name in BATCHES),
    *((name, {"image": IMAGE.tolist()}, "image: expected a JAX or NumPy array, got a list") for name in SINGLE),
    *((name, {"image": 255 * IMAGE}, r"image: expected values in \[0, 1\], got") for name in SINGLE),
    *((name, {"image": IMAGES[None]}, r"\(h, w, [c3]\), got shape \(1, 1, 8, 8, 3\)") for name in SINGLE),
    ("texture", {"image": IMAGE[:0]}, "image: expected at least one image of at least one pixel"),
    ("stylize", {"content": IMAGE.tolist()}, "content: expected a JAX or NumPy array, got a list"),
    ("stylize", {"styles": [IMAGE.tolist()]}, "styles: expected a JAX or NumPy array, got a list"),
    ("train_style_net", {"styles": [IMAGE.tolist()]}, "styles: expected a JAX or NumPy array, got a list"),
    ("invert", {"start": 255 * IMAGES}, r"start: expected values in \[0, 1\]"),
    ("ascend", {"start": "cat.png"}, "start: expected a brightness, a color or an image, got 'cat.png'"),
    ("total_variation", {"images": IMAGE}, r"expected images \(n, h, w, c\), .*; one image is image\[None\]"),
    ("l2", {"images": IMAGE}, r"expected images \(n, h, w, c\), .*; one image is image\[None\]"),
]

WHOLE, POSITIVE, AT_LEAST_0 = "expected a whole number, got", "expected a finite number above 0", "of at least 0, got"
RANGES = [
    ("ascend", {"basis": "fourier"}, "basis: expected fourier, pixels, maco, natural or a function .* got 'fourier'"),
    ("ascend", {"basis": lambda h, w: h}, "basis: expected a function that returns a Parameterization"),
    ("invert", {"basis": "pixels"}, "basis: expected fourier, pixels, maco, natural or a function .* got 'pixels'"),
    ("ascend", {"transform": 8}, 'transform: expected a function of a key and images, "auto", or None, got 8'),
    ("ascend", {"penalties": [jaxviz.l2]}, "penalties: expected pairs of a weight and a function of images"),
    ("ascend", {"penalties": [(jaxviz.l2, 1.0)]}, "penalties: expected pairs of a weight and a function of images"),
    ("ascend", {"penalties": [(NAN, jaxviz.l2)]}, "the weight of a penalty: expected a finite number, got nan"),
    ("ascend", {"size": -8}, "size: expected"),
    ("sheet", {"size": 8.5}, r"size: expected an int or \(height, width\), of at least 1 pixel, got 8.5"),
    ("sheet", {"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
    ("sheet", {"channels": [1.5]}, "channels: expected some of 0 to 2"),
    ("sheet", {"channels": [3]}, "channels: expected some of 0 to 2"),
    ("sheet", {"channels": [-4]}, "channels: expected some of 0 to 2"),
    ("sheet", {"channels": 1}, "channels: expected some of 0 to 2"),
    ("sheet", {"channels": []}, "channels: expected some of 0 to 2"),
    ("facets", {"count": 0}, "count: expected 1 or more, got 0"),
    ("facets", {"count": 2}, "count: expected at most the 1 images, got 2"),
    ("facets", {"nearest": 0}, "nearest: expected 1 or more, got 0"),
    ("caricature", {"power": -1.0}, f"power: expected a finite number {AT_LEAST_0} -1.0"),
    ("caricature", {"power": np.ones(2)}, r"power: expected one number, got shape \(2,\)"),
    ("activation_grid", {"power": -1.0}, f"power: expected a finite number {AT_LEAST_0} -1.0"),
    ("activation_grid", {"layer": "relu_9"}, "relu_9"),
    ("dream", {"jitter": -1}, "jitter: expected 0 or more, got -1"),
    ("dream", {"jitter": 2.5}, f"jitter: {WHOLE} 2.5"),
    ("dream", {"smoothing": -1.0}, f"smoothing: expected a finite number {AT_LEAST_0} -1.0"),
    ("dream", {"tile": 191}, "tile: expected at least 192 px, twice the overlap and 64, got 191"),
    ("dream", {"tile": 99.5}, f"tile: {WHOLE} 99.5"),
    ("dream", {"overlap": -1}, "overlap: expected 0 or more, got -1"),
    ("dream", {"step_size": -1.0}, f"step_size: expected a finite number {AT_LEAST_0} -1.0"),
    ("dream", {"octaves": 2.5}, f"octaves: {WHOLE} 2.5"),
    ("dream", {"octaves": 0}, "expected 1 octave or more and a scale above 1, got 0 and 1.4"),
    ("dream", {"octave_scale": NAN}, "expected 1 octave or more and a scale above 1, got 4 and nan"),
    ("dream_zoom", {"frames": 2.5}, f"frames: {WHOLE} 2.5"),
    ("dream_zoom", {"zoom": NAN}, "zoom: expected a fraction of the side"),
    ("invert", {"smoothness": -1.0}, f"smoothness: expected a finite number {AT_LEAST_0} -1.0"),
    ("invert", {"norm": NAN}, f"norm: expected a finite number {AT_LEAST_0} nan"),
    ("invert", {"alpha": 0.5}, "alpha: expected a finite number of at least 1, got 0.5"),
    ("invert", {"beta": 0.0}, f"beta: {POSITIVE}, got 0.0"),
    ("texture", {"tile": 63}, "tile: expected at least 64 px, twice the overlap and 64, got 63"),
    ("stylize", {"tile": 99.5}, f"tile: {WHOLE} 99.5"),
    ("texture", {"octaves": 1.5}, f"octaves: {WHOLE} 1.5"),
    ("texture", {"smoothness": NAN}, f"smoothness: expected a finite number {AT_LEAST_0} nan"),
    ("stylize", {"smoothness": -1}, f"smoothness: expected a finite number {AT_LEAST_0} -1"),
    ("stylize", {"style_size": 0.0}, f"style_size: {POSITIVE}, got 0.0"),
    ("stylize", {"style_weights": NAN}, "the weight of style_layers: expected a number of at least 0, got nan"),
    ("stylize", {"style_weights": [1.0, 2.0]}, "style_weights: expected one, or one for each of 1 styles, got 2"),
    ("stylize", {"style_layers": {"relu_0": NAN}}, "style_layers: expected weights of at least 0"),
    ("stylize", {"masks": [jnp.ones((4, 4))]}, r"masks: expected the size of its image, \(8, 8\), got shape \(4, 4\)"),
    ("stylize", {"masks": [255 * jnp.ones((8, 8))]}, r"masks: expected finite numbers in \[0, 1\], got 255 to 255"),
    ("stylize", {"style_masks": [-jnp.ones((8, 8))]}, r"style_masks: expected finite numbers in \[0, 1\], got -1 to"),
    ("stylize", {"masks": [NAN * jnp.ones((8, 8))]}, r"masks: expected finite numbers in \[0, 1\], got nan"),
    ("sweep", {"values": []}, "values: expected one or more for smoothness, got none"),
    ("fool", {"target": [0, 1]}, r"target: expected the number of a class, or one for each of 1, got \[0, 1\]"),
    ("fool", {"target": 0.5}, "target: expected the number of a class"),
    ("fool", {"target": -4}, "class: expected 0 to 2, .* got"),
    ("fool", {"step_size": NAN}, f"step_size: expected a finite number {AT_LEAST_0} nan"),
    ("efros_leung", {"window": "wide"}, "window: expected an odd number of pixels, at least 3, got wide"),
    ("restyle", {"tile": 99.5}, f"tile: {WHOLE} 99.5"),
    ("restyle", {"style": -2}, "style: expected one of 0 to 0"),
    ("train_style_net", {"steps": 2.5}, f"steps: {WHOLE} 2.5"),
    ("train_style_net", {"width": 0}, "width: expected 1 or more, got 0"),
    ("train_style_net", {"smoothness": NAN}, f"smoothness: expected a finite number {AT_LEAST_0} nan"),
    ("train_style_net", {"style_size": -1.0}, f"style_size: {POSITIVE}, got -1.0"),
    ("total_variation", {"beta": 0.0}, f"beta: {POSITIVE}, got 0.0"),
    ("decay", {"rate": 1.5}, "rate: expected a finite number from 0 to 1, got 1.5"),
    ("blurring", {"sigma": -1.0, "every": 4}, f"sigma: {POSITIVE}, got -1.0"),
    ("blurring", {"sigma": 1.0, "every": 0}, "every: expected 1 step or more, got 0"),
    ("small_norms", {"percent": 101.0}, "percent: expected a finite number from 0 to 100, got 101.0"),
    ("small_contributions", {"percent": NAN}, "percent: expected a finite number from 0 to 100, got nan"),
    ("crops", {"least": 0.0}, "least: expected a finite number above 0 and at most 1, got 0.0"),
    ("crops", {"least": 0.5, "most": 0.2}, "most: expected a finite number from least, 0.5, to 1, got 0.2"),
    ("crops", {"noise": -0.1}, f"noise: expected a finite number {AT_LEAST_0} -0.1"),
    ("compose", {"transforms": (jaxviz.crops(), 3)}, "transforms: expected functions of a key and images, got 3"),
    ("jitter_scale_rotate", {"jitter": -1.0}, f"jitter: expected a finite number {AT_LEAST_0} -1.0"),
    ("jitter_scale_rotate", {"scale": 1.0}, "scale: expected a finite number below 1, got 1.0"),
    ("jitter_scale_rotate", {"degrees": NAN}, f"degrees: expected a finite number {AT_LEAST_0} nan"),
    ("pixels", {"center": 2.0}, "center: expected a finite number from 0 to 1, got 2.0"),
    ("pixels", {"spread": -1.0}, f"spread: expected a finite number {AT_LEAST_0} -1.0"),
    ("fourier", {"decay": NAN}, "decay: expected a finite number, got nan"),
    ("maco", {"height": 0}, "height: expected 1 or more, got 0"),
    ("natural", {"contrast": 0.0}, f"contrast: {POSITIVE}, got 0.0"),
    ("natural", {"spread": 0.0}, f"spread: {POSITIVE}, got 0.0"),
    ("natural", {"margin": -1.0}, f"margin: expected a finite number {AT_LEAST_0} -1.0"),
    ("crops", {"spread": -0.1}, f"spread: expected a finite number {AT_LEAST_0} -0.1"),
    ("crops", {"size": 0}, "expected"),
    ("crops", {"zoom": 0.0}, f"zoom: {POSITIVE}, got 0.0"),
    ("crops", {"zoom": 0.5, "size": 8}, "zoom: expected none beside a size, which would ignore it, got 0.5 and 8"),
    ("ascend", {"views": 0}, "views: expected 1 view or more, got 0"),
]


@pytest.mark.parametrize(("name", "options", "message"), [*RUN, *OPTIMIZERS, *NO_IMAGES, *RANGES])
def test_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](**options)


@pytest.mark.slow
@pytest.mark.foreign
@pytest.mark.parametrize("name", BATCHES)
def test_a_tensor_is_no_array(name):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"images: expected a JAX or NumPy array, .*Tensor"):
        METHODS[name](images=torch.tensor(np.asarray(IMAGES)))


# Negative numbers count from the end


@pytest.mark.slow
def test_the_last_channel():
    options = {"size": 8, "steps": 1, "layer": "relu_0"}
    last, named = (jaxviz.sheet(net, EYE, KEY, channels=[i], **options) for i in (-1, 2))
    np.testing.assert_array_equal(last.images, named.images)


@pytest.mark.slow
def test_the_last_class():
    last, named = (METHODS["fool"](target=i, steps=3) for i in (-1, 2))
    np.testing.assert_array_equal(last.images, named.images)
    other = METHODS["fool"](target=0, steps=3)
    assert jnp.any(last.images != other.images)


@pytest.mark.slow
def test_the_last_style():
    params = jaxviz.init_style_net(KEY, width=2, blocks=0, styles=3)
    params["last"]["offset"] = jnp.arange(9.0).reshape(3, 3)
    photo = jnp.full((1, 8, 8, 3), 0.5)
    for style, same in ((-1, 2), (-3, 0)):
        found, expected = (jaxviz.style_net(params, photo, style=i) for i in (style, same))
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="style: expected one of 0 to 2, the styles of this net, got -4"):
        jaxviz.style_net(params, photo, style=-4)


@pytest.mark.slow
def test_numbers_may_be_numpys():
    """A count is any whole number's type, a weight any real number's."""
    found = ASCEND(steps=np.int64(2), learning_rate=np.float32(0.1), penalties=[(np.float32(1), jaxviz.l2)])
    assert found.losses.shape == (2,)
    styled = METHODS["stylize"](
        steps=1, masks=[np.ones((8, 8), bool)], smoothness=jnp.asarray(0.5), octaves=np.int32(1)
    )
    assert styled.images.shape == (1, 8, 8, 3)
