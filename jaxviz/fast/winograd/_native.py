"""Machine code for Winograd's convolutions on x86-64, written as LLVM's language and compiled by llvmlite on first use.

XLA on CPU has to write every step of Winograd's method to memory and read it again, 4 to 9 times as much as the images
hold. Here a block of some 50 tiles goes through all steps in the processor's cache, and kernels are taken to the
points in passing. Threads take blocks in turn, so none waits for a slower one.

All sizes are data: one compilation, half a second, does for all convolutions of a process.
"""

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import platform
import struct
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz._files import write_atomically
from jaxviz._own_folders import NotOwnError, own_folder, read_own_file

TILES = {4: 56, 2: 112}  # of a block, at most, for each side of a tile: all of a step then fits into 2 MB of cache
CHANNELS = 64  # that are multiplied at once, in and out
WORK = 2e7  # products for which another thread pays
GRAIN = 32  # channels in and out have to be a multiple of


POINTS = {4: (0, 0.75, -0.75, 1.5, -1.5), 2: (0, 1, -1)}  # 3/4: a fifth of the rounding error of 0, ±1, ±2


class Matrices(NamedTuple):
    """What takes inputs (s + 2, s + 2) and kernel (s + 2, 3) to the points, and results back (s, s + 2)."""

    inputs: np.ndarray
    kernel: np.ndarray
    back: np.ndarray


def matrices(side: int) -> Matrices:
    """Return the matrices for tiles of `side` outputs.

    Tile, kernel and output are polynomials, and values at as many points (one of them infinity) as a tile of inputs has
    rows determine the product.
    """
    points = POINTS[side]
    others = [[q for q in points if q != p] for p in points]
    scale = [np.prod([p - q for q in roots]) for p, roots in zip(points, others, strict=True)]
    inputs = np.zeros((side + 2, side + 2))
    inputs[:-1, :-1] = [np.poly(roots)[::-1] for roots in others]
    inputs[-1] = np.poly(points)[::-1]
    kernel = np.array([[p**power / s for power in range(3)] for p, s in zip(points, scale, strict=True)] + [[0, 0, 1]])
    back = np.array([[p**power for p in points] + [power == side - 1] for power in range(side)])
    return Matrices(inputs, kernel, back)


class Machine(NamedTuple):
    """What the processor has."""

    lanes: int  # numbers in a vector register
    rows: int  # of a product that is kept in registers, two vectors wide


