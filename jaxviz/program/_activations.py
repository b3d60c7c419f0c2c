"""Find activations besides ReLUs by what they compute, however they are written: GELU, SiLU, ELU, sigmoid."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxviz.program._flow import Flow
from jaxviz.program._one_number import Made, made_of
from jaxviz.program._trace import Program, Value

_POINTS = np.concatenate([np.linspace(-8.2, 8.2, 42), [-100, -30, -0.3, -0.1, 0.1, 0.3, 30, 100]])
_LAST = frozenset("mul div add sub neg logistic tanh select_n max min clamp log1p log".split())
"""What may come last in an activation."""


def _named_functions(x: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Return the activations that have a name here, at some points; of some there are several forms."""
    from scipy import special  # a fifth of a second, and many runs name nothing

    sixth, softplus = np.clip(x / 6 + 0.5, 0, 1), np.logaddexp(x, 0)
    elu = np.where(x > 0, x, np.expm1(x))
    return {
        "gelu": [
            x * special.ndtr(x),
            0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        ],
        "quick_gelu": [x * special.expit(1.702 * x)],
        "silu": [x * special.expit(x)],
        "hard_swish": [x * sixth],
        "mish": [x * np.tanh(softplus)],
        "sigmoid": [special.expit(x)],
        "hard_sigmoid": [sixth],
        "log_sigmoid": [-np.logaddexp(-x, 0)],
        "tanh": [np.tanh(x)],
        "softplus": [softplus],
        "squareplus": [(x + np.sqrt(x**2 + 4)) / 2],
        "soft_sign": [x / (1 + np.abs(x))],
        "elu": [elu],
        "selu": [1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))],
    }


@functools.cache
def _functions() -> dict[str, list[np.ndarray]]:
    return _named_functions(_POINTS)


def find_activations(program: Program, flow: Flow) -> list[tuple[str, Value]]:
    """Return activations, by what they are called, in forward order.

    Each is a function of one number whose values at many points are those of the function it is called by. What is part
    of another one, such as the sigmoid in SiLU, is listed only if it is also used by itself. Inside a function with a
    custom derivative, it counts only if the function returns nothing else. What comes before the first layer is none.
    """
    order = {id(value): i for i, value in enumerate(program.values)}
    found: list[tuple[str, Value]] = []
    within: set[int] = set()
    for value in reversed(program.values):
        if value.op not in _LAST or not flow.is_touched(value) or not jnp.issubdtype(value.aval.dtype, jnp.floating):
            continue
        if id(value) in within or not is_reachable(value):
            continue
        for made in made_of(value, order):
            if name := _name_of(made):
                found.append((name, value))
                _note_parts(made, within)
                break
    return found[::-1]


def is_reachable(value: Value) -> bool:
    """Tell what can be taken out of a program, or changed, so that every custom derivative is kept."""
    return value.rule_at is None or len(value.home[0]) <= len(value.rule_at)


def _name_of(made: Made) -> str | None:
    """Return what a function is called; None for one without a name."""
    values = made.at(_POINTS)
    if values is None or not np.isfinite(values).all():
        return None
    half = any(jnp.finfo(x.aval.dtype).bits < 32 for x in made.between if jnp.issubdtype(x.aval.dtype, jnp.floating))
    tolerance = 4e-3 if half else 1e-5  # its constants are rounded to the type that it computes in
    for name, forms in _functions().items():
        if any((np.abs(values - form) <= tolerance * (1 + np.abs(form))).all() for form in forms):
            return name
    return None


def _note_parts(made: Made, within: set[int]) -> None:
    """Note what only that function uses."""
    own = {id(made.between[0])}
    for part in made.between[1:]:  # users come before what they use
        if all(id(user) in own for user in part.users):
            own.add(id(part))
    within |= own - {id(made.between[0])}
