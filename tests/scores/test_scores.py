"""Scores: values, pytrees that compile once, errors."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import convolve, small_net

import jaxviz


def values_of(params, images, layer):
    return jaxviz.capture(small_net, layer)(params, images)[1][layer]


def test_logit(small_params, images):
    logits = small_net(small_params, images)
    np.testing.assert_array_equal(jaxviz.logit(small_net, 3)(small_params, images), logits[:, 3])
    np.testing.assert_array_equal(jaxviz.logit(small_net)(small_params, images), logits.max(-1))
    each = jaxviz.logit(small_net, jnp.array([4, 0]))(small_params, images)
    np.testing.assert_array_equal(each, [logits[0, 4], logits[1, 0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16])
def test_labels_may_be_small_integers(dtype):
    """A data set's often are: what they are compared with and reduced by, the number of classes, is no such number."""
    net = lambda params, images: images.mean((1, 2)) @ params
    params, images = jnp.arange(3000.0).reshape(3, 1000), jnp.eye(2, 3)[:, None, None]
    labels = np.array([3, 120], dtype)
    for score in (jaxviz.logit(net, labels), jaxviz.logit(net, jnp.asarray(labels))):
        np.testing.assert_array_equal(score(params, images), [3, 1120])
        np.testing.assert_array_equal(jax.jit(lambda score: score(params, images))(score), [3, 1120])
    np.testing.assert_array_equal(jaxviz.logit(net, dtype(120))(params, images), [120, 1120])


def test_a_list_of_numbers_is_an_array(small_params, images):
    for make in (jaxviz.logit, jaxviz.probability, lambda net, index: jaxviz.channel(net, "relu_1", index)):
        for index in ([0, 3], [[0, 1, 2]]):
            expected = make(small_net, jnp.array(index))(small_params, images)
            np.testing.assert_array_equal(make(small_net, index)(small_params, images), expected)


def test_probability(small_params, images):
    expected = jax.nn.softmax(small_net(small_params, images))
    close = lambda score, values: np.testing.assert_allclose(score(small_params, images), values, rtol=1e-6)
    close(jaxviz.probability(small_net, 3), expected[:, 3])
    close(jaxviz.probability(small_net), expected.max(-1))
    close(jaxviz.probability(small_net, jnp.array([4, 0])), [expected[0, 4], expected[1, 0]])
    everything = jaxviz.probability(small_net, jnp.arange(5)[None])
    np.testing.assert_allclose(everything(small_params, images).sum(-1), 1, rtol=1e-6)


@pytest.mark.slow
def test_the_gradient_of_a_probability_sees_the_other_classes(small_params, images):
    """p_i (dz_i - sum_j p_j dz_j); a logit's sees none."""
    small_params = small_params | {"w3": small_params["w3"] / 10}  # so that no class has it all
    grads = jaxviz.gradient(jaxviz.logit(small_net, jnp.arange(5)[None]), small_params, images)
    p = jax.nn.softmax(small_net(small_params, images))
    mean = jnp.einsum("nk,nk...->n...", p, grads)
    expected = p[:, 1, None, None, None] * (grads[:, 1] - mean)
    found = jaxviz.gradient(jaxviz.probability(small_net, 1), small_params, images)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert jnp.abs(found - p[:, 1, None, None, None] * grads[:, 1]).max() > 1e-4


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda i: jaxviz.logit(small_net, i), id="logit"),
        pytest.param(lambda i: jaxviz.probability(small_net, i), id="probability"),
        pytest.param(lambda i: jaxviz.channel(small_net, "relu_1", i), id="channel"),
        pytest.param(lambda i: jaxviz.channel(small_net, "dense_0", i), id="channel of a dense layer"),
        pytest.param(lambda i: jaxviz.neuron(small_net, "relu_1", i), id="neuron"),
        pytest.param(
            lambda i: jaxviz.neuron(small_net, "relu_1", i, (jnp.array([0, 1]), 3)), id="neuron at a position"
        ),
    ],
)
def test_several_numbers_for_each_image(make, small_params, images):
    single = np.stack([make(i)(small_params, images) for i in range(5)], axis=1)  # (n, 5)
    shared = make(np.array([[3, 0, 3]]))(small_params, images)
    np.testing.assert_array_equal(shared, single[:, [3, 0, 3]])
    own = make(jnp.array([[3, 0], [1, 4]]))(small_params, images)
    np.testing.assert_array_equal(own, [single[0, [3, 0]], single[1, [1, 4]]])
    one = make(jnp.array([[2]]))(small_params, images)
    assert one.shape == (2, 1)
    np.testing.assert_array_equal(one, single[:, 2:3])
    np.testing.assert_allclose(
        jax.jit(lambda i: make(i)(small_params, images))(jnp.array([[3, 0, 3]])), shared, rtol=1e-5
    )


