"""How the processes of a job under `jax.distributed` divide the work and exchange results."""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")


def share(items: Sequence[T], batch_size: int) -> list[T]:
    """Return this process's share of some items: every n-th of the batches that a single process would make."""
    mine = range(jax.process_index() * batch_size, len(items), jax.process_count() * batch_size)
    return [item for first in mine for item in items[first : first + batch_size]]


def rounds(results: Iterator[T], batches: int) -> Iterator[list[T]]:
    """Yield lists with one result from each process, in batch order: every process gets the same lists.

    Args:
        results: the results of this process's share; arrays are exchanged as NumPy arrays.
        batches: the number of batches of all processes together.
    """
    if jax.process_count() == 1:
        yield from ([result] for result in results)
        return
    ahead = next(results, None)
    for _ in range(-(-batches // jax.process_count())):
        # The devices start on the next one while the processes wait for each other.
        mine, ahead = ahead, next(results, None)
        yield [result for result in _exchange(mine) if result is not None]


def agreed(answer: Any) -> bool:
    """Return whether any process says yes."""
    return bool(answer) if jax.process_count() == 1 else any(_exchange(bool(answer)))


def wait_for_all() -> None:
    """Return once all processes have reached this point."""
    agreed(False)


def _exchange(thing: Any) -> list[Any]:
    """Return each process's value, in process order."""
    from jax.experimental.multihost_utils import process_allgather

    data = np.frombuffer(pickle.dumps(jax.tree.map(_on_host, thing)), np.uint8)
    lengths = np.asarray(process_allgather(np.array(len(data), np.int32)))
    # Padded to a power of two: each distinct length is compiled anew.
    padded = np.zeros(1 << int(lengths.max() - 1).bit_length(), np.uint8)
    padded[: len(data)] = data
    gathered = np.asarray(process_allgather(padded))
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(gathered, lengths, strict=True)]


def _on_host(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
