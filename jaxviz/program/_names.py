"""Names of the values of a program: module paths, `checkpoint_name`s, kinds by number."""

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jax.extend.core import primitives

from jaxviz.program._activations import find_activations
from jaxviz.program._attention import WEIGHTS, attentions, kernel_path, path_of
from jaxviz.program._flow import Flow
from jaxviz.program._loop_names import place_in_loops, turns_around, with_turns
from jaxviz.program._pools import find_pools
from jaxviz.program._relus import find_relus, relus_in_loops
from jaxviz.program._sums import find_sums
from jaxviz.program._trace import KINDS, MOVES, Program, Value, loop_bodies


def longer(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size > 1]


MODULE = "jaxviz module: "
"""What the names that `named` gives begin with: a user's own come first, and may not be doubled."""


def name_of(value: Value) -> str | None:
    """Return the name that `checkpoint_name` gave, None for any other value.

    The one place that knows how a name looks: JAX plans another form for it (the flag `jax_remat3`).
    """
    name = _mark_of(value)
    return None if name is None or name.startswith(MODULE) else name


def module_of(value: Value) -> str | None:
    """Return the path of the module that returned this value, where `named` has marked it."""
    name = _mark_of(value)
    return name.removeprefix(MODULE) if name is not None and name.startswith(MODULE) else None


def _mark_of(value: Value) -> str | None:
    if value.eqn is None or value.eqn.primitive is not primitives.name_p:
        return None
    return value.eqn.params["name"]


class _Names(NamedTuple):
    """The names of a program's values."""

    listed: list[tuple[str, Value]]
    """One for each value, in forward order."""
    others: list[tuple[str, Value]]
    """More that some of them answer to; these may be ambiguous."""


def _names(program: Program) -> _Names:
    """Return the names of a program's values: those that users gave, then modules' paths, then kinds by number."""
    given = with_turns(program, [(name, value) for value in program.values if (name := name_of(value))])
    covered = {id(source) for _, value in given for source in _sources(value)}
    taken = {name for name, _ in given}
    modules = _numbered(program)
    shown = [(name, value) for name, value in modules if name not in taken and id(_origin(value)) not in covered]
    marks = [value.inputs[0] if value.op == "transpose" else value for _, value in shown]
    covered |= {id(source) for mark in marks for source in _sources(mark)} | _learned_scores(program)
    order = {id(value): i for i, value in enumerate(program.values)}
    counts: Counter[str] = Counter()
    entries, others = given + shown, [pair for pair in modules if pair not in shown]
    paths = _paths_in_loops(program) | _paths_of_attention(program, {name for name, _ in modules})
    for kind, value in sorted(of_kinds(program), key=lambda item: order[id(item[1])]):
        kind = place_in_loops(program, value) + kind
        path = paths.get(id(value), "")
        name = f"{kind}_{counts[kind]}"
        others += [(name, value)] if path or id(value) in covered else []
        entries += [(path or name, value)] if id(value) not in covered else []
        counts[kind] += 1
    return _Names(sorted(entries, key=lambda entry: order[id(entry[1])]), others)


def of_kinds(program: Program) -> Iterator[tuple[str, Value]]:
    """Yield the values that the program shows to be of some kind, each once, with the names of these kinds."""
    flow = Flow(program)
    relus = [("relu", relu.value) for relu in find_relus(program, flow) if relu.value.varies]
    known = {id(value) for _, value in relus}
    yield from ((KINDS[v.op], _with_bias(v)) for v in program.values if is_layer(v))
    yield from relus
    yield from (("attention", attention.weights) for attention in attentions(program))
    yield from (found for found in find_activations(program, flow) if id(found[1]) not in known)
    yield from find_pools(program, flow)
    yield from (("add", value) for value in find_sums(program, flow))


def _learned_scores(program: Program) -> set[int]:
    """Return the scores of attention with queries of its own, whose product with keys is no layer: it has a number."""
    scores = [attention.scores for attention in attentions(program)]
    return {id(_with_bias(product)) for product in scores if product is not None and is_layer(product)}


