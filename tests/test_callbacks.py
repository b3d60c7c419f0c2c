"""One convention for callbacks and for `every`, of all public functions that have them. A new one is one row."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxviz

KEY, EYE = jax.random.key(0), jnp.eye(3)
IMAGES = jax.random.uniform(KEY, (1, 8, 8, 3))
PHOTOS = np.asarray(jax.random.uniform(jax.random.key(1), (11, 16, 16, 3)))
LAYERS = {"content_layers": ["relu_0"], "style_layers": ["relu_0"]}
GRAY_RED = jnp.full((1, 8, 8, 3), jnp.array([0.6, 0.4, 0.3]))


def net(params, images):
    return jax.nn.relu(images @ params)


def classifier(params, images):
    return net(params, images).mean((1, 2))


CHANNEL = jaxviz.channel(net, "relu_0", 0)
FEW = {"width": 2, "blocks": 0, "size": 16, "batch_size": 1, "steps": 12}
# Each as a function of its options, with the type of what a callback is given, what that says of how far it is, and how
# much there is to do.
CALLS = {
    "minimize": (
        functools.partial(
            jaxviz.minimize, lambda x, key: jnp.sum(x**2), jnp.ones(2), KEY, steps=12, optimizer=optax.sgd(0.1)
        ),
        jaxviz.Minimized,
        ["minimize"],
        12,
    ),
    "ascend": (
        functools.partial(jaxviz.ascend, CHANNEL, EYE, KEY, size=8, steps=12),
        jaxviz.Synthesis,
        ["ascend"],
        12,
    ),
    "dream": (
        functools.partial(jaxviz.dream, CHANNEL, EYE, KEY, IMAGES, octaves=3, steps=4),
        jaxviz.Synthesis,
        [f"dream, octave {i} of 3" for i in (1, 2, 3)],
        12,
    ),
    "dream_zoom": (
        lambda **options: list(jaxviz.dream_zoom(CHANNEL, EYE, KEY, IMAGES, frames=3, octaves=1, steps=4, **options)),
        jaxviz.Synthesis,
        [f"frame {i} of 3: dream" for i in (1, 2, 3)],
        12,
    ),
    "invert": (
        functools.partial(jaxviz.invert, net, EYE, KEY, IMAGES, layer="relu_0", steps=12),
        jaxviz.Synthesis,
        ["invert"],
        12,
    ),
    "texture": (
        functools.partial(jaxviz.texture, net, EYE, KEY, IMAGES, layers=["relu_0"], octaves=2, steps=6),
        jaxviz.Synthesis,
        ["texture, octave 1 of 2", "texture, octave 2 of 2"],
        12,
    ),
    "stylize": (
        functools.partial(jaxviz.stylize, net, EYE, KEY, IMAGES, IMAGES[0] ** 2, steps=12, **LAYERS),
        jaxviz.Synthesis,
        ["stylize"],
        12,
    ),
    "sweep": (
        functools.partial(
            jaxviz.sweep, jaxviz.texture, "smoothness", [0.0, 0.1], net, EYE, KEY, IMAGES, layers=["relu_0"], steps=6
        ),
        jaxviz.Synthesis,
        ["smoothness 1 of 2: texture", "smoothness 2 of 2: texture"],
        12,
    ),
    "fool": (
        functools.partial(jaxviz.fool, classifier, EYE, GRAY_RED, target=2, steps=12, step_size=0.01),
        jaxviz.Fooled,
        ["fool"],
        12,
    ),
    "sheet": (
        functools.partial(jaxviz.sheet, net, EYE, KEY, layer="relu_0", size=8, steps=4, batch_size=1),
        jaxviz.Sheet,
        ["sheet"],
        3,
    ),
    "train_style_net": (
        functools.partial(jaxviz.train_style_net, net, EYE, KEY, PHOTOS[:2], [IMAGES[0]], **LAYERS | FEW),
        jaxviz.StyleTraining,
        ["train_style_net"],
        12,
    ),
    "features": (
        functools.partial(jaxviz.features, net, EYE, PHOTOS, layer="relu_0", batch_size=1),
        jaxviz.Features,
        ["features"],
        11,
    ),
    "top_patches": (
        functools.partial(jaxviz.top_patches, net, EYE, PHOTOS, layer="relu_0", batch_size=1),
        jaxviz.TopPatches,
        ["top_patches"],
        11,
    ),
}
all_of_them = pytest.mark.parametrize("name", CALLS)


def test_all_functions_with_a_callback_are_here():
    public = {name: getattr(jaxviz, name) for name in dir(jaxviz) if not name.startswith("_")}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    having = {name for name, value in functions.items() if "callback" in inspect.signature(value).parameters}
    assert having == set(CALLS)


@all_of_them
@pytest.mark.slow
def test_a_callback_is_given_what_there_is_and_how_far_that_is(name):
    call, kind, whats, total = CALLS[name]
    told = []
    found = call(every=3, callback=lambda so_far: told.append((so_far, so_far.what, so_far.done, so_far.total)))
    assert {type(so_far) for so_far, *_ in told} == {kind}
    assert issubclass(kind, jaxviz.Progress)
    assert list(dict.fromkeys(what for _, what, *_ in told if not what.startswith("sheet, "))) == whats
    done = [at for _, _, at, _ in told]
    assert {type(x) for _, _, *numbers in told for x in numbers} == {int}
    assert {of for *_, of in told} == {total}
    assert done == sorted(done)
    assert done[-1] == total
    if name not in ("dream_zoom", "sweep"):  # which return images alone
        assert type(found) is kind
        assert (found.what, found.done, found.total) == (whats[-1], total, total)


@pytest.mark.slow
@all_of_them
def test_every_is_the_steps_between_two_calls(name):
    """Of all that is done at once, and again at the end of each octave, frame, batch of channels, and the whole."""
    call, _, whats, total = CALLS[name]
    told = {}
    for every in (1, 3):
        told[every] = []
        call(every=every, callback=lambda so_far, told=told[every]: told.append(so_far.done))
    if name == "sheet":  # which counts the images of whole batches, each looked at in the middle
        assert told[3] == [0, 1, 1, 2, 2, 3]
        return
    part = total // len(whats)
    assert told[1] == list(range(1, total + 1))
    assert told[3] == [at for at in told[1] if ((at - 1) % part + 1) % 3 == 0 or at % part == 0]


@all_of_them
@pytest.mark.slow
def test_a_true_value_ends_the_run(name):
    call, kind, _, total = CALLS[name]
    told = []
    found = call(every=2, callback=lambda so_far: told.append(so_far.done) or np.bool_(True))
    assert len(told) == 1
    assert told[0] < total
    if name == "dream_zoom":
        assert found == []  # the frame that was begun is none to go on from
    elif name == "sweep":
        assert len(found) == 1
    else:
        assert (type(found), found.done) == (kind, told[0])
    if hasattr(found, "finished"):
        assert not found.finished


@pytest.mark.usefixtures("users_view")
@all_of_them
def test_errors(name):
    call = CALLS[name][0]
    bad = {0: "1 step or more, got 0", 2.5: "a whole number, got 2.5", True: "a whole number, got True"}
    for every, message in bad.items():
        with pytest.raises(ValueError, match=f"^every: expected {message}"):
            call(every=every)
    with pytest.raises(ValueError, match=r"^callback: expected a function that takes the result so far, got 'print'$"):
        call(callback="print")


def test_what_is_replaced_stays_as_far_as_it_was():
    found = CALLS["ascend"][0]()._replace(finished=False)
    assert (found.what, found.done, found.total, found.finished) == ("ascend", 12, 12, False)
    images, losses, _, _ = found  # of the parts there are as many as ever
    assert images.shape == (1, 8, 8, 3)
    assert losses.shape == (12,)


def test_a_result_passes_through_jit():
    """Text is nothing that JAX can trace: how far a run is stays behind."""
    found = jax.jit(lambda params: CALLS["ascend"][0].func(CHANNEL, params, KEY, size=8, steps=2))(EYE)
    assert type(found) is jaxviz.Synthesis
    assert (found.what, found.done, found.total) == ("", 0, 0)
