"""Look inside a function by reading its jaxpr: list, take out and replace the values that pass through it.

A value is named by JAX's own `jax.ad_checkpoint.checkpoint_name(x, "conv4_2")`. Convolutions, dense products and
ReLUs without a name are numbered by order among their kind, named ones counted (`conv_0`, `relu_0`, `dense_0`); a
convolution's or dense layer's value includes its bias. They also answer to the path of their kernel in the
parameters (`"Block_0/Conv_1"`), which Linen and NNX name after the module.

The functions here take a function and return a function. They do not jit: values inside a jitted part are reached by
inlining that part, so jit the result. Values inside `scan` and `while` exist once a turn, those inside `cond` in one
branch only, those inside `shard_map` in parts, one on each device: they are refused.
"""

import dataclasses
import difflib
import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxprs_in_params, primitives

from jaxviz._types import Net
from jaxviz._relu import find_relus, relus_in_loops

_CUSTOM_RULES = {primitives.custom_jvp_call_p, primitives.custom_vjp_call_p}
_CALLS = _CUSTOM_RULES | {primitives.jit_p, primitives.closed_call_p, primitives.call_p, primitives.remat_p}

KINDS = {
    "conv_general_dilated": "conv",
    "jaxviz_convolution": "conv",
    "jaxviz_winograd": "conv",
    "dot_general": "dense",
}
"""The primitives of layers, and what their numbers begin with."""

# Primitives whose result at a position depends on their operands at that position only.
POINTWISE = frozenset(
    """
    abs add and atan2 cbrt ceil clamp convert_element_type copy cos div eq erf erf_inv erfc exp exp2 expm1
    floor ge gt integer_pow is_finite le log log1p logistic lt max min mul name ne neg nextafter not
    optimization_barrier or pow real reduce_precision rem round rsqrt select_n sign sin sqrt square
    stop_gradient sub tan tanh xor
    """.split()
)

_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
_MAP_OPTIONS = ("mesh", "in_specs", "out_specs", "check_vma")

Path = tuple[int, ...]
"""Where an equation stands: its index, one index for each call it is nested in."""


@dataclasses.dataclass(eq=False, repr=False)
class Value:
    """One array of a program whose calls have been inlined, with the equation that makes it."""

    op: str  # the primitive's name; "input" or "constant" for what no equation makes
    aval: Any
    inputs: tuple["Value", ...] = ()
    eqn: JaxprEqn | None = None
    path: Path = ()
    varies: bool = False  # does it depend on the images?
    constant: Any = None
    key: str = ""  # of an input: its place in the parameters
    home: tuple[Path, int] = ((), 0)  # the outermost equation that returns it, and which output it is there
    rule_at: Path | None = None  # the outermost call with a derivative of its own that holds it
    users: list["Value"] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False, repr=False)
class Program:
    """A function traced once: its jaxpr, the same with calls inlined, and the loops that cannot be entered.

    Loops stand for all that has a program of its own and is no mere call: branches, kernels, functions for each device.
    """

    jaxpr: ClosedJaxpr
    treedef: Any
    inputs: Sequence[Value] = ()
    outputs: Sequence[Value] = ()
    maps: bool = False  # are functions for each device (shard_map) inlined too?
    values: list[Value] = dataclasses.field(default_factory=list)
    loops: list[JaxprEqn] = dataclasses.field(default_factory=list)


def trace(fn: Callable, *args: Any, last_only: bool = True, maps: bool = False) -> Program:
    """Trace `fn(*args)` without running it; what depends on its last argument (or on any) is marked as varying.

    With `maps`, what `shard_map` runs on each device is inlined too. It can be changed then, but not taken out: a value
    there is a part of an array, and there are as many as devices.
    """
    jaxpr, shape = jax.make_jaxpr(lambda *args: _of_arrays(fn(*args)), return_shape=True)(*args)
    leaves = [
        (path, i == len(args) - 1 or not last_only)
        for i, arg in enumerate(args)
        for path, _ in jax.tree_util.tree_flatten_with_path(arg)[0]
    ]
    inputs = [
        Value("input", var.aval, varies=varies and not _is_key(var.aval), key=_module_path(path))
        for var, (path, varies) in zip(jaxpr.jaxpr.invars, leaves, strict=True)
    ]
    program = Program(jaxpr, jax.tree.structure(shape), inputs, maps=maps)
    program.outputs = _inline(program, jaxpr, inputs, (), None)
    return program


