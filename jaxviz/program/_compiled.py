"""Compiled programs that are let go of together with the function they were compiled for.

`jax.jit` keeps what it compiled for as long as the function that it was given lives, but holds static arguments, and
the static parts of pytrees such as a score's network, for good; and with a program the weights that its network closes
over. Here such functions are held weakly: when the user's last reference to a network goes, so do its programs.
"""

import dataclasses
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax

from jaxviz.program._shared import Shared


class HoldsFunctions:
    """A frozen dataclass of ours whose fields may be functions of the user's, such as a score's network."""


class StandIn:
    """What is called instead of a function of the user's, `fn`, for a while."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return what the function does."""
        return self.fn(*args, **options)


class Weak:
    """A function that calls another one without keeping it alive; equal where that one is the same.

    Made of a stand-in it is that of the function, and calls the stand-in for as long as that is there.
    """

    def __init__(self, fn: Callable[..., Any]):
        self.stand_in: Callable[[], Any] = weakref.ref(fn) if isinstance(fn, StandIn) else lambda: None
        fn = fn.fn if isinstance(fn, StandIn) else fn
        # Of a method the object that it belongs to counts: the method itself is made again each time it is asked for.
        method = isinstance(fn, types.MethodType)
        owner: Any = fn.__self__ if method else fn
        self.fn: Callable[[], Callable[..., Any] | None] = weakref.WeakMethod(fn) if method else weakref.ref(fn)
        self.owner: Callable[[], Any] = weakref.ref(owner)
        self.same = (id(owner), id(fn.__func__)) if method else (id(fn),)

    def __call__(self, *args: Any, **options: Any) -> Any:
        fn = self.stand_in() or self.fn()
        if fn is None:
            raise ReferenceError("the network of this score is gone: keep a reference to it while its score is in use")
        return fn(*args, **options)

    def __eq__(self, other: object) -> bool:
        # A number can be another function's once this one is gone.
        return isinstance(other, Weak) and self.same == other.same and self.owner() is other.owner()

    def __hash__(self) -> int:
        return hash(self.same)


def original(fn: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return the function that a weak one stands for, None if it is gone; any other function itself."""
    return fn.stand_in() or fn.fn() if isinstance(fn, Weak) else fn


class Compiled:
    """What `compiled` returns: like a function of `jax.jit`."""

    def __init__(self, fn: Callable[..., Any], **options: Any):
        functools.update_wrapper(self, fn)
        self._fn, self._options = fn, options
        self._programs: dict[tuple[Weak, ...], Any] = {}

    def __call__(self, *args: Any, **options: Any) -> Any:
        program, args, options = self._prepare(args, options)
        return program(*args, **options)

    def eval_shape(self, *args: Any, **options: Any) -> Any:
        """Return the shapes and types of the results; what was traced once is remembered."""
        program, args, options = self._prepare(args, options)
        return getattr(program, "jitted", program).eval_shape(*args, **options)

    def lower(self, *args: Any, **options: Any) -> Any:
        """Return the program for these arguments, or their shapes, before it is compiled."""
        program, args, options = self._prepare(args, options)
        return getattr(program, "jitted", program).lower(*args, **options)

    def _prepare(self, args: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        found: dict[Weak, Weak] = {}

        def weakened(fn: Any) -> Weak:
            weak = fn if isinstance(fn, Weak) else Weak(fn)
            return found.setdefault(weak, weak)

        args = replaced(args, weakened)
        options = {name: replaced(value, weakened) for name, value in options.items()}
        return self._program(tuple(found)), args, options

    def _program(self, key: tuple[Weak, ...]) -> Any:
        program = self._programs.get(key)
        if program is None:
            # What holds no function stays as it is: nothing of it is made again.
            program = self._programs[key] = (Shared if key else jax.jit)(renewed(self._fn), **self._options)
            for weak in key:
                weakref.finalize(weak.owner(), self._programs.pop, key, None).atexit = False
        return program


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Return a decorator like `jax.jit(**options)`, whose programs do not outlive the functions among its arguments.

    Functions are found as arguments, in tuples and in `HoldsFunctions`. What is compiled is given stand-ins for them:
    one for each, wherever it stands.
    """
    return functools.partial(Compiled, **options)


def renewed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` as another function each time: jit shares programs among all that wrap the same one."""

    @functools.wraps(fn)
    def same(*args: Any, **options: Any) -> Any:
        return fn(*args, **options)

    return same


def replaced(x: Any, put: Callable[[Any], Any]) -> Any:
    """Return arguments with what `put` says instead of each function, or what stands for one, among them."""
    if isinstance(x, HoldsFunctions):
        fields = [field.name for field in dataclasses.fields(x)]  # type: ignore[arg-type]
        return dataclasses.replace(x, **{name: replaced(getattr(x, name), put) for name in fields})  # type: ignore
    if isinstance(x, tuple):
        return getattr(type(x), "_make", tuple)(replaced(part, put) for part in x)
    return put(x) if isinstance(x, Weak | StandIn) or _is_known_by_identity(x) else x


def _is_known_by_identity(x: Any) -> bool:
    """Tell a function, which nothing equals but itself; what compares by value may be gone while an equal one lives."""
    if isinstance(x, types.MethodType):
        return _is_held_weakly(x.__self__)
    if isinstance(x, jax.tree_util.Partial):  # data
        return False
    return callable(x) and not isinstance(x, type) and type(x).__hash__ is object.__hash__ and _is_held_weakly(x)


def _is_held_weakly(x: Any) -> bool:
    return type(x).__weakrefoffset__ != 0
