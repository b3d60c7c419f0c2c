"""One bad file or path never stops the others, in any verb that takes several; and what names of files can do."""

import os
import struct
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import stand_in

import jaxviz
from jaxviz import cli
from jaxviz._files import alone_at

NOT_UTF8, LONG, MARKUP, LINES = os.fsdecode(b"caf\xe9"), "é" * 123, "[red]x[", "two\nlines\x1b[31m"
GOOD = ["cat", NOT_UTF8, LONG, MARKUP, ":cat:", LINES, "-x", "zebra"]
BAD = ["absent", "broken", "empty", "folder", "dangling", "loop", "pipe", "huge", "x" * 260]


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """Work in a folder with images of odd names, and what is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(cli, "_compile_cache", lambda: None)  # leave this process's settings alone
    monkeypatch.setattr(jaxviz, "load", stand_in)
    for i, name in enumerate(GOOD):
        jaxviz.save_image(f"images/{name}.png", np.random.default_rng(i).random((16, 16, 3)))
    Path("images/broken.png").write_bytes(Path("images/cat.png").read_bytes()[:200])
    Path("images/empty.png").write_bytes(b"")
    Path("images/folder.png").mkdir()
    Path("images/dangling.png").symlink_to("absent.png")
    Path("images/loop.png").symlink_to("loop.png")
    os.mkfifo("images/pipe.png")
    head = b"IHDR" + struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)
    Path("images/huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    )
    params = jaxviz.init_style_net(jax.random.key(3), width=2, blocks=1, styles=2)
    params["last"]["offset"] = jnp.array([[1.0, 0, 0], [0, 0, 1.0]])
    jaxviz.save_style_net("net.safetensors", params, ["/../../x", "[/]"])


VERBS = {
    "saliency": ("saliency --size 16 --target 3", ["saliency", "saliency-map"]),
    "dream": ("dream --layer relu_0 --steps 1 --octaves 1 --size 16", ["dream"]),
    "invert": ("invert --layer relu_0 --steps 1 --size 16", ["invert"]),
    "texture": ("texture --layers relu_0 --steps 1 --size 16 --octaves 1", ["texture"]),
    "efros-leung": ("texture --method efros-leung --size 4 --window 3", ["texture"]),
    "fast-style": ("fast-style apply --net net.safetensors --style [/]", ["-"]),
}


def run(line, paths, capsys):
    """Return the exit status and what was said."""
    first, *rest = line.split()
    verb = [first, *rest[:1]] if first == "fast-style" else [first]
    status = 0
    try:
        cli.main([*verb, *paths, *line.split()[len(verb) :]])
    except SystemExit as stopped:
        status = stopped.code
    return status, capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_bad_ones_among_the_good(verb, capsys):
    line, endings = VERBS[verb]
    names = [name for pair in zip(BAD, [*GOOD, "cat"], strict=True) for name in pair]
    status, said = run(line, [f"images/{name}.png" for name in names], capsys)
    assert status == 1
    made = sorted(path.name for path in Path("out").glob("*.png"))
    assert len(made) == len(GOOD) * len(endings)
    assert all(name.isprintable() and len(name.encode()) < 255 for name in made)
    for name in ("cat", "zebra", MARKUP):
        assert any(each.startswith(name) for each in made)
    for name in BAD:
        assert f"jaxviz: images/{name}.png: expected " in said.err
    assert len(said.err.splitlines()) == len(BAD) + 1
    assert f"{len(BAD)} of {len(names) - 1} " in said.err.splitlines()[-1]
    assert not Path("x.png").exists()
    assert not list(Path("out").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["saliency", "fast-style"])
def test_a_folder_of_them_and_folders_that_are_bad(verb, capsys):
    Path("nothing").mkdir()
    status, said = run(VERBS[verb][0], ["nothing", "images", "absent"], capsys)
    assert status == 1
    assert len(list(Path("out").glob("*.png"))) == len(GOOD) * len(VERBS[verb][1])
    for bad in ("nothing: expected a folder with images", "absent: expected an image file or a folder of them, got"):
        assert f"jaxviz: {bad}" in said.err
    assert "jaxviz: images/pipe.png: expected an image file, got a pipe" in said.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(capsys):
    Path("closed").mkdir(mode=0)
    status, said = run(VERBS["saliency"][0], ["closed", "images/cat.png", "closed/a.png"], capsys)
    assert status == 1
    assert "jaxviz: closed: expected a readable folder, got Permission denied" in said.err
    assert "jaxviz: closed/a.png: expected an image file or a folder of them, got Permission denied" in said.err
    assert Path("out/cat-saliency.png").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_all_that_is_bad_is_said_before_anything_is_loaded(verb, capsys, monkeypatch):
    monkeypatch.setattr(jaxviz, "load", None)
    Path("file").write_bytes(b"")
    line = VERBS[verb][0]
    if verb not in ("fast-style",):
        status, said = run(line, ["absent.png", "gone"], capsys)
        assert (status, said.err.count("absent.png: expected an image file or a folder")) == (1, 1)
    status, said = run(f"{line} --out file/out", ["images/cat.png"], capsys)
    assert (status, said.err) == (
        1, "jaxviz: --out file/out: expected a folder for the results, but file is a file\n"
    )  # fmt: skip


def test_names_of_styles_stay_in_the_folder(capsys):
    cli.main("fast-style apply images/cat.png --net net.safetensors --out deep/er/out".split())
    assert not [path for path in Path().rglob("*x.png") if "out" not in path.parts and "images" not in path.parts]
    made = list(Path("deep/er/out").iterdir())
    assert len(made) == 2
    assert {path.parent for path in Path("deep").rglob("*.png")} == {Path("deep/er/out")}
    capsys.readouterr()
    cli.main("fast-style list net.safetensors".split())
    assert "/../../x, [/]" in capsys.readouterr().out


def test_two_results_of_one_name_are_refused(capsys):
    params = jaxviz.init_style_net(jax.random.key(3), width=2, blocks=1, styles=2)
    jaxviz.save_style_net("other.safetensors", params, ["b", "a-b"])
    for name in ("cat", "cat-a"):
        jaxviz.save_image(f"two/{name}.png", np.zeros((8, 8, 3)))
    with pytest.raises(SystemExit):
        cli.main("fast-style apply two --net other.safetensors".split())
    assert "in a-b and two/cat-a.png in b would both become out/cat-a-b.png" in capsys.readouterr().err
    assert not Path("out").exists()


def test_nets_that_cannot_be_read_are_listed_beside_those_that_can(capsys):
    with pytest.raises(SystemExit):
        cli.main("fast-style list images/cat.png net.safetensors absent".split())
    said = capsys.readouterr()
    assert "/../../x, [/]" in said.out
    assert "2 of 3 files failed" in said.err


LOCKED = {
    "ascend": ("ascend --layer relu_1 --size 16 --steps 1", "out/relu_1-ascend"),
    "sheet": ("sheet --layer relu_1 --size 16 --steps 1 --target 1", "out/relu_1-sheet"),
    "dream": ("dream images/cat.png --layer relu_1 --size 16 --steps 1 --octaves 1", "out/cat-dream"),
    "zoom": ("dream images/cat.png --layer relu_1 --size 16 --steps 1 --zoom 2", "out/cat-dream-frames"),
    "invert": ("invert images/cat.png --layer relu_1 --size 16 --steps 1", "out/cat-relu_1-invert"),
    "texture": ("texture images/cat.png --layers relu_1 --size 16 --steps 1", "out/cat-texture"),
    "style": (
        "style images/cat.png images/zebra.png --content-layers relu_0 --style-layers relu_1 --size 16 --steps 1",
        "out/cat-zebra-style",
    ),
    "patches": ("patches photographs --layer relu_1 --size 16 --k 1", "out/patches"),
}


@pytest.mark.parametrize("verb", LOCKED)
def test_a_result_is_made_by_one_run_at_a_time(verb, capsys):
    jaxviz.save_image("photographs/a.png", np.zeros((16, 16, 3)))
    line, at = LOCKED[verb]
    with alone_at(Path(at)), pytest.raises(SystemExit):
        cli.main(line.split())
    assert f"jaxviz: {at}: another run is writing this; wait for it, or use another --out" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == []


def test_queries_that_cannot_be_read_leave_the_others(capsys):
    jaxviz.save_image("photographs/a.png", np.zeros((16, 16, 3)))
    jaxviz.save_image("photographs/b.png", np.ones((16, 16, 3)))
    line = (
        "neighbors photographs --layer relu_1 --size 16 --batch-size 4 --k 1 --queries images/cat.png images/pipe.png"
    )
    cli.main([*line.split(), f"images/{NOT_UTF8}.png"])
    said = capsys.readouterr()
    assert "images/pipe.png: images/pipe.png: expected an image file, got a pipe" in said.err
    assert jaxviz.load_image("out/neighbors.png").shape == (2 * 96 + 2, 2 * 96 + 2, 3)