@functools.cache
def machine() -> Machine | None:
    """Return what there is to compile for; None where nothing is, and XLA's own convolutions have to do."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        import llvmlite.binding as llvm
    except (ImportError, OSError):  # it is not there, or its library cannot be loaded
        return None
    has = llvm.get_host_cpu_features()
    if has.get("avx512f") and has.get("avx512vl") and has.get("avx512dq") and has.get("avx512bw"):
        return Machine(16, 14)  # 28 of 32 registers hold sums
    return Machine(8, 6) if has.get("avx2") and has.get("fma") else None


# Writing LLVM's language


class _Function:
    """The text of a function; what operations return are the names of values."""

    def __init__(self, signature: str, lanes: int):
        self.lines = [f"define {signature} {{", "start:"]
        self.label, self.count, self.lanes = "start", 0, lanes
        self.vector = f"<{lanes} x float>"

    def new(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"  %v{self.count} = {text}")
        return f"%v{self.count}"

    def do(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def begin(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label = label

    def labels(self, *names: str) -> list[str]:
        self.count += 1
        return [f"{name}{self.count}" for name in names]

    def text(self) -> str:
        return "\n".join([*self.lines, "}"])

    @contextlib.contextmanager
    def loop(self, stop: Any, step: Any = 1, start: Any = 0, carried: dict[Any, str] | None = None) -> Iterator[str]:
        """Repeat what is written inside; `carried` are vectors that each turn takes from the one before, and leaves."""
        before, (head, body, done) = self.label, self.labels("head", "body", "done")
        carried = {} if carried is None else carried
        given = dict(carried)
        self.do(f"br label %{head}")
        self.begin(head)
        at = len(self.lines)
        index, *held = (self.new("") for _ in range(1 + len(given)))  # written when it is known what comes back
        self.do(f"br i1 {self.less(index, stop)}, label %{body}, label %{done}")
        self.begin(body)
        carried |= dict(zip(given, held, strict=True))
        yield index
        back = [("i64", start, self.add(index, step))]
        back += [(self.vector, given[name], carried[name]) for name in given]
        for i, (value, (kind, first, following)) in enumerate(zip([index, *held], back, strict=True)):
            self.lines[at + i] = f"  {value} = phi {kind} [{first}, %{before}], [{following}, %{self.label}]"
        self.do(f"br label %{head}")
        self.begin(done)
        carried |= dict(zip(given, held, strict=True))

    # Numbers of 64 bits

    def add(self, *terms: Any) -> str:
        return functools.reduce(lambda a, b: self.new(f"add i64 {a}, {b}"), terms)

    def sub(self, a: Any, b: Any) -> str:
        return self.new(f"sub i64 {a}, {b}")

    def mul(self, *factors: Any) -> str:
        return functools.reduce(lambda a, b: self.new(f"mul i64 {a}, {b}"), factors)

    def divmod(self, a: Any, b: Any) -> tuple[str, str]:
        return self.new(f"udiv i64 {a}, {b}"), self.new(f"urem i64 {a}, {b}")

    def least(self, a: Any, b: Any) -> str:
        return self.new(f"call i64 @llvm.umin.i64(i64 {a}, i64 {b})")

    def less(self, a: Any, b: Any) -> str:
        """Compare as numbers without sign, where below zero is very large."""
        return self.new(f"icmp ult i64 {a}, {b}")

    def both(self, a: str, b: str) -> str:
        return self.new(f"and i1 {a}, {b}")

    # Memory

    def at(self, pointer: str, index: Any, kind: str = "float") -> str:
        return self.new(f"getelementptr {kind}, ptr {pointer}, i64 {index}")

    def pointer(self, where: str, index: Any) -> str:
        return self.new(f"load ptr, ptr {self.at(where, index, 'ptr')}")

    def load(self, pointer: str) -> str:
        return self.new(f"load {self.vector}, ptr {pointer}, align 4")

    def store(self, value: str, pointer: str) -> None:
        self.do(f"store {self.vector} {value}, ptr {pointer}, align 4")

    # Vectors

    def constant(self, number: float) -> str:
        bits = struct.pack(">d", float(np.float32(number))).hex().upper()
        return "<" + ", ".join([f"float 0x{bits}"] * self.lanes) + ">"

    def fma(self, a: str, b: str, c: str) -> str:
        v = self.vector
        return self.new(f"call {v} @llvm.fma.v{self.lanes}f32({v} {a}, {v} {b}, {v} {c})")

    def times(self, number: float, value: str) -> str:
        return value if number == 1 else self.new(f"fmul {self.vector} {value}, {self.constant(number)}")

    def sum_of(self, weights: np.ndarray, values: Sequence[str]) -> str:
        """Return a weighted sum; a term that needs no product comes first."""
        numbers = [float(w) for w in weights]
        first, *rest = sorted(np.flatnonzero(weights).tolist(), key=lambda i: numbers[i] != 1)
        total = self.times(numbers[first], values[first])
        for i in rest:
            total = self.fma(values[i], self.constant(numbers[i]), total)
        return total

    def shuffled(self, a: str, b: str, order: Sequence[int]) -> str:
        picked = ", ".join(f"i32 {i}" for i in order)
        v = self.vector
        return self.new(f"shufflevector {v} {a}, {v} {b}, <{self.lanes} x i32> <{picked}>")

    def transposed(self, rows: Sequence[str]) -> list[str]:
        """Exchange rows and columns of as many vectors as each has numbers."""
        rows, count = list(rows), self.lanes
        for step in (1 << i for i in range(count.bit_length() - 1)):
            for i in (i for i in range(count) if not i & step):
                a, b = rows[i], rows[i + step]
                rows[i] = self.shuffled(a, b, [j + count - step if j & step else j for j in range(count)])
                rows[i + step] = self.shuffled(a, b, [j + count if j & step else j + step for j in range(count)])
        return rows


def _times_matrix(f: _Function, matrix: np.ndarray, values: Sequence[str]) -> list[str]:
    """Return the matrix times values. Points come as p and -p, whose rows or columns differ in signs only."""
    values, matrix = list(values), matrix.copy()
    for i, j in _mirrored(matrix.T):
        total, difference = (f.new(f"{op} {f.vector} {values[i]}, {values[j]}") for op in ("fadd", "fsub"))
        values[i], values[j] = total, difference
        same = matrix[:, i] == matrix[:, j]
        matrix[:, i], matrix[:, j] = np.where(same, matrix[:, i], 0), np.where(same, 0, matrix[:, i])
    results = [""] * len(matrix)
    for i, j in _mirrored(matrix):
        same = matrix[i] == matrix[j]
        even, odd = (np.where(where, matrix[i], 0) for where in (same, ~same))
        scale = odd[np.flatnonzero(odd)[-1]]
        part, rest = f.sum_of(odd / scale, values), f.sum_of(even, values)
        results[i], results[j] = (f.fma(part, f.constant(float(s)), rest) for s in (scale, -scale))
    return [done or f.sum_of(row, values) for done, row in zip(results, matrix, strict=True)]


def _mirrored(rows: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of rows that are equal but for some signs, though not all."""
    pairs = itertools.combinations(range(len(rows)), 2)
    return [
        (i, j)
        for i, j in pairs
        if np.array_equal(abs(rows[i]), abs(rows[j]))
        and (rows[i] == rows[j])[rows[i] != 0].any()
        and (rows[i] != rows[j]).any()
        and np.count_nonzero(rows[i]) > 1
    ]


