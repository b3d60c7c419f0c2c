"""Layer-wise relevance propagation: closed forms, the papers' sums term by term, what adds up, batches, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import broadened, convolve, make_net, small_net

import jaxviz

RULES = ("epsilon", "gamma")
every_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(7), (2, 12, 10, 3))


@pytest.fixture(scope="module")
def without_bias(small_params):
    return small_params | {"b1": 0 * small_params["b1"]}


def score(target=1, net=small_net):
    return jaxviz.logit(net, target)


def relevances(*args, **options):
    return jaxviz.lrp(*args, **options).maps


def wide(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


# Closed forms


LINEAR = {
    "dense": lambda w, x: x.reshape(len(x), -1) @ w.reshape(-1, 1),
    "conv": lambda w, x: convolve(x, w[..., None], padding="VALID")[:, 0, 0],
}


@every_rule
@pytest.mark.parametrize("layer", ["dense", "conv"])
@pytest.mark.parametrize("baseline", ["black", "gray", "color", "image", "image each"])
def test_a_linear_score_is_shared_out_exactly(rule, layer, baseline, images):
    weights = jax.random.normal(jax.random.key(1), images.shape[1:])
    start = {
        "black": 0.0,
        "gray": 0.5,
        "color": (0.1, 0.5, 0.9),
        "image": jnp.flip(images[0], 0),
        "image each": jnp.flip(images, 0),
    }[baseline]
    maps = relevances(score(0, LINEAR[layer]), weights, images, rule=rule, baseline=start)
    np.testing.assert_allclose(maps, np.asarray(weights) * (np.asarray(images) - np.asarray(start)), atol=1e-5)


def test_the_baseline_is_gray_unless_told(small_params, images):
    maps = relevances(score(), small_params, images)
    np.testing.assert_array_equal(maps, relevances(score(), small_params, images, baseline=0.5))
    assert jnp.abs(maps - relevances(score(), small_params, images, baseline=0.0)).max() > 1e-3


def test_without_biases_and_epsilon_it_is_input_x_gradient(x64, without_bias, images):
    """Shrikumar et al. 2016: of a network of linear layers, ReLUs and max-pools."""
    params, images = wide(without_bias), wide(images)
    relevance = functools.partial(relevances, score(), params, images, baseline=0.0)
    expected = jaxviz.input_x_gradient(score(), params, images)
    assert jnp.abs(expected).max() > 1e-2
    np.testing.assert_allclose(relevance(epsilon=0.0), expected, atol=1e-14)
    errors = [jnp.abs(relevance(epsilon=epsilon) - expected).max() for epsilon in (1e-4, 1e-6, 1e-8)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pytest.mark.slow
def test_biases_take_a_share_that_the_gradient_does_not_see(x64, small_params, images):
    """With epsilon zero the proportions are those of the gradient: what is missing is bias times gradient."""
    params, images = wide(small_params), wide(images)
    maps = relevances(score(), params, images, epsilon=0.0, baseline=0.0)
    slopes = jax.jacobian(lambda bias: score()(params | {"b1": bias}, images))(params["b1"])
    taken = slopes @ params["b1"]
    assert jnp.abs(taken).min() > 1e-3
    np.testing.assert_allclose(maps.sum((1, 2, 3)) + taken, score()(params, images), atol=1e-12)


# The papers' sums, term by term


def signed_net(params, images):
    """A network whose third convolution has inputs of both signs; every layer has a bias, the first on its left."""
    x = jax.nn.relu(broadened(params["b1"]) + convolve(images, params["w1"], padding="VALID"))
    x = convolve(x, params["w2"]) + broadened(params["b2"])
    x = jax.nn.relu(convolve(x, params["w3"], padding="VALID") + broadened(params["b3"]) + 0.05)
    return jnp.einsum("bi,io->bo", x.mean((1, 2)), params["w4"]) + params["b4"][None]


@pytest.fixture(scope="module")
def signed_params():
    rng = np.random.default_rng(5)
    shapes = {"w1": (3, 3, 3, 4), "w2": (3, 3, 4, 4), "w3": (3, 3, 4, 3), "w4": (3, 5)}
    kernels = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    return kernels | {f"b{i}": rng.normal(0, 0.1, width) for i, width in enumerate((4, 4, 3, 5), start=1)}


def term_by_term(params, image, target, rule, epsilon, gamma):
    """Return one image's relevances, from each layer's terms `x_i w_ij` as a matrix, whose last row is the bias."""
    layers, x = [], np.asarray(image)
    for i, padding in ((1, "VALID"), (2, "SAME"), (3, "VALID")):
        layer = lambda x, i=i, padding=padding: convolve(x[None], params[f"w{i}"], padding=padding)[0]
        matrix = np.asarray(jax.jacobian(layer)(x))
        bias = np.broadcast_to(params[f"b{i}"] + (0.05 if i == 3 else 0), matrix.shape[:3])
        terms = np.vstack([matrix.reshape(-1, x.size).T * x.reshape(-1, 1), bias.reshape(1, -1)])
        layers.append((terms, x.shape))
        z = terms.sum(0).reshape(bias.shape)
        x = z if i == 2 else np.maximum(z, 0)
    means = x.mean((0, 1))
    terms = np.vstack([means[:, None] * params["w4"], params["b4"]])
    relevance = shared(terms, np.where(np.arange(5) == target, terms.sum(0), 0), epsilon, 0)
    relevance = x / np.where(means == 0, 1, x.sum((0, 1))) * relevance
    for terms, shape in reversed(layers):
        first = terms is layers[0][0]
        relevance = shared(terms, relevance, epsilon, gamma if rule == "gamma" and not first else 0).reshape(shape)
    return relevance


def shared(terms, relevance, epsilon, gamma):
    """Hand the outputs' relevances to the inputs, by their terms; those of the sum's own sign count more."""
    sign = np.where(terms.sum(0) < 0, -1, 1)
    terms = np.where(terms * sign > 0, 1 + gamma, 1) * terms
    return (terms @ (relevance.reshape(-1) / (terms.sum(0) + epsilon * sign)))[:-1]


@every_rule
@pytest.mark.parametrize(("epsilon", "gamma"), [(1e-6, 0.25), (0.3, 2.0)])
def test_it_equals_the_sums_written_out(x64, rule, epsilon, gamma, signed_params, images):
    images = wide(images[:, :7, :6])
    options = {"epsilon": epsilon, "baseline": 0.0} | ({"gamma": gamma} if rule == "gamma" else {})
    maps = relevances(score(2, signed_net), signed_params, images, rule=rule, **options)
    expected = [term_by_term(signed_params, image, 2, rule, epsilon, gamma) for image in images]
    np.testing.assert_allclose(maps, np.stack(expected), atol=1e-13)
    assert jnp.abs(maps).max() > 1e-3


@every_rule
def test_a_negative_score_is_handed_back_too(x64, rule, signed_params, images):
    turned = signed_params | {name: -signed_params[name] for name in ("w4", "b4")}
    values = [score(2, signed_net)(params, wide(images)) for params in (signed_params, turned)]
    assert jnp.all(values[0] * values[1] < 0)
    maps = [relevances(score(2, signed_net), params, wide(images), rule=rule) for params in (signed_params, turned)]
    np.testing.assert_array_equal(maps[0], -maps[1])


# What adds up, and what the options change


@pytest.mark.parametrize(("rule", "gamma"), [("epsilon", None), ("gamma", 0.25), ("gamma", 10.0)])
def test_relevances_add_up_to_the_score(x64, rule, gamma, without_bias, images):
    params, images = wide(without_bias), wide(images)
    maps = relevances(score(), params, images, rule=rule, gamma=gamma, epsilon=0.0, baseline=0.0)
    np.testing.assert_allclose(maps.sum((1, 2, 3)), score()(params, images), rtol=1e-12)


@every_rule
def test_where_the_networks_own_normalization_has_its_zero(x64, rule, without_bias, images):
    mean = jnp.array([0.2, 0.4, 0.7])
    normalized = lambda params, x: small_net(params, (x - broadened(mean)) / 0.3)
    params, inside = wide(without_bias), wide(images)
    images = broadened(mean) + 0.3 * inside
    maps = relevances(score(1, normalized), params, images, rule=rule, baseline=mean, epsilon=0.0)
    np.testing.assert_allclose(maps.sum((1, 2, 3)), score(1, normalized)(params, images), rtol=1e-12)
    inner = relevances(score(), params, inside, rule=rule, baseline=0.0, epsilon=0.0)
    np.testing.assert_allclose(maps, inner, atol=1e-13)


def test_gamma_of_zero_is_the_epsilon_rule(small_params, images):
    expected = relevances(score(), small_params, images)
    np.testing.assert_allclose(relevances(score(), small_params, images, rule="gamma", gamma=0.0), expected, atol=1e-7)


@pytest.mark.parametrize("rule", ["epsilon", "attention"])
def test_a_gamma_that_would_be_ignored(rule, small_params, images):
    with pytest.raises(ValueError, match=f"gamma: expected none beside the rule '{rule}', which would ignore it"):
        jaxviz.lrp(score(), small_params, images, rule=rule, gamma=0.25)


def test_the_first_convolution_and_dense_products_keep_the_epsilon_rule(small_params, images):
    def net(params, images):
        x = jax.nn.relu(convolve(images, params["w1"]) + broadened(params["b1"])).mean((1, 2))
        return jax.nn.relu(x @ params["w2"][0, 0]) @ params["w3"]

    maps = [relevances(score(1, net), small_params, images, rule=rule) for rule in RULES]
    np.testing.assert_array_equal(*maps)
    assert jnp.abs(maps[0]).max() > 1e-4


def test_rules_and_their_strengths_differ(small_params, images):
    """Negative control."""
    options = [{}, {"epsilon": 1.0}, {"rule": "gamma"}, {"rule": "gamma", "gamma": 2.0}]
    maps = [relevances(score(), small_params, images, **each) for each in options]
    for i, one in enumerate(maps):
        for other in maps[:i]:
            assert jnp.linalg.norm(one - other) > 0.1 * jnp.linalg.norm(other)
    assert jnp.abs(maps[1]).sum() < 0.5 * jnp.abs(maps[0]).sum()  # a large epsilon takes relevance away


# How a network may be written


@every_rule
@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint], ids=["jit", "remat"])
def test_layers_inside_jit_and_remat(rule, wrap, small_params, images):
    maps = relevances(score(1, make_net(wrap=wrap)), small_params, images, rule=rule)
    np.testing.assert_allclose(maps, relevances(score(), small_params, images, rule=rule), atol=1e-7)


def test_a_bias_outside_the_remat_of_its_product(small_params, images):
    def net(params, images, convolve_first):
        x = jax.nn.relu(convolve_first(images, params["w1"]) + broadened(params["b1"]))
        return jax.nn.relu(convolve(x, params["w2"], stride=2)).mean((1, 2)) @ params["w3"]

    nets = [functools.partial(net, convolve_first=fn) for fn in (convolve, jax.checkpoint(convolve))]
    maps = [relevances(score(1, net), small_params, images) for net in nets]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-7)
    gamma = [relevances(score(1, net), small_params, images, rule="gamma") for net in nets]
    assert jnp.linalg.norm(gamma[1] - gamma[0]) < 0.5 * jnp.linalg.norm(gamma[0])  # the bias has its share apart


@pytest.mark.slow
@every_rule
def test_however_the_bias_is_spelled(rule, small_params, images):
    """As one addition or two, on either side, of an array or a number; in the layer that has the gamma rule."""

    def net(params, images, add):
        x = jax.nn.relu(convolve(images, params["w1"]))
        return jax.nn.relu(add(convolve(x, params["w2"]))).mean((1, 2)) @ params["w3"]

    spellings = (lambda x: x + jnp.full(6, 0.3), lambda x: 0.3 + x, lambda x: jnp.full(6, -0.2) + x + 0.5)
    nets = [functools.partial(net, add=add) for add in (*spellings, lambda x: x)]
    maps = [relevances(score(1, net), small_params, images, rule=rule) for net in nets]
    for other in maps[1:-1]:
        np.testing.assert_allclose(other, maps[0], atol=1e-6)
    assert jnp.abs(maps[-1] - maps[0]).max() > 1e-3


@every_rule
def test_a_network_that_computes_in_half_precision(rule, small_params, images):
    def half(params, x):
        params, images = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, x))
        return small_net(params, images).astype(x.dtype)

    maps, expected = (relevances(score(1, net), small_params, images, rule=rule) for net in (half, small_net))
    assert maps.dtype == images.dtype
    assert jnp.linalg.norm(maps - expected) < 0.1 * jnp.linalg.norm(expected)


# What every method of attribution must do


@pytest.mark.slow
@every_rule
def test_raw_jit_vmap_and_a_plain_function_agree(rule, small_params, images):
    fn = lambda score, params, images: relevances(score, params, images, rule=rule)
    raw = fn(score(), small_params, images)
    assert raw.shape == images.shape
    assert jnp.abs(raw).max() > 1e-3
    np.testing.assert_allclose(jax.jit(fn)(score(), small_params, images), raw, atol=1e-6)
    np.testing.assert_allclose(fn(lambda p, x: small_net(p, x)[:, 1], small_params, images), raw, atol=1e-6)
    one = jax.vmap(lambda x: fn(score(), small_params, x[None])[0])
    np.testing.assert_allclose(one(images), raw, atol=1e-6)


def test_inner_values_are_explained_too(x64, without_bias, images):
    """A channel of a layer, from that layer down."""
    params, images = wide(without_bias), wide(images)
    channel = jaxviz.channel(small_net, "relu_1", 4)
    maps = relevances(channel, params, images, rule="gamma", epsilon=0.0, baseline=0.0)
    np.testing.assert_allclose(maps.sum((1, 2, 3)), channel(params, images), rtol=1e-12)
    assert jnp.all(channel(params, images) > 1e-3)


@every_rule
@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_without_gradient_the_map_is_zero_and_not_nan(rule, epsilon, small_params, images):
    fn = functools.partial(relevances, rule=rule, epsilon=epsilon)
    blind = small_params | {"w3": 0 * small_params["w3"]}
    np.testing.assert_array_equal(fn(score(), blind, images), 0.0)
    off = small_params | {"b1": small_params["b1"] - 100.0}  # no unit of the first layer is on
    np.testing.assert_array_equal(fn(score(), off, images), 0.0)
    nothing = small_params | {"b1": 0 * small_params["b1"]}  # every sum is zero, in every layer
    np.testing.assert_array_equal(fn(score(), nothing, 0 * images), 0.0)


def test_other_numbers_compile_nothing(small_params, images, caplog):
    fn = lambda target, images, **options: relevances(score(target), small_params, images, rule="gamma", **options)
    first = fn(1, images)
    with jax.log_compiles():
        second = fn(2, images, epsilon=1e-3, gamma=0.5)
        assert [message for message in caplog.messages if "XLA compilation" in message] == []
        fn(2, images[:, :-1])
    assert any("XLA compilation" in message for message in caplog.messages)  # another shape would have been seen
    assert jnp.abs(first - second).max() > 1e-3


# Errors


@pytest.mark.usefixtures("users_view")
def test_errors(small_params, images):
    with pytest.raises(ValueError, match="rule: expected 'epsilon', 'gamma' or 'attention', got 'alphabeta'"):
        jaxviz.lrp(score(), small_params, images, rule="alphabeta")
    with pytest.raises(ValueError, match="baseline: expected 'blur', a number, a color or an image, got 'white'"):
        jaxviz.lrp(score(), small_params, images, baseline="white")
    with pytest.raises(ValueError, match=r"images \(n, h, w, c\), got shape \(12, 10, 3\); one image is image\[None\]"):
        jaxviz.lrp(score(), small_params, images[0])
    with pytest.raises(ValueError, match="images: expected finite numbers, got 1 that are NaN or infinite"):
        jaxviz.lrp(score(), small_params, images.at[0, 1, 2, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"class: expected 0 to 4, .* got 5"):
        jaxviz.lrp(score(5), small_params, images)
    with pytest.raises(ValueError, match=r"one number per image, here \(2,\); this one gave \(\)"):
        jaxviz.lrp(lambda p, x: small_net(p, x).sum(), small_params, images)
    with pytest.raises(ValueError, match="batch_size: expected a whole number of at least 1, got 0"):
        jaxviz.lrp(score(), small_params, images, batch_size=0)


def test_errors_of_networks(small_params, images):
    with pytest.raises(ValueError, match="found no convolution or dense product of the images with parameters"):
        jaxviz.lrp(lambda weights, x: jnp.sum(weights * x, axis=(1, 2, 3)), images[:1], images)

    def attention(params, x):  # a product of activations is no layer
        rows = x.reshape(len(x), -1, 3)
        return jnp.einsum("nic,njc->n", rows, rows)

    with pytest.raises(ValueError, match="found no convolution or dense product of the images with parameters"):
        jaxviz.lrp(attention, None, images)

    def loop(w, x):
        turn = lambda x, _: (jax.nn.relu(convolve(x, w)), None)
        return jax.lax.scan(turn, x, None, length=200)[0].mean((1, 2))

    before = lambda w, x: loop(w, convolve(x, w))
    for net in (loop, before):  # with no other layer, and with one
        with pytest.raises(ValueError, match="cannot change a layer inside a `scan`: write the loop out in Python"):
            jaxviz.lrp(score(1, net), small_params["w1"][..., :3], images)

    own = jax.custom_vjp(lambda x, w: convolve(x, w))
    own.defvjp(lambda x, w: (convolve(x, w), w), lambda w, g: (g[..., :3], w))
    hidden = lambda params, x: own(x, params["w1"]).mean((1, 2)) @ jnp.ones((8, 5))
    with pytest.raises(ValueError, match="cannot change a layer inside a function with its own derivative"):
        jaxviz.lrp(score(1, hidden), small_params, images)
