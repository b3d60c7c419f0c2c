"""`jaxviz fast-style train|apply|list`: nets that show images in a style in one pass."""

import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz
from jaxviz._files import alone_in, file_name, plain, printable, write_atomically
from jaxviz.cli._verbs import each_of, failing, files, interrupts, of_different_names
from jaxviz.cli._video import VIDEOS, map_video
from jaxviz.data._folder import check_apart, check_writable
from jaxviz.data._source import Source, open_source
from jaxviz.image._checks import ImageError
from jaxviz.synthesis.fast_style._checkpoints import StyleTraining
from jaxviz.synthesis.fast_style._files import StyleNet
from jaxviz.synthesis.fast_style._steps import Method, Precision

_Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
_Styles = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STYLE [STYLE ...]")]
_Paths = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE [FILE ...]")]
_Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


def train(
    source: _Source,
    styles: _Styles,
    /,
    *,
    out: Path = Path("fast-style"),
    start: _File = None,
    add_to: _File = None,
    model: str = "vgg16_features",
    width: int = 32,
    size: int = 256,
    batch_size: int = 4,
    steps: int = 40_000,
    content_weight: float = 1.0,
    style_weight: float = 20.0,
    style_size: float = 1.0,
    smoothness: float = 8.0,
    optimizer: Method = "adam",
    learning_rate: float = 1e-3,
    cooldown: float = 0.0,
    precision: Precision = "float32",
    samples: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")] = (),
    every: int = 500,
    seed: int = 0,
) -> None:
    """Train a net that shows any image in one of several styles, in one pass.

    The same command goes on where it was stopped, by Ctrl-C or otherwise.

    Args:
        source: Photographs to learn from: a folder, with the folders in it, or tfds:NAME[SPLIT].
        styles: An image for each style, which is called by the file's name.
        out: Folder for the net (net.safetensors), checkpoints, the losses and a sheet of samples.
        start: A net of as many styles to begin with; by default random numbers.
        add_to: A trained net to add the styles to; nothing but the new styles' scales and offsets is trained.
        model: The network that compares; see `jaxviz weights list`.
        width: Channels of the net's first layer.
        size: Side of the crops in pixels.
        batch_size: Crops a step.
        steps: How many; a finished training can be given more.
        content_weight: Of the relative error of features.
        style_weight: Of the relative error of Gram matrices.
        style_size: Longer side of the styles, as a multiple of the crops': strokes grow with it.
        smoothness: Weight of the total variation.
        optimizer: Adam, the paper's, or Muon, which gets further in as many steps; a learning rate of 1e-2 suits it.
        learning_rate: Of the optimizer.
        cooldown: The last part of the steps over which the learning rate falls to zero.
        precision: What the networks compute in; bfloat16 is meant for GPUs and TPUs.
        samples: Photographs to draw on the way; by default the first four of the source.
        every: Steps from one checkpoint, and sheet of samples, to the next.
        seed: Of all randomness.
    """
    if not styles:
        raise ValueError("expected an image for each style, got none")
    named = {path.stem: jaxviz.load_image(path) for path in styles}
    begun, old = (None if path is None else jaxviz.load_style_net(path) for path in (start, add_to))
    names = [*(old.styles if old else []), *named]
    if len(set(names)) < len(names) or len(named) < len(styles):
        raise ValueError(f"expected styles of different names, got {', '.join(names)}: rename a file")
    check_writable(out)
    opened = open_source(source)
    check_apart(Path(source), out, recursive=True)
    photos = list(itertools.islice(_samples(samples, opened, size), len(samples) or 4))
    if not photos:
        raise ImageError(f"{source}: expected photographs, got none that can be read")
    net, params = jaxviz.load(model)
    run = functools.partial(
        jaxviz.train_style_net, net, params, jax.random.key(seed), opened, list(named.values()),
        start=begun and begun.params, add_to=old and old.params, width=width, size=size, batch_size=batch_size,
        steps=steps, content_weight=content_weight, style_weight=style_weight, style_size=style_size,
        smoothness=smoothness, optimizer=optimizer, learning_rate=learning_rate, cooldown=cooldown, precision=precision,
        store=out, every=every,
    )  # fmt: skip
    found = follow_training(run, out, names, jnp.stack(photos), steps=steps, every=every)
    if not found.finished:
        print(f"Stopped after step {len(found.losses)}: {out}. The same command goes on from there.")
        raise SystemExit(130)
    print(f"{out / 'net.safetensors'}: {printable(', '.join(names))}; ", end="")
    print(f"loss {_recent(found):.4g} after {len(found.losses)} steps")