def _of_arrays(outputs: Any) -> Any:
    """Return what a network returned; raise ValueError for an object in which JAX cannot see the arrays."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(outputs)[0]:
        if not (isinstance(leaf, _ARRAYS) or hasattr(leaf, "__jax_array__")):
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            held = dict(leaf) if isinstance(leaf, Mapping) else getattr(leaf, "__dict__", {})
            fields = [str(name) for name in held]
            best = next((name for name, value in held.items() if isinstance(value, _ARRAYS)), next(iter(held), 0))
            part = f".{best}" if held and not isinstance(leaf, Mapping) else f"[{best!r}]"
            raise ValueError(
                f"the network returned a {type(leaf).__name__}{where}{' of ' * bool(fields)}{', '.join(fields[:8])}; "
                "expected arrays, in tuples, lists or dicts if several: wrap it, as in "
                f"lambda params, images: net(params, images){jax.tree_util.keystr(path)}{part}"
            )
    return outputs


def _is_key(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)


def call_body(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """Return the jaxpr of an equation that does nothing but call it (jit, remat, a custom derivative), else None."""
    if eqn.primitive not in _CALLS:
        return None
    body = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
    return body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())


def _inline(
    program: Program, closed: ClosedJaxpr, inputs: Sequence[Value], path: Path, rule_at: Path | None
) -> list[Value]:
    jaxpr = closed.jaxpr
    constants = [Value("constant", var.aval, constant=c) for var, c in zip(jaxpr.constvars, closed.consts, strict=True)]
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

    def read(atom: Any) -> Value:
        return Value("constant", atom.aval, constant=atom.val) if isinstance(atom, Literal) else env[atom]

    for index, eqn in enumerate(jaxpr.eqns):
        operands, here = [read(atom) for atom in eqn.invars], (*path, index)
        if body := call_body(eqn):
            outer = rule_at or (here if eqn.primitive in _CUSTOM_RULES else None)
            made = _inline(program, body, operands, here, outer)
            _lift(body, made, here)
        elif program.maps and _is_map(eqn):
            made = _inline_map(program, eqn, operands, here, rule_at)
        else:
            if any(True for _ in jaxprs_in_params(eqn.params)):
                program.loops.append(eqn)
            made = [_value(eqn, operands, here, i, rule_at) for i in range(len(eqn.outvars))]
            program.values += made
        env.update(zip(eqn.outvars, made, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _is_map(eqn: JaxprEqn) -> bool:
    return str(eqn.primitive) == "shard_map"


def _inline_map(
    program: Program, eqn: JaxprEqn, operands: Sequence[Value], path: Path, rule_at: Path | None
) -> list[Value]:
    """Inline what each device runs; where arrays are cut in parts, and put together again, are values `shard_map`."""

    def handed(outer: Value, aval: Any) -> Value:
        inner = Value("shard_map", aval, (outer,), varies=outer.varies, path=path, home=(path, 0), rule_at=rule_at)
        outer.users.append(inner)
        program.values.append(inner)
        return inner

    jaxpr = eqn.params["jaxpr"]
    parts = [handed(value, var.aval) for value, var in zip(operands, jaxpr.invars, strict=True)]
    results = _inline(program, ClosedJaxpr(jaxpr, ()), parts, path, rule_at)
    return [handed(value, var.aval) for value, var in zip(results, eqn.outvars, strict=True)]


def _value(eqn: JaxprEqn, operands: Sequence[Value], path: Path, output: int, rule_at: Path | None) -> Value:
    varies = any(operand.varies for operand in operands)
    aval = eqn.outvars[output].aval
    value = Value(str(eqn.primitive), aval, tuple(operands), eqn, path, varies, home=(path, output), rule_at=rule_at)
    for operand in operands:
        operand.users.append(value)
    return value


def _lift(body: ClosedJaxpr, results: Sequence[Value], path: Path) -> None:
    """Move the home of what a call only returns, and does not use itself, to the call: no need then to enter it.

    Entering would lose the call's own derivative, and `jax.nn.relu`'s differs from that of `max` at zero.
    """
    used = {id(atom) for eqn in body.jaxpr.eqns for atom in eqn.invars}
    times = Counter(map(id, results))
    for output, (atom, value) in enumerate(zip(body.jaxpr.outvars, results, strict=True)):
        inside = value.home[0][: len(path)] == path
        if inside and id(atom) not in used and times[id(value)] == 1:
            value.home = (path, output)


def _module_path(keys: Sequence[Any]) -> str:
    """Return a parameter's path without what only holds or labels it: `params/Conv_0/kernel` is of `Conv_0`."""
    words = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys]
    while words and words[-1] in ("value", "raw_value"):  # NNX's Param wraps its array
        words.pop()
    words = words[1:] if words[:1] == ["params"] else words
    return "/".join(words[:-1])


