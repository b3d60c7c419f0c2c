"""A network that is traced once for all that one call of a public function does with it."""

import functools
from typing import Any

import jax
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun

from jaxviz.program._compiled import StandIn, Weak, replaced
from jaxviz.program._modules import named_by_default


class Once(StandIn):
    """A function that is traced once for arguments of the same shapes and types; what it traced to is then evaluated.

    It is made for one call of a public function and goes with it: between calls, what the function closes over may
    change. JAX itself decides what is traced to the same: its settings and its meshes count, too.

    Called as it is are functions that close over values of a trace around them, those that return something besides
    JAX's arrays, and all where nothing is being traced.
    """

    def __init__(self, fn: Any):
        super().__init__(fn)
        self._named = named_by_default(fn)
        self._program: Any = None
        self._as_it_is = False

    def __call__(self, *args: Any, **options: Any) -> Any:
        leaves = jax.tree.leaves(args)
        if self._as_it_is or options or not _are_being_traced(leaves):
            return self._named(*args, **options)
        if self._program is None:
            self._program = jax.jit(self._arrays_only())
        try:
            traced = self._program.trace(*args)
        except _OtherThanArraysError:
            self._as_it_is = True
            return self._named(*args)
        if len(traced.jaxpr.jaxpr.invars) != len(leaves):  # what else it closes over comes first
            self._as_it_is = True
            return self._named(*args)
        return jax.tree.unflatten(jax.tree.structure(traced.out_info), jaxpr_as_fun(traced.jaxpr)(*leaves))

    def _arrays_only(self) -> Any:
        fn = self._named

        @functools.wraps(fn)
        def arrays_only(*args: Any) -> Any:
            returned = fn(*args)
            if not all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(returned)):
                raise _OtherThanArraysError
            return returned

        return arrays_only


class _OtherThanArraysError(Exception):
    """A network returned something that is no array of JAX's."""


def _are_being_traced(leaves: list[Any]) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in leaves) and all(hasattr(leaf, "dtype") for leaf in leaves)


def once(x: Any) -> Any:
    """Return a network, or a score with its networks and functions, so that each is traced once for the same shapes.

    The first thing that a public function does with what it is given. Where one calls another, the stand-in is handed
    on.
    """
    found: dict[Weak, Once] = {}

    def stand_in(fn: Any) -> Any:
        return fn if isinstance(fn, StandIn | Weak) else found.setdefault(Weak(fn), Once(fn))

    return replaced(x, stand_in)
