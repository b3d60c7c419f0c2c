"""Convolutions and max-pools in faster forms, swapped into any function; values stay the same, but for rounding.

- Inside `scan` and `while`, XLA on CPU does not rewrite the input gradient of a convolution into a form that it has
  fast code for, and VGG-16's runs 3 times slower there than outside. Written as what it is, an ordinary convolution
  with the kernel flipped and its channels exchanged, it is fast everywhere.
- The gradient of `reduce_window_max` is a select-and-scatter: slow on CPU, and refused by XLA's deterministic mode on
  GPU. As strided slices it is neither.
- A depthwise convolution, which XLA on CPU computes channel by channel, takes 11 to 74 times less time as a sum of
  shifted images.
- Nor has XLA on CPU fast code for a convolution without any padding; with a row and a column of zeros it has.
- A convolution with a 1x1 kernel is a product of matrices, and on CPU up to twice as fast when written as one.
- One of 3x3, stride 1 and a border of zeros is done in a quarter of the products by Winograd's method (`_winograd.py`):
  float32 on x86-64 CPUs, where it pays; on the way forward of attributions by gradients in its less fast and more exact
  form. Asked for `jax.default_matmul_precision("highest")`, it stays a convolution.
- Where the kernel is large beside few positions, to turn it around for the input gradient takes XLA on CPU as long as
  the convolution. One product and nine shifts leave it as it lies.

In loops, `hoist` makes what depends on kernels only before the loop.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from jaxviz.fast._convolution import convolve
from jaxviz.fast._pool import max_pool
from jaxviz.program._run import bind, evaluate
from jaxviz.program._trace import Value, trace


def accelerate(fn: Callable[..., Any], *, exact: bool = False) -> Callable[..., Any]:
    """Return `fn` with its max-pools and, on CPU, its convolutions exchanged for faster forms.

    With `exact`, which attributions by gradients ask for, Winograd's tiles are small on the way forward. Where a
    photograph is nearly flat, the rounding of large ones, 1e-6 of the largest value, decides which of nearly equal
    values a max-pool takes. Of three photographs that changed nothing in two, and moved 1% to 22% of VGG-16's maps, by
    their L2 norm, in the third; plain sums and small tiles 0.1% to 0.9%. On the way back nothing is decided.

    All methods here do this by themselves; it is for loops of your own.

    >>> pool = lambda _, x: jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    >>> images = jax.numpy.arange(16.0).reshape(1, 4, 4, 1)
    >>> print(jax.numpy.array_equal(accelerate(pool)(None, images), pool(None, images)))
    True
    """
    swaps = {"reduce_window_max": max_pool}
    if jax.default_backend() == "cpu":  # cuDNN and the TPU compiler have their own fast forms
        swaps["conv_general_dilated"] = functools.partial(convolve, exact=exact)

    def accelerated(*args: Any) -> Any:
        program = trace(fn, *args)
        actions = {
            value.path: functools.partial(_apply, swaps[value.op], value.eqn.params)
            for value in program.values
            if value.op in swaps and value.eqn is not None and value.rule_at is None
        }
        return evaluate(program, args, actions)[0]

    return accelerated


def hoist(fn: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """Return `fn`, the body of a loop, with what its convolutions make of their kernels made here, outside of the loop.

    Those are flipped kernels, for gradients; XLA makes them again each turn. `args` are such as the loop will give it;
    a kernel that depends on them is left inside. All methods here do this by themselves; it is for loops of your own.

    Args:
        fn: an accelerated function (see `accelerate`), the body of a `jax.lax.scan`, `while_loop` or `fori_loop`.
        args: its arguments, or values of their shapes and types.

    >>> climb = lambda images: images + jax.grad(lambda x: accelerate(net)(kernel, x).sum())(images)
    >>> net = lambda w, x: jax.lax.conv(x, w, (1, 1), "SAME")
    >>> kernel, images = jax.numpy.ones((1, 1, 3, 3)), jax.numpy.ones((1, 1, 4, 4))
    >>> turn = hoist(climb, images)
    >>> found = jax.lax.fori_loop(0, 3, lambda _, x: turn(x), images)
    >>> print(jax.numpy.array_equal(found, climb(climb(climb(images)))))
    True
    """
    program = trace(fn, *args)
    known: dict[int, Any] = {}

    def value_of(value: Value) -> Any:
        """Return what does not depend on the arguments, None for what does."""
        if id(value) not in known:
            operands = [value_of(operand) for operand in value.inputs]
            known[id(value)] = value.constant
            if value.eqn is not None and len(value.eqn.outvars) == 1 and all(x is not None for x in operands):
                known[id(value)] = bind(value.eqn, operands)[0][0]
        return known[id(value)]

    actions = {}
    for value in program.values:
        if value.op == "jaxviz_convolution" and value.rule_at is None:
            kernel = value_of(value.inputs[1])
            if kernel is not None:
                actions[value.path] = functools.partial(_with_kernel, value.eqn, kernel)
    return lambda *args: evaluate(program, args, actions)[0]


def _with_kernel(eqn: Any, kernel: Array, operands: list[Any], _: Callable) -> tuple[list[Any], dict]:
    return bind(eqn, [operands[0], kernel])


def _apply(swap: Callable, params: dict[str, Any], operands: list[Any], _: Callable) -> tuple[list[Any], dict]:
    return [swap(*operands, **params)], {}
