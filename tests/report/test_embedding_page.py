"""`embedding_page`: what is in the file, and what it refuses; tests/browser has what it does."""

import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz

IMAGES = np.asarray(jax.random.uniform(jax.random.key(0), (12, 8, 8, 3)))
ROWS = np.asarray(jax.random.normal(jax.random.key(1), (12, 5)))
SMALL = {"thumbnail": 8}


def told(path):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', path.read_text())[1])


def test_it_is_one_file_without_references(tmp_path):
    path = jaxviz.embedding_page(ROWS, IMAGES, tmp_path / "new" / "map.html", title="<i>mine</i>", **SMALL)
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["map.html"]
    source = path.read_text()
    assert "&lt;i&gt;mine&lt;/i&gt;" in source
    assert "<i>mine" not in source
    assert not re.search(r"https?:|//\w+\.|@import|url\(", re.sub(r"base64,[^\"]*", "", source).split("<script>")[0])
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\(", source)


def test_points_are_in_the_unit_square_or_ball(tmp_path):
    layouts = {"mine": ROWS[:, :2] * (1, 9), "solid": 100 + ROWS[:, :3]}
    found = told(jaxviz.embedding_page(ROWS, IMAGES, tmp_path / "a.html", points=layouts, **SMALL))
    plane, solid = (np.array(each["points"]) for each in found["layouts"])
    assert plane.min() == 0
    assert plane.max() == 1
    lengths = np.ptp(layouts["mine"], axis=0)
    np.testing.assert_allclose(np.ptp(plane, axis=0), lengths / lengths.max(), 1e-3)
    assert np.linalg.norm(solid, axis=1).max() == pytest.approx(0.5, abs=1e-4)
    assert [each["name"] for each in found["layouts"]] == ["mine", "solid"]


def test_labels_of_features_come_along_in_order(tmp_path):
    net = lambda params, images: images
    labels = np.array([10, 2, 2, 10, 1, 1, 1, 1, 2, 2, 2, 2])
    found = jaxviz.features(net, None, (IMAGES, labels), layer=None)
    page = told(jaxviz.embedding_page(found, (IMAGES, labels), tmp_path / "a.html", **SMALL))
    assert page["classes"] == ["1", "2", "10"]
    assert [page["classes"][i] for i in page["labels"]] == [str(label) for label in labels]
    given = [None, *["dog", "cat"] * 5, "dog"]
    page = told(jaxviz.embedding_page(found, (IMAGES, labels), tmp_path / "a.html", labels=given, **SMALL))
    assert (page["classes"], page["labels"][:3]) == (["cat", "dog"], [-1, 1, 0])


def test_names_from_files_are_escaped(tmp_path, folder):
    with warnings.catch_warnings(action="ignore"):
        net = lambda params, images: images
        found = jaxviz.features(net, None, folder, layer=None, size=8)
    assert len(found.ids) == 11  # of 13: two are broken
    page = told(jaxviz.embedding_page(found, folder, tmp_path / "a.html", labels=["</script>"] * 11, **SMALL))
    assert page["names"] == found.ids
    assert page["classes"] == ["</script>"]
    assert '</script>"' not in (tmp_path / "a.html").read_text()


def test_images_of_bands(tmp_path):
    bands = np.repeat(IMAGES, 2, axis=-1)
    assert told(jaxviz.embedding_page(ROWS, bands, tmp_path / "a.html", **SMALL))["names"][0] == "0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "map.png"}, "expected the name of a page, ending in .html, got 'map.png'"),
        ({"found": ROWS[:5]}, r"found: expected a row for each of 12 images, got shape \(5, 5\)"),
        ({"found": ROWS[:1], "source": IMAGES[:1]}, "expected at least two images, got 1"),
        ({"labels": ["a"]}, "labels: expected one for each of 12 images, got 1"),
        ({"points": {"mine": ROWS}}, r"\(12, 2\) or \(12, 3\) for mine, got \(12, 5\)"),
        ({"points": {"mine": ROWS[:, :2] * np.nan}}, "expected finite numbers"),
        ({"points": {}}, "expected at least one layout"),
        ({"thumbnail": 5000}, "at most 16000 pixels a side, got 12 images of 5000"),
        ({"thumbnail": 0}, "thumbnail: expected 1 pixel or more, got 0"),
        ({"source": IMAGES[:5], "found": jaxviz.Features(ROWS, [str(i) for i in range(12)], {})}, "a source without"),
    ],
)
def test_what_it_refuses_and_then_writes_nothing(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"found": ROWS, "source": IMAGES, "path": "map.html"} | SMALL | changes
    with pytest.raises(ValueError, match=message):
        jaxviz.embedding_page(given.pop("found"), given.pop("source"), given.pop("path"), **given)
    assert [*tmp_path.iterdir()] == []


def test_rows_that_are_all_the_same(tmp_path):
    """They have no components, and no nearest neighbors but by number."""
    page = told(jaxviz.embedding_page(jnp.ones((12, 1)), IMAGES, tmp_path / "a.html", **SMALL))
    assert np.isfinite(page["points"]).all()
