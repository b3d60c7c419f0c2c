"""Sources: what images there are, under which names, and what becomes of those that cannot be read."""

import contextlib
import functools
import importlib.util
import json
import os
import re
import sys
import tempfile
import types
from pathlib import Path

import grain
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net
from PIL import Image, features

import jaxviz
from jaxviz.data._batches import batches, sized
from jaxviz.data._source import open_source
from jaxviz.image._checks import ImageError
from jaxviz.image._files import load_image

PIXELS = np.random.default_rng(0).random((5, 16, 16, 3), np.float32)


def read(source):
    return [np.asarray(load_image(source.read(i))) for i in range(len(source.ids))]


def test_a_folder_is_taken_with_its_folders_by_name(folder):
    source = open_source(folder)
    names = [f"b/{i}.png" for i in range(4)] + ["b/3b.png"] + [f"b/{i}.png" for i in range(4, 8)]
    assert source.ids == ["a.jpg", *names, "gray.png", "large.jpg", "one.png"]
    assert load_image(open_source(str(folder)).read(1)).shape == (20, 30, 3)
    assert open_source(folder / "gray.png").ids == ["gray.png"]


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
    paths = [folder / "gray.png", str(folder / "b" / "0.png")]
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
    assert not {*source.ids} & {*open_source("tfds:mnist[test[:5]]").ids}  # each has its own rows in a store
    with pytest.raises(ImageError, match=r"tfds:none.test.: no such dataset"):
        open_source("tfds:none[test]")
    with pytest.raises(ImageError, match=r"expected 'tfds:NAME\[SPLIT\]', as in .*, got 'tfds:mnist'"):
        open_source("tfds:mnist")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: expected a folder of images, got a path where there is none"),
        ([], "expected at least one image, got none"),
        (["a.png", "b.png", "a.png"], "expected a different name for each image, got a.png twice"),
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


# What frameworks give


def pairs(images):
    return [(image, label) for label, image in enumerate(images)]


FORMS = {
    "pairs": pairs(PIXELS),
    "images and labels": (PIXELS, np.arange(5)),
    "columns": {"img": PIXELS, "label": list(range(5)), "info": "all of them"},
    "channels first": pairs(PIXELS.transpose(0, 3, 1, 2)),
    "dictionaries": [{"img": image, "label": label, "id": "x"} for image, label in pairs(PIXELS)],
    "an image by its looks": [{"id": 7, "scan": image, "target": np.int64(label)} for image, label in pairs(PIXELS)],
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_come_with_images(form):
    source, size = sized(open_source(FORMS[form]), None)
    assert size == (16, 16)
    found = list(batches(source, range(5), size=size, batch_size=3, threads=1))
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in found])[:5], PIXELS)
    labels = {**found[0].labels, **found[1].labels}
    assert labels == {str(i): i for i in range(5)}
    assert {type(label) for label in labels.values()} == {int}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (np.float32(0.5), 0.5),
        (jnp.array([3]), 3),
        (np.array([1, 0, 1]), [1, 0, 1]),
        ({"boxes": np.zeros((1, 4)), "name": b"cat"}, {"boxes": [[0.0, 0.0, 0.0, 0.0]], "name": "cat"}),
        (["a", None, (1, 2)], ["a", None, [1, 2]]),
        (True, True),
    ],
)
def test_labels_are_what_json_can_hold(label, expected):
    found = open_source([(PIXELS[0], label)]).labeled(0)[1]
    assert found == json.loads(json.dumps(found)) == expected


