"""Weight files made by hand, without torch: what must be read, and what must be refused."""

import collections
import io
import os
import pickle
import struct
import zipfile

import h5py
import ml_dtypes
import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
import safetensors.numpy

from jaxviz.models._tensors import TensorFileError, UnsafeFileError, read_tensors

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}


class Global:
    """A name that a pickle asks for, written without importing anything."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """What a pickle asks to be called."""

    def __init__(self, module, name, *arguments):
        self.function, self.arguments = Global(module, name), arguments


class Storage:
    """The numbers of a tensor, kept outside of the pickle; `view` is (start, length), as torch < 0.4 wrote it."""

    def __init__(self, array, key="0", view=None):
        self.array, self.key, self.view = np.asarray(array), key, view


class Pickler(pickle._Pickler):
    """Writes what torch's pickles hold; the pure Python pickler lets names be written that do not exist here."""

    dispatch = pickle._Pickler.dispatch.copy()

    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.legacy, self.storages = legacy, {}

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        self.storages[obj.key] = obj.array
        pid = ("storage", Global("torch", STORAGES[obj.array.dtype.name]), obj.key, "cpu", obj.array.size)
        return (*pid, obj.view and ("view", *obj.view)) if self.legacy else pid

    def save_global_name(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_call(self, obj):
        self.save(obj.function)
        self.save(tuple(obj.arguments))
        self.write(pickle.REDUCE)

    dispatch[Global] = save_global_name
    dispatch[Call] = save_call


def pickled(obj, legacy):
    stream = io.BytesIO()
    pickler = Pickler(stream, legacy)
    pickler.dump(obj)
    return stream.getvalue(), pickler.storages


def write_zip(path, obj, byteorder=b"little", compression=zipfile.ZIP_STORED):
    data, storages = pickled(obj, legacy=False)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", data)
        archive.writestr("net/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"net/data/{key}", array.tobytes())
    return path


def write_legacy(path, obj, little_endian=True):
    data, storages = pickled(obj, legacy=True)
    header = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": little_endian}]
    with path.open("wb") as file:
        file.writelines(pickle.dumps(value, protocol=2) for value in header)
        file.write(data)
        file.write(pickle.dumps(list(storages), protocol=2))
        for array in storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())
    return path


def tensor(storage, shape, strides, offset=0, function="_rebuild_tensor_v2"):
    rest = () if function == "_rebuild_tensor" else (False, collections.OrderedDict())
    return Call("torch._utils", function, storage, offset, shape, strides, *rest)


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])
NUMBERS = np.arange(12, dtype=np.float32)


@WRITERS
@pytest.mark.parametrize("dtype", STORAGES)
def test_torch_dtypes(tmp_path, write, dtype):
    array = np.arange(6).astype(getattr(ml_dtypes, dtype, dtype))
    read = read_tensors(write(tmp_path / "w.pth", {"a": tensor(Storage(array), (2, 3), (3, 1))}))
    assert read["a"].dtype == array.dtype
    np.testing.assert_array_equal(read["a"], array.reshape(2, 3))


@WRITERS
def test_torch_strides_offsets_and_shared_storage(tmp_path, write):
    storage = Storage(NUMBERS)
    state = {
        "whole": tensor(storage, (3, 4), (4, 1)),
        "transposed": tensor(storage, (4, 3), (1, 4)),
        "column": tensor(storage, (3,), (4,), offset=3),
        "scalar": tensor(storage, (), (), offset=11),
        "expanded": tensor(storage, (2, 4), (0, 1)),
        "empty": tensor(storage, (0, 4), (4, 1), offset=12),
        "one": tensor(storage, (1, 4), (10**30, 1)),
    }
    read = read_tensors(write(tmp_path / "w.pth", state))
    whole = NUMBERS.reshape(3, 4)
    np.testing.assert_array_equal(read["whole"], whole)
    np.testing.assert_array_equal(read["transposed"], whole.T)
    np.testing.assert_array_equal(read["column"], whole[:, 3])
    assert read["scalar"] == 11
    assert read["scalar"].shape == ()
    np.testing.assert_array_equal(read["expanded"], np.stack([whole[0]] * 2))
    assert read["empty"].shape == (0, 4)
    np.testing.assert_array_equal(read["one"], whole[:1])
    assert np.shares_memory(read["whole"], read["transposed"])


