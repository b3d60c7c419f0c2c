import importlib.util
import sys

import pytest

from jaxviz.models import _class_names
from jaxviz.models._class_names import class_index, class_names


def test_names():
    names = class_names()
    assert len(names) == 1000
    assert names[0] == "tench, Tinca tinca"
    assert names[281] == "tabby, tabby cat"
    assert names[999] == "toilet tissue, toilet paper, bathroom tissue"


def test_every_name_and_index_finds_its_class():
    for index, name in enumerate(class_names()):
        assert (
            class_index(name) == class_index(name.upper()) == class_index(index) == class_index(f" {index} ") == index
        )


@pytest.mark.parametrize(
    ("name", "index"),
    [("tabby", 281), ("Tinca tinca", 0), ("maillot", 638), ("tank suit", 639), (-1, 999), ("-1000", 0)],
)
def test_synonyms(name, index):
    assert class_index(name) == index


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("crane", r"which may be 134 'crane \(bird\)'; 517 'crane \(machine\)'"),
        ("panther", "which may be 286 .*; 290 "),
        ("tabbi", "got 'tabbi'; similar: 281 'tabby, tabby cat'"),
        ("cat", "similar: .*'tiger cat'"),
        ("qqqqq", "got 'qqqqq'$"),
        ("1000", "0 to 999, got 1000"),
        (-1001, "0 to 999, got -1001; -1 to -1000 count from the end"),
    ],
)
def test_ambiguous_and_unknown_names(name, text):
    with pytest.raises(ValueError, match=text):
        class_index(name)


@pytest.mark.parametrize(
    ("name", "index"), [("dog", 1), ("DOG", 1), ("hound", 1), (1, 1), ("-1", 2), ("2", 2), ("seven", 2)]
)
def test_classes_of_ones_own(name, index):
    assert class_index(name, classes=["cat", "dog, hound", "seven"]) == index


def test_digits_are_their_own_indices():
    assert [class_index(str(i), classes=[str(i) for i in range(10)]) for i in range(10)] == list(range(10))


@pytest.mark.parametrize(
    ("name", "classes", "text"),
    [
        ("1", ["1", "2", "3"], "got '1', which may be 0 '1'; 1 '2'"),
        ("3", ["1", "2, 3", "4", "5"], "got '3', which may be 1 '2, 3'; 3 '5'"),
        ("cat", ["cat", "cat"], "got 'cat', which may be 0 'cat'; 1 'cat'"),
        ("tabby", ["cat", "dog"], "expected the name or index of one of 2 classes, got 'tabby'$"),
        ("catt", ["cat", "dog"], "got 'catt'; similar: 0 'cat'"),
        ("2", ["cat", "dog"], "expected the index of one of 2 classes, 0 to 1, got 2; -1 to -2 count from the end"),
    ],
)
def test_ambiguous_and_unknown_classes_of_ones_own(name, classes, text):
    with pytest.raises(ValueError, match=text):
        class_index(name, classes=classes)


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """Put another package in the place of TensorFlow Datasets, and return its file of labels."""
    labels = tmp_path / "tensorflow_datasets" / "datasets" / "siscore" / "labels.py"
    labels.parent.mkdir(parents=True)
    (tmp_path / "tensorflow_datasets" / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorflow_datasets", raising=False)
    class_names.cache_clear()
    yield labels
    class_names.cache_clear()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "FileNotFoundError"),
        ("OTHER = 1", "no IMAGENET_LABELS_LIST"),
        ("IMAGENET_LABELS_LIST = make()", "ValueError"),
        ("IMAGENET_LABELS_LIST = ['cat']", "1000 ImageNet classes in .*, got 1$"),
    ],
)
def test_a_package_without_the_names(fake_package, content, text):
    if content:
        fake_package.write_text(content)
    with pytest.raises(RuntimeError, match=text):
        class_names()


def test_without_the_package(monkeypatch):
    class_names.cache_clear()
    monkeypatch.setattr(_class_names.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="expected the package tensorflow-datasets"):
        class_names()
    monkeypatch.undo()
    assert importlib.util.find_spec("tensorflow_datasets")
    assert len(class_names()) == 1000