def _times_both(f: _Function, matrix: np.ndarray, values: list[list[str]]) -> list[list[str]]:
    """Return the matrix times values times the matrix transposed."""
    columns = [_times_matrix(f, matrix, column) for column in zip(*values, strict=True)]
    return [_times_matrix(f, matrix, row) for row in zip(*columns, strict=True)]


# The parts of a convolution. What they share is a table of numbers, one for each name.

_NAMES = (
    "height", "width", "inputs", "outputs", "results_down", "results_across", "above", "left", "adjoint", "across",
    "each", "tiles", "block", "groups", "panels", "items", "threads", "scratch", "zeros", "nowhere", "kernels", "sums",
    "next_value", "next_kernel", "next_sum",
)  # fmt: skip


def _numbers(f: _Function, *names: str) -> list[str]:
    """Return numbers of the table."""
    places = [f.at("%table", _NAMES.index(name), "i32") for name in names]
    return [f.new(f"zext i32 {number} to i64") for number in [f.new(f"load i32, ptr {place}") for place in places]]


def _place_of_tile(f: _Function, tile: str, side: int) -> tuple[str, str, str]:
    """Return the image of a tile, and its first row and column of results."""
    each, across = _numbers(f, "each", "across")
    image, within = f.divmod(tile, each)
    row, column = f.divmod(within, across)
    return image, f.mul(row, side), f.mul(column, side)


def _take_to_points(side: int, inputs: np.ndarray, lanes: int) -> str:
    """Fill `(points, channel blocks, tiles, lanes)` with the values at the points of some tiles of images."""
    f = _Function(
        f"internal void @to_points{side}(ptr %images, ptr %values, ptr %zeros, i64 %first, i64 %count, ptr %table)",
        lanes,
    )
    size = side + 2
    height, width, channels, above, left, block, of_point = _numbers(
        f, "height", "width", "inputs", "above", "left", "block", "next_value"
    )
    sources = f.new(f"alloca [{size**2} x ptr]")
    blocks = f.new(f"udiv i64 {channels}, {lanes}")
    with f.loop("%count") as t:
        image, row, column = _place_of_tile(f, f.add("%first", t), side)
        top, start = f.sub(row, above), f.sub(column, left)
        for i, j in itertools.product(range(size), repeat=2):
            y, x = f.add(top, i), f.add(start, j)
            inside = f.both(f.less(y, height), f.less(x, width))
            place = f.mul(f.add(f.mul(f.add(f.mul(image, height), y), width), x), channels)
            source = f.new(f"select i1 {inside}, ptr {f.at('%images', place)}, ptr %zeros")
            f.do(f"store ptr {source}, ptr {f.at(sources, i * size + j, 'ptr')}")
        with f.loop(blocks) as b:
            shift = f.mul(b, lanes)
            tile = [[f.load(f.at(f.pointer(sources, i * size + j), shift)) for j in range(size)] for i in range(size)]
            found = itertools.chain(*_times_both(f, inputs, tile))
            target = f.at("%values", f.mul(f.add(f.mul(b, block), t), lanes))
            for i, value in enumerate(found):
                f.store(value, f.at(target, f.mul(of_point, i)))
    f.do("ret void")
    return f.text()