def test_positions_and_weights_in_lists(small_params, images):
    found, expected = (
        jaxviz.gradient(jaxviz.neuron(small_net, "relu_1", 0, at) * weights, small_params, images)
        for at, weights in (
            (([1, 2], [3, 4]), [2.0, 1.0]),
            ((jnp.array([1, 2]), jnp.array([3, 4])), jnp.array([2.0, 1.0])),
        )
    )
    np.testing.assert_array_equal(found, expected)


def test_channel_neuron_energy(small_params, images):
    value = values_of(small_params, images, "relu_1")
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
    close(jaxviz.channel(small_net, "relu_1", 2)(small_params, images), value[..., 2].mean((1, 2)))
    pair = jaxviz.channel(small_net, "relu_1", np.array([2, 5]))(small_params, images)
    close(pair, [value[0, ..., 2].mean(), value[1, ..., 5].mean()])
    close(jaxviz.neuron(small_net, "relu_1", 2)(small_params, images), value[:, 4, 4, 2])
    close(jaxviz.neuron(small_net, "relu_1", 2, (0, 7))(small_params, images), value[:, 0, 7, 2])
    where = (jnp.array([0, 1]), jnp.array([7, 6]))
    close(jaxviz.neuron(small_net, "relu_1", 2, where)(small_params, images), [value[0, 0, 7, 2], value[1, 1, 6, 2]])
    close(jaxviz.energy(small_net, "relu_1")(small_params, images), (value**2).mean((1, 2, 3)))
    dense = values_of(small_params, images, "dense_0")
    close(jaxviz.channel(small_net, "dense_0", 1)(small_params, images), dense[:, 1])
    close(jaxviz.neuron(small_net, "dense_0", 1)(small_params, images), dense[:, 1])


@pytest.mark.slow
def test_other_numbers_compile_nothing(small_params, images):
    compiled = []

    def count(net):
        def counted(params, images):
            compiled.append(1)
            return net(params, images)

        return counted

    net = count(small_net)
    run = jax.jit(jaxviz.saliency)
    for make in (
        lambda i: jaxviz.logit(net, i),
        lambda i: jaxviz.channel(net, "relu_1", i),
        lambda i: jaxviz.neuron(net, "relu_1", i, (i, 2)),
    ):
        maps = [run(make(0), small_params, images)]
        traces = len(compiled)
        maps += [run(make(i), small_params, images) for i in range(1, 4)]
        assert len(compiled) == traces
        assert any(jnp.any(maps[0] != other) for other in maps[1:])  # and they are really others
    assert len(compiled) > 0


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("position", [3, (1,), (1, 2, 3), (), np.arange(3)])
def test_a_position_is_a_row_and_a_column(position):
    with pytest.raises(ValueError, match=r"position: expected \(row, column\), each a number or one per image, got"):
        jaxviz.neuron(small_net, "relu_1", 0, position)


@pytest.mark.usefixtures("users_view")
def test_a_position_may_be_an_array(small_params, images):
    expected = jaxviz.neuron(small_net, "relu_1", 0, (1, 2))(small_params, images)
    for position in ([1, 2], np.array([1, 2]), jnp.array([[1, 1], [2, 2]])):
        np.testing.assert_array_equal(jaxviz.neuron(small_net, "relu_1", 0, position)(small_params, images), expected)


