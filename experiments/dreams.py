"""DeepDream at low and high layers, and towards a second image: `dream_layers.png`.

    python experiments/dreams.py

`jaxviz.dream` on `vgg16_features`, scikit-image's cat, for relu2_1, relu3_1, relu4_1 and relu5_1, as in the lecture,
and then guided by scikit-image's cup of coffee (`jaxviz.resemblance` at relu4_1).

Cost: 3 minutes on two cores at 320 px.

What to look for: strokes and ripples low in the network, then curls and eyes, then snouts, birds and fur; with the
guide, rims and ellipses instead of animals.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from skimage import data

import jaxviz

FIGURES = Path(__file__).parent / "figures"
LAYERS = ("relu2_1", "relu3_1", "relu4_1", "relu5_1")


def main(*, size: int = 320, out: Path = FIGURES) -> None:
    """Draw the figure.

    Args:
        size: shorter side of the photograph in pixels.
        out: folder for the picture.
    """
    net, params = jaxviz.load("vgg16_features")
    photo = jaxviz.load_image(data.chelsea(), size=size)[None]
    guide = jaxviz.load_image(data.coffee(), size=224)[None]
    scores: dict[str, Any] = {layer: jaxviz.energy(net, layer) for layer in LAYERS}
    scores["guided"] = jaxviz.resemblance(net, params, guide, layer="relu4_1")
    pictures = [photo[0]]
    for name, score in scores.items():
        found = jaxviz.dream(score, params, jax.random.key(0), photo, step_size=2 / 255)
        print(f"{name}: score {-found.losses[-1]:.4g}", flush=True)
        pictures.append(found.images[0])
    shown = [jnp.clip(jaxviz.resize(picture, (240, 240)), 0, 1) for picture in pictures]
    jaxviz.save_image(out / "dream_layers.png", jaxviz.montage(shown, columns=3))


if __name__ == "__main__":
    tyro.cli(main)
