"""The synthesis verbs: what they write, how they are stopped and gone on with, and what they refuse in one line."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import stand_in
from skimage import data

import jaxviz
from jaxviz import cli

KEY = jax.random.key(0)
STYLE_LAYERS = ("relu_0", "relu_1")
VERBS = [verb for verb, entry in cli.VERBS.items() if entry.module == "_synthesis"]


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """Work in a folder with two images, with a small network in the place of a pretrained one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(cli, "_compile_cache", lambda: None)  # leave this process's settings alone
    monkeypatch.setattr(jaxviz, "load", stand_in)
    for name, picture in (("cat", data.chelsea()), ("cup", data.coffee())):
        jaxviz.save_image(f"images/{name}.png", jaxviz.load_image(picture, size=24))


def image(name="cat"):
    return jaxviz.load_image(f"images/{name}.png")


# A command, what it is to write, and the images that the function makes.
CASES = {
    "ascend": (
        "ascend --layer relu_1 --target 1 4 --size 16 --steps 20",
        "relu_1-1-4-ascend",
        lambda net, params: jaxviz.ascend(
            jaxviz.channel(net, "relu_1", np.array([1, 4])), params, KEY, size=16, steps=20
        ).images,
    ),
    "ascend a class": (
        "ascend --target tabby --size 16 --recipe simonyan",
        "efficientnet_lite0-tabby-ascend",
        lambda net, params: jaxviz.ascend(
            jaxviz.logit(net, np.array([281])), params, KEY, size=16, **jaxviz.recipe("simonyan")
        ).images,
    ),
    "ascend from an image": (
        "ascend --layer relu_1 --size 16 --steps 20 --start images/cat.png --learning-rate 0.1",
        "relu_1-ascend",
        lambda net, params: jaxviz.ascend(
            jaxviz.energy(net, "relu_1"), params, KEY, size=16, steps=20, learning_rate=0.1,
            start=jaxviz.load_image("images/cat.png", size=16),
        ).images,
    ),
    "sheet": (
        "sheet --layer relu_1 --size 12 --steps 10 --batch-size 4",
        "relu_1-sheet",
        lambda net, params: jaxviz.sheet(
            net, params, KEY, layer="relu_1", size=12, steps=10, batch_size=4
        ).images,
    ),
    "dream": (
        "dream images/cat.png --layer relu_1 --octaves 2 --steps 5 --size 20",
        "cat-dream",
        lambda net, params: jaxviz.dream(
            jaxviz.energy(net, "relu_1"), params, KEY, jaxviz.load_image("images/cat.png", longest=20)[None],
            octaves=2, steps=5,
        ).images,
    ),
    "dream of channels": (
        "dream images/cat.png --layer relu_1 --target 1 3 --octaves 1 --steps 20",
        "cat-dream",
        lambda net, params: jaxviz.dream(
            jaxviz.channel(net, "relu_1", 1) + jaxviz.channel(net, "relu_1", 3),
            params, KEY, image()[None], octaves=1, steps=20,
        ).images,
    ),
    "guided dream": (
        "dream images/cat.png --layer relu_1 --octaves 1 --steps 20 --guide images/cup.png",
        "cat-dream",
        lambda net, params: jaxviz.dream(
            jaxviz.resemblance(net, params, image("cup")[None], layer="relu_1"),
            params, KEY, image()[None], octaves=1, steps=20,
        ).images,
    ),
    "invert": (
        "invert images/cat.png --layer relu_0 --size 16 --steps 20",
        "cat-relu_0-invert",
        lambda net, params: jaxviz.invert(
            net, params, KEY, jaxviz.load_image("images/cat.png", size=16)[None], layer="relu_0", steps=20
        ).images,
    ),
    "texture": (
        "texture images/cat.png --layers relu_0 relu_1 --size 16 --steps 10",
        "cat-texture",
        lambda net, params: jaxviz.texture(net, params, KEY, image(), layers=STYLE_LAYERS, size=16, steps=10).images,
    ),
    "efros-leung": (
        "texture images/cat.png --method efros-leung --size 26 --window 5",
        "cat-texture",
        lambda net, params: jaxviz.efros_leung(KEY, image(), size=26, window=5)[None],
    ),
    "style": (
        "style images/cat.png images/cup.png --content-layers relu_1 --style-layers relu_0 relu_1 --steps 10"
        " --masks images/cup.png --colors match --style-weights 5",
        "cat-cup-style",
        lambda net, params: jaxviz.stylize(
            net, params, KEY, image(), [image("cup")], content_layers=["relu_1"], style_layers=STYLE_LAYERS, steps=10,
            masks=[image("cup").mean(-1)], colors="match", style_weights=5.0,
        ).images,
    ),
}  # fmt: skip