@pytest.mark.usefixtures("users_view")
def test_masks_are_one_or_one_per_image(small_params, images):
    with pytest.raises(ValueError, match="expected one mask, or one for each of 2 images, got 3"):
        jaxviz.channel(small_net, "relu_1", 0, where=jnp.ones((3, 4, 4)))(small_params, images)


@pytest.mark.usefixtures("users_view")
def test_a_traced_number_is_whole(small_params, images):
    """Or else its fraction would be dropped without a word."""
    with pytest.raises(ValueError, match="expected the number of a class"):
        jax.jit(lambda target: jaxviz.logit(small_net, target)(small_params, images))(1.5)


@pytest.mark.usefixtures("users_view")
def test_out_of_range(small_params, images):
    with pytest.raises(ValueError, match=r"class: expected 0 to 4, .* got 5"):
        jaxviz.logit(small_net, 5)(small_params, images)
    with pytest.raises(ValueError, match=r"channel of 'relu_1': expected 0 to 5, .* got 6"):
        jaxviz.channel(small_net, "relu_1", 6)(small_params, images)
    with pytest.raises(ValueError, match=r"row of 'relu_1': expected .* got 8"):
        jaxviz.neuron(small_net, "relu_1", 0, (8, 0))(small_params, images)
    with pytest.raises(ValueError, match="no position"):
        jaxviz.neuron(small_net, "dense_0", 0, (0, 0))(small_params, images)
    for make in (jaxviz.logit, jaxviz.probability):
        with pytest.raises(
            ValueError, match=r"one for each of 2 images, or several for each, \(1, k\) or \(n, k\), got"
        ):
            make(small_net, jnp.arange(3))(small_params, images)
        with pytest.raises(ValueError, match=r"one for each of 2 images, .* got shape \(3, 2\)"):
            make(small_net, jnp.zeros((3, 2), int))(small_params, images)
        with pytest.raises(ValueError, match=r"class: expected 0 to 4, .* got \[\[ ?0 +-6\]\]"):
            make(small_net, np.array([[0, -6]]))(small_params, images)
    with pytest.raises(ValueError, match=r"one row of 'relu_1', or one for each of 2 images, got shape \(1, 2\)"):
        jaxviz.neuron(small_net, "relu_1", 0, (np.array([[0, 1]]), 0))(small_params, images)
    with pytest.raises(ValueError, match=r"network that returns \(n, classes\)"):
        jaxviz.logit(lambda p, x: x)(small_params, images)
    with pytest.raises(ValueError, match="expected the number of a class"):
        jaxviz.logit(small_net, 1.5)(small_params, images)


def test_a_traced_index_out_of_range_is_nan(small_params, images):
    values = jax.jit(lambda i: jaxviz.logit(small_net, i)(small_params, images))(9)
    assert jnp.all(jnp.isnan(values))
    explain = jax.jit(lambda i: jaxviz.saliency(jaxviz.logit(small_net, i), small_params, images))
    assert not jnp.any(jnp.isfinite(explain(9)))  # XLA's maximum over colors of NaN is minus infinity
    np.testing.assert_array_equal(explain(-1), explain(4))


def test_a_neuron_of_tokens_without_places_is_refused(images):
    net = lambda params, images: jax.nn.relu(jnp.sort(images.reshape(len(images), -1, 3), 1))
    with pytest.raises(ValueError, match=r"neuron: expected a map .*, tokens .* vector \(n, c\) at 'relu_0'"):
        jaxviz.neuron(net, "relu_0", 0)(None, images)


# Sums


def test_scores_add_and_are_multiplied(small_params, images):
    first, second = jaxviz.logit(small_net, 1), jaxviz.channel(small_net, "relu_1", 2)
    a, b = first(small_params, images), second(small_params, images)
    each = np.array([0.25, 4.0])
    for score, expected in (
        (first + second, a + b),
        (first - 2 * second, a - 2 * b),
        (-first, -a),
        (0.5 * (first + second) * 3, 1.5 * (a + b)),
        (each * first, each * a),
        (jnp.asarray(each) * first + second * each, each * (a + b)),
        (np.float32(2) * first, 2 * a),
    ):
        np.testing.assert_allclose(score(small_params, images), expected, rtol=1e-5, atol=1e-6)