@pytest.mark.foreign
def test_pytorch():
    torch = pytest.importorskip("torch")
    data = pytest.importorskip("torch.utils.data")
    tensors, labels = torch.tensor(PIXELS).permute(0, 3, 1, 2), torch.arange(5)
    dataset = data.TensorDataset(tensors, labels)
    loaders = [data.DataLoader(dataset, batch_size=2, shuffle=shuffle) for shuffle in (False, True)]
    for given in (dataset, *loaders, data.Subset(dataset, range(5))):
        source, size = sized(open_source(given), None)
        assert size == (16, 16)
        np.testing.assert_array_equal(read(source), PIXELS)
        assert [source.labeled(i)[1] for i in range(5)] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(read(open_source(tensors.requires_grad_())), PIXELS)
    gray = (255 * tensors.detach()[:, 0]).byte()
    np.testing.assert_array_equal(read(open_source(gray))[4][..., 0], np.float32(gray[4]) / np.float32(255))
    narrow = open_source([tensors.detach()[0, :, :, :3]])  # three rows of channels, or channels of three columns
    np.testing.assert_array_equal(read(narrow)[0], PIXELS[0, :, :3])

    class Stream(data.IterableDataset):
        def __iter__(self):
            yield from dataset

    for loader in (
        data.DataLoader(dataset, sampler=data.SubsetRandomSampler([1, 2])),
        data.DataLoader(dataset, sampler=data.WeightedRandomSampler([1.0] * 5, 5)),
        data.DataLoader(dataset, batch_sampler=[[0, 1]]),
        data.DataLoader(dataset, collate_fn=lambda batch: batch),
    ):
        with pytest.raises(ImageError, match=r"sampler or a collate_fn of its own.*: give loader.dataset, or a list"):
            open_source(loader)
    for stream in (Stream(), data.DataLoader(Stream(), batch_size=2)):
        source = open_source(stream)
        np.testing.assert_array_equal(read(source), PIXELS)
        assert [source.labeled(i)[1] for i in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ImageError, match=r"got a tensor of shape \(3, 16, 16\): one image is image\[None\]"):
        open_source(tensors[0])
    (batch,) = batches(open_source(list(loaders[0])), [0, 1], size=16, batch_size=2)
    assert re.match(r"expected one image, got a batch of shape \(2, 3, 16, 16\): give the", batch.skipped["0"])


@pytest.mark.foreign
@pytest.mark.filterwarnings("ignore")  # its own, of what it pickles
def test_hugging_face():
    datasets = pytest.importorskip("datasets")
    columns = {"img": [Image.fromarray((255 * image).astype(np.uint8)) for image in PIXELS], "label": list(range(5))}
    dataset = datasets.Dataset.from_dict(columns).cast_column("img", datasets.Image())
    expected = (255 * PIXELS).astype(np.uint8) / np.float32(255)
    undecoded = dataset.cast_column("img", datasets.Image(decode=False))
    for given in (dataset, dataset.with_format("numpy"), dataset[:5], undecoded):
        source = open_source(given)
        np.testing.assert_array_equal(read(source), expected)
        assert [source.labeled(i)[1] for i in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ImageError, match="got DatasetDict with train, test: give one of them"):
        open_source(datasets.DatasetDict(train=dataset, test=dataset))


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (np.float32(255) * PIXELS[0], r"expected floats in \[0, 1\], got \[.*\]; divide 0 to 255 by 255"),
        (PIXELS[0] * 4 - 2, r"expected floats in \[0, 1\], got \[-.*\], as if normalized by a mean and a deviation"),
        (np.ones((8, 8, 3), np.int64), r"got int64; convert values from 0 to 255 with .astype\('uint8'\)"),
        (PIXELS[:2], r"expected one image, got a batch of shape \(2, 16, 16, 3\)"),
        ((), "expected an image, or an image and its label, got an empty tuple or list"),
        (3, "expected a path, bytes, a file object, a PIL image or an array, got builtins.int"),
    ],
)
def test_an_element_that_is_none_says_why(element, message):
    (found,) = batches(open_source([element, PIXELS[0]]), [0, 1], size=16, batch_size=2)
    assert re.search(message, found.skipped["0"])
    np.testing.assert_array_equal(found.live, [False, True])


def test_whatever_a_data_set_raises_for_one_image():
    def wrap(image):
        if np.array_equal(image, PIXELS[2]):
            raise OSError("disk")
        return image

    (found,) = batches(open_source(Items(wrap)), range(5), size=16, batch_size=5)
    assert found.skipped == {"2": "expected an image, got OSError: disk"}


def test_marks_change_with_images_and_labels():
    image = Image.fromarray((255 * PIXELS[0]).astype(np.uint8))
    sources = [[PIXELS[0]], [PIXELS[1]], [(PIXELS[0], 1)], [(PIXELS[0], 2)], [image], [image.rotate(90)]]
    marks = [open_source(source).mark(0) for source in sources]
    assert "" not in marks
    assert len({*marks}) == 6


