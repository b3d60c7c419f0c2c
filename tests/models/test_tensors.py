"""Weight files made by hand, without torch: what must be read, and what must be refused."""

import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
import shutil
import struct
import time
import tracemalloc
import types
import zipfile

import flax.serialization
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
    with pytest.raises(TensorFileError, match="inside its storage of 6 numbers"):
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
    with pytest.raises(UnsafeFileError, match=rf"got a request for the Python object {module}\.{name}"):
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
    with pytest.raises(TensorFileError, match="contains itself or repeats the same part many times"):
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
    with pytest.raises(TensorFileError, match=r"expected weights .*an HDF5 file.*, which starts with b'\\x05\\x06"):
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
    with pytest.raises(TensorFileError, match=r"a zip archive of other files \(readme"):
        read_tensors(path)


def test_a_missing_file_is_just_that(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.pth")


# What takes no longer than its file is large


def doubled(depth=40, innermost=()):
    """Return a tuple of itself, twice at each level: a few bytes for 2 ** depth parts."""
    for _ in range(depth):
        innermost = (innermost, innermost)
    return innermost


def bomb(opcodes):
    """Return a checkpoint whose pickle has some steps before its tensor."""
    return pickle.PROTO + b"\2" + opcodes


SMALL_BUT_ENDLESS = {
    "a tuple of itself": pickle.dumps({"a": doubled()}, 2),
    "a tuple of itself as the state dict": pickle.dumps({"state_dict": {"model": doubled()}}, 2),
    "a list of itself": pickle.dumps((lambda a: a.append(a) or a)([]), 2),
    "a wide list of a wide list": pickle.dumps((lambda a: [[[a] * 300] * 300] * 300)(list(range(300))), 2),
    "deep": bomb(b"]" * 20000 + b"a" * 19999 + b"."),
    # (  {  ( ( ( ... 40 times twice  : as a key, whose hash would take as long
    "a tuple of itself as a key": bomb(b"}" + b")" + b"2\x86" * 40 + b"K\1s."),
    "a tuple of itself in a set": bomb(b"cbuiltins\nset\n](" + b")" + b"2\x86" * 40 + b"e\x85R."),
    "a tuple of itself as a storage": bomb(b")" + b"2\x86" * 40 + b"Q."),
    "a memory of 2 ** 32 places, 34 GB": bomb(b"}r\xff\xff\xff\xff."),
    "a text of 2 ** 60 letters": bomb(b"\x8d" + struct.pack("<Q", 2**60) + b"."),
    "bytes of 2 ** 60": bomb(b"\x96" + struct.pack("<Q", 2**60) + b"."),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL_BUT_ENDLESS)
@pytest.mark.parametrize("legacy", [False, True])
def test_small_pickles_that_would_take_for_ever(tmp_path, case, legacy):
    path, data = tmp_path / "w.pth", SMALL_BUT_ENDLESS[case]
    if legacy:
        header = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(value, protocol=2) for value in header) + data)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", data)
    start = time.process_time()
    with pytest.raises(TensorFileError):
        read_tensors(path)
    assert time.process_time() - start < 20


@WRITERS
def test_tensors_larger_than_their_file_are_refused(tmp_path, write):
    path = write(tmp_path / "w.pth", {"a": tensor(Storage(NUMBERS), (2**14, 2**14), (0, 0))})
    with pytest.raises(TensorFileError, match="no larger than its file"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shape": (2**34,), "dtype": "f4", "chunks": (2**20,)}, "about as large as the file"),
        ({"shape": (2**15, 2**15), "dtype": "f8", "fillvalue": 1.0}, "about as large as the file"),
        ({"data": np.zeros(2**24, "f4"), "compression": "gzip"}, "about as large as the file"),
        ({"shape": (1000,), "dtype": "f4"}, "never written"),
    ],
)
def test_small_h5_files_that_promise_much(tmp_path, options, text):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("block1_conv1/kernel", **options)
    tracemalloc.start()
    with pytest.raises(TensorFileError, match=text):
        read_tensors(tmp_path / "w.h5")
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


# What lies beside the weights


