"""Is a gradient inside a loop as fast as the same gradient jitted alone?

    python experiments/benchmarks/loop.py --size 224 --rounds 7

VGG-16's convolutional base with random weights, one image. Four programs are timed in turn, round after round, and the
table gives medians and their ratio: XLA's own derivatives, and those that jaxviz swaps in, each as a jitted step and as
a step of a compiled loop of 4. About two minutes on 2 CPU cores, no weights needed.

What to expect: XLA's own derivatives are several times slower inside the loop; jaxviz's are as fast inside as outside.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from jaxviz import accelerate, hoist

TURNS = 4
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg(params, images):
    """Compute VGG-16's convolution base; each block but the last ends in a max-pool."""
    for number, block in enumerate(params):
        if number:
            images = jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for kernel, bias in block:
            layout = ("NHWC", "HWIO", "NHWC")
            images = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layout)
            images = jax.nn.relu(images + bias)
    return images


def random_params(key):
    """Return random kernels and biases, by block."""
    blocks, width = [], 3
    for widths in WIDTHS:
        blocks.append([])
        for out in widths:
            key, *keys = jax.random.split(key, 3)
            kernel, bias = jax.random.normal(keys[0], (3, 3, width, out)), jax.random.normal(keys[1], (out,))
            blocks[-1].append((0.05 * kernel, 0.05 * bias))
            width = out
    return blocks


def main() -> None:
    """Time the four programs in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    key = jax.random.key(0)
    images = jax.random.uniform(key, (1, options.size, options.size, 3))
    params = random_params(key)
    programs = {
        (name, where): program
        for name, net in (("XLA's own", vgg), ("jaxviz's", accelerate(vgg)))
        for where, program in _programs(net, ready=name == "jaxviz's").items()
    }
    for program in programs.values():
        jax.block_until_ready(program(params, images))
    times = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, program in programs.items():
            times[name].append(_seconds(program, params, images) / (TURNS if name[1] == "loop" else 1))
    print("| derivatives | step, s | step in a loop, s | loop / step (least to most) |\n|---|---|---|---|")
    for name in ("XLA's own", "jaxviz's"):
        step, loop = times[name, "step"], times[name, "loop"]
        ratios = sorted(b / a for a, b in zip(step, loop, strict=True))
        median, least, most = statistics.median(ratios), ratios[0], ratios[-1]
        print(
            f"| {name} | {statistics.median(step):.3f} | {statistics.median(loop):.3f} "
            f"| {median:.2f} ({least:.2f} to {most:.2f}) |"
        )


def _programs(net, ready):
    def step(params, images):
        return images - 1e-3 * jax.grad(lambda x: jnp.sum(net(params, x)))(images)

    def loop(params, images):
        turn = lambda _, x: step(params, x)
        return jax.lax.fori_loop(0, TURNS, hoist(turn, 0, images) if ready else turn, images)

    return {"step": jax.jit(step), "loop": jax.jit(loop)}


def _seconds(program, *args) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program(*args))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
