"""The taste of the public functions, as a test (after dm_pix's api_test): one look for all of them."""

import ast
import builtins
import doctest
import importlib
import inspect
import pydoc
import re
import subprocess
import sys
import types
import typing
from importlib.metadata import version
from pathlib import Path

import pytest

import jaxviz

PUBLIC = {name: getattr(jaxviz, name) for name in dir(jaxviz) if not name.startswith("_")}
PUBLIC = {name: value for name, value in PUBLIC.items() if not inspect.ismodule(value)}
TYPES = {name for name, value in PUBLIC.items() if inspect.isclass(value) or typing.get_origin(value)}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if callable(value) and name not in TYPES}

# DESIGN.md section 3: these read well without their name, as in `logit(net, 281)`.
POSITIONAL_DEFAULTS = {("logit", "target"), ("probability", "target"), ("neuron", "position")}
POSITIONAL_DEFAULTS |= {("load_style_net", "path")}
# Their examples are shown, but do not run: they would fetch weights from the network, or need an extra.
SKIPPED = {"load", "import_weights", "verify", "umap", "save_video", "approximate_neighbors"}
HEAVY = {"flax", "tensorflow", "tensorflow_datasets", "grain", "matplotlib", "sklearn", "skimage", "PIL"}
HEAVY |= {
    "onnx",
    "h5py",
    "rich",
    "tyro",
    "jinja2",
    "pooch",
    "openTSNE",
    "umap",
    "faiss",
    "pyarrow",
    "llvmlite",
    "tensorstore",
}


def parameters(name):
    return inspect.signature(FUNCTIONS[name]).parameters


def test_there_is_something_to_look_at():
    expected = "layers capture replace with_relu receptive_field logit channel neuron energy gradient saliency"
    expected += " guided_backprop deconvnet filters ascend dream minimize load_image save_image montage overlay load"
    assert set(expected.split()) <= set(FUNCTIONS)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_docstring(name):
    doc = inspect.getdoc(FUNCTIONS[name]) or ""
    summary, *rest = doc.split("\n")
    assert summary.endswith((".", ":")), "the first line is one whole sentence"
    assert not rest or rest[0] == ""


