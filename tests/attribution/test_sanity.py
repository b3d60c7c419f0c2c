"""Sanity checks: what is shuffled and what is not, rank correlation against SciPy, the check itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen, nnx
from nets import small_net

import jaxviz

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(7), (2, 12, 10, 3))


@pytest.fixture(scope="module")
def small_params(small_params):
    """Biases as different as weights, so that each permutation shows."""
    return small_params | {"b1": jax.random.normal(jax.random.key(6), (8,))}


def changed(params, others):
    return jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), params, others)


# randomize


@pytest.mark.parametrize(
    ("layer", "names"),
    [("dense_0", "w3"), ("conv_1", "w2 w3"), ("relu_1", "w2 w3"), ("relu_0", "w1 b1 w2 w3"), ("conv_0", "w1 b1 w2 w3")],
)
def test_what_comes_before_the_layer_stays(layer, names, small_params, images):
    shuffled = jaxviz.randomize(small_net, small_params, KEY, images, down_to=layer)
    assert changed(small_params, shuffled) == {name: name in names.split() for name in small_params}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shuffled) == jax.tree.map(
        lambda x: (x.shape, x.dtype), small_params
    )


@pytest.mark.usefixtures("users_promotions")  # as frameworks do
def test_layers_may_be_named_by_their_modules(images):
    """By all names that `layers` lists, and the numbers that stay valid."""
    model = linen.Sequential([linen.Dense(4), jax.nn.relu, linen.Dense(5)])
    net = lambda params, x: model.apply(params, x.mean((1, 2)))
    params = model.init(jax.random.key(0), images.mean((1, 2)))
    for call, name in ((jaxviz.named(net), "layers_2"), (net, "dense_1")):
        found = changed(params, jaxviz.randomize(call, params, KEY, images, down_to=name))["params"]
        assert (found["layers_0"]["kernel"], found["layers_2"]["kernel"]) == (False, True)
    whole = linen.Sequential([lambda x: x.mean((1, 2)), linen.Dense(4), jax.nn.relu, linen.Dense(5)])
    params = whole.init(jax.random.key(0), images)
    assert "layers_3" in jaxviz.layers(whole.apply, params, images)
    for name in ("layers_3", "dense_1"):
        found = changed(params, jaxviz.randomize(whole.apply, params, KEY, images, down_to=name))["params"]
        assert (found["layers_1"]["kernel"], found["layers_3"]["kernel"]) == (False, True)


def test_entries_change_places_and_nothing_else(small_params, images):
    shuffled = jaxviz.randomize(small_net, small_params, KEY, images, down_to="conv_0")
    for name, values in small_params.items():
        np.testing.assert_array_equal(jnp.sort(shuffled[name], axis=None), jnp.sort(values, axis=None))
    moved = shuffled["w2"].ravel() != small_params["w2"].ravel()
    assert moved.mean() > 0.9  # over the whole array, and not along one axis


def test_a_lower_layer_shuffles_the_upper_ones_the_same(small_params, images):
    shuffle = lambda layer, key=KEY: jaxviz.randomize(small_net, small_params, key, images, down_to=layer)
    upper, middle, lower = (shuffle(layer) for layer in ("dense_0", "conv_1", "conv_0"))
    np.testing.assert_array_equal(upper["w3"], middle["w3"])
    np.testing.assert_array_equal(upper["w3"], lower["w3"])
    np.testing.assert_array_equal(middle["w2"], lower["w2"])
    assert changed(shuffle("conv_0", jax.random.key(6)), lower) == dict.fromkeys(small_params, True)
    np.testing.assert_array_equal(shuffle("conv_0")["w1"], lower["w1"])  # the same key, the same bits


def test_jit_gives_the_same(small_params, images):
    shuffle = lambda params, key: jaxviz.randomize(small_net, params, key, images, down_to="conv_1")
    raw = shuffle(small_params, KEY)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(shuffle)(small_params, KEY), raw)


def test_what_leads_nowhere_is_no_use(small_params, images):
    """A penalty on the weights beside the logits, as training has it, which is then left out."""

    def net(params, images):
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        first, _ = jnp.split(params["w3"], 2)
        del penalty
        return small_net(params | {"w3": jnp.concatenate([first, first])}, images)

    shuffled = jaxviz.randomize(net, small_params, KEY, images, down_to="conv_1")
    assert changed(small_params, shuffled) == {name: name in ("w2", "w3") for name in small_params}


def test_a_parameter_used_twice_counts_where_it_is_used_first(images):
    net = lambda params, x: jnp.tanh(jnp.tanh(x.mean((1, 2)) @ params["twice"]) @ params["once"]) @ params["twice"]
    params = {"twice": jnp.arange(9.0).reshape(3, 3), "once": jnp.arange(9.0).reshape(3, 3)}
    shuffled = jaxviz.randomize(net, params, KEY, images, down_to="dense_2")
    assert changed(params, shuffled) == {"twice": False, "once": False}
    shuffled = jaxviz.randomize(net, params, KEY, images, down_to="dense_0")
    assert changed(params, shuffled) == {"twice": True, "once": True}


def test_a_parameter_that_is_changed_before_use_counts_where_it_meets_the_image(images):
    """As with standardized weights; and one that nothing depends on is left alone."""
    net = lambda params, x: jnp.tanh(x.mean((1, 2)) @ params[0]) @ (params[1] - params[1].mean(0, keepdims=True))
    params = [jnp.arange(9.0).reshape(3, 3), jnp.arange(6.0).reshape(3, 2), jnp.arange(5.0)]
    assert changed(params, jaxviz.randomize(net, params, KEY, images, down_to="dense_1")) == [False, True, False]
    assert changed(params, jaxviz.randomize(net, params, KEY, images, down_to="dense_0")) == [True, True, False]


class Normed(nnx.Module):
    """Two convolutions with batch normalization, and a dense layer."""

    def __init__(self, rngs):
        self.first, self.second = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(8, use_running_average=True, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(8, 9, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norms[0](self.first(x)))
        x = nnx.relu(self.norms[1](self.second(x)))
        return self.head(x.mean((1, 2)))


@pytest.mark.slow
def test_a_flax_module_with_batch_normalization(images):
    images = images.astype(jnp.float32)  # as flax makes parameters, whatever x64 says
    graph, state = nnx.split(Normed(nnx.Rngs(0)))
    leaves, treedef = jax.tree.flatten(state)
    rng = np.random.default_rng(0)  # no two numbers alike; variances above 0
    state = treedef.unflatten([jnp.asarray(rng.uniform(0.5, 1, x.shape), x.dtype) for x in leaves])
    net = lambda state, images: nnx.merge(graph, state)(images)

    def shuffled_at(layer):
        shuffled = jaxviz.randomize(net, state, KEY, images, down_to=layer)
        flags = jax.tree_util.tree_leaves_with_path(changed(state, shuffled))
        return {jax.tree_util.keystr(path, simple=True, separator="/") for path, flag in flags if flag}

    names = {jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree_util.tree_leaves_with_path(state)}
    first = {name for name in names if name.startswith(("first", "norms/0"))}
    head = {name for name in names if name.startswith("head")}
    assert (len(first), len(head), len(names)) == (6, 2, 14)
    assert shuffled_at("dense_0") == head
    assert shuffled_at("conv_1") == names - first
    assert shuffled_at("conv_0") == names


@pytest.mark.usefixtures("users_view")
def test_an_unknown_layer(small_params, images):
    with pytest.raises(ValueError, match="no layer 'conv_2'; did you mean 'conv_1' or 'conv_0'"):
        jaxviz.randomize(small_net, small_params, KEY, images, down_to="conv_2")
    with pytest.raises(ValueError, match="no layer 'conv_2'"):
        jaxviz.sanity_check(small_net, small_params, KEY, images, method=lambda p, x: x, layers=["conv_2"])


@pytest.mark.usefixtures("users_view")
def test_the_shape_of_the_images_is_enough(small_params, images):
    shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
    shuffled = jaxviz.randomize(small_net, small_params, KEY, shape, down_to="conv_1")
    expected = jaxviz.randomize(small_net, small_params, KEY, images, down_to="conv_1")
    jax.tree.map(np.testing.assert_array_equal, shuffled, expected)


# rank_correlation


@pytest.mark.parametrize("shape", [(3, 12, 10), (3, 12, 10, 3)])
@pytest.mark.parametrize("levels", [None, 4], ids=["distinct", "ties"])
def test_rank_correlation_equals_scipys(shape, levels):
    first, noise = jax.random.normal(KEY, (2, *shape))
    mixed = first * jnp.array([1.0, -1.0, 0.2]).reshape(-1, *(1,) * (len(shape) - 1)) + noise
    maps, others = (x if levels is None else jnp.round(levels * x / 4) for x in (first, mixed))
    expected = [scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(maps, others, strict=True)]
    np.testing.assert_allclose(jaxviz.rank_correlation(maps, others), expected, atol=1e-5)
    assert expected[0] > 0.5 > -0.5 > expected[1]


@pytest.mark.slow
def test_rank_correlation_of_many_pixels():
    """Ranks up to 150528, as of a 224x224 image in color, whose squares float32 does not hold."""
    maps, noise = jax.random.normal(KEY, (2, 1, 224, 224, 3))
    expected = scipy.stats.spearmanr(maps.ravel(), (maps + noise).ravel()).statistic
    np.testing.assert_allclose(jaxviz.rank_correlation(maps, maps + noise), [expected], atol=1e-5)
    np.testing.assert_allclose(jax.jit(jaxviz.rank_correlation)(maps, maps), 1, atol=1e-5)


def test_a_constant_map_correlates_with_nothing():
    maps = jax.random.normal(KEY, (2, 12, 10))
    flat = maps.at[0].set(0.3)
    found = jaxviz.rank_correlation(flat, maps)
    assert found[0] == 0
    np.testing.assert_allclose(found[1], 1, atol=1e-5)
    np.testing.assert_array_equal(jaxviz.rank_correlation(maps, flat), found)
    np.testing.assert_array_equal(jaxviz.rank_correlation(flat, flat)[0], 0)


@pytest.mark.usefixtures("users_view")
def test_errors_of_rank_correlation():
    maps = jnp.ones((2, 4, 4))
    with pytest.raises(ValueError, match=r"maps of one shape, \(n, h, w\) or .*, got \(2, 4, 4\) and \(1, 4, 4\)"):
        jaxviz.rank_correlation(maps, maps[:1])
    with pytest.raises(ValueError, match=r"got \(4, 4\) and \(4, 4\)"):
        jaxviz.rank_correlation(maps[0], maps[0])
    for name, pair in (("maps", (maps * jnp.nan, maps)), ("others", (maps, maps / 0))):
        with pytest.raises(ValueError, match=f"{name}: expected finite numbers, got 32 that"):
            jaxviz.rank_correlation(*pair)


# sanity_check


def test_a_gradient_depends_on_what_was_learned(small_params, images):
    layers = ["dense_0", "conv_1", "conv_0"]
    method = lambda params, x: jaxviz.gradient(jaxviz.logit(small_net, 1), params, x)
    found = jaxviz.sanity_check(small_net, small_params, KEY, images, method=method, layers=layers)
    assert list(found) == layers
    assert all(values.shape == (2,) for values in found.values())
    assert jnp.abs(found["conv_0"]).max() < 0.5
    # Each is the rank correlation with the map of the shuffled network.
    shuffled = jaxviz.randomize(small_net, small_params, KEY, images, down_to="conv_1")
    maps = [method(params, images) for params in (small_params, shuffled)]
    np.testing.assert_allclose(found["conv_1"], jaxviz.rank_correlation(*map(jnp.abs, maps)), atol=1e-6)
    signed = jaxviz.sanity_check(small_net, small_params, KEY, images, method=method, layers=["conv_1"], absolute=False)
    np.testing.assert_allclose(signed["conv_1"], jaxviz.rank_correlation(*maps), atol=1e-6)
    assert jnp.abs(signed["conv_1"] - found["conv_1"]).max() > 1e-2


def test_a_method_that_ignores_the_network_is_found_out(small_params, images):
    edges = lambda params, x: jnp.abs(jnp.diff(x.mean(-1), axis=1, append=0.0))
    found = jaxviz.sanity_check(small_net, small_params, KEY, images, method=edges, layers=["dense_0", "conv_0"])
    for values in found.values():
        np.testing.assert_allclose(values, 1, atol=1e-5)
