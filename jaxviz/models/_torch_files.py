"""PyTorch's two formats: first the pickle is read, into references to storages, then the bytes of the storages used."""

import io
import math
import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (teaches numpy the name "bfloat16")
import numpy as np

from jaxviz.models._pickles import Name, UnsafeFileError, inert, items, mapping, read_pickle
from jaxviz.models._trees import TensorFileError, named_tensors


class _Storage(NamedTuple):
    """A range of numbers in the file: `length` of them (None: all), from `start` on, in the storage `key`."""

    dtype: str
    key: str
    start: int = 0
    length: int | None = None


class _Reference(NamedTuple):
    """A tensor as the pickle describes it; offset and strides are in elements."""

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
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


def _tensor(arguments: Sequence[Any]) -> _Reference:
    """Stand in for torch's functions that make a tensor, or a parameter that wraps one."""
    value, *rest = arguments
    if isinstance(value, _Reference):
        return value
    offset, shape, strides = rest[:3]
    numbers = (offset, *shape, *strides)
    if not isinstance(value, _Storage) or len(numbers) > 129 or not all(map(_is_size, numbers)):
        raise ValueError("expected a tensor's storage, offset, shape and strides")
    return _Reference(value, offset, tuple(shape), tuple(strides))


def _is_size(number: Any) -> bool:
    return isinstance(number, int) and 0 <= number < 1 << 128  # The stride of an axis of length 1 may be any number.


def _tensor_of_subclass(arguments: Sequence[Any]) -> Any:
    function, _, inner, *_ = arguments
    return function.call(inner)


_CALLS = {
    ("torch._utils", "_rebuild_tensor"): _tensor,  # torch < 0.4: torchvision's vgg16 and vgg19
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): _tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): _tensor_of_subclass,
    ("torch", "Size"): lambda arguments: tuple(items(arguments)),
}
_MAPPINGS = """
collections.OrderedDict collections.Counter collections.defaultdict builtins.dict __builtin__.dict
pytorch_lightning.utilities.parsing.AttributeDict lightning.pytorch.utilities.parsing.AttributeDict
lightning_fabric.utilities.data.AttributeDict lightning.fabric.utilities.data.AttributeDict easydict.EasyDict
yacs.config.CfgNode fvcore.common.config.CfgNode addict.addict.Dict
""".split()
_ITEMS = """
builtins.set builtins.frozenset builtins.list builtins.tuple __builtin__.set __builtin__.frozenset __builtin__.list
__builtin__.tuple collections.deque
""".split()
# What a training log may hold. None of it is imported or made: no tensor comes from it.
_HARMLESS = """
argparse.Namespace types.SimpleNamespace copyreg._reconstructor copy_reg._reconstructor _codecs.encode
builtins.object __builtin__.object builtins.complex __builtin__.complex builtins.int builtins.float builtins.bool
builtins.str builtins.bytes builtins.bytearray builtins.range __builtin__.xrange builtins.slice __builtin__.int
__builtin__.float __builtin__.str __builtin__.bytearray __builtin__.slice datetime.datetime datetime.date datetime.time
datetime.timedelta datetime.timezone decimal.Decimal fractions.Fraction uuid.UUID pathlib.Path pathlib.PosixPath
pathlib.WindowsPath pathlib.PurePath pathlib.PurePosixPath pathlib.PureWindowsPath pathlib._local.Path
pathlib._local.PosixPath pathlib._local.WindowsPath pathlib._local.PurePosixPath pathlib._local.PureWindowsPath
numpy.dtype numpy.ndarray numpy.core.multiarray.scalar numpy.core.multiarray._reconstruct
numpy._core.multiarray.scalar numpy._core.multiarray._reconstruct numpy.core.numeric._frombuffer
numpy._core.numeric._frombuffer torch.device torch.dtype torch.memory_format torch.layout torch.Tensor
torch.nn.parameter.Parameter torch.nn.parameter.Buffer torch.serialization._get_layout torch.version.TorchVersion
torch.torch_version.TorchVersion torch.float64 torch.double torch.float32 torch.float torch.float16 torch.half
torch.bfloat16 torch.int64 torch.long torch.int32 torch.int torch.int16 torch.short torch.int8 torch.uint8 torch.bool
torch.complex64 torch.complex128 torch.float8_e4m3fn torch.float8_e5m2 torch.uint16 torch.uint32 torch.uint64
torch.contiguous_format torch.channels_last torch.preserve_format
""".split()


def _names(path: Path) -> Any:
    roles = {f"{module}.{name}": call for (module, name), call in _CALLS.items()}
    roles |= dict.fromkeys(_MAPPINGS, mapping) | dict.fromkeys(_ITEMS, items) | dict.fromkeys(_HARMLESS, inert)
    roles |= {f"torch.{storage}": inert for storage in _STORAGES}

    def stand_in(module: str, name: str) -> Name:
        if f"{module}.{name}" not in roles:
            raise UnsafeFileError(
                f"{path} was refused and not executed: expected only tensors and containers, got a request for the "
                f"Python object {module}.{name}. If you trust its author, open it with torch on a machine where that "
                "is safe, and save only its state_dict()"
            )
        return Name(f"{module}.{name}", roles[f"{module}.{name}"])

    return stand_in