def test_plain_functions_are_scores_that_add(small_params, images):
    first, mean = jaxviz.logit(small_net, 1), lambda params, images: images.mean((1, 2, 3))
    a, b = first(small_params, images), images.mean((1, 2, 3))
    for score, expected in (
        (first + mean, a + b),
        (mean + first, a + b),
        (first - mean, a - b),
        (mean - first, b - a),
        (-jaxviz.score(mean) / 2, -b / 2),
        (sum([first, jaxviz.score(mean), first]) / 3, (2 * a + b) / 3),
        (first / np.array([2.0, 4.0]), a / np.array([2.0, 4.0])),
        (jaxviz.score(jax.tree_util.Partial(lambda c, params, images: c * mean(params, images), 3.0)), 3 * b),
    ):
        np.testing.assert_allclose(score(small_params, images), expected, rtol=1e-5, atol=1e-6)
    assert jaxviz.score(first) is first


@pytest.mark.usefixtures("users_view")
def test_what_is_no_function_is_no_score():
    with pytest.raises(ValueError, match=r"score: expected a function \(params, images\) -> \(n,\), got 3"):
        jaxviz.score(3)


@pytest.mark.slow
def test_a_sum_is_explained_like_any_score(small_params, images):
    first, second = jaxviz.logit(small_net), jaxviz.logit(small_net, jnp.array([4, 0]))
    weights = jnp.array([2.0, -1.0])
    parts = [jaxviz.gradient(score, small_params, images) for score in (first, second)]
    found = jaxviz.gradient(first + weights * second, small_params, images)
    np.testing.assert_allclose(found, parts[0] + weights[:, None, None, None] * parts[1], atol=1e-5)
    several = first + weights * jaxviz.logit(small_net, jnp.arange(3)[None])
    with pytest.raises(
        ValueError, match=r"scores that are added: expected .* for the same images, got \[\(2,\), \(2, 3\)\]"
    ):
        several(small_params, images)
    maps = jaxviz.occlusion(weights * second, small_params, images, window=8, stride=8, batch_size=3)
    np.testing.assert_allclose(
        maps, weights[:, None, None] * jaxviz.occlusion(second, small_params, images, window=8, stride=8), atol=1e-4
    )


def test_another_weight_compiles_nothing(small_params, images):
    traces = []

    @jax.jit
    def values(score):
        traces.append(score)
        return score(small_params, images)

    for weight in (0.25, 0.5):
        mixed = (1 - weight) * jaxviz.logit(small_net, 1) + weight * jaxviz.logit(small_net, 2)
        expected = (1 - weight) * jaxviz.logit(small_net, 1)(small_params, images)
        np.testing.assert_allclose(
            values(mixed), expected + weight * jaxviz.logit(small_net, 2)(small_params, images), rtol=1e-5, atol=1e-6
        )
    assert len(traces) == 1


def test_another_class_does_not_trace_the_network_again(small_params, images):
    """Nor does the check that the class is there; it complains all the same."""
    traces = []

    def net(params, images):
        traces.append(images)
        return small_net(params, images)

    for method in (jaxviz.saliency, jaxviz.occlusion):
        options = {"window": 8} if method is jaxviz.occlusion else {}
        method(jaxviz.logit(net, 1), small_params, images, **options)
        before = len(traces)
        method(jaxviz.logit(net, 2), small_params, images, **options)
        assert len(traces) == before > 0
        with pytest.raises(ValueError, match=r"class: expected 0 to 4, .* got 5"):
            method(jaxviz.logit(net, 5), small_params, images, **options)
        with pytest.raises(ValueError, match=r"class: expected .* got 7"):
            method(jaxviz.logit(net, 1) + 2 * jaxviz.logit(net, 7), small_params, images, **options)