HARMLESS = {
    "numpy scalars": [np.float64(0.5), np.int64(3), np.arange(3)],
    "Counter": collections.Counter("abc"),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "Namespace": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b")),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "sets": [{1, 2}, frozenset({3}), {("a", 1)}],
    "times": [datetime.datetime(2020, 1, 2), datetime.timedelta(1)],
    "bytes and complex": [b"\xff\0", bytearray(b"ab"), 1j, slice(1, 2), range(3)],
    "an OrderedDict": collections.OrderedDict(a=1),
    "a device": Call("torch", "device", "cuda", 0),
    "a size": Call("torch", "Size", [1, 2]),
    "a dtype": Global("torch", "bfloat16"),
}


@WRITERS
@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_things_beside_the_weights(tmp_path, write, case):
    state = {"a": tensor(Storage(NUMBERS), (12,), (1,))}
    read = read_tensors(write(tmp_path / "w.pth", {"args": HARMLESS[case], "state_dict": state}))
    assert list(read) == ["a"]
    np.testing.assert_array_equal(read["a"], NUMBERS)


def nested(*names, state=None):
    state = {"a.weight": tensor(Storage(NUMBERS), (12,), (1,))} if state is None else state
    for name in reversed(names):
        state = {name: state}
    return state


@WRITERS
@pytest.mark.parametrize(
    "names",
    "state_dict model_state_dict model net network params ema module weights state_dict_ema model.state_dict".split(),
)
def test_wrappers(tmp_path, write, names):
    checkpoint = {"epoch": 3, "optimizer": {"state": nested("0")}} | nested(*names.split("."))
    assert list(read_tensors(write(tmp_path / "w.pth", checkpoint))) == ["a.weight"]


@WRITERS
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "network."])
def test_prefixes(tmp_path, write, prefix):
    state = {f"{prefix}{name}": tensor(Storage(NUMBERS), (12,), (1,)) for name in ("a.weight", "b.bias")}
    assert list(read_tensors(write(tmp_path / "w.pth", state))) == ["a.weight", "b.bias"]
    state["c"] = tensor(Storage(NUMBERS), (12,), (1,))
    assert f"{prefix}a.weight" in read_tensors(write(tmp_path / "w.pth", state))


@WRITERS
def test_several_networks_are_refused_until_one_is_named(tmp_path, write):
    other = {"a.weight": tensor(Storage(-NUMBERS, "1"), (12,), (1,))}
    path = write(tmp_path / "w.pth", nested("state_dict") | nested("state_dict_ema", state=other))
    with pytest.raises(TensorFileError, match=r"with state_dict and state_dict_ema: .* --part state_dict"):
        read_tensors(path)
    np.testing.assert_array_equal(read_tensors(path, part="state_dict_ema")["a.weight"], -NUMBERS)
    with pytest.raises(TensorFileError, match="expected a part 'ema' in the file, got state_dict, state_dict_ema"):
        read_tensors(path, part="ema")


@WRITERS
def test_an_optimizer_alone_is_refused(tmp_path, write):
    state = {"state": {0: {"exp_avg": tensor(Storage(NUMBERS), (12,), (1,))}}, "param_groups": [{"lr": 0.1}]}
    for checkpoint in (state, {"optimizer": state, "epoch": 3}):
        with pytest.raises(TensorFileError, match="got only an optimizer's state"):
            read_tensors(write(tmp_path / "w.pth", checkpoint))


@WRITERS
@pytest.mark.parametrize("state", [{"a.b": 0, "a": {"b": 0}}, {1: 0, "1": 0}])
def test_a_name_that_matches_twice_is_an_error(tmp_path, write, state):
    numbers = tensor(Storage(NUMBERS), (12,), (1,))
    state = {name: {"b": numbers} if isinstance(value, dict) else numbers for name, value in state.items()}
    with pytest.raises(TensorFileError, match="got two named"):
        read_tensors(write(tmp_path / "w.pth", state))


# Keras


def attributes(group, attribute, names):
    group.attrs[attribute] = [name.encode() for name in names]