@WRITERS
def test_torch_parameters_and_the_oldest_rebuild(tmp_path, write):
    inner = tensor(Storage(NUMBERS), (12,), (1,))
    state = collections.OrderedDict(
        weight=Call("torch._utils", "_rebuild_parameter", inner, True, collections.OrderedDict()),
        old=tensor(Storage(NUMBERS), (12,), (1,), function="_rebuild_tensor"),
    )
    read = read_tensors(write(tmp_path / "w.pth", state))
    assert list(read) == ["weight", "old"]
    np.testing.assert_array_equal(read["weight"], NUMBERS)
    np.testing.assert_array_equal(read["old"], NUMBERS)


def test_legacy_views_of_storages(tmp_path):
    state = {"a": tensor(Storage(NUMBERS, view=(4, 6)), (3,), (2,), offset=1)}
    np.testing.assert_array_equal(read_tensors(write_legacy(tmp_path / "w.pth", state))["a"], [5, 7, 9])
    state = {"a": tensor(Storage(NUMBERS, view=(4, 6)), (7,), (1,))}
    with pytest.raises(TensorFileError, match="inside of its storage of 6 numbers"):
        read_tensors(write_legacy(tmp_path / "w.pth", state))


@WRITERS
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_checkpoints_give_their_network(tmp_path, write, key):
    weight = {"module.a.weight": tensor(Storage(NUMBERS, "1"), (12,), (1,))}
    momentum = {0: {"momentum": tensor(Storage(NUMBERS.astype(np.float16), "0"), (12,), (1,))}}
    checkpoint = {"epoch": 3, "optimizer": {"state": momentum}, key: weight}
    assert list(read_tensors(write(tmp_path / "w.pth", checkpoint))) == ["a.weight"]


@WRITERS
def test_nested_names_are_joined(tmp_path, write):
    state = {"model": "VGG", "nets": [{"a": tensor(Storage(NUMBERS), (12,), (1,))}]}
    assert list(read_tensors(write(tmp_path / "w.pth", state))) == ["nets.0.a"]


@WRITERS
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((13,), (1,), 0),
        ((1,), (1,), 12),
        ((2, 4), (9, 1), 0),
        ((3,), (2**62,), 0),  # whose product with the item size wraps around in 64 bits
        ((2**40, 2**40), (0, 0), 0),  # no memory could hold it
        ((1,), (1,), -4),
        ((2,), (-1,), 1),
        ((2, 2), (1,), 0),
        (("2",), (1,), 0),
    ],
)
def test_tensors_outside_of_their_storage_are_refused(tmp_path, write, shape, strides, offset):
    path = write(tmp_path / "w.pth", {"a": tensor(Storage(NUMBERS), shape, strides, offset)})
    with pytest.raises(TensorFileError, match="cannot be read as one"):
        read_tensors(path)


