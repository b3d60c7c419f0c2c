"""From the tensors of a file, in any known format, to a network's parameters: all of them, in the right shapes."""

import functools
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxviz._extras import extra
from jaxviz._types import Net
from jaxviz.models._class_names import class_names
from jaxviz.models._fetch import read_manifest
from jaxviz.models._network import Network
from jaxviz.models._tensors import read_tensors
from jaxviz.models._trees import without_prefixes


def networks() -> Mapping[str, Any]:
    with extra("weights"):
        from jaxviz.models._networks import NETWORKS  # imports flax, which `import jaxviz` should not

    return NETWORKS


def network_of(name: str) -> Any:
    known = list(read_manifest())
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"expected the name of a pretrained network, got {name!r}{hint}; known: {', '.join(known)}")
    return networks()[name]


@functools.cache
def net_of(name: str) -> Net:
    """Return the net of a pretrained network, which knows its classes: the same one each time, so its programs last."""
    network = network_of(name)
    return Network(network.net, None, classes=class_names()).net if network.classifies else network.net


def converted(name: str, path: Path, part: str | None = None) -> dict[str, np.ndarray]:
    """Read a weights file, in any known format, as the network's own parameters by path."""
    tensors = read_tensors(path, part=part)
    try:
        params = _fitted(name, tensors)
    except (KeyError, ValueError) as error:
        reason = f"expected a tensor {error}" if isinstance(error, KeyError) else error
        found = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in list(tensors.items())[:4])
        raise ValueError(f"{path} does not fit {name}: {reason}. Its first tensors are {found}") from error
    return params


def _fitted(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with extra("weights"):
        from flax.traverse_util import flatten_dict

    own = _in_own_layout(name, tensors)
    used = _Used(tensors)
    flat: Any = own or flatten_dict(network_of(name).convert(used), sep="/")
    check_shapes(name, flat)
    # Batch normalization's counters are not parameters.
    rest = [key for key in tensors if key not in used.names and not key.endswith("num_batches_tracked")]
    if rest and not own and not network_of(name).leaves_out:
        raise ValueError(f"expected tensors of {name} only, got others that it does not use: {', '.join(rest[:4])}")
    _check_numbers({key: tensors[key] for key in used.names} or tensors)
    params = {key: np.asarray(array, np.float32, order="C") for key, array in flat.items()}
    _check_numbers(params)
    return params


class _Used(Mapping[str, np.ndarray]):
    """Tensors that record which of them were read."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors, self.names = tensors, set[str]()

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        self.names.add(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


def _in_own_layout(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors if they are named like the network's parameters, as Flax and this cache write them."""
    with extra("weights"):
        from flax.traverse_util import flatten_dict

    flat: Any = flatten_dict(network_of(name).params(), sep="/")
    plain = without_prefixes({key.replace("/", "."): tensor for key, tensor in tensors.items()})
    own = {key.removesuffix(".value").replace(".", "/"): tensor for key, tensor in plain.items()}  # .value: Flax NNX
    if len(own) != len(plain):
        raise ValueError(f"expected one tensor for each parameter of {name}, got several with the same name")
    return own if 2 * len(flat.keys() & own.keys()) > len(flat) else {}  # other formats may share a few names


def _check_numbers(tensors: Mapping[str, np.ndarray]) -> None:
    for key, tensor in tensors.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise ValueError(f"{key}: expected floating-point numbers, got {tensor.dtype}")
        if not np.isfinite(tensor).all():
            raise ValueError(f"{key}: expected finite numbers, got {int((~np.isfinite(tensor)).sum())} that are not")


def check_shapes(name: str, params: Mapping[str, Any]) -> None:
    with extra("weights"):
        from flax.traverse_util import flatten_dict

    flat: Any = flatten_dict(network_of(name).params(), sep="/")
    expected = {key: leaf.shape for key, leaf in flat.items()}
    got = {key: array.shape for key, array in params.items()}
    wrong = [key for key in {**expected, **got} if expected.get(key) != got.get(key)]
    if wrong:
        lines = [f"{key}: expected {expected.get(key, 'none')}, got {got.get(key, 'none')}" for key in wrong]
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise ValueError("; ".join(lines[:3]) + more)
