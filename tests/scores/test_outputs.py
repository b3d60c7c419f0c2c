"""Scores of whatever a network returns: parts of a tuple or a dictionary, rows, the pixels of a mask."""

import collections
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import convolve, small_net

import jaxviz

Pair = collections.namedtuple("Pair", "logits features")


@dataclasses.dataclass
class ModelOutput:
    loss: Any
    logits: Any


WRAPPED = {
    "key": (lambda y: {"aux": y.mean(), "logits": y}, "logits"),
    "index": (lambda y: (y.mean(), y), 1),
    "from the end": (lambda y: [y.mean(), y], -1),
    "attribute": (lambda y: ModelOutput(None, y), "logits"),
    "field": (lambda y: Pair(y, y[0]), "logits"),
    "path": (lambda y: (None, {"out": ModelOutput(y.sum(), (y,))}), (1, "out", "logits", 0)),
    "ordered": (lambda y: collections.OrderedDict(loss=None, logits=y), "logits"),
}


@pytest.mark.parametrize(("wrap", "output"), WRAPPED.values(), ids=WRAPPED)
def test_a_part_of_what_is_returned(wrap, output, small_params, images):
    net = lambda params, images: wrap(small_net(params, images))
    for make in (jaxviz.logit, jaxviz.probability):
        for target in (2, None, [[0, 1]]):
            found = make(net, target, output=output)(small_params, images)
            np.testing.assert_array_equal(found, make(small_net, target)(small_params, images))
    same = jaxviz.gradient(jaxviz.logit(net, 1, output=output), small_params, images)
    np.testing.assert_array_equal(same, jaxviz.gradient(jaxviz.logit(small_net, 1), small_params, images))


def test_parts_and_layers_are_read_from_one_evaluation(small_params, images):
    calls = []

    def net(params, images):
        calls.append(images.shape)
        logits = small_net(params, images)
        return {"logits": logits, "twice": 2 * logits}

    score = jaxviz.logit(net, 1, output="twice") - jaxviz.logit(net, 1, output="logits")
    score = score + 0.5 * jaxviz.channel(net, "relu_1", 2)
    found = score(small_params, images)
    assert len(calls) == 1
    expected = jaxviz.logit(small_net, 1) + 0.5 * jaxviz.channel(small_net, "relu_1", 2)
    np.testing.assert_allclose(found, expected(small_params, images), rtol=1e-5)
    maps = jaxviz.grad_cam(jaxviz.logit(net, 1, output="twice"), small_params, images, layer="relu_1")
    np.testing.assert_allclose(
        maps, 2 * jaxviz.grad_cam(jaxviz.logit(small_net, 1), small_params, images, layer="relu_1"), rtol=1e-5
    )


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "scores",
            r"nothing at 'scores', where 'scores' is missing, but a dict \(\[\"logits\"\]: \(2, 5\), \[\"all\"\]\[0\]",
        ),
        (("all", 3), r"nothing at \('all', 3\), where 3 is missing"),
        (("logits", "mean"), "where 'mean' is missing"),
        ("all", r"one array \(n, classes\), got a list at 'all' \(\[0\]: \(2, 5\)\); say output=\('all', 0\)"),
        (None, r"got a dict \(.*\); say output='logits', or wrap it, as in .*net\(params, images\)\[\"logits\"\]"),
        (1.5, "output: expected a key, an attribute, an index, or a tuple that leads to a part, got 1.5"),
        (True, "output: expected a key"),
    ],
)
def test_parts_that_are_not_there(output, message, small_params, images):
    def net(params, images):
        logits = small_net(params, images)
        return {"logits": logits, "all": [logits]}

    with pytest.raises(ValueError, match=message):
        jaxviz.logit(net, 1, output=output)(small_params, images)


def test_features_and_layer_scores_of_what_is_returned(small_params, images):
    net = lambda params, images: {"logits": small_net(params, images), "maps": images[:, ::2]}
    logits = small_net(small_params, images)
    found = jaxviz.features(net, small_params, np.asarray(images), layer=None, output="logits")
    np.testing.assert_allclose(found.values, logits, rtol=1e-5)
    whole = jaxviz.features(net, small_params, np.asarray(images), layer=None, output="maps", pool=None)
    np.testing.assert_allclose(whole.values, images[:, ::2], rtol=1e-6)
    np.testing.assert_array_equal(
        jaxviz.neuron(net, None, 2, (3, 4), output="maps")(small_params, images), images[:, 6, 4, 2]
    )
    np.testing.assert_array_equal(jaxviz.channel(net, None, 3, output="logits")(small_params, images), logits[:, 3])
    np.testing.assert_allclose(
        jaxviz.energy(net, None, output="logits")(small_params, images), jnp.square(logits).mean(-1), rtol=1e-6
    )
    with pytest.raises(ValueError, match="output: expected none beside the layer 'relu_1'"):
        jaxviz.channel(net, "relu_1", 0, output="logits")


