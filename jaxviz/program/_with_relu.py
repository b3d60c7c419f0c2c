"""Swap the backward rule of every ReLU in a function."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxviz.program._flow import Flow
from jaxviz.program._names import way_out
from jaxviz.program._relus import Relu, _candidates, _is_bounded, _is_returned, find_relus, relus_in_loops
from jaxviz.program._run import evaluate
from jaxviz.program._trace import KINDS, Program, loop_bodies, trace

Rule = Literal["guided", "deconvnet"] | Callable[[jax.Array, jax.Array], jax.Array]

_RULES = {
    "guided": lambda x, g: jnp.where((x > 0) & (g > 0), g, jnp.zeros_like(g)),
    "deconvnet": lambda x, g: jnp.where(g > 0, g, jnp.zeros_like(g)),
}


def with_relu(fn: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
    """Return `fn` with the backward rule of every ReLU swapped; its values stay the same.

    A ReLU is an activation that the function passes on to its next layer, or returns. These spellings are found:
    `jax.nn.relu`, `jnp.maximum(x, 0)`, `relu6`, `jnp.clip(x, 0, c)`, `jnp.where(x > 0, x, 0)`, `x * (x > 0)`; also if
    reused, and inside jit, remat or `shard_map`; the model need not be prepared. Other spellings, such as
    `-jnp.minimum(-x, 0)` or `(x + abs(x)) / 2`, keep their derivative. If the activation is also bounded from above, as
    in relu6, the bound keeps its derivative.

    These look like ReLUs, but are none, and keep their derivative: parts of other functions of their input (CELU,
    PReLU, hard swish), what multiplies something else (the gates of squeeze-and-excitation, ReGLU, variances), hard
    sigmoids, clipping of the images before the first layer, and hinge losses after the last.

    Args:
        fn: any function of arrays, such as a network or a score.
        rule: "guided" passes a gradient where the input and the gradient are positive (guided backprop), "deconvnet"
            where the gradient is positive (Zeiler & Fergus); or a function `(x, g) -> g'` of the ReLU's input and the
            incoming gradient, arrays of the same shape.

    Returns:
        A function of the same arguments and results; it is not jitted.

    Raises:
        ValueError: When called, if there is no ReLU to swap or one that cannot be swapped: inside a loop or a branch,
            inside a function with a custom derivative, both passed on and part of another function, or a leaky ReLU,
            for which only a rule of your own makes sense.

    Warns:
        UserWarning: When called with "guided" or "deconvnet", if there are other activations among the layers, such as
            GELU, which keep their derivative: the result is then only partly guided.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> f = lambda x: -jax.nn.relu(x).sum()
        >>> print(jax.grad(jaxviz.with_relu(f, "guided"))(jnp.array([-1.0, 2.0])))
        [0. 0.]
        >>> print(jax.grad(jaxviz.with_relu(f, lambda x, g: 10 * g))(jnp.array([-1.0, 2.0])))
        [-10. -10.]

    Springenberg et al. 2014, Striving for Simplicity; Zeiler & Fergus 2013, Visualizing and Understanding
    Convolutional Networks.
    """
    return ruled(fn, rule, last_only=False)


def ruled(fn: Callable[..., Any], rule: Rule, *, last_only: bool) -> Callable[..., Any]:
    """Do what `with_relu` does; with `last_only`, consider only ReLUs that depend on the last argument."""
    if not callable(rule) and rule not in _RULES:
        raise ValueError(f"expected the rule 'guided', 'deconvnet' or a function (x, g) -> g', got {rule!r}")
    apply = rule if callable(rule) else _RULES[rule]

    def swapped(*args: Any) -> Any:
        program = trace(fn, *args, last_only=last_only, maps=True, turns=True)
        flow = Flow(program)
        relus = find_relus(program, flow)
        _refuse_unswappable(program, relus, rule)
        others = _others(program, flow, relus)
        if not relus:
            others = others or Counter(Flow(program, within_loop=True).activations(()))
            found = f" (it has {_counted(others)})" if others else ""
            raise ValueError(f"with_relu found no ReLU to swap in this function{found}: its gradient would not change")
        if others and not callable(rule):
            _warn(rule, len(relus), others)
        return _evaluate(program, args, relus, apply)

    return swapped


def _others(program: Program, flow: Flow, relus: list[Relu]) -> Counter[str]:
    """Count the activations that are not ReLUs, by their operations."""
    # A minimum bounds a ReLU whether it comes before or after it.
    bounds = [relu.swap.inputs[relu.operand] for relu in relus]
    parts = [value for relu in relus for value in (relu.value, relu.swap)] + [x for x in bounds if _is_bounded(x)]
    found = Counter(flow.activations(parts))
    for loop, body in loop_bodies(program):
        inner = Flow(body, within_loop=True)
        own = inner.activations(relu.value for relu in find_relus(body, inner))
        found.update(f"{ops} in a `{loop}`" for ops in own)
    return found


def _counted(others: Counter[str]) -> str:
    return ", ".join(f"{ops}: {count}" for ops, count in others.most_common())


def _warn(rule: Rule, relus: int, others: Counter[str]) -> None:
    warnings.warn(
        f"only part of this network follows the rule {rule!r}: besides its ReLUs (relu: {relus}) it has other "
        f"activations ({_counted(others)}), which keep their own derivative",
        stacklevel=3,
    )


def revived(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn`, part of a loss, with a gradient even where a ReLU passes none for a whole image.

    A unit that is off everywhere in the initial image would leave that image gray forever. There, and only there, the
    ReLU passes the gradient that would switch units on under descent, the negative one (Olah et al. 2017 do so for the
    first steps).
    """

    def swapped(*args: Any) -> Any:
        program = trace(fn, *args, last_only=False, maps=True, turns=True)
        relus = [relu for relu in find_relus(program) if relu.spelling != "leaky_relu" and not relu.mixed]
        return _evaluate(program, args, relus, _revive)

    return swapped


