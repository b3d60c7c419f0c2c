"""How each primitive passes on what its operands see of the images.

What the elements of an array see is an array itself, `(2, *shape)`: the first row of the image, and the last one
negated, or the same of its columns. Of several, the smallest window that holds them all is then the minimum, and a
minimum of minima loses nothing: through any number of layers the window stays exact. Along axes where all elements see
the same, the array has length 1. An element that sees nothing, such as padding, has NOTHING twice.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jaxviz.program._reach_windows import (
    CONVOLUTIONS,
    NOTHING,
    WINDOWS,
    Call,
    Seen,
    UnknownOperationError,
    Window,
    _along,
    convolution_params,
    convolution_windows,
    regrouped,
    windowed,
)
from jaxviz.program._run import bind
from jaxviz.program._trace import POINTWISE

ELEMENTWISE = POINTWISE | frozenset(
    """
    acos acosh add_any asin asinh atan atanh bessel_i0e bessel_i1e bitcast_convert_type clz complex conj copy_p cosh
    digamma igamma igammac imag lgamma polygamma population_count pvary random_gamma_grad regularized_incomplete_beta
    sharding_constraint shift_left shift_right_arithmetic shift_right_logical sinh to_edtype
    """.split()
)


def expanded(seen: Seen, shape: Sequence[int], axes: Sequence[int] | None = None) -> Seen:
    """Return it with its full length along some axes, by default all."""
    wanted = range(len(shape)) if axes is None else axes
    return np.broadcast_to(
        seen, (2, *(shape[a] if a in wanted else n for a, n in enumerate(seen.shape[1:]))), subok=False
    )


def shortened(seen: Seen) -> Seen:
    """Return it with length 1 along axes where all see the same."""
    for axis in range(1, seen.ndim):
        if seen.shape[axis] > 1:
            first = seen.take([0], axis)
            if (seen == first).all():
                seen = first
    return seen


def nowhere(ndim: int) -> Seen:
    """Return what constants see."""
    return np.full((2,) + (1,) * ndim, NOTHING, np.int32)


def _slid(call: Call, operand: int, seen: Seen) -> Seen:
    for window in WINDOWS[call.value.op](call):
        seen = windowed(seen, window, call.shapes[operand][window.axis], call.result[window.axis])
    return seen


def _convolved(call: Call, operand: int, seen: Seen) -> Seen:
    params = convolution_params(call)
    numbers = params["dimension_numbers"]
    if operand == 1:  # a kernel made of the images: each of its values counts everywhere
        whole = seen.min(axis=tuple(range(1, seen.ndim)), keepdims=True)
        return whole
    images, kernel = call.shapes
    nonzero = call.constants.nonzero(call.value.inputs[1])
    channels = images[numbers.lhs_spec[1]], kernel[numbers.rhs_spec[0]]
    if params["batch_group_count"] > 1:
        seen = seen.min(axis=numbers.lhs_spec[0] + 1, keepdims=True)
    windows = convolution_windows(call)
    sides = [(images[w.axis], call.result[out]) for w, out in zip(windows, numbers.out_spec[2:], strict=True)]
    axis = numbers.lhs_spec[1] + 1
    if nonzero is None:
        for window, side in zip(windows, sides, strict=True):
            seen = windowed(seen, window, *side)
        seen = contracted(seen, _pairs(None, channels, params), axis)
    else:
        seen = _by_taps(seen, windows, sides, nonzero.transpose(numbers.rhs_spec), axis, channels, params)
    order = [numbers.lhs_spec[numbers.out_spec.index(a)] + 1 for a in range(seen.ndim - 1)]
    return seen.transpose(0, *order)


def _by_taps(
    seen: Seen, windows: list[Window], sides: list, nonzero: np.ndarray, axis: int, channels: Any, params: Any
) -> Seen:
    """Follow a convolution whose kernel has zeros, `(out, in, *space)`, from one place in the kernel to the next."""
    result = nowhere(seen.ndim - 1)
    for tap in itertools.product(*(range(window.size) for window in windows)):
        pairs = nonzero[(slice(None), slice(None), *tap)]
        if pairs.any():
            moved = seen
            for window, k, side in zip(windows, tap, sides, strict=True):
                moved = windowed(moved, window._replace(size=1, low=window.low - k * window.dilation), *side)
            result = np.minimum(result, contracted(moved, _pairs(pairs, channels, params), axis))
    return result


def _pairs(nonzero: np.ndarray | None, channels: tuple[int, int], params: dict[str, Any]) -> np.ndarray | None:
    """Return which channels make which, `(in, out)`; None for all pairs."""
    groups = params["feature_group_count"]
    if groups == 1:
        return None if nonzero is None else nonzero.T
    inputs, outputs = channels
    pairs = np.zeros((groups, inputs // groups, groups, outputs // groups), bool)
    same = np.arange(groups)
    within = True if nonzero is None else nonzero.reshape(groups, outputs // groups, -1).swapaxes(1, 2)
    pairs[same, :, same] = within
    return pairs.reshape(inputs, outputs)


def contracted(seen: Seen, nonzero: np.ndarray | None, axis: int) -> Seen:
    """Follow a product with a matrix `(in, out)` along an axis of `seen`; None for one without zeros."""
    if nonzero is None:
        return seen.min(axis=axis, keepdims=True)
    if seen.shape[axis] == 1:
        some = np.atleast_1d(nonzero.any(axis=0))
        return seen if some.all() else np.where(_along(some, axis, seen.ndim), seen, NOTHING)
    columns, which = np.unique(nonzero, axis=1, return_inverse=True)
    none = np.full_like(seen.take([0], axis), NOTHING)
    made = [
        seen.take(np.flatnonzero(column), axis).min(axis=axis, keepdims=True) if column.any() else none
        for column in columns.T
    ]
    return np.concatenate(made, axis).take(which.ravel(), axis)


def _multiplied(call: Call, operand: int, seen: Seen) -> Seen:
    """Follow one operand of a product: its axes are put in the order batch, free, summed over, then those reduced."""
    contracting, batch = call.params["dimension_numbers"]
    shape, other = call.shapes[operand], call.value.inputs[1 - operand]
    kept = [a for a in range(len(shape)) if a not in (*contracting[operand], *batch[operand])]
    seen = seen.transpose(0, *(a + 1 for a in (*batch[operand], *kept, *contracting[operand])))
    fresh = len(other.aval.shape) - len(batch[0]) - len(contracting[0])
    summed, first = len(contracting[0]), 1 + len(batch[0]) + len(kept)
    pattern = None if other.varies else call.constants.nonzero(other)
    if pattern is None:
        seen = seen.min(axis=tuple(range(first, first + summed))).reshape(*seen.shape[:first], *(1,) * fresh)
    else:
        theirs = [*batch[1 - operand], *contracting[1 - operand]]
        rest = [a for a in range(pattern.ndim) if a not in theirs]
        sides = [shape[a] for a in (*batch[operand], *kept, *contracting[operand])]
        seen = _with_matrices(seen, pattern.transpose(*theirs, *rest), sides, len(batch[0]), summed)
    if operand == 1:  # their own axes stand last
        start = 1 + len(batch[0])
        order = [*range(start), *range(first, first + fresh), *range(start, first)]
        seen = seen.transpose(order)
    return seen


def _with_matrices(seen: Seen, nonzero: np.ndarray, sides: list[int], batch: int, summed: int) -> Seen:
    """Follow a product with a matrix, or one for each index of the batch: `(*batch, *summed, *free)`."""
    first = seen.ndim - summed
    free = nonzero.shape[batch + summed :]
    if all(n == 1 for n in seen.shape[first:]):
        flat = seen.reshape(*seen.shape[:first], 1)
    else:
        full = expanded(seen, sides, range(first - 1, len(sides)))
        flat = full.reshape(*full.shape[:first], -1)
    matrices = nonzero.reshape(math.prod(nonzero.shape[:batch]), math.prod(nonzero.shape[batch : batch + summed]), -1)
    if (matrices == matrices[:1]).all():
        made = contracted(flat, matrices[0], first)
    else:
        wide = expanded(flat, [*sides[:batch], *flat.shape[1 + batch :]], range(batch))
        rows = wide.reshape(2, len(matrices), *wide.shape[1 + batch :])
        some = [contracted(rows[:, i : i + 1], m, rows.ndim - 1) for i, m in enumerate(matrices)]
        longest = max(x.shape[-1] for x in some)
        made = np.concatenate([np.broadcast_to(x, (*x.shape[:-1], longest)) for x in some], 1)
        made = made.reshape(2, *sides[:batch], *made.shape[2:])
    return made.reshape(*made.shape[:first], *(free if made.shape[first] > 1 else (1,) * len(free)))


# Other moves


def _transposed(call: Call, _: int, seen: Seen) -> Seen:
    return seen.transpose(0, *(a + 1 for a in call.params["permutation"]))


def _broadcast(call: Call, _: int, seen: Seen) -> Seen:
    places = dict(zip(call.params["broadcast_dimensions"], seen.shape[1:], strict=True))
    return seen.reshape(2, *(places.get(a, 1) for a in range(len(call.result))))


def _squeezed(call: Call, _: int, seen: Seen) -> Seen:
    return seen.squeeze(tuple(a % len(call.shapes[0]) + 1 for a in call.params["dimensions"]))


def _reversed(call: Call, _: int, seen: Seen) -> Seen:
    return np.flip(seen, tuple(a + 1 for a in call.params["dimensions"]))


def _reshaped(call: Call, operand: int, seen: Seen) -> Seen:
    before, after = [], []
    for old, new in regrouped(call.shapes[operand], call.result):
        same = all(seen.shape[a + 1] == 1 for a in old)
        before += [1 if same else call.shapes[operand][a] for a in old]
        after += [1 if same else call.result[a] for a in new]
    return np.broadcast_to(seen, (2, *before)).reshape(2, *after)


def _reduced(call: Call, _: int, seen: Seen) -> Seen:
    return seen.min(axis=tuple(a + 1 for a in reduced_axes(call)))


def reduced_axes(call: Call) -> tuple[int, ...]:
    """Return the axes that a reduction removes."""
    return tuple(call.params["axes"] if "axes" in call.params else call.params["dimensions"])


def _accumulated(call: Call, _: int, seen: Seen) -> Seen:
    axis = call.params["axis"] + 1
    if call.params.get("reverse"):
        return np.flip(np.minimum.accumulate(np.flip(seen, axis), axis), axis)
    return np.minimum.accumulate(seen, axis)


def mixed_axes(call: Call) -> tuple[int, ...]:
    """Return the axes along which all of the operand makes all of the result: sorting, Fourier transforms."""
    p, ndim = call.params, len(call.shapes[0])
    if call.value.op == "fft":
        return tuple(range(ndim - len(p["fft_lengths"]), ndim))
    axis = p.get("dimension", p.get("axis", p.get("reduction_dimension", -1)))
    return (axis % ndim,)


def _mixed(call: Call, _: int, seen: Seen) -> Seen:
    return seen.min(axis=tuple(a + 1 for a in mixed_axes(call)), keepdims=True)


def _split(call: Call, _: int, seen: Seen) -> Seen:
    axis, at = call.params["axis"], call.constants.output(call.value)
    if seen.shape[axis + 1] == 1:
        return seen
    start = sum(call.params["sizes"][:at])
    return seen.take(range(start, start + call.params["sizes"][at]), axis + 1)


def _chosen(call: Call, operand: int, seen: Seen) -> Seen:
    """Follow one case of a `select_n`, to where it is chosen if that is known."""
    which = call.constants.array(call.value.inputs[0])
    if which is None or operand == 0:
        return seen
    chosen = np.asarray(which).astype(int) == operand - 1
    return seen if chosen.all() else np.where(chosen, seen, NOTHING)


def _scaled(call: Call, operand: int, seen: Seen) -> Seen:
    """Follow a factor to where the other one is not zero."""
    nonzero = call.constants.nonzero(call.value.inputs[1 - operand])
    return seen if nonzero is None else np.where(nonzero, seen, NOTHING)


def bound(call: Call, arrays: Sequence[Any], **params: Any) -> np.ndarray:
    """Run a move of elements itself, on what they see or on anything else."""
    assert call.value.eqn is not None
    eqn = call.value.eqn.replace(params=call.params | params)
    with jax.ensure_compile_time_eval():
        return np.asarray(bind(eqn, [np.asarray(array) for array in arrays])[0][0])


def indices_of(call: Call, operands: Sequence[int]) -> list[Any]:
    """Return the numbers of operands that say where elements go."""
    arrays = [call.constants.array(call.value.inputs[i]) for i in operands]
    if any(array is None for array in arrays):
        raise UnknownOperationError(f"a `{call.value.op}` at places that depend on the images or on the parameters")
    return arrays


def _gathered(call: Call, operand: int, seen: Seen) -> Seen:
    places = indices_of(call, range(1, len(call.shapes)))
    fill = {"fill_value": int(NOTHING)} if call.value.op == "gather" else {}
    full = expanded(seen, call.shapes[0])
    return np.stack([bound(call, [plane, *places], **fill) for plane in full])


def _scattered(call: Call, operand: int, seen: Seen) -> Seen:
    """Follow what is overwritten, or what overwrites it; where both are added, nothing is lost."""
    updates = 1 if call.value.op == "dynamic_update_slice" else 2
    places = indices_of(call, [i for i in range(len(call.shapes)) if i not in (0, updates)])
    if operand not in (0, updates):
        raise AssertionError("places are constant")
    full = expanded(seen, call.shapes[operand])
    none = np.full(call.shapes[updates - operand], NOTHING, np.int32)
    if call.value.op not in ("scatter", "dynamic_update_slice") and operand == 0:
        return seen  # added to, multiplied: still there
    pairs = [(plane, none) if operand == 0 else (none, plane) for plane in full]
    ordered = [(a, *places, b) if updates == 2 else (a, b, *places) for a, b in pairs]
    if call.value.op in ("scatter", "dynamic_update_slice"):
        return np.stack([bound(call, arrays) for arrays in ordered])
    return np.stack([_smallest_at(call, arrays) for arrays in ordered])


def _smallest_at(call: Call, arrays: Sequence[Any]) -> np.ndarray:
    p = call.params
    with jax.ensure_compile_time_eval():
        return np.asarray(
            lax.scatter_min(*map(jax.numpy.asarray, arrays), dimension_numbers=p["dimension_numbers"], mode=p["mode"])
        )


REDUCTIONS = frozenset("reduce reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor".split())
REDUCTIONS |= {"argmax", "argmin"}
ACCUMULATIONS = frozenset("cumsum cumprod cummax cummin cumlogsumexp".split())
MIXTURES = frozenset("sort top_k approx_top_k fft".split())
SCATTERS = frozenset("scatter scatter-add scatter-mul scatter-min scatter-max scatter-sub dynamic_update_slice".split())
RULES: dict[str, Callable[[Call, int, Seen], Seen]] = {
    **dict.fromkeys(WINDOWS, _slid),
    **dict.fromkeys(CONVOLUTIONS, _convolved),
    **dict.fromkeys(ACCUMULATIONS, _accumulated),
    **dict.fromkeys(MIXTURES, _mixed),
    **dict.fromkeys(("gather", "dynamic_slice"), _gathered),
    **dict.fromkeys(SCATTERS, _scattered),
    **dict.fromkeys(REDUCTIONS, _reduced),
    "dot_general": _multiplied,
    "transpose": _transposed,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeezed,
    "rev": _reversed,
    "reshape": _reshaped,
    "split": _split,
    "select_n": _chosen,
    "mul": _scaled,
}
