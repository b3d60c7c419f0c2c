"""What each element of a value sees of the images: its first and last row and column, exactly.

Strictly, an element sees all that it can depend on. Behind a gate such as squeeze-and-excitation, or a normalization
over positions, that is the whole image. The spatial field leaves out what is the same at all positions of a map, where
it meets what is not: in operations on single values (a mean that is subtracted, a gate that multiplies), in products
that sum over nothing, and where channels are joined. Of attention it leaves out what is looked up elsewhere: what a
query gathers counts as where the query is from.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxviz.program import _reach_rules as rules
from jaxviz.program._attention import attentions
from jaxviz.program._constants import Constants
from jaxviz.program._reach_windows import NOTHING, Call, Seen, UnknownOperationError
from jaxviz.program._trace import Program, Value
from jaxviz.program._uniform import Uniform


class Reach(NamedTuple):
    """What a value's elements see, along rows and along columns: see `_reach_rules`."""

    rows: Seen
    columns: Seen


Kept = dict[int, list[tuple[bool, bool]]]
"""Of the values of a program, which operands count: along rows, along columns."""


def reach(program: Program, value: Value, image_size: Sequence[int], *, strict: bool) -> tuple[Reach, Kept]:
    """Return what a value's elements see, and which operands of the values before it count for that."""
    kept: Kept = {}
    for current, seen in _reaches(program, ancestors(value), image_size, kept, strict=strict):
        if current is value:
            return seen, kept
    raise AssertionError("a program does not have this value")


def _reaches(
    program: Program, needed: set[int], image_size: Sequence[int], kept: Kept, *, strict: bool, skips: bool = False
) -> Iterator[tuple[Value, Reach]]:
    """Yield what the elements of some values see, in forward order, and note which operands count.

    Where `skips` is set, what cannot be followed is left out, and all that depends on it.
    """
    constants = Constants(program)
    uniform, elsewhere = Uniform(constants), {} if strict else _elsewhere(program)
    known: dict[int, Reach] = {}
    order = [v for v in program.inputs if v.varies]
    order += [v for v in program.values if id(v) in needed]
    uses = Counter(id(operand) for v in order for operand in v.inputs if operand.varies)
    for current in order:
        with contextlib.suppress(*(UnknownOperationError, KeyError) if skips else ()):
            if current.eqn is None:
                known[id(current)] = _pixels(current, image_size)
            else:
                parts = {i: known[id(x)] for i, x in enumerate(current.inputs) if x.varies}
                if id(current) in elsewhere:
                    del parts[elsewhere[id(current)]]
                known[id(current)], kept[id(current)] = _passed(Call(current, constants), parts, uniform, strict)
            yield current, known[id(current)]
        for operand in current.inputs:
            uses[id(operand)] -= 1
            if operand.varies and not uses[id(operand)]:
                known.pop(id(operand), None)  # attention's weights, (tokens, tokens), are large


def windows_seen(
    program: Program, values: Sequence[Value], image_size: Sequence[int]
) -> dict[int, tuple[int, int] | None]:
    """Return how many rows and columns of an image the elements of some values see at most, all by one pass.

    By a value's id; None for one that sees only gates, or that cannot be followed.
    """
    wanted, kept = {id(value) for value in values}, {}
    found: dict[int, tuple[int, int] | None] = dict.fromkeys(wanted)
    needed = set().union(*(ancestors(value) for value in values)) if values else set()
    for value, seen in _reaches(program, needed, image_size, kept, strict=False, skips=True):
        if id(value) in wanted and not any((plane == NOTHING).all() for plane in seen):
            sides = [max(0, int((last - first).max())) for first, last in (edges(plane) for plane in seen)]
            found[id(value)] = (sides[0], sides[1])
    return found


def _elsewhere(program: Program) -> dict[int, int]:
    """Return which operands of products are what attention looks at elsewhere: keys, and values that it weights."""
    found = {}
    for attention in attentions(program):
        if attention.scores is not None and all(operand.varies for operand in attention.scores.inputs):
            found |= {id(attention.scores): attention.scored, id(attention.product): attention.values}
    return found


def ancestors(value: Value) -> set[int]:
    """Return the values that depend on the images and that `value` is made of, itself included."""
    found, stack = {id(value)}, [value]
    while stack:
        fresh = [operand for operand in stack.pop().inputs if operand.varies and id(operand) not in found]
        found.update(map(id, fresh))
        stack += fresh
    return found


def _pixels(images: Value, image_size: Sequence[int]) -> Reach:
    ndim = len(images.aval.shape)
    ends = [np.stack([np.arange(n), -np.arange(n)]).astype(np.int32) for n in image_size]
    rows, columns = (
        end.reshape(2, *(-1 if a == axis else 1 for a in range(ndim))) for axis, end in zip((1, 2), ends, strict=True)
    )
    return Reach(rows, columns)


