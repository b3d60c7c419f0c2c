"""Programs that are compiled once for all networks that trace to the same, such as one built anew for each checkpoint.

A network that is made again is another function: `jax.jit` compiles what is done with it again. Here it is traced,
which tells what it computes, and what was compiled for another one that computes the same is found by the description
of its program. The arrays that a network closes over are arguments of what is compiled, so none is kept.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun

from jaxviz.program._described import Described, describe

_LOG = logging.getLogger(__name__)
_KEPT = 64
"""How many compiled programs are kept that no network is left of."""


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Say that a program is compiled, and how long that took: all of the call, which does not wait for its results."""
    _LOG.info("compiling %s", name)
    start = time.perf_counter()
    yield
    _LOG.info("compiled %s in %.1f s", name, time.perf_counter() - start)


class Shared:
    """Like `jax.jit(fn, **options)`; compiled, if it can be told what that is, once for all that trace to the same."""

    def __init__(self, fn: Callable[..., Any], **options: Any):
        self.jitted = jax.jit(fn, **options)
        self._statics = _as_tuple(options.get("static_argnums", ())), _as_tuple(options.get("static_argnames", ()))
        self._ready: dict[Any, _Ready | None] = {}
        self._name = getattr(fn, "__name__", "a program").strip("_")

    def __call__(self, *args: Any, **options: Any) -> Any:
        leaves, signature = self._signature(args, options)
        if signature is None:
            return self.jitted(*args, **options)
        ready = self._ready.get(signature)
        if ready is not None:
            try:
                return ready(leaves)
            except _OtherProgramError:  # other settings of JAX, or weak types
                pass
        elif signature in self._ready:
            return self.jitted(*args, **options)
        with _told(self._name):
            ready = self._ready[signature] = self._prepare(leaves, args, options)
            if ready is None:
                return self.jitted(*args, **options)
            with ready.compiled.may_trace():
                return ready(leaves)

    def _signature(self, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[list[Any], Any]:
        """Return the arrays among the arguments, and what finds a program again; None where another way is taken."""
        numbers, names = self._statics
        dynamic = [arg for i, arg in enumerate(args) if i not in numbers]
        leaves, treedef = jax.tree.flatten(dynamic)
        if not all(name in names for name in options) or jax.config.jax_disable_jit:
            return leaves, None
        if not all(isinstance(x, _ARRAYS) and not isinstance(x, Tracer) for x in leaves):
            return leaves, None
        types = tuple((x.shape, x.dtype) if hasattr(x, "dtype") else type(x) for x in leaves)
        static = tuple(arg for i, arg in enumerate(args) if i in numbers)
        return leaves, (treedef, types, static, tuple(sorted(options.items())))

    def _prepare(self, leaves: Sequence[Any], args: Any, options: Any) -> "_Ready | None":
        traced = self.jitted.trace(*args, **options)
        given = jax.tree.leaves(traced.args_info)
        program = traced.jaxpr
        if [np.shape(x) for x in leaves] != [getattr(x, "shape", None) for x in program.in_avals]:
            return None  # it closes over what is being traced
        assert len(given) == len(leaves)
        if len({device for x in (*leaves, *program.consts) if isinstance(x, jax.Array) for device in x.devices()}) > 1:
            return None
        found = describe(program, [info.donated for info in given], traced.fun_name)
        if found is None:
            return None
        return _Ready(_compiled(found[0]), found[1], jax.tree.structure(traced.out_info))


_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return (x,) if isinstance(x, int | str) else tuple(x)


class _Ready:
    """What is compiled, with the constants of one network."""

    def __init__(self, compiled: "_Compiled", constants: Sequence[Any], treedef: Any):
        self.compiled, self._constants, self._treedef = compiled, constants, treedef

    def __call__(self, leaves: Sequence[Any]) -> Any:
        return jax.tree.unflatten(self._treedef, self.compiled.run(*self._constants, *leaves))


class _OtherProgramError(Exception):
    """For these arguments, or with these settings, there is nothing compiled."""


class _Compiled:
    """A described program, jitted. It is traced when it is asked for, and else only run.

    JAX knows what a program depends on besides its arguments' shapes. So if it wants to trace it again, another program
    may be wanted, and the network must be asked.
    """

    def __init__(self, described: Described):
        program = described.program
        self._local = threading.local()

        def run(*args: Any) -> Any:
            if not getattr(self._local, "tracing", False):
                raise _OtherProgramError
            return jaxpr_as_fun(program)(*args)

        run.__name__ = run.__qualname__ = described.name
        self.run = jax.jit(run, donate_argnums=[i for i, donated in enumerate(described.donated) if donated])

    @contextlib.contextmanager
    def may_trace(self) -> Iterator[None]:
        self._local.tracing = True
        try:
            yield
        finally:
            self._local.tracing = False


_compiled = functools.lru_cache(maxsize=_KEPT)(_Compiled)
