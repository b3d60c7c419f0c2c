"""The loops of Winograd convolutions, in LLVM IR. `_points.convolve` is the same algorithm in NumPy.

A thread (`work`) takes blocks of about 50 tiles through all steps, one block after another, each while it is in cache:

1. `_to_points` evaluates the tiles of a block at the points, for all channels in;
2. `_kernel_to_points` does so with the kernel, 64 channels in and 64 out at a time;
3. `_multiply` multiplies the two at one point and adds the products to sums;
4. `_back` transforms the sums into results.

The comment above each function is pseudocode in NumPy's terms: `inputs`, `kernel` and `back` are the matrices of
`_points`, and `:` stands for the `lanes` channels that a vector register holds. A panel is two registers of channels
out.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from jaxviz.fast.machine_code._builder import BIT, BYTE, FLOAT, INT, POINTER, Builder
from jaxviz.fast.machine_code._jobs import Program, items, job_of
from jaxviz.fast.machine_code._jobs import numbers as numbers_of
from jaxviz.fast.winograd._plan import CHANNELS, Plan
from jaxviz.fast.winograd._points import matrices, mirrored

ARGUMENTS, RESULTS = ("images", "kernel", "plan"), ("results", "scratch")
Job = job_of(*ARGUMENTS, *RESULTS)


def program(side: int, lanes: int, rows: int) -> Program:
    """Return the convolution with tiles of `side` outputs, vectors of `lanes` floats and `rows` tiles in registers."""
    of_thread = functools.partial(work, side=side, lanes=lanes, rows=rows)
    return Program(f"jaxviz_winograd{side}_{lanes}", ARGUMENTS, RESULTS, Plan, lanes, of_thread)


def numbers(b: Builder, plan: Any, *names: str) -> Any:
    """Load numbers of the plan by name."""
    return numbers_of(b, Plan, plan, *names)


# while (item := taken++) < items:
#     values = _to_points(the block of tiles of the item)
#     for each 64 channels out of the group of the item:
#         for each 64 channels in:
#             kernels = _kernel_to_points(these channels in, these channels out)
#             sums[point, panel] += values[point, these channels in] @ kernels[point, panel], each point and panel
#         results[these tiles, these channels out] = _back(sums)
def work(module: ir.Module, side: int, lanes: int, rows: int) -> ir.Function:
    """Define a thread's function: it takes items, each some tiles and some channels out, until none are left."""
    to_points, kernel_to_points, back = (part(module, side, lanes) for part in (_to_points, _kernel_to_points, _back))
    multiply = _multiply(module, rows, lanes)
    b = Builder(module, f"work{side}", [POINTER], lanes, returns=POINTER)
    (job,) = b.function.args
    images, kernel, plan, results, scratch = (
        b.load_field(job, Job, name) for name in ("images", "kernel", "plan", "results", "scratch")
    )
    n = numbers(
        b, plan, "inputs", "outputs", "tiles", "block", "groups", "panels", "items", "scratch", "zeros", "nowhere",
        "kernels", "sums", "next_value", "next_kernel", "next_sum",
    )  # fmt: skip
    thread = b.atomic_rmw("add", b.field(job, Job, "started"), INT(1), "monotonic")
    values = b.at(scratch, b.mul(thread, n.scratch))
    zeros, nowhere, kernels, sums = (b.at(values, place) for place in (n.zeros, n.nowhere, n.kernels, n.sums))
    memset = module.declare_intrinsic("llvm.memset", [POINTER, INT])
    b.call(memset, [zeros, BYTE(0), b.mul(n.inputs, INT(4)), BIT(0)])
    all_panels = b.udiv(n.outputs, INT(2 * lanes))
    with items(b, Job, job, n.items) as item:
        index, group = b.divmod(item, n.groups)
        first = b.mul(index, n.block)
        count = b.least(n.block, b.sub(n.tiles, first))
        b.call(to_points, [images, values, zeros, first, count, plan])
        each = b.udiv(b.add(b.add(all_panels, n.groups), INT(-1)), n.groups)
        begin = b.mul(group, each)
        end = b.least(b.add(begin, each), all_panels)
        with b.loop(end, n.panels, begin) as panel:
            panels, out = b.least(n.panels, b.sub(end, panel)), b.mul(panel, INT(2 * lanes))
            with b.loop(n.inputs, CHANNELS) as channel:
                channels = b.least(INT(CHANNELS), b.sub(n.inputs, channel))
                b.call(kernel_to_points, [kernel, kernels, channel, channels, out, panels, plan])
                _multiply_points(b, n, side, multiply, (values, kernels, sums), channel, channels, panels, count)
            b.call(back, [sums, results, nowhere, first, count, out, panels, plan])
    b.ret(ir.Constant(POINTER, None))
    return b.function


