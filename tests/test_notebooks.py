"""The notebooks as they are in the repository: run, with pictures, and written as a student would."""

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="a wheel has no experiments")


def cells(path, kind="code"):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_there_is_one_for_each_question_and_one_for_a_network_of_ones_own():
    assert [path.name[:2] for path in BOOKS] == ["1_", "2_", "3_", "4_"]
    listed = re.findall(r"\((\w+\.ipynb)\)", (FOLDER / "README.md").read_text())
    assert listed == [path.name for path in BOOKS]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.name)
def test_it_was_run_in_order_and_shows_pictures(path):
    assert path.stat().st_size < 2e6
    assert [cell["execution_count"] for cell in cells(path)] == list(range(1, len(cells(path)) + 1))
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"execute_result", "display_data", "stream"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    pictures = [output for output in outputs if {"image/png", "image/jpeg"} & set(output.get("data", {}))]
    assert len(pictures) >= 5


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.name)
def test_no_cell_has_more_than_one_line_of_plotting(path):
    for cell in cells(path):
        text = source(cell)
        assert "matplotlib" not in text
        assert "pyplot" not in text
        statements = [ast.unparse(node) for node in ast.parse(text).body]
        assert sum("jaxviz.plot(" in statement for statement in statements) <= 1
        assert "save_image" not in text


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.name)
def test_nothing_of_the_machine_is_in_it(path):
    """What is shown has no paths or hosts; what is written has only links into the repository."""
    text = path.read_text()
    shown = "".join(json.dumps(cell["outputs"]) for cell in cells(path))
    assert not re.search(r"/(root|home|work|tmp|Users)/", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert not re.search(r"https?://", re.sub(r'"image/(png|jpeg)": "[^"]+"', "", shown))
    assert set(json.loads(text)["metadata"]) == {"kernelspec", "language_info"}
    for cell in cells(path, "markdown"):
        for link in re.findall(r"\]\(([^)]+)\)", source(cell)):
            assert (FOLDER / link).exists(), link


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.name)
def test_the_small_numbers_are_those_of_the_large_ones(path):
    first = cells(path)[0]
    names = lambda text: text.split("=")[0]
    assert names(first["metadata"]["small"]) == names(source(first))
