"""The mathematics of Winograd convolutions: the matrices, and the whole algorithm in NumPy.

Along each axis, a tile of `side` outputs needs `side + 2` inputs, and a kernel has 3 taps. As polynomials these, and
their product, are determined by their values at `side + 2` points, one of them infinity. In both axes together, a tile
of outputs costs `(side + 2) ** 2` products for each pair of channels, instead of `9 * side ** 2`.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np

POINTS = {4: (0, 0.75, -0.75, 1.5, -1.5), 2: (0, 1, -1)}  # 3/4: a fifth of the rounding error of 0, ±1, ±2


class Matrices(NamedTuple):
    """Map inputs (s + 2, s + 2) and kernel (s + 2, 3) to the points, and results back (s, s + 2)."""

    inputs: np.ndarray
    kernel: np.ndarray
    back: np.ndarray


@functools.cache
def matrices(side: int) -> Matrices:
    """Return the matrices for tiles of `side` outputs."""
    points = POINTS[side]
    others = [[q for q in points if q != p] for p in points]
    scale = [np.prod([p - q for q in roots]) for p, roots in zip(points, others, strict=True)]
    inputs = np.zeros((side + 2, side + 2))
    inputs[:-1, :-1] = [np.poly(roots)[::-1] for roots in others]
    inputs[-1] = np.poly(points)[::-1]
    kernel = np.array([[p**power / s for power in range(3)] for p, s in zip(points, scale, strict=True)] + [[0, 0, 1]])
    back = np.array([[p**power for p in points] + [power == side - 1] for power in range(side)])
    return Matrices(inputs, kernel, back)


def mirrored(rows: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of rows that differ in the signs of some, but not all, entries: those of points p and -p."""
    found = []
    for (i, one), (j, other) in itertools.combinations(enumerate(rows.tolist()), 2):
        same_signs = {a == b for a, b in zip(one, other, strict=True) if a}
        if list(map(abs, one)) == list(map(abs, other)) and same_signs == {True, False}:
            found.append((i, j))
    return found


def convolve(images: np.ndarray, kernel: np.ndarray, padding: tuple[tuple[int, int], ...], side: int) -> np.ndarray:
    """Convolve `(n, h, w, in)` with `(3, 3, in, out)`, in the same steps as the machine code, which goes by blocks.

    Tests compare the two. Indices: image n; tile t down, u across; point p down, q across; channel c in, k out; row and
    column of a tile of inputs i, j, of outputs a, b, of the kernel r, s.
    """
    of_inputs, of_kernel, back = matrices(side)
    (count, height, width, channels), ((above, below), (left, right)) = images.shape, padding
    down, across = height + above + below - 2, width + left + right - 2
    tiles_down, tiles_across = -(-down // side), -(-across // side)

    # 1. Cut the zero-padded images into tiles that overlap by two rows and columns.
    bordered = np.zeros((count, side * tiles_down + 2, side * tiles_across + 2, channels), images.dtype)
    bordered[:, above : above + height, left : left + width] = images
    tiles = np.lib.stride_tricks.sliding_window_view(bordered, (side + 2, side + 2), axis=(1, 2))[:, ::side, ::side]

    # 2. Evaluate tiles and kernel at the points.
    values = np.einsum("pi,qj,ntucij->pqntuc", of_inputs, of_inputs, tiles, optimize=True)
    kernels = np.einsum("pr,qs,rsck->pqck", of_kernel, of_kernel, kernel, optimize=True)

    # 3. Multiply at each point: one matrix product, (tiles, channels in) with (channels in, channels out).
    sums = np.einsum("pqntuc,pqck->pqntuk", values, kernels, optimize=True)

    # 4. Transform the sums back to tiles of results, and crop the excess of the last tiles.
    results = np.einsum("ap,bq,pqntuk->ntaubk", back, back, sums, optimize=True)
    return results.reshape(count, side * tiles_down, side * tiles_across, -1)[:, :down, :across]
