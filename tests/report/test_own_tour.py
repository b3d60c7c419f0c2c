"""The tour of a network of the user's own: its layers, its page, and what is left out of that."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from nets import convolve
from vits import SIZE, make_vit, vit_params

import jaxviz
from jaxviz import cli
from jaxviz.program._listing import listed
from jaxviz.report import _tour
from jaxviz.report._own import chosen, looked_at
from jaxviz.report._own_methods import OWN_METHODS
from jaxviz.report._own_pixels import drawn

# Networks are written here as users write them.
pytestmark = pytest.mark.usefixtures("users_promotions")

FILE = '''
"""A network of 30 lines."""
import jax
import jax.numpy as jnp
import jaxviz
from flax import linen


class Block(linen.Module):
    width: int

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(self.width, (3, 3), strides=2)(x)
        x = linen.GroupNorm(4)(x)
        return linen.relu(x)


class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        for i, width in enumerate((8, 16, 16)):
            x = Block(width, name=f"<script>{i}")(x)
        return linen.Dense(4, name="head")(x.mean((1, 2)))


def load():
    model = Net()
    params = model.init(jax.random.key(SEED), jnp.ones((1, 32, 32, 3)))
    classes = ["<b>cat</b>", "dog", "cup", "{{ rocket }}"]
    return jaxviz.Network(model.apply, params, size=32, mean=0.5, std=0.25, classes=classes)
'''


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(cli, "_compile_cache", lambda: None)  # leave this process's settings alone
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my", raising=False)
    write(0)


def write(seed=0, channels=3):
    text = FILE.replace("SEED", str(seed)).replace("32, 3)", f"32, {channels})")
    Path("my.py").write_text(text.replace("size=32", f"channels={channels}, size=32"))


def tour(*args):
    cli.main(["tour", "--model", "my.py:load", *args])
    return Path("tour-my/index.html").read_text()


@pytest.mark.slow
def test_a_page_of_some_sections(capsys):
    html = tour("--only", "filters", "saliency", "grad-cam")
    assert html.count("data:image/png;base64") == 1 + 3 + 2
    assert "What my.py:load has learned" in html
    assert "&lt;b&gt;cat&lt;/b&gt;" in html or "dog" in html
    assert "<script>0" not in html  # names of layers and classes come from files
    assert "<b>cat" not in html
    assert "At &lt;script&gt;2, for the class ranked first" in html
    assert "from my import load\nnet, params = load()\nscore = jaxviz.logit(net)" in html
    assert "Not done yet: Nearest neighbors" in html
    capsys.readouterr()
    assert tour("--only", "filters") == html
    assert "First-layer filters: done before" in capsys.readouterr().out


@pytest.mark.slow
def test_another_network_in_the_file_is_shown_again(capsys):
    tour("--only", "filters")
    write(1)
    capsys.readouterr()
    tour("--only", "filters")
    assert "done before" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "channels", "message"),
    [
        (["--only", "fast-style"], 3, "no section fast-style; there are filters, neighbors, patches, colors"),
        ([], 5, "expected a network of photographs, which have 3 channels, or 1, got one of 5"),
        ([], 1, "expected an image of the kind that it knows, as in `jaxviz tour IMAGE`"),
    ],
)
def test_errors(args, channels, message, capsys):
    write(channels=channels)
    with pytest.raises(SystemExit):
        tour(*args)
    assert message in capsys.readouterr().err
    assert not Path("tour-my").exists()


# Sections by themselves


def made(network, only, size=16, photo=None):
    own = looked_at("my.py:load", "net, params = load()", network, size, "digest")
    photo = np.random.default_rng(0).random((24, 24, 3), np.float32) if photo is None else photo
    return own, _tour.run_tour(photo, Path("page"), full=False, only=only, own=own).read_text()


def smooth_net(params, images):
    x = jnp.tanh(convolve(images, params["w1"], stride=2))
    x = jnp.tanh(convolve(x, params["w2"]))
    return x.mean((1, 2)) @ params["w3"]


PARAMS = {
    "w1": jax.random.normal(jax.random.key(0), (3, 3, 3, 8), jnp.float32),
    "w2": jax.random.normal(jax.random.key(1), (3, 3, 8, 8), jnp.float32),
    "w3": jax.random.normal(jax.random.key(2), (8, 3), jnp.float32),
}


def test_what_cannot_be_made_is_left_out_with_a_line():
    own, html = made(jaxviz.Network(smooth_net, PARAMS), ("guided-backprop", "deconvnet", "saliency"))
    assert "<h2>Left out</h2>" in html
    assert "<strong>Guided backprop</strong>: with_relu found no ReLU to swap" in html
    assert "<strong>Deconvnet</strong>: with_relu found no ReLU to swap" in html
    assert "for the class ranked first" in html
    assert own.class_count == 3
    assert own.any_size


def test_a_network_without_classes_or_maps():
    net = lambda params, images: (images.mean((1, 2)) @ params)[:, :, None]
    own, html = made(jaxviz.Network(net, jnp.eye(3)), ("occlusion", "grad-cam", "saliency", "invert", "style"))
    assert (own.class_count, own.layers) == (0, ())
    assert "<strong>Occlusion</strong>: the network has no classes whose probability could drop" in html
    assert "<strong>Grad-CAM</strong>: the network has no layer of maps or tokens" in html
    assert "<strong>Saliency</strong>: the network has neither classes nor a layer of maps or tokens" in html
    assert "no classes: it returns no array (n, classes)" in html


def test_gray_images_are_left_out_of_what_is_for_colors():
    net = lambda params, images: smooth_net(params, images)
    params = PARAMS | {"w1": PARAMS["w1"][:, :, :1]}
    _, html = made(jaxviz.Network(net, params, channels=1), ("dream", "texture", "style", "neighbors", "filters"))
    for title in ("DeepDream", "Texture synthesis", "Neural style"):
        assert f"<strong>{title}</strong>: it is for photographs in color" in html
    assert "give a folder of them as --images" in html
    assert html.count("data:image/png;base64") == 1  # filters


def test_probabilities_are_scores_too():
    net = lambda params, images: jax.nn.softmax(smooth_net(params, images))
    own, html = made(jaxviz.Network(net, PARAMS), ("saliency",))
    assert own.gives_chances
    assert "score = jaxviz.probability(net)" in html
    image = jnp.full((1, 16, 16, 3), 0.3, jnp.float32)
    index, chance = own.ranked(image)[0]
    np.testing.assert_allclose(chance, net(PARAMS, image)[0, index], rtol=1e-5)


def test_attention_is_left_out_with_a_line():
    _, html = made(jaxviz.Network(smooth_net, PARAMS), ("attention",))
    assert "<strong>Attention</strong>: attention_rollout found no attention in this network: no softmax" in html


def within_windows(params, images):
    """Return scores by attention among the 4x4 pixels of each window."""
    x = (images @ params).reshape(-1, 4, 4, 4, 4, 4).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 16, 4)
    x = jax.nn.softmax(x @ x.swapaxes(1, 2)) @ x
    return x.reshape(images.shape[0], -1, 4).mean(1)


def test_attention_within_windows_is_left_out_with_a_line():
    _, html = made(jaxviz.Network(within_windows, jnp.ones((3, 4), jnp.float32)), ("attention",))
    assert "attention within windows has no map of the whole image" in html


@pytest.mark.slow
def test_attention_and_colors_of_a_transformer():
    network = jaxviz.Network(make_vit(), vit_params(dtype=jnp.float32), classes=list("abcde"))
    own, html = made(network, ("attention", "colors"), size=SIZE)
    assert [layer.layout for layer in own.layers] == ["tokens"] * 3
    assert html.count("data:image/png;base64") == 4 + 1 + 3
    assert "Relevance for the class ranked second" in html
    assert "3x2 patches" in html
    image = jaxviz.load_image(np.random.default_rng(0).random((24, 24, 3), np.float32), size=SIZE)[None]
    index, _ = own.ranked(image)[0]
    map = jaxviz.attention_relevance(jaxviz.logit(network.net, index), network.params, image)[0]
    expected = jaxviz.load_image(drawn(map, image[0]))
    np.testing.assert_allclose(jaxviz.load_image("page/attention-relevance-first.png"), expected, atol=1 / 255 + 1e-6)


# Which layers


def names(net, params, images):
    return [layer.name for layer in chosen(listed(net, params, images))]


def test_early_middle_and_late_relus(images):
    def net(params, x):
        for _ in range(9):
            x = jax.nn.relu(convolve(x, params))
        return x.mean((1, 2))

    assert names(net, jnp.ones((3, 3, 3, 3)), images) == ["relu_1", "relu_4", "relu_8"]


def test_residual_streams_of_tokens():
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            x = x + linen.MultiHeadDotProductAttention(2)(linen.LayerNorm()(x))
            return x + linen.Dense(8)(linen.gelu(linen.Dense(16)(linen.LayerNorm()(x)))), None

    class ViT(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(8, (8, 8), strides=8)(x).reshape(x.shape[0], -1, 8)
            blocks = linen.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
            x, _ = blocks(name="blocks")(x, None)
            return linen.Dense(5)(x.mean(1))

    images = jnp.ones((1, 32, 32, 3))
    params = ViT().init(jax.random.key(0), images)
    found = chosen(listed(ViT().apply, params, images))
    assert [(layer.name, layer.layout, layer.channels) for layer in found] == [
        (f"blocks[{i}]", "tokens", 8) for i in (0, 2, 3)
    ]


def test_few_layers_are_all(images):
    assert names(smooth_net, PARAMS, images.astype(jnp.float32)) == ["conv_0", "conv_1", "tanh_1"]
    assert names(lambda params, x: x.mean((1, 2)) @ params, jnp.eye(3), images) == []


@pytest.mark.slow
@pytest.mark.parametrize("section", [method.id for method in OWN_METHODS if method.id != "attention"])
def test_every_section(section):
    """Of the network of 30 lines: a section has pictures."""
    html = tour("--only", section)
    assert "data:image/png;base64" in html
    assert "<h2>Left out</h2>" not in html


# From Python


def test_the_tour_from_python(tmp_path):
    net = lambda params, images: jax.nn.relu(images @ params).mean((1, 2))
    network = jaxviz.Network(net, jnp.eye(3), size=16, classes=["red", "green", "<b>blue"])
    photo, said = np.random.default_rng(0).uniform(size=(20, 16, 3)).astype(np.float32), []
    options = {"network": network, "name": "<mine>", "only": ["saliency", "attention"], "report": said.append}
    page = jaxviz.tour(photo, tmp_path / "tour", **options)
    text = page.read_text()
    assert "What &lt;mine&gt; has learned" in text
    assert "net, params = network\n" in text
    assert "&lt;b&gt;blue" in text or "<b>blue" not in text
    assert any("left out" in line for line in said)  # it has no attention
    said.clear()
    jaxviz.tour(photo, tmp_path / "tour", **options, key=jax.random.key(0))
    assert "Saliency: done before" in said
    said.clear()
    jaxviz.tour(photo, tmp_path / "tour", **options, key=jax.random.key(1))
    assert "Saliency: done before" not in said


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (jaxviz.Network(lambda params, images: images, None, channels=5), "3 channels or 1, got one of 5"),
        (jaxviz.Network(lambda params, images: (images, images), None), "expected one that returns one array, got a"),
    ],
)
def test_networks_of_which_there_is_no_tour(network, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        jaxviz.tour(np.zeros((16, 16, 3), np.float32), tmp_path / "tour", network=network)
    assert not (tmp_path / "tour").exists()
