"""A photograph in the style of a painting: `experiments/figures/style.png`.

    python experiments/style.py ../shared/data/paintings/starry_night_google.jpg
    python experiments/style.py starry_night.jpg tubingen.jpg --compare --longest 192

Gatys, Ecker & Bethge 2016, with `jaxviz.stylize` on `vgg16_features`: content relu4_2, style relu1_1 to relu5_1, L-BFGS
from the photograph. 80 steps at 416 px took 41 s on two cores with AVX-512.

With `--compare`: what neural-style-pt makes of the pair after 120 and 300 evaluations (`neural_style_pt.py`) and what
`jaxviz.stylize` makes by default, as rows of a table of errors, and `style_compared.png`; needs PyTorch.

What to look for: strokes as wide as the painting's, and the photograph's eyes and outlines still in place. A smaller
style weight keeps more of the photograph.
"""

import functools
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from skimage import data

import jaxviz

FIGURES = Path(__file__).parent / "figures"


def main(
    style: Annotated[Path, tyro.conf.Positional],
    content: Annotated[Path | None, tyro.conf.Positional] = None,
    /,
    *,
    longest: int = 416,
    steps: int = 80,
    style_weight: float | None = None,
    compare: bool = False,
    out: Path = FIGURES,
) -> None:
    """Draw the figure.

    Args:
        style: the painting.
        content: the photograph; by default scikit-image's cat.
        longest: longer side of the result in pixels.
        steps: steps of L-BFGS.
        style_weight: relative to a content weight of 1; by default that of `stylize`.
        compare: print the rows of the table instead.
        out: folder for the picture.
    """
    net, params = jaxviz.load("vgg16_features")
    photo, painting = (jaxviz.load_image(source, longest=longest) for source in (content or data.chelsea(), style))
    if compare:
        return table(np.asarray(photo), np.asarray(painting), out)
    report = lambda now: print(f"step {len(now.losses)} of {steps}, loss {now.losses[-1]:.4g}", flush=True)
    found = jaxviz.stylize(
        net, params, jax.random.key(0), photo, painting, style_weights=style_weight, steps=steps, callback=report
    )
    jaxviz.save_image(out / "style.png", found.images[0])


def table(photo: np.ndarray, painting: np.ndarray, out: Path) -> None:
    """Print the errors of neural-style-pt's picture and of ours, and draw both beside the photograph."""
    from neural_style_pt import beside

    net, params = jaxviz.load("vgg16_features")
    ours = functools.partial(jaxviz.stylize, net, params, jax.random.key(0), photo, painting)
    pictures = beside(params, photo, painting, ours)
    jaxviz.save_image(out / "style_compared.png", jaxviz.montage([photo, *pictures], columns=5))


if __name__ == "__main__":
    tyro.cli(main)
