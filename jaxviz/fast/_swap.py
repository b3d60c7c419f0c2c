"""Convolutions and max-pools in faster forms, swapped into any function; values stay the same up to rounding.

- Inside `scan` and `while`, XLA on CPU does not rewrite the input gradient of a convolution into a form that it has
  fast code for, so VGG-16's is 3 times slower there than outside. Written as what it is, an ordinary convolution with
  the kernel flipped and its channels swapped, it is fast everywhere.
- The gradient of `reduce_window_max` is a select-and-scatter: slow on CPU, and refused by XLA's deterministic mode on
  GPU. With strided slices it is neither.
- A depthwise convolution, which XLA on CPU computes channel by channel, is 11 to 74 times faster as a sum of shifted
  images, and 1.4 to 8 times faster than these as machine code (`depthwise/`): float32 on x86-64 CPUs, its gradient too.
- XLA on CPU has no fast code for convolutions without any padding either, but does with one row and column of zeros.
- A convolution with a 1x1 kernel is a matrix product, and on CPU up to twice as fast when written as one.
- A 3x3 convolution with stride 1 and zero padding takes a quarter of the multiplications by Winograd's method
  (`winograd/`): float32 on x86-64 CPUs, where it pays off; in the forward pass of gradient attributions in its slower,
  more accurate form. Under `jax.default_matmul_precision("highest")` it stays a convolution.
- For a large kernel and few positions, flipping the kernel for the input gradient takes XLA on CPU as long as the
  convolution. One product and nine shifts use it as stored.

`hoist` moves what depends only on kernels out of a loop.
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
    """Return `fn` with its max-pools and, on CPU, its convolutions replaced by faster forms.

    All methods of jaxviz do this themselves; use it for loops of your own. Values stay the same up to rounding.

    Args:
        fn: any function of arrays that JAX can trace.
        exact: use only small Winograd tiles in the forward pass, as gradient attributions do. Where a photograph is
            nearly flat, the rounding of large tiles, 1e-6 of the largest value, decides which of nearly equal values a
            max-pool takes: this changed nothing in two of three photographs, and VGG-16's maps by 1% to 22% of their
            L2 norm in the third; plain sums and small tiles by 0.1% to 0.9%. The backward pass decides nothing.

    Returns:
        A function of the same arguments and results; `jit`, `grad` and `vmap` apply as before.

    Example:
        >>> import jax, jaxviz
        >>> window = (1, 2, 2, 1)
        >>> pool = lambda _, x: jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, window, window, "VALID")
        >>> images = jax.numpy.arange(16.0).reshape(1, 4, 4, 1)
        >>> print(jax.numpy.array_equal(jaxviz.accelerate(pool)(None, images), pool(None, images)))
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
    """Return `fn`, the body of a loop, with the kernels that its convolutions need computed here, outside the loop.

    These are flipped kernels, for gradients, which XLA would recompute in each iteration; kernels that depend on the
    arguments stay inside. All methods of jaxviz do this themselves; use it for loops of your own.

    Args:
        fn: an accelerated function (see `accelerate`), the body of a `jax.lax.scan`, `while_loop` or `fori_loop`.
        args: its arguments, or values of the same shapes and types.

    Returns:
        A function of the same arguments and results.

    Example:
        >>> import jax, jaxviz
        >>> climb = lambda images: images + jax.grad(lambda x: jaxviz.accelerate(net)(kernel, x).sum())(images)
        >>> net = lambda w, x: jax.lax.conv(x, w, (1, 1), "SAME")
        >>> kernel, images = jax.numpy.ones((1, 1, 3, 3)), jax.numpy.ones((1, 1, 4, 4))
        >>> body = jaxviz.hoist(climb, images)
        >>> found = jax.lax.fori_loop(0, 3, lambda _, x: body(x), images)
        >>> print(jax.numpy.array_equal(found, climb(climb(climb(images)))))
        True
    """
    program = trace(fn, *args)
    known: dict[int, Any] = {}

    def value_of(value: Value) -> Any:
        """Return a value that does not depend on the arguments, None for one that does."""
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
