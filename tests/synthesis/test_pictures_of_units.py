"""More than one picture of a unit, by sums of scores: the least, its facets, and what it sees in a picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net

import jaxviz

KEY = jax.random.key(0)
HOW = {"size": 24, "steps": 48, "transform": None}


@pytest.mark.slow
def test_the_least_is_below_everything(small_params, images):
    """Before the ReLU, all channels side by side: below what noise and images give; and the opposite of the most."""
    score = jaxviz.channel(small_net, "conv_0", jnp.arange(8))
    least = jaxviz.ascend(-score, small_params, KEY, **HOW)
    most = jaxviz.ascend(score, small_params, KEY, **HOW)
    low, high = score(small_params, least.images), score(small_params, most.images)
    usual = jnp.stack([jaxviz.channel(small_net, "conv_0", i)(small_params, images) for i in range(8)])
    assert np.all(low < usual.min(1) - 0.05)
    assert np.all(high > usual.max(1) + 0.05)


def test_the_least_of_a_relu_is_zero(small_params):
    """All that is below zero is the same to it, and a run that finds it ends there, without an error."""
    score = jaxviz.channel(small_net, "relu_0", 2)
    found = jaxviz.ascend(-score, small_params, KEY, **HOW | {"steps": 24})
    assert np.isfinite(found.losses).all()
    assert 0 <= score(small_params, found.images)[0] < score(small_params, jnp.full((1, 24, 24, 3), 0.5))[0] + 1e-6


@pytest.mark.slow
def test_facets_are_kept_apart():
    """Of a channel that likes red and blue alike, each facet's picture stays its own."""
    either = lambda params, x: jax.nn.relu(x @ params) @ jnp.array([[1.0, 0, 1], [0, 1, 0], [1, 0, -1]])
    red, blue = (jnp.full((4, 24, 24, 3), 0.1).at[..., i].set(0.8) for i in (0, 2))
    found = jaxviz.facets(either, jnp.eye(3), jnp.concatenate([red, blue]), layer="relu_0", count=2)
    one = jaxviz.channel(either, "dense_1", jnp.zeros(2, int))
    score = one + 2 * jaxviz.direction(either, "relu_0", found.directions)
    made = jaxviz.ascend(score, jnp.eye(3), KEY, start=found.images, **HOW).images.mean((1, 2))
    first, second = (0, 2) if found.images[0, 0, 0, 0] > 0.5 else (2, 0)
    assert made[0, first] > made[0, second] + 0.3
    assert made[1, second] > made[1, first] + 0.3
    assert np.all(one(jnp.eye(3), made[:, None, None]) > 0.6)


@pytest.mark.slow
def test_accentuation_raises_the_unit_and_keeps_the_picture(small_params, images):
    """Nearer to the picture, in the early layer, than ascent alone, for a response still higher than its own."""
    image = images[:1]
    unit = jaxviz.channel(small_net, "conv_1", 3)
    near = jaxviz.match_features(small_net, small_params, image, "relu_0")
    how = {"size": image.shape[1:3], "steps": 48, "start": image[0], "transform": None}
    made = jaxviz.ascend(unit + 20 * near, small_params, KEY, **how).images
    alone = jaxviz.ascend(unit, small_params, KEY, **how).images
    assert unit(small_params, image)[0] < unit(small_params, made)[0] < unit(small_params, alone)[0]
    assert near(small_params, made)[0] > 0.5 * near(small_params, alone)[0]
