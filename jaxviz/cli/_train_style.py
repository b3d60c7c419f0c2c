"""What `jaxviz fast-style train` does: a training that can be stopped, followed by samples and losses."""

import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxviz
from jaxviz._extras import extra
from jaxviz._files import alone_in, printable, write_atomically
from jaxviz.cli._fast_style import Train
from jaxviz.cli._models import load_model
from jaxviz.cli._runs import interrupts, stop
from jaxviz.data._folder import check_apart, check_writable
from jaxviz.data._source import Source, open_source
from jaxviz.image._checks import ImageError
from jaxviz.synthesis.fast_style._checkpoints import PARTS

_TRAINING = ("width", "size", "batch_size", "steps", "content_weight", "style_weight", "smoothness", "steadiness")
_TRAINING += ("precision",)


def train(options: Train) -> None:
    """Train a net, or continue where its training was stopped."""
    out = options.out
    if not options.styles:
        raise ValueError("expected an image for each style, got none")
    styles = {path.stem: jaxviz.load_image(path) for path in options.styles}
    start, old = (path and jaxviz.load_style_net(path) for path in (options.start, options.add_to))
    if len(styles) < len(options.styles):
        raise ValueError("expected a different name for each style, got two files of the same name: rename one")
    learned = _at_sizes(list(styles), options.style_size, options.size)
    names = [*(old.styles if old else []), *learned]
    if len(set(names)) < len(names):
        raise ValueError(f"expected a different name for each style, got {', '.join(names)}: rename a file")
    check_writable(out)
    source = open_source(options.source)
    check_apart(Path(options.source), out, recursive=True)
    photos = list(itertools.islice(_samples(options.samples, source, options.size), len(options.samples) or 4))
    if not photos:
        raise ImageError(f"{options.source}: expected photographs, got none that are readable")
    net, params = load_model(options.model, options.size, output=options.output).network
    given = (net, params, jax.random.key(options.seed), source, [styles[style] for style, _ in learned.values()])
    how = {name: getattr(options, name) for name in _TRAINING} | _optimizer(options)
    how |= {"checkpoint_every": options.every, "every": 8 if jax.default_backend() == "cpu" else 32}
    how |= {"start": start and start.params, "add_to": old and old.params, "store": out}
    how |= {"style_size": [side for _, side in learned.values()]}
    run = functools.partial(jaxviz.train_style_net, *given, **how)
    found = _follow(run, out, names, jnp.stack(photos), every=options.every)
    if not found.finished:
        stop(f"Stopped after step {len(found.losses)}: {out}. The same command continues from there.")
    print(f"{out / 'net.safetensors'}: {printable(', '.join(names))}; ", end="")
    print(f"loss {_recent(found):.4g} after {len(found.losses)} steps")


def _at_sizes(styles: Sequence[str], sides: Sequence[float], size: int) -> dict[str, tuple[str, float]]:
    """Return the names that are learned, each with its style and side: with several sides, "scream@512" for 512 px."""
    if not sides:
        raise ValueError("--style-size: expected a number, or several, got none")
    if len(sides) == 1:
        return {style: (style, sides[0]) for style in styles}
    return {f"{style}@{round(side * size)}": (style, side) for style in styles for side in sides}


def _optimizer(options: Train) -> dict[str, Any]:
    """Return the options of Adam, or Muon with the same cooldown."""
    if options.optimizer == "adam":
        return {"learning_rate": options.learning_rate, "cooldown": options.cooldown}
    return {"optimizer": jaxviz.muon(options.learning_rate, steps=options.steps, cooldown=options.cooldown)}


def _samples(samples: Sequence[Path], source: Source, size: int) -> Iterator[jax.Array]:
    """Yield the samples, or the photographs of the source that can be read."""
    for photo in samples:
        yield jaxviz.load_image(photo, size=size)
    for i in range(len(source.ids)):
        try:
            yield jaxviz.load_image(source.read(i), size=size)
        except ImageError as error:
            print(f"jaxviz: {printable(str(error))}", file=sys.stderr, flush=True)


def _follow(
    run: Callable[..., jaxviz.StyleTraining],
    out: Path,
    styles: Sequence[str],
    photos: jax.Array,
    *,
    every: int,
) -> jaxviz.StyleTraining:
    """Tell how far a training is, save its net, its losses and samples, and end it when interrupted."""
    with interrupts() as interrupted, jaxviz.ProgressBar(title=out.name) as bar:
        drawn = -1

        def look(found: jaxviz.StyleTraining) -> bool:
            nonlocal drawn
            bar(found)
            done, stop = len(found.losses), interrupted()
            if stop or found.finished or done % every == 0:  # here, where no other training writes to the folder
                _draw(out, styles, photos, found)
                drawn = done
            return stop

        found = run(callback=look)
        if drawn != len(found.losses):  # it was finished before
            with alone_in(out):
                _draw(out, styles, photos, found)
    return found


def _recent(found: jaxviz.StyleTraining) -> float:
    return float(found.losses[-50:].sum(1).mean())


def _draw(out: Path, styles: Sequence[str], photos: jax.Array, found: jaxviz.StyleTraining) -> None:
    """Save the net, a sheet with a row for each photograph and a column for each style, and the losses."""
    jaxviz.save_style_net(out / "net.safetensors", found.params, styles)
    columns = [photos, *(_restyled(found.params, photos, row) for row in jnp.eye(len(styles)))]
    cells = [column[i] for i in range(len(photos)) for column in columns]
    jaxviz.save_image(out / f"samples-{len(found.losses):06d}.png", jaxviz.montage(cells, columns=len(columns)))
    _draw_losses(out / "losses.png", found.losses)


@jax.jit
def _restyled(params: Any, images: Any, weights: Any) -> Any:
    return jaxviz.style_net(params, images, style=weights)


def _draw_losses(path: Path, losses: np.ndarray) -> None:
    """Draw the losses, each a mean over as many steps as leave a hundred points."""
    with extra("plot"):
        from matplotlib.figure import Figure

    span = max(1, len(losses) // 100)
    whole = losses[: len(losses) // span * span].reshape(-1, span, len(PARTS)).mean(1)
    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).add_subplot(xlabel="step", yscale="log")
    for values, name in zip([*whole.T, whole.sum(1)], (*PARTS, "sum"), strict=True):
        if values.max() > 0:
            axes.plot(span * (np.arange(len(values)) + 0.5), values, label=name)
    axes.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
