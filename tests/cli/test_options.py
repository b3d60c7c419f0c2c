"""What a command line offers is what the function behind it takes: the same defaults, and the same choices."""

import dataclasses
import functools
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import pytest
from nets import convolve

import jaxviz
from jaxviz import cli
from jaxviz.cli import _maximize, _models, _runs, _synthesis
from jaxviz.synthesis._recipes import RECIPES

OTHERS = {
    "features": jaxviz.features,
    "neighbors": jaxviz.neighbors,
    "patches": jaxviz.top_patches,
    "ascend": jaxviz.ascend,
    "sheet": jaxviz.sheet,
    "dream": jaxviz.dream,
    "invert": jaxviz.invert,
    "texture": jaxviz.texture,
    "style": jaxviz.stylize,
    "fast-style train": jaxviz.train_style_net,
}
# What the shell says otherwise: where results go and how often, which layer, and one number for several.
OWN = {"out", "store", "every", "resume", "layer", "k", "masks", "style_masks", "style_weights"}
# What functions leave to the images' own size, or the shell to the network's own.
SIZES = {"features", "patches", "ascend", "sheet"}


def entry_of(verb):
    first, *rest = verb.split()
    return cli.VERBS_OF[first][rest[0]] if rest else cli.VERBS[first]


def function_of(verb):
    return OTHERS.get(verb) or getattr(jaxviz, entry_of(verb).load().method)


ATTRIBUTION = [verb for verb, entry in cli.VERBS.items() if entry.module == "_attribution"]


@pytest.mark.parametrize("verb", [*OTHERS, *ATTRIBUTION])
def test_defaults_are_the_functions(verb):
    parameters = inspect.signature(function_of(verb)).parameters
    shared = [
        field
        for field in dataclasses.fields(entry_of(verb).load())
        if field.name in parameters
        and field.name not in OWN - ({"masks"} if verb == "rise" else set())
        # a name and a number here, an optax transformation or the number there
        and not (field.name in ("optimizer", "learning_rate") and verb == "fast-style train")
        and parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        and not (field.name == "size" and verb in SIZES)
    ]
    assert shared or verb in ("saliency", "gradient", "input-x-gradient", "guided", "deconvnet", "cam", "guided-cam")
    for field in shared:
        default = parameters[field.name].default
        if field.name in ("layers", "style_layers") and verb in ("texture", "style"):
            default = tuple(default)  # names here, with their weights there
        if field.name == "style_size" and verb == "fast-style train":
            default = (default,)  # several here: each style at each size
        text = field.name in ("fill", "baseline")
        assert field.default == (str(default) if text else default), field.name


def test_the_size_of_a_network_that_says_none_is_the_functions():
    default = lambda function, name: inspect.signature(function).parameters[name].default
    net = lambda params, images: jax.nn.relu(images).mean((1, 2))
    assert default(jaxviz.ascend, "size") is None
    run = functools.partial(jaxviz.ascend, jaxviz.logit(net, 1), None, jax.random.key(0), steps=1)
    assert run().images.shape[1] == default(_models.load_model, "default")
    big = lambda params, images: convolve(images, jnp.ones((99, 99, 3, 2)))
    found = jaxviz.sheet(big, None, jax.random.key(0), layer="conv_0", channels=[0], steps=1)
    assert found.images.shape[1] == _maximize.SHEET_SIZE


@pytest.mark.parametrize("verb", [*OTHERS, *ATTRIBUTION])
def test_choices_are_the_functions(verb):
    hints = get_type_hints(function_of(verb))
    for name, hint in get_type_hints(entry_of(verb).load()).items():
        if get_origin(hint) is Literal and get_origin(hints.get(name)) is Literal:
            assert get_args(hint) == get_args(hints[name]), name
    assert _synthesis.RECIPES.split("|") == list(RECIPES)


@pytest.mark.parametrize("verb", ATTRIBUTION)
def test_every_option_of_a_method_is_offered(verb):
    parameters = inspect.signature(function_of(verb)).parameters.values()
    names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"batch_size"}
    assert names <= {field.name for field in dataclasses.fields(entry_of(verb).load())}


def test_verbs_know_their_names():
    for verb, entry in cli.VERBS.items():
        if entry.module:
            assert getattr(entry.load(), "verb", verb) == verb


def test_options_that_say_where_and_how_are_no_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("guide.png").write_bytes(b"first")
    verb = cli.VERBS["dream"].load()
    one = _runs.settings_of(verb(images=(Path("a.png"),), guide=Path("guide.png")))
    other = verb(images=(Path("b.png"),), guide=Path("guide.png"), out=Path("there"), every=2, resume=True, zoom=3)
    assert _runs.settings_of(other) == one
    assert _runs.settings_of(verb(guide=Path("guide.png"), steps=3)) != one
    Path("guide.png").write_bytes(b"another")
    assert _runs.settings_of(verb(guide=Path("guide.png"))) != one
    assert one["verb"] == "dream"
    assert one["jaxviz"] == jaxviz.__version__


HELP = """
import sys
from jaxviz.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    assert stopped.code == 0
print(*sys.modules, file=sys.stderr)
"""


def help_of(*args):
    """Return what is printed, and what is imported for it."""
    command = [sys.executable, "-c", HELP, *args]
    root = Path(jaxviz.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["weights", "--help"], ["features", "--help"]])
def test_help_imports_neither_jax_nor_other_verbs(args):
    _, modules = help_of(*args)
    assert not modules & {"jax", "numpy", "rich"}
    verbs = {name.rsplit(".", 1)[1] for name in modules if name.startswith("jaxviz.cli.")}
    assert verbs <= {"_options"} | ({"_datasets"} if args[0] == "features" else set())


def test_help_is_one_screen_in_the_order_of_the_questions():
    shown, _ = help_of("--help")
    lines = shown.splitlines()
    assert len(lines) <= 42
    assert max(map(len, lines)) <= 80
    at = [lines.index(title) for title in cli.GROUPS]
    assert at == sorted(at)
    verbs = {line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("  eval ")}
    assert verbs == set(cli.VERBS)


def test_the_version_is_shown():
    assert help_of("--version")[0] == f"jaxviz {jaxviz.__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "jaxviz: expected a verb, got none: `jaxviz --help` lists them\n"),
        (["salience"], "got 'salience' (did you mean 'saliency'?): `jaxviz --help` lists them\n"),
        (["weights", "lst"], "got 'lst' (did you mean 'list'?): `jaxviz weights --help` lists them\n"),
    ],
)
def test_a_verb_that_there_is_none_of(args, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
