"""Texture synthesis from three samples: `textures.png`.

    python experiments/textures.py ../shared/data/paintings/starry_night_google.jpg
    python experiments/textures.py ../shared/data/paintings/starry_night_google.jpg --compare

A row for each sample: scikit-image's brick and gravel, and a painting. The sample, what `jaxviz.texture` makes from
noise with more and more layers of `vgg16_features` (to relu2_1, to relu3_1, to relu5_1), as in Gatys et al. 2015, and
what `jaxviz.efros_leung` makes of a reduced copy.

With `--compare`: what neural-style-pt makes of the samples after 120 and 300 evaluations (`neural_style_pt.py`) and
what `jaxviz.texture` makes by default, in a table of errors, and `textures_compared.png`; needs PyTorch.

Takes 7 minutes on two cores; the comparison was tried only at small sizes, and takes longer.

What to look for: with more layers, larger structure (from bricks of any shape to bricks in rows); bricks, stones and
strokes as in the sample, but none of them in the same place.
"""

import functools
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from skimage import data

import jaxviz

FIGURES = Path(__file__).parent / "figures"
LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def main(
    painting: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    size: int = 192,
    steps: int = 150,
    compare: bool = False,
    out: Path = FIGURES,
) -> None:
    """Draw the figure.

    Args:
        painting: a third sample.
        size: side of samples and results in pixels.
        steps: steps of L-BFGS.
        compare: make the table instead.
        out: folder for the picture.
    """
    net, params = jaxviz.load("vgg16_features")
    key, pictures = jax.random.key(0), []
    sources = {"brick": data.brick(), "gravel": data.gravel(), "painting": painting}
    samples = {name: jaxviz.load_image(source, size=size) for name, source in sources.items()}
    if compare:
        return table(samples, out)
    for name, sample in samples.items():
        pictures.append(sample)
        for count in (2, 3, 5):
            layers: dict[str, Any] = {} if count == 5 else {"layers": LAYERS[:count]}
            found = jaxviz.texture(net, params, key, sample, steps=steps, **layers)
            print(f"{name}, {count} layers: loss {found.losses[0]:.3g} to {found.losses[-1]:.3g}", flush=True)
            pictures.append(found.images[0])
        small = jnp.clip(jaxviz.resize(sample, (size // 3, size // 3)), 0, 1)
        grown = jaxviz.efros_leung(key, small, size=size * 2 // 3)
        pictures.append(jnp.clip(jaxviz.resize(grown, (size, size)), 0, 1))
    jaxviz.save_image(out / "textures.png", jaxviz.montage(pictures, columns=5))


def table(samples: dict[str, jax.Array], out: Path) -> None:
    """Print the errors of neural-style-pt's textures and ours, and draw both beside the samples."""
    from neural_style_pt import beside

    net, params = jaxviz.load("vgg16_features")
    pictures = []
    for name, sample in samples.items():
        ours = functools.partial(jaxviz.texture, net, params, jax.random.key(0), sample)
        pictures += [sample, *beside(params, None, np.asarray(sample), ours, f"{name}, ")]
    jaxviz.save_image(out / "textures_compared.png", jaxviz.montage(pictures, columns=5))


if __name__ == "__main__":
    tyro.cli(main)