def _passed(call: Call, parts: dict[int, Reach], uniform: Uniform, strict: bool) -> tuple[Reach, list]:
    value, count = call.value, len(call.value.inputs)
    if 0 in call.result:  # jnp.pad joins such to the rest
        return Reach(*(rules.nowhere(len(call.result)) for _ in (0, 1))), [(True, True)] * count
    if value.op in rules.ELEMENTWISE:
        ndim = len(call.result)
        parts = {
            i: Reach(*(x.reshape(2, *[1] * ndim) if x.ndim == 1 else x for x in seen)) for i, seen in parts.items()
        }
    elif value.op not in rules.RULES and value.op != "concatenate":
        raise UnknownOperationError(f"`{value.op}`")
    kept = [(True, True)] * count
    if value.op == "concatenate":
        kept = kept if strict else _kept(parts, uniform.operands(call), count)
        return Reach(*(_concatenated(call, parts, kept, plane) for plane in (0, 1))), kept
    rule = rules.RULES.get(value.op)
    moved = {i: Reach(*(rule(call, i, x) for x in part)) if rule else part for i, part in parts.items()}
    if not strict and len(parts) > 1 and joins(call):
        kept = _kept(moved, uniform.operands(call), count)
    kept = [(i in parts and rows, i in parts and columns) for i, (rows, columns) in enumerate(kept)]
    planes = [[part[plane] for i, part in moved.items() if kept[i][plane]] for plane in (0, 1)]
    nothing = rules.nowhere(len(call.result))
    return Reach(*(rules.shortened(_union(plane)) if plane else nothing for plane in planes)), kept


def _as_long(seen: Seen, ndim: int) -> Seen:
    return seen.reshape(2, *(1,) * ndim) if seen.ndim == 1 else seen


def joins(call: Call) -> bool:
    """Tell where a map may meet what is the same at all of its positions."""
    product = call.value.op == "dot_general" and not any(call.params["dimension_numbers"][0])
    return product or call.value.op in rules.ELEMENTWISE


def _union(planes: list[Seen]) -> Seen:
    result = planes[0]
    for plane in planes[1:]:
        result = result if plane is result else np.minimum(result, plane)
    return result


def _kept(parts: dict[int, Reach], uniform: Sequence[frozenset[int]], count: int) -> list[tuple[bool, bool]]:
    """Leave out what is the same along an axis where another one sees something else from place to place.

    Two that are the same along each other's axes, as a column of gates and a row of them, both count.
    """
    places = {i: [_varying(x) for x in part] for i, part in parts.items()}

    def beside(one: int, other: int, planes: Sequence[int]) -> bool:
        here, there = (set().union(*(places[i][plane] for plane in planes)) for i in (one, other))
        return bool(there & uniform[one]) and not here & uniform[other]

    left = [i for i in parts if not any(beside(i, j, (0, 1)) for j in parts if j != i)]

    def counts(one: int, plane: int) -> bool:
        return one in left and not any(beside(one, other, [plane]) for other in left if other != one)

    return [(counts(i, 0), counts(i, 1)) for i in range(count)]


def _varying(seen: Seen) -> set[int]:
    return {axis for axis, n in enumerate(seen.shape[1:]) if n > 1}


def _concatenated(call: Call, parts: dict[int, Reach], kept: Sequence[tuple[bool, bool]], plane: int) -> Seen:
    axis, pieces = int(call.params["dimension"]), []  # a NumPy number, now and then
    for i, shape in enumerate(call.shapes):
        seen = parts[i][plane] if i in parts and kept[i][plane] else rules.nowhere(len(shape))
        pieces.append(rules.expanded(seen, shape, [axis]))
    common = np.broadcast_shapes(*((*x.shape[: axis + 1], 1, *x.shape[axis + 2 :]) for x in pieces))
    wide = [np.broadcast_to(x, (*common[: axis + 1], x.shape[axis + 1], *common[axis + 2 :])) for x in pieces]
    return rules.shortened(np.concatenate(wide, axis + 1))


def seen_by(program: Program, value: Value, image_size: Sequence[int], *, strict: bool) -> tuple[Reach, Kept]:
    """Return what a value's elements see; the spatial field of one that sees only gates is the strict one."""
    found, kept = reach(program, value, image_size, strict=strict)
    if not strict and any((plane == NOTHING).any() for plane in found):
        whole, _ = reach(program, value, image_size, strict=True)
        empty = found.rows[:1] == NOTHING
        empty = empty & (found.columns[:1] == NOTHING)
        found = Reach(*(rules.shortened(np.where(empty, w, x)) for w, x in zip(whole, found, strict=True)))
    return found, kept


def followed(program: Program, source: Value, seen: Seen) -> dict[int, Seen]:
    """Return what later values see of a value, strictly, given what its own elements are to be seen as.

    Where an operation is not known, or moves to places that are not, all that it makes sees all that it is made of.
    """
    constants, known = Constants(program), {id(source): Reach(seen, seen)}
    uniform = Uniform(constants)
    for value in program.values:
        parts = {i: known[id(x)] for i, x in enumerate(value.inputs) if id(x) in known}
        if parts and value is not source:
            try:
                known[id(value)] = _passed(Call(value, constants), parts, uniform, True)[0]
            except UnknownOperationError:
                least = np.min([part.rows.min(axis=tuple(range(1, part.rows.ndim))) for part in parts.values()], axis=0)
                whole = least.reshape(2, *(1,) * len(value.aval.shape))
                known[id(value)] = Reach(whole, whole)
    return {key: each.rows for key, each in known.items()}


def edges(seen: Seen) -> Iterator[np.ndarray]:
    """Yield the first row or column that is seen, and the one after the last; 0 and 0 for nothing."""
    nothing = seen[0] == NOTHING
    yield np.where(nothing, 0, seen[0])
    yield np.where(nothing, 0, 1 - seen[1])
