"""The first layer's filters: `filters.png`, as in `experiments/figures`.

    python experiments/filters.py --out experiments/figures
    python experiments/filters.py --model alexnet

By default VGG-16's 64 filters of 3x3 pixels. AlexNet's 64 of 11x11, the lecture's own figure, need its weights
(`jaxviz weights fetch alexnet`). Each filter is scaled separately; gray is zero. Takes seconds.

What to look for: edges in all directions, and opponent colors.
"""

from pathlib import Path

import jax.numpy as jnp
import tyro

import jaxviz


def main(*, model: str = "vgg16_features", side: int = 36, columns: int = 16, out: Path = Path("out")) -> None:
    """Draw the picture.

    Args:
        model: a network listed by `jaxviz weights list`.
        side: side of a filter in the picture, in pixels; rounded to a multiple of its own.
        columns: filters per row.
        out: folder for the picture.
    """
    _, params = jaxviz.load(model)
    tiles = jaxviz.filters(params)
    times = max(1, round(side / tiles.shape[1]))
    tiles = jnp.repeat(jnp.repeat(tiles, times, axis=1), times, axis=2)
    jaxviz.save_image(out / "filters.png", jaxviz.montage(tiles, columns=columns))


if __name__ == "__main__":
    tyro.cli(main)
