"""What a stored result is tied to: a hash of parameters, and one of the program that a function traces to."""

import dataclasses
import enum
import functools
import hashlib
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, primitives

from jaxviz.program._trace import call_body

_ONLY_NAMES = {"name", "debug_info", "name_and_src_info", "source_info"}
"""Parameters of equations that are only for people to read."""


def digest_of(params: Any) -> str:
    """Return a hash of parameters: of their paths, dtypes, shapes and values."""
    whole = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        is_key = jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        whole.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def digest_of_program(fn: Callable[..., Any], *args: Any) -> str:
    """Return a hash of what `fn(*args)` computes, including the values that it closes over, but not those of `args`.

    The function is traced, not run. A value's hash combines its operation, the operation's options and the operands'
    hashes, so names, `jit` and code that does not reach the outputs do not change it, and all processes agree. An edit
    that keeps the values (`x + x` for `2 * x`) does change it, and so may a new version of JAX that traces functions to
    other operations. Host callbacks count by their bytecode, which changes with Python's version.

    Args:
        fn: any JAX function.
        args: its arguments, or their shapes (`jax.ShapeDtypeStruct`).

    Returns:
        The sha256, in hexadecimal.

    >>> shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    >>> digest_of_program(jnp.sin, shape) == digest_of_program(jax.jit(lambda x: jnp.sin(x)), shape)
    True
    >>> digest_of_program(jnp.sin, shape) == digest_of_program(jnp.cos, shape)
    False
    """
    closed = jax.make_jaxpr(fn)(*args)
    return _of_jaxpr(closed.jaxpr, closed.consts)


def with_gradient(net: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a function of a network's outputs and their gradient, which may follow custom rules."""

    def both(params: Any, images: Any) -> Any:
        outputs, back = jax.vjp(lambda images: net(params, images), images)
        return outputs, back(outputs)

    return both


def _of_jaxpr(jaxpr: Jaxpr, consts: Sequence[Any] = ()) -> str:
    if not consts:  # a body, whose constants are operands
        jaxpr = jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars])
    inputs = [_hash("input", str(i), _of_type(var.aval)) for i, var in enumerate(jaxpr.invars)]
    effects: list[str] = []
    return _hash("program", *_results(ClosedJaxpr(jaxpr, list(consts)), inputs, effects), *effects[-1:])


def _results(closed: ClosedJaxpr, inputs: Sequence[str], effects: list[str]) -> list[str]:
    """Return the hashes of a program's outputs, given those of its inputs and of earlier effects."""
    jaxpr = closed.jaxpr
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*map(_told, closed.consts), *inputs), strict=True))

    def read(atom: Any) -> str:
        return _told(np.asarray(atom.val, atom.aval.dtype)) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        if body := call_body(eqn):
            made = _results(body, operands, effects)
        elif eqn.primitive is primitives.name_p:
            made = operands
        else:
            lasting = bool(eqn.effects) and not str(eqn.primitive).startswith("debug_")
            whole = _hash(str(eqn.primitive), _told(eqn.params), *operands, *(effects[-1:] if lasting else []))
            effects += [whole] if lasting else []
            made = [_hash(whole, str(i)) for i in range(len(eqn.outvars))]
        env.update(zip(eqn.outvars, made, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _hash(*parts: str | bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little"))
        whole.update(data)
    return whole.hexdigest()


def _of_type(aval: Any) -> str:
    return f"{aval.dtype} {aval.shape}" if hasattr(aval, "shape") else str(aval)


def _told(value: Any) -> str:
    """Describe an operation's option, or a constant, in a text that is the same in every process."""
    if isinstance(value, ClosedJaxpr):
        return _of_jaxpr(value.jaxpr, value.consts)
    if isinstance(value, Jaxpr):
        return _of_jaxpr(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return digest_of(value)
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, Mapping):
        return _hash("mapping", *sorted(f"{_told(k)}: {_told(v)}" for k, v in value.items() if k not in _ONLY_NAMES))
    if isinstance(value, tuple | list | set | frozenset):
        parts = [_told(part) for part in value]
        return _hash(type(value).__name__, *(parts if isinstance(value, tuple | list) else sorted(parts)))
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _of_type(value)
    if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
        return _of_function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _hash(type(value).__name__, _told({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}))
    return re.sub(r"\b0x[0-9a-f]+", "", repr(value))  # without addresses


def _of_function(function: Any, within: tuple[Any, ...] = ()) -> str:
    """Return the hash of a function that runs on the host: its code, and what it closes over."""
    if isinstance(function, functools.partial):
        return _hash("partial", *map(_told, (function.func, function.args, function.keywords)))
    function = getattr(function, "__func__", function)
    held = [cell.cell_contents for cell in function.__closure__ or () if function not in within]
    told = [_of_function(x, (*within, function)) if isinstance(x, types.FunctionType) else _told(x) for x in held]
    return _hash(function.__qualname__, _of_code(function.__code__), _told(function.__defaults__), *told)


def _of_code(code: types.CodeType) -> str:
    consts = [_of_code(x) if isinstance(x, types.CodeType) else _told(x) for x in code.co_consts]
    return _hash(code.co_code, *code.co_names, *consts)