def test_features_of_outputs_in_a_store(small_params, images, tmp_path):
    net = lambda params, images: (small_net(params, images), images)
    make = lambda output: jaxviz.features(
        net, small_params, np.asarray(images), layer=None, output=output, store=tmp_path / "store"
    )
    np.testing.assert_array_equal(make(0).values[:], make(0).values[:])
    with pytest.raises(ValueError, match="layer"):
        make(1)


def test_fooling_by_a_part(small_params, images):
    net = lambda params, images: (None, small_net(params, images))
    options = {"target": 2, "steps": 3}
    found = jaxviz.fool(net, small_params, images, output=1, **options)
    np.testing.assert_array_equal(found.images, jaxviz.fool(small_net, small_params, images, **options).images)


# Segmentations: (n, h, w, classes).


def segmenter(params, images):
    x = jax.nn.relu(convolve(images - 0.5, params["w1"], stride=2))
    return convolve(x, params["w2"])


def flipped(params, images):
    """Channels first, as a network converted from PyTorch returns them."""
    return segmenter(params, images).transpose(0, 3, 1, 2)


MASK = np.zeros((32, 32), np.float32)
MASK[4:20, 8:30] = 1
EACH = np.stack([MASK, MASK.T])


@pytest.mark.parametrize("net", [segmenter, flipped])
@pytest.mark.parametrize("where", [MASK, MASK > 0, EACH], ids=["one", "bool", "each"])
def test_the_mean_over_a_mask(net, where, small_params, images):
    """Resized to the outputs by linear interpolation, which halves its size here."""
    logits = segmenter(small_params, images)
    masks = jnp.asarray(where, logits.dtype).reshape(-1, 32, 32)
    small = jnp.broadcast_to(jax.image.resize(masks, (len(masks), 16, 16), "linear"), (2, 16, 16))
    expected = jnp.einsum("nhwc,nhw->nc", logits, small) / small.sum((1, 2))[:, None]
    close = lambda score, values: np.testing.assert_allclose(score(small_params, images), values, rtol=1e-4, atol=1e-5)
    close(jaxviz.logit(net, 3, where=where), expected[:, 3])
    close(jaxviz.logit(net, [[0, 5]], where=where), expected[:, [0, 5]])
    close(jaxviz.logit(net, where=where), expected.max(-1))
    assert jnp.abs(expected - logits.mean((1, 2))).max() > 1e-3


def test_a_mask_of_the_outputs_size_is_taken_as_it_is(small_params, images):
    logits = segmenter(small_params, images)
    where = np.random.default_rng(0).random((16, 16)) > 0.5
    expected = np.asarray(logits)[:, where].mean(1)
    np.testing.assert_allclose(jaxviz.logit(segmenter, 1, where=where)(small_params, images), expected[:, 1], rtol=1e-4)
    chances = jax.nn.softmax(logits)[:, where].mean(1)
    found = jaxviz.probability(segmenter, [[0, 1]], where=where)(small_params, images)
    np.testing.assert_allclose(found, chances[:, :2], rtol=1e-4)
    layer = jaxviz.channel(segmenter, "conv_1", 1, where=where)(small_params, images)
    np.testing.assert_allclose(layer, expected[:, 1], rtol=1e-4)


def test_the_pixels_predicted_as_a_class(small_params, images):
    logits = np.asarray(segmenter(small_params, images))
    first = logits.argmax(-1)
    mean = lambda i, c: logits[i][first[i] == c][:, c].mean() if (first[i] == c).any() else 0.0
    for target in range(6):
        expected = [mean(0, target), mean(1, target)]
        found = jaxviz.logit(segmenter, target, where="predicted")(small_params, images)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    most = [np.bincount(first[i].ravel(), minlength=6).argmax() for i in range(2)]
    found = jaxviz.logit(segmenter, where="predicted")(small_params, images)
    np.testing.assert_allclose(found, [mean(0, most[0]), mean(1, most[1])], rtol=1e-4)


