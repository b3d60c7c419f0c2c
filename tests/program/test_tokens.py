"""Tokens in rows and columns: found by following the patches through the program, or told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from nets import convolve
from vits import SIZE, embedded, make_vit, vit_params

import jaxviz
from jaxviz.program._axes import arranging
from jaxviz.program._names import find
from jaxviz.program._trace import trace

EXTRA = np.ones((1, 3, 8), np.float32)
PARAMS = vit_params(size=(16, 8))
ROWS, COLUMNS = 4, 2


def maps(x):
    """Return the patches of images of 16 x 8, `(n, 4, 2, 8)`."""
    return embedded(PARAMS, x)


def flat(x):
    return x.reshape(len(x), -1, 8)


def extra(x, count):
    return jnp.broadcast_to(jnp.asarray(EXTRA[:, :count], x.dtype), (len(x), count, 8))


def joined(*parts):
    return jnp.concatenate(parts, axis=1)


def in_windows(x):
    """Order tokens by windows of 2 x 2, as for attention within them."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, c)


def by_reshape(x):
    """Cut images into patches without a convolution."""
    n, h, w, _ = x.shape
    x = x.reshape(n, h // 4, 4, w // 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, 48)
    return (x - 0.5) @ PARAMS["patch"].reshape(48, 8)


def padded(x):
    x = jnp.pad(flat(maps(x)), ((0, 0), (1, 0), (0, 0)))
    return x.at[:, 0].set(1.0)


def one(image):
    """A network of one image, for vmap."""
    return joined(extra(image[None], 1), flat(maps(image[None])))[0]


def through_blocks(x):
    return jaxviz.capture(make_vit(), "block1")(PARAMS, x)[1]["block1"]


TOKENS = {  # networks whose tokens have known places; the arrangement of the patches' own
    "patches": lambda x: flat(maps(x)),
    "patches by reshape": by_reshape,
    "class token in front": lambda x: joined(extra(x, 1), flat(maps(x))),
    "registers behind": lambda x: joined(flat(maps(x)), extra(x, 3)),
    "class token in front, registers behind": lambda x: joined(extra(x, 1), flat(maps(x)), extra(x, 2)),
    "joined twice": lambda x: joined(extra(x, 2), joined(extra(x, 1), flat(maps(x)))),
    "class token of the image": lambda x: joined(flat(maps(x)).mean(1, keepdims=True), flat(maps(x))),
    "class token cut off": lambda x: joined(extra(x, 1), flat(maps(x)))[:, 1:],
    "registers cut out": lambda x: joined(
        joined(extra(x, 3), flat(maps(x)))[:, :1], joined(extra(x, 3), flat(maps(x)))[:, 3:]
    ),
    "columns first": lambda x: flat(maps(x).transpose(0, 2, 1, 3)),
    "columns first, class token": lambda x: joined(extra(x, 1), flat(maps(x).transpose(0, 2, 1, 3))),
    "in windows": lambda x: in_windows(maps(x)),
    "in windows, class token": lambda x: joined(extra(x, 1), in_windows(maps(x))),
    "backwards": lambda x: joined(extra(x, 1), flat(maps(x)))[:, ::-1],
    "channels before tokens": lambda x: joined(extra(x, 1), flat(maps(x))).transpose(0, 2, 1),
    "images in the middle": lambda x: joined(extra(x, 1), flat(maps(x))).transpose(1, 0, 2),
    "padded": padded,
    "vmap": jax.vmap(one),
    "vmap to the last axis": jax.vmap(one, out_axes=2),
    "lax.map": lambda x: jax.lax.map(one, x),
    "a loop": lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * 1.0, joined(extra(x, 1), flat(maps(x)))),
    "reordered by numbers": lambda x: flat(maps(x))[:, np.array([7, 3, 1, 0, 2, 4, 5, 6])],
}


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("count", [2, 1])
def test_tokens_are_put_in_rows_and_columns(name, count):
    images = jax.random.uniform(jax.random.key(0), (count, 16, 8, 3))
    value, program = traced(TOKENS[name], images)
    found = arranging(value, "value", "map", "test")(jax.jit(TOKENS[name])(images))
    np.testing.assert_allclose(found, jax.jit(maps)(images), atol=1e-5)
    assert program is not None


def traced(net, images):
    program = trace(lambda _, x: checkpoint_name(net(x), "value"), None, images)
    return find(program, ["value"])["value"], program


