"""The networks: names, shapes and sizes of their parameters, the sizes of image they take, pooling, normalization."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz
from jaxviz.models import _vgg
from jaxviz.models._layers import IMAGENET_MEAN, IMAGENET_STD, adaptive_average_pool, as_net
from jaxviz.models._networks import NETWORKS

# Parameters as torchvision counts them; VGG-16's convolutions as Keras does; for EfficientNet-Lite0 the count of
# efficientnet-lite-pytorch, 4652008, less one of the two numbers of each of its 21008 normalized channels.
COUNTS = {
    "alexnet": 61100840,
    "vgg11": 132863336,
    "vgg13": 133047848,
    "vgg16": 138357544,
    "vgg19": 143667240,
    "vgg16_features": 14714688,
    "efficientnet_lite0": 4652008 - 21008,
}
HEAD = "fc6 relu6 fc7 relu7 logits"
NAMES = {
    "alexnet": f"conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 {HEAD}",
    "vgg11": "conv1_1 relu1_1 pool1 conv2_1 relu2_1 pool2 conv3_1 relu3_1 conv3_2 relu3_2 pool3 "
    f"conv4_1 relu4_1 conv4_2 relu4_2 pool4 conv5_1 relu5_1 conv5_2 relu5_2 pool5 {HEAD}",
    "vgg13": "conv1_1 relu1_1 conv1_2 relu1_2 pool1 conv2_1 relu2_1 conv2_2 relu2_2 pool2 "
    "conv3_1 relu3_1 conv3_2 relu3_2 pool3 conv4_1 relu4_1 conv4_2 relu4_2 pool4 "
    f"conv5_1 relu5_1 conv5_2 relu5_2 pool5 {HEAD}",
    "vgg16_features": "conv1_1 relu1_1 conv1_2 relu1_2 pool1 conv2_1 relu2_1 conv2_2 relu2_2 pool2 "
    "conv3_1 relu3_1 conv3_2 relu3_2 conv3_3 relu3_3 pool3 conv4_1 relu4_1 conv4_2 relu4_2 conv4_3 relu4_3 pool4 "
    "conv5_1 relu5_1 conv5_2 relu5_2 conv5_3 relu5_3 pool5",
    "vgg19": "conv1_1 relu1_1 conv1_2 relu1_2 pool1 conv2_1 relu2_1 conv2_2 relu2_2 pool2 "
    "conv3_1 relu3_1 conv3_2 relu3_2 conv3_3 relu3_3 conv3_4 relu3_4 pool3 "
    "conv4_1 relu4_1 conv4_2 relu4_2 conv4_3 relu4_3 conv4_4 relu4_4 pool4 "
    f"conv5_1 relu5_1 conv5_2 relu5_2 conv5_3 relu5_3 conv5_4 relu5_4 pool5 {HEAD}",
}
NAMES["vgg16"] = f"{NAMES['vgg16_features']} {HEAD}"
SMALLEST = dict.fromkeys(NETWORKS, 32) | {"alexnet": 63}


def shape(*size, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((*size, 3), dtype)


@functools.cache
def random_params(name):
    """Weights that keep the scale of what flows through them."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        values = rng.standard_normal(leaf.shape, np.float32)
        return values * np.float32(math.sqrt(2 / math.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.05)

    return jax.tree.map(draw, NETWORKS[name].params())


def test_every_network_is_covered():
    assert set(NETWORKS) == set(COUNTS) == set(jaxviz.available())


@pytest.mark.parametrize("name", list(COUNTS))
def test_parameter_count(name):
    assert sum(leaf.size for leaf in jax.tree.leaves(NETWORKS[name].params())) == COUNTS[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(NETWORKS[name].params())} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", list(NAMES))
@pytest.mark.parametrize("size", [(64, 64), (97, 161)])
@pytest.mark.slow
def test_names_are_the_same_at_every_size(name, size):
    """The pooling to a fixed grid, which other sizes need, is no layer of its own."""
    network = NETWORKS[name]
    assert list(jaxviz.layers(network.net, network.params(), shape(1, *size))) == NAMES[name].split()


@pytest.mark.parametrize("name", list(NAMES))
def test_names(name):
    """Exactly these, in forward order: nothing here falls back to automatic names."""
    network = NETWORKS[name]
    found = jaxviz.layers(network.net, network.params(), shape(2, 224, 224))
    assert list(found) == NAMES[name].split()
    last = found["pool5"].shape
    assert last == ((2, 6, 6, 256) if name == "alexnet" else (2, 7, 7, 512))
    for layer, value in found.items():
        if layer.startswith("conv"):
            assert found[layer.replace("conv", "relu")].shape == value.shape
    assert "logits" not in found or found["logits"].shape == (2, 1000)


def test_names_of_efficientnet():
    """A block has its expansion (but for the first), its depthwise convolution and its sum."""
    network = NETWORKS["efficientnet_lite0"]
    found = jaxviz.layers(network.net, network.params(), shape(1, 224, 224))
    repeats = (1, 2, 2, 3, 3, 4, 1)
    blocks = [f"block{stage}_{i}" for stage, n in enumerate(repeats, start=1) for i in range(1, n + 1)]
    expected = ["stem", *(f"{b}{part}" for b in blocks for part in ("_expand", "_depthwise", "")), "head", "pool"]
    expected.remove("block1_1_expand")
    named = [layer for layer in found if not layer.startswith("conv_")]
    assert named == [*expected, "logits"]
    widths = {1: (112, 16), 2: (56, 24), 3: (28, 40), 4: (14, 80), 5: (14, 112), 6: (7, 192), 7: (7, 320)}
    for block in blocks:
        side, width = widths[int(block[5])]
        assert found[block].shape == (1, side, side, width)
    assert found["head"].shape == (1, 7, 7, 1280)


@pytest.mark.slow
def test_names_can_be_captured(images):
    images = images.astype(jnp.float32)  # as the parameters
    net, params = NETWORKS["vgg16_features"].net, random_params("vgg16_features")
    names = ["conv1_2", "relu5_3", "pool5"]
    outputs, values = jax.jit(jaxviz.capture(net, names))(params, images)
    np.testing.assert_array_equal(outputs, values["pool5"])
    np.testing.assert_array_equal(values["relu5_3"].reshape(2, 1, 2, 1, 2, 512).max((2, 4)), values["pool5"])
    assert values["conv1_2"].min() < 0


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.slow
def test_any_size_from_the_smallest(name):
    network, least = NETWORKS[name], SMALLEST[name]
    run = functools.partial(jax.eval_shape, network.net, network.params())
    for size, grid in (((least, least), (1, 1)), ((least, 97), (1, 3)), ((161, 100), (5, 3))):
        expected = (2, *grid, 512) if name == "vgg16_features" else (2, 1000)
        assert run(shape(2, *size)).shape == expected
    for size in ((least - 1, least), (224, least - 1)):
        with pytest.raises(ValueError, match=f"images of {size[0]}x{size[1]} px: this network needs {least} px or mor"):
            run(shape(2, *size))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_what_is_no_batch_of_rgb_images(name):
    network = NETWORKS[name]
    with pytest.raises(
        ValueError, match=r"expected images \(n, h, w, 3\), got shape \(224, 224, 3\); one image is image"
    ):
        jax.eval_shape(network.net, network.params(), shape(224, 224))
    with pytest.raises(ValueError, match=r"expected images \(n, h, w, 3\), got shape \(1, 3, 224, 224\)"):
        jax.eval_shape(network.net, network.params(), jax.ShapeDtypeStruct((1, 3, 224, 224), jnp.float32))


def test_bytes_are_refused():
    network = NETWORKS["vgg16_features"]
    with pytest.raises(ValueError, match="float"):
        jax.eval_shape(network.net, network.params(), shape(1, 32, 32, dtype=jnp.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16_features", "efficientnet_lite0", "alexnet"])
def test_forward_on_random_weights(name):
    """At the smallest size and on a wide image; two images differ, alone as in a batch."""
    net, params, least = jax.jit(NETWORKS[name].net), random_params(name), SMALLEST[name]
    for size in ((least, least), (least + 5, 2 * least)):
        images = jax.random.uniform(jax.random.key(0), (2, *size, 3))
        outputs = net(params, images)
        assert outputs.dtype == jnp.float32
        assert jnp.all(jnp.isfinite(outputs))
        scale = jnp.abs(outputs).max()
        assert scale > 1e-3
        assert jnp.abs(outputs[0] - outputs[1]).max() > 1e-3 * scale
        np.testing.assert_allclose(net(params, images[1:])[0], outputs[1], atol=1e-4 * scale)


# Pooling to a fixed grid


@pytest.mark.parametrize(
    ("height", "width", "size"), [(7, 7, 7), (1, 1, 7), (5, 9, 7), (14, 10, 7), (13, 6, 6), (3, 2, 6)]
)
def test_adaptive_average_pool(x64, height, width, size):
    """torch.nn.AdaptiveAvgPool2d: window i is from floor(i L / S) to ceil((i + 1) L / S)."""
    x = np.random.default_rng(0).random((2, height, width, 4))
    expected = np.zeros((2, size, size, 4))
    for i in range(size):
        for j in range(size):
            rows = slice(math.floor(i * height / size), math.ceil((i + 1) * height / size))
            columns = slice(math.floor(j * width / size), math.ceil((j + 1) * width / size))
            expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(adaptive_average_pool(jnp.asarray(x), size), expected, rtol=1e-12)


# One function each, so that jit knows it again


def test_the_same_network_is_the_same_function(images):
    again = as_net(_vgg.VGG(_vgg.DEPTHS["vgg16"], classes=None, mean=_vgg.KERAS_MEAN, std=_vgg.KERAS_STD))
    assert again is NETWORKS["vgg16_features"].net
    assert len({network.net for network in NETWORKS.values()}) == len(NETWORKS)
    traces = []

    @jax.jit
    def run(score, params, images):
        traces.append(1)
        return score(params, images)

    params, images = random_params("vgg16_features"), images.astype(jnp.float32)
    for net in (again, NETWORKS["vgg16_features"].net):
        run(jaxviz.channel(net, "conv1_1", 0), params, images)
    assert len(traces) == 1


# Normalization is inside


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "std", "by_hand"),
    [
        (
            IMAGENET_MEAN,
            IMAGENET_STD,
            lambda x: (x - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
        ),
        (_vgg.KERAS_MEAN, _vgg.KERAS_STD, lambda x: 255 * x - np.array([123.68, 116.779, 103.939])),
    ],
)
def test_normalization_is_inside(x64, mean, std, by_hand):
    """The network of images in [0, 1] is the bare one of normalized images, and so are its gradients."""
    depths = (1, 1, 1, 1, 1)
    bare = as_net(_vgg.VGG(depths, classes=None, mean=(0.0,) * 3, std=(1.0,) * 3))
    net = as_net(_vgg.VGG(depths, classes=None, mean=mean, std=std))
    rng = np.random.default_rng(0)
    widths = (3, *_vgg.WIDTHS)
    params = {
        f"conv{i}_1": {
            "kernel": rng.standard_normal((3, 3, widths[i - 1], widths[i])) / 24,
            "bias": np.zeros(widths[i]),
        }
        for i in range(1, 6)
    }
    images = jnp.asarray(rng.random((1, 32, 40, 3)))
    both = (
        jax.jit(lambda x: jax.vjp(lambda x: net(params, x), x)),
        jax.jit(lambda x: jax.vjp(lambda x: bare(params, x), x)),
    )
    (outputs, pull), (expected, bare_pull) = both[0](images), both[1](by_hand(images))
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-12)
    assert jnp.abs(outputs).max() > 1e-3
    (grads,), (bare_grads,) = pull(jnp.ones_like(outputs)), bare_pull(jnp.ones_like(outputs))
    np.testing.assert_allclose(grads, bare_grads / np.array(std), rtol=1e-8, atol=1e-10)
    assert jnp.abs(outputs - bare(params, images)).max() > 1e-3 * jnp.abs(outputs).max()


def test_the_published_networks_normalize_as_trained():
    """A gray that the normalization turns into zeros gives what the biases alone give: here nothing."""
    for name, mean in (
        ("vgg16_features", (123.68 / 255, 116.779 / 255, 103.939 / 255)),
        ("efficientnet_lite0", (127 / 255,) * 3),
    ):
        net = jax.jit(NETWORKS[name].net)
        params = jax.tree.map(lambda x: x if x.ndim > 1 else 0 * x, random_params(name))
        gray = jnp.broadcast_to(jnp.array(mean, jnp.float32), (1, 32, 32, 3))
        np.testing.assert_array_equal(net(params, gray), 0)
        assert jnp.abs(net(params, 1 - gray)).max() > 1e-6