# Sizes


@pytest.mark.parametrize(
    ("source", "size"),
    [
        (PIXELS, (16, 16)),
        (PIXELS[:, :8], (8, 16)),
        (list(PIXELS), (16, 16)),
        ([*PIXELS, PIXELS[0, :8]], 224),
        ([PIXELS[0], "some.png"], 224),
        (Items(lambda x: x), (16, 16)),
        (Items(lambda x: Image.fromarray((255 * x).astype(np.uint8))), 224),
    ],
)
def test_arrays_have_a_size_of_their_own(source, size):
    assert sized(open_source(source), None)[1] == size
    assert sized(open_source(source), 32)[1] == 32


def test_what_is_of_another_size_after_all_is_not_scaled():
    class Many(Items):
        def __len__(self):
            return 100

        def __getitem__(self, i):
            return PIXELS[0, :8] if i == 50 else PIXELS[0]

    source, size = sized(open_source(Many(None)), None)
    assert size == (16, 16)
    (found,) = batches(source, [49, 50], size=size, batch_size=2)
    assert "expected an image of size (16, 16)" in found.skipped["50"]
    assert "got (8, 16): say a size" in found.skipped["50"]


# Folders


def picture(path, format="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, format)


def test_suffixes_of_all_formats(tmp_path):
    formats = {"jfif": "JPEG", "JPG": "JPEG", "ppm": "PPM", "pgm": "PPM", "webp": "WEBP", "tif": "TIFF", "gif": "GIF"}
    if features.check("avif"):
        formats["avif"] = "AVIF"
    for suffix, format in formats.items():
        picture(tmp_path / f"a.{suffix}", format)
    source = open_source(tmp_path)
    assert len(source.ids) == len(formats)
    assert all(pixels.shape == (8, 8, 3) for pixels in read(source))


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is not None, reason="pillow-heif can read it")
def test_what_needs_another_package_is_skipped_and_says_which(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (found,) = batches(open_source(tmp_path), [0, 1], size=8, batch_size=2)
    assert "b.heic: HEIC and HEIF are read where the package pillow-heif is installed" in found.skipped["b.heic"]


def test_links_are_followed_once(tmp_path):
    """A circle ends; what a link leads to is taken where it stands, if that is in the folder."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for path in (root / "b" / "own.png", root / "z.png", outside / "far.png", outside / "deeper" / "x.png"):
        picture(path)
    (root / "a").symlink_to(root / "b")
    (root / "c").symlink_to(outside)
    (root / "d").symlink_to(outside)
    (root / "b" / "up").symlink_to(root)
    (outside / "back").symlink_to(root)
    (root / "file.png").symlink_to(outside / "far.png")
    source = open_source(root)
    assert source.ids == ["b/own.png", "c/deeper/x.png", "c/far.png", "file.png", "z.png"]
    assert source.left_out == {}


def test_what_cannot_be_looked_into_is_listed():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        picture(root / "a.png")
        picture(root / "locked" / "b.png")
        (root / "gone.png").symlink_to(root / "nowhere.png")
        (root / "round").symlink_to(root / "round")
        os.mkfifo(root / "pipe.png")
        (root / "locked").chmod(0)
        with as_nobody():
            source = open_source(root)
        (root / "locked").chmod(0o700)
    assert source.ids == ["a.png"]
    assert sorted(source.left_out) == ["gone.png", "locked", "pipe.png"]
    for name, why in {"gone.png": "a broken link", "locked": "Permission", "pipe.png": "a pipe"}.items():
        assert source.left_out[name].startswith(f"{root / name}: expected ")
        assert why in source.left_out[name]


@contextlib.contextmanager
def as_nobody():
    """Let permissions hold, which for root they do not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_was_left_out_is_in_what_is_returned(small_params, tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    options = {"layer": "relu_1", "size": 16}
    for find in (jaxviz.features, functools.partial(jaxviz.top_patches, k=1)):
        with pytest.warns(UserWarning, match="0 of 1 images could not be read, and 1 files or folders"):
            found = find(small_net, small_params, tmp_path, **options)
        assert list(found.skipped) == ["gone.png"]