class _Stored:
    """What a pickle says about the storages next to it."""

    def __init__(self):
        self.item_sizes: dict[str, int] = {}

    def __call__(self, pid: Any) -> _Storage:
        kind, storage, key, _, _, *view = pid
        dtype = _STORAGES.get(storage.name.removeprefix("torch.")) if isinstance(storage, Name) else None
        if kind != "storage" or dtype is None or not isinstance(key, str | int):
            raise ValueError("expected a storage of a known type")
        self.item_sizes[str(key)] = np.dtype(dtype).itemsize
        if view and view[0] is not None:  # Only in the old format, and only from torch < 0.4.
            _, start, length = view[0]
            if not (_is_size(start) and _is_size(length)):
                raise ValueError("expected the start and length of a view of a storage")
            return _Storage(dtype, str(key), start, length)
        return _Storage(dtype, str(key))


def read_torch_zip(archive: zipfile.ZipFile, path: Path, *, part: str | None = None) -> dict[str, np.ndarray]:
    """Read the tensors from a zip archive written by torch >= 1.6."""
    root = _zip_root(archive, path)
    if f"{root}/byteorder" in archive.namelist() and _zip_member(archive, f"{root}/byteorder") != b"little":
        raise TensorFileError(
            f"expected little-endian tensors in {path}, got big-endian ones: save it on a little-endian machine"
        )
    data = _zip_member(archive, f"{root}/data.pkl")
    tree, budget = read_pickle(io.BytesIO(data), len(data), _names(path), _Stored())
    references = named_tensors(tree, budget, _Reference, part=part)
    keys = {reference.storage.key for reference in references.values()}
    size = path.stat().st_size
    if sum(archive.getinfo(f"{root}/data/{key}").file_size for key in keys) > size:
        raise ValueError("expected storages that do not overlap, got more bytes than the file has")
    stored = {key: _zip_member(archive, f"{root}/data/{key}") for key in keys}
    return {name: _view(reference, stored, size) for name, reference in references.items()}


def _zip_root(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the single folder that torch.save puts everything into."""
    roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise TensorFileError(
            f"expected one data.pkl in {path}, as torch.save writes it, got a zip archive with {len(roots)} of them"
        )
    return roots[0]


def _zip_member(archive: zipfile.ZipFile, name: str) -> bytes:
    # torch never compresses; a compressed member could unpack to any size.
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"expected {name} uncompressed")
    return archive.read(name)


LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of the older format: the pickle's protocol, a magic number and the pickle's end."""

_LEGACY_PROTOCOL = 1001


def read_torch_legacy(path: Path, *, part: str | None = None) -> dict[str, np.ndarray]:
    """Read a file written by torch < 1.6: magic number, protocol, system, object, keys, then the bytes of each key."""
    stored, size = _Stored(), path.stat().st_size
    with path.open("rb") as file:

        def following() -> Any:
            return read_pickle(file, size, _names(path), stored)

        if following()[0] != int.from_bytes(LEGACY_MAGIC[2:-1], "little"):
            raise TensorFileError(f"expected a pickle written by torch.save, got another pickle: {path}")
        (protocol, _), (system, _) = following(), following()
        if protocol != _LEGACY_PROTOCOL or not isinstance(system, Mapping) or system.get("little_endian") is not True:
            raise TensorFileError(f"expected little-endian tensors in torch's protocol {_LEGACY_PROTOCOL}: {path}")
        tree, budget = following()
        references = named_tensors(tree, budget, _Reference, part=part)
        needed = {reference.storage.key for reference in references.values()}
        sizes = {key: stored.item_sizes[key] for key in map(str, _keys(following()[0]))}
        data = _legacy_storages(file, sizes, needed)
    return {name: _view(reference, data, size) for name, reference in references.items()}


def _keys(keys: Any) -> list[str | int]:
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise ValueError("expected a list of the storages' keys")
    return keys


def _legacy_storages(file: io.BufferedIOBase, item_sizes: dict[str, int], needed: set[str]) -> dict[str, bytes]:
    """Read consecutive storages, in the order of `item_sizes`, skipping those that are not needed."""
    data = {}
    for key, item_size in item_sizes.items():
        (count,) = struct.unpack("<q", file.read(8))
        size, remaining = count * item_size, os.fstat(file.fileno()).st_size - file.tell()
        if not 0 <= size <= remaining:
            raise ValueError(f"expected a storage of {size} bytes, got {remaining} before the end of the file")
        if key in needed:
            data[key] = file.read(size)
        else:
            file.seek(size, os.SEEK_CUR)
    return data


def _view(reference: _Reference, data: Mapping[str, bytes], file_size: int) -> np.ndarray:
    """Make the array, after checking with Python's exact integers that it lies inside its storage."""
    storage, offset, shape, strides = reference
    dtype, buffer = np.dtype(storage.dtype), data[storage.key]
    stored, count = len(buffer) // dtype.itemsize, math.prod(shape)
    length = stored - storage.start if storage.length is None else storage.length
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if not (0 <= storage.start <= storage.start + length <= stored) or (count and last >= length):
        raise ValueError(
            f"expected a tensor inside its storage of {length} numbers, got shape {list(shape)}, strides "
            f"{list(strides)} and offset {offset}"
        )
    if count * dtype.itemsize > file_size + (1 << 20):  # A tensor with stride 0, a copy of which would fill memory.
        raise ValueError(f"expected a tensor no larger than its file, got shape {list(shape)}")
    if not count:
        return np.zeros(shape, dtype)
    # The stride of an axis of length 1 is never used, and may be any number.
    steps = [stride * dtype.itemsize if size > 1 else 0 for size, stride in zip(shape, strides, strict=True)]
    return np.ndarray(shape, dtype, buffer, (storage.start + offset) * dtype.itemsize, steps)
