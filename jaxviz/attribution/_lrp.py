"""Layer-wise relevance propagation: the gradient again, with other derivatives for convolutions and dense products.

With `R = a g`, relevance is a value times a modified gradient of it. Where values only add up or pass through a ReLU or
a pool, the gradient is not modified; so each rule is a change of one layer's backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._types import AnyImages, Images, Score, at_least_float32
from jaxviz.attribution._affine import (
    Affine,
    constants,
    offset_before,
    scale_and_offset,
    steps_after,
    steps_before,
    used,
)
from jaxviz.attribution._attention_rules import attention_actions
from jaxviz.attribution._batching import Fill, beside, filled, of_each_score, run, values_of
from jaxviz.fast._swap import accelerate
from jaxviz.image._checks import check_not_negative
from jaxviz.program._differentiable import check_reaches
from jaxviz.program._names import is_layer, way_out
from jaxviz.program._run import evaluate
from jaxviz.program._trace import KINDS, Program, Value, loop_bodies, trace
from jaxviz.show._shown import shown


@shown("maps", lambda found: found.maps)
class Relevance(NamedTuple):
    """What `lrp` returns.

    Attributes:
        maps: `(n, h, w, c)` or `(n, k, h, w, c)`, each color's share of the score.
        gap: `(n,)` or `(n, k)`, how far the shares are from adding up to the score, as a fraction of it.
    """

    maps: Float[Array, "n *k h w c"]
    gap: Float[Array, "n ..."]


def lrp(
    score: Score,
    params: Any,
    images: AnyImages,
    *,
    rule: Literal["epsilon", "gamma", "attention"] = "epsilon",
    epsilon: float = 1e-6,
    gamma: float | None = None,
    baseline: Fill = 0.5,
    batch_size: int | None = None,
) -> Relevance:
    """Propagate the score back layer by layer, in proportion to what each value contributed (LRP).

    The epsilon rule: input `i` of a convolution or dense product gets `x_i w_ij / (z_j + epsilon sign(z_j)) R_j` from
    output `j`, where `z_j` is the sum of those products and the bias. The gamma rule favors what supports `z_j`:
    terms and biases of its own sign count `1 + gamma` times, in convolutions whose input is not the image; the first
    layer and dense products keep the epsilon rule. Sums share by value, ReLUs pass all, a maximum gives to its winner.

    The attention rule (AttnLRP) is the epsilon rule with more for transformers: products of two activations, as in
    attention, share in halves; LayerNorm and RMSNorm, whose deviation is held fixed, and GELU and SiLU, whose gate is,
    pass all relevance on; softmax keeps its derivative. So the map lacks only the shares of biases, position embeddings
    and class tokens, and what softmax absorbs.

    Multiplications and additions of constants that directly follow a layer, such as BatchNorm in inference, are folded
    into it, in whatever form, so that a network and the same network with BatchNorm folded get the same relevances;
    those between an activation and a convolution are folded into that convolution. The layer's output must have no
    other use in between. Anywhere else, as after the sum of a pre-activation ResNet or after DenseNet's concatenation,
    constants take their share like any summand and are not folded (Zennit passes all relevance through them).

    Without the attention rule, everything else keeps its own derivative, which need not conserve relevance: softmax,
    LayerNorm, gates (both factors of a product get all of it), smooth activations, a saturated relu6. `gap` says how
    much is missing or in excess. Biases take a share, too, including those of BatchNorm, so a gap alone is not an
    error: it is all relevance that does not reach the image.

    Args:
        score: any function `score(params, images) -> (n,)` or `(n, k)`.
        params: the network's parameters.
        images: `(n, h, w, c)` in [0, 1].
        rule: "epsilon", "gamma" or "attention".
        epsilon: what keeps the denominator from zero; a larger one removes weak and contradictory evidence.
        gamma: how much the gamma rule favors positive weights, at least 0; None: 0.25.
        baseline: the input that the network's own normalization maps to zero: a brightness, a color `(c,)` or images.
        batch_size: for a score `(n, k)`, backward passes run at once, over all images; by default 4 on CPU, else 16.

    Returns:
        `maps`, `(n, h, w, c)` or `(n, k, h, w, c)`; and `gap`, `(n,)` or `(n, k)`: `|sum of a map - score| / |score|`.

    Raises:
        ValueError: for a network without a convolution or dense product, or with one in a loop or in a function with
            its own derivative, for a gamma beside another rule, and as for `gradient`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> images = jnp.ones((1, 1, 1, 3))
        >>> weights = jnp.array([[1.0], [2.0], [-1.0]])
        >>> maps, gap = jaxviz.lrp(jaxviz.logit(net, 0), weights, images, baseline=0.0)
        >>> print(maps.round(3), gap < 1e-5)
        [[[[ 1.  2. -1.]]]] [ True]

    Bach et al. 2015, On Pixel-wise Explanations for Non-linear Classifier Decisions by Layer-wise Relevance Propagation
    (epsilon); Montavon et al. 2019, Layer-wise Relevance Propagation: An Overview (gamma);
    Andéol et al. 2021 (gamma where inputs have both signs); Achtibat et al. 2024, AttnLRP: Attention-Aware Layer-Wise
    Relevance Propagation for Transformers (attention).
    """
    check_not_negative("epsilon", epsilon)
    if gamma is not None:
        check_not_negative("gamma", gamma)
    if rule not in ("epsilon", "gamma", "attention"):
        raise ValueError(f"rule: expected 'epsilon', 'gamma' or 'attention', got {rule!r}")
    if gamma is not None and rule != "gamma":
        raise ValueError(f"gamma: expected none beside the rule {rule!r}, which would ignore it; it is of rule='gamma'")
    start = filled("baseline", baseline, images)
    strength = jnp.asarray(0.0 if rule != "gamma" else 0.25 if gamma is None else gamma)
    return run(
        _relevance, score, params, images, start, jnp.asarray(epsilon), strength, rule=rule, batch_size=batch_size
    )


def _relevance(
    score: Score,
    params: Any,
    images: Images,
    start: Images,
    epsilon: Array,
    gamma: Array,
    *,
    rule: str,
    batch_size: int,
) -> Relevance:
    ruled = accelerate(_with_rule(score, epsilon, gamma, rule), exact=True)
    values, pull = jax.vjp(lambda x: values_of(ruled, params, x), images)
    check_reaches(pull, values, score, params, images)
    gradients = of_each_score(lambda cotangent: pull(cotangent)[0], values, batch_size)
    maps = gradients * beside(images - start, gradients)
    total = maps.sum((-3, -2, -1), dtype=at_least_float32(maps.dtype))
    missing = jnp.abs(total - values.astype(total.dtype))
    return Relevance(maps, jnp.where(missing == 0, 0, missing / jnp.abs(values.astype(total.dtype))))


def _with_rule(score: Score, epsilon: Array, gamma: Array, rule: str) -> Callable[..., Any]:
    def ruled(params: Any, images: Any) -> Any:
        program = trace(score, params, images, turns=True)
        layers = [value for value in program.values if is_layer(value)]
        _refuse(program, layers)
        read, live = constants(program, (params, images)), used(program)
        after = {layer: steps_after(layer, live, program.outputs) for layer in layers}
        owned = {step for steps in after.values() for step in steps}
        actions = attention_actions(program) if rule == "attention" else {}
        for layer, steps in after.items():
            affine, favors, before = scale_and_offset(layer, steps, read), None, None
            if rule == "gamma" and KINDS[layer.op] == "conv" and _has_layer_below(layer):
                favors, before = gamma, offset_before(steps_before(layer, owned), read)
            actions[layer.path] = functools.partial(_share, layer, affine, before, epsilon, favors)
        return evaluate(program, (params, images), actions)[0]

    return ruled


def _refuse(program: Program, layers: list[Value]) -> None:
    for loop, body in loop_bodies(program):
        if any(value.op in KINDS for value in body.values):
            raise ValueError(f"lrp cannot change a layer inside a `{loop}`: {way_out(loop)}")
    if not layers:
        raise ValueError("lrp found no convolution or dense product of the images with parameters in this score")
    if any(layer.rule_at for layer in layers):
        raise ValueError("lrp cannot change a layer inside a function with its own derivative")


def _has_layer_below(layer: Value) -> bool:
    seen, stack = set(), [v for v in layer.inputs if v.varies]
    while stack:
        value = stack.pop()
        if id(value) not in seen:
            if is_layer(value):
                return True
            seen.add(id(value))
            stack += [operand for operand in value.inputs if operand.varies]
    return False


def _share(
    layer: Value,
    affine: Affine,
    before: Array | None,
    epsilon: Array,
    gamma: Array | None,
    operands: list[Any],
    run: Callable[[], list[Any]],
) -> tuple[list[Any], dict]:
    """Return a layer's product with the gradient of a rule, for what the product becomes with the constants around."""
    (product,) = run()
    size, favor, bias = jnp.zeros_like(product), jnp.zeros((), product.dtype), affine.offset
    if gamma is not None:
        if before is not None:
            at = 0 if layer.inputs[0].varies else 1
            added = _applied(layer, [before if i == at else operand for i, operand in enumerate(operands)])
            bias = bias + affine.scale * added.astype(bias.dtype)
            operands = [operand - before if i == at else operand for i, operand in enumerate(operands)]
        # XLA would compute them again in each of the sums that a depthwise convolution becomes: twice the time.
        size = _applied(layer, list(jax.lax.optimization_barrier([jnp.abs(x) for x in operands])))
        favor = gamma.astype(product.dtype)
    return [_ruled(product, size, *affine, bias, epsilon.astype(product.dtype), favor)], {}


