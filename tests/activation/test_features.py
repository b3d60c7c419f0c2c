"""Features of a source: the network's own, in any batches; a store that survives kills and grows."""

import copy
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from nets import small_net

import jaxviz
from jaxviz.activation import _features
from jaxviz.image._checks import ImageError
from jaxviz.image._files import load_image

IMAGES = np.random.default_rng(1).random((23, 32, 32, 3), np.float32)


def find(small_params, source=IMAGES, **options):
    settings = {"layer": "relu_1", "size": 32, "batch_size": 8}
    return jaxviz.features(small_net, small_params, source, **settings | options)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_they_are_the_networks(small_params, batch_size):
    maps = np.asarray(jaxviz.capture(small_net, "relu_1")(small_params, IMAGES)[1]["relu_1"])
    pooled = {"mean": maps.mean((1, 2)), "max": maps.max((1, 2)), None: maps}
    for pool, expected in pooled.items():
        found = find(small_params, pool=pool, batch_size=batch_size)
        np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-6)
        assert found.ids == [str(i) for i in range(23)]
    logits = find(small_params, layer="dense_0").values
    np.testing.assert_allclose(logits, small_net(small_params, IMAGES), rtol=1e-5, atol=1e-6)


def telling(told):
    return lambda found: told.append((found.done, found.total))


def test_broken_images_are_skipped_and_listed(folder, small_params, tmp_path):
    for store in (None, tmp_path / "store"):
        with pytest.warns(UserWarning, match=r"2 of 13 images could not be read; `skipped` lists them.*a\.jpg: "):
            found = find(small_params, folder, size=16, store=store)
        assert sorted(found.skipped) == ["a.jpg", "b/3b.png"]
        assert len(found.ids) == found.values.shape[0] == 11
        row = found.ids.index("gray.png")
        image = load_image(folder / "gray.png", size=16)[None]
        expected = jaxviz.capture(small_net, "relu_1")(small_params, image)[1]["relu_1"].mean((1, 2))[0]
        np.testing.assert_allclose(np.asarray(found.values)[row], expected, rtol=1e-5)


def test_a_store_keeps_them(small_params, tmp_path):
    found = find(small_params, store=tmp_path / "store")
    np.testing.assert_array_equal(np.asarray(found.values), find(small_params).values)
    rows = [json.loads(line) for line in (tmp_path / "store" / "rows.jsonl").read_text().splitlines()]
    assert [len(batch["hashes"]) for batch in rows] == [8, 8, 7]
    assert rows[0]["hashes"]["3"] == hashlib.sha256(IMAGES[3].tobytes()).hexdigest()
    # `neighbors` reads it in blocks, as it lies on disk.
    near = jaxviz.neighbors(found.values, np.asarray(found.values[:2]), k=1, block_size=5)
    np.testing.assert_array_equal(near.indices, [[0], [1]])
    near = jaxviz.neighbors(found.values, found.values, k=1)
    np.testing.assert_array_equal(near.indices.ravel(), np.arange(23))


