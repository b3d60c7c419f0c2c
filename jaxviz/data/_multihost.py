"""What the processes of a job under `jax.distributed` share out among them, and tell each other."""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")


def share(items: Sequence[T], batch_size: int) -> list[T]:
    """Return what this process is to do of some items: of the batches that one process would make, every n-th one."""
    mine = range(jax.process_index() * batch_size, len(items), jax.process_count() * batch_size)
    return [item for first in mine for item in items[first : first + batch_size]]


def rounds(results: Iterator[T], batches: int) -> Iterator[list[T]]:
    """Yield a list of results at a time, one of each process, in the order of the batches: all processes get the same.

    Args:
        results: of this process's share; arrays are exchanged as numpy's.
        batches: how many the processes have to do together.
    """
    if jax.process_count() == 1:
        yield from ([result] for result in results)
        return
    ahead = next(results, None)
    for _ in range(-(-batches // jax.process_count())):
        # The devices begin with the next one while the processes wait for each other.
        mine, ahead = ahead, next(results, None)
        yield [result for result in _exchange(mine) if result is not None]


def agreed(answer: Any) -> bool:
    """Return whether any process says yes."""
    return bool(answer) if jax.process_count() == 1 else any(_exchange(bool(answer)))


def wait_for_all() -> None:
    """Return when all processes are here."""
    agreed(False)


def _exchange(thing: Any) -> list[Any]:
    """Return what each process has, in the order of processes."""
    from jax.experimental.multihost_utils import process_allgather

    data = np.frombuffer(pickle.dumps(jax.tree.map(_on_host, thing)), np.uint8)
    lengths = np.asarray(process_allgather(np.array(len(data), np.int32)))
    # Of few different lengths, since each is its own program.
    padded = np.zeros(1 << int(lengths.max() - 1).bit_length(), np.uint8)
    padded[: len(data)] = data
    gathered = np.asarray(process_allgather(padded))
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(gathered, lengths, strict=True)]


def _on_host(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
