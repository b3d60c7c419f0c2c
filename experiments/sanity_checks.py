"""Adebayo et al.'s sanity check: how much of a map remains as the network is shuffled, layer by layer from the top.

    python experiments/sanity_checks.py --images ../shared/data/imagenet_samples

Writes `sanity_checks.png`: for each network and method the Spearman rank correlation of absolute maps with the original
ones (mean, minimum and maximum over the photographs) against the layer down to which the parameters are shuffled.
Networks: `vgg16_features`, explained for the energy of relu5_3, since a single channel may be dead after shuffling and
then has no map; and EfficientNet-Lite0, explained for its class, with Grad-CAM at "head". Also writes
`sanity_maps.png`, the maps of the first photograph.

Cost: 4 photographs take 2.5 minutes per method with VGG-16 and 1.2 with EfficientNet on two cores.

What to expect, as in Figure 2 of "Sanity Checks for Saliency Maps" (2018): the gradient and Grad-CAM lose their rank
correlation at once; guided backprop and guided Grad-CAM keep much of it until the lowest layers are shuffled, since
they show the edges of the image more than what the network has learned.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")  # draws without a display

import matplotlib.pyplot as plt
import numpy as np
import tyro

import jaxviz

FIGURES = Path(__file__).parent / "figures"
VGG = [f"conv{block}_{i}" for block, depth in ((5, 3), (4, 3), (3, 3), (2, 2), (1, 2)) for i in range(depth, 0, -1)]
EFFICIENTNET = """
    logits head block7_1 block6_4 block6_2 block6_1 block5_3 block5_1 block4_3 block4_1 block3_2 block3_1 block2_2
    block2_1 block1_1 stem
""".split()
METHODS: dict[str, Callable[..., Any]] = {
    "gradient": lambda score, params, images: jaxviz.saliency(score, params, images),
    "guided backprop": lambda score, params, images: abs(jaxviz.guided_backprop(score, params, images)).max(-1),
    "Grad-CAM": lambda score, params, images: jaxviz.grad_cam(score, params, images, layer="head"),
    "guided Grad-CAM": lambda score, params, images: abs(
        jaxviz.guided_grad_cam(score, params, images, layer="head")
    ).max(-1),
}


def main(images: Path, *, out: Path = FIGURES, photographs: int = 4) -> None:
    """Draw both figures and print the numbers.

    Args:
        images: folder of photographs.
        out: folder for the pictures.
        photographs: number of photographs, spread evenly over the folder.
    """
    paths = sorted(images.glob("*.jpg"))
    chosen = paths[:: max(1, len(paths) // photographs)][:photographs]
    batch = jnp.stack([jaxviz.load_image(path, size=256)[16:240, 16:240] for path in chosen])
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.5), sharey=True, layout="constrained")
    rows: list[jax.Array] = []
    cases = (("vgg16_features", VGG, ("gradient", "guided backprop")), ("efficientnet_lite0", EFFICIENTNET, METHODS))
    for axis, (name, layers, labels) in zip(axes, cases, strict=True):
        net, params = jaxviz.load(name)
        score = score_of(name, net, params, batch)
        for label in labels:
            maps = functools.partial(explain, METHODS[label], score)
            found = jaxviz.sanity_check(net, params, jax.random.key(0), batch, method=maps, layers=layers)
            values = np.array([found[layer] for layer in layers])
            numbers = [f"{layer} {value:.2f}" for layer, value in zip(layers, values.mean(1), strict=True)]
            print(f"{name}, {label}: {', '.join(numbers)}", flush=True)
            axis.plot(layers, values.mean(1), marker=".", label=label)
            axis.fill_between(range(len(layers)), values.min(1), values.max(1), alpha=0.12)
            rows += cells(maps, net, params, batch[:1], layers)
        axis.set_title(f"{name}, {len(batch)} photographs")
        axis.set_xlabel("shuffled from the output down to")
        axis.tick_params(axis="x", rotation=70)
        axis.axhline(0, color="gray", linewidth=0.5)
    axes[0].set_ylabel("rank correlation with the original map")
    axes[-1].legend(fontsize=8)  # the one with all methods
    figure.savefig(out / "sanity_checks.png", dpi=90)
    jaxviz.save_image(out / "sanity_maps.png", jaxviz.montage(rows, columns=6))


def explain(method: Callable[..., Any], score: Any, params: Any, images: jax.Array) -> jax.Array:
    """Return a method's maps of all images."""
    return method(jax.tree.map(lambda numbers: numbers[: len(images)], score), params, images)


def score_of(name: str, net: Any, params: Any, images: jax.Array) -> Any:
    """Return the score to explain, fixed before anything is shuffled."""
    if name == "efficientnet_lite0":
        return jaxviz.logit(net, jnp.argmax(jax.jit(net)(params, images), axis=-1))
    return jaxviz.energy(net, "relu5_3")


def cells(maps: Callable[..., Any], net: Any, params: Any, images: jax.Array, layers: Sequence[str]) -> list[jax.Array]:
    """Return the map of one photograph, then with a fifth of the layers shuffled, two fifths, ..."""
    chosen = layers[:: -(-len(layers) // 5)][:5]
    shuffled = [jaxviz.randomize(net, params, jax.random.key(0), images, down_to=layer) for layer in chosen]
    shown = [maps(each, images)[0] for each in (params, *shuffled)]
    return [jnp.clip(jaxviz.resize(jaxviz.draw(map, fine=True), (112, 112)), 0, 1) for map in shown]


if __name__ == "__main__":
    tyro.cli(main)
