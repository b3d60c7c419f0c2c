"""What a program's values that do not depend on the images are: known numbers, or only where they can be nonzero."""

from collections import Counter

import jax
import numpy as np

from jaxviz._interpret import Program, Value, bind

_KEEPS_ZEROS = frozenset("abs convert_element_type copy name neg real sign sqrt stop_gradient".split())
_MOVES = frozenset("broadcast_in_dim reshape rev slice squeeze transpose".split())


class Constants:
    """Numbers that a program computes from nothing but numbers: indices, masks, the weights of a resize.

    Parameters are unknown, and count as nonzero everywhere. So does a constant that is zero everywhere, such as a
    weight that training starts from.
    """

    def __init__(self, program: Program):
        self._arrays: dict[int, np.ndarray | None] = {}
        self._outputs: dict[int, int] = {}
        counts: Counter = Counter()
        for value in program.values:
            self._outputs[id(value)] = counts[value.path]
            counts[value.path] += 1

    def output(self, value: Value) -> int:
        """Return which of its equation's results a value is."""
        return self._outputs[id(value)]

    def array(self, value: Value) -> np.ndarray | None:
        """Return the numbers of a value, None if they depend on the images or on the parameters."""
        if id(value) not in self._arrays:
            self._arrays[id(value)] = None if value.varies else self._computed(value)
        return self._arrays[id(value)]

    def _computed(self, value: Value) -> np.ndarray | None:
        if value.eqn is None:
            known = value.op == "constant" and value.constant is not None
            return None if not known or isinstance(value.constant, jax.core.Tracer) else value.constant
        operands = [self.array(operand) for operand in value.inputs]
        if any(operand is None for operand in operands):
            return None
        with jax.ensure_compile_time_eval():  # numbers even while someone else's program is traced
            result = bind(value.eqn, operands)[0][self.output(value)]
        return result if jax.dtypes.issubdtype(result.dtype, jax.dtypes.extended) else np.asarray(result)

    def nonzero(self, value: Value) -> np.ndarray | None:
        """Return where a value can be nonzero, None for everywhere."""
        pattern = self._nonzero(value)
        return None if pattern is None or pattern.all() or not pattern.any() else pattern

    def _nonzero(self, value: Value) -> np.ndarray | None:
        known = self.array(value)
        if known is not None:
            return np.asarray(known) != 0
        if value.varies or value.eqn is None:
            return None
        if value.op == "mul":
            patterns = [self.nonzero(operand) for operand in value.inputs]
            some = [pattern for pattern in patterns if pattern is not None]
            return np.broadcast_to(np.logical_and.reduce(np.broadcast_arrays(*some)), value.aval.shape) if some else None
        first = self.nonzero(value.inputs[0]) if value.op in _KEEPS_ZEROS | _MOVES | {"div"} else None
        if first is None or value.op not in _MOVES:
            return first if first is None else np.broadcast_to(first, value.aval.shape)
        with jax.ensure_compile_time_eval():
            return np.asarray(bind(value.eqn, [first])[0][0])
