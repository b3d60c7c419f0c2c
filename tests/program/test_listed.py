"""The table that `layers` prints: kinds, shapes, what units see; and names from flat parameters and made kernels."""

import copy
import html

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.ad_checkpoint import checkpoint_name
from nets import convolve, small_net

import jaxviz

SHAPE = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.result_type(float))


def rows_of(table):
    head, *rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in repr(table).splitlines()]
    assert head == ["name", "kind", "shape", "sees"]
    return {name: rest for name, *rest in rows}


def test_the_table_of_a_network(small_params):
    found = jaxviz.layers(small_net, small_params, SHAPE)
    assert rows_of(found) == {
        "conv_0": ["conv", "2 x 16 x 16 x 8", "3 x 3"],
        "relu_0": ["relu", "2 x 16 x 16 x 8", "3 x 3"],
        "max_pool_0": ["max pool", "2 x 8 x 8 x 8", "4 x 4"],
        "conv_1": ["conv", "2 x 4 x 4 x 6", "8 x 8"],
        "relu_1": ["relu", "2 x 4 x 4 x 6", "8 x 8"],
        "global_avg_pool_0": ["mean", "2 x 6", "16 x 16"],
        "dense_0": ["dense", "2 x 5", "16 x 16"],
    }
    assert len({line.index(" x ") for line in repr(found).splitlines()[1:4]}) == 1  # aligned


def test_what_units_see_is_the_receptive_field(small_params):
    images = jax.ShapeDtypeStruct((1, 64, 48, 3), SHAPE.dtype)
    for name, (_, _, sees) in rows_of(jaxviz.layers(small_net, small_params, images)).items():
        field = jaxviz.receptive_field(small_net, small_params, images, name)
        assert sees == f"{field.size[0]} x {field.size[1]}"


def test_it_is_a_mapping(small_params):
    found = jaxviz.layers(small_net, small_params, SHAPE)
    assert list(found) == ["conv_0", "relu_0", "max_pool_0", "conv_1", "relu_1", "global_avg_pool_0", "dense_0"]
    assert found["relu_1"].shape == (2, 4, 4, 6)
    assert found == dict(found)
    assert found | {} == dict(found)
    assert "conv_9" not in found
    assert found.get("conv_9") is None
    with pytest.raises(KeyError):
        found["conv_9"]
    assert copy.copy(found) == found


def test_the_table_in_a_notebook(small_params):
    net = lambda params, images: checkpoint_name(small_net(params, images), "a<b>&c")
    table = jaxviz.layers(net, small_params, SHAPE)._repr_html_()
    head = "<tr><th>name</th><th>kind</th><th>shape</th><th>sees</th></tr>"
    assert table.startswith(f'<div style="max-height: 30em; overflow: auto"><table>{head}<tr><td>conv_0</td>')
    assert html.escape("a<b>&c") in table
    assert "<b>" not in table
    assert table.count("<tr>") == 8


def test_what_an_interpreter_echoes_is_bounded():
    def net(params, images):
        for i in range(100):
            images = checkpoint_name(images + 1.0, f"layer{i}")
        return images

    found = jaxviz.layers(net, None, SHAPE)
    assert len(found) == 100
    assert len(repr(found).splitlines()) == 61
    assert "\n… 41 more, all of which print(layers) shows …\n" in repr(found)
    assert str(found).splitlines()[:40] == repr(found).splitlines()[:40]
    assert len(str(found).splitlines()) == 101


def test_kinds():
    def net(params, images):
        x = checkpoint_name(jax.nn.sigmoid(convolve(images, params)), "gate")
        x = checkpoint_name(x + images, "sum")
        x = checkpoint_name(
            jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"), "pool"
        )
        return checkpoint_name(jax.nn.relu(x).transpose(0, 3, 1, 2), "relu")

    kinds = {name: row[0] for name, row in rows_of(jaxviz.layers(net, jnp.ones((1, 1, 3, 3)), SHAPE)).items()}
    assert kinds == {
        "conv_0": "conv",
        "gate": "sigmoid",
        "sum": "sum",
        "pool": "max pool",
        "relu": "relu",
        "relu_0": "relu",
    }