def _take_kernel_to_points(side: int, kernel: np.ndarray, lanes: int) -> str:
    """Fill `(points, panels, channels in, 2 lanes)` with the kernels' values at the points.

    For the adjoint, kernels are turned by 180 degrees, and their channels exchanged.
    """
    f = _Function(
        f"internal void @kernel{side}(ptr %kernel, ptr %values, i64 %from, i64 %some, i64 %out, i64 %panels, "
        "ptr %table)", lanes
    )  # fmt: skip
    inputs, outputs, adjoint, of_point = _numbers(f, "inputs", "outputs", "adjoint", "next_kernel")
    turned = f.new(f"icmp ne i64 {adjoint}, 0")
    taps = f.new(f"alloca [{9 * lanes} x {f.vector}], align 64")
    with f.loop(f.mul("%panels", 2)) as half, f.loop("%some", lanes) as c:
        panel, second = f.divmod(half, 2)
        k, channel = f.add("%out", f.mul(half, lanes)), f.add("%from", c)
        back, ready = f.labels("back", "ready")
        f.do(f"br i1 {turned}, label %{back}, label %{ready}")
        f.begin(back)
        for tap in range(9):
            start = f.add(f.mul(f.add(f.mul(outputs, 8 - tap), k), inputs), channel)
            rows = [f.load(f.at("%kernel", f.add(start, f.mul(inputs, i)))) for i in range(lanes)]
            for i, column in enumerate(f.transposed(rows)):
                f.store(column, f.at(taps, (tap * lanes + i) * lanes))
        f.do(f"br label %{ready}")
        f.begin(ready)
        begins = []
        for tap in range(9):
            place = f.add(f.mul(f.add(f.mul(inputs, tap), channel), outputs), k)
            ready_at, given_at = f.at(taps, tap * lanes**2), f.at("%kernel", place)
            begins.append(f.new(f"select i1 {turned}, ptr {ready_at}, ptr {given_at}"))
        stride = f.new(f"select i1 {turned}, i64 {lanes}, i64 {outputs}")
        target = f.mul(f.add(f.mul(f.add(f.mul(panel, "%some"), c), 2), second), lanes)
        with f.loop(lanes) as i:
            row = f.mul(i, stride)
            given = [[f.load(f.at(begins[3 * y + x], row)) for x in range(3)] for y in range(3)]
            place = f.add(target, f.mul(i, 2 * lanes))
            for p, value in enumerate(itertools.chain(*_times_both(f, kernel, given))):
                f.store(value, f.at("%values", f.add(place, f.mul(of_point, p))))
    f.do("ret void")
    return f.text()


def _multiply(rows: int, lanes: int) -> str:
    """Add the product of some tiles, at one point, with a panel of the kernels to sums, two vectors for each tile.

    They stay in registers while all channels are gone through.
    """
    f = _Function(
        f"internal void @multiply{rows}(ptr noalias %tiles, ptr noalias %kernel, ptr noalias %sums, i64 %blocks, "
        "i64 %block, i1 %first) noinline", lanes
    )  # fmt: skip
    cells = list(itertools.product(range(rows), range(2)))
    where = {cell: f.at("%sums", (2 * cell[0] + cell[1]) * lanes) for cell in cells}
    load, go = f.labels("load", "go")
    f.do(f"br i1 %first, label %{go}, label %{load}")
    f.begin(load)
    earlier = {cell: f.load(where[cell]) for cell in cells}
    f.do(f"br label %{go}")
    f.begin(go)
    sums = {cell: f.new(f"phi {f.vector} [zeroinitializer, %start], [{earlier[cell]}, %{load}]") for cell in cells}
    with f.loop("%blocks", carried=sums) as block:
        of_tiles = f.at("%tiles", f.mul(block, "%block", lanes))
        of_kernel = f.at("%kernel", f.mul(block, 2 * lanes**2))
        with f.loop(lanes, carried=sums) as channel:
            panel = [f.load(f.at(of_kernel, f.add(f.mul(channel, 2 * lanes), j * lanes))) for j in range(2)]
            place = f.at(of_tiles, channel)
            for row in range(rows):
                number = f.new(f"load float, ptr {f.at(place, row * lanes)}, align 4")
                one = f.new(f"insertelement {f.vector} poison, float {number}, i32 0")
                spread = f.shuffled(one, "poison", [0] * lanes)
                for j in range(2):
                    sums[row, j] = f.fma(spread, panel[j], sums[row, j])
    for cell in cells:
        f.store(sums[cell], where[cell])
    f.do("ret void")
    return f.text()


