"""Layer-wise relevance propagation: the gradient again, with other derivatives for convolutions and dense products.

With `R = a g`, relevance is a value times a modified gradient of it. Where values only add up or pass through a ReLU or
a pool, the gradient is not modified; so each rule is a change of one layer's backward pass.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._accelerate import accelerate
from jaxviz._image import check_not_negative
from jaxviz._interpret import (
    KINDS,
    MOVES,
    Path,
    Program,
    Value,
    bias_additions,
    evaluate,
    is_layer,
    loop_bodies,
    trace,
    way_out,
)
from jaxviz._types import Images, Score
from jaxviz.gradient._copies import Fill, beside, differentiate, filled, run


def lrp(
    score: Score,
    params: Any,
    images: Images,
    *,
    rule: Literal["epsilon", "gamma"] = "epsilon",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    baseline: Fill = 0.5,
    batch_size: int | None = None,
) -> Float[Array, "n *k h w 3"]:
    """Hand the score back from layer to layer, in the proportions in which values made it up (LRP).

    The epsilon rule: input `i` of a convolution or dense product gets `x_i w_ij / (z_j + epsilon sign(z_j)) R_j` from
    output `j`, where `z_j` is the sum of those products and the bias. The gamma rule favours what speaks for `z_j`:
    terms and biases of its own sign count `1 + gamma` times, in convolutions whose input is not the image; the first
    layer and dense products keep the epsilon rule. Sums share by value, ReLUs pass all, a maximum gives to its winner.
    All else has its own derivative: smooth activations, and a relu6 that is full, do not pass on all that they get.

    Args:
        score: any function `score(params, images) -> (n,)` or `(n, k)`.
        params: the network's parameters.
        images: `(n, h, w, 3)` in [0, 1].
        rule: "epsilon" or "gamma".
        epsilon: what keeps the denominator from zero; a larger one takes weak and contradictory evidence away.
        gamma: how much positive weights are favoured; used by the gamma rule.
        baseline: where the network's own normalization has its zero: a brightness, a colour `(3,)` or images.
        batch_size: of a score `(n, k)`, the backward passes at once, over all images; by default 4 on CPU, else 16.

    Returns:
        `(n, h, w, 3)` or `(n, k, h, w, 3)`; they add up to the score, but for what biases and epsilon take.

    Raises:
        ValueError: for a network without a convolution or dense product, or with one in a loop or in a function with a
            derivative of its own, and as for `gradient`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> images = jnp.ones((1, 1, 1, 3))
        >>> print(jaxviz.lrp(jaxviz.logit(net, 0), jnp.array([[1.0], [2.0], [-1.0]]), images, baseline=0.0).round(3))
        [[[[ 1.  2. -1.]]]]

    Bach et al. 2015, On Pixel-wise Explanations for Non-linear Classifier Decisions by Layer-wise Relevance Propagation
    (epsilon); Montavon et al. 2019, Layer-wise Relevance Propagation: An Overview (gamma);
    Andéol et al. 2021 (gamma where inputs have both signs).
    """
    for name, number in (("epsilon", epsilon), ("gamma", gamma)):
        check_not_negative(name, number)
    if rule not in ("epsilon", "gamma"):
        raise ValueError(f"rule: expected 'epsilon' or 'gamma', got {rule!r}")
    start = filled("baseline", baseline, images)
    strength = jnp.asarray(gamma if rule == "gamma" else 0.0)
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
) -> Array:
    ruled = accelerate(_with_rule(score, epsilon, gamma, rule), exact=True)
    gradients = differentiate(ruled, params, images, batch_size=batch_size)
    return gradients * beside(images - start, gradients)


def _with_rule(score: Score, epsilon: Array, gamma: Array, rule: str) -> Callable[..., Any]:
    def ruled(params: Any, images: Any) -> Any:
        program = trace(score, params, images)
        layers = [value for value in program.values if is_layer(value)]
        _refuse(program, layers)
        actions = {}
        for layer in layers:
            favours = rule == "gamma" and KINDS[layer.op] == "conv" and _has_layer_below(layer)
            actions |= _actions(layer, epsilon, gamma if favours else None)
        return evaluate(program, (params, images), actions)[0]

    return ruled


def _refuse(program: Program, layers: list[Value]) -> None:
    for loop, body in loop_bodies(program):
        if any(value.op in KINDS for value in body.values):
            raise ValueError(f"lrp cannot change a layer inside a `{loop}`: {way_out(loop)}")
    if not layers:
        raise ValueError("lrp found no convolution or dense product of the images with parameters in this score")
    if any(layer.rule_at for layer in layers):
        raise ValueError("lrp cannot change a layer inside a function with a derivative of its own")


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


def _actions(layer: Value, epsilon: Array, gamma: Array | None) -> dict[Path, Any]:
    """Return what to do at a layer's product and at the additions of its bias: the last one has the rule."""
    # The gamma rule needs what the product was, which must not leave the call that it is in, such as remat.
    together = lambda step: gamma is None or step.path[:-1] == layer.path[:-1]  # noqa: E731
    steps = [layer, *itertools.takewhile(together, bias_additions(layer))]
    kept: list[Array] = []  # the product, and the product of absolute values

    def action(step: Value, operands: list[Any], go_on: Callable[[], list[Any]]) -> tuple[list[Any], dict]:
        (result,) = go_on()
        if step is layer and gamma is not None:
            kept.extend((result, _of_absolute_values(layer, operands)))
        elif step.op in MOVES and step.eqn is not None:
            kept[:] = [step.eqn.primitive.bind(x, **step.eqn.params) for x in kept]
        if step is steps[-1]:
            size, favour = jnp.zeros_like(result), jnp.zeros(())
            if gamma is not None:
                bias = jax.lax.stop_gradient(result - kept[0])
                size, favour = kept[1] + jnp.abs(bias), gamma
            result = _ruled(result, size, epsilon.astype(result.dtype), favour.astype(result.dtype))
        return [result], {}

    return {step.path: functools.partial(action, step) for step in steps}


def _of_absolute_values(layer: Value, operands: list[Any]) -> Array:
    assert layer.eqn is not None
    # XLA would compute them anew in each of the sums that a depthwise convolution becomes: twice the time.
    absolute = jax.lax.optimization_barrier([jnp.abs(x) for x in operands])
    return layer.eqn.primitive.bind(*absolute, **layer.eqn.params)


@jax.custom_vjp
def _ruled(value: Array, size: Array, epsilon: Array, gamma: Array) -> Array:
    """Return `value`, a sum of terms whose absolute values sum to `size`, with the gradient that a rule gives it.

    The terms of the value's own sign sum to half of `value + sign * size`. So with those counted `1 + gamma` times, the
    sum is `(1 + gamma / 2) * value + gamma / 2 * sign * size`, and its gradient goes to both in these proportions.
    """
    return value


def _ruled_forward(value: Array, size: Array, epsilon: Array, gamma: Array) -> tuple[Array, Any]:
    sign = jnp.where(value < 0, -1, 1).astype(value.dtype)
    half = gamma / 2
    total = (1 + half) * value + half * sign * size + sign * epsilon
    share = jnp.where(total == 0, 0, value / jnp.where(total == 0, 1, total))
    return value, (share * (1 + half), share * half * sign)


def _ruled_backward(shares: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array, Array]:
    to_value, to_size = shares
    nothing = jnp.zeros((), g.dtype)
    return g * to_value, g * to_size, nothing, nothing


_ruled.defvjp(_ruled_forward, _ruled_backward)
