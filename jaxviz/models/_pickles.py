"""Reading a pickle without running it.

A pickle is a program: it names Python functions and has them called. Here its opcodes are followed one by one, nothing
that it names is ever imported or called, and plain containers, references to tensors and inert placeholders stand for
what it would make. The work is bounded by the file's size.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BufferedIOBase
from typing import Any

from jaxviz.models._trees import Budget, TensorFileError


class UnsafeFileError(TensorFileError):
    """A file was refused because it asks for more than tensors, containers and known harmless objects."""


class Name:
    """Stands for a Python object that a pickle names; `call` returns what stands for the result of calling it."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[[Sequence[Any]], Any]):
        self.name, self.call = name, call


class Inert:
    """Stands for an object that is neither a tensor nor a container: it holds nothing and does nothing."""

    __slots__ = ()


def inert(_: Sequence[Any]) -> Inert:
    """Stand for a call whose result no tensor depends on."""
    return Inert()


def mapping(arguments: Sequence[Any]) -> dict[Any, Any]:
    """Make a dict of the arguments of an OrderedDict, Counter or defaultdict: a mapping, pairs, a factory, or none."""
    made: dict[Any, Any] = {}
    for argument in arguments:
        if isinstance(argument, Mapping):
            made.update(argument)
        elif isinstance(argument, list | tuple):
            for pair in argument:
                name, value = pair
                made[_key(name)] = value
    return made


def items(arguments: Sequence[Any]) -> list[Any]:
    """Make a list of the argument of a set, a deque or a torch.Size."""
    return list(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else []


def read_pickle(
    file: BufferedIOBase, size: int, names: Callable[[str, str], Name], persistent: Callable[[Any], Any]
) -> tuple[Any, Budget]:
    """Follow one pickle from the file's position on; return what it describes and a bound on walks through it.

    Args:
        file: positioned at the pickle's first byte; afterwards just past its last.
        size: the file's size in bytes.
        names: returns what stands for an object that the pickle names, or raises UnsafeFileError.
        persistent: returns what stands for an object that is stored outside the pickle.
    """
    start = file.tell()
    steps = _Steps(names, persistent)
    bounded: Any = _Bounded(file, size)  # has all that genops uses: read, readline, tell
    for opcode, argument, _ in pickletools.genops(bounded):
        if opcode.name == "STOP":
            break
        steps.follow(opcode.name, argument)
    return steps.pop(), Budget(file.tell() - start)


class _Bounded:
    """A file that refuses reads past its end, before a false length in it makes Python allocate the memory."""

    def __init__(self, file: BufferedIOBase, size: int):
        self.file, self.size = file, size
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        remaining = self.size - self.file.tell()
        if not 0 <= count <= remaining:
            raise EOFError(f"expected {count} more bytes of a pickle, got {remaining} before the end of the file")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(1 << 20)  # longer than any number or name written as text


_MARK = object()
_PUSHED = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "MARK": lambda: _MARK,
}


class _Steps:
    """A pickle's stack and memo, and what each opcode does with them."""

    def __init__(self, names: Callable[[str, str], Name], persistent: Callable[[Any], Any]):
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.others: dict[str, Callable[[Any], None]] = {
            "DUP": lambda _: self.stack.append(self.stack[-1]),
            "POP": lambda _: self.stack.pop(),
            "POP_MARK": lambda _: self.marked(),
            "LIST": lambda _: self.stack.append(self.marked()),
            "FROZENSET": lambda _: self.stack.append(self.marked()),
            "TUPLE": lambda _: self.stack.append(tuple(self.marked())),
            "DICT": lambda _: self.stack.append(mapping([list(_pairs(self.marked()))])),
            "APPEND": lambda _: self.extend([self.pop()]),
            "APPENDS": lambda _: self.extend(self.marked()),
            "ADDITEMS": lambda _: self.extend(self.marked()),
            "SETITEM": lambda _: self.set_items([self.pop(), self.pop()][::-1]),
            "SETITEMS": lambda _: self.set_items(self.marked()),
            "GLOBAL": lambda argument: self.stack.append(self.names(*argument.split(" ", 1))),
            "STACK_GLOBAL": lambda _: self.stack.append(self.named([self.pop(), self.pop()][::-1])),
            "REDUCE": lambda _: self.call(self.pop()),
            "NEWOBJ": lambda _: self.call(self.pop()),
            "NEWOBJ_EX": lambda _: self.call([self.pop(), self.pop()][1]),
            "INST": lambda argument: self.stack.append(_called(self.names(*argument.split(" ", 1)), self.marked())),
            "OBJ": lambda _: self.make(*self.marked()),
            "BUILD": lambda _: self.build(self.pop()),
            "BINPERSID": lambda _: self.stack.append(self.persistent(self.pop())),
        }

    def follow(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _MADE:
            self.stack.append(_MADE[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple([self.pop() for _ in range(int(name[-1]))][::-1]))
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memory[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memory[len(self.memory) if argument is None else argument] = self.stack[-1]
        elif name in self.others:
            self.others[name](argument)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"expected opcodes that torch.save writes, got {name}")

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("expected a value on the pickle's stack, got none")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        taken = []
        while (value := self.stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def extend(self, values: Sequence[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise TypeError(f"expected a list to extend, got {type(target).__name__}")

    def set_items(self, values: Sequence[Any]) -> None:
        if isinstance(target := self.stack[-1], dict):
            target.update((_key(name), value) for name, value in _pairs(values))
        elif not isinstance(target, Inert):
            raise TypeError(f"expected a dict to fill, got {type(target).__name__}")

    def named(self, names: Sequence[Any]) -> Name:
        if not all(isinstance(name, str) for name in names):
            raise ValueError("expected the name of a Python object as text")
        return self.names(*names)

    def call(self, arguments: Any) -> None:
        self.stack.append(_called(self.pop(), arguments))

    def make(self, function: Any, *arguments: Any) -> None:
        self.stack.append(_called(function, arguments))

    def build(self, _: Any) -> None:
        """Drop an object's state: only containers, tensors and inert placeholders may have one."""
        if isinstance(self.stack[-1], Name | str | int):
            raise TypeError("expected state for an object, got state for a name or a plain value")


def _called(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Name) or not isinstance(arguments, list | tuple):
        raise TypeError(f"expected a named object to be called, got {type(function).__name__}")
    return function.call(arguments)


def _pairs(values: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(values[::2], values[1::2], strict=True)


def _key(name: Any) -> Any:
    """Return a key that hashes fast: nested tuples may take twice as long to hash with each level."""
    return name if isinstance(name, str | int | float | bytes | None) else Inert()
