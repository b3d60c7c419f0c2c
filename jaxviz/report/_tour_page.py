"""The tour as a function: every method on one photograph, as a web page."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxviz._types import Key
from jaxviz.image._checks import sides_of
from jaxviz.models import Network
from jaxviz.program._digest import digest_of, digest_of_program, with_gradient
from jaxviz.program._returned import returned_by


def tour(
    image: Any,
    folder: str | os.PathLike[str],
    *,
    network: Network | None = None,
    name: str = "this network",
    full: bool = False,
    only: Sequence[str] = (),
    album: str | os.PathLike[str] | None = None,
    key: Key | None = None,
    report: Callable[[str], Any] | None = None,
) -> Path:
    """Show every method on one photograph: a web page, as `jaxviz tour` makes it, of any network.

    The page is written after each section. A section that is done, of the same photograph, network, key and code, is
    not made again: a call that was stopped continues where it was.

    Args:
        image: the photograph, anything that `load_image` takes.
        folder: for the page, `index.html`, which needs nothing else, and for its pictures.
        network: to show; None: the two that come with jaxviz, each where it does best. A section that cannot be made of
            it is left out, and the page says why.
        name: what the page calls the network.
        full: better pictures, in several times the 5 minutes that it takes on two cores otherwise.
        only: the sections to make, by their ids, such as "saliency"; empty: all.
        album: a folder of at least four photographs to look through for neighbors and patches; None: crops of those
            that come with scikit-image and scikit-learn.
        key: the random key; None: `jax.random.key(0)`.
        report: called with a line of text whenever there is news, such as `print`.

    Returns:
        The page's path.

    Raises:
        ImageError: if there is no image in `image`.
        ValueError: for an unknown section; an album of fewer than four images; a network that returns several arrays,
            or whose images have other than 1 or 3 channels.
        WeightsUnavailableError: if the weights of the two networks can be had from none of their sources.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz, tempfile
        >>> net = lambda params, images: jax.nn.relu(images @ params).mean((1, 2))
        >>> network = jaxviz.Network(net, jnp.eye(3, dtype=jnp.float32), size=16, classes=["red", "green", "blue"])
        >>> photo = jax.random.uniform(jax.random.key(0), (16, 16, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = jaxviz.tour(photo, folder, network=network, only=["saliency"])
        ...     print(page.name, "Saliency" in page.read_text())
        index.html True
    """
    from jaxviz.report._tour import run_tour  # which all methods come with

    options: dict[str, Any] = {"only": tuple(only), "report": report or (lambda line: None), "key": key}
    options["album"] = None if album is None else Path(album)
    own = None if network is None else _own(network, name)
    return run_tour(image, Path(folder), full=full, own=own, **options)


def _own(network: Network, name: str) -> Any:
    """Return what the sections need to know of a network; raise ValueError if none of them could use it."""
    from jaxviz.report._own import looked_at

    if network.channels not in (1, 3):
        raise ValueError(f"network: expected one of photographs, of 3 channels or 1, got one of {network.channels}")
    size = network.size or 224
    shape = jax.ShapeDtypeStruct((1, *sides_of(size), network.channels), jnp.float32)
    returned = returned_by(network.net, network.params, shape)
    if "" not in returned.arrays:
        raise ValueError(
            f"network: expected one that returns one array, got a {returned.kind} ({returned or 'no arrays'}): take "
            "the class scores out of it, as in Network(lambda params, images: net(params, images)[0], params)"
        )
    names = hashlib.sha256(repr(network.classes).encode(errors="surrogatepass")).hexdigest()
    program = digest_of_program(with_gradient(network.net), network.params, shape)
    code = "net, params = network"
    return looked_at(name, code, network, size, f"{digest_of(network.params)} {program} {names}")
