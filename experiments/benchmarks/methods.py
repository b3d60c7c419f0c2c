"""jaxviz compared with PyTorch, method by method: time, memory, compile time, and distance from the processor's limit.

    python experiments/benchmarks/methods.py                 # all; --only saliency style_512 for some
    python experiments/benchmarks/methods.py --rounds 7 --json-file speed.json

Needs `pip install torch==2.13.0 captum` and `pip install --no-deps efficientnet-lite-pytorch==0.1.0`. Both sides run
the same network on the same weights (VGG-16's convolutions, a random 1000-way head) in one process, alternating; a
ratio is PyTorch's time over ours in one round, and the table has the median and the range over the rounds. PyTorch gets
two threads; both memory layouts and `torch.compile` (where there is a C++ compiler) are tried first and the fastest is
measured, and likewise Captum's layout and batch size (`perturbations_per_eval`, `internal_batch_size`), whose hooks do
not work in compiled modules. On a GPU both sides run there, PyTorch with `torch.compile` at "max-autotune".

The floor is the time that the method's floating-point operations would take at the rate of a product of two 2048x2048
matrices, measured first; Winograd's convolution does fewer operations, so more than 100% is possible. Peak memory is
that of a fresh process that does nothing else, including the runtime and the weights. Compile time is the first call's
time minus the second's; "again" is the same in a new process that finds the first one's programs on disk.

On two idle cores with AVX-512, all cases with three rounds took 29 minutes. On a GPU, before, occlusion, integrated
gradients and the pass of the style net were run.

What to look for: ratios above 1 everywhere; memory at most twice PyTorch's.
"""

import dataclasses
import functools
import importlib
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from networks import made

import jaxviz
from jaxviz import accelerate

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

Run = Callable[[], Any]
Prepare = Callable[[Any], Any]
CLASSES = 281
NETWORKS = {"resnet50": ("ResNet-50", 8.2), "convnext_tiny": ("ConvNeXt-T", 8.9), "vit_b16": ("ViT-B/16", 35.1)}
WIDTH = 32
BORDER = 28  # reflected pixels on each side, which `restyle` adds and cuts off again


limits = {"side": 1 << 20}  # of pictures in pixels, which `--largest` sets


def side(size: int) -> int:
    """Return the side of pictures that are to have so many pixels."""
    return min(size, limits["side"])


def picture(size: int, number: int = 1) -> np.ndarray:
    """Return scikit-image's cat, `(number, size, size, 3)`."""
    import skimage.data

    image = jaxviz.load_image(skimage.data.chelsea(), size=side(size))
    return np.repeat(np.asarray(image)[None], number, axis=0)


# Ours


def vgg() -> tuple[Any, Any]:
    """Return the classifier of the parity tests."""
    net, params = importlib.import_module("parity.vgg").classifier()
    return net, jax.tree.map(jnp.asarray, params)


def our_forward(size: int, number: int) -> Run:
    """Return the logits' computation."""
    net, params = vgg()
    images, run = jnp.asarray(picture(size, number)), jax.jit(accelerate(net))
    return lambda: jax.block_until_ready(run(params, images))


def our_network(name: str, gradient: bool) -> Run:
    """Return the logits of a network that people use, or the gradient of one with respect to the image."""
    net, params, _ = made(name, side(224))
    images, score, run = jnp.asarray(picture(224)), jaxviz.logit(net, CLASSES), jax.jit(accelerate(net))
    if gradient:
        return lambda: jax.block_until_ready(jaxviz.gradient(score, params, images))
    return lambda: jax.block_until_ready(run(params, images))


def our_method(method: Callable[..., Any], size: int = 224, number: int = 1, **options: Any) -> Run:
    """Return an attribution of a logit."""
    net, params = vgg()
    images, score = jnp.asarray(picture(size, number)), jaxviz.logit(net, CLASSES)
    return lambda: jax.block_until_ready(method(score, params, images, **options))


