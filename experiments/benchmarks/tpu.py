"""Every method compiled for TPUs, without one: does it compile, does it fit, what would bound it?

    pip install libtpu==0.0.42.1      # the version that jax[tpu] asks for; nothing is run on it
    python experiments/benchmarks/tpu.py --out tpu.jsonl
    python experiments/benchmarks/tpu.py --only saliency ascend --networks small --chips v5e:2x2

XLA's compiler for TPUs works ahead of time for a described slice. For each method, network, chip, number of chips and
type, a line of JSON has what the compiled program says of itself: seconds to compile; memory on each chip, and by how
much it grows with the batch; floating-point operations and bytes on each chip, and the time that the larger of the two
takes at the chip's published peak; the share of padding in its arrays; and collectives, those inside loops by
themselves, where they would be waited for in each step. What does not compile is listed with its reason. Lines that
are there already are not made again. Three seconds to a minute for each program, twice; the table comes at the end.

What to look for: no collective inside a loop, time bound by operations rather than bytes, and no reasons but "host".

These are the compiler's numbers. Nothing here has run on a TPU: real times are longer.
"""

import dataclasses
import itertools
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no machine to ask
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # only one process may run on a TPU; any number may compile

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxviz

PEAKS = {
    "v5e": (197e12, 819e9, 16e9),
    "v6e": (918e12, 1640e9, 32e9),
}  # bfloat16 operations a second, bytes a second, memory
KEY = jax.random.key(0)
LABEL = 3


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network that is compiled."""

    net: Any
    params: Any
    size: int
    layer: str
    batch: int
    classes: bool = True


def small() -> Subject:
    """Return three convolutions and a classifier, 64 px: for every method."""

    def net(params: Any, images: Any) -> Any:
        x = images
        for i, kernel in enumerate(params["kernels"]):
            layout = ("NHWC", "HWIO", "NHWC")
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout))
            if i < 2:
                window = (1, 2, 2, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        return x.mean((1, 2)) @ params["head"]

    widths = (3, 64, 128, 128)
    kernels = [0.05 * np.ones((3, 3, i, o), np.float32) for i, o in itertools.pairwise(widths)]
    return Subject(net, {"kernels": kernels, "head": np.ones((128, 10), np.float32)}, 64, "relu_2", 16)


def pretrained(name: str, layer: str, batch: int, classes: bool) -> Subject:
    """Return a network that comes with jaxviz, 224 px."""
    net, params = jaxviz.load(name)
    return Subject(net, params, 224, layer, batch, classes)


NETWORKS: dict[str, Callable[[], Subject]] = {
    "small": small,
    "efficientnet_lite0": lambda: pretrained("efficientnet_lite0", "head", 64, True),
    "vgg16_features": lambda: pretrained("vgg16_features", "relu4_3", 32, False),
}

Call = Callable[[Any, Any], Any]


def methods(s: Subject) -> dict[str, Call | str]:
    """Return each public method as a function of parameters and images, or why there is none for a TPU."""
    score = jaxviz.logit(s.net, LABEL) if s.classes else jaxviz.channel(s.net, s.layer, LABEL)
    many = jaxviz.channel(s.net, s.layer, jnp.arange(s.batch))
    steps: dict[str, Any] = {"steps": 16}
    last: dict[str, Any] = {"layer": s.layer}
    host, data = "host: NumPy or a library on features", "host: its loop reads data; its program is `capture`"
    layers: dict[str, Any] = {"layers": [s.layer]}
    picture = jnp.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3)
    return {
        "capture": lambda p, x: jaxviz.capture(s.net, s.layer)(p, x)[1][s.layer],
        "gradient": lambda p, x: jaxviz.gradient(score, p, x),
        "saliency": lambda p, x: jaxviz.saliency(score, p, x),
        "input_x_gradient": lambda p, x: jaxviz.input_x_gradient(score, p, x),
        "smoothgrad": lambda p, x: jaxviz.smoothgrad(score, p, KEY, x, samples=8),
        "integrated_gradients": lambda p, x: jaxviz.integrated_gradients(score, p, x, steps=8).maps,
        "guided_backprop": lambda p, x: jaxviz.guided_backprop(score, p, x),
        "deconvnet": lambda p, x: jaxviz.deconvnet(score, p, x),
        "lrp": lambda p, x: jaxviz.lrp(score, p, x).maps,
        "occlusion": lambda p, x: jaxviz.occlusion(score, p, x, window=s.size // 4, stride=s.size // 4),
        "rise": lambda p, x: jaxviz.rise(score, p, KEY, x, masks=32),
        "grad_cam": lambda p, x: jaxviz.grad_cam(score, p, x, **last),
        "guided_grad_cam": lambda p, x: jaxviz.guided_grad_cam(score, p, x, **last),
        "deletion": lambda p, x: jaxviz.deletion(score, p, x, x[..., 0], step=s.size**2 // 8).values,
        "insertion": lambda p, x: jaxviz.insertion(score, p, x, x[..., 0], step=s.size**2 // 8, fill=0.5).values,
        "ascend": lambda p, x: jaxviz.ascend(many, p, KEY, size=s.size, **steps).images,
        "dream": lambda p, x: jaxviz.dream(jaxviz.energy(s.net, s.layer), p, KEY, x, octaves=1, steps=16).images,
        "invert": lambda p, x: jaxviz.invert(s.net, p, KEY, x, **last, **steps).images,
        "texture": lambda p, x: jaxviz.texture(s.net, p, KEY, x, **layers, **steps).images,
        "stylize": lambda p, x: (
            jaxviz.stylize(
                s.net, p, KEY, x, [picture.astype(x.dtype)], content_layers=[s.layer], style_layers=[s.layer], **steps
            ).images
        ),
        "style_net": lambda p, x: jaxviz.style_net(jaxviz.load_style_net(), x, style=0),
        "attention_rollout": "only of networks with attention; none here",
        "attention_relevance": "only of networks with attention; none here",
        **dict.fromkeys(("features", "top_patches"), data),
        "approximate_neighbors": host,
        **dict.fromkeys(("neighbors", "pca", "tsne", "umap", "grid_layout", "pca_colors", "facets", "filters"), host),
        **dict.fromkeys(("efros_leung", "rank_correlation", "pointing_game"), "host: NumPy"),
        **dict.fromkeys(
            ("fool", "sheet", "activation_grid", "dream_zoom", "sweep"), "host: a loop around other programs"
        ),
        **dict.fromkeys(("randomize", "sanity_check"), "host: parameters are shuffled; the method's program runs"),
        "train_style_net": "host: reads photographs",
    }


def main(
    *,
    only: tuple[str, ...] = (),
    networks: tuple[str, ...] = tuple(NETWORKS),
    chips: tuple[str, ...] = ("v5e:2x2", "v5e:4x4", "v6e:2x2", "v6e:4x4"),
    counts: tuple[int, ...] = (),
    check: bool = False,
    out: Path = Path("out/tpu.jsonl"),
) -> None:
    """Compile what is missing, and print the table.

    Args:
        only: methods; by default all for `small`, and four for the others.
        networks: which ones.
        chips: described slices; of each chip's first one, one chip by itself is compiled for, too.
        counts: numbers of chips; by default one, and all of each slice.
        check: end with an error if something did not compile, or has a collective inside a loop.
        out: a file with a line for each program.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {row["id"] for row in rows}
    for name in networks:
        subject = NETWORKS[name]()
        for method, call in methods(subject).items():
            wanted = only or (None if name == "small" else ("capture", "saliency", "guided_backprop", "ascend"))
            if wanted is not None and method not in wanted:
                continue
            for chip, count, dtype in _targets(name, chips):
                if counts and count not in counts:
                    continue
                row_id = f"{method} {name} {chip} {count} {dtype}"
                if row_id in known:
                    continue
                row = {"id": row_id, "method": method, "network": name, "chip": chip, "chips": count, "type": dtype}
                row |= {"reason": call} if isinstance(call, str) else compiled(call, subject, chip, count, dtype)
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                rows.append(row)
                print(row_id, row.get("reason") or f"{row['seconds']:.0f} s", flush=True)
                if isinstance(call, str):
                    known |= {f"{method} {name} {' '.join(map(str, target))}" for target in _targets(name, chips)}
    print(table(rows))
    wrong = [row["id"] for row in rows if row.get("in_loops") or (row["method"] in only and "reason" in row)]
    if check and wrong:
        raise SystemExit(f"not compiled, or with collectives inside loops: {', '.join(wrong)}")


