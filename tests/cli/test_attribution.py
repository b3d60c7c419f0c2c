"""The attribution verbs: what they write, what they do not make twice, and what they refuse in one line."""

import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net, stand_in
from skimage import data

import jaxviz
from jaxviz import cli
from jaxviz.cli import _explain

SIZE = 24

# The verbs whose functions return a gap, and what the command calls it.
GAPS = {"integrated-gradients": "completeness", "lrp": "conservation"}
# The function behind each verb, with options that keep it quick.
METHODS = {
    "saliency": (jaxviz.saliency, {}),
    "gradient": (jaxviz.gradient, {}),
    "input-x-gradient": (jaxviz.input_x_gradient, {}),
    "integrated-gradients": (jaxviz.integrated_gradients, {"steps": 3, "baseline": 0.25}),
    "smoothgrad": (jaxviz.smoothgrad, {"samples": 3, "noise": 0.3, "statistic": "squared"}),
    "guided": (jaxviz.guided_backprop, {}),
    "deconvnet": (jaxviz.deconvnet, {}),
    "lrp": (jaxviz.lrp, {"rule": "gamma", "gamma": 0.5}),
    "occlusion": (jaxviz.occlusion, {"window": 8, "stride": 4, "batch_size": 5}),
    "rise": (jaxviz.rise, {"masks": 20, "cells": 4}),
    "cam": (jaxviz.grad_cam, {"layer": "relu_0"}),
    "guided-cam": (jaxviz.guided_grad_cam, {"layer": "relu_0"}),
}


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """Work in a folder with three images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(cli, "_compile_cache", lambda: None)  # leave this process's settings alone
    for name, picture in (("cat", data.chelsea()), ("cup", data.coffee()), ("rocket", data.rocket())):
        jaxviz.save_image(f"images/{name}.png", jaxviz.load_image(picture, size=40))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(jaxviz, "load", stand_in)


def call(*args):
    cli.main([*args, "--size", str(SIZE)])


def as_arguments(options):
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def expected(verb, score, source="images/cat.png", seed=0):
    """Return an image as the command reads it and the map that the public function makes of it."""
    method, options = METHODS[verb]
    image = jaxviz.load_image(source, size=SIZE)
    key = [jax.random.key(seed)] if "key" in inspect.signature(method).parameters else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "integrated_gradients: with")  # three steps are few
        result = method(score, stand_in()[1], *key, image[None], **options)
    return image, (result.maps if verb in GAPS else result)[0]


def read(verb, name="cat", out="out"):
    with np.load(f"{out}/{name}-{verb}.npz") as kept:
        return kept["map"], str(kept["explained"]), json.loads(str(kept["settings"]))


def test_every_verb_is_tested():
    assert set(METHODS) == {verb for verb, entry in cli.VERBS.items() if entry.module == "_attribution"}


@pytest.mark.parametrize("verb", METHODS)
def test_help_names_the_options(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    parameters = inspect.signature(METHODS[verb][0]).parameters
    own = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY} - {"batch_size"}
    for option in {"model", "layer", "target", "out", "size"} | own:
        assert f"--{option}" in shown
    # What would do nothing is not offered.
    assert ("--seed" in shown) == ("key" in parameters)
    assert ("--position" in shown) == ("layer" not in parameters)
    assert ("--batch-size" in shown) == (verb in ("occlusion", "rise", "smoothgrad", "integrated-gradients"))


def test_help_says_what_the_function_says(capsys):
    with pytest.raises(SystemExit):
        cli.main(["occlusion", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Mark each pixel by how much the score drops" in shown
    assert "From one window to the next, in pixels, at most `window`. (default: 8)" in shown
    assert "Written as 0.5, as R,G,B" in shown


@pytest.mark.slow
@pytest.mark.parametrize("verb", METHODS)
def test_pictures_and_numbers_are_the_functions(verb, small, capsys):
    options = METHODS[verb][1]
    call(verb, "images/cat.png", "--target", "tabby", *as_arguments(options))
    score = (jaxviz.probability if verb in ("occlusion", "rise") else jaxviz.logit)(small_net, 281)
    image, wanted = expected(verb, score)
    map, explained, settings = read(verb)
    np.testing.assert_allclose(map, wanted, rtol=1e-4, atol=1e-5 * float(jnp.abs(wanted).max()))
    chance = jax.nn.softmax(small_net(stand_in()[1], image[None]))[0, 281]
    assert explained == f"tabby, tabby cat ({chance:.1%})"
    said = capsys.readouterr().out
    assert said.startswith(f"images/cat.png: {explained}, ")
    assert said.endswith(f"out/cat-{verb}.png\n")
    assert [gap for gap in GAPS.values() if f"{gap} gap" in said] == ([GAPS[verb]] if verb in GAPS else [])

    fine = verb not in ("occlusion", "rise", "cam")
    shown = jnp.asarray(map)
    for ending, drawn in (("", jaxviz.draw(shown, over=image, fine=fine)), ("-map", jaxviz.draw(shown, fine=fine))):
        np.testing.assert_allclose(jaxviz.load_image(f"out/cat-{verb}{ending}.png"), jnp.clip(drawn, 0, 1), atol=0.003)

    recorded = {"verb": verb, "model": "efficientnet_lite0", "target": "tabby", "position": None, "size": SIZE}
    recorded |= {name: str(value) if name == "baseline" else value for name, value in options.items()}
    assert recorded.items() <= settings.items()
    assert settings["seed"] == (0 if verb in ("rise", "smoothgrad") else None)
    assert len(settings["image_sha256"]) == 64


@pytest.mark.slow
def test_a_class_by_name_by_number_and_by_rank(small):
    net, params = stand_in()
    first = int(net(params, jaxviz.load_image("images/cat.png", size=SIZE)[None]).argmax())
    asked = {"name": ["--target", "Tabby"], "number": ["--target", "281"], "first": []}
    asked["first's number"] = ["--target", str(first)]
    for out, target in asked.items():
        call("saliency", "images/cat.png", *target, "--out", out)
    maps = {out: read("saliency", out=out)[:2] for out in asked}
    for one, other in (("name", "number"), ("first", "first's number")):
        np.testing.assert_array_equal(maps[one][0], maps[other][0])
        assert maps[one][1] == maps[other][1]
    assert not np.array_equal(maps["name"][0], maps["first"][0])


@pytest.mark.parametrize(
    ("arguments", "score", "explained"),
    [
        (["--layer", "relu_0"], jaxviz.energy(small_net, "relu_0"), "relu_0"),
        (["--layer", "relu_0", "--target", "3"], jaxviz.channel(small_net, "relu_0", 3), "channel 3 of relu_0"),
        (
            ["--layer", "relu_0", "--target", "3", "--position", "7", "2"],
            jaxviz.neuron(small_net, "relu_0", 3, (7, 2)),
            "channel 3 of relu_0 at (7, 2)",
        ),
    ],
)
@pytest.mark.slow
def test_layers_channels_and_neurons(arguments, score, explained, small):
    call("saliency", "images/cat.png", *arguments)
    map, told, _ = read("saliency")
    assert told == explained
    np.testing.assert_allclose(map, expected("saliency", score)[1], rtol=1e-4, atol=1e-7)


def test_a_headless_network_has_channels(small):
    call("saliency", "images/cat.png", "--model", "headless", "--layer", "relu_0", "--target", "3")
    assert read("saliency")[1] == "channel 3 of relu_0"


def test_cam_takes_the_last_maps_by_default(small):
    call("cam", "images/cat.png")
    call("cam", "images/cat.png", "--layer", "relu_1", "--out", "named")
    assert read("cam")[2]["layer"] == "relu_1"
    np.testing.assert_array_equal(read("cam")[0], read("cam", out="named")[0])


@pytest.mark.slow
def test_fills(small):
    image = jaxviz.load_image("images/cat.png", size=SIZE)
    cup = jaxviz.load_image("images/cup.png", size=SIZE)
    score = jaxviz.probability(small_net, 281)
    for text, fill in (("0", 0.0), ("1,0,0", (1.0, 0.0, 0.0)), ("blur", "blur"), ("images/cup.png", cup)):
        call("occlusion", "images/cat.png", "--target", "281", "--window", "8", "--fill", text)
        map, _, settings = read("occlusion")
        wanted = jaxviz.occlusion(score, stand_in()[1], image[None], window=8, fill=fill)[0]
        np.testing.assert_allclose(map, wanted, rtol=1e-3, atol=1e-8)
        assert settings["fill"] == text
        assert ("fill_sha256" in settings) == (text == "images/cup.png")


@pytest.mark.slow
def test_what_is_done_is_not_made_again(small, capsys, tmp_path):
    def makes(*args):
        """Tell whether the command computes, by what it says and by the file's time of writing."""
        numbers = tmp_path / "out" / "cat-smoothgrad.npz"
        before = numbers.stat().st_mtime_ns if numbers.exists() else 0
        call("smoothgrad", "images/cat.png", "--samples", "2", *args)
        rewritten = numbers.stat().st_mtime_ns > before
        assert ("done before" in capsys.readouterr().out) == (not rewritten)
        return rewritten

    assert makes()
    assert not makes()
    for other in (["--target", "3"], ["--seed", "1"], ["--noise", "0.2"], []):
        assert makes(*other)

    for damage in (
        lambda out: (out / "cat-smoothgrad.png").unlink(),
        lambda out: (out / "cat-smoothgrad-map.png").unlink(),
        lambda out: (out / "cat-smoothgrad.npz").write_bytes(b"PK\3\4 of nothing"),
        lambda out: jaxviz.save_image(out / "../images/cat.png", jaxviz.load_image("images/cup.png")),
    ):
        damage(tmp_path / "out")
        assert makes()
        assert not makes()


