"""What llvmlite's IR builder lacks for loops over arrays: loops, elements, fields and vectors."""

import contextlib
import ctypes
import functools
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

BYTE, FLOAT, POINTER = ir.IntType(8), ir.FloatType(), ir.PointerType()
INT = ir.IntType(64)  # sizes, indices and offsets; `INT(3)` is a constant
INT32, BIT = ir.IntType(32), ir.IntType(1)
_OF_C = {ctypes.c_void_p: POINTER, ctypes.c_int32: INT32}


class Builder(ir.IRBuilder):
    """llvmlite's builder at the start of a new function, with vectors of `lanes` floats.

    Instructions are emitted in the order written: LLVM's IR passes do not run.
    """

    def __init__(
        self, module: ir.Module, name: str, arguments: Sequence[ir.Type], lanes: int, *, returns: Any = None,
        linkage: str = "internal",
    ):  # fmt: skip
        function = ir.Function(module, ir.FunctionType(returns or ir.VoidType(), arguments), name)
        function.linkage = linkage
        super().__init__(function.append_basic_block("start"))
        self.lanes, self.vector = lanes, ir.VectorType(FLOAT, lanes)

    # Numbers

    def divmod(self, number: Any, by: Any) -> tuple[Any, Any]:
        return self.udiv(number, by), self.urem(number, by)

    def least(self, a: Any, b: Any) -> Any:
        return self.select(self.icmp_unsigned("<", a, b), a, b)

    @contextlib.contextmanager
    def loop(
        self, stop: Any, step: Any = 1, start: Any = 0, carried: dict[Hashable, Any] | None = None
    ) -> Iterator[Any]:
        """Loop over the instructions emitted inside; `carried` holds vectors passed from each iteration to the next."""
        stop, step, start = map(_value, (stop, step, start))
        carried = {} if carried is None else carried
        before, head, body = self.block, self.append_basic_block("head"), self.append_basic_block("body")
        done = ir.Block(self.function, "done")
        self.branch(head)
        self.position_at_end(head)
        index, held = self.phi(INT), {name: self.phi(self.vector) for name in carried}
        index.add_incoming(start, before)
        for name, phi in held.items():
            phi.add_incoming(carried[name], before)
        self.cbranch(self.icmp_unsigned("<", index, stop), body, done)
        self.position_at_end(body)
        carried.update(held)
        yield index
        index.add_incoming(self.add(index, step), self.block)
        for name, phi in held.items():
            phi.add_incoming(carried[name], self.block)
        self.branch(head)
        self.function.blocks.append(done)  # only now: blocks are laid out in memory in this order
        self.position_at_end(done)
        carried.update(held)

    # Memory

    def at(self, array: Any, *index: Any, shape: Sequence[Any] = (), of: Any = FLOAT) -> Any:
        """Return the address of `array[index]`, in C order. `shape` omits the first axis, whose size is not needed."""
        first, *rest = map(_value, index)
        for size, following in zip(map(_value, shape), rest, strict=True):
            first = self.add(self.mul(first, size), following)
        return self.gep(array, [first], source_etype=of)

    def memory(self, of: Any, count: int) -> Any:
        """Allocate memory for some values on the stack and return its address."""
        place = self.alloca(of, count)
        place.type = POINTER  # untyped: LLVM no longer has typed pointers
        return place

    def field(self, struct: Any, layout: type[ctypes.Structure], name: str) -> Any:
        """Return the address of a field of a C struct."""
        return self.gep(struct, [INT(getattr(layout, name).offset)], source_etype=BYTE)

    def load_pointer(self, array: Any, index: Any) -> Any:
        return self.load(self.at(array, index, of=POINTER), typ=POINTER)

    def load_field(self, struct: Any, layout: type[ctypes.Structure], name: str) -> Any:
        kinds = {field: kind for field, kind, *_ in layout._fields_}
        return self.load(self.field(struct, layout, name), typ=_OF_C[kinds[name]])

    def load_vector(self, place: Any) -> Any:
        return self.load(place, align=4, typ=self.vector)

    def store_vector(self, vector: Any, place: Any) -> None:
        self.store(vector, place, align=4)

    # Vectors

    def constant(self, number: float) -> Any:
        """Return a vector of equal constants."""
        return _constant(FLOAT, (float(np.float32(number)),) * self.lanes)

    def spread(self, number: Any) -> Any:
        """Return a vector of copies of a number known only at run time."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        one = self.insert_element(nothing, number, INT32(0))
        return self.shuffled(one, nothing, [0] * self.lanes)

    def shuffled(self, a: Any, b: Any, order: Sequence[int]) -> Any:
        return self.shuffle_vector(a, b, _constant(INT32, tuple(order)))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Return `a * b + c`, rounded once. `IRBuilder.fma` takes scalars only."""
        name, v = f"llvm.fma.v{self.lanes}f32", self.vector
        function = self.module.globals.get(name) or ir.Function(self.module, ir.FunctionType(v, [v, v, v]), name)
        return self.call(function, [a, b, c])

    def transposed(self, rows: Sequence[Any]) -> list[Any]:
        """Transpose a square matrix, given as its rows, by swapping blocks of 1, 2, 4, ... numbers."""
        rows, count = list(rows), self.lanes
        for step in (1 << i for i in range(count.bit_length() - 1)):
            for i in (i for i in range(count) if not i & step):
                a, b = rows[i], rows[i + step]
                rows[i] = self.shuffled(a, b, [j + count - step if j & step else j for j in range(count)])
                rows[i + step] = self.shuffled(a, b, [j + count if j & step else j + step for j in range(count)])
        return rows


@functools.cache  # constants cache their text, and generating it is a third of the work
def _constant(of: ir.Type, numbers: tuple[Any, ...]) -> Any:
    return ir.Constant(ir.VectorType(of, len(numbers)), numbers)


def _value(number: Any) -> Any:
    return INT(number) if isinstance(number, int) else number
