"""Does `features` keep the network busy, and does its memory stay flat?

    python experiments/benchmarks/features.py ../shared/data/imagenet_samples
    python experiments/benchmarks/features.py ../shared/data/imagenet_samples --images 600 6000 60000

EfficientNet-Lite0's last vectors into a store, for the photographs of a folder, repeated as often as necessary. In
turn, for several rounds: the network alone on a batch in memory, reading alone (`features` of a network that computes
mean colors, in memory), and `features` end to end on as many images: read, decoded, cropped, computed and written.
Processor time is that of all cores together. Then, in a fresh process for each number of images, peak resident memory.

Measured on 2 idle cores, medians of five rounds: the network alone 68.0 images per second and 26.0 ms of processor time
per image, reading alone 535 and 3.3, `features` 61.6 and 30.5: 80% to 96% of the network's rate within a round. Little
overhead is added, but the network has to share the cores with reading; an accelerator would not. Peak memory in one run
over 60,000 images (16 minutes): 0.99 GB after 96, 1.05 after 1,280, 1.11 after 19,200 and 1.12 at the end.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.ad_checkpoint import checkpoint_name

import jaxviz
from jaxviz import Source, open_source

BATCH = 32


def main(
    photographs: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    rounds: int = 3,
    batches: int = 10,
    images: tuple[int, ...] = (600, 6000),
) -> None:
    """Print the rates, and a line for each number of images.

    Args:
        photographs: a folder.
        rounds: of both programs.
        batches: of 32 images, in a round.
        images: how many, for memory; none: only the rates.
    """
    if rounds:
        rates(photographs, rounds, batches)
    for number in images:
        call = [sys.executable, __file__, str(photographs), "--rounds", "0", "--images", str(number)]
        if len(images) == 1 and not rounds:
            memory(photographs, number)
        else:
            subprocess.run(call, check=True)


def rates(photographs: Path, rounds: int, batches: int) -> None:
    """Time the network alone and `features` in turn."""
    net, params = jaxviz.load("efficientnet_lite0")
    source = repeated(photographs, BATCH * batches)
    batch = np.stack([jaxviz.load_image(source.read(i), size=224) for i in range(BATCH)])
    times: dict[str, list[tuple[float, float]]] = {"network alone": [], "reading alone": [], "features": []}

    vectors = jax.jit(jaxviz.accelerate(jaxviz.capture(net, "pool")))

    def alone() -> None:
        for _ in range(batches):
            jax.block_until_ready(vectors(params, batch))

    def reading() -> None:
        jaxviz.features(colors, None, source, layer="colors", size=224, batch_size=BATCH)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as store:
            jaxviz.features(net, params, source, layer="pool", batch_size=BATCH, store=store)

    alone()  # compiles
    for _ in range(rounds):
        for name, work in zip(times, (alone, reading, whole), strict=True):
            start, used = time.perf_counter(), time.process_time()
            work()
            times[name].append((time.perf_counter() - start, time.process_time() - used))
    for name, taken in times.items():
        wall, used = (statistics.median(each) / (BATCH * batches) for each in zip(*taken, strict=True))
        print(f"{name}: {1 / wall:.1f} images a second, {1000 * used:.1f} ms of processor an image", flush=True)
    shares = [alone / whole for (alone, _), (whole, _) in zip(times["network alone"], times["features"], strict=True)]
    print(f"end to end of the network's rate: {', '.join(f'{share:.0%}' for share in shares)}", flush=True)


def colors(params: Any, images: jax.Array) -> jax.Array:
    """Compute next to nothing: mean colors."""
    return checkpoint_name(images.mean((1, 2)), "colors")


def memory(photographs: Path, number: int) -> None:
    """Print the peak of this process's memory after that many images."""
    net, params = jaxviz.load("efficientnet_lite0")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as store:
        found = jaxviz.features(net, params, repeated(photographs, number), layer="pool", batch_size=BATCH, store=store)
        took, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{found.values.shape[0]} images: {took:.0f} s, at most {peak / 1e6:.2f} GB of memory", flush=True)


def repeated(photographs: Path, number: int) -> Source:
    """Return a folder's images again and again, each time under another name."""
    once = open_source(photographs)
    names = [f"{i // len(once.ids)}/{once.ids[i % len(once.ids)]}" for i in range(number)]
    return Source(names, lambda i: once.read(i % len(once.ids)))


if __name__ == "__main__":
    tyro.cli(main)
