"""Which processors there is machine code for, and how many threads share a job."""

import functools
import os
import platform
import sys
from typing import NamedTuple

THREADS = 1024  # at most


class Machine(NamedTuple):
    """The processor's registers."""

    lanes: int  # floats in a vector register
    rows: int  # tiles, two vectors wide, whose sums are kept in registers


@functools.cache
def machine() -> Machine | None:
    """Return the machine to compile for; None if it is not supported, and XLA's own code is used."""
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


def threads_for(products: int, enough: float) -> int:
    """Return how many threads share this many products; `enough` of them make another thread worthwhile."""
    return int(min(len(os.sched_getaffinity(0)), THREADS, max(1, products // enough)))