@pytest.mark.parametrize("extras", [0, 1, 4])
@pytest.mark.slow
def test_the_grid_lasts_through_blocks(extras):
    images = jax.random.uniform(jax.random.key(0), (2, *SIZE, 3))
    params = vit_params(extras)
    net = make_vit("mean")
    for layer in ("norm0", "block0", "norm1", "block1"):
        value = jaxviz.capture(net, layer)(params, images)[1][layer]
        expected = value[:, extras:].reshape(2, 3, 2, 8)
        for at in ((0, 0), (2, 1), (1, 0)):
            score = jaxviz.neuron(net, layer, 3, at)
            np.testing.assert_array_equal(score(params, images), expected[:, at[0], at[1], 3])
        score = jaxviz.channel(net, layer, 2)
        np.testing.assert_allclose(score(params, images), expected[..., 2].mean((1, 2)), rtol=1e-5)
        score = jaxviz.energy(net, layer)
        np.testing.assert_allclose(score(params, images), jnp.square(expected).mean((1, 2, 3)), rtol=1e-5)
        found = jaxviz.features(net, params, np.asarray(images), layer=layer, pool=None)
        np.testing.assert_allclose(found.values, expected, atol=1e-5)


REFUSED = {
    "heads": lambda x: flat(maps(x)).reshape(len(x), -1, 2, 4),
    "windows": lambda x: in_windows(maps(x)).reshape(-1, 4, 8),
    "half of the tokens, by their values": lambda x: jax.lax.top_k(flat(maps(x)).transpose(0, 2, 1), 4)[0],
    "two grids": lambda x: joined(flat(maps(x)), flat(convolve(maps(x), jnp.ones((2, 2, 8, 8)), 2))),
    "the same tokens twice": lambda x: joined(flat(maps(x)), flat(maps(x))),
    "some of a row": lambda x: flat(maps(x))[:, :5],
    "class token": lambda x: joined(extra(x, 1), flat(maps(x)))[:, :1],
    "rows only": lambda x: maps(x).mean(2),
    "a mixture of tokens": lambda x: jnp.einsum("ntc,tu->nuc", flat(maps(x)), jnp.ones((8, 8))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tokens_without_a_grid_are_refused(name):
    value, _ = traced(REFUSED[name], jnp.zeros((2, 16, 8, 3)))
    with pytest.raises(ValueError, match=r"test needs .* maps .* or of tokens .* of known places; 'value'"):
        arranging(value, "value", "map", "test")


def shuffled(params, images):
    """Reorder tokens by numbers that are parameters: the program does not show where they are."""
    x = joined(extra(images, 1), flat(maps(images)))
    return checkpoint_name(jnp.take(x, params, axis=1), "tokens")[:, 0]


ORDER = jnp.arange(9)


def test_tokens_that_are_told():
    images = jax.random.uniform(jax.random.key(0), (2, 16, 8, 3))
    expected = jax.jit(maps)(images)
    for net in (shuffled, lambda p, x: shuffled(p, x) * 1.0):
        with pytest.raises(ValueError, match=r"neuron: .* tokens=\(rows, columns\) says where tokens lie"):
            jaxviz.neuron(net, "tokens", 0)(ORDER, images)
        found = jaxviz.features(net, ORDER, np.asarray(images), layer="tokens", pool=None, tokens=(4, 2, 1))
        np.testing.assert_allclose(found.values, expected, atol=1e-5)
    score = jaxviz.neuron(shuffled, "tokens", 3, (2, 1), tokens=(4, 2, 1))
    np.testing.assert_allclose(score(ORDER, images), expected[:, 2, 1, 3], atol=1e-5)
    score = jaxviz.channel(shuffled, "tokens", 3, tokens=(4, 2, 1))
    np.testing.assert_allclose(score(ORDER, images), expected[..., 3].mean((1, 2)), atol=1e-5)
    shown = lambda p, x: checkpoint_name(joined(extra(x, 1), flat(maps(x))), "tokens")
    told, found = (jaxviz.energy(shown, "tokens", tokens=t)(None, images) for t in ((4, 2, 1), None))
    np.testing.assert_array_equal(told, found)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((4, 2), r"4 x 2 are 8 of this layer's 9 tokens: say how many of the other 1 .* tokens=\(4, 2, 1\)"),
        ((4, 3), r"tokens=\(4, 3\) says 4 x 3 tokens, and this layer has 9"),
        ((4, 2, 2), "says 4 x 2 tokens behind 2, and this layer has 9"),
        ((4,), r"tokens: expected \(rows, columns\) or \(rows, columns, in front\), got \(4,\)"),
        ((4, 0, 1), r"tokens: expected \(rows, columns\)"),
        (8, r"tokens: expected \(rows, columns\)"),
        ((4.0, 2.0, 1), r"tokens: expected \(rows, columns\)"),
    ],
)
def test_tokens_that_cannot_be(tokens, message):
    images = jnp.zeros((2, 16, 8, 3))
    with pytest.raises(ValueError, match=message):
        jaxviz.neuron(shuffled, "tokens", 0, tokens=tokens)(ORDER, images)