@pytest.mark.slow
def test_another_network_under_the_same_name_is_another_setting(small, capsys, monkeypatch):
    """As after `jaxviz weights import`: other weights, or a network that computes something else with the same ones."""
    net, params = stand_in()
    networks = {
        "other weights": (net, params | {"b1": params["b1"] + 1}),
        "a normalization": (lambda params, images: net(params, 2 * images - 1), params),
        "another gradient": (lambda params, images: net(params, reversed_gradient(images)), params),
    }
    call("saliency", "images/cat.png")
    for network in networks.values():
        loaded = jaxviz.Network(*network, size=224)
        monkeypatch.setattr(jaxviz, "load", lambda name, loaded=loaded: loaded)
        capsys.readouterr()
        call("saliency", "images/cat.png", "--target", "3")
        call("gradient", "images/cat.png", "--target", "3")
        assert "done before" not in capsys.readouterr().out
        image = jaxviz.load_image("images/cat.png", size=SIZE)[None]
        expected = jaxviz.gradient(jaxviz.logit(network[0], 3), network[1], image)[0]
        np.testing.assert_allclose(read("gradient")[0], expected, rtol=1e-4, atol=1e-6)
        call("gradient", "images/cat.png", "--target", "3")
        assert "done before" in capsys.readouterr().out


