"""`--model FILE.py:FUNCTION`: networks of the user's own, in every verb."""

import json
import re
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from skimage import data

import jaxviz
from jaxviz import cli
from jaxviz.cli import _models
from jaxviz.cli._own_models import own_network

# Networks are written here as users write them.
pytestmark = pytest.mark.usefixtures("users_promotions")

FILE = """
import jax
import jax.numpy as jnp
import numpy as np
import jaxviz

random = np.random.default_rng(SEED)
params = {
    "w1": jnp.asarray(0.5 * random.normal(size=(3, 3, CHANNELS, 6)), jnp.float32),
    "w2": jnp.asarray(random.normal(size=(6, 3)), jnp.float32),
}


def net(params, images):
    x = jax.lax.conv_general_dilated(images, params["w1"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(x).mean((1, 2)) @ params["w2"]


def pair():
    return net, params


def load():
    return jaxviz.Network(net, params, size=20, mean=0.5, std=0.25, classes=["cat", "dog", "cup"], channels=CHANNELS)


class Zoo:
    load = staticmethod(load)
"""


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """Work in a folder with a network and two images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(cli, "_compile_cache", lambda: None)  # leave this process's settings alone
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    write()
    for name, picture in (("cat", data.chelsea()), ("cup", data.coffee()), ("x", data.rocket())):
        jaxviz.save_image(f"images/{name}.png", jaxviz.load_image(picture, size=24))
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("jaxviz_model_", "my", "beside", "zoo")):
            del sys.modules[name]


def write(name="my.py", text=FILE, *, seed=0, channels=3):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text.replace("SEED", str(seed)).replace("CHANNELS", str(channels)))


def explained(path="out/cat-saliency.npz"):
    with np.load(path) as kept:
        return kept["map"], str(kept["explained"]), json.loads(str(kept["settings"]))


@pytest.mark.parametrize("name", ["my.py:load", "./my.py:load", "my:load", "zoo.nets:load", "my.py:Zoo.load"])
def test_forms(name):
    write("zoo/nets.py")
    network = own_network(name)
    assert (network.size, network.classes) == (20, ("cat", "dog", "cup"))


def test_a_file_imports_what_is_beside_it():
    write("there/beside_it.py")
    write("there/my.py", "from beside_it import load")
    assert own_network("there/my.py:load").size == 20


def test_a_map_is_the_functions(capsys):
    cli.main("saliency images/cat.png --model my.py:load --target dog".split())
    map, told, settings = explained()
    network = own_network("my.py:load")
    image = jaxviz.load_image("images/cat.png", size=20)
    expected = jaxviz.saliency(jaxviz.logit(network.net, 1), network.params, image[None])[0]
    np.testing.assert_allclose(map, expected, rtol=1e-5)
    chance = jax.nn.softmax(network.net(network.params, image[None]))[0, 1]
    assert told == f"dog ({chance:.1%})"
    assert settings["size"] == 20
    assert "out/cat-saliency.png" in capsys.readouterr().out


def test_the_size_that_is_asked_for_comes_first_and_224_last():
    assert _models.load_model("my.py:load", 16).size == 16
    assert _models.load_model("my.py:load").size == 20
    assert _models.load_model("my.py:pair").size == 224


@pytest.mark.slow
def test_classes_without_names_have_numbers(capsys):
    cli.main("saliency images/cat.png --model my.py:pair --size 16 --target -1".split())
    assert "class 2 (" in capsys.readouterr().out
    for target, message in (
        ("dog", "--target: expected the number of a class, 0 to 2, got 'dog': my.py:pair names no classes, as jaxviz."),
        ("3", "--target: expected the number of a class, 0 to 2, got 3"),
    ):
        assert message in refused(capsys, f"saliency images/cat.png --model my.py:pair --size 16 --target {target}")


def refused(capsys, line):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 1
    return capsys.readouterr().err


VERBS = {
    "gradient": "images/cat.png",
    "occlusion": "images/cat.png --window 8 --target dog",
    "lrp": "images/cat.png",
    "cam": "images/cat.png --target cup",
    "ascend": "--target cup --steps 2",
    "sheet": "--layer relu_0 --target 1 --steps 2",
    "dream": "images/cat.png --layer relu_0 --octaves 1 --steps 2",
    "invert": "images/cat.png --layer relu_0 --steps 2",
    "texture": "images/cat.png --layers relu_0 --steps 2",
    "style": "images/cat.png images/cup.png --content-layers relu_0 --style-layers relu_0 --steps 2",
    "features": "images --layer relu_0",
    "neighbors": "images --layer relu_0",
    "embed": "images --layer relu_0",
    "patches": "images --layer relu_0",
}


def test_every_verb_with_a_network_takes_yours():
    with_model = {
        verb for verb, entry in cli.VERBS.items() if entry.module and "model" in entry.load().__dataclass_fields__
    }
    assert {entry.module for verb, entry in cli.VERBS.items() if verb in with_model - {"tour", "layers"}} == {
        cli.VERBS[verb].module for verb in VERBS
    }
    for verb in with_model:
        assert "FILE.py:FUNCTION" in Path(sys.modules[cli.VERBS[verb].load().__module__].__file__).read_text() + str(
            Path(_models.__file__).with_name("_options.py").read_text()
        )


@pytest.mark.parametrize(
    "verb", [pytest.param(v, marks=[] if v in ("cam", "invert", "patches") else pytest.mark.slow) for v in VERBS]
)
def test_verbs(verb, capsys):
    cli.main([verb, *VERBS[verb].split(), "--model", "my.py:load"])
    assert capsys.readouterr().out


@pytest.mark.parametrize("verb", ["cam", "invert", "patches"])
def test_another_network_in_the_same_file_is_made_again(verb, capsys):
    line = [verb, *VERBS[verb].split(), "--model", "my.py:load"]
    cli.main(line)
    first = {path: path.read_bytes() for path in Path("out").glob("*.npz")}
    cli.main(line)
    if verb != "patches":
        assert "done before" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in Path("out").glob("*.npz")} == first
    write(seed=1)  # trained further
    forget()
    cli.main(line)
    assert "done before" not in capsys.readouterr().out
    again = {path: path.read_bytes() for path in Path("out").glob("*.npz")}
    assert all(again[path] != data for path, data in first.items())


def forget():
    """Let a file be read again, as it is in another process."""
    sys.modules.pop("jaxviz_model_my", None)


@pytest.mark.parametrize(
    "change", [("relu(x)", "relu(x + 0.1)"), ("std=0.25", "std=0.3"), ('"dog", "cup"', '"cup", "dog"')]
)
def test_another_program_normalization_or_order_of_classes_is_made_again(change, capsys):
    line = "saliency images/cat.png --model my.py:load --target cup".split()
    cli.main(line)
    write(text=FILE.replace(*change))
    forget()
    capsys.readouterr()
    cli.main(line)
    assert "done before" not in capsys.readouterr().out
    write(text=FILE + "\n# a comment\n")
    cli.main("saliency images/cup.png --model my.py:load --target cup".split())


def test_gray_images(capsys):
    write(channels=1)
    cli.main("gradient images/cat.png --model my.py:load --target cat".split())
    map, _, _ = explained("out/cat-gradient.npz")
    network = own_network("my.py:load")
    image = jaxviz.load_image("images/cat.png", size=20, channels=1)
    expected = jaxviz.gradient(jaxviz.logit(network.net, 0), network.params, image[None])[0]
    np.testing.assert_allclose(map, expected, rtol=1e-5)
    assert map.shape == (20, 20, 1)


# What is refused


def raising(text):
    return "import jax.numpy as jnp\n\ndef load():\n" + textwrap.indent(textwrap.dedent(text), "    ")


LINEN = "import flax.linen\ndef load(): return "
NEITHER = "expected (net, params) or a jaxviz.Network(net, params, ...) to be returned"
OTHER_SIZE = raising("return lambda p, x: x.mean((1, 2)) @ p, jnp.ones((1, 3))")

ERRORS = [
    ("none.py:load", "", ["--model none.py:load: expected a Python file at none.py, got no such file"]),
    ("images/:load", "", ["expected a Python file at images, got a folder"]),
    ("my.py", FILE, ["expected FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, got 'my.py'", "my.py has net, pair, load"]),
    ("my.py:", FILE, ["got 'my.py:'; my.py has net, pair, load"]),
    (":load", FILE, ["expected FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, got ':load'"]),
    ("my.py:lod", FILE, ["expected a function 'lod' in ", "got none of this name (did you mean 'load'?); it has net"]),
    ("my.py:params", FILE, ["expected a function 'params' in ", "got a dict"]),
    ("none_such.nets:load", "", ["expected a module that Python finds here or installed, got 'none_such.nets'"]),
    ("vgg61_features", "", ["did you mean 'vgg16_features'?", "a network of your own is FILE.py:FUNCTION or"]),
    ("my.py:load", "import no_such", ["my.py:load raised ModuleNotFoundError: No module named", 'my.py", line 1']),
    ("my.py:load", "def load(:", ["raised", 'my.py", line 1', "SyntaxError: invalid syntax"]),
    ("my.py:load", "import sys\nsys.exit('no')", ["raised SystemExit: no", 'my.py", line 2']),
    ("my.py:load", raising("return jnp.ones(3).reshape(2)"), ["raised TypeError: cannot", 'my.py", line 4, in load\n']),
    ("my.py:load", "def load(path): pass", ["raised TypeError: load() missing 1 required positional argument"]),
    ("my.py:load", raising("return None"), [f"{NEITHER}, got a NoneType"]),
    ("my.py:load", raising("return load, 1, 2"), [f"{NEITHER}, got a tuple of 3"]),
    ("my.py:load", raising("return {}, load"), [f"{NEITHER}, got (dict, function); the network comes first"]),
    ("my.py:load", LINEN + "flax.linen.Dense(3)", ["got a Dense; its method is the network: (model.apply, variables)"]),
    ("my.py:load", LINEN + "flax.linen.Dense(3), {}", ["CallCompactUnboundModuleError", "its method is the network"]),
    ("my.py:load", OTHER_SIZE, ["of images (1, 224, 224, 3) raised TypeError", 'my.py", line 4', "say so: --size, or"]),
    ("my.py:load", FILE.replace('"cat", ', ""), ["expected a name for each of 3 outputs, got 2 classes"]),
    (
        "my.py:load",
        FILE.replace('@ params["w2"]', '@ params["w2"], 1'),
        ["my.py:load returns a tuple and not one array"],
    ),
]


@pytest.mark.parametrize(("model", "text", "messages"), ERRORS, ids=range(len(ERRORS)))
def test_errors(model, text, messages, capsys):
    write(text=text)
    said = refused(capsys, f"saliency images/cat.png --model {model}")
    assert said.startswith("jaxviz: ")
    for message in messages:
        assert message in said, said
    assert "Traceback" not in said
    assert len(said.splitlines()) < 16
    assert not Path("out").exists() or not any(Path("out").iterdir())


def test_two_modules_of_one_name(capsys, monkeypatch):
    write("installed/my.py")
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path("installed").resolve())])
    said = refused(capsys, "saliency images/cat.png --model my:load")
    assert re.search(
        r"--model my:load: expected one module my, got two: .*my\.py and .*installed/my\.py; say the file", said
    )


def test_default_layers_are_of_another_network(capsys):
    said = refused(capsys, "dream images/cat.png --model my.py:load")
    assert (
        "--layer: expected layers of my.py:load, which has no relu5_1 (the default). It has: conv_0, relu_0, "
        "global_avg_pool_0, dense_0" in said
    )
    said = refused(capsys, "texture images/cat.png --model my.py:load")
    assert "--layers: expected layers of my.py:load, which has no relu1_1, relu2_1" in said


def test_an_error_while_it_runs_is_told_in_a_few_lines(capsys):
    write(text=FILE.replace(".mean((1, 2))", ".reshape(images.shape[0], 600)").replace("size=(6, 3)", "size=(600, 3)"))
    said = refused(capsys, "dream images/cat.png --model my.py:load --layer relu_0")
    assert "net(params, images) of images" in said
    assert "raised TypeError: cannot reshape array" in said
    assert "Traceback" not in said


# Networks that return several arrays

SEVERAL = FILE.replace(
    '    return jax.nn.relu(x).mean((1, 2)) @ params["w2"]',
    '    maps = jax.nn.relu(x)\n    logits = maps.mean((1, 2)) @ params["w2"]\n    return RETURNED',
)
RETURNED = [
    ("logits", '{"maps": maps, "logits": logits}'),
    ("heads.logits", '{"maps": maps, "heads": {"logits": logits}}'),
    ("1", "maps, logits"),
    ("logits", "Returned(maps, logits)"),
    ("logits", "Plain(maps, logits)"),
]
CLASSES = """
import collections
Returned = collections.namedtuple("Returned", "maps logits")
class Plain:  # which JAX does not know
    def __init__(self, maps, logits):
        self.maps, self.logits = maps, logits