def _multiply_all(rows: int, lanes: int) -> str:
    """Multiply any number of tiles."""
    f = _Function(
        "internal void @multiply(ptr %tiles, ptr %kernel, ptr %sums, i64 %blocks, i64 %block, i1 %first, i64 %count)",
        lanes,
    )
    whole, rest = f.divmod("%count", rows)
    given = lambda t: (
        f"ptr {f.at('%tiles', f.mul(t, lanes))}, ptr %kernel, ptr {f.at('%sums', f.mul(t, 2 * lanes))}, i64 %blocks, "
        "i64 %block, i1 %first"
    )
    end = f.mul(whole, rows)
    with f.loop(end, rows) as t:
        f.do(f"call void @multiply{rows}({given(t)})")
    (done, *some), last = f.labels("none", *(f"some{i}." for i in range(1, rows))), given(end)
    cases = " ".join(f"i64 {i}, label %{label}" for i, label in enumerate(some, 1))
    f.do(f"switch i64 {rest}, label %{done} [{cases}]")
    for i, label in enumerate(some, 1):
        f.begin(label)
        f.do(f"call void @multiply{i}({last})")
        f.do(f"br label %{done}")
    f.begin(done)
    f.do("ret void")
    return f.text()


def _take_back(side: int, back: np.ndarray, lanes: int) -> str:
    """Take sums `(points, panels, tiles, 2 lanes)` to results, and write those that are inside."""
    f = _Function(
        f"internal void @back{side}(ptr %sums, ptr %results, ptr %nowhere, i64 %first, i64 %count, i64 %out, "
        "i64 %panels, ptr %table)", lanes
    )  # fmt: skip
    down, across, outputs, block, of_point = _numbers(
        f, "results_down", "results_across", "outputs", "block", "next_sum"
    )
    targets = f.new(f"alloca [{side**2} x ptr]")
    with f.loop("%count") as t:
        image, row, column = _place_of_tile(f, f.add("%first", t), side)
        for i, j in itertools.product(range(side), repeat=2):
            y, x = f.add(row, i), f.add(column, j)
            inside = f.both(f.less(y, down), f.less(x, across))
            place = f.add(f.mul(f.add(f.mul(f.add(f.mul(image, down), y), across), x), outputs), "%out")
            target = f.new(f"select i1 {inside}, ptr {f.at('%results', place)}, ptr %nowhere")
            f.do(f"store ptr {target}, ptr {f.at(targets, i * side + j, 'ptr')}")
        with f.loop(f.mul("%panels", 2)) as half:
            panel, second = f.divmod(half, 2)
            source = f.at("%sums", f.mul(f.add(f.mul(f.add(f.mul(panel, block), t), 2), second), lanes))
            values = [
                [f.load(f.at(source, f.mul(of_point, i * (side + 2) + j))) for j in range(side + 2)]
                for i in range(side + 2)
            ]
            shift = f.mul(half, lanes)
            for i, value in enumerate(itertools.chain(*_times_both(f, back, values))):
                f.store(value, f.at(f.pointer(targets, i), shift))
    f.do("ret void")
    return f.text()