def our_channels(steps: int) -> Run:
    """Return gradient ascent on eight channels side by side, from noise in pixels."""
    net, params = jaxviz.load("vgg16_features")
    score = jaxviz.channel(net, "relu4_3", jnp.arange(8))
    options = {"size": side(224), "steps": steps, "basis": jaxviz.pixels, "transform": None}
    return lambda: jax.block_until_ready(jaxviz.ascend(score, params, jax.random.key(0), **options).images)


def our_style(size: int, steps: int, optimizer: str) -> Run:
    """Return so many steps of style transfer; both sides compute the targets each time."""
    net, params = jaxviz.load("vgg16_features")
    content, style = jnp.asarray(picture(size)[0]), jnp.asarray(picture(size)[0, ::-1])
    key = jax.random.key(0)
    layers = [f"relu{block}_1" for block in range(1, 6)]  # of equal weight, as the twin's
    run = {"steps": steps, "optimizer": optimizer, "style_layers": layers}
    return lambda: jax.block_until_ready(jaxviz.stylize(net, params, key, content, style, **run).images)


def our_pass(size: int) -> Run:
    """Return one pass of a net of fast style transfer, as wide as the one that comes with jaxviz."""
    params, image = jaxviz.init_style_net(jax.random.key(0), width=WIDTH, styles=2), picture(size)[0]
    return lambda: jaxviz.restyle(params, image, style=1)


def our_features(number: int) -> Run:
    """Return the last vectors of EfficientNet-Lite0, 20 images at a time."""
    net, params = jaxviz.load("efficientnet_lite0")
    images, run = jnp.asarray(picture(224, 20)), jax.jit(accelerate(jaxviz.capture(net, "pool")))
    return lambda: [jax.block_until_ready(run(params, images)[1]) for _ in range(number // 20)]


# Theirs


def torch_side() -> tuple[Any, Any]:
    """Return PyTorch, on as many threads as there are cores, and the device that it uses."""
    torch = importlib.import_module("torch")  # not in the test environment, so not imported by name
    torch.set_num_threads(os.cpu_count() or 1)
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True  # as XLA does
    return torch, torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")


def fastest(makers: dict[str, Callable[[bool], Run]]) -> Run:
    """Return the fastest of several ways to do the same, found out on less of the work: `make(True)`."""
    times = {}
    for name, make in makers.items():
        run = make(True)
        run()
        times[name] = min(seconds(run) for _ in range(2))
    return makers[min(times, key=lambda name: times[name])](False)


def layouts() -> dict[str, Callable[[Any], Any]]:
    """Return what puts modules and images on the device in either of PyTorch's memory layouts."""
    torch, device = torch_side()
    formats = {"usual": torch.contiguous_format, "channels last": torch.channels_last}
    return {name: lambda x, form=form: x.to(device, memory_format=form) for name, form in formats.items()}


def best_of(make: Callable[[Prepare, Prepare, bool], Run]) -> Run:
    """Return the fastest of what `make(prepare, compiled, less)` gives: in both layouts, and by `torch.compile`."""
    torch, device = torch_side()
    torch.compiler.reset()  # or else it counts the rows before as recompilations, and gives up
    keep = lambda module: module
    ways = {name: (prepare, keep) for name, prepare in layouts().items()}
    if device.type == "cuda" or shutil.which("g++"):  # compiled modules choose layouts themselves
        options = {"mode": "max-autotune"} if device.type == "cuda" else {}
        ways["compiled"] = layouts()["channels last"], functools.partial(torch.compile, **options)
    return fastest({name: lambda less, way=way: make(*way, less) for name, way in ways.items()})


def as_tensor(images: np.ndarray) -> Any:
    """Return images as PyTorch has them."""
    return torch_side()[0].tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def finished(value: Any) -> Any:
    """Wait for the GPU, if there is one."""
    torch, device = torch_side()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return value


def their_logits(network: Callable[[], Any], size: int, number: int, gradient: bool) -> Run:
    """Return a network's logits, or the gradient of one with respect to images; PyTorch is told it needs no other."""

    def make(prepare: Prepare, compiled: Prepare, less: bool) -> Run:
        torch, _ = torch_side()
        module = compiled(prepare(network().eval().requires_grad_(False)))
        images = prepare(as_tensor(picture(size, number))).requires_grad_(gradient)
        if gradient:
            return lambda: finished(torch.autograd.grad(module(images)[:, CLASSES].sum(), images))

        def run() -> Any:
            with torch.no_grad():
                return finished(module(images))

        return run

    return best_of(make)


def their_network(name: str, gradient: bool) -> Run:
    """Return the logits of a network that people use, or the gradient of one with respect to the image."""
    return their_logits(lambda: made(name, side(224))[2], 224, 1, gradient)


def their_classifier(prepare: Callable[[Any], Any]) -> Any:
    """Return the parity tests' classifier."""
    twins = importlib.import_module("parity.vgg")
    return prepare(twins.torch_classifier(twins.classifier()[1]).eval())


def their_forward(size: int, number: int) -> Run:
    """Return the logits' computation."""
    return their_logits(lambda: their_classifier(lambda module: module), size, number, gradient=False)


def their_gradient(size: int, number: int) -> Run:
    """Return the gradient of a logit with respect to the images."""
    return their_logits(lambda: their_classifier(lambda module: module), size, number, gradient=True)


def their_method(
    name: str, *, batch: tuple[str, tuple[int, ...]] | None = None, less: dict[str, Any] | None = None, **options: Any
) -> Run:
    """Return one of Captum's attributions of a logit, parameters frozen.

    Args:
        name: of the class.
        batch: the option that says how much is evaluated at once, and numbers to try.
        less: options of a smaller job, by which layout and batch are chosen.
        options: of the method.
    """

    def make(prepare: Callable[[Any], Any], small: bool, **at_once: int) -> Run:
        attr = importlib.import_module("captum.attr")
        module, images = their_classifier(prepare).requires_grad_(False), prepare(as_tensor(picture(224)))
        method, given = getattr(attr, name)(module), options | at_once | ((less or {}) if small else {})
        return lambda: finished(method.attribute(images.requires_grad_(), target=CLASSES, **given))

    option, numbers = batch or ("", ())
    ways = [{option: number} for number in numbers] or [{}]
    return fastest(
        {
            f"{layout} {way}": lambda small, to=prepare, way=way: make(to, small, **way)
            for layout, prepare in layouts().items()
            for way in ways
        }
    )


def their_occlusion(window: int, stride: int) -> Run:
    """Return Captum's occlusion."""
    shape = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride), "baselines": 0.5}
    batch = ("perturbations_per_eval", (1, 4, 16))
    return their_method(
        "Occlusion", batch=batch, less={"strides": (3, 64, 64), "sliding_window_shapes": (3, 64, 64)}, **shape
    )


