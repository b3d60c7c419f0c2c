"""The whole table on one GPU, in a script that ends within eight minutes.

    python experiments/benchmarks/gpu.py --out out/gpu                            # on the machine with the GPU
    JAX_PLATFORMS=cpu python experiments/benchmarks/gpu.py --minutes 3 --largest 64 --rounds 1      # tries it anywhere

Needs what `methods.py` needs, `transformers==4.56.2`, and JAX and PyTorch for CUDA. First the peak of our memory, each
row in a process of its own, several at once; then `methods.py` with PyTorch, which is compiled with "max-autotune" or
not, whichever is faster; then ours again with other flags of XLA, in a process for each set of flags. Each of them
stops beginning rows when its share of the minutes has passed, so that what was measured is printed in any case; the
rows are in the order of `methods.py`, and `--only` names some.

What to look for: ratios above 1, and no set of flags that is much faster than none.
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro
from methods import CASES

METHODS = Path(__file__).with_name("methods.py")
FLAGS = {
    "no autotuning": "--xla_gpu_autotune_level=0",
    "exhaustive tiling": "--xla_gpu_exhaustive_tiling_search=true",
    "cuBLASLt": "--xla_gpu_enable_cublaslt=true",
    "cuDNN fusions": "--xla_gpu_cudnn_gemm_fusion_level=2",
    "fused convolutions": "--xla_gpu_experimental_enable_conv_fusion=true",
    "command buffers off": "--xla_gpu_enable_command_buffer=",
}
MEMORY, TOGETHER = 0.15, 0.5  # shares of the time; the flags have the rest
AT_ONCE = 4  # processes that only measure memory


def main(
    *,
    minutes: float = 8.0,
    only: tuple[str, ...] = (),
    largest: int = 1 << 20,
    rounds: int = 5,
    out: Path = Path("out"),
) -> None:
    """Measure, and print the table.

    Args:
        minutes: for all; a row that was begun is ended, so leave one more.
        only: ids of rows; by default all.
        largest: side of pictures in pixels: a small one tries the script.
        rounds: of both sides in turn.
        out: a folder for the numbers, and for what the processes print.
    """
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    names = only or tuple(CASES)
    common = ["--largest", str(largest), "--only", *names]
    memory = peaks(names, largest, start + 60 * minutes * MEMORY)
    shared = ["--rounds", str(rounds), "--no-memory", *common]
    table = methods(out, "as they are", "", [*shared, "--minutes", str(minutes * TOGETHER)], minutes * (TOGETHER + 0.1))
    rows = {name: {"memory": memory.get(name), "as they are": row} for name, row in table.items()}
    for i, (title, flags) in enumerate(FLAGS.items()):
        share = (start / 60 + minutes - time.monotonic() / 60) / (len(FLAGS) - i)
        for name, row in methods(out, title, flags, [*shared, "--ours", "--minutes", str(share)], share + 0.5).items():
            rows.setdefault(name, {})[title] = row
    (out / "gpu.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(as_table(rows))


def environment(flags: str) -> dict[str, str]:
    """Return the environment of a process: memory taken when it is needed, and flags for XLA."""
    given = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    return os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_FLAGS": given}


def peaks(names: tuple[str, ...], largest: int, end: float) -> dict[str, float]:
    """Return the peak of our memory in each row, in GiB, as far as there is time."""

    def peak(name: str) -> float | None:
        left = end - time.monotonic()
        command = [sys.executable, str(METHODS), "--largest", str(largest), "--alone", name, "ours"]
        try:
            done = subprocess.run(command, env=environment(""), capture_output=True, text=True, timeout=max(left, 0.1))
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            print(f"{name}: no memory, since\n{done.stderr[-500:]}", file=sys.stderr)
            return None
        return float(done.stdout.split()[-2])

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(names, pool.map(peak, names), strict=True))
    return {name: value for name, value in found.items() if value is not None}


def methods(out: Path, title: str, flags: str, options: list[str], minutes: float) -> dict[str, Any]:
    """Run `methods.py`; return its rows. One that fails or takes too long leaves those that it ended."""
    path = out / f"{title.replace(' ', '_')}.json"
    path.unlink(missing_ok=True)
    with path.with_suffix(".log").open("w") as log:
        command = [sys.executable, str(METHODS), *options, "--json-file", str(path)]
        try:
            code = subprocess.run(
                command, env=environment(flags), stdout=log, stderr=log, timeout=60 * minutes
            ).returncode
        except subprocess.TimeoutExpired:
            code = "stopped"
    if code:
        print(f"{title}: ended with {code}; see {log.name}", file=sys.stderr)
    return json.loads(path.read_text())["cases"] if path.exists() else {}


def as_table(rows: dict[str, Any]) -> str:
    """Return the rows as Markdown: milliseconds, ratios, memory, and our milliseconds with each set of flags."""
    titles = ["", "ours, ms", "PyTorch, ms", "ratio", "range", "ours, GB", "PyTorch, GB", *FLAGS]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    milliseconds = lambda row, side: f"{1e3 * row[side]:.1f}" if row else ""
    for row in rows.values():
        found = row.get("as they are")
        first = next(value for value in row.values() if isinstance(value, dict))
        cells = [first["title"], milliseconds(found, "ours"), milliseconds(found, "theirs")]
        cells += [f"{found['ratio']:.2f}", "{:.2f} to {:.2f}".format(*found["range"])] if found else ["", ""]
        cells += [f"{x:.2f}" if x else "" for x in (row.get("memory"), (found or {}).get("memory_theirs"))]
        cells += [milliseconds(row.get(title), "ours") for title in FLAGS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
