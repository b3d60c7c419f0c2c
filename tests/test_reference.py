"""The reference that `experiments/reference/build.py` makes of the docstrings."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import jaxviz

FOLDER = Path(__file__).parents[1] / "experiments" / "reference"
pytestmark = pytest.mark.foreign


def module(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    pytest.importorskip("pdoc")
    out = tmp_path_factory.mktemp("site")
    module("build").main(out, run=False)
    return {path.name: path.read_text() for path in out.glob("*.html")}


def test_every_public_name_has_one_entry_and_nothing_else_has(pages):
    entries = [name for text in pages.values() for name in re.findall(r'<h3 id="(\w+)">', text)]
    assert sorted(entries) == sorted(jaxviz.__all__)


def test_nothing_is_loaded_from_elsewhere(pages):
    for text in pages.values():
        assert not re.search(r'(src|href)="(?!data:)(\w+:)?//', text)
        assert "<script" not in text


def test_names_lead_to_their_entries_and_examples_to_what_they_print(pages):
    text = pages["which-pixels-matter.html"]
    assert '<a href="which-pixels-matter.html#gradient"><code>gradient</code></a>' in text
    assert text.count('class="example"') >= len(re.findall("<h3", text)) - 2
    assert ">>>" not in text
    assert "<code>(n, h, w)</code>" in text


def test_an_example_that_prints_something_else_ends_the_build():
    examples = module("examples")
    (one,) = examples.ran("two", ">>> 1 + 1\n2\n")
    assert (one.source, one.text) == ("1 + 1\n", "2\n")
    with pytest.raises(examples.ExampleError, match=r"two: '1 \+ 1': expected '3\\n', got '2\\n'"):
        examples.ran("two", ">>> 1 + 1\n3\n")
    with pytest.raises(examples.ExampleError, match="ZeroDivisionError"):
        examples.ran("zero", ">>> 1 / 0\n1\n")
    assert examples.ran("two", ">>> 1 + 1  # doctest: +SKIP\n3\n")[0].source == "1 + 1\n"


def test_results_show_themselves():
    examples = module("examples")
    *_, found = examples.ran(
        "curve", ">>> import numpy, jaxviz\n>>> found = jaxviz.Curve(numpy.ones((1, 3)), numpy.ones(1))\n"
    )
    assert "<img" in found.shown[0] or "<svg" in found.shown[0]