def _work(side: int, lanes: int) -> str:
    """Do what a thread does: take one item after another, some tiles and some channels out, until none is left."""
    f = _Function(f"internal ptr @work{side}(ptr %job)", lanes)
    images, kernel, table, results, scratch = (f.pointer("%job", i) for i in range(5))
    f.lines.append(f"  %table = getelementptr i8, ptr {table}, i64 0")
    (
        inputs, outputs, tiles, block, groups, panels, items, size, zeros, nowhere, kernels, sums, next_value,
        next_kernel, next_sum,
    ) = _numbers(
        f, "inputs", "outputs", "tiles", "block", "groups", "panels", "items", "scratch", "zeros", "nowhere", "kernels",
        "sums", "next_value", "next_kernel", "next_sum",
    )  # fmt: skip
    number = f.new(f"atomicrmw add ptr {f.at('%job', 6, 'i64')}, i64 1 monotonic")
    values = f.at(scratch, f.mul(number, size))
    zero, spill, kernel_at, sums_at = (f.at(values, place) for place in (zeros, nowhere, kernels, sums))
    f.do(f"call void @llvm.memset.p0.i64(ptr {zero}, i8 0, i64 {f.mul(inputs, 4)}, i1 false)")
    all_panels = f.new(f"udiv i64 {outputs}, {2 * lanes}")
    again, busy, finished = f.labels("again", "busy", "finished")
    f.do(f"br label %{again}")
    f.begin(again)
    item = f.new(f"atomicrmw add ptr {f.at('%job', 5, 'i64')}, i64 1 monotonic")
    f.do(f"br i1 {f.less(item, items)}, label %{busy}, label %{finished}")
    f.begin(busy)
    at, group = f.divmod(item, groups)
    first = f.mul(at, block)
    count = f.least(block, f.sub(tiles, first))
    f.do(f"call void @to_points{side}(ptr {images}, ptr {values}, ptr {zero}, i64 {first}, i64 {count}, ptr %table)")
    each = f.new(f"udiv i64 {f.add(all_panels, groups, -1)}, {groups}")
    begin = f.mul(group, each)
    end = f.least(f.add(begin, each), all_panels)
    with f.loop(end, panels, begin) as panel:
        some = f.least(panels, f.sub(end, panel))
        out = f.mul(panel, 2 * lanes)
        with f.loop(inputs, CHANNELS) as channel:
            channels = f.least(CHANNELS, f.sub(inputs, channel))
            f.do(
                f"call void @kernel{side}(ptr {kernel}, ptr {kernel_at}, i64 {channel}, i64 {channels}, i64 {out}, "
                f"i64 {some}, ptr %table)"
            )
            begins = f.new(f"icmp eq i64 {channel}, 0")
            blocks = f.new(f"udiv i64 {channels}, {lanes}")
            for_panel = f.mul(channels, 2 * lanes)
            with f.loop((side + 2) ** 2) as point:
                source = f.at(values, f.add(f.mul(next_value, point), f.mul(channel, block)))
                with f.loop(some) as p:
                    panel_at = f.at(kernel_at, f.add(f.mul(next_kernel, point), f.mul(for_panel, p)))
                    sum_at = f.at(sums_at, f.add(f.mul(next_sum, point), f.mul(block, 2 * lanes, p)))
                    f.do(
                        f"call void @multiply(ptr {source}, ptr {panel_at}, ptr {sum_at}, i64 {blocks}, i64 {block}, "
                        f"i1 {begins}, i64 {count})"
                    )
        f.do(
            f"call void @back{side}(ptr {sums_at}, ptr {results}, ptr {spill}, i64 {first}, i64 {count}, i64 {out}, "
            f"i64 {some}, ptr %table)"
        )
    f.do(f"br label %{again}")
    f.begin(finished)
    f.do("ret ptr null")
    return f.text()