def their_integrated_gradients(steps: int) -> Run:
    """Return Captum's integrated gradients."""
    batch = ("internal_batch_size", (1, 5, 25))
    return their_method("IntegratedGradients", batch=batch, less={"n_steps": 5}, n_steps=steps)


def their_channels(steps: int) -> Run:
    """Return gradient ascent on eight channels side by side by Adam, from noise in pixels."""

    def make(prepare: Prepare, compiled: Prepare, less: bool) -> Run:
        torch, device = torch_side()
        params = jax.tree.map(np.asarray, jaxviz.load("vgg16_features")[1])
        module = importlib.import_module("parity.vgg").torch_vgg(params, "relu4_3").requires_grad_(False)
        module, channels = compiled(prepare(module)), torch.arange(8, device=device)
        shape = (8, 3, *[side(224)] * 2)
        start = prepare(0.5 + 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(0)))

        def run() -> Any:
            images = start.clone().requires_grad_()
            optimizer = torch.optim.Adam([images], lr=0.05)
            for _ in range(1 if less else steps):
                optimizer.zero_grad()
                maps = module(images)
                (-maps.mean((2, 3))[torch.arange(8, device=device), channels].sum()).backward()
                optimizer.step()
            return finished(images)

        return run

    return best_of(make)


def their_style(size: int, steps: int, optimizer: str) -> Run:
    """Return so many steps (L-BFGS: evaluations) of the parity tests' twin of `stylize`."""
    twins = importlib.import_module("parity.test_style")

    def make(prepare: Prepare, compiled: Prepare, less: bool) -> Run:
        torch, _ = torch_side()
        params = jax.tree.map(np.asarray, jaxviz.load("vgg16_features")[1])
        content, style = picture(size)[0], picture(size)[0, ::-1]
        weights = {"content": 1.0} | dict.fromkeys(twins.STYLE, 20 / len(twins.STYLE))

        def run() -> Any:
            twin = twins.Twin(params, content, style, torch.float32, prepare)
            terms_of = compiled(twin.terms)
            start = twin.tensor(content)
            images = (start if optimizer == "adam" else start.contiguous()).requires_grad_()  # as its L-BFGS needs them
            count = 1 if less else steps
            step = torch.optim.Adam([images], lr=0.02) if optimizer == "adam" else lbfgs(torch, images, count)

            def closure() -> Any:
                step.zero_grad()
                terms = terms_of(prepare(images))
                loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
                loss.backward()
                return loss

            for _ in range(count if optimizer == "adam" else 1):
                step.step(closure)
            return finished(images)

        return run

    return best_of(make)


