"""The pages of the reference, experiments/reference, made without running the examples: doctest runs those."""

import re
from pathlib import Path

import pytest

import jaxviz

FOLDER = Path(__file__).parents[1] / "experiments" / "reference"
PUBLIC = [name for name in dir(jaxviz) if not name.startswith("_")]
SHOWS = """Example:
    >>> import jaxviz, numpy as np
    >>> print(len(jaxviz.open_source(np.zeros((2, 8, 8, 3), np.uint8)).ids))
    2
"""


@pytest.fixture(scope="module")
def reference():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import docstrings
        import entries
        import make
        import outputs

        yield {"make": make, "entries": entries, "outputs": outputs, "docstrings": docstrings}


@pytest.fixture(scope="module")
def pages(reference, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference")
    reference["make"].make(out, run=False)
    return {path.stem: path.read_text() for path in out.glob("*.html")}, out


def test_every_public_name_is_there_once(pages):
    places = [name for text in pages[0].values() for name in re.findall(r'<section id="(\w+)">', text)]
    assert sorted(places) == sorted(PUBLIC)


def test_methods_of_types_are_there(pages):
    assert '<section id="ReceptiveField.window">' in pages[0]["networks"]


def test_pages_are_those_of_help_and_the_gallery_has_every_question(pages):
    assert set(pages[0]) == {"index", "units", "pixels", "synthesis", "scores", "networks", "images"}
    assert pages[0]["index"].count('<div class="gallery">') == 3
    assert pages[0]["index"].count("<figure>") >= 12


def test_nothing_is_loaded_from_the_network(pages):
    for text in pages[0].values():
        assert not re.findall(
            r"(?:https?:)?//[\w.]+\.\w+/|@import|url\(", re.sub(r"<pre>.*?</pre>", "", text, flags=re.S)
        )


def test_a_link_to_nothing_is_found(reference, pages, tmp_path):
    assert reference["make"].lost_links(pages[1]) == []
    (tmp_path / "a.html").write_text(
        '<p id="x"><img src="data:image/png;base64,AAAA"><a href="a.html#x"><a href="a.html#y"><img src="b.png">'
    )
    assert reference["make"].lost_links(tmp_path) == ["a.html#y in a.html", "b.png in a.html"]


def test_sections_are_lists_and_names_are_links(pages):
    section = pages[0]["pixels"].split('<section id="occlusion">')[1].split("<section")[0]
    assert "<dt><code>stride</code> <span" in section
    assert "<dt><code>ValueError</code></dt>" in section
    assert '<a href="pixels.html#gradient"><code>gradient</code></a>' in section  # "as for `gradient`"
    assert '<div class="paper"><p>Zeiler' in section
    assert '<span class="out">[[[ 3.  6.]' in section
    assert not re.search(r"Args:|Returns:|&gt;&gt;&gt;|`", section)


def test_an_argument_is_no_link(reference):
    """`layers` is a function and, of others, an argument."""
    prose, link = reference["docstrings"].prose, lambda name: f"a.html#{name}" if name == "layers" else None
    assert prose("see `layers`", link) == '<p>see <a href="a.html#layers"><code>layers</code></a></p>\n'
    assert (
        prose("see `layers`, `l2`", link, frozenset({"layers"})) == "<p>see <code>layers</code>, <code>l2</code></p>\n"
    )


def test_results_that_show_themselves_are_shown(reference):
    statements = reference["outputs"].ran("x", SHOWS)
    assert [statement.text for statement in statements] == ["", "2\n"]
    assert "Source(" in statements[1].shown[0]
    assert reference["outputs"].ran("x", SHOWS, run=False)[1].shown == []


def test_a_wrong_example_is_an_error(reference):
    ran, wrong = reference["outputs"].ran, reference["outputs"].ExampleError
    with pytest.raises(wrong, match=r"x: '1 \+ 1': expected '3\\n', got '2\\n'"):
        ran("x", ">>> 1 + 1\n3\n")
    with pytest.raises(wrong, match="raised ZeroDivisionError"):
        ran("x", ">>> 1 / 0\n")
    assert ran("x", ">>> 1 / 0  # doctest: +SKIP\n")[0].source == "1 / 0\n"
    raising = ">>> 1 / 0\nTraceback (most recent call last):\nZeroDivisionError: division by zero\n"
    assert len(ran("x", raising)) == 1


def test_signatures_are_those_of_the_source(reference):
    found = {entry.name: entry.signature for page in reference["entries"].pages() for entry in page.entries}
    assert found["recipe"] == "recipe(name: str, *, rate: float = 1.0) -> dict[str, Any]"
    assert found["ReceptiveField"].startswith("ReceptiveField(\n    size: tuple[int, int],\n")
    assert found["Transform"] == "Transform = Callable[[Key, Images], Transformed]"
    assert "    params: Any,\n    *,\n    size: int" in found["Network"]
    assert 'losses: Float[Array, "steps"]' in found["Fooled"]
    assert found["ImageError"] == "class ImageError"