# for point in range((side + 2) ** 2):
#     for p in range(panels):
#         sums[point, p] += values[point, channel : channel + channels] @ kernels[point, p]
def _multiply_points(
    b: Builder, n: Any, side: int, multiply: ir.Function, arrays: Sequence[Any], channel: Any, channels: Any,
    panels: Any, count: Any,
) -> None:  # fmt: skip
    values, kernels, sums = arrays
    adds, blocks = b.icmp_unsigned("!=", channel, INT(0)), b.udiv(channels, INT(b.lanes))
    for_panel = b.mul(channels, INT(2 * b.lanes))
    with b.loop((side + 2) ** 2) as point:
        source = b.at(values, b.add(b.mul(n.next_value, point), b.mul(channel, n.block)))
        with b.loop(panels) as p:
            kernel_at = b.at(kernels, b.add(b.mul(n.next_kernel, point), b.mul(for_panel, p)))
            sums_at = b.at(sums, b.add(b.mul(n.next_sum, point), b.mul(b.mul(n.block, INT(2 * b.lanes)), p)))
            b.call(multiply, [source, kernel_at, sums_at, blocks, n.block, adds, count])


# for t in range(count):
#     pixels = images[the tile of side + 2 rows and columns that tile first + t of results needs], zeros outside
#     for c in range(0, channels in, lanes):
#         values[:, c / lanes, t, :] = inputs @ pixels[..., c:] @ inputs.T
def _to_points(module: ir.Module, side: int, lanes: int) -> ir.Function:
    """Fill `(points, channel blocks, tiles, lanes)` with the values of some tiles of the images at the points."""
    b = Builder(module, f"to_points{side}", [POINTER, POINTER, POINTER, INT, INT, POINTER], lanes)
    images, values, zeros, first, count, plan = b.function.args
    n = numbers(b, plan, "height", "width", "inputs", "above", "left", "block", "next_value")
    size = side + 2
    sources = b.memory(POINTER, size**2)
    blocks = b.udiv(n.inputs, INT(lanes))
    with b.loop(count) as t:
        image, row, column = _place_of_tile(b, plan, b.add(first, t), side)
        corner = (image, b.sub(row, n.above), b.sub(column, n.left), INT(0))
        _places(b, sources, size, images, corner, (n.height, n.width, n.inputs), zeros)
        with b.loop(blocks) as c:
            shift = b.mul(c, INT(lanes))
            tile = [
                [b.load_vector(b.at(b.load_pointer(sources, i * size + j), shift)) for j in range(size)]
                for i in range(size)
            ]
            found = _times_both(b, matrices(side).inputs, tile)
            target = b.at(values, c, t, 0, shape=(n.block, lanes))
            for point, value in enumerate(found):
                b.store_vector(value, b.at(target, b.mul(n.next_value, INT(point))))
    b.ret_void()
    return b.function


# for k, c in panels of channels out, channels in:
#     taps = kernel[:, :, c : c + lanes, k:], or for the adjoint kernel[::-1, ::-1, k:, c : c + lanes] transposed
#     for i in range(lanes):
#         values[:, panel of k, c + i, half of the panel, :] = kernel @ taps[:, :, i] @ kernel.T
def _kernel_to_points(module: ir.Module, side: int, lanes: int) -> ir.Function:
    """Fill `(points, panels, channels in, 2 lanes)` with the kernels' values at the points.

    For the adjoint, kernels are rotated by 180 degrees and their channels swapped.
    """
    b = Builder(module, f"kernel{side}", [POINTER, POINTER, INT, INT, INT, INT, POINTER], lanes)
    kernel, values, first, some, out, panels, plan = b.function.args
    n = numbers(b, plan, "inputs", "outputs", "adjoint", "next_kernel")
    turned = b.icmp_unsigned("!=", n.adjoint, INT(0))
    transposed = b.memory(b.vector, 9 * lanes)
    with b.loop(b.mul(panels, INT(2))) as half, b.loop(some, lanes) as c:
        panel, second = b.divmod(half, INT(2))
        k, channel = b.add(out, b.mul(half, INT(lanes))), b.add(first, c)
        with b.if_then(turned), b.loop(9) as tap:
            corner = b.at(kernel, b.sub(INT(8), tap), k, channel, shape=(n.outputs, n.inputs))
            rows = [b.load_vector(b.at(corner, b.mul(n.inputs, INT(i)))) for i in range(lanes)]
            for i, column in enumerate(b.transposed(rows)):
                b.store_vector(column, b.at(transposed, tap, i, 0, shape=(lanes, lanes)))
        taps = b.select(turned, transposed, b.at(kernel, channel, k, shape=(n.outputs,)))
        next_tap = b.select(turned, INT(lanes**2), b.mul(n.inputs, n.outputs))
        next_channel = b.select(turned, INT(lanes), n.outputs)
        with b.loop(lanes) as i:
            of_channel = b.at(taps, b.mul(i, next_channel))
            given = [
                [b.load_vector(b.at(of_channel, b.mul(next_tap, INT(3 * y + x)))) for x in range(3)] for y in range(3)
            ]
            target = b.at(values, panel, b.add(c, i), second, 0, shape=(some, 2, lanes))
            for point, value in enumerate(_times_both(b, matrices(side).kernel, given)):
                b.store_vector(value, b.at(target, b.mul(n.next_kernel, INT(point))))
    b.ret_void()
    return b.function