def _targets(name: str, chips: tuple[str, ...]) -> list[tuple[str, int, str]]:
    """Return slices, numbers of chips and types: all for the small network, one chip for the others."""
    found: list[tuple[str, int, str]] = []
    for chip in chips:
        kind, _, shape = chip.partition(":")
        rows, _, columns = shape.partition("x")
        if not any(c.startswith(kind) for c, *_ in found):
            found += [(chip, 1, "float32"), (chip, 1, "bfloat16")]
        if name == "small":
            found.append((chip, int(rows) * int(columns), "float32"))
    return found


def compiled(call: Call, subject: Subject, chip: str, count: int, dtype: str) -> dict[str, Any]:
    """Return what is known of a method's program for some chips, or the reason why there is none."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=chip).devices[:count]
    mesh = Mesh(np.array(devices), ("data",))
    try:
        start = time.perf_counter()
        program = _program(call, subject, mesh, subject.batch * count, dtype)
        seconds = time.perf_counter() - start
        half = _program(call, subject, mesh, max(subject.batch // 2, 1) * count, dtype)
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    costs, text = program.cost_analysis() or {}, program.as_text()
    flops, touched = float(costs.get("flops", 0)), float(costs.get("bytes accessed", 0))
    rate, bandwidth, memory = PEAKS[chip.split(":")[0]]
    needed, less = _memory(program), _memory(half)
    each = max(needed - less, 1) / (subject.batch - max(subject.batch // 2, 1))
    inside, outside = collectives(text)
    return {
        "seconds": seconds, "batch": subject.batch, "memory": needed, "flops": flops, "bytes": touched,
        "fits": int(subject.batch + (memory - needed) / each),
        "milliseconds": 1e3 * max(flops / rate, touched / bandwidth),
        "bound": "operations" if flops / rate > touched / bandwidth else "bytes", "padding": padding(text),
        "in_loops": inside, "collectives": outside,
        "custom_calls": sorted(set(re.findall(r'custom_call_target="([^"]+)"', text))),
    }  # fmt: skip


def _program(call: Call, subject: Subject, mesh: Mesh, batch: int, dtype: str) -> Any:
    whole, shared = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=whole), subject.params)
    images = jax.ShapeDtypeStruct((batch, subject.size, subject.size, 3), dtype, sharding=shared)
    return jax.jit(call).trace(params, images).lower(lowering_platforms=("tpu",)).compile()


def _memory(program: Any) -> int:
    found = program.memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


_COLLECTIVE = re.compile(r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(")


def collectives(text: str) -> tuple[list[str], list[str]]:
    """Return the collectives of a compiled program that are inside loops, and the others."""
    bodies = dict(re.findall(r"^(?:ENTRY )?%?([\w.-]+)[^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    called = {
        name: set(re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)", body)) for name, body in bodies.items()
    }
    looped: set[str] = set()
    todo = [name for body in bodies.values() for name in re.findall(r"\bbody=%?([\w.-]+)", body)]
    while todo:
        name = todo.pop()
        if name not in looped:
            looped.add(name)
            todo += called.get(name, ())
    inside = [op for name in looped for op in _COLLECTIVE.findall(bodies.get(name, ""))]
    outside = [op for name, body in bodies.items() if name not in looped for op in _COLLECTIVE.findall(body)]
    return sorted(inside), sorted(outside)


def padding(text: str) -> float:
    """Return by how much the arrays of a compiled program are larger than what they hold, by their tiles."""
    held = taken = 0
    for dims, order, tile in re.findall(r"= \w+\[([\d,]+)\]\{([\d,]+):T\((\d+,\d+)\)", text):
        sizes, minor = [int(d) for d in dims.split(",")], [int(i) for i in order.split(",")]
        if len(sizes) < 2:
            continue
        (second, first), whole = map(int, tile.split(",")), list(sizes)
        whole[minor[0]] = -(-sizes[minor[0]] // first) * first
        whole[minor[1]] = -(-sizes[minor[1]] // second) * second
        held, taken = held + int(np.prod(sizes)), taken + int(np.prod(whole))
    return taken / held if held else 1.0


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown: one chip first, then what is said of several."""
    lines = [
        "| method, network | chip | type | memory, GB | largest batch | ms at peak | bound by | padding | compile, s |"
    ]
    lines.append("|" + "---|" * 9)
    for row in rows:
        if "reason" in row or row["chips"] > 1:
            continue
        lines.append(
            f"| {row['method']}, {row['network']}, {row['batch']} images | {row['chip'][:3]} | {row['type']} | "
            f"{row['memory'] / 1e9:.2f} | {row['fits']} | {row['milliseconds']:.2f} | {row['bound']} | "
            f"{row['padding']:.2f} | {row['seconds']:.0f} |"
        )
    several = [row for row in rows if "reason" not in row and row["chips"] > 1]
    inside = sorted(
        {f"{row['method']} ({', '.join(sorted(set(row['in_loops'])))})" for row in several if row["in_loops"]}
    )
    lines.append(
        f"\nOn 4 and 16 chips {len(several)} programs; with collectives inside loops: {', '.join(inside) or 'none'}."
    )
    reasons = sorted({f"- `{row['method']}`: {row['reason']}" for row in rows if "reason" in row})
    return "\n".join([*lines, "\nNot compiled:", "", *reasons])


if __name__ == "__main__":
    tyro.cli(main)
