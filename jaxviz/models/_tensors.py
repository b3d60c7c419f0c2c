"""Reading tensors from a file of weights, whatever program wrote it, without running anything that is in the file.

PyTorch writes pickles, and a pickle may name any Python function to be called while it is read. Here a pickle may name
only what tensors and containers are made of, and those few names stand for objects that a pickle cannot alter, so that
nothing outlives the reading but the tensors.
"""

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (teaches numpy the name "bfloat16")
import numpy as np


class TensorFileError(ValueError):
    """A file of weights that cannot be read."""


class UnsafeFileError(TensorFileError):
    """A file that asks for more than tensors and containers, and was refused."""


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read every tensor of a file: PyTorch (`.pth`, `.pt`), Keras (`.h5`), ONNX or safetensors.

    The format is told by the file's content, not by its name. Tensors keep their dtype; those of one PyTorch storage
    are read-only views of it, as they were when saved. A checkpoint that holds its network under `state_dict` or
    `model` gives that network's tensors.

    Raises:
        UnsafeFileError: The file asks for a Python object that is no tensor or container. Nothing of it was executed.
        TensorFileError: The file is in none of these formats, damaged, or holds no tensors.
    """
    path = Path(path)
    layout = _sniff(path)
    try:
        tensors = layout.read(path)
    except TensorFileError:
        raise
    except Exception as error:  # Five libraries, each with its own ways to fail on a damaged file.
        raise TensorFileError(
            f"{path} starts like {layout.title} but cannot be read as one ({type(error).__name__}: {error}). It is "
            "probably cut short or damaged: compare its size and sha256 with its publisher's, and fetch it again"
        ) from error
    if not tensors:
        raise TensorFileError(f"expected tensors in {path}, got {layout.title} without any")
    return tensors


class _Layout(NamedTuple):
    """A way to store tensors: how its files begin, and how they are read."""

    title: str
    begins: Callable[[bytes], bool]
    read: Callable[[Path], dict[str, np.ndarray]]


def _sniff(path: Path) -> _Layout:
    with path.open("rb") as file:
        head = file.read(16)
    for layout in _LAYOUTS:
        if layout.begins(head):
            return layout
    known = ", ".join(layout.title for layout in _LAYOUTS)
    raise TensorFileError(
        f"expected a file of weights ({known}), got {path}, which begins with {head!r}. If it was downloaded, it may "
        "be an error page saved under this name"
    )


# Keras, ONNX, safetensors: their libraries read them, and none of the three holds code. Two can point to other files,
# which no sha256 covers and which may be anything on this machine, so such pointers are refused.


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    datasets: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf":
            datasets[name] = item

    with h5py.File(path, "r") as file:
        file.visititems(keep)
        for name, dataset in datasets.items():
            if dataset.external or dataset.is_virtual:
                raise _elsewhere(path, name)
        return {name: np.asarray(dataset[()]) for name, dataset in datasets.items()}


def _read_onnx(path: Path) -> dict[str, np.ndarray]:
    import onnx
    import onnx.numpy_helper

    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise _elsewhere(path, tensor.name)
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _elsewhere(path: Path, name: str) -> TensorFileError:
    return TensorFileError(f"expected all tensors inside of {path}, got {name!r} in another file: save it as one file")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)


# PyTorch: the pickle is read first, into references to storages; then the bytes of the storages that are needed.


class _Storage(NamedTuple):
    """A run of numbers in the file: `length` (None: all) from `start` on in what is stored under `key`."""

    dtype: str
    key: str
    start: int = 0
    length: int | None = None


class _Reference(NamedTuple):
    """A tensor as the pickle describes it; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: Sequence[int]
    strides: Sequence[int]


_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class _Rebuild:
    """Stands for torch's functions that make a tensor or a parameter; has no attributes that a pickle could set."""

    __slots__ = ()

    def __call__(self, value: Any, *arguments: Any) -> _Reference:
        if isinstance(value, _Reference):  # A parameter around a tensor.
            return value
        offset, shape, strides = arguments[:3]
        numbers = (offset, *shape, *strides)
        if not isinstance(value, _Storage) or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError("expected a tensor's storage, offset, shape and strides")
        return _Reference(value, offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Rebuild(),  # torch < 0.4: torchvision's vgg16 and vgg19
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    ("torch._utils", "_rebuild_parameter"): _Rebuild(),
} | {("torch", storage): dtype for storage, dtype in _STORAGES.items()}


