"""Results as a line of text and, in a notebook, a bounded picture; they stay what they are."""

import base64
import copy
import io
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxviz
from jaxviz.show._pictures import png_of, sparkline, tiled

KEY, EYE = jax.random.key(0), jnp.eye(3)
RNG = np.random.default_rng(0)
IMAGES = RNG.random((12, 16, 16, 3)).astype(np.float32)


def net(params, images):
    return jax.nn.relu(images @ params)


def classifier(params, images):
    return net(params, images).mean((1, 2))


CHANNEL, LOGIT = jaxviz.channel(net, "relu_0", 0), jaxviz.logit(classifier, 0)
LOSSES = np.linspace(2, 1, 50).astype(np.float32)
RESULTS = {  # what is made of random numbers where making it takes long
    "Synthesis": jaxviz.Synthesis(IMAGES[:1], LOSSES, [jnp.zeros(9)] * 3, True).told("ascend", 50, 50),
    "Fooled": jaxviz.Fooled(IMAGES[:2], LOSSES, [], True, np.array([True, False])),
    "Sheet": jaxviz.Sheet(IMAGES, LOSSES[:12], [IMAGES, LOSSES[:12]], True, np.arange(12)),
    "Minimized": jaxviz.Minimized({"a": jnp.zeros((9, 9))}, LOSSES, [jnp.zeros(9)], True),
    "StyleTraining": jaxviz.StyleTraining({"a": {"b": jnp.zeros((9, 9))}}, RNG.random((60, 4)), False),
    "StyleNet": jaxviz.StyleNet({"a": {"b": jnp.zeros((9, 9))}}, ["a<b", *map(str, range(50))]),
    "Features": jaxviz.Features(RNG.random((70, 40)), [f"<{i}>" for i in range(70)], {"x": "<b>broken</b>"}),
    "maps of Features": jaxviz.Features(RNG.random((5, 7, 7, 40)), list("abcde"), {}),
    "TopPatches": jaxviz.top_patches(net, EYE, IMAGES, layer="relu_0", k=3),
    "Patches": jaxviz.top_patches(net, EYE, IMAGES, layer="relu_0", k=3).layers["relu_0"],
    "Neighbors": jaxviz.Neighbors(np.arange(90).reshape(30, 3), RNG.random((30, 3))),
    "PCA": jaxviz.PCA(RNG.random((30, 2)), RNG.random((2, 9)), RNG.random(9), RNG.random(2)),
    "Curve": jaxviz.Curve(RNG.random((3, 20)), RNG.random(3)),
    "IntegratedGradients": jaxviz.IntegratedGradients(RNG.normal(size=(2, 8, 8, 3)), RNG.random(2)),
    "Relevance": jaxviz.Relevance(RNG.normal(size=(2, 3, 8, 8, 3)), RNG.random((2, 3))),
    "Source": jaxviz.open_source(IMAGES),
    "Facets": jaxviz.Facets(np.asarray(IMAGES[:3]), RNG.normal(size=(3, 40)), np.arange(30) % 3),
    "ActivationGrid": jaxviz.ActivationGrid(jnp.stack([IMAGES[:4]] * 3), jnp.asarray(RNG.random((3, 4)))),
}
PICTURED = set(RESULTS) - {"StyleNet", "Neighbors", "Source"}
all_of_them = pytest.mark.parametrize("name", RESULTS)


def test_all_types_of_results_are_here():
    tuples = {name for name in dir(jaxviz) if hasattr(getattr(jaxviz, name), "_fields")}
    short = {"Parameterization", "Pretrained", "Provenance", "ReceptiveField"}  # as they are
    assert tuples - short == {type(found).__name__ for found in RESULTS.values()}


@all_of_them
def test_a_result_is_a_line(name):
    found = RESULTS[name]
    line = repr(found)
    assert line.startswith(f"{type(found).__name__}({found._fields[0]}=")
    assert "\n" not in line
    assert len(line) < 400
    assert str(found) == line


def test_the_line_says_what_there_is():
    expected = "Synthesis(images=float32[1,16,16,3], losses=float32[50] from 2 to 1, state=<3 arrays, 27 numbers>, "
    assert repr(RESULTS["Synthesis"]) == expected + "finished=True; ascend: 50 of 50)"
    assert "styles=['a<b', '0', '1', '2', … 51 in all]" in repr(RESULTS["StyleNet"])


@all_of_them
def test_the_picture_is_small_and_whole(name):
    found = RESULTS[name]
    png = found._repr_png_()
    assert (png is not None) == (name in PICTURED)
    page = found._repr_html_()
    if png is None:
        assert "<img" not in page
        return
    image = Image.open(io.BytesIO(png))
    assert max(image.size) <= 900
    assert len(png) <= 500_000
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(data) == png


