"""Axes of tokens: where each of them lies in the image, in rows and in columns.

A map's rows and columns that a reshape puts on one axis are two parts of it. With a class token in front they are one
part, of "hw", whose line has a row and a column for each token: NaN for one that lies nowhere.
"""

from collections.abc import Sequence

import numpy as np

from jaxviz.program._axis_lines import Axis, Part, from_line, letters_of, line_of, lost, mean, plain_axis, size_of


def places_of(axis: Axis) -> np.ndarray | None:
    """Return the row and the column of each token, `(size, 2)`; None where that is not known, or for another axis."""
    if sorted(letters_of(axis)) != ["h", "w"] or not size_of(axis):
        return None
    places = np.full((size_of(axis), 2), np.nan)
    for letters in {part.of for part in axis if part.of}:
        along = _of_digits(axis, letters)
        if along is None or len(letters) != along.ndim:
            return None
        places[:, ["hw".index(letter) for letter in letters]] = along.reshape(len(places), -1)
    return places if sum(len(part) for part in {part.of for part in axis}) == 2 else None


def _of_digits(axis: Axis, letters: str) -> np.ndarray | None:
    """Return what several digits of one line say of each place of an axis."""
    own = [(part, at) for at, part in enumerate(axis) if part.of == letters]
    own.sort(key=lambda pair: -pair[0].stride)
    line = own[0][0].line
    if line is None or any(part.line is not line for part, _ in own):
        return None
    sizes = [part.size for part in axis]
    number, stride = np.zeros(size_of(axis), int), own[-1][0].stride
    for (part, at), (after, _) in zip(own, [*own[1:], (None, 0)], strict=True):
        if after is not None and part.stride != after.size * after.stride:
            return None
        digit = np.arange(len(number)) // int(np.prod(sizes[at + 1 :], dtype=int)) % part.size
        number += digit * (part.stride // stride)
    digits = line.reshape(-1, int(np.prod([part.size for part, _ in own])), stride, *line.shape[1:])
    if not all(np.array_equal(digits[0], other, equal_nan=True) for other in digits[1:]):
        return None  # the same digits stand for several places
    return np.asarray(mean(np.moveaxis(digits[0], 1, -1)))[number]


def from_places(places: np.ndarray) -> Axis:
    """Return an axis of tokens: as rows and columns one after the other, if it has nothing else."""
    shape = grid_shape(places)
    if shape is not None and len(places) == shape[0] * shape[1]:
        for (height, width), order, letters in ((shape, (0, 1), "hw"), (shape[::-1], (1, 0), "wh")):
            outer, inner = (places[:, axis].reshape(height, width) for axis in order)
            if np.all(outer == outer[:, :1]) and np.all(inner == inner[:1]):
                return (*from_line(letters[0], outer[:, 0]), *from_line(letters[1], inner[0]))
    return (Part(len(places), "hw", places),)


def joined(axes: Sequence[Axis]) -> Axis:
    """Return the axis along which several are one behind the other; what lies nowhere is no place of it."""
    size, letters = sum(map(size_of, axes)), "".join({letter for axis in axes for letter in letters_of(axis)})
    if not letters:
        return plain_axis(size)
    find = line_of if len(letters) == 1 else places_of
    axes = [axis for axis in axes if size_of(axis)]
    told = [find(axis) if letters_of(axis) else None for axis in axes]
    if any(letters_of(axis) and found is None for axis, found in zip(axes, told, strict=True)):
        return lost(size, letters)
    if all(found is None for found in told):
        return plain_axis(size)
    ends = next(found.shape[1:] for found in told if found is not None)
    lines = [
        np.full((size_of(axis), *ends), np.nan) if found is None else found
        for axis, found in zip(axes, told, strict=True)
    ]
    return from_line(letters, np.concatenate(lines)) if len(letters) == 1 else from_places(np.concatenate(lines))


def grid_shape(places: np.ndarray) -> tuple[int, int] | None:
    """Return how many rows and columns tokens fill, each place once; None if they fill none."""
    index = grid_index(places)
    return None if index is None else (index.shape[0], index.shape[1])


def grid_index(places: np.ndarray) -> np.ndarray | None:
    """Return which token lies at each row and column, `(rows, columns)`; None if there is none, or more than one."""
    tokens = np.flatnonzero(~np.isnan(places).any(1))
    if not len(tokens):
        return None
    rows, columns = (np.unique(places[tokens, axis], return_inverse=True) for axis in (0, 1))
    index = np.full((len(rows[0]), len(columns[0])), -1)
    index[rows[1], columns[1]] = tokens
    return index if index.size == len(tokens) and (index >= 0).all() else None