def read(name):
    with np.load(f"out/{name}.npz") as kept:
        return {key: kept[key] for key in kept}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_verb_makes_what_its_function_makes(case, capsys):
    line, name, expected = CASES[case]
    cli.main(line.split())
    said = capsys.readouterr().out
    assert f"{name}.png: loss " in said
    images = expected(*stand_in())
    numbers = read(name)
    np.testing.assert_allclose(numbers["images"], images, atol=1e-5)
    assert bool(numbers["finished"])
    picture = images[0] if len(images) == 1 else jaxviz.montage(images)
    np.testing.assert_allclose(jaxviz.load_image(f"out/{name}.png"), picture, atol=0.5 / 255 + 1e-5)
    cli.main(line.split())
    assert "done before" in capsys.readouterr().out


def test_every_verb_is_tested():
    assert {line.split()[0] for line, *_ in CASES.values()} == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_the_options(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    named = {field.name for field in dataclasses.fields(cli.VERBS[verb].load())} - {"images", "content", "styles"}
    for option in named:
        assert f"--{option.replace('_', '-')}" in shown
    if "model" in named:
        assert "A network that `jaxviz weights list` shows" in " ".join(shown.replace("│", " ").split())
    if "resume" in named:
        assert "Go on with a run that was stopped, by Ctrl-C or otherwise" in " ".join(shown.replace("│", " ").split())


# Stopping and going on


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("ascend a class", "efros-leung")])
def test_a_stopped_run_goes_on_and_ends_as_an_undisturbed_one(case, stop_at, capsys):
    line, name, _ = CASES[case]
    cli.main([*line.split(), "--out", "whole"])
    stop_at(2 if case == "sheet" else 1)  # the first look is in the middle of its first batch
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 130
    half = read(name)
    assert not half["finished"]
    unit = "channel" if case == "sheet" else "step"
    assert f"Stopped after {unit} {len(half['losses'])}" in capsys.readouterr().out
    assert Path(f"out/{name}.png").exists()
    stop_at(0)
    cli.main([*line.split(), "--resume"])
    with np.load(f"whole/{name}.npz") as whole:
        for key in ("images", "losses", "finished"):
            np.testing.assert_array_equal(read(name)[key], whole[key])
    assert len(half["losses"]) < len(read(name)["losses"])


@pytest.mark.slow
def test_another_run_is_not_gone_on_with(stop_at, capsys):
    line, name, _ = CASES["invert"]
    stop_at(1)
    with pytest.raises(SystemExit):
        cli.main(line.split())
    before = Path(f"out/{name}.npz").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        cli.main([*line.split(), "--resume", "--seed", "1", "--smoothness", "0.7"])
    assert stopped.value.code == 1
    assert f"out/{name}.npz is of a run with another seed, smoothness: give the same" in capsys.readouterr().err
    assert Path(f"out/{name}.npz").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name in CASES if name not in ("efros-leung", "ascend a class")])
def test_another_network_under_the_same_name_is_another_run(case, stop_at, capsys, monkeypatch):
    """As after `jaxviz weights import`; what was stopped is not resumed with it either."""
    line, name, _ = CASES[case]
    line = re.sub(r"--steps \d+", "--steps 2", line).replace("--octaves 2", "--octaves 1").split()
    cli.main(line)
    net, params = stand_in()
    other = jaxviz.Network(lambda params, images: net(params, 2 * images - 1), params, size=224)
    monkeypatch.setattr(jaxviz, "load", lambda name: other)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main([*line, "--resume"])
    assert f"{name}.npz is of a run with another network: " in capsys.readouterr().err
    cli.main(line)
    assert "done before" not in capsys.readouterr().out
    cli.main(line)
    assert "done before" in capsys.readouterr().out


def test_what_an_earlier_version_saved_is_not_resumed(capsys):
    line, name, _ = CASES["invert"]
    cli.main(line.replace("--steps 20", "--steps 2").split())
    with np.load(f"out/{name}.npz") as kept:
        numbers = dict(kept)
    settings = json.loads(str(numbers["settings"]))
    del settings["network"]
    np.savez(f"out/{name}.npz", **numbers | {"settings": json.dumps(settings, sort_keys=True)})
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main([*line.replace("--steps 20", "--steps 2").split(), "--resume"])
    assert "was saved by an earlier version of jaxviz, which did not keep what network it is" in capsys.readouterr().err


def test_nothing_to_resume_is_a_new_run(capsys):
    cli.main([*CASES["invert"][0].split(), "--resume"])
    assert "after 20 steps" in capsys.readouterr().out


