"""Files that torch and Keras themselves wrote, in each of their formats, against what they hold in memory."""

import argparse
import collections
import os
import pathlib

import numpy as np
import pytest

from jaxviz.models._tensors import UnsafeFileError, read_tensors

torch = pytest.importorskip("torch")

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved(obj, path, zipped):
    torch.save(obj, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_same(path, state):
    read = read_tensors(path)
    assert list(read) == list(state)
    for name, tensor in state.items():
        expected = tensor.detach()
        if expected.dtype == torch.bfloat16:
            assert read[name].dtype.name == "bfloat16"
            np.testing.assert_array_equal(read[name].view(np.int16), expected.contiguous().view(torch.int16).numpy())
        else:
            assert read[name].dtype == expected.numpy().dtype
            np.testing.assert_array_equal(read[name], expected.numpy())


@FORMATS
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_dtypes(tmp_path, zipped, dtype):
    generator = torch.Generator().manual_seed(0)
    state = {"a": (100 * torch.rand(3, 5, generator=generator)).to(getattr(torch, dtype))}
    assert_same(saved(state, tmp_path / "w.pth", zipped), state)


@FORMATS
def test_views_and_shared_storage(tmp_path, zipped):
    whole = torch.arange(120.0).reshape(2, 3, 4, 5)
    state = {
        "whole": whole,
        "permuted": whole.permute(3, 1, 0, 2),
        "slice": whole[1:, ::2, 1:3, ::4],
        "diagonal": whole[0, 0].diagonal(),
        "scalar": whole[1, 2, 3, 4],
        "expanded": whole[:1].expand(7, 3, 4, 5),
        "empty": whole[:0],
        "channels_last": whole.contiguous(memory_format=torch.channels_last),
        "bfloat16": whole.bfloat16().transpose(0, 3),
    }
    assert_same(saved(state, tmp_path / "w.pth", zipped), state)


@FORMATS
def test_a_module(tmp_path, zipped):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(4, 2).half())
    assert_same(saved(module.state_dict(), tmp_path / "w.pth", zipped), module.state_dict())
    parameters = dict(module.named_parameters())
    assert_same(saved(parameters, tmp_path / "w.pth", zipped), parameters)


@FORMATS
def test_a_training_checkpoint(tmp_path, zipped):
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 1, "optimizer": optimizer.state_dict(), "state_dict": module.state_dict()}
    assert_same(saved(checkpoint, tmp_path / "w.pth", zipped), module.state_dict())


@FORMATS
def test_a_pickled_module_is_refused(tmp_path, zipped):
    with pytest.raises(UnsafeFileError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_tensors(saved(torch.nn.Linear(4, 2), tmp_path / "w.pth", zipped))


@FORMATS
def test_harmless_things_beside_the_weights(tmp_path, zipped):
    module = torch.nn.Linear(4, 2)
    record = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("a")),
        "device": torch.device("cuda", 0),
        "size": torch.Size([1, 2]),
        "dtype": torch.bfloat16,
        "best": np.float64(0.5),
        "history": np.arange(3.0),
        "counts": collections.Counter("abc"),
        "lists": collections.defaultdict(list, a=[1]),
        "rng": (torch.get_rng_state(), np.random.RandomState(0).get_state()),
    }
    assert_same(saved({"state_dict": module.state_dict(), **record}, tmp_path / "w.pth", zipped), module.state_dict())


@FORMATS
@pytest.mark.filterwarnings("ignore")  # torch's own
def test_wrapped_modules(tmp_path, zipped):
    module = torch.nn.Sequential(torch.nn.Linear(4, 2))
    for wrapped in (torch.compile(module), torch.nn.DataParallel(module), torch.nn.DataParallel(torch.compile(module))):
        assert_same(saved(wrapped.state_dict(), tmp_path / "w.pth", zipped), module.state_dict())


def keras_model(keras, dtype="float32"):
    """Two blocks as VGG's, trained for a step, so that its file has an optimizer's moments, too."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(4, 3, name="block1_conv1", dtype=dtype),
        keras.layers.Conv2D(5, 3, name="block1_conv2", dtype=dtype),
        keras.layers.GlobalAveragePooling2D(dtype=dtype),
    ]
    base = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="base")
    model = keras.Sequential([keras.Input((8, 8, 3)), base, keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.ones((2, 8, 8, 3)), np.ones((2, 2)), verbose=0)
    return model, base


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["m.h5", "m.keras", "m.weights.h5"])
@pytest.mark.filterwarnings("ignore")
def test_a_trained_keras_model(tmp_path, form, dtype):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    model, base = keras_model(keras, dtype)
    (model.save_weights if form == "m.weights.h5" else model.save)(tmp_path / form)
    read = read_tensors(tmp_path / form)
    assert not any("momentum" in name or "adam" in name for name in read)
    for name in ("block1_conv1", "block1_conv2"):
        kernel, bias = (np.asarray(values, np.float32) for values in base.get_layer(name).get_weights())
        (found,) = (tensor for key, tensor in read.items() if name in key and tensor.ndim == 4)
        np.testing.assert_array_equal(np.asarray(found, np.float32), kernel)
        (found,) = (tensor for key, tensor in read.items() if name in key and tensor.ndim == 1)
        np.testing.assert_array_equal(np.asarray(found, np.float32), bias)
