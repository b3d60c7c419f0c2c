"""Which axis is the images, and which are rows and columns: networks of many layouts, read from their programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from nets import convolve

from jaxviz.program._axes import arranging, image_axes, order_of
from jaxviz.program._names import find
from jaxviz.program._trace import trace

KERNEL = np.ones((3, 3, 3, 8), np.float32)
MIXTURE = np.random.default_rng(0).random((16, 16), np.float32)
MATRIX = np.ones((8, 8), np.float32)


def conv(x):
    return convolve(x, KERNEL)


def windows(x):
    """Cut a map into windows of 4x4, as Swin does."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, c)


def whole(x, shape):
    n, h, w, c = shape
    return x.reshape(n, h // 4, w // 4, 4, 4, c).transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def tokens(x):
    x = conv(x)
    return x.reshape(len(x), -1, 8) @ MATRIX


def heads(x):
    return tokens(x).reshape(len(x), -1, 2, 4)


def attention(x):
    q = heads(x)
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, q))
    return jnp.einsum("nhqk,nkhd->nqhd", weights, q)


def in_windows(x):
    x = conv(x)
    rolled = jnp.roll(x, (-2, -2), (1, 2))
    return jnp.roll(whole(jax.nn.relu(windows(rolled) @ MATRIX), x.shape), (2, 2), (1, 2))


def one(image):
    """A network of one image."""
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(image[None], KERNEL, (2, 2), "SAME", dimension_numbers=numbers)
    return jax.nn.relu(x[0])


def channels_first(x):
    numbers = ("NCHW", "HWIO", "NCHW")
    return jax.lax.conv_general_dilated(x.transpose(0, 3, 1, 2), KERNEL, (2, 2), "VALID", dimension_numbers=numbers)


def in_a_scan(x):
    return jax.lax.scan(lambda x, w: (x + jax.nn.relu(x @ w), None), conv(x), jnp.stack([MATRIX] * 3))[0]


def with_class_token(x):
    return jnp.concatenate([jnp.zeros((len(x), 1, 8), x.dtype), tokens(x)], axis=1)


def patches(x):
    n, h, w, _ = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // 2, w // 2, 12) @ np.ones((12, 8), np.float32)


