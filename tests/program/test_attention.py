"""Attention weights as named values: found by their structure, captured and replaced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from vits import HEADS, SIZE, WIDTH, make_vit, vit_params

import jaxviz


@pytest.fixture(scope="module")
def pictures():
    return jax.random.uniform(jax.random.key(0), (2, *SIZE, 3))


def test_numbered_and_captured(pictures):
    params, net = vit_params(), make_vit()
    listed = jaxviz.layers(net, params, pictures)
    assert [name for name in listed if "attention" in name] == ["attention_0", "attention_1"]
    assert listed["attention_1"].shape == (2, HEADS, 7, 7)
    _, values = jaxviz.capture(net, ["norm1", "attention_1"])(params, pictures)
    q, k, _ = jnp.moveaxis((values["norm1"] @ params["blocks"][1]["qkv"]).reshape(2, 7, 3, HEADS, -1), 2, 0)
    expected = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(WIDTH // HEADS))
    np.testing.assert_allclose(values["attention_1"], expected, rtol=1e-5)


@pytest.mark.slow
def test_replaced(pictures):
    """With attention to itself only, no token knows of another."""
    params = vit_params()
    edits = {f"attention_{i}": jnp.eye(7)[None, None] for i in range(2)}
    alone = jaxviz.replace(make_vit(), edits)
    gradients = jax.grad(lambda x: alone(params, x).sum())(pictures)
    np.testing.assert_array_equal(gradients, 0)  # of the class token, which is then all that is read
    assert jnp.abs(jax.grad(lambda x: make_vit()(params, x).sum())(pictures)).max() > 1e-3


def weighted(make):
    """Return a network of tokens whose weights are made in some way, and the weights."""

    def net(params, images):
        x = images.reshape(len(images), -1, 3) @ params
        return make(x, jnp.einsum("nqc,nkc->nqk", x, x)) @ x

    return net


MASK = np.tril(np.ones((96, 96), bool))[None]
ATTENTION = {
    "softmax": lambda x, s: jax.nn.softmax(s),
    "bfloat16": lambda x, s: jax.nn.softmax(s.astype(jnp.bfloat16)).astype(jnp.float32),
    "scaled, biased and capped": lambda x, s: jax.nn.softmax(jnp.tanh(s / 9 + jnp.ones((1, 96, 96))) * 5),
    "masked": lambda x, s: jax.nn.softmax(jnp.where(MASK, s, -jnp.inf)),
    "masked by where": lambda x, s: jax.nn.softmax(s, where=MASK),
    "written out": lambda x, s: jnp.exp(s) / jnp.exp(s).sum(-1, keepdims=True),
    "by the logarithm": lambda x, s: jnp.exp(s - jax.nn.logsumexp(s, axis=-1, keepdims=True)),
    "dropped out": lambda x, s: jax.nn.softmax(s) * (jax.random.bernoulli(jax.random.key(0), 0.5, s.shape) / 0.5),
    "in a jit": lambda x, s: jax.jit(jax.nn.softmax)(s),
    "rematerialized": lambda x, s: jax.checkpoint(jax.nn.softmax)(s),
}
NONE = {
    "sigmoid": lambda x, s: jax.nn.sigmoid(s),
    "ReLU": lambda x, s: jax.nn.relu(s),
    "softmax over queries": lambda x, s: jax.nn.softmax(s, axis=1),
    "softmax over both": lambda x, s: jax.nn.softmax(s, axis=(1, 2)),
}


@pytest.mark.usefixtures("users_promotions")
@pytest.mark.parametrize("name", [*ATTENTION, *NONE])
def test_spellings(name, pictures):
    listed = jaxviz.layers(weighted((ATTENTION | NONE)[name]), jnp.eye(3), pictures)
    assert [each for each in listed if "attention" in each] == ["attention_0"] * (name in ATTENTION)


def test_a_softmax_that_weights_nothing_is_none(pictures):
    """A head, and likeness to other images' embeddings as in CLIP."""
    net = lambda params, x: jax.nn.softmax((x.mean((1, 2)) @ params) @ (x.mean((1, 2)) @ params).T)
    assert list(jaxviz.layers(net, jnp.eye(3), pictures)) == ["dense_0", "dense_1"]