def write_keras(path, *, compiled=True, top="model_weights"):
    """Write what Keras 2 saves of a model with one layer, compiled or not."""
    with h5py.File(path, "w") as file:
        group = file.create_group(top) if top else file
        attributes(group, "layer_names", ["input_1", "block1_conv1"])
        attributes(group.create_group("input_1"), "weight_names", [])
        layer = group.create_group("block1_conv1")
        attributes(layer, "weight_names", ["block1_conv1/kernel:0", "block1_conv1/bias:0"])
        layer["block1_conv1/kernel:0"], layer["block1_conv1/bias:0"] = NUMBERS.reshape(3, 4), NUMBERS[:4]
        if compiled:
            moments = file.create_group("optimizer_weights")
            attributes(moments, "weight_names", ["training/Adam/block1_conv1/kernel/m:0"])
            moments["training/Adam/block1_conv1/kernel/m:0"] = -NUMBERS.reshape(3, 4)
    return path


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("top", ["model_weights", ""])
def test_keras_gives_the_models_own_weights(tmp_path, compiled, top):
    read = read_tensors(write_keras(tmp_path / "w.h5", compiled=compiled, top=top))
    assert sorted(read) == ["block1_conv1/block1_conv1/bias:0", "block1_conv1/block1_conv1/kernel:0"]
    np.testing.assert_array_equal(read["block1_conv1/block1_conv1/kernel:0"], NUMBERS.reshape(3, 4))


def test_links_to_other_files_are_not_followed(tmp_path):
    path = write_keras(tmp_path / "w.h5")
    secret = write_h5(tmp_path / "secret.h5")
    with h5py.File(path, "r+") as file:
        del file["model_weights/block1_conv1/block1_conv1/bias:0"]
        file["model_weights/block1_conv1/block1_conv1/bias:0"] = h5py.ExternalLink(str(secret), "block1_conv1")
    assert list(read_tensors(path)) == ["block1_conv1/block1_conv1/kernel:0"]


def write_keras3(file):
    """Write the weights of a model of two convolutions, as Keras 3 does, after training."""
    with h5py.File(file, "w") as root:
        for path, name, values in (("layers/conv2d", "block1_conv1", NUMBERS), ("layers/conv2d_1", "", -NUMBERS)):
            group = root.create_group(f"{path}/vars")
            group["0"], group["1"] = values.reshape(3, 4), values[:4]
            if name:
                group.attrs["name"] = name
        for folder in ("optimizer", "layers/functional/optimizer"):
            moments = root.create_group(f"{folder}/vars")
            moments["2"], moments.attrs["name"] = 9 * NUMBERS.reshape(3, 4), "block1_conv1"
    return file


@pytest.mark.parametrize("zipped", [False, True])
def test_keras_3(tmp_path, zipped):
    path = write_keras3(tmp_path / "m.weights.h5")
    if zipped:
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
            archive.writestr("config.json", "{}")
            archive.write(path, "model.weights.h5")
        path = tmp_path / "m.keras"
    read = read_tensors(path)
    assert list(read) == [f"layers/{layer}/{i}" for layer in ("block1_conv1", "conv2d_1") for i in (0, 1)]
    np.testing.assert_array_equal(read["layers/block1_conv1/0"], NUMBERS.reshape(3, 4))


def test_keras_bfloat16(tmp_path):
    path = write_keras(tmp_path / "w.h5", compiled=False)
    half = NUMBERS.astype(ml_dtypes.bfloat16)
    with h5py.File(path, "r+") as file:
        del file["model_weights/block1_conv1/block1_conv1/kernel:0"]
        file["model_weights/block1_conv1"].create_dataset("block1_conv1/kernel:0", data=half)
    np.testing.assert_array_equal(read_tensors(path)["block1_conv1/block1_conv1/kernel:0"], half)


def test_a_keras_archive_that_unpacks_to_much_more(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(1 << 24))
    with pytest.raises(TensorFileError, match="about as large as"):
        read_tensors(path)


# Flax and Orbax


TREE = {
    "params": {"conv": {"kernel": NUMBERS.reshape(3, 4), "bias": NUMBERS[:4].astype(ml_dtypes.bfloat16)}},
    "step": 3,
}


def assert_tree(read):
    assert sorted(read) == ["conv.bias", "conv.kernel"]
    np.testing.assert_array_equal(read["conv.kernel"], TREE["params"]["conv"]["kernel"])
    np.testing.assert_array_equal(read["conv.bias"], TREE["params"]["conv"]["bias"])


