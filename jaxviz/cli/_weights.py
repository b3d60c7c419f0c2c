"""`jaxviz weights list|fetch|verify|import`: the functions of `_load`, with tables."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from jaxviz.models import _load


def list_() -> None:
    """List the pretrained networks, their sizes and licences, and which are on this machine."""
    table = Table("name", "MB", "cached", "licence", "what")
    for row in _load.available().values():
        megabytes = f"{4 * row.size / 1e6:.0f}"
        table.add_row(row.name, megabytes, "yes" if row.cached else "", row.licence, row.description)
    Console().print(table)


def fetch(names: tuple[str, ...], /) -> None:
    """Fetch the weights of networks into the cache, where they are not there yet.

    Args:
        names: Networks, as `jaxviz weights list` shows them.
    """
    if not names:
        raise ValueError("expected names of networks, got none: `jaxviz weights list` shows them")
    table = Table("name", Column("source", overflow="fold"), Column("sha256 of the source", overflow="fold"))
    for name in names:
        _load.cached_or_fetched(name)
        origin = _load.verify(name)
        table.add_row(name, escape(origin.source), origin.source_sha256)
    Console().print(table)


def verify(names: tuple[str, ...] = (), /) -> None:
    """Check cached weights against the digest that was stored with them; exits with 1 if any are refused.

    Args:
        names: Networks; none means all that are cached.
    """
    rows = [(name, *_verdict(name)) for name in names or _cached()]
    table = Table("name", "verdict", Column("source or reason", overflow="fold"))
    for name, good, text in rows:
        table.add_row(escape(name), "[green]good[/]" if good else "[red]refused[/]", escape(text))
    Console().print(table)
    if not all(good for _, good, _ in rows):
        raise SystemExit(1)


def import_(file: Path, /, *, name: str | None = None, part: str | None = None, unchecked: bool = False) -> None:
    """Put weights from a file on disk into the cache: PyTorch, Keras, ONNX, safetensors, Flax, Orbax, or a wheel.

    They have to fit the network, and to do on two kinds of pictures what the manifest says of it.

    Args:
        file: The file, or Orbax's folder.
        name: The network it is for; needed for weights of your own, which no sha256 tells.
        part: The entry to take of a checkpoint that holds several networks, such as ema.
        unchecked: Do not run the network on photographs: for weights that were trained further and rank them otherwise.
            Nothing then tells kernels that are turned, BGR for RGB, or another range.
    """
    found = _load.import_weights(file, name=name, part=part, check=not unchecked)
    Console().print(f"The weights of {found} are in the cache.")


def _cached() -> Sequence[str]:
    return [row.name for row in _load.available().values() if row.cached]


def _verdict(name: str) -> tuple[bool, str]:
    try:
        origin = _load.verify(name)
    except (_load.RefusedWeightsError, FileNotFoundError) as error:
        return False, str(error)
    return True, f"{origin.source} (imported by hand)" if origin.by_hand else origin.source