_KEEPS_AXES = POINTWISE | {"pad", "slice", "concatenate"}


def channel_axis(value: Value) -> int:
    """Return the axis of channels: where the convolution or the product that they come from puts them, or the last."""
    last = len(value.aval.shape) - 1
    moves: list[Callable[[int], int]] = []
    while KINDS.get(value.op) != "conv" and not _is_mapped_product(value):
        sources = [
            operand for operand in value.inputs if operand.varies and len(operand.aval.shape) >= min(3, last + 1)
        ]
        if value.eqn is None or not sources:
            return last
        # Of a gate and the map that it multiplies, the map is followed.
        sources.sort(key=lambda source: source.aval.shape != value.aval.shape)
        before, after = sources[0].aval.shape, value.aval.shape
        if value.op == "transpose":
            moves.append(value.eqn.params["permutation"].index)
        elif value.op in ("reshape", "squeeze", "broadcast_in_dim") and _longer(before) == _longer(after):
            moves.append(functools.partial(_among_longer, before, after))
        elif free := _free_axes(value, sources[0]):
            moves.append(free.index)
        elif len(before) != len(after) or not (value.op in _KEEPS_AXES or value.op.startswith("reduce_window")):
            return last
        value = sources[0]
    numbers = value.eqn.params.get("dimension_numbers") if value.eqn else None
    axis = 0 if _is_mapped_product(value) else numbers.out_spec[1] if numbers else len(value.aval.shape) - 1
    for move in reversed(moves):
        axis = move(axis)
    return axis


def _is_mapped_product(value: Value) -> bool:
    """Tell a matrix times vectors of mapped images, which stand on the last axis."""
    return (
        KINDS.get(value.op) == "dense" and len(value.aval.shape) == 2 and is_layer(value) and not value.inputs[0].varies
    )


def _free_axes(value: Value, source: Value) -> list[int]:
    """Return where the axes of a product of a map with a matrix come from, as in resizing; none for another value.

    The matrix's own axis stands for the one that is summed over: that has been resized, or is of channels still.
    """
    if value.op != "dot_general" or value.eqn is None:
        return []
    at = value.inputs.index(source)
    contracted, batch = value.eqn.params["dimension_numbers"]
    matrix = value.inputs[1 - at]
    if matrix.varies or len(matrix.aval.shape) != 2 or any(batch) or len(contracted[at]) != 1:
        return []
    kept = [axis for axis in range(len(source.aval.shape)) if axis != contracted[at][0]]
    return [*kept, contracted[at][0]] if at == 0 else [contracted[at][0], *kept]


def _longer(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size > 1]


def _among_longer(before: Sequence[int], after: Sequence[int], axis: int) -> int:
    """Return where an axis is when only axes of length 1 came or went; the last, if it is of length 1 itself."""
    if before[axis] == 1:
        return len(after) - 1
    place = len(_longer(before[:axis]))
    return [i for i, size in enumerate(after) if size > 1][place]


# Names


def name_of(value: Value) -> str | None:
    """Return the name that `checkpoint_name` gave, None for any other value.

    The one place that knows how a name looks: JAX plans another form for it (the flag `jax_remat3`).
    """
    if value.eqn is None or value.eqn.primitive is not primitives.name_p:
        return None
    return value.eqn.params["name"]