def test_tokens_that_the_program_contradicts():
    images = jnp.zeros((2, 16, 8, 3))
    shown = lambda p, x: checkpoint_name(joined(extra(x, 1), flat(maps(x))), "tokens")
    with pytest.raises(ValueError, match=r"program shows: 4 rows and 2 columns, the first of them token 1; leave"):
        jaxviz.energy(shown, "tokens", tokens=(2, 4, 1))(None, images)
    with pytest.raises(ValueError, match=r"tokens=\(4, 2\) is for a layer \(n, tokens, channels\); this one has"):
        jaxviz.neuron(lambda p, x: checkpoint_name(maps(x), "maps"), "maps", 0, tokens=(4, 2))(None, images)


def test_a_token_sees_its_patch():
    """Attention looks elsewhere, which the spatial field leaves out; strictly, a token sees all."""
    params = vit_params(size=(12, 16))
    images = jax.ShapeDtypeStruct((1, 12, 16, 3), float)
    for layer in ("norm0", "block0", "block1"):
        field = jaxviz.receptive_field(make_vit(), params, images, layer)
        assert field == ((4, 4), (4, 4), (0, 0))
        tops, lefts = np.mgrid[0:12:4, 0:16:4]
        np.testing.assert_array_equal(field.boxes, np.stack([tops, lefts, tops + 4, lefts + 4], -1))
    whole = jaxviz.receptive_field(make_vit(), params, images, "block0", strict=True)
    np.testing.assert_array_equal(whole.boxes, np.broadcast_to([0, 0, 12, 16], (3, 4, 4)))
    # The class token has no place: what it gathers is all that there is.
    head = jaxviz.receptive_field(make_vit(), params, images, "dense_8")
    assert head == ((12, 16), (0, 0), (0, 0))


def test_a_map_that_would_be_zero_is_refused():
    """Behind the last attention a class token is all that counts; of a mean over tokens the patches count, too."""
    params, images = vit_params(), jax.random.uniform(jax.random.key(1), (2, *SIZE, 3))
    with pytest.raises(ValueError, match=r"of 'block1', the score depends on none of .* before the last attention"):
        jaxviz.grad_cam(jaxviz.logit(make_vit(), 1), params, images, layer="block1")
    assert jaxviz.grad_cam(jaxviz.logit(make_vit(), 1), params, images, layer="norm1").max() > 0
    assert jaxviz.grad_cam(jaxviz.logit(make_vit("mean"), 1), params, images, layer="block1").max() > 0


@pytest.mark.slow
def test_patches_of_tokens():
    """The strongest token of each channel, found by hand."""
    images = np.random.default_rng(0).random((3, *SIZE, 3)).astype(jnp.result_type(float))
    params = vit_params()
    found = jaxviz.top_patches(make_vit(), params, images, layer="block0", k=1).layers["block0"]
    values = jaxviz.capture(make_vit(), "block0")(params, images)[1]["block0"][:, 1:].reshape(3, 3, 2, 8)
    for channel in range(8):
        image, row, column = np.unravel_index(np.argmax(values[..., channel]), (3, 3, 2))
        assert (found.indices[channel, 0], *found.positions[channel, 0]) == (image, row, column)
        assert list(found.boxes[channel, 0]) == [4 * row, 4 * column, 4 * row + 4, 4 * column + 4]


@pytest.mark.slow
def test_what_compares_maps_compares_tokens():
    images = jax.random.uniform(jax.random.key(1), (2, *SIZE, 3))
    params, net = vit_params(), make_vit()
    tokens = jaxviz.capture(net, "block0")(params, images)[1]["block0"]
    expected = jaxviz.gram(tokens[:, 1:].reshape(2, 3, 2, 8))
    np.testing.assert_allclose(jaxviz.match_grams(net, params, images, "block0").targets["block0"], expected, atol=1e-5)
    cosine = jnp.sum(expected[0] * expected[1]) / jnp.sqrt(jnp.sum(expected[0] ** 2) * jnp.sum(expected[1] ** 2))
    score = jaxviz.diversity(net, "block0")
    np.testing.assert_allclose(score(params, images), [-cosine, -cosine], rtol=1e-5)
    guided = jaxviz.resemblance(net, params, images[:1], layer="block0")
    dots = jnp.einsum("ntc,uc->ntu", tokens[:, 1:], tokens[0, 1:])
    np.testing.assert_allclose(guided(params, images), dots.max(-1).mean(1), rtol=1e-5)


@pytest.mark.slow
def test_inversion_of_tokens():
    images = jax.random.uniform(jax.random.key(1), (1, *SIZE, 3))
    found = jaxviz.invert(make_vit(), vit_params(), jax.random.key(0), images, layer="block0", steps=20)
    assert found.losses[-1] < 0.5 * found.losses[0]
