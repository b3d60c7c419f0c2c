"""What `jaxviz layers` does: the table of what has a name inside a network; nothing is run."""

import sys
import warnings

from jaxviz._extras import extra
from jaxviz._files import plain, printable
from jaxviz.cli._layers import Layers
from jaxviz.cli._models import load_model
from jaxviz.image._checks import sides_of


def list_layers(options: Layers) -> None:
    """Print the table."""
    with extra("cli"):
        from rich.console import Console
        from rich.table import Column, Table

    model = load_model(options.model, options.size, output=options.output)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        found = model.layers()
    for each in said:  # what has no name
        print(f"jaxviz: {printable(str(each.message))}", file=sys.stderr)
    table = Table(*(Column(head, overflow="fold") for head in ("name", "kind", "shape", "a unit sees")))
    for row in found.rows():
        table.add_row(*map(plain, row))
    console = Console()
    if not console.is_terminal:  # names in a file are not broken
        console = Console(width=max([console.width, *(len(name) + 100 for name in found)]))
    console.print(table)
    height, width = sides_of(model.size)
    console.print(plain(f"{model.name}: {len(found)} layers, for one image of {height} x {width} pixels."))
