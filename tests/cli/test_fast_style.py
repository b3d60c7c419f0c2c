"""`jaxviz fast-style`: what it writes, that it goes on, and what it refuses in one line."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import stand_in
from skimage import data
from synthesis.fast_style.test_restyle import read_video, write_video

import jaxviz
from jaxviz import cli

TRAIN = "fast-style train images styles/night.png styles/waves.png --width 2 --size 16 --batch-size 2 --steps 6"


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """Work in a folder with two photographs, two styles and a net of two styles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(cli, "_compile_cache", lambda: None)  # leave this process's settings alone
    monkeypatch.setattr(jaxviz, "load", stand_in)
    original = jaxviz.train_style_net
    layers = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], "blocks": 1}
    monkeypatch.setattr(jaxviz, "train_style_net", lambda *args, **options: original(*args, **layers | options))
    for name, picture in (("images/cat", data.chelsea()), ("images/cup", data.coffee())):
        jaxviz.save_image(f"{name}.png", jaxviz.load_image(picture, size=24))
    for i, name in enumerate(("night", "waves", "sand")):
        jaxviz.save_image(f"styles/{name}.png", jax.random.uniform(jax.random.key(i), (12, 12, 3)))
    params = jaxviz.init_style_net(jax.random.key(3), width=2, blocks=1, styles=2)
    params["last"]["offset"] = jnp.array([[1.0, 0, 0], [0, 0, 1.0]])
    jaxviz.save_style_net("net.safetensors", params, ["night", "waves"])


@pytest.mark.slow
def test_a_training_leaves_a_net_samples_and_losses_and_goes_on(stop_at, capsys):
    cli.main([*TRAIN.split(), "--every", "2", "--out", "whole"])
    assert "whole/net.safetensors: night, waves; loss " in capsys.readouterr().out
    found = sorted(path.name for path in Path("whole").glob("*.*"))
    samples = [f"samples-{step:06d}.png" for step in (2, 4, 6)]
    assert found == ["losses.png", "net.safetensors", *samples, "settings.json"]
    # A row for each photograph, with it and the two styles.
    assert jaxviz.load_image("whole/samples-000006.png").shape == (2 * 16 + 2, 3 * 16 + 2 * 2, 3)
    assert jaxviz.load_image("whole/losses.png").shape == (480, 720, 3)
    stop_at(1)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*TRAIN.split(), "--every", "2", "--out", "parts"])
    assert stopped.value.code == 130
    assert "Stopped after step 2: parts. The same command continues from there." in capsys.readouterr().out
    stop_at(0)
    cli.main([*TRAIN.split(), "--every", "2", "--out", "parts"])
    for name in ("net.safetensors", *samples):
        assert Path(f"parts/{name}").read_bytes() == Path(f"whole/{name}").read_bytes()


@pytest.mark.slow
def test_a_style_is_added(capsys):
    line = "fast-style train images styles/sand.png --add-to net.safetensors --size 16 --batch-size 2 --steps 2"
    cli.main([*line.split(), "--samples", "images/cat.png"])
    assert "fast-style/net.safetensors: night, waves, sand; loss " in capsys.readouterr().out
    old, new = jaxviz.load_style_net("net.safetensors"), jaxviz.load_style_net("fast-style/net.safetensors")
    assert new.styles == ["night", "waves", "sand"]
    np.testing.assert_array_equal(new.params["first"]["kernel"], old.params["first"]["kernel"])
    np.testing.assert_array_equal(new.params["last"]["offset"][:2], old.params["last"]["offset"])


@pytest.mark.slow
def test_styles_are_learned_at_several_sizes(capsys):
    cli.main([*TRAIN.split(), "--steps", "4", "--style-size", "1", "2", "--steadiness", "10"])
    assert "net.safetensors: night@16, night@32, waves@16, waves@32; loss " in capsys.readouterr().out
    cli.main(["fast-style", "list", "fast-style/net.safetensors"])
    assert "night (16, 32 px), waves (16, 32 px)" in capsys.readouterr().out
    cli.main("fast-style apply images/cat.png --net fast-style/net.safetensors --mix night=1,waves=1".split())
    cli.main("fast-style apply images/cat.png --net fast-style/net.safetensors".split())
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "cat-night.png",
        "cat-night1-waves1.png",
        "cat-waves.png",
    ]
    net = jaxviz.load_style_net("fast-style/net.safetensors")
    expected = jaxviz.restyle(net, jaxviz.load_image("images/cat.png"), style="night")
    np.testing.assert_allclose(jaxviz.load_image("out/cat-night.png"), expected, atol=0.51 / 255)