# for t in range(0, count, rows):
#     _multiply_rows(tiles t to t + rows)
# _multiply_rows(the rest)
def _multiply(module: ir.Module, rows: int, lanes: int) -> ir.Function:
    """Define the product of any number of tiles with a panel, `rows` at a time."""
    of_rows = [_multiply_rows(module, i, lanes) for i in range(1, rows + 1)]
    b = Builder(module, "multiply", [POINTER, POINTER, POINTER, INT, INT, BIT, INT], lanes)
    values, kernel, sums, *others, count = b.function.args

    def given(t: Any) -> list[Any]:
        return [b.at(values, b.mul(t, INT(lanes))), kernel, b.at(sums, b.mul(t, INT(2 * lanes))), *others]

    whole, rest = b.divmod(count, INT(rows))
    end = b.mul(whole, INT(rows))
    with b.loop(end, rows) as t:
        b.call(of_rows[-1], given(t))
    last, done = given(end), b.append_basic_block("done")
    cases = b.switch(rest, done)
    for i, function in enumerate(of_rows[:-1], 1):
        cases.add_case(INT(i), b.append_basic_block(f"some{i}"))
        b.position_at_end(cases.cases[-1][1])
        b.call(function, last)
        b.branch(done)
    b.position_at_end(done)
    b.ret_void()
    return b.function


# for channel in all channels:
#     for row, j in tiles, 2 registers of channels out:
#         sums[row, j, :] += values[channel, row] * kernel[channel, j, :]
def _multiply_rows(module: ir.Module, rows: int, lanes: int) -> ir.Function:
    """Add the products of some tiles with a panel of the kernels, at one point, to sums, two vectors for each tile.

    The sums stay in registers throughout the loop over channels.
    """
    b = Builder(module, f"multiply{rows}", [POINTER, POINTER, POINTER, INT, INT, BIT], lanes)
    values, kernel, sums_at, blocks, block, adds = b.function.args
    b.function.attributes.add("noinline")
    for array in (values, kernel, sums_at):
        array.add_attribute("noalias")
    cells = list(itertools.product(range(rows), range(2)))
    places = {(row, j): b.at(sums_at, (2 * row + j) * lanes) for row, j in cells}
    start = b.block
    with b.if_then(adds):
        earlier, loaded = {cell: b.load_vector(places[cell]) for cell in cells}, b.block
    sums: dict[Any, Any] = {cell: b.phi(b.vector) for cell in cells}
    for cell, total in sums.items():
        total.add_incoming(ir.Constant(b.vector, None), start)
        total.add_incoming(earlier[cell], loaded)
    with b.loop(blocks, carried=sums) as c:
        values_at, kernel_at = b.at(values, c, 0, 0, shape=(block, lanes)), b.at(kernel, c, 0, shape=(2 * lanes**2,))
        with b.loop(lanes, carried=sums) as channel:
            panel = [b.load_vector(b.at(kernel_at, channel, j * lanes, shape=(2 * lanes,))) for j in range(2)]
            column = b.at(values_at, channel)
            for row in range(rows):
                value = b.spread(b.load(b.at(column, row * lanes), align=4, typ=FLOAT))
                for j in range(2):
                    sums[row, j] = b.multiply_add(value, panel[j], sums[row, j])
    for cell in cells:
        b.store_vector(sums[cell], places[cell])
    b.ret_void()
    return b.function


