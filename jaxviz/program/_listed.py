"""What `layers` returns: names and shapes, which show themselves as a table."""

from collections.abc import Iterator, Mapping, Sequence

import jax

from jaxviz.program._names import bias_additions, is_layer, of_kinds
from jaxviz.program._reach import windows_seen
from jaxviz.program._trace import KINDS, MOVES, POINTWISE, Program, Value
from jaxviz.show._pictures import table

_LONG = 60  # lines of what an interpreter echoes
_HEAD = ("name", "kind", "shape", "sees")


class Layers(dict[str, jax.ShapeDtypeStruct]):
    """The layers of a network, a mapping of names to shapes and dtypes, in forward order.

    Asked for another name of one, such as its number, it knows that too. Printed, and in a notebook, it is a table with
    each layer's kind and how many rows and columns of the image its units see; that is found when it is first shown.
    """

    def __init__(self, program: Program, listed: Mapping[str, Value], others: Mapping[str, Value]):
        shape = lambda value: jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype)
        super().__init__({name: shape(value) for name, value in listed.items()})
        self._others = {name: shape(value) for name, value in others.items()}
        self._program, self._values = program, dict(listed)
        self._seen: dict[int, tuple[int, int] | None] | None = None

    def __missing__(self, name: str) -> jax.ShapeDtypeStruct:
        if name not in self._others:
            raise KeyError(name)
        return self._others[name]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def __repr__(self) -> str:
        lines = self._lines()
        left = len(lines) - _LONG
        if left <= 0:
            return "\n".join(lines)
        more = f"… {left} more, all of which print(layers) shows …"
        return "\n".join([*lines[: _LONG * 2 // 3], more, *lines[-_LONG // 3 :]])

    def _lines(self) -> list[str]:
        rows = [_HEAD, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]

    def _repr_html_(self) -> str:
        return f'<div style="max-height: 30em; overflow: auto">{table(_HEAD, list(self.rows()))}</div>'

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield what the table says of each layer."""
        if self._seen is None:
            shape = next(x.aval.shape for x in self._program.inputs if x.varies)
            values = [value for value in self._values.values() if value.varies]
            self._seen = windows_seen(self._program, values, shape[1:3]) if len(shape) == 4 else {}
        kinds = kinds_of(self._program)
        for name, value in self._values.items():
            window = self._seen.get(id(value))
            sees = f"{window[0]} x {window[1]}" if window else ""
            yield name, kind_of(value, kinds), " x ".join(map(str, value.aval.shape)), sees


def kinds_of(program: Program) -> dict[int, str]:
    """Return the kinds of what has a name by its kind, and of products without their biases."""
    kinds = {id(value): _NAMED.get(kind, "activation") for kind, value in of_kinds(program)}
    for value in program.values:
        if is_layer(value):
            kinds |= {id(step): KINDS[value.op] for step in (value, *bias_additions(value))}
    return kinds


_NAMED = {
    "attention": "softmax", "relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "add": "sum", "max_pool": "max pool",
    "avg_pool": "mean pool", "global_max_pool": "max", "global_avg_pool": "mean",
}  # fmt: skip
_WORDS = {
    "add": "sum", "add_any": "sum", "sub": "difference", "mul": "product", "div": "quotient", "logistic": "sigmoid",
    "reduce_window_max": "max pool", "reduce_max": "max", "reduce_window_sum": "mean pool", "reduce_sum": "mean",
    "dot_general": "attention product", "concatenate": "concatenation", "erf": "gelu", "input": "images",
}  # fmt: skip


def kind_of(value: Value, kinds: Mapping[int, str]) -> str:
    """Return what makes a value, looking through its names and what only moves it."""
    while id(value) not in kinds and value.op in ("name", "convert_element_type", "copy", *MOVES) and value.inputs:
        value = value.inputs[0]
    return kinds.get(id(value)) or _composed(value) or _WORDS.get(value.op, value.op)


_SMOOTH = ("erf", "erfc", "tanh", "logistic")
_POOLS = {"reduce_window_sum": "mean pool", "reduce_sum": "mean"}


def _composed(value: Value) -> str:
    """Return the kind of what takes several operations, by the last of them and those on each unit before it."""
    if value.op not in ("add", "sub", "mul", "div"):
        return ""
    varying = [operand for operand in value.inputs if operand.varies]
    if value.op != "add" or len(varying) == 1:
        if value.op in ("div", "mul") and len(varying) == 1 and varying[0].op in _POOLS:
            return _POOLS[varying[0].op]
        if _has(value, ("rsqrt", "sqrt")):
            return "normalization"
        if value.op in ("div", "mul") and _has(value, _SMOOTH):
            return "activation"
        if value.op == "div" and value.inputs[0].op == "exp":
            return "softmax"
    # Of a sum of two, a normalization's is that with its scaled mean; all others are what the sum's own word says.
    shifted = value.op == "add" and len(varying) == 2 and {x.op for x in varying} == {"mul", "neg"}
    return "normalization" if shifted and _has(value, ("rsqrt",)) else ""


def _has(value: Value, ops: Sequence[str], depth: int = 12) -> bool:
    """Tell whether one of some operations, on each unit by itself or on a mean, is a part of what made a value."""
    if value.op in ops:
        return True
    if depth == 0 or not (value.op in POINTWISE or value.op in MOVES or value.op.startswith("reduce_")):
        return False
    return any(_has(operand, ops, depth - 1) for operand in value.inputs)
