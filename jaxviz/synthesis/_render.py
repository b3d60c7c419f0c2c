"""The one renderer: optimizes images in a basis for a large score and small penalties."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
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
    views: int = 1,
    revive: bool = False,
    dtype: Any,
    optimizer: optax.GradientTransformation,
    **run: Any,
) -> Iterator[Look]:
    """Yield images that are optimized from the variables `start` of a basis `form`.

    The loss is minus the score of the transformed images, the mean over so many views of each, in the dtype that the
    network computes in, plus the penalties of the images themselves. `run` has the other options of `iterate`.
    """
    in_turn = jax.local_device_count() > 1
    loss = _NegativeScore(form, transform, views, in_turn, revive, jnp.dtype(dtype))
    data = (as_data(score), params, penalties)
    minimized = iterate(loss, start, key, data=data, optimizer=within_bounds(optimizer, form.bounds), **run)
    return looks(functools.partial(_show, form), minimized)


@dataclasses.dataclass(frozen=True)
class _NegativeScore(HoldsFunctions):
    form: Parameterization
    transform: Transform | None
    views: int
    in_turn: bool
    revive: bool
    dtype: Any

    def __call__(self, variables: Any, key: Key, score: Score, params: Any, penalties: tuple[Weighted, ...]) -> Array:
        images = self.form.images(variables)
        wanted = accelerate(revived(score) if self.revive else score)

        def of_view(key: Key) -> Array:
            seen = images if self.transform is None else self.transform(key, images)
            # Per image, to be added up: gradients then do not depend on how many are optimized side by side.
            return -one_per_image(wanted(params, seen.astype(self.dtype)), seen)

        # A score, which may have numbers of each image, sees one view of each. Devices that share the images would
        # exchange what is computed of several views at once, which is a fifth faster on one.
        each = jax.lax.map if self.in_turn else lambda fn, keys: jax.vmap(fn)(keys)
        mean_of_views = lambda: each(of_view, jax.random.split(key, self.views)).mean(0)
        values = of_view(key) if self.views == 1 else mean_of_views()
        if penalties:  # of the images, whose dtype may be wider than the network's
            values = values.astype(images.dtype)
        return values + sum(penalty(images) for penalty in penalties)


@compiled(static_argnums=0)
def _show(form: Parameterization, variables: Any) -> Images:
    return jnp.clip(form.images(variables), 0, 1)
