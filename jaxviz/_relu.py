"""Find every ReLU of a function, in the spellings that people use, and swap its backward rule."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxviz._interpret import KINDS, Program, Value, evaluate, loop_bodies, trace

_SAME = ("convert_element_type", "broadcast_in_dim", "copy", "reshape")

Rule = Literal["guided", "deconvnet"] | Callable[[jax.Array, jax.Array], jax.Array]

_RULES = {
    "guided": lambda x, g: jnp.where((x > 0) & (g > 0), g, jnp.zeros_like(g)),
    "deconvnet": lambda x, g: jnp.where(g > 0, g, jnp.zeros_like(g)),
}


class Relu(NamedTuple):
    """One ReLU: the value that it gives, and the equation where its derivative can be swapped."""

    value: Value
    swap: Value
    operand: int  # which operand of that equation is the ReLU's input
    spelling: Literal["relu", "clamp", "leaky_relu"]  # clamp: one equation that also bounds from above


def find_relus(program: Program) -> list[Relu]:
    """Return the ReLUs of a traced function in forward order.

    One inside a function with a derivative of its own counts only if it is all that the function returns (as in
    `jax.nn.relu`): the maximum inside softplus is no ReLU, and that function's own derivative must survive.
    """
    return [relu for relu in _candidates(program) if _is_returned(relu)]


def _candidates(program: Program) -> Iterator[Relu]:
    for value in program.values:
        if value.varies and jnp.issubdtype(value.aval.dtype, jnp.floating) and (match := _match(value)):
            yield Relu(_bounded(value), value, *match)


def _is_returned(relu: Relu) -> bool:
    rule_at = relu.swap.rule_at
    return rule_at is None or len(relu.value.home[0]) <= len(rule_at)


def _match(value: Value) -> tuple[int, Literal["relu", "clamp", "leaky_relu"]] | None:
    """Return which operand of this equation is a ReLU's input, and how the ReLU is spelled."""
    inputs = value.inputs
    match value.op:
        case "max":
            for i, x in enumerate(inputs):
                other = inputs[1 - i]
                if _is_zero(other) and not _is_variance(value):
                    return i, "relu"
                if _is_scaled(other, x):
                    return i, "leaky_relu"
        case "clamp" if _is_zero(inputs[0]):
            return 1, "clamp"
        case "select_n" if len(inputs) == 3:
            condition, no, yes = inputs
            for i, (x, other) in ((2, (yes, no)), (1, (no, yes))):
                if _is_sign_test(condition, x, positive=i == 2):
                    return (i, "relu") if _is_zero(other) else (i, "leaky_relu") if _is_scaled(other, x) else None
        case "mul":
            for i, x in enumerate(inputs):
                if _is_sign_test(_through(inputs[1 - i]), x, positive=True):
                    return i, "relu"
    return None


def _bounded(value: Value) -> Value:
    """Return the minimum around a maximum, as in relu6: together they are the activation."""
    if len(value.users) == 1:
        user = value.users[0]
        if user.op == "min" and any(_through(operand).op == "constant" for operand in user.inputs):
            return user
    return value


def _through(value: Value) -> Value:
    """Look through what only converts or broadcasts a value."""
    while value.op in _SAME:
        value = value.inputs[0]
    return value


def _is_zero(value: Value) -> bool:
    constant = _through(value).constant
    if constant is None or isinstance(constant, Tracer):
        return False
    return not np.any(np.asarray(constant))


def _is_scaled(value: Value, x: Value) -> bool:
    """Tell a constant times `x`: the other branch of a leaky ReLU."""
    return value.op == "mul" and x in value.inputs and any(_through(v).op == "constant" for v in value.inputs)


def _is_sign_test(value: Value, x: Value, *, positive: bool) -> bool:
    """Tell a test that holds where `x` is positive (or negative); zero may fall on either side."""
    if value.op not in ("gt", "ge", "lt", "le"):
        return False
    left, right = value.inputs
    above = value.op in ("gt", "ge")
    if left is x and _is_zero(right):
        return above == positive
    return right is x and _is_zero(left) and above != positive


def _is_variance(maximum: Value) -> bool:
    """Tell the maximum by which normalizations keep a variance from being negative: a deviation becomes of it.

    All that a function with a derivative of its own returns, as `jax.nn.relu` does, is an activation all the same.
    """
    if maximum.rule_at is not None and len(maximum.home[0]) <= len(maximum.rule_at):
        return False
    later = list(_users(maximum))
    later += [user for value in later if value.op == "add" for user in _users(value)]
    return any(value.op in ("rsqrt", "sqrt", "pow") for value in later)