def _handler(side: int, lanes: int) -> str:
    """Answer XLA's calls, by its interface for foreign functions (`xla/ffi/api/c_api.h` in jaxlib)."""
    f = _Function(f"ptr @convolve{side}(ptr %frame)", lanes)
    asked, ask, run = f.labels("asked", "ask", "run")
    extension = f.pointer("%frame", 1)
    f.do(f"br i1 {f.new(f'icmp eq ptr {extension}, null')}, label %{run}, label %{ask}")
    f.begin(ask)
    kind = f.new(f"load i32, ptr {f.at(extension, 8, 'i8')}")
    f.do(f"br i1 {f.new(f'icmp eq i32 {kind}, 1')}, label %{asked}, label %{run}")
    f.begin(asked)  # which version of the interface this was written for
    metadata = f.pointer(extension, 3)
    for place, number in ((24, 0), (28, 1), (32, 0)):
        f.do(f"store i32 {number}, ptr {f.at(metadata, place, 'i8')}")
    f.do("ret ptr null")
    f.begin(run)
    job = f.new("alloca [8 x i64]")
    taken = f.new("alloca [1024 x i64]")
    arguments, results = f.pointer("%frame", 9), f.pointer("%frame", 14)
    buffers = [f.pointer(arguments, i) for i in range(3)] + [f.pointer(results, i) for i in range(2)]
    for i, buffer in enumerate(buffers):
        f.do(f"store ptr {f.pointer(buffer, 3)}, ptr {f.at(job, i, 'ptr')}")
    for i in (5, 6):
        f.do(f"store i64 0, ptr {f.at(job, i, 'i64')}")
    f.lines.append(f"  %table = load ptr, ptr {f.at(job, 2, 'ptr')}")
    (threads,) = _numbers(f, "threads")
    with f.loop(threads, start=1) as i:  # one that cannot be had is no error: the others do its work
        failed = f.new(f"call i32 @pthread_create(ptr {f.at(taken, i, 'i64')}, ptr null, ptr @work{side}, ptr {job})")
        was = f.new(f"icmp ne i32 {failed}, 0")
        kept = f.new(f"load i64, ptr {f.at(taken, i, 'i64')}")
        f.do(f"store i64 {f.new(f'select i1 {was}, i64 0, i64 {kept}')}, ptr {f.at(taken, i, 'i64')}")
    f.do(f"call ptr @work{side}(ptr {job})")
    with f.loop(threads, start=1) as i:
        thread = f.new(f"load i64, ptr {f.at(taken, i, 'i64')}")
        join, following = f.labels("join", "following")
        f.do(f"br i1 {f.new(f'icmp ne i64 {thread}, 0')}, label %{join}, label %{following}")
        f.begin(join)
        f.do(f"call i32 @pthread_join(i64 {thread}, ptr null)")
        f.do(f"br label %{following}")
        f.begin(following)
    f.do("ret ptr null")
    return f.text()


# What Python calls

_ENGINES: list[Any] = []  # the compiled code lives as long as they do
_ONCE = threading.Lock()


def _compiled(text: str) -> Any:
    """Return what runs a program; compiled code is kept where JAX keeps its own, if it does."""
    import llvmlite
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    module.verify()
    # Without LLVM's passes over its language: they take twice as long as the rest, and nothing gets faster.
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features)
    libc = ctypes.CDLL(None)
    for name in ("pthread_create", "pthread_join"):
        llvm.add_symbol(name, ctypes.cast(getattr(libc, name), ctypes.c_void_p).value)
    engine = llvm.create_mcjit_compiler(module, target)
    folder = _folder()
    if folder is not None:
        told = repr((text, llvmlite.__version__, llvm.llvm_version_info, cpu, features))
        path = folder / f"jaxviz-{hashlib.sha256(told.encode()).hexdigest()}.o"
        engine.set_object_cache(lambda _, code: _keep(path, bytes(code)), lambda _: _kept(path))
    engine.finalize_object()
    _ENGINES.append(engine)
    return engine


def _folder() -> Path | None:
    """Return where JAX keeps compiled programs, if it does, on a disk, and where nobody else can put any."""
    folder, wanted = (
        getattr(jax.config, f"jax_{name}", None) for name in ("compilation_cache_dir", "enable_compilation_cache")
    )
    if not folder or not wanted or "://" in folder:
        return None
    try:
        return own_folder(Path(folder))
    except NotOwnError as error:
        warnings.warn(f"machine code is compiled anew, and none is kept or loaded: {error}", stacklevel=2)
        return None


def _keep(path: Path, code: bytes) -> None:
    with contextlib.suppress(OSError):  # a folder that cannot be written is no reason to fail
        write_atomically(path, hashlib.sha256(code).digest() + code)


def _kept(path: Path) -> bytes | None:
    """Return the code in a file, if it is whole and the user's own."""
    kept = read_own_file(path) or b""
    return kept[32:] if hashlib.sha256(kept[32:]).digest() == kept[:32] else None


