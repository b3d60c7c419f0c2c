"""What all programs in machine code share: a job that threads take items of, and a plan of whole numbers."""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from llvmlite import ir

from jaxviz.fast.machine_code._builder import INT, INT32, Builder


class Program(NamedTuple):
    """A function that XLA calls."""

    name: str
    arguments: tuple[str, ...]  # names of arrays, "plan" among them
    results: tuple[str, ...]
    plan: Any  # a NamedTuple of 32-bit integers, "threads" among them
    lanes: int  # floats in a vector register
    work: Callable[[ir.Module], ir.Function]  # defines a thread's function, which is given the job


@functools.cache
def job_of(*arrays: str) -> type[ctypes.Structure]:
    """Return the struct of the data that a job's threads share."""
    counts = ("taken", "started")  # numbers of items taken, and of threads started, so far
    fields = [*((name, ctypes.c_void_p) for name in arrays), *((name, ctypes.c_int64) for name in counts)]
    return type("Job", (ctypes.Structure,), {"_fields_": fields})


def numbers(b: Builder, layout: Any, plan: Any, *names: str) -> Any:
    """Load numbers of a plan by name."""
    return SimpleNamespace(**{name: number_of(b, layout, plan, name) for name in names})


def number_of(b: Builder, layout: Any, plan: Any, name: str) -> Any:
    """Load one number of a plan."""
    return b.sext(b.load(b.at(plan, layout._fields.index(name), of=INT32), typ=INT32), INT)


# while (item := taken++) < items:
@contextlib.contextmanager
def items(b: Builder, layout: type[ctypes.Structure], job: Any, count: Any) -> Iterator[Any]:
    """Run what is emitted inside for each item that this thread takes."""
    again, busy, finished = (b.append_basic_block(name) for name in ("again", "busy", "finished"))
    b.branch(again)
    b.position_at_end(again)
    item = b.atomic_rmw("add", b.field(job, layout, "taken"), INT(1), "monotonic")
    b.cbranch(b.icmp_unsigned("<", item, count), busy, finished)
    b.position_at_end(busy)
    yield item
    b.branch(again)
    b.position_at_end(finished)
