"""Which row each image has, and the rows in memory."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxviz._progress import Progress
from jaxviz.show._shown import Table, shown

_SHOWN, _NAMED = 64, 5  # rows, and names, in a notebook


class Rows(NamedTuple):
    """The results of a batch."""

    names: list[str]
    hashes: list[str]
    """Hashes of the images; empty if not needed."""
    values: Any
    skipped: dict[str, str]
    marks: dict[str, str]
    """The source's marks of the images, including those that could not be read."""
    labels: dict[str, Any]


class _ThreeParts(NamedTuple):
    values: Any
    ids: list[str]
    skipped: dict[str, str]


def _first(found: "Features") -> dict[str, Any]:
    """Return the first rows as one map, or the first maps, each as its mean over channels."""
    some = np.asarray(found.values[:_SHOWN])
    return {"": some[None] if some.ndim == 2 else some.reshape(*some.shape[:3], -1).mean(-1)}


def _listed(found: "Features") -> Table:
    labels = found.labels or [None] * len(found.ids)
    rows = [(name, "" if label is None else label) for name, label in zip(found.ids, labels, strict=True)][:_NAMED]
    skipped = [(name, f"skipped: {why}") for name, why in found.skipped.items()][:_NAMED]
    return ("image", "label"), [*rows, *skipped]


@shown("maps", _first, table=_listed)
class Features(Progress, _ThreeParts):
    """A row for each image that could be read; unpacks as `values, ids, skipped`.

    Attributes:
        values: `(n, f)` or whole maps `(n, h, w, c)`: a NumPy array, or an array on disk whose slices `[i:j]` are read
            by `numpy.asarray`.
        ids: the images' names.
        skipped: for each image or folder that could not be read, why.
        labels: each image's label in the source (numbers, text, or lists of them), None for an image without one; None
            if no image has one.
    """

    labels: list[Any] | None = None

    def __new__(
        cls, values: Any, ids: list[str], skipped: dict[str, str], labels: list[Any] | None = None
    ) -> "Features":
        """Return the three parts, with the labels as an attribute."""
        found = super().__new__(cls, values, ids, skipped)
        found.labels = labels
        return found

    def _replace(self, **changes: Any) -> "Features":  # type: ignore[override]  # keeps the labels
        labels = changes.pop("labels", self.labels)
        found = super()._replace(**changes)
        found.labels = labels
        return found


class Kept:
    """Which row each image has, and why others have none; if a store lists an image twice, the last entry counts."""

    on_disk = False

    def __init__(self, row: tuple[int, ...]):
        self.row = row
        self.count = 0
        self.places: dict[str, int] = {}
        self.skipped: dict[str, str] = {}
        self.marks: dict[str, str] = {}
        self.labels: dict[str, Any] = {}

    def has(self, name: str, mark: str) -> bool:
        return (name in self.places or name in self.skipped) and mark in ("", self.marks.get(name, mark))

    def list_rows(
        self, names: Iterable[str], skipped: dict[str, str], marks: dict[str, str], labels: dict[str, Any]
    ) -> None:
        for name in names:
            self.skipped.pop(name, None)
            self.labels.pop(name, None)
            self.places[name] = self.count
            self.count += 1
        for name, why in skipped.items():
            self.places.pop(name, None)
            self.skipped[name] = why
        self.marks |= marks
        self.labels |= labels

    def of_source(self, values: Any, ids: Sequence[str]) -> Features:
        there = [name for name in ids if name in self.places]
        places = [self.places[name] for name in there]
        rows = slice(0, len(places)) if places == list(range(len(places))) else np.array(places)
        labels = [self.labels.get(name) for name in there]
        skipped = {name: self.skipped[name] for name in ids if name in self.skipped}
        return Features(values[rows], there, skipped, labels if any(x is not None for x in labels) else None)


class InMemory(Kept):
    """Rows in memory, in the order they arrive."""

    def __init__(self, row: tuple[int, ...]):
        super().__init__(row)
        self.values = np.empty((0, *row), np.float32)

    def add(self, rows: Rows) -> None:
        count = self.count + len(rows.names)
        if count > len(self.values):  # grow by half, so that each row is copied only a few times
            larger = np.empty((max(count, 3 * len(self.values) // 2), *self.row), np.float32)
            larger[: self.count] = self.values[: self.count]
            self.values = larger
        self.values[self.count : count] = rows.values
        self.list_rows(rows.names, rows.skipped, rows.marks, rows.labels)

    def so_far(self, ids: Sequence[str]) -> Features:
        return self.of_source(self.values[: self.count], ids)

    def found(self, ids: Sequence[str]) -> Features:
        self.values = self.values[: self.count].copy()  # frees the unused rows
        return self.so_far(ids)


def hash_of(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.data).hexdigest()