def _paths_in_loops(program: Program) -> dict[int, str]:
    """Return what the layers in loops are called by: their module paths, where these mean one value each."""
    found = with_turns(program, list(_paths(program)))
    times = Counter(path for path, _ in found)
    return {id(value): path for path, value in found if times[path] == 1 and turns_around(program, value.path)}


def _paths_of_attention(program: Program, modules: set[str]) -> dict[int, str]:
    """Return what attention weights are called by: the path of their module, where that has been named."""
    found = [(path, attention.weights) for attention in attentions(program) if (path := path_of(attention))]
    own = {id(value) for _, value in found}
    # Together with the modules' paths: the turn of a loop stands where it does there.
    found = [pair for pair in with_turns(program, [*_marks(program), *found]) if id(pair[1]) in own]
    times = Counter(path for path, _ in found)
    return {id(value): path for path, value in found if path.removesuffix(WEIGHTS) in modules and times[path] == 1}


def _numbered(program: Program) -> list[tuple[str, Value]]:
    """Return what modules returned by their paths; calls of a module that is called again are numbered."""
    found = with_turns(program, list(_marks(program)))
    times = Counter(path for path, _ in found)
    calls: Counter[str] = Counter()
    names = []
    for path, value in found:
        names.append((path if times[path] == 1 else f"{path}:{calls[path]}", value))
        calls[path] += 1
    return names


def _marks(program: Program) -> Iterator[tuple[str, Value]]:
    """Yield what modules returned, by their paths."""
    for value in program.values:
        path = module_of(value)
        # A framework's transformation of a module may return what the module has returned.
        if path is not None and not any(module_of(source) == path for source in _sources(value)):
            yield path, _mapped_first(value)


def _mapped_first(value: Value) -> Value:
    """Follow a matrix times mapped vectors, whose images are on the last axis, to where they are first again."""
    product = _origin(value)
    if product.op != "dot_general" or product.inputs[0].varies:
        return value
    last = value
    while len(last.users) == 1 and last.users[0].op in ("name", "convert_element_type"):
        last = last.users[0]
    return last.users[0] if len(last.users) == 1 and last.users[0].op == "transpose" else value


def _origin(value: Value) -> Value:
    """Return what a name stands for, without names and changes of type."""
    return [value, *_sources(value)][-1]


def _sources(value: Value) -> Iterator[Value]:
    """Yield what a name stands for: its operand, through changes of type."""
    while value.op in ("name", "convert_element_type"):
        value = value.inputs[0]
        yield value


def is_layer(value: Value) -> bool:
    """Tell a convolution or dense product, images times parameters, from products of activations such as attention."""
    return value.op in KINDS and value.varies and not all(operand.varies for operand in value.inputs)


def _with_bias(value: Value) -> Value:
    """Follow a product to the addition of its bias, if that is all that becomes of it.

    A product of a matrix with mapped vectors has images on its last axis: without a bias it is followed to where they
    are first again.
    """
    *_, last = [value, *bias_additions(value)]
    while last is not value and len(last.users) == 1 and _drops_axes(last, last.users[0]):
        last = last.users[0]
    if last is value and KINDS[value.op] == "dense" and not value.inputs[0].varies and len(value.users) == 1:
        return value.users[0] if value.users[0].op == "transpose" else value
    return last


def _drops_axes(value: Value, user: Value) -> bool:
    """Tell what only removes axes of length 1."""
    before, after = value.aval.shape, user.aval.shape
    return user.op in ("reshape", "squeeze") and len(after) < len(before) and longer(before) == longer(after)


def bias_additions(value: Value) -> list[Value]:
    """Return the additions of what does not vary that are all that becomes of a product.

    Before the first of them may stand what only reorders its axes, or adds and removes some of length 1, as `vmap`
    does; they are part of the list then.
    """
    steps: list[Value] = []
    moves: list[Value] = []
    while len(value.users) == 1:
        user = value.users[0]
        other = [operand for operand in user.inputs if operand is not value]
        if not steps and user.op in MOVES and sorted(longer(user.aval.shape)) == sorted(longer(value.aval.shape)):
            moves.append(user)
        elif user.op == "add" and len(other) == 1 and not other[0].varies:
            steps += [*moves, user]
            moves = []
        else:
            break
        value = user
    return steps


