"""Machine code for Winograd convolutions on x86-64, compiled by llvmlite on first use.

XLA on CPU would write every step of Winograd's method to memory and read it back, 4 to 9 times the size of the images.
Here a block of about 50 tiles goes through all steps in the processor's cache, and kernels are transformed on the way.
Threads take blocks in turn, so none waits for a slower one.

All sizes but a tile's are data: one compilation of a third of a second serves all convolutions of a process with tiles
of 4x4, and another those with tiles of 2x2.

Reading order: `_points.py`, the algorithm in NumPy; `_plan.py`, how work and memory are divided; `_kernels.py`, the
loops; `../machine_code/_builder.py`, the language they are written in; `_ffi.py` beside it, how XLA calls them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz.fast.machine_code import _machine
from jaxviz.fast.winograd import _plan


def convolve(images: Any, kernel: Any, *, adjoint: bool, padding: Any, side: int) -> Any:
    """Convolve `(n, h, w, in)` with `(3, 3, in, out)`, or with the adjoint of `(3, 3, out, in)`."""
    found = _machine.machine()
    if found is None:
        raise NotImplementedError("expected x86-64 Linux with AVX2 and llvmlite, got another machine")
    from jaxviz.fast.machine_code import _ffi  # needs llvmlite, which is not available everywhere
    from jaxviz.fast.winograd._kernels import program

    outputs = kernel.shape[2 if adjoint else 3]
    shape = (images.shape[0], *_plan.result_size(images.shape, padding), outputs)
    if 0 in shape:
        return jnp.zeros(shape, jnp.float32)
    compiled = program(side, *found)
    _ffi.register(compiled)
    plan = _plan.plan(images.shape, outputs, padding, adjoint=adjoint, side=side, lanes=found.lanes)
    results = jax.ShapeDtypeStruct(shape, jnp.float32)
    scratch = jax.ShapeDtypeStruct((plan.threads, plan.scratch), jnp.float32)
    return jax.ffi.ffi_call(compiled.name, (results, scratch))(images, kernel, np.array(plan, np.int32))[0]
