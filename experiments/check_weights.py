"""Check that the pretrained weights are correct: the accuracy of one network, and a visual proof of the other.

    python experiments/check_weights.py --images ../shared/data/imagenet_samples --out out/check_weights

The folder holds ImageNet photographs whose file names start with their class number, `0281_n02123045.jpg`.

Cost: 11 minutes of processor time for 600 photographs, two thirds of it for the six synthesized images; it took 14
minutes on two busy CPU cores. The weights, 80 MB, are fetched first if necessary.

What to expect: EfficientNet-Lite0 classifies about 89% of the photographs correctly, and 97% in its top five. (Its
authors report 75% on ImageNet's validation set; it may have seen these photographs in training.) In `--out`:

vgg16_features.png: the 64 kernels of the first layer, which are edges and bars in gray and spots and edges in pairs of
opponent colors; next to them, six images made from noise alone, one for each of CHANNELS, which show the parts named
there.

photographs.png: each of those images next to the nine photographs of the folder to which its channel responds most,
cropped to what the strongest unit sees: they show the same thing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz

LAYER = "relu5_1"
CHANNELS = {
    89: "birds' heads",
    508: "brown dogs' faces",
    413: "dogs' eyes and snouts",
    57: "dogs' noses",
    38: "screens and buttons",
    436: "lights",
}
BATCH = 20


def main(images: Path, out: Path, *, size: int = 160, steps: int = 128) -> None:
    """Measure and draw everything.

    Args:
        images: folder of photographs, each named by its class number.
        out: folder for the pictures.
        size: side of the synthesized images in pixels.
        steps: steps of synthesis.
    """
    paths = sorted(images.glob("[0-9]*.jpg"))
    if not paths:
        raise SystemExit(f"expected photographs such as 0281_n02123045.jpg in {images}, found none")
    report_accuracy(paths)
    channels = jnp.array(list(CHANNELS))
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.channel(net, LAYER, channels)
    made = list(jaxviz.ascend(score, params, jax.random.key(0), size=size, steps=steps).images)
    jaxviz.save_image(out / "vgg16_features.png", proof(params, made))
    rows = zip(made, strongest_crops(net, params, paths, channels), strict=True)
    pictures = [picture for synthesized, crops in rows for picture in (synthesized, *crops)]
    jaxviz.save_image(out / "photographs.png", jaxviz.montage(pictures, columns=10))


# Accuracy


def report_accuracy(paths: Sequence[Path]) -> None:
    """Print how many photographs EfficientNet-Lite0 classifies correctly."""
    net, params = jaxviz.load("efficientnet_lite0")
    best5 = jax.jit(lambda params, images: jax.lax.top_k(net(params, images), 5)[1])
    guesses = np.concatenate([np.asarray(best5(params, batch)) for batch in batches(paths)])
    right = guesses == np.array([int(path.name[:4]) for path in paths])[:, None]
    for name, count in (("top-1", right[:, 0].sum()), ("top-5", right.any(axis=1).sum())):
        low, high = wilson(count, len(paths))
        print(f"{name}: {count} of {len(paths)}, {count / len(paths):.1%} (95% interval {low:.1%} to {high:.1%})")


def wilson(count: int, total: int, *, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval for a proportion, which unlike the normal one holds near 0 and 1 (Wilson 1927)."""
    share, weight = count / total, z**2 / total
    center, reach = share + weight / 2, z * np.sqrt(share * (1 - share) / total + weight / (4 * total))
    return float((center - reach) / (1 + weight)), float((center + reach) / (1 + weight))


def batches(paths: Sequence[Path]) -> Iterator[jax.Array]:
    """Yield the photographs as classifiers take them; a shorter last batch compiles again."""
    for start in range(0, len(paths), BATCH):
        yield jnp.stack([photograph(path) for path in paths[start : start + BATCH]])


def photograph(path: Path) -> jax.Array:
    """Return the middle 224 px of a photograph resized to 256 px on its shorter side."""
    return jaxviz.load_image(path, size=256)[16:240, 16:240]


# The visual proof


def proof(params: Any, made: Sequence[jax.Array]) -> jax.Array:
    """Return the first layer's kernels next to the synthesized images."""
    kernels = jnp.repeat(jnp.repeat(jaxviz.filters(params), 19, axis=1), 19, axis=2)
    return jaxviz.montage([jaxviz.montage(kernels, columns=8), jaxviz.montage(made, columns=3)], columns=2, gap=12)


class Strongest(NamedTuple):
    """For each photograph and channel, `(n, channels)`: the largest value, and its row and column."""

    value: Any
    row: Any
    column: Any


def strongest_crops(net: Any, params: Any, paths: Sequence[Path], channels: jax.Array) -> list[list[jax.Array]]:
    """Return, for each channel, what its strongest unit sees in the nine photographs that activate it most."""
    field = jaxviz.receptive_field(net, params, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32), LAYER)
    found = strongest(net, params, paths, channels)
    crops = []
    for k in range(len(channels)):
        best = np.argsort(-found.value[:, k])[:9]
        crops.append([crop(photograph(paths[i]), field, found.row[i, k], found.column[i, k]) for i in best])
    return crops


def strongest(net: Any, params: Any, paths: Sequence[Path], channels: jax.Array) -> Strongest:
    """Find the strongest responses over all photographs, a batch at a time."""

    @jax.jit
    def look(params, images):
        maps = jaxviz.capture(net, LAYER)(params, images)[1][LAYER][..., channels]
        n, _, width, _ = maps.shape
        flat = maps.reshape(n, -1, len(channels))
        place = flat.argmax(axis=1)
        return Strongest(flat.max(axis=1), place // width, place % width)

    parts = [jax.tree.map(np.asarray, look(params, batch)) for batch in batches(paths)]
    return Strongest(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def crop(image: jax.Array, field: jaxviz.ReceptiveField, row: int, column: int) -> jax.Array:
    """Return what a unit sees, clipped to the image."""
    starts = [o + i * s for o, i, s in zip(field.offset, (row, column), field.stride, strict=True)]
    (top, bottom), (left, right) = (
        (max(start, 0), start + size) for start, size in zip(starts, field.size, strict=True)
    )
    return image[top:bottom, left:right]


if __name__ == "__main__":
    tyro.cli(main)