# for t in range(count):
#     for half in the registers of all panels:
#         results[tile first + t, half:] = back @ sums[:, panel, t, half of the panel, :] @ back.T, inside the image
def _back(module: ir.Module, side: int, lanes: int) -> ir.Function:
    """Transform sums `(points, panels, tiles, 2 lanes)` into results, and write those inside the image."""
    b = Builder(module, f"back{side}", [POINTER, POINTER, POINTER, INT, INT, INT, INT, POINTER], lanes)
    sums, results, nowhere, first, count, out, panels, plan = b.function.args
    n = numbers(b, plan, "results_down", "results_across", "outputs", "block", "next_sum")
    size = side + 2
    targets = b.memory(POINTER, side**2)
    with b.loop(count) as t:
        image, row, column = _place_of_tile(b, plan, b.add(first, t), side)
        shape = (n.results_down, n.results_across, n.outputs)
        _places(b, targets, side, results, (image, row, column, out), shape, nowhere)
        with b.loop(b.mul(panels, INT(2))) as half:
            panel, second = b.divmod(half, INT(2))
            source = b.at(sums, panel, t, second, 0, shape=(n.block, 2, lanes))
            values = [
                [b.load_vector(b.at(source, b.mul(n.next_sum, INT(i * size + j)))) for j in range(size)]
                for i in range(size)
            ]
            shift = b.mul(half, INT(lanes))
            for i, value in enumerate(_times_both(b, matrices(side).back, values)):
                b.store_vector(value, b.at(b.load_pointer(targets, i), shift))
    b.ret_void()
    return b.function


def _place_of_tile(b: Builder, plan: Any, tile: Any, side: int) -> tuple[Any, Any, Any]:
    """Return a tile's image and its first row and column of results."""
    n = numbers(b, plan, "tiles_each", "tiles_across")
    image, within = b.divmod(tile, n.tiles_each)
    row, column = b.divmod(within, n.tiles_across)
    return image, b.mul(row, INT(side)), b.mul(column, INT(side))


# for i, j in range(size), range(size):
#     places[i, j] = address of array[image, top + i, left + j, channel], or `otherwise` if that is outside
def _places(b: Builder, places: Any, size: int, array: Any, corner: Any, shape: Any, otherwise: Any) -> None:
    (image, top, left, channel), (height, width, _) = corner, shape
    with b.loop(size) as i:
        y = b.add(top, i)
        for j in range(size):  # unrolled: a loop costs 1% of a convolution with few channels
            x = b.add(left, INT(j))
            # As unsigned integers, negative numbers are very large.
            inside = b.and_(b.icmp_unsigned("<", y, height), b.icmp_unsigned("<", x, width))
            place = b.select(inside, b.at(array, image, y, x, channel, shape=shape), otherwise)
            b.store(place, b.at(places, i, j, shape=(size,), of=POINTER))


# Products of constant matrices with matrices whose entries are vectors


def _times_both(b: Builder, matrix: np.ndarray, values: Sequence[Sequence[Any]]) -> list[Any]:
    """Return `matrix @ values @ matrix.T`, row by row."""
    columns = [_times_matrix(b, matrix, column) for column in zip(*values, strict=True)]
    return [value for row in zip(*columns, strict=True) for value in _times_matrix(b, matrix, row)]


def _times_matrix(b: Builder, matrix: np.ndarray, values: Sequence[Any]) -> list[Any]:
    """Return `matrix @ values`. Points come in pairs p and -p, whose rows or columns differ only in signs."""
    values, matrix = list(values), matrix.copy()
    for i, j in mirrored(matrix.T):
        values[i], values[j] = b.fadd(values[i], values[j]), b.fsub(values[i], values[j])
        same = matrix[:, i] == matrix[:, j]
        matrix[:, i], matrix[:, j] = np.where(same, matrix[:, i], 0), np.where(same, 0, matrix[:, i])
    results: dict[int, Any] = {}
    for i, j in mirrored(matrix):
        same = matrix[i] == matrix[j]
        even, odd = (np.where(where, matrix[i], 0) for where in (same, ~same))
        scale = odd[np.flatnonzero(odd)[-1]]
        part, rest = _weighted_sum(b, odd / scale, values), _weighted_sum(b, even, values)
        results[i], results[j] = (b.multiply_add(part, b.constant(float(s)), rest) for s in (scale, -scale))
    return [results[i] if i in results else _weighted_sum(b, row, values) for i, row in enumerate(matrix)]


def _weighted_sum(b: Builder, weights: np.ndarray, values: Sequence[Any]) -> Any:
    """Return a weighted sum; a term with weight 1 comes first, as it needs no product."""
    first, *rest = sorted(np.flatnonzero(weights).tolist(), key=lambda i: weights[i] != 1)
    total = values[first] if weights[first] == 1 else b.fmul(values[first], b.constant(float(weights[first])))
    for i in rest:
        total = b.multiply_add(values[i], b.constant(float(weights[i])), total)
    return total
