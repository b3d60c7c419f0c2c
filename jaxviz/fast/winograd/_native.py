"""Machine code for Winograd's convolutions on x86-64, compiled by llvmlite on first use.

XLA on CPU has to write every step of Winograd's method to memory and read it again, 4 to 9 times as much as the images
hold. Here a block of some 50 tiles goes through all steps in the processor's cache, and kernels are taken to the
points in passing. Threads take blocks in turn, so none waits for a slower one.

All sizes but those of a tile are data: one compilation, a third of a second, does for all convolutions of a process
with tiles of 4x4, and one for those with tiles of 2x2.

To read: `_points.py`, the algorithm in NumPy; `_plan.py`, how work and memory are divided; `_kernels.py`, the loops;
`_builder.py`, the words they are written in; `_ffi.py`, how XLA comes to call them.
"""

import functools
import platform
import sys
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz.fast.winograd import _plan


class Machine(NamedTuple):
    """What the processor has."""

    lanes: int  # numbers in a vector register
    rows: int  # of a product that is kept in registers, two vectors wide


@functools.cache
def machine() -> Machine | None:
    """Return what there is to compile for; None where nothing is, and XLA's own convolutions have to do."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        import llvmlite.binding as llvm
    except (ImportError, OSError):  # it is not there, or its library cannot be loaded
        return None
    has = llvm.get_host_cpu_features()
    if has.get("avx512f") and has.get("avx512vl") and has.get("avx512dq") and has.get("avx512bw"):
        return Machine(16, 14)  # 28 of 32 registers hold sums
    return Machine(8, 6) if has.get("avx2") and has.get("fma") else None


_ONCE = threading.Lock()


def convolve(images: Any, kernel: Any, *, adjoint: bool, padding: Any, side: int) -> Any:
    """Convolve `(n, h, w, in)` with `(3, 3, in, out)`, or with the adjoint of `(3, 3, out, in)`."""
    found = machine()
    if found is None:
        raise NotImplementedError("there is no machine code for this processor")
    from jaxviz.fast.winograd import _ffi  # llvmlite is not everywhere

    with _ONCE:
        _ffi.register(side, *found)
    outputs = kernel.shape[2 if adjoint else 3]
    shape = (images.shape[0], *_plan.result_size(images.shape, padding), outputs)
    if 0 in shape:
        return jnp.zeros(shape, jnp.float32)
    plan = _plan.plan(images.shape, outputs, padding, adjoint=adjoint, side=side, lanes=found.lanes)
    results = jax.ShapeDtypeStruct(shape, jnp.float32)
    scratch = jax.ShapeDtypeStruct((plan.threads, plan.scratch), jnp.float32)
    call = jax.ffi.ffi_call(_ffi.name(side, found.lanes), (results, scratch))
    return call(images, kernel, np.array(plan, np.int32))[0]
