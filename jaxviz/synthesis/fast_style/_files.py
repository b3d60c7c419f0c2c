"""Saving, loading and exporting style nets."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz._extras import extra
from jaxviz._files import write_atomically
from jaxviz.models._fetch import included
from jaxviz.models._tensors import read_tensors
from jaxviz.synthesis.fast_style._net import (
    StyleNet,
    by_number,
    count_blocks,
    count_styles,
    init_style_net,
    with_border,
)

STYLE_NET = "fast_style.safetensors"  # the file that comes with jaxviz
_STYLES = "jaxviz_style_net"  # the file's only metadata entry: the order of several, and so the file, would vary


def save_style_net(path: str | os.PathLike[str], params: Any, styles: Sequence[str]) -> None:
    """Write a net to a safetensors file, as float16, with the names of its styles.

    The file is written atomically.

    Args:
        path: where to write the file.
        params: the net's parameters.
        styles: a name for each style.

    Raises:
        ValueError: The names are not one for each style, not unique, or empty.

    Example:
        >>> import jax, jaxviz, tempfile
        >>> params = jaxviz.init_style_net(jax.random.key(0), width=4, blocks=1, styles=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     jaxviz.save_style_net(f"{folder}/net.safetensors", params, ["waves", "night"])
        ...     print(jaxviz.load_style_net(f"{folder}/net.safetensors").styles)
        ['waves', 'night']
    """
    with extra("weights"):
        from safetensors.numpy import save

    if not _are_names(list(styles)) or len(styles) != count_styles(params):
        raise ValueError(f"styles: expected {count_styles(params)} unique names, got {list(styles)}")
    tensors = {
        f"{layer}/{name}": np.asarray(value, np.float16) for layer, of in params.items() for name, value in of.items()
    }
    write_atomically(Path(path), save(tensors, {_STYLES: json.dumps(list(styles))}))


def load_style_net(path: str | os.PathLike[str] | None = None) -> StyleNet:
    """Read a net that `save_style_net` wrote, or the one that comes with jaxviz.

    Args:
        path: the file; None: the net that comes with jaxviz, with five styles at three sizes.

    Returns:
        The parameters, as float32, and the names of the styles.

    Raises:
        ValueError: The file is not a style net, or is damaged.
        FileNotFoundError: There is no such file.

    Example:
        >>> import jaxviz
        >>> net = jaxviz.load_style_net()
        >>> print(net.names)
        ['starry_night', 'scream', 'mosaic', 'ink', 'paper']
        >>> print(net.styles[:3])
        ['starry_night@256', 'starry_night@512', 'starry_night@1024']
    """
    with extra("weights"):
        from safetensors import safe_open

    path = included(STYLE_NET) if path is None else path
    tensors = read_tensors(Path(path))
    params: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer, _, what = name.rpartition("/")
        params.setdefault(layer, {})[what] = jnp.asarray(tensor, jnp.float32)
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            styles = json.loads(file.metadata()[_STYLES])
        if not _are_names(styles):
            raise ValueError(f"expected unique names of styles, got {styles!r:.200}")
        shape = lambda tree: jax.tree.map(jnp.shape, tree)
        kernel = params["first"]["kernel"]
        fresh = jax.eval_shape(
            lambda: init_style_net(
                jax.random.key(0), width=kernel.shape[-1], blocks=count_blocks(params), styles=len(styles)
            )
        )
        if shape(params) != shape(fresh):
            raise ValueError("its tensors have other shapes")
    except Exception as error:  # not a safetensors file, or one without our metadata, or with other tensors
        raise ValueError(
            f"{path}: expected a net that save_style_net wrote, got another file ({type(error).__name__}: {error})"
        ) from error
    return StyleNet(params, styles)


def _are_names(styles: Any) -> bool:
    """Return whether styles are nonempty, unique names; `file_name` makes them safe as file names."""
    named = isinstance(styles, list) and all(isinstance(name, str) and name for name in styles)
    return named and len(set(styles)) == len(styles)


def export_style_net(params: Any) -> bytes:
    """Export the net with its parameters as a program that needs only jax: what `restyle` does, for any size.

    `jax.export.deserialize(program).call(image, weights)` takes a float32 image `(1, h, w, 3)` in [0, 1], each side at
    least 32 pixels, and the weights of the styles, `(styles,)`, float32. It runs on CPUs, NVIDIA GPUs and TPUs.

    Args:
        params: the net's parameters, or what `load_style_net` returns.

    Returns:
        The serialized program, a StableHLO module as `jax.export` writes it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> params = jaxviz.init_style_net(jax.random.key(0), width=4, blocks=1, styles=2)
        >>> program = jax.export.deserialize(jaxviz.export_style_net(params))
        >>> print(program.call(jnp.zeros((1, 33, 54, 3), "float32"), jnp.array([1.0, 0.0], "float32")).shape)
        (1, 33, 54, 3)
    """
    from jax import export

    params, _ = by_number(params, 0)
    shape = export.symbolic_shape("1, h, w, 3", constraints=("h >= 32", "w >= 32"))
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    weights = jax.ShapeDtypeStruct((count_styles(params),), jnp.float32)
    program = jax.jit(lambda images, mix: with_border(params, images, mix[None]))
    exported = export.export(program, platforms=("cpu", "cuda", "tpu"))(image, weights)
    return bytes(exported.serialize())
