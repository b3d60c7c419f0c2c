"""Attention rollout, gradient-weighted relevance and AttnLRP against their papers' formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import convolve
from vits import HEADS, PATCH, SIZE, WIDTH, attention, blocks, embedded, make_vit, normalized, vit_params

import jaxviz

TOLERANCE = 1e-12  # of float64, relative to a map's largest value


def same_as(found, expected):
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())


def case(extra=1, count=2):
    images = jnp.asarray(np.random.default_rng(3).random((count, *SIZE, 3)))
    return vit_params(extra, dtype=np.float64), images


def weights_of(net, params, images, count=2):
    names = [f"attention_{i}" for i in range(count)]
    values = jaxviz.capture(net, names)(params, images)[1]
    return [np.asarray(values[name]) for name in names]


def enlarged(rows, front, images):
    """Return a row of tokens without those in front of the patches, and behind them, at the size of the images."""
    small = rows[:, front : front + 6].reshape(-1, 3, 2)
    return np.asarray(jax.image.resize(jnp.asarray(small), (len(small), *images.shape[1:3]), "linear"))


# Networks whose class token, mean over patches or mean over everything is read; which rows, and where patches begin.
READ = {
    "class token": (make_vit("class"), 1, [0], 1),
    "class token in front of registers": (make_vit("class"), 3, [0], 3),
    "registers behind": (make_vit("class", front=1), 3, [0], 1),
    "mean of all": (make_vit("mean"), 1, range(7), 1),
    "mean of patches": (make_vit("patches"), 2, range(2, 8), 2),
    "no class token": (make_vit("mean"), 0, range(6), 0),
}


def rollout(weights, fuse=lambda w: w.mean(1), discard=0.0):
    """Abnar & Zuidema's formula, and what the code that is commonly used (jacobgil/vit-explain) discards."""
    result = np.eye(weights[0].shape[-1])[None]
    for each in weights:
        fused = fuse(each).copy()
        for image in fused:
            flat = image.reshape(-1)
            lowest = np.argsort(flat)[: int(flat.size * discard)]
            flat[lowest[lowest != 0]] = 0
        half = (fused + np.eye(fused.shape[-1])) / 2
        result = half / half.sum(-1, keepdims=True) @ result
    return result


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", READ)
@pytest.mark.slow
def test_rollout(name):
    net, extra, read, front = READ[name]
    params, images = case(extra)
    expected = rollout(weights_of(net, params, images))[:, list(read)].mean(1)
    same_as(jaxviz.attention_rollout(net, params, images), enlarged(expected, front, images))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("fusion", "discard"), [("max", 0.0), ("min", 0.0), ("max", 0.6)])
@pytest.mark.slow
def test_fusion_and_discard(fusion, discard):
    params, images = case()
    fuse = lambda weights: getattr(np, fusion)(weights, 1)
    expected = rollout(weights_of(make_vit(), params, images), fuse, discard)[:, 0]
    found = jaxviz.attention_rollout(make_vit(), params, images, fusion=fusion, discard=discard)
    same_as(found, enlarged(expected, 1, images))


def relevance(net, params, images, target):
    """Chefer, Gur & Wolf's rule for self-attention; the gradient by JAX, of the network with weights added to."""
    weights = weights_of(net, params, images)
    result = np.eye(weights[0].shape[-1])[None]
    for i, each in enumerate(weights):
        moved = lambda delta, i=i: jaxviz.replace(net, {f"attention_{i}": lambda w: w + delta})(params, images)
        slopes = jax.grad(lambda delta, moved=moved: moved(delta)[:, target].sum())(jnp.zeros(each.shape))
        result = result + np.maximum(np.asarray(slopes) * each, 0).mean(1) @ result
    return result


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["class token in front of registers", "mean of patches"])
@pytest.mark.slow
def test_relevance(name):
    net, extra, read, front = READ[name]
    params, images = case(extra)
    several = jaxviz.attention_relevance(jaxviz.logit(net, jnp.array([[1, 3]])), params, images)
    for i, target in enumerate((1, 3)):
        expected = relevance(net, params, images, target)[:, list(read)].mean(1)
        same_as(several[:, i], enlarged(expected, front, images))
    assert np.abs(several[:, 0] - several[:, 1]).max() > 1e-4