def _users(value: Value) -> Iterator[Value]:
    """Yield what uses a value, through what only converts or broadcasts it."""
    for user in value.users:
        yield from _users(user) if user.op in _SAME else [user]


def with_relu(fn: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
    """Return `fn` with the backward rule of every ReLU swapped; its values stay the same.

    A ReLU is found in each of these spellings: `jax.nn.relu`, `jnp.maximum(x, 0)`, `relu6`, `jnp.clip(x, 0, c)`,
    `jnp.where(x > 0, x, 0)`, `x * (x > 0)`; reused, inside jit or remat, in a model nobody prepared. Others, such as
    `-jnp.minimum(-x, 0)` or `(x + abs(x)) / 2`, keep their derivative. Where the activation is also bounded from above,
    as in relu6, the bound keeps its own.

    Args:
        fn: any function of arrays, such as a network or a score.
        rule: "guided" passes a gradient where the input and the gradient are positive (guided backprop), "deconvnet"
            where the gradient is positive (Zeiler & Fergus); or a function `(x, g) -> g'` of the ReLU's input and the
            gradient that arrives from above.

    Raises:
        ValueError: when called, if there is no ReLU to swap or one that cannot be swapped: inside a loop, inside a
            function with its own derivative, or a leaky ReLU, for which only a rule of your own has a meaning.

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
    if not callable(rule) and rule not in _RULES:
        raise ValueError(f"expected the rule 'guided', 'deconvnet' or a function (x, g) -> g', got {rule!r}")
    apply = rule if callable(rule) else _RULES[rule]

    def swapped(*args: Any) -> Any:
        program = trace(fn, *args, last_only=False)
        relus = find_relus(program)
        _refuse_unswappable(program, relus, rule)
        return _evaluate(program, args, relus, apply)

    return swapped


def revived(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn`, part of a loss, with a gradient also where a ReLU passes none for a whole image.

    A unit that is off everywhere on the first image would leave that image grey for ever. There, and only there, the
    gradient goes through that would switch units on when the loss is descended: the negative one (Olah et al. 2017 do
    this for the first steps).
    """

    def swapped(*args: Any) -> Any:
        program = trace(fn, *args, last_only=False)
        relus = [relu for relu in find_relus(program) if relu.spelling != "leaky_relu"]
        return _evaluate(program, args, relus, _revive)

    return swapped


def _revive(x: jax.Array, g: jax.Array) -> jax.Array:
    passed = jnp.where(x > 0, g, jnp.zeros_like(g))
    alive = jnp.any(passed != 0, axis=tuple(range(1, x.ndim)), keepdims=True)
    return jnp.where(alive | (g >= 0), passed, g)


def _refuse_unswappable(program: Program, relus: list[Relu], rule: Rule) -> None:
    for loop, body in loop_bodies(program):
        if any(True for _ in _candidates(body)):
            raise ValueError(f"a ReLU inside a `{loop}` cannot be swapped: write the loop out in Python")
    layers = {value.rule_at for value in program.values if value.op in KINDS} - {None}
    for relu in _candidates(program):
        if not _is_returned(relu) and relu.swap.rule_at in layers:
            raise ValueError(
                "a ReLU inside a function with a derivative of its own (custom_jvp or custom_vjp) cannot be swapped: "
                "that derivative would still pass it by; use the function without its custom derivative here"
            )
    if not callable(rule) and any(relu.spelling == "leaky_relu" for relu in relus):
        raise ValueError(
            f"the rule {rule!r} is not defined for leaky_relu; give a rule of your own, a function (x, g) -> g', such "
            "as lambda x, g: jnp.where((x > 0) & (g > 0), g, 0.)"
        )
    if not relus:
        smooth = sorted({v.op for v in program.values} & {"tanh", "erf", "erfc", "logistic", "log1p", "expm1"})
        found = f" (it has {', '.join(smooth)})" if smooth else ""
        raise ValueError(f"with_relu found no ReLU to swap in this function{found}: its gradient would not change")


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
    """Return `y`, with the gradient sent to `x` alone, by the rule."""
    return y


def _redirect_backward(rule: Callable, x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    sent = rule(x, g)
    if jnp.shape(sent) != x.shape:
        raise ValueError(f"the ReLU rule returned shape {jnp.shape(sent)} for a gradient of shape {x.shape}")
    return sent.astype(x.dtype), jnp.zeros_like(g)


_redirect.defvjp(lambda rule, x, y: (y, x), _redirect_backward)