@pytest.mark.slow
def test_an_interpolation_goes_from_one_channel_to_the_other(small_params):
    t = jnp.linspace(0, 1, 3)
    score = (1 - t) * jaxviz.channel(small_net, "relu_1", 1) + t * jaxviz.channel(small_net, "relu_1", 4)
    found = jaxviz.ascend(score, small_params, jax.random.key(0), size=16, steps=40, transform=None)
    assert found.images.shape == (3, 16, 16, 3)
    first, last = (jaxviz.channel(small_net, "relu_1", i)(small_params, found.images) for i in (1, 4))
    assert first[0] > first[2]
    assert last[2] > last[0]


def test_what_does_not_add(small_params, images):
    for call in (lambda: jaxviz.logit(small_net, 1) + 1, lambda: 1 - jaxviz.logit(small_net, 1)):
        with pytest.raises(TypeError, match="unsupported operand"):
            call()
    with pytest.raises(TypeError, match="unsupported operand"):
        jaxviz.logit(small_net, 1) * jaxviz.logit(small_net, 2)
    with pytest.raises(
        ValueError, match=r"a score's weight: expected a number, or one for each of 2 images, got shape"
    ):
        (jnp.ones(3) * jaxviz.logit(small_net, 1))(small_params, images)


# One output, outputs that are probabilities already, and outputs that are no array


def single(params, images):
    return small_net(params, images)[:, :1] / 10


@pytest.mark.slow
def test_the_probability_of_a_single_output_is_its_sigmoid(x64, small_params, images):
    """A softmax over one number would be 1, and its map 0."""
    params, images = jax.tree.map(lambda x: x.astype(jnp.float64), (small_params, images))
    chances = 1 / (1 + np.exp(-np.asarray(single(params, images)[:, 0])))
    assert chances.min() > 0.01
    assert chances.max() < 0.99
    for target in (None, 0, -1):
        np.testing.assert_allclose(jaxviz.probability(single, target)(params, images), chances, rtol=1e-12)
    found = jaxviz.gradient(jaxviz.probability(single), params, images)
    slope = (chances * (1 - chances))[:, None, None, None]
    expected = slope * jaxviz.gradient(jaxviz.logit(single), params, images)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert jnp.abs(found).max() > 1e-4


def naive(x):
    return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("softmax", "of"),
    [
        (jax.nn.softmax, jax.nn.softmax),
        (jax.jit(jax.nn.softmax), jax.nn.softmax),
        (naive, jax.nn.softmax),
        (lambda x: jnp.exp(x) * (1 / jnp.exp(x).sum(-1, keepdims=True)), jax.nn.softmax),
        (lambda x: naive(x - x.max(-1, keepdims=True)), jax.nn.softmax),
        (lambda x: jnp.exp(jax.nn.log_softmax(x)), jax.nn.softmax),
        (lambda x: jnp.exp(x - jax.nn.logsumexp(x, axis=-1, keepdims=True)), jax.nn.softmax),
        (lambda x: jax.nn.softmax(x.astype(jnp.float32)).astype(x.dtype), jax.nn.softmax),
        (lambda x: (jax.nn.softmax(x) + jax.nn.softmax(2 * x)) / 2, lambda x: (naive(x) + naive(2 * x)) / 2),
        (lambda x: jax.nn.softmax(jnp.stack([x, 2 * x])).mean(0), lambda x: (naive(x) + naive(2 * x)) / 2),
        (jax.nn.sigmoid, jax.nn.sigmoid),
        (lambda x: 1 / (1 + jnp.exp(-x)), jax.nn.sigmoid),
        (lambda x: 0.5 * (1 + jnp.tanh(x / 2)), jax.nn.sigmoid),
        (lambda x: jnp.concatenate([1 - jax.nn.sigmoid(x[:, :1]), jax.nn.sigmoid(x[:, :1])], -1), None),
    ],
)
def test_outputs_that_are_probabilities_are_taken_as_they_are(softmax, of, small_params, images):
    """No softmax of a softmax; and they are no logits."""
    net = lambda params, images: softmax(small_net(params, images) / 10)
    logits = small_net(small_params, images) / 10
    expected = softmax(logits) if of is None else of(logits)
    np.testing.assert_allclose(jaxviz.probability(net, 1)(small_params, images), expected[:, 1], rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"logit: this network ends in a softmax or a sigmoid.*use jaxviz\.probability"
    ):
        jaxviz.logit(net, 1)(small_params, images)


