"""The verbs over data sets: what they write, that they go on where they were, and what they refuse in one line."""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from nets import stand_in
from PIL import Image
from processes import PATHS

import jaxviz
from jaxviz import cli
from jaxviz.cli import _features, _patches

SIZES = "--size 16 --batch-size 4"


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(cli, "_compile_cache", lambda: None)  # leave this process's settings alone
    monkeypatch.setattr(jaxviz, "load", stand_in)
    shutil.copytree(folder, "photographs")


def features(**options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* could not be read", category=UserWarning)
        return jaxviz.features(*stand_in(), "photographs", size=16, **{"layer": "relu_1"} | options)


@pytest.fixture
def stop_at(monkeypatch):
    """Let Ctrl-C be pressed before a certain look at the run."""

    class At:
        look, looks = 0, 0

        def __call__(self):
            self.looks += 1
            return self.looks == self.look

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    at = At()
    for module in (_features, _patches):
        monkeypatch.setattr(module, "interrupts", lambda: at)
    return at


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["features", "neighbors", "embed", "patches"])
def test_help_names_the_options(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    told = " ".join(shown.replace("│", " ").split())
    assert "A folder, with the folders in it; a zip, tar, .npy or .npz file, or tar files as in" in told
    for name in {field.name for field in dataclasses.fields(cli.VERBS[verb].load())} - {"source"}:
        assert f"--{name.replace('_', '-')}" in shown


def test_features(capsys, stop_at):
    line = f"features photographs --layer relu_1 {SIZES}".split()
    cli.main([*line, "--store", "whole"])
    said = capsys.readouterr()
    assert said.out == "whole: features (11, 6) of relu_1\n"
    assert "features: 13/13  " in said.err
    assert "2 images could not be read:\n  a.jpg: " in said.err
    stop_at.look = stop_at.looks + 2
    with pytest.raises(SystemExit) as stopped:
        cli.main([*line, "--store", "parts"])
    assert stopped.value.code == 130
    assert "Stopped after 8 of 13 images. The same command continues from there." in capsys.readouterr().out
    cli.main([*line, "--store", "parts"])
    assert content("parts") == content("whole")
    cli.main([*line, "--pool", "none", "--store", "maps"])
    assert "maps: features (11, 4, 4, 6) of relu_1" in capsys.readouterr().out
    cli.main([*line, "--store", "whole", "--table", "made/table.parquet"])
    assert "made/table.parquet: 11 rows" in capsys.readouterr().out
    table = pyarrow.parquet.read_table("made/table.parquet")
    assert table["id"].to_pylist() == features().ids
    assert pyarrow.parquet.read_table("made/table-skipped.parquet")["id"].to_pylist() == ["a.jpg", "b/3b.png"]
    with pytest.raises(SystemExit):
        cli.main([*line, "--store", "other", "--table", "table.csv"])
    assert "table.csv: expected a name ending in .parquet" in capsys.readouterr().err
    assert not Path("other").exists()  # before anything is computed


def test_a_tar_file_with_labels(capsys):
    with tarfile.open("shard.tar", "w") as archive:
        for i in range(8):
            archive.add(f"photographs/b/{i}.png", f"{i}.png")
            member = tarfile.TarInfo(f"{i}.cls")
            member.size = 1
            archive.addfile(member, io.BytesIO(b"%d" % (i % 3)))
    cli.main(f"neighbors shard.tar --layer relu_1 {SIZES} --k 2".split())
    told = json.loads(Path("out/neighbors.json").read_text())
    assert all(near["label"] == int(near["name"]) % 3 for row in told.values() for near in row)


def test_neighbors_within_the_source():
    cli.main(f"neighbors photographs --layer relu_1 {SIZES} --k 3".split())
    told = json.loads(Path("out/neighbors.json").read_text())
    assert len(told) == 6
    found = features()
    for name, near in told.items():
        assert name not in [other["name"] for other in near]
        query = found.values[found.ids.index(name)][None]
        expected = jaxviz.neighbors(found.values, query, k=4).indices[0]
        assert [other["name"] for other in near] == [found.ids[i] for i in expected if found.ids[i] != name]
    assert jaxviz.load_image("out/neighbors.png").shape == (6 * 96 + 5 * 2, 4 * 96 + 3 * 2, 3)


def test_neighbors_of_other_images():
    shutil.copy("photographs/b/5.png", "query.png")
    line = f"neighbors photographs --layer relu_1 {SIZES} --queries query.png --k 2 --metric l2"
    cli.main(line.split())
    near = json.loads(Path("out/neighbors.json").read_text())["query.png"]
    assert near[0] == {"name": "b/5.png", "distance": pytest.approx(0, abs=1e-5)}
    assert len(near) == 2
    picture = jaxviz.load_image("out/neighbors.png")
    np.testing.assert_array_equal(picture[:, :96], picture[:, 98:194])


def test_embed():
    cli.main(f"embed photographs --layer relu_1 {SIZES} --thumbnail 8".split())
    with np.load("out/embedding.npz") as kept:
        ids, points, cells = kept["ids"], kept["points"], kept["cells"]
    assert list(ids) == features().ids
    np.testing.assert_array_equal(cells, jaxviz.grid_layout(points))
    picture = jaxviz.load_image("out/embedding.png")
    assert picture.shape == (3 * 8, 4 * 8, 3)
    row, column = cells[list(ids).index("b/2.png")] * 8
    expected = jaxviz.load_image("photographs/b/2.png", size=8)
    np.testing.assert_allclose(picture[row : row + 8, column : column + 8], expected, atol=0.51 / 255)
    page = Path("out/embedding.html").read_text()
    assert f"perplexity={(len(ids) - 1) / 3!r})" in page  # rounded, it could be more than there may be
    told = json.loads(page.split('<script type="application/json">')[1].split("</script>")[0])
    assert told["names"] == list(ids)
    assert told["cells"] == cells.tolist()
    near = jaxviz.neighbors(features().values, features().values, k=9).indices
    assert told["near"] == [[i for i in row if i != own] for own, row in enumerate(near.tolist())]


@pytest.mark.slow
def test_patches(capsys, stop_at):
    line = f"patches photographs --layer relu_0 relu_1 --target 2 5 --k 4 {SIZES}".split()
    cli.main(line)
    assert "out/relu_1-patches.png: channels 2, 5" in capsys.readouterr().out
    options = {"layer": ["relu_0", "relu_1"], "k": 4, "size": 16, "batch_size": 4}
    with pytest.warns(UserWarning, match="could not be read"):
        expected = jaxviz.top_patches(*stand_in(), "photographs", **options)
    for name, patches in expected.layers.items():
        with np.load(f"out/{name}-patches.npz") as kept:
            for field, value in patches._asdict().items():
                np.testing.assert_array_equal(kept[field], value)
    whole = content("out")
    cli.main(line)  # nothing is left to do
    assert "/13" not in capsys.readouterr().err
    shutil.rmtree("out")
    stop_at.look = stop_at.looks + 2
    with pytest.raises(SystemExit) as stopped:
        cli.main(line)
    assert stopped.value.code == 130
    assert "Stopped after 8 of 13 images. The same command continues from there." in capsys.readouterr().out
    assert not Path("out/relu_1-patches.npz").exists()
    cli.main(line)
    assert "top_patches: 12/13  " in capsys.readouterr().err
    assert content("out") == whole


SCRIPT = """
    import sys, time
    import jaxviz
    from nets import stand_in
    from jaxviz import cli
    from jaxviz.cli import _patches
    jaxviz.load, write_state = stand_in, _patches._write_state
    def slow(*args):  # so that there is time to be killed in; images that were read ahead leave none
        write_state(*args)
        time.sleep(1)
    _patches._write_state = slow
    cli.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_patches_killed_and_the_same_command_again():
    line = f"patches photographs --layer relu_0 relu_1 --k 4 {SIZES} --batch-size 2".split()
    cli.main([*line, "--out", "whole"])
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), *line, "--out", "killed"]
    state, seen = Path("killed/patches-state.npz"), []
    for _ in range(2):
        before = state.read_bytes() if state.exists() else b""
        run = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PATHS}, stdout=subprocess.DEVNULL)
        deadline = time.time() + 120
        while (state.read_bytes() if state.exists() else b"") == before and time.time() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
        with np.load(state) as kept:
            seen.append(json.loads(str(kept["rest"]))["seen"])
    assert 0 < seen[0] < seen[1] < 13
    cli.main([*line, "--out", "killed"])
    whole, killed = content("whole"), content("killed")
    assert {name: killed[name] for name in whole} == whole  # a file that was being written may be left beside them


@pytest.mark.slow
def test_finished_patches_grow_with_the_folder(capsys):
    line = f"patches photographs --layer relu_1 --k 4 {SIZES}".split()
    cli.main(line)
    capsys.readouterr()
    shutil.copy("photographs/b/2.png", "photographs/b/2-again.png")
    cli.main(line)
    assert capsys.readouterr().err.startswith("top_patches: 14/14  ")
    with np.load("out/relu_1-patches.npz") as grown:
        cli.main([*line, "--out", "anew"])
        with np.load("anew/relu_1-patches.npz") as anew:
            np.testing.assert_array_equal(grown["ids"], anew["ids"])
            np.testing.assert_array_equal(grown["boxes"], anew["boxes"])
            np.testing.assert_allclose(grown["values"], anew["values"], rtol=1e-5)
    for path in Path("photographs/b").glob("[0-4]*"):
        path.unlink()
    capsys.readouterr()
    cli.main(line)  # what it has seen is gone: anew
    said = capsys.readouterr()
    assert re.match("resume: .* b/0.png is gone or has changed; .*; so it starts over\n", said.out)
    assert said.err.startswith("top_patches: 4/7  ")


def test_patches_of_images_that_have_changed(capsys):
    line = f"patches photographs --layer relu_1 --k 4 {SIZES}".split()
    cli.main(line)
    shutil.copy("photographs/b/2.png", "photographs/b/5.png")
    shutil.copy("photographs/b/1.png", "photographs/a.jpg")  # one that was broken
    cli.main(line)
    assert "a run over other images: b/5.png is gone or has changed" in capsys.readouterr().out
    with np.load("out/relu_1-patches.npz") as again:
        cli.main([*line, "--out", "anew"])
        with np.load("anew/relu_1-patches.npz") as anew:
            np.testing.assert_array_equal(again["ids"], anew["ids"])


def test_hard_images_are_reported_and_the_others_used(capsys):
    """Two broken ones, one pixel, gray, and 12000 x 9000: more pixels than PIL takes for a photograph."""
    Image.new("1", (12000, 9000)).save("photographs/huge.png")
    for verb in ("features", "patches --k 12"):
        cli.main(f"{verb} photographs --layer relu_1 {SIZES}".split())
        said = capsys.readouterr().err
        assert "3 images could not be read:\n" in said
        for name, why in (
            ("a.jpg", "expected an image file"),
            ("b/3b.png", "truncated"),
            ("huge.png", "108000000 pixels"),
        ):
            assert re.search(rf"^  {name}: .*{why}", said, re.MULTILINE)
    assert {"one.png", "gray.png"} <= {*features().ids}
    with np.load("out/relu_1-patches.npz") as kept:
        assert {"one.png", "gray.png", "large.jpg"} <= {*kept["ids"].ravel()}


def normalized(params, images):
    return stand_in()[0](params, (images - 0.5) / 0.25)


@pytest.mark.parametrize(
    "load",
    [
        lambda name: jaxviz.Network(stand_in()[0], stand_in()[1] | {"b1": stand_in()[1]["b1"] + 1}),
        lambda name: jaxviz.Network(normalized, stand_in()[1]),
    ],
    ids=["other weights", "a normalization"],
)
@pytest.mark.slow
def test_another_network_under_the_same_name(load, capsys, monkeypatch):
    """As after `jaxviz weights import`."""
    lines = [f"{verb} photographs --layer relu_1 {SIZES}".split() for verb in ("features", "patches")]
    for line in lines:
        cli.main(line)
    monkeypatch.setattr(jaxviz, "load", load)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(lines[0])
    assert re.search("this store holds features with (params|another network).*another folder", capsys.readouterr().err)
    cli.main(lines[1])
    assert "top_patches: 4/13  " in capsys.readouterr().err  # anew
    with np.load("out/relu_1-patches.npz") as again:
        cli.main([*lines[1], "--out", "anew"])
        with np.load("anew/relu_1-patches.npz") as anew:
            np.testing.assert_array_equal(again["values"], anew["values"])


@pytest.mark.parametrize("broken", [b"PK\x03\x04 cut short", b""])
def test_a_broken_state_is_no_obstacle(broken, capsys):
    Path("out").mkdir()
    Path("out/patches-state.npz").write_bytes(broken)
    cli.main(f"patches photographs --layer relu_1 --k 2 {SIZES}".split())
    assert "top_patches: 4/13  " in capsys.readouterr().err  # from the start


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("features nowhere", "nowhere: expected a folder of images, got a path where there is none"),
        (f"features photographs --layer nope {SIZES}", "no layer 'nope'"),
        (f"patches photographs --layer relu_1 --target 6 {SIZES}", "--target: expected channels of relu_1, 0 to 5"),
        (f"patches photographs --layer relu_1 --target=-7 {SIZES}", "-6 to -1 from the end, got [-7]"),
        (f"patches photographs --layer relu_1 --k 0 {SIZES}", "expected a k and a batch_size of 1 or more, got 0"),
        (f"neighbors photographs --layer relu_1 {SIZES} --queries photographs/a.jpg", "photographs/a.jpg: "),
        (f"embed photographs --layer relu_1 {SIZES} --perplexity 30", "perplexity: expected above 0 and at most 3.3, "),
    ],
)
def test_errors_in_one_line(line, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_store_that_knows_other_images_too(capsys):
    line = f"neighbors photographs --layer relu_1 --k 2 {SIZES}".split()
    cli.main(line)
    for path in Path("photographs/b").iterdir():
        path.rename(path.with_name(f"new-{path.name}"))
    cli.main(line)
    told = json.loads(Path("out/neighbors.json").read_text())
    there = {path.relative_to("photographs").as_posix() for path in Path("photographs").rglob("*.*")}
    assert {row["name"] for rows in told.values() for row in rows} <= there


@pytest.mark.parametrize("verb", ["neighbors", "embed", "patches"])
def test_results_are_not_put_among_the_images(verb, capsys):
    with pytest.raises(SystemExit):
        cli.main(f"{verb} . --layer relu_1 {SIZES}".split())
    assert (
        "--out out: expected a folder outside of ., where results would be taken for input images"
        in capsys.readouterr().err
    )
    assert not Path("out").exists()


def test_nothing_that_can_be_read(capsys):
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        cli.main(f"neighbors broken --layer relu_1 {SIZES}".split())
    said = capsys.readouterr().err
    assert "broken: expected images, got 1, none of which can be read: a.png: " in said
    assert "a.png: expected an image file" in said