def _samples(samples: Sequence[Path], source: Source, size: int) -> Iterator[jax.Array]:
    """Yield the samples, or the photographs of the source that can be read."""
    for photo in samples:
        yield jaxviz.load_image(photo, size=size)
    for i in range(len(source.ids)):
        try:
            yield jaxviz.load_image(source.read(i), size=size)
        except ImageError as error:
            print(f"jaxviz: {printable(str(error))}", file=sys.stderr, flush=True)


def follow_training(
    run: Callable[..., StyleTraining],
    out: Path,
    styles: Sequence[str],
    photos: jax.Array,
    *,
    steps: int,
    every: int,
    seconds: float = math.inf,
) -> StyleTraining:
    """Tell how far a training is, save its net, its losses and samples, and end it when interrupted or out of time."""
    from rich.console import Console

    with interrupts() as interrupted, Console(stderr=True).status("Starting") as status:
        begun, first, drawn = time.perf_counter(), -1, -1

        def look(found: StyleTraining) -> bool:
            nonlocal begun, first, drawn
            done = len(found.losses)
            if first < 0:  # from here on nothing is compiled
                begun, first = time.perf_counter(), done
            spent = time.perf_counter() - begun
            pace = f", {spent / (done - first):.2f} s each" if done > first else ""
            status.update(f"step {done} of {steps}, loss {_recent(found):.4g}{pace} …")
            stop = interrupted() or spent > seconds
            if stop or found.finished or done % every == 0:  # here, where no other training writes to the folder
                _draw(out, styles, photos, found)
                drawn = done
            return stop

        found = run(callback=look)
        if drawn != len(found.losses):  # it was finished before
            with alone_in(out):
                _draw(out, styles, photos, found)
    return found


def _recent(found: StyleTraining) -> float:
    return float(found.losses[-50:].sum(1).mean())


def _draw(out: Path, styles: Sequence[str], photos: jax.Array, found: StyleTraining) -> None:
    """Save the net, a sheet with a row for each photograph and a column for each style, and the losses."""
    jaxviz.save_style_net(out / "net.safetensors", found.params, styles)
    columns = [photos, *(_restyled(found.params, photos, row) for row in jnp.eye(len(styles)))]
    cells = [column[i] for i in range(len(photos)) for column in columns]
    jaxviz.save_image(out / f"samples-{len(found.losses):06d}.png", jaxviz.montage(cells, columns=len(columns)))
    draw_losses(out / "losses.png", found.losses)


@jax.jit
def _restyled(params: Any, images: Any, weights: Any) -> Any:
    return jaxviz.style_net(params, images, style=weights)


