"""`jaxviz weights list|fetch|verify|import`: pretrained weights, in tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxviz._extras import extra
from jaxviz.cli._options import Verb

_Networks = Annotated[tuple[str, ...], tyro.conf.Positional]


@dataclass(frozen=True)
class List(Verb):
    """List the pretrained networks, their sizes and licenses, and which are on this machine."""

    def run(self) -> None:
        """List them."""
        from jaxviz.models import _load

        rows = _load.available().values()
        cells = [
            (row.name, f"{4 * row.size / 1e6:.0f}", "yes" if row.cached else "", row.license, row.description)
            for row in rows
        ]
        _print_table(("name", "MB", "cached", "license", "what"), cells)


@dataclass(frozen=True)
class Fetch(Verb):
    """Fetch networks' weights into the cache, unless they are there already."""

    names: _Networks = ()
    """Networks, as listed by `jaxviz weights list`."""

    def run(self) -> None:
        """Fetch them."""
        from jaxviz.models import _load

        if not self.names:
            raise ValueError("expected names of networks, got none: `jaxviz weights list` lists them")
        cells = []
        for name in self.names:
            _load.cached_or_fetched(name)
            origin = _load.verify(name)
            cells.append((name, origin.source, origin.source_sha256))
        _print_table(("name", "source", "sha256 of the source"), cells)


@dataclass(frozen=True)
class Verify(Verb):
    """Check cached weights against the digest stored with them; the exit status is 1 if any are refused."""

    names: _Networks = ()
    """Networks; by default all that are cached."""

    def run(self) -> None:
        """Check them."""
        rows = [(name, *_verdict(name)) for name in self.names or _cached()]
        cells = [(name, "good" if good else "refused", text) for name, good, text in rows]
        _print_table(("name", "verdict", "source or reason"), cells)
        if not all(good for _, good, _ in rows):
            raise SystemExit(1)


@dataclass(frozen=True)
class Import(Verb):
    """Import weights into the cache from a file on disk: PyTorch, Keras, ONNX, safetensors, Flax, Orbax, or a wheel.

    They must fit the network, and give the results on photographs and drawings that the manifest states for it.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """The file, or Orbax's folder."""
    name: str | None = None
    """The network that the weights are for; needed for weights of your own, which no sha256 identifies."""
    part: str | None = None
    """The entry to read from a checkpoint that holds several networks, such as ema."""
    unchecked: bool = False
    """Do not run the network on photographs: for fine-tuned weights, which may rank them differently.
    Rotated kernels, BGR instead of RGB, or another range of inputs then go undetected."""

    def run(self) -> None:
        """Import it."""
        with extra("cli"):
            from rich.console import Console

        from jaxviz.models import _load

        found = _load.import_weights(self.file, name=self.name, part=self.part, check=not self.unchecked)
        Console().print(f"The weights of {found} are in the cache.")


_COLORS = {"good": "green", "refused": "red"}


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with extra("cli"):
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text

    table = Table(*(Column(name, overflow="fold" if "source" in name else "ellipsis") for name in header))
    for cells in rows:
        table.add_row(*(Text(cell, style=_COLORS.get(cell, "")) for cell in cells))
    Console().print(table)


def _cached() -> list[str]:
    from jaxviz.models import _load

    return [row.name for row in _load.available().values() if row.cached]


def _verdict(name: str) -> tuple[bool, str]:
    from jaxviz.models import _load

    try:
        origin = _load.verify(name)
    except (_load.RefusedWeightsError, FileNotFoundError) as error:
        return False, str(error)
    return True, f"{origin.source} (imported by hand)" if origin.by_hand else origin.source
