"""Under an outer jit some arguments are traced, and others captured, as concrete arrays: every mixture of them works.

What fails in a mixture fails when it is traced, so that nothing need be compiled: `jax.eval_shape` does.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxviz

KEY = jax.random.key(0)
IMAGES = jax.random.uniform(KEY, (1, 8, 8, 3))
IMAGE, MASK, EYE = IMAGES[0], jnp.ones((8, 8)), jnp.eye(3)
LAYERS = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], "steps": 1}


def net(params, images):
    return jax.nn.relu(images @ params)


def classifier(params, images):
    return net(params, images).mean((1, 2))


CHANNEL = jaxviz.channel(net, "relu_0", 0)


def ascend(params, key, **options):
    return jaxviz.ascend(CHANNEL, params, key, **{"size": 8, "steps": 1} | options).images


def minimize(start, key, target):
    loss = lambda x, key, target: jnp.sum((x - target) ** 2)
    return jaxviz.minimize(loss, start, key, data=(target,), steps=2, optimizer=optax.sgd(0.1)).variables


def by_recipe(name):
    return lambda params, key: ascend(params, key, **jaxviz.recipe(name) | {"size": 8, "steps": 1})


CASES = {
    "ascend": (ascend, EYE, KEY),
    "ascend, start": (lambda p, k, x: ascend(p, k, start=x, basis=jaxviz.pixels), EYE, KEY, IMAGE),
    **{f"recipe {name}": (by_recipe(name), EYE, KEY) for name in ("simonyan", "cs231n", "yosinski-4", "maco")},
    "dream": (lambda p, k, x: jaxviz.dream(CHANNEL, p, k, x, octaves=2, steps=1).images, EYE, KEY, IMAGES),
    "dream_zoom": (
        lambda p, k, x: [*jaxviz.dream_zoom(CHANNEL, p, k, x, frames=2, octaves=1, steps=1)],
        EYE, KEY, IMAGES,
    ),
    "invert": (
        lambda p, k, x, y: jaxviz.invert(net, p, k, x, layer="relu_0", steps=1, start=y).images,
        EYE, KEY, IMAGES, IMAGES,
    ),
    "texture": (lambda p, k, x: jaxviz.texture(net, p, k, x, layers=["relu_0"], steps=1).images, EYE, KEY, IMAGE),
    "stylize": (lambda p, k, x, y: jaxviz.stylize(net, p, k, x, y, start=x, **LAYERS).images, EYE, KEY, IMAGE, IMAGE),
    "stylize, masks": (
        lambda x, m, w: jaxviz.stylize(
            net, EYE, KEY, x, x, masks=[m], style_masks=[m], style_weights=w, colors="match", **LAYERS
        ).images,
        IMAGE, MASK, jnp.asarray(2.0),
    ),
    "efros_leung": (lambda k, x: jaxviz.efros_leung(k, x, size=4, window=3), KEY, IMAGE),
    "match_features": (lambda p, x: jaxviz.match_features(net, p, x, ["relu_0"])(p, x), EYE, IMAGES),
    "match_grams": (
        lambda p, x, m: jaxviz.match_grams(net, p, x, ["relu_0"], masks=m, where=m)(p, x), EYE, IMAGES, MASK
    ),
    "resemblance": (lambda p, x: jaxviz.resemblance(net, p, x, layer="relu_0")(p, x), EYE, IMAGES),
    "minimize": (minimize, jnp.zeros(2), KEY, jnp.ones(())),
}  # fmt: skip


def subsets(count):
    return itertools.chain(*(itertools.combinations(range(count), size) for size in range(count + 1)))


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.slow
def test_any_argument_may_be_traced(name):
    function, *arguments = CASES[name]
    for chosen in subsets(len(arguments)):

        def run(*traced, chosen=chosen):
            given = list(arguments)
            for i, value in zip(chosen, traced, strict=True):
                given[i] = value
            return function(*given)

        shapes = jax.eval_shape(run, *(arguments[i] for i in chosen))
        assert all(leaf.size for leaf in jax.tree.leaves(shapes))


def test_a_dream_of_captured_images_is_the_same():
    dream = lambda key: jaxviz.dream(CHANNEL, EYE, key, IMAGES, octaves=1, steps=2, jitter=1).images
    np.testing.assert_allclose(jax.jit(dream)(KEY), dream(KEY), atol=1e-6)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda p: jaxviz.fool(classifier, p, IMAGES, target=1).images, "fool: .* call it outside of jit"),
        (lambda p: jaxviz.sheet(net, p, KEY, layer="relu_0", size=8).images, "sheet: .* call it outside of jit"),
        (lambda p: jaxviz.restyle({"first": p}, IMAGE), "restyle: .*style_net is one pass, and can be traced"),
    ],
)
def test_what_cannot_be_traced_says_so(run, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(run, EYE)
