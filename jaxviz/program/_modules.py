"""Name the outputs of the modules of a Linen, NNX, Equinox, Haiku or Keras model, from outside, while it runs.

No framework is imported here: a framework's model can run only if its user has imported the framework.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata

from jaxviz._types import Net
from jaxviz.program._compiled import original
from jaxviz.program._module_paths import Paths
from jaxviz.program._names import MODULE
from jaxviz.program._trace import words_of

_LOCK = threading.RLock()  # classes are shared: one thread at a time wraps their calls


def named(net: Net) -> Net:
    """Return the network with every module's output named by the module's path, such as `"blocks/3/attention"`.

    For models of Flax (Linen and NNX), Equinox, Haiku and Keras on JAX: all modules that run while `net` is called.
    `layers`, `capture`, `replace`, scores and `grad_cam` find these names besides all others; values and gradients stay
    the same. A model's own method, such as Linen's and Haiku's `model.apply`, has them without this function, also in
    `functools.partial` and `jax.jit`.

    If a module returns several arrays, each has a name: `"attention.0"`, `"head.logits"`. If it is called several
    times, its calls are numbered, `"shared:0"` and `"shared:1"`; inside a `scan`, its path has the iteration,
    `"blocks[3]/attention"`. The whole model is named after its class. If a transformation of the framework copied a
    module and its place cannot be determined, its class stands in the path.

    While `net` is called, the `__call__` methods of the modules' classes are wrapped; they are restored afterwards. In
    other threads the wrapped methods behave as usual.

    Args:
        net: any JAX function `net(params, images)`, such as `lambda state, images: nnx.merge(graph, state)(images)`.

    Returns:
        A function of the same arguments and results.

    Raises:
        ValueError: When called, if no module of these frameworks runs in it.

    Example:
        >>> import flax, jax, jax.numpy as jnp, jaxviz
        >>> model = flax.linen.Sequential([flax.linen.Dense(4), flax.linen.LayerNorm()])
        >>> images = jnp.ones((2, 3, 3, 3), jnp.float32)
        >>> params = model.init(jax.random.key(0), images)
        >>> net = jaxviz.named(lambda params, images: model.apply(params, images).mean((1, 2)))
        >>> list(jaxviz.layers(net, params, images))
        ['layers_0', 'layers_1', 'Sequential', 'global_avg_pool_0']
    """
    return _named(net, required=True)


def _named(net: Net, *, required: bool) -> Net:
    inner = _without_jit(net)

    @functools.wraps(net, updated=())  # a model may be called itself: its parts are not copied
    def with_names(params: Any, images: Any) -> Any:
        with _LOCK, contextlib.ExitStack() as stack:
            tags = _Tags(stack)
            stack.enter_context(_traced_anew(""))
            for watch in (_linen, _haiku, _nnx, _equinox, _keras):
                stack.enter_context(watch(tags))
            result = inner(params, images)
        if required and not tags.count:
            raise ValueError(
                "named: no module of Flax, Equinox, Haiku or Keras ran in this network, so there is nothing to name; "
                "name values of plain functions with jax.ad_checkpoint.checkpoint_name"
            )
        return result

    with_names.__jaxviz_named__ = True  # type: ignore[attr-defined]
    return with_names


def named_by_default(net: Net) -> Net:
    """Return a network with its modules named, if it is certainly a model's own method: Linen's `model.apply`."""
    return _named(net, required=False) if _is_of_model(original(net)) else net


def _is_of_model(net: Any) -> bool:
    """Tell a method of a framework's model, also jitted or with arguments bound, and Haiku's `apply` functions."""
    while not hasattr(net, "__jaxviz_named__") and (isinstance(net, functools.partial) or _is_jitted(net)):
        net = net.func if isinstance(net, functools.partial) else net.__wrapped__
    if hasattr(net, "__jaxviz_named__"):
        return False
    bases = tuple(base for base in map(_base, _BASES) if base is not None)
    of_haiku = (getattr(net, "__module__", None) or "").startswith("haiku.")
    return of_haiku or isinstance(net, bases) or isinstance(getattr(net, "__self__", None), bases)


_BASES = {"flax.linen": "Module", "flax.nnx": "Module", "equinox": "Module", "keras": "Layer"}


def _base(framework: str) -> type | None:
    """Return the class of a framework's modules, if the framework has been imported."""
    return getattr(sys.modules.get(framework), _BASES[framework], None)


def _is_jitted(net: Any) -> bool:
    return hasattr(net, "lower") and hasattr(net, "__wrapped__")