def _named(program: Program) -> Iterator[tuple[str, Value]]:
    """Yield every name and value in forward order."""
    explicit = [(name, value) for value in program.values if (name := name_of(value))]
    covered = {id(source) for _, value in explicit for source in _sources(value)}
    found = [(KINDS[v.op], _with_bias(v)) for v in program.values if is_layer(v)]
    found += [("relu", relu.value) for relu in find_relus(program) if relu.value.varies]
    order = {id(value): i for i, value in enumerate(program.values)}
    counts: Counter[str] = Counter()
    entries = [(order[id(value)], name, value) for name, value in explicit]
    for kind, value in sorted(found, key=lambda item: order[id(item[1])]):
        if id(value) not in covered:
            entries.append((order[id(value)], f"{kind}_{counts[kind]}", value))
        counts[kind] += 1
    return ((name, value) for _, name, value in sorted(entries, key=lambda entry: entry[0]))


def _sources(value: Value) -> Iterator[Value]:
    """Yield what a name stands for: its operand, through changes of type."""
    while value.op in ("name", "convert_element_type"):
        value = value.inputs[0]
        yield value


MOVES = ("reshape", "squeeze", "broadcast_in_dim", "transpose")


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
    return user.op in ("reshape", "squeeze") and len(after) < len(before) and _longer(before) == _longer(after)


def bias_additions(value: Value) -> list[Value]:
    """Return the additions of what does not vary that are all that becomes of a product.

    Before the first of them may stand what only orders its axes anew, or adds and removes some of length 1, as `vmap`
    does; they are part of the list then.
    """
    steps: list[Value] = []
    moves: list[Value] = []
    while len(value.users) == 1:
        user = value.users[0]
        other = [operand for operand in user.inputs if operand is not value]
        if not steps and user.op in MOVES and sorted(_longer(user.aval.shape)) == sorted(_longer(value.aval.shape)):
            moves.append(user)
        elif user.op == "add" and len(other) == 1 and not other[0].varies:
            steps += [*moves, user]
            moves = []
        else:
            break
        value = user
    return steps


def _paths(program: Program) -> Iterator[tuple[str, Value]]:
    """Yield the module paths of convolutions and dense products: where their kernels stand in the parameters."""
    for value in program.values:
        if is_layer(value):
            kernel = next(operand for operand in value.inputs if not operand.varies)
            while len(kernel.inputs) == 1:
                kernel = kernel.inputs[0]
            if kernel.key:
                yield kernel.key, _with_bias(value)


def _table(program: Program) -> dict[str, Value]:
    """Return every value that can be named, in forward order; refuse names that mean two values or none."""
    names = list(_named(program))
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
    "shard_map": "give the function for each device by itself, with images on one device",
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
        for name in {name_of(value) for value in body.values}.intersection(wanted):
            where = _INSIDE.get(loop, "cannot be reached: return it from there and name it outside")
            raise ValueError(f"{name!r} is inside a `{loop}`, where it {where}, or {way_out(loop)}")
    table = _table(program)
    paths = [(path, value) for path, value in _paths(program) if path not in table]
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
    found = ", ".join(f"{what}: {count}" for what, count in counts.items())
    return f"; what has no name ({found}) must be returned from there" if found else ""


def loop_bodies(program: Program) -> Iterator[tuple[str, Program]]:
    """Yield the kind and the body of every loop and branch, as programs that can be read but not run."""
    for eqn in program.loops:
        for jaxpr in jaxprs_in_params(eqn.params):
            closed = ClosedJaxpr(jaxpr, [None] * len(jaxpr.constvars))
            body = Program(closed, None, [Value("input", var.aval, varies=True) for var in jaxpr.invars])
            body.outputs = _inline(body, closed, body.inputs, (), None)
            yield str(eqn.primitive), body
            yield from ((str(eqn.primitive), inner) for _, inner in loop_bodies(body))


# Evaluation

Action = Callable[[list[Any], Callable[[], list[Any]]], tuple[list[Any], dict[str, Any]]]
"""What to do at one equation: `(operands, run) -> (results, taken)`, where `run()` gives the ordinary results."""


def evaluate(program: Program, args: Any, actions: Mapping[Path, Action]) -> tuple[Any, dict[str, Any]]:
    """Run a traced program on new arguments, with actions in place of some equations; return what they took out."""
    outputs, taken = _run(program.jaxpr, actions, (), jax.tree.leaves(args))
    return jax.tree.unflatten(program.treedef, outputs), taken