def _paths(program: Program) -> Iterator[tuple[str, Value]]:
    """Yield the module paths of layers, where their kernels stand in the parameters, and those of attention weights."""
    for value in program.values:
        if is_layer(value) and (path := kernel_path(value)):
            yield path, _with_bias(value)
    for attention in attentions(program):
        if path := path_of(attention):
            yield path, attention.weights


def values_by_name(program: Program) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return every value that can be named, in forward order; refuse names that mean two values or none.

    And further names that mean one value each, such as the numbers of layers that are listed by their paths.
    """
    names = _names(program)
    times = Counter(name for name, _ in names.others)
    return _unique(names.listed), {name: value for name, value in names.others if times[name] == 1}


def _unique(names: Sequence[tuple[str, Value]]) -> dict[str, Value]:
    for name, count in Counter(name for name, _ in names).items():
        if count > 1:
            raise ValueError(
                f"the name {name!r} stands for {count} values of this network; a name must be unique: number them, "
                f'as in checkpoint_name(x, f"{name}_{{i}}")'
            )
    return dict(names)


WAYS_OUT = {
    "scan": "write the loop out in Python",
    "while": "write the loop out in Python",
    "cond": "choose the branch in Python, or compute both and choose with jnp.where",
    "shard_map": "give the function for each device (in `shard_map` or `pmap`) by itself, with images on one device",
}
"""What to do about a value in an operation with a program of its own, where it can be neither taken out nor changed."""

_INSIDE = {
    "scan": "has a value each turn: return it from the loop and name it outside",
    "while": "has a value each turn: return it from the loop and name it outside",
    "cond": "has a value in one branch only: return it from the branches and name it outside",
    "shard_map": "is in parts, one on each device: return it from there and name it outside",
}


def way_out(primitive: str) -> str:
    """Return what to do instead of what cannot be done inside this operation."""
    return WAYS_OUT.get(primitive, f"write it without `{primitive}`, in operations that JAX traces")


def find(program: Program, wanted: Sequence[str]) -> dict[str, Value]:
    """Return the values called `wanted`; raise ValueError for a name that is unknown, doubled or inside a loop."""
    for loop, body in loop_bodies(program):
        for name in {name_of(value) or module_of(value) for value in body.values}.intersection(wanted):
            where = _INSIDE.get(loop, "cannot be reached: return it from there and name it outside")
            raise ValueError(f"{name!r} is inside a `{loop}`, where it {where}, or {way_out(loop)}")
    best, others = values_by_name(program)
    table = best | {name: value for name, value in others.items() if name not in best}
    paths = [(path, value) for path, value in with_turns(program, list(_paths(program))) if path not in table]
    times = Counter(path for path, _ in paths)
    for name in wanted:
        if times[name] > 1:
            raise ValueError(
                f"the layer {name!r} is used {times[name]} times; name the value you mean with "
                "jax.ad_checkpoint.checkpoint_name, or use its number as `layers` lists it"
            )
    table = dict(paths) | table
    for name in wanted:
        if name not in table:
            close = difflib.get_close_matches(name, table, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            raise ValueError(
                f"this network has no layer {name!r}; {hint}It has: {', '.join(table) or 'none'}{_left_out(program)}"
            )
    return {name: table[name] for name in wanted}


def _left_out(program: Program) -> str:
    """Say what a network has that cannot be named, since it lies in loops and the like; "" if nothing."""
    counts = Counter(
        f"{KINDS[v.op]} inside a `{at}`" for at, body in loop_bodies(program) for v in body.values if v.op in KINDS
    )
    counts.update(f"relu inside a `{loop}`" for loop in relus_in_loops(program))
    for loop, body in loop_bodies(program):
        marks = [value for value in body.values if _mark_of(value) is not None]
        counts.update(f"{'module' if module_of(x) else 'checkpoint_name'} inside a `{loop}`" for x in marks)
    found = ", ".join(f"{what}: {count}" for what, count in counts.items())
    return f"; what has no name ({found}) must be returned from there" if found else ""