def draw_losses(path: Path, losses: np.ndarray) -> None:
    """Draw the losses, each a mean over as many steps as leave a hundred points."""
    from matplotlib.figure import Figure

    span = max(1, len(losses) // 100)
    whole = losses[: len(losses) // span * span].reshape(-1, span, 3).mean(1)
    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).add_subplot(xlabel="step", yscale="log")
    for values, name in zip([*whole.T, whole.sum(1)], ("content", "style", "smoothness", "sum"), strict=True):
        if values.max() > 0:
            axes.plot(span * (np.arange(len(values)) + 0.5), values, label=name)
    axes.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def apply(
    images: _Paths,
    /,
    *,
    style: _Names = (),
    mix: Annotated[str | None, tyro.conf.arg(metavar="NAME=WEIGHT,...")] = None,
    net: _File = None,
    size: int | None = None,
    tile: int = 1024,
    out: Path = Path("out"),
) -> None:
    """Show images or videos in a style, in one pass.

    Args:
        images: Images, folders of images, or videos (.mp4, .mov, .mkv, .webm, .avi; these need PyAV).
        style: Styles that `jaxviz fast-style list` names; by default all of the net.
        mix: A mixture in their place, as mosaic=0.7,ink=0.3.
        net: A net that `jaxviz fast-style train` made; by default the one that comes with jaxviz.
        size: Longer side in pixels to which larger images are reduced.
        tile: Side in pixels of what is computed at once: larger images are made in tiles.
        out: Folder for the results, NAME-STYLE.png, and .mp4 for videos.
    """
    check_writable(out)
    chosen = _chosen(found := jaxviz.load_style_net(net), style, mix)
    videos = of_different_names(path for path in images if path.suffix.lower() in VIDEOS and not path.is_dir())
    pictures = [path for path in images if path not in videos]
    read = files(pictures, out) if pictures or not videos else {}
    options: dict[str, Any] = {"net": found, "chosen": chosen, "size": size, "tile": tile}
    work: list[tuple[Path, Callable[[Path], None]]] = []
    for paths, make, ending in ((read, _image, ".png"), (dict.fromkeys(videos), _film, ".mp4")):
        targets = _targets([path for path, bad in paths.items() if bad is None], chosen, out, ending)
        for path, bad in paths.items():
            of_it = {name: target for (of, name), target in targets.items() if of == path}
            work.append((path, functools.partial(make, targets=of_it, **options) if bad is None else failing(bad)))
    each_of(work)


def _targets(paths: Iterable[Path], chosen: Iterable[str], out: Path, ending: str) -> dict[tuple[Path, str], Path]:
    """Return where each result goes. Names of styles are whatever a net's file says, and a-b of c is like a of b-c."""
    found = {(path, name): out / f"{file_name(f'{path.stem}-{name}')}{ending}" for path in paths for name in chosen}
    first: dict[Path, tuple[Path, str]] = {}
    for pair, target in found.items():
        other = first.setdefault(target, pair)
        if other != pair:
            raise ImageError(
                f"{pair[0]} in {pair[1]} and {other[0]} in {other[1]} would both become {target}: take them in two "
                "runs, each with an --out of its own"
            )
    return found


def _chosen(net: StyleNet, style: Sequence[str], mix: str | None) -> dict[str, np.ndarray]:
    """Return weights of the net's styles by the name of each result."""
    if style and mix:
        raise ValueError("--style and --mix: expected one of them")
    rows = dict(zip(net.styles, np.eye(len(net.styles), dtype=np.float32), strict=True))
    if mix is None:
        return {name: _row(rows, name) for name in style or net.styles}
    parts = [part.partition("=") for part in mix.split(",")]
    try:
        weights = {name.strip(): float(weight) for name, _, weight in parts}
    except ValueError:
        weights = {}
    total = sum(weights.values())
    if not weights or not all(map(math.isfinite, weights.values())) or total <= 0:
        raise ValueError(f"--mix: expected names and weights as in mosaic=0.7,ink=0.3, got {mix}")
    whole = sum(
        (weight / total * _row(rows, name) for name, weight in weights.items()), np.zeros(len(rows), np.float32)
    )
    return {"-".join(f"{name}{weight:g}" for name, weight in weights.items()): whole}


def _row(rows: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in rows:
        raise ValueError(f"there is no style {name!r} in this net; there are {', '.join(rows)}")
    return rows[name]


def _image(
    path: Path,
    *,
    net: StyleNet,
    chosen: dict[str, np.ndarray],
    targets: dict[str, Path],
    size: int | None,
    tile: int,
) -> None:
    image = np.asarray(jaxviz.load_image(path, longest=size))
    for name, weights in chosen.items():
        start = time.perf_counter()
        made = jaxviz.restyle(net.params, image, style=weights, tile=tile)
        seconds = time.perf_counter() - start
        jaxviz.save_image(targets[name], made)
        print(f"{targets[name]}: {made.shape[1]}x{made.shape[0]} px in {seconds:.2f} s", flush=True)


def _film(
    path: Path,
    *,
    net: StyleNet,
    chosen: dict[str, np.ndarray],
    targets: dict[str, Path],
    size: int | None,
    tile: int,
) -> None:
    from rich.console import Console

    if not path.is_file():  # a pipe would be waited for
        raise ImageError(f"{path}: expected a video, got a path where there is none")
    for name, weights in chosen.items():
        change = functools.partial(jaxviz.restyle, net.params, style=weights, tile=tile)
        target, start = targets[name], time.perf_counter()
        with Console(stderr=True).status("Starting") as status:

            def tell(done: int, total: int, status: Any = status, start: float = start, target: Path = target) -> None:
                whole, pace = f" of {total}" if total else "", done / (time.perf_counter() - start)
                status.update(plain(f"{target.name}: frame {done}{whole}, {pace:.1f} a second …"))

            frames = map_video(change, path, target, longest=size, tell=tell)
        print(f"{target}: {frames} frames, {frames / (time.perf_counter() - start):.1f} a second", flush=True)


def list_(nets: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FILE ...]")] = (), /) -> None:
    """List the styles of nets.

    Args:
        nets: Files that `jaxviz fast-style train` made; by default the net that comes with jaxviz.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("net", "styles", "width", "parameters")

    def add(path: Path | None) -> None:
        net = jaxviz.load_style_net(path)
        width = net.params["first"]["kernel"].shape[-1]
        count = sum(leaf.size for leaf in jax.tree.leaves(net.params))
        cells = (path.name if path else "fast_style", ", ".join(net.styles), str(width), f"{count:,}")
        table.add_row(*map(plain, cells))

    try:
        each_of([(path, add) for path in nets]) if nets else add(None)
    finally:
        if table.rows:
            Console().print(table)


VERBS: dict[str, Callable[..., None]] = {"train": train, "apply": apply, "list": list_}
