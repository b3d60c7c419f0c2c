"""Whether a gradient reaches the images at all: if not, its map would silently be zero everywhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxviz.program._trace import trace

# Operations that block gradients, though their values may depend on the images.
_BARRIERS = frozenset(
    "and argmax argmin ceil eq floor ge gt is_finite le lt ne not or round sign sort stop_gradient top_k xor".split()
)


def reaches(pull: Callable[[Any], Any], values: Any) -> bool:
    """Return whether the result of `pull`, from `jax.vjp`, depends on its argument, the gradient of `values`.

    JAX knows that the derivative of a step, a comparison or a stopped gradient is zero, and leaves it out. The
    derivative of an inactive ReLU merely evaluates to zero: that is a correct answer and counts as reached.
    """
    given = jax.ShapeDtypeStruct(jnp.shape(values), jnp.result_type(values))
    program = trace(lambda cotangent: jax.lax.optimization_barrier(pull(cotangent)[0]), given)
    return program.values[-1].varies


def check_reaches(pull: Callable[[Any], Any], values: Any, score: Callable[..., Any], params: Any, images: Any) -> None:
    """Raise ValueError unless the score's gradient reaches the images; `pull` and `values` are from `jax.vjp`."""
    if reaches(pull, values):
        return
    program = trace(lambda params, images: jax.lax.optimization_barrier(score(params, images)), params, images)
    if not program.values[-1].varies:
        reason = "it does not depend on them"
    else:
        found = sorted({value.op for value in program.values if value.varies} & _BARRIERS)
        integers = any(
            v.varies and v.op == "convert_element_type" and not jnp.issubdtype(v.aval.dtype, jnp.inexact)
            for v in program.values
        )
        found += ["a conversion to integers"] if integers else []
        reason = f"between them and it is {', '.join(found) or 'a function without a derivative'}"
    raise ValueError(
        f"this score has no gradient with respect to the images: {reason}. Its map would be zero everywhere, and "
        "optimization would leave images unchanged; use a differentiable score, such as jaxviz.logit, or explain it "
        "by occlusion or rise, which need no gradient"
    )
