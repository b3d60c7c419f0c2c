"""The tour's driver, on two small methods; the real ones run in .ci/run."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net

import jaxviz
from jaxviz._files import alone_in
from jaxviz.report import _tour
from jaxviz.report._method import Method, Tour
from jaxviz.report._methods import METHODS
from jaxviz.report._units import top_patches

made = []


def call_saliency(params, images):
    score = jaxviz.logit(small_net)
    maps = jaxviz.saliency(score, params, images)
    return maps


@pytest.fixture
def tour(small_params, monkeypatch, tmp_path):
    def pictures(id, tour):
        made.append(id)
        shown = jaxviz.normalize(call_saliency(small_params, tour.images(32).astype(small_params["w1"].dtype)))[0]
        yield f"{id}-map", "a map", jnp.repeat(shown[..., None], 3, axis=-1)

    def method(id):
        return Method(id, id.title(), "Which?", "paper", "text", call_saliency, lambda tour: pictures(id, tour))

    made.clear()
    monkeypatch.setattr(_tour, "METHODS", (method("first"), method("second")))
    photo = np.random.default_rng(0).random((40, 50, 3), np.float32)
    return lambda photo=photo, **options: _tour.run_tour(photo, tmp_path / "tour", **{"full": False} | options)


@pytest.mark.slow
def test_the_page_holds_every_section(tour):
    page = tour()
    html = page.read_text()
    assert "First" in html
    assert "Second" in html
    assert html.count("data:image/png;base64") == 2
    assert "jaxviz.saliency(score, params, images)" in html
    assert (page.parent / "first-map.png").exists()


def test_two_tours_do_not_share_a_folder(tour, tmp_path):
    said = "tour: another run is writing to this folder; wait for it, or use another folder"
    with alone_in(tmp_path / "tour"), pytest.raises(ValueError, match=said):
        tour()
    assert made == []
    assert tour().exists()


def test_a_rerun_makes_only_what_is_missing_or_has_changed(tour):
    page = tour()
    assert made == ["first", "second"]
    tour()
    assert made == ["first", "second"]
    (page.parent / "second-map.png").unlink()
    tour()
    assert made == ["first", "second", "second"]
    tour(seed=1)
    tour(full=True)
    tour(photo=np.zeros((40, 50, 3), np.float32))
    assert made[3:] == ["first", "second"] * 3


def test_another_album_is_another_tour(tour, tmp_path):
    tour()
    for name in ("a", "b", "c"):
        jaxviz.save_image(tmp_path / "album" / f"{name}.png", np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="expected a folder of 4 images or more"):
        tour(album=tmp_path / "album")
    jaxviz.save_image(tmp_path / "album" / "d.png", np.zeros((8, 8, 3), np.float32))
    tour(album=tmp_path / "album")
    tour(album=tmp_path / "album")
    assert made == ["first", "second"] * 2
    jaxviz.save_image(tmp_path / "album" / "e.png", np.zeros((8, 8, 3), np.float32))
    tour(album=tmp_path / "album")
    assert made == ["first", "second"] * 3
    jaxviz.save_image(tmp_path / "album" / "e.png", np.ones((9, 9, 3), np.float32))  # another under the same name
    tour(album=tmp_path / "album")
    assert made == ["first", "second"] * 4
    with pytest.raises(jaxviz.ImageError, match="expected a folder of images"):
        tour(album=tmp_path / "none")
    with pytest.raises(jaxviz.ImageError, match="where results would be taken for input images"):
        tour(album=tmp_path)


def test_an_album_whose_names_are_not_utf_8(tour, tmp_path):
    for name in (b"a", b"b", b"c", b"caf\xe9"):
        jaxviz.save_image(tmp_path / "one.png", np.zeros((8, 8, 3), np.float32))
        (tmp_path / "album").mkdir(exist_ok=True)
        (tmp_path / "one.png").rename(tmp_path / "album" / os.fsdecode(name + b".png"))
    tour(album=tmp_path / "album")
    assert made == ["first", "second"]


@pytest.mark.slow
@pytest.mark.weights
def test_patches_of_an_album_in_which_one_image_is_plain(tmp_path):
    """Then no channel responds to all of them, and what responds to one is shown."""
    from skimage import data

    for name in ("chelsea", "coffee", "astronaut"):
        jaxviz.save_image(tmp_path / f"{name}.png", jaxviz.load_image(getattr(data, name)(), size=224))
    jaxviz.save_image(tmp_path / "plain.png", np.full((224, 224, 3), 0.5, np.float32))
    tour = Tour(jaxviz.load_image(data.chelsea()), jax.random.key(0), False, print, tmp_path)
    ((name, _, picture),) = top_patches(tour)
    assert name == "patches-relu3_3"
    assert picture.shape[0] > 400  # six rows


def test_another_net_or_other_code_is_another_tour(tour, monkeypatch, tmp_path):
    tour()
    weights = {name: tmp_path / name for name in ("manifest.toml", _tour.STYLE_NET)}
    for name, copy in weights.items():
        copy.write_bytes(_tour.included(name).read_bytes())
    monkeypatch.setattr(_tour, "included", weights.__getitem__)
    for addition, times in ((b"", 1), (b"a new net", 2)):
        weights[_tour.STYLE_NET].write_bytes(weights[_tour.STYLE_NET].read_bytes() + addition)
        _tour._own_digest.cache_clear()
        tour()
        assert made == ["first", "second"] * times
    monkeypatch.setattr(_tour, "imported_digest", lambda name: f"{name} imported by hand")
    tour()
    assert made == ["first", "second"] * 3


def test_interrupted_it_leaves_a_valid_page_and_goes_on(tour, monkeypatch, tmp_path):
    first, second = _tour.METHODS

    def interrupted(_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(_tour, "METHODS", (first, second._replace(pictures=interrupted)))
    with pytest.raises(KeyboardInterrupt):
        tour()
    html = (tmp_path / "tour" / "index.html").read_text()
    assert html.count("data:image/png;base64") == 1
    assert "Second" in html  # as pending
    monkeypatch.setattr(_tour, "METHODS", (first, second))
    tour()
    assert made == ["first", "second"]


def test_only(tour):
    html = tour(only=("second",)).read_text()
    assert made == ["second"]
    assert html.count("data:image/png;base64") == 1
    with pytest.raises(ValueError, match="no section third; there are first, second"):
        tour(only=("third",))


def test_a_bad_image_leaves_no_folder(tour, tmp_path):
    with pytest.raises(jaxviz.ImageError):
        tour(photo=tmp_path / "none.jpg")
    assert not (tmp_path / "tour").exists()


def test_the_code_shown_is_what_a_user_would_write():
    assert len({method.id for method in METHODS}) == len(METHODS)
    for method in METHODS:
        lines = method.code().strip().splitlines()
        assert 2 <= len(lines) <= 4
        assert any(f"jaxviz.{name}(" in lines[0] for name in ("load", "load_style_net"))
        compile(method.code(), method.id, "exec")
