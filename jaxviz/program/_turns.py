"""Short `scan`s unrolled, one call of the body per iteration ("turn"), so that each iteration's values can be reached.

The loop and its turns stay named calls, even where values in them are changed: a program that is traced again, such as
that of a network with a replaced layer, shows its turns as before.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxpr_as_fun, primitives

MOST_TURNS = 128
"""Values in longer loops, which are not stacks of blocks, cannot be named: every turn is compiled separately."""

_LOOP, _TURN = "jaxviz_loop", "jaxviz_turn_"


def has_turns(eqn: JaxprEqn) -> bool:
    """Return whether this is a scan short enough to be unrolled."""
    return eqn.primitive is primitives.scan_p and 0 < eqn.params["length"] <= MOST_TURNS


def name_of_call(eqn: JaxprEqn) -> str | None:
    """Return the name of the call for a loop or a turn, None for anything else."""
    if has_turns(eqn):
        return _LOOP
    name = eqn.params.get("name", "") if eqn.primitive is primitives.jit_p else ""
    return name if name == _LOOP or name.startswith(_TURN) else None


def is_loop(eqn: JaxprEqn) -> bool:
    """Return whether this is a loop that can be, or has been, unrolled."""
    return name_of_call(eqn) == _LOOP


def turn_of(eqn: JaxprEqn) -> int | None:
    """Return a turn's index in the scanned arrays, None for any other call."""
    name = name_of_call(eqn) or ""
    return int(name.removeprefix(_TURN)) if name.startswith(_TURN) else None


def called(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap a function so that it appears in a program as a call with that name."""

    def call(*args: Any) -> Any:
        return fn(*args)

    call.__name__ = call.__qualname__ = name
    return jax.jit(call)


def written_out(eqn: JaxprEqn) -> ClosedJaxpr:
    """Return a program equivalent to a `scan`, without the loop: slices, calls of the body, stacks."""
    params = eqn.params
    body = jax.jit(jaxpr_as_fun(params["jaxpr"]))  # traced once, called many times
    fixed, carried = params["num_consts"], params["num_carry"]

    def run(*args: Any) -> list[Any]:
        constants, carry, scanned = args[:fixed], args[fixed : fixed + carried], args[fixed + carried :]
        order = range(params["length"])
        stacks = []
        for turn in reversed(order) if params["reverse"] else order:
            slices = [jax.lax.index_in_dim(x, turn, keepdims=False) for x in scanned]
            results = called(body, f"{_TURN}{turn}")(*constants, *carry, *slices)
            carry = results[:carried]
            stacks.append(results[carried:])
        stacks = stacks[::-1] if params["reverse"] else stacks
        return [*carry, *(jnp.stack(each) for each in zip(*stacks, strict=True))]

    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype, weak_type=var.aval.weak_type) for var in eqn.invars]
    return jax.make_jaxpr(run)(*shapes)
