"""`jaxviz layers`: what can be named inside a network, in a table."""

from dataclasses import dataclass

from jaxviz.cli._options import Network


@dataclass(frozen=True, kw_only=True)
class Layers(Network):
    """List the values inside a network that have a name, in forward order: kind, shape, and what a unit sees."""

    size: int | None = None
    """Height and width of an image in pixels; by default the network's own, or 224."""

    def run(self) -> None:
        """List them."""
        from jaxviz.cli._list_layers import list_layers

        list_layers(self)
