"""Modules' outputs by their paths, compared with what the frameworks themselves give for intermediates."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxviz

pytestmark = pytest.mark.usefixtures("users_promotions")  # frameworks promote ranks


class Mlp(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(x.shape[-1])(linen.gelu(linen.Dense(8)(x)))


class Block(linen.Module):
    @linen.compact
    def __call__(self, x):
        hidden = linen.LayerNorm()(x)
        x = x + linen.MultiHeadDotProductAttention(2)(hidden, hidden, sow_weights=True)
        return x + Mlp()(linen.LayerNorm()(x))


class Turn(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return Block(name="inner")(x), None


class ViT(linen.Module):
    scan: bool = False
    wrap: str = ""

    @linen.compact
    def __call__(self, images):
        x = linen.Conv(6, (4, 4), (4, 4), name="patch")(images)
        x = x.reshape(len(x), -1, 6)
        if self.scan:
            stacked = linen.scan(Turn, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            x, _ = stacked(name="blocks")(x, None)
        else:
            block = getattr(linen, self.wrap)(Block) if self.wrap else Block
            for i in range(2):
                x = block(name=f"block{i}")(x)
        return {"logits": linen.Dense(5, name="head")(linen.LayerNorm(name="norm")(x).mean(1)), "tokens": x}


@pytest.fixture
def pictures():
    return jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))


def outputs_of_linen(model, variables, images):
    """Return what Linen itself gives, by the names that are expected; attention weights too."""
    _, state = model.apply(variables, images, capture_intermediates=True)
    found = {}
    for path, value in jax.tree_util.tree_flatten_with_path(state["intermediates"])[0]:
        keys = [key.key for key in path if hasattr(key, "key")]
        if keys[-1] == "attention_weights":
            found["/".join(keys), *()] = value
            continue
        at = keys.index("__call__")
        found["/".join(keys[:at]) or type(model).__name__, *keys[at + 1 :]] = value
    return {".".join(("/".join((place,)), *rest)): value for (place, *rest), value in found.items()}


@pytest.mark.parametrize("wrap", ["", "remat", "jit"])
def test_linen(wrap, pictures):
    model = ViT(wrap=wrap)
    variables = model.init(jax.random.key(1), pictures)
    expected = outputs_of_linen(ViT(), variables, pictures)
    jax.jit(model.apply)(variables, pictures)  # what was traced before is no obstacle
    between = {"gelu_0", "gelu_1", "add_0", "add_2", "global_avg_pool_0"}  # what is no module's
    assert set(jaxviz.layers(model.apply, variables, pictures)) == {*expected, *between}
    outputs, values = jaxviz.capture(model.apply, list(expected))(variables, pictures)
    assert len(values) == 29
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(outputs["logits"], model.apply(variables, pictures)["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_linen_scanned(pictures):
    model, plain = ViT(scan=True), ViT()
    variables = model.init(jax.random.key(1), pictures)
    apart = {key: value for key, value in variables["params"].items() if key != "blocks"}
    for i in range(2):
        apart[f"block{i}"] = jax.tree.map(lambda x, i=i: x[i], variables["params"]["blocks"]["inner"])
    expected = outputs_of_linen(plain, {"params": apart}, pictures)
    expected = {
        name.replace("block0", "blocks[0]/inner").replace("block1", "blocks[1]/inner"): value
        for name, value in expected.items()
    }
    listed = jaxviz.layers(model.apply, variables, pictures)
    between = {"global_avg_pool_0", *(f"scan_0[{i}]/{name}" for i in range(2) for name in ("gelu_0", "add_0"))}
    assert set(listed) == {*expected, "blocks[0]", "blocks[1]", *between}
    _, values = jaxviz.capture(model.apply, list(listed))(variables, pictures)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(values["blocks[1]"], values["blocks[1]/inner"])


def test_numbers_and_paths_of_parameters_stay_valid(pictures):
    model = ViT()
    variables = model.init(jax.random.key(1), pictures)
    plain = lambda variables, images: model.apply(variables, images)["logits"]
    numbers = [name for name in jaxviz.layers(plain, variables, pictures)]
    assert numbers[0] == "conv_0"
    _, values = jaxviz.capture(jaxviz.named(plain), [*numbers, "patch"])(variables, pictures)
    for name, value in jaxviz.capture(plain, numbers)(variables, pictures)[1].items():
        np.testing.assert_array_equal(values[name], value)
    np.testing.assert_array_equal(values["patch"], values["conv_0"])


class Residual(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.mlp = nnx.Sequential(nnx.Linear(6, 8, rngs=rngs), nnx.gelu, nnx.Linear(8, 6, rngs=rngs))

    def __call__(self, x):
        return x + self.mlp(self.norm(x))


class Rematted(Residual):
    @nnx.remat
    def __call__(self, x):
        return Residual.__call__(self, x)


class Jitted(Residual):
    @nnx.jit
    def __call__(self, x):
        return Residual.__call__(self, x)


class Stack(nnx.Module):
    def __init__(self, rngs, block):
        self.stem = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.blocks = nnx.List([block(rngs) for _ in range(2)])
        self.pool = nnx.Dropout(0.0, rngs=rngs)

    def __call__(self, images):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.pool(x).mean((1, 2))


class Scanned(Stack):
    def __init__(self, rngs, block):
        super().__init__(rngs, block)
        self.blocks = nnx.split_rngs(splits=2)(nnx.vmap(block))(rngs)

    def __call__(self, images):
        turn = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.pool(turn(self.stem(images), self.blocks)).mean((1, 2))


@pytest.mark.parametrize("block", [Residual, Rematted, Jitted])
def test_nnx(block, pictures):
    model = Stack(nnx.Rngs(0), block)
    graph, state = nnx.split(model)
    net = lambda state, images: nnx.merge(graph, state)(images)
    net(state, pictures)
    expected = {"stem": model.stem(pictures)}
    x = expected["stem"]
    for i, each in enumerate(model.blocks):
        expected[f"blocks/{i}/norm"] = each.norm(x)
        expected[f"blocks/{i}/mlp/layers/0"] = each.mlp.layers[0](each.norm(x))
        expected[f"gelu_{i}"] = nnx.gelu(expected[f"blocks/{i}/mlp/layers/0"])
        expected[f"blocks/{i}/mlp/layers/2"] = expected[f"blocks/{i}/mlp"] = each.mlp(each.norm(x))
        expected[f"blocks/{i}"] = x = each(x)
    expected |= {"pool": x, "Stack": model(pictures)}
    assert list(jaxviz.layers(jaxviz.named(net), state, pictures)) == list(expected)
    _, values = jaxviz.capture(jaxviz.named(net), list(expected))(state, pictures)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_nnx_scanned(pictures):
    model = Scanned(nnx.Rngs(0), Residual)
    graph, state = nnx.split(model)
    net = jaxviz.named(lambda state, images: nnx.merge(graph, state)(images))
    layers = list(jaxviz.layers(net, state, pictures))
    parts = ("blocks[{}]/norm", "blocks[{}]/mlp/layers/0", "scan_0[{}]/gelu_0", "blocks[{}]/mlp/layers/2")
    blocks = [name.format(i) for i in range(2) for name in (*parts, "blocks[{}]/mlp", "blocks[{}]")]
    assert layers == ["stem", *blocks, "pool", "Scanned"]
    _, values = jaxviz.capture(net, layers)(state, pictures)
    x = model.stem(pictures)
    stacked = nnx.split(model.blocks)
    for i in range(2):
        x = nnx.merge(stacked[0], jax.tree.map(lambda leaf, i=i: leaf[i], stacked[1]))(x)
        np.testing.assert_allclose(values[f"blocks[{i}]"], x, rtol=1e-5, atol=1e-5)


class WithMethod(Stack):
    def scores(self, state, images):
        return nnx.merge(nnx.graphdef(self), state)(images)


def test_a_models_own_method_needs_no_call_of_named(pictures):
    model = ViT()
    variables = model.init(jax.random.key(1), pictures)
    names = list(jaxviz.layers(model.apply, variables, pictures))
    assert "block1/MultiHeadDotProductAttention_0" in names
    for net in (
        jax.jit(model.apply),
        functools.partial(model.apply, rngs=None),
        jax.jit(functools.partial(jax.jit(model.apply), rngs=None)),
        jaxviz.named(model.apply),
        jax.jit(jaxviz.named(model.apply)),
    ):
        assert list(jaxviz.layers(net, variables, pictures)) == names
    stack = WithMethod(nnx.Rngs(0), Residual)
    named = jaxviz.named(lambda state, images: stack.scores(state, images))
    state = nnx.state(stack)
    assert list(jaxviz.layers(stack.scores, state, pictures)) == list(jaxviz.layers(named, state, pictures))
    assert "blocks/1/mlp" in jaxviz.layers(stack.scores, state, pictures)


def test_a_models_method_that_runs_no_module_is_an_ordinary_network(pictures):
    class Plain(nnx.Module):
        def scores(self, params, images):
            return images.mean((1, 2)) @ params

    assert list(jaxviz.layers(Plain().scores, jnp.ones((3, 4), jnp.float32), pictures)) == ["dense_0"]


def test_a_module_that_is_called_twice_has_its_calls_numbered(pictures):
    class Twice(linen.Module):
        @linen.compact
        def __call__(self, x):
            dense = linen.Dense(3, name="dense")
            return dense(dense(x)).mean((1, 2))

    model = Twice()
    variables = model.init(jax.random.key(0), pictures)
    assert list(jaxviz.layers(model.apply, variables, pictures)) == ["dense:0", "dense:1", "Twice"]
    with pytest.raises(ValueError, match="'dense' is used 2 times"):
        jaxviz.capture(model.apply, "dense")(variables, pictures)


def test_scores_and_grad_cam_find_modules(pictures):
    model = linen.Sequential([linen.Conv(4, (3, 3)), linen.GroupNorm(2), linen.gelu, lambda x: x.mean((1, 2))])
    variables = model.init(jax.random.key(1), pictures)
    values = outputs_of_linen(model, variables, pictures)["layers_1"]
    score = jaxviz.channel(model.apply, "layers_1", 2)
    np.testing.assert_allclose(score(variables, pictures), values[..., 2].mean((1, 2)), rtol=1e-4, atol=1e-5)
    maps = jaxviz.grad_cam(jaxviz.logit(model.apply, 1), variables, pictures, layer="layers_1")
    slopes = jax.grad(lambda x: linen.gelu(x).mean((1, 2))[:, 1].sum())(values)
    weighted = (slopes.mean((1, 2), keepdims=True) * values).sum(-1)
    np.testing.assert_allclose(maps, jax.nn.relu(weighted), rtol=1e-4, atol=1e-6)


def test_the_classes_are_as_before(pictures):
    before = {cls: cls.__dict__["__call__"] for cls in (Residual, Stack, nnx.Linear)}
    graph, state = nnx.split(Stack(nnx.Rngs(0), Residual))

    def failing(state, images):
        nnx.merge(graph, state)(images)
        raise RuntimeError("on its way")

    with pytest.raises(RuntimeError, match="on its way"):
        jaxviz.layers(jaxviz.named(failing), state, pictures)
    assert all(cls.__dict__["__call__"] is call for cls, call in before.items())


def test_other_threads_see_no_names(pictures):
    graph, state = nnx.split(Stack(nnx.Rngs(0), Residual))
    found = []

    def net(state, images):
        model = nnx.merge(graph, state)
        dense = lambda x: nnx.Linear(3, 3, rngs=nnx.Rngs(0))(x)
        other = lambda: found.append(str(jax.make_jaxpr(dense)(jnp.ones(3, jnp.float32))))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return model(images)

    jaxviz.layers(jaxviz.named(net), state, pictures)
    assert len(found) == 1
    assert "jaxviz" not in found[0]


def test_nothing_to_name_is_an_error(pictures):
    with pytest.raises(ValueError, match=r"named: no module of Flax, Equinox, Haiku or Keras ran.*checkpoint_name"):
        jaxviz.layers(jaxviz.named(lambda _, images: images.mean((1, 2))), None, pictures)
