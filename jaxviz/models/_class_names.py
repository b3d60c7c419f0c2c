"""The names of the 1000 ImageNet classes, in the order of every classifier's outputs."""

import ast
import functools
import importlib.util
from difflib import get_close_matches
from pathlib import Path


@functools.cache
def class_names() -> tuple[str, ...]:
    """Return the names of the ImageNet classes by index, each with its synonyms.

    >>> class_names()[281]
    'tabby, tabby cat'
    """
    # Importing TensorFlow Datasets takes seconds; the list is a literal in one of its files, so that file is read.
    spec = importlib.util.find_spec("tensorflow_datasets")
    if spec is None or spec.origin is None:
        raise RuntimeError("expected the package tensorflow-datasets, which has the class names: install it")
    path = Path(spec.origin).parent / "datasets" / "siscore" / "labels.py"
    try:
        names = _literal(path, "IMAGENET_LABELS_LIST")
    except (OSError, LookupError, ValueError) as error:
        raise RuntimeError(
            f"expected the names of the ImageNet classes in {path}, got {type(error).__name__}: {error}. This "
            "version of tensorflow-datasets may keep them elsewhere: install 4.9.7"
        ) from error
    if len(names) != 1000:
        raise RuntimeError(f"expected the names of 1000 ImageNet classes in {path}, got {len(names)}")
    return tuple(names)


def _literal(path: Path, name: str) -> list[str]:
    """Return the value of `NAME = [...]` in a Python file, without running the file."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in statement.targets
        ):
            return ast.literal_eval(statement.value)
    raise LookupError(f"no {name}")


def class_index(name_or_index: str | int) -> int:
    """Return the index of an ImageNet class, given as a name, one of its synonyms, or the index itself.

    Case does not matter. A class's whole name comes before another's synonym: `maillot` is 638, though 639 is
    `maillot, tank suit`. A negative index counts from the end: -1 is the last class, 999.

    >>> class_index("Tabby"), class_index("tabby, tabby cat"), class_index("281")
    (281, 281, 281)

    Raises:
        ValueError: No class has this name (the text has similar ones), or several have it.
    """
    text = str(name_or_index).strip().casefold()
    if text.removeprefix("-").isdecimal():
        return _checked(int(text))
    names = [name.casefold() for name in class_names()]
    if text in names:
        return names.index(text)
    indices = [index for index, name in enumerate(names) if text in _synonyms(name)]
    if len(indices) == 1:
        return indices[0]
    if indices:
        raise ValueError(f"expected the name of one class, got {name_or_index!r}, which may be {_listing(indices)}")
    raise ValueError(f"expected the name or index of an ImageNet class, got {name_or_index!r}{_similar(text, names)}")


def _checked(index: int) -> int:
    if not -1000 <= index < 1000:
        raise ValueError(
            f"expected the index of an ImageNet class, 0 to 999, got {index}; -1 to -1000 count from the end"
        )
    return index % 1000


def _synonyms(name: str) -> set[str]:
    """Return the names between commas, with and without what stands in parentheses: `crane (bird)`, `crane`."""
    synonyms = {synonym.strip() for synonym in name.split(",")}
    return synonyms | {synonym.partition(" (")[0] for synonym in synonyms}


def _similar(text: str, names: list[str]) -> str:
    owners = {synonym: index for index, name in enumerate(names) for synonym in _synonyms(name)}
    containing = [synonym for synonym in owners if text in synonym.split()]
    similar = containing + get_close_matches(text, owners, n=5)
    indices = list(dict.fromkeys(owners[synonym] for synonym in similar))[:8]
    return f"; similar: {_listing(indices)}" if indices else ""


def _listing(indices: list[int]) -> str:
    return "; ".join(f"{index} {class_names()[index]!r}" for index in indices)