class Exploit:
    """What an attacker writes: the pickle runs a command when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_an_exploit_is_refused_and_not_executed(tmp_path, legacy, first):
    proof, path = tmp_path / "executed", tmp_path / "w.pth"
    payload = pickle.dumps({"a": Exploit(f"touch {proof}")}, protocol=2)
    pickle.loads(payload)
    assert proof.exists(), "the exploit must work where nothing stops it"
    proof.unlink()

    if legacy:
        header = [] if first else [pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, {"little_endian": True})]
        path.write_bytes(b"".join([*header, payload]))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", payload)
    with pytest.raises(UnsafeFileError, match=rf"refused and not executed.*{os.system.__module__}\.system"):
        read_tensors(path)
    assert not proof.exists()


@WRITERS
@pytest.mark.parametrize(
    ("module", "name"),
    [("builtins", "eval"), ("collections", "OrderedDict.fromkeys"), ("torch", "load"), ("torch._utils", "os.system")],
)
def test_other_names_are_refused(tmp_path, write, module, name):
    with pytest.raises(UnsafeFileError, match=rf"asks for the Python object {module}\.{name}"):
        read_tensors(write(tmp_path / "w.pth", {"a": Call(module, name, "1")}))


@pytest.mark.parametrize("state", [{"__call__": 1}, (None, {"__call__": 1})])
@pytest.mark.parametrize(
    "target", [("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage"), ("collections", "OrderedDict")]
)
def test_what_a_pickle_may_name_cannot_be_altered(tmp_path, target, state):
    # BUILD gives an object a state: its attributes are set to values that the pickle chooses.
    program = pickle.PROTO + b"\2" + pickle.GLOBAL + "{}\n{}\n".format(*target).encode()
    program += pickle.dumps(state, protocol=2)[2:-1] + pickle.BUILD + pickle.STOP
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", program)
    with pytest.raises(TensorFileError, match=r"AttributeError|TypeError"):
        read_tensors(path)


def test_endless_structures_are_refused(tmp_path):
    loop = []
    loop.append(loop)
    with pytest.raises(TensorFileError, match="holds itself or the same part again and again"):
        read_tensors(write_zip(tmp_path / "w.pth", loop))


def test_big_endian_and_compressed_storages_are_refused(tmp_path):
    state = {"a": tensor(Storage(NUMBERS), (12,), (1,))}
    with pytest.raises(TensorFileError, match="little-endian"):
        read_tensors(write_zip(tmp_path / "w.pth", state, byteorder=b"big"))
    with pytest.raises(TensorFileError, match="little-endian"):
        read_tensors(write_legacy(tmp_path / "w.pth", state, little_endian=False))
    with pytest.raises(TensorFileError, match="uncompressed"):
        read_tensors(write_zip(tmp_path / "w.pth", state, compression=zipfile.ZIP_DEFLATED))


def write_h5(path):
    with h5py.File(path, "w") as file:
        file["block1_conv1/block1_conv1_W_1:0"] = NUMBERS.reshape(3, 4)
        file["block1_conv1/block1_conv1/bias:0"] = NUMBERS
        file["names"] = "text is no tensor"
    return path


def write_onnx(path):
    initializers = [onnx.numpy_helper.from_array(NUMBERS.reshape(3, 4), "conv/W:0")]
    graph = onnx.helper.make_graph([], "net", [], [], initializers)
    onnx.save(onnx.helper.make_model(graph), str(path))
    return path


def write_safetensors(path):
    half = NUMBERS.astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"a": NUMBERS.reshape(3, 4), "b": half}, str(path))
    return path


def write_pth(path):
    return write_zip(path, {"a": tensor(Storage(NUMBERS), (3, 4), (4, 1))})


def write_old_pth(path):
    return write_legacy(path, {"a": tensor(Storage(NUMBERS), (3, 4), (4, 1))})


def test_h5_by_path(tmp_path):
    read = read_tensors(write_h5(tmp_path / "w.h5"))
    assert set(read) == {"block1_conv1/block1_conv1_W_1:0", "block1_conv1/block1_conv1/bias:0"}
    np.testing.assert_array_equal(read["block1_conv1/block1_conv1_W_1:0"], NUMBERS.reshape(3, 4))


def test_onnx_initializers_by_name(tmp_path):
    np.testing.assert_array_equal(read_tensors(write_onnx(tmp_path / "w"))["conv/W:0"], NUMBERS.reshape(3, 4))


def test_safetensors_by_name(tmp_path):
    read = read_tensors(str(write_safetensors(tmp_path / "w")))
    np.testing.assert_array_equal(read["a"], NUMBERS.reshape(3, 4))
    assert read["b"].dtype == ml_dtypes.bfloat16


def test_tensors_in_other_files_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(NUMBERS.tobytes())
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("a", (12,), "float32", external=[(str(secret), 0, 48)])
    initializer = onnx.numpy_helper.from_array(NUMBERS, "a")
    initializer.ClearField("raw_data")
    initializer.data_location = onnx.TensorProto.EXTERNAL
    initializer.external_data.add(key="location", value="secret")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "net", [], [], [initializer]))
    (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
    for name in ("w.h5", "w.onnx"):
        with pytest.raises(TensorFileError, match="got 'a' in another file"):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize("write", [write_pth, write_old_pth, write_h5, write_onnx, write_safetensors])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.98])
def test_truncated_files_are_refused(tmp_path, write, fraction):
    path = write(tmp_path / "w")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(TensorFileError, match=r"cannot be read as one .* fetch it again"):
        read_tensors(path)


def test_a_damaged_zip_is_refused(tmp_path):
    path = write_pth(tmp_path / "w")
    data = path.read_bytes()
    assert NUMBERS.tobytes() in data
    path.write_bytes(data.replace(NUMBERS.tobytes(), NUMBERS[::-1].tobytes()))
    with pytest.raises(TensorFileError, match="CRC"):
        read_tensors(path)


def test_unknown_formats_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"\x05\x06 what nobody knows")
    with pytest.raises(TensorFileError, match=r"expected weights .*an HDF5 file.*, which begins with b'\\x05\\x06"):
        read_tensors(path)


@WRITERS
def test_files_without_tensors_are_refused(tmp_path, write):
    with pytest.raises(TensorFileError, match="expected tensors in"):
        read_tensors(write(tmp_path / "w.pth", {"epoch": 3}))


def test_other_pickles_and_archives_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"a": [1]}, protocol=2))
    with pytest.raises(TensorFileError, match=r"expected a pickle written by torch\.save"):
        read_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(TensorFileError, match="a zip archive of other things, readme"):
        read_tensors(path)


def test_a_missing_file_is_just_that(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.pth")
