"""Classes by gradient ascent, and how little it takes to fool the network: `classes.png`, `fooling.png`.

    python experiments/classes.py

EfficientNet-Lite0. `classes.png`: three classes, one row each, by `recipe("simonyan")` (the lecture's four steps),
`recipe("cs231n")`, and `ascend`'s own defaults. `fooling.png`: scikit-image's cat, the cat classified as a castle, and
their difference, amplified ten times.

Cost: 7 minutes of processor time.

What to look for: birds' necks, towers and spots, faint and small in the first column, larger in the second; in the
third a castle, dogs in the grass, and feathers closer up; and that the two cats look the same.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from skimage import data

import jaxviz

FIGURES = Path(__file__).parent / "figures"
CLASSES = ("flamingo", "castle", "dalmatian")


def main(*, out: Path = FIGURES) -> None:
    """Draw both figures.

    Args:
        out: folder for the pictures.
    """
    net, params = jaxviz.load("efficientnet_lite0")
    score = jaxviz.logit(net, np.array([jaxviz.class_index(name) for name in CLASSES]))
    columns = []
    runs: tuple[dict[str, Any], ...] = (jaxviz.recipe("simonyan"), jaxviz.recipe("cs231n"), {})
    for options in runs:
        found = jaxviz.ascend(score, params, jax.random.key(0), **options)
        print(f"scores {[round(float(s), 1) for s in score(params, found.images)]}", flush=True)
        columns.append(found.images)
    pictures = [column[i] for i in range(len(CLASSES)) for column in columns]
    jaxviz.save_image(out / "classes.png", jaxviz.montage(pictures, columns=len(columns)))

    photo = jaxviz.load_image(data.chelsea(), size=256)[None, 16:240, 16:240]
    castle = jaxviz.class_index("castle")
    found = jaxviz.fool(net, params, photo, target=castle)
    change = found.images - photo
    for name, images in (("before", photo), ("after", found.images)):
        chances = jax.nn.softmax(net(params, images))[0]
        print(f"{name}: {jaxviz.class_names()[int(chances.argmax())]} {chances.max():.1%}")
    print(f"{len(found.losses)} steps, root mean square of the change {jnp.sqrt(jnp.mean(change**2)):.4f}")
    shown = [photo[0], found.images[0], jnp.clip(0.5 + 10 * change[0], 0, 1)]
    jaxviz.save_image(out / "fooling.png", jaxviz.montage(shown, columns=3))


if __name__ == "__main__":
    tyro.cli(main)