def probed(params, images):
    """Pool tokens by a query of the network's own, as SigLIP does."""
    x = embedded(params, images)
    x = blocks(params, x.reshape(len(x), -1, WIDTH) + params["places"][None])
    weights = jax.nn.softmax(jnp.einsum("qc,nkc->nqk", params["extra"], x @ params["head"]))
    return jnp.einsum("nqk,nkc->nqc", weights, x)[:, 0] @ params["head"]


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_a_pooling_head():
    params, images = case(0)
    params |= {"extra": jnp.linspace(-3.0, 3.0, 5)[None]}
    *weights, last = weights_of(probed, params, images, 3)
    assert last.shape == (2, 1, 6)
    same_as(jaxviz.attention_rollout(probed, params, images), enlarged((last @ rollout(weights))[:, 0], 0, images))
    found = jaxviz.attention_relevance(jaxviz.logit(probed, 1), params, images)
    slopes = jax.grad(
        lambda delta: jaxviz.replace(probed, {"attention_2": lambda w: w + delta})(params, images)[:, 1].sum()
    )(jnp.zeros(last.shape))
    whole = relevance(probed, params, images, 1)
    same_as(found, enlarged((np.maximum(np.asarray(slopes) * last, 0) @ whole)[:, 0], 0, images))


def probed_as_often(params, images):
    """Pool tokens by as many queries of the network's own as there are tokens."""
    x = embedded(params, images)
    x = blocks(params, x.reshape(len(x), -1, WIDTH) + params["places"][None])
    weights = jax.nn.softmax(jnp.einsum("qc,nkc->nqk", params["extra"], x @ params["head"]))
    return jnp.einsum("nqk,nkc->nqc", weights, x)[:, :2].mean(1) @ params["head"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("discard", [0.0, 0.9])
def test_a_pooling_head_with_as_many_queries_as_tokens(discard):
    """They are not the tokens, and keep nothing; a query whose weights are all discarded has no share, and no NaN."""
    params, images = case(0, 1)
    params |= {"extra": jnp.linspace(-3.0, 3.0, 30).reshape(6, 5)}
    *weights, last = weights_of(probed_as_often, params, images, 3)
    assert last.shape == (1, 6, 6)
    last = last.copy()
    last.reshape(-1)[np.argsort(last.reshape(-1))[: int(36 * discard)]] = 0
    total = last.sum(-1, keepdims=True)
    whole = last / np.where(total > 0, total, 1) @ rollout(weights, discard=discard)
    found = jaxviz.attention_rollout(probed_as_often, params, images, discard=discard)
    same_as(found, enlarged(whole[:, :2].mean(1), 0, images))


def sharing(block, x):
    """Attention whose heads share their keys and values, as multi-query attention does."""
    n, t, _ = x.shape
    q, k, v = jnp.moveaxis((x @ block["qkv"]).reshape(n, t, 3, HEADS, WIDTH // HEADS), 2, 0)
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkd->nhqk", q, k[:, :, 0]) / np.sqrt(WIDTH // HEADS))
    return jnp.einsum("nhqk,nkd->nqhd", weights, v[:, :, 0]).reshape(n, t, WIDTH) @ block["out"]


def sharing_by_heads_last(block, x):
    n, t, _ = x.shape
    q, k, v = jnp.moveaxis((x @ block["qkv"]).reshape(n, t, 3, HEADS, WIDTH // HEADS), 2, 0)
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkd->nqhk", q, k[:, :, 0]) / np.sqrt(WIDTH // HEADS))
    return jnp.einsum("nqhk,nkd->nqhd", weights, v[:, :, 0]).reshape(n, t, WIDTH) @ block["out"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attend", [sharing, sharing_by_heads_last])
def test_heads_that_share_their_values(attend):
    params, images = case(0)

    def net(params, images):
        x = embedded(params, images).reshape(len(images), -1, WIDTH) + params["places"][None]
        return blocks(params, x, attend).mean(1) @ params["head"]

    weights = weights_of(net, params, images)
    weights = [each.swapaxes(1, 2) if attend is sharing_by_heads_last else each for each in weights]
    assert weights[0].shape == (2, HEADS, 6, 6)
    same_as(jaxviz.attention_rollout(net, params, images), enlarged(rollout(weights).mean(1), 0, images))


def by_matmul(block, x):
    """Attention with heads and images on one axis, as by torch.bmm."""
    n, t, _ = x.shape
    parts = (x @ block["qkv"]).reshape(n, t, 3, HEADS, WIDTH // HEADS).transpose(2, 0, 3, 1, 4)
    q, k, v = parts.reshape(3, n * HEADS, t, WIDTH // HEADS)
    weights = jax.nn.softmax(q @ k.swapaxes(1, 2) / np.sqrt(WIDTH // HEADS))
    return (weights @ v).reshape(n, HEADS, t, -1).transpose(0, 2, 1, 3).reshape(n, t, WIDTH) @ block["out"]


def by_jax(block, x):
    n, t, _ = x.shape
    q, k, v = jnp.moveaxis((x @ block["qkv"]).reshape(n, t, 3, HEADS, WIDTH // HEADS), 2, 0)
    return jax.nn.dot_product_attention(q, k, v).reshape(n, t, WIDTH) @ block["out"]


def by_vmap(block, x):
    """Attention of one head of one image, mapped over both."""
    n, t, _ = x.shape
    q, k, v = jnp.moveaxis((x @ block["qkv"]).reshape(n, t, 3, HEADS, WIDTH // HEADS), 2, 0)
    one = lambda q, k, v: jax.nn.softmax(q @ k.T / np.sqrt(WIDTH // HEADS)) @ v
    return jax.vmap(jax.vmap(one, 1, 1))(q, k, v).reshape(n, t, WIDTH) @ block["out"]


def masked(block, x):
    """A mask that hides nothing, and a softmax by its logarithm."""
    n, t, _ = x.shape
    q, k, v = jnp.moveaxis((x @ block["qkv"]).reshape(n, t, 3, HEADS, WIDTH // HEADS), 2, 0)
    scores = jnp.where(jnp.ones((1, 1, t, t), bool), jnp.einsum("nqhd,nkhd->nhqk", q, k), -1e9)
    weights = jnp.exp(jax.nn.log_softmax(scores / np.sqrt(WIDTH // HEADS)))
    return jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(n, t, WIDTH) @ block["out"]


@pytest.mark.usefixtures("x64", "users_promotions")  # jax.nn.dot_product_attention promotes types
@pytest.mark.parametrize("attend", [by_matmul, by_jax, by_vmap, masked])
@pytest.mark.parametrize("count", [2, 1])
@pytest.mark.slow
def test_spellings_of_attention(attend, count):
    params, images = case(1, count)
    net, plain = make_vit(attend=attend), make_vit()
    near = {"rtol": 1e-5 if attend is by_jax else 1e-10}  # whose softmax is in float32 whatever comes
    np.testing.assert_allclose(net(params, images), plain(params, images), **near)
    found, expected = (jaxviz.attention_rollout(each, params, images) for each in (net, plain))
    np.testing.assert_allclose(found, expected, **near)
    found, expected = (jaxviz.attention_relevance(jaxviz.logit(each, 1), params, images) for each in (net, plain))
    np.testing.assert_allclose(found, expected, atol=near["rtol"] * np.abs(expected).max())


# What is refused


def windowed(block, x):
    """Attention within two halves of an image, as within Swin's windows."""
    n, t, c = x.shape
    return attention(block, x.reshape(n * 2, t // 2, c)).reshape(n, t, c)


def merged(params, images):
    """Two blocks, with neighbors merged in between."""
    x = embedded(params, images).reshape(len(images), -1, WIDTH)
    first, second = params["blocks"]
    x = x + attention(first, x)
    x = x.reshape(len(x), 3, 2, WIDTH).mean(2)
    return (x + attention(second, x)).mean(1) @ params["head"]


def side_by_side(params, images):
    x = embedded(params, images).reshape(len(images), -1, WIDTH)
    return sum(attention(block, x) for block in params["blocks"]).mean(1) @ params["head"]


BAD = {
    "found no attention in this network": lambda p, x: embedded(p, x).mean((1, 2)) @ p["head"],
    "attention_0 has shape .*, in which images cannot be told from windows": make_vit("mean", attend=windowed),
    "one layer behind the other, .* attention_0: 6 x 6, attention_1: 3 x 3": merged,
    "one layer behind the other, .* attention_0: 6 x 6, attention_1: 6 x 6": side_by_side,
}


@pytest.mark.parametrize("message", BAD)
def test_attention_that_is_no_chain(message):
    params, images = vit_params(0), jnp.full((2, *SIZE, 3), 0.5)
    with pytest.raises(ValueError, match=f"attention_rollout.* {message}"):
        jaxviz.attention_rollout(BAD[message], params, images)
    with pytest.raises(ValueError, match=f"attention_relevance.* {message}"):
        jaxviz.attention_relevance(jaxviz.logit(BAD[message], 1), params, images)


@pytest.mark.usefixtures("users_view")
def test_other_errors():
    params, images = vit_params(1), jnp.full((2, *SIZE, 3), 0.5)
    for options, message in (
        ({"fusion": "median"}, "fusion: expected 'mean', 'max' or 'min', got 'median'"),
        ({"discard": 1.0}, r"discard: expected a finite number in \[0, 1\), got 1.0"),
        ({"tokens": (3, 3)}, "says 3 x 3 tokens, and this layer has 7"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxviz.attention_rollout(make_vit(), params, images, **options)
    with pytest.raises(ValueError, match="divide 0 to 255 by 255"):
        jaxviz.attention_rollout(make_vit(), params, 255 * images)


# AttnLRP


def linear(x, w, z, r):
    """The epsilon rule with an epsilon of 0: input `i` gets `x_i w_ij / z_j` of what output `j` has."""
    return x * ((r / z) @ w.T)


def attnlrp(params, images, target):
    """Return each pixel's relevance by the paper's rules, from the last layer to the first, of one image."""
    p = jax.tree.map(np.asarray, params)
    keep, x = [], np.asarray(embedded(params, images))[0].reshape(-1, WIDTH)
    start = x
    x = x + p["places"]
    for block in p["blocks"]:
        h = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        g = h * block["gain"]
        qkv = g @ block["qkv"]
        q, k, v = (qkv.reshape(len(x), 3, HEADS, -1)[:, i].swapaxes(0, 1) for i in range(3))
        s = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        a = np.exp(s - s.max(-1, keepdims=True))
        a /= a.sum(-1, keepdims=True)
        o = (a @ v).swapaxes(0, 1).reshape(len(x), WIDTH)
        y = o @ block["out"]
        x1 = x + y
        h1 = (x1 - x1.mean(-1, keepdims=True)) / np.sqrt(x1.var(-1, keepdims=True) + 1e-6)
        g1 = h1 * block["gain"]
        u = g1 @ block["up"] + block["bias"]
        m = np.asarray(jax.nn.gelu(jnp.asarray(u)))
        z = m @ block["down"]
        keep.append((x, g, qkv, q, k, v, s, a, o, y, x1, g1, u, m, z))
        x = x1 + z
    pooled = x.mean(0)
    out = pooled @ p["head"]
    r = linear(pooled, p["head"], out, np.where(np.arange(5) == target, out, 0))
    r = x / len(x) / pooled * r  # the mean shares by value
    for block, (x, g, qkv, q, k, v, s, a, o, y, x1, g1, u, m, z) in list(zip(p["blocks"], keep, strict=True))[::-1]:
        total = x1 + z
        r, rz = x1 / total * r, z / total * r
        ru = linear(m, block["down"], z, rz)  # GELU passes all on
        r = r + norm_rule(x1, linear(g1, block["up"], u, ru))
        total = x1
        r, ry = x / total * r, y / total * r
        ro = linear(o, block["out"], y, ry).reshape(len(x), HEADS, -1).swapaxes(0, 1)
        share = ro / (a @ v)
        ra, rv = a * (share @ v.swapaxes(1, 2)) / 2, v * (a.swapaxes(1, 2) @ share) / 2
        rs = s * (ra - a * ra.sum(-1, keepdims=True))
        share = rs / s / np.sqrt(q.shape[-1])
        rq, rk = q * (share @ k) / 2, k * (share.swapaxes(1, 2) @ q) / 2
        rqkv = np.stack([each.swapaxes(0, 1) for each in (rq, rk, rv)], 1).reshape(len(x), -1)
        r = r + norm_rule(x, linear(g, block["qkv"], qkv, rqkv))
    r = start / keep[0][0] * r
    patches = (np.asarray(images[0]) - 0.5).reshape(3, PATCH, 2, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(6, -1)
    r = linear(patches, p["patch"].reshape(-1, WIDTH), start, r)
    return r.reshape(3, 2, PATCH, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(*SIZE, 3), out[target]


def norm_rule(x, r):
    """LayerNorm is linear with its deviation held fixed: `x_i (1 - 1/N)` and the mean's `-x_i / N` share by value."""
    deviations = x - x.mean(-1, keepdims=True)
    share = r / deviations
    return x * (share - share.mean(-1, keepdims=True))


@pytest.mark.usefixtures("x64")
def test_attnlrp():
    net = lambda params, images: plain(params, images)
    params, images = case(0, 1)
    found = jaxviz.lrp(jaxviz.logit(net, 1), params, images, rule="attention", epsilon=1e-14)
    expected, score = attnlrp(params, images, 1)
    np.testing.assert_allclose(found.maps[0], expected, atol=1e-8 * np.abs(expected).max())
    np.testing.assert_allclose(found.gap, abs(expected.sum() - score) / abs(score), rtol=1e-6)
    without = jaxviz.lrp(jaxviz.logit(net, 1), params, images, epsilon=1e-14)
    assert np.abs(without.maps - found.maps).max() > 1e-3 * np.abs(expected).max()


def plain(params, images):
    x = embedded(params, images).reshape(len(images), -1, WIDTH)
    return blocks(params, x + params["places"][None]).mean(1) @ params["head"]


@pytest.mark.usefixtures("x64")
def test_attnlrp_conserves():
    """Without biases, embeddings and softmax, nothing is lost: by halves, gates, deviations of two kinds."""
    params, images = case(0, 1)
    block = params["blocks"][0]

    def net(params, images):
        x = embedded(params, images).reshape(len(images), -1, WIDTH)
        x = normalized(x, block["gain"])
        x = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True)) + jax.nn.silu(x @ block["up"]) @ block["down"]
        x = x * (x @ block["out"])  # a gate that is linear
        return (jnp.einsum("ntc,nsc->nts", x, x) @ x).mean(1) @ params["head"]

    found = jaxviz.lrp(jaxviz.logit(net, 1), params, images, rule="attention", epsilon=1e-14)
    assert found.gap[0] < 1e-9


def test_swin_like_maps_are_maps_again():
    """Windows put together are a map; Grad-CAM takes it, and tokens within windows are refused."""
    params, images = vit_params(0, size=(16, 16)), jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))

    def swin(params, images):
        x = embedded(params, images)
        n, h, w, c = x.shape
        for i, block in enumerate(params["blocks"]):
            y = jnp.roll(x, (-i, -i), (1, 2)).reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
            y = jax.ad_checkpoint.checkpoint_name(attention(block, y.reshape(-1, 4, c)), f"window{i}")
            y = y.reshape(n, h // 2, w // 2, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
            x = jax.ad_checkpoint.checkpoint_name(x + jnp.roll(y, (i, i), (1, 2)), f"block{i}")
        return convolve(x, jnp.ones((1, 1, c, c), x.dtype)).mean((1, 2)) @ params["head"]

    score = jaxviz.logit(swin, 1)
    assert jaxviz.grad_cam(score, params, images, layer="block0").shape == (2, 16, 16)
    with pytest.raises(ValueError, match="axis 0 has images and rows and columns together"):
        jaxviz.grad_cam(score, params, images, layer="window0")
    with pytest.raises(ValueError, match="attention within windows"):
        jaxviz.attention_rollout(swin, params, images)
