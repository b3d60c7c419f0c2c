"""Sources: what images there are, under which names, and what becomes of those that cannot be read."""

import re
import sys
import types

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from jaxviz._image import ImageError, load_image
from jaxviz.data._batches import batches
from jaxviz.data._source import open_source

PIXELS = np.random.default_rng(0).random((5, 16, 16, 3), np.float32)


def read(source):
    return [np.asarray(load_image(source.read(i))) for i in range(len(source.ids))]


def test_a_folder_is_taken_with_its_folders_by_name(folder):
    source = open_source(folder)
    names = [f"b/{i}.png" for i in range(4)] + ["b/3b.png"] + [f"b/{i}.png" for i in range(4, 8)]
    assert source.ids == ["a.jpg", *names, "grey.png", "large.jpg", "one.png"]
    assert load_image(open_source(str(folder)).read(1)).shape == (20, 30, 3)
    assert open_source(folder / "grey.png").ids == ["grey.png"]


class Items:
    def __init__(self, wrap):
        self.wrap = wrap

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, i):
        return self.wrap(PIXELS[i])


@pytest.mark.parametrize(
    "source",
    [
        PIXELS,
        jnp.asarray(PIXELS),
        list(PIXELS),
        Items(lambda x: x),
        Items(lambda x: {"image": x, "label": 3}),
        grain.MapDataset.source(list(PIXELS)),
    ],
    ids=["array", "device array", "list", "object", "dictionaries", "grain"],
)
def test_what_holds_images(source):
    opened = open_source(source)
    assert list(opened.ids) == ["0", "1", "2", "3", "4"]
    np.testing.assert_array_equal(read(opened), PIXELS)
    assert open_source(opened) is opened


def test_a_list_of_paths_keeps_their_names(folder):
    paths = [folder / "grey.png", str(folder / "b" / "0.png")]
    assert open_source(paths).ids == [str(path) for path in paths]
    names = np.array([str(path) for path in paths])
    assert open_source(names).ids == [str(path) for path in paths]
    assert open_source(names).read(1) == names[1]


def test_tensorflow_datasets(monkeypatch):
    """`tfds.data_source` is asked, with the name and the split as they stand; there is no network to fetch one here."""
    asked = []

    def data_source(name, split):
        asked.append((name, split))
        if name == "none":
            raise ValueError("no such dataset")
        return [{"image": (255 * x).astype(np.uint8), "label": 0} for x in PIXELS]

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", types.SimpleNamespace(data_source=data_source))
    source = open_source("tfds:cifar10/plain[test[:5]]")
    assert asked == [("cifar10/plain", "test[:5]")]
    assert source.ids[4] == "cifar10/plain/test[:5]/4"
    np.testing.assert_allclose(read(source), PIXELS, atol=1 / 255)
    assert not {*source.ids} & {*open_source("tfds:mnist[test[:5]]").ids}  # each has rows of its own in a store
    with pytest.raises(ImageError, match=r"tfds:none.test.: no such dataset"):
        open_source("tfds:none[test]")
    with pytest.raises(ImageError, match=r"expected 'tfds:NAME\[SPLIT\]', as in .*, got 'tfds:mnist'"):
        open_source("tfds:mnist")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: expected a folder of images, got a path where there is none"),
        ([], "expected at least one image, got none"),
        (["a.png", "b.png", "a.png"], "expected images of different names, got a.png twice"),
        (7, "source: expected a folder, .* got int"),
        ({"image": 1}, "source: expected a folder, .* got dict"),
    ],
)
def test_errors(source, message):
    with pytest.raises(ImageError, match=message):
        open_source(source)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ImageError, match=r"expected a folder with images .* found none"):
        open_source(tmp_path)


@pytest.mark.parametrize("threads", [1, 8])
def test_batches_have_one_shape_and_list_what_is_skipped(folder, threads):
    source = open_source(folder)
    found = list(batches(source, range(1, 13), size=8, batch_size=5, threads=threads))
    assert [batch.images.shape for batch in found] == [(5, 8, 8, 3)] * 3
    np.testing.assert_array_equal(np.concatenate([batch.indices for batch in found])[:12], range(1, 13))
    live = np.concatenate([batch.live for batch in found])
    np.testing.assert_array_equal(np.flatnonzero(~live), [4, 12, 13, 14])  # the broken one, and where there is none
    assert [list(batch.skipped) for batch in found] == [["b/3b.png"], [], []]
    assert "3b.png" in found[0].skipped["b/3b.png"]
    expected = load_image(folder / "b" / "4.png", size=8)
    np.testing.assert_array_equal(found[1].images[0], expected)
    np.testing.assert_array_equal(found[0].images[4], 0)


def test_images_of_a_dataset_without_images_are_skipped():
    found = list(batches(open_source([{"label": 1}, PIXELS[0]]), [0, 1], size=8, batch_size=2))
    assert list(found[0].skipped) == ["0"]
    assert re.fullmatch("expected an image under one of the names image, img, .*, got label", found[0].skipped["0"])
    np.testing.assert_array_equal(found[0].live, [False, True])


def test_one_image_is_no_source():
    with pytest.raises(ImageError, match=r"got one of shape \(8, 9, 3\): give image\[None\]"):
        open_source(np.zeros((8, 9, 3), np.float32))
