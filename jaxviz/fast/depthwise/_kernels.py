"""The loops of depthwise convolutions, in LLVM IR: each channel has a kernel of its own.

A thread takes rows of results. For each row it finds which rows of the kernel meet rows of the image, and for each
result which columns do; the products of these are summed up for some channels at a time, in registers. All sizes are
data: one compilation serves all convolutions of a process, strided, dilated and, for gradients, with images whose
pixels lie apart.
"""

from typing import Any, NamedTuple

from llvmlite import ir

from jaxviz.fast.depthwise._convolution import MOST_SIDE
from jaxviz.fast.machine_code._builder import INT, POINTER, Builder
from jaxviz.fast.machine_code._jobs import Program, items, job_of, numbers

REGISTERS = (4, 2, 1)  # vectors of channels that are summed up at once: as many as are left, so that few loops run


class Plan(NamedTuple):
    """The 32-bit integers that the machine code reads: all that differs between convolutions."""

    height: int  # of the images
    width: int
    channels: int
    down: int  # rows of results in an image
    across: int
    above: int  # rows and columns of padding before an image; below zero where it is cropped
    left: int
    rows: int  # of the kernel
    columns: int
    step_down: int  # strides
    step_across: int
    apart_down: int  # of the kernel's taps
    apart_across: int
    spread_down: int  # distances of the image's pixels
    spread_across: int
    items: int  # rows of results in all images
    threads: int


ARGUMENTS, RESULTS = ("images", "kernel", "plan"), ("results",)
Job = job_of(*ARGUMENTS, *RESULTS)


def program(lanes: int) -> Program:
    """Return the convolution with vectors of `lanes` floats."""
    return Program(f"jaxviz_depthwise_{lanes}", ARGUMENTS, RESULTS, Plan, lanes, lambda module: _work(module, lanes))


# while (item := taken++) < items:
#     rows = [(row of the image, row of the kernel) that meet in this row of results]
#     for x in range(across):
#         columns = [(column of the image, column of the kernel) that meet in this result]
#         results[item, x, :] = sum(image[row, column, :] * kernel[...], each of rows and columns)
def _work(module: ir.Module, lanes: int) -> ir.Function:
    """Define a thread's function: it takes rows of results until none are left."""
    b = Builder(module, "work", [POINTER], lanes, returns=POINTER)
    (job,) = b.function.args
    images, kernel, plan, results = (b.load_field(job, Job, name) for name in (*ARGUMENTS, *RESULTS))
    n = numbers(b, Plan, plan, *Plan._fields)
    rows, columns = (b.memory(INT, 2 * MOST_SIDE) for _ in range(2))
    found = b.memory(INT, 1)
    with items(b, Job, job, n.items) as item:
        image, y = b.divmod(item, n.down)
        top = b.sub(b.mul(y, n.step_down), n.above)
        line = b.mul(n.width, n.channels)
        _meeting(b, (rows, found), top, (n.rows, n.apart_down, n.spread_down, n.height), line, n.columns)
        meeting_rows = b.load(found, typ=INT)
        source = b.at(images, b.mul(image, b.mul(n.height, line)))
        with b.loop(n.across) as x:
            left = b.sub(b.mul(x, n.step_across), n.left)
            _meeting(b, (columns, found), left, (n.columns, n.apart_across, n.spread_across, n.width), n.channels, 1)
            meeting = (rows, meeting_rows), (columns, b.load(found, typ=INT))
            target = b.at(results, item, x, 0, shape=(n.across, n.channels))
            begin = INT(0)
            for registers in REGISTERS:
                wide = INT(registers * lanes)
                end = b.mul(b.udiv(n.channels, wide), wide)
                with b.loop(end, registers * lanes, begin) as channel:
                    _sum(b, n, registers, (source, kernel, target), meeting, channel)
                begin = end
            with b.loop(n.channels, lanes, begin) as channel:  # the last ones overlap others: they are made twice
                _sum(b, n, 1, (source, kernel, target), meeting, b.sub(n.channels, INT(lanes)))
    b.ret(ir.Constant(POINTER, None))
    return b.function


# pairs = []
# for i in range(count):
#     place, rest = divmod(first + i * apart, spread)
#     if rest == 0 and 0 <= place < size:
#         pairs.append((place * in_image, i * in_kernel))
def _meeting(b: Builder, into: Any, first: Any, sizes: Any, in_image: Any, in_kernel: Any) -> None:
    """Store where taps of the kernel meet pixels of the image along an axis, as distances in memory, and how many."""
    pairs, found = into
    count, apart, spread, size = sizes
    b.store(INT(0), found)
    with b.loop(count) as i:
        # As an unsigned integer, a negative number is very large, also after this division.
        place, rest = b.divmod(b.add(first, b.mul(i, apart)), spread)
        inside = b.and_(b.icmp_unsigned("==", rest, INT(0)), b.icmp_unsigned("<", place, size))
        with b.if_then(inside):
            known = b.load(found, typ=INT)
            b.store(b.mul(place, in_image), b.at(pairs, known, 0, shape=(2,), of=INT))
            step = INT(in_kernel) if isinstance(in_kernel, int) else in_kernel
            b.store(b.mul(i, step), b.at(pairs, known, 1, shape=(2,), of=INT))
            b.store(b.add(known, INT(1)), found)


# sums = 0
# for each of rows, each of columns:
#     sums += image[row, column, channel:] * kernel[kernel's row, its column, channel:]
# results[channel:] = sums
def _sum(b: Builder, n: Any, registers: int, arrays: Any, meeting: Any, channel: Any) -> None:
    """Sum up what some vectors of channels, at the same place, are made of."""
    source, kernel, target = arrays
    (rows, row_count), (columns, column_count) = meeting
    sums: dict[Any, Any] = {i: b.constant(0.0) for i in range(registers)}
    pair = lambda pairs, i: [b.load(b.at(pairs, i, j, shape=(2,), of=INT), typ=INT) for j in range(2)]
    with b.loop(row_count, carried=sums) as row:
        in_image, in_kernel = pair(rows, row)
        pixels, taps = b.at(source, b.add(in_image, channel)), b.at(kernel, b.mul(in_kernel, n.channels))
        taps = b.at(taps, channel)
        with b.loop(column_count, carried=sums) as column:
            in_row, in_taps = pair(columns, column)
            pixel, tap = b.at(pixels, in_row), b.at(taps, b.mul(in_taps, n.channels))
            for i in range(registers):
                value, factor = (b.load_vector(b.at(place, i * b.lanes)) for place in (pixel, tap))
                sums[i] = b.multiply_add(value, factor, sums[i])
    for i in range(registers):
        b.store_vector(sums[i], b.at(target, b.add(channel, INT(i * b.lanes))))