def test_gradients_through_a_mask_and_the_predicted_pixels(small_params, images):
    """The pixels are held fixed: their gradient is that of a sum over known places."""
    there = (segmenter(small_params, images).argmax(-1) == 2).astype(images.dtype)
    weights = there / jnp.maximum(there.sum((1, 2), keepdims=True), 1)
    plain = lambda x: jnp.sum(segmenter(small_params, x)[..., 2] * weights)
    found = jaxviz.gradient(jaxviz.logit(segmenter, 2, where="predicted"), small_params, images)
    np.testing.assert_allclose(found, jax.grad(plain)(images), atol=1e-5)


def test_predicted_pixels_stay_those_of_the_image_when_it_changes(small_params, images):
    """As the class does, in methods that look at changed copies."""
    score = jaxviz.logit(segmenter, 2, where="predicted")
    first = segmenter(small_params, images).argmax(-1) == 2
    held = jaxviz.logit(segmenter, 2, where=first)
    options = {"window": 16, "stride": 16}
    found = jaxviz.occlusion(score, small_params, images, **options)
    np.testing.assert_allclose(found, jaxviz.occlusion(held, small_params, images, **options), atol=1e-4)


@pytest.mark.slow
def test_synthesis_with_a_mask(small_params):
    """Of one mask for all images, and one for each."""
    score = jaxviz.logit(segmenter, 2, where=MASK)
    found = jaxviz.ascend(score, small_params, jax.random.key(0), size=32, steps=2)
    assert found.images.shape == (1, 32, 32, 3)
    both = jaxviz.ascend(
        jaxviz.channel(segmenter, "relu_0", 2, where=EACH), small_params, jax.random.key(0), size=32, steps=2
    )
    assert both.images.shape == (2, 32, 32, 3)


# Rows: (n, rows, numbers).


def test_a_number_of_one_row(small_params, images):
    """A box's coordinate or its class, as detectors return them."""
    detector = lambda params, x: {
        "boxes": small_net(params, x).reshape(len(x), 5, 1) * jnp.arange(4.0).reshape(1, 1, 4)
    }
    rows = detector(small_params, images)["boxes"]
    find = lambda *args, **options: jaxviz.logit(detector, *args, output="boxes", **options)(small_params, images)
    np.testing.assert_array_equal(find(3, position=4), rows[:, 4, 3])
    np.testing.assert_array_equal(find(3, position=-1), rows[:, 4, 3])
    np.testing.assert_array_equal(find(2, position=jnp.array([1, 3])), [rows[0, 1, 2], rows[1, 3, 2]])
    np.testing.assert_array_equal(find([[0, 3]], position=1), rows[:, 1, [0, 3]])
    np.testing.assert_array_equal(find(position=2), rows[:, 2].max(-1))
    with pytest.raises(ValueError, match=r"row of the output 'boxes': expected 0 to 4, .* got 5"):
        find(0, position=5)
    pixel = jaxviz.logit(segmenter, 2, position=(3, 5))(small_params, images)
    np.testing.assert_array_equal(pixel, segmenter(small_params, images)[:, 3, 5, 2])


def test_other_rows_compile_nothing(small_params, images, caplog):
    detector = lambda params, x: small_net(params, x).reshape(len(x), 5, 1)
    saliency = jax.jit(jaxviz.saliency)
    saliency(jaxviz.logit(detector, 0, position=1), small_params, images)
    with jax.log_compiles():
        other = jaxviz.logit(detector, 0, position=3)
        saliency(other, small_params, images)
    assert [message for message in caplog.messages if "XLA compilation of jit(saliency)" in message] == []


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"returns \(n, classes\), got shape \(2, 16, 16, 6\) .*; of which part .* position=, where=, a mask",
        ),
        ({"position": 1}, r"returns \(n, rows, classes\), got shape \(2, 16, 16, 6\)"),
        ({"position": (1, 1), "where": MASK}, "where: expected none beside a position"),
        ({"position": (1, 1, 1)}, r"position: expected the number of a row, or \(row, column\), got \(1, 1, 1\)"),
        ({"where": "everywhere"}, "where: expected a mask .* or 'predicted', got 'everywhere'"),
        ({"where": np.zeros((4, 4))}, "some above 0, got a mask that matches nothing"),
        ({"where": np.ones(4)}, r"where: expected \(h, w\) or \(n, h, w\), got shape \(4,\)"),
    ],
)
def test_outputs_that_do_not_fit(options, message, small_params, images):
    with pytest.raises(ValueError, match=message):
        jaxviz.logit(segmenter, 1, **options)(small_params, images)
    with pytest.raises(ValueError, match=r"returns \(n, h, w, classes\), got shape \(2, 5\)"):
        jaxviz.logit(small_net, 1, where=MASK)(small_params, images)
