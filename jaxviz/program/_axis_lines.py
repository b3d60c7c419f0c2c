"""Axes as sequences of digits of places on lines: what a reshape merges and splits."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """One digit of an axis. `of` has the letters of what may lie along it: n for images, h for rows, w for columns."""

    size: int
    of: str = ""
    line: np.ndarray | None = None  # where each place lies, NaN for padding; of "hw" `(size, 2)`; None: unknown
    stride: int = 1  # of this digit in the line


Axis = tuple[Part, ...]
Axes = tuple[Axis, ...]
Operand = Axes | None
"""The axes of an operand; None for one that does not depend on the images."""


def plain_axis(size: int) -> Axis:
    return (Part(size),)


def unknown(shape: Sequence[int], letters: str) -> Axes:
    return tuple(lost(size, letters) for size in shape)


def lost(size: int, letters: str) -> Axis:
    return (Part(size, "".join(letter for letter in "nhw" if letter in letters)),)


def from_line(letter: str, line: np.ndarray) -> Axis:
    return (Part(len(line), letter, line),)


def letters_of(axis: Axis) -> str:
    return "".join(letter for letter in "nhw" if any(letter in part.of for part in axis))


def size_of(axis: Axis) -> int:
    return math.prod(part.size for part in axis)


def line_of(axis: Axis) -> np.ndarray | None:
    """Return where each place of an axis lies, if that is known and only one thing lies along it."""
    told = [part for part in axis if part.of]
    if len(told) != 1 or told[0].line is None or told[0].line.ndim > 1:
        return None
    part, at = told[0], axis.index(told[0])
    if not part.size:
        return part.line  # of length 0, as jnp.roll by nothing joins
    digits = np.asarray(part.line).reshape(-1, part.size, part.stride)
    if not all(np.array_equal(digits[0], other, equal_nan=True) for other in digits[1:]):
        return None  # the same digit stands for several places
    if part.of == "n" and part.stride > 1 and not np.all(digits == digits[..., :1]):
        return None
    before, after = (size_of(parts) for parts in (axis[:at], axis[at + 1 :]))
    return np.tile(np.repeat(mean(digits[0]), after), before)


def mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN; NaN if there is nothing else."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    return np.where(count > 0, np.where(there, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def is_images(axis: Axis, count: int) -> bool:
    line = line_of(axis) if letters_of(axis) == "n" else None
    return line is not None and np.array_equal(line, np.arange(count))


def in_order(line: np.ndarray | None) -> bool:
    """Tell rows from top to bottom, or columns from left to right, as they lie in the image.

    Beyond the image's edges anything may stand, such as a mirrored border: what counts is one stretch that rises, has
    all that there is, and is most of the line; in a mixture of rows the first may come right before the last by chance.
    """
    if line is None:
        return False
    places = line[~np.isnan(line)]
    if not len(places) or (len(places) > 1 and places.min() == places.max()):
        return False
    stretches = np.split(places, np.flatnonzero(np.diff(places) < 0) + 1)
    return any(
        stretch.min() == places.min() and stretch.max() == places.max() and 2 * len(stretch) >= len(places)
        for stretch in stretches
    )


def met(first: Axis, second: Axis) -> Axis:
    """Return the axis along which two values meet, position by position."""
    if not letters_of(second):
        return first
    if not letters_of(first):
        return second
    if len(first) == len(second) and all(map(_agree, first, second)):
        return first
    letters = "".join({*letters_of(first), *letters_of(second)})
    if letters in ("h", "w") and in_order(line_of(first)) and in_order(line_of(second)):
        return first
    return lost(size_of(first), letters)


def _agree(first: Part, second: Part) -> bool:
    if (first.size, first.of, first.stride) != (second.size, second.of, second.stride):
        return False
    if first.line is second.line:
        return True
    if first.line is None or second.line is None or len(first.line) != len(second.line):
        return False
    same = first.line.shape == second.line.shape and np.allclose(first.line, second.line, equal_nan=True)
    return same or (first.of in ("h", "w") and in_order(first.line) and in_order(second.line))


def merged(parts: Sequence[Part]) -> list[Part]:
    """Put digits of one line together that follow each other, and what nothing is known to lie along."""
    result: list[Part] = []
    for part in parts:
        last = result[-1] if result else None
        if last is not None and not last.of and not part.of:
            result[-1] = Part(last.size * part.size)
        elif (
            last is not None
            and last.line is not None
            and last.line is part.line
            and last.stride == part.stride * part.size
        ):
            result[-1] = part._replace(size=last.size * part.size)
        else:
            result.append(part)
    return result
