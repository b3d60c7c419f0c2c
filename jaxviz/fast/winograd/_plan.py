"""How a convolution's work is divided into items that threads take in turn, and how their memory is laid out."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from jaxviz.fast.machine_code._machine import threads_for

TILES = {4: 56, 2: 112}  # at most in a block, by side of a tile: each step then fits into 2 MB of cache
CHANNELS = 64  # multiplied at once, in and out
WORK = 2e7  # products that make another thread worthwhile
GRAIN = 32  # numbers of channels in and out must be multiples of this


class Plan(NamedTuple):
    """The 32-bit integers that the machine code reads: all that differs between convolutions."""

    height: int  # of the images
    width: int
    inputs: int  # channels
    outputs: int
    results_down: int
    results_across: int
    above: int  # rows and columns of padding before an image
    left: int
    adjoint: int  # 0 or 1
    tiles_across: int
    tiles_each: int  # per image
    tiles: int  # of all images
    block: int  # tiles that go through all steps together
    groups: int  # into which the channels out are divided if there are fewer blocks than threads
    panels: int  # of two vectors of channels out each, multiplied with a block at a time
    items: int  # pairs of a block and a group
    threads: int
    scratch: int  # floats of scratch memory per thread: a block's values at the points, then, at these offsets,
    zeros: int  # zeros, the pixel outside an image
    nowhere: int  # a place for results outside an image
    kernels: int  # kernels' values at the points
    sums: int  # sums of products
    next_value: int  # distance from the values at one point to those at the next
    next_kernel: int
    next_sum: int


def plan(
    images: Sequence[int], outputs: int, padding: Sequence[tuple[int, int]], *, adjoint: bool, side: int, lanes: int
) -> Plan:
    """Plan a convolution of images of the given shape, with vectors of `lanes` floats."""
    count, height, width, inputs = images
    down, across = result_size(images, padding)
    tiles_down, tiles_across = -(-down // side), -(-across // side)
    tiles, points = count * tiles_down * tiles_across, (side + 2) ** 2
    products = points * tiles * inputs * outputs
    threads = threads_for(products, WORK)
    # The same number of items for each thread: blocks of tiles or, if those are too few, groups of channels out.
    blocks = -(-tiles // TILES[side])
    if blocks >= threads:
        blocks = -(-blocks // threads) * threads
    block = -(-tiles // blocks)
    blocks = -(-tiles // block)
    groups = min(outputs // (2 * lanes), -(-threads // blocks))

    next_value, next_kernel, next_sum = map(_apart, (block * inputs, CHANNELS**2, block * CHANNELS))
    sizes = (points * next_value, inputs, outputs, points * next_kernel, points * next_sum)
    zeros, nowhere, kernels, sums, scratch = itertools.accumulate(sizes)
    return Plan(
        height=height, width=width, inputs=inputs, outputs=outputs, results_down=down, results_across=across,
        above=padding[0][0], left=padding[1][0], adjoint=int(adjoint), tiles_across=tiles_across,
        tiles_each=tiles_down * tiles_across, tiles=tiles, block=block, groups=groups,
        panels=CHANNELS // (2 * lanes), items=blocks * groups, threads=threads, scratch=scratch, zeros=zeros,
        nowhere=nowhere, kernels=kernels, sums=sums, next_value=next_value, next_kernel=next_kernel, next_sum=next_sum,
    )  # fmt: skip


def result_size(images: Sequence[int], padding: Sequence[tuple[int, int]]) -> list[int]:
    """Return the number of results, down and across."""
    return [size + sum(pads) - 2 for size, pads in zip(images[1:3], padding, strict=True)]


def _apart(count: int) -> int:
    """Return the distance between the `count` numbers at one point and those at the next.

    A multiple of 4096 bytes plus one cache line puts the numbers for one tile at all points into different cache sets.
    """
    return -(-count // 1024) * 1024 + 16
