"""The tensors in a tree of containers, by name, whatever format it came from."""

from collections.abc import Iterator, Mapping
from typing import Any

WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "module", "weights",
    "ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema",
)  # fmt: skip
"""Names under which checkpoints keep their network, next to the optimizer's state and a training log."""

_PREFIXES = ("module", "_orig_mod", "state_dict", "model", "net", "network", "params")
"""Prefixes that wrappers add to every name: DataParallel, torch.compile, Lightning."""

_OPTIMIZERS = ("optimizer", "optim", "opt_state", "opt", "optimizer_state_dict", "optimizer_state", "optimizer_states")

_DEPTH = 100  # levels of containers


class TensorFileError(ValueError):
    """A weights file that cannot be read."""


class Budget:
    """A bound on walks through a tree: one with many more parts than its file has bytes has cycles or repeats."""

    def __init__(self, size: int):
        self.parts, self.letters = 1000 + 8 * size, 1 << 24  # each checkpoint is walked through a few times

    def spend(self, names: tuple[str, ...]) -> None:
        self.parts -= 1
        self.letters -= sum(map(len, names))
        if min(self.parts, self.letters) < 0 or len(names) > _DEPTH:
            raise TensorFileError(
                "expected a tree of containers, got one that contains itself or repeats the same part many times"
            )


def named_tensors(tree: Any, budget: Budget, kind: type, *, part: str | None = None) -> dict[str, Any]:
    """Name the tensors in a network's tree, or in a checkpoint that contains one, by their path.

    Args:
        tree: containers with tensors of type `kind`.
        budget: the bound on the walks.
        kind: the type of a tensor.
        part: the checkpoint's entry to read; None: its only network.

    Raises:
        TensorFileError: There are several networks, only an optimizer's state, or two tensors with the same name.
    """
    tree = _entry(tree, part) if part is not None else _unwrapped(tree, budget, kind)
    named: dict[str, Any] = {}
    for names, tensor in _walk(tree, budget, kind):
        name = ".".join(names)
        if name in named:
            raise TensorFileError(f"expected tensors with different names, got two named {name!r}")
        named[name] = tensor
    return without_prefixes(named)


def _entry(tree: Any, part: str) -> Any:
    for name in part.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            there = ", ".join(map(str, list(tree)[:12])) if isinstance(tree, Mapping) else type(tree).__name__
            raise TensorFileError(f"expected a part {part!r} in the file, got {there}")
        tree = tree[name]
    return tree


def _unwrapped(tree: Any, budget: Budget, kind: type) -> Any:
    """Return the network inside a checkpoint."""
    while isinstance(tree, Mapping):
        full = [name for name in tree if isinstance(tree[name], Mapping) and _any(tree[name], budget, kind)]
        networks = [name for name in full if name in WRAPPERS]
        if len(networks) > 1:
            raise TensorFileError(
                f"expected one network, got a checkpoint with {' and '.join(networks)}: say which one with "
                f"--part {networks[0]} (in Python part={networks[0]!r})"
            )
        _check_no_optimizer(tree, full)
        if not networks or "batch_stats" in tree:  # Flax: batch statistics are part of the network
            return tree
        tree = tree[networks[0]]
    return tree


def _check_no_optimizer(tree: Mapping[Any, Any], full: list[Any]) -> None:
    if "param_groups" in tree or (full and all(name in _OPTIMIZERS for name in full)):
        raise TensorFileError("expected the weights of a network, got only an optimizer's state")


def _any(tree: Any, budget: Budget, kind: type) -> bool:
    return next(_walk(tree, budget, kind), None) is not None


def _walk(tree: Any, budget: Budget, kind: type) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the tensors and the names that lead to each, without recursion: trees may be deeper than Python's stack."""
    ahead: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while ahead:
        names, part = ahead.pop()
        budget.spend(names)
        if isinstance(part, kind):
            yield names, part
        elif isinstance(part, Mapping):
            children = [((*names, name if isinstance(name, str) else str(name)), child) for name, child in part.items()]
            ahead += children[::-1]
        elif isinstance(part, list | tuple):
            ahead += [((*names, str(number)), child) for number, child in enumerate(part)][::-1]


def without_prefixes(named: dict[str, Any]) -> dict[str, Any]:
    """Strip wrappers' prefixes that every name has."""
    while named:
        first = {name.partition(".")[0] for name in named}
        if len(first) > 1 or not first <= set(_PREFIXES) or not all("." in name for name in named):
            break
        named = {name.partition(".")[2]: tensor for name, tensor in named.items()}
    return named