def test_flax_msgpack(tmp_path):
    path = tmp_path / "m.msgpack"
    moments = {"opt_state": {"mu": {"conv": {"kernel": -NUMBERS}}}}
    for tree in (TREE, TREE["params"], TREE | moments):
        path.write_bytes(flax.serialization.msgpack_serialize(tree))
        assert_tree(read_tensors(path))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TensorFileError, match="starts like a Flax msgpack file but cannot be read"):
        read_tensors(path)


@pytest.fixture(scope="module")
def orbax_folder(tmp_path_factory):
    import orbax.checkpoint

    path = tmp_path_factory.mktemp("orbax") / "checkpoint"
    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, TREE)
    return path


def test_orbax(orbax_folder, tmp_path):
    assert_tree(read_tensors(orbax_folder))
    path = tmp_path / "steps"
    shutil.copytree(orbax_folder, path / "10")
    assert_tree(read_tensors(path))
    shutil.copytree(orbax_folder, path / "9")
    with pytest.raises(TensorFileError, match=r"got several steps: name one, such as .*10"):
        read_tensors(path)


def test_orbax_never_leads_outside_of_its_folder(orbax_folder, tmp_path):
    path = shutil.copytree(orbax_folder, tmp_path / "checkpoint")
    (path / "d" / "link").symlink_to("/etc/passwd")
    with pytest.raises(TensorFileError, match="got a link or a special file"):
        read_tensors(path)


def test_orbax_with_a_file_missing_is_an_error_and_not_zeros(orbax_folder, tmp_path):
    path = shutil.copytree(orbax_folder, tmp_path / "checkpoint")
    for file in path.rglob("d/*"):
        file.unlink()
    with pytest.raises(TensorFileError, match="starts like an Orbax folder but cannot be read"):
        read_tensors(path)


# Whole files of another kind


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return stream.getvalue()


OTHERS = {
    "an empty file": b"",
    "a web page": b"\n<!DOCTYPE html><html>404 not found</html>",
    "a Git LFS pointer.*git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
    "a JSON document": b'{"metadata": {"total_size": 3}, "weight_map": {}}',
    "a JPEG image": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "a PNG image": b"\x89PNG\r\n\x1a\n\0\0",
    r"a NumPy array \(\.npy\)": b"\x93NUMPY\1\0",
    r"NumPy arrays \(\.npz\)": zipped("a.npy", "b.npy"),
    "a gzip archive: unpack it first": b"\x1f\x8b\x08\0",
    "a tar archive": bytes(257) + b"ustar",
    "a TorchScript program.*state_dict": zipped("m/data.pkl", "m/constants.pkl", "m/code/a.py"),
    "a zip archive of other files .word/document.xml": zipped("word/document.xml"),
    "a Python wheel": zipped("a/net.pth", "a-1.dist-info/METADATA"),
    "w.pth, part of a TensorFlow checkpoint": bytes(40) + bytes.fromhex("57fb808b247547db"),
    "TensorFlow's list of checkpoints": b'model_checkpoint_path: "model.ckpt"',
    "a GGUF file": b"GGUF\3\0\0\0",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_whole_files_of_another_kind_are_called_by_their_name(tmp_path, kind):
    path = tmp_path / "w.pth"
    path.write_bytes(OTHERS[kind])
    with pytest.raises(TensorFileError, match=rf"(?s)expected weights.*, got .*{kind}") as error:
        read_tensors(path)
    assert "truncated" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["saved_model.pb"], "a TensorFlow SavedModel"),
        (["model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001"], "a TensorFlow checkpoint"),
        (["config.json", "model.safetensors"], "import one of them, such as .*model.safetensors"),
        (["notes.txt"], "a folder that Orbax did not write"),
    ],
)
def test_folders_of_another_kind(tmp_path, names, text):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(TensorFileError, match=f"expected weights, got .*{text}"):
        read_tensors(tmp_path)


def test_onnx_names_that_match_twice(tmp_path):
    initializers = [onnx.numpy_helper.from_array(NUMBERS, "conv/W:0") for _ in range(2)]
    graph = onnx.helper.make_graph([], "net", [], [], initializers)
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "w"))
    with pytest.raises(TensorFileError, match=r"expected unique names in .*, got 'conv/W:0' several times"):
        read_tensors(tmp_path / "w")
