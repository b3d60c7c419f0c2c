"""Values in the turns of a scan: as in the same network with its loop written out in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from nets import convolve

import jaxviz

TURNS = 3


def block(params, x):
    return checkpoint_name(x + jax.nn.relu(convolve(x, params["conv"]["kernel"])), "block")


def head(params, x):
    return x.mean((1, 2)) @ params["head"]["kernel"]


def scanned(params, images):
    x, means = jax.lax.scan(lambda x, p: (block(p, x), x.mean()), images, params["blocks"])
    return head(params, x) + means.mean()


def backward(params, images):
    return head(params, jax.lax.scan(lambda x, p: (block(p, x), None), images, params["blocks"], reverse=True)[0])


def rematted(params, images):
    body = jax.checkpoint(lambda x, p: (block(p, x), None))
    return head(params, jax.jit(lambda: jax.lax.scan(body, images, params["blocks"]))()[0])


def written_out(order=range(TURNS), *, means=False):
    def net(params, images):
        x, found = images, []
        for turn in order:
            found.append(x.mean())
            x = checkpoint_name(
                x + jax.nn.relu(convolve(x, params["blocks"]["conv"]["kernel"][turn])), f"block[{turn}]"
            )
        return head(params, x) + (jnp.stack(found).mean() if means else 0)

    return net


NETS = {
    "scan": (scanned, written_out(means=True), range(TURNS)),
    "in reverse": (backward, written_out(range(TURNS)[::-1]), range(TURNS)[::-1]),
    "remat in jit": (rematted, written_out(), range(TURNS)),
}


@pytest.fixture(params=list(NETS))
def pair(request):
    return NETS[request.param]


@pytest.fixture
def params(x64):
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "blocks": {"conv": {"kernel": 0.3 * jax.random.normal(keys[0], (TURNS, 3, 3, 3, 3))}},
        "head": {"kernel": jax.random.normal(keys[1], (3, 5))},
    }


@pytest.fixture
def pictures(x64):
    return jax.random.uniform(jax.random.key(2), (2, 6, 6, 3))


def close(first, second):
    np.testing.assert_allclose(first, second, rtol=1e-10, atol=1e-10)


def test_listed_in_the_order_of_turns(pair, params, pictures):
    net, _, order = pair
    expected = [name.format(t) for t in order for name in ("blocks/conv[{}]", "scan_0[{}]/relu_0", "block[{}]")]
    assert list(jaxviz.layers(net, params, pictures)) == [*expected, "global_avg_pool_0", "dense_0"]


def test_captured(pair, params, pictures):
    net, plain, order = pair
    names = [f"block[{turn}]" for turn in order]
    outputs, values = jax.jit(jaxviz.capture(net, [*names, "blocks/conv[1]", "scan_0[1]/conv_0"]))(params, pictures)
    expected, by_hand = jaxviz.capture(plain, [*names, f"conv_{list(order).index(1)}"])(params, pictures)
    close(outputs, expected)
    for name in names:
        close(values[name], by_hand[name])
    close(values["blocks/conv[1]"], by_hand[f"conv_{list(order).index(1)}"])
    close(values["blocks/conv[1]"], values["scan_0[1]/conv_0"])


def test_replaced_and_still_named(pair, params, pictures):
    net, plain, _ = pair
    changes = {"block[1]": lambda x: x.at[:, 0].set(0.5)}
    close(jaxviz.replace(net, changes)(params, pictures), jaxviz.replace(plain, changes)(params, pictures))
    for wrap in (jax.jit, lambda fn: fn):
        _, values = wrap(jaxviz.capture(jaxviz.replace(net, changes), ["block[1]", "scan_0[1]/relu_0"]))(
            params, pictures
        )
        _, by_hand = jaxviz.capture(jaxviz.replace(plain, changes), "block[1]")(params, pictures)
        close(values["block[1]"], by_hand["block[1]"])


METHODS = {
    "guided backprop": lambda net, *args: jaxviz.guided_backprop(jaxviz.logit(net, 1), *args),
    "grad-cam": lambda net, *args: jaxviz.grad_cam(jaxviz.logit(net, 1), *args, layer="block[1]"),
    "lrp": lambda net, *args: jaxviz.lrp(jaxviz.logit(net, 1), *args, rule="gamma").maps,
    "a score": lambda net, *args: jaxviz.gradient(jaxviz.channel(net, "block[1]", 2), *args),
}


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.slow
def test_methods(pair, method, params, pictures):
    net, plain, _ = pair
    found, expected = (METHODS[method](each, params, pictures) for each in (net, plain))
    assert np.abs(expected).max() > 0
    close(found, expected)


def test_loops_in_loops(pictures):
    def net(params, images):
        inner = lambda x, w: (checkpoint_name(x * w, "stage/block/product"), None)
        outer = lambda x, ws: (checkpoint_name(jax.lax.scan(inner, x, ws)[0] + 1, "stage/sum"), None)
        return jax.lax.scan(outer, images, params)[0].mean((1, 2))

    factors = jnp.arange(1.0, 7.0).reshape(2, 3)
    names = list(jaxviz.layers(net, factors, pictures))
    assert names[:4] == [*(f"stage[0]/block/product[{i}]" for i in range(3)), "stage[0]/sum"]
    _, values = jaxviz.capture(net, names)(factors, pictures)
    close(values["stage[0]/block/product[2]"], pictures * 6)
    close(values["stage[1]/block/product[0]"], (pictures * 6 + 1) * 4)


def test_the_name_without_a_turn_is_refused(params, pictures):
    with pytest.raises(ValueError, match=r"no layer 'block'; did you mean 'block\[2\]' or 'block\[1\]'"):
        jaxviz.capture(scanned, "block")(params, pictures)


def test_a_long_loop_stays_one(pictures):
    net = lambda _, x: jax.lax.scan(lambda x, _: (checkpoint_name(x / 2, "turn"), None), x, None, length=129)[0]
    with pytest.raises(ValueError, match="'turn' is inside a `scan`"):
        jaxviz.capture(net, "turn")(None, pictures)


def test_a_loop_that_nothing_is_asked_of_stays_one(params, pictures):
    program = jax.make_jaxpr(jaxviz.capture(scanned, "dense_0"))(params, pictures)
    assert "scan" in [str(eqn.primitive) for eqn in program.jaxpr.eqns]
