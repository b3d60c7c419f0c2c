"""What nine channels of a layer respond to most in a folder of photographs: `patches.png`.

    python experiments/patches.py ../shared/data/imagenet_samples
    python experiments/patches.py ../shared/data/imagenet_samples --layer relu5_3

A row for each channel: the nine photographs with the channel's strongest responses, each cropped to exactly what the
unit sees, its receptive field. Written to `--out`: third-party photographs are not committed.

A few hundred photographs do not contain nine examples of what many channels detect. So the channels shown are those
whose patches are most alike to another network: by the mean cosine between EfficientNet-Lite0's features of all pairs
of patches. `--channels` shows others, and `--random` nine at random.

What to look for: one recognizable thing in each row. With 600 photographs of 600 classes, relu4_3's nine are, in order:
human faces; heads; paws; shoulders; wheels; dogs' noses; wheels; heads; wheels low on the ground (similarity 0.40 to
0.47; the median of all channels is 0.29). About half of nine random channels show something that has a name. relu5_3's
are cars; vehicles on wheels; machines with keys; tractors; vessels; animals on legs, and two cars; mixed vehicles;
white animals; screens.

Cost: 18 minutes on two cores shared with other work.
"""

from pathlib import Path
from typing import Annotated, Any

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
    random: bool = False,
    size: int = 224,
    out: Path = Path("out"),
) -> None:
    """Draw the picture.

    Args:
        photographs: a folder.
        model: a network listed by `jaxviz weights list`.
        layer: a layer of the model.
        channels: the channels; by default the nine with the most similar patches.
        random: show nine random channels among those that respond at all.
        size: side of the photographs, in pixels.
        out: folder for the picture.
    """
    net, params = jaxviz.load(model)
    report = lambda found: print(f"{found.seen} photographs", flush=True)
    patches = jaxviz.top_patches(net, params, photographs, layer=layer, size=size, callback=report).layers[layer]
    field = jaxviz.receptive_field(net, params, jnp.zeros((1, size, size, 3)), layer).size
    crops = Crops(photographs, size, patches)
    alive = np.flatnonzero(patches.values[:, -1] > 0)
    if channels is None and random:
        channels = tuple(sorted(np.random.default_rng(0).choice(alive, 9, replace=False).tolist()))
    elif channels is None:
        likeness = alike(crops, patches.values.shape)
        channels = tuple(alive[np.argsort(-likeness[alive])[:9]].tolist())
        print("similarity:", ", ".join(f"{channel}: {likeness[channel]:.3f}" for channel in channels))
        print(f"of all channels that respond: {np.median(likeness[alive]):.3f} (median)")
    side, pictures = min(96, max(field)), []
    for channel in channels:
        print(f"channel {channel}: {', '.join(f'{value:.3g}' for value in patches.values[channel])}")
        for rank in range(patches.values.shape[1]):
            crop = crops[channel * patches.values.shape[1] + rank]
            scale = side / max(field)
            shape = (max(1, round(crop.shape[0] * scale)), max(1, round(crop.shape[1] * scale)))
            pictures.append(jnp.clip(jaxviz.resize(crop, shape), 0, 1))
    jaxviz.save_image(out / "patches.png", jaxviz.montage(pictures, columns=patches.values.shape[1]))


class Crops:
    """The patches of all channels in sequence, read on access."""

    def __init__(self, photographs: Path, size: int, patches: jaxviz.Patches):
        self.photographs, self.size = photographs, size
        self.names = [name for row in patches.ids for name in row]
        self.boxes = patches.boxes.reshape(-1, 4).tolist()
        self.held: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Any:
        name, (top, left, bottom, right) = self.names[i], self.boxes[i]
        if name not in self.held:
            self.held[name] = np.asarray(jaxviz.load_image(self.photographs / name, size=self.size))
        return self.held[name][top:bottom, left:right]


def alike(crops: Crops, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mean cosine of the features of each channel's patches, `(c,)`."""
    net, params = jaxviz.load("efficientnet_lite0")
    report = lambda found: print(f"features of {found.done} of {found.total} patches", flush=True)
    found = jaxviz.features(net, params, crops, layer="pool", size=(96, 96), batch_size=128, callback=report).values
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    unit = unit.reshape(*shape, -1)
    count = shape[1]
    return (np.square(unit.sum(axis=1)).sum(axis=-1) - count) / (count * (count - 1))


if __name__ == "__main__":
    tyro.cli(main)