def pool(x):
    return jax.lax.reduce_window(conv(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def resized(method, x):
    return jax.image.resize(conv(x), (len(x), 24, 12, 8), method)


def normalized(x):
    x = conv(x)
    groups = x.reshape(*x.shape[:3], 2, 4)
    return ((groups - groups.mean((1, 2, 4), keepdims=True)) / groups.std((1, 2, 4), keepdims=True)).reshape(x.shape)


def both_ways(x):
    """Run images and their mirror images as one batch, as in augmentation at test time."""
    return conv(jnp.concatenate([x, x[:, :, ::-1]]))


NETS = {  # the network, and its axes of images, rows and columns
    "conv": (conv, (0, 1, 2)),
    "pool": (pool, (0, 1, 2)),
    "channels first": (channels_first, (0, 2, 3)),
    "rows and columns exchanged": (lambda x: conv(x).transpose(0, 2, 1, 3), (0, 2, 1)),
    "vmap": (jax.vmap(one), (0, 1, 2)),
    "vmap to the last axis": (jax.vmap(one, out_axes=3), (3, 0, 1)),
    "lax.map": (lambda x: jax.lax.map(one, x), (0, 1, 2)),
    "scan over layers": (in_a_scan, (0, 1, 2)),
    "cond": (lambda x: jax.lax.cond(x.sum() > 0, lambda y: 2 * y, jax.nn.relu, conv(x)), (0, 1, 2)),
    "fori_loop": (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y @ MATRIX, conv(x)), (0, 1, 2)),
    "tokens as a map again": (lambda x: tokens(x).reshape(*x.shape[:3], 8), (0, 1, 2)),
    "attention as a map again": (lambda x: attention(x).reshape(*x.shape[:3], 8), (0, 1, 2)),
    "shifted windows, put together": (in_windows, (0, 1, 2)),
    "patches by reshape": (patches, (0, 1, 2)),
    "cubic": (lambda x: resized("cubic", x), (0, 1, 2)),
    "nearest": (lambda x: resized("nearest", x), (0, 1, 2)),
    "repeat": (lambda x: jnp.repeat(conv(x), 2, axis=1), (0, 1, 2)),
    "transposed": (
        lambda x: jax.lax.conv_transpose(conv(x), np.ones((3, 3, 8, 8), np.float32), (2, 2), "SAME"),
        (0, 1, 2),
    ),
    "depthwise": (
        lambda x: convolve(conv(x), np.ones((3, 3, 1, 8), np.float32), feature_group_count=8),
        (0, 1, 2),
    ),
    "mirrored border": (lambda x: conv(jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")), (0, 1, 2)),
    "border from the other side": (
        lambda x: conv(jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="wrap")),
        (0, 1, 2),
    ),
    "group norm": (normalized, (0, 1, 2)),
    "split": (lambda x: jnp.split(conv(x), 2, axis=-1)[1], (0, 1, 2)),
    "gate": (lambda x: conv(x).mean((1, 2), keepdims=True) @ MATRIX, (0, 1, 2)),
    "vector": (lambda x: conv(x).mean((1, 2)) @ MATRIX, (0, None, None)),
    "flat": (lambda x: conv(x).reshape(len(x), -1), (0, None, None)),
    "tokens": (tokens, (0, None, None)),
    "heads": (heads, (0, None, None)),
    "attention": (attention, (0, None, None)),
    "class token": (with_class_token, (0, None, None)),
    "windows": (lambda x: windows(conv(x)), (None, None, None)),
    "rolled": (lambda x: jnp.roll(conv(x), 3, axis=1), (0, None, 2)),
    "turned over": (lambda x: conv(x)[:, ::-1], (0, None, 2)),
    "both ways": (both_ways, (None, 1, None)),
    "images in another order": (lambda x: conv(x)[::-1], (None, 1, 2)),
    "a learned mixture of rows": (lambda x: jnp.einsum("nhwc,hk->nkwc", conv(x), MIXTURE), (0, None, 2)),
}


def traced(net, count):
    image = jax.ShapeDtypeStruct((count, 16, 16, 3), jnp.float32)
    program = trace(lambda _, x: checkpoint_name(net(x), "value"), None, image)
    return find(program, ["value"])["value"]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("count", [2, 1, 4])
def test_axes(name, count):
    net, expected = NETS[name]
    if name == "images in another order" and count == 1:
        pytest.skip("one image has no order")
    assert image_axes(traced(net, count))[:3] == expected


def test_the_axes_are_really_those():
    """One pixel changes one place of the map: at its row, its column, in its image."""
    base = np.zeros((2, 16, 16, 3), np.float32)
    for name, (net, axes) in NETS.items():
        if None in axes or name in ("gate", "group norm", "attention as a map again"):  # which see all of an image
            continue
        value = jax.jit(net)
        changed = np.abs(value(base + 0.0) - value(np.asarray(jnp.asarray(base).at[1, 3, 12].set(1.0))))
        order = (*axes, *(i for i in range(4) if i not in axes))
        hit = np.argwhere(np.transpose(changed, order).sum(-1) > 0)
        places = hit.mean(0)
        sides = np.take(changed.shape, axes[1:])
        assert np.all(hit[:, 0] == 1), name
        assert np.all(np.abs((places[1:] + 0.5) / sides - np.array([3.5, 12.5]) / 16) < 1.6 / 8), name


@pytest.mark.parametrize(
    ("net", "layout", "order"),
    [
        (channels_first, "map", (0, 2, 3, 1)),
        (jax.vmap(one, out_axes=3), "channels", (3, 0, 1, 2)),
        (lambda x: tokens(x)[:, :20], "channels", (0, 1, 2)),
        (lambda x: tokens(x)[:, :20].transpose(1, 2, 0), "channels", (2, 0, 1)),
        (heads, "images", (0, 1, 2, 3)),
        (lambda x: jnp.matmul(MATRIX, conv(x).mean((1, 2)).T), "units", (1, 0)),
    ],
)
def test_order(net, layout, order):
    value = traced(net, 2)
    found = arranging(value, "value", layout, "test")(jnp.empty(value.aval.shape))
    assert found.shape == tuple(value.aval.shape[i] for i in order)
    assert order_of(value, "value", layout, "test") == order


@pytest.mark.parametrize(
    ("net", "layout", "message"),
    [
        (
            lambda x: tokens(x)[:, :20],
            "map",
            r"needs a layer of image maps .* has shape \(2, 20, 8\), .* axis 1 has",
        ),
        (heads, "units", r"map \(n, h, w, c\), tokens .* or a vector \(n, c\) at 'value', got shape \(2, 256, 2, 4\)"),
        (heads, "channels", "one axis of images and one of channels"),
        (lambda x: windows(conv(x)), "images", "axis 0 has images and rows and columns together"),
        (lambda x: jnp.roll(conv(x), 3, axis=1), "map", "axis 1 has rows in part or in another order"),
        (both_ways, "channels", "axis 0 has images in part or in another order"),
    ],
)
def test_what_is_unknown_is_refused(net, layout, message):
    with pytest.raises(ValueError, match=message):
        arranging(traced(net, 2), "value", layout, "test")
