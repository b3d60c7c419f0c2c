"""Splitting a batch across the local devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer


def whole_shares(batch_size: int) -> int:
    """Return the smallest multiple of the number of local devices that is at least `batch_size`."""
    devices = jax.local_device_count()
    return -(-batch_size // devices) * devices


def over_devices(images: Any, params: Any) -> tuple[Any, Any]:
    """Return a batch's arrays split across the local devices, if they divide evenly, and parameters replicated."""
    devices, leaves = jax.local_devices(), jax.tree.leaves((images, params))
    if len(devices) == 1 or any(isinstance(leaf, Tracer) for leaf in leaves):
        return images, params
    if any(jnp.ndim(leaf) == 0 or len(leaf) % len(devices) for leaf in jax.tree.leaves(images)):
        return images, params
    mesh = jax.sharding.Mesh(devices, ("images",))
    each, all_of_it = (jax.NamedSharding(mesh, spec) for spec in (jax.P("images"), jax.P()))
    return jax.device_put(images, each), jax.tree.map(lambda leaf: jax.device_put(leaf, all_of_it), params)


def spread_of(images: Any) -> jax.NamedSharding | None:
    """Return how images are split across devices, if whole images are; None inside jit, where that is not known."""
    if not isinstance(images, jax.Array) or isinstance(images, Tracer) or images.ndim == 0:
        return None
    found = images.sharding
    if not isinstance(found, jax.NamedSharding) or len(found.device_set) == 1:
        return None
    first, *others = (*found.spec, None)
    return found if first is not None and all(part is None for part in others) else None
