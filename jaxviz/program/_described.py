"""What a traced program computes, exactly: two programs with equal descriptions do the same to the same arrays.

A description is an ordered account of every operation, its options, its operands and their types, and of the constants.
Large ones, such as weights that a network closes over, are taken out to become arguments, so that nothing of the user's
is kept. Derivatives of its own that a function has are left out: what is described is run, and not differentiated any
more. Of what cannot be accounted for, such as a host callback, there is no description.
"""

import dataclasses
import enum
import types
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, primitives

from jaxviz.program._trace import CUSTOM_RULES, call_body

_MOST_FIXED = 16
"""Floats in a constant that belongs to the program, such as the mean color; more than that are weights."""


class Described:
    """A program without its large constants, equal to another where it computes the same."""

    def __init__(self, program: ClosedJaxpr, donated: Sequence[bool], name: str, key: Any):
        self.program, self.donated, self.name = program, tuple(donated), name
        self._key = (name, self.donated, key)
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Described) and self._hash == other._hash and self._key == other._key

    def __hash__(self) -> int:
        return self._hash


class _NotToldError(Exception):
    """Something in a program cannot be described exactly."""


def describe(program: ClosedJaxpr, donated: Sequence[bool], name: str) -> tuple[Described, list[Any]] | None:
    """Return a description, and the constants that were taken out: they come before the program's other arguments."""
    try:
        body, key, taken = _of_program(program, outside=True)
        return Described(body, [False] * len(taken) + [*donated], name, key), list(taken.values())
    except (_NotToldError, TypeError):  # TypeError: an option without a hash
        return None


def _of_program(program: ClosedJaxpr, *, outside: bool) -> tuple[ClosedJaxpr, Any, dict[Var, Any]]:
    """Return a program without derivatives of its own, its description, and the constants taken out.

    Those become its first arguments. None are taken out of loops and branches: they are no mere calls.
    """
    jaxpr = program.jaxpr
    if jaxpr.effects:
        raise _NotToldError
    taken: dict[Var, Any] = {}
    fixed: dict[Var, Any] = {}
    for var, value in zip(jaxpr.constvars, program.consts, strict=True):
        (taken if outside and _is_weights(value) else fixed)[var] = value
    eqns, told = [], []
    numbers: dict[Var, int] = {var: i for i, var in enumerate((*fixed, *jaxpr.invars))}

    def number(atom: Any) -> Any:
        return _of_literal(atom) if isinstance(atom, Literal) else numbers.setdefault(atom, len(numbers))

    for eqn in jaxpr.eqns:
        new, key, more = _of_eqn(eqn, outside=outside)
        taken |= more
        told.append((key, *map(number, new.invars), *((number(var), var.aval) for var in new.outvars)))
        eqns.append(new)
    consts = [np.array(value) for value in fixed.values()]  # copies: what is the user's may change
    first = [(number(var), var.aval) for var in taken]
    inputs = [(number(var), var.aval) for var in jaxpr.invars]
    outputs = tuple(map(number, jaxpr.outvars))
    new = jaxpr.replace(constvars=[*fixed], invars=[*taken, *jaxpr.invars], eqns=eqns, debug_info=_without_names(jaxpr))
    values = [(var.aval, _of_array(value)) for var, value in zip(fixed, consts, strict=True)]
    key = (tuple(values), tuple(first), tuple(inputs), tuple(told), outputs)
    return ClosedJaxpr(new, consts), key, taken


def _is_weights(value: Any) -> bool:
    if isinstance(value, jax.Array):
        if value.committed:  # to a device, where the program's other arguments need not be
            raise _NotToldError
        return True
    array = np.asarray(value)
    return array.size > _MOST_FIXED and array.dtype.kind in "fcV"  # V: bfloat16


