"""Machine code for Winograd convolutions on x86-64, compiled by llvmlite on first use.

XLA on CPU would write every step of Winograd's method to memory and read it back, 4 to 9 times the size of the images.
Here a block of about 50 tiles goes through all steps in the processor's cache, and kernels are transformed on the way.
Threads take blocks in turn, so none waits for a slower one.

All sizes but a tile's are data: one compilation of a third of a second serves all convolutions of a process with tiles
of 4x4, and another those with tiles of 2x2.

Reading order: `_points.py`, the algorithm in NumPy; `_plan.py`, how work and memory are divided; `_kernels.py`, the
loops; `_builder.py`, the language they are written in; `_ffi.py`, how XLA calls them.
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
    """The processor's registers."""

    lanes: int  # floats in a vector register
    rows: int  # tiles, two vectors wide, whose sums are kept in registers


@functools.cache
def machine() -> Machine | None:
    """Return the machine to compile for; None if it is not supported, and XLA's own convolutions are used."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        import llvmlite.binding as llvm
    except (ImportError, OSError):  # not installed, or its library cannot be loaded
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
        raise NotImplementedError("expected x86-64 Linux with AVX2 and llvmlite, got another machine")
    from jaxviz.fast.winograd import _ffi  # needs llvmlite, which is not available everywhere

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
