"""Features of a source: the network's own, in any batches; a store that survives kills and grows."""

import hashlib
import json
import os
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
from jaxviz._image import load_image
from jaxviz.activation import _features

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


def test_broken_images_are_skipped_and_listed(folder, small_params, tmp_path):
    for store in (None, tmp_path / "store"):
        found = find(small_params, folder, size=16, store=store)
        assert sorted(found.skipped) == ["a.jpg", "b/3b.png"]
        assert len(found.ids) == found.values.shape[0] == 11
        row = found.ids.index("grey.png")
        image = load_image(folder / "grey.png", size=16)[None]
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
    find(small_params, IMAGES[:10], store=tmp_path / "store")
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

    def stop(done, total):
        told.append((done, total))
        return True

    part = find(small_params, store=tmp_path / "parts", callback=stop)
    assert told == [(8, 23)]
    assert len(part.ids) == 8
    find(small_params, store=tmp_path / "parts", callback=lambda *at: told.append(at))
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


def test_kill_9_and_the_same_command_again(small_params, tmp_path):
    find(small_params, store=tmp_path / "whole", batch_size=2)
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
    find(small_params, store=tmp_path / "killed", batch_size=2)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


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


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "relu_7"}, "there is no layer 'relu_7'; there are .*relu_0"),
        ({"pool": "sum"}, "pool: expected 'mean', 'max' or None, got 'sum'"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ],
)
def test_errors(options, message, small_params, tmp_path):
    with pytest.raises(ValueError, match=message):
        find(small_params, store=tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()
