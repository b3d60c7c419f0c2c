"""An activation grid: what each position of a layer's map says about a picture, as an image of it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxviz._options import check_image, check_untraced
from jaxviz._types import Images, Key, Net
from jaxviz.fast._swap import accelerate
from jaxviz.image._arrays import montage, resize
from jaxviz.program._compiled import compiled
from jaxviz.program._image_channels import known_channels
from jaxviz.program._once import once
from jaxviz.program._outputs import read
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.scores._direction import direction
from jaxviz.show._shown import shown
from jaxviz.synthesis._ascent import ascend


@shown("images", lambda found: dict(enumerate(found.images)))
class ActivationGrid(NamedTuple):
    """An image for each position of a map.

    Attributes:
        images: `(rows, columns, h, w, c)` in [0, 1].
        magnitudes: `(rows, columns)`, the lengths of the vectors of activations that they show.
    """

    images: Float[Array, "rows columns h w c"]
    magnitudes: Float[Array, "rows columns"]

    def picture(self, *, gap: int = 0, sized: bool = True) -> Float[Array, "h2 w2 3"]:
        """Lay the images out as they lie in the picture.

        Args:
            gap: pixels between cells.
            sized: whether an image's area is proportional to its magnitude, the largest filling its cell.

        Returns:
            One image, `(height, width, 3)`.
        """
        each = self.images.reshape(-1, *self.images.shape[2:])
        if not sized:
            return montage(each, columns=self.images.shape[1], gap=gap)
        lengths = np.asarray(self.magnitudes, np.float64).ravel()
        shares = np.sqrt(lengths / (lengths.max() if lengths.any() else 1))
        height, width = each.shape[1:3]
        sizes = [(max(1, round(share * height)), max(1, round(share * width))) for share in shares.tolist()]
        shrunk = [jnp.clip(resize(image, size), 0, 1) for image, size in zip(each, sizes, strict=True)]
        return montage(shrunk, columns=self.images.shape[1], gap=gap)


def activation_grid(
    net: Net,
    params: Any,
    key: Key,
    image: Float[Any, "_ _ _"],
    *,
    layer: str,
    size: int | tuple[int, ...] = 64,
    steps: int = 128,
    power: ArrayLike | None = 2.0,
    tokens: Tokens = None,
    **options: Any,
) -> ActivationGrid:
    """Show what a layer says about each position of a picture: an image for each vector of activations.

    Channels mean little one by one; the vector of all of them at a position says what the layer sees there. For each
    position of the layer's map, `ascend` finds the image whose features point where that vector does, all positions as
    one batch. Memory is that of as many images: a map of 14 x 14 with images of 64 px is as large as one image of 896.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        key: the random key, for the noise and the transformations.
        image: the picture, `(h, w, c)` in [0, 1]; its size decides how many positions there are.
        layer: a layer of maps, or of tokens, a name that `layers` lists.
        size: the size of the image of each position, as for `ascend`.
        steps: the number of steps.
        power: of the cosine, as for `direction`: the larger, the less of other things than the vector says.
        tokens: the grid of tokens, if the network's program does not show it: see `grad_cam`.
        options: the other options of `ascend`.

    Returns:
        The images, in rows and columns, and the lengths of the vectors; `picture` lays them out.

    Raises:
        ValueError: for a layer that does not exist, or has neither maps nor tokens in a known grid, if `image` is not
            an image in [0, 1], and as for `ascend`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images)
        >>> image = jnp.array([[[0.9, 0.1, 0.1], [0.0, 0.1, 0.5]]])
        >>> grid = jaxviz.activation_grid(net, None, jax.random.key(0), image, layer="relu_0", size=8, steps=32)
        >>> print(grid.images.shape, grid.images.mean((2, 3)).argmax(-1), grid.magnitudes.argmax())
        (1, 2, 8, 8, 3) [[0 2]] 0
        >>> print(grid.picture().shape)
        (8, 16, 3)

    Olah et al. 2018, The Building Blocks of Interpretability.
    """
    instead = "it reads the map on the host, so call it outside of jit, vmap and grad"
    check_untraced("activation_grid", params, key, image, instead=instead)
    check_image("image", image)
    net, tokens, batch = once(net), checked_tokens(tokens), jnp.asarray(image)[None]
    with known_channels(net, params, batch):
        vectors = _map_of(net, layer, tokens, params, batch)[0]
    rows, columns, channels = vectors.shape
    score = direction(net, layer, vectors.reshape(-1, channels), power=power, tokens=tokens)
    found = ascend(score, params, key, size=size, steps=steps, **options).images
    images = found.reshape(rows, columns, *found.shape[1:])
    return ActivationGrid(images, jnp.linalg.norm(vectors, axis=-1))


@compiled(static_argnums=(0, 1, 2))
def _map_of(net: Net, layer: str, tokens: Tokens, params: Any, images: Images) -> Float[Array, "_ _ _ _"]:
    maps = lambda params, images: read(net, params, images, [layer]).as_map(layer, "activation_grid", tokens)
    return accelerate(maps)(params, images)
