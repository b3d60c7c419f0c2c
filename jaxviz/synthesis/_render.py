"""The one renderer: optimizes images in a basis for a large score and small penalties."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxviz._types import Images, Key, Score
from jaxviz.fast._swap import accelerate
from jaxviz.program._compiled import HoldsFunctions, compiled
from jaxviz.program._with_relu import revived
from jaxviz.scores._algebra import one_per_image
from jaxviz.scores._calls import as_data
from jaxviz.synthesis._lbfgs import within_bounds
from jaxviz.synthesis._minimize import iterate
from jaxviz.synthesis._parameterization import Parameterization
from jaxviz.synthesis._penalties import Weighted
from jaxviz.synthesis._stages import Look, looks
from jaxviz.synthesis._transforms import Transform


def render(
    score: Score,
    params: Any,
    start: Any,
    key: Key,
    *,
    form: Parameterization,
    penalties: tuple[Weighted, ...] = (),
    transform: Transform | None = None,
    revive: bool = False,
    dtype: Any,
    optimizer: optax.GradientTransformation,
    **run: Any,
) -> Iterator[Look]:
    """Yield images that are optimized from the variables `start` of a basis `form`.

    The loss is minus the score of the transformed images, in the dtype that the network computes in, plus the penalties
    of the images themselves. `run` has the other options of `iterate`.
    """
    loss = _NegativeScore(form, transform, revive, jnp.dtype(dtype))
    data = (as_data(score), params, penalties)
    minimized = iterate(loss, start, key, data=data, optimizer=within_bounds(optimizer, form.bounds), **run)
    return looks(functools.partial(_show, form), minimized)


@dataclasses.dataclass(frozen=True)
class _NegativeScore(HoldsFunctions):
    form: Parameterization
    transform: Transform | None
    revive: bool
    dtype: Any

    def __call__(self, variables: Any, key: Key, score: Score, params: Any, penalties: tuple[Weighted, ...]) -> Array:
        images = self.form.images(variables)
        seen = images if self.transform is None else self.transform(key, images)
        wanted = accelerate(revived(score) if self.revive else score)
        # Per image, to be added up: gradients then do not depend on how many are optimized side by side.
        values = -one_per_image(wanted(params, seen.astype(self.dtype)), seen)
        if penalties:  # of the images, whose dtype may be wider than the network's
            values = values.astype(images.dtype)
        return values + sum(penalty(images) for penalty in penalties)


@compiled(static_argnums=0)
def _show(form: Parameterization, variables: Any) -> Images:
    return jnp.clip(form.images(variables), 0, 1)