def test_what_cannot_be_followed_is_left_blank():
    def net(params, images):
        x = jax.nn.relu(convolve(images, params))
        x = jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: 2 * x, x)
        return jax.nn.relu(x) @ params[0, 0]

    found = rows_of(jaxviz.layers(net, jnp.ones((3, 3, 3, 3)), SHAPE))
    assert found["relu_0"] == ["relu", "2 x 16 x 16 x 3", "3 x 3"]
    assert found["relu_1"] == ["relu", "2 x 16 x 16 x 3"]
    assert found["dense_0"] == ["dense", "2 x 16 x 16 x 3"]


def test_modules(users_promotions):
    module = linen.Sequential([linen.Conv(4, (3, 3)), linen.relu, linen.Dense(2)])
    params = jax.eval_shape(module.init, jax.random.key(0), SHAPE)
    kinds = {name: row[0] for name, row in rows_of(jaxviz.layers(module.apply, params, SHAPE)).items()}
    assert kinds["layers_0"] == "conv"
    assert kinds["layers_2"] == "dense"


# Parameters as other libraries keep them.

FLAT = {
    "torch": ("layer1.0.conv1.weight", "layer1.0.conv1"),
    "keras": ("resnet/conv1/kernel", "resnet/conv1"),
    "flax": ("params/Block_0/Conv_1/kernel", "Block_0/Conv_1"),
    "tuple": (("params", "Block_0", "Conv_1", "kernel"), "Block_0/Conv_1"),
}


@pytest.mark.parametrize(("key", "path"), FLAT.values(), ids=FLAT)
def test_flat_dictionaries_have_paths(key, path, images):
    net = lambda params, images: jax.nn.relu(convolve(images, params[key]))
    params = {key: jax.random.normal(jax.random.key(0), (3, 3, 3, 2))}
    _, found = jaxviz.capture(net, path)(params, images)
    np.testing.assert_array_equal(found[path], convolve(images, params[key]))


def test_flat_dictionaries_within_others(images):
    net = lambda params, images: convolve(images, params["backbone"]["layer1.0.weight"])
    params = {"backbone": {"layer1.0.weight": jnp.ones((3, 3, 3, 2))}}
    assert "backbone/layer1.0" in jaxviz.capture(net, "backbone/layer1.0")(params, images)[1]


def standardized(p):
    w = p["kernel"]
    return (w - w.mean((0, 1, 2), keepdims=True)) / jnp.sqrt(w.var((0, 1, 2), keepdims=True) + 1e-5)


def spectral(p):
    w = p["kernel"].reshape(-1, p["kernel"].shape[-1])
    u = p["u"] / jnp.linalg.norm(p["u"])
    v = w.T @ u
    return p["kernel"] / jnp.linalg.norm(v)


MADE = {
    "cast": lambda p: p["kernel"].astype(jnp.bfloat16).astype(p["kernel"].dtype),
    "weight standardization": standardized,
    "spectral normalization": spectral,
    "scaled by another parameter": lambda p: p["kernel"] * p["gamma"].reshape(1, 1, 1, -1),
    "transposed": lambda p: p["torchs"].transpose(2, 3, 1, 0),
    "masked": lambda p: jnp.where(p["kernel"] > 0, p["kernel"], 0.1 * p["kernel"]),
    "low rank beside": lambda p: p["kernel"] + (p["a"] @ p["b"]).reshape(3, 3, 3, 4),
}


@pytest.mark.parametrize("kernel", MADE.values(), ids=MADE)
def test_kernels_that_are_made_of_a_parameter_have_its_path(kernel, images):
    keys = iter(jax.random.split(jax.random.key(0), 9))
    shapes = {"kernel": (3, 3, 3, 4), "torchs": (4, 3, 3, 3), "u": (27,), "gamma": (4,), "a": (27, 2), "b": (2, 4)}
    layer = {name: jax.random.normal(next(keys), shape) for name, shape in shapes.items()}
    net = lambda params, images: jax.nn.relu(convolve(images, kernel(params["block"]["conv"])))
    _, found = jaxviz.capture(net, "block/conv")({"block": {"conv": layer}}, images)
    np.testing.assert_allclose(found["block/conv"], convolve(images, kernel(layer)), atol=1e-4)


def test_a_kernel_made_of_several_like_it_has_no_path(images):
    net = lambda params, images: convolve(images, params["a"]["w"] + params["b"]["w"])
    params = {name: {"w": jnp.ones((3, 3, 3, 2))} for name in "ab"}
    with pytest.raises(ValueError, match="no layer 'a'"):
        jaxviz.capture(net, "a")(params, images)
    assert "conv_0" in jaxviz.capture(net, "conv_0")(params, images)[1]