def their_pass(size: int) -> Run:
    """Return one pass of the parity tests' twin of the style net."""
    twin = importlib.import_module("parity.test_style_net").twin

    def make(prepare: Prepare, compiled: Prepare, less: bool) -> Run:
        torch, device = torch_side()
        run_twin = compiled(twin)
        params = jax.tree.map(np.array, jaxviz.init_style_net(jax.random.key(0), width=WIDTH, styles=2))
        weights = jax.tree.map(lambda x: torch.tensor(x, device=device), params)
        images = prepare(as_tensor(picture(size)))

        def run() -> Any:
            with torch.no_grad():  # and with restyle's border
                around = torch.nn.functional.pad(images, (BORDER,) * 4, mode="reflect")
                return finished(run_twin(weights, around)[..., BORDER:-BORDER, BORDER:-BORDER])

        return run

    return best_of(make)


def lbfgs(torch: Any, images: Any, evaluations: int) -> Any:
    """Return PyTorch's L-BFGS, to be stopped after so many evaluations and by nothing else."""
    limits = {"max_iter": evaluations, "max_eval": evaluations, "tolerance_grad": 0, "tolerance_change": 0}
    return torch.optim.LBFGS([images], lr=1, history_size=20, **limits)


def their_features(number: int) -> Run:
    """Return the last vectors of EfficientNet-Lite0, 20 images at a time."""

    def make(prepare: Prepare, compiled: Prepare, less: bool) -> Run:
        torch, _ = torch_side()
        package = importlib.import_module("efficientnet_lite_pytorch")
        # Random weights: only the time is compared.
        module = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
        module, images = compiled(prepare(module.eval())), prepare(as_tensor(picture(224, 20)))

        def run() -> Any:
            with torch.no_grad():
                return [
                    finished(module.extract_features(images).mean((2, 3))) for _ in range(1 if less else number // 20)
                ]

        return run

    return best_of(make)


# What is compared


@dataclasses.dataclass(frozen=True)
class Case:
    """The same work on both sides."""

    title: str
    ours: Callable[[], Run]
    theirs: Callable[[], Run]
    work: float  # in forward passes of VGG-16 at 224 px, a gradient counted as two
    goal: float | None = None  # the least ratio that is asked for


FORWARD = 30.7e9  # floating-point operations of VGG-16's convolutions at 224 px
PIXELS = (512 / 224) ** 2
STEPS = 8  # one chunk of `minimize`

CASES = {
    "forward": Case("forward, 224 px", lambda: our_forward(224, 1), lambda: their_forward(224, 1), 1),
    "forward_8": Case("forward, 8 of 224 px", lambda: our_forward(224, 8), lambda: their_forward(224, 8), 8),
    "forward_512": Case("forward, 512 px", lambda: our_forward(512, 1), lambda: their_forward(512, 1), PIXELS),
    "gradient": Case(
        "input gradient, 224 px", lambda: our_method(jaxviz.gradient), lambda: their_gradient(224, 1), 2, 1.2
    ),
    "gradient_8": Case(
        "input gradient, 8 of 224 px",
        lambda: our_method(jaxviz.gradient, 224, 8),
        lambda: their_gradient(224, 8),
        16,
    ),
    "gradient_512": Case(
        "input gradient, 512 px",
        lambda: our_method(jaxviz.gradient, 512),
        lambda: their_gradient(512, 1),
        2 * PIXELS,
        1.4,
    ),
    "saliency": Case("Saliency", lambda: our_method(jaxviz.saliency), lambda: their_method("Saliency"), 2, 1.2),
    "guided": Case(
        "GuidedBackprop",
        lambda: our_method(jaxviz.guided_backprop),
        lambda: their_method("GuidedBackprop"),
        2,
        1.2,
    ),
    "occlusion": Case(
        "Occlusion 32/16",
        lambda: our_method(jaxviz.occlusion, window=32, stride=16),
        lambda: their_occlusion(32, 16),
        169,
        1.1,
    ),
    "integrated": Case(
        "IntegratedGradients, 50",
        lambda: our_method(jaxviz.integrated_gradients, steps=50),
        lambda: their_integrated_gradients(50),
        100,
        1.2,
    ),
    "channels": Case(
        f"8 channels of relu4_3, 224 px, {STEPS} steps",
        lambda: our_channels(STEPS),
        lambda: their_channels(STEPS),
        16 * STEPS * 0.91,
    ),
    "style_512": Case(
        f"style, 512 px, {STEPS} steps of Adam",
        lambda: our_style(512, STEPS, "adam"),
        lambda: their_style(512, STEPS, "adam"),
        2 * PIXELS * (STEPS + 1) * 0.94,
        1.4,
    ),
    "style_lbfgs": Case(
        f"style, 512 px, {STEPS} evaluations of L-BFGS",
        lambda: our_style(512, STEPS, "lbfgs"),
        lambda: their_style(512, STEPS, "lbfgs"),
        2 * PIXELS * (STEPS + 1) * 0.94,
    ),
    "fast_style": Case(
        "fast style, one pass at 512 px",
        lambda: our_pass(512),
        lambda: their_pass(512),
        80.8e9 / FORWARD * (1 + BORDER / 256) ** 2,
    ),
    "features": Case(
        "EfficientNet-Lite0's last vectors, 600 images",
        lambda: our_features(600),
        lambda: their_features(600),
        600 * 0.0254,
    ),
} | {
    f"{name}{'_gradient' if gradient else ''}": Case(
        f"{title}, {'input gradient' if gradient else 'forward'}, 224 px",
        functools.partial(our_network, name, gradient),
        functools.partial(their_network, name, gradient),
        (1 + gradient) * work * 1e9 / FORWARD,
    )
    for name, (title, work) in NETWORKS.items()
    for gradient in (False, True)
}
LONG = {
    "style_500": Case(
        "style, 256 px, 500 evaluations of L-BFGS, end to end",
        lambda: our_style(256, 500, "lbfgs"),
        lambda: their_style(256, 500, "lbfgs"),
        2 * (256 / 224) ** 2 * 501 * 0.94,
        1.3,
    )
}


# Measuring


def seconds(run: Run) -> float:
    """Return what one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def matrix_rate() -> float:
    """Return the best rate of a product of matrices, in operations a second."""
    side = 2048
    matrix = jnp.ones((side, side))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    return 2 * side**3 / min(seconds(lambda: jax.block_until_ready(product(matrix, matrix))) for _ in range(10))


def compare(case: Case, rounds: int, rate: float, alone: bool = False) -> dict[str, Any]:
    """Time both sides in turn, or ours alone."""
    ours = case.ours()
    first = seconds(ours)
    theirs = ours if alone else case.theirs()
    theirs()
    _forget_peak()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in pairs)
    best = statistics.median(a for a, _ in pairs)
    return {
        "title": case.title,
        "ours": best,
        "theirs": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "range": (ratios[0], ratios[-1]),
        "goal": case.goal,
        "of_floor": case.work * FORWARD / rate / best,
        "compile": max(0.0, first - best),
    } | ({"memory_theirs": _peak_of_torch()} if jax.default_backend() == "gpu" and not alone else {})


def _forget_peak() -> None:
    if "torch" in sys.modules and jax.default_backend() == "gpu":
        torch_side()[0].cuda.reset_peak_memory_stats()


def _peak_of_torch() -> float:
    return torch_side()[0].cuda.max_memory_allocated() / 2**30


def peak() -> float:
    """Return the largest memory that this process had, in GiB: of the GPU as JAX counts it, or resident."""
    if jax.default_backend() == "gpu":
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30
    found = re.search("VmHWM: *([0-9]+) kB", Path("/proc/self/status").read_text().expandtabs())
    assert found is not None
    return int(found[1]) / 2**20


def work_alone(name: str, side: str) -> None:
    """Do the work of one side in this process; print its peak of memory in GB, and compile time."""
    run = getattr((CASES | LONG)[name], side)()
    first = seconds(run)
    again = seconds(run)
    print(peak(), max(0.0, first - again))


def measured_alone(name: str, side: str, cache: str | None = None) -> list[float]:
    """Return what `work_alone` prints in a fresh process, with a folder for compiled programs if one is given."""
    kept = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"} if cache else {}
    command = [sys.executable, __file__, "--alone", name, side]
    done = subprocess.run(command, env={**os.environ, **kept}, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()[-2:]]


def main(
    *,
    only: tuple[str, ...] = (),
    rounds: int = 5,
    memory: bool = True,
    long: bool = False,
    largest: int = limits["side"],
    minutes: float = math.inf,
    ours: bool = False,
    json_file: Path | None = None,
    alone: tuple[str, str] | None = None,
) -> None:
    """Print the table.

    Args:
        only: ids of the cases; by default all.
        rounds: of both sides in turn.
        memory: measure peak memory and compile times, each in processes of its own.
        long: also 500 steps of style, once.
        largest: side of pictures in pixels: a small one tries the script.
        minutes: after so many, no further row is begun.
        ours: without PyTorch.
        json_file: where to write the numbers, as JSON, after each row.
        alone: case and side, "ours" or "theirs": what such a process does.
    """
    start, limits["side"] = time.monotonic(), largest
    if alone is not None:
        work_alone(*alone)
        return
    rate = matrix_rate()
    print(f"{os.cpu_count()} cores, jax {jax.__version__}, product of matrices: {rate / 1e9:.0f} GFLOP/s\n")
    titles = ["", "ours, s", "PyTorch, s", "ratio", "range", "of the floor"]
    titles += ["compile, s", "again, s", "memory, GB", "PyTorch, GB"] if memory else []
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    found = {}
    for name, case in (CASES | (LONG if long else {})).items():
        if (only and name not in only) or time.monotonic() - start > 60 * minutes:
            continue
        row = found[name] = compare(case, rounds if name in CASES else 1, rate, ours)
        cells = [row["title"], f"{row['ours']:.3f}", f"{row['theirs']:.3f}", f"{row['ratio']:.2f}"]
        cells += [f"{row['range'][0]:.2f} to {row['range'][1]:.2f}", f"{row['of_floor']:.0%}"]
        if memory:
            with tempfile.TemporaryDirectory() as folder:
                peak, first = measured_alone(name, "ours", folder)
                row["compile"], row["again"] = first, measured_alone(name, "ours", folder)[1]
            row["memory"], row["memory_theirs"] = peak, measured_alone(name, "theirs")[0]
            cells += [f"{row['compile']:.1f}", f"{row['again']:.1f}", f"{peak:.2f}", f"{row['memory_theirs']:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
        if json_file is not None:
            json_file.write_text(json.dumps({"matrix_rate": rate, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
