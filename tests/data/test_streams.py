"""Data sets without a length: gone through twice, in one order, and told if they are not the same the second time."""

import itertools

import grain
import jax
import numpy as np
import pytest
from nets import small_net
from PIL import Image

import jaxviz
from jaxviz.data._batches import batches, sized
from jaxviz.data._source import open_source
from jaxviz.image._checks import ImageError
from jaxviz.image._files import load_image

PIXELS = np.random.default_rng(0).random((40, 16, 16, 3), np.float32)


class Stream:
    """What frameworks call an iterable data set."""

    def __init__(self, begin):
        self.begin, self.times, self.given = begin, 0, 0

    def __iter__(self):
        self.times += 1
        for element in self.begin():
            self.given += 1
            yield element


def pairs():
    return ((image, i % 3) for i, image in enumerate(PIXELS))


def test_a_stream_is_a_source():
    stream = Stream(pairs)
    source, size = sized(open_source(stream), None)
    assert (len(source.ids), source.ids[-1], size) == (40, "39", (16, 16))
    found = list(batches(source, range(40), size=size, batch_size=16))
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in found])[:40], PIXELS)
    assert {name: label for batch in found for name, label in batch.labels.items()} == {
        str(i): i % 3 for i in range(40)
    }
    assert len({source.mark(i) for i in range(40)}) == 40
    assert stream.times == 3  # to count, to see the size of some, to read
    assert stream.given == 40 + 16 + 40


def test_a_stream_is_read_forward_and_from_its_beginning():
    stream = Stream(pairs)
    source = open_source(stream)
    for i, times in ((3, 2), (3, 2), (7, 2), (39, 2), (38, 3), (39, 3)):
        np.testing.assert_array_equal(source.read(i), PIXELS[i])
        assert stream.times == times


@pytest.mark.parametrize("find", [jaxviz.features, jaxviz.top_patches])
def test_a_stream_gives_what_a_list_does(find, small_params):
    options = {"layer": "relu_1", "batch_size": 16}
    found = find(small_net, small_params, Stream(pairs), **options)
    expected = find(small_net, small_params, list(pairs()), **options)
    if find is jaxviz.features:
        assert found.labels == expected.labels
        np.testing.assert_array_equal(found.values, expected.values)
    else:
        np.testing.assert_array_equal(found.layers["relu_1"].indices, expected.layers["relu_1"].indices)


def test_a_store_of_a_stream_goes_on_and_sees_what_changed(tmp_path, small_params):
    options = {"layer": "relu_1", "batch_size": 16}
    jaxviz.features(small_net, small_params, Stream(pairs), store=tmp_path, callback=lambda found: True, **options)
    found = jaxviz.features(small_net, small_params, Stream(pairs), store=tmp_path, **options)
    assert found.values.shape == (40, 6)
    other = [(image, i % 3) for i, image in enumerate(PIXELS)]
    other[30] = (PIXELS[0], 7)
    found = jaxviz.features(small_net, small_params, Stream(lambda: other), store=tmp_path, **options)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4  # three batches, and one image
    np.testing.assert_array_equal(np.asarray(found.values)[30], np.asarray(found.values)[0])
    assert found.labels[30] == 7


def test_what_changes_from_time_to_time_is_told():
    """Shuffled, augmented or shortened: no image is taken for another one."""
    numbers = itertools.count()

    def shuffled():
        return iter(np.random.default_rng(next(numbers)).permutation(PIXELS))

    (found,) = batches(open_source(Stream(shuffled)), range(3), size=16, batch_size=3)
    assert len(found.skipped) == 3
    assert (
        "expected the same images each time, got another one at place 0: leave out what shuffles" in found.skipped["0"]
    )
    (found,) = batches(
        open_source(Stream(lambda: iter(PIXELS[: 40 - 39 * (next(numbers) % 2)]))), [0, 1], size=16, batch_size=2
    )
    assert "expected as many images as before, got 1" in found.skipped["1"]


def samples(keys, shard="a/x.tar"):
    return [{"__key__": key, "__url__": shard, "png": PIXELS[i], "cls": b"7"} for i, key in enumerate(keys)]


def test_samples_of_webdataset_have_names_of_their_own():
    source = open_source(Stream(lambda: samples(["p/1", "p/2"])))
    assert source.ids == ["p/1", "p/2"]
    assert source.labeled(1)[1] == 7
    both = lambda: samples(["1", "2"]) + samples(["1", "2"], "b/y.tar")
    assert open_source(Stream(both)).ids == ["x.tar/1", "x.tar/2", "y.tar/1", "y.tar/2"]
    with pytest.raises(ImageError, match="expected each image once, got 1 twice, as where shards are resampled"):
        open_source(Stream(lambda: itertools.cycle(samples(["1", "2"]))))


class OfTensorFlow(Stream):
    """What `tf.data.Dataset` has: a length that may be infinite, and elements as NumPy's."""

    def __init__(self, begin, cardinality):
        super().__init__(begin)
        self.size = cardinality

    def __len__(self):
        return self.size

    def cardinality(self):
        return np.int64(self.size)

    def as_numpy_iterator(self):
        return iter(self.begin())


def test_what_has_tensorflows_interface():
    rows = lambda: ({"image": (255 * image).astype(np.uint8), "label": np.int64(i)} for i, image in enumerate(PIXELS))
    source, size = sized(open_source(OfTensorFlow(rows, 40)), None)
    assert (len(source.ids), size, source.labeled(5)[1]) == (40, (16, 16), 5)
    with pytest.raises(ImageError, match=r"expected images that end, got a data set that repeats them: leave .repeat"):
        open_source(OfTensorFlow(rows, -1))
    with pytest.raises(ImageError, match=r"expected images one by one, got a batch of shape \(4, 16, 16, 3\): leave"):
        open_source(OfTensorFlow(lambda: [{"image": PIXELS[:4]}], 1))