def _of_eqn(eqn: JaxprEqn, *, outside: bool) -> tuple[JaxprEqn, Any, dict[Var, Any]]:
    """Return an operation, its description but for its operands, and the constants taken out of what it calls."""
    if eqn.effects:
        raise _NotToldError
    taken: dict[Var, Any] = {}
    if eqn.primitive in CUSTOM_RULES or (outside and eqn.primitive is primitives.jit_p):
        called = call_body(eqn)
        assert called is not None
        body, key, taken = _of_program(called, outside=outside)
        if eqn.primitive in CUSTOM_RULES or taken:
            if eqn.primitive is primitives.jit_p:
                _check_plain(eqn.params)
            new = eqn.replace(
                invars=[*taken, *eqn.invars], primitive=primitives.closed_call_p, params={"call_jaxpr": body}
            )
            return new, ("call", eqn.ctx, key), taken
    told = {name: _of_option(value) for name, value in eqn.params.items()}
    new = eqn.replace(params={name: option for name, (option, _) in told.items()})
    return new, (eqn.primitive, eqn.ctx, tuple((name, key) for name, (_, key) in told.items())), taken


def _check_plain(params: dict[str, Any]) -> None:
    """Refuse a jitted function with wishes of its own, which a mere call would forget."""
    placed = [*params["in_shardings"], *params["out_shardings"]]
    if any(type(x).__name__ != "UnspecifiedValue" for x in placed):
        raise _NotToldError
    if any([*params["in_layouts"], *params["out_layouts"], *params["donated_invars"], params["compiler_options_kvs"]]):
        raise _NotToldError


def _of_option(value: Any) -> tuple[Any, Any]:
    """Return an option of an operation, programs in it without derivatives of their own; and its description."""
    if isinstance(value, ClosedJaxpr):
        body, key, _ = _of_program(value, outside=False)
        return body, key
    if isinstance(value, Jaxpr):
        body, key, _ = _of_program(ClosedJaxpr(value, ()), outside=False)
        return body.jaxpr, key
    if type(value) in (tuple, list):
        parts = [_of_option(part) for part in value]
        return type(value)(part for part, _ in parts), (type(value), *(key for _, key in parts))
    return value, _told(value)


def _told(value: Any) -> Any:
    """Return the description of a value that holds no program."""
    if value is None or type(value) in (bool, int, str, bytes):
        return (type(value), value)  # True, 1 and 1.0 are equal
    if type(value) in (float, complex):
        return (type(value), repr(value))  # -0.0 and 0.0 are equal, and what is no number is equal to nothing
    if isinstance(value, np.ndarray | np.generic):
        return _of_array(value)
    if isinstance(value, enum.Enum):
        return (type(value), value.name)
    if isinstance(value, tuple | list):
        return (type(value), *map(_told, value))
    if isinstance(value, dict | types.MappingProxyType):
        return (type(value), *((_told(k), _told(v)) for k, v in value.items()))
    if isinstance(value, types.FunctionType):
        if value.__closure__ or not _is_known(value):
            raise _NotToldError
        return value
    if isinstance(value, type):
        return value
    if dataclasses.is_dataclass(value) and not callable(value) and _is_known(type(value)):
        return (type(value), *(_told(getattr(value, field.name)) for field in dataclasses.fields(value)))
    if isinstance(value, jax.sharding.Mesh | jax.sharding.AbstractMesh):
        return value
    if callable(value) or not _is_known(type(value)) or isinstance(value, jax.Array):
        raise _NotToldError(type(value))
    return (type(value), value)  # equal as JAX says, or only to itself


def _is_known(made: Any) -> bool:
    """Tell what JAX or this library defines: it has no state besides what makes it equal to another."""
    return (made.__module__ or "").partition(".")[0] in ("jax", "jaxlib", "numpy", "jaxviz")


def _of_array(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise _NotToldError
    return ("array", array.dtype, array.shape, array.tobytes())


def _of_literal(literal: Literal) -> Any:
    return (literal.aval, _of_array(np.asarray(literal.val, literal.aval.dtype)))


def _without_names(jaxpr: Jaxpr) -> Any:
    """Return what an error says of a program, without the names of its arguments, whose number has changed."""
    return jaxpr.debug_info._replace(arg_names=None, result_paths=None)
