"""The README says what is there: its names, links and examples."""

import ast
import doctest
import re
from pathlib import Path

import pytest

import jaxviz

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "experiments/README.md", "experiments/benchmarks/README.md", "tests/parity/README.md"]
PAGES += ["weights/README.md", ".github/CONTRIBUTING.md", ".github/CHANGELOG.md"]
README = (ROOT / "README.md").read_text()
METHODS = [
    line.split("|")[1:4] for line in README.splitlines() if re.match(r"\| [^|]+ \| [^|]+(?:19|20)\d\d[^|]* \|", line)
]
# Where a method's file does not bear the name of its function, it bears the field's name for it.
FILES = {"ascend": "ascent", "fool": "fooling", "invert": "inversion", "stylize": "style", "deletion": "faithfulness"}
FILES |= {"features": "neighbors", "deconvnet": "guided", "guided_backprop": "guided", "top_patches": "patches"}
FILES |= {"train_style_net": "fast_style"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", text)
    missing = [to for to in targets if not to.startswith("https://") and not ((ROOT / page).parent / to).exists()]
    assert not missing


def test_the_table_names_public_functions_and_each_is_in_a_file_of_its_name():
    assert len(METHODS) == 22
    files = {path.stem.lstrip("_") for path in (ROOT / "jaxviz").rglob("*") if "__" not in path.name}
    for _, _, functions in METHODS:
        names = re.findall(r"`(\w+)`", functions)
        assert all(callable(getattr(jaxviz, name)) for name in names)
        assert FILES.get(names[0], names[0]) in files, names[0]


def test_the_python_in_it_is_python_and_calls_what_is_public():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 5
    for block in blocks:
        if block.startswith(">>>"):
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxviz":
                assert hasattr(jaxviz, node.attr), node.attr


def test_examples_run():
    found = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 5
    assert not found.failed


def test_it_is_short():
    assert len(README.splitlines()) <= 200
