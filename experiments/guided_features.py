"""What units of a middle layer see, and what they respond to in it: the lecture's "intermediate features".

    python experiments/guided_features.py --images ../shared/data/imagenet_samples

Writes `out/guided_features.png`, which is not committed, since the photographs are not ours. For six channels of
VGG-16's relu4_3, two rows each: the patches of the folder's photographs to which a unit of the channel responds most,
one patch per photograph, and below them guided backprop of that unit (Zeiler & Fergus 2013, Springenberg et al. 2014).
A patch is the unit's receptive field.

Cost: 200 photographs take about 2 minutes on two cores; `--layer` and `--channels` choose others.

What to look for: the patches in a row have one thing in common, and the gradients show that and leave out the rest.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz


def main(
    images: Path,
    *,
    layer: str = "relu4_3",
    channels: tuple[int, ...] = (),
    patches: int = 8,
    photographs: int = 200,
    out: Path = Path("out"),
) -> None:
    """Draw the figure.

    Args:
        images: folder of photographs.
        layer: a layer of vgg16_features.
        channels: the channels; by default the six whose strongest responses stand out most from their usual ones.
        patches: number of patches for each channel.
        photographs: number of photographs, spread evenly over the folder.
        out: folder for the picture.
    """
    net, params = jaxviz.load("vgg16_features")
    paths = sorted(images.glob("*.jpg"))
    paths = paths[:: max(1, len(paths) // photographs)][:photographs]
    peaks, places = zip(*(strongest(net, params, layer, load(path)) for path in paths), strict=True)
    values, places = np.stack(peaks), np.stack(places)  # (photographs, channels), (photographs, channels, 2)
    standing_out = np.sort(values, 0)[-patches:].mean(0) / (values.mean(0) + 1e-6)
    rows = []
    for channel in channels or np.argsort(-standing_out)[:6].tolist():
        best = np.argsort(-values[:, channel])[:patches]
        pairs = [explain(net, params, layer, channel, load(paths[i]), places[i, channel]) for i in best]
        rows += [patch for patch, _ in pairs] + [shown for _, shown in pairs]
        print(f"channel {channel}: {values[best, channel].min():.3g} to {values[best, channel].max():.3g}", flush=True)
    jaxviz.save_image(out / "guided_features.png", jaxviz.montage(rows, columns=patches))


def load(path: Path) -> jax.Array:
    """Return a photograph as a batch of one."""
    return jaxviz.load_image(path, size=224)[None]


@jax.jit
def _peaks(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    flat = values[0].reshape(-1, values.shape[-1])
    return flat.max(0), jnp.stack(jnp.divmod(flat.argmax(0), values.shape[2]), -1)


def strongest(net: Any, params: Any, layer: str, images: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return each channel's largest response to a photograph, and its position."""
    values = READ(net, layer, params, images)
    return jax.tree.map(np.asarray, _peaks(values))


READ = jax.jit(lambda net, layer, *args: jaxviz.capture(net, layer)(*args)[1][layer], static_argnums=(0, 1))


def explain(
    net: Any, params: Any, layer: str, channel: int, images: jax.Array, place: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """Return what a unit sees, and guided backprop of the unit there."""
    row, column = place.tolist()
    maps = jaxviz.guided_backprop(jaxviz.neuron(net, layer, channel, (row, column)), params, images)
    field = jaxviz.receptive_field(net, params, images, layer)
    window = field.window((row, column), (images.shape[1], images.shape[2]))
    shown = (images[0][window], jaxviz.draw(maps[0][window], fine=True))
    patch, gradient = (jnp.clip(jaxviz.resize(x, (96, 96)), 0, 1) for x in shown)
    return patch, gradient


if __name__ == "__main__":
    tyro.cli(main)
