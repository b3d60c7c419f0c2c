"""Gradient-weighted attention: the patches that support a score, by a transformer's attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._types import AnyImages, Images, Score
from jaxviz.attribution._attention_rollout import map_of
from jaxviz.attribution._batching import of_each_score, run, values_of
from jaxviz.fast._swap import accelerate
from jaxviz.program._attention_chain import chain_of
from jaxviz.program._differentiable import reaches
from jaxviz.program._edit import changing
from jaxviz.program._run import evaluate
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.program._trace import trace
from jaxviz.scores._calls import fixed


def attention_relevance(
    score: Score, params: Any, images: AnyImages, *, tokens: Tokens = None, batch_size: int | None = None
) -> Float[Array, "n *k h w"]:
    """Follow a score through a transformer's attention, weighting each block's attention by the score's gradient.

    From block to block, the relevance of tokens for each other, initially the identity, grows by `R += A R`, where `A`
    is the mean over heads of the positive part of attention weights times the score's gradient with respect to them.
    The map is the row of `R` for the token that the score is computed from, such as the class token, or the mean of
    several rows. Unlike `attention_rollout` it distinguishes classes.

    The attention layers, their order and the tokens that are read at the end are found in the traced program. Attention
    within windows, between two sequences and over merged tokens is refused. For a pooling head with queries of its own,
    `R = A R`.

    Args:
        score: any function `score(params, images) -> (n,)` or `(n, k)` of a network with softmax attention.
        params: the network's parameters.
        images: `(n, h, w, 3)` in [0, 1].
        tokens: the grid of patches, `(rows, columns)`, if the program does not show it; `(rows, columns, in front)` if
            there are more tokens than these: see `grad_cam`.
        batch_size: for a score `(n, k)`, backward passes run at once, over all images; by default 4 on CPU, else 16.

    Returns:
        `(n, h, w)`, or `(n, k, h, w)` for a score `(n, k)`, at least 0, enlarged linearly to the images' size.

    Raises:
        ValueError: for a network without attention, with attention that is not a chain over the same tokens, or with
            respect to which the score has no gradient; for a grid that does not fit it; and as for `gradient`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     x = images.reshape(len(images), -1, 3)  # each pixel is a token
        ...     return (jax.nn.softmax(x @ params @ x.swapaxes(1, 2)) @ x).sum(1)
        >>> images = jnp.array([[[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]])
        >>> for target in (0, 2):
        ...     print(jaxviz.attention_relevance(jaxviz.logit(net, target), jnp.eye(3), images).round(2))
        [[[1.   0.5]]]
        [[[0.5 1. ]]]

    Chefer, Gur & Wolf 2021, Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers (its rule for self-attention).
    """
    return run(_relevance, score, params, images, tokens=checked_tokens(tokens), batch_size=batch_size)


def _relevance(score: Score, params: Any, images: Images, *, tokens: Tokens, batch_size: int) -> Array:
    score = fixed(score, params, images)
    program = trace(score, params, images, turns=True)
    chain = chain_of(program, len(images), tokens, "attention_relevance")

    def from_weights(deltas: list[Array]) -> tuple[Array, dict[str, Array]]:
        edits = {
            str(i): (value, lambda x, delta=delta: x + delta)
            for i, (value, delta) in enumerate(zip(chain.weights, deltas, strict=True))
        }
        moved = accelerate(lambda params, images: evaluate(program, (params, images), changing(edits)), exact=True)
        values, taken = moved(params, images)
        return values_of(lambda *_: values, params, images), taken

    zeros = [jnp.zeros(value.aval.shape, value.aval.dtype) for value in chain.weights]
    values, pull, taken = jax.vjp(from_weights, zeros, has_aux=True)
    if not reaches(lambda cotangent: pull(cotangent)[0][-1:], values):
        raise ValueError(
            "attention_relevance: the score has no gradient with respect to this network's attention: only steps such "
            "as argmax lead from one to the other; choose a score that can be differentiated, such as jaxviz.logit"
        )

    def backward(cotangent: Array) -> Array:
        whole = jnp.eye(chain.arrange[0](zeros[0]).shape[-1], dtype=values.dtype)[None]
        for i, gradient in enumerate(pull(cotangent)[0]):
            weights, slopes = (chain.arrange[i](x) for x in (taken[str(i)], gradient))
            passed = jax.nn.relu(weights * slopes).mean(1)
            gathered = jnp.matmul(passed, whole, precision="highest")
            whole = whole + gathered if chain.is_block(i) else gathered
        return map_of(whole, chain, images)

    return of_each_score(backward, values, batch_size)