def _run(
    closed: ClosedJaxpr, actions: Mapping[Path, Action], path: Path, args: Sequence[Any]
) -> tuple[list[Any], dict[str, Any]]:
    jaxpr = closed.jaxpr
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *args), strict=True))
    taken: dict[str, Any] = {}
    entered = {at[: len(path) + 1] for at in actions if len(at) > len(path) + 1}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for index, eqn in enumerate(jaxpr.eqns):
        here, operands = (*path, index), [read(atom) for atom in eqn.invars]
        with jax.named_scope(str(eqn.source_info.name_stack)):
            run = functools.partial(_enter if here in entered else bind, eqn, operands, actions, here)
            if here in actions:
                results, more = _act(actions[here], operands, run)
            else:
                results, more = run()
        taken.update(more)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars], taken


def _act(action: Action, operands: list[Any], run: Callable) -> tuple[list[Any], dict[str, Any]]:
    inner: dict[str, Any] = {}

    def ordinary() -> list[Any]:
        results, taken = run()
        inner.update(taken)
        return results

    results, taken = action(operands, ordinary)
    return results, inner | taken


def bind(eqn: JaxprEqn, operands: list[Any], *_: Any) -> tuple[list[Any], dict[str, Any]]:
    """Run one equation as it is; calls too, so that custom derivatives survive."""
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return results if eqn.primitive.multiple_results else [results], {}


def _enter(eqn: JaxprEqn, operands: list[Any], actions: Mapping[Path, Action], path: Path) -> Any:
    """Run the body of a call in place of the call; a remat stays one, for the memory that it saves."""
    if _is_map(eqn):
        return _enter_map(eqn, operands, actions, path)
    body = call_body(eqn)
    assert body is not None  # actions stand on inlined equations only
    run = functools.partial(_run, body, actions, path)
    if eqn.primitive is primitives.remat_p:
        run = jax.checkpoint(run, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])
    return run(operands)


def _enter_map(eqn: JaxprEqn, operands: list[Any], actions: Mapping[Path, Action], path: Path) -> Any:
    """Run a function for each device; what actions take out there is lost."""
    body, options = ClosedJaxpr(eqn.params["jaxpr"], ()), {k: eqn.params[k] for k in _MAP_OPTIONS}
    run = jax.shard_map(
        lambda *parts: tuple(_run(body, actions, path, parts)[0]),
        axis_names=set(eqn.params["newly_manual_axes"]),
        **options,
    )
    return list(run(*operands)), {}


# The public functions


def layers(net: Net, params: Any, images: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """List the values inside a network that can be named, in forward order; runs nothing.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters, or their shapes (`jax.ShapeDtypeStruct`).
        images: `(n, h, w, 3)`, or its shape.

    Returns:
        Name to shape and dtype.

    Raises:
        ValueError: if a name stands for more than one value.

    Warns:
        UserWarning: if there are layers or ReLUs in a loop, a branch or a `shard_map`: they have no name.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     return jax.nn.relu(images.mean((1, 2)) @ params["w1"]) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 10))}
        >>> for name, value in jaxviz.layers(net, params, jnp.ones((2, 8, 8, 3))).items():
        ...     print(name, value.shape)
        dense_0 (2, 4)
        relu_0 (2, 4)
        dense_1 (2, 10)
    """
    program = trace(net, params, images)
    table = _table(program)
    if left_out := _left_out(program):
        warnings.warn(f"layers lists what can be named{left_out} and named outside", stacklevel=2)
    return {name: jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype) for name, value in table.items()}


