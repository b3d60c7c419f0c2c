"""Small Vision Transformers in bare JAX, for tests."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from nets import convolve

WIDTH, HEADS, PATCH = 8, 2, 4
SIZE = (12, 8)  # 3 x 2 patches


def vit_params(extra=1, depth=2, size=SIZE, classes=5, dtype=None, seed=0):
    """Return parameters of a Vision Transformer with so many class and register tokens."""
    rng = np.random.default_rng(seed)
    dtype = jnp.result_type(float) if dtype is None else dtype
    weights = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), dtype)
    block = lambda: {
        "qkv": 2 * weights(WIDTH, 3 * WIDTH), "out": weights(WIDTH, WIDTH), "gain": 1 + 0.1 * weights(WIDTH),
        "up": weights(WIDTH, 2 * WIDTH), "down": weights(2 * WIDTH, WIDTH), "bias": 0.1 * weights(2 * WIDTH),
    }  # fmt: skip
    tokens = extra + size[0] // PATCH * (size[1] // PATCH)
    return {
        "patch": 2 * weights(PATCH, PATCH, 3, WIDTH),
        "extra": weights(extra, WIDTH) if extra else jnp.zeros((0, WIDTH), dtype),
        "places": 0.3 * weights(tokens, WIDTH),
        "blocks": [block() for _ in range(depth)],
        "head": weights(WIDTH, classes),
    }


def wide(vector):
    return jnp.expand_dims(vector, (0, 1))


def normalized(x, gain):
    centered = x - x.mean(-1, keepdims=True)
    return centered * lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-6) * wide(gain)


def attention(block, x):
    n, t, _ = x.shape
    q, k, v = jnp.moveaxis((x @ block["qkv"]).reshape(n, t, 3, HEADS, WIDTH // HEADS), 2, 0)
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(WIDTH // HEADS))
    return jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(n, t, WIDTH) @ block["out"]


def embedded(params, images):
    """Return the patches' tokens, `(n, rows, columns, c)`."""
    return convolve(images - 0.5, params["patch"], PATCH, "VALID")


def blocks(params, x, attend=attention):
    for i, block in enumerate(params["blocks"]):
        x = x + attend(block, checkpoint_name(normalized(x, block["gain"]), f"norm{i}"))
        hidden = normalized(x, block["gain"]) @ block["up"] + wide(block["bias"])
        x = checkpoint_name(x + jax.nn.gelu(hidden) @ block["down"], f"block{i}")
    return x


def make_vit(pool="class", front=None, attend=attention):
    """Return a Vision Transformer; of the extra tokens so many stand in front, by default all."""

    def vit(params, images):
        x = embedded(params, images)
        x = x.reshape(len(x), -1, WIDTH)
        extra = jnp.broadcast_to(params["extra"][None], (len(x), *params["extra"].shape))
        at = extra.shape[1] if front is None else front
        x = jnp.concatenate([extra[:, :at], x, extra[:, at:]], 1) + params["places"][None]
        x = normalized(blocks(params, x, attend), jnp.ones(WIDTH, x.dtype))
        x = x[:, 0] if pool == "class" else x.mean(1) if pool == "mean" else x[:, at:].mean(1)
        return x @ params["head"]

    return vit
