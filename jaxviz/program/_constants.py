"""A program's values that do not depend on the images: known numbers, or just where they can be nonzero."""

import functools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz.program._run import bind
from jaxviz.program._trace import Program, Value

_KEEPS_ZEROS = frozenset("abs convert_element_type copy name neg real sign sqrt stop_gradient".split())
_MOVES = frozenset("broadcast_in_dim reshape rev slice squeeze transpose".split())


class Constants:
    """Numbers that a program computes from constants alone: indices, masks, a resize's weights.

    Parameters are unknown and count as nonzero everywhere. So do constants that are zero everywhere, such as weights
    initialized to zero.
    """

    def __init__(self, program: Program):
        self._arrays: dict[int, Any] = {}
        self._outputs: dict[int, int] = {}
        counts: Counter = Counter()
        for value in program.values:
            self._outputs[id(value)] = counts[value.path]
            counts[value.path] += 1

    def output(self, value: Value) -> int:
        """Return the index of a value among its equation's results."""
        return self._outputs[id(value)]

    def array(self, value: Value) -> Any:
        """Return a value's numbers, None if they depend on the images or the parameters."""
        if id(value) not in self._arrays:
            self._arrays[id(value)] = None if value.varies else self._computed(value)
        return self._arrays[id(value)]

    def _computed(self, value: Value) -> Any:
        leaves: dict[int, Any] = {}
        if not self._collect(value, leaves, set()):
            return None
        if value.eqn is None:
            return leaves[id(value)]
        # Works inside another trace; in one program, since otherwise each equation would be compiled separately.
        with jax.ensure_compile_time_eval():
            result = jax.jit(functools.partial(self._run, value))(leaves)
        return result if jnp.issubdtype(result.dtype, jax.dtypes.extended) else np.asarray(result)

    def _collect(self, value: Value, leaves: dict[int, Any], visited: set[int]) -> bool:
        """Collect the constants that a value is computed from; return whether it depends on nothing else."""
        stack = [value]
        while stack:
            current = stack.pop()
            if id(current) in visited:
                continue
            visited.add(id(current))
            known = self._arrays.get(id(current), current.constant)
            if known is not None and not isinstance(known, jax.core.Tracer):
                leaves[id(current)] = known
            elif current.eqn is None or current.eqn.effects:
                return False
            stack += current.inputs if id(current) not in leaves else ()
        return True

    def _run(self, value: Value, known: dict[int, Any]) -> Any:
        stack = [value]
        while stack:
            current = stack[-1]
            waiting = [x for x in current.inputs if id(x) not in known] if id(current) not in known else []
            stack += waiting
            if not waiting:
                stack.pop()
                if id(current) not in known and current.eqn is not None:
                    operands = [known[id(x)] for x in current.inputs]
                    known[id(current)] = bind(current.eqn, operands)[0][self.output(current)]
        return known[id(value)]

    def nonzero(self, value: Value) -> np.ndarray | None:
        """Return a mask of where a value can be nonzero, None for everywhere."""
        pattern = None if value.varies or value.aval.size == 1 else self._nonzero(value)
        return None if pattern is None or pattern.all() or not pattern.any() else pattern

    def _nonzero(self, value: Value) -> np.ndarray | None:
        known = self.array(value)
        if known is not None:
            return np.asarray(known) != 0
        if value.eqn is None:
            return None
        if value.op == "mul":
            patterns = [self.nonzero(operand) for operand in value.inputs]
            some = [pattern for pattern in patterns if pattern is not None]
            return np.logical_and.reduce(np.broadcast_arrays(*some, np.ones(value.aval.shape, bool)))
        first = self.nonzero(value.inputs[0]) if value.op in _KEEPS_ZEROS | _MOVES | {"div"} else None
        if first is None or value.op not in _MOVES:
            return first if first is None else np.broadcast_to(first, value.aval.shape)
        with jax.ensure_compile_time_eval():
            return np.asarray(bind(value.eqn, [first])[0][0])
