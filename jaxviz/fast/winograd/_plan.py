"""How the work of a convolution is cut into items that threads take in turn, and where their memory lies."""

import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

TILES = {4: 56, 2: 112}  # of a block, at most, for each side of a tile: all of a step then fits into 2 MB of cache
CHANNELS = 64  # that are multiplied at once, in and out
WORK = 2e7  # products for which another thread pays
THREADS = 1024  # at most
GRAIN = 32  # channels in and out have to be a multiple of


class Plan(NamedTuple):
    """Numbers of 32 bits that the machine code reads: all that differs between one convolution and another."""

    height: int  # of the images
    width: int
    inputs: int  # channels
    outputs: int
    results_down: int
    results_across: int
    above: int  # rows and columns of zeros before an image
    left: int
    adjoint: int  # 0 or 1
    tiles_across: int
    tiles_each: int  # of an image
    tiles: int  # of all images
    block: int  # tiles that go through all steps together
    groups: int  # into which the channels out are divided where blocks are too few for the threads
    panels: int  # of two vectors of channels out each, that are multiplied with a block before the next are
    items: int  # pairs of a block and a group
    threads: int
    scratch: int  # floats of memory that a thread has to itself: values of a block at the points, then
    zeros: int  # where its zeros are, the pixel that lies beyond an image
    nowhere: int  # where results go that lie beyond an image
    kernels: int  # where kernels are at the points
    sums: int  # where sums of their products are
    next_value: int  # how far the values at a point are from those at the next
    next_kernel: int
    next_sum: int


def plan(
    images: Sequence[int], outputs: int, padding: Sequence[tuple[int, int]], *, adjoint: bool, side: int, lanes: int
) -> Plan:
    """Plan the convolution of images of some shape, with vectors of some lanes."""
    count, height, width, inputs = images
    down, across = result_size(images, padding)
    tiles_down, tiles_across = -(-down // side), -(-across // side)
    tiles, points = count * tiles_down * tiles_across, (side + 2) ** 2
    products = points * tiles * inputs * outputs
    threads = int(min(len(os.sched_getaffinity(0)), THREADS, max(1, products // WORK)))
    # As many items for each thread: blocks of tiles, or where those are too few, groups of channels out.
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
    """Return how many results there are, down and across."""
    return [size + sum(pads) - 2 for size, pads in zip(images[1:3], padding, strict=True)]


def _apart(count: int) -> int:
    """Return how far apart so many numbers of one point and the next are to lie.

    A multiple of 4096 bytes and a line more: all points' numbers for one tile are then in different sets of the cache.
    """
    return -(-count // 1024) * 1024 + 16
