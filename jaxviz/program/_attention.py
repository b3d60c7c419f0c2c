"""Attention in a program: a softmax over keys, and the products that make it and that it weights values in."""

import math
import posixpath
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxviz.program._reach_windows import regrouped
from jaxviz.program._softmax import softmax_axes
from jaxviz.program._trace import KINDS, MOVES, POINTWISE, Program, Value

WEIGHTS = "/attention_weights"
"""What the paths of attention weights end with: what Flax calls them too."""

_MOVES = (*MOVES, "name")


class Attention(NamedTuple):
    """The weights of one attention, for all images and heads."""

    weights: Value
    queries: int
    """The axis of the weights along which queries lie."""
    keys: int
    """The axis that sums to 1."""
    product: Value
    """What multiplies values by the weights."""
    values: int
    """Which of its operands the values are."""
    scores: Value | None
    """The product of queries and keys; None for weights that are made otherwise."""
    scored: int
    """Which of its operands the keys are."""


def attentions(program: Program) -> list[Attention]:
    """Return the attentions of a program, in forward order of their weights.

    Each is a softmax over one axis, which a product with other values of the images then sums over.
    """
    found: dict[int, Attention] = {}
    for product in program.values:
        if product.op == "dot_general" and all(operand.varies for operand in product.inputs):
            for side in (0, 1):
                attention = _weighted_by(product, side)
                if attention is not None:
                    found.setdefault(id(attention.weights), attention)
    order = {id(value): i for i, value in enumerate(program.values)}
    return sorted(found.values(), key=lambda attention: order[id(attention.weights)])


def _weighted_by(product: Value, side: int) -> Attention | None:
    """Return the attention of which one operand of a product is the weights."""
    assert product.eqn is not None
    contracting, batch = product.eqn.params["dimension_numbers"]
    shape = product.inputs[side].aval.shape
    if len(contracting[side]) != 1:
        return None
    keys = int(contracting[side][0])
    free = [i for i in range(len(shape)) if i not in (keys, *batch[side])]
    if not free:
        return None
    # Heads that share their values are free, too, usually in front of queries; tokens have as many queries as keys.
    alike = [i for i in free if shape[i] == shape[keys]]
    queries = alike[-1] if alike else next((i for i in free if shape[i] > 1), free[0])
    for weights, axes in _before(product.inputs[side], (queries, keys)):
        if softmax_axes(weights) == (axes[1],):
            return Attention(weights, axes[0], axes[1], product, 1 - side, *_scores(weights, axes))
    return None


def _scores(weights: Value, axes: Sequence[int]) -> tuple[Value | None, int]:
    """Return the product of queries and keys that weights are made of, and which of its operands are the keys."""
    for scores, (_, keys) in _before(weights, axes):
        if scores.op == "dot_general" and scores.eqn is not None:
            contracting, batch = scores.eqn.params["dimension_numbers"]
            free = [
                len([i for i in range(len(operand.aval.shape)) if i not in (*contracting[side], *batch[side])])
                for side, operand in enumerate(scores.inputs)
            ]
            behind = len(batch[0]) + free[0]
            return scores, 0 if len(batch[0]) <= keys < behind else 1
    return None, 0


def _before(value: Value, axes: Sequence[int]) -> Iterator[tuple[Value, tuple[int, ...]]]:
    """Yield a value and what it is made of number by number, each with where some of its axes were there."""
    stack, seen = [(value, tuple(axes))], set()
    while stack:
        current, places = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current, places
        for operand in current.inputs:
            before = _moved_back(current, operand, places) if operand.varies else None
            if before is not None:
                stack.append((operand, before))


def _moved_back(value: Value, operand: Value, places: Sequence[int]) -> tuple[int, ...] | None:
    """Return where axes of a value were in an operand; None if it is made in another way, or of something smaller."""
    before, after = operand.aval.shape, value.aval.shape
    if value.op in POINTWISE:
        return tuple(places) if before == after else None
    if value.op not in _MOVES or value.eqn is None:
        return None
    if value.op == "transpose":
        return tuple(int(value.eqn.params["permutation"][place]) for place in places)
    if value.op == "broadcast_in_dim":
        kept = [int(axis) for axis in value.eqn.params["broadcast_dimensions"]]
        return tuple(map(kept.index, places)) if set(places) <= {*kept} else None
    found = []
    for place in places:
        old = next(old for old, new in regrouped(before, after) if place in new)
        same = [axis for axis in old if before[axis] == after[place]]
        if not same or (after[place] > 1 and any(before[axis] > 1 for axis in old if axis != same[0])):
            return None
        found.append(same[0])
    return tuple(found)


def kernel_path(value: Value) -> str:
    """Return where the kernel of a convolution or dense product stands in the parameters; "" if it is made there."""
    return _parameter_of(next(operand for operand in value.inputs if not operand.varies)).key


def _parameter_of(kernel: Value) -> Value:
    """Return the parameter that a kernel is, or is made from by whatever operations: weight standardization, a mask.

    Of several, such as a kernel and what scales it, the only one that has as many numbers as the kernel.
    """
    while len(kernel.inputs) == 1:
        kernel = kernel.inputs[0]
    if not kernel.inputs:
        return kernel
    seen, stack, sources = {id(kernel)}, [kernel], []
    while stack:
        for operand in stack.pop().inputs:
            if id(operand) not in seen:
                seen.add(id(operand))
                stack.append(operand)
                sources += [operand] if operand.op == "input" else []
    size = math.prod(kernel.aval.shape)
    alike = [source for source in sources if len(sources) == 1 or math.prod(source.aval.shape) == size]
    return alike[0] if len(alike) == 1 else kernel


def path_of(attention: Attention) -> str:
    """Return the path of a module's attention weights, by the kernels that make its queries and keys; or ""."""
    paths = {kernel_path(layer) for layer in _layers_before(attention)}
    if not paths or "" in paths:
        return ""
    shared = posixpath.commonpath(paths) if len(paths) > 1 else posixpath.dirname(*paths)
    return shared + WEIGHTS if shared else ""


def _layers_before(attention: Attention) -> list[Value]:
    """Return the layers that queries and keys come from."""
    found, seen = [], set()
    stack = [operand for operand in (attention.scores or attention.weights).inputs if operand.varies]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if value.op in KINDS and not all(operand.varies for operand in value.inputs):
            found.append(value)
        else:
            stack += [operand for operand in value.inputs if operand.varies]
    return found
