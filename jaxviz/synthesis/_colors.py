"""Keep the colors of a content image in neural style (Gatys et al. 2016, Preserving color)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._types import AnyArray, Images, at_least_float32
from jaxviz.image._channels import luminance
from jaxviz.synthesis._octaves import resized

Image = Float[Array, "_ _ c"]
Pictures = Float[AnyArray, "*_ _ _ _"]
"""An image `(h, w, c)`, or several of one size, `(n, h, w, c)`."""
Batch = Float[Array, "_ _ _ _"]
"""Images whose number and size may differ from those of other arguments."""


def colored(colors: str, content: Batch, styles: list[Batch]) -> tuple[Batch, list[Batch]]:
    """Return the content and the styles to compare with, for the requested colors.

    A style that is adapted to the colors of several contents is returned once for each.
    """
    if colors == "style":
        return content, styles
    each = [jnp.broadcast_to(style, (len(content), *style.shape[1:])) for style in styles]
    if colors == "match":
        return content, [color_matched(style, content) for style in each]
    if colors == "luminance":
        if content.shape[-1] != 3:
            raise ValueError(f"colors: 'luminance' needs RGB, expected 3 channels, got {content.shape[-1]}")
        gray = luminance(content)
        return _gray(gray), [_gray(_same_moments(luminance(style), gray)) for style in each]
    raise ValueError(f"colors: expected 'style', 'luminance' or 'match', got {colors!r}")


def _gray(luminance: Float[Array, "n _ _"]) -> Images:
    return jnp.clip(jnp.repeat(luminance[..., None], 3, axis=-1), 0, 1)


def _same_moments(values: Array, others: Array) -> Array:
    """Return values shifted and scaled to the mean and standard deviation of others, per image."""
    (mean, spread), (other_mean, other_spread) = (
        (x.mean((1, 2), keepdims=True), x.std((1, 2), keepdims=True)) for x in (values, others)
    )
    return (values - mean) * other_spread / jnp.where(spread > 0, spread, 1) + other_mean


def with_chroma(content: Batch, painted: Batch) -> Batch:
    """Return the brightness of painted images in the colors of the content."""
    original = resized(content, painted.shape[1:3])
    return jnp.clip(original + (luminance(painted) - luminance(original))[..., None], 0, 1)


@jax.vmap
def color_matched(style: Image, content: Image) -> Image:
    """Return a style linearly mapped to the content's mean color and color covariance."""
    wide = style.astype(at_least_float32(style.dtype))
    (mean, root), (wanted_mean, wanted_root) = (_color_moments(x.astype(wide.dtype)) for x in (style, content))
    change = jnp.matmul(wanted_root, jnp.linalg.inv(root), precision="highest")
    row = lambda color: color.reshape(1, 1, -1)
    matched = jnp.matmul(wide - row(mean), change.T, precision="highest") + row(wanted_mean)
    return jnp.clip(matched, 0, 1).astype(style.dtype)


def _color_moments(image: Image) -> tuple[Array, Array]:
    """Return the mean color and the square root of the covariance, slightly enlarged to be invertible."""
    channels = image.shape[-1]
    pixels = image.reshape(-1, channels)
    covariance = jnp.cov(pixels, rowvar=False).reshape(channels, channels)
    covariance += 1e-5 * jnp.eye(channels, dtype=image.dtype)
    values, vectors = jnp.linalg.eigh(covariance)
    return pixels.mean(0), (vectors * jnp.sqrt(values)[None]) @ vectors.T
