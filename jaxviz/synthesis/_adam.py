"""Adam with its learning rate as data."""

import dataclasses
from typing import Any

import jax
import optax

_ADAM = optax.scale_by_adam()


def adam(learning_rate: float) -> optax.GradientTransformation:
    """Return Adam with its learning rate in the state, as data: changing it does not recompile."""
    return optax.GradientTransformation(_Init(learning_rate), _step)


@dataclasses.dataclass(frozen=True)
class _Init:
    learning_rate: float

    def __call__(self, params: Any) -> tuple[Any, float]:
        return _ADAM.init(params), self.learning_rate


def _step(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    directions, memory = _ADAM.update(updates, state[0], params)
    return jax.tree.map(lambda direction: -state[1] * direction, directions), (memory, state[1])
