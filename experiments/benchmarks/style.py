"""Neural style compared with PyTorch: loss after as many evaluations, seconds per evaluation, and our memory by size.

    python experiments/benchmarks/style.py ../shared/data/photos/tubingen.jpg ../shared/data/paintings/*.jpg

Needs `pip install torch==2.13.0`. For each painting `jaxviz.stylize` and its PyTorch twin (in
`tests/parity/test_style.py`: same weights, layers, start and terms, `torch.optim.LBFGS`, history 20) run in turn, from
the photograph. The ratio of losses is ours over the lowest that PyTorch reached; the ratio of times PyTorch's median
evaluation over ours. Then, each in a fresh process, 16 steps at several sizes: seconds per step and peak resident
memory.

Takes 14 minutes on two cores. What to look for: a ratio of losses of at most 1.05, and a ratio of times above 1.
"""

import importlib
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import jaxviz

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

LAYERS = [f"relu{block}_1" for block in range(1, 6)]  # of equal weight, as the twin's
ALONE = """
import re, sys, time
from pathlib import Path
import jax, jax.numpy as jnp
import jaxviz

net, params = jaxviz.load("vgg16_features")
side = int(sys.argv[1])
content, style = (jax.random.uniform(jax.random.key(i), (side, side, 3)) for i in range(2))
times = []
jaxviz.stylize(net, params, jax.random.key(0), content, style, steps=16, callback=lambda f: times.append(time.time()))
peak = re.search("VmHWM: *([0-9]+) kB", Path("/proc/self/status").read_text().expandtabs())[1]
print((times[1] - times[0]) / 8, int(peak) / 2**20)
"""


def main(
    content: Annotated[Path, tyro.conf.Positional],
    styles: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    size: int = 256,
    evaluations: int = 100,
    sizes: tuple[int, ...] = (256, 512, 1024),
) -> None:
    """Print both tables.

    Args:
        content: a photograph.
        styles: paintings.
        size: longer side of the photograph and the paintings, for the comparison.
        evaluations: of the loss, on each side.
        sizes: for the table of memory.
    """
    net, params = jaxviz.load("vgg16_features")
    photo = jaxviz.load_image(content, longest=size)
    titles = ("style", "loss, ours", "loss, PyTorch", "ratio", "s an evaluation, ours", "PyTorch", "ratio")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for path in styles:
        painting = jaxviz.load_image(path, longest=size)
        ours, pace = run_ours(net, params, photo, painting, evaluations)
        theirs, their_pace = run_theirs(params, photo, painting, evaluations)
        numbers = (f"{ours:.4f}", f"{theirs:.4f}", f"{ours / theirs:.3f}", f"{pace:.3f}", f"{their_pace:.3f}")
        print(f"| {path.stem} | {' | '.join(numbers)} | {their_pace / pace:.2f} |", flush=True)
    print("\n| pixels | s a step | peak memory, GB |\n|---|---|---|")
    for side in sizes:
        script = [sys.executable, "-c", ALONE, str(side)]
        seconds, peak = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
        print(f"| {side}x{side} | {float(seconds):.2f} | {float(peak):.1f} |", flush=True)


def run_ours(net: Any, params: Any, photo: jax.Array, painting: jax.Array, evaluations: int) -> tuple[float, float]:
    """Return the last loss and the median seconds of an evaluation."""
    times: list[float] = []
    found = jaxviz.stylize(
        net, params, jax.random.key(0), photo, painting, steps=evaluations, style_layers=LAYERS,
        callback=lambda f: times.append(time.time()),
    )  # fmt: skip
    whole = np.diff(times)[: evaluations // 8 - 1] / 8  # of whole chunks of steps, without the one that compiled
    return float(found.losses[-1]), statistics.median(whole)


def run_theirs(params: Any, photo: jax.Array, painting: jax.Array, evaluations: int) -> tuple[float, float]:
    """Return the least loss and the median seconds of an evaluation."""
    torch = importlib.import_module("torch")  # not in the test environment, so not imported by name

    twins = importlib.import_module("parity.test_style")
    torch.set_num_threads(2)
    weights = {"content": 1.0} | dict.fromkeys(twins.STYLE, 20 / len(twins.STYLE))
    twin = twins.Twin(params, photo, painting, torch.float32)
    images = twin.tensor(photo).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [images],
        lr=1,
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
    )
    losses, times = [], []

    def closure() -> object:
        times.append(time.time())
        optimizer.zero_grad()
        terms = twin.terms(images)
        loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    return min(losses), statistics.median(np.diff(times))


if __name__ == "__main__":
    tyro.cli(main)