"""


def write_several(returned):
    write(text=SEVERAL.replace("RETURNED", returned) + CLASSES)


@pytest.mark.parametrize(("output", "returned"), RETURNED)
def test_one_of_several_outputs(output, returned):
    write_several(returned)
    model = _models.load_model("my.py:load", output=output)
    write()
    forget()
    expected = own_network("my.py:load")
    image = jax.random.uniform(jax.random.key(0), (1, 20, 20, 3))
    np.testing.assert_array_equal(model.network.net(model.network.params, image), expected.net(expected.params, image))
    assert model.class_count("") == 3
    namespace = {"whole": lambda params, images: Wrapped(), "params": None}
    code = model.code.splitlines()
    assert code[:2] == ["from my import load", "whole, params = load()"]
    exec(code[2], namespace)
    assert namespace["net"](None, None) is Wrapped


class Wrapped:
    """Gives itself for whatever is taken out of it, and its class once that is no more."""

    def __getitem__(self, key):
        return {"heads": {"logits": Wrapped}, "logits": Wrapped, 1: Wrapped}[key]

    @property
    def logits(self):
        return Wrapped


def test_a_map_of_one_of_several_outputs(capsys):
    write_several(RETURNED[0][1])
    cli.main("saliency images/cat.png --model my.py:load --target dog --output logits".split())
    map, told, _ = explained()
    assert told.startswith("dog (")
    write()
    forget()
    network = own_network("my.py:load")
    image = jaxviz.load_image("images/cat.png", size=20)
    expected = jaxviz.saliency(jaxviz.logit(network.net, 1), network.params, image[None])[0]
    np.testing.assert_allclose(map, expected, rtol=1e-5)


@pytest.mark.parametrize("verb", ["saliency images/cat.png", "ascend --target dog", "tour images/cat.png"])
def test_an_output_that_is_missing(verb, capsys):
    write_several(RETURNED[1][1])
    said = refused(capsys, f"{verb} --model my.py:load")
    assert "my.py:load returns a dict and not one array (heads.logits: (1, 3), maps: (1, 10, 10, 6)): say which" in said
    assert "are its class scores, as in --output heads.logits" in said
    said = refused(capsys, f"{verb} --model my.py:load --output logits")
    assert (
        "--output: expected one of the arrays that my.py:load returns (heads.logits: (1, 3), maps: (1, 10, 10, 6"
        in said
    )
    assert "got 'logits'" in said
    write()
    forget()
    said = refused(capsys, f"{verb} --model my.py:load --output logits")
    assert "--output: expected none, since my.py:load returns one array (1, 3)" in said


def test_every_verb_with_a_network_takes_an_output():
    for entry in cli.VERBS.values():
        fields = entry.load().__dataclass_fields__ if entry.module else {}
        assert ("model" in fields) == ("output" in fields)
