"""The names of the 1000 ImageNet classes, in the order of every classifier's outputs."""

import ast
import functools
import importlib.util
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path


@functools.cache
def class_names() -> tuple[str, ...]:
    """Return the names of the ImageNet classes by index, each with its synonyms.

    Returns:
        1000 names, in the order of the outputs of every ImageNet classifier.

    Raises:
        RuntimeError: if the package tensorflow-datasets, which has the names, is missing or keeps them elsewhere.

    Example:
        >>> import jaxviz
        >>> jaxviz.class_names()[281]
        'tabby, tabby cat'
    """
    # Importing TensorFlow Datasets takes seconds; the list is a literal in one of its files, so that file is read.
    spec = importlib.util.find_spec("tensorflow_datasets")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "expected the package tensorflow-datasets, which has the class names: pip install tensorflow-datasets, "
            "which is in the extra jaxviz-cnn[data]"
        )
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


def class_index(name_or_index: str | int, *, classes: Sequence[str] | None = None) -> int:
    """Return the index of a class, given as a name, one of its synonyms, or the index itself.

    Case does not matter. A class's whole name comes before another's synonym: `maillot` is 638, though 639 is
    `maillot, tank suit`. A negative index counts from the end: -1 is the last class, 999.

    Args:
        name_or_index: a class's whole name or one of its synonyms; or its index, as a number or as text.
        classes: the names of a network's classes, in order (`Network.classes`); None: ImageNet's.

    Returns:
        The index, from 0 to one less than the number of classes.

    Raises:
        ValueError: if no class has this name (the message lists similar ones), if several have it, or if the index is
            out of range. A number given as text is also refused if another class has it as its name.

    Example:
        >>> import jaxviz
        >>> jaxviz.class_index("Tabby"), jaxviz.class_index("tabby, tabby cat"), jaxviz.class_index("281")
        (281, 281, 281)
        >>> jaxviz.class_index("dog", classes=["cat", "dog"])
        1
    """
    names = class_names() if classes is None else tuple(classes)
    what = "an ImageNet class" if classes is None else f"one of {len(names)} classes"
    text = str(name_or_index).strip().casefold()
    whole, synonyms = _indices(names)
    indices = whole.get(text) or synonyms.get(text) or []
    if text.removeprefix("-").isdecimal():
        number = int(text)
        if not indices or not isinstance(name_or_index, str):
            return _checked(number, len(names), what)
        if -len(names) <= number < len(names):
            indices = sorted({number % len(names), *indices})
    if len(indices) == 1:
        return indices[0]
    if indices:
        raise ValueError(
            f"expected the name of one class, got {name_or_index!r}, which may be {_listing(indices, names)}"
        )
    raise ValueError(f"expected the name or index of {what}, got {name_or_index!r}{_similar(text, names)}")


@functools.lru_cache(maxsize=8)
def _indices(names: tuple[str, ...]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return the indices of classes by their whole names and by their synonyms, in lower case."""
    whole: dict[str, list[int]] = {}
    synonyms: dict[str, list[int]] = {}
    for index, name in enumerate(name.casefold() for name in names):
        whole.setdefault(name, []).append(index)
        for synonym in _synonyms(name):
            synonyms.setdefault(synonym, []).append(index)
    return whole, synonyms


def _checked(index: int, count: int, what: str) -> int:
    if not -count <= index < count:
        raise ValueError(
            f"expected the index of {what}, 0 to {count - 1}, got {index}; -1 to -{count} count from the end"
        )
    return index % count


def _synonyms(name: str) -> set[str]:
    """Return the names between commas, with and without what stands in parentheses: `crane (bird)`, `crane`."""
    synonyms = {synonym.strip() for synonym in name.split(",")}
    return synonyms | {synonym.partition(" (")[0] for synonym in synonyms}


def _similar(text: str, names: Sequence[str]) -> str:
    owners = {synonym: index for index, name in enumerate(names) for synonym in _synonyms(name.casefold())}
    containing = [synonym for synonym in owners if text in synonym.split()]
    similar = containing + get_close_matches(text, owners, n=5)
    indices = list(dict.fromkeys(owners[synonym] for synonym in similar))[:8]
    return f"; similar: {_listing(indices, names)}" if indices else ""


def _listing(indices: list[int], names: Sequence[str]) -> str:
    return "; ".join(f"{index} {names[index]!r}" for index in indices)