def used_and_bound(source):
    """Return the names that a program reads, and those that it binds anywhere."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    bound |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    return used, bound


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_example_can_be_pasted(name):
    """It calls the function by its public name, and needs nothing that its lines do not import or make."""
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(FUNCTIONS[name]) or "")
    source = "".join(example.source for example in examples)
    used, bound = used_and_bound(source)
    assert f"jaxviz.{name}" in source
    skipped = any(example.options.get(doctest.SKIP) for example in examples)
    assert skipped == (name in SKIPPED)
    assert used <= bound | set(dir(builtins))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_parameter_and_result_is_annotated(name):
    signature = inspect.signature(FUNCTIONS[name])
    assert signature.return_annotation is not inspect.Signature.empty
    assert [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty] == []


METHODS = {  # what types of ours define themselves, classmethods too
    f"{name}.{method}": getattr(PUBLIC[name], method)
    for name in sorted(TYPES)
    for method, value in vars(PUBLIC[name]).items()
    if not method.startswith("_") and isinstance(value, types.FunctionType | classmethod)
}


def documented(value, section):
    """Return the names that a section of a docstring explains, in order."""
    doc = inspect.getdoc(value) or ""
    if f"\n{section}:\n" not in doc:
        return []
    lines = doc.split(f"\n{section}:\n")[1].split("\n\n")[0].splitlines()
    heads = [line.strip().split(":")[0] for line in lines if line.startswith("    ") and line[4] != " "]
    return [name for head in heads for name in head.split(", ")]  # "score, params, images: as for `gradient`"


def test_the_methods_are_found():
    assert {"ReceptiveField.window", "Parameterization.of", "Summable.lengths"} <= set(METHODS)


@pytest.mark.parametrize("name", sorted({**FUNCTIONS, **METHODS}))
def test_every_argument_and_result_is_documented(name):
    value = FUNCTIONS.get(name, METHODS.get(name))
    signature = inspect.signature(value)
    assert documented(value, "Args") == [parameter for parameter in signature.parameters if parameter != "self"]
    returns = {"Returns:", "Yields:"} & set((inspect.getdoc(value) or "").splitlines())
    assert len(returns) == (signature.return_annotation is not None)


@pytest.mark.parametrize("name", sorted(name for name in TYPES if inspect.isclass(PUBLIC[name])))
def test_every_field_is_documented(name):
    """Of the results, which are named tuples, and of `Network`, which is called with its fields."""
    fields = getattr(PUBLIC[name], "_fields", None) or getattr(PUBLIC[name], "__dataclass_fields__", ())
    found = documented(PUBLIC[name], "Attributes") or documented(PUBLIC[name], "Args")
    assert set(fields) - {"_"} <= set(found)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_what_has_a_default_is_keyword_only(name):
    positional = {
        (name, p.name) for p in parameters(name).values() if p.default is not p.empty and p.kind is not p.KEYWORD_ONLY
    }
    assert positional <= POSITIONAL_DEFAULTS


def test_the_exceptions_are_still_there():
    for name, parameter in POSITIONAL_DEFAULTS:
        found = parameters(name)[parameter]
        assert found.default is None
        assert found.kind is found.POSITIONAL_OR_KEYWORD


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_order_of_arguments(name):
    """`f(net_or_score, params, [key], images, ...)`."""
    names = list(parameters(name))
    others = {"rng", "seed", "random_key", "prng_key", "rng_key", "image_batch", "x", "batch"}
    assert not (others - ({"x"} if name in ("pca", "tsne", "umap") else set())) & set(names)  # there `x` is any data
    for first in ("net", "score"):
        if first in names:
            assert names[0] == first
            assert "params" not in names or names[1] == "params"
    assert "params" not in names or names.index("params") < 2
    order = [
        n
        for n in ("params", "key", "images")
        if n in names and parameters(name)[n].kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert order == sorted(order, key=names.index)
    assert all(parameters(name)[n].default is inspect.Parameter.empty for n in order)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_keys_are_called_key(name):
    for parameter in parameters(name).values():
        annotation = str(parameter.annotation)
        is_key = bool(re.search(r"\bKey\b", annotation)) and "Callable" not in annotation
        assert is_key == (parameter.name == "key")


def test_help_lists_every_function_once_by_question():
    """Before anything else that pydoc says; a new function gets a line there."""
    questions = ["What do the units respond to?", "Which pixels matter?", "Which image would ...?"]
    before, _, listed = (jaxviz.__doc__ or "").partition(f"\n{questions[0]}\n")
    assert before
    assert [line for line in listed.splitlines() if line in questions] == questions[1:]
    lines = [line for line in listed.splitlines() if line.startswith("  ") and line[2] != " "]
    assert max(map(len, lines)) <= 110
    names = [name for line in lines for name in re.match(r"  ((?:\w+, )*\w+)", line)[1].split(", ")]
    names += re.findall(r"(\w+_style_net)", listed.split("train such a net;")[1].splitlines()[0])
    assert sorted(names) == sorted(FUNCTIONS)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_signature_fits_in_a_tooltip(name):
    """Types are called as they are in the source, not spelled out to unions of all that NumPy and JAX have."""
    lines = [str(parameter) for parameter in inspect.signature(FUNCTIONS[name]).parameters.values()]
    assert max(map(len, lines), default=0) <= 160, lines


def test_each_thing_has_one_public_name():
    assert len({id(value) for value in PUBLIC.values()}) == len(PUBLIC)
    source = Path(jaxviz.__file__).with_name("_public.py").read_text()
    imports = [line for line in source.splitlines() if line.startswith(("from", "import"))]
    names = [line.split(" as ")[1] for line in imports]
    assert all(f"import {name} as {name}" in line for name, line in zip(names, imports, strict=True))
    assert sorted(names) == sorted(PUBLIC)


def test_every_module_can_be_imported_by_its_path():
    """No function has the name of a folder: `jaxviz.gradient` was one, and nothing below it could be imported."""
    root = Path(jaxviz.__file__).parent
    for path in root.rglob("*.py"):
        name = ".".join(("jaxviz", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        assert pydoc.locate(name) is importlib.import_module(name)
    assert not {path.name for path in root.iterdir() if path.is_dir()} & set(PUBLIC)


def test_import_starts_no_backend():
    """What says which devices there are to be has to come before."""
    script = "import jax, jaxviz; jax.config.update('jax_num_cpu_devices', 2); print(jax.device_count('cpu'))"
    root = Path(jaxviz.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]


def loaded_by(script):
    """Return the top-level modules that a fresh interpreter has imported after a script."""
    script = f"import sys; {script}; print(*{{m.split('.')[0] for m in sys.modules}})"
    root = Path(jaxviz.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light():
    loaded = loaded_by("import jaxviz; jaxviz.saliency")
    assert {"jax", "jaxviz"} <= loaded
    assert loaded & (HEAVY | {"optax", "scipy"}) == set()
    assert not {"jax", "numpy"} & loaded_by("import jaxviz; jaxviz.__version__")


def test_names_come_with_their_first_use():
    """Whichever way they are asked for; and what was set before stays."""
    assert loaded_by("from jaxviz import saliency") >= {"jax"}
    assert loaded_by("from jaxviz import *; saliency") >= {"jax"}
    assert loaded_by("import jaxviz; jaxviz.load = 7; jaxviz.saliency; assert jaxviz.load == 7") >= {"jax"}
    assert loaded_by("import jaxviz; jaxviz.models.available") >= {"jax"}
    with pytest.raises(AttributeError, match="module 'jaxviz' has no attribute 'salience'"):
        _ = jaxviz.salience  # type: ignore[attr-defined]


def test_the_version_is_the_packages():
    assert jaxviz.__version__ == version("jaxviz-cnn")


ORDER = (
    "_types _progress _extras _files _own_folders image _options show program fast models data scores activation "
    "attribution synthesis _public jaxviz report cli __main__"
).split()
# Pages are public, too, and made with public names: `_public` hands them on, and they ask for names when they are made.
PAGES = {"embedding_page", "patches_page", "tour"}


def test_no_import_runs_upward():
    """Folders know what stands before them in this order only, within functions too: the design's house."""
    root = Path(jaxviz.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        inside = path.relative_to(root).with_suffix("").parts
        here = "jaxviz" if inside == ("__init__",) else inside[0]
        if here == "jaxviz":  # which hands on what is public, from below the pages and the commands
            here = "_public"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "jaxviz":
                imported = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                imported = [f"{alias.name}.jaxviz" for alias in node.names if alias.name.split(".")[0] == "jaxviz"]
            else:
                continue
            for name in imported:
                there = name.split(".")[1] if name.split(".")[1] in ORDER else "jaxviz"
                if here == "_public" and name in {f"jaxviz.report.{page}" for page in PAGES}:
                    continue
                if ORDER.index(there) > ORDER.index(here):
                    found.add(f"{path.relative_to(root)}:{node.lineno}: {name}")
    assert not found


def test_folders_hand_on_their_public_names():
    for name, value in PUBLIC.items():
        if typing.get_origin(value):  # an alias of types, which does not know where it was written
            continue
        folder = value.__module__.split(".")[1]
        assert getattr(importlib.import_module(f"jaxviz.{folder}"), name) is value, f"{name} of {value.__module__}"


ROOT = Path(jaxviz.__file__).parents[1]
LONG = 400, 40  # lines of a file, and of code in a function's body


def used_of_jaxviz(path):
    """Return what a file uses of jaxviz by dotted names, with the lines, imports within functions too."""
    tree, found = ast.parse(path.read_text()), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "jaxviz"]
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "jaxviz":
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxviz":
            found.append((node.lineno, f"jaxviz.{node.attr}"))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            found += [(node.lineno, str(node.args[0].value))] if isinstance(node.args[0], ast.Constant) else []
    return [(line, name) for line, name in found if name.split(".")[0] == "jaxviz" and name != "jaxviz"]


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda path: path.stem)
def test_experiments_use_public_names_alone(path):
    allowed = {f"jaxviz.{name}" for name in (*PUBLIC, "__version__")}
    assert [(line, name) for line, name in used_of_jaxviz(path) if name not in allowed] == []


def test_the_experiments_are_found_and_use_jaxviz():
    """Or else the test above would look at nothing."""
    used = {name for path in (ROOT / "experiments").rglob("*.py") for _, name in used_of_jaxviz(path)}
    assert {"jaxviz.load", "jaxviz.hoist", "jaxviz.train_style_net", "jaxviz.accelerate"} <= used


def code_lines(lines, function):
    """Return how many lines of code a function's body has: no docstring, no blank lines, no comments."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    inside = lines[body[0].lineno - 1 : body[-1].end_lineno] if body else []
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in inside)


def test_files_and_functions_are_short():
    """Or give a reason: a file in its docstring's first line, "long: ...", a function in its own."""
    long = []
    for path in sorted(Path(jaxviz.__file__).parent.rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        nodes = [(tree, len(text.splitlines()), LONG[0])]
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        nodes += [(node, code_lines(text.splitlines(), node), LONG[1]) for node in functions]
        for node, length, most in nodes:
            if length > most and "long:" not in (ast.get_docstring(node) or "").split("\n")[0].lower():
                long.append(f"{path.name}: {getattr(node, 'name', 'the file')}: {length} lines, at most {most}")
    assert not long