@pytest.mark.usefixtures("users_promotions")
@pytest.mark.slow
def test_nnx(pictures):
    """Named by its module's path, as Flax's own weights."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.patch = nnx.Conv(3, 8, (4, 4), (4, 4), rngs=rngs)
            self.blocks = nnx.List([nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs) for _ in range(2)])
            self.head = nnx.Linear(8, 5, rngs=rngs)

        def __call__(self, x, sow_weights=False):
            x = self.patch(x).reshape(len(x), -1, 8)
            for block in self.blocks:
                x = x + block(x, sow_weights=sow_weights)
            return self.head(x.mean(1))

    model = Model(nnx.Rngs(0))
    graph, state = nnx.split(model)
    net = jaxviz.named(lambda state, images: nnx.merge(graph, state)(images))
    names = [f"blocks/{i}/attention_weights" for i in range(2)]
    assert [name for name in jaxviz.layers(net, state, pictures) if "attention" in name] == names
    _, values = jaxviz.capture(net, [*names, "attention_1"])(state, pictures)
    _, sown = nnx.capture(model, nnx.Intermediate)(pictures, sow_weights=True)
    for name, expected in zip(names, jax.tree.leaves(sown), strict=True):
        np.testing.assert_allclose(values[name].reshape(expected.shape), expected, atol=1e-6)  # jax.vmap adds an axis
    np.testing.assert_array_equal(values["attention_1"], values[names[1]])
    assert jaxviz.grad_cam(jaxviz.logit(net, 1), state, pictures, layer="blocks/1").shape == (2, *SIZE)
    assert jaxviz.attention_rollout(net, state, pictures).shape == (2, *SIZE)


class Block(linen.Module):
    @linen.compact
    def __call__(self, x, _=None):
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(linen.LayerNorm()(x))
        return x + linen.Dense(8)(linen.gelu(linen.Dense(16)(linen.LayerNorm()(x)))), None


class ViT(linen.Module):
    scan: bool

    @linen.compact
    def __call__(self, images):
        x = linen.Conv(8, (4, 4), (4, 4))(images).reshape(len(images), -1, 8)
        token = self.param("cls", linen.initializers.normal(), (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 8)), x], 1)
        if self.scan:
            blocks = linen.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            x, _ = blocks(name="blocks")(x, None)
        else:
            for i in range(2):
                x, _ = Block(name=f"block{i}")(x)
        return linen.Dense(5)(x[:, 0])


@pytest.mark.usefixtures("users_promotions")
@pytest.mark.slow
def test_linen_scanned_and_not(pictures):
    """The same names but for the turn, and the same maps."""
    scanned, plain = ViT(scan=True), ViT(scan=False)
    params = jax.jit(scanned.init)(jax.random.key(1), pictures)["params"]
    apart = {key: value for key, value in params.items() if key != "blocks"}
    apart |= {f"block{i}": jax.tree.map(lambda x, i=i: x[i], params["blocks"]) for i in range(2)}
    results = []
    for net, weights, name in ((scanned.apply, params, "blocks[1]"), (plain.apply, apart, "block1")):
        variables = {"params": weights}
        listed = jaxviz.layers(net, variables, pictures)
        assert f"{name}/attention/attention_weights" in listed
        layer = f"{name}/LayerNorm_0"
        results.append(
            [
                jaxviz.capture(net, f"{name}/attention/attention_weights")(variables, pictures)[1].popitem()[1],
                jaxviz.grad_cam(jaxviz.logit(net, 1), variables, pictures, layer=layer),
                jaxviz.neuron(net, layer, 1, (2, 1))(variables, pictures),
                jaxviz.attention_rollout(net, variables, pictures),
                jaxviz.attention_relevance(jaxviz.logit(net, 1), variables, pictures),
            ]
        )
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