def _applied(layer: Value, operands: list[Any]) -> Array:
    assert layer.eqn is not None
    return layer.eqn.primitive.bind(*operands, **layer.eqn.params)


@jax.custom_vjp
def _ruled(
    product: Array, size: Array, scale: Array, offset: Array, bias: Array, epsilon: Array, gamma: Array
) -> Array:
    """Return `product`, a sum of terms whose absolute values sum to `size`, with the gradient that a rule gives it.

    The layer's value is `scale * product + offset`. The absolute values of its terms sum to `|scale| size + |bias|`,
    where `bias` is the offset and what the product has of constants. The terms of the value's own sign sum to half of
    `value + sign * sizes`. So with those counted `1 + gamma` times, the sum is `(1 + gamma / 2) * value + gamma / 2 *
    sign * sizes`, and its gradient goes to both in these proportions.
    """
    return product


def _ruled_forward(product: Array, size: Array, scale: Array, offset: Array, bias: Array, *strengths: Array) -> Any:
    wide, size, epsilon, gamma = (x.astype(scale.dtype) for x in (product, size, *strengths))
    value, sizes = scale * wide + offset, jnp.abs(scale) * size + jnp.abs(bias)
    sign = jnp.where(value < 0, -1, 1).astype(value.dtype)
    half = gamma / 2
    total = (1 + half) * value + half * sign * sizes + sign * epsilon
    share = jnp.where(total == 0, 0, value / jnp.where(total == 0, 1, total))
    # What arrives has been multiplied by `scale`; of absolute values it is to be multiplied by that of `scale`.
    shares = share * (1 + half), share * half * sign * jnp.sign(scale)
    return product, tuple(x.astype(product.dtype) for x in shares)


def _ruled_backward(shares: tuple[Array, Array], g: Array) -> tuple[Array | None, ...]:
    to_product, to_size = shares
    return g * to_product, g * to_size, None, None, None, None, None


_ruled.defvjp(_ruled_forward, _ruled_backward)
