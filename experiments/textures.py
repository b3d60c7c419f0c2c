"""Texture synthesis from three samples: `textures.png`.

    python experiments/textures.py ../shared/data/paintings/starry_night_google.jpg

A row for each sample: scikit-image's brick and gravel, and a painting. The sample, what `jaxviz.texture` makes from
noise with more and more layers of `vgg16_features` (to relu2_1, to relu3_1, to relu5_1), as in Gatys et al. 2015, and
what `jaxviz.efros_leung` makes of a reduced copy.

Takes 7 minutes on two cores.

What to look for: with more layers, larger structure (from bricks of any shape to bricks in rows); bricks, stones and
strokes as in the sample, but none of them in the same place.
"""

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro
from skimage import data

import jaxviz

FIGURES = Path(__file__).parent / "figures"
LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def main(
    painting: Annotated[Path, tyro.conf.Positional], /, *, size: int = 192, steps: int = 150, out: Path = FIGURES
) -> None:
    """Draw the figure.

    Args:
        painting: a third sample.
        size: side of samples and results in pixels.
        steps: steps of L-BFGS.
        out: folder for the picture.
    """
    net, params = jaxviz.load("vgg16_features")
    key, pictures = jax.random.key(0), []
    for name, source in (("brick", data.brick()), ("gravel", data.gravel()), ("painting", painting)):
        sample = jaxviz.load_image(source, size=size)
        pictures.append(sample)
        for count in (2, 3, 5):
            found = jaxviz.texture(net, params, key, sample, layers=LAYERS[:count], steps=steps)
            print(f"{name}, {count} layers: loss {found.losses[0]:.3g} to {found.losses[-1]:.3g}", flush=True)
            pictures.append(found.images[0])
        small = jnp.clip(jaxviz.resize(sample, (size // 3, size // 3)), 0, 1)
        grown = jaxviz.efros_leung(key, small, size=size * 2 // 3)
        pictures.append(jnp.clip(jaxviz.resize(grown, (size, size)), 0, 1))
    jaxviz.save_image(out / "textures.png", jaxviz.montage(pictures, columns=5))


if __name__ == "__main__":
    tyro.cli(main)
