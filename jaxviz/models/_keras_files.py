"""HDF5 files, and what Keras keeps in them: the model's own weights, not its optimizer's state.

HDF5 holds no code. But it can point to other files, which no sha256 covers and which may be anything on this machine,
and declare more numbers than it holds: both are refused, the second before any memory is allocated.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxviz._extras import extra
from jaxviz.models._trees import TensorFileError

EXPANSION = 16  # times the file's size that its numbers may take: weights hardly compress
SLACK = 1 << 20  # bytes allowed on top, for any file
_OF_TRAINING = ("optimizer", "optimizer_weights", "_optimizer", "compile_metrics", "_compile_metrics", "metrics")


def read_keras_zip(archive: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    """Read the weights of a `.keras` archive."""
    info = archive.getinfo("model.weights.h5")
    if info.file_size > EXPANSION * path.stat().st_size + SLACK:
        raise TensorFileError(f"expected weights about as large as {path}, got {info.file_size} bytes in it")
    return read_h5(io.BytesIO(archive.read(info)), path)


def read_h5(file: Path | io.BufferedIOBase, path: Path) -> dict[str, np.ndarray]:
    """Read the weights in a file that Keras wrote, or the numeric datasets of any other HDF5 file, by path."""
    with extra("weights"):
        import h5py

    with h5py.File(file, "r") as root:
        datasets = _datasets(root)
        found = {name: dataset for name, dataset in _of_keras(root, datasets) if _is_numeric(dataset)}
        for name, dataset in found.items():
            if dataset.external or dataset.is_virtual:
                raise TensorFileError(
                    f"expected all tensors inside {path}, got {name!r} in another file: save everything in one file"
                )
        _check_sizes(found, root.id.get_filesize())
        return {name: _values(dataset) for name, dataset in found.items()}


def _datasets(root: Any) -> dict[str, Any]:
    """Return the datasets by path; each once, and none through a link to elsewhere."""
    with extra("weights"):
        import h5py

    datasets: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    root.visititems(keep)
    return datasets


def _of_keras(root: Any, datasets: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a model's own weights, not the optimizer's moments, which have the same names and shapes."""
    if any("vars" in name.split("/")[:-1] for name in datasets):  # `.weights.h5` and `.keras` of Keras 3
        yield from _by_variables(root, datasets)
        return
    # Keras 1 and 2, and `.h5` of Keras 3: by groups. The attributes `layer_names` and `weight_names` only repeat them,
    # and are not read: each string may be as long as the file, and occur thousands of times.
    top = "model_weights/" if "model_weights" in root else ""
    for name, dataset in datasets.items():
        if name.startswith(top) and name.partition("/")[0] not in _OF_TRAINING:
            yield name.removeprefix(top), dataset


def _by_variables(root: Any, datasets: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield `.../layer/vars/0` as `.../layer/0`, with the user's name for the layer if the file has it."""
    seen = set()
    for path, dataset in datasets.items():
        *folders, variables, number = path.split("/")
        if variables != "vars" or not {*folders}.isdisjoint(_OF_TRAINING):
            continue
        given = root["/".join([*folders, variables])].attrs.get("name")
        given = given if isinstance(given, str) and len(given) < 1000 else "".join(folders[-1:])
        name = "/".join([*folders[:-1], given, number])
        if name in seen:
            raise ValueError(f"expected layers with different names, got two named {name!r}")
        seen.add(name)
        yield name, dataset


def _is_numeric(dataset: Any) -> bool:
    return dataset.dtype.kind in "biuf" or _is_bfloat16(dataset)


def _is_bfloat16(dataset: Any) -> bool:
    # HDF5 has no such type: h5py writes it as two opaque bytes.
    return dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2 and dataset.dtype.names is None


def _check_sizes(datasets: Mapping[str, Any], file_size: int) -> None:
    """Refuse datasets that would fill memory with numbers that the file does not hold: unwritten, or overcompressed."""
    total = sum(dataset.size * dataset.dtype.itemsize for dataset in datasets.values() if dataset.size)
    if total > EXPANSION * file_size + SLACK:
        raise TensorFileError(f"expected tensors about as large as the file, {file_size} bytes, got {total} bytes")
    for name, dataset in datasets.items():
        if dataset.size and not _is_written(dataset):
            raise ValueError(f"expected numbers in {name!r}, got a dataset that was never written")


def _is_written(dataset: Any) -> bool:
    if dataset.chunks is None:
        return dataset.id.get_storage_size() > 0
    chunks = np.prod([-(-size // step) for size, step in zip(dataset.shape, dataset.chunks, strict=True)])
    return dataset.id.get_num_chunks() == chunks


def _values(dataset: Any) -> np.ndarray:
    values = np.asarray(dataset[()])
    return values.view(ml_dtypes.bfloat16) if _is_bfloat16(dataset) else values
