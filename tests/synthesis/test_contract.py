"""What every method of synthesis owes its users. A new method is one row of `METHODS`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxviz

KEY, OTHER_KEY = jax.random.key(3), jax.random.key(4)
PARAMS = jnp.array([[0.9, -0.2, 0.1], [0.1, 0.8, -0.3], [-0.2, 0.1, 0.7]])
IMAGES = jax.random.uniform(jax.random.key(7), (2, 8, 8, 3), minval=0.1, maxval=0.9)
STEPS = 10  # more than one chunk


def net(params, images):
    """One layer that sees edges, so that it matters where in an image something is."""
    above = jnp.pad(images, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    return jax.nn.relu((images - 0.5 * above) @ params)


class Made(NamedTuple):
    """What a method returns that has no type of its own."""

    images: Any


class Row(NamedTuple):
    """A method as a function of parameters, a key, images and options, and what is particular about it."""

    call: Callable
    images: bool = True  # whether it starts from images, or has them for a model
    resumes: bool = True
    random: bool = True  # whether the key changes the images
    optimizes: bool = False  # whether it takes an optimizer
    alone: bool = True  # whether images that are side by side are those that came alone
    jits: bool = True
    steps: bool = True  # whether it takes them


def match(method, **options):
    return functools.partial(method, net, **options)


def ascend(p, key, x, **options):
    score = jaxviz.channel(net, "relu_0", jnp.arange(len(x)))
    return jaxviz.ascend(score, p, key, **{"size": 8, "transform": None} | options)


def stylize(p, key, x, **options):
    style = IMAGES[0, ::-1].astype(x.dtype) ** 2
    return jaxviz.stylize(net, p, key, x, style, content_layers=["relu_0"], style_layers=["relu_0"], **options)


def fool(p, key, x, **options):
    classifier = lambda p, x: net(p, x).mean((1, 2))
    return jaxviz.fool(classifier, p, x, **{"target": 2, "step_size": 0.002} | options)


def minimize(p, key, x, **options):
    loss = lambda y, key, p, x: jnp.sum(jnp.square(net(p, y) - net(p, x)))
    options = {"optimizer": optax.sgd(0.1)} | options
    found = jaxviz.minimize(loss, jnp.full_like(x, 0.5), key, data=(p, x), **options)
    return jaxviz.Synthesis(found.variables, *found[1:])


def sweep(p, key, x, **options):
    return Made(jaxviz.sweep(jaxviz.invert, "smoothness", [0.0, 0.1], net, p, key, x[:1], layer="relu_0", **options))


def dream_zoom(p, key, x, **options):
    energy = jaxviz.energy(net, "relu_0")
    frames = list(jaxviz.dream_zoom(energy, p, key, x, **{"frames": 2, "octaves": 1, "jitter": 3} | options))
    return Made(frames[-1] if frames else x)


def activation_grid(p, key, x, **options):
    options = {"layer": "relu_0", "size": 8, "transform": None} | options
    image = x[0, :2, :3] if len(x) else jnp.zeros((0, 3, 3))
    grid = jaxviz.activation_grid(net, p, key, image, **options)
    return Made(grid.images.reshape(-1, *grid.images.shape[2:]))


METHODS = {
    "ascend": Row(ascend, images=False, optimizes=True, alone=False),  # its noise is drawn for the whole batch
    "dream": Row(
        lambda p, key, x, **options: jaxviz.dream(
            jaxviz.energy(net, "relu_0"), p, key, x, **{"octaves": 2, "jitter": 3} | options
        ),
    ),
    "invert": Row(match(jaxviz.invert, layer="relu_0"), optimizes=True, alone=False),
    "texture": Row(match(jaxviz.texture, layers=["relu_0"]), optimizes=True, alone=False),
    "stylize": Row(stylize, random=False, optimizes=True),
    "fool": Row(fool, resumes=False, random=False, alone=False, jits=False),  # it ends when all are fooled
    "sheet": Row(
        lambda p, key, x, **options: jaxviz.sheet(
            net, p, key, **{"layer": "relu_0", "size": 8, "batch_size": 1, "transform": None} | options
        ),
        images=False,
        alone=False,
        jits=False,
    ),
    "minimize": Row(minimize, images=False, random=False, alone=False),  # its variables need not be images
    "sweep": Row(sweep, resumes=False, alone=False),
    "dream_zoom": Row(dream_zoom, resumes=False),
    "activation_grid": Row(activation_grid, resumes=False, optimizes=True, alone=False, jits=False),
    "efros_leung": Row(
        lambda p, key, x, **options: Made(jaxviz.efros_leung(key, x[0], **{"size": 8, "window": 3} | options)[None]),
        resumes=False,
        alone=False,
        steps=False,
    ),
}
each = pytest.mark.parametrize("name", METHODS)


def those(choice):
    return pytest.mark.parametrize("name", [name for name, row in METHODS.items() if choice(row)])


def make(name, images=IMAGES, key=KEY, params=PARAMS, **options):
    row = METHODS[name]
    return row.call(params, key, images, **({"steps": STEPS} if row.steps else {}) | options)


@pytest.fixture(scope="module")
def made():
    """What the methods make: once for all tests."""
    return functools.cache(make)


@each
def test_images_are_images_and_the_loss_falls(name, made):
    before = np.array(IMAGES)
    found = made(name)
    assert found.images.shape[1:] == (8, 8, 3)
    assert found.images.dtype == IMAGES.dtype
    assert bool(jnp.all((found.images >= 0) & (found.images <= 1)))
    np.testing.assert_array_equal(IMAGES, before)  # what the caller holds is left alone
    if not isinstance(found, Made):
        assert np.isfinite(found.losses).all()
    if not isinstance(found, Made | jaxviz.Sheet):  # which has the last loss of each image
        assert found.losses.shape == (STEPS * (2 if name == "dream" else 1),)
        assert found.losses[-1] < found.losses[0]


@each
def test_the_same_key_makes_the_same_bits_and_another_one_others(name, made):
    again, other = make(name), make(name, key=OTHER_KEY)
    for one, same in zip(jax.tree.leaves(made(name)), jax.tree.leaves(again), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(same).tobytes()
    assert bool(jnp.any(other.images != made(name).images)) == METHODS[name].random


@those(lambda row: row.resumes)
def test_a_run_that_was_stopped_ends_as_if_undisturbed(name, made):
    at = 1 if name == "sheet" else 5
    part = make(name, every=1, callback=lambda found: found.done >= at)
    assert not part.finished
    rest = make(name, resume=[np.array(leaf) for leaf in part.state])
    np.testing.assert_array_equal(rest.images, made(name).images)
    np.testing.assert_array_equal(rest.losses, made(name).losses)
    assert rest.finished


OTHER_STATES = {
    "another shape": lambda state: [jnp.zeros((9, 9))] * len(state),
    "another length": lambda state: state[:1],
    "a part more": lambda state: [*state, state[-1], state[-1]],
    "numbers": lambda state: [0.5] * len(state),
}


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("change", OTHER_STATES.values(), ids=OTHER_STATES)
@those(lambda row: row.resumes)
def test_the_state_of_another_run_is_refused(name, change, made):
    with pytest.raises(ValueError, match="resume: this state belongs to a run of another kind or size"):
        make(name, resume=change(made(name).state))


@those(lambda row: row.steps)
def test_no_steps_are_refused(name):
    for steps in (0, -3):
        with pytest.raises(ValueError, match=f"steps: expected 1 step or more, got {steps}"):
            make(name, steps=steps)


BAD = {
    "expected finite numbers, got 3 that are NaN or infinite": lambda x: x.at[0, 1, 2].set(jnp.nan),
    r"expected values in \[0, 1\], got .* divide 0 to 255 by 255": lambda x: 255 * x,
    "of floats": lambda x: (255 * x).astype(jnp.uint8),
}


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(("message", "change"), BAD.items(), ids=["nan", "255", "uint8"])
@those(lambda row: row.images)
def test_what_is_no_image_is_refused(name, message, change):
    with pytest.raises(ValueError, match=message):
        make(name, change(IMAGES))


@pytest.mark.usefixtures("users_view")
@those(lambda row: row.images and row.steps)
def test_no_images_are_refused(name):
    with pytest.raises(ValueError, match="expected at least one image"):
        make(name, IMAGES[:0])


@pytest.mark.usefixtures("users_view")
@each
def test_no_option_is_ignored(name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'brightness'"):
        make(name, brightness=1.0)


@pytest.mark.usefixtures("users_view")
@those(lambda row: row.optimizes)
def test_what_is_no_optimizer_is_refused(name):
    for wrong in ("newton", optax.adam, 0.1):
        with pytest.raises(ValueError, match=r"optimizer: expected .*an optax transformation"):
            make(name, optimizer=wrong)
    if name != "invert":  # which has no learning rate
        with pytest.raises(ValueError, match="learning_rate: expected none beside"):
            make(name, optimizer=optax.adam(0.02), learning_rate=0.1)


@pytest.mark.slow
@those(lambda row: row.optimizes)
def test_an_optimizer_is_a_transformation_or_none(name, made):
    np.testing.assert_array_equal(make(name, optimizer=None).images, made(name).images)
    assert bool(jnp.any(make(name, optimizer=optax.adam(0.02)).images != made(name).images))


@pytest.mark.slow
@those(lambda row: row.alone)
def test_an_image_does_not_see_its_neighbors(name, made):
    others = make(name, IMAGES.at[1].set(1 - IMAGES[1])).images
    assert bool(jnp.any(others[1] != made(name).images[1]))
    np.testing.assert_allclose(others[0], made(name).images[0], atol=1e-6)
    np.testing.assert_allclose(make(name, IMAGES[:1]).images[0], made(name).images[0], atol=1e-5)


@pytest.mark.slow
@each
def test_dtype_follows(name, x64):
    steps = {"steps": 2} if METHODS[name].steps else {}
    wide = make(name, IMAGES.astype(jnp.float64), params=PARAMS.astype(jnp.float64), **steps)
    assert wide.images.dtype == jnp.float64
    assert name == "efros_leung" or bool(jnp.any(wide.images.astype(jnp.float32).astype(jnp.float64) != wide.images))


@pytest.mark.slow
@those(lambda row: row.jits)
def test_jitted_as_it_is(name, made):
    jitted = jax.jit(lambda params, key, images: make(name, images, key, params).images)
    np.testing.assert_allclose(jitted(PARAMS, KEY, IMAGES), made(name).images, atol=1e-4)