@functools.cache
def _register(found: Machine) -> None:
    """Compile for a processor, and let XLA know."""
    lanes, rows = found
    parts = [_multiply(i, lanes) for i in range(1, rows + 1)] + [_multiply_all(rows, lanes)]
    for side in POINTS:
        given = matrices(side)
        parts += [
            _take_to_points(side, given.inputs, lanes), _take_kernel_to_points(side, given.kernel, lanes),
            _take_back(side, given.back, lanes), _work(side, lanes), _handler(side, lanes),
        ]  # fmt: skip
    vector = f"<{lanes} x float>"
    parts += [
        f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})",
        "declare i64 @llvm.umin.i64(i64, i64)",
        "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
        "declare i32 @pthread_create(ptr, ptr, ptr, ptr)",
        "declare i32 @pthread_join(i64, ptr)",
    ]
    width = f'"prefer-vector-width"="{32 * lanes}" "min-legal-vector-width"="{32 * lanes}"'
    text = "\n".join(parts).replace(") {", f") {width} {{").replace(") noinline {", f") noinline {width} {{")
    engine = _compiled(text)
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    for side in POINTS:
        address = engine.get_function_address(f"convolve{side}")
        jax.ffi.register_ffi_target(_name(side, lanes), capsule(address, None, None), platform="cpu")


def _name(side: int, lanes: int) -> str:
    return f"jaxviz_winograd{side}_{lanes}"


def _apart(count: int) -> int:
    """Return how far apart so many numbers of one point and the next are to lie.

    A multiple of 4096 bytes and a line more: all points' numbers for one tile are then in different sets of the cache.
    """
    return -(-count // 1024) * 1024 + 16


def convolve(images: Any, kernel: Any, *, adjoint: bool, padding: Any, side: int) -> Any:
    """Convolve `(n, h, w, in)` with `(3, 3, in, out)`, or with the adjoint of `(3, 3, out, in)`."""
    found = machine()
    if found is None:
        raise NotImplementedError("there is no machine code for this processor")
    with _ONCE:
        _register(found)
    lanes = found.lanes
    count, height, width, inputs = images.shape
    outputs = kernel.shape[2 if adjoint else 3]
    down, across = (n + sum(pads) - 2 for n, pads in zip((height, width), padding, strict=True))
    shape = (count, down, across, outputs)
    if 0 in shape:
        return jnp.zeros(shape, jnp.float32)
    tiles_down, tiles_across = -(-down // side), -(-across // side)
    tiles, points = count * tiles_down * tiles_across, (side + 2) ** 2
    products = points * tiles * inputs * outputs
    threads = int(min(len(os.sched_getaffinity(0)), 1023, max(1, products // WORK)))
    # As many items for each thread: blocks of tiles, or where those are too few, groups of channels out.
    blocks = -(-tiles // TILES[side])
    if blocks >= threads:
        blocks = -(-blocks // threads) * threads
    block = -(-tiles // blocks)
    blocks = -(-tiles // block)
    groups = min(outputs // (2 * lanes), -(-threads // blocks))
    panels = CHANNELS // (2 * lanes)
    next_value, next_kernel, next_sum = map(_apart, (block * inputs, CHANNELS**2, block * CHANNELS))
    sizes = {
        "values": points * next_value, "zeros": inputs, "nowhere": outputs, "kernels": points * next_kernel,
        "sums": points * next_sum,
    }  # fmt: skip
    starts = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    table = {
        "height": height, "width": width, "inputs": inputs, "outputs": outputs, "results_down": down,
        "results_across": across, "above": padding[0][0], "left": padding[1][0], "adjoint": int(adjoint),
        "across": tiles_across, "each": tiles_down * tiles_across, "tiles": tiles, "block": block, "groups": groups,
        "panels": panels, "items": blocks * groups, "threads": threads, "scratch": sum(sizes.values()), **starts,
        "next_value": next_value, "next_kernel": next_kernel, "next_sum": next_sum,
    }  # fmt: skip
    results = jax.ShapeDtypeStruct(shape, jnp.float32)
    scratch = jax.ShapeDtypeStruct((threads, table["scratch"]), jnp.float32)
    call = jax.ffi.ffi_call(_name(side, lanes), (results, scratch))
    return call(images, kernel, np.array([table[name] for name in _NAMES], np.int32))[0]
