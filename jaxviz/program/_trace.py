"""Look inside a function by reading its jaxpr: list, capture and replace the values in it.

A value is named by JAX's own `jax.ad_checkpoint.checkpoint_name(x, "conv4_2")`. Unnamed convolutions, dense products,
activations, pools and sums of branches are numbered in order, by kind, counting named ones as well (`conv_0`, `relu_0`,
`dense_0`, `gelu_0`); the value of a convolution or dense layer includes its bias. These are also known by the path of
their kernel in the parameters (`"Block_0/Conv_1"`), which Linen and NNX name after the module.

The functions here take a function and return a function. They do not jit: values inside a jitted part are reached by
inlining that part, so jit the result. So are those in the iterations of a `scan` (`scan_0[3]/dense_0`,
`"blocks[3]/Dense_0"`), which is unrolled if one of them is requested. Values inside `while` exist once per iteration,
those inside `cond` in one branch only, and those inside `shard_map` in parts, one on each device: they are refused.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxprs_in_params, primitives

from jaxviz.program._turns import has_turns, is_loop, turn_of, written_out

CUSTOM_RULES = {primitives.custom_jvp_call_p, primitives.custom_vjp_call_p}
_CALLS = CUSTOM_RULES | {primitives.jit_p, primitives.closed_call_p, primitives.call_p, primitives.remat_p}

KINDS = {
    "conv_general_dilated": "conv",
    "jaxviz_convolution": "conv",
    "jaxviz_winograd": "conv",
    "dot_general": "dense",
}
"""The primitives of layers, and the prefixes of their numbered names."""

# Primitives whose result at a position depends only on their operands at that position.
POINTWISE = frozenset(
    """
    abs add and atan2 cbrt ceil clamp convert_element_type copy cos div eq erf erf_inv erfc exp exp2 expm1
    floor ge gt integer_pow is_finite le log log1p logistic lt max min mul name ne neg nextafter not
    optimization_barrier or pow real reduce_precision rem round rsqrt select_n sign sin sqrt square
    stop_gradient sub tan tanh xor
    """.split()
)

ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
MAP_OPTIONS = ("mesh", "in_specs", "out_specs", "check_vma")

Path = tuple[int, ...]
"""Where an equation is: the index of each call around it, then its own."""


@dataclasses.dataclass(eq=False, repr=False)
class Value:
    """One array of a program whose calls have been inlined, with the equation that produces it."""

    op: str  # the primitive's name; "input" or "constant" if no equation produces it
    aval: Any
    inputs: tuple["Value", ...] = ()
    eqn: JaxprEqn | None = None
    path: Path = ()
    varies: bool = False  # does it depend on the images?
    constant: Any = None
    key: str = ""  # for an input: its path in the parameters
    home: tuple[Path, int] = ((), 0)  # the outermost equation that returns it, and its index among the outputs there
    rule_at: Path | None = None  # the outermost call with a custom derivative around it
    users: list["Value"] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False, repr=False)
class Program:
    """A function traced once: its jaxpr, its values with calls inlined, and the loops that cannot be entered.

    `loops` has all equations with a jaxpr of their own that are not mere calls: also branches, kernels, shard_maps.
    """

    jaxpr: ClosedJaxpr
    treedef: Any
    inputs: Sequence[Value] = ()
    outputs: Sequence[Value] = ()
    maps: bool = False  # are the bodies of shard_maps inlined, too?
    writes_out: bool = False  # are scans unrolled and inlined, too?
    scans: list[Path] = dataclasses.field(default_factory=list)  # where such scans are
    turns: dict[Path, int] = dataclasses.field(default_factory=dict)  # the calls of their bodies, and the iteration
    values: list[Value] = dataclasses.field(default_factory=list)
    loops: list[JaxprEqn] = dataclasses.field(default_factory=list)


def trace(fn: Callable, *args: Any, last_only: bool = True, maps: bool = False, turns: bool = False) -> Program:
    """Trace `fn(*args)` without running it; what depends on its last argument (or on any) is marked as varying.

    With `maps`, the body of a `shard_map` is inlined, too. Its values can then be changed, but not captured: each is
    part of an array, one on each device. With `turns`, scans are unrolled and inlined, too.
    """
    jaxpr, shape = jax.make_jaxpr(lambda *args: _of_arrays(fn(*args)), return_shape=True)(*args)
    leaves = [
        (path, i == len(args) - 1 or not last_only)
        for i, arg in enumerate(args)
        for path, _ in jax.tree_util.tree_flatten_with_path(arg)[0]
    ]
    inputs = [
        Value("input", var.aval, varies=varies and not is_key(var.aval), key=_module_path(path))
        for var, (path, varies) in zip(jaxpr.jaxpr.invars, leaves, strict=True)
    ]
    program = Program(jaxpr, jax.tree.structure(shape), inputs, maps=maps, writes_out=turns)
    program.outputs = _inline(program, jaxpr, inputs, (), None)
    return program


def _of_arrays(outputs: Any) -> Any:
    """Return a network's outputs; raise ValueError for an object in which JAX cannot see the arrays."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(outputs)[0]:
        if not (isinstance(leaf, ARRAYS) or hasattr(leaf, "__jax_array__")):
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            held = dict(leaf) if isinstance(leaf, Mapping) else getattr(leaf, "__dict__", {})
            fields = [str(name) for name in held]
            best = next((name for name, value in held.items() if isinstance(value, ARRAYS)), next(iter(held), 0))
            part = f".{best}" if held and not isinstance(leaf, Mapping) else f"[{best!r}]"
            raise ValueError(
                f"the network returned a {type(leaf).__name__}{where}{' of ' * bool(fields)}{', '.join(fields[:8])}; "
                "expected arrays, in tuples, lists or dicts if several: wrap it, as in "
                f"lambda params, images: net(params, images){jax.tree_util.keystr(path)}{part}"
            )
    return outputs


