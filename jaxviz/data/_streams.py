"""Data sets that give their images one after another: tf.data, WebDataset, iterable data sets of any framework.

They have neither a length nor numbers. So a stream is gone through once to count its images, with a hash of each, and
again to read them; what comes in another order, or is changed at random, is told by the hashes and never taken for
what was counted.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxviz.data._base import Source, checked
from jaxviz.data._elements import Columns, columns_of, is_tensor, mark_of, parts_of, pixels_of, told
from jaxviz.image._checks import ImageError


def is_stream(source: Any) -> bool:
    """Tell what can be gone through any number of times, but not asked for by number."""
    if isinstance(source, str | bytes | os.PathLike | Mapping | set | frozenset) or is_tensor(source):
        return False
    numbered = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    # What has `__next__` is gone once it has been gone through.
    again = hasattr(source, "as_numpy_iterator") or (hasattr(source, "__iter__") and not hasattr(source, "__next__"))
    return again and not numbered


def open_stream(source: Any) -> Source:
    """Return the images of a stream, each with a hash as its mark."""
    begin: Callable[[], Iterable[Any]] = getattr(source, "as_numpy_iterator", lambda: source)
    name = f"{type(source).__module__.split('.')[0]}.{type(source).__name__}"
    _check_finite(source, name)
    columns = columns_of(source)
    ids, marks = _counted(begin, name, columns)
    elements = _InOrder(begin, name)

    def labeled(i: int) -> tuple[Any, Any]:
        element = elements[i]
        if _mark(element, columns) != marks[i]:
            raise ImageError(
                f"{name}: expected the same images each time, got another one at place {i}: leave out what shuffles or "
                "changes them, or give a list of them, as in list(source)"
            )
        image, label = parts_of(element, columns)
        return pixels_of(image), told(label)

    return checked(Source(ids, lambda i: labeled(i)[0], lambda i: marks[i], labeled, name, in_order=True))


def _check_finite(source: Any, name: str) -> None:
    """Raise ImageError for a data set of TensorFlow that says it does not end."""
    cardinality = getattr(source, "cardinality", None)
    if callable(cardinality) and int(np.asarray(cardinality())) == -1:
        raise ImageError(f"{name}: expected images that end, got a data set that repeats them: leave .repeat() out")


def _counted(begin: Callable[[], Iterable[Any]], name: str, columns: Columns | None) -> tuple[list[str], list[str]]:
    """Go through a stream once; return the names of its elements, and what tells whether they are the same later."""
    keys: list[tuple[str, str]] = []
    marks: list[str] = []
    seen: set[tuple[str, str]] = set()
    for i, element in enumerate(_all_of(begin, name)):
        key = _key_of(element)
        if key and key in seen:
            raise ImageError(f"{name}: expected each image once, got {key[1]} twice, as where shards are resampled")
        if i == 0:
            _check_single(element, name, columns)
        seen |= {key} if key else set()
        keys += [key] if key else []
        marks.append(_mark(element, columns))
    if len(keys) < len(marks):
        return [str(i) for i in range(len(marks))], marks
    plain = len({key for _, key in keys}) == len(keys)
    return [key if plain else f"{os.path.basename(shard)}/{key}" for shard, key in keys], marks


def _key_of(element: Any) -> tuple[str, str] | None:
    """Return the shard and the key of a sample of WebDataset."""
    if not isinstance(element, Mapping) or "__key__" not in element:
        return None
    return str(element.get("__url__", "")), str(element["__key__"])


def _check_single(element: Any, name: str, columns: Columns | None) -> None:
    image, _ = parts_of(element, columns)
    if getattr(image, "ndim", 0) == 4:
        raise ImageError(
            f"{name}: expected images one by one, got a batch of shape {tuple(image.shape)}: leave batching out, or "
            "undo it, as with .unbatch()"
        )


def _mark(element: Any, columns: Columns | None) -> str:
    """Return a hash of an element's image with its label, or what is wrong with it."""
    try:
        image, label = parts_of(element, columns)
    except ImageError as error:
        return f"none {error}"
    return mark_of(image) + (f" {told(label)}" if label is not None else "")


def _all_of(begin: Callable[[], Iterable[Any]], name: str) -> Iterator[Any]:
    """Yield the elements of a stream; whatever it raises is an ImageError that says where."""
    elements: Iterator[Any] | None = None
    for i in itertools.count():
        try:
            elements = iter(begin()) if elements is None else elements
            element = next(elements)
        except StopIteration:
            return
        except Exception as error:
            raise ImageError(f"{name}: expected an image at place {i}, got {type(error).__name__}: {error}") from error
        yield element


class _InOrder:
    """The elements of a stream by their numbers: for an earlier one than the last, it is gone through again."""

    def __init__(self, begin: Callable[[], Iterable[Any]], name: str):
        self.begin, self.name = begin, name
        self.lock = threading.Lock()
        self.elements: Iterator[Any] = iter(())
        self.number, self.element = -1, None

    def __getitem__(self, i: int) -> Any:
        with self.lock:
            if i < self.number or self.number < 0:
                self.elements, self.number = _all_of(self.begin, self.name), -1
            while self.number < i:
                try:
                    self.element = next(self.elements)
                except StopIteration:
                    raise ImageError(f"{self.name}: expected as many images as before, got {self.number + 1}") from None
                self.number += 1
            return self.element