@jax.custom_vjp
def reversed_gradient(images):
    return images * 1


reversed_gradient.defvjp(lambda images: (images * 1, None), lambda _, g: (-g,))


def test_a_changed_fill_file_is_another_setting(small, capsys):
    arguments = ["occlusion", "images/cat.png", "--window", "12", "--stride", "12", "--fill", "images/cup.png"]
    call(*arguments)
    jaxviz.save_image("images/cup.png", jnp.zeros((40, 40)))
    call(*arguments)
    assert "done before" not in capsys.readouterr().out


def test_folders_and_several_images(small, capsys, tmp_path):
    (tmp_path / "images" / "notes.txt").touch()
    (tmp_path / "images" / "._cat.png").touch()  # what macOS leaves on other disks
    jaxviz.save_image("one.jpg", jnp.ones((40, 40)))
    call("saliency", "one.jpg", "images", "images/cat.png")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["one.jpg", *(f"images/{n}.png" for n in ("cat", "cup", "rocket"))]
    names = {
        f"{name}-saliency{end}" for name in ("one", "cat", "cup", "rocket") for end in (".png", "-map.png", ".npz")
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    np.testing.assert_allclose(
        read("saliency", "rocket")[0],
        expected("saliency", jaxviz.logit(small_net), "images/rocket.png")[1],
        rtol=1e-4,
        atol=1e-6,
    )


def error_of(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        call(*args)
    assert stopped.value.code == 1
    return capsys.readouterr().err.splitlines()


def test_a_broken_image_does_not_keep_the_others(small, capsys, tmp_path):
    broken = tmp_path / "images" / "broken.png"
    broken.write_bytes((tmp_path / "images" / "cat.png").read_bytes()[:500])
    first, last = error_of(capsys, "saliency", "images")
    assert first.startswith("jaxviz: images/broken.png: expected a complete image")
    assert last == "jaxviz: 1 of 4 images could not be explained, see above; the others are in out"
    assert len(list((tmp_path / "out").glob("*.npz"))) == 3
    assert not list((tmp_path / "out").glob("broken*"))


CAT = "images/cat.png"
ERRORS = [
    (["saliency"], "expected the name of an image or a folder, got nothing"),
    (["saliency", "none.png", "no.png"], "none.png: expected an image file or a folder of them, got a path that"),
    (["saliency", "empty"], "empty: expected a folder with images (.jpg, "),
    (["saliency", "empty/notes"], "empty/notes: expected an image file, got 8 bytes that begin with b'no image'"),
    (["saliency", "images", "more/cat.png"], "images/cat.png and more/cat.png have the same name"),
    (
        ["saliency", "images", "--out", "more/../images"],
        "--out more/../images: expected a folder outside of",
    ),
    (["saliency", CAT, "--target", "tabi"], "expected the name or index of an ImageNet class, got 'tabi'; similar: "),
    (["saliency", CAT, "--target", "crane"], "got 'crane', which may be 134 'crane (bird)'; 517 'crane (machine)'"),
    (["saliency", CAT, "--target", "1000"], "expected the index of an ImageNet class, 0 to 999, got 1000"),
    (["saliency", CAT, "--layer", "relu_7"], "no layer 'relu_7'"),
    (["cam", CAT, "--layer", "relu_7"], "no layer 'relu_7'"),
    (
        ["cam", CAT, "--layer", "dense_0"],
        "needs a layer of image maps (n, h, w, channels), or of tokens (n, t, channels) of known places; 'dense_0' has",
    ),
    (["saliency", CAT, "--layer", "relu_0", "--target", "8"], "channel of 'relu_0': expected 0 to 7, or -8 to -1"),
    (
        ["saliency", CAT, "--layer", "relu_0", "--target", "tabby"],
        "expected the number of a channel of relu_0",
    ),
    (
        ["saliency", CAT, "--layer", "relu_0", "--target", "3", "--position", "24", "0"],
        "row of 'relu_0': expected 0 to 23, or -24 to -1",
    ),
    (["saliency", CAT, "--position", "2", "2"], "--position: expected together with --layer and --target"),
    (["saliency", CAT, "--layer", "relu_0", "--position", "2", "2"], "--position: expected together with --target"),
    (["saliency", CAT, "--model", "headless"], "headless has no classes: say which --layer to explain"),
    (["cam", CAT, "--model", "headless", "--layer", "relu_0"], "headless has no classes: choose another --model"),
    (["cam", CAT, "--model", "flat"], "no layer of image maps"),
    (["guided", CAT, "--model", "flat"], "no ReLU"),
    (["occlusion", CAT, "--window", "25"], "window: expected at most the images' size, 24x24, got 25x25"),
    (["occlusion", CAT, "--window", "4"], "stride: expected at most the window's size, 4x4, got 8x8"),
    (["occlusion", CAT, "--fill", "127"], "--fill: expected a brightness in [0, 1], three as R,G,B, the name of an"),
    (["occlusion", CAT, "--fill", "1,0"], "or blur, got '1,0'"),
    (["occlusion", CAT, "--fill", "none.png"], "or blur, got 'none.png'"),
    (["integrated-gradients", CAT, "--baseline", "nan"], "--baseline: expected a brightness in [0, 1]"),
    (["smoothgrad", CAT, "--samples", "0"], "samples: expected a whole number of at least 1, got 0"),
    (["rise", CAT, "--keep", "2"], "keep: expected a probability in (0, 1], got 2.0"),
]


@pytest.mark.parametrize(("args", "message"), ERRORS)
def test_errors_are_one_line_and_write_nothing(args, message, small, capsys, tmp_path, users_view):
    for folder in ("empty", "more"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty" / "notes").write_text("no image")
    (tmp_path / "more" / "cat.png").touch()
    before = sorted(tmp_path.rglob("*"))
    (line,) = error_of(capsys, *args)
    assert line.startswith("jaxviz: ")
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_network(capsys, tmp_path):
    (line,) = error_of(capsys, "saliency", CAT, "--model", "vgg")
    assert "expected the name of a pretrained network, got 'vgg' (did you mean 'vgg19'?)" in line
    assert not (tmp_path / "out").exists()


def test_results_that_cannot_be_written(small, capsys, tmp_path):
    (tmp_path / "taken").touch()
    (line,) = error_of(capsys, "saliency", CAT, "--out", "taken")
    assert "--out taken: expected a folder for the results, but taken is a file" in line


def test_pictures_of_other_settings_do_not_pass_for_done(small, capsys, monkeypatch):
    def fail(path, data):
        raise OSError(28, f"{path}: expected a writable file, got No space left on device")

    call("saliency", CAT, "--target", "3")
    with monkeypatch.context() as context:
        context.setattr(_explain, "write_atomically", fail)  # which the pictures do not go through
        (line,) = error_of(capsys, "saliency", CAT, "--target", "4")
    assert "got No space left on device" in line
    call("saliency", CAT, "--target", "3")
    assert "done before" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="elsewhere a process cannot be sent Ctrl-C alone")
def test_ctrl_c_and_the_same_command_again(small, capsys, tmp_path):
    command = ["rise", "images", "--masks", "5000", "--size", str(SIZE)]
    program = f"""
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test that runs in the background has it ignored
        sys.path[:0] = {[os.path.dirname(os.path.dirname(__file__))]}
        import jaxviz
        from nets import stand_in
        from jaxviz import cli
        jaxviz.load, cli._compile_cache = stand_in, lambda: None
        cli.main({command})
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], **pipes) as process:
        first = process.stdout.readline()
        assert first.startswith("images/cat.png: "), process.stderr.read()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in errors
    assert "images/rocket.png" not in rest
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"cat-rise.png", "cat-rise-map.png", "cat-rise.npz"} <= kept
    assert "rocket-rise.npz" not in kept

    handler = signal.getsignal(signal.SIGINT)
    cli.main(command)
    assert signal.getsignal(signal.SIGINT) is handler
    cat, _, rocket = capsys.readouterr().out.splitlines()
    assert cat == "images/cat.png: done before"
    assert "done before" not in rocket


@pytest.mark.slow
@pytest.mark.weights
def test_a_pretrained_network_and_the_class_that_it_ranks_first(capsys):
    jaxviz.save_image("coffee.png", jaxviz.load_image(data.coffee()))
    cli.main(["saliency", "coffee.png", "--size", "96"])
    map, explained, _ = read("saliency", "coffee")
    assert explained.startswith("coffeepot (")  # what the network takes this cup for, seen so small
    net, params = jaxviz.load("efficientnet_lite0")
    wanted = jaxviz.saliency(jaxviz.logit(net), params, jaxviz.load_image("coffee.png", size=96)[None])[0]
    np.testing.assert_allclose(map, wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()))