def dtype_of(params: Any) -> Any:
    """Return the type that a network computes in: of its parameters, whatever images are made in."""
    types = {leaf.dtype for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype")}
    return jnp.result_type(*([t for t in types if jnp.issubdtype(t, jnp.floating)] or [float]))


def shapes_of(net: Net, params: Any, names: Sequence[str], size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of some layers, channels last, for one image of this size."""
    image = jax.ShapeDtypeStruct((1, *size, 3), dtype_of(params))
    values = jax.eval_shape(read_layers(net, names), params, image)
    return {name: values[name].shape for name in names}


def capture(net: Net, names: str | Sequence[str]) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
    """Return a function that also gives the values called `names`.

    The result, `fn(params, images) -> (outputs, {name: array})`, composes with jit, vmap, grad and remat. An unknown
    name, one that is used twice and one inside a loop raise ValueError when it is called. To a value from within a
    function with a `custom_vjp` that function's own derivative does not apply, nor to what comes after it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     return jax.nn.relu(images.mean((1, 2)) @ params)
        >>> outputs, values = jaxviz.capture(net, "dense_0")(-jnp.ones((3, 2)), jnp.ones((1, 8, 8, 3)))
        >>> print(outputs, values["dense_0"])
        [[0. 0.]] [[-3. -3.]]
    """
    wanted = _as_names(names)

    def captured(params: Any, images: Any) -> tuple[Any, dict[str, jax.Array]]:
        outputs, taken, _ = _taken(net, wanted, params, images)
        return outputs, taken

    return captured


def _taken(net: Net, wanted: Sequence[str], params: Any, images: Any) -> tuple[Any, dict[str, jax.Array], Any]:
    """Return the outputs, and the arrays called `wanted` with what they are in the program."""
    program = trace(net, params, images)
    values = find(program, wanted)
    edits = {name: (value, lambda x: x) for name, value in values.items()}
    outputs, taken = evaluate(program, (params, images), _edit_actions(edits))
    return outputs, {name: taken[name] for name in wanted}, values


def read_layers(net: Net, names: str | Sequence[str]) -> Callable[[Any, Any], dict[str, jax.Array]]:
    """Return a function that gives the values called `names`, their channels on the last axis."""
    read = read_with_outputs(net, _as_names(names))
    return lambda params, images: read(params, images)[1]


def read_with_outputs(net: Net, names: Sequence[str]) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
    """Return a function that gives what the network returns, and those values."""

    def read(params: Any, images: Any) -> tuple[Any, dict[str, jax.Array]]:
        if not names:
            return net(params, images), {}
        outputs, taken, values = _taken(net, names, params, images)
        return outputs, {name: jnp.moveaxis(x, channel_axis(values[name]), -1) for name, x in taken.items()}

    return read


def replace(net: Net, replacements: Mapping[str, Any]) -> Callable[[Any, Any], Any]:
    """Return the network with some of its inner values replaced: ablate, clamp, add, patch.

    Args:
        net: any JAX function `net(params, images)`.
        replacements: for each name a function of the value, or an array that broadcasts to its shape.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     return images.mean((1, 2)) @ params
        >>> ablated = jaxviz.replace(net, {"dense_0": lambda x: x.at[:, 0].set(0.0)})
        >>> print(ablated(jnp.ones((3, 2)), jnp.ones((1, 8, 8, 3))))
        [[0. 3.]]
    """
    wanted = _as_names(list(replacements))

    def edited(params: Any, images: Any) -> Any:
        program = trace(net, params, images)
        edits = {
            name: (value, functools.partial(_substitute, name, replacements[name]))
            for name, value in find(program, wanted).items()
        }
        return evaluate(program, (params, images), _edit_actions(edits))[0]

    return edited


def _as_names(names: str | Sequence[str]) -> tuple[str, ...]:
    wanted = (names,) if isinstance(names, str) else tuple(names)
    if not wanted or not all(isinstance(name, str) for name in wanted):
        raise ValueError(f"expected the name of a layer or several of them, got {names!r}; `layers` lists them")
    return wanted


def _substitute(name: str, new: Any, value: jax.Array) -> jax.Array:
    result: Any = new(value) if callable(new) else jnp.asarray(new)
    shape = jnp.shape(result)
    if np.broadcast_shapes(shape, value.shape) != value.shape if not callable(new) else shape != value.shape:
        raise ValueError(f"the replacement of {name!r} has shape {shape}; the network needs {value.shape}")
    return jnp.broadcast_to(result, value.shape).astype(value.dtype)


def _edit_actions(edits: Mapping[str, tuple[Value, Callable]]) -> dict[Path, Action]:
    """Turn `{name: (value, change)}` into actions that change each value at its home and take it out."""
    grouped: dict[Path, list[tuple[str, int, Callable]]] = {}
    for name, (value, change) in edits.items():
        path, output = value.home
        grouped.setdefault(path, []).append((name, output, change))

    def action(here: list[tuple[str, int, Callable]], _: list[Any], run: Callable) -> tuple[list[Any], dict[str, Any]]:
        results, taken = list(run()), {}
        for name, output, change in here:
            results[output] = taken[name] = change(results[output])
        return results, taken

    return {path: functools.partial(action, here) for path, here in grouped.items()}
