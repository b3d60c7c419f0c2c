"""The work of `jaxviz fast-style apply|list`: rendering images and videos in a style, and listing nets' styles."""

import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxviz
from jaxviz._extras import extra
from jaxviz._files import file_name, plain
from jaxviz.cli._fast_style import Apply, List
from jaxviz.cli._files import each_of, failing, files, of_different_names
from jaxviz.cli._video import VIDEOS, map_video
from jaxviz.data._folder import check_writable
from jaxviz.image._checks import ImageError
from jaxviz.synthesis.fast_style._net import sizes_of

_Chosen = dict[str, str | dict[str, float]]
"""A style, or several with weights, by the name of each result."""


def apply(options: Apply) -> None:
    """Render images and videos in the styles of a net."""
    out = options.out
    check_writable(out)
    net = jaxviz.load_style_net(options.net)
    chosen = _chosen(net, options.style, options.mix)
    videos = of_different_names(path for path in options.images if path.suffix.lower() in VIDEOS and not path.is_dir())
    pictures = [path for path in options.images if path not in videos]
    read = files(pictures, out) if pictures or not videos else {}
    how: dict[str, Any] = {"net": net, "chosen": chosen, "size": options.size, "tile": options.tile}
    work: list[tuple[Path, Callable[[Path], None]]] = []
    for paths, make, ending in ((read, _image, ".png"), (dict.fromkeys(videos), _film, ".mp4")):
        targets = _targets([path for path, bad in paths.items() if bad is None], chosen, out, ending)
        for path, bad in paths.items():
            of_it = {name: target for (of, name), target in targets.items() if of == path}
            work.append((path, functools.partial(make, targets=of_it, **how) if bad is None else failing(bad)))
    each_of(work)


def _targets(paths: Iterable[Path], chosen: Iterable[str], out: Path, ending: str) -> dict[tuple[Path, str], Path]:
    """Return each result's path. Two may clash: styles have any names, and c in style a-b is like c-a in style b."""
    found = {(path, name): out / f"{file_name(f'{path.stem}-{name}')}{ending}" for path in paths for name in chosen}
    first: dict[Path, tuple[Path, str]] = {}
    for pair, target in found.items():
        other = first.setdefault(target, pair)
        if other != pair:
            raise ImageError(
                f"{pair[0]} in {pair[1]} and {other[0]} in {other[1]} would both become {target}: process them in "
                "two runs, each with its own --out"
            )
    return found


def _chosen(net: jaxviz.StyleNet, style: Sequence[str], mix: str | None) -> _Chosen:
    """Return styles of the net, by the name of each result."""
    if style and mix:
        raise ValueError("--style and --mix: expected only one of them, got both")
    if mix is None:
        return {name: _known(net, name) for name in style or net.names}
    parts = [part.partition("=") for part in mix.split(",")]
    try:
        weights = {name.strip(): float(weight) for name, _, weight in parts}
    except ValueError:
        weights = {}
    total = sum(weights.values())
    if not weights or not all(map(math.isfinite, weights.values())) or total <= 0:
        raise ValueError(f"--mix: expected names and weights, such as mosaic=0.7,ink=0.3, got {mix}")
    whole = {_known(net, name): weight / total for name, weight in weights.items()}
    return {"-".join(f"{name}{weight:g}" for name, weight in weights.items()): whole}


def _known(net: jaxviz.StyleNet, name: str) -> str:
    if name not in (*net.names, *net.styles):
        raise ValueError(f"expected a style of this net ({', '.join(net.names)}), got {name!r}")
    return name


def _image(
    path: Path,
    *,
    net: jaxviz.StyleNet,
    chosen: _Chosen,
    targets: dict[str, Path],
    size: int | None,
    tile: int,
) -> None:
    image = np.asarray(jaxviz.load_image(path, longest=size))
    for name, style in chosen.items():
        start = time.perf_counter()
        made = jaxviz.restyle(net, image, style=style, tile=tile)
        seconds = time.perf_counter() - start
        jaxviz.save_image(targets[name], made)
        print(f"{targets[name]}: {made.shape[1]}x{made.shape[0]} px in {seconds:.2f} s", flush=True)


def _film(
    path: Path,
    *,
    net: jaxviz.StyleNet,
    chosen: _Chosen,
    targets: dict[str, Path],
    size: int | None,
    tile: int,
) -> None:
    with extra("cli"):
        from rich.console import Console

    if not path.is_file():  # reading a pipe would block
        raise ImageError(f"{path}: expected a video file, got none at this path")
    for name, style in chosen.items():
        change = functools.partial(jaxviz.restyle, net, style=style, tile=tile)
        target, start = targets[name], time.perf_counter()
        with Console(stderr=True).status("Starting") as status:

            def tell(done: int, total: int, status: Any = status, start: float = start, target: Path = target) -> None:
                whole, pace = f" of {total}" if total else "", done / (time.perf_counter() - start)
                status.update(plain(f"{target.name}: frame {done}{whole}, {pace:.1f} per second …"))

            frames = map_video(change, path, target, longest=size, tell=tell)
        print(f"{target}: {frames} frames, {frames / (time.perf_counter() - start):.1f} per second", flush=True)


def list_styles(options: List) -> None:
    """Print a table of nets and their styles."""
    with extra("cli"):
        from rich.console import Console
        from rich.table import Table

    table = Table("net", "styles", "width", "parameters")

    def add(path: Path | None) -> None:
        net = jaxviz.load_style_net(path)
        known = sizes_of(net.styles)
        width = net.params["first"]["kernel"].shape[-1]
        count = sum(leaf.size for leaf in jax.tree.leaves(net.params))
        styles = [f"{name} ({', '.join(map(str, sizes))} px)" if sizes else name for name, sizes in known.items()]
        cells = (path.name if path else "fast_style", ", ".join(styles), str(width), f"{count:,}")
        table.add_row(*map(plain, cells))

    try:
        each_of([(path, add) for path in options.nets]) if options.nets else add(None)
    finally:
        if table.rows:
            Console().print(table)
