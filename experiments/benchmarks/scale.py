"""A million images, ten million vectors, a hundred thousand points: what they take on this machine.

    python experiments/benchmarks/scale.py features --images 10000 1000000
    python experiments/benchmarks/scale.py neighbors --rows 10000000
    python experiments/benchmarks/scale.py tsne --points 100000

`features`: synthetic images of 32 px through a small network into a store, and the best patches of its channels, each
number of images in a fresh process: images per second beside the bare network's, and peak memory. `neighbors`: vectors
around centers, float16 in a file: exact neighbors by blocks, then an index of FAISS, its recall, and peak memory.
`tsne`: openTSNE of clusters. Each prints one line for each thing it measures.
"""

import functools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz

SIDE, BATCH, CHANNELS = 32, 512, 32


def main(
    what: tyro.conf.Positional[str],
    /,
    *,
    images: tuple[int, ...] = (10_000, 1_000_000),
    rows: int = 10_000_000,
    numbers: int = 64,
    points: int = 100_000,
    folder: Path | None = None,
) -> None:
    """Measure one of them.

    Args:
        what: features, patches, neighbors or tsne.
        images: how many, for features and patches.
        rows: how many vectors, for neighbors.
        numbers: of each vector.
        points: how many, for tsne.
        folder: for what is written; by default a temporary one.
    """
    with tempfile.TemporaryDirectory(dir=folder) as at:
        if what in ("features", "patches") and len(images) > 1:
            for number in images:
                subprocess.run([sys.executable, __file__, what, "--images", str(number)], check=True)
        elif what in ("features", "patches"):
            streamed(what, min(images), Path(at))
        elif what == "neighbors":
            nearest(rows, numbers, Path(at))
        elif what == "tsne":
            embedded(points)
        else:
            raise SystemExit(f"expected features, patches, neighbors or tsne, got {what}")


def told(text: str, start: float) -> None:
    """Print what took how long, and the peak of this process's memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{text}: {time.perf_counter() - start:.1f} s, at most {peak:.2f} GB of memory", flush=True)


def net(params: Any, images: Any) -> Any:
    """Return two convolutions' maps."""
    convolve = functools.partial(
        jax.lax.conv_general_dilated, padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    for kernel in params:
        images = jax.nn.relu(convolve(images, kernel, (2, 2)))
    return images


def streamed(what: str, number: int, folder: Path) -> None:
    """Time `features` or `top_patches` on so many images, beside the bare network on as many batches."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = [0.2 * jax.random.normal(keys[0], (3, 3, 3, 16)), 0.2 * jax.random.normal(keys[1], (3, 3, 16, CHANNELS))]
    draw = lambda i: np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    source = jaxviz.Source([str(i) for i in range(number)], draw)
    batch = np.stack([draw(i) for i in range(BATCH)])
    bare = jax.jit(lambda images: jaxviz.accelerate(net)(params, images / jnp.float32(255)).mean((1, 2)))
    bare(batch).block_until_ready()
    start, batches = time.perf_counter(), min(number // BATCH, 100)
    for _ in range(batches):
        bare(batch).block_until_ready()
    alone = batches * BATCH / (time.perf_counter() - start)
    start = time.perf_counter()
    for i in range(1000):
        draw(i)
    drawn = 1000 / (time.perf_counter() - start)
    start = time.perf_counter()
    if what == "features":
        jaxviz.features(net, params, source, layer="relu_1", size=SIDE, batch_size=BATCH, store=folder / "store")
    else:
        jaxviz.top_patches(net, params, source, layer="relu_1", k=9, size=SIDE, batch_size=BATCH)
    rate = number / (time.perf_counter() - start)
    told(f"{what} of {number} images, {rate:.0f} a second (bare network {alone:.0f}, drawing them {drawn:.0f})", start)


def nearest(count: int, numbers: int, folder: Path) -> None:
    """Time exact neighbors by blocks, and those of an index, of vectors in a file."""
    rng, block = np.random.default_rng(0), 250_000
    centers = rng.normal(size=(1000, numbers)).astype(np.float32)
    drawn = lambda rng, n: centers[rng.integers(0, 1000, n)] + rng.normal(size=(n, numbers)).astype(np.float32)
    bank = np.lib.format.open_memmap(folder / "bank.npy", "w+", np.float16, (count, numbers))
    start = time.perf_counter()
    for first in range(0, count, block):
        part = np.random.default_rng([1, first])
        bank[first : first + block] = drawn(part, min(block, count - first))
    bank.flush()
    told(f"{count} vectors of {numbers} numbers written, {bank.nbytes / 1e9:.1f} GB", start)
    bank, queries = (
        np.load(folder / "bank.npy", mmap_mode="r"),
        drawn(np.random.default_rng(2), 1024).astype(np.float16),
    )
    start = time.perf_counter()
    exact = jaxviz.neighbors(bank, queries, k=10)
    told("exact neighbors of 1024 queries", start)
    find = functools.partial(jaxviz.approximate_neighbors, bank, k=10, store=folder / "index")
    start = time.perf_counter()
    find(queries[:1])
    told(f"an index, {(folder / 'index' / 'index').stat().st_size / 1e9:.2f} GB", start)
    for probes, candidates in ((64, 100), (256, 100), (256, 1000)):
        start = time.perf_counter()
        found = find(queries, probes=probes, candidates=candidates)
        pairs = zip(found.indices, exact.indices, strict=True)
        recall = np.mean([len(np.intersect1d(*pair)) / 10 for pair in pairs])
        told(f"1024 queries, {probes} probes, {candidates} candidates, recall {recall:.3f}", start)


def embedded(count: int) -> None:
    """Time t-SNE of points around 100 centers."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(100, 50))
    labels = rng.integers(0, 100, count)
    points = (centers[labels] + rng.normal(size=(count, 50))).astype(np.float32)
    start = time.perf_counter()
    plane = jaxviz.tsne(points, jax.random.key(0))
    told(f"t-SNE of {count} points", start)
    some = rng.choice(count, 1000, replace=False)
    near = jaxviz.neighbors(plane.astype(np.float32), plane[some].astype(np.float32), k=11, metric="l2").indices[:, 1:]
    print(f"of the ten nearest in the plane, {np.mean(labels[near] == labels[some, None]):.3f} are of the same center")


if __name__ == "__main__":
    tyro.cli(main)
