"""A photograph in the style of a painting: `experiments/figures/style.png`.

    python experiments/style.py ../shared/data/paintings/starry_night_google.jpg

Gatys, Ecker & Bethge 2016, with `jaxviz.stylize` on `vgg16_features`: content relu4_2, style relu1_1 to relu5_1, L-BFGS
from the photograph. 80 steps took 135 s on two cores at 416 px.

What to look for: strokes as wide as the painting's, and the photograph's eyes and outlines still in place. A style
weight of 10 keeps more of the photograph, 100 leaves little of it.
"""

from pathlib import Path
from typing import Annotated

import jax
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
    style_weight: float = 20.0,
    out: Path = FIGURES,
) -> None:
    """Draw the figure.

    Args:
        style: the painting.
        content: the photograph; by default scikit-image's cat.
        longest: longer side of the result in pixels.
        steps: steps of L-BFGS.
        style_weight: relative to a content weight of 1.
        out: folder for the picture.
    """
    net, params = jaxviz.load("vgg16_features")
    photo, painting = (jaxviz.load_image(source, longest=longest) for source in (content or data.chelsea(), style))
    report = lambda now: print(f"step {len(now.losses)} of {steps}, loss {now.losses[-1]:.4g}", flush=True)
    found = jaxviz.stylize(
        net, params, jax.random.key(0), photo, painting, style_weights=style_weight, steps=steps, callback=report
    )
    jaxviz.save_image(out / "style.png", found.images[0])


if __name__ == "__main__":
    tyro.cli(main)