class _Unpickler(pickle.Unpickler):
    """Reads a pickle that holds containers, numbers, text and tensors; anything else is refused before it is made."""

    def __init__(self, file: io.BufferedIOBase, path: Path):
        super().__init__(file, encoding="utf-8")  # torchvision's oldest files were written by Python 2.
        self.path = path
        self.item_sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafeFileError(
                f"{self.path} was refused and not executed: it asks for the Python object {module}.{name}, expected "
                "only tensors and containers. If you trust its author, open it with torch on a machine where that "
                "is safe and save its state_dict() alone"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or dtype not in _STORAGES.values():
            raise ValueError(f"expected a storage of a known type, got {kind!r} {dtype!r}")
        self.item_sizes[str(key)] = np.dtype(dtype).itemsize
        if view and view[0] is not None:  # Only in the old format, and only from torch < 0.4.
            _, start, length = view[0]
            return _Storage(dtype, str(key), start, length)
        return _Storage(dtype, str(key))


def _read_torch_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        root = _zip_root(archive, path)
        if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
            raise TensorFileError(f"expected little-endian tensors in {path}, got big-endian ones: save it again")
        references = _named(_Unpickler(io.BytesIO(_zip_member(archive, f"{root}/data.pkl")), path).load())
        keys = {reference.storage.key for reference in references.values()}
        data = {key: _zip_member(archive, f"{root}/data/{key}") for key in keys}
    return {name: _view(reference, data) for name, reference in references.items()}


def _zip_root(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the one folder that torch.save puts everything in."""
    roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise TensorFileError(
            f"expected one data.pkl in {path}, as torch.save writes, got a zip archive with {len(roots)} of them"
        )
    return roots[0]


def _zip_member(archive: zipfile.ZipFile, name: str) -> bytes:
    # torch never compresses; a compressed member could unpack to any size.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"expected {name} uncompressed")
    return archive.read(name)


_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def _read_torch_legacy(path: Path) -> dict[str, np.ndarray]:
    """Read what torch < 1.6 wrote: magic number, protocol, system, the object, the keys, then each key's bytes."""
    with path.open("rb") as file:
        if _Unpickler(file, path).load() != _LEGACY_MAGIC:
            raise TensorFileError(f"expected a pickle written by torch.save, got another one: {path}")
        protocol, system = (_Unpickler(file, path).load() for _ in range(2))
        if protocol != _LEGACY_PROTOCOL or not system["little_endian"]:
            raise TensorFileError(f"expected little-endian tensors in torch's protocol {_LEGACY_PROTOCOL}: {path}")
        unpickler = _Unpickler(file, path)
        references = _named(unpickler.load())
        needed = {reference.storage.key for reference in references.values()}
        sizes = {str(key): unpickler.item_sizes[str(key)] for key in _Unpickler(file, path).load()}
        data = _legacy_storages(file, sizes, needed)
    return {name: _view(reference, data) for name, reference in references.items()}


def _legacy_storages(file: io.BufferedReader, item_sizes: dict[str, int], needed: set[str]) -> dict[str, bytes]:
    """Read the storages that follow each other in the order of `item_sizes`, leaving out those that are not needed."""
    data = {}
    for key, item_size in item_sizes.items():
        (count,) = struct.unpack("<q", file.read(8))
        size, remaining = count * item_size, os.fstat(file.fileno()).st_size - file.tell()
        if not 0 <= size <= remaining:
            raise ValueError(f"expected a storage of {size} bytes, got {remaining} until the file's end")
        if key in needed:
            data[key] = file.read(size)
        else:
            file.seek(size, os.SEEK_CUR)
    return data


def _named(tree: Any) -> dict[str, _Reference]:
    """Name the tensors of a state dict, or of the checkpoint around one, by their path."""
    for wrapper in ("state_dict", "model"):
        if isinstance(tree, Mapping) and isinstance(tree.get(wrapper), Mapping) and (named := _named(tree[wrapper])):
            return named
    named = {".".join(names): reference for names, reference in _walk(tree)}
    prefix = "module."  # What torch.nn.DataParallel puts before every name.
    if all(name.startswith(prefix) for name in named):
        return {name.removeprefix(prefix): reference for name, reference in named.items()}
    return named


def _walk(tree: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], _Reference]]:
    if isinstance(tree, _Reference):
        yield names, tree
    elif isinstance(tree, Mapping):
        for name, child in tree.items():
            yield from _walk(child, (*names, str(name)))
    elif isinstance(tree, list | tuple):
        for number, child in enumerate(tree):
            yield from _walk(child, (*names, str(number)))


def _view(reference: _Reference, data: Mapping[str, bytes]) -> np.ndarray:
    """Make the array, after checking in exact integers that it lies inside of its storage."""
    storage, offset, shape, strides = reference
    dtype, buffer = np.dtype(storage.dtype), data[storage.key]
    stored = len(buffer) // dtype.itemsize
    length = stored - storage.start if storage.length is None else storage.length
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if not (0 <= storage.start <= storage.start + length <= stored) or (math.prod(shape) and last >= length):
        raise ValueError(
            f"expected a tensor inside of its storage of {length} numbers, got shape {list(shape)}, strides "
            f"{list(strides)} and offset {offset}"
        )
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    # The stride of an axis of length 1 is never used, and may be any number.
    steps = [stride * dtype.itemsize if size > 1 else 0 for size, stride in zip(shape, strides, strict=True)]
    return np.ndarray(shape, dtype, buffer, (storage.start + offset) * dtype.itemsize, steps)


def _begins_safetensors(head: bytes) -> bool:
    # The length of a JSON header, which the format limits to 100 MB, then the header.
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000


_LAYOUTS = (
    _Layout("a PyTorch zip archive", lambda head: head.startswith(b"PK\x03\x04"), _read_torch_zip),
    _Layout("an HDF5 file", lambda head: head.startswith(b"\x89HDF\r\n\x1a\n"), _read_h5),
    _Layout("a safetensors file", _begins_safetensors, _read_safetensors),
    _Layout("a PyTorch pickle", lambda head: head.startswith(b"\x80"), _read_torch_legacy),
    # Protocol buffers have no magic number; an ONNX model begins with field 1, its version.
    _Layout("an ONNX model", lambda head: head.startswith(b"\x08"), _read_onnx),
)
