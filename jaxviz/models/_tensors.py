"""Reading tensors from a weights file, in any known format, without running anything in it."""

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxviz._extras import extra
from jaxviz.models._flax_files import is_orbax, read_msgpack, read_orbax
from jaxviz.models._keras_files import read_h5, read_keras_zip
from jaxviz.models._kinds import other_archive, other_folder, other_kind
from jaxviz.models._pickles import UnsafeFileError as UnsafeFileError
from jaxviz.models._torch_files import read_torch_legacy, read_torch_zip
from jaxviz.models._trees import Budget, TensorFileError, named_tensors


def read_tensors(path: str | Path, *, part: str | None = None) -> dict[str, np.ndarray]:
    """Read all tensors of a network from a PyTorch, Keras, ONNX, safetensors or Flax msgpack file, or an Orbax folder.

    The format is recognized by the file's content, not its name. Tensors keep their dtype; those that share a PyTorch
    storage are read-only views of it, as when they were saved. If a checkpoint holds its network under `state_dict`,
    `model`, `params` or the like, only that network's tensors are read; from Keras's files, only the model's weights,
    not the optimizer's state.

    Args:
        path: the file, or Orbax's folder.
        part: the entry to read from a checkpoint that holds several networks, such as `"ema"`.

    Returns:
        The tensors by name.

    Raises:
        UnsafeFileError: The file asks for a Python object that is not a tensor or a container. Nothing was executed.
        TensorFileError: The file has none of these formats, is damaged, or holds no tensors or several networks.
    """
    path = Path(path)
    layout = _ORBAX if path.is_dir() else _sniff(path)
    try:
        tensors = layout.read(path, part)
    except TensorFileError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:  # Seven libraries, each with its own ways to fail on a damaged file.
        raise TensorFileError(
            f"{path} starts like {layout.title} but cannot be read as one ({type(error).__name__}: {error}). It is "
            "probably truncated or damaged: compare its size and sha256 with the publisher's, and fetch it again"
        ) from error
    if not tensors:
        raise TensorFileError(f"expected tensors in {path}, got {layout.title} with none")
    return tensors


class _Layout(NamedTuple):
    """A file format: how to recognize it by its first bytes, and how to read it."""

    title: str
    begins: Callable[[bytes], bool]
    read: Callable[[Path, str | None], dict[str, np.ndarray]]


def _sniff(path: Path) -> _Layout:
    with path.open("rb") as file:
        head = file.read(16)
    kind = other_kind(path)
    for layout in _LAYOUTS:
        if not kind and layout.begins(head):
            return layout
    known = ", ".join(layout.title for layout in (*_LAYOUTS, _ORBAX))
    told = f"{path}, {kind}" if kind else f"{path}, which starts with {head!r}"
    raise TensorFileError(f"expected weights ({known}), got {told}")


def _read_zip(path: Path, part: str | None) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        if kind := other_archive(archive):
            raise TensorFileError(f"expected weights from PyTorch or Keras, got {path}, {kind}")
        if "model.weights.h5" in archive.namelist():
            return _part_of(read_keras_zip(archive, path), part)
        return read_torch_zip(archive, path, part=part)


def _read_pickle(path: Path, part: str | None) -> dict[str, np.ndarray]:
    return read_torch_legacy(path, part=part)


def _read_onnx(path: Path, part: str | None) -> dict[str, np.ndarray]:
    with extra("weights"):
        import onnx
        import onnx.numpy_helper

    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise TensorFileError(
                f"expected all tensors inside {path}, got {tensor.name!r} in another file: save everything in one file"
            )
    counts = Counter(tensor.name for tensor in model.graph.initializer)
    if counts and counts.most_common(1)[0][1] > 1:
        raise TensorFileError(f"expected unique names in {path}, got {counts.most_common(1)[0][0]!r} several times")
    return _part_of({t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}, part)


def _read_safetensors(path: Path, part: str | None) -> dict[str, np.ndarray]:
    with extra("weights"):
        from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    if part is not None:
        return _part_of(found, part)
    return named_tensors(found, Budget(path.stat().st_size), np.ndarray)


def _part_of(tensors: dict[str, np.ndarray], part: str | None) -> dict[str, np.ndarray]:
    """Return the tensors of a part, by their names within it."""
    if part is None:
        return tensors
    found = {
        name[len(part) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith((f"{part}.", f"{part}/"))
    }
    if not found:
        raise TensorFileError(f"expected tensors in part {part!r}, got {', '.join(list(tensors)[:4])}")
    return found


def _begins_safetensors(head: bytes) -> bool:
    # The length of the JSON header, which the format limits to 100 MB, then the header itself.
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000


def _begins_msgpack(head: bytes) -> bool:
    # A map whose first key is a string.
    first = {0xDE: 3, 0xDF: 5}.get(head[0], 1) if head else 0
    is_map = bool(head) and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF))
    return is_map and len(head) > first and (0xA0 <= head[first] <= 0xBF or head[first] in (0xD9, 0xDA))


def _read_orbax(path: Path, part: str | None) -> dict[str, Any]:
    if not is_orbax(path):
        raise TensorFileError(f"expected weights, got {path}, {other_folder(path)}")
    return read_orbax(path, part=part)


_ORBAX = _Layout("an Orbax folder", lambda head: False, _read_orbax)
_LAYOUTS = (
    _Layout("a PyTorch or Keras zip archive", lambda head: head.startswith(b"PK\x03\x04"), _read_zip),
    _Layout(
        "an HDF5 file",
        lambda head: head.startswith(b"\x89HDF\r\n\x1a\n"),
        lambda p, part: _part_of(read_h5(p, p), part),
    ),
    _Layout("a safetensors file", _begins_safetensors, _read_safetensors),
    _Layout("a PyTorch pickle", lambda head: head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5", _read_pickle),
    _Layout("a Flax msgpack file", _begins_msgpack, lambda p, part: read_msgpack(p, part=part)),
    # Protocol buffers have no magic number; an ONNX model starts with field 1, its version.
    _Layout("an ONNX model", lambda head: head.startswith(b"\x08"), _read_onnx),
)