@pytest.mark.slow
def test_apply_makes_every_style_of_every_image(capsys):
    cli.main("fast-style apply images --net net.safetensors".split())
    said = capsys.readouterr().out
    net = jaxviz.load_style_net("net.safetensors")
    for name in ("cat", "cup"):
        for i, style in enumerate(net.styles):
            assert f"out/{name}-{style}.png: 24x24 px in " in said
            expected = jaxviz.restyle(net.params, jaxviz.load_image(f"images/{name}.png"), style=i)
            np.testing.assert_allclose(jaxviz.load_image(f"out/{name}-{style}.png"), expected, atol=0.51 / 255)


def test_apply_a_mixture_to_a_smaller_size():
    cli.main("fast-style apply images/cat.png --net net.safetensors --mix night=3,waves=1 --size 20".split())
    net = jaxviz.load_style_net("net.safetensors")
    image = jaxviz.load_image("images/cat.png", longest=20)
    expected = jaxviz.restyle(net.params, image, style=np.array([0.75, 0.25], np.float32))
    np.testing.assert_allclose(jaxviz.load_image("out/cat-night3-waves1.png"), expected, atol=0.51 / 255)


@pytest.mark.slow
def test_apply_to_a_video(capsys):
    write_video("clip.mp4")
    cli.main("fast-style apply clip.mp4 --net net.safetensors --style waves".split())
    assert "out/clip-waves.mp4: 7 frames, " in capsys.readouterr().out
    frames, _ = read_video("out/clip-waves.mp4")
    net = jaxviz.load_style_net("net.safetensors")
    given = read_video("clip.mp4")[0][3][1]
    expected = jaxviz.restyle(net.params, given.astype(np.float32) / 255, style=1)
    assert np.abs(frames[3][1] / 255 - expected).mean() < 0.05


def test_a_broken_image_does_not_keep_the_others_from_being_made(capsys):
    Path("images/broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stopped:
        cli.main("fast-style apply images --net net.safetensors --style night".split())
    assert stopped.value.code == 1
    assert "1 of 3 files failed, see above" in capsys.readouterr().err
    assert {path.name for path in Path("out").iterdir()} == {"cat-night.png", "cup-night.png"}


def test_two_videos_of_one_name(capsys):
    for folder in ("first", "second"):
        Path(folder).mkdir()
        write_video(f"{folder}/clip.mp4")
    with pytest.raises(SystemExit):
        cli.main("fast-style apply first/clip.mp4 second/clip.mp4 --net net.safetensors --style night".split())
    assert "first/clip.mp4 and second/clip.mp4 have the same name" in capsys.readouterr().err


@pytest.mark.slow
def test_a_broken_photograph_comes_first_in_a_training(capsys):
    Path("images/a.png").write_bytes(b"no image")
    cli.main([*TRAIN.split(), "--steps", "1"])
    assert Path("fast-style/net.safetensors").exists()
    assert "images/a.png: expected an image file" in capsys.readouterr().err


def test_list(capsys):
    cli.main("fast-style list net.safetensors".split())
    shown = capsys.readouterr().out
    assert "night, waves" in shown
    assert "net.safetensors" in shown


def test_help_names_the_options(capsys):
    for verb, options in (("train", "add-to style-size cooldown samples"), ("apply", "style mix net size tile")):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["fast-style", verb, "--help"])
        assert stopped.value.code == 0
        shown = capsys.readouterr().out
        assert all(f"--{option}" in shown for option in options.split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "apply images --net net.safetensors --style day",
            "expected a style of this net (night, waves), got 'day'",
        ),
        (
            "apply images --net net.safetensors --mix night",
            "expected names and weights, such as mosaic=0.7,ink=0.3",
        ),
        ("apply images --net net.safetensors --mix night=0", "--mix: expected names and weights"),
        ("apply images --net net.safetensors --mix night=1 --style waves", "--style and --mix: expected only one"),
        ("apply images --net images/cat.png", "expected weights"),
        ("apply none.mp4 --net net.safetensors", "none.mp4: expected a video file, got none at this path"),
        ("apply none.png --net net.safetensors", "none.png: expected an image file or a folder"),
        ("train images styles/night.png --out images/new", "--out images/new: expected a folder outside of images"),
        ("train nowhere styles/night.png", "nowhere: expected a folder of images"),
        (
            "train images styles/night.png --add-to net.safetensors",
            "a different name for each style, got night, waves, night",
        ),
    ],
)
def test_errors_in_one_line(line, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fast-style", *line.split()])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not Path("out").exists()
    assert not Path("fast-style").exists()