def is_key(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)


def call_body(eqn: JaxprEqn, *, turns: bool = False) -> ClosedJaxpr | None:
    """Return the jaxpr of an equation that only calls it (jit, remat, a custom derivative), else None.

    With `turns`, a scan's unrolled program, too.
    """
    if turns and has_turns(eqn):
        return written_out(eqn)
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
        if body := call_body(eqn, turns=program.writes_out):
            _note_turn(program, eqn, here)
            outer = rule_at or (here if eqn.primitive in CUSTOM_RULES else None)
            made = _inline(program, body, operands, here, outer)
            _lift(body, made, here)
        elif program.maps and is_map(eqn):
            made = _inline_map(program, eqn, operands, here, rule_at)
        else:
            if any(True for _ in jaxprs_in_params(eqn.params)):
                program.loops.append(eqn)
            made = [_value(eqn, operands, here, i, rule_at) for i in range(len(eqn.outvars))]
            program.values += made
        env.update(zip(eqn.outvars, made, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _note_turn(program: Program, eqn: JaxprEqn, path: Path) -> None:
    if is_loop(eqn):
        program.scans.append(path)
    turn = turn_of(eqn)
    if turn is not None:
        program.turns[path] = turn


def is_map(eqn: JaxprEqn) -> bool:
    return str(eqn.primitive) == "shard_map"


def _inline_map(
    program: Program, eqn: JaxprEqn, operands: Sequence[Value], path: Path, rule_at: Path | None
) -> list[Value]:
    """Inline what each device runs; values `shard_map` mark where arrays are split and reassembled."""

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
    """Move the home of values that a call returns but does not use to the call, so that it need not be entered.

    Entering would lose the call's custom derivative, and `jax.nn.relu`'s differs from that of `max` at zero.
    """
    used = {id(atom) for eqn in body.jaxpr.eqns for atom in eqn.invars}
    times = Counter(map(id, results))
    for output, (atom, value) in enumerate(zip(body.jaxpr.outvars, results, strict=True)):
        inside = value.home[0][: len(path)] == path
        if inside and id(atom) not in used and times[id(value)] == 1:
            value.home = (path, output)


def words_of(keys: Sequence[Any]) -> list[str]:
    """Return the path of a pytree's leaf as words; a tuple that is a key of a dictionary is several."""
    found = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in keys]
    return [str(word) for key in found for word in (key if isinstance(key, tuple) else (key,))]


def _module_path(keys: Sequence[Any]) -> str:
    """Return a parameter's module: `Conv_0` for `params/Conv_0/kernel`.

    Keys of a flat dictionary are paths themselves: `layer1.0.conv1` for `layer1.0.conv1.weight`.
    """
    words = words_of(keys)
    while words and words[-1] in ("value", "raw_value"):  # NNX's Param wraps its array
        words.pop()
    *owner, label = words or [""]
    for separator in "/.":
        if len(inner := label.rsplit(separator, 1)) == 2 and inner[0]:
            owner.append(inner[0])
            break
    path = "/".join(owner)
    return path.removeprefix("params/") if path.startswith("params/") else "" if path == "params" else path


MOVES = ("reshape", "squeeze", "broadcast_in_dim", "transpose")


def loop_bodies(program: Program) -> Iterator[tuple[str, Program]]:
    """Yield the kind and body of every loop and branch, as programs that can be read but not run."""
    for eqn in program.loops:
        for jaxpr in jaxprs_in_params(eqn.params):
            closed = ClosedJaxpr(jaxpr, [None] * len(jaxpr.constvars))
            body = Program(closed, None, [Value("input", var.aval, varies=True) for var in jaxpr.invars])
            body.outputs = _inline(body, closed, body.inputs, (), None)
            yield str(eqn.primitive), body
            yield from ((str(eqn.primitive), inner) for _, inner in loop_bodies(body))