def _revive(x: jax.Array, g: jax.Array) -> jax.Array:
    passed = jnp.where(x > 0, g, jnp.zeros_like(g))
    alive = jnp.any(passed != 0, axis=tuple(range(1, x.ndim)), keepdims=True)
    return jnp.where(alive | (g >= 0), passed, g)


def _refuse_unswappable(program: Program, relus: list[Relu], rule: Rule) -> None:
    for loop in relus_in_loops(program):
        raise ValueError(f"a ReLU inside a `{loop}` cannot be swapped: {way_out(loop)}")
    layers = {value.rule_at for value in program.values if value.op in KINDS} - {None}
    for relu in _candidates(program):
        if not _is_returned(relu) and relu.swap.rule_at in layers:
            raise ValueError(
                "a ReLU inside a function with a custom derivative (custom_jvp or custom_vjp) cannot be swapped: "
                "that derivative would still bypass it; use the function without its custom derivative here"
            )
    if any(relu.mixed for relu in relus):
        raise ValueError(
            "a ReLU here is passed on to a layer and is also part of another function of its input, as max(x, 0) is "
            "of a PReLU: it cannot be swapped in just one place; compute it separately for each"
        )
    if not callable(rule) and any(relu.spelling == "leaky_relu" for relu in relus):
        raise ValueError(
            f"the rule {rule!r} is not defined for leaky_relu; give a rule of your own, a function (x, g) -> g', such "
            "as lambda x, g: jnp.where((x > 0) & (g > 0), g, 0.)"
        )


def _evaluate(program: Program, args: Any, relus: list[Relu], rule: Callable) -> Any:
    actions = {relu.swap.path: functools.partial(_swap, relu, rule) for relu in relus}
    return evaluate(program, args, actions)[0]


def _swap(relu: Relu, rule: Callable, operands: list[Any], run: Callable[[], list[Any]]) -> tuple[list[Any], dict]:
    x = operands[relu.operand]
    if relu.spelling == "clamp":
        return [jnp.minimum(_redirect(rule, x, jnp.maximum(x, 0)), operands[2])], {}
    return [_redirect(rule, x, run()[0])], {}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _redirect(rule: Callable, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return `y`; the backward pass sends the gradient to `x` alone, by the rule."""
    return y


def _redirect_backward(rule: Callable, x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    sent = rule(x, g)
    if jnp.shape(sent) != x.shape:
        raise ValueError(f"the ReLU rule returned shape {jnp.shape(sent)} for a gradient of shape {x.shape}")
    return sent.astype(x.dtype), jnp.zeros_like(g)


_redirect.defvjp(lambda rule, x, y: (y, x), _redirect_backward)
