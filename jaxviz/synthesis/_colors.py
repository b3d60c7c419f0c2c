"""Keep the colours of a content image in neural style (Gatys et al. 2016, Preserving color)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._types import at_least_float32
from jaxviz.image._arrays import LUMINANCE
from jaxviz.synthesis._octaves import resized

Image = Float[Array, "_ _ 3"]
Batch = Float[Array, "1 _ _ 3"]


def colored(colors: str, content: Batch, styles: list[Batch]) -> tuple[Batch, list[Batch]]:
    """Return the content and the styles as they are to be compared, for the colours that are wanted."""
    if colors == "style":
        return content, styles
    if colors == "match":
        return content, [color_matched(style, content) for style in styles]
    if colors == "luminance":
        grey = _luminance(content)
        return _grey(grey), [_grey(_same_moments(_luminance(style), grey)) for style in styles]
    raise ValueError(f"colors: expected 'style', 'luminance' or 'match', got {colors!r}")


def _luminance(images: Batch) -> Float[Array, "1 _ _"]:
    return jnp.matmul(images, jnp.asarray(LUMINANCE, images.dtype), precision="highest")


def _grey(luminance: Float[Array, "1 _ _"]) -> Batch:
    return jnp.clip(jnp.repeat(luminance[..., None], 3, axis=-1), 0, 1)


def _same_moments(values: Array, others: Array) -> Array:
    """Return values with the mean and standard deviation of others."""
    spread = values.std()
    return (values - values.mean()) * others.std() / jnp.where(spread > 0, spread, 1) + others.mean()


def with_chroma(content: Batch, painted: Batch) -> Batch:
    """Return the brightness of one image in the colours of another."""
    original = resized(content, painted.shape[1:3])
    return jnp.clip(original + (_luminance(painted) - _luminance(original))[..., None], 0, 1)


def color_matched(style: Batch, content: Batch) -> Batch:
    """Return a style whose colours have the content's mean and covariance: a linear map of colours."""
    wide = style.astype(at_least_float32(style.dtype))
    (mean, root), (wanted_mean, wanted_root) = (_color_moments(x.astype(wide.dtype)) for x in (style, content))
    change = jnp.matmul(wanted_root, jnp.linalg.inv(root), precision="highest")
    row = lambda color: color.reshape(1, 1, 1, 3)
    matched = jnp.matmul(wide - row(mean), change.T, precision="highest") + row(wanted_mean)
    return jnp.clip(matched, 0, 1).astype(style.dtype)


def _color_moments(images: Batch) -> tuple[Array, Array]:
    """Return the mean colour and the square root of the covariance, a little larger so that it can be inverted."""
    pixels = images.reshape(-1, 3)
    covariance = jnp.cov(pixels, rowvar=False) + 1e-5 * jnp.eye(3, dtype=images.dtype)
    values, vectors = jnp.linalg.eigh(covariance)
    return pixels.mean(0), (vectors * jnp.sqrt(values)[None]) @ vectors.T
