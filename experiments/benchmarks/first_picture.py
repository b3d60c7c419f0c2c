"""How long does it take until there is a picture: verbs in a fresh process, and the first call in a script?

    python experiments/benchmarks/first_picture.py                     # the verbs, and a script beside Captum's
    python experiments/benchmarks/first_picture.py --before CHECKOUT   # also those of another checkout, in turn

Each verb runs in a new process, on scikit-image's cat and on 20 crops of it, with what it compiled earlier on disk, as
from the second day on; `--cold` measures the first day, with nothing compiled. The scripts compute one saliency map of
EfficientNet-Lite0 with nothing on disk, ours with the weights that jaxviz fetched, Captum's with random ones: imports,
network and photograph, the first map, and the mean of ten more. Processes take turns, round after round; the table has
medians. Takes several minutes, most of them `patches`. Captum's rows need `pip install torch==2.13.0 captum` and `pip
install --no-deps efficientnet-lite-pytorch==0.1.0`, and are left out otherwise.

What to look for: seconds, not minutes; of the first map most is XLA's compiling.
"""

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import platformdirs
import skimage.data
import tyro

import jaxviz

VERBS = {
    "saliency": ["saliency", "cat.jpg"],
    "cam": ["cam", "cat.jpg"],
    "occlusion": ["occlusion", "cat.jpg"],
    "dream": ["dream", "cat.jpg", "--size", "256"],
    "neighbors": ["neighbors", "cats"],
    "patches": ["patches", "cats"],
}
OURS = """
import jax, jaxviz
net, params = jaxviz.load("efficientnet_lite0")
images = jaxviz.load_image("cat.jpg", size=224)[None]
map = lambda: jax.block_until_ready(jaxviz.saliency(jaxviz.logit(net, 281), params, images))
"""
CAPTUM = """
import torch, numpy, PIL.Image, captum.attr
from efficientnet_lite_pytorch import EfficientNet
net = EfficientNet.from_name("efficientnet-lite0").eval()
image = PIL.Image.open("cat.jpg").convert("RGB").resize((224, 224))
images = torch.from_numpy(numpy.asarray(image, numpy.float32).transpose(2, 0, 1)[None] / 255)
method = captum.attr.Saliency(net)
map = lambda: method.attribute(images.clone().requires_grad_(), target=281).abs().amax(1)
"""
TIMED = """
import time
start = time.perf_counter()
{}
ready = time.perf_counter()
map()
first = time.perf_counter()
for _ in range(10):
    map()
print(ready - start, first - ready, (time.perf_counter() - first) / 10)
"""


def main(
    before: Path | None = None, rounds: int = 3, cold: bool = False, verbs: tuple[str, ...] = tuple(VERBS)
) -> None:
    """Run everything in turn and print two tables.

    Args:
        before: another checkout of jaxviz, to be compared.
        rounds: how often each process runs.
        cold: whether programs are compiled anew in each process.
        verbs: which ones to run.
    """
    here = Path(__file__).resolve().parents[2]
    trees = {"now": here} | ({} if before is None else {"before": before.resolve()})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for place in (work, *(work / f"work-{name}" for name in trees)):  # features are kept beside where one works
            _photographs(place)
        caches = {name: work / name for name in trees}
        for cache in caches.values():
            shutil.copytree(
                Path(os.environ.get("JAXVIZ_CACHE") or platformdirs.user_cache_dir("jaxviz")) / "weights",
                cache / "weights",
            )
        taken: dict[str, dict[str, list[float]]] = {}
        for i in range(rounds + (not cold)):
            for verb in verbs:
                for name, tree in trees.items():
                    if cold:
                        shutil.rmtree(caches[name] / "xla", ignore_errors=True)
                    seconds = _of_verb(VERBS[verb], tree, caches[name], work / f"work-{name}")
                    if i or cold:  # before, programs are put on disk
                        taken.setdefault(verb, {}).setdefault(name, []).append(seconds)
                    print(verb, name, f"{seconds:.2f}", flush=True)
        _print(
            "verb, s", {verb: {name: statistics.median(x) for name, x in row.items()} for verb, row in taken.items()}
        )
        scripts = {name: (OURS, {"PYTHONPATH": str(tree)}) for name, tree in trees.items()}
        if importlib.util.find_spec("captum") and importlib.util.find_spec("efficientnet_lite_pytorch"):
            scripts["Captum"] = (CAPTUM, {})
        runs: dict[str, list[list[float]]] = {name: [] for name in scripts}
        for _ in range(rounds):
            for name, script in scripts.items():
                runs[name].append(_of_script(*script, work))
        parts = ("imports, network, photograph", "first map", "each further map")
        medians = {
            name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in runs.items()
        }
        _print("script, s", {part: {name: medians[name][i] for name in medians} for i, part in enumerate(parts)})


def _photographs(work: Path) -> None:
    cat = jaxviz.load_image(skimage.data.chelsea())
    jaxviz.save_image(work / "cat.jpg", cat)
    for i in range(20):
        jaxviz.save_image(work / "cats" / f"{i}.jpg", cat[5 * i : 5 * i + 200, 10 * i : 10 * i + 250])


def _of_verb(verb: list[str], tree: Path, cache: Path, work: Path) -> float:
    shutil.rmtree(work / "out", ignore_errors=True)
    here = os.environ | {"PYTHONPATH": str(tree), "JAXVIZ_CACHE": str(cache)}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jaxviz", *verb, "--out", "out"], cwd=work, env=here, check=True, stdout=-3)
    return time.perf_counter() - start


def _of_script(script: str, more: dict[str, str], work: Path) -> list[float]:
    command = [sys.executable, "-c", TIMED.format(script)]
    return [float(x) for x in subprocess.check_output(command, cwd=work, env=os.environ | more, text=True).split()]


def _print(title: str, table: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(table.values())))
    print("\n| " + " | ".join([title, *names]) + " |\n|" + "---|" * (len(names) + 1))
    for row, values in table.items():
        print("| " + " | ".join([row, *(f"{values[name]:.2f}" for name in names)]) + " |")
    print(json.dumps(table))


if __name__ == "__main__":
    tyro.cli(main)
