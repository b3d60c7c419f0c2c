"""Values of a program that depend on constants only."""

import math
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxviz.program._run import bind
from jaxviz.program._trace import Value

LARGEST_CONSTANT = 2**22  # entries; resizing matrices and indices are far smaller


def known_array(value: Value) -> np.ndarray | None:
    """Compute and return a value that depends on constants only; None for one that depends on arguments."""
    with jax.ensure_compile_time_eval():
        result = _evaluated(value, {})
    return None if result is None else np.asarray(result)


def _evaluated(value: Value, known: dict[int, Any]) -> Any:
    if id(value) not in known:
        known[id(value)] = None if isinstance(value.constant, Tracer) else value.constant
        small = value.eqn is not None and math.prod(value.aval.shape) <= LARGEST_CONSTANT
        if small and not value.varies and len(value.eqn.outvars) == 1:  # type: ignore[union-attr]
            operands = [_evaluated(operand, known) for operand in value.inputs]
            if all(operand is not None for operand in operands):
                known[id(value)] = bind(value.eqn, operands)[0][0]  # type: ignore[arg-type]
    return known[id(value)]