def test_what_is_there_is_not_computed_again(small_params, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    find(small_params, IMAGES[:10], store="../store")
    before = content(tmp_path / "store")
    given = []
    plain = _features._values
    monkeypatch.setattr(_features, "_values", lambda *args: (given.append(np.asarray(args[-1])), plain(*args))[1])
    find(small_params, IMAGES[:10], store=tmp_path / "store")
    assert given == []
    assert content(tmp_path / "store") == before
    grown = find(small_params, store=tmp_path / "store")
    assert len(given) == 2  # 13 more, in eights
    np.testing.assert_array_equal(given[0], IMAGES[10:18])
    np.testing.assert_allclose(np.asarray(grown.values), find(small_params).values, rtol=1e-5, atol=1e-7)
    assert grown.ids == [str(i) for i in range(23)]


def test_stopped_by_the_callback_and_gone_on_with(small_params, tmp_path):
    find(small_params, store=tmp_path / "whole")
    told = []

    def stop(found):
        told.append((found.done, found.total))
        return True

    part = find(small_params, store=tmp_path / "parts", callback=stop)
    assert told == [(8, 23)]
    assert len(part.ids) == 8
    find(small_params, store=tmp_path / "parts", callback=telling(told))
    assert told[1:] == [(16, 23), (23, 23)]
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


SCRIPT = """
    import sys, time, jax, numpy as np, jaxviz
    from nets import small_net
    params = dict(np.load(sys.argv[1]))
    images = params.pop("images")
    class Slow:  # so that there is time to be killed in
        def __len__(self): return len(images)
        def __getitem__(self, i):
            time.sleep(0.1)
            return images[i]
    print("begun", flush=True)
    jaxviz.features(small_net, params, Slow(), layer="relu_1", size=32, batch_size=2, store=sys.argv[2])
"""


class Lazy:
    """Images that are read one by one, as a Grain source does it."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, i):
        return IMAGES[i]


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(small_params, tmp_path):
    find(small_params, Lazy(), store=tmp_path / "whole", batch_size=2)
    np.savez(tmp_path / "given.npz", images=IMAGES, **small_params)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(jaxviz.__file__).parents[1]), str(Path(__file__).parents[1])])
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "given.npz"), str(tmp_path / "killed")]
    journal, sizes = tmp_path / "killed" / "rows.jsonl", []
    for _ in range(2):
        before = journal.stat().st_size if journal.exists() else 0
        run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.time() + 120
        while (journal.stat().st_size if journal.exists() else 0) == before and time.time() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
        sizes.append(journal.stat().st_size)
    assert 0 < sizes[0] < sizes[1] < (tmp_path / "whole" / "rows.jsonl").stat().st_size
    with journal.open("a") as file:
        file.write('{"hashes": {"no')  # as if killed in the middle of a line
    find(small_params, Lazy(), store=tmp_path / "killed", batch_size=2)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_what_has_changed_is_computed_again(small_params, tmp_path):
    """Arrays have numbers for names, and another one's rows would be taken for theirs."""
    find(small_params, store=tmp_path / "store")
    others = np.concatenate([IMAGES[:5], 1 - IMAGES[5:9]])
    told = []
    found = find(small_params, others, store=tmp_path / "store", callback=telling(told))
    assert told == [(9, 9)]  # four of them new, in one batch
    assert found.ids == [str(i) for i in range(9)]
    np.testing.assert_allclose(np.asarray(found.values), find(small_params, others).values, rtol=1e-5, atol=1e-7)
    near = jaxviz.neighbors(found.values, np.asarray(found.values[2:4]), k=1, block_size=4)
    np.testing.assert_array_equal(near.indices, [[2], [3]])


def test_of_files_too_and_those_that_are_gone_are_left_out(small_params, tmp_path):
    photos, store = tmp_path / "photos", tmp_path / "store"
    for i, name in enumerate(["b.png", "c.png", "d.png"]):
        jaxviz.save_image(photos / name, IMAGES[i])
    (photos / "e.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"1 of 4 images could not be read; .*e\.png"):
        assert find(small_params, photos, store=store).ids == ["b.png", "c.png", "d.png"]
    (photos / "c.png").unlink()
    jaxviz.save_image(photos / "e.png", IMAGES[4])
    jaxviz.save_image(photos / "a.png", IMAGES[5])
    jaxviz.save_image(photos / "b.png", IMAGES[6])
    found, fresh = find(small_params, photos, store=store), find(small_params, photos)
    assert found.ids == fresh.ids == ["a.png", "b.png", "d.png", "e.png"]
    assert found.skipped == {}
    np.testing.assert_allclose(np.asarray(found.values), fresh.values, rtol=1e-5, atol=1e-7)


def test_one_run_at_a_time_writes_a_store(small_params, tmp_path):
    messages = []

    def second(*_):
        with pytest.raises(ValueError, match="another run is writing to this store") as error:
            find(small_params, store=tmp_path / "store")
        messages.append(error)

    find(small_params, store=tmp_path / "store", callback=second)
    assert len(messages) == 3
    assert len(find(small_params, store=tmp_path / "store").ids) == 23


@pytest.mark.parametrize("params", [{"key": jax.random.key(3)}, {"low": jax.numpy.ones(2, "bfloat16")}])
def test_parameters_of_any_type_can_be_stored_for(params, small_params, tmp_path):
    net = lambda given, images: small_net({name: given[name] for name in small_params}, images)
    found = jaxviz.features(net, small_params | params, IMAGES[:2], layer="relu_1", size=32, store=tmp_path)
    assert found.values.shape[0] == 2


def test_a_store_of_other_settings_is_refused(small_params, tmp_path):
    find(small_params, store=tmp_path / "store")
    before = content(tmp_path / "store")
    for options, message in (
        ({"layer": "relu_0"}, "this store holds features with layer relu_1 and not relu_0; give another folder"),
        ({"pool": "max"}, "pool mean and not max"),
        ({"size": 16}, r"size \[32, 32\] and not \[16, 16\]"),
    ):
        with pytest.raises(ValueError, match=message):
            find(small_params, store=tmp_path / "store", **options)
    with pytest.raises(ValueError, match=r"params .* and not"):
        find(jax.tree.map(lambda x: x + 1, small_params), store=tmp_path / "store")
    assert content(tmp_path / "store") == before


def normalized(params, images):
    return small_net(params, (images - 0.5) / 0.25)


def test_a_store_of_another_network_is_refused(small_params, tmp_path):
    """A normalization changes no parameter."""
    find(small_params, store=tmp_path)
    options = {"layer": "relu_1", "size": 32, "batch_size": 8, "store": tmp_path}
    message = "another network, which has these parameters but computes something else; give another folder"
    with pytest.raises(ValueError, match=message):
        jaxviz.features(normalized, small_params, IMAGES, **options)
    settings = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"jax": "0.0.1"}))
    with pytest.raises(ValueError, match=r"something else \(or jax 0.0.1 traced it otherwise than .*\); give another"):
        jaxviz.features(normalized, small_params, IMAGES, **options)
    same = jaxviz.features(jax.jit(small_net), small_params, IMAGES, **options)  # whatever it is called
    np.testing.assert_array_equal(np.asarray(same.values), find(small_params).values)