@pytest.mark.parametrize(
    "last",
    [
        jax.nn.log_softmax,  # whose softmax is the softmax
        lambda x: x * jax.nn.sigmoid(x),
        lambda x: jax.nn.gelu(x, approximate=True),
        lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
        lambda x: 20 * jnp.tanh(x / 20),
        lambda x: 10 * jax.nn.sigmoid(x) - 5,
        lambda x: jax.nn.sigmoid(x) @ jnp.eye(5) * 3 + x,
    ],
)
def test_what_only_looks_like_probabilities_are_logits(last, small_params, images):
    net = lambda params, images: last(small_net(params, images))
    outputs = last(small_net(small_params, images))
    np.testing.assert_allclose(jaxviz.logit(net, 2)(small_params, images), outputs[:, 2], rtol=1e-6)
    chances = jax.nn.softmax(outputs)[:, 2]
    np.testing.assert_allclose(jaxviz.probability(net, 2)(small_params, images), chances, rtol=1e-5)


class Pair(NamedTuple):
    logits: Any
    features: Any


@dataclasses.dataclass
class ModelOutput:
    loss: Any
    logits: Any


@pytest.mark.parametrize(
    ("wrap", "got", "advice"),
    [
        (lambda y: (y, y.mean()), r"a tuple \(\[0\]: \(2, 5\), \[1\]: \(\)\)", r"net\(params, images\)\[0\]"),
        (lambda y: [y.mean(), y], "a list", r"net\(params, images\)\[1\]"),
        (lambda y: {"aux": y.mean(), "logits": y}, "a dict", r'net\(params, images\)\["logits"\]'),
        (lambda y: Pair(y, y[0]), "a Pair", r"net\(params, images\)\.logits"),
        (lambda y: ModelOutput(None, y), r"a ModelOutput \(.loss: NoneType, .logits: \(2, 5\)\)", r"\.logits"),
        (lambda y: (None, {"out": [y]}), "a tuple", r'net\(params, images\)\[1\]\["out"\]\[0\]'),
        (lambda y: None, "a NoneType", ""),
    ],
)
@pytest.mark.slow
def test_a_network_that_returns_several_things(wrap, got, advice, small_params, images):
    """It is told what it returns and how to wrap it; its layers can be scored all the same."""
    net = lambda params, images: wrap(small_net(params, images))
    message = f"a network that returns one array \\(n, classes\\), got {got}.*{advice}"
    for call in (
        lambda: jaxviz.logit(net, 1)(small_params, images),
        lambda: jaxviz.gradient(jaxviz.probability(net), small_params, images),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    values = jaxviz.channel(net, "relu_1", 2)(small_params, images)
    np.testing.assert_array_equal(values, jaxviz.channel(small_net, "relu_1", 2)(small_params, images))


@pytest.mark.usefixtures("users_view")
def test_outputs_of_another_shape(small_params, images):
    with pytest.raises(ValueError, match=r"got shape \(2,\) for 2 images; add an axis of classes, .*\[:, None\]"):
        jaxviz.logit(lambda p, x: small_net(p, x)[:, 0])(small_params, images)
    with pytest.raises(ValueError, match=r"got shape \(1, 10\) for 2 images"):
        jaxviz.logit(lambda p, x: small_net(p, x).reshape(1, -1))(small_params, images)
    with pytest.raises(ValueError, match="images on the last axis"):
        jaxviz.logit(lambda p, x: small_net(p, x).T)(small_params, jnp.repeat(images[:1], 5, 0))
    with pytest.raises(ValueError, match="this one gave a tuple"):
        jaxviz.gradient(lambda p, x: (small_net(p, x)[:, 0], 1), small_params, images)
    with pytest.raises(ValueError, match="must give real numbers, got complex"):
        jaxviz.occlusion(
            lambda p, x: jax.lax.complex(small_net(p, x)[:, 0], small_net(p, x)[:, 1]), small_params, images
        )


def test_negative_numbers_count_from_the_end(small_params, images):
    """One rule for classes, channels and positions."""
    for make in (
        lambda i: jaxviz.logit(small_net, i),
        lambda i: jaxviz.probability(small_net, i),
        lambda i: jaxviz.channel(small_net, "dense_0", i),
        lambda i: jaxviz.neuron(small_net, "dense_0", i),
    ):
        np.testing.assert_array_equal(make(-1)(small_params, images), make(4)(small_params, images))
        with pytest.raises(ValueError, match=": expected 0 to 4, or -5 to -1 from the end, got -6"):
            make(-6)(small_params, images)
    at = [jaxviz.neuron(small_net, "relu_1", 1, where)(small_params, images) for where in ((-1, -8), (7, 0))]
    np.testing.assert_array_equal(*at)


# Layers that are no image maps


def tokens(params, images):
    x = jax.nn.relu(convolve(images, params["w1"], stride=4))
    x = x.reshape(len(x), -1, 8)
    return jax.nn.relu(jax.ad_checkpoint.checkpoint_name((x @ jnp.eye(8)).reshape(len(x), -1, 2, 4), "heads"))


def windowed(params, images):
    """Windows of 4x4 of a map, on the axis of the images."""
    x = jax.nn.relu(convolve(images, params["w1"]))
    n, h, w, c = x.shape
    x = x.reshape(n, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, c)
    return jax.ad_checkpoint.checkpoint_name(x * 2, "windows").mean((1, 2)).reshape(n, -1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jaxviz.neuron(tokens, "heads", 0), r"neuron: expected a map .* got shape \(2, 64, 2, 4\)"),
        (lambda: jaxviz.channel(tokens, "heads", 0), "channel: expected a layer with one axis of images and one of ch"),
        (lambda: jaxviz.neuron(windowed, "windows", 0), "axis 0 has images and rows and columns together"),
        (lambda: jaxviz.channel(windowed, "windows", 0), "channel: .* axis 0 has images and rows and columns together"),
        (lambda: jaxviz.energy(windowed, "windows"), "energy: expected a layer with one axis of images"),
    ],
)
def test_a_layer_that_is_no_image_map(make, message, small_params, images):
    """Else image 0's score would depend on image 1, or a head be taken for a column."""
    with pytest.raises(ValueError, match=message):
        make()(small_params, images)


