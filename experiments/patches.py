"""What nine channels of a layer respond to most in a folder of photographs: `patches.png`.

    python experiments/patches.py ../shared/data/imagenet_samples

A row for each channel: the nine photographs with the strongest response of that channel, each cut to exactly what the
unit sees, its receptive field. Written to `--out`: third-party photographs are not committed.

To look for: one recognisable thing in each row.

Not run on many photographs yet: its cost there is not known.
"""

from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz


def main(
    photographs: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    model: str = "vgg16_features",
    layer: str = "relu4_3",
    channels: tuple[int, ...] | None = None,
    size: int = 224,
    out: Path = Path("out"),
) -> None:
    """Draw the picture.

    Args:
        photographs: a folder.
        model: a name that `jaxviz weights list` shows.
        layer: of the model.
        channels: by default nine, chosen at random among those that respond at all.
        size: of the photographs, in pixels.
        out: folder for the picture.
    """
    net, params = jaxviz.load(model)
    report = lambda found: print(f"{found.seen} photographs", flush=True)  # noqa: E731
    found = jaxviz.top_patches(net, params, photographs, layer=layer, size=size, callback=report)
    patches = found.layers[layer]
    alive = np.flatnonzero(patches.values[:, -1] > 0)
    chosen = channels or sorted(np.random.default_rng(0).choice(alive, 9, replace=False).tolist())
    field = jaxviz.receptive_field(net, params, jnp.zeros((1, size, size, 3)), layer).size
    side = min(96, max(field))
    pictures = []
    for channel in chosen:
        print(f"channel {channel}: {', '.join(f'{value:.3g}' for value in patches.values[channel])}")
        for name, (top, left, bottom, right) in zip(patches.ids[channel], patches.boxes[channel], strict=True):
            crop = jaxviz.load_image(photographs / name, size=size)[top:bottom, left:right]
            scale = side / max(field)
            shape = (max(1, round(crop.shape[0] * scale)), max(1, round(crop.shape[1] * scale)))
            pictures.append(jnp.clip(jaxviz.resize(crop, shape), 0, 1))
    jaxviz.save_image(out / "patches.png", jaxviz.montage(pictures, columns=9))


if __name__ == "__main__":
    tyro.cli(main)
