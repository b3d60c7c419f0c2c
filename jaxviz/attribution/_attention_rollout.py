"""Attention rollout: how much of each patch reaches a transformer's output, by its attention weights alone."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxviz._options import check_number
from jaxviz._types import AnyImages, Images, Maps, Net
from jaxviz.fast._swap import accelerate
from jaxviz.image._checks import check_images, check_range
from jaxviz.program._attention_chain import Chain, chain_of
from jaxviz.program._compiled import compiled
from jaxviz.program._modules import named_by_default
from jaxviz.program._outputs import taking
from jaxviz.program._run import evaluate
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.program._trace import trace

Fusion = Literal["mean", "max", "min"]


def attention_rollout(
    net: Net,
    params: Any,
    images: AnyImages,
    *,
    fusion: Fusion = "mean",
    discard: float = 0.0,
    tokens: Tokens = None,
) -> Maps:
    """Multiply the attention of a transformer's blocks: how much of each patch reaches the output.

    Each block's weights, fused over heads, give `A = (W + 1) / 2`, with rows divided by their sums: half of a token is
    what it gathers, half is itself. The product `A_L ... A_1` says how much of each patch reaches each token. The map
    is the row of the token from which the outputs are computed, such as the class token, or the mean of several rows
    if there are several, as with a mean over all tokens. It does not depend on any class.

    The attention layers, their order and the tokens that are read at the end are found in the traced program. Attention
    within windows, between two sequences and over merged tokens is refused. A pooling head with queries of its own is
    multiplied without the half.

    Args:
        net: any JAX function `net(params, images)` whose attention is softmax attention, as in a Vision Transformer.
        params: its parameters.
        images: `(n, h, w, 3)` in [0, 1].
        fusion: how to combine heads: "mean", as in the paper, "max" or "min".
        discard: the fraction of an image's fused weights, the smallest ones, to set to 0 in each block, in [0, 1); the
            weights of class and register tokens for themselves are kept.
        tokens: the grid of patches, `(rows, columns)`, if the program does not show it; `(rows, columns, in front)` if
            there are more tokens than these: see `grad_cam`.

    Returns:
        `(n, h, w)`, at least 0: each patch's share, enlarged linearly to the images' size.

    Raises:
        ValueError: for a network without attention, or with attention that is not a chain over the same tokens; for a
            grid that does not fit it, another fusion or a discard outside of [0, 1); and if `images` are not images.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     x = images.reshape(len(images), -1, 3)  # each pixel is a token
        ...     return (jax.nn.softmax(x @ params @ x.swapaxes(1, 2)) @ x).mean(1)
        >>> images = jnp.array([[[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]])
        >>> print(jaxviz.attention_rollout(net, 9 * jnp.eye(3).at[:, 2].add(1), images).round(2))
        [[[0.38 0.62]]]

    Abnar & Zuidema 2020, Quantifying Attention Flow in Transformers.
    """
    if fusion not in ("mean", "max", "min"):
        raise ValueError(f"fusion: expected 'mean', 'max' or 'min', got {fusion!r}")
    check_number("discard", discard, "in [0, 1)", lambda x: (x >= 0) & (x < 1))
    check_images(images)
    check_range("images", images)
    return _rollout(net, fusion, float(discard), checked_tokens(tokens), params, images)


@compiled(static_argnums=(0, 1, 2, 3))
def _rollout(net: Net, fusion: Fusion, discard: float, tokens: Tokens, params: Any, images: Images) -> Maps:
    program = trace(named_by_default(net), params, images, turns=True)
    chain = chain_of(program, len(images), tokens, "attention_rollout")
    wanted = {str(i): value for i, value in enumerate(chain.weights)}

    def read(params: Any, images: Any) -> dict[str, Array]:
        return evaluate(program, (params, images), taking(wanted))[1]

    taken = accelerate(read)(params, images)
    arranged = [arrange(taken[str(i)]) for i, arrange in enumerate(chain.arrange)]
    own = jnp.eye(arranged[0].shape[-1], dtype=arranged[0].dtype)[None]
    whole = own
    for i, weights in enumerate(arranged):
        if chain.is_block(i):
            beside = np.diag(~np.isin(np.arange(weights.shape[-1]), chain.numbers))
            shares = (_fused(weights, fusion, discard, beside[None]) + own) / 2
        else:
            shares = _fused(weights, fusion, discard, np.zeros((1, 1, 1), bool))
        total = shares.sum(-1, keepdims=True)  # 0 for a pooling head's query of which all is discarded
        whole = jnp.matmul(shares / jnp.where(total > 0, total, 1), whole, precision="highest")
    return map_of(whole, chain, images)


def _fused(weights: Array, fusion: Fusion, discard: float, kept: np.ndarray) -> Float[Array, "n queries keys"]:
    """Return weights fused over heads, the smallest ones set to 0, but for those that are kept."""
    fused = getattr(weights, fusion)(1)
    n, queries, keys = fused.shape
    flat = fused.reshape(n, queries * keys)
    smallest = jnp.argsort(flat, axis=-1)[:, : int(flat.shape[-1] * discard)]
    dropped = jax.vmap(lambda row, places: row.at[places].set(0))(flat, smallest)
    return jnp.where(kept, fused, dropped.reshape(fused.shape))


def map_of(shares: Float[Array, "n queries keys"], chain: Chain, images: Images) -> Maps:
    """Return the share of each patch in the queries that are read, at the size of the images."""
    row = shares[:, chain.read].mean(1)
    small = row[:, chain.numbers.ravel()].reshape(len(row), *chain.numbers.shape)
    return jax.image.resize(small, images.shape[:3], "linear")
