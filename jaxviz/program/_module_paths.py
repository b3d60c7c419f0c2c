"""The path of a module in the model that is being called, for frameworks whose modules do not know it themselves."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax


class Paths:
    """The paths of modules within the one that was called first, by identity."""

    def __init__(self, base: type):
        self._base = base
        self._known: dict[int, str] = {}
        self._alive: list[Any] = []  # kept alive, since Python reuses the identities of deleted objects
        self._frames: list[tuple[Any, str]] = []

    def enter(self, module: Any) -> str:
        """Return the path of a module whose call begins; "" for a framework's own wrapper around functions.

        If that wraps a module, it calls a copy of it. Equinox's bound methods are modules, too, and have their model's.
        """
        owner = getattr(module, "__self__", None)
        if isinstance(owner, self._base):
            if id(owner) not in self._known:
                self._learn(owner, self._place(owner) or "")
            self._frames.append((owner, self._known[id(owner)]))
            return ""
        if id(module) not in self._known:
            place = self._place(module)
            if place is None:
                self._frames.append(self._wrapped_by(module))
                return ""
            self._learn(module, place)
        path = self._known[id(module)]
        self._frames.append((module, path))
        return path or type(module).__name__

    def leave(self, module: Any) -> None:
        """Record that a module's call has ended."""
        self._frames.pop()

    def _learn(self, module: Any, path: str) -> None:
        for inner, at in self._modules(module, path):
            self._known.setdefault(id(inner), at)
            self._alive.append(inner)

    def _wrapped_by(self, wrapper: Any) -> tuple[Any, str]:
        """Return the only module in a wrapper, with its path; if there is not just one, what is running."""
        held = [part for part in vars(wrapper).values() if isinstance(part, self._base)]
        same = [(part, path) for part in held for path in self._of_same_arrays(part)]
        return same[0] if len(same) == 1 else self._frames[-1] if self._frames else (None, "")

    def _of_same_arrays(self, module: Any) -> set[str]:
        """Return the paths of known modules that hold the same array objects as this one."""
        arrays = _arrays(module)
        alike = [other for other in self._alive if type(other) is type(module)] if arrays else []
        return {self._known[id(other)] for other in alike if _arrays(other) == arrays}

    def _place(self, module: Any) -> str | None:
        """Return the path of an unknown module: a copy made by a transformation, or the first."""
        wrapper = type(module).__name__.startswith("_")
        if not self._frames or self._frames[-1][0] is None:
            return None if wrapper else ""
        owner, path = self._frames[-1]
        alike = [at for other, at in self._modules(owner, path) if _is_alike(other, module)]
        if len(alike) == 1:
            return alike[0]
        if wrapper:
            return None
        return "/".join(filter(None, (path, type(module).__name__)))

    def _modules(self, x: Any, path: str) -> Iterator[tuple[Any, str]]:
        """Yield every module inside `x`, with its path."""
        if isinstance(x, self._base):
            yield x, path
            parts = {key: part for key, part in vars(x).items() if not key.startswith("_pytree")}
        elif isinstance(x, Mapping):
            parts = x
        elif isinstance(x, list | tuple):
            parts = dict(enumerate(x))
        else:
            return
        for key, part in parts.items():
            yield from self._modules(part, f"{path}/{key}" if path else str(key))


def _arrays(module: Any) -> list[int]:
    return [id(leaf) for leaf in jax.tree.leaves(module) if isinstance(leaf, jax.Array)]


def _is_alike(first: Any, second: Any) -> bool:
    return type(first) is type(second) and jax.tree.structure(first) == jax.tree.structure(second)
