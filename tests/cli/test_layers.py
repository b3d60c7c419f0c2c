"""`jaxviz layers`: a table of what has a name."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxviz
from jaxviz import cli
from jaxviz.program._listing import listed

# Networks are written here as users write them.
pytestmark = pytest.mark.usefixtures("users_promotions")

FILE = """
import jax
import jax.numpy as jnp
import jaxviz
from flax import linen

class Block(linen.Module):
    @linen.compact
    def __call__(self, x):
        y = linen.relu(linen.BatchNorm(use_running_average=True)(linen.Conv(8, (3, 3))(x)))
        return x + linen.Conv(8, (3, 3))(y)

class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = Block(name="[red]<b>")(linen.Conv(8, (3, 3), strides=2)(x))
        x = linen.max_pool(linen.gelu(linen.LayerNorm()(x)), (2, 2), (2, 2))
        return linen.softmax(linen.Dense(4)(linen.avg_pool(x, (2, 2)).mean((1, 2))))

def load():
    model = Net()
    params = model.init(jax.random.key(0), jnp.ones((1, 16, 16, 3)))
    return jaxviz.Network(model.apply, params, size=16)
"""


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_compile_cache", lambda: None)  # leave this process's settings alone
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my", raising=False)
    Path("my.py").write_text(FILE)


def rows(shown):
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    return {name: rest for name, *rest in cells}


def test_a_table(capsys):
    cli.main("layers --model my.py:load".split())
    shown = capsys.readouterr().out
    table = rows(shown)
    assert list(table)[:2] == ["Conv_0", "[red]<b>/Conv_0"]
    assert table["Conv_0"] == ["conv", "1 x 8 x 8 x 8", "3 x 3"]
    assert table["[red]<b>/BatchNorm_0"] == ["normalization", "1 x 8 x 8 x 8", "7 x 7"]
    assert table["[red]<b>"] == ["sum", "1 x 8 x 8 x 8", "11 x 11"]
    assert table["relu_0"][:2] == ["relu", "1 x 8 x 8 x 8"]
    assert table["LayerNorm_0"] == ["normalization", "1 x 8 x 8 x 8", "11 x 11"]
    assert table["Dense_0"] == ["dense", "1 x 4", "16 x 16"]
    assert table["Net"] == ["softmax", "1 x 4", "16 x 16"]
    assert "my.py:load: " in shown
    assert "layers, for one image of 16 x 16 pixels." in shown


def test_at_another_size(capsys):
    cli.main("layers --model my.py:load --size 32".split())
    assert rows(capsys.readouterr().out)["Conv_0"][:2] == ["conv", "1 x 16 x 16 x 8"]


KINDS = {
    "max pool": lambda x, w: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "mean pool": lambda x, w: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4,
    "mean": lambda x, w: x.mean((1, 2)),
    "max": lambda x, w: x.max((1, 2)),
    "dense": lambda x, w: x @ w,
    "activation": lambda x, w: jax.nn.gelu(x @ w),
    "sigmoid": lambda x, w: jax.nn.sigmoid(x @ w),
    "sum": lambda x, w: x + jnp.sin(x),
    "attention product": lambda x, w: jnp.einsum("nhwc,nhwd->ncd", x, x),
    "normalization": lambda x, w: jax.nn.standardize(x) * 2 + 1,
    "softmax": lambda x, w: jax.nn.softmax(x),
    "concatenation": lambda x, w: jnp.concatenate([x, 2 * x], -1),
    "relu": lambda x, w: jax.nn.relu(x @ w),
    "product": lambda x, w: 0.5 * x,
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind, images, users_promotions):
    def net(w, x):
        return jax.ad_checkpoint.checkpoint_name(KINDS[kind](x @ w, w), "it").reshape(2, -1) @ jnp.ones((1, 1)).repeat(
            KINDS[kind](x @ w, w).size // 2, 0
        )

    found = {layer.name: layer.kind for layer in listed(net, jnp.eye(3), images)}
    assert found["it"] == kind


def test_layouts(images, users_promotions):
    def net(w, x):
        name = jax.ad_checkpoint.checkpoint_name
        first = name(jnp.transpose(x, (0, 3, 1, 2)), "channels first")
        tokens = name(first.reshape(2, 3, -1).transpose(0, 2, 1), "tokens")
        return name(tokens.mean(1), "vector") @ w

    found = {layer.name: layer for layer in listed(net, jnp.eye(3), images)}
    assert [found[name].layout for name in ("channels first", "tokens", "vector")] == ["map", "tokens", "vector"]
    assert found["channels first"].place == (2, 3)
    assert list(found) == list(jaxviz.layers(net, jnp.eye(3), images))
