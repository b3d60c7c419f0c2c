"""What a source of images is: names, and functions that read an image by its number."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxviz.image._checks import ImageError
from jaxviz.show._shown import shown


@shown()
class Source(NamedTuple):
    """Images in an order, each with its own name.

    Attributes:
        ids: the images' names, all different.
        read: `read(i)` returns image i as something that `load_image` takes.
        mark: `mark(i)` returns a text that changes whenever image i does, without decoding it; empty if that cannot be
            known.
        labeled: `labeled(i)` returns what `read(i)` does and the image's label (None if it has none), from one access
            to the data; None: there are no labels.
        name: what messages call the source.
        left_out: what could not be listed, such as folders that cannot be read, with the reason.
        in_memory: whether all images are in memory.
        in_order: whether reading an image that comes before the last one begins again from the first, as in a stream.
    """

    ids: Sequence[str]
    read: Callable[[int], Any]
    mark: Callable[[int], str] = lambda i: ""
    labeled: Callable[[int], tuple[Any, Any]] | None = None
    name: str = "source"
    left_out: Mapping[str, str] = {}
    in_memory: bool = False
    in_order: bool = False


def checked(source: Source) -> Source:
    """Return a source; raise ImageError if it is empty or two images have one name."""
    if not len(source.ids):
        raise ImageError(f"{source.name}: expected at least one image, got none")
    if len(set(source.ids)) < len(source.ids):
        seen: set[str] = set()
        twice = next(name for name in source.ids if name in seen or seen.add(name))
        raise ImageError(f"{source.name}: expected a different name for each image, got {twice} twice")
    return source
