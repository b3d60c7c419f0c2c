"""What `jaxviz invert|texture|style` do: images with the features, or the Gram matrices, of others."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxviz
from jaxviz._files import file_name
from jaxviz.cli._files import digest, files, make_each
from jaxviz.cli._models import Model, check_layers, load_model
from jaxviz.cli._options import Octaves
from jaxviz.cli._runs import save_as_it_comes, settings_of
from jaxviz.cli._synthesis import Invert, Style, Texture
from jaxviz.data._folder import check_writable
from jaxviz.scores._likeness import Layers
from jaxviz.synthesis import Synthesis
from jaxviz.synthesis._painting import STYLE_LAYERS, TEXTURE_LAYERS


def invert(options: Invert) -> None:
    """Find an image that has the same features as another."""
    paths = files(options.images, options.out)
    model = load_model(options.model, options.size, output=options.output)
    check_layers(options, model, "layer")
    net, params = model.network
    settings = settings_of(options, network=model.digest(), size=model.size)
    how = {name: getattr(options, name) for name in ("layer", "steps", "smoothness", "tolerance")}

    def make(path: Path) -> str:
        image = model.read(path)[None]
        run = functools.partial(jaxviz.invert, net, params, jax.random.key(options.seed), image, **how)
        at = options.out / f"{file_name(f'{path.stem}-{options.layer}')}-invert"
        return save_as_it_comes(run, at, settings | {"image": digest(path)}, options)

    make_each(make, paths)


def _octaves(options: Octaves) -> dict[str, Any]:
    """Return how Gram matrices are matched, as `texture` and `stylize` take it."""
    names = ("octaves", "steps", "smoothness", "tile", "optimizer", "learning_rate", "tolerance")
    return {name: getattr(options, name) for name in names}


def _weighted(names: Sequence[str], default: Mapping[str, float]) -> Layers:
    """Return the default's names with their weights, and others as they are."""
    return default if tuple(names) == tuple(default) else names


_OF_NETWORKS = (
    "model",
    "output",
    "layers",
    "octaves",
    "steps",
    "smoothness",
    "tile",
    "optimizer",
    "learning_rate",
    "tolerance",
)
_OF_OTHERS = {"gatys": ("window",), "efros-leung": _OF_NETWORKS}
"""Options that a method of making textures ignores."""


def texture(options: Texture) -> None:
    """Make an image of the same texture as each sample."""
    paths = files(options.images, options.out)
    settings = settings_of(options, ignored=_OF_OTHERS[options.method], by=f"--method {options.method}")
    key = jax.random.key(options.seed)
    model = None
    if options.method == "gatys":
        model = load_model(options.model, output=options.output)
        check_layers(options, model, "layers")
        settings |= {"network": model.digest()}

    def make(path: Path) -> str:
        read = jaxviz.load_image if model is None else model.read
        image = read(path, longest=options.sample)
        at, told = options.out / f"{file_name(path.stem)}-texture", settings | {"image": digest(path)}
        if model is None:
            size = 128 if options.size is None else options.size
            run = functools.partial(_grow, key, image, size=size, window=options.window)
        else:
            how = {"layers": _weighted(options.layers, TEXTURE_LAYERS), "size": options.size} | _octaves(options)
            run = functools.partial(jaxviz.texture, *model.network, key, image, **how)
        return save_as_it_comes(run, at, told, options)

    make_each(make, paths)


def _grow(key: Any, image: Any, *, size: int, window: int, callback: Callable[[Synthesis], Any], **_: Any) -> Synthesis:
    """Run `efros_leung` as if it were an optimization of one step."""
    made = jaxviz.efros_leung(key, image, size=size, window=window)
    found = Synthesis(made[None], jnp.zeros(1), [], True)
    callback(found)
    return found


def style(options: Style) -> None:
    """Render one image in the style of others, once or for each value of a sweep."""
    if options.sweep and options.sweep_size:
        raise ValueError("--sweep and --sweep-size: expected one of them")
    check_writable(options.out)
    model = load_model(options.model, output=options.output)
    check_layers(options, model, "content_layers", "style_layers")
    net, params = model.network
    content = model.read(options.content, longest=options.size)
    styles = [model.read(path, size=None) for path in options.styles]
    how = _style_options(options, model, content, styles)
    settings = settings_of(options, network=model.digest())
    run = functools.partial(jaxviz.stylize, net, params, jax.random.key(options.seed), content, styles, **how)
    at = options.out / f"{file_name('-'.join(path.stem for path in (options.content, *options.styles)))}-style"
    if not (options.sweep or options.sweep_size):
        print(save_as_it_comes(run, at, settings, options))
        return
    option = "style_weights" if options.sweep else "style_size"
    values = options.sweep or options.sweep_size
    for value in values:
        each = functools.partial(run, **{option: value})
        print(save_as_it_comes(each, Path(f"{at}-{value:g}"), settings | {option: value}, options), flush=True)
    row = [jaxviz.load_image(f"{at}-{value:g}.png") for value in values]
    jaxviz.save_image(f"{at}-sweep.png", jaxviz.montage(row, columns=len(row)))
    print(f"{at}-sweep.png: {option} {', '.join(f'{value:g}' for value in values)}")


def _style_options(options: Style, model: Model, content: jax.Array, styles: Sequence[jax.Array]) -> dict[str, Any]:
    """Return the options as `stylize` takes them: files are read, and resized to the image that they belong to."""
    names = ("content_weight", "content_layers", "style_layers", "style_size", "colors", "start")
    how = {name: getattr(options, name) for name in names} | _octaves(options)
    how["style_layers"] = _weighted(options.style_layers, STYLE_LAYERS)
    weights = options.style_weights
    if weights:
        how["style_weights"] = weights[0] if len(weights) == 1 else list(weights)
    if Path(options.start).is_file():
        start = model.read(options.start, size=None)
        how["start"] = jnp.clip(jaxviz.resize(start, (content.shape[0], content.shape[1])), 0, 1)
    if options.masks:
        how["masks"] = _masks("masks", options.masks, [content] * len(styles))
    if options.style_masks:
        how["style_masks"] = _masks("style-masks", options.style_masks, styles)
    return how


def _masks(option: str, paths: Sequence[Path], images: Sequence[jax.Array]) -> list[jax.Array]:
    if len(paths) != len(images):
        raise ValueError(f"--{option}: expected one for each of {len(images)} styles, got {len(paths)}")
    return [_mask(path, image.shape[:2]) for path, image in zip(paths, images, strict=True)]


def _mask(path: Path, size: tuple[int, ...]) -> jax.Array:
    """Return a picture's brightness, at a size."""
    return jnp.clip(jaxviz.resize(jaxviz.load_image(path), (size[0], size[1])), 0, 1).mean(-1)
