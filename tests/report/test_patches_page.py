"""`patches_page`: patches beside what excites the unit, as Zeiler & Fergus show them."""

import base64
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import broadened, convolve
from PIL import Image

import jaxviz


def net(params, images):
    return jax.nn.relu(convolve(images, params["w"]) + broadened(params["b"]))


RANDOM = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(RANDOM.normal(size=(3, 3, 3, 4)), jnp.float32), "b": jnp.asarray([0, 0, 0, -1e3])}
IMAGES = RANDOM.uniform(size=(11, 12, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def found():
    return jaxviz.top_patches(net, PARAMS, IMAGES, layer="relu_0", k=4)


def pictures(page):
    sources = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) / 255 for source in sources]


def test_patches_and_beside_them_what_excites_the_unit(found, tmp_path):
    page = jaxviz.patches_page(net, PARAMS, found, IMAGES, tmp_path / "page.html", channels=[1])
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    (picture,) = pictures(page)
    of = found.layers["relu_0"]
    name, (top, left, bottom, right) = of.ids[1][0], of.boxes[1, 0]
    times = 96 // max(bottom - top, right - left)
    patch = np.kron(IMAGES[int(name)][top:bottom, left:right], np.ones((times, times, 1)))
    block = (picture.shape[1] - 10) // 2
    cell = (block - 2) // 2
    row, column = (cell - patch.shape[0]) // 2, (cell - patch.shape[1]) // 2
    shown = picture[row : row + patch.shape[0], column : column + patch.shape[1]]
    np.testing.assert_allclose(shown[8:-8, 8:-8], patch[8:-8, 8:-8], atol=0.1)  # JPEG
    # For one unit of the first layer guided backprop is the kernel, where it is positive or not.
    kernel = jaxviz.draw(PARAMS["w"][..., 1], fine=True)
    if patch.shape[:2] == (96, 96):
        beside = picture[:96, block + 10 : block + 106]
        np.testing.assert_allclose(beside[16::32, 16::32], kernel, atol=0.1)


def test_channels_and_captions(found, tmp_path):
    page = jaxviz.patches_page(net, PARAMS, found, IMAGES, tmp_path / "a.html")
    text = page.read_text()
    assert re.findall(r"<figcaption>Channel (\d): ", text) == ["0", "1", "2"]  # the last one never responds
    assert "the same places by guided_backprop" in text
    page = jaxviz.patches_page(net, PARAMS, found, IMAGES, tmp_path / "a.html", channels={"relu_0": [-2]}, beside=None)
    assert re.findall(r"<figcaption>Channel (\d): ", page.read_text()) == ["2"]
    assert len(pictures(page)) == 1
    page = jaxviz.patches_page(net, PARAMS, found, IMAGES, tmp_path / "a.html", channels=[])
    assert "no channel responds" in page.read_text()


def test_names_are_escaped(tmp_path):
    names = ["<b>.png", "&amp;.png", '"x".png']
    for name, image in zip(names, IMAGES, strict=False):
        jaxviz.save_image(tmp_path / name, image)
    found = jaxviz.top_patches(net, PARAMS, tmp_path, layer="relu_0", k=4, size=12)
    page = jaxviz.patches_page(
        net, PARAMS, found, tmp_path, tmp_path / "a.html", channels=[0], beside=jaxviz.gradient, size=12
    )
    text = page.read_text()
    assert "<b>.png" not in text
    assert "&lt;b&gt;.png" in text
    assert len(pictures(page)) == 1  # of three images, four patches were asked for


def test_vectors_have_no_places(tmp_path):
    dense = lambda params, images: jax.nn.relu(images.mean((1, 2)) @ params)
    found = jaxviz.top_patches(dense, jnp.eye(3), IMAGES, layer="relu_0", k=2)
    page = jaxviz.patches_page(dense, jnp.eye(3), found, IMAGES, tmp_path / "a.html", beside=jaxviz.deconvnet)
    assert len(pictures(page)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "page"}, "expected the name of a page"),
        ({"channels": [4]}, r"channels: expected 0 to 3 of relu_0, or -4 to -1 from the end, got \[4\]"),
        ({"size": 16}, r"size: expected that of `found`, \(12, 12\), got images of \(16, 16\)"),
        ({"source": IMAGES[:3]}, "a source without"),
        ({"source": IMAGES[::-1]}, "found: expected the values of channel 0 of relu_0 that it has"),
        ({"params": {**PARAMS, "w": 2 * PARAMS["w"]}}, "it is of other images, of another size"),
        ({"beside": lambda score, params, images: images[:, :3]}, r"beside: expected maps \(n, h, w\)"),
    ],
)
def test_what_it_refuses_and_then_writes_nothing(found, changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"params": PARAMS, "found": found, "source": IMAGES, "path": "page.html", "channels": [0, 1]} | changes
    first = [given.pop(name) for name in ("params", "found", "source", "path")]
    with pytest.raises(ValueError, match=message):
        jaxviz.patches_page(net, *first, **given)
    assert [*tmp_path.iterdir()] == []
