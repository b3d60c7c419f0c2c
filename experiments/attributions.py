"""Every attribution method on the same photographs, side by side: `experiments/figures/attributions.png`.

    python experiments/attributions.py [PHOTOGRAPH ...] [--out FOLDER]

EfficientNet-Lite0, for the class that it ranks first. From left to right: the photograph, gradient, input x gradient,
integrated gradients, SmoothGrad, guided backprop, deconvnet, occlusion, RISE, Grad-CAM, guided Grad-CAM. 3 minutes on
two cores, most of them for RISE.

What to look for: gradients are speckled; guided backprop draws the edges of everything, and multiplied by Grad-CAM only
those of the object; occlusion, RISE and Grad-CAM agree on where the object is.
"""

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro
from skimage import data

import jaxviz

FIGURES = Path(__file__).parent / "figures"
METHODS = {
    "gradient": lambda s, p, k, x: abs(jaxviz.gradient(s, p, x)).max(-1),
    "input x gradient": lambda s, p, k, x: abs(jaxviz.input_x_gradient(s, p, x)).max(-1),
    "integrated gradients": lambda s, p, k, x: abs(jaxviz.integrated_gradients(s, p, x, baseline=0.5).maps).max(-1),
    "SmoothGrad": lambda s, p, k, x: abs(jaxviz.smoothgrad(s, p, k, x)).max(-1),
    "guided backprop": lambda s, p, k, x: abs(jaxviz.guided_backprop(s, p, x)).max(-1),
    "deconvnet": lambda s, p, k, x: abs(jaxviz.deconvnet(s, p, x)).max(-1),
    "occlusion": lambda s, p, k, x: jaxviz.occlusion(s, p, x, window=48),
    "RISE": lambda s, p, k, x: jaxviz.rise(s, p, k, x, masks=2000),
    "Grad-CAM": lambda s, p, k, x: jaxviz.grad_cam(s, p, x, layer="head"),
    "guided Grad-CAM": lambda s, p, k, x: abs(jaxviz.guided_grad_cam(s, p, x, layer="head")).max(-1),
}


def main(photographs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (), /, *, out: Path = FIGURES) -> None:
    """Draw the figure.

    Args:
        photographs: files; by default three of scikit-image's.
        out: folder for the picture.
    """
    net, params = jaxviz.load("efficientnet_lite0")
    key = jax.random.key(0)
    cells = []
    for source in photographs or (data.chelsea(), data.coffee(), data.astronaut()):
        images = jaxviz.load_image(source, size=256)[None, 16:240, 16:240]
        best = jnp.argmax(jax.jit(net)(params, images), axis=-1)
        print(jaxviz.class_names()[int(best[0])], flush=True)
        cells.append(images[0])
        for name, method in METHODS.items():
            score = (jaxviz.probability if name in ("occlusion", "RISE") else jaxviz.logit)(net, best)
            map = method(score, params, key, images)[0]
            print(f"  {name}: {float(map.min()):.3g} to {float(map.max()):.3g}", flush=True)
            regions = name in ("occlusion", "RISE", "Grad-CAM")
            cells.append(jaxviz.draw(map, over=images[0]) if regions else jaxviz.draw(map, fine=True))
    small = jnp.clip(jaxviz.resize(jnp.stack(cells), (160, 160)), 0, 1)
    jaxviz.save_image(out / "attributions.png", jaxviz.montage(small, columns=1 + len(METHODS)))


if __name__ == "__main__":
    tyro.cli(main)
