"""What `jaxviz layers` does: a table of the values inside a network, from its traced program; nothing is run."""

import warnings
from typing import Any

import jax

import jaxviz
from jaxviz._files import plain
from jaxviz.cli._layers import Layers
from jaxviz.cli._models import Model, load_model
from jaxviz.image._checks import sides_of
from jaxviz.program._listing import Listed, listed
from jaxviz.program._modules import named_by_default


def list_layers(options: Layers) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Column, Table

    model = load_model(options.model, options.size)
    # Compiled programs know what they were traced to, and this is traced for each field.
    net, params = jax.jit(named_by_default(model.network.net)), model.network.params
    _warn(net, params, model)
    found = listed(net, params, model.shape)
    heads = [Column(head, overflow="fold") for head in ("name", "kind", "shape")]
    table = Table(*heads, *([Column("a unit sees", overflow="fold")] if options.fields else []))
    with Console(stderr=True).status("Starting") as status:
        for layer in found:
            status.update(plain(f"{layer.name} …"))
            cells = [layer.name, layer.kind, " x ".join(map(str, layer.shape[1:])) or "-"]
            cells += [_field(net, params, model, layer)] if options.fields else []
            table.add_row(*map(plain, cells))
    console = Console()
    if not console.is_terminal:  # names in a file are not broken
        console = Console(width=max(console.width, 120, *(len(layer.name) + 80 for layer in found)))
    console.print(table)
    height, width = sides_of(model.size)
    channels = model.network.channels
    console.print(plain(f"{model.name}: {len(found)} layers, for one image of {height} x {width} x {channels}."))


def _warn(net: Any, params: Any, model: Model) -> None:
    """Say in a line what has no name."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        jaxviz.layers(net, params, model.shape)
    for each in said:
        print(f"jaxviz: {each.message}")


def _field(net: Any, params: Any, model: Model, layer: Listed) -> str:
    """Say what a unit sees: rows x columns of pixels, and how far the next unit's are from them."""
    try:
        field = jaxviz.receptive_field(net, params, model.shape, layer.name)
    except ValueError:  # of a layer without positions that are known, or behind an operation that is not
        return "-"
    if all(size >= side for size, side in zip(field.size, sides_of(model.size), strict=True)):
        return "the whole image" if not any(field.stride) else f"all, {_each(field.stride)} apart"
    return f"{field.size[0]} x {field.size[1]}, {_each(field.stride)} apart"


def _each(stride: tuple[int | float, ...]) -> str:
    return f"{stride[0]:g}" if stride[0] == stride[1] else f"{stride[0]:g} x {stride[1]:g}"
