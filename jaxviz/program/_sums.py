"""Find the sums where a network's branches meet, such as a residual block's; a bias is none, nor a normalization."""

import functools
import itertools

import jax.numpy as jnp

from jaxviz.program._activations import is_reachable
from jaxviz.program._flow import Flow, is_opaque
from jaxviz.program._trace import KINDS, Program, Value


def find_sums(program: Program, flow: Flow) -> list[Value]:
    """Return the sums of two values that come from different layers, in forward order.

    Two that come from the same layers without another one in between are parts of one function of these: of a
    normalization, an activation, a rotation of channels.
    """
    bits = (1 << i for i in itertools.count())
    layers = {id(value): next(bits) for value in program.inputs if value.varies}
    found = []
    for value in program.values:
        before = [layers.get(id(operand), 0) for operand in value.inputs]
        is_layer = value.varies and (value.op in KINDS or is_opaque(value))
        layers[id(value)] = next(bits) if is_layer else functools.reduce(int.__or__, before, 0)
        if value.op == "add" and _is_sum(value) and before[0] != before[1] and flow.is_touched(value):
            found.append(value)
    return found


def _is_sum(value: Value) -> bool:
    """Tell a sum of two values of the images, as large as it is, that can be taken out of the program."""
    return (
        all(operand.varies and operand.aval.shape == value.aval.shape for operand in value.inputs)
        and len(value.aval.shape) > 1
        and jnp.issubdtype(value.aval.dtype, jnp.floating)
        and is_reachable(value)
    )
