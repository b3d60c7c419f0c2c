"""Networks as people write them in Flax: all that its own capture of outputs gives, and the gradients of pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx, traverse_util

import jaxviz

pytestmark = pytest.mark.usefixtures("users_promotions")


@pytest.fixture
def pictures():
    return jnp.asarray(np.random.default_rng(0).uniform(size=(2, 16, 16, 3)))


class Residual(linen.Module):
    """A block of a residual network; its normalizations use what was measured in training."""

    width: int
    stride: int = 1

    @linen.compact
    def __call__(self, x, train):
        norm = functools.partial(linen.BatchNorm, use_running_average=not train)
        y = linen.relu(norm()(linen.Conv(self.width, (3, 3), self.stride, use_bias=False)(x)))
        y = norm()(linen.Conv(self.width, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm(name="norm_across")(linen.Conv(self.width, (1, 1), self.stride, use_bias=False, name="across")(x))
        return linen.relu(x + y)


class ResNet(linen.Module):
    @linen.compact
    def __call__(self, x, train=True):
        x = linen.Conv(4, (3, 3), 2, use_bias=False, name="stem")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, name="stem_norm")(x))
        x = linen.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for width, stride in ((4, 1), (8, 2)):
            x = Residual(width, stride)(x, train)
        return linen.Dense(5)(x.mean((1, 2)))


class Encoder(nnx.Module):
    """A block of a transformer."""

    def __init__(self, rngs):
        self.before, self.after = (nnx.LayerNorm(8, rngs=rngs) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.mlp = nnx.Sequential(nnx.Linear(8, 12, rngs=rngs), nnx.gelu, nnx.Linear(12, 8, rngs=rngs))
        self.drop = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        x = x + self.drop(self.attention(self.before(x)))
        return x + self.drop(self.mlp(self.after(x)))


class ViT(nnx.Module):
    """Takes the class token's features, and returns all tokens too."""

    def __init__(self, rngs):
        self.patches = nnx.Conv(3, 8, (4, 4), (4, 4), rngs=rngs)
        self.token, self.places = nnx.Param(jnp.zeros((1, 1, 8))), nnx.Param(jnp.zeros((1, 17, 8)))
        self.blocks = nnx.List([Encoder(rngs) for _ in range(2)])
        self.norm, self.head = nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, images):
        x = self.patches(images).reshape(len(images), 16, 8)
        x = jnp.concatenate([jnp.tile(self.token[...], (len(x), 1, 1)), x], 1) + self.places[...]
        for block in self.blocks:
            x = block(x)
        tokens = self.norm(x)
        return {"logits": self.head(tokens[:, 0]), "tokens": tokens}


class Twice(nnx.Module):
    """Two convolutions with their ReLUs."""

    def __init__(self, before, after, rngs):
        self.first = nnx.Conv(before, after, (3, 3), rngs=rngs)
        self.second = nnx.Conv(after, after, (3, 3), rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.second(nnx.relu(self.first(x))))


class UNet(nnx.Module):
    """Returns a map of scores; one sum of them for each class is what the tests differentiate."""

    def __init__(self, rngs):
        self.down = nnx.List([Twice(3, 4, rngs), Twice(4, 8, rngs), Twice(8, 16, rngs)])
        self.up = nnx.List([nnx.ConvTranspose(2 * n, n, (2, 2), (2, 2), rngs=rngs) for n in (8, 4)])
        self.joined = nnx.List([Twice(2 * n, n, rngs) for n in (8, 4)])
        self.out = nnx.Conv(4, 5, (1, 1), rngs=rngs)

    def __call__(self, x):
        skips = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else nnx.max_pool(x, (2, 2), (2, 2)))
            skips.append(x)
        for up, block, skip in zip(self.up, self.joined, skips[1::-1], strict=True):
            x = block(jnp.concatenate([skip, up(x)], -1))
        return {"logits": self.out(x).mean((1, 2)), "map": x}


class Wide(nnx.Module):
    """A block of a ConvNeXt."""

    def __init__(self, rngs):
        self.depthwise = nnx.Conv(6, 6, (7, 7), feature_group_count=6, rngs=rngs)
        self.norm, self.scale = nnx.LayerNorm(6, rngs=rngs), nnx.Param(jnp.full(6, 1e-6))
        self.first, self.second = nnx.Linear(6, 24, rngs=rngs), nnx.Linear(24, 6, rngs=rngs)

    def __call__(self, x):
        hidden = nnx.gelu(self.first(self.norm(self.depthwise(x))), approximate=False)
        return x + self.scale * self.second(hidden)