@all_of_them
def test_text_is_escaped(name):
    page = re.sub(r'src="data:[^"]+"', "", RESULTS[name]._repr_html_())
    tags = set(re.findall(r"</?([a-z]*)", page))
    assert tags <= {"div", "img", "svg", "polyline", "table", "tr", "th", "td"}


@pytest.mark.usefixtures("users_view")  # a tree of anything is no `Features` by its annotations
@all_of_them
def test_they_stay_what_they_are(name):
    found = RESULTS[name]
    assert isinstance(found, tuple)
    assert type(found)._make(found)._fields == found._fields
    if name != "Source":  # whose functions cannot be pickled
        again = pickle.loads(pickle.dumps(found))
        assert (type(again), repr(again)) == (type(found), repr(found))
    mapped = jax.tree.map(lambda leaf: leaf, found)
    assert type(mapped) is type(found)
    shapes = jax.tree.map(lambda leaf: object(), found)  # a tree of anything
    assert isinstance(repr(shapes), str)
    assert shapes._repr_html_().startswith("<div>")


def test_a_result_can_be_printed_while_it_is_traced_and_when_its_memory_is_gone():
    seen = []

    @jax.jit
    def run(params):
        found = jaxviz.ascend(CHANNEL, params, KEY, size=8, steps=2)
        seen.extend([repr(found), found._repr_html_()])
        return found

    found = run(EYE)
    assert seen[0].startswith("Synthesis(images=float32[1,8,8,3], losses=float32[2]")
    assert "<img" not in seen[1]
    assert "<img" in found._repr_html_()
    found.images.delete()
    assert repr(found).startswith("Synthesis(images=float32[1,8,8,3]")
    assert found._repr_png_() is None


def test_patches_are_read_again():
    """From where they were found: the strongest patch of a channel in one color is of that color."""
    images = np.zeros((3, 8, 8, 3), np.float32)
    images[0, 2:4, 5], images[1, 6, 6], images[2, 1, 1] = (1, 0, 0), (0, 0.5, 0), (0, 0, 0.25)
    found = jaxviz.top_patches(net, EYE, images, layer="relu_0", k=1).layers["relu_0"]
    assert found.crops is not None
    pixels = [found.crops(found.ids[c][0], found.boxes[c, 0]) for c in range(3)]
    np.testing.assert_array_equal(np.stack(pixels)[:, 0, 0], np.diag([1, 0.5, 0.25]))
    picture = np.asarray(Image.open(io.BytesIO(found._repr_png_())))
    assert {(255, 0, 0), (0, 128, 0), (0, 0, 64)} <= set(map(tuple, picture.reshape(-1, 3).tolist()))
    assert copy.copy(found).crops is None
    assert pickle.loads(pickle.dumps(found))._repr_png_() is None


def test_a_patch_whose_image_is_gone_is_white(folder, tmp_path):
    for path in sorted((folder / "b").glob("[0-2].png")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = jaxviz.top_patches(net, EYE, tmp_path, layer="relu_0", k=1, size=8).layers["relu_0"]
    (tmp_path / found.ids[0][0]).unlink()
    assert np.all(found.crops(found.ids[0][0], found.boxes[0, 0]) == 1)
    assert found._repr_png_() is not None


def test_scores_and_networks_are_lines():
    target = jaxviz.match_features(net, EYE, jnp.asarray(IMAGES[:1]), ["relu_0"])
    found = 2 * target + LOGIT
    for thing in (target, found, jaxviz.direction(net, "relu_0", jnp.ones(3)), CHANNEL):
        assert "\n" not in repr(thing)
        assert len(repr(thing)) < 300
    assert repr(LOGIT).startswith("Logit(net=classifier, target=0")
    network = jaxviz.Network(classifier, EYE, classes=[f"class {i}" for i in range(1000)], size=224)
    assert "classes=['class 0', 'class 1', 'class 2', 'class 3', … 1000 in all]" in repr(network)
    assert repr(network).startswith("Network(classifier, float32[3,3], size=224, ")


def test_large_pictures_are_made_smaller():
    noise = RNG.integers(0, 256, (2000, 3000, 3), np.uint8)  # nothing to compress
    png = png_of(noise)
    assert len(png) <= 500_000
    width, height = Image.open(io.BytesIO(png)).size
    assert width / height == pytest.approx(1.5, rel=0.02)
    assert tiled([noise] * 3).shape[1] < 3000
    assert tiled(list(np.zeros((1000, 8, 8, 1)))).shape == (6 * 96 + 20, 6 * 96 + 20, 3)  # the first 36 of a square


def test_sparklines():
    assert sparkline(np.array([1.0])) == ""
    assert 'points="1.0,31.0 159.0,1.0"' in sparkline(np.array([0.0, 1.0]))
    assert "nan" not in sparkline(np.array([np.nan, 1.0, np.inf, 2.0]))
    assert sparkline(np.arange(10_000.0)).count(",") == 160