def test_the_mean_over_tokens_is_a_channel(small_params, images):
    net = lambda params, x: jax.nn.relu(convolve(x, params["w1"]).reshape(len(x), -1, 8))
    expected = net(small_params, images).mean(1)[:, 3]
    np.testing.assert_allclose(jaxviz.channel(net, "relu_0", 3)(small_params, images), expected, rtol=1e-6)
    expected = jnp.square(net(small_params, images)).mean((1, 2))
    np.testing.assert_allclose(jaxviz.energy(net, "relu_0")(small_params, images), expected, rtol=1e-6)


def rows_first(params, images):
    return jax.nn.relu(convolve(images, params["w1"]))


LAYOUTS = {
    "channels first": lambda p, x: rows_first(p, x).transpose(0, 3, 1, 2) * 1.0,
    "columns first": lambda p, x: rows_first(p, x).transpose(0, 2, 1, 3) * 1.0,
    "images last": jax.vmap(lambda p, x: rows_first(p, x[None])[0] * 1.0, (None, 0), 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_score_does_not_depend_on_the_layout(layout, small_params, images):
    named = lambda p, x: jax.ad_checkpoint.checkpoint_name(LAYOUTS[layout](p, x), "out")
    images = images[:, :20]  # so that rows and columns differ
    for make in (
        lambda net, name: jaxviz.neuron(net, name, 2, (3, 30)),
        lambda net, name: jaxviz.neuron(net, name, 5),
        lambda net, name: jaxviz.channel(net, name, -2),
        lambda net, name: jaxviz.energy(net, name),
    ):
        expected = make(rows_first, "relu_0")(small_params, images)
        np.testing.assert_allclose(make(named, "out")(small_params, images), expected, rtol=1e-5)