class ConvNeXt(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Sequential(nnx.Conv(3, 6, (4, 4), (4, 4), rngs=rngs), nnx.LayerNorm(6, rngs=rngs))
        self.blocks = nnx.List([Wide(rngs) for _ in range(2)])
        self.norm, self.head = nnx.LayerNorm(6, rngs=rngs), nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean((1, 2))))


def of_random_numbers(tree):
    """Return the tree with numbers instead of its floats, so that no scale is 1, no shift 0; all positive."""
    numbers = np.random.default_rng(1)
    is_float = lambda x: hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    fill = lambda x: jnp.asarray(numbers.uniform(0.5, 1.5, x.shape) - (0.98 if x.ndim > 1 else 0.0), x.dtype)
    return jax.tree.map(lambda x: fill(x) if is_float(x) else x, tree)


def named_by_path(found, model):
    """Return what a framework captured, `{(*path, "__call__"): (what each call returned, ...)}`, as jaxviz names it."""
    named = {}
    for (*path, _), calls in found.items():
        for turn, returned in enumerate(calls):
            arrays = jax.tree_util.tree_flatten_with_path(returned)[0]
            for keys, array in arrays:
                part = "".join(f".{key.key}" for key in keys) if len(arrays) > 1 else ""
                number = f":{turn}" if len(calls) > 1 else ""
                named["/".join(map(str, path)) + part + number if path else model + part] = array
    return named


def of_linen(model):
    variables = of_random_numbers(
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones((1, 16, 16, 3)), train=False))
    )

    def own(variables, images):
        returned, state = model.apply(variables, images, train=False, capture_intermediates=True)
        return returned, named_by_path(traverse_util.flatten_dict(state["intermediates"]), type(model).__name__)

    return functools.partial(model.apply, train=False), variables, own


def of_nnx(model):
    def made():
        module = model(nnx.Rngs(0))
        module.eval()
        return module

    graph, state = nnx.split(nnx.eval_shape(made))

    def own(state, images):
        module = nnx.merge(graph, state)
        returned, found = nnx.capture(module, nnx.Intermediate, method_outputs=nnx.Intermediate)(images)
        calls = {path: outputs.get_value() for path, outputs in nnx.to_flat_state(found)}
        return returned, named_by_path(calls, model.__name__)

    return jaxviz.named(lambda state, images: nnx.merge(graph, state)(images)), of_random_numbers(state), own


NETS = {
    "Linen ResNet": (of_linen, ResNet(), 16),
    "NNX ViT": (of_nnx, ViT, 31),
    "NNX U-Net": (of_nnx, UNet, 20),
    "NNX ConvNeXt": (of_nnx, ConvNeXt, 16),
}


@pytest.fixture(params=list(NETS))
def built(request, users_promotions):
    """Return a network, its parameters, the framework's own capture, and how many outputs that is to have."""
    kind, model, count = NETS[request.param]
    return *kind(model), count


def test_every_output_is_named_and_equal(built, pictures):
    net, params, own, count = built
    returned, expected = jax.jit(own)(params, pictures)
    assert len(expected) == count
    assert set(expected) <= set(jaxviz.layers(net, params, pictures))
    outputs, values = jax.jit(jaxviz.capture(net, list(expected)))(params, pictures)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), outputs, returned)
    for name, value in expected.items():
        assert float(jnp.std(value)) > 0
        np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_gradients_of_pixels(built, pictures):
    net, params, own, _ = built
    shape = jax.eval_shape(net, params, pictures)
    logits = (lambda returned: returned["logits"]) if isinstance(shape, dict) else lambda returned: returned
    score = jaxviz.logit(net, 1, output="logits" if isinstance(shape, dict) else None)
    expected = jax.jit(jax.grad(lambda x: logits(own(params, x)[0])[:, 1].sum()))(pictures)
    scale = float(jnp.abs(expected).max())
    assert scale > 0
    np.testing.assert_allclose(jaxviz.gradient(score, params, pictures), expected, atol=1e-5 * scale, rtol=0)