def test_pictures_on_the_way():
    line, name, _ = CASES["invert"]
    cli.main([*line.split(), "--every", "5", "--snapshots"])
    assert sorted(path.name for path in Path("out").glob("*-0*.png")) == [
        f"{name}-{step:05d}.png" for step in (5, 10, 15, 20)
    ]
    last, first = (jaxviz.load_image(f"out/{name}-{step}.png") for step in ("00020", "00005"))
    np.testing.assert_array_equal(last, jaxviz.load_image(f"out/{name}.png"))
    assert jnp.any(first != last)


def test_a_broken_file_of_numbers_is_no_obstacle(capsys):
    Path("out").mkdir()
    Path("out/cat-relu_0-invert.npz").write_bytes(b"PK\x03\x04 cut short")
    cli.main([*CASES["invert"][0].split(), "--resume"])
    assert "after 20 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_diverges_keeps_the_image_before(monkeypatch, capsys):
    def load(name):
        net, params = stand_in(name)
        return jaxviz.Network(net, params | {"w1": params["w1"] * 1e18, "w2": params["w2"] * 1e18})

    monkeypatch.setattr(jaxviz, "load", load)
    with pytest.raises(SystemExit) as stopped:
        cli.main("dream images/cat.png --layer relu_1 --octaves 1".split())
    assert stopped.value.code == 1
    assert (
        "at step 0; a smaller learning rate may help; out/cat-dream.png is the image before" in capsys.readouterr().err
    )
    np.testing.assert_allclose(jaxviz.load_image("out/cat-dream.png"), image(), atol=1e-3)