@pytest.mark.foreign
def test_tensorflow():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices({"image": (255 * PIXELS).astype(np.uint8), "label": np.arange(40)})
    for given in (data, data.map(lambda row: (row["image"], row["label"])), data.filter(lambda row: True)):
        source, size = sized(open_source(given), None)
        assert (len(source.ids), size, source.labeled(5)[1]) == (40, (16, 16), 5)
        np.testing.assert_array_equal(source.read(39), (255 * PIXELS[39]).astype(np.uint8))
    encoded = data.map(lambda row: (tf.io.encode_png(row["image"]), row["label"]))
    np.testing.assert_array_equal(load_image(open_source(encoded).read(3)), load_image(source.read(3)))
    with pytest.raises(ImageError, match=r"got a data set that repeats them: leave .repeat\(\) out"):
        open_source(data.repeat())
    with pytest.raises(ImageError, match=r"got a batch of shape \(8, 16, 16, 3\): .*unbatch"):
        open_source(data.batch(8))
    (found,) = batches(open_source(data.shuffle(40)), range(8), size=16, batch_size=8)
    assert any("expected the same images each time" in why for why in found.skipped.values())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            iter(PIXELS),
            "by number, got builtins.generator|got .*iterator, which gives them one after another, and only",
        ),
        (grain.MapDataset.source(list(PIXELS)).to_iter_dataset(), None),
        ({1, 2}, "by number, got builtins.set, which gives them"),
        (Stream(list), "expected at least one image, got none"),
        (Stream(lambda: [PIXELS[:3]]), r"got a batch of shape \(3, 16, 16, 3\): leave batching out"),
        (Stream(lambda: (1 / 0 for _ in "a")), "expected an image at place 0, got ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_a_stream_and_what_is_none(source, message):
    if message is None:
        assert len(open_source(source).ids) == 40
        return
    with pytest.raises(ImageError, match=message):
        open_source(source)


def test_a_stream_is_not_trained_on(small_params):
    with pytest.raises(
        ImageError, match=r"expected images that can be taken in random order, got a stream; give a list"
    ):
        jaxviz.train_style_net(small_net, small_params, jax.random.key(0), Stream(pairs), [PIXELS[0]])


@pytest.mark.foreign
@pytest.mark.filterwarnings("ignore")  # its own, of files that it leaves open
def test_webdataset(tmp_path):
    """The files of the writer, read by the reader or by us, are the same images with the same labels and names."""
    wds = pytest.importorskip("webdataset")
    bytes_of = [(255 * image).astype(np.uint8) for image in PIXELS[:6]]
    for shard in range(2):
        with wds.TarWriter(str(tmp_path / f"x-{shard}.tar")) as writer:
            for i in range(3 * shard, 3 * shard + 3):
                writer.write({"__key__": f"s{i}", "png": Image.fromarray(bytes_of[i]), "cls": i, "json": {"at": i}})
    pattern = str(tmp_path / "x-{0..1}.tar")
    raw = lambda: wds.WebDataset(pattern, shardshuffle=False)
    forms = {
        "files": (pattern, [f"x-{i // 3}.tar/s{i}" for i in range(6)]),
        "samples": (raw(), [f"s{i}" for i in range(6)]),
        "decoded": (raw().decode("pil"), [f"s{i}" for i in range(6)]),
        "tuples": (raw().decode("rgb8").to_tuple("png", "cls"), list("012345")),
        "channels first": (raw().decode("torchrgb8").to_tuple("png", "cls"), list("012345")),
    }
    for given, names in forms.values():
        source = open_source(given)
        assert list(source.ids) == names
        assert [source.labeled(i)[1] for i in range(6)] == list(range(6))
        for i in range(6):
            np.testing.assert_array_equal(load_image(source.read(i)), bytes_of[i] / np.float32(255))
    with pytest.raises(ImageError, match=r"expected images one by one, got a batch of shape"):
        open_source(raw().decode("rgb8").to_tuple("png", "cls").batched(2))
    with pytest.raises(ImageError, match="twice, as where shards are resampled"):
        open_source(wds.WebDataset(pattern, resampled=True, shardshuffle=False))


@pytest.mark.foreign
@pytest.mark.filterwarnings("ignore")  # its own, of what it pickles
def test_hugging_face_streams_and_columns(tmp_path):
    """A column of images is found by its type whatever its name, and so are class labels."""
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray((255 * image).astype(np.uint8)) for image in PIXELS[:5]]
    features = {
        "scan": datasets.Image(),
        "kind": datasets.ClassLabel(names=["a", "b"]),
        "label": datasets.Value("string"),
    }
    columns = {"scan": pictures, "kind": [0, 1, 1, 0, 1], "label": list("vwxyz")}
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    for given in (dataset, dataset.to_iterable_dataset(), dataset.cast_column("scan", datasets.Image(decode=False))):
        source = open_source(given)
        np.testing.assert_array_equal(load_image(source.read(3)), load_image(pictures[3]))
        assert [source.labeled(i)[1] for i in range(5)] == [0, 1, 1, 0, 1]
    features |= {"mask": datasets.Image()}
    two = datasets.Dataset.from_dict(columns | {"mask": pictures}, features=datasets.Features(features))
    with pytest.raises(ImageError, match=r"one column of images, got scan, mask: .*remove_columns\(\['mask'\]\)"):
        open_source(two)
    assert open_source(two.rename_column("mask", "image")).labeled(0)[1] == 0
    shuffled = open_source(dataset.to_iterable_dataset().shuffle(seed=1))  # the same each time
    assert {shuffled.labeled(i)[1] for i in range(5)} == {0, 1}