def _without_jit(net: Net) -> Net:
    """Return the function inside `jit`, which may have been traced before, without names."""
    while _is_jitted(net) and not hasattr(net, "__jaxviz_named__"):
        net = net.__wrapped__  # type: ignore[attr-defined]
    return net


class _Tags:
    """Names the outputs of modules during one call of a network."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.count = 0
        self._stack = stack
        self.thread = threading.get_ident()
        self.running: list[int] = []  # the modules whose calls have not returned

    def __call__(self, path: str, call: Callable[[], Any]) -> Any:
        """Call a module and name each array that it returns."""
        with _traced_anew(path):
            returned = call()
        if not path:
            return returned
        # For the next module, too: if jitted as a whole (flax.linen.jit), it is called only after JAX's cache lookup.
        self._stack.enter_context(_traced_anew(f"after {path} {self.count}"))
        leaves, treedef = jax.tree_util.tree_flatten_with_path(returned)
        self.count += 1
        several = sum(_is_value(leaf) for _, leaf in leaves) > 1
        names = [path + "".join(f".{word}" for word in words_of(at)) * several for at, _ in leaves]
        tagged = [
            checkpoint_name(leaf, MODULE + name) if _is_value(leaf) else leaf
            for name, (_, leaf) in zip(names, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, tagged)

    @property
    def is_mine(self) -> bool:
        return threading.get_ident() == self.thread


def _traced_anew(path: str) -> Any:
    """Return a context in which JAX traces again what it traced elsewhere, such as functions that a model jits.

    The cached trace would have no names, or those of another module of the same kind. The metadata is part of the
    cache key and changes no result.
    """
    return set_xla_metadata(jaxviz_module=path)


def _is_value(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _linen(tags: _Tags) -> Any:
    linen = sys.modules.get("flax.linen")
    if linen is None:
        return contextlib.nullcontext()

    def interceptor(call: Callable, args: Any, options: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or module.scope is None:
            return call(*args, **options)
        return tags("/".join(module.path) or type(module).__name__, lambda: call(*args, **options))

    return linen.intercept_methods(interceptor)


def _haiku(tags: _Tags) -> Any:
    haiku = sys.modules.get("haiku")
    if haiku is None:
        return contextlib.nullcontext()

    def interceptor(call: Callable, args: Any, options: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **options)
        return tags(context.module.module_name, lambda: call(*args, **options))

    return haiku.intercept_methods(interceptor)


def _keras(tags: _Tags) -> Any:
    layer = _base("keras")
    if layer is None or sys.modules["keras"].config.backend() != "jax":
        return contextlib.nullcontext()
    wrap = lambda call: _wrapped(call, tags, lambda layer: layer.path or layer.name, lambda *_: None)
    return _exchanged([layer], wrap)


def _nnx(tags: _Tags) -> Any:
    module = _base("flax.nnx")
    return contextlib.nullcontext() if module is None else _watched(module, tags)


def _equinox(tags: _Tags) -> Any:
    module = _base("equinox")
    return contextlib.nullcontext() if module is None else _watched(module, tags)


def _watched(base: type, tags: _Tags) -> Any:
    paths = Paths(base)
    wrap = lambda call: _wrapped(call, tags, paths.enter, paths.leave)
    return _exchanged([cls for cls in _subclasses(base) if callable(cls.__dict__.get("__call__"))], wrap)


def _wrapped(call: Any, tags: _Tags, enter: Callable, leave: Callable) -> Any:
    """Return a `__call__` that names its outputs; if it calls its base class's, only the outermost does."""

    @functools.wraps(call)
    def with_name(self: Any, *args: Any, **options: Any) -> Any:
        if not tags.is_mine or id(self) in tags.running:
            return call(self, *args, **options)
        path = enter(self)
        tags.running.append(id(self))
        try:
            return tags(path, lambda: call(self, *args, **options))
        finally:
            tags.running.pop()
            leave(self)

    return with_name


def _subclasses(base: type) -> Iterator[type]:
    seen = {base}
    stack = [base]
    while stack:
        cls = stack.pop()
        yield cls
        new = [each for each in cls.__subclasses__() if each not in seen]
        seen.update(new)
        stack += new


@contextlib.contextmanager
def _exchanged(classes: list[type], wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Replace the `__call__` of classes inside the context."""
    before = [(cls, cls.__dict__["__call__"]) for cls in classes]
    try:
        for cls, call in before:
            type.__setattr__(cls, "__call__", wrap(call))
        yield
    finally:
        for cls, call in before:
            type.__setattr__(cls, "__call__", call)