SCRIPT = """
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background, it is ignored
    sys.path[:0] = TESTS
    import jaxviz
    from jaxviz import cli
    from nets import stand_in

    jaxviz.load, cli._compile_cache = stand_in, lambda: None
    cli.main(["invert", "images/cat.png", "--layer", "relu_0", "--size", "16", "--steps", "1000000", "--every", "8"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_keeps_the_image_so_far():
    tests = [str(Path(__file__).parents[1]), str(Path(jaxviz.__file__).parents[1])]
    script = textwrap.dedent(SCRIPT).replace("TESTS", repr(tests))
    started = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    saved = Path("out/cat-relu_0-invert.npz")
    try:
        for _ in range(600):
            if saved.exists() or started.poll() is not None:
                break
            time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=60)
    finally:
        started.kill()
        started.wait()
    assert started.returncode == 130, err
    assert "The same command with --resume continues from there." in out
    assert "Stopping; Ctrl-C again ends at once" in err
    numbers = read("cat-relu_0-invert")
    assert int(numbers["states"]) > 0
    assert f"Stopped after step {len(numbers['losses'])}" in out


# Verbs with more to them


@pytest.mark.slow
def test_a_zoom_goes_on_after_its_last_frame(stop_at, capsys):
    line = "dream images/cat.png --layer relu_1 --octaves 1 --steps 2 --zoom 3"
    cli.main([*line.split(), "--out", "whole"])
    stop_at(2)
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 130
    assert "Stopped after frame 2 of 3" in capsys.readouterr().out
    assert not Path("out/cat-dream-0002.png").exists()
    stop_at(0)
    cli.main(line.split())
    for i in range(3):
        name = f"cat-dream-{i:04d}.png"
        assert Path(f"out/{name}").read_bytes() == Path(f"whole/{name}").read_bytes()
    assert jnp.any(jaxviz.load_image("out/cat-dream-0000.png") != jaxviz.load_image("out/cat-dream-0002.png"))
    cli.main([*line.replace("--zoom 3", "--zoom 1").split(), "--seed", "1"])  # another zoom, of which no other frame is
    assert [path.name for path in Path("out").glob("cat-dream-*.png")] == ["cat-dream-0000.png"]


@pytest.mark.slow
def test_a_zoom_becomes_a_video(capsys):
    av = pytest.importorskip("av")
    line = "dream images/cat.png --layer relu_1 --octaves 1 --steps 2 --zoom 3 --fps 15"
    cli.main(line.split())
    assert "out/cat-dream.mp4" in capsys.readouterr().out
    with av.open("out/cat-dream.mp4") as file:
        frames = [frame.to_ndarray(format="rgb24") / 255 for frame in file.decode(video=0)]
    assert len(frames) == 3
    for i, frame in enumerate(frames):
        assert np.abs(frame - jaxviz.load_image(f"out/cat-dream-{i:04d}.png")).mean() < 0.05


@pytest.mark.slow
def test_the_two_textures_do_not_vouch_for_each_other(capsys):
    line, name, _ = CASES["texture"]
    cli.main(line.split())
    first = jaxviz.load_image(f"out/{name}.png")
    cli.main(CASES["efros-leung"][0].split())
    assert jaxviz.load_image(f"out/{name}.png").shape != first.shape
    cli.main(line.split())
    np.testing.assert_array_equal(jaxviz.load_image(f"out/{name}.png"), first)
    assert "done before" not in capsys.readouterr().out


@pytest.mark.slow
def test_another_start_of_the_same_name_is_another_run(capsys):
    line = (
        "style images/cat.png images/cup.png --content-layers relu_1 --style-layers relu_0 --steps 4 --start first.png"
    )
    Path("first.png").write_bytes(Path("images/cat.png").read_bytes())
    cli.main(line.split())
    Path("first.png").write_bytes(Path("images/cup.png").read_bytes())
    cli.main(line.split())
    assert "done before" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("option", ["sweep", "sweep-size"])
def test_a_sweep_is_a_row(option):
    line = "style images/cat.png images/cup.png --content-layers relu_1 --style-layers relu_0 --steps 10"
    cli.main([*line.split(), f"--{option}", "0.5", "50"])
    row = [jaxviz.load_image(f"out/cat-cup-style-{value}.png") for value in ("0.5", "50")]
    assert jnp.any(row[0] != row[1])
    np.testing.assert_array_equal(jaxviz.load_image("out/cat-cup-style-sweep.png"), jaxviz.montage(row, columns=2))


def test_a_folder(capsys):
    Path("images/broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stopped:
        cli.main("invert images --layer relu_0 --size 16 --steps 8".split())
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert "1 of 3 files failed, see above" in said.err
    assert "out/cat-relu_0-invert.png" in said.out
    assert "out/cup-relu_0-invert.png" in said.out


@pytest.mark.slow
def test_many_targets_make_a_short_name():
    cli.main(f"ascend --layer relu_1 --size 8 --steps 2 --target {' '.join(['1', '2'] * 40)}".split())
    (name,) = (path.name for path in Path("out").glob("*.png"))
    assert name.startswith("relu_1-1-2-1-2")
    assert name.endswith("-ascend.png")
    assert len(name) < 150


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ascend --layer relu_1 --target 1 --size 0", "size: expected an int or (height, width), of at least 1 pixel"),
        ("ascend --layer relu_1 --target 1 --out images/cat.png/x", "images/cat.png is a file"),
        ("ascend --layer relu_1 --target nose", "--target: expected numbers of channels of relu_1, got nose"),
        ("ascend", "--target: expected a class, or several, by name or number"),
        (
            "ascend --model headless",
            "headless has no classes: choose another --model, or say which --layer to maximize",
        ),
        ("ascend --layer relu_1 --target 6", "channel of 'relu_1': expected 0 to 5, or -6 to -1 from the end, got [6]"),
        ("dream images/cat.png --layer relu_1 --target 99", "channel of 'relu_1': expected 0 to 5, or -6 to -1"),
        ("dream images/cat.png --layer relu_1 --fps 15", "--fps: expected a number of frames as well, --zoom"),
        ("dream images/cat.png --layer relu_1 --zoom 2 --fps -1", "--fps: expected a finite number above 0, got -1"),
        ("dream images/cat.png --layer relu_1 --zoom -1", "--zoom: expected a number of frames, got -1"),
        ("sheet --layer relu_1 --batch-size 0", "batch_size: expected 1 or more, got 0"),
        ("invert images/cat.png --layer relu_0 --size 8 --steps 2 --out images/cat.png", "images/cat.png"),
        (
            "style images/cat.png images/cup.png --style-masks images/cup.png images/cat.png",
            "--style-masks: expected one for each of 1 styles, got 2",
        ),
        ("ascend --target tabby --recipe nobody", "recipe: expected one of simonyan"),
        ("ascend --target 3 --recipe cs231n --steps 7", "--steps: expected none beside --recipe cs231n, which would"),
        ("ascend --target 3 --recipe cs231n --learning-rate 0.3", "--learning-rate: expected none beside --recipe"),
        ("texture images/cat.png --method efros-leung --steps 7", "--steps: expected none beside --method efros-leung"),
        ("texture images/cat.png --window 3", "--window: expected none beside --method gatys, which would ignore it"),
        ("sheet --layer relu_7", "no layer 'relu_7'"),
        ("dream images/none.png", "images/none.png: expected an image file or a folder of them"),
        ("dream images/cat.png --layer relu_1 --target 1 --guide images/cup.png", "--guide and --target: expected one"),
        ("invert images/cat.png --layer relu_0 --every 0", "--every: expected 1 step or more, got 0"),
        ("texture images/cat.png --layers nope", "'nope'"),
        ("style images/cat.png images/cup.png --sweep 1 --sweep-size 2", "--sweep and --sweep-size: expected one"),
        (
            "style images/cat.png images/cup.png --content-layers relu_1 --style-layers relu_0 --style-weights 1 2",
            "style_weights: expected one, or one for each of 1",
        ),
    ],
)
def test_errors_in_one_line(line, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert json.dumps(sorted(path.name for path in Path().glob("out/*.npz"))) == "[]"
