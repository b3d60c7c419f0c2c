"""The README's lines of glue: each is run with a model of its framework, and gives that framework's own outputs."""

import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz

pytestmark = [pytest.mark.foreign, pytest.mark.usefixtures("users_promotions")]

README = (Path(jaxviz.__file__).parents[1] / "README.md").read_text()
LINES = dict(re.findall(r"^\| ([\w ()]+?) \| `([^`]*net[^`]*)` \|$", README.partition("| model in |")[2], re.M))
KEY = jax.random.key(0)


@pytest.fixture
def pictures():
    return jax.random.uniform(KEY, (2, 32, 32, 3))


def plain(x):
    weights = jax.random.normal(KEY, (3, 5))
    return {"weights": weights}, jax.nn.relu(x @ weights).mean((1, 2)), None


def linen(x):
    nn = pytest.importorskip("flax.linen")
    model = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, lambda x: x.mean((1, 2)), nn.Dense(5)])
    variables = model.init(KEY, x)
    return {"model": model, "variables": variables}, model.apply(variables, x), "layers_0"


def nnx(x):
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(4, 5, rngs=rngs)

        def __call__(self, x):
            return self.head(self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))

    model = Model(nnx.Rngs(0))
    model.eval()
    return {"nnx": nnx, "model": model}, model(x), "norm"


def equinox(x):
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(KEY)
    pool = eqx.nn.Lambda(lambda image: image.mean((1, 2)))
    model = eqx.nn.Sequential([eqx.nn.Conv2d(3, 4, 3, key=keys[0]), pool, eqx.nn.Linear(4, 5, key=keys[1])])
    own = jnp.stack([model(image.transpose(2, 0, 1)) for image in x])
    return {"eqx": eqx, "model": model}, own, "layers/0"


def haiku(x):
    hk = pytest.importorskip("haiku")

    def forward(x, training=False):
        x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(4, 3)(x), is_training=training)
        return hk.Linear(5)(jax.nn.relu(x).mean((1, 2)))

    model = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = model.init(KEY, x, True)
    return {"model": model, "params": params, "state": state}, model.apply(params, state, x)[0], "conv2_d"


def keras(x):
    os.environ["KERAS_BACKEND"] = "jax"
    keras = pytest.importorskip("keras")
    if keras.config.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.ReLU(name="act")]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
    model = keras.Sequential([keras.layers.Input((32, 32, 3)), *layers])
    return {"model": model}, model(x, training=False), "act"


def hugging_face(x):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "FlaxViTForImageClassification"):
        pytest.skip("this version of transformers has no Flax classes")
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.FlaxViTForImageClassification(config, seed=0)
    return {"model": model}, model(np.asarray(x).transpose(0, 3, 1, 2)).logits, None


MODELS = {
    "plain JAX": plain,
    "Flax Linen": linen,
    "Flax NNX": nnx,
    "Equinox": equinox,
    "Haiku": haiku,
    "Keras 3": keras,
    "Hugging Face (Flax)": hugging_face,
}


def test_every_line_is_tested():
    assert set(LINES) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_line_gives_the_frameworks_own_outputs(name, pictures):
    given, own, module = MODELS[name](pictures)
    names = {"jax": jax, "jaxviz": jaxviz, **given}
    exec(LINES[name], names)  # as a user would write it
    net, params = names["net"], names["params"]
    np.testing.assert_allclose(net(params, pictures), own, rtol=1e-5, atol=1e-5)
    map = jaxviz.gradient(jaxviz.logit(net, 1), params, pictures)
    expected = jax.grad(lambda x: net(params, x)[:, 1].sum())(pictures)
    np.testing.assert_allclose(map, expected, rtol=1e-4, atol=1e-6)
    assert float(jnp.abs(map).max()) > 0
    if module is not None:
        assert module in jaxviz.layers(net, params, pictures)
