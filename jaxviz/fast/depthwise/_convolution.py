"""Depthwise convolutions of float32 images on x86-64 CPUs, where XLA computes channel by channel.

Sums of shifted images, which XLA has fast code for, take 9 to 25 operations each, and as many again in the gradient:
most of what a network such as EfficientNet took to trace and to compile.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives

from jaxviz.fast.machine_code import _machine

WORK = 4e6  # products that make another thread worthwhile
MOST_SIDE = 64  # of a kernel


def pays(images: Any, kernel: Any, params: dict[str, Any]) -> bool:
    """Return whether these are the operands of a depthwise convolution that there is machine code for.

    With several devices it is left to XLA, which cannot partition custom calls; so are symbolic and empty shapes.
    """
    numbers, found = params["dimension_numbers"], _machine.machine()
    return (
        found is not None
        and (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        and params["batch_group_count"] == 1
        and params["feature_group_count"] == images.shape[3] == kernel.shape[3]
        and images.dtype == kernel.dtype == jnp.float32
        and params["preferred_element_type"] in (None, jnp.float32)
        and params["precision"] in (None, (lax.Precision.DEFAULT,) * 2)  # "highest" is how to opt out, for jax.export
        and all(isinstance(size, int) and size for shape in (images.shape, kernel.shape) for size in shape)
        and images.shape[3] >= found.lanes
        and max(kernel.shape[:2]) <= MOST_SIDE
        and jax.local_device_count() == 1
    )


def convolve(images: Any, kernel: Any, params: dict[str, Any]) -> Any:
    """Convolve `(n, h, w, c)` with `(rows, columns, 1, c)`, each channel with its own kernel."""
    found = _machine.machine()
    assert found is not None
    from jaxviz.fast.depthwise import _kernels  # needs llvmlite, which is not available everywhere
    from jaxviz.fast.machine_code import _ffi

    fn = functools.partial(primitives.conv_general_dilated_p.bind, **params)
    shape = jax.eval_shape(fn, images, kernel).shape
    if 0 in shape:
        return jnp.zeros(shape, jnp.float32)
    program = _kernels.program(found.lanes)
    _ffi.register(program)
    (_, height, width, channels), (n, down, across, _) = images.shape, shape
    (above, _), (left, _) = params["padding"]
    rows, columns = kernel.shape[:2]
    (step_down, step_across), (apart_down, apart_across) = params["window_strides"], params["rhs_dilation"]
    spread_down, spread_across = params["lhs_dilation"]
    threads = _machine.threads_for(math.prod(shape) * rows * columns, WORK)
    plan = _kernels.Plan(
        height=height, width=width, channels=channels, down=down, across=across, above=above, left=left, rows=rows,
        columns=columns, step_down=step_down, step_across=step_across, apart_down=apart_down,
        apart_across=apart_across, spread_down=spread_down, spread_across=spread_across, items=n * down,
        threads=threads,
    )  # fmt: skip
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.ffi.ffi_call(program.name, result)(images, kernel, np.array(plan, np.int32))