def test_another_data_set_is_not_taken_for_the_one_that_is_there(small_params, tmp_path):
    """Its images have the same numbers for names, and say nothing of what is in them."""

    class Other(Lazy):
        def __getitem__(self, i):
            return 1 - IMAGES[i] if i >= 11 else IMAGES[i]

    find(small_params, Lazy(), store=tmp_path)
    find(small_params, Lazy(), store=tmp_path)
    with pytest.raises(ValueError, match=r"store holds features of other images: image \d+ is not .* another folder"):
        find(small_params, Other(), store=tmp_path)


def test_labels_are_kept(small_params, tmp_path):
    labels = [*range(22), None]
    pairs = list(zip(IMAGES, labels, strict=True))
    for store in (None, tmp_path, tmp_path):
        found = find(small_params, pairs, store=store)
        assert found.labels == labels
        values, ids, skipped = found
        assert (len(values), ids, skipped) == (23, [str(i) for i in range(23)], {})
    for other in (pickle.loads(pickle.dumps(found._replace(values=None))), copy.copy(found)):
        assert (other.labels, other.ids) == (labels, ids)
    assert found._replace(labels=None).labels is None
    assert find(small_params).labels is None
    told = []
    relabeled = [(image, 7) for image in IMAGES[:3]]
    found = find(small_params, relabeled, store=tmp_path, callback=telling(told))
    assert found.labels == [7, 7, 7]
    assert find(small_params, [(b"broken", 1), *pairs[:2], *pairs[5:20]]).labels == [0, 1, *range(5, 20)]


def test_an_arrays_own_size_is_its_default(small_params):
    own = jaxviz.features(small_net, small_params, IMAGES[:3], layer="relu_1", pool=None)
    np.testing.assert_array_equal(own.values, find(small_params, IMAGES[:3], pool=None).values)
    patches = jaxviz.top_patches(small_net, small_params, IMAGES[:3], layer="relu_1", k=1)
    assert patches.state["made_with"]["size"] == [32, 32]


def test_nothing_that_can_be_read(small_params, tmp_path):
    for source in ([b"one", b"other"], [IMAGES[0] * 255], [IMAGES[0] - 0.5]):
        for store in (None, tmp_path / "store"):
            with pytest.raises(ImageError, match=f"source: expected images, got {len(source)}, none of which can be"):
                find(small_params, source, store=store)
        with pytest.raises(ImageError, match="none of which can be read"):
            jaxviz.top_patches(small_net, small_params, source, layer="relu_1", k=1, size=32)
    with pytest.raises(ImageError, match=r"expected floats in \[0, 1\], got .*divide 0 to 255 by 255"):
        find(small_params, [IMAGES[0] * 255])
    with pytest.raises(ImageError, match=r"got \[-0.5, 0.5\], as if normalized by a mean and a deviation"):
        find(small_params, np.round(IMAGES[:2]) - 0.5)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "relu_7"}, "no layer 'relu_7'.*relu_0"),
        ({"pool": "sum"}, "pool: expected 'mean', 'max' or None, got 'sum'"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ],
)
def test_errors(options, message, small_params, tmp_path):
    with pytest.raises(ValueError, match=message):
        find(small_params, store=tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()
